//! Housekeeping of what is durable: roll the tail into segments, merge and trim write-ahead objects, apply retention.
//!
//! One task does all of it in turn, so no two changes of one record are under way at the same time.

use super::takeover::ClaimError;
use super::{Shard, State};
use crate::runtime::Instant;
use kafscale_storage_engine::partition_log::PartitionKey;
use std::rc::Rc;
use std::time::Duration;

/// How often all producers are looked at, as in Kafka (`producer.id.expiration.check.interval.ms`).
const EXPIRY_INTERVAL: Duration = Duration::from_secs(600);

/// Producers looked at in one round of housekeeping: some hundred microseconds.
const PRODUCERS_PER_ROUND: usize = 5_000;

/// Objects that wait to be deleted; each takes some 100 bytes. Beyond them write-ahead objects are left to the reconciler,
/// which deletes their stream, and retention waits.
pub(super) const DOOMED_MAX: usize = 100_000;

/// How far the search for idempotent producers that fell silent has come.
#[derive(Debug, Default)]
pub(super) struct Expiry {
    /// When the next search begins.
    next: Instant,
    /// Partitions that are still to be looked at, the last one first.
    left: Vec<PartitionKey>,
    /// Where in that one to go on.
    from: i64,
}

impl Shard {
    /// Looks after everything that is due, again and again, until the shard stops.
    pub(super) async fn housekeeping_loop(self: Rc<Self>) {
        while !self.stopped.get() {
            self.runtime.sleep(self.config.housekeeping_interval).await;
            if self.stopped.get() {
                break;
            }
            self.look_for_room().await;
            if let Err(error) = self.housekeeping().await {
                log::warn!("housekeeping of shard {}: {error}; trying again", self.config.shard);
            }
        }
    }

    /// One round: what was asked for, then roll, merge, trim, expire, delete. A step that fails does not keep the others
    /// from their turn.
    ///
    /// # Errors
    /// The first that a step had; all are tried again in the next round.
    pub async fn housekeeping(&self) -> Result<(), ClaimError> {
        let deleted_records = self.apply_deletions().await;
        self.hand_over_all().await;
        self.roll_due().await;
        let merged = self.merge_all().await;
        let trimmed = self.trim().await;
        self.expire_producers();
        let retained = self.apply_retention().await;
        let deleted_objects = self.delete_doomed().await;
        let mut steps = [deleted_records, merged, trimmed, retained, deleted_objects].into_iter();
        let first = steps.find(Result::is_err).unwrap_or(Ok(()));
        for error in steps.filter_map(Result::err) {
            log::warn!("housekeeping of shard {}: {error}; trying again", self.config.shard);
        }
        first
    }

    async fn merge_all(&self) -> Result<(), ClaimError> {
        while self.merge_slots().await? {}
        Ok(())
    }

    /// Forgets idempotent producers that fell silent (`producer.id.expiration.ms`): a few in each round, all of them in time.
    fn expire_producers(&self) {
        let now = self.runtime.now();
        let expiration_ms = self.config.producer_expiration_ms;
        let before_ms = self.runtime.wall_clock_ms().saturating_sub(expiration_ms);
        let mut state = self.state.borrow_mut();
        let State { partitions, expiry, .. } = &mut *state;
        if expiry.left.is_empty() && expiry.next <= now {
            let interval = EXPIRY_INTERVAL.min(Duration::from_millis(expiration_ms.max(0) as u64));
            *expiry = Expiry {
                next: now + interval,
                left: partitions.keys().copied().collect(),
                from: 0,
            };
        }
        let mut looked_at = 0;
        while let Some(key) = expiry.left.last().filter(|_| looked_at < PRODUCERS_PER_ROUND) {
            let next = partitions.get_mut(key).and_then(|partition| {
                let most = PRODUCERS_PER_ROUND - looked_at;
                let (count, next) = partition.log.expire_producers(before_ms, expiry.from, most);
                looked_at += count;
                next
            });
            // A partition without producers takes time, too.
            looked_at += 1;
            expiry.from = next.unwrap_or(0);
            if next.is_none() {
                expiry.left.pop();
            }
        }
    }

    async fn delete_doomed(&self) -> Result<(), ClaimError> {
        let now = self.runtime.now();
        loop {
            let batch: Vec<String> = {
                let state = self.state.borrow();
                state
                    .doomed
                    .iter()
                    .take_while(|(due, _)| *due <= now)
                    .take(100)
                    .map(|(_, key)| key.clone())
                    .collect()
            };
            if batch.is_empty() {
                return Ok(());
            }
            self.store.delete(&batch).await?;
            self.state.borrow_mut().doomed.drain(..batch.len());
        }
    }
}

impl State {
    /// Has an object deleted that nothing refers to any more, `due` or later.
    pub(super) fn doom(&mut self, due: Duration, key: String) {
        if self.may_doom() {
            self.doomed.push_back((due, key));
        }
    }

    /// Whether objects can wait to be deleted. If not, the object store has refused to delete any for long.
    pub(super) fn may_doom(&self) -> bool {
        self.doomed.len() < DOOMED_MAX
    }
}
