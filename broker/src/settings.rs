//! What can be set, and from where: flags, then environment, then settings file, then defaults.
//!
//! `table` has every setting once; parsing, `--help` and `docs/settings.md` all come from it. A name that nobody knows,
//! a value out of bounds or two settings that contradict each other end the start, and the message says what to do.

mod host;
mod markdown;
mod sources;
mod stores;
mod table;
#[cfg(test)]
mod tests;

use crate::cluster::image::SHARD_NODE_ID_STEP;
use crate::tools::Tool;
use sources::Values;
use std::collections::BTreeMap;
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

pub use host::Host;
pub use stores::{EtcdSettings, S3Settings};
pub use table::{Kind, Spec, TABLE};

/// Where each object costs money, so long a flush waits for company by default, in milliseconds.
const S3_FLUSH_INTERVAL_MS: u64 = 50;

/// In a cluster, so long a new group waits for company by default, in milliseconds; as in Kafka.
const CLUSTER_REBALANCE_DELAY_MS: u64 = 3000;

/// Everything that can be set. Units are in the names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// Node id of this broker.
    pub broker_id: i32,
    /// Where the Kafka listener binds.
    pub broker_addr: SocketAddr,
    /// The host that Metadata tells clients.
    pub advertised_host: String,
    /// The port that Metadata tells clients; 0 as long as `broker_addr` has port 0: then the bound one.
    pub advertised_port: u16,
    /// Where the HTTP server binds.
    pub metrics_addr: SocketAddr,
    /// The rack that clients are told.
    pub rack: Option<String>,
    /// Directory of the embedded stores.
    pub data_dir: PathBuf,
    /// First part of every object key.
    pub namespace: String,
    /// Records are kept in memory only, and lost with the process.
    pub use_memory_s3: bool,
    /// The bucket that holds the records; none: they are in `data_dir`.
    pub s3: Option<S3Settings>,
    /// The etcd cluster that coordinates brokers; none: this broker stands alone.
    pub etcd: Option<EtcdSettings>,
    /// Number of shards.
    pub shards: usize,
    /// Shard n also listens on this port + n, and is advertised as a node of its own.
    pub shard_direct_base_port: Option<u16>,
    /// Longest time a busy shard does not look at its ring.
    pub preempt_timer_us: u64,
    /// How long an idle shard spins before it sleeps.
    pub spin_us: u64,
    /// Waiting bytes that cause a flush.
    pub flush_bytes: usize,
    /// Age of the oldest waiting record that causes a flush.
    pub flush_interval_ms: u64,
    /// Flushes under way at once, per shard.
    pub flush_pipeline: usize,
    /// Size at which a segment is sealed.
    pub segment_bytes: u64,
    /// Age at which a segment is sealed.
    pub segment_ms: u64,
    /// Age at which a small segment is sealed.
    pub segment_small_ms: u64,
    /// Read cache of all shards together.
    pub cache_bytes: usize,
    /// Recent records kept in memory by all shards together.
    pub tail_memory_bytes: usize,
    /// Segments fetched ahead of a sequential reader.
    pub readahead_segments: usize,
    /// Topics are created when first asked for.
    pub auto_create_topics: bool,
    /// Partitions of topics created without a number.
    pub auto_create_partitions: i32,
    /// Clients may create, change and delete topics and groups.
    pub allow_admin_apis: bool,
    /// Largest record batch, for topics that do not say.
    pub message_max_bytes: i32,
    /// How long records are kept, for topics that do not say; −1 is for ever.
    pub retention_ms: i64,
    /// Bytes kept per partition, for topics that do not say; −1 is all.
    pub retention_bytes: i64,
    /// Idle time after which a producer id is forgotten.
    pub producer_id_expiration_ms: i64,
    /// Wait of a new group for more members.
    pub group_initial_rebalance_delay_ms: u64,
    /// Shortest session timeout of a group's member.
    pub group_min_session_timeout_ms: i32,
    /// Longest session timeout of a group's member.
    pub group_max_session_timeout_ms: i32,
    /// Session timeout of members of the consumer protocol.
    pub group_consumer_session_timeout_ms: u64,
    /// Interval of their heartbeats.
    pub group_consumer_heartbeat_interval_ms: i32,
    /// How long the offsets of an empty group are kept.
    pub offsets_retention_minutes: u64,
    /// Largest request frame.
    pub socket_request_max_bytes: usize,
    /// Client connections at once, all shards together.
    pub max_connections: usize,
    /// How long nothing may move on a connection.
    pub connections_max_idle_ms: u64,
    /// Requests under way at once, per connection.
    pub max_requests_in_flight: usize,
    /// Time to serve, from the start of the process.
    pub startup_timeout_sec: u64,
    /// Time from SIGTERM to the exit at the latest.
    pub shutdown_deadline_ms: u64,
    /// Silence after which a broker's partitions are taken over.
    pub broker_lease_ttl_ms: u64,
    /// Lines that are logged.
    pub log_level: log::LevelFilter,
    /// Log each request.
    pub trace_kafka: bool,
}

