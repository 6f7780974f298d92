//! What was compared and what differed, per API.

use super::meant;
use std::collections::{BTreeMap, BTreeSet};

/// Characters of a value that tell one kind of difference from another; what follows is rarely another kind.
const KIND_CHARACTERS: usize = 120;

/// Pairs of values that are printed of one field.
const PAIRS_PRINTED: usize = 12;

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

/// One pair of values: how often it was seen, and the smallest request that showed it.
#[derive(Debug)]
struct Pair {
    count: u64,
    smallest: String,
}

/// By Kafka's value and ours.
type Pairs = BTreeMap<(String, String), Pair>;

/// The counts of a run.
#[derive(Debug, Default)]
pub struct Report {
    apis: BTreeMap<&'static str, PerApi>,
    /// By API and field, then by both values.
    failing: BTreeMap<(&'static str, String), Pairs>,
    meant: BTreeSet<usize>,
}

/// What one comparison has found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Nothing differs.
    Same,
    /// What differs is listed.
    Meant,
    /// Something differs that nobody has decided on.
    Differs,
}

impl Report {
    /// Notes one request and what differed in its answers.
    pub fn note(&mut self, api: &'static str, request: &dyn Fn() -> String, differences: Vec<Difference>) -> Verdict {
        let counts = self.apis.entry(api).or_default();
        counts.compared += 1;
        counts.differing += u64::from(!differences.is_empty());
        let mut verdict = Verdict::Same;
        let request = if differences.is_empty() {
            String::new()
        } else {
            request()
        };
        for difference in differences {
            match meant::find(&difference, &request) {
                Some(at) => {
                    self.meant.insert(at);
                    if verdict == Verdict::Same {
                        verdict = Verdict::Meant;
                    }
                }
                None => {
                    verdict = Verdict::Differs;
                    let field = self.failing.entry((difference.api, difference.path)).or_default();
                    let values = (shortened(difference.kafka), shortened(difference.ours));
                    let pair = field.entry(values).or_insert_with(|| Pair {
                        count: 0,
                        smallest: request.clone(),
                    });
                    pair.count += 1;
                    if request.len() < pair.smallest.len() {
                        pair.smallest.clone_from(&request);
                    }
                }
            }
        }
        counts.failing += u64::from(verdict == Verdict::Differs);
        counts.meant += u64::from(verdict == Verdict::Meant);
        verdict
    }

    /// Prints the counts and every kind of failing difference, grouped by field. Returns how many kinds fail.
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
        for ((api, path), pairs) in &self.failing {
            println!("FAILED {api} {path}");
            for ((kafka, ours), pair) in pairs.iter().take(PAIRS_PRINTED) {
                println!(
                    "    {} times: Kafka {kafka}, here {ours}\n        {}",
                    pair.count, pair.smallest
                );
            }
            if pairs.len() > PAIRS_PRINTED {
                println!("    and {} more pairs of values", pairs.len() - PAIRS_PRINTED);
            }
        }
        for (at, entry) in meant::MEANT.iter().enumerate() {
            if !self.meant.contains(&at) {
                println!("listed as meant but not seen: {} {}", entry.api, entry.path);
            }
        }
        let kinds = self.failing.values().map(BTreeMap::len).sum();
        println!("judge: {kinds} kinds of difference fail");
        kinds
    }
}

fn shortened(value: String) -> String {
    match value.char_indices().nth(KIND_CHARACTERS) {
        Some((at, _)) => format!("{}…", &value[..at]),
        None => value,
    }
}

fn print_row(name: &str, counts: &PerApi) {
    println!(
        "{name:<26} {:>9} {:>9} {:>9} {:>9}",
        counts.compared, counts.differing, counts.meant, counts.failing
    );
}
