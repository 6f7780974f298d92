//! Committed offsets of groups.

use crate::error_code::ErrorCode;

api! {
    OffsetCommit 0..=9 => OffsetCommitRequest, OffsetCommitResponse;
    OffsetFetch 0..=9 => OffsetFetchRequest, OffsetFetchResponse;
    OffsetDelete 0..=0 => OffsetDeleteRequest, OffsetDeleteResponse;
}

message! {
    OffsetCommitRequest {
        group_id: String, 0..;
        generation_id_or_member_epoch: i32, 1.., default -1;
        member_id: String, 1..;
        group_instance_id: Option<String>, 7.., null 7..;
        retention_time_ms: i64, 2..=4, default -1;
        topics: Vec<OffsetCommitRequestTopic>, 0..;
    }

    OffsetCommitRequestTopic {
        name: String, 0..;
        partitions: Vec<OffsetCommitRequestPartition>, 0..;
    }

    OffsetCommitRequestPartition {
        partition_index: i32, 0..;
        committed_offset: i64, 0..;
        committed_leader_epoch: i32, 6.., default -1;
        commit_timestamp: i64, 1..=1, default -1;
        committed_metadata: Option<String>, 0.., null 0..;
    }

    OffsetCommitResponse {
        throttle_time_ms: i32, 3..;
        topics: Vec<OffsetCommitResponseTopic>, 0..;
    }

    OffsetCommitResponseTopic {
        name: String, 0..;
        partitions: Vec<OffsetCommitResponsePartition>, 0..;
    }

    OffsetCommitResponsePartition {
        partition_index: i32, 0..;
        error_code: ErrorCode, 0..;
    }

    OffsetFetchRequest {
        group_id: String, ..=7;
        topics: Option<Vec<OffsetFetchRequestTopic>>, ..=7, null 2..=7;
        groups: Vec<OffsetFetchRequestGroup>, 8..;
        require_stable: bool, 7..;
    }

    OffsetFetchRequestGroup {
        group_id: String, 8..;
        member_id: Option<String>, 9.., null 9..;
        member_epoch: i32, 9.., default -1;
        topics: Option<Vec<OffsetFetchRequestTopic>>, 8.., null 8..;
    }

    OffsetFetchRequestTopic {
        name: String, 0..;
        partition_indexes: Vec<i32>, 0..;
    }

    OffsetFetchResponse {
        throttle_time_ms: i32, 3..;
        topics: Vec<OffsetFetchResponseTopic>, ..=7;
        error_code: ErrorCode, 2..=7;
        groups: Vec<OffsetFetchResponseGroup>, 8..;
    }

    OffsetFetchResponseGroup {
        group_id: String, 8..;
        topics: Vec<OffsetFetchResponseTopic>, 8..;
        error_code: ErrorCode, 8..;
    }

    OffsetFetchResponseTopic {
        name: String, 0..;
        partitions: Vec<OffsetFetchResponsePartition>, 0..;
    }

    OffsetFetchResponsePartition {
        partition_index: i32, 0..;
        committed_offset: i64, 0..;
        committed_leader_epoch: i32, 5.., default -1;
        metadata: Option<String>, 0.., null 0..;
        error_code: ErrorCode, 0..;
    }

    OffsetDeleteRequest {
        group_id: String, 0..;
        topics: Vec<OffsetDeleteRequestTopic>, 0..;
    }

    OffsetDeleteRequestTopic {
        name: String, 0..;
        partitions: Vec<OffsetDeleteRequestPartition>, 0..;
    }

    OffsetDeleteRequestPartition {
        partition_index: i32, 0..;
    }

    OffsetDeleteResponse {
        error_code: ErrorCode, 0..;
        throttle_time_ms: i32, 0..;
        topics: Vec<OffsetDeleteResponseTopic>, 0..;
    }

    OffsetDeleteResponseTopic {
        name: String, 0..;
        partitions: Vec<OffsetDeleteResponsePartition>, 0..;
    }

    OffsetDeleteResponsePartition {
        partition_index: i32, 0..;
        error_code: ErrorCode, 0..;
    }
}
