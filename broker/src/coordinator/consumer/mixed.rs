//! Classic members in a group of the consumer protocol, so that a group can move from one to the other and back while it
//! works: member after member is restarted with another setting (KIP-848, "migration").
//!
//! A classic member joins, syncs and sends heartbeats as ever. Its generation is its epoch; its assignment comes from the
//! coordinator, and nobody leads. When the last member of the consumer protocol goes, the group becomes a classic one.

use super::super::api::{join_error, sync_error, GroupReply, Join, Leave, ReplyToken};
use super::super::group::{Ctx, Group, Phase};
use super::super::ledger::After;
use super::super::record::{GroupState, MemberState};
use super::super::subscription::{self, Subscription, CONSUMER_PROTOCOL_TYPE};
use super::heartbeat::ConsumerHeartbeat;
use super::reconcile::taken_by_others;
use super::state::{contains, to_wire, Assignment, ClassicMember, ConsumerMember, ConsumerState, MemberPhase};
use crate::cluster::image::ClusterImage;
use bytes::Bytes;
use kafscale_codec::error_code::ErrorCode;
use kafscale_codec::messages::{
    ConsumerGroupHeartbeatRequest, HeartbeatRequest, JoinGroupResponse, LeaveGroupResponse, MemberResponse,
    SyncGroupRequest, SyncGroupResponse,
};
use std::collections::BTreeMap;
use std::rc::Rc;

impl Group {
    /// Whether the coordinator assigns in this group, and somebody is in it.
    pub fn is_live_consumer_group(&self) -> bool {
        self.members.is_empty() && self.consumer.as_ref().is_some_and(|state| !state.members.is_empty())
    }

    /// JoinGroup in a group of the consumer protocol.
    pub fn join_consumers(&mut self, ctx: &mut Ctx, token: ReplyToken, join: &Join) {
        if let Err(error) = self.try_join_consumers(ctx, token, join) {
            ctx.reply(token, GroupReply::Join(join_error(&join.member_id, error)));
        }
    }

    fn try_join_consumers(&mut self, ctx: &mut Ctx, token: ReplyToken, join: &Join) -> Result<(), ErrorCode> {
        let first = join
            .protocols
            .first()
            .filter(|_| join.protocol_type == CONSUMER_PROTOCOL_TYPE);
        let subscription = first.and_then(|(_, metadata)| subscription::parse(metadata));
        let subscription = subscription.ok_or(ErrorCode::INCONSISTENT_GROUP_PROTOCOL)?;
        let state = self.consumer.as_ref().ok_or(ErrorCode::UNKNOWN_MEMBER_ID)?;
        let id = if join.member_id.is_empty() {
            let name = join.group_instance_id.as_deref().unwrap_or(&join.client_id);
            let id = format!("{name}-{}", super::super::as_uuid(join.random));
            if join.group_instance_id.is_none() && join.require_known_member_id {
                let reply = join_error(&id, ErrorCode::MEMBER_ID_REQUIRED);
                self.pending.insert(id, ctx.deadline(join.session_timeout_ms));
                ctx.reply(token, GroupReply::Join(reply));
                return Ok(());
            }
            id
        } else {
            if !state.members.contains_key(&join.member_id) && !self.pending.contains_key(&join.member_id) {
                return Err(ErrorCode::UNKNOWN_MEMBER_ID);
            }
            check_instance(state, &join.member_id, join.group_instance_id.as_deref())?;
            join.member_id.clone()
        };
        self.pending.remove(&id);
        let heartbeat = as_heartbeat(join, id, &subscription, ctx.image);
        self.consumer_heartbeats(ctx, vec![(token, heartbeat)]);
        Ok(())
    }

    /// SyncGroup in a group of the consumer protocol: the assignment is there already.
    pub fn sync_consumers(&mut self, ctx: &mut Ctx, token: ReplyToken, sync: &SyncGroupRequest) {
        let reply = match self.try_sync_consumers(ctx, sync) {
            Ok(reply) => {
                self.restart_session(ctx, &sync.member_id);
                reply
            }
            Err(error) => sync_error(error),
        };
        ctx.reply(token, GroupReply::Sync(reply));
    }

