//! What a run does.

use crate::catch_up::CatchUpOptions;
use crate::client::BenchError;
use crate::groups::GroupOptions;
use crate::limits::LimitsOptions;
use crate::payload::Payload;
use crate::read::ReadOptions;
use crate::results::ReportOptions;
use crate::sizes::SizesOptions;
use crate::sweep::SweepOptions;
use kafscale_codec::compression::Compression;
use std::net::SocketAddr;
use std::path::PathBuf;

/// Load for any Kafka-compatible broker, and the latency of its acknowledgements.
///
/// With a rate, records are due at fixed times whatever the broker does, and latency counts from when a record was due:
/// a broker that stalls is charged for all that had to wait. Without, every producer keeps its requests in flight full.
#[derive(Debug, Clone, clap::Parser)]
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
    /// The highest rate that still holds: goes up until records wait too long, then closes in on it.
    Sweep(SweepOptions),
    /// What producers notice of a consumer that reads a backlog at full speed.
    CatchUp(CatchUpOptions),
    /// What this machine can do at most: loopback, memory, checksums, disk. It needs no broker.
    Limits(LimitsOptions),
    /// One page of several runs, side by side.
    Report(ReportOptions),
    /// Reads what there is of a topic, once, as fast as it comes.
    Read(ReadOptions),
    /// The same load with records of different sizes.
    Sizes(SizesOptions),
}

/// Producers and consumers.
#[derive(Debug, Clone, clap::Args)]
pub struct Options {
    /// A workload file of the OpenMessaging Benchmark (YAML); options that are given here go before what it says.
    #[arg(long)]
    pub workload: Option<PathBuf>,
    /// A broker of the cluster.
    #[arg(long, default_value = "127.0.0.1:9092")]
    pub bootstrap: SocketAddr,
    /// The topic; it is created if it is not there.
    #[arg(long, default_value = "bench")]
    pub topic: String,
    /// Topics, each with its own producers and consumers; of more than one the names end in -0, -1 and so on.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub topics: u32,
    /// Partitions of a new topic.
    #[arg(long, default_value_t = 6)]
    pub partitions: i32,
    /// Producer connections of each topic.
    #[arg(long, default_value_t = 2)]
    pub producers: usize,
    /// Consumers of each topic; each reads all partitions from where they end at the start.
    #[arg(long, default_value_t = 1)]
    pub consumers: usize,
    /// Connections of each consumer, which share the partitions.
    #[arg(long, default_value_t = 1)]
    pub consumer_connections: usize,
    /// Consumers use fetch sessions (KIP-227): they say once which partitions they read, and hear of changes only.
    #[arg(long)]
    pub fetch_sessions: bool,
    /// Records per second of all producers together; 0 is as fast as it goes.
    #[arg(long, default_value_t = 0)]
    pub rate: u64,
    /// Bytes of a record's value.
    #[arg(long, default_value_t = 1024)]
    pub record_bytes: usize,
    /// Which part of a value is random, so that it cannot be compressed; the rest is zeros.
    #[arg(long, default_value_t = 1.0)]
    pub random_ratio: f64,
    /// A file that every record has for its value; its size is then that of the records.
    #[arg(long)]
    pub payload_file: Option<PathBuf>,
    /// How batches are compressed: none, gzip, snappy, lz4 or zstd.
    #[arg(long, default_value = "none", value_parser = compression)]
    pub compression: Compression,
    /// Records have keys of eight bytes, so many different ones in turn; 0 is no keys. Partitions do not depend on them.
    #[arg(long, default_value_t = 0)]
    pub keys: u64,
    /// Uneven partitions: the nth gets n^-SKEW as many batches as the first (Zipf). 0 is all in turn.
    #[arg(long, default_value_t = 0.0)]
    pub partition_skew: f64,
    /// Connections that are there and do nothing; at the end each must still be answered.
    #[arg(long, default_value_t = 0)]
    pub idle_connections: usize,
    /// Bytes of records that make a batch full.
    #[arg(long, default_value_t = 65_536)]
    pub batch_bytes: usize,
    /// With a rate, how long a record that is due waits for company, in milliseconds.
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
    /// Process id of the broker, if it runs here: then its CPU time, memory and context switches are reported.
    #[arg(long, visible_alias = "pid")]
    pub broker_pid: Option<u32>,
    /// The broker's metrics page, as HOST:PORT or URL: then puts to its object store and their sizes are reported.
    #[arg(long)]
    pub metrics: Option<String>,
    /// Counts the broker's system calls with perf, which slows each of them a little.
    #[arg(long, requires = "broker_pid")]
    pub syscalls: bool,
    /// One line of JSON instead of text.
    #[arg(long)]
    pub json: bool,
}

impl Options {
    /// With the size that the records have.
    ///
    /// # Errors
    /// If the file of the values cannot be read, or is empty.
    pub fn sized(&self) -> Result<Options, BenchError> {
        let mut sized = self.clone();
        if let Some(file) = &self.payload_file {
            sized.record_bytes = std::fs::read(file)?.len();
            if sized.record_bytes == 0 {
                return Err(BenchError::Options(format!("{} is empty", file.display())));
            }
        }
        Ok(sized)
    }

    /// The values of one producer.
    ///
    /// # Errors
    /// If the file of the values cannot be read.
    pub fn payload(&self) -> Result<Payload, BenchError> {
        Ok(match &self.payload_file {
            Some(file) => Payload::one(std::fs::read(file)?),
            None => Payload::random(self.record_bytes, self.batch_bytes, self.random_ratio),
        })
    }
}

fn compression(name: &str) -> Result<Compression, String> {
    match name {
        "none" => Ok(Compression::None),
        "gzip" => Ok(Compression::Gzip),
        "snappy" => Ok(Compression::Snappy),
        "lz4" => Ok(Compression::Lz4),
        "zstd" => Ok(Compression::Zstd),
        _ => Err("it is none, gzip, snappy, lz4 or zstd".to_string()),
    }
}
