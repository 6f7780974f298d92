//! What a fetch reads, and fetch sessions (KIP-227): a consumer of many partitions says once which they are, then only
//! what has changed, and hears only of those that have something new.
//!
//! A session belongs to the connection that began it, as every client uses one connection for its fetches; so it needs
//! neither a cache that is shared between cores nor a rule whom to evict. On another connection its id is unknown, and
//! the client begins anew, as the protocol provides for.

use super::plan::Plan;
use crate::metrics::Metrics;
use kafscale_codec::error_code::ErrorCode;
use kafscale_codec::messages::{FetchRequest, FetchTopic, ForgottenTopic};
use kafscale_codec::types::TopicId;
use std::cell::{Cell, RefCell};
use std::collections::{HashMap, HashSet};
use std::rc::Rc;

/// Partitions in the sessions of all connections of a shard. Beyond it fetches go on without sessions.
const PARTITIONS_MAX: i64 = 500_000;

/// Session id of a fetch that belongs to none.
const NO_SESSION: i32 = 0;

/// Epoch of a fetch that begins a session.
const INITIAL_EPOCH: i32 = 0;

/// Epoch of a fetch that ends the session, or wants none.
const FINAL_EPOCH: i32 = -1;

/// The first version in which a follower says who it is in a structure of its own (KIP-903).
const REPLICA_STATES_SINCE: i16 = 15;

/// The first version that names topics by id (KIP-516).
pub(super) const TOPIC_IDS_SINCE: i16 = 13;

/// What one request asks for.
struct Asked {
    topics: Vec<FetchTopic>,
    by_id: bool,
    by_follower: bool,
    wants_less_than_nothing: bool,
}

/// A topic as the client names it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) enum TopicName {
    Name(String),
    Id(TopicId),
}

/// What the client was last told of a partition, −1 if nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Told {
    pub high_watermark: i64,
    pub log_start_offset: i64,
}

/// Nothing yet, or an error: the next answer has the partition in it whatever has changed.
pub(super) const TOLD_NOTHING: Told = Told {
    high_watermark: -1,
    log_start_offset: -1,
};

/// One partition, and where its reader is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Partition {
    /// Position in [`Reading::topics`].
    pub topic: u32,
    pub index: i32,
    /// First offset wanted.
    pub offset: i64,
    /// About how many bytes.
    pub bytes_max: usize,
    /// The epoch that the client believes in, −1 if it does not say.
    pub leader_epoch: i32,
    /// The epoch of the last record that a follower has, −1 if it does not say.
    pub last_fetched_epoch: i32,
    /// Asked for by a broker that would follow this one.
    pub by_follower: bool,
    /// A negative number of bytes is wanted.
    pub wants_less_than_nothing: bool,
    pub told: Told,
}

/// What one fetch reads; in a session, what the next ones read as well.
#[derive(Debug, Default)]
pub(super) struct Reading {
    pub topics: Vec<TopicName>,
    pub partitions: Vec<Partition>,
    /// Position of the partition that is served first. In a session the broker sees to it that each has its turn;
    /// otherwise the client does, by the order that it asks in.
    pub first: usize,
    /// The answer leaves out what has not changed.
    pub only_changes: bool,
    /// Where the partitions are, once that is found out.
    pub plan: Option<Plan>,
    session: Option<Session>,
}

#[derive(Debug)]
struct Session {
    id: i32,
    /// Of the next request.
    epoch: i32,
    by_id: bool,
    topics: HashMap<TopicName, u32>,
    /// Positions in [`Reading::partitions`], by topic and index.
    partitions: HashMap<(u32, i32), usize>,
    share: Share,
}

/// A session's part of what all sessions of a shard may hold.
#[derive(Debug)]
struct Share {
    limit: Rc<SessionLimit>,
    partitions: i64,
}

impl Drop for Share {
    fn drop(&mut self) {
        self.limit.metrics.fetch_sessions.add(-1);
        self.resize(0);
    }
}

