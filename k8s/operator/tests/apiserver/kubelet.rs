//! What a kubelet does, as far as brokers and etcd need it: pods that the StatefulSets' controller made become processes.
//!
//! A pod's command line and environment are taken from the pod. Only what a node gives in addition is made here: a pod's
//! own address (each on loopback, instead of a network of its own), its volumes (directories), and the names of the
//! Services (a hosts file of its own, where certificates need them).

use crate::world::{variable, World, PATIENCE};
use kube::api::{DeleteParams, ListParams, Patch, PatchParams, PostParams, Preconditions};
use serde_json::{json, Value};
use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

/// A process that is killed when this is dropped.
pub struct Process {
    child: Child,
    log: PathBuf,
}

impl Process {
    /// Starts one of our programs with these variables and no others.
    pub fn start(program: &str, args: &[String], variables: &BTreeMap<String, String>, log: &Path) -> Process {
        let program = Path::new(&variable("KAFSCALE_TEST_BIN")).join(program);
        let words: Vec<String> = std::iter::once(program.display().to_string())
            .chain(args.iter().cloned())
            .collect();
        Process::exec(&words, variables, log)
    }

    /// Starts a command with these variables and no others.
    pub fn exec(words: &[String], variables: &BTreeMap<String, String>, log: &Path) -> Process {
        let file = File::options().create(true).append(true).open(log).unwrap();
        let child = Command::new(&words[0])
            .args(&words[1..])
            .env_clear()
            .envs(variables)
            .stdin(Stdio::null())
            .stdout(file.try_clone().unwrap())
            .stderr(file)
            .spawn()
            .unwrap_or_else(|error| panic!("{words:?}: {error}"));
        Process {
            child,
            log: log.to_path_buf(),
        }
    }

    /// Whether it has ended.
    pub fn has_ended(&mut self) -> bool {
        self.child.try_wait().unwrap().is_some()
    }

    /// SIGTERM.
    pub fn terminate(&self) {
        let pid = self.child.id().to_string();
        let _ = Command::new("kill").args(["-s", "TERM", &pid]).status().unwrap();
    }

    /// All that it wrote.
    pub fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            let log = self.log();
            let lines: Vec<&str> = log.lines().collect();
            eprintln!(
                "--- {}:\n{}",
                self.log.display(),
                lines[lines.len().saturating_sub(20)..].join("\n")
            );
        }
    }
}

/// A bucket `records` below `directory`, and the Secret `keys` of a namespace that lets brokers in. Returns its endpoint.
pub async fn bucket(world: &World, directory: &Path) -> (Process, String) {
    let port = kafscale_test_etcd::free_port("127.0.0.1");
    let args = format!(
        "--root {}/s3 --addr 127.0.0.1:{port} --bucket records",
        directory.display()
    );
    let args: Vec<String> = args.split(' ').map(str::to_string).collect();
    let server = Process::start("kafscale-test-s3", &args, &BTreeMap::new(), &directory.join("s3.log"));
    let keys = json!({"KAFSCALE_S3_ACCESS_KEY": "test", "KAFSCALE_S3_SECRET_KEY": "secret"});
    let keys = json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "keys"}, "stringData": keys});
    world.create(keys).await;
    (server, format!("http://127.0.0.1:{port}"))
}

struct Pod {
    process: Process,
    uid: Value,
    ready: bool,
    told_to_end: bool,
}

/// One node for all pods of a namespace.
pub struct Kubelet {
    world: World,
    directory: PathBuf,
    network: &'static str,
    pods: BTreeMap<String, Pod>,
    /// Memory that processes may lock, in bytes, if it is little.
    pub memlock: Option<u64>,
    /// Whether pods may end by themselves; they are told of, and not started again.
    pub may_end: bool,
    /// The fewest pods that were ready since [`Kubelet::watch_readiness`].
    pub ready_min: usize,
}

