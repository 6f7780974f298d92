//! Committed offsets, and what else is asked about a group from outside: describe, delete, expire.

use super::api::{Commit, DeleteOffsets, FetchOffsets, GroupReply, ReplyToken};
use super::consumer;
use super::group::{Ctx, Group, Phase};
use super::ledger::After;
use super::record::Record;
use super::subscription;
use crate::cluster::image::ClusterImage;
use crate::planted::{self, Bug};
use kafscale_codec::error_code::ErrorCode;
use kafscale_codec::messages::{DescribedGroup, DescribedGroupMember, ListedGroup};
use kafscale_codec::types::TopicId;
use kafscale_metastore::keys::OffsetRecord;
use std::collections::{BTreeMap, BTreeSet};

impl Group {
    /// OffsetCommit: answered once the offsets are stored.
    pub fn commit(&mut self, ctx: &mut Ctx, token: ReplyToken, commit: &Commit) {
        let (results, records) = match self.check_commit(commit) {
            Ok(()) => self.commit_records(ctx, commit),
            Err(error) => (vec![error; commit.offsets.len()], Vec::new()),
        };
        self.keep_alive(ctx, &commit.member_id);
        if records.is_empty() {
            ctx.reply(token, GroupReply::Commit(results));
        } else if planted::is(Bug::CommitBeforeDurable) {
            ctx.reply(token, GroupReply::Commit(results.clone()));
            let token = ReplyToken(u64::MAX);
            self.write(ctx, records, After::Committed { token, results });
        } else {
            self.write(ctx, records, After::Committed { token, results });
        }
    }

    /// Members commit for their generation. Without membership it takes an empty group (tools, Flink, `assign`).
    fn check_commit(&self, commit: &Commit) -> Result<(), ErrorCode> {
        if !self.is_known() && self.pending.is_empty() && commit.generation_id >= 0 {
            return Err(match commit.knows_epochs {
                true => ErrorCode::GROUP_ID_NOT_FOUND,
                false => ErrorCode::ILLEGAL_GENERATION,
            });
        }
        if commit.generation_id < 0 && !self.has_members() {
            return Ok(());
        }
        if let Some(state) = self.consumer.as_ref().filter(|_| self.members.is_empty()) {
            let member = state
                .members
                .get(&commit.member_id)
                .ok_or(ErrorCode::UNKNOWN_MEMBER_ID)?;
            let epoch = commit.generation_id;
            if member.classic.is_some() {
                return if epoch == member.epoch {
                    Ok(())
                } else {
                    Err(ErrorCode::ILLEGAL_GENERATION)
                };
            }
            if !commit.knows_epochs {
                return Err(ErrorCode::UNSUPPORTED_VERSION);
            }
            let mut offsets = commit.offsets.iter();
            return if offsets.all(|offset| member.may_commit(epoch, offset.topic_id, offset.partition)) {
                Ok(())
            } else {
                Err(ErrorCode::STALE_MEMBER_EPOCH)
            };
        }
        let claims_membership =
            commit.generation_id >= 0 || !commit.member_id.is_empty() || commit.group_instance_id.is_some();
        if !claims_membership {
            return Err(ErrorCode::UNKNOWN_MEMBER_ID);
        }
        self.check_member(&commit.member_id, commit.group_instance_id.as_deref())?;
        if commit.generation_id != self.generation() && !planted::is(Bug::StaleCommitAccepted) {
            return Err(ErrorCode::ILLEGAL_GENERATION);
        }
        if self.phase == Phase::Completing {
            // The generation is right, so the member has joined; it shall sync before it commits.
            return Err(ErrorCode::REBALANCE_IN_PROGRESS);
        }
        Ok(())
    }

    fn commit_records(&self, ctx: &Ctx, commit: &Commit) -> (Vec<ErrorCode>, Vec<Record>) {
        let mut records = BTreeMap::new();
        let results = commit.offsets.iter().map(|offset| {
            if self.unreadable.contains(&(offset.topic_id, offset.partition)) {
                // What is stored may be a newer version's, and worth more than this. Clients try again.
                return ErrorCode::COORDINATOR_LOAD_IN_PROGRESS;
            }
            if offset.metadata.len() > ctx.config.offset_metadata_bytes_max {
                return ErrorCode::OFFSET_METADATA_TOO_LARGE;
            }
            let record = OffsetRecord {
                offset: offset.offset,
                leader_epoch: offset.leader_epoch,
                metadata: offset.metadata.clone(),
                commit_ms: ctx.now.wall_ms,
                expire_ms: (commit.retention_time_ms >= 0)
                    .then(|| ctx.now.wall_ms.saturating_add(commit.retention_time_ms)),
            };
            // A partition that is named twice keeps the last one.
            records.insert((offset.topic_id, offset.partition), record);
            ErrorCode::NONE
        });
        let results = results.collect();
        let records = records.into_iter();
        (
            results,
            records
                .map(|(key, offset)| self.offset_record(key, Some(offset)))
                .collect(),
        )
    }

