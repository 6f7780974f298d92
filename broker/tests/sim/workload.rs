//! Producers, idempotent and not, and consumers.

use crate::checkers::groups::GroupBook;
use crate::checkers::ledger::{record_id, value_of, Ledger, Place, RecordId};
use crate::client::{Client, Connection, Refusal};
use crate::executor::EPOCH_MS;
use crate::legacy::message_set;
use crate::session::Reader;
use bytes::Bytes;
use kafscale_broker::runtime::Instant;
use kafscale_codec::compression::Compression;
use kafscale_codec::error_code::ErrorCode;
use kafscale_codec::messages::*;
use kafscale_codec::record_batch::{self, BatchBuilder};
use std::cell::{Cell, RefCell};
use std::collections::btree_map::{BTreeMap, Entry};
use std::collections::VecDeque;
use std::io;
use std::rc::Rc;
use std::time::Duration;

const PRODUCE: i16 = 9;
const FETCH: i16 = 12;
const LIST_OFFSETS: i16 = 6;
const DELETE_RECORDS: i16 = 2;

/// Acknowledged by all replicas, by the leader, by nobody.
const ALL: i16 = -1;
const LEADER: i16 = 1;
const NOBODY: i16 = 0;

/// In ListOffsets: where the partition ends.
const LATEST: i64 = -1;

/// In ListOffsets: its first offset.
const EARLIEST: i64 = -2;

/// Requests that an idempotent producer has under way at most (`max.in.flight.requests.per.connection`).
const IN_FLIGHT_MAX: usize = 5;

/// Longer than any run: an answer that is lost must show as one, not as a request that timed out.
const PRODUCE_TIMEOUT_MS: i32 = 3_600_000;

/// Version of Produce that carries message sets.
const PRODUCE_LEGACY: i16 = 2;

/// A record in a batch of its own takes less than this.
const RECORD_BYTES_MAX: usize = 450;

/// How far from now records say they were made, in milliseconds: far from the limits that topics have by default.
const TIMESTAMP_SPREAD_MS: u64 = 3_600_000;

/// What the workloads of a run share.
pub struct Work {
    /// The way to the cluster.
    pub client: Rc<Client>,
    /// The book.
    pub ledger: Ledger,
    /// Of a thousand chances to drop a connection in the middle, clients take so many.
    pub impatience_permille: Cell<u64>,
    /// How long idempotent producers send a batch again; forever if nothing is said.
    pub delivery_timeout: Option<Duration>,
    /// Where each partition ends, once nothing is produced any more.
    pub ends: RefCell<Option<BTreeMap<Place, i64>>>,
    /// The book of groups.
    pub book: GroupBook,
    /// Of a thousand turns of a group's member, so many bring it to grief.
    pub group_unrest_permille: Cell<u64>,
    /// Members go home.
    pub groups_over: Cell<bool>,
    /// Some records do not say when they were made, or none of them does.
    pub undated: Option<bool>,
    /// Partitions that were refused, rightly.
    pub refused: Cell<usize>,
    /// Partitions besides the plan's, as the book names them: they must be whole in the end.
    pub last_lives: RefCell<Vec<Place>>,
    /// Who has not finished, and what it does.
    pub busy: RefCell<BTreeMap<String, String>>,
}

impl Work {
    /// Notes what `who` does.
    pub fn doing(&self, who: &str, what: impl FnOnce() -> String) {
        self.busy.borrow_mut().insert(who.to_string(), what());
    }

    /// `who` has finished.
    pub fn done(&self, who: &str) {
        self.busy.borrow_mut().remove(who);
    }

    fn loses_patience(&self) -> bool {
        let chance = self.impatience_permille.get();
        self.client.world.draw(|random| random.permille(chance))
    }

    /// When records say they were made, as clients say it: now, earlier, later, or not at all.
    pub fn draw_timestamp(&self) -> i64 {
        if self.undated == Some(true) {
            return -1;
        }
        let world = &self.client.world;
        let now = EPOCH_MS + world.now().as_millis() as i64;
        world.draw(|random| match random.below(10) {
            0 if self.undated.is_some() => -1,
            1 | 2 => now - random.below(TIMESTAMP_SPREAD_MS) as i64,
            3 => now + random.below(TIMESTAMP_SPREAD_MS) as i64,
            _ => now,
        })
    }

