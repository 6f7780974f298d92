//! What the coordinator is asked, and what it answers: Kafka's messages with the differences of versions taken out.

use super::consumer::{self, ConsumerHeartbeat};
use bytes::Bytes;
use kafscale_codec::error_code::ErrorCode;
use kafscale_codec::messages::{
    ConsumerGroupHeartbeatResponse, DescribedConsumerGroup, DescribedGroup, HeartbeatRequest, JoinGroupResponse,
    LeaveGroupResponse, ListedGroup, MemberIdentity, SyncGroupRequest, SyncGroupResponse,
};
use kafscale_codec::types::TopicId;
use kafscale_metastore::keys::OffsetRecord;

/// The bounds and delays of groups. The names are those of Kafka's settings where it has them.
#[derive(Debug, Clone)]
pub struct GroupConfig {
    /// Shortest session timeout that a member may ask for (`group.min.session.timeout.ms`).
    pub session_timeout_min_ms: i32,
    /// Longest session timeout that a member may ask for (`group.max.session.timeout.ms`).
    pub session_timeout_max_ms: i32,
    /// How long an empty group waits for more members before its first generation (`group.initial.rebalance.delay.ms`).
    pub initial_rebalance_delay_ms: u64,
    /// Members of one group (`group.max.size`).
    pub group_size_max: usize,
    /// Bytes that one group may take as a stored record: etcd refuses values above 1.5 MiB.
    pub group_bytes_max: usize,
    /// How long a new member may wait in its first join without a word from it: it cannot send heartbeats yet.
    pub new_member_join_timeout_ms: u64,
    /// Requests of one group that wait for a write of its state.
    pub deferred_max: usize,
    /// Bytes of the text that a client may add to a committed offset (`offset.metadata.max.bytes`).
    pub offset_metadata_bytes_max: usize,
    /// How long offsets outlive their group (`offsets.retention.minutes`).
    pub offsets_retention_ms: i64,
    /// Without a word for this long, a member of the consumer protocol is out (`group.consumer.session.timeout.ms`).
    pub consumer_session_timeout_ms: u64,
    /// How often members of the consumer protocol shall give a sign of life (`group.consumer.heartbeat.interval.ms`).
    pub consumer_heartbeat_interval_ms: i32,
}

impl Default for GroupConfig {
    fn default() -> Self {
        GroupConfig {
            session_timeout_min_ms: 6_000,
            session_timeout_max_ms: 30 * 60 * 1000,
            initial_rebalance_delay_ms: 0,
            group_size_max: 5_000,
            group_bytes_max: 1 << 20,
            new_member_join_timeout_ms: 5 * 60 * 1000,
            deferred_max: 1_024,
            offset_metadata_bytes_max: 4_096,
            offsets_retention_ms: 7 * 24 * 60 * 60 * 1000,
            consumer_session_timeout_ms: 45_000,
            consumer_heartbeat_interval_ms: 5_000,
        }
    }
}

/// One reading of both clocks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Now {
    /// Milliseconds from an arbitrary start, never backwards: sessions and rebalances rest on it.
    pub monotonic_ms: u64,
    /// Milliseconds since the Unix epoch: what is stored and compared after restarts.
    pub wall_ms: i64,
}

/// Names the request that a reply answers. The caller chooses it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ReplyToken(pub u64);

/// A question to the coordinator.
#[derive(Debug, Clone, PartialEq)]
pub enum GroupRequest {
    /// JoinGroup.
    Join(Join),
    /// SyncGroup. Versions without protocol type and name leave them null.
    Sync(SyncGroupRequest),
    /// Heartbeat.
    Heartbeat(HeartbeatRequest),
    /// LeaveGroup.
    Leave(Leave),
    /// OffsetCommit.
    Commit(Commit),
    /// OffsetFetch of one group.
    FetchOffsets(FetchOffsets),
    /// OffsetDelete.
    DeleteOffsets(DeleteOffsets),
    /// DescribeGroups.
    Describe {
        /// The groups; to a service, of one slot.
        groups: Vec<String>,
    },
    /// ListGroups.
    List {
        /// Only groups in one of these states, whatever the case of the letters; empty: all.
        states: Vec<String>,
        /// Only groups of one of these types; empty: all.
        types: Vec<String>,
    },
    /// ConsumerGroupHeartbeat (KIP-848).
    ConsumerHeartbeat(Box<ConsumerHeartbeat>),
    /// ConsumerGroupDescribe.
    DescribeConsumers {
        /// The groups; to a service, of one slot.
        groups: Vec<String>,
    },
    /// DeleteGroups, one of them.
    DeleteGroup {
        /// The group.
        group_id: String,
    },
    /// These topics are gone, and so are the offsets that groups committed for them.
    TopicsDeleted {
        /// The topics.
        topic_ids: Vec<TopicId>,
    },
    /// Forget offsets that are past their retention, and groups that nothing is left of.
    /// An offset of a live group goes only if its topic exists and nobody in the group subscribes to it.
    ExpireOffsets,
}

