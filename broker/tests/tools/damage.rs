//! What verify says of stores that are sound, and of stores that are not; what the others show and do.

use crate::setup::{assert_all_there, fill, filled, flip, Acked, Place, TOPIC};
use crate::support::{Broker, PATIENCE, PAUSE};
use kafscale_codec::error_code::ErrorCode;
use std::fs;
use std::path::Path;
use std::time::Instant;

/// A filled place whose broker was killed.
fn left_behind() -> Place {
    let place = Place::local();
    let (mut broker, _) = filled(&place);
    broker.kill();
    place
}

fn name(path: &Path) -> String {
    path.file_name().unwrap().to_string_lossy().into_owned()
}

#[test]
fn what_a_killed_broker_leaves_is_sound() {
    let place = left_behind();
    let said = place.run("verify");
    said.assert_sound();
    let summary = said.lines.last().unwrap();
    assert!(summary["segments"].as_u64().unwrap() >= 8, "{summary}");
    assert!(summary["write_ahead_objects"].as_u64().unwrap() >= 5, "{summary}");
    place.run("verify --without-metastore").assert_sound();
}

#[test]
fn a_broker_that_runs_on_these_directories_is_not_disturbed() {
    let place = Place::local();
    let (broker, _) = filled(&place);
    for command in ["verify", "inspect wal", "reconcile --dry-run"] {
        let said = place.run(command);
        assert_eq!(said.status, 2, "{command}");
        let expected = format!("in use by process {}", broker.id());
        assert!(said.errors.contains(&expected), "{command}: {}", said.errors);
    }
}

#[test]
fn one_bit_of_a_segment_is_found() {
    let place = left_behind();
    let segment = &place.files("/orders/0/", ".kfs")[1];
    flip(segment, 100);
    for command in ["verify", "verify --without-metastore"] {
        place.run(command).assert_names("segment", &name(segment));
    }
}

#[test]
fn one_bit_of_a_footer_or_an_index_is_found() {
    let place = left_behind();
    let segment = &place.files("/orders/1/", ".kfs")[0];
    flip(segment, 5); // The last offset.
    let index = &place.files("/orders/2/", ".index")[0];
    flip(index, 1);
    let said = place.run("verify");
    said.assert_names("segment", &name(segment));
    said.assert_names("segment", &name(index));
}

#[test]
fn a_segment_that_is_gone_leaves_a_gap() {
    let place = left_behind();
    let segments = place.files("/orders/3/", ".kfs");
    for path in place.files("/orders/3/", "") {
        if path.file_stem() == segments[1].file_stem() {
            std::fs::remove_file(path).unwrap();
        }
    }
    place.run("verify").assert_names("gap", "/orders/3/");
    // The last one is missed by the metastore alone.
    let place = left_behind();
    let last = place.files("/orders/3/", ".kfs").pop().unwrap();
    for path in place.files("/orders/3/", "") {
        if path.file_stem() == last.file_stem() {
            std::fs::remove_file(path).unwrap();
        }
    }
    place.run("verify").assert_names("gap", "/orders/3/");
}

#[test]
fn a_slot_that_is_gone_or_damaged_is_named() {
    let place = left_behind();
    let slots = place.slots();
    // In the middle of what is live: neither the oldest slots nor those that may have been on their way.
    let stream = slots.last().unwrap().parent().unwrap().to_owned();
    let of_stream: Vec<_> = slots.into_iter().filter(|path| path.starts_with(&stream)).collect();
    let slot = &of_stream[of_stream.len() - 7];
    flip(slot, std::fs::metadata(slot).unwrap().len() as usize - 200);
    place.run("verify").assert_names("write-ahead", &name(slot));
    std::fs::remove_file(slot).unwrap();
    place.run("verify").assert_names("missing", &name(slot));
}

#[test]
fn inspect_shows_what_is_there() {
    let place = left_behind();
    let segments = place.run(&format!("inspect segments {TOPIC} 0"));
    assert_eq!(segments.status, 0, "{}", segments.errors);
    let mut next = 0;
    for segment in &segments.lines {
        assert_eq!(
            (&segment["base_offset"], &segment["crc_ok"]),
            (&next.into(), &true.into())
        );
        next = segment["last_offset"].as_i64().unwrap() + 1;
    }
    let wal = place.run("inspect wal");
    assert!(
        wal.lines.len() >= 5 && wal.lines.iter().all(|line| line["kind"] == "data"),
        "{:#?}",
        wal.lines
    );
    let run = &wal.lines[0]["runs"][0];
    assert!(run["next_offset"].as_i64() > run["base_offset"].as_i64(), "{run}");
    let metastore = place.run("inspect metastore topics/");
    assert_eq!(metastore.lines[0]["value"]["folder"], TOPIC);
    assert_eq!(
        place
            .run("inspect metastore")
            .lines
            .iter()
            .filter(|line| line.get("error").is_some())
            .count(),
        0
    );
    let key = format!("default/{TOPIC}/0/segment-{:020}.index", 0);
    assert_eq!(place.run(&format!("inspect index {key}")).lines[0]["position"], 32);
    assert_eq!(place.run(&format!("inspect object {key}")).lines[0]["kind"], "index");
    assert_eq!(place.run("inspect object default/nothing").status, 2);
}