    /// One record, as a batch or as an old message set.
    fn record(&self, place: &Place, magic: i8, id: RecordId) -> Bytes {
        let timestamp = self.draw_timestamp();
        let told = if magic == 0 { -1 } else { timestamp };
        self.ledger.made(place, id, told, RECORD_BYTES_MAX);
        if magic < 2 {
            return message_set(magic, timestamp, &value_of(id)).into();
        }
        let mut builder = BatchBuilder::new().compression(self.draw_compression());
        builder.push(timestamp, None, Some(&value_of(id)), &[]);
        builder.build().expect("this record can be compressed")
    }

    fn draw_compression(&self) -> Compression {
        self.client.world.draw(|random| match random.permille(150) {
            true => *random.pick(&[Compression::Gzip, Compression::Lz4]),
            false => Compression::None,
        })
    }
}

/// The name of a partition's topic: the book tells topics apart that had the same name.
pub fn topic_of(place: &Place) -> &str {
    place.0.split('#').next().unwrap_or_default()
}

struct Batch {
    sequence: i32,
    made: Instant,
    ids: Vec<RecordId>,
    bytes: Bytes,
}

/// One batch for each partition.
pub fn produce_request(topic: &str, acks: i16, batches: Vec<(i32, Bytes)>) -> ProduceRequest {
    let partition_data = batches
        .into_iter()
        .map(|(index, records)| PartitionProduceData {
            index,
            records: Some(records),
        })
        .collect();
    ProduceRequest {
        transactional_id: None,
        acks,
        timeout_ms: PRODUCE_TIMEOUT_MS,
        topic_data: vec![TopicProduceData {
            name: topic.to_string(),
            partition_data,
            ..TopicProduceData::default()
        }],
    }
}

/// An idempotent producer to one partition: several requests under way, all sent again in order after trouble.
pub async fn idempotent_producer(work: Rc<Work>, number: u32, place: Place, batches: usize) {
    let who = format!("idempotent producer {number} to {place:?}");
    work.doing(&who, || "asks for its id".to_string());
    work.ledger.expect_order(number);
    let client = &work.client;
    let (producer_id, producer_epoch) = client.producer_id().await;
    let (mut queue, mut made, mut sequence, mut sent) = (VecDeque::<Batch>::new(), 0usize, 0i32, 0u32);
    let mut open: Option<(Connection, VecDeque<i32>)> = None;
    let mut last_error = ErrorCode::NONE;
    let mut patience = client.patience(&place);
    loop {
        while queue.len() < IN_FLIGHT_MAX && made < batches {
            let count = client.world.draw(|random| random.between(1, 4)) as u32;
            let ids: Vec<RecordId> = (sent..sent + count).map(|at| record_id(number, at)).collect();
            let mut builder = BatchBuilder::new().compression(work.draw_compression()).producer(
                producer_id,
                producer_epoch,
                sequence,
            );
            let timestamp = work.draw_timestamp();
            for id in &ids {
                work.ledger.sent(&place, *id);
                work.ledger.made(&place, *id, timestamp, RECORD_BYTES_MAX);
                builder.push(timestamp, None, Some(&value_of(*id)), &[]);
            }
            let bytes = builder.build().expect("these records can be compressed");
            queue.push_back(Batch {
                sequence,
                made: client.world.now(),
                ids,
                bytes,
            });
            sequence += count as i32;
            sent += count;
            made += 1;
        }
        if queue.is_empty() {
            break;
        }
        let next = queue[0].sequence;
        let age = client.world.now() - queue[0].made;
        if work.delivery_timeout.is_some_and(|timeout| age > timeout) {
            break;
        }
        work.doing(&who, || format!("sends sequence {next}, last error {last_error:?}"));
        let (mut connection, mut in_flight) = match open.take() {
            Some(open) => open,
            None => (client.connect_to_leader(&place).await, VecDeque::new()),
        };
        let exchanged = exchange(&work, &mut connection, &mut in_flight, &place, &mut queue).await;
        if let Ok(error) = &exchanged {
            patience.answered(*error);
        }
        if patience.is_over() {
            break;
        }
        match exchanged {
            Ok(ErrorCode::NONE) => open = Some((connection, in_flight)),
            Ok(error) => {
                last_error = error;
                client.back_off().await;
            }
            Err(_) => client.back_off().await,
        }
        if work.loses_patience() {
            open = None;
        }
        if client.world.draw(|random| random.permille(300)) {
            client.pause_ms(1, 120).await;
        }
    }
    work.done(&who);
}

