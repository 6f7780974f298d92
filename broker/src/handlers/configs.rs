//! DescribeConfigs 1–4, AlterConfigs 0–2, IncrementalAlterConfigs 0–1. Topics can be changed; the broker's settings are
//! shown, and fixed since its start.

use super::topics::settle;
use super::{Context, Reply};
use crate::broker_config::{BrokerConfig, ValueKind};
use crate::cluster::image::TopicImage;
use crate::node::Node;
use crate::topic_config::{Kind, TopicConfig, TopicSetting, BROKER_WIDE_NAMES, TOPIC_SETTINGS, UNSET_BROKER_WIDE};
use kafscale_codec::error_code::ErrorCode;
use kafscale_codec::messages::*;
use kafscale_metastore::keys::TopicRecord;
use kafscale_metastore::operation::OperationError;
use kafscale_metastore::topics::{load_topic, update_topic};
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

/// Kafka's `ConfigResource.Type`.
mod resource {
    pub(super) const TOPIC: i8 = 2;
    pub(super) const BROKER: i8 = 4;
    pub(super) const BROKER_LOGGER: i8 = 8;
    pub(super) const CLIENT_METRICS: i8 = 16;
    pub(super) const GROUP: i8 = 32;
    pub(super) const ALL: [i8; 5] = [TOPIC, BROKER, BROKER_LOGGER, CLIENT_METRICS, GROUP];
}

/// Kafka's `ConfigSource`.
pub(super) mod source {
    pub const TOPIC: i8 = 1;
    pub const STATIC_BROKER: i8 = 4;
    pub const DEFAULT: i8 = 5;
    pub const GROUP: i8 = 8;
}

/// Kafka's `AlterConfigOp.OpType`.
pub(super) mod operation {
    pub const SET: i8 = 0;
    pub const DELETE: i8 = 1;
    pub const APPEND: i8 = 2;
    pub const SUBTRACT: i8 = 3;
}

/// Settings of client metrics (KIP-714), none of which can be set: name, default, kind.
const CLIENT_METRICS: &[(&str, &str, ValueKind)] = &[
    ("interval.ms", "300000", ValueKind::Int),
    ("match", "", ValueKind::List),
    ("metrics", "", ValueKind::List),
];

/// Attempts at a change that others change at the same time.
pub(super) const ATTEMPTS_MAX: usize = 16;

pub(super) type Refusal = (ErrorCode, String);

pub(super) fn describe(context: Context, request: DescribeConfigsRequest) -> Reply {
    let node = context.node.clone();
    // As Kafka, which then answers nothing else.
    let foreign = request
        .resources
        .iter()
        .find(|asked| !resource::ALL.contains(&asked.resource_type));
    let foreign = foreign.map(|asked| unsupported(asked.resource_type));
    let results = request
        .resources
        .iter()
        .map(|asked| {
            match foreign
                .clone()
                .map_or_else(|| describe_one(&node, asked, &request), Err)
            {
                Ok(configs) => DescribeConfigsResult {
                    resource_type: asked.resource_type,
                    resource_name: asked.resource_name.clone(),
                    configs,
                    ..DescribeConfigsResult::default()
                },
                Err((error_code, message)) => DescribeConfigsResult {
                    error_code,
                    error_message: Some(message),
                    resource_type: asked.resource_type,
                    resource_name: asked.resource_name.clone(),
                    configs: Vec::new(),
                },
            }
        })
        .collect();
    context.ready(DescribeConfigsResponse {
        throttle_time_ms: 0,
        results,
    })
}