#[test]
fn reconcile_says_what_it_would_do_and_then_does_it() {
    let place = Place::local();
    let (mut broker, _) = filled(&place);
    // Another life: the streams of the first are rolled or needed; a topic that is deleted needs none.
    let mut client = broker.connect();
    let topic = kafscale_codec::messages::DeleteTopicsRequest {
        topic_names: vec![TOPIC.to_string()],
        timeout_ms: 10_000,
        ..Default::default()
    };
    assert_eq!(
        client.call(3, &topic).responses[0].error_code,
        kafscale_codec::error_code::ErrorCode::NONE
    );
    broker.kill();
    // The counter of streams has passed 0, which no stream ever was: what lies there is nobody's.
    let orphaned = place.objects.join(format!("default/_wal/{:016x}", 0));
    fs::create_dir_all(&orphaned).unwrap();
    fs::write(orphaned.join(format!("{:020}.wal", 3)), b"left behind").unwrap();
    let dry = place.run("reconcile --dry-run");
    assert_eq!(dry.status, 0, "{}", dry.errors);
    assert_eq!(dry.lines.last().unwrap()["dry_run"], true);
    // The topic's minute is not over: nothing of it goes yet.
    assert!(
        dry.lines.iter().all(|line| line["delete"] != "topic"),
        "{:#?}",
        dry.lines
    );
    assert!(
        dry.lines.iter().any(|line| line["delete"] == "orphaned"),
        "{:#?}",
        dry.lines
    );
    let done = place.run("reconcile");
    assert!(done.lines.iter().any(|line| line["delete"] == "orphaned"));
    let again = place.run("reconcile --dry-run");
    assert!(again.lines.iter().all(|line| line["delete"] != "orphaned"));
    assert_eq!(done.lines.last().unwrap()["dry_run"], false);
    assert!(!place.files("/orders/", ".kfs").is_empty());
}

/// The stream, as a number in its key, and the slot of a file.
pub fn slot_of(path: &Path) -> (String, u64) {
    let stream = name(path.parent().unwrap());
    let slot = name(path).trim_end_matches(".wal").parse().unwrap();
    (stream, slot)
}

/// A place whose broker was killed, a slot in the middle of what is in no segment, and the partition and offset of the
/// record that it holds. Every partition of its stream has a record in a later slot.
pub fn with_a_slot_to_lose() -> (Place, Acked, std::path::PathBuf, i32, i64) {
    let place = Place::local();
    let (mut broker, mut acked) = filled(&place);
    fill(&mut broker.connect(), &mut acked, 1);
    broker.kill();
    let slots = place.slots();
    let of_stream = |path: &&std::path::PathBuf| path.parent() == slots.last().unwrap().parent();
    let slot = slots.iter().rev().filter(of_stream).nth(5).unwrap().clone();
    let shown = place.run("inspect wal");
    let of_slot = |line: &&serde_json::Value| line["key"].as_str().is_some_and(|key| slot.ends_with(key));
    let run = &shown.lines.iter().find(of_slot).unwrap()["runs"][0];
    let (partition, offset) = (
        run["partition"].as_i64().unwrap() as i32,
        run["base_offset"].as_i64().unwrap(),
    );
    (place, acked, slot, partition, offset)
}

/// What each partition answers to a question for its end, once it answers for good.
pub fn settled_end(client: &mut crate::client::Client, partition: i32) -> Result<i64, ErrorCode> {
    let until = Instant::now() + PATIENCE;
    loop {
        let end = client.end_offset(TOPIC, partition).unwrap();
        if end != Err(ErrorCode::NOT_LEADER_OR_FOLLOWER) {
            return end;
        }
        assert!(Instant::now() < until, "partition {partition} has no leader");
        std::thread::sleep(PAUSE);
    }
}

fn assert_only_this_is_refused(broker: &Broker, acked: &Acked, refused: i32) {
    let mut client = broker.connect();
    assert_eq!(settled_end(&mut client, refused), Err(ErrorCode::KAFKA_STORAGE_ERROR));
    let batch = crate::client::batch_of(&[b"more"]);
    assert_eq!(
        client.produce(TOPIC, refused, batch).error_code,
        ErrorCode::KAFKA_STORAGE_ERROR
    );
    let others: Acked = acked
        .iter()
        .filter(|(at, _)| **at != refused)
        .map(|(at, all)| (*at, all.clone()))
        .collect();
    for (partition, values) in &others {
        assert_eq!(settled_end(&mut client, *partition), Ok(values.len() as i64));
    }
    assert_all_there(&mut client, &others);
    assert!(
        broker
            .log()
            .contains(&format!("partition {TOPIC}-{refused} is quarantined")),
        "{}",
        broker.log()
    );
}

