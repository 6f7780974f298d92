//! What is done to partitions: CreatePartitions 0–3, DeleteRecords 0–2, OffsetForLeaderEpoch 2–4.

use super::list_offsets::LOOK_UPS_MAX;
use super::topics::{check_admin, check_replicas, wait_for_leaders, PARTITIONS_MAX};
use super::{ask_owner, Context, Reply};
use crate::mailbox::{DeleteRecordsRequest as ShardDelete, EpochEndRequest, ShardRequest};
use crate::node::Node;
use futures::stream::{self, StreamExt};
use kafscale_codec::error_code::ErrorCode;
use kafscale_codec::messages::*;
use kafscale_metastore::keys::TopicRecord;
use kafscale_metastore::operation::OperationError;
use kafscale_metastore::topics::{load_topic, update_topic};
use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;

/// A client that names no sensible timeout waits this long.
const DELETE_TIMEOUT_MIN: Duration = Duration::from_secs(1);

/// Nobody waits longer.
const DELETE_TIMEOUT_MAX: Duration = Duration::from_secs(300);

type Refusal = (ErrorCode, String);

pub(super) fn create(context: Context, request: CreatePartitionsRequest) -> Reply {
    let node = context.node.clone();
    context.later(async move {
        let mut results = Vec::with_capacity(request.topics.len());
        let mut grown = Vec::new();
        let mut named = BTreeMap::new();
        for topic in &request.topics {
            *named.entry(topic.name.as_str()).or_insert(0) += 1;
        }
        for topic in &request.topics {
            // A topic that is named twice is answered once.
            let Some(times) = named.remove(topic.name.as_str()) else {
                continue;
            };
            let outcome = match times > 1 {
                true => Err((
                    ErrorCode::INVALID_REQUEST,
                    "the request names the topic twice".to_string(),
                )),
                false => grow(&node, topic, request.validate_only).await,
            };
            if outcome.is_ok() && !request.validate_only {
                grown.push(topic.name.clone());
            }
            let (error_code, error_message) = match outcome {
                Ok(()) => (ErrorCode::NONE, None),
                Err((error, message)) => (error, Some(message)),
            };
            results.push(CreatePartitionsTopicResult {
                name: topic.name.clone(),
                error_code,
                error_message,
            });
        }
        wait_for_leaders(&node, &grown).await;
        CreatePartitionsResponse {
            throttle_time_ms: 0,
            results,
        }
    })
}

async fn grow(node: &Rc<Node>, wanted: &CreatePartitionsTopic, validate_only: bool) -> Result<(), Refusal> {
    check_admin(node)?;
    let name = &wanted.name;
    let failed = |error: OperationError| {
        log::warn!("add partitions to topic {name}: {error}");
        let why = format!("the metastore did not change the topic: {error}");
        (ErrorCode::REQUEST_TIMED_OUT, why)
    };
    let topic = load_topic(&*node.metastore, name).await.map_err(failed)?;
    let topic = topic.ok_or_else(|| (ErrorCode::UNKNOWN_TOPIC_OR_PARTITION, format!("no topic {name}")))?;
    let now = topic.value.partitions as i32;
    if wanted.count == now {
        let why = format!("Topic already has {now} partition(s).");
        return Err((ErrorCode::INVALID_PARTITIONS, why));
    }
    if wanted.count < now || wanted.count > PARTITIONS_MAX {
        let why = format!(
            "The topic {name} currently has {now} partition(s); {} would not be an increase, or beyond {PARTITIONS_MAX}.",
            wanted.count
        );
        return Err((ErrorCode::INVALID_PARTITIONS, why));
    }
    if let Some(assigned) = &wanted.assignments {
        // The cluster places partitions itself: what Kafka would accept is taken as their number.
        if assigned.len() as i32 != wanted.count - now {
            let why = format!(
                "{} partition(s) are added, but {} are assigned.",
                wanted.count - now,
                assigned.len()
            );
            return Err((ErrorCode::INVALID_REPLICA_ASSIGNMENT, why));
        }
        let image = node.image();
        for partition in assigned {
            check_replicas(&image, &partition.broker_ids)?;
        }
    }
    if validate_only {
        return Ok(());
    }
    let record = TopicRecord {
        partitions: wanted.count as u32,
        ..topic.value
    };
    match update_topic(&*node.metastore, name, topic.mod_revision, &record).await {
        Ok(revision) => {
            log::info!("topic {name} has {} partitions now", wanted.count);
            super::topics::settle(node, |image| {
                image
                    .topics
                    .get(name)
                    .is_none_or(|topic| topic.mod_revision >= revision)
            })
            .await;
            Ok(())
        }
        Err(OperationError::Conflict) => Err((
            ErrorCode::REQUEST_TIMED_OUT,
            format!("topic {name} was changed at the same time: try again"),
        )),
        Err(error) => Err(failed(error)),
    }
}

