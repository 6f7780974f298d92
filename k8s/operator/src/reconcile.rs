//! Makes the world as `desired` says, and tells what was found.
//!
//! Every step may be the last before a crash: each is idempotent, and the next round starts from the beginning.

use crate::crd::{ClusterStatus, KafscaleCluster};
use crate::desired::{self, Desired};
use crate::metrics::Metrics;
use crate::status::status;
use futures::StreamExt;
use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::autoscaling::v2::HorizontalPodAutoscaler;
use k8s_openapi::api::core::v1::{Service, ServiceAccount};
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use k8s_openapi::jiff::Timestamp;
use kube::api::{DeleteParams, Patch, PatchParams, Preconditions};
use kube::core::{ApiResource, DynamicObject, GroupVersionKind};
use kube::runtime::controller::{Action, Controller};
use kube::runtime::events::{Event, EventType, Recorder, Reporter};
use kube::runtime::watcher;
use kube::{Api, Client, Resource, ResourceExt};
use serde_json::{json, Value};
use std::sync::Arc;
use std::time::Duration;

/// The field manager of everything but the number of brokers.
const MANAGER: &str = "kafscale-operator";
/// The field manager of the number of brokers alone. Were it the same, then leaving the field to an autoscaler would
/// remove it, and Kubernetes would set it to its default, one.
const REPLICAS_MANAGER: &str = "kafscale-operator-replicas";
/// Looked at again after this long even if nothing is heard.
const RESYNC: Duration = Duration::from_secs(300);
/// After an error.
const RETRY: Duration = Duration::from_secs(5);

