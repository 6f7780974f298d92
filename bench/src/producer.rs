//! Producers: one thread that sends what is due, one that takes the answers.

use crate::client::{producer_id, BenchError, Connection, PRODUCE};
use crate::clock::Clock;
use crate::options::Options;
use hdrhistogram::Histogram;
use kafscale_codec::error_code::ErrorCode;
use kafscale_codec::messages::*;
use kafscale_codec::record_batch::BatchBuilder;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::mpsc::{channel, Receiver, Sender};
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
}

/// A request on its way: when its records were due, and when it was sent, in nanoseconds since the start.
struct Sent {
    id: i32,
    due_ns: Vec<u64>,
    sent_ns: u64,
}

/// One producer's part of the load.
pub struct Producer {
    options: Options,
    clock: Clock,
    leader: SocketAddr,
    partitions: Vec<i32>,
    /// Nanoseconds between two records of this producer; none without a rate.
    interval_ns: Option<u64>,
    payload: Vec<u8>,
}

impl Producer {
    /// A producer to these partitions of one leader, with its share of the rate.
    pub fn new(options: &Options, clock: Clock, leader: SocketAddr, partitions: Vec<i32>, of: u64) -> Self {
        let interval_ns = (options.rate > 0).then(|| 1_000_000_000 * of / options.rate);
        Producer {
            options: options.clone(),
            clock,
            leader,
            partitions,
            interval_ns,
            payload: random_bytes(options.record_bytes * 2),
        }
    }

    /// Produces until the clock is over, and waits for the answers to all of it.
    ///
    /// # Errors
    /// If the connection fails, or the broker refuses a batch.
    pub fn run(self) -> Result<Produced, BenchError> {
        let connection = Connection::open(self.leader)?;
        let mut reader = connection.reader()?;
        let (on_their_way, answered) = channel();
        // One for each request that may be in flight; the reader gives it back.
        let (give_back, places) = channel();
        for _ in 0..self.options.in_flight.max(1) {
            let _ = give_back.send(()); // The receiver is right here.
        }
        let (clock, record_bytes) = (self.clock, self.options.record_bytes as u64);
        let reading = std::thread::spawn(move || take_answers(&mut reader, &answered, &give_back, clock, record_bytes));
        let sending = self.send_all(connection, &on_their_way, &places);
        drop(on_their_way);
        let produced = reading
            .join()
            .map_err(|_| BenchError::Unexpected("the reading thread panicked".to_string()))?;
        // What the reader says is nearer to the cause.
        produced.and_then(|produced| sending.map(|()| produced))
    }

    fn send_all(
        &self,
        mut connection: Connection,
        on_their_way: &Sender<Sent>,
        places: &Receiver<()>,
    ) -> Result<(), BenchError> {
        let (id, epoch) = if self.options.no_idempotence {
            (-1, -1)
        } else {
            producer_id(self.options.bootstrap)?
        };
        let per_batch = (self.options.batch_bytes / self.options.record_bytes.max(1)).max(1) as u64;
        let mut sequences: BTreeMap<i32, i32> = self.partitions.iter().map(|at| (*at, 0)).collect();
        let mut next_due = 0u64;
        let mut turn = 0usize;
        // An error means that the reader has ended, and it says why.
        while !self.clock.is_over() && places.recv().is_ok() {
            let count = match self.interval_ns {
                None => per_batch,
                Some(interval) => {
                    let Some(due) = self.wait_until_due(interval.max(1), next_due) else {
                        break;
                    };
                    due.min(per_batch)
                }
            };
            let partition = self.partitions[turn % self.partitions.len()];
            turn += 1;
            let sequence = sequences.entry(partition).or_default();
            let mut batch = BatchBuilder::new();
            if id >= 0 {
                batch = batch.producer(id, epoch, *sequence);
            }
            let sent_ns = self.clock.now_ns();
            let due_ns: Vec<u64> = (0..count)
                .map(|at| self.interval_ns.map_or(sent_ns, |interval| (next_due + at) * interval))
                .collect();
            let now_ms = SystemTime::now()
                .duration_since(UNIX_EPOCH)
                .map_or(0, |now| now.as_millis() as i64);
            for at in 0..count {
                let from = (at as usize * 61) % self.options.record_bytes.max(1);
                let mut value = &self.payload[from..from + self.options.record_bytes];
                let stamped;
                if at == 0 && self.options.record_bytes >= 8 {
                    // For the consumers: when the oldest record of this batch was due.
                    stamped = [&due_ns[0].to_be_bytes(), &value[8..]].concat();
                    value = &stamped;
                }
                batch.push(now_ms, None, Some(value), &[]);
            }
            *sequence = sequence.wrapping_add(count as i32) & i32::MAX;
            next_due += count;
            let records = batch
                .build()
                .map_err(|error| BenchError::Unexpected(format!("batch: {error}")))?;
            let request = ProduceRequest {
                transactional_id: None,
                acks: self.options.acks,
                timeout_ms: 60_000,
                topic_data: vec![TopicProduceData {
                    name: self.options.topic.clone(),
                    partition_data: vec![PartitionProduceData {
                        index: partition,
                        records: Some(records),
                    }],
                    ..TopicProduceData::default()
                }],
            };
            let id = connection.send(PRODUCE, &request)?;
            // An error is the reader's to tell.
            if on_their_way.send(Sent { id, due_ns, sent_ns }).is_err() {
                break;
            }
        }
        Ok(())
    }

    /// How many records are due, once there are any; none when the run is over.
    fn wait_until_due(&self, interval_ns: u64, next_due: u64) -> Option<u64> {
        while !self.clock.is_over() {
            let due = (self.clock.now_ns() / interval_ns).saturating_sub(next_due);
            if due > 0 {
                return Some(due);
            }
            std::thread::sleep(Duration::from_millis(self.options.linger_ms.max(1)));
        }
        None
    }
}

fn take_answers(
    reader: &mut Connection,
    answered: &Receiver<Sent>,
    give_back: &Sender<()>,
    clock: Clock,
    record_bytes: u64,
) -> Result<Produced, BenchError> {
    let mut produced = Produced::none();
    while let Ok(sent) = answered.recv() {
        let (id, response) = reader.receive::<ProduceResponse>(PRODUCE)?;
        if id != sent.id {
            return Err(BenchError::Unexpected(format!(
                "the answer to {} came as {id}",
                sent.id
            )));
        }
        let answers = response.responses.iter().flat_map(|topic| &topic.partition_responses);
        if let Some(answer) = answers.clone().find(|answer| answer.error_code != ErrorCode::NONE) {
            return Err(BenchError::Refused("produce".to_string(), answer.error_code));
        }
        let _ = give_back.send(()); // At the end nobody takes it any more.
        let now = clock.now_ns();
        let Some(second) = clock.second_of(now) else {
            continue;
        };
        produced.count_in(second, sent.due_ns.len() as u64);
        produced.requests += 1;
        produced.records += sent.due_ns.len() as u64;
        produced.bytes += sent.due_ns.len() as u64 * record_bytes;
        for due in sent.due_ns {
            produced.latency.saturating_record(now.saturating_sub(due));
            produced.delay.saturating_record(sent.sent_ns.saturating_sub(due));
        }
    }
    Ok(produced)
}

/// Bytes that nobody can compress, the same in every run (SplitMix64).
fn random_bytes(count: usize) -> Vec<u8> {
    let mut state = 7u64;
    let mut bytes = Vec::with_capacity(count + 8);
    while bytes.len() < count {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        bytes.extend((z ^ (z >> 31)).to_le_bytes());
    }
    bytes
}
