//! The classic protocol: members join, one of them assigns, all of them sync. What may happen in which phase follows
//! Kafka's coordinator; the one difference is that a new generation is stored before any member hears of it, so that no
//! two generations ever carry the same number.

use super::api::{join_error, sync_error, GroupReply, Join, Leave, ReplyToken};
use super::as_uuid;
use super::group::{Ctx, Group, InitialDelay, Member, Phase};
use super::ledger::After;
use super::record::{GroupState, Record, StoredState};
use bytes::Bytes;
use kafscale_codec::error_code::ErrorCode;
use kafscale_codec::messages::{
    HeartbeatRequest, JoinGroupResponse, JoinGroupResponseMember, LeaveGroupResponse, MemberIdentity, MemberResponse,
    SyncGroupRequest, SyncGroupResponse,
};

/// Pause before a step that could not be made is tried again.
const RETRY_MS: u64 = 1_000;

impl Group {
    /// JoinGroup.
    pub fn join(&mut self, ctx: &mut Ctx, token: ReplyToken, join: Join) {
        if self.is_live_consumer_group() {
            self.join_consumers(ctx, token, &join);
            return;
        }
        if let Err(error) = self.try_join(ctx, token, &join) {
            ctx.reply(token, GroupReply::Join(join_error(&join.member_id, error)));
        }
    }

    fn try_join(&mut self, ctx: &mut Ctx, token: ReplyToken, join: &Join) -> Result<(), ErrorCode> {
        if !self.accepts(join, ctx.config) {
            self.pending.remove(&join.member_id);
            return Err(ErrorCode::GROUP_MAX_SIZE_REACHED);
        }
        if !self.supports_protocols(&join.protocol_type, &join.protocols) {
            return Err(ErrorCode::INCONSISTENT_GROUP_PROTOCOL);
        }
        if join.member_id.is_empty() {
            self.join_without_id(ctx, token, join);
            return Ok(());
        }
        if self.pending.contains_key(&join.member_id) {
            if join.group_instance_id.is_some() {
                return Err(ErrorCode::UNKNOWN_MEMBER_ID); // Static members never get an id of this kind.
            }
            self.add_member(ctx, token, join, join.member_id.clone());
            return Ok(());
        }
        self.check_member(&join.member_id, join.group_instance_id.as_deref())?;
        self.rejoin(ctx, token, join)
    }

    fn join_without_id(&mut self, ctx: &mut Ctx, token: ReplyToken, join: &Join) {
        let name = join.group_instance_id.as_deref().unwrap_or(&join.client_id);
        let member_id = format!("{name}-{}", as_uuid(join.random));
        let known = join.group_instance_id.as_ref().and_then(|id| self.instances.get(id));
        if let Some(old_id) = known.cloned() {
            self.rejoin_static(ctx, token, join, old_id, member_id);
        } else if join.group_instance_id.is_none() && join.require_known_member_id {
            let reply = join_error(&member_id, ErrorCode::MEMBER_ID_REQUIRED);
            self.pending.insert(member_id, ctx.deadline(join.session_timeout_ms));
            ctx.reply(token, GroupReply::Join(reply));
        } else {
            self.add_member(ctx, token, join, member_id);
        }
    }

    fn add_member(&mut self, ctx: &mut Ctx, token: ReplyToken, join: &Join, member_id: String) {
        self.pending.remove(&member_id);
        if self.members.is_empty() {
            self.protocol_type = Some(join.protocol_type.clone());
        }
        let mut member = Member {
            order: self.next_order,
            instance_id: join.group_instance_id.clone(),
            joining: Some(token),
            is_new: true,
            deadline: Some(ctx.deadline(ctx.config.new_member_join_timeout_ms)),
            ..Member::default()
        };
        member.take_over(join);
        self.next_order += 1;
        if let Some(instance) = &join.group_instance_id {
            self.instances.insert(instance.clone(), member_id.clone());
        }
        self.leader.get_or_insert_with(|| member_id.clone());
        self.members.insert(member_id, member);
        if let Phase::Preparing {
            initial: Some(initial), ..
        } = &mut self.phase
        {
            initial.grew = true;
        }
        self.rebalance_or_complete(ctx);
    }

