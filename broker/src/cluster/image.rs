//! What the cluster looks like: an immutable picture that every shard holds and no request waits for.

use kafscale_codec::types::TopicId;
use kafscale_metastore::keys::{BrokerRecord, Key, PartitionRecord, TopicRecord};
use std::collections::{BTreeMap, BTreeSet, HashMap};
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

/// What is set on a group.
#[derive(Debug, Clone)]
pub struct GroupConfigImage {
    /// By Kafka's names.
    pub configs: BTreeMap<String, String>,
    /// The revision of the record's latest change.
    pub mod_revision: u64,
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
    /// Topics that are recorded as deleted. A topic that is in neither list is not deleted: its record may be missing or
    /// unreadable for a while, and whoever leads its partitions keeps them.
    pub deleted: Arc<BTreeSet<TopicId>>,
    /// What is set on groups, by their ids; a group need not exist for it.
    pub group_configs: Arc<BTreeMap<String, GroupConfigImage>>,
    /// Records that exist and cannot be decoded, with the reason. The last readable copy of each, if there was one, is
    /// in force above.
    pub unreadable: Arc<BTreeMap<Key, String>>,
    /// Whether the picture is complete: everything that was stored at start has been read.
    pub complete: bool,
}

impl ClusterImage {
    /// The topic with this id.
    pub fn topic_by_id(&self, id: TopicId) -> Option<&Arc<TopicImage>> {
        self.topics.get(self.names.get(&id)?)
    }

    /// Whether this incarnation of the broker is registered. If the registration cannot be decoded, any is: nothing may be
    /// taken over from a broker of another version.
    pub fn is_live(&self, broker_id: i32, incarnation: u64) -> bool {
        let registered = self.brokers.get(&broker_id);
        registered.is_some_and(|broker| broker.incarnation == incarnation)
            || self.unreadable.contains_key(&Key::Broker(broker_id))
    }

    /// Whether a topic of this name exists whose record cannot be decoded, and no readable copy of it is known.
    pub fn is_unreadable(&self, name: &str) -> bool {
        // Looked up by name only when something is wrong at all: requests must not allocate for this.
        !self.unreadable.is_empty()
            && !self.topics.contains_key(name)
            && self.unreadable.contains_key(&Key::Topic(name.to_string()))
    }

    /// A number that is set on a group.
    pub fn group_number(&self, group: &str, name: &str) -> Option<u64> {
        // Most clusters set nothing on any group, and heartbeats ask.
        self.group_configs.get(group)?.configs.get(name)?.trim().parse().ok()
    }

    /// The leader, if it is live.
    pub fn live_leader(&self, topic: &TopicImage, partition: i32) -> Option<Leader> {
        let leader = (*topic.leaders.get(usize::try_from(partition).ok()?)?)?;
        self.is_live(leader.broker_id, leader.incarnation).then_some(leader)
    }

    /// The nodes that clients are told: each broker, or each of its shards where clients go straight to the shards.
    pub fn nodes(&self) -> impl Iterator<Item = NodeAddress<'_>> {
        self.brokers.values().flat_map(|broker| {
            let direct = broker.shard_ports.iter().zip(0..).map(|(port, shard)| NodeAddress {
                node_id: shard_node_id(broker.broker_id, shard),
                port: *port,
                broker,
            });
            let whole = NodeAddress {
                node_id: broker.broker_id,
                port: broker.port,
                broker,
            };
            direct.chain(broker.shard_ports.is_empty().then_some(whole))
        })
    }

    /// The node that clients are told for a shard of a broker.
    pub fn node_id(&self, broker_id: i32, shard: u32) -> i32 {
        match self.brokers.get(&broker_id) {
            Some(broker) if !broker.shard_ports.is_empty() => shard_node_id(broker_id, shard),
            _ => broker_id,
        }
    }

    /// The node that clients are told for what only the controller does.
    pub fn controller_node(&self) -> i32 {
        self.node_id(self.controller(), 0)
    }

    /// The lowest live broker id: it does what only one may do.
    pub fn controller(&self) -> i32 {
        self.brokers.keys().next().copied().unwrap_or(-1)
    }
}

