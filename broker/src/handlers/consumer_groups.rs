//! ConsumerGroupHeartbeat 0–1, ConsumerGroupDescribe 0–1 (KIP-848).

use super::groups::{mismatch, ALL_GROUP_OPERATIONS};
use super::{Context, Reply};
use crate::coordinator::{ConsumerHeartbeat, GroupReply, GroupRequest};
use kafscale_codec::error_code::ErrorCode;
use kafscale_codec::messages::*;

/// First version in which members draw their own ids (KIP-1082).
const HEARTBEAT_WITH_OWN_ID: i16 = 1;

pub(super) async fn heartbeat(context: Context, request: ConsumerGroupHeartbeatRequest) -> Reply {
    let heartbeat = ConsumerHeartbeat {
        request,
        draws_own_id: context.version() >= HEARTBEAT_WITH_OWN_ID,
        client_id: context.header.client_id.clone().unwrap_or_default(),
        client_host: context.client.host.to_string(),
        ..ConsumerHeartbeat::default() // The coordinator draws the random bits.
    };
    let heartbeat = GroupRequest::ConsumerHeartbeat(Box::new(heartbeat));
    let pending = context.node.coordinator.submit(heartbeat).await;
    context.later(async move {
        match pending.reply().await {
            GroupReply::ConsumerHeartbeat(response) => response,
            other => mismatch(&other),
        }
    })
}

pub(super) async fn describe(context: Context, request: ConsumerGroupDescribeRequest) -> Reply {
    let with_operations = request.include_authorized_operations;
    let mut pending = Vec::with_capacity(request.group_ids.len());
    for group in request.group_ids {
        let describe = GroupRequest::DescribeConsumers { groups: vec![group] };
        pending.push(context.node.coordinator.submit(describe).await);
    }
    context.later(async move {
        let mut groups = Vec::with_capacity(pending.len());
        for pending in pending {
            match pending.reply().await {
                GroupReply::DescribedConsumers(described) => groups.extend(described),
                other => mismatch(&other),
            }
        }
        if with_operations {
            let described = groups.iter_mut().filter(|group| group.error_code == ErrorCode::NONE);
            described.for_each(|group| group.authorized_operations = ALL_GROUP_OPERATIONS);
        }
        ConsumerGroupDescribeResponse {
            groups,
            ..Default::default()
        }
    })
}
