//! A topic's settings: one table for names, defaults, bounds and what each does here.

use std::collections::BTreeMap;

/// How a setting's value is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A whole number within bounds.
    Number {
        /// Smallest value.
        min: i64,
        /// Largest value.
        max: i64,
    },
    /// One of these words, or several of them with commas between.
    Words {
        /// What may be said.
        allowed: &'static [&'static str],
        /// Whether several may be.
        list: bool,
    },
    /// A number between 0 and 1.
    Ratio,
    /// `true` or `false`, in any case.
    Bool,
    /// −1, or from 1 to 9.
    GzipLevel,
    /// Replicas as `partition:broker`, with commas between, or `*`.
    Replicas,
}

/// One topic setting.
#[derive(Debug, Clone, Copy)]
pub struct TopicSetting {
    /// Kafka's name.
    pub name: &'static str,
    /// Value if nothing is set.
    pub default: &'static str,
    /// What values there are.
    pub kind: Kind,
    /// What it does here.
    pub doc: &'static str,
}

const MAX: i64 = i64::MAX;
const NO_EFFECT: &str = "Accepted so that tools work; without effect here.";

const TIERED: &str = "Accepted so that tools work; without effect here: every record is in the object store.";

/// Kafka's names for the broker-wide values of topic settings; settings that are not here have no such value.
pub const BROKER_WIDE_NAMES: &[(&str, &str)] = &[
    ("cleanup.policy", "log.cleanup.policy"),
    ("compression.gzip.level", "compression.gzip.level"),
    ("compression.lz4.level", "compression.lz4.level"),
    ("compression.type", "compression.type"),
    ("compression.zstd.level", "compression.zstd.level"),
    ("delete.retention.ms", "log.cleaner.delete.retention.ms"),
    ("file.delete.delay.ms", "log.segment.delete.delay.ms"),
    ("flush.messages", "log.flush.interval.messages"),
    ("flush.ms", "log.flush.interval.ms"),
    ("index.interval.bytes", "log.index.interval.bytes"),
    ("local.retention.bytes", "log.local.retention.bytes"),
    ("local.retention.ms", "log.local.retention.ms"),
    ("max.compaction.lag.ms", "log.cleaner.max.compaction.lag.ms"),
    ("max.message.bytes", "message.max.bytes"),
    ("message.timestamp.after.max.ms", "log.message.timestamp.after.max.ms"),
    ("message.timestamp.before.max.ms", "log.message.timestamp.before.max.ms"),
    ("message.timestamp.type", "log.message.timestamp.type"),
    ("min.cleanable.dirty.ratio", "log.cleaner.min.cleanable.ratio"),
    ("min.compaction.lag.ms", "log.cleaner.min.compaction.lag.ms"),
    ("min.insync.replicas", "min.insync.replicas"),
    ("preallocate", "log.preallocate"),
    ("retention.bytes", "log.retention.bytes"),
    ("retention.ms", "log.retention.ms"),
    ("segment.bytes", "log.segment.bytes"),
    ("segment.index.bytes", "log.index.size.max.bytes"),
    ("segment.jitter.ms", "log.roll.jitter.ms"),
    ("segment.ms", "log.roll.ms"),
    ("unclean.leader.election.enable", "unclean.leader.election.enable"),
];

/// Settings whose broker-wide value Kafka leaves unset: another of its settings (hours, minutes) is in force then.
pub const UNSET_BROKER_WIDE: &[&str] = &["flush.ms", "retention.ms", "segment.jitter.ms", "segment.ms"];

