//! The group coordinator: who is in which group, who consumes what, and how far everybody is.
//!
//! [`Groups`] is a pure state machine. What is stored of a group changes only by [`Groups::replay`], live and in
//! recovery alike; all else (who waits in JoinGroup, sessions, deadlines) is memory that a new coordinator builds anew.
//! A step yields records and replies. A reply that rests on records is given out only when the caller has said, with
//! [`Groups::on_durable`], that they are stored. Until then work that would change the same group's state waits in line,
//! heartbeats excepted.

mod api;
mod classic;
mod consumer;
mod group;
pub mod host;
mod ledger;
mod offsets;
mod record;
pub mod service;
mod static_members;
mod subscription;
#[cfg(test)]
mod tests;

pub use api::{
    Commit, CommitOffset, DeleteOffsets, FetchOffsets, GroupConfig, GroupReply, GroupRequest, Join, Leave, Now,
    ReplyToken,
};
pub use consumer::{
    Assignor, ConsumerHeartbeat, ConsumerMember, ConsumerState, MemberPhase, HEARTBEAT_INTERVAL_MS, SESSION_TIMEOUT_MS,
};
pub use ledger::{GroupWrite, Output, WriteId, RECORDS_PER_WRITE_MAX};
pub use record::{GroupDecodeError, GroupState, MemberState, Record, StoredState};
pub use subscription::parse_assignment;

use crate::cluster::image::ClusterImage;
use crate::planted::{self, Bug};
use group::{Ctx, Group, Work};
use kafscale_codec::error_code::ErrorCode;
use kafscale_codec::types::TopicId;
use kafscale_metastore::keys::{Key, OffsetRecord};
use ledger::{After, Decided, Ledger};
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;
use std::rc::Rc;
use std::sync::Arc;

/// What is stored of one group.
pub type StoredGroup = (Option<StoredState>, BTreeMap<(TopicId, i32), OffsetRecord>);

/// All groups of one coordinator.
#[derive(Debug, Default)]
pub struct Groups {
    config: GroupConfig,
    groups: BTreeMap<String, Group>,
    /// Groups whose state is stored and cannot be decoded. Nothing is done for them.
    unreadable: BTreeSet<String>,
    timers: BTreeSet<(u64, String)>,
    ledger: Ledger,
    image: Arc<ClusterImage>,
}

impl Groups {
    /// A coordinator without groups.
    pub fn new(config: GroupConfig) -> Self {
        Groups {
            config,
            ..Groups::default()
        }
    }

    /// Applies one record. In recovery: for everything that is stored, then [`Groups::recovered`].
    pub fn replay(&mut self, record: &Record) {
        let id = record.group();
        if !self.groups.contains_key(id) {
            self.groups.insert(id.to_string(), Group::new(id));
        }
        if let Some(group) = self.groups.get_mut(id) {
            group.replay(record);
        }
    }

    /// In recovery, instead of [`Groups::replay`]: something is stored under this key that cannot be decoded.
    pub fn replay_unreadable(&mut self, key: &Key) {
        match key {
            Key::Group(group) => drop(self.unreadable.insert(group.clone())),
            Key::Offset {
                group,
                topic_id,
                partition,
            } => {
                let group = self.groups.entry(group.clone()).or_insert_with(|| Group::new(group));
                group.unreadable.insert((*topic_id, *partition));
            }
            _ => {}
        }
    }

    /// Everything stored has been replayed: sessions start.
    pub fn recovered(&mut self, now: Now) {
        let ids: Vec<String> = self.groups.keys().cloned().collect();
        let mut out = Output::default();
        for id in ids {
            self.with_group(&id, now, &mut out, |group, ctx| group.revive(ctx));
            self.settle(&id);
        }
    }

