//! Members come, go and crash, writes fail, the coordinator dies: in any order, and some things always hold.

use super::*;
use proptest::prelude::*;
use std::collections::BTreeMap;

const PARTITIONS: i32 = 3;

#[derive(Debug, Clone, Default, PartialEq)]
enum Doing {
    #[default]
    Gone,
    ToJoin,
    Joining(ReplyToken),
    ToSync,
    Syncing(ReplyToken),
    Stable,
}

/// What a client library does, and no more.
#[derive(Debug, Clone, Default)]
struct Client {
    instance: Option<String>,
    doing: Doing,
    member_id: String,
    generation: i32,
    /// Whom to assign to, if it leads: member id and instance id.
    to_assign: Vec<(String, Option<String>)>,
    assignment: String,
}

#[derive(Debug, Clone)]
enum Step {
    Act(usize),
    Rejoin(usize),
    Crash(usize),
    Start(usize),
    Leave(usize),
    Heartbeat(usize),
    Commit(usize),
    Pass(u64),
    Store,
    Fail,
    /// The coordinator dies; this many of the writes on their way had reached the store.
    FailOver(usize),
}

fn step() -> impl Strategy<Value = Step> {
    let client = || 0..5usize;
    prop_oneof![
        12 => client().prop_map(Step::Act),
        1 => client().prop_map(Step::Rejoin),
        1 => client().prop_map(Step::Crash),
        4 => client().prop_map(Step::Start),
        1 => client().prop_map(Step::Leave),
        3 => client().prop_map(Step::Heartbeat),
        3 => client().prop_map(Step::Commit),
        2 => (0..3_000u64).prop_map(Step::Pass),
        1 => (0..40_000u64).prop_map(Step::Pass),
        10 => Just(Step::Store),
        1 => Just(Step::Fail),
        1 => (0..4usize).prop_map(Step::FailOver),
    ]
}

struct Drill {
    world: World,
    clients: Vec<Client>,
    commits: Vec<(ReplyToken, i32, i64)>,
    acknowledged: BTreeMap<i32, i64>,
    last_offset: i64,
    last_generation: i32,
    /// Whose assignment a generation has: never two.
    assigned_by: BTreeMap<i32, String>,
}

impl Drill {
    fn new() -> Self {
        let mut world = World::with(GroupConfig {
            initial_rebalance_delay_ms: 500,
            ..GroupConfig::default()
        });
        world.instant = false;
        let client = |n: usize| Client {
            instance: (n >= 3).then(|| format!("instance-{n}")),
            ..Client::default()
        };
        Drill {
            world,
            clients: (0..5).map(client).collect(),
            commits: Vec::new(),
            acknowledged: BTreeMap::new(),
            last_offset: 0,
            last_generation: 0,
            assigned_by: BTreeMap::new(),
        }
    }

    fn step(&mut self, step: &Step) {
        match *step {
            Step::Act(n) => self.act(n),
            Step::Rejoin(n) => {
                if self.clients[n].doing == Doing::Stable {
                    self.clients[n].doing = Doing::ToJoin;
                }
            }
            Step::Crash(n) => self.forget(n, Doing::Gone),
            Step::Start(n) => {
                if self.clients[n].doing == Doing::Gone {
                    self.forget(n, Doing::ToJoin);
                }
            }
            Step::Leave(n) => {
                let client = self.clients[n].clone();
                self.world.ask(GroupRequest::Leave(Leave {
                    group_id: "g".into(),
                    members: vec![MemberIdentity {
                        member_id: client.member_id,
                        group_instance_id: client.instance,
                        reason: None,
                    }],
                }));
                self.forget(n, Doing::Gone);
            }
            Step::Heartbeat(n) => self.heartbeat(n),
            Step::Commit(n) => self.commit(n),
            Step::Pass(ms) => self.world.pass(ms),
            Step::Store if !self.world.writes.is_empty() => self.world.store_next(),
            Step::Fail if !self.world.writes.is_empty() => self.world.fail_next(ErrorCode::COORDINATOR_NOT_AVAILABLE),
            Step::Store | Step::Fail => {}
            Step::FailOver(applied) => self.fail_over(applied),
        }
        self.listen();
        self.check();
    }

    fn forget(&mut self, n: usize, doing: Doing) {
        let instance = self.clients[n].instance.clone();
        self.clients[n] = Client {
            instance,
            doing,
            ..Client::default()
        };
    }

