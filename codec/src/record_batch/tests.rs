use super::*;
use proptest::prelude::*;

const CODECS: [Compression; 5] = [
    Compression::None,
    Compression::Gzip,
    Compression::Snappy,
    Compression::Lz4,
    Compression::Zstd,
];

type Input = (i64, Option<Vec<u8>>, Option<Vec<u8>>, Vec<(Vec<u8>, Option<Vec<u8>>)>);

fn inputs() -> impl Strategy<Value = Vec<Input>> {
    let bytes = || proptest::collection::vec(any::<u8>(), 0..40);
    let headers = proptest::collection::vec((bytes(), proptest::option::of(bytes())), 0..3);
    let record = (
        0..4_000_000_000_000i64,
        proptest::option::of(bytes()),
        proptest::option::of(bytes()),
        headers,
    );
    proptest::collection::vec(record, 1..12)
}

fn build(inputs: &[Input], compression: Compression) -> Vec<u8> {
    let mut builder = BatchBuilder::new()
        .compression(compression)
        .producer(7, 1, i32::MAX - 2);
    for (timestamp, key, value, headers) in inputs {
        let headers: Vec<Header> = headers
            .iter()
            .map(|(name, value)| (name.clone().into(), value.clone().map(Into::into)))
            .collect();
        builder.push(*timestamp, key.as_deref(), value.as_deref(), &headers);
    }
    builder.build().unwrap().to_vec()
}

proptest! {
    #[test]
    fn records_come_back_as_they_went_in(inputs in inputs(), codec in 0..5usize) {
        let mut batch = build(&inputs, CODECS[codec]);
        stamp(&mut batch, 1000, 3);
        let header = validate(&batch).unwrap();
        prop_assert_eq!(header.partition_leader_epoch, 3);
        let found = records(&batch).unwrap();
        prop_assert_eq!(found.len(), inputs.len());
        for (index, (record, input)) in found.iter().zip(&inputs).enumerate() {
            prop_assert_eq!(record.offset, 1000 + index as i64);
            prop_assert_eq!(record.timestamp, input.0);
            prop_assert_eq!(record.key.as_deref(), input.1.as_deref());
            prop_assert_eq!(record.value.as_deref(), input.2.as_deref());
            prop_assert_eq!(record.headers.len(), input.3.len());
        }
    }

    #[test]
    fn a_flipped_bit_is_noticed_anywhere_but_in_what_the_broker_stamps(inputs in inputs(), codec in 0..5usize, at in any::<prop::sample::Index>(), bit in 0..8u8) {
        let mut batch = build(&inputs, CODECS[codec]);
        let at = at.index(batch.len());
        batch[at] ^= 1 << bit;
        let stamped = at < 8 || (12..16).contains(&at);
        prop_assert_eq!(validate(&batch).is_ok(), stamped);
    }

    #[test]
    fn a_copy_is_the_batch_or_nothing(inputs in inputs(), cut in any::<prop::sample::Index>()) {
        let batch = build(&inputs, Compression::None);
        let mut into = BytesMut::from(&b"before"[..]);
        copy_validated(&batch, &mut into).unwrap();
        prop_assert_eq!(&into[6..], &batch[..]);
        let cut = cut.index(batch.len());
        prop_assert!(copy_validated(&batch[..cut], &mut into).is_err());
        prop_assert_eq!(into.len(), 6 + batch.len());
    }

    #[test]
    fn garbage_is_an_error_and_never_a_panic(garbage in proptest::collection::vec(any::<u8>(), 0..200)) {
        let mut garbage = garbage;
        if garbage.len() > 16 {
            garbage[16] = 2;
        }
        let _ = validate(&garbage);
        let _ = records(&garbage);
        for batch in iter_batches(&garbage) {
            let _ = batch;
        }
    }
}

#[test]
fn sequences_wrap_to_zero() {
    let inputs: Vec<Input> = (0..4).map(|_| (0, None, None, vec![])).collect();
    let header = validate(&build(&inputs, Compression::None)).unwrap();
    assert_eq!(header.base_sequence, i32::MAX - 2);
    assert_eq!(header.last_sequence(), 0);
}

#[test]
fn log_append_time_keeps_the_crc_right_and_gives_every_record_the_brokers_time() {
    let mut batch = build(&[(5, None, None, vec![]), (9, None, None, vec![])], Compression::None);
    stamp_log_append_time(&mut batch, 77);
    validate(&batch).unwrap();
    assert!(records(&batch).unwrap().iter().all(|record| record.timestamp == 77));
    assert_eq!(first_record_at_or_after(&batch, 70, 0).unwrap(), Some((0, 77)));
}

#[test]
fn a_time_is_found_inside_a_compressed_batch() {
    let batch = build(
        &[
            (5, None, None, vec![]),
            (9, None, None, vec![]),
            (7, None, None, vec![]),
        ],
        Compression::Zstd,
    );
    assert_eq!(first_record_at_or_after(&batch, 6, 0).unwrap(), Some((1, 9)));
    assert_eq!(first_record_at_or_after(&batch, 10, 0).unwrap(), None);
}

#[test]
fn two_batches_are_not_one() {
    let batch = build(&[(5, None, None, vec![])], Compression::None);
    assert!(matches!(validate(&batch.repeat(2)), Err(BatchError::Length(_))));
    assert_eq!(iter_batches(&batch.repeat(2)).filter(Result::is_ok).count(), 2);
}

#[test]
fn the_crc_of_batches_that_follow_each_other_comes_from_their_own() {
    let mut expected = 0;
    let mut found = 0;
    for len in [10, 5_000, 200_000] {
        let mut builder = BatchBuilder::new();
        builder.push(0, None, Some(&vec![7; len]), &[]);
        let batch = builder.build().unwrap();
        expected = crc32c::crc32c_append(expected, &batch);
        found = append_crc(found, &batch);
        assert_eq!(found, expected, "{len}");
    }
    assert_eq!(append_crc(3, b"short"), crc32c::crc32c_append(3, b"short"));
}

