//! The cluster as the metastore tells it: listings and changes go in, the image comes out.
//!
//! Three rules keep one bad value from doing harm (docs/decisions/0015). A listing replaces what was known in one step,
//! once all of it is there. A value that cannot be decoded concerns its own key alone: the last readable value stays in
//! force, and the image names the key. And a record that is missing was not deleted by that: only a record below
//! `deleted/` says that a topic's records may go.

use super::image::{ClusterImage, GroupConfigImage, Leader, TopicImage};
use crate::planted::{self, Bug};
use kafscale_codec::types::TopicId;
use kafscale_metastore::keys::{
    BrokerRecord, DeletedTopicRecord, GroupConfigRecord, Key, PartitionRecord, RecordError, TopicRecord,
    BROKERS_PREFIX, DELETED_PREFIX, GROUP_CONFIGS_PREFIX, PARTITIONS_PREFIX, TOPICS_PREFIX,
};
use kafscale_metastore::{KeyValue, WatchEvent};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// Why a partition that was led before cannot be led for the moment.
const MISSING: &str = "the record is missing, and its topic is not deleted";

/// What part of the metastore one task follows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Part {
    Brokers,
    Topics,
    Partitions,
    Deleted,
    GroupConfigs,
}

impl Part {
    pub const ALL: [Part; 5] = [
        Part::Brokers,
        Part::Topics,
        Part::Partitions,
        Part::Deleted,
        Part::GroupConfigs,
    ];

    pub fn prefix(self) -> &'static [u8] {
        match self {
            Part::Brokers => BROKERS_PREFIX,
            Part::Topics => TOPICS_PREFIX,
            Part::Partitions => PARTITIONS_PREFIX,
            Part::Deleted => DELETED_PREFIX,
            Part::GroupConfigs => GROUP_CONFIGS_PREFIX,
        }
    }

    fn has(self, key: &Key) -> bool {
        matches!(
            (self, key),
            (Part::Brokers, Key::Broker(_))
                | (Part::Topics, Key::Topic(_))
                | (Part::Partitions, Key::Partition(..))
                | (Part::Deleted, Key::Deleted(_))
                | (Part::GroupConfigs, Key::GroupConfig(_))
        )
    }
}

/// What is known of the cluster.
#[derive(Default)]
pub(super) struct ClusterView {
    image: ClusterImage,
    /// Leaders by topic id, also of topics that are not (or no longer) known by name.
    leaders: BTreeMap<TopicId, BTreeMap<i32, Leader>>,
    loaded: [bool; Part::ALL.len()],
}

impl ClusterView {
    /// Nothing is known yet but the cluster's id.
    pub fn new(cluster_id: String) -> Self {
        ClusterView {
            image: ClusterImage {
                cluster_id,
                ..ClusterImage::default()
            },
            ..ClusterView::default()
        }
    }

    /// The cluster as it is known now.
    pub fn image(&self) -> ClusterImage {
        self.image.clone()
    }

    /// The incarnation under which a broker is registered.
    pub fn incarnation(&self, broker_id: i32) -> Option<u64> {
        self.image.brokers.get(&broker_id).map(|broker| broker.incarnation)
    }

    /// Takes a whole listing of one part: what is not in it is stored no longer.
    pub fn replace(&mut self, part: Part, listing: &[KeyValue]) {
        let listed: BTreeSet<Key> = listing.iter().filter_map(|item| Key::parse(&item.key)).collect();
        for key in self.known(part) {
            if !listed.contains(&key) {
                self.remove(&key);
            }
        }
        listing.iter().for_each(|item| self.put(item));
        self.loaded[part as usize] = true;
        self.image.complete = self.loaded.iter().all(|loaded| *loaded);
    }

    /// Takes one change.
    pub fn apply(&mut self, event: &WatchEvent) {
        match event {
            WatchEvent::Put(item) => self.put(item),
            WatchEvent::Delete { key, .. } => {
                if let Some(key) = Key::parse(key) {
                    self.remove(&key);
                }
            }
        }
    }

    /// The keys of a part of which anything is known.
    fn known(&self, part: Part) -> Vec<Key> {
        let image = &self.image;
        let mut known: Vec<Key> = match part {
            Part::Brokers => image.brokers.keys().map(|id| Key::Broker(*id)).collect(),
            Part::Topics => image.topics.keys().cloned().map(Key::Topic).collect(),
            Part::Partitions => {
                let of = |(id, leaders): (&TopicId, &BTreeMap<i32, Leader>)| {
                    let id = *id;
                    let keys = leaders.keys().map(|partition| Key::Partition(id, *partition));
                    keys.collect::<Vec<_>>()
                };
                self.leaders.iter().flat_map(of).collect()
            }
            Part::Deleted => image.deleted.iter().copied().map(Key::Deleted).collect(),
            Part::GroupConfigs => image.group_configs.keys().cloned().map(Key::GroupConfig).collect(),
        };
        known.extend(image.unreadable.keys().filter(|key| part.has(key)).cloned());
        known
    }

    fn put(&mut self, item: &KeyValue) {
        let Some(key) = Key::parse(&item.key) else {
            return;
        };
        match self.take(&key, item) {
            Ok(()) => self.note_readable(&key, "can be read again"),
            Err(_) if planted::is(Bug::AbsenceIsDeletion) => self.remove(&key),
            Err(error) => self.note_unreadable(key, error.to_string()),
        }
    }

