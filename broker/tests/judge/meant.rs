//! Every difference from Apache Kafka that is meant, with the reason. docs/protocol.md lists them.

use super::report::Difference;

/// Differences of one kind. `*` at either end of a pattern stands for anything.
#[derive(Debug)]
pub struct Meant {
    /// The API, or `*`.
    pub api: &'static str,
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
const NAMES: &str =
    "Produce to a name that no topic can have gets INVALID_TOPIC_EXCEPTION, which ends the client's attempts. Kafka \
    answers UNKNOWN_TOPIC_OR_PARTITION, which clients try again.";
const NULLS: &str = "Null records get INVALID_RECORD. Kafka's handler fails on them, and the client is never answered.";
const COMPRESSION: &str =
    "An unknown compression gets UNSUPPORTED_COMPRESSION_TYPE. Kafka's handler fails with UNKNOWN_SERVER_ERROR.";
const NEW_PRODUCERS: &str = "An idempotent producer that is younger than the partition begins at sequence 0 \
    ([0003](decisions/0003-new-producers-begin-at-zero.md)).";
const OUT_OF_RANGE: &str = "A fetch that fails tells where the log begins and ends.";
const CREATED_AT_ONCE: &str =
    "A topic that Metadata creates is there in the same answer. Kafka answers that it does not exist, and \
    creates it a moment later.";
const BY_ID: &str = "Metadata finds topics by id from version 10 on, Kafka from 12 on.";
const INTERNAL: &str = "Kafka's own topics do not exist: offsets and groups are not kept in topics.";
const ISOLATION: &str = "An unknown `isolation_level` is taken for `read_uncommitted`. Kafka's handler fails with \
    UNKNOWN_SERVER_ERROR.";
const DISK: &str = "DescribeLogDirs reports no disk sizes: the directory is the object store.";
const OPERATIONS: &str =
    "An unknown operation of IncrementalAlterConfigs gets INVALID_REQUEST. Kafka's controller fails with \
    UNKNOWN_SERVER_ERROR.";

/// The list. The first entry that matches counts.
pub const MEANT: &[Meant] = &[
    meant("InitProducerId", "error_code", "*", "53", TRANSACTIONS),
    meant(
        "Produce",
        "responses.partition_responses.error_code",
        "*",
        "53",
        TRANSACTIONS,
    ),
    meant("ApiVersions", "api_keys", "*", "*", SERVED),
    meant("ApiVersions", "supported_features", "*", "0 items []", SERVED),
    meant("ApiVersions", "finalized_features", "*", "0 items []", SERVED),
    meant("*", "*configs.value", "\"1073741824\"", "\"134217728\"", SEGMENTS),
    meant("*", "*synonyms.value", "\"1073741824\"", "\"134217728\"", SEGMENTS),
    meant("*", "*configs.value", "\"604800000\"", "\"3600000\"", SEGMENTS),
    meant(
        "DescribeConfigs",
        "results.configs.value",
        "\"false\"",
        "\"true\"",
        TIERED,
    ),
    meant("Produce", "responses.partition_responses.error_code", "3", "17", NAMES),
    meant("Produce", "connection", "silent", "answered", NULLS),
    meant(
        "Produce",
        "responses.partition_responses.error_code",
        "-1",
        "76",
        COMPRESSION,
    ),
    meant(
        "Produce",
        "responses.partition_responses.error_code",
        "0",
        "45",
        NEW_PRODUCERS,
    ),
    meant(
        "Fetch",
        "responses.partitions.log_start_offset",
        "-1",
        "*",
        OUT_OF_RANGE,
    ),
    meant("Fetch", "responses.partitions.high_watermark", "-1", "*", OUT_OF_RANGE),
    meant(
        "Fetch",
        "responses.partitions.last_stable_offset",
        "-1",
        "*",
        OUT_OF_RANGE,
    ),
    meant("Metadata", "topics.error_code", "3", "0", CREATED_AT_ONCE),
    meant(
        "Metadata",
        "topics.partitions",
        "0 items []",
        "1 items*",
        CREATED_AT_ONCE,
    ),
    meant("Metadata", "topics.topic_id", "none", "<another id>", CREATED_AT_ONCE),
    meant("Metadata", "topics.error_code", "42", "*", BY_ID),
    meant("Metadata", "topics.name", "\"\"", "*", BY_ID),
    meant("Metadata", "topics.partitions", "0 items []", "3 items*", BY_ID),
    meant("Metadata", "cluster_id", "None", "<cluster_id>", BY_ID),
    meant("Metadata", "controller_id", "-1", "<controller_id>", BY_ID),
    meant("Metadata", "topics.is_internal", "true", "false", INTERNAL),
    meant("Fetch", "error_code", "-1", "0", ISOLATION),
    meant("ListOffsets", "topics.partitions.error_code", "-1", "0", ISOLATION),
    meant("DescribeLogDirs", "results.total_bytes", "*", "-1", DISK),
    meant("DescribeLogDirs", "results.usable_bytes", "*", "-1", DISK),
    meant(
        "IncrementalAlterConfigs",
        "responses.error_code",
        "-1",
        "42",
        OPERATIONS,
    ),
];

const fn meant(
    api: &'static str,
    path: &'static str,
    kafka: &'static str,
    ours: &'static str,
    why: &'static str,
) -> Meant {
    Meant {
        api,
        path,
        kafka,
        ours,
        why,
    }
}

/// The entry that covers a difference.
pub fn find(difference: &Difference) -> Option<usize> {
    MEANT.iter().position(|entry| {
        matches(entry.api, difference.api)
            && matches(entry.path, &difference.path)
            && matches(entry.kafka, &difference.kafka)
            && matches(entry.ours, &difference.ours)
    })
}

fn matches(pattern: &str, value: &str) -> bool {
    match (pattern.strip_prefix('*'), pattern.strip_suffix('*')) {
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
