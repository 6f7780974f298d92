//! CreateTopics 0–7 and DeleteTopics 0–6.

use super::{Context, Reply};
use crate::cluster::image::ClusterImage;
use crate::node::Node;
use crate::topic_config::TopicConfig;
use kafscale_codec::error_code::ErrorCode;
use kafscale_codec::messages::*;
use kafscale_codec::types::TopicId;
use kafscale_metastore::keys::TopicRecord;
use kafscale_metastore::operation::OperationError;
use kafscale_metastore::topics::{self, NewTopic};
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use std::time::Duration;

/// Partitions of one topic at most: each is a record in the metastore and a log in some shard.
pub(super) const PARTITIONS_MAX: i32 = 100_000;

/// Longest topic name (Kafka's limit).
const NAME_BYTES_MAX: usize = 249;

/// How long an answer waits until every shard knows of a change; clients give themselves 10 s for everything.
const SETTLE_MAX: Duration = Duration::from_secs(5);

/// Error and message for one topic.
type Refusal = (ErrorCode, String);

/// A topic to be created.
pub(super) struct Wish {
    pub name: String,
    /// −1 for the broker's default.
    pub partitions: i32,
    pub configs: BTreeMap<String, String>,
    pub validate_only: bool,
}

/// Kafka's own topics. There are none of them here: tools that look for them must find that out, and nothing that a
/// client writes there would have any effect.
const INTERNAL: &[&str] = &["__consumer_offsets", "__transaction_state", "__share_group_state"];

/// Whether Kafka keeps this topic for itself: such topics are not created unless somebody asks for exactly that, and no
/// records are taken for them.
pub(super) fn is_internal(name: &str) -> bool {
    INTERNAL.contains(&name)
}

/// Whether a topic may have this name; the text says why not.
pub(super) fn check_name(name: &str) -> Result<(), String> {
    let legal = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
    if name.is_empty() {
        Err("the empty string is not allowed".into())
    } else if name == "." || name == ".." {
        Err(format!("'{name}' is not allowed"))
    } else if name.len() > NAME_BYTES_MAX {
        Err(format!("the length is greater than {NAME_BYTES_MAX}"))
    } else if !name.chars().all(legal) {
        Err(format!(
            "'{name}' contains characters other than ASCII alphanumerics, '.', '_' and '-'"
        ))
    } else {
        Ok(())
    }
}

pub(super) fn create(context: Context, request: CreateTopicsRequest) -> Reply {
    let node = context.node.clone();
    context.later(async move {
        let mut response = CreateTopicsResponse::default();
        let mut created = Vec::new();
        let mut named = BTreeMap::new();
        for topic in &request.topics {
            *named.entry(topic.name.as_str()).or_insert(0) += 1;
        }
        for topic in &request.topics {
            // A topic that is named twice is answered once.
            let Some(times) = named.remove(topic.name.as_str()) else {
                continue;
            };
            let outcome = match times > 1 {
                true => Err((
                    ErrorCode::INVALID_REQUEST,
                    "the request names the topic twice".to_string(),
                )),
                false => create_asked(&node, topic, request.validate_only).await,
            };
            if outcome.is_ok() && !request.validate_only {
                created.push(topic.name.clone());
            }
            response.topics.push(create_result(&node, &topic.name, outcome));
        }
        wait_for_leaders(&node, &created).await;
        response
    })
}

async fn create_asked(node: &Rc<Node>, topic: &CreatableTopic, validate_only: bool) -> Result<TopicRecord, Refusal> {
    check_admin(node)?;
    let configs = configs_of(topic)?;
    check_new(node, &topic.name, &configs)?;
    let mut partitions = topic.num_partitions;
    if !topic.assignments.is_empty() {
        if topic.num_partitions != -1 || topic.replication_factor != -1 {
            let why = "Both an assignment and a number of partitions or replicas are given: give one of them.";
            return Err((ErrorCode::INVALID_REQUEST, why.into()));
        }
        partitions = count_of_assignment(&node.image(), &topic.assignments)?;
    }
    if topic.replication_factor == 0 || topic.replication_factor < -1 {
        return Err((
            ErrorCode::INVALID_REPLICATION_FACTOR,
            "Replication factor must be larger than 0.".into(),
        ));
    }
    let wish = Wish {
        name: topic.name.clone(),
        partitions,
        configs,
        validate_only,
    };
    create_one(node, wish).await
}