/// JoinGroup.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Join {
    /// The group.
    pub group_id: String,
    /// The member, empty if it has no id yet.
    pub member_id: String,
    /// Set by static members (KIP-345).
    pub group_instance_id: Option<String>,
    /// What the client calls itself.
    pub client_id: String,
    /// Where it comes from.
    pub client_host: String,
    /// Without a word for this long, the member is out.
    pub session_timeout_ms: i32,
    /// How long the member may take to rejoin. Version 0 has no such field: then the session timeout.
    pub rebalance_timeout_ms: i32,
    /// For example `consumer` or `connect`.
    pub protocol_type: String,
    /// Names of assignors with their metadata, best first.
    pub protocols: Vec<(String, Bytes)>,
    /// Whether a new member gets its id first and joins with it then (KIP-394, version 4).
    pub require_known_member_id: bool,
    /// Whether a leader can be told to keep the assignment (KIP-814, version 9).
    pub supports_skip_assignment: bool,
    /// Random bits for a new member id.
    pub random: u128,
}

/// LeaveGroup.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Leave {
    /// The group.
    pub group_id: String,
    /// Who leaves. Versions before 3 name one member.
    pub members: Vec<MemberIdentity>,
}

/// OffsetCommit, with topics by id: unknown names never come this far.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Commit {
    /// The group.
    pub group_id: String,
    /// The member's generation, negative without membership.
    pub generation_id: i32,
    /// The member, empty without membership.
    pub member_id: String,
    /// Set by static members.
    pub group_instance_id: Option<String>,
    /// Whether the request's version knows of member epochs (version 9).
    pub knows_epochs: bool,
    /// A retention that the client asks for (versions 2–4), negative if it does not.
    pub retention_time_ms: i64,
    /// What to remember.
    pub offsets: Vec<CommitOffset>,
}

/// One offset to remember.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct CommitOffset {
    /// The topic.
    pub topic_id: TopicId,
    /// The partition.
    pub partition: i32,
    /// Next offset to consume.
    pub offset: i64,
    /// Leader epoch of the last record consumed, −1 if unknown.
    pub leader_epoch: i32,
    /// Comes back on fetch.
    pub metadata: String,
}

/// OffsetFetch of one group.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct FetchOffsets {
    /// The group.
    pub group_id: String,
    /// Who asks, if a member of the consumer protocol does.
    pub member_id: Option<String>,
    /// Its epoch; negative if nobody says.
    pub member_epoch: i32,
    /// Which partitions; `None` asks for all that have an offset.
    pub partitions: Option<Vec<(TopicId, i32)>>,
}

/// OffsetDelete.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct DeleteOffsets {
    /// The group.
    pub group_id: String,
    /// Topics (name and id) and partitions.
    pub partitions: Vec<(String, TopicId, i32)>,
}

/// An answer of the coordinator.
#[derive(Debug, Clone, PartialEq)]
pub enum GroupReply {
    /// To [`GroupRequest::Join`].
    Join(JoinGroupResponse),
    /// To [`GroupRequest::Sync`].
    Sync(SyncGroupResponse),
    /// To [`GroupRequest::Heartbeat`].
    Heartbeat(ErrorCode),
    /// To [`GroupRequest::Leave`].
    Leave(LeaveGroupResponse),
    /// To [`GroupRequest::Commit`]: one code per offset, in the request's order.
    Commit(Vec<ErrorCode>),
    /// To [`GroupRequest::FetchOffsets`].
    Offsets {
        /// Whether the coordinator could look at all.
        error: ErrorCode,
        /// `None` where nothing was committed: Kafka's −1.
        offsets: Vec<(TopicId, i32, Option<OffsetRecord>)>,
        /// Where something was committed that cannot be decoded.
        unreadable: Vec<(TopicId, i32)>,
    },
    /// To [`GroupRequest::DeleteOffsets`].
    DeleteOffsets {
        /// Of the request.
        error: ErrorCode,
        /// One code per partition, in the request's order.
        partitions: Vec<ErrorCode>,
    },
    /// To [`GroupRequest::Describe`].
    Described(Vec<DescribedGroup>),
    /// To [`GroupRequest::ConsumerHeartbeat`].
    ConsumerHeartbeat(ConsumerGroupHeartbeatResponse),
    /// To [`GroupRequest::DescribeConsumers`].
    DescribedConsumers(Vec<DescribedConsumerGroup>),
    /// To [`GroupRequest::List`].
    Listed {
        /// Whether the list is all there is.
        error: ErrorCode,
        /// The groups.
        groups: Vec<ListedGroup>,
    },
    /// To [`GroupRequest::DeleteGroup`].
    Deleted(ErrorCode),
    /// To requests that have no answer in Kafka's protocol.
    Done(ErrorCode),
}

