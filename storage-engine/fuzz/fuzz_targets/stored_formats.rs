//! Whatever lies in a bucket or in the metastore: it is read, or refused, and what is read can be used.

#![no_main]

use kafscale_metastore::keys::{
    BrokerRecord, ClusterRecord, CountRecord, Key, PartitionRecord, StreamRecord, TopicRecord,
};
use kafscale_storage_engine::producer_state::ProducerState;
use kafscale_storage_engine::{segment, wal};
use libfuzzer_sys::fuzz_target;

fn write_ahead(bytes: &[u8]) {
    let _ = wal::parse_header(bytes);
    for len in [bytes.len() as u64, bytes.len() as u64 + 1_000] {
        if let Ok(wal::FooterRead::Runs(runs)) = wal::parse_footer(bytes, len) {
            for run in runs {
                assert!(run.position.checked_add(run.length).is_some_and(|end| end <= len));
            }
        }
    }
}

fn segments(bytes: &[u8]) {
    let _ = segment::parse_footer(bytes);
    let _ = segment::parse_created(bytes);
    let _ = segment::parse_max_timestamp(bytes);
    let _ = std::str::from_utf8(bytes).map(segment::parse_key);
    if let Ok(index) = segment::Index::parse(bytes) {
        for offset in [i64::MIN, -1, 0, 1, i64::MAX] {
            let _ = index.position(offset);
        }
        let _ = index.last_offset();
    }
}

fn producers(bytes: &[u8]) {
    if let Ok(state) = ProducerState::decode(bytes) {
        assert_eq!(ProducerState::decode(&state.encode()).as_ref(), Ok(&state));
        let _ = state.check(1, 0, 5, 9);
    }
}

fn metastore(bytes: &[u8]) {
    let _ = Key::parse(bytes);
    let _ = BrokerRecord::decode(bytes);
    let _ = ClusterRecord::decode(bytes);
    let _ = CountRecord::decode(bytes);
    let _ = PartitionRecord::decode(bytes);
    let _ = StreamRecord::decode(bytes);
    let _ = TopicRecord::decode(bytes);
}

/// The same with a CRC at the end that is right, or else nothing gets past it.
fn with_crc(input: &[u8]) -> Vec<u8> {
    let mut bytes = input.to_vec();
    bytes.extend(crc32c::crc32c(input).to_be_bytes());
    bytes
}

/// The same as the footer of a write-ahead object: length, CRCs and magic are right.
fn as_write_ahead_footer(input: &[u8]) -> Vec<u8> {
    let mut object = vec![0; wal::HEADER_LEN + 1_000];
    object.extend(input);
    let mut trailer = (input.len() as u32).to_be_bytes().to_vec();
    trailer.extend(crc32c::crc32c(input).to_be_bytes());
    let crc = crc32c::crc32c(&trailer);
    object.extend(trailer);
    object.extend(crc.to_be_bytes());
    object.extend(b"KWAE");
    object
}

fuzz_target!(|input: &[u8]| {
    write_ahead(&as_write_ahead_footer(input));
    for bytes in [input.to_vec(), with_crc(input)] {
        write_ahead(&bytes);
        segments(&bytes);
        producers(&bytes);
        metastore(&bytes);
    }
});
