//! Bytes to Kafka types and back: no async, no clock, no IO.

pub mod types;
