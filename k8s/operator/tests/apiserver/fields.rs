//! Every field of the resources has an effect: the test walks the definition on the API server.

use crate::world::{blue, definition, managed, run, World};
use serde_json::{json, Value};

/// Where a field shows.
enum Effect {
    /// As a variable of the broker.
    Variable(&'static str, &'static str),
    /// In an object: kind, name, JSON pointer, value.
    At(&'static str, &'static str, &'static str, Value),
    /// As a variable of the Job that takes snapshots.
    OfJob(&'static str, &'static str),
}
use Effect::{At, OfJob, Variable};

const SET: &str = "StatefulSet";
const POD: &str = "/spec/template/spec";
const NAME: &str = "blue-broker";

/// A field by its path in the spec, a change of `blue` that sets it, and where it shows.
fn fields() -> Vec<(&'static str, Value, Effect)> {
    let pod = |pointer: &'static str, value: Value| At(SET, NAME, pointer, value);
    let service = |options: Value| json!({"brokers": {"service": options}});
    let service_shows = |pointer: &'static str, value: Value| At("Service", NAME, pointer, value);
    let external = |kind: &str, mut options: Value| {
        options["type"] = json!(kind);
        json!({"brokers": {"external": options}})
    };
    let listener = |pointer: &'static str, value: Value| At("Service", "blue-broker-0", pointer, value);
    let autoscaler = |pointer: &'static str, value: Value| At("HorizontalPodAutoscaler", NAME, pointer, value);
    let scaling = json!({"minReplicas": 2, "maxReplicas": 8, "targetCPUUtilizationPercentage": 55});
    let scaled = || json!({"brokers": {"autoscaling": scaling}});
    let spread = json!([{"maxSkew": 2, "topologyKey": "k", "whenUnsatisfiable": "DoNotSchedule"}]);
    let affinity = json!({"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [
        {"matchExpressions": [{"key": "disk", "operator": "In", "values": ["nvme"]}]}]}}});
    let toleration = json!([{"key": "kafka", "operator": "Exists"}]);
    let resources = json!({"requests": {"cpu": "2"}});
    vec![
        (
            "brokers/replicas",
            json!({"brokers": {"replicas": 4}}),
            pod("/spec/replicas", json!(4)),
        ),
        (
            "brokers/image",
            json!({"brokers": {"image": "mine:2"}}),
            pod("/spec/template/spec/containers/0/image", json!("mine:2")),
        ),
        (
            "brokers/resources",
            json!({"brokers": {"resources": resources}}),
            pod("/spec/template/spec/containers/0/resources", resources.clone()),
        ),
        (
            "brokers/advertisedHost",
            json!({"brokers": {"advertisedHost": "$(POD_NAME).example"}}),
            Variable("KAFSCALE_BROKER_HOST", "$(POD_NAME).example"),
        ),
        (
            "brokers/advertisedPort",
            json!({"brokers": {"advertisedPort": 19092}}),
            Variable("KAFSCALE_BROKER_PORT", "19092"),
        ),
        (
            "brokers/service/type",
            service(json!({"type": "NodePort"})),
            service_shows("/spec/type", json!("NodePort")),
        ),
        (
            "brokers/service/annotations",
            service(json!({"annotations": {"lb": "internal"}})),
            service_shows("/metadata/annotations/lb", json!("internal")),
        ),
        (
            "brokers/service/loadBalancerIP",
            service(json!({"type": "LoadBalancer", "loadBalancerIP": "10.9.0.9"})),
            service_shows("/spec/loadBalancerIP", json!("10.9.0.9")),
        ),
        (
            "brokers/service/loadBalancerSourceRanges",
            service(json!({"type": "LoadBalancer", "loadBalancerSourceRanges": ["10.9.0.0/16"]})),
            service_shows("/spec/loadBalancerSourceRanges", json!(["10.9.0.0/16"])),
        ),
        (
            "brokers/service/externalTrafficPolicy",
            service(json!({"type": "NodePort", "externalTrafficPolicy": "Local"})),
            service_shows("/spec/externalTrafficPolicy", json!("Local")),
        ),
        (
            "brokers/service/kafkaNodePort",
            service(json!({"type": "NodePort", "kafkaNodePort": 30192})),
            service_shows("/spec/ports/0/nodePort", json!(30192)),
        ),
        (
            "brokers/service/metricsNodePort",
            service(json!({"type": "NodePort", "metricsNodePort": 30193})),
            service_shows("/spec/ports/1/nodePort", json!(30193)),
        ),
        (
            "brokers/external/type",
            external("NodePort", json!({})),
            listener("/spec/type", json!("NodePort")),
        ),
        (
            "brokers/external/annotations",
            external("NodePort", json!({"annotations": {"lb": "internal"}})),
            listener("/metadata/annotations/lb", json!("internal")),
        ),
        (
            "brokers/external/loadBalancerSourceRanges",
            external("LoadBalancer", json!({"loadBalancerSourceRanges": ["10.9.0.0/16"]})),
            listener("/spec/loadBalancerSourceRanges", json!(["10.9.0.0/16"])),
        ),
        (
            "brokers/external/externalTrafficPolicy",
            external("NodePort", json!({"externalTrafficPolicy": "Local"})),
            listener("/spec/externalTrafficPolicy", json!("Local")),
        ),
        (
            "brokers/autoscaling/minReplicas",
            scaled(),
            autoscaler("/spec/minReplicas", json!(2)),
        ),
        (
            "brokers/autoscaling/maxReplicas",
            scaled(),
            autoscaler("/spec/maxReplicas", json!(8)),
        ),
        (
            "brokers/autoscaling/targetCPUUtilizationPercentage",
            scaled(),
            autoscaler("/spec/metrics/0/resource/target/averageUtilization", json!(55)),
        ),
        (
            "brokers/seccompProfile",
            json!({"brokers": {"seccompProfile": {"type": "Unconfined"}}}),
            pod(
                "/spec/template/spec/securityContext/seccompProfile/type",
                json!("Unconfined"),
            ),
        ),
        (
            "brokers/topologySpreadConstraints",
            json!({"brokers": {"topologySpreadConstraints": spread}}),
            pod("/spec/template/spec/topologySpreadConstraints", spread.clone()),
        ),
        (
            "brokers/affinity",
            json!({"brokers": {"affinity": affinity}}),
            pod("/spec/template/spec/affinity", affinity.clone()),
        ),
        (
            "brokers/nodeSelector",
            json!({"brokers": {"nodeSelector": {"disk": "nvme"}}}),
            pod("/spec/template/spec/nodeSelector", json!({"disk": "nvme"})),
        ),
        (
            "brokers/tolerations",
            json!({"brokers": {"tolerations": toleration}}),
            pod("/spec/template/spec/tolerations", toleration.clone()),
        ),
        (
            "brokers/serviceAccountAnnotations",
            json!({"brokers": {"serviceAccountAnnotations": {"role": "r"}}}),
            At("ServiceAccount", NAME, "/metadata/annotations/role", json!("r")),
        ),
        (
            "s3/bucket",
            json!({"s3": {"bucket": "b"}}),
            Variable("KAFSCALE_S3_BUCKET", "b"),
        ),
        (
            "s3/region",
            json!({"s3": {"region": "eu"}}),
            Variable("KAFSCALE_S3_REGION", "eu"),
        ),
        (
            "s3/endpoint",
            json!({"s3": {"endpoint": "http://s3"}}),
            Variable("KAFSCALE_S3_ENDPOINT", "http://s3"),
        ),
        (
            "s3/readBucket",
            json!({"s3": {"readBucket": "r"}}),
            Variable("KAFSCALE_S3_READ_BUCKET", "r"),
        ),
        (
            "s3/readRegion",
            json!({"s3": {"readRegion": "us"}}),
            Variable("KAFSCALE_S3_READ_REGION", "us"),
        ),
        (
            "s3/readEndpoint",
            json!({"s3": {"readEndpoint": "http://r"}}),
            Variable("KAFSCALE_S3_READ_ENDPOINT", "http://r"),
        ),
        (
            "s3/kmsKeyArn",
            json!({"s3": {"kmsKeyArn": "arn:k"}}),
            Variable("KAFSCALE_S3_KMS_ARN", "arn:k"),
        ),
        (
            "s3/credentialsSecretRef",
            json!({"s3": {"credentialsSecretRef": "keys"}}),
            pod(
                "/spec/template/spec/containers/0/envFrom/0/secretRef/name",
                json!("keys"),
            ),
        ),
        (
            "etcd/endpoints",
            json!({"etcd": {"endpoints": ["http://x:1", "http://y:1"]}}),
            Variable("KAFSCALE_ETCD_ENDPOINTS", "http://x:1,http://y:1"),
        ),
        (
            "config/segmentBytes",
            json!({"config": {"segmentBytes": 1048576}}),
            Variable("KAFSCALE_SEGMENT_BYTES", "1048576"),
        ),
        (
            "config/flushIntervalMs",
            json!({"config": {"flushIntervalMs": 5}}),
            Variable("KAFSCALE_FLUSH_INTERVAL_MS", "5"),
        ),
        (
            "config/cacheSize",
            json!({"config": {"cacheSize": "2Gi"}}),
            Variable("KAFSCALE_CACHE_BYTES", "2147483648"),
        ),
        (
            "config/env",
            json!({"config": {"env": {"KAFSCALE_SHARDS": "2"}}}),
            Variable("KAFSCALE_SHARDS", "2"),
        ),
    ]
}

