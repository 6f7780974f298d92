//! One group: what is stored of it, and what only lives in memory between two stored states.

use super::api::{GroupConfig, GroupReply, GroupRequest, Join, Now, ReplyToken};
use super::consumer::{ConsumerHeartbeat, ConsumerState, Session};
use super::ledger::{After, Ledger, Output};
use super::record::{GroupState, MemberState, Record, StoredState};
use crate::cluster::image::ClusterImage;
use bytes::Bytes;
use kafscale_codec::error_code::ErrorCode;
use kafscale_codec::messages::LeaveGroupResponse;
use kafscale_codec::types::TopicId;
use kafscale_metastore::keys::OffsetRecord;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::rc::Rc;
use std::sync::Arc;

/// Bytes of a stored member besides its texts and metadata, rounded up.
const MEMBER_OVERHEAD_BYTES: usize = 64;

/// What a step of a group may use.
pub(super) struct Ctx<'a> {
    pub now: Now,
    pub config: &'a GroupConfig,
    pub image: &'a Arc<ClusterImage>,
    pub ledger: &'a mut Ledger,
    pub out: &'a mut Output,
}

impl Ctx<'_> {
    pub fn reply(&mut self, token: ReplyToken, reply: GroupReply) {
        self.out.replies.push((token, reply));
    }

    pub fn deadline(&self, after_ms: impl TryInto<u64>) -> u64 {
        self.now
            .monotonic_ms
            .saturating_add(after_ms.try_into().unwrap_or_default())
    }
}

/// Where a group is between two generations.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Phase {
    /// No members.
    Empty,
    /// Members join, until all have or the deadline passes.
    Preparing {
        deadline: u64,
        /// Only before a group's first generation.
        initial: Option<InitialDelay>,
    },
    /// The generation is stored; members wait for the leader's assignment.
    Completing,
    /// The assignment is stored.
    Stable,
}

/// An empty group waits a little for company.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct InitialDelay {
    /// How much longer it may still wait, in all.
    pub remaining_ms: u64,
    /// Whether somebody came since the deadline was set.
    pub grew: bool,
}

/// A member as the live coordinator knows it.
#[derive(Debug, Clone, Default)]
pub(super) struct Member {
    pub order: u64,
    pub instance_id: Option<String>,
    pub client_id: String,
    pub client_host: String,
    pub session_timeout_ms: i32,
    pub rebalance_timeout_ms: i32,
    pub protocols: Vec<(String, Bytes)>,
    /// What the last leader gave it; tools see it until the next one has assigned.
    pub assignment: Bytes,
    /// Waits in JoinGroup.
    pub joining: Option<ReplyToken>,
    /// Waits in SyncGroup.
    pub syncing: Option<ReplyToken>,
    /// Has not had an answer to its first join.
    pub is_new: bool,
    /// When its session ends; none as long as it waits for us.
    pub deadline: Option<u64>,
}

impl Member {
    pub fn metadata(&self, protocol: &str) -> Bytes {
        let found = self.protocols.iter().find(|(name, _)| name == protocol);
        found.map(|(_, metadata)| metadata.clone()).unwrap_or_default()
    }

    pub fn supports(&self, protocol: &str) -> bool {
        self.protocols.iter().any(|(name, _)| name == protocol)
    }

    pub fn restart_session(&mut self, now: Now) {
        let session = u64::try_from(self.session_timeout_ms).unwrap_or_default();
        self.deadline = Some(now.monotonic_ms.saturating_add(session));
    }

    pub fn take_over(&mut self, join: &Join) {
        self.client_id.clone_from(&join.client_id);
        self.client_host.clone_from(&join.client_host);
        self.session_timeout_ms = join.session_timeout_ms;
        self.rebalance_timeout_ms = join.rebalance_timeout_ms;
        self.protocols = own_protocols(&join.protocols);
    }

