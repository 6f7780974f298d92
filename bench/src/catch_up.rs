//! What producers notice of a consumer that reads a backlog at full speed.
//!
//! A backlog is written. Then producers go on at a fixed rate, first alone, then beside consumers that read the backlog
//! from its start, again and again, so that they read for as long as it is measured.

use crate::client::BenchError;
use crate::load::{run_as, Reading};
use crate::options::Options;
use crate::report::{per_second, Report};
use std::fmt::Write;
use std::time::Duration;

/// How large the backlog is, and how often it is done.
#[derive(Debug, Clone, clap::Args)]
pub struct CatchUpOptions {
    /// The load of producers and consumers; it needs a `--rate`.
    #[command(flatten)]
    pub load: Options,
    /// Size of the backlog in MB (10⁶ bytes of values); so large that no cache holds it, if it is to be read cold.
    #[arg(long, default_value_t = 1_000)]
    pub backlog_mb: u64,
    /// Seconds that the broker gets to come to rest when the backlog is written.
    #[arg(long, default_value_t = REST_S)]
    pub rest_s: u64,
}

/// How long a broker gets to come to rest, unless something else is said.
pub const REST_S: u64 = 10;
/// The longest that writing the backlog may take, in seconds.
const FILL_SECONDS_MAX: u64 = 600;
/// What producers send at once to write the backlog.
const FILL_BATCH_BYTES: usize = 262_144;

/// Writes the backlog and measures without and with reading it.
///
/// # Errors
/// If a connection fails, the broker refuses, or there is no rate.
pub fn run(options: &CatchUpOptions) -> Result<String, BenchError> {
    if options.load.rate == 0 || options.load.consumers == 0 {
        return Err(BenchError::Options(
            "catch-up needs a --rate, and consumers".to_string(),
        ));
    }
    let fill = Options {
        rate: 0,
        consumers: 0,
        idle_connections: 0,
        batch_bytes: FILL_BATCH_BYTES.max(options.load.batch_bytes),
        warmup_s: 0,
        seconds: FILL_SECONDS_MAX,
        ..options.load.clone()
    };
    let filled = run_as(&fill, Reading::Along, Some(options.backlog_mb * 1_000_000))?;
    if filled.produced.bytes < options.backlog_mb * 1_000_000 {
        let what = format!("the backlog was not written within {FILL_SECONDS_MAX} s");
        return Err(BenchError::Unexpected(what));
    }
    eprintln!("backlog: {} MB", filled.produced.bytes / 1_000_000);
    std::thread::sleep(Duration::from_secs(options.rest_s));
    let alone = Options {
        consumers: 0,
        ..options.load.clone()
    };
    let alone = run_as(&alone, Reading::Along, None)?;
    let beside = run_as(&options.load, Reading::Backlog, None)?;
    Ok(text(options, &alone, &beside))
}

fn text(options: &CatchUpOptions, alone: &Report, beside: &Report) -> String {
    let mut out = format!(
        "backlog of {} MB, {} records/s of {} bytes meanwhile, {} s each\n{:<22}{:>10}{:>10}{:>10}{:>14}{:>14}{:>12}\n",
        options.backlog_mb,
        options.load.rate,
        alone.options.record_bytes,
        options.load.seconds,
        "acknowledged after",
        "p50 ms",
        "p99 ms",
        "p99.9 ms",
        "produced MB/s",
        "consumed MB/s",
        "cores busy"
    );
    for (name, report) in [("without reading", alone), ("while it is read", beside)] {
        let cores = report
            .broker
            .map_or(f64::NAN, |broker| broker.cores_busy(report.measured));
        // Writing to a string does not fail.
        let _ = writeln!(
            out,
            "{name:<22}{:>10.3}{:>10.3}{:>10.3}{:>14.1}{:>14.1}{cores:>12.2}",
            report.publish_ms(0.5),
            report.publish_ms(0.99),
            report.publish_ms(0.999),
            per_second(report.produced.bytes, report.measured) / 1e6,
            per_second(report.consumed.bytes, report.measured) / 1e6,
        );
    }
    let ratio = beside.publish_ms(0.99) / alone.publish_ms(0.99);
    let _ = writeln!(out, "p99 with reading is {ratio:.2} times that without");
    out
}
