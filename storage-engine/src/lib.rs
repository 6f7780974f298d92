//! Partition logs, write-ahead objects, segments and object stores.

pub mod object_store;
