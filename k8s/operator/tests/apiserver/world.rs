//! A namespace on the API server, and operators that work in it.

use kube::api::{Api, DeleteParams, DynamicObject, Patch, PatchParams, PostParams};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::core::{ApiResource, GroupVersionKind};
use kube::{Client, Config};
use serde_json::{json, Value};
use std::fs::File;
use std::future::Future;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

/// How long anything may take that takes a moment. Not a promise of speed: the machine may be busy.
pub const PATIENCE: Duration = Duration::from_secs(120);
const PAUSE: Duration = Duration::from_millis(50);
/// Of the operators of tests, in seconds.
pub const LEASE_SECONDS: u64 = 3;

/// Kinds that a cluster's owned objects are of.
pub const OWNED: [(&str, &str); 6] = [
    ("ServiceAccount", "blue-broker"),
    ("Service", "blue-broker-headless"),
    ("Service", "blue-broker"),
    ("StatefulSet", "blue-broker"),
    ("PodDisruptionBudget", "blue-broker"),
    ("HorizontalPodAutoscaler", "blue-broker"),
];

/// Runs a test on a runtime of its own.
pub fn run(test: impl Future<Output = ()>) {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap()
        .block_on(test);
}

/// A variable that `make k8s` sets.
pub fn variable(name: &str) -> String {
    std::env::var(name).unwrap_or_else(|_| panic!("{name} is not set: run this by `make k8s`"))
}

/// A namespace of its own.
#[derive(Clone)]
pub struct World {
    pub client: Client,
    pub namespace: String,
}

