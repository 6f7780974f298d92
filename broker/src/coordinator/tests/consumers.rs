//! The consumer protocol (KIP-848): members that behave as its specification says they do, and some that do not.

use super::super::consumer::{Assignment, LEFT_FOR_A_WHILE};
use super::*;
use crate::cluster::image::TopicImage;
use kafscale_codec::messages::{
    ConsumerGroupHeartbeatRequest, ConsumerGroupHeartbeatResponse, DescribedConsumerGroup, OwnedPartitions,
};
use kafscale_metastore::keys::TopicRecord;
use proptest::prelude::*;

const INTERVAL_MS: u64 = 5_000;
const CONSUMER_SESSION_MS: u64 = 45_000;
const REVOKE_MS: u64 = 30_000;

fn image(topics: &[(&str, u8, u32)]) -> Arc<ClusterImage> {
    let mut image = ClusterImage::default();
    for (name, id, partitions) in topics {
        let topic_id = TopicId([*id; 16]);
        let record = TopicRecord {
            topic_id,
            partitions: *partitions,
            ..some_topic()
        };
        let topic = TopicImage {
            name: name.to_string(),
            record,
            mod_revision: 1,
            leaders: Vec::new(),
        };
        image.topics.insert(name.to_string(), Arc::new(topic));
        image.names.insert(topic_id, name.to_string());
    }
    Arc::new(image)
}

fn some_topic() -> TopicRecord {
    TopicRecord {
        topic_id: TopicId([0; 16]),
        partitions: 1,
        created_ms: 0,
        folder: String::new(),
        configs: BTreeMap::new(),
    }
}

/// A member as a client library has it.
#[derive(Debug, Clone, Default, PartialEq)]
struct Client {
    id: String,
    instance: Option<String>,
    topics: Vec<String>,
    /// The topics of the heartbeat on its way, or of the one before.
    said: Vec<String>,
    epoch: i32,
    owned: Assignment,
    /// Told to own this; it gives up first what is not in it.
    told: Option<Assignment>,
    /// The next heartbeat says everything.
    full: bool,
    /// The heartbeat on its way.
    waits: Option<ReplyToken>,
    fenced: Option<ErrorCode>,
}

impl Client {
    fn new(id: &str, topics: &[&str]) -> Self {
        Client {
            id: id.into(),
            topics: topics.iter().map(|topic| topic.to_string()).collect(),
            full: true,
            ..Client::default()
        }
    }

    fn request(&self) -> ConsumerGroupHeartbeatRequest {
        let joins = self.epoch == 0;
        let owned = self.owned.iter().map(|(topic_id, partitions)| OwnedPartitions {
            topic_id: *topic_id,
            partitions: partitions.iter().copied().collect(),
        });
        let changed = self.full || joins || self.told.is_some();
        ConsumerGroupHeartbeatRequest {
            group_id: "g".into(),
            member_id: self.id.clone(),
            member_epoch: self.epoch,
            instance_id: self.instance.clone(),
            rebalance_timeout_ms: if self.full || joins { REVOKE_MS as i32 } else { -1 },
            subscribed_topic_names: (self.full || joins).then(|| self.topics.clone()),
            topic_partitions: changed.then(|| if joins { Vec::new() } else { owned.collect() }),
            ..Default::default()
        }
    }

    fn beat(&mut self, world: &mut World) {
        let request = self.request();
        if let Some(topics) = &request.subscribed_topic_names {
            self.said.clone_from(topics);
        }
        let heartbeat = ConsumerHeartbeat {
            request,
            draws_own_id: true,
            client_id: "c".into(),
            client_host: "/h".into(),
            ..ConsumerHeartbeat::default()
        };
        self.waits = Some(world.ask(GroupRequest::ConsumerHeartbeat(Box::new(heartbeat))));
        self.listen(world);
    }

    fn listen(&mut self, world: &mut World) {
        let Some(reply) = self.waits.and_then(|token| world.replies.remove(&token)) else {
            return;
        };
        self.waits = None;
        let GroupReply::ConsumerHeartbeat(reply) = reply else {
            panic!("{reply:?}")
        };
        self.hear(reply);
    }

