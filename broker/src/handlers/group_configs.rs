//! Settings of groups (resource type 32 of DescribeConfigs and IncrementalAlterConfigs): kept in the metastore, and in force
//! as soon as a broker's image has them. A group need not exist to be configured.

use super::configs::{operation, source, type_code, Change, Refusal, ATTEMPTS_MAX};
use super::topics::settle;
use crate::broker_config::ValueKind;
use crate::coordinator::{HEARTBEAT_INTERVAL_MS, SESSION_TIMEOUT_MS};
use crate::node::Node;
use kafscale_codec::error_code::ErrorCode;
use kafscale_codec::messages::{DescribeConfigsResourceResult, DescribeConfigsSynonym};
use kafscale_metastore::group_configs::{load_group_config, update_group_config};
use kafscale_metastore::keys::GroupConfigRecord;
use kafscale_metastore::operation::OperationError;
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

/// What values a setting has.
#[derive(Debug, Clone, Copy)]
enum Values {
    /// Whole numbers within these bounds, both included: Kafka's defaults for what a broker allows.
    Number(i32, i32),
    Words(&'static [&'static str]),
}
use Values::{Number, Words};

/// A setting of groups.
#[derive(Debug)]
struct GroupSetting {
    name: &'static str,
    default: &'static str,
    values: Values,
    doc: &'static str,
}

const NO_STREAMS: &str =
    "Accepted so that tools work; without effect: groups of Kafka Streams use the classic protocol here.";
const NO_SHARES: &str = "Accepted so that tools work; without effect: share groups are not served.";

/// All that Kafka has.
const GROUP_SETTINGS: &[GroupSetting] = &[
    setting(
        "consumer.assignment.interval.ms",
        "0",
        Number(0, 15_000),
        "Accepted so that tools work; without effect: groups assign as soon as a member changes.",
    ),
    setting(
        HEARTBEAT_INTERVAL_MS,
        "5000",
        Number(5_000, 15_000),
        "How often members of the consumer protocol give a sign of life.",
    ),
    setting(
        SESSION_TIMEOUT_MS,
        "45000",
        Number(45_000, 60_000),
        "Without a sign of life for this long, a member of the consumer protocol is out.",
    ),
    setting("share.assignment.interval.ms", "1000", Number(0, 15_000), NO_SHARES),
    setting(
        "share.auto.offset.reset",
        "latest",
        Words(&["latest", "earliest"]),
        NO_SHARES,
    ),
    setting("share.delivery.count.limit", "5", Number(2, 10), NO_SHARES),
    setting("share.heartbeat.interval.ms", "5000", Number(5_000, 15_000), NO_SHARES),
    setting(
        "share.isolation.level",
        "read_uncommitted",
        Words(&["read_uncommitted", "read_committed"]),
        NO_SHARES,
    ),
    setting(
        "share.partition.max.record.locks",
        "2000",
        Number(100, 10_000),
        NO_SHARES,
    ),
    setting(
        "share.record.lock.duration.ms",
        "30000",
        Number(15_000, 60_000),
        NO_SHARES,
    ),
    setting(
        "share.renew.acknowledge.enable",
        "true",
        Words(&["true", "false"]),
        NO_SHARES,
    ),
    setting("share.session.timeout.ms", "45000", Number(45_000, 60_000), NO_SHARES),
    setting("streams.assignment.interval.ms", "1000", Number(0, 15_000), NO_STREAMS),
    setting(
        "streams.heartbeat.interval.ms",
        "5000",
        Number(5_000, 15_000),
        NO_STREAMS,
    ),
    setting(
        "streams.initial.rebalance.delay.ms",
        "3000",
        Number(0, i32::MAX),
        NO_STREAMS,
    ),
    setting("streams.num.standby.replicas", "0", Number(0, 2), NO_STREAMS),
    setting(
        "streams.session.timeout.ms",
        "45000",
        Number(45_000, 60_000),
        NO_STREAMS,
    ),
];

const fn setting(name: &'static str, default: &'static str, values: Values, doc: &'static str) -> GroupSetting {
    GroupSetting {
        name,
        default,
        values,
        doc,
    }
}

impl GroupSetting {
    fn kind(&self) -> ValueKind {
        match self.values {
            Number(..) => ValueKind::Int,
            Words(&["true", "false"]) => ValueKind::Bool,
            Words(_) => ValueKind::Text,
        }
    }

    /// Kafka's name for the broker-wide value.
    fn broker_wide_name(&self) -> String {
        match self.values {
            Number(..) => format!("group.{}", self.name),
            Words(_) => self.name.to_string(),
        }
    }

    /// The value of a group that does not set it: the broker's, where brokers have one.
    fn default(&self, node: &Node) -> String {
        let mut of_broker = node.config.broker_configs.iter();
        let found = of_broker.find(|config| config.name.strip_prefix("group.") == Some(self.name));
        found.map_or(self.default.to_string(), |config| config.value.clone())
    }

    fn check(&self, value: &str) -> Result<(), Refusal> {
        let reason = match self.values {
            Number(min, max) => match value.trim().parse::<i32>() {
                Ok(number) if (min..=max).contains(&number) => return Ok(()),
                Ok(_) => format!("value must be between {min} and {max}"),
                Err(_) => "not a number of this type".to_string(),
            },
            Words(words) if words.contains(&value.trim()) => return Ok(()),
            Words(words) => format!("value must be one of: {}", words.join(", ")),
        };
        Err(invalid(format!(
            "Invalid value {value} for configuration {}: {reason}",
            self.name
        )))
    }
}

