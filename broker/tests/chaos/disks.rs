//! A broker that keeps everything on its own disk, which fills up and fails under load while the process is killed.
//!
//! The disk is a FUSE file system that fails on command. What must hold is what holds in the cluster, and besides: a process
//! ends by itself only if its metastore could not commit or a start met a failing disk, and the log names what the disk did.

use crate::client::now_ms;
use crate::ledger::get;
use crate::routing::Router;
use crate::support::{Broker, Launch, Random};
use crate::workload::{commit, consume, produce, Shared, IDEMPOTENT, PLAIN};
use crate::{check, create_topic, number, read_everything, verify, FLAGS, PARTITIONS, PATIENCE};
use kafscale_test_fuse::{FailingDisk, Faults};
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// The status of a broker whose metastore could not commit.
const METASTORE_FAILED: i32 = 74;

/// The status of a broker that could not start.
const FAILED: i32 = 1;

/// Pause between two looks whether the process runs.
const LOOK_PAUSE: Duration = Duration::from_millis(100);

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Fault {
    /// Every write that needs room fails with ENOSPC.
    Full,
    FailingWrites,
    FailingSyncs,
    FailingReads,
    /// SIGKILL while the disk fails, and new starts on it.
    KillWhileFailing,
    /// SIGKILL on a sound disk.
    Kill,
}

const FAULTS: [Fault; 6] = [
    Fault::Full,
    Fault::FailingWrites,
    Fault::FailingSyncs,
    Fault::FailingReads,
    Fault::KillWhileFailing,
    Fault::Kill,
];

/// The broker, started again whenever it has ended.
struct Place {
    launch: Launch,
    broker: Mutex<Option<Broker>>,
    /// How often each status came.
    ends: Mutex<BTreeMap<i32, u64>>,
    stop: AtomicBool,
}

impl Place {
    /// Looks whether the process runs, and starts it if it does not. A status that nothing explains is a fault.
    fn keep_running(&self, shared: &Shared) {
        while !self.stop.load(Ordering::Relaxed) {
            {
                let mut broker = self.broker.lock().unwrap();
                let has_ended = broker.as_mut().is_some_and(|broker| !broker.is_alive());
                if let Some(ended) = broker.as_mut().filter(|_| has_ended) {
                    let status = ended.wait_for_end();
                    match status.code() {
                        Some(code @ (METASTORE_FAILED | FAILED)) => {
                            *self.ends.lock().unwrap().entry(code).or_default() += 1;
                        }
                        _ => shared
                            .ledger
                            .fault(format!("the broker ended with {status}: {}", ended.log())),
                    }
                    *broker = None;
                }
                if broker.is_none() {
                    *broker = Some(self.launch.spawn());
                }
            }
            std::thread::sleep(LOOK_PAUSE);
        }
    }

    fn kill(&self) {
        if let Some(mut broker) = self.broker.lock().unwrap().take() {
            broker.kill();
        }
    }

    fn log(&self) -> String {
        std::fs::read_to_string(&self.launch.log).unwrap_or_default()
    }
}

fn strike(disk: &FailingDisk, place: &Place, fault: Fault, length: Duration, shade: u64) {
    let (reads, writes, syncs) = match fault {
        Fault::FailingReads => (true, false, false),
        Fault::FailingWrites => (false, true, false),
        Fault::FailingSyncs => (false, false, true),
        Fault::KillWhileFailing => (shade & 1 != 0, shade & 2 != 0, shade & 4 != 0),
        Fault::Full | Fault::Kill => (false, false, false),
    };
    disk.set(Faults { reads, writes, syncs });
    match fault {
        // A little is left, so that it fills up in the middle of something.
        Fault::Full => disk.fill(shade % (1 << 20)),
        Fault::Kill => place.kill(),
        Fault::KillWhileFailing => {
            std::thread::sleep(length / 3);
            place.kill();
        }
        Fault::FailingReads | Fault::FailingWrites | Fault::FailingSyncs => {}
    }
    std::thread::sleep(length);
    disk.mend();
}

