//! Which APIs exist, and which versions the broker serves: ApiVersions and docs/protocol.md come from this table.

macro_rules! api_keys {
    ($($name:ident = $key:literal, flexible $flexible:literal,)*) => {
        /// An API of the Kafka protocol.
        #[allow(missing_docs)] // The names are Kafka's.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[repr(i16)]
        pub enum ApiKey {
            $($name = $key,)*
        }

        impl ApiKey {
            /// The API with this key.
            pub fn from_key(key: i16) -> Option<ApiKey> {
                match key {
                    $($key => Some(ApiKey::$name),)*
                    _ => None,
                }
            }

            /// Kafka's name.
            pub fn name(self) -> &'static str {
                match self {
                    $(ApiKey::$name => stringify!($name),)*
                }
            }

            /// First version with compact fields and tags (KIP-482).
            pub fn flexible_from(self) -> i16 {
                match self {
                    $(ApiKey::$name => $flexible,)*
                }
            }
        }
    };
}

api_keys! {
    Produce = 0, flexible 9,
    Fetch = 1, flexible 12,
    ListOffsets = 2, flexible 6,
    Metadata = 3, flexible 9,
    OffsetCommit = 8, flexible 8,
    OffsetFetch = 9, flexible 6,
    FindCoordinator = 10, flexible 3,
    JoinGroup = 11, flexible 6,
    Heartbeat = 12, flexible 4,
    LeaveGroup = 13, flexible 4,
    SyncGroup = 14, flexible 4,
    DescribeGroups = 15, flexible 5,
    ListGroups = 16, flexible 3,
    SaslHandshake = 17, flexible 32767,
    ApiVersions = 18, flexible 3,
    CreateTopics = 19, flexible 5,
    DeleteTopics = 20, flexible 4,
    DeleteRecords = 21, flexible 2,
    InitProducerId = 22, flexible 2,
    OffsetForLeaderEpoch = 23, flexible 4,
    DescribeConfigs = 32, flexible 4,
    AlterConfigs = 33, flexible 2,
    DescribeLogDirs = 35, flexible 2,
    SaslAuthenticate = 36, flexible 2,
    CreatePartitions = 37, flexible 2,
    DeleteGroups = 42, flexible 2,
    IncrementalAlterConfigs = 44, flexible 1,
    OffsetDelete = 47, flexible 32767,
    DescribeClientQuotas = 48, flexible 1,
    DescribeCluster = 60, flexible 0,
    DescribeProducers = 61, flexible 0,
    ListTransactions = 66, flexible 0,
    ConsumerGroupHeartbeat = 68, flexible 0,
    ConsumerGroupDescribe = 69, flexible 0,
    DescribeTopicPartitions = 75, flexible 0,
}

impl ApiKey {
    /// Version of the request header (KIP-482).
    pub fn request_header_version(self, version: i16) -> i16 {
        if version >= self.flexible_from() {
            2
        } else {
            1
        }
    }

    /// Version of the response header. ApiVersions always answers with 0, so that any client can read it (KIP-511).
    pub fn response_header_version(self, version: i16) -> i16 {
        i16::from(self != ApiKey::ApiVersions && version >= self.flexible_from())
    }
}

/// An API that the broker answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ServedApi {
    /// The API.
    pub key: ApiKey,
    /// First version.
    pub min: i16,
    /// Last version.
    pub max: i16,
    /// What a user should know.
    pub note: &'static str,
}

