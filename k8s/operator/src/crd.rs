//! The custom resources that users write. The YAML in `k8s/crds` is made from these types, comments included.

use k8s_openapi::api::core::v1::{
    Affinity, ResourceRequirements, SeccompProfile, Toleration, TopologySpreadConstraint,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use kube::{CustomResource, CustomResourceExt, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// A cluster of Kafscale brokers.
#[derive(CustomResource, KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[kube(
    group = "kafscale.io",
    version = "v1alpha1",
    kind = "KafscaleCluster",
    plural = "kafscaleclusters",
    shortname = "kfc",
    namespaced,
    derive = "Default",
    derive = "PartialEq",
    status = "ClusterStatus",
    printcolumn = r#"{"name":"Ready","type":"string","jsonPath":".status.conditions[?(@.type=='Ready')].status"}"#,
    printcolumn = r#"{"name":"Reason","type":"string","jsonPath":".status.conditions[?(@.type=='Ready')].reason"}"#,
    printcolumn = r#"{"name":"Brokers","type":"integer","jsonPath":".status.readyBrokers"}"#,
    validation = Rule::new("self.metadata.name.size() <= 40")
        .message("the name may have 40 characters at most: names of brokers are made from it")
)]
#[serde(rename_all = "camelCase")]
pub struct ClusterSpec {
    /// The brokers and how clients reach them.
    #[serde(default)]
    pub brokers: Brokers,
    /// The bucket that holds the records.
    pub s3: S3,
    /// The etcd that coordinates the brokers.
    #[serde(default)]
    pub etcd: Etcd,
    /// Settings of the brokers.
    #[serde(default)]
    pub config: Config,
}

/// The brokers and how clients reach them.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("!has(self.autoscaling) || !has(self.replicas)")
        .message("set replicas or autoscaling, not both: an autoscaler owns the number of brokers"),
    validation = Rule::new("!has(self.advertisedHost) || self.advertisedHost.contains('$(') || (has(self.replicas) && self.replicas == 1)")
        .message("advertisedHost has to differ between brokers: put $(POD_NAME) or $(KAFSCALE_BROKER_ID) in it")
)]
pub struct Brokers {
    /// How many brokers, 1 to 1000; default 3. Not together with `autoscaling`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[x_kube(validation = Rule::new("self >= 1 && self <= 1000")
        .message("a cluster has 1 to 1000 brokers; to stop one without losing anything, delete the KafscaleCluster: its records stay in the bucket"))]
    pub replicas: Option<i32>,
    /// Image of the broker; default: the one that the operator was started with.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub image: Option<String>,
    /// CPU and memory of each broker.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub resources: Option<ResourceRequirements>,
    /// The host that clients are told to connect to; default: the pod's name in the headless Service, or what `external`
    /// gives. Each broker has to have its own: `$(POD_NAME)`, `$(KAFSCALE_BROKER_ID)` and, with `external`, `$(HOST_IP)`
    /// are replaced.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub advertised_host: Option<String>,
    /// The port that clients are told to connect to; default 9092, or what `external` gives.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 65535))]
    pub advertised_port: Option<i32>,
    /// The Service that clients bootstrap from.
    #[serde(default)]
    pub service: ServiceOptions,
    /// A Service for each broker, for clients outside of Kubernetes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub external: Option<External>,
    /// Lets an autoscaler choose the number of brokers, which the operator then leaves alone.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub autoscaling: Option<Autoscaling>,
    /// Seccomp profile of the brokers; it has to allow io_uring, which the runtimes' default does not. Default: the
    /// node's `profiles/kafscale.json`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub seccomp_profile: Option<SeccompProfile>,
    /// How brokers are spread; default: evenly over zones and nodes where that is possible.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub topology_spread_constraints: Option<Vec<TopologySpreadConstraint>>,
    /// Where brokers may run; default: preferably on different nodes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub affinity: Option<Affinity>,
    /// Labels that a node must have.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub node_selector: BTreeMap<String, String>,
    /// Taints that are tolerated.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tolerations: Vec<Toleration>,
    /// Annotations of the brokers' ServiceAccount, such as the cloud role that may use the bucket.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub service_account_annotations: BTreeMap<String, String>,
}

