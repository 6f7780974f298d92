//! Load and latency percentiles for any Kafka-compatible broker.

mod catch_up;
mod client;
mod clock;
mod consumer;
mod groups;
mod idle;
mod limits;
mod load;
mod options;
mod payload;
mod process;
mod producer;
mod read;
mod report;
mod results;
mod rounds;
mod sizes;
mod store;
mod sweep;
mod syscalls;
mod workload;

use catch_up::CatchUpOptions;
use clap::{ArgMatches, CommandFactory, FromArgMatches};
use client::BenchError;
use options::{Command, CommandLine, Options};
use report::Report;
use std::process::ExitCode;

fn main() -> ExitCode {
    match run_command(&CommandLine::command().get_matches()) {
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

fn run_command(arguments: &ArgMatches) -> Result<String, BenchError> {
    let mut line = CommandLine::from_arg_matches(arguments).map_err(|error| BenchError::Options(error.to_string()))?;
    let arguments = arguments.subcommand().map_or(arguments, |(_, arguments)| arguments);
    match &mut line.command {
        None => run_load(&mut line.load, arguments),
        Some(Command::Groups(options)) => groups::run(options),
        Some(Command::Sweep(options)) => {
            workload::apply(&mut options.load, arguments)?;
            sweep::run(options)
        }
        Some(Command::CatchUp(options)) => {
            let backlog_bytes =
                workload::apply(&mut options.load, arguments)?.map_or(0, |workload| workload.backlog_bytes);
            if backlog_bytes > 0 && !workload::is_given(arguments, "backlog_mb") {
                options.backlog_mb = backlog_bytes.div_ceil(1_000_000);
            }
            catch_up::run(options)
        }
        Some(Command::Read(options)) => read::run(options),
        Some(Command::Limits(options)) => limits::run(options),
        Some(Command::Report(options)) => results::report(options),
        Some(Command::Sizes(options)) => {
            workload::apply(&mut options.load, arguments)?;
            sizes::run(options)
        }
    }
}

/// A load; with a backlog, if its workload has one.
fn run_load(options: &mut Options, arguments: &ArgMatches) -> Result<String, BenchError> {
    let workload = workload::apply(options, arguments)?;
    if let Some(workload) = &workload {
        eprintln!("workload: {}", workload.name);
    }
    match workload.map_or(0, |workload| workload.backlog_bytes) {
        0 => run(options),
        backlog_bytes => catch_up::run(&CatchUpOptions {
            load: options.clone(),
            backlog_mb: backlog_bytes.div_ceil(1_000_000),
            rest_s: catch_up::REST_S,
        }),
    }
}

fn run(options: &Options) -> Result<String, BenchError> {
    let mut out = String::new();
    let mut reports = Vec::new();
    for round in 1..=options.rounds {
        if options.rounds > 1 {
            eprintln!("round {round} of {}", options.rounds);
        }
        let report = load::run(options)?;
        out += &if options.json {
            report.json()? + "\n"
        } else {
            report.text()
        };
        reports.push(report);
    }
    if reports.len() > 1 && !options.json {
        let figures: Vec<_> = reports.iter().map(Report::figures).collect();
        out += &rounds::text(&rounds::summary(&figures));
    }
    if let Some(directory) = &options.results {
        results::write(directory, &reports)?;
    }
    Ok(out)
}
