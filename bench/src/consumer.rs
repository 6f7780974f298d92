//! Consumers that read along.

use crate::client::{BenchError, Connection, FETCH};
use crate::clock::Clock;
use crate::producer::new_histogram;
use hdrhistogram::Histogram;
use kafscale_codec::compression::{decompress, Compression};
use kafscale_codec::error_code::ErrorCode;
use kafscale_codec::messages::*;
use kafscale_codec::record_batch::{self, BatchHeader};
use std::collections::BTreeMap;
use std::net::SocketAddr;

const FETCH_BYTES_MAX: i32 = 8 << 20;
const PARTITION_BYTES_MAX: i32 = 1 << 20;
const DECOMPRESSED_BYTES_MAX: usize = 64 << 20;

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

/// Partitions of one leader, and where reading them has come to.
struct Fetcher<'a> {
    connection: Connection,
    topic: &'a str,
    positions: BTreeMap<i32, i64>,
    session: Session,
    /// In a session, those that the next request has to name.
    changed: Vec<i32>,
    /// Which partition comes first, so that none waits for the others to be read.
    turn: usize,
}

impl<'a> Fetcher<'a> {
    fn open(
        leader: SocketAddr,
        topic: &'a str,
        positions: BTreeMap<i32, i64>,
        sessions: bool,
    ) -> Result<Self, BenchError> {
        Ok(Fetcher {
            connection: Connection::open(leader)?,
            topic,
            positions,
            session: Session::none(sessions),
            changed: Vec::new(),
            turn: 0,
        })
    }

    /// Fetches once and counts what came.
    fn fetch(&mut self, clock: Clock, consumed: &mut Consumed) -> Result<(), BenchError> {
        let wanted = |(partition, offset): (&i32, &i64)| FetchPartition {
            partition: *partition,
            fetch_offset: *offset,
            partition_max_bytes: PARTITION_BYTES_MAX,
            ..FetchPartition::default()
        };
        let positions = &self.positions;
        let partitions: Vec<FetchPartition> = if self.session.goes_on() {
            let moved = |at: &i32| positions.get_key_value(at).map(wanted);
            self.changed.drain(..).filter_map(|at| moved(&at)).collect()
        } else {
            let mut all: Vec<_> = positions.iter().map(wanted).collect();
            let turn = self.turn % all.len().max(1);
            all.rotate_left(turn);
            self.turn += 1;
            all
        };
        let topic = FetchTopic {
            topic: self.topic.to_string(),
            partitions,
            ..FetchTopic::default()
        };
        let request = FetchRequest {
            max_wait_ms: 500,
            min_bytes: 1,
            max_bytes: FETCH_BYTES_MAX,
            session_id: self.session.id,
            session_epoch: self.session.epoch,
            topics: if topic.partitions.is_empty() {
                vec![]
            } else {
                vec![topic]
            },
            ..FetchRequest::default()
        };
        let response = self.connection.ask(FETCH, &request)?;
        let now = clock.now_ns();
        if response.error_code != ErrorCode::NONE {
            return Err(BenchError::Refused("fetch".to_string(), response.error_code));
        }
        self.session.is(response.session_id);
        for data in response.responses.iter().flat_map(|topic| &topic.partitions) {
            if data.error_code != ErrorCode::NONE {
                let what = format!("fetch of partition {}", data.partition_index);
                return Err(BenchError::Refused(what, data.error_code));
            }
            let Some(position) = self.positions.get_mut(&data.partition_index) else {
                continue;
            };
            for records in data.records.iter().flat_map(|records| &records.0) {
                take(records, now, clock, position, consumed)?;
                self.changed.push(data.partition_index);
            }
        }
        Ok(())
    }
}

/// Reads partitions of one leader from these offsets on until the clock is over.
///
/// # Errors
/// If the connection fails, or the broker refuses.
pub fn read_along(
    topic: &str,
    fetch_sessions: bool,
    clock: Clock,
    leader: SocketAddr,
    positions: BTreeMap<i32, i64>,
) -> Result<Consumed, BenchError> {
    let mut consumed = Consumed::none();
    let mut fetcher = Fetcher::open(leader, topic, positions, fetch_sessions)?;
    while !clock.is_over() {
        fetcher.fetch(clock, &mut consumed)?;
    }
    Ok(consumed)
}

