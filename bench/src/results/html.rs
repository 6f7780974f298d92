//! One page for people, complete in itself: runs side by side, percentile curves, throughput over time.
//!
//! Of one run the page compares its rounds; of several it compares the runs, whose rounds look alike.

use super::svg::{latency_chart, number, sample, time_chart, Line};
use super::{Run, HISTOGRAMS};
use crate::rounds::Spread;
use std::collections::BTreeSet;
use std::fmt::Write;

const STYLE: &str =
    "body{font:15px/1.5 system-ui,sans-serif;max-width:1060px;margin:2em auto;padding:0 1em;color:#1c1c1c}\
h1{font-size:1.5em}h2{margin-top:2em;font-size:1.15em}.w{overflow-x:auto}table{border-collapse:collapse}\
td,th{padding:.2em .9em .2em 0;text-align:left;vertical-align:top}td{overflow-wrap:anywhere}\
td.n,th.n{text-align:right;white-space:nowrap;overflow-wrap:normal;font-variant-numeric:tabular-nums}th.n{white-space:normal}\
.f th:first-child,.f td:first-child{position:sticky;left:0;background:#fff;min-width:7em;max-width:15em}\
.a th.n{min-width:6.5em}.k{font-size:13px;width:100%}.k td,.k th{padding-right:.6em}.k small{white-space:normal}small{color:#666;display:block;font-size:.8em}tr{border-bottom:1px solid #e5e5e5}\
svg.c{width:100%;height:auto;display:block}svg text{font-size:13px;fill:#444}.g{stroke:#e2e2e2}\
svg.s{width:28px;height:8px;margin-right:.5em;vertical-align:middle}\
.key{margin:.3em 0}.key span{display:inline-block;margin-right:1.6em}summary{cursor:pointer}\
@media print{.w{overflow:visible}}";

/// What the first table has of each run: figure, title, divisor, smallest digit.
const COLUMNS: [(&str, &str, f64, f64); 13] = [
    ("records_per_s", "records/s", 1.0, 1.0),
    ("bytes_per_s", "MB/s", 1e6, 0.1),
    ("publish_p50_ms", "p50 ms", 1.0, 0.01),
    ("publish_p99_ms", "p99 ms", 1.0, 0.1),
    ("publish_p99.9_ms", "p99.9 ms", 1.0, 0.1),
    ("end_to_end_p99_ms", "end to end p99 ms", 1.0, 0.1),
    ("broker_core_s_per_gb", "core\u{2011}s/GB", 1.0, 0.01),
    ("broker_resident_bytes", "memory MiB", 1_048_576.0, 1.0),
    ("puts_per_s", "PUT/s", 1.0, 0.1),
    ("put_mean_bytes", "KiB a PUT", 1_024.0, 1.0),
    ("put_bytes_per_byte", "put bytes per byte", 1.0, 0.01),
    ("broker_written_bytes_per_byte", "written bytes per byte", 1.0, 0.01),
    ("broker_syscalls_per_s", "system calls/s", 1.0, 1.0),
];

/// The page.
pub(super) fn page(runs: &[Run]) -> String {
    let mut out = format!(
        "<!doctype html><html lang=\"en\"><meta charset=\"utf-8\">\
         <meta name=\"viewport\" content=\"width=device-width\"><title>kafscale-bench</title><style>{STYLE}</style>\n\
         <h1>kafscale-bench</h1>\n"
    );
    out += &side_by_side(runs);
    let key = key(runs);
    for (at, (_, title)) in HISTOGRAMS.iter().enumerate() {
        let lines = lines(runs, |round| round.curves.get(at).cloned().unwrap_or_default());
        if !lines.is_empty() {
            let _ = writeln!(out, "<h2>{title}</h2>{key}{}", latency_chart(&lines));
        }
    }
    let over_time = lines(runs, |round| {
        let record_bytes = round.figures.get("record_bytes").copied().unwrap_or(0.0);
        let seconds = round.records_by_second.iter().zip(0u32..);
        seconds
            .map(|(records, second)| (f64::from(second), *records as f64 * record_bytes / 1e6))
            .collect()
    });
    if !over_time.is_empty() {
        let _ = writeln!(
            out,
            "<h2>Acknowledged over time, MB/s</h2>{key}{}",
            time_chart(&over_time)
        );
    }
    out += &all_figures(runs);
    out += &about(runs);
    out + "</html>\n"
}

