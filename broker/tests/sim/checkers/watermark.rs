//! High watermarks: within an epoch they never go back, and a later epoch never begins below where an earlier one was.

use crate::executor::World;
use kafscale_broker::mailbox::ShardStats;
use kafscale_storage_engine::partition_log::PartitionKey;
use std::cell::RefCell;
use std::collections::BTreeMap;

/// Lowest and highest of an epoch.
type Span = (i64, i64);

/// All high watermarks seen.
pub struct Watermarks {
    world: World,
    seen: RefCell<BTreeMap<PartitionKey, BTreeMap<i32, Span>>>,
}

impl Watermarks {
    /// None yet.
    pub fn new(world: &World) -> Self {
        Watermarks {
            world: world.clone(),
            seen: RefCell::default(),
        }
    }

    /// A look at one shard.
    pub fn look(&self, shard: &ShardStats) {
        let mut seen = self.seen.borrow_mut();
        for partition in &shard.partitions {
            let (epoch, now) = (partition.leader_epoch, partition.high_watermark);
            let epochs = seen.entry(partition.key).or_default();
            let span = epochs.entry(epoch).or_insert((now, now));
            if now < span.1 {
                self.world.violate(format!(
                    "{:?} epoch {epoch}: high watermark {} goes back to {now}",
                    partition.key, span.1
                ));
            }
            span.1 = span.1.max(now);
            let earlier = epochs
                .range(..epoch)
                .map(|(epoch, span)| (*epoch, span.1))
                .max_by_key(|(_, high)| *high);
            if let Some((before, high)) = earlier.filter(|(_, high)| *high > now) {
                self.world.violate(format!(
                    "{:?}: high watermark was {high} in epoch {before} and is {now} in epoch {epoch}",
                    partition.key
                ));
            }
            let later = epochs
                .range(epoch + 1..)
                .map(|(epoch, span)| (*epoch, span.0))
                .min_by_key(|(_, low)| *low);
            if let Some((after, low)) = later.filter(|(_, low)| *low < now) {
                self.world.violate(format!(
                    "{:?}: high watermark is {now} in epoch {epoch} though epoch {after} had {low}",
                    partition.key
                ));
            }
        }
    }
}
