//! Segments: immutable objects of one partition, byte-compatible with the format that readers of the bucket know.
//!
//! ```text
//! .kfs    header 32   "KAFS", u16 version 1, u16 flags 0, i64 base offset, i32 record count, i64 created ms, u32 0
//!         body    n   record batches as stored
//!         footer 16   u32 CRC-32C of the body, i64 last offset, "END!"
//! .index  header 16   "IDX\0", u16 version 1, i32 entries, i32 interval (records), u16 0
//!         entries 12  i64 offset, i32 position in the .kfs file
//! .kfst   40          "KFTF", u32 1, i64 min and max timestamp, i64 min and max offset
//! ```
//!
//! All integers are big-endian. A segment counts once `.kfs` and `.index` both exist, so the index is written first.

use bytes::{Buf, BufMut, Bytes, BytesMut};
use kafscale_codec::crc;
use kafscale_codec::record_batch::{self, BatchHeader};

/// Bytes before the body of a `.kfs` object.
pub const HEADER_LEN: usize = 32;
/// Bytes after it.
pub const FOOTER_LEN: usize = 16;
/// Records between two index entries, at least; entries stand at batches.
pub const INDEX_INTERVAL: i32 = 4096;
/// An index entry is due after this many bytes too, so that a look-up never reads far.
const INDEX_INTERVAL_BYTES: usize = 64 * 1024;

/// Why bytes are not part of a segment.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SegmentError {
    /// Too short.
    #[error("{0} bytes are too few")]
    Truncated(usize),
    /// Wrong magic or version.
    #[error("not a {0}")]
    Format(&'static str),
}

/// Which of a segment's objects.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// The records.
    Kfs,
    /// Offsets to positions.
    Index,
    /// Times.
    Kfst,
}

/// Prefix of a partition's segments.
pub fn prefix(namespace: &str, folder: &str, partition: i32) -> String {
    format!("{namespace}/{folder}/{partition}/")
}

/// Key of one of a segment's objects.
pub fn key(namespace: &str, folder: &str, partition: i32, base_offset: i64, part: Part) -> String {
    let ending = match part {
        Part::Kfs => "kfs",
        Part::Index => "index",
        Part::Kfst => "kfst",
    };
    format!("{namespace}/{folder}/{partition}/segment-{base_offset:020}.{ending}")
}

/// The base offset and the part that a key's last component names.
pub fn parse_key(key: &str) -> Option<(i64, Part)> {
    let (offset, ending) = key.rsplit('/').next()?.strip_prefix("segment-")?.split_once('.')?;
    let part = match ending {
        "kfs" => Part::Kfs,
        "index" => Part::Index,
        "kfst" => Part::Kfst,
        _ => return None,
    };
    Some((offset.parse().ok()?, part))
}

/// A finished segment: the three objects.
#[derive(Debug)]
pub struct Segment {
    /// `.kfs`, in pieces.
    pub kfs: Vec<Bytes>,
    /// CRC-32C of all of `.kfs`.
    pub kfs_crc32c: u32,
    /// `.index`.
    pub index: Bytes,
    /// `.kfst`.
    pub kfst: Bytes,
    /// Offset after the last record.
    pub next_offset: i64,
}

/// Collects stored batches, without copying them.
#[derive(Debug)]
pub struct SegmentBuilder {
    base_offset: i64,
    created_ms: i64,
    body: Vec<Bytes>,
    body_len: usize,
    crc: u32,
    records: i32,
    next_offset: i64,
    entries: BytesMut,
    entry_count: i32,
    records_since_entry: i32,
    bytes_since_entry: usize,
    min_timestamp: i64,
    max_timestamp: i64,
}

