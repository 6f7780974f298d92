//! A member of a group, in either protocol.

use super::{GroupOptions, SharedFigures};
use crate::client::{BenchError, Connection};
use crate::clock::Clock;
use bytes::{BufMut, Bytes, BytesMut};
use kafscale_codec::error_code::ErrorCode;
use kafscale_codec::messages::*;
use std::net::SocketAddr;
use std::sync::PoisonError;
use std::time::Duration;

const JOIN_GROUP: i16 = 5;
const SYNC_GROUP: i16 = 3;
const HEARTBEAT: i16 = 3;
const CONSUMER_HEARTBEAT: i16 = 0;
const OFFSET_COMMIT_CLASSIC: i16 = 7;
/// The first version that knows of member epochs.
const OFFSET_COMMIT_CONSUMER: i16 = 9;
/// Of a new member.
const EPOCH_JOINING: i32 = 0;

/// How members agree on who reads what.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Protocol {
    /// JoinGroup and SyncGroup; a member assigns.
    Classic,
    /// KIP-848: the broker assigns.
    Consumer,
}

impl Protocol {
    /// As Kafka's clients call it.
    pub fn name(self) -> &'static str {
        match self {
            Protocol::Classic => "classic",
            Protocol::Consumer => "consumer",
        }
    }
}

/// A member and its connection to the coordinator.
pub struct Member {
    connection: Connection,
    clock: Clock,
    figures: SharedFigures,
    protocol: Protocol,
    group_id: String,
    topic: String,
    session_ms: i32,
    heartbeat: Duration,
    commit_every: Duration,
    /// Commits and heartbeats of all members are spread evenly over their periods.
    phase: f64,
    member_id: String,
    /// The generation or the member epoch.
    epoch: i32,
    partitions: Vec<i32>,
    /// What the next heartbeat of the consumer protocol tells of what it has.
    owned: Option<Vec<OwnedPartitions>>,
    committed: i64,
}

impl Member {
    /// One that has not joined.
    ///
    /// # Errors
    /// If nobody listens there.
    pub fn new(
        options: &GroupOptions,
        clock: Clock,
        coordinator: SocketAddr,
        group_id: &str,
        index: u32,
        figures: SharedFigures,
    ) -> Result<Self, BenchError> {
        let all = (options.groups * options.members) as f64;
        Ok(Member {
            connection: Connection::open(coordinator)?,
            clock,
            figures,
            protocol: options.protocol,
            group_id: group_id.to_string(),
            topic: options.topic.clone(),
            session_ms: options.session_ms,
            heartbeat: Duration::from_millis(options.heartbeat_ms.max(1)),
            commit_every: match options.commits {
                0 => Duration::MAX,
                commits => Duration::from_secs_f64(all / commits as f64),
            },
            phase: f64::from(index) / all,
            member_id: String::new(),
            epoch: EPOCH_JOINING,
            partitions: Vec::new(),
            owned: None,
            committed: 0,
        })
    }

    /// Joins, and lives until the clock is over.
    ///
    /// # Errors
    /// If the connection fails, or the group cannot be joined.
    pub fn run(mut self) -> Result<(), BenchError> {
        self.join()?;
        let started = self.clock.now_ns();
        let later = |every: Duration, phase: f64| started + (every.as_nanos() as f64 * phase) as u64;
        let mut heartbeat_due = later(self.heartbeat, self.phase);
        let mut commit_due = match self.commit_every {
            Duration::MAX => u64::MAX,
            every => later(every, self.phase),
        };
        let mut is_settled = None;
        while !self.clock.is_over() {
            let due = heartbeat_due.min(commit_due);
            std::thread::sleep(Duration::from_nanos(due.saturating_sub(self.clock.now_ns())));
            if is_settled.is_none() && self.clock.counts(self.clock.now_ns()) {
                is_settled = Some(!self.partitions.is_empty());
            }
            if due == heartbeat_due {
                let error = self.give_sign_of_life()?;
                self.count("heartbeats", due, error);
                heartbeat_due += self.heartbeat.as_nanos() as u64;
                if error != ErrorCode::NONE {
                    self.join()?;
                }
            } else {
                if !self.partitions.is_empty() {
                    let error = self.commit()?;
                    self.count("commits", due, error);
                }
                commit_due += self.commit_every.as_nanos() as u64;
            }
        }
        let mut figures = self.figures.lock().unwrap_or_else(PoisonError::into_inner);
        figures.settled += usize::from(is_settled.unwrap_or(false));
        Ok(())
    }