/// A Service for each broker. A broker has one name and port: clients inside are told the same ones.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct External {
    /// `NodePort`: clients are told the address of the broker's node, and the port of the broker's Service.
    /// `LoadBalancer`: they are told the name or address that the cloud gives to the broker's Service, and port 9092.
    #[serde(rename = "type")]
    pub kind: ExternalType,
    /// Annotations of each Service, for the cloud's load balancer for example.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
    /// Networks that load balancers let in; for `LoadBalancer`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub load_balancer_source_ranges: Vec<String>,
    /// `Cluster` (default) or `Local`, which keeps clients' addresses.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub external_traffic_policy: Option<TrafficPolicy>,
}

/// Kubernetes' types of Services that are reached from outside.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)] // Kubernetes' own names.
pub enum ExternalType {
    NodePort,
    LoadBalancer,
}

/// Bounds and aim of the autoscaler.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("self.minReplicas <= self.maxReplicas").message("minReplicas is greater than maxReplicas"))]
pub struct Autoscaling {
    /// Never fewer brokers than this.
    #[schemars(range(min = 1, max = 1000))]
    pub min_replicas: i32,
    /// Never more brokers than this.
    #[schemars(range(min = 1, max = 1000))]
    pub max_replicas: i32,
    /// CPU use to aim at, in percent of what the brokers request.
    #[schemars(range(min = 1, max = 100))]
    #[serde(rename = "targetCPUUtilizationPercentage", default = "target_cpu_percent")]
    pub target_cpu_percent: i32,
}

fn target_cpu_percent() -> i32 {
    70
}

/// The Service that clients bootstrap from.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct ServiceOptions {
    /// `ClusterIP` (default), `NodePort` or `LoadBalancer`.
    #[serde(rename = "type", skip_serializing_if = "Option::is_none")]
    pub kind: Option<ServiceType>,
    /// Annotations, for the cloud's load balancer for example.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
    /// Address to ask of the load balancer.
    #[serde(rename = "loadBalancerIP", skip_serializing_if = "Option::is_none")]
    pub load_balancer_ip: Option<String>,
    /// Networks that the load balancer lets in.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub load_balancer_source_ranges: Vec<String>,
    /// `Cluster` or `Local`; for `NodePort` and `LoadBalancer`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub external_traffic_policy: Option<TrafficPolicy>,
    /// The nodes' port for Kafka; for `NodePort` and `LoadBalancer`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 65535))]
    pub kafka_node_port: Option<i32>,
    /// The nodes' port for HTTP; for `NodePort` and `LoadBalancer`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 65535))]
    pub metrics_node_port: Option<i32>,
}

/// Kubernetes' types of Services that can lead to brokers.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Copy, Debug, Default, PartialEq, Eq)]
#[allow(missing_docs)] // Kubernetes' own names.
pub enum ServiceType {
    #[default]
    ClusterIP,
    NodePort,
    LoadBalancer,
}

/// Whether traffic may take another node on its way.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)] // Kubernetes' own names.
pub enum TrafficPolicy {
    Cluster,
    Local,
}

/// The bucket that holds the records.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct S3 {
    /// Its name.
    #[schemars(length(min = 1))]
    pub bucket: String,
    /// Its region; default us-east-1.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub region: Option<String>,
    /// Where the store is, as `http(s)://host[:port]`; default: AWS.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub endpoint: Option<String>,
    /// A replica that is read first.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub read_bucket: Option<String>,
    /// The replica's region.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub read_region: Option<String>,
    /// Where the replica is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub read_endpoint: Option<String>,
    /// KMS key with which the store encrypts objects.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kms_key_arn: Option<String>,
    /// Name of a Secret whose keys are variables of the broker: `KAFSCALE_S3_ACCESS_KEY`, `KAFSCALE_S3_SECRET_KEY`,
    /// perhaps `KAFSCALE_S3_SESSION_TOKEN`. Without it, the pods' own cloud identity counts.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub credentials_secret_ref: Option<String>,
}

