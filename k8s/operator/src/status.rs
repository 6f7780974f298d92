//! What is told of a cluster: decided from its spec and from the StatefulSet as it was found.

use crate::crd::{ClusterStatus, KafscaleCluster};
use crate::desired::SpecError;
use crate::etcd::findings::{Etcd, Jobs};
use crate::etcd::objects::{is_managed, MEMBERS};
use crate::listeners::Listeners;
use crate::nodes::Complaint;
use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};

/// What a round found.
#[derive(Debug, Default)]
pub struct Found {
    /// The brokers' StatefulSet, if it is there.
    pub brokers: Option<StatefulSet>,
    /// The etcd, if the operator runs it.
    pub etcd: Option<Etcd>,
    /// The brokers' Services for clients outside, if there are to be some.
    pub listeners: Option<Listeners>,
    /// Brokers that their nodes do not let run.
    pub complaints: Vec<Complaint>,
}

/// What a condition says: whether it holds (none: not known), its reason, and words for people.
type Said = (Option<bool>, String, String);

/// The status of `cluster`; `now` dates conditions that change.
pub fn status(cluster: &KafscaleCluster, found: Result<&Found, &SpecError>, now: Time) -> ClusterStatus {
    let (brokers, ready_brokers) = match found {
        Ok(found) => counts(found.brokers.as_ref()),
        // What ran before the spec went wrong still runs.
        Err(_) => cluster
            .status
            .as_ref()
            .map_or((0, 0), |status| (status.brokers, status.ready_brokers)),
    };
    let mut said: Vec<(&str, Said)> = vec![("Ready", readiness(found))];
    if let Ok(found) = found {
        said.push(("NodesSuitable", nodes(&found.complaints)));
        said.extend(found.listeners.iter().map(|found| ("ListenersReady", listeners(found))));
    }
    match found.map(|found| &found.etcd) {
        Ok(Some(etcd)) => said.extend(managed_etcd(etcd)),
        // What was told before still holds, as far as anybody knows.
        Err(_) if is_managed(cluster) => {}
        _ => said.push((
            "EtcdAvailable",
            say(true, "ExternalEndpoints", "brokers use the endpoints of the spec"),
        )),
    }
    ClusterStatus {
        observed_generation: cluster.metadata.generation,
        brokers,
        ready_brokers,
        conditions: said
            .into_iter()
            .map(|(kind, said)| condition(cluster, kind, said, &now))
            .collect(),
    }
}

fn say(holds: bool, reason: &str, message: impl Into<String>) -> Said {
    (Some(holds), reason.to_string(), message.into())
}

fn unknown(reason: &str, message: &str) -> Said {
    (None, reason.to_string(), message.to_string())
}

fn nodes(complaints: &[Complaint]) -> Said {
    let Some(first) = complaints.first() else {
        return say(true, "NoObstacle", "no broker was kept from starting by its node");
    };
    let of_its_kind = complaints.iter().filter(|other| other.obstacle == first.obstacle);
    let places: Vec<String> = of_its_kind.map(|one| format!("{} on {}", one.pod, one.node)).collect();
    let message = format!("{}: {}", places.join(", "), first.obstacle.advice());
    say(false, first.obstacle.reason(), message)
}

fn listeners(found: &Listeners) -> Said {
    match found.pending.first() {
        None => say(true, "AddressesKnown", "each broker knows how it is reached"),
        Some(first) => say(
            false,
            "AddressesPending",
            format!(
                "{} Services have no address yet, the first is {first}",
                found.pending.len()
            ),
        ),
    }
}

fn managed_etcd(etcd: &Etcd) -> [(&'static str, Said); 4] {
    let members = format!("{} of {MEMBERS} members are ready", etcd.ready);
    let available = match etcd.ready {
        ready if ready >= MEMBERS => say(true, "AllMembersReady", members),
        _ if etcd.has_majority() => say(true, "MemberNotReady", members),
        _ => say(false, "NoMajority", members),
    };
    [
        ("EtcdAvailable", available),
        ("EtcdSnapshot", jobs(&etcd.snapshots, "SnapshotTaken", "SnapshotFailed")),
        ("EtcdSnapshotAccess", access(&etcd.snapshots)),
        (
            "EtcdMaintenance",
            jobs(&etcd.maintenance, "Defragmented", "DefragmentationFailed"),
        ),
    ]
}

fn jobs(jobs: &Jobs, done: &str, failed: &str) -> Said {
    match (&jobs.failure, &jobs.succeeded) {
        (Some(failure), _) => say(false, failed, &failure.message),
        _ if jobs.suspended => say(false, "Suspended", "the spec says so"),
        (None, Some(time)) => say(true, done, format!("last at {}", time.0)),
        (None, None) => unknown("NotYet", "its time has not come yet"),
    }
}

fn access(snapshots: &Jobs) -> Said {
    match (&snapshots.failure, &snapshots.succeeded) {
        (Some(failure), _) if failure.is_of_the_bucket() => say(false, "BucketRefuses", &failure.message),
        (_, Some(_)) => say(true, "BucketAnswers", "a snapshot was uploaded"),
        (_, None) => unknown("NotYet", "no snapshot was uploaded yet"),
    }
}

fn counts(set: Option<&StatefulSet>) -> (i32, i32) {
    let status = set.and_then(|set| set.status.as_ref());
    status.map_or((0, 0), |status| (status.replicas, status.ready_replicas.unwrap_or(0)))
}

fn readiness(found: Result<&Found, &SpecError>) -> Said {
    let found = match found {
        Ok(found) => found,
        Err(error) => return say(false, error.reason(), error.to_string()),
    };
    let set = found.brokers.as_ref();
    if set.is_none() && found.etcd.as_ref().is_some_and(|etcd| !etcd.has_majority()) {
        return say(false, "WaitingForEtcd", "brokers are started once etcd serves");
    }
    let addresses_known = found.listeners.as_ref().is_none_or(|found| found.pending.is_empty());
    if set.is_none() && !addresses_known {
        return say(
            false,
            "WaitingForAddresses",
            "brokers are started once their Services have addresses",
        );
    }
    let wanted = set.and_then(|set| set.spec.as_ref()?.replicas).unwrap_or(0);
    let status = set.and_then(|set| set.status.as_ref());
    let ready = status.and_then(|status| status.ready_replicas).unwrap_or(0);
    let there = status.map_or(0, |status| status.replicas);
    let observed = status.and_then(|status| status.observed_generation) >= set.and_then(|set| set.metadata.generation);
    let rolled = status
        .is_some_and(|status| status.update_revision.is_none() || status.current_revision == status.update_revision);
    let told = format!("{ready} of {wanted} brokers are ready");
    if set.is_none() || !observed {
        say(false, "Creating", "the StatefulSet is not taken up yet")
    } else if ready < wanted {
        let advice = format!("{told}; `kubectl describe pod` and `kubectl logs` of the others tell why");
        say(false, "BrokersNotReady", advice)
    } else if there > wanted {
        say(true, "ScalingDown", format!("{told}, {there} still run"))
    } else if !rolled {
        say(true, "RollingUpdate", format!("{told}, an update is on its way"))
    } else {
        say(true, "AllBrokersReady", told)
    }
}

/// The condition as it is now; its time moves only when its status does.
fn condition(cluster: &KafscaleCluster, kind: &str, (holds, reason, message): Said, now: &Time) -> Condition {
    let status = match holds {
        Some(true) => "True",
        Some(false) => "False",
        None => "Unknown",
    };
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
