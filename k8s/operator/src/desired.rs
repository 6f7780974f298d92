//! What has to exist for a cluster: decided from its spec alone, without looking at the world.
//!
//! Objects are plain JSON, since server-side apply owns exactly the fields that are said: what is not here, others may
//! set. The number of brokers is apart from the rest, for the autoscaler owns it once there is one.

use crate::crd::{Config, ExternalType, KafscaleCluster, ServiceType};
use crate::etcd::objects as etcd;
use crate::listeners;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use kube::{Resource, ResourceExt};
use serde_json::{json, Map, Value};

/// Brokers where the spec does not say how many.
pub const REPLICAS_DEFAULT: i32 = 3;
/// Where brokers listen for Kafka's clients.
pub const KAFKA_PORT: i32 = 9092;
const HTTP_PORT: i32 = 9093;
/// The broker's own deadline for its drain (`shutdown_deadline_ms`).
const DRAIN_MS: i64 = 30_000;
/// Time to exit after the drain, before Kubernetes kills.
const EXIT_SECONDS: i64 = 15;
/// The image's user, which is not root.
pub const USER_ID: i64 = 65532;

/// A spec that cannot be carried out.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SpecError {
    /// The broker would not start on it.
    #[error("spec.config.cacheSize {0:?} is no size: write bytes, or a quantity such as 512Mi")]
    CacheSize(String),
    /// Two owners of one variable.
    #[error("spec.config.env cannot set {0}: the operator does, from the other fields")]
    Reserved(String),
    /// Clients would reach any broker under the name of each.
    #[error(
        "spec.brokers.advertisedHost has to differ between brokers: put $(POD_NAME) or $(KAFSCALE_BROKER_ID) in it"
    )]
    SharedHost,
    /// The API server checks this first; an object from a file has not met it.
    #[error("the cluster has no namespace")]
    NoNamespace,
}

impl SpecError {
    /// The reason of the condition, as one word.
    pub fn reason(&self) -> &'static str {
        match self {
            SpecError::CacheSize(_) => "CacheSizeInvalid",
            SpecError::Reserved(_) => "SettingReserved",
            SpecError::SharedHost => "AdvertisedHostShared",
            SpecError::NoNamespace => "NamespaceMissing",
        }
    }
}

/// What has to exist.
#[derive(Debug, Clone, PartialEq)]
pub struct Desired {
    /// Of an etcd that the operator runs; applied first.
    pub etcd: Vec<Value>,
    /// To be applied next, in this order.
    pub objects: Vec<Value>,
    /// How many brokers; none: an autoscaler says.
    pub replicas: Option<i32>,
}

/// Images where the spec names none.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Images {
    /// Of the broker.
    pub broker: String,
    /// Of etcd.
    pub etcd: String,
    /// Of this program.
    pub operator: String,
}

/// What pods have to be restarted for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Stamps {
    /// Changes with the authorities of the certificates.
    pub authorities: String,
    /// Changes with the authorities and with the clients' certificate.
    pub client_certificate: String,
    /// Changes when brokers that are there are reached elsewhere.
    pub listeners: String,
}

/// Decides what has to exist for `cluster`; pods are restarted when `stamps` change.
///
/// # Errors
/// If the spec cannot be carried out.
pub fn desired(cluster: &KafscaleCluster, images: &Images, stamps: &Stamps) -> Result<Desired, SpecError> {
    let spec = &cluster.spec;
    if cluster.namespace().is_none() {
        return Err(SpecError::NoNamespace);
    }
    let replicas = match spec.brokers.autoscaling {
        Some(_) => None,
        None => Some(spec.brokers.replicas.unwrap_or(REPLICAS_DEFAULT)),
    };
    let several = replicas.is_none_or(|replicas| replicas > 1);
    if several
        && spec
            .brokers
            .advertised_host
            .as_ref()
            .is_some_and(|host| !host.contains("$("))
    {
        return Err(SpecError::SharedHost);
    }
    let mut objects = vec![
        service_account(cluster),
        headless_service(cluster),
        client_service(cluster),
        stateful_set(cluster, &images.broker, stamps)?,
        disruption_budget(cluster),
    ];
    objects.extend(autoscaler(cluster));
    let etcd = match etcd::is_managed(cluster) {
        // Its pods have the brokers' account, for the bucket of snapshots.
        true => std::iter::once(service_account(cluster))
            .chain(etcd::objects(cluster, images, &stamps.authorities))
            .collect(),
        false => Vec::new(),
    };
    Ok(Desired {
        etcd,
        objects,
        replicas,
    })
}

