//! Reading objects for a look: page by page, piece by piece, so that no store is too large for it.

use bytes::{Buf, Bytes, BytesMut};
use kafscale_codec::record_batch::{self, BatchHeader};
use kafscale_storage_engine::object_store::{ObjectMeta, ObjectStore, StoreError};
use kafscale_storage_engine::wal::{self, FooterRead, Run, WalHeader};
use std::ops::Range;

/// Keys per listing.
const PAGE: usize = 1000;

/// Bytes per read.
const PIECE: u64 = 4 << 20;

/// Longer batches are not believed: no request of a broker can carry one.
const BATCH_BYTES_MAX: usize = 256 << 20;

/// First guess of a footer's size.
const FOOTER_SUFFIX: u64 = 64 << 10;

/// Why an object could not be read.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// The store did not answer: nothing is known of the object.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// It is not what it should be.
    #[error("{0}")]
    Damaged(String),
}

/// A listing, page by page.
pub struct Pages<'a> {
    store: &'a dyn ObjectStore,
    prefix: String,
    after: Option<String>,
    done: bool,
}

impl<'a> Pages<'a> {
    /// All objects below `prefix`.
    pub fn below(store: &'a dyn ObjectStore, prefix: String) -> Self {
        Pages {
            store,
            prefix,
            after: None,
            done: false,
        }
    }

    /// The next page; `None` at the end.
    pub async fn next(&mut self) -> Result<Option<Vec<ObjectMeta>>, StoreError> {
        if self.done {
            return Ok(None);
        }
        let page = self.store.list(&self.prefix, self.after.as_deref(), PAGE).await?;
        self.after = page.objects.last().map(|object| object.key.clone());
        self.done = !page.more || page.objects.is_empty();
        Ok(Some(page.objects))
    }
}

/// A write-ahead object's header and runs.
pub async fn read_wal(store: &dyn ObjectStore, key: &str) -> Result<(WalHeader, Vec<Run>), ReadError> {
    let damaged = |error: wal::WalError| ReadError::Damaged(error.to_string());
    let head = store.get_range(key, 0..wal::HEADER_LEN as u64).await?;
    let header = wal::parse_header(&head).map_err(damaged)?;
    let mut len = FOOTER_SUFFIX;
    // The second time the length is the footer's own.
    for _ in 0..2 {
        let suffix = store.get_suffix(key, len).await?;
        match wal::parse_footer(&suffix.bytes, suffix.object_len).map_err(damaged)? {
            FooterRead::Runs(runs) => return Ok((header, runs)),
            FooterRead::NeedSuffix(needed) => len = needed,
        }
    }
    Err(ReadError::Damaged("the footer changes its length".to_string()))
}

/// What a stretch of batches turned out to be.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Batches {
    /// CRC-32C over all.
    pub crc32c: u32,
    /// Records.
    pub records: i64,
    /// First offset.
    pub base_offset: Option<i64>,
    /// Offset after the last record.
    pub next_offset: Option<i64>,
    /// The largest leader epoch.
    pub leader_epoch: i32,
    /// What is wrong, one sentence each; only the first of a kind that would repeat.
    pub problems: Vec<String>,
}

/// Reads the batches that lie in `range`, and shows each with its position to `see`.
pub async fn read_batches(
    store: &dyn ObjectStore,
    key: &str,
    range: Range<u64>,
    mut see: impl FnMut(u64, &BatchHeader),
) -> Result<Batches, StoreError> {
    let mut found = Batches {
        leader_epoch: -1,
        ..Batches::default()
    };
    let mut rest = BytesMut::new();
    let mut position = range.start;
    let mut readable = true;
    let mut at = range.start;
    while at < range.end {
        let piece: Bytes = store.get_range(key, at..range.end.min(at + PIECE)).await?;
        if piece.is_empty() {
            found.problems.push(format!("the object ends at byte {at}"));
            return Ok(found);
        }
        at += piece.len() as u64;
        found.crc32c = crc32c::crc32c_append(found.crc32c, &piece);
        if readable {
            rest.extend_from_slice(&piece);
            readable = take_batches(&mut rest, &mut position, &mut found, &mut see);
        }
    }
    if readable && !rest.is_empty() {
        found.problems.push(format!("the batch at byte {position} is cut off"));
    }
    Ok(found)
}

/// Takes whole batches off the front. `false` if nothing after this point can be read.
fn take_batches(
    rest: &mut BytesMut,
    position: &mut u64,
    found: &mut Batches,
    see: &mut impl FnMut(u64, &BatchHeader),
) -> bool {
    while rest.len() >= record_batch::HEADER_LEN {
        let header = match BatchHeader::parse(rest) {
            Ok(header) if (record_batch::HEADER_LEN..=BATCH_BYTES_MAX).contains(&header.total_len()) => header,
            Ok(header) => {
                let len = header.total_len();
                found
                    .problems
                    .push(format!("the batch at byte {position} says that it has {len} bytes"));
                return false;
            }
            Err(error) => {
                found.problems.push(format!("the batch at byte {position}: {error}"));
                return false;
            }
        };
        let len = header.total_len();
        if rest.len() < len {
            return true;
        }
        if let Err(error) = record_batch::validate_stored(&rest[..len]) {
            found.problems.push(format!("the batch at byte {position}: {error}"));
        }
        if found.next_offset.is_some_and(|next| next != header.base_offset) {
            found.problems.push(format!(
                "the batch at byte {position} begins at offset {}, and the one before ends at {}",
                header.base_offset,
                found.next_offset.unwrap_or_default()
            ));
        }
        see(*position, &header);
        found.base_offset.get_or_insert(header.base_offset);
        found.next_offset = Some(header.next_offset());
        found.records += i64::from(header.record_count);
        found.leader_epoch = found.leader_epoch.max(header.partition_leader_epoch);
        rest.advance(len);
        *position += len as u64;
    }
    true
}