    /// A member that is known joins again.
    fn rejoin(&mut self, ctx: &mut Ctx, token: ReplyToken, join: &Join) -> Result<(), ErrorCode> {
        let member = self.members.get(&join.member_id).ok_or(ErrorCode::UNKNOWN_MEMBER_ID)?;
        let unchanged = member.protocols == join.protocols;
        let missed_the_answer = match self.phase {
            Phase::Empty => return Err(ErrorCode::UNKNOWN_MEMBER_ID),
            Phase::Preparing { .. } => false,
            Phase::Completing => unchanged,
            // A leader that joins again asks for a new assignment.
            Phase::Stable => unchanged && !self.is_leader(&join.member_id),
        };
        if missed_the_answer {
            self.answer_join(ctx, token, &join.member_id);
        } else {
            self.update_member(ctx, token, join, &join.member_id);
            self.rebalance_or_complete(ctx);
        }
        Ok(())
    }

    /// The member waits for the next generation, with what it says now.
    pub(super) fn update_member(&mut self, ctx: &mut Ctx, token: ReplyToken, join: &Join, member_id: &str) {
        let Some(member) = self.members.get_mut(member_id) else {
            return;
        };
        member.take_over(join);
        member.deadline = if member.is_new {
            Some(ctx.deadline(ctx.config.new_member_join_timeout_ms))
        } else {
            None
        };
        if let Some(earlier) = member.joining.replace(token) {
            let superseded = join_error(member_id, ErrorCode::REBALANCE_IN_PROGRESS);
            ctx.reply(earlier, GroupReply::Join(superseded));
        }
    }

    pub(super) fn rebalance_or_complete(&mut self, ctx: &mut Ctx) {
        match self.phase {
            Phase::Preparing { .. } => self.complete_if_all_joined(ctx),
            Phase::Empty | Phase::Completing | Phase::Stable => self.prepare_rebalance(ctx),
        }
    }

    /// Asks all members to join again: each heartbeat says so from now on.
    pub fn prepare_rebalance(&mut self, ctx: &mut Ctx) {
        if self.phase == Phase::Completing {
            self.members.values_mut().for_each(|member| member.assignment.clear());
        }
        self.answer_syncs(ctx, ErrorCode::REBALANCE_IN_PROGRESS);
        self.pending_sync.clear();
        self.sync_deadline = None;
        let longest_ms = self.rebalance_timeout_ms();
        if self.phase == Phase::Empty {
            let delay_ms = ctx.config.initial_rebalance_delay_ms;
            let initial = Some(InitialDelay {
                remaining_ms: longest_ms.saturating_sub(delay_ms),
                grew: false,
            });
            let deadline = ctx.deadline(delay_ms);
            self.phase = Phase::Preparing { deadline, initial };
            if delay_ms == 0 {
                self.complete_join(ctx);
            }
        } else {
            let deadline = ctx.deadline(longest_ms);
            self.phase = Phase::Preparing {
                deadline,
                initial: None,
            };
            self.complete_if_all_joined(ctx);
        }
    }

    pub fn complete_if_all_joined(&mut self, ctx: &mut Ctx) {
        let waiting = matches!(self.phase, Phase::Preparing { initial: None, .. });
        if waiting && self.pending.is_empty() && self.members.values().all(|member| member.joining.is_some()) {
            self.complete_join(ctx);
        }
    }

