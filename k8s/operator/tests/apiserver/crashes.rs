//! The operator dies right after each of its writes, and the next one gets to the same objects.

use crate::world::{blue, run, World, OWNED, PATIENCE};
use serde_json::{json, Value};
use std::time::{Duration, Instant};

/// More writes than the steps below take.
const WRITES_MAX: u64 = 40;

/// What changes: an autoscaler comes and goes, so that a deletion is among the writes.
fn steps() -> [Value; 2] {
    [
        blue(json!({"brokers": {"autoscaling": {"minReplicas": 2, "maxReplicas": 4}}})),
        blue(json!({"brokers": {"replicas": 2, "image": "kafscale-broker:next"}})),
    ]
}

/// Waits for the state after `step`; whether the operator lived so long.
async fn reaches(world: &World, step: usize, alive: &mut impl FnMut() -> bool) -> bool {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let generation = world.get("KafscaleCluster", "blue").await.unwrap();
        let told = generation["status"]["observedGeneration"] == generation["metadata"]["generation"];
        let autoscaler = world.get("HorizontalPodAutoscaler", "blue-broker").await.is_some();
        if told && autoscaler == (step == 0) {
            return true;
        }
        if !alive() {
            return false;
        }
        assert!(Instant::now() < deadline, "step {step} in {}", world.namespace);
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[test]
#[ignore = "needs the API server of `make k8s`"]
fn an_operator_killed_between_any_two_writes_gets_to_the_same_objects() {
    run(async {
        let mut expected: Option<Vec<Value>> = None;
        for stop_after in 1..=WRITES_MAX {
            let world = World::new(&format!("crash-{stop_after}")).await;
            let mut died = false;
            let number = stop_after.to_string();
            let mut fragile = world.operator_with(&[("KAFSCALE_OPERATOR_STOP_AFTER_WRITES", &number)]);
            let mut sound = None;
            for (step, cluster) in steps().into_iter().enumerate() {
                world.apply(cluster).await.unwrap();
                while !reaches(&world, step, &mut || died || fragile.ended().is_none()).await {
                    died = true;
                    sound = Some(world.operator());
                }
            }
            // The steps may be reached by a write that the operator did not survive.
            drop(sound);
            drop(fragile);
            let _last = world.operator();
            let deadline = Instant::now() + PATIENCE;
            let wanted = expected.get_or_insert(world.owned().await).clone();
            loop {
                let found = world.owned().await;
                if found == wanted {
                    break;
                }
                assert!(
                    Instant::now() < deadline,
                    "after {stop_after} writes and a death: {found:#?}\ninstead of {wanted:#?}"
                );
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
            assert_eq!(wanted.len(), OWNED.len() - 1, "all but the autoscaler");
            if !died {
                let deaths = stop_after - 1;
                println!("{deaths} deaths, each after another write");
                assert!(deaths >= 14, "the steps take more writes than that");
                return;
            }
        }
        panic!("the operator still writes after {WRITES_MAX} writes");
    });
}