/// The name of all objects but the headless Service.
pub fn name(cluster: &KafscaleCluster) -> String {
    format!("{}-broker", cluster.name_any())
}

fn headless_name(cluster: &KafscaleCluster) -> String {
    format!("{}-headless", name(cluster))
}

/// What every owned object is labelled with, and pods are selected by.
pub fn selector(cluster: &KafscaleCluster) -> Value {
    json!({"app.kubernetes.io/name": "kafscale-broker", "app.kubernetes.io/instance": cluster.name_any()})
}

/// Metadata of an object that `cluster` owns.
pub fn metadata(cluster: &KafscaleCluster, name: String, annotations: Value) -> Value {
    let mut labels = selector(cluster);
    labels["app.kubernetes.io/managed-by"] = json!("kafscale-operator");
    json!({
        "name": name,
        "namespace": cluster.namespace(),
        "labels": labels,
        "annotations": annotations,
        "ownerReferences": cluster.controller_owner_ref(&()).into_iter().collect::<Vec<_>>(),
    })
}

fn service_account(cluster: &KafscaleCluster) -> Value {
    json!({
        "apiVersion": "v1",
        "kind": "ServiceAccount",
        "metadata": metadata(cluster, name(cluster), json!(cluster.spec.brokers.service_account_annotations)),
        "automountServiceAccountToken": false,
    })
}

fn headless_service(cluster: &KafscaleCluster) -> Value {
    let mut metadata = metadata(cluster, headless_name(cluster), json!({}));
    // Scrapes find brokers by this: each once, through this Service and not the other.
    metadata["labels"]["app.kubernetes.io/component"] = json!("brokers");
    json!({
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": metadata,
        "spec": {
            "clusterIP": "None",
            // A broker that drains must still be found by the clients that it answers.
            "publishNotReadyAddresses": true,
            "selector": selector(cluster),
            "ports": [
                {"name": "kafka", "port": KAFKA_PORT, "targetPort": "kafka", "protocol": "TCP"},
                {"name": "http", "port": HTTP_PORT, "targetPort": "http", "protocol": "TCP"},
            ],
        },
    })
}

fn client_service(cluster: &KafscaleCluster) -> Value {
    let options = &cluster.spec.brokers.service;
    let kind = options.kind.unwrap_or_default();
    let mut kafka = json!({"name": "kafka", "port": KAFKA_PORT, "targetPort": "kafka", "protocol": "TCP"});
    let mut http = json!({"name": "http", "port": HTTP_PORT, "targetPort": "http", "protocol": "TCP"});
    let mut spec = json!({"type": kind, "selector": selector(cluster)});
    // The API server refuses these on other types.
    if kind != ServiceType::ClusterIP {
        put(&mut kafka, "nodePort", &options.kafka_node_port);
        put(&mut http, "nodePort", &options.metrics_node_port);
        put(&mut spec, "externalTrafficPolicy", &options.external_traffic_policy);
    }
    if kind == ServiceType::LoadBalancer {
        put(&mut spec, "loadBalancerIP", &options.load_balancer_ip);
        if !options.load_balancer_source_ranges.is_empty() {
            spec["loadBalancerSourceRanges"] = json!(options.load_balancer_source_ranges);
        }
    }
    spec["ports"] = json!([kafka, http]);
    json!({
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": metadata(cluster, name(cluster), json!(options.annotations)),
        "spec": spec,
    })
}

