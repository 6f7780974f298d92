//! Requests that are well formed and ask for what cannot be: each gets Kafka's error, and nothing of it is stored.

use crate::client::{batch_of, now_ms, produce_request, Client};
use crate::support::{broker, Broker};
use bytes::Bytes;
use kafscale_codec::error_code::ErrorCode;
use kafscale_codec::messages::*;
use kafscale_codec::record_batch::BatchBuilder;

/// What one bad request may cost, with room for the allocator's habits.
const GROWTH_MAX: u64 = 64 << 20;

/// Sends a batch that must be refused, and shows that nothing was stored and the broker goes on.
fn assert_refused(broker: &mut Broker, batch: Vec<u8>, expected: ErrorCode) {
    let before = broker.resident_bytes();
    let mut client = broker.connect();
    client.create_topic("bad", 1);
    let end = client.end_offset("bad", 0).unwrap();
    let answer = client.produce("bad", 0, batch.into());
    assert_eq!(answer.error_code, expected);
    assert_eq!(answer.base_offset, -1, "nothing has an offset");
    assert_eq!(client.end_offset("bad", 0).unwrap(), end, "nothing was stored");
    // The connection goes on: only the batch was bad.
    client.produce_value("bad", 0, b"good");
    broker.assert_well(before, GROWTH_MAX);
}

/// A good batch with some bytes replaced, and its CRC made right again or left.
fn with_bytes(at: usize, bytes: &[u8], fix_crc: bool) -> Vec<u8> {
    let mut batch = batch_of(&[b"one", b"two", b"three"]).to_vec();
    batch[at..at + bytes.len()].copy_from_slice(bytes);
    if fix_crc {
        let crc = crc32c::crc32c(&batch[21..]);
        batch[17..21].copy_from_slice(&crc.to_be_bytes());
    }
    batch
}

#[test]
fn a_wrong_crc_is_a_corrupt_message() {
    let (_directory, mut broker) = broker("");
    let mut last_byte_flipped = batch_of(&[b"payload"]).to_vec();
    *last_byte_flipped.last_mut().unwrap() ^= 1;
    assert_refused(&mut broker, last_byte_flipped, ErrorCode::CORRUPT_MESSAGE);
    let crc_flipped = with_bytes(17, &[0xde, 0xad, 0xbe, 0xef], false);
    assert_refused(&mut broker, crc_flipped, ErrorCode::CORRUPT_MESSAGE);
}

#[test]
fn a_batch_length_that_lies_is_refused() {
    let (_directory, mut broker) = broker("");
    // As Kafka: a batch that is cut is no batch, and one that is shorter than any can be is corrupt.
    for (length, expected) in [
        (i32::MAX, ErrorCode::INVALID_RECORD),
        (1 << 20, ErrorCode::INVALID_RECORD),
        (1, ErrorCode::CORRUPT_MESSAGE),
        (0, ErrorCode::CORRUPT_MESSAGE),
        (-1, ErrorCode::CORRUPT_MESSAGE),
        (i32::MIN, ErrorCode::CORRUPT_MESSAGE),
    ] {
        let batch = with_bytes(8, &length.to_be_bytes(), true);
        assert_refused(&mut broker, batch, expected);
    }
}

#[test]
fn two_batches_for_one_partition_are_invalid() {
    let (_directory, mut broker) = broker("");
    let two = [batch_of(&[b"one"]), batch_of(&[b"two"])].concat();
    assert_refused(&mut broker, two, ErrorCode::INVALID_RECORD);
}

#[test]
fn a_record_count_that_lies_is_refused() {
    let (_directory, mut broker) = broker("");
    for count in [i32::MAX, 4, 2, 0, -1] {
        let batch = with_bytes(57, &count.to_be_bytes(), true);
        assert_refused(&mut broker, batch, ErrorCode::INVALID_RECORD);
    }
    // Count and last offset delta agree with each other, but not with the records.
    for count in [i32::MAX, 1_000_000, 2] {
        let mut batch = with_bytes(57, &count.to_be_bytes(), false);
        batch[23..27].copy_from_slice(&(count - 1).to_be_bytes());
        let crc = crc32c::crc32c(&batch[21..]);
        batch[17..21].copy_from_slice(&crc.to_be_bytes());
        assert_refused(&mut broker, batch, ErrorCode::INVALID_RECORD);
    }
}

