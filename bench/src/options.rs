//! What a run does.

use crate::groups::GroupOptions;
use clap::Parser;
use std::net::SocketAddr;
use std::path::PathBuf;

/// Load for any Kafka-compatible broker, and the latency of its acknowledgements.
///
/// With a rate, records are due at fixed times whatever the broker does, and latency counts from when a record was due:
/// a broker that stalls is charged for all that had to wait. Without, every producer keeps its requests in flight full.
#[derive(Debug, Clone, Parser)]
#[command(name = "kafscale-bench", version, args_conflicts_with_subcommands = true)]
pub struct CommandLine {
    /// Without a command: producers and consumers.
    #[command(flatten)]
    pub load: Options,
    /// Something else.
    #[command(subcommand)]
    pub command: Option<Command>,
}

/// What there is besides producers and consumers.
#[derive(Debug, Clone, clap::Subcommand)]
pub enum Command {
    /// Consumer groups that live and commit.
    Groups(GroupOptions),
}

/// Producers and consumers.
#[derive(Debug, Clone, clap::Args)]
pub struct Options {
    /// A broker of the cluster.
    #[arg(long, default_value = "127.0.0.1:9092")]
    pub bootstrap: SocketAddr,
    /// The topic; it is created if it is not there.
    #[arg(long, default_value = "bench")]
    pub topic: String,
    /// Partitions of a new topic.
    #[arg(long, default_value_t = 6)]
    pub partitions: i32,
    /// Producer connections.
    #[arg(long, default_value_t = 2)]
    pub producers: usize,
    /// Consumer connections, each reading all partitions from where they end at the start.
    #[arg(long, default_value_t = 1)]
    pub consumers: usize,
    /// Consumers use fetch sessions (KIP-227): they say once which partitions they read, and hear of changes only.
    #[arg(long)]
    pub fetch_sessions: bool,
    /// Records per second of all producers together; 0 is as fast as it goes.
    #[arg(long, default_value_t = 0)]
    pub rate: u64,
    /// Bytes of a record's value; they are random, so that nothing can be compressed.
    #[arg(long, default_value_t = 1024)]
    pub record_bytes: usize,
    /// Bytes of records that make a batch full.
    #[arg(long, default_value_t = 65_536)]
    pub batch_bytes: usize,
    /// How long a record that is due waits for company, in milliseconds.
    #[arg(long, default_value_t = 1)]
    pub linger_ms: u64,
    /// Produce requests of one connection on their way at once.
    #[arg(long, default_value_t = 5)]
    pub in_flight: usize,
    /// Producers without idempotence.
    #[arg(long)]
    pub no_idempotence: bool,
    /// 1 waits for the leader, -1 for all; here that is the same, in Kafka it is not.
    #[arg(long, default_value_t = -1, allow_hyphen_values = true)]
    pub acks: i16,
    /// Seconds before anything counts.
    #[arg(long, default_value_t = 3)]
    pub warmup_s: u64,
    /// Seconds that count.
    #[arg(long, default_value_t = 15)]
    pub seconds: u64,
    /// How often all of it is done, warm-up included; more than one are summed up by median, least and most.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..=100))]
    pub rounds: u64,
    /// A directory for what was measured: run.json, a .hgrm file for each histogram, and report.html.
    #[arg(long)]
    pub results: Option<PathBuf>,
    /// Process id of the broker, if it runs here: then its CPU time and memory are reported.
    #[arg(long)]
    pub broker_pid: Option<u32>,
    /// One line of JSON instead of text.
    #[arg(long)]
    pub json: bool,
}
