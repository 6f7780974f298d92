use super::*;

fn static_join(world: &mut World, instance: &str) -> Join {
    Join {
        group_instance_id: Some(instance.into()),
        require_known_member_id: true,
        ..world.new_join("c")
    }
}

/// A stable group of static members `a` and `b`; `a` leads. Member ids by instance.
fn static_group(world: &mut World) -> (i32, String, String) {
    let join = static_join(world, "a");
    let a = world.join_as(join.clone());
    let a = world.joined(a).member_id;
    let b = static_join(world, "b");
    let b = world.join_as(b);
    world.join_as(Join {
        member_id: a.clone(),
        ..join
    });
    let b = world.joined(b).member_id;
    let generation = world.sync_all(&[a.clone(), b.clone()]);
    (generation, a, b)
}

#[test]
fn a_static_member_needs_no_second_round_for_its_id() {
    let mut world = World::new();
    let join = static_join(&mut world, "a");
    let token = world.join_as(join);
    assert_eq!(world.joined(token).error_code, ErrorCode::NONE);
    assert!(world.joined(token).member_id.starts_with("a-"));
}

#[test]
fn a_static_follower_that_restarts_keeps_its_assignment_without_a_rebalance() {
    let mut world = World::new();
    let (generation, a, b) = static_group(&mut world);
    let join = static_join(&mut world, "b");
    let token = world.join_as(join);
    let reply = world.joined(token);
    assert_eq!((reply.error_code, reply.generation_id), (ErrorCode::NONE, generation));
    assert_ne!(reply.member_id, b);
    assert_eq!(reply.leader, a);
    assert_eq!(
        world.heartbeat_as(generation, &a, Some("a")),
        ErrorCode::NONE,
        "nobody has to join again"
    );
    let sync = world.sync(generation, &reply.member_id, &[]);
    assert_eq!(world.synced(sync).assignment, b.as_bytes());
}

#[test]
fn the_former_id_of_a_static_member_is_fenced() {
    let mut world = World::new();
    let (generation, _, b) = static_group(&mut world);
    let join = static_join(&mut world, "b");
    world.join_as(join.clone());
    assert_eq!(
        world.heartbeat_as(generation, &b, Some("b")),
        ErrorCode::FENCED_INSTANCE_ID
    );
    assert_eq!(world.heartbeat(generation, &b), ErrorCode::UNKNOWN_MEMBER_ID);
    let token = world.join_as(Join {
        member_id: b.clone(),
        ..join
    });
    assert_eq!(world.joined(token).error_code, ErrorCode::FENCED_INSTANCE_ID);
    let sync = SyncGroupRequest {
        group_instance_id: Some("b".into()),
        ..sync_of(generation, &b, &[])
    };
    let token = world.ask(GroupRequest::Sync(sync));
    assert_eq!(world.synced(token).error_code, ErrorCode::FENCED_INSTANCE_ID);
    let commit = Commit {
        group_instance_id: Some("b".into()),
        ..commit_of(generation, &b, &[(0, 1)])
    };
    let token = world.ask(GroupRequest::Commit(commit));
    assert_eq!(world.committed(token), [ErrorCode::FENCED_INSTANCE_ID]);
    assert_eq!(
        world.leave(&[(&b, Some("b"))]).members[0].error_code,
        ErrorCode::FENCED_INSTANCE_ID
    );
}

#[test]
fn a_static_leader_that_restarts_is_told_not_to_assign() {
    let mut world = World::new();
    let (generation, a, b) = static_group(&mut world);
    let join = static_join(&mut world, "a");
    let token = world.join_as(join);
    let reply = world.joined(token);
    assert_eq!(reply.generation_id, generation);
    assert_eq!(reply.leader, a, "before version 9 it hears that its former self leads");
    assert!(reply.members.is_empty() && !reply.skip_assignment);
    let join = Join {
        supports_skip_assignment: true,
        ..static_join(&mut world, "a")
    };
    let token = world.join_as(join);
    let reply = world.joined(token);
    assert_eq!(
        reply.leader, reply.member_id,
        "from version 9 on it leads, sees everybody and skips"
    );
    assert!(reply.skip_assignment);
    assert_eq!(reply.members.len(), 2);
    assert_eq!(world.heartbeat_as(generation, &b, Some("b")), ErrorCode::NONE);
}

#[test]
fn a_static_member_that_restarts_with_other_topics_starts_a_rebalance() {
    let mut world = World::new();
    let (generation, a, _) = static_group(&mut world);
    let protocols = vec![("range".to_string(), subscription(&["t", "u"], ""))];
    let join = Join {
        protocols,
        ..static_join(&mut world, "b")
    };
    let token = world.join_as(join);
    assert!(!world.answered(token));
    assert_eq!(
        world.heartbeat_as(generation, &a, Some("a")),
        ErrorCode::REBALANCE_IN_PROGRESS
    );
}

#[test]
fn a_static_member_that_restarts_with_other_user_data_does_not() {
    let mut world = World::new();
    let (generation, a, _) = static_group(&mut world);
    let protocols = vec![(
        "range".to_string(),
        subscription(&["t"], "sticky assignors put history here"),
    )];
    let join = Join {
        protocols,
        ..static_join(&mut world, "b")
    };
    let token = world.join_as(join);
    assert_eq!(world.joined(token).generation_id, generation);
    assert_eq!(world.heartbeat_as(generation, &a, Some("a")), ErrorCode::NONE);
}

