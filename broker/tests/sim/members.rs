//! Members of groups: they join, share a topic, commit how far they are, and come and go.

use crate::checkers::groups::{CommitEnd, CommitId, Partitions};
use crate::checkers::ledger::Place;
use crate::client::Connection;
use crate::session::Reader;
use crate::workload::{consume_from, Position, Work};
use bytes::{BufMut, Bytes};
use kafscale_broker::runtime::Instant;
use kafscale_codec::error_code::ErrorCode;
use kafscale_codec::messages::*;
use kafscale_codec::types::TopicId;
use std::collections::BTreeMap;
use std::io;
use std::rc::Rc;
use std::time::Duration;

const FIND_COORDINATOR: i16 = 4;
const JOIN: i16 = 9;
const SYNC: i16 = 5;
const HEARTBEAT: i16 = 4;
const LEAVE: i16 = 5;
const COMMIT: i16 = 9;
const FETCH_OFFSETS: i16 = 9;
const CONSUMER_HEARTBEAT: i16 = 1;

/// First version of Metadata that has topic ids.
const METADATA_WITH_IDS: i16 = 12;

const PROTOCOL_TYPE: &str = "consumer";
const ASSIGNOR: &str = "sim";

/// A member epoch that says good-bye (KIP-848).
const LEAVING: i32 = -1;

/// What a group is about.
#[derive(Debug)]
pub struct GroupPlan {
    /// Its name.
    pub group: String,
    /// The one topic that its members share.
    pub topic: String,
    /// Partitions of that topic.
    pub partitions: i32,
    /// Whether the broker makes the assignment (KIP-848).
    pub consumer_protocol: bool,
    /// Without a word for this long, a member is out.
    pub session: Duration,
}

/// What may become of a member.
#[derive(Debug, Clone, Copy)]
enum Fate {
    /// It is gone without a word, and somebody else comes.
    Crash,
    /// It leaves.
    Leave,
    /// It stands still until the others have given it up, and goes on as if nothing had been.
    Doze,
}

struct Member {
    work: Rc<Work>,
    plan: Rc<GroupPlan>,
    name: String,
    /// Lives of it so far.
    lives: u32,
    /// As the coordinator knows it.
    id: String,
    /// Generation or member epoch, negative before the first.
    generation: i32,
    /// What was assigned to it.
    assigned: Partitions,
    /// Where it is in those whose committed offset it knows.
    positions: BTreeMap<i32, Position>,
    /// What it has committed.
    committed: BTreeMap<i32, i64>,
    /// Generation and offsets of a commit that was held up on its way.
    late: Option<(i32, BTreeMap<i32, i64>)>,
    coordinator: Option<Connection>,
    leaders: BTreeMap<i32, Reader>,
    heartbeat_due: Instant,
    /// Says all it has to say with its next heartbeat.
    tell_all: bool,
    topic_id: Option<TopicId>,
}

/// A member of a group, until groups are over.
pub async fn member(work: Rc<Work>, plan: Rc<GroupPlan>, name: String) {
    let who = format!("member {name} of {}", plan.group);
    work.book.has_nothing(&plan.group, &name);
    let mut member = Member {
        work: work.clone(),
        plan,
        name,
        lives: 0,
        id: String::new(),
        generation: -1,
        assigned: Partitions::new(),
        positions: BTreeMap::new(),
        committed: BTreeMap::new(),
        late: None,
        coordinator: None,
        leaders: BTreeMap::new(),
        heartbeat_due: Duration::ZERO,
        tell_all: true,
        topic_id: None,
    };
    member.begin_life();
    while !work.groups_over.get() {
        work.doing(&who, || member.doing());
        if member.turn().await.is_err() {
            member.coordinator = None;
            member.tell_all = true;
            work.client.back_off().await;
        }
        member.meet_fate().await;
        work.client.pause_ms(1, 40).await;
    }
    // A coordinator that does not hear it finds out.
    let _ = member.leave().await;
    work.done(&who);
}