#[test]
fn a_record_length_that_lies_is_refused() {
    let (_directory, mut broker) = broker("");
    // The first record's length is a zigzag varint at byte 61: one byte here, so one byte replaces it.
    for length in [0x7e, 0x00, 0x01] {
        let batch = with_bytes(61, &[length], true);
        assert_refused(&mut broker, batch, ErrorCode::INVALID_RECORD);
    }
}

#[test]
fn a_magic_that_nobody_knows_is_refused() {
    let (_directory, mut broker) = broker("");
    for magic in [3u8, 0x7f, 0xff] {
        assert_refused(&mut broker, with_bytes(16, &[magic], true), ErrorCode::CORRUPT_MESSAGE);
    }
}

#[test]
fn a_compression_that_nobody_knows_is_refused() {
    let (_directory, mut broker) = broker("");
    let batch = with_bytes(21, &7i16.to_be_bytes(), true);
    assert_refused(&mut broker, batch, ErrorCode::UNSUPPORTED_COMPRESSION_TYPE);
}

#[test]
fn a_batch_of_a_transaction_is_refused() {
    let (_directory, mut broker) = broker("");
    for (attributes, expected) in [
        (0x10i16, ErrorCode::TRANSACTIONAL_ID_AUTHORIZATION_FAILED),
        (0x20, ErrorCode::INVALID_RECORD),
    ] {
        let batch = with_bytes(21, &attributes.to_be_bytes(), true);
        assert_refused(&mut broker, batch, expected);
    }
}

#[test]
fn bytes_that_are_no_batch_are_refused() {
    let (_directory, mut broker) = broker("");
    assert_refused(&mut broker, vec![0; 16], ErrorCode::INVALID_RECORD);
    assert_refused(
        &mut broker,
        batch_of(&[b"half"])[..40].to_vec(),
        ErrorCode::INVALID_RECORD,
    );
}

#[test]
fn a_batch_over_max_message_bytes_is_too_large() {
    let (_directory, mut broker) = broker("--message-max-bytes 100000");
    let large = batch_of(&[&vec![7; 100_000]]).to_vec();
    assert_refused(&mut broker, large, ErrorCode::MESSAGE_TOO_LARGE);
    // The topic's own limit counts, and just below it there is room.
    let mut client = broker.connect();
    let created = client.create_topic_with("small", 1, &[("max.message.bytes", "1000")]);
    assert_eq!(created, ErrorCode::NONE);
    let answer = client.produce("small", 0, batch_of(&[&[7; 1000]]));
    assert_eq!(answer.error_code, ErrorCode::MESSAGE_TOO_LARGE);
    let overhead = batch_of(&[&[7; 900]]).len() - 900;
    let fits = batch_of(&[&vec![7; 1000 - overhead]]);
    assert_eq!(fits.len(), 1000);
    assert_eq!(client.produce("small", 0, fits).error_code, ErrorCode::NONE);
}

#[test]
fn an_illegal_topic_name_is_an_invalid_topic() {
    let (_directory, mut broker) = broker("");
    let before = broker.resident_bytes();
    let mut client = broker.connect();
    let long = "x".repeat(250);
    for name in [
        "",
        ".",
        "..",
        "a/b",
        "../../etc",
        "with space",
        "nul\0",
        "ümlaut",
        "a~1",
        &long,
    ] {
        assert_eq!(
            client.metadata(name, true).error_code,
            ErrorCode::INVALID_TOPIC_EXCEPTION,
            "Metadata of {name:?}"
        );
        assert_eq!(
            client.create_topic_with(name, 1, &[]),
            ErrorCode::INVALID_TOPIC_EXCEPTION,
            "CreateTopics of {name:?}"
        );
        let answer = client.produce(name, 0, batch_of(&[b"nowhere"]));
        // As Kafka, which only knows that there is none.
        assert_eq!(
            answer.error_code,
            ErrorCode::UNKNOWN_TOPIC_OR_PARTITION,
            "Produce to {name:?}"
        );
    }
    assert_eq!(client.create_topic_with(&"x".repeat(249), 1, &[]), ErrorCode::NONE);
    broker.assert_well(before, GROWTH_MAX);
}

