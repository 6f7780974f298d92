//! What a client asks of a broker before anything else: versions, metadata, the cluster, a coordinator.

use crate::error_code::ErrorCode;
use crate::types::TopicId;

/// "Not asked for" in fields of authorized operations.
pub const NO_AUTHORIZED_OPERATIONS: i32 = i32::MIN;

api! {
    ApiVersions 0..=4 => ApiVersionsRequest, ApiVersionsResponse;
    Metadata 0..=13 => MetadataRequest, MetadataResponse;
    DescribeCluster 0..=2 => DescribeClusterRequest, DescribeClusterResponse;
    FindCoordinator 0..=6 => FindCoordinatorRequest, FindCoordinatorResponse;
}

message! {
    ApiVersionsRequest {
        client_software_name: String, 3..;
        client_software_version: String, 3..;
    }

    ApiVersionsResponse {
        error_code: ErrorCode, 0..;
        api_keys: Vec<ApiVersion>, 0..;
        throttle_time_ms: i32, 1..;
        supported_features: Vec<SupportedFeature>, 3.., tag 0;
        finalized_features_epoch: i64, 3.., default -1, tag 1;
        finalized_features: Vec<FinalizedFeature>, 3.., tag 2;
        zk_migration_ready: bool, 3.., tag 3;
    }

    ApiVersion {
        api_key: i16, 0..;
        min_version: i16, 0..;
        max_version: i16, 0..;
    }

    SupportedFeature {
        name: String, 3..;
        min_version: i16, 3..;
        max_version: i16, 3..;
    }

    FinalizedFeature {
        name: String, 3..;
        max_version_level: i16, 3..;
        min_version_level: i16, 3..;
    }

    MetadataRequest {
        topics: Option<Vec<MetadataRequestTopic>>, 0.., null 1..;
        allow_auto_topic_creation: bool, 4.., default true;
        include_cluster_authorized_operations: bool, 8..=10;
        include_topic_authorized_operations: bool, 8..;
    }

    MetadataRequestTopic {
        topic_id: TopicId, 10..;
        name: Option<String>, 0.., null 10..;
    }

    MetadataResponse {
        throttle_time_ms: i32, 3..;
        brokers: Vec<MetadataResponseBroker>, 0..;
        cluster_id: Option<String>, 2.., null 2..;
        controller_id: i32, 1.., default -1;
        topics: Vec<MetadataResponseTopic>, 0..;
        cluster_authorized_operations: i32, 8..=10, default NO_AUTHORIZED_OPERATIONS;
        error_code: ErrorCode, 13..;
    }

    MetadataResponseBroker {
        node_id: i32, 0..;
        host: String, 0..;
        port: i32, 0..;
        rack: Option<String>, 1.., null 1..;
    }

    MetadataResponseTopic {
        error_code: ErrorCode, 0..;
        name: Option<String>, 0.., null 12..;
        topic_id: TopicId, 10..;
        is_internal: bool, 1..;
        partitions: Vec<MetadataResponsePartition>, 0..;
        topic_authorized_operations: i32, 8.., default NO_AUTHORIZED_OPERATIONS;
    }

    MetadataResponsePartition {
        error_code: ErrorCode, 0..;
        partition_index: i32, 0..;
        leader_id: i32, 0..;
        leader_epoch: i32, 7.., default -1;
        replica_nodes: Vec<i32>, 0..;
        isr_nodes: Vec<i32>, 0..;
        offline_replicas: Vec<i32>, 5..;
    }

    DescribeClusterRequest {
        include_cluster_authorized_operations: bool, 0..;
        endpoint_type: i8, 1.., default 1;
        include_fenced_brokers: bool, 2..;
    }

    DescribeClusterResponse {
        throttle_time_ms: i32, 0..;
        error_code: ErrorCode, 0..;
        error_message: Option<String>, 0.., null 0..;
        endpoint_type: i8, 1.., default 1;
        cluster_id: String, 0..;
        controller_id: i32, 0.., default -1;
        brokers: Vec<DescribeClusterBroker>, 0..;
        cluster_authorized_operations: i32, 0.., default NO_AUTHORIZED_OPERATIONS;
    }

    DescribeClusterBroker {
        broker_id: i32, 0..;
        host: String, 0..;
        port: i32, 0..;
        rack: Option<String>, 0.., null 0..;
        is_fenced: bool, 2..;
    }

    FindCoordinatorRequest {
        key: String, ..=3, strict true;
        key_type: i8, 1..;
        coordinator_keys: Vec<String>, 4.., strict true;
    }

    FindCoordinatorResponse {
        throttle_time_ms: i32, 1..;
        error_code: ErrorCode, ..=3;
        error_message: Option<String>, 1..=3, null 1..=3;
        node_id: i32, ..=3;
        host: String, ..=3;
        port: i32, ..=3;
        coordinators: Vec<Coordinator>, 4..;
    }

    Coordinator {
        key: String, 4..;
        node_id: i32, 4..;
        host: String, 4..;
        port: i32, 4..;
        error_code: ErrorCode, 4..;
        error_message: Option<String>, 4.., null 4..;
    }
}
