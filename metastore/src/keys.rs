//! Every key of the metastore, and with [`records`] every value: this is the layout on disk and in etcd.
//!
//! ```text
//! /kafscale/v1/cluster                                           ClusterRecord
//! /kafscale/v1/brokers/{id:010}                  (leased)        BrokerRecord
//! /kafscale/v1/starts/{id:010}                   (leased)        StartRecord
//! /kafscale/v1/counters/{name}                                   CountRecord   the next number that is free
//! /kafscale/v1/topics/{name}                                     TopicRecord
//! /kafscale/v1/names/{name}                                      CountRecord   topics that have had the name
//! /kafscale/v1/partitions/{topic id}/{partition:010}             PartitionRecord
//! /kafscale/v1/streams/{stream:016x}                             StreamRecord
//! /kafscale/v1/deleted/{topic id}                                DeletedTopicRecord
//! /kafscale/v1/groups/{slot:02}/{group}                          opaque to this crate
//! /kafscale/v1/offsets/{slot:02}/{group}/{topic id}/{partition:010}   OffsetRecord
//! /kafscale/v1/group-configs/{group}                             GroupConfigRecord
//! /kafscale/v1/coordinators/{slot:02}                            opaque: who coordinates the slot's groups
//! ```
//!
//! Topic ids are 32 lower-case hex digits. Group ids may be any string: in keys, every byte outside `A–Z a–z 0–9 . _ -`
//! is `%` and two upper-case hex digits, so no group's keys lie under another group's. Groups are spread over
//! [`GROUP_SLOTS`] slots by a hash of their id. Keys sort as their numbers do. [`Key::parse`] accepts exactly what the functions here write.

mod encoding;
mod records;

pub use encoding::RecordError;
pub use records::{
    BrokerRecord, ClusterRecord, CountRecord, DeletedTopicRecord, GroupConfigRecord, MergedObject, OffsetRecord,
    PartitionRecord, StartRecord, StreamRecord, StreamState, TopicRecord,
};

use bytes::Bytes;
use kafscale_codec::types::TopicId;
use std::fmt::Write;

/// All keys start with this.
pub const ROOT_PREFIX: &[u8] = b"/kafscale/v1/";
/// Start of [`broker_key`]s.
pub const BROKERS_PREFIX: &[u8] = b"/kafscale/v1/brokers/";
/// Start of [`counter_key`]s.
pub const COUNTERS_PREFIX: &[u8] = b"/kafscale/v1/counters/";
/// Start of [`topic_key`]s.
pub const TOPICS_PREFIX: &[u8] = b"/kafscale/v1/topics/";
/// Start of [`name_key`]s.
pub const NAMES_PREFIX: &[u8] = b"/kafscale/v1/names/";
/// Start of [`partition_key`]s.
pub const PARTITIONS_PREFIX: &[u8] = b"/kafscale/v1/partitions/";
/// Start of [`stream_key`]s.
pub const STREAMS_PREFIX: &[u8] = b"/kafscale/v1/streams/";
/// Start of [`deleted_key`]s.
pub const DELETED_PREFIX: &[u8] = b"/kafscale/v1/deleted/";

/// Start of [`group_config_key`]s.
pub const GROUP_CONFIGS_PREFIX: &[u8] = b"/kafscale/v1/group-configs/";

/// Slots that groups are spread over; each has one coordinator at a time. Keys depend on the number: it never changes.
pub const GROUP_SLOTS: u32 = 16;

/// Numbers of write-ahead streams.
pub const STREAM_COUNTER: &str = "streams";
/// Producer ids, handed out in blocks.
pub const PRODUCER_ID_COUNTER: &str = "producer-ids";
/// Lives of brokers.
pub const INCARNATION_COUNTER: &str = "incarnations";

/// Key of the [`ClusterRecord`].
pub fn cluster_key() -> Bytes {
    Bytes::from_static(b"/kafscale/v1/cluster")
}

/// Key of a [`BrokerRecord`].
pub fn broker_key(broker_id: i32) -> Bytes {
    Bytes::from(format!("/kafscale/v1/brokers/{broker_id:010}"))
}

/// Key of a broker's [`StartRecord`]. It is not in the [`BrokerRecord`], which older brokers have to read.
pub fn start_key(broker_id: i32) -> Bytes {
    Bytes::from(format!("/kafscale/v1/starts/{broker_id:010}"))
}

/// Key of a counter's [`CountRecord`].
pub fn counter_key(name: &str) -> Bytes {
    Bytes::from(format!("/kafscale/v1/counters/{name}"))
}

/// Key of a [`TopicRecord`].
pub fn topic_key(name: &str) -> Bytes {
    Bytes::from(format!("/kafscale/v1/topics/{name}"))
}

