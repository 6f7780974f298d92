//! A builder of old sets, written from the format and not from the code it tests, and what comes of them.

use super::*;
use crate::record_batch::{records, validate, BatchHeader};
use proptest::prelude::*;

type Input = (i64, Option<Vec<u8>>, Option<Vec<u8>>);

#[derive(Debug, Clone, Copy, PartialEq)]
enum Offsets {
    Absolute,
    Relative,
    Zero,
}

fn message(magic: i8, attributes: i8, timestamp: i64, key: Option<&[u8]>, value: Option<&[u8]>) -> Vec<u8> {
    let mut body = vec![magic as u8, attributes as u8];
    if magic == 1 {
        body.extend(timestamp.to_be_bytes());
    }
    for field in [key, value] {
        body.extend(field.map_or(-1, |bytes| bytes.len() as i32).to_be_bytes());
        body.extend(field.unwrap_or_default());
    }
    [&crc32fast::hash(&body).to_be_bytes()[..], &body].concat()
}

fn entry(offset: i64, message: &[u8]) -> Vec<u8> {
    [
        &offset.to_be_bytes()[..],
        &(message.len() as i32).to_be_bytes(),
        message,
    ]
    .concat()
}

fn set(magic: i8, inputs: &[Input], offsets: Offsets) -> Vec<u8> {
    let mut out = Vec::new();
    for (index, (timestamp, key, value)) in inputs.iter().enumerate() {
        let offset = match offsets {
            Offsets::Absolute => 1_000_000 + index as i64,
            Offsets::Relative => index as i64,
            Offsets::Zero => 0,
        };
        let message = message(magic, 0, *timestamp, key.as_deref(), value.as_deref());
        out.extend(entry(offset, &message));
    }
    out
}

/// How a client of that magic compresses.
fn compressed(magic: i8, compression: Compression, raw_snappy: bool, inner: &[u8]) -> Vec<u8> {
    if compression == Compression::Snappy && raw_snappy {
        return snap::raw::Encoder::new().compress_vec(inner).unwrap();
    }
    let mut value = compression::compress(compression, inner).unwrap();
    if compression == Compression::Lz4 && magic == 0 {
        // The checksum as old clients have it: over the frame's magic and the descriptor.
        let at = if value[4] & 0x08 != 0 { 14 } else { 6 };
        value[at] = (twox_hash::XxHash32::oneshot(0, &value[..at]) >> 8) as u8;
    }
    value
}

fn wrapped(magic: i8, compression: Compression, raw_snappy: bool, inner: &[u8]) -> Vec<u8> {
    let value = compressed(magic, compression, raw_snappy, inner);
    entry(0, &message(magic, compression as i8, 99, None, Some(&value)))
}

fn convert(set: &[u8]) -> Result<Bytes, BatchError> {
    convert_message_set(set, Limits::default())
}

fn inputs() -> impl Strategy<Value = Vec<Input>> {
    let bytes = || proptest::option::of(proptest::collection::vec(any::<u8>(), 0..40));
    let timestamp = prop_oneof![Just(-1i64), Just(i64::MAX), 0..4_000_000_000_000i64];
    proptest::collection::vec((timestamp, bytes(), bytes()), 1..12)
}

fn compression() -> impl Strategy<Value = Compression> {
    prop_oneof![
        Just(Compression::None),
        Just(Compression::Gzip),
        Just(Compression::Snappy),
        Just(Compression::Lz4),
    ]
}

fn offsets() -> impl Strategy<Value = Offsets> {
    prop_oneof![Just(Offsets::Absolute), Just(Offsets::Relative), Just(Offsets::Zero)]
}

fn built(magic: i8, compression: Compression, raw_snappy: bool, inputs: &[Input], offsets: Offsets) -> Vec<u8> {
    let plain = set(magic, inputs, offsets);
    match compression {
        Compression::None => plain,
        _ => wrapped(magic, compression, raw_snappy, &plain),
    }
}