fn stateful_set(cluster: &KafscaleCluster, image: &str, stamps: &Stamps) -> Result<Value, SpecError> {
    let brokers = &cluster.spec.brokers;
    let mut container = json!({
        "name": "broker",
        "image": brokers.image.as_deref().unwrap_or(image),
        "env": environment(cluster)?,
        "ports": [
            {"name": "kafka", "containerPort": KAFKA_PORT, "protocol": "TCP"},
            {"name": "http", "containerPort": HTTP_PORT, "protocol": "TCP"},
        ],
        "startupProbe": {"httpGet": {"path": "/healthz", "port": "http"}, "periodSeconds": 2, "failureThreshold": 60},
        "livenessProbe": {"httpGet": {"path": "/healthz", "port": "http"}, "periodSeconds": 10, "timeoutSeconds": 5, "failureThreshold": 6},
        "readinessProbe": {"httpGet": {"path": "/readyz", "port": "http"}, "periodSeconds": 5, "timeoutSeconds": 3, "failureThreshold": 2},
        "securityContext": {
            "allowPrivilegeEscalation": false,
            "readOnlyRootFilesystem": true,
            "capabilities": {"drop": ["ALL"]},
        },
        // Why a broker did not start is in its last line.
        "terminationMessagePolicy": "FallbackToLogsOnError",
        "volumeMounts": [{"name": "data", "mountPath": "/var/lib/kafscale"}],
    });
    put(&mut container, "resources", &brokers.resources);
    if let Some(secret) = &cluster.spec.s3.credentials_secret_ref {
        container["envFrom"] = json!([{"secretRef": {"name": secret}}]);
    }
    let mut pod = json!({
        "serviceAccountName": name(cluster),
        "automountServiceAccountToken": false,
        // Variables that are named like settings of the broker are none.
        "enableServiceLinks": false,
        "terminationGracePeriodSeconds": DRAIN_MS / 1000 + EXIT_SECONDS,
        "securityContext": {
            "runAsNonRoot": true,
            "runAsUser": USER_ID,
            "runAsGroup": USER_ID,
            "fsGroup": USER_ID,
            "seccompProfile": match &brokers.seccomp_profile {
                Some(profile) => json!(profile),
                None => json!({"type": "Localhost", "localhostProfile": "profiles/kafscale.json"}),
            },
        },
        "containers": [container],
        // Records are in the bucket and metadata in etcd: nothing here outlives the pod.
        "volumes": [{"name": "data", "emptyDir": {}}],
        "affinity": match &brokers.affinity {
            Some(affinity) => json!(affinity),
            None => json!({"podAntiAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": [{
                "weight": 100,
                "podAffinityTerm": {"topologyKey": "kubernetes.io/hostname", "labelSelector": {"matchLabels": selector(cluster)}},
            }]}}),
        },
        "topologySpreadConstraints": match &brokers.topology_spread_constraints {
            Some(constraints) => json!(constraints),
            None => json!([spread(cluster, "topology.kubernetes.io/zone"), spread(cluster, "kubernetes.io/hostname")]),
        },
    });
    let mut template = json!({"labels": selector(cluster)});
    if brokers.external.is_some() {
        template["annotations"]["kafscale.io/listeners"] = json!(stamps.listeners);
        append(&mut pod["volumes"], listeners::volume(cluster));
        append(&mut pod["containers"][0]["volumeMounts"], listeners::mount());
    }
    if etcd::is_managed(cluster) {
        template["annotations"]["kafscale.io/etcd-certificate"] = json!(stamps.client_certificate);
        append(&mut pod["volumes"], etcd::client_volume(cluster));
        append(&mut pod["containers"][0]["volumeMounts"], etcd::client_mount());
    }
    if !brokers.node_selector.is_empty() {
        pod["nodeSelector"] = json!(brokers.node_selector);
    }
    if !brokers.tolerations.is_empty() {
        pod["tolerations"] = json!(brokers.tolerations);
    }
    Ok(json!({
        "apiVersion": "apps/v1",
        "kind": "StatefulSet",
        "metadata": metadata(cluster, name(cluster), json!({})),
        "spec": {
            "serviceName": headless_name(cluster),
            "selector": {"matchLabels": selector(cluster)},
            // All start at once; updates still go one by one, each when the one before is ready.
            "podManagementPolicy": "Parallel",
            "updateStrategy": {"type": "RollingUpdate", "rollingUpdate": {"partition": 0}},
            "minReadySeconds": 5,
            "template": {"metadata": template, "spec": pod},
        },
    }))
}