    fn count(&self, what: &'static str, due_ns: u64, error: ErrorCode) {
        let now = self.clock.now_ns();
        if !self.clock.counts(due_ns) {
            return;
        }
        let mut figures = self.figures.lock().unwrap_or_else(PoisonError::into_inner);
        let histogram = match what {
            "commits" => &mut figures.commits,
            _ => &mut figures.heartbeats,
        };
        histogram.saturating_record(now - due_ns);
        if error != ErrorCode::NONE {
            *figures.refused.entry((what, error.0)).or_default() += 1;
        }
    }

    fn refused(&self, what: &str, error: ErrorCode) -> BenchError {
        BenchError::Refused(format!("{what} of a member of {}", self.group_id), error)
    }

    fn join(&mut self) -> Result<(), BenchError> {
        match self.protocol {
            Protocol::Classic => self.join_classic(),
            Protocol::Consumer => {
                self.epoch = EPOCH_JOINING;
                match self.give_sign_of_life()? {
                    ErrorCode::NONE => Ok(()),
                    error => Err(self.refused("join", error)),
                }
            }
        }
    }

    /// Joins until a generation holds that nobody else has ended meanwhile.
    fn join_classic(&mut self) -> Result<(), BenchError> {
        self.partitions.clear();
        loop {
            let request = JoinGroupRequest {
                group_id: self.group_id.clone(),
                session_timeout_ms: self.session_ms,
                rebalance_timeout_ms: self.session_ms,
                member_id: self.member_id.clone(),
                protocol_type: "consumer".to_string(),
                protocols: vec![JoinGroupRequestProtocol {
                    name: "range".to_string(),
                    metadata: self.subscription(),
                }],
                ..JoinGroupRequest::default()
            };
            let joined = self.connection.ask(JOIN_GROUP, &request)?;
            match joined.error_code {
                ErrorCode::NONE => {}
                ErrorCode::MEMBER_ID_REQUIRED => {
                    self.member_id = joined.member_id;
                    continue;
                }
                ErrorCode::UNKNOWN_MEMBER_ID => {
                    self.member_id.clear();
                    continue;
                }
                error => return Err(self.refused("join", error)),
            }
            self.epoch = joined.generation_id;
            let request = SyncGroupRequest {
                group_id: self.group_id.clone(),
                generation_id: joined.generation_id,
                member_id: joined.member_id.clone(),
                // The leader gets the list of members, and nobody else does.
                assignments: (joined.members.iter().enumerate())
                    .map(|(number, member)| SyncGroupRequestAssignment {
                        member_id: member.member_id.clone(),
                        assignment: self.assignment(number as i32),
                    })
                    .collect(),
                ..SyncGroupRequest::default()
            };
            self.member_id = joined.member_id;
            let synced = self.connection.ask(SYNC_GROUP, &request)?;
            match synced.error_code {
                ErrorCode::NONE => {
                    self.partitions = assigned(&synced.assignment).into_iter().collect();
                    return Ok(());
                }
                ErrorCode::REBALANCE_IN_PROGRESS | ErrorCode::ILLEGAL_GENERATION => {}
                error => return Err(self.refused("sync", error)),
            }
        }
    }

