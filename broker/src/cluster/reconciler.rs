//! Deletes what nothing refers to any more: the objects of deleted topics, streams that are rolled to the end, and what
//! interrupted deletions left ([`super::leftovers`]).
//!
//! Only one broker does this, the one with the lowest id; two at once would do the same harmless things. Every deletion
//! follows from records of the metastore ([`super::deletion`]), never from what a listing happens to show or to lack.

use super::deletion::{self, Deletion, Grace};
use super::leftovers::{self, Seen, LEFTOVERS_MAX};
use crate::shard::takeover::ClaimError;
use crate::shard::Shard;
use kafscale_metastore::keys::{counter_key, stream_key, CountRecord, PartitionRecord, STREAM_COUNTER};
use kafscale_metastore::operation::OperationError;
use kafscale_metastore::{brokers, partitions, streams, topics};
use kafscale_storage_engine::object_store::StoreError;
use kafscale_storage_engine::wal::StreamId;
use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use std::time::Duration;

/// Objects per listing and per deletion.
const PAGE: usize = 1000;

/// Rounds from one search for orphaned objects to the next: it takes a listing for each stream, and one of all segments.
const ROUNDS_PER_SEARCH: u32 = 360;

/// Why a round was not finished; the next one begins anew.
#[derive(Debug, thiserror::Error)]
pub enum ReconcileError {
    /// The metastore did not do as asked.
    #[error(transparent)]
    Metastore(#[from] OperationError),
    /// The object store did not do as asked.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A stream could not be ended.
    #[error(transparent)]
    TakeOver(#[from] ClaimError),
}

/// By what a broker counts as alive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Living {
    /// By the shard's image of the cluster.
    AsPictured,
    /// By what is registered in the metastore now: for a shard that nobody gives an image to.
    AsRegistered,
}

/// Does the rounds, on a broker's first shard.
pub struct Reconciler {
    shard: Rc<Shard>,
    interval: Duration,
    rounds: Cell<u32>,
    leftovers: RefCell<Seen>,
}

impl Reconciler {
    /// A round every `interval`, as long as the shard runs.
    pub fn new(shard: Rc<Shard>, interval: Duration) -> Self {
        Reconciler {
            shard,
            interval,
            rounds: Cell::new(0),
            leftovers: RefCell::default(),
        }
    }

    /// Round after round, until the shard stops.
    pub async fn run(self) {
        while !self.shard.is_stopped() {
            self.shard.runtime.sleep(self.interval).await;
            let image = self.shard.image();
            if self.shard.is_stopped() || !image.complete || image.controller() != self.shard.config.broker_id {
                continue;
            }
            if let Err(error) = self.round().await {
                log::warn!("reconcile: {error}; trying again");
            }
        }
    }

    /// One round over everything.
    pub async fn round(&self) -> Result<(), ReconcileError> {
        for deletion in self.topics_to_delete().await? {
            self.delete(deletion).await?;
        }
        for deletion in self.streams_to_delete(Living::AsPictured).await? {
            self.delete(deletion).await?;
        }
        let rounds = self.rounds.get() + 1;
        self.rounds.set(rounds % ROUNDS_PER_SEARCH);
        if rounds == ROUNDS_PER_SEARCH {
            for deletion in self.orphaned_streams().await? {
                self.delete(deletion).await?;
            }
            let found = self.leftovers().await?;
            let now = self.shard.runtime.now();
            let due = self
                .leftovers
                .borrow_mut()
                .due(found, now, self.shard.config.delete_grace);
            self.delete_leftovers(&due).await?;
        }
        Ok(())
    }

    /// What interrupted deletions left of topics that exist. Of partitions without a readable record nothing is: no record
    /// proves that nobody needs it.
    pub async fn leftovers(&self) -> Result<Vec<String>, ReconcileError> {
        let metastore = &*self.shard.metastore;
        let topics = topics::load_topics(metastore).await?.items;
        let mut records: BTreeMap<_, BTreeMap<i32, PartitionRecord>> = BTreeMap::new();
        for stored in partitions::load_partitions(metastore).await?.items {
            let of_topic = records.entry(stored.topic_id).or_default();
            of_topic.insert(stored.partition, stored.record.value);
        }
        let namespace = &self.shard.config.namespace;
        let mut found = Vec::new();
        for (_, topic) in topics {
            let Some(records) = records.get(&topic.value.topic_id) else {
                continue;
            };
            let [segments, snapshots] = deletion::topic_prefixes(namespace, topic.value.topic_id, &topic.value.folder);
            self.search(&segments, records, leftovers::of_segments, &mut found)
                .await?;
            self.search(&snapshots, records, leftovers::of_snapshots, &mut found)
                .await?;
        }
        Ok(found)
    }

