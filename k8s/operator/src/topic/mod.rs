//! Topics through Kafka's own protocol: created, grown, set, and deleted where the resource says so.

pub mod kafka;
mod plan;

use crate::crd::{DeletionPolicy, KafscaleCluster, KafscaleTopic};
use crate::reconcile::{as_ourselves, doing, ReconcileError, RESYNC, RETRY};
use crate::writes::WriteError;
use futures::StreamExt;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::Timestamp;
use kafka::{Admin, KafkaError};
use kube::api::Patch;
use kube::runtime::controller::{Action, Controller};
use kube::runtime::reflector::ObjectRef;
use kube::runtime::watcher;
use kube::{Api, ResourceExt};
use plan::{Outcome, Step};
use serde_json::json;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

/// Kept on a resource until its topic is dealt with.
const FINALIZER: &str = "kafscale.io/topic";
/// Topics change without a word to Kubernetes: looked at again after this long.
const LOOK_AGAIN: Duration = Duration::from_secs(60);

/// What a round needs.
pub struct Context {
    shared: Arc<crate::reconcile::Context>,
    bootstrap: String,
}

impl Context {
    /// `bootstrap` is where brokers are reached, with `{cluster}` and `{namespace}` to be replaced.
    pub fn new(shared: Arc<crate::reconcile::Context>, bootstrap: String) -> Context {
        Context { shared, bootstrap }
    }

    async fn connect(&self, cluster: &str, namespace: &str) -> Result<Admin, KafkaError> {
        let address = self
            .bootstrap
            .replace("{cluster}", cluster)
            .replace("{namespace}", namespace);
        Admin::connect(&address).await
    }

    /// Carries out one change of a topic.
    async fn change(
        &self,
        what: &str,
        write: impl Future<Output = Result<(), KafkaError>>,
    ) -> Result<(), ReconcileError> {
        match self.shared.writes.carry_out(write).await {
            Ok(()) => Ok(()),
            Err(WriteError::NotLeading) => Err(ReconcileError::NotLeading(what.to_string())),
            Err(WriteError::Failed(error)) => Err(error.into()),
        }
    }
}

/// Reconciles all topics, for ever.
pub async fn run(context: Arc<Context>) {
    let shared = &context.shared;
    let controller = Controller::new(shared.watched::<KafscaleTopic>(), watcher::Config::default());
    let topics = controller.store();
    // A cluster that gets ready has topics that wait for it.
    let of_cluster = move |cluster: KafscaleCluster| {
        let waits = |topic: &Arc<KafscaleTopic>| {
            topic.spec.cluster_ref == cluster.name_any() && topic.namespace() == cluster.namespace()
        };
        let topics = topics.state();
        let found: Vec<_> = topics
            .iter()
            .filter(|topic| waits(topic))
            .map(|topic| ObjectRef::from_obj(&**topic))
            .collect();
        found
    };
    controller
        .watches(
            shared.watched::<KafscaleCluster>(),
            watcher::Config::default(),
            of_cluster,
        )
        .run(reconcile, on_error, context)
        .for_each(|_| async {})
        .await;
}

fn on_error(topic: Arc<KafscaleTopic>, error: &ReconcileError, context: Arc<Context>) -> Action {
    context.shared.metrics.count_failure();
    log::warn!("reconcile topic {}: {error}", topic.name_any());
    Action::requeue(RETRY)
}

async fn reconcile(topic: Arc<KafscaleTopic>, context: Arc<Context>) -> Result<Action, ReconcileError> {
    context.shared.metrics.count_round();
    let namespace = topic.namespace().ok_or(ReconcileError::Malformed("namespace"))?;
    let clusters = Api::<KafscaleCluster>::namespaced(context.shared.client.clone(), &namespace);
    let cluster = clusters
        .get_opt(&topic.spec.cluster_ref)
        .await
        .map_err(doing("get the cluster"))?;
    if topic.metadata.deletion_timestamp.is_some() {
        return finish(&topic, cluster.is_some(), &namespace, &context).await;
    }
    // Before anything is created: it must be there when the resource goes.
    if !has_finalizer(&topic) {
        set_finalizer(&topic, true, &namespace, &context).await?;
    }
    let outcome = match elder(&topic, &namespace, &context).await? {
        _ if cluster.is_none() => {
            let name = &topic.spec.cluster_ref;
            Outcome::Failed(
                "ClusterMissing",
                format!("there is no KafscaleCluster {name} in this namespace"),
            )
        }
        Some(elder) => {
            let message = format!("KafscaleTopic {elder} is older and has the same topic: delete one of them");
            Outcome::Failed("TopicTaken", message)
        }
        None => match carry_out(&topic, &namespace, &context).await {
            Ok(outcome) => outcome,
            Err(ReconcileError::Kafka(error)) => failure(&error),
            Err(error) => return Err(error),
        },
    };
    tell(&topic, &outcome, &namespace, &context).await?;
    Ok(Action::requeue(match outcome {
        Outcome::Found(_) | Outcome::Created(_) => LOOK_AGAIN,
        Outcome::Failed("BrokerRefuses", _) => RESYNC,
        Outcome::Failed(..) => RETRY,
    }))
}

fn failure(error: &KafkaError) -> Outcome {
    match error {
        KafkaError::Refused(code, _) if !code.is_retriable() => {
            Outcome::Failed("BrokerRefuses", format!("{error}; change the spec"))
        }
        error => Outcome::Failed(
            "ClusterUnreachable",
            format!("{error}; tried again until a broker answers"),
        ),
    }
}