#[test]
fn a_partition_out_of_range_is_unknown_everywhere() {
    let (_directory, mut broker) = broker("");
    let before = broker.resident_bytes();
    let mut client = broker.connect();
    client.create_topic("three", 3);
    for partition in [3, 4, 1 << 20, i32::MAX, -1, i32::MIN] {
        let answer = client.produce("three", partition, batch_of(&[b"nowhere"]));
        assert_eq!(
            answer.error_code,
            ErrorCode::UNKNOWN_TOPIC_OR_PARTITION,
            "Produce to {partition}"
        );
        let answer = client.fetch("three", partition, 0, 0).unwrap();
        assert_eq!(
            answer.error_code,
            ErrorCode::UNKNOWN_TOPIC_OR_PARTITION,
            "Fetch of {partition}"
        );
        let answer = client.end_offset("three", partition).unwrap();
        assert_eq!(
            answer,
            Err(ErrorCode::UNKNOWN_TOPIC_OR_PARTITION),
            "ListOffsets of {partition}"
        );
    }
    broker.assert_well(before, GROWTH_MAX);
}

#[test]
fn a_bad_partition_does_not_harm_the_good_one_beside_it() {
    let (_directory, broker) = broker("");
    let mut client = broker.connect();
    client.create_topic("two", 2);
    let mut request = produce_request("two", 0, batch_of(&[b"good"]));
    let corrupt = with_bytes(17, &[1, 2, 3, 4], false);
    request.topic_data[0].partition_data.push(PartitionProduceData {
        index: 1,
        records: Some(corrupt.into()),
    });
    let answers = client.call(12, &request).responses.remove(0).partition_responses;
    let errors: Vec<ErrorCode> = answers.iter().map(|answer| answer.error_code).collect();
    assert_eq!(errors, [ErrorCode::NONE, ErrorCode::CORRUPT_MESSAGE]);
    assert_eq!(client.read_from("two", 0, 0).len(), 1);
    assert_eq!(client.end_offset("two", 1).unwrap(), Ok(0));
}

#[test]
fn a_sequence_out_of_order_is_refused() {
    let (_directory, broker) = broker("");
    let mut client = broker.connect();
    client.create_topic("idempotent", 1);
    let producer_id = client.call(4, &InitProducerIdRequest::default()).producer_id;
    let send = |client: &mut Client, epoch, sequence| {
        let answer = client.produce("idempotent", 0, idempotent(producer_id, epoch, sequence));
        (answer.error_code, answer.base_offset)
    };
    assert_eq!(send(&mut client, 1, 0), (ErrorCode::NONE, 0));
    assert_eq!(send(&mut client, 1, 2).0, ErrorCode::OUT_OF_ORDER_SEQUENCE_NUMBER);
    assert_eq!(send(&mut client, 0, 1).0, ErrorCode::INVALID_PRODUCER_EPOCH);
    assert_eq!(
        send(&mut client, 1, 0),
        (ErrorCode::NONE, 0),
        "a duplicate has its first offset"
    );
    assert_eq!(send(&mut client, 1, 1), (ErrorCode::NONE, 1));
    assert_eq!(client.end_offset("idempotent", 0).unwrap(), Ok(2));
}

#[test]
fn a_produce_with_acks_that_nobody_knows_is_refused() {
    let (_directory, broker) = broker("");
    let mut client = broker.connect();
    client.create_topic("acks", 1);
    for acks in [2, -2, i16::MAX] {
        let request = ProduceRequest {
            acks,
            ..produce_request("acks", 0, batch_of(&[b"nothing"]))
        };
        let answer = client
            .call(12, &request)
            .responses
            .remove(0)
            .partition_responses
            .remove(0);
        assert_eq!(answer.error_code, ErrorCode::INVALID_REQUIRED_ACKS, "acks={acks}");
    }
    assert_eq!(client.end_offset("acks", 0).unwrap(), Ok(0));
}

fn idempotent(producer_id: i64, epoch: i16, sequence: i32) -> Bytes {
    let mut batch = BatchBuilder::new().producer(producer_id, epoch, sequence);
    batch.push(now_ms(), None, Some(b"record"), &[]);
    batch.build().unwrap()
}
