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

    /// One round: what was asked for, then roll, merge, trim, expire, delete.
    pub async fn housekeeping(&self) -> Result<(), ClaimError> {
        self.apply_deletions().await?;
        self.hand_over_all().await;
        self.roll_due().await;
        while self.merge_slots().await? {}
        self.trim().await?;
        self.apply_retention().await?;
        self.delete_doomed().await?;
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
