//! An etcd that the operator runs, as real members: what the operator asks for is what works.

use crate::client::{batch_of, produce_request, Client, PRODUCE};
use crate::kubelet::{bucket, from_base64, Kubelet};
use crate::world::{condition, managed, ready, run, variable, World, PATIENCE};
use etcd_client::{Certificate, Client as Etcd, ConnectOptions, Identity, TlsOptions};
use kafscale_codec::error_code::ErrorCode;
use serde_json::{json, Value};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

const NETWORK: &str = "127.0.79";
const SNAPSHOTS: &str = "blue-etcd-backup";

/// The files of a Secret.
async fn secret(world: &World, name: &str) -> BTreeMap<String, String> {
    let secret = world.get("Secret", name).await.unwrap();
    let data = secret["data"].as_object().unwrap();
    data.iter()
        .map(|(key, text)| (key.clone(), from_base64(text.as_str().unwrap())))
        .collect()
}

/// A client of one member, with or without a certificate of its own.
async fn member(world: &World, index: u8, identified: bool) -> Result<Etcd, etcd_client::Error> {
    let files = secret(world, "blue-etcd-client").await;
    let mut tls = TlsOptions::new()
        .ca_certificate(Certificate::from_pem(&files["ca.crt"]))
        .domain_name(format!("blue-etcd-{index}.blue-etcd.{}.svc", world.namespace));
    if identified {
        tls = tls.identity(Identity::from_pem(&files["tls.crt"], &files["tls.key"]));
    }
    let options = ConnectOptions::new().with_tls(tls).with_timeout(Duration::from_secs(5));
    Etcd::connect([format!("https://{NETWORK}.2{index}:2379")], Some(options)).await
}

/// What a key holds, as a majority knows it.
async fn value(world: &World, key: &str) -> Option<String> {
    let mut etcd = member(world, 1, true).await.unwrap();
    let found = etcd.get(key, None).await.unwrap();
    found.kvs().first().map(|pair| pair.value_str().unwrap().to_string())
}

async fn revision(world: &World) -> i64 {
    let mut etcd = member(world, 0, true).await.unwrap();
    etcd.get("any", None).await.unwrap().header().unwrap().revision()
}

async fn put(world: &World, key: &str, value: &str) {
    member(world, 2, true)
        .await
        .unwrap()
        .put(key, value, None)
        .await
        .unwrap();
}

/// The certificate that a member shows to those who connect now.
fn shown(directory: &Path, files: &BTreeMap<String, String>) -> String {
    for (name, text) in files {
        std::fs::write(directory.join(name), text).unwrap();
    }
    let address = format!("{NETWORK}.20:2379");
    let said = Command::new("openssl")
        .current_dir(directory)
        .args([
            "s_client", "-connect", &address, "-cert", "tls.crt", "-key", "tls.key", "-CAfile", "ca.crt",
        ])
        .stdin(std::process::Stdio::null())
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&said.stdout).to_string();
    let begin = said
        .find("-----BEGIN CERTIFICATE-----")
        .unwrap_or_else(|| panic!("{said}"));
    let end = said.find("-----END CERTIFICATE-----").unwrap();
    said[begin..end].to_string()
}

async fn is_settled(world: &World) -> bool {
    let cluster = world.get("KafscaleCluster", "blue").await.unwrap_or_default();
    ready(&cluster)["reason"] == "AllBrokersReady"
        && condition(&cluster, "EtcdAvailable")["reason"] == "AllMembersReady"
        && cluster["status"]["readyBrokers"] == 1
        && cluster["status"]["observedGeneration"] == cluster["metadata"]["generation"]
}

/// The snapshot that a Job's log tells of.
fn name_of(log: &str) -> String {
    let line = log
        .lines()
        .find(|line| line.contains(" of revision "))
        .unwrap_or_else(|| panic!("{log}"));
    let mut words = line.split(' ').skip_while(|word| *word != "snapshot");
    words.nth(1).unwrap().to_string()
}

async fn until_condition(world: &World, kind: &str, reason: &str) {
    world
        .until("KafscaleCluster", "blue", reason, |cluster| {
            condition(cluster, kind)["reason"] == reason
        })
        .await;
}