/// What is there of some partitions of one leader: first offset, and the offset after the last.
pub type Backlog = BTreeMap<i32, (i64, i64)>;

/// Reads a backlog as fast as it comes, once or `again` and again, until it is read or the clock is over.
///
/// # Errors
/// If the connection fails, or the broker refuses.
pub fn read_backlog(
    topic: &str,
    clock: Clock,
    leader: SocketAddr,
    backlog: &Backlog,
    again: bool,
) -> Result<Consumed, BenchError> {
    let mut consumed = Consumed::none();
    let starts = || {
        backlog
            .iter()
            .filter(|(_, (start, end))| start < end)
            .map(|(at, (start, _))| (*at, *start))
    };
    let mut fetcher = Fetcher::open(leader, topic, starts().collect(), false)?;
    while !clock.is_over() && !fetcher.positions.is_empty() {
        fetcher.fetch(clock, &mut consumed)?;
        fetcher
            .positions
            .retain(|at, position| backlog.get(at).is_some_and(|(_, end)| *position < *end));
        if again && fetcher.positions.is_empty() {
            fetcher.positions = starts().collect();
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
        if let Some(due) = due_ns(&header, batch).filter(|due| *due <= now) {
            consumed.end_to_end.saturating_record(now - due);
        }
    }
    Ok(())
}

/// The stamp that our producers put into the first value of a batch.
fn due_ns(header: &BatchHeader, batch: &[u8]) -> Option<u64> {
    let body = batch.get(record_batch::HEADER_LEN..)?;
    match header.compression()? {
        Compression::None => stamp(body),
        compression => stamp(&decompress(compression, body, DECOMPRESSED_BYTES_MAX).ok()?),
    }
}

/// The first eight bytes of the first record's value.
fn stamp(records: &[u8]) -> Option<u64> {
    let mut rest = records;
    varint(&mut rest)?; // The record's length.
    rest = rest.get(1..)?; // Its attributes.
    varint(&mut rest)?; // Timestamp delta.
    varint(&mut rest)?; // Offset delta.
    let key_len = usize::try_from(varint(&mut rest)?.max(0)).ok()?;
    rest = rest.get(key_len..)?;
    let value_len = varint(&mut rest)?;
    let stamp = rest.first_chunk().filter(|_| value_len >= 8)?;
    Some(u64::from_be_bytes(*stamp))
}

/// A zigzag number of at most ten bytes.
fn varint(rest: &mut &[u8]) -> Option<i64> {
    let len = rest.iter().take(10).position(|byte| byte & 0x80 == 0)? + 1;
    let (bytes, after) = rest.split_at(len);
    let raw = bytes
        .iter()
        .rev()
        .fold(0u64, |value, byte| value << 7 | u64::from(byte & 0x7f));
    *rest = after;
    Some((raw >> 1) as i64 ^ -((raw & 1) as i64))
}

#[cfg(test)]
mod tests {
    use super::*;
    use kafscale_codec::record_batch::BatchBuilder;

    #[test]
    fn the_stamp_is_found_behind_a_key_and_in_every_compression() {
        for compression in [Compression::None, Compression::Lz4, Compression::Zstd] {
            for key in [
                None,
                Some(&b"a key of some length, longer than sixty-four bytes so that its size takes two"[..]),
            ] {
                let mut batch = BatchBuilder::new().compression(compression);
                batch.push(
                    1_700_000_000_000,
                    key,
                    Some(&[&77u64.to_be_bytes()[..], &[9; 400]].concat()),
                    &[],
                );
                batch.push(1_700_000_000_001, key, Some(&[0; 16]), &[]);
                let batch = batch.build().unwrap();
                let header = BatchHeader::parse(&batch).unwrap();
                assert_eq!(due_ns(&header, &batch), Some(77), "{compression:?}");
            }
        }
    }

    #[test]
    fn a_value_too_short_for_a_stamp_has_none() {
        let mut batch = BatchBuilder::new();
        batch.push(0, None, Some(b"short"), &[]);
        batch.push(0, None, Some(b"and another one"), &[]);
        let batch = batch.build().unwrap();
        assert_eq!(due_ns(&BatchHeader::parse(&batch).unwrap(), &batch), None);
    }
}
