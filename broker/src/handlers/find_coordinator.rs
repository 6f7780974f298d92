//! FindCoordinator 0–6: one key a request, several from version 4.
//!
//! One broker coordinates all groups, as it is the only one. Clients are sent to it as Metadata names it.

use super::{Context, Reply};
use crate::cluster::image::{ClusterImage, NodeAddress};
use kafscale_codec::error_code::ErrorCode;
use kafscale_codec::messages::*;

const KEY_TYPE_GROUP: i8 = 0;
const KEY_TYPE_TRANSACTION: i8 = 1;

/// First version that asks for several keys.
const KEYS_OF_MANY: i16 = 4;

/// Why there is no coordinator.
type Refusal = (ErrorCode, &'static str);

pub(super) fn handle(context: Context, request: FindCoordinatorRequest) -> Reply {
    let version = context.version();
    let image = context.node.image();
    let broker_id = context.node.config.broker_id;
    let keys = if version >= KEYS_OF_MANY {
        request.coordinator_keys
    } else {
        vec![request.key]
    };
    let found = find(&image, broker_id, request.key_type);
    let mut coordinators: Vec<Coordinator> = keys.into_iter().map(|key| answer(key, &found)).collect();
    if version >= KEYS_OF_MANY {
        return context.ready(FindCoordinatorResponse {
            coordinators,
            ..Default::default()
        });
    }
    let one = coordinators.pop().expect("one key was asked for");
    context.ready(FindCoordinatorResponse {
        error_code: one.error_code,
        error_message: one.error_message,
        node_id: one.node_id,
        host: one.host,
        port: one.port,
        ..Default::default()
    })
}

/// The node whose first shard has the coordinator: that saves the hop where shards are nodes of their own.
fn find(image: &ClusterImage, broker_id: i32, key_type: i8) -> Result<NodeAddress<'_>, Refusal> {
    match key_type {
        KEY_TYPE_GROUP => {
            let node_id = image.node_id(broker_id, 0);
            image.nodes().find(|node| node.node_id == node_id).ok_or((
                ErrorCode::COORDINATOR_NOT_AVAILABLE,
                "this broker is not registered yet",
            ))
        }
        // Fatal to the producer, which says so at once, as with InitProducerId.
        KEY_TYPE_TRANSACTION => Err((
            ErrorCode::TRANSACTIONAL_ID_AUTHORIZATION_FAILED,
            "transactions are not served",
        )),
        _ => Err((
            ErrorCode::INVALID_REQUEST,
            "groups are the only kind of key that has a coordinator",
        )),
    }
}

fn answer(key: String, found: &Result<NodeAddress<'_>, Refusal>) -> Coordinator {
    match found {
        Ok(node) => Coordinator {
            key,
            node_id: node.node_id,
            host: node.broker.host.clone(),
            port: i32::from(node.port),
            ..Default::default()
        },
        Err((error_code, message)) => Coordinator {
            key,
            node_id: -1,
            port: -1,
            error_code: *error_code,
            error_message: Some(message.to_string()),
            ..Default::default()
        },
    }
}
