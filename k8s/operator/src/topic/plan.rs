//! What has to be done about a topic, and what is told of it: decided from its spec and from the topic as it was found.

use super::kafka::Topic;
use crate::crd::{KafscaleTopic, TopicStatus};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use kube::ResourceExt;
use std::collections::BTreeMap;

/// The topic's name in Kafka.
pub fn name(topic: &KafscaleTopic) -> String {
    topic.spec.topic_name.clone().unwrap_or_else(|| topic.name_any())
}

/// The settings that the spec gives.
pub fn config(topic: &KafscaleTopic) -> BTreeMap<String, String> {
    let spec = &topic.spec;
    let mut config = spec.config.clone();
    let own = [
        ("retention.ms", spec.retention_ms),
        ("retention.bytes", spec.retention_bytes),
    ];
    config.extend(
        own.into_iter()
            .filter_map(|(name, value)| Some((name.to_string(), value?.to_string()))),
    );
    config
}

/// What to do, in this order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// There is no such topic.
    Create,
    /// To this many partitions.
    Grow(i32),
    /// These settings; one without a value goes back to its default.
    Alter(BTreeMap<String, Option<String>>),
}

/// The steps from `found` to what `topic` asks for. None: it is so.
pub fn steps(topic: &KafscaleTopic, found: Option<&Topic>) -> Vec<Step> {
    let Some(found) = found else {
        return vec![Step::Create];
    };
    let wanted = config(topic);
    let mut changes: BTreeMap<String, Option<String>> = wanted
        .iter()
        .filter(|(name, value)| found.config.get(*name) != Some(*value))
        .map(|(name, value)| (name.clone(), Some(value.clone())))
        .collect();
    // What we set once and the spec does not say any more; what others set is theirs.
    let dropped = managed(topic).iter().filter(|name| !wanted.contains_key(*name));
    changes.extend(
        dropped
            .filter(|name| found.config.contains_key(*name))
            .map(|name| (name.clone(), None)),
    );
    let mut steps = Vec::new();
    if found.partitions < topic.spec.partitions {
        steps.push(Step::Grow(topic.spec.partitions));
    }
    if !changes.is_empty() {
        steps.push(Step::Alter(changes));
    }
    steps
}

fn managed(topic: &KafscaleTopic) -> &[String] {
    topic.status.as_ref().map_or(&[], |status| &status.managed_config)
}

/// The id of the topic that the resource was about before, where `found` is another of the same name.
fn replaced<'a>(topic: &'a KafscaleTopic, found: &Topic) -> Option<&'a String> {
    let before = topic.status.as_ref().and_then(|status| status.topic_id.as_ref());
    before.filter(|before| **before != found.id.to_string())
}

/// How the topic differs from its spec in what the operator does not change.
pub fn drift(topic: &KafscaleTopic, found: &Topic) -> Vec<(&'static str, String)> {
    let mut drift = Vec::new();
    if let Some(before) = replaced(topic, found) {
        let now = found.id;
        drift.push((
            "TopicReplaced",
            format!("somebody deleted the topic with the id {before} and made another, {now}: it is not deleted with this resource, unless the resource is made again"),
        ));
    }
    if found.partitions > topic.spec.partitions {
        let (has, wants) = (found.partitions, topic.spec.partitions);
        drift.push((
            "MorePartitions",
            format!("the topic has {has} partitions, not {wants}: they cannot be taken away, so set spec.partitions to {has}"),
        ));
    }
    let wanted = config(topic);
    let foreign: Vec<_> = found
        .config
        .iter()
        .filter(|(name, _)| !wanted.contains_key(*name))
        .map(|(name, value)| format!("{name}={value}"))
        .collect();
    if !foreign.is_empty() {
        let list = foreign.join(", ");
        drift.push((
            "ForeignSettings",
            format!("set on the topic, but not in the spec: {list}; add them to spec.config, or remove them with kafka-configs"),
        ));
    }
    drift
}

