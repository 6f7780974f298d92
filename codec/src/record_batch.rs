//! Kafka's record batch (magic 2, KIP-98): view, validate, stamp in place. On the data path records are walked over where
//! they are not compressed, and neither decompressed nor copied.
//!
//! ```text
//! byte  0        8            12            16     17     21          23               27
//!       base     batch        partition     magic  crc    attributes  last offset      base
//!       offset   length       leader epoch                            delta            timestamp …
//! byte  35        43        51         53        57
//!       … max     producer  producer   base      record   records …
//!       timestamp id        epoch      sequence  count
//! ```
//!
//! The CRC-32C covers everything from the attributes on, so base offset and leader epoch can be stamped without it.

mod builder;
mod gap;
mod records;

pub use builder::BatchBuilder;
pub use gap::gap_batches;
pub use records::{first_record_at_or_after, records, Header, Record, DECOMPRESSED_BYTES_MAX};

use crate::compression::{Compression, CompressionError};
use crate::crc;
use bytes::{BufMut, BytesMut};

/// Bytes before the records.
pub const HEADER_LEN: usize = 61;

/// Bytes before what `batch_length` counts.
const LENGTH_PREFIX: usize = 12;

/// The timestamp of a record that has none.
pub const NO_TIMESTAMP: i64 = -1;

/// The shortest record: length, attributes, both deltas, key, value and header count take a byte each.
const RECORD_BYTES_MIN: u64 = 7;

/// Where the CRC's cover begins.
pub const CRC_FROM: usize = 21;

/// CRC and copy go over the batch in blocks that stay in the first-level cache.
const COPY_BLOCK: usize = 16 * 1024;

const TIMESTAMP_TYPE_BIT: i16 = 0x08;
const TRANSACTIONAL_BIT: i16 = 0x10;
const CONTROL_BIT: i16 = 0x20;

/// Why bytes are not a batch that can be stored.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BatchError {
    /// Fewer bytes than the header or its length say.
    #[error("{needed} bytes needed, {found} there")]
    Truncated {
        /// What it takes.
        needed: usize,
        /// What there is.
        found: usize,
    },
    /// More bytes than one batch, or a length that no batch has.
    #[error("batch length {0} does not fit the bytes given")]
    Length(i32),
    /// A magic that has no place here.
    #[error("magic {0} is not expected here")]
    Magic(i8),
    /// The bytes are not those that the producer summed up.
    #[error("CRC is {found:#010x}, the header says {expected:#010x}")]
    Crc {
        /// What the header says.
        expected: u32,
        /// What the bytes give.
        found: u32,
    },
    /// Count and last offset delta contradict each other or the records.
    #[error("{count} records with a last offset delta of {last_offset_delta}")]
    Count {
        /// What the header counts.
        count: i32,
        /// The header's delta.
        last_offset_delta: i32,
    },
    /// More records than the compressed bytes can hold.
    #[error("{count} records cannot come out of {bytes} compressed bytes")]
    TooManyRecords {
        /// What the header counts.
        count: i32,
        /// Bytes after the header.
        bytes: usize,
    },
    /// A record inside is not as long as it says, its offset delta is out of line, or a header has no name.
    #[error("record {0} is malformed")]
    Record(i32),
    /// Compression type 5, 6 or 7.
    #[error("compression type {0} is not known")]
    UnsupportedCompression(i16),
    /// A message set without a message, or a wrapper without one inside.
    #[error("a message set without records")]
    Empty,
    /// The messages of a set are not all of the same magic.
    #[error("magic {found} after {expected} in one message set")]
    MixedMagic {
        /// The first message's, or the wrapper's.
        expected: i8,
        /// The one that differs.
        found: i8,
    },
    /// A compressed message stands beside others or inside one.
    #[error("a compressed message has to be the only one of its set")]
    WrapperNotAlone,
    /// The records cannot be decompressed.
    #[error(transparent)]
    Compression(#[from] CompressionError),
}

