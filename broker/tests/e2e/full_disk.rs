//! A disk that is full to the last byte: what is there is served, and records are accepted again once there is room.

use crate::client::batch_of;
use crate::support::{Launch, PATIENCE, PAUSE};
use kafscale_codec::error_code::ErrorCode;
use std::fs::{self, File};
use std::io::{BufRead, BufReader, Write};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Instant;

/// A small file system of its own, in a mount namespace that a sleeping process keeps.
struct SmallDisk {
    directory: tempfile::TempDir,
    holder: Child,
}

impl SmallDisk {
    /// `None` where this process may not mount anything.
    fn mount() -> Option<SmallDisk> {
        let directory = tempfile::tempdir().unwrap();
        let mut holder = Command::new("unshare")
            .args(["--map-root-user", "--mount", "sh", "-c"])
            .arg("mount -t tmpfs -o size=96m none \"$0\" && echo mounted && exec sleep 600")
            .arg(directory.path())
            .stdout(Stdio::piped())
            .spawn()
            .ok()?;
        let mut line = String::new();
        BufReader::new(holder.stdout.take().unwrap())
            .read_line(&mut line)
            .unwrap();
        let disk = SmallDisk { directory, holder };
        (line.trim() == "mounted").then_some(disk)
    }

    fn launch(&self) -> Launch {
        let target = self.holder.id().to_string();
        let prefix = ["nsenter", "--target", &target, "--user", "--mount", "--"];
        Launch {
            prefix: prefix.map(str::to_string).to_vec(),
            ..Launch::new(self.directory.path())
        }
    }

    /// A path on it, as this process sees it.
    fn path(&self, name: &str) -> PathBuf {
        let root = PathBuf::from(format!("/proc/{}/root", self.holder.id()));
        let inside = self.directory.path().strip_prefix("/").unwrap();
        root.join(inside).join(name)
    }

    /// Fills it to the last byte; nothing is left that a start would find at the ends of its own files.
    fn fill(&self, launch: &Launch) {
        let words = launch.prefix.iter().map(String::as_str);
        let mut words = words.chain([
            env!("CARGO_BIN_EXE_kafscale-broker"),
            "inspect",
            "metastore",
            "--data-dir",
        ]);
        let inspected = Command::new(words.next().unwrap())
            .args(words)
            .arg(&launch.data_dir)
            .output()
            .unwrap();
        assert!(inspected.status.success(), "{inspected:?}");
        let mut filler = File::options()
            .create(true)
            .append(true)
            .open(self.path("filler"))
            .unwrap();
        for size in [1 << 20, 4096, 1] {
            let bytes = vec![1; size];
            while filler.write_all(&bytes).is_ok() {}
        }
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = self.holder.kill();
        let _ = self.holder.wait();
    }
}

#[test]
fn a_disk_that_is_full_to_the_last_byte_is_read_from_and_written_to_once_there_is_room() {
    let Some(disk) = SmallDisk::mount() else {
        println!("skipped: this process may not mount a file system");
        return;
    };
    let launch = disk.launch();
    let mut broker = launch.start();
    let mut client = broker.connect();
    client.create_topic("kept", 1);
    for number in 0..100 {
        client.produce_value("kept", 0, format!("record {number}").as_bytes());
    }
    broker.kill();
    for round in 0..2 {
        disk.fill(&launch);
        let mut broker = launch.start();
        let mut client = broker.connect();
        let mut read = 0;
        while read < 100 {
            let records = client.read_from("kept", 0, read);
            assert!(!records.is_empty(), "round {round}: the partition ends at {read}");
            read += records.len() as i64;
        }
        let answer = client.produce("kept", 0, batch_of(&[b"none"]));
        assert_eq!(answer.error_code, ErrorCode::KAFKA_STORAGE_ERROR, "round {round}");
        let log = broker.log();
        assert!(log.contains("records are refused until"), "{log}");
        broker.kill();
    }
    let broker = launch.start();
    let mut client = broker.connect();
    fs::remove_file(disk.path("filler")).unwrap();
    let until = Instant::now() + PATIENCE;
    loop {
        match client.produce("kept", 0, batch_of(&[b"more"])).error_code {
            ErrorCode::NONE => break,
            error => assert!(Instant::now() < until, "{error:?}: {}", broker.log()),
        }
        std::thread::sleep(PAUSE);
    }
    assert_eq!(client.end_offset("kept", 0).unwrap(), Ok(101));
}