    /// Handles one request. Every token is answered exactly once, in this output or a later one.
    pub fn handle(&mut self, now: Now, token: ReplyToken, request: GroupRequest) -> Output {
        let mut out = Output::default();
        if !self.unreadable.is_empty() && self.concerns_unreadable(&request) {
            // Clients try again: it may be a newer version's, and that version's coordinator may come back.
            out.replies
                .push((token, request.refuse(ErrorCode::COORDINATOR_LOAD_IN_PROGRESS)));
            return out;
        }
        match &request {
            GroupRequest::Describe { groups } => {
                let described = groups.iter().map(|id| match self.known(id) {
                    Some(group) => group.describe(),
                    None => offsets::describe_missing(id),
                });
                out.replies.push((token, GroupReply::Described(described.collect())));
            }
            GroupRequest::List { states, types } => {
                out.replies.push((token, self.list(states, types)));
            }
            GroupRequest::FetchOffsets(fetch) => {
                let reply = match self.groups.get(&fetch.group_id) {
                    Some(group) => group.fetch_offsets(fetch),
                    None => Group::new(&fetch.group_id).fetch_offsets(fetch),
                };
                out.replies.push((token, reply));
            }
            GroupRequest::Heartbeat(heartbeat) => {
                let error = self
                    .with_group(&heartbeat.group_id, now, &mut out, |group, ctx| {
                        group.heartbeat(ctx, heartbeat)
                    })
                    .unwrap_or(ErrorCode::UNKNOWN_MEMBER_ID);
                let error = if heartbeat.group_id.is_empty() {
                    ErrorCode::INVALID_GROUP_ID
                } else {
                    error
                };
                out.replies.push((token, GroupReply::Heartbeat(error)));
            }
            GroupRequest::ConsumerHeartbeat(heartbeat) => {
                if let Some(reply) = self.answer_from_memory(now, heartbeat, &mut out) {
                    out.replies.push((token, reply));
                } else {
                    self.handle_in_order(now, token, request, &mut out);
                }
            }
            GroupRequest::DescribeConsumers { groups } => {
                let described = groups.iter().map(|id| match self.known(id) {
                    _ if id.is_empty() => consumer::without_id(),
                    Some(group) => group.describe_consumer(&self.image),
                    None => consumer::not_described(id, format!("Group {id} not found.")),
                });
                out.replies
                    .push((token, GroupReply::DescribedConsumers(described.collect())));
            }
            GroupRequest::TopicsDeleted { topic_ids } => {
                self.topics_deleted(now, topic_ids, &mut out);
                out.replies.push((token, GroupReply::Done(ErrorCode::NONE)));
            }
            GroupRequest::ExpireOffsets => {
                self.expire_offsets(now, &mut out);
                out.replies.push((token, GroupReply::Done(ErrorCode::NONE)));
            }
            GroupRequest::Join(_)
            | GroupRequest::Sync(_)
            | GroupRequest::Leave(_)
            | GroupRequest::Commit(_)
            | GroupRequest::DeleteOffsets(_)
            | GroupRequest::DeleteGroup { .. } => self.handle_in_order(now, token, request, &mut out),
        }
        out
    }

    /// The write is stored: what waited for it goes on. Writes of one group are decided in the order in which they were
    /// given out.
    pub fn on_durable(&mut self, now: Now, id: WriteId) -> Output {
        self.decide(now, id, None)
    }

    /// The write is not stored, and never will be: what waited for it fails with `error`, which clients should take as
    /// a reason to try again.
    pub fn on_write_failed(&mut self, now: Now, id: WriteId, error: ErrorCode) -> Output {
        self.decide(now, id, Some(error))
    }

    /// When [`Groups::on_deadline`] wants to be called, in the monotonic clock's milliseconds.
    pub fn next_deadline(&self) -> Option<u64> {
        if planted::is(Bug::DeadlinesPassUnnoticed) {
            return None;
        }
        self.timers.first().map(|(deadline, _)| *deadline)
    }

    /// Ends sessions and waits that are over.
    pub fn on_deadline(&mut self, now: Now) -> Output {
        let mut out = Output::default();
        while let Some((deadline, id)) = self.timers.pop_first() {
            if deadline > now.monotonic_ms {
                self.timers.insert((deadline, id));
                break;
            }
            self.with_group(&id, now, &mut out, |group, ctx| {
                group.armed = None;
                if !group.state_writing {
                    group.on_deadline(ctx);
                }
            });
            self.settle(&id);
        }
        out
    }