/// The timestamps of a batch's records, in ms since the Unix epoch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timestamps {
    /// The smallest of the records that have one; [`NO_TIMESTAMP`] if none has.
    pub min: i64,
    /// The largest, [`NO_TIMESTAMP`] at least.
    pub max: i64,
}

impl Timestamps {
    const NONE: Timestamps = Timestamps {
        min: NO_TIMESTAMP,
        max: NO_TIMESTAMP,
    };

    fn add(&mut self, timestamp: i64) {
        self.max = self.max.max(timestamp);
        if timestamp != NO_TIMESTAMP && (timestamp < self.min || self.min == NO_TIMESTAMP) {
            self.min = timestamp;
        }
    }
}

/// A batch's header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs)] // The fields are those of the picture above.
pub struct BatchHeader {
    pub base_offset: i64,
    pub batch_length: i32,
    pub partition_leader_epoch: i32,
    pub magic: i8,
    pub crc: u32,
    pub attributes: i16,
    pub last_offset_delta: i32,
    pub base_timestamp: i64,
    pub max_timestamp: i64,
    pub producer_id: i64,
    pub producer_epoch: i16,
    pub base_sequence: i32,
    pub record_count: i32,
}

impl BatchHeader {
    /// Reads the header; checks only that the bytes are there and that the magic is 2.
    pub fn parse(bytes: &[u8]) -> Result<Self, BatchError> {
        let Some(header) = bytes.first_chunk::<HEADER_LEN>() else {
            return Err(BatchError::Truncated {
                needed: HEADER_LEN,
                found: bytes.len(),
            });
        };
        let magic = header[16] as i8;
        if magic != 2 {
            return Err(BatchError::Magic(magic));
        }
        Ok(BatchHeader {
            base_offset: i64::from_be_bytes(at(header, 0)),
            batch_length: i32::from_be_bytes(at(header, 8)),
            partition_leader_epoch: i32::from_be_bytes(at(header, 12)),
            magic,
            crc: u32::from_be_bytes(at(header, 17)),
            attributes: i16::from_be_bytes(at(header, 21)),
            last_offset_delta: i32::from_be_bytes(at(header, 23)),
            base_timestamp: i64::from_be_bytes(at(header, 27)),
            max_timestamp: i64::from_be_bytes(at(header, 35)),
            producer_id: i64::from_be_bytes(at(header, 43)),
            producer_epoch: i16::from_be_bytes(at(header, 51)),
            base_sequence: i32::from_be_bytes(at(header, 53)),
            record_count: i32::from_be_bytes(at(header, 57)),
        })
    }

    /// Bytes of the whole batch.
    pub fn total_len(&self) -> usize {
        LENGTH_PREFIX + self.batch_length.max(0) as usize
    }

    /// Offset of the last record.
    pub fn last_offset(&self) -> i64 {
        self.base_offset + i64::from(self.last_offset_delta)
    }

    /// Offset after the last record.
    pub fn next_offset(&self) -> i64 {
        self.last_offset() + 1
    }

    /// Sequence of the last record; sequences wrap after `i32::MAX` to 0.
    pub fn last_sequence(&self) -> i32 {
        if self.base_sequence < 0 {
            return self.base_sequence;
        }
        ((i64::from(self.base_sequence) + i64::from(self.last_offset_delta)) % (1 << 31)) as i32
    }

    /// How the records are compressed; `None` for a type that nobody knows.
    pub fn compression(&self) -> Option<Compression> {
        Compression::from_attributes(self.attributes)
    }

    /// Whether the timestamps are the broker's (LogAppendTime).
    pub fn is_log_append_time(&self) -> bool {
        self.attributes & TIMESTAMP_TYPE_BIT != 0
    }

    /// Whether the batch is part of a transaction.
    pub fn is_transactional(&self) -> bool {
        self.attributes & TRANSACTIONAL_BIT != 0
    }