/// Key of the [`CountRecord`] that says how many topics have had a name.
pub fn name_key(name: &str) -> Bytes {
    Bytes::from(format!("/kafscale/v1/names/{name}"))
}

/// Key of a [`PartitionRecord`].
pub fn partition_key(topic_id: TopicId, partition: i32) -> Bytes {
    Bytes::from(format!("/kafscale/v1/partitions/{}/{partition:010}", hex(topic_id)))
}

/// Start of the keys of all partitions of a topic.
pub fn partitions_prefix(topic_id: TopicId) -> Bytes {
    Bytes::from(format!("/kafscale/v1/partitions/{}/", hex(topic_id)))
}

/// Key of a [`StreamRecord`].
pub fn stream_key(stream: u64) -> Bytes {
    Bytes::from(format!("/kafscale/v1/streams/{stream:016x}"))
}

/// Key of a [`DeletedTopicRecord`].
pub fn deleted_key(topic_id: TopicId) -> Bytes {
    Bytes::from(format!("/kafscale/v1/deleted/{}", hex(topic_id)))
}

/// The slot of a group: FNV-1a, so that it is the same on every machine and in every version.
pub fn group_slot(group: &str) -> u32 {
    let hash = group.bytes().fold(0xcbf2_9ce4_8422_2325u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
    });
    ((hash ^ (hash >> 32)) % u64::from(GROUP_SLOTS)) as u32
}

/// Start of the [`group_key`]s of a slot.
pub fn groups_prefix(slot: u32) -> Bytes {
    Bytes::from(format!("/kafscale/v1/groups/{slot:02}/"))
}

/// Start of the [`offset_key`]s of a slot.
pub fn offsets_prefix(slot: u32) -> Bytes {
    Bytes::from(format!("/kafscale/v1/offsets/{slot:02}/"))
}

/// Key of a group's state.
pub fn group_key(group: &str) -> Bytes {
    let slot = group_slot(group);
    Bytes::from(format!("/kafscale/v1/groups/{slot:02}/{}", escape(group)))
}

/// Key of a group's [`GroupConfigRecord`]. Every broker follows them all, so they are in no slot.
pub fn group_config_key(group: &str) -> Bytes {
    Bytes::from(format!("/kafscale/v1/group-configs/{}", escape(group)))
}

/// Key of an [`OffsetRecord`].
pub fn offset_key(group: &str, topic_id: TopicId, partition: i32) -> Bytes {
    let slot = group_slot(group);
    Bytes::from(format!(
        "/kafscale/v1/offsets/{slot:02}/{}/{}/{partition:010}",
        escape(group),
        hex(topic_id)
    ))
}

/// Key that tells who coordinates the groups of a slot. Every transaction of that coordinator compares and changes it.
pub fn coordinator_key(slot: u32) -> Bytes {
    Bytes::from(format!("/kafscale/v1/coordinators/{slot:02}"))
}

/// What a key names.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Key {
    /// The cluster.
    Cluster,
    /// A live broker, by its id.
    Broker(i32),
    /// When a live broker started, by its id.
    Start(i32),
    /// A counter, by its name.
    Counter(String),
    /// A topic, by its name.
    Topic(String),
    /// How often a topic name was used.
    Name(String),
    /// A partition.
    Partition(TopicId, i32),
    /// A write-ahead stream.
    Stream(u64),
    /// A topic that was deleted.
    Deleted(TopicId),
    /// A group, by its id.
    Group(String),
    /// A group's committed offset.
    Offset {
        /// The group.
        group: String,
        /// The topic.
        topic_id: TopicId,
        /// The partition.
        partition: i32,
    },
    /// What is set on a group, by its id.
    GroupConfig(String),
    /// Who coordinates a slot of groups.
    Coordinator(u32),
}

impl Key {
    /// Reads a key; `None` if no function of this module writes it (another version's, or not ours).
    pub fn parse(key: &[u8]) -> Option<Key> {
        let path = std::str::from_utf8(key.strip_prefix(ROOT_PREFIX)?).ok()?;
        let Some((kind, rest)) = path.split_once('/') else {
            return (path == "cluster").then_some(Key::Cluster);
        };
        match kind {
            "brokers" => Some(Key::Broker(parse_decimal(rest)?)),
            "starts" => Some(Key::Start(parse_decimal(rest)?)),
            "counters" => Some(Key::Counter(rest.to_string())),
            "topics" => Some(Key::Topic(rest.to_string())),
            "names" => Some(Key::Name(rest.to_string())),
            "partitions" => {
                let (topic_id, partition) = rest.split_once('/')?;
                Some(Key::Partition(parse_topic_id(topic_id)?, parse_decimal(partition)?))
            }
            "streams" => Some(Key::Stream(parse_stream(rest)?)),
            "deleted" => Some(Key::Deleted(parse_topic_id(rest)?)),
            "groups" => {
                let (slot, group) = rest.split_once('/')?;
                Some(Key::Group(parse_group(slot, group)?))
            }
            "offsets" => {
                let (slot, rest) = rest.split_once('/')?;
                let (group, rest) = rest.split_once('/')?;
                let (topic_id, partition) = rest.split_once('/')?;
                let (topic_id, partition) = (parse_topic_id(topic_id)?, parse_decimal(partition)?);
                Some(Key::Offset {
                    group: parse_group(slot, group)?,
                    topic_id,
                    partition,
                })
            }
            "group-configs" => Some(Key::GroupConfig(unescape(rest)?)),
            "coordinators" => Some(Key::Coordinator(parse_slot(rest)?)),
            _ => None,
        }
    }

