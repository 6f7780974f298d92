//! What the machine can do at most: loopback, memory, checksums, disk. A broker cannot be better than this.

mod disk;
mod memory;
mod network;

use crate::client::BenchError;
use indexmap::IndexMap;
use rustix::thread::{sched_getaffinity, sched_setaffinity, CpuSet};
use rustix::time::{clock_gettime, ClockId};
use std::fmt::Write;
use std::path::PathBuf;
use std::time::Duration;

/// Where, and how long.
#[derive(Debug, Clone, clap::Args)]
pub struct LimitsOptions {
    /// The directory whose disk is measured; what is written there is removed.
    #[arg(long, default_value = ".")]
    pub dir: PathBuf,
    /// Milliseconds for each of the measurements that take a time rather than an amount.
    #[arg(long, default_value_t = 1_000, value_parser = clap::value_parser!(u64).range(10..=60_000))]
    pub each_ms: u64,
    /// How often each write is synced for its percentiles.
    #[arg(long, default_value_t = 200, value_parser = clap::value_parser!(u64).range(1..=100_000))]
    pub syncs: u64,
    /// MiB of each sequential write.
    #[arg(long, default_value_t = 512, value_parser = clap::value_parser!(u64).range(1..=1_000_000))]
    pub write_mib: u64,
    /// One line of JSON instead of text.
    #[arg(long)]
    pub json: bool,
}

/// Figures and their names; the unit is the end of the name.
type Limits = IndexMap<String, f64>;

/// Measures one after the other.
///
/// # Errors
/// If there is no such directory, or the machine refuses; not if only O_DIRECT is refused, which is said on stderr.
pub fn run(options: &LimitsOptions) -> Result<String, BenchError> {
    let each = Duration::from_millis(options.each_ms);
    let mut limits = Limits::new();
    memory::measure(each, &mut limits);
    network::measure(each, &mut limits)?;
    disk::measure(&options.dir, options.syncs, options.write_mib, &mut limits)?;
    if options.json {
        return Ok(serde_json::to_string(&limits)? + "\n");
    }
    let mut out = String::new();
    for (name, value) in limits {
        let _ = writeln!(out, "{name:<48}{value:>14.3}"); // Writing to a string does not fail.
    }
    Ok(out)
}

/// The cores that this process may use.
fn cores() -> Result<Vec<usize>, BenchError> {
    let allowed = sched_getaffinity(None).map_err(std::io::Error::from)?;
    Ok((0..CpuSet::MAX_CPU).filter(|core| allowed.is_set(*core)).collect())
}

/// Holds the calling thread on a core.
fn hold_on(core: usize) -> Result<(), BenchError> {
    let mut only = CpuSet::new();
    only.set(core);
    Ok(sched_setaffinity(None, &only).map_err(std::io::Error::from)?)
}

/// CPU time of this process, all threads together.
fn cpu_time() -> Duration {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    Duration::new(time.tv_sec.unsigned_abs(), time.tv_nsec.unsigned_abs() as u32)
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(clap::Parser)]
    struct Line {
        #[command(flatten)]
        limits: LimitsOptions,
    }

    #[test]
    fn everything_is_measured_and_nothing_is_left() {
        let directory = std::env::temp_dir().join(format!("kafscale-bench-limits-{}", std::process::id()));
        std::fs::create_dir_all(&directory).unwrap();
        let dir = directory.display().to_string();
        let words = [
            "",
            "--dir",
            &dir,
            "--each-ms",
            "20",
            "--syncs",
            "3",
            "--write-mib",
            "2",
            "--json",
        ];
        let json = run(&Line::parse_from(words).limits).unwrap();
        let left = std::fs::read_dir(&directory).unwrap().count();
        std::fs::remove_dir_all(&directory).unwrap();
        let limits: Limits = serde_json::from_str(&json).unwrap();
        for name in [
            "memory_copy_gb_per_s",
            "crc32c_gb_per_s",
            "loopback_1_core_mb_per_s",
            "loopback_1_core_core_s_per_gb",
            "loopback_1_core_requests_per_s",
            "loopback_1_core_32_in_flight_requests_per_s",
            "sync_4_kib_p50_ms",
            "sync_1_mib_p99_ms",
            "sync_rename_sync_dir_4_kib_p50_ms",
            "sync_rename_sync_dir_1_mib_p99_ms",
            "write_buffered_mb_per_s",
            "write_buffered_core_s_per_gb",
        ] {
            assert!(limits.get(name).is_some_and(|value| *value > 0.0), "{name} {json}");
        }
        assert!(limits["sync_4_kib_p50_ms"] <= limits["sync_4_kib_p99_ms"]);
        assert_eq!(left, 0);
    }

    #[test]
    fn a_thread_stays_on_the_core_that_it_is_held_on() {
        let core = *cores().unwrap().last().unwrap();
        let held = std::thread::spawn(move || {
            hold_on(core).unwrap();
            cores().unwrap()
        });
        assert_eq!(held.join().unwrap(), [core]);
    }
}
