//! The consumer protocol (KIP-848): members that behave as its specification says they do, and some that do not.

use super::super::consumer::{Assignment, LEFT_FOR_A_WHILE};
use super::*;
use crate::cluster::image::TopicImage;
use kafscale_codec::messages::{
    ConsumerGroupHeartbeatRequest, ConsumerGroupHeartbeatResponse, DescribedConsumerGroup, OwnedPartitions,
};
use kafscale_metastore::keys::TopicRecord;

mod protocols;
mod random;

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