    /// The key as stored.
    pub fn to_bytes(&self) -> Bytes {
        match self {
            Key::Cluster => cluster_key(),
            Key::Broker(id) => broker_key(*id),
            Key::Start(id) => start_key(*id),
            Key::Counter(name) => counter_key(name),
            Key::Topic(name) => topic_key(name),
            Key::Name(name) => name_key(name),
            Key::Partition(topic_id, partition) => partition_key(*topic_id, *partition),
            Key::Stream(stream) => stream_key(*stream),
            Key::Deleted(topic_id) => deleted_key(*topic_id),
            Key::Group(group) => group_key(group),
            Key::Offset {
                group,
                topic_id,
                partition,
            } => offset_key(group, *topic_id, *partition),
            Key::GroupConfig(group) => group_config_key(group),
            Key::Coordinator(slot) => coordinator_key(*slot),
        }
    }
}

fn hex(topic_id: TopicId) -> String {
    topic_id.0.iter().fold(String::with_capacity(32), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

fn parse_topic_id(text: &str) -> Option<TopicId> {
    let mut id = [0; 16];
    if text.len() != 32 {
        return None;
    }
    for (byte, pair) in id.iter_mut().zip(text.as_bytes().chunks_exact(2)) {
        *byte = lower_hex_digit(pair[0])? << 4 | lower_hex_digit(pair[1])?;
    }
    Some(TopicId(id))
}

fn parse_stream(text: &str) -> Option<u64> {
    if text.len() != 16 {
        return None;
    }
    text.bytes()
        .try_fold(0, |value, digit| Some(value << 4 | u64::from(lower_hex_digit(digit)?)))
}

/// Exactly ten digits; signs, which `i32::from_str` takes, are not written for numbers from 0.
fn parse_decimal(text: &str) -> Option<i32> {
    (text.len() == 10 && text.bytes().all(|byte| byte.is_ascii_digit())).then(|| text.parse().ok())?
}

fn parse_slot(text: &str) -> Option<u32> {
    let digits = text.len() == 2 && text.bytes().all(|byte| byte.is_ascii_digit());
    digits.then(|| text.parse().ok())?.filter(|slot| *slot < GROUP_SLOTS)
}

/// A group where it belongs.
fn parse_group(slot: &str, group: &str) -> Option<String> {
    let group = unescape(group)?;
    (parse_slot(slot)? == group_slot(&group)).then_some(group)
}

fn lower_hex_digit(byte: u8) -> Option<u8> {
    match byte {
        b'0'..=b'9' => Some(byte - b'0'),
        b'a'..=b'f' => Some(byte - b'a' + 10),
        _ => None,
    }
}

fn is_plain(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-')
}

fn escape(text: &str) -> String {
    text.bytes()
        .fold(String::with_capacity(text.len()), |mut escaped, byte| {
            if is_plain(byte) {
                escaped.push(char::from(byte));
            } else {
                let _ = write!(escaped, "%{byte:02X}");
            }
            escaped
        })
}

fn unescape(escaped: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(escaped.len());
    let mut rest = escaped.bytes();
    while let Some(byte) = rest.next() {
        bytes.push(match byte {
            b'%' => upper_hex_digit(rest.next()?)? << 4 | upper_hex_digit(rest.next()?)?,
            plain if is_plain(plain) => plain,
            _ => return None,
        });
    }
    let text = String::from_utf8(bytes).ok()?;
    // One spelling for each group: "%41" is not another "A".
    (escape(&text) == escaped).then_some(text)
}

fn upper_hex_digit(byte: u8) -> Option<u8> {
    match byte {
        b'0'..=b'9' => Some(byte - b'0'),
        b'A'..=b'F' => Some(byte - b'A' + 10),
        _ => None,
    }
}

#[cfg(test)]
mod size_tests;
#[cfg(test)]
mod tests;