impl Member {
    fn doing(&self) -> String {
        format!(
            "{} in generation {} has {:?}, is at {:?}, committed {:?}",
            self.id, self.generation, self.assigned, self.positions, self.committed
        )
    }

    fn now(&self) -> Instant {
        self.work.client.world.now()
    }

    fn place(&self, partition: i32) -> Place {
        (self.plan.topic.clone(), partition)
    }

    fn begin_life(&mut self) {
        self.lives += 1;
        self.id = match self.plan.consumer_protocol {
            // From version 1 on, clients make their id themselves.
            true => format!("{}-{}", self.name, self.lives),
            false => String::new(),
        };
        self.coordinator = None;
        self.drop_out();
    }

    /// Has no generation, nor anything else.
    fn drop_out(&mut self) {
        self.work.book.has_nothing(&self.plan.group, &self.name);
        self.generation = if self.plan.consumer_protocol { 0 } else { -1 };
        self.assigned.clear();
        self.positions.clear();
        self.committed.clear();
        self.heartbeat_due = Duration::ZERO;
        self.tell_all = true;
    }

    async fn turn(&mut self) -> io::Result<()> {
        match (self.plan.consumer_protocol, self.generation) {
            (true, _) if self.now() >= self.heartbeat_due => self.consumer_heartbeat().await?,
            (false, -1) => self.join().await?,
            (false, _) if self.now() >= self.heartbeat_due => self.heartbeat().await?,
            _ => {}
        }
        if self.assigned.iter().any(|at| !self.positions.contains_key(at)) {
            self.fetch_offsets().await?;
        }
        self.consume().await;
        if self.work.client.world.draw(|random| random.permille(400)) {
            self.commit(false).await?;
        }
        Ok(())
    }

    async fn call<M>(&mut self, version: i16, request: &M) -> io::Result<M::Response>
    where
        M: Request + std::fmt::Debug,
        M::Response: std::fmt::Debug,
    {
        if self.coordinator.is_none() {
            self.coordinator = Some(connect_to_coordinator(&self.work, &self.plan.group).await?);
        }
        let coordinator = self.coordinator.as_mut().expect("it was just found");
        let sent = self.work.client.world.now();
        let answer = coordinator.ask(version, request).await;
        log::debug!(
            "{} of {}: from {sent:?} to {:?}: {request:?}: {answer:?}",
            self.name,
            self.plan.group,
            self.work.client.world.now()
        );
        answer
    }

    /// An error that every request to a coordinator may meet.
    fn suffer(&mut self, error: ErrorCode) -> io::Result<()> {
        match error {
            ErrorCode::UNKNOWN_MEMBER_ID | ErrorCode::FENCED_MEMBER_EPOCH => {
                self.drop_out();
                if !self.plan.consumer_protocol {
                    self.id.clear();
                }
            }
            ErrorCode::ILLEGAL_GENERATION | ErrorCode::REBALANCE_IN_PROGRESS => self.drop_out(),
            ErrorCode::STALE_MEMBER_EPOCH => self.heartbeat_due = Duration::ZERO,
            // It looks for the coordinator again.
            ErrorCode::NOT_COORDINATOR
            | ErrorCode::COORDINATOR_NOT_AVAILABLE
            | ErrorCode::COORDINATOR_LOAD_IN_PROGRESS
            | ErrorCode::REQUEST_TIMED_OUT => return Err(io::Error::other(format!("{error:?}"))),
            unexpected => self
                .work
                .client
                .world
                .violate(format!("{} of {}: {unexpected:?}", self.name, self.plan.group)),
        }
        Ok(())
    }

