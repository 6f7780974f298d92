//! What tools look at: DescribeTopicPartitions 0, DescribeLogDirs 1–4, DescribeProducers 0, ListTransactions 0–2,
//! DescribeClientQuotas 0–1.

use super::metadata::ALL_TOPIC_OPERATIONS;
use super::{ask_owner, Context, Reply};
use crate::cluster::image::{ClusterImage, TopicImage};
use crate::mailbox::{InspectRequest, Inspection, ShardRequest};
use crate::node::{route, Node, Route};
use futures::channel::oneshot;
use kafscale_codec::error_code::ErrorCode;
use kafscale_codec::messages::*;
use kafscale_storage_engine::partition_log::PartitionKey;
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

/// Partitions in one answer at most (`max.request.partition.size.limit`).
const PARTITIONS_PER_ANSWER: usize = 2_000;

/// A compiled pattern may take this many bytes: clients choose it.
const PATTERN_BYTES_MAX: usize = 1 << 20;

pub(super) fn describe_topic_partitions(context: Context, request: DescribeTopicPartitionsRequest) -> Reply {
    let image = context.node.image();
    let limit = (request.response_partition_limit.max(1) as usize).min(PARTITIONS_PER_ANSWER);
    let mut names: Vec<&str> = match request.topics.is_empty() {
        true => image.topics.keys().map(String::as_str).collect(),
        false => request.topics.iter().map(|topic| topic.name.as_str()).collect(),
    };
    names.sort_unstable();
    names.dedup();
    if is_misplaced(&request, &names) {
        return context.ready(misplaced(&request));
    }
    let (first_name, mut first) = match &request.cursor {
        Some(cursor) => (cursor.topic_name.as_str(), cursor.partition_index.max(0)),
        None => ("", 0),
    };
    let mut response = DescribeTopicPartitionsResponse::default();
    let mut left = limit;
    for name in names.into_iter().filter(|name| *name >= first_name) {
        if name != first_name {
            first = 0;
        }
        let next = |partition_index| TopicPartitionsCursor {
            topic_name: name.to_string(),
            partition_index,
        };
        if left == 0 {
            response.next_cursor = Some(next(first));
            break;
        }
        let Some(topic) = image.topics.get(name) else {
            response.topics.push(unknown_topic(name));
            continue;
        };
        let end = (topic.record.partitions as i32).min(first.saturating_add(left as i32));
        response.topics.push(describe_topic(&image, topic, first..end));
        left -= (end - first).max(0) as usize;
        if end < topic.record.partitions as i32 {
            response.next_cursor = Some(next(end));
            break;
        }
    }
    context.ready(response)
}

/// Whether the cursor is none that an answer to this request can have had.
fn is_misplaced(request: &DescribeTopicPartitionsRequest, names: &[&str]) -> bool {
    request.cursor.as_ref().is_some_and(|cursor| {
        let names_topics = !request.topics.is_empty();
        cursor.partition_index < 0 || names_topics && names.binary_search(&cursor.topic_name.as_str()).is_err()
    })
}

fn misplaced(request: &DescribeTopicPartitionsRequest) -> DescribeTopicPartitionsResponse {
    let topics = request.topics.iter().map(|asked| DescribeTopicPartitionsResponseTopic {
        error_code: ErrorCode::INVALID_REQUEST,
        name: Some(asked.name.clone()),
        topic_authorized_operations: NO_AUTHORIZED_OPERATIONS,
        ..DescribeTopicPartitionsResponseTopic::default()
    });
    DescribeTopicPartitionsResponse {
        topics: topics.collect(),
        ..DescribeTopicPartitionsResponse::default()
    }
}

fn unknown_topic(name: &str) -> DescribeTopicPartitionsResponseTopic {
    let error_code = match super::topics::check_name(name) {
        Ok(()) => ErrorCode::UNKNOWN_TOPIC_OR_PARTITION,
        Err(_) => ErrorCode::INVALID_TOPIC_EXCEPTION,
    };
    DescribeTopicPartitionsResponseTopic {
        error_code,
        name: Some(name.to_string()),
        topic_authorized_operations: ALL_TOPIC_OPERATIONS,
        ..DescribeTopicPartitionsResponseTopic::default()
    }
}