/// Every topic setting that may be given, all that Kafka has; others are refused by name.
pub const TOPIC_SETTINGS: &[TopicSetting] = &[
    setting(
        "cleanup.policy",
        "delete",
        Kind::Words {
            allowed: &["delete", "compact"],
            list: true,
        },
        "With `compact`, or without `delete`, every record is kept: nothing is compacted and no retention applies.",
    ),
    setting("compression.gzip.level", "-1", Kind::GzipLevel, "Without effect: batches are stored as the producer sent them."),
    setting("compression.lz4.level", "9", Kind::Number { min: 1, max: 17 }, "Without effect: batches are stored as the producer sent them."),
    setting(
        "compression.type",
        "producer",
        Kind::Words {
            allowed: &["producer", "uncompressed", "gzip", "snappy", "lz4", "zstd"],
            list: false,
        },
        "Batches are stored as the producer sent them, whatever is set.",
    ),
    setting("compression.zstd.level", "3", Kind::Number { min: -131_072, max: 22 }, "Without effect: batches are stored as the producer sent them."),
    setting(
        "delete.retention.ms",
        "86400000",
        Kind::Number { min: 0, max: MAX },
        NO_EFFECT,
    ),
    setting(
        "file.delete.delay.ms",
        "60000",
        Kind::Number { min: 0, max: MAX },
        NO_EFFECT,
    ),
    setting(
        "flush.messages",
        "9223372036854775807",
        Kind::Number { min: 1, max: MAX },
        "Without effect: every record is durable before it is acknowledged.",
    ),
    setting(
        "flush.ms",
        "9223372036854775807",
        Kind::Number { min: 0, max: MAX },
        "Without effect: every record is durable before it is acknowledged.",
    ),
    setting("follower.replication.throttled.replicas", "", Kind::Replicas, "Without effect: there are no followers to throttle."),
    setting(
        "index.interval.bytes",
        "4096",
        Kind::Number {
            min: 0,
            max: i32::MAX as i64,
        },
        NO_EFFECT,
    ),
    setting("leader.replication.throttled.replicas", "", Kind::Replicas, "Without effect: there are no followers to throttle."),
    setting("local.retention.bytes", "-2", Kind::Number { min: -2, max: MAX }, TIERED),
    setting("local.retention.ms", "-2", Kind::Number { min: -2, max: MAX }, TIERED),
    setting(
        "max.compaction.lag.ms",
        "9223372036854775807",
        Kind::Number { min: 1, max: MAX },
        NO_EFFECT,
    ),
    setting(
        "max.message.bytes",
        "1048588",
        Kind::Number {
            min: 0,
            max: i32::MAX as i64,
        },
        "Largest batch in bytes; a larger one is answered MESSAGE_TOO_LARGE.",
    ),
    setting(
        "message.timestamp.after.max.ms",
        "3600000",
        Kind::Number { min: 0, max: MAX },
        "A batch with a record whose timestamp is further ahead of the broker's clock is answered INVALID_TIMESTAMP.",
    ),
    setting(
        "message.timestamp.before.max.ms",
        "9223372036854775807",
        Kind::Number { min: 0, max: MAX },
        "A batch with a record whose timestamp is further behind the broker's clock is answered INVALID_TIMESTAMP.",
    ),
    setting(
        "message.timestamp.type",
        "CreateTime",
        Kind::Words {
            allowed: &["CreateTime", "LogAppendTime"],
            list: false,
        },
        "`LogAppendTime` stamps each batch with the broker's clock.",
    ),
    setting("min.cleanable.dirty.ratio", "0.5", Kind::Ratio, NO_EFFECT),
    setting(
        "min.compaction.lag.ms",
        "0",
        Kind::Number { min: 0, max: MAX },
        NO_EFFECT,
    ),
    setting(
        "min.insync.replicas",
        "1",
        Kind::Number {
            min: 1,
            max: i32::MAX as i64,
        },
        "Without effect: the object store replicates.",
    ),
    setting("preallocate", "false", Kind::Bool, NO_EFFECT),
    setting("remote.log.copy.disable", "false", Kind::Bool, TIERED),
    setting("remote.log.delete.on.disable", "false", Kind::Bool, TIERED),
    setting("remote.storage.enable", "false", Kind::Bool, TIERED),
    setting(
        "retention.bytes",
        "-1",
        Kind::Number { min: i64::MIN, max: MAX },
        "Oldest segments of a partition go while it holds more than this; −1 for no limit.",
    ),
    setting(
        "retention.ms",
        "604800000",
        Kind::Number { min: -1, max: MAX },
        "Segments whose latest record is older go; −1 for ever.",
    ),
    setting(
        "segment.bytes",
        "134217728",
        Kind::Number {
            min: 14,
            max: i32::MAX as i64,
        },
        "Size at which a segment is rolled.",
    ),
    setting(
        "segment.index.bytes",
        "10485760",
        Kind::Number {
            min: 4,
            max: i32::MAX as i64,
        },
        NO_EFFECT,
    ),
    setting("segment.jitter.ms", "0", Kind::Number { min: 0, max: MAX }, NO_EFFECT),
    setting(
        "segment.ms",
        "3600000",
        Kind::Number { min: 1, max: MAX },
        "Age at which waiting records are rolled into a segment: however few if the topic sets it, else as the broker's \
         `segment_small_ms` says.",
    ),
    setting(
        "unclean.leader.election.enable",
        "false",
        Kind::Bool,
        "Without effect: there is nothing unclean to elect.",
    ),
];

const fn setting(name: &'static str, default: &'static str, kind: Kind, doc: &'static str) -> TopicSetting {
    TopicSetting {
        name,
        default,
        kind,
        doc,
    }
}