/// Lets a Secret's certificate end soon, and the operator look at it.
async fn let_it_end(world: &World, name: &str) {
    let soon = json!({"metadata": {"annotations": {"kafscale.io/not-after": "2027-01-01T00:00:00Z"}}});
    patch(world, "Secret", name, soon).await;
    patch(
        world,
        "KafscaleCluster",
        "blue",
        json!({"metadata": {"labels": {"look": name}}}),
    )
    .await;
}

async fn patch(world: &World, kind: &str, name: &str, change: Value) {
    let nobody = kube::api::PatchParams::default();
    let change = kube::api::Patch::Merge(change);
    world.api(kind).patch(name, &nobody, &change).await.unwrap();
}

#[test]
#[ignore = "needs the API server of `make k8s`"]
fn three_members_serve_brokers_and_come_back_from_a_snapshot() {
    run(async {
        let directory = tempfile::tempdir_in(variable("KAFSCALE_TEST_DIR")).unwrap();
        let world = World::new("etcd").await;
        let _operator = world.operator();
        let (_s3, endpoint) = bucket(&world, directory.path()).await;
        let spec = |etcd: Value| {
            managed(json!({
                "brokers": {"replicas": 1, "advertisedHost": "127.0.79.10"},
                "s3": {"endpoint": endpoint, "credentialsSecretRef": "keys"},
                "config": {"env": {"KAFSCALE_SHARDS": "1", "KAFSCALE_BROKER_LEASE_TTL_MS": "5000"}},
                "etcd": etcd,
            }))
        };
        let keep_two = json!({"snapshots": {"keep": 2}});
        world.apply(spec(keep_two.clone())).await.unwrap();
        let mut kubelet = Kubelet::new(&world, directory.path(), NETWORK);
        let settled = "three members and a broker are ready";
        kubelet.work_until(settled, async |world| is_settled(world).await).await;

        // Brokers' metadata are in it, and it answers nobody without a certificate.
        let broker = SocketAddr::from(([127, 0, 79, 10], 9092));
        let created = Client::connect(broker).unwrap().ask_for_topic("orders", 1, &[]);
        assert_eq!(created, ErrorCode::NONE);
        let deadline = Instant::now() + PATIENCE;
        let request = produce_request("orders", 0, batch_of(&[b"first".as_slice()]));
        loop {
            let answer = Client::connect(broker).unwrap().call(PRODUCE, &request);
            if answer.responses[0].partition_responses[0].error_code == ErrorCode::NONE {
                break;
            }
            assert!(Instant::now() < deadline, "nobody takes a record: {answer:?}");
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        let mut etcd = member(&world, 0, true).await.unwrap();
        let all = etcd_client::GetOptions::new().with_prefix();
        assert!(etcd.get("/kafscale/", Some(all)).await.unwrap().count() > 0);
        assert_eq!(etcd.member_list().await.unwrap().members().len(), 3);
        let stranger = async { member(&world, 0, false).await?.get("a", None).await };
        assert!(stranger.await.is_err(), "etcd answers somebody without a certificate");

        // Snapshots, of which two are kept.
        until_condition(&world, "EtcdSnapshot", "NotYet").await;
        let mut names = Vec::new();
        for round in 0..3 {
            put(&world, "round", &round.to_string()).await;
            let (code, log) = kubelet.run_job(SNAPSHOTS, &format!("snapshot-{round}")).await;
            assert_eq!(code, 0, "{log}");
            names.push(name_of(&log));
            assert_eq!(log.contains(&format!("{} is deleted", names[0])), round == 2, "{log}");
        }
        until_condition(&world, "EtcdSnapshot", "SnapshotTaken").await;
        until_condition(&world, "EtcdSnapshotAccess", "BucketAnswers").await;
        let before = revision(&world).await;
        put(&world, "round", "after the last snapshot").await;

        // Defragmentation leaves everything as it was.
        let (code, log) = kubelet.run_job("blue-etcd-defrag", "defragment").await;
        assert_eq!((code, log.matches(" bytes before, ").count()), (0, 3), "{log}");
        assert_eq!(value(&world, "round").await.as_deref(), Some("after the last snapshot"));
        until_condition(&world, "EtcdMaintenance", "Defragmented").await;

        // A bucket that is not there is told as such.
        world
            .apply(spec(json!({"snapshots": {"bucket": "absent"}})))
            .await
            .unwrap();
        let names_it = |found: &Value| found.to_string().contains("absent");
        world.until("CronJob", SNAPSHOTS, "the other bucket", names_it).await;
        // Times of the API server are in whole seconds.
        tokio::time::sleep(Duration::from_millis(1100)).await;
        let (code, log) = kubelet.run_job(SNAPSHOTS, "refused").await;
        assert_eq!(code, 4, "{log}");
        until_condition(&world, "EtcdSnapshot", "SnapshotFailed").await;
        until_condition(&world, "EtcdSnapshotAccess", "BucketRefuses").await;

        // A member's certificate that ends soon is another one, at once for those who connect.
        let old = secret(&world, "blue-etcd-member").await["tls.crt"].clone();
        let client = secret(&world, "blue-etcd-client").await;
        assert!(old.contains(&shown(directory.path(), &client)));
        let pods = world.get("StatefulSet", "blue-etcd").await.unwrap()["spec"]["template"].clone();
        let_it_end(&world, "blue-etcd-member").await;
        let is_new = async |world: &World| secret(world, "blue-etcd-member").await["tls.crt"] != old;
        kubelet.work_until("a new certificate", is_new).await;
        let new = secret(&world, "blue-etcd-member").await["tls.crt"].clone();
        let shows_it = async |_: &World| new.contains(&shown(directory.path(), &client));
        kubelet.work_until("the member shows it", shows_it).await;
        assert_eq!(
            world.get("StatefulSet", "blue-etcd").await.unwrap()["spec"]["template"],
            pods
        );
        // Brokers read theirs at the start only: they are restarted for it.
        let stamp = "/spec/template/metadata/annotations/kafscale.io~1etcd-certificate";
        let set = world.get("StatefulSet", "blue-broker").await.unwrap();
        let before_it = set.pointer(stamp).cloned();
        assert!(before_it.is_some());
        let_it_end(&world, "blue-etcd-client").await;
        let changes = |set: &Value| set.pointer(stamp) != before_it.as_ref();
        world
            .until("StatefulSet", "blue-broker", "another stamp", changes)
            .await;

        // All volumes are lost: the same cluster begins with the snapshot.
        world.delete("KafscaleCluster", "blue").await;
        let no_pods = async |world: &World| {
            world
                .api("Pod")
                .list(&Default::default())
                .await
                .unwrap()
                .items
                .iter()
                .all(|pod| {
                    pod.metadata
                        .labels
                        .as_ref()
                        .is_some_and(|labels| labels["app.kubernetes.io/name"].ends_with("-job"))
                })
        };
        kubelet.work_until("the pods are gone", no_pods).await;
        for index in 0..3 {
            let claim = format!("data-blue-etcd-{index}");
            assert!(
                world.get("PersistentVolumeClaim", &claim).await.is_some(),
                "the volume is kept"
            );
            std::fs::remove_dir_all(directory.path().join(format!("claim-{claim}"))).unwrap();
        }
        world
            .apply(spec(json!({"snapshots": {"keep": 2}, "restoreSnapshot": names[2]})))
            .await
            .unwrap();
        kubelet.work_until(settled, async |world| is_settled(world).await).await;
        assert_eq!(value(&world, "round").await.as_deref(), Some("2"));
        assert!(
            revision(&world).await > before + 1_000_000,
            "revisions go on where nobody was"
        );
        assert_eq!(
            member(&world, 0, true)
                .await
                .unwrap()
                .member_list()
                .await
                .unwrap()
                .members()
                .len(),
            3
        );

        // Restarted, members keep what they have, whatever the spec still names.
        put(&world, "round", "after the restore").await;
        patch(
            &world,
            "KafscaleCluster",
            "blue",
            json!({"spec": {"etcd": {"image": "etcd:next"}}}),
        )
        .await;
        let rolled = async |world: &World| {
            let set = world.get("StatefulSet", "blue-etcd").await.unwrap();
            let status = &set["status"];
            set["spec"]["template"]["spec"]["containers"][0]["image"] == "etcd:next"
                && status["observedGeneration"] == set["metadata"]["generation"]
                && status["currentRevision"] == status["updateRevision"]
                && status["readyReplicas"] == 3
        };
        kubelet.work_until("the update is rolled out", rolled).await;
        assert_eq!(value(&world, "round").await.as_deref(), Some("after the restore"));
    });
}