fn describe_topic(
    image: &ClusterImage,
    topic: &TopicImage,
    partitions: std::ops::Range<i32>,
) -> DescribeTopicPartitionsResponseTopic {
    let describe = |partition_index| {
        let leader = image.live_leader(topic, partition_index);
        let node_id = leader.map(|leader| image.node_id(leader.broker_id, leader.shard));
        // Durability is the store's: the leader is the only replica there is.
        let replicas: Vec<i32> = node_id.into_iter().collect();
        DescribeTopicPartitionsResponsePartition {
            error_code: match leader {
                Some(_) => ErrorCode::NONE,
                None => ErrorCode::LEADER_NOT_AVAILABLE,
            },
            partition_index,
            leader_id: node_id.unwrap_or(-1),
            leader_epoch: leader.map_or(-1, |leader| leader.leader_epoch),
            isr_nodes: replicas.clone(),
            replica_nodes: replicas,
            // Java 4 cannot stand null here.
            eligible_leader_replicas: Some(Vec::new()),
            last_known_elr: Some(Vec::new()),
            ..DescribeTopicPartitionsResponsePartition::default()
        }
    };
    DescribeTopicPartitionsResponseTopic {
        name: Some(topic.name.clone()),
        topic_id: topic.record.topic_id,
        partitions: partitions.map(describe).collect(),
        topic_authorized_operations: ALL_TOPIC_OPERATIONS,
        ..DescribeTopicPartitionsResponseTopic::default()
    }
}

pub(super) fn describe_log_dirs(context: Context, request: DescribeLogDirsRequest) -> Reply {
    let node = context.node.clone();
    context.later(async move {
        let image = node.image();
        let asked = |topic: &TopicImage, partition: i32| match &request.topics {
            None => true,
            Some(topics) => topics
                .iter()
                .any(|asked| asked.topic == topic.name && asked.partitions.contains(&partition)),
        };
        // By shard: what this broker leads and the client wants to know of.
        let mut wanted: BTreeMap<u32, Vec<(String, PartitionKey)>> = BTreeMap::new();
        for topic in image.topics.values() {
            for partition in 0..topic.record.partitions as i32 {
                if let (true, Ok(Route::Here(shard))) = (
                    asked(topic, partition),
                    route(&image, node.config.broker_id, topic, partition),
                ) {
                    let key = PartitionKey {
                        topic_id: topic.record.topic_id,
                        partition,
                    };
                    wanted.entry(shard).or_default().push((topic.name.clone(), key));
                }
            }
        }
        let mut topics: BTreeMap<String, Vec<DescribeLogDirsPartition>> = BTreeMap::new();
        for (shard, partitions) in wanted {
            let keys = partitions.iter().map(|(_, key)| *key).collect();
            for ((name, key), found) in partitions.into_iter().zip(inspect(&node, shard, keys).await) {
                if found.error == ErrorCode::NONE {
                    topics.entry(name).or_default().push(DescribeLogDirsPartition {
                        partition_index: key.partition,
                        partition_size: found.size_bytes as i64,
                        ..DescribeLogDirsPartition::default()
                    });
                }
            }
        }
        DescribeLogDirsResponse {
            results: vec![DescribeLogDirsResult {
                log_dir: "object-store".to_string(),
                topics: topics
                    .into_iter()
                    .map(|(name, partitions)| DescribeLogDirsTopic { name, partitions })
                    .collect(),
                ..DescribeLogDirsResult::default()
            }],
            ..DescribeLogDirsResponse::default()
        }
    })
}

/// One answer per partition; none at all if the shard has stopped.
async fn inspect(node: &Rc<Node>, shard: u32, partitions: Vec<PartitionKey>) -> Vec<Inspection> {
    let (reply, answer) = oneshot::channel();
    node.send(shard, ShardRequest::Inspect(InspectRequest { partitions, reply }))
        .await;
    answer.await.unwrap_or_default()
}

pub(super) fn describe_producers(context: Context, request: DescribeProducersRequest) -> Reply {
    let node = context.node.clone();
    context.later(async move {
        let mut response = DescribeProducersResponse::default();
        for topic in request.topics {
            let mut partitions = Vec::with_capacity(topic.partition_indexes.len());
            let is_illegal = super::topics::check_name(&topic.name).is_err();
            for partition_index in topic.partition_indexes {
                if is_illegal {
                    partitions.push(producers_of(partition_index, Err(ErrorCode::INVALID_TOPIC_EXCEPTION)));
                    continue;
                }
                let found = ask_owner(&node, &topic.name, partition_index, |key, reply| {
                    let partitions = vec![key];
                    ShardRequest::Inspect(InspectRequest { partitions, reply })
                })
                .await;
                let found = found.map(|mut all| all.pop().unwrap_or_default());
                partitions.push(producers_of(partition_index, found));
            }
            response.topics.push(DescribeProducersTopicResponse {
                name: topic.name,
                partitions,
            });
        }
        response
    })
}

