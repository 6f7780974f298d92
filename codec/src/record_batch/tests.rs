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
