//! Write-ahead streams: opened by a shard, trimmed by it while open, sealed by itself or by a successor.
//!
//! `Open → Sealing → Sealed`, never back. Trimming compares that the record is unchanged since it was seen open, so a
//! successor that has marked the stream finds every slot from `first_live_seq` on. The transaction that seals decides
//! where the stream ends; whoever comes later adopts that end.

use crate::counters::allocate;
use crate::keys::{stream_key, Key, MergedObject, StreamRecord, StreamState, STREAMS_PREFIX, STREAM_COUNTER};
use crate::operation::{decode_value, delete_if_unchanged, list, put_if_unchanged, read};
use crate::operation::{Listing, OperationError, Versioned};
use crate::store::{Metastore, Revision};

/// Attempts to move a stream on that others change at the same time. It has two steps and few who take them.
const ATTEMPTS_MAX: usize = 32;

/// All streams.
///
/// # Errors
/// The metastore's. Records that cannot be decoded are named in [`Listing::unreadable`].
pub async fn load_streams(store: &dyn Metastore) -> Result<Listing<(u64, Versioned<StreamRecord>)>, OperationError> {
    list(store, STREAMS_PREFIX, |item| match Key::parse(&item.key) {
        Some(Key::Stream(stream)) => Ok(Some((stream, decode_value(item, StreamRecord::decode)?))),
        _ => Ok(None),
    })
    .await
}

/// One stream.
///
/// # Errors
/// The metastore's, or a record that cannot be read.
pub async fn load_stream(
    store: &dyn Metastore,
    stream: u64,
) -> Result<Option<Versioned<StreamRecord>>, OperationError> {
    read(store, &stream_key(stream), StreamRecord::decode).await
}

/// Opens a new stream, under a number that none had before.
///
/// # Errors
/// The metastore's. After an unknown outcome an open stream may be left that nobody writes; opening another is safe.
pub async fn open_stream(
    store: &dyn Metastore,
    broker_id: i32,
    incarnation: u64,
    shard: u32,
) -> Result<(u64, Versioned<StreamRecord>), OperationError> {
    let stream = allocate(store, STREAM_COUNTER, 1).await?;
    let value = StreamRecord {
        broker_id,
        incarnation,
        shard,
        state: StreamState::Open,
        first_live_seq: 0,
        merged: Vec::new(),
    };
    let mod_revision = put_if_unchanged(store, &stream_key(stream), None, value.encode()).await?;
    Ok((stream, Versioned { value, mod_revision }))
}

/// Records, before anything is deleted, that slots before `first_live_seq` may go, and which merged objects hold what
/// of them is not rolled yet. `current` is the record as the owner knows it.
///
/// # Errors
/// [`OperationError::Conflict`] if the stream is not open any more, or `current` is not the latest: delete nothing.
///
/// # Panics
/// If `first_live_seq` goes backwards.
pub async fn advance_first_live(
    store: &dyn Metastore,
    stream: u64,
    current: &Versioned<StreamRecord>,
    first_live_seq: u64,
    merged: Vec<MergedObject>,
) -> Result<Versioned<StreamRecord>, OperationError> {
    assert!(
        first_live_seq >= current.value.first_live_seq,
        "slots that may be gone do not come back"
    );
    if current.value.state != StreamState::Open {
        return Err(OperationError::Conflict);
    }
    let value = StreamRecord {
        first_live_seq,
        merged,
        ..current.value.clone()
    };
    replace(store, stream, current.mod_revision, value).await
}

/// Marks a stream as *sealing*: from here on its owner trims nothing. A stream that is sealing or sealed stays so.
/// Returns the record to go by.
///
/// # Errors
/// [`OperationError::Conflict`] if there is no such stream; the metastore's otherwise. It is safe to call again.
pub async fn mark_sealing(store: &dyn Metastore, stream: u64) -> Result<Versioned<StreamRecord>, OperationError> {
    for _ in 0..ATTEMPTS_MAX {
        let current = load_stream(store, stream).await?.ok_or(OperationError::Conflict)?;
        if current.value.state != StreamState::Open {
            return Ok(current);
        }
        let value = StreamRecord {
            state: StreamState::Sealing,
            ..current.value
        };
        match replace(store, stream, current.mod_revision, value).await {
            Err(OperationError::Conflict) => {}
            result => return result,
        }
    }
    Err(OperationError::Conflict)
}

/// Records where a stream that is sealing ends. If it is sealed already, that end stands: go by the record returned,
/// not by `end_seq`.
///
/// # Errors
/// [`OperationError::Conflict`] if the stream is open or unknown: [`mark_sealing`] comes first. The metastore's
/// otherwise. It is safe to call again.
pub async fn seal(
    store: &dyn Metastore,
    stream: u64,
    end_seq: u64,
    sealed_ms: i64,
) -> Result<Versioned<StreamRecord>, OperationError> {
    for _ in 0..ATTEMPTS_MAX {
        let current = load_stream(store, stream).await?.ok_or(OperationError::Conflict)?;
        match current.value.state {
            StreamState::Open => return Err(OperationError::Conflict),
            StreamState::Sealed { .. } => return Ok(current),
            StreamState::Sealing => {}
        }
        let value = StreamRecord {
            state: StreamState::Sealed { end_seq, sealed_ms },
            ..current.value
        };
        match replace(store, stream, current.mod_revision, value).await {
            Err(OperationError::Conflict) => {}
            result => return result,
        }
    }
    Err(OperationError::Conflict)
}

/// Replaces a sealed stream's list of merged objects, or its first live slot, as its content is rolled after its end.
///
/// # Errors
/// [`OperationError::Conflict`] if `current` is not the latest, or not sealed; the metastore's otherwise.
pub async fn trim_sealed(
    store: &dyn Metastore,
    stream: u64,
    current: &Versioned<StreamRecord>,
    first_live_seq: u64,
    merged: Vec<MergedObject>,
) -> Result<Versioned<StreamRecord>, OperationError> {
    if !matches!(current.value.state, StreamState::Sealed { .. }) {
        return Err(OperationError::Conflict);
    }
    let value = StreamRecord {
        first_live_seq,
        merged,
        ..current.value.clone()
    };
    replace(store, stream, current.mod_revision, value).await
}

/// Forgets a stream, if its record is still the one of this revision. Its objects must be gone, its fence too.
///
/// # Errors
/// [`OperationError::Conflict`] if the record changed; the metastore's otherwise.
pub async fn forget_stream(
    store: &dyn Metastore,
    stream: u64,
    mod_revision: Revision,
) -> Result<Revision, OperationError> {
    delete_if_unchanged(store, &stream_key(stream), mod_revision).await
}

async fn replace(
    store: &dyn Metastore,
    stream: u64,
    expected: Revision,
    value: StreamRecord,
) -> Result<Versioned<StreamRecord>, OperationError> {
    let mod_revision = put_if_unchanged(store, &stream_key(stream), Some(expected), value.encode()).await?;
    Ok(Versioned { value, mod_revision })
}
