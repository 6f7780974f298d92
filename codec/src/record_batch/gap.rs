//! Batches without records, which hold the place of offsets that are lost.
//!
//! Kafka's log cleaner leaves such batches, so every consumer passes over them. No producer may send one.

use super::{BatchError, BatchHeader, CRC_FROM, HEADER_LEN, LENGTH_PREFIX};
use bytes::{BufMut, Bytes, BytesMut};

/// Offsets that one batch can cover.
const OFFSETS_MAX: i64 = i32::MAX as i64;

/// Batches without records that cover the offsets from `from` up to `to`, exclusive.
pub fn gap_batches(from: i64, to: i64, leader_epoch: i32) -> Vec<Bytes> {
    let mut batches = Vec::new();
    let mut at = from;
    while at < to {
        let count = (to - at).min(OFFSETS_MAX);
        batches.push(gap_batch(at, count, leader_epoch));
        at += count;
    }
    batches
}

fn gap_batch(base_offset: i64, count: i64, leader_epoch: i32) -> Bytes {
    let mut batch = BytesMut::with_capacity(HEADER_LEN);
    batch.put_i64(base_offset);
    batch.put_i32((HEADER_LEN - LENGTH_PREFIX) as i32);
    batch.put_i32(leader_epoch);
    batch.put_i8(2);
    batch.put_u32(0);
    batch.put_i16(0); // Attributes.
    batch.put_i32((count - 1) as i32);
    batch.put_i64(-1); // Base timestamp.
    batch.put_i64(-1); // Max timestamp.
    batch.put_i64(-1); // Producer id.
    batch.put_i16(-1); // Producer epoch.
    batch.put_i32(-1); // Base sequence.
    batch.put_i32(0); // Records.
    let crc = crc32c::crc32c(&batch[CRC_FROM..]);
    batch[17..21].copy_from_slice(&crc.to_be_bytes());
    batch.freeze()
}

/// The header of a batch that [`gap_batches`] made; `None` if it is not one.
///
/// # Errors
/// The batch's length is wrong, or its header cannot be parsed.
pub(super) fn parse(bytes: &[u8]) -> Result<Option<BatchHeader>, BatchError> {
    let header = BatchHeader::parse(bytes)?;
    if header.record_count != 0 || bytes.len() != HEADER_LEN || header.last_offset_delta < 0 {
        return Ok(None);
    }
    if header.total_len() != HEADER_LEN {
        return Err(BatchError::Length(header.batch_length));
    }
    Ok(Some(header))
}

#[cfg(test)]
mod tests {
    use super::super::{validate, validate_stored};
    use super::*;

    #[test]
    fn a_gap_is_covered_to_its_end_and_only_stored_batches_may_be_one() {
        let end = 5 + 3 * OFFSETS_MAX + 7;
        let batches = gap_batches(5, end, 2);
        assert_eq!(batches.len(), 4);
        let mut at = 5;
        for batch in &batches {
            let header = validate_stored(batch).unwrap();
            assert_eq!((header.base_offset, header.partition_leader_epoch), (at, 2));
            assert!(matches!(validate(batch), Err(BatchError::Count { .. })));
            at = header.next_offset();
        }
        assert_eq!(at, end);
        assert!(gap_batches(5, 5, 2).is_empty());
    }

    #[test]
    fn a_flipped_bit_of_a_gap_is_an_error() {
        let batch = gap_batches(0, 9, 1).remove(0);
        for at in (0..HEADER_LEN).filter(|at| !(0..8).contains(at) && !(12..16).contains(at)) {
            let mut bytes = batch.to_vec();
            bytes[at] ^= 1;
            assert!(validate_stored(&bytes).is_err(), "byte {at}");
        }
    }
}
