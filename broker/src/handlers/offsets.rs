//! OffsetCommit 0–9, OffsetFetch 0–9, OffsetDelete 0: names become topic ids here, since offsets belong to a topic and not to its name.

use super::groups::mismatch;
use super::{Context, Reply};
use crate::cluster::image::ClusterImage;
use crate::coordinator::service::PendingReply;
use crate::coordinator::{Commit, CommitOffset, DeleteOffsets, FetchOffsets, GroupReply, GroupRequest};
use crate::node::Node;
use futures::channel::oneshot;
use kafscale_codec::error_code::ErrorCode;
use kafscale_codec::messages::*;
use kafscale_codec::types::TopicId;
use kafscale_metastore::keys::{topic_key, OffsetRecord};
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

/// First version of OffsetCommit that members of the consumer protocol may use (KIP-848).
const COMMIT_WITH_EPOCH: i16 = 9;

/// First version of OffsetFetch with an error of the whole request.
const FETCH_WITH_ERROR: i16 = 2;

/// First version of OffsetFetch that asks for several groups.
const FETCH_OF_MANY: i16 = 8;

/// How long a request waits for its shard to hear of a topic that exists.
const IMAGE_LAG_MAX: Duration = Duration::from_secs(1);

/// The cluster as it is, as far as these topics go: what it does not show does not exist. A broker that has just started,
/// or has not heard yet of a topic that another one created, must not take it for missing: clients give up then, or
/// begin anew at the start of the partition.
///
/// # Errors
/// One that makes clients ask again.
async fn image_with<'a>(node: &Node, names: impl Iterator<Item = &'a str>) -> Result<Arc<ClusterImage>, ErrorCode> {
    let mut image = node.image();
    if !image.complete {
        return Err(ErrorCode::COORDINATOR_LOAD_IN_PROGRESS);
    }
    for name in names {
        if image.topics.contains_key(name) {
            continue;
        }
        if image.is_unreadable(name) {
            return Err(ErrorCode::COORDINATOR_LOAD_IN_PROGRESS);
        }
        match node.metastore.get(&topic_key(name)).await {
            Ok(None) => {}
            Ok(Some(_)) => {
                node.wait_for_image(IMAGE_LAG_MAX, |image| image.topics.contains_key(name))
                    .await;
                image = node.image();
                if !image.topics.contains_key(name) {
                    return Err(ErrorCode::COORDINATOR_LOAD_IN_PROGRESS);
                }
            }
            Err(error) => {
                log::warn!("look for topic {name}: {error}");
                return Err(ErrorCode::COORDINATOR_NOT_AVAILABLE);
            }
        }
    }
    Ok(image)
}

/// The same, if this shard knows all of the topics: then the metastore has not to be asked.
fn image_at_hand<'a>(node: &Node, mut names: impl Iterator<Item = &'a str>) -> Option<Arc<ClusterImage>> {
    let image = node.image();
    let complete = image.complete && names.all(|name| image.topics.contains_key(name));
    complete.then_some(image)
}

/// Whose turn it is among the requests of one connection that are about offsets. A request that has to ask the metastore
/// first leaves the stage that decides the order, so that nothing behind it on its connection waits for the metastore;
/// later requests about offsets still take effect after it.
#[derive(Debug, Default)]
pub(crate) struct Turns {
    last: RefCell<Option<oneshot::Receiver<()>>>,
}

/// A place in the order. Its end lets the next request go on.
struct Turn {
    before: Option<oneshot::Receiver<()>>,
    _done: oneshot::Sender<()>,
}

impl Turns {
    fn enter(&self) -> Turn {
        let (done, next) = oneshot::channel();
        Turn {
            before: self.last.borrow_mut().replace(next),
            _done: done,
        }
    }
}

impl Turn {
    /// Whether nothing is left to wait for.
    fn has_come(&mut self) -> bool {
        // Nothing is ever sent: an error means that the request before is done.
        self.before.as_mut().is_none_or(|before| before.try_recv().is_err())
    }

    async fn comes(&mut self) {
        if let Some(before) = self.before.take() {
            let _ = before.await;
        }
    }
}

/// A commit that the coordinator has: its answer so far, and where each result goes.
struct Committing {
    pending: PendingReply,
    places: Vec<(usize, usize)>,
    response: OffsetCommitResponse,
}

/// The request as Kafka answers it: each topic once, and none without partitions.
fn merge_topics(request: &mut OffsetCommitRequest) {
    let mut places: BTreeMap<String, usize> = BTreeMap::new();
    let mut merged: Vec<OffsetCommitRequestTopic> = Vec::with_capacity(request.topics.len());
    for topic in std::mem::take(&mut request.topics) {
        if topic.partitions.is_empty() {
            continue;
        }
        match places.get(&topic.name) {
            Some(place) => merged[*place].partitions.extend(topic.partitions),
            None => {
                places.insert(topic.name.clone(), merged.len());
                merged.push(topic);
            }
        }
    }
    request.topics = merged;
}

