//! One page for people, complete in itself: figures, percentile curves, throughput over time.

use crate::report::Report;
use crate::rounds::{summary, Spread};
use hdrhistogram::Histogram;
use std::fmt::Write;

const WIDTH: f64 = 860.0;
const HEIGHT: f64 = 300.0;
const LEFT: f64 = 80.0;
/// Room for the half of the last label that is beyond its tick.
const RIGHT: f64 = 40.0;
const BOTTOM: f64 = 40.0;
const TOP: f64 = 12.0;
const COLOURS: [&str; 6] = ["#0b65c2", "#c2410b", "#15803d", "#7e22ce", "#a16207", "#0e7490"];
/// Percentiles at the ticks of a curve, and how they are called.
const TICKS: [(f64, &str); 6] = [
    (0.0, "0"),
    (0.9, "90"),
    (0.99, "99"),
    (0.999, "99.9"),
    (0.9999, "99.99"),
    (0.99999, "99.999"),
];
const STYLE: &str =
    "body{font:15px/1.5 system-ui,sans-serif;max-width:900px;margin:2em auto;padding:0 1em;color:#1c1c1c}\
h2{margin-top:2em;font-size:1.15em}table{border-collapse:collapse}td,th{padding:.15em .9em .15em 0;text-align:left}\
td.n,th.n{text-align:right;font-variant-numeric:tabular-nums}tr{border-bottom:1px solid #e5e5e5}\
svg{width:100%;height:auto}svg text{font-size:12px;fill:#555}.key span{margin-right:1.2em}";

/// The page.
pub fn page(about: &[(&str, String)], reports: &[Report]) -> String {
    let mut out = format!(
        "<!doctype html><html lang=\"en\"><meta charset=\"utf-8\"><title>kafscale-bench</title><style>{STYLE}</style>\n\
         <h1>kafscale-bench</h1><table>"
    );
    // Writing to a string does not fail.
    for (name, value) in about {
        let _ = write!(out, "<tr><th>{name}<td>{}", escaped(value));
    }
    out += "</table>\n";
    let key: String = (0..reports.len())
        .map(|round| {
            format!(
                "<span style=\"color:{}\">&#9632; round {}</span>",
                colour(round),
                round + 1
            )
        })
        .collect();
    for (at, title) in [
        "Publish: from when a record was due to its acknowledgement",
        "Schedule delay: from when a record was due to when it was sent",
        "End to end: from when the oldest record of a batch was due to its receipt",
    ]
    .into_iter()
    .enumerate()
    {
        let curves: Vec<_> = reports.iter().map(|report| curve(report.histograms()[at].1)).collect();
        if curves.iter().any(|curve| !curve.is_empty()) {
            let _ = writeln!(
                out,
                "<h2>{title}</h2><div class=\"key\">{key}</div>{}",
                latency_chart(&curves)
            );
        }
    }
    let seconds: Vec<_> = reports.iter().map(|report| report.produced.by_second.clone()).collect();
    let _ = writeln!(
        out,
        "<h2>Records acknowledged per second</h2><div class=\"key\">{key}</div>{}",
        time_chart(&seconds)
    );
    out += "<h2>Figures</h2><table><tr><th>figure<th class=n>median<th class=n>least<th class=n>most";
    for (name, Spread { median, least, most }) in summary(reports) {
        let _ = write!(
            out,
            "<tr><td>{name}<td class=n>{median:.3}<td class=n>{least:.3}<td class=n>{most:.3}"
        );
    }
    out + "</table></html>\n"
}

fn colour(round: usize) -> &'static str {
    COLOURS[round % COLOURS.len()]
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;")
}

/// Percentile and milliseconds, up to the last tick.
fn curve(histogram: &Histogram<u64>) -> Vec<(f64, f64)> {
    if histogram.is_empty() {
        return Vec::new();
    }
    // Each step is a third of the way to the next nine; beyond one entry there is nothing to see.
    let nines = (histogram.len() as f64).log10().min(5.0);
    (0..=50)
        .map(|step| 1.0 - 10f64.powf(-nines * f64::from(step) / 50.0))
        .map(|quantile| (quantile, histogram.value_at_quantile(quantile) as f64 / 1e6))
        .collect()
}

