//! The bucket or etcd is gone for a while, under load: what still works, what says so, and how it goes on afterwards.

use crate::client::{batch_of, now_ms};
use crate::cluster::{Cluster, LEASE_TTL_MS};
use crate::ledger::get;
use crate::routing::Router;
use crate::support::PATIENCE;
use crate::workload::{produce, read_all, Shared, IDEMPOTENT};
use crate::{check, create_topic, number, FLAGS};
use kafscale_codec::error_code::ErrorCode;
use kafscale_codec::messages::*;
use kafscale_test_s3::{Faults, Gone};
use std::io;
use std::sync::atomic::Ordering;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// By how much a broker may grow while the bucket is gone: what two shards accept before they refuse, and some.
const GROWTH_MAX: u64 = 400 << 20;

fn outage() -> Duration {
    // Longer than a lease, so that something would lapse if it rested on one.
    Duration::from_secs(number("OUTAGE_SECONDS").unwrap_or(2 * LEASE_TTL_MS / 1000 + 2))
}

struct Load {
    shared: Arc<Shared>,
    producers: Vec<std::thread::JoinHandle<u64>>,
}

impl Load {
    fn start(cluster: &Cluster, router: &mut Router) -> Load {
        create_topic(router, IDEMPOTENT);
        let shared = Arc::new(Shared::new(cluster.addresses(), now_ms() as u64));
        let producers = (0..crate::PARTITIONS)
            .map(|partition| {
                let shared = shared.clone();
                std::thread::spawn(move || produce(&shared, partition as u32, (IDEMPOTENT, partition), true))
            })
            .collect();
        let load = Load { shared, producers };
        load.goes_on("at the start");
        load
    }

    fn acknowledged(&self) -> u64 {
        get(&self.shared.ledger.counts.records_acked)
    }