    async fn join(&mut self) -> io::Result<()> {
        self.drop_out();
        let session_timeout_ms = self.plan.session.as_millis() as i32;
        let request = JoinGroupRequest {
            group_id: self.plan.group.clone(),
            session_timeout_ms,
            // Longer than a session: who has just lived is not out before its session is.
            rebalance_timeout_ms: 2 * session_timeout_ms,
            member_id: self.id.clone(),
            protocol_type: PROTOCOL_TYPE.to_string(),
            protocols: vec![JoinGroupRequestProtocol {
                name: ASSIGNOR.to_string(),
                metadata: subscription(&self.plan.topic),
            }],
            ..JoinGroupRequest::default()
        };
        let joined = self.call(JOIN, &request).await?;
        match joined.error_code {
            ErrorCode::NONE => {}
            ErrorCode::MEMBER_ID_REQUIRED => {
                self.id = joined.member_id;
                return Ok(());
            }
            error => return self.suffer(error),
        }
        self.id = joined.member_id.clone();
        let mut request = SyncGroupRequest {
            group_id: self.plan.group.clone(),
            generation_id: joined.generation_id,
            member_id: joined.member_id.clone(),
            protocol_type: Some(PROTOCOL_TYPE.to_string()),
            protocol_name: Some(ASSIGNOR.to_string()),
            ..SyncGroupRequest::default()
        };
        if joined.leader == joined.member_id {
            request.assignments = self.assign(&joined.members);
        }
        let sent = self.now();
        let synced = self.call(SYNC, &request).await?;
        if synced.error_code != ErrorCode::NONE {
            return self.suffer(synced.error_code);
        }
        self.generation = joined.generation_id;
        self.assigned = synced
            .assignment
            .chunks_exact(4)
            .map(|at| i32::from_be_bytes([at[0], at[1], at[2], at[3]]))
            .collect();
        self.was_given(sent);
        self.schedule_heartbeat();
        match self.late.take() {
            Some((generation, offsets)) => self.commit_as(generation, offsets).await,
            None => Ok(()),
        }
    }

    /// Gives each partition to anybody: two leaders of one generation would not agree.
    fn assign(&self, members: &[JoinGroupResponseMember]) -> Vec<SyncGroupRequestAssignment> {
        let mut shares: BTreeMap<&str, Vec<u8>> = BTreeMap::new();
        for member in members {
            shares.insert(&member.member_id, Vec::new());
        }
        for partition in 0..self.plan.partitions {
            let member = self
                .work
                .client
                .world
                .draw(|random| random.pick(members).member_id.as_str());
            shares.entry(member).or_default().put_i32(partition);
        }
        let shares = shares.into_iter().map(|(member, share)| SyncGroupRequestAssignment {
            member_id: member.to_string(),
            assignment: Bytes::from(share),
        });
        shares.collect()
    }

    fn was_given(&self, sent: Instant) {
        let (plan, book) = (&self.plan, &self.work.book);
        book.was_given(
            &plan.group,
            &self.name,
            self.generation,
            &self.assigned,
            sent,
            plan.session,
        );
    }

    fn schedule_heartbeat(&mut self) {
        let session = self.plan.session.as_micros() as u64;
        let pause = self
            .work
            .client
            .world
            .draw(|random| random.micros(session / 10, session / 3));
        self.heartbeat_due = self.now() + pause;
    }

    async fn heartbeat(&mut self) -> io::Result<()> {
        let request = HeartbeatRequest {
            group_id: self.plan.group.clone(),
            generation_id: self.generation,
            member_id: self.id.clone(),
            ..HeartbeatRequest::default()
        };
        let sent = self.now();
        self.schedule_heartbeat();
        match self.call(HEARTBEAT, &request).await?.error_code {
            ErrorCode::NONE => {
                let (plan, book) = (&self.plan, &self.work.book);
                book.lives(&plan.group, &self.name, sent, plan.session);
                book.generation_counts(&plan.group, &self.name, self.generation, sent);
                Ok(())
            }
            ErrorCode::REBALANCE_IN_PROGRESS => {
                // What it has done so far still counts, if it says so before it joins again.
                let (commits, late) = self
                    .work
                    .client
                    .world
                    .draw(|random| (random.permille(700), random.permille(300)));
                if commits {
                    self.commit(false).await?;
                }
                if late {
                    self.late = Some((self.generation, self.offsets_to_commit(true)));
                }
                self.drop_out();
                Ok(())
            }
            error => self.suffer(error),
        }
    }