/// Fields of an etcd that the operator runs, as [`fields`].
fn etcd_fields() -> Vec<(&'static str, Value, Effect)> {
    let etcd = |options: Value| json!({"etcd": options});
    let set = |pointer: &'static str, value: Value| At(SET, "blue-etcd", pointer, value);
    let affinity = json!({"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [
        {"matchExpressions": [{"key": "disk", "operator": "In", "values": ["nvme"]}]}]}}});
    let toleration = json!([{"key": "etcd", "operator": "Exists"}]);
    let resources = json!({"requests": {"cpu": "2"}});
    let snapshots = |options: Value| json!({"etcd": {"snapshots": options}});
    let job = |pointer: &'static str, value: Value| At("CronJob", "blue-etcd-backup", pointer, value);
    let variable = |name: &'static str, value: &'static str| OfJob(name, value);
    vec![
        (
            "etcd/image",
            etcd(json!({"image": "etcd:mine"})),
            set("/spec/template/spec/containers/0/image", json!("etcd:mine")),
        ),
        (
            "etcd/resources",
            etcd(json!({"resources": resources})),
            set("/spec/template/spec/containers/0/resources", resources.clone()),
        ),
        (
            "etcd/affinity",
            etcd(json!({"affinity": affinity})),
            set("/spec/template/spec/affinity", affinity.clone()),
        ),
        (
            "etcd/nodeSelector",
            etcd(json!({"nodeSelector": {"disk": "nvme"}})),
            set("/spec/template/spec/nodeSelector", json!({"disk": "nvme"})),
        ),
        (
            "etcd/tolerations",
            etcd(json!({"tolerations": toleration})),
            set("/spec/template/spec/tolerations", toleration.clone()),
        ),
        (
            "etcd/restoreSnapshot",
            etcd(json!({"restoreSnapshot": "a.db"})),
            set("/spec/template/spec/initContainers/0/name", json!("restore")),
        ),
        (
            "etcd/defragmentSchedule",
            etcd(json!({"defragmentSchedule": "0 4 * * 1"})),
            At("CronJob", "blue-etcd-defrag", "/spec/schedule", json!("0 4 * * 1")),
        ),
        (
            "etcd/snapshots/schedule",
            snapshots(json!({"schedule": "@daily"})),
            job("/spec/schedule", json!("@daily")),
        ),
        (
            "etcd/snapshots/suspend",
            snapshots(json!({"suspend": true})),
            job("/spec/suspend", json!(true)),
        ),
        (
            "etcd/snapshots/keep",
            snapshots(json!({"keep": 7})),
            variable("KAFSCALE_SNAPSHOTS_KEPT", "7"),
        ),
        (
            "etcd/snapshots/bucket",
            snapshots(json!({"bucket": "other"})),
            variable("KAFSCALE_S3_BUCKET", "other"),
        ),
        (
            "etcd/snapshots/region",
            snapshots(json!({"region": "eu"})),
            variable("KAFSCALE_S3_REGION", "eu"),
        ),
        (
            "etcd/snapshots/endpoint",
            snapshots(json!({"endpoint": "http://s3"})),
            variable("KAFSCALE_S3_ENDPOINT", "http://s3"),
        ),
        (
            "etcd/snapshots/kmsKeyArn",
            snapshots(json!({"kmsKeyArn": "arn:k"})),
            variable("KAFSCALE_S3_KMS_ARN", "arn:k"),
        ),
        (
            "etcd/snapshots/credentialsSecretRef",
            snapshots(json!({"credentialsSecretRef": "keys"})),
            job(
                "/spec/jobTemplate/spec/template/spec/containers/0/envFrom/0/secretRef/name",
                json!("keys"),
            ),
        ),
    ]
}

