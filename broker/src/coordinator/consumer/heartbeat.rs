//! ConsumerGroupHeartbeat: joining, staying, leaving, all in one request.

use super::super::api::{join_error, GroupReply, ReplyToken};
use super::super::group::{Ctx, Group};
use super::super::ledger::After;
use super::super::record::{Record, StoredState};
use super::assignor::{Assignor, Member, Shares};
use super::mixed;
use super::reconcile::reconcile;
use super::state::{
    from_wire, to_wire, Assignment, ClassicMember, ConsumerMember, ConsumerState, MemberPhase, LEFT_FOR_A_WHILE,
};
use crate::cluster::image::{ClusterImage, TopicImage};
use kafscale_codec::error_code::ErrorCode;
use kafscale_codec::messages::{ConsumerGroupHeartbeatRequest, ConsumerGroupHeartbeatResponse, HeartbeatAssignment};
use kafscale_codec::types::TopicId;
use std::collections::{BTreeMap, BTreeSet};
use std::hash::{Hash, Hasher};
use std::rc::Rc;

/// The epoch of a heartbeat that joins (KIP-848).
const JOINS: i32 = 0;

/// The epoch of a heartbeat that leaves for good (KIP-848).
const LEAVES: i32 = -1;

/// The setting of a group that says how long a member may be silent.
pub const SESSION_TIMEOUT_MS: &str = "consumer.session.timeout.ms";

/// The setting of a group that says how often members give a sign of life.
pub const HEARTBEAT_INTERVAL_MS: &str = "consumer.heartbeat.interval.ms";

/// The epoch of a group before its first member has joined: the member's is the next.
const FIRST_EPOCH: i32 = 1;

/// A compiled regular expression may take this many bytes: clients choose it.
const REGEX_BYTES_MAX: usize = 1 << 20;

/// ConsumerGroupHeartbeat, with what the coordinator knows of its sender.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct ConsumerHeartbeat {
    /// As it came.
    pub request: ConsumerGroupHeartbeatRequest,
    /// Whether members draw their own ids (version 1).
    pub draws_own_id: bool,
    /// What the client calls itself.
    pub client_id: String,
    /// Where it comes from.
    pub client_host: String,
    /// Random bits for a new member id.
    pub random: u128,
    /// Set if it stands for the JoinGroup of a classic member, which is answered as such.
    pub classic: Option<ClassicMember>,
}

/// An error with a word to the user.
#[derive(Debug, Clone, PartialEq)]
pub struct Refusal(pub ErrorCode, pub String);

impl Refusal {
    fn new(error: ErrorCode, message: impl Into<String>) -> Self {
        Refusal(error, message.into())
    }
}

/// The answer that says nothing but an error.
pub fn refused(error_code: ErrorCode, message: Option<String>) -> GroupReply {
    GroupReply::ConsumerHeartbeat(ConsumerGroupHeartbeatResponse {
        error_code,
        error_message: message,
        ..ConsumerGroupHeartbeatResponse::default()
    })
}

impl ConsumerHeartbeat {
    fn refuse(&self, Refusal(error, message): Refusal) -> GroupReply {
        match &self.classic {
            None => refused(error, Some(message)),
            Some(_) => GroupReply::Join(join_error(&self.request.member_id, error)),
        }
    }
}

/// What lives in memory of a member.
#[derive(Debug, Clone, Copy)]
pub struct Session {
    /// Without a word until then it is out.
    pub deadline: u64,
    /// Until then it has to have given up what it was told to.
    pub revoke_by: Option<u64>,
}

