//! Records inside a batch: for tools, tests and look-ups by time. The data path only walks over uncompressed ones.

use super::{BatchError, BatchHeader, Timestamps, HEADER_LEN};
use crate::compression::{self, Compression};
use bytes::Bytes;

/// No batch may decompress to more.
pub const DECOMPRESSED_BYTES_MAX: usize = 256 << 20;

/// A header of a record: a name and a value that may be null.
pub type Header = (Bytes, Option<Bytes>);

/// One record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// Its offset.
    pub offset: i64,
    /// Milliseconds since the Unix epoch.
    pub timestamp: i64,
    /// Null or bytes.
    pub key: Option<Bytes>,
    /// Null or bytes.
    pub value: Option<Bytes>,
    /// In order.
    pub headers: Vec<Header>,
}

/// The records of one whole batch.
pub fn records(batch: &[u8]) -> Result<Vec<Record>, BatchError> {
    let header = BatchHeader::parse_whole(batch)?;
    let body = decompressed(&header, batch)?;
    let mut rest = &body[..];
    let mut records = Vec::new();
    for index in 0..header.record_count {
        let record = read_record(&header, &mut rest).ok_or(BatchError::Record(index))?;
        records.push(record);
    }
    if !rest.is_empty() {
        return Err(BatchError::Record(header.record_count));
    }
    Ok(records)
}

/// The first record of the batch at or after `from` with a timestamp of at least `timestamp_ms`: its offset and timestamp.
/// Records before `from` are deleted, if the log begins inside the batch. A batch whose records cannot be decompressed is
/// taken to begin with one: whoever reads from there on misses nothing.
pub fn first_record_at_or_after(batch: &[u8], timestamp_ms: i64, from: i64) -> Result<Option<(i64, i64)>, BatchError> {
    let header = BatchHeader::parse(batch)?;
    if header.max_timestamp < timestamp_ms && !header.understates_max_timestamp() {
        return Ok(None);
    }
    if header.is_log_append_time() && header.base_offset >= from {
        return Ok(Some((header.base_offset, header.max_timestamp)));
    }
    let records = match records(batch) {
        Err(_) if header.is_compressed() => return Ok(Some((header.base_offset.max(from), header.max_timestamp))),
        records => records?,
    };
    let found = records
        .into_iter()
        .find(|record| record.timestamp >= timestamp_ms && record.offset >= from);
    Ok(found.map(|record| (record.offset, record.timestamp)))
}

fn decompressed(header: &BatchHeader, batch: &[u8]) -> Result<Vec<u8>, BatchError> {
    let compression = header
        .compression()
        .ok_or(BatchError::UnsupportedCompression(header.attributes & 0x07))?;
    Ok(compression::decompress(
        compression,
        &batch[HEADER_LEN..],
        DECOMPRESSED_BYTES_MAX,
    )?)
}

fn read_record(header: &BatchHeader, rest: &mut &[u8]) -> Option<Record> {
    let len = usize::try_from(varint(rest)?).ok()?;
    let mut record = take(rest, len)?;
    let _attributes = take(&mut record, 1)?;
    let timestamp_delta = varlong(&mut record)?;
    let offset_delta = i64::from(varint(&mut record)?);
    let key = nullable(&mut record)?.map(Bytes::copy_from_slice);
    let value = nullable(&mut record)?.map(Bytes::copy_from_slice);
    let mut headers = Vec::new();
    for _ in 0..header_count(&mut record)? {
        let name = Bytes::copy_from_slice(header_name(&mut record)?);
        headers.push((name, nullable(&mut record)?.map(Bytes::copy_from_slice)));
    }
    let timestamp = if header.is_log_append_time() {
        header.max_timestamp
    } else {
        // Wraps as the delta did: the first record may be at −1 and the next at the end of time.
        header.base_timestamp.wrapping_add(timestamp_delta)
    };
    let offset = header.base_offset.checked_add(offset_delta)?;
    record.is_empty().then_some(Record {
        offset,
        timestamp,
        key,
        value,
        headers,
    })
}

