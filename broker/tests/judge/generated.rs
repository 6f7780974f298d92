//! Requests from the codec's declarations: every field drawn with a seed, from values that mean something where there are
//! such. The same draws make the request of both sides, each with its own ids.
//!
//! A seed has topics, groups and a connection of its own, and ends at its first difference: what follows would be asked of
//! two brokers that are no longer alike, and would report the same fault again.

use super::batches;
use super::cases::{records_are_alike, settle};
use super::report::Verdict;
use super::side::Names;
use super::Judge;
use bytes::Bytes;
use kafscale_codec::api::ApiKey;
use kafscale_codec::messages::*;
use kafscale_codec::testing::{Sample, Sampler, Vocabulary};
use kafscale_codec::types::TopicId;
use kafscale_codec::wire::Form;
use std::any::Any;
use std::collections::BTreeSet;
use std::fmt::Debug;
use std::sync::Arc;

/// Requests of one seed, if nothing differs.
const REQUESTS: u64 = 60;

/// Of how many partitions the topics of a seed are.
const PARTITIONS: i32 = 2;

/// APIs whose requests change what is stored: after a difference that is meant, the two brokers are not alike any more.
const CHANGING: &[ApiKey] = &[
    ApiKey::Produce,
    ApiKey::DeleteRecords,
    ApiKey::OffsetCommit,
    ApiKey::OffsetDelete,
    ApiKey::DeleteGroups,
    ApiKey::AlterConfigs,
    ApiKey::IncrementalAlterConfigs,
];

/// What a request of a seed is about.
#[derive(Debug)]
struct Words {
    api: ApiKey,
    topics: Vec<String>,
    ids: Vec<TopicId>,
    groups: Vec<String>,
    producer: i64,
    broker: i64,
}

fn pick<T: Clone>(from: &[T], draw: u64) -> Option<T> {
    let at = (draw % from.len() as u64) as usize;
    from.get(at).cloned()
}

impl Vocabulary for Words {
    fn integer(&self, field: &str, draw: u64) -> Option<i64> {
        let from: &[i64] = match field {
            "max_wait_ms" => &[0, 0, 1, 20],
            "timeout_ms" | "transaction_timeout_ms" => &[1000, 5000, 30_000],
            "acks" => &[-1, -1, 1, 0, 2],
            "partition_index" if self.api == ApiKey::CreateTopics => &[0, 0, 1, 1, 2, -1],
            "broker_ids" => return pick(&[self.broker, self.broker, self.broker, 77, -1], draw),
            "num_partitions" => &[-1, -1, 0, 1, 2, -2],
            "replication_factor" => &[-1, -1, 1, 0, -2],
            "count" => &[-1, 0, 1, 2, 3, 3, 4],
            "session_timeout_ms" => &[30_000, 30_000, 6_000, 1, -1, i32::MAX as i64],
            "rebalance_timeout_ms" => &[1_000, 1_000, -1, 0],
            "partition_index" | "partition" | "index" | "partition_indexes" | "partitions" => &[0, 0, 0, 1, 1, 2, -1],
            "timestamp" => &[batches::TIME, batches::TIME + 1, -1, -2, -3, -4, -5, -6, 0, i64::MAX],
            "fetch_offset" => &[0, 0, 1, 2, 3, 5, 10, 1000, -1],
            "offset" => &[0, 1, 2, -1, 1000],
            "committed_offset" => &[0, 1, 5, -1, i64::MAX],
            "partition_max_bytes" | "max_bytes" => &[1 << 20, 1 << 20, 100, 1, 0],
            "min_bytes" => &[0, 1, 1, 1000],
            // None that either broker has given out.
            "session_id" => &[0, 0, 0, -1, 2_000_000_000],
            "session_epoch" => &[0, 0, 0, -1, 1],
            "replica_id" => &[-1, -1, -1, -2, 1],
            "replica_epoch" => &[-1],
            "current_leader_epoch" | "last_fetched_epoch" => &[-1, -1, -1, 1_000_000],
            "leader_epoch" | "committed_leader_epoch" => &[-1, -1, 1_000_000],
            "generation_id" | "generation_id_or_member_epoch" | "member_epoch" => &[-1, -1, 0, 1],
            "producer_id" => return pick(&[-1, -1, self.producer], draw),
            "producer_epoch" => &[-1, 0, 1],
            "resource_type" => &[2, 2, 2, 8, 16, 0, 64],
            "config_operation" => &[0, 1, 2, 3, 4],
            "key_type" => &[0, 0, 2],
            "isolation_level" => &[0, 0, 1, 2],
            "endpoint_type" => &[1, 1, 2],
            "match_type" => &[0, 1, 2],
            "response_partition_limit" => &[2000, 1, 2, 3],
            "max_num_offsets" => &[1],
            // Kafka creates a topic that it is asked for a moment later.
            "allow_auto_topic_creation" => &[0],
            "validate_only" => &[0, 0, 0, 1],
            _ => return None,
        };
        pick(from, draw)
    }