    /// Whether the batch is a broker's own marker.
    pub fn is_control(&self) -> bool {
        self.attributes & CONTROL_BIT != 0
    }

    /// Parses, and checks everything that does not need the records.
    fn parse_whole(bytes: &[u8]) -> Result<Self, BatchError> {
        let header = BatchHeader::parse(bytes)?;
        if header.batch_length < (HEADER_LEN - LENGTH_PREFIX) as i32 {
            return Err(BatchError::Length(header.batch_length));
        }
        let needed = header.total_len();
        if bytes.len() < needed {
            return Err(BatchError::Truncated {
                needed,
                found: bytes.len(),
            });
        }
        if bytes.len() > needed {
            return Err(BatchError::Length(header.batch_length));
        }
        if header.compression().is_none() {
            return Err(BatchError::UnsupportedCompression(header.attributes & 0x07));
        }
        if header.record_count < 1 || header.last_offset_delta != header.record_count - 1 {
            let BatchHeader {
                record_count: count,
                last_offset_delta,
                ..
            } = header;
            return Err(BatchError::Count {
                count,
                last_offset_delta,
            });
        }
        Ok(header)
    }

    fn check_crc(&self, found: u32) -> Result<(), BatchError> {
        if found != self.crc {
            return Err(BatchError::Crc {
                expected: self.crc,
                found,
            });
        }
        Ok(())
    }

    /// Checks the records as far as that is possible without decompressing them; returns their timestamps.
    fn check_records(&self, bytes: &[u8]) -> Result<Timestamps, BatchError> {
        let body = &bytes[HEADER_LEN..];
        match self.compression() {
            Some(Compression::None) => {
                let times = records::check_structure(body, self)?;
                // Marked as a broker's, the header's time is every record's.
                Ok(match self.is_log_append_time() {
                    true => self.timestamps(),
                    false => times,
                })
            }
            compression => {
                let ratio = compression.map_or(1, Compression::ratio_max);
                let most = (body.len() as u64).saturating_mul(ratio) / RECORD_BYTES_MIN;
                if self.record_count as u64 > most {
                    return Err(BatchError::TooManyRecords {
                        count: self.record_count,
                        bytes: body.len(),
                    });
                }
                Ok(self.timestamps())
            }
        }
    }

    /// The timestamps as far as the header tells: the first record's, and the largest if the producer is right.
    fn timestamps(&self) -> Timestamps {
        let mut times = Timestamps::NONE;
        if !self.is_log_append_time() {
            times.add(self.base_timestamp);
        }
        times.add(self.max_timestamp);
        times.max = self.max_timestamp.max(NO_TIMESTAMP);
        times
    }

    /// Whether the header's largest timestamp is below that of the first record, so it is wrong.
    pub fn understates_max_timestamp(&self) -> bool {
        self.max_timestamp < self.base_timestamp
    }
}

fn at<const N: usize>(header: &[u8; HEADER_LEN], from: usize) -> [u8; N] {
    let mut field = [0; N];
    field.copy_from_slice(&header[from..from + N]);
    field
}

/// Checks one whole batch as it comes from a producer: length, magic, CRC, counts, and of uncompressed records also their
/// structure. Nothing is decompressed.
pub fn validate(bytes: &[u8]) -> Result<BatchHeader, BatchError> {
    let header = BatchHeader::parse_whole(bytes)?;
    header.check_crc(crc32c::crc32c(&bytes[CRC_FROM..]))?;
    header.check_records(bytes)?;
    Ok(header)
}

/// Checks that one whole batch is as it was stored: length, magic, counts, CRC. Its records are as they were accepted,
/// perhaps by a version that did not look into them. It may also be a batch that [`gap_batches`] made.
///
/// # Errors
/// What is wrong with the batch.
pub fn validate_stored(bytes: &[u8]) -> Result<BatchHeader, BatchError> {
    let header = match gap::parse(bytes)? {
        Some(header) => header,
        None => BatchHeader::parse_whole(bytes)?,
    };
    header.check_crc(crc32c::crc32c(&bytes[CRC_FROM..]))?;
    Ok(header)
}