impl World {
    /// A new namespace, in which the operator has the rights that it has in its own.
    pub async fn new(namespace: &str) -> World {
        let kubeconfig = Kubeconfig::read_from(variable("KAFSCALE_TEST_KUBECONFIG")).unwrap();
        let config = Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default())
            .await
            .unwrap();
        let client = Client::try_from(config).unwrap();
        let world = World {
            client,
            namespace: namespace.to_string(),
        };
        // Brokers have to satisfy the strictest of Kubernetes' profiles: other pods are not let in.
        let labels = json!({"pod-security.kubernetes.io/enforce": "restricted"});
        let this = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace, "labels": labels}});
        let namespaces = Api::<DynamicObject>::all_with(world.client.clone(), &resource("Namespace"));
        namespaces
            .create(&PostParams::default(), &serde_json::from_value(this).unwrap())
            .await
            .unwrap();
        for kind in ["Role", "RoleBinding"] {
            let shipped =
                Api::<DynamicObject>::namespaced_with(world.client.clone(), "kafscale-system", &resource(kind));
            let mut copy = json!(shipped.get("kafscale-operator").await.unwrap());
            copy["metadata"] = json!({"name": "kafscale-operator"});
            world.create(copy).await;
        }
        world
    }

    /// Objects of a kind in this namespace.
    pub fn api(&self, kind: &str) -> Api<DynamicObject> {
        Api::namespaced_with(self.client.clone(), &self.namespace, &resource(kind))
    }

    /// Creates an object.
    pub async fn create(&self, object: Value) {
        let api = self.api(object["kind"].as_str().unwrap());
        let object = serde_json::from_value(object).unwrap();
        api.create(&PostParams::default(), &object).await.unwrap();
    }

    /// An object, if it is there.
    pub async fn get(&self, kind: &str, name: &str) -> Option<Value> {
        self.api(kind).get_opt(name).await.unwrap().map(|object| json!(object))
    }

    /// Says what a user wants of a resource: what was said before and is not any more, goes.
    pub async fn apply(&self, object: Value) -> Result<(), String> {
        self.apply_as("user", object).await
    }

    /// As [`World::apply`], for somebody else's fields of any object.
    pub async fn apply_as(&self, manager: &str, object: Value) -> Result<(), String> {
        let api = self.api(object["kind"].as_str().unwrap());
        let name = object["metadata"]["name"].as_str().unwrap().to_string();
        let parameters = PatchParams::apply(manager).force();
        let outcome = api.patch(&name, &parameters, &Patch::Apply(object)).await;
        outcome.map(|_| ()).map_err(|error| error.to_string())
    }

    /// Deletes an object.
    pub async fn delete(&self, kind: &str, name: &str) {
        self.api(kind).delete(name, &DeleteParams::default()).await.unwrap();
    }

    /// What the objects that `blue` owns say, without what the API server adds: names of absent ones are left out.
    pub async fn owned(&self) -> Vec<Value> {
        let mut found = Vec::new();
        for (kind, name) in OWNED {
            if let Some(object) = self.get(kind, name).await {
                found.push(without_the_servers_part(object, &self.namespace));
            }
        }
        found
    }

    /// Waits until `what` holds of an object; tells what was there otherwise.
    pub async fn until(&self, kind: &str, name: &str, what: &str, holds: impl Fn(&Value) -> bool) -> Value {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let found = self.get(kind, name).await.unwrap_or_default();
            if holds(&found) {
                return found;
            }
            assert!(
                Instant::now() < deadline,
                "not within {PATIENCE:?}: {what}; {kind} {name} in {} is {found:#}",
                self.namespace
            );
            tokio::time::sleep(PAUSE).await;
        }
    }

    /// Waits until the condition of `blue` has this reason, for the newest generation.
    pub async fn until_reason(&self, reason: &str) -> Value {
        self.until("KafscaleCluster", "blue", reason, |cluster| {
            ready(cluster)["reason"] == reason
                && cluster["status"]["observedGeneration"] == cluster["metadata"]["generation"]
        })
        .await
    }

    /// Starts an operator for this namespace.
    pub fn operator(&self) -> Operator {
        self.operator_with(&[])
    }

    /// Starts an operator with more variables.
    pub fn operator_with(&self, variables: &[(&str, &str)]) -> Operator {
        let log = PathBuf::from(variable("KAFSCALE_TEST_DIR")).join(format!("operator-{}.log", self.namespace));
        let file = File::options().create(true).append(true).open(&log).unwrap();
        let port = std::net::TcpListener::bind("127.0.0.1:0")
            .and_then(|listener| listener.local_addr())
            .unwrap()
            .port();
        let child = Command::new(env!("CARGO_BIN_EXE_kafscale-operator"))
            .arg("run")
            .env("KUBECONFIG", variable("KAFSCALE_TEST_OPERATOR_KUBECONFIG"))
            .env("KAFSCALE_OPERATOR_BROKER_IMAGE", "kafscale-broker:test")
            .env("KAFSCALE_OPERATOR_ETCD_IMAGE", "etcd:test")
            .env("KAFSCALE_OPERATOR_IMAGE", "kafscale-operator:test")
            .env("KAFSCALE_OPERATOR_NAMESPACE", &self.namespace)
            .env("KAFSCALE_OPERATOR_WATCH_NAMESPACE", &self.namespace)
            .env("KAFSCALE_OPERATOR_LEASE_SECONDS", LEASE_SECONDS.to_string())
            .env("KAFSCALE_OPERATOR_METRICS_ADDR", format!("127.0.0.1:{port}"))
            .envs(variables.iter().copied())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(file)
            .spawn()
            .unwrap();
        Operator { child, port, log }
    }
}

/// The definition of one of our kinds.
pub async fn definition(world: &World, plural: &str) -> Value {
    let api = Api::<DynamicObject>::all_with(world.client.clone(), &resource("CustomResourceDefinition"));
    json!(api.get(&format!("{plural}.kafscale.io")).await.unwrap())
}

/// Where objects of a kind are.
fn resource(kind: &str) -> ApiResource {
    let (group, version) = match kind {
        "KafscaleCluster" | "KafscaleTopic" => ("kafscale.io", "v1alpha1"),
        "StatefulSet" => ("apps", "v1"),
        "PodDisruptionBudget" => ("policy", "v1"),
        "HorizontalPodAutoscaler" => ("autoscaling", "v2"),
        "CronJob" | "Job" => ("batch", "v1"),
        "Lease" => ("coordination.k8s.io", "v1"),
        "Role" | "RoleBinding" => ("rbac.authorization.k8s.io", "v1"),
        "CustomResourceDefinition" => ("apiextensions.k8s.io", "v1"),
        _ => ("", "v1"),
    };
    ApiResource::from_gvk(&GroupVersionKind::gvk(group, version, kind))
}

/// The condition `Ready`.
pub fn ready(resource: &Value) -> Value {
    condition(resource, "Ready")
}

