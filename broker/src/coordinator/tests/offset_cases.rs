use super::*;

const DAY_MS: u64 = 24 * 60 * 60 * 1000;

fn expire(world: &mut World, names: &[(TopicId, &str)]) {
    let names = names.iter().map(|(id, name)| (*id, name.to_string())).collect();
    world.groups.set_image(Arc::new(ClusterImage {
        names,
        ..ClusterImage::default()
    }));
    world.ask(GroupRequest::ExpireOffsets);
}

fn delete_group(world: &mut World) -> ReplyToken {
    world.ask(GroupRequest::DeleteGroup { group_id: "g".into() })
}

fn delete_offsets(world: &mut World, name: &str) -> GroupReply {
    let partitions = vec![(name.to_string(), TOPIC, 0)];
    let token = world.ask(GroupRequest::DeleteOffsets(DeleteOffsets {
        group_id: "g".into(),
        partitions,
    }));
    world.replies[&token].clone()
}

#[test]
fn what_was_never_committed_is_nothing_and_not_zero() {
    let mut world = World::new();
    assert_eq!(world.fetch(0), None);
    world.commit(-1, "", 5);
    assert_eq!(world.fetch(1), None);
}

#[test]
fn a_commit_comes_back_with_its_epoch_and_metadata() {
    let mut world = World::new();
    let token = world.commit(-1, "", 5);
    assert_eq!(
        world.committed(token),
        [ErrorCode::NONE],
        "no membership needed: nobody is in the group"
    );
    let offset = world.fetch(0).expect("committed");
    assert_eq!(
        (offset.offset, offset.leader_epoch, offset.metadata.as_str()),
        (5, 3, "m")
    );
    assert_eq!(offset.commit_ms, world.now.wall_ms);
}

#[test]
fn a_commit_counts_once_it_is_stored() {
    let mut world = World::new();
    world.instant = false;
    let token = world.commit(-1, "", 5);
    assert!(!world.answered(token));
    assert_eq!(world.fetch(0), None);
    world.store_next();
    assert_eq!(world.committed(token), [ErrorCode::NONE]);
    assert_eq!(world.fetch(0).map(|offset| offset.offset), Some(5));
}

#[test]
fn a_commit_that_is_not_stored_says_so_and_changes_nothing() {
    let mut world = World::new();
    world.commit(-1, "", 5);
    world.instant = false;
    let token = world.commit(-1, "", 6);
    world.fail_next(ErrorCode::NOT_COORDINATOR);
    assert_eq!(world.committed(token), [ErrorCode::NOT_COORDINATOR]);
    assert_eq!(world.fetch(0).map(|offset| offset.offset), Some(5));
}

#[test]
fn commits_do_not_wait_for_each_other() {
    let mut world = World::new();
    world.instant = false;
    let (first, second) = (world.commit(-1, "", 5), world.commit(-1, "", 6));
    assert_eq!(world.writes.len(), 2);
    world.store_next();
    assert!(world.answered(first) && !world.answered(second));
    world.store_next();
    assert_eq!(world.fetch(0).map(|offset| offset.offset), Some(6));
}

#[test]
fn a_member_commits_for_its_own_generation_only() {
    let mut world = World::new();
    let (generation, ids) = world.stable_group(1);
    for (generation_id, member, error) in [
        (generation, ids[0].as_str(), ErrorCode::NONE),
        (generation - 1, &ids[0], ErrorCode::ILLEGAL_GENERATION),
        (generation, "stranger", ErrorCode::UNKNOWN_MEMBER_ID),
        (generation, "", ErrorCode::UNKNOWN_MEMBER_ID),
        (-1, &ids[0], ErrorCode::ILLEGAL_GENERATION),
        (-1, "", ErrorCode::UNKNOWN_MEMBER_ID),
    ] {
        let token = world.commit(generation_id, member, 5);
        assert_eq!(world.committed(token), [error], "{generation_id} {member}");
    }
}

#[test]
fn a_member_of_a_group_that_is_gone_cannot_commit() {
    let mut world = World::new();
    let token = world.commit(3, "m", 5);
    assert_eq!(
        world.committed(token),
        [ErrorCode::GROUP_ID_NOT_FOUND],
        "as Kafka from version 9 on"
    );
    assert!(world.groups.groups.is_empty());
}

