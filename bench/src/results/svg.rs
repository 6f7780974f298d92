//! Charts as SVG: percentile curves, and what happened over time.

use std::fmt::Write;

const WIDTH: f64 = 1000.0;
const HEIGHT: f64 = 340.0;
/// Room for the labels of the upright axis.
const LEFT: f64 = 84.0;
/// Room for the half of the last label that is beyond its tick.
const RIGHT: f64 = 36.0;
const BOTTOM: f64 = 52.0;
const TOP: f64 = 14.0;
/// So many steps of a flat axis at most.
const STEPS_MAX: f64 = 10.0;
/// So many nines are shown; beyond them a curve is made of single records.
const NINES_MAX: f64 = 5.0;
/// From so many decades on, only powers of ten have a line.
const DECADES_FINE: i32 = 3;
const COLOURS: [&str; 10] = [
    "#0b65c2", "#d9480f", "#15803d", "#9333ea", "#a16207", "#0e7490", "#be123c", "#4d7c0f", "#475569", "#db2777",
];
/// What tells the colours apart when they come round again.
const DASHES: [&str; 3] = ["", "7 4", "2 3"];

/// A line of a chart.
pub struct Line {
    /// Lines of one series look the same.
    pub series: usize,
    /// From left to right.
    pub points: Vec<(f64, f64)>,
}

/// How the lines of a series look, as attributes.
fn look(series: usize) -> String {
    let colour = COLOURS[series % COLOURS.len()];
    let dash = DASHES[series / COLOURS.len() % DASHES.len()];
    format!(
        "fill=\"none\" stroke=\"{colour}\" stroke-width=\"2\" stroke-linejoin=\"round\" stroke-dasharray=\"{dash}\""
    )
}

/// A piece of line that looks as those of the series, for the legend.
pub fn sample(series: usize) -> String {
    format!(
        "<svg class=s viewBox=\"0 0 28 8\"><path d=\"M0 4H28\" {}/></svg>",
        look(series)
    )
}

/// Quantiles against milliseconds; both axes are logarithmic: nines to the right, milliseconds upwards.
pub fn latency_chart(lines: &[Line]) -> String {
    let nines_of = |quantile: f64| -(1.0 - quantile).max(f64::MIN_POSITIVE).log10();
    let shown = |point: &&(f64, f64)| nines_of(point.0) <= NINES_MAX + 1e-6;
    let points = || lines.iter().flat_map(|line| &line.points).filter(shown);
    let values = || points().map(|(_, ms)| ms.max(0.001).log10());
    let low = values().fold(f64::INFINITY, f64::min).floor();
    let high = values().fold(f64::NEG_INFINITY, f64::max).ceil().max(low + 1.0);
    let nines = points()
        .map(|(quantile, _)| nines_of(*quantile))
        .fold(1.0, f64::max)
        .min(NINES_MAX)
        .ceil();
    let x = |quantile: f64| across(nines_of(quantile) / nines);
    let y = |ms: f64| down((ms.max(0.001).log10() - low) / (high - low));
    let mut body = String::new();
    for power in low as i32..=high as i32 {
        body += &line_across(y(10f64.powi(power)), &milliseconds(power, 1));
        if high as i32 - low as i32 <= DECADES_FINE && power < high as i32 {
            for times in [2, 5] {
                body += &line_across(y(10f64.powi(power) * f64::from(times)), &milliseconds(power, times));
            }
        }
    }
    body += &tick_below(x(0.0), "0%");
    body += &tick_below(x(0.5), "50%");
    for nines in 1..=nines as usize {
        body += &tick_below(x(1.0 - 10f64.powi(-(nines as i32))), &percent(nines));
    }
    for Line { series, points } in lines {
        body += &polyline(
            *series,
            points.iter().filter(shown).map(|(quantile, ms)| (x(*quantile), y(*ms))),
        );
    }
    svg(&body, "percentile")
}

/// Seconds against what there was in each of them; both axes are flat and begin at 0.
pub fn time_chart(lines: &[Line]) -> String {
    let points = || lines.iter().flat_map(|line| &line.points);
    let (step_y, steps_y) = steps(points().map(|(_, value)| *value).fold(0.0, f64::max), STEPS_MAX / 2.0);
    let last = points().map(|(second, _)| *second).fold(1.0, f64::max);
    let step_x = steps(last, STEPS_MAX).0.max(1.0);
    let mut body = String::new();
    for at in 0..=steps_y {
        body += &line_across(
            down(f64::from(at) / f64::from(steps_y)),
            &number(f64::from(at) * step_y, step_y),
        );
    }
    for at in 0..=(last / step_x) as u32 {
        let second = f64::from(at) * step_x;
        body += &tick_below(across(second / last), &format!("{second}"));
    }
    for Line { series, points } in lines {
        let top = step_y * f64::from(steps_y);
        body += &polyline(
            *series,
            points
                .iter()
                .map(|(second, value)| (across(second / last), down(value / top))),
        );
    }
    svg(&body, "seconds")
}

/// The smallest round step with which at most so many reach a value, and how many do.
fn steps(value: f64, most: f64) -> (f64, u32) {
    let wanted = if value > 0.0 { value / most } else { 1.0 };
    let power = 10f64.powf(wanted.log10().floor());
    let round = [1.0, 2.0, 5.0].map(|step| step * power);
    // A quotient may be a hair above what it should be.
    let step = round
        .into_iter()
        .find(|step| *step >= wanted * (1.0 - 1e-9))
        .unwrap_or(10.0 * power);
    (step, ((value / step) * (1.0 - 1e-9)).ceil().max(1.0) as u32)
}

