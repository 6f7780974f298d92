//! Members of consumer groups, of both protocols, that read and commit, die without a word, leave, and come again.
//!
//! Whoever is given a partition starts at its committed offset. That must be at least every commit that was acknowledged
//! before it asked, and at most what somebody tried to commit: so no commit is lost, taken back or invented, whoever
//! coordinates. A member that does not know what became of a commit is done with its membership: its old commit, should it
//! still be on its way, belongs to a member that is gone once somebody else has the partition.

use crate::client::Client;
use crate::ledger::Place;
use crate::routing::Router;
use crate::support::Random;
use crate::workload::{fetch, Shared, BACK_OFF, IDEMPOTENT};
use bytes::Bytes;
use kafscale_codec::error_code::ErrorCode;
use kafscale_codec::messages::*;
use std::collections::BTreeMap;
use std::io;
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::Mutex;
use std::time::{Duration, Instant};

/// Without a word for this long a member is out.
pub const SESSION_MS: i32 = 6_000;

/// How often a member gives a sign of life.
const HEARTBEAT: Duration = Duration::from_millis(500);

/// How long a fetch waits for records.
const FETCH_WAIT_MS: i32 = 20;

/// What is known of a group's commits.
#[derive(Debug, Default)]
pub struct Group {
    name: &'static str,
    assigned_by_broker: bool,
    commits: Mutex<BTreeMap<i32, Commits>>,
    /// Commits that were acknowledged.
    pub count: AtomicI64,
    /// How often a member was given a partition.
    pub given: AtomicI64,
}

#[derive(Debug, Default, Clone, Copy)]
struct Commits {
    acknowledged: i64,
    tried: i64,
}

impl Group {
    /// A group that nobody is in. `assigned_by_broker`: its members use the protocol of KIP-848.
    pub fn new(name: &'static str, assigned_by_broker: bool) -> Group {
        Group {
            name,
            assigned_by_broker,
            ..Group::default()
        }
    }

    /// The partitions whose records are not all read and committed: `(partition, committed, end)`.
    pub fn behind(&self, shared: &Shared) -> Vec<(i32, i64, i64)> {
        let commits = self.commits.lock().unwrap();
        (0..crate::PARTITIONS)
            .map(|partition| {
                let committed = commits.get(&partition).copied().unwrap_or_default().acknowledged;
                (partition, committed, shared.ledger.next_acked((IDEMPOTENT, partition)))
            })
            .filter(|(_, committed, end)| committed < end)
            .collect()
    }

    fn known(&self, partition: i32) -> Commits {
        self.commits
            .lock()
            .unwrap()
            .get(&partition)
            .copied()
            .unwrap_or_default()
    }

    fn note(&self, partition: i32, note: impl FnOnce(&mut Commits)) {
        note(self.commits.lock().unwrap().entry(partition).or_default());
    }
}

/// How a membership ends early.
enum Trouble {
    /// The connection, or the coordinator: another may know the member.
    Connection,
    /// The group does not know the member, or not like this: it joins again.
    Membership,
}

impl From<io::Error> for Trouble {
    fn from(_: io::Error) -> Trouble {
        Trouble::Connection
    }
}

impl From<ErrorCode> for Trouble {
    fn from(error: ErrorCode) -> Trouble {
        match error {
            ErrorCode::UNKNOWN_MEMBER_ID
            | ErrorCode::FENCED_MEMBER_EPOCH
            | ErrorCode::STALE_MEMBER_EPOCH
            | ErrorCode::UNRELEASED_INSTANCE_ID
            | ErrorCode::ILLEGAL_GENERATION => Trouble::Membership,
            _ => Trouble::Connection,
        }
    }
}

/// One that lives, dies and comes again, until the others are to end.
pub fn take_part(shared: &Shared, group: &Group, who: u64) {
    let mut random = Random::new(shared.seed ^ who << 24);
    while !shared.others_stop.load(Ordering::Relaxed) {
        let until = Instant::now() + Duration::from_millis(2_000 + random.below(20_000));
        let mut member = Member::new(shared, group, who);
        member.live(until);
        // Once all is well, nobody dies any more.
        match shared.producers_stop.load(Ordering::Relaxed) {
            false if random.below(2) == 0 => drop(member),
            _ => member.leave(),
        }
    }
}

