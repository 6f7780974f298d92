//! What a run came to, for people and for programs.

use crate::consumer::Consumed;
use crate::options::Options;
use crate::process::Sample;
use crate::producer::Produced;
use crate::rounds::{drift, DRIFT_MAX};
use hdrhistogram::Histogram;
use std::fmt::Write;
use std::time::Duration;

/// A run.
pub struct Report<'a> {
    /// What was asked for.
    pub options: &'a Options,
    /// Length of what counts.
    pub measured: Duration,
    /// What producers did.
    pub produced: Produced,
    /// What consumers got.
    pub consumed: Consumed,
    /// The broker before and after.
    pub broker: Option<(Sample, Sample)>,
    /// This process before and after.
    pub own: Option<(Sample, Sample)>,
}

const PERCENTILES: [(&str, f64); 4] = [("p50", 0.5), ("p99", 0.99), ("p99.9", 0.999), ("max", 1.0)];

/// A rate.
pub fn per_second(count: u64, time: Duration) -> f64 {
    count as f64 / time.as_secs_f64()
}

/// CPUs that a process kept busy between the samples.
pub fn cores_busy(samples: Option<(Sample, Sample)>, time: Duration) -> Option<f64> {
    cpu(samples).map(|seconds| seconds / time.as_secs_f64())
}

fn cpu(samples: Option<(Sample, Sample)>) -> Option<f64> {
    samples.map(|(before, after)| (after.cpu.saturating_sub(before.cpu)).as_secs_f64())
}

impl Report<'_> {
    /// CPU seconds of the broker per GB (10⁹ bytes) of values acknowledged.
    fn core_seconds_per_gb(&self) -> Option<f64> {
        let gb = self.produced.bytes as f64 / 1e9;
        cpu(self.broker).filter(|_| gb > 0.0).map(|seconds| seconds / gb)
    }

    /// The report as text.
    pub fn text(&self) -> String {
        let mut out = String::new();
        let options = self.options;
        let load = match options.rate {
            0 => "as fast as it goes".to_string(),
            rate => format!("{rate} records/s"),
        };
        // Writing to a string does not fail.
        let _ = writeln!(
            out,
            "{load}, {} bytes, {} producers, {} consumers, {:.0} s measured",
            options.record_bytes,
            options.producers,
            options.consumers,
            self.measured.as_secs_f64()
        );
        let _ = writeln!(
            out,
            "acknowledged  {:>10.0} records/s  {:>8.1} MB/s  {:>8.0} requests/s",
            per_second(self.produced.records, self.measured),
            per_second(self.produced.bytes, self.measured) / 1e6,
            per_second(self.produced.requests, self.measured)
        );
        let _ = writeln!(
            out,
            "consumed      {:>10.0} records/s  {:>8.1} MB/s",
            per_second(self.consumed.records, self.measured),
            per_second(self.consumed.bytes, self.measured) / 1e6
        );
        let histograms = [
            ("acknowledged after", &self.produced.latency),
            ("of it before the send", &self.produced.delay),
            ("consumed after", &self.consumed.end_to_end),
        ];
        for (name, histogram) in histograms {
            let _ = write!(out, "{name:<22}");
            for (percentile, value) in percentiles(histogram) {
                let _ = write!(out, "  {percentile} {value:>9.3} ms");
            }
            out.push('\n');
        }
        if let (Some(cores), Some(per_gb), Some((_, after))) = (
            cores_busy(self.broker, self.measured),
            self.core_seconds_per_gb(),
            self.broker,
        ) {
            let _ = writeln!(
                out,
                "broker        {cores:.2} cores busy, {per_gb:.2} core-seconds per GB acknowledged, {:.0} MiB resident",
                after.resident_bytes as f64 / (1 << 20) as f64
            );
        }
        if let Some(cores) = cores_busy(self.own, self.measured) {
            let _ = writeln!(out, "load          {cores:.2} cores busy");
        }
        if let Some(drift) = drift(&self.produced.by_second).filter(|drift| drift.abs() > DRIFT_MAX) {
            let _ = writeln!(
                out,
                "not steady    the second half acknowledged {:.0}% {} than the first",
                drift.abs() * 100.0,
                if drift > 0.0 { "more" } else { "less" }
            );
        }
        out
    }

    /// The histograms and their names in files.
    pub fn histograms(&self) -> [(&'static str, &Histogram<u64>); 3] {
        [
            ("publish", &self.produced.latency),
            ("schedule_delay", &self.produced.delay),
            ("end_to_end", &self.consumed.end_to_end),
        ]
    }

    /// All figures and their names; times in milliseconds.
    pub fn figures(&self) -> Vec<(String, f64)> {
        let mut fields = vec![
            ("rate".to_string(), self.options.rate as f64),
            ("record_bytes".to_string(), self.options.record_bytes as f64),
            ("producers".to_string(), self.options.producers as f64),
            ("consumers".to_string(), self.options.consumers as f64),
            ("seconds".to_string(), self.measured.as_secs_f64()),
            (
                "records_per_s".to_string(),
                per_second(self.produced.records, self.measured),
            ),
            (
                "bytes_per_s".to_string(),
                per_second(self.produced.bytes, self.measured),
            ),
            (
                "consumed_records_per_s".to_string(),
                per_second(self.consumed.records, self.measured),
            ),
        ];
        fields.extend(drift(&self.produced.by_second).map(|drift| ("drift".to_string(), drift)));
        for (name, histogram) in self.histograms() {
            for (percentile, value) in percentiles(histogram) {
                fields.push((format!("{name}_{percentile}_ms"), value));
            }
        }
        fields.extend(cpu(self.broker).map(|seconds| ("broker_cpu_s".to_string(), seconds)));
        fields.extend(
            self.core_seconds_per_gb()
                .map(|value| ("broker_core_s_per_gb".to_string(), value)),
        );
        fields.extend(
            self.broker
                .map(|(_, after)| ("broker_resident_bytes".to_string(), after.resident_bytes as f64)),
        );
        fields.extend(cpu(self.own).map(|seconds| ("load_cpu_s".to_string(), seconds)));
        fields
    }

    /// The figures as one line of JSON.
    pub fn json(&self) -> String {
        let fields: Vec<String> = self
            .figures()
            .into_iter()
            .map(|(name, value)| format!("\"{name}\":{value:.3}"))
            .collect();
        format!("{{{}}}", fields.join(","))
    }
}

/// Milliseconds at some percentiles.
pub fn percentiles(histogram: &Histogram<u64>) -> impl Iterator<Item = (&'static str, f64)> + '_ {
    PERCENTILES
        .into_iter()
        .map(|(name, quantile)| (name, histogram.value_at_quantile(quantile) as f64 / 1e6))
}
