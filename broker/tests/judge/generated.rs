//! Requests from the codec's declarations: every field drawn with a seed, from values that mean something where there are
//! such. The same draws make the request of both sides, each with its own ids.

use super::batches;
use super::cases::{records_are_alike, settle};
use super::side::Names;
use super::Judge;
use bytes::Bytes;
use kafscale_codec::api::ApiKey;
use kafscale_codec::messages::*;
use kafscale_codec::testing::{Sample, Sampler, Vocabulary};
use kafscale_codec::types::TopicId;
use kafscale_codec::wire::Form;
use std::any::Any;
use std::fmt::Debug;
use std::sync::Arc;

/// Requests of one seed.
const REQUESTS: u64 = 150;

/// Of how many partitions the topics of a seed are.
const PARTITIONS: i32 = 2;

/// APIs whose requests wait for other members, or change what the next requests are about: their cases are made by hand.
const BY_HAND: &[ApiKey] = &[
    ApiKey::JoinGroup,
    ApiKey::SyncGroup,
    ApiKey::ConsumerGroupHeartbeat,
    ApiKey::DeleteTopics,
    ApiKey::CreateTopics,
    ApiKey::CreatePartitions,
];

/// What the requests of a seed are about.
#[derive(Debug)]
struct Words {
    topics: Vec<String>,
    ids: Vec<TopicId>,
    groups: Vec<String>,
    producer: i64,
    batches: Vec<Bytes>,
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
            "partition_index" | "partition" | "index" | "partition_indexes" | "partitions" => &[0, 0, 0, 1, 1, 2, -1],
            "timestamp" => &[batches::TIME, batches::TIME + 1, -1, -2, -3, -4, -5, -6, 0, i64::MAX],
            "fetch_offset" => &[0, 0, 1, 2, 3, 5, 10, 1000, -1],
            "offset" => &[0, 1, 2, -1, 1000],
            "committed_offset" => &[0, 1, 5, -1, i64::MAX],
            "partition_max_bytes" | "max_bytes" => &[1 << 20, 1 << 20, 100, 1, 0],
            "min_bytes" => &[0, 1, 1, 1000],
            "session_id" | "session_epoch" => &[0, 0, 0, -1, 1],
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
            "records" => pick(&self.batches, draw),
            _ => None,
        }
    }
}

fn words(names: &Names, seed: u64) -> Words {
    let real: Vec<String> = (0..2).map(|at| topic_of(seed, at)).collect();
    let mut topics = real.clone();
    topics.extend(real.iter().cloned());
    topics.extend(["missing", "a/b"].map(str::to_string));
    let producer = names.number("generated");
    let mut all: Vec<Bytes> = batches::all().into_iter().map(|(_, batch)| batch).collect();
    all.extend((0..4).map(|at| batches::idempotent(producer, 0, at, 1)));
    all.extend((0..20).map(batches::plain).skip(1));
    Words {
        ids: topics.iter().map(|topic| names.topic(topic)).collect(),
        topics,
        groups: vec![format!("g-{seed}"), format!("h-{seed}"), String::new()],
        producer,
        batches: all,
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
        let partitions = produce
            .topic_data
            .iter_mut()
            .flat_map(|topic| &mut topic.partition_data);
        partitions.for_each(|partition| {
            partition.records.get_or_insert_default();
        });
    }
    if let Some(init) = request.downcast_mut::<InitProducerIdRequest>() {
        init.transactional_id = None;
    }
}

/// One request of this API, with a seed of its own.
fn one<M>(judge: &mut Judge, seed: u64, draw: u64)
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
    let label = format!("seed {seed} request {draw}");
    judge.ask(&label, version, |names| {
        let mut sampler = Sampler::with_vocabulary(draw, Arc::new(words(names, seed)));
        let mut request = M::sample(&mut sampler, form);
        leave_out(&mut request);
        request
    });
}

macro_rules! every_api {
    ($($api:ident $request:ident $response:ident,)*) => {
        fn generate(judge: &mut Judge, api: ApiKey, seed: u64, draw: u64) {
            match api {
                $(ApiKey::$api => one::<$request>(judge, seed, draw),)*
                _ => {}
            }
        }
    };
}

kafscale_codec::for_each_api!(every_api);

/// All seeds.
pub fn run(judge: &mut Judge, first: u64, seeds: u64) {
    super::cases::until_coordinated(judge, "generated");
    super::cases::until_producers_have_ids(judge);
    let answers = judge.ask("prepare", 4, |_| InitProducerIdRequest {
        transaction_timeout_ms: 1000,
        ..Default::default()
    });
    judge.learn(&answers, |answer, names| {
        names.numbers.insert("generated".into(), answer.producer_id);
    });
    let apis: Vec<ApiKey> = judge
        .versions
        .keys()
        .copied()
        .filter(|api| !BY_HAND.contains(api))
        .collect();
    for seed in first..first + seeds {
        for at in 0..2 {
            judge.topic(&topic_of(seed, at), PARTITIONS, &[]);
        }
        let mut sampler = Sampler::new(seed);
        for _ in 0..REQUESTS {
            // Half of them are about records.
            const RECORDS: [ApiKey; 3] = [ApiKey::Produce, ApiKey::Fetch, ApiKey::ListOffsets];
            let api = match sampler.below(2) {
                0 => RECORDS[sampler.below(3) as usize],
                _ => apis[sampler.below(apis.len() as u64) as usize],
            };
            generate(judge, api, seed, sampler.bits());
            if matches!(api, ApiKey::AlterConfigs | ApiKey::IncrementalAlterConfigs) {
                settle();
            }
        }
        for at in 0..2 {
            records_are_alike(judge, &topic_of(seed, at), PARTITIONS);
        }
    }
}
