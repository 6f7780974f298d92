//! Topics of a real broker, through their resources.

use crate::client::Client;
use crate::fields::{spec_schema, uncovered};
use crate::kubelet::Process;
use crate::world::{blue, condition, run, variable, World, PATIENCE};
use kafscale_codec::error_code::ErrorCode;
use kafscale_codec::messages::*;
use kube::api::{Patch, PatchParams};
use serde_json::{json, Value};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

fn orders(changes: Value) -> Value {
    named("orders", changes)
}

fn named(name: &str, changes: Value) -> Value {
    let mut spec = json!({"clusterRef": "blue", "partitions": 2});
    for (key, value) in changes.as_object().unwrap() {
        spec[key] = value.clone();
    }
    json!({"apiVersion": "kafscale.io/v1alpha1", "kind": "KafscaleTopic", "metadata": {"name": name}, "spec": spec})
}

/// A broker alone, on the embedded store.
fn broker(address: SocketAddr, directory: &std::path::Path) -> Process {
    let variables = BTreeMap::from([
        ("KAFSCALE_BROKER_ADDR".to_string(), address.to_string()),
        ("KAFSCALE_METRICS_ADDR".to_string(), "127.0.0.1:0".to_string()),
        (
            "KAFSCALE_DATA_DIR".to_string(),
            directory.join("data").display().to_string(),
        ),
        ("KAFSCALE_SHARDS".to_string(), "1".to_string()),
        ("KAFSCALE_AUTO_CREATE_TOPICS".to_string(), "false".to_string()),
    ]);
    Process::start("kafscale-broker", &[], &variables, &directory.join("broker.log"))
}

