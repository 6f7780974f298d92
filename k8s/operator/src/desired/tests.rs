//! Each field of the spec has an effect, and what comes out is what Kubernetes' own types accept.

use super::*;
use k8s_openapi::api::{
    apps::v1::StatefulSet, autoscaling::v2::HorizontalPodAutoscaler, batch::v1::CronJob, core::v1::Service,
    policy::v1::PodDisruptionBudget,
};

fn minimal() -> Value {
    json!({
        "apiVersion": "kafscale.io/v1alpha1",
        "kind": "KafscaleCluster",
        "metadata": {"name": "blue", "namespace": "prod", "uid": "b7"},
        "spec": {"s3": {"bucket": "records"}, "etcd": {"endpoints": ["http://e0:2379", "http://e1:2379"]}},
    })
}

fn decide(cluster: &Value) -> Result<Desired, SpecError> {
    let images = Images {
        broker: "kafscale:1".to_string(),
        etcd: "etcd:3".to_string(),
        operator: "operator:1".to_string(),
    };
    let stamps = Stamps {
        authorities: "a".to_string(),
        client_certificate: "b".to_string(),
        listeners: "c".to_string(),
    };
    desired(&serde_json::from_value(cluster.clone()).unwrap(), &images, &stamps)
}

/// The minimal cluster with one field of its spec set, by JSON pointer. Parents that are missing are made.
fn with(path: &str, value: Value) -> Value {
    let mut cluster = minimal();
    let mut at = &mut cluster["spec"];
    for key in path.split('/') {
        at = &mut at[key];
    }
    *at = value;
    cluster
}

fn object(desired: &Desired, kind: &str, name: &str) -> Value {
    let is = |object: &&Value| object["kind"] == kind && object["metadata"]["name"] == name;
    desired.objects.iter().find(is).cloned().unwrap_or(Value::Null)
}

fn pod(desired: &Desired) -> Value {
    object(desired, "StatefulSet", "blue-broker")["spec"]["template"]["spec"].clone()
}

fn variable(desired: &Desired, name: &str) -> Option<String> {
    let variables = pod(desired)["containers"][0]["env"]
        .as_array()
        .cloned()
        .unwrap_or_default();
    Some(
        variables.iter().find(|variable| variable["name"] == name)?["value"]
            .as_str()?
            .to_string(),
    )
}

#[test]
fn a_minimal_cluster_has_three_brokers_and_all_that_they_need() {
    let desired = decide(&minimal()).unwrap();
    assert_eq!(desired.replicas, Some(3));
    let kinds: Vec<_> = desired
        .objects
        .iter()
        .map(|object| object["kind"].as_str().unwrap())
        .collect();
    assert_eq!(
        kinds,
        [
            "ServiceAccount",
            "Service",
            "Service",
            "StatefulSet",
            "PodDisruptionBudget"
        ]
    );
    assert_eq!(
        variable(&desired, "KAFSCALE_ETCD_ENDPOINTS").unwrap(),
        "http://e0:2379,http://e1:2379"
    );
    assert_eq!(
        variable(&desired, "KAFSCALE_BROKER_HOST").unwrap(),
        "$(POD_NAME).blue-broker-headless.prod.svc"
    );
    assert_eq!(variable(&desired, "KAFSCALE_CACHE_BYTES"), None);
}

/// The minimal cluster, whose etcd the operator runs.
fn managed() -> Value {
    let mut cluster = minimal();
    cluster["spec"].as_object_mut().unwrap().remove("etcd");
    cluster
}

#[test]
fn without_endpoints_there_is_an_etcd_and_brokers_that_prove_who_they_are() {
    assert_eq!(decide(&minimal()).unwrap().etcd, Vec::<Value>::new());
    let desired = decide(&managed()).unwrap();
    let endpoint = "https://blue-etcd-client.prod.svc:2379";
    assert_eq!(variable(&desired, "KAFSCALE_ETCD_ENDPOINTS").unwrap(), endpoint);
    let certificate = variable(&desired, "KAFSCALE_ETCD_CERT_FILE").unwrap();
    let mount = &pod(&desired)["containers"][0]["volumeMounts"][1];
    assert!(certificate.starts_with(mount["mountPath"].as_str().unwrap()));
    let set = desired
        .etcd
        .iter()
        .find(|object| object["kind"] == "StatefulSet")
        .unwrap();
    assert_eq!(set["spec"]["replicas"], 3);
    let stamp = |set: &Value| set["spec"]["template"]["metadata"]["annotations"].clone();
    assert_eq!(stamp(set), json!({"kafscale.io/etcd-authorities": "a"}));
    let brokers = object(&desired, "StatefulSet", "blue-broker");
    assert_eq!(stamp(&brokers), json!({"kafscale.io/etcd-certificate": "b"}));
}

