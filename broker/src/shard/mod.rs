//! One shard: the partitions that it owns, and everything that happens to them.
//!
//! A shard lives on one executor, so its state is a plain `RefCell`: no borrow is held across an `.await`, and what may
//! have changed meanwhile is checked again after it. [`produce`] accepts, [`flush`] makes durable, [`fetch`] reads,
//! [`read_ahead`] reads before somebody asks, [`roll`] turns the tail into segments, [`ownership`] claims partitions and gives them up,
//! [`hand_over`] passes them on, [`leadership`] makes sure of them, [`admin`] does what
//! administrators ask.

pub mod admin;
pub mod fetch;
pub mod flush;
mod gather;
mod hand_over;
mod housekeeping;
mod leadership;
mod merge;
pub mod ownership;
pub mod produce;
mod quarantine;
mod read_ahead;
mod records;
mod retention;
pub mod roll;
mod roll_policy;
pub mod segments;
pub mod status;
pub mod tail;
pub mod takeover;
#[cfg(test)]
mod tests;

use crate::cluster::image::{ClusterImage, TopicImage};
use crate::cluster::registration::Registration;
use crate::mailbox::{
    DeleteRecordsRequest, ListOffsetsRequest, ListOffsetsResult, PartitionStats, ProduceResult, ShardRequest,
    ShardStats,
};
use crate::metrics::{Metrics, TopicMetrics};
use crate::quarantine::QuarantineBoard;
use crate::runtime::{Instant, Runtime};
use crate::topic_config::TopicConfig;
use bytes::BytesMut;
use futures::channel::oneshot;
use kafscale_codec::error_code::ErrorCode;
use kafscale_metastore::keys::{PartitionRecord, StreamRecord};
use kafscale_metastore::{Metastore, Revision, Versioned};
use kafscale_storage_engine::cache::BlockCache;
use kafscale_storage_engine::object_store::ObjectStore;
use kafscale_storage_engine::partition_log::{Location, ObjectRef, PartitionKey, PartitionLog};
use kafscale_storage_engine::pending_acks::PendingAcks;
use kafscale_storage_engine::wal::StreamId;
use leadership::Questions;
use status::ShardStatus;
use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, HashMap, VecDeque};
use std::hash::{BuildHasherDefault, DefaultHasher};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

/// Messages that are handled in one go; a full inbox must not keep connections waiting.
const YIELD_AFTER: u32 = 16;

/// What a shard needs to know of the settings.
#[derive(Debug, Clone)]
pub struct ShardConfig {
    /// This broker.
    pub broker_id: i32,
    /// This life of it.
    pub incarnation: u64,
    /// This shard.
    pub shard: u32,
    /// How many shards the broker has.
    pub shards: u32,
    /// Prefix of every key in the object store.
    pub namespace: String,
    /// Bytes at which a flush starts at once.
    pub flush_bytes: usize,
    /// How long the oldest record waits for company.
    pub flush_interval: Duration,
    /// Puts in flight.
    pub flush_pipeline: usize,
    /// Bytes accepted and not durable at most: what comes beyond is refused. Connections that wait for their answers stay
    /// below by themselves; this bounds what is left by those that went away.
    pub undurable_bytes_max: usize,
    /// Bytes of committed records kept in memory.
    pub tail_memory_bytes: usize,
    /// Bytes of blocks read from the object store that are kept.
    pub cache_bytes: usize,
    /// Blocks of segments read ahead of a consumer that reads in sequence.
    pub read_ahead_blocks: u64,
    /// How long an idempotent producer is remembered without a word from it.
    pub producer_expiration_ms: i64,
    /// Partitions per claiming transaction at most; fewer where they have many topics and former owners, for each of which
    /// the transaction compares something.
    pub claim_batch: usize,
    /// Pause between two looks at what is to be rolled, trimmed, deleted.
    pub housekeeping_interval: Duration,
    /// Live slots of a stream above which they are merged.
    pub live_slots_max: usize,
    /// Runs in a stream's live objects above which partitions are rolled.
    pub live_runs_max: u64,
    /// Bytes that one merge takes.
    pub merge_bytes_max: u64,
    /// How long a partition with few unrolled bytes may wait to be rolled, ms.
    pub segment_small_ms: i64,
    /// How long an object that nothing refers to any more stays, for readers that planned with it.
    pub delete_grace: Duration,
    /// How long a slot's put is retried before the stream is given up.
    pub put_give_up: Duration,
    /// How long a fence outlives its stream.
    pub fence_life: Duration,
    /// A leader that was away from the metastore for longer than this neither reads nor writes.
    pub away_max: Duration,
    /// How often a partition's retention is looked at.
    pub retention_interval: Duration,
    /// Defaults of topic settings, by Kafka's names.
    pub topic_defaults: Arc<BTreeMap<String, String>>,
    /// Where the broker's quarantined partitions are written down.
    pub board: QuarantineBoard,
}

