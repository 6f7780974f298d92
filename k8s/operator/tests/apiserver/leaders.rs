//! Two operators, of which one leads.

use crate::world::{blue, run, Operator, World, LEASE_SECONDS, PATIENCE};
use kube::api::{Patch, PatchParams};
use serde_json::{json, Value};
use std::time::{Duration, Instant};

async fn wait_for_a_leader(operators: &[Operator]) -> usize {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(leader) = operators.iter().position(Operator::leads) {
            return leader;
        }
        assert!(Instant::now() < deadline, "nobody leads");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// Deletes the disruption budget; returns who it was.
async fn break_something(world: &World) -> Value {
    let found = world
        .until("PodDisruptionBudget", "blue-broker", "is there", |found| {
            !found.is_null()
        })
        .await;
    world.delete("PodDisruptionBudget", "blue-broker").await;
    found["metadata"]["uid"].clone()
}

async fn until_it_is_mended(world: &World, broken: &Value) {
    world
        .until("PodDisruptionBudget", "blue-broker", "comes back", |found| {
            !found.is_null() && found["metadata"]["uid"] != *broken
        })
        .await;
}

#[test]
#[ignore = "needs the API server of `make k8s`"]
fn when_the_leader_is_killed_another_takes_over_and_only_leaders_write() {
    run(async {
        let world = World::new("leaders").await;
        let mut operators = vec![world.operator(), world.operator()];
        world.apply(blue(json!({}))).await.unwrap();
        for round in 0..3 {
            let leader = wait_for_a_leader(&operators).await;
            let broken = break_something(&world).await;
            until_it_is_mended(&world, &broken).await;
            let idle = &operators[1 - leader];
            assert_eq!(idle.metric("kafscale_operator_writes_total"), Some(0), "round {round}");
            assert!(!idle.leads(), "two leaders in round {round}");
            operators[leader].kill();
            operators[leader] = world.operator();
        }
        // Told to end, a leader gives the Lease away: nobody has to wait until it is over.
        let leader = wait_for_a_leader(&operators).await;
        operators[leader].signal("TERM");
        let deadline = Instant::now() + PATIENCE;
        while operators[leader].ended().is_none() {
            assert!(Instant::now() < deadline, "it does not end");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        assert!(operators[leader].ended().is_some_and(|status| status.success()));
        operators[1 - leader].until_it_leads(true).await;
    });
}

#[test]
#[ignore = "needs the API server of `make k8s`"]
fn a_leader_that_slept_through_its_lease_writes_nothing_more() {
    run(async {
        let world = World::new("sleepers").await;
        world.apply(blue(json!({}))).await.unwrap();
        let sleeper = world.operator();
        sleeper.until_it_leads(true).await;
        world.until_reason("BrokersNotReady").await;
        let mut writes = None;
        let deadline = Instant::now() + PATIENCE;
        // Until it has written all it wants to.
        while writes.is_none() || writes != sleeper.metric("kafscale_operator_writes_total") {
            assert!(Instant::now() < deadline, "it writes for ever");
            writes = sleeper.metric("kafscale_operator_writes_total");
            tokio::time::sleep(Duration::from_secs(2)).await;
        }
        sleeper.signal("STOP");
        let other = world.operator();
        other.until_it_leads(true).await;
        let broken = break_something(&world).await;
        until_it_is_mended(&world, &broken).await;
        sleeper.signal("CONT");
        sleeper.until_it_leads(false).await;
        let broken = break_something(&world).await;
        until_it_is_mended(&world, &broken).await;
        assert_eq!(sleeper.metric("kafscale_operator_writes_total"), writes);
        assert!(other.leads());
    });
}

#[test]
#[ignore = "needs the API server of `make k8s`"]
fn a_leader_that_loses_the_lease_stops_writing_until_it_has_it_again() {
    run(async {
        let world = World::new("deposed").await;
        let operator = world.operator();
        world.apply(blue(json!({}))).await.unwrap();
        operator.until_it_leads(true).await;
        world.until_reason("BrokersNotReady").await;
        let hold = |holder: &str, seconds: u64| {
            let spec = json!({"spec": {"holderIdentity": holder, "leaseDurationSeconds": seconds}});
            let leases = world.api("Lease");
            async move {
                let patch = Patch::Merge(spec);
                leases
                    .patch("kafscale-operator", &PatchParams::default(), &patch)
                    .await
                    .unwrap();
            }
        };
        hold("somebody-else", 3600).await;
        operator.until_it_leads(false).await;
        let broken = break_something(&world).await;
        let writes = operator.metric("kafscale_operator_writes_total");
        // Longer than it takes a leader to see the deletion and to mend it.
        tokio::time::sleep(Duration::from_secs(2 * LEASE_SECONDS)).await;
        assert_eq!(world.get("PodDisruptionBudget", "blue-broker").await, None);
        assert_eq!(operator.metric("kafscale_operator_writes_total"), writes);
        hold("", LEASE_SECONDS).await;
        until_it_is_mended(&world, &broken).await;
    });
}