impl SegmentBuilder {
    /// A segment that begins at `base_offset`; `created_ms` since the Unix epoch.
    pub fn new(base_offset: i64, created_ms: i64) -> Self {
        SegmentBuilder {
            base_offset,
            created_ms,
            body: Vec::new(),
            body_len: 0,
            crc: 0,
            records: 0,
            next_offset: base_offset,
            entries: BytesMut::new(),
            entry_count: 0,
            records_since_entry: 0,
            bytes_since_entry: 0,
            min_timestamp: i64::MAX,
            max_timestamp: i64::MIN,
        }
    }

    /// Adds one stored batch that was found valid.
    pub fn push(&mut self, header: &BatchHeader, batch: Bytes) {
        let due = self.records_since_entry >= INDEX_INTERVAL || self.bytes_since_entry >= INDEX_INTERVAL_BYTES;
        if self.entry_count == 0 || due {
            self.entries.put_i64(header.base_offset);
            self.entries.put_i32((HEADER_LEN + self.body_len) as i32);
            self.entry_count += 1;
            self.records_since_entry = 0;
            self.bytes_since_entry = 0;
        }
        self.records_since_entry += header.record_count;
        self.bytes_since_entry += batch.len();
        self.records += header.record_count;
        self.next_offset = header.next_offset();
        self.min_timestamp = self.min_timestamp.min(header.base_timestamp);
        self.max_timestamp = self.max_timestamp.max(header.max_timestamp);
        self.crc = record_batch::append_crc(self.crc, &batch);
        self.body_len += batch.len();
        self.body.push(batch);
    }

    /// Bytes of batches so far.
    pub fn body_len(&self) -> usize {
        self.body_len
    }

    /// The segment.
    pub fn finish(self) -> Segment {
        let mut header = BytesMut::with_capacity(HEADER_LEN);
        header.put_slice(b"KAFS");
        header.put_u16(1);
        header.put_u16(0);
        header.put_i64(self.base_offset);
        header.put_i32(self.records);
        header.put_i64(self.created_ms);
        header.put_u32(0);
        let mut footer = BytesMut::with_capacity(FOOTER_LEN);
        footer.put_u32(self.crc);
        footer.put_i64(self.next_offset - 1);
        footer.put_slice(b"END!");
        let mut index = BytesMut::with_capacity(16 + self.entries.len());
        index.put_slice(b"IDX\0");
        index.put_u16(1);
        index.put_i32(self.entry_count);
        index.put_i32(INDEX_INTERVAL);
        index.put_u16(0);
        index.put_slice(&self.entries);
        let mut kfst = BytesMut::with_capacity(40);
        kfst.put_slice(b"KFTF");
        kfst.put_u32(1);
        kfst.put_i64(self.min_timestamp);
        kfst.put_i64(self.max_timestamp);
        kfst.put_i64(self.base_offset);
        kfst.put_i64(self.next_offset - 1);
        let pieces = self.body.iter().map(|batch| &batch[..]);
        let before_footer = crc::append_known(crc32c::crc32c(&header), pieces, self.body_len, self.crc);
        let kfs_crc32c = crc32c::crc32c_append(before_footer, &footer);
        let mut kfs = Vec::with_capacity(self.body.len() + 2);
        kfs.push(header.freeze());
        kfs.extend(self.body);
        kfs.push(footer.freeze());
        Segment {
            kfs,
            kfs_crc32c,
            index: index.freeze(),
            kfst: kfst.freeze(),
            next_offset: self.next_offset,
        }
    }
}

/// What a `.kfs` says before its body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// Offset of the first record.
    pub base_offset: i64,
    /// How many records follow.
    pub records: i32,
    /// When the segment was made, ms since the Unix epoch.
    pub created_ms: i64,
}

/// What a `.kfs` says after its body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Footer {
    /// CRC-32C of the body.
    pub crc32c: u32,
    /// Offset after the last record.
    pub next_offset: i64,
}

/// What a `.kfst` says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Times {
    /// Smallest timestamp, ms since the Unix epoch.
    pub min_timestamp: i64,
    /// Largest timestamp, ms since the Unix epoch.
    pub max_timestamp: i64,
    /// Offset of the first record.
    pub base_offset: i64,
    /// Offset after the last record.
    pub next_offset: i64,
}

