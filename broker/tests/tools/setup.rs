//! Stores with segments, live slots and everything between, and commands that are run on them.

use crate::client::{batch_of, now_ms, Client};
use crate::support::{Broker, Launch, PATIENCE, PAUSE};
use crate::unpacked::unpack_slots;
use kafscale_codec::error_code::ErrorCode;
use kafscale_codec::record_batch::BatchBuilder;
use serde_json::Value;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

/// Plain and idempotent records, each in partitions of its own.
pub const TOPIC: &str = "orders";
pub const PARTITIONS: i32 = 4;

/// Small segments, so that there are some.
pub const FLAGS: &str = "--shards 2 --segment-bytes 65536 --segment-ms 3600000 --tail-memory-bytes 1048576";

/// Where everything is.
pub struct Place {
    pub directory: tempfile::TempDir,
    pub launch: Launch,
    /// The directory that holds the objects as files.
    pub objects: PathBuf,
    pub bucket: Option<kafscale_test_s3::Server>,
}

/// What a command said.
pub struct Said {
    pub status: i32,
    pub lines: Vec<Value>,
    pub errors: String,
}

impl Place {
    /// Everything in one directory.
    pub fn local() -> Place {
        let directory = tempfile::tempdir().unwrap();
        let launch = Launch::new(directory.path()).flags(FLAGS);
        let objects = launch.data_dir.join("objects");
        Place {
            directory,
            launch,
            objects,
            bucket: None,
        }
    }

    /// A bucket, and this etcd.
    pub fn shared(etcd: &[String]) -> Place {
        let directory = tempfile::tempdir().unwrap();
        let root = directory.path().join("s3");
        let bucket = kafscale_test_s3::Server::start(&kafscale_test_s3::Config::new(&root)).unwrap();
        let launch = Launch::new(directory.path())
            .flags(FLAGS)
            .flags("--flush-interval-ms 2 --broker-lease-ttl-ms 3000")
            .flags(&format!("--s3-bucket bucket --s3-endpoint {}", bucket.endpoint()))
            .flags("--s3-access-key test --s3-secret-key secret")
            .flags(&format!("--etcd-endpoints {}", etcd.join(",")));
        Place {
            directory,
            launch,
            objects: root.join("bucket"),
            bucket: Some(bucket),
        }
    }

    /// The same objects with another etcd.
    pub fn with_etcd(&mut self, etcd: &[String]) {
        let flags = &mut self.launch.flags;
        let at = flags.iter().position(|flag| flag == "--etcd-endpoints").unwrap();
        flags[at + 1] = etcd.join(",");
    }

    /// Runs a command on these stores.
    pub fn run(&self, words: &str) -> Said {
        let mut command = Command::new(env!("CARGO_BIN_EXE_kafscale-broker"));
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("KAFSCALE_") {
                command.env_remove(name);
            }
        }
        let output = command
            .args(words.split_whitespace())
            .args(&self.launch.flags)
            .arg("--data-dir")
            .arg(&self.launch.data_dir)
            .output()
            .unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        Said {
            status: output.status.code().unwrap(),
            lines: text.lines().map(|line| serde_json::from_str(line).unwrap()).collect(),
            errors: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }

    /// How many segments the topic has; a bucket is asked as an operator would, beside the broker.
    pub fn segments(&self) -> usize {
        match self.bucket {
            Some(_) => self.run(&format!("inspect segments {TOPIC}")).lines.len(),
            None => self.files("/orders/", ".kfs").len(),
        }
    }

    /// The slots, each as a file: those of a directory are taken out of their packs. No broker may be running.
    pub fn slots(&self) -> Vec<PathBuf> {
        if self.bucket.is_none() {
            unpack_slots(&self.objects);
        }
        self.files("/_wal/", ".wal")
    }

    /// The objects whose keys hold `part` and end with `ending`, in order.
    pub fn files(&self, part: &str, ending: &str) -> Vec<PathBuf> {
        let mut found = Vec::new();
        collect(&self.objects, &mut found);
        found.retain(|path| path.to_string_lossy().contains(part) && path.to_string_lossy().ends_with(ending));
        found.sort();
        found
    }
}

