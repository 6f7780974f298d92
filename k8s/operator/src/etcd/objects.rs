//! What has to exist of the etcd of a cluster: decided from its spec alone.

use crate::crd::KafscaleCluster;
use crate::desired::{self, put, Images};
use kube::ResourceExt;
use serde_json::{json, Value};

/// Members: one may fail.
pub const MEMBERS: usize = 3;
const CLIENT_PORT: u16 = 2379;
const PEER_PORT: u16 = 2380;
/// Health and metrics, without TLS.
const HTTP_PORT: u16 = 2381;
/// Where certificates are in the pods of members, brokers and Jobs.
pub const CERTIFICATES: &str = "/etc/kafscale/etcd";
const VOLUME: &str = "/var/lib/etcd";
/// In the volume, and not the volume itself: a restore is renamed to it as a whole.
const DATA: &str = "/var/lib/etcd/data";
const SCRATCH: &str = "/scratch";
const STORAGE_DEFAULT: &str = "20Gi";
const KEEP_DEFAULT: i32 = 48;
/// Longest that a Job may take, in seconds.
const JOB_SECONDS: i64 = 3600;

/// Whether the operator runs the etcd of `cluster`.
pub fn is_managed(cluster: &KafscaleCluster) -> bool {
    cluster.spec.etcd.endpoints.is_empty()
}

/// Name of the StatefulSet and of the headless Service.
pub fn name(cluster: &KafscaleCluster) -> String {
    format!("{}-etcd", cluster.name_any())
}

fn client_service_name(cluster: &KafscaleCluster) -> String {
    format!("{}-client", name(cluster))
}

/// Secret of the members' certificate.
pub fn member_secret(cluster: &KafscaleCluster) -> String {
    format!("{}-member", name(cluster))
}

/// Secret of the clients' certificate.
pub fn client_secret(cluster: &KafscaleCluster) -> String {
    format!("{}-client", name(cluster))
}

/// Secret of the authorities, which no pod sees.
pub fn authority_secret(cluster: &KafscaleCluster) -> String {
    format!("{}-authority", name(cluster))
}

/// CronJob that takes snapshots. Kubernetes allows 52 characters.
pub fn snapshot_name(cluster: &KafscaleCluster) -> String {
    format!("{}-backup", name(cluster))
}

/// CronJob that defragments.
pub fn defragment_name(cluster: &KafscaleCluster) -> String {
    format!("{}-defrag", name(cluster))
}

fn namespace(cluster: &KafscaleCluster) -> String {
    cluster.namespace().unwrap_or_default()
}

fn member_host(cluster: &KafscaleCluster, member: &str) -> String {
    format!("{member}.{}.{}.svc", name(cluster), namespace(cluster))
}

fn member_hosts(cluster: &KafscaleCluster) -> Vec<String> {
    let one = |index| member_host(cluster, &format!("{}-{index}", name(cluster)));
    (0..MEMBERS).map(one).collect()
}

/// The names under which members are reached.
pub fn hosts(cluster: &KafscaleCluster) -> Vec<String> {
    let mut hosts = member_hosts(cluster);
    hosts.push(format!("{}.{}.svc", client_service_name(cluster), namespace(cluster)));
    // etcd is a client of itself.
    hosts.extend(["localhost".to_string(), "127.0.0.1".to_string()]);
    hosts
}

/// What brokers connect to.
pub fn endpoint(cluster: &KafscaleCluster) -> String {
    let (service, namespace) = (client_service_name(cluster), namespace(cluster));
    format!("https://{service}.{namespace}.svc:{CLIENT_PORT}")
}

