//! Every difference from Apache Kafka that is meant, with the reason. docs/protocol.md lists them.

use super::report::Difference;

/// Differences of one kind. `*` at either end of a pattern stands for anything.
#[derive(Debug)]
pub struct Meant {
    /// The API, or `*`.
    pub api: &'static str,
    /// A text that the case's label or its request contains.
    pub case: &'static str,
    /// The field.
    pub path: &'static str,
    pub kafka: &'static str,
    pub ours: &'static str,
    /// What a user should know. Entries that share a reason share a line in the documentation.
    pub why: &'static str,
}

const TRANSACTIONS: &str = "Transactions are not served. A request with a `transactional.id` gets \
    TRANSACTIONAL_ID_AUTHORIZATION_FAILED.";
const SERVED: &str =
    "Fewer APIs are served, some of them in older versions than Kafka 4 has, and no features are versioned.";
const SEGMENTS: &str =
    "Segments are objects: the defaults of `segment.bytes` and `segment.ms` are smaller, and so may \
    `segment.bytes` be.";
const TIERED: &str =
    "`remote.storage.enable` is accepted without effect: every record is in the object store. Kafka refuses it \
    where tiered storage is off.";
const REPLICAS: &str =
    "Kafka's controller sets `min.insync.replicas` for the whole cluster, so Kafka shows it as set; here \
    it has its default, since the object store replicates.";
const NULLS: &str = "Null records get INVALID_RECORD. Kafka's handler fails on them, and the client is never answered.";
const COMPRESSION: &str =
    "An unknown compression gets UNSUPPORTED_COMPRESSION_TYPE. Kafka's handler fails with UNKNOWN_SERVER_ERROR.";
const NUMBERED: &str =
    "The records of every batch must be numbered one after another, else INVALID_RECORD. Kafka checks \
    that in compressed batches only, and stores others in which offsets repeat.";
const NEW_PRODUCERS: &str = "An idempotent producer that is younger than the partition begins at sequence 0 \
    ([0003](decisions/0003-new-producers-begin-at-zero.md)).";
const OLD_BATCHES: &str =
    "A batch that was stored, but is older than the five that are remembered of its producer, gets \
    DUPLICATE_SEQUENCE_NUMBER, which producers take for success. Kafka answers OUT_OF_ORDER_SEQUENCE_NUMBER.";
const APPEND_TIMES: &str =
    "A batch that is sent again is answered with an append time only where the topic uses append \
    times. Kafka names the time of the first append in any topic.";
const DELETED_RECORDS: &str =
    "`ListOffsets` −3 of a partition without records is −1. Kafka may name a record that was deleted.";
const EPOCHS: &str = "OffsetForLeaderEpoch knows no epoch below −1. Kafka answers one with the end of the log.";
const CREATED_AT_ONCE: &str =
    "A topic that Metadata creates is there in the same answer. Kafka answers that it does not exist, and \
    creates it a moment later.";
const INTERNAL: &str = "Kafka's own topics do not exist: offsets and groups are not kept in topics.";
const DISK: &str = "DescribeLogDirs reports no disk sizes: the directory is the object store.";
const OPERATIONS: &str =
    "An unknown operation of IncrementalAlterConfigs gets INVALID_REQUEST. Kafka's controller fails with \
    UNKNOWN_SERVER_ERROR.";
const CLIENT_METRICS: &str =
    "Client metrics (KIP-714) are not collected: their settings are shown, and cannot be changed.";
const ASSIGNED_AT_ONCE: &str = "A group of the consumer protocol assigns as soon as a member changes, and \
    `consumer.assignment.interval.ms` has no effect. Kafka 4.3 assigns at most once in a second.";
const CHOICE: &str =
    "Which of its members a group of the consumer protocol gives a partition to is not Kafka's choice, \
    which depends on the order of a hash table. Both spread partitions evenly and move few.";
const COMPRESSED: &str = "The records of compressed batches are not decompressed and checked \
    ([0019](decisions/0019-what-is-read-of-a-batch.md)).";
const PENDING: &str = "A group that nobody has joined yet does not exist. Kafka shows it as empty after a while.";
const EACH_SHARD: &str =
    "A fetch whose limits are smaller than a batch gets one whole batch from each shard. Kafka sends one in \
    all.";
