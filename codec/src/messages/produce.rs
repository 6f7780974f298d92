//! Produce, and the producer ids that idempotence needs.

use crate::error_code::ErrorCode;
use crate::types::TopicId;
use bytes::Bytes;

api! {
    Produce 0..=13 => ProduceRequest, ProduceResponse;
    InitProducerId 0..=5 => InitProducerIdRequest, InitProducerIdResponse;
}

message! {
    ProduceRequest {
        transactional_id: Option<String>, 3.., null 3..;
        acks: i16, 0..;
        timeout_ms: i32, 0..;
        topic_data: Vec<TopicProduceData>, 0..;
    }

    TopicProduceData {
        name: String, ..=12, strict true;
        topic_id: TopicId, 13.., strict true;
        partition_data: Vec<PartitionProduceData>, 0..;
    }

    PartitionProduceData {
        index: i32, 0..;
        records: Option<Bytes>, 0.., null 0..;
    }

    ProduceResponse {
        responses: Vec<TopicProduceResponse>, 0..;
        throttle_time_ms: i32, 1..;
        node_endpoints: Vec<NodeEndpoint>, 10.., tag 0;
    }

    TopicProduceResponse {
        name: String, ..=12;
        topic_id: TopicId, 13..;
        partition_responses: Vec<PartitionProduceResponse>, 0..;
    }

    PartitionProduceResponse {
        index: i32, 0..;
        error_code: ErrorCode, 0..;
        base_offset: i64, 0..;
        log_append_time_ms: i64, 2.., default -1;
        log_start_offset: i64, 5.., default -1;
        record_errors: Vec<BatchIndexAndErrorMessage>, 8..;
        error_message: Option<String>, 8.., null 8..;
        current_leader: LeaderIdAndEpoch, 10.., tag 0;
    }

    BatchIndexAndErrorMessage {
        batch_index: i32, 8..;
        batch_index_error_message: Option<String>, 8.., null 8..;
    }

    LeaderIdAndEpoch {
        leader_id: i32, 0.., default -1;
        leader_epoch: i32, 0.., default -1;
    }

    NodeEndpoint {
        node_id: i32, 0..;
        host: String, 0..;
        port: i32, 0..;
        rack: Option<String>, 0.., null 0..;
    }

    InitProducerIdRequest {
        transactional_id: Option<String>, 0.., null 0..;
        transaction_timeout_ms: i32, 0..;
        producer_id: i64, 3.., default -1;
        producer_epoch: i16, 3.., default -1;
    }

    InitProducerIdResponse {
        throttle_time_ms: i32, 0..;
        error_code: ErrorCode, 0..;
        producer_id: i64, 0.., default -1;
        producer_epoch: i16, 0..;
    }
}
