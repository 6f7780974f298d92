//! What was compared and what differed, per API.

use super::meant;
use std::collections::{BTreeMap, BTreeSet};

/// One field that the two brokers answer differently.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Difference {
    pub api: &'static str,
    /// Names of fields, from the response down; `connection` for its fate.
    pub path: String,
    pub kafka: String,
    pub ours: String,
}

#[derive(Debug, Default)]
struct PerApi {
    compared: u64,
    differing: u64,
    meant: u64,
    failing: u64,
}

/// The counts of a run.
#[derive(Debug, Default)]
pub struct Report {
    apis: BTreeMap<&'static str, PerApi>,
    /// Each kind once: how often, and the first request that shows it.
    failing: BTreeMap<Difference, (u64, String)>,
    meant: BTreeSet<usize>,
}

impl Report {
    /// Notes one request and what differed in its answers. Returns whether all of that is meant.
    pub fn note(&mut self, api: &'static str, request: &dyn Fn() -> String, differences: Vec<Difference>) -> bool {
        let counts = self.apis.entry(api).or_default();
        counts.compared += 1;
        counts.differing += u64::from(!differences.is_empty());
        let mut all_meant = true;
        let mut some_meant = false;
        for difference in differences {
            match meant::find(&difference) {
                Some(at) => {
                    some_meant = true;
                    self.meant.insert(at);
                }
                None => {
                    all_meant = false;
                    let kind = self.failing.entry(difference).or_insert_with(|| (0, request()));
                    kind.0 += 1;
                }
            }
        }
        counts.failing += u64::from(!all_meant);
        counts.meant += u64::from(all_meant && some_meant);
        all_meant
    }

    /// Prints the counts and every kind of failing difference. Returns how many kinds fail.
    pub fn print(&self) -> usize {
        println!(
            "{:<26} {:>9} {:>9} {:>9} {:>9}",
            "API", "compared", "differing", "meant", "failing"
        );
        let mut all = PerApi::default();
        for (api, counts) in &self.apis {
            print_row(api, counts);
            all.compared += counts.compared;
            all.differing += counts.differing;
            all.meant += counts.meant;
            all.failing += counts.failing;
        }
        print_row("all", &all);
        for (difference, (count, request)) in &self.failing {
            println!(
                "FAILED {} {}: Kafka {}, here {} ({count} times)\n       first: {request}",
                difference.api, difference.path, difference.kafka, difference.ours
            );
        }
        for (at, entry) in meant::MEANT.iter().enumerate() {
            if !self.meant.contains(&at) {
                println!("listed as meant but not seen: {} {}", entry.api, entry.path);
            }
        }
        println!("judge: {} kinds of difference fail", self.failing.len());
        self.failing.len()
    }
}

fn print_row(name: &str, counts: &PerApi) {
    println!(
        "{name:<26} {:>9} {:>9} {:>9} {:>9}",
        counts.compared, counts.differing, counts.meant, counts.failing
    );
}
