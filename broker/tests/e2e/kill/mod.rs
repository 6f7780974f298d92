//! Brokers killed under load, again and again, on the same data: what was acknowledged is there, once, and unchanged.
//!
//! `make kill ROUNDS=200` gives it time; `KAFSCALE_KILL_SEED` repeats a run's random choices (not its timing).

mod consumer;
mod elsewhere;
mod ledger;
mod producer;

use crate::client::Client;
use crate::support::{Broker, Launch, Random};
use ledger::{get, Ledger};
use producer::Producer;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// Written by producers with idempotence: exactly once.
const IDEMPOTENT: &str = "idempotent";

/// Written by producers without: each record at most once, since these never send again.
const PLAIN: &str = "plain";

const PARTITIONS: i32 = 3;
const IDEMPOTENT_PRODUCERS: u32 = 3;
const PLAIN_PRODUCERS: u32 = 2;

/// Rounds on one data directory, before the next begins with other settings.
const CAMPAIGN_ROUNDS: u64 = 20;

/// Everything is read after so many rounds and at the end of a campaign; after the others what is new.
const READ_ALL_EVERY: u64 = 5;

/// Small segments and little memory so that rolling and reading back happen all the time; a slow flush so that much is
/// open when the kill comes; tiny flushes so that write-ahead objects are many and get merged; and what users have.
const SETTINGS: [(&str, u64); 4] = [
    (
        "--segment-bytes 16384 --segment-ms 1000 --segment-small-ms 3000 --tail-memory-bytes 1048576 --cache-bytes 0",
        800,
    ),
    ("--flush-bytes 4096 --flush-pipeline 16", 3000),
    ("--flush-interval-ms 20 --flush-pipeline 2 --segment-bytes 65536", 800),
    ("", 800),
];

/// What all threads of a campaign share.
pub struct Shared {
    pub address: SocketAddr,
    pub seed: u64,
    pub ledger: Ledger,
    producers_stop: AtomicBool,
    consumers_stop: AtomicBool,
    gave_up: AtomicBool,
    /// Everything is being read: what is written faster than that could be read for ever.
    reading: AtomicBool,
}

impl Shared {
    pub fn reading(&self) -> bool {
        self.reading.load(Ordering::Relaxed)
    }

    pub fn producers_stop(&self) -> bool {
        self.producers_stop.load(Ordering::Relaxed)
    }

    pub fn consumers_stop(&self) -> bool {
        self.consumers_stop.load(Ordering::Relaxed)
    }

    /// The campaign is over before its end: a thread must not wait for a broker that never comes back.
    pub fn gave_up(&self) -> bool {
        self.gave_up.load(Ordering::Relaxed)
    }
}

/// Ends the threads of a campaign that panics.
struct GiveUp(Arc<Shared>);

impl Drop for GiveUp {
    fn drop(&mut self) {
        self.0.gave_up.store(true, Ordering::Relaxed);
    }
}

#[derive(Debug, Default)]
struct Totals {
    kills: u64,
    kills_while_starting: u64,
    acked: u64,
    batches: u64,
    retried: u64,
    refused: u64,
    consumed: u64,
    errors: u64,
    segments: usize,
    merged: usize,
}

#[test]
fn what_was_acknowledged_survives_kills() {
    let (rounds, seed) = rounds_and_seed();
    let started = Instant::now();
    let mut totals = Totals::default();
    let mut left = rounds;
    for (settings, kill_after_ms) in SETTINGS.iter().cycle() {
        let in_this = left.min(CAMPAIGN_ROUNDS);
        if in_this == 0 {
            break;
        }
        let directory = tempfile::tempdir().unwrap();
        let launch = Launch::new(directory.path());
        let seed = seed.wrapping_add(left);
        campaign(&launch, seed, settings, *kill_after_ms, in_this, &mut totals);
        left -= in_this;
    }
    println!(
        "kill: {rounds} rounds in {:.0} s: {} kills ({} while starting), {} records acknowledged in {} batches, {} batches \
         sent again, {} of them refused as duplicates, {} error answers, {} records read and compared, {} segments, \
         {} merged objects; nothing lost, changed, moved, doubled or out of order",
        started.elapsed().as_secs_f64(),
        totals.kills,
        totals.kills_while_starting,
        totals.acked,
        totals.batches,
        totals.retried,
        totals.refused,
        totals.errors,
        totals.consumed,
        totals.segments,
        totals.merged,
    );
}

