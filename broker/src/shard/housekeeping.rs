//! Housekeeping of what is durable: roll the tail into segments, merge and trim write-ahead objects, apply retention.
//!
//! One task does all of it in turn, so no two changes of one record are under way at the same time.

use super::takeover::ClaimError;
use super::{Shard, State};
use std::rc::Rc;
use std::time::Duration;

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
        self.doomed.push_back((due, key));
    }
}