    fn bytes(&self) -> usize {
        let metadata = self.protocols.iter().map(|(_, metadata)| metadata.len()).max();
        MEMBER_OVERHEAD_BYTES + self.client_id.len() + self.client_host.len() + metadata.unwrap_or_default()
    }
}

/// Work that waits until a write of the group is decided.
#[derive(Debug)]
pub(super) enum Work {
    Request(ReplyToken, Box<GroupRequest>),
    /// Topics are gone; nobody waits for an answer.
    TopicsDeleted(std::rc::Rc<BTreeSet<TopicId>>),
}

/// A group.
#[derive(Debug)]
pub(super) struct Group {
    pub id: String,
    /// Set if it is a classic group. Changed by [`Group::replay`] only.
    pub stored: Option<GroupState>,
    /// Set if it is a group of the consumer protocol. Changed by [`Group::replay`] only.
    pub consumer: Option<Rc<ConsumerState>>,
    /// Changed by [`Group::replay`] only.
    pub offsets: BTreeMap<(TopicId, i32), OffsetRecord>,
    /// Partitions whose committed offset is stored and cannot be decoded: neither answered nor overwritten. Only an
    /// explicit deletion takes one out.
    pub unreadable: BTreeSet<(TopicId, i32)>,
    /// Members of the consumer protocol.
    pub sessions: BTreeMap<String, Session>,
    /// Members that the state being written no longer has, as long as it is being written.
    pub expelling: BTreeSet<String>,
    /// The picture of the cluster that the subscriptions were last compared with.
    pub image_seen: Option<Arc<ClusterImage>>,
    pub phase: Phase,
    /// Members of the classic protocol.
    pub members: BTreeMap<String, Member>,
    /// Static members: instance id to member id.
    pub instances: BTreeMap<String, String>,
    /// Ids that were handed out and did not join yet, with their deadlines (KIP-394).
    pub pending: BTreeMap<String, u64>,
    pub leader: Option<String>,
    pub protocol_type: Option<String>,
    /// Members of this generation that have not called SyncGroup.
    pub pending_sync: BTreeSet<String>,
    pub sync_deadline: Option<u64>,
    /// The last members' LeaveGroup requests: answered once the empty state is stored.
    pub leaving: Vec<(ReplyToken, LeaveGroupResponse)>,
    pub next_order: u64,
    /// A write is on its way that decides about the group's state: what would change it waits.
    pub state_writing: bool,
    /// Writes on their way, commits included.
    pub in_flight: usize,
    pub deferred: VecDeque<Work>,
    /// The deadline that the timer queue has for this group: never later than [`Group::next_deadline`].
    pub armed: Option<u64>,
}

impl Group {
    pub fn new(id: &str) -> Self {
        Group {
            id: id.to_string(),
            stored: None,
            consumer: None,
            sessions: BTreeMap::new(),
            expelling: BTreeSet::new(),
            image_seen: None,
            offsets: BTreeMap::new(),
            unreadable: BTreeSet::new(),
            phase: Phase::Empty,
            members: BTreeMap::new(),
            instances: BTreeMap::new(),
            pending: BTreeMap::new(),
            leader: None,
            protocol_type: None,
            pending_sync: BTreeSet::new(),
            sync_deadline: None,
            leaving: Vec::new(),
            next_order: 0,
            state_writing: false,
            in_flight: 0,
            deferred: VecDeque::new(),
            armed: None,
        }
    }

    /// The one place where what is stored changes.
    pub fn replay(&mut self, record: &Record) {
        match record {
            Record::Group { state, .. } => {
                (self.stored, self.consumer) = match state {
                    None => (None, None),
                    Some(StoredState::Classic(state)) => (Some(state.clone()), None),
                    Some(StoredState::Consumer(state)) => (None, Some(state.clone())),
                };
            }
            Record::Offset {
                topic_id,
                partition,
                offset: Some(offset),
                ..
            } => {
                self.unreadable.remove(&(*topic_id, *partition));
                self.offsets.insert((*topic_id, *partition), offset.clone());
            }
            Record::Offset {
                topic_id, partition, ..
            } => {
                self.unreadable.remove(&(*topic_id, *partition));
                self.offsets.remove(&(*topic_id, *partition));
            }
        }
    }

