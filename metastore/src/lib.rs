//! Cluster metadata: keys, values, transactions.
//!
//! [`store`] is the seam, [`keys`] the layout; [`topics`], [`partitions`], [`streams`], [`brokers`], [`counters`] and
//! [`cluster`] are what the broker does with them.

pub mod brokers;
pub mod cluster;
pub mod counters;
pub mod keys;
pub mod operation;
pub mod partitions;
pub mod store;
pub mod streams;
pub mod topics;

pub use operation::{Listing, OperationError, Versioned};
pub use store::*;
