//! Ending another owner's stream and reading what it left: fence, seal, footers.
//!
//! A slot that is missing ends the stream only if no later slot vouches for it. A slot that was durable and cannot be
//! read now is [`Damage`]: the stream goes on behind it, and each partition is checked for what it may have lost there.

use super::tail::{Damage, Lost, StreamTail};
use super::Shard;
use crate::planted::{self, Bug};
use futures::stream::{self, StreamExt, TryStreamExt};
use kafscale_metastore::keys::{RecordError, StreamRecord, StreamState};
use kafscale_metastore::{streams, MetastoreError, OperationError, Revision, Versioned};
use kafscale_storage_engine::object_store::StoreError;
use kafscale_storage_engine::partition_log::ObjectRef;
use kafscale_storage_engine::wal::decide::{self, PutOutcome, SealState, SlotContent, SuccessorAction};
use kafscale_storage_engine::wal::{self, FooterRead, Kind, ObjectName, Run, StreamId, WalError};

/// How many footers are read at the same time.
const FOOTERS_AT_ONCE: usize = 64;

/// First guess of a footer's size; a larger one takes a second read.
const FOOTER_SUFFIX_BYTES: u64 = 64 * 1024;

/// An object of at most this size may be a fence, so its header is looked at.
const FENCE_BYTES_MAX: u64 = 512;

/// Slots at the end of a listing whose headers are read to learn which earlier slots were durable. The last one knows
/// most; the others are read in case its header is damaged.
const VOUCHERS: usize = 4;

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
    #[error(
        "a value in the metastore cannot be read: {0}. Restore it from a backup of the metastore, or run `kafscale-broker \
         rebuild` into an empty one"
    )]
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
    /// Records of the partition are missing, or may be.
    #[error("{0}")]
    Lost(#[from] Lost),
    /// The object store let a fence be overwritten.
    #[error(
        "the object store replaced {0} although it was told not to (If-None-Match: *): nothing is taken over from a \
         store where two brokers can overwrite each other's records"
    )]
    Overwritten(String),
    /// Others keep changing the same record.
    #[error("{0} changes too often")]
    Contended(String),
}

impl From<OperationError> for ClaimError {
    fn from(error: OperationError) -> Self {
        match error {
            OperationError::Metastore(error) => error.into(),
            OperationError::Record { source, .. } => source.into(),
            OperationError::Conflict => ClaimError::Contended("a record".to_string()),
        }
    }
}

impl ClaimError {
    /// Whether what is stored is damaged or missing, so that trying again soon would not help.
    pub(crate) fn is_damage(&self) -> bool {
        match self {
            ClaimError::Record(_) | ClaimError::Wal { .. } | ClaimError::Inconsistent(_) | ClaimError::Lost(_) => true,
            ClaimError::Metastore(_) | ClaimError::Store(_) | ClaimError::Overwritten(_) | ClaimError::Contended(_) => {
                false
            }
        }
    }
}

impl Shard {
    /// Ends `stream` for ever, unless that was done before, and reads what it holds.
    pub(crate) async fn take_over(&self, stream: StreamId) -> Result<StreamTail, ClaimError> {
        let (record, end_seq) = self.seal(stream).await?;
        self.read_tail(stream, &record, end_seq).await
    }

    /// Ends `stream` for ever, unless that was done before: its record, and the slot where it ends.
    pub(crate) async fn seal(&self, stream: StreamId) -> Result<(StreamRecord, u64), ClaimError> {
        let (mut record, _) = self.read_stream(stream).await?;
        for _ in 0..TXN_ATTEMPTS {
            let moved_on = match decide::begin_takeover(seal_state(&record), record.first_live_seq) {
                SuccessorAction::MarkSealing if planted::is(Bug::SealingSkipped) => {
                    let end_seq = self.fence(stream, record.first_live_seq).await?;
                    // The mark comes too late: the owner may have trimmed meanwhile, which the record as it was read denies.
                    streams::mark_sealing(&*self.metastore, stream.0).await?;
                    let sealed = self.record_seal(stream, end_seq).await?;
                    let (first_live, merged) = (record.first_live_seq, record.merged.clone());
                    streams::trim_sealed(&*self.metastore, stream.0, &sealed, first_live, merged).await
                }
                SuccessorAction::MarkSealing => {
                    let StreamRecord { broker_id, shard, .. } = record;
                    log::info!("end stream {stream} of broker {broker_id} shard {shard}");
                    streams::mark_sealing(&*self.metastore, stream.0).await
                }
                SuccessorAction::PutFence(first) => {
                    let end_seq = self.fence(stream, first).await?;
                    self.record_seal(stream, end_seq).await
                }
                SuccessorAction::Adopt(end_seq) => return Ok((record, end_seq)),
                SuccessorAction::RecordSeal(_) => {
                    return Err(ClaimError::Inconsistent("a takeover begins with no seal".to_string()));
                }
            };
            record = match moved_on {
                Ok(moved_on) => moved_on.value,
                // The stored record decides.
                Err(OperationError::Conflict | OperationError::Metastore(MetastoreError::OutcomeUnknown(_))) => {
                    self.read_stream(stream).await?.0
                }
                Err(error) => return Err(error.into()),
            };
        }
        Err(ClaimError::Contended(format!("stream {stream}")))
    }

