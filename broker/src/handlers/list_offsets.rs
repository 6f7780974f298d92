//! ListOffsets 0–10. Version 0 answers with a list of offsets, later ones with one offset and its time.

use super::{Context, Reply};
use crate::mailbox::{ListOffsetsRequest as ShardListOffsets, ListOffsetsResult, ShardRequest};
use crate::node::{find_topic, route, Node, Route, TopicRef};
use futures::channel::oneshot;
use kafscale_codec::error_code::ErrorCode;
use kafscale_codec::messages::*;
use kafscale_storage_engine::partition_log::PartitionKey;
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
    let image = node.image();
    let topic = find_topic(&image, TopicRef::Name(name))?;
    let Route::Here(shard) = route(&image, node.config.broker_id, topic, wanted.partition_index)? else {
        return Err(ErrorCode::NOT_LEADER_OR_FOLLOWER);
    };
    let (reply, answer) = oneshot::channel();
    let request = ShardListOffsets {
        key: PartitionKey {
            topic_id: topic.record.topic_id,
            partition: wanted.partition_index,
        },
        timestamp: wanted.timestamp,
        current_leader_epoch: wanted.current_leader_epoch,
        reply,
    };
    node.send(shard, ShardRequest::ListOffsets(request)).await;
    let result = answer.await.map_err(|_| ErrorCode::NOT_LEADER_OR_FOLLOWER)?;
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
