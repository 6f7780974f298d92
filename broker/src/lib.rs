//! The Kafscale broker.

pub mod assembly;
pub mod broker_config;
pub mod budget;
pub mod cluster;
pub mod connection;
pub mod coordinator;
pub mod data_dir;
pub mod executors;
pub mod handlers;
pub mod http;
pub mod listener;
pub mod logging;
pub mod mailbox;
pub mod metrics;
pub mod node;
pub mod planted;
pub mod quarantine;
pub mod runtime;
pub mod server;
pub mod settings;
pub mod shard;
pub mod shutdown;
pub mod status;
pub mod stores;
pub mod tools;
pub mod topic_config;
