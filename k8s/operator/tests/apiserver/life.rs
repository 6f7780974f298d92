//! A cluster's life: created, scaled, broken, shared with others, deleted.

use crate::world::{blue, run, World, OWNED, PATIENCE};
use kube::api::{Patch, PatchParams};
use serde_json::json;
use std::time::{Duration, Instant};

#[test]
#[ignore = "needs the API server of `make k8s`"]
fn a_cluster_comes_scales_and_goes_with_all_it_owns() {
    run(async {
        let world = World::new("life").await;
        let _operator = world.operator();
        world.apply(blue(json!({}))).await.unwrap();
        world.until_reason("BrokersNotReady").await;
        assert_eq!(world.owned().await.len(), OWNED.len() - 1, "all but the autoscaler");
        for replicas in [3, 5, 1] {
            world
                .apply(blue(json!({"brokers": {"replicas": replicas}})))
                .await
                .unwrap();
            let cluster = world
                .until("KafscaleCluster", "blue", &format!("{replicas} brokers"), |cluster| {
                    cluster["status"]["brokers"] == replicas
                })
                .await;
            assert_eq!(cluster["status"]["readyBrokers"], 0, "no kubelet runs them");
        }
        world.delete("KafscaleCluster", "blue").await;
        let deadline = Instant::now() + PATIENCE;
        while !world.owned().await.is_empty() {
            assert!(Instant::now() < deadline, "left: {:?}", world.owned().await);
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    });
}

#[test]
#[ignore = "needs the API server of `make k8s`"]
fn each_owned_object_comes_back_when_it_is_deleted() {
    run(async {
        let world = World::new("broken").await;
        let _operator = world.operator();
        let autoscaled = blue(json!({"brokers": {"autoscaling": {"minReplicas": 2, "maxReplicas": 4}}}));
        world.apply(autoscaled).await.unwrap();
        world
            .until("HorizontalPodAutoscaler", "blue-broker", "is there", |found| {
                !found.is_null()
            })
            .await;
        let before = world.owned().await;
        assert_eq!(before.len(), OWNED.len());
        for (kind, name) in OWNED {
            let first = world.get(kind, name).await.unwrap()["metadata"]["uid"].clone();
            world.delete(kind, name).await;
            world
                .until(kind, name, "comes back", |found| {
                    !found.is_null() && found["metadata"]["uid"] != first
                })
                .await;
        }
        let deadline = Instant::now() + PATIENCE;
        while world.owned().await != before {
            assert!(Instant::now() < deadline, "{:#?}", world.owned().await);
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    });
}

#[test]
#[ignore = "needs the API server of `make k8s`"]
fn what_others_set_stays() {
    run(async {
        let world = World::new("foreign").await;
        let _operator = world.operator();
        let autoscaling = json!({"minReplicas": 2, "maxReplicas": 9});
        world
            .apply(blue(json!({"brokers": {"autoscaling": autoscaling}})))
            .await
            .unwrap();
        world
            .until("HorizontalPodAutoscaler", "blue-broker", "is there", |found| {
                !found.is_null()
            })
            .await;
        for (kind, name) in OWNED {
            let api_version = world.get(kind, name).await.unwrap()["apiVersion"].clone();
            let theirs = json!({
                "apiVersion": api_version, "kind": kind,
                "metadata": {"name": name, "annotations": {"theirs": "stays"}, "labels": {"team": "blue"}},
            });
            world.apply_as("somebody-else", theirs).await.unwrap();
        }
        // As the autoscaler does it.
        let scale = json!({"spec": {"replicas": 7}});
        world
            .api("StatefulSet")
            .patch_scale("blue-broker", &PatchParams::default(), &Patch::Merge(scale))
            .await
            .unwrap();
        let changed = json!({
            "brokers": {"autoscaling": {"minReplicas": 3, "maxReplicas": 9}, "image": "kafscale-broker:next",
                "service": {"annotations": {"ours": "new"}}, "serviceAccountAnnotations": {"ours": "new"}},
        });
        world.apply(blue(changed)).await.unwrap();
        world
            .until("HorizontalPodAutoscaler", "blue-broker", "the change", |found| {
                found["spec"]["minReplicas"] == 3
            })
            .await;
        for (kind, name) in OWNED {
            let found = world.get(kind, name).await.unwrap();
            assert_eq!(found["metadata"]["annotations"]["theirs"], "stays", "{kind} {name}");
            assert_eq!(found["metadata"]["labels"]["team"], "blue", "{kind} {name}");
        }
        let set = world.get("StatefulSet", "blue-broker").await.unwrap();
        assert_eq!(set["spec"]["replicas"], 7, "the autoscaler's");
        assert_eq!(
            set["spec"]["template"]["spec"]["containers"][0]["image"],
            "kafscale-broker:next"
        );
        // Without the autoscaler the number is the operator's again, and the autoscaler goes.
        world.apply(blue(json!({"brokers": {"replicas": 2}}))).await.unwrap();
        world
            .until(
                "HorizontalPodAutoscaler",
                "blue-broker",
                "goes",
                serde_json::Value::is_null,
            )
            .await;
        world
            .until("StatefulSet", "blue-broker", "2 brokers", |set| {
                set["spec"]["replicas"] == 2
            })
            .await;
    });
}

#[test]
#[ignore = "needs the API server of `make k8s`"]
fn somebody_elses_object_of_the_same_name_is_left_alone() {
    run(async {
        let world = World::new("taken").await;
        let theirs = json!({
            "apiVersion": "v1", "kind": "Service", "metadata": {"name": "blue-broker"},
            "spec": {"ports": [{"port": 1}], "selector": {"app": "theirs"}},
        });
        world.create(theirs).await;
        let before = world.get("Service", "blue-broker").await;
        let operator = world.operator();
        world.apply(blue(json!({}))).await.unwrap();
        let deadline = Instant::now() + PATIENCE;
        while operator.metric("kafscale_operator_reconcile_errors_total").unwrap_or(0) < 2 {
            assert!(Instant::now() < deadline, "{}", operator.log());
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        assert_eq!(world.get("Service", "blue-broker").await, before);
    });
}