    /// Waits until some hundred more records are acknowledged.
    fn goes_on(&self, when: &str) {
        let (until, enough) = (Instant::now() + PATIENCE, self.acknowledged() + 500);
        while self.acknowledged() < enough {
            assert!(Instant::now() < until, "no producer gets on {when}");
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// Everything that was sent is there, once and in order.
    fn end(self) {
        self.shared.producers_stop.store(true, Ordering::Relaxed);
        for (partition, producer) in self.producers.into_iter().enumerate() {
            let sent = producer.join().unwrap();
            let found = read_all(&self.shared, (IDEMPOTENT, partition as i32), PATIENCE);
            let expected: Vec<u64> = (0..sent).collect();
            assert!(
                found[&(partition as u32)] == expected,
                "partition {partition}: not all, or not in order"
            );
        }
        check(&self.shared);
    }
}

/// Tries until it works.
fn patiently<T>(what: &str, mut attempt: impl FnMut() -> io::Result<T>) -> T {
    let until = Instant::now() + PATIENCE;
    loop {
        match attempt() {
            Ok(done) => return done,
            Err(error) => assert!(Instant::now() < until, "{what}: {error}"),
        }
        std::thread::sleep(Duration::from_millis(50));
    }
}

#[test]
fn a_bucket_that_is_gone_loses_nothing_and_what_is_in_memory_is_served() {
    let directory = tempfile::tempdir().unwrap();
    let cluster = Cluster::start(directory.path(), 1, 2, FLAGS);
    let mut router = Router::new(cluster.addresses(), 1);
    let load = Load::start(&cluster, &mut router);
    create_topic(&mut router, "recent");
    let place = ("recent", 0);
    let offset = patiently("produce", || {
        let answer = router
            .leader(place.0, place.1)?
            .produce(place.0, place.1, batch_of(&[b"kept in memory"]));
        match answer.error_code {
            ErrorCode::NONE => Ok(answer.base_offset),
            error => Err(io::Error::other(format!("{error:?}"))),
        }
    });
    let resident = |at: usize| cluster.machines[at].resident_bytes();
    let before = [resident(0), resident(1)];
    cluster.bucket.set_faults(Faults {
        gone: Some(Gone::Hang),
        ..Faults::default()
    });
    let until = Instant::now() + outage();
    std::thread::sleep(Duration::from_secs(1));
    let stuck_at = load.acknowledged();
    let mut served = 0;
    while Instant::now() < until {
        // Large producers, too, whose records nobody can put anywhere.
        let large = vec![7u8; 900_000];
        if let Ok(mut client) = router.leader(place.0, place.1) {
            let request = crate::client::produce_request(place.0, place.1, batch_of(&[&large]));
            let _ = client.send(crate::client::PRODUCE, &request);
        }
        let mut client = patiently("find the leader", || router.leader(place.0, place.1));
        let data = client.fetch(place.0, place.1, offset, 0).unwrap();
        assert_eq!(data.error_code, ErrorCode::NONE);
        assert_eq!(
            crate::client::records_of(&data)[0].value.as_deref(),
            Some(&b"kept in memory"[..])
        );
        served += 1;
    }
    let acknowledged = load.acknowledged() - stuck_at;
    assert_eq!(acknowledged, 0, "records were acknowledged that are nowhere");
    for (at, before) in before.into_iter().enumerate() {
        let now = resident(at);
        assert!(
            now < before + GROWTH_MAX,
            "broker {} grew from {before} to {now} bytes",
            at + 1
        );
    }
    cluster.bucket.set_faults(Faults::default());
    let back = Instant::now();
    load.goes_on("after the bucket came back");
    println!(
        "bucket gone for {:?}: {served} fetches served from memory, producers went on {:?} after it was back",
        outage(),
        back.elapsed()
    );
    load.end();
}

#[test]
fn an_etcd_that_is_gone_stops_neither_producers_nor_consumers() {
    let directory = tempfile::tempdir().unwrap();
    let cluster = Cluster::start(directory.path(), 1, 2, FLAGS);
    let mut router = Router::new(cluster.addresses(), 2);
    let load = Load::start(&cluster, &mut router);
    cluster.etcd.lock().unwrap().kill(0);
    let until = Instant::now() + outage();
    let (before, mut fetched) = (load.acknowledged(), 0);
    let mut told = std::collections::BTreeSet::new();
    while Instant::now() < until {
        for partition in 0..crate::PARTITIONS {
            let mut client = patiently("find the leader", || router.leader(IDEMPOTENT, partition));
            let data = patiently("fetch", || client.fetch(IDEMPOTENT, partition, 0, 0));
            assert_eq!(data.error_code, ErrorCode::NONE, "a fetch from partition {partition}");
            fetched += 1;
        }
        let mut client = router.anyone().unwrap();
        let error = client.ask_for_topic("meanwhile", 1, &[]);
        assert!(
            error.is_retriable(),
            "a topic cannot be created, and the answer is {error:?}"
        );
        told.insert(format!("{error:?}"));
        std::thread::sleep(Duration::from_millis(200));
    }
    let produced = load.acknowledged() - before;
    assert!(produced > 0, "producers stood still");
    cluster.etcd.lock().unwrap().restart(0);
    create_topic(&mut router, "afterwards");
    patiently("commit", || {
        let request = OffsetCommitRequest {
            group_id: "afterwards".to_string(),
            generation_id_or_member_epoch: -1,
            topics: vec![OffsetCommitRequestTopic {
                name: IDEMPOTENT.to_string(),
                partitions: vec![OffsetCommitRequestPartition {
                    partition_index: 0,
                    committed_offset: 1,
                    ..OffsetCommitRequestPartition::default()
                }],
            }],
            ..OffsetCommitRequest::default()
        };
        let answer = router.coordinator("afterwards")?.ask(8, &request)?;
        match answer.topics[0].partitions[0].error_code {
            ErrorCode::NONE => Ok(()),
            error => Err(io::Error::other(format!("{error:?}"))),
        }
    });
    println!(
        "etcd gone for {:?}: {produced} records acknowledged and {fetched} fetches answered meanwhile; a new topic: {told:?}",
        outage()
    );
    load.end();
}