/// What can be said of a request without knowing the group.
pub fn check(heartbeat: &ConsumerHeartbeat) -> Result<(), Refusal> {
    let request = &heartbeat.request;
    let invalid = |message: &str| Err(Refusal::new(ErrorCode::INVALID_REQUEST, message));
    let empty = |text: &Option<String>| text.as_ref().is_some_and(String::is_empty);
    if request.group_id.is_empty() {
        return invalid("GroupId can't be empty.");
    }
    if empty(&request.instance_id) || empty(&request.rack_id) {
        return invalid("InstanceId and RackId can't be empty.");
    }
    if request.member_id.is_empty() && (heartbeat.draws_own_id || request.member_epoch != JOINS) {
        return invalid("MemberId can't be empty.");
    }
    match request.member_epoch {
        JOINS => {
            if request.rebalance_timeout_ms <= 0 {
                return invalid("RebalanceTimeoutMs must be provided in first request.");
            }
            if request.topic_partitions.as_ref().is_none_or(|owned| !owned.is_empty()) {
                return invalid("TopicPartitions must be empty when (re-)joining.");
            }
            if request.subscribed_topic_names.is_none() && request.subscribed_topic_regex.is_none() {
                return invalid("Either SubscribedTopicNames or SubscribedTopicRegex must be set in first request.");
            }
        }
        LEFT_FOR_A_WHILE if request.instance_id.is_none() => {
            return invalid("InstanceId can't be null when a static member leaves to come back.");
        }
        epoch if epoch < LEFT_FOR_A_WHILE => return invalid("MemberEpoch is invalid."),
        _ => {}
    }
    if let Some(name) = &request.server_assignor {
        if Assignor::by_name(name).is_none() {
            let known = Assignor::ALL.map(Assignor::name).join(", ");
            let message = format!("ServerAssignor {name} is not supported. Supported assignors: {known}.");
            return Err(Refusal::new(ErrorCode::UNSUPPORTED_ASSIGNOR, message));
        }
    }
    // Who leaves subscribes to nothing.
    let regex = request.subscribed_topic_regex.as_ref();
    if let Some(regex) = regex.filter(|regex| !regex.is_empty() && request.member_epoch >= JOINS) {
        if let Err(error) = compile(regex) {
            let message = format!("SubscribedTopicRegex {regex:?} is not valid: {error}");
            return Err(Refusal::new(ErrorCode::INVALID_REGULAR_EXPRESSION, message));
        }
    }
    Ok(())
}

/// As RE2: the whole name has to match.
fn compile(regex: &str) -> Result<regex::Regex, regex::Error> {
    regex::RegexBuilder::new(&format!("^(?:{regex})$"))
        .size_limit(REGEX_BYTES_MAX)
        .build()
}

impl Group {
    /// Answers a heartbeat that changes nothing from memory; `None` if it may change something.
    pub fn consumer_heartbeat_in_memory(&mut self, ctx: &mut Ctx, heartbeat: &ConsumerHeartbeat) -> Option<GroupReply> {
        let state = self.consumer.as_ref()?;
        let request = &heartbeat.request;
        let member = state.members.get(&request.member_id)?;
        if self.state_writing && self.expelling.contains(&request.member_id) {
            // It may be out already: others may hear that first.
            return None;
        }
        let unchanged = request.member_epoch > JOINS
            && member.epoch == request.member_epoch
            && state.epoch == member.epoch
            && state.target_epoch == member.epoch
            && member.phase == MemberPhase::Stable
            && member.classic.is_none()
            && self
                .image_seen
                .as_ref()
                .is_some_and(|seen| std::sync::Arc::ptr_eq(seen, ctx.image))
            && request.instance_id == member.instance_id
            && request
                .rack_id
                .as_ref()
                .is_none_or(|rack| member.rack_id.as_ref() == Some(rack))
            && request
                .server_assignor
                .as_ref()
                .is_none_or(|name| member.assignor.as_ref() == Some(name))
            && (request.rebalance_timeout_ms < 0 || request.rebalance_timeout_ms == member.rebalance_timeout_ms)
            && request
                .subscribed_topic_regex
                .as_deref()
                .is_none_or(|regex| member.regex.as_deref().unwrap_or("") == regex)
            && request.subscribed_topic_names.as_ref().is_none_or(|names| {
                names.len() == member.topics.len() && names.iter().all(|name| member.topics.contains(name))
            });
        if !unchanged {
            return None;
        }
        let response = response(ctx, &self.id, &request.member_id, member, says_everything(request));
        self.restart_session(ctx, &request.member_id);
        Some(response)
    }