    /// The join phase ends: who did not come is out, and the next generation is stored.
    fn complete_join(&mut self, ctx: &mut Ctx) {
        let absent: Vec<String> = self
            .members
            .iter()
            .filter(|(_, member)| member.joining.is_none() && member.instance_id.is_none())
            .map(|(id, _)| id.clone())
            .collect();
        for id in absent {
            self.drop_member(ctx, &id, ErrorCode::UNKNOWN_MEMBER_ID);
        }
        if self.members.is_empty() {
            self.become_empty(ctx);
            return;
        }
        let leader_joined = self
            .leader
            .as_ref()
            .and_then(|leader| self.members.get(leader))
            .is_some_and(|leader| leader.joining.is_some());
        if !leader_joined {
            let Some(leader) = self.first_member(|member| member.joining.is_some()) else {
                // Only static members are left, and none of them has come: they have until their sessions end.
                let deadline = ctx.deadline(self.rebalance_timeout_ms().max(RETRY_MS));
                self.phase = Phase::Preparing {
                    deadline,
                    initial: None,
                };
                return;
            };
            self.leader = Some(leader);
        }
        let protocol = self
            .select_protocol(None)
            .expect("members were let in only if all share a protocol");
        let state = GroupState {
            generation: next_generation(self.generation()),
            protocol_type: self.protocol_type.clone(),
            leader: self.leader.clone(),
            assigned: false,
            since_ms: ctx.now.wall_ms,
            members: self.member_states(&protocol),
            protocol_name: Some(protocol),
        };
        let records = vec![self.state_record(Some(state))];
        self.write(ctx, records, After::Generation);
    }

    fn become_empty(&mut self, ctx: &mut Ctx) {
        self.leader = None;
        if self.stored.is_none() {
            self.phase = Phase::Empty;
            return;
        }
        let state = GroupState {
            generation: next_generation(self.generation()),
            protocol_type: self.protocol_type.clone(),
            since_ms: ctx.now.wall_ms,
            ..GroupState::default()
        };
        let records = vec![self.state_record(Some(state))];
        self.write(ctx, records, After::Emptied);
    }

    /// The empty state is stored, or not.
    pub fn emptied(&mut self, ctx: &mut Ctx, error: Option<ErrorCode>) {
        self.phase = match error {
            None => Phase::Empty,
            Some(_) => Phase::Preparing {
                deadline: ctx.deadline(RETRY_MS),
                initial: None,
            },
        };
        for (token, mut reply) in std::mem::take(&mut self.leaving) {
            if let Some(error) = error {
                reply.members.clear();
                reply.error_code = error;
            }
            ctx.reply(token, GroupReply::Leave(reply));
        }
    }

    /// The new generation is stored, or not: joins are answered.
    pub fn generation_decided(&mut self, ctx: &mut Ctx, error: Option<ErrorCode>) {
        let joining: Vec<(String, ReplyToken)> = self
            .members
            .iter_mut()
            .filter_map(|(id, member)| member.joining.take().map(|token| (id.clone(), token)))
            .collect();
        match error {
            None => {
                self.phase = Phase::Completing;
                self.expect_syncs(ctx.now);
                for (id, token) in joining {
                    self.answer_join(ctx, token, &id);
                }
            }
            Some(error) => {
                for (id, token) in joining {
                    if let Some(member) = self.members.get_mut(&id) {
                        member.restart_session(ctx.now);
                        member.is_new = false;
                    }
                    ctx.reply(token, GroupReply::Join(join_error(&id, error)));
                }
                self.phase = Phase::Preparing {
                    deadline: ctx.deadline(self.rebalance_timeout_ms()),
                    initial: None,
                };
            }
        }
    }

    fn answer_join(&mut self, ctx: &mut Ctx, token: ReplyToken, member_id: &str) {
        let reply = self.join_reply(member_id);
        if let Some(member) = self.members.get_mut(member_id) {
            member.is_new = false;
            if member.syncing.is_none() {
                member.restart_session(ctx.now);
            }
        }
        ctx.reply(token, GroupReply::Join(reply));
    }

    pub(super) fn join_reply(&self, member_id: &str) -> JoinGroupResponse {
        let protocol = self.protocol_name().unwrap_or_default();
        let members = if self.is_leader(member_id) {
            self.leader_view(&protocol)
        } else {
            Vec::new()
        };
        JoinGroupResponse {
            generation_id: self.generation(),
            protocol_type: self.protocol_type.clone(),
            leader: self.leader.clone().unwrap_or_default(),
            member_id: member_id.to_string(),
            members,
            protocol_name: Some(protocol),
            ..JoinGroupResponse::default()
        }
    }