    fn act(&mut self, n: usize) {
        let client = self.clients[n].clone();
        match client.doing {
            Doing::ToJoin => {
                let join = Join {
                    member_id: client.member_id,
                    group_instance_id: client.instance,
                    require_known_member_id: n.is_multiple_of(2),
                    supports_skip_assignment: n == 4,
                    ..self.world.new_join("c")
                };
                let token = self.world.join_as(join);
                self.clients[n].doing = Doing::Joining(token);
            }
            Doing::ToSync => {
                let given = client.to_assign.iter().map(|(member, instance)| {
                    let whose = instance.as_ref().unwrap_or(member);
                    (
                        member.clone(),
                        format!("{} {} {whose}", client.generation, client.member_id),
                    )
                });
                let given: Vec<(String, String)> = given.collect();
                let given: Vec<(&str, &str)> = given.iter().map(|(id, bytes)| (id.as_str(), bytes.as_str())).collect();
                let token = self.world.sync(client.generation, &client.member_id, &given);
                self.clients[n].doing = Doing::Syncing(token);
            }
            Doing::Stable => self.heartbeat(n),
            Doing::Gone | Doing::Joining(_) | Doing::Syncing(_) => {}
        }
    }

    fn heartbeat(&mut self, n: usize) {
        let client = self.clients[n].clone();
        if !matches!(client.doing, Doing::Stable | Doing::ToSync) {
            return;
        }
        let error = self
            .world
            .heartbeat_as(client.generation, &client.member_id, client.instance.as_deref());
        if error == ErrorCode::REBALANCE_IN_PROGRESS {
            self.clients[n].doing = Doing::ToJoin;
        } else if error != ErrorCode::NONE {
            self.start_over(n, error);
        }
    }

    fn start_over(&mut self, n: usize, error: ErrorCode) {
        let fenced = error == ErrorCode::FENCED_INSTANCE_ID;
        if fenced || matches!(error, ErrorCode::UNKNOWN_MEMBER_ID | ErrorCode::ILLEGAL_GENERATION) {
            self.forget(n, Doing::ToJoin);
        } else {
            self.clients[n].doing = Doing::ToJoin;
        }
    }

    fn commit(&mut self, n: usize) {
        let client = self.clients[n].clone();
        if client.doing != Doing::Stable {
            return;
        }
        self.last_offset += 1;
        let partition = self.last_offset as i32 % PARTITIONS;
        let commit = Commit {
            group_instance_id: client.instance,
            ..commit_of(client.generation, &client.member_id, &[(partition, self.last_offset)])
        };
        let token = self.world.ask(GroupRequest::Commit(commit));
        self.commits.push((token, partition, self.last_offset));
    }

    fn fail_over(&mut self, applied: usize) {
        for _ in 0..applied.min(self.world.writes.len()) {
            self.world.apply_next();
        }
        self.world.fail_over();
        self.commits
            .retain(|(token, ..)| self.world.replies.contains_key(token));
        for n in 0..self.clients.len() {
            if let Doing::Joining(token) | Doing::Syncing(token) = self.clients[n].doing {
                if !self.world.answered(token) {
                    self.clients[n].doing = Doing::ToJoin; // The connection is gone.
                }
            }
        }
    }

    /// Clients take the answers that have come.
    fn listen(&mut self) {
        for n in 0..self.clients.len() {
            let (Doing::Joining(token) | Doing::Syncing(token)) = self.clients[n].doing else {
                continue;
            };
            match self.world.replies.remove(&token) {
                Some(GroupReply::Join(reply)) => self.joined(n, reply),
                Some(GroupReply::Sync(reply)) => self.synced(n, reply),
                Some(other) => panic!("{other:?}"),
                None => {}
            }
        }
        for (token, partition, offset) in std::mem::take(&mut self.commits) {
            match self.world.replies.remove(&token) {
                Some(GroupReply::Commit(codes)) if codes == [ErrorCode::NONE] => {
                    self.acknowledged.insert(partition, offset);
                }
                Some(_) => {}
                None => self.commits.push((token, partition, offset)),
            }
        }
    }

    fn joined(&mut self, n: usize, reply: JoinGroupResponse) {
        match reply.error_code {
            ErrorCode::NONE => {
                let client = &mut self.clients[n];
                let assigns = reply.leader == reply.member_id && !reply.skip_assignment;
                assert!(assigns || reply.skip_assignment || reply.members.is_empty());
                client.member_id = reply.member_id;
                client.generation = reply.generation_id;
                let members = reply.members.into_iter().filter(|_| assigns);
                client.to_assign = members
                    .map(|member| (member.member_id, member.group_instance_id))
                    .collect();
                client.doing = Doing::ToSync;
            }
            ErrorCode::MEMBER_ID_REQUIRED => {
                self.clients[n].member_id = reply.member_id;
                self.clients[n].doing = Doing::ToJoin;
            }
            error => self.start_over(n, error),
        }
    }

