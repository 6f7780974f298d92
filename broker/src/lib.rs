//! The Kafscale broker.

pub mod runtime;
pub mod settings;