    /// All members in the order in which they came.
    fn leader_view(&self, protocol: &str) -> Vec<JoinGroupResponseMember> {
        let mut members: Vec<_> = self.members.iter().collect();
        members.sort_by_key(|(_, member)| member.order);
        members
            .into_iter()
            .map(|(id, member)| JoinGroupResponseMember {
                member_id: id.clone(),
                group_instance_id: member.instance_id.clone(),
                metadata: member.metadata(protocol),
            })
            .collect()
    }

    /// SyncGroup.
    pub fn sync(&mut self, ctx: &mut Ctx, token: ReplyToken, sync: SyncGroupRequest) {
        if self.is_live_consumer_group() {
            self.sync_consumers(ctx, token, &sync);
            return;
        }
        if let Err(error) = self.try_sync(ctx, token, &sync) {
            ctx.reply(token, GroupReply::Sync(sync_error(error)));
        }
    }

    fn try_sync(&mut self, ctx: &mut Ctx, token: ReplyToken, sync: &SyncGroupRequest) -> Result<(), ErrorCode> {
        self.check_member(&sync.member_id, sync.group_instance_id.as_deref())?;
        if sync.generation_id != self.generation() {
            return Err(ErrorCode::ILLEGAL_GENERATION);
        }
        let differs = |said: &Option<String>, is: &Option<String>| said.is_some() && said != is;
        if differs(&sync.protocol_type, &self.protocol_type) || differs(&sync.protocol_name, &self.protocol_name()) {
            return Err(ErrorCode::INCONSISTENT_GROUP_PROTOCOL);
        }
        match self.phase {
            Phase::Empty => return Err(ErrorCode::UNKNOWN_MEMBER_ID),
            Phase::Preparing { .. } => return Err(ErrorCode::REBALANCE_IN_PROGRESS),
            Phase::Completing | Phase::Stable => {}
        }
        self.pending_sync.remove(&sync.member_id);
        if self.phase == Phase::Stable {
            self.answer_sync(ctx, token, &sync.member_id);
            return Ok(());
        }
        if let Some(member) = self.members.get_mut(&sync.member_id) {
            member.deadline = None;
            if let Some(earlier) = member.syncing.replace(token) {
                ctx.reply(earlier, GroupReply::Sync(sync_error(ErrorCode::REBALANCE_IN_PROGRESS)));
            }
        }
        if self.is_leader(&sync.member_id) {
            self.assign(ctx, sync);
        }
        Ok(())
    }

    /// The leader's assignment goes to the store; a member that it does not name gets nothing.
    fn assign(&mut self, ctx: &mut Ctx, sync: &SyncGroupRequest) {
        let mut state = self
            .stored
            .clone()
            .expect("a generation is stored before anybody can sync");
        state.assigned = true;
        state.since_ms = ctx.now.wall_ms;
        for given in &sync.assignments {
            if let Some(member) = state.members.get_mut(&given.member_id) {
                member.assignment = Bytes::copy_from_slice(&given.assignment);
            }
        }
        let bytes: usize = state.members.values().map(|member| member.assignment.len()).sum();
        if bytes > ctx.config.group_bytes_max / 2 {
            self.assignment_decided(ctx, Some(ErrorCode::UNKNOWN_SERVER_ERROR)); // Kafka's answer to a record too large.
            return;
        }
        let records = vec![self.state_record(Some(state))];
        self.write(ctx, records, After::Assignment);
    }

    /// The assignment is stored, or not: syncs are answered.
    pub fn assignment_decided(&mut self, ctx: &mut Ctx, error: Option<ErrorCode>) {
        if let Some(error) = error {
            self.answer_syncs(ctx, error);
            self.prepare_rebalance(ctx);
            return;
        }
        self.phase = Phase::Stable;
        if let Some(stored) = &self.stored {
            for (id, member) in &mut self.members {
                let assignment = stored.members.get(id).map(|member| member.assignment.clone());
                member.assignment = assignment.unwrap_or_default();
            }
        }
        let syncing: Vec<(String, ReplyToken)> = self
            .members
            .iter_mut()
            .filter_map(|(id, member)| member.syncing.take().map(|token| (id.clone(), token)))
            .collect();
        for (id, token) in syncing {
            self.answer_sync(ctx, token, &id);
        }
    }

