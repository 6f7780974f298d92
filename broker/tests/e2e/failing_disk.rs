//! A disk that fails under a running broker, and one that stays full over many starts.

use crate::client::{batch_of, produce_request, Client, PRODUCE};
use crate::support::{Broker, Launch, PATIENCE, PAUSE};
use kafscale_codec::error_code::ErrorCode;
use kafscale_codec::messages::{MetadataRequest, MetadataRequestTopic, ProduceResponse};
use kafscale_test_fuse::{FailingDisk, Faults};
use std::time::Instant;

/// The status of a broker whose metastore could not commit.
const METASTORE_FAILED: i32 = 74;

const TOPIC: &str = "kept";

const RECORDS: i64 = 50;

/// More starts than the reserve pays for.
const STARTS: usize = 7;

/// A disk and a broker that is to run on it. `None` where no FUSE file system can be mounted.
fn mounted() -> Option<(tempfile::TempDir, FailingDisk, Launch)> {
    let directory = tempfile::tempdir().unwrap();
    let disk = match FailingDisk::mount(directory.path()) {
        Ok(disk) => disk,
        Err(error) => {
            println!("left out: no FUSE file system can be mounted here: {error}");
            return None;
        }
    };
    let launch = Launch {
        data_dir: disk.path().join("data"),
        ..Launch::new(directory.path()).flags("--shards 1")
    };
    Some((directory, disk, launch))
}

fn produce_all(client: &mut Client) {
    client.create_topic(TOPIC, 1);
    for number in 0..RECORDS {
        let offset = client.produce_value(TOPIC, 0, format!("record {number}").as_bytes());
        assert_eq!(offset, number);
    }
}

fn assert_all_there(broker: &Broker) {
    let mut client = broker.connect();
    let mut read = 0;
    while read < RECORDS {
        let records = client.read_from(TOPIC, 0, read);
        assert!(!records.is_empty(), "the partition ends at {read}: {}", broker.log());
        for record in records.iter().take_while(|record| record.offset < RECORDS) {
            assert_eq!(record.value.as_deref(), Some(format!("record {read}").as_bytes()));
            read += 1;
        }
    }
}

/// Produces until a record is taken.
fn assert_takes_records(broker: &Broker) {
    let until = Instant::now() + PATIENCE;
    let mut client = broker.connect();
    loop {
        match client.produce(TOPIC, 0, batch_of(&[b"more"])).error_code {
            ErrorCode::NONE => return,
            error => assert!(Instant::now() < until, "{error:?}: {}", broker.log()),
        }
        std::thread::sleep(PAUSE);
    }
}

#[test]
fn a_failed_commit_of_the_metastore_ends_the_process_with_74_and_loses_nothing() {
    let Some((_directory, disk, launch)) = mounted() else {
        return;
    };
    for fault in ["writes", "syncs"] {
        let mut broker = launch.start();
        let mut client = broker.connect();
        if fault == "writes" {
            produce_all(&mut client);
        }
        disk.set(Faults {
            writes: fault == "writes",
            syncs: fault == "syncs",
            ..Faults::default()
        });
        // A new topic is a commit. The process ends while it is asked for, with or without an answer.
        let topic = MetadataRequestTopic {
            name: Some(format!("while-{fault}-fail")),
            ..MetadataRequestTopic::default()
        };
        let request = MetadataRequest {
            topics: Some(vec![topic]),
            allow_auto_topic_creation: true,
            ..MetadataRequest::default()
        };
        let _ = client.ask(9, &request);
        let status = broker.wait_for_end();
        assert_eq!(status.code(), Some(METASTORE_FAILED), "{fault}: {}", broker.log());
        let log = broker.log();
        assert!(log.contains("this process ends with status 74"), "{fault}: {log}");
        assert!(log.contains("Input/output error"), "{fault}: {log}");
        assert!(log.contains("start the broker again"), "it says what to do: {log}");

        // As long as the disk fails nothing starts, and the message says why.
        let mut refused = launch.spawn();
        let status = refused.wait_for_end();
        let log = refused.log();
        assert!(
            !status.success() && log.contains("Input/output error"),
            "{fault}, {status}: {log}"
        );

        disk.mend();
        let mut broker = launch.start();
        assert_all_there(&broker);
        assert_takes_records(&broker);
        broker.kill();
    }
}

#[test]
fn a_disk_that_fills_up_under_a_running_broker_is_served_from_and_written_to_again() {
    let Some((_directory, disk, launch)) = mounted() else {
        return;
    };
    let broker = launch.start();
    let mut client = broker.connect();
    produce_all(&mut client);
    // A full disk is no failure of the metastore, so the process goes on.
    disk.fill(0);
    let until = Instant::now() + PATIENCE;
    // The first that find no room wait for it, since their slots may be taken; they get their answers in the end.
    let mut waiting = broker.connect();
    let large = vec![7; 900_000];
    let mut sent = Vec::new();
    while !broker.log().contains("refuses records with KAFKA_STORAGE_ERROR") {
        let request = produce_request(TOPIC, 0, batch_of(&[&large]));
        sent.push(waiting.send(PRODUCE, &request).unwrap());
        assert!(Instant::now() < until, "a full disk takes records: {}", broker.log());
        std::thread::sleep(PAUSE);
    }
    let answer = client.produce(TOPIC, 0, batch_of(&[b"none"]));
    assert_eq!(answer.error_code, ErrorCode::KAFKA_STORAGE_ERROR);
    assert!(disk.counts().full > 0);
    assert_all_there(&broker);
    assert!(broker.log().contains("No space left on device"), "{}", broker.log());
    disk.mend();
    assert_takes_records(&broker);
    for id in sent {
        let answer: ProduceResponse = waiting.receive(PRODUCE, id).unwrap();
        let error = answer.responses[0].partition_responses[0].error_code;
        assert!(
            matches!(error, ErrorCode::NONE | ErrorCode::KAFKA_STORAGE_ERROR),
            "{error:?}"
        );
    }
}

#[test]
fn a_disk_that_stays_full_loses_nothing_however_often_the_broker_starts() {
    let Some((_directory, disk, launch)) = mounted() else {
        return;
    };
    let mut broker = launch.start();
    produce_all(&mut broker.connect());
    broker.kill();
    let mut served = 0;
    for start in 0..STARTS {
        // Something else takes every byte that the start before has freed.
        disk.fill(0);
        let mut broker = launch.spawn();
        if broker.serves() {
            assert_all_there(&broker);
            let mut client = broker.connect();
            // A start gives back what empty packs took: that may be room for records.
            let error = client.produce(TOPIC, 0, batch_of(&[b"perhaps"])).error_code;
            assert!(
                matches!(error, ErrorCode::NONE | ErrorCode::KAFKA_STORAGE_ERROR),
                "{start}: {error:?}"
            );
            served += 1;
            broker.kill();
        } else {
            let log = broker.log();
            assert!(
                log.contains("bytes free and no reserve: this start may fail"),
                "start {start}: {log}"
            );
        }
    }
    assert!(served >= 4, "{served} of {STARTS} starts served what was there");
    disk.mend();
    let broker = launch.start();
    assert_all_there(&broker);
    assert_takes_records(&broker);
}
