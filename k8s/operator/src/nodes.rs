//! Whether nodes let brokers run at all: what pods say that could not.

use crate::crd::KafscaleCluster;
use crate::desired;
use crate::reconcile::{doing, Context, ReconcileError};
use k8s_openapi::api::core::v1::{ContainerStatus, Pod};
use kube::api::ListParams;
use kube::{Api, ResourceExt};

/// What a node does not give.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Obstacle {
    /// The seccomp profile is not on the node.
    Profile,
    /// io_uring is forbidden, or the kernel is too old.
    IoUring,
    /// Too little memory may be locked.
    Memlock,
}

/// A broker that could not start.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Complaint {
    /// Why.
    pub obstacle: Obstacle,
    /// Which broker.
    pub pod: String,
    /// Where.
    pub node: String,
}

impl Obstacle {
    /// The reason of the condition, as one word.
    pub fn reason(self) -> &'static str {
        match self {
            Obstacle::Profile => "SeccompProfileMissing",
            Obstacle::IoUring => "IoUringForbidden",
            Obstacle::Memlock => "MemlockTooLow",
        }
    }

    /// What to do.
    pub fn advice(self) -> &'static str {
        match self {
            Obstacle::Profile => {
                "copy k8s/seccomp/kafscale.json to /var/lib/kubelet/seccomp/profiles/kafscale.json of the node, or set \
                 spec.brokers.seccompProfile"
            }
            Obstacle::IoUring => {
                "the node needs Linux 5.8 or later with kernel.io_uring_disabled=0, and spec.brokers.seccompProfile has \
                 to allow io_uring"
            }
            Obstacle::Memlock => {
                "the node's container runtime has to let processes lock 512 KiB or more (LimitMEMLOCK of its service)"
            }
        }
    }
}

/// Looks at the brokers of `cluster`.
///
/// # Errors
/// If the API server does not tell.
pub async fn complaints(
    cluster: &KafscaleCluster,
    namespace: &str,
    context: &Context,
) -> Result<Vec<Complaint>, ReconcileError> {
    let api = Api::<Pod>::namespaced(context.client.clone(), namespace);
    let selector = desired::selector(cluster);
    let labels: Vec<String> = selector
        .as_object()
        .into_iter()
        .flatten()
        .map(|(key, value)| format!("{key}={}", value.as_str().unwrap_or_default()))
        .collect();
    let labelled = ListParams::default().labels(&labels.join(","));
    let pods = api.list(&labelled).await.map_err(doing("list the brokers' pods"))?;
    let mut complaints: Vec<Complaint> = pods.items.iter().filter_map(complaint).collect();
    complaints.sort();
    Ok(complaints)
}

fn complaint(pod: &Pod) -> Option<Complaint> {
    let container = pod.status.as_ref()?.container_statuses.as_ref()?.first()?;
    Some(Complaint {
        obstacle: obstacle(container)?,
        pod: pod.name_any(),
        node: pod.spec.as_ref()?.node_name.clone().unwrap_or_default(),
    })
}

fn obstacle(container: &ContainerStatus) -> Option<Obstacle> {
    // What was wrong before it became ready is over.
    if container.ready {
        return None;
    }
    let now = container.state.as_ref();
    let waits = now.and_then(|state| state.waiting.as_ref()?.message.as_deref());
    if waits.is_some_and(|message| message.contains("seccomp profile")) {
        return Some(Obstacle::Profile);
    }
    let ended = now.and_then(|state| state.terminated.as_ref());
    let before = container.last_state.as_ref();
    let ended = ended.or(before.and_then(|state| state.terminated.as_ref()));
    let message = ended?.message.as_deref()?;
    // The broker's own words: see its executors.
    if message.contains("MemLockLimit") {
        Some(Obstacle::Memlock)
    } else if message.contains("io_uring is needed") {
        Some(Obstacle::IoUring)
    } else {
        None
    }
}
