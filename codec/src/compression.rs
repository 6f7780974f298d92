//! The four codecs of record batches. Decompression is bounded: a small batch cannot become a large allocation.

use std::io::{Cursor, Read, Write};

/// How a batch's records are compressed (attributes, bits 0–2).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Compression {
    /// Not at all.
    None = 0,
    /// gzip.
    Gzip = 1,
    /// Snappy, in the framing of the Java library xerial or raw.
    Snappy = 2,
    /// LZ4 frames.
    Lz4 = 3,
    /// Zstandard (KIP-110).
    Zstd = 4,
}

impl Compression {
    /// From the attributes of a batch or a message.
    pub fn from_attributes(attributes: i16) -> Option<Self> {
        match attributes & 0x07 {
            0 => Some(Compression::None),
            1 => Some(Compression::Gzip),
            2 => Some(Compression::Snappy),
            3 => Some(Compression::Lz4),
            4 => Some(Compression::Zstd),
            _ => None,
        }
    }

    /// At most as many bytes come out of each byte: the formats allow no more.
    pub(crate) fn ratio_max(self) -> u64 {
        match self {
            Compression::None => 1,
            // 258 bytes of a match in two bits.
            Compression::Gzip => 1032,
            // 64 bytes of a copy in three.
            Compression::Snappy => 22,
            // Each further byte of a length stands for 255.
            Compression::Lz4 => 255,
            // A block of 128 KiB that repeats one byte takes four.
            Compression::Zstd => 32 * 1024,
        }
    }
}

/// Why compressed records could not be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CompressionError {
    /// The bytes are not what they say.
    #[error("{0:?} data is damaged")]
    Damaged(Compression),
    /// More than `limit` bytes would come out.
    #[error("decompresses to more than {limit} bytes")]
    TooLarge {
        /// The bound.
        limit: usize,
    },
}

/// Magic of the xerial snappy framing; version and compatible version follow, 4 bytes each.
const XERIAL_MAGIC: &[u8; 8] = b"\x82SNAPPY\0";
const XERIAL_HEADER_LEN: usize = 16;

/// Compresses `data`.
pub fn compress(compression: Compression, data: &[u8]) -> Result<Vec<u8>, CompressionError> {
    let damaged = |_| CompressionError::Damaged(compression);
    match compression {
        Compression::None => Ok(data.to_vec()),
        Compression::Gzip => {
            let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
            encoder.write_all(data).map_err(damaged)?;
            encoder.finish().map_err(damaged)
        }
        Compression::Snappy => {
            let block = snap::raw::Encoder::new()
                .compress_vec(data)
                .map_err(|_| CompressionError::Damaged(compression))?;
            let mut out = Vec::with_capacity(XERIAL_HEADER_LEN + 4 + block.len());
            out.extend_from_slice(XERIAL_MAGIC);
            out.extend_from_slice(&1i32.to_be_bytes());
            out.extend_from_slice(&1i32.to_be_bytes());
            out.extend_from_slice(&(block.len() as u32).to_be_bytes());
            out.extend_from_slice(&block);
            Ok(out)
        }
        Compression::Lz4 => {
            let mut encoder = lz4_flex::frame::FrameEncoder::new(Vec::new());
            encoder.write_all(data).map_err(damaged)?;
            encoder.finish().map_err(|_| CompressionError::Damaged(compression))
        }
        Compression::Zstd => zstd::bulk::compress(data, 0).map_err(damaged),
    }
}

/// Decompresses `data` into at most `limit` bytes.
pub fn decompress(compression: Compression, data: &[u8], limit: usize) -> Result<Vec<u8>, CompressionError> {
    let damaged = CompressionError::Damaged(compression);
    match compression {
        Compression::None => Ok(data.to_vec()),
        Compression::Gzip => read_bounded(flate2::read::MultiGzDecoder::new(data), limit, damaged),
        Compression::Snappy => unsnap(data, limit),
        Compression::Lz4 => read_bounded(lz4_flex::frame::FrameDecoder::new(data), limit, damaged),
        Compression::Zstd => match zstd::stream::read::Decoder::new(Cursor::new(data)) {
            Ok(decoder) => read_bounded(decoder, limit, damaged),
            Err(_) => Err(damaged),
        },
    }
}

fn read_bounded(reader: impl Read, limit: usize, damaged: CompressionError) -> Result<Vec<u8>, CompressionError> {
    let mut out = Vec::new();
    reader
        .take(limit as u64 + 1)
        .read_to_end(&mut out)
        .map_err(|_| damaged)?;
    if out.len() > limit {
        return Err(CompressionError::TooLarge { limit });
    }
    Ok(out)
}

fn unsnap(data: &[u8], limit: usize) -> Result<Vec<u8>, CompressionError> {
    let Some(mut blocks) = data.strip_prefix(XERIAL_MAGIC) else {
        return unsnap_block(data, limit);
    };
    blocks = blocks
        .get(XERIAL_HEADER_LEN - XERIAL_MAGIC.len()..)
        .ok_or(CompressionError::Damaged(Compression::Snappy))?;
    let mut out = Vec::new();
    while let Some((len, rest)) = blocks.split_first_chunk::<4>() {
        let len = u32::from_be_bytes(*len) as usize;
        let block = rest.get(..len).ok_or(CompressionError::Damaged(Compression::Snappy))?;
        out.extend_from_slice(&unsnap_block(block, limit - out.len())?);
        blocks = &rest[len..];
    }
    if blocks.is_empty() {
        Ok(out)
    } else {
        Err(CompressionError::Damaged(Compression::Snappy))
    }
}

fn unsnap_block(block: &[u8], limit: usize) -> Result<Vec<u8>, CompressionError> {
    let len = snap::raw::decompress_len(block).map_err(|_| CompressionError::Damaged(Compression::Snappy))?;
    if len > limit {
        return Err(CompressionError::TooLarge { limit });
    }
    snap::raw::Decoder::new()
        .decompress_vec(block)
        .map_err(|_| CompressionError::Damaged(Compression::Snappy))
}