/// Fields of volumes, which cannot be changed: a cluster that has them from the beginning, and where they show.
fn volume_fields() -> [(&'static str, &'static str, Value); 2] {
    [
        (
            "etcd/storage/size",
            "/spec/volumeClaimTemplates/0/spec/resources/requests/storage",
            json!("5Gi"),
        ),
        (
            "etcd/storage/className",
            "/spec/volumeClaimTemplates/0/spec/storageClassName",
            json!("fast"),
        ),
    ]
}

impl Effect {
    fn place(&self) -> (&'static str, &'static str) {
        match self {
            Variable(..) => (SET, NAME),
            OfJob(..) => ("CronJob", "blue-etcd-backup"),
            At(kind, name, ..) => (kind, name),
        }
    }

    fn shows(&self, object: &Value) -> bool {
        let variable = |pod: &str, name: &str, value: &str| {
            let variables = object.pointer(&format!("{pod}/containers/0/env"));
            let mut variables = variables.and_then(Value::as_array).into_iter().flatten();
            variables.any(|variable| variable["name"] == *name && variable["value"] == *value)
        };
        match self {
            Variable(name, value) => variable(POD, name, value),
            OfJob(name, value) => variable(&format!("/spec/jobTemplate{POD}"), name, value),
            At(_, _, pointer, value) => object.pointer(pointer) == Some(value),
        }
    }
}