/// [`validate`], and a copy of the batch at the end of `into` made in the same pass as the CRC. On error `into` is as
/// before. The timestamps are those of the records, or what the header tells of compressed ones.
pub fn copy_validated(bytes: &[u8], into: &mut BytesMut) -> Result<(BatchHeader, Timestamps), BatchError> {
    let header = BatchHeader::parse_whole(bytes)?;
    let start = into.len();
    into.reserve(bytes.len());
    into.put_slice(&bytes[..CRC_FROM]);
    let mut crc = 0;
    for block in bytes[CRC_FROM..].chunks(COPY_BLOCK) {
        crc = crc32c::crc32c_append(crc, block);
        into.put_slice(block);
    }
    let checked = header.check_crc(crc).and_then(|()| header.check_records(bytes));
    match checked {
        Ok(times) => Ok((header, times)),
        Err(error) => {
            into.truncate(start);
            Err(error)
        }
    }
}

/// Continues a CRC-32C over a whole batch that was found valid, by means of its own.
pub fn append_crc(crc: u32, batch: &[u8]) -> u32 {
    let Some((before, covered)) = batch.split_at_checked(CRC_FROM) else {
        return crc32c::crc32c_append(crc, batch);
    };
    let own = u32::from_be_bytes([before[17], before[18], before[19], before[20]]);
    crc::append_known(crc32c::crc32c_append(crc, before), [covered], covered.len(), own)
}

/// Gives a batch its place in the log. The CRC stays right.
pub fn stamp(batch: &mut [u8], base_offset: i64, leader_epoch: i32) {
    batch[0..8].copy_from_slice(&base_offset.to_be_bytes());
    batch[12..16].copy_from_slice(&leader_epoch.to_be_bytes());
}

/// Gives a batch the broker's time (`message.timestamp.type=LogAppendTime`): type bit and max timestamp, and the CRC anew.
/// Readers take the max timestamp for every record then, as Kafka's do.
pub fn stamp_log_append_time(batch: &mut [u8], now_ms: i64) {
    stamp_times(batch, true, now_ms);
}

/// Marks a batch's timestamps as its producer's, the largest of which is this; the CRC anew if anything changes.
pub fn stamp_create_time(batch: &mut [u8], max_timestamp: i64) {
    stamp_times(batch, false, max_timestamp);
}

fn stamp_times(batch: &mut [u8], log_append_time: bool, max_timestamp: i64) {
    let before = i16::from_be_bytes([batch[21], batch[22]]);
    let attributes = match log_append_time {
        true => before | TIMESTAMP_TYPE_BIT,
        false => before & !TIMESTAMP_TYPE_BIT,
    };
    if attributes == before && batch[35..43] == max_timestamp.to_be_bytes() {
        return;
    }
    batch[21..23].copy_from_slice(&attributes.to_be_bytes());
    batch[35..43].copy_from_slice(&max_timestamp.to_be_bytes());
    let crc = crc32c::crc32c(&batch[CRC_FROM..]);
    batch[17..21].copy_from_slice(&crc.to_be_bytes());
}

/// The batches that lie one after the other in `bytes`; ends after the first that is not whole.
pub fn iter_batches(mut bytes: &[u8]) -> impl Iterator<Item = Result<(BatchHeader, &[u8]), BatchError>> {
    std::iter::from_fn(move || {
        if bytes.is_empty() {
            return None;
        }
        let all = std::mem::take(&mut bytes);
        Some(BatchHeader::parse(all).and_then(|header| {
            let len = header.total_len();
            let Some(batch) = all.get(..len) else {
                return Err(BatchError::Truncated {
                    needed: len,
                    found: all.len(),
                });
            };
            bytes = &all[len..];
            Ok((header, batch))
        }))
    })
}

#[cfg(test)]
mod tests;
