//! ListOffsets 0–10. Version 0 answers with a list of offsets, later ones with one offset and its time.

use super::{ask_owner, Context, Reply};
use crate::mailbox::{ListOffsetsRequest as ShardListOffsets, ListOffsetsResult, ShardRequest};
use crate::node::Node;
use futures::stream::{self, StreamExt};
use kafscale_codec::error_code::ErrorCode;
use kafscale_codec::messages::*;
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

/// Partitions of one request that are looked up at the same time: each may read from the object store.
pub(super) const LOOK_UPS_MAX: usize = 64;

/// Kafka's markers, and the first version that may use each. Version 0 knew the first two.
const MARKERS: &[(i64, i16)] = &[(-1, 0), (-2, 0), (-3, 7), (-4, 8), (-5, 9)];

pub(super) fn handle(context: Context, request: ListOffsetsRequest) -> Reply {
    let node = context.node.clone();
    let version = context.version();
    if !matches!(request.isolation_level, 0 | 1) {
        return context.ready(refused(&request, ErrorCode::UNKNOWN_SERVER_ERROR));
    }
    context.later(async move {
        let (wanted, twice) = distinct(&request);
        let look_ups = wanted.iter().map(|(name, partition)| {
            let refused = match partition.timestamp {
                _ if twice.contains(&(*name, partition.partition_index)) => Some(ErrorCode::INVALID_REQUEST),
                at if at < 0 && !MARKERS.iter().any(|(marker, since)| at == *marker && version >= *since) => {
                    Some(ErrorCode::UNSUPPORTED_VERSION)
                }
                _ => None,
            };
            let node = &node;
            async move {
                let result = match refused {
                    Some(error) => Err(error),
                    None => look_up(node, name, partition).await,
                };
                answer(partition, result, version)
            }
        });
        let answers: Vec<_> = stream::iter(look_ups).buffered(LOOK_UPS_MAX).collect().await;
        let mut response = ListOffsetsResponse::default();
        let mut places: BTreeMap<&str, usize> = BTreeMap::new();
        for ((name, _), answer) in wanted.iter().zip(answers) {
            let place = *places.entry(name).or_insert_with(|| {
                response.topics.push(ListOffsetsTopicResponse {
                    name: name.to_string(),
                    ..ListOffsetsTopicResponse::default()
                });
                response.topics.len() - 1
            });
            response.topics[place].partitions.push(answer);
        }
        response
    })
}

/// The answer to a request that cannot be worked on at all.
fn refused(request: &ListOffsetsRequest, error: ErrorCode) -> ListOffsetsResponse {
    let topics = request.topics.iter().map(|topic| ListOffsetsTopicResponse {
        name: topic.name.clone(),
        partitions: topic
            .partitions
            .iter()
            .map(|asked| answer(asked, Err(error), 1))
            .collect(),
    });
    ListOffsetsResponse {
        topics: topics.collect(),
        ..Default::default()
    }
}

type Named<'a> = (&'a str, i32);

/// Each partition of the request once, as Kafka answers them, and those that are named more than once.
fn distinct(request: &ListOffsetsRequest) -> (Vec<(&str, &ListOffsetsPartition)>, BTreeSet<Named<'_>>) {
    let (mut seen, mut twice, mut wanted) = (BTreeSet::new(), BTreeSet::new(), Vec::new());
    for topic in &request.topics {
        for partition in &topic.partitions {
            let named = (topic.name.as_str(), partition.partition_index);
            match seen.insert(named) {
                true => wanted.push((topic.name.as_str(), partition)),
                false => drop(twice.insert(named)),
            }
        }
    }
    (wanted, twice)
}

async fn look_up(node: &Rc<Node>, name: &str, wanted: &ListOffsetsPartition) -> Result<ListOffsetsResult, ErrorCode> {
    let (timestamp, current_leader_epoch) = (wanted.timestamp, wanted.current_leader_epoch);
    let result = ask_owner(node, name, wanted.partition_index, |key, reply| {
        ShardRequest::ListOffsets(ShardListOffsets {
            key,
            timestamp,
            current_leader_epoch,
            reply,
        })
    })
    .await?;
    match result.error {
        ErrorCode::NONE => Ok(result),
        error => Err(error),
    }
}

fn answer(
    wanted: &ListOffsetsPartition,
    result: Result<ListOffsetsResult, ErrorCode>,
    version: i16,
) -> ListOffsetsPartitionResponse {
    let mut answer = ListOffsetsPartitionResponse {
        partition_index: wanted.partition_index,
        ..Default::default()
    };
    match result {
        Ok(found) => {
            answer.timestamp = found.timestamp;
            answer.offset = found.offset;
            answer.leader_epoch = found.leader_epoch;
            if version == 0 && found.offset >= 0 && wanted.max_num_offsets > 0 {
                answer.old_style_offsets = vec![found.offset];
            }
        }
        Err(error) => answer.error_code = error,
    }
    answer
}