    /// Works on heartbeats together, and stores what they change: first everybody says what is new, then there is one new
    /// epoch for all of it, then each takes its step.
    pub fn consumer_heartbeats(&mut self, ctx: &mut Ctx, heartbeats: Vec<(ReplyToken, ConsumerHeartbeat)>) {
        let mut next: Option<ConsumerState> = None;
        let mut changed = false;
        let mut entered = Vec::with_capacity(heartbeats.len());
        for (token, heartbeat) in heartbeats {
            let begun = next
                .take()
                .map_or_else(|| self.as_consumer_group(&heartbeat, ctx.image), Ok);
            let result = begun.and_then(|mut state| {
                let result = enter(&mut state, ctx, &heartbeat);
                next = Some(state);
                result
            });
            match result {
                Ok(step) => {
                    changed |= step.changes_group;
                    entered.push((token, heartbeat, step));
                }
                Err(refusal) => ctx.reply(token, heartbeat.refuse(refusal)),
            }
        }
        let Some(mut state) = next.filter(|_| !entered.is_empty()) else {
            return;
        };
        if changed || topics_hash(&state, ctx.image) != state.topics_hash {
            bump(&mut state, ctx.image);
        }
        // As Kafka: who leaves makes a new epoch, and the next one that stays has it assigned.
        let somebody_stays = entered.iter().any(|(_, _, step)| step.before.is_some());
        if somebody_stays && state.epoch > state.target_epoch {
            assign(&mut state, ctx.image);
        }
        let mut replies = Vec::with_capacity(entered.len());
        for (token, heartbeat, step) in entered {
            let reply = match step.before {
                Some(before) => go_on(&mut state, ctx, &heartbeat, &step.id, &before),
                None => left(&heartbeat.request),
            };
            replies.push((token, step.id, reply));
        }
        self.image_seen = Some(ctx.image.clone());
        if self.consumer.as_deref() == Some(&state) {
            self.consumer_heartbeats_decided(ctx, replies, None);
        } else {
            self.write_consumer(ctx, state, After::Heartbeats { replies });
        }
    }

    fn write_consumer(&mut self, ctx: &mut Ctx, mut state: ConsumerState, after: After) {
        state.since_ms = ctx.now.wall_ms;
        let state = match mixed::downgraded(&state, ctx.image) {
            Some(classic) => StoredState::Classic(classic),
            None => StoredState::Consumer(Rc::new(state)),
        };
        let record = Record::Group {
            group: self.id.clone(),
            state: Some(state),
        };
        self.write(ctx, vec![record], after);
    }

    /// What the heartbeats changed is stored, or is not.
    pub fn consumer_heartbeats_decided(
        &mut self,
        ctx: &mut Ctx,
        replies: Vec<(ReplyToken, String, GroupReply)>,
        error: Option<ErrorCode>,
    ) {
        for (token, member_id, reply) in replies {
            match (error, reply) {
                (Some(error), GroupReply::Join(reply)) => {
                    ctx.reply(token, GroupReply::Join(join_error(&reply.member_id, error)));
                }
                (Some(error), _) => ctx.reply(token, refused(error, None)),
                (None, reply) => {
                    self.restart_session(ctx, &member_id);
                    ctx.reply(token, reply);
                }
            }
        }
        self.consumers_decided(ctx);
    }

    /// A write of the group's state is decided: memory follows what is stored now.
    pub fn consumers_decided(&mut self, ctx: &mut Ctx) {
        self.follow_protocol(ctx);
        self.sync_sessions(ctx);
    }