/// Walks uncompressed records as Kafka does at append: each as long as it says and nothing left over, offset deltas
/// 0, 1, 2, …, no header without a name. Nothing is copied. Returns the records' timestamps, by their deltas.
pub(super) fn check_structure(mut body: &[u8], header: &BatchHeader) -> Result<Timestamps, BatchError> {
    let mut times = Timestamps::NONE;
    for index in 0..header.record_count {
        let delta = check_record(&mut body, index).ok_or(BatchError::Record(index))?;
        times.add(header.base_timestamp.wrapping_add(delta));
    }
    if body.is_empty() {
        Ok(times)
    } else {
        Err(BatchError::Record(header.record_count))
    }
}

/// Passes one record; returns its timestamp delta.
fn check_record(body: &mut &[u8], index: i32) -> Option<i64> {
    let len = usize::try_from(varint(body)?).ok()?;
    let mut record = take(body, len)?;
    let _attributes = take(&mut record, 1)?;
    let timestamp_delta = varlong(&mut record)?;
    (varint(&mut record)? == index).then_some(())?;
    nullable(&mut record)?;
    nullable(&mut record)?;
    for _ in 0..header_count(&mut record)? {
        header_name(&mut record)?;
        nullable(&mut record)?;
    }
    record.is_empty().then_some(timestamp_delta)
}

fn header_count(rest: &mut &[u8]) -> Option<usize> {
    usize::try_from(varint(rest)?).ok()
}

fn header_name<'a>(rest: &mut &'a [u8]) -> Option<&'a [u8]> {
    let len = usize::try_from(varint(rest)?).ok()?;
    take(rest, len)
}

/// Bytes, or null: as in Kafka, any negative length is null.
fn nullable<'a>(rest: &mut &'a [u8]) -> Option<Option<&'a [u8]>> {
    match usize::try_from(varint(rest)?) {
        Ok(len) => take(rest, len).map(Some),
        Err(_) => Some(None),
    }
}

fn take<'a>(rest: &mut &'a [u8], len: usize) -> Option<&'a [u8]> {
    let (head, tail) = rest.split_at_checked(len)?;
    *rest = tail;
    Some(head)
}

/// A zigzag varint of up to 32 bits.
fn varint(rest: &mut &[u8]) -> Option<i32> {
    // Nearly all are one byte: an offset delta, a short key, no headers.
    if let Some((&byte, tail)) = rest.split_first() {
        if byte & 0x80 == 0 {
            *rest = tail;
            return Some(i32::from(byte >> 1) ^ -i32::from(byte & 1));
        }
    }
    let mut value = 0u32;
    for (index, byte) in rest.iter().enumerate().take(5) {
        value |= u32::from(byte & 0x7f) << (7 * index);
        if byte & 0x80 == 0 {
            *rest = &rest[index + 1..];
            return Some((value >> 1) as i32 ^ -((value & 1) as i32));
        }
    }
    None
}

/// A zigzag varint of up to 64 bits.
fn varlong(rest: &mut &[u8]) -> Option<i64> {
    let mut value = 0u64;
    for (index, byte) in rest.iter().enumerate().take(10) {
        value |= u64::from(byte & 0x7f) << (7 * index);
        if byte & 0x80 == 0 {
            *rest = &rest[index + 1..];
            return Some((value >> 1) as i64 ^ -((value & 1) as i64));
        }
    }
    None
}

pub(super) fn put_varlong(out: &mut Vec<u8>, value: i64) {
    let mut bits = ((value << 1) ^ (value >> 63)) as u64;
    while bits >= 0x80 {
        out.push(bits as u8 | 0x80);
        bits >>= 7;
    }
    out.push(bits as u8);
}

/// The codec that a batch names, for callers outside.
impl BatchHeader {
    /// Whether the records have to be decompressed to be read.
    pub fn is_compressed(&self) -> bool {
        self.compression() != Some(Compression::None)
    }
}
