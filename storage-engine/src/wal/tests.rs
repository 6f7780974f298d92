use super::*;
use bytes::Bytes;
use kafscale_codec::record_batch::{stamp, validate_stored, BatchBuilder};
use proptest::prelude::*;

const HEADER: WalHeader = WalHeader {
    kind: Kind::Data,
    stream: StreamId(5),
    first_seq: 9,
    last_seq: 9,
    nonce: 77,
    vouched: 7,
};

fn runs() -> impl Strategy<Value = Vec<(u8, i32, i64, Vec<u8>, bool)>> {
    let run = (
        any::<u8>(),
        0..9i32,
        0..1_000_000i64,
        proptest::collection::vec(any::<u8>(), 1..100),
        any::<bool>(),
    );
    proptest::collection::vec(run, 0..20)
}

fn build(inputs: &[(u8, i32, i64, Vec<u8>, bool)]) -> (Vec<u8>, Vec<Run>) {
    let mut builder = WalBuilder::new(&HEADER);
    for (id, partition, base_offset, bytes, idempotent) in inputs {
        let change = ProducerChange {
            producer_id: 4,
            producer_epoch: 1,
            base_sequence: 2,
            last_sequence: 3,
            base_offset: *base_offset,
            last_offset: base_offset + 1,
            timestamp: 5,
        };
        let run = Run {
            topic_id: TopicId([*id; 16]),
            partition: *partition,
            leader_epoch: 6,
            base_offset: *base_offset,
            next_offset: base_offset + 2,
            position: 0,
            length: 0,
            max_timestamp: 8,
            crc32c: 0,
            producers: if *idempotent { vec![change] } else { vec![] },
        };
        let middle = bytes.len() / 2;
        let parts = vec![
            Bytes::copy_from_slice(&bytes[..middle]),
            Bytes::copy_from_slice(&bytes[middle..]),
        ];
        builder.push_run(run, parts);
    }
    let object = builder.finish();
    let bytes = object.parts.concat();
    assert_eq!(bytes.len() as u64, object.len);
    assert_eq!(crc32c::crc32c(&bytes), object.crc32c);
    (bytes, object.runs)
}

proptest! {
    #[test]
    fn an_object_tells_what_was_put_into_it(inputs in runs()) {
        let (bytes, runs) = build(&inputs);
        let header = parse_header(&bytes).unwrap();
        prop_assert_eq!(header, HEADER);
        prop_assert_eq!(parse_footer(&bytes, bytes.len() as u64).unwrap(), FooterRead::Runs(runs.clone()));
        for (run, input) in runs.iter().zip(&inputs) {
            let stored = &bytes[run.position as usize..(run.position + run.length) as usize];
            prop_assert_eq!(stored, &input.3[..]);
            prop_assert_eq!(run.crc32c, crc32c::crc32c(stored));
        }
    }

    #[test]
    fn a_short_suffix_says_how_much_it_takes(inputs in runs()) {
        let (bytes, runs) = build(&inputs);
        let FooterRead::NeedSuffix(needed) = parse_footer(&bytes[bytes.len() - TRAILER_LEN..], bytes.len() as u64).unwrap() else {
            return Err(TestCaseError::fail("a trailer is no footer"));
        };
        let suffix = &bytes[bytes.len() - needed as usize..];
        prop_assert_eq!(parse_footer(suffix, bytes.len() as u64).unwrap(), FooterRead::Runs(runs));
    }

    #[test]
    fn a_flipped_bit_of_header_footer_or_trailer_is_an_error(inputs in runs(), at in any::<prop::sample::Index>(), bit in 0..8u8) {
        let (mut bytes, runs) = build(&inputs);
        let body_end = runs.last().map_or(HEADER_LEN as u64, |run| run.position + run.length) as usize;
        let at = at.index(bytes.len());
        bytes[at] ^= 1 << bit;
        let header = parse_header(&bytes);
        let footer = parse_footer(&bytes, bytes.len() as u64);
        prop_assert_eq!(header.is_err(), at < HEADER_LEN);
        prop_assert_eq!(footer.is_err(), at >= body_end);
    }
}

