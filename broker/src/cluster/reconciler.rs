//! Deletes what nothing refers to any more: the objects of deleted topics, and streams that are rolled to the end.
//!
//! Only one broker does this, the one with the lowest id; two at once would do the same harmless things. Every deletion
//! follows from records of the metastore, never from what a listing happens to show or to lack.

use crate::shard::takeover::ClaimError;
use crate::shard::Shard;
use kafscale_metastore::keys::{DeletedTopicRecord, StreamRecord, StreamState};
use kafscale_metastore::operation::{OperationError, Versioned};
use kafscale_metastore::{partitions, streams, topics};
use kafscale_storage_engine::object_store::StoreError;
use kafscale_storage_engine::wal::{self, StreamId};
use std::collections::BTreeSet;
use std::rc::Rc;
use std::time::Duration;

/// Objects per listing and per deletion.
const PAGE: usize = 1000;

/// A fence outlives every writer that could still try its slot; writers give up within minutes.
const FENCE_RETENTION_MS: i64 = 24 * 60 * 60 * 1000;

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

/// Does the rounds, on a broker's first shard.
pub struct Reconciler {
    shard: Rc<Shard>,
    interval: Duration,
}

impl Reconciler {
    /// A round every `interval`, as long as the shard runs.
    pub fn new(shard: Rc<Shard>, interval: Duration) -> Self {
        Reconciler { shard, interval }
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
        self.delete_topics().await?;
        self.delete_streams().await
    }

    async fn delete_topics(&self) -> Result<(), ReconcileError> {
        for (topic_id, deleted) in topics::load_deleted_topics(&*self.shard.metastore).await?.items {
            let DeletedTopicRecord {
                name,
                folder,
                deleted_ms,
                ..
            } = deleted.value;
            if !self.is_past(deleted_ms, self.shard.config.delete_grace) {
                continue;
            }
            let namespace = &self.shard.config.namespace;
            let id: String = topic_id.0.iter().map(|byte| format!("{byte:02x}")).collect();
            let records = self.delete_prefix(&format!("{namespace}/{folder}/"), None).await?;
            self.delete_prefix(&format!("{namespace}/_producers/{id}/"), None)
                .await?;
            partitions::remove_partitions(&*self.shard.metastore, topic_id).await?;
            topics::forget_deleted_topic(&*self.shard.metastore, topic_id).await?;
            log::info!("the {records} objects of deleted topic {name} ({topic_id}) are gone");
        }
        Ok(())
    }

    async fn delete_streams(&self) -> Result<(), ReconcileError> {
        let metastore = &*self.shard.metastore;
        // The streams first: one that is opened after this is not looked at, one that is referred to only after this
        // was live when it was read.
        let found = streams::load_streams(metastore).await?.items;
        let needed: BTreeSet<u64> = partitions::load_partitions(metastore)
            .await?
            .items
            .into_iter()
            .flat_map(|stored| {
                let record = stored.record.value;
                record.tail_streams.into_iter().chain([record.stream])
            })
            .collect();
        let image = self.shard.image();
        for (stream, record) in found {
            let live = image.is_live(record.value.broker_id, record.value.incarnation);
            if needed.contains(&stream) || live {
                continue;
            }
            match record.value.state {
                StreamState::Open | StreamState::Sealing => drop(self.shard.take_over(StreamId(stream)).await?),
                StreamState::Sealed { end_seq, sealed_ms } => {
                    self.delete_stream(stream, record, end_seq, sealed_ms).await?
                }
            }
        }
        Ok(())
    }

    /// Deletes a sealed stream that no partition needs: first everything but its fence, much later the fence.
    async fn delete_stream(
        &self,
        stream: u64,
        record: Versioned<StreamRecord>,
        end_seq: u64,
        sealed_ms: i64,
    ) -> Result<(), ReconcileError> {
        let namespace = &self.shard.config.namespace;
        let prefix = wal::stream_prefix(namespace, StreamId(stream));
        if self.is_past(sealed_ms, Duration::from_millis(FENCE_RETENTION_MS as u64)) {
            self.delete_prefix(&prefix, None).await?;
            streams::forget_stream(&*self.shard.metastore, stream, record.mod_revision).await?;
            return Ok(());
        }
        let emptied = record.value.first_live_seq == end_seq && record.value.merged.is_empty();
        if emptied || !self.is_past(sealed_ms, self.shard.config.delete_grace) {
            return Ok(());
        }
        // The record first: whoever reads it afterwards looks for nothing that is being deleted.
        streams::trim_sealed(&*self.shard.metastore, stream, &record, end_seq, Vec::new()).await?;
        let fence = wal::slot_key(namespace, StreamId(stream), end_seq);
        let objects = self.delete_prefix(&prefix, Some(&fence)).await?;
        log::info!("stream {stream:016x} is rolled to its end: {objects} objects deleted");
        Ok(())
    }

    fn is_past(&self, since_ms: i64, grace: Duration) -> bool {
        self.shard.runtime.wall_clock_ms() - since_ms >= grace.as_millis() as i64
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
