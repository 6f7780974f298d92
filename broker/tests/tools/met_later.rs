//! Damage that a broker meets only while it works, or in the record of a stream.

use crate::bad_batches::assert_loses;
use crate::client::{batch_of, Client};
use crate::damage::settled_end;
use crate::rebuild::filled_and_killed;
use crate::setup::{assert_all_there, Place, TOPIC};
use crate::support::{Launch, PATIENCE, PAUSE};
use kafscale_codec::error_code::ErrorCode;
use kafscale_metastore::embedded::EmbeddedMetastore;
use kafscale_metastore::keys::stream_key;
use kafscale_metastore::{Metastore, Op, Txn};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::Instant;

/// Slots at which a shard merges them.
const SLOTS: i64 = 1_000;

/// The record that is damaged.
const DAMAGED: i64 = 5;

fn value(number: i64) -> Vec<u8> {
    format!("record-{number:06}-{}", "z".repeat(4_000)).into_bytes()
}

fn produce_until(client: &mut Client, end: i64) {
    let from = client.end_offset(TOPIC, 0).unwrap().unwrap();
    for number in from..end {
        let answer = client.produce(TOPIC, 0, batch_of(&[&value(number)]));
        assert_eq!((answer.error_code, answer.base_offset), (ErrorCode::NONE, number));
    }
}

/// Changes a byte of the pack that holds this value, under the running broker.
fn damage_in_its_pack(objects: &Path, wanted: &[u8]) {
    let mut directories = vec![objects.to_owned()];
    while let Some(directory) = directories.pop() {
        for entry in std::fs::read_dir(directory).unwrap().flatten() {
            if entry.file_type().unwrap().is_dir() {
                directories.push(entry.path());
                continue;
            }
            let bytes = std::fs::read(entry.path()).unwrap();
            let found = bytes.windows(wanted.len()).position(|bytes| bytes == wanted);
            if let Some(at) = found {
                let file = std::fs::File::options().write(true).open(entry.path()).unwrap();
                file.write_all_at(b"R", at as u64).unwrap();
                file.sync_all().unwrap();
                return;
            }
        }
    }
    panic!("no file holds the record");
}

#[test]
fn a_bad_batch_that_a_merge_meets_costs_its_stream_and_its_loss_can_be_accepted() {
    let mut place = Place::local();
    place.launch = Launch::new(place.directory.path())
        .flags("--shards 1 --tail-memory-bytes 1048576 --cache-bytes 0 --flush-interval-ms 0");
    let mut broker = place.launch.start();
    let mut client = broker.connect();
    client.create_topic(TOPIC, 1);
    produce_until(&mut client, SLOTS / 2);
    damage_in_its_pack(&place.objects, b"record-000005-");
    produce_until(&mut client, SLOTS + 10);
    let until = Instant::now() + PATIENCE;
    while !broker.log().contains("cannot be merged") {
        assert!(Instant::now() < until, "no merge meets it: {}", broker.log());
        std::thread::sleep(PAUSE);
    }
    let end = SLOTS + 10;
    assert_eq!(settled_end(&mut client, 0), Ok(end), "{}", broker.log());
    let fetched = client.fetch(TOPIC, 0, DAMAGED, 0).unwrap();
    assert_eq!(fetched.error_code, ErrorCode::KAFKA_STORAGE_ERROR);
    produce_until(&mut client, end + 5);
    broker.kill();

    let shown = place.run("inspect wal");
    let holds = |run: &serde_json::Value| {
        run["base_offset"].as_i64() <= Some(DAMAGED) && run["next_offset"].as_i64() > Some(DAMAGED)
    };
    let of_record = |line: &&serde_json::Value| line["runs"].as_array().is_some_and(|runs| runs.iter().any(holds));
    let key = shown.lines.iter().find(of_record).unwrap()["key"].as_str().unwrap();
    let mut parts = key.rsplit('/');
    let slot: u64 = parts.next().unwrap().trim_end_matches(".wal").parse().unwrap();
    let stream = parts.next().unwrap();
    assert_loses(
        &place.run(&format!("accept-loss {stream} {slot} --execute")),
        0,
        DAMAGED,
    );
    let broker = place.launch.start();
    let mut client = broker.connect();
    assert_eq!(settled_end(&mut client, 0), Ok(end + 5));
    let mut expected = (0..end + 5).filter(|at| *at != DAMAGED);
    let mut at = 0;
    while at < end + 5 {
        for record in client.read_from(TOPIC, 0, at) {
            assert_eq!(Some(record.offset), expected.next());
            assert_eq!(record.value, Some(value(record.offset).into()));
            at = record.offset + 1;
        }
    }
}

#[test]
fn a_stream_whose_record_is_damaged_refuses_what_needs_it_and_is_rebuilt() {
    let place = Place::local();
    let acked = filled_and_killed(&place);
    let metastore = place.launch.data_dir.join("metastore");
    let shown = place.run("inspect metastore streams/");
    assert!(shown.lines.len() >= 2, "{:#?}", shown.lines);
    let opened = EmbeddedMetastore::open(&metastore, |why| panic!("{why}")).unwrap();
    let put = Op::Put {
        key: stream_key(1),
        value: bytes::Bytes::from_static(b"\xffno record"),
        lease: None,
    };
    let txn = Txn {
        compares: Vec::new(),
        ops: vec![put],
    };
    futures::executor::block_on(opened.txn(txn)).unwrap();
    drop(opened);
    let mut broker = place.launch.start();
    let mut client = broker.connect();
    let ends: Vec<_> = acked
        .keys()
        .map(|partition| settled_end(&mut client, *partition))
        .collect();
    let refused = ends
        .iter()
        .filter(|end| **end == Err(ErrorCode::KAFKA_STORAGE_ERROR))
        .count();
    assert!((1..acked.len()).contains(&refused), "{ends:?}: {}", broker.log());
    assert!(broker.log().contains("is quarantined"), "{}", broker.log());
    broker.kill();
    let said = place.run("accept-loss 0000000000000001 3");
    assert_eq!(said.status, 2, "{}", said.errors);
    assert!(said.errors.contains("streams/"), "it names the record: {}", said.errors);
    std::fs::rename(&metastore, place.directory.path().join("away")).unwrap();
    let said = place.run("rebuild");
    assert_eq!(said.status, 0, "{} {:#?}", said.errors, said.lines);
    let broker = place.launch.start();
    assert_all_there(&mut broker.connect(), &acked);
}
