//! Numbers at one moment, which may go to another thread and be added up.

use super::cell::Histogram;
use super::families::{Family, Kind};
use std::collections::BTreeMap;

/// Label names with their values, in the family's order.
pub type Labels = Vec<(&'static str, String)>;

/// One sample.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Value {
    Counter(u64),
    Gauge(f64),
    Histogram {
        bounds: &'static [u64],
        counts: Vec<u64>,
        sum: u64,
    },
}

/// The samples of a family by label values.
#[derive(Debug)]
pub(super) struct Series {
    pub family: &'static Family,
    pub samples: BTreeMap<Vec<String>, Value>,
}

/// Samples of any number of families. Adding to a series that is there adds up.
#[derive(Debug, Default)]
pub struct Snapshot {
    pub(super) series: BTreeMap<&'static str, Series>,
}

impl Snapshot {
    /// Adds to a counter.
    pub fn counter(&mut self, family: &'static Family, labels: Labels, value: u64) {
        assert_eq!(family.kind, Kind::Counter, "{}", family.name);
        self.add(family, labels, Value::Counter(value));
    }

    /// Adds to a gauge.
    pub fn gauge(&mut self, family: &'static Family, labels: Labels, value: f64) {
        assert_eq!(family.kind, Kind::Gauge, "{}", family.name);
        self.add(family, labels, Value::Gauge(value));
    }

    /// Adds to a histogram.
    pub fn histogram(&mut self, family: &'static Family, labels: Labels, histogram: &Histogram) {
        assert!(
            matches!(family.kind, Kind::SecondsHistogram | Kind::BytesHistogram),
            "{}",
            family.name
        );
        let (bounds, counts, sum) = (histogram.bounds(), histogram.counts(), histogram.sum());
        self.add(family, labels, Value::Histogram { bounds, counts, sum });
    }

    /// Adds all of `other`.
    pub fn merge(&mut self, other: Snapshot) {
        for series in other.series.into_values() {
            for (labels, value) in series.samples {
                self.add_value(series.family, labels, value);
            }
        }
    }

    fn add(&mut self, family: &'static Family, labels: Labels, value: Value) {
        let names = labels.iter().map(|(name, _)| name);
        assert!(
            names.eq(family.labels.iter()),
            "{} has the labels {:?}",
            family.name,
            family.labels
        );
        self.add_value(family, labels.into_iter().map(|(_, value)| value).collect(), value);
    }

    fn add_value(&mut self, family: &'static Family, labels: Vec<String>, value: Value) {
        let series = self.series.entry(family.name).or_insert(Series {
            family,
            samples: BTreeMap::new(),
        });
        match series.samples.get_mut(&labels) {
            None => drop(series.samples.insert(labels, value)),
            Some(sum) => sum.add(value),
        }
    }
}

impl Value {
    fn add(&mut self, other: Value) {
        match (self, other) {
            (Value::Counter(sum), Value::Counter(n)) => *sum = sum.wrapping_add(n),
            (Value::Gauge(sum), Value::Gauge(n)) => *sum += n,
            (
                Value::Histogram { counts, sum, .. },
                Value::Histogram {
                    counts: other, sum: n, ..
                },
            ) => {
                counts.iter_mut().zip(other).for_each(|(count, n)| *count += n);
                *sum = sum.saturating_add(n);
            }
            (this, other) => unreachable!("a family has one kind of samples: {this:?} and {other:?}"),
        }
    }
}