    /// A member of the consumer protocol's group gave a sign of life.
    pub fn restart_session(&mut self, ctx: &Ctx, member_id: &str) {
        let member = self.consumer.as_ref().and_then(|state| state.members.get(member_id));
        if let (Some(member), Some(session)) = (member, self.sessions.get_mut(member_id)) {
            session.deadline = ctx.deadline(session_ms(ctx, &self.id, member));
        }
    }

    /// Everybody who is stored has a session, and who has to give something up has a deadline for it.
    pub fn sync_sessions(&mut self, ctx: &Ctx) {
        let Some(state) = &self.consumer else {
            self.sessions.clear();
            return;
        };
        self.sessions.retain(|id, _| state.members.contains_key(id));
        for (id, member) in &state.members {
            let session = self.sessions.entry(id.clone()).or_insert_with(|| Session {
                deadline: ctx.deadline(session_ms(ctx, &self.id, member)),
                revoke_by: None,
            });
            // A classic member gets on by joining again.
            let shall_join = member.classic.is_some() && member.epoch < state.epoch;
            if member.phase == MemberPhase::Unrevoked || shall_join {
                session
                    .revoke_by
                    .get_or_insert(ctx.deadline(member.rebalance_timeout_ms));
            } else {
                session.revoke_by = None;
            }
        }
    }

    /// Members that gave no sign of life, or did not give up in time, are out.
    pub fn expel_consumers(&mut self, ctx: &mut Ctx) {
        let now = ctx.now.monotonic_ms;
        let due =
            |session: &Session| session.deadline <= now || session.revoke_by.is_some_and(|deadline| deadline <= now);
        let late: Vec<String> = self
            .sessions
            .iter()
            .filter(|(_, session)| due(session))
            .map(|(id, _)| id.clone())
            .collect();
        if !late.is_empty() {
            self.remove_consumers(ctx, &late, After::Cleaned);
        }
    }

    /// Takes members out of the group, and stores that.
    pub fn remove_consumers(&mut self, ctx: &mut Ctx, ids: &[String], after: After) {
        let Some(state) = &self.consumer else { return };
        let mut state = ConsumerState::clone(state);
        for id in ids {
            // In case the write fails: they are tried again, a session later.
            self.restart_session(ctx, id);
            if let Some(session) = self.sessions.get_mut(id) {
                session.revoke_by = None;
            }
            state.members.remove(id);
        }
        self.expelling = ids.iter().cloned().collect();
        bump(&mut state, ctx.image);
        self.write_consumer(ctx, state, after);
    }

    /// The group as one of the new protocol, if it is one or can become one.
    fn as_consumer_group(&self, heartbeat: &ConsumerHeartbeat, image: &ClusterImage) -> Result<ConsumerState, Refusal> {
        if let Some(state) = &self.consumer {
            if self.members.is_empty() {
                return Ok(ConsumerState::clone(state));
            }
        }
        if heartbeat.request.member_epoch != JOINS && self.consumer.is_none() && self.stored.is_none() {
            let message = format!("Group {} not found.", self.id);
            return Err(Refusal::new(ErrorCode::GROUP_ID_NOT_FOUND, message));
        }
        if !self.members.is_empty() {
            let refusal = || {
                let message = format!("Group {} is not a consumer group.", self.id);
                Refusal::new(ErrorCode::GROUP_ID_NOT_FOUND, message)
            };
            return self.upgraded(image).ok_or_else(refusal);
        }
        // Numbers go on: a commit of a generation long past must not look like one of an epoch. A group that is new begins
        // where Kafka's does.
        let epoch = self.generation().max(FIRST_EPOCH);
        Ok(ConsumerState {
            epoch,
            target_epoch: epoch,
            ..ConsumerState::default()
        })
    }
}