/// Reads the first [`HEADER_LEN`] bytes of a `.kfs`.
pub fn parse_header(bytes: &[u8]) -> Result<Header, SegmentError> {
    let header = bytes
        .first_chunk::<HEADER_LEN>()
        .ok_or(SegmentError::Truncated(bytes.len()))?;
    if &header[..6] != b"KAFS\0\x01" {
        return Err(SegmentError::Format(".kfs of version 1"));
    }
    let mut fields = &header[8..];
    Ok(Header {
        base_offset: fields.get_i64(),
        records: fields.get_i32(),
        created_ms: fields.get_i64(),
    })
}

/// Reads the last [`FOOTER_LEN`] bytes of a `.kfs`.
pub fn parse_whole_footer(suffix: &[u8]) -> Result<Footer, SegmentError> {
    let footer = suffix
        .last_chunk::<FOOTER_LEN>()
        .ok_or(SegmentError::Truncated(suffix.len()))?;
    if &footer[12..] != b"END!" {
        return Err(SegmentError::Format("finished .kfs"));
    }
    let mut fields = &footer[..];
    Ok(Footer {
        crc32c: fields.get_u32(),
        next_offset: fields.get_i64().saturating_add(1),
    })
}

/// The offset after a segment's last record, from the last [`FOOTER_LEN`] bytes of its `.kfs`.
pub fn parse_footer(suffix: &[u8]) -> Result<i64, SegmentError> {
    parse_whole_footer(suffix).map(|footer| footer.next_offset)
}

/// When the segment from `base_offset` on was created, ms since the Unix epoch, from the first [`HEADER_LEN`] bytes of its
/// `.kfs`.
///
/// # Errors
/// [`SegmentError`] if that is no header, or another segment's.
pub fn parse_created(bytes: &[u8], base_offset: i64) -> Result<i64, SegmentError> {
    let header = parse_header(bytes)?;
    match header.base_offset == base_offset {
        true => Ok(header.created_ms),
        false => Err(SegmentError::Format(".kfs of this segment")),
    }
}

/// Where to look for offsets in a `.kfs`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Index {
    entries: Vec<(i64, u32)>,
}

impl Index {
    /// Reads an `.index`.
    pub fn parse(mut bytes: &[u8]) -> Result<Self, SegmentError> {
        let len = bytes.len();
        if len < 16 {
            return Err(SegmentError::Truncated(len));
        }
        if &bytes[..4] != b"IDX\0" || bytes[4..6] != [0, 1] {
            return Err(SegmentError::Format(".index of version 1"));
        }
        bytes.advance(6);
        let count = usize::try_from(bytes.get_i32()).map_err(|_| SegmentError::Format(".index with a count"))?;
        bytes.advance(6);
        if bytes.len() < count.saturating_mul(12) {
            return Err(SegmentError::Truncated(len));
        }
        let entries = (0..count).map(|_| (bytes.get_i64(), bytes.get_u32())).collect();
        Ok(Index { entries })
    }

    /// An index of nothing: look-ups begin at a segment's first batch.
    pub fn empty() -> Self {
        Index { entries: Vec::new() }
    }

    /// The index, if it can be that of a segment which begins at `base_offset` and whose batches end before byte `end`.
    ///
    /// # Errors
    /// [`SegmentError::Format`] if an entry points elsewhere, or the entries are not in order.
    pub fn of_segment(self, base_offset: i64, end: u64) -> Result<Self, SegmentError> {
        let begins = self.entries.first().is_none_or(|(offset, _)| *offset == base_offset);
        let ordered = self
            .entries
            .windows(2)
            .all(|pair| pair[0].0 < pair[1].0 && pair[0].1 < pair[1].1);
        let inside = self
            .entries
            .iter()
            .all(|(_, position)| (HEADER_LEN as u64..end).contains(&u64::from(*position)));
        match begins && ordered && inside {
            true => Ok(self),
            false => Err(SegmentError::Format(".index of this segment")),
        }
    }