    async fn consumer_heartbeat(&mut self) -> io::Result<()> {
        let topic_id = self.topic_id().await;
        let all = self.tell_all || self.generation == 0;
        let owned = OwnedPartitions {
            topic_id,
            partitions: self.assigned.iter().copied().collect(),
        };
        let request = ConsumerGroupHeartbeatRequest {
            group_id: self.plan.group.clone(),
            member_id: self.id.clone(),
            member_epoch: self.generation,
            rebalance_timeout_ms: match all {
                true => 2 * self.plan.session.as_millis() as i32,
                false => -1,
            },
            subscribed_topic_names: all.then(|| vec![self.plan.topic.clone()]),
            topic_partitions: all.then(|| match self.generation {
                0 => Vec::new(),
                _ => vec![owned],
            }),
            ..ConsumerGroupHeartbeatRequest::default()
        };
        let sent = self.now();
        self.schedule_heartbeat();
        let response = self.call(CONSUMER_HEARTBEAT, &request).await?;
        if response.error_code != ErrorCode::NONE {
            return self.suffer(response.error_code);
        }
        self.tell_all = false;
        if let Some(assignment) = response.assignment {
            let parts = assignment.topic_partitions.into_iter();
            let assigned: Partitions = parts.flat_map(|topic| topic.partitions).collect();
            if assigned != self.assigned {
                // What it gives up it says with the next heartbeat, at once.
                self.heartbeat_due = Duration::ZERO;
                self.tell_all = true;
                if self.work.client.world.draw(|random| random.permille(500)) {
                    self.commit(false).await?;
                }
            }
            self.positions.retain(|at, _| assigned.contains(at));
            self.committed.retain(|at, _| assigned.contains(at));
            self.assigned = assigned;
        }
        self.generation = response.member_epoch;
        self.was_given(sent);
        Ok(())
    }

    async fn topic_id(&mut self) -> TopicId {
        if let Some(id) = self.topic_id {
            return id;
        }
        let request = MetadataRequest {
            topics: Some(vec![MetadataRequestTopic {
                name: Some(self.plan.topic.clone()),
                ..MetadataRequestTopic::default()
            }]),
            ..MetadataRequest::default()
        };
        let response = self.work.client.ask_anyone(METADATA_WITH_IDS, &request).await;
        let id = response.topics[0].topic_id;
        if response.topics[0].error_code == ErrorCode::NONE {
            self.topic_id = Some(id);
        }
        id
    }

    async fn fetch_offsets(&mut self) -> io::Result<()> {
        let missing: Vec<i32> = self
            .assigned
            .iter()
            .copied()
            .filter(|at| !self.positions.contains_key(at))
            .collect();
        let request = fetch_offsets_request(&self.plan, missing);
        let asked = self.now();
        let response = self.call(FETCH_OFFSETS, &request).await?;
        for (partition, found) in read_offsets(&self.work, &self.plan, asked, &response)? {
            let offset = found.map_or(0, |(_, offset)| offset);
            self.committed.insert(partition, found.map_or(-1, |(_, offset)| offset));
            self.positions.insert(partition, Position::at(offset));
        }
        Ok(())
    }

    async fn consume(&mut self) {
        if self.positions.is_empty() {
            return;
        }
        let before = self.positions.clone();
        consume_from(&self.work, &self.plan.topic, &mut self.positions, &mut self.leaders).await;
        for (partition, position) in &self.positions {
            let from = before[partition].offset();
            if position.offset() > from {
                let place = self.place(*partition);
                self.work
                    .book
                    .consumed(&self.plan.group, &place, from, position.offset());
            }
        }
    }

    /// Commits where it is; what it has committed before only if `again`.
    async fn commit(&mut self, again: bool) -> io::Result<()> {
        self.commit_as(self.generation, self.offsets_to_commit(again)).await
    }

    fn offsets_to_commit(&self, again: bool) -> BTreeMap<i32, i64> {
        let offsets = self.positions.iter().map(|(at, position)| (*at, position.offset()));
        offsets
            .filter(|(at, offset)| *offset > 0 && (again || self.committed.get(at) != Some(offset)))
            .collect()
    }