fn producers_of(partition_index: i32, found: Result<Inspection, ErrorCode>) -> DescribeProducersPartition {
    let (error_code, producers) = match found {
        Ok(found) => (found.error, found.producers),
        Err(error) => (error, Vec::new()),
    };
    DescribeProducersPartition {
        partition_index,
        error_code,
        error_message: None,
        active_producers: producers
            .into_iter()
            .map(|producer| ActiveProducer {
                producer_id: producer.producer_id,
                producer_epoch: i32::from(producer.producer_epoch),
                last_sequence: producer.last_sequence,
                last_timestamp: producer.timestamp,
                coordinator_epoch: -1,
                current_txn_start_offset: -1,
            })
            .collect(),
    }
}

/// There are no transactions.
pub(super) fn list_transactions(context: Context, request: ListTransactionsRequest) -> Reply {
    const STATES: [&str; 8] = [
        "Empty",
        "Ongoing",
        "PrepareCommit",
        "PrepareAbort",
        "CompleteCommit",
        "CompleteAbort",
        "Dead",
        "PrepareEpochFence",
    ];
    let pattern = request.transactional_id_pattern.as_deref().unwrap_or_default();
    if regex_syntax_error(pattern) {
        return context.ready(ListTransactionsResponse {
            error_code: ErrorCode::INVALID_REGULAR_EXPRESSION,
            ..ListTransactionsResponse::default()
        });
    }
    let states = request.state_filters.into_iter();
    let unknown: BTreeSet<String> = states.filter(|state| !STATES.contains(&state.as_str())).collect();
    context.ready(ListTransactionsResponse {
        unknown_state_filters: unknown.into_iter().collect(),
        ..ListTransactionsResponse::default()
    })
}

fn regex_syntax_error(pattern: &str) -> bool {
    regex::RegexBuilder::new(pattern)
        .size_limit(PATTERN_BYTES_MAX)
        .build()
        .is_err()
}

/// There are no quotas; a filter that Kafka would refuse is refused.
pub(super) fn describe_client_quotas(context: Context, request: DescribeClientQuotasRequest) -> Reply {
    context.ready(match check_quota_filter(&request.components) {
        Ok(()) => DescribeClientQuotasResponse {
            entries: Some(Vec::new()),
            ..DescribeClientQuotasResponse::default()
        },
        Err((error_code, message)) => DescribeClientQuotasResponse {
            error_code,
            error_message: Some(message.to_string()),
            entries: None,
            ..DescribeClientQuotasResponse::default()
        },
    })
}

/// `match_type` of a component that names its entity.
const MATCH_EXACT: i8 = 0;

/// `match_type` of a component that takes the default, or anything that is set.
const MATCH_UNNAMED: std::ops::RangeInclusive<i8> = 1..=2;

fn check_quota_filter(components: &[QuotaComponent]) -> Result<(), (ErrorCode, &'static str)> {
    let invalid = |why| Err((ErrorCode::INVALID_REQUEST, why));
    let mut seen = BTreeSet::new();
    for component in components {
        let kind = component.entity_type.as_str();
        if kind.is_empty() {
            return invalid("an entity type is empty");
        }
        if !seen.insert(kind) {
            return invalid("an entity type is named twice");
        }
        if !["user", "client-id", "ip"].contains(&kind) {
            let why = "entity types are user, client-id and ip";
            return Err((ErrorCode::UNSUPPORTED_VERSION, why));
        }
        match (component.match_type, &component.r#match) {
            (MATCH_EXACT, Some(_)) => {}
            (MATCH_EXACT, None) => return invalid("an exact match needs a name"),
            (kind, None) if MATCH_UNNAMED.contains(&kind) => {}
            (kind, Some(_)) if MATCH_UNNAMED.contains(&kind) => return invalid("only an exact match has a name"),
            _ => return invalid("the match type is not known"),
        }
    }
    if seen.contains("ip") && seen.len() > 1 {
        return invalid("ip does not go together with user or client-id");
    }
    Ok(())
}