fn describe_one(
    node: &Node,
    asked: &DescribeConfigsResource,
    request: &DescribeConfigsRequest,
) -> Result<Vec<DescribeConfigsResourceResult>, Refusal> {
    let wanted = |name: &str| match &asked.configuration_keys {
        // Kafka takes an empty list for everything, as null.
        Some(keys) if !keys.is_empty() => keys.iter().any(|key| key == name),
        _ => true,
    };
    let mut configs: Vec<DescribeConfigsResourceResult> = match asked.resource_type {
        resource::TOPIC => {
            let image = node.image();
            let topic = find_topic(&image, &asked.resource_name)?;
            TOPIC_SETTINGS
                .iter()
                .filter(|setting| wanted(setting.name))
                .map(|setting| describe_topic_setting(node, &topic.record.configs, setting))
                .collect()
        }
        resource::BROKER => {
            check_broker(node, &asked.resource_name)?;
            node.config
                .broker_configs
                .iter()
                .filter(|config| wanted(config.name))
                .map(describe_broker_config)
                .collect()
        }
        resource::BROKER_LOGGER => {
            check_broker(node, &asked.resource_name)?;
            Vec::new()
        }
        resource::CLIENT_METRICS => {
            let settings = CLIENT_METRICS.iter().filter(|(name, ..)| wanted(name));
            settings.map(describe_client_metrics).collect()
        }
        resource::GROUP => super::group_configs::describe(node, &asked.resource_name, wanted)?,
        other => return Err(unsupported(other)),
    };
    for config in &mut configs {
        if !request.include_synonyms {
            config.synonyms.clear();
        }
        if !request.include_documentation {
            config.documentation = None;
        }
    }
    Ok(configs)
}

fn find_topic<'a>(image: &'a crate::cluster::image::ClusterImage, name: &str) -> Result<&'a TopicImage, Refusal> {
    super::topics::check_name(name).map_err(|why| {
        (
            ErrorCode::INVALID_TOPIC_EXCEPTION,
            format!("Topic name is invalid: {why}"),
        )
    })?;
    let topic = image.topics.get(name).map(|topic| &**topic);
    topic.ok_or_else(|| (ErrorCode::UNKNOWN_TOPIC_OR_PARTITION, format!("no topic {name}")))
}

/// An empty name stands for all brokers; another broker's settings are for that broker to tell.
fn check_broker(node: &Node, name: &str) -> Result<(), Refusal> {
    let own = node.config.broker_id.to_string();
    let image = node.image();
    let is_node_of_this = |id: i32| {
        image
            .nodes()
            .any(|known| known.node_id == id && known.broker.broker_id == node.config.broker_id)
    };
    if name.is_empty() || name == own || name.parse().is_ok_and(is_node_of_this) {
        return Ok(());
    }
    Err((
        ErrorCode::INVALID_REQUEST,
        format!("Unexpected broker id, expected {own} or empty string, but received {name}"),
    ))
}

fn unsupported(resource_type: i8) -> Refusal {
    (
        ErrorCode::INVALID_REQUEST,
        format!("resources of type {resource_type} have no configuration here"),
    )
}

/// What a topic with these settings is configured to, in the form of CreateTopics (KIP-525).
pub(super) fn of_new_topic(node: &Node, configs: &BTreeMap<String, String>) -> Vec<CreatableTopicConfigs> {
    let settings = TOPIC_SETTINGS.iter();
    let described = settings.map(|setting| describe_topic_setting(node, configs, setting));
    described
        .map(|config| CreatableTopicConfigs {
            // What is set is said back as it was given.
            value: configs.get(&config.name).cloned().or(config.value),
            name: config.name,
            read_only: config.read_only,
            config_source: config.config_source,
            is_sensitive: config.is_sensitive,
        })
        .collect()
}

