//! Conversations of several members, classic and KIP-848, each member with a connection of its own.
//!
//! A conversation is a script: joins, syncs, fencing, static members, rebalances, commits at wrong moments. Both brokers
//! hear the same; ids that they give out are learnt under aliases.

use super::report::Verdict;
use super::side::Names;
use super::Judge;
use bytes::Bytes;
use kafscale_codec::messages::*;
use kafscale_codec::testing::Sampler;

/// Version 0 of the consumers' own protocol: one topic, `grouped`, and no data of the user. Kafka reads it.
pub const SUBSCRIPTION: &[u8] = b"\0\0\0\0\0\x01\0\x07grouped\xff\xff\xff\xff";

/// Steps of a conversation that is drawn.
const STEPS: u64 = 25;

/// Members of a conversation that is drawn.
const MEMBERS: u64 = 3;

/// All conversations: the scripts once in each set of versions, then that many drawn ones of each protocol.
pub fn run(judge: &mut Judge, rounds: u64) {
    super::cases::until_coordinated(judge);
    judge.topic("grouped", 3, &[]);
    for (name, script) in SCRIPTS {
        for back in 0..4 {
            let group = format!("{name}-{back}");
            let mut talk = Talk {
                judge: &mut *judge,
                group,
                back,
                differs: false,
            };
            script(&mut talk);
        }
    }
    for round in 0..rounds * 40 {
        drawn_classic(judge, round);
        drawn_consumer(judge, round);
    }
}

type Script = (&'static str, fn(&mut Talk));

const SCRIPTS: &[Script] = &[
    ("lone-member", lone_member),
    ("two-members", two_members),
    ("static-members", static_members),
    ("strangers", strangers),
    ("inconsistent", inconsistent),
    ("consumers", consumers),
    ("static-consumers", static_consumers),
];

/// A group and the versions in which it is spoken to: the newest less `back`.
struct Talk<'a> {
    judge: &'a mut Judge,
    group: String,
    back: i16,
    /// Whether any answer differed: what follows would report the same fault again.
    differs: bool,
}