    fn try_sync_consumers(&self, ctx: &Ctx, sync: &SyncGroupRequest) -> Result<SyncGroupResponse, ErrorCode> {
        let (state, member, classic) = self.classic_member(&sync.member_id, sync.group_instance_id.as_deref())?;
        if sync.generation_id != member.epoch {
            return Err(ErrorCode::ILLEGAL_GENERATION);
        }
        let named = |said: &Option<String>, is: &str| said.as_ref().is_none_or(|said| said == is);
        let protocol = classic
            .protocols
            .first()
            .map(|(name, _)| name.as_str())
            .unwrap_or_default();
        if !named(&sync.protocol_type, CONSUMER_PROTOCOL_TYPE) || !named(&sync.protocol_name, protocol) {
            return Err(ErrorCode::INCONSISTENT_GROUP_PROTOCOL);
        }
        // Who has to give something up hears so by what is missing, and joins again then.
        if member.epoch < state.epoch && member.phase != MemberPhase::Unrevoked {
            return Err(ErrorCode::REBALANCE_IN_PROGRESS);
        }
        Ok(SyncGroupResponse {
            protocol_type: Some(CONSUMER_PROTOCOL_TYPE.to_string()),
            protocol_name: Some(protocol.to_string()),
            assignment: encode_assignment(&member.assigned, ctx.image),
            ..SyncGroupResponse::default()
        })
    }

    /// Heartbeat of a classic member in a group of the consumer protocol.
    pub fn heartbeat_consumers(&mut self, ctx: &mut Ctx, heartbeat: &HeartbeatRequest) -> ErrorCode {
        let (state, member) = match self.classic_member(&heartbeat.member_id, heartbeat.group_instance_id.as_deref()) {
            Ok((state, member, _)) => (state, member),
            Err(error) => return error,
        };
        if heartbeat.generation_id != member.epoch {
            return ErrorCode::ILLEGAL_GENERATION;
        }
        let shall_join = match member.phase {
            _ if member.epoch < state.epoch => true,
            MemberPhase::Stable => false,
            MemberPhase::Unrevoked => true,
            MemberPhase::Unreleased => can_get_more(state, &heartbeat.member_id, member),
        };
        self.restart_session(ctx, &heartbeat.member_id);
        if shall_join {
            ErrorCode::REBALANCE_IN_PROGRESS
        } else {
            ErrorCode::NONE
        }
    }

    /// LeaveGroup in a group of the consumer protocol, of whatever members: administrators use it too.
    pub fn leave_consumers(&mut self, ctx: &mut Ctx, token: ReplyToken, leave: Leave) {
        let Some(state) = self.consumer.clone() else { return };
        let mut gone = Vec::new();
        let members = leave.members.into_iter().map(|who| {
            let found = match &who.group_instance_id {
                Some(instance) if who.member_id.is_empty() => state.instance(instance).map(|(id, _)| id.clone()),
                _ => state
                    .members
                    .contains_key(&who.member_id)
                    .then(|| who.member_id.clone()),
            };
            let checked = match found {
                None if self.pending.remove(&who.member_id).is_some() => Ok(()),
                None => Err(ErrorCode::UNKNOWN_MEMBER_ID),
                Some(id) => {
                    let checked = check_instance(&state, &id, who.group_instance_id.as_deref());
                    checked.map(|()| gone.push(id))
                }
            };
            MemberResponse {
                member_id: who.member_id,
                group_instance_id: who.group_instance_id,
                error_code: checked.err().unwrap_or_default(),
            }
        });
        let reply = LeaveGroupResponse {
            members: members.collect(),
            ..LeaveGroupResponse::default()
        };
        if gone.is_empty() {
            ctx.reply(token, GroupReply::Leave(reply));
        } else {
            self.remove_consumers(ctx, &gone, After::Left { token, reply });
        }
    }

