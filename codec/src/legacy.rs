//! Message sets of magic 0 and 1 into one v2 batch: what Produce 0–2 of old clients carries.
//!
//! ```text
//! entry    i64 offset   i32 size   message
//! message  u32 crc   i8 magic   i8 attributes   [i64 timestamp, magic 1]   i32 key length   key   i32 value length   value
//! ```
//!
//! The CRC-32 covers the message from its magic on. A compressed set is one message, the wrapper, whose value is the
//! compressed set. Offsets are the producer's and mean nothing before the log gives out its own, so those of the wrapper,
//! and those inside, absolute (magic 0) or relative (magic 1), are not looked at: records keep the order of their bytes.
//!
//! What is accepted is what Kafka's `LogValidator` accepts, but for two things. A message cut short at the end is an
//! error: Kafka drops it and acknowledges the request all the same. And the bytes that come out of a wrapper are bounded.

use crate::compression::{self, Compression, CompressionError};
use crate::record_batch::{BatchBuilder, BatchError};
use bytes::Bytes;

/// Offset and size in front of each message.
const ENTRY_HEADER_LEN: usize = 12;

/// The smallest message: magic 0 with neither key nor value.
const MESSAGE_LEN_MIN: usize = 14;

const LOG_APPEND_TIME_BIT: i8 = 0x08;

/// What magic 0 has for a timestamp.
const NO_TIMESTAMP: i64 = -1;

/// Bounds of a conversion.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Most bytes that a wrapper may decompress to.
    pub decompressed_bytes_max: usize,
}

impl Default for Limits {
    /// 32 MiB: thirty times the usual `max.message.bytes`.
    fn default() -> Self {
        Limits {
            decompressed_bytes_max: 32 << 20,
        }
    }
}

/// One message, its CRC checked.
struct Message<'a> {
    magic: i8,
    attributes: i8,
    timestamp: i64,
    key: Option<&'a [u8]>,
    value: Option<&'a [u8]>,
}

impl Message<'_> {
    fn compression(&self) -> Result<Compression, BatchError> {
        match Compression::from_attributes(i16::from(self.attributes)) {
            // Zstandard came with v2 batches (KIP-110).
            None | Some(Compression::Zstd) => {
                Err(BatchError::UnsupportedCompression(i16::from(self.attributes & 0x07)))
            }
            Some(compression) => Ok(compression),
        }
    }

    fn is_log_append_time(&self) -> bool {
        self.magic == 1 && self.attributes & LOG_APPEND_TIME_BIT != 0
    }
}

/// One v2 batch with the records of a message set, compressed as the set is. Its timestamps are CreateTime: a topic that
/// wants the broker's stamps them later.
///
/// # Errors
/// Whatever is wrong with any message, wrapped or not, is an error for the whole set.
pub fn convert_message_set(set: &[u8], limits: Limits) -> Result<Bytes, BatchError> {
    let mut rest = set;
    let first = next_message(&mut rest, 0)?.ok_or(BatchError::Empty)?;
    let compression = first.compression()?;
    let mut builder = BatchBuilder::new().compression(compression);
    if compression == Compression::None {
        push(&mut builder, &first, None)?;
        push_all(&mut builder, rest, first.magic, None)?;
        return Ok(builder.build()?);
    }
    if !rest.is_empty() {
        return Err(BatchError::WrapperNotAlone);
    }
    let inner = unwrap_value(&first, compression, limits)?;
    // Magic 1: if the wrapper's time is a broker's, it holds for every record inside (KIP-32).
    let wrapper_timestamp = first.is_log_append_time().then_some(first.timestamp);
    push_all(&mut builder, &inner, first.magic, wrapper_timestamp)?;
    if builder.record_count() == 0 {
        return Err(BatchError::Empty);
    }
    Ok(builder.build()?)
}

/// Adds every message of an uncompressed set, which must all have the magic of the first.
fn push_all(builder: &mut BatchBuilder, mut set: &[u8], magic: i8, timestamp: Option<i64>) -> Result<(), BatchError> {
    while let Some(message) = next_message(&mut set, builder.record_count())? {
        if message.magic != magic {
            return Err(BatchError::MixedMagic {
                expected: magic,
                found: message.magic,
            });
        }
        if message.compression()? != Compression::None {
            return Err(BatchError::WrapperNotAlone);
        }
        push(builder, &message, timestamp)?;
    }
    Ok(())
}

fn push(builder: &mut BatchBuilder, message: &Message<'_>, wrapper_timestamp: Option<i64>) -> Result<(), BatchError> {
    let timestamp = wrapper_timestamp.unwrap_or(message.timestamp);
    if timestamp < NO_TIMESTAMP {
        return Err(BatchError::Record(builder.record_count()));
    }
    builder.push(timestamp, message.key, message.value, &[]);
    Ok(())
}