    async fn record_seal(&self, stream: StreamId, end_seq: u64) -> Result<Versioned<StreamRecord>, OperationError> {
        let sealed_ms = self.runtime.wall_clock_ms();
        streams::seal(&*self.metastore, stream.0, end_seq, sealed_ms).await
    }

    pub(super) async fn read_stream(&self, stream: StreamId) -> Result<(StreamRecord, Revision), ClaimError> {
        let found = streams::load_stream(&*self.metastore, stream.0).await?;
        let Versioned {
            value: record,
            mod_revision,
        } = found.ok_or_else(|| ClaimError::Inconsistent(format!("stream {stream} has no record")))?;
        if let Some((one, other)) = record.overlap() {
            return Err(ClaimError::Inconsistent(format!(
                "the record of stream {stream} counts slots twice: {}..={} and {}..={}; its partitions cannot be served: \
                 run `kafscale-broker verify`",
                one.0, one.1, other.0, other.1
            )));
        }
        Ok((record, mod_revision))
    }

    /// Puts a fence where the stream ends, at or after `first`; returns that slot.
    async fn fence(&self, stream: StreamId, first: u64) -> Result<u64, ClaimError> {
        let mut seq = match self.find_end(stream, first).await? {
            End::Fence(seq) => return Ok(seq),
            End::FreeMaybe(seq) => seq,
        };
        loop {
            let nonce = u128::from(self.runtime.random_u64()) << 64 | u128::from(self.runtime.random_u64());
            let key = wal::slot_key(&self.config.namespace, stream, seq);
            let (outcome, taken_by) = match self.store.create(&key, wal::fence_object(stream, seq, nonce)).await {
                Ok(()) => (PutOutcome::Created, None),
                Err(StoreError::Conflict(_)) => (PutOutcome::Conflict, Some(self.who_has_or_damage(&key).await?)),
                Err(StoreError::OutcomeUnknown(_)) => (PutOutcome::OutcomeUnknown, None),
                Err(error) => return Err(error.into()),
            };
            match decide::after_fence(seq, outcome, taken_by) {
                SuccessorAction::RecordSeal(end) => {
                    self.prove_conditional_create(stream, end).await?;
                    match self.find_end(stream, end).await? {
                        End::Fence(end) => return Ok(end),
                        // The fence itself is gone: the stream was sealed long ago, and its record decides.
                        End::FreeMaybe(free) if free == end => return Ok(end),
                        End::FreeMaybe(behind) => seq = behind,
                    }
                }
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

    /// [`Self::who_has`], where a damaged object counts as data. If it was a fence, what lies behind it was never
    /// acknowledged, and the stream ends a little later than it could.
    async fn who_has_or_damage(&self, key: &str) -> Result<SlotContent, ClaimError> {
        match self.who_has(key).await {
            Err(ClaimError::Wal { key, error }) => {
                log::error!("{key} is damaged: {error}; it is taken for data");
                Ok(SlotContent::Other)
            }
            content => content,
        }
    }

    /// Creates the fence again, which the store must refuse: otherwise the former owner could replace it as well. What the
    /// store did at the start says nothing about the store, or the proxy before it, of this moment.
    async fn prove_conditional_create(&self, stream: StreamId, seq: u64) -> Result<(), ClaimError> {
        let key = wal::slot_key(&self.config.namespace, stream, seq);
        for _ in 0..TXN_ATTEMPTS {
            let nonce = u128::from(self.runtime.random_u64());
            match self.store.create(&key, wal::fence_object(stream, seq, nonce)).await {
                Err(StoreError::Conflict(_)) => return Ok(()),
                // The reconciler may have deleted a fence whose stream was sealed long ago; the record decides then.
                Ok(()) if self.who_has(&key).await? == SlotContent::Absent => {}
                Ok(()) => {
                    log::error!("the object store replaced {key}: it does not honour If-None-Match");
                    return Err(ClaimError::Overwritten(key));
                }
                Err(StoreError::OutcomeUnknown(_) | StoreError::Unavailable(_)) => {}
                Err(error) => return Err(error.into()),
            }
            self.runtime.sleep(super::flush::RETRY_PAUSE).await;
        }
        Err(ClaimError::Contended(format!(
            "the store's answer to a second create of {key}"
        )))
    }

    /// Where the stream ends, as far as a listing shows. While it is being sealed nothing is deleted, so a slot that was
    /// listed is there; one that was not listed may be there all the same.
    async fn find_end(&self, stream: StreamId, first: u64) -> Result<End, ClaimError> {
        let (slots, merged_end) = self.list_slots(stream, first).await?;
        let has_hole = slots.iter().zip(first..).any(|((slot, _), expected)| *slot != expected);
        let mut from = first;
        if (has_hole || merged_end > first) && !planted::is(Bug::HoleIsEnd) {
            let vouched = self.vouched(stream, &slots).await?.max(merged_end);
            from = decide::search_from(first, vouched);
        }
        let mut seq = from;
        for (at, (slot, size)) in slots.iter().enumerate() {
            if *slot < seq {
                continue;
            }
            if *slot != seq {
                break;
            }
            let key = wal::slot_key(&self.config.namespace, stream, *slot);
            if *size <= FENCE_BYTES_MAX && self.who_has_or_damage(&key).await? == SlotContent::Fence {
                let vouched = match planted::is(Bug::HoleIsEnd) {
                    true => 0,
                    false => self.vouched(stream, &slots[at + 1..]).await?,
                };
                match decide::after_second_listing(*slot, vouched) {
                    SuccessorAction::PutFence(behind) => {
                        log::error!("{key} is a fence where a slot was lost: slots up to {behind} were durable");
                        seq = behind;
                        continue;
                    }
                    _ => return Ok(End::Fence(*slot)),
                }
            }
            seq += 1;
        }
        Ok(End::FreeMaybe(seq))
    }

    /// The slots from `first` on with their sizes, in order, and the slot after the last that is in a merged object.
    async fn list_slots(&self, stream: StreamId, first: u64) -> Result<(Vec<(u64, u64)>, u64), ClaimError> {
        let prefix = wal::stream_prefix(&self.config.namespace, stream);
        let mut after = (first > 0).then(|| wal::slot_key(&self.config.namespace, stream, first - 1));
        let (mut slots, mut merged_end) = (Vec::new(), 0);
        loop {
            let page = self.store.list(&prefix, after.as_deref(), 1000).await?;
            for object in &page.objects {
                match wal::parse_object_name(&prefix, &object.key) {
                    Some(ObjectName::Slot(slot)) => slots.push((slot, object.size)),
                    // Only committed slots are merged.
                    Some(ObjectName::Merged(_, last)) => merged_end = merged_end.max(last + 1),
                    None => log::warn!("{} has no name of a write-ahead object and is ignored", object.key),
                }
            }
            after = page.objects.last().map(|object| object.key.clone());
            if !page.more || after.is_none() {
                return Ok((slots, merged_end));
            }
        }
    }

    /// Every slot below the returned one was durable once, by what the last of these slots say.
    async fn vouched(&self, stream: StreamId, slots: &[(u64, u64)]) -> Result<u64, ClaimError> {
        let mut vouched = 0;
        let mut unreadable = None;
        let last = &slots[slots.len().saturating_sub(VOUCHERS)..];
        for (slot, _) in last {
            let key = wal::slot_key(&self.config.namespace, stream, *slot);
            let bytes = match self.store.get_range(&key, 0..wal::HEADER_LEN as u64).await {
                Ok(bytes) => bytes,
                Err(StoreError::NotFound(_)) => continue,
                Err(error) => return Err(error.into()),
            };
            match wal::parse_header(&bytes) {
                Ok(header) => {
                    vouched = vouched.max(decide::vouched_by(*slot, header.kind == Kind::Fence, header.vouched));
                    unreadable = None;
                }
                Err(error) => unreadable = Some(ClaimError::Wal { key, error }),
            }
        }
        // The last slot knows most: without it a lost slot could be taken for the end.
        unreadable.map_or(Ok(vouched), Err)
    }

    /// The runs of a sealed stream, from its merged objects and its live slots, and which of these cannot be read.
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
        let footers: Vec<(ObjectRef, Result<Vec<Run>, String>)> = stream::iter(merged.chain(slots))
            .map(|object| async move { Ok::<_, ClaimError>((object, self.read_footer_twice(object).await?)) })
            .buffered(FOOTERS_AT_ONCE)
            .try_collect()
            .await?;
        let mut tail = StreamTail::default();
        for (object, runs) in footers {
            match runs {
                Ok(runs) => tail.add(object, runs),
                Err(why) => {
                    let key = self.object_key(object);
                    log::error!("{key} counts and cannot be read: it {why}");
                    tail.damaged.push(Damage { object, key, why });
                }
            }
        }
        Ok(tail)
    }

    /// The runs of one object, or what is wrong with it. What looks damaged is read again first: the bytes may have been
    /// damaged on their way.
    async fn read_footer_twice(&self, object: ObjectRef) -> Result<Result<Vec<Run>, String>, ClaimError> {
        let mut damage = String::new();
        for _ in 0..2 {
            damage = match self.read_footer(object).await {
                Ok(runs) => return Ok(Ok(runs)),
                Err(ClaimError::Store(StoreError::NotFound(_))) => "is missing".to_string(),
                Err(ClaimError::Wal { error, .. }) => format!("is damaged: {error}"),
                Err(error) => return Err(error),
            };
        }
        Ok(Err(damage))
    }

    /// The runs of one object.
    pub(super) async fn read_footer(&self, object: ObjectRef) -> Result<Vec<Run>, ClaimError> {
        let key = self.object_key(object);
        let mut len = FOOTER_SUFFIX_BYTES;
        loop {
            let suffix = self.store.get_suffix(&key, len).await?;
            if suffix.bytes.len() as u64 == suffix.object_len {
                // The whole object is here, so its header costs nothing.
                if let Err(error) = check_header(&suffix.bytes, object) {
                    return Err(ClaimError::Wal { key, error });
                }
            }
            match wal::parse_footer(&suffix.bytes, suffix.object_len) {
                Ok(FooterRead::Runs(runs)) => return Ok(runs),
                Ok(FooterRead::NeedSuffix(needed)) => len = needed,
                Err(error) => return Err(ClaimError::Wal { key, error }),
            }
        }
    }

    /// The key of a write-ahead object.
    pub(crate) fn object_key(&self, object: ObjectRef) -> String {
        let namespace = &self.config.namespace;
        if object.merged {
            wal::merged_key(namespace, object.stream, object.first_seq, object.last_seq)
        } else {
            wal::slot_key(namespace, object.stream, object.first_seq)
        }
    }
}

/// Where a stream ends by a listing.
enum End {
    /// A fence is in this slot already.
    Fence(u64),
    /// This slot was not listed.
    FreeMaybe(u64),
}

/// Looks whether bytes begin the object that this names: a copy under another's name is found.
pub(super) fn check_header(bytes: &[u8], object: ObjectRef) -> Result<(), WalError> {
    let header = wal::parse_header(bytes)?;
    let kind = if object.merged { Kind::Merged } else { Kind::Data };
    let wanted = (object.stream, object.first_seq, object.last_seq, kind);
    match (header.stream, header.first_seq, header.last_seq, header.kind) == wanted {
        true => Ok(()),
        false => Err(WalError::Impossible(format!("its header is of {header:?}"))),
    }
}

pub(super) fn seal_state(record: &StreamRecord) -> SealState {
    match record.state {
        StreamState::Open => SealState::Open,
        StreamState::Sealing => SealState::Sealing,
        StreamState::Sealed { end_seq, .. } => SealState::Sealed { end_seq },
    }
}