    fn classic_member(
        &self,
        id: &str,
        instance_id: Option<&str>,
    ) -> Result<(&ConsumerState, &ConsumerMember, &ClassicMember), ErrorCode> {
        let state = self.consumer.as_ref().ok_or(ErrorCode::UNKNOWN_MEMBER_ID)?;
        check_instance(state, id, instance_id)?;
        let member = state.members.get(id).ok_or(ErrorCode::UNKNOWN_MEMBER_ID)?;
        let classic = member.classic.as_ref().ok_or(ErrorCode::UNKNOWN_MEMBER_ID)?;
        Ok((state, member, classic))
    }

    /// This classic group as one of the consumer protocol: everybody keeps what it has. `None` if not all are consumers.
    pub(super) fn upgraded(&self, image: &ClusterImage) -> Option<ConsumerState> {
        if self.protocol_type.as_deref() != Some(CONSUMER_PROTOCOL_TYPE) {
            return None;
        }
        let generation = self.generation();
        let stored = self.stored.as_ref();
        let mut state = ConsumerState {
            epoch: generation,
            target_epoch: generation,
            ..ConsumerState::default()
        };
        for (id, member) in &self.members {
            let (_, metadata) = member.protocols.first()?;
            let subscription = subscription::parse(metadata)?;
            let was = stored
                .filter(|stored| stored.assigned)
                .and_then(|stored| stored.members.get(id));
            let assigned = match was {
                Some(was) => subscription::parse_assignment(&was.assignment).unwrap_or_default(),
                // It is between two generations: what it says it has.
                None => subscription.owned,
            };
            let assigned = by_id(&assigned, image);
            let upgraded = ConsumerMember {
                instance_id: member.instance_id.clone(),
                rack_id: subscription.rack,
                client_id: member.client_id.clone(),
                client_host: member.client_host.clone(),
                rebalance_timeout_ms: member.rebalance_timeout_ms,
                topics: subscription.topics,
                epoch: generation,
                previous_epoch: generation,
                target: assigned.clone(),
                assigned,
                classic: Some(ClassicMember {
                    session_timeout_ms: member.session_timeout_ms,
                    protocols: member.protocols.clone(),
                }),
                ..ConsumerMember::default()
            };
            state.members.insert(id.clone(), Rc::new(upgraded));
        }
        Some(state)
    }

    /// After a write that may have changed the group's protocol: memory changes too.
    pub(super) fn follow_protocol(&mut self, ctx: &mut Ctx) {
        if self.consumer.is_some() && !self.members.is_empty() {
            for (id, member) in std::mem::take(&mut self.members) {
                if let Some(token) = member.joining {
                    let again = join_error(&id, ErrorCode::REBALANCE_IN_PROGRESS);
                    ctx.reply(token, GroupReply::Join(again));
                }
                if let Some(token) = member.syncing {
                    ctx.reply(token, GroupReply::Sync(sync_error(ErrorCode::REBALANCE_IN_PROGRESS)));
                }
            }
            self.instances.clear();
            self.pending_sync.clear();
            self.sync_deadline = None;
            self.leader = None;
            self.phase = Phase::Empty;
            log::info!("group {} is one of the consumer protocol now", self.id);
        }
        let downgraded = self.stored.as_ref().is_some_and(|stored| !stored.members.is_empty());
        if downgraded && self.members.is_empty() && !self.sessions.is_empty() {
            self.sessions.clear();
            self.revive(ctx);
            log::info!("group {} is a classic one now", self.id);
            self.prepare_rebalance(ctx);
        }
    }
}

/// The classic group that this one becomes if nobody in it speaks the consumer protocol any more.
pub(super) fn downgraded(state: &ConsumerState, image: &ClusterImage) -> Option<GroupState> {
    let mut members = BTreeMap::new();
    for (order, (id, member)) in state.members.iter().enumerate() {
        let classic = member.classic.as_ref()?;
        let metadata = classic.protocols.first().map(|(_, metadata)| metadata.clone());
        let downgraded = MemberState {
            instance_id: member.instance_id.clone(),
            order: order as u64,
            client_id: member.client_id.clone(),
            client_host: member.client_host.clone(),
            session_timeout_ms: classic.session_timeout_ms,
            rebalance_timeout_ms: member.rebalance_timeout_ms,
            metadata: metadata.unwrap_or_default(),
            assignment: encode_assignment(&member.assigned, image),
        };
        members.insert(id.clone(), downgraded);
    }
    let (leader, member) = state.members.first_key_value()?;
    let protocol = member.classic.as_ref().and_then(|classic| classic.protocols.first());
    // Members that had caught up stay in their generation and hear that there is a rebalance; the epoch that began when the
    // last one of the other protocol left was told to nobody.
    let latest = state.members.values().map(|member| member.epoch).max();
    let generation = latest.filter(|latest| latest.saturating_add(1) >= state.epoch);
    Some(GroupState {
        generation: generation.unwrap_or(state.epoch),
        protocol_type: Some(CONSUMER_PROTOCOL_TYPE.to_string()),
        protocol_name: protocol.map(|(name, _)| name.clone()),
        leader: Some(leader.clone()),
        assigned: true,
        since_ms: state.since_ms,
        members,
    })
}

