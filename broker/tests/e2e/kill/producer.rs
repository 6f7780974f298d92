//! Producers that go on through kills: one with idempotence and retries as real clients have them, one with neither.

use super::ledger::{add, value, Place};
use super::Shared;
use crate::client::{now_ms, produce_batches, Client, PRODUCE};
use crate::support::{Random, PAUSE};
use bytes::Bytes;
use kafscale_codec::compression::Compression;
use kafscale_codec::error_code::ErrorCode;
use kafscale_codec::messages::*;
use kafscale_codec::record_batch::BatchBuilder;
use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

/// Requests on their way at once: what idempotence allows, and Java's default.
const IN_FLIGHT_MAX: usize = 5;

/// Records of one batch at most.
const BATCH_RECORDS_MAX: u64 = 8;

/// Pause before a new request, at most.
const PACE_MS_MAX: u64 = 12;

/// One producer: a thread with a connection, writing to every partition of one topic.
pub struct Producer {
    shared: Arc<Shared>,
    number: u32,
    topic: &'static str,
    partitions: i32,
    random: Random,
    compression: Compression,
    /// Idempotent, or one that sends everything once.
    idempotent: bool,
    producer_id: i64,
    next_number: BTreeMap<i32, u64>,
    in_flight: VecDeque<InFlight>,
}

/// A request that has not been answered in full.
struct InFlight {
    correlation_id: i32,
    batches: BTreeMap<i32, Batch>,
}

struct Batch {
    bytes: Bytes,
    numbers: Range<u64>,
    /// End of the log when this was sent again; what is acknowledged below was there before.
    resent_at_end: Option<i64>,
}

/// What a connection has taught about a partition.
#[derive(Default)]
struct Trouble {
    /// Partitions with a refused batch: those behind it are out of order, rightly.
    partitions: Vec<i32>,
}

impl Producer {
    pub fn new(shared: &Arc<Shared>, number: u32, topic: &'static str, partitions: i32, idempotent: bool) -> Producer {
        let compressions = [Compression::None, Compression::None, Compression::Lz4];
        Producer {
            shared: shared.clone(),
            number,
            topic,
            partitions,
            random: Random::new(shared.seed ^ u64::from(number) << 32),
            compression: compressions[number as usize % compressions.len()],
            idempotent,
            producer_id: -1,
            next_number: (0..partitions).map(|partition| (partition, 0)).collect(),
            in_flight: VecDeque::new(),
        }
    }

    /// Produces until told to stop, and then until everything is answered. Returns how many records each partition got.
    pub fn run(mut self) -> BTreeMap<i32, u64> {
        while !self.is_done() {
            // Whatever breaks the connection is followed by a new one; what was wrong with answers is in the ledger.
            if self.connection().is_err() {
                if !self.idempotent {
                    self.in_flight.clear();
                }
                std::thread::sleep(PAUSE);
            }
        }
        self.next_number
    }

    fn is_done(&self) -> bool {
        self.shared.gave_up() || (self.shared.producers_stop() && self.in_flight.is_empty())
    }

    /// The life of one connection: everything unanswered again, in order, then new requests.
    fn connection(&mut self) -> io::Result<()> {
        let mut client = Client::connect(self.shared.address)?;
        if self.idempotent && self.producer_id < 0 {
            let answer = client.ask(4, &InitProducerIdRequest::default())?;
            if answer.error_code != ErrorCode::NONE {
                return Err(io::Error::other("no producer id"));
            }
            self.producer_id = answer.producer_id;
        }
        self.send_again(&mut client)?;
        let mut trouble = Trouble::default();
        while !self.is_done() {
            if self.in_flight.len() < IN_FLIGHT_MAX && !self.shared.producers_stop() {
                if self.shared.reading() {
                    std::thread::sleep(PAUSE);
                }
                self.send_new(&mut client)?;
            } else {
                self.take_answer(&mut client, &mut trouble)?;
                if !trouble.partitions.is_empty() {
                    return Err(io::Error::other("something has to be sent again"));
                }
            }
        }
        Ok(())
    }

