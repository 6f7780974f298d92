//! ApiVersions 0–4, DescribeCluster 0–2, InitProducerId 0–5.

use super::{Context, Reply};
use kafscale_codec::api::SERVED;
use kafscale_codec::error_code::ErrorCode;
use kafscale_codec::messages::*;
use kafscale_metastore::counters;

/// Everything that Kafka knows to be allowed or not in a cluster, as KIP-430's bit set, while there is no authorizer.
pub(super) const ALL_CLUSTER_OPERATIONS: i32 = 0b0001_1111_1010_0000;

pub(super) fn api_versions(context: Context, request: ApiVersionsRequest) -> Reply {
    let version = context.version();
    let legal = |name: &str| {
        let inner = |c: char| c.is_ascii_alphanumeric() || c == '.' || c == '-';
        let edge = |c: char| c.is_ascii_alphanumeric();
        name.chars().all(inner) && name.starts_with(edge) && name.ends_with(edge)
    };
    if version >= 3 && !(legal(&request.client_software_name) && legal(&request.client_software_version)) {
        // KIP-511: the name and version of the client's software are checked.
        return context.ready(ApiVersionsResponse {
            error_code: ErrorCode::INVALID_REQUEST,
            ..Default::default()
        });
    }
    context.ready(versions(ErrorCode::NONE))
}

/// A version that is not known is answered with version 0 and the list, so that the client can choose (KIP-35).
pub(super) fn unsupported_api_versions(header: &RequestHeader) -> Reply {
    let encoded = encode_response(0, header.correlation_id, &versions(ErrorCode::UNSUPPORTED_VERSION));
    Box::pin(async move { Ok(Some(encoded?)) })
}

fn versions(error_code: ErrorCode) -> ApiVersionsResponse {
    let api_keys = SERVED
        .iter()
        .map(|api| ApiVersion {
            api_key: api.key as i16,
            min_version: api.min,
            max_version: api.max,
        })
        .collect();
    ApiVersionsResponse {
        error_code,
        api_keys,
        ..Default::default()
    }
}

pub(super) fn describe_cluster(context: Context, request: DescribeClusterRequest) -> Reply {
    let image = context.node.image();
    if request.endpoint_type != 1 {
        // 2 is the controllers' (KIP-919), which this endpoint is not; there are no others.
        let error_code = match request.endpoint_type {
            2 => ErrorCode::MISMATCHED_ENDPOINT_TYPE,
            _ => ErrorCode::UNSUPPORTED_ENDPOINT_TYPE,
        };
        return context.ready(DescribeClusterResponse {
            error_code,
            error_message: Some("there are no controller endpoints: ask for brokers".into()),
            ..Default::default()
        });
    }
    let brokers = image
        .nodes()
        .map(|node| DescribeClusterBroker {
            broker_id: node.node_id,
            host: node.broker.host.clone(),
            port: i32::from(node.port),
            rack: node.broker.rack.clone(),
            is_fenced: false,
        })
        .collect();
    let operations = request.include_cluster_authorized_operations;
    context.ready(DescribeClusterResponse {
        cluster_id: image.cluster_id.clone(),
        controller_id: image.controller_node(),
        brokers,
        cluster_authorized_operations: if operations {
            ALL_CLUSTER_OPERATIONS
        } else {
            NO_AUTHORIZED_OPERATIONS
        },
        ..Default::default()
    })
}

pub(super) fn init_producer_id(context: Context, request: InitProducerIdRequest) -> Reply {
    // Id and epoch come together or not at all (KIP-360), and an empty transactional id is none.
    let inconsistent = (request.producer_id == -1) != (request.producer_epoch == -1);
    if inconsistent || request.transactional_id.as_deref() == Some("") {
        return context.ready(InitProducerIdResponse {
            error_code: ErrorCode::INVALID_REQUEST,
            producer_epoch: -1,
            ..Default::default()
        });
    }
    if request.transactional_id.is_some() {
        // Transactions are a non-goal; this code is fatal to the producer, which says so at once.
        return context.ready(InitProducerIdResponse {
            error_code: ErrorCode::TRANSACTIONAL_ID_AUTHORIZATION_FAILED,
            producer_epoch: -1,
            ..Default::default()
        });
    }
    let node = context.node.clone();
    context.later(async move {
        match counters::allocate(&*node.metastore, counters::PRODUCER_IDS, 1).await {
            Ok(id) => InitProducerIdResponse {
                producer_id: id as i64,
                producer_epoch: 0,
                ..Default::default()
            },
            Err(error) => {
                log::warn!("allocate a producer id: {error}");
                InitProducerIdResponse {
                    error_code: ErrorCode::COORDINATOR_NOT_AVAILABLE,
                    producer_epoch: -1,
                    ..Default::default()
                }
            }
        }
    })
}