/// Variables with which brokers and Jobs prove who they are.
pub fn client_variables() -> [(&'static str, String); 3] {
    [
        ("KAFSCALE_ETCD_CA_FILE", format!("{CERTIFICATES}/ca.crt")),
        ("KAFSCALE_ETCD_CERT_FILE", format!("{CERTIFICATES}/tls.crt")),
        ("KAFSCALE_ETCD_KEY_FILE", format!("{CERTIFICATES}/tls.key")),
    ]
}

/// The volume that holds the clients' certificate.
pub fn client_volume(cluster: &KafscaleCluster) -> Value {
    json!({"name": "etcd-certificates", "secret": {"secretName": client_secret(cluster), "defaultMode": 0o440}})
}

/// Where it is mounted.
pub fn client_mount() -> Value {
    json!({"name": "etcd-certificates", "mountPath": CERTIFICATES, "readOnly": true})
}

fn selector(cluster: &KafscaleCluster) -> Value {
    json!({"app.kubernetes.io/name": "kafscale-etcd", "app.kubernetes.io/instance": cluster.name_any()})
}

/// Metadata of an object of the etcd.
pub fn metadata(cluster: &KafscaleCluster, name: String) -> Value {
    let mut metadata = desired::metadata(cluster, name, json!({}));
    metadata["labels"]["app.kubernetes.io/name"] = json!("kafscale-etcd");
    metadata
}

/// All objects but the Secrets, in the order in which they are applied. `trusted` changes with the authorities.
pub fn objects(cluster: &KafscaleCluster, images: &Images, trusted: &str) -> Vec<Value> {
    vec![
        headless_service(cluster),
        client_service(cluster),
        disruption_budget(cluster),
        stateful_set(cluster, images, trusted),
        snapshots(cluster, images),
        defragmentation(cluster, images),
    ]
}

fn headless_service(cluster: &KafscaleCluster) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Service", "metadata": metadata(cluster, name(cluster)),
        "spec": {
            "clusterIP": "None",
            // Members find each other before they are ready.
            "publishNotReadyAddresses": true,
            "selector": selector(cluster),
            "ports": [
                {"name": "client", "port": CLIENT_PORT, "targetPort": "client", "protocol": "TCP"},
                {"name": "peer", "port": PEER_PORT, "targetPort": "peer", "protocol": "TCP"},
                {"name": "http", "port": HTTP_PORT, "targetPort": "http", "protocol": "TCP"},
            ],
        },
    })
}

fn client_service(cluster: &KafscaleCluster) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Service", "metadata": metadata(cluster, client_service_name(cluster)),
        "spec": {
            "type": "ClusterIP",
            "selector": selector(cluster),
            "ports": [{"name": "client", "port": CLIENT_PORT, "targetPort": "client", "protocol": "TCP"}],
        },
    })
}

fn disruption_budget(cluster: &KafscaleCluster) -> Value {
    json!({
        "apiVersion": "policy/v1", "kind": "PodDisruptionBudget", "metadata": metadata(cluster, name(cluster)),
        "spec": {"maxUnavailable": 1, "selector": {"matchLabels": selector(cluster)}},
    })
}

