use super::*;

#[test]
fn the_first_member_leads_and_sees_the_members() {
    let mut world = World::new();
    let token = world.join_new("c");
    let reply = world.joined(token);
    assert_eq!((reply.error_code, reply.generation_id), (ErrorCode::NONE, 1));
    assert_eq!(reply.leader, reply.member_id);
    assert!(reply.member_id.starts_with("c-"));
    assert_eq!(reply.members.len(), 1);
    assert_eq!(reply.members[0].metadata, subscription(&["t"], ""));
    assert_eq!(reply.protocol_name.as_deref(), Some("range"));
    assert_eq!(reply.protocol_type.as_deref(), Some("consumer"));
    assert_eq!(world.state(), "CompletingRebalance");
}

#[test]
fn a_second_member_waits_until_the_first_has_joined_again() {
    let mut world = World::new();
    let (generation, ids) = world.stable_group(1);
    let second = world.join_new("c");
    assert!(!world.answered(second), "a join blocks");
    assert_eq!(world.heartbeat(generation, &ids[0]), ErrorCode::REBALANCE_IN_PROGRESS);
    let first = world.rejoin(&ids[0]);
    let (first, second) = (world.joined(first), world.joined(second));
    assert_eq!(
        (first.generation_id, second.generation_id),
        (generation + 1, generation + 1)
    );
    assert_eq!(first.members.len(), 2, "the leader sees everybody");
    assert!(second.members.is_empty(), "the others see nobody");
    assert_eq!(second.leader, ids[0]);
}

#[test]
fn a_member_that_does_not_rejoin_in_time_is_out() {
    let mut world = World::new();
    let (generation, ids) = world.stable_group(2);
    let third = world.join_new("c");
    let first = world.rejoin(&ids[0]);
    for _ in 0..10 {
        world.pass(SESSION_MS / 2);
        world.heartbeat(generation, &ids[1]);
    }
    assert!(
        !world.answered(third),
        "heartbeats keep the second in until the rebalance timeout"
    );
    world.pass(REBALANCE_MS);
    assert_eq!(world.joined(first).members.len(), 2);
    assert_eq!(world.joined(third).error_code, ErrorCode::NONE);
    assert_eq!(world.heartbeat(generation, &ids[1]), ErrorCode::UNKNOWN_MEMBER_ID);
}

#[test]
fn a_silent_member_holds_the_join_phase_up_for_its_session_only() {
    let mut world = World::new();
    let (_, ids) = world.stable_group(2);
    let third = world.join_new("c");
    let first = world.rejoin(&ids[0]);
    world.pass(SESSION_MS);
    assert!(world.answered(first) && world.answered(third));
}

#[test]
fn the_leader_that_is_out_is_replaced_by_who_came_next() {
    let mut world = World::new();
    let (_, ids) = world.stable_group(3);
    world.leave(&[(&ids[0], None)]);
    let (second, third) = (world.rejoin(&ids[1]), world.rejoin(&ids[2]));
    assert_eq!(world.joined(third).leader, ids[1]);
    assert_eq!(world.joined(second).members.len(), 2);
}

#[test]
fn an_empty_group_waits_for_company_as_long_as_it_comes() {
    let mut world = World::with(GroupConfig {
        initial_rebalance_delay_ms: 3_000,
        ..GroupConfig::default()
    });
    let first = world.join_new("c");
    world.pass(2_000);
    let second = world.join_new("c");
    world.pass(1_000);
    assert!(!world.answered(first), "somebody came, so it waits three seconds more");
    world.pass(2_999);
    assert!(!world.answered(second));
    world.pass(1);
    assert_eq!(world.joined(first).members.len(), 2);
    assert_eq!(world.joined(second).generation_id, 1);
}

#[test]
fn an_empty_group_waits_no_longer_than_the_rebalance_timeout() {
    let mut world = World::with(GroupConfig {
        initial_rebalance_delay_ms: 3_000,
        ..GroupConfig::default()
    });
    let join = Join {
        rebalance_timeout_ms: 7_000,
        ..world.new_join("c")
    };
    let first = world.join_as(join);
    for _ in 0..7 {
        assert!(!world.answered(first));
        world.pass(1_000);
        let join = Join {
            rebalance_timeout_ms: 7_000,
            ..world.new_join("c")
        };
        world.join_as(join);
    }
    assert!(world.answered(first));
}

