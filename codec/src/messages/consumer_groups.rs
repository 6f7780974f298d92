//! Consumer groups whose assignment the broker makes (KIP-848, `group.protocol=consumer`).

use super::NO_AUTHORIZED_OPERATIONS;
use crate::error_code::ErrorCode;
use crate::types::TopicId;

api! {
    ConsumerGroupHeartbeat 0..=1 => ConsumerGroupHeartbeatRequest, ConsumerGroupHeartbeatResponse;
    ConsumerGroupDescribe 0..=1 => ConsumerGroupDescribeRequest, ConsumerGroupDescribeResponse;
}

message! {
    ConsumerGroupHeartbeatRequest {
        group_id: String, 0..;
        member_id: String, 0..;
        member_epoch: i32, 0..;
        instance_id: Option<String>, 0.., null 0..;
        rack_id: Option<String>, 0.., null 0..;
        rebalance_timeout_ms: i32, 0.., default -1;
        subscribed_topic_names: Option<Vec<String>>, 0.., null 0..;
        subscribed_topic_regex: Option<String>, 1.., null 1..;
        server_assignor: Option<String>, 0.., null 0..;
        topic_partitions: Option<Vec<OwnedPartitions>>, 0.., null 0..;
    }

    OwnedPartitions {
        topic_id: TopicId, 0..;
        partitions: Vec<i32>, 0..;
    }

    ConsumerGroupHeartbeatResponse {
        throttle_time_ms: i32, 0..;
        error_code: ErrorCode, 0..;
        error_message: Option<String>, 0.., null 0..;
        member_id: Option<String>, 0.., null 0..;
        member_epoch: i32, 0..;
        heartbeat_interval_ms: i32, 0..;
        assignment: Option<HeartbeatAssignment>, 0.., null 0..;
    }

    HeartbeatAssignment {
        topic_partitions: Vec<OwnedPartitions>, 0..;
    }

    ConsumerGroupDescribeRequest {
        group_ids: Vec<String>, 0..;
        include_authorized_operations: bool, 0..;
    }

    ConsumerGroupDescribeResponse {
        throttle_time_ms: i32, 0..;
        groups: Vec<DescribedConsumerGroup>, 0..;
    }

    DescribedConsumerGroup {
        error_code: ErrorCode, 0..;
        error_message: Option<String>, 0.., null 0..;
        group_id: String, 0..;
        group_state: String, 0..;
        group_epoch: i32, 0..;
        assignment_epoch: i32, 0..;
        assignor_name: String, 0..;
        members: Vec<DescribedConsumerGroupMember>, 0..;
        authorized_operations: i32, 0.., default NO_AUTHORIZED_OPERATIONS;
    }

    DescribedConsumerGroupMember {
        member_id: String, 0..;
        instance_id: Option<String>, 0.., null 0..;
        rack_id: Option<String>, 0.., null 0..;
        member_epoch: i32, 0..;
        client_id: String, 0..;
        client_host: String, 0..;
        subscribed_topic_names: Vec<String>, 0..;
        subscribed_topic_regex: Option<String>, 0.., null 0..;
        assignment: DescribedAssignment, 0..;
        target_assignment: DescribedAssignment, 0..;
        member_type: i8, 1.., default -1;
    }

    DescribedAssignment {
        topic_partitions: Vec<DescribedTopicPartitions>, 0..;
    }

    DescribedTopicPartitions {
        topic_id: TopicId, 0..;
        topic_name: String, 0..;
        partitions: Vec<i32>, 0..;
    }
}