/// The answer to a JoinGroup: nobody leads.
pub(super) fn joined(id: &str, member: &ConsumerMember, classic: &ClassicMember) -> GroupReply {
    GroupReply::Join(JoinGroupResponse {
        generation_id: member.epoch,
        protocol_type: Some(CONSUMER_PROTOCOL_TYPE.to_string()),
        protocol_name: classic.protocols.first().map(|(name, _)| name.clone()),
        member_id: id.to_string(),
        ..JoinGroupResponse::default()
    })
}

fn as_heartbeat(join: &Join, id: String, subscription: &Subscription, image: &ClusterImage) -> ConsumerHeartbeat {
    let owned = by_id(&subscription.owned, image);
    let own = |(name, metadata): &(String, Bytes)| (name.clone(), Bytes::copy_from_slice(metadata));
    ConsumerHeartbeat {
        request: ConsumerGroupHeartbeatRequest {
            group_id: join.group_id.clone(),
            member_id: id,
            instance_id: join.group_instance_id.clone(),
            rack_id: subscription.rack.clone(),
            rebalance_timeout_ms: join.rebalance_timeout_ms,
            subscribed_topic_names: Some(subscription.topics.iter().cloned().collect()),
            topic_partitions: Some(to_wire(&owned)),
            ..ConsumerGroupHeartbeatRequest::default()
        },
        draws_own_id: true,
        client_id: join.client_id.clone(),
        client_host: join.client_host.clone(),
        random: join.random,
        classic: Some(ClassicMember {
            session_timeout_ms: join.session_timeout_ms,
            protocols: join.protocols.iter().map(own).collect(),
        }),
    }
}

/// Whether some of what it waits for is free.
fn can_get_more(state: &ConsumerState, id: &str, member: &ConsumerMember) -> bool {
    let taken = taken_by_others(state, id);
    let waits = |topic_id, partition| !contains(&member.assigned, topic_id, partition);
    let mut target = member.target.iter();
    target.any(|(topic_id, partitions)| {
        let mut partitions = partitions.iter();
        partitions.any(|index| waits(*topic_id, *index) && !contains(&taken, *topic_id, *index))
    })
}

fn check_instance(state: &ConsumerState, id: &str, instance_id: Option<&str>) -> Result<(), ErrorCode> {
    let Some(instance_id) = instance_id else {
        return Ok(());
    };
    match state.instance(instance_id) {
        None => Err(ErrorCode::UNKNOWN_MEMBER_ID),
        Some((current, _)) if current != id => Err(ErrorCode::FENCED_INSTANCE_ID),
        Some(_) => Ok(()),
    }
}

fn by_id(topics: &BTreeMap<String, Vec<i32>>, image: &ClusterImage) -> Assignment {
    let mut assignment = Assignment::new();
    for (name, partitions) in topics {
        if let (Some(topic), false) = (image.topics.get(name), partitions.is_empty()) {
            assignment.insert(topic.record.topic_id, partitions.iter().copied().collect());
        }
    }
    assignment
}

fn encode_assignment(assignment: &Assignment, image: &ClusterImage) -> Bytes {
    let topics = assignment.iter().filter_map(|(topic_id, partitions)| {
        Some((
            image.names.get(topic_id)?.as_str(),
            partitions.iter().copied().collect(),
        ))
    });
    subscription::encode_assignment(&topics.collect())
}