fn session_ms(ctx: &Ctx, group: &str, member: &ConsumerMember) -> u64 {
    let classic = member.classic.as_ref();
    let session_ms = classic.and_then(|classic| u64::try_from(classic.session_timeout_ms).ok());
    let of_group = || ctx.image.group_number(group, SESSION_TIMEOUT_MS);
    session_ms
        .or_else(of_group)
        .unwrap_or(ctx.config.consumer_session_timeout_ms)
}

/// Whether a heartbeat carries all that there is to say, and wants to hear all.
fn says_everything(request: &ConsumerGroupHeartbeatRequest) -> bool {
    let subscribes = request.subscribed_topic_names.is_some() || request.subscribed_topic_regex.is_some();
    request.member_epoch == JOINS
        || (request.rebalance_timeout_ms >= 0 && subscribes && request.topic_partitions.is_some())
}

fn response(ctx: &Ctx, group: &str, member_id: &str, member: &ConsumerMember, with_assignment: bool) -> GroupReply {
    let of_group = ctx.image.group_number(group, HEARTBEAT_INTERVAL_MS);
    let interval_ms = of_group.and_then(|interval_ms| i32::try_from(interval_ms).ok());
    GroupReply::ConsumerHeartbeat(ConsumerGroupHeartbeatResponse {
        member_id: Some(member_id.to_string()),
        member_epoch: member.epoch,
        heartbeat_interval_ms: interval_ms.unwrap_or(ctx.config.consumer_heartbeat_interval_ms),
        assignment: with_assignment.then(|| HeartbeatAssignment {
            topic_partitions: to_wire(&member.assigned),
        }),
        ..ConsumerGroupHeartbeatResponse::default()
    })
}

/// What came of a heartbeat's first half.
struct Entered {
    id: String,
    /// The member as it was; `None` if it left.
    before: Option<ConsumerMember>,
    /// Whether it takes a new epoch.
    changes_group: bool,
}

/// The first half of a heartbeat, on a copy of the group: who is it, and what does it say? An error leaves the copy as it
/// was.
fn enter(state: &mut ConsumerState, ctx: &Ctx, heartbeat: &ConsumerHeartbeat) -> Result<Entered, Refusal> {
    let request = &heartbeat.request;
    if matches!(request.member_epoch, LEAVES | LEFT_FOR_A_WHILE) {
        return leave(state, request);
    }
    let (id, before) = find_or_add(state, ctx, heartbeat)?;
    let mut member = before.clone();
    take_over(&mut member, heartbeat);
    let resubscribed = member.topics != before.topics || member.regex != before.regex;
    let changes_group = resubscribed || before.epoch == 0 || member.assignor != before.assignor;
    state.put(&id, member);
    Ok(Entered {
        id,
        before: Some(before),
        changes_group,
    })
}

/// The second half: the member takes a step towards its target, and is told.
fn go_on(
    state: &mut ConsumerState,
    ctx: &Ctx,
    heartbeat: &ConsumerHeartbeat,
    id: &str,
    before: &ConsumerMember,
) -> GroupReply {
    let request = &heartbeat.request;
    let Some(member) = state.member(id) else {
        return heartbeat.refuse(unknown_member(id)); // It left in the same moment.
    };
    let owned = request.topic_partitions.as_deref().map(from_wire);
    let member = reconcile(state, id, member, owned.as_ref());
    let with_assignment = says_everything(request) || member.assigned != before.assigned;
    let reply = match &member.classic {
        Some(classic) => mixed::joined(id, &member, classic),
        None => response(ctx, &request.group_id, id, &member, with_assignment),
    };
    state.put(id, member);
    reply
}

fn leave(state: &mut ConsumerState, request: &ConsumerGroupHeartbeatRequest) -> Result<Entered, Refusal> {
    let id = request.member_id.clone();
    let mut member = state.member(&id).ok_or_else(|| unknown_member(&id))?;
    check_instance(state, &id, request)?;
    let for_a_while = request.member_epoch == LEFT_FOR_A_WHILE;
    if for_a_while {
        // What it was told to give up it has given up: it does not consume any more.
        member.epoch = LEFT_FOR_A_WHILE;
        member.revoking = Assignment::new();
        member.phase = MemberPhase::Stable;
        state.put(&id, member);
    } else {
        state.members.remove(&id);
    }
    Ok(Entered {
        id,
        before: None,
        changes_group: !for_a_while,
    })
}

