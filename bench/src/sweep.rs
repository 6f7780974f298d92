//! The highest rate that still holds.
//!
//! A rate holds if as much is acknowledged as was due, and records wait no longer than allowed: for their acknowledgement,
//! and for being sent. Rates go up by a factor until one breaks, and then halve the distance between the last that held
//! and the first that broke.

use crate::client::BenchError;
use crate::load;
use crate::options::Options;
use crate::report::{per_second, Report};
use std::fmt::Write;

/// Where to look, and what must hold. Rates are those of `--rate`, which is not used itself.
#[derive(Debug, Clone, clap::Args)]
pub struct SweepOptions {
    /// The load at each rate; `--seconds` and `--warmup-s` are those of one step.
    #[command(flatten)]
    pub load: Options,
    /// The first rate, in records per second.
    #[arg(long, default_value_t = 5_000, value_parser = clap::value_parser!(u64).range(1..))]
    pub rate_from: u64,
    /// No rate above this is tried.
    #[arg(long, default_value_t = 10_000_000)]
    pub rate_to: u64,
    /// By how much the rate goes up from one step to the next.
    #[arg(long, default_value_t = 1.6)]
    pub factor: f64,
    /// It is close enough if the rate that broke is so much of the rate that held.
    #[arg(long, default_value_t = 1.1)]
    pub close: f64,
    /// Steps at most.
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..=200))]
    pub steps_max: u32,
    /// A rate breaks if the p99 from when a record was due to its acknowledgement is longer, in milliseconds.
    #[arg(long, default_value_t = 100.0)]
    pub p99_ms_max: f64,
    /// A rate breaks if the p99 from when a record was due to when it was sent is longer, in milliseconds.
    #[arg(long, default_value_t = 50.0)]
    pub delay_ms_max: f64,
}

/// The part of what was due that must be acknowledged in the time that counts.
const ACKNOWLEDGED_MIN: f64 = 0.98;

/// What is known of rates so far.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Search {
    to: u64,
    factor: f64,
    close: f64,
    held: Option<u64>,
    broke: Option<u64>,
}

impl Search {
    fn note(&mut self, rate: u64, holds: bool) {
        if holds {
            self.held = Some(rate);
        } else {
            self.broke = Some(rate);
        }
    }

    /// The rate to try after `last`; none if the knee is found, or there is none.
    fn next(&self, last: u64) -> Option<u64> {
        let next = match (self.held, self.broke) {
            (None, None) => last,
            (Some(held), None) => ((held as f64 * self.factor).ceil() as u64).min(self.to),
            // Even the first was too much.
            (None, Some(broke)) => (broke as f64 / self.factor) as u64,
            (Some(held), Some(broke)) if broke as f64 <= held as f64 * self.close => return None,
            (Some(held), Some(broke)) => held + (broke - held) / 2,
        };
        (next > 0 && Some(next) != self.held && Some(next) != self.broke).then_some(next)
    }
}

/// Tries rates, and says which one is the last that holds.
///
/// # Errors
/// If a connection fails, the broker refuses, or the options make no sense.
pub fn run(options: &SweepOptions) -> Result<String, BenchError> {
    if options.factor <= 1.0 || options.close <= 1.0 {
        return Err(BenchError::Options("--factor and --close must be above 1".to_string()));
    }
    let mut search = Search {
        to: options.rate_to,
        factor: options.factor,
        close: options.close,
        held: None,
        broke: None,
    };
    let mut out = format!(
        "{:>10} {:>12} {:>9} {:>10} {:>10} {:>10} {:>12} {:>8} {:>10}  {}\n",
        "rate", "acknowledged", "MB/s", "p50 ms", "p99 ms", "p99.9 ms", "delay p99 ms", "cores", "core-s/GB", "holds"
    );
    let mut rate = options.rate_from;
    for _ in 0..options.steps_max {
        let report = load::run(&Options {
            rate,
            ..options.load.clone()
        })?;
        let broken = broken(options, &report);
        eprintln!("{rate} records/s: {}", broken.as_deref().unwrap_or("holds"));
        out += &row(&report, broken.as_deref());
        search.note(rate, broken.is_none());
        match search.next(rate) {
            Some(next) => rate = next,
            None => break,
        }
    }
    // Writing to a string does not fail.
    let _ = match search.held {
        Some(held) => writeln!(out, "the highest rate that held: {held} records/s"),
        None => writeln!(out, "no rate held"),
    };
    Ok(out)
}