fn rounds_and_seed() -> (u64, u64) {
    let number = |name| std::env::var(name).ok().map(|text| text.parse::<u64>().unwrap());
    let rounds = number("KAFSCALE_KILL_ROUNDS").unwrap_or(5);
    let seed = number("KAFSCALE_KILL_SEED").unwrap_or_else(|| crate::client::now_ms() as u64);
    println!("kill: {rounds} rounds, seed {seed} (KAFSCALE_KILL_SEED={seed} repeats the choices)");
    (rounds, seed)
}

/// Some rounds on the same stores.
fn campaign(launch: &Launch, seed: u64, settings: &str, kill_after_ms: u64, rounds: u64, totals: &mut Totals) {
    let mut random = Random::new(seed);
    let mut broker = start(launch, settings, &mut random);
    let mut client = broker.connect();
    client.create_topic(IDEMPOTENT, PARTITIONS);
    client.create_topic(PLAIN, PARTITIONS);
    let shared = Arc::new(Shared {
        address: broker.address,
        seed,
        ledger: Ledger::default(),
        producers_stop: AtomicBool::new(false),
        consumers_stop: AtomicBool::new(false),
        gave_up: AtomicBool::new(false),
        reading: AtomicBool::new(false),
    });
    let _give_up = GiveUp(shared.clone());
    let producers = start_producers(&shared);
    let consumers = start_consumers(&shared);
    let mut read_ends = BTreeMap::new();
    for round in 0..rounds {
        let began = Instant::now();
        std::thread::sleep(Duration::from_millis(random.below(kill_after_ms)));
        broker.kill();
        totals.kills += 1;
        let mut early = Vec::new();
        while random.below(3) == 0 {
            // Again, while it starts or takes over what the last one left.
            let delay = random.below(150);
            let mut starting = shards(launch, settings, &mut random).spawn();
            std::thread::sleep(Duration::from_millis(delay));
            starting.kill();
            early.push(delay);
        }
        totals.kills += early.len() as u64;
        totals.kills_while_starting += early.len() as u64;
        let down = Instant::now();
        broker = start(launch, settings, &mut random);
        let started = down.elapsed();
        if round % READ_ALL_EVERY == READ_ALL_EVERY - 1 {
            read_ends.clear();
        }
        let read_began = Instant::now();
        shared.reading.store(true, Ordering::Relaxed);
        read_all(&shared, &mut broker.connect(), &mut read_ends);
        shared.reading.store(false, Ordering::Relaxed);
        let read = read_began.elapsed();
        check(&shared, round);
        println!(
            "round {round}: {:4} ms, early kills {early:?}, start {} ms, read {} ms, {} acknowledged so far",
            began.elapsed().as_millis(),
            started.as_millis(),
            read.as_millis(),
            get(&shared.ledger.counts.records_acked)
        );
    }
    shared.producers_stop.store(true, Ordering::Relaxed);
    let produced: Vec<BTreeMap<i32, u64>> = producers.into_iter().map(|producer| producer.join().unwrap()).collect();
    shared.consumers_stop.store(true, Ordering::Relaxed);
    consumers.into_iter().for_each(|consumer| consumer.join().unwrap());
    // Everything once more, from a broker that has to read all of it back.
    broker.kill();
    totals.kills += 1;
    let broker = start(launch, settings, &mut random);
    let found = read_all(&shared, &mut broker.connect(), &mut BTreeMap::new());
    exactly_once(&shared, &produced, &found);
    check(&shared, rounds);
    add_up(&shared.ledger, &launch.data_dir, totals);
}

