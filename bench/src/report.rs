//! What a run came to, for people and for programs.

use crate::client::BenchError;
use crate::consumer::Consumed;
use crate::idle::IdleMemory;
use crate::options::Options;
use crate::process::Watched;
use crate::producer::Produced;
use crate::results::Figures;
use crate::rounds::{drift, DRIFT_MAX};
use crate::store::StoreUse;
use hdrhistogram::Histogram;
use std::fmt::Write;
use std::time::Duration;

/// A run.
pub struct Report {
    /// What was asked for.
    pub options: Options,
    /// Length of what counts.
    pub measured: Duration,
    /// What producers did.
    pub produced: Produced,
    /// What consumers got.
    pub consumed: Consumed,
    /// What the broker used.
    pub broker: Option<Watched>,
    /// What this process used.
    pub own: Option<Watched>,
    /// What the broker asked of its object store.
    pub store: Option<StoreUse>,
    /// System calls of the broker.
    pub syscalls_per_s: Option<f64>,
    /// What idle connections cost in memory.
    pub idle: Option<IdleMemory>,
}

const PERCENTILES: [(&str, f64); 4] = [("p50", 0.5), ("p99", 0.99), ("p99.9", 0.999), ("max", 1.0)];

/// 2²⁰ bytes.
pub fn mib(bytes: u64) -> f64 {
    bytes as f64 / (1 << 20) as f64
}

/// A rate.
pub fn per_second(count: u64, time: Duration) -> f64 {
    count as f64 / time.as_secs_f64()
}

impl Report {
    /// CPU seconds of the broker per GB (10⁹ bytes) of values acknowledged.
    pub fn core_seconds_per_gb(&self) -> Option<f64> {
        let gb = self.produced.bytes as f64 / 1e9;
        self.broker.filter(|_| gb > 0.0).map(|broker| broker.cpu_s() / gb)
    }

    /// Bytes that the broker caused to be written to storage per byte of values acknowledged.
    fn written_per_byte(&self) -> Option<f64> {
        let written = self.broker?.written_bytes()? as f64;
        (self.produced.bytes > 0).then(|| written / self.produced.bytes as f64)
    }

    /// Milliseconds within which this part of the records was acknowledged.
    pub fn publish_ms(&self, quantile: f64) -> f64 {
        self.produced.latency.value_at_quantile(quantile) as f64 / 1e6
    }

