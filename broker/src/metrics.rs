//! What a shard counts, and how the shards' numbers become one page for Prometheus.
//!
//! Each shard counts in plain cells of its own, so counting costs no lock and no shared cache line. A scrape asks every
//! shard for a snapshot through a channel; snapshots are added up, family by family.

mod cell;
mod exposition;
pub mod families;
mod process;
pub mod snapshot;
mod store;
#[cfg(test)]
mod tests;

pub use cell::{Counter, Gauge, Histogram};
pub use snapshot::Snapshot;
pub use store::{MeteredStore, StoreMetrics};

use crate::runtime::{Instant, Runtime};
use crate::shard::status::Traffic;
use futures::channel::oneshot;
use futures::future::{select, Either};
use kafscale_codec::api::ApiKey;
use std::cell::{Cell, OnceCell, RefCell};
use std::collections::{BTreeMap, HashMap};
use std::rc::Rc;
use std::time::Duration;

/// API keys are below this; the table of requests is indexed by them.
const API_KEYS: usize = 128;

/// How long a scrape waits for a shard.
const SHARD_TIMEOUT: Duration = Duration::from_secs(5);

/// The numbers of one shard. They are for that shard's thread only.
#[derive(Debug)]
pub struct Metrics {
    shard: usize,
    requests: Vec<OnceCell<RequestMetrics>>,
    topics: RefCell<HashMap<Rc<str>, Rc<TopicMetrics>>>,
    /// From the acceptance of a produce request to the start of the put that carries it.
    pub ack_queued: Histogram,
    /// From the start of the put to its success.
    pub ack_uploading: Histogram,
    /// From the success of the put to the answer: waiting for the puts before it.
    pub ack_committing: Histogram,
    /// What was asked of the object store.
    pub store: StoreMetrics,
    /// Open client connections.
    pub connections: Gauge,
    /// Client connections accepted.
    pub connections_accepted: Counter,
    /// Objects that nobody could need, deleted by the reconciler.
    pub orphaned_objects_deleted: Counter,
    /// Client connections closed at once because there were too many.
    pub connections_refused: Counter,
    /// Reads from the object store or the cache whose bytes were damaged.
    pub damaged_reads: Counter,
    /// Fetch sessions of open connections.
    pub fetch_sessions: Gauge,
    /// Partitions in them.
    pub fetch_session_partitions: Gauge,
    /// When this shard last made something durable.
    pub last_upload_at: Cell<Option<Instant>>,
}

/// The requests of one API.
#[derive(Debug)]
pub struct RequestMetrics {
    /// From the whole request read to its answer ready, long polls included.
    pub duration: Histogram,
    /// Requests whose answer carries an error.
    pub errors: Counter,
}

/// The traffic of one topic on this shard. Keep the `Rc` where the topic is looked up anyway.
#[derive(Debug, Default)]
pub struct TopicMetrics {
    /// Records that became durable.
    pub produce_records: Counter,
    /// Their bytes, as stored.
    pub produce_bytes: Counter,
    /// Records handed to consumers.
    pub fetch_records: Counter,
    /// Bytes handed to consumers.
    pub fetch_bytes: Counter,
}

impl Metrics {
    /// Zero everywhere.
    pub fn new(shard: usize) -> Rc<Self> {
        Rc::new(Metrics {
            shard,
            requests: (0..API_KEYS).map(|_| OnceCell::new()).collect(),
            topics: RefCell::default(),
            ack_queued: Histogram::latency(),
            ack_uploading: Histogram::latency(),
            ack_committing: Histogram::latency(),
            store: StoreMetrics::new(),
            connections: Gauge::default(),
            connections_accepted: Counter::default(),
            orphaned_objects_deleted: Counter::default(),
            connections_refused: Counter::default(),
            damaged_reads: Counter::default(),
            fetch_sessions: Gauge::default(),
            fetch_session_partitions: Gauge::default(),
            last_upload_at: Cell::new(None),
        })
    }

    /// The numbers of one API.
    pub fn request(&self, api: ApiKey) -> &RequestMetrics {
        let new = || RequestMetrics {
            duration: Histogram::latency(),
            errors: Counter::default(),
        };
        self.requests[api as i16 as usize].get_or_init(new)
    }

    /// The numbers of one topic.
    pub fn topic(&self, name: &str) -> Rc<TopicMetrics> {
        let mut topics = self.topics.borrow_mut();
        match topics.get(name) {
            Some(topic) => topic.clone(),
            None => topics.entry(name.into()).or_default().clone(),
        }
    }

    /// Drops the series of a topic that was deleted, so that the page does not grow for ever.
    pub fn forget_topic(&self, name: &str) {
        self.topics.borrow_mut().remove(name);
    }

    /// Requests answered, of all APIs.
    pub fn requests_answered(&self) -> u64 {
        let counted = self.requests.iter().filter_map(OnceCell::get);
        counted.map(|request| request.duration.count()).sum()
    }

    /// The traffic of all topics.
    pub fn traffic(&self) -> BTreeMap<String, Traffic> {
        let traffic = |topic: &TopicMetrics| Traffic {
            produce_records: topic.produce_records.get(),
            produce_bytes: topic.produce_bytes.get(),
            fetch_records: topic.fetch_records.get(),
            fetch_bytes: topic.fetch_bytes.get(),
        };
        let topics = self.topics.borrow();
        topics
            .iter()
            .map(|(name, topic)| (name.to_string(), traffic(topic)))
            .collect()
    }