#[test]
fn a_static_member_that_restarts_in_the_join_phase_fences_its_former_wait() {
    let mut world = World::new();
    let (_, a, b) = static_group(&mut world);
    let join = Join {
        group_instance_id: Some("a".into()),
        ..join_of("c", &a)
    };
    let old = world.join_as(join);
    assert!(!world.answered(old));
    let join = static_join(&mut world, "a");
    let new = world.join_as(join);
    assert_eq!(world.joined(old).error_code, ErrorCode::FENCED_INSTANCE_ID);
    world.join_as(Join {
        group_instance_id: Some("b".into()),
        ..join_of("c", &b)
    });
    let reply = world.joined(new);
    assert_eq!(
        (reply.error_code, reply.leader == reply.member_id),
        (ErrorCode::NONE, true)
    );
}

#[test]
fn a_static_member_that_restarts_in_the_sync_phase_starts_over() {
    let mut world = World::new();
    let (_, a, b) = static_group(&mut world);
    world.join_as(Join {
        group_instance_id: Some("a".into()),
        ..join_of("c", &a)
    });
    world.join_as(Join {
        group_instance_id: Some("b".into()),
        ..join_of("c", &b)
    });
    let generation = world.groups.groups["g"].generation();
    let waiting = world.sync(generation, &b, &[]);
    let join = static_join(&mut world, "b");
    world.join_as(join);
    assert_eq!(world.synced(waiting).error_code, ErrorCode::FENCED_INSTANCE_ID);
    assert_eq!(world.state(), "PreparingRebalance");
}

#[test]
fn a_static_member_that_is_away_stays_in_the_next_generation() {
    let mut world = World::new();
    let (generation, a, b) = static_group(&mut world);
    let third = world.join_new("c");
    let join = Join {
        group_instance_id: Some("a".into()),
        rebalance_timeout_ms: 5_000,
        ..join_of("c", &a)
    };
    let leader = world.join_as(join);
    for _ in 0..9 {
        world.pass(REBALANCE_MS / 9);
        world.heartbeat_as(generation, &b, Some("b"));
    }
    world.pass(100);
    let reply = world.joined(leader);
    assert_eq!(reply.members.len(), 3, "b did not join, but its session lives");
    assert!(world.answered(third));
}

#[test]
fn an_administrator_removes_a_static_member_by_its_instance_alone() {
    let mut world = World::new();
    let (generation, a, _) = static_group(&mut world);
    assert_eq!(
        world.leave(&[("", Some("nobody"))]).members[0].error_code,
        ErrorCode::UNKNOWN_MEMBER_ID
    );
    assert_eq!(world.leave(&[("", Some("b"))]).members[0].error_code, ErrorCode::NONE);
    assert_eq!(
        world.heartbeat_as(generation, &a, Some("a")),
        ErrorCode::REBALANCE_IN_PROGRESS
    );
}

#[test]
fn an_instance_that_nobody_knows_is_an_unknown_member() {
    let mut world = World::new();
    let (generation, a, _) = static_group(&mut world);
    assert_eq!(
        world.heartbeat_as(generation, &a, Some("z")),
        ErrorCode::UNKNOWN_MEMBER_ID
    );
}

#[test]
fn static_members_survive_a_fail_over() {
    let mut world = World::new();
    let (generation, _, b) = static_group(&mut world);
    world.fail_over();
    let join = static_join(&mut world, "b");
    let token = world.join_as(join);
    assert_eq!(world.joined(token).generation_id, generation);
    let sync = world.sync(generation, &world.joined(token).member_id, &[]);
    assert_eq!(world.synced(sync).assignment, b.as_bytes());
}

#[test]
fn a_replacement_that_is_not_stored_leaves_the_former_member_in_place() {
    let mut world = World::new();
    let (generation, _, b) = static_group(&mut world);
    world.instant = false;
    let join = static_join(&mut world, "b");
    let token = world.join_as(join);
    assert!(!world.answered(token));
    world.fail_next(ErrorCode::COORDINATOR_NOT_AVAILABLE);
    assert_eq!(world.joined(token).error_code, ErrorCode::COORDINATOR_NOT_AVAILABLE);
    assert_eq!(world.heartbeat_as(generation, &b, Some("b")), ErrorCode::NONE);
}

#[test]
fn static_members_that_are_all_away_and_wait_for_nothing_do_not_keep_the_clock_busy() {
    let mut world = World::new();
    let join = Join {
        rebalance_timeout_ms: 0,
        session_timeout_ms: 600_000,
        ..static_join(&mut world, "a")
    };
    let token = world.join_as(join);
    let id = world.joined(token).member_id;
    let sync = world.sync(1, &id, &[(&id, "x")]);
    assert_eq!(world.synced(sync).assignment, "x");
    let other = world.join_new("c");
    world.pass(REBALANCE_MS);
    world.leave(&[(&world.joined(other).member_id.clone(), None)]);
    world.pass(1_000_000);
    assert_eq!(world.state(), "Empty");
}
