//! The metastore is lost, and rebuilt from the objects: nothing acknowledged is missing.

use crate::client::{batch_of, produce_request, Client, PRODUCE};
use crate::setup::{assert_all_there, fill, filled, Acked, Place, PARTITIONS, TOPIC};
use crate::support::{Broker, PATIENCE, PAUSE};
use kafscale_codec::error_code::ErrorCode;
use kafscale_codec::messages::*;
use serde_json::Value;
use std::time::Instant;

const GROUP: &str = "billing";
const COMMITTED: i64 = 41;

/// A broker with records and committed offsets that a catalog knows, and records that none does.
fn filled_and_catalogued(place: &Place) -> (Broker, Acked) {
    let (broker, mut acked) = filled(place);
    commit(&mut broker.connect());
    // A new topic has a catalog written, and the offsets are in it.
    broker.connect().create_topic("later", 1);
    let until = Instant::now() + PATIENCE;
    let holds = |bytes: &[u8], part: &[u8]| bytes.windows(part.len()).any(|window| window == part);
    let is_in = |name: &std::path::PathBuf| {
        let bytes = std::fs::read(name).unwrap_or_default();
        holds(&bytes, b"KCAT") && holds(&bytes, b"/topics/later")
    };
    // The bucket names its files otherwise than by keys.
    while !place.files("", "").iter().any(is_in) {
        assert!(Instant::now() < until, "no catalog of the topic is written");
        std::thread::sleep(PAUSE);
    }
    fill(&mut broker.connect(), &mut acked, 3);
    (broker, acked)
}

/// A broker that was killed, with records and a catalog.
pub fn filled_and_killed(place: &Place) -> Acked {
    let (mut broker, acked) = filled_and_catalogued(place);
    broker.kill();
    acked
}

/// Produces to partition 1, one record after another, until one is not acknowledged. Returns those that were.
fn produce_until_refused(client: &mut Client, first_offset: usize) -> Vec<Vec<u8>> {
    let mut acked = Vec::new();
    loop {
        let offset = (first_offset + acked.len()) as i64;
        let value = format!("late {offset}").into_bytes();
        let Ok(answer) = client.ask(PRODUCE, &produce_request(TOPIC, 1, batch_of(&[&value]))) else {
            return acked;
        };
        let answer = &answer.responses[0].partition_responses[0];
        if answer.error_code != ErrorCode::NONE {
            return acked;
        }
        assert_eq!(answer.base_offset, offset);
        acked.push(value);
        std::thread::sleep(PAUSE);
    }
}

fn commit(client: &mut Client) {
    let request = OffsetCommitRequest {
        group_id: GROUP.to_string(),
        generation_id_or_member_epoch: -1,
        topics: vec![OffsetCommitRequestTopic {
            name: TOPIC.to_string(),
            partitions: vec![OffsetCommitRequestPartition {
                partition_index: 1,
                committed_offset: COMMITTED,
                ..OffsetCommitRequestPartition::default()
            }],
        }],
        ..OffsetCommitRequest::default()
    };
    let until = Instant::now() + PATIENCE;
    loop {
        match client.call(7, &request).topics[0].partitions[0].error_code {
            ErrorCode::NONE => return,
            error => assert!(Instant::now() < until, "commit: {error:?}"),
        }
        std::thread::sleep(PAUSE);
    }
}

fn committed(client: &mut Client) -> i64 {
    let request = OffsetFetchRequest {
        group_id: GROUP.to_string(),
        topics: Some(vec![OffsetFetchRequestTopic {
            name: TOPIC.to_string(),
            partition_indexes: vec![1],
        }]),
        ..OffsetFetchRequest::default()
    };
    let until = Instant::now() + PATIENCE;
    loop {
        let answer = client.call(5, &request);
        match answer.error_code {
            ErrorCode::NONE => return answer.topics[0].partitions[0].committed_offset,
            error => assert!(Instant::now() < until, "fetch offsets: {error:?}"),
        }
        std::thread::sleep(PAUSE);
    }
}

