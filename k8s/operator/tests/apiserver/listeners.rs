//! Brokers that are reached from outside: each by its own Service.

use crate::client::{batch_of, produce_request, Client, PRODUCE};
use crate::kubelet::{bucket, Kubelet};
use crate::world::{blue, condition, ready, run, variable, World, PATIENCE};
use kafscale_codec::error_code::ErrorCode;
use kafscale_codec::messages::*;
use serde_json::{json, Value};
use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::time::{Duration, Instant};

/// What kube-proxy does: whoever connects to the Service's port of a node reaches the pod.
fn forward(from: SocketAddr, to: SocketAddr) {
    let listener = TcpListener::bind(from).unwrap();
    let pump = |mut from: TcpStream, mut to: TcpStream| {
        let mut bytes = [0; 4096];
        while let Ok(length @ 1..) = from.read(&mut bytes) {
            if to.write_all(&bytes[..length]).is_err() {
                break;
            }
        }
        let _ = to.shutdown(Shutdown::Write);
    };
    // Both end with the process of the test.
    std::thread::spawn(move || {
        for client in listener.incoming().flatten() {
            let Ok(pod) = TcpStream::connect(to) else { continue };
            let (client_too, pod_too) = (client.try_clone().unwrap(), pod.try_clone().unwrap());
            std::thread::spawn(move || pump(client, pod));
            std::thread::spawn(move || pump(pod_too, client_too));
        }
    });
}

async fn node_port(world: &World, index: u8) -> u16 {
    let service = world.get("Service", &format!("blue-broker-{index}")).await.unwrap();
    service["spec"]["ports"][0]["nodePort"].as_u64().unwrap() as u16
}

/// Where each broker says that clients reach it, as a broker tells.
fn advertised(at: SocketAddr) -> BTreeMap<i32, SocketAddr> {
    let nothing = MetadataRequest {
        topics: Some(Vec::new()),
        ..MetadataRequest::default()
    };
    let answer = Client::connect(at).unwrap().call(9, &nothing);
    let address = |broker: &MetadataResponseBroker| format!("{}:{}", broker.host, broker.port).parse().unwrap();
    answer
        .brokers
        .iter()
        .map(|broker| (broker.node_id, address(broker)))
        .collect()
}