/// What of a member's command line a restore has to know, too.
fn bootstrap(cluster: &KafscaleCluster) -> [(&'static str, String); 3] {
    let url = |host: &str| format!("https://{host}:{PEER_PORT}");
    let members: Vec<String> = member_hosts(cluster)
        .iter()
        .enumerate()
        .map(|(index, host)| format!("{}-{index}={}", name(cluster), url(host)))
        .collect();
    [
        ("initial-advertise-peer-urls", url(&member_host(cluster, "$(POD_NAME)"))),
        ("initial-cluster", members.join(",")),
        (
            "initial-cluster-token",
            format!("{}/{}", namespace(cluster), cluster.name_any()),
        ),
    ]
}

fn stateful_set(cluster: &KafscaleCluster, images: &Images, trusted: &str) -> Value {
    let etcd = &cluster.spec.etcd;
    let mut container = json!({
        "name": "etcd",
        "image": etcd.image.as_deref().unwrap_or(&images.etcd),
        "command": ["/usr/local/bin/etcd"],
        "args": arguments(cluster),
        "env": [desired::from_field("POD_NAME", "metadata.name")],
        "ports": [
            {"name": "client", "containerPort": CLIENT_PORT, "protocol": "TCP"},
            {"name": "peer", "containerPort": PEER_PORT, "protocol": "TCP"},
            {"name": "http", "containerPort": HTTP_PORT, "protocol": "TCP"},
        ],
        // A member that was away for long has a lot to read.
        "startupProbe": {"httpGet": {"path": "/livez", "port": "http"}, "periodSeconds": 5, "failureThreshold": 120},
        "livenessProbe": {"httpGet": {"path": "/livez", "port": "http"}, "periodSeconds": 10, "timeoutSeconds": 5, "failureThreshold": 6},
        "readinessProbe": {"httpGet": {"path": "/readyz", "port": "http"}, "periodSeconds": 5, "timeoutSeconds": 5, "failureThreshold": 3},
        "securityContext": restricted_container(),
        "volumeMounts": [
            {"name": "data", "mountPath": VOLUME},
            {"name": "etcd-certificates", "mountPath": CERTIFICATES, "readOnly": true},
        ],
    });
    put(&mut container, "resources", &etcd.resources);
    let mut pod = json!({
        "serviceAccountName": desired::name(cluster),
        "automountServiceAccountToken": false,
        "enableServiceLinks": false,
        "terminationGracePeriodSeconds": 30,
        "securityContext": restricted_pod(),
        "containers": [container],
        "volumes": [{"name": "etcd-certificates", "secret": {"secretName": member_secret(cluster), "defaultMode": 0o440}}],
        "affinity": match &etcd.affinity {
            Some(affinity) => json!(affinity),
            // Two members on one node are lost together, and with them the majority.
            None => json!({"podAntiAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [
                {"topologyKey": "kubernetes.io/hostname", "labelSelector": {"matchLabels": selector(cluster)}},
            ]}}),
        },
        "topologySpreadConstraints": [{
            "maxSkew": 1, "topologyKey": "topology.kubernetes.io/zone", "whenUnsatisfiable": "ScheduleAnyway",
            "labelSelector": {"matchLabels": selector(cluster)},
        }],
    });
    if let Some(snapshot) = &etcd.restore_snapshot {
        pod["initContainers"] = json!([restore(cluster, images, snapshot)]);
    }
    place(cluster, &mut pod);
    let mut claim = json!({
        "accessModes": ["ReadWriteOnce"],
        "resources": {"requests": {"storage": match &etcd.storage.size {
            Some(size) => size.0.as_str(),
            None => STORAGE_DEFAULT,
        }}},
    });
    put(&mut claim, "storageClassName", &etcd.storage.class_name);
    json!({
        "apiVersion": "apps/v1", "kind": "StatefulSet", "metadata": metadata(cluster, name(cluster)),
        "spec": {
            "replicas": MEMBERS,
            "serviceName": name(cluster),
            "selector": {"matchLabels": selector(cluster)},
            // None is ready before most of them run.
            "podManagementPolicy": "Parallel",
            "updateStrategy": {"type": "RollingUpdate", "rollingUpdate": {"partition": 0}},
            "minReadySeconds": 5,
            // The same cluster, made again, finds its metadata.
            "persistentVolumeClaimRetentionPolicy": {"whenDeleted": "Retain", "whenScaled": "Retain"},
            "template": {
                "metadata": {"labels": selector(cluster), "annotations": {"kafscale.io/etcd-authorities": trusted}},
                "spec": pod,
            },
            "volumeClaimTemplates": [{
                "apiVersion": "v1", "kind": "PersistentVolumeClaim",
                "metadata": {"name": "data", "labels": selector(cluster)}, "spec": claim,
            }],
        },
    })
}

fn arguments(cluster: &KafscaleCluster) -> Vec<String> {
    let all = |scheme: &str, port: u16| format!("{scheme}://0.0.0.0:{port}");
    let client_url = format!("https://{}:{CLIENT_PORT}", member_host(cluster, "$(POD_NAME)"));
    let file = |name: &str| format!("{CERTIFICATES}/{name}");
    let mut flags = vec![
        ("name", "$(POD_NAME)".to_string()),
        ("data-dir", DATA.to_string()),
        ("listen-client-urls", all("https", CLIENT_PORT)),
        ("advertise-client-urls", client_url),
        ("listen-peer-urls", all("https", PEER_PORT)),
        ("listen-metrics-urls", all("http", HTTP_PORT)),
        // Only for members without data; the others remember.
        ("initial-cluster-state", "new".to_string()),
        ("cert-file", file("tls.crt")),
        ("key-file", file("tls.key")),
        ("trusted-ca-file", file("ca.crt")),
        ("client-cert-auth", "true".to_string()),
        ("peer-cert-file", file("tls.crt")),
        ("peer-key-file", file("tls.key")),
        ("peer-trusted-ca-file", file("ca.crt")),
        ("peer-client-cert-auth", "true".to_string()),
        // As docs/operations.md recommends.
        ("auto-compaction-mode", "periodic".to_string()),
        ("auto-compaction-retention", "10m".to_string()),
        ("quota-backend-bytes", (4_u64 << 30).to_string()),
    ];
    flags.extend(bootstrap(cluster));
    flags
        .into_iter()
        .map(|(flag, value)| format!("--{flag}={value}"))
        .collect()
}