/// A number with as many digits as the step needs, and with separators.
pub fn number(value: f64, step: f64) -> String {
    let digits = (-step.log10().floor()).clamp(0.0, 6.0) as usize;
    let plain = format!("{:.digits$}", value.abs());
    let (whole, part) = plain.split_once('.').unwrap_or((&plain, ""));
    let mut out = String::new();
    if value < 0.0 {
        out.push('-');
    }
    for (at, digit) in whole.chars().enumerate() {
        if at > 0 && (whole.len() - at).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    if !part.is_empty() {
        out.push('.');
        out += part;
    }
    out
}

/// `times` · 10^`power` ms, in the unit that people would take.
fn milliseconds(power: i32, times: i32) -> String {
    let (power, unit) = match power {
        ..0 => (power + 3, "µs"),
        0..3 => (power, "ms"),
        _ => (power - 3, "s"),
    };
    format!("{} {unit}", f64::from(times) * 10f64.powi(power))
}

/// The percentile with so many nines.
fn percent(nines: usize) -> String {
    match nines {
        1 => "90%".to_string(),
        2 => "99%".to_string(),
        more => format!("99.{}%", "9".repeat(more - 2)),
    }
}

/// The place of a part of the flat axis, from the left.
fn across(part: f64) -> f64 {
    LEFT + part * (WIDTH - LEFT - RIGHT)
}

/// The height of a part of the upright axis, from the top.
fn down(part: f64) -> f64 {
    HEIGHT - BOTTOM - part * (HEIGHT - BOTTOM - TOP)
}

fn line_across(y: f64, label: &str) -> String {
    format!(
        "<path class=g d=\"M{LEFT} {y:.1}H{:.1}\"/><text x=\"{}\" y=\"{:.1}\" text-anchor=\"end\">{label}</text>",
        WIDTH - RIGHT,
        LEFT - 8.0,
        y + 4.0
    )
}

fn tick_below(x: f64, label: &str) -> String {
    let bottom = HEIGHT - BOTTOM;
    format!(
        "<path class=g d=\"M{x:.1} {TOP}V{:.1}\"/><text x=\"{x:.1}\" y=\"{}\" text-anchor=\"middle\">{label}</text>",
        bottom + 4.0,
        bottom + 19.0
    )
}

fn polyline(series: usize, points: impl Iterator<Item = (f64, f64)>) -> String {
    let mut out = String::new();
    for (x, y) in points {
        // Writing to a string does not fail.
        let _ = write!(out, "{}{x:.1},{y:.1}", if out.is_empty() { "" } else { " " });
    }
    format!("<polyline {} points=\"{out}\"/>", look(series))
}

fn svg(body: &str, axis: &str) -> String {
    format!(
        "<svg class=c viewBox=\"0 0 {WIDTH} {HEIGHT}\" role=\"img\">{body}\
         <text x=\"{:.1}\" y=\"{}\" text-anchor=\"middle\">{axis}</text></svg>",
        across(0.5),
        HEIGHT - 8.0
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_axis_is_counted_in_round_steps() {
        assert_eq!(steps(59.0, 10.0), (10.0, 6));
        assert_eq!(steps(20.0, 10.0), (2.0, 10));
        assert_eq!(steps(226_000.0, 5.0), (50_000.0, 5));
        assert_eq!(steps(0.3, 5.0).1, 3);
        assert_eq!(steps(0.0, 5.0), (1.0, 1));
    }

    #[test]
    fn labels_are_as_people_write_them() {
        assert_eq!(number(1_234_567.0, 1.0), "1,234,567");
        assert_eq!(
            [number(0.0, 0.2), number(0.4, 0.2), number(-1_000.5, 0.1)],
            ["0.0", "0.4", "-1,000.5"]
        );
        let labels = [
            milliseconds(-3, 1),
            milliseconds(-1, 5),
            milliseconds(0, 2),
            milliseconds(4, 1),
        ];
        assert_eq!(labels, ["1 µs", "500 µs", "2 ms", "10 s"]);
        assert_eq!([percent(1), percent(2), percent(4)], ["90%", "99%", "99.99%"]);
    }

    #[test]
    fn a_curve_of_very_many_records_ends_where_the_axis_does() {
        let points = (0..10)
            .map(|nines| (1.0 - 10f64.powi(-nines), f64::from(nines + 1)))
            .collect();
        let chart = latency_chart(&[Line { series: 0, points }]);
        assert!(chart.contains(">99.999%<") && !chart.contains(">99.9999%<"), "{chart}");
        let (_, line) = chart.split_once("points=\"").unwrap();
        let (line, _) = line.split_once('"').unwrap();
        assert_eq!(line.split(' ').count(), 6, "{line}");
        let (last, _) = line.split(' ').next_back().unwrap().split_once(',').unwrap();
        assert!((last.parse::<f64>().unwrap() - (WIDTH - RIGHT)).abs() < 0.2, "{last}");
    }

    #[test]
    fn many_series_can_be_told_apart() {
        let looks: std::collections::BTreeSet<String> = (0..30).map(look).collect();
        assert_eq!(looks.len(), 30);
    }
}
