//! What is measured of the hot path: pieces of work with what they need, for the clock and for the instruction counter.

use bytes::{Bytes, BytesMut};
use kafscale_codec::messages::*;
use kafscale_codec::record_batch::{self, BatchBuilder, BatchHeader};
use kafscale_codec::types::TopicId;
use kafscale_codec::wire::Reader;
use kafscale_storage_engine::partition_log::{FetchPlan, ObjectRef, PartitionKey, PartitionLog};
use kafscale_storage_engine::producer_state::ProducerState;
use kafscale_storage_engine::wal::{
    parse_footer, FooterRead, Kind, ProducerChange, Run, StreamId, WalBuilder, WalHeader,
};
use std::hint::black_box;

/// Records of a batch, and bytes of a record: 64 KiB together.
const RECORDS: usize = 64;
const RECORD_BYTES: usize = 1024;
/// Version of Produce; its records come at the end, whatever the version.
const PRODUCE: i16 = 9;
const STREAM: StreamId = StreamId(7);

/// A piece of work: its name, how many bytes of values it handles, and the work; each call does it once.
pub type Case = (&'static str, usize, Box<dyn FnMut()>);

/// All of them.
pub fn cases() -> Vec<Case> {
    let batch = batch(RECORDS, RECORD_BYTES);
    let small = self::batch(1, 100);
    let bytes = RECORDS * RECORD_BYTES;
    vec![
        ("produce_request_encode", bytes, encode_request_case(batch.clone())),
        ("produce_request_decode", bytes, decode_request_case(batch.clone())),
        (
            "batch_build",
            bytes,
            Box::new(|| drop(black_box(self::batch(RECORDS, RECORD_BYTES)))),
        ),
        ("batch_validate", bytes, validate_case(batch.clone())),
        ("batch_validate_small", 100, validate_case(small.clone())),
        ("batch_copy_validated", bytes, copy_validated_case(batch.clone())),
        ("batch_copy_validated_small", 100, copy_validated_case(small.clone())),
        (
            "batch_copy_validated_small_records",
            bytes,
            copy_validated_case(self::batch(bytes / 100, 100)),
        ),
        ("log_append_seal_commit", 16 * 100, append_case(small.clone())),
        ("fetch_plan", 16 * 100, fetch_plan_case(small.clone())),
        ("wal_object_build", bytes, wal_build_case(batch, 1)),
        (
            "wal_object_build_1000_runs",
            1000 * 100,
            wal_build_case(small.clone(), 1000),
        ),
        ("wal_footer_parse_1000_runs", 1000 * 100, footer_parse_case(small, 1000)),
    ]
}

fn batch(records: usize, record_bytes: usize) -> Bytes {
    let value = vec![0x5a; record_bytes];
    let mut batch = BatchBuilder::new().producer(1, 0, 0);
    for _ in 0..records {
        batch.push(1_700_000_000_000, None, Some(&value), &[]);
    }
    batch.build().expect("nothing is compressed")
}

fn produce_request(batch: Bytes) -> ProduceRequest {
    ProduceRequest {
        transactional_id: None,
        acks: -1,
        timeout_ms: 30_000,
        topic_data: vec![TopicProduceData {
            name: "bench".to_string(),
            partition_data: vec![PartitionProduceData {
                index: 3,
                records: Some(batch),
            }],
            ..TopicProduceData::default()
        }],
    }
}

fn encode_request_case(batch: Bytes) -> Box<dyn FnMut()> {
    let request = produce_request(batch);
    Box::new(move || {
        let encoded = encode_request(PRODUCE, 1, Some("bench"), black_box(&request));
        drop(black_box(encoded));
    })
}

fn decode_request_case(batch: Bytes) -> Box<dyn FnMut()> {
    let encoded = encode_request(PRODUCE, 1, Some("bench"), &produce_request(batch)).expect("it can be said");
    let whole: Vec<u8> = encoded.into_iter().flatten().collect();
    let frame = Bytes::from(whole).slice(4..);
    Box::new(move || {
        let mut reader = Reader::new(black_box(frame.clone()));
        let header = decode_request_header(&mut reader).expect("it is sound");
        let request = ProduceRequest::decode(&mut reader, header.api_version).expect("it is sound");
        assert_eq!(request.topic_data.len(), 1);
        drop(black_box(request));
    })
}

fn validate_case(batch: Bytes) -> Box<dyn FnMut()> {
    Box::new(move || {
        let header = record_batch::validate(black_box(&batch)).expect("it is sound");
        black_box(header);
    })
}

fn copy_validated_case(batch: Bytes) -> Box<dyn FnMut()> {
    let mut into = BytesMut::with_capacity(batch.len());
    Box::new(move || {
        into.clear();
        let checked = record_batch::copy_validated(black_box(&batch), &mut into).expect("it is sound");
        black_box(checked);
        black_box(&into);
    })
}

fn empty_log() -> PartitionLog {
    let key = PartitionKey {
        topic_id: TopicId([1; 16]),
        partition: 0,
    };
    PartitionLog::open(key, 1, 0, 0, Vec::new(), ProducerState::default())
}

fn change(offset: i64) -> ProducerChange {
    ProducerChange {
        producer_id: 1,
        producer_epoch: 0,
        base_sequence: offset as i32,
        last_sequence: offset as i32,
        base_offset: offset,
        last_offset: offset,
        timestamp: 1_700_000_000_000,
    }
}

/// Appends sixteen batches to one partition, seals them into a slot and commits it.
fn append_16(log: &mut PartitionLog, header: &BatchHeader, batch: &Bytes, seq: u64) {
    for _ in 0..16 {
        let offset = log.next_offset();
        log.append(header, batch.clone(), Some(change(offset)), 1_700_000_000_000);
    }
    let sealed = log.seal_run(seq).expect("something was appended");
    let object = ObjectRef {
        stream: STREAM,
        first_seq: seq,
        last_seq: seq,
        merged: false,
    };
    log.commit(object, 64, sealed.run.length);
}

fn append_case(batch: Bytes) -> Box<dyn FnMut()> {
    let header = record_batch::validate(&batch).expect("it is sound");
    let mut log = empty_log();
    let mut seq = 0;
    Box::new(move || {
        append_16(&mut log, &header, &batch, seq);
        seq += 1;
        // As a roll does, so that the tail stays as it is.
        if seq % 64 == 0 {
            drop(black_box(log.rolled(log.high_watermark())));
        }
    })
}

fn fetch_plan_case(batch: Bytes) -> Box<dyn FnMut()> {
    let header = record_batch::validate(&batch).expect("it is sound");
    let mut log = empty_log();
    for seq in 0..1000 {
        let mut stamped = BytesMut::from(&batch[..]);
        record_batch::stamp(&mut stamped, log.next_offset(), 1);
        // All sixteen carry the same offset; the plan looks at runs first.
        append_16(&mut log, &header, &stamped.freeze(), seq);
    }
    let middle = log.high_watermark() / 2 / 16 * 16;
    Box::new(move || {
        let plan = log.plan_fetch(black_box(middle), 16 * 256).expect("it is inside");
        assert!(matches!(&plan, FetchPlan::Memory(_)));
        drop(black_box(plan));
    })
}

fn wal_object(batch: &Bytes, runs: i32) -> kafscale_storage_engine::wal::WalObject {
    let mut builder = WalBuilder::new(&WalHeader {
        kind: Kind::Data,
        stream: STREAM,
        first_seq: 1,
        last_seq: 1,
        nonce: 42,
        vouched: 1,
    });
    for partition in 0..runs {
        let run = Run {
            topic_id: TopicId([1; 16]),
            partition,
            leader_epoch: 1,
            base_offset: 10,
            next_offset: 11,
            position: 0,
            length: 0,
            max_timestamp: 1_700_000_000_000,
            crc32c: 0,
            producers: vec![change(10)],
        };
        builder.push_run(run, vec![batch.clone()]);
    }
    builder.finish()
}

fn wal_build_case(batch: Bytes, runs: i32) -> Box<dyn FnMut()> {
    Box::new(move || drop(black_box(wal_object(black_box(&batch), runs))))
}

fn footer_parse_case(batch: Bytes, runs: i32) -> Box<dyn FnMut()> {
    let object = wal_object(&batch, runs);
    let whole: Vec<u8> = object.parts.iter().flatten().copied().collect();
    Box::new(move || {
        let read = parse_footer(black_box(&whole), whole.len() as u64).expect("it is sound");
        assert!(matches!(&read, FooterRead::Runs(found) if found.len() == runs as usize));
        drop(black_box(read));
    })
}