    async fn commit_as(&mut self, generation: i32, offsets: BTreeMap<i32, i64>) -> io::Result<()> {
        let mut sent: BTreeMap<i32, (CommitId, i64)> = BTreeMap::new();
        for (partition, offset) in offsets {
            let id = self
                .work
                .book
                .commit_sent(&self.plan.group, &self.place(partition), offset);
            sent.insert(partition, (id, offset));
        }
        if sent.is_empty() {
            return Ok(());
        }
        let partition = |(partition, (id, offset)): (&i32, &(CommitId, i64))| OffsetCommitRequestPartition {
            partition_index: *partition,
            committed_offset: *offset,
            committed_metadata: Some(id.to_string()),
            ..OffsetCommitRequestPartition::default()
        };
        let request = OffsetCommitRequest {
            group_id: self.plan.group.clone(),
            generation_id_or_member_epoch: generation,
            member_id: self.id.clone(),
            topics: vec![OffsetCommitRequestTopic {
                name: self.plan.topic.clone(),
                partitions: sent.iter().map(partition).collect(),
            }],
            ..OffsetCommitRequest::default()
        };
        let asked = self.now();
        let answer = self.call(COMMIT, &request).await?;
        let mut error = ErrorCode::NONE;
        for answer in answer.topics.iter().flat_map(|topic| &topic.partitions) {
            let (id, offset) = sent[&answer.partition_index];
            let end = match answer.error_code {
                ErrorCode::NONE => CommitEnd::Stored,
                ErrorCode::ILLEGAL_GENERATION
                | ErrorCode::UNKNOWN_MEMBER_ID
                | ErrorCode::REBALANCE_IN_PROGRESS
                | ErrorCode::STALE_MEMBER_EPOCH
                | ErrorCode::FENCED_MEMBER_EPOCH => CommitEnd::Refused,
                _ => CommitEnd::InDoubt,
            };
            let place = self.place(answer.partition_index);
            self.work.book.commit_ended(&self.plan.group, &place, id, end);
            if end == CommitEnd::Stored {
                self.committed.insert(answer.partition_index, offset);
            } else {
                error = answer.error_code;
            }
        }
        if error != ErrorCode::NONE {
            return self.suffer(error);
        }
        if !self.plan.consumer_protocol {
            let (plan, book) = (&self.plan, &self.work.book);
            book.generation_counts(&plan.group, &self.name, generation, asked);
        }
        Ok(())
    }

    async fn leave(&mut self) -> io::Result<()> {
        // It stops first: from here on it has nothing.
        self.work.book.has_nothing(&self.plan.group, &self.name);
        if self.id.is_empty() || (self.plan.consumer_protocol && self.generation == 0) {
            return Ok(());
        }
        if self.plan.consumer_protocol {
            let request = ConsumerGroupHeartbeatRequest {
                group_id: self.plan.group.clone(),
                member_id: self.id.clone(),
                member_epoch: LEAVING,
                ..ConsumerGroupHeartbeatRequest::default()
            };
            self.call(CONSUMER_HEARTBEAT, &request).await.map(drop)
        } else {
            let request = LeaveGroupRequest {
                group_id: self.plan.group.clone(),
                members: vec![MemberIdentity {
                    member_id: self.id.clone(),
                    ..MemberIdentity::default()
                }],
                ..LeaveGroupRequest::default()
            };
            self.call(LEAVE, &request).await.map(drop)
        }
    }