fn restricted_pod() -> Value {
    json!({
        "runAsNonRoot": true, "runAsUser": desired::USER_ID, "runAsGroup": desired::USER_ID, "fsGroup": desired::USER_ID,
        // A volume with many files is not gone through at each start.
        "fsGroupChangePolicy": "OnRootMismatch",
        "seccompProfile": {"type": "RuntimeDefault"},
    })
}

fn restricted_container() -> Value {
    json!({"allowPrivilegeEscalation": false, "readOnlyRootFilesystem": true, "capabilities": {"drop": ["ALL"]}})
}

fn place(cluster: &KafscaleCluster, pod: &mut Value) {
    let etcd = &cluster.spec.etcd;
    if !etcd.node_selector.is_empty() {
        pod["nodeSelector"] = json!(etcd.node_selector);
    }
    if !etcd.tolerations.is_empty() {
        pod["tolerations"] = json!(etcd.tolerations);
    }
}

/// Where snapshots are, as variables, and the Secret of the keys.
fn bucket(cluster: &KafscaleCluster) -> (Vec<(&'static str, String)>, Option<&String>) {
    let (records, own) = (&cluster.spec.s3, &cluster.spec.etcd.snapshots);
    let or = |own: &Option<String>, records: &Option<String>| own.clone().or(records.clone());
    let optional = [
        ("KAFSCALE_S3_REGION", or(&own.region, &records.region)),
        ("KAFSCALE_S3_ENDPOINT", or(&own.endpoint, &records.endpoint)),
        ("KAFSCALE_S3_KMS_ARN", or(&own.kms_key_arn, &records.kms_key_arn)),
    ];
    let bucket = own.bucket.as_ref().unwrap_or(&records.bucket);
    let prefix = format!("etcd-snapshots/{}/{}", namespace(cluster), cluster.name_any());
    let mut variables = vec![
        ("KAFSCALE_S3_BUCKET", bucket.clone()),
        ("KAFSCALE_SNAPSHOT_PREFIX", prefix),
    ];
    variables.extend(optional.into_iter().filter_map(|(name, value)| Some((name, value?))));
    let secret = own.credentials_secret_ref.as_ref();
    (variables, secret.or(records.credentials_secret_ref.as_ref()))
}

fn plain(variables: impl IntoIterator<Item = (&'static str, String)>) -> Vec<Value> {
    let one = |(name, value)| json!({"name": name, "value": value});
    variables.into_iter().map(one).collect()
}

/// Fills an empty volume before the member starts.
fn restore(cluster: &KafscaleCluster, images: &Images, snapshot: &str) -> Value {
    let (mut variables, secret) = bucket(cluster);
    variables.extend([
        ("KAFSCALE_SNAPSHOT_NAME", snapshot.to_string()),
        ("KAFSCALE_MEMBER_NAME", "$(POD_NAME)".to_string()),
        ("KAFSCALE_MEMBER_DATA", DATA.to_string()),
    ]);
    for (name, (_, value)) in [
        "KAFSCALE_MEMBER_PEER_URL",
        "KAFSCALE_MEMBER_CLUSTER",
        "KAFSCALE_MEMBER_TOKEN",
    ]
    .into_iter()
    .zip(bootstrap(cluster))
    {
        variables.push((name, value));
    }
    let mut env = vec![desired::from_field("POD_NAME", "metadata.name")];
    env.extend(plain(variables));
    let mut container = json!({
        "name": "restore",
        "image": images.operator,
        "args": ["etcd-restore"],
        "env": env,
        "terminationMessagePolicy": "FallbackToLogsOnError",
        "securityContext": restricted_container(),
        "volumeMounts": [{"name": "data", "mountPath": VOLUME}],
    });
    put(&mut container, "resources", &cluster.spec.etcd.resources);
    if let Some(secret) = secret {
        container["envFrom"] = json!([{"secretRef": {"name": secret}}]);
    }
    container
}

fn snapshots(cluster: &KafscaleCluster, images: &Images) -> Value {
    let options = &cluster.spec.etcd.snapshots;
    let (mut variables, secret) = bucket(cluster);
    variables.extend([
        (
            "KAFSCALE_SNAPSHOTS_KEPT",
            options.keep.unwrap_or(KEEP_DEFAULT).to_string(),
        ),
        ("KAFSCALE_SNAPSHOT_SCRATCH", SCRATCH.to_string()),
    ]);
    let mut job = job(cluster, images, "etcd-snapshot", variables);
    let container = &mut job["spec"]["template"]["spec"]["containers"][0];
    if let Some(secret) = secret {
        container["envFrom"] = json!([{"secretRef": {"name": secret}}]);
    }
    let schedule = options.schedule.as_deref().unwrap_or("0 * * * *");
    let suspend = options.suspend.unwrap_or(false);
    cron_job(cluster, snapshot_name(cluster), schedule, suspend, job)
}

fn defragmentation(cluster: &KafscaleCluster, images: &Images) -> Value {
    let schedule = cluster.spec.etcd.defragment_schedule.as_deref().unwrap_or("30 3 * * *");
    let job = job(cluster, images, "etcd-defragment", Vec::new());
    cron_job(cluster, defragment_name(cluster), schedule, false, job)
}

fn cron_job(cluster: &KafscaleCluster, name: String, schedule: &str, suspend: bool, job: Value) -> Value {
    json!({
        "apiVersion": "batch/v1", "kind": "CronJob", "metadata": metadata(cluster, name),
        "spec": {
            "schedule": schedule, "suspend": suspend, "concurrencyPolicy": "Forbid", "startingDeadlineSeconds": 600,
            "successfulJobsHistoryLimit": 1, "failedJobsHistoryLimit": 2, "jobTemplate": job,
        },
    })
}

/// What runs one of our commands that are clients of each member.
fn job(cluster: &KafscaleCluster, images: &Images, command: &str, more: Vec<(&'static str, String)>) -> Value {
    let endpoints: Vec<String> = member_hosts(cluster)
        .iter()
        .map(|host| format!("https://{host}:{CLIENT_PORT}"))
        .collect();
    let mut variables = vec![("KAFSCALE_ETCD_ENDPOINTS", endpoints.join(","))];
    variables.extend(client_variables());
    variables.extend(more);
    // Not the members' labels: their Services and budget must not find it.
    let labels = json!({
        "app.kubernetes.io/name": "kafscale-etcd-job", "app.kubernetes.io/instance": cluster.name_any(),
        "app.kubernetes.io/component": command,
    });
    let mut pod = json!({
        "serviceAccountName": desired::name(cluster),
        "automountServiceAccountToken": false,
        "enableServiceLinks": false,
        "restartPolicy": "Never",
        "securityContext": restricted_pod(),
        "containers": [{
            "name": command,
            "image": images.operator,
            "args": [command],
            "env": plain(variables),
            "terminationMessagePolicy": "FallbackToLogsOnError",
            "securityContext": restricted_container(),
            "volumeMounts": [client_mount(), {"name": "scratch", "mountPath": SCRATCH}],
        }],
        "volumes": [client_volume(cluster), {"name": "scratch", "emptyDir": {}}],
    });
    place(cluster, &mut pod);
    json!({
        "metadata": {"labels": labels},
        "spec": {
            "backoffLimit": 2, "activeDeadlineSeconds": JOB_SECONDS,
            "template": {"metadata": {"labels": labels}, "spec": pod},
        },
    })
}
