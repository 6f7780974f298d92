//! Every setting once: name, environment variable, kind, bounds, default, and why one would change it.

/// How a setting's value is written, and its bounds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A whole number from `min` to `max`, in `unit` (empty: a plain count).
    Number {
        /// Smallest value.
        min: i64,
        /// Largest value.
        max: i64,
        /// What is counted.
        unit: &'static str,
    },
    /// Bytes from `min` to `max`: a number, or one with KiB, MiB or GiB after it.
    Bytes {
        /// Smallest value.
        min: i64,
        /// Largest value.
        max: i64,
    },
    /// `true` or `false` (also 1/0, yes/no, on/off).
    Bool,
    /// `host:port`; the host may be left out.
    Address,
    /// One of these words.
    Word(&'static [&'static str]),
    /// A path.
    Path,
    /// Anything without control characters.
    Text,
    /// A text that is never logged.
    Secret,
}

/// One setting. Its flag is `--` and the name with dashes; the name itself is the key in the settings file.
#[derive(Debug, Clone, Copy)]
pub struct Spec {
    /// Name, as in the settings file.
    pub name: &'static str,
    /// Environment variable.
    pub env: &'static str,
    /// How the value is written.
    pub kind: Kind,
    /// Value if nothing is set, as one would write it; none if it follows from the machine or other settings.
    pub default: Option<&'static str>,
    /// What it does, and when to change it; for a default that is none, how it is found.
    pub doc: &'static str,
}

impl Spec {
    /// The flag, `--flush-interval-ms` for example.
    pub fn flag(&self) -> String {
        format!("--{}", self.name.replace('_', "-"))
    }

    /// The values it accepts, for people.
    pub fn values(&self) -> String {
        match self.kind {
            Kind::Number { min, max, unit } => {
                let unit = if unit.is_empty() {
                    String::new()
                } else {
                    format!(" {unit}")
                };
                match max {
                    i64::MAX => format!("{min} or more{unit}"),
                    _ => format!("{min} to {max}{unit}"),
                }
            }
            Kind::Bytes { min, max } => match max {
                i64::MAX => format!("{min} or more bytes"),
                _ => format!("{min} to {max} bytes"),
            },
            Kind::Bool => "true, false".to_owned(),
            Kind::Address => "host:port".to_owned(),
            Kind::Word(words) => words.join(", "),
            Kind::Path => "path".to_owned(),
            Kind::Text | Kind::Secret => "text".to_owned(),
        }
    }
}

const MAX: i64 = i64::MAX;

const fn spec(
    name: &'static str,
    env: &'static str,
    kind: Kind,
    default: Option<&'static str>,
    doc: &'static str,
) -> Spec {
    Spec {
        name,
        env,
        kind,
        default,
        doc,
    }
}

const fn number(min: i64, max: i64, unit: &'static str) -> Kind {
    Kind::Number { min, max, unit }
}

const fn bytes(min: i64, max: i64) -> Kind {
    Kind::Bytes { min, max }
}