proptest! {
    #[test]
    fn a_message_set_comes_out_as_one_batch_with_the_same_records(
        magic in 0..=1i8,
        compression in compression(),
        raw_snappy in any::<bool>(),
        inputs in inputs(),
        offsets in offsets(),
    ) {
        let batch = convert(&built(magic, compression, raw_snappy, &inputs, offsets)).unwrap();
        let header = validate(&batch).unwrap();
        prop_assert_eq!(header.compression(), Some(compression));
        prop_assert_eq!((header.base_offset, header.producer_id, header.base_sequence), (0, -1, -1));
        prop_assert!(!header.is_log_append_time());
        let found = records(&batch).unwrap();
        prop_assert_eq!(found.len(), inputs.len());
        let timestamp_of = |input: &Input| if magic == 0 { -1 } else { input.0 };
        prop_assert_eq!(Some(header.max_timestamp), inputs.iter().map(timestamp_of).max());
        for (index, (record, input)) in found.iter().zip(&inputs).enumerate() {
            prop_assert_eq!(record.offset, index as i64);
            prop_assert_eq!(record.timestamp, timestamp_of(input));
            prop_assert_eq!(record.key.as_deref(), input.1.as_deref());
            prop_assert_eq!(record.value.as_deref(), input.2.as_deref());
            prop_assert!(record.headers.is_empty());
        }
    }

    #[test]
    fn a_flipped_bit_is_noticed_anywhere_but_in_an_offset(
        magic in 0..=1i8,
        compression in compression(),
        inputs in inputs(),
        at in any::<prop::sample::Index>(),
        bit in 0..8u8,
    ) {
        let mut set = built(magic, compression, false, &inputs[..1], Offsets::Zero);
        let at = at.index(set.len());
        set[at] ^= 1 << bit;
        prop_assert_eq!(convert(&set).is_ok(), at < 8);
    }

    #[test]
    fn a_set_cut_anywhere_but_between_messages_is_an_error(
        magic in 0..=1i8,
        compression in compression(),
        inputs in inputs(),
        cut in any::<prop::sample::Index>(),
    ) {
        let mut whole = vec![0];
        if compression == Compression::None {
            whole.extend((1..=inputs.len()).map(|count| set(magic, &inputs[..count], Offsets::Zero).len()));
        }
        let built = built(magic, compression, false, &inputs, Offsets::Zero);
        let cut = cut.index(built.len());
        let expected = whole.iter().position(|end| *end == cut).unwrap_or(0);
        match convert(&built[..cut]) {
            Ok(batch) => prop_assert_eq!(BatchHeader::parse(&batch).unwrap().record_count as usize, expected),
            Err(_) => prop_assert_eq!(expected, 0),
        }
    }

    #[test]
    fn garbage_is_an_error_and_never_a_panic(
        garbage in proptest::collection::vec(any::<u8>(), 0..100),
        magic in 0..=1i8,
        attributes in 0..16i8,
    ) {
        prop_assert!(convert(&garbage).is_err());
        // Past the checks of length and CRC too.
        let value = &garbage[..];
        let _ = convert(&entry(0, &message(magic, attributes, 5, None, Some(value))));
        let _ = convert(&wrapped(magic, Compression::Gzip, false, value));
    }
}

fn one() -> Vec<Input> {
    vec![(7, Some(b"k".to_vec()), None)]
}

#[test]
fn the_brokers_time_of_a_wrapper_holds_for_every_record_inside() {
    let inner = set(1, &[(5, None, None), (6, None, None)], Offsets::Relative);
    let value = compressed(1, Compression::Gzip, false, &inner);
    let wrapper = message(1, 0x08 | Compression::Gzip as i8, 77, None, Some(&value));
    let found = records(&convert(&entry(1, &wrapper)).unwrap()).unwrap();
    assert_eq!(
        found.iter().map(|record| record.timestamp).collect::<Vec<_>>(),
        [77, 77]
    );
}

#[test]
fn the_time_of_a_wrapper_that_is_not_a_brokers_means_nothing() {
    let inner = set(1, &[(5, None, None), (6, None, None)], Offsets::Relative);
    let found = records(&convert(&wrapped(1, Compression::Gzip, false, &inner)).unwrap()).unwrap();
    assert_eq!(found.iter().map(|record| record.timestamp).collect::<Vec<_>>(), [5, 6]);
}

