//! The etcd metastore against real etcd processes that are killed, stopped, cut off and restarted.

// The lint exempts test functions, not the helpers beside them.
#![allow(clippy::unwrap_used)]

mod certificates;
mod contract;
mod failover;
mod kills;
mod lost_answers;
mod rates;
mod security;
mod support;
mod watches;
