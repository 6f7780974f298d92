//! Groups that change from one protocol to the other, empty and while their members work.

use super::*;

#[test]
fn an_empty_group_changes_its_protocol_and_numbers_go_on() {
    let mut world = world();
    let (generation, ids) = world.stable_group(1);
    world.commit(generation, &ids[0], 5);
    world.leave(&[(&ids[0], None)]);
    let mut a = Client::new("a", &["t"]);
    a.beat(&mut world);
    assert!(a.epoch > generation);
    assert_eq!(world.fetch(0).map(|offset| offset.offset), Some(5), "offsets stay");
    a.leave(&mut world, -1);
    let epoch = described(&mut world).group_epoch;
    let token = world.join_new("c");
    assert!(world.joined(token).generation_id > epoch);
    assert_eq!(world.state(), "CompletingRebalance");
}

/// A classic member in a group of the consumer protocol, as a cooperative client has it.
struct Classic {
    id: String,
    generation: i32,
    owned: Vec<i32>,
}

impl Classic {
    fn metadata(&self) -> Bytes {
        let mut out = Vec::new();
        out.put_i16(1);
        out.put_i32(1);
        out.put_i16(1);
        out.put_slice(b"t");
        out.put_i32(-1);
        out.put_i32(1);
        out.put_i16(1);
        out.put_slice(b"t");
        out.put_i32(self.owned.len() as i32);
        self.owned.iter().for_each(|partition| out.put_i32(*partition));
        Bytes::from(out)
    }

    fn join(&mut self, world: &mut World) -> ErrorCode {
        let join = Join {
            protocols: vec![("cooperative-sticky".into(), self.metadata())],
            ..join_of("c", &self.id)
        };
        let token = world.join_as(join);
        let reply = world.joined(token);
        if reply.error_code != ErrorCode::NONE {
            return reply.error_code;
        }
        assert_ne!(reply.leader, reply.member_id, "nobody leads");
        self.id = reply.member_id;
        self.generation = reply.generation_id;
        let token = world.sync(self.generation, &self.id, &[]);
        let synced = world.synced(token);
        if synced.error_code == ErrorCode::NONE {
            let mut topics = subscription::parse_assignment(&synced.assignment).expect("an assignment");
            self.owned = topics.remove("t").unwrap_or_default();
        }
        synced.error_code
    }

    fn beat(&mut self, world: &mut World) {
        if world.heartbeat(self.generation, &self.id) == ErrorCode::REBALANCE_IN_PROGRESS {
            self.join(world);
        }
    }
}

/// A classic group of one with all four partitions.
fn classic_group(world: &mut World) -> Classic {
    let mut classic = Classic {
        id: String::new(),
        generation: 0,
        owned: Vec::new(),
    };
    let join = Join {
        protocols: vec![("cooperative-sticky".into(), classic.metadata())],
        ..world.new_join("c")
    };
    let token = world.join_as(join);
    let joined = world.joined(token);
    (classic.id, classic.generation) = (joined.member_id, joined.generation_id);
    let mut sync = sync_of(classic.generation, &classic.id, &[]);
    let assignment = subscription::encode_assignment(&BTreeMap::from([("t", vec![0, 1, 2, 3])]));
    sync.assignments.push(SyncGroupRequestAssignment {
        member_id: classic.id.clone(),
        assignment,
    });
    let token = world.ask(GroupRequest::Sync(sync));
    assert_eq!(world.synced(token).error_code, ErrorCode::NONE);
    classic.owned = vec![0, 1, 2, 3];
    classic
}

