//! The operator as a process, against a real API server with its controllers.
//!
//! `make k8s` starts the servers and runs these; alone they have nothing to talk to, and are ignored. Each test has a
//! namespace of its own, which its operator is confined to, and the operator has the rights that `k8s/kustomize` gives.
#![allow(clippy::unwrap_used)] // Helpers of tests: a panic is how a test fails.

mod brokers;
#[path = "../../../../broker/tests/e2e/client.rs"]
#[allow(dead_code)] // Some of what the broker's own tests need.
mod client;
mod compose;
mod crashes;
mod etcd;
mod fields;
mod kubelet;
mod leaders;
mod life;
mod listeners;
mod nodes;
mod refusals;
mod topics;
mod world;

/// What the client asks for.
mod support {
    /// How long an answer may take.
    pub const PATIENCE: std::time::Duration = std::time::Duration::from_secs(20);
}
