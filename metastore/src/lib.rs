//! Cluster metadata: keys, values, transactions.
//!
//! [`store`] is the seam, [`keys`] the layout; [`topics`], [`partitions`], [`streams`], [`brokers`], [`counters`] and
//! [`cluster`] are what the broker does with them.

pub mod brokers;
pub mod cluster;
#[cfg(any(test, feature = "testing"))]
pub mod contract;
pub mod counters;
pub mod embedded;
pub mod etcd;
pub mod faulty;
pub mod group_configs;
mod history;
pub mod keys;
pub mod memory;
#[cfg(test)]
mod model_tests;
pub mod operation;
pub mod partitions;
pub mod planted;
mod request;
mod state;
pub mod store;
pub mod streams;
pub mod topics;

pub use operation::{Listing, OperationError, Versioned};
pub use store::*;