impl Share {
    fn resize(&mut self, partitions: usize) {
        let partitions = partitions as i64;
        self.limit
            .metrics
            .fetch_session_partitions
            .add(partitions - self.partitions);
        self.partitions = partitions;
    }
}

/// Counts the sessions of a shard.
#[derive(Debug)]
pub(crate) struct SessionLimit {
    metrics: Rc<Metrics>,
    last_id: Cell<i32>,
}

impl SessionLimit {
    pub fn new(metrics: Rc<Metrics>) -> Rc<Self> {
        Rc::new(SessionLimit {
            metrics,
            last_id: Cell::new(NO_SESSION),
        })
    }

    fn next_id(&self) -> i32 {
        let id = self.last_id.get().checked_add(1).unwrap_or(NO_SESSION + 1);
        self.last_id.set(id);
        id
    }

    fn has_room_for(&self, more: usize) -> bool {
        self.metrics.fetch_session_partitions.get() + more as i64 <= PARTITIONS_MAX
    }

    /// Sessions, and the partitions in them.
    #[cfg(test)]
    pub fn counts(&self) -> (i64, i64) {
        let metrics = &self.metrics;
        (metrics.fetch_sessions.get(), metrics.fetch_session_partitions.get())
    }

    fn share(self: &Rc<Self>) -> Share {
        self.metrics.fetch_sessions.add(1);
        Share {
            limit: self.clone(),
            partitions: 0,
        }
    }
}

/// The session of one connection, between its requests.
#[derive(Debug, Default)]
pub(crate) struct ConnectionSession {
    /// The session that this connection has, be it here or with a request under way.
    id: Cell<i32>,
    kept: RefCell<Option<Box<Reading>>>,
}

impl ConnectionSession {
    /// What a request reads. Takes the topics out of it.
    ///
    /// # Errors
    /// [`ErrorCode::FETCH_SESSION_ID_NOT_FOUND`], [`ErrorCode::INVALID_FETCH_SESSION_EPOCH`] or
    /// [`ErrorCode::FETCH_SESSION_TOPIC_ID_ERROR`], after which clients begin a new session.
    pub(super) fn open(
        &self,
        limit: &Rc<SessionLimit>,
        request: &mut FetchRequest,
        version: i16,
    ) -> Result<Box<Reading>, ErrorCode> {
        let by_id = version >= TOPIC_IDS_SINCE;
        let topics = std::mem::take(&mut request.topics);
        let replica_id = match version {
            REPLICA_STATES_SINCE.. => request.replica_state.replica_id,
            _ => request.replica_id,
        };
        let asked = Asked {
            topics,
            by_id,
            by_follower: replica_id >= 0,
            wants_less_than_nothing: request.max_bytes < 0,
        };
        if let INITIAL_EPOCH | FINAL_EPOCH = request.session_epoch {
            if request.session_id == self.id.get() {
                self.end();
            }
            let mut reading = Box::new(Reading::alone(asked));
            let wants_session = request.session_epoch == INITIAL_EPOCH;
            if wants_session && limit.has_room_for(reading.partitions.len()) {
                self.end();
                self.id.set(reading.begin_session(limit, by_id));
            }
            return Ok(reading);
        }
        if request.session_id == NO_SESSION || request.session_id != self.id.get() {
            return Err(ErrorCode::FETCH_SESSION_ID_NOT_FOUND);
        }
        let mut kept = self.kept.borrow_mut();
        // None is here while the request before is under way; no client asks again before it is answered.
        let session = kept.as_ref().and_then(|reading| reading.session.as_ref());
        let session = session.ok_or(ErrorCode::FETCH_SESSION_ID_NOT_FOUND)?;
        if session.epoch != request.session_epoch {
            return Err(ErrorCode::INVALID_FETCH_SESSION_EPOCH);
        }
        if session.by_id != by_id {
            return Err(ErrorCode::FETCH_SESSION_TOPIC_ID_ERROR);
        }
        let mut reading = kept.take().ok_or(ErrorCode::FETCH_SESSION_ID_NOT_FOUND)?;
        let forgotten = std::mem::take(&mut request.forgotten_topics_data);
        if let Err(error) = reading.go_on(asked, &forgotten) {
            self.id.set(NO_SESSION);
            return Err(error);
        }
        if reading.session.is_none() {
            self.id.set(NO_SESSION);
        }
        Ok(reading)
    }