const SHARES: &str = "Share groups are not served: FindCoordinator refuses their keys with INVALID_REQUEST.";

/// The list. The first entry that matches counts.
pub const MEANT: &[Meant] = &[
    meant("InitProducerId", "transactional_id: Some", "*", "*", "*", TRANSACTIONS),
    meant(
        "ListTransactions",
        "",
        "transaction_states",
        "*",
        "0 items []",
        TRANSACTIONS,
    ),
    meant("Metadata", "__transaction_state", "topics*", "*", "*", INTERNAL),
    meant(
        "Fetch",
        "",
        "responses.partitions.records",
        "0 items []",
        "*items [batch*",
        EACH_SHARD,
    ),
    meant(
        "Fetch",
        "isolation_level: 1",
        "responses.partitions.aborted_transactions",
        "None",
        "0 items []",
        EACH_SHARD,
    ),
    meant("ApiVersions", "", "api_keys", "*", "*", SERVED),
    meant("ApiVersions", "", "supported_features", "*", "0 items []", SERVED),
    meant("ApiVersions", "", "finalized_features", "*", "0 items []", SERVED),
    meant("*", "", "*configs[segment.bytes].value", "*", "*", SEGMENTS),
    meant("*", "", "*configs[segment.bytes].synonyms.value", "*", "*", SEGMENTS),
    meant("*", "", "*configs[segment.ms].value", "*", "*", SEGMENTS),
    meant("CreateTopics", "segment.bytes=\"14\"", "topics*", "*", "*", SEGMENTS),
    meant(
        "IncrementalAlterConfigs",
        "segment.bytes=\"14\"",
        "responses.error_code",
        "40",
        "0",
        SEGMENTS,
    ),
    meant(
        "DescribeConfigs",
        "",
        "*configs[remote.storage.enable]*",
        "*",
        "*",
        TIERED,
    ),
    meant(
        "CreateTopics",
        "remote.storage.enable=\"true\"",
        "topics*",
        "*",
        "*",
        TIERED,
    ),
    meant(
        "IncrementalAlterConfigs",
        "remote.storage.enable=\"true\"",
        "responses.error_code",
        "40",
        "0",
        TIERED,
    ),
    meant(
        "*",
        "",
        "*configs[min.insync.replicas].config_source",
        "3",
        "5",
        REPLICAS,
    ),
    meant("*", "", "*configs[min.insync.replicas].synonyms", "*", "*", REPLICAS),
    meant("Produce", "records: None", "connection", "silent", "answered", NULLS),
    meant(
        "Produce",
        "",
        "responses.partition_responses.error_code",
        "-1",
        "76",
        COMPRESSION,
    ),
    meant("Produce", "offset delta 5", "*", "*", "*", NUMBERED),
    meant(
        "Produce",
        "exact-late",
        "responses.partition_responses*",
        "*",
        "*",
        NEW_PRODUCERS,
    ),
    meant(
        "Produce",
        "",
        "responses.partition_responses.error_code",
        "45",
        "46",
        OLD_BATCHES,
    ),
    meant(
        "Produce",
        "",
        "responses.partition_responses.log_append_time_ms",
        "<log_append_time_ms>",
        "-1",
        APPEND_TIMES,
    ),
    meant(
        "ListOffsets",
        "timestamp: -3",
        "topics.partitions.offset",
        "*",
        "-1",
        DELETED_RECORDS,
    ),
    meant(
        "ListOffsets",
        "timestamp: -3",
        "topics.partitions.timestamp",
        "*",
        "-1",
        DELETED_RECORDS,
    ),
    meant(
        "ListOffsets",
        "timestamp: -3",
        "topics.partitions.leader_epoch",
        "*",
        "-1",
        DELETED_RECORDS,
    ),
    meant(
        "OffsetForLeaderEpoch",
        "leader_epoch: -2147483648",
        "topics.partitions*",
        "*",
        "-1",
        EPOCHS,
    ),
    meant("Metadata", "", "topics.error_code", "3", "0", CREATED_AT_ONCE),
    meant(
        "Metadata",
        "",
        "topics.partitions",
        "0 items []",
        "1 items*",
        CREATED_AT_ONCE,
    ),
    meant(
        "Metadata",
        "",
        "topics.topic_id",
        "none",
        "<another id>",
        CREATED_AT_ONCE,
    ),
    meant("Metadata", "", "topics.is_internal", "true", "false", INTERNAL),
    meant("DescribeLogDirs", "", "results.total_bytes", "*", "-1", DISK),
    meant("DescribeLogDirs", "", "results.usable_bytes", "*", "-1", DISK),
    meant(
        "IncrementalAlterConfigs",
        "",
        "responses.error_code",
        "-1",
        "42",
        OPERATIONS,
    ),
    meant(
        "IncrementalAlterConfigs",
        "resource_type: 16",
        "responses.error_code",
        "*",
        "42",
        CLIENT_METRICS,
    ),
    meant(
        "AlterConfigs",
        "resource_type: 16",
        "responses.error_code",
        "*",
        "42",
        CLIENT_METRICS,
    ),
    meant(
        "DescribeConfigs",
        "",
        "*configs[consumer.assignment.interval.ms]*",
        "*",
        "*",
        ASSIGNED_AT_ONCE,
    ),
    meant(
        "ConsumerGroupHeartbeat",
        "drawn-consumer",
        "assignment*",
        "*",
        "*",
        CHOICE,
    ),
    meant(
        "ConsumerGroupDescribe",
        "drawn-consumer",
        "*assignment.topic_partitions*",
        "*",
        "*",
        CHOICE,
    ),
    meant("Produce", "rubbish that claims to be gzip", "*", "*", "*", COMPRESSED),
    meant("DeleteGroups", "", "results.error_code", "0", "69", PENDING),
    meant("DescribeGroups", "", "groups.error_code", "0", "69", PENDING),
    meant(
        "DescribeGroups",
        "",
        "groups.group_state",
        "\"Empty\"",
        "\"Dead\"",
        PENDING,
    ),
    meant("DescribeTopicPartitions", "topics: []", "*", "*", "*", INTERNAL),
    meant(
        "FindCoordinator",
        "key_type: 2",
        "coordinators.error_code",
        "15",
        "42",
        SHARES,
    ),
];