impl Talk<'_> {
    fn version<M: Message>(&self, from: i16) -> i16 {
        let versions = self.judge.versions::<M>();
        (versions.end() - self.back).max(from).max(*versions.start())
    }

    fn ask<M>(&mut self, label: &str, from: i16, request: impl Fn(&Names) -> M) -> super::Answers<M::Response>
    where
        M: Request + std::fmt::Debug + 'static,
        M::Response: std::fmt::Debug + Clone + 'static,
    {
        let (version, label) = (self.version::<M>(from), format!("{}: {label}", self.group));
        let answers = self.judge.ask(&label, version, request);
        self.differs |= answers.verdict != Verdict::Same;
        answers
    }

    fn join_request(&self, names: &Names, member: &str, instance: Option<&str>) -> JoinGroupRequest {
        JoinGroupRequest {
            group_id: self.group.clone(),
            session_timeout_ms: 30_000,
            rebalance_timeout_ms: 3_000,
            member_id: names.texts.get(member).cloned().unwrap_or_default(),
            group_instance_id: instance.map(str::to_string),
            protocol_type: "consumer".into(),
            protocols: vec![JoinGroupRequestProtocol {
                name: "range".into(),
                metadata: Bytes::from_static(SUBSCRIPTION),
            }],
            reason: None,
        }
    }

    /// Sends a join on the member's own connection.
    fn send_join(&mut self, member: &str, instance: Option<&str>) -> super::Asked<JoinGroupRequest> {
        let version = self.version::<JoinGroupRequest>(if instance.is_some() { 5 } else { 4 });
        let member = alias(&self.group, member);
        let (kafka, ours) = (self.judge.kafka.names.clone(), self.judge.ours.names.clone());
        let (kafka, ours) = (
            self.join_request(&kafka, &member, instance),
            self.join_request(&ours, &member, instance),
        );
        self.judge.send_each(&member, version, [kafka, ours])
    }

    /// Waits for its answer and learns the member's id.
    fn receive_join(&mut self, label: &str, member: &str, asked: super::Asked<JoinGroupRequest>) {
        let label = format!("{}: {label}", self.group);
        let answers = self.judge.receive(&label, asked);
        self.differs |= answers.verdict != Verdict::Same;
        let member = alias(&self.group, member);
        self.judge.learn(&answers, |answer, names| {
            if !answer.member_id.is_empty() {
                names.texts.insert(member.clone(), answer.member_id.clone());
            }
            names.numbers.insert(member.clone(), answer.generation_id.into());
        });
    }

    fn join(&mut self, label: &str, member: &str, instance: Option<&str>) {
        let asked = self.send_join(member, instance);
        self.receive_join(label, member, asked);
    }

    /// A member that is new: it is told its id first (KIP-394), unless it is static.
    fn introduce(&mut self, member: &str) {
        self.join("a new member", member, None);
    }

    fn sync(&mut self, label: &str, member: &str, assigned: &[&str]) {
        let (group, member) = (self.group.clone(), alias(&self.group, member));
        let assigned: Vec<String> = assigned.iter().map(|member| alias(&group, member)).collect();
        self.ask(label, 3, |names| SyncGroupRequest {
            group_id: group.clone(),
            generation_id: names.number(&member) as i32,
            member_id: names.text(&member),
            protocol_type: Some("consumer".into()),
            protocol_name: Some("range".into()),
            assignments: assigned
                .iter()
                .map(|member| SyncGroupRequestAssignment {
                    member_id: names.text(member),
                    assignment: Bytes::from_static(b"assignment"),
                })
                .collect(),
            ..Default::default()
        });
    }

    fn heartbeat(&mut self, label: &str, member: &str, generation: i64) {
        let (group, member) = (self.group.clone(), alias(&self.group, member));
        self.ask(label, 1, |names| HeartbeatRequest {
            group_id: group.clone(),
            generation_id: (names.number(&member) + generation) as i32,
            member_id: names.text(&member),
            ..Default::default()
        });
    }

    fn commit(&mut self, label: &str, member: Option<&str>, generation: i64) {
        let (group, member) = (self.group.clone(), member.map(|member| alias(&self.group, member)));
        self.ask(label, 2, |names| OffsetCommitRequest {
            group_id: group.clone(),
            generation_id_or_member_epoch: member
                .as_ref()
                .map_or(-1, |member| (names.number(member) + generation) as i32),
            member_id: member.as_ref().map(|member| names.text(member)).unwrap_or_default(),
            topics: vec![OffsetCommitRequestTopic {
                name: "grouped".into(),
                partitions: vec![OffsetCommitRequestPartition {
                    committed_offset: 7,
                    committed_metadata: Some(String::new()),
                    ..Default::default()
                }],
            }],
            ..Default::default()
        });
    }

    fn leave(&mut self, label: &str, member: &str, instance: Option<&str>) {
        let (group, member) = (self.group.clone(), alias(&self.group, member));
        self.ask(label, 3, |names| LeaveGroupRequest {
            group_id: group.clone(),
            members: vec![MemberIdentity {
                member_id: names.texts.get(&member).cloned().unwrap_or_default(),
                group_instance_id: instance.map(str::to_string),
                reason: None,
            }],
            ..Default::default()
        });
    }

    fn describe(&mut self, label: &str) {
        let group = self.group.clone();
        self.ask(label, 0, |_| DescribeGroupsRequest {
            groups: vec![group.clone()],
            ..Default::default()
        });
        self.ask(label, 0, |_| ConsumerGroupDescribeRequest {
            group_ids: vec![group.clone()],
            ..Default::default()
        });
    }

    fn delete(&mut self, label: &str) {
        let group = self.group.clone();
        self.ask(label, 0, |_| DeleteGroupsRequest {
            groups_names: vec![group.clone()],
        });
    }

    /// A heartbeat of the consumer protocol: the member's own epoch, or another.
    fn beat(
        &mut self,
        label: &str,
        member: &str,
        epoch: Option<i32>,
        change: impl Fn(&mut ConsumerGroupHeartbeatRequest),
    ) {
        let (group, member) = (self.group.clone(), alias(&self.group, member));
        let version = self.version::<ConsumerGroupHeartbeatRequest>(1);
        let label = format!("{group}: {label}");
        let answers = self.judge.ask(&label, version, |names| {
            let mut request = ConsumerGroupHeartbeatRequest {
                group_id: group.clone(),
                // From version 1 on members choose their ids.
                member_id: names.text(&member),
                member_epoch: epoch.unwrap_or(names.number(&member).max(0) as i32),
                rebalance_timeout_ms: -1,
                ..Default::default()
            };
            if epoch == Some(0) {
                request.rebalance_timeout_ms = 3_000;
                request.subscribed_topic_names = Some(vec!["grouped".into()]);
                request.topic_partitions = Some(Vec::new());
            }
            change(&mut request);
            request
        });
        self.differs |= answers.verdict != Verdict::Same;
        self.judge.learn(&answers, |answer, names| {
            if answer.error_code.0 == 0 {
                names
                    .texts
                    .insert(member.clone(), answer.member_id.clone().unwrap_or_default());
                names.numbers.insert(member.clone(), answer.member_epoch.into());
            }
        });
    }
}