impl TopicSetting {
    /// A value that was accepted, as Kafka writes it back: `TRUE` is `true`, ` 5 ` is `5`.
    pub fn written_back(&self, value: &str) -> String {
        let value = value.trim();
        match self.kind {
            Kind::Number { .. } | Kind::GzipLevel => value.parse::<i64>().map(|number| number.to_string()),
            Kind::Ratio => Ok(value
                .parse::<f64>()
                .map_or(value.to_string(), |ratio| format!("{ratio:?}"))),
            Kind::Bool => Ok(value.to_ascii_lowercase()),
            Kind::Words { list: true, .. } => {
                let mut words: Vec<&str> = Vec::new();
                for word in value.split(',').map(str::trim) {
                    if !words.contains(&word) {
                        words.push(word);
                    }
                }
                Ok(words.join(","))
            }
            Kind::Words { list: false, .. } | Kind::Replicas => Ok(value.to_string()),
        }
        .unwrap_or_else(|_| value.to_string())
    }
}

/// Why a topic's settings were refused; written for the person who set them.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TopicConfigError {
    /// No such setting.
    #[error("Unknown topic config name: {0}")]
    Unknown(String),
    /// The value does not fit.
    #[error("Invalid value {value} for configuration {name}: {reason}")]
    Invalid {
        /// The setting.
        name: &'static str,
        /// What was given.
        value: String,
        /// What would fit.
        reason: String,
    },
}

/// The settings that act, parsed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TopicConfig {
    /// `max.message.bytes`.
    pub max_message_bytes: usize,
    /// `message.timestamp.type` is LogAppendTime.
    pub log_append_time: bool,
    /// `message.timestamp.before.max.ms`.
    pub timestamp_before_max_ms: i64,
    /// `message.timestamp.after.max.ms`.
    pub timestamp_after_max_ms: i64,
    /// `retention.ms`, `None` for ever.
    pub retention_ms: Option<i64>,
    /// `retention.bytes`, `None` without limit.
    pub retention_bytes: Option<u64>,
    /// `segment.bytes`.
    pub segment_bytes: u64,
    /// `segment.ms`.
    pub segment_ms: i64,
    /// The topic sets `segment.ms` itself.
    pub segment_ms_is_own: bool,
    /// `cleanup.policy` names compact, or does not name delete: keep everything.
    pub keep_everything: bool,
}

impl TopicConfig {
    /// Reads what is set on a topic, `defaults` (broker-wide values by Kafka's names) below it and the table's defaults
    /// at the bottom.
    pub fn parse(
        set: &BTreeMap<String, String>,
        defaults: &BTreeMap<String, String>,
    ) -> Result<Self, TopicConfigError> {
        for name in set.keys() {
            if !TOPIC_SETTINGS.iter().any(|setting| setting.name == name) {
                return Err(TopicConfigError::Unknown(name.clone()));
            }
        }
        let mut values = BTreeMap::new();
        for setting in TOPIC_SETTINGS {
            let value = set
                .get(setting.name)
                .or(defaults.get(setting.name))
                .map_or(setting.default, String::as_str);
            values.insert(setting.name, check(setting, value)?);
        }
        let number = |name| values.get(name).copied().flatten().unwrap_or(0);
        let word = |name: &str| {
            let found = TOPIC_SETTINGS
                .iter()
                .find(|setting| setting.name == name)
                .map(|setting| setting.default);
            set.get(name)
                .or(defaults.get(name))
                .map(String::as_str)
                .or(found)
                .unwrap_or("")
        };
        let limit = |value: i64| (value >= 0).then_some(value);
        Ok(TopicConfig {
            max_message_bytes: number("max.message.bytes") as usize,
            log_append_time: word("message.timestamp.type") == "LogAppendTime",
            timestamp_before_max_ms: number("message.timestamp.before.max.ms"),
            timestamp_after_max_ms: number("message.timestamp.after.max.ms"),
            retention_ms: limit(number("retention.ms")),
            retention_bytes: limit(number("retention.bytes")).map(|bytes| bytes as u64),
            segment_bytes: number("segment.bytes") as u64,
            segment_ms: number("segment.ms"),
            segment_ms_is_own: set.contains_key("segment.ms"),
            keep_everything: {
                let policies = || word("cleanup.policy").split(',').map(str::trim);
                policies().any(|policy| policy == "compact") || !policies().any(|policy| policy == "delete")
            },
        })
    }
}

