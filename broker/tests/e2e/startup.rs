//! Starts that cannot be: the broker says what to do and ends with an error.

use crate::support::{broker, free_port, Launch};
use crate::unpacked::unpack_slots;
use std::net::TcpListener;

#[test]
fn a_data_directory_in_use_is_refused_and_its_owner_goes_on() {
    let (directory, mut first) = broker("");
    let second = Launch::new(directory.path());
    let second = Launch {
        log: directory.path().join("second-log"),
        port: free_port(),
        ..second
    };
    let mut second = second.spawn();
    let status = second.wait_for_end();
    let log = second.log();
    assert!(!status.success(), "it ended with {status}: {log}");
    assert!(log.contains("is in use by process"), "{log}");
    assert!(log.contains("--data-dir"), "it says what to do: {log}");
    let before = first.resident_bytes();
    first.assert_well(before, 64 << 20);
}

#[test]
fn a_port_in_use_is_refused_with_what_to_do() {
    let directory = tempfile::tempdir().unwrap();
    let launch = Launch::new(directory.path());
    let _held = TcpListener::bind(("127.0.0.1", launch.port)).unwrap();
    let mut broker = launch.spawn();
    let status = broker.wait_for_end();
    let log = broker.log();
    assert!(!status.success(), "it ended with {status}: {log}");
    let port_in_use = format!("127.0.0.1:{} is in use by another process", launch.port);
    assert!(log.contains(&port_in_use), "{log}");
    assert!(log.contains("choose another port"), "it says what to do: {log}");
}

#[test]
fn a_port_that_another_broker_serves_is_refused_though_brokers_share_ports_among_shards() {
    let (_directory, first) = broker("");
    let other = tempfile::tempdir().unwrap();
    let launch = Launch {
        port: first.address.port(),
        ..Launch::new(other.path())
    };
    let mut second = launch.spawn();
    let status = second.wait_for_end();
    assert!(!status.success(), "it ended with {status}");
    assert!(
        second.log().contains("is in use by another process"),
        "{}",
        second.log()
    );
}

#[test]
fn a_killed_broker_leaves_neither_its_directory_nor_its_port_behind() {
    let directory = tempfile::tempdir().unwrap();
    let launch = Launch::new(directory.path());
    let mut first = launch.start();
    let mut client = first.connect();
    client.create_topic("kept", 1);
    let offset = client.produce_value("kept", 0, b"acknowledged");
    first.kill();
    let second = launch.start();
    let records = second.connect().read_from("kept", 0, offset);
    assert_eq!(records[0].value.as_deref(), Some(&b"acknowledged"[..]));
}

/// A broker that had a record and was killed; where its parts are.
fn killed_with_a_record() -> (tempfile::TempDir, Launch) {
    let directory = tempfile::tempdir().unwrap();
    let launch = Launch::new(directory.path());
    let mut broker = launch.start();
    let mut client = broker.connect();
    client.create_topic("kept", 1);
    client.produce_value("kept", 0, b"acknowledged");
    broker.kill();
    (directory, launch)
}

#[test]
fn an_object_store_that_is_not_the_clusters_is_refused_and_nothing_is_taken_for_gone() {
    let (directory, launch) = killed_with_a_record();
    let (objects, elsewhere) = (
        directory.path().join("data/objects"),
        directory.path().join("elsewhere"),
    );
    std::fs::rename(&objects, &elsewhere).unwrap();
    let mut second = launch.spawn();
    let status = second.wait_for_end();
    assert!(!status.success(), "it ended with {status}");
    let log = second.log();
    assert!(log.contains("does not hold the records of cluster"), "{log}");

    std::fs::remove_dir_all(&objects).unwrap();
    std::fs::rename(&elsewhere, &objects).unwrap();
    let third = launch.start();
    assert_eq!(third.connect().read_from("kept", 0, 0).len(), 1);
}

#[test]
fn a_start_that_does_not_come_to_its_end_ends_with_an_error_that_says_so() {
    let (directory, launch) = killed_with_a_record();
    // Where the stream's objects were is a link to itself, and listing it is an error: nobody knows what the stream holds, so the partition must
    // not be led as if it were empty.
    let objects = directory.path().join("data/objects");
    unpack_slots(&objects);
    let streams = std::fs::read_dir(objects.join("default/_wal")).unwrap();
    let barred = streams
        .map(|stream| stream.unwrap().path())
        .inspect(|stream| std::fs::remove_dir_all(stream).unwrap())
        .inspect(|stream| std::os::unix::fs::symlink(stream, stream).unwrap())
        .count();
    assert!(barred > 0);
    let mut second = launch.flags("--startup-timeout-sec 3").spawn();
    let status = second.wait_for_end();
    assert!(!status.success(), "it ended with {status}");
    let log = second.log();
    assert!(log.contains("does not serve after 3 s"), "{log}");
    assert!(log.contains("claim partitions"), "it says what it waits for: {log}");
}