#[test]
fn an_empty_group_without_company_starts_after_one_delay() {
    let mut world = World::with(GroupConfig {
        initial_rebalance_delay_ms: 3_000,
        ..GroupConfig::default()
    });
    let first = world.join_new("c");
    world.pass(2_999);
    assert!(!world.answered(first));
    world.pass(1);
    assert_eq!(world.joined(first).generation_id, 1);
}

#[test]
fn a_new_member_gets_its_id_before_it_joins() {
    let mut world = World::new();
    let join = Join {
        require_known_member_id: true,
        ..world.new_join("c")
    };
    let token = world.join_as(join.clone());
    let reply = world.joined(token);
    assert_eq!(reply.error_code, ErrorCode::MEMBER_ID_REQUIRED);
    assert!(!reply.member_id.is_empty());
    assert_eq!(world.state(), "Dead", "nobody has joined");
    let token = world.join_as(Join {
        member_id: reply.member_id.clone(),
        ..join
    });
    assert_eq!(world.joined(token).member_id, reply.member_id);
    assert_eq!(world.joined(token).error_code, ErrorCode::NONE);
}

#[test]
fn an_id_that_is_not_used_expires_and_leaves_nothing_behind() {
    let mut world = World::new();
    let join = Join {
        require_known_member_id: true,
        ..world.new_join("c")
    };
    let token = world.join_as(join);
    let id = world.joined(token).member_id;
    world.pass(SESSION_MS);
    assert!(world.groups.groups.is_empty());
    let token = world.rejoin(&id);
    assert_eq!(world.joined(token).error_code, ErrorCode::UNKNOWN_MEMBER_ID);
}

#[test]
fn a_rebalance_waits_for_those_who_have_got_an_id() {
    let mut world = World::new();
    let (_, ids) = world.stable_group(2);
    let join = Join {
        require_known_member_id: true,
        ..world.new_join("c")
    };
    let token = world.join_as(join.clone());
    let pending = world.joined(token).member_id;
    world.leave(&[(&ids[1], None)]);
    let first = world.rejoin(&ids[0]);
    assert!(!world.answered(first));
    let second = world.join_as(Join {
        member_id: pending,
        ..join
    });
    assert_eq!(world.joined(first).members.len(), 2);
    assert!(world.answered(second));
}

#[test]
fn a_pending_id_that_leaves_ends_the_wait_for_it() {
    let mut world = World::new();
    let (_, ids) = world.stable_group(2);
    let join = Join {
        require_known_member_id: true,
        ..world.new_join("c")
    };
    let token = world.join_as(join);
    let pending = world.joined(token).member_id;
    world.leave(&[(&ids[1], None)]);
    let first = world.rejoin(&ids[0]);
    assert!(!world.answered(first));
    assert_eq!(world.leave(&[(&pending, None)]).members[0].error_code, ErrorCode::NONE);
    assert!(world.answered(first));
}

#[test]
fn a_member_that_missed_the_answer_gets_it_again_without_a_rebalance() {
    let mut world = World::new();
    let (generation, ids) = world.stable_group(2);
    let again = world.rejoin(&ids[1]);
    assert_eq!(
        world.joined(again).generation_id,
        generation,
        "a follower with the same metadata"
    );
    assert_eq!(world.state(), "Stable");
}

#[test]
fn a_leader_that_joins_again_asks_for_a_rebalance() {
    let mut world = World::new();
    let (generation, ids) = world.stable_group(2);
    let again = world.rejoin(&ids[0]);
    assert!(!world.answered(again));
    assert_eq!(world.heartbeat(generation, &ids[1]), ErrorCode::REBALANCE_IN_PROGRESS);
}

#[test]
fn a_follower_with_other_metadata_starts_a_rebalance() {
    let mut world = World::new();
    let (_, ids) = world.stable_group(2);
    let protocols = vec![("range".to_string(), subscription(&["t", "u"], ""))];
    let again = world.join_as(Join {
        protocols: protocols.clone(),
        ..join_of("c", &ids[1])
    });
    let leader = world.rejoin(&ids[0]);
    assert!(world.answered(again));
    assert_eq!(world.joined(leader).members[1].metadata, protocols[0].1);
}

#[test]
fn in_the_sync_phase_the_same_metadata_gets_the_same_generation() {
    let mut world = World::new();
    let token = world.join_new("c");
    let id = world.joined(token).member_id;
    let again = world.rejoin(&id);
    assert_eq!(
        world.joined(again),
        world.joined(token),
        "the leader sees the members again"
    );
}

