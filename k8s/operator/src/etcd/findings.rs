//! How the etcd of a cluster is, as Kubernetes tells it.

use super::objects::{self, MEMBERS};
use super::tools::EXIT_BUCKET;
use crate::crd::KafscaleCluster;
use crate::reconcile::{doing, Context, ReconcileError};
use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::batch::v1::CronJob;
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::api::ListParams;
use kube::{Api, ResourceExt};

/// What was found.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Etcd {
    /// Members that are ready.
    pub ready: usize,
    /// The CronJob of snapshots.
    pub snapshots: Jobs,
    /// The CronJob of defragmentation.
    pub maintenance: Jobs,
}

/// How the Jobs of a CronJob fare.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Jobs {
    /// Whether the user wants none for the time being.
    pub suspended: bool,
    /// When one last succeeded.
    pub succeeded: Option<Time>,
    /// The end of the newest pod that failed, if none succeeded since.
    pub failure: Option<Failure>,
}

/// How a pod of a Job ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// Its exit code; none if it was not started or ended from outside.
    pub exit_code: Option<i32>,
    /// Its last words.
    pub message: String,
}

impl Etcd {
    /// Whether it can serve.
    pub fn has_majority(&self) -> bool {
        self.ready > MEMBERS / 2
    }
}

impl Failure {
    /// Whether the bucket was what failed.
    pub fn is_of_the_bucket(&self) -> bool {
        self.exit_code == Some(i32::from(EXIT_BUCKET))
    }
}

/// Looks at the etcd of `cluster`.
///
/// # Errors
/// If the API server does not tell.
pub async fn find(cluster: &KafscaleCluster, namespace: &str, context: &Context) -> Result<Etcd, ReconcileError> {
    let sets = Api::<StatefulSet>::namespaced(context.client.clone(), namespace);
    let name = objects::name(cluster);
    let set = sets
        .get_opt(&name)
        .await
        .map_err(doing("get the StatefulSet of etcd"))?;
    let ready = set.and_then(|set| set.status?.ready_replicas).unwrap_or(0);
    let look = async |name: String, component: &str| jobs(cluster, &name, component, namespace, context).await;
    Ok(Etcd {
        ready: usize::try_from(ready).unwrap_or(0),
        snapshots: look(objects::snapshot_name(cluster), "etcd-snapshot").await?,
        maintenance: look(objects::defragment_name(cluster), "etcd-defragment").await?,
    })
}

async fn jobs(
    cluster: &KafscaleCluster,
    name: &str,
    component: &str,
    namespace: &str,
    context: &Context,
) -> Result<Jobs, ReconcileError> {
    let cron_jobs = Api::<CronJob>::namespaced(context.client.clone(), namespace);
    let found = cron_jobs
        .get_opt(name)
        .await
        .map_err(doing(format!("get CronJob {name}")))?;
    let pods = Api::<Pod>::namespaced(context.client.clone(), namespace);
    let labels = format!(
        "app.kubernetes.io/name=kafscale-etcd-job,app.kubernetes.io/instance={},app.kubernetes.io/component={component}",
        cluster.name_any()
    );
    let labelled = ListParams::default().labels(&labels);
    let pods = pods
        .list(&labelled)
        .await
        .map_err(doing(format!("list the pods of {name}")))?;
    let succeeded = found
        .as_ref()
        .and_then(|found| found.status.as_ref()?.last_successful_time.clone());
    let suspended = found.and_then(|found| found.spec?.suspend).unwrap_or(false);
    Ok(judge(suspended, succeeded, &pods.items))
}

fn judge(suspended: bool, succeeded: Option<Time>, pods: &[Pod]) -> Jobs {
    let since = |pod: &&Pod| pod.metadata.creation_timestamp.as_ref().map(|time| time.0);
    // One that is under way says nothing yet.
    let ended = pods
        .iter()
        .filter(|pod| matches!(phase(pod), Some("Failed" | "Succeeded")));
    let newest = ended.max_by_key(since);
    let failed = newest.filter(|pod| phase(pod) == Some("Failed"));
    // The Job tried again, and its pod may be gone already.
    let failed = failed.filter(|pod| succeeded.as_ref().map(|time| time.0) < since(pod));
    Jobs {
        suspended,
        succeeded,
        failure: failed.map(failure),
    }
}

fn phase(pod: &Pod) -> Option<&str> {
    pod.status.as_ref()?.phase.as_deref()
}

fn failure(pod: &Pod) -> Failure {
    let containers = pod
        .status
        .iter()
        .flat_map(|status| status.container_statuses.iter().flatten());
    let mut ends = containers.filter_map(|container| container.state.as_ref()?.terminated.as_ref());
    let end = ends.next();
    let said = end.and_then(|end| end.message.as_deref()).unwrap_or_default();
    let last = said.trim().lines().last().unwrap_or_default();
    let reason = pod.status.as_ref().and_then(|status| status.reason.clone());
    Failure {
        exit_code: end.map(|end| end.exit_code),
        message: match last.is_empty() {
            false => last.to_string(),
            true => reason.unwrap_or_else(|| "it said nothing".to_string()),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn pod(second: u32, phase: &str, exit_code: i32, message: &str) -> Pod {
        serde_json::from_value(json!({
            "metadata": {"creationTimestamp": format!("2026-01-01T00:00:{second:02}Z")},
            "status": {"phase": phase, "containerStatuses": [{
                "name": "c", "image": "i", "imageID": "", "ready": false, "restartCount": 0,
                "state": {"terminated": {"exitCode": exit_code, "message": message}},
            }]},
        }))
        .unwrap()
    }

    fn at(second: u32) -> Option<Time> {
        Some(serde_json::from_value(json!(format!("2026-01-01T00:00:{second:02}Z"))).unwrap())
    }

    #[test]
    fn the_newest_pod_that_ended_tells() {
        let failed = pod(5, "Failed", 4, "log\nbucket: list: denied\n");
        let told = judge(false, at(1), std::slice::from_ref(&failed)).failure.unwrap();
        assert!(told.is_of_the_bucket());
        assert_eq!(told.message, "bucket: list: denied");
        let running = pod(9, "Running", 0, "");
        assert!(judge(false, at(1), &[failed.clone(), running]).failure.is_some());
        let succeeded = pod(7, "Succeeded", 0, "");
        assert!(judge(false, at(1), &[failed.clone(), succeeded]).failure.is_none());
        assert!(judge(false, at(8), &[failed]).failure.is_none());
    }
}
