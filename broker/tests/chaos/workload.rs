//! Producers, consumers and committers that go on whatever breaks, and tell the ledger what they were told.

use crate::client::{produce_request, records_of, Client, PRODUCE};
use crate::ledger::{add, value, Ledger, Place};
use crate::routing::Router;
use crate::support::Random;
use bytes::Bytes;
use kafscale_codec::error_code::ErrorCode;
use kafscale_codec::messages::*;
use kafscale_codec::record_batch::BatchBuilder;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::io;
use std::net::SocketAddr;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::sync::Mutex;
use std::time::{Duration, Instant};

/// The topic of producers that number what they send.
pub const IDEMPOTENT: &str = "idempotent";
/// The topic of producers that do not, and send nothing twice.
pub const PLAIN: &str = "plain";

/// Requests of an idempotent producer under way at most.
const IN_FLIGHT_MAX: usize = 5;

/// How long a partition is tried of which something is damaged.
const REFUSAL_PATIENCE: Duration = Duration::from_secs(5);

/// Pause after trouble.
pub const BACK_OFF: Duration = Duration::from_millis(50);

/// What all of them share.
pub struct Shared {
    /// Where brokers are.
    pub addresses: Vec<SocketAddr>,
    /// What their choices follow from.
    pub seed: u64,
    /// The truth.
    pub ledger: Ledger,
    /// Producers are to finish what they have begun, and end.
    pub producers_stop: AtomicBool,
    /// The others are to end.
    pub others_stop: AtomicBool,
    /// The largest end that anybody was told, by partition.
    ends: Mutex<BTreeMap<Place, i64>>,
    /// Partitions of which something was damaged.
    refusable: Mutex<BTreeSet<Place>>,
    /// Commits that were acknowledged, by group.
    pub commits: AtomicI64,
}

impl Shared {
    /// Nothing has happened yet.
    pub fn new(addresses: Vec<SocketAddr>, seed: u64) -> Shared {
        Shared {
            addresses,
            seed,
            ledger: Ledger::default(),
            producers_stop: AtomicBool::new(false),
            others_stop: AtomicBool::new(false),
            ends: Mutex::default(),
            refusable: Mutex::default(),
            commits: AtomicI64::new(0),
        }
    }

    /// Whether a broker answers there.
    pub fn is_served_by(&self, address: SocketAddr) -> bool {
        let asked = Router::new(vec![address], self.seed).anyone();
        asked.is_ok_and(|mut client| client.ask(9, &MetadataRequest::default()).is_ok())
    }

    /// A way into the cluster, with choices of its own.
    pub fn router(&self, who: u64) -> Router {
        Router::new(self.addresses.clone(), self.seed ^ who.wrapping_mul(0x9e37_79b9))
    }

    /// The largest end that anybody knows: from now on nobody may be told of a smaller one.
    fn end_known(&self, place: Place) -> i64 {
        let told = self.ends.lock().unwrap().get(&place).copied().unwrap_or_default();
        told.max(self.ledger.next_acked(place))
    }

    /// Something of this partition was damaged.
    pub fn may_be_refused(&self, place: Place) {
        self.refusable.lock().unwrap().insert(place);
    }

    /// Whether a line of `verify` is about one of these.
    pub fn is_damaged(&self, line: &str) -> bool {
        let refusable = self.refusable.lock().unwrap();
        refusable
            .iter()
            .any(|(topic, partition)| line.contains(&format!("/{topic}/{partition}/")))
    }

    fn end_told(&self, place: Place, known: i64, end: i64) {
        if end < known {
            self.ledger.fault(format!(
                "{place:?}: ends at {end}, though {known} was known before that was asked"
            ));
        }
        let mut ends = self.ends.lock().unwrap();
        let largest = ends.entry(place).or_default();
        *largest = end.max(*largest);
    }
}

struct Batch {
    numbers: Range<u64>,
    bytes: Bytes,
}