pub(super) fn delete_records(context: Context, request: DeleteRecordsRequest) -> Reply {
    let node = context.node.clone();
    let limit = Duration::from_millis(request.timeout_ms.max(0) as u64).clamp(DELETE_TIMEOUT_MIN, DELETE_TIMEOUT_MAX);
    context.later(async move {
        // As Kafka: each partition once, with the offset that is given last.
        let mut wanted: BTreeMap<String, BTreeMap<i32, DeleteRecordsPartition>> = BTreeMap::new();
        for topic in request.topics.into_iter().filter(|topic| !topic.partitions.is_empty()) {
            let partitions = topic.partitions.into_iter();
            let partitions = partitions.map(|partition| (partition.partition_index, partition));
            wanted.entry(topic.name).or_default().extend(partitions);
        }
        let mut topics = Vec::with_capacity(wanted.len());
        for (name, partitions) in wanted {
            let deletions = partitions
                .values()
                .map(|partition| delete_one(&node, &name, partition, limit));
            let partitions = futures::future::join_all(deletions).await;
            topics.push(DeleteRecordsTopicResult { name, partitions });
        }
        DeleteRecordsResponse {
            throttle_time_ms: 0,
            topics,
        }
    })
}

async fn delete_one(
    node: &Rc<Node>,
    topic: &str,
    wanted: &DeleteRecordsPartition,
    limit: Duration,
) -> DeleteRecordsPartitionResult {
    let offset = wanted.offset;
    let ask = ask_owner(node, topic, wanted.partition_index, |key, reply| {
        ShardRequest::DeleteRecords(ShardDelete { key, offset, reply })
    });
    let answer = match node.within(limit, ask).await {
        Some(Ok(result)) => match result.error {
            ErrorCode::NONE => Ok(result.low_watermark),
            error => Err(error),
        },
        Some(Err(error)) => Err(error),
        None => Err(ErrorCode::REQUEST_TIMED_OUT),
    };
    DeleteRecordsPartitionResult {
        partition_index: wanted.partition_index,
        low_watermark: answer.unwrap_or(-1),
        error_code: answer.err().unwrap_or(ErrorCode::NONE),
    }
}

pub(super) fn offset_for_leader_epoch(context: Context, request: OffsetForLeaderEpochRequest) -> Reply {
    let node = context.node.clone();
    context.later(async move {
        let wanted = request.topics.iter().flat_map(|topic| {
            let name = topic.topic.as_str();
            topic.partitions.iter().map(move |partition| (name, partition))
        });
        let look_ups = wanted.map(|(topic, partition)| epoch_end(&node, topic, partition));
        let answers: Vec<_> = stream::iter(look_ups).buffered(LOOK_UPS_MAX).collect().await;
        let mut answers = answers.into_iter();
        let topics = request.topics.iter().map(|topic| OffsetForLeaderTopicResult {
            topic: topic.topic.clone(),
            partitions: answers.by_ref().take(topic.partitions.len()).collect(),
        });
        OffsetForLeaderEpochResponse {
            throttle_time_ms: 0,
            topics: topics.collect(),
        }
    })
}

async fn epoch_end(node: &Rc<Node>, topic: &str, wanted: &OffsetForLeaderPartition) -> EpochEndOffset {
    let (current_leader_epoch, leader_epoch) = (wanted.current_leader_epoch, wanted.leader_epoch);
    let end = ask_owner(node, topic, wanted.partition, |key, reply| {
        ShardRequest::EpochEnd(EpochEndRequest {
            key,
            current_leader_epoch,
            leader_epoch,
            reply,
        })
    })
    .await;
    let mut answer = EpochEndOffset {
        partition: wanted.partition,
        ..EpochEndOffset::default()
    };
    match end {
        Ok(end) => {
            (answer.error_code, answer.leader_epoch, answer.end_offset) = (end.error, end.leader_epoch, end.end_offset)
        }
        Err(error) => answer.error_code = error,
    }
    answer
}
