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
use std::collections::HashMap;
use std::rc::Rc;

/// Partitions in the sessions of all connections of a shard. Beyond it fetches go on without sessions.
const PARTITIONS_MAX: i64 = 500_000;

/// Session id of a fetch that belongs to none.
const NO_SESSION: i32 = 0;

/// Epoch of a fetch that begins a session.
const INITIAL_EPOCH: i32 = 0;

/// Epoch of a fetch that ends the session, or wants none.
const FINAL_EPOCH: i32 = -1;

/// The first version that names topics by id (KIP-516).
const TOPIC_IDS_SINCE: i16 = 13;

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
        if let INITIAL_EPOCH | FINAL_EPOCH = request.session_epoch {
            if request.session_id == self.id.get() {
                self.end();
            }
            let mut reading = Box::new(Reading::alone(topics, by_id));
            let wants_session = request.session_epoch == INITIAL_EPOCH && !reading.partitions.is_empty();
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
        if let Err(error) = reading.go_on(topics, &forgotten, by_id) {
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
    fn alone(topics: Vec<FetchTopic>, by_id: bool) -> Self {
        let mut reading = Reading::default();
        for mut topic in topics {
            let at = reading.topics.len() as u32;
            for wanted in &topic.partitions {
                reading.partitions.push(partition(at, wanted));
            }
            reading.topics.push(name_of(&mut topic.topic, topic.topic_id, by_id));
        }
        reading
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
    fn go_on(&mut self, topics: Vec<FetchTopic>, forgotten: &[ForgottenTopic], by_id: bool) -> Result<(), ErrorCode> {
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
                let new = partition(at, wanted);
                match session.partitions.get(&(at, new.index)) {
                    Some(known) => {
                        let known = &mut self.partitions[*known];
                        known.offset = new.offset;
                        known.bytes_max = new.bytes_max;
                        known.leader_epoch = new.leader_epoch;
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
        let Some(session) = &mut self.session else { return };
        session.topics.clear();
        session.partitions.clear();
        let named = std::mem::take(&mut self.topics);
        let mut partitions: Vec<Partition> = Vec::with_capacity(self.partitions.len());
        for mut partition in self.partitions.drain(..) {
            let name = &named[partition.topic as usize];
            partition.topic = match session.topics.get(name) {
                Some(at) => *at,
                None => {
                    self.topics.push(name.clone());
                    session.topics.insert(name.clone(), self.topics.len() as u32 - 1);
                    self.topics.len() as u32 - 1
                }
            };
            match session.partitions.get(&(partition.topic, partition.index)) {
                Some(known) => partitions[*known] = partition,
                None => {
                    session
                        .partitions
                        .insert((partition.topic, partition.index), partitions.len());
                    partitions.push(partition);
                }
            }
        }
        session.share.resize(partitions.len());
        self.partitions = partitions;
    }
}

fn partition(topic: u32, wanted: &kafscale_codec::messages::FetchPartition) -> Partition {
    Partition {
        topic,
        index: wanted.partition,
        offset: wanted.fetch_offset,
        bytes_max: wanted.partition_max_bytes.max(0) as usize,
        leader_epoch: wanted.current_leader_epoch,
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