    /// After recovery: everybody who is stored gets a whole session to show up.
    pub fn revive(&mut self, ctx: &Ctx) {
        let now = ctx.now;
        self.sync_sessions(ctx);
        let Some(stored) = &self.stored else { return };
        self.protocol_type.clone_from(&stored.protocol_type);
        self.leader.clone_from(&stored.leader);
        let protocol = stored.protocol_name.clone().unwrap_or_default();
        for (id, state) in &stored.members {
            let mut member = revive_member(state, &protocol);
            member.restart_session(now);
            if let Some(instance) = &member.instance_id {
                self.instances.insert(instance.clone(), id.clone());
            }
            self.next_order = self.next_order.max(member.order + 1);
            self.members.insert(id.clone(), member);
        }
        self.phase = match (self.members.is_empty(), stored.assigned) {
            (true, _) => Phase::Empty,
            (false, true) => Phase::Stable,
            (false, false) => Phase::Completing,
        };
        if self.phase == Phase::Completing {
            self.expect_syncs(now);
        }
    }

    /// From now on, members have a rebalance timeout to call SyncGroup.
    pub fn expect_syncs(&mut self, now: Now) {
        self.pending_sync = self.members.keys().cloned().collect();
        self.sync_deadline = Some(now.monotonic_ms.saturating_add(self.rebalance_timeout_ms()));
    }

    pub fn generation(&self) -> i32 {
        match (&self.stored, &self.consumer) {
            (Some(stored), _) => stored.generation,
            (None, Some(state)) => state.epoch,
            (None, None) => 0,
        }
    }

    pub fn protocol_name(&self) -> Option<String> {
        self.stored.as_ref().and_then(|stored| stored.protocol_name.clone())
    }

