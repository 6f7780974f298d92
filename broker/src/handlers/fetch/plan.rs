//! Which shards have what a fetch reads.

use super::session::{Partition, Reading, TopicName};
use crate::cluster::image::{ClusterImage, Leader, TopicImage};
use crate::node::{find_topic, route, Node, Route, TopicRef};
use kafscale_codec::error_code::ErrorCode;
use kafscale_storage_engine::partition_log::PartitionKey;
use std::collections::BTreeMap;
use std::sync::Arc;

/// Where each partition of a reading is, as of one image of the cluster.
#[derive(Debug)]
pub(super) struct Plan {
    image: Arc<ClusterImage>,
    /// By shard of this broker: positions in the reading, ascending, and what the shard calls them.
    pub shards: BTreeMap<u32, Vec<(usize, PartitionKey)>>,
    /// What cannot be read here.
    pub refused: Vec<Refused>,
}

/// A partition that cannot be read here.
#[derive(Debug)]
pub(super) struct Refused {
    /// Position in the reading.
    pub at: usize,
    pub error: ErrorCode,
    /// Who has it (KIP-951).
    pub leader: Option<Leader>,
}

impl Plan {
    /// The reading's plan, made anew if the cluster has changed since.
    pub fn of<'a>(node: &Node, reading: &'a mut Reading) -> &'a Plan {
        let image = node.image();
        let current = reading.plan.take().filter(|plan| Arc::ptr_eq(&plan.image, &image));
        let plan = current.unwrap_or_else(|| Plan::new(node, image, reading));
        reading.plan.insert(plan)
    }

    fn new(node: &Node, image: Arc<ClusterImage>, reading: &Reading) -> Plan {
        let topics: Vec<_> = reading
            .topics
            .iter()
            .map(|topic| match topic {
                TopicName::Name(name) => find_topic(&image, TopicRef::Name(name)),
                TopicName::Id(id) => find_topic(&image, TopicRef::Id(*id)),
            })
            .collect();
        let mut shards: BTreeMap<u32, Vec<(usize, PartitionKey)>> = BTreeMap::new();
        let mut refused = Vec::new();
        for (at, partition) in reading.partitions.iter().enumerate() {
            let placed = topics[partition.topic as usize].and_then(|topic| {
                let route = route(&image, node.config.broker_id, topic, partition.index)?;
                let refused = match route {
                    Route::Here(_) => refusal(&image, topic, partition),
                    Route::Elsewhere(_) => None,
                };
                Ok((route, topic.record.topic_id, refused))
            });
            let (error, leader) = match placed {
                Ok((Route::Here(_), _, Some((error, leader)))) => (error, leader),
                Ok((Route::Here(shard), topic_id, None)) => {
                    let key = PartitionKey {
                        topic_id,
                        partition: partition.index,
                    };
                    shards.entry(shard).or_default().push((at, key));
                    continue;
                }
                Ok((Route::Elsewhere(leader), ..)) => (ErrorCode::NOT_LEADER_OR_FOLLOWER, leader),
                Err(error) => (error, None),
            };
            refused.push(Refused { at, error, leader });
        }
        drop(topics);
        Plan { image, shards, refused }
    }

    /// Who has the partition at this position, if that is known and is not here.
    pub fn leader_elsewhere(&self, at: usize) -> Option<Leader> {
        let found = self.refused.binary_search_by_key(&at, |refused| refused.at).ok()?;
        self.refused[found].leader
    }

    /// Whether any partition exists.
    pub fn finds_any(&self) -> bool {
        let known = |refused: &Refused| super::comes_from_log(refused.error);
        !self.shards.is_empty() || self.refused.iter().any(known)
    }

    /// The cluster that it was made for.
    pub fn image(&self) -> &ClusterImage {
        &self.image
    }
}

/// Why a partition that is here is not read, and who leads it if that is the reason. A wrong leader epoch comes first, and
/// is found where the partition is.
fn refusal(image: &ClusterImage, topic: &TopicImage, partition: &Partition) -> Option<(ErrorCode, Option<Leader>)> {
    let leader = image.live_leader(topic, partition.index)?;
    if partition.leader_epoch >= 0 && partition.leader_epoch != leader.leader_epoch {
        return None;
    }
    if partition.by_follower {
        // There are no followers.
        return Some((ErrorCode::NOT_LEADER_OR_FOLLOWER, Some(leader)));
    }
    // No record can be of an epoch that has not begun (KIP-595).
    (partition.last_fetched_epoch > leader.leader_epoch).then_some((ErrorCode::OFFSET_OUT_OF_RANGE, None))
}
