//! The same load with records of different sizes.

use crate::client::BenchError;
use crate::load;
use crate::options::Options;
use crate::report::per_second;
use std::fmt::Write;

/// Which sizes.
#[derive(Debug, Clone, clap::Args)]
pub struct SizesOptions {
    /// The load with each size; `--rate` counts records, whatever their size, and a batch has at least one.
    #[command(flatten)]
    pub load: Options,
    /// Bytes of a record's value, one load for each.
    #[arg(long, value_delimiter = ',', default_value = "10,100,1024,10240,102400,1000000")]
    pub sizes: Vec<usize>,
}

/// Runs the loads, one after the other, each on topics of its own.
///
/// # Errors
/// If a connection fails, or the broker refuses, also because a record is too large for it.
pub fn run(options: &SizesOptions) -> Result<String, BenchError> {
    if options.load.payload_file.is_some() {
        return Err(BenchError::Options("the size of a file cannot be varied".to_string()));
    }
    let mut out = format!(
        "{:>12}{:>14}{:>10}{:>12}{:>10}{:>10}{:>10}{:>12}\n",
        "record bytes", "records/s", "MB/s", "requests/s", "p50 ms", "p99 ms", "p99.9 ms", "core-s/GB"
    );
    for size in &options.sizes {
        let report = load::run(&Options {
            record_bytes: *size,
            topic: format!("{}-{size}-bytes", options.load.topic),
            ..options.load.clone()
        })?;
        eprintln!("{size} bytes done");
        // Writing to a string does not fail.
        let _ = writeln!(
            out,
            "{size:>12}{:>14.0}{:>10.1}{:>12.0}{:>10.3}{:>10.3}{:>10.3}{:>12.2}",
            per_second(report.produced.records, report.measured),
            per_second(report.produced.bytes, report.measured) / 1e6,
            per_second(report.produced.requests, report.measured),
            report.publish_ms(0.5),
            report.publish_ms(0.99),
            report.publish_ms(0.999),
            report.core_seconds_per_gb().unwrap_or(f64::NAN),
        );
    }
    Ok(out)
}