/// Paths of fields below `schema` that are not in `covered`, nor below one that is.
pub fn uncovered(schema: &Value, path: &str, covered: &[&str]) -> Vec<String> {
    if covered.contains(&path) {
        return Vec::new();
    }
    match schema["properties"].as_object() {
        None => vec![path.to_string()],
        Some(properties) => properties
            .iter()
            .flat_map(|(name, below)| uncovered(below, format!("{path}/{name}").trim_start_matches('/'), covered))
            .collect(),
    }
}

/// The schema of a resource's spec, as the API server has it.
pub async fn spec_schema(world: &World, plural: &str) -> Value {
    let definition = definition(world, plural).await;
    definition["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"].clone()
}

#[test]
#[ignore = "needs the API server of `make k8s`"]
fn every_field_of_a_cluster_has_its_effect_and_leaves_nothing_behind() {
    run(async {
        let world = World::new("fields").await;
        let schema = spec_schema(&world, "kafscaleclusters").await;
        let walked = fields().into_iter().chain(etcd_fields()).map(|(path, ..)| path);
        let covered: Vec<&str> = walked.chain(volume_fields().map(|(path, ..)| path)).collect();
        assert_eq!(uncovered(&schema, "", &covered), [""; 0], "fields without a test");
        let _operator = world.operator();
        world.apply(blue(json!({}))).await.unwrap();
        world.until_reason("BrokersNotReady").await;
        let before = world.owned().await;
        walk(&world, fields(), blue).await;
        world.until_reason("BrokersNotReady").await;
        assert_eq!(world.owned().await, before);
    });
}