    fn hear(&mut self, reply: ConsumerGroupHeartbeatResponse) {
        match reply.error_code {
            ErrorCode::NONE => {
                self.full = self.said != self.topics;
                self.told = None;
                self.epoch = reply.member_epoch;
                if let Some(assignment) = reply.assignment {
                    let told = assignment.topic_partitions.into_iter();
                    let told = told.map(|topic| (topic.topic_id, topic.partitions.into_iter().collect()));
                    self.told = Some(told.collect());
                    self.own();
                }
            }
            ErrorCode::FENCED_MEMBER_EPOCH | ErrorCode::UNKNOWN_MEMBER_ID => {
                self.fenced = Some(reply.error_code);
                self.epoch = 0;
                self.owned.clear();
                self.told = None;
                self.full = true;
            }
            ErrorCode::COORDINATOR_NOT_AVAILABLE => self.full = true,
            error => self.fenced = Some(error),
        }
    }

    /// Gives up, or takes.
    fn own(&mut self) {
        if let Some(told) = &self.told {
            self.owned = told.clone();
        }
    }

    fn has(&self, topic: u8) -> Vec<i32> {
        let partitions = self.owned.get(&TopicId([topic; 16]));
        partitions
            .map(|partitions| partitions.iter().copied().collect())
            .unwrap_or_default()
    }

    fn leave(&mut self, world: &mut World, epoch: i32) {
        self.epoch = epoch;
        self.beat(world);
    }
}

fn world() -> World {
    let mut world = World::new();
    world.groups.set_image(image(&[("t", 7, 4), ("u", 8, 2)]));
    world
}

fn described(world: &mut World) -> DescribedConsumerGroup {
    let groups = vec!["g".to_string()];
    let token = world.ask(GroupRequest::DescribeConsumers { groups });
    match world.replies.remove(&token) {
        Some(GroupReply::DescribedConsumers(mut groups)) => groups.remove(0),
        other => panic!("{other:?}"),
    }
}

fn round(world: &mut World, clients: &mut [&mut Client]) {
    clients.iter_mut().for_each(|client| client.beat(world));
}

#[test]
fn one_member_gets_everything_and_a_second_one_its_half_once_the_first_gave_it_up() {
    let mut world = world();
    let mut a = Client::new("a", &["t"]);
    a.beat(&mut world);
    assert_eq!((a.epoch, a.has(7)), (2, vec![0, 1, 2, 3]), "Kafka begins there, too");
    let mut b = Client::new("b", &["t"]);
    b.beat(&mut world);
    assert_eq!((b.epoch, b.has(7).len()), (3, 0), "nothing is free");
    assert_eq!(described(&mut world).group_state, "Reconciling");
    a.beat(&mut world);
    assert_eq!(
        (a.epoch, a.has(7).len()),
        (2, 2),
        "told to give up half, still in the old epoch"
    );
    b.beat(&mut world);
    assert_eq!(b.has(7).len(), 0, "it has not been given up yet");
    a.beat(&mut world);
    assert_eq!(a.epoch, 3);
    b.beat(&mut world);
    assert_eq!(b.has(7).len(), 2);
    let group = described(&mut world);
    assert_eq!(
        (group.group_state.as_str(), group.group_epoch, group.assignment_epoch),
        ("Stable", 3, 3)
    );
    assert_eq!(group.assignor_name, "uniform");
    assert_eq!(group.members[0].assignment.topic_partitions[0].topic_name, "t");
}

#[test]
fn a_heartbeat_that_changes_nothing_writes_nothing() {
    let mut world = world();
    let mut a = Client::new("a", &["t"]);
    a.beat(&mut world);
    world.instant = false;
    a.beat(&mut world);
    a.beat(&mut world);
    assert!(world.writes.is_empty() && a.waits.is_none());
    // Not even one that says everything again.
    a.full = true;
    a.beat(&mut world);
    assert!(world.writes.is_empty() && a.waits.is_none());
}

#[test]
fn heartbeats_that_wait_for_a_write_share_the_next_one() {
    let mut world = world();
    world.instant = false;
    let mut clients: Vec<Client> = (0..10).map(|n| Client::new(&format!("m{n}"), &["t"])).collect();
    clients.iter_mut().for_each(|client| client.beat(&mut world));
    assert_eq!(world.writes.len(), 1, "the first one");
    world.store_next();
    assert_eq!(world.writes.len(), 1, "all others");
    assert!(world.replies.len() == 1, "nobody is answered before it is stored");
    world.store_next();
    assert!(world.writes.is_empty());
    clients.iter_mut().for_each(|client| client.listen(&mut world));
    assert!(clients.iter().all(|client| client.epoch > 0));
    assert_eq!(described(&mut world).group_epoch, 3);
}

#[test]
fn a_write_that_fails_changes_nothing_and_is_tried_again() {
    let mut world = world();
    let mut a = Client::new("a", &["t"]);
    world.instant = false;
    a.beat(&mut world);
    world.fail_next(ErrorCode::COORDINATOR_NOT_AVAILABLE);
    a.listen(&mut world);
    assert_eq!((a.epoch, a.waits), (0, None));
    world.instant = true;
    a.beat(&mut world);
    assert_eq!(a.has(7).len(), 4);
}

