//! One owner: in one leader epoch a partition is served by one shard of one broker's life.

use crate::executor::World;
use kafscale_broker::mailbox::ShardStats;
use kafscale_storage_engine::partition_log::PartitionKey;
use std::cell::RefCell;
use std::collections::BTreeMap;

/// A shard of a broker's life.
type Owner = (u64, u32);

/// Who owned what in which epoch.
pub struct Ownership {
    world: World,
    owners: RefCell<BTreeMap<(PartitionKey, i32), Owner>>,
}

impl Ownership {
    /// Nobody yet.
    pub fn new(world: &World) -> Self {
        Ownership {
            world: world.clone(),
            owners: RefCell::default(),
        }
    }

    /// A look at one shard.
    pub fn look(&self, incarnation: u64, shard: &ShardStats) {
        let mut owners = self.owners.borrow_mut();
        for partition in &shard.partitions {
            let owner = (incarnation, shard.shard);
            let epoch = (partition.key, partition.leader_epoch);
            let known = *owners.entry(epoch).or_insert(owner);
            if known != owner {
                self.world
                    .violate(format!("{epoch:?} is owned by {known:?} and by {owner:?}"));
            }
        }
    }
}