pub(super) async fn commit(context: Context, mut request: OffsetCommitRequest) -> Reply {
    merge_topics(&mut request);
    let knows_epochs = context.version() >= COMMIT_WITH_EPOCH;
    let mut turn = context.client.offset_turns.enter();
    let names = |request: &OffsetCommitRequest| -> Vec<String> {
        request.topics.iter().map(|topic| topic.name.clone()).collect()
    };
    let names = names(&request);
    let at_hand = image_at_hand(&context.node, names.iter().map(String::as_str));
    if let Some(image) = at_hand.filter(|_| turn.has_come()) {
        let committing = submit_commit(&context.node, &image, request, knows_epochs).await;
        return context.later(committing.finish());
    }
    let node = context.node.clone();
    context.later(async move {
        turn.comes().await;
        let image = match image_with(&node, names.iter().map(String::as_str)).await {
            Ok(image) => image,
            Err(error) => return refused_commit(request, error),
        };
        let committing = submit_commit(&node, &image, request, knows_epochs).await;
        drop(turn);
        committing.finish().await
    })
}

async fn submit_commit(
    node: &Node,
    image: &ClusterImage,
    request: OffsetCommitRequest,
    knows_epochs: bool,
) -> Committing {
    let mut offsets = Vec::new();
    let mut places = Vec::new();
    let mut response = OffsetCommitResponse::default();
    for (topic_at, topic) in request.topics.into_iter().enumerate() {
        let found = image.topics.get(&topic.name);
        let mut partitions = Vec::with_capacity(topic.partitions.len());
        for (at, asked) in topic.partitions.into_iter().enumerate() {
            let index = asked.partition_index;
            let known = found.filter(|found| (0..found.record.partitions as i32).contains(&index));
            let mut error_code = ErrorCode::UNKNOWN_TOPIC_OR_PARTITION;
            if let Some(found) = known {
                error_code = ErrorCode::NONE;
                places.push((topic_at, at));
                offsets.push(CommitOffset {
                    topic_id: found.record.topic_id,
                    partition: index,
                    offset: asked.committed_offset,
                    leader_epoch: asked.committed_leader_epoch,
                    metadata: asked.committed_metadata.unwrap_or_default(),
                });
            }
            partitions.push(OffsetCommitResponsePartition {
                partition_index: index,
                error_code,
            });
        }
        let name = topic.name;
        response.topics.push(OffsetCommitResponseTopic { name, partitions });
    }
    let commit = GroupRequest::Commit(Commit {
        group_id: request.group_id,
        generation_id: request.generation_id_or_member_epoch,
        member_id: request.member_id,
        group_instance_id: request.group_instance_id,
        knows_epochs,
        retention_time_ms: request.retention_time_ms,
        offsets,
    });
    let pending = node.coordinator.submit(commit).await;
    Committing {
        pending,
        places,
        response,
    }
}

impl Committing {
    async fn finish(self) -> OffsetCommitResponse {
        let Committing {
            pending,
            places,
            mut response,
        } = self;
        let codes = match pending.reply().await {
            GroupReply::Commit(codes) => codes,
            other => mismatch(&other),
        };
        assert_eq!(codes.len(), places.len(), "one code for each offset");
        for ((topic, partition), code) in places.into_iter().zip(codes) {
            response.topics[topic].partitions[partition].error_code = code;
        }
        response
    }
}

pub(super) async fn fetch(context: Context, request: OffsetFetchRequest) -> Reply {
    let version = context.version();
    let groups = if version >= FETCH_OF_MANY {
        request.groups
    } else {
        vec![OffsetFetchRequestGroup {
            group_id: request.group_id,
            topics: request.topics,
            member_epoch: -1,
            ..Default::default()
        }]
    };
    let topics = groups.iter().flat_map(|group| group.topics.iter().flatten());
    let names: Vec<String> = topics.map(|topic| topic.name.clone()).collect();
    let mut turn = context.client.offset_turns.enter();
    let at_hand = image_at_hand(&context.node, names.iter().map(String::as_str));
    if let Some(image) = at_hand.filter(|_| turn.has_come()) {
        let pending = submit_fetch(&context.node, &image, groups).await;
        return context.later(async move { fetched(version, fetch_replies(&image, pending).await) });
    }
    let node = context.node.clone();
    context.later(async move {
        turn.comes().await;
        let image = match image_with(&node, names.iter().map(String::as_str)).await {
            Ok(image) => image,
            Err(error) => {
                let none = Arc::default();
                let refused = groups
                    .into_iter()
                    .map(|group| answer(&none, group, error, Vec::new(), &[]));
                return fetched(version, refused.collect());
            }
        };
        let pending = submit_fetch(&node, &image, groups).await;
        drop(turn);
        fetched(version, fetch_replies(&image, pending).await)
    })
}

