//! What is kept of a run: figures for programs, histograms for other tools, a page for people.

mod html;
mod machine;

use crate::client::BenchError;
use crate::report::Report;
use crate::rounds::{summary, Spread};
use hdrhistogram::Histogram;
use std::fmt::Write;
use std::path::Path;

/// Writes run.json, report.html and, for each round and histogram that has entries, a .hgrm file.
///
/// # Errors
/// If the directory cannot be made or written.
pub fn write(directory: &Path, reports: &[Report]) -> Result<(), BenchError> {
    std::fs::create_dir_all(directory)?;
    let about = machine::about();
    std::fs::write(directory.join("run.json"), json(&about, reports))?;
    std::fs::write(directory.join("report.html"), html::page(&about, reports))?;
    for (round, report) in reports.iter().enumerate() {
        for (name, histogram) in report.histograms() {
            if !histogram.is_empty() {
                let file = format!("round-{}-{name}.hgrm", round + 1);
                std::fs::write(directory.join(file), hgrm(histogram))?;
            }
        }
    }
    Ok(())
}

fn json(about: &[(&str, String)], reports: &[Report]) -> String {
    let about = about
        .iter()
        .map(|(name, value)| format!("\"{name}\":{}", quoted(value)));
    let rounds: Vec<String> = reports
        .iter()
        .map(|report| {
            format!(
                "{{\"figures\":{},\"records_by_second\":{:?}}}",
                report.json(),
                report.produced.by_second
            )
        })
        .collect();
    let summary: Vec<String> = summary(reports)
        .iter()
        .map(|(name, Spread { median, least, most })| {
            format!("\"{name}\":{{\"median\":{median:.3},\"least\":{least:.3},\"most\":{most:.3}}}")
        })
        .collect();
    format!(
        "{{{},\n\"rounds\":[\n{}\n],\n\"summary\":{{\n{}\n}}}}\n",
        about.collect::<Vec<_>>().join(",\n"),
        rounds.join(",\n"),
        summary.join(",\n")
    )
}

/// A JSON string.
fn quoted(text: &str) -> String {
    let mut out = String::from("\"");
    for char in text.chars() {
        match char {
            '"' | '\\' => out.extend(['\\', char]),
            // Writing to a string does not fail.
            control if control < ' ' => drop(write!(out, "\\u{:04x}", control as u32)),
            other => out.push(other),
        }
    }
    out + "\""
}

/// The percentile distribution in the text form that HdrHistogram's plotters read; values in milliseconds.
fn hgrm(histogram: &Histogram<u64>) -> String {
    let mut out = format!(
        "{:>12} {:>14} {:>10} {:>14}\n\n",
        "Value", "Percentile", "TotalCount", "1/(1-Percentile)"
    );
    let mut total = 0;
    for step in histogram.iter_quantiles(5) {
        total += step.count_since_last_iteration();
        let (value, quantile) = (step.value_iterated_to() as f64 / 1e6, step.quantile_iterated_to());
        // Writing to a string does not fail.
        let _ = write!(out, "{value:>12.6} {quantile:>14.12} {total:>10}");
        let _ = match quantile < 1.0 {
            true => writeln!(out, " {:>14.2}", 1.0 / (1.0 - quantile)),
            false => writeln!(out),
        };
    }
    let _ = writeln!(
        out,
        "#[Mean    = {:>12.6}, StdDeviation   = {:>12.6}]\n#[Max     = {:>12.6}, Total count    = {:>12}]\n#[Buckets = {:>12}, SubBuckets     = {:>12}]",
        histogram.mean() / 1e6,
        histogram.stdev() / 1e6,
        histogram.max() as f64 / 1e6,
        histogram.len(),
        histogram.buckets(),
        2048
    );
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::producer::new_histogram;

    #[test]
    fn quotes_and_control_characters_are_escaped() {
        assert_eq!(quoted("a\"b\\c\nd"), r#""a\"b\\c\u000ad""#);
    }

    #[test]
    fn a_distribution_ends_with_all_entries_at_the_largest() {
        let mut histogram = new_histogram();
        for ms in 1..=100 {
            histogram.saturating_record(ms * 1_000_000);
        }
        let text = hgrm(&histogram);
        let last = text.lines().rfind(|line| !line.starts_with('#')).unwrap();
        let fields: Vec<&str> = last.split_whitespace().collect();
        assert!(fields[0].starts_with("100.0"), "{last}");
        assert_eq!(fields[1..], ["1.000000000000", "100"]);
    }
}
