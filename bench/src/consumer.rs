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
    /// From when the oldest record of a batch was due to when the batch was here, in nanoseconds; one entry per batch.
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

/// A fetch session (KIP-227), in which a request names only the partitions whose position has changed.
struct Session {
    id: i32,
    epoch: i32,
}

impl Session {
    /// None yet: one is asked for, or none is wanted.
    fn none(wanted: bool) -> Self {
        Session {
            id: 0,
            epoch: if wanted { 0 } else { -1 },
        }
    }

    fn goes_on(&self) -> bool {
        self.id != 0
    }

    /// What the broker answered: 0 if it gives no session.
    fn is(&mut self, id: i32) {
        self.id = id;
        if id != 0 {
            self.epoch += 1;
        }
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
    let mut session = Session::none(options.fetch_sessions);
    let mut changed: Vec<i32> = Vec::new();
    while !clock.is_over() {
        let wanted = |(partition, offset): (&i32, &i64)| FetchPartition {
            partition: *partition,
            fetch_offset: *offset,
            partition_max_bytes: PARTITION_BYTES_MAX,
            ..FetchPartition::default()
        };
        let partitions: Vec<FetchPartition> = if session.goes_on() {
            let moved = |at: &i32| positions.get_key_value(at).map(wanted);
            changed.drain(..).filter_map(|at| moved(&at)).collect()
        } else {
            positions.iter().map(wanted).collect()
        };
        let topic = FetchTopic {
            topic: options.topic.clone(),
            partitions,
            ..FetchTopic::default()
        };
        let request = FetchRequest {
            max_wait_ms: 500,
            min_bytes: 1,
            max_bytes: FETCH_BYTES_MAX,
            session_id: session.id,
            session_epoch: session.epoch,
            topics: if topic.partitions.is_empty() {
                vec![]
            } else {
                vec![topic]
            },
            ..FetchRequest::default()
        };
        let response = connection.ask(FETCH, &request)?;
        let now = clock.now_ns();
        if response.error_code != ErrorCode::NONE {
            return Err(BenchError::Refused("fetch".to_string(), response.error_code));
        }
        session.is(response.session_id);
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
                changed.push(data.partition_index);
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
        if let Some(due) = due_ns(batch).filter(|due| *due <= now) {
            consumed.end_to_end.saturating_record(now - due);
        }
    }
    Ok(())
}

/// The stamp that our producers put into the first value of a batch: behind five varints and no key.
fn due_ns(batch: &[u8]) -> Option<u64> {
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