async fn connect(address: SocketAddr) -> Client {
    let deadline = Instant::now() + PATIENCE;
    loop {
        match Client::connect(address) {
            Ok(client) => return client,
            Err(error) => assert!(Instant::now() < deadline, "{error}"),
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// Partitions and own settings of a topic; none if it is not there.
fn found(client: &mut Client, topic: &str) -> Option<(usize, BTreeMap<String, String>)> {
    let metadata = client.metadata(topic, false);
    if metadata.error_code == ErrorCode::UNKNOWN_TOPIC_OR_PARTITION {
        return None;
    }
    let request = DescribeConfigsRequest {
        resources: vec![DescribeConfigsResource {
            resource_type: 2,
            resource_name: topic.to_string(),
            configuration_keys: None,
        }],
        ..DescribeConfigsRequest::default()
    };
    let settings = client.call(4, &request).results.remove(0).configs;
    let own = settings.into_iter().filter(|setting| setting.config_source == 1);
    let own = own
        .map(|setting| (setting.name, setting.value.unwrap_or_default()))
        .collect();
    Some((metadata.partitions.len(), own))
}

fn settings(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
    pairs
        .iter()
        .map(|(name, value)| (name.to_string(), value.to_string()))
        .collect()
}

/// Somebody sets a setting by hand.
fn set_by_hand(client: &mut Client, topic: &str, name: &str, value: &str) {
    let request = IncrementalAlterConfigsRequest {
        resources: vec![IncrementalAlterConfigsResource {
            resource_type: 2,
            resource_name: topic.to_string(),
            configs: vec![IncrementalAlterableConfig {
                name: name.to_string(),
                config_operation: 0,
                value: Some(value.to_string()),
            }],
        }],
        validate_only: false,
    };
    assert_eq!(client.call(1, &request).responses[0].error_code, ErrorCode::NONE);
}

/// Lets the operator look now rather than within a minute.
async fn nudge(world: &World, topic: &str) {
    static NUMBER: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);
    let number = NUMBER.fetch_add(1, std::sync::atomic::Ordering::Relaxed).to_string();
    let patch = Patch::Merge(json!({"metadata": {"annotations": {"nudged": number}}}));
    let api = world.api("KafscaleTopic");
    api.patch(topic, &PatchParams::default(), &patch).await.unwrap();
}

async fn until_reason(world: &World, topic: &str, kind: &str, reason: &str) -> Value {
    world
        .until("KafscaleTopic", topic, reason, |found| {
            let condition = condition(found, kind);
            condition["reason"] == reason && condition["observedGeneration"] == found["metadata"]["generation"]
        })
        .await
}

/// A broker, a cluster of that name, and an operator that finds the broker.
struct Stage {
    world: World,
    address: SocketAddr,
    directory: tempfile::TempDir,
    _operator: crate::world::Operator,
}

impl Stage {
    async fn set(namespace: &str) -> Stage {
        let world = World::new(namespace).await;
        let port = kafscale_test_etcd::free_port("127.0.0.1");
        let address = SocketAddr::from(([127, 0, 0, 1], port));
        let operator = world.operator_with(&[("KAFSCALE_OPERATOR_BOOTSTRAP", &address.to_string())]);
        world.apply(blue(json!({}))).await.unwrap();
        Stage {
            world,
            address,
            directory: tempfile::tempdir_in(variable("KAFSCALE_TEST_DIR")).unwrap(),
            _operator: operator,
        }
    }
}

#[test]
#[ignore = "needs the API server of `make k8s`"]
fn a_topic_follows_every_field_of_its_resource() {
    run(async {
        let stage = Stage::set("topics").await;
        let world = &stage.world;
        let fields = [
            "clusterRef",
            "topicName",
            "partitions",
            "retentionMs",
            "retentionBytes",
            "config",
            "deletionPolicy",
        ];
        let schema = spec_schema(world, "kafscaletopics").await;
        assert_eq!(uncovered(&schema, "", &fields), [""; 0], "fields without a test");

        world.apply(orders(json!({"retentionMs": 3600000}))).await.unwrap();
        let waits = until_reason(world, "orders", "Ready", "ClusterUnreachable").await;
        assert_eq!(condition(&waits, "Ready")["status"], "False");
        let _broker = broker(stage.address, stage.directory.path());
        until_reason(world, "orders", "Ready", "Served").await;
        let mut client = connect(stage.address).await;
        assert_eq!(
            found(&mut client, "orders"),
            Some((2, settings(&[("retention.ms", "3600000")])))
        );

        let more = json!({"partitions": 4, "retentionBytes": 1048576, "config": {"segment.ms": "60000"}});
        world.apply(orders(more)).await.unwrap();
        until_reason(world, "orders", "InSync", "AsSpecified").await;
        let now = settings(&[("retention.bytes", "1048576"), ("segment.ms", "60000")]);
        assert_eq!(
            found(&mut client, "orders"),
            Some((4, now)),
            "retentionMs is said no more"
        );

        let odd = named("odd-name", json!({"topicName": "Odd_Name.1"}));
        world.apply(odd).await.unwrap();
        until_reason(world, "odd-name", "Ready", "Served").await;
        assert_eq!(found(&mut client, "Odd_Name.1"), Some((2, BTreeMap::new())));
        assert_eq!(found(&mut client, "odd-name"), None);

        world.apply(named("lost", json!({"clusterRef": "red"}))).await.unwrap();
        until_reason(world, "lost", "Ready", "ClusterMissing").await;
        world.delete("KafscaleTopic", "lost").await;
        world.until("KafscaleTopic", "lost", "goes", Value::is_null).await;

        world
            .apply(named("second", json!({"topicName": "orders"})))
            .await
            .unwrap();
        let taken = until_reason(world, "second", "Ready", "TopicTaken").await;
        assert!(condition(&taken, "Ready")["message"]
            .as_str()
            .unwrap()
            .contains("orders"));

        world
            .apply(named("wrong", json!({"config": {"no.such": "1"}})))
            .await
            .unwrap();
        let refused = until_reason(world, "wrong", "Ready", "BrokerRefuses").await;
        assert!(condition(&refused, "Ready")["message"]
            .as_str()
            .unwrap()
            .contains("no.such"));
        assert_eq!(found(&mut client, "wrong"), None);
    });
}

#[test]
#[ignore = "needs the API server of `make k8s`"]
fn drift_is_mended_where_the_spec_speaks_and_told_elsewhere() {
    run(async {
        let stage = Stage::set("drift").await;
        let world = &stage.world;
        let _broker = broker(stage.address, stage.directory.path());
        world.apply(orders(json!({"retentionMs": 3600000}))).await.unwrap();
        until_reason(world, "orders", "InSync", "AsSpecified").await;
        let mut client = connect(stage.address).await;

        set_by_hand(&mut client, "orders", "retention.ms", "7200000");
        set_by_hand(&mut client, "orders", "max.message.bytes", "2000000");
        nudge(world, "orders").await;
        let told = until_reason(world, "orders", "InSync", "ForeignSettings").await;
        let message = condition(&told, "InSync")["message"].clone();
        assert!(
            message.as_str().unwrap().contains("max.message.bytes=2000000"),
            "{message}"
        );
        let mended = settings(&[("max.message.bytes", "2000000"), ("retention.ms", "3600000")]);
        assert_eq!(found(&mut client, "orders"), Some((2, mended)));

        let grown = CreatePartitionsRequest {
            topics: vec![CreatePartitionsTopic {
                name: "orders".to_string(),
                count: 5,
                assignments: None,
            }],
            timeout_ms: 10_000,
            validate_only: false,
        };
        assert_eq!(client.call(3, &grown).results[0].error_code, ErrorCode::NONE);
        nudge(world, "orders").await;
        until_reason(world, "orders", "InSync", "MorePartitions").await;
        let config = json!({"max.message.bytes": "2000000"});
        let adopted = orders(json!({"partitions": 5, "retentionMs": 3600000, "config": config}));
        world.apply(adopted).await.unwrap();
        until_reason(world, "orders", "InSync", "AsSpecified").await;
    });
}

#[test]
#[ignore = "needs the API server of `make k8s`"]
fn a_topic_goes_with_its_resource_only_where_that_is_said_and_only_the_same_topic() {
    run(async {
        let stage = Stage::set("farewell").await;
        let world = &stage.world;
        let _broker = broker(stage.address, stage.directory.path());
        let deletes = json!({"deletionPolicy": "Delete"});
        for (name, changes) in [("kept", json!({})), ("gone", deletes.clone()), ("again", deletes)] {
            world.apply(named(name, changes)).await.unwrap();
            until_reason(world, name, "Ready", "Served").await;
        }
        let mut client = connect(stage.address).await;
        // The third is deleted and made again by hand: it is not the operator's any more.
        let request = DeleteTopicsRequest {
            topic_names: vec!["again".to_string()],
            timeout_ms: 10_000,
            ..DeleteTopicsRequest::default()
        };
        assert_eq!(client.call(5, &request).responses[0].error_code, ErrorCode::NONE);
        assert_eq!(client.ask_for_topic("again", 2, &[]), ErrorCode::NONE);
        nudge(world, "again").await;
        until_reason(world, "again", "InSync", "TopicReplaced").await;
        for name in ["kept", "gone", "again"] {
            world.delete("KafscaleTopic", name).await;
            world.until("KafscaleTopic", name, "goes", Value::is_null).await;
        }
        assert!(found(&mut client, "kept").is_some(), "the default is to retain");
        assert_eq!(found(&mut client, "gone"), None);
        assert_eq!(found(&mut client, "again").map(|(partitions, _)| partitions), Some(2));
    });
}

#[test]
#[ignore = "needs the API server of `make k8s`"]
fn bad_topics_and_changes_that_cannot_be_are_refused() {
    run(async {
        let world = World::new("bad-topics").await;
        for (changes, words) in [
            (json!({"partitions": 0}), "greater than or equal to 1"),
            (json!({"clusterRef": ""}), "at least 1 chars long"),
            (json!({"topicName": "a/b"}), "should match"),
            (json!({"retentionMs": -2}), "greater than or equal to -1"),
            (json!({"config": {"retention.ms": "1"}}), "set retentionMs instead"),
            (
                json!({"config": {"retention.bytes": "1"}}),
                "set retentionBytes instead",
            ),
            (json!({"deletionPolicy": "Perhaps"}), "Unsupported value"),
        ] {
            let refusal = world.apply(orders(changes)).await.expect_err(words);
            assert!(refusal.contains(words), "{words:?} is not in {refusal:?}");
        }
        world.apply(orders(json!({}))).await.unwrap();
        for (changes, words) in [
            (json!({"partitions": 1}), "partitions cannot be taken away"),
            (json!({"clusterRef": "red"}), "clusterRef cannot be changed"),
            (json!({"topicName": "other"}), "topicName cannot be changed"),
        ] {
            let refusal = world.apply(orders(changes)).await.expect_err(words);
            assert!(refusal.contains(words), "{words:?} is not in {refusal:?}");
        }
    });
}

/// More writes than the life of a topic takes.
const WRITES_MAX: u64 = 30;

#[test]
#[ignore = "needs the API server of `make k8s`"]
fn an_operator_killed_between_any_two_writes_gets_to_the_same_topic() {
    run(async {
        let directory = tempfile::tempdir_in(variable("KAFSCALE_TEST_DIR")).unwrap();
        let address = SocketAddr::from(([127, 0, 0, 1], kafscale_test_etcd::free_port("127.0.0.1")));
        let _broker = broker(address, directory.path());
        let mut client = connect(address).await;
        for stop_after in 1..=WRITES_MAX {
            let world = World::new(&format!("topic-crash-{stop_after}")).await;
            // No size at all: nothing but the topic is written about, and the cluster's status.
            world
                .apply(blue(json!({"config": {"cacheSize": "much"}})))
                .await
                .unwrap();
            let name = format!("orders-{stop_after}");
            let says = |partitions: i32, settings: Value| {
                let spec = json!({"partitions": partitions, "topicName": name, "deletionPolicy": "Delete"});
                let mut topic = orders(spec);
                for (key, value) in settings.as_object().unwrap() {
                    topic["spec"][key] = value.clone();
                }
                topic
            };
            let number = stop_after.to_string();
            let bootstrap = ("KAFSCALE_OPERATOR_BOOTSTRAP", address.to_string());
            let bootstrap = (bootstrap.0, bootstrap.1.as_str());
            let stops = ("KAFSCALE_OPERATOR_STOP_AFTER_WRITES", number.as_str());
            let mut fragile = world.operator_with(&[bootstrap, stops]);
            let mut sound = None;
            let steps = [
                says(2, json!({"retentionMs": 3600000})),
                says(4, json!({"config": {"segment.ms": "60000"}})),
            ];
            for step in steps {
                world.apply(step).await.unwrap();
                let deadline = Instant::now() + PATIENCE;
                loop {
                    let topic = world.get("KafscaleTopic", "orders").await.unwrap();
                    let told = condition(&topic, "InSync");
                    let generation = &topic["metadata"]["generation"];
                    if told["reason"] == "AsSpecified" && told["observedGeneration"] == *generation {
                        break;
                    }
                    if sound.is_none() && fragile.ended().is_some() {
                        sound = Some(world.operator_with(&[bootstrap]));
                    }
                    assert!(
                        Instant::now() < deadline,
                        "after {stop_after} writes and a death: {topic:#}"
                    );
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
            }
            let wanted = Some((4, settings(&[("segment.ms", "60000")])));
            assert_eq!(
                found(&mut client, &name),
                wanted,
                "after {stop_after} writes and a death"
            );
            world.delete("KafscaleTopic", "orders").await;
            let deadline = Instant::now() + PATIENCE;
            while world.get("KafscaleTopic", "orders").await.is_some() {
                if sound.is_none() && fragile.ended().is_some() {
                    sound = Some(world.operator_with(&[bootstrap]));
                }
                assert!(
                    Instant::now() < deadline,
                    "not deleted after {stop_after} writes and a death"
                );
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            assert_eq!(found(&mut client, &name), None);
            if sound.is_none() && fragile.ended().is_none() {
                println!("{} deaths, each after another write", stop_after - 1);
                assert!(stop_after > 9, "a topic's life takes more writes than that");
                return;
            }
        }
        panic!("the operator still writes after {WRITES_MAX} writes");
    });
}