async fn submit_fetch(
    node: &Node,
    image: &ClusterImage,
    groups: Vec<OffsetFetchRequestGroup>,
) -> Vec<(OffsetFetchRequestGroup, PendingReply)> {
    let mut pending = Vec::with_capacity(groups.len());
    for group in groups {
        let partitions = group.topics.as_ref().map(|topics| known_partitions(image, topics));
        let fetch = GroupRequest::FetchOffsets(FetchOffsets {
            group_id: group.group_id.clone(),
            member_id: group.member_id.clone(),
            member_epoch: group.member_epoch,
            partitions,
        });
        pending.push((group, node.coordinator.submit(fetch).await));
    }
    pending
}

async fn fetch_replies(
    image: &Arc<ClusterImage>,
    pending: Vec<(OffsetFetchRequestGroup, PendingReply)>,
) -> Vec<OffsetFetchResponseGroup> {
    let mut groups = Vec::with_capacity(pending.len());
    for (group, pending) in pending {
        groups.push(match pending.reply().await {
            GroupReply::Offsets {
                error,
                offsets,
                unreadable,
            } => answer(image, group, error, offsets, &unreadable),
            other => mismatch(&other),
        });
    }
    groups
}

/// The answer in the form of its version.
fn fetched(version: i16, mut groups: Vec<OffsetFetchResponseGroup>) -> OffsetFetchResponse {
    if version >= FETCH_OF_MANY {
        return OffsetFetchResponse {
            groups,
            ..Default::default()
        };
    }
    let OffsetFetchResponseGroup {
        mut topics, error_code, ..
    } = groups.pop().expect("one group was asked for");
    if version < FETCH_WITH_ERROR && error_code != ErrorCode::NONE {
        let partitions = topics.iter_mut().flat_map(|topic| &mut topic.partitions);
        partitions.for_each(|partition| partition.error_code = error_code);
    }
    OffsetFetchResponse {
        topics,
        error_code,
        ..Default::default()
    }
}

fn refused_commit(request: OffsetCommitRequest, error_code: ErrorCode) -> OffsetCommitResponse {
    let refuse = |asked: OffsetCommitRequestPartition| OffsetCommitResponsePartition {
        partition_index: asked.partition_index,
        error_code,
    };
    let topics = request.topics.into_iter().map(|topic| OffsetCommitResponseTopic {
        name: topic.name,
        partitions: topic.partitions.into_iter().map(refuse).collect(),
    });
    OffsetCommitResponse {
        topics: topics.collect(),
        ..Default::default()
    }
}

pub(super) async fn delete(context: Context, request: OffsetDeleteRequest) -> Reply {
    if !context.node.config.allow_admin_apis {
        return context.ready(OffsetDeleteResponse {
            error_code: ErrorCode::GROUP_AUTHORIZATION_FAILED,
            ..Default::default()
        });
    }
    let mut turn = context.client.offset_turns.enter();
    let node = context.node.clone();
    context.later(async move {
        turn.comes().await;
        delete_offsets(&node, request, turn).await
    })
}

async fn delete_offsets(node: &Node, request: OffsetDeleteRequest, turn: Turn) -> OffsetDeleteResponse {
    let names = request.topics.iter().map(|topic| topic.name.as_str());
    let image = match image_with(node, names).await {
        Ok(image) => image,
        Err(error_code) => {
            return OffsetDeleteResponse {
                error_code,
                ..Default::default()
            }
        }
    };
    let mut wanted = Vec::new();
    let mut places = Vec::new();
    let mut response = OffsetDeleteResponse::default();
    for (topic_at, topic) in request.topics.into_iter().enumerate() {
        let found = image.topics.get(&topic.name);
        let mut partitions = Vec::with_capacity(topic.partitions.len());
        for (at, OffsetDeleteRequestPartition { partition_index }) in topic.partitions.into_iter().enumerate() {
            let mut error_code = ErrorCode::UNKNOWN_TOPIC_OR_PARTITION;
            let known = found.filter(|found| (0..found.record.partitions as i32).contains(&partition_index));
            if let Some(found) = known {
                error_code = ErrorCode::NONE;
                places.push((topic_at, at));
                wanted.push((topic.name.clone(), found.record.topic_id, partition_index));
            }
            partitions.push(OffsetDeleteResponsePartition {
                partition_index,
                error_code,
            });
        }
        let name = topic.name;
        response.topics.push(OffsetDeleteResponseTopic { name, partitions });
    }
    let delete = GroupRequest::DeleteOffsets(DeleteOffsets {
        group_id: request.group_id,
        partitions: wanted,
    });
    let pending = node.coordinator.submit(delete).await;
    drop(turn);
    let (error, codes) = match pending.reply().await {
        GroupReply::DeleteOffsets { error, partitions } => (error, partitions),
        other => mismatch(&other),
    };
    if error != ErrorCode::NONE {
        return OffsetDeleteResponse {
            error_code: error,
            ..Default::default()
        };
    }
    assert_eq!(codes.len(), places.len(), "one code for each offset");
    for ((topic, partition), code) in places.into_iter().zip(codes) {
        response.topics[topic].partitions[partition].error_code = code;
    }
    response
}

