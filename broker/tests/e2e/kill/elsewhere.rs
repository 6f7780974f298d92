//! The kills with the records in an S3 server that is not ours, and with etcd: `make second-s3` starts the server.

use super::{campaign, rounds_and_seed, Totals, SETTINGS};
use crate::support::Launch;
use std::process::Command;
use std::time::Instant;

fn told(name: &str) -> String {
    std::env::var(name).unwrap_or_else(|_| panic!("{name} is not set: see `make second-s3`"))
}

#[test]
#[ignore = "needs another S3 server: make second-s3"]
fn what_was_acknowledged_survives_kills_on_another_s3_server() {
    let (rounds, seed) = rounds_and_seed();
    let started = Instant::now();
    let etcd = kafscale_test_etcd::Cluster::start(1);
    let directory = tempfile::tempdir().unwrap();
    let mut totals = Totals::default();
    // The settings with small segments: all kinds of objects are made, merged, listed and deleted.
    let (settings, kill_after_ms) = SETTINGS[0];
    let namespace = format!("killed-{seed}");
    let launch = Launch::new(directory.path())
        .flags(&format!(
            "--namespace {namespace} --s3-bucket {}",
            told("TEST_S3_BUCKET")
        ))
        .flags(&format!("--s3-endpoint {}", told("TEST_S3_ENDPOINT")))
        .flags(&format!("--s3-access-key {}", told("TEST_S3_ACCESS_KEY")))
        .flags(&format!("--s3-secret-key {}", told("TEST_S3_SECRET_KEY")))
        .flags(&format!("--etcd-endpoints {}", etcd.endpoints().join(",")));
    campaign(&launch, seed, settings, kill_after_ms, rounds, &mut totals);
    println!(
        "kill: {rounds} rounds in {:.0} s: {} kills ({} while starting), {} records acknowledged, {} records read and compared; \
         nothing lost, changed, moved, doubled or out of order",
        started.elapsed().as_secs_f64(),
        totals.kills,
        totals.kills_while_starting,
        totals.acked,
        totals.consumed,
    );
    verify(&launch);
}

/// The operator's command finds everything sound.
fn verify(launch: &Launch) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_kafscale-broker"));
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("KAFSCALE_") {
            command.env_remove(name);
        }
    }
    let output = command.arg("verify").args(&launch.flags).output().unwrap();
    let (lines, errors) = (
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr),
    );
    println!("verify: {}", lines.lines().last().unwrap_or_default());
    assert!(
        output.status.success(),
        "verify ended with {}: {errors}\n{lines}",
        output.status
    );
}
