//! Passing partitions on: to the broker that should have them once it is there, and to whoever comes when this one ends.
//!
//! A partition that moves is rolled to its end, so its next owner needs nothing of this shard's stream, and then released
//! in one transaction. A shard that ends ends its stream itself: its successors need not look for the end, nor wait for
//! the lease to lapse.

use super::ownership::NO_STREAM;
use super::takeover::ClaimError;
use super::{Partition, Shard};
use crate::cluster::image::{preferred_broker, ClusterImage};
use crate::planted::{self, Bug};
use futures::stream::{self, StreamExt};
use kafscale_codec::error_code::ErrorCode;
use kafscale_storage_engine::partition_log::{PartitionKey, PartitionLog};
use std::sync::Arc;
use std::time::Duration;

/// Partitions that are handed over at the same time; each waits for a few requests to the object store.
const AT_ONCE: usize = 16;

/// A partition does not stand still for longer than this: if the store is so slow, it goes on here, and is tried again.
const PAUSE_MAX: Duration = Duration::from_secs(5);

/// How often it is looked whether everything accepted is durable.
const LOOK: Duration = Duration::from_millis(1);

impl Shard {
    /// Hands over all partitions that another live broker should own. What fails is tried again in the next round.
    pub(super) async fn hand_over_all(&self) {
        let image = self.image();
        let done = self
            .placed
            .borrow()
            .as_ref()
            .is_some_and(|placed| Arc::ptr_eq(placed, &image));
        if done || !self.may_hand_over(&image) {
            return;
        }
        let moving = self.misplaced(&image);
        let (count, started) = (moving.len(), self.runtime.now());
        let failed = stream::iter(moving)
            .map(|key| async move {
                let handed_over = self.hand_over(key).await;
                self.set_moving(key, false);
                handed_over
                    .inspect_err(|error| log::warn!("hand over {key:?}: {error}; trying again"))
                    .is_err()
            })
            .buffer_unordered(AT_ONCE)
            .filter(|failed| std::future::ready(*failed))
            .count()
            .await;
        if count > failed {
            let took = self.runtime.now() - started;
            log::info!("{} partitions are handed over in {took:?}", count - failed);
        }
        if failed == 0 {
            *self.placed.borrow_mut() = Some(image);
        }
    }

    fn may_hand_over(&self, image: &ClusterImage) -> bool {
        let config = &self.config;
        image.complete && image.is_live(config.broker_id, config.incarnation) && !self.draining.get()
    }

    fn misplaced(&self, image: &ClusterImage) -> Vec<PartitionKey> {
        let state = self.state.borrow();
        let mut misplaced: Vec<PartitionKey> = state
            .partitions
            .keys()
            .filter(|key| {
                let preferred = preferred_broker(image, key.topic_id, key.partition);
                preferred.is_some_and(|broker| broker != self.config.broker_id)
            })
            .copied()
            .collect();
        misplaced.sort_unstable();
        misplaced
    }

    async fn hand_over(&self, key: PartitionKey) -> Result<(), ClaimError> {
        // Most of it while records still come: little is left for the time in which nobody may write.
        self.roll(key).await?;
        self.set_moving(key, true);
        let until = self.runtime.now() + PAUSE_MAX;
        while self.is_left(key, |log| log.has_uncommitted() && !planted::is(Bug::HandOverTooEarly)) {
            if self.runtime.now() >= until {
                return Err(ClaimError::Contended(format!(
                    "what is accepted of {key:?} is not durable, it"
                )));
            }
            self.runtime.sleep(LOOK).await;
        }
        while self.is_left(key, |log| log.tail_bytes() > 0) {
            self.roll(key).await?;
        }
        if let Some(partition) = self.state.borrow_mut().partitions.get_mut(&key) {
            partition.releasing = true;
        }
        let released = self
            .update_partition(key, |_, record| {
                record.leader = -1;
                record.leader_incarnation = 0;
                record.shard = 0;
                record.stream = NO_STREAM;
                record.tail_streams.clear();
            })
            .await;
        // Perhaps released is released: the next owner would not fence this shard's stream.
        if matches!(released, Ok(true)) || self.is_in_doubt(key) {
            self.state
                .borrow_mut()
                .drop_partition(key, ErrorCode::NOT_LEADER_OR_FOLLOWER);
            self.ownership_wake.wake();
        }
        released.map(|_| ())
    }

    fn is_in_doubt(&self, key: PartitionKey) -> bool {
        let state = self.state.borrow();
        state.partitions.get(&key).is_some_and(Partition::is_in_doubt)
    }

    fn is_left(&self, key: PartitionKey, left: impl FnOnce(&PartitionLog) -> bool) -> bool {
        let state = self.state.borrow();
        state.partitions.get(&key).is_some_and(|partition| left(&partition.log))
    }

    fn set_moving(&self, key: PartitionKey, moving: bool) {
        if let Some(partition) = self.state.borrow_mut().partitions.get_mut(&key) {
            partition.moving = moving;
            partition.releasing = false;
        }
    }

    /// Ends this shard's own stream and gives up all partitions, once everything accepted is durable and answered.
    pub(super) async fn end_own_stream(&self) {
        let Some(stream) = self.state.borrow().stream.as_ref().map(|stream| stream.id) else {
            return;
        };
        match self.seal(stream).await {
            Ok((_, end_seq)) => log::info!("shard {} ends its stream {stream} at {end_seq}", self.config.shard),
            Err(error) => log::warn!("end stream {stream}: {error}; whoever takes over will do it"),
        }
        self.state
            .borrow_mut()
            .forget_everything(ErrorCode::NOT_LEADER_OR_FOLLOWER);
    }
}
