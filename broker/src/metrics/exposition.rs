//! Prometheus' text format, version 0.0.4.

use super::families::Kind;
use super::snapshot::{Series, Snapshot, Value};
use std::fmt::Write;

/// The page.
pub(super) fn text(snapshot: &Snapshot) -> String {
    let mut out = String::new();
    for series in snapshot.series.values() {
        write_series(&mut out, series).expect("a string takes whatever is written");
    }
    out
}

fn write_series(out: &mut String, series: &Series) -> std::fmt::Result {
    let family = series.family;
    writeln!(out, "# HELP {} {}", family.name, family.help)?;
    writeln!(out, "# TYPE {} {}", family.name, family.type_name())?;
    for (values, value) in &series.samples {
        let labels: Vec<String> = family
            .labels
            .iter()
            .zip(values)
            .map(|(name, value)| format!("{name}=\"{}\"", escape(value)))
            .collect();
        let labels = labels.join(",");
        match value {
            Value::Counter(count) => writeln!(out, "{}{} {count}", family.name, braces(&labels))?,
            Value::Gauge(number) => writeln!(out, "{}{} {number}", family.name, braces(&labels))?,
            Value::Histogram { bounds, counts, sum } => {
                let scale = if family.kind == Kind::SecondsHistogram {
                    1e6
                } else {
                    1.0
                };
                let separator = if labels.is_empty() { "" } else { "," };
                let mut cumulative = 0;
                for (bucket, count) in counts.iter().enumerate() {
                    cumulative += count;
                    let bound = bounds
                        .get(bucket)
                        .map_or("+Inf".to_owned(), |b| (*b as f64 / scale).to_string());
                    writeln!(
                        out,
                        "{}_bucket{{{labels}{separator}le=\"{bound}\"}} {cumulative}",
                        family.name
                    )?;
                }
                writeln!(out, "{}_sum{} {}", family.name, braces(&labels), *sum as f64 / scale)?;
                writeln!(out, "{}_count{} {cumulative}", family.name, braces(&labels))?;
            }
        }
    }
    Ok(())
}

fn braces(labels: &str) -> String {
    if labels.is_empty() {
        String::new()
    } else {
        format!("{{{labels}}}")
    }
}

fn escape(value: &str) -> String {
    value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}
