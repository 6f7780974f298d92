//! Fetch 4–17. `min_bytes` and `max_wait_ms` are for the whole request; 13 on names topics by id; 16 on tells the leader.

mod plan;
mod session;
#[cfg(test)]
mod tests;

pub(crate) use session::{ConnectionSession, SessionLimit};

use super::{Context, Reply};
use crate::cluster::image::{ClusterImage, Leader};
use crate::mailbox::{FetchPartition, FetchRequest as ShardFetch, FetchResult, ShardRequest, WaitRequest};
use crate::node::Node;
use crate::planted::{self, Bug};
use futures::channel::oneshot;
use futures::future::select;
use kafscale_codec::error_code::ErrorCode;
use kafscale_codec::messages::*;
use kafscale_codec::types::TopicId;
use kafscale_codec::wire::Records;
use plan::{Plan, Refused};
use session::{Partition, Reading, Told, TopicName, TOLD_NOTHING, TOPIC_IDS_SINCE};
use std::time::Duration;

/// No request waits longer, whatever it says.
const WAIT_MAX_MS: i32 = 600_000;

/// The first version whose answers say where else a partition is (KIP-951). The field is older, but librdkafka 2.15
/// crashes on a hint for a topic whose id is zero, so none before ids are sent.
const LEADER_HINTS_SINCE: i16 = 16;

/// `isolation_level` of a client that reads everything.
const READ_UNCOMMITTED: i8 = 0;

/// `isolation_level` of a client that reads what is committed: everything, since there are no transactions.
const READ_COMMITTED: i8 = 1;

/// How much is wanted, and how long that may take.
#[derive(Debug, Clone, Copy)]
struct Limits {
    bytes_min: usize,
    bytes_max: usize,
    wait: Duration,
}

pub(super) fn handle(context: Context, mut request: FetchRequest) -> Reply {
    let (node, version) = (context.node.clone(), context.version());
    let isolation = request.isolation_level;
    // As Kafka, which finds out when there is something to read.
    let unreadable = !matches!(isolation, READ_UNCOMMITTED | READ_COMMITTED);
    let original = unreadable.then(|| request.clone());
    let connection = context.client.fetch_session.clone();
    let mut reading = match connection.open(&node.fetch_sessions, &mut request, version) {
        Ok(reading) => reading,
        Err(error_code) => {
            return context.ready(FetchResponse {
                error_code,
                ..FetchResponse::default()
            })
        }
    };
    let bytes_max = request.max_bytes.max(0) as usize;
    let limits = Limits {
        // More than may be sent cannot be waited for.
        bytes_min: (request.min_bytes.max(0) as usize).min(bytes_max),
        bytes_max,
        wait: Duration::from_millis(request.max_wait_ms.clamp(0, WAIT_MAX_MS) as u64),
    };
    context.later(async move {
        if let Some(original) = original {
            if Plan::of(&node, &mut reading).finds_any() {
                return refused(original, version, ErrorCode::UNKNOWN_SERVER_ERROR);
            }
        }
        let results = read(&node, &mut reading, limits).await;
        let response = response(&mut reading, results, version, isolation == READ_COMMITTED);
        connection.keep(reading);
        response
    })
}

/// One result for each partition, once there is enough to answer with.
async fn read(node: &Node, reading: &mut Reading, limits: Limits) -> Vec<FetchResult> {
    let deadline = node.runtime.now() + limits.wait;
    loop {
        let mut results = gather(node, reading, limits.bytes_max).await;
        refuse_less_than_nothing(reading, &mut results);
        let (bytes, any_error) = cut(reading, &mut results, limits.bytes_max);
        let nothing_to_wait_for = reading.plan.as_ref().is_none_or(|plan| plan.shards.is_empty());
        let enough = bytes >= limits.bytes_min || any_error || nothing_to_wait_for;
        if enough || node.runtime.now() >= deadline {
            return results;
        }
        let wait = wait_for_more(node, reading, &results);
        let pause = deadline.saturating_sub(node.runtime.now());
        select(Box::pin(wait), node.runtime.sleep(pause)).await;
    }
}