#[test]
fn a_member_that_is_silent_is_out_and_the_others_share_what_it_had() {
    let mut world = world();
    let (mut a, mut b) = (Client::new("a", &["t"]), Client::new("b", &["t"]));
    for _ in 0..4 {
        round(&mut world, &mut [&mut a, &mut b]);
    }
    assert_eq!((a.has(7).len(), b.has(7).len()), (2, 2));
    for _ in 0..10 {
        world.pass(INTERVAL_MS);
        a.beat(&mut world);
    }
    assert_eq!(a.has(7).len(), 4);
    b.beat(&mut world);
    assert_eq!(b.fenced, Some(ErrorCode::UNKNOWN_MEMBER_ID));
}

#[test]
fn a_member_that_does_not_give_up_in_time_is_out() {
    let mut world = world();
    let (mut a, mut b) = (Client::new("a", &["t"]), Client::new("b", &["t"]));
    a.beat(&mut world);
    b.beat(&mut world);
    // It hears that it shall give up, and does not.
    a.beat(&mut world);
    for _ in 0..7 {
        if a.fenced.is_none() {
            world.pass(INTERVAL_MS);
            a.told = None;
            a.beat(&mut world);
            b.beat(&mut world);
        }
    }
    assert_eq!(a.fenced, Some(ErrorCode::UNKNOWN_MEMBER_ID));
    assert_eq!(b.has(7).len(), 4);
}

#[test]
fn a_lost_answer_is_told_again_and_an_older_epoch_is_fenced() {
    let mut world = world();
    let mut a = Client::new("a", &["t"]);
    a.beat(&mut world);
    let old = a.clone();
    let mut b = Client::new("b", &["t"]);
    for _ in 0..3 {
        round(&mut world, &mut [&mut a, &mut b]);
    }
    assert_eq!(a.epoch, 3);
    // The answer with epoch 3 was lost; it has given up what it was told to.
    let mut again = Client {
        epoch: 2,
        full: true,
        ..a.clone()
    };
    again.beat(&mut world);
    assert_eq!((again.epoch, again.fenced, again.has(7)), (3, None, a.has(7)));
    // Somebody who still has what was given away.
    let mut late = Client { full: true, ..old };
    late.beat(&mut world);
    assert_eq!(late.fenced, Some(ErrorCode::FENCED_MEMBER_EPOCH));
    let mut ahead = Client { epoch: 9, ..a.clone() };
    ahead.beat(&mut world);
    assert_eq!(ahead.fenced, Some(ErrorCode::FENCED_MEMBER_EPOCH));
}

#[test]
fn a_static_member_that_comes_back_has_what_it_had() {
    let mut world = world();
    let mut a = Client::new("a", &["t"]);
    a.instance = Some("i".into());
    let mut b = Client::new("b", &["t"]);
    for _ in 0..4 {
        round(&mut world, &mut [&mut a, &mut b]);
    }
    let (had, epoch) = (a.has(7), a.epoch);
    let mut early = Client {
        id: "early".into(),
        instance: a.instance.clone(),
        ..Client::new("early", &["t"])
    };
    early.beat(&mut world);
    assert_eq!(early.fenced, Some(ErrorCode::UNRELEASED_INSTANCE_ID));
    a.leave(&mut world, LEFT_FOR_A_WHILE);
    b.beat(&mut world);
    assert_eq!((b.epoch, b.has(7).len()), (epoch, 2), "nobody notices");
    let mut back = Client {
        instance: a.instance.clone(),
        ..Client::new("a2", &["t"])
    };
    back.beat(&mut world);
    assert_eq!((back.epoch, back.has(7)), (epoch, had));
    a.epoch = epoch;
    a.beat(&mut world);
    assert_eq!(a.fenced, Some(ErrorCode::FENCED_INSTANCE_ID));
    // Away for longer than a session: the other one gets all.
    back.leave(&mut world, LEFT_FOR_A_WHILE);
    for _ in 0..10 {
        world.pass(INTERVAL_MS);
        b.beat(&mut world);
    }
    assert_eq!(b.has(7).len(), 4);
}