    /// Kafka's name of the state.
    pub fn state_name(&self) -> &'static str {
        if let Some(state) = self.consumer.as_ref().filter(|_| self.members.is_empty()) {
            return state.name();
        }
        match self.phase {
            Phase::Empty => "Empty",
            Phase::Preparing { .. } => "PreparingRebalance",
            Phase::Completing => "CompletingRebalance",
            Phase::Stable => "Stable",
        }
    }

    pub fn is_leader(&self, member_id: &str) -> bool {
        self.leader.as_deref() == Some(member_id)
    }

    pub fn rebalance_timeout_ms(&self) -> u64 {
        let longest = self.members.values().map(|member| member.rebalance_timeout_ms).max();
        longest.unwrap_or_default().try_into().unwrap_or_default()
    }

    /// Whether nothing is left of it.
    pub fn is_vacant(&self) -> bool {
        self.stored.is_none()
            && self.consumer.is_none()
            && self.offsets.is_empty()
            && self.unreadable.is_empty()
            && self.members.is_empty()
            && self.pending.is_empty()
            && self.in_flight == 0
            && self.deferred.is_empty()
    }

    /// When it next needs to be looked at.
    pub fn next_deadline(&self) -> Option<u64> {
        if self.state_writing {
            return None;
        }
        let preparing = match self.phase {
            Phase::Preparing { deadline, .. } => Some(deadline),
            _ => None,
        };
        let sessions = self.members.values().filter_map(|member| member.deadline);
        let pending = self.pending.values().copied();
        let consumers = self.sessions.values();
        let consumers = consumers.map(|session| session.revoke_by.unwrap_or(u64::MAX).min(session.deadline));
        let sessions = sessions.chain(consumers);
        sessions.chain(pending).chain(preparing).chain(self.sync_deadline).min()
    }

    /// Whether the member may act: it exists, and nobody has taken its instance id (KIP-345).
    pub fn check_member(&self, member_id: &str, instance_id: Option<&str>) -> Result<(), ErrorCode> {
        if let Some(instance_id) = instance_id {
            return match self.instances.get(instance_id) {
                None => Err(ErrorCode::UNKNOWN_MEMBER_ID),
                Some(current) if current != member_id => Err(ErrorCode::FENCED_INSTANCE_ID),
                Some(_) => Ok(()),
            };
        }
        if self.members.contains_key(member_id) {
            Ok(())
        } else {
            Err(ErrorCode::UNKNOWN_MEMBER_ID)
        }
    }

    /// Whether somebody with these protocols can be in this group.
    pub fn supports_protocols(&self, protocol_type: &str, protocols: &[(String, Bytes)]) -> bool {
        if self.members.is_empty() {
            return !protocol_type.is_empty() && !protocols.is_empty();
        }
        self.protocol_type.as_deref() == Some(protocol_type)
            && protocols
                .iter()
                .any(|(name, _)| self.members.values().all(|member| member.supports(name)))
    }

    /// Every member votes for the first of its protocols that all members have; equal votes: the leader's choice.
    /// `changed` says what one of them would come with.
    pub fn select_protocol(&self, changed: Option<(&str, &[(String, Bytes)])>) -> Option<String> {
        let protocols_of = |id: &str, member: &'_ Member| -> Vec<String> {
            let protocols = match changed {
                Some((who, protocols)) if who == id => protocols,
                _ => &member.protocols,
            };
            protocols.iter().map(|(name, _)| name.clone()).collect()
        };
        let lists: BTreeMap<&String, Vec<String>> = self
            .members
            .iter()
            .map(|(id, member)| (id, protocols_of(id, member)))
            .collect();
        let all_have = |name: &String| lists.values().all(|list| list.contains(name));
        let mut votes: BTreeMap<&String, usize> = BTreeMap::new();
        for list in lists.values() {
            if let Some(name) = list.iter().find(|name| all_have(name)) {
                *votes.entry(name).or_default() += 1;
            }
        }
        let leader = self.leader.as_ref().and_then(|leader| lists.get(leader));
        let rank = |name: &String| {
            let position = leader.and_then(|list| list.iter().position(|candidate| candidate == name));
            std::cmp::Reverse(position.unwrap_or(usize::MAX))
        };
        let winner = votes.into_iter().max_by_key(|(name, count)| (*count, rank(name)));
        winner.map(|(name, _)| name.clone())
    }

    /// Whether there is room for this member: in number, and in the bytes that may be stored.
    pub fn accepts(&self, join: &Join, config: &GroupConfig) -> bool {
        let known = self.members.get(&join.member_id);
        let replaced = join.group_instance_id.as_ref().and_then(|id| self.instances.get(id));
        let others: usize = self
            .members
            .iter()
            .filter(|(id, _)| **id != join.member_id && Some(*id) != replaced)
            .map(|(_, member)| member.bytes())
            .sum();
        let mut newcomer = Member::default();
        newcomer.take_over(join);
        if others + newcomer.bytes() > config.group_bytes_max / 2 {
            return false;
        }
        let joining = || self.members.values().filter(|member| member.joining.is_some()).count();
        match self.phase {
            Phase::Empty => true,
            Phase::Preparing { .. } => {
                known
                    .or(replaced.and_then(|id| self.members.get(id)))
                    .is_some_and(|member| member.joining.is_some())
                    || joining() < config.group_size_max
            }
            Phase::Completing | Phase::Stable => {
                known.is_some() || replaced.is_some() || self.members.len() < config.group_size_max
            }
        }
    }

    /// The members as they are stored in a generation with `protocol`.
    pub fn member_states(&self, protocol: &str) -> BTreeMap<String, MemberState> {
        let state = |member: &Member| MemberState {
            instance_id: member.instance_id.clone(),
            order: member.order,
            client_id: member.client_id.clone(),
            client_host: member.client_host.clone(),
            session_timeout_ms: member.session_timeout_ms,
            rebalance_timeout_ms: member.rebalance_timeout_ms,
            metadata: member.metadata(protocol),
            assignment: Bytes::new(),
        };
        self.members
            .iter()
            .map(|(id, member)| (id.clone(), state(member)))
            .collect()
    }

    /// Takes a member out of memory, and answers what it waits for.
    pub fn drop_member(&mut self, ctx: &mut Ctx, member_id: &str, error: ErrorCode) -> Option<Member> {
        let mut member = self.members.remove(member_id)?;
        if let Some(instance) = &member.instance_id {
            self.instances.remove(instance);
        }
        self.pending_sync.remove(member_id);
        if let Some(token) = member.joining.take() {
            ctx.reply(token, GroupReply::Join(super::api::join_error(member_id, error)));
        }
        if let Some(token) = member.syncing.take() {
            ctx.reply(token, GroupReply::Sync(super::api::sync_error(error)));
        }
        if self.is_leader(member_id) {
            self.leader = self.first_member(|_| true);
        }
        Some(member)
    }

    /// The member that came first, of those that `wanted` takes.
    pub fn first_member(&self, wanted: impl Fn(&Member) -> bool) -> Option<String> {
        let candidates = self.members.iter().filter(|(_, member)| wanted(member));
        candidates
            .min_by_key(|(_, member)| member.order)
            .map(|(id, _)| id.clone())
    }

    /// What is stored of it besides offsets.
    pub fn stored_state(&self) -> Option<StoredState> {
        let classic = self.stored.clone().map(StoredState::Classic);
        classic.or_else(|| self.consumer.clone().map(StoredState::Consumer))
    }

    /// Whether anybody is in it, of whatever protocol.
    pub fn has_members(&self) -> bool {
        !self.members.is_empty() || self.consumer.as_ref().is_some_and(|state| !state.members.is_empty())
    }

    /// Heartbeats of the consumer protocol that are next in line, to be worked on together.
    pub fn next_heartbeats(&mut self) -> Vec<(ReplyToken, ConsumerHeartbeat)> {
        let mut heartbeats = Vec::new();
        let is_next = |work: &mut Work| matches!(work, Work::Request(_, request) if matches!(**request, GroupRequest::ConsumerHeartbeat(_)));
        while let Some(Work::Request(token, request)) = self.deferred.pop_front_if(is_next) {
            if let GroupRequest::ConsumerHeartbeat(heartbeat) = *request {
                heartbeats.push((token, *heartbeat));
            }
        }
        heartbeats
    }

    /// Sends records off. If they decide about the group's state, everything that would change it waits for them.
    pub fn write(&mut self, ctx: &mut Ctx, records: Vec<Record>, after: After) {
        assert!(
            !self.state_writing,
            "work waits in the queue as long as the state is being written"
        );
        self.state_writing = after.decides_state();
        self.in_flight += ctx.ledger.write(&self.id, records, after, ctx.out);
    }
}

/// A copy that does not keep a whole request frame in memory.
pub(super) fn own_protocols(protocols: &[(String, Bytes)]) -> Vec<(String, Bytes)> {
    protocols
        .iter()
        .map(|(name, metadata)| (name.clone(), Bytes::copy_from_slice(metadata)))
        .collect()
}

fn revive_member(state: &MemberState, protocol: &str) -> Member {
    Member {
        order: state.order,
        instance_id: state.instance_id.clone(),
        client_id: state.client_id.clone(),
        client_host: state.client_host.clone(),
        session_timeout_ms: state.session_timeout_ms,
        rebalance_timeout_ms: state.rebalance_timeout_ms,
        protocols: vec![(protocol.to_string(), state.metadata.clone())],
        assignment: state.assignment.clone(),
        ..Member::default()
    }
}
