//! One bad batch of a write-ahead object whose footer is sound: its offsets are refused until it is given up.

use crate::client::batch_of;
use crate::damage::{settled_end, slot_of, with_a_slot_to_lose};
use crate::setup::{assert_all_there, fill, flip, Acked, Said, TOPIC};
use crate::support::{Broker, PATIENCE, PAUSE};
use kafscale_codec::error_code::ErrorCode;
use std::path::Path;
use std::time::Instant;

/// Bytes of an object before its batches, and some into the first batch: what is changed is a record.
const INTO_A_RECORD: usize = 64 + 61 + 20;

/// Turns a bit of the object's first batch.
fn damage_a_batch(slot: &Path) {
    let length = std::fs::metadata(slot).unwrap().len() as usize;
    flip(slot, length - INTO_A_RECORD);
}

fn fetch_error(broker: &Broker, partition: i32, offset: i64) -> ErrorCode {
    broker.connect().fetch(TOPIC, partition, offset, 0).unwrap().error_code
}

pub fn assert_loses(said: &Said, partition: i32, offset: i64) {
    assert_eq!(said.status, 0, "{}", said.errors);
    let lost: Vec<_> = said.lines.iter().filter(|line| line.get("lose").is_some()).collect();
    assert_eq!(lost.len(), 1, "{:#?}", said.lines);
    assert_eq!(
        (
            &lost[0]["topic"],
            &lost[0]["partition"],
            &lost[0]["from"],
            &lost[0]["to"]
        ),
        (&TOPIC.into(), &partition.into(), &offset.into(), &offset.into())
    );
}

#[test]
fn a_bad_batch_is_refused_until_its_loss_is_accepted_and_then_its_partition_is_rolled_again() {
    let (place, mut acked, slot, partition, offset) = with_a_slot_to_lose();
    damage_a_batch(&slot);
    let mut broker = place.launch.start();
    let end = acked[&partition].len() as i64;
    assert_eq!(
        settled_end(&mut broker.connect(), partition),
        Ok(end),
        "only fetches are refused"
    );
    assert_eq!(fetch_error(&broker, partition, offset), ErrorCode::KAFKA_STORAGE_ERROR);
    assert_eq!(fetch_error(&broker, partition, offset + 1), ErrorCode::NONE);
    broker.kill();
    let (stream, number) = slot_of(&slot);
    let command = format!("accept-loss {stream} {number}");
    let before = std::fs::read(&slot).unwrap();
    assert_loses(&place.run(&command), partition, offset);
    assert_eq!(std::fs::read(&slot).unwrap(), before, "it only says so");
    assert_loses(&place.run(&format!("{command} --execute")), partition, offset);
    let again = place.run(&command);
    assert!(
        again.status == 2 && again.errors.contains("no loss to accept"),
        "{}",
        again.errors
    );
    assert!(place.files("/_repair/", "").is_empty());

    let broker = place.launch.start();
    let mut client = broker.connect();
    let of_partition = acked.remove(&partition).unwrap();
    assert_all_there(&mut client, &acked);
    let read: Vec<i64> = client
        .read_from(TOPIC, partition, 0)
        .iter()
        .map(|record| record.offset)
        .collect();
    let expected: Vec<i64> = (0..end).filter(|at| *at != offset).collect();
    assert_eq!(read, expected);
    // Enough that the partition has to be rolled past the gap.
    let segments = place.files(&format!("/{TOPIC}/{partition}/"), ".kfs").len();
    let mut more = Acked::from([(partition, of_partition)]);
    for _ in 0..60 {
        let answer = client.produce(TOPIC, partition, batch_of(&["y".repeat(3000).as_bytes()]));
        assert_eq!(answer.error_code, ErrorCode::NONE);
        more.get_mut(&partition).unwrap().push("y".repeat(3000).into_bytes());
    }
    let until = Instant::now() + PATIENCE;
    while place.files(&format!("/{TOPIC}/{partition}/"), ".kfs").len() <= segments {
        assert!(Instant::now() < until, "it is not rolled: {}", broker.log());
        std::thread::sleep(PAUSE);
    }
    drop(broker);
    place.run("verify").assert_sound();
}

#[test]
fn a_repair_that_was_interrupted_goes_on() {
    let (place, acked, slot, partition, offset) = with_a_slot_to_lose();
    damage_a_batch(&slot);
    // A start ends the stream of the broker that was killed.
    let mut broker = place.launch.start();
    fill(&mut broker.connect(), &mut Acked::clone(&acked), 1);
    broker.kill();
    let (stream, number) = slot_of(&slot);
    let command = format!("accept-loss {stream} {number}");
    assert_loses(&place.run(&format!("{command} --execute")), partition, offset);
    // As if the process had ended between the deletion and the new object.
    let name = slot.file_name().unwrap();
    let aside = place.objects.join("default/_repair/_wal").join(&stream);
    std::fs::create_dir_all(&aside).unwrap();
    // The new object lies in a pack; now it is a file again.
    assert!(place.slots().contains(&slot));
    std::fs::rename(&slot, aside.join(name)).unwrap();
    for (command, is_there) in [(command.clone(), false), (format!("{command} --execute"), true)] {
        let said = place.run(&command);
        assert_eq!(said.status, 0, "{}", said.errors);
        assert!(
            said.lines.iter().all(|line| line.get("lose").is_none()),
            "{:#?}",
            said.lines
        );
        assert_eq!(place.slots().contains(&slot), is_there, "{command}");
    }
}
