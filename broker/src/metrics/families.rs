//! The table of metrics: names, kinds and help.

/// What a family's samples are, and how those of several shards become one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Only grows; added up.
    Counter,
    /// Goes up and down; added up.
    Gauge,
    /// Buckets, in microseconds, shown in seconds; added up.
    SecondsHistogram,
    /// Buckets in bytes; added up.
    BytesHistogram,
}

/// One metric with all its series.
#[derive(Debug, PartialEq, Eq)]
pub struct Family {
    /// Name, unit last.
    pub name: &'static str,
    /// What it tells.
    pub help: &'static str,
    /// What its samples are.
    pub kind: Kind,
    /// Names of its labels.
    pub labels: &'static [&'static str],
}

macro_rules! families {
    ($($(#[doc = $help:literal])+ $id:ident = $name:literal, $kind:ident, [$($label:literal),*];)*) => {
        $($(#[doc = $help])+
        pub static $id: Family = Family {
            name: $name,
            help: concat!($($help),+).trim_ascii(),
            kind: Kind::$kind,
            labels: &[$($label),*],
        };)*

        /// All of them.
        pub static ALL: &[&Family] = &[$(&$id),*];
    };
}

families! {
    /// Always 1; the label tells the version.
    BUILD_INFO = "kafscale_build_info", Gauge, ["version"];
    /// Requests answered.
    REQUESTS = "kafscale_requests_total", Counter, ["request"];
    /// Requests whose answer carries an error.
    REQUEST_ERRORS = "kafscale_request_errors_total", Counter, ["request"];
    /// Time from a request read to its answer ready, long polls included.
    REQUEST_DURATION = "kafscale_request_duration_seconds", SecondsHistogram, ["request"];
    /// Records made durable.
    PRODUCE_RECORDS = "kafscale_produce_records_total", Counter, ["topic"];
    /// Bytes of record batches made durable.
    PRODUCE_BYTES = "kafscale_produce_bytes_total", Counter, ["topic"];
    /// Records handed to consumers.
    FETCH_RECORDS = "kafscale_fetch_records_total", Counter, ["topic"];
    /// Bytes of record batches handed to consumers.
    FETCH_BYTES = "kafscale_fetch_bytes_total", Counter, ["topic"];
    /// What acknowledgements waited for: a flush to start, the upload, uploads before it.
    ACK_WAIT = "kafscale_ack_wait_seconds", SecondsHistogram, ["stage"];
    /// Requests to the object store.
    STORE_REQUESTS = "kafscale_object_store_requests_total", Counter, ["operation"];
    /// Requests to the object store that failed, by what is known of them.
    STORE_ERRORS = "kafscale_object_store_errors_total", Counter, ["operation", "error"];
    /// Bytes sent to or received from the object store.
    STORE_BYTES = "kafscale_object_store_bytes_total", Counter, ["operation"];
    /// Time of requests to the object store, failed ones included.
    STORE_DURATION = "kafscale_object_store_duration_seconds", SecondsHistogram, ["operation"];
    /// Sizes of the objects that were created; its count is the number of successful puts.
    STORE_OBJECT_SIZE = "kafscale_object_store_put_size_bytes", BytesHistogram, [];
    /// Bytes of fetches found in the cache.
    CACHE_HIT_BYTES = "kafscale_cache_hit_bytes_total", Counter, [];
    /// Bytes of fetches read from the object store.
    CACHE_MISS_BYTES = "kafscale_cache_miss_bytes_total", Counter, [];
    /// Bytes read from the object store before a consumer that reads in sequence asked for them.
    CACHE_READ_AHEAD_BYTES = "kafscale_cache_read_ahead_bytes_total", Counter, [];
    /// Open client connections.
    CONNECTIONS = "kafscale_connections", Gauge, [];
    /// Client connections accepted.
    CONNECTIONS_ACCEPTED = "kafscale_connections_accepted_total", Counter, [];
    /// Objects that nobody can need, deleted by the reconciler: of streams without a record, and what interrupted deletions left.
    ORPHANED_OBJECTS_DELETED = "kafscale_orphaned_objects_deleted_total", Counter, [];
    /// Client connections closed at once because there were too many.
    CONNECTIONS_REFUSED = "kafscale_connections_refused_total", Counter, [];
    /// Fetch sessions of open connections.
    FETCH_SESSIONS = "kafscale_fetch_sessions", Gauge, [];
    /// Partitions in the fetch sessions of open connections.
    FETCH_SESSION_PARTITIONS = "kafscale_fetch_session_partitions", Gauge, [];
    /// Time since a shard last made records durable. It grows while nobody produces.
    LAST_UPLOAD_AGE = "kafscale_last_upload_age_seconds", Gauge, ["shard"];
    /// Values of the metastore that exist and that this broker cannot read. The status page and the log name them.
    UNREADABLE_VALUES = "kafscale_metastore_unreadable_values", Gauge, [];
    /// Offset after the last record that consumers can read.
    HIGH_WATERMARK = "kafscale_partition_high_watermark", Gauge, ["topic", "partition"];
    /// First offset that consumers can read.
    LOG_START_OFFSET = "kafscale_partition_log_start_offset", Gauge, ["topic", "partition"];
    /// Committed bytes of a partition that are not in segments yet.
    UNROLLED_BYTES = "kafscale_partition_unrolled_bytes", Gauge, ["topic", "partition"];
    /// Bytes of recent records kept in memory.
    TAIL_MEMORY_BYTES = "kafscale_tail_memory_bytes", Gauge, ["shard"];
    /// Write-ahead objects that still hold records without a segment.
    LIVE_OBJECTS = "kafscale_wal_live_objects", Gauge, ["shard"];
    /// Runs of records in them, each of one partition; above 700000 partitions are rolled early.
    LIVE_RUNS = "kafscale_wal_live_runs", Gauge, ["shard"];
    /// Reads for consumers whose bytes were damaged or incomplete; each was read again once. The log names the objects.
    DAMAGED_READS = "kafscale_damaged_reads_total", Counter, [];
    /// Partitions that are refused because what they need is damaged or missing; the log and `/readyz` name them.
    PARTITIONS_QUARANTINED = "kafscale_partitions_quarantined", Gauge, ["shard"];
    /// Puts under way.
    PUTS_IN_FLIGHT = "kafscale_puts_in_flight", Gauge, ["shard"];
    /// Resident memory size.
    PROCESS_RSS = "process_resident_memory_bytes", Gauge, [];
    /// User and system CPU time.
    PROCESS_CPU = "process_cpu_seconds_total", Gauge, [];
    /// Open file descriptors.
    PROCESS_FDS = "process_open_fds", Gauge, [];
    /// Start of the process, seconds since the Unix epoch.
    PROCESS_START = "process_start_time_seconds", Gauge, [];
}

/// `docs/metrics.md`.
pub fn markdown() -> String {
    let mut text = String::from(
        "# Metrics\n\n\
         <!-- Generated from the broker's table of metrics by `make docs`. -->\n\n\
         `GET /metrics` on the HTTP port (9093) answers in Prometheus' text format. `/healthz` answers 200 while the broker runs,\n\
         `/readyz` only while it serves: it answers 503 during start and drain.\n\n\
         | metric | kind | labels | what it tells |\n|---|---|---|---|\n",
    );
    for family in ALL {
        let labels: Vec<String> = family.labels.iter().map(|label| format!("`{label}`")).collect();
        text += &format!(
            "| `{}` | {} | {} | {} |\n",
            family.name,
            family.type_name(),
            labels.join(" "),
            family.help
        );
    }
    text
}

impl Family {
    /// The type as Prometheus calls it. CPU seconds have fractions, which our counters have not: a gauge that only grows.
    pub(super) fn type_name(&self) -> &'static str {
        match self.kind {
            Kind::Counter => "counter",
            Kind::Gauge if self.name.ends_with("_total") => "counter",
            Kind::Gauge => "gauge",
            Kind::SecondsHistogram | Kind::BytesHistogram => "histogram",
        }
    }
}
