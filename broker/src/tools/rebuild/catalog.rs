//! The newest catalog that can be read.

use super::super::{ToolError, Workplace};
use crate::cluster::catalog::list;
use bytes::Bytes;
use kafscale_codec::types::TopicId;
use kafscale_metastore::keys::{CountRecord, Key, PartitionRecord, RecordError, StreamRecord, TopicRecord};
use kafscale_storage_engine::catalog::{complete_sets, decode};
use std::collections::{BTreeMap, BTreeSet};

/// What the metastore knew when it was written.
#[derive(Debug, Default)]
pub struct Catalog {
    /// When that was, ms since the Unix epoch.
    pub written_ms: i64,
    /// Topics by name.
    pub topics: BTreeMap<String, TopicRecord>,
    /// Partitions; what they say of places is old.
    pub partitions: BTreeMap<(TopicId, i32), PartitionRecord>,
    /// Streams; what they say is old.
    pub streams: BTreeMap<u64, StreamRecord>,
    /// Counters.
    pub counters: BTreeMap<String, u64>,
    /// Topics that were deleted.
    pub deleted: BTreeSet<TopicId>,
    /// What is written back as it is: names, deleted topics, groups and their offsets.
    pub others: Vec<(Bytes, Bytes)>,
}

/// Reads it.
pub async fn load(place: &Workplace) -> Result<Catalog, ToolError> {
    let names = list(&*place.store, place.namespace()).await?;
    for set in complete_sets(&names).into_iter().rev() {
        let mut catalog = Catalog::default();
        let mut sound = true;
        for name in names.iter().filter(|name| name.set == set) {
            let key = name.key(place.namespace());
            let bytes = place.store.get_range(&key, 0..u64::MAX).await?;
            match decode(&bytes) {
                Ok((found, written_ms, pairs)) if found == *name => {
                    catalog.written_ms = written_ms;
                    for (key, value) in pairs {
                        catalog.add(key, value).map_err(|(key, error)| {
                            ToolError::Refused(format!("the catalog's record {key:?} cannot be read: {error}"))
                        })?;
                    }
                }
                Ok((found, ..)) => {
                    log::warn!("{key} is {found:?}: an older catalog is used");
                    sound = false;
                }
                Err(error) => {
                    log::warn!("{key}: {error}; an older catalog is used");
                    sound = false;
                }
            }
        }
        if sound {
            return Ok(catalog);
        }
    }
    let why = "there is no whole catalog in the object store: without it nobody knows which topic is which";
    Err(ToolError::Refused(why.to_string()))
}

impl Catalog {
    fn add(&mut self, key: Bytes, value: Bytes) -> Result<(), (Bytes, RecordError)> {
        self.sort_in(&key, &value).map_err(|error| (key, error))
    }

    fn sort_in(&mut self, key: &Bytes, value: &Bytes) -> Result<(), RecordError> {
        match Key::parse(key) {
            Some(Key::Topic(name)) => drop(self.topics.insert(name, TopicRecord::decode(value)?)),
            Some(Key::Partition(topic_id, partition)) => {
                let record = PartitionRecord::decode(value)?;
                self.partitions.insert((topic_id, partition), record);
            }
            Some(Key::Stream(stream)) => drop(self.streams.insert(stream, StreamRecord::decode(value)?)),
            Some(Key::Counter(name)) => drop(self.counters.insert(name, CountRecord::decode(value)?.count)),
            Some(Key::Deleted(topic_id)) => {
                self.deleted.insert(topic_id);
                self.others.push((key.clone(), value.clone()));
            }
            Some(Key::Name(_) | Key::Group(_) | Key::GroupConfig(_) | Key::Offset { .. }) => {
                self.others.push((key.clone(), value.clone()))
            }
            // The mark in the object store tells of the cluster; brokers and coordinators are of a time that is over.
            Some(Key::Cluster | Key::Broker(_) | Key::Start(_) | Key::Coordinator(_)) | None => {}
        }
        Ok(())
    }
}
