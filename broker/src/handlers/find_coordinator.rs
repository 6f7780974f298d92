//! FindCoordinator 0–6: one key a request, several from version 4.
//!
//! Clients are sent to the broker that should have the group's slot, as Metadata names it.

use super::{Context, Reply};
use crate::cluster::image::{coordinating_broker, ClusterImage, NodeAddress};
use kafscale_codec::error_code::ErrorCode;
use kafscale_codec::messages::*;
use kafscale_metastore::keys::group_slot;

const KEY_TYPE_GROUP: i8 = 0;
const KEY_TYPE_TRANSACTION: i8 = 1;

/// First version that asks for several keys.
const KEYS_OF_MANY: i16 = 4;

/// Why there is no coordinator.
type Refusal = (ErrorCode, &'static str);

pub(super) fn handle(context: Context, request: FindCoordinatorRequest) -> Reply {
    let version = context.version();
    let image = context.node.image();
    let keys = if version >= KEYS_OF_MANY {
        request.coordinator_keys
    } else {
        vec![request.key]
    };
    let find = |key: String| {
        let found = find(&image, &key, request.key_type);
        answer(key, found)
    };
    let mut coordinators: Vec<Coordinator> = keys.into_iter().map(find).collect();
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
fn find<'a>(image: &'a ClusterImage, key: &str, key_type: i8) -> Result<NodeAddress<'a>, Refusal> {
    match key_type {
        KEY_TYPE_GROUP => {
            let node_id = coordinating_broker(image, group_slot(key)).map(|broker_id| image.node_id(broker_id, 0));
            image
                .nodes()
                .find(|node| Some(node.node_id) == node_id)
                .ok_or((ErrorCode::COORDINATOR_NOT_AVAILABLE, "no broker is registered yet"))
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

fn answer(key: String, found: Result<NodeAddress<'_>, Refusal>) -> Coordinator {
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
            error_code,
            error_message: Some(message.to_string()),
            ..Default::default()
        },
    }
}
