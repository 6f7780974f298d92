//! Fetch 4–17. `min_bytes` and `max_wait_ms` are for the whole request; 13 on names topics by id; 16 on tells the leader.
//!
//! Fetch sessions (KIP-227) are declined by answering session id 0, which the protocol provides for.

use super::{Context, Reply};
use crate::cluster::image::ClusterImage;
use crate::mailbox::{FetchPartition as Wanted, FetchRequest as ShardFetch, FetchResult, ShardRequest, WaitRequest};
use crate::node::{find_topic, route, Node, Route, TopicRef};
use futures::channel::oneshot;
use futures::future::select;
use kafscale_codec::error_code::ErrorCode;
use kafscale_codec::messages::*;
use kafscale_codec::wire::Records;
use kafscale_storage_engine::partition_log::PartitionKey;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;

/// No request waits longer, whatever it says.
const WAIT_MAX_MS: i32 = 600_000;

/// What one shard is asked, and where in the response its answers go.
#[derive(Default, Clone)]
struct ForShard {
    partitions: Vec<Wanted>,
    slots: Vec<(usize, usize)>,
}

pub(super) fn handle(context: Context, request: FetchRequest) -> Reply {
    let node = context.node.clone();
    let version = context.version();
    context.later(async move { answer(node, request, version).await })
}

async fn answer(node: Rc<Node>, request: FetchRequest, version: i16) -> FetchResponse {
    if request.session_id != 0 && request.session_epoch > 0 {
        // No session was ever given out, so this one cannot go on: the client starts afresh.
        return FetchResponse {
            error_code: ErrorCode::FETCH_SESSION_ID_NOT_FOUND,
            ..Default::default()
        };
    }
    let max_bytes = request.max_bytes.max(0) as usize;
    let min_bytes = request.min_bytes.max(0) as usize;
    let deadline = node.runtime.now() + Duration::from_millis(request.max_wait_ms.clamp(0, WAIT_MAX_MS) as u64);
    let (mut response, shards) = place(&node, &request, version);
    let mut settled = has_error(&response);
    loop {
        let found = gather(&node, &shards, max_bytes).await;
        let (bytes, error) = fill(&mut response, &shards, found, max_bytes);
        settled |= error;
        if bytes >= min_bytes || settled || node.runtime.now() >= deadline || shards.is_empty() {
            return response;
        }
        let wait = wait_for_more(&node, &shards, &response);
        let pause = deadline.saturating_sub(node.runtime.now());
        select(Box::pin(wait), node.runtime.sleep(pause)).await;
    }
}

/// Finds each partition's shard; what cannot be read anywhere here is answered right away.
fn place(node: &Node, request: &FetchRequest, version: i16) -> (FetchResponse, BTreeMap<u32, ForShard>) {
    let image = node.image();
    let mut shards: BTreeMap<u32, ForShard> = BTreeMap::new();
    let mut response = FetchResponse::default();
    for (topic_at, wanted) in request.topics.iter().enumerate() {
        let named = if version >= 13 {
            TopicRef::Id(wanted.topic_id)
        } else {
            TopicRef::Name(&wanted.topic)
        };
        let topic = find_topic(&image, named);
        let mut partitions = Vec::with_capacity(wanted.partitions.len());
        for (at, partition) in wanted.partitions.iter().enumerate() {
            let mut answer = PartitionData {
                partition_index: partition.partition,
                ..PartitionData::default()
            };
            answer.records = Some(Records::default());
            answer.high_watermark = -1;
            let placed = match &topic {
                Ok(topic) => route(&image, node.config.broker_id, topic, partition.partition),
                Err(error) => Err(*error),
            };
            match (placed, &topic) {
                (Ok(Route::Here(shard)), Ok(topic)) => {
                    let for_shard = shards.entry(shard).or_default();
                    for_shard.slots.push((topic_at, at));
                    for_shard.partitions.push(Wanted {
                        key: PartitionKey {
                            topic_id: topic.record.topic_id,
                            partition: partition.partition,
                        },
                        offset: partition.fetch_offset,
                        max_bytes: partition.partition_max_bytes.max(0) as usize,
                        current_leader_epoch: partition.current_leader_epoch,
                    });
                }
                (Ok(Route::Elsewhere(leader)), _) => {
                    answer.error_code = ErrorCode::NOT_LEADER_OR_FOLLOWER;
                    // librdkafka 2.15 crashes on a hint for a topic whose id is zero, so none before ids are sent.
                    if let (Some(leader), 16..) = (leader, version) {
                        let leader_id = image.node_id(leader.broker_id, leader.shard);
                        answer.current_leader = LeaderIdAndEpoch {
                            leader_id,
                            leader_epoch: leader.leader_epoch,
                        };
                        let known = response.node_endpoints.iter().any(|node| node.node_id == leader_id);
                        if !known {
                            response.node_endpoints.extend(endpoint(&image, leader_id));
                        }
                    }
                }
                (Err(error), _) => answer.error_code = error,
                (_, Err(error)) => answer.error_code = *error,
            }
            partitions.push(answer);
        }
        let (topic, topic_id) = (wanted.topic.clone(), wanted.topic_id);
        response.responses.push(FetchableTopicResponse {
            topic,
            topic_id,
            partitions,
        });
    }
    (response, shards)
}

