//! Ending another owner's stream and reading what it left: fence, seal, footers.

use super::Shard;
use crate::planted::{self, Bug};
use futures::stream::{self, StreamExt, TryStreamExt};
use kafscale_metastore::keys::{stream_key, RecordError, StreamRecord, StreamState};
use kafscale_metastore::{Compare, MetastoreError, Op, Revision, Txn};
use kafscale_storage_engine::object_store::StoreError;
use kafscale_storage_engine::partition_log::{ObjectRef, PartitionKey};
use kafscale_storage_engine::wal::decide::{self, PutOutcome, SealState, SlotContent, SuccessorAction};
use kafscale_storage_engine::wal::{self, FooterRead, Kind, Run, StreamId, WalError};
use std::collections::HashMap;

/// How many footers are read at the same time.
const FOOTERS_AT_ONCE: usize = 64;

/// First guess of a footer's size; a larger one takes a second read.
const FOOTER_SUFFIX_BYTES: u64 = 64 * 1024;

/// An object of at most this size may be a fence, so its header is looked at.
const FENCE_BYTES_MAX: u64 = 512;

/// Attempts at one transaction before the caller is told to come back later.
const TXN_ATTEMPTS: usize = 20;

/// Why something could not be claimed now.
#[derive(Debug, thiserror::Error)]
pub enum ClaimError {
    /// The metastore did not answer.
    #[error(transparent)]
    Metastore(#[from] MetastoreError),
    /// The object store did not answer.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A value in the metastore cannot be read.
    #[error("metastore value: {0}")]
    Record(#[from] RecordError),
    /// A write-ahead object cannot be read.
    #[error("{key}: {error}")]
    Wal {
        /// The object.
        key: String,
        /// What is wrong with it.
        error: WalError,
    },
    /// What is stored contradicts itself.
    #[error("{0}")]
    Inconsistent(String),
    /// Others keep changing the same record.
    #[error("{0} changes too often")]
    Contended(String),
}

/// What a sealed stream holds, by partition, in offset order.
pub(crate) type StreamTail = HashMap<PartitionKey, Vec<(ObjectRef, Run)>>;

impl Shard {
    /// Ends `stream` for ever, unless that was done before, and reads what it holds.
    pub(crate) async fn take_over(&self, stream: StreamId) -> Result<StreamTail, ClaimError> {
        let (record, end_seq) = self.seal(stream).await?;
        self.read_tail(stream, &record, end_seq).await
    }

    /// Ends `stream` for ever, unless that was done before: its record, and the slot where it ends.
    pub(crate) async fn seal(&self, stream: StreamId) -> Result<(StreamRecord, u64), ClaimError> {
        for _ in 0..TXN_ATTEMPTS {
            let (record, revision) = self.read_stream(stream).await?;
            match decide::begin_takeover(seal_state(&record), record.first_live_seq) {
                SuccessorAction::MarkSealing if planted::is(Bug::SealingSkipped) => {
                    let end_seq = self.fence(stream, record.first_live_seq).await?;
                    let sealed_ms = self.runtime.wall_clock_ms();
                    let state = StreamState::Sealed { end_seq, sealed_ms };
                    let (_, revision) = self.read_stream(stream).await?;
                    let sealed = StreamRecord { state, ..record };
                    self.replace_stream(stream, revision, &sealed).await?;
                }
                SuccessorAction::MarkSealing => {
                    let StreamRecord { broker_id, shard, .. } = record;
                    log::info!("end stream {stream} of broker {broker_id} shard {shard}");
                    let sealing = StreamRecord {
                        state: StreamState::Sealing,
                        ..record
                    };
                    self.replace_stream(stream, revision, &sealing).await?;
                }
                SuccessorAction::PutFence(first) => {
                    let end_seq = self.fence(stream, first).await?;
                    let sealed_ms = self.runtime.wall_clock_ms();
                    let sealed = StreamRecord {
                        state: StreamState::Sealed { end_seq, sealed_ms },
                        ..record
                    };
                    self.replace_stream(stream, revision, &sealed).await?;
                }
                SuccessorAction::Adopt(end_seq) => return Ok((record, end_seq)),
                SuccessorAction::RecordSeal(_) => {}
            }
        }
        Err(ClaimError::Contended(format!("stream {stream}")))
    }

    pub(super) async fn read_stream(&self, stream: StreamId) -> Result<(StreamRecord, Revision), ClaimError> {
        let found = self.metastore.get(&stream_key(stream.0)).await?;
        let found = found.ok_or_else(|| ClaimError::Inconsistent(format!("stream {stream} has no record")))?;
        let record = StreamRecord::decode(&found.value)?;
        if let Some((one, other)) = record.overlap() {
            return Err(ClaimError::Inconsistent(format!(
                "the record of stream {stream} counts slots twice: {}..={} and {}..={}; its partitions cannot be served: \
                 run `kafscale-broker verify`",
                one.0, one.1, other.0, other.1
            )));
        }
        Ok((record, found.mod_revision))
    }

    /// Replaces a stream's record if it is unchanged. Whether it was is for the next read to tell.
    async fn replace_stream(
        &self,
        stream: StreamId,
        revision: Revision,
        record: &StreamRecord,
    ) -> Result<Option<Revision>, ClaimError> {
        let key = stream_key(stream.0);
        let txn = Txn {
            compares: vec![Compare::ModRevision(key.clone(), revision)],
            ops: vec![Op::Put {
                key,
                value: record.encode(),
                lease: None,
            }],
        };
        match self.metastore.txn(txn).await {
            Ok(outcome) => Ok(outcome.succeeded.then_some(outcome.revision)),
            Err(MetastoreError::OutcomeUnknown(_)) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// Puts a fence into the first free slot at or after `first`; returns that slot.
    async fn fence(&self, stream: StreamId, first: u64) -> Result<u64, ClaimError> {
        let mut seq = match self.skip_taken_slots(stream, first).await? {
            Skipped::Fence(seq) => return Ok(seq),
            Skipped::FreeMaybe(seq) => seq,
        };
        loop {
            let nonce = u128::from(self.runtime.random_u64()) << 64 | u128::from(self.runtime.random_u64());
            let key = wal::slot_key(&self.config.namespace, stream, seq);
            let (outcome, taken_by) = match self.store.create(&key, wal::fence_object(stream, seq, nonce)).await {
                Ok(()) => (PutOutcome::Created, None),
                Err(StoreError::Conflict(_)) => (PutOutcome::Conflict, Some(self.who_has(&key).await?)),
                Err(StoreError::OutcomeUnknown(_)) => (PutOutcome::OutcomeUnknown, None),
                Err(error) => return Err(error.into()),
            };
            match decide::after_fence(seq, outcome, taken_by) {
                SuccessorAction::RecordSeal(end) => return Ok(end),
                SuccessorAction::PutFence(next) => {
                    if next == seq {
                        self.runtime.sleep(super::flush::RETRY_PAUSE).await;
                    }
                    seq = next;
                }
                SuccessorAction::MarkSealing | SuccessorAction::Adopt(_) => {
                    return Err(ClaimError::Inconsistent("a fence decides nothing else".to_string()));
                }
            }
        }
    }

    pub(super) async fn who_has(&self, key: &str) -> Result<SlotContent, ClaimError> {
        match self.store.get_range(key, 0..wal::HEADER_LEN as u64).await {
            Ok(bytes) => match wal::parse_header(&bytes) {
                Ok(header) if header.kind == Kind::Fence => Ok(SlotContent::Fence),
                Ok(_) => Ok(SlotContent::Other),
                Err(error) => Err(ClaimError::Wal {
                    key: key.to_string(),
                    error,
                }),
            },
            Err(StoreError::NotFound(_)) => Ok(SlotContent::Absent),
            Err(error) => Err(error.into()),
        }
    }

    /// Passes the slots that a listing shows without a gap from `first` on. While the stream is being sealed nothing is
    /// deleted, so a slot that was listed is there; one that was not listed may be there all the same.
    async fn skip_taken_slots(&self, stream: StreamId, first: u64) -> Result<Skipped, ClaimError> {
        let prefix = wal::stream_prefix(&self.config.namespace, stream);
        let mut seq = first;
        let mut after = (first > 0).then(|| wal::slot_key(&self.config.namespace, stream, first - 1));
        loop {
            let page = self.store.list(&prefix, after.as_deref(), 1000).await?;
            for object in &page.objects {
                if object.key != wal::slot_key(&self.config.namespace, stream, seq) {
                    return Ok(Skipped::FreeMaybe(seq));
                }
                if object.size <= FENCE_BYTES_MAX && self.who_has(&object.key).await? == SlotContent::Fence {
                    return Ok(Skipped::Fence(seq));
                }
                seq += 1;
            }
            if !page.more {
                return Ok(Skipped::FreeMaybe(seq));
            }
            after = page.objects.last().map(|object| object.key.clone());
        }
    }

    /// The runs of a sealed stream, from its merged objects and its live slots.
    async fn read_tail(&self, stream: StreamId, record: &StreamRecord, end_seq: u64) -> Result<StreamTail, ClaimError> {
        let merged = record.merged.iter().map(|object| ObjectRef {
            stream,
            first_seq: object.first,
            last_seq: object.last,
            merged: true,
        });
        let slots = (record.first_live_seq..end_seq).map(|seq| ObjectRef {
            stream,
            first_seq: seq,
            last_seq: seq,
            merged: false,
        });
        let footers: Vec<(ObjectRef, Vec<Run>)> = stream::iter(merged.chain(slots))
            .map(|object| async move { self.read_footer(object).await.map(|runs| (object, runs)) })
            .buffered(FOOTERS_AT_ONCE)
            .try_collect()
            .await?;
        let mut tail = StreamTail::new();
        for (object, runs) in footers {
            for run in runs {
                let key = PartitionKey {
                    topic_id: run.topic_id,
                    partition: run.partition,
                };
                tail.entry(key).or_default().push((object, run));
            }
        }
        Ok(tail)
    }

    /// The runs of one object.
    pub(super) async fn read_footer(&self, object: ObjectRef) -> Result<Vec<Run>, ClaimError> {
        let key = self.object_key(object);
        let mut len = FOOTER_SUFFIX_BYTES;
        loop {
            let suffix = self.store.get_suffix(&key, len).await?;
            match wal::parse_footer(&suffix.bytes, suffix.object_len) {
                Ok(FooterRead::Runs(runs)) => return Ok(runs),
                Ok(FooterRead::NeedSuffix(needed)) => len = needed,
                Err(error) => return Err(ClaimError::Wal { key, error }),
            }
        }
    }

    /// The key of a write-ahead object.
    pub(super) fn object_key(&self, object: ObjectRef) -> String {
        let namespace = &self.config.namespace;
        if object.merged {
            wal::merged_key(namespace, object.stream, object.first_seq, object.last_seq)
        } else {
            wal::slot_key(namespace, object.stream, object.first_seq)
        }
    }
}

/// Where the search for a stream's end goes on.
enum Skipped {
    /// A fence is in this slot already.
    Fence(u64),
    /// This slot was not listed.
    FreeMaybe(u64),
}

fn seal_state(record: &StreamRecord) -> SealState {
    match record.state {
        StreamState::Open => SealState::Open,
        StreamState::Sealing => SealState::Sealing,
        StreamState::Sealed { end_seq, .. } => SealState::Sealed { end_seq },
    }
}