#[test]
fn in_the_sync_phase_other_metadata_sends_the_waiting_back() {
    let mut world = World::new();
    let (_, ids) = world.stable_group(2);
    let (a, b) = (world.rejoin(&ids[0]), world.rejoin(&ids[1]));
    let generation = world.joined(a).generation_id;
    assert!(world.answered(b));
    let waiting = world.sync(generation, &ids[1], &[]);
    assert!(!world.answered(waiting));
    let protocols = vec![("range".to_string(), subscription(&["u"], ""))];
    world.join_as(Join {
        protocols,
        ..join_of("c", &ids[0])
    });
    assert_eq!(world.synced(waiting).error_code, ErrorCode::REBALANCE_IN_PROGRESS);
    assert_eq!(world.state(), "PreparingRebalance");
}

#[test]
fn members_vote_for_a_protocol_that_all_have() {
    let mut world = World::new();
    let protocols = |names: &[&str]| -> Vec<(String, Bytes)> {
        names
            .iter()
            .map(|name| (name.to_string(), Bytes::copy_from_slice(name.as_bytes())))
            .collect()
    };
    let join = Join {
        protocols: protocols(&["sticky", "range", "only-mine"]),
        ..world.new_join("a")
    };
    let a = world.join_as(join.clone());
    let id = world.joined(a).member_id;
    assert_eq!(world.joined(a).protocol_name.as_deref(), Some("sticky"));
    let others: Vec<ReplyToken> = (0..2)
        .map(|_| {
            let join = Join {
                protocols: protocols(&["range", "sticky"]),
                ..world.new_join("b")
            };
            world.join_as(join)
        })
        .collect();
    let a = world.join_as(Join { member_id: id, ..join });
    assert_eq!(
        world.joined(a).protocol_name.as_deref(),
        Some("range"),
        "two of three prefer it"
    );
    assert_eq!(
        world.joined(a).members[0].metadata,
        "range",
        "metadata of the chosen protocol"
    );
    assert!(world.answered(others[1]));
}

#[test]
fn equal_votes_follow_the_leader() {
    let mut world = World::new();
    let protocols = |names: &[&str]| -> Vec<(String, Bytes)> {
        names.iter().map(|name| (name.to_string(), Bytes::new())).collect()
    };
    let join = Join {
        protocols: protocols(&["a", "z"]),
        ..world.new_join("a")
    };
    let first = world.join_as(join.clone());
    let id = world.joined(first).member_id;
    let other = Join {
        protocols: protocols(&["z", "a"]),
        ..world.new_join("b")
    };
    world.join_as(other);
    let first = world.join_as(Join { member_id: id, ..join });
    assert_eq!(world.joined(first).protocol_name.as_deref(), Some("a"));
}

#[test]
fn who_shares_no_protocol_or_is_of_another_type_is_refused() {
    let mut world = World::new();
    world.stable_group(1);
    let other_protocol = Join {
        protocols: vec![("x".into(), Bytes::new())],
        ..world.new_join("c")
    };
    let other_type = Join {
        protocol_type: "connect".into(),
        ..world.new_join("c")
    };
    for join in [other_protocol, other_type] {
        let token = world.join_as(join);
        assert_eq!(world.joined(token).error_code, ErrorCode::INCONSISTENT_GROUP_PROTOCOL);
    }
    assert_eq!(world.state(), "Stable");
}

#[test]
fn a_join_without_protocols_or_type_is_refused() {
    let mut world = World::new();
    let none = Join {
        protocols: vec![],
        ..world.new_join("c")
    };
    let untyped = Join {
        protocol_type: String::new(),
        ..world.new_join("c")
    };
    for join in [none, untyped] {
        let token = world.join_as(join);
        assert_eq!(world.joined(token).error_code, ErrorCode::INCONSISTENT_GROUP_PROTOCOL);
    }
    assert!(world.groups.groups.is_empty(), "and leaves no group behind");
}

#[test]
fn session_timeouts_have_bounds() {
    let mut world = World::new();
    for (ms, error) in [
        (5_999, ErrorCode::INVALID_SESSION_TIMEOUT),
        (6_000, ErrorCode::NONE),
        (1_800_001, ErrorCode::INVALID_SESSION_TIMEOUT),
    ] {
        let join = Join {
            session_timeout_ms: ms,
            ..world.new_join("c")
        };
        let token = world.join_as(join);
        assert_eq!(world.joined(token).error_code, error, "{ms}");
    }
}