/// An older resource for the same topic.
async fn elder(topic: &KafscaleTopic, namespace: &str, context: &Context) -> Result<Option<String>, ReconcileError> {
    let api = Api::<KafscaleTopic>::namespaced(context.shared.client.clone(), namespace);
    let all = api.list(&Default::default()).await.map_err(doing("list topics"))?;
    let age = |topic: &KafscaleTopic| {
        (
            topic.metadata.creation_timestamp.clone().map(|time| time.0),
            topic.name_any(),
        )
    };
    let same = |other: &&KafscaleTopic| {
        other.spec.cluster_ref == topic.spec.cluster_ref
            && plan::name(other) == plan::name(topic)
            && age(other) < age(topic)
    };
    Ok(all.items.iter().find(same).map(ResourceExt::name_any))
}

/// Makes the topic as the spec says; returns it as it is then.
async fn carry_out(topic: &KafscaleTopic, namespace: &str, context: &Context) -> Result<Outcome, ReconcileError> {
    let name = plan::name(topic);
    let mut admin = context.connect(&topic.spec.cluster_ref, namespace).await?;
    let found = admin.topic(&name).await?;
    let steps = plan::steps(topic, found.as_ref());
    for step in &steps {
        match step {
            Step::Create => {
                let config = plan::config(topic);
                let create = admin.create(&name, topic.spec.partitions, &config);
                context.change("create the topic", create).await?;
            }
            Step::Grow(count) => context.change("add partitions", admin.grow(&name, *count)).await?,
            Step::Alter(changes) => context.change("set settings", admin.alter(&name, changes)).await?,
        }
    }
    let now = match found {
        Some(found) if steps.is_empty() => Some(found),
        _ => admin.topic(&name).await?,
    };
    // Another broker may hear of it a moment later.
    let now = now.ok_or(ReconcileError::Kafka(KafkaError::Silent))?;
    Ok(match steps.first() {
        Some(Step::Create) => Outcome::Created(now),
        _ => Outcome::Found(now),
    })
}

/// Deals with the topic of a resource that goes.
async fn finish(
    topic: &KafscaleTopic,
    has_cluster: bool,
    namespace: &str,
    context: &Context,
) -> Result<Action, ReconcileError> {
    if !has_finalizer(topic) {
        return Ok(Action::await_change());
    }
    let ours = topic.status.as_ref().and_then(|status| status.topic_id.clone());
    let deletes = topic.spec.deletion_policy.unwrap_or_default() == DeletionPolicy::Delete;
    // Where there is no cluster any more, there is nobody to ask.
    if let (true, true, Some(ours)) = (deletes, has_cluster, ours) {
        if let Err(error) = delete(topic, &ours, namespace, context).await {
            if let ReconcileError::Kafka(error) = &error {
                tell(topic, &failure(error), namespace, context).await?;
            }
            return Err(error);
        }
    }
    set_finalizer(topic, false, namespace, context).await?;
    Ok(Action::await_change())
}

async fn delete(topic: &KafscaleTopic, ours: &str, namespace: &str, context: &Context) -> Result<(), ReconcileError> {
    let mut admin = context.connect(&topic.spec.cluster_ref, namespace).await?;
    match admin.topic(&plan::name(topic)).await? {
        Some(found) if found.id.to_string() == ours => context.change("delete the topic", admin.delete(found.id)).await,
        // Deleted already, and perhaps made again by somebody else.
        _ => Ok(()),
    }
}

fn has_finalizer(topic: &KafscaleTopic) -> bool {
    topic.finalizers().iter().any(|finalizer| finalizer == FINALIZER)
}

/// Sets or removes our finalizer; others' stay.
async fn set_finalizer(
    topic: &KafscaleTopic,
    set: bool,
    namespace: &str,
    context: &Context,
) -> Result<(), ReconcileError> {
    let mut finalizers: Vec<_> = topic.finalizers().to_vec();
    finalizers.retain(|finalizer| finalizer != FINALIZER);
    if set {
        finalizers.push(FINALIZER.to_string());
    }
    // With the version: the list is replaced as a whole, and somebody else may have changed it.
    let version = &topic.metadata.resource_version;
    let patch = Patch::Merge(json!({"metadata": {"finalizers": finalizers, "resourceVersion": version}}));
    let api = Api::<KafscaleTopic>::namespaced(context.shared.client.clone(), namespace);
    let (name, parameters) = (topic.name_any(), as_ourselves());
    context
        .shared
        .write("set the finalizer", api.patch(&name, &parameters, &patch))
        .await?;
    Ok(())
}

/// Writes the status if it changed, and events where reasons did.
async fn tell(
    topic: &KafscaleTopic,
    outcome: &Outcome,
    namespace: &str,
    context: &Context,
) -> Result<(), ReconcileError> {
    let told = plan::status(topic, outcome, &Time(Timestamp::now()));
    if topic.status.as_ref() == Some(&told) {
        return Ok(());
    }
    let api = Api::<KafscaleTopic>::namespaced(context.shared.client.clone(), namespace);
    let patch = Patch::Merge(json!({"status": told}));
    let (name, parameters) = (topic.name_any(), as_ourselves());
    let write = api.patch_status(&name, &parameters, &patch);
    context.shared.write("write the status of a topic", write).await?;
    let before = topic.status.iter().flat_map(|status| &status.conditions);
    let known: Vec<_> = before.map(|old| (&old.type_, &old.reason)).collect();
    for new in &told.conditions {
        if !known.contains(&(&new.type_, &new.reason)) {
            let (reason, message) = (new.reason.clone(), new.message.clone());
            context
                .shared
                .publish(topic, new.status == "True", reason, message)
                .await;
        }
    }
    Ok(())
}