/// Fills the pipeline and takes one answer from it; after an error, all of them. What is acknowledged leaves the queue.
async fn exchange(
    work: &Work,
    connection: &mut Connection,
    in_flight: &mut VecDeque<i32>,
    place: &Place,
    queue: &mut VecDeque<Batch>,
) -> io::Result<ErrorCode> {
    while in_flight.len() < queue.len() {
        let batch = &queue[in_flight.len()];
        let request = produce_request(&place.0, ALL, vec![(place.1, batch.bytes.clone())]);
        in_flight.push_back(connection.send(PRODUCE, &request).await?);
    }
    let mut first_error = ErrorCode::NONE;
    let mut passed = 0;
    while let Some(id) = in_flight.pop_front() {
        let response: ProduceResponse = connection.receive(PRODUCE, id).await?;
        let answer = &response.responses[0].partition_responses[0];
        if matches!(
            answer.error_code,
            ErrorCode::NONE | ErrorCode::DUPLICATE_SEQUENCE_NUMBER
        ) {
            let batch = queue.remove(passed).expect("each request in flight has its batch");
            match answer.error_code {
                ErrorCode::NONE => work.ledger.acknowledged(place, answer.base_offset, &batch.ids),
                _ => work.ledger.acknowledged_somewhere(place, &batch.ids),
            }
            if first_error == ErrorCode::NONE {
                return Ok(ErrorCode::NONE);
            }
        } else {
            passed += 1;
            if first_error == ErrorCode::NONE {
                first_error = answer.error_code;
            }
        }
    }
    Ok(first_error)
}

/// A producer without idempotence: one request under way, to several partitions; what fails is not sent again.
pub async fn plain_producer(work: Rc<Work>, number: u32, topic: String, partitions: i32, requests: usize) {
    let who = format!("plain producer {number} to {topic}");
    let client = &work.client;
    let mut sent = 0u32;
    for request in 0..requests {
        work.doing(&who, || format!("sends request {request}"));
        let leaders = client.leaders(&topic).await;
        let Some((leader, _)) = leaders.values().next().copied() else {
            client.back_off().await;
            continue;
        };
        let mut batches = Vec::new();
        let mut ids = BTreeMap::new();
        // The oldest sets have no room for a timestamp.
        let magics = [2, 2, 2, 1, if work.undated.is_some() { 0 } else { 1 }];
        let (acks, magic) = client.world.draw(|random| {
            let acks = *random.pick(&[ALL, ALL, LEADER, NOBODY]);
            (acks, *random.pick(&magics))
        });
        for partition in 0..partitions {
            if leaders.get(&partition).map(|(leader, _)| *leader) != Some(leader) {
                continue;
            }
            let place = (topic.clone(), partition);
            let id = record_id(number, sent);
            sent += 1;
            work.ledger.sent(&place, id);
            batches.push((partition, work.record(&place, magic, id)));
            ids.insert(partition, (place, id));
        }
        let version = if magic == 2 { PRODUCE } else { PRODUCE_LEGACY };
        let request = produce_request(&topic, acks, batches);
        if let Err(error) = send_once(&work, leader, version, &request, &ids).await {
            log::debug!("{who}: {error}");
            client.back_off().await;
        }
        client.pause_ms(0, 80).await;
    }
    work.done(&who);
}

async fn send_once(
    work: &Work,
    leader: i32,
    version: i16,
    request: &ProduceRequest,
    ids: &BTreeMap<i32, (Place, RecordId)>,
) -> io::Result<()> {
    let mut connection = work.client.connect(leader).await?;
    let id = connection.send(version, request).await?;
    if request.acks == NOBODY || work.loses_patience() {
        return Ok(());
    }
    let response: ProduceResponse = connection.receive(version, id).await?;
    for answer in response.responses.iter().flat_map(|topic| &topic.partition_responses) {
        if let (ErrorCode::NONE, Some((place, id))) = (answer.error_code, ids.get(&answer.index)) {
            work.ledger.acknowledged(place, answer.base_offset, &[*id]);
        }
    }
    Ok(())
}

/// Where a consumer is in one partition.
#[derive(Debug, Clone, Copy, Default)]
pub struct Position {
    offset: i64,
    /// The newest epoch heard of: a client does not go back to an older leader.
    epoch: i32,
    leader: Option<i32>,
    refusal: Refusal,
}

impl Position {
    /// To go on from this offset.
    pub fn at(offset: i64) -> Self {
        Position {
            offset,
            ..Position::default()
        }
    }

    /// The next offset to read.
    pub fn offset(&self) -> i64 {
        self.offset
    }
}