/// Asks every shard at the same time.
async fn gather(node: &Node, reading: &mut Reading, max_bytes: usize) -> Vec<FetchResult> {
    Plan::of(node, reading);
    let mut results = vec![FetchResult::default(); reading.partitions.len()];
    let Some(plan) = &reading.plan else { return results };
    for Refused { at, error, .. } in &plan.refused {
        results[*at] = FetchResult::error(*error);
    }
    let mut answers = Vec::with_capacity(plan.shards.len());
    for (shard, places) in &plan.shards {
        let (reply, answer) = oneshot::channel();
        let (before, after) = places.split_at(places.partition_point(|(at, _)| *at < reading.first));
        let in_turn = after.iter().chain(before);
        let wanted = in_turn.clone().map(|(at, key)| {
            let Partition {
                offset,
                bytes_max,
                leader_epoch,
                ..
            } = reading.partitions[*at];
            FetchPartition {
                key: *key,
                offset,
                max_bytes: bytes_max,
                current_leader_epoch: leader_epoch,
            }
        });
        let request = ShardFetch {
            partitions: wanted.collect(),
            max_bytes,
            reply,
        };
        node.send(*shard, ShardRequest::Fetch(request)).await;
        answers.push((answer, in_turn));
    }
    for (answer, in_turn) in answers {
        match answer.await {
            Ok(found) => in_turn.zip(found).for_each(|((at, _), result)| results[*at] = result),
            // The shard has stopped.
            Err(_) => in_turn.for_each(|(at, _)| results[*at] = FetchResult::error(ErrorCode::NOT_LEADER_OR_FOLLOWER)),
        }
    }
    results
}

/// As Kafka, whose log refuses to read a negative number of bytes, where there is something to read.
fn refuse_less_than_nothing(reading: &Reading, results: &mut [FetchResult]) {
    for (partition, result) in reading.partitions.iter().zip(results) {
        let has_more = result.error == ErrorCode::NONE && result.high_watermark > partition.offset;
        if partition.wants_less_than_nothing && has_more {
            *result = FetchResult::error(ErrorCode::UNKNOWN_SERVER_ERROR);
        }
    }
}

/// Leaves records beyond `max_bytes` for the next request, which begins with their partition. Returns the bytes, and
/// whether any partition has an error.
fn cut(reading: &mut Reading, results: &mut [FetchResult], max_bytes: usize) -> (usize, bool) {
    let (mut bytes, mut any_error, mut left_out) = (0, false, None);
    for at in reading.order() {
        let result = &mut results[at];
        any_error |= result.error != ErrorCode::NONE;
        if bytes > 0 && bytes + result.len() > max_bytes {
            result.records.clear();
        }
        bytes += result.len();
        let has_more = result.error == ErrorCode::NONE && result.high_watermark > reading.partitions[at].offset;
        if bytes > 0 && result.is_empty() && has_more {
            left_out = left_out.or(Some(at));
        }
    }
    reading.first = left_out.unwrap_or(reading.first);
    (bytes, any_error)
}

/// Completes when any partition has more than was found.
async fn wait_for_more(node: &Node, reading: &Reading, found: &[FetchResult]) {
    let (notify, notified) = async_channel::bounded(1);
    for (shard, places) in reading.plan.iter().flat_map(|plan| &plan.shards) {
        let partitions = places
            .iter()
            // From the end that was seen on, not from the offset: what is there did not suffice.
            .map(|(at, key)| (*key, found[*at].high_watermark.max(reading.partitions[*at].offset)))
            .collect();
        let request = WaitRequest {
            partitions,
            notify: notify.clone(),
        };
        node.send(*shard, ShardRequest::Wait(request)).await;
    }
    drop(notify);
    // An error means that every shard dropped its end: look again.
    let _ = notified.recv().await;
}

/// The answer to a request that cannot be worked on at all.
fn refused(request: FetchRequest, version: i16, error_code: ErrorCode) -> FetchResponse {
    let mut response = FetchResponse {
        error_code,
        session_id: request.session_id,
        ..FetchResponse::default()
    };
    // Later versions cannot name the topics: their error is that of the whole.
    if version < TOPIC_IDS_SINCE {
        let partition = |asked: kafscale_codec::messages::FetchPartition| PartitionData {
            aborted_transactions: Some(Vec::new()),
            ..answer(asked.partition, FetchResult::error(error_code), false)
        };
        let topics = request.topics.into_iter().map(|topic| FetchableTopicResponse {
            topic: topic.topic,
            partitions: topic.partitions.into_iter().map(partition).collect(),
            ..FetchableTopicResponse::default()
        });
        response.responses = topics.collect();
    }
    response
}

