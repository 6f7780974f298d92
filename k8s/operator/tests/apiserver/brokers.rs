//! The pods of a cluster as real broker processes: what the operator asks for is what works.

use crate::client::{batch_of, produce_request, Client, PRODUCE};
use crate::kubelet::{Kubelet, Process};
use crate::world::{blue, ready, run, variable, World, PATIENCE};
use kafscale_codec::error_code::ErrorCode;
use kafscale_codec::messages::*;
use serde_json::{json, Value};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::Arc;
use std::time::{Duration, Instant};

const PARTITIONS: i32 = 6;
const TOPIC: &str = "orders";

fn broker(index: u8) -> SocketAddr {
    SocketAddr::from(([127, 0, 77, 10 + index], 9092))
}

/// The leader of each partition, as any broker tells; none while there is a partition without.
fn leaders() -> Option<BTreeMap<i32, SocketAddr>> {
    let request = MetadataRequest {
        topics: Some(vec![MetadataRequestTopic {
            name: Some(TOPIC.to_string()),
            ..MetadataRequestTopic::default()
        }]),
        allow_auto_topic_creation: false,
        ..MetadataRequest::default()
    };
    let answer = (0..3).find_map(|index| Client::connect(broker(index)).ok()?.ask(9, &request).ok())?;
    let address = |id: i32| {
        let broker = answer.brokers.iter().find(|broker| broker.node_id == id)?;
        format!("{}:{}", broker.host, broker.port).parse().ok()
    };
    let topic = answer.topics.first()?;
    let pairs = topic.partitions.iter();
    pairs
        .map(|partition| Some((partition.partition_index, address(partition.leader_id)?)))
        .collect()
}

/// The brokers that one of them knows of.
fn known_brokers(index: u8) -> Vec<i32> {
    let nothing = MetadataRequest {
        topics: Some(Vec::new()),
        ..MetadataRequest::default()
    };
    let answer = Client::connect(broker(index)).unwrap().call(9, &nothing);
    let mut ids: Vec<i32> = answer.brokers.iter().map(|broker| broker.node_id).collect();
    ids.sort_unstable();
    ids
}

/// Writes one record after another until it is told to stop; returns what was acknowledged, by partition and offset.
fn produce(stop: &AtomicBool) -> BTreeMap<(i32, i64), Vec<u8>> {
    let mut acknowledged = BTreeMap::new();
    let mut number: u64 = 0;
    while !stop.load(Ordering::Relaxed) {
        number += 1;
        let partition = (number % PARTITIONS as u64) as i32;
        let value = format!("record {number}").into_bytes();
        let attempt = || -> Option<i64> {
            let leader = *leaders()?.get(&partition)?;
            let request = produce_request(TOPIC, partition, batch_of(&[&value]));
            let answer = Client::connect(leader).ok()?.ask(PRODUCE, &request).ok()?;
            let answer = answer.responses.first()?.partition_responses.first()?;
            (answer.error_code == ErrorCode::NONE).then_some(answer.base_offset)
        };
        match attempt() {
            Some(offset) => {
                assert_eq!(
                    acknowledged.insert((partition, offset), value),
                    None,
                    "an offset given twice"
                );
            }
            // Whether it was written is not known: another value next time.
            None => std::thread::sleep(Duration::from_millis(20)),
        }
    }
    acknowledged
}

fn assert_all_there(acknowledged: &BTreeMap<(i32, i64), Vec<u8>>) {
    let leaders = leaders().unwrap();
    let mut found = BTreeMap::new();
    for (partition, leader) in leaders {
        for record in Client::connect(leader).unwrap().read_from(TOPIC, partition, 0) {
            found.insert((partition, record.offset), record.value.unwrap().to_vec());
        }
    }
    for (place, value) in acknowledged {
        assert_eq!(found.get(place), Some(value), "acknowledged at {place:?}");
    }
}

/// What the broker's page of metrics says.
fn metrics_page(index: u8) -> String {
    use std::io::{Read, Write};
    let address = SocketAddr::from((broker(index).ip(), 9093));
    let mut stream = std::net::TcpStream::connect(address).unwrap();
    stream
        .write_all(b"GET /metrics HTTP/1.1\r\nHost: broker\r\nConnection: close\r\n\r\n")
        .unwrap();
    let mut page = String::new();
    stream.read_to_string(&mut page).unwrap();
    page
}

/// Every metric of the brokers that the chart's alerts and dashboards are about is on the page of a real one.
fn assert_the_chart_asks_for_what_is_there(page: &str) {
    let chart = concat!(env!("CARGO_MANIFEST_DIR"), "/../helm/kafscale");
    let dashboards = std::fs::read_dir(format!("{chart}/dashboards")).unwrap();
    let files = dashboards
        .map(|file| file.unwrap().path())
        .chain([format!("{chart}/alerts.yaml").into()]);
    let mut names = std::collections::BTreeSet::new();
    for file in files {
        let text = std::fs::read_to_string(file).unwrap();
        let words = text.split(|letter: char| !letter.is_ascii_alphanumeric() && letter != '_');
        let ours = words.filter(|word| word.starts_with("kafscale_") || word.starts_with("process_"));
        names.extend(
            ours.filter(|word| !word.starts_with("kafscale_operator_"))
                .map(str::to_string),
        );
    }
    assert!(names.len() > 20, "the chart asks for {names:?}");
    let has = |name: &str| page.lines().any(|line| line.starts_with(&format!("# TYPE {name} ")));
    for name in names {
        let family = ["_bucket", "_sum", "_count"]
            .iter()
            .find_map(|suffix| name.strip_suffix(suffix));
        assert!(has(&name) || family.is_some_and(has), "no broker tells {name}: {page}");
    }
}

