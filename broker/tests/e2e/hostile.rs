//! Peers and machines that are no help: a reader that does not read, ten thousand connections that say nothing, a disk
//! without room.

use crate::client::{batch_of, encoded, fetch_request, produce_request, Client, FETCH, PRODUCE};
use crate::support::{broker, Broker, Launch, PATIENCE, PAUSE};
use kafscale_codec::error_code::ErrorCode;
use rustix::process::{getrlimit, setrlimit, Resource, Rlimit};
use std::net::TcpStream;
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

/// Connections of the crowd.
const CROWD: usize = 10_000;

/// How long a client waits for a produce request before it gives up.
const CLIENT_PATIENCE: Duration = Duration::from_secs(1);

/// What they may cost: the target of docs/benchmarks.md.
const CROWD_BYTES_MAX: u64 = 100 << 20;

#[test]
fn a_reader_that_does_not_read_costs_little_and_stops_nobody() {
    let (_directory, mut broker) = broker("");
    let mut client = broker.connect();
    client.create_topic("slow", 1);
    let value = vec![7; 900_000];
    for _ in 0..8 {
        client.produce_value("slow", 0, &value);
    }
    let before = broker.resident_bytes();
    let fetch = encoded(FETCH, 1, &fetch_request("slow", 0, 0, 0, 8 << 20));
    let mut readers: Vec<Client> = (0..20).map(|_| broker.connect()).collect();
    for reader in &mut readers {
        // 200 answers of 7 MB each, which nobody takes; when the broker reads no more, neither is more sent.
        let mut stream = reader.stream().try_clone().unwrap();
        stream.set_nonblocking(true).unwrap();
        for _ in 0..200 {
            if std::io::Write::write(&mut stream, &fetch).is_err() {
                break;
            }
        }
    }
    broker.assert_well(before, 256 << 20);
    drop(readers);
    broker.assert_well(before, 256 << 20);
}

#[test]
fn ten_thousand_idle_connections_are_cheap_and_stop_nobody() {
    // For this process, and for the broker, which inherits it.
    let wanted = CROWD as u64 + 1_000;
    let limit = getrlimit(Resource::Nofile);
    let maximum = limit.maximum.map_or(wanted, |hard| hard.max(wanted));
    let raised = Rlimit {
        current: Some(wanted.max(limit.current.unwrap_or(wanted))),
        maximum: limit.maximum.map(|_| maximum),
    };
    if let Err(error) = setrlimit(Resource::Nofile, raised) {
        println!("SKIPPED: this user may not open {wanted} files: {error}");
        return;
    }
    let (_directory, mut broker) = broker("--max-connections 20000");
    let before = broker.resident_bytes();
    let crowd: Vec<TcpStream> = (0..CROWD)
        .map(|_| TcpStream::connect(broker.address).unwrap())
        .collect();
    // The last of them is served, so all have been accepted.
    broker.assert_well(before, CROWD_BYTES_MAX);
    println!(
        "{} idle connections cost {} KiB",
        crowd.len(),
        broker.resident_bytes().saturating_sub(before) / 1024
    );
    drop(crowd);
    broker.assert_well(before, CROWD_BYTES_MAX);
}

/// A broker whose data directory is a small file system of its own; none if this machine permits no such thing.
fn broker_on_a_small_disk(directory: &std::path::Path) -> Option<(Launch, PathBuf)> {
    let permitted = Command::new("unshare")
        .args(["--map-root-user", "--mount", "mount", "-t", "tmpfs", "none", "/mnt"])
        .status();
    if !permitted.is_ok_and(|status| status.success()) {
        println!("SKIPPED: this user may not mount a file system of its own");
        return None;
    }
    let disk = directory.join("disk");
    std::fs::create_dir(&disk).unwrap();
    let script = format!("mount -t tmpfs -o size=48m none {} && exec \"$@\"", disk.display());
    let prefix = ["unshare", "--map-root-user", "--mount", "sh", "-c", &script, "sh"];
    let launch = Launch {
        data_dir: disk.join("data"),
        prefix: prefix.map(str::to_string).into(),
        ..Launch::new(directory)
    };
    Some((launch.flags("--shards 1"), disk))
}

/// One try, on a connection of its own: the broker keeps the request, and a client gives up waiting by itself.
fn try_to_produce(broker: &Broker, value: &[u8]) -> Result<(), ErrorCode> {
    let mut client = broker.connect();
    client.stream().set_read_timeout(Some(CLIENT_PATIENCE)).unwrap();
    let request = produce_request("full", 0, batch_of(&[value]));
    let Ok(mut answer) = client.ask(PRODUCE, &request) else {
        return Err(ErrorCode::REQUEST_TIMED_OUT);
    };
    match answer.responses.remove(0).partition_responses.remove(0).error_code {
        ErrorCode::NONE => Ok(()),
        error => Err(error),
    }
}

#[test]
fn a_full_disk_makes_producers_wait_and_loses_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let Some((launch, disk)) = broker_on_a_small_disk(directory.path()) else {
        return;
    };
    let mut broker = launch.start();
    let mut client = broker.connect();
    client.create_topic("full", 1);
    let mut acknowledged = 0u64;
    let until = Instant::now() + PATIENCE;
    // The file system is the broker's own; this is the way into it from outside.
    let inside = PathBuf::from(format!("/proc/{}/root{}", broker.id(), disk.display()));
    std::fs::write(inside.join("filler"), vec![1; 20 << 20]).unwrap();
    let value = |number: u64| [&number.to_be_bytes()[..], &[3; 200_000]].concat();
    let refusal = loop {
        assert!(Instant::now() < until, "a disk of 48 MiB is not full");
        match try_to_produce(&broker, &value(acknowledged)) {
            Ok(()) => acknowledged += 1,
            Err(error) => break error,
        }
    };
    assert!(refusal.is_retriable(), "{refusal:?}");
    assert!(acknowledged > 5, "{acknowledged}");
    assert!(broker.is_alive());
    assert_eq!(broker.connect().read_from("full", 0, 0).len() as u64, acknowledged);
    while !broker.log().contains("No space left on device") {
        assert!(Instant::now() < until, "the log does not say why: {}", broker.log());
        std::thread::sleep(PAUSE);
    }

    std::fs::remove_file(inside.join("filler")).unwrap();
    while try_to_produce(&broker, &value(u64::MAX)).is_err() {
        assert!(
            Instant::now() < until,
            "it goes on once there is room: {}",
            broker.log()
        );
    }
    let records = broker.connect().read_from("full", 0, 0);
    for (number, record) in (0..acknowledged).zip(&records) {
        assert_eq!(record.value.as_deref(), Some(&value(number)[..]));
    }
    broker.kill();
}
