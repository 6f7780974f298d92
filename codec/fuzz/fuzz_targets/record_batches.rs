//! Whatever a client calls a record batch: its check passes only what can be copied, stamped, listed and read.

#![no_main]

use bytes::BytesMut;
use kafscale_codec::record_batch::{self, BatchHeader};
use libfuzzer_sys::fuzz_target;

/// With a CRC that is right, or else nothing gets past it.
fn with_crc(input: &[u8]) -> Vec<u8> {
    let mut batch = input.to_vec();
    if batch.len() >= record_batch::HEADER_LEN {
        batch[8..12].copy_from_slice(&(input.len() as i32 - 12).to_be_bytes());
        batch[16] = 2;
        let crc = crc32c::crc32c(&batch[21..]);
        batch[17..21].copy_from_slice(&crc.to_be_bytes());
    }
    batch
}

fn look(batch: &[u8]) {
    let checked = record_batch::validate(batch);
    let mut copy = BytesMut::new();
    let copied = record_batch::copy_validated(batch, &mut copy);
    assert_eq!(checked.is_ok(), copied.is_ok());
    for found in record_batch::iter_batches(batch) {
        if found.is_err() {
            break;
        }
    }
    let records = record_batch::records(batch);
    let _ = record_batch::first_record_at_or_after(batch, 0, 0);
    let Ok(header) = checked else { return };
    if let Ok(records) = records {
        assert!(header.compression().is_some() && !records.is_empty());
    }
    record_batch::stamp(&mut copy, 77, 5);
    record_batch::stamp_log_append_time(&mut copy, 99);
    let stamped = BatchHeader::parse(&copy).expect("a stamped batch is a batch");
    assert_eq!(stamped.base_offset, 77);
    record_batch::validate(&copy).expect("stamping keeps the CRC right");
}

fuzz_target!(|input: &[u8]| {
    look(input);
    look(&with_crc(input));
});
