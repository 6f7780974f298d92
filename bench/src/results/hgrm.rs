//! The percentile distribution in the text form that HdrHistogram's plotters read; values in milliseconds.

use crate::client::BenchError;
use hdrhistogram::Histogram;
use std::fmt::Write;
use std::io::ErrorKind;
use std::path::Path;

/// Quantiles and the milliseconds up to which they go, both rising; empty without entries.
pub type Curve = Vec<(f64, f64)>;

/// The text.
pub fn text(histogram: &Histogram<u64>) -> String {
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

/// The curve in a file; empty if there is no such file, since a histogram without entries has none.
///
/// # Errors
/// If the file cannot be read, or is something else.
pub fn read(file: &Path) -> Result<Curve, BenchError> {
    let text = match std::fs::read_to_string(file) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Curve::new()),
        other => other?,
    };
    curve(&text).ok_or_else(|| BenchError::Options(format!("{}: this is no percentile distribution", file.display())))
}

/// The last point is what one entry of all is beyond: the percentile of the largest is 100, which no logarithm can show.
fn curve(text: &str) -> Option<Curve> {
    let mut curve = Curve::new();
    let mut entries = 0.0;
    for line in text.lines().skip(1) {
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let numbers: Option<Vec<f64>> = line.split_whitespace().take(3).map(|word| word.parse().ok()).collect();
        let [ms, quantile, total] = numbers?[..] else {
            return None;
        };
        curve.push((quantile, ms));
        entries = total;
    }
    let most = 1.0 - 1.0 / f64::max(entries, 2.0);
    curve
        .iter_mut()
        .for_each(|(quantile, _)| *quantile = quantile.min(most));
    (!curve.is_empty()).then_some(curve)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::producer::new_histogram;

    fn thousand() -> Histogram<u64> {
        let mut histogram = new_histogram();
        for ms in 1..=1_000 {
            histogram.saturating_record(ms * 1_000_000);
        }
        histogram
    }

    #[test]
    fn a_distribution_ends_with_all_entries_at_the_largest() {
        let text = text(&thousand());
        let last = text.lines().rfind(|line| !line.starts_with('#')).unwrap();
        let fields: Vec<&str> = last.split_whitespace().collect();
        assert!(fields[0].starts_with("1000."), "{last}");
        assert_eq!(fields[1..], ["1.000000000000", "1000"]);
    }

    #[test]
    fn a_curve_that_is_read_again_rises_and_goes_no_further_than_its_entries() {
        let curve = curve(&text(&thousand())).unwrap();
        assert!(curve.windows(2).all(|two| two[0].0 <= two[1].0 && two[0].1 <= two[1].1));
        let (last, ms) = curve[curve.len() - 1];
        assert!((last - 0.999).abs() < 1e-9 && (ms - 1_000.0).abs() < 1.0, "{last} {ms}");
        let (_, half) = curve.iter().find(|(quantile, _)| *quantile >= 0.5).unwrap();
        assert!((half - 500.0).abs() < 1.0, "{half}");
    }

    #[test]
    fn another_text_is_not_taken_for_a_distribution() {
        assert_eq!(curve("Value\n\none two three\n"), None);
        assert_eq!(curve("Value\n\n1.0 0.5\n"), None);
        assert_eq!(curve(""), None);
    }
}