#[test]
fn lz4_of_magic_1_has_to_have_the_right_header_checksum() {
    let inner = set(1, &one(), Offsets::Zero);
    let wrong = compressed(0, Compression::Lz4, false, &inner);
    let set = entry(0, &message(1, Compression::Lz4 as i8, 0, None, Some(&wrong)));
    let damaged = BatchError::Compression(CompressionError::Damaged(Compression::Lz4));
    assert_eq!(convert(&set), Err(damaged));
}

#[test]
fn lz4_of_magic_0_is_read_with_the_right_checksum_and_with_the_wrong_one() {
    let inner = set(0, &one(), Offsets::Zero);
    for magic_of_checksum in [0, 1] {
        let value = compressed(magic_of_checksum, Compression::Lz4, false, &inner);
        let set = entry(0, &message(0, Compression::Lz4 as i8, 0, None, Some(&value)));
        assert_eq!(records(&convert(&set).unwrap()).unwrap().len(), 1);
    }
}

#[test]
fn a_small_wrapper_cannot_become_a_large_allocation() {
    let inner = set(1, &[(0, None, Some(vec![0; 1 << 20]))], Offsets::Zero);
    for codec in [Compression::Gzip, Compression::Snappy, Compression::Lz4] {
        let bomb = wrapped(1, codec, false, &inner);
        let limits = Limits {
            decompressed_bytes_max: inner.len() - 1,
        };
        let too_large = BatchError::Compression(CompressionError::TooLarge {
            limit: limits.decompressed_bytes_max,
        });
        assert_eq!(convert_message_set(&bomb, limits), Err(too_large));
    }
}

#[test]
fn what_kafka_refuses_is_refused() {
    let plain = |magic| set(magic, &one(), Offsets::Zero);
    let gzip = |inner: &[u8]| wrapped(1, Compression::Gzip, false, inner);
    let mixed = |expected, found| BatchError::MixedMagic { expected, found };
    let cases: Vec<(&str, Vec<u8>, BatchError)> = vec![
        ("nothing at all", vec![], BatchError::Empty),
        ("nothing inside", gzip(&[]), BatchError::Empty),
        (
            "a wrapper of null",
            entry(0, &message(1, 1, 0, None, None)),
            BatchError::Empty,
        ),
        ("magic 1 after 0", [plain(0), plain(1)].concat(), mixed(0, 1)),
        ("magic 0 inside 1", gzip(&plain(0)), mixed(1, 0)),
        ("two wrappers", gzip(&plain(1)).repeat(2), BatchError::WrapperNotAlone),
        (
            "a wrapper after a message",
            [plain(1), gzip(&plain(1))].concat(),
            BatchError::WrapperNotAlone,
        ),
        ("a wrapper inside", gzip(&gzip(&plain(1))), BatchError::WrapperNotAlone),
        (
            "zstd",
            entry(0, &message(1, 4, 0, None, Some(b""))),
            BatchError::UnsupportedCompression(4),
        ),
        ("magic 3", entry(0, &message(3, 0, 0, None, None)), BatchError::Magic(3)),
        (
            "a time before −1",
            set(1, &[(-2, None, None)], Offsets::Zero),
            BatchError::Record(0),
        ),
        ("too small", entry(0, &[0; 13]), BatchError::Length(13)),
    ];
    for (what, set, error) in cases {
        assert_eq!(convert(&set), Err(error), "{what}");
    }
}

#[test]
fn a_message_with_bytes_behind_its_value_is_malformed() {
    let mut body = message(0, 0, 0, None, Some(b"v"))[4..].to_vec();
    body.push(0);
    let message = [&crc32fast::hash(&body).to_be_bytes()[..], &body].concat();
    let set = [set(0, &one(), Offsets::Zero), entry(1, &message)].concat();
    assert_eq!(convert(&set), Err(BatchError::Record(1)));
}
