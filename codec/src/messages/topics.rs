//! Creating and deleting topics.

use crate::error_code::ErrorCode;
use crate::types::TopicId;

api! {
    CreateTopics 0..=7 => CreateTopicsRequest, CreateTopicsResponse;
    DeleteTopics 0..=6 => DeleteTopicsRequest, DeleteTopicsResponse;
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
}
