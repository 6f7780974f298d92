//! Bytes to Kafka types and back: no async, no clock, no IO.

pub mod api;
pub mod compression;
pub mod crc;
pub mod error_code;
pub mod frame;
pub mod legacy;
pub mod messages;
pub mod record_batch;
#[cfg(feature = "testing")]
pub mod testing;
pub mod types;
pub mod wire;
