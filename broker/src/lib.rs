//! The Kafscale broker.

pub mod cluster;
pub mod data_dir;
pub mod executors;
pub mod http;
pub mod listener;
pub mod logging;
pub mod mailbox;
pub mod metrics;
pub mod runtime;
pub mod settings;
pub mod shard;
pub mod shutdown;
pub mod topic_config;