/// A shard. Cheap to share within its executor.
pub struct Shard {
    /// Its settings.
    pub config: ShardConfig,
    /// Its time and tasks.
    pub runtime: Rc<dyn Runtime>,
    /// The object store.
    pub store: Rc<dyn ObjectStore>,
    /// The metastore.
    pub metastore: Rc<dyn Metastore>,
    /// Blocks read from the object store.
    pub cache: Rc<BlockCache>,
    /// What it counts.
    pub metrics: Rc<Metrics>,
    state: RefCell<State>,
    image: RefCell<Arc<ClusterImage>>,
    flush_wake: Wake,
    ownership_wake: Wake,
    draining: Cell<bool>,
    /// The store has no room for records: they are refused before they are accepted.
    full: Cell<bool>,
    stopped: Cell<bool>,
    /// The picture by which nothing here belongs to another broker.
    placed: RefCell<Option<Arc<ClusterImage>>>,
    registration: Arc<Registration>,
    /// The registration since which it is known that nobody has taken over.
    led_since: Cell<u64>,
    questions: Questions,
}

/// Partitions by key. The hasher has no random keys: its order is the same in every run of a simulation, and what it
/// hashes are topic ids, which no client chooses.
type PartitionMap = HashMap<PartitionKey, Partition, BuildHasherDefault<DefaultHasher>>;

struct State {
    partitions: PartitionMap,
    /// Partitions that this shard should serve and refuses. None of them is in `partitions`.
    quarantined: BTreeMap<PartitionKey, quarantine::Quarantined>,
    stream: Option<OpenStream>,
    arena: BytesMut,
    dirty: Vec<PartitionKey>,
    buffered_bytes: usize,
    buffered_since: Option<Instant>,
    acks: PendingAcks<PendingProduce>,
    memory: VecDeque<(PartitionKey, i64, usize)>,
    memory_bytes: usize,
    /// Records that somebody wants deleted.
    deletions: VecDeque<DeleteRecordsRequest>,
    /// Objects that nothing refers to any more, with the time from which they may be deleted.
    doomed: VecDeque<(Instant, String)>,
    /// The search for producers that fell silent.
    expiry: housekeeping::Expiry,
}

/// A produce request whose reply waits for durability.
#[derive(Debug)]
struct PendingProduce {
    results: Vec<(PartitionKey, ProduceResult)>,
    reply: oneshot::Sender<Vec<ProduceResult>>,
}

impl PendingProduce {
    /// Sends the reply. The client may have gone; then nobody wants it.
    fn answer(self) {
        let _ = self
            .reply
            .send(self.results.into_iter().map(|(_, result)| result).collect());
    }
}

/// The stream that this shard appends to.
struct OpenStream {
    id: StreamId,
    mod_revision: Revision,
    record: StreamRecord,
    /// What the record may be instead, and what memory has to change then: nobody knows whether these were applied.
    doubtful: Vec<(StreamRecord, merge::StreamChange)>,
    next_seq: u64,
    next_commit_seq: u64,
    /// Bytes of the objects of all slots that are not committed.
    in_flight_bytes: u64,
    finished: BTreeMap<u64, flush::FinishedSlot>,
    /// Objects that hold unrolled runs, by first slot.
    live: BTreeMap<u64, LiveObject>,
}

/// A write-ahead object of the open stream that cannot go yet.
#[derive(Debug, Clone)]
struct LiveObject {
    object: ObjectRef,
    level: u8,
    /// Its bytes without the runs that are not needed any more.
    bytes: u64,
    runs_left: u32,
}

/// A partition on the shard that owns it.
struct Partition {
    log: PartitionLog,
    record: PartitionRecord,
    mod_revision: Revision,
    /// What the record may be instead: changes of it that nobody knows to be applied or not.
    doubtful: Vec<PartitionRecord>,
    folder: String,
    topic: Arc<TopicImage>,
    config: Rc<TopicConfig>,
    metrics: Rc<TopicMetrics>,
    waiters: Vec<(i64, async_channel::Sender<()>)>,
    segments: segments::SegmentList,
    hints: VecDeque<fetch::PositionHint>,
    retention_checked: Instant,
    /// It could not be rolled because of damage, and is not tried before this.
    roll_rests_until: Instant,
    /// It is being handed over: nothing is appended any more.
    moving: bool,
    /// The transaction that releases it is under way: it may be another's before this shard hears of it, so nothing is read
    /// here any more.
    releasing: bool,
}

/// A wake-up that is remembered until it is taken; many make one.
struct Wake {
    tx: async_channel::Sender<()>,
    rx: async_channel::Receiver<()>,
}

impl Wake {
    fn new() -> Self {
        let (tx, rx) = async_channel::bounded(1);
        Wake { tx, rx }
    }