    /// Writes that are not decided.
    pub fn writes_in_flight(&self) -> usize {
        self.ledger.len()
    }

    /// Topics for which any group has an offset.
    pub fn topics_with_offsets(&self) -> BTreeSet<TopicId> {
        let mut topics = BTreeSet::new();
        for group in self.groups.values() {
            topics.extend(group.unreadable.iter().map(|(id, _)| *id));
            let mut next = group.offsets.keys().next();
            while let Some((id, _)) = next {
                topics.insert(*id);
                let after = (Bound::Excluded((*id, i32::MAX)), Bound::Unbounded);
                next = group.offsets.range(after).next().map(|(key, _)| key);
            }
        }
        topics
    }

    /// What is stored, as far as this coordinator knows.
    pub fn stored(&self) -> BTreeMap<String, StoredGroup> {
        let groups = self.groups.iter();
        groups
            .map(|(id, group)| (id.clone(), (group.stored_state(), group.offsets.clone())))
            .filter(|(_, (state, offsets))| state.is_some() || !offsets.is_empty())
            .collect()
    }

    fn concerns_unreadable(&self, request: &GroupRequest) -> bool {
        match request {
            GroupRequest::Describe { groups } | GroupRequest::DescribeConsumers { groups } => {
                groups.iter().any(|group| self.unreadable.contains(group))
            }
            request => request.group_id().is_some_and(|group| self.unreadable.contains(group)),
        }
    }

    fn known(&self, id: &str) -> Option<&Group> {
        self.groups.get(id).filter(|group| group.is_known())
    }

    fn list(&self, states: &[String], types: &[String]) -> GroupReply {
        let wanted = |filter: &[String], value: &str| {
            filter.is_empty() || filter.iter().any(|wanted| wanted.eq_ignore_ascii_case(value))
        };
        let entries = self
            .groups
            .values()
            .filter(|group| group.is_known())
            .map(Group::list_entry);
        let groups = entries.filter(|entry| wanted(states, &entry.group_state) && wanted(types, &entry.group_type));
        GroupReply::Listed {
            error: ErrorCode::NONE,
            groups: groups.collect(),
        }
    }

    /// The picture of the cluster that groups are assigned by. The default is an empty one.
    pub fn set_image(&mut self, image: Arc<ClusterImage>) {
        self.image = image;
    }

    fn answer_from_memory(&mut self, now: Now, heartbeat: &ConsumerHeartbeat, out: &mut Output) -> Option<GroupReply> {
        if let Err(refusal) = consumer::check(heartbeat) {
            return Some(consumer::refused(refusal.0, Some(refusal.1)));
        }
        let id = &heartbeat.request.group_id;
        self.with_group(id, now, out, |group, ctx| {
            group.consumer_heartbeat_in_memory(ctx, heartbeat)
        })?
    }

    /// Checks what needs no group, and lets the rest wait for its turn.
    fn handle_in_order(&mut self, now: Now, token: ReplyToken, request: GroupRequest, out: &mut Output) {
        if let Err(error) = self.check(&request) {
            out.replies.push((token, request.refuse(error)));
            return;
        }
        if let GroupRequest::Leave(leave) = &request {
            if !self.groups.contains_key(&leave.group_id) {
                out.replies
                    .push((token, GroupReply::Leave(classic::nobody_left(leave))));
                return;
            }
        }
        let id = request
            .group_id()
            .expect("requests that come here are about one group")
            .to_string();
        let group = self.groups.entry(id.clone()).or_insert_with(|| Group::new(&id));
        if group.deferred.len() >= self.config.deferred_max {
            out.replies
                .push((token, request.refuse(ErrorCode::COORDINATOR_NOT_AVAILABLE)));
            return;
        }
        group.deferred.push_back(Work::Request(token, Box::new(request)));
        self.work(now, &id, out);
    }