/// A batch of one record, made of these bytes after its length.
fn batch_of_record(record: &[u8]) -> Vec<u8> {
    let mut batch = build(&[(5, None, None, vec![])], Compression::None);
    batch.truncate(HEADER_LEN);
    let mut body = Vec::new();
    super::records::put_varlong(&mut body, record.len() as i64);
    body.extend(record);
    batch.extend(body);
    with_sums(batch)
}

/// Length and CRC made right.
fn with_sums(mut batch: Vec<u8>) -> Vec<u8> {
    let length = batch.len() as i32 - 12;
    batch[8..12].copy_from_slice(&length.to_be_bytes());
    let crc = crc32c::crc32c(&batch[21..]);
    batch[17..21].copy_from_slice(&crc.to_be_bytes());
    batch
}

#[test]
fn records_that_no_client_could_read_are_refused() {
    // Attributes, both deltas, null key, null value, then the headers.
    let sound = batch_of_record(&[0, 0, 0, 1, 1, 0]);
    validate(&sound).unwrap();
    validate(&batch_of_record(&[0, 0, 0, 1, 1, 2, 2, b'h', 1])).unwrap();
    for (record, what) in [
        (&[0, 0, 0, 1, 1, 2, 1, 1][..], "a header without a name"),
        (&[0, 0, 0, 1, 1, 1], "a negative number of headers"),
        (&[0, 0, 0, 1, 1, 0x80, 0x89, 0x7a], "a million headers"),
        (&[0, 0, 0, 40, 1, 0], "a key longer than the record"),
        (&[0, 0, 0, 1, 40, 0], "a value longer than the record"),
        (&[0, 0, 0, 1, 1, 0, 0], "a byte after the headers"),
        (&[0, 0, 0, 1, 1], "no number of headers"),
        (
            &[0, 0, 0, 0x81, 0x80, 0x80, 0x80, 0x80, 0, 1, 0],
            "a length of six bytes",
        ),
    ] {
        let batch = batch_of_record(record);
        assert_eq!(validate(&batch), Err(BatchError::Record(0)), "{what}");
        let header = validate_stored(&batch).expect("what was stored before this was checked can be rolled");
        assert_eq!(header.record_count, 1);
    }
}

#[test]
fn a_compressed_batch_cannot_claim_more_records_than_its_bytes_can_hold() {
    for codec in &CODECS[1..] {
        let mut batch = build(&[(5, None, Some(vec![7; 10]), vec![])], *codec);
        validate(&batch).unwrap();
        batch[57..61].copy_from_slice(&i32::MAX.to_be_bytes());
        batch[23..27].copy_from_slice(&(i32::MAX - 1).to_be_bytes());
        let batch = with_sums(batch);
        let refused = validate(&batch);
        assert!(matches!(refused, Err(BatchError::TooManyRecords { .. })), "{refused:?}");
    }
    // As many equal records as the densest codec can be asked for.
    let inputs: Vec<Input> = (0..50_000).map(|_| (5, None, None, vec![])).collect();
    for codec in CODECS {
        validate(&build(&inputs, codec)).unwrap();
    }
}

#[test]
fn the_timestamps_are_those_of_the_records_and_not_what_the_header_says() {
    let inputs = |times: &[i64]| -> Vec<Input> { times.iter().map(|time| (*time, None, None, vec![])).collect() };
    let times_of = |batch: &[u8]| copy_validated(batch, &mut BytesMut::new()).unwrap().1;
    let with_max = |times: &[i64], max: i64, codec| {
        let mut batch = build(&inputs(times), codec);
        batch[35..43].copy_from_slice(&max.to_be_bytes());
        with_sums(batch)
    };
    for wrong in [-1, 0, 7, i64::MAX] {
        let batch = with_max(&[5, 9, 7], wrong, Compression::None);
        assert_eq!(times_of(&batch), Timestamps { min: 5, max: 9 });
        let mut stamped = batch.clone();
        stamp_create_time(&mut stamped, 9);
        assert_eq!(validate(&stamped).unwrap().max_timestamp, 9);
    }
    assert_eq!(
        times_of(&with_max(&[-1, 4, -1], 4, Compression::None)),
        Timestamps { min: 4, max: 4 }
    );
    assert_eq!(
        times_of(&with_max(&[-1, -1], -1, Compression::None)),
        Timestamps { min: -1, max: -1 }
    );
    let compressed = with_max(&[5, 9, 7], -1, Compression::Gzip);
    assert!(validate(&compressed).unwrap().understates_max_timestamp());
    assert_eq!(
        first_record_at_or_after(&compressed, 6, 0).unwrap(),
        Some((1, 9)),
        "it is looked into"
    );
    let marked = BatchHeader {
        attributes: TIMESTAMP_TYPE_BIT,
        ..BatchHeader::parse(&compressed).unwrap()
    };
    assert_eq!(marked.timestamps(), Timestamps { min: -1, max: -1 });
}

#[test]
fn a_compressed_batch_of_rubbish_does_not_keep_a_time_from_being_found() {
    let mut batch = build(&[(5, None, Some(vec![7; 100]), vec![])], Compression::Gzip);
    batch[HEADER_LEN..].fill(0x5a);
    stamp(&mut batch, 30, 1);
    assert_eq!(first_record_at_or_after(&batch, 4, 0).unwrap(), Some((30, 5)));
    assert_eq!(first_record_at_or_after(&batch, 6, 0).unwrap(), None);
}