/// A condition of a resource.
pub fn condition(resource: &Value, kind: &str) -> Value {
    let conditions = resource["status"]["conditions"].as_array().cloned().unwrap_or_default();
    conditions
        .into_iter()
        .find(|condition| condition["type"] == kind)
        .unwrap_or_default()
}

/// What was asked for: no identities, no times, no addresses, and no namespace.
fn without_the_servers_part(mut object: Value, namespace: &str) -> Value {
    let metadata = object["metadata"].as_object_mut().unwrap();
    for key in [
        "uid",
        "resourceVersion",
        "creationTimestamp",
        "managedFields",
        "generation",
    ] {
        metadata.remove(key);
    }
    for owner in metadata["ownerReferences"].as_array_mut().unwrap() {
        owner["uid"] = Value::Null;
    }
    let object_map = object.as_object_mut().unwrap();
    object_map.remove("status");
    if object["kind"] == "Service" {
        let spec = object["spec"].as_object_mut().unwrap();
        if spec["clusterIP"] != "None" {
            spec.remove("clusterIP");
            spec.remove("clusterIPs");
        }
    }
    serde_json::from_str(&object.to_string().replace(namespace, "NAMESPACE")).unwrap()
}

/// `blue`, with `changes` merged into its spec.
pub fn blue(changes: Value) -> Value {
    let mut spec = json!({"s3": {"bucket": "records"}, "etcd": {"endpoints": ["http://etcd:2379"]}});
    merge(&mut spec, changes);
    json!({"apiVersion": "kafscale.io/v1alpha1", "kind": "KafscaleCluster", "metadata": {"name": "blue"}, "spec": spec})
}

/// `blue` whose etcd the operator runs, with `changes` merged into its spec.
pub fn managed(changes: Value) -> Value {
    let mut cluster = blue(json!({}));
    cluster["spec"].as_object_mut().unwrap().remove("etcd");
    merge(&mut cluster["spec"], changes);
    cluster
}

fn merge(into: &mut Value, changes: Value) {
    match (into, changes) {
        (Value::Object(into), Value::Object(changes)) => {
            for (key, value) in changes {
                merge(into.entry(key).or_insert(Value::Null), value);
            }
        }
        (into, changes) => *into = changes,
    }
}

/// A running operator. It is killed when this is dropped.
pub struct Operator {
    child: Child,
    port: u16,
    log: PathBuf,
}

impl Operator {
    /// What a metric of it counts; none while it does not answer.
    pub fn metric(&self, name: &str) -> Option<u64> {
        let mut stream = TcpStream::connect(("127.0.0.1", self.port)).ok()?;
        stream.set_read_timeout(Some(PATIENCE)).ok()?;
        stream.write_all(b"GET /metrics HTTP/1.1\r\n\r\n").ok()?;
        let mut page = String::new();
        stream.read_to_string(&mut page).ok()?;
        let line = page
            .lines()
            .find_map(|line| line.strip_prefix(name)?.strip_prefix(' '))?;
        line.parse().ok()
    }

    /// Whether it leads.
    pub fn leads(&self) -> bool {
        self.metric("kafscale_operator_leader") == Some(1)
    }

    /// Waits until it leads, or does not.
    pub async fn until_it_leads(&self, leads: bool) {
        let deadline = Instant::now() + PATIENCE;
        while self.metric("kafscale_operator_leader") != Some(u64::from(leads)) {
            assert!(Instant::now() < deadline, "leads: not {leads}; {}", self.log());
            tokio::time::sleep(PAUSE).await;
        }
    }

    /// SIGKILL.
    pub fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// Sends a signal, by its name.
    pub fn signal(&self, name: &str) {
        let pid = self.child.id().to_string();
        let sent = Command::new("kill").args(["-s", name, &pid]).status().unwrap();
        assert!(sent.success(), "{name} reaches process {pid}");
    }

    /// How it ended, if it has.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().unwrap()
    }

    /// The end of its log.
    pub fn log(&self) -> String {
        let log = std::fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<&str> = log.lines().collect();
        lines[lines.len().saturating_sub(40)..].join("\n")
    }
}

impl Drop for Operator {
    fn drop(&mut self) {
        self.kill();
        if std::thread::panicking() {
            eprintln!("--- the operator's log:\n{}", self.log());
        }
    }
}