/// A consumer of a whole topic, from the beginning to wherever it ends.
pub async fn consumer(work: Rc<Work>, number: u32, topic: String, partitions: i32) {
    let who = format!("consumer {number} of {topic}");
    let mut positions: BTreeMap<i32, Position> = (0..partitions).map(|at| (at, Position::default())).collect();
    let mut readers: BTreeMap<i32, Reader> = BTreeMap::new();
    loop {
        work.doing(&who, || format!("is at {positions:?}"));
        let left: Vec<i32> = {
            let ends = work.ends.borrow();
            let is_over = |at: &i32| match &*ends {
                // One that may be refused is read at the end, and has no end here.
                Some(ends) => {
                    let place = (topic.clone(), *at);
                    ends.get(&place).is_none_or(|end| positions[at].offset >= *end)
                        || positions[at].refusal.is_final(&work.client, &place)
                }
                None => false,
            };
            positions.keys().copied().filter(|at| !is_over(at)).collect()
        };
        if left.is_empty() {
            break;
        }
        read_some(&work, &topic, left, &mut positions, &mut readers).await;
    }
    work.done(&who);
}

/// One step of a consumer that wants all of these.
pub async fn consume_from(
    work: &Work,
    topic: &str,
    positions: &mut BTreeMap<i32, Position>,
    readers: &mut BTreeMap<i32, Reader>,
) {
    let wanted = positions.keys().copied().collect();
    read_some(work, topic, wanted, positions, readers).await;
}

/// Reads on from the leader of one of the wanted partitions, or looks for it.
async fn read_some(
    work: &Work,
    topic: &str,
    wanted: Vec<i32>,
    positions: &mut BTreeMap<i32, Position>,
    readers: &mut BTreeMap<i32, Reader>,
) {
    let client = &work.client;
    let Some(leader) = positions[&client.world.draw(|random| *random.pick(&wanted))].leader else {
        for (at, (leader, epoch)) in client.leaders(topic).await {
            if let Some(position) = positions.get_mut(&at).filter(|position| position.epoch <= epoch) {
                (position.leader, position.epoch) = (Some(leader), epoch);
            }
        }
        client.pause_ms(1, 20).await;
        return;
    };
    let asked: Vec<i32> = wanted
        .into_iter()
        .filter(|at| positions[at].leader == Some(leader))
        .collect();
    let fetched = fetch_some(work, readers, leader, topic, &asked, positions).await;
    if fetched.is_err() || work.loses_patience() {
        readers.remove(&leader);
    }
    if fetched.is_err() || client.world.draw(|random| random.permille(100)) {
        // Others of its partitions may have moved.
        positions.values_mut().for_each(|position| position.leader = None);
    }
}

async fn fetch_some(
    work: &Work,
    readers: &mut BTreeMap<i32, Reader>,
    leader: i32,
    topic: &str,
    asked: &[i32],
    positions: &mut BTreeMap<i32, Position>,
) -> io::Result<()> {
    let world = &work.client.world;
    let reader = match readers.entry(leader) {
        Entry::Occupied(open) => open.into_mut(),
        Entry::Vacant(none) => none.insert(Reader::new(world, work.client.connect(leader).await?, topic)),
    };
    let (wait, bytes) = world.draw(|random| (random.between(0, 300), random.between(1, 8_000)));
    let place = |at: &i32| (*at, (positions[at].epoch, positions[at].offset));
    let wanted = asked.iter().map(place).collect();
    let end_known = |at: &i32| (*at, work.ledger.end_known(&(topic.to_string(), *at)));
    let ends_known: BTreeMap<i32, i64> = asked.iter().map(end_known).collect();
    let answers = reader.fetch(world, &wanted, (wait as i32, bytes as i32)).await?;
    if answers.iter().all(|data| {
        data.error_code == ErrorCode::NONE && data.records.as_ref().is_none_or(|records| records.is_empty())
    }) {
        work.ledger.nothing_found(topic, &wanted, &ends_known);
    }
    for data in &answers {
        let place = (topic.to_string(), data.partition_index);
        let Some(position) = positions.get_mut(&data.partition_index) else {
            continue;
        };
        match data.error_code {
            ErrorCode::NONE => {
                let end_known = ends_known.get(&data.partition_index).copied().unwrap_or_default();
                work.ledger.end_told(&place, end_known, data.high_watermark);
            }
            ErrorCode::OFFSET_OUT_OF_RANGE
                if position.offset < work.ledger.deletable(&place) || work.ledger.is_limited(&place) =>
            {
                // Deleted meanwhile: `auto.offset.reset`.
                let start = start_offset(work, &place).await;
                position.offset = position.offset.max(start.unwrap_or_default());
                continue;
            }
            ErrorCode::OFFSET_OUT_OF_RANGE => {
                let world = &work.client.world;
                world.violate(format!(
                    "{place:?}: {position:?} is out of range, high watermark {}",
                    data.high_watermark
                ));
            }
            error => {
                position.leader = None;
                position.refusal.answered(error, world.now());
                continue;
            }
        }
        position.refusal.answered(ErrorCode::NONE, world.now());
        take_records(work, &place, data, &mut position.offset);
    }
    Ok(())
}