/// Every API that the broker answers. A row stands here only if a handler does what it says.
pub const SERVED: &[ServedApi] = &[
    served_api(ApiKey::Produce, 0, 13, "acks 0, 1 and −1; the last two are answered once the records are durable, and an error with acks 0 closes the connection. `timeout_ms` has no effect: there are no followers to wait for. Versions 0–2 carry message sets of magic 0 and 1, which become v2 batches."),
    served_api(ApiKey::Fetch, 4, 17, "Fetch sessions (KIP-227) last as long as their connection. From 16 on, NOT_LEADER_OR_FOLLOWER says who is (KIP-951)."),
    served_api(ApiKey::ListOffsets, 0, 10, "−1 latest, −2 earliest, −3 largest timestamp, −4 earliest local, −5 latest tiered, or any timestamp."),
    served_api(ApiKey::Metadata, 0, 13, "Creates topics where the client allows it and the broker does."),
    served_api(ApiKey::OffsetCommit, 0, 9, "Answered once the offsets are durable. A commit without member and generation is accepted while the group is empty."),
    served_api(ApiKey::OffsetFetch, 0, 9, "−1 where nothing was committed; all topics, or several groups, at once."),
    served_api(ApiKey::FindCoordinator, 0, 6, "Groups only; a transactional id is refused."),
    served_api(ApiKey::JoinGroup, 0, 9, "Dynamic and static members (KIP-394, KIP-345); the leader's assignment is handed out as it is."),
    served_api(ApiKey::Heartbeat, 0, 4, ""),
    served_api(ApiKey::LeaveGroup, 0, 5, ""),
    served_api(ApiKey::SyncGroup, 0, 5, "Answered once the assignment is durable."),
    served_api(ApiKey::DescribeGroups, 0, 6, ""),
    served_api(ApiKey::ListGroups, 0, 5, "Filters by state and type."),
    served_api(ApiKey::ApiVersions, 0, 4, "A version not known is answered with version 0 and the list."),
    served_api(ApiKey::CreateTopics, 0, 7, "Any replication factor is accepted; a manual assignment of known brokers is taken as a number of partitions."),
    served_api(ApiKey::DeleteTopics, 0, 6, "By name or by id."),
    served_api(ApiKey::DeleteRecords, 0, 2, "Moves the first offset; segments before it are deleted. Refused with POLICY_VIOLATION where `cleanup.policy` names `compact`."),
    served_api(ApiKey::InitProducerId, 0, 5, "Idempotent producers; a transactional id is refused."),
    served_api(ApiKey::OffsetForLeaderEpoch, 2, 4, "The end of the newest epoch is the high watermark."),
    served_api(ApiKey::DescribeConfigs, 1, 4, "Topics and this broker, with synonyms, types and documentation. A broker's settings are read-only."),
    served_api(ApiKey::AlterConfigs, 0, 2, "Topics; a broker's settings are set at its start."),
    served_api(ApiKey::DescribeLogDirs, 1, 4, "One directory, `object-store`, with the partitions that this broker leads."),
    served_api(ApiKey::CreatePartitions, 0, 3, "A manual assignment of known brokers is taken as a number of partitions."),
    served_api(ApiKey::DeleteGroups, 0, 2, "A group with members is refused with NON_EMPTY_GROUP."),
    served_api(ApiKey::IncrementalAlterConfigs, 0, 1, "Topics; a broker's settings are set at its start."),
    served_api(ApiKey::OffsetDelete, 0, 0, "Offsets of a topic that the group subscribes to are refused with GROUP_SUBSCRIBED_TO_TOPIC."),
    served_api(ApiKey::DescribeClientQuotas, 0, 1, "Empty: there are no quotas."),
    served_api(ApiKey::DescribeCluster, 0, 2, ""),
    served_api(ApiKey::DescribeProducers, 0, 0, "The idempotent producers that the leader remembers."),
    served_api(ApiKey::ListTransactions, 0, 2, "Empty: there are no transactions."),
    served_api(ApiKey::ConsumerGroupHeartbeat, 0, 1, "Answered from memory unless it changes the group, then once the change is durable. Assignors `uniform` and `range`; `uniform` prefers the rack of a partition's leader."),
    served_api(ApiKey::ConsumerGroupDescribe, 0, 1, ""),
    served_api(ApiKey::DescribeTopicPartitions, 0, 0, ""),
];

const fn served_api(key: ApiKey, min: i16, max: i16, note: &'static str) -> ServedApi {
    ServedApi { key, min, max, note }
}

/// The row of `key`, if the broker serves that API.
pub fn served(key: ApiKey) -> Option<&'static ServedApi> {
    SERVED.iter().find(|api| api.key == key)
}

/// The table of docs/protocol.md.
pub fn protocol_table_markdown() -> String {
    let mut out = String::from("| key | API | versions | notes |\n|---|---|---|---|\n");
    for api in SERVED {
        out.push_str(&format!(
            "| {} | {} | {}–{} | {} |\n",
            api.key as i16,
            api.key.name(),
            api.min,
            api.max,
            api.note
        ));
    }
    out
}
