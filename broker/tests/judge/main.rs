//! The judge: the same requests to Apache Kafka and to this broker, and every answer compared field by field.
//!
//! `make judge` runs it; it needs a Kafka (`KAFSCALE_JUDGE_KAFKA=host:port`), so it is ignored otherwise. Requests come
//! from a table of edge cases (`cases`), from the codec's declarations with a seed (`generated`), and from what real
//! clients have sent (`recorded`); groups are conversations of several members (`groups`). What cannot be equal is made
//! equal in `normal`; what differs on purpose is listed in `meant`, and everything else fails.

mod batches;
mod cases;
mod generated;
mod groups;
#[allow(dead_code)] // The reasons are for the documentation, which another test compares.
mod meant;
mod normal;
mod recorded;
mod report;
mod side;
#[path = "../../../codec/tests/differential/tree.rs"]
mod tree;

use kafscale_codec::api::{served, ApiKey};
use kafscale_codec::error_code::ErrorCode;
use kafscale_codec::messages::*;
use report::{Difference, Report, Verdict};
use side::{Names, Outcome, Side};
use std::any::Any;
use std::collections::BTreeMap;
use std::fmt::Debug;
use std::io::Read;
use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// How long a broker may take for what takes a moment.
const PATIENCE: Duration = Duration::from_secs(60);

/// What takes longer is printed: most requests are answered at once.
const SLOW: Duration = Duration::from_secs(2);

/// A pause between two looks.
const PAUSE: Duration = Duration::from_millis(20);

/// The first version of Produce that Kafka 4 serves (KIP-896).
const PRODUCE_SINCE: i16 = 3;

/// The connection that requests use unless they say otherwise.
const MAIN: &str = "main";

/// The connection that preparations use.
const CONTROL: &str = "control";

/// Two brokers and what was found.
pub struct Judge {
    kafka: Side,
    ours: Side,
    report: Report,
    versions: BTreeMap<ApiKey, (i16, i16)>,
    next_id: i32,
}

/// A request under way: on which connection, and with which ids.
pub struct Asked<M> {
    connection: String,
    version: i16,
    id: i32,
    request: M,
    answered: bool,
}

/// Both answers, where there are any.
pub struct Answers<M> {
    kafka: Option<M>,
    ours: Option<M>,
    /// How they compare.
    pub verdict: Verdict,
}

impl Judge {
    fn new(kafka: SocketAddr, ours: SocketAddr) -> Judge {
        let mut judge = Judge {
            kafka: Side::new(kafka),
            ours: Side::new(ours),
            report: Report::default(),
            versions: BTreeMap::new(),
            next_id: 0,
        };
        judge.versions = judge.common_versions();
        judge.learn_broker_ids();
        judge
    }

    /// Each side has one broker, with an id of its own.
    fn learn_broker_ids(&mut self) {
        let request = MetadataRequest {
            topics: Some(Vec::new()),
            ..Default::default()
        };
        for side in [&mut self.kafka, &mut self.ours] {
            side.send(CONTROL, &encoded(12, 0, &request));
            let Outcome::Answer(frame) = side.receive(CONTROL) else {
                panic!("Metadata is not answered");
            };
            let (_, answer) = decode_response::<MetadataResponse>(frame, 12).expect("Metadata can be read");
            let id = answer.brokers.first().expect("a broker").node_id;
            side.names.numbers.insert("broker".into(), id.into());
        }
    }

    /// What both serve.
    fn common_versions(&mut self) -> BTreeMap<ApiKey, (i16, i16)> {
        let request = ApiVersionsRequest::default();
        self.kafka.send(MAIN, &encoded(2, 0, &request));
        let Outcome::Answer(frame) = self.kafka.receive(MAIN) else {
            panic!("Kafka does not answer ApiVersions");
        };
        let (_, answer) = decode_response::<ApiVersionsResponse>(frame, 2).expect("Kafka's answer can be read");
        let common = answer.api_keys.iter().filter_map(|api| {
            let ours = served(ApiKey::from_key(api.api_key)?)?;
            // Kafka lists Produce from 0 on for the sake of old clients, and closes the connection on what it has dropped.
            let first = if ours.key == ApiKey::Produce {
                PRODUCE_SINCE
            } else {
                ours.min
            };
            let range = (api.min_version.max(first), api.max_version.min(ours.max));
            (range.0 <= range.1).then_some((ours.key, range))
        });
        common.collect()
    }

