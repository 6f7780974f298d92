//! Partition logs, write-ahead objects, segments and object stores.

pub mod cache;
pub mod catalog;
pub mod object_store;
pub mod partition_log;
pub mod pending_acks;
pub mod producer_state;
pub mod segment;
pub mod wal;