#[test]
fn a_member_may_commit_until_it_joins_again_and_after_it_has_synced() {
    let mut world = World::new();
    let (generation, ids) = world.stable_group(2);
    world.rejoin(&ids[0]);
    let token = world.commit(generation, &ids[1], 5);
    assert_eq!(
        world.committed(token),
        [ErrorCode::NONE],
        "what it has done counts, though a rebalance has begun"
    );
    world.rejoin(&ids[1]);
    let token = world.commit(generation + 1, &ids[1], 6);
    assert_eq!(world.committed(token), [ErrorCode::REBALANCE_IN_PROGRESS]);
    let token = world.commit(generation, &ids[1], 6);
    assert_eq!(world.committed(token), [ErrorCode::ILLEGAL_GENERATION]);
}

#[test]
fn a_commit_is_a_sign_of_life() {
    let mut world = World::new();
    let (generation, ids) = world.stable_group(1);
    for offset in 0..5 {
        world.pass(SESSION_MS - 1);
        world.commit(generation, &ids[0], offset);
    }
    assert_eq!(world.heartbeat(generation, &ids[0]), ErrorCode::NONE);
}

#[test]
fn metadata_that_is_too_long_fails_its_partition_alone() {
    let mut world = World::new();
    let mut commit = commit_of(-1, "", &[(0, 1), (1, 2)]);
    commit.offsets[0].metadata = "x".repeat(4_097);
    commit.offsets[1].metadata = "x".repeat(4_096);
    let token = world.ask(GroupRequest::Commit(commit));
    assert_eq!(
        world.committed(token),
        [ErrorCode::OFFSET_METADATA_TOO_LARGE, ErrorCode::NONE]
    );
    assert_eq!((world.fetch(0), world.fetch(1).is_some()), (None, true));
}

#[test]
fn a_commit_of_many_partitions_is_answered_when_all_parts_are_stored() {
    let mut world = World::new();
    world.instant = false;
    let offsets: Vec<(i32, i64)> = (0..250).map(|partition| (partition, 1)).collect();
    let token = world.ask(GroupRequest::Commit(commit_of(-1, "", &offsets)));
    assert_eq!(world.writes.len(), 3);
    world.store_next();
    world.store_next();
    assert!(!world.answered(token));
    world.store_next();
    assert_eq!(world.committed(token).len(), 250);
    assert_eq!(world.groups.stored()["g"].1.len(), 250);
}

#[test]
fn all_offsets_of_a_group_can_be_asked_for() {
    let mut world = World::new();
    world.ask(GroupRequest::Commit(commit_of(-1, "", &[(2, 20), (1, 10)])));
    let token = world.ask(GroupRequest::FetchOffsets(FetchOffsets {
        group_id: "g".into(),
        ..FetchOffsets::default()
    }));
    let GroupReply::Offsets { offsets, .. } = &world.replies[&token] else {
        panic!()
    };
    let seen: Vec<(i32, i64)> = offsets
        .iter()
        .map(|(_, p, o)| (*p, o.as_ref().unwrap().offset))
        .collect();
    assert_eq!(seen, [(1, 10), (2, 20)]);
}

#[test]
fn a_group_is_deleted_with_its_offsets_if_nobody_is_in_it() {
    let mut world = World::new();
    let token = delete_group(&mut world);
    assert_eq!(
        world.replies[&token],
        GroupReply::Deleted(ErrorCode::GROUP_ID_NOT_FOUND)
    );
    let (generation, ids) = world.stable_group(1);
    world.commit(generation, &ids[0], 5);
    let token = delete_group(&mut world);
    assert_eq!(world.replies[&token], GroupReply::Deleted(ErrorCode::NON_EMPTY_GROUP));
    world.leave(&[(&ids[0], None)]);
    let token = delete_group(&mut world);
    assert_eq!(world.replies[&token], GroupReply::Deleted(ErrorCode::NONE));
    assert!(world.store.is_empty() && world.groups.groups.is_empty());
}

#[test]
fn deleting_a_group_waits_for_commits_on_their_way() {
    let mut world = World::new();
    world.instant = false;
    world.commit(-1, "", 5);
    let token = delete_group(&mut world);
    assert_eq!(world.writes.len(), 1);
    world.store_next();
    assert!(!world.answered(token));
    world.store_next();
    assert_eq!(world.replies[&token], GroupReply::Deleted(ErrorCode::NONE));
    assert!(world.store.is_empty());
}