/// A node as clients are told.
#[derive(Debug, Clone, Copy)]
pub struct NodeAddress<'a> {
    /// Its id.
    pub node_id: i32,
    /// Its port.
    pub port: u16,
    /// The broker that it is, or belongs to.
    pub broker: &'a BrokerRecord,
}

/// Broker ids stay below this where shards are nodes of their own.
pub const SHARD_NODE_ID_STEP: i32 = 1 << 20;

/// The node id of a shard: above all broker ids, and told apart from other brokers' shards.
pub fn shard_node_id(broker_id: i32, shard: u32) -> i32 {
    (shard as i32 + 1) * SHARD_NODE_ID_STEP + broker_id
}

/// The live broker that should own a partition: the rendezvous winner, so a join or a leave moves only what it must.
pub fn preferred_broker(image: &ClusterImage, topic: TopicId, partition: i32) -> Option<i32> {
    image
        .brokers
        .keys()
        .copied()
        .max_by_key(|id| (weight(topic, partition, u64::from(id.unsigned_abs())), *id))
}

/// The live broker that should coordinate the groups of a slot.
pub fn coordinating_broker(image: &ClusterImage, slot: u32) -> Option<i32> {
    // No topic has this id.
    preferred_broker(image, TopicId::default(), slot as i32)
}

/// The partitions of a topic that a broker should own, each with the shard for it: in turn, so that a few partitions
/// spread evenly (docs/decisions/0002).
pub fn preferred_shards<'a>(
    image: &'a ClusterImage,
    topic: &'a TopicImage,
    broker_id: i32,
    shards: u32,
) -> impl Iterator<Item = (i32, u32)> + 'a {
    let topic_id = topic.record.topic_id;
    let first = weight(topic_id, -1, 0) % u64::from(shards.max(1));
    (0..topic.record.partitions as i32)
        .filter(move |partition| preferred_broker(image, topic_id, *partition) == Some(broker_id))
        .zip(first..)
        .map(move |(partition, turn)| (partition, (turn % u64::from(shards.max(1))) as u32))
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

    fn image(brokers: i32, partitions: u32) -> (ClusterImage, TopicImage) {
        let mut image = ClusterImage::default();
        for broker_id in 0..brokers {
            let record = BrokerRecord {
                broker_id,
                incarnation: 1,
                host: String::new(),
                port: 1,
                rack: None,
                shards: 2,
                shard_ports: Vec::new(),
            };
            image.brokers.insert(broker_id, record);
        }
        let record = TopicRecord {
            topic_id: TopicId([7; 16]),
            folder: "t".into(),
            partitions,
            configs: BTreeMap::new(),
            created_ms: 0,
        };
        let leaders = vec![None; partitions as usize];
        (
            image,
            TopicImage {
                name: "t".into(),
                record,
                mod_revision: 1,
                leaders,
            },
        )
    }

    #[test]
    fn a_joining_broker_takes_its_share_and_nothing_else_moves() {
        let (three, topic) = image(3, 4000);
        let (four, _) = image(4, 4000);
        let mut moved = 0;
        for partition in 0..4000 {
            let before = preferred_broker(&three, topic.record.topic_id, partition);
            let after = preferred_broker(&four, topic.record.topic_id, partition);
            assert!(after == before || after == Some(3));
            moved += i32::from(after != before);
        }
        assert!((800..1200).contains(&moved), "{moved}");
    }

    #[test]
    fn the_partitions_of_a_broker_spread_evenly_over_its_shards() {
        for (brokers, partitions, shards) in [(1, 6, 2), (3, 100, 4), (2, 1, 8)] {
            let (image, topic) = image(brokers, partitions);
            let mut all = 0;
            for broker in 0..brokers {
                let mut counts = vec![0; shards as usize];
                preferred_shards(&image, &topic, broker, shards).for_each(|(_, shard)| counts[shard as usize] += 1);
                let (least, most) = (counts.iter().min().unwrap(), counts.iter().max().unwrap());
                assert!(most - least <= 1, "{counts:?}");
                all += counts.iter().sum::<u32>();
            }
            assert_eq!(all, partitions, "every partition has one owner");
        }
    }
}