fn response(reading: &mut Reading, results: Vec<FetchResult>, version: i16, committed_only: bool) -> FetchResponse {
    let mut response = FetchResponse {
        session_id: reading.session_id(),
        ..FetchResponse::default()
    };
    let plan = reading.plan.as_ref().filter(|_| version >= LEADER_HINTS_SINCE);
    // The topic that the last entry is of.
    let mut last = None;
    for (at, (partition, result)) in reading.partitions.iter_mut().zip(results).enumerate() {
        if !is_news(&mut partition.told, &result) && reading.only_changes {
            continue;
        }
        let mut answer = answer(partition.index, result, committed_only);
        if let Some((plan, leader)) = plan.and_then(|plan| Some((plan, plan.leader_elsewhere(at)?))) {
            hint(&mut answer, &mut response.node_endpoints, plan.image(), leader);
        }
        if last != Some(partition.topic) {
            last = Some(partition.topic);
            response
                .responses
                .push(entry(&reading.topics[partition.topic as usize]));
        }
        if let Some(topic) = response.responses.last_mut() {
            topic.partitions.push(answer);
        }
    }
    response
}

/// Whether the client does not know this yet; from now on it does.
fn is_news(told: &mut Told, result: &FetchResult) -> bool {
    let is_error = result.error != ErrorCode::NONE;
    let now = Told {
        high_watermark: result.high_watermark,
        log_start_offset: result.log_start_offset,
    };
    let has_records = !result.is_empty() && !planted::is(Bug::RecordsAreNoNews);
    let is_news = is_error || has_records || *told != now;
    *told = if is_error { TOLD_NOTHING } else { now };
    is_news
}

fn entry(topic: &TopicName) -> FetchableTopicResponse {
    let (topic, topic_id) = match topic {
        TopicName::Name(name) => (name.clone(), TopicId::default()),
        TopicName::Id(id) => (String::new(), *id),
    };
    FetchableTopicResponse {
        topic,
        topic_id,
        partitions: Vec::new(),
    }
}

fn answer(partition: i32, result: FetchResult, committed_only: bool) -> PartitionData {
    if result.error != ErrorCode::NONE {
        return PartitionData {
            partition_index: partition,
            error_code: result.error,
            high_watermark: -1,
            // As Kafka: null says that the log was looked at.
            aborted_transactions: (!comes_from_log(result.error)).then(Vec::new),
            records: Some(Records::default()),
            ..PartitionData::default()
        };
    }
    PartitionData {
        partition_index: partition,
        high_watermark: result.high_watermark,
        last_stable_offset: result.high_watermark,
        log_start_offset: result.log_start_offset,
        aborted_transactions: committed_only.then(Vec::new),
        records: Some(Records(result.records)),
        ..PartitionData::default()
    }
}

/// Whether Kafka finds this error where it reads the log, and not before.
fn comes_from_log(error: ErrorCode) -> bool {
    !matches!(
        error,
        ErrorCode::UNKNOWN_TOPIC_OR_PARTITION | ErrorCode::UNKNOWN_TOPIC_ID | ErrorCode::INCONSISTENT_TOPIC_ID
    )
}

/// Says where else a partition is, and how to get there.
fn hint(answer: &mut PartitionData, endpoints: &mut Vec<NodeEndpoint>, image: &ClusterImage, leader: Leader) {
    let leader_id = image.node_id(leader.broker_id, leader.shard);
    answer.current_leader = LeaderIdAndEpoch {
        leader_id,
        leader_epoch: leader.leader_epoch,
    };
    if !endpoints.iter().any(|node| node.node_id == leader_id) {
        endpoints.extend(endpoint(image, leader_id));
    }
}

/// A node as clients are told (KIP-951).
pub(super) fn endpoint(image: &ClusterImage, node_id: i32) -> Option<NodeEndpoint> {
    let node = image.nodes().find(|node| node.node_id == node_id)?;
    Some(NodeEndpoint {
        node_id,
        host: node.broker.host.clone(),
        port: i32::from(node.port),
        rack: node.broker.rack.clone(),
    })
}