fn configs_of(topic: &CreatableTopic) -> Result<BTreeMap<String, String>, Refusal> {
    let null = |name: &str| {
        let why = format!("Null value not supported for topic configs: {name}");
        (ErrorCode::INVALID_CONFIG, why)
    };
    let configs = topic.configs.iter();
    configs
        .map(|config| {
            Ok((
                config.name.clone(),
                config.value.clone().ok_or_else(|| null(&config.name))?,
            ))
        })
        .collect()
}

/// What Kafka checks of a new topic before its partitions: the name, whether it is free, the settings.
fn check_new(node: &Node, name: &str, configs: &BTreeMap<String, String>) -> Result<(), Refusal> {
    let invalid = |why| {
        (
            ErrorCode::INVALID_TOPIC_EXCEPTION,
            format!("Topic name is invalid: {why}"),
        )
    };
    check_name(name).map_err(invalid)?;
    let image = node.image();
    if image.topics.contains_key(name) {
        return Err(exists(name));
    }
    let collides = |other: &&String| *other != name && other.replace('.', "_") == name.replace('.', "_");
    if let Some(other) = image.topics.keys().find(collides) {
        let why = format!("Topic '{name}' collides with existing topic: {other}");
        return Err((ErrorCode::INVALID_TOPIC_EXCEPTION, why));
    }
    TopicConfig::parse(configs, &node.config.topic_defaults)
        .map_err(|error| (ErrorCode::INVALID_CONFIG, error.to_string()))?;
    Ok(())
}

fn exists(name: &str) -> Refusal {
    (
        ErrorCode::TOPIC_ALREADY_EXISTS,
        format!("Topic '{name}' already exists."),
    )
}

/// How many partitions a manual assignment describes. The cluster places partitions itself, so an assignment that Kafka
/// would accept is taken as their number.
fn count_of_assignment(image: &ClusterImage, assigned: &[CreatableReplicaAssignment]) -> Result<i32, Refusal> {
    let invalid = |why: String| (ErrorCode::INVALID_REPLICA_ASSIGNMENT, why);
    let mut indexes = BTreeSet::new();
    for partition in assigned {
        if !indexes.insert(partition.partition_index) {
            let why = format!(
                "Found multiple assignments for partition {}.",
                partition.partition_index
            );
            return Err(invalid(why));
        }
        check_replicas(image, &partition.broker_ids)?;
    }
    if indexes.iter().copied().ne(0..assigned.len() as i32) {
        let why = "Partitions must be a consecutive 0-based integer sequence.".to_string();
        return Err(invalid(why));
    }
    let replicas = |partition: &CreatableReplicaAssignment| partition.broker_ids.len();
    if assigned.iter().any(|other| replicas(other) != replicas(&assigned[0])) {
        let why = "All partitions must have the same number of replicas.".to_string();
        return Err(invalid(why));
    }
    Ok(assigned.len() as i32)
}

/// Whether these are distinct brokers of the cluster.
pub(super) fn check_replicas(image: &ClusterImage, replicas: &[i32]) -> Result<(), Refusal> {
    let invalid = |why: String| Err((ErrorCode::INVALID_REPLICA_ASSIGNMENT, why));
    if replicas.is_empty() {
        return invalid("The manual partition assignment includes an empty replica list.".to_string());
    }
    for (at, id) in replicas.iter().enumerate() {
        if replicas[..at].contains(id) {
            return invalid(format!(
                "The manual partition assignment includes broker {id} more than once."
            ));
        }
        if !image.nodes().any(|node| node.node_id == *id) {
            return invalid(format!(
                "The manual partition assignment includes broker {id}, but no such broker is registered."
            ));
        }
    }
    Ok(())
}