    fn answer_sync(&mut self, ctx: &mut Ctx, token: ReplyToken, member_id: &str) {
        if let Some(member) = self.members.get_mut(member_id) {
            member.restart_session(ctx.now);
        }
        let stored = self.stored.as_ref().expect("a stable group is stored");
        let reply = SyncGroupResponse {
            protocol_type: stored.protocol_type.clone(),
            protocol_name: stored.protocol_name.clone(),
            assignment: stored
                .members
                .get(member_id)
                .map(|member| member.assignment.clone())
                .unwrap_or_default(),
            ..SyncGroupResponse::default()
        };
        ctx.reply(token, GroupReply::Sync(reply));
    }

    fn answer_syncs(&mut self, ctx: &mut Ctx, error: ErrorCode) {
        for member in self.members.values_mut() {
            if let Some(token) = member.syncing.take() {
                member.restart_session(ctx.now);
                ctx.reply(token, GroupReply::Sync(sync_error(error)));
            }
        }
    }

    /// Heartbeat: memory only.
    pub fn heartbeat(&mut self, ctx: &mut Ctx, heartbeat: &HeartbeatRequest) -> ErrorCode {
        if self.is_live_consumer_group() {
            return self.heartbeat_consumers(ctx, heartbeat);
        }
        if let Err(error) = self.check_member(&heartbeat.member_id, heartbeat.group_instance_id.as_deref()) {
            return error;
        }
        if heartbeat.generation_id != self.generation() {
            return ErrorCode::ILLEGAL_GENERATION;
        }
        self.keep_alive(ctx, &heartbeat.member_id);
        match self.phase {
            Phase::Empty => ErrorCode::UNKNOWN_MEMBER_ID,
            Phase::Preparing { .. } => ErrorCode::REBALANCE_IN_PROGRESS,
            Phase::Completing | Phase::Stable => ErrorCode::NONE,
        }
    }

    /// The member gave a sign of life. Its deadline only moves away, so no timer has to be set anew.
    pub fn keep_alive(&mut self, ctx: &Ctx, member_id: &str) {
        if let Some(member) = self.members.get_mut(member_id) {
            if member.deadline.is_some() && member.joining.is_none() {
                member.restart_session(ctx.now);
            }
        }
    }

    /// LeaveGroup.
    pub fn leave(&mut self, ctx: &mut Ctx, token: ReplyToken, leave: Leave) {
        if self.is_live_consumer_group() {
            self.leave_consumers(ctx, token, leave);
            return;
        }
        let mut left_any = false;
        let members = leave.members.into_iter().map(|who| {
            let result = self.leave_one(ctx, &who);
            left_any |= result.is_ok();
            MemberResponse {
                member_id: who.member_id,
                group_instance_id: who.group_instance_id,
                error_code: result.err().unwrap_or_default(),
            }
        });
        let members = members.collect();
        let reply = LeaveGroupResponse {
            members,
            ..LeaveGroupResponse::default()
        };
        if left_any {
            self.after_members_left(ctx);
        }
        if left_any && self.members.is_empty() && self.state_writing {
            // Whoever closes the last member may act on the group at once, and must find it empty.
            self.leaving.push((token, reply));
            return;
        }
        ctx.reply(token, GroupReply::Leave(reply));
    }

    fn leave_one(&mut self, ctx: &mut Ctx, who: &MemberIdentity) -> Result<(), ErrorCode> {
        let member_id = match &who.group_instance_id {
            // An administrator removes a static member by its instance id alone.
            Some(instance) if who.member_id.is_empty() => self
                .instances
                .get(instance)
                .cloned()
                .ok_or(ErrorCode::UNKNOWN_MEMBER_ID)?,
            Some(instance) => {
                self.check_member(&who.member_id, Some(instance))?;
                who.member_id.clone()
            }
            None => who.member_id.clone(),
        };
        if self.pending.remove(&member_id).is_some() {
            return Ok(());
        }
        let left = self.drop_member(ctx, &member_id, ErrorCode::UNKNOWN_MEMBER_ID);
        left.map(|_| ()).ok_or(ErrorCode::UNKNOWN_MEMBER_ID)
    }

