//! Objects of topics that exist and that nobody can need: what was to be deleted when the broker that would have done it died.
//!
//! A partition's record alone proves that, since its offsets only grow. Nobody reads a snapshot of producers from before
//! `rolled_offset`, nor parts of a segment all of whose offsets lie before `log_start_offset`. (A whole segment there is left to
//! the partition's owner, whose retention deletes it.) An upload on its way is neither: a roll writes at `rolled_offset`, and
//! its snapshot beyond that. Readers that planned with an older record have the same grace as for any deletion: an object is
//! deleted only if an earlier search, at least that long ago, found it too.

use kafscale_metastore::keys::PartitionRecord;
use kafscale_storage_engine::segment::{self, Part};
use std::collections::BTreeMap;
use std::time::Duration;

/// Objects that are remembered from one search to the next; the others are found again.
pub const LEFTOVERS_MAX: usize = 10_000;

/// What is left over of one partition's segments, from the keys of all their parts, in order.
pub fn of_segments(record: &PartitionRecord, keys: &[String]) -> Vec<String> {
    let named: Vec<(i64, Part, &String)> = keys
        .iter()
        .filter_map(|key| segment::parse_key(key).map(|(base_offset, part)| (base_offset, part, key)))
        .collect();
    // Where a segment begins, the one before it has ended; and none reaches beyond what is rolled.
    let begins = named
        .iter()
        .filter(|(_, part, _)| *part == Part::Kfs)
        .map(|(base, ..)| *base);
    let ends = begins.chain([record.rolled_offset]);
    let Some(end) = ends.filter(|end| *end <= record.log_start_offset).max() else {
        return Vec::new();
    };
    let parts = named.chunk_by(|a, b| a.0 == b.0);
    let is_whole = |parts: &[(i64, Part, &String)]| {
        let has = |wanted| parts.iter().any(|(_, part, _)| *part == wanted);
        has(Part::Kfs) && has(Part::Index)
    };
    let left = parts.filter(|parts| parts[0].0 < end && !is_whole(parts)).flatten();
    left.map(|(.., key)| (*key).clone()).collect()
}

/// What is left over of a partition's snapshots of producers.
pub fn of_snapshots(record: &PartitionRecord, keys: &[String]) -> Vec<String> {
    let is_left = |key: &&String| offset_of_snapshot(key).is_some_and(|offset| offset < record.rolled_offset);
    keys.iter().filter(is_left).cloned().collect()
}

fn offset_of_snapshot(key: &str) -> Option<i64> {
    key.rsplit('/').next()?.strip_suffix(".snap")?.parse().ok()
}

/// The partition that a key below a topic's prefix belongs to.
pub fn partition_of(prefix: &str, key: &str) -> Option<i32> {
    key.strip_prefix(prefix)?.split('/').next()?.parse().ok()
}

/// What earlier searches found, and when first.
#[derive(Debug, Default)]
pub struct Seen {
    first: BTreeMap<String, Duration>,
}