/// Every broker is of the newest template, ready, and there are so many.
async fn is_settled(world: &World, brokers: u64, image: &str) -> bool {
    let cluster = world.get("KafscaleCluster", "blue").await.unwrap_or_default();
    let set = world.get("StatefulSet", "blue-broker").await.unwrap_or_default();
    let status = &set["status"];
    set["spec"]["template"]["spec"]["containers"][0]["image"] == image
        && set["spec"]["replicas"] == brokers
        && status["observedGeneration"] == set["metadata"]["generation"]
        && status["currentRevision"] == status["updateRevision"]
        && status["replicas"] == brokers
        && status["readyReplicas"] == brokers
        && ready(&cluster)["reason"] == "AllBrokersReady"
        && cluster["status"]["observedGeneration"] == cluster["metadata"]["generation"]
}

#[test]
#[ignore = "needs the API server of `make k8s`"]
fn the_pods_are_one_cluster_that_rolls_and_shrinks_without_losing_an_acknowledged_record() {
    run(async {
        let directory = tempfile::tempdir_in(variable("KAFSCALE_TEST_DIR")).unwrap();
        let etcd = kafscale_test_etcd::Cluster::start(1);
        let s3_port = kafscale_test_etcd::free_port("127.0.0.1");
        let s3_args = format!(
            "--root {}/s3 --addr 127.0.0.1:{s3_port} --bucket records",
            directory.path().display()
        );
        let s3_args: Vec<String> = s3_args.split(' ').map(str::to_string).collect();
        let _s3 = Process::start(
            "kafscale-test-s3",
            &s3_args,
            &BTreeMap::new(),
            &directory.path().join("s3.log"),
        );

        let world = World::new("brokers").await;
        let _operator = world.operator();
        world
            .create(
                json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "keys"},
                "stringData": {"KAFSCALE_S3_ACCESS_KEY": "test", "KAFSCALE_S3_SECRET_KEY": "secret"}}),
            )
            .await;
        let spec = |brokers: Value| {
            let mut cluster = blue(json!({
                "brokers": {"advertisedHost": "127.0.77.1$(KAFSCALE_BROKER_ID)"},
                "s3": {"endpoint": format!("http://127.0.0.1:{s3_port}"), "credentialsSecretRef": "keys"},
                "etcd": {"endpoints": etcd.endpoints()},
                "config": {"env": {"KAFSCALE_SHARDS": "1", "KAFSCALE_BROKER_LEASE_TTL_MS": "5000"}},
            }));
            for (key, value) in brokers.as_object().unwrap() {
                cluster["spec"]["brokers"][key] = value.clone();
            }
            cluster
        };
        let mut kubelet = Kubelet::new(&world, directory.path(), "127.0.77");
        world.apply(spec(json!({"image": "kafscale-broker:1"}))).await.unwrap();
        kubelet
            .work_until("three brokers are ready", async |world| {
                is_settled(world, 3, "kafscale-broker:1").await
            })
            .await;

        let created = Client::connect(broker(0))
            .unwrap()
            .ask_for_topic(TOPIC, PARTITIONS, &[]);
        assert_eq!(created, ErrorCode::NONE);
        let deadline = Instant::now() + PATIENCE;
        while (0..3).any(|index| known_brokers(index) != [0, 1, 2]) || leaders().is_none() {
            assert!(Instant::now() < deadline, "three brokers are not one cluster");
            tokio::time::sleep(Duration::from_millis(100)).await;
        }

        let stop = Arc::new(AtomicBool::new(false));
        let producer = std::thread::spawn({
            let stop = stop.clone();
            move || produce(&stop)
        });
        kubelet.watch_readiness();
        world.apply(spec(json!({"image": "kafscale-broker:2"}))).await.unwrap();
        kubelet
            .work_until("the update is rolled out", async |world| {
                is_settled(world, 3, "kafscale-broker:2").await
            })
            .await;
        assert_eq!(kubelet.ready_min, 2, "one broker at a time");
        world
            .apply(spec(json!({"image": "kafscale-broker:2", "replicas": 1})))
            .await
            .unwrap();
        kubelet
            .work_until("one broker is left", async |world| {
                is_settled(world, 1, "kafscale-broker:2").await
            })
            .await;
        stop.store(true, Ordering::Relaxed);
        let acknowledged = producer.join().unwrap();
        println!(
            "{} records acknowledged while brokers came and went",
            acknowledged.len()
        );
        assert!(acknowledged.len() > 100, "hardly any load");
        let deadline = Instant::now() + PATIENCE;
        while leaders().is_none_or(|leaders| leaders.values().any(|leader| *leader != broker(0))) {
            assert!(Instant::now() < deadline, "partitions without a leader");
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        assert_all_there(&acknowledged);
        assert_the_chart_asks_for_what_is_there(&metrics_page(0));
    });
}