impl Kubelet {
    /// Pods' volumes and logs go below `directory`; their addresses are in `network`, the first three bytes of one.
    pub fn new(world: &World, directory: &Path, network: &'static str) -> Kubelet {
        Kubelet {
            network,
            world: world.clone(),
            directory: directory.to_path_buf(),
            pods: BTreeMap::new(),
            memlock: None,
            may_end: false,
            ready_min: 0,
        }
    }

    /// From now on [`Kubelet::ready_min`] counts.
    pub fn watch_readiness(&mut self) {
        self.ready_min = self.ready();
    }

    fn ready(&self) -> usize {
        self.pods.values().filter(|pod| pod.ready).count()
    }

    /// Works until `done` says so.
    pub async fn work_until(&mut self, what: &str, done: impl AsyncFn(&World) -> bool) {
        let deadline = std::time::Instant::now() + 3 * PATIENCE;
        while !done(&self.world).await {
            assert!(std::time::Instant::now() < deadline, "not in time: {what}");
            self.sync().await;
            self.ready_min = self.ready_min.min(self.ready());
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    async fn sync(&mut self) {
        let labelled = ListParams::default().labels("app.kubernetes.io/name in (kafscale-broker, kafscale-etcd)");
        let listed = self.world.api("Pod").list(&labelled).await.unwrap();
        let mut there = BTreeSet::new();
        for pod in listed.items {
            let pod = json!(pod);
            there.insert(pod["metadata"]["name"].as_str().unwrap().to_string());
            self.sync_pod(&pod).await;
        }
        self.pods.retain(|name, _| there.contains(name));
    }

    async fn sync_pod(&mut self, pod: &Value) {
        let name = pod["metadata"]["name"].as_str().unwrap().to_string();
        let uid = &pod["metadata"]["uid"];
        if self.pods.get(&name).is_some_and(|known| known.uid != *uid) {
            self.pods.remove(&name);
        }
        let goes = !pod["metadata"]["deletionTimestamp"].is_null();
        if pod["spec"]["nodeName"].is_null() {
            return self.bind(&name).await;
        }
        let address = address(pod, self.network);
        let volumes = Volumes::of(&self.world, pod, &self.directory).await;
        let Some(known) = self.pods.get_mut(&name) else {
            if goes {
                return self.confirm_deletion(&name, uid).await;
            }
            if !volumes.is_complete {
                return;
            }
            let process = self.start(pod, &address, &volumes).await;
            let uid = uid.clone();
            let new = Pod {
                process,
                uid,
                ready: false,
                told_to_end: false,
            };
            self.pods.insert(name, new);
            return;
        };
        if goes && !known.told_to_end {
            known.process.terminate();
            known.told_to_end = true;
        }
        if self.may_end && !goes && known.process.has_ended() {
            let message = known.process.log();
            let code = known.process.child.wait().unwrap().code().unwrap();
            // As much as a kubelet keeps.
            let message = &message[message.len().saturating_sub(2048)..];
            let end = json!({"terminated": {"exitCode": code, "message": message}});
            let status = json!({"status": {"phase": "Running", "containerStatuses": [{
                "name": "broker", "image": "i", "imageID": "", "ready": false, "restartCount": 1,
                "state": {"waiting": {"reason": "CrashLoopBackOff"}}, "lastState": end,
            }]}});
            return self.tell_status("Pod", &name, status).await;
        }
        if known.process.has_ended() {
            assert!(goes, "{name} ended by itself: {}", known.process.log());
            known.ready = false;
            self.pods.remove(&name);
            return self.confirm_deletion(&name, uid).await;
        }
        let probe = &pod["spec"]["containers"][0]["readinessProbe"]["httpGet"];
        let answers = answers(&address, port(pod, &probe["port"]), probe["path"].as_str().unwrap());
        // A pod that goes is not ready, whatever its probe says.
        known.ready = answers && !goes;
        let ready = if known.ready { "True" } else { "False" };
        self.tell(&name, pod, ready).await;
    }

    async fn bind(&self, name: &str) {
        let target = json!({"apiVersion": "v1", "kind": "Node", "name": "node"});
        let binding = json!({"apiVersion": "v1", "kind": "Binding", "metadata": {"name": name}, "target": target});
        // It may be gone, or bound, meanwhile: the next look tells.
        let _: Result<Value, kube::Error> = self
            .world
            .api("Pod")
            .create_subresource("binding", name, &PostParams::default(), &binding)
            .await;
    }

    async fn confirm_deletion(&self, name: &str, uid: &Value) {
        let only = Preconditions {
            uid: uid.as_str().map(str::to_string),
            resource_version: None,
        };
        let at_once = DeleteParams::default().grace_period(0).preconditions(only);
        let _ = self.world.api("Pod").delete(name, &at_once).await;
    }

    async fn tell(&self, name: &str, pod: &Value, ready: &str) {
        let before = crate::world::condition(pod, "Ready");
        if before["status"] == ready {
            return;
        }
        let now = now();
        let condition = |kind: &str| json!({"type": kind, "status": ready, "lastTransitionTime": now});
        let address = address(pod, self.network);
        let status = json!({"status": {
            "phase": "Running", "podIP": address, "podIPs": [{"ip": address}],
            "conditions": [condition("Ready"), condition("ContainersReady")],
        }});
        let patch = Patch::Merge(status);
        let _ = self
            .world
            .api("Pod")
            .patch_status(name, &PatchParams::default(), &patch)
            .await;
    }
}

/// Where a pod is: its index is part of the address, so that it stays the same.
fn address(pod: &Value, network: &str) -> String {
    let labels = &pod["metadata"]["labels"];
    let index = labels["apps.kubernetes.io/pod-index"].as_str().unwrap();
    match labels["app.kubernetes.io/name"].as_str().unwrap() {
        "kafscale-broker" => format!("{network}.1{index}"),
        _ => format!("{network}.2{index}"),
    }
}

/// A port of the container, by its name.
fn port(pod: &Value, name: &Value) -> u16 {
    let ports = pod["spec"]["containers"][0]["ports"].as_array().unwrap();
    let port = ports.iter().find(|port| port["name"] == *name).unwrap();
    port["containerPort"].as_u64().unwrap() as u16
}

fn answers(host: &str, port: u16, path: &str) -> bool {
    let ask = || -> std::io::Result<String> {
        let address = format!("{host}:{port}").parse().map_err(std::io::Error::other)?;
        let mut stream = TcpStream::connect_timeout(&address, Duration::from_secs(1))?;
        stream.set_read_timeout(Some(Duration::from_secs(2)))?;
        stream.write_all(format!("GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n").as_bytes())?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        Ok(answer)
    };
    ask().is_ok_and(|answer| answer.starts_with("HTTP/1.1 200"))
}

impl Kubelet {
    async fn start(&self, pod: &Value, address: &str, volumes: &Volumes) -> Process {
        let name = pod["metadata"]["name"].as_str().unwrap();
        let log = self.directory.join(format!("{name}.log"));
        for container in pod["spec"]["initContainers"].as_array().into_iter().flatten() {
            let (words, variables) = self.command(pod, container, address, volumes).await;
            let mut process = Process::exec(&words, &variables, &log);
            let status = process.child.wait().unwrap();
            assert!(status.success(), "{words:?}: {status}: {}", process.log());
        }
        let (words, variables) = self.command(pod, &pod["spec"]["containers"][0], address, volumes).await;
        Process::exec(&words, &variables, &log)
    }

    /// Runs the pod that a CronJob asks for to its end, and tells the API server as a kubelet and the controllers of Jobs
    /// would. Returns its exit code and what it wrote.
    pub async fn run_job(&self, cron_job: &str, name: &str) -> (i32, String) {
        let found = self.world.get("CronJob", cron_job).await.unwrap();
        let template = &found["spec"]["jobTemplate"]["spec"]["template"];
        let pod = json!({
            "apiVersion": "v1", "kind": "Pod",
            "metadata": {"name": name, "labels": template["metadata"]["labels"]}, "spec": template["spec"],
        });
        // The API server refuses what the namespace's profile forbids.
        self.world.create(pod).await;
        let pod = self.world.get("Pod", name).await.unwrap();
        let volumes = Volumes::of(&self.world, &pod, &self.directory).await;
        let (words, variables) = self.command(&pod, &pod["spec"]["containers"][0], "", &volumes).await;
        let log = self.directory.join(format!("{name}.log"));
        let mut process = Process::exec(&words, &variables, &log);
        let code = process.child.wait().unwrap().code().unwrap();
        let said = process.log();
        let phase = if code == 0 { "Succeeded" } else { "Failed" };
        let message = if code == 0 { "" } else { said.as_str() };
        let status = json!({"status": {"phase": phase, "containerStatuses": [{
            "name": pod["spec"]["containers"][0]["name"], "image": "i", "imageID": "", "ready": false, "restartCount": 0,
            "state": {"terminated": {"exitCode": code, "message": message}},
        }]}});
        self.tell_status("Pod", name, status).await;
        let now = now();
        let mut status = json!({"status": {"lastScheduleTime": now}});
        if code == 0 {
            status["status"]["lastSuccessfulTime"] = json!(now);
        }
        self.tell_status("CronJob", cron_job, status).await;
        (code, said)
    }

    async fn tell_status(&self, kind: &str, name: &str, status: Value) {
        let (nobody, status) = (PatchParams::default(), Patch::Merge(status));
        self.world.api(kind).patch_status(name, &nobody, &status).await.unwrap();
    }

    /// A container's command line and environment, with what this node gives to it.
    async fn command(
        &self,
        pod: &Value,
        container: &Value,
        address: &str,
        volumes: &Volumes,
    ) -> (Vec<String>, BTreeMap<String, String>) {
        let strings = |list: &Value| -> Vec<String> {
            let list = list.as_array().cloned().unwrap_or_default();
            list.iter().map(|word| word.as_str().unwrap().to_string()).collect()
        };
        let variables = environment(&self.world, pod, container, address).await;
        // Every address of the pod.
        let local = |text: &str| volumes.mounted(container, text).replace("0.0.0.0", address);
        let args = strings(&container["args"])
            .into_iter()
            .map(|word| local(&expand(&word, &variables)));
        let mut words = match &volumes.has_certificates {
            true => self.with_names(),
            false => Vec::new(),
        };
        let (program, command) = match container["image"].as_str().unwrap() {
            image if image.starts_with("kafscale-broker:") => {
                let profile = &pod["spec"]["securityContext"]["seccompProfile"];
                words.extend(under_the_profile(profile, &self.directory));
                let limit = |bytes| ["/usr/bin/prlimit".to_string(), format!("--memlock={bytes}")];
                words.extend(self.memlock.iter().flat_map(limit));
                (
                    Path::new(&variable("KAFSCALE_TEST_BIN")).join("kafscale-broker"),
                    Value::Null,
                )
            }
            "kafscale-operator:test" => (PathBuf::from(env!("CARGO_BIN_EXE_kafscale-operator")), Value::Null),
            _ => (built("etcd"), json!(["/usr/local/bin/etcd"])),
        };
        assert_eq!(
            container["command"], command,
            "the image's own command is ours, and etcd's image has none"
        );
        words.push(program.display().to_string());
        words.extend(args);
        let mut variables: BTreeMap<_, _> = variables
            .iter()
            .map(|(name, text)| (name.clone(), local(text)))
            .collect();
        if pod["spec"]["initContainers"].is_array() {
            // The operator's image has it where it looks for it by itself.
            variables.insert("KAFSCALE_ETCDUTL".to_string(), built("etcdutl").display().to_string());
        }
        (words, variables)
    }

    /// What runs a command with the names of etcd's Services, in a mount namespace of its own.
    fn with_names(&self) -> Vec<String> {
        let namespace = &self.world.namespace;
        let mut hosts = "127.0.0.1 localhost\n".to_string();
        for index in 0..3 {
            let address = format!("{}.2{index}", self.network);
            hosts += &format!("{address} blue-etcd-{index}.blue-etcd.{namespace}.svc\n");
            hosts += &format!("{address} blue-etcd-client.{namespace}.svc\n");
        }
        let path = self.directory.join("hosts");
        std::fs::write(&path, hosts).unwrap();
        let script = format!("mount --bind {} /etc/hosts && exec \"$@\"", path.display());
        let words = [
            "/usr/bin/unshare",
            "--map-root-user",
            "--mount",
            "/bin/sh",
            "-c",
            &script,
            "sh",
        ];
        words.map(str::to_string).to_vec()
    }
}

/// A program that `make k8s` built.
pub fn built(name: &str) -> PathBuf {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../../.cache/k8s/bin")).join(name)
}

fn now() -> String {
    let since = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .unwrap();
    k8s_openapi::jiff::Timestamp::from_second(since.as_secs() as i64)
        .unwrap()
        .to_string()
}

/// A pod's volumes as directories.
struct Volumes {
    directories: BTreeMap<String, PathBuf>,
    has_certificates: bool,
    /// Whether all Secrets are there: no pod is started before.
    is_complete: bool,
}

impl Volumes {
    /// Makes them, and brings what is in Secrets up to date, as a kubelet does.
    async fn of(world: &World, pod: &Value, directory: &Path) -> Volumes {
        let mut directories = BTreeMap::new();
        let (mut has_certificates, mut is_complete) = (false, true);
        let own = directory.join(pod["metadata"]["uid"].as_str().unwrap());
        for volume in pod["spec"]["volumes"].as_array().into_iter().flatten() {
            let name = volume["name"].as_str().unwrap();
            let path = match &volume["persistentVolumeClaim"]["claimName"] {
                Value::String(claim) => directory.join(format!("claim-{claim}")),
                _ => own.join(name),
            };
            std::fs::create_dir_all(&path).unwrap();
            if let Some(secret) = volume["secret"]["secretName"].as_str() {
                has_certificates = true;
                // While a cluster goes, its Secrets may go before its pods.
                let found = world.get("Secret", secret).await;
                is_complete &= found.is_some();
                let data = found.unwrap_or_default()["data"]
                    .as_object()
                    .cloned()
                    .unwrap_or_default();
                for (key, value) in data {
                    let text = from_base64(value.as_str().unwrap());
                    let (file, new) = (path.join(&key), path.join(format!(".{key}")));
                    if std::fs::read_to_string(&file).ok().as_ref() != Some(&text) {
                        std::fs::write(&new, text).unwrap();
                        std::fs::rename(&new, &file).unwrap();
                    }
                }
            } else if let Some(map) = volume["configMap"]["name"].as_str() {
                let found = world.get("ConfigMap", map).await;
                is_complete &= found.is_some();
                let data = found.unwrap_or_default()["data"]
                    .as_object()
                    .cloned()
                    .unwrap_or_default();
                for (key, text) in data {
                    std::fs::write(path.join(key), text.as_str().unwrap()).unwrap();
                }
            } else {
                let known = ["emptyDir", "persistentVolumeClaim"];
                assert!(
                    known.iter().any(|kind| !volume[kind].is_null()),
                    "no such volume here: {volume}"
                );
            }
            directories.insert(name.to_string(), path);
        }
        Volumes {
            directories,
            has_certificates,
            is_complete,
        }
    }

    /// A text in which the paths of the container are those of this node.
    fn mounted(&self, container: &Value, text: &str) -> String {
        let mounts = container["volumeMounts"].as_array().into_iter().flatten();
        mounts.fold(text.to_string(), |text, mount| {
            let directory = &self.directories[mount["name"].as_str().unwrap()];
            text.replace(mount["mountPath"].as_str().unwrap(), directory.to_str().unwrap())
        })
    }
}

/// What runs a command under the seccomp profile that the pod names: as we ship it for the node, or without io_uring, which
/// runtimes leave out of theirs.
fn under_the_profile(profile: &Value, directory: &Path) -> Vec<String> {
    let root = concat!(env!("CARGO_MANIFEST_DIR"), "/../..");
    let ours = format!("{root}/k8s/seccomp/kafscale.json");
    let path = match profile["type"].as_str().unwrap() {
        "Localhost" => {
            assert_eq!(profile["localhostProfile"], "profiles/kafscale.json");
            ours
        }
        "RuntimeDefault" => {
            let mut profile: Value = serde_json::from_str(&std::fs::read_to_string(ours).unwrap()).unwrap();
            for rule in profile["syscalls"].as_array_mut().unwrap() {
                let names = rule["names"].as_array_mut().unwrap();
                names.retain(|name| !name.as_str().unwrap().starts_with("io_uring"));
            }
            profile["defaultErrnoRet"] = json!(1);
            let path = directory.join("runtime-default.json");
            std::fs::write(&path, profile.to_string()).unwrap();
            path.display().to_string()
        }
        other => panic!("no node of these tests has {other}"),
    };
    let words = ["/usr/bin/env", "python3", &format!("{root}/ci/k8s/seccomp.py"), &path];
    words.map(str::to_string).to_vec()
}

/// The container's variables, as a kubelet makes them.
async fn environment(world: &World, pod: &Value, container: &Value, address: &str) -> BTreeMap<String, String> {
    let mut variables = BTreeMap::new();
    for source in container["envFrom"].as_array().into_iter().flatten() {
        let secret = world
            .get("Secret", source["secretRef"]["name"].as_str().unwrap())
            .await
            .unwrap();
        for (key, value) in secret["data"].as_object().unwrap() {
            variables.insert(key.clone(), from_base64(value.as_str().unwrap()));
        }
    }
    for one in container["env"].as_array().into_iter().flatten() {
        let value = match one["valueFrom"]["fieldRef"]["fieldPath"].as_str() {
            None => expand(one["value"].as_str().unwrap_or_default(), &variables),
            // Each pod is on a node of its own.
            Some("status.hostIP") => address.to_string(),
            Some("metadata.name") => pod["metadata"]["name"].as_str().unwrap().to_string(),
            Some(path) => {
                let label = path
                    .strip_prefix("metadata.labels['")
                    .and_then(|rest| rest.strip_suffix("']"));
                let label = label.unwrap_or_else(|| panic!("no kubelet knows {path}"));
                pod["metadata"]["labels"][label]
                    .as_str()
                    .unwrap_or_default()
                    .to_string()
            }
        };
        variables.insert(one["name"].as_str().unwrap().to_string(), value);
    }
    variables
}

fn expand(text: &str, known: &BTreeMap<String, String>) -> String {
    known.iter().fold(text.to_string(), |text, (name, value)| {
        text.replace(&format!("$({name})"), value)
    })
}

/// Text of a Secret.
pub fn from_base64(text: &str) -> String {
    let digit = |byte: u8| -> u32 {
        let alphabet = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
        alphabet.iter().position(|known| *known == byte).unwrap() as u32
    };
    let digits: Vec<u32> = text.trim_end_matches('=').bytes().map(digit).collect();
    let mut bytes = Vec::new();
    for group in digits.chunks(4) {
        let bits = group.iter().fold(0, |bits, digit| bits << 6 | digit) << (6 * (4 - group.len()));
        bytes.extend_from_slice(&bits.to_be_bytes()[1..group.len()]);
    }
    String::from_utf8(bytes).unwrap()
}
