//! The leader is killed under transactions: what was counted is counted once.

use crate::support::{connect, directly, eventually, PATIENCE};
use futures::executor::block_on;
use kafscale_codec::types::TopicId;
use kafscale_metastore::etcd::EtcdMetastore;
use kafscale_metastore::keys::{partition_key, PartitionRecord};
use kafscale_metastore::partitions::{claim_partitions, load_partition, update_partition, Claim, PartitionWrite};
use kafscale_metastore::streams::open_stream;
use kafscale_metastore::{Metastore, MetastoreError, OperationError, Versioned};
use kafscale_test_etcd::Cluster;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::Arc;
use std::time::{Duration, Instant};

const WRITERS: i32 = 4;
const KILLS: usize = 3;
const TOPIC: TopicId = TopicId([9; 16]);

fn record() -> PartitionRecord {
    PartitionRecord {
        leader: 1,
        leader_incarnation: 1,
        shard: 0,
        leader_epoch: 0,
        stream: 1,
        log_start_offset: 0,
        rolled_offset: 0,
        tail_streams: Vec::new(),
        epoch_starts: Vec::new(),
    }
}

/// What became of a writer's work.
#[derive(Debug, Default)]
struct Tally {
    counted: i64,
    in_doubt: usize,
}

/// Counts up in a partition that nobody else writes, until told to stop.
fn count_up(store: &EtcdMetastore, partition: i32, stop: &AtomicBool) -> Tally {
    let mut tally = Tally::default();
    let mut known = load(store, partition);
    // Whether an attempt at the current step is in doubt.
    let mut doubt = false;
    while !stop.load(Ordering::Relaxed) {
        let mut next = known.value.clone();
        next.rolled_offset += 1;
        match block_on(update_partition(store, TOPIC, partition, known.mod_revision, &next)) {
            Ok(mod_revision) => {
                tally.counted += 1;
                doubt = false;
                known = Versioned {
                    value: next,
                    mod_revision,
                };
            }
            Err(OperationError::Metastore(MetastoreError::Unavailable(_))) => {}
            Err(error @ (OperationError::Metastore(MetastoreError::OutcomeUnknown(_)) | OperationError::Conflict)) => {
                // It has landed, may yet land, or never will; the compare lets one attempt at most through.
                assert!(
                    doubt || error != OperationError::Conflict,
                    "an attempt that surely did nothing has landed"
                );
                doubt = true;
                tally.in_doubt += 1;
                let now = load(store, partition);
                if now.mod_revision != known.mod_revision {
                    assert_eq!(now.value, next, "only this writer writes here, one step at a time");
                    tally.counted += 1;
                    doubt = false;
                    known = now;
                }
            }
            Err(other) => panic!("{other}"),
        }
    }
    tally
}

fn load(store: &EtcdMetastore, partition: i32) -> Versioned<PartitionRecord> {
    eventually(|| block_on(load_partition(store, TOPIC, partition)).ok()).expect("claimed before")
}

#[test]
fn kills_of_the_leader_lose_no_count_and_repeat_none() {
    let mut cluster = Cluster::start(3);
    let store = connect(&cluster);
    let claims: Vec<_> = (0..WRITERS)
        .map(|partition| PartitionWrite {
            topic_id: TOPIC,
            partition,
            expected: None,
            record: record(),
        })
        .collect();
    let (stream, opened) = block_on(open_stream(&store, 1, 1, 0)).unwrap();
    let claim = Claim {
        brokers: &[(1, None)],
        stream: (stream, opened.mod_revision),
        writes: &claims,
    };
    block_on(claim_partitions(&store, &claim)).unwrap();
    let lease = block_on(store.lease_grant(15_000)).unwrap();
    let stop = Arc::new(AtomicBool::new(false));
    let writers: Vec<_> = (0..WRITERS)
        .map(|partition| {
            let (store, stop) = (store.clone(), stop.clone());
            std::thread::spawn(move || count_up(&store, partition, &stop))
        })
        .collect();
    for _ in 0..KILLS {
        let leader = cluster.await_leader();
        std::thread::sleep(Duration::from_millis(500));
        cluster.kill(leader);
        std::thread::sleep(Duration::from_secs(2));
        cluster.restart(leader);
        eventually(|| block_on(store.lease_keep_alive(lease)).ok());
    }
    std::thread::sleep(Duration::from_millis(500));
    stop.store(true, Ordering::Relaxed);
    let tallies: Vec<_> = writers.into_iter().map(|writer| writer.join().unwrap()).collect();
    println!("{tallies:?}");
    assert!(tallies.iter().all(|tally| tally.counted > 50), "{tallies:?}");
    for (partition, tally) in (0..WRITERS).zip(&tallies) {
        assert_eq!(load(&store, partition).value.rolled_offset, tally.counted);
        // etcd's own count of the writes: the claim, and each step once.
        let key = partition_key(TOPIC, partition).to_vec();
        let found = directly(&cluster, async |client| client.get(key, None).await);
        assert_eq!(found.kvs()[0].version(), tally.counted + 1);
    }
}

#[test]
fn a_lease_outlives_the_leader() {
    let mut cluster = Cluster::start(3);
    let store = connect(&cluster);
    let lease = block_on(store.lease_grant(6_000)).unwrap();
    let leader = cluster.await_leader();
    cluster.kill(leader);
    let start = Instant::now();
    while start.elapsed() < Duration::from_secs(10) {
        // As brokers do: a renewal that fails is tried again.
        if let Err(error) = block_on(store.lease_keep_alive(lease)) {
            assert!(matches!(error, MetastoreError::Unavailable(_)), "{error}");
        }
        std::thread::sleep(Duration::from_millis(500));
    }
    block_on(store.lease_keep_alive(lease)).unwrap();
    assert!(start.elapsed() < PATIENCE);
}
