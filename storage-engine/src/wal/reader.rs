//! Reading a write-ahead object's header and footer; nothing is believed before its CRC is checked.

use super::footer_generated::kafscale::wal as fb;
use super::{
    Kind, ProducerChange, Run, StreamId, WalHeader, HEADER_LEN, HEADER_MAGIC, TRAILER_LEN, TRAILER_MAGIC, VERSION,
};
use flatbuffers::VerifierOptions;
use kafscale_codec::record_batch::{validate_stored, BatchError, BatchHeader};
use kafscale_codec::types::TopicId;

/// Why bytes are not a write-ahead object.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum WalError {
    /// Too short for what it should be.
    #[error("{0} bytes are too few")]
    Truncated(usize),
    /// Another kind of file.
    #[error("no write-ahead object: wrong magic")]
    Magic,
    /// Written by a version that is not known here.
    #[error("version {0} is not known")]
    Version(u16),
    /// A checksum is wrong.
    #[error("the {0} is damaged: CRC-32C does not match")]
    Damaged(&'static str),
    /// The checksum is right and the content still impossible.
    #[error("impossible content: {0}")]
    Impossible(String),
}

/// What a suffix of an object tells.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FooterRead {
    /// All runs.
    Runs(Vec<Run>),
    /// The footer begins before the suffix: read this many bytes from the end.
    NeedSuffix(u64),
}

/// Reads the first [`HEADER_LEN`] bytes of an object.
pub fn parse_header(bytes: &[u8]) -> Result<WalHeader, WalError> {
    let Some(header) = bytes.first_chunk::<HEADER_LEN>() else {
        return Err(WalError::Truncated(bytes.len()));
    };
    if &header[..4] != HEADER_MAGIC {
        return Err(WalError::Magic);
    }
    if crc32c::crc32c(&header[..60]).to_be_bytes() != header[60..] {
        return Err(WalError::Damaged("header"));
    }
    let version = u16::from_be_bytes([header[4], header[5]]);
    if version != VERSION {
        return Err(WalError::Version(version));
    }
    let kind = match header[6] {
        1 => Kind::Data,
        2 => Kind::Fence,
        3 => Kind::Merged,
        other => return Err(WalError::Impossible(format!("kind {other}"))),
    };
    Ok(WalHeader {
        kind,
        stream: StreamId(be_u64(header, 8)),
        first_seq: be_u64(header, 16),
        last_seq: be_u64(header, 24),
        nonce: u128::from(be_u64(header, 32)) << 64 | u128::from(be_u64(header, 40)),
        vouched: be_u64(header, 48),
    })
}

/// The batch at the front of `bytes`, which must be the one of `offset` in a run that ends before `end_offset` and is of
/// `leader_epoch`. The batch's CRC covers neither its offset nor its epoch.
///
/// # Errors
/// [`WalError::Impossible`] if there is no such batch, or its content is damaged.
pub fn batch_of_run(bytes: &[u8], offset: i64, end_offset: i64, leader_epoch: i32) -> Result<BatchHeader, WalError> {
    let damaged = |error: BatchError| WalError::Impossible(format!("the batch of offset {offset}: {error}"));
    let header = BatchHeader::parse(bytes).map_err(damaged)?;
    let batch = bytes
        .get(..header.total_len())
        .ok_or_else(|| WalError::Impossible(format!("the batch of offset {offset} is cut off")))?;
    let header = validate_stored(batch).map_err(damaged)?;
    let fits = header.base_offset == offset
        && (offset + 1..=end_offset).contains(&header.next_offset())
        && header.partition_leader_epoch <= leader_epoch;
    match fits {
        true => Ok(header),
        false => Err(WalError::Impossible(format!(
            "where the batch of offset {offset} should be is one of offset {} and epoch {}",
            header.base_offset, header.partition_leader_epoch
        ))),
    }
}

fn be_u64(bytes: &[u8; HEADER_LEN], at: usize) -> u64 {
    let mut field = [0; 8];
    field.copy_from_slice(&bytes[at..at + 8]);
    u64::from_be_bytes(field)
}

/// Reads the runs from the last bytes of an object of `object_len` bytes.
pub fn parse_footer(suffix: &[u8], object_len: u64) -> Result<FooterRead, WalError> {
    let Some((rest, trailer)) = suffix.split_last_chunk::<TRAILER_LEN>() else {
        return Err(WalError::Truncated(suffix.len()));
    };
    if &trailer[12..] != TRAILER_MAGIC {
        return Err(WalError::Magic);
    }
    if crc32c::crc32c(&trailer[..8]).to_be_bytes() != trailer[8..12] {
        return Err(WalError::Damaged("trailer"));
    }
    let footer_len = u32::from_be_bytes([trailer[0], trailer[1], trailer[2], trailer[3]]) as usize;
    let body_end = object_len.checked_sub((footer_len + TRAILER_LEN) as u64);
    let Some(body_end) = body_end.filter(|end| *end >= HEADER_LEN as u64) else {
        return Err(WalError::Impossible(format!(
            "a footer of {footer_len} bytes in {object_len}"
        )));
    };
    if rest.len() < footer_len {
        return Ok(FooterRead::NeedSuffix((footer_len + TRAILER_LEN) as u64));
    }
    let footer = &rest[rest.len() - footer_len..];
    if crc32c::crc32c(footer).to_be_bytes() != trailer[4..8] {
        return Err(WalError::Damaged("footer"));
    }
    decode_runs(footer, body_end).map(FooterRead::Runs)
}

fn decode_runs(footer: &[u8], body_end: u64) -> Result<Vec<Run>, WalError> {
    let options = VerifierOptions {
        max_tables: 16_000_000,
        max_apparent_size: 1 << 31,
        ..VerifierOptions::default()
    };
    let root = flatbuffers::root_with_opts::<fb::Footer>(&options, footer)
        .map_err(|error| WalError::Impossible(format!("footer: {error}")))?;
    let mut runs = Vec::with_capacity(root.runs().len());
    for run in root.runs() {
        let id = u128::from(run.topic_id().high()) << 64 | u128::from(run.topic_id().low());
        let run = Run {
            topic_id: TopicId(id.to_be_bytes()),
            partition: run.partition(),
            leader_epoch: run.leader_epoch(),
            base_offset: run.base_offset(),
            next_offset: run.next_offset(),
            position: run.position(),
            length: run.length(),
            max_timestamp: run.max_timestamp(),
            crc32c: run.crc32c(),
            producers: run
                .producers()
                .map(|changes| changes.iter().map(decode_change).collect())
                .unwrap_or_default(),
        };
        let end = run.position.checked_add(run.length);
        let inside = run.position >= HEADER_LEN as u64 && end.is_some_and(|end| end <= body_end);
        if !inside || run.base_offset < 0 || run.next_offset <= run.base_offset || run.partition < 0 {
            return Err(WalError::Impossible(format!(
                "run {run:?} in a body that ends at {body_end}"
            )));
        }
        runs.push(run);
    }
    Ok(runs)
}

fn decode_change(change: &fb::ProducerChange) -> ProducerChange {
    ProducerChange {
        producer_id: change.producer_id(),
        producer_epoch: change.producer_epoch(),
        base_sequence: change.base_sequence(),
        last_sequence: change.last_sequence(),
        base_offset: change.base_offset(),
        last_offset: change.last_offset(),
        timestamp: change.timestamp(),
    }
}