#[test]
fn what_clients_outside_are_told_is_in_the_file_unless_the_spec_says_it() {
    let told = |external: Option<&str>, more: Value| {
        let mut cluster = with("brokers", more);
        if let Some(kind) = external {
            cluster["spec"]["brokers"]["external"] = json!({"type": kind});
        }
        let desired = decide(&cluster).unwrap();
        let one = |name| variable(&desired, name).unwrap_or_default();
        let file = one("KAFSCALE_CONFIG").ends_with("/$(KAFSCALE_BROKER_ID).toml");
        (one("KAFSCALE_BROKER_HOST"), one("KAFSCALE_BROKER_PORT"), file)
    };
    let own = json!({"advertisedHost": "$(POD_NAME).example", "advertisedPort": 443});
    let (host, port) = ("$(POD_NAME).example".to_string(), "443".to_string());
    let inside = "$(POD_NAME).blue-broker-headless.prod.svc".to_string();
    assert_eq!(told(None, json!({})), (inside, "9092".to_string(), false));
    assert_eq!(
        told(Some("NodePort"), json!({})),
        ("$(HOST_IP)".to_string(), String::new(), true)
    );
    assert_eq!(
        told(Some("LoadBalancer"), json!({})),
        (String::new(), String::new(), true)
    );
    for external in [None, Some("NodePort"), Some("LoadBalancer")] {
        assert_eq!(
            told(external, own.clone()),
            (host.clone(), port.clone(), external.is_some())
        );
    }
}

#[test]
fn names_fit_the_longest_name_of_a_cluster() {
    let mut cluster = managed();
    cluster["metadata"]["name"] = json!("b".repeat(40));
    for object in decide(&cluster).unwrap().etcd {
        let longest = if object["kind"] == "CronJob" { 52 } else { 63 };
        assert!(
            object["metadata"]["name"].as_str().unwrap().len() <= longest,
            "{object}"
        );
    }
}

#[test]
fn every_object_is_owned_by_the_cluster() {
    let desired = decide(&managed()).unwrap();
    for object in desired.objects.into_iter().chain(desired.etcd) {
        let owner = &object["metadata"]["ownerReferences"][0];
        assert_eq!(
            (&owner["uid"], &owner["controller"]),
            (&json!("b7"), &json!(true)),
            "{}",
            object["kind"]
        );
    }
}

#[test]
fn kubernetes_types_accept_every_object() {
    let mut cluster = with("brokers/autoscaling", json!({"minReplicas": 3, "maxReplicas": 9}));
    cluster["spec"]["etcd"] = json!({"restoreSnapshot": "a.db", "storage": {"className": "fast"}});
    let desired = decide(&cluster).unwrap();
    for object in desired.objects.into_iter().chain(desired.etcd) {
        let again = match object["kind"].as_str().unwrap() {
            "StatefulSet" => json!(serde_json::from_value::<StatefulSet>(object.clone()).unwrap()),
            "CronJob" => json!(serde_json::from_value::<CronJob>(object.clone()).unwrap()),
            "Service" => json!(serde_json::from_value::<Service>(object.clone()).unwrap()),
            "PodDisruptionBudget" => json!(serde_json::from_value::<PodDisruptionBudget>(object.clone()).unwrap()),
            "HorizontalPodAutoscaler" => {
                json!(serde_json::from_value::<HorizontalPodAutoscaler>(object.clone()).unwrap())
            }
            _ => continue,
        };
        // Nothing was dropped: no field is misspelt.
        assert_eq!(again, object);
    }
}