#[test]
#[ignore = "needs the API server of `make k8s`"]
fn each_broker_is_reached_by_the_port_of_its_node_that_it_tells() {
    run(async {
        let directory = tempfile::tempdir_in(variable("KAFSCALE_TEST_DIR")).unwrap();
        let etcd = kafscale_test_etcd::Cluster::start(1);
        let world = World::new("node-ports").await;
        let _operator = world.operator();
        let (_s3, endpoint) = bucket(&world, directory.path()).await;
        let cluster = blue(json!({
            "brokers": {"replicas": 2, "external": {"type": "NodePort"}},
            "s3": {"endpoint": endpoint, "credentialsSecretRef": "keys"},
            "etcd": {"endpoints": etcd.endpoints()},
            "config": {"env": {"KAFSCALE_SHARDS": "1", "KAFSCALE_BROKER_LEASE_TTL_MS": "5000"}},
        }));
        world.apply(cluster).await.unwrap();
        let mut kubelet = Kubelet::new(&world, directory.path(), "127.0.81");
        let all_ready = async |world: &World| {
            let cluster = world.get("KafscaleCluster", "blue").await.unwrap();
            ready(&cluster)["reason"] == "AllBrokersReady" && cluster["status"]["readyBrokers"] == 2
        };
        kubelet.work_until("two brokers are ready", all_ready).await;
        let mut expected = BTreeMap::new();
        for index in 0..2 {
            let node = SocketAddr::from(([127, 0, 81, 10 + index], node_port(&world, index).await));
            forward(node, SocketAddr::from((node.ip(), 9092)));
            expected.insert(i32::from(index), node);
        }
        let deadline = Instant::now() + PATIENCE;
        while advertised(expected[&0]) != expected {
            assert!(
                Instant::now() < deadline,
                "{:?} instead of {expected:?}",
                advertised(expected[&0])
            );
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        // A client that knows these addresses and no others can write.
        let created = Client::connect(expected[&0]).unwrap().ask_for_topic("orders", 1, &[]);
        assert_eq!(created, ErrorCode::NONE);
        let request = produce_request("orders", 0, batch_of(&[b"from outside".as_slice()]));
        let writes = |at: &SocketAddr| {
            let answer = Client::connect(*at).unwrap().call(PRODUCE, &request);
            answer.responses[0].partition_responses[0].error_code == ErrorCode::NONE
        };
        while !expected.values().any(writes) {
            assert!(Instant::now() < deadline, "nobody takes a record");
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    });
}

/// What the cloud's controller does.
async fn give_address(world: &World, index: u8, ingress: Value) {
    let name = format!("blue-broker-{index}");
    world
        .until("Service", &name, "is there", |service| !service.is_null())
        .await;
    let status = json!({"status": {"loadBalancer": {"ingress": [ingress]}}});
    let (nobody, status) = (kube::api::PatchParams::default(), kube::api::Patch::Merge(status));
    world
        .api("Service")
        .patch_status(&name, &nobody, &status)
        .await
        .unwrap();
}

async fn until_file(world: &World, index: u8, host: &str) {
    let text = format!("broker_host = \"{host}\"\nbroker_port = 9092\n");
    world
        .until("ConfigMap", "blue-broker-listeners", host, |map| {
            map["data"][format!("{index}.toml")] == text
        })
        .await;
}

#[test]
#[ignore = "needs the API server of `make k8s`"]
fn brokers_wait_for_the_addresses_of_their_load_balancers_and_follow_them() {
    run(async {
        let world = World::new("balancers").await;
        let _operator = world.operator();
        let brokers =
            |replicas: i32| blue(json!({"brokers": {"replicas": replicas, "external": {"type": "LoadBalancer"}}}));
        world.apply(brokers(2)).await.unwrap();
        world.until_reason("WaitingForAddresses").await;
        give_address(&world, 0, json!({"ip": "192.0.2.10"})).await;
        until_file(&world, 0, "192.0.2.10").await;
        assert_eq!(
            world.get("StatefulSet", "blue-broker").await,
            None,
            "one has no address yet"
        );
        give_address(&world, 1, json!({"hostname": "one.example"})).await;
        until_file(&world, 1, "one.example").await;
        world.until_reason("BrokersNotReady").await;
        let stamp = "/spec/template/metadata/annotations/kafscale.io~1listeners";
        let set = world.get("StatefulSet", "blue-broker").await.unwrap();
        let first = set.pointer(stamp).unwrap().clone();

        // One more: nobody is restarted, and nobody is added before there is an address.
        world.apply(brokers(3)).await.unwrap();
        world
            .until("KafscaleCluster", "blue", "an address is missing", |cluster| {
                condition(cluster, "ListenersReady")["reason"] == "AddressesPending"
            })
            .await;
        assert_eq!(
            world.get("StatefulSet", "blue-broker").await.unwrap()["spec"]["replicas"],
            2
        );
        give_address(&world, 2, json!({"ip": "192.0.2.12"})).await;
        let set = world
            .until("StatefulSet", "blue-broker", "three brokers", |set| {
                set["spec"]["replicas"] == 3
            })
            .await;
        assert_eq!(set.pointer(stamp), Some(&first));

        // Another address of one that is there: brokers are restarted, to tell it.
        give_address(&world, 0, json!({"ip": "192.0.2.99"})).await;
        until_file(&world, 0, "192.0.2.99").await;
        let changes = |set: &Value| set.pointer(stamp).is_some_and(|stamp| *stamp != first);
        world
            .until("StatefulSet", "blue-broker", "another stamp", changes)
            .await;

        // Fewer, and none: what is left over goes.
        world.apply(brokers(1)).await.unwrap();
        for name in ["blue-broker-1", "blue-broker-2"] {
            world.until("Service", name, "goes", Value::is_null).await;
        }
        world.apply(blue(json!({"brokers": {"replicas": 1}}))).await.unwrap();
        world.until("Service", "blue-broker-0", "goes", Value::is_null).await;
        world
            .until("ConfigMap", "blue-broker-listeners", "goes", Value::is_null)
            .await;
        assert!(world.get("Service", "blue-broker").await.is_some(), "the others stay");
    });
}