#[test]
fn a_join_that_waited_for_a_deletion_finds_a_new_group() {
    let mut world = World::new();
    world.commit(-1, "", 5);
    world.instant = false;
    delete_group(&mut world);
    let token = world.join_new("c");
    world.store_next();
    world.store_next();
    assert_eq!(world.joined(token).generation_id, 1);
    assert_eq!(world.fetch(0), None);
}

#[test]
fn offsets_of_a_subscribed_topic_are_not_deleted() {
    let mut world = World::new();
    let none = |error| GroupReply::DeleteOffsets {
        error,
        partitions: vec![],
    };
    assert_eq!(delete_offsets(&mut world, "t"), none(ErrorCode::GROUP_ID_NOT_FOUND));
    let (generation, ids) = world.stable_group(1);
    world.commit(generation, &ids[0], 5);
    let per_partition = |code| GroupReply::DeleteOffsets {
        error: ErrorCode::NONE,
        partitions: vec![code],
    };
    assert_eq!(
        delete_offsets(&mut world, "t"),
        per_partition(ErrorCode::GROUP_SUBSCRIBED_TO_TOPIC)
    );
    assert!(world.fetch(0).is_some());
    assert_eq!(delete_offsets(&mut world, "other"), per_partition(ErrorCode::NONE));
    assert_eq!(world.fetch(0), None);
}

#[test]
fn offsets_of_a_live_group_that_is_not_of_consumers_are_not_deleted() {
    let mut world = World::new();
    let join = Join {
        protocol_type: "connect".into(),
        ..world.new_join("c")
    };
    world.join_as(join);
    let refused = GroupReply::DeleteOffsets {
        error: ErrorCode::NON_EMPTY_GROUP,
        partitions: vec![],
    };
    assert_eq!(delete_offsets(&mut world, "t"), refused);
}

#[test]
fn offsets_of_a_deleted_topic_go_even_if_their_commit_is_on_its_way() {
    let mut world = World::new();
    world.instant = false;
    world.commit(-1, "", 5);
    world.ask(GroupRequest::TopicsDeleted { topic_ids: vec![TOPIC] });
    world.store_next();
    world.store_next();
    assert!(world.store.is_empty() && world.groups.groups.is_empty());
}

#[test]
fn offsets_of_an_empty_group_expire_counted_from_when_it_became_empty() {
    let mut world = World::new();
    let (generation, ids) = world.stable_group(1);
    world.commit(generation, &ids[0], 5);
    for _ in 0..7 * 24 * 3600 / 9 {
        world.pass(9_000);
        world.heartbeat(generation, &ids[0]);
    }
    world.leave(&[(&ids[0], None)]);
    world.pass(6 * DAY_MS);
    expire(&mut world, &[]);
    assert!(world.fetch(0).is_some());
    world.pass(DAY_MS);
    expire(&mut world, &[]);
    assert!(world.store.is_empty(), "and the group with them");
}

#[test]
fn offsets_without_a_group_expire_counted_from_their_commit() {
    let mut world = World::new();
    world.commit(-1, "", 5);
    world.pass(7 * DAY_MS - 1);
    expire(&mut world, &[]);
    assert!(world.fetch(0).is_some());
    world.pass(1);
    expire(&mut world, &[]);
    assert_eq!(world.fetch(0), None);
}

#[test]
fn a_live_group_keeps_the_offsets_of_what_it_subscribes_to() {
    let mut world = World::with(GroupConfig {
        offsets_retention_ms: 1_000,
        ..GroupConfig::default()
    });
    let (generation, ids) = world.stable_group(1);
    world.commit(generation, &ids[0], 5);
    world.pass(2_000);
    expire(&mut world, &[(TOPIC, "t")]);
    assert!(world.fetch(0).is_some());
    expire(&mut world, &[]);
    assert!(world.fetch(0).is_some(), "nor does a topic go whose name is not known");
    expire(&mut world, &[(TOPIC, "not subscribed")]);
    assert_eq!(world.fetch(0), None);
    assert_eq!(world.state(), "Stable");
}

#[test]
fn a_retention_that_the_client_asked_for_counts_from_the_commit() {
    let mut world = World::new();
    world.ask(GroupRequest::Commit(Commit {
        retention_time_ms: 1_000,
        ..commit_of(-1, "", &[(0, 5)])
    }));
    world.pass(999);
    expire(&mut world, &[]);
    assert!(world.fetch(0).is_some());
    world.pass(1);
    expire(&mut world, &[]);
    assert_eq!(world.fetch(0), None);
}
