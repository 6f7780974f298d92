//! What the broker advises when its data directory, its metastore or its object store is not as it should be: each advice
//! is followed, and helps.

use crate::rebuild;
use crate::setup::{assert_all_there, Acked, Place};
use crate::support::{free_port, Broker, Launch};
use kafscale_metastore::embedded::EmbeddedMetastore;
use kafscale_metastore::keys::{ClusterRecord, INCARNATION_COUNTER};
use kafscale_metastore::{cluster, counters};
use std::path::PathBuf;

fn filled_and_killed() -> (Place, Acked) {
    let place = Place::local();
    let acked = rebuild::filled_and_killed(&place);
    (place, acked)
}

fn metastore(place: &Place) -> PathBuf {
    place.launch.data_dir.join("metastore")
}

/// Starts a broker that cannot serve, and gives back what it says.
fn refused(launch: &Launch) -> String {
    let mut broker = launch.spawn();
    let status = broker.wait_for_end();
    assert!(!status.success(), "it ended with {status}: {}", broker.log());
    broker.log()
}

fn assert_serves(broker: &Broker, acked: &Acked) {
    assert_all_there(&mut broker.connect(), acked);
}

#[test]
fn a_lost_metastore_is_rebuilt_as_the_start_that_failed_advises() {
    let (place, acked) = filled_and_killed();
    std::fs::remove_dir_all(metastore(&place)).unwrap();
    for _ in 0..2 {
        let said = refused(&place.launch);
        assert!(said.contains("kafscale-broker rebuild"), "{said}");
    }
    place.run("rebuild").assert_sound();
    place.run("verify").assert_sound();
    assert_serves(&place.launch.start(), &acked);
}

#[test]
fn what_older_versions_left_in_an_empty_metastore_is_in_no_rebuilds_way() {
    let (place, acked) = filled_and_killed();
    std::fs::remove_dir_all(metastore(&place)).unwrap();
    let left = EmbeddedMetastore::open(&metastore(&place), |why| panic!("{why}")).unwrap();
    futures::executor::block_on(async {
        counters::allocate(&left, INCARNATION_COUNTER, 1).await.unwrap();
        let cluster_id = "of nobody".to_string();
        cluster::load_or_create_cluster(&left, &ClusterRecord { cluster_id })
            .await
            .unwrap();
    });
    drop(left);
    let said = refused(&place.launch);
    assert!(said.contains("kafscale-broker rebuild"), "{said}");
    place.run("rebuild").assert_sound();
    assert_serves(&place.launch.start(), &acked);
}

#[test]
fn a_metastore_that_is_put_back_serves_again_and_so_does_another_namespace() {
    let (place, acked) = filled_and_killed();
    let elsewhere = place.directory.path().join("elsewhere");
    std::fs::rename(metastore(&place), &elsewhere).unwrap();
    let said = refused(&place.launch);
    assert!(
        said.contains("Put the metastore back, choose another namespace"),
        "{said}"
    );
    let mut other = place.launch.clone().flags("--namespace other").start();
    other.connect().create_topic("new", 1);
    other.kill();
    std::fs::remove_dir_all(metastore(&place)).unwrap();
    std::fs::rename(&elsewhere, metastore(&place)).unwrap();
    assert_serves(&place.launch.start(), &acked);
}

#[test]
fn a_damaged_metastore_is_put_back_or_rebuilt_as_the_broker_advises() {
    let (place, acked) = filled_and_killed();
    let file = metastore(&place).join("metastore.redb");
    let copy = std::fs::read(&file).unwrap();
    std::fs::write(&file, "no metastore at all, but long enough to be one".repeat(100)).unwrap();
    let said = refused(&place.launch);
    assert!(
        said.contains("Put a copy of it back, or move its directory away"),
        "{said}"
    );
    std::fs::write(&file, copy).unwrap();
    let mut broker = place.launch.start();
    assert_serves(&broker, &acked);
    broker.kill();
    std::fs::rename(metastore(&place), place.directory.path().join("away")).unwrap();
    place.run("rebuild").assert_sound();
    assert_serves(&place.launch.start(), &acked);
}

#[test]
fn a_rebuild_that_finds_the_metastore_full_says_what_to_move_away() {
    let (place, acked) = filled_and_killed();
    let said = place.run("rebuild");
    assert!(said.status == 2, "{}", said.errors);
    assert!(
        said.errors
            .contains("move the directory metastore in the data directory away"),
        "{}",
        said.errors
    );
    std::fs::rename(metastore(&place), place.directory.path().join("away")).unwrap();
    place.run("rebuild").assert_sound();
    assert_serves(&place.launch.start(), &acked);
}

#[test]
fn an_emptied_object_store_begins_anew_with_an_empty_metastore() {
    let (place, _) = filled_and_killed();
    std::fs::remove_dir_all(&place.objects).unwrap();
    let said = refused(&place.launch);
    assert!(said.contains("begin anew with an empty metastore"), "{said}");
    std::fs::remove_dir_all(metastore(&place)).unwrap();
    let broker = place.launch.start();
    broker.connect().create_topic("new", 1);
    broker.connect().produce_value("new", 0, b"value");
}

#[test]
fn a_data_directory_that_cannot_be_had_is_replaced_by_another() {
    let (place, _) = filled_and_killed();
    let first = place.launch.start();
    let log = place.directory.path().join("second-log");
    let second = Launch {
        log,
        port: free_port(),
        ..place.launch.clone()
    };
    let said = refused(&second);
    assert!(said.contains("choose another directory with --data-dir"), "{said}");
    let file = place.directory.path().join("file");
    std::fs::write(&file, "").unwrap();
    let no_directory = Launch {
        data_dir: file,
        ..second.clone()
    };
    let said = refused(&no_directory);
    assert!(said.contains("must be writable, --data-dir names another"), "{said}");
    let other = Launch {
        data_dir: place.directory.path().join("other"),
        ..second
    };
    other.start().connect().create_topic("new", 1);
    drop(first);
}
