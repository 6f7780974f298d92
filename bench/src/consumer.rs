//! Consumers that read along.

use crate::client::{BenchError, Connection, FETCH};
use crate::clock::Clock;
use crate::options::Options;
use crate::producer::new_histogram;
use hdrhistogram::Histogram;
use kafscale_codec::error_code::ErrorCode;
use kafscale_codec::messages::*;
use kafscale_codec::record_batch;
use std::collections::BTreeMap;
use std::net::SocketAddr;

const FETCH_BYTES_MAX: i32 = 8 << 20;
const PARTITION_BYTES_MAX: i32 = 1 << 20;

/// What consumers got in the time that counts.
pub struct Consumed {
    /// From when a batch was sent to when it was here, in nanoseconds; one entry per batch.
    pub end_to_end: Histogram<u64>,
    /// Records.
    pub records: u64,
    /// Bytes of batches.
    pub bytes: u64,
}

impl Consumed {
    /// Nothing.
    pub fn none() -> Self {
        Consumed {
            end_to_end: new_histogram(),
            records: 0,
            bytes: 0,
        }
    }

    /// Adds another's.
    pub fn add(&mut self, other: &Consumed) {
        // The bounds are the same everywhere.
        let _ = self.end_to_end.add(&other.end_to_end);
        self.records += other.records;
        self.bytes += other.bytes;
    }
}

/// Reads partitions of one leader from these offsets on until the clock is over.
///
/// # Errors
/// If the connection fails, or the broker refuses.
pub fn run(
    options: &Options,
    clock: Clock,
    leader: SocketAddr,
    mut positions: BTreeMap<i32, i64>,
) -> Result<Consumed, BenchError> {
    let mut connection = Connection::open(leader)?;
    let mut consumed = Consumed::none();
    while !clock.is_over() {
        let partitions = positions
            .iter()
            .map(|(partition, offset)| FetchPartition {
                partition: *partition,
                fetch_offset: *offset,
                partition_max_bytes: PARTITION_BYTES_MAX,
                ..FetchPartition::default()
            })
            .collect();
        let request = FetchRequest {
            max_wait_ms: 500,
            min_bytes: 1,
            max_bytes: FETCH_BYTES_MAX,
            topics: vec![FetchTopic {
                topic: options.topic.clone(),
                partitions,
                ..FetchTopic::default()
            }],
            ..FetchRequest::default()
        };
        let response = connection.ask(FETCH, &request)?;
        let now = clock.now_ns();
        for data in response.responses.iter().flat_map(|topic| &topic.partitions) {
            if data.error_code != ErrorCode::NONE {
                let what = format!("fetch of partition {}", data.partition_index);
                return Err(BenchError::Refused(what, data.error_code));
            }
            let Some(position) = positions.get_mut(&data.partition_index) else {
                continue;
            };
            for records in data.records.iter().flat_map(|records| &records.0) {
                take(records, now, clock, position, &mut consumed)?;
            }
        }
    }
    Ok(consumed)
}

fn take(records: &[u8], now: u64, clock: Clock, position: &mut i64, consumed: &mut Consumed) -> Result<(), BenchError> {
    for batch in record_batch::iter_batches(records) {
        // A response may end in the middle of a batch.
        let Ok((header, batch)) = batch else { return Ok(()) };
        if header.next_offset() <= *position {
            continue;
        }
        *position = header.next_offset();
        if !clock.counts(now) {
            continue;
        }
        consumed.records += u64::from(header.record_count.unsigned_abs());
        consumed.bytes += batch.len() as u64;
        if let Some(sent) = sent_ns(batch).filter(|sent| *sent <= now) {
            consumed.end_to_end.saturating_record(now - sent);
        }
    }
    Ok(())
}

/// The stamp that our producers put into the first value of a batch: behind five varints and no key.
fn sent_ns(batch: &[u8]) -> Option<u64> {
    let mut rest = batch.get(record_batch::HEADER_LEN..)?;
    skip_varint(&mut rest)?; // The record's length.
    rest = rest.get(1..)?; // Its attributes.
    for _ in 0..4 {
        skip_varint(&mut rest)?; // Timestamp and offset deltas, length of no key, length of the value.
    }
    rest.first_chunk().map(|stamp| u64::from_be_bytes(*stamp))
}

fn skip_varint(rest: &mut &[u8]) -> Option<()> {
    let len = rest.iter().take(10).position(|byte| byte & 0x80 == 0)? + 1;
    *rest = &rest[len..];
    Some(())
}