/// Sets and unsets each field of the cluster that `cluster` makes, and looks for its effect.
async fn walk(world: &World, fields: Vec<(&'static str, Value, Effect)>, cluster: fn(Value) -> Value) {
    for (path, change, effect) in fields {
        let (kind, name) = effect.place();
        let unset = world.get(kind, name).await.unwrap_or_default();
        assert!(!effect.shows(&unset), "{path} shows before it is set: {unset:#}");
        let applied = world.apply(cluster(change)).await;
        applied.unwrap_or_else(|error| panic!("{path}: {error}"));
        world.until(kind, name, path, |found| effect.shows(found)).await;
        // Said no more, it is as before.
        world.apply(cluster(json!({}))).await.unwrap();
        world
            .until(kind, name, &format!("{path} is unset"), |found| !effect.shows(found))
            .await;
    }
}

/// What the objects of the etcd of `blue` say.
async fn etcd_objects(world: &World) -> Vec<Value> {
    let mut found = Vec::new();
    for (kind, name) in [
        (SET, "blue-etcd"),
        ("CronJob", "blue-etcd-backup"),
        ("CronJob", "blue-etcd-defrag"),
    ] {
        found.push(world.get(kind, name).await.unwrap()["spec"].clone());
    }
    found
}

#[test]
#[ignore = "needs the API server of `make k8s`"]
fn every_field_of_an_etcd_has_its_effect_and_leaves_nothing_behind() {
    run(async {
        let world = World::new("etcd-fields").await;
        let _operator = world.operator();
        world.apply(managed(json!({}))).await.unwrap();
        world.until_reason("WaitingForEtcd").await;
        assert_eq!(world.get(SET, NAME).await, None, "no brokers before there is an etcd");
        let before = etcd_objects(&world).await;
        walk(&world, etcd_fields(), managed).await;
        assert_eq!(etcd_objects(&world).await, before);

        for (kind, name) in [
            ("Service", "blue-etcd"),
            ("Service", "blue-etcd-client"),
            ("PodDisruptionBudget", "blue-etcd"),
            (SET, "blue-etcd"),
            ("CronJob", "blue-etcd-backup"),
            ("CronJob", "blue-etcd-defrag"),
        ] {
            let first = world.get(kind, name).await.unwrap()["metadata"]["uid"].clone();
            world.delete(kind, name).await;
            let is_back = |found: &Value| !found.is_null() && found["metadata"]["uid"] != first;
            world.until(kind, name, "comes back", is_back).await;
        }
        assert_eq!(etcd_objects(&world).await, before);

        let storage = json!({"size": "5Gi", "className": "fast"});
        let refusal = world.apply(managed(json!({"etcd": {"storage": storage}}))).await;
        assert!(refusal.unwrap_err().contains("etcd.storage cannot be changed"));
        let mut other = managed(json!({"etcd": {"storage": storage}}));
        other["metadata"]["name"] = json!("other");
        world.apply(other).await.unwrap();
        for (path, pointer, value) in volume_fields() {
            let shows = |found: &Value| found.pointer(pointer) == Some(&value);
            world.until(SET, "other-etcd", path, shows).await;
        }
    });
}
