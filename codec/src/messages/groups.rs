//! Classic consumer groups.

use super::NO_AUTHORIZED_OPERATIONS;
use crate::error_code::ErrorCode;
use bytes::Bytes;

api! {
    JoinGroup 0..=9 => JoinGroupRequest, JoinGroupResponse;
    Heartbeat 0..=4 => HeartbeatRequest, HeartbeatResponse;
    LeaveGroup 0..=5 => LeaveGroupRequest, LeaveGroupResponse;
    SyncGroup 0..=5 => SyncGroupRequest, SyncGroupResponse;
    DescribeGroups 0..=6 => DescribeGroupsRequest, DescribeGroupsResponse;
    ListGroups 0..=5 => ListGroupsRequest, ListGroupsResponse;
    DeleteGroups 0..=2 => DeleteGroupsRequest, DeleteGroupsResponse;
}

message! {
    JoinGroupRequest {
        group_id: String, 0..;
        session_timeout_ms: i32, 0..;
        rebalance_timeout_ms: i32, 1.., default -1;
        member_id: String, 0..;
        group_instance_id: Option<String>, 5.., null 5..;
        protocol_type: String, 0..;
        protocols: Vec<JoinGroupRequestProtocol>, 0..;
        reason: Option<String>, 8.., null 8..;
    }

    JoinGroupRequestProtocol {
        name: String, 0..;
        metadata: Bytes, 0..;
    }

    JoinGroupResponse {
        throttle_time_ms: i32, 2..;
        error_code: ErrorCode, 0..;
        generation_id: i32, 0.., default -1;
        protocol_type: Option<String>, 7.., null 7..;
        protocol_name: Option<String>, 0.., null 7..;
        leader: String, 0..;
        skip_assignment: bool, 9..;
        member_id: String, 0..;
        members: Vec<JoinGroupResponseMember>, 0..;
    }

    JoinGroupResponseMember {
        member_id: String, 0..;
        group_instance_id: Option<String>, 5.., null 5..;
        metadata: Bytes, 0..;
    }

    HeartbeatRequest {
        group_id: String, 0..;
        generation_id: i32, 0..;
        member_id: String, 0..;
        group_instance_id: Option<String>, 3.., null 3..;
    }

    HeartbeatResponse {
        throttle_time_ms: i32, 1..;
        error_code: ErrorCode, 0..;
    }

    LeaveGroupRequest {
        group_id: String, 0..;
        member_id: String, ..=2;
        members: Vec<MemberIdentity>, 3..;
    }

    MemberIdentity {
        member_id: String, 3..;
        group_instance_id: Option<String>, 3.., null 3..;
        reason: Option<String>, 5.., null 5..;
    }

    LeaveGroupResponse {
        throttle_time_ms: i32, 1..;
        error_code: ErrorCode, 0..;
        members: Vec<MemberResponse>, 3..;
    }

    MemberResponse {
        member_id: String, 3..;
        group_instance_id: Option<String>, 3.., null 3..;
        error_code: ErrorCode, 3..;
    }

    SyncGroupRequest {
        group_id: String, 0..;
        generation_id: i32, 0..;
        member_id: String, 0..;
        group_instance_id: Option<String>, 3.., null 3..;
        protocol_type: Option<String>, 5.., null 5..;
        protocol_name: Option<String>, 5.., null 5..;
        assignments: Vec<SyncGroupRequestAssignment>, 0..;
    }

    SyncGroupRequestAssignment {
        member_id: String, 0..;
        assignment: Bytes, 0..;
    }

    SyncGroupResponse {
        throttle_time_ms: i32, 1..;
        error_code: ErrorCode, 0..;
        protocol_type: Option<String>, 5.., null 5..;
        protocol_name: Option<String>, 5.., null 5..;
        assignment: Bytes, 0..;
    }

    DescribeGroupsRequest {
        groups: Vec<String>, 0..;
        include_authorized_operations: bool, 3..;
    }

    DescribeGroupsResponse {
        throttle_time_ms: i32, 1..;
        groups: Vec<DescribedGroup>, 0..;
    }

    DescribedGroup {
        error_code: ErrorCode, 0..;
        error_message: Option<String>, 6.., null 6..;
        group_id: String, 0..;
        group_state: String, 0..;
        protocol_type: String, 0..;
        protocol_data: String, 0..;
        members: Vec<DescribedGroupMember>, 0..;
        authorized_operations: i32, 3.., default NO_AUTHORIZED_OPERATIONS;
    }

    DescribedGroupMember {
        member_id: String, 0..;
        group_instance_id: Option<String>, 4.., null 4..;
        client_id: String, 0..;
        client_host: String, 0..;
        member_metadata: Bytes, 0..;
        member_assignment: Bytes, 0..;
    }

    ListGroupsRequest {
        states_filter: Vec<String>, 4..;
        types_filter: Vec<String>, 5..;
    }

    ListGroupsResponse {
        throttle_time_ms: i32, 1..;
        error_code: ErrorCode, 0..;
        groups: Vec<ListedGroup>, 0..;
    }

    ListedGroup {
        group_id: String, 0..;
        protocol_type: String, 0..;
        group_state: String, 4..;
        group_type: String, 5..;
    }

    DeleteGroupsRequest {
        groups_names: Vec<String>, 0..;
    }

    DeleteGroupsResponse {
        throttle_time_ms: i32, 0..;
        results: Vec<DeletableGroupResult>, 0..;
    }

    DeletableGroupResult {
        group_id: String, 0..;
        error_code: ErrorCode, 0..;
    }
}
