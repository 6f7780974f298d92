//! The broker's settings under the names that Kafka's tools know, for DescribeConfigs. They are set at the start and
//! cannot be changed by a request.

use crate::coordinator::Assignor;
use crate::settings::Settings;
use std::collections::BTreeMap;

/// One setting of the broker.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BrokerConfig {
    /// Kafka's name.
    pub name: &'static str,
    /// What is in force.
    pub value: String,
    /// How the value is written.
    pub kind: ValueKind,
    /// What it does here.
    pub doc: &'static str,
}

/// How a value is written, for people who fill in forms.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ValueKind {
    /// `true` or `false`.
    Bool,
    /// Text.
    Text,
    /// A number that fits 32 bits.
    Int,
    /// Any whole number.
    Long,
    /// A number with a fraction.
    Double,
    /// Words with commas between.
    List,
}

/// The topic settings that have a broker-wide value, by the names that Kafka gives that value.
pub const BROKER_NAMES: &[(&str, &str)] = &[
    ("max.message.bytes", "message.max.bytes"),
    ("retention.bytes", "log.retention.bytes"),
    ("retention.ms", "log.retention.ms"),
    ("segment.bytes", "log.segment.bytes"),
    ("segment.ms", "log.roll.ms"),
];

/// The broker-wide values of topic settings, by the topics' names for them.
pub fn topic_defaults(settings: &Settings) -> BTreeMap<String, String> {
    BTreeMap::from([
        ("max.message.bytes".to_string(), settings.message_max_bytes.to_string()),
        ("retention.bytes".to_string(), settings.retention_bytes.to_string()),
        ("retention.ms".to_string(), settings.retention_ms.to_string()),
        ("segment.bytes".to_string(), settings.segment_bytes.to_string()),
        ("segment.ms".to_string(), settings.segment_ms.to_string()),
    ])
}

/// All of them, by name.
pub fn broker_configs(settings: &Settings) -> Vec<BrokerConfig> {
    use ValueKind::{Bool, Int, Long, Text};
    let entry = |name, value: String, kind, doc| BrokerConfig { name, value, kind, doc };
    let listener = format!("PLAINTEXT://{}:{}", settings.advertised_host, settings.advertised_port);
    let mut configs = vec![
        entry("advertised.listeners", listener, Text, "What Metadata tells clients."),
        entry(
            "auto.create.topics.enable",
            settings.auto_create_topics.to_string(),
            Bool,
            "Topics are created when first asked for.",
        ),
        entry(
            "broker.id",
            settings.broker_id.to_string(),
            Int,
            "Node id of this broker.",
        ),
        entry(
            "broker.rack",
            settings.rack.clone().unwrap_or_default(),
            Text,
            "The rack that clients are told.",
        ),
        entry(
            "connections.max.idle.ms",
            settings.connections_max_idle_ms.to_string(),
            Long,
            "Idle time after which a connection is closed.",
        ),
        entry(
            "default.replication.factor",
            "1".to_string(),
            Int,
            "The object store replicates; any factor is accepted.",
        ),
        entry(
            "group.consumer.assignors",
            Assignor::ALL.map(Assignor::name).join(","),
            ValueKind::List,
            "Assignors of the consumer protocol; the first is the default.",
        ),
        entry(
            "group.consumer.heartbeat.interval.ms",
            settings.group_consumer_heartbeat_interval_ms.to_string(),
            Int,
            "Interval of heartbeats in the consumer protocol.",
        ),
        entry(
            "group.consumer.session.timeout.ms",
            settings.group_consumer_session_timeout_ms.to_string(),
            Int,
            "Session timeout in the consumer protocol.",
        ),
        entry(
            "group.initial.rebalance.delay.ms",
            settings.group_initial_rebalance_delay_ms.to_string(),
            Int,
            "Wait of a new group for more members.",
        ),
        entry(
            "group.max.session.timeout.ms",
            settings.group_max_session_timeout_ms.to_string(),
            Int,
            "Longest session timeout of a group's member.",
        ),
        entry(
            "group.min.session.timeout.ms",
            settings.group_min_session_timeout_ms.to_string(),
            Int,
            "Shortest session timeout of a group's member.",
        ),
        entry(
            "max.connections",
            settings.max_connections.to_string(),
            Int,
            "Client connections at once.",
        ),
        entry(
            "num.partitions",
            settings.auto_create_partitions.to_string(),
            Int,
            "Partitions of topics created without a number.",
        ),
        entry(
            "offsets.retention.minutes",
            settings.offsets_retention_minutes.to_string(),
            Int,
            "How long the offsets of an empty group are kept.",
        ),
        entry(
            "producer.id.expiration.ms",
            settings.producer_id_expiration_ms.to_string(),
            Int,
            "Idle time after which a producer id is forgotten.",
        ),
        entry(
            "socket.request.max.bytes",
            settings.socket_request_max_bytes.to_string(),
            Int,
            "Largest request frame.",
        ),
    ];
    let defaults = topic_defaults(settings);
    for (topic_name, name) in BROKER_NAMES {
        let value = defaults.get(*topic_name).cloned().unwrap_or_default();
        configs.push(entry(name, value, Long, "For topics that do not say."));
    }
    configs.sort_by_key(|config| config.name);
    configs
}
