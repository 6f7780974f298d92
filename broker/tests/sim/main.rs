//! Deterministic simulation: the real code above the seams, on one thread, from a seed.
//!
//! `make sim SEEDS=10000` runs so many seeds; `make sim SEED=n` runs one again, byte for byte, and `RUST_LOG=info` says
//! what happens in it.

mod checkers;
mod client;
mod cluster;
mod executor;
mod faults;
mod members;
mod nemesis;
mod net;
#[cfg(feature = "planted-bugs")]
mod planted;
mod random;
mod scenario;
mod session;
mod workload;

use scenario::{run, Report};
use std::panic::{catch_unwind, AssertUnwindSafe};

/// Seeds of a plain `cargo test`.
const SEEDS: u64 = 200;

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().and_then(|text| text.parse().ok())
}

/// Only what `RUST_LOG` asks for: nearly everything that a broker warns of happens here.
fn start_logging() {
    let mut builder = env_logger::builder();
    if std::env::var_os("RUST_LOG").is_none() {
        builder.filter_level(log::LevelFilter::Off);
    }
    // Another test may have been first.
    let _ = builder.try_init();
}

/// Runs a seed; a panic of the broker is a broken promise too.
fn run_safely(seed: u64) -> Report {
    catch_unwind(AssertUnwindSafe(|| run(seed))).unwrap_or_else(|panic| {
        let what = panic
            .downcast_ref::<String>()
            .cloned()
            .or_else(|| panic.downcast_ref::<&str>().map(|text| text.to_string()))
            .unwrap_or_default();
        Report {
            trace: 0,
            steps: 0,
            acknowledged: 0,
            assigned: 0,
            committed: 0,
            time: std::time::Duration::ZERO,
            violation: Some(format!("panic: {what}")),
        }
    })
}

#[test]
fn every_promise_holds_in_every_seed() {
    start_logging();
    let seeds = match number("SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..number("SEEDS").unwrap_or(SEEDS),
    };
    let count = seeds.end - seeds.start;
    let (mut steps, mut acknowledged, mut time) = (0, 0, std::time::Duration::ZERO);
    let (mut assigned, mut committed) = (0, 0);
    let mut failures = Vec::new();
    for seed in seeds {
        let report = run_safely(seed);
        steps += report.steps;
        acknowledged += report.acknowledged;
        assigned += report.assigned;
        committed += report.committed;
        time += report.time;
        if let Some(violation) = report.violation {
            println!("seed {seed}: {violation}\n  replay: make sim SEED={seed}");
            failures.push(seed);
            if failures.len() >= 10 {
                break;
            }
        }
    }
    println!(
        "simulation: {count} seeds, {steps} steps, {acknowledged} records acknowledged, {assigned} partitions assigned to \
         members of groups, {committed} commits stored, {time:?} of simulated time, {} failed",
        failures.len()
    );
    assert!(failures.is_empty(), "seeds that fail: {failures:?}");
}

#[test]
fn the_same_seed_is_the_same_run() {
    for seed in [1, 7, 23] {
        assert_eq!(run(seed), run(seed), "seed {seed}");
    }
    assert_ne!(run(1).trace, run(2).trace);
}