    /// Lists what is below `prefix`, and has `left` say of each partition's keys which are left over.
    async fn search(
        &self,
        prefix: &str,
        records: &BTreeMap<i32, PartitionRecord>,
        left: impl Fn(&PartitionRecord, &[String]) -> Vec<String>,
        found: &mut Vec<String>,
    ) -> Result<(), StoreError> {
        let mut keys: Vec<String> = Vec::new();
        let mut after: Option<String> = None;
        while found.len() < LEFTOVERS_MAX {
            let page = self.shard.store.list(prefix, after.as_deref(), PAGE).await?;
            after = page.objects.last().map(|object| object.key.clone());
            keys.extend(page.objects.into_iter().map(|object| object.key));
            let more = page.more && after.is_some();
            // The last partition may go on in the next page.
            let last = keys.last().and_then(|key| leftovers::partition_of(prefix, key));
            let whole = match more {
                true => keys.partition_point(|key| leftovers::partition_of(prefix, key) != last),
                false => keys.len(),
            };
            let of_partitions =
                keys[..whole].chunk_by(|a, b| leftovers::partition_of(prefix, a) == leftovers::partition_of(prefix, b));
            for of_partition in of_partitions {
                let partition = leftovers::partition_of(prefix, &of_partition[0]);
                let record = partition.and_then(|partition| records.get(&partition));
                found.extend(record.into_iter().flat_map(|record| left(record, of_partition)));
            }
            keys.drain(..whole);
            if !more {
                return Ok(());
            }
        }
        Ok(())
    }

    /// Deletes what [`Self::leftovers`] has found, once nobody can be reading it.
    pub async fn delete_leftovers(&self, keys: &[String]) -> Result<(), StoreError> {
        for page in keys.chunks(PAGE) {
            self.shard.store.delete(page).await?;
            self.shard.metrics.orphaned_objects_deleted.add(page.len() as u64);
        }
        if let Some(first) = keys.first() {
            log::warn!(
                "{} objects that interrupted deletions left are deleted, {first} the first of them",
                keys.len()
            );
        }
        Ok(())
    }

    /// Streams that have objects and no record. A stream gets its number and its record in one transaction, before anything
    /// is written to it, and loses the record after all that was known of it is deleted. So a number that was given out
    /// before and has no record now is nobody's. Numbers that the counter has not reached prove nothing: the metastore
    /// may be an older copy.
    pub async fn orphaned_streams(&self) -> Result<Vec<Deletion>, ReconcileError> {
        let metastore = &*self.shard.metastore;
        let counter = metastore
            .get(&counter_key(STREAM_COUNTER))
            .await
            .map_err(ClaimError::from)?;
        let Some(counter) = counter else {
            return Ok(Vec::new());
        };
        let next = CountRecord::decode(&counter.value).map_err(ClaimError::from)?.count;
        let mut orphaned = Vec::new();
        for stream in self.listed_streams().await? {
            let record = metastore.get(&stream_key(stream)).await.map_err(ClaimError::from)?;
            if stream < next && record.is_none() {
                orphaned.push(Deletion::OrphanedStream(stream));
            }
        }
        Ok(orphaned)
    }

    /// The streams that have objects, found by leaps: one listing each.
    async fn listed_streams(&self) -> Result<Vec<u64>, StoreError> {
        let prefix = format!("{}/_wal/", self.shard.config.namespace);
        let mut streams = Vec::new();
        let mut after: Option<String> = None;
        loop {
            let page = self.shard.store.list(&prefix, after.as_deref(), 1).await?;
            let Some(object) = page.objects.first() else {
                return Ok(streams);
            };
            let name = object.key[prefix.len()..].split('/').next().unwrap_or_default();
            let stream = u64::from_str_radix(name, 16);
            after = match stream {
                // '~' sorts after everything that the names of a stream's objects begin with.
                Ok(_) => Some(format!("{prefix}{name}/~")),
                Err(_) => Some(object.key.clone()),
            };
            streams.extend(stream);
        }
    }

    /// What the next round would do with deleted topics.
    pub async fn topics_to_delete(&self) -> Result<Vec<Deletion>, ReconcileError> {
        // A deletion that cannot be read is left alone; the image names it.
        let deleted = topics::load_deleted_topics(&*self.shard.metastore).await?.items;
        Ok(deletion::of_topics(deleted, self.grace()))
    }