fn describe_topic_setting(
    node: &Node,
    configs: &BTreeMap<String, String>,
    setting: &TopicSetting,
) -> DescribeConfigsResourceResult {
    let mut synonyms = Vec::new();
    let synonym = |name: &str, value: &str, source| DescribeConfigsSynonym {
        name: name.to_string(),
        value: Some(setting.written_back(value)),
        source,
    };
    if let Some(value) = configs.get(setting.name) {
        synonyms.push(synonym(setting.name, value, source::TOPIC));
    }
    let broker_name = BROKER_WIDE_NAMES.iter().find(|(name, _)| *name == setting.name);
    if let Some((_, broker_name)) = broker_name {
        let broker_value = node.config.topic_defaults.get(setting.name);
        if let Some(value) = broker_value.filter(|value| *value != setting.default) {
            synonyms.push(synonym(broker_name, value, source::STATIC_BROKER));
        }
        if !UNSET_BROKER_WIDE.contains(&setting.name) {
            synonyms.push(synonym(broker_name, setting.default, source::DEFAULT));
        }
    }
    let (value, config_source) = match synonyms.first() {
        Some(in_force) => (in_force.value.clone(), in_force.source),
        None => (Some(setting.default.to_string()), source::DEFAULT),
    };
    DescribeConfigsResourceResult {
        name: setting.name.to_string(),
        value,
        read_only: false,
        config_source,
        is_sensitive: false,
        synonyms,
        config_type: type_code(topic_value_kind(setting.kind)),
        documentation: Some(setting.doc.to_string()),
    }
}

fn topic_value_kind(kind: Kind) -> ValueKind {
    match kind {
        Kind::Number { max, .. } if max <= i64::from(i32::MAX) => ValueKind::Int,
        Kind::Number { .. } => ValueKind::Long,
        Kind::GzipLevel => ValueKind::Int,
        Kind::Words { list: true, .. } | Kind::Replicas => ValueKind::List,
        Kind::Words { list: false, .. } => ValueKind::Text,
        Kind::Ratio => ValueKind::Double,
        Kind::Bool => ValueKind::Bool,
    }
}

/// Kafka's `ConfigDef.Type` on the wire.
pub(super) fn type_code(kind: ValueKind) -> i8 {
    match kind {
        ValueKind::Bool => 1,
        ValueKind::Text => 2,
        ValueKind::Int => 3,
        ValueKind::Long => 5,
        ValueKind::Double => 6,
        ValueKind::List => 7,
    }
}

fn describe_broker_config(config: &BrokerConfig) -> DescribeConfigsResourceResult {
    DescribeConfigsResourceResult {
        name: config.name.to_string(),
        value: Some(config.value.clone()),
        read_only: true,
        config_source: source::STATIC_BROKER,
        is_sensitive: false,
        synonyms: vec![DescribeConfigsSynonym {
            name: config.name.to_string(),
            value: Some(config.value.clone()),
            source: source::STATIC_BROKER,
        }],
        config_type: type_code(config.kind),
        documentation: Some(config.doc.to_string()),
    }
}

fn describe_client_metrics((name, default, kind): &(&str, &str, ValueKind)) -> DescribeConfigsResourceResult {
    DescribeConfigsResourceResult {
        name: name.to_string(),
        value: Some(default.to_string()),
        config_source: source::DEFAULT,
        config_type: type_code(*kind),
        ..DescribeConfigsResourceResult::default()
    }
}

/// One change of one resource.
pub(super) enum Change {
    /// These and no others.
    Replace(Vec<(String, Option<String>)>),
    /// Step by step: operation, name, value.
    Steps(Vec<(i8, String, Option<String>)>),
}

pub(super) fn alter(context: Context, request: AlterConfigsRequest) -> Reply {
    let changes = request
        .resources
        .into_iter()
        .map(|resource| {
            let configs = resource.configs.into_iter().map(|config| (config.name, config.value));
            let change = Change::Replace(configs.collect());
            (resource.resource_type, resource.resource_name, change)
        })
        .collect();
    let node = context.node.clone();
    let validate_only = request.validate_only;
    context.later(async move {
        AlterConfigsResponse {
            throttle_time_ms: 0,
            responses: alter_all(&node, changes, validate_only).await,
        }
    })
}