    fn wake(&self) {
        // Full means that a wake-up waits already.
        let _ = self.tx.try_send(());
    }

    async fn wait(&self) {
        // The sender lives in the same struct, so the channel is never closed.
        let _ = self.rx.recv().await;
    }
}

impl Shard {
    /// A shard that owns nothing yet. [`Shard::run`] gives it life.
    pub fn new(
        config: ShardConfig,
        runtime: Rc<dyn Runtime>,
        store: Rc<dyn ObjectStore>,
        metastore: Rc<dyn Metastore>,
        metrics: Rc<Metrics>,
        registration: Arc<Registration>,
    ) -> Rc<Self> {
        let cache = BlockCache::new(store.clone(), config.cache_bytes as u64, fetch::CACHE_BLOCK_BYTES);
        Rc::new(Shard {
            cache: Rc::new(cache),
            runtime,
            store,
            metastore,
            metrics,
            state: RefCell::new(State {
                partitions: PartitionMap::default(),
                quarantined: BTreeMap::new(),
                stream: None,
                arena: BytesMut::new(),
                dirty: Vec::new(),
                buffered_bytes: 0,
                buffered_since: None,
                acks: PendingAcks::default(),
                memory: VecDeque::new(),
                memory_bytes: 0,
                deletions: VecDeque::new(),
                doomed: VecDeque::new(),
                expiry: housekeeping::Expiry::default(),
            }),
            image: RefCell::new(Arc::new(ClusterImage::default())),
            flush_wake: Wake::new(),
            ownership_wake: Wake::new(),
            draining: Cell::new(false),
            full: Cell::new(false),
            stopped: Cell::new(false),
            placed: RefCell::default(),
            registration,
            led_since: Cell::new(0),
            questions: Questions::default(),
            config,
        })
    }

    /// Starts the shard's tasks and serves its inbox until [`Shard::stop`] or until all senders are gone.
    pub async fn run(self: Rc<Self>, inbox: async_channel::Receiver<ShardRequest>) {
        self.look_for_room().await;
        let shard = self.clone();
        self.runtime
            .spawn("flush", Box::pin(async move { shard.flush_loop().await }));
        let shard = self.clone();
        self.runtime
            .spawn("ownership", Box::pin(async move { shard.ownership_loop().await }));
        let shard = self.clone();
        self.runtime
            .spawn("housekeeping", Box::pin(async move { shard.housekeeping_loop().await }));
        let mut handled = 0u32;
        while let Ok(request) = inbox.recv().await {
            if self.stopped.get() {
                break;
            }
            self.handle(request);
            handled = handled.wrapping_add(1);
            if handled.is_multiple_of(YIELD_AFTER) {
                self.runtime.yield_now().await;
            }
        }
    }

    /// Handles one message without waiting: what takes time becomes a task.
    pub fn handle(self: &Rc<Self>, request: ShardRequest) {
        match request {
            ShardRequest::Produce(request) => self.accept_produce(request),
            ShardRequest::Fetch(request) => self.start_fetch(request),
            ShardRequest::Wait(request) => self.wait_for_data(request),
            ShardRequest::ListOffsets(request) => self.start_list_offsets(request),
            ShardRequest::DeleteRecords(request) => self.accept_delete_records(request),
            ShardRequest::EpochEnd(request) => self.epoch_end(request),
            ShardRequest::Inspect(request) => self.inspect(request),
            ShardRequest::Status(reply) => self.tell_status(reply),
            ShardRequest::Image(image) => self.set_image(image),
            ShardRequest::Drain(reply) => self.start_drain(reply),
        }
    }

    /// The cluster as this shard knows it.
    pub fn image(&self) -> Arc<ClusterImage> {
        self.image.borrow().clone()
    }

    /// Ends every task of the shard at its next step. What is accepted and not durable is not acknowledged.
    pub fn stop(&self) {
        self.stopped.set(true);
        self.flush_wake.wake();
        self.ownership_wake.wake();
    }

    /// Whether [`Shard::stop`] was called.
    pub fn is_stopped(&self) -> bool {
        self.stopped.get()
    }

    fn set_image(self: &Rc<Self>, image: Arc<ClusterImage>) {
        self.drop_what_others_own(&image);
        *self.image.borrow_mut() = image;
        self.ownership_wake.wake();
    }

    fn tell_status(self: &Rc<Self>, reply: oneshot::Sender<ShardStatus>) {
        let shard = self.clone();
        self.runtime.spawn(
            "status",
            // Whoever asked may have gone.
            Box::pin(async move { drop(reply.send(shard.status().await)) }),
        );
    }