    /// What the next round would do with streams.
    pub async fn streams_to_delete(&self, living: Living) -> Result<Vec<Deletion>, ReconcileError> {
        let metastore = &*self.shard.metastore;
        // The streams first: one that is opened after this is not looked at, one that is referred to only after this
        // was live when it was read.
        let streams = streams::load_streams(metastore).await?;
        let partitions = partitions::load_partitions(metastore).await?;
        if let Some(unreadable) = partitions.unreadable.first() {
            // It may need any stream.
            log::warn!(
                "no stream is deleted: {unreadable}, the first of {}",
                partitions.unreadable.len()
            );
            return Ok(Vec::new());
        }
        let found = streams.items;
        let needed: BTreeSet<u64> = partitions
            .items
            .into_iter()
            .flat_map(|stored| {
                let record = stored.record.value;
                record.tail_streams.into_iter().chain([record.stream])
            })
            .collect();
        Ok(match living {
            Living::AsPictured => {
                let image = self.shard.image();
                let is_live = |broker, incarnation| image.is_live(broker, incarnation);
                deletion::of_streams(found, &needed, is_live, self.grace())
            }
            Living::AsRegistered => {
                // One that cannot be read may be any stream's owner.
                let brokers = brokers::load_brokers(metastore).await?.whole()?.items;
                let registered: BTreeSet<(i32, u64)> = brokers
                    .into_iter()
                    .map(|broker| (broker.value.broker_id, broker.value.incarnation))
                    .collect();
                let is_live = |broker, incarnation| registered.contains(&(broker, incarnation));
                deletion::of_streams(found, &needed, is_live, self.grace())
            }
        })
    }

    /// Does it.
    pub async fn delete(&self, deletion: Deletion) -> Result<(), ReconcileError> {
        let namespace = &self.shard.config.namespace;
        let metastore = &*self.shard.metastore;
        // The record of a stream first: whoever reads it afterwards looks for nothing that is being deleted.
        match &deletion {
            Deletion::EndStream(stream) => drop(self.shard.take_over(StreamId(*stream)).await?),
            Deletion::EmptyStream {
                stream,
                record,
                end_seq,
            } => drop(streams::trim_sealed(metastore, *stream, record, *end_seq, Vec::new()).await?),
            Deletion::EmptyTopic { .. }
            | Deletion::ForgetTopic { .. }
            | Deletion::ForgetStream { .. }
            | Deletion::OrphanedStream(_) => {}
        }
        let keep = deletion.keeps(namespace);
        let mut objects = 0;
        for prefix in deletion.prefixes(namespace) {
            objects += self.delete_prefix(&prefix, keep.as_deref()).await?;
        }
        match deletion {
            Deletion::EmptyTopic { topic_id, deleted } => {
                partitions::remove_partitions(metastore, topic_id).await?;
                topics::empty_deleted_topic(metastore, topic_id, &deleted).await?;
                let name = deleted.value.name;
                log::info!("the {objects} objects of deleted topic {name} ({topic_id}) are gone");
            }
            Deletion::ForgetTopic { topic_id, name, .. } => {
                partitions::remove_partitions(metastore, topic_id).await?;
                topics::forget_deleted_topic(metastore, topic_id).await?;
                log::info!("deleted topic {name} ({topic_id}) is forgotten; {objects} objects of it had come late");
            }
            Deletion::EmptyStream { stream, .. } => {
                log::info!("stream {stream:016x} is rolled to its end: {objects} objects deleted");
            }
            Deletion::ForgetStream { stream, mod_revision } => {
                streams::forget_stream(metastore, stream, mod_revision).await?;
            }
            Deletion::OrphanedStream(stream) => {
                self.shard.metrics.orphaned_objects_deleted.add(objects as u64);
                log::warn!("stream {stream:016x} has no record: {objects} objects that nothing refers to are deleted");
            }
            Deletion::EndStream(_) => {}
        }
        Ok(())
    }

    fn grace(&self) -> Grace {
        Grace {
            now_ms: self.shard.runtime.wall_clock_ms(),
            delete_grace: self.shard.config.delete_grace,
            fence_life: self.shard.config.fence_life,
        }
    }

    /// Deletes all objects below a prefix, but for one. Returns how many.
    async fn delete_prefix(&self, prefix: &str, keep: Option<&str>) -> Result<usize, StoreError> {
        let mut deleted = 0;
        let mut after: Option<String> = None;
        loop {
            let page = self.shard.store.list(prefix, after.as_deref(), PAGE).await?;
            let keys: Vec<String> = page.objects.into_iter().map(|object| object.key).collect();
            after = keys.last().cloned();
            let keys: Vec<String> = keys.into_iter().filter(|key| Some(key.as_str()) != keep).collect();
            deleted += keys.len();
            self.shard.store.delete(&keys).await?;
            if !page.more || after.is_none() {
                return Ok(deleted);
            }
        }
    }
}

#[cfg(test)]
mod tests;
