//! Partitions that are refused because what they need is damaged, and when each is tried again.
//!
//! A quarantined partition is claimed like any other as far as its record can be read: it has one owner, who refuses it
//! with KAFKA_STORAGE_ERROR. Its record keeps naming every stream that may hold records of it, so nothing of them is
//! deleted, and opening it again later finds whatever was restored meanwhile.

use super::State;
use crate::cluster::image::TopicImage;
use crate::runtime::Instant;
use kafscale_codec::error_code::ErrorCode;
use kafscale_storage_engine::partition_log::PartitionKey;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

/// Pause before a quarantined partition is tried again; doubles up to [`PAUSE_MAX`].
const PAUSE: Duration = Duration::from_secs(1);
const PAUSE_MAX: Duration = Duration::from_secs(60);

/// A partition that is refused.
pub(super) struct Quarantined {
    /// Its topic, for its name.
    pub topic: Arc<TopicImage>,
    /// The epoch in which this shard refuses it; `None` if its record could not be read.
    pub leader_epoch: Option<i32>,
    retry_at: Instant,
    pause: Duration,
}

impl Quarantined {
    /// The next claim tries it again.
    pub fn retry_now(&mut self) {
        self.retry_at = Instant::ZERO;
    }
}

/// How a request is answered for a partition that is not served here.
pub(super) fn refusal(quarantined: &BTreeMap<PartitionKey, Quarantined>, key: PartitionKey) -> ErrorCode {
    match quarantined.contains_key(&key) {
        true => ErrorCode::KAFKA_STORAGE_ERROR,
        false => ErrorCode::NOT_LEADER_OR_FOLLOWER,
    }
}

impl State {
    /// Refuses a partition from now on, or again.
    pub(super) fn quarantine(
        &mut self,
        key: PartitionKey,
        topic: Arc<TopicImage>,
        leader_epoch: Option<i32>,
        now: Instant,
    ) {
        let before = self.quarantined.get(&key);
        let pause = before.map_or(PAUSE, |before| (before.pause * 2).min(PAUSE_MAX));
        let quarantined = Quarantined {
            topic,
            leader_epoch,
            retry_at: now + pause,
            pause,
        };
        self.quarantined.insert(key, quarantined);
    }

    /// Whether it is too early to try this partition again.
    pub(super) fn is_resting(&self, key: PartitionKey, now: Instant) -> bool {
        self.quarantined.get(&key).is_some_and(|refused| now < refused.retry_at)
    }

    /// Gives a quarantined partition that was due and is still quarantined another pause. It may not have been tried at all:
    /// the broker is not registered, or another broker leads the partition. The ownership loop would spin on it.
    pub(super) fn postpone_due_retries(&mut self, now: Instant) {
        for refused in self.quarantined.values_mut() {
            if refused.retry_at <= now {
                refused.retry_at = now + refused.pause;
            }
        }
    }

    /// When the next quarantined partition is to be tried again.
    pub(super) fn next_retry(&self) -> Option<Instant> {
        self.quarantined.values().map(|refused| refused.retry_at).min()
    }
}