#[test]
fn a_live_group_moves_to_the_consumer_protocol_and_back() {
    let mut world = world();
    let mut old = classic_group(&mut world);
    let mut new = Client::new("new", &["t"]);
    new.beat(&mut world);
    assert_eq!(
        (new.fenced, new.has(7).len()),
        (None, 0),
        "the classic member still has everything"
    );
    for _ in 0..3 {
        old.beat(&mut world);
        new.beat(&mut world);
    }
    assert_eq!((old.owned.len(), new.has(7).len()), (2, 2));
    assert_eq!(old.generation, new.epoch);
    let types: Vec<i8> = described(&mut world)
        .members
        .iter()
        .map(|member| member.member_type)
        .collect();
    assert_eq!(types, [0, 1], "one classic, one not");
    let token = world.commit(old.generation, &old.id, 5);
    assert_eq!(world.committed(token), [ErrorCode::NONE]);
    let token = world.commit(old.generation - 1, &old.id, 5);
    assert_eq!(world.committed(token), [ErrorCode::ILLEGAL_GENERATION]);
    // A coordinator that takes over knows both.
    let image = world.groups.image.clone();
    world.fail_over();
    world.groups.set_image(image);
    old.beat(&mut world);
    new.beat(&mut world);
    assert_eq!((old.owned.len(), new.has(7).len(), new.fenced), (2, 2, None));
    // The last one of the new protocol leaves: a classic group, which rebalances.
    new.leave(&mut world, -1);
    assert_eq!(world.state(), "PreparingRebalance");
    assert_eq!(
        world.heartbeat(old.generation, &old.id),
        ErrorCode::REBALANCE_IN_PROGRESS
    );
    let token = world.rejoin(&old.id);
    assert_eq!(
        world.joined(token).error_code,
        ErrorCode::INCONSISTENT_GROUP_PROTOCOL,
        "range is not what it had"
    );
    let join = Join {
        protocols: vec![("cooperative-sticky".into(), old.metadata())],
        ..join_of("c", &old.id)
    };
    let token = world.join_as(join);
    let joined = world.joined(token);
    assert_eq!((joined.error_code, joined.leader), (ErrorCode::NONE, old.id.clone()));
    assert!(joined.generation_id > old.generation);
}

#[test]
fn a_classic_member_may_come_to_a_group_of_the_consumer_protocol_and_leave_it() {
    let mut world = world();
    let mut new = Client::new("new", &["t"]);
    new.beat(&mut world);
    let mut classic = Classic {
        id: String::new(),
        generation: 0,
        owned: Vec::new(),
    };
    let join = Join {
        protocols: vec![("cooperative-sticky".into(), classic.metadata())],
        require_known_member_id: true,
        ..world.new_join("c")
    };
    let token = world.join_as(join);
    let reply = world.joined(token);
    assert_eq!(reply.error_code, ErrorCode::MEMBER_ID_REQUIRED);
    classic.id = reply.member_id;
    assert_eq!(classic.join(&mut world), ErrorCode::NONE);
    for _ in 0..3 {
        new.beat(&mut world);
        classic.beat(&mut world);
    }
    assert_eq!((classic.owned.len(), new.has(7).len()), (2, 2));
    let stranger = world.rejoin("stranger");
    assert_eq!(world.joined(stranger).error_code, ErrorCode::UNKNOWN_MEMBER_ID);
    let not_a_consumer = Join {
        protocol_type: "connect".into(),
        ..world.new_join("c")
    };
    let token = world.join_as(not_a_consumer);
    assert_eq!(world.joined(token).error_code, ErrorCode::INCONSISTENT_GROUP_PROTOCOL);
    let left = world.leave(&[(&classic.id, None), ("stranger", None)]);
    let codes: Vec<ErrorCode> = left.members.iter().map(|member| member.error_code).collect();
    assert_eq!(codes, [ErrorCode::NONE, ErrorCode::UNKNOWN_MEMBER_ID]);
    new.beat(&mut world);
    assert_eq!(new.has(7).len(), 4);
    // Another one crashes: its own session counts.
    let token = world.join_new("c");
    assert_eq!(world.joined(token).error_code, ErrorCode::NONE);
    world.pass(SESSION_MS + 1);
    new.beat(&mut world);
    assert_eq!(described(&mut world).members.len(), 1);
}

#[test]
fn a_group_that_is_not_of_consumers_is_never_taken_over() {
    let mut world = world();
    let connect = Join {
        protocol_type: "connect".into(),
        ..world.new_join("c")
    };
    let token = world.join_as(connect);
    assert_eq!(world.joined(token).error_code, ErrorCode::NONE);
    let mut a = Client::new("a", &["t"]);
    a.beat(&mut world);
    assert_eq!(a.fenced, Some(ErrorCode::GROUP_ID_NOT_FOUND));
    assert_eq!(world.state(), "CompletingRebalance");
}