fn left(request: &ConsumerGroupHeartbeatRequest) -> GroupReply {
    GroupReply::ConsumerHeartbeat(ConsumerGroupHeartbeatResponse {
        member_id: Some(request.member_id.clone()),
        member_epoch: request.member_epoch,
        ..ConsumerGroupHeartbeatResponse::default()
    })
}

fn unknown_member(id: &str) -> Refusal {
    Refusal::new(
        ErrorCode::UNKNOWN_MEMBER_ID,
        format!("Member {id} is not a member of the group."),
    )
}

fn check_instance(state: &ConsumerState, id: &str, request: &ConsumerGroupHeartbeatRequest) -> Result<(), Refusal> {
    let Some(instance_id) = &request.instance_id else {
        return Ok(());
    };
    match state.instance(instance_id) {
        None => Err(unknown_member(id)),
        Some((current, _)) if current != id => {
            let message = format!("Static member {instance_id} was taken over by member {current}.");
            Err(Refusal::new(ErrorCode::FENCED_INSTANCE_ID, message))
        }
        Some(_) => Ok(()),
    }
}

/// The sender's id, and the member as it was until now: a new one has epoch 0.
fn find_or_add(
    state: &mut ConsumerState,
    ctx: &Ctx,
    heartbeat: &ConsumerHeartbeat,
) -> Result<(String, ConsumerMember), Refusal> {
    let request = &heartbeat.request;
    if request.member_epoch != JOINS {
        check_instance(state, &request.member_id, request)?;
        let member = state
            .member(&request.member_id)
            .ok_or_else(|| unknown_member(&request.member_id))?;
        check_epoch(&member, request)?;
        return Ok((request.member_id.clone(), member));
    }
    let id = if request.member_id.is_empty() {
        super::super::as_uuid(heartbeat.random)
    } else {
        request.member_id.clone()
    };
    let instance = request
        .instance_id
        .as_deref()
        .and_then(|instance_id| state.instance(instance_id));
    let instance = instance.map(|(old_id, member)| (old_id.clone(), ConsumerMember::clone(member)));
    let Some((old_id, mut member)) = instance else {
        if let Some(member) = state.member(&id) {
            return Ok((id, member));
        }
        has_room(state, ctx, heartbeat)?;
        return Ok((id, ConsumerMember::default()));
    };
    if old_id != id {
        // A classic static member that comes back takes over from its former self at once (KIP-345).
        let takes_over = heartbeat.classic.is_some() && member.classic.is_some();
        if member.epoch != LEFT_FOR_A_WHILE && !takes_over {
            let instance_id = request.instance_id.as_deref().unwrap_or_default();
            let message = format!("Static member {instance_id} is in use by member {old_id}, which has not left.");
            return Err(Refusal::new(ErrorCode::UNRELEASED_INSTANCE_ID, message));
        }
        state.members.remove(&old_id);
    }
    if member.epoch == LEFT_FOR_A_WHILE {
        // It goes on where its former self was: nobody else notices.
        member.epoch = state.target_epoch;
        member.previous_epoch = state.target_epoch;
    }
    Ok((id, member))
}

/// Whether one more member can be stored.
fn has_room(state: &ConsumerState, ctx: &Ctx, heartbeat: &ConsumerHeartbeat) -> Result<(), Refusal> {
    let request = &heartbeat.request;
    let names = request.subscribed_topic_names.iter().flatten().map(String::len);
    let regex = request.subscribed_topic_regex.as_ref().map_or(0, String::len);
    let bytes = state.bytes() + names.sum::<usize>() + regex + heartbeat.client_id.len();
    if state.members.len() >= ctx.config.group_size_max || bytes > ctx.config.group_bytes_max / 2 {
        let message = format!(
            "The group has {} members, and there is no room for more.",
            state.members.len()
        );
        return Err(Refusal::new(ErrorCode::GROUP_MAX_SIZE_REACHED, message));
    }
    Ok(())
}

