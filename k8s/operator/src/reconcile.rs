//! Makes the world as `desired` says, and tells what was found.
//!
//! Every step may be the last before a crash: each is idempotent, and the next round starts from the beginning.

use crate::crd::{ClusterStatus, KafscaleCluster};
use crate::desired::{self, Desired, Images, Stamps};
use crate::etcd::{findings, objects as etcd, secrets};
use crate::listeners::{self, Listeners};
use crate::metrics::Metrics;
use crate::nodes;
use crate::status::{status, Found};
use crate::writes::{WriteError, Writes};
use futures::StreamExt;
use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::autoscaling::v2::HorizontalPodAutoscaler;
use k8s_openapi::api::batch::v1::CronJob;
use k8s_openapi::api::core::v1::{Pod, Service, ServiceAccount};
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, ObjectMeta, Time};
use k8s_openapi::jiff::Timestamp;
use k8s_openapi::NamespaceResourceScope;
use kube::api::{DeleteParams, Patch, PatchParams, Preconditions};
use kube::core::{ApiResource, DynamicObject, GroupVersionKind};
use kube::runtime::controller::{Action, Controller};
use kube::runtime::events::{Event, EventType, Recorder, Reporter};
use kube::runtime::reflector::ObjectRef;
use kube::runtime::watcher;
use kube::{Api, Client, Resource, ResourceExt};
use serde_json::{json, Value};
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

/// The field manager of everything but the number of brokers.
const MANAGER: &str = "kafscale-operator";
/// The field manager of the number of brokers alone. Were it the same, then leaving the field to an autoscaler would
/// remove it, and Kubernetes would set it to its default, one.
const REPLICAS_MANAGER: &str = "kafscale-operator-replicas";
/// Looked at again after this long even if nothing is heard.
pub const RESYNC: Duration = Duration::from_secs(300);
/// After an error.
pub const RETRY: Duration = Duration::from_secs(5);