pub(super) fn alter_incrementally(context: Context, request: IncrementalAlterConfigsRequest) -> Reply {
    let changes = request
        .resources
        .into_iter()
        .map(|resource| {
            let steps = resource.configs.into_iter();
            let steps = steps.map(|config| (config.config_operation, config.name, config.value));
            let change = Change::Steps(steps.collect());
            (resource.resource_type, resource.resource_name, change)
        })
        .collect();
    let node = context.node.clone();
    let validate_only = request.validate_only;
    context.later(async move {
        IncrementalAlterConfigsResponse {
            throttle_time_ms: 0,
            responses: alter_all(&node, changes, validate_only).await,
        }
    })
}

async fn alter_all(
    node: &Rc<Node>,
    changes: Vec<(i8, String, Change)>,
    validate_only: bool,
) -> Vec<AlterConfigsResourceResponse> {
    let mut responses = Vec::with_capacity(changes.len());
    let mut named = BTreeMap::new();
    for (resource_type, resource_name, _) in &changes {
        *named.entry((*resource_type, resource_name.clone())).or_insert(0) += 1;
    }
    for (resource_type, resource_name, change) in changes {
        // A resource that is named twice is not changed. As Kafka: AlterConfigs answers it once.
        let key = (resource_type, resource_name.clone());
        let times = match change {
            Change::Replace(_) => named.remove(&key),
            Change::Steps(_) => named.get(&key).copied(),
        };
        let Some(times) = times else { continue };
        let outcome = match times {
            1 => alter_one(node, resource_type, &resource_name, &change, validate_only).await,
            _ => Err((
                ErrorCode::INVALID_REQUEST,
                "the request names the resource twice".to_string(),
            )),
        };
        let (error_code, error_message) = match outcome {
            Ok(()) => (ErrorCode::NONE, None),
            Err((error, message)) => (error, Some(message)),
        };
        responses.push(AlterConfigsResourceResponse {
            error_code,
            error_message,
            resource_type,
            resource_name,
        });
    }
    responses
}

async fn alter_one(
    node: &Rc<Node>,
    resource_type: i8,
    name: &str,
    change: &Change,
    validate_only: bool,
) -> Result<(), Refusal> {
    super::topics::check_admin(node)?;
    match resource_type {
        resource::TOPIC => {}
        resource::GROUP => return super::group_configs::alter(node, name, change, validate_only).await,
        resource::BROKER => {
            check_broker(node, name)?;
            let why = "the broker's settings are set at its start, by flags, KAFSCALE_* variables or a file";
            return Err((ErrorCode::INVALID_CONFIG, why.to_string()));
        }
        other => return Err(unsupported(other)),
    }
    let failed = |error: OperationError| {
        log::warn!("change the settings of topic {name}: {error}");
        let why = format!("the metastore did not change the topic: {error}");
        (ErrorCode::REQUEST_TIMED_OUT, why)
    };
    check_change(change)?;
    if let Err(refusal) = find_topic(&node.image(), name) {
        if refusal.0 == ErrorCode::UNKNOWN_TOPIC_OR_PARTITION {
            // Kafka looks at the values first.
            check_settings(node, &changed(&BTreeMap::new(), change, node))?;
        }
        return Err(refusal);
    }
    for _ in 0..ATTEMPTS_MAX {
        let topic = load_topic(&*node.metastore, name).await.map_err(failed)?;
        let topic = topic.ok_or_else(|| (ErrorCode::UNKNOWN_TOPIC_OR_PARTITION, format!("no topic {name}")))?;
        let configs = changed(&topic.value.configs, change, node);
        check_settings(node, &configs)?;
        if validate_only || configs == topic.value.configs {
            return Ok(());
        }
        let record = TopicRecord { configs, ..topic.value };
        match update_topic(&*node.metastore, name, topic.mod_revision, &record).await {
            Ok(revision) => {
                log::info!("settings of topic {name} are now {:?}", record.configs);
                settle(node, |image| {
                    image
                        .topics
                        .get(name)
                        .is_none_or(|topic| topic.mod_revision >= revision)
                })
                .await;
                return Ok(());
            }
            Err(OperationError::Conflict) => {}
            Err(error) => return Err(failed(error)),
        }
    }
    Err((
        ErrorCode::REQUEST_TIMED_OUT,
        format!("others keep changing topic {name}"),
    ))
}

