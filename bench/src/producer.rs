//! Producers: one thread that sends what is due, one that takes the answers; one for both where only one request may be
//! on its way.

use crate::client::{producer_id, BenchError, Connection, PRODUCE};
use crate::clock::Clock;
use crate::options::Options;
use crate::payload::{Payload, Zipf};
use hdrhistogram::Histogram;
use kafscale_codec::error_code::ErrorCode;
use kafscale_codec::messages::*;
use kafscale_codec::record_batch::BatchBuilder;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::mpsc::{channel, Receiver, Sender};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Latencies from 1 µs to 10 minutes, to three digits.
pub fn new_histogram() -> Histogram<u64> {
    Histogram::new_with_bounds(1_000, 600_000_000_000, 3).expect("these bounds are legal")
}

/// What one producer, or all of them, did in the time that counts.
pub struct Produced {
    /// From when a record was due (without a rate: was sent) to its acknowledgement, in nanoseconds.
    pub latency: Histogram<u64>,
    /// From when a record was due to when it was sent, in nanoseconds: what the load generator itself adds.
    pub delay: Histogram<u64>,
    /// Records acknowledged.
    pub records: u64,
    /// Bytes of their values.
    pub bytes: u64,
    /// Requests answered.
    pub requests: u64,
    /// Records acknowledged in each second.
    pub by_second: Vec<u64>,
}

impl Produced {
    /// Nothing.
    pub fn none() -> Self {
        Produced {
            latency: new_histogram(),
            delay: new_histogram(),
            records: 0,
            bytes: 0,
            requests: 0,
            by_second: Vec::new(),
        }
    }

    /// Adds another's.
    pub fn add(&mut self, other: &Produced) {
        // The bounds are the same everywhere.
        let _ = self.latency.add(&other.latency);
        let _ = self.delay.add(&other.delay);
        self.records += other.records;
        self.bytes += other.bytes;
        self.requests += other.requests;
        for (second, records) in other.by_second.iter().enumerate() {
            self.count_in(second, *records);
        }
    }

    fn count_in(&mut self, second: usize, records: u64) {
        if self.by_second.len() <= second {
            self.by_second.resize(second + 1, 0);
        }
        self.by_second[second] += records;
    }

    /// Counts a request that was answered now.
    fn count(&mut self, sent: &Sent, schedule: Option<Schedule>, clock: Clock, record_bytes: u64) {
        let now = clock.now_ns();
        let Some(second) = clock.second_of(now) else {
            return;
        };
        self.count_in(second, sent.records);
        self.requests += 1;
        self.records += sent.records;
        self.bytes += sent.records * record_bytes;
        let Some(schedule) = schedule else {
            self.latency
                .saturating_record_n(now.saturating_sub(sent.sent_ns), sent.records);
            self.delay.saturating_record_n(0, sent.records);
            return;
        };
        for due in (sent.first..sent.first + sent.records).map(|record| schedule.due_ns(record)) {
            self.latency.saturating_record(now.saturating_sub(due));
            self.delay.saturating_record(sent.sent_ns.saturating_sub(due));
        }
    }
}

/// When the records of one of several producers are due: those of all together come at even distances, in turns.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Schedule {
    /// Records per second of all producers.
    rate: u64,
    /// Which producer.
    number: u64,
    /// Of how many.
    of: u64,
}

impl Schedule {
    /// None without a rate.
    pub fn new(rate: u64, number: u64, of: u64) -> Option<Self> {
        (rate > 0).then_some(Schedule { rate, number, of })
    }

    /// When this producer's record is due, in nanoseconds since the start.
    pub fn due_ns(&self, record: u64) -> u64 {
        let of_all = u128::from(record * self.of + self.number);
        (of_all * 1_000_000_000 / u128::from(self.rate)) as u64
    }

    /// How many of this producer's records are due by then.
    pub fn due_by(&self, now_ns: u64) -> u64 {
        // As the time of a record is rounded down, so the moment before the next nanosecond counts.
        let last = ((u128::from(now_ns) + 1) * u128::from(self.rate)).div_ceil(1_000_000_000) as u64;
        last.saturating_sub(self.number).div_ceil(self.of)
    }
}

/// A request on its way.
struct Sent {
    id: i32,
    /// The number of its first record among the producer's.
    first: u64,
    records: u64,
    sent_ns: u64,
}

/// Where one producer produces to.
pub struct Target {
    /// The topic.
    pub topic: String,
    /// The leader of the partitions.
    pub leader: SocketAddr,
    /// The partitions.
    pub partitions: Vec<i32>,
    /// Bytes that all producers together may still send; no end without.
    pub quota: Option<Arc<AtomicI64>>,
}