#[test]
fn nothing_acknowledged_is_lost_when_the_disk_fails() {
    let seconds = number("CHAOS_SECONDS").unwrap_or(60) / 3;
    let seed = number("CHAOS_SEED").unwrap_or_else(|| now_ms() as u64);
    let directory = tempfile::tempdir().unwrap();
    let disk = match FailingDisk::mount(directory.path()) {
        Ok(disk) => disk,
        Err(error) => {
            println!("disks: LEFT OUT, no FUSE file system can be mounted here: {error}");
            return;
        }
    };
    let launch = Launch {
        data_dir: disk.path().join("data"),
        ..Launch::new(directory.path()).flags(FLAGS)
    };
    let shared = Arc::new(Shared::new(vec![([127, 0, 0, 1], launch.port).into()], seed));
    let place = Arc::new(Place {
        broker: Mutex::new(Some(launch.start())),
        launch,
        ends: Mutex::default(),
        stop: AtomicBool::new(false),
    });
    let keeper = {
        let (place, shared) = (place.clone(), shared.clone());
        std::thread::spawn(move || place.keep_running(&shared))
    };
    let mut router = Router::new(shared.addresses.clone(), seed);
    for topic in [IDEMPOTENT, PLAIN] {
        create_topic(&mut router, topic);
    }
    let (mut producers, mut others) = (Vec::new(), Vec::new());
    for (topic, idempotent) in [(IDEMPOTENT, true), (PLAIN, false)] {
        for partition in 0..PARTITIONS {
            let producer = producers.len() as u32;
            let of = (topic, partition);
            let (writing, reading) = (shared.clone(), shared.clone());
            producers.push(std::thread::spawn(move || {
                let sent = produce(&writing, producer, of, idempotent);
                idempotent.then_some((producer, sent))
            }));
            others.push(std::thread::spawn(move || {
                consume(&reading, 1_000 + u64::from(producer), of)
            }));
        }
    }
    {
        let shared = shared.clone();
        others.push(std::thread::spawn(move || commit(&shared, "a")));
    }

    let mut random = Random::new(seed);
    let until = Instant::now() + Duration::from_secs(seconds);
    let mut struck: BTreeMap<Fault, u64> = BTreeMap::new();
    while Instant::now() < until {
        std::thread::sleep(Duration::from_millis(300 + random.below(2_500)));
        let fault = FAULTS[random.below(FAULTS.len() as u64) as usize];
        let length = Duration::from_millis(100 + random.below(2_500));
        println!("  {fault:?} of the disk for {} ms", length.as_millis());
        *struck.entry(fault).or_default() += 1;
        strike(&disk, &place, fault, length, random.next());
    }
    shared.producers_stop.store(true, Ordering::Relaxed);
    let until = Instant::now() + PATIENCE;
    let mut sent = BTreeMap::new();
    for producer in producers {
        while !producer.is_finished() {
            assert!(
                Instant::now() < until,
                "a producer does not get done; the log ends with\n{}",
                crate::cluster::tail_of(&place.log())
            );
            std::thread::sleep(Duration::from_millis(20));
        }
        sent.extend(producer.join().unwrap());
    }
    shared.others_stop.store(true, Ordering::Relaxed);
    others.into_iter().for_each(|other| other.join().unwrap());
    read_everything(&shared, &sent);
    place.kill();
    read_everything(&shared, &sent);
    place.stop.store(true, Ordering::Relaxed);
    keeper.join().unwrap();
    place.kill();
    let (log, counts) = (place.log(), disk.counts());
    if counts.full > 0 {
        assert!(
            log.contains("No space left on device"),
            "the log does not say that the disk is full"
        );
    }
    if counts.writes + counts.syncs > 0 {
        assert!(
            log.contains("Input/output error"),
            "the log does not say that the disk fails"
        );
    }
    verify(&place.launch, &shared);
    let acked = get(&shared.ledger.counts.records_acked);
    println!(
        "disks: {seconds} s, struck {struck:?}, the disk failed {counts:?}, the process ended by itself {:?}, {acked} records \
         acknowledged, {} error answers; nothing lost, changed, moved, doubled or out of order",
        place.ends.lock().unwrap(),
        get(&shared.ledger.counts.error_answers),
    );
    check(&shared);
}
