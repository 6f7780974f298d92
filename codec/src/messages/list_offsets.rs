//! ListOffsets and OffsetForLeaderEpoch.

use crate::error_code::ErrorCode;

api! {
    ListOffsets 0..=10 => ListOffsetsRequest, ListOffsetsResponse;
    OffsetForLeaderEpoch 2..=4 => OffsetForLeaderEpochRequest, OffsetForLeaderEpochResponse;
}

message! {
    ListOffsetsRequest {
        replica_id: i32, 0.., default -1;
        isolation_level: i8, 2..;
        topics: Vec<ListOffsetsTopic>, 0..;
        timeout_ms: i32, 10..;
    }

    ListOffsetsTopic {
        name: String, 0..;
        partitions: Vec<ListOffsetsPartition>, 0..;
    }

    ListOffsetsPartition {
        partition_index: i32, 0..;
        current_leader_epoch: i32, 4.., default -1;
        timestamp: i64, 0..;
        max_num_offsets: i32, ..=0, default 1;
    }

    ListOffsetsResponse {
        throttle_time_ms: i32, 2..;
        topics: Vec<ListOffsetsTopicResponse>, 0..;
    }

    ListOffsetsTopicResponse {
        name: String, 0..;
        partitions: Vec<ListOffsetsPartitionResponse>, 0..;
    }

    ListOffsetsPartitionResponse {
        partition_index: i32, 0..;
        error_code: ErrorCode, 0..;
        old_style_offsets: Vec<i64>, ..=0;
        timestamp: i64, 1.., default -1;
        offset: i64, 1.., default -1;
        leader_epoch: i32, 4.., default -1;
    }

    OffsetForLeaderEpochRequest {
        replica_id: i32, 3.., default -2;
        topics: Vec<OffsetForLeaderTopic>, 0..;
    }

    OffsetForLeaderTopic {
        topic: String, 0..;
        partitions: Vec<OffsetForLeaderPartition>, 0..;
    }

    OffsetForLeaderPartition {
        partition: i32, 0..;
        current_leader_epoch: i32, 2.., default -1;
        leader_epoch: i32, 0..;
    }

    OffsetForLeaderEpochResponse {
        throttle_time_ms: i32, 2..;
        topics: Vec<OffsetForLeaderTopicResult>, 0..;
    }

    OffsetForLeaderTopicResult {
        topic: String, 0..;
        partitions: Vec<EpochEndOffset>, 0..;
    }

    EpochEndOffset {
        error_code: ErrorCode, 0..;
        partition: i32, 0..;
        leader_epoch: i32, 1.., default -1;
        end_offset: i64, 0.., default -1;
    }
}