/// The settings, in the order of the documentation.
#[rustfmt::skip]
pub const TABLE: &[Spec] = &[
    spec("broker_id", "KAFSCALE_BROKER_ID", number(0, i32::MAX as i64, ""), Some("1"),
        "This broker's node id. Each broker of a cluster needs its own."),
    spec("broker_addr", "KAFSCALE_BROKER_ADDR", Kind::Address, Some("0.0.0.0:9092"),
        "Where Kafka clients connect. A host that is one concrete address is also what clients are told."),
    spec("broker_host", "KAFSCALE_BROKER_HOST", Kind::Text, None,
        "The host that clients are told to connect to. Default: the host of `broker_addr` if it is concrete; else the \
         machine's host name if it resolves to this machine; else 127.0.0.1."),
    spec("broker_port", "KAFSCALE_BROKER_PORT", number(1, 65535, ""), None,
        "The port that clients are told to connect to. Default: the port of `broker_addr`."),
    spec("metrics_addr", "KAFSCALE_METRICS_ADDR", Kind::Address, Some("0.0.0.0:9093"),
        "Where the status page, `/api/v1/`, `/metrics`, `/healthz` and `/readyz` are served over HTTP."),
    spec("rack", "KAFSCALE_RACK", Kind::Text, Some(""),
        "The rack or availability zone that clients are told. Empty: none."),
    spec("data_dir", "KAFSCALE_DATA_DIR", Kind::Path, Some("./kafscale-data"),
        "Where the embedded object store and metastore live, as far as no bucket and no etcd are set. One broker at a time \
         holds it."),
    spec("namespace", "KAFSCALE_S3_NAMESPACE", Kind::Text, Some("default"),
        "First part of every object's key. Clusters that share a store need different ones."),
    spec("use_memory_s3", "KAFSCALE_USE_MEMORY_S3", Kind::Bool, Some("false"),
        "Keeps records in memory only: NOTHING IS DURABLE. For tests."),

    spec("s3_bucket", "KAFSCALE_S3_BUCKET", Kind::Text, None,
        "The bucket that holds the records. Default: none, then the records are in `data_dir`."),
    spec("s3_region", "KAFSCALE_S3_REGION", Kind::Text, Some("us-east-1"),
        "The bucket's region."),
    spec("s3_endpoint", "KAFSCALE_S3_ENDPOINT", Kind::Text, None,
        "Where the store is, as `http(s)://host[:port]`. Default: AWS in `s3_region`. The store has to honour \
         `If-None-Match: *` on PUT; a probe at the start makes sure."),
    spec("s3_path_style", "KAFSCALE_S3_PATH_STYLE", Kind::Bool, None,
        "Whether the bucket is part of the path rather than of the host's name. Default: true if `s3_endpoint` is set."),
    spec("s3_access_key", "KAFSCALE_S3_ACCESS_KEY", Kind::Text, None,
        "Access key id. Default: found as AWS tools find theirs (`AWS_*` variables, profile, web identity, container or \
         instance role), and refreshed in time."),
    spec("s3_secret_key", "KAFSCALE_S3_SECRET_KEY", Kind::Secret, None,
        "Secret key; goes with `s3_access_key`."),
    spec("s3_session_token", "KAFSCALE_S3_SESSION_TOKEN", Kind::Secret, None,
        "Session token of temporary keys; goes with `s3_access_key`."),
    spec("s3_kms_arn", "KAFSCALE_S3_KMS_ARN", Kind::Text, None,
        "KMS key with which the store encrypts objects. Default: as the bucket does by itself."),
    spec("s3_storage_class", "KAFSCALE_S3_STORAGE_CLASS", Kind::Text, None,
        "Storage class of new objects. Default: the bucket's."),
    spec("s3_ca_file", "KAFSCALE_S3_CA_FILE", Kind::Path, None,
        "PEM file of the authorities that may have signed the store's certificate, beside the system's."),
    spec("s3_read_bucket", "KAFSCALE_S3_READ_BUCKET", Kind::Text, None,
        "A replica of the bucket that reads for consumers try first; what it does not have, and everything else, is read \
         from `s3_bucket`."),
    spec("s3_read_region", "KAFSCALE_S3_READ_REGION", Kind::Text, None,
        "The replica's region. Default: `s3_region`."),
    spec("s3_read_endpoint", "KAFSCALE_S3_READ_ENDPOINT", Kind::Text, None,
        "Where the replica is. Default: as `s3_endpoint`."),
    spec("s3_concurrency", "KAFSCALE_S3_CONCURRENCY", number(1, 1024, ""), Some("64"),
        "Requests of one shard to the store that may be under way at once."),
    spec("s3_request_timeout_ms", "KAFSCALE_S3_REQUEST_TIMEOUT_MS", number(100, 600_000, "ms"), Some("10000"),
        "How long one attempt at a request to the store may take."),

    spec("etcd_endpoints", "KAFSCALE_ETCD_ENDPOINTS", Kind::Text, None,
        "The etcd cluster that coordinates several brokers, as `http(s)://host:port`, separated by commas. Needs `s3_bucket`. \
         Default: none, then this broker stands alone and its metadata are in `data_dir`."),
    spec("etcd_username", "KAFSCALE_ETCD_USERNAME", Kind::Text, None,
        "User, if etcd asks for one."),
    spec("etcd_password", "KAFSCALE_ETCD_PASSWORD", Kind::Secret, None,
        "Password of `etcd_username`."),
    spec("etcd_ca_file", "KAFSCALE_ETCD_CA_FILE", Kind::Path, None,
        "PEM file of the authorities that may have signed etcd's certificates; needed for `https` endpoints."),
    spec("etcd_cert_file", "KAFSCALE_ETCD_CERT_FILE", Kind::Path, None,
        "PEM file of this broker's certificate, if etcd asks for one."),
    spec("etcd_key_file", "KAFSCALE_ETCD_KEY_FILE", Kind::Path, None,
        "PEM file of its key."),
    spec("etcd_prefix", "KAFSCALE_ETCD_PREFIX", Kind::Text, None,
        "Comes before every key, so that clusters can share an etcd. Default: nothing."),

    spec("shards", "KAFSCALE_SHARDS", number(1, 1024, ""), None,
        "Shards, each pinned to one CPU while there are enough. Default: the CPUs this process may use."),
    spec("shard_direct_base_port", "KAFSCALE_SHARD_DIRECT_BASE_PORT", number(1024, 65535, ""), None,
        "If set, shard n also listens on this port + n, and clients are sent straight to the shard that owns a \
         partition: no hop between cores. These ports must be reachable for clients. Default: off."),
    spec("preempt_timer_us", "KAFSCALE_PREEMPT_TIMER_US", number(50, 100_000, "µs"), Some("500"),
        "How long a busy shard runs tasks before it looks at the network again. Shorter: lower latency under load, \
         less useful CPU (200 µs takes about 4% of it)."),
    spec("spin_us", "KAFSCALE_SPIN_US", number(0, 10_000, "µs"), Some("0"),
        "How long an idle shard spins before it sleeps. 100 cuts a message between cores from about 90 µs to 20 µs, \
         and burns CPU while there is little to do."),

    spec("flush_bytes", "KAFSCALE_FLUSH_BYTES", bytes(4096, 1 << 30), Some("8388608"),
        "A shard flushes when this much waits."),
    spec("flush_interval_ms", "KAFSCALE_FLUSH_INTERVAL_MS", number(0, 60_000, "ms"), None,
        "A shard flushes when its oldest record has waited this long. 0: whenever fewer than `flush_pipeline` flushes \
         are under way, so that the load itself makes the batches. Longer: fewer and larger objects. Default: 0, and 50 \
         with `s3_bucket`, where each object costs money ([operations](operations.md))."),
    spec("flush_pipeline", "KAFSCALE_FLUSH_PIPELINE", number(1, 64, ""), Some("4"),
        "Flushes of one shard that may be under way at once."),
    spec("segment_bytes", "KAFSCALE_SEGMENT_BYTES", bytes(1 << 14, 1 << 30), Some("134217728"),
        "A partition's records become a segment when there are this many bytes of them."),
    spec("segment_ms", "KAFSCALE_SEGMENT_MS", number(1000, MAX, "ms"), Some("3600000"),
        "A partition's records become a segment after this long."),
    spec("segment_small_ms", "KAFSCALE_SEGMENT_SMALL_MS", number(0, MAX, "ms"), Some("21600000"),
        "Unless there are less than an eighth of `segment_bytes` of them and the topic does not set `segment.ms` itself: then \
         after this long, or their retention if that is shorter, because a segment costs a few PUTs however small it is, \
         and in the write-ahead log many partitions share one ([operations](operations.md)). 0: no exception."),
    spec("cache_bytes", "KAFSCALE_CACHE_BYTES", bytes(0, MAX), Some("134217728"),
        "Memory for what was read back from the store, all shards together."),
    spec("tail_memory_bytes", "KAFSCALE_TAIL_MEMORY_BYTES", bytes(1 << 20, MAX), Some("268435456"),
        "Memory for recent records, from which consumers that keep up are served, all shards together."),
    spec("readahead_segments", "KAFSCALE_READAHEAD_SEGMENTS", number(0, 1024, ""), Some("2"),
        "Blocks of 1 MiB of its segments that are read ahead of a consumer that reads in sequence, at most a quarter of \
         `cache_bytes`; 0: none."),

    spec("auto_create_topics", "KAFSCALE_AUTO_CREATE_TOPICS", Kind::Bool, Some("true"),
        "Whether a topic is created when a client first asks for it."),
    spec("auto_create_partitions", "KAFSCALE_AUTO_CREATE_PARTITIONS", number(1, 10_000, ""), Some("1"),
        "Partitions of a topic that is created without a number."),
    spec("allow_admin_apis", "KAFSCALE_ALLOW_ADMIN_APIS", Kind::Bool, Some("true"),
        "Whether clients may create, change and delete topics and groups."),
    spec("message_max_bytes", "KAFSCALE_MESSAGE_MAX_BYTES", bytes(1024, 1 << 29), Some("1048588"),
        "Largest record batch, unless the topic says otherwise."),
    spec("retention_ms", "KAFSCALE_RETENTION_MS", number(-1, MAX, "ms"), Some("604800000"),
        "How long records are kept, unless the topic says otherwise; −1: for ever."),
    spec("retention_bytes", "KAFSCALE_RETENTION_BYTES", bytes(-1, MAX), Some("-1"),
        "How many bytes of a partition are kept, unless the topic says otherwise; −1: all."),
    spec("producer_id_expiration_ms", "KAFSCALE_PRODUCER_ID_EXPIRATION_MS", number(60_000, MAX, "ms"), Some("86400000"),
        "After how long without a record an idempotent producer is forgotten."),

    spec("group_initial_rebalance_delay_ms", "KAFSCALE_GROUP_INITIAL_REBALANCE_DELAY_MS",
        number(0, 300_000, "ms"), None,
        "How long a new group waits for more members before its first rebalance. With many consumers that start \
         together, 3000 saves rebalances. Default: 0, and 3000 with `etcd_endpoints`."),
    spec("group_min_session_timeout_ms", "KAFSCALE_GROUP_MIN_SESSION_TIMEOUT_MS",
        number(1, i32::MAX as i64, "ms"), Some("6000"),
        "Shortest session timeout that a member may ask for. Shorter ones find dead members sooner and mistake slow \
         ones for dead."),
    spec("group_max_session_timeout_ms", "KAFSCALE_GROUP_MAX_SESSION_TIMEOUT_MS",
        number(1, i32::MAX as i64, "ms"), Some("1800000"),
        "Longest session timeout that a member may ask for: so long a dead member may keep its partitions."),
    spec("group_consumer_session_timeout_ms", "KAFSCALE_GROUP_CONSUMER_SESSION_TIMEOUT_MS",
        number(1, 86_400_000, "ms"), Some("45000"),
        "Without a word for this long, a member of the consumer protocol (`group.protocol=consumer`) is out."),
    spec("group_consumer_heartbeat_interval_ms", "KAFSCALE_GROUP_CONSUMER_HEARTBEAT_INTERVAL_MS",
        number(1, 3_600_000, "ms"), Some("5000"),
        "How often members of the consumer protocol shall give a sign of life. What changes in a group reaches them \
         with it."),
    spec("offsets_retention_minutes", "KAFSCALE_OFFSETS_RETENTION_MINUTES",
        number(1, i32::MAX as i64, "minutes"), Some("10080"),
        "How long the offsets of a group without members are kept."),

    spec("socket_request_max_bytes", "KAFSCALE_SOCKET_REQUEST_MAX_BYTES", bytes(1024, 1 << 29), Some("104857600"),
        "Largest request; a larger one closes the connection before anything is allocated for it."),
    spec("max_connections", "KAFSCALE_MAX_CONNECTIONS", number(1, 1_000_000, ""), Some("10000"),
        "Connections of Kafka clients at once; more are closed at once."),
    spec("connections_max_idle_ms", "KAFSCALE_CONNECTIONS_MAX_IDLE_MS", number(1000, i32::MAX as i64, "ms"), Some("600000"),
        "A connection on which nothing was received or sent for this long is closed, unless a request is being worked \
         on; so is one whose client does not take its answers. Kafka's `connections.max.idle.ms`."),
    spec("max_requests_in_flight", "KAFSCALE_MAX_REQUESTS_IN_FLIGHT", number(1, 1024, ""), Some("32"),
        "Requests of one connection under way at once; beyond that its socket is not read."),

    spec("startup_timeout_sec", "KAFSCALE_STARTUP_TIMEOUT_SEC", number(1, 3600, "s"), Some("30"),
        "The broker exits with an error if it does not serve within this time."),
    spec("shutdown_deadline_ms", "KAFSCALE_SHUTDOWN_DEADLINE_MS", number(0, 3_600_000, "ms"), Some("30000"),
        "After SIGTERM the broker flushes and hands over; it exits at the latest after this long."),
    spec("broker_lease_ttl_ms", "KAFSCALE_BROKER_LEASE_TTL_MS", number(1000, 300_000, "ms"), Some("10000"),
        "How long a broker may be silent before others take over its partitions."),

    spec("log_level", "KAFSCALE_LOG_LEVEL", Kind::Word(&["error", "warn", "info", "debug", "trace"]), Some("info"),
        "Which lines are logged."),
    spec("trace_kafka", "KAFSCALE_TRACE_KAFKA", Kind::Bool, Some("false"),
        "Logs a line for each request. For debugging only: it is slow."),
];

/// Other names for a setting in the environment.
pub const ENV_ALIASES: &[(&str, &str)] = &[("KAFSCALE_NAMESPACE", "namespace")];

/// The setting of that name.
pub fn find(name: &str) -> Option<&'static Spec> {
    TABLE.iter().find(|spec| spec.name == name)
}