fn alias(group: &str, member: &str) -> String {
    format!("{group}/{member}")
}

fn lone_member(talk: &mut Talk) {
    talk.describe("before anybody joined");
    talk.introduce("a");
    talk.describe("a pending member");
    talk.heartbeat("of a pending member", "a", 1);
    talk.join("with its id", "a", None);
    talk.heartbeat("before the sync", "a", 0);
    talk.commit("before the sync", Some("a"), 0);
    talk.describe("before the sync");
    talk.sync("of the leader", "a", &["a"]);
    talk.sync("again", "a", &[]);
    talk.heartbeat("of a member", "a", 0);
    talk.heartbeat("of a generation to come", "a", 1);
    talk.heartbeat("of a former generation", "a", -1);
    talk.commit("of a member", Some("a"), 0);
    talk.commit("of a former generation", Some("a"), -1);
    talk.commit("outside the group", None, 0);
    talk.describe("a stable group");
    talk.delete("a group with a member");
    talk.join("again", "a", None);
    talk.sync("after joining again", "a", &["a"]);
    talk.leave("a member", "a", None);
    talk.describe("an empty group");
    talk.commit("outside an empty group", None, 0);
    talk.heartbeat("after leaving", "a", 0);
    talk.leave("twice", "a", None);
    talk.delete("an empty group");
    talk.describe("a deleted group");
}

fn two_members(talk: &mut Talk) {
    talk.introduce("a");
    talk.join("first", "a", None);
    talk.sync("of the leader", "a", &["a"]);
    talk.introduce("b");
    let second = talk.send_join("b", None);
    std::thread::sleep(std::time::Duration::from_millis(100));
    talk.heartbeat("while another joins", "a", 0);
    talk.commit("while another joins", Some("a"), 0);
    talk.describe("while another joins");
    let first = talk.send_join("a", None);
    talk.receive_join("the leader again", "a", first);
    talk.receive_join("the second", "b", second);
    talk.sync("of the leader", "a", &["a", "b"]);
    talk.sync("of the second", "b", &[]);
    talk.heartbeat("of the second", "b", 0);
    talk.describe("two members");
    talk.leave("the leader", "a", None);
    talk.heartbeat("after the leader left", "b", 0);
    talk.join("alone", "b", None);
    talk.sync("alone", "b", &["b"]);
    talk.describe("one member");
    talk.leave("the last", "b", None);
    talk.describe("nobody");
}

fn static_members(talk: &mut Talk) {
    talk.join("a static member", "a", Some("one"));
    talk.sync("a static member", "a", &["a"]);
    talk.describe("a static member");
    talk.join("the same instance without its id", "b", Some("one"));
    talk.heartbeat("of the fenced one", "a", 0);
    talk.leave("another instance", "b", Some("two"));
    talk.leave("by instance alone", "nobody", Some("one"));
    talk.describe("after the removal");
    talk.leave("an unknown instance", "nobody", Some("three"));
}