    /// The versions of a request that both serve.
    pub fn versions<M: Message>(&self) -> RangeInclusive<i16> {
        let (min, max) = self.versions.get(&M::API).copied().unwrap_or((1, 0));
        min..=max
    }

    /// The newest one.
    pub fn newest<M: Message>(&self) -> i16 {
        *self.versions::<M>().end()
    }

    /// Sends a request, as each side has to be asked, and does not wait.
    pub fn send<M: Request + 'static>(
        &mut self,
        connection: &str,
        version: i16,
        request: impl Fn(&Names) -> M,
    ) -> Asked<M> {
        let requests = [request(&self.kafka.names), request(&self.ours.names)];
        self.send_each(connection, version, requests)
    }

    /// Sends each side its own form of a request: Kafka's first.
    pub fn send_each<M: Request + 'static>(&mut self, connection: &str, version: i16, requests: [M; 2]) -> Asked<M> {
        self.next_id += 1;
        let id = self.next_id;
        // Without an answer the next one shows whether the connection is open.
        let answered = (&requests[0] as &dyn Any)
            .downcast_ref::<ProduceRequest>()
            .is_none_or(|produce| produce.acks != 0);
        for (side, request) in [&mut self.kafka, &mut self.ours].into_iter().zip(&requests) {
            let mut bytes = encoded(version, id, request);
            if !answered {
                bytes.extend(encoded(0, id, &ApiVersionsRequest::default()));
            }
            side.send(connection, &bytes);
        }
        let [request, _] = requests;
        Asked {
            connection: connection.to_string(),
            version,
            id,
            request,
            answered,
        }
    }

    /// Closes a connection on both sides; the next request opens another.
    pub fn forget(&mut self, connection: &str) {
        self.kafka.forget(connection);
        self.ours.forget(connection);
    }

    /// Deletes topics of a part that is over. Nothing is compared: the answers are those of the cases.
    pub fn delete_topics(&mut self, topics: impl Iterator<Item = String>) {
        let request = DeleteTopicsRequest {
            topic_names: topics.collect(),
            timeout_ms: 10_000,
            ..Default::default()
        };
        for side in [&mut self.kafka, &mut self.ours] {
            side.send(CONTROL, &encoded(5, 1, &request));
            side.receive(CONTROL);
        }
    }

    /// Has all members leave a group of the consumer protocol. Nothing is compared.
    pub fn end_consumers(&mut self, group: &str, members: &[String]) {
        for side in [&mut self.kafka, &mut self.ours] {
            for member in members {
                let leave = ConsumerGroupHeartbeatRequest {
                    group_id: group.to_string(),
                    member_id: side.names.text(member),
                    member_epoch: -1,
                    rebalance_timeout_ms: -1,
                    ..Default::default()
                };
                side.send(CONTROL, &encoded(1, 1, &leave));
                side.receive(CONTROL);
            }
        }
    }

    /// Forgets what an alias stands for.
    pub fn forget_text(&mut self, alias: &str) {
        self.kafka.names.texts.remove(alias);
        self.ours.names.texts.remove(alias);
    }

    /// Waits for both answers and compares them.
    pub fn receive<M>(&mut self, label: &str, asked: Asked<M>) -> Answers<M::Response>
    where
        M: Request + Debug + 'static,
        M::Response: Debug + Clone + 'static,
    {
        let Asked {
            connection,
            version,
            id,
            request,
            answered,
        } = asked;
        let since = Instant::now();
        let kafka = self.kafka.receive(&connection);
        let of_kafka = since.elapsed();
        let outcomes = [kafka, self.ours.receive(&connection)];
        if since.elapsed() > SLOW {
            println!(
                "slow: {label}: Kafka {of_kafka:?}, both {:?}: {request:?}",
                since.elapsed()
            );
        }
        if outcomes.iter().any(|outcome| !matches!(outcome, Outcome::Answer(_))) {
            self.kafka.forget(&connection);
            self.ours.forget(&connection);
        }
        let mut trees = Vec::new();
        let mut answers = Vec::new();
        for (side, outcome) in [&self.kafka, &self.ours].into_iter().zip(outcomes) {
            let (tree, answer) = match outcome {
                Outcome::Answer(_) if !answered => (Err("open".to_string()), None),
                Outcome::Answer(frame) => match decode_response::<M::Response>(frame.clone(), version) {
                    Ok((found, answer)) if found == id => {
                        (Ok(normal::normal(answer.clone(), &side.names)), Some(answer))
                    }
                    Ok((found, _)) => (Err(format!("an answer to request {found}, not {id}")), None),
                    Err(error) => (Err(format!("unreadable: {error}: {frame:?}")), None),
                },
                Outcome::Closed => (Err("closed".to_string()), None),
                Outcome::Silent => (Err("silent".to_string()), None),
            };
            trees.push(tree);
            answers.push(answer);
        }
        let api = M::API.name();
        let mut found = Vec::new();
        match (&trees[0], &trees[1]) {
            (Ok(kafka), Ok(ours)) => normal::differ("", kafka, ours, &mut found),
            (Err(kafka), Err(ours)) if kafka == ours => {}
            (kafka, ours) => {
                let fate = |tree: &Result<_, String>| tree.as_ref().err().cloned().unwrap_or("answered".into());
                found.push(("connection".into(), fate(kafka), fate(ours)));
            }
        }
        let differences = found
            .into_iter()
            .map(|(path, kafka, ours)| Difference { api, path, kafka, ours });
        let what = || format!("{label}: version {version} {request:?}");
        let verdict = self.report.note(api, &what, differences.collect());
        let ours = answers.pop().expect("two answers");
        let kafka = answers.pop().expect("two answers");
        Answers { kafka, ours, verdict }
    }

    /// Asks both and compares.
    pub fn ask<M>(&mut self, label: &str, version: i16, request: impl Fn(&Names) -> M) -> Answers<M::Response>
    where
        M: Request + Debug + 'static,
        M::Response: Debug + Clone + 'static,
    {
        let asked = self.send(MAIN, version, request);
        self.receive(label, asked)
    }

    /// Asks both in every version that both serve.
    pub fn ask_all<M>(&mut self, label: &str, request: impl Fn(&Names, i16) -> M)
    where
        M: Request + Debug + 'static,
        M::Response: Debug + Clone + 'static,
    {
        for version in self.versions::<M>() {
            self.ask(label, version, |names| request(names, version));
        }
    }

    /// Notes how each side calls what its answer names.
    pub fn learn<M>(&mut self, answers: &Answers<M>, learn: impl Fn(&M, &mut Names)) {
        if let Some(answer) = &answers.kafka {
            learn(answer, &mut self.kafka.names);
        }
        if let Some(answer) = &answers.ours {
            learn(answer, &mut self.ours.names);
        }
    }

    /// Creates a topic on both sides, and waits until all its partitions have leaders.
    pub fn topic(&mut self, name: &str, partitions: i32, configs: &[(&str, &str)]) {
        let request = cases::create_topic(name, partitions, configs);
        let version = self.newest::<CreateTopicsRequest>();
        self.ask("prepare", version, |_| request.clone());
        self.await_topic(name, partitions);
    }

    /// Waits until the topic has leaders on both sides, and learns its ids.
    pub fn await_topic(&mut self, name: &str, partitions: i32) {
        for (which, side) in [("Kafka", &mut self.kafka), ("this broker", &mut self.ours)] {
            let until = Instant::now() + PATIENCE;
            loop {
                assert!(Instant::now() < until, "{which}: no leaders for {name}");
                if led(side, name, partitions) {
                    break;
                }
                std::thread::sleep(PAUSE);
            }
        }
    }
}