    /// Everything counted so far.
    pub fn snapshot(&self, now: Instant) -> Snapshot {
        let mut into = Snapshot::default();
        for (key, request) in self.requests.iter().enumerate() {
            let Some(request) = request.get() else { continue };
            let api = ApiKey::from_key(key as i16)
                .expect("only real keys are ever counted")
                .name();
            let labels = || vec![("request", api.to_owned())];
            into.counter(&families::REQUESTS, labels(), request.duration.count());
            into.counter(&families::REQUEST_ERRORS, labels(), request.errors.get());
            into.histogram(&families::REQUEST_DURATION, labels(), &request.duration);
        }
        for (name, topic) in self.topics.borrow().iter() {
            let series = [
                (&families::PRODUCE_RECORDS, &topic.produce_records),
                (&families::PRODUCE_BYTES, &topic.produce_bytes),
                (&families::FETCH_RECORDS, &topic.fetch_records),
                (&families::FETCH_BYTES, &topic.fetch_bytes),
            ];
            for (family, counter) in series {
                into.counter(family, vec![("topic", name.to_string())], counter.get());
            }
        }
        let stages = [
            ("queued", &self.ack_queued),
            ("uploading", &self.ack_uploading),
            ("committing", &self.ack_committing),
        ];
        for (stage, histogram) in stages {
            into.histogram(&families::ACK_WAIT, vec![("stage", stage.to_owned())], histogram);
        }
        self.store.add_to(&mut into);
        into.gauge(&families::CONNECTIONS, vec![], self.connections.get() as f64);
        into.counter(&families::CONNECTIONS_ACCEPTED, vec![], self.connections_accepted.get());
        into.counter(
            &families::ORPHANED_OBJECTS_DELETED,
            vec![],
            self.orphaned_objects_deleted.get(),
        );
        into.counter(&families::CONNECTIONS_REFUSED, vec![], self.connections_refused.get());
        into.counter(&families::DAMAGED_READS, vec![], self.damaged_reads.get());
        into.gauge(&families::FETCH_SESSIONS, vec![], self.fetch_sessions.get() as f64);
        let partitions = self.fetch_session_partitions.get() as f64;
        into.gauge(&families::FETCH_SESSION_PARTITIONS, vec![], partitions);
        if let Some(at) = self.last_upload_at.get() {
            let age = now.saturating_sub(at).as_secs_f64();
            into.gauge(&families::LAST_UPLOAD_AGE, vec![("shard", self.shard.to_string())], age);
        }
        into
    }
}

/// Asks a shard for its snapshot.
pub type SnapshotRequest = oneshot::Sender<Snapshot>;

/// What a shard adds to its snapshot at the time of a scrape: offsets, queue lengths, whatever others own.
pub type AddToSnapshot = Box<dyn Fn(&mut Snapshot)>;

/// Answers snapshot requests on a shard until all senders are gone. `add` is called for each.
pub async fn serve_snapshots(
    requests: async_channel::Receiver<SnapshotRequest>,
    metrics: Rc<Metrics>,
    runtime: Rc<dyn Runtime>,
    add: AddToSnapshot,
) {
    while let Ok(reply) = requests.recv().await {
        let mut snapshot = metrics.snapshot(runtime.now());
        add(&mut snapshot);
        // A scrape that has given up does not want it any more.
        let _ = reply.send(snapshot);
    }
}

/// Channels for snapshot requests, one per shard: the senders are for the `Gatherer`.
pub fn snapshot_channels(
    shards: usize,
) -> (
    Vec<async_channel::Sender<SnapshotRequest>>,
    Vec<async_channel::Receiver<SnapshotRequest>>,
) {
    (0..shards).map(|_| async_channel::bounded(4)).unzip()
}

/// Gathers the page from all shards.
pub struct Gatherer {
    shards: Vec<async_channel::Sender<SnapshotRequest>>,
    runtime: Rc<dyn Runtime>,
}

impl Gatherer {
    /// Asks these shards.
    pub fn new(shards: Vec<async_channel::Sender<SnapshotRequest>>, runtime: Rc<dyn Runtime>) -> Self {
        Gatherer { shards, runtime }
    }

    /// The page in Prometheus' text format.
    ///
    /// # Errors
    /// A sentence naming the shards that did not answer in time. Half of the numbers would look like a drop of all.
    pub async fn page(&self) -> Result<String, String> {
        let asked: Vec<_> = self
            .shards
            .iter()
            .map(|shard| {
                let (reply, answer) = oneshot::channel();
                // A full channel means that earlier scrapes still wait for this shard.
                shard.try_send(reply).ok().map(|()| answer)
            })
            .collect();
        let mut deadline = self.runtime.sleep(SHARD_TIMEOUT);
        let mut total = Snapshot::default();
        let mut silent = Vec::new();
        for (shard, answer) in asked.into_iter().enumerate() {
            let Some(answer) = answer else {
                silent.push(shard.to_string());
                continue;
            };
            match select(answer, &mut deadline).await {
                Either::Left((Ok(snapshot), _)) => total.merge(snapshot),
                Either::Left((Err(_), _)) => silent.push(shard.to_string()),
                Either::Right(_) => return Err(format!("shard {shard} did not answer within {SHARD_TIMEOUT:?}")),
            }
        }
        if !silent.is_empty() {
            return Err(format!("no answer from shard {}", silent.join(", ")));
        }
        total.gauge(
            &families::BUILD_INFO,
            vec![("version", env!("CARGO_PKG_VERSION").to_owned())],
            1.0,
        );
        process::add_to(&mut total);
        Ok(exposition::text(&total))
    }
}
