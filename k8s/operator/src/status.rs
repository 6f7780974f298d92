//! What is told of a cluster: decided from its spec and from the StatefulSet as it was found.

use crate::crd::{ClusterStatus, KafscaleCluster};
use crate::desired::SpecError;
use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};

/// The status of `cluster`; `now` dates conditions that change.
pub fn status(cluster: &KafscaleCluster, found: Result<Option<&StatefulSet>, &SpecError>, now: Time) -> ClusterStatus {
    let (brokers, ready_brokers) = match found {
        Ok(set) => counts(set),
        // What ran before the spec went wrong still runs.
        Err(_) => cluster
            .status
            .as_ref()
            .map_or((0, 0), |status| (status.brokers, status.ready_brokers)),
    };
    let (ready, reason, message) = match found {
        Err(error) => (false, error.reason().to_string(), error.to_string()),
        Ok(set) => readiness(set),
    };
    let etcd = match found {
        Err(error @ SpecError::NoEtcd) => (false, error.reason().to_string(), error.to_string()),
        _ => (
            true,
            "ExternalEndpoints".to_string(),
            "brokers use the endpoints of the spec".to_string(),
        ),
    };
    ClusterStatus {
        observed_generation: cluster.metadata.generation,
        brokers,
        ready_brokers,
        conditions: vec![
            condition(cluster, "Ready", (ready, reason, message), &now),
            condition(cluster, "EtcdAvailable", etcd, &now),
        ],
    }
}

fn counts(set: Option<&StatefulSet>) -> (i32, i32) {
    let status = set.and_then(|set| set.status.as_ref());
    status.map_or((0, 0), |status| (status.replicas, status.ready_replicas.unwrap_or(0)))
}

fn readiness(set: Option<&StatefulSet>) -> (bool, String, String) {
    let wanted = set.and_then(|set| set.spec.as_ref()?.replicas).unwrap_or(0);
    let status = set.and_then(|set| set.status.as_ref());
    let ready = status.and_then(|status| status.ready_replicas).unwrap_or(0);
    let there = status.map_or(0, |status| status.replicas);
    let observed = status.and_then(|status| status.observed_generation) >= set.and_then(|set| set.metadata.generation);
    let rolled = status
        .is_some_and(|status| status.update_revision.is_none() || status.current_revision == status.update_revision);
    let told = format!("{ready} of {wanted} brokers are ready");
    if set.is_none() || !observed {
        (
            false,
            "Creating".to_string(),
            "the StatefulSet is not taken up yet".to_string(),
        )
    } else if ready < wanted {
        let advice = format!("{told}; `kubectl describe pod` and `kubectl logs` of the others tell why");
        (false, "BrokersNotReady".to_string(), advice)
    } else if there > wanted {
        (true, "ScalingDown".to_string(), format!("{told}, {there} still run"))
    } else if !rolled {
        (
            true,
            "RollingUpdate".to_string(),
            format!("{told}, an update is on its way"),
        )
    } else {
        (true, "AllBrokersReady".to_string(), told)
    }
}

/// The condition as it is now; its time moves only when its status does.
fn condition(
    cluster: &KafscaleCluster,
    kind: &str,
    (holds, reason, message): (bool, String, String),
    now: &Time,
) -> Condition {
    let status = if holds { "True" } else { "False" };
    let before = cluster.status.iter().flat_map(|status| &status.conditions);
    let mut since = before
        .filter(|before| before.type_ == kind && before.status == status)
        .map(|before| before.last_transition_time.clone());
    Condition {
        type_: kind.to_string(),
        status: status.to_string(),
        reason,
        message,
        observed_generation: cluster.metadata.generation,
        last_transition_time: since.next().unwrap_or_else(|| now.clone()),
    }
}