#[test]
fn a_topic_that_comes_or_grows_reaches_the_members() {
    let mut world = world();
    let mut a = Client::new("a", &["t", "later"]);
    a.beat(&mut world);
    assert_eq!(a.has(7).len(), 4);
    world.groups.set_image(image(&[("t", 7, 6), ("later", 9, 1)]));
    a.beat(&mut world);
    assert_eq!((a.epoch, a.has(7).len(), a.has(9)), (3, 6, vec![0]));
    world.groups.set_image(image(&[("t", 7, 6)]));
    a.beat(&mut world);
    assert_eq!((a.has(7).len(), a.has(9).len()), (6, 0));
}

#[test]
fn a_regular_expression_subscribes_to_what_matches_and_a_bad_one_is_refused() {
    let mut world = world();
    let ask = |world: &mut World, id: &str, regex: &str| {
        let mut request = Client::new(id, &[]).request();
        request.subscribed_topic_names = None;
        request.subscribed_topic_regex = Some(regex.into());
        let heartbeat = ConsumerHeartbeat {
            request,
            draws_own_id: true,
            ..ConsumerHeartbeat::default()
        };
        let token = world.ask(GroupRequest::ConsumerHeartbeat(Box::new(heartbeat)));
        match world.replies.remove(&token) {
            Some(GroupReply::ConsumerHeartbeat(reply)) => reply,
            other => panic!("{other:?}"),
        }
    };
    let reply = ask(&mut world, "a", "[tx]");
    assert_eq!(reply.assignment.expect("assigned").topic_partitions.len(), 1);
    world
        .groups
        .set_image(image(&[("t", 7, 4), ("x", 9, 1), ("tx", 10, 1)]));
    let reply = ask(&mut world, "a", "[tx]");
    assert_eq!(reply.assignment.expect("assigned").topic_partitions.len(), 2);
    let reply = ask(&mut world, "b", "(");
    assert_eq!(reply.error_code, ErrorCode::INVALID_REGULAR_EXPRESSION);
}

#[test]
fn what_cannot_be_is_refused_with_a_word_why() {
    let mut world = world();
    let mut check = |change: &dyn Fn(&mut ConsumerGroupHeartbeatRequest), expected: ErrorCode| {
        let mut request = Client::new("a", &["t"]).request();
        change(&mut request);
        let heartbeat = ConsumerHeartbeat {
            request,
            draws_own_id: true,
            ..ConsumerHeartbeat::default()
        };
        let token = world.ask(GroupRequest::ConsumerHeartbeat(Box::new(heartbeat)));
        match world.replies.remove(&token) {
            Some(GroupReply::ConsumerHeartbeat(reply)) => {
                assert_eq!(reply.error_code, expected);
                assert!(reply.error_message.is_some_and(|message| !message.is_empty()));
            }
            other => panic!("{other:?}"),
        }
    };
    check(&|request| request.group_id = String::new(), ErrorCode::INVALID_REQUEST);
    check(&|request| request.member_id = String::new(), ErrorCode::INVALID_REQUEST);
    check(
        &|request| request.instance_id = Some(String::new()),
        ErrorCode::INVALID_REQUEST,
    );
    check(&|request| request.rebalance_timeout_ms = -1, ErrorCode::INVALID_REQUEST);
    check(&|request| request.topic_partitions = None, ErrorCode::INVALID_REQUEST);
    check(
        &|request| request.subscribed_topic_names = None,
        ErrorCode::INVALID_REQUEST,
    );
    check(&|request| request.member_epoch = -3, ErrorCode::INVALID_REQUEST);
    check(&|request| request.member_epoch = -2, ErrorCode::INVALID_REQUEST);
    check(
        &|request| request.server_assignor = Some("best".into()),
        ErrorCode::UNSUPPORTED_ASSIGNOR,
    );
    check(&|request| request.member_epoch = 1, ErrorCode::GROUP_ID_NOT_FOUND);
    assert!(world.groups.stored().is_empty(), "nothing of all this made a group");
}

