//! The Kafscale broker.

pub mod data_dir;
pub mod executors;
pub mod listener;
pub mod logging;
pub mod runtime;
pub mod settings;
pub mod shutdown;