/// The set inside a wrapper.
fn unwrap_value(wrapper: &Message<'_>, compression: Compression, limits: Limits) -> Result<Vec<u8>, BatchError> {
    let value = wrapper.value.ok_or(BatchError::Empty)?;
    let limit = limits.decompressed_bytes_max;
    let inner = if compression == Compression::Lz4 && wrapper.magic == 0 {
        let frame = with_right_header_checksum(value).ok_or(CompressionError::Damaged(compression))?;
        compression::decompress(compression, &frame, limit)?
    } else {
        compression::decompress(compression, value, limit)?
    };
    Ok(inner)
}

/// An LZ4 frame with the header checksum that the format wants. Clients of magic 0 sum up the frame's magic too, and
/// readers of magic 0 have to look past the checksum (KIP-57).
fn with_right_header_checksum(frame: &[u8]) -> Option<Vec<u8>> {
    const CONTENT_SIZE_BIT: u8 = 0x08;
    const DICTIONARY_ID_BIT: u8 = 0x01;
    let flags = *frame.get(4)?;
    let mut descriptor_len = 2;
    if flags & CONTENT_SIZE_BIT != 0 {
        descriptor_len += 8;
    }
    if flags & DICTIONARY_ID_BIT != 0 {
        descriptor_len += 4;
    }
    let checksum_at = 4 + descriptor_len;
    let checksum = twox_hash::XxHash32::oneshot(0, frame.get(4..checksum_at)?) >> 8;
    let mut frame = frame.to_vec();
    *frame.get_mut(checksum_at)? = checksum as u8;
    Some(frame)
}

/// Takes the next entry off `set`, `None` at its end. `index` names the record in errors.
fn next_message<'a>(set: &mut &'a [u8], index: i32) -> Result<Option<Message<'a>>, BatchError> {
    if set.is_empty() {
        return Ok(None);
    }
    let truncated = |needed| BatchError::Truncated {
        needed,
        found: set.len(),
    };
    let header = set
        .first_chunk::<ENTRY_HEADER_LEN>()
        .ok_or(truncated(ENTRY_HEADER_LEN))?;
    let size = i32::from_be_bytes([header[8], header[9], header[10], header[11]]);
    let len = usize::try_from(size)
        .ok()
        .filter(|len| *len >= MESSAGE_LEN_MIN)
        .ok_or(BatchError::Length(size))?;
    let (message, rest) = set[ENTRY_HEADER_LEN..]
        .split_at_checked(len)
        .ok_or(truncated(ENTRY_HEADER_LEN + len))?;
    let message = parse(message, index)?;
    *set = rest;
    Ok(Some(message))
}

/// Reads a message of at least [`MESSAGE_LEN_MIN`] bytes.
fn parse(message: &[u8], index: i32) -> Result<Message<'_>, BatchError> {
    let malformed = BatchError::Record(index);
    let magic = message[4] as i8;
    if !(0..=1).contains(&magic) {
        return Err(BatchError::Magic(magic));
    }
    let expected = u32::from_be_bytes([message[0], message[1], message[2], message[3]]);
    let found = crc32fast::hash(&message[4..]);
    if found != expected {
        return Err(BatchError::Crc { expected, found });
    }
    let attributes = message[5] as i8;
    let mut rest = &message[6..];
    let fields = (|| {
        let timestamp = match magic {
            0 => NO_TIMESTAMP,
            _ => i64::from_be_bytes(*take(&mut rest)?),
        };
        let key = nullable(&mut rest)?;
        let value = nullable(&mut rest)?;
        rest.is_empty().then_some((timestamp, key, value))
    })();
    let (timestamp, key, value) = fields.ok_or(malformed)?;
    Ok(Message {
        magic,
        attributes,
        timestamp,
        key,
        value,
    })
}

fn take<'a, const N: usize>(rest: &mut &'a [u8]) -> Option<&'a [u8; N]> {
    let (head, tail) = rest.split_first_chunk::<N>()?;
    *rest = tail;
    Some(head)
}

fn nullable<'a>(rest: &mut &'a [u8]) -> Option<Option<&'a [u8]>> {
    match i32::from_be_bytes(*take(rest)?) {
        -1 => Some(None),
        len => {
            let (bytes, tail) = rest.split_at_checked(usize::try_from(len).ok()?)?;
            *rest = tail;
            Some(Some(bytes))
        }
    }
}

#[cfg(test)]
mod tests;