    /// The report as text.
    pub fn text(&self) -> String {
        let mut out = String::new();
        let options = &self.options;
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
        if let Some(broker) = self.broker {
            let (voluntary, involuntary) = broker.switches();
            let _ = writeln!(
                out,
                "broker        {:.2} cores busy, {:.2} core-seconds per GB acknowledged, {:.0} MiB resident at most",
                broker.cores_busy(self.measured),
                self.core_seconds_per_gb().unwrap_or(f64::NAN),
                mib(broker.resident_bytes_max)
            );
            let _ = writeln!(
                out,
                "              {} threads, {:.0} voluntary and {:.0} involuntary context switches/s",
                broker.after.threads,
                per_second(voluntary, self.measured),
                per_second(involuntary, self.measured)
            );
        }
        if let Some(written) = self.written_per_byte() {
            let _ = writeln!(
                out,
                "              {written:.2} bytes written to storage per byte acknowledged"
            );
        }
        if let Some(calls) = self.syscalls_per_s {
            let _ = writeln!(out, "              {calls:.0} system calls/s");
        }
        if let Some(store) = self.store {
            let _ = writeln!(
                out,
                "object store  {:.1} puts/s of {:.0} bytes in the mean, {:.2} bytes sent per byte acknowledged, {:.1} gets/s",
                store.puts / self.measured.as_secs_f64(),
                store.put_mean_bytes.unwrap_or(f64::NAN),
                store.sent_bytes / self.produced.bytes as f64,
                store.gets / self.measured.as_secs_f64(),
            );
        }
        if let Some(idle) = self.idle {
            let _ = writeln!(
                out,
                "idle          {} connections, all answered at the end; the broker took {:.1} MiB for them",
                options.idle_connections,
                mib(idle.after_bytes) - mib(idle.before_bytes)
            );
        }
        if let Some(own) = self.own {
            let _ = writeln!(out, "load          {:.2} cores busy", own.cores_busy(self.measured));
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
    pub fn figures(&self) -> Figures {
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
                "requests_per_s".to_string(),
                per_second(self.produced.requests, self.measured),
            ),
            (
                "consumed_records_per_s".to_string(),
                per_second(self.consumed.records, self.measured),
            ),
            (
                "consumed_bytes_per_s".to_string(),
                per_second(self.consumed.bytes, self.measured),
            ),
        ];
        fields.extend(drift(&self.produced.by_second).map(|drift| ("drift".to_string(), drift)));
        for (name, histogram) in self.histograms() {
            for (percentile, value) in percentiles(histogram) {
                fields.push((format!("{name}_{percentile}_ms"), value));
            }
        }
        if let Some(broker) = self.broker {
            let (voluntary, involuntary) = broker.switches();
            let named = [
                ("broker_cpu_s", broker.cpu_s()),
                ("broker_core_s_per_gb", self.core_seconds_per_gb().unwrap_or(0.0)),
                ("broker_resident_bytes", broker.resident_bytes_max as f64),
                ("broker_threads", broker.after.threads as f64),
                ("broker_voluntary_switches_per_s", per_second(voluntary, self.measured)),
                (
                    "broker_involuntary_switches_per_s",
                    per_second(involuntary, self.measured),
                ),
            ];
            fields.extend(named.map(|(name, value)| (name.to_string(), value)));
        }
        let written = self.written_per_byte();
        fields.extend(written.map(|part| ("broker_written_bytes_per_byte".to_string(), part)));
        fields.extend(
            self.syscalls_per_s
                .map(|calls| ("broker_syscalls_per_s".to_string(), calls)),
        );
        if let Some(store) = self.store {
            let seconds = self.measured.as_secs_f64();
            let named = [
                ("puts_per_s", Some(store.puts / seconds)),
                ("put_mean_bytes", store.put_mean_bytes),
                ("put_p99_bytes_at_most", store.put_p99_bytes_at_most),
                (
                    "put_bytes_per_byte",
                    Some(store.sent_bytes / self.produced.bytes as f64),
                ),
                ("gets_per_s", Some(store.gets / seconds)),
            ];
            fields.extend(
                named
                    .into_iter()
                    .filter_map(|(name, value)| Some((name.to_string(), value?))),
            );
        }
        if let Some(idle) = self.idle {
            fields.push(("idle_connections".to_string(), self.options.idle_connections as f64));
            let more = mib(idle.after_bytes) - mib(idle.before_bytes);
            fields.push(("idle_mib".to_string(), more));
        }
        fields.extend(self.own.map(|own| ("load_cpu_s".to_string(), own.cpu_s())));
        // Three digits are enough, and JSON has no word for what is not a number.
        let known = fields.into_iter().filter(|(_, value)| value.is_finite());
        known.map(|(name, value)| (name, (value * 1e3).round() / 1e3)).collect()
    }

    /// The figures as one line of JSON.
    ///
    /// # Errors
    /// None that is known of: names and finite numbers can be said in JSON.
    pub fn json(&self) -> Result<String, BenchError> {
        Ok(serde_json::to_string(&self.figures())?)
    }
}

/// Milliseconds at some percentiles.
pub fn percentiles(histogram: &Histogram<u64>) -> impl Iterator<Item = (&'static str, f64)> + '_ {
    PERCENTILES
        .into_iter()
        .map(|(name, quantile)| (name, histogram.value_at_quantile(quantile) as f64 / 1e6))
}
