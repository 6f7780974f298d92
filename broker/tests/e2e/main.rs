//! The broker as a process: what it answers to bad input, what it survives, what it promises through kills.
//!
//! Everything here starts the real binary and speaks Kafka's protocol to it over a socket.
#![allow(clippy::unwrap_used)] // Helpers of tests: a panic is how a test fails.

mod bad_batches;
mod bad_frames;
mod client;
mod failing_disk;
mod fetch_sessions;
mod full_disk;
mod hostile;
mod kafkas_answers;
mod kafkas_ways;
mod kill;
mod memory;
mod reading;
mod startup;
mod support;
mod unpacked;
