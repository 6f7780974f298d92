//! The Kafscale broker.

pub mod runtime;