/// Books the records of an answer and moves the position behind them.
fn take_records(work: &Work, place: &Place, data: &PartitionData, offset: &mut i64) {
    let world = &work.client.world;
    let bytes = data.records.iter().flat_map(|records| &records.0).flatten().copied();
    let bytes: Vec<u8> = bytes.collect();
    for batch in record_batch::iter_batches(&bytes) {
        let records = batch.and_then(|(_, batch)| {
            record_batch::validate(batch)?;
            record_batch::records(batch)
        });
        let records = match records {
            Ok(records) => records,
            Err(error) => return world.violate(format!("{place:?}: bad batch after {offset}: {error}")),
        };
        for record in records {
            if record.offset < *offset {
                continue;
            }
            if record.offset != *offset || record.offset >= data.high_watermark {
                world.violate(format!(
                    "{place:?}: {} follows {offset}, high watermark {}",
                    record.offset, data.high_watermark
                ));
            }
            work.ledger.read(place, record.offset, record.value.as_deref());
            *offset = record.offset + 1;
        }
    }
}

/// Deletes records now and then, only such as are acknowledged.
pub async fn deleter(work: Rc<Work>, place: Place, deletions: usize) {
    let who = format!("deleter of {place:?}");
    let client = &work.client;
    for deletion in 0..deletions {
        work.doing(&who, || format!("makes deletion {deletion}"));
        client.pause_ms(50, 600).await;
        let end = work.ledger.end_of_acknowledged(&place);
        let before = client.world.draw(|random| random.between(0, end as u64)) as i64;
        work.ledger.deletion_asked(&place, before);
        let request = DeleteRecordsRequest {
            topics: vec![DeleteRecordsTopic {
                name: place.0.clone(),
                partitions: vec![DeleteRecordsPartition {
                    partition_index: place.1,
                    offset: before,
                }],
            }],
            timeout_ms: 10_000,
        };
        let mut connection = client.connect_to_leader(&place).await;
        // Whatever goes wrong: the next one may work.
        if let Ok(response) = connection.ask(DELETE_RECORDS, &request).await {
            let answer = &response.topics[0].partitions[0];
            if answer.error_code == ErrorCode::NONE {
                work.ledger.deletion_answered(&place, answer.low_watermark);
            }
        }
    }
    work.done(&who);
}

/// Where a partition ends now; nothing if it is refused and may be.
pub async fn end_offset(work: &Work, place: &Place) -> Option<i64> {
    let known = work.ledger.end_known(place);
    let end = list_offset(&work.client, place, LATEST).await?;
    work.ledger.end_told(place, known, end);
    Some(end)
}

/// Where a partition begins now; nothing if it is refused and may be.
async fn start_offset(work: &Work, place: &Place) -> Option<i64> {
    let known = work.ledger.start_known(place);
    let start = list_offset(&work.client, place, EARLIEST).await?;
    work.ledger.start_told(place, known, start);
    Some(start)
}

/// Asks brokers again and again where partitions begin and end and where a time is in them, whether or not they should
/// know: who answers must be right.
pub async fn end_watcher(work: Rc<Work>, places: Vec<Place>, questions: usize) {
    let client = &work.client;
    for question in 0..questions {
        work.doing("end watcher", || format!("asks question {question}"));
        let place = client.world.draw(|random| random.pick(&places).clone());
        let mut connection = client.bootstrap().await;
        let (start_known, end_known) = (work.ledger.start_known(&place), work.ledger.end_known(&place));
        let now = EPOCH_MS + client.world.now().as_millis() as i64;
        let asked = client.world.draw(|random| match random.below(4) {
            0 => EARLIEST,
            1 => now - random.below(TIMESTAMP_SPREAD_MS) as i64,
            _ => LATEST,
        });
        if let Ok(Ok(found)) = ask_offset(&mut connection, &place, asked).await {
            match asked {
                EARLIEST => work.ledger.start_told(&place, start_known, found),
                LATEST => work.ledger.end_told(&place, end_known, found),
                time => work
                    .ledger
                    .time_found(&place, end_known, time, (found >= 0).then_some(found)),
            }
        }
        client.pause_ms(1, 40).await;
    }
    work.done("end watcher");
}

