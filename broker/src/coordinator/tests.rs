//! A small world around [`Groups`]: a clock, a store, and members that ask and listen.

mod consumers;
mod durability;
mod joining;
mod offset_cases;
mod random;
mod record_cases;
mod static_members;
mod syncing;

use super::*;
use bytes::{BufMut, Bytes};
use kafscale_codec::messages::{
    HeartbeatRequest, JoinGroupResponse, LeaveGroupResponse, MemberIdentity, SyncGroupRequest,
    SyncGroupRequestAssignment, SyncGroupResponse,
};
use kafscale_metastore::keys::Key;
use kafscale_metastore::Op;
use std::collections::VecDeque;

pub(super) const SESSION_MS: u64 = 10_000;
pub(super) const REBALANCE_MS: u64 = 60_000;
pub(super) const TOPIC: TopicId = TopicId([7; 16]);

pub(super) struct World {
    pub groups: Groups,
    pub config: GroupConfig,
    pub now: Now,
    pub store: BTreeMap<Bytes, Bytes>,
    pub writes: VecDeque<GroupWrite>,
    pub replies: BTreeMap<ReplyToken, GroupReply>,
    /// Whether writes are durable at once.
    pub instant: bool,
    next_token: u64,
}

impl World {
    pub fn new() -> Self {
        World::with(GroupConfig::default())
    }

    pub fn with(config: GroupConfig) -> Self {
        World {
            groups: Groups::new(config.clone()),
            config,
            now: Now {
                monotonic_ms: 1_000,
                wall_ms: 1_700_000_000_000,
            },
            store: BTreeMap::new(),
            writes: VecDeque::new(),
            replies: BTreeMap::new(),
            instant: true,
            next_token: 0,
        }
    }

    pub fn ask(&mut self, request: GroupRequest) -> ReplyToken {
        self.next_token += 1;
        let token = ReplyToken(self.next_token);
        let out = self.groups.handle(self.now, token, request);
        self.take(out);
        token
    }

    pub fn take(&mut self, out: Output) {
        for (token, reply) in out.replies {
            assert!(token.0 <= self.next_token, "a token that nobody gave");
            assert!(
                self.replies.insert(token, reply).is_none(),
                "{token:?} is answered twice"
            );
        }
        self.writes.extend(out.writes);
        while self.instant && !self.writes.is_empty() {
            self.store_next();
        }
    }

    /// The oldest write becomes durable.
    pub fn store_next(&mut self) {
        let write = self.apply_next();
        let out = self.groups.on_durable(self.now, write.id);
        self.take(out);
    }

    /// The oldest write is stored, but nobody hears of it.
    pub fn apply_next(&mut self) -> GroupWrite {
        let write = self.writes.pop_front().expect("a write on its way");
        for record in write.records.iter() {
            match record.to_op() {
                Op::Put { key, value, .. } => drop(self.store.insert(key, value)),
                Op::Delete(key) => drop(self.store.remove(&key)),
            }
        }
        write
    }

    pub fn fail_next(&mut self, error: ErrorCode) {
        let write = self.writes.pop_front().expect("a write on its way");
        let out = self.groups.on_write_failed(self.now, write.id, error);
        self.take(out);
    }

    pub fn recover(&self) -> Groups {
        let mut groups = Groups::new(self.config.clone());
        for (key, value) in &self.store {
            let key = Key::parse(key).expect("one of ours");
            let record = Record::from_stored(&key, value).expect("valid").expect("one of ours");
            groups.replay(&record);
        }
        groups.recovered(self.now);
        groups
    }

    /// The coordinator dies; what is not durable is lost, and a new one reads what is stored.
    pub fn fail_over(&mut self) {
        self.writes.clear();
        self.groups = self.recover();
    }

    /// Time passes, and every deadline in it is met.
    pub fn pass(&mut self, ms: u64) {
        let end = self.now.monotonic_ms + ms;
        while let Some(deadline) = self.groups.next_deadline().filter(|deadline| *deadline <= end) {
            let step = deadline.saturating_sub(self.now.monotonic_ms);
            self.advance(step);
            let out = self.groups.on_deadline(self.now);
            self.take(out);
        }
        self.advance(end - self.now.monotonic_ms);
    }

