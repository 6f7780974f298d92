//! What verify says of stores that are sound, and of stores that are not; what the others show and do.

use crate::setup::{filled, flip, Place, TOPIC};
use std::fs;
use std::path::Path;

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