    fn send_again(&mut self, client: &mut Client) -> io::Result<()> {
        let mut ends = BTreeMap::new();
        for partition in self.in_flight.iter().flat_map(|request| request.batches.keys()) {
            if !ends.contains_key(partition) {
                let end = client.end_offset(self.topic, *partition)?;
                ends.insert(*partition, end.map_err(|error| io::Error::other(format!("{error:?}")))?);
            }
        }
        for request in &mut self.in_flight {
            for (partition, batch) in &mut request.batches {
                batch.resent_at_end = ends.get(partition).copied();
                add(&self.shared.ledger.counts.batches_retried, 1);
            }
            request.correlation_id = client.send(PRODUCE, &request.wire(self.topic))?;
        }
        Ok(())
    }

    fn send_new(&mut self, client: &mut Client) -> io::Result<()> {
        let mut batches = BTreeMap::new();
        for partition in 0..self.partitions {
            if self.random.below(2) == 0 {
                batches.insert(partition, self.next_batch(partition));
            }
        }
        if batches.is_empty() {
            return Ok(());
        }
        // Rounds are for kills: more load would only make more to read back.
        std::thread::sleep(Duration::from_millis(self.random.below(PACE_MS_MAX)));
        // In flight before it is sent: from the first byte on its outcome is open.
        self.in_flight.push_back(InFlight {
            correlation_id: 0,
            batches,
        });
        let request = self.in_flight.back_mut().expect("pushed above");
        request.correlation_id = client.send(PRODUCE, &request.wire(self.topic))?;
        Ok(())
    }

    fn next_batch(&mut self, partition: i32) -> Batch {
        let place: Place = (self.topic, partition);
        let from = self.next_number[&partition];
        let numbers = from..from + 1 + self.random.below(BATCH_RECORDS_MAX);
        self.next_number.insert(partition, numbers.end);
        let mut batch = BatchBuilder::new().compression(self.compression);
        if self.idempotent {
            // Records are numbered from 0 without a gap, as sequences are.
            batch = batch.producer(self.producer_id, 0, from as i32);
        }
        for number in numbers.clone() {
            let timestamp = now_ms();
            let key = number.to_be_bytes();
            let value = value(place, (self.number, number), timestamp);
            batch.push(timestamp, Some(&key), Some(&value), &[]);
        }
        Batch {
            bytes: batch.build().unwrap(),
            numbers,
            resent_at_end: None,
        }
    }

    fn take_answer(&mut self, client: &mut Client, trouble: &mut Trouble) -> io::Result<()> {
        let Some(request) = self.in_flight.front_mut() else {
            return Ok(());
        };
        let mut answer: ProduceResponse = client.receive(PRODUCE, request.correlation_id)?;
        let ledger = &self.shared.ledger;
        for answer in answer.responses.remove(0).partition_responses {
            let Some(batch) = request.batches.get(&answer.index) else {
                ledger.fault(format!("an answer for partition {}, which was not asked", answer.index));
                continue;
            };
            let place = (self.topic, answer.index);
            match answer.error_code {
                ErrorCode::NONE => {
                    if batch.resent_at_end.is_some_and(|end| answer.base_offset < end) {
                        add(&ledger.counts.duplicates_refused, 1);
                    }
                    ledger.acknowledged(place, answer.base_offset, self.number, batch.numbers.clone());
                    request.batches.remove(&answer.index);
                }
                error => {
                    add(&ledger.counts.error_answers, 1);
                    if !may_pass(error) {
                        ledger.fault(format!("{place:?} producer {}: {error:?}", self.number));
                    }
                    trouble.partitions.push(answer.index);
                }
            }
        }
        if request.batches.is_empty() || !self.idempotent {
            self.in_flight.pop_front();
        }
        if !self.idempotent {
            // It sends nothing twice: a refused batch is not in the log, and those behind it are as good as this one.
            trouble.partitions.clear();
        }
        Ok(())
    }
}

impl InFlight {
    fn wire(&self, topic: &str) -> ProduceRequest {
        let batches = self
            .batches
            .iter()
            .map(|(partition, batch)| (*partition, batch.bytes.clone()));
        produce_batches(topic, batches.collect())
    }
}

/// Whether a real client would try again. OUT_OF_ORDER_SEQUENCE_NUMBER is not among them: a producer that resends
/// everything unanswered in order, from a connection's start, is never out of order.
pub fn may_pass(error: ErrorCode) -> bool {
    error.is_retriable() && error != ErrorCode::CORRUPT_MESSAGE
}