    fn note_readable(&mut self, key: &Key, how: &str) {
        if self.image.unreadable.contains_key(key) {
            Arc::make_mut(&mut self.image.unreadable).remove(key);
            log::info!("metastore value {} {how}", shown(key));
        }
    }

    fn note_unreadable(&mut self, key: Key, reason: String) {
        if self.image.unreadable.get(&key) != Some(&reason) {
            log::error!(
                "metastore value {} cannot be read: {reason}; its last readable copy stays in force here, without one \
                 it is not served. Nothing of it is deleted. Upgrade this broker to the version that wrote it, or \
                 restore the value",
                shown(&key)
            );
            Arc::make_mut(&mut self.image.unreadable).insert(key, reason);
        }
    }

    fn take(&mut self, key: &Key, item: &KeyValue) -> Result<(), RecordError> {
        match key {
            Key::Broker(id) => {
                let record = BrokerRecord::decode(&item.value)?;
                self.image.brokers.insert(*id, record);
            }
            Key::Topic(name) => {
                let record = TopicRecord::decode(&item.value)?;
                if !self.image.deleted.contains(&record.topic_id) {
                    self.put_topic(name, record, item.mod_revision);
                }
            }
            Key::Partition(topic_id, partition) => {
                let leader = Leader::of(&PartitionRecord::decode(&item.value)?);
                self.put_leader(*topic_id, *partition, leader);
            }
            Key::Deleted(topic_id) => {
                // What is in the record is for the reconciler. That there is one is what counts here.
                self.put_deleted(*topic_id);
                DeletedTopicRecord::decode(&item.value)?;
            }
            Key::GroupConfig(group) => {
                let configs = GroupConfigRecord::decode(&item.value)?.configs;
                let set = GroupConfigImage {
                    configs,
                    mod_revision: item.mod_revision,
                };
                Arc::make_mut(&mut self.image.group_configs).insert(group.clone(), set);
            }
            _ => {}
        }
        Ok(())
    }

    fn put_topic(&mut self, name: &str, record: TopicRecord, mod_revision: u64) {
        let known = self.leaders.get(&record.topic_id);
        let leader = |partition| known.and_then(|leaders| leaders.get(&(partition as i32))).copied();
        let leaders = (0..record.partitions).map(leader).collect();
        let topic_id = record.topic_id;
        let topic = TopicImage {
            name: name.to_string(),
            record,
            mod_revision,
            leaders,
        };
        let replaced = self.image.topics.insert(name.to_string(), Arc::new(topic));
        if let Some(old) = replaced.filter(|old| old.record.topic_id != topic_id) {
            self.image.names.remove(&old.record.topic_id);
        }
        self.image.names.insert(topic_id, name.to_string());
    }

    fn put_deleted(&mut self, topic_id: TopicId) {
        Arc::make_mut(&mut self.image.deleted).insert(topic_id);
        if let Some(name) = self.image.names.remove(&topic_id) {
            self.image.topics.remove(&name);
        }
        if !self.image.unreadable.is_empty() {
            let of_topic = |key: &Key| matches!(key, Key::Partition(id, _) if *id == topic_id);
            Arc::make_mut(&mut self.image.unreadable).retain(|key, _| !of_topic(key));
        }
    }

    fn put_leader(&mut self, topic_id: TopicId, partition: i32, leader: Leader) {
        self.leaders.entry(topic_id).or_default().insert(partition, leader);
        let Some(name) = self.image.names.get(&topic_id) else {
            return;
        };
        if let Some(topic) = self.image.topics.get_mut(name) {
            let at = partition as usize;
            if topic.leaders.get(at).is_some_and(|known| *known != Some(leader)) {
                Arc::make_mut(topic).leaders[at] = Some(leader);
            }
        }
    }

    fn remove(&mut self, key: &Key) {
        match key {
            Key::Broker(id) => drop(self.image.brokers.remove(id)),
            Key::Topic(name) => {
                if let Some(topic) = self.image.topics.remove(name) {
                    self.image.names.remove(&topic.record.topic_id);
                }
            }
            Key::Partition(topic_id, partition) => return self.remove_leader(*topic_id, *partition),
            Key::Deleted(topic_id) => {
                Arc::make_mut(&mut self.image.deleted).remove(topic_id);
                self.leaders.remove(topic_id);
            }
            Key::GroupConfig(group) => drop(Arc::make_mut(&mut self.image.group_configs).remove(group)),
            _ => {}
        }
        self.note_readable(key, "is gone");
    }

    /// Removes a leader if its topic was deleted. Otherwise the record of a partition that was led is missing: a claim
    /// would begin it anew at offset 0.
    fn remove_leader(&mut self, topic_id: TopicId, partition: i32) {
        let key = Key::Partition(topic_id, partition);
        if self.image.names.contains_key(&topic_id) {
            return self.note_unreadable(key, MISSING.to_string());
        }
        if self.image.deleted.contains(&topic_id) {
            if let Some(leaders) = self.leaders.get_mut(&topic_id) {
                leaders.remove(&partition);
                if leaders.is_empty() {
                    self.leaders.remove(&topic_id);
                }
            }
        }
        self.note_readable(&key, "is gone");
    }
}

/// A key as an operator finds it in the metastore.
pub(crate) fn shown(key: &Key) -> String {
    String::from_utf8_lossy(&key.to_bytes()).into_owned()
}

#[cfg(test)]
mod tests;