#[test]
fn a_group_needs_a_name_and_an_unknown_member_is_told_so() {
    let mut world = World::new();
    let token = world.join_as(Join {
        group_id: String::new(),
        ..join_of("c", "")
    });
    assert_eq!(world.joined(token).error_code, ErrorCode::INVALID_GROUP_ID);
    let token = world.rejoin("stranger");
    assert_eq!(world.joined(token).error_code, ErrorCode::UNKNOWN_MEMBER_ID);
    world.stable_group(1);
    let token = world.rejoin("stranger");
    assert_eq!(world.joined(token).error_code, ErrorCode::UNKNOWN_MEMBER_ID);
}

#[test]
fn a_full_group_takes_nobody_but_its_members() {
    let mut world = World::with(GroupConfig {
        group_size_max: 2,
        ..GroupConfig::default()
    });
    let (_, ids) = world.stable_group(2);
    let token = world.join_new("c");
    assert_eq!(world.joined(token).error_code, ErrorCode::GROUP_MAX_SIZE_REACHED);
    let (a, b) = (world.rejoin(&ids[0]), world.rejoin(&ids[1]));
    assert!(world.answered(a) && world.answered(b));
}

#[test]
fn metadata_that_could_not_be_stored_is_refused() {
    let mut world = World::new();
    let metadata = Bytes::from(vec![0; world.config.group_bytes_max / 2]);
    let join = Join {
        protocols: vec![("range".into(), metadata)],
        ..world.new_join("c")
    };
    let token = world.join_as(join);
    assert_eq!(world.joined(token).error_code, ErrorCode::GROUP_MAX_SIZE_REACHED);
}

#[test]
fn the_last_member_that_leaves_empties_the_group() {
    let mut world = World::new();
    let (generation, ids) = world.stable_group(1);
    assert_eq!(world.leave(&[(&ids[0], None)]).members[0].error_code, ErrorCode::NONE);
    assert_eq!(world.state(), "Empty");
    assert_eq!(world.groups.groups["g"].generation(), generation + 1);
    let token = world.join_new("c");
    assert_eq!(world.joined(token).generation_id, generation + 2, "generations go on");
}

#[test]
fn several_members_leave_at_once_and_each_gets_its_own_answer() {
    let mut world = World::new();
    let (generation, ids) = world.stable_group(3);
    let reply = world.leave(&[(&ids[1], None), ("stranger", None), (&ids[2], None)]);
    let codes: Vec<ErrorCode> = reply.members.iter().map(|member| member.error_code).collect();
    assert_eq!(codes, [ErrorCode::NONE, ErrorCode::UNKNOWN_MEMBER_ID, ErrorCode::NONE]);
    assert_eq!(world.heartbeat(generation, &ids[0]), ErrorCode::REBALANCE_IN_PROGRESS);
}

#[test]
fn leaving_a_group_that_does_not_exist_is_an_error_of_each_member() {
    let mut world = World::new();
    let left = world.leave(&[("m", None)]);
    assert_eq!(left.error_code, ErrorCode::NONE);
    assert_eq!(left.members[0].error_code, ErrorCode::UNKNOWN_MEMBER_ID);
}

#[test]
fn a_member_that_leaves_while_it_waits_gets_its_join_answered() {
    let mut world = World::new();
    let (_, ids) = world.stable_group(2);
    let waiting = world.rejoin(&ids[0]);
    world.leave(&[(&ids[0], None)]);
    assert_eq!(world.joined(waiting).error_code, ErrorCode::UNKNOWN_MEMBER_ID);
}

#[test]
fn a_second_join_of_a_member_supersedes_the_first() {
    let mut world = World::new();
    let (_, ids) = world.stable_group(2);
    let (earlier, later) = (world.rejoin(&ids[0]), world.rejoin(&ids[0]));
    assert_eq!(world.joined(earlier).error_code, ErrorCode::REBALANCE_IN_PROGRESS);
    let follower = world.rejoin(&ids[1]);
    assert_eq!(world.joined(later).error_code, ErrorCode::NONE);
    assert_eq!(world.joined(follower).error_code, ErrorCode::NONE);
}

#[test]
fn a_new_member_that_is_never_heard_of_again_does_not_block_for_ever() {
    let mut world = World::new();
    let (generation, ids) = world.stable_group(1);
    let waiting = world.join_as(Join {
        rebalance_timeout_ms: i32::MAX,
        ..join_of("c", "")
    });
    for _ in 0..31 {
        world.pass(SESSION_MS - 1);
        world.heartbeat(generation, &ids[0]);
    }
    assert_eq!(world.joined(waiting).error_code, ErrorCode::UNKNOWN_MEMBER_ID);
}
