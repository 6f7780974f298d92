//! A cluster of real processes (brokers, etcd, an S3 server) in which everything breaks, again and again, under load.
//!
//! `make chaos CHAOS_SECONDS=1800` gives it time. What must hold: every acknowledged record is there, once and unchanged, at its
//! offset and in its producer's order; nobody is told of an end that is smaller than one known before; commits are
//! neither lost nor taken back; once all is well, everything goes on; and `verify` finds nothing wrong. With `CHAOS_OLD_BROKER`
//! brokers go back to that binary and forward again, one by one. `CHAOS_DAMAGES` objects are removed, cut or changed.
#![allow(clippy::unwrap_used)] // Helpers of tests: a panic is how a test fails.
#![allow(dead_code)] // Some of what the tests of one broker need.

#[path = "../e2e/client.rs"]
mod client;
mod cluster;
mod damage;
mod disks;
#[path = "../e2e/kill/ledger.rs"]
mod ledger;
mod members;
mod nemesis;
mod outages;
mod proxy;
mod routing;
#[path = "../e2e/support.rs"]
mod support;
mod workload;

use cluster::Cluster;
use kafscale_codec::error_code::ErrorCode;
use ledger::get;
use members::{take_part, Group};
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::Arc;
use std::time::{Duration, Instant};
use support::Random;
use workload::{commit, consume, produce, read_all, Shared, IDEMPOTENT, PLAIN};

const PARTITIONS: i32 = 6;
const BROKERS: usize = 3;
/// Groups that have no members.
const GROUPS: [&str; 3] = ["a", "bb", "ccc"];
/// Of each group that has members.
const MEMBERS: u64 = 3;

/// Once all is well, everybody must get done within this.
const PATIENCE: Duration = Duration::from_secs(120);

/// What makes rare things common: small segments, small memory.
const FLAGS: &str =
    "--shards 2 --segment-bytes 65536 --segment-ms 3000 --segment-small-ms 20000 --tail-memory-bytes 1048576 \
                     --cache-bytes 1048576 --flush-interval-ms 5 --group-initial-rebalance-delay-ms 500 \
                     --group-consumer-session-timeout-ms 6000 --group-consumer-heartbeat-interval-ms 500";

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