/// A producer to one partition. Returns how many records it has sent; an idempotent one ends when all are acknowledged.
pub fn produce(shared: &Shared, number: u32, place: Place, idempotent: bool) -> u64 {
    let mut router = shared.router(u64::from(number));
    let mut random = Random::new(shared.seed ^ u64::from(number) << 32);
    let (mut queue, mut next) = (VecDeque::<Batch>::new(), 0u64);
    let mut producer_id = None;
    let ends =
        |queue: &VecDeque<Batch>| shared.producers_stop.load(Ordering::Relaxed) && (queue.is_empty() || !idempotent);
    while !ends(&queue) {
        let life = || -> io::Result<()> {
            let mut client = router.leader(place.0, place.1)?;
            if idempotent && producer_id.is_none() {
                let answer = router.anyone()?.ask(4, &InitProducerIdRequest::default())?;
                if answer.error_code != ErrorCode::NONE {
                    return Err(io::Error::other("no producer id"));
                }
                producer_id = Some(answer.producer_id);
            }
            let mut in_flight = VecDeque::new();
            while !ends(&queue) {
                let room = if idempotent { IN_FLIGHT_MAX } else { 1 };
                while queue.len() < room && !shared.producers_stop.load(Ordering::Relaxed) {
                    let numbers = next..next + 1 + random.below(5);
                    next = numbers.end;
                    let mut batch = BatchBuilder::new();
                    if let Some(producer_id) = producer_id {
                        // Records are numbered from 0 without a gap, as sequences are.
                        batch = batch.producer(producer_id, 0, numbers.start as i32);
                    }
                    let timestamp = crate::client::now_ms();
                    for at in numbers.clone() {
                        batch.push(timestamp, None, Some(&value(place, (number, at), timestamp)), &[]);
                    }
                    let bytes = batch.build().unwrap();
                    queue.push_back(Batch { numbers, bytes });
                }
                while in_flight.len() < queue.len() {
                    let bytes = queue[in_flight.len()].bytes.clone();
                    in_flight.push_back(client.send(PRODUCE, &produce_request(place.0, place.1, bytes))?);
                }
                let Some(id) = in_flight.pop_front() else { break };
                let mut answer: ProduceResponse = client.receive(PRODUCE, id)?;
                let answer = answer.responses.remove(0).partition_responses.remove(0);
                let batch = queue.front().expect("what is in flight is queued");
                match answer.error_code {
                    ErrorCode::NONE => {
                        shared
                            .ledger
                            .acknowledged(place, answer.base_offset, number, batch.numbers.clone());
                    }
                    // All of it is there, longer ago than the broker remembers where.
                    ErrorCode::DUPLICATE_SEQUENCE_NUMBER => {}
                    error => {
                        add(&shared.ledger.counts.error_answers, 1);
                        // What lies behind a refused batch is out of order, rightly.
                        return Err(io::Error::other(format!("{error:?}")));
                    }
                }
                queue.pop_front();
                std::thread::sleep(Duration::from_millis(random.below(12)));
            }
            Ok(())
        };
        if life_of(life).is_err() {
            if !idempotent {
                queue.clear();
            }
            std::thread::sleep(BACK_OFF);
        }
    }
    next
}

fn life_of(mut life: impl FnMut() -> io::Result<()>) -> io::Result<()> {
    life()
}

/// A consumer of one partition, from the beginning on.
pub fn consume(shared: &Shared, who: u64, place: Place) {
    let mut router = shared.router(who);
    let mut position = 0;
    while !shared.others_stop.load(Ordering::Relaxed) {
        if consume_from(shared, &mut router, place, &mut position).is_err() {
            std::thread::sleep(BACK_OFF);
        }
    }
}

fn consume_from(shared: &Shared, router: &mut Router, place: Place, position: &mut i64) -> io::Result<()> {
    let mut client = router.leader(place.0, place.1)?;
    while !shared.others_stop.load(Ordering::Relaxed) {
        fetch(shared, &mut client, place, position, 200)?;
    }
    Ok(())
}

/// One fetch: what it brings follows what was read, agrees with everything known, and is not older than anything known.
pub fn fetch(shared: &Shared, client: &mut Client, place: Place, position: &mut i64, wait_ms: i32) -> io::Result<i64> {
    let known = shared.end_known(place);
    let data = client.fetch(place.0, place.1, *position, wait_ms)?;
    if data.error_code != ErrorCode::NONE {
        if data.error_code == ErrorCode::OFFSET_OUT_OF_RANGE {
            shared.ledger.fault(format!("{place:?}: {position} is out of range"));
        }
        return Err(io::Error::other(format!("{:?}", data.error_code)));
    }
    shared.end_told(place, known, data.high_watermark);
    for record in records_of(&data) {
        if record.offset < *position {
            continue;
        }
        if record.offset > *position || record.offset >= data.high_watermark {
            let end = data.high_watermark;
            shared
                .ledger
                .fault(format!("{place:?}: after {position} comes {}, of {end}", record.offset));
        }
        *position = record.offset + 1;
        add(&shared.ledger.counts.records_consumed, 1);
        shared.ledger.seen(place, &record);
    }
    Ok(data.high_watermark)
}

