//! Nodes that do not let brokers run: real brokers that cannot start, and what the cluster says of it.

use crate::kubelet::{bucket, Kubelet};
use crate::world::{blue, condition, run, variable, World};
use serde_json::{json, Value};

/// One broker on a node that lets it lock `memlock` bytes, in a cluster that has all else; returns the condition.
async fn told(world: &World, brokers: Value, memlock: Option<u64>, reason: &str) -> Value {
    let directory = tempfile::tempdir_in(variable("KAFSCALE_TEST_DIR")).unwrap();
    let etcd = kafscale_test_etcd::Cluster::start(1);
    let (_s3, endpoint) = bucket(world, directory.path()).await;
    let mut cluster = one(brokers);
    cluster["spec"]["etcd"] = json!({"endpoints": etcd.endpoints()});
    cluster["spec"]["s3"] = json!({"bucket": "records", "endpoint": endpoint, "credentialsSecretRef": "keys"});
    let _operator = world.operator();
    world.apply(cluster).await.unwrap();
    let mut kubelet = Kubelet::new(world, directory.path(), "127.0.80");
    (kubelet.memlock, kubelet.may_end) = (memlock, true);
    let says_so = async |world: &World| {
        let cluster = world.get("KafscaleCluster", "blue").await.unwrap();
        condition(&cluster, "NodesSuitable")["reason"] == reason
    };
    kubelet.work_until(reason, says_so).await;
    let cluster = world.get("KafscaleCluster", "blue").await.unwrap();
    condition(&cluster, "NodesSuitable")
}

fn one(brokers: Value) -> Value {
    let mut cluster = blue(json!({"brokers": {"replicas": 1}, "config": {"env": {"KAFSCALE_SHARDS": "1"}}}));
    for (key, value) in brokers.as_object().unwrap() {
        cluster["spec"]["brokers"][key] = value.clone();
    }
    cluster
}

/// Waits for a warning about the cluster.
async fn until_an_event(world: &World, reason: &str) {
    let deadline = std::time::Instant::now() + crate::world::PATIENCE;
    loop {
        let events = world.api("Event").list(&Default::default()).await.unwrap();
        let mut events = events.items.iter().map(|event| json!(event));
        if events.any(|event| event["reason"] == reason && event["type"] == "Warning") {
            return;
        }
        assert!(std::time::Instant::now() < deadline, "no event {reason}");
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
}

#[test]
#[ignore = "needs the API server of `make k8s`"]
fn a_cluster_tells_of_nodes_that_forbid_what_brokers_need() {
    run(async {
        let world = World::new("forbidden").await;
        let forbidding = json!({"seccompProfile": {"type": "RuntimeDefault"}});
        let condition = told(&world, forbidding, None, "IoUringForbidden").await;
        assert_eq!(condition["status"], "False");
        let message = condition["message"].as_str().unwrap();
        assert!(
            message.starts_with("blue-broker-0 on node: ") && message.contains("seccompProfile"),
            "{message}"
        );
        until_an_event(&world, "IoUringForbidden").await;

        let world = World::new("little-memory").await;
        let condition = told(&world, json!({}), Some(65536), "MemlockTooLow").await;
        assert!(
            condition["message"].as_str().unwrap().contains("LimitMEMLOCK"),
            "{condition}"
        );
        until_an_event(&world, "MemlockTooLow").await;

        // The file is not on the node: containers are not made at all. These are a kubelet's words.
        let world = World::new("no-profile").await;
        let _operator = world.operator();
        world.apply(one(json!({}))).await.unwrap();
        world
            .until("Pod", "blue-broker-0", "is there", |pod| !pod.is_null())
            .await;
        let message = "failed to generate container spec opts: cannot load seccomp profile \
                       \"/var/lib/kubelet/seccomp/profiles/kafscale.json\": no such file or directory";
        let status = json!({"status": {"phase": "Pending", "containerStatuses": [{
            "name": "broker", "image": "i", "imageID": "", "ready": false, "restartCount": 0,
            "state": {"waiting": {"reason": "CreateContainerError", "message": message}},
        }]}});
        let nobody = kube::api::PatchParams::default();
        let told = kube::api::Patch::Merge(status);
        world
            .api("Pod")
            .patch_status("blue-broker-0", &nobody, &told)
            .await
            .unwrap();
        world
            .until("KafscaleCluster", "blue", "the missing profile", |cluster| {
                crate::world::condition(cluster, "NodesSuitable")["reason"] == "SeccompProfileMissing"
            })
            .await;
        until_an_event(&world, "SeccompProfileMissing").await;
    });
}
