//! Load and latency percentiles for any Kafka-compatible broker.

mod client;
mod clock;
mod consumer;
mod groups;
mod options;
mod process;
mod producer;
mod report;
mod results;
mod rounds;

use clap::Parser;
use client::{end_offsets, prepare_topic, BenchError};
use clock::Clock;
use consumer::Consumed;
use options::{Command, CommandLine, Options};
use producer::{Produced, Producer};
use report::Report;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::process::ExitCode;
use std::thread::JoinHandle;
use std::time::Duration;

fn main() -> ExitCode {
    let line = CommandLine::parse();
    let report = match &line.command {
        None => run(&line.load),
        Some(Command::Groups(options)) => groups::run(options),
    };
    match report {
        Ok(report) => {
            print!("{report}");
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("kafscale-bench: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(options: &Options) -> Result<String, BenchError> {
    let mut out = String::new();
    let mut reports = Vec::new();
    for round in 1..=options.rounds {
        if options.rounds > 1 {
            eprintln!("round {round} of {}", options.rounds);
        }
        let report = run_once(options)?;
        out += &if options.json {
            report.json() + "\n"
        } else {
            report.text()
        };
        reports.push(report);
    }
    if reports.len() > 1 && !options.json {
        out += &rounds::text(&rounds::summary(&reports));
    }
    if let Some(directory) = &options.results {
        results::write(directory, &reports)?;
    }
    Ok(out)
}

fn run_once(options: &Options) -> Result<Report<'_>, BenchError> {
    let partitions = prepare_topic(options.bootstrap, &options.topic, options.partitions)?;
    let ends: BTreeMap<i32, i64> = end_offsets(&options.topic, &partitions)?.into_iter().collect();
    let mut by_leader: BTreeMap<SocketAddr, Vec<i32>> = BTreeMap::new();
    for (partition, leader) in partitions {
        by_leader.entry(leader).or_default().push(partition);
    }
    let clock = Clock::start(
        Duration::from_secs(options.warmup_s),
        Duration::from_secs(options.seconds),
    );
    let (mut producers, mut consumers) = (Vec::new(), Vec::new());
    let leaders: Vec<_> = by_leader.into_iter().collect();
    let of = options.producers.max(leaders.len()) as u64;
    for number in 0..options.producers.max(leaders.len()) {
        let (leader, partitions) = &leaders[number % leaders.len()];
        let producer = Producer::new(options, clock, *leader, partitions.clone(), of);
        producers.push(std::thread::spawn(move || producer.run()));
    }
    for _ in 0..options.consumers {
        for (leader, partitions) in &leaders {
            let positions = partitions
                .iter()
                .map(|at| (*at, ends.get(at).copied().unwrap_or(0)))
                .collect();
            let (options, leader) = (options.clone(), *leader);
            consumers.push(std::thread::spawn(move || {
                consumer::run(&options, clock, leader, positions)
            }));
        }
    }
    clock.sleep_to_measured();
    let look = || {
        (
            options.broker_pid.and_then(process::sample),
            process::sample(std::process::id()),
        )
    };
    let before = look();
    clock.sleep_to_end();
    let after = look();
    let mut produced = Produced::none();
    for one in join_all(producers)? {
        produced.add(&one);
    }
    let mut consumed = Consumed::none();
    for one in join_all(consumers)? {
        consumed.add(&one);
    }
    Ok(Report {
        options,
        measured: clock.measured(),
        produced,
        consumed,
        broker: before.0.zip(after.0),
        own: before.1.zip(after.1),
    })
}

fn join_all<T>(threads: Vec<JoinHandle<Result<T, BenchError>>>) -> Result<Vec<T>, BenchError> {
    threads
        .into_iter()
        .map(|thread| {
            thread
                .join()
                .map_err(|_| BenchError::Unexpected("a thread panicked".to_string()))?
        })
        .collect()
}