/// Commits ever larger offsets to a group without members, and looks that none is lost or taken back.
pub fn commit(shared: &Shared, group: &str) {
    let mut router = shared.router(group.len() as u64 + 7_000);
    let (mut acknowledged, mut tried) = (-1i64, -1i64);
    while !shared.others_stop.load(Ordering::Relaxed) {
        let done = router
            .coordinator(group)
            .and_then(|mut client| commit_more(shared, &mut client, group, &mut acknowledged, &mut tried));
        if done.is_err() {
            std::thread::sleep(BACK_OFF);
        }
    }
}

fn commit_more(
    shared: &Shared,
    client: &mut Client,
    group: &str,
    acknowledged: &mut i64,
    tried: &mut i64,
) -> io::Result<()> {
    while !shared.others_stop.load(Ordering::Relaxed) {
        let found = client.ask(7, &offset_fetch(group))?;
        if found.error_code != ErrorCode::NONE {
            return Err(io::Error::other(format!("{:?}", found.error_code)));
        }
        let found = found.topics[0].partitions[0].committed_offset;
        if found < *acknowledged || found > *tried {
            shared.ledger.fault(format!(
                "{group}: {found} is committed, {acknowledged} was acknowledged and {tried} tried"
            ));
        }
        *tried += 1;
        let answer = client.ask(8, &offset_commit(group, *tried))?;
        match answer.topics[0].partitions[0].error_code {
            ErrorCode::NONE => *acknowledged = *tried,
            error => return Err(io::Error::other(format!("{error:?}"))),
        }
        shared.commits.fetch_add(1, Ordering::Relaxed);
        std::thread::sleep(Duration::from_millis(5));
    }
    Ok(())
}

fn offset_fetch(group: &str) -> OffsetFetchRequest {
    OffsetFetchRequest {
        group_id: group.to_string(),
        topics: Some(vec![OffsetFetchRequestTopic {
            name: IDEMPOTENT.to_string(),
            partition_indexes: vec![0],
        }]),
        ..OffsetFetchRequest::default()
    }
}

fn offset_commit(group: &str, offset: i64) -> OffsetCommitRequest {
    OffsetCommitRequest {
        group_id: group.to_string(),
        generation_id_or_member_epoch: -1,
        topics: vec![OffsetCommitRequestTopic {
            name: IDEMPOTENT.to_string(),
            partitions: vec![OffsetCommitRequestPartition {
                partition_index: 0,
                committed_offset: offset,
                ..OffsetCommitRequestPartition::default()
            }],
        }],
        ..OffsetCommitRequest::default()
    }
}

/// Reads a partition from its beginning to what it has now: by producer, the numbers of its records in their order.
pub fn read_all(shared: &Shared, place: Place, patience: Duration) -> BTreeMap<u32, Vec<u64>> {
    let mut router = shared.router(9_000 + place.1 as u64);
    let patience = match shared.refusable.lock().unwrap().contains(&place) {
        true => REFUSAL_PATIENCE,
        false => patience,
    };
    let until = Instant::now() + patience;
    let (mut position, mut end) = (0, None);
    let mut found: BTreeMap<u32, Vec<u64>> = BTreeMap::new();
    loop {
        let step = router.leader(place.0, place.1).and_then(|mut client| {
            let known = shared.end_known(place);
            let told = client.end_offset(place.0, place.1)?;
            let told = told.map_err(|error| io::Error::other(format!("{error:?}")))?;
            shared.end_told(place, known, told);
            let end = *end.get_or_insert(told);
            while position < end {
                let data = client.fetch(place.0, place.1, position, 0)?;
                if data.error_code != ErrorCode::NONE {
                    return Err(io::Error::other(format!("{:?}", data.error_code)));
                }
                for record in records_of(&data) {
                    if record.offset != position {
                        if record.offset > position {
                            shared
                                .ledger
                                .fault(format!("{place:?}: after {position} comes {}", record.offset));
                        }
                        continue;
                    }
                    position += 1;
                    if let Some((producer, number)) = shared.ledger.seen(place, &record) {
                        found.entry(producer).or_default().push(number);
                    }
                }
            }
            Ok(())
        });
        match step {
            Ok(()) => return found,
            // Refused, not shortened: that is what is promised of what is damaged.
            Err(error) if Instant::now() >= until && shared.refusable.lock().unwrap().contains(&place) => {
                println!("{place:?}: reading stands at {position} of {end:?}: {error}, rightly");
                return found;
            }
            Err(error) => assert!(
                Instant::now() < until,
                "{place:?}: reading stands at {position} of {end:?}: {error}"
            ),
        }
        std::thread::sleep(BACK_OFF);
    }
}
