//! Reads what there is of a topic, once, as fast as it comes.

use crate::client::{by_leader, find_topic, offsets, BenchError, LogEnd};
use crate::clock::Clock;
use crate::consumer::{self, Backlog, Consumed};
use crate::load::{join_all, shares};
use crate::process;
use crate::report::mib;
use std::fmt::Write;
use std::net::SocketAddr;
use std::time::Duration;

/// What to read, and how.
#[derive(Debug, Clone, clap::Args)]
pub struct ReadOptions {
    /// A broker of the cluster.
    #[arg(long, default_value = "127.0.0.1:9092")]
    pub bootstrap: SocketAddr,
    /// The topic; it must be there.
    #[arg(long, default_value = "bench")]
    pub topic: String,
    /// Connections to each leader, which share its partitions.
    #[arg(long, default_value_t = 1)]
    pub connections: usize,
    /// It is an error if reading takes longer.
    #[arg(long, default_value_t = 60, value_parser = clap::value_parser!(u64).range(1..=86_400))]
    pub seconds_max: u64,
    /// Process id of the broker, if it runs here: then its CPU time and memory are reported.
    #[arg(long, visible_alias = "pid")]
    pub broker_pid: Option<u32>,
    /// One line of JSON instead of text.
    #[arg(long)]
    pub json: bool,
}

/// Reads, and says how fast it was.
///
/// # Errors
/// If a connection fails, the broker refuses, or it takes too long.
pub fn run(options: &ReadOptions) -> Result<String, BenchError> {
    let partitions = find_topic(options.bootstrap, &options.topic)?;
    let starts = offsets(&options.topic, &partitions, LogEnd::Start)?;
    let ends = offsets(&options.topic, &partitions, LogEnd::Next)?;
    let wanted: i64 = ends
        .iter()
        .map(|(at, end)| end - starts.get(at).copied().unwrap_or(*end))
        .sum();
    if wanted == 0 {
        return Err(BenchError::Options(format!("{} is empty", options.topic)));
    }
    let clock = Clock::start(Duration::ZERO, Duration::from_secs(options.seconds_max));
    let mut running = Vec::new();
    for (leader, partitions) in by_leader(&partitions) {
        for partitions in shares(&partitions, options.connections) {
            let span = |at: &i32| Some((*at, (*starts.get(at)?, *ends.get(at)?)));
            let backlog: Backlog = partitions.iter().filter_map(span).collect();
            let topic = options.topic.clone();
            running.push(std::thread::spawn(move || {
                consumer::read_backlog(&topic, clock, leader, &backlog, false)
            }));
        }
    }
    let [broker, own] = process::watch([options.broker_pid, Some(std::process::id())], clock, || {
        !running.iter().all(|thread| thread.is_finished())
    });
    let took = Duration::from_nanos(clock.now_ns());
    let mut consumed = Consumed::none();
    for one in join_all(running)? {
        consumed.add(&one);
    }
    if consumed.records < wanted.unsigned_abs() {
        let what = format!("{} of {wanted} records read in {took:?}", consumed.records);
        return Err(BenchError::Unexpected(what));
    }
    let seconds = took.as_secs_f64();
    let mut figures = vec![
        ("seconds", seconds),
        ("records", consumed.records as f64),
        ("bytes", consumed.bytes as f64),
        ("records_per_s", consumed.records as f64 / seconds),
        ("bytes_per_s", consumed.bytes as f64 / seconds),
    ];
    if let Some(broker) = broker {
        figures.push(("broker_cpu_s", broker.cpu_s()));
        figures.push(("broker_core_s_per_gb", broker.cpu_s() / (consumed.bytes as f64 / 1e9)));
        figures.push(("broker_resident_mib", mib(broker.resident_bytes_max)));
    }
    figures.extend(own.map(|own| ("load_cpu_s", own.cpu_s())));
    let mut out = String::new();
    if options.json {
        let fields: Vec<String> = figures
            .iter()
            .map(|(name, value)| format!("\"{name}\":{value:.3}"))
            .collect();
        let _ = writeln!(out, "{{{}}}", fields.join(",")); // Writing to a string does not fail.
    } else {
        for (name, value) in figures {
            let _ = writeln!(out, "{name:<22}{value:>18.3}");
        }
    }
    Ok(out)
}