/// Creates a topic, or says what it would be.
pub(super) async fn create_one(node: &Rc<Node>, wish: Wish) -> Result<TopicRecord, Refusal> {
    check_new(node, &wish.name, &wish.configs)?;
    let partitions = if wish.partitions == -1 {
        node.config.auto_create_partitions
    } else {
        wish.partitions
    };
    if !(1..=PARTITIONS_MAX).contains(&partitions) {
        let why = format!("Number of partitions must be between 1 and {PARTITIONS_MAX}, or -1 for the default.");
        return Err((ErrorCode::INVALID_PARTITIONS, why));
    }
    let topic_id = random_topic_id(node);
    let created_ms = node.runtime.wall_clock_ms();
    if wish.validate_only {
        let (folder, configs) = (wish.name, wish.configs);
        return Ok(TopicRecord {
            topic_id,
            folder,
            partitions: partitions as u32,
            configs,
            created_ms,
        });
    }
    let topic = NewTopic {
        name: wish.name.clone(),
        topic_id,
        partitions: partitions as u32,
        configs: wish.configs.clone(),
        created_ms,
    };
    match topics::create_topic(&*node.metastore, &topic).await {
        Ok(created) => {
            log::info!(
                "topic {} is created with {partitions} partitions, id {topic_id}",
                wish.name
            );
            Ok(created.value)
        }
        Err(OperationError::Conflict) => Err(exists(&wish.name)),
        Err(error) => Err(unavailable("create", &wish.name, &error)),
    }
}

fn unavailable(verb: &str, name: &str, error: &OperationError) -> Refusal {
    log::warn!("{verb} topic {name}: {error}");
    (
        ErrorCode::REQUEST_TIMED_OUT,
        format!("the metastore did not {verb} the topic: {error}"),
    )
}

fn random_topic_id(node: &Node) -> TopicId {
    loop {
        let bits = u128::from(node.runtime.random_u64()) << 64 | u128::from(node.runtime.random_u64());
        let id = TopicId(bits.to_be_bytes());
        // Kafka keeps ids below 2 for itself, and ids that begin with '-' trouble command lines.
        if bits > 1 && !id.to_string().starts_with('-') {
            return id;
        }
    }
}

/// Whether topics may be changed by clients at all.
pub(super) fn check_admin(node: &Node) -> Result<(), Refusal> {
    if node.config.allow_admin_apis {
        return Ok(());
    }
    let why = "admin APIs are switched off on this broker";
    Err((ErrorCode::POLICY_VIOLATION, why.to_string()))
}

/// Completes when this shard's image is as `ready` wants it, or after a while.
pub(super) async fn settle(node: &Node, ready: impl Fn(&ClusterImage) -> bool) {
    node.wait_for_image(SETTLE_MAX, ready).await;
}

/// Completes when every partition of these topics has a leader, or after a while.
pub(super) async fn wait_for_leaders(node: &Rc<Node>, names: &[String]) {
    if names.is_empty() {
        return;
    }
    node.wait_for_image(SETTLE_MAX, |image| {
        let led = |name: &String| {
            let topic = image.topics.get(name)?;
            let all = (0..topic.record.partitions as i32).all(|at| image.live_leader(topic, at).is_some());
            all.then_some(())
        };
        names.iter().all(|name| led(name).is_some())
    })
    .await;
}

fn create_result(node: &Node, name: &str, outcome: Result<TopicRecord, Refusal>) -> CreatableTopicResult {
    match outcome {
        Ok(record) => CreatableTopicResult {
            name: name.to_string(),
            topic_id: record.topic_id,
            num_partitions: record.partitions as i32,
            replication_factor: 1,
            configs: Some(super::configs::of_new_topic(node, &record.configs)),
            ..Default::default()
        },
        Err((error_code, message)) => CreatableTopicResult {
            name: name.to_string(),
            error_code,
            error_message: Some(message),
            configs: Some(Vec::new()),
            ..Default::default()
        },
    }
}

