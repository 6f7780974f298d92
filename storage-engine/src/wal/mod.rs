//! Write-ahead objects: one put carries the batches of all partitions that a flush gathered.
//!
//! ```text
//! header   64  "KWAL", u16 version, u8 kind, u8 0, u64 stream, u64 first seq, u64 last seq, u128 nonce,
//!              u64 vouched slots, 4 bytes 0, u32 CRC-32C of the 60 bytes before
//! body      n  the runs: whole batches, those of one partition together
//! footer    m  FlatBuffers (footer.fbs): one entry per run
//! trailer  16  u32 footer length, u32 CRC-32C of the footer, u32 CRC-32C of the 8 bytes before, "KWAE"
//! ```
//!
//! All integers outside the footer are big-endian. A *stream* is one shard of one broker incarnation; its *slots* are
//! numbered from 0. A slot holds data or the fence of a successor, whichever was created first: [`decide`].
//!
//! Each object *vouches* for earlier slots: when it was written, every slot below `vouched` was durable. A missing slot
//! below that point was lost; a missing slot at or above it may never have been written. Writers of older versions left
//! the field 0.

mod builder;
pub mod decide;
#[path = "footer_generated.rs"]
mod footer_generated;
pub mod merge;
mod reader;

pub use builder::{fence_object, WalBuilder, WalObject};
pub use reader::{batch_of_run, parse_footer, parse_header, FooterRead, WalError};

pub use crate::producer_state::ProducerChange;
use kafscale_codec::types::TopicId;
use std::fmt;

/// Bytes of the header.
pub const HEADER_LEN: usize = 64;
/// Bytes of the trailer.
pub const TRAILER_LEN: usize = 16;
pub(crate) const HEADER_MAGIC: &[u8; 4] = b"KWAL";
pub(crate) const TRAILER_MAGIC: &[u8; 4] = b"KWAE";
pub(crate) const VERSION: u16 = 1;

/// One shard of one broker incarnation; never used twice.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StreamId(pub u64);

impl fmt::Display for StreamId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

impl fmt::Debug for StreamId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

/// What an object is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Kind {
    /// A slot's batches.
    Data = 1,
    /// A successor took the slot: the stream ends before it.
    Fence = 2,
    /// The batches of several slots, contiguous per partition again.
    Merged = 3,
}

/// An object's header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WalHeader {
    /// What it is.
    pub kind: Kind,
    /// The stream.
    pub stream: StreamId,
    /// First slot that it covers.
    pub first_seq: u64,
    /// Last slot that it covers; the same but for merged objects.
    pub last_seq: u64,
    /// Random: tells the writer its own object from another's.
    pub nonce: u128,
    /// Every slot of the stream below this one was durable when the object was written; 0 if the writer did not record it.
    pub vouched: u64,
}

/// A footer entry: batches of one partition that lie together.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Run {
    /// The topic.
    pub topic_id: TopicId,
    /// The partition.
    pub partition: i32,
    /// Leader epoch of the last batch.
    pub leader_epoch: i32,
    /// Offset of the first record.
    pub base_offset: i64,
    /// Offset after the last record.
    pub next_offset: i64,
    /// First byte in the object.
    pub position: u64,
    /// Bytes.
    pub length: u64,
    /// Largest record timestamp, ms since the Unix epoch.
    pub max_timestamp: i64,
    /// CRC-32C of the bytes.
    pub crc32c: u32,
    /// What idempotent producers wrote, in offset order.
    pub producers: Vec<ProducerChange>,
}

/// Prefix of a stream's objects.
pub fn stream_prefix(namespace: &str, stream: StreamId) -> String {
    format!("{namespace}/_wal/{stream}/")
}

/// Key of a slot.
pub fn slot_key(namespace: &str, stream: StreamId, seq: u64) -> String {
    format!("{namespace}/_wal/{stream}/{seq:020}.wal")
}

/// Whether this is the key of a slot.
pub fn is_slot_key(key: &str) -> bool {
    let mut parts = key.rsplit('/');
    let number = parts.next().and_then(|name| name.strip_suffix(".wal"));
    let is_number = number.is_some_and(|number| number.len() == 20 && number.bytes().all(|byte| byte.is_ascii_digit()));
    is_number && parts.nth(1) == Some("_wal")
}

/// What a stream's object is, by the last part of its key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ObjectName {
    /// A slot: data or a fence.
    Slot(u64),
    /// A merged object, with its first and last slot.
    Merged(u64, u64),
}

/// Reads a key below a stream's prefix. `None` if no broker names its objects like this.
pub fn parse_object_name(prefix: &str, key: &str) -> Option<ObjectName> {
    let name = key.strip_prefix(prefix)?.strip_suffix(".wal")?;
    let number = |text: &str| match text.len() == 20 && text.bytes().all(|byte| byte.is_ascii_digit()) {
        true => text.parse().ok(),
        false => None,
    };
    match name.strip_prefix("merged-") {
        Some(range) => {
            let (first, last) = range.split_once('-')?;
            Some(ObjectName::Merged(number(first)?, number(last)?))
        }
        None => number(name).map(ObjectName::Slot),
    }
}

/// Key of a merged object.
pub fn merged_key(namespace: &str, stream: StreamId, first: u64, last: u64) -> String {
    format!("{namespace}/_wal/{stream}/merged-{first:020}-{last:020}.wal")
}

#[cfg(test)]
mod tests;