fn has_error(response: &FetchResponse) -> bool {
    response
        .responses
        .iter()
        .flat_map(|topic| &topic.partitions)
        .any(|answer| answer.error_code != ErrorCode::NONE)
}

/// Asks every shard at the same time.
async fn gather(node: &Node, shards: &BTreeMap<u32, ForShard>, max_bytes: usize) -> Vec<Vec<FetchResult>> {
    let mut answers = Vec::with_capacity(shards.len());
    for (shard, wanted) in shards {
        let (reply, answer) = oneshot::channel();
        let request = ShardFetch {
            partitions: wanted.partitions.clone(),
            max_bytes,
            reply,
        };
        node.send(*shard, ShardRequest::Fetch(request)).await;
        answers.push((answer, wanted.partitions.len()));
    }
    let mut found = Vec::with_capacity(answers.len());
    for (answer, count) in answers {
        let stopped = |_| vec![FetchResult::error(ErrorCode::NOT_LEADER_OR_FOLLOWER); count];
        found.push(answer.await.unwrap_or_else(stopped));
    }
    found
}

/// Puts results into the response; data beyond `max_bytes` is left for the next request. Returns the bytes, and whether
/// any partition has an error.
fn fill(
    response: &mut FetchResponse,
    shards: &BTreeMap<u32, ForShard>,
    found: Vec<Vec<FetchResult>>,
    max_bytes: usize,
) -> (usize, bool) {
    let mut bytes = 0;
    let mut any_error = false;
    for (wanted, results) in shards.values().zip(found) {
        for (slot, mut result) in wanted.slots.iter().zip(results) {
            if bytes > 0 && bytes + result.len() > max_bytes {
                result.records.clear();
            }
            bytes += result.len();
            any_error |= result.error != ErrorCode::NONE;
            let answer = &mut response.responses[slot.0].partitions[slot.1];
            answer.error_code = result.error;
            answer.high_watermark = result.high_watermark;
            answer.last_stable_offset = result.high_watermark;
            answer.log_start_offset = result.log_start_offset;
            answer.records = Some(Records(result.records));
        }
    }
    (bytes, any_error)
}

/// Completes when any partition has more than the response holds.
async fn wait_for_more(node: &Node, shards: &BTreeMap<u32, ForShard>, response: &FetchResponse) {
    let (notify, notified) = async_channel::bounded(1);
    for (shard, wanted) in shards {
        let partitions = wanted
            .partitions
            .iter()
            .zip(&wanted.slots)
            .map(|(wanted, slot)| {
                // From the end that was seen on, not from the offset: what is there did not suffice.
                let seen = response.responses[slot.0].partitions[slot.1].high_watermark;
                (wanted.key, seen.max(wanted.offset))
            })
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