    fn offset_record(&self, (topic_id, partition): (TopicId, i32), offset: Option<OffsetRecord>) -> Record {
        let group = self.id.clone();
        Record::Offset {
            group,
            topic_id,
            partition,
            offset,
        }
    }

    /// OffsetFetch: what is stored, and nothing that still may fail.
    pub fn fetch_offsets(&self, fetch: &FetchOffsets) -> GroupReply {
        if let (Some(member_id), true) = (&fetch.member_id, fetch.member_epoch >= 0) {
            let known = self.consumer.as_ref().filter(|_| self.members.is_empty());
            let error = known.and_then(|state| match state.members.get(member_id) {
                None => Some(ErrorCode::UNKNOWN_MEMBER_ID),
                Some(member) => (member.epoch != fetch.member_epoch).then_some(ErrorCode::STALE_MEMBER_EPOCH),
            });
            if let Some(error) = error {
                let (offsets, unreadable) = (Vec::new(), Vec::new());
                return GroupReply::Offsets {
                    error,
                    offsets,
                    unreadable,
                };
            }
        }
        let (offsets, unreadable) = match &fetch.partitions {
            Some(partitions) => {
                let (unreadable, known): (Vec<_>, Vec<_>) = partitions
                    .iter()
                    .copied()
                    .partition(|key| self.unreadable.contains(key));
                let stored = known
                    .into_iter()
                    .map(|key| (key.0, key.1, self.offsets.get(&key).cloned()));
                (stored.collect(), unreadable)
            }
            None => {
                let all = self.offsets.iter();
                let stored = all.map(|(key, offset)| (key.0, key.1, Some(offset.clone())));
                (stored.collect(), self.unreadable.iter().copied().collect())
            }
        };
        GroupReply::Offsets {
            error: ErrorCode::NONE,
            offsets,
            unreadable,
        }
    }

    /// OffsetDelete.
    pub fn delete_offsets(&mut self, ctx: &mut Ctx, token: ReplyToken, delete: &DeleteOffsets) {
        let refuse = |error| GroupReply::DeleteOffsets {
            error,
            partitions: Vec::new(),
        };
        if !self.is_known() {
            ctx.reply(token, refuse(ErrorCode::GROUP_ID_NOT_FOUND));
            return;
        }
        let subscribed = self.subscribed_topics(ctx.image);
        if self.has_members() && subscribed.is_none() {
            ctx.reply(token, refuse(ErrorCode::NON_EMPTY_GROUP));
            return;
        }
        let subscribed = subscribed.unwrap_or_default();
        let mut gone = BTreeSet::new();
        let results = delete.partitions.iter().map(|(name, topic_id, partition)| {
            if subscribed.contains(name) {
                return ErrorCode::GROUP_SUBSCRIBED_TO_TOPIC;
            }
            gone.insert((*topic_id, *partition));
            ErrorCode::NONE
        });
        let results: Vec<ErrorCode> = results.collect();
        gone.retain(|key| self.offsets.contains_key(key) || self.unreadable.contains(key));
        if gone.is_empty() {
            let (error, partitions) = (ErrorCode::NONE, results);
            ctx.reply(token, GroupReply::DeleteOffsets { error, partitions });
            return;
        }
        let records = gone.into_iter().map(|key| self.offset_record(key, None)).collect();
        self.write(ctx, records, After::OffsetsDeleted { token, results });
    }

    /// Topics of all members, if they are consumers; `None` if that cannot be known.
    fn subscribed_topics(&self, image: &ClusterImage) -> Option<BTreeSet<String>> {
        if let Some(state) = self.consumer.as_ref().filter(|_| self.members.is_empty()) {
            return Some(consumer::subscribed_topics(state, image));
        }
        if self.protocol_type.as_deref() != Some(subscription::CONSUMER_PROTOCOL_TYPE) {
            return None;
        }
        let mut subscribed = BTreeSet::new();
        for member in self.members.values() {
            for (_, metadata) in &member.protocols {
                subscribed.extend(subscription::topics(metadata)?);
            }
        }
        Some(subscribed)
    }

    /// Whether clients may know that it exists.
    pub fn is_known(&self) -> bool {
        self.stored.is_some()
            || self.consumer.is_some()
            || !self.offsets.is_empty()
            || !self.unreadable.is_empty()
            || !self.members.is_empty()
    }

    /// DeleteGroups.
    pub fn delete(&mut self, ctx: &mut Ctx, token: ReplyToken) {
        if self.has_members() || !self.is_known() {
            let error = if self.is_known() {
                ErrorCode::NON_EMPTY_GROUP
            } else {
                ErrorCode::GROUP_ID_NOT_FOUND
            };
            ctx.reply(token, GroupReply::Deleted(error));
            return;
        }
        self.pending.clear(); // Such a member asks for a new id.
        let unreadable = self.unreadable.iter().map(|key| self.offset_record(*key, None));
        let mut records: Vec<Record> = unreadable.collect();
        records.extend(self.all_gone(|_, _| true));
        self.write(ctx, records, After::Deleted { token });
    }