#[test]
fn offsets_are_committed_in_the_members_epoch_and_no_other() {
    let mut world = world();
    let (mut a, mut b) = (Client::new("a", &["t"]), Client::new("b", &["t"]));
    a.beat(&mut world);
    let token = world.commit(2, "a", 5);
    assert_eq!(world.committed(token), [ErrorCode::NONE]);
    let token = world.commit(0, "a", 6);
    assert_eq!(world.committed(token), [ErrorCode::STALE_MEMBER_EPOCH]);
    let token = world.commit(2, "b", 6);
    assert_eq!(world.committed(token), [ErrorCode::UNKNOWN_MEMBER_ID]);
    let token = world.commit(-1, "", 6);
    assert_eq!(
        world.committed(token),
        [ErrorCode::UNKNOWN_MEMBER_ID],
        "the group has members"
    );
    let old_version = Commit {
        knows_epochs: false,
        ..commit_of(2, "a", &[(0, 6)])
    };
    let token = world.ask(GroupRequest::Commit(old_version));
    assert_eq!(world.committed(token), [ErrorCode::UNSUPPORTED_VERSION]);
    let fetch = |world: &mut World, member_epoch| {
        let token = world.ask(GroupRequest::FetchOffsets(FetchOffsets {
            group_id: "g".into(),
            member_id: Some("a".into()),
            member_epoch,
            partitions: None,
        }));
        match world.replies.remove(&token) {
            Some(GroupReply::Offsets { error, offsets, .. }) => (error, offsets.len()),
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(fetch(&mut world, 2), (ErrorCode::NONE, 1));
    assert_eq!(fetch(&mut world, 0), (ErrorCode::STALE_MEMBER_EPOCH, 0));
    for _ in 0..3 {
        round(&mut world, &mut [&mut a, &mut b]);
    }
    a.leave(&mut world, -1);
    b.leave(&mut world, -1);
    assert_eq!(described(&mut world).group_state, "Empty");
    let token = world.commit(-1, "", 7);
    assert_eq!(
        world.committed(token),
        [ErrorCode::NONE],
        "an empty group's offsets can be set"
    );
}

#[test]
fn a_commit_that_a_heartbeat_overtook_counts_for_what_the_member_has_kept() {
    let mut world = world();
    let (mut a, mut b) = (Client::new("a", &["t"]), Client::new("b", &["t"]));
    for _ in 0..3 {
        round(&mut world, &mut [&mut a, &mut b]);
    }
    assert_eq!(a.epoch, 3);
    let kept = a.has(7)[0];
    let lost = b.has(7)[0];
    let commit = |world: &mut World, epoch, partition| {
        let token = world.ask(GroupRequest::Commit(commit_of(epoch, "a", &[(partition, 5)])));
        world.committed(token)[0]
    };
    assert_eq!(commit(&mut world, 2, kept), ErrorCode::NONE);
    assert_eq!(commit(&mut world, 2, lost), ErrorCode::STALE_MEMBER_EPOCH);
    assert_eq!(commit(&mut world, 1, kept), ErrorCode::STALE_MEMBER_EPOCH);
    b.leave(&mut world, -1);
    a.beat(&mut world);
    assert_eq!((a.epoch, a.has(7).len()), (4, 4));
    assert_eq!(commit(&mut world, 3, kept), ErrorCode::NONE);
    assert_eq!(
        commit(&mut world, 3, lost),
        ErrorCode::STALE_MEMBER_EPOCH,
        "it has only just come back"
    );
}

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

#[test]
fn a_group_of_this_protocol_is_listed_described_and_deleted() {
    let mut world = world();
    let mut a = Client::new("a", &["t"]);
    a.beat(&mut world);
    let list = |world: &mut World, kind: &str| {
        let token = world.ask(GroupRequest::List {
            states: vec!["stable".into()],
            types: vec![kind.into()],
        });
        match world.replies.remove(&token) {
            Some(GroupReply::Listed { groups, .. }) => groups,
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(list(&mut world, "consumer")[0].protocol_type, "consumer");
    assert!(list(&mut world, "classic").is_empty());
    let token = world.ask(GroupRequest::Describe {
        groups: vec!["g".into()],
    });
    match &world.replies[&token] {
        GroupReply::Described(groups) => assert_eq!(groups[0].error_code, ErrorCode::GROUP_ID_NOT_FOUND),
        other => panic!("{other:?}"),
    }
    let delete = |world: &mut World| {
        let token = world.ask(GroupRequest::DeleteGroup { group_id: "g".into() });
        world.replies[&token].clone()
    };
    assert_eq!(delete(&mut world), GroupReply::Deleted(ErrorCode::NON_EMPTY_GROUP));
    a.leave(&mut world, -1);
    assert_eq!(delete(&mut world), GroupReply::Deleted(ErrorCode::NONE));
    assert!(world.groups.stored().is_empty());
}

#[derive(Debug, Clone)]
enum Step {
    Beat(usize),
    /// The answer does not arrive, and the client asks again.
    LoseAnswer(usize),
    Start(usize),
    Crash(usize),
    Leave(usize),
    /// A classic client starts, goes on, crashes or leaves.
    Classic(usize, u8),
    Subscribe(usize, usize),
    Topics(usize),
    Pass(u64),
    Store,
    Fail,
    FailOver(usize),
}

const SUBSCRIPTIONS: [&[&str]; 3] = [&["t"], &["t", "u"], &["u"]];

fn step() -> impl Strategy<Value = Step> {
    let client = || 0..5usize;
    prop_oneof![
        12 => client().prop_map(Step::Beat),
        1 => client().prop_map(Step::LoseAnswer),
        4 => client().prop_map(Step::Start),
        1 => client().prop_map(Step::Crash),
        1 => client().prop_map(Step::Leave),
        1 => (client(), 0..SUBSCRIPTIONS.len()).prop_map(|(client, topics)| Step::Subscribe(client, topics)),
        6 => (0..2usize, 0..12u8).prop_map(|(client, what)| Step::Classic(client, what)),
        1 => (0..3usize).prop_map(Step::Topics),
        2 => (0..6_000u64).prop_map(Step::Pass),
        1 => (0..50_000u64).prop_map(Step::Pass),
        10 => Just(Step::Store),
        1 => Just(Step::Fail),
        1 => (0..3usize).prop_map(Step::FailOver),
    ]
}

/// A classic member as a library has it: what it asks, and what it does with the answer.
#[derive(Debug, Clone, Default)]
struct ClassicClient {
    id: String,
    generation: i32,
    owned: BTreeMap<String, Vec<i32>>,
    doing: Doing,
}

#[derive(Debug, Clone, Copy, Default, PartialEq)]
enum Doing {
    #[default]
    ToJoin,
    Joining(ReplyToken),
    Syncing(ReplyToken),
    Stable,
}

impl ClassicClient {
    /// Subscribes to `t` and `u`; an eager member, which gives everything up before it joins.
    fn act(&mut self, world: &mut World) {
        match self.doing {
            Doing::ToJoin => {
                self.owned.clear();
                let join = Join {
                    protocols: vec![("range".into(), super::subscription(&["t", "u"], ""))],
                    random: u128::from(world.next_token) + 1_000_000,
                    ..join_of("c", &self.id)
                };
                self.doing = Doing::Joining(world.join_as(join));
            }
            Doing::Stable => match world.heartbeat(self.generation, &self.id) {
                ErrorCode::NONE => {}
                ErrorCode::REBALANCE_IN_PROGRESS => self.doing = Doing::ToJoin,
                _ => *self = ClassicClient::default(),
            },
            Doing::Joining(_) | Doing::Syncing(_) => {}
        }
        self.listen(world);
    }

    fn listen(&mut self, world: &mut World) {
        let (Doing::Joining(token) | Doing::Syncing(token)) = self.doing else {
            return;
        };
        match world.replies.remove(&token) {
            None => {}
            Some(GroupReply::Join(reply)) if reply.error_code == ErrorCode::NONE => {
                // A leader takes all of `t` for itself.
                let all = BTreeMap::from([("t", (0..6).collect::<Vec<i32>>())]);
                let mut sync = sync_of(reply.generation_id, &reply.member_id, &[]);
                if reply.leader == reply.member_id {
                    sync.assignments = reply
                        .members
                        .into_iter()
                        .map(|member| SyncGroupRequestAssignment {
                            assignment: if member.member_id == reply.member_id {
                                subscription::encode_assignment(&all)
                            } else {
                                subscription::encode_assignment(&BTreeMap::new())
                            },
                            member_id: member.member_id,
                        })
                        .collect();
                }
                self.id = reply.member_id;
                self.generation = reply.generation_id;
                self.doing = Doing::Syncing(world.ask(GroupRequest::Sync(sync)));
                self.listen(world);
            }
            Some(GroupReply::Sync(reply)) if reply.error_code == ErrorCode::NONE => {
                self.owned = subscription::parse_assignment(&reply.assignment).expect("an assignment");
                self.doing = Doing::Stable;
            }
            Some(GroupReply::Join(reply)) => self.again(reply.error_code),
            Some(GroupReply::Sync(reply)) => self.again(reply.error_code),
            Some(other) => panic!("{other:?}"),
        }
    }

    fn again(&mut self, error: ErrorCode) {
        match error {
            ErrorCode::REBALANCE_IN_PROGRESS | ErrorCode::COORDINATOR_NOT_AVAILABLE => self.doing = Doing::ToJoin,
            _ => *self = ClassicClient::default(),
        }
    }
}

/// Clients, of which the last two are static, and what they own; two more are classic.
struct Drill {
    world: World,
    classics: [Option<ClassicClient>; 2],
    clients: Vec<Option<Client>>,
    started: usize,
    last_epoch: i32,
}

impl Drill {
    fn new() -> Self {
        let mut world = world();
        world.instant = false;
        Drill {
            world,
            classics: [None, None],
            clients: vec![None; 5],
            started: 0,
            last_epoch: 0,
        }
    }

    fn step(&mut self, step: &Step) {
        match *step {
            Step::Beat(n) => self.beat(n),
            Step::LoseAnswer(n) => {
                if let Some(client) = &mut self.clients[n] {
                    client.full |= client.waits.take().is_some();
                }
            }
            Step::Start(n) => {
                if self.clients[n].is_none() {
                    self.started += 1;
                    let mut client = Client::new(&format!("c{n}-{}", self.started), SUBSCRIPTIONS[n % 3]);
                    client.instance = (n >= 3).then(|| format!("instance-{n}"));
                    self.clients[n] = Some(client);
                }
            }
            Step::Crash(n) => self.clients[n] = None,
            Step::Leave(n) => {
                if let Some(mut client) = self.clients[n].take() {
                    if client.epoch > 0 {
                        client.leave(&mut self.world, if n >= 3 { LEFT_FOR_A_WHILE } else { -1 });
                    }
                }
            }
            Step::Classic(n, what) => match (what, &mut self.classics[n]) {
                (0, client) => *client = None,
                (1, client) => {
                    if let Some(gone) = client.take().filter(|client| !client.id.is_empty()) {
                        let members = vec![MemberIdentity {
                            member_id: gone.id,
                            ..MemberIdentity::default()
                        }];
                        let group_id = "g".into();
                        self.world.ask(GroupRequest::Leave(Leave { group_id, members }));
                    }
                }
                (_, Some(client)) => client.act(&mut self.world),
                (2 | 3, client) => *client = Some(ClassicClient::default()),
                _ => {}
            },
            Step::Subscribe(n, topics) => {
                if let Some(client) = &mut self.clients[n] {
                    client.topics = SUBSCRIPTIONS[topics].iter().map(|topic| topic.to_string()).collect();
                    client.full = true;
                }
            }
            Step::Topics(n) => {
                let topics: [&[(&str, u8, u32)]; 3] =
                    [&[("t", 7, 4), ("u", 8, 2)], &[("t", 7, 6), ("u", 8, 3)], &[("t", 7, 6)]];
                self.world.groups.set_image(image(topics[n]));
            }
            Step::Pass(ms) => self.world.pass(ms),
            Step::Store if !self.world.writes.is_empty() => self.world.store_next(),
            Step::Fail if !self.world.writes.is_empty() => self.world.fail_next(ErrorCode::COORDINATOR_NOT_AVAILABLE),
            Step::Store | Step::Fail => {}
            Step::FailOver(applied) => {
                for _ in 0..applied.min(self.world.writes.len()) {
                    self.world.apply_next();
                }
                let image = self.world.groups.image.clone();
                self.world.fail_over();
                self.world.groups.set_image(image);
                for client in self.clients.iter_mut().flatten() {
                    client.listen(&mut self.world);
                    client.full |= client.waits.take().is_some(); // The connection is gone.
                }
                for client in self.classics.iter_mut().flatten() {
                    client.listen(&mut self.world);
                    if matches!(client.doing, Doing::Joining(_) | Doing::Syncing(_)) {
                        client.doing = Doing::ToJoin;
                    }
                }
            }
        }
        for client in self.clients.iter_mut().flatten() {
            client.listen(&mut self.world);
        }
        for client in self.classics.iter_mut().flatten() {
            client.listen(&mut self.world);
        }
        self.check();
    }

    fn beat(&mut self, n: usize) {
        if let Some(client) = &mut self.clients[n] {
            if client.waits.is_none() {
                client.fenced = None;
                client.beat(&mut self.world);
            }
        }
    }

    fn check(&mut self) {
        let live = self.world.groups.stored();
        assert_eq!(
            live,
            self.world.recover().stored(),
            "what is stored is what the coordinator knows"
        );
        let Some((Some(StoredState::Consumer(state)), _)) = live.get("g") else {
            return;
        };
        assert!(
            state.epoch >= self.last_epoch && state.target_epoch <= state.epoch,
            "an epoch went back"
        );
        self.last_epoch = state.epoch;
        let mut owners: BTreeMap<(TopicId, i32), &String> = BTreeMap::new();
        for (id, member) in &state.members {
            for assignment in [&member.assigned, &member.revoking] {
                for (topic_id, partitions) in assignment {
                    for partition in partitions {
                        let other = owners.insert((*topic_id, *partition), id);
                        assert_eq!(other, None, "{topic_id} {partition} is with two members");
                    }
                }
            }
        }
        // What a live member consumes is its own: nobody else was given it.
        for client in self.clients.iter().flatten() {
            if !state.members.contains_key(&client.id) {
                continue; // Its session is over: it will hear so.
            }
            for (topic_id, partitions) in &client.owned {
                for partition in partitions {
                    let owner = owners.get(&(*topic_id, *partition));
                    assert!(
                        owner.is_none_or(|owner| **owner == client.id),
                        "{client:?} still consumes {partition}"
                    );
                }
            }
        }
        for client in self.classics.iter().flatten() {
            if !state.members.contains_key(&client.id) {
                continue;
            }
            // Topic `u` comes and goes under one id, which topics do not do.
            for partition in client.owned.get("t").into_iter().flatten() {
                let owner = owners.get(&(TOPIC, *partition));
                assert!(
                    owner.is_none_or(|owner| **owner == client.id),
                    "{client:?} still consumes {partition}"
                );
            }
        }
        let group = &self.world.groups.groups["g"];
        let next = group.next_deadline();
        assert!(group.armed <= next.or(group.armed), "a deadline is missed");
        let sessions: Vec<&String> = group.sessions.keys().collect();
        assert_eq!(
            sessions,
            state.members.keys().collect::<Vec<_>>(),
            "everybody has a session"
        );
    }

    /// Nothing fails any more: everybody gets to one epoch, and everything is assigned.
    fn heal(&mut self) {
        self.step(&Step::Topics(1));
        let classics = self.classics.iter().flatten().count();
        while !self.world.writes.is_empty() {
            self.step(&Step::Store);
        }
        self.world.instant = true;
        for _ in 0..20 {
            for n in 0..self.clients.len() {
                self.beat(n);
                self.check();
            }
            for client in self.classics.iter_mut().flatten() {
                client.act(&mut self.world);
            }
            self.step(&Step::Pass(INTERVAL_MS));
        }
        let alive: Vec<&Client> = self.clients.iter().flatten().collect();
        for client in self.classics.iter().flatten() {
            assert_eq!(client.doing, Doing::Stable, "{client:?} does not come to rest");
        }
        if alive.is_empty() {
            return;
        }
        let wanted = |topic: &str| {
            let mut clients = alive.iter();
            classics > 0 || clients.any(|client| client.topics.iter().any(|name| name == topic))
        };
        for (topic, id, partitions) in [("t", 7, 6), ("u", 8, 3)] {
            let mut owned: Vec<i32> = alive.iter().flat_map(|client| client.has(id)).collect();
            let classic = self
                .classics
                .iter()
                .flatten()
                .filter_map(|client| client.owned.get(topic));
            owned.extend(classic.flatten());
            owned.sort_unstable();
            let all: Vec<i32> = if wanted(topic) {
                (0..partitions).collect()
            } else {
                Vec::new()
            };
            assert_eq!(owned, all, "each partition with one member: {alive:#?}");
        }
        let group = described(&mut self.world);
        assert_eq!(
            (group.group_state.as_str(), group.members.len()),
            ("Stable", alive.len() + classics)
        );
        assert!(alive
            .iter()
            .all(|client| client.epoch == group.group_epoch && client.fenced.is_none()));
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]

    #[test]
    fn a_consumer_group_keeps_its_promises_and_comes_to_rest(steps in proptest::collection::vec(step(), 0..200)) {
        let mut drill = Drill::new();
        for step in &steps {
            drill.step(step);
        }
        drill.heal();
    }
}

#[test]
fn sessions_begin_anew_with_a_new_coordinator() {
    let mut world = world();
    let mut a = Client::new("a", &["t"]);
    a.beat(&mut world);
    world.pass(CONSUMER_SESSION_MS - 1);
    let image = world.groups.image.clone();
    world.fail_over();
    world.groups.set_image(image);
    world.pass(CONSUMER_SESSION_MS - 1);
    a.beat(&mut world);
    assert_eq!((a.fenced, a.epoch), (None, 2));
    world.pass(CONSUMER_SESSION_MS + 1);
    a.beat(&mut world);
    assert_eq!(a.fenced, Some(ErrorCode::UNKNOWN_MEMBER_ID));
}

#[test]
fn an_epoch_that_a_leaver_made_is_assigned_by_the_next_heartbeat_of_who_stays() {
    let mut world = world();
    let (mut a, mut b) = (Client::new("a", &["t"]), Client::new("b", &["t"]));
    for _ in 0..3 {
        round(&mut world, &mut [&mut a, &mut b]);
    }
    b.leave(&mut world, -1);
    let group = described(&mut world);
    assert_eq!((group.group_epoch, group.assignment_epoch), (4, 3), "as in Kafka");
    a.beat(&mut world);
    assert_eq!((a.epoch, a.has(7).len()), (4, 4));
}
