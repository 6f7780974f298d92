//! Creating, deleting, describing topics; more partitions; fewer records.

use super::NO_AUTHORIZED_OPERATIONS;
use crate::error_code::ErrorCode;
use crate::types::TopicId;

api! {
    CreateTopics 0..=7 => CreateTopicsRequest, CreateTopicsResponse;
    DeleteTopics 0..=6 => DeleteTopicsRequest, DeleteTopicsResponse;
    CreatePartitions 0..=3 => CreatePartitionsRequest, CreatePartitionsResponse;
    DeleteRecords 0..=2 => DeleteRecordsRequest, DeleteRecordsResponse;
    DescribeTopicPartitions 0..=0 => DescribeTopicPartitionsRequest, DescribeTopicPartitionsResponse;
}

message! {
    CreateTopicsRequest {
        topics: Vec<CreatableTopic>, 0..;
        timeout_ms: i32, 0.., default 60_000;
        validate_only: bool, 1.., strict true;
    }

    CreatableTopic {
        name: String, 0..;
        num_partitions: i32, 0..;
        replication_factor: i16, 0..;
        assignments: Vec<CreatableReplicaAssignment>, 0..;
        configs: Vec<CreatableTopicConfig>, 0..;
    }

    CreatableReplicaAssignment {
        partition_index: i32, 0..;
        broker_ids: Vec<i32>, 0..;
    }

    CreatableTopicConfig {
        name: String, 0..;
        value: Option<String>, 0.., null 0..;
    }

    CreateTopicsResponse {
        throttle_time_ms: i32, 2..;
        topics: Vec<CreatableTopicResult>, 0..;
    }

    CreatableTopicResult {
        name: String, 0..;
        topic_id: TopicId, 7..;
        error_code: ErrorCode, 0..;
        error_message: Option<String>, 1.., null 0..;
        topic_config_error_code: ErrorCode, 5.., tag 0;
        num_partitions: i32, 5.., default -1;
        replication_factor: i16, 5.., default -1;
        configs: Option<Vec<CreatableTopicConfigs>>, 5.., null 5..;
    }

    CreatableTopicConfigs {
        name: String, 5..;
        value: Option<String>, 5.., null 5..;
        read_only: bool, 5..;
        config_source: i8, 5.., default -1;
        is_sensitive: bool, 5..;
    }

    DeleteTopicsRequest {
        topics: Vec<DeleteTopicState>, 6.., strict true;
        topic_names: Vec<String>, ..=5, strict true;
        timeout_ms: i32, 0..;
    }

    DeleteTopicState {
        name: Option<String>, 6.., null 6..;
        topic_id: TopicId, 6..;
    }

    DeleteTopicsResponse {
        throttle_time_ms: i32, 1..;
        responses: Vec<DeletableTopicResult>, 0..;
    }

    DeletableTopicResult {
        name: Option<String>, 0.., null 6..;
        topic_id: TopicId, 6..;
        error_code: ErrorCode, 0..;
        error_message: Option<String>, 5.., null 5..;
    }

    CreatePartitionsRequest {
        topics: Vec<CreatePartitionsTopic>, 0..;
        timeout_ms: i32, 0..;
        validate_only: bool, 0..;
    }

    CreatePartitionsTopic {
        name: String, 0..;
        count: i32, 0..;
        assignments: Option<Vec<CreatePartitionsAssignment>>, 0.., null 0..;
    }

    CreatePartitionsAssignment {
        broker_ids: Vec<i32>, 0..;
    }

    CreatePartitionsResponse {
        throttle_time_ms: i32, 0..;
        results: Vec<CreatePartitionsTopicResult>, 0..;
    }

    CreatePartitionsTopicResult {
        name: String, 0..;
        error_code: ErrorCode, 0..;
        error_message: Option<String>, 0.., null 0..;
    }

    DeleteRecordsRequest {
        topics: Vec<DeleteRecordsTopic>, 0..;
        timeout_ms: i32, 0..;
    }

    DeleteRecordsTopic {
        name: String, 0..;
        partitions: Vec<DeleteRecordsPartition>, 0..;
    }

    DeleteRecordsPartition {
        partition_index: i32, 0..;
        offset: i64, 0..;
    }

    DeleteRecordsResponse {
        throttle_time_ms: i32, 0..;
        topics: Vec<DeleteRecordsTopicResult>, 0..;
    }

    DeleteRecordsTopicResult {
        name: String, 0..;
        partitions: Vec<DeleteRecordsPartitionResult>, 0..;
    }

    DeleteRecordsPartitionResult {
        partition_index: i32, 0..;
        low_watermark: i64, 0..;
        error_code: ErrorCode, 0..;
    }

    DescribeTopicPartitionsRequest {
        topics: Vec<DescribeTopicPartitionsTopic>, 0..;
        response_partition_limit: i32, 0.., default 2000;
        cursor: Option<TopicPartitionsCursor>, 0.., null 0..;
    }

    DescribeTopicPartitionsTopic {
        name: String, 0..;
    }

    TopicPartitionsCursor {
        topic_name: String, 0..;
        partition_index: i32, 0..;
    }

    DescribeTopicPartitionsResponse {
        throttle_time_ms: i32, 0..;
        topics: Vec<DescribeTopicPartitionsResponseTopic>, 0..;
        next_cursor: Option<TopicPartitionsCursor>, 0.., null 0..;
    }

    DescribeTopicPartitionsResponseTopic {
        error_code: ErrorCode, 0..;
        name: Option<String>, 0.., null 0..;
        topic_id: TopicId, 0..;
        is_internal: bool, 0..;
        partitions: Vec<DescribeTopicPartitionsResponsePartition>, 0..;
        topic_authorized_operations: i32, 0.., default NO_AUTHORIZED_OPERATIONS;
    }

    DescribeTopicPartitionsResponsePartition {
        error_code: ErrorCode, 0..;
        partition_index: i32, 0..;
        leader_id: i32, 0..;
        leader_epoch: i32, 0.., default -1;
        replica_nodes: Vec<i32>, 0..;
        isr_nodes: Vec<i32>, 0..;
        eligible_leader_replicas: Option<Vec<i32>>, 0.., null 0..;
        last_known_elr: Option<Vec<i32>>, 0.., null 0..;
        offline_replicas: Vec<i32>, 0..;
    }
}