fn invalid(why: String) -> Refusal {
    (ErrorCode::INVALID_CONFIG, why)
}

fn check_name(group: &str) -> Result<(), Refusal> {
    match group.is_empty() {
        true => Err((ErrorCode::INVALID_REQUEST, "a group's settings need its id".to_string())),
        false => Ok(()),
    }
}

pub(super) fn describe(
    node: &Node,
    group: &str,
    wanted: impl Fn(&str) -> bool,
) -> Result<Vec<DescribeConfigsResourceResult>, Refusal> {
    check_name(group)?;
    let image = node.image();
    let set = image.group_configs.get(group).map(|set| &set.configs);
    let settings = GROUP_SETTINGS.iter().filter(|setting| wanted(setting.name));
    let described = settings.map(|setting| {
        let own = set.and_then(|set| set.get(setting.name));
        let default = setting.default(node);
        let synonym = |name: String, value: &str, source| DescribeConfigsSynonym {
            name,
            value: Some(value.trim().to_string()),
            source,
        };
        let own = own.map(|value| synonym(setting.name.to_string(), value, source::GROUP));
        let mut synonyms: Vec<_> = own.into_iter().collect();
        synonyms.push(synonym(setting.broker_wide_name(), &default, source::DEFAULT));
        DescribeConfigsResourceResult {
            name: setting.name.to_string(),
            value: synonyms[0].value.clone(),
            config_source: synonyms[0].source,
            config_type: type_code(setting.kind()),
            documentation: Some(setting.doc.to_string()),
            synonyms,
            ..DescribeConfigsResourceResult::default()
        }
    });
    Ok(described.collect())
}

pub(super) async fn alter(node: &Rc<Node>, group: &str, change: &Change, validate_only: bool) -> Result<(), Refusal> {
    check_name(group)?;
    let failed = |error: OperationError| {
        log::warn!("change the settings of group {group}: {error}");
        let why = format!("the metastore did not change the group's settings: {error}");
        (ErrorCode::REQUEST_TIMED_OUT, why)
    };
    for _ in 0..ATTEMPTS_MAX {
        let stored = load_group_config(&*node.metastore, group).await.map_err(failed)?;
        let (now, revision) = match stored {
            Some(stored) => (stored.value.configs, Some(stored.mod_revision)),
            None => (BTreeMap::new(), None),
        };
        let configs = changed(&now, change)?;
        check(node, &configs)?;
        if validate_only || configs == now {
            return Ok(());
        }
        let record = GroupConfigRecord { configs };
        match update_group_config(&*node.metastore, group, revision, &record).await {
            Ok(revision) => {
                log::info!("settings of group {group} are now {:?}", record.configs);
                settle(node, |image| {
                    let seen = image.group_configs.get(group);
                    seen.is_some_and(|set| set.mod_revision >= revision)
                })
                .await;
                return Ok(());
            }
            Err(OperationError::Conflict) => {}
            Err(error) => return Err(failed(error)),
        }
    }
    let why = format!("others keep changing the settings of group {group}");
    Err((ErrorCode::REQUEST_TIMED_OUT, why))
}

fn changed(now: &BTreeMap<String, String>, change: &Change) -> Result<BTreeMap<String, String>, Refusal> {
    let null = |name: &str| {
        let why = format!("Null value not supported for group configs: {name}");
        (ErrorCode::INVALID_REQUEST, why)
    };
    let given = |name: &String, value: &Option<String>| value.clone().ok_or_else(|| null(name));
    let steps = match change {
        Change::Replace(configs) => {
            let configs = configs.iter();
            return configs
                .map(|(name, value)| Ok((name.clone(), given(name, value)?)))
                .collect();
        }
        Change::Steps(steps) => steps,
    };
    let (mut configs, mut seen) = (now.clone(), BTreeSet::new());
    for (step, name, value) in steps {
        if !seen.insert(name) {
            let why = format!("{name} is changed twice in one request");
            return Err((ErrorCode::INVALID_REQUEST, why));
        }
        match *step {
            operation::SET => drop(configs.insert(name.clone(), given(name, value)?)),
            operation::DELETE => drop(configs.remove(name)),
            operation::APPEND | operation::SUBTRACT => {
                return Err(invalid(format!(
                    "{name} is no list: nothing can be appended or subtracted"
                )));
            }
            other => {
                let why = format!("operation {other} on {name} is not known");
                return Err((ErrorCode::INVALID_REQUEST, why));
            }
        }
    }
    Ok(configs)
}

/// Whether a group can have these settings.
fn check(node: &Node, configs: &BTreeMap<String, String>) -> Result<(), Refusal> {
    for (name, value) in configs {
        let setting = GROUP_SETTINGS.iter().find(|setting| setting.name == name);
        setting
            .ok_or_else(|| invalid(format!("Unknown group config name: {name}")))?
            .check(value)?;
    }
    let number = |name: &str| {
        let setting = GROUP_SETTINGS.iter().find(|setting| setting.name == name)?;
        let value = configs.get(name).cloned().unwrap_or_else(|| setting.default(node));
        value.trim().parse::<i64>().ok()
    };
    let own = [SESSION_TIMEOUT_MS, HEARTBEAT_INTERVAL_MS].map(|name| configs.contains_key(name));
    match own.contains(&true) && number(SESSION_TIMEOUT_MS) <= number(HEARTBEAT_INTERVAL_MS) {
        true => Err(invalid(format!(
            "{SESSION_TIMEOUT_MS} must be greater than {HEARTBEAT_INTERVAL_MS}"
        ))),
        false => Ok(()),
    }
}