/// Whether all partitions have leaders that answer.
fn led(side: &mut Side, name: &str, partitions: i32) -> bool {
    let mut call = |bytes: Vec<u8>| {
        side.send(CONTROL, &bytes);
        match side.receive(CONTROL) {
            Outcome::Answer(frame) => Some(frame),
            _ => None,
        }
    };
    let metadata = MetadataRequest {
        topics: Some(vec![MetadataRequestTopic {
            name: Some(name.into()),
            ..Default::default()
        }]),
        ..Default::default()
    };
    let metadata = MetadataRequest {
        allow_auto_topic_creation: false,
        ..metadata
    };
    let Some(frame) = call(encoded(12, 1, &metadata)) else {
        return false;
    };
    let answer: MetadataResponse = decode_response(frame, 12).expect("Metadata can be read").1;
    let topic = &answer.topics[0];
    let id = topic.topic_id;
    if topic.error_code != ErrorCode::NONE || topic.partitions.len() != partitions as usize {
        return false;
    }
    let offsets = ListOffsetsRequest {
        topics: vec![ListOffsetsTopic {
            name: name.into(),
            partitions: (0..partitions)
                .map(|partition_index| ListOffsetsPartition {
                    partition_index,
                    timestamp: -1,
                    ..Default::default()
                })
                .collect(),
        }],
        ..Default::default()
    };
    let Some(frame) = call(encoded(6, 2, &offsets)) else {
        return false;
    };
    let answer: ListOffsetsResponse = decode_response(frame, 6).expect("ListOffsets can be read").1;
    let ready = answer.topics.iter().flat_map(|topic| &topic.partitions);
    let ready = ready.clone().all(|partition| partition.error_code == ErrorCode::NONE);
    side.names.topics.insert(name.to_string(), id);
    ready
}