async fn ask_offset(connection: &mut Connection, place: &Place, timestamp: i64) -> io::Result<Result<i64, ErrorCode>> {
    let request = ListOffsetsRequest {
        topics: vec![ListOffsetsTopic {
            name: topic_of(place).to_string(),
            partitions: vec![ListOffsetsPartition {
                partition_index: place.1,
                timestamp,
                ..ListOffsetsPartition::default()
            }],
        }],
        ..ListOffsetsRequest::default()
    };
    let response = connection.ask(LIST_OFFSETS, &request).await?;
    let answer = &response.topics[0].partitions[0];
    Ok(match answer.error_code {
        ErrorCode::NONE => Ok(answer.offset),
        error => Err(error),
    })
}

async fn list_offset(client: &Client, place: &Place, timestamp: i64) -> Option<i64> {
    let mut patience = client.patience(place);
    loop {
        let mut connection = client.connect_to_leader(place).await;
        match ask_offset(&mut connection, place, timestamp).await {
            Ok(Ok(offset)) => return Some(offset),
            Ok(Err(error)) => patience.answered(error),
            Err(_) => {}
        }
        if patience.is_over() {
            return None;
        }
        client.back_off().await;
    }
}

/// Reads a partition from its first offset to `end`, and has the book look at the whole, or at what there is before
/// something that is refused and may be.
pub async fn check_whole(work: Rc<Work>, place: Place, end: i64) {
    let who = format!("reader of all of {place:?}");
    work.doing(&who, || "asks where it begins".to_string());
    let Some(mut start) = start_offset(&work, &place).await else {
        work.refused.set(work.refused.get() + 1);
        return work.done(&who);
    };
    let mut found: Vec<RecordId> = Vec::new();
    let mut patience = work.client.patience(&place);
    let mut whole = true;
    let mut begins_anew = false;
    loop {
        if std::mem::take(&mut begins_anew) {
            match start_offset(&work, &place).await {
                Some(new) => (start, found) = (new, Vec::new()),
                None => {
                    whole = false;
                    break;
                }
            }
        }
        let next = start + found.len() as i64;
        if next >= end {
            break;
        }
        work.doing(&who, || format!("is at {next} of {end}"));
        if patience.is_over() {
            whole = false;
            break;
        }
        let mut connection = work.client.connect_to_leader(&place).await;
        let request = FetchRequest {
            max_wait_ms: 100,
            min_bytes: 1,
            max_bytes: 1 << 20,
            topics: vec![FetchTopic {
                topic: topic_of(&place).to_string(),
                partitions: vec![FetchPartition {
                    partition: place.1,
                    fetch_offset: next,
                    partition_max_bytes: 1 << 20,
                    ..FetchPartition::default()
                }],
                ..FetchTopic::default()
            }],
            ..FetchRequest::default()
        };
        let Ok(response) = connection.ask(FETCH, &request).await else {
            work.client.back_off().await;
            continue;
        };
        for data in response.responses.iter().flat_map(|topic| &topic.partitions) {
            let mut offset = next;
            let bytes: Vec<u8> = data
                .records
                .iter()
                .flat_map(|records| &records.0)
                .flatten()
                .copied()
                .collect();
            take_records(&work, &place, data, &mut offset);
            if data.error_code != ErrorCode::NONE || offset > next {
                patience.answered(data.error_code);
            }
            if data.error_code == ErrorCode::OFFSET_OUT_OF_RANGE && work.ledger.is_limited(&place) {
                // Its limits let these records go meanwhile.
                begins_anew = true;
            }
            for record in record_batch::iter_batches(&bytes)
                .filter_map(Result::ok)
                .flat_map(|(_, batch)| record_batch::records(batch).unwrap_or_default())
                .filter(|record| record.offset >= next)
                .collect::<Vec<_>>()
            {
                let id = record
                    .value
                    .as_deref()
                    .and_then(|value| value.get(..8)?.try_into().ok());
                found.push(id.map_or(0, RecordId::from_be_bytes));
            }
        }
    }
    match whole {
        true => work.ledger.whole(&place, start, &found),
        false => work.refused.set(work.refused.get() + 1),
    }
    work.done(&who);
}
