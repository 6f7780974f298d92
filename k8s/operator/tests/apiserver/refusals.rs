//! What the API server refuses by itself, and what it says.

use crate::world::{blue, managed, run, World};
use serde_json::{json, Value};

#[test]
#[ignore = "needs the API server of `make k8s`"]
fn bad_clusters_are_refused_with_words_that_help() {
    run(async {
        let world = World::new("refusals").await;
        let mut long = blue(json!({}));
        long["metadata"]["name"] = json!("b".repeat(41));
        let cases: [(Value, &str); 15] = [
            (
                blue(json!({"brokers": {"replicas": 0}})),
                "a cluster has 1 to 1000 brokers",
            ),
            (
                blue(json!({"brokers": {"replicas": 1001}})),
                "a cluster has 1 to 1000 brokers",
            ),
            (
                blue(json!({"brokers": {"replicas": 3, "autoscaling": {"minReplicas": 1, "maxReplicas": 2}}})),
                "set replicas or autoscaling, not both",
            ),
            (
                blue(json!({"brokers": {"autoscaling": {"minReplicas": 3, "maxReplicas": 2}}})),
                "minReplicas is greater than maxReplicas",
            ),
            (
                blue(json!({"brokers": {"advertisedHost": "kafka.example"}})),
                "advertisedHost has to differ between brokers",
            ),
            (
                blue(json!({"brokers": {"advertisedPort": 0}})),
                "greater than or equal to 1",
            ),
            (
                blue(json!({"brokers": {"service": {"type": "ExternalName"}}})),
                "Unsupported value",
            ),
            (
                blue(json!({"config": {"env": {"PATH": "/"}}})),
                "settings of the broker begin with KAFSCALE_",
            ),
            (
                blue(json!({"config": {"segmentBytes": 1}})),
                "greater than or equal to 16384",
            ),
            (blue(json!({"etcd": {"endpoints": []}})), "should have at least 1 items"),
            (
                blue(json!({"etcd": {"snapshots": {"schedule": "hourly"}}})),
                "should match",
            ),
            (blue(json!({"etcd": {"restoreSnapshot": "../a.db"}})), "should match"),
            (blue(json!({"s3": {"bucket": ""}})), "should be at least 1 chars long"),
            (blue(json!({"s3": null})), "spec.s3"),
            (long, "the name may have 40 characters at most"),
        ];
        for (cluster, words) in cases {
            let refusal = world.apply(cluster.clone()).await.expect_err(words);
            assert!(refusal.contains(words), "{words:?} is not in {refusal:?}");
        }
        let single = blue(json!({"brokers": {"replicas": 1, "advertisedHost": "kafka.example"}}));
        world.apply(single).await.unwrap();
        let refusal = world.apply(managed(json!({}))).await.unwrap_err();
        assert!(
            refusal.contains("etcd.endpoints cannot be added or taken away"),
            "{refusal}"
        );
    });
}