#[test]
fn the_pods_satisfy_the_restricted_profile() {
    let pod = pod(&decide(&minimal()).unwrap());
    assert_eq!(pod["securityContext"]["runAsNonRoot"], true);
    assert_eq!(pod["securityContext"]["seccompProfile"]["type"], "Localhost");
    let container = &pod["containers"][0]["securityContext"];
    assert_eq!(container["allowPrivilegeEscalation"], false);
    assert_eq!(container["capabilities"], json!({"drop": ["ALL"]}));
}

#[test]
fn kubernetes_waits_longer_than_the_broker_drains() {
    let desired = decide(&minimal()).unwrap();
    let drain_ms: i64 = variable(&desired, "KAFSCALE_SHUTDOWN_DEADLINE_MS")
        .unwrap()
        .parse()
        .unwrap();
    assert!(pod(&desired)["terminationGracePeriodSeconds"].as_i64().unwrap() * 1000 > drain_ms);
}

#[test]
fn an_autoscaler_owns_the_number_of_brokers() {
    let desired = decide(&with(
        "brokers/autoscaling",
        json!({"minReplicas": 2, "maxReplicas": 8}),
    ))
    .unwrap();
    assert_eq!(desired.replicas, None);
    let stateful_set = object(&desired, "StatefulSet", "blue-broker");
    assert!(stateful_set["spec"].get("replicas").is_none());
    let spec = &object(&desired, "HorizontalPodAutoscaler", "blue-broker")["spec"];
    assert_eq!((&spec["minReplicas"], &spec["maxReplicas"]), (&json!(2), &json!(8)));
}

#[test]
fn each_variable_follows_its_field() {
    for (path, value, name, expected) in [
        (
            "brokers/advertisedHost",
            json!("$(POD_NAME).example"),
            "KAFSCALE_BROKER_HOST",
            "$(POD_NAME).example",
        ),
        ("brokers/advertisedPort", json!(19092), "KAFSCALE_BROKER_PORT", "19092"),
        ("s3/bucket", json!("b"), "KAFSCALE_S3_BUCKET", "b"),
        ("s3/region", json!("eu"), "KAFSCALE_S3_REGION", "eu"),
        ("s3/endpoint", json!("http://s3"), "KAFSCALE_S3_ENDPOINT", "http://s3"),
        ("s3/readBucket", json!("r"), "KAFSCALE_S3_READ_BUCKET", "r"),
        ("s3/readRegion", json!("us"), "KAFSCALE_S3_READ_REGION", "us"),
        (
            "s3/readEndpoint",
            json!("http://r"),
            "KAFSCALE_S3_READ_ENDPOINT",
            "http://r",
        ),
        ("s3/kmsKeyArn", json!("arn:k"), "KAFSCALE_S3_KMS_ARN", "arn:k"),
        (
            "etcd/endpoints",
            json!(["http://x:1"]),
            "KAFSCALE_ETCD_ENDPOINTS",
            "http://x:1",
        ),
        (
            "config/segmentBytes",
            json!(1048576),
            "KAFSCALE_SEGMENT_BYTES",
            "1048576",
        ),
        ("config/flushIntervalMs", json!(5), "KAFSCALE_FLUSH_INTERVAL_MS", "5"),
        ("config/cacheSize", json!("2Gi"), "KAFSCALE_CACHE_BYTES", "2147483648"),
        ("config/cacheSize", json!(4096), "KAFSCALE_CACHE_BYTES", "4096"),
        ("config/env", json!({"KAFSCALE_SHARDS": "2"}), "KAFSCALE_SHARDS", "2"),
    ] {
        assert_eq!(
            variable(&decide(&with(path, value)).unwrap(), name).as_deref(),
            Some(expected),
            "{path}"
        );
    }
}