    fn check(&self, request: &GroupRequest) -> Result<(), ErrorCode> {
        let config = &self.config;
        let no_such_group = || request.group_id().is_none_or(|id| !self.groups.contains_key(id));
        match request {
            GroupRequest::Join(_) | GroupRequest::Sync(_) | GroupRequest::Leave(_) | GroupRequest::DeleteOffsets(_)
                if request.group_id() == Some("") =>
            {
                Err(ErrorCode::INVALID_GROUP_ID)
            }
            GroupRequest::Join(join)
                if !(config.session_timeout_min_ms..=config.session_timeout_max_ms)
                    .contains(&join.session_timeout_ms) =>
            {
                Err(ErrorCode::INVALID_SESSION_TIMEOUT)
            }
            GroupRequest::Join(join) if !join.member_id.is_empty() && no_such_group() => {
                Err(ErrorCode::UNKNOWN_MEMBER_ID)
            }
            GroupRequest::Sync(_) if no_such_group() => Err(ErrorCode::UNKNOWN_MEMBER_ID),
            _ => Ok(()),
        }
    }

    /// Does what waits in line for a group, as far as its writes allow.
    fn work(&mut self, now: Now, id: &str, out: &mut Output) {
        self.with_group(id, now, out, |group, ctx| {
            while let Some(work) = group.deferred.front() {
                let needs_quiet = match work {
                    Work::TopicsDeleted(_) => true,
                    Work::Request(_, request) => {
                        matches!(
                            **request,
                            GroupRequest::DeleteGroup { .. } | GroupRequest::DeleteOffsets(_)
                        )
                    }
                };
                if group.state_writing || (needs_quiet && group.in_flight > 0) {
                    break;
                }
                let heartbeats = group.next_heartbeats();
                if !heartbeats.is_empty() {
                    group.consumer_heartbeats(ctx, heartbeats);
                } else if let Some(work) = group.deferred.pop_front() {
                    perform(group, ctx, work);
                }
            }
        });
        self.settle(id);
    }

    fn topics_deleted(&mut self, now: Now, topic_ids: &[TopicId], out: &mut Output) {
        let topic_ids: Rc<BTreeSet<TopicId>> = Rc::new(topic_ids.iter().copied().collect());
        let ids: Vec<String> = self.groups.keys().cloned().collect();
        for id in ids {
            if let Some(group) = self.groups.get_mut(&id) {
                // Commits for these topics may still be on their way, so even a group without offsets of them looks.
                group.deferred.push_back(Work::TopicsDeleted(topic_ids.clone()));
            }
            self.work(now, &id, out);
        }
    }

    fn expire_offsets(&mut self, now: Now, out: &mut Output) {
        let ids: Vec<String> = self.groups.keys().cloned().collect();
        for id in ids {
            if self.unreadable.contains(&id) {
                continue; // Nobody knows whether it has members.
            }
            self.with_group(&id, now, out, |group, ctx| {
                // A busy group is alive; there is another time.
                if group.in_flight == 0 && group.deferred.is_empty() {
                    group.expire_offsets(ctx);
                }
            });
            self.settle(&id);
        }
    }

    fn decide(&mut self, now: Now, id: WriteId, error: Option<ErrorCode>) -> Output {
        let mut out = Output::default();
        let Some((records, decided)) = self.ledger.decide(id, error) else {
            return out;
        };
        if error.is_none() {
            records.iter().for_each(|record| self.replay(record));
        }
        let Some(group_id) = records.first().map(|record| record.group().to_string()) else {
            return out;
        };
        self.with_group(&group_id, now, &mut out, |group, ctx| {
            group.in_flight -= 1;
            if let Some(decided) = decided {
                if decided.after.decides_state() {
                    group.state_writing = false;
                }
                conclude(group, ctx, decided);
            }
        });
        self.work(now, &group_id, &mut out);
        out
    }