    fn give_sign_of_life(&mut self) -> Result<ErrorCode, BenchError> {
        match self.protocol {
            Protocol::Classic => {
                let request = HeartbeatRequest {
                    group_id: self.group_id.clone(),
                    generation_id: self.epoch,
                    member_id: self.member_id.clone(),
                    ..HeartbeatRequest::default()
                };
                Ok(self.connection.ask(HEARTBEAT, &request)?.error_code)
            }
            Protocol::Consumer => self.heartbeat_of_consumer(),
        }
    }

    fn heartbeat_of_consumer(&mut self) -> Result<ErrorCode, BenchError> {
        let mut request = ConsumerGroupHeartbeatRequest {
            group_id: self.group_id.clone(),
            member_id: self.member_id.clone(),
            member_epoch: self.epoch,
            topic_partitions: self.owned.take(),
            ..ConsumerGroupHeartbeatRequest::default()
        };
        if self.epoch == EPOCH_JOINING {
            request.rebalance_timeout_ms = self.session_ms;
            request.subscribed_topic_names = Some(vec![self.topic.clone()]);
            request.topic_partitions = Some(Vec::new());
        }
        let answer = self.connection.ask(CONSUMER_HEARTBEAT, &request)?;
        if answer.error_code == ErrorCode::NONE {
            self.member_id = answer.member_id.unwrap_or_default();
            self.epoch = answer.member_epoch;
            self.heartbeat = Duration::from_millis(answer.heartbeat_interval_ms.max(1) as u64);
            if let Some(assignment) = answer.assignment {
                let topics = &assignment.topic_partitions;
                self.partitions = topics.iter().flat_map(|topic| topic.partitions.clone()).collect();
                self.owned = Some(assignment.topic_partitions);
            }
        }
        Ok(answer.error_code)
    }

    /// Commits one offset; in turn for each partition that it has.
    fn commit(&mut self) -> Result<ErrorCode, BenchError> {
        self.committed += 1;
        let request = OffsetCommitRequest {
            group_id: self.group_id.clone(),
            generation_id_or_member_epoch: self.epoch,
            member_id: self.member_id.clone(),
            topics: vec![OffsetCommitRequestTopic {
                name: self.topic.clone(),
                partitions: vec![OffsetCommitRequestPartition {
                    partition_index: self.partitions[self.committed as usize % self.partitions.len()],
                    committed_offset: self.committed,
                    ..OffsetCommitRequestPartition::default()
                }],
            }],
            ..OffsetCommitRequest::default()
        };
        let version = match self.protocol {
            Protocol::Classic => OFFSET_COMMIT_CLASSIC,
            Protocol::Consumer => OFFSET_COMMIT_CONSUMER,
        };
        let answer = self.connection.ask(version, &request)?;
        let partition = answer.topics.first().and_then(|topic| topic.partitions.first());
        Ok(partition.map_or(ErrorCode::UNKNOWN_SERVER_ERROR, |partition| partition.error_code))
    }

    /// ConsumerProtocolSubscription version 0 (Kafka's `ConsumerProtocolSubscription.json`).
    fn subscription(&self) -> Bytes {
        let mut out = self.version_and_topic();
        out.put_i32(-1); // No user data.
        out.freeze()
    }

    /// ConsumerProtocolAssignment version 0 of one partition.
    fn assignment(&self, partition: i32) -> Bytes {
        let mut out = self.version_and_topic();
        out.put_i32(1);
        out.put_i32(partition);
        out.put_i32(-1); // No user data.
        out.freeze()
    }

    fn version_and_topic(&self) -> BytesMut {
        let mut out = BytesMut::new();
        out.put_i16(0);
        out.put_i32(1);
        out.put_i16(self.topic.len() as i16);
        out.put_slice(self.topic.as_bytes());
        out
    }
}

/// The partition of an assignment that [`Member::assignment`] made; none of an empty one.
fn assigned(assignment: &[u8]) -> Option<i32> {
    let (_, end) = assignment.split_last_chunk::<8>().map(|(rest, end)| (rest, *end))?;
    Some(i32::from_be_bytes([end[0], end[1], end[2], end[3]]))
}