/// The partitions that the coordinator may know something of.
fn known_partitions(image: &ClusterImage, topics: &[OffsetFetchRequestTopic]) -> Vec<(TopicId, i32)> {
    let found = topics
        .iter()
        .filter_map(|topic| Some((image.topics.get(&topic.name)?.record.topic_id, topic)));
    found
        .flat_map(|(id, topic)| topic.partition_indexes.iter().map(move |index| (id, *index)))
        .collect()
}

/// What was committed, in the request's order; all there is, if the request names nothing.
fn answer(
    image: &Arc<ClusterImage>,
    asked: OffsetFetchRequestGroup,
    error_code: ErrorCode,
    offsets: Vec<(TopicId, i32, Option<OffsetRecord>)>,
    unreadable: &[(TopicId, i32)],
) -> OffsetFetchResponseGroup {
    let topics = match asked.topics {
        None => all(image, offsets, unreadable),
        Some(topics) => {
            let found: BTreeMap<(TopicId, i32), OffsetRecord> = offsets
                .into_iter()
                .filter_map(|(id, partition, offset)| Some(((id, partition), offset?)))
                .collect();
            topics
                .into_iter()
                .map(|topic| {
                    let id = image.topics.get(&topic.name).map(|topic| topic.record.topic_id);
                    let offset_of = |index| found.get(&(id?, index));
                    let is_unreadable = |index| id.is_some_and(|id| unreadable.contains(&(id, index)));
                    let partitions = topic.partition_indexes.into_iter();
                    let partitions = partitions.map(|index| match is_unreadable(index) {
                        true => not_readable(index),
                        false => committed(index, offset_of(index)),
                    });
                    OffsetFetchResponseTopic {
                        partitions: partitions.collect(),
                        name: topic.name,
                    }
                })
                .collect()
        }
    };
    OffsetFetchResponseGroup {
        group_id: asked.group_id,
        topics,
        error_code,
    }
}

/// Offsets of topics that are gone have no name to be listed under.
fn all(
    image: &ClusterImage,
    offsets: Vec<(TopicId, i32, Option<OffsetRecord>)>,
    unreadable: &[(TopicId, i32)],
) -> Vec<OffsetFetchResponseTopic> {
    let mut topics: BTreeMap<&str, OffsetFetchResponseTopic> = BTreeMap::new();
    let stored = offsets
        .into_iter()
        .map(|(id, partition, offset)| (id, committed(partition, offset.as_ref())));
    let unreadable = unreadable.iter().map(|(id, partition)| (*id, not_readable(*partition)));
    for (id, partition) in stored.chain(unreadable) {
        if let Some(name) = image.names.get(&id) {
            let topic = topics.entry(name).or_insert_with(|| OffsetFetchResponseTopic {
                name: name.clone(),
                ..Default::default()
            });
            topic.partitions.push(partition);
        }
    }
    topics.into_values().collect()
}

/// Something was committed, and nobody can read it. "Nothing was committed" would make the consumer begin anew; after this
/// it asks again.
fn not_readable(partition_index: i32) -> OffsetFetchResponsePartition {
    OffsetFetchResponsePartition {
        partition_index,
        committed_offset: -1,
        committed_leader_epoch: -1,
        metadata: Some(String::new()),
        error_code: ErrorCode::UNSTABLE_OFFSET_COMMIT,
    }
}

/// −1 where nothing was committed: a consumer then follows its own `auto.offset.reset`.
fn committed(partition_index: i32, offset: Option<&OffsetRecord>) -> OffsetFetchResponsePartition {
    OffsetFetchResponsePartition {
        partition_index,
        committed_offset: offset.map_or(-1, |offset| offset.offset),
        committed_leader_epoch: offset.map_or(-1, |offset| offset.leader_epoch),
        metadata: Some(offset.map(|offset| offset.metadata.clone()).unwrap_or_default()),
        error_code: ErrorCode::NONE,
    }
}
