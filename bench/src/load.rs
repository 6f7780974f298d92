//! One load: topics, their producers and their consumers, at the same time.

use crate::client::{by_leader, offsets, prepare_topic, BenchError, LogEnd};
use crate::clock::Clock;
use crate::consumer::{self, Backlog, Consumed};
use crate::idle::Idle;
use crate::options::Options;
use crate::process;
use crate::producer::{Produced, Producer, Target};
use crate::report::Report;
use crate::store::StoreWatch;
use crate::syscalls::Counting;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::atomic::AtomicI64;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

/// What consumers read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reading {
    /// What is produced meanwhile.
    Along,
    /// What was there at the start, again and again.
    Backlog,
}

/// A topic that is there.
struct Topic {
    name: String,
    leaders: Vec<(SocketAddr, Vec<i32>)>,
    starts: BTreeMap<i32, i64>,
    ends: BTreeMap<i32, i64>,
}

/// Names of the topics.
fn names(options: &Options) -> Vec<String> {
    match options.topics {
        1 => vec![options.topic.clone()],
        topics => (0..topics)
            .map(|number| format!("{}-{number}", options.topic))
            .collect(),
    }
}

fn prepare(options: &Options, name: String) -> Result<Topic, BenchError> {
    let partitions = prepare_topic(options.bootstrap, &name, options.partitions)?;
    Ok(Topic {
        starts: offsets(&name, &partitions, LogEnd::Start)?,
        ends: offsets(&name, &partitions, LogEnd::Next)?,
        leaders: by_leader(&partitions),
        name,
    })
}

/// Runs the load with consumers that read along.
///
/// # Errors
/// If a connection fails, or the broker refuses.
pub fn run(options: &Options) -> Result<Report, BenchError> {
    run_as(options, Reading::Along, None)
}

/// Runs the load. With a quota, in bytes of values, it ends when that is sent.
///
/// # Errors
/// As [`run`].
pub fn run_as(options: &Options, reading: Reading, quota: Option<u64>) -> Result<Report, BenchError> {
    let options = &options.sized()?;
    let topics: Result<Vec<Topic>, _> = names(options).into_iter().map(|name| prepare(options, name)).collect();
    let topics = topics?;
    let idle = Idle::open(options.bootstrap, options.idle_connections, options.broker_pid)?;
    let clock = Clock::start(
        Duration::from_secs(options.warmup_s),
        Duration::from_secs(options.seconds),
    );
    let quota = quota.map(|bytes| Arc::new(AtomicI64::new(i64::try_from(bytes).unwrap_or(i64::MAX))));
    let producers = start_producers(options, clock, &topics, quota)?;
    let mut consumers = Vec::new();
    for topic in &topics {
        for _ in 0..options.consumers {
            start_consumer(options, clock, topic, reading, &mut consumers);
        }
    }
    // Whoever ends before the clock has failed, or has sent the quota.
    let go_on = || {
        let ended = consumers.iter().any(JoinHandle::is_finished) || producers.iter().any(JoinHandle::is_finished);
        !clock.is_over() && !ended
    };
    while go_on() && clock.sleep_towards_measured() {}
    let store = options.metrics.as_deref().map(StoreWatch::start).transpose()?.flatten();
    let counting = options
        .broker_pid
        .filter(|_| options.syscalls && !clock.is_over())
        .and_then(|pid| Counting::start(pid, clock.until_end()));
    let [broker, own] = process::watch([options.broker_pid, Some(std::process::id())], clock, go_on);
    let store = store.map(|store| store.end()).transpose()?.flatten();
    let mut produced = Produced::none();
    for one in join_all(producers)? {
        produced.add(&one);
    }
    let mut consumed = Consumed::none();
    for one in join_all(consumers)? {
        consumed.add(&one);
    }
    Ok(Report {
        options: options.clone(),
        measured: clock.measured(),
        produced,
        consumed,
        broker,
        own,
        store,
        syscalls_per_s: counting.and_then(Counting::per_second),
        idle: idle.close()?,
    })
}

type Running<T> = JoinHandle<Result<T, BenchError>>;

fn start_producers(
    options: &Options,
    clock: Clock,
    topics: &[Topic],
    quota: Option<Arc<AtomicI64>>,
) -> Result<Vec<Running<Produced>>, BenchError> {
    let of_topic = |topic: &Topic| match options.producers {
        0 => 0,
        // Every leader gets something to do.
        producers => producers.max(topic.leaders.len()),
    };
    let of = topics.iter().map(of_topic).sum::<usize>() as u64;
    let mut running = Vec::new();
    for topic in topics {
        for number in 0..of_topic(topic) {
            let (leader, partitions) = &topic.leaders[number % topic.leaders.len()];
            let target = Target {
                topic: topic.name.clone(),
                leader: *leader,
                partitions: partitions.clone(),
                quota: quota.clone(),
            };
            let producer = Producer::new(options, clock, target, running.len() as u64, of)?;
            running.push(std::thread::spawn(move || producer.run()));
        }
    }
    Ok(running)
}

fn start_consumer(
    options: &Options,
    clock: Clock,
    topic: &Topic,
    reading: Reading,
    running: &mut Vec<Running<Consumed>>,
) {
    for (leader, partitions) in &topic.leaders {
        for partitions in shares(partitions, options.consumer_connections) {
            let spans = partitions.iter().map(|at| {
                let of = |offsets: &BTreeMap<i32, i64>| offsets.get(at).copied().unwrap_or(0);
                (*at, (of(&topic.starts), of(&topic.ends)))
            });
            let backlog: Backlog = spans.collect();
            let (name, sessions, leader) = (topic.name.clone(), options.fetch_sessions, *leader);
            running.push(std::thread::spawn(move || match reading {
                Reading::Along => {
                    let positions = backlog.iter().map(|(at, (_, end))| (*at, *end)).collect();
                    consumer::read_along(&name, sessions, clock, leader, positions)
                }
                Reading::Backlog => consumer::read_backlog(&name, clock, leader, &backlog, true),
            }));
        }
    }
}

/// The partitions dealt out to so many connections; none goes empty-handed.
pub fn shares(partitions: &[i32], connections: usize) -> Vec<Vec<i32>> {
    let connections = connections.clamp(1, partitions.len().max(1));
    (0..connections)
        .map(|first| partitions.iter().skip(first).step_by(connections).copied().collect())
        .collect()
}

/// What all threads came to.
///
/// # Errors
/// That of the first that failed.
pub fn join_all<T>(threads: Vec<Running<T>>) -> Result<Vec<T>, BenchError> {
    threads
        .into_iter()
        .map(|thread| {
            thread
                .join()
                .map_err(|_| BenchError::Unexpected("a thread panicked".to_string()))?
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_partition_is_read_by_one_connection() {
        assert_eq!(shares(&[4, 5, 6, 7, 8], 2), [vec![4, 6, 8], vec![5, 7]]);
        assert_eq!(shares(&[4, 5], 3), [vec![4], vec![5]]);
        assert_eq!(shares(&[4], 0), [vec![4]]);
    }
}