    /// Members left or were expelled: the others share anew. A pending member that is gone may end the join phase.
    pub fn after_members_left(&mut self, ctx: &mut Ctx) {
        match self.phase {
            Phase::Empty => {}
            Phase::Preparing { .. } => self.complete_if_all_joined(ctx),
            Phase::Completing | Phase::Stable => {
                let stored = self.stored.as_ref().map(|stored| stored.members.len());
                if stored != Some(self.members.len()) {
                    self.prepare_rebalance(ctx);
                }
            }
        }
    }

    /// Whatever was due by now happens.
    pub fn on_deadline(&mut self, ctx: &mut Ctx) {
        self.expel_consumers(ctx);
        if self.state_writing {
            return;
        }
        let now = ctx.now.monotonic_ms;
        let due = |deadline: &u64| *deadline <= now;
        let pending_before = self.pending.len();
        self.pending.retain(|_, deadline| !due(deadline));
        let expired: Vec<String> = self
            .members
            .iter()
            .filter(|(_, member)| member.deadline.as_ref().is_some_and(due))
            .map(|(id, _)| id.clone())
            .collect();
        for id in &expired {
            self.drop_member(ctx, id, ErrorCode::UNKNOWN_MEMBER_ID);
        }
        if !expired.is_empty() || self.pending.len() < pending_before {
            self.after_members_left(ctx);
        }
        if self.sync_deadline.as_ref().is_some_and(due) && !self.state_writing {
            self.expel_who_did_not_sync(ctx);
        }
        if let Phase::Preparing { deadline, initial } = self.phase {
            if due(&deadline) && !self.state_writing {
                self.join_phase_is_due(ctx, initial);
            }
        }
    }

    fn expel_who_did_not_sync(&mut self, ctx: &mut Ctx) {
        self.sync_deadline = None;
        let missing = std::mem::take(&mut self.pending_sync);
        for id in &missing {
            self.drop_member(ctx, id, ErrorCode::UNKNOWN_MEMBER_ID);
        }
        if !missing.is_empty() {
            self.prepare_rebalance(ctx);
        }
    }

    fn join_phase_is_due(&mut self, ctx: &mut Ctx, initial: Option<InitialDelay>) {
        match initial {
            Some(InitialDelay {
                remaining_ms,
                grew: true,
            }) if remaining_ms > 0 => {
                let delay_ms = ctx.config.initial_rebalance_delay_ms.min(remaining_ms);
                let initial = Some(InitialDelay {
                    remaining_ms: remaining_ms - delay_ms,
                    grew: false,
                });
                let deadline = ctx.deadline(delay_ms);
                self.phase = Phase::Preparing { deadline, initial };
            }
            _ => self.complete_join(ctx),
        }
    }

    pub fn state_record(&self, state: Option<GroupState>) -> Record {
        let group = self.id.clone();
        let state = state.map(StoredState::Classic);
        Record::Group { group, state }
    }
}

/// The answer for a group that does not exist: none of these is a member of it.
pub(super) fn nobody_left(leave: &Leave) -> LeaveGroupResponse {
    let unknown = |who: &MemberIdentity| MemberResponse {
        member_id: who.member_id.clone(),
        group_instance_id: who.group_instance_id.clone(),
        error_code: ErrorCode::UNKNOWN_MEMBER_ID,
    };
    LeaveGroupResponse {
        members: leave.members.iter().map(unknown).collect(),
        ..LeaveGroupResponse::default()
    }
}

/// After 2³¹ generations it starts again: a negative one would mean "no generation".
fn next_generation(generation: i32) -> i32 {
    generation.checked_add(1).unwrap_or(1)
}