/// The member's epoch, or the one before with nothing that it was not given: then an answer was lost (KIP-848).
fn check_epoch(member: &ConsumerMember, request: &ConsumerGroupHeartbeatRequest) -> Result<(), Refusal> {
    let fenced = |how: &str| {
        let message = format!(
            "The consumer group member has a {how} member epoch ({}) than the one known by the group coordinator ({}). \
             The member must abandon all its partitions and rejoin.",
            request.member_epoch, member.epoch
        );
        Err(Refusal::new(ErrorCode::FENCED_MEMBER_EPOCH, message))
    };
    if request.member_epoch > member.epoch {
        return fenced("greater");
    }
    if request.member_epoch == member.epoch {
        return Ok(());
    }
    let owned = request.topic_partitions.as_deref().map(from_wire);
    let was_given = |(topic, indexes): (&TopicId, &BTreeSet<i32>)| {
        member.assigned.get(topic).is_some_and(|given| indexes.is_subset(given))
    };
    let within = owned.is_some_and(|owned| owned.iter().all(was_given));
    if request.member_epoch == member.previous_epoch && within {
        return Ok(());
    }
    fenced("smaller")
}

fn take_over(member: &mut ConsumerMember, heartbeat: &ConsumerHeartbeat) {
    let request = &heartbeat.request;
    member.client_id.clone_from(&heartbeat.client_id);
    member.client_host.clone_from(&heartbeat.client_host);
    member.classic.clone_from(&heartbeat.classic);
    if request.instance_id.is_some() {
        member.instance_id.clone_from(&request.instance_id);
    }
    if request.rack_id.is_some() {
        member.rack_id.clone_from(&request.rack_id);
    }
    if request.rebalance_timeout_ms >= 0 {
        member.rebalance_timeout_ms = request.rebalance_timeout_ms;
    }
    if let Some(names) = &request.subscribed_topic_names {
        member.topics = names.iter().cloned().collect();
    }
    if let Some(regex) = &request.subscribed_topic_regex {
        member.regex = Some(regex.clone()).filter(|regex| !regex.is_empty());
    }
    if request.server_assignor.is_some() {
        member.assignor.clone_from(&request.server_assignor);
    }
}

/// The topics that exist of those that somebody subscribes to, by member.
fn subscriptions<'a>(state: &'a ConsumerState, image: &'a ClusterImage) -> BTreeMap<&'a str, BTreeSet<&'a str>> {
    let mut by_regex: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    let mut result = BTreeMap::new();
    for (id, member) in &state.members {
        let named = member.topics.iter().filter(|name| image.topics.contains_key(*name));
        let mut topics: BTreeSet<&str> = named.map(String::as_str).collect();
        if let Some(regex) = &member.regex {
            let matching = by_regex.entry(regex).or_insert_with(|| {
                // It was compiled when it came in.
                let Ok(compiled) = compile(regex) else {
                    return BTreeSet::new();
                };
                image
                    .topics
                    .keys()
                    .map(String::as_str)
                    .filter(|name| compiled.is_match(name))
                    .collect()
            });
            topics.extend(matching.iter());
        }
        result.insert(id.as_str(), topics);
    }
    result
}

/// Topics that members of the group subscribe to, whether by name or otherwise.
pub fn subscribed_topics(state: &ConsumerState, image: &ClusterImage) -> BTreeSet<String> {
    let existing = subscriptions(state, image).into_values().flatten().map(str::to_string);
    let named = state.members.values().flat_map(|member| member.topics.iter().cloned());
    existing.chain(named).collect()
}

