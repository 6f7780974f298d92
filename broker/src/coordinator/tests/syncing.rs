use super::*;

#[test]
fn followers_wait_for_the_leaders_assignment_and_get_their_own_bytes() {
    let mut world = World::new();
    let (_, ids) = world.stable_group(2);
    let (a, b) = (world.rejoin(&ids[0]), world.rejoin(&ids[1]));
    let generation = world.joined(a).generation_id;
    assert_eq!(world.joined(b).generation_id, generation);
    let follower = world.sync(generation, &ids[1], &[]);
    assert!(!world.answered(follower));
    let leader = world.sync(generation, &ids[0], &[(&ids[0], "\u{1}opaque"), (&ids[1], "other")]);
    assert_eq!(world.synced(leader).assignment, "\u{1}opaque");
    assert_eq!(world.synced(follower).assignment, "other");
    assert_eq!(world.synced(follower).protocol_name.as_deref(), Some("range"));
}

#[test]
fn a_member_that_the_leader_forgot_gets_an_empty_assignment() {
    let mut world = World::new();
    let (_, ids) = world.stable_group(2);
    let a = world.rejoin(&ids[0]);
    world.rejoin(&ids[1]);
    let generation = world.joined(a).generation_id;
    world.sync(generation, &ids[0], &[(&ids[0], "all"), ("nobody", "nothing")]);
    let late = world.sync(generation, &ids[1], &[]);
    assert_eq!(world.synced(late).assignment, "");
    assert_eq!(world.synced(late).error_code, ErrorCode::NONE);
}

#[test]
fn a_sync_in_a_stable_group_answers_what_is_stored() {
    let mut world = World::new();
    let (generation, ids) = world.stable_group(2);
    for id in &ids {
        let again = world.sync(generation, id, &[(id, "ignored: it is assigned already")]);
        assert_eq!(world.synced(again).assignment, id.as_bytes());
    }
}

#[test]
fn a_sync_says_what_is_wrong_with_it() {
    let mut world = World::new();
    let (generation, ids) = world.stable_group(1);
    let cases = [
        (sync_of(generation, "stranger", &[]), ErrorCode::UNKNOWN_MEMBER_ID),
        (sync_of(generation + 1, &ids[0], &[]), ErrorCode::ILLEGAL_GENERATION),
        (
            SyncGroupRequest {
                protocol_type: Some("connect".into()),
                ..sync_of(generation, &ids[0], &[])
            },
            ErrorCode::INCONSISTENT_GROUP_PROTOCOL,
        ),
        (
            SyncGroupRequest {
                protocol_name: Some("sticky".into()),
                ..sync_of(generation, &ids[0], &[])
            },
            ErrorCode::INCONSISTENT_GROUP_PROTOCOL,
        ),
        (
            SyncGroupRequest {
                group_id: "unknown".into(),
                ..sync_of(generation, &ids[0], &[])
            },
            ErrorCode::UNKNOWN_MEMBER_ID,
        ),
        (
            SyncGroupRequest {
                group_id: String::new(),
                ..sync_of(generation, &ids[0], &[])
            },
            ErrorCode::INVALID_GROUP_ID,
        ),
    ];
    for (sync, error) in cases {
        let token = world.ask(GroupRequest::Sync(sync.clone()));
        assert_eq!(world.synced(token).error_code, error, "{sync:?}");
    }
}

#[test]
fn a_sync_during_the_join_phase_sends_the_member_back_to_join() {
    let mut world = World::new();
    let (generation, ids) = world.stable_group(1);
    world.join_new("c");
    let token = world.sync(generation, &ids[0], &[]);
    assert_eq!(world.synced(token).error_code, ErrorCode::REBALANCE_IN_PROGRESS);
}

#[test]
fn a_leader_that_never_syncs_is_out_after_the_rebalance_timeout() {
    let mut world = World::new();
    let (_, ids) = world.stable_group(2);
    let a = world.rejoin(&ids[0]);
    world.rejoin(&ids[1]);
    let generation = world.joined(a).generation_id;
    let follower = world.sync(generation, &ids[1], &[]);
    for _ in 0..7 {
        world.pass(REBALANCE_MS / 7);
        world.heartbeat(generation, &ids[0]);
    }
    world.pass(10);
    assert_eq!(world.synced(follower).error_code, ErrorCode::REBALANCE_IN_PROGRESS);
    assert_eq!(world.heartbeat(generation, &ids[0]), ErrorCode::UNKNOWN_MEMBER_ID);
    let again = world.rejoin(&ids[1]);
    assert_eq!(world.joined(again).leader, ids[1]);
}

#[test]
fn a_follower_that_never_syncs_is_out_too() {
    let mut world = World::new();
    let (_, ids) = world.stable_group(2);
    let a = world.rejoin(&ids[0]);
    world.rejoin(&ids[1]);
    let generation = world.joined(a).generation_id;
    world.sync(generation, &ids[0], &[]);
    assert_eq!(world.state(), "Stable");
    for _ in 0..13 {
        world.pass(REBALANCE_MS / 12);
        world.heartbeat(generation, &ids[0]);
        world.heartbeat(generation, &ids[1]);
    }
    assert_eq!(world.heartbeat(generation, &ids[1]), ErrorCode::UNKNOWN_MEMBER_ID);
    assert_eq!(world.heartbeat(generation, &ids[0]), ErrorCode::REBALANCE_IN_PROGRESS);
}

