//! What `k8s/images/compose.yaml` says works: etcd, the S3 server and the broker as processes with its command lines and
//! variables, under its seccomp profile, each on a loopback address instead of a container's.

use crate::client::{batch_of, Client};
use crate::kubelet::{built, Process};
use crate::world::{variable, PATIENCE};
use kafscale_codec::error_code::ErrorCode;
use serde_json::Value;
use std::collections::BTreeMap;
use std::path::Path;
use std::time::{Duration, Instant};

const ROOT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../..");
const ADDRESSES: [(&str, &str); 3] = [
    ("etcd", "127.0.82.10"),
    ("s3", "127.0.82.11"),
    ("broker", "127.0.82.12"),
];

/// Starts a service of the file.
fn start(compose: &Value, name: &str, program: &Path, directory: &Path) -> Process {
    let service = &compose["services"][name];
    let (_, own) = ADDRESSES.iter().find(|(known, _)| *known == name).unwrap();
    let mut volumes: Vec<(String, String)> = Vec::new();
    let mounted = service["volumes"]
        .as_array()
        .into_iter()
        .flatten()
        .map(|volume| volume.as_str().unwrap());
    let tmpfs = service["tmpfs"]
        .as_array()
        .into_iter()
        .flatten()
        .map(|mount| mount.as_str().unwrap());
    let paths = mounted.map(|volume| volume.split(':').nth(1).unwrap());
    for path in paths.chain(tmpfs.map(|mount| mount.split(':').next().unwrap())) {
        let here = directory.join(format!("{name}{}", path.replace('/', "-")));
        std::fs::create_dir_all(&here).unwrap();
        volumes.push((path.to_string(), here.display().to_string()));
    }
    let local = |text: &str| {
        let mut text = text.replace("0.0.0.0", own).replace("localhost", own);
        for (host, address) in ADDRESSES {
            text = text.replace(&format!("//{host}:"), &format!("//{address}:"));
        }
        volumes.iter().fold(text, |text, (path, here)| text.replace(path, here))
    };
    let mut words = vec![program.display().to_string()];
    if let Some(profile) = service["security_opt"]
        .as_array()
        .into_iter()
        .flatten()
        .find_map(|option| {
            let file = option.as_str().unwrap().strip_prefix("seccomp:")?;
            Some(format!("{ROOT}/k8s/images/{file}"))
        })
    {
        let seccomp = format!("{ROOT}/ci/k8s/seccomp.py");
        let under_it = ["/usr/bin/env", "python3", &seccomp, &profile].map(str::to_string);
        words.splice(0..0, under_it);
    }
    let command = service["command"].as_array().cloned().unwrap_or_default();
    let command = command.iter().map(|word| word.as_str().unwrap());
    words.extend(command.filter(|word| *word != "/usr/local/bin/etcd").map(local));
    let mut variables = BTreeMap::new();
    for (key, text) in service["environment"].as_object().into_iter().flatten() {
        variables.insert(key.clone(), local(text.as_str().unwrap()));
    }
    match name {
        // Of the images.
        "s3" => words.extend(["--root".to_string(), local("/var/lib/s3")]),
        "broker" => drop(variables.insert("KAFSCALE_DATA_DIR".to_string(), local("/var/lib/kafscale"))),
        // A port of its own, which is not named in the file.
        _ => words.extend([
            format!("--listen-peer-urls=http://{own}:2380"),
            format!("--initial-advertise-peer-urls=http://{own}:2380"),
            format!("--initial-cluster=etcd=http://{own}:2380"),
        ]),
    }
    Process::exec(&words, &variables, &directory.join(format!("{name}.log")))
}

#[test]
#[ignore = "needs the programs of `make k8s`"]
fn the_compose_file_makes_a_broker_that_keeps_records() {
    let text = std::fs::read_to_string(format!("{ROOT}/k8s/images/compose.yaml")).unwrap();
    let compose: Value = serde_saphyr::from_str(&text).unwrap();
    let directory = tempfile::tempdir_in(variable("KAFSCALE_TEST_DIR")).unwrap();
    let ours = |name: &str| Path::new(&variable("KAFSCALE_TEST_BIN")).join(name);
    let _etcd = start(&compose, "etcd", &built("etcd"), directory.path());
    let _s3 = start(&compose, "s3", &ours("kafscale-test-s3"), directory.path());
    let deadline = Instant::now() + PATIENCE;
    let at = "127.0.82.12:9092".parse().unwrap();
    // As `restart` and `depends_on` say.
    let mut broker = start(&compose, "broker", &ours("kafscale-broker"), directory.path());
    let mut client = loop {
        if broker.has_ended() {
            broker = start(&compose, "broker", &ours("kafscale-broker"), directory.path());
        }
        if let Ok(client) = Client::connect(at) {
            break client;
        }
        assert!(Instant::now() < deadline, "{}", broker.log());
        std::thread::sleep(Duration::from_millis(100));
    };
    assert_eq!(client.ask_for_topic("numbers", 1, &[]), ErrorCode::NONE);
    let produce = crate::client::produce_request("numbers", 0, batch_of(&[b"one".as_slice()]));
    while client.call(crate::client::PRODUCE, &produce).responses[0].partition_responses[0].error_code
        != ErrorCode::NONE
    {
        assert!(Instant::now() < deadline, "nobody takes a record");
        std::thread::sleep(Duration::from_millis(100));
    }
    assert_eq!(client.read_from("numbers", 0, 0).len(), 1);
}