    /// Now and then, as long as there is unrest, something happens to it.
    async fn meet_fate(&mut self) {
        let world = self.work.client.world.clone();
        let unrest = self.work.group_unrest_permille.get();
        if !world.draw(|random| random.permille(unrest)) {
            return;
        }
        let session = self.plan.session.as_micros() as u64;
        let fate = world.draw(|random| *random.pick(&[Fate::Crash, Fate::Leave, Fate::Doze]));
        log::info!("{} of {}: {fate:?}", self.name, self.plan.group);
        match fate {
            Fate::Crash => {
                self.begin_life();
                let pause = world.draw(|random| random.micros(0, session * 2));
                world.sleep(pause).await;
            }
            Fate::Leave => {
                let _ = self.leave().await;
                self.begin_life();
                let pause = world.draw(|random| random.micros(0, session));
                world.sleep(pause).await;
            }
            Fate::Doze => {
                let pause = world.draw(|random| random.micros(session / 2, session * 2));
                world.sleep(pause).await;
                if world.draw(|random| random.permille(500)) {
                    let _ = self.commit(true).await;
                }
            }
        }
    }
}

/// Looks at what a group has committed, as nobody's member, and has the book look at it.
pub async fn check_committed(work: Rc<Work>, plan: Rc<GroupPlan>) {
    let who = format!("reader of the offsets of {}", plan.group);
    work.doing(&who, String::new);
    loop {
        let asked = work.client.world.now();
        let request = fetch_offsets_request(&plan, (0..plan.partitions).collect());
        let answer = async {
            let mut coordinator = connect_to_coordinator(&work, &plan.group).await?;
            coordinator.ask(FETCH_OFFSETS, &request).await
        };
        let found = answer
            .await
            .and_then(|answer| read_offsets(&work, &plan, asked, &answer));
        if found.is_ok() {
            break;
        }
        work.client.back_off().await;
    }
    work.done(&who);
}

/// A connection to who is said to coordinate a group.
async fn connect_to_coordinator(work: &Work, group: &str) -> io::Result<Connection> {
    let find = FindCoordinatorRequest {
        coordinator_keys: vec![group.to_string()],
        ..FindCoordinatorRequest::default()
    };
    let found = work.client.ask_anyone(FIND_COORDINATOR, &find).await;
    let found = &found.coordinators[0];
    match found.error_code {
        ErrorCode::NONE => work.client.connect(found.node_id).await,
        error => Err(io::Error::other(format!("{error:?}"))),
    }
}

fn fetch_offsets_request(plan: &GroupPlan, partition_indexes: Vec<i32>) -> OffsetFetchRequest {
    OffsetFetchRequest {
        groups: vec![OffsetFetchRequestGroup {
            group_id: plan.group.clone(),
            topics: Some(vec![OffsetFetchRequestTopic {
                name: plan.topic.clone(),
                partition_indexes,
            }]),
            ..OffsetFetchRequestGroup::default()
        }],
        ..OffsetFetchRequest::default()
    }
}

type Offsets = Vec<(i32, Option<(CommitId, i64)>)>;

/// What an answer says is committed; the book has looked at it.
fn read_offsets(work: &Work, plan: &GroupPlan, asked: Instant, answer: &OffsetFetchResponse) -> io::Result<Offsets> {
    let group = &answer.groups[0];
    let errors = group.topics.iter().flat_map(|topic| &topic.partitions);
    let error = errors
        .map(|partition| partition.error_code)
        .chain([group.error_code])
        .find(|error| *error != ErrorCode::NONE);
    if let Some(error) = error {
        return Err(io::Error::other(format!("{error:?}")));
    }
    let mut offsets = Vec::new();
    for partition in group.topics.iter().flat_map(|topic| &topic.partitions) {
        let id = partition.metadata.as_deref().and_then(|text| text.parse().ok());
        let found = (partition.committed_offset >= 0).then(|| (id.unwrap_or(0), partition.committed_offset));
        let place = (plan.topic.clone(), partition.partition_index);
        work.book.committed(&plan.group, &place, asked, found);
        offsets.push((partition.partition_index, found));
    }
    Ok(offsets)
}

/// A consumer's metadata that names one topic (`ConsumerProtocolSubscription`, version 0).
fn subscription(topic: &str) -> Bytes {
    let mut out = Vec::new();
    out.put_i16(0);
    out.put_i32(1);
    out.put_i16(topic.len() as i16);
    out.put_slice(topic.as_bytes());
    out.put_i32(-1);
    Bytes::from(out)
}