/// Why a round did not come to its end.
#[derive(Debug, thiserror::Error)]
pub enum ReconcileError {
    /// The API server refused, or cannot be reached.
    #[error("{0}: {1}")]
    Kube(String, #[source] Box<kube::Error>),
    /// Somebody else's object has the name.
    #[error("{0} exists and does not belong to this cluster: remove it, or name the cluster differently")]
    NotOurs(String),
    /// An object of ours that is none.
    #[error("an object without {0}")]
    Malformed(&'static str),
}

fn doing(what: impl Into<String>) -> impl FnOnce(kube::Error) -> ReconcileError {
    let what = what.into();
    move |error| ReconcileError::Kube(what, Box::new(error))
}

/// What a round needs.
pub struct Context {
    client: Client,
    image: String,
    recorder: Recorder,
    metrics: Arc<Metrics>,
}

/// Reconciles all clusters until the process is told to end. `image` is the broker's where a spec names none.
pub async fn run(client: Client, image: String, metrics: Arc<Metrics>) {
    let reporter = Reporter {
        controller: MANAGER.to_string(),
        instance: None,
    };
    let recorder = Recorder::new(client.clone(), reporter);
    let context = Arc::new(Context {
        client: client.clone(),
        image,
        recorder,
        metrics,
    });
    let everything = watcher::Config::default;
    Controller::new(Api::<KafscaleCluster>::all(client.clone()), everything())
        .owns(Api::<StatefulSet>::all(client.clone()), everything())
        .owns(Api::<Service>::all(client.clone()), everything())
        .owns(Api::<ServiceAccount>::all(client.clone()), everything())
        .owns(Api::<PodDisruptionBudget>::all(client.clone()), everything())
        .owns(Api::<HorizontalPodAutoscaler>::all(client), everything())
        .shutdown_on_signal()
        .run(reconcile, on_error, context)
        .for_each(|_| async {})
        .await;
}

fn on_error(cluster: Arc<KafscaleCluster>, error: &ReconcileError, context: Arc<Context>) -> Action {
    context.metrics.count_failure();
    log::warn!("reconcile {}: {error}", cluster.name_any());
    Action::requeue(RETRY)
}

async fn reconcile(cluster: Arc<KafscaleCluster>, context: Arc<Context>) -> Result<Action, ReconcileError> {
    context.metrics.count_round();
    // What it owns goes with it, by the owner references.
    if cluster.metadata.deletion_timestamp.is_some() {
        return Ok(Action::await_change());
    }
    let found = match desired::desired(&cluster, &context.image) {
        Ok(desired) => Ok(carry_out(&cluster, &desired, &context).await?),
        Err(error) => Err(error),
    };
    let told = status(&cluster, found.as_ref().map(Option::as_ref), Time(Timestamp::now()));
    tell(&cluster, told, &context).await?;
    Ok(Action::requeue(RESYNC))
}

/// Applies all objects; returns the StatefulSet as it is now.
async fn carry_out(
    cluster: &KafscaleCluster,
    desired: &Desired,
    context: &Context,
) -> Result<Option<StatefulSet>, ReconcileError> {
    let namespace = cluster.namespace().ok_or(ReconcileError::Malformed("namespace"))?;
    for object in &desired.objects {
        apply(cluster, object, &namespace, &context.client).await?;
    }
    let name = desired::name(cluster);
    let sets = Api::<StatefulSet>::namespaced(context.client.clone(), &namespace);
    // None: they are the autoscaler's.
    if let Some(replicas) = desired.replicas {
        remove_autoscaler(cluster, &namespace, &context.client).await?;
        let patch = json!({
            "apiVersion": "apps/v1", "kind": "StatefulSet",
            "metadata": {"name": name}, "spec": {"replicas": replicas},
        });
        let parameters = PatchParams::apply(REPLICAS_MANAGER).force();
        sets.patch(&name, &parameters, &Patch::Apply(patch))
            .await
            .map_err(doing("set the number of brokers"))?;
    }
    sets.get_opt(&name).await.map_err(doing("get the StatefulSet"))
}

async fn apply(
    cluster: &KafscaleCluster,
    object: &Value,
    namespace: &str,
    client: &Client,
) -> Result<(), ReconcileError> {
    let text = |pointer: &str| object.pointer(pointer).and_then(Value::as_str);
    let name = text("/metadata/name").ok_or(ReconcileError::Malformed("name"))?;
    let kind = text("/kind").ok_or(ReconcileError::Malformed("kind"))?;
    let api_version = text("/apiVersion").ok_or(ReconcileError::Malformed("apiVersion"))?;
    let (group, version) = api_version.split_once('/').unwrap_or(("", api_version));
    let resource = ApiResource::from_gvk(&GroupVersionKind::gvk(group, version, kind));
    let api = Api::<DynamicObject>::namespaced_with(client.clone(), namespace, &resource);
    let what = format!("{kind} {name}");
    let there = api.get_opt(name).await.map_err(doing(format!("get {what}")))?;
    if there.is_some_and(|there| !belongs(&there.metadata, cluster)) {
        return Err(ReconcileError::NotOurs(what));
    }
    let parameters = PatchParams::apply(MANAGER).force();
    api.patch(name, &parameters, &Patch::Apply(object))
        .await
        .map_err(doing(format!("apply {what}")))?;
    Ok(())
}

fn belongs(metadata: &ObjectMeta, cluster: &KafscaleCluster) -> bool {
    metadata
        .owner_references
        .iter()
        .flatten()
        .any(|owner| Some(&owner.uid) == cluster.meta().uid.as_ref())
}

async fn remove_autoscaler(cluster: &KafscaleCluster, namespace: &str, client: &Client) -> Result<(), ReconcileError> {
    let api = Api::<HorizontalPodAutoscaler>::namespaced(client.clone(), namespace);
    let name = desired::name(cluster);
    let there = api.get_opt(&name).await.map_err(doing("get the autoscaler"))?;
    let Some(ours) = there.filter(|there| belongs(&there.metadata, cluster)) else {
        return Ok(());
    };
    // Only the one that was looked at: another of this name may belong to somebody else.
    let only = Preconditions {
        uid: ours.metadata.uid,
        resource_version: None,
    };
    match api.delete(&name, &DeleteParams::default().preconditions(only)).await {
        Ok(_) => Ok(()),
        Err(kube::Error::Api(refusal)) if refusal.code == 404 => Ok(()),
        Err(error) => Err(doing("delete the autoscaler")(error)),
    }
}

/// Writes the status if it changed, and an event if its reason did.
async fn tell(cluster: &KafscaleCluster, told: ClusterStatus, context: &Context) -> Result<(), ReconcileError> {
    if cluster.status.as_ref() == Some(&told) {
        return Ok(());
    }
    let namespace = cluster.namespace().ok_or(ReconcileError::Malformed("namespace"))?;
    let api = Api::<KafscaleCluster>::namespaced(context.client.clone(), &namespace);
    let patch = Patch::Merge(json!({"status": told}));
    api.patch_status(&cluster.name_any(), &PatchParams::default(), &patch)
        .await
        .map_err(doing("write the status"))?;
    let ready = |status: &ClusterStatus| {
        status
            .conditions
            .iter()
            .find(|condition| condition.type_ == "Ready")
            .cloned()
    };
    let before = cluster.status.as_ref().and_then(ready);
    let Some(now) = ready(&told).filter(|now| before.is_none_or(|before| before.reason != now.reason)) else {
        return Ok(());
    };
    let event = Event {
        type_: if now.status == "True" {
            EventType::Normal
        } else {
            EventType::Warning
        },
        reason: now.reason,
        note: Some(now.message),
        action: "Reconcile".to_string(),
        secondary: None,
    };
    // An event is a courtesy: the status has it all.
    if let Err(error) = context.recorder.publish(&event, &cluster.object_ref(&())).await {
        log::warn!("publish event: {error}");
    }
    Ok(())
}
