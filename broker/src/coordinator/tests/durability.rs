use super::*;

#[test]
fn nobody_hears_of_a_generation_before_it_is_stored() {
    let mut world = World::new();
    world.instant = false;
    let token = world.join_new("c");
    assert!(!world.answered(token));
    assert!(world.groups.stored().is_empty(), "nothing has changed yet");
    world.store_next();
    assert_eq!(world.joined(token).generation_id, 1);
}

#[test]
fn a_generation_that_is_not_stored_fails_the_joins_and_the_members_try_again() {
    let mut world = World::new();
    world.instant = false;
    let token = world.join_new("c");
    world.fail_next(ErrorCode::NOT_COORDINATOR);
    let reply = world.joined(token);
    assert_eq!(reply.error_code, ErrorCode::NOT_COORDINATOR);
    world.instant = true;
    let again = world.rejoin(&reply.member_id);
    assert_eq!(
        (world.joined(again).error_code, world.joined(again).generation_id),
        (ErrorCode::NONE, 1)
    );
}

#[test]
fn nobody_hears_of_an_assignment_before_it_is_stored() {
    let mut world = World::new();
    let token = world.join_new("c");
    let id = world.joined(token).member_id;
    world.instant = false;
    let sync = world.sync(1, &id, &[(&id, "x")]);
    assert!(!world.answered(sync));
    assert_eq!(world.heartbeat(1, &id), ErrorCode::NONE, "heartbeats do not wait");
    world.store_next();
    assert_eq!(world.synced(sync).assignment, "x");
}

#[test]
fn an_assignment_that_is_not_stored_starts_a_rebalance() {
    let mut world = World::new();
    let token = world.join_new("c");
    let id = world.joined(token).member_id;
    world.instant = false;
    let sync = world.sync(1, &id, &[(&id, "x")]);
    world.fail_next(ErrorCode::COORDINATOR_NOT_AVAILABLE);
    assert_eq!(world.synced(sync).error_code, ErrorCode::COORDINATOR_NOT_AVAILABLE);
    assert_eq!(world.state(), "PreparingRebalance");
}

#[test]
fn what_would_change_a_group_waits_for_the_write_of_its_state_in_order() {
    let mut world = World::new();
    world.instant = false;
    let first = world.join_new("a");
    let second = world.join_new("b");
    let commit = world.commit(-1, "", 5);
    assert_eq!(world.writes.len(), 1, "one write of the state at a time");
    world.store_next();
    assert_eq!(world.joined(first).members.len(), 1);
    assert!(!world.answered(second), "it has started the next rebalance");
    assert_eq!(
        world.committed(commit),
        [ErrorCode::UNKNOWN_MEMBER_ID],
        "the group has members now"
    );
}

#[test]
fn too_much_that_waits_is_refused_with_a_reason_to_try_again() {
    let mut world = World::with(GroupConfig {
        deferred_max: 1,
        ..GroupConfig::default()
    });
    world.instant = false;
    world.join_new("a");
    world.join_new("b");
    let token = world.join_new("c");
    assert_eq!(world.joined(token).error_code, ErrorCode::COORDINATOR_NOT_AVAILABLE);
}

#[test]
fn sessions_do_not_end_while_the_store_is_slow() {
    let mut world = World::new();
    world.instant = false;
    let token = world.join_new("c");
    world.pass(10 * SESSION_MS);
    world.store_next();
    let id = world.joined(token).member_id;
    assert_eq!(world.heartbeat(1, &id), ErrorCode::NONE);
}

#[test]
fn after_a_fail_over_a_stable_group_goes_on_as_if_nothing_had_been() {
    let mut world = World::new();
    let (generation, ids) = world.stable_group(3);
    world.fail_over();
    assert_eq!(world.state(), "Stable");
    for id in &ids {
        assert_eq!(world.heartbeat(generation, id), ErrorCode::NONE);
        let sync = world.sync(generation, id, &[]);
        assert_eq!(world.synced(sync).assignment, id.as_bytes());
    }
}

#[test]
fn after_a_fail_over_members_have_one_session_to_show_up() {
    let mut world = World::new();
    let (generation, ids) = world.stable_group(2);
    world.fail_over();
    world.pass(SESSION_MS - 1);
    world.heartbeat(generation, &ids[1]);
    world.pass(1);
    assert_eq!(world.heartbeat(generation, &ids[0]), ErrorCode::UNKNOWN_MEMBER_ID);
    let token = world.rejoin(&ids[1]);
    assert_eq!(world.joined(token).leader, ids[1]);
}

#[test]
fn after_a_fail_over_between_join_and_sync_the_leader_can_still_assign() {
    let mut world = World::new();
    let token = world.join_new("c");
    let id = world.joined(token).member_id;
    world.fail_over();
    assert_eq!(world.state(), "CompletingRebalance");
    let sync = world.sync(1, &id, &[(&id, "x")]);
    assert_eq!(world.synced(sync).assignment, "x");
}

#[test]
fn after_a_fail_over_a_generation_number_is_never_used_again() {
    let mut world = World::new();
    let (generation, ids) = world.stable_group(1);
    let told = world.rejoin(&ids[0]);
    assert_eq!(world.joined(told).generation_id, generation + 1);
    world.fail_over();
    world.pass(SESSION_MS + REBALANCE_MS);
    let token = world.join_new("c");
    assert!(world.joined(token).generation_id > generation + 1);
}

#[test]
fn after_a_fail_over_in_the_join_phase_members_of_the_old_generation_join_again() {
    let mut world = World::new();
    let (generation, ids) = world.stable_group(2);
    world.leave(&[(&ids[1], None)]);
    world.fail_over();
    assert_eq!(
        world.heartbeat(generation, &ids[0]),
        ErrorCode::NONE,
        "the leave was not stored"
    );
    world.pass(SESSION_MS - 1);
    world.heartbeat(generation, &ids[0]);
    world.pass(1);
    let token = world.rejoin(&ids[0]);
    assert_eq!(world.joined(token).members.len(), 1);
}

#[test]
fn an_empty_state_that_is_not_stored_is_tried_again() {
    let mut world = World::new();
    let (_, ids) = world.stable_group(1);
    world.instant = false;
    let token = world.ask_to_leave(&[(&ids[0], None)]);
    assert!(
        !world.replies.contains_key(&token),
        "the last leave waits for the empty state"
    );
    world.fail_next(ErrorCode::COORDINATOR_NOT_AVAILABLE);
    let Some(GroupReply::Leave(reply)) = world.replies.get(&token) else {
        panic!("a leave is answered once its write is decided");
    };
    assert_eq!(reply.error_code, ErrorCode::COORDINATOR_NOT_AVAILABLE);
    world.instant = true;
    world.pass(1_000);
    assert_eq!(world.state(), "Empty");
}