impl Seen {
    /// A search has found these objects now. Returns those that were found `grace` ago already.
    pub fn due(&mut self, found: Vec<String>, now: Duration, grace: Duration) -> Vec<String> {
        let mut due = Vec::new();
        let mut first = BTreeMap::new();
        for key in found {
            match self.first.get(&key) {
                Some(since) if now.saturating_sub(*since) >= grace => due.push(key),
                since if first.len() < LEFTOVERS_MAX => {
                    let since = since.copied().unwrap_or(now);
                    first.insert(key, since);
                }
                _ => {}
            }
        }
        self.first = first;
        due
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(log_start_offset: i64, rolled_offset: i64) -> PartitionRecord {
        PartitionRecord {
            leader: 1,
            leader_epoch: 1,
            leader_incarnation: 1,
            shard: 0,
            stream: 1,
            log_start_offset,
            rolled_offset,
            tail_streams: Vec::new(),
            epoch_starts: Vec::new(),
        }
    }

    fn parts(segments: &[(i64, &[Part])]) -> Vec<String> {
        let keys = segments
            .iter()
            .flat_map(|(base, parts)| parts.iter().map(|part| segment::key("ns", "orders", 3, *base, *part)));
        keys.collect()
    }

    const NONE: [i64; 0] = [];
    const ALL: &[Part] = &[Part::Index, Part::Kfs, Part::Kfst];
    const NO_INDEX: &[Part] = &[Part::Kfs, Part::Kfst];

    fn left(record: &PartitionRecord, segments: &[(i64, &[Part])]) -> Vec<i64> {
        let left = of_segments(record, &parts(segments));
        let mut bases: Vec<i64> = left.iter().map(|key| segment::parse_key(key).unwrap().0).collect();
        bases.dedup();
        bases
    }

    #[test]
    fn only_what_ends_before_the_logs_start_is_left_over() {
        let segments: &[(i64, &[Part])] = &[(0, &[Part::Index]), (10, &[Part::Kfst]), (20, NO_INDEX), (30, NO_INDEX)];
        assert_eq!(left(&record(0, 40), segments), NONE);
        assert_eq!(left(&record(19, 40), segments), NONE, "nobody knows where 10 ends");
        assert_eq!(left(&record(20, 40), segments), [0, 10]);
        assert_eq!(left(&record(29, 40), segments), [0, 10], "20 holds 29");
        assert_eq!(left(&record(30, 40), segments), [0, 10, 20]);
        assert_eq!(left(&record(39, 40), segments), [0, 10, 20]);
        assert_eq!(left(&record(40, 40), segments), [0, 10, 20, 30]);
    }

    #[test]
    fn whole_segments_are_their_owners() {
        let segments: &[(i64, &[Part])] = &[(0, ALL), (10, &[Part::Index, Part::Kfst]), (20, ALL)];
        assert_eq!(left(&record(30, 30), segments), [10]);
    }

    #[test]
    fn what_is_being_rolled_is_not_left_over() {
        // Records beyond what is rolled were deleted, and the roll that passes them is on its way.
        let segments: &[(i64, &[Part])] = &[(0, NO_INDEX), (40, &[Part::Index]), (60, ALL)];
        assert_eq!(left(&record(50, 40), segments), [0]);
        assert_eq!(left(&record(40, 40), &[(40, NO_INDEX)]), NONE);
    }

    #[test]
    fn a_lost_segment_that_still_counts_keeps_its_index() {
        // The segment at 10 is damage, and may be restored: the log starts in the middle of it.
        let segments: &[(i64, &[Part])] = &[(10, &[Part::Index, Part::Kfst]), (20, ALL)];
        assert_eq!(left(&record(15, 30), segments), NONE);
    }

    #[test]
    fn snapshots_before_the_one_that_counts_are_left_over() {
        let keys: Vec<String> = [5, 10, 15].map(|at| format!("ns/_producers/ab/3/{at:020}.snap")).into();
        assert_eq!(of_snapshots(&record(0, 10), &keys), keys[..1]);
        assert_eq!(of_snapshots(&record(0, 0), &keys), [] as [String; 0]);
        assert_eq!(partition_of("ns/_producers/ab/", &keys[0]), Some(3));
        assert_eq!(partition_of("ns/orders/", "ns/orders/12/segment-0.kfs"), Some(12));
        assert_eq!(partition_of("ns/orders/", "ns/orders/x/segment-0.kfs"), None);
    }

    #[test]
    fn nothing_goes_that_was_not_found_before_and_long_enough_ago() {
        let mut seen = Seen::default();
        let grace = Duration::from_secs(60);
        let found = || vec!["a".to_string(), "b".to_string()];
        assert_eq!(seen.due(found(), Duration::from_secs(0), grace), [] as [String; 0]);
        assert_eq!(
            seen.due(vec!["b".to_string()], Duration::from_secs(59), grace),
            [] as [String; 0]
        );
        assert_eq!(
            seen.due(found(), Duration::from_secs(61), grace),
            ["b"],
            "a was not there meanwhile"
        );
        assert_eq!(seen.due(found(), Duration::from_secs(200), grace), ["a"]);
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let mut seen = Seen::default();
        let found = (0..LEFTOVERS_MAX + 5).map(|number| format!("{number:06}")).collect();
        seen.due(found, Duration::ZERO, Duration::ZERO);
        assert_eq!(seen.first.len(), LEFTOVERS_MAX);
    }
}