fn spread(cluster: &KafscaleCluster, key: &str) -> Value {
    json!({
        "maxSkew": 1,
        "topologyKey": key,
        "whenUnsatisfiable": "ScheduleAnyway",
        "labelSelector": {"matchLabels": selector(cluster)},
    })
}

/// The broker's variables. Order counts: `$(…)` sees only what stands before.
fn environment(cluster: &KafscaleCluster) -> Result<Vec<Value>, SpecError> {
    let spec = &cluster.spec;
    let mut variables = vec![
        from_field("POD_NAME", "metadata.name"),
        from_field("KAFSCALE_BROKER_ID", "metadata.labels['apps.kubernetes.io/pod-index']"),
        // Empty, and so none, where the API server does not copy the node's zone to its pods.
        from_field("KAFSCALE_RACK", "metadata.labels['topology.kubernetes.io/zone']"),
    ];
    if spec.brokers.external.is_some() {
        variables.push(from_field("HOST_IP", "status.hostIP"));
    }
    let mut plain = vec![
        ("KAFSCALE_BROKER_ADDR", format!("0.0.0.0:{KAFKA_PORT}")),
        ("KAFSCALE_METRICS_ADDR", format!("0.0.0.0:{HTTP_PORT}")),
        ("KAFSCALE_DATA_DIR", "/var/lib/kafscale".to_string()),
        ("KAFSCALE_SHUTDOWN_DEADLINE_MS", DRAIN_MS.to_string()),
        ("KAFSCALE_S3_BUCKET", spec.s3.bucket.clone()),
    ];
    if etcd::is_managed(cluster) {
        plain.push(("KAFSCALE_ETCD_ENDPOINTS", etcd::endpoint(cluster)));
        plain.extend(etcd::client_variables());
    } else {
        plain.push(("KAFSCALE_ETCD_ENDPOINTS", spec.etcd.endpoints.join(",")));
    }
    let (host, port) = advertised(cluster);
    let optional = [
        ("KAFSCALE_BROKER_HOST", host),
        ("KAFSCALE_BROKER_PORT", port),
        (
            "KAFSCALE_CONFIG",
            spec.brokers.external.as_ref().map(|_| listeners::file()),
        ),
        ("KAFSCALE_S3_REGION", spec.s3.region.clone()),
        ("KAFSCALE_S3_ENDPOINT", spec.s3.endpoint.clone()),
        ("KAFSCALE_S3_READ_BUCKET", spec.s3.read_bucket.clone()),
        ("KAFSCALE_S3_READ_REGION", spec.s3.read_region.clone()),
        ("KAFSCALE_S3_READ_ENDPOINT", spec.s3.read_endpoint.clone()),
        ("KAFSCALE_S3_KMS_ARN", spec.s3.kms_key_arn.clone()),
        (
            "KAFSCALE_SEGMENT_BYTES",
            spec.config.segment_bytes.map(|bytes| bytes.to_string()),
        ),
        (
            "KAFSCALE_FLUSH_INTERVAL_MS",
            spec.config.flush_interval_ms.map(|ms| ms.to_string()),
        ),
        (
            "KAFSCALE_CACHE_BYTES",
            cache_bytes(&spec.config)?.map(|bytes| bytes.to_string()),
        ),
    ];
    let reserved = |name: &str| {
        ["KAFSCALE_BROKER_ID", "KAFSCALE_RACK"].contains(&name)
            || plain.iter().any(|(taken, _)| *taken == name)
            || optional.iter().any(|(taken, _)| *taken == name)
    };
    if let Some(taken) = spec.config.env.keys().find(|name| reserved(name)) {
        return Err(SpecError::Reserved(taken.clone()));
    }
    plain.extend(
        optional
            .iter()
            .filter_map(|(name, value)| Some((*name, value.clone()?))),
    );
    variables.extend(
        plain
            .into_iter()
            .map(|(name, value)| json!({"name": name, "value": value})),
    );
    variables.extend(
        spec.config
            .env
            .iter()
            .map(|(name, value)| json!({"name": name, "value": value})),
    );
    Ok(variables)
}

