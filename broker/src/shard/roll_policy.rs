//! When a partition is rolled: a pure decision.

use crate::topic_config::TopicConfig;

/// A partition with this many unrolled bytes is rolled rather than merged when the stream has too many slots.
const ROLL_RATHER_THAN_MERGE_BYTES: u64 = 16 << 20;

/// What waits is small below `segment.bytes` divided by this.
const SMALL_PART: u64 = 8;

/// How it stands with a partition's unrolled records; there are some.
#[derive(Debug, Clone, Copy)]
pub(super) struct Facts {
    /// Their bytes.
    pub bytes: u64,
    /// Since when the oldest waits.
    pub age_ms: i64,
    /// Some lie in a stream of an earlier owner.
    pub inherited: bool,
}

/// What holds for all partitions of the shard.
#[derive(Debug, Clone, Copy)]
pub(super) struct Limits {
    /// The stream has too many live objects.
    pub crowded: bool,
    /// How long what is small may wait.
    pub small_ms: i64,
}

/// Why a partition is rolled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Why {
    /// There is enough for a segment.
    Large,
    /// It has waited long enough.
    Old,
}

/// Whether a partition is due, and why.
///
/// A segment costs a few puts however small it is, so a partition with little waits longer than `segment.ms` in the
/// write-ahead objects, where a put is shared by all: thousands of slow partitions cost about as many puts as ten fast ones.
/// It does not wait if the topic itself asks for `segment.ms`, nor beyond its retention, which only takes segments.
pub(super) fn why(facts: Facts, config: &TopicConfig, limits: Limits) -> Option<Why> {
    let Facts {
        bytes,
        age_ms,
        inherited,
    } = facts;
    if bytes >= config.segment_bytes || (limits.crowded && bytes >= ROLL_RATHER_THAN_MERGE_BYTES) {
        return Some(Why::Large);
    }
    let enough = config
        .retention_bytes
        .unwrap_or(u64::MAX)
        .min(config.segment_bytes / SMALL_PART);
    let may_wait = bytes < enough && !config.segment_ms_is_own && !inherited;
    let wait_ms = match may_wait {
        true => limits
            .small_ms
            .min(config.retention_ms.unwrap_or(i64::MAX))
            .max(config.segment_ms),
        false => config.segment_ms,
    };
    (age_ms >= wait_ms).then_some(Why::Old)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    const HOUR: i64 = 3_600_000;

    fn config(own: &[(&str, i64)]) -> TopicConfig {
        let own = own
            .iter()
            .map(|(name, value)| (name.to_string(), value.to_string()))
            .collect();
        TopicConfig::parse(&own, &BTreeMap::new()).unwrap()
    }

    fn facts(bytes: u64, age_ms: i64) -> Facts {
        Facts {
            bytes,
            age_ms,
            inherited: false,
        }
    }

    const LIMITS: Limits = Limits {
        crowded: false,
        small_ms: 6 * HOUR,
    };

    #[test]
    fn little_waits_longer_than_much() {
        let config = config(&[]);
        let much = config.segment_bytes / 8;
        assert_eq!(why(facts(much, HOUR - 1), &config, LIMITS), None);
        assert_eq!(why(facts(much, HOUR), &config, LIMITS), Some(Why::Old));
        assert_eq!(why(facts(much - 1, HOUR), &config, LIMITS), None);
        assert_eq!(why(facts(1, 6 * HOUR), &config, LIMITS), Some(Why::Old));
        assert_eq!(why(facts(config.segment_bytes, 0), &config, LIMITS), Some(Why::Large));
    }

    #[test]
    fn a_topic_that_asks_for_it_is_rolled_in_time_however_little_it_has() {
        let own = config(&[("segment.ms", 10)]);
        assert_eq!(why(facts(1, 10), &own, LIMITS), Some(Why::Old));
    }

    #[test]
    fn nothing_waits_beyond_its_retention() {
        let short = config(&[("retention.ms", 2 * HOUR)]);
        assert_eq!(why(facts(1, 2 * HOUR - 1), &short, LIMITS), None);
        assert_eq!(why(facts(1, 2 * HOUR), &short, LIMITS), Some(Why::Old));
        let little = config(&[("retention.bytes", 100)]);
        assert_eq!(why(facts(99, HOUR), &little, LIMITS), None);
        assert_eq!(why(facts(100, HOUR), &little, LIMITS), Some(Why::Old));
    }

    #[test]
    fn what_an_earlier_owner_wrote_does_not_wait() {
        let inherited = Facts {
            inherited: true,
            ..facts(1, HOUR)
        };
        assert_eq!(why(inherited, &config(&[]), LIMITS), Some(Why::Old));
    }

    #[test]
    fn a_crowded_stream_rolls_what_has_much() {
        let crowded = Limits {
            crowded: true,
            ..LIMITS
        };
        let config = config(&[]);
        assert_eq!(
            why(facts(ROLL_RATHER_THAN_MERGE_BYTES, 0), &config, crowded),
            Some(Why::Large)
        );
        assert_eq!(why(facts(ROLL_RATHER_THAN_MERGE_BYTES - 1, 0), &config, crowded), None);
    }
}