    fn start_list_offsets(self: &Rc<Self>, request: ListOffsetsRequest) {
        let shard = self.clone();
        self.runtime.spawn(
            "list-offsets",
            Box::pin(async move {
                let result = match shard.leads().await {
                    true => {
                        shard
                            .list_offsets(request.key, request.timestamp, request.current_leader_epoch)
                            .await
                    }
                    false => ListOffsetsResult::error(ErrorCode::NOT_LEADER_OR_FOLLOWER),
                };
                let _ = request.reply.send(result);
            }),
        );
    }

    /// Refuses new batches from now on and answers once every accepted one is answered and others may go on from there.
    fn start_drain(self: &Rc<Self>, reply: oneshot::Sender<()>) {
        self.draining.set(true);
        let shard = self.clone();
        self.runtime.spawn(
            "drain",
            Box::pin(async move {
                while !shard.stopped.get() && !shard.state.borrow().acks.is_empty() {
                    shard.flush_wake.wake();
                    shard.runtime.sleep(Duration::from_millis(5)).await;
                }
                if !shard.stopped.get() {
                    shard.end_own_stream().await;
                }
                let _ = reply.send(());
            }),
        );
    }

    /// The shard in numbers.
    pub fn stats(&self) -> ShardStats {
        let state = self.state.borrow();
        ShardStats {
            shard: self.config.shard,
            partitions: state
                .partitions
                .values()
                .map(|partition| PartitionStats {
                    topic: partition.topic.name.clone(),
                    key: partition.log.key(),
                    leader_epoch: partition.log.leader_epoch(),
                    log_start_offset: partition.log.log_start_offset(),
                    high_watermark: partition.log.high_watermark(),
                    tail_bytes: partition.log.tail_bytes(),
                })
                .collect(),
            stream: state.stream.as_ref().map(|stream| stream.id.0),
            memory_bytes: state.memory_bytes,
            live_objects: state.stream.as_ref().map_or(0, |stream| stream.live.len()),
            live_runs: state.stream.as_ref().map_or(0, OpenStream::live_runs),
            puts_in_flight: state.stream.as_ref().map_or(0, OpenStream::in_flight),
            quarantined: state.quarantined.keys().copied().collect(),
            doomed: state.doomed.len(),
            deletions: state.deletions.len(),
        }
    }
}

impl Partition {
    /// Bytes of its records in the object store; none as long as its segments are not listed.
    fn size_bytes(&self) -> Option<u64> {
        let segments = self.segments.listed()?;
        let segment_bytes: u64 = segments.values().map(|segment| segment.bytes).sum();
        Some(segment_bytes + self.log.tail_bytes())
    }
}

impl Partition {
    fn is_in_doubt(&self) -> bool {
        !self.doubtful.is_empty()
    }
}

impl OpenStream {
    /// Its record as this shard knows it.
    fn versioned(&self) -> Versioned<StreamRecord> {
        Versioned {
            value: self.record.clone(),
            mod_revision: self.mod_revision,
        }
    }

    /// The record is this from now on. Attempts that are still on their way compare an older revision: they have failed.
    fn adopt_record(&mut self, record: StreamRecord, revision: Revision) {
        self.record = record;
        self.mod_revision = revision;
        self.doubtful.clear();
    }

    fn live_runs(&self) -> u64 {
        self.live.values().map(|object| u64::from(object.runs_left)).sum()
    }

    fn in_flight(&self) -> usize {
        (self.next_seq - self.next_commit_seq) as usize
    }

    /// One run of an object is needed no more. Objects of other streams are the reconciler's.
    fn release(&mut self, location: Location) {
        let object = location.object;
        if let Some(live) = self
            .live
            .get_mut(&object.first_seq)
            .filter(|live| live.object == object)
        {
            live.runs_left = live.runs_left.saturating_sub(1);
            live.bytes = live.bytes.saturating_sub(location.length);
        }
    }
}

impl State {
    /// The open stream, if it is this one.
    fn open(&self, id: StreamId) -> Option<&OpenStream> {
        self.stream.as_ref().filter(|stream| stream.id == id)
    }

    fn open_mut(&mut self, id: StreamId) -> Option<&mut OpenStream> {
        self.stream.as_mut().filter(|stream| stream.id == id)
    }

    /// The partition, if this shard leads it in the epoch that the client believes in.
    fn led(&self, key: PartitionKey, current_leader_epoch: i32) -> Result<&Partition, ErrorCode> {
        let partition = self.partitions.get(&key).filter(|partition| !partition.releasing);
        let partition = partition.ok_or_else(|| quarantine::refusal(&self.quarantined, key))?;
        let epoch = partition.log.leader_epoch();
        if current_leader_epoch >= 0 && current_leader_epoch < epoch {
            return Err(ErrorCode::FENCED_LEADER_EPOCH);
        }
        if current_leader_epoch > epoch {
            return Err(ErrorCode::UNKNOWN_LEADER_EPOCH);
        }
        Ok(partition)
    }
}
