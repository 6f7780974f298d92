//! JoinGroup 0–9, SyncGroup 0–5, Heartbeat 0–4, LeaveGroup 0–5, DescribeGroups 0–6, ListGroups 0–5, DeleteGroups 0–2.
//!
//! A request enters the coordinator's inbox in the first stage, so the requests of one connection are decided in order; the
//! answer is waited for in the second, so that a member that waits for others holds nobody up.

use super::{Context, Reply};
use crate::coordinator::{GroupReply, GroupRequest, Join, Leave};
use kafscale_codec::error_code::ErrorCode;
use kafscale_codec::messages::*;
use std::collections::BTreeSet;

/// Everything a client could be allowed to do with a group, as KIP-430's bit set, while there is no authorizer.
pub(super) const ALL_GROUP_OPERATIONS: i32 = 0b0000_1101_0100_1000;

/// First version in which a new member is told its id before it joins with it (KIP-394).
const JOIN_WITH_KNOWN_ID: i16 = 4;

/// First version in which a leader can be told to keep the assignment (KIP-814).
const JOIN_SKIPS_ASSIGNMENT: i16 = 9;

/// First version in which null says that there is no protocol.
const JOIN_WITHOUT_PROTOCOL: i16 = 7;

/// First version that names the protocol (KIP-559).
const SYNC_WITH_PROTOCOL: i16 = 5;

/// First version that lists members.
const LEAVE_OF_MANY: i16 = 3;

/// First version in which a group that does not exist is an error (KIP-1043); before, it is a dead group.
const DESCRIBE_MISSING_IS_AN_ERROR: i16 = 6;

/// The kind of a reply follows from the request's.
pub(super) fn mismatch(reply: &GroupReply) -> ! {
    unreachable!("the coordinator answers each request in kind, not with {reply:?}")
}

pub(super) async fn join(context: Context, request: JoinGroupRequest) -> Reply {
    let version = context.version();
    let join = Join {
        group_id: request.group_id,
        member_id: request.member_id,
        group_instance_id: request.group_instance_id,
        client_id: context.header.client_id.clone().unwrap_or_default(),
        client_host: context.client.host.to_string(),
        session_timeout_ms: request.session_timeout_ms,
        rebalance_timeout_ms: match version {
            0 => request.session_timeout_ms,
            _ => request.rebalance_timeout_ms,
        },
        protocol_type: request.protocol_type,
        protocols: request
            .protocols
            .into_iter()
            .map(|protocol| (protocol.name, protocol.metadata))
            .collect(),
        require_known_member_id: version >= JOIN_WITH_KNOWN_ID,
        supports_skip_assignment: version >= JOIN_SKIPS_ASSIGNMENT,
        random: 0, // Drawn by the coordinator.
    };
    let pending = context.node.coordinator.submit(GroupRequest::Join(join)).await;
    context.later(async move {
        match pending.reply().await {
            GroupReply::Join(mut response) => {
                if version < JOIN_WITHOUT_PROTOCOL {
                    response.protocol_name.get_or_insert_default();
                }
                response
            }
            other => mismatch(&other),
        }
    })
}

pub(super) async fn sync(context: Context, request: SyncGroupRequest) -> Reply {
    let unnamed = request.protocol_type.is_none() || request.protocol_name.is_none();
    if context.version() >= SYNC_WITH_PROTOCOL && unnamed {
        return context.ready(SyncGroupResponse {
            error_code: ErrorCode::INCONSISTENT_GROUP_PROTOCOL,
            ..Default::default()
        });
    }
    let pending = context.node.coordinator.submit(GroupRequest::Sync(request)).await;
    context.later(async move {
        match pending.reply().await {
            GroupReply::Sync(response) => response,
            other => mismatch(&other),
        }
    })
}

pub(super) async fn heartbeat(context: Context, request: HeartbeatRequest) -> Reply {
    let pending = context.node.coordinator.submit(GroupRequest::Heartbeat(request)).await;
    context.later(async move {
        match pending.reply().await {
            GroupReply::Heartbeat(error_code) => HeartbeatResponse {
                error_code,
                ..Default::default()
            },
            other => mismatch(&other),
        }
    })
}

pub(super) async fn leave(context: Context, request: LeaveGroupRequest) -> Reply {
    let one = context.version() < LEAVE_OF_MANY;
    let members = if one {
        vec![MemberIdentity {
            member_id: request.member_id,
            ..Default::default()
        }]
    } else {
        request.members
    };
    let group_id = request.group_id;
    let leave = GroupRequest::Leave(Leave { group_id, members });
    let pending = context.node.coordinator.submit(leave).await;
    context.later(async move {
        let mut response = match pending.reply().await {
            GroupReply::Leave(response) => response,
            other => mismatch(&other),
        };
        if one && response.error_code == ErrorCode::NONE {
            response.error_code = response.members.first().map_or(ErrorCode::NONE, |left| left.error_code);
        }
        response
    })
}

pub(super) async fn describe(context: Context, request: DescribeGroupsRequest) -> Reply {
    let version = context.version();
    let with_operations = request.include_authorized_operations;
    let mut pending = Vec::with_capacity(request.groups.len());
    for group in request.groups {
        let groups = vec![group];
        pending.push(context.node.coordinator.submit(GroupRequest::Describe { groups }).await);
    }
    context.later(async move {
        let mut groups = Vec::with_capacity(pending.len());
        for pending in pending {
            match pending.reply().await {
                GroupReply::Described(described) => groups.extend(described),
                other => mismatch(&other),
            }
        }
        for group in &mut groups {
            if version < DESCRIBE_MISSING_IS_AN_ERROR && group.error_code == ErrorCode::GROUP_ID_NOT_FOUND {
                group.error_code = ErrorCode::NONE;
            }
            if with_operations && group.error_code == ErrorCode::NONE {
                group.authorized_operations = ALL_GROUP_OPERATIONS;
            }
        }
        DescribeGroupsResponse {
            groups,
            ..Default::default()
        }
    })
}

pub(super) async fn list(context: Context, request: ListGroupsRequest) -> Reply {
    let list = GroupRequest::List {
        states: request.states_filter,
        types: request.types_filter,
    };
    let pending = context.node.coordinator.submit(list).await;
    context.later(async move {
        match pending.reply().await {
            GroupReply::Listed { error, groups } => ListGroupsResponse {
                error_code: error,
                groups,
                ..Default::default()
            },
            other => mismatch(&other),
        }
    })
}

pub(super) async fn delete(context: Context, request: DeleteGroupsRequest) -> Reply {
    if !context.node.config.allow_admin_apis {
        let refuse = |group_id| DeletableGroupResult {
            group_id,
            error_code: ErrorCode::GROUP_AUTHORIZATION_FAILED,
        };
        return context.ready(DeleteGroupsResponse {
            results: request.groups_names.into_iter().map(refuse).collect(),
            ..Default::default()
        });
    }
    let mut pending = Vec::with_capacity(request.groups_names.len());
    let mut seen = BTreeSet::new();
    // A group that is named twice is answered once.
    for group_id in request
        .groups_names
        .into_iter()
        .filter(|group| seen.insert(group.clone()))
    {
        let delete = GroupRequest::DeleteGroup {
            group_id: group_id.clone(),
        };
        pending.push((group_id, context.node.coordinator.submit(delete).await));
    }
    context.later(async move {
        let mut response = DeleteGroupsResponse::default();
        for (group_id, pending) in pending {
            match pending.reply().await {
                GroupReply::Deleted(error_code) => {
                    response.results.push(DeletableGroupResult { group_id, error_code });
                }
                other => mismatch(&other),
            }
        }
        response
    })
}
