//! What an S3 store has to be told: plain data, with the reason for each default.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

/// A bucket and how to reach it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Bucket {
    /// The bucket's name.
    pub name: String,
    /// The region that requests are signed for, such as `eu-central-1`; stores that have none accept `us-east-1`.
    pub region: String,
    /// `http://host:port` or `https://host`, without a path. AWS's endpoint of the region if there is none.
    pub endpoint: Option<String>,
    /// Connect to one of these in place of what the endpoint's name resolves to.
    pub connect_to: Vec<SocketAddr>,
}

/// How to use S3.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct S3Config {
    /// Where objects are.
    pub bucket: Bucket,
    /// `host/bucket/key` in place of `bucket.host/key`; most stores other than AWS need it.
    pub path_style: bool,
    /// Encrypt objects with this KMS key (its ARN); otherwise the bucket decides.
    pub kms_key_arn: Option<String>,
    /// The storage class of new objects; the bucket's default if there is none.
    pub storage_class: Option<String>,
    /// More certificate authorities to trust than the system does, PEM.
    pub ca_file: Option<PathBuf>,
    /// A copy of the bucket (by replication, say) that reads try first.
    pub read_replica: Option<Bucket>,
    /// Times and sizes.
    pub limits: Limits,
}

impl S3Config {
    /// The usual way to use a bucket.
    pub fn new(bucket: Bucket) -> Self {
        S3Config {
            bucket,
            path_style: false,
            kms_key_arn: None,
            storage_class: None,
            ca_file: None,
            read_replica: None,
            limits: Limits::default(),
        }
    }
}

/// How much at once, how long, how often.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// Requests of this shard on their way at once; others wait. Each has a connection, so these are bounded as well.
    pub concurrency: usize,
    /// To resolve a name, connect and shake hands.
    pub connect_timeout: Duration,
    /// From a request's first byte to its answer's last, not counting what the bytes take.
    pub request_timeout: Duration,
    /// Bytes per second that a healthy connection has at least: what large bodies are given on top of the timeout.
    pub bytes_per_second_min: u64,
    /// From the call to its result, with all that is tried again.
    pub call_timeout: Duration,
    /// How often a request is sent at most.
    pub attempts_max: u32,
    /// The pause before the first repetition is drawn from zero to this; it doubles each time.
    pub backoff_first: Duration,
    /// What no pause exceeds.
    pub backoff_max: Duration,
    /// Connections that are kept open while nobody needs them.
    pub idle_connections_max: usize,
    /// How long one is kept. Less than servers keep theirs, for a request that meets a closing connection is in doubt.
    pub idle_timeout: Duration,
    /// How long a resolved name is used. S3 answers with few of many addresses, each for some seconds.
    pub resolved_for: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Limits {
            concurrency: 64,
            connect_timeout: Duration::from_secs(3),
            request_timeout: Duration::from_secs(10),
            bytes_per_second_min: 1 << 20,
            call_timeout: Duration::from_secs(30),
            attempts_max: 5,
            backoff_first: Duration::from_millis(50),
            backoff_max: Duration::from_secs(2),
            idle_connections_max: 64,
            idle_timeout: Duration::from_secs(4),
            resolved_for: Duration::from_secs(5),
        }
    }
}