/// A broker on what was rebuilt serves all of it and goes on after it.
fn assert_goes_on(broker: &Broker, mut acked: Acked) {
    let mut client = broker.connect();
    for partition in 0..PARTITIONS {
        let end = acked[&partition].len() as i64;
        assert_eq!(
            client.end_offset(TOPIC, partition).unwrap(),
            Ok(end),
            "partition {partition}"
        );
    }
    assert_all_there(&mut client, &acked);
    // Idempotent producers go on where they were: a sequence that does not follow would be refused.
    fill(&mut client, &mut acked, 2);
    assert_all_there(&mut client, &acked);
    assert_eq!(committed(&mut client), COMMITTED);
    assert_eq!(client.metadata("later", false).error_code, ErrorCode::NONE);
}

/// What the metastore holds, without what differs from one time to the next.
fn content(place: &Place) -> Vec<Value> {
    let mut lines = place.run("inspect metastore").lines;
    for line in &mut lines {
        line["mod_revision"] = Value::Null;
        if line["kind"] == "stream" {
            line["value"]["sealed_ms"] = Value::Null;
        }
    }
    lines
}

#[test]
fn a_cluster_that_lost_its_etcd_goes_on_with_every_record() {
    let lost = kafscale_test_etcd::Cluster::start(1);
    let mut place = Place::shared(&lost.endpoints());
    let acked = filled_and_killed(&place);
    place.run("verify").assert_sound();
    let refused = place.run("rebuild");
    assert!(
        refused.status == 2 && refused.errors.contains("not empty"),
        "{}",
        refused.errors
    );
    drop(lost);

    let first = kafscale_test_etcd::Cluster::start(1);
    place.with_etcd(&first.endpoints());
    place.run("rebuild").assert_sound();
    place.run("verify").assert_sound();
    let refused = place.run("rebuild");
    assert!(
        refused.status == 2 && refused.errors.contains("not empty"),
        "{}",
        refused.errors
    );
    let content_of_first = content(&place);
    drop(first);

    let second = kafscale_test_etcd::Cluster::start(1);
    place.with_etcd(&second.endpoints());
    place.run("rebuild").assert_sound();
    assert_eq!(content(&place), content_of_first);
    let broker = place.launch.start();
    assert_goes_on(&broker, acked);
}

#[test]
fn a_single_broker_that_lost_its_metastore_goes_on_with_every_record() {
    let place = Place::local();
    let acked = filled_and_killed(&place);
    std::fs::remove_dir_all(place.launch.data_dir.join("metastore")).unwrap();
    place.run("rebuild").assert_sound();
    place.run("verify").assert_sound();
    let broker = place.launch.start();
    assert_goes_on(&broker, acked);
}

#[test]
fn a_segment_and_a_slot_that_are_lost_are_told() {
    let place = Place::local();
    filled_and_killed(&place);
    std::fs::remove_dir_all(place.launch.data_dir.join("metastore")).unwrap();
    let lost = place.files("/orders/3/", ".kfs").remove(1);
    for path in place.files("/orders/3/", "") {
        if path.file_stem() == lost.file_stem() {
            std::fs::remove_file(path).unwrap();
        }
    }
    // In the middle of what is in no segment.
    let slots = place.slots();
    let of_last_stream = slots
        .iter()
        .filter(|slot| slot.parent() == slots[slots.len() - 1].parent());
    let slot = of_last_stream.rev().nth(5).unwrap();
    std::fs::remove_file(slot).unwrap();
    let said = place.run("rebuild");
    said.assert_names("gap", "/orders/3/");
    said.assert_names("lost", &slot.file_name().unwrap().to_string_lossy());
}

#[test]
fn a_broker_that_lives_on_gets_nothing_acknowledged_that_is_not_rebuilt() {
    let lost = kafscale_test_etcd::Cluster::start(1);
    let mut place = Place::shared(&lost.endpoints());
    let (mut broker, mut acked) = filled_and_catalogued(&place);
    let mut client = broker.connect();
    let first_offset = acked[&1].len();
    let producer = std::thread::spawn(move || produce_until_refused(&mut client, first_offset));
    drop(lost);
    let new = kafscale_test_etcd::Cluster::start(1);
    place.with_etcd(&new.endpoints());
    // The broker writes all the while: it is fenced, stream by stream.
    place.run("rebuild").assert_sound();
    let until = Instant::now() + PATIENCE;
    while !producer.is_finished() && Instant::now() < until {
        std::thread::sleep(PAUSE);
    }
    broker.kill();
    let late = producer.join().unwrap();
    assert!(!late.is_empty(), "the broker went on without etcd");
    acked.entry(1).or_default().extend(late);
    let broker = place.launch.start();
    assert_all_there(&mut broker.connect(), &acked);
}