fn strangers(talk: &mut Talk) {
    talk.heartbeat("of an unknown group", "x", 0);
    talk.sync("of an unknown group", "x", &[]);
    talk.leave("an unknown group", "x", None);
    talk.commit("of an unknown group", Some("x"), 2);
    talk.introduce("a");
    talk.join("with its id", "a", None);
    talk.sync("of the leader", "a", &["a"]);
    talk.heartbeat("of a stranger", "x", 0);
    talk.sync("of a stranger", "x", &[]);
    talk.leave("a stranger", "x", None);
    talk.commit("of a stranger", Some("x"), 2);
    talk.leave("the member", "a", None);
}

fn inconsistent(talk: &mut Talk) {
    let group = talk.group.clone();
    let base = talk.join_request(&Names::default(), "nobody", None);
    let cases: Vec<(&str, JoinGroupRequest)> = vec![
        (
            "no protocols",
            JoinGroupRequest {
                protocols: vec![],
                ..base.clone()
            },
        ),
        (
            "no protocol type",
            JoinGroupRequest {
                protocol_type: String::new(),
                ..base.clone()
            },
        ),
        (
            "too short a session",
            JoinGroupRequest {
                session_timeout_ms: 1,
                ..base.clone()
            },
        ),
        (
            "too long a session",
            JoinGroupRequest {
                session_timeout_ms: i32::MAX,
                ..base.clone()
            },
        ),
        (
            "negative session",
            JoinGroupRequest {
                session_timeout_ms: -1,
                ..base.clone()
            },
        ),
        (
            "no group",
            JoinGroupRequest {
                group_id: String::new(),
                ..base.clone()
            },
        ),
        (
            "an unknown id",
            JoinGroupRequest {
                member_id: "somebody".into(),
                ..base.clone()
            },
        ),
    ];
    for (label, request) in cases {
        talk.ask(label, 4, |_| request.clone());
    }
    talk.introduce("a");
    talk.join("a", "a", None);
    talk.sync("a", "a", &["a"]);
    let other = JoinGroupRequest {
        protocol_type: "connect".into(),
        ..base.clone()
    };
    talk.ask("another protocol type", 4, |_| other.clone());
    let mut other = base;
    other.protocols[0].name = "another".into();
    talk.ask("no common protocol", 4, |_| other.clone());
    let version = talk.version::<SyncGroupRequest>(5);
    for (kind, name) in [
        (Some("connect"), Some("range")),
        (Some("consumer"), Some("another")),
        (None, None),
    ] {
        let member = alias(&group, "a");
        talk.judge
            .ask(&format!("{group}: sync of {kind:?} {name:?}"), version, |names| {
                SyncGroupRequest {
                    group_id: group.clone(),
                    generation_id: names.number(&member) as i32,
                    member_id: names.text(&member),
                    protocol_type: kind.map(str::to_string),
                    protocol_name: name.map(str::to_string),
                    ..Default::default()
                }
            });
    }
    talk.leave("a", "a", None);
}

