//! Every field of the resources has an effect: the test walks the definition on the API server.

use crate::world::{blue, definition, run, World};
use serde_json::{json, Value};

/// Where a field shows.
enum Effect {
    /// As a variable of the broker.
    Variable(&'static str, &'static str),
    /// In an object: kind, name, JSON pointer, value.
    At(&'static str, &'static str, &'static str, Value),
}
use Effect::{At, Variable};

const SET: &str = "StatefulSet";
const POD: &str = "/spec/template/spec";
const NAME: &str = "blue-broker";

/// A field by its path in the spec, a change of `blue` that sets it, and where it shows.
fn fields() -> Vec<(&'static str, Value, Effect)> {
    let pod = |pointer: &'static str, value: Value| At(SET, NAME, pointer, value);
    let service = |options: Value| json!({"brokers": {"service": options}});
    let service_shows = |pointer: &'static str, value: Value| At("Service", NAME, pointer, value);
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

impl Effect {
    fn place(&self) -> (&'static str, &'static str) {
        match self {
            Variable(..) => (SET, NAME),
            At(kind, name, ..) => (kind, name),
        }
    }

    fn shows(&self, object: &Value) -> bool {
        match self {
            Variable(name, value) => {
                let variables = object.pointer(&format!("{POD}/containers/0/env"));
                let mut variables = variables.and_then(Value::as_array).into_iter().flatten();
                variables.any(|variable| variable["name"] == *name && variable["value"] == *value)
            }
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
        let covered: Vec<&str> = fields().iter().map(|(path, ..)| *path).collect();
        assert_eq!(uncovered(&schema, "", &covered), [""; 0], "fields without a test");
        let _operator = world.operator();
        world.apply(blue(json!({}))).await.unwrap();
        world.until_reason("BrokersNotReady").await;
        let before = world.owned().await;
        for (path, change, effect) in fields() {
            let (kind, name) = effect.place();
            let unset = world.get(kind, name).await.unwrap_or_default();
            assert!(!effect.shows(&unset), "{path} shows before it is set: {unset:#}");
            world
                .apply(blue(change))
                .await
                .unwrap_or_else(|error| panic!("{path}: {error}"));
            world.until(kind, name, path, |found| effect.shows(found)).await;
            // Said no more, it is as before.
            world.apply(blue(json!({}))).await.unwrap();
            world
                .until(kind, name, &format!("{path} is unset"), |found| !effect.shows(found))
                .await;
        }
        world.until_reason("BrokersNotReady").await;
        assert_eq!(world.owned().await, before);
    });
}