#[test]
fn a_slot_missing_below_a_vouched_one_refuses_the_partition_until_the_loss_is_accepted() {
    let (place, mut acked, slot, partition, offset) = with_a_slot_to_lose();
    std::fs::remove_file(&slot).unwrap();
    let mut broker = place.launch.start();
    assert_only_this_is_refused(&broker, &acked, partition);
    let (stream, number) = slot_of(&slot);
    let command = format!("accept-loss {stream} {number}");
    assert!(
        broker.log().contains(&format!("kafscale-broker {command}")),
        "{}",
        broker.log()
    );
    broker.kill();
    for command in [command.clone(), format!("{command} --execute")] {
        let said = place.run(&command);
        assert_eq!(said.status, 0, "{command}: {}", said.errors);
        let lost = &said.lines[0];
        assert_eq!(
            (&lost["lose"], &lost["partition"], &lost["from"], &lost["to"]),
            (&"records".into(), &partition.into(), &offset.into(), &offset.into()),
            "{:#?}",
            said.lines
        );
        assert_eq!(said.lines.len(), 2, "nothing else is lost: {:#?}", said.lines);
    }
    let again = place.run(&command);
    assert!(
        again.status == 2 && again.errors.contains("no loss to accept"),
        "{}",
        again.errors
    );
    let broker = place.launch.start();
    let mut client = broker.connect();
    assert_eq!(settled_end(&mut client, partition), Ok(acked[&partition].len() as i64));
    let left: Vec<i64> = client
        .read_from(TOPIC, partition, 0)
        .iter()
        .map(|record| record.offset)
        .collect();
    let expected: Vec<i64> = (0..acked[&partition].len() as i64).filter(|at| *at != offset).collect();
    assert_eq!(
        left, expected,
        "only the record that was lost is missing, and no offset is used again"
    );
    acked.remove(&partition);
    assert_all_there(&mut client, &acked);
}

#[test]
fn a_flipped_bit_of_a_footer_refuses_one_partition_and_the_broker_starts() {
    let (place, acked, slot, partition, _) = with_a_slot_to_lose();
    flip(&slot, 30);
    let broker = place.launch.start();
    assert_only_this_is_refused(&broker, &acked, partition);
}

#[test]
fn a_damaged_snapshot_of_producers_refuses_one_partition_until_it_is_given_up() {
    let place = Place::local();
    let (mut broker, acked) = filled(&place);
    broker.kill();
    let of_partition_2 = |path: &&std::path::PathBuf| path.to_string_lossy().contains("/2/");
    let snapshots = place.files("/_producers/", ".snap");
    snapshots.iter().filter(of_partition_2).for_each(|path| flip(path, 1));
    let mut broker = place.launch.start();
    assert_only_this_is_refused(&broker, &acked, 2);
    broker.kill();
    let said = place.run(&format!("accept-loss producers {TOPIC} 2 --execute"));
    assert_eq!(said.status, 0, "{}", said.errors);
    let broker = place.launch.start();
    let mut client = broker.connect();
    assert_eq!(settled_end(&mut client, 2), Ok(acked[&2].len() as i64));
    assert_all_there(&mut client, &acked);
}

#[test]
fn a_first_segment_that_is_missing_is_an_error_and_not_an_empty_answer() {
    let place = Place::local();
    let (mut broker, acked) = filled(&place);
    broker.kill();
    let first = place.files("/orders/1/", ".kfs").remove(0);
    std::fs::remove_file(&first).unwrap();
    let damaged = place.files("/orders/3/", ".kfs").remove(0);
    flip(&damaged, 16 + 10);
    let broker = place.launch.start();
    let mut client = broker.connect();
    assert_eq!(settled_end(&mut client, 1), Ok(acked[&1].len() as i64));
    assert_eq!(settled_end(&mut client, 3), Ok(acked[&3].len() as i64));
    assert_eq!(
        client.fetch(TOPIC, 1, 0, 0).unwrap().error_code,
        ErrorCode::KAFKA_STORAGE_ERROR
    );
    // The last batch of the segment is the damaged one.
    let next = place.files("/orders/3/", ".kfs").remove(1);
    let next: i64 = name(&next)["segment-".len()..]
        .trim_end_matches(".kfs")
        .parse()
        .unwrap();
    assert_eq!(
        client.fetch(TOPIC, 3, next - 1, 0).unwrap().error_code,
        ErrorCode::KAFKA_STORAGE_ERROR
    );
    assert_eq!(client.fetch(TOPIC, 3, next, 0).unwrap().error_code, ErrorCode::NONE);
    assert!(broker.log().contains("reading it again"), "{}", broker.log());
}

#[test]
fn a_damaged_index_costs_time_and_no_record() {
    let place = Place::local();
    let (mut broker, acked) = filled(&place);
    broker.kill();
    for index in place.files("/orders/0/", ".index") {
        // Its first byte: it is no index any more.
        flip(&index, std::fs::metadata(&index).unwrap().len() as usize);
    }
    for index in place.files("/orders/1/", ".index") {
        // The position of its last batch.
        flip(&index, 1);
    }
    let broker = place.launch.start();
    let mut client = broker.connect();
    assert_all_there(&mut client, &acked);
    assert!(broker.log().contains("from its first batch on"), "{}", broker.log());
}