    /// Keeps the session for the next request, unless it is over.
    pub(super) fn keep(&self, reading: Box<Reading>) {
        if reading.session_id() != NO_SESSION && reading.session_id() == self.id.get() {
            *self.kept.borrow_mut() = Some(reading);
        }
    }

    fn end(&self) {
        self.id.set(NO_SESSION);
        self.kept.borrow_mut().take();
    }
}

impl Reading {
    fn alone(asked: Asked) -> Self {
        let mut reading = Reading::default();
        for mut topic in asked.topics {
            let at = reading.topics.len() as u32;
            for wanted in &topic.partitions {
                reading.partitions.push(partition(
                    at,
                    wanted,
                    (asked.by_follower, asked.wants_less_than_nothing),
                ));
            }
            reading
                .topics
                .push(name_of(&mut topic.topic, topic.topic_id, asked.by_id));
        }
        if reading.has_repetitions() {
            reading.merge_repetitions();
        }
        reading
    }

    /// Whether a topic, or a partition of one, is named twice. Clients name them in order, or few of them.
    fn has_repetitions(&self) -> bool {
        let rises = |pair: &[Partition]| (pair[0].topic, pair[0].index) < (pair[1].topic, pair[1].index);
        let mut partitions = HashSet::new();
        let mut topics = HashSet::new();
        self.topics.len() > 1 && !self.topics.iter().all(|topic| topics.insert(topic))
            || !self.partitions.windows(2).all(rises)
                && !self
                    .partitions
                    .iter()
                    .all(|partition| partitions.insert((partition.topic, partition.index)))
    }

    /// Of partitions named twice the last counts, as in Kafka.
    fn merge_repetitions(&mut self) {
        let (mut topics, mut partitions) = (HashMap::new(), HashMap::new());
        self.merge(&mut topics, &mut partitions);
    }

    /// The session that the client is told, 0 for none.
    pub fn session_id(&self) -> i32 {
        self.session.as_ref().map_or(NO_SESSION, |session| session.id)
    }

    /// As after so many requests.
    #[cfg(test)]
    pub fn set_epoch(&mut self, epoch: i32) {
        self.session.as_mut().unwrap().epoch = epoch;
    }

    /// Positions of the partitions in the order in which they are served.
    pub fn order(&self) -> impl Iterator<Item = usize> + use<> {
        (self.first..self.partitions.len()).chain(0..self.first)
    }

    fn begin_session(&mut self, limit: &Rc<SessionLimit>, by_id: bool) -> i32 {
        let id = limit.next_id();
        self.session = Some(Session {
            id,
            epoch: INITIAL_EPOCH + 1,
            by_id,
            topics: HashMap::new(),
            partitions: HashMap::new(),
            share: limit.share(),
        });
        self.index();
        id
    }

    /// Applies what the client says has changed.
    fn go_on(&mut self, asked: Asked, forgotten: &[ForgottenTopic]) -> Result<(), ErrorCode> {
        let Asked {
            topics,
            by_id,
            by_follower,
            wants_less_than_nothing,
        } = asked;
        let Some(session) = &mut self.session else {
            return Err(ErrorCode::FETCH_SESSION_ID_NOT_FOUND);
        };
        session.epoch = session.epoch.checked_add(1).unwrap_or(INITIAL_EPOCH + 1);
        self.only_changes = true;
        for mut topic in topics {
            let name = name_of(&mut topic.topic, topic.topic_id, by_id);
            let at = *session.topics.entry(name).or_insert_with_key(|name| {
                self.topics.push(name.clone());
                self.topics.len() as u32 - 1
            });
            for wanted in &topic.partitions {
                let new = partition(at, wanted, (by_follower, wants_less_than_nothing));
                match session.partitions.get(&(at, new.index)) {
                    Some(known) => {
                        let known = &mut self.partitions[*known];
                        known.offset = new.offset;
                        known.bytes_max = new.bytes_max;
                        known.leader_epoch = new.leader_epoch;
                        known.wants_less_than_nothing = new.wants_less_than_nothing;
                        let of_new = (new.by_follower, new.last_fetched_epoch);
                        if (known.by_follower, known.last_fetched_epoch) != of_new {
                            (known.by_follower, known.last_fetched_epoch) = of_new;
                            self.plan = None;
                        }
                    }
                    None => {
                        session.partitions.insert((at, new.index), self.partitions.len());
                        self.partitions.push(new);
                        self.plan = None;
                    }
                }
            }
        }
        let more = self.partitions.len() as i64 - session.share.partitions;
        if more > 0 && !session.share.limit.has_room_for(more as usize) {
            return Err(ErrorCode::FETCH_SESSION_ID_NOT_FOUND);
        }
        session.share.resize(self.partitions.len());
        self.forget(forgotten, by_id);
        Ok(())
    }