const fn meant(
    api: &'static str,
    case: &'static str,
    path: &'static str,
    kafka: &'static str,
    ours: &'static str,
    why: &'static str,
) -> Meant {
    Meant {
        api,
        case,
        path,
        kafka,
        ours,
        why,
    }
}

/// The entry that covers a difference.
pub fn find(difference: &Difference, request: &str) -> Option<usize> {
    MEANT.iter().position(|entry| {
        matches(entry.api, difference.api)
            && request.contains(entry.case)
            && matches(entry.path, &difference.path)
            && matches(entry.kafka, &difference.kafka)
            && matches(entry.ours, &difference.ours)
    })
}

fn matches(pattern: &str, value: &str) -> bool {
    match (pattern.strip_prefix('*'), pattern.strip_suffix('*')) {
        (Some(_), Some(_)) => value.contains(pattern.trim_matches('*')),
        (Some(end), _) if !end.is_empty() => value.ends_with(end),
        (_, Some(start)) => value.starts_with(start),
        _ => pattern == value,
    }
}

/// The list as docs/protocol.md has it.
pub fn markdown() -> String {
    let mut out = String::from("| API | field | what differs |\n|---|---|---|\n");
    let mut reasons: Vec<&str> = Vec::new();
    for entry in MEANT {
        if !reasons.contains(&entry.why) {
            reasons.push(entry.why);
        }
    }
    for why in reasons {
        let entries = || MEANT.iter().filter(|entry| entry.why == why);
        let names = |name: &dyn Fn(&Meant) -> &'static str| {
            let mut names: Vec<&str> = entries()
                .map(name)
                .map(|name| if name == "*" { "all" } else { name.trim_matches('*') })
                .collect();
            names.sort_unstable();
            names.dedup();
            names.join(", ")
        };
        out.push_str(&format!(
            "| {} | {} | {why} |\n",
            names(&|entry| entry.api),
            names(&|entry| entry.path)
        ));
    }
    out
}