/// The number of shards changes from start to start: whose partitions they are must not matter.
fn shards(launch: &Launch, settings: &str, random: &mut Random) -> Launch {
    let shards = format!("--shards {} {settings}", 1 + random.below(3));
    launch.clone().flags(&shards)
}

fn start(launch: &Launch, settings: &str, random: &mut Random) -> Broker {
    shards(launch, settings, random).start()
}

fn start_producers(shared: &Arc<Shared>) -> Vec<JoinHandle<BTreeMap<i32, u64>>> {
    (0..IDEMPOTENT_PRODUCERS + PLAIN_PRODUCERS)
        .map(|number| {
            let idempotent = number < IDEMPOTENT_PRODUCERS;
            let topic = if idempotent { IDEMPOTENT } else { PLAIN };
            let producer = Producer::new(shared, number, topic, PARTITIONS, idempotent);
            std::thread::spawn(move || producer.run())
        })
        .collect()
}

fn start_consumers(shared: &Arc<Shared>) -> Vec<JoinHandle<()>> {
    [IDEMPOTENT, PLAIN]
        .into_iter()
        .map(|topic| {
            let shared = shared.clone();
            std::thread::spawn(move || consumer::run(&shared, topic, PARTITIONS))
        })
        .collect()
}

/// By topic and partition, how many records of each producer there are.
type Found = BTreeMap<ledger::Place, std::collections::HashMap<u32, u64>>;

/// Reads every partition from where `ends` says, else from 0, and leaves there how far it came.
fn read_all(shared: &Shared, client: &mut Client, ends: &mut BTreeMap<ledger::Place, i64>) -> Found {
    let mut found = Found::new();
    for topic in [IDEMPOTENT, PLAIN] {
        for place in (0..PARTITIONS).map(|partition| (topic, partition)) {
            let from = ends.get(&place).copied().unwrap_or(0);
            let (end, counts) = consumer::read_to_end(&shared.ledger, client, place, from);
            ends.insert(place, end);
            found.insert(place, counts);
        }
    }
    found
}

/// Each record of an idempotent producer is there: it went on until all were acknowledged. They come in ascending
/// order and none twice, as was checked, so the count decides.
fn exactly_once(shared: &Shared, produced: &[BTreeMap<i32, u64>], found: &Found) {
    for (producer, sent) in (0..IDEMPOTENT_PRODUCERS).zip(produced) {
        for (partition, sent) in sent {
            let there = found[&(IDEMPOTENT, *partition)].get(&producer).copied().unwrap_or(0);
            if there != *sent {
                let fault =
                    format!("partition {partition}: producer {producer} sent {sent} records, {there} are there");
                shared.ledger.fault(fault);
            }
        }
    }
}

fn check(shared: &Shared, round: u64) {
    let faults = shared.ledger.faults();
    assert!(faults.is_empty(), "seed {}, round {round}: {faults:#?}", shared.seed);
}

fn add_up(ledger: &Ledger, data_dir: &Path, totals: &mut Totals) {
    let counts = &ledger.counts;
    totals.acked += get(&counts.records_acked);
    totals.batches += get(&counts.batches_acked);
    totals.retried += get(&counts.batches_retried);
    totals.refused += get(&counts.duplicates_refused);
    totals.consumed += get(&counts.records_consumed);
    totals.errors += get(&counts.error_answers);
    // Those in a bucket are not counted.
    let mut folders = Vec::from_iter(Some(data_dir.join("objects")).filter(|objects| objects.exists()));
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap().flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            totals.segments += usize::from(name.ends_with(".kfs"));
            totals.merged += usize::from(name.starts_with("merged-"));
            if entry.path().is_dir() {
                folders.push(entry.path());
            }
        }
    }
}