/// Host and port that clients are told, as far as they are not in the broker's file of [`listeners`].
fn advertised(cluster: &KafscaleCluster) -> (Option<String>, Option<String>) {
    let brokers = &cluster.spec.brokers;
    let external = brokers.external.as_ref().map(|external| external.kind);
    let (host, port) = match external {
        None => {
            let (service, namespace) = (headless_name(cluster), cluster.namespace().unwrap_or_default());
            (Some(format!("$(POD_NAME).{service}.{namespace}.svc")), Some(KAFKA_PORT))
        }
        Some(ExternalType::NodePort) => (Some("$(HOST_IP)".to_string()), None),
        Some(ExternalType::LoadBalancer) => (None, None),
    };
    let port = brokers.advertised_port.or(port).map(|port| port.to_string());
    (brokers.advertised_host.clone().or(host), port)
}

/// A variable with what the pod's own object says.
pub fn from_field(name: &str, path: &str) -> Value {
    json!({"name": name, "valueFrom": {"fieldRef": {"fieldPath": path}}})
}

/// `cacheSize` in bytes.
fn cache_bytes(config: &Config) -> Result<Option<u64>, SpecError> {
    let text = match &config.cache_size {
        None => return Ok(None),
        Some(IntOrString::Int(bytes)) => bytes.to_string(),
        Some(IntOrString::String(text)) => text.clone(),
    };
    let units = [
        ("Ki", 1 << 10),
        ("Mi", 1 << 20),
        ("Gi", 1 << 30),
        ("Ti", 1 << 40),
        ("k", 1000),
        ("M", 1_000_000),
        ("G", 1_000_000_000),
    ];
    let trimmed = text.trim_end_matches('B');
    let (digits, unit) = units
        .iter()
        .find_map(|(suffix, unit)| Some((trimmed.strip_suffix(suffix)?, *unit)))
        .unwrap_or((trimmed, 1_u64));
    match digits.parse::<u64>().ok().and_then(|number| number.checked_mul(unit)) {
        Some(bytes) => Ok(Some(bytes)),
        None => Err(SpecError::CacheSize(text)),
    }
}

fn disruption_budget(cluster: &KafscaleCluster) -> Value {
    json!({
        "apiVersion": "policy/v1",
        "kind": "PodDisruptionBudget",
        "metadata": metadata(cluster, name(cluster), json!({})),
        "spec": {"maxUnavailable": 1, "selector": {"matchLabels": selector(cluster)}},
    })
}

fn autoscaler(cluster: &KafscaleCluster) -> Option<Value> {
    let bounds = cluster.spec.brokers.autoscaling.as_ref()?;
    Some(json!({
        "apiVersion": "autoscaling/v2",
        "kind": "HorizontalPodAutoscaler",
        "metadata": metadata(cluster, name(cluster), json!({})),
        "spec": {
            "scaleTargetRef": {"apiVersion": "apps/v1", "kind": "StatefulSet", "name": name(cluster)},
            "minReplicas": bounds.min_replicas,
            "maxReplicas": bounds.max_replicas,
            "metrics": [{"type": "Resource", "resource": {
                "name": "cpu",
                "target": {"type": "Utilization", "averageUtilization": bounds.target_cpu_percent},
            }}],
            // Each broker that goes hands its partitions over: not many at once.
            "behavior": {"scaleDown": {"policies": [{"type": "Pods", "value": 1, "periodSeconds": 60}]}},
        },
    }))
}

fn append(list: &mut Value, item: Value) {
    if let Some(list) = list.as_array_mut() {
        list.push(item);
    }
}

/// Says a field if there is something to say.
pub fn put<T: serde::Serialize>(object: &mut Value, key: &str, value: &Option<T>) {
    if let Some(value) = value {
        object
            .as_object_mut()
            .unwrap_or(&mut Map::new())
            .insert(key.to_string(), json!(value));
    }
}

#[cfg(test)]
mod tests;