    fn advance(&mut self, ms: u64) {
        self.now.monotonic_ms += ms;
        self.now.wall_ms += ms as i64;
    }

    pub fn answered(&self, token: ReplyToken) -> bool {
        self.replies.contains_key(&token)
    }

    pub fn joined(&self, token: ReplyToken) -> JoinGroupResponse {
        match self.replies.get(&token) {
            Some(GroupReply::Join(reply)) => reply.clone(),
            other => panic!("not a join's answer: {other:?}"),
        }
    }

    pub fn synced(&self, token: ReplyToken) -> SyncGroupResponse {
        match self.replies.get(&token) {
            Some(GroupReply::Sync(reply)) => reply.clone(),
            other => panic!("not a sync's answer: {other:?}"),
        }
    }

    pub fn committed(&self, token: ReplyToken) -> Vec<ErrorCode> {
        match self.replies.get(&token) {
            Some(GroupReply::Commit(codes)) => codes.clone(),
            other => panic!("not a commit's answer: {other:?}"),
        }
    }

    pub fn join_as(&mut self, join: Join) -> ReplyToken {
        self.ask(GroupRequest::Join(join))
    }

    /// Joins without an id, as clients before version 4 do.
    pub fn join_new(&mut self, client: &str) -> ReplyToken {
        let join = self.new_join(client);
        self.join_as(join)
    }

    pub fn new_join(&mut self, client: &str) -> Join {
        Join {
            random: u128::from(self.next_token + 1),
            ..join_of(client, "")
        }
    }

    pub fn rejoin(&mut self, member_id: &str) -> ReplyToken {
        self.join_as(join_of("c", member_id))
    }

    pub fn sync(&mut self, generation: i32, member_id: &str, assignments: &[(&str, &str)]) -> ReplyToken {
        self.ask(GroupRequest::Sync(sync_of(generation, member_id, assignments)))
    }

    pub fn heartbeat(&mut self, generation: i32, member_id: &str) -> ErrorCode {
        self.heartbeat_as(generation, member_id, None)
    }

    pub fn heartbeat_as(&mut self, generation: i32, member_id: &str, instance: Option<&str>) -> ErrorCode {
        let token = self.ask(GroupRequest::Heartbeat(HeartbeatRequest {
            group_id: "g".into(),
            generation_id: generation,
            member_id: member_id.into(),
            group_instance_id: instance.map(str::to_string),
        }));
        match self.replies.get(&token) {
            Some(GroupReply::Heartbeat(code)) => *code,
            other => panic!("a heartbeat is answered at once: {other:?}"),
        }
    }

    pub fn leave(&mut self, members: &[(&str, Option<&str>)]) -> LeaveGroupResponse {
        let token = self.ask_to_leave(members);
        match self.replies.get(&token) {
            Some(GroupReply::Leave(reply)) => reply.clone(),
            other => panic!("not a leave's answer: {other:?}"),
        }
    }

    pub fn ask_to_leave(&mut self, members: &[(&str, Option<&str>)]) -> ReplyToken {
        let identity = |(member_id, instance): &(&str, Option<&str>)| MemberIdentity {
            member_id: member_id.to_string(),
            group_instance_id: instance.map(str::to_string),
            reason: None,
        };
        let members = members.iter().map(identity).collect();
        self.ask(GroupRequest::Leave(Leave {
            group_id: "g".into(),
            members,
        }))
    }

    pub fn state(&mut self) -> String {
        let token = self.ask(GroupRequest::Describe {
            groups: vec!["g".into()],
        });
        match &self.replies[&token] {
            GroupReply::Described(groups) => groups[0].group_state.clone(),
            other => panic!("{other:?}"),
        }
    }

    pub fn commit(&mut self, generation: i32, member_id: &str, offset: i64) -> ReplyToken {
        self.ask(GroupRequest::Commit(commit_of(generation, member_id, &[(0, offset)])))
    }