/// One producer's part of the load.
pub struct Producer {
    options: Options,
    clock: Clock,
    target: Target,
    schedule: Option<Schedule>,
    number: u64,
    payload: Payload,
}

impl Producer {
    /// Producer `number` of `of`, with its share of the rate.
    ///
    /// # Errors
    /// If the file of the values cannot be read.
    pub fn new(options: &Options, clock: Clock, target: Target, number: u64, of: u64) -> Result<Self, BenchError> {
        Ok(Producer {
            clock,
            target,
            schedule: Schedule::new(options.rate, number, of),
            number,
            payload: options.payload()?,
            options: options.clone(),
        })
    }

    /// Produces until the clock is over or the quota is sent, and waits for the answers to all of it.
    ///
    /// # Errors
    /// If the connection fails, or the broker refuses a batch.
    pub fn run(self) -> Result<Produced, BenchError> {
        let mut connection = Connection::open(self.target.leader)?;
        let (clock, schedule) = (self.clock, self.schedule);
        let record_bytes = self.options.record_bytes as u64;
        let in_flight = self.options.in_flight;
        let mut sender = Batches::new(self)?;
        if in_flight <= 1 {
            let mut produced = Produced::none();
            while let Some(sent) = sender.send_next(&mut connection)? {
                take_answer(&mut connection, &sent)?;
                produced.count(&sent, schedule, clock, record_bytes);
            }
            return Ok(produced);
        }
        let mut reader = connection.reader()?;
        let (on_their_way, answered) = channel();
        // One for each request that may be in flight; the reader gives it back.
        let (give_back, places) = channel();
        for _ in 0..in_flight {
            let _ = give_back.send(()); // The receiver is right here.
        }
        let reading = std::thread::spawn(move || {
            let mut produced = Produced::none();
            while let Ok(sent) = answered.recv() {
                take_answer(&mut reader, &sent)?;
                let _ = give_back.send(()); // At the end nobody takes it any more.
                produced.count(&sent, schedule, clock, record_bytes);
            }
            Ok(produced)
        });
        let sending = send_all(&mut sender, &mut connection, &on_their_way, &places);
        drop(on_their_way);
        let produced: Result<Produced, BenchError> = reading
            .join()
            .map_err(|_| BenchError::Unexpected("the reading thread panicked".to_string()))?;
        // What the reader says is nearer to the cause.
        produced.and_then(|produced| sending.map(|()| produced))
    }
}

fn send_all(
    sender: &mut Batches,
    connection: &mut Connection,
    on_their_way: &Sender<Sent>,
    places: &Receiver<()>,
) -> Result<(), BenchError> {
    // An error means that the reader has ended, and it says why.
    while places.recv().is_ok() {
        let Some(sent) = sender.send_next(connection)? else {
            break;
        };
        if on_their_way.send(sent).is_err() {
            break;
        }
    }
    Ok(())
}

/// The sending half of a producer.
struct Batches {
    producer: Producer,
    /// Producer id and epoch, if idempotent.
    id: Option<(i64, i16)>,
    /// The next sequence number of each partition.
    sequences: Vec<i32>,
    per_batch: u64,
    /// The number of the next record.
    next: u64,
    turn: usize,
    drawn: Option<Zipf>,
}

impl Batches {
    fn new(producer: Producer) -> Result<Self, BenchError> {
        let options = &producer.options;
        let partitions = producer.target.partitions.len();
        let id = match options.no_idempotence {
            true => None,
            false => Some(producer_id(options.bootstrap)?),
        };
        Ok(Batches {
            id,
            sequences: vec![0; partitions],
            per_batch: (options.batch_bytes / options.record_bytes.max(1)).max(1) as u64,
            next: 0,
            // Not all at the same partition at the same time.
            turn: producer.number as usize,
            drawn: (options.partition_skew > 0.0)
                .then(|| Zipf::new(partitions, options.partition_skew, producer.number)),
            producer,
        })
    }

    /// Waits until records are due, and sends them as one batch; none at the end.
    fn send_next(&mut self, connection: &mut Connection) -> Result<Option<Sent>, BenchError> {
        let clock = self.producer.clock;
        let Some(records) = self.wait_until_due() else {
            return Ok(None);
        };
        let bytes = records * self.producer.options.record_bytes as u64;
        if let Some(quota) = &self.producer.target.quota {
            if quota.fetch_sub(bytes as i64, Ordering::Relaxed) <= 0 {
                return Ok(None);
            }
        }
        let sent_ns = clock.now_ns();
        let first = self.next;
        let request = self.batch(records, sent_ns)?;
        let id = connection.send(PRODUCE, &request)?;
        Ok(Some(Sent {
            id,
            first,
            records,
            sent_ns,
        }))
    }

