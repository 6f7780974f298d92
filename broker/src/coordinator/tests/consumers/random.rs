//! A group under whatever its members and its store do, drawn: it keeps its promises and comes to rest.

use super::*;
use proptest::prelude::*;

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
                    protocols: vec![("range".into(), super::super::subscription(&["t", "u"], ""))],
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