    fn with_group<T>(
        &mut self,
        id: &str,
        now: Now,
        out: &mut Output,
        step: impl FnOnce(&mut Group, &mut Ctx) -> T,
    ) -> Option<T> {
        let group = self.groups.get_mut(id)?;
        let mut ctx = Ctx {
            now,
            config: &self.config,
            image: &self.image,
            ledger: &mut self.ledger,
            out,
        };
        Some(step(group, &mut ctx))
    }

    /// After a step: sets the group's timer, or forgets the group if nothing is left of it.
    fn settle(&mut self, id: &str) {
        let Some(group) = self.groups.get_mut(id) else { return };
        let vacant = group.is_vacant();
        let deadline = group.next_deadline().filter(|_| !vacant);
        if group.armed != deadline {
            if let Some(armed) = group.armed {
                self.timers.remove(&(armed, id.to_string()));
            }
            if let Some(deadline) = deadline {
                self.timers.insert((deadline, id.to_string()));
            }
            group.armed = deadline;
        }
        if vacant {
            self.groups.remove(id);
        }
    }
}

fn perform(group: &mut Group, ctx: &mut Ctx, work: Work) {
    match work {
        Work::TopicsDeleted(topic_ids) => group.delete_topics(ctx, &topic_ids),
        Work::Request(token, request) => match *request {
            GroupRequest::Join(join) => group.join(ctx, token, join),
            GroupRequest::Sync(sync) => group.sync(ctx, token, sync),
            GroupRequest::Leave(leave) => group.leave(ctx, token, leave),
            GroupRequest::Commit(commit) => group.commit(ctx, token, &commit),
            GroupRequest::DeleteOffsets(delete) => group.delete_offsets(ctx, token, &delete),
            GroupRequest::DeleteGroup { .. } => group.delete(ctx, token),
            GroupRequest::ConsumerHeartbeat(_) => unreachable!("taken out together"),
            GroupRequest::Heartbeat(_)
            | GroupRequest::FetchOffsets(_)
            | GroupRequest::Describe { .. }
            | GroupRequest::DescribeConsumers { .. }
            | GroupRequest::List { .. }
            | GroupRequest::TopicsDeleted { .. }
            | GroupRequest::ExpireOffsets => unreachable!("answered at once, never queued"),
        },
    }
}

fn conclude(group: &mut Group, ctx: &mut Ctx, Decided { after, error }: Decided) {
    let or_error = |results: Vec<ErrorCode>| -> Vec<ErrorCode> {
        let failed = error.unwrap_or_default();
        let result = |code| if code == ErrorCode::NONE { failed } else { code };
        results.into_iter().map(result).collect()
    };
    match after {
        After::Generation => group.generation_decided(ctx, error),
        After::Assignment => group.assignment_decided(ctx, error),
        After::Emptied => group.emptied(ctx, error),
        After::Replaced {
            token,
            old_id,
            new_id,
            join,
        } => {
            group.replaced(ctx, token, (old_id, new_id), &join, error);
        }
        After::Committed { token, results } => ctx.reply(token, GroupReply::Commit(or_error(results))),
        After::OffsetsDeleted { token, results } => {
            let (error, partitions) = (ErrorCode::NONE, or_error(results));
            ctx.reply(token, GroupReply::DeleteOffsets { error, partitions });
        }
        After::Deleted { token } => ctx.reply(token, GroupReply::Deleted(error.unwrap_or_default())),
        After::Heartbeats { replies } => group.consumer_heartbeats_decided(ctx, replies, error),
        After::Left { token, mut reply } => {
            if let Some(error) = error {
                reply.members.clear();
                reply.error_code = error;
            }
            ctx.reply(token, GroupReply::Leave(reply));
            group.consumers_decided(ctx);
        }
        After::Cleaned => group.consumers_decided(ctx),
    }
}

/// Random bits in the form that people expect at the end of a member id.
fn as_uuid(random: u128) -> String {
    let hex = format!("{random:032x}");
    let parts = [&hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..]];
    parts.join("-")
}
