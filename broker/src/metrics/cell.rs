//! Numbers in plain cells, for one thread.

use std::cell::Cell;
use std::time::Duration;

/// A count that only grows.
#[derive(Debug, Default)]
pub struct Counter(Cell<u64>);

impl Counter {
    /// Adds `n`.
    pub fn add(&self, n: u64) {
        self.0.set(self.0.get().wrapping_add(n));
    }

    /// The count.
    pub fn get(&self) -> u64 {
        self.0.get()
    }
}

/// A number that goes up and down.
#[derive(Debug, Default)]
pub struct Gauge(Cell<i64>);

impl Gauge {
    /// Adds `n`, which may be negative.
    pub fn add(&self, n: i64) {
        self.0.set(self.0.get() + n);
    }

    /// The number.
    pub fn get(&self) -> i64 {
        self.0.get()
    }
}

/// Upper bounds of latency buckets, in microseconds.
#[rustfmt::skip]
pub(super) const LATENCY_BOUNDS: &[u64] = &[
    100, 250, 500, 1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 250_000, 500_000,
    1_000_000, 2_500_000, 5_000_000, 10_000_000, 30_000_000,
];

/// Upper bounds of object sizes, in bytes.
#[rustfmt::skip]
pub(super) const SIZE_BOUNDS: &[u64] = &[
    1 << 10, 4 << 10, 16 << 10, 64 << 10, 256 << 10, 1 << 20, 4 << 20, 8 << 20, 16 << 20, 64 << 20, 256 << 20,
];

/// Counts in buckets with fixed upper bounds, inclusive, and one beyond them.
#[derive(Debug)]
pub struct Histogram {
    bounds: &'static [u64],
    counts: Box<[Cell<u64>]>,
    sum: Cell<u64>,
}

impl Histogram {
    /// For durations, from 100 µs to 30 s.
    pub fn latency() -> Self {
        Histogram::new(LATENCY_BOUNDS)
    }

    /// For object sizes, from 1 KiB to 256 MiB.
    pub fn size() -> Self {
        Histogram::new(SIZE_BOUNDS)
    }

    fn new(bounds: &'static [u64]) -> Self {
        let counts = (0..=bounds.len()).map(|_| Cell::new(0)).collect();
        Histogram {
            bounds,
            counts,
            sum: Cell::new(0),
        }
    }

    /// Counts a duration.
    pub fn record(&self, duration: Duration) {
        self.record_value(duration.as_micros().min(u128::from(u64::MAX)) as u64);
    }

    /// Counts a value in the histogram's own unit: microseconds or bytes.
    pub fn record_value(&self, value: u64) {
        let bucket = &self.counts[self.bounds.partition_point(|bound| *bound < value)];
        bucket.set(bucket.get() + 1);
        self.sum.set(self.sum.get().saturating_add(value));
    }

    /// How many were counted.
    pub fn count(&self) -> u64 {
        self.counts.iter().map(Cell::get).sum()
    }

    pub(super) fn bounds(&self) -> &'static [u64] {
        self.bounds
    }

    pub(super) fn counts(&self) -> Vec<u64> {
        self.counts.iter().map(Cell::get).collect()
    }

    pub(super) fn sum(&self) -> u64 {
        self.sum.get()
    }
}
