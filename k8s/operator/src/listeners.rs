//! How clients outside of Kubernetes reach each broker: a Service for each, and a file that tells the broker its address.
//!
//! The address is known only once there is the Service, so brokers that have none yet are not started.

use crate::crd::{ExternalType, KafscaleCluster};
use crate::desired::{self, put, KAFKA_PORT};
use crate::etcd::certificates::fingerprint;
use crate::reconcile::{self, doing, Context, ReconcileError};
use k8s_openapi::api::core::v1::{ConfigMap, Service};
use kube::api::ListParams;
use kube::{Api, ResourceExt};
use serde_json::{json, Value};
use std::collections::BTreeMap;

const DIRECTORY: &str = "/etc/kafscale/listeners";
/// Brokers' pods have their Service's changes as an annotation, by which they are restarted.
const STAMP: &str = "kafscale.io/listeners";
const COMPONENT: &str = "broker-listener";

/// What was found of the Services.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Listeners {
    /// Changes when a broker that is there is reached elsewhere.
    pub stamp: String,
    /// Services without an address.
    pub pending: Vec<String>,
}

/// A broker's file, in its container.
pub fn file() -> String {
    format!("{DIRECTORY}/$(KAFSCALE_BROKER_ID).toml")
}

/// The volume with the files of all brokers.
pub fn volume(cluster: &KafscaleCluster) -> Value {
    json!({"name": "listeners", "configMap": {"name": config_map_name(cluster)}})
}

/// Where it is mounted.
pub fn mount() -> Value {
    json!({"name": "listeners", "mountPath": DIRECTORY, "readOnly": true})
}

fn config_map_name(cluster: &KafscaleCluster) -> String {
    format!("{}-listeners", desired::name(cluster))
}

/// How many brokers there may be: an autoscaler must not wait for addresses.
fn brokers(cluster: &KafscaleCluster) -> i32 {
    let brokers = &cluster.spec.brokers;
    let most = brokers.autoscaling.as_ref().map(|bounds| bounds.max_replicas);
    most.or(brokers.replicas).unwrap_or(desired::REPLICAS_DEFAULT)
}

/// The Services that have to exist, by the number of their broker.
fn services(cluster: &KafscaleCluster) -> Vec<Value> {
    let Some(external) = &cluster.spec.brokers.external else {
        return Vec::new();
    };
    let one = |number: i32| {
        let name = format!("{}-{number}", desired::name(cluster));
        let mut selector = desired::selector(cluster);
        selector["statefulset.kubernetes.io/pod-name"] = json!(name);
        let mut spec = json!({
            "type": external.kind,
            "selector": selector,
            // A broker that drains must still be found by the clients that it answers.
            "publishNotReadyAddresses": true,
            "ports": [{"name": "kafka", "port": KAFKA_PORT, "targetPort": "kafka", "protocol": "TCP"}],
        });
        put(&mut spec, "externalTrafficPolicy", &external.external_traffic_policy);
        if external.kind == ExternalType::LoadBalancer && !external.load_balancer_source_ranges.is_empty() {
            spec["loadBalancerSourceRanges"] = json!(external.load_balancer_source_ranges);
        }
        let mut metadata = desired::metadata(cluster, name, json!(external.annotations));
        metadata["labels"]["app.kubernetes.io/component"] = json!(COMPONENT);
        json!({"apiVersion": "v1", "kind": "Service", "metadata": metadata, "spec": spec})
    };
    (0..brokers(cluster)).map(one).collect()
}

/// What a broker is told of its address, if its Service has one.
fn told(kind: ExternalType, service: &Service) -> Option<String> {
    match kind {
        ExternalType::NodePort => {
            let port = service.spec.as_ref()?.ports.as_ref()?.first()?.node_port?;
            Some(format!("broker_port = {port}\n"))
        }
        ExternalType::LoadBalancer => {
            let balancer = service.status.as_ref()?.load_balancer.as_ref()?;
            let ingress = balancer.ingress.as_ref()?.first()?;
            let host = ingress.hostname.as_ref().or(ingress.ip.as_ref())?;
            // JSON's strings are TOML's, for all that is in a host's name.
            Some(format!("broker_host = {}\nbroker_port = {KAFKA_PORT}\n", json!(host)))
        }
    }
}

/// The files from now on, and whether one of a broker that had one has changed. A broker whose Service lost its address
/// keeps its file: another broker's address would be worse than an old one.
fn merge(before: &BTreeMap<String, String>, found: &[Option<String>]) -> (BTreeMap<String, String>, bool) {
    let mut files = BTreeMap::new();
    let mut moved = false;
    for (number, text) in found.iter().enumerate() {
        let key = format!("{number}.toml");
        let old = before.get(&key);
        moved |= text.is_some() && old.is_some() && old != text.as_ref();
        if let Some(text) = text.as_ref().or(old) {
            files.insert(key, text.clone());
        }
    }
    (files, moved)
}