/// The etcd that coordinates the brokers: one that exists (`endpoints`), or else one that the operator runs.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("has(self.endpoints) == has(oldSelf.endpoints)")
        .message("etcd.endpoints cannot be added or taken away: the metadata would stay behind in the other etcd"),
    validation = Rule::new("self.storage == oldSelf.storage")
        .message("etcd.storage cannot be changed: Kubernetes does not change the volumes of a StatefulSet")
)]
pub struct Etcd {
    /// Members of an etcd that exists, as `http(s)://host:port`. Without them the operator runs one of three members, and
    /// the other fields are about it. Cannot be added or taken away later.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(min = 1))]
    pub endpoints: Vec<String>,
    /// Image of etcd, 3.6 or later; default: the one that the operator was started with.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub image: Option<String>,
    /// CPU and memory of each member.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub resources: Option<ResourceRequirements>,
    /// The volume of each member. Cannot be changed later.
    #[serde(default)]
    pub storage: EtcdStorage,
    /// Where members may run; default: never two on one node.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub affinity: Option<Affinity>,
    /// Labels that a node must have.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub node_selector: BTreeMap<String, String>,
    /// Taints that are tolerated.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tolerations: Vec<Toleration>,
    /// When members are defragmented, one after another, in cron's notation; default: 30 3 * * *.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(regex(pattern = r"^(@(hourly|daily|midnight|weekly|monthly)|\S+( \S+){4})$"))]
    pub defragment_schedule: Option<String>,
    /// Snapshots in a bucket.
    #[serde(default)]
    pub snapshots: EtcdSnapshots,
    /// Name of the snapshot with which members begin whose volume is empty. Only for snapshots after which no broker
    /// wrote: see docs/operations.md.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(regex(pattern = r"^[A-Za-z0-9_.-]+\.db$"))]
    pub restore_snapshot: Option<String>,
}

/// The volume of a member of etcd.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct EtcdStorage {
    /// Its size; default 20Gi.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub size: Option<Quantity>,
    /// Its StorageClass; default: Kubernetes' default.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub class_name: Option<String>,
}

/// Snapshots of etcd in a bucket, below `etcd-snapshots/NAMESPACE/NAME/`.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct EtcdSnapshots {
    /// When they are taken, in cron's notation; default: 0 * * * *, each hour.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(regex(pattern = r"^(@(hourly|daily|midnight|weekly|monthly)|\S+( \S+){4})$"))]
    pub schedule: Option<String>,
    /// How many are kept; default 48.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 10000))]
    pub keep: Option<i32>,
    /// Whether none are taken for the time being; default false.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub suspend: Option<bool>,
    /// The bucket; default: that of the records, with its region, endpoint, key and credentials.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1))]
    pub bucket: Option<String>,
    /// Region of `bucket`; default: that of the records.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub region: Option<String>,
    /// Where `bucket` is, as `http(s)://host[:port]`; default: where the records are.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub endpoint: Option<String>,
    /// KMS key of snapshots; default: that of the records.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kms_key_arn: Option<String>,
    /// Name of a Secret with the variables `KAFSCALE_S3_ACCESS_KEY` and so on; default: that of the records.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub credentials_secret_ref: Option<String>,
}

/// Settings of the brokers.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct Config {
    /// A partition's records become a segment when there are this many bytes of them.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 16384, max = 1073741824))]
    pub segment_bytes: Option<i64>,
    /// A shard flushes when its oldest record has waited this long, in milliseconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 60000))]
    pub flush_interval_ms: Option<i64>,
    /// Memory for what was read back from the store: bytes, or a quantity such as `512Mi`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cache_size: Option<IntOrString>,
    /// Any other setting of docs/settings.md, by its variable (`KAFSCALE_SHARDS: "2"`). What the operator sets itself
    /// cannot be set here.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[x_kube(validation = Rule::new("self.all(k, k.startsWith('KAFSCALE_'))")
        .message("settings of the broker begin with KAFSCALE_"))]
    pub env: BTreeMap<String, String>,
}

/// What the operator found.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct ClusterStatus {
    /// The generation of the spec that the rest is about.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// Brokers that are there.
    #[serde(default)]
    pub brokers: i32,
    /// Brokers that are ready.
    #[serde(default)]
    pub ready_brokers: i32,
    /// `Ready`, `NodesSuitable`, `EtcdAvailable`, with `brokers.external` `ListenersReady`, and of an etcd that the operator runs `EtcdSnapshot`, `EtcdSnapshotAccess`
    /// and `EtcdMaintenance`, with reasons that say what to do.
    #[serde(default)]
    pub conditions: Vec<Condition>,
}