pub(super) fn delete(context: Context, request: DeleteTopicsRequest) -> Reply {
    let node = context.node.clone();
    let by_state = context.version() >= 6;
    context.later(async move {
        let asked: Vec<DeleteTopicState> = if by_state {
            request.topics
        } else {
            let named = |name| DeleteTopicState {
                name: Some(name),
                topic_id: TopicId::ZERO,
            };
            request.topic_names.into_iter().map(named).collect()
        };
        let mut response = DeleteTopicsResponse::default();
        let mut deleted = Vec::new();
        let overdetermined = |topic: &DeleteTopicState| topic.name.is_some() && !topic.topic_id.is_zero();
        let mut seen: BTreeSet<(Option<String>, TopicId)> = BTreeSet::new();
        let key = |topic: &DeleteTopicState| (topic.name.clone(), topic.topic_id);
        let twice: BTreeSet<_> = asked
            .iter()
            .map(key)
            .filter(|topic| !seen.insert(topic.clone()))
            .collect();
        for topic in asked {
            // A topic that is named twice is answered once, and not deleted. What names none is answered each time.
            if !seen.remove(&key(&topic)) && !overdetermined(&topic) {
                continue;
            }
            let outcome = match twice.contains(&key(&topic)) {
                true => Err((
                    ErrorCode::INVALID_REQUEST,
                    "the request names the topic twice".to_string(),
                )),
                false => delete_one(&node, &topic).await,
            };
            let mut result = DeletableTopicResult {
                name: topic.name,
                topic_id: topic.topic_id,
                ..Default::default()
            };
            match outcome {
                Ok((name, topic_id)) => {
                    deleted.push(topic_id);
                    (result.name, result.topic_id) = (Some(name), topic_id);
                }
                Err((error, message)) => {
                    (result.error_code, result.error_message) = (error, Some(message));
                    if !by_state {
                        result.name.get_or_insert_default();
                    }
                }
            }
            response.responses.push(result);
        }
        node.wait_for_image(SETTLE_MAX, |image| {
            deleted.iter().all(|id| image.topic_by_id(*id).is_none())
        })
        .await;
        response
    })
}

async fn delete_one(node: &Rc<Node>, asked: &DeleteTopicState) -> Result<(String, TopicId), Refusal> {
    check_admin(node)?;
    let name = match &asked.name {
        Some(_) if !asked.topic_id.is_zero() => {
            return Err((ErrorCode::INVALID_REQUEST, "give a name or an id, not both".into()));
        }
        Some(name) => name.clone(),
        None if asked.topic_id.is_zero() => {
            return Err((ErrorCode::INVALID_REQUEST, "give a name or an id".into()));
        }
        None => match node.image().topic_by_id(asked.topic_id) {
            Some(topic) => topic.name.clone(),
            None => {
                return Err((
                    ErrorCode::UNKNOWN_TOPIC_ID,
                    "This server does not host this topic ID.".into(),
                ))
            }
        },
    };
    let unknown = || {
        (
            ErrorCode::UNKNOWN_TOPIC_OR_PARTITION,
            "This server does not host this topic-partition.".into(),
        )
    };
    let found = topics::load_topic(&*node.metastore, &name).await;
    let found = found
        .map_err(|error| unavailable("delete", &name, &error))?
        .ok_or_else(unknown)?;
    if asked.name.is_none() && found.value.topic_id != asked.topic_id {
        return Err((
            ErrorCode::UNKNOWN_TOPIC_ID,
            "This server does not host this topic ID.".into(),
        ));
    }
    match topics::delete_topic(&*node.metastore, &name, &found, node.runtime.wall_clock_ms()).await {
        Ok(_) => {
            log::info!("topic {name} is deleted, id {}", found.value.topic_id);
            Ok((name, found.value.topic_id))
        }
        Err(OperationError::Conflict) => Err(unknown()),
        Err(error) => Err(unavailable("delete", &name, &error)),
    }
}

#[cfg(test)]
mod tests {
    use super::check_name;

    #[test]
    fn names_are_as_kafka_allows_them() {
        for name in ["a", "orders.v1_2-x", &"x".repeat(249)] {
            assert_eq!(check_name(name), Ok(()));
        }
        for name in ["", ".", "..", "a/b", "a~1", "käse", "a b", &"x".repeat(250)] {
            assert!(check_name(name).is_err(), "{name}");
        }
    }
}