/// What came out of a round.
#[derive(Debug, Clone, PartialEq)]
pub enum Outcome {
    /// The topic as it is now.
    Found(Topic),
    /// The topic as it is now, made in this round.
    Created(Topic),
    /// Reason, as one word, and what to do.
    Failed(&'static str, String),
}

/// The status of `topic`; `now` dates conditions that change.
pub fn status(topic: &KafscaleTopic, outcome: &Outcome, now: &Time) -> TopicStatus {
    let before = topic.status.clone().unwrap_or_default();
    let ready = match outcome {
        Outcome::Found(found) | Outcome::Created(found) => {
            (true, "Served".to_string(), format!("{} partitions", found.partitions))
        }
        Outcome::Failed(reason, message) => (false, (*reason).to_string(), message.clone()),
    };
    let mut conditions = vec![condition(topic, &before, "Ready", ready, now)];
    match outcome {
        Outcome::Found(found) | Outcome::Created(found) => {
            let mut drift = drift(topic, found);
            // What we made ourselves is ours, whatever was there before.
            drift.retain(|(reason, _)| *reason != "TopicReplaced" || matches!(outcome, Outcome::Found(_)));
            let told = match drift.first() {
                None => (
                    true,
                    "AsSpecified".to_string(),
                    "the topic is as the spec says".to_string(),
                ),
                Some((reason, _)) => {
                    let messages: Vec<_> = drift.iter().map(|(_, message)| message.as_str()).collect();
                    (false, (*reason).to_string(), messages.join("; "))
                }
            };
            conditions.push(condition(topic, &before, "InSync", told, now));
        }
        // What was known last is still what is known.
        Outcome::Failed(..) => conditions.extend(before.conditions.iter().find(|old| old.type_ == "InSync").cloned()),
    }
    let (id, partitions, managed_config) = match outcome {
        Outcome::Found(found) | Outcome::Created(found) => {
            let known = match outcome {
                Outcome::Found(_) => replaced(topic, found).cloned(),
                _ => None,
            };
            let id = known.unwrap_or_else(|| found.id.to_string());
            (Some(id), Some(found.partitions), config(topic).into_keys().collect())
        }
        Outcome::Failed(..) => (before.topic_id, before.partitions, before.managed_config),
    };
    TopicStatus {
        observed_generation: topic.metadata.generation,
        topic_id: id,
        partitions,
        managed_config,
        conditions,
    }
}

/// The condition as it is now; its time moves only when its status does.
fn condition(
    topic: &KafscaleTopic,
    before: &TopicStatus,
    kind: &str,
    (holds, reason, message): (bool, String, String),
    now: &Time,
) -> Condition {
    let status = if holds { "True" } else { "False" };
    let old = before.conditions.iter();
    let mut since = old
        .filter(|old| old.type_ == kind && old.status == status)
        .map(|old| old.last_transition_time.clone());
    Condition {
        type_: kind.to_string(),
        status: status.to_string(),
        reason,
        message,
        observed_generation: topic.metadata.generation,
        last_transition_time: since.next().unwrap_or_else(|| now.clone()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use kafscale_codec::types::TopicId;
    use serde_json::{json, Value};

    fn topic(spec: Value, managed: &[&str]) -> KafscaleTopic {
        let status = json!({"managedConfig": managed});
        let mut object = json!({
            "apiVersion": "kafscale.io/v1alpha1", "kind": "KafscaleTopic", "metadata": {"name": "orders", "generation": 3},
            "spec": {"clusterRef": "blue", "partitions": 4}, "status": status,
        });
        for (key, value) in spec.as_object().unwrap() {
            object["spec"][key] = value.clone();
        }
        serde_json::from_value(object).unwrap()
    }

    fn found(partitions: i32, config: &[(&str, &str)]) -> Topic {
        Topic {
            id: TopicId([7; 16]),
            partitions,
            config: config
                .iter()
                .map(|(name, value)| (name.to_string(), value.to_string()))
                .collect(),
        }
    }

    #[test]
    fn a_topic_is_created_then_grown_and_changed_only_where_it_differs() {
        let wanted = topic(json!({"retentionMs": 5, "config": {"segment.ms": "60000"}}), &[]);
        assert_eq!(steps(&wanted, None), [Step::Create]);
        let as_wanted = found(4, &[("retention.ms", "5"), ("segment.ms", "60000")]);
        assert_eq!(steps(&wanted, Some(&as_wanted)), []);
        let changes = BTreeMap::from([("retention.ms".to_string(), Some("5".to_string()))]);
        let differs = found(2, &[("retention.ms", "6"), ("segment.ms", "60000")]);
        assert_eq!(steps(&wanted, Some(&differs)), [Step::Grow(4), Step::Alter(changes)]);
    }

    #[test]
    fn only_settings_of_ours_are_taken_back() {
        let wanted = topic(json!({}), &["retention.ms"]);
        let differs = found(4, &[("retention.ms", "6"), ("segment.ms", "60000")]);
        let changes = BTreeMap::from([("retention.ms".to_string(), None)]);
        assert_eq!(steps(&wanted, Some(&differs)), [Step::Alter(changes)]);
    }

    #[test]
    fn what_is_not_changed_is_told() {
        let wanted = topic(json!({}), &[]);
        let differs = found(6, &[("segment.ms", "60000")]);
        assert_eq!(steps(&wanted, Some(&differs)), []);
        let status = status(
            &wanted,
            &Outcome::Found(differs),
            &Time(k8s_openapi::jiff::Timestamp::UNIX_EPOCH),
        );
        let in_sync = &status.conditions[1];
        assert_eq!(
            (in_sync.status.as_str(), in_sync.reason.as_str()),
            ("False", "MorePartitions")
        );
        assert!(in_sync.message.contains("set spec.partitions to 6"));
        assert!(in_sync.message.contains("segment.ms=60000"));
    }

    #[test]
    fn another_topic_of_the_same_name_is_told_and_does_not_become_ours_unless_we_made_it() {
        let mut wanted = topic(json!({}), &[]);
        let now = Time(k8s_openapi::jiff::Timestamp::UNIX_EPOCH);
        wanted.status = Some(status(&wanted, &Outcome::Found(found(4, &[])), &now));
        let other = Topic {
            id: TopicId([8; 16]),
            ..found(4, &[])
        };
        let theirs = status(&wanted, &Outcome::Found(other.clone()), &now);
        assert_eq!(theirs.topic_id, Some(TopicId([7; 16]).to_string()));
        assert_eq!(theirs.conditions[1].reason, "TopicReplaced");
        let ours = status(&wanted, &Outcome::Created(other), &now);
        assert_eq!(ours.topic_id, Some(TopicId([8; 16]).to_string()));
        assert_eq!(ours.conditions[1].reason, "AsSpecified");
    }

    #[test]
    fn a_failed_round_keeps_what_was_known() {
        let mut wanted = topic(json!({}), &["retention.ms"]);
        let now = Time(k8s_openapi::jiff::Timestamp::UNIX_EPOCH);
        wanted.status = Some(status(&wanted, &Outcome::Found(found(4, &[])), &now));
        let failed = status(&wanted, &Outcome::Failed("Unreachable", "wait".to_string()), &now);
        assert_eq!(
            (failed.partitions, failed.conditions[1].status.as_str()),
            (Some(4), "True")
        );
        assert_eq!(failed.conditions[0].reason, "Unreachable");
    }
}