#[test]
fn a_leader_that_dies_in_the_sync_phase_frees_the_followers() {
    let mut world = World::new();
    let (_, ids) = world.stable_group(2);
    let a = world.rejoin(&ids[0]);
    world.rejoin(&ids[1]);
    let follower = world.sync(world.joined(a).generation_id, &ids[1], &[]);
    world.pass(SESSION_MS);
    assert_eq!(world.synced(follower).error_code, ErrorCode::REBALANCE_IN_PROGRESS);
}

#[test]
fn a_member_without_heartbeats_is_out_after_its_session() {
    let mut world = World::new();
    let (generation, ids) = world.stable_group(2);
    for _ in 0..2 {
        world.pass(SESSION_MS - 1);
        world.heartbeat(generation, &ids[0]);
    }
    assert_eq!(world.heartbeat(generation, &ids[1]), ErrorCode::UNKNOWN_MEMBER_ID);
    assert_eq!(world.heartbeat(generation, &ids[0]), ErrorCode::REBALANCE_IN_PROGRESS);
}

#[test]
fn a_group_whose_members_all_die_becomes_empty() {
    let mut world = World::new();
    world.stable_group(3);
    world.pass(SESSION_MS + REBALANCE_MS);
    assert_eq!(world.state(), "Empty");
    assert_eq!(world.groups.next_deadline(), None);
}

#[test]
fn heartbeats_check_member_and_generation_and_touch_memory_only() {
    let mut world = World::new();
    let (generation, ids) = world.stable_group(1);
    world.instant = false;
    assert_eq!(world.heartbeat(generation, &ids[0]), ErrorCode::NONE);
    assert_eq!(world.heartbeat(generation - 1, &ids[0]), ErrorCode::ILLEGAL_GENERATION);
    assert_eq!(world.heartbeat(generation, "stranger"), ErrorCode::UNKNOWN_MEMBER_ID);
    assert!(world.writes.is_empty());
}

#[test]
fn an_assignment_that_could_not_be_stored_is_refused() {
    let mut world = World::new();
    let token = world.join_new("c");
    let id = world.joined(token).member_id;
    let huge = "x".repeat(world.config.group_bytes_max / 2 + 1);
    let token = world.sync(1, &id, &[(&id, &huge)]);
    assert_eq!(world.synced(token).error_code, ErrorCode::UNKNOWN_SERVER_ERROR);
    assert_eq!(world.state(), "PreparingRebalance");
}

#[test]
fn a_second_sync_of_a_member_supersedes_the_first() {
    let mut world = World::new();
    let (_, ids) = world.stable_group(2);
    let a = world.rejoin(&ids[0]);
    world.rejoin(&ids[1]);
    let generation = world.joined(a).generation_id;
    let (earlier, later) = (
        world.sync(generation, &ids[1], &[]),
        world.sync(generation, &ids[1], &[]),
    );
    assert_eq!(world.synced(earlier).error_code, ErrorCode::REBALANCE_IN_PROGRESS);
    world.sync(generation, &ids[0], &[(&ids[1], "x")]);
    assert_eq!(world.synced(later).assignment, "x");
}

#[test]
fn describe_shows_metadata_and_assignment_of_a_stable_group_only() {
    let mut world = World::new();
    let (_, ids) = world.stable_group(2);
    let describe = GroupRequest::Describe {
        groups: vec!["g".into(), "none".into()],
    };
    let token = world.ask(describe.clone());
    let GroupReply::Described(groups) = &world.replies[&token] else {
        panic!()
    };
    assert_eq!(groups[0].protocol_data, "range");
    assert_eq!(groups[0].members[1].member_id, ids[1]);
    assert_eq!(groups[0].members[1].member_assignment, ids[1].as_bytes());
    assert_eq!(groups[0].members[1].client_id, "c1");
    assert_eq!(
        (groups[1].error_code, groups[1].group_state.as_str()),
        (ErrorCode::GROUP_ID_NOT_FOUND, "Dead")
    );
    world.rejoin(&ids[0]);
    let token = world.ask(describe);
    let GroupReply::Described(groups) = &world.replies[&token] else {
        panic!()
    };
    assert_eq!(
        (groups[0].group_state.as_str(), groups[0].protocol_data.as_str()),
        ("PreparingRebalance", "")
    );
    assert!(groups[0].members[0].member_metadata.is_empty());
}

#[test]
fn list_filters_by_state_and_type() {
    let mut world = World::new();
    world.stable_group(1);
    world.ask(GroupRequest::Commit(Commit {
        group_id: "simple".into(),
        ..commit_of(-1, "", &[(0, 1)])
    }));
    let mut list = |states: &[&str], types: &[&str]| -> Vec<String> {
        let texts = |list: &[&str]| list.iter().map(|text| text.to_string()).collect();
        let token = world.ask(GroupRequest::List {
            states: texts(states),
            types: texts(types),
        });
        let GroupReply::Listed { groups, .. } = &world.replies[&token] else {
            panic!()
        };
        groups.iter().map(|group| group.group_id.clone()).collect()
    };
    assert_eq!(list(&[], &[]), ["g", "simple"]);
    assert_eq!(list(&["stable"], &[]), ["g"]);
    assert_eq!(list(&["Empty", "Dead"], &["Classic"]), ["simple"]);
    assert!(list(&[], &["consumer"]).is_empty());
}