    /// How many records are due, at most a batch, once one of them has waited long enough for company; none when the run
    /// is over.
    fn wait_until_due(&self) -> Option<u64> {
        let clock = self.producer.clock;
        let Some(schedule) = self.producer.schedule else {
            return (!clock.is_over()).then_some(self.per_batch);
        };
        let lingered_ns = schedule.due_ns(self.next) + self.producer.options.linger_ms * 1_000_000;
        let send_ns = lingered_ns.min(schedule.due_ns(self.next + self.per_batch - 1));
        while !clock.is_over() {
            let now = clock.now_ns();
            if now >= send_ns {
                let due = schedule.due_by(now).saturating_sub(self.next);
                return Some(due.clamp(1, self.per_batch));
            }
            let wait = Duration::from_nanos(send_ns - now);
            std::thread::sleep(wait.min(clock.until_end()));
        }
        None
    }

    fn batch(&mut self, records: u64, sent_ns: u64) -> Result<ProduceRequest, BenchError> {
        let Producer {
            options,
            target,
            payload,
            schedule,
            ..
        } = &mut self.producer;
        let index = match &mut self.drawn {
            Some(drawn) => drawn.draw(),
            None => self.turn % target.partitions.len(),
        };
        self.turn += 1;
        let sequence = &mut self.sequences[index];
        let mut batch = BatchBuilder::new().compression(options.compression);
        if let Some((id, epoch)) = self.id {
            batch = batch.producer(id, epoch, *sequence);
        }
        let now_ms = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .map_or(0, |now| now.as_millis() as i64);
        for at in 0..records {
            let key = (self.next + at).checked_rem(options.keys).map(u64::to_be_bytes);
            let key = key.as_ref().map(|key| &key[..]);
            let value = payload.next();
            if at == 0 && value.len() >= 8 {
                // For the consumers: when the oldest record of this batch was due.
                let due = schedule.map_or(sent_ns, |schedule| schedule.due_ns(self.next));
                let stamped = [&due.to_be_bytes(), &value[8..]].concat();
                batch.push(now_ms, key, Some(&stamped), &[]);
            } else {
                batch.push(now_ms, key, Some(value), &[]);
            }
        }
        *sequence = sequence.wrapping_add(records as i32) & i32::MAX;
        self.next += records;
        let records = batch
            .build()
            .map_err(|error| BenchError::Unexpected(format!("batch: {error}")))?;
        Ok(ProduceRequest {
            transactional_id: None,
            acks: options.acks,
            timeout_ms: 60_000,
            topic_data: vec![TopicProduceData {
                name: target.topic.clone(),
                partition_data: vec![PartitionProduceData {
                    index: target.partitions[index],
                    records: Some(records),
                }],
                ..TopicProduceData::default()
            }],
        })
    }
}

fn take_answer(reader: &mut Connection, sent: &Sent) -> Result<(), BenchError> {
    let (id, response) = reader.receive::<ProduceResponse>(PRODUCE)?;
    if id != sent.id {
        return Err(BenchError::Unexpected(format!(
            "the answer to {} came as {id}",
            sent.id
        )));
    }
    let mut answers = response.responses.iter().flat_map(|topic| &topic.partition_responses);
    match answers.find(|answer| answer.error_code != ErrorCode::NONE) {
        Some(answer) => Err(BenchError::Refused("produce".to_string(), answer.error_code)),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn producers_take_turns_at_even_distances() {
        let due = |number, record| Schedule::new(4, number, 2).unwrap().due_ns(record) / 1_000_000;
        assert_eq!([due(0, 0), due(1, 0), due(0, 1), due(1, 1)], [0, 250, 500, 750]);
    }

    #[test]
    fn a_record_is_due_from_its_nanosecond_on() {
        for (rate, number, of) in [(3, 0, 1), (7, 2, 5), (10_000, 1, 2), (999_999_937, 3, 4)] {
            let schedule = Schedule::new(rate, number, of).unwrap();
            for record in [0, 1, 2, 1_000, 123_457] {
                let due = schedule.due_ns(record);
                assert!(schedule.due_by(due) > record, "{schedule:?} {record}");
                if due > 0 {
                    assert!(schedule.due_by(due - 1) <= record, "{schedule:?} {record}");
                }
            }
        }
    }

    #[test]
    fn all_producers_together_keep_the_rate() {
        let minute = 60_000_000_000 - 1;
        let due = (0..7).map(|number| Schedule::new(12_345, number, 7).unwrap().due_by(minute));
        assert_eq!(due.sum::<u64>(), 12_345 * 60);
        assert_eq!(Schedule::new(0, 0, 1), None);
    }
}