/// As the release before the field wrote it: twelve zero bytes. A parser that ignores them reads both alike.
#[test]
fn a_header_of_an_older_version_vouches_for_nothing() {
    let (bytes, _) = build(&[]);
    let mut old = bytes[..HEADER_LEN].to_vec();
    old[48..60].fill(0);
    let crc = crc32c::crc32c(&old[..60]);
    old[60..].copy_from_slice(&crc.to_be_bytes());
    assert_eq!(parse_header(&old).unwrap(), WalHeader { vouched: 0, ..HEADER });
}

#[test]
fn keys_are_read_as_they_are_written() {
    let prefix = stream_prefix("ns", StreamId(7));
    let slot = slot_key("ns", StreamId(7), 12);
    let merged = merged_key("ns", StreamId(7), 3, 9);
    assert_eq!(parse_object_name(&prefix, &slot), Some(ObjectName::Slot(12)));
    assert_eq!(parse_object_name(&prefix, &merged), Some(ObjectName::Merged(3, 9)));
    for other in [
        format!("{prefix}12.wal"),
        format!("{prefix}x.wal"),
        slot.replace("wal/", "wal_/"),
    ] {
        assert_eq!(parse_object_name(&prefix, &other), None, "{other}");
    }
}

#[test]
fn a_fence_is_an_object_without_runs() {
    let bytes = fence_object(StreamId(1), 3, 4).concat();
    let header = parse_header(&bytes).unwrap();
    assert_eq!((header.kind, header.vouched), (Kind::Fence, 3));
    assert_eq!(
        parse_footer(&bytes, bytes.len() as u64).unwrap(),
        FooterRead::Runs(vec![])
    );
}

#[test]
fn the_sum_of_large_valid_batches_is_that_of_their_bytes() {
    let mut builder = WalBuilder::new(&HEADER);
    let batch = |len| {
        let mut batch = BatchBuilder::new();
        batch.push(0, None, Some(&vec![3; len]), &[]);
        batch.build().unwrap()
    };
    let run = Run {
        topic_id: TopicId([1; 16]),
        partition: 0,
        leader_epoch: 6,
        base_offset: 0,
        next_offset: 1,
        position: 0,
        length: 0,
        max_timestamp: 8,
        crc32c: 0,
        producers: vec![],
    };
    builder.push_run(run.clone(), vec![batch(100), batch(70_000), batch(20_000)]);
    builder.push_run(run, vec![batch(5)]);
    let object = builder.finish();
    let bytes = object.parts.concat();
    assert_eq!(object.crc32c, crc32c::crc32c(&bytes));
    for run in &object.runs {
        let stored = &bytes[run.position as usize..(run.position + run.length) as usize];
        assert_eq!(run.crc32c, crc32c::crc32c(stored));
    }
}

#[test]
fn a_batch_of_another_offset_or_of_a_later_epoch_is_not_the_runs() {
    let mut batch = BatchBuilder::new();
    (0..3).for_each(|_| batch.push(1, None, Some(b"value"), &[]));
    let mut batch = batch.build().unwrap().to_vec();
    stamp(&mut batch, 15, 4);
    assert_eq!(batch_of_run(&batch, 15, 18, 4).unwrap().next_offset(), 18);
    assert!(
        batch_of_run(&batch, 15, 20, 7).is_ok(),
        "a merged run has batches of earlier epochs"
    );
    for (offset, end, epoch) in [(14, 20, 4), (16, 20, 4), (15, 17, 4), (15, 18, 3)] {
        assert!(
            batch_of_run(&batch, offset, end, epoch).is_err(),
            "{offset} to {end} of {epoch}"
        );
    }
    // The CRC does not cover it: 15 becomes 35,184,372,088,847.
    batch[2] ^= 0x20;
    assert!(validate_stored(&batch).is_ok());
    assert!(batch_of_run(&batch, 15, 18, 4).is_err());
    assert!(batch_of_run(&batch[..20], 15, 18, 4).is_err());
}