/// Changes when a subscribed topic comes, goes or grows.
fn topics_hash(state: &ConsumerState, image: &ClusterImage) -> u64 {
    let topics: BTreeSet<&str> = subscriptions(state, image).into_values().flatten().collect();
    let mut hasher = Fnv::default();
    for name in topics {
        if let Some(topic) = image.topics.get(name) {
            (topic.record.topic_id.0, topic.record.partitions).hash(&mut hasher);
        }
    }
    hasher.finish()
}

/// FNV-1a: the same value on every machine and in every version, since it is stored.
struct Fnv(u64);

impl Default for Fnv {
    fn default() -> Self {
        Fnv(0xcbf2_9ce4_8422_2325)
    }
}

impl Hasher for Fnv {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = (self.0 ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
        }
    }
}

/// A new epoch begins; its targets are made with the next heartbeat.
fn bump(state: &mut ConsumerState, image: &ClusterImage) {
    state.epoch = state.epoch.checked_add(1).unwrap_or(1);
    state.topics_hash = topics_hash(state, image);
}

/// Makes the targets of this epoch.
fn assign(state: &mut ConsumerState, image: &ClusterImage) {
    let assignor = chosen(state);
    let subscriptions = subscriptions(state, image);
    let mut shares = Shares::default();
    for (id, member) in &state.members {
        let mut subscribed = BTreeSet::new();
        for name in subscriptions.get(id.as_str()).into_iter().flatten() {
            if let Some(topic) = image.topics.get(*name) {
                let record = &topic.record;
                shares
                    .topics
                    .insert(record.topic_id, i32::try_from(record.partitions).unwrap_or(i32::MAX));
                subscribed.insert(record.topic_id);
            }
        }
        let member = Member {
            instance_id: member.instance_id.as_deref(),
            rack: member.rack_id.as_deref(),
            subscribed,
            had: &member.target,
        };
        shares.members.insert(id, member);
    }
    if shares.members.values().any(|member| member.rack.is_some()) {
        shares.racks = racks(&shares.topics, image);
    }
    let targets: Vec<(String, BTreeMap<TopicId, BTreeSet<i32>>)> = assignor
        .assign(&shares)
        .into_iter()
        .map(|(id, target)| (id.to_string(), target))
        .collect();
    for (id, target) in targets {
        if let Some(mut member) = state.member(&id) {
            member.target = target;
            state.put(&id, member);
        }
    }
    state.target_epoch = state.epoch;
    state.assignor = assignor.name().to_string();
}

/// Where partitions are led, as far as their leaders say where they stand.
fn racks<'a>(topics: &BTreeMap<TopicId, i32>, image: &'a ClusterImage) -> BTreeMap<(TopicId, i32), &'a str> {
    let rack = |topic: &TopicImage, partition| {
        let leader = image.live_leader(topic, partition)?;
        image.brokers.get(&leader.broker_id)?.rack.as_deref()
    };
    let partitions = topics
        .iter()
        .flat_map(|(id, count)| (0..*count).map(move |partition| (*id, partition)));
    partitions
        .filter_map(|(id, partition)| Some(((id, partition), rack(image.topic_by_id(id)?, partition)?)))
        .collect()
}

/// What most members would like; who says nothing would like the default.
fn chosen(state: &ConsumerState) -> Assignor {
    let mut votes = Assignor::ALL.map(|assignor| (0, assignor));
    for member in state.members.values() {
        let wanted = member.assignor.as_deref().and_then(Assignor::by_name);
        for (count, assignor) in &mut votes {
            *count += u32::from(Some(*assignor) == wanted);
        }
    }
    // The first of those with most votes.
    let most = votes.iter().map(|(count, _)| *count).max().unwrap_or_default();
    let first = votes.iter().find(|(count, _)| *count == most);
    first.map_or(Assignor::Uniform, |(_, assignor)| *assignor)
}