    fn text(&self, field: &str, draw: u64) -> Option<String> {
        let from: &[&str] = match field {
            "name" if self.api == ApiKey::JoinGroup => &["range", "range", "other", ""],
            "protocol_type" => &["consumer", "consumer", "connect", ""],
            "protocol_name" => &["range", "other"],
            "server_assignor" => &["uniform", "range", "none", ""],
            "subscribed_topic_names" => return pick(&self.topics, draw),
            "subscribed_topic_regex" => &["a.*", "generated-.*", "(", ""],
            "name" if !draw.is_multiple_of(3) && self.is_setting() => {
                &["retention.ms", "cleanup.policy", "no.such", "segment.ms"]
            }
            "name" | "topic" | "topic_name" | "resource_name" | "topic_names" => return pick(&self.topics, draw),
            "group_id" | "groups" | "group_ids" | "groups_names" | "key" | "coordinator_keys" => {
                return pick(&self.groups, draw)
            }
            "member_id" | "reason" => &["", "", "somebody"],
            "group_instance_id" | "instance_id" => &["static"],
            "configuration_keys" => &["retention.ms", "cleanup.policy", "no.such"],
            "value" => &["delete", "1000", "-1", "true", ""],
            "states_filter" => &["Empty", "Stable", "x"],
            "types_filter" => &["classic", "consumer", "x"],
            "state_filters" => &["Ongoing", "x"],
            "entity_type" => &["user", "client-id", "ip", "x"],
            "client_software_name" | "client_software_version" => &["judge", "1.0", "", "a b"],
            "transactional_id_pattern" => &["a.*", ""],
            // Transactions are not served.
            "transactional_id" => return None,
            _ => return None,
        };
        pick(from, draw).map(str::to_string)
    }

    fn topic_id(&self, field: &str, draw: u64) -> Option<TopicId> {
        match field {
            "topic_id" => pick(&self.ids, draw),
            _ => Some(TopicId::ZERO),
        }
    }

    fn bytes(&self, field: &str, draw: u64) -> Option<Bytes> {
        match field {
            "records" => Some(batches::drawn(draw, self.producer)),
            "metadata" => Some(Bytes::from_static(super::groups::SUBSCRIPTION)),
            _ => None,
        }
    }
}

impl Words {
    fn new(api: ApiKey, names: &Names, seed: u64, draw: u64) -> Words {
        let mut topics: Vec<String> = (0..4).map(|at| topic_of(seed, at % 2)).collect();
        topics.extend(["missing", "a/b"].map(str::to_string));
        let mut groups = vec![format!("g-{seed}"), format!("h-{seed}"), String::new()];
        match api {
            // Who joins a group that others are in would wait for them.
            ApiKey::JoinGroup | ApiKey::ConsumerGroupHeartbeat => {
                groups = vec![
                    format!("alone-{draw:016x}"),
                    format!("alone-{draw:016x}"),
                    String::new(),
                ];
            }
            ApiKey::CreateTopics | ApiKey::DeleteTopics => {
                topics = vec![format!("new-{draw:016x}"), "missing".into(), "a/b".into()];
            }
            _ => {}
        }
        Words {
            api,
            ids: topics.iter().map(|topic| names.topic(topic)).collect(),
            topics,
            groups,
            producer: names.number("generated"),
            broker: names.number("broker"),
        }
    }

    /// Whether `name` may be that of a setting.
    fn is_setting(&self) -> bool {
        matches!(
            self.api,
            ApiKey::AlterConfigs | ApiKey::IncrementalAlterConfigs | ApiKey::CreateTopics
        )
    }
}

fn topic_of(seed: u64, at: u64) -> String {
    format!("generated-{seed}-{at}")
}