    fn forget(&mut self, forgotten: &[ForgottenTopic], by_id: bool) {
        let Some(session) = &self.session else { return };
        let mut gone = vec![];
        for topic in forgotten {
            let name = name_of(&mut topic.topic.clone(), topic.topic_id, by_id);
            let at = session.topics.get(&name);
            let known = |index: &i32| at.and_then(|at| session.partitions.get(&(*at, *index)).copied());
            gone.extend(topic.partitions.iter().filter_map(known));
        }
        if gone.is_empty() {
            return;
        }
        gone.sort_unstable();
        let mut at = 0;
        self.partitions.retain(|_| {
            at += 1;
            gone.binary_search(&(at - 1)).is_err()
        });
        self.first = 0;
        self.plan = None;
        self.index();
        if self.partitions.is_empty() {
            self.session = None;
        }
    }

    /// Builds the session's indexes anew, without topics that have no partitions. Of partitions named twice the last
    /// counts, as in Kafka.
    fn index(&mut self) {
        let Some(mut session) = self.session.take() else { return };
        session.topics.clear();
        session.partitions.clear();
        self.merge(&mut session.topics, &mut session.partitions);
        session.share.resize(self.partitions.len());
        self.session = Some(session);
    }

    /// Fills both indexes, and drops what they do not need.
    fn merge(&mut self, topics: &mut HashMap<TopicName, u32>, places: &mut HashMap<(u32, i32), usize>) {
        let named = std::mem::take(&mut self.topics);
        let mut partitions: Vec<Partition> = Vec::with_capacity(self.partitions.len());
        for mut partition in self.partitions.drain(..) {
            let name = &named[partition.topic as usize];
            partition.topic = match topics.get(name) {
                Some(at) => *at,
                None => {
                    self.topics.push(name.clone());
                    topics.insert(name.clone(), self.topics.len() as u32 - 1);
                    self.topics.len() as u32 - 1
                }
            };
            match places.get(&(partition.topic, partition.index)) {
                Some(known) => partitions[*known] = partition,
                None => {
                    places.insert((partition.topic, partition.index), partitions.len());
                    partitions.push(partition);
                }
            }
        }
        self.partitions = partitions;
    }
}

fn partition(
    topic: u32,
    wanted: &kafscale_codec::messages::FetchPartition,
    (by_follower, wants_less_than_nothing): (bool, bool),
) -> Partition {
    Partition {
        topic,
        index: wanted.partition,
        offset: wanted.fetch_offset,
        bytes_max: wanted.partition_max_bytes.max(0) as usize,
        leader_epoch: wanted.current_leader_epoch,
        last_fetched_epoch: wanted.last_fetched_epoch,
        by_follower,
        wants_less_than_nothing: wants_less_than_nothing || wanted.partition_max_bytes < 0,
        told: TOLD_NOTHING,
    }
}

fn name_of(name: &mut String, id: TopicId, by_id: bool) -> TopicName {
    if by_id {
        TopicName::Id(id)
    } else {
        TopicName::Name(std::mem::take(name))
    }
}