impl Said {
    /// The problems, as kind and place.
    pub fn problems(&self) -> Vec<(String, String)> {
        let text = |line: &Value, name: &str| line[name].as_str().unwrap_or_default().to_string();
        let lines = self.lines.iter().filter(|line| line.get("problem").is_some());
        lines.map(|line| (text(line, "problem"), text(line, "at"))).collect()
    }

    /// It ended with 0, and found nothing.
    pub fn assert_sound(&self) {
        assert_eq!(
            (self.status, self.problems()),
            (0, vec![]),
            "{}\n{:#?}",
            self.errors,
            self.lines
        );
    }

    /// It ended with 1, and one of the problems is of this kind at this place.
    pub fn assert_names(&self, kind: &str, at: &str) {
        let named = self.problems().iter().any(|(k, a)| k == kind && a.contains(at));
        assert!(
            self.status == 1 && named,
            "{kind} at {at}: {}\n{:#?}",
            self.errors,
            self.lines
        );
    }
}

fn collect(directory: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(directory).into_iter().flatten().flatten() {
        let hidden = entry.file_name().to_string_lossy().starts_with('.');
        match entry.file_type().unwrap().is_dir() {
            true => collect(&entry.path(), found),
            false if hidden => {}
            false => found.push(entry.path()),
        }
    }
}

/// Acknowledged values by partition; their index is their offset.
pub type Acked = BTreeMap<i32, Vec<Vec<u8>>>;

/// Makes the topic and fills it: partitions with even numbers by an idempotent producer.
pub fn fill(client: &mut Client, acked: &mut Acked, batches: usize) {
    for partition in 0..PARTITIONS {
        for _ in 0..batches {
            let values = acked.entry(partition).or_default();
            let value = format!("{partition}-{}-{}", values.len(), "x".repeat(3000)).into_bytes();
            let batch = match partition % 2 {
                0 => {
                    let mut batch = BatchBuilder::new().producer(77, 0, values.len() as i32);
                    batch.push(now_ms(), None, Some(&value), &[]);
                    batch.build().unwrap()
                }
                _ => batch_of(&[&value]),
            };
            let until = Instant::now() + PATIENCE;
            let answer = loop {
                let answer = client.produce(TOPIC, partition, batch.clone());
                if answer.error_code != ErrorCode::NOT_LEADER_OR_FOLLOWER {
                    break answer;
                }
                assert!(Instant::now() < until, "{partition} has no leader");
                std::thread::sleep(PAUSE);
            };
            assert_eq!(answer.error_code, ErrorCode::NONE);
            assert_eq!(answer.base_offset, values.len() as i64, "partition {partition}");
            values.push(value);
        }
    }
}

/// A broker that has segments and live slots, and what it acknowledged.
pub fn filled(place: &Place) -> (Broker, Acked) {
    let broker = place.launch.start();
    let mut client = broker.connect();
    client.create_topic(TOPIC, PARTITIONS);
    let mut acked = Acked::new();
    // 21 or 22 of them are a segment: so there are three, and some are left.
    fill(&mut client, &mut acked, 72);
    let until = Instant::now() + PATIENCE;
    while place.segments() < 3 * PARTITIONS as usize {
        assert!(Instant::now() < until, "no segments");
        std::thread::sleep(PAUSE);
    }
    fill(&mut client, &mut acked, 5);
    (broker, acked)
}

/// Every acknowledged record is there, at its offset.
pub fn assert_all_there(client: &mut Client, acked: &Acked) {
    for (partition, values) in acked {
        let mut at = 0;
        while at < values.len() {
            let records = client.read_from(TOPIC, *partition, at as i64);
            assert!(!records.is_empty(), "partition {partition} ends at {at}");
            for record in records {
                assert_eq!(record.offset, at as i64);
                assert_eq!(
                    record.value.as_deref(),
                    Some(&values[at][..]),
                    "partition {partition} offset {at}"
                );
                at += 1;
            }
        }
    }
}

/// Turns one bit of a file.
pub fn flip(path: &Path, position_from_end: usize) {
    let mut bytes = std::fs::read(path).unwrap();
    let at = bytes.len() - position_from_end;
    bytes[at] ^= 1;
    std::fs::write(path, bytes).unwrap();
}
