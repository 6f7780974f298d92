//! Consumer groups that do nothing but live and commit: how many, and how many commits, a coordinator stands.
//!
//! Every member is a connection and a thread of its own, as it is in a client. Heartbeats and commits are due at fixed
//! times whatever the broker does, and latency counts from when they were due.

mod member;

use crate::client::{prepare_topic, BenchError, Connection};
use crate::clock::Clock;
use crate::process::{self, Watched};
use crate::producer::new_histogram;
use crate::report::{per_second, percentiles};
use hdrhistogram::Histogram;
use kafscale_codec::error_code::ErrorCode;
use kafscale_codec::messages::*;
use member::{Member, Protocol};
use std::collections::BTreeMap;
use std::fmt::Write;
use std::net::{SocketAddr, ToSocketAddrs};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

const FIND_COORDINATOR: i16 = 2;
const STACK_BYTES: usize = 256 << 10;
/// Attempts at finding a coordinator that is just loading.
const ATTEMPTS_MAX: usize = 100;

/// Groups of members that give signs of life and commit offsets.
#[derive(Debug, Clone, clap::Args)]
pub struct GroupOptions {
    /// A broker of the cluster.
    #[arg(long, default_value = "127.0.0.1:9092")]
    pub bootstrap: SocketAddr,
    /// The topic that the groups subscribe to; it is created with one partition per member of a group if it is not there.
    #[arg(long, default_value = "bench-groups")]
    pub topic: String,
    /// How many groups.
    #[arg(long, default_value_t = 1000)]
    pub groups: usize,
    /// Members of each.
    #[arg(long, default_value_t = 3)]
    pub members: usize,
    /// Commits per second of all members together.
    #[arg(long, default_value_t = 10_000)]
    pub commits: u64,
    /// The groups' protocol.
    #[arg(long, value_enum, default_value_t = Protocol::Classic)]
    pub protocol: Protocol,
    /// Milliseconds between a member's heartbeats; in the consumer protocol the broker says.
    #[arg(long, default_value_t = 3_000)]
    pub heartbeat_ms: u64,
    /// Without a word for so long, a member of the classic protocol is out.
    #[arg(long, default_value_t = 45_000)]
    pub session_ms: i32,
    /// Seconds for the groups to form, before anything counts.
    #[arg(long, default_value_t = 30)]
    pub warmup_s: u64,
    /// Seconds that count.
    #[arg(long, default_value_t = 60)]
    pub seconds: u64,
    /// Process id of the broker, if it runs here: then its CPU time and memory are reported.
    #[arg(long, visible_alias = "pid")]
    pub broker_pid: Option<u32>,
}

/// What all members have seen in the time that counts.
pub struct Figures {
    /// From when a commit was due to its answer, in nanoseconds.
    pub commits: Histogram<u64>,
    /// The same of heartbeats.
    pub heartbeats: Histogram<u64>,
    /// Answers that were not what a member in a quiet group gets: the request, the error, and how many of them.
    pub refused: BTreeMap<(&'static str, i16), u64>,
    /// Members that had partitions when the measured time began.
    pub settled: usize,
}

/// Of all threads.
pub type SharedFigures = Arc<Mutex<Figures>>;

/// Runs the groups, and says what became of it.
///
/// # Errors
/// If a connection fails, or the broker refuses what a group needs to form.
pub fn run(options: &GroupOptions) -> Result<String, BenchError> {
    prepare_topic(options.bootstrap, &options.topic, options.members as i32)?;
    let clock = Clock::start(
        Duration::from_secs(options.warmup_s),
        Duration::from_secs(options.seconds),
    );
    let figures = Arc::new(Mutex::new(Figures {
        commits: new_histogram(),
        heartbeats: new_histogram(),
        refused: BTreeMap::new(),
        settled: 0,
    }));
    let mut threads = Vec::new();
    for group in 0..options.groups {
        let group_id = format!("{}-{group}", options.topic);
        let coordinator = find_coordinator(options.bootstrap, &group_id)?;
        for number in 0..options.members {
            let index = (group * options.members + number) as u32;
            let member = Member::new(options, clock, coordinator, &group_id, index, figures.clone())?;
            let thread = std::thread::Builder::new().stack_size(STACK_BYTES);
            threads.push(thread.spawn(move || member.run())?);
        }
    }
    clock.sleep_to_measured();
    let [broker] = process::watch([options.broker_pid], clock, || true);
    for thread in threads {
        let ended = thread.join();
        ended.map_err(|_| BenchError::Unexpected("a thread panicked".to_string()))??;
    }
    let figures = figures.lock().unwrap_or_else(PoisonError::into_inner);
    Ok(report(options, clock.measured(), &figures, broker))
}

fn find_coordinator(bootstrap: SocketAddr, group_id: &str) -> Result<SocketAddr, BenchError> {
    let mut connection = Connection::open(bootstrap)?;
    for _ in 0..ATTEMPTS_MAX {
        let request = FindCoordinatorRequest {
            key: group_id.to_string(),
            ..FindCoordinatorRequest::default()
        };
        let answer = connection.ask(FIND_COORDINATOR, &request)?;
        if answer.error_code == ErrorCode::NONE {
            let port = u16::try_from(answer.port)
                .map_err(|_| BenchError::Unexpected(format!("port {} of a coordinator", answer.port)))?;
            let mut addresses = (answer.host.as_str(), port).to_socket_addrs()?;
            let address = addresses.find(SocketAddr::is_ipv4);
            return address.ok_or_else(|| BenchError::Unexpected(format!("no address for {}", answer.host)));
        }
        std::thread::sleep(Duration::from_millis(100));
    }
    Err(BenchError::Unexpected(format!("group {group_id} has no coordinator")))
}

fn report(options: &GroupOptions, measured: Duration, figures: &Figures, broker: Option<Watched>) -> String {
    let mut out = String::new();
    // Writing to a string does not fail.
    let _ = writeln!(
        out,
        "{} groups of {} members, {}, {} commits/s wanted, {:.0} s measured",
        options.groups,
        options.members,
        options.protocol.name(),
        options.commits,
        measured.as_secs_f64()
    );
    let all = options.groups * options.members;
    let _ = writeln!(
        out,
        "settled       {:>10} of {all} members had partitions at the start",
        figures.settled
    );
    for (name, histogram) in [("commits", &figures.commits), ("heartbeats", &figures.heartbeats)] {
        let _ = write!(
            out,
            "{name:<12}  {:>10.0} /s  answered after",
            per_second(histogram.len(), measured)
        );
        for (percentile, value) in percentiles(histogram) {
            let _ = write!(out, "  {percentile} {value:>9.3} ms");
        }
        out.push('\n');
    }
    if figures.refused.is_empty() {
        let _ = writeln!(out, "refused                0");
    }
    for ((request, error), count) in &figures.refused {
        let _ = writeln!(out, "refused       {count:>10} {request} with {:?}", ErrorCode(*error));
    }
    if let Some(broker) = broker {
        let _ = writeln!(
            out,
            "broker        {:.2} cores busy, {:.0} MiB resident",
            broker.cores_busy(measured),
            broker.resident_bytes_max as f64 / (1 << 20) as f64
        );
    }
    out
}