impl Default for Settings {
    /// The defaults of a machine with one CPU and no name.
    fn default() -> Self {
        match Command::load(
            &[],
            &BTreeMap::new(),
            &|_| unreachable!("no file is named"),
            &Host::unknown(),
        ) {
            Ok(Command::Run { settings, .. }) => *settings,
            other => unreachable!("a test loads the table's own defaults: {other:?}"),
        }
    }
}

/// What the command line asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Command {
    /// Serve.
    Run {
        /// With these settings.
        settings: Box<Settings>,
        /// One line for each setting that is not the default: `flush_bytes = 1 (from --flush-bytes)`.
        changed: Vec<String>,
    },
    /// Do an operator's work instead of serving.
    Tool {
        /// Which.
        tool: Tool,
        /// On the stores that these name.
        settings: Box<Settings>,
    },
    /// Print this (`--help`, `--version`, `--print-settings-markdown`) and exit.
    Print(String),
}

/// Every mistake that was found in the settings, one sentence each.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SettingsError(pub Vec<String>);

impl fmt::Display for SettingsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.join("\n"))
    }
}

impl std::error::Error for SettingsError {}

/// Reads a settings file.
pub type ReadFile<'a> = &'a dyn Fn(&str) -> std::io::Result<String>;

impl Command {
    /// Reads this process's arguments, environment and settings file.
    ///
    /// # Errors
    /// Every mistake found, not only the first.
    pub fn from_process() -> Result<Command, SettingsError> {
        let lossy = |text: std::ffi::OsString| text.to_string_lossy().into_owned();
        let args: Vec<String> = std::env::args_os().skip(1).map(lossy).collect();
        let env = std::env::vars_os()
            .map(|(name, value)| (lossy(name), lossy(value)))
            .collect();
        Command::load(
            &args,
            &env,
            &|path| std::fs::read_to_string(path),
            &Host::this_machine(),
        )
    }

    /// The same from given sources. `args` are without the program's name.
    ///
    /// # Errors
    /// Every mistake found, not only the first.
    pub fn load(
        args: &[String],
        env: &BTreeMap<String, String>,
        read_file: ReadFile<'_>,
        host: &Host,
    ) -> Result<Command, SettingsError> {
        // A user who asks for help has perhaps just been told of a mistake.
        for arg in args {
            match arg.as_str() {
                "--help" | "-h" => return Ok(Command::Print(markdown::help())),
                "--version" | "-V" => return Ok(Command::Print(version())),
                "--print-settings-markdown" => return Ok(Command::Print(markdown::page())),
                _ => {}
            }
        }
        let mut mistakes = Vec::new();
        let (tool, args) = Tool::split(args, &mut mistakes);
        let values = Values::collect(&args, env, read_file, &mut mistakes);
        if !mistakes.is_empty() {
            return Err(SettingsError(mistakes));
        }
        let settings = settings(&values, host, &mut mistakes);
        if !mistakes.is_empty() {
            return Err(SettingsError(mistakes));
        }
        let settings = Box::new(settings);
        Ok(match tool {
            Some(tool) => Command::Tool { tool, settings },
            None => Command::Run {
                settings,
                changed: values.changed(),
            },
        })
    }
}

/// `kafscale-broker 0.1.0`.
pub fn version() -> String {
    format!("kafscale-broker {}", env!("CARGO_PKG_VERSION"))
}

