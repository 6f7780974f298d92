//! What a deletion left that was interrupted: `reconcile` removes what nobody can need, and nothing else.

use crate::setup::{assert_all_there, filled, Acked, Place, PARTITIONS, TOPIC};
use kafscale_codec::error_code::ErrorCode;
use kafscale_codec::messages::{DeleteRecordsPartition, DeleteRecordsRequest, DeleteRecordsTopic};
use std::fs;
use std::path::{Path, PathBuf};

/// Where the second segment of partition 1 begins.
fn second_segment(place: &Place) -> i64 {
    let second = place.files(&format!("/{TOPIC}/1/"), ".kfs").remove(1);
    let name = second.file_stem().unwrap().to_string_lossy().into_owned();
    name["segment-".len()..].parse().unwrap()
}

/// A snapshot of producers from before the one that counts, as a broker leaves it that dies after a roll.
fn leave_a_snapshot(place: &Place) -> PathBuf {
    let counts = place.files("/_producers/", ".snap").remove(0);
    let left = counts.with_file_name(format!("{:020}.snap", 1));
    fs::copy(counts, &left).unwrap();
    left
}

fn lines_of(said: &crate::setup::Said, path: &Path) -> usize {
    let of_path = |line: &&serde_json::Value| {
        line["delete"] == "leftover" && line["key"].as_str().is_some_and(|key| path.ends_with(key))
    };
    said.lines.iter().filter(of_path).count()
}

#[test]
fn what_an_interrupted_deletion_left_is_deleted_and_nothing_else() {
    let place = Place::local();
    let (mut broker, acked) = filled(&place);
    let start = second_segment(&place);
    let delete = DeleteRecordsRequest {
        topics: vec![DeleteRecordsTopic {
            name: TOPIC.to_string(),
            partitions: vec![DeleteRecordsPartition {
                partition_index: 1,
                offset: start,
            }],
        }],
        timeout_ms: 10_000,
    };
    let answer = broker.connect().call(2, &delete);
    assert_eq!(answer.topics[0].partitions[0].error_code, ErrorCode::NONE);
    broker.kill();
    // The deletion of the first segment came as far as its records.
    fs::remove_file(place.files(&format!("/{TOPIC}/1/"), ".kfs").remove(0)).unwrap();
    let mut left = vec![
        place.files(&format!("/{TOPIC}/1/"), ".index").remove(0),
        place.files(&format!("/{TOPIC}/1/"), ".kfst").remove(0),
        leave_a_snapshot(&place),
    ];
    // An upload that was interrupted: the next roll of the partition goes on from it.
    let begun = place
        .objects
        .join(format!("default/{TOPIC}/3/segment-{:020}.index", 1_000));
    fs::copy(&left[0], &begun).unwrap();

    let before = place.files("", "").len();
    let dry = place.run("reconcile --dry-run");
    assert_eq!(dry.status, 0, "{}", dry.errors);
    assert_eq!(place.files("", "").len(), before, "it only says so");
    let done = place.run("reconcile");
    for said in [&dry, &done] {
        assert!(left.iter().all(|path| lines_of(said, path) == 1), "{:#?}", said.lines);
        assert_eq!(lines_of(said, &begun), 0, "{:#?}", said.lines);
    }
    left.retain(|path| path.exists());
    assert_eq!(left, Vec::<PathBuf>::new());
    assert!(begun.exists());
    // The broker was killed before it had deleted the snapshots that its last rolls replaced.
    assert_eq!(
        place.files("/_producers/", ".snap").len() as i32,
        PARTITIONS,
        "each has one"
    );
    fs::remove_file(begun).unwrap();
    place.run("verify").assert_sound();

    let broker = place.launch.start();
    let mut client = broker.connect();
    let whole: Acked = acked
        .iter()
        .filter(|(at, _)| **at != 1)
        .map(|(at, all)| (*at, all.clone()))
        .collect();
    assert_eq!(whole.len() as i32, PARTITIONS - 1);
    assert_all_there(&mut client, &whole);
    let records = client.read_from(TOPIC, 1, start);
    assert_eq!(records[0].value.as_deref(), Some(&acked[&1][start as usize][..]));
}
