//! Several rounds of one load: what is typical, how far they are apart, and whether one was steady.

use crate::results::Figures;
use indexmap::IndexMap;
use serde::{Deserialize, Serialize};
use std::fmt::Write;

/// A round whose halves differ by more than this part was not steady.
pub const DRIFT_MAX: f64 = 0.1;

/// One figure over all rounds.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Spread {
    /// The middle one; between the two middle ones if there is an even number.
    pub median: f64,
    /// The smallest.
    pub least: f64,
    /// The largest.
    pub most: f64,
}

impl Spread {
    /// Of these figures; none if there are none.
    pub fn of(mut figures: Vec<f64>) -> Option<Spread> {
        figures.sort_by(f64::total_cmp);
        let (least, most) = (*figures.first()?, *figures.last()?);
        let median = (figures[(figures.len() - 1) / 2] + figures[figures.len() / 2]) / 2.0;
        Some(Spread { median, least, most })
    }
}

/// Every figure that all rounds have.
pub fn summary(rounds: &[Figures]) -> IndexMap<String, Spread> {
    let names = rounds.first().into_iter().flat_map(IndexMap::keys);
    names
        .filter_map(|name| {
            let figures: Option<Vec<f64>> = rounds.iter().map(|round| round.get(name).copied()).collect();
            Some((name.clone(), Spread::of(figures?)?))
        })
        .collect()
}

/// The summary for people.
pub fn text(summary: &IndexMap<String, Spread>) -> String {
    let mut out = format!("{:<26}{:>16}{:>16}{:>16}\n", "all rounds", "median", "least", "most");
    for (name, Spread { median, least, most }) in summary {
        // Writing to a string does not fail.
        let _ = writeln!(out, "{name:<26}{median:>16.3}{least:>16.3}{most:>16.3}");
    }
    out
}

/// By which part the second half did more than the first (less: negative); none if there is too little to compare.
pub fn drift(by_second: &[u64]) -> Option<f64> {
    let half = by_second.len() / 2;
    let first: u64 = by_second[..half].iter().sum();
    // Of an odd number, the second in the middle belongs to neither.
    let second: u64 = by_second[by_second.len() - half..].iter().sum();
    (first > 0).then(|| second as f64 / first as f64 - 1.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_in_the_middle_whatever_the_order() {
        let spread = Spread::of(vec![9.0, 1.0, 2.0]).unwrap();
        assert_eq!((spread.median, spread.least, spread.most), (2.0, 1.0, 9.0));
        assert_eq!(Spread::of(vec![4.0, 1.0, 2.0, 9.0]).unwrap().median, 3.0);
        assert_eq!(Spread::of(vec![]), None);
    }

    #[test]
    fn a_load_that_slows_down_drifts() {
        assert_eq!(drift(&[100, 100, 100, 100]), Some(0.0));
        assert_eq!(drift(&[100, 100, 7, 50, 50]), Some(-0.5));
    }

    #[test]
    fn nothing_is_said_of_a_round_without_halves() {
        assert_eq!(drift(&[]), None);
        assert_eq!(drift(&[100]), None);
        assert_eq!(drift(&[0, 100]), None);
    }
}