impl GroupRequest {
    /// The group that it is about, if it is about one; the first of those described, which share a slot.
    pub fn group_id(&self) -> Option<&str> {
        match self {
            GroupRequest::Join(join) => Some(&join.group_id),
            GroupRequest::Sync(sync) => Some(&sync.group_id),
            GroupRequest::Heartbeat(heartbeat) => Some(&heartbeat.group_id),
            GroupRequest::Leave(leave) => Some(&leave.group_id),
            GroupRequest::Commit(commit) => Some(&commit.group_id),
            GroupRequest::FetchOffsets(fetch) => Some(&fetch.group_id),
            GroupRequest::DeleteOffsets(delete) => Some(&delete.group_id),
            GroupRequest::ConsumerHeartbeat(heartbeat) => Some(&heartbeat.request.group_id),
            GroupRequest::DeleteGroup { group_id } => Some(group_id),
            GroupRequest::Describe { groups } | GroupRequest::DescribeConsumers { groups } => {
                groups.first().map(String::as_str)
            }
            GroupRequest::List { .. } | GroupRequest::TopicsDeleted { .. } | GroupRequest::ExpireOffsets => None,
        }
    }

    /// The reply that says nothing but `error`.
    pub fn refuse(&self, error: ErrorCode) -> GroupReply {
        match self {
            GroupRequest::Join(join) => GroupReply::Join(join_error(&join.member_id, error)),
            GroupRequest::Sync(_) => GroupReply::Sync(sync_error(error)),
            GroupRequest::Heartbeat(_) => GroupReply::Heartbeat(error),
            GroupRequest::Leave(_) => GroupReply::Leave(LeaveGroupResponse {
                error_code: error,
                ..LeaveGroupResponse::default()
            }),
            GroupRequest::Commit(commit) => GroupReply::Commit(vec![error; commit.offsets.len()]),
            GroupRequest::FetchOffsets(_) => GroupReply::Offsets {
                error,
                offsets: Vec::new(),
                unreadable: Vec::new(),
            },
            GroupRequest::DeleteOffsets(_) => GroupReply::DeleteOffsets {
                error,
                partitions: Vec::new(),
            },
            GroupRequest::Describe { groups } => GroupReply::Described(
                groups
                    .iter()
                    .map(|group| DescribedGroup {
                        error_code: error,
                        group_id: group.clone(),
                        ..DescribedGroup::default()
                    })
                    .collect(),
            ),
            GroupRequest::List { .. } => GroupReply::Listed {
                error,
                groups: Vec::new(),
            },
            GroupRequest::DeleteGroup { .. } => GroupReply::Deleted(error),
            GroupRequest::ConsumerHeartbeat(_) => consumer::refused(error, None),
            GroupRequest::DescribeConsumers { groups } => {
                let described = groups.iter().map(|group| DescribedConsumerGroup {
                    error_code: error,
                    group_id: group.clone(),
                    ..DescribedConsumerGroup::default()
                });
                GroupReply::DescribedConsumers(described.collect())
            }
            GroupRequest::TopicsDeleted { .. } | GroupRequest::ExpireOffsets => GroupReply::Done(error),
        }
    }
}

pub(super) fn join_error(member_id: &str, error_code: ErrorCode) -> JoinGroupResponse {
    JoinGroupResponse {
        error_code,
        member_id: member_id.to_string(),
        ..JoinGroupResponse::default()
    }
}

pub(super) fn sync_error(error_code: ErrorCode) -> SyncGroupResponse {
    SyncGroupResponse {
        error_code,
        ..SyncGroupResponse::default()
    }
}