/// Makes the Services and the files.
///
/// # Errors
/// If the API server refuses.
pub async fn keep(
    cluster: &KafscaleCluster,
    namespace: &str,
    context: &Context,
) -> Result<Option<Listeners>, ReconcileError> {
    let Some(external) = &cluster.spec.brokers.external else {
        return Ok(None);
    };
    let api = Api::<Service>::namespaced(context.client.clone(), namespace);
    let mut found = Vec::new();
    let mut names = Vec::new();
    for service in services(cluster) {
        reconcile::apply(cluster, &service, namespace, context).await?;
        let name = service["metadata"]["name"].as_str().unwrap_or_default().to_string();
        let there = api.get_opt(&name).await.map_err(doing(format!("get Service {name}")))?;
        found.push(there.and_then(|there| told(external.kind, &there)));
        names.push(name);
    }
    let maps = Api::<ConfigMap>::namespaced(context.client.clone(), namespace);
    let name = config_map_name(cluster);
    let before = maps
        .get_opt(&name)
        .await
        .map_err(doing(format!("get ConfigMap {name}")))?;
    let files_before = before.as_ref().and_then(|map| map.data.clone()).unwrap_or_default();
    let (files, moved) = merge(&files_before, &found);
    let old_stamp = before.and_then(|map| map.metadata.annotations?.remove(STAMP));
    let stamp = match old_stamp {
        Some(stamp) if !moved => stamp,
        _ => fingerprint(&json!(files).to_string()),
    };
    let map = json!({
        "apiVersion": "v1", "kind": "ConfigMap",
        "metadata": desired::metadata(cluster, name, json!({STAMP: stamp})), "data": files,
    });
    reconcile::apply(cluster, &map, namespace, context).await?;
    let has_file = |number: usize| files.contains_key(&format!("{number}.toml"));
    let pending = names.into_iter().enumerate().filter(|(number, _)| !has_file(*number));
    Ok(Some(Listeners {
        stamp,
        pending: pending.map(|(_, name)| name).collect(),
    }))
}

/// Deletes the Services of brokers that are no more, and the files with the last of them.
///
/// # Errors
/// If the API server refuses.
pub async fn sweep(cluster: &KafscaleCluster, namespace: &str, context: &Context) -> Result<(), ReconcileError> {
    let wanted = services(cluster);
    let is_wanted = |name: &str| wanted.iter().any(|service| service["metadata"]["name"] == name);
    let api = Api::<Service>::namespaced(context.client.clone(), namespace);
    let labels = format!(
        "app.kubernetes.io/instance={},app.kubernetes.io/component={COMPONENT}",
        cluster.name_any()
    );
    let labelled = ListParams::default().labels(&labels);
    let services = api.list(&labelled).await.map_err(doing("list the brokers' Services"))?;
    for service in services.items {
        if reconcile::belongs(&service.metadata, cluster) && !is_wanted(&service.name_any()) {
            reconcile::remove(&api, service.metadata, context).await?;
        }
    }
    if cluster.spec.brokers.external.is_none() {
        let maps = Api::<ConfigMap>::namespaced(context.client.clone(), namespace);
        let name = config_map_name(cluster);
        let there = maps
            .get_opt(&name)
            .await
            .map_err(doing(format!("get ConfigMap {name}")))?;
        if let Some(ours) = there.filter(|there| reconcile::belongs(&there.metadata, cluster)) {
            reconcile::remove(&maps, ours.metadata, context).await?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn files(texts: &[&str]) -> BTreeMap<String, String> {
        let numbered = texts.iter().enumerate();
        numbered
            .map(|(number, text)| (format!("{number}.toml"), text.to_string()))
            .collect()
    }

    #[test]
    fn more_brokers_restart_nobody_and_a_new_address_does() {
        let some = |text: &str| Some(text.to_string());
        assert_eq!(merge(&files(&[]), &[some("a"), None]), (files(&["a"]), false));
        assert_eq!(
            merge(&files(&["a"]), &[some("a"), some("b")]),
            (files(&["a", "b"]), false)
        );
        assert_eq!(merge(&files(&["a", "b"]), &[some("a")]), (files(&["a"]), false));
        assert_eq!(merge(&files(&["a"]), &[some("c")]), (files(&["c"]), true));
        assert_eq!(merge(&files(&["a"]), &[None]), (files(&["a"]), false));
    }
}