    /// Offsets that `wanted` takes, and the group itself last, if then nothing is left of it.
    fn all_gone(&self, wanted: impl Fn(&(TopicId, i32), &OffsetRecord) -> bool) -> Vec<Record> {
        let gone = self.offsets.iter().filter(|(key, offset)| wanted(key, offset));
        let mut records: Vec<Record> = gone.map(|(key, _)| self.offset_record(*key, None)).collect();
        let nothing_left = records.len() == self.offsets.len() && !self.has_members() && self.pending.is_empty();
        if nothing_left && (self.stored.is_some() || self.consumer.is_some()) {
            records.push(self.state_record(None));
        }
        records
    }

    /// Offsets of topics that are gone go too: a new topic of the same name has another id.
    pub fn delete_topics(&mut self, ctx: &mut Ctx, topic_ids: &BTreeSet<TopicId>) {
        let stored = self.offsets.keys().chain(&self.unreadable);
        let gone = stored.filter(|(topic_id, _)| topic_ids.contains(topic_id));
        let records: Vec<Record> = gone.map(|key| self.offset_record(*key, None)).collect();
        if !records.is_empty() {
            self.write(ctx, records, After::Cleaned);
        }
    }

    /// Forgets what is past its retention. As in Kafka: of an empty group everything, counted from when it became
    /// empty; of a live group of consumers only topics that nobody subscribes to; of other live groups nothing.
    pub fn expire_offsets(&mut self, ctx: &mut Ctx) {
        let now_ms = ctx.now.wall_ms;
        let retention_ms = ctx.config.offsets_retention_ms;
        let past = |offset: &OffsetRecord, base_ms: i64| match offset.expire_ms {
            Some(expire_ms) => now_ms >= expire_ms,
            None => now_ms.saturating_sub(base_ms) >= retention_ms,
        };
        let records = if !self.has_members() {
            let classic = self.stored.as_ref().map(|stored| stored.since_ms);
            let consumer = self.consumer.as_ref().map(|state| state.since_ms);
            let since_ms = classic.or(consumer).unwrap_or(i64::MIN);
            self.all_gone(|_, offset| past(offset, offset.commit_ms.max(since_ms)))
        } else if self.consumer.is_some() || self.phase == Phase::Stable {
            let Some(subscribed) = self.subscribed_topics(ctx.image) else {
                return;
            };
            self.all_gone(|(topic_id, _), offset| {
                let name = ctx.image.names.get(topic_id);
                name.is_some_and(|name| !subscribed.contains(name)) && past(offset, offset.commit_ms)
            })
        } else {
            return;
        };
        if !records.is_empty() {
            self.write(ctx, records, After::Cleaned);
        }
    }

    /// DescribeGroups.
    pub fn describe(&self) -> DescribedGroup {
        if self.consumer.is_some() && self.members.is_empty() {
            return not_classic(&self.id);
        }
        let protocol = (self.phase == Phase::Stable).then(|| self.protocol_name()).flatten();
        let mut members: Vec<_> = self.members.iter().collect();
        members.sort_by_key(|(_, member)| member.order);
        let members = members.into_iter().map(|(id, member)| DescribedGroupMember {
            member_id: id.clone(),
            group_instance_id: member.instance_id.clone(),
            client_id: member.client_id.clone(),
            client_host: member.client_host.clone(),
            member_metadata: protocol
                .as_deref()
                .map(|protocol| member.metadata(protocol))
                .unwrap_or_default(),
            member_assignment: member.assignment.clone(),
        });
        DescribedGroup {
            group_id: self.id.clone(),
            group_state: self.state_name().to_string(),
            protocol_type: self.protocol_type.clone().unwrap_or_default(),
            members: members.collect(),
            protocol_data: protocol.clone().unwrap_or_default(),
            ..DescribedGroup::default()
        }
    }

    /// ListGroups.
    pub fn list_entry(&self) -> ListedGroup {
        let (protocol_type, group_type) = if self.consumer.is_some() && self.members.is_empty() {
            (Some(subscription::CONSUMER_PROTOCOL_TYPE.to_string()), "consumer")
        } else {
            (self.protocol_type.clone(), "classic")
        };
        ListedGroup {
            group_id: self.id.clone(),
            protocol_type: protocol_type.unwrap_or_default(),
            group_state: self.state_name().to_string(),
            group_type: group_type.to_string(),
        }
    }
}

/// What DescribeGroups says of a group that does not exist.
pub(super) fn describe_missing(group_id: &str) -> DescribedGroup {
    dead(group_id, format!("Group {group_id} not found."))
}

/// What DescribeGroups says of a group of the other protocol: clients then ask with ConsumerGroupDescribe.
fn not_classic(group_id: &str) -> DescribedGroup {
    dead(group_id, format!("Group {group_id} is not a classic group."))
}

fn dead(group_id: &str, message: String) -> DescribedGroup {
    DescribedGroup {
        error_code: ErrorCode::GROUP_ID_NOT_FOUND,
        error_message: Some(message),
        group_id: group_id.to_string(),
        group_state: "Dead".to_string(),
        ..DescribedGroup::default()
    }
}
