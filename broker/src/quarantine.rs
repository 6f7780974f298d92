//! Which partitions of this broker are quarantined, for the people who look: readiness, metrics, the status page.
//!
//! A partition is quarantined if something that it needs is damaged or missing, so that serving it could mean to serve it
//! shortened. Its shard answers every request for it with KAFKA_STORAGE_ERROR, tries again with pauses, and writes what
//! is wrong here. All other partitions are served.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// A partition, by the topic's name.
pub type Place = (String, i32);

/// The quarantined partitions of all shards with the reason of each. Clones are one and the same, on any thread. No
/// request waits for its lock: it changes only when a partition is opened.
#[derive(Debug, Clone, Default)]
pub struct QuarantineBoard(Arc<Mutex<BTreeMap<Place, String>>>);

impl QuarantineBoard {
    fn places(&self) -> MutexGuard<'_, BTreeMap<Place, String>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Writes down why a partition is refused. `true` if that is news.
    pub fn add(&self, topic: &str, partition: i32, why: &str) -> bool {
        let place = (topic.to_string(), partition);
        self.places().insert(place, why.to_string()).as_deref() != Some(why)
    }

    /// The partition is not refused here any longer. `true` if it was.
    pub fn remove(&self, topic: &str, partition: i32) -> bool {
        self.places().remove(&(topic.to_string(), partition)).is_some()
    }

    /// Whether the partition is refused.
    pub fn contains(&self, topic: &str, partition: i32) -> bool {
        self.places().contains_key(&(topic.to_string(), partition))
    }

    /// Everything that is refused, with its reason.
    pub fn all(&self) -> Vec<(Place, String)> {
        let places = self.places();
        places.iter().map(|(place, why)| (place.clone(), why.clone())).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reason_is_news_once() {
        let board = QuarantineBoard::default();
        assert!(board.add("orders", 3, "slot 7 is missing"));
        assert!(!board.clone().add("orders", 3, "slot 7 is missing"));
        assert!(board.add("orders", 3, "slot 8 is missing"));
        assert!(board.contains("orders", 3) && !board.contains("orders", 2));
        assert_eq!(
            board.all(),
            [(("orders".to_string(), 3), "slot 8 is missing".to_string())]
        );
        assert!(board.remove("orders", 3) && !board.remove("orders", 3));
    }
}
