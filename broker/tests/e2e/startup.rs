//! Starts that cannot be: the broker says what to do and ends with an error.

use crate::support::{broker, free_port, Launch};
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