fn consumers(talk: &mut Talk) {
    let same = |_: &mut ConsumerGroupHeartbeatRequest| {};
    talk.beat("of an unknown group", "x", Some(5), same);
    talk.beat("joins", "a", Some(0), same);
    talk.describe("one consumer");
    talk.beat("again", "a", None, same);
    talk.beat("an epoch to come", "a", Some(99), same);
    talk.beat("joins again", "a", Some(0), same);
    talk.beat("another joins", "b", Some(0), same);
    talk.beat("the first", "a", None, same);
    talk.describe("two consumers");
    talk.commit("of a consumer", Some("a"), 0);
    talk.commit("of a wrong epoch", Some("a"), 7);
    talk.commit("of a stranger", Some("x"), 3);
    talk.commit("outside", None, 0);
    talk.beat("no topics", "b", None, |request| {
        request.subscribed_topic_names = Some(vec![])
    });
    talk.beat("an unknown topic", "b", None, |request| {
        request.subscribed_topic_names = Some(vec!["missing".into()])
    });
    talk.beat("an unknown assignor", "b", None, |request| {
        request.server_assignor = Some("none".into())
    });
    talk.beat("a bad pattern", "b", None, |request| {
        request.subscribed_topic_regex = Some("(".into())
    });
    talk.beat("a bad timeout", "b", Some(0), |request| {
        request.rebalance_timeout_ms = -1
    });
    talk.beat("no group", "b", Some(0), |request| request.group_id = String::new());
    talk.beat("no member id", "b", Some(0), |request| {
        request.member_id = String::new()
    });
    talk.beat("no subscription", "c", Some(0), |request| {
        request.subscribed_topic_names = None
    });
    talk.beat("owned at the join", "c", Some(0), |request| {
        request.topic_partitions = Some(vec![OwnedPartitions {
            topic_id: Default::default(),
            partitions: vec![0],
        }]);
    });
    talk.beat("epoch −3", "a", Some(-3), same);
    talk.beat("epoch −2 without an instance", "a", Some(-2), same);
    talk.beat("leaves", "a", Some(-1), same);
    talk.beat("after leaving", "a", Some(1), same);
    talk.beat("the other leaves", "b", Some(-1), same);
    talk.describe("nobody");
    talk.commit("outside an empty group", None, 0);
    talk.delete("an empty group");
}

fn static_consumers(talk: &mut Talk) {
    let one = |request: &mut ConsumerGroupHeartbeatRequest| request.instance_id = Some("one".into());
    talk.beat("joins", "a", Some(0), one);
    talk.beat("another with that instance", "b", Some(0), one);
    talk.beat("leaves for a while", "a", Some(-2), one);
    talk.beat("another comes for it", "b", Some(0), one);
    talk.beat("the former one", "a", None, one);
    talk.beat("leaves", "b", Some(-1), one);
    talk.describe("nobody");
}

/// A conversation of classic members with random steps. Nobody waits for others: each step is answered at once.
fn drawn_classic(judge: &mut Judge, round: u64) {
    let mut random = Sampler::new(round);
    let back = random.below(4) as i16;
    let mut talk = Talk {
        judge,
        group: format!("drawn-{round}"),
        back,
        differs: false,
    };
    talk.introduce("m0");
    for _ in 0..STEPS {
        if talk.differs {
            return;
        }
        let member = format!("m{}", random.below(MEMBERS));
        match random.below(10) {
            // Only the first member ever joins: others would have to wait for each other.
            0..=2 => talk.join("drawn", "m0", None),
            3 | 4 => talk.sync("drawn", "m0", &["m0"]),
            5 => talk.heartbeat("drawn", &member, random.below(3) as i64 - 1),
            6 => talk.commit("drawn", Some(&member), random.below(3) as i64 - 1),
            7 => talk.commit("drawn", None, 0),
            8 => talk.describe("drawn"),
            _ => {
                talk.leave("drawn", &member, None);
                if member == "m0" {
                    let alias = alias(&talk.group, "m0");
                    talk.judge.forget_text(&alias);
                    talk.introduce("m0");
                }
            }
        }
    }
}

/// The same in the consumer protocol.
fn drawn_consumer(judge: &mut Judge, round: u64) {
    let mut random = Sampler::new(round.wrapping_add(1 << 32));
    let mut talk = Talk {
        judge,
        group: format!("drawn-consumer-{round}"),
        back: 0,
        differs: false,
    };
    for _ in 0..STEPS {
        if talk.differs {
            // Tools list all groups: this one must not differ there, too.
            let members: Vec<String> = (0..MEMBERS).map(|at| alias(&talk.group, &format!("m{at}"))).collect();
            let group = talk.group.clone();
            talk.judge.end_consumers(&group, &members);
            return;
        }
        let member = format!("m{}", random.below(MEMBERS));
        let epoch = match random.below(8) {
            0 | 1 => Some(0),
            2 => Some(-1),
            3 => Some(random.below(6) as i32),
            _ => None,
        };
        match random.below(8) {
            0 => talk.commit("drawn", Some(&member), random.below(3) as i64 - 1),
            1 => talk.describe("drawn"),
            _ => talk.beat("drawn", &member, epoch, |_| {}),
        }
    }
}
