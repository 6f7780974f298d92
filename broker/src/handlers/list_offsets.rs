//! ListOffsets 0–10. Version 0 answers with a list of offsets, later ones with one offset and its time.

use super::{ask_owner, Context, Reply};
use crate::mailbox::{ListOffsetsRequest as ShardListOffsets, ListOffsetsResult, ShardRequest};
use crate::node::Node;
use kafscale_codec::error_code::ErrorCode;
use kafscale_codec::messages::*;
use std::rc::Rc;

pub(super) fn handle(context: Context, request: ListOffsetsRequest) -> Reply {
    let node = context.node.clone();
    let version = context.version();
    context.later(async move {
        let mut response = ListOffsetsResponse::default();
        for topic in &request.topics {
            let mut partitions = Vec::with_capacity(topic.partitions.len());
            for partition in &topic.partitions {
                let result = look_up(&node, &topic.name, partition).await;
                partitions.push(answer(partition, result, version));
            }
            response.topics.push(ListOffsetsTopicResponse {
                name: topic.name.clone(),
                partitions,
            });
        }
        response
    })
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