fn settings(values: &Values, host: &Host, mistakes: &mut Vec<String>) -> Settings {
    let broker_addr = values.address("broker_addr");
    let advertised_host = match values.text("broker_host") {
        Some(host) => host.to_owned(),
        None => host.advertise(broker_addr.ip()),
    };
    let s3 = stores::s3(values, mistakes);
    let etcd = stores::etcd(values, mistakes);
    let settings = Settings {
        broker_id: values.number("broker_id"),
        broker_addr,
        advertised_host,
        advertised_port: values.optional_number("broker_port").unwrap_or(broker_addr.port()),
        metrics_addr: values.address("metrics_addr"),
        rack: values.text("rack").map(str::to_owned),
        data_dir: PathBuf::from(values.text("data_dir").unwrap_or(".")),
        namespace: values.text("namespace").unwrap_or_default().to_owned(),
        use_memory_s3: values.bool("use_memory_s3"),
        shards: values.optional_number("shards").unwrap_or(host.cpus),
        shard_direct_base_port: values.optional_number("shard_direct_base_port"),
        preempt_timer_us: values.number("preempt_timer_us"),
        spin_us: values.number("spin_us"),
        flush_bytes: values.number("flush_bytes"),
        flush_interval_ms: values.optional_number("flush_interval_ms").unwrap_or(if s3.is_some() {
            S3_FLUSH_INTERVAL_MS
        } else {
            0
        }),
        flush_pipeline: values.number("flush_pipeline"),
        segment_bytes: values.number("segment_bytes"),
        segment_ms: values.number("segment_ms"),
        segment_small_ms: values.number("segment_small_ms"),
        cache_bytes: values.number("cache_bytes"),
        tail_memory_bytes: values.number("tail_memory_bytes"),
        readahead_segments: values.number("readahead_segments"),
        auto_create_topics: values.bool("auto_create_topics"),
        auto_create_partitions: values.number("auto_create_partitions"),
        allow_admin_apis: values.bool("allow_admin_apis"),
        message_max_bytes: values.number("message_max_bytes"),
        retention_ms: values.number("retention_ms"),
        retention_bytes: values.number("retention_bytes"),
        producer_id_expiration_ms: values.number("producer_id_expiration_ms"),
        group_initial_rebalance_delay_ms: values
            .optional_number("group_initial_rebalance_delay_ms")
            .unwrap_or(if etcd.is_some() { CLUSTER_REBALANCE_DELAY_MS } else { 0 }),
        group_min_session_timeout_ms: values.number("group_min_session_timeout_ms"),
        group_max_session_timeout_ms: values.number("group_max_session_timeout_ms"),
        group_consumer_session_timeout_ms: values.number("group_consumer_session_timeout_ms"),
        group_consumer_heartbeat_interval_ms: values.number("group_consumer_heartbeat_interval_ms"),
        offsets_retention_minutes: values.number("offsets_retention_minutes"),
        socket_request_max_bytes: values.number("socket_request_max_bytes"),
        max_connections: values.number("max_connections"),
        connections_max_idle_ms: values.number("connections_max_idle_ms"),
        max_requests_in_flight: values.number("max_requests_in_flight"),
        startup_timeout_sec: values.number("startup_timeout_sec"),
        shutdown_deadline_ms: values.number("shutdown_deadline_ms"),
        broker_lease_ttl_ms: values.number("broker_lease_ttl_ms"),
        log_level: values
            .text("log_level")
            .and_then(|level| level.parse().ok())
            .unwrap_or(log::LevelFilter::Info),
        trace_kafka: values.bool("trace_kafka"),
        s3,
        etcd,
    };
    check(&settings, mistakes);
    settings
}

/// What single bounds cannot express.
fn check(settings: &Settings, mistakes: &mut Vec<String>) {
    let kafka = settings.broker_addr;
    let http = settings.metrics_addr;
    if clash(kafka.ip(), http.ip()) && kafka.port() == http.port() && kafka.port() != 0 {
        mistakes.push(format!(
            "broker_addr and metrics_addr both want port {}: change one of them",
            kafka.port()
        ));
    }
    if let Some(base) = settings.shard_direct_base_port {
        if settings.broker_id >= SHARD_NODE_ID_STEP {
            mistakes.push(format!(
                "broker_id {} must be below {SHARD_NODE_ID_STEP} with shard_direct_base_port: the shards' node ids lie above",
                settings.broker_id
            ));
        }
        let ports = u32::from(base)..u32::from(base) + settings.shards as u32;
        if ports.end > 65536 {
            mistakes.push(format!(
                "shard_direct_base_port {base} leaves no room for {} shards below port 65536: choose a lower one",
                settings.shards
            ));
        }
        for (name, port) in [("broker_addr", kafka.port()), ("metrics_addr", http.port())] {
            if ports.contains(&u32::from(port)) {
                mistakes.push(format!(
                    "port {port} of {name} lies in the shards' ports {base}..{}: change shard_direct_base_port",
                    ports.end
                ));
            }
        }
    }
    if settings.message_max_bytes as usize >= settings.socket_request_max_bytes {
        mistakes.push(format!(
            "message_max_bytes ({}) must be less than socket_request_max_bytes ({}): a batch travels in a request",
            settings.message_max_bytes, settings.socket_request_max_bytes
        ));
    }
    if settings.group_min_session_timeout_ms > settings.group_max_session_timeout_ms {
        mistakes.push(format!(
            "group_min_session_timeout_ms ({}) must not be above group_max_session_timeout_ms ({})",
            settings.group_min_session_timeout_ms, settings.group_max_session_timeout_ms
        ));
    }
    if settings.group_consumer_heartbeat_interval_ms as u64 >= settings.group_consumer_session_timeout_ms {
        mistakes.push(format!(
            "group_consumer_heartbeat_interval_ms ({}) must be below group_consumer_session_timeout_ms ({})",
            settings.group_consumer_heartbeat_interval_ms, settings.group_consumer_session_timeout_ms
        ));
    }
    let part = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
    let namespace = &settings.namespace;
    if !namespace.chars().all(part) || matches!(namespace.as_str(), "" | "." | "..") || namespace.starts_with('_') {
        mistakes.push(format!(
            "namespace {namespace:?} is no key part: use letters, digits, '.', '_' and '-', not '_' first"
        ));
    }
    if settings
        .advertised_host
        .parse::<IpAddr>()
        .is_ok_and(|ip| ip.is_unspecified())
    {
        mistakes.push(format!(
            "broker_host {} is no address that a client can connect to: name a host",
            settings.advertised_host
        ));
    }
}

/// Whether two listeners on these addresses get in each other's way.
fn clash(a: IpAddr, b: IpAddr) -> bool {
    a == b || a.is_unspecified() || b.is_unspecified()
}
