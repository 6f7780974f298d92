//! Deterministic simulation: the real code above the seams, on one thread, from a seed.
//!
//! `make sim SEEDS=10000` runs so many seeds; `make sim SEED=n` runs one again, byte for byte, and `RUST_LOG=info` says
//! what happens in it.

mod away;
mod checkers;
mod client;
mod cluster;
mod content;
mod executor;
mod faults;
mod foreign;
mod late;
mod legacy;
mod members;
mod nemesis;
mod net;
#[cfg(feature = "planted-bugs")]
mod planted;
mod random;
mod replacing;
mod scenario;
mod session;
mod sleeper;
mod switches;
mod topics;
mod workload;

use scenario::{run, Report};
use std::collections::BTreeMap;
use std::ops::Range;
use std::panic::{catch_unwind, AssertUnwindSafe};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use switches::Switches;

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
fn run_safely(seed: u64, switches: Switches) -> Report {
    catch_unwind(AssertUnwindSafe(|| run(seed, switches))).unwrap_or_else(|panic| {
        let what = panic
            .downcast_ref::<String>()
            .cloned()
            .or_else(|| panic.downcast_ref::<&str>().map(|text| text.to_string()))
            .unwrap_or_default();
        Report {
            violation: Some(format!("panic: {what}")),
            ..Report::default()
        }
    })
}

/// What all seeds came to.
#[derive(Default)]
struct Sum {
    seeds: u64,
    total: Report,
    failures: BTreeMap<u64, String>,
}

impl Sum {
    fn add(&mut self, seed: u64, report: Report) {
        self.seeds += 1;
        let total = &mut self.total;
        total.steps += report.steps;
        total.acknowledged += report.acknowledged;
        total.assigned += report.assigned;
        total.committed += report.committed;
        total.time += report.time;
        if let Some(violation) = report.violation {
            println!("seed {seed}: {violation}\n  replay: make sim SEED={seed}");
            self.failures.insert(seed, violation);
        }
    }
}

/// Runs seeds on all cores; each seed stays on one thread. Stops after ten that fail.
fn run_all(seeds: Range<u64>, switches: Switches) -> Sum {
    let (next, sum) = (AtomicU64::new(seeds.start), Mutex::new(Sum::default()));
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| loop {
                let seed = next.fetch_add(1, Ordering::Relaxed);
                if seed >= seeds.end || sum.lock().unwrap_or_else(PoisonError::into_inner).failures.len() >= 10 {
                    return;
                }
                let report = run_safely(seed, switches);
                sum.lock().unwrap_or_else(PoisonError::into_inner).add(seed, report);
            });
        }
    });
    sum.into_inner().unwrap_or_else(PoisonError::into_inner)
}

#[test]
fn every_promise_holds_in_every_seed() {
    start_logging();
    let seeds = match number("SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..number("SEEDS").unwrap_or(SEEDS),
    };
    let began = std::time::Instant::now();
    let Sum { seeds, total, failures } = run_all(seeds, Switches::from_environment());
    let elapsed = began.elapsed().as_secs_f64();
    println!(
        "simulation: {seeds} seeds in {elapsed:.1} s ({:.1} a second), {} steps, {} records acknowledged, {} partitions \
         assigned to members of groups, {} commits stored, {:?} of simulated time, {} failed",
        seeds as f64 / elapsed,
        total.steps,
        total.acknowledged,
        total.assigned,
        total.committed,
        total.time,
        failures.len()
    );
    assert!(failures.is_empty(), "seeds that fail: {:?}", failures.keys());
}

#[test]
fn the_same_seed_is_the_same_run() {
    let run = |seed| run(seed, Switches::STANDARD);
    for seed in [1, 7, 23] {
        assert_eq!(run(seed), run(seed), "seed {seed}");
    }
    assert_ne!(run(1).trace, run(2).trace);
}