/// The lines of all rounds that have points: each round is a series if there is one run, else each run.
fn lines(runs: &[Run], points: impl Fn(&super::Round) -> Vec<(f64, f64)>) -> Vec<Line> {
    let mut lines = Vec::new();
    for (number, run) in runs.iter().enumerate() {
        for (round, of_round) in run.rounds.iter().enumerate() {
            let series = if runs.len() == 1 { round } else { number };
            lines.push(Line {
                series,
                points: points(of_round),
            });
        }
    }
    lines.retain(|line| !line.points.is_empty());
    lines
}

/// What the series are called; nothing if there is only one.
fn key(runs: &[Run]) -> String {
    let names: Vec<String> = match runs {
        [run] => (1..=run.rounds.len()).map(|round| format!("round {round}")).collect(),
        runs => runs.iter().map(|run| escaped(&run.name)).collect(),
    };
    if names.len() < 2 {
        return String::new();
    }
    let spans = names.iter().enumerate();
    let spans: String = spans
        .map(|(series, name)| format!("<span>{}{name}</span> ", sample(series)))
        .collect();
    format!("<div class=key>{spans}</div>")
}

/// A row for each run, with the figures that people look at first.
fn side_by_side(runs: &[Run]) -> String {
    let has = |figure: &str| runs.iter().any(|run| run.summary.contains_key(figure));
    let columns: Vec<_> = COLUMNS.iter().filter(|(figure, ..)| has(figure)).collect();
    let mut out = "<div class=w><table class=\"f k\"><tr><th>run".to_string();
    for (_, title, ..) in &columns {
        let _ = write!(out, "<th class=n>{title}"); // Writing to a string does not fail.
    }
    for run in runs {
        let _ = write!(out, "<tr><td>{}", escaped(&run.name));
        for (figure, _, divisor, step) in &columns {
            out += &cell(run.summary.get(*figure), *divisor, *step);
        }
    }
    out += "</table></div>\n";
    if runs.iter().any(|run| run.rounds.len() > 1) {
        out += "<p>Medians of the rounds; below them the least and the most.</p>\n";
    }
    out
}

/// A row for each figure that one of the runs has, a column for each run.
fn all_figures(runs: &[Run]) -> String {
    let mut out = "<h2>All figures</h2><div class=w><table class=\"f a\"><tr><th>figure".to_string();
    for run in runs {
        let _ = write!(out, "<th class=n>{}", escaped(&run.name));
    }
    let mut seen = BTreeSet::new();
    for name in runs.iter().flat_map(|run| run.summary.keys()) {
        if seen.insert(name) {
            let _ = write!(out, "<tr><td>{}", escaped(name));
            runs.iter()
                .for_each(|run| out += &cell(run.summary.get(name), 1.0, 0.0));
        }
    }
    out + "</table></div>\n"
}

/// A cell; a step of 0 chooses the digits by the size.
fn cell(spread: Option<&Spread>, divisor: f64, step: f64) -> String {
    let Some(Spread { median, least, most }) = spread else {
        return "<td class=n>–".to_string();
    };
    let step = match step {
        0.0 if [median, least, most].into_iter().all(|value| value.fract() == 0.0) || median.abs() >= 1e3 => 1.0,
        0.0 => 0.001,
        step => step,
    };
    let [median, least, most] = [median, least, most].map(|value| number(value / divisor, step));
    if least == most {
        return format!("<td class=n>{median}");
    }
    format!("<td class=n>{median}<small>{least} – {most}</small>")
}

/// What all runs have in common is said once.
fn about(runs: &[Run]) -> String {
    let mut out = "<h2>How it was run</h2><table>".to_string();
    let mut seen = BTreeSet::new();
    for name in runs.iter().flat_map(|run| run.about.keys()) {
        if !seen.insert(name) {
            continue;
        }
        let values: Vec<&str> = runs
            .iter()
            .map(|run| run.about.get(name).map_or("–", String::as_str))
            .collect();
        let title = escaped(name);
        if values.iter().all(|value| *value == values[0]) {
            let _ = write!(out, "<tr><th>{title}<td>{}", escaped(values[0]));
            continue;
        }
        for (run, value) in runs.iter().zip(values) {
            let _ = write!(
                out,
                "<tr><th>{title}<small>{}</small><td>{}",
                escaped(&run.name),
                escaped(value)
            );
        }
    }
    out + "</table>"
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;")
}