/// Both axes are logarithmic: nines to the right, milliseconds upwards.
fn latency_chart(curves: &[Vec<(f64, f64)>]) -> String {
    let values = || curves.iter().flatten().map(|(_, ms)| ms.max(0.001).log10());
    let low = values().fold(f64::INFINITY, f64::min).floor();
    let high = values().fold(f64::NEG_INFINITY, f64::max).ceil().max(low + 1.0);
    let x = |quantile: f64| LEFT + (WIDTH - LEFT - RIGHT) * -(1.0 - quantile).log10() / 5.0;
    let y = |ms: f64| down((ms.max(0.001).log10() - low) / (high - low));
    let mut body = String::new();
    for power in low as i32..=high as i32 {
        body += &line_across(y(10f64.powi(power)), &format!("{} ms", 10f64.powi(power)));
    }
    for (quantile, name) in TICKS {
        body += &label_below(x(quantile), &format!("{name}%"));
    }
    for (round, curve) in curves.iter().enumerate() {
        body += &polyline(round, curve.iter().map(|(quantile, ms)| (x(*quantile), y(*ms))));
    }
    svg(&body)
}

fn time_chart(rounds: &[Vec<u64>]) -> String {
    let most = 4.0 * step_above(rounds.iter().flatten().copied().max().unwrap_or(0).max(4) as f64 / 4.0);
    let last = rounds.iter().map(Vec::len).max().unwrap_or(0).saturating_sub(1).max(1);
    let x = |second: usize| LEFT + (WIDTH - LEFT - RIGHT) * second as f64 / last as f64;
    let mut body = String::new();
    for quarter in 0..=4 {
        let part = f64::from(quarter) / 4.0;
        body += &line_across(down(part), &format!("{:.0}", most * part));
    }
    for second in (0..=last).step_by((last / 10).max(1)) {
        body += &label_below(x(second), &format!("{second} s"));
    }
    for (round, seconds) in rounds.iter().enumerate() {
        let points = seconds.iter().enumerate();
        body += &polyline(
            round,
            points.map(|(second, records)| (x(second), down(*records as f64 / most))),
        );
    }
    svg(&body)
}

/// The smallest of 1, 2, 2.5, 5 and 10 times a power of ten that is not smaller: what people count in.
fn step_above(value: f64) -> f64 {
    let power = 10f64.powf(value.log10().floor());
    let steps = [1.0, 2.0, 2.5, 5.0].map(|step| step * power);
    steps.into_iter().find(|step| *step >= value).unwrap_or(10.0 * power)
}

/// The height of a part of the axis, from the top.
fn down(part: f64) -> f64 {
    HEIGHT - BOTTOM - part * (HEIGHT - BOTTOM - TOP)
}

fn line_across(y: f64, label: &str) -> String {
    format!(
        "<line x1=\"{LEFT}\" x2=\"{WIDTH}\" y1=\"{y:.1}\" y2=\"{y:.1}\" stroke=\"#ddd\"/>\
         <text x=\"{}\" y=\"{:.1}\" text-anchor=\"end\">{label}</text>",
        LEFT - 8.0,
        y + 4.0
    )
}

fn label_below(x: f64, label: &str) -> String {
    let y = HEIGHT - BOTTOM + 20.0;
    format!("<text x=\"{x:.1}\" y=\"{y}\" text-anchor=\"middle\">{label}</text>")
}

fn polyline(round: usize, points: impl Iterator<Item = (f64, f64)>) -> String {
    let points: Vec<String> = points.map(|(x, y)| format!("{x:.1},{y:.1}")).collect();
    format!(
        "<polyline fill=\"none\" stroke-width=\"2\" stroke=\"{}\" points=\"{}\"/>",
        colour(round),
        points.join(" ")
    )
}

fn svg(body: &str) -> String {
    format!("<svg viewBox=\"0 0 {WIDTH} {HEIGHT}\" role=\"img\">{body}</svg>")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::producer::new_histogram;

    #[test]
    fn a_curve_rises_and_goes_no_further_than_its_entries() {
        let mut histogram = new_histogram();
        for ms in 1..=1_000 {
            histogram.saturating_record(ms * 1_000_000);
        }
        let curve = curve(&histogram);
        assert!(curve.windows(2).all(|two| two[0].1 <= two[1].1));
        assert!((curve[50].0 - 0.999).abs() < 1e-9);
    }

    #[test]
    fn an_axis_is_counted_in_round_steps() {
        assert_eq!(
            [1.0, 3.0, 24.0, 26.0, 990.0].map(step_above),
            [1.0, 5.0, 25.0, 50.0, 1_000.0]
        );
    }

    #[test]
    fn an_argument_cannot_become_markup() {
        assert_eq!(escaped("<b>&"), "&lt;b>&amp;");
    }
}