/// A topic of a Kafscale cluster.
#[derive(CustomResource, KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[kube(
    group = "kafscale.io",
    version = "v1alpha1",
    kind = "KafscaleTopic",
    plural = "kafscaletopics",
    shortname = "kft",
    namespaced,
    derive = "Default",
    derive = "PartialEq",
    status = "TopicStatus",
    printcolumn = r#"{"name":"Cluster","type":"string","jsonPath":".spec.clusterRef"}"#,
    printcolumn = r#"{"name":"Partitions","type":"integer","jsonPath":".status.partitions"}"#,
    printcolumn = r#"{"name":"Ready","type":"string","jsonPath":".status.conditions[?(@.type=='Ready')].status"}"#,
    printcolumn = r#"{"name":"In sync","type":"string","jsonPath":".status.conditions[?(@.type=='InSync')].status"}"#
)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("has(self.topicName) == has(oldSelf.topicName) && (!has(self.topicName) || self.topicName == oldSelf.topicName)")
        .message("topicName cannot be changed: make another KafscaleTopic"),
    validation = Rule::new("!has(self.config) || !('retention.ms' in self.config)")
        .message("set retentionMs instead of config['retention.ms']"),
    validation = Rule::new("!has(self.config) || !('retention.bytes' in self.config)")
        .message("set retentionBytes instead of config['retention.bytes']")
)]
pub struct TopicSpec {
    /// Name of the `KafscaleCluster`, in the same namespace. Cannot be changed.
    #[x_kube(validation = Rule::new("self == oldSelf").message("clusterRef cannot be changed: make another KafscaleTopic"))]
    #[schemars(length(min = 1, max = 40))]
    pub cluster_ref: String,
    /// The topic's name in Kafka, for names that Kubernetes does not allow; default: the resource's. Cannot be changed.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 249), regex(pattern = r"^[a-zA-Z0-9._-]+$"))]
    pub topic_name: Option<String>,
    /// How many partitions. May grow, not shrink.
    #[schemars(range(min = 1, max = 100_000))]
    #[x_kube(validation = Rule::new("self >= oldSelf").message("partitions cannot be taken away, only added"))]
    pub partitions: i32,
    /// How long records are kept, in milliseconds; −1: for ever. Default: the brokers'.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = -1))]
    pub retention_ms: Option<i64>,
    /// How many bytes of a partition are kept; −1: all. Default: the brokers'.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = -1))]
    pub retention_bytes: Option<i64>,
    /// Any other setting of topics, by Kafka's name. Others' settings on the topic stay, and are told as drift.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub config: BTreeMap<String, String>,
    /// Whether the topic and its records are deleted together with this resource. Default: `Retain`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub deletion_policy: Option<DeletionPolicy>,
}

/// What becomes of a topic whose resource is deleted.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum DeletionPolicy {
    /// It stays as it is.
    #[default]
    Retain,
    /// It is deleted, with all records.
    Delete,
}

/// What the operator found of a topic.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct TopicStatus {
    /// The generation of the spec that the rest is about.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// The topic's id in Kafka: another topic of the same name is never deleted for it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub topic_id: Option<String>,
    /// Partitions that it has.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub partitions: Option<i32>,
    /// Settings that the operator gave to it: it takes them back when the spec does not say them any more.
    #[serde(default)]
    pub managed_config: Vec<String>,
    /// `Ready`, and `InSync`: false if the topic differs from the spec in what the operator leaves alone.
    #[serde(default)]
    pub conditions: Vec<Condition>,
}

/// The definitions of all resources, as YAML documents.
///
/// # Errors
/// If a schema cannot be written as YAML, which is a fault of these types.
pub fn definitions() -> Result<String, serde_saphyr::ser::Error> {
    let mut text = "# Made by `kafscale-operator crds`; do not edit.\n".to_string();
    for (number, mut definition) in [KafscaleCluster::crd(), KafscaleTopic::crd()].into_iter().enumerate() {
        if number > 0 {
            text += "---\n";
        }
        definition.metadata.labels = Some(BTreeMap::from([(
            "app.kubernetes.io/part-of".to_string(),
            "kafscale".to_string(),
        )]));
        text += &serde_saphyr::to_string(&definition)?;
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_committed_definitions_are_current() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../crds/kafscale.io.yaml");
        let committed = std::fs::read_to_string(path).unwrap_or_default();
        assert!(
            committed == super::definitions().unwrap(),
            "stale: run `cargo run -p kafscale-operator -- crds > k8s/crds/kafscale.io.yaml`"
        );
    }
}