/// Why the rate does not hold; none if it does.
fn broken(options: &SweepOptions, report: &Report) -> Option<String> {
    let part = per_second(report.produced.records, report.measured) / report.options.rate as f64;
    let delay_ms = report.produced.delay.value_at_quantile(0.99) as f64 / 1e6;
    if part < ACKNOWLEDGED_MIN {
        return Some(format!("{:.0}% acknowledged", part * 100.0));
    }
    if delay_ms > options.delay_ms_max {
        return Some(format!("sent {delay_ms:.0} ms late"));
    }
    let p99_ms = report.publish_ms(0.99);
    (p99_ms > options.p99_ms_max).then(|| format!("p99 above {} ms", options.p99_ms_max))
}

fn row(report: &Report, broken: Option<&str>) -> String {
    let (cores, per_gb) = match report.broker {
        Some(broker) => (
            format!("{:.2}", broker.cores_busy(report.measured)),
            format!("{:.2}", report.core_seconds_per_gb().unwrap_or(f64::NAN)),
        ),
        None => ("-".to_string(), "-".to_string()),
    };
    format!(
        "{:>10} {:>12.0} {:>9.1} {:>10.3} {:>10.3} {:>10.3} {:>12.3} {:>8} {:>10}  {}\n",
        report.options.rate,
        per_second(report.produced.records, report.measured),
        per_second(report.produced.bytes, report.measured) / 1e6,
        report.publish_ms(0.5),
        report.publish_ms(0.99),
        report.publish_ms(0.999),
        report.produced.delay.value_at_quantile(0.99) as f64 / 1e6,
        cores,
        per_gb,
        broken.map_or("yes".to_string(), |why| format!("no: {why}")),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The rates tried, and the last that held, if all up to `knee` hold.
    fn search(from: u64, to: u64, knee: u64) -> (Vec<u64>, Option<u64>) {
        let mut search = Search {
            to,
            factor: 2.0,
            close: 1.1,
            held: None,
            broke: None,
        };
        let (mut rate, mut tried) = (from, Vec::new());
        while tried.len() < 100 {
            tried.push(rate);
            search.note(rate, rate <= knee);
            match search.next(rate) {
                Some(next) => rate = next,
                None => break,
            }
        }
        (tried, search.held)
    }

    #[test]
    fn it_doubles_until_it_breaks_and_then_closes_in() {
        let (tried, held) = search(1_000, 1_000_000, 6_500);
        assert_eq!(tried, [1_000, 2_000, 4_000, 8_000, 6_000, 7_000, 6_500]);
        assert_eq!(held, Some(6_500));
    }

    #[test]
    fn it_ends_at_the_highest_rate_allowed() {
        assert_eq!(
            search(1_000, 3_000, 1_000_000),
            (vec![1_000, 2_000, 3_000], Some(3_000))
        );
    }

    #[test]
    fn it_goes_down_if_the_first_rate_is_too_much() {
        let (tried, held) = search(8_000, 1_000_000, 1_950);
        assert_eq!(tried[..4], [8_000, 4_000, 2_000, 1_000]);
        assert!(held.is_some_and(|held| held <= 1_950 && held > 1_750), "{held:?}");
    }

    #[test]
    fn it_gives_up_if_nothing_holds() {
        let (tried, held) = search(1_000, 1_000_000, 0);
        assert_eq!((tried.last(), held), (Some(&1), None));
    }
}