    /// Position of the last indexed batch that begins at or before `offset`.
    pub fn position(&self, offset: i64) -> u64 {
        let at = self.entries.partition_point(|(entry, _)| *entry <= offset);
        at.checked_sub(1)
            .map_or(HEADER_LEN as u64, |at| u64::from(self.entries[at].1))
    }

    /// Indexed offsets with the positions of their batches.
    pub fn entries(&self) -> &[(i64, u32)] {
        &self.entries
    }

    /// The last indexed offset.
    pub fn last_offset(&self) -> Option<i64> {
        self.entries.last().map(|entry| entry.0)
    }
}

/// Reads a `.kfst`.
pub fn parse_times(bytes: &[u8]) -> Result<Times, SegmentError> {
    if bytes.len() < 40 {
        return Err(SegmentError::Truncated(bytes.len()));
    }
    if &bytes[..8] != b"KFTF\0\0\0\x01" {
        return Err(SegmentError::Format(".kfst of version 1"));
    }
    let mut fields = &bytes[8..];
    Ok(Times {
        min_timestamp: fields.get_i64(),
        max_timestamp: fields.get_i64(),
        base_offset: fields.get_i64(),
        next_offset: fields.get_i64().saturating_add(1),
    })
}

/// A segment's largest timestamp, ms since the Unix epoch, from its `.kfst`.
pub fn parse_max_timestamp(bytes: &[u8]) -> Result<i64, SegmentError> {
    parse_times(bytes).map(|times| times.max_timestamp)
}

#[cfg(test)]
mod tests {
    use super::*;
    use kafscale_codec::record_batch::{stamp, validate, BatchBuilder};

    fn segment(batches: usize) -> Segment {
        let mut builder = SegmentBuilder::new(100, 7);
        let mut offset = 100;
        for n in 0..batches {
            let mut batch = BatchBuilder::new();
            batch.push(n as i64, None, Some(&[1; 3000]), &[]);
            batch.push(n as i64 + 5, None, None, &[]);
            let mut bytes = batch.build().unwrap().to_vec();
            stamp(&mut bytes, offset, 0);
            let header = validate(&bytes).unwrap();
            offset = header.next_offset();
            builder.push(&header, bytes.into());
        }
        builder.finish()
    }

    /// Reads as the description above says, and shares nothing with the writer.
    #[test]
    fn a_segment_is_what_the_format_says() {
        let segment = segment(60);
        let kfs = segment.kfs.concat();
        assert_eq!(segment.kfs_crc32c, crc32c::crc32c(&kfs));
        assert_eq!(&kfs[..8], b"KAFS\0\x01\0\0");
        assert_eq!(kfs[8..16], 100i64.to_be_bytes());
        assert_eq!(kfs[16..20], 120i32.to_be_bytes());
        assert_eq!(kfs[20..28], 7i64.to_be_bytes());
        assert_eq!(kfs[28..32], [0; 4]);
        let body = &kfs[32..kfs.len() - 16];
        let footer = &kfs[kfs.len() - 16..];
        assert_eq!(footer[..4], crc32c::crc32c(body).to_be_bytes());
        assert_eq!(footer[4..12], 219i64.to_be_bytes());
        assert_eq!(&footer[12..], b"END!");
        assert_eq!(&segment.index[..6], b"IDX\0\0\x01");
        let count = i32::from_be_bytes(segment.index[6..10].try_into().unwrap());
        assert_eq!(segment.index.len(), 16 + 12 * count as usize);
        assert_eq!(segment.index[10..16], [0, 0, 0x10, 0, 0, 0]);
        for entry in segment.index[16..].chunks(12) {
            let position = i32::from_be_bytes(entry[8..].try_into().unwrap()) as usize;
            assert_eq!(
                kfs[position..position + 8],
                entry[..8],
                "a batch with that base offset is there"
            );
        }
        assert_eq!(&segment.kfst[..8], b"KFTF\0\0\0\x01");
        let times: Vec<i64> = segment.kfst[8..]
            .chunks(8)
            .map(|field| i64::from_be_bytes(field.try_into().unwrap()))
            .collect();
        assert_eq!(times, [0, 64, 100, 219]);
    }