#[test]
fn nothing_acknowledged_is_lost_whatever_breaks() {
    let seconds = number("CHAOS_SECONDS").unwrap_or(20);
    let seed = number("CHAOS_SEED").unwrap_or_else(|| client::now_ms() as u64);
    println!("chaos: {seconds} s, seed {seed} (CHAOS_SEED={seed} repeats the choices)");
    let directory = tempfile::tempdir().unwrap();
    let cluster = Arc::new(Cluster::start(directory.path(), 3, BROKERS, FLAGS));
    let shared = Arc::new(Shared::new(cluster.addresses(), seed));
    let mut router = routing::Router::new(cluster.addresses(), seed);
    for topic in [IDEMPOTENT, PLAIN] {
        create_topic(&mut router, topic);
    }
    let groups = [Group::new("classic", false), Group::new("consumer", true)].map(Arc::new);
    let (producers, others) = start_clients(&shared, &groups);
    let mut random = Random::new(seed);
    let until = Instant::now() + Duration::from_secs(seconds);
    let damages = number("CHAOS_DAMAGES").unwrap_or(0);
    let struck = nemesis::rage(&cluster, &shared, &mut random, until, damages);
    cluster.heal();
    let memory_max = struck.memory_max >> 20;
    let [new, old] = cluster.starts();
    println!(
        "all is well again; struck {:?}; {new} starts of this version and {old} of the other; no broker had more than \
         {memory_max} MiB",
        struck.counts
    );

    shared.producers_stop.store(true, Ordering::Relaxed);
    let until = Instant::now() + PATIENCE;
    let mut sent = BTreeMap::new();
    for (name, producer) in producers {
        while !producer.is_finished() {
            if Instant::now() >= until {
                let tails: Vec<String> = cluster.machines.iter().map(cluster::Machine::log_tail).collect();
                panic!(
                    "{name} does not get done; the brokers' logs end with\n{}",
                    tails.join("\n---\n")
                );
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        sent.extend(producer.join().unwrap());
    }
    for group in &groups {
        while !group.behind(&shared).is_empty() {
            let behind = group.behind(&shared);
            assert!(Instant::now() < until, "{group:?} does not get done: {behind:?}");
            std::thread::sleep(Duration::from_millis(20));
        }
    }
    shared.others_stop.store(true, Ordering::Relaxed);
    others.into_iter().for_each(|other| other.join().unwrap());
    check(&shared);
    // Once as the brokers know it, once from the stores alone.
    for from_scratch in [false, true] {
        if from_scratch {
            cluster.machines.iter().for_each(cluster::Machine::kill);
            cluster.machines.iter().for_each(cluster::Machine::start);
        }
        read_everything(&shared, &sent);
    }
    cluster.machines.iter().for_each(cluster::Machine::kill);
    verify(cluster.machines[0].launch(), &shared);
    let sum = |count: &dyn Fn(&Group) -> &AtomicI64| -> i64 {
        groups.iter().map(|group| count(group).load(Ordering::Relaxed)).sum()
    };
    let counters = &shared.ledger.counts;
    let faults: u64 = struck.counts.values().sum();
    println!(
        "chaos: {seconds} s, {faults} faults, {} records acknowledged in {} batches, {} error answers, {} records read, {} \
         commits, {} commits of members that were given {} partitions; nothing lost, changed, moved, doubled or out of order, no commit taken back",
        get(&counters.records_acked),
        get(&counters.batches_acked),
        get(&counters.error_answers),
        get(&counters.records_consumed),
        shared.commits.load(Ordering::Relaxed),
        sum(&|group| &group.count),
        sum(&|group| &group.given),
    );
}

fn create_topic(router: &mut routing::Router, topic: &str) {
    let until = Instant::now() + PATIENCE;
    loop {
        match router.anyone() {
            Ok(mut client) => match client.ask_for_topic(topic, PARTITIONS, &[]) {
                ErrorCode::NONE | ErrorCode::TOPIC_ALREADY_EXISTS => break,
                error => assert!(Instant::now() < until, "topic {topic}: {error:?}"),
            },
            Err(error) => assert!(Instant::now() < until, "topic {topic}: {error}"),
        }
    }
}

type Producer = std::thread::JoinHandle<Option<(u32, u64)>>;

fn start_clients(
    shared: &Arc<Shared>,
    groups: &[Arc<Group>],
) -> (Vec<(String, Producer)>, Vec<std::thread::JoinHandle<()>>) {
    let (mut producers, mut others) = (Vec::new(), Vec::new());
    for (topic, idempotent) in [(IDEMPOTENT, true), (PLAIN, false)] {
        for partition in 0..PARTITIONS {
            let number = producers.len() as u32;
            let place = (topic, partition);
            let of_producer = shared.clone();
            let run = move || {
                let sent = produce(&of_producer, number, place, idempotent);
                idempotent.then_some((number, sent))
            };
            producers.push((format!("producer {number} to {place:?}"), std::thread::spawn(run)));
            let of_consumer = shared.clone();
            others.push(std::thread::spawn(move || {
                consume(&of_consumer, 1_000 + u64::from(number), place)
            }));
        }
    }
    for group in GROUPS {
        let of_group = shared.clone();
        others.push(std::thread::spawn(move || commit(&of_group, group)));
    }
    for (number, group) in groups.iter().enumerate() {
        for member in 0..MEMBERS {
            let (shared, group) = (shared.clone(), group.clone());
            let who = 20_000 + number as u64 * MEMBERS + member;
            others.push(std::thread::spawn(move || take_part(&shared, &group, who)));
        }
    }
    (producers, others)
}

/// Every partition from the beginning; what idempotent producers sent is there once and in order.
fn read_everything(shared: &Shared, sent: &BTreeMap<u32, u64>) {
    for topic in [IDEMPOTENT, PLAIN] {
        for partition in 0..PARTITIONS {
            let place = (topic, partition);
            for (producer, numbers) in read_all(shared, place, PATIENCE) {
                if !numbers.windows(2).all(|pair| pair[0] < pair[1]) {
                    shared
                        .ledger
                        .fault(format!("{place:?}: producer {producer}'s records are not in order"));
                }
                if sent.get(&producer).is_some_and(|sent| *sent != numbers.len() as u64) {
                    let fault = format!(
                        "producer {producer} sent {:?}, there are {}",
                        sent.get(&producer),
                        numbers.len()
                    );
                    shared.ledger.fault(format!("{place:?}: {fault}"));
                }
            }
        }
    }
    check(shared);
}

/// `verify` finds nothing wrong in the stores, except in partitions of which something was damaged on purpose. Where another
/// version took part, a segment's times may be of fewer offsets: versions that write them before the segment leave that.
fn verify(launch: &support::Launch, shared: &Shared) {
    let output = launch.command(&["verify"]).output().unwrap();
    let told = String::from_utf8_lossy(&output.stdout);
    let problems: Vec<&str> = told
        .lines()
        .filter(|line| line.contains("\"problem\"") && !shared.is_damaged(line))
        .filter(|line| std::env::var_os("CHAOS_OLD_BROKER").is_none() || !line.contains(".kfst\""))
        .collect();
    let looked = output.status.code().is_some_and(|code| code < 2);
    if !looked || !problems.is_empty() {
        let errors = String::from_utf8_lossy(&output.stderr);
        shared
            .ledger
            .fault(format!("verify, {}: {problems:#?} {errors}", output.status));
    }
    println!("verify: {}", told.lines().last().unwrap_or_default());
    check(shared);
}

fn check(shared: &Shared) {
    let faults = shared.ledger.faults();
    assert!(faults.is_empty(), "seed {}: {faults:#?}", shared.seed);
}
