//! What the cluster looks like: an immutable picture that every shard holds and no request waits for.

use kafscale_codec::types::TopicId;
use kafscale_metastore::keys::{BrokerRecord, PartitionRecord, TopicRecord};
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

/// Who leads a partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Leader {
    /// The broker.
    pub broker_id: i32,
    /// Its incarnation: a restart is somebody else.
    pub incarnation: u64,
    /// The shard in it.
    pub shard: u32,
    /// The epoch of its leadership.
    pub leader_epoch: i32,
}

impl Leader {
    /// The leader that a partition record names.
    pub fn of(record: &PartitionRecord) -> Leader {
        Leader {
            broker_id: record.leader,
            incarnation: record.leader_incarnation,
            shard: record.shard,
            leader_epoch: record.leader_epoch,
        }
    }
}

/// A topic with its leaders.
#[derive(Debug, Clone)]
pub struct TopicImage {
    /// The name.
    pub name: String,
    /// The stored record.
    pub record: TopicRecord,
    /// The revision of the record's latest change.
    pub mod_revision: u64,
    /// By partition index; `None` as long as nobody has claimed it.
    pub leaders: Vec<Option<Leader>>,
}

/// The cluster at one moment.
#[derive(Debug, Clone, Default)]
pub struct ClusterImage {
    /// The cluster's id.
    pub cluster_id: String,
    /// Live brokers by id.
    pub brokers: BTreeMap<i32, BrokerRecord>,
    /// Topics by name.
    pub topics: BTreeMap<String, Arc<TopicImage>>,
    /// Names by topic id.
    pub names: HashMap<TopicId, String>,
    /// Whether the picture is complete: everything that was stored at start has been read.
    pub complete: bool,
}

impl ClusterImage {
    /// The topic with this id.
    pub fn topic_by_id(&self, id: TopicId) -> Option<&Arc<TopicImage>> {
        self.topics.get(self.names.get(&id)?)
    }

    /// Whether this incarnation of the broker is registered.
    pub fn is_live(&self, broker_id: i32, incarnation: u64) -> bool {
        self.brokers
            .get(&broker_id)
            .is_some_and(|broker| broker.incarnation == incarnation)
    }

    /// The leader, if it is live.
    pub fn live_leader(&self, topic: &TopicImage, partition: i32) -> Option<Leader> {
        let leader = (*topic.leaders.get(usize::try_from(partition).ok()?)?)?;
        self.is_live(leader.broker_id, leader.incarnation).then_some(leader)
    }

    /// The lowest live broker id: it does what only one may do.
    pub fn controller(&self) -> i32 {
        self.brokers.keys().next().copied().unwrap_or(-1)
    }
}

/// The live broker that should own a partition: the rendezvous winner, so a join or a leave moves only what it must.
pub fn preferred_broker(image: &ClusterImage, topic: TopicId, partition: i32) -> Option<i32> {
    image
        .brokers
        .keys()
        .copied()
        .max_by_key(|id| (weight(topic, partition, u64::from(id.unsigned_abs())), *id))
}

/// The shard, of `shards`, that should own a partition within its broker.
pub fn preferred_shard(shards: u32, topic: TopicId, partition: i32) -> u32 {
    (0..shards)
        .max_by_key(|shard| (weight(topic, partition, (1 << 40) + u64::from(*shard)), *shard))
        .unwrap_or(0)
}

/// FNV-1a with a final mix: stable across versions and machines, which a rendezvous needs and a hasher of the standard
/// library does not promise.
fn weight(topic: TopicId, partition: i32, candidate: u64) -> u64 {
    let mut hash = 0xcbf2_9ce4_8422_2325_u64;
    let bytes = topic
        .0
        .into_iter()
        .chain(partition.to_be_bytes())
        .chain(candidate.to_be_bytes());
    for byte in bytes {
        hash = (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3);
    }
    hash ^= hash >> 33;
    hash = hash.wrapping_mul(0xff51_afd7_ed55_8ccd);
    hash ^ (hash >> 33)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn partitions_spread_over_shards_and_only_the_newcomers_share_moves() {
        let topic = TopicId([7; 16]);
        let mut counts = [0; 4];
        let mut moved = 0;
        for partition in 0..4_000 {
            let before = preferred_shard(3, topic, partition);
            let after = preferred_shard(4, topic, partition);
            assert!(
                after == before || after == 3,
                "a partition moves to the newcomer or not at all"
            );
            moved += i32::from(after != before);
            counts[after as usize] += 1;
        }
        assert!((800..1200).contains(&moved), "{moved}");
        assert!(counts.iter().all(|count| (800..1200).contains(count)), "{counts:?}");
    }
}