/// What is wrong with a change whatever it is about, in Kafka's order.
fn check_change(change: &Change) -> Result<(), Refusal> {
    let mut seen = BTreeSet::new();
    let mut check = |name: &String, has_value: bool| {
        let why = match (seen.insert(name.clone()), has_value) {
            (true, true) => return Ok(()),
            (false, _) => format!("{name} is changed twice in one request"),
            (true, false) => format!("Null value not supported for topic configs: {name}"),
        };
        Err((ErrorCode::INVALID_REQUEST, why))
    };
    let steps = match change {
        Change::Replace(configs) => {
            return configs
                .iter()
                .try_for_each(|(name, value)| check(name, value.is_some()))
        }
        Change::Steps(steps) => steps,
    };
    for (operation, name, value) in steps {
        check(name, value.is_some() || *operation == operation::DELETE)?;
    }
    for (operation, name, _) in steps {
        match *operation {
            operation::SET | operation::DELETE => {}
            operation::APPEND | operation::SUBTRACT if is_list(name) => {}
            operation::APPEND | operation::SUBTRACT => {
                let why = format!("{name} is no list: nothing can be appended or subtracted");
                return Err((ErrorCode::INVALID_CONFIG, why));
            }
            other => {
                let why = format!("operation {other} on {name} is not known");
                return Err((ErrorCode::INVALID_REQUEST, why));
            }
        }
    }
    Ok(())
}

/// Whether a topic setting has several values.
fn is_list(name: &str) -> bool {
    let setting = TOPIC_SETTINGS.iter().find(|setting| setting.name == name);
    setting.is_some_and(|setting| matches!(setting.kind, Kind::Words { list: true, .. } | Kind::Replicas))
}

fn check_settings(node: &Node, configs: &BTreeMap<String, String>) -> Result<(), Refusal> {
    let parsed = TopicConfig::parse(configs, &node.config.topic_defaults);
    parsed
        .map(drop)
        .map_err(|error| (ErrorCode::INVALID_CONFIG, error.to_string()))
}

/// What a checked change makes of the settings.
fn changed(now: &BTreeMap<String, String>, change: &Change, node: &Node) -> BTreeMap<String, String> {
    match change {
        Change::Replace(configs) => {
            let configs = configs.iter();
            configs
                .map(|(name, value)| (name.clone(), value.clone().unwrap_or_default()))
                .collect()
        }
        Change::Steps(steps) => {
            let mut configs = now.clone();
            for (operation, name, value) in steps {
                step(
                    &mut configs,
                    *operation,
                    name,
                    value.as_deref().unwrap_or_default(),
                    node,
                );
            }
            configs
        }
    }
}

/// One step of an incremental change.
fn step(configs: &mut BTreeMap<String, String>, operation: i8, name: &str, value: &str, node: &Node) {
    if operation == operation::DELETE {
        configs.remove(name);
        return;
    }
    let listed = TOPIC_SETTINGS
        .iter()
        .find(|setting| setting.name == name)
        .filter(|_| operation != operation::SET);
    let Some(setting) = listed else {
        configs.insert(name.to_string(), value.to_string());
        return;
    };
    let current = configs
        .get(name)
        .or_else(|| node.config.topic_defaults.get(name))
        .map_or(setting.default, String::as_str);
    let mut words: Vec<&str> = current
        .split(',')
        .map(str::trim)
        .filter(|word| !word.is_empty())
        .collect();
    let given: Vec<&str> = value.split(',').map(str::trim).collect();
    words.retain(|word| !given.contains(word));
    if operation == operation::APPEND {
        words.extend(given);
    }
    let words = words.join(",");
    configs.insert(name.to_string(), words);
}