#[test]
fn each_field_of_the_pods_reaches_them() {
    let constraints = json!([{"maxSkew": 2, "topologyKey": "k", "whenUnsatisfiable": "DoNotSchedule"}]);
    for (path, value, pointer) in [
        ("brokers/image", json!("mine:2"), "/containers/0/image"),
        (
            "brokers/resources",
            json!({"requests": {"cpu": "2"}}),
            "/containers/0/resources",
        ),
        (
            "brokers/seccompProfile",
            json!({"type": "Unconfined"}),
            "/securityContext/seccompProfile",
        ),
        (
            "brokers/topologySpreadConstraints",
            constraints,
            "/topologySpreadConstraints",
        ),
        ("brokers/affinity", json!({"nodeAffinity": {}}), "/affinity"),
        ("brokers/nodeSelector", json!({"disk": "nvme"}), "/nodeSelector"),
        (
            "brokers/tolerations",
            json!([{"key": "kafka", "operator": "Exists"}]),
            "/tolerations",
        ),
    ] {
        let pod = pod(&decide(&with(path, value.clone())).unwrap());
        assert_eq!(pod.pointer(pointer), Some(&value), "{path}");
    }
    let pod = pod(&decide(&with("s3/credentialsSecretRef", json!("keys"))).unwrap());
    assert_eq!(
        pod["containers"][0]["envFrom"],
        json!([{"secretRef": {"name": "keys"}}])
    );
    assert_eq!(decide(&with("brokers/replicas", json!(5))).unwrap().replicas, Some(5));
    let desired = decide(&with("brokers/serviceAccountAnnotations", json!({"role": "r"}))).unwrap();
    assert_eq!(
        object(&desired, "ServiceAccount", "blue-broker")["metadata"]["annotations"]["role"],
        "r"
    );
}

#[test]
fn each_option_of_the_service_reaches_it() {
    let options = json!({
        "type": "LoadBalancer", "annotations": {"lb": "internal"}, "loadBalancerIP": "10.0.0.9",
        "loadBalancerSourceRanges": ["10.0.0.0/8"], "externalTrafficPolicy": "Local",
        "kafkaNodePort": 30092, "metricsNodePort": 30093,
    });
    let service = object(
        &decide(&with("brokers/service", options)).unwrap(),
        "Service",
        "blue-broker",
    );
    assert_eq!(service["metadata"]["annotations"]["lb"], "internal");
    let spec = &service["spec"];
    assert_eq!(
        (&spec["type"], &spec["loadBalancerIP"]),
        (&json!("LoadBalancer"), &json!("10.0.0.9"))
    );
    assert_eq!(spec["loadBalancerSourceRanges"], json!(["10.0.0.0/8"]));
    assert_eq!(spec["externalTrafficPolicy"], "Local");
    assert_eq!(
        (&spec["ports"][0]["nodePort"], &spec["ports"][1]["nodePort"]),
        (&json!(30092), &json!(30093))
    );
}

#[test]
fn options_that_a_type_of_service_does_not_have_are_left_out() {
    let options = json!({"externalTrafficPolicy": "Local", "kafkaNodePort": 30092, "loadBalancerIP": "10.0.0.9"});
    let service = object(
        &decide(&with("brokers/service", options)).unwrap(),
        "Service",
        "blue-broker",
    );
    let spec = service["spec"].as_object().unwrap();
    assert!(!spec.contains_key("externalTrafficPolicy") && !spec.contains_key("loadBalancerIP"));
    assert!(spec["ports"][0].get("nodePort").is_none());
}

#[test]
fn what_cannot_be_carried_out_is_refused_with_a_reason() {
    for (path, value, reason) in [
        ("config/cacheSize", json!("much"), "CacheSizeInvalid"),
        ("config/cacheSize", json!("-1"), "CacheSizeInvalid"),
        ("config/env", json!({"KAFSCALE_BROKER_ID": "1"}), "SettingReserved"),
        ("config/env", json!({"KAFSCALE_S3_BUCKET": "x"}), "SettingReserved"),
        ("config/env", json!({"KAFSCALE_CACHE_BYTES": "1"}), "SettingReserved"),
        ("brokers/advertisedHost", json!("kafka.example"), "AdvertisedHostShared"),
    ] {
        assert_eq!(decide(&with(path, value)).unwrap_err().reason(), reason, "{path}");
    }
}

#[test]
fn one_broker_alone_may_have_any_host() {
    let brokers = json!({"replicas": 1, "advertisedHost": "kafka.example"});
    assert!(decide(&with("brokers", brokers)).is_ok());
}