    pub fn fetch(&mut self, partition: i32) -> Option<OffsetRecord> {
        let partitions = Some(vec![(TOPIC, partition)]);
        let token = self.ask(GroupRequest::FetchOffsets(FetchOffsets {
            group_id: "g".into(),
            partitions,
            ..FetchOffsets::default()
        }));
        match &self.replies[&token] {
            GroupReply::Offsets { offsets, .. } => offsets[0].2.clone(),
            other => panic!("{other:?}"),
        }
    }

    /// A stable group of `count` members that came one after the other; member ids, the leader first.
    pub fn stable_group(&mut self, count: usize) -> (i32, Vec<String>) {
        let first = self.join_new("c0");
        let mut ids = vec![self.joined(first).member_id];
        for n in 1..count {
            let token = self.join_new(&format!("c{n}"));
            let others: Vec<ReplyToken> = ids.iter().map(|id| self.rejoin(id)).collect();
            ids.push(self.joined(token).member_id);
            others
                .into_iter()
                .for_each(|other| assert_eq!(self.joined(other).error_code, ErrorCode::NONE));
        }
        let generation = self.sync_all(&ids);
        (generation, ids)
    }

    /// The leader gives everybody its own id; all sync.
    pub fn sync_all(&mut self, ids: &[String]) -> i32 {
        let generation = self.groups.groups["g"].generation();
        let leader = self.groups.groups["g"].leader.clone().expect("a leader");
        let given: Vec<(&str, &str)> = ids.iter().map(|id| (id.as_str(), id.as_str())).collect();
        let followers = ids.iter().filter(|id| **id != leader);
        let mut tokens: Vec<(String, ReplyToken)> = Vec::new();
        for id in followers {
            tokens.push((id.clone(), self.sync(generation, id, &[])));
        }
        tokens.push((leader.clone(), self.sync(generation, &leader, &given)));
        for (id, token) in tokens {
            assert_eq!(
                self.synced(token).assignment,
                id.as_bytes(),
                "{id} gets what it was given"
            );
        }
        generation
    }
}

pub(super) fn subscription(topics: &[&str], user_data: &str) -> Bytes {
    let mut out = Vec::new();
    out.put_i16(0);
    out.put_i32(topics.len() as i32);
    for topic in topics {
        out.put_i16(topic.len() as i16);
        out.put_slice(topic.as_bytes());
    }
    out.put_i32(user_data.len() as i32);
    out.put_slice(user_data.as_bytes());
    Bytes::from(out)
}

pub(super) fn join_of(client: &str, member_id: &str) -> Join {
    Join {
        group_id: "g".into(),
        member_id: member_id.into(),
        client_id: client.into(),
        client_host: "/127.0.0.1".into(),
        session_timeout_ms: SESSION_MS as i32,
        rebalance_timeout_ms: REBALANCE_MS as i32,
        protocol_type: "consumer".into(),
        protocols: vec![("range".into(), subscription(&["t"], ""))],
        ..Join::default()
    }
}

pub(super) fn sync_of(generation: i32, member_id: &str, assignments: &[(&str, &str)]) -> SyncGroupRequest {
    let assignment = |(member_id, bytes): &(&str, &str)| SyncGroupRequestAssignment {
        member_id: member_id.to_string(),
        assignment: Bytes::copy_from_slice(bytes.as_bytes()),
    };
    SyncGroupRequest {
        group_id: "g".into(),
        generation_id: generation,
        member_id: member_id.into(),
        assignments: assignments.iter().map(assignment).collect(),
        ..SyncGroupRequest::default()
    }
}

pub(super) fn commit_of(generation: i32, member_id: &str, offsets: &[(i32, i64)]) -> Commit {
    let offset = |(partition, offset): &(i32, i64)| CommitOffset {
        topic_id: TOPIC,
        partition: *partition,
        offset: *offset,
        leader_epoch: 3,
        metadata: "m".into(),
    };
    Commit {
        group_id: "g".into(),
        generation_id: generation,
        member_id: member_id.into(),
        group_instance_id: None,
        knows_epochs: true,
        retention_time_ms: -1,
        offsets: offsets.iter().map(offset).collect(),
    }
}