struct Held {
    position: i64,
    committed: i64,
    leader: Option<Client>,
}

struct Member<'a> {
    shared: &'a Shared,
    group: &'a Group,
    router: Router,
    coordinator: Option<Client>,
    id: String,
    /// The generation or the member epoch; 0: not in the group.
    epoch: i32,
    held: BTreeMap<i32, Held>,
    /// What the next heartbeat tells of what the member has (KIP-848).
    owned: Option<Vec<OwnedPartitions>>,
    /// What the broker gave it (KIP-848).
    assigned: Vec<OwnedPartitions>,
    heartbeat_due: Instant,
    /// What became of a commit is not known.
    is_in_doubt: bool,
}

impl<'a> Member<'a> {
    fn new(shared: &'a Shared, group: &'a Group, who: u64) -> Member<'a> {
        Member {
            shared,
            group,
            router: shared.router(who),
            coordinator: None,
            id: String::new(),
            epoch: 0,
            held: BTreeMap::new(),
            owned: None,
            assigned: Vec::new(),
            heartbeat_due: Instant::now(),
            is_in_doubt: false,
        }
    }

    /// Joins, reads and commits, until the time has come or a commit is in doubt.
    fn live(&mut self, until: Instant) {
        while !self.is_in_doubt
            && !self.shared.others_stop.load(Ordering::Relaxed)
            && (Instant::now() < until || self.shared.producers_stop.load(Ordering::Relaxed))
        {
            match self.step() {
                Ok(()) => {}
                Err(Trouble::Membership) => {
                    self.held.clear();
                    self.assigned.clear();
                    self.id.clear();
                    self.epoch = 0;
                }
                Err(Trouble::Connection) => {
                    self.coordinator = None;
                    // What was told last may not have arrived.
                    self.owned = Some(self.assigned.clone());
                    std::thread::sleep(BACK_OFF);
                }
            }
        }
    }

    fn step(&mut self) -> Result<(), Trouble> {
        if self.epoch == 0 || Instant::now() >= self.heartbeat_due {
            match self.group.assigned_by_broker {
                true => self.heartbeat_of_consumer()?,
                false => self.heartbeat()?,
            }
            self.heartbeat_due = Instant::now() + HEARTBEAT;
        }
        if self.held.is_empty() {
            std::thread::sleep(BACK_OFF);
        }
        let partitions: Vec<i32> = self.held.keys().copied().collect();
        for partition in partitions {
            self.read(partition);
        }
        self.commit()
    }

    fn ask<M: Request>(&mut self, version: i16, request: &M) -> io::Result<M::Response> {
        let coordinator = match &mut self.coordinator {
            Some(coordinator) => coordinator,
            none => none.insert(self.router.coordinator(self.group.name)?),
        };
        coordinator.ask(version, request)
    }

    /// Reads once. A partition whose leader does not answer is looked for again the next time.
    fn read(&mut self, partition: i32) {
        let place: Place = (IDEMPOTENT, partition);
        let held = self.held.get_mut(&partition).expect("it is held");
        if held.leader.is_none() {
            held.leader = self.router.leader(place.0, place.1).ok();
        }
        let Some(leader) = &mut held.leader else { return };
        if fetch(self.shared, leader, place, &mut held.position, FETCH_WAIT_MS).is_err() {
            held.leader = None;
        }
    }

    fn heartbeat(&mut self) -> Result<(), Trouble> {
        if self.epoch > 0 {
            let request = HeartbeatRequest {
                group_id: self.group.name.to_string(),
                generation_id: self.epoch,
                member_id: self.id.clone(),
                ..HeartbeatRequest::default()
            };
            match self.ask(3, &request)?.error_code {
                ErrorCode::NONE => return Ok(()),
                ErrorCode::REBALANCE_IN_PROGRESS => {}
                error => return Err(error.into()),
            }
        }
        self.held.clear();
        self.join()
    }

    fn join(&mut self) -> Result<(), Trouble> {
        let request = JoinGroupRequest {
            group_id: self.group.name.to_string(),
            session_timeout_ms: SESSION_MS,
            rebalance_timeout_ms: SESSION_MS,
            member_id: self.id.clone(),
            protocol_type: "consumer".to_string(),
            protocols: vec![JoinGroupRequestProtocol {
                name: "by number".to_string(),
                metadata: Bytes::new(),
            }],
            ..JoinGroupRequest::default()
        };
        let joined = self.ask(5, &request)?;
        if joined.error_code == ErrorCode::MEMBER_ID_REQUIRED {
            self.id = joined.member_id;
            return Ok(());
        }
        if joined.error_code != ErrorCode::NONE {
            return Err(joined.error_code.into());
        }
        let members = joined.members.len() as i32;
        let assignments = (0..).zip(&joined.members).map(|(number, member)| {
            let partitions = (0..crate::PARTITIONS).filter(|partition| partition % members == number);
            SyncGroupRequestAssignment {
                member_id: member.member_id.clone(),
                assignment: partitions.map(|partition| partition as u8).collect(),
            }
        });
        let request = SyncGroupRequest {
            group_id: self.group.name.to_string(),
            generation_id: joined.generation_id,
            member_id: joined.member_id.clone(),
            assignments: assignments.collect(),
            ..SyncGroupRequest::default()
        };
        self.id = joined.member_id;
        let synced = self.ask(3, &request)?;
        match synced.error_code {
            ErrorCode::NONE => {
                self.epoch = joined.generation_id;
                let partitions: Vec<i32> = synced.assignment.iter().map(|byte| i32::from(*byte)).collect();
                self.take(&partitions)
            }
            // Somebody else has joined meanwhile.
            ErrorCode::REBALANCE_IN_PROGRESS => Ok(()),
            error => Err(error.into()),
        }
    }

    fn heartbeat_of_consumer(&mut self) -> Result<(), Trouble> {
        let mut request = ConsumerGroupHeartbeatRequest {
            group_id: self.group.name.to_string(),
            member_id: self.id.clone(),
            member_epoch: self.epoch,
            topic_partitions: self.owned.take(),
            ..ConsumerGroupHeartbeatRequest::default()
        };
        if self.epoch == 0 {
            request.rebalance_timeout_ms = SESSION_MS;
            request.subscribed_topic_names = Some(vec![IDEMPOTENT.to_string()]);
            request.topic_partitions = Some(Vec::new());
        }
        let answer = self.ask(0, &request)?;
        if answer.error_code != ErrorCode::NONE {
            return Err(answer.error_code.into());
        }
        self.id = answer.member_id.unwrap_or_default();
        self.epoch = answer.member_epoch;
        let Some(assignment) = answer.assignment else {
            return Ok(());
        };
        let topics = &assignment.topic_partitions;
        let partitions: Vec<i32> = topics.iter().flat_map(|topic| topic.partitions.clone()).collect();
        self.held.retain(|partition, _| partitions.contains(partition));
        self.assigned = assignment.topic_partitions;
        self.owned = Some(self.assigned.clone());
        self.take(&partitions)
    }

    /// Begins with these partitions, as far as they are new to the member, where the group has committed.
    fn take(&mut self, partitions: &[i32]) -> Result<(), Trouble> {
        let partitions = partitions.iter().copied();
        let new: Vec<i32> = partitions
            .filter(|partition| !self.held.contains_key(partition))
            .collect();
        if new.is_empty() {
            return Ok(());
        }
        let known: Vec<Commits> = new.iter().map(|partition| self.group.known(*partition)).collect();
        let request = OffsetFetchRequest {
            group_id: self.group.name.to_string(),
            topics: Some(vec![OffsetFetchRequestTopic {
                name: IDEMPOTENT.to_string(),
                partition_indexes: new.clone(),
            }]),
            ..OffsetFetchRequest::default()
        };
        // Whoever cannot find out where to begin is not a member: it would skip or repeat.
        let found = match self.ask(7, &request) {
            Ok(found) if found.error_code == ErrorCode::NONE => found,
            _ => return Err(Trouble::Membership),
        };
        for (partition, before) in new.into_iter().zip(known) {
            let found = &found.topics[0].partitions;
            let found = found.iter().find(|found| found.partition_index == partition);
            let offset = found.map_or(-1, |found| found.committed_offset).max(0);
            let tried = self.group.known(partition).tried;
            if offset < before.acknowledged || offset > tried {
                self.shared.ledger.fault(format!(
                    "group {}, partition {partition}: {offset} is committed, {} was acknowledged and {tried} tried",
                    self.group.name, before.acknowledged
                ));
            }
            let held = Held {
                position: offset,
                committed: offset,
                leader: None,
            };
            self.held.insert(partition, held);
            self.group.given.fetch_add(1, Ordering::Relaxed);
        }
        Ok(())
    }

    /// Commits what was read since the last time.
    fn commit(&mut self) -> Result<(), Trouble> {
        let read = self.held.iter().filter(|(_, held)| held.position > held.committed);
        let read: Vec<(i32, i64)> = read.map(|(partition, held)| (*partition, held.position)).collect();
        if read.is_empty() {
            return Ok(());
        }
        let partition = |(partition_index, committed_offset): &(i32, i64)| OffsetCommitRequestPartition {
            partition_index: *partition_index,
            committed_offset: *committed_offset,
            ..OffsetCommitRequestPartition::default()
        };
        let request = OffsetCommitRequest {
            group_id: self.group.name.to_string(),
            generation_id_or_member_epoch: self.epoch,
            member_id: self.id.clone(),
            topics: vec![OffsetCommitRequestTopic {
                name: IDEMPOTENT.to_string(),
                partitions: read.iter().map(partition).collect(),
            }],
            ..OffsetCommitRequest::default()
        };
        for (partition, offset) in &read {
            self.group
                .note(*partition, |known| known.tried = known.tried.max(*offset));
        }
        let version = if self.group.assigned_by_broker { 9 } else { 8 };
        let answer = match self.ask(version, &request) {
            Ok(answer) => answer,
            Err(error) => {
                self.is_in_doubt = true;
                return Err(error.into());
            }
        };
        for answer in &answer.topics[0].partitions {
            let (partition, offset) = (answer.partition_index, request_offset(&read, answer.partition_index));
            match answer.error_code {
                ErrorCode::NONE => {
                    let held = self.held.get_mut(&partition).expect("it was read");
                    held.committed = offset;
                    self.group
                        .note(partition, |known| known.acknowledged = known.acknowledged.max(offset));
                    self.group.count.fetch_add(1, Ordering::Relaxed);
                }
                // The next heartbeat tells why.
                ErrorCode::REBALANCE_IN_PROGRESS => self.heartbeat_due = Instant::now(),
                error => {
                    let trouble = Trouble::from(error);
                    self.is_in_doubt |= matches!(trouble, Trouble::Connection);
                    return Err(trouble);
                }
            }
        }
        Ok(())
    }

    /// Says so, if anybody listens.
    fn leave(mut self) {
        let group_id = self.group.name.to_string();
        let member_id = self.id.clone();
        let told = match self.group.assigned_by_broker {
            true => self
                .ask(
                    0,
                    &ConsumerGroupHeartbeatRequest {
                        group_id,
                        member_id,
                        member_epoch: -1,
                        ..ConsumerGroupHeartbeatRequest::default()
                    },
                )
                .map(|_| ()),
            false => self
                .ask(
                    2,
                    &LeaveGroupRequest {
                        group_id,
                        member_id,
                        ..LeaveGroupRequest::default()
                    },
                )
                .map(|_| ()),
        };
        // Nobody listens: then it has died, which is as good here.
        drop(told);
    }
}

fn request_offset(read: &[(i32, i64)], partition: i32) -> i64 {
    let found = read.iter().find(|(asked, _)| *asked == partition);
    found.expect("only what was asked is answered").1
}