/// What is not asked at random: transactions, which are not served, and null records, on which Kafka's handler fails
/// without an answer.
fn leave_out(request: &mut dyn Any) {
    if let Some(produce) = request.downcast_mut::<ProduceRequest>() {
        produce.transactional_id = None;
        // Kafka may report an error of one batch for a partition and store the other. A hand-made case has two sound ones.
        let mut seen = BTreeSet::new();
        for topic in &mut produce.topic_data {
            let name = (topic.name.clone(), topic.topic_id.0);
            let data = &mut topic.partition_data;
            data.retain(|partition| seen.insert((name.clone(), partition.index)));
        }
        let partitions = produce
            .topic_data
            .iter_mut()
            .flat_map(|topic| &mut topic.partition_data);
        partitions.for_each(|partition| {
            partition.records.get_or_insert_default();
        });
    }
    // Leaders of new partitions are elected a moment later.
    if let Some(create) = request.downcast_mut::<CreateTopicsRequest>() {
        create.validate_only = true;
    }
    if let Some(create) = request.downcast_mut::<CreatePartitionsRequest>() {
        create.validate_only = true;
    }
    // Kafka counts a protocol or a partition that is named twice in ways that no client relies on.
    if let Some(join) = request.downcast_mut::<JoinGroupRequest>() {
        let mut seen = BTreeSet::new();
        join.protocols.retain(|protocol| seen.insert(protocol.name.clone()));
    }
    if let Some(epochs) = request.downcast_mut::<OffsetForLeaderEpochRequest>() {
        let mut seen = BTreeSet::new();
        for topic in &mut epochs.topics {
            let name = topic.topic.clone();
            topic
                .partitions
                .retain(|partition| seen.insert((name.clone(), partition.partition)));
        }
        epochs.topics.retain(|topic| !topic.partitions.is_empty());
    }
    if let Some(commit) = request.downcast_mut::<OffsetCommitRequest>() {
        let mut seen = BTreeSet::new();
        let told = |topic: &OffsetCommitRequestTopic| !topic.partitions.is_empty();
        commit
            .topics
            .retain(|topic| told(topic) && seen.insert(topic.name.clone()));
    }
    // Before version 4 it would be created, by Kafka a moment later.
    if let Some(metadata) = request.downcast_mut::<MetadataRequest>() {
        let missing = |topic: &MetadataRequestTopic| topic.name.as_deref() == Some("missing");
        metadata
            .topics
            .iter_mut()
            .for_each(|topics| topics.retain(|topic| !missing(topic)));
    }
    // Kafka's handler fails on a resource that is named twice, or two whose types it does not know, and the client is
    // never answered.
    if let Some(alter) = request.downcast_mut::<AlterConfigsRequest>() {
        let mut named = BTreeSet::new();
        let resources = &mut alter.resources;
        resources.retain(|resource| named.insert((resource.resource_type, resource.resource_name.clone())));
        let mut seen = BTreeSet::new();
        let known = |kind: i8| [2, 4, 8, 16, 32].contains(&kind);
        alter
            .resources
            .retain(|resource| known(resource.resource_type) || seen.insert(resource.resource_name.clone()));
    }
    if let Some(init) = request.downcast_mut::<InitProducerIdRequest>() {
        init.transactional_id = None;
    }
}

/// One request of this API, with a seed of its own. Returns whether both brokers are as alike as before.
fn one<M>(judge: &mut Judge, seed: u64, draw: u64) -> bool
where
    M: Request + Sample + Debug + 'static,
    M::Response: Debug + Clone + 'static,
{
    let versions = judge.versions::<M>();
    let (min, max) = (*versions.start(), *versions.end());
    let version = min + (draw % u64::from((max - min + 1) as u16)) as i16;
    let form = Form {
        version,
        flexible: version >= M::API.flexible_from(),
        nullable: false,
    };
    let asked = judge.send(&format!("seed {seed}"), version, |names| {
        let mut sampler = Sampler::with_vocabulary(draw, Arc::new(Words::new(M::API, names, seed, draw)));
        let mut request = M::sample(&mut sampler, form);
        leave_out(&mut request);
        request
    });
    let verdict = judge.receive(&format!("seed {seed} request {draw}"), asked).verdict;
    verdict == Verdict::Same || verdict == Verdict::Meant && !CHANGING.contains(&M::API)
}

macro_rules! every_api {
    ($($api:ident $request:ident $response:ident,)*) => {
        fn generate(judge: &mut Judge, api: ApiKey, seed: u64, draw: u64) -> bool {
            match api {
                $(ApiKey::$api => one::<$request>(judge, seed, draw),)*
                _ => true,
            }
        }
    };
}

kafscale_codec::for_each_api!(every_api);

/// All seeds.
pub fn run(judge: &mut Judge, first: u64, seeds: u64) {
    super::cases::until_coordinated(judge);
    super::cases::new_producer(judge, "generated");
    let mut whole = 0;
    for seed in first..first + seeds {
        for at in 0..2 {
            judge.topic(&topic_of(seed, at), PARTITIONS, &[]);
        }
        // A producer that a partition does not know would begin at 0 here, and anywhere in Kafka.
        for at in 0..2 {
            for partition in 0..PARTITIONS {
                judge.ask("a producer begins", 12, |names| {
                    let batch = batches::idempotent(names.number("generated"), 0, 0, 1);
                    super::cases::produce_request(&topic_of(seed, at), TopicId::ZERO, -1, &[(partition, Some(batch))])
                });
            }
        }
        whole += u64::from(one_seed(judge, seed));
        judge.forget(&format!("seed {seed}"));
        judge.delete_topics((0..2).map(|at| topic_of(seed, at)));
    }
    println!("{whole} of {seeds} seeds ran to their end");
}

/// Returns whether it ran to its end.
fn one_seed(judge: &mut Judge, seed: u64) -> bool {
    let apis: Vec<ApiKey> = judge.versions.keys().copied().collect();
    let mut sampler = Sampler::new(seed);
    for _ in 0..REQUESTS {
        // Half of them are about records.
        const RECORDS: [ApiKey; 3] = [ApiKey::Produce, ApiKey::Fetch, ApiKey::ListOffsets];
        let api = match sampler.below(2) {
            0 => RECORDS[sampler.below(3) as usize],
            _ => apis[sampler.below(apis.len() as u64) as usize],
        };
        if !generate(judge, api, seed, sampler.bits()) {
            return false;
        }
        if matches!(api, ApiKey::AlterConfigs | ApiKey::IncrementalAlterConfigs) {
            settle();
        }
    }
    (0..2).all(|at| records_are_alike(judge, &topic_of(seed, at), PARTITIONS))
}