fn encoded<M: Request>(version: i16, id: i32, request: &M) -> Vec<u8> {
    encode_request(version, id, Some("judge"), request)
        .unwrap_or_else(|error| panic!("{:?} {version}: {error}", M::API))
        .concat()
}

/// Our broker, killed when this is dropped.
struct Broker {
    process: Child,
    address: SocketAddr,
}

impl Broker {
    fn start(directory: &Path) -> Broker {
        let log = directory.join("log");
        let file = std::fs::File::create(&log).expect("a log can be made");
        // Another build, to see what a change has mended.
        let binary = std::env::var("KAFSCALE_JUDGE_BROKER").unwrap_or(env!("CARGO_BIN_EXE_kafscale-broker").into());
        let mut command = Command::new(binary);
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("KAFSCALE_") {
                command.env_remove(name);
            }
        }
        let process = command
            .args([
                "--broker-addr",
                "127.0.0.1:0",
                "--metrics-addr",
                "127.0.0.1:0",
                "--shards",
                "2",
                "--data-dir",
            ])
            .arg(directory.join("data"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(file)
            .spawn()
            .expect("the binary runs");
        let mut broker = Broker {
            process,
            address: ([127, 0, 0, 1], 0).into(),
        };
        let until = Instant::now() + PATIENCE;
        loop {
            let mut text = String::new();
            let mut file = std::fs::File::open(&log).expect("the log is there");
            file.read_to_string(&mut text).expect("the log is text");
            let address = text.lines().find_map(|line| line.split_once("broker listening on "));
            if let Some((_, address)) = address {
                broker.address = address.trim().parse().expect("an address");
                return broker;
            }
            assert!(Instant::now() < until, "the broker does not serve: {text}");
            std::thread::sleep(PAUSE);
        }
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// The number in a variable, or another.
fn variable(name: &str, otherwise: u64) -> u64 {
    match std::env::var(name) {
        Ok(text) => text.parse().unwrap_or_else(|_| panic!("{name}={text} is no number")),
        Err(_) => otherwise,
    }
}

#[test]
#[ignore = "needs an Apache Kafka: make judge"]
fn every_answer_is_kafkas() {
    let kafka = std::env::var("KAFSCALE_JUDGE_KAFKA").expect("KAFSCALE_JUDGE_KAFKA is the address of a Kafka");
    let only = std::env::var("KAFSCALE_JUDGE_ONLY").ok();
    let wanted = |part: &str| {
        only.as_ref()
            .is_none_or(|only| only.split(',').any(|name| name == part))
    };
    let directory = tempfile::tempdir().expect("a temporary directory");
    let broker = Broker::start(directory.path());
    let mut judge = Judge::new(kafka.parse().expect("host:port"), broker.address);
    let started = Instant::now();
    let mut step = |name: &str, run: &mut dyn FnMut(&mut Judge)| {
        if wanted(name) {
            let from = Instant::now();
            run(&mut judge);
            println!("{name}: {:.1} s", from.elapsed().as_secs_f64());
        }
    };
    step("cases", &mut cases::run);
    step("groups", &mut |judge| {
        groups::run(judge, variable("KAFSCALE_JUDGE_ROUNDS", 1))
    });
    step("recorded", &mut recorded::run);
    step("generated", &mut |judge| {
        generated::run(
            judge,
            variable("KAFSCALE_JUDGE_FIRST", 1),
            variable("KAFSCALE_JUDGE_SEEDS", 10),
        );
    });
    println!("{:.1} s in all", started.elapsed().as_secs_f64());
    let failing = judge.report.print();
    if only.is_none() {
        assert_eq!(failing, 0, "differences from Apache Kafka that nobody has decided on");
    }
}