/// Checks one value; numbers come back parsed.
fn check(setting: &TopicSetting, value: &str) -> Result<Option<i64>, TopicConfigError> {
    let invalid = |reason: String| TopicConfigError::Invalid {
        name: setting.name,
        value: value.to_string(),
        reason,
    };
    match setting.kind {
        Kind::Number { min, max } => {
            let number: i64 = value.trim().parse().map_err(|_| invalid("Not a number".to_string()))?;
            if number < min || number > max {
                return Err(invalid(format!("Value must be between {min} and {max}")));
            }
            Ok(Some(number))
        }
        Kind::Ratio => match value.trim().parse::<f64>() {
            Ok(ratio) if (0.0..=1.0).contains(&ratio) => Ok(None),
            _ => Err(invalid("Value must be between 0 and 1".to_string())),
        },
        Kind::Bool
            if ["true", "false"]
                .iter()
                .any(|word| value.trim().eq_ignore_ascii_case(word)) =>
        {
            Ok(None)
        }
        Kind::Bool => Err(invalid("Value must be true or false".to_string())),
        Kind::Words { allowed, list } => {
            let fits = |word: &str| allowed.contains(&word);
            let ok = if list {
                // An empty list is one without words.
                value.trim().is_empty() || value.split(',').all(|word| fits(word.trim()))
            } else {
                fits(value)
            };
            if ok {
                Ok(None)
            } else {
                Err(invalid(format!("String must be one of: {}", allowed.join(", "))))
            }
        }
        Kind::GzipLevel => match value.trim().parse::<i64>() {
            Ok(-1 | 1..=9) => Ok(None),
            _ => Err(invalid("Value must be between 1 and 9 or equal to -1".to_string())),
        },
        Kind::Replicas => {
            let number = |text: &str| !text.is_empty() && text.bytes().all(|digit| digit.is_ascii_digit());
            let replica = |text: &str| {
                text.split_once(':')
                    .is_some_and(|(one, two)| number(one) && number(two))
            };
            let mut words = value.split(',').map(str::trim);
            if value.trim().starts_with('*') || words.all(|word| word.is_empty() || replica(word)) {
                return Ok(None);
            }
            let why = "must be a comma-separated list of partition:broker, or *".to_string();
            Err(invalid(why))
        }
    }
}

/// The table of docs/, one row per setting.
pub fn topic_settings_markdown() -> String {
    let mut out = String::from("| setting | default | what it does |\n|---|---|---|\n");
    for setting in TOPIC_SETTINGS {
        out.push_str(&format!(
            "| `{}` | `{}` | {} |\n",
            setting.name, setting.default, setting.doc
        ));
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        pairs
            .iter()
            .map(|(name, value)| (name.to_string(), value.to_string()))
            .collect()
    }

    #[test]
    fn a_topic_overrides_the_broker_and_the_broker_overrides_the_table() {
        let broker = set(&[("retention.ms", "5"), ("segment.bytes", "1000")]);
        let config = TopicConfig::parse(&set(&[("retention.ms", "-1")]), &broker).unwrap();
        assert_eq!(config.retention_ms, None);
        assert_eq!(config.segment_bytes, 1000);
        assert_eq!(config.segment_ms, 3_600_000);
    }

    #[test]
    fn unknown_names_and_values_out_of_bounds_are_refused_by_name() {
        let none = BTreeMap::new();
        let unknown = TopicConfig::parse(&set(&[("retention.millis", "5")]), &none).unwrap_err();
        assert_eq!(unknown.to_string(), "Unknown topic config name: retention.millis");
        for (name, value) in [
            ("retention.ms", "-2"),
            ("retention.ms", "x"),
            ("cleanup.policy", "zip"),
            ("preallocate", "1"),
        ] {
            assert!(TopicConfig::parse(&set(&[(name, value)]), &none)
                .unwrap_err()
                .to_string()
                .contains(name));
        }
    }

    #[test]
    fn every_topic_setting_of_kafka_is_known_and_read_as_kafka_reads_it() {
        assert_eq!(TOPIC_SETTINGS.len(), 33);
        assert!(TOPIC_SETTINGS.is_sorted_by_key(|setting| setting.name));
        let broker = BTreeMap::new();
        for (name, accepted, refused) in [
            ("preallocate", &["TRUE", "False", " true "][..], &["1", "yes", ""][..]),
            ("cleanup.policy", &["", "compact,delete"], &["shred"]),
            ("compression.gzip.level", &["-1", "9"], &["0", "10"]),
            ("compression.zstd.level", &["-131072", "22"], &["23"]),
            (
                "leader.replication.throttled.replicas",
                &["", "*", "0:1,1:2"],
                &["x", "1:", "0:1,none"],
            ),
            ("local.retention.ms", &["-2", "5"], &["-3"]),
            ("remote.storage.enable", &["false"], &["maybe"]),
        ] {
            let parse = |value: &&str| TopicConfig::parse(&set(&[(name, value)]), &broker);
            assert!(accepted.iter().all(|value| parse(value).is_ok()), "{name}");
            assert!(refused.iter().all(|value| parse(value).is_err()), "{name}");
        }
        assert!(
            TopicConfig::parse(&set(&[("cleanup.policy", "")]), &broker)
                .unwrap()
                .keep_everything
        );
    }

    #[test]
    fn compaction_means_that_everything_is_kept() {
        let config = TopicConfig::parse(&set(&[("cleanup.policy", "compact,delete")]), &BTreeMap::new()).unwrap();
        assert!(config.keep_everything);
    }
}