/// Why a round did not come to its end.
#[derive(Debug, thiserror::Error)]
pub enum ReconcileError {
    /// The API server refused, or cannot be reached.
    #[error("{0}: {1}")]
    Kube(String, #[source] Box<kube::Error>),
    /// Another operator leads, or will soon.
    #[error("{0}: this operator does not lead any more")]
    NotLeading(String),
    /// Somebody else's object has the name.
    #[error("{0} exists and does not belong to this cluster: remove it, or name the cluster differently")]
    NotOurs(String),
    /// A broker refuses, or cannot be reached.
    #[error("{0}")]
    Kafka(#[from] crate::topic::kafka::KafkaError),
    /// No certificate can be made.
    #[error("certificate: {0}")]
    Certificate(#[from] rcgen::Error),
    /// An object of ours that is none.
    #[error("an object without {0}")]
    Malformed(&'static str),
}

/// The error of somebody who was `what`.
pub fn doing(what: impl Into<String>) -> impl FnOnce(kube::Error) -> ReconcileError {
    let what = what.into();
    move |error| ReconcileError::Kube(what, Box::new(error))
}

/// For patches that are not applied.
pub fn as_ourselves() -> PatchParams {
    PatchParams {
        field_manager: Some(MANAGER.to_string()),
        ..PatchParams::default()
    }
}

/// What a round needs.
pub struct Context {
    /// The API server.
    pub client: Client,
    /// Where a spec names none.
    pub images: Images,
    /// The only namespace that is looked at; none: all.
    pub namespace: Option<String>,
    /// What happens is counted here.
    pub metrics: Arc<Metrics>,
    /// Everything that changes something goes through it.
    pub writes: Writes,
    recorder: Recorder,
}

impl Context {
    /// What all rounds share.
    pub fn new(
        client: Client,
        images: Images,
        namespace: Option<String>,
        metrics: Arc<Metrics>,
        writes: Writes,
    ) -> Context {
        let reporter = Reporter {
            controller: MANAGER.to_string(),
            instance: None,
        };
        Context {
            recorder: Recorder::new(client.clone(), reporter),
            client,
            images,
            namespace,
            metrics,
            writes,
        }
    }

    /// The resources of a kind that this operator looks at.
    pub fn watched<K>(&self) -> Api<K>
    where
        K: Resource<Scope = NamespaceResourceScope, DynamicType = ()>,
    {
        match &self.namespace {
            Some(namespace) => Api::namespaced(self.client.clone(), namespace),
            None => Api::all(self.client.clone()),
        }
    }

    /// Carries out one write to the API server.
    ///
    /// # Errors
    /// If it is refused, or this process does not lead.
    pub async fn write<T>(
        &self,
        what: impl Into<String>,
        write: impl Future<Output = kube::Result<T>>,
    ) -> Result<T, ReconcileError> {
        let what = what.into();
        match self.writes.carry_out(write).await {
            Ok(outcome) => Ok(outcome),
            Err(WriteError::NotLeading) => Err(ReconcileError::NotLeading(what)),
            Err(WriteError::Failed(error)) => Err(doing(what)(error)),
        }
    }

    /// Tells those who look at `regarding` what happened. A courtesy: the status has it all.
    pub async fn publish<K: Resource<DynamicType = ()>>(
        &self,
        regarding: &K,
        good: bool,
        reason: String,
        note: String,
    ) {
        let event = Event {
            type_: if good { EventType::Normal } else { EventType::Warning },
            reason,
            note: Some(note),
            action: "Reconcile".to_string(),
            secondary: None,
        };
        let reference = regarding.object_ref(&());
        if let Err(error) = self
            .write("publish event", self.recorder.publish(&event, &reference))
            .await
        {
            log::warn!("{error}");
        }
    }
}

/// Reconciles all clusters, for ever.
pub async fn run(context: Arc<Context>) {
    let everything = watcher::Config::default;
    Controller::new(context.watched::<KafscaleCluster>(), everything())
        .owns(context.watched::<StatefulSet>(), everything())
        .owns(context.watched::<Service>(), everything())
        .owns(context.watched::<ServiceAccount>(), everything())
        .owns(context.watched::<PodDisruptionBudget>(), everything())
        .owns(context.watched::<HorizontalPodAutoscaler>(), everything())
        .owns(context.watched::<CronJob>(), everything())
        .watches(
            context.watched::<Pod>(),
            everything().labels("app.kubernetes.io/name=kafscale-broker"),
            cluster_of,
        )
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
    let namespace = cluster.namespace().ok_or(ReconcileError::Malformed("namespace"))?;
    let stamps = match etcd::is_managed(&cluster) {
        true => secrets::keep(&cluster, &namespace, &context).await?,
        false => Stamps::default(),
    };
    let listeners = listeners::keep(&cluster, &namespace, &context).await?;
    let stamps = Stamps {
        listeners: listeners
            .as_ref()
            .map_or(String::new(), |listeners| listeners.stamp.clone()),
        ..stamps
    };
    let found = match desired::desired(&cluster, &context.images, &stamps) {
        Ok(desired) => Ok(carry_out(&cluster, &desired, listeners, &namespace, &context).await?),
        Err(error) => Err(error),
    };
    let told = status(&cluster, found.as_ref(), Time(Timestamp::now()));
    tell(&cluster, told, &context).await?;
    Ok(Action::requeue(RESYNC))
}

/// Applies all objects; returns what is there now.
async fn carry_out(
    cluster: &KafscaleCluster,
    desired: &Desired,
    listeners: Option<Listeners>,
    namespace: &str,
    context: &Context,
) -> Result<Found, ReconcileError> {
    for object in &desired.etcd {
        apply(cluster, object, namespace, context).await?;
    }
    let name = desired::name(cluster);
    let sets = Api::<StatefulSet>::namespaced(context.client.clone(), namespace);
    let get = || async { sets.get_opt(&name).await.map_err(doing("get the StatefulSet")) };
    let etcd = match etcd::is_managed(cluster) {
        true => Some(findings::find(cluster, namespace, context).await?),
        false => None,
    };
    let mut brokers = get().await?;
    // Brokers without an etcd end, again and again. Once there are some, they are kept whatever etcd does.
    let etcd_serves = brokers.is_some() || etcd.as_ref().is_none_or(findings::Etcd::has_majority);
    let have_addresses = listeners.as_ref().is_none_or(|listeners| listeners.pending.is_empty());
    if etcd_serves && have_addresses {
        apply_brokers(cluster, desired, namespace, context).await?;
        brokers = get().await?;
        listeners::sweep(cluster, namespace, context).await?;
    }
    Ok(Found {
        brokers,
        etcd,
        listeners,
        complaints: nodes::complaints(cluster, namespace, context).await?,
    })
}

async fn apply_brokers(
    cluster: &KafscaleCluster,
    desired: &Desired,
    namespace: &str,
    context: &Context,
) -> Result<(), ReconcileError> {
    for object in &desired.objects {
        apply(cluster, object, namespace, context).await?;
    }
    // None: they are the autoscaler's.
    let Some(replicas) = desired.replicas else {
        return Ok(());
    };
    remove_autoscaler(cluster, namespace, context).await?;
    let name = desired::name(cluster);
    let patch = Patch::Apply(json!({
        "apiVersion": "apps/v1", "kind": "StatefulSet",
        "metadata": {"name": name}, "spec": {"replicas": replicas},
    }));
    let sets = Api::<StatefulSet>::namespaced(context.client.clone(), namespace);
    let parameters = PatchParams::apply(REPLICAS_MANAGER).force();
    let write = sets.patch(&name, &parameters, &patch);
    context.write("set the number of brokers", write).await.map(|_| ())
}

/// Says what an object has to be like, unless somebody else's has its name.
///
/// # Errors
/// If it is somebody else's, or the API server refuses.
pub async fn apply(
    cluster: &KafscaleCluster,
    object: &Value,
    namespace: &str,
    context: &Context,
) -> Result<(), ReconcileError> {
    let text = |pointer: &str| object.pointer(pointer).and_then(Value::as_str);
    let name = text("/metadata/name").ok_or(ReconcileError::Malformed("name"))?;
    let kind = text("/kind").ok_or(ReconcileError::Malformed("kind"))?;
    let api_version = text("/apiVersion").ok_or(ReconcileError::Malformed("apiVersion"))?;
    let (group, version) = api_version.split_once('/').unwrap_or(("", api_version));
    let resource = ApiResource::from_gvk(&GroupVersionKind::gvk(group, version, kind));
    let api = Api::<DynamicObject>::namespaced_with(context.client.clone(), namespace, &resource);
    let what = format!("{kind} {name}");
    let there = api.get_opt(name).await.map_err(doing(format!("get {what}")))?;
    if there.is_some_and(|there| !belongs(&there.metadata, cluster)) {
        return Err(ReconcileError::NotOurs(what));
    }
    let parameters = PatchParams::apply(MANAGER).force();
    let patch = Patch::Apply(object);
    context
        .write(format!("apply {what}"), api.patch(name, &parameters, &patch))
        .await?;
    Ok(())
}

/// Whether an object is owned by `cluster`.
pub fn belongs(metadata: &ObjectMeta, cluster: &KafscaleCluster) -> bool {
    metadata
        .owner_references
        .iter()
        .flatten()
        .any(|owner| Some(&owner.uid) == cluster.meta().uid.as_ref())
}

async fn remove_autoscaler(
    cluster: &KafscaleCluster,
    namespace: &str,
    context: &Context,
) -> Result<(), ReconcileError> {
    let api = Api::<HorizontalPodAutoscaler>::namespaced(context.client.clone(), namespace);
    let name = desired::name(cluster);
    let there = api.get_opt(&name).await.map_err(doing("get the autoscaler"))?;
    let Some(ours) = there.filter(|there| belongs(&there.metadata, cluster)) else {
        return Ok(());
    };
    remove(&api, ours.metadata, context).await
}

/// Deletes an object that was looked at, and no other one of its name.
///
/// # Errors
/// If the API server refuses.
pub async fn remove<K>(api: &Api<K>, metadata: ObjectMeta, context: &Context) -> Result<(), ReconcileError>
where
    K: Resource<DynamicType = ()> + Clone + serde::de::DeserializeOwned + std::fmt::Debug,
{
    let only = Preconditions {
        uid: metadata.uid,
        resource_version: None,
    };
    let parameters = DeleteParams::default().preconditions(only);
    let name = metadata.name.unwrap_or_default();
    let what = format!("delete {} {name}", K::kind(&()));
    match context.write(what, api.delete(&name, &parameters)).await {
        Ok(_) => Ok(()),
        // Somebody else was faster.
        Err(ReconcileError::Kube(_, error)) if matches!(&*error, kube::Error::Api(refusal) if refusal.code == 404) => {
            Ok(())
        }
        Err(error) => Err(error),
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
    let (name, parameters) = (cluster.name_any(), as_ourselves());
    context
        .write("write the status", api.patch_status(&name, &parameters, &patch))
        .await?;
    for now in &told.conditions {
        let before = cluster.status.iter().flat_map(|status| &status.conditions);
        let same = |before: &&Condition| before.type_ == now.type_ && before.reason == now.reason;
        // What is well is told of the whole cluster only.
        let worth_it = now.type_ == "Ready" || now.status == "False";
        if worth_it && before.filter(same).count() == 0 {
            let (reason, message) = (now.reason.clone(), now.message.clone());
            context.publish(cluster, now.status == "True", reason, message).await;
        }
    }
    Ok(())
}

/// The cluster whose broker a pod is.
fn cluster_of(pod: Pod) -> Option<ObjectRef<KafscaleCluster>> {
    let labels = pod.metadata.labels.as_ref()?;
    let name = labels.get("app.kubernetes.io/instance")?;
    Some(ObjectRef::new(name).within(pod.metadata.namespace.as_deref()?))
}