    fn synced(&mut self, n: usize, reply: SyncGroupResponse) {
        if reply.error_code != ErrorCode::NONE {
            self.start_over(n, reply.error_code);
            return;
        }
        let text = String::from_utf8(reply.assignment.to_vec()).expect("ours");
        let parts: Vec<&str> = text.split(' ').collect();
        let client = &mut self.clients[n];
        let [generation, leader, whose] = parts[..] else {
            panic!("assigned nothing: {text:?}")
        };
        assert_eq!(generation, client.generation.to_string(), "bytes of another generation");
        assert_eq!(
            whose,
            client.instance.as_ref().unwrap_or(&client.member_id),
            "somebody else's bytes"
        );
        let assigner = self
            .assigned_by
            .entry(client.generation)
            .or_insert_with(|| leader.to_string());
        assert_eq!(assigner, leader, "two assignments in one generation");
        client.assignment = text;
        client.doing = Doing::Stable;
    }

    fn check(&mut self) {
        let live = self.world.groups.stored();
        assert_eq!(
            live,
            self.world.recover().stored(),
            "what is stored is what the coordinator knows"
        );
        if let Some((state, offsets)) = live.get("g") {
            let generation = state.as_ref().map_or(0, |state| match state {
                StoredState::Classic(state) => state.generation,
                StoredState::Consumer(state) => state.epoch,
            });
            assert!(generation >= self.last_generation, "a generation went back");
            self.last_generation = generation;
            for (partition, acknowledged) in &self.acknowledged {
                let stored = offsets.get(&(TOPIC, *partition)).map(|offset| offset.offset);
                assert!(
                    stored >= Some(*acknowledged),
                    "a commit was lost: {stored:?} < {acknowledged}"
                );
            }
        } else {
            assert!(self.acknowledged.is_empty(), "commits were lost");
        }
        let group = self.world.groups.groups.get("g");
        assert!(
            group.is_none_or(|group| group.armed <= group.next_deadline().or(group.armed)),
            "a deadline is missed"
        );
    }

    fn at_rest(&self) -> bool {
        let alive = self.clients.iter().filter(|client| client.doing != Doing::Gone);
        let group = self.world.groups.groups.get("g");
        let (members, pending) = group.map_or((0, 0), |group| (group.members.len(), group.pending.len()));
        pending == 0 && members == alive.clone().count() && alive.clone().all(|client| client.doing == Doing::Stable)
    }

    /// Nothing fails any more, and whoever lives goes on: the group comes to rest.
    fn heal(&mut self) {
        while !self.world.writes.is_empty() {
            self.step(&Step::Store);
        }
        self.world.instant = true;
        for _ in 0..800 {
            for n in 0..self.clients.len() {
                self.act(n);
                self.listen();
            }
            self.step(&Step::Pass(500));
            if self.at_rest() {
                break;
            }
        }
        // At rest means that nothing goes on by itself.
        for _ in 0..60 {
            (0..self.clients.len()).for_each(|n| self.act(n));
            self.step(&Step::Pass(500));
        }
        let alive: Vec<&Client> = self
            .clients
            .iter()
            .filter(|client| client.doing != Doing::Gone)
            .collect();
        for client in &alive {
            assert_eq!(client.doing, Doing::Stable, "{client:?} does not come to rest");
            assert_eq!(client.generation, self.last_generation);
        }
        let state = self.world.state();
        let expected: &[&str] = if alive.is_empty() {
            &["Empty", "Dead"]
        } else {
            &["Stable"]
        };
        assert!(expected.contains(&state.as_str()), "{state}");
        if let Some(group) = self.world.groups.groups.get("g") {
            assert_eq!(group.members.len(), alive.len());
            assert!(group.pending.is_empty() && group.deferred.is_empty() && group.in_flight == 0);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]

    #[test]
    fn a_group_keeps_its_promises_and_comes_to_rest(steps in proptest::collection::vec(step(), 0..200)) {
        let mut drill = Drill::new();
        for step in &steps {
            drill.step(step);
        }
        drill.heal();
    }
}

#[test]
fn the_drill_exercises_what_it_is_about() {
    let mut drill = Drill::new();
    for n in 0..5 {
        drill.step(&Step::Start(n));
    }
    drill.heal();
    assert_eq!(
        drill.assigned_by.len(),
        1,
        "five members that start together take one generation"
    );
    drill.step(&Step::Commit(0));
    assert_eq!(drill.acknowledged.len(), 1);
}