    #[test]
    fn an_offset_is_found_at_or_after_the_position_that_the_index_gives() {
        let segment = segment(60);
        let kfs = segment.kfs.concat();
        let index = Index::parse(&segment.index).unwrap();
        assert!(index.entries.len() > 2);
        for offset in 100..220 {
            let position = index.position(offset) as usize;
            let base = i64::from_be_bytes(kfs[position..position + 8].try_into().unwrap());
            assert!(base <= offset && offset - base < 60);
        }
        assert_eq!(parse_footer(&kfs).unwrap(), 220);
        assert_eq!(parse_created(&kfs, 100).unwrap(), 7);
        assert!(parse_created(&kfs, 99).is_err(), "another segment's");
        assert_eq!(parse_max_timestamp(&segment.kfst).unwrap(), 64);
    }

    #[test]
    fn an_index_of_another_segment_is_refused() {
        let segment = segment(60);
        let end = segment.kfs.iter().map(Bytes::len).sum::<usize>() as u64 - FOOTER_LEN as u64;
        let index = || Index::parse(&segment.index).unwrap();
        assert!(index().of_segment(100, end).is_ok());
        for (base_offset, end) in [(99, end), (101, end), (100, HEADER_LEN as u64)] {
            assert!(index().of_segment(base_offset, end).is_err(), "{base_offset}, {end}");
        }
        assert_eq!(Index::empty().position(150), HEADER_LEN as u64);
    }

    /// `ci/compat/segment_reader.py` reads the same files. `UPDATE_GOLDEN=1` writes them: only after a change of the format.
    #[test]
    fn golden_segments_are_written_and_read_as_ever() {
        let directory = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden");
        let segment = segment(60);
        let parts = [
            ("kfs", segment.kfs.concat()),
            ("index", segment.index.to_vec()),
            ("kfst", segment.kfst.to_vec()),
        ];
        for (ending, bytes) in parts {
            let path = directory.join(format!("segment-{:020}.{ending}", 100));
            if std::env::var_os("UPDATE_GOLDEN").is_some() {
                std::fs::write(&path, &bytes).unwrap();
            }
            assert!(std::fs::read(&path).unwrap() == bytes, "{} differs", path.display());
        }
        let read = |ending| std::fs::read(directory.join(format!("segment-{:020}.{ending}", 100))).unwrap();
        let header = parse_header(&read("kfs")).unwrap();
        assert_eq!((header.base_offset, header.records, header.created_ms), (100, 120, 7));
        assert_eq!(parse_whole_footer(&read("kfs")).unwrap().next_offset, 220);
        assert_eq!(Index::parse(&read("index")).unwrap().entries()[0], (100, 32));
        assert_eq!(parse_times(&read("kfst")).unwrap().next_offset, 220);
    }

    #[test]
    fn keys_sort_by_offset_and_tell_it_again() {
        let name = key("default", "orders", 3, 42, Part::Kfs);
        assert_eq!(name, "default/orders/3/segment-00000000000000000042.kfs");
        assert_eq!(parse_key(&name), Some((42, Part::Kfs)));
        assert_eq!(parse_key("default/orders/3/other.kfs"), None);
    }

    #[test]
    fn what_is_cut_short_is_an_error() {
        let segment = segment(2);
        for len in 0..segment.index.len() {
            assert!(Index::parse(&segment.index[..len]).is_err());
        }
        assert!(parse_footer(&segment.kfs.concat()[..50]).is_err());
        assert!(parse_max_timestamp(&segment.kfst[..39]).is_err());
    }
}
