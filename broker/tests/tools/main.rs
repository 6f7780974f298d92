//! The operator's commands on what a real broker left: with its own stores, and with a real bucket and a real etcd.
#![allow(clippy::unwrap_used)] // Helpers of tests: a panic is how a test fails.
#![allow(dead_code)] // Some of what the tests of a serving broker need.

mod advice;
mod bad_batches;
#[path = "../e2e/client.rs"]
mod client;
mod damage;
mod leftovers;
mod met_later;
mod rebuild;
mod second_reader;
mod setup;
#[path = "../e2e/support.rs"]
mod support;
#[path = "../e2e/unpacked.rs"]
mod unpacked;
