//! One broker process: stores, shards, listeners, from start to orderly end.

use crate::budget::ByteBudget;
use crate::cluster::membership::Membership;
use crate::cluster::reconciler::Reconciler;
use crate::connection;
use crate::coordinator::host::{service_config, CoordinatorHost, GROUP_REQUESTS_MAX};
use crate::coordinator::service::{inbox as coordinator_inbox, CoordinatorHandle, CoordinatorInbox, ServiceEnd};
use crate::data_dir::{DataDir, DataDirError};
use crate::executors::{self, ExecutorError, ExecutorOptions, ShardResult};
use crate::http::{HttpServer, Phase, Readiness};
use crate::listener::{bind_for_shards, BoundListener, ShardListener};
use crate::mailbox::{Inbox, ShardRequest, INBOX_CAPACITY};
use crate::metrics::{
    families, serve_snapshots, snapshot_channels, Gatherer, MeteredStore, Metrics, Snapshot, SnapshotRequest,
};
use crate::node::{Node, NodeConfig};
use crate::runtime::glommio::GlommioRuntime;
use crate::runtime::Runtime;
use crate::settings::Settings;
use crate::shard::{Shard, ShardConfig};
use crate::shutdown::Shutdown;
use futures::channel::oneshot;
use futures::future::{select, Either};
use kafscale_metastore::embedded::{EmbeddedMetastore, OpenError};
use kafscale_metastore::keys::{BrokerRecord, ClusterRecord};
use kafscale_metastore::operation::OperationError;
use kafscale_metastore::{cluster, counters, Metastore};
use kafscale_storage_engine::object_store::local::LocalStore;
use kafscale_storage_engine::object_store::memory::MemoryStore;
use kafscale_storage_engine::object_store::{ObjectStore, StoreError};
use std::cell::Cell;
use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::rc::Rc;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// Live slots of a stream above which they are merged (DESIGN: the unrolled part has a budget).
const LIVE_SLOTS_MAX: usize = 1000;

/// How often a shard looks for something to roll, merge, trim or delete.
const HOUSEKEEPING_INTERVAL: Duration = Duration::from_millis(250);

/// How often what nothing refers to any more is deleted.
const RECONCILE_INTERVAL: Duration = Duration::from_secs(10);

/// How long objects outlive the last reference, for readers that planned with them.
const DELETE_GRACE: Duration = Duration::from_secs(60);

/// A put that has not succeeded for this long gives its stream up; far below the day that a fence lasts.
const PUT_GIVE_UP: Duration = Duration::from_secs(15 * 60);

/// Bytes of requests under way per shard: beyond it sockets are not read.
const REQUEST_BUDGET_BYTES: usize = 64 << 20;

/// How long connections get to send their last answers after everything accepted is durable.
const LAST_ANSWERS: Duration = Duration::from_millis(100);

/// Why the broker did not start, or ended otherwise than asked to.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The data directory cannot be used.
    #[error(transparent)]
    DataDir(#[from] DataDirError),
    /// The metastore cannot be opened.
    #[error("metastore: {0}")]
    OpenMetastore(#[from] OpenError),
    /// The metastore does not do its work.
    #[error("metastore: {0}")]
    Metastore(#[from] OperationError),
    /// The object store cannot be opened.
    #[error("object store: {0}")]
    Store(#[from] StoreError),
    /// The listener cannot be opened.
    #[error("{0}")]
    Listen(io::Error),
    /// The shards did not start, or one failed.
    #[error(transparent)]
    Executors(#[from] ExecutorError),
}

/// Which object store there is.
#[derive(Clone)]
enum Store {
    Local(LocalStore),
    Memory(MemoryStore),
}

impl Store {
    fn for_shard(&self) -> Rc<dyn ObjectStore> {
        match self {
            Store::Local(store) => Rc::new(store.handle()),
            Store::Memory(store) => Rc::new(store.clone()),
        }
    }
}

/// What every shard's thread starts from.
#[derive(Clone)]
struct Parts {
    settings: Arc<Settings>,
    topic_defaults: Arc<BTreeMap<String, String>>,
    metastore: EmbeddedMetastore,
    store: Store,
    broker: BrokerRecord,
    cluster_id: String,
    inboxes: Vec<Inbox>,
    coordinator: CoordinatorHandle,
    snapshots: Vec<async_channel::Sender<SnapshotRequest>>,
    readiness: Readiness,
    shutdown: Shutdown,
    seats: Arc<Mutex<Vec<Option<Seat>>>>,
}

/// What only one shard gets.
struct Seat {
    inbox: async_channel::Receiver<ShardRequest>,
    listener: BoundListener,
    snapshots: async_channel::Receiver<SnapshotRequest>,
    /// The shard's own port, if clients go straight to the shards.
    direct: Option<BoundListener>,
    /// The first shard's.
    http: Option<BoundListener>,
    /// The first shard's.
    coordinator: Option<CoordinatorInbox>,
}

/// Serves until `shutdown` is requested and everything accepted is answered.
pub fn run(settings: Settings, shutdown: &Shutdown) -> Result<(), ServeError> {
    // Held to the end: nobody else may use the directory meanwhile.
    let data_dir = DataDir::lock(&settings.data_dir)?;
    let metastore = EmbeddedMetastore::open(&data_dir.path().join("metastore"))?;
    let store = if settings.use_memory_s3 {
        log::warn!("use_memory_s3 is set: records are kept in memory only and are lost with this process");
        Store::Memory(MemoryStore::new())
    } else {
        Store::Local(LocalStore::open(data_dir.path().join("objects"))?)
    };
    let listeners = bind_for_shards(settings.broker_addr, settings.shards).map_err(ServeError::Listen)?;
    let address = listeners
        .first()
        .map_or(settings.broker_addr, BoundListener::local_addr);
    let direct = bind_direct(&settings)?;
    let shard_ports = direct
        .iter()
        .flatten()
        .map(|listener| listener.local_addr().port())
        .collect();
    let (broker, cluster_id) = futures::executor::block_on(introduce(&metastore, &settings, address, shard_ports))?;
    let (inboxes, receivers): (Vec<_>, Vec<_>) = (0..settings.shards)
        .map(|_| async_channel::bounded(INBOX_CAPACITY))
        .unzip();
    let mut http = bind_for_shards(settings.metrics_addr, 1)
        .map_err(ServeError::Listen)?
        .pop();
    let (coordinator, coordinator_inbox) = coordinator_inbox(GROUP_REQUESTS_MAX);
    let mut coordinator_inbox = Some(coordinator_inbox);
    let (snapshots, snapshot_receivers) = snapshot_channels(settings.shards);
    let seats = receivers
        .into_iter()
        .zip(listeners)
        .zip(snapshot_receivers)
        .zip(direct)
        .map(|(((inbox, listener), snapshots), direct)| {
            Some(Seat {
                inbox,
                listener,
                snapshots,
                direct,
                http: http.take(),
                coordinator: coordinator_inbox.take(),
            })
        })
        .collect();
    let options = ExecutorOptions {
        shards: settings.shards,
        preempt_timer: Duration::from_micros(settings.preempt_timer_us),
        spin: Duration::from_micros(settings.spin_us),
    };
    let parts = Parts {
        topic_defaults: Arc::new(topic_defaults(&settings)),
        settings: Arc::new(settings),
        metastore,
        store,
        broker,
        cluster_id,
        inboxes,
        coordinator,
        snapshots,
        readiness: Readiness::default(),
        shutdown: shutdown.clone(),
        seats: Arc::new(Mutex::new(seats)),
    };
    let executors = executors::start(options, move |shard| serve_shard(parts, shard))?;
    executors.join(|| shutdown.request())?;
    Ok(())
}

/// One listener per shard on consecutive ports, if that is set; nothing for each shard otherwise.
fn bind_direct(settings: &Settings) -> Result<Vec<Option<BoundListener>>, ServeError> {
    let bind = |shard: usize| {
        let Some(base) = settings.shard_direct_base_port else {
            return Ok(None);
        };
        let address = SocketAddr::new(settings.broker_addr.ip(), base + shard as u16);
        Ok(bind_for_shards(address, 1).map_err(ServeError::Listen)?.pop())
    };
    (0..settings.shards).map(bind).collect()
}

/// Takes a new incarnation, and finds the cluster or founds it.
async fn introduce(
    metastore: &dyn Metastore,
    settings: &Settings,
    address: SocketAddr,
    shard_ports: Vec<u16>,
) -> Result<(BrokerRecord, String), OperationError> {
    let incarnation = counters::allocate(metastore, "incarnations", 1).await?;
    let proposed = ClusterRecord {
        cluster_id: kafscale_codec::types::TopicId(random_bytes()).to_string(),
    };
    let cluster = cluster::load_or_create_cluster(metastore, &proposed).await?;
    let port = if settings.advertised_port == 0 {
        address.port()
    } else {
        settings.advertised_port
    };
    let broker = BrokerRecord {
        broker_id: settings.broker_id,
        incarnation,
        host: settings.advertised_host.clone(),
        port,
        rack: settings.rack.clone(),
        shards: settings.shards as u32,
        shard_ports,
    };
    Ok((broker, cluster.cluster_id))
}

/// Sixteen random bytes from the standard library's own seeding.
fn random_bytes() -> [u8; 16] {
    use std::hash::{BuildHasher, Hasher, RandomState};
    let word = || RandomState::new().build_hasher().finish();
    (u128::from(word()) << 64 | u128::from(word())).to_be_bytes()
}

fn topic_defaults(settings: &Settings) -> BTreeMap<String, String> {
    BTreeMap::from([
        ("max.message.bytes".to_string(), settings.message_max_bytes.to_string()),
        ("retention.bytes".to_string(), settings.retention_bytes.to_string()),
        ("retention.ms".to_string(), settings.retention_ms.to_string()),
        ("segment.bytes".to_string(), settings.segment_bytes.to_string()),
        ("segment.ms".to_string(), settings.segment_ms.to_string()),
    ])
}

/// One shard from start to end, on its own executor.
async fn serve_shard(parts: Parts, number: usize) -> ShardResult {
    let seat = parts
        .seats
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .get_mut(number)
        .and_then(Option::take);
    let Seat {
        inbox,
        listener,
        snapshots,
        direct,
        http,
        coordinator,
    } = seat.ok_or("there are more executors than shards")?;
    let settings = &parts.settings;
    let runtime: Rc<dyn Runtime> = GlommioRuntime::new();
    let metastore: Rc<dyn Metastore> = Rc::new(parts.metastore.clone());
    let metrics = Metrics::new(number);
    let store = MeteredStore::new(parts.store.for_shard(), metrics.clone(), runtime.clone());
    let shard = Shard::new(
        shard_config(&parts, number),
        runtime.clone(),
        store,
        metastore.clone(),
        metrics.clone(),
    );
    let counted = shard.clone();
    let add = Box::new(move |into: &mut Snapshot| add_partitions(&counted, into));
    runtime.spawn(
        "snapshots",
        Box::pin(serve_snapshots(snapshots, metrics, runtime.clone(), add)),
    );
    let running = shard.clone();
    runtime.spawn("shard", Box::pin(async move { running.run(inbox).await }));
    let membership = (number == 0).then(|| {
        let lease_ttl = Duration::from_millis(settings.broker_lease_ttl_ms);
        let (cluster_id, broker) = (parts.cluster_id.clone(), parts.broker.clone());
        Membership::new(
            runtime.clone(),
            metastore.clone(),
            cluster_id,
            broker,
            lease_ttl,
            parts.inboxes.clone(),
        )
    });
    if let Some(membership) = &membership {
        membership.start();
        let reconciler = Reconciler::new(shard.clone(), RECONCILE_INTERVAL);
        runtime.spawn("reconcile", Box::pin(reconciler.run()));
    }
    let coordinator = coordinator
        .map(|inbox| CoordinatorHost::start(&shard, &runtime, metastore.clone(), service_config(settings), inbox));
    let node = Rc::new(Node {
        config: NodeConfig {
            broker_id: settings.broker_id,
            request_bytes_max: settings.socket_request_max_bytes,
            requests_in_flight_max: settings.max_requests_in_flight,
            auto_create_topics: settings.auto_create_topics,
            auto_create_partitions: settings.auto_create_partitions,
            allow_admin_apis: settings.allow_admin_apis,
            topic_defaults: parts.topic_defaults.clone(),
        },
        shard: shard.clone(),
        inboxes: parts.inboxes.clone(),
        coordinator: parts.coordinator.clone(),
        runtime: runtime.clone(),
        metastore,
        budget: ByteBudget::new(REQUEST_BUDGET_BYTES),
    });
    let http = http.map(BoundListener::listen).transpose()?.map(Rc::new);
    if let Some(http) = http.clone() {
        let gatherer = Gatherer::new(parts.snapshots.clone(), runtime.clone());
        let server = HttpServer::new(gatherer, parts.readiness.clone(), runtime.clone());
        runtime.spawn("http", Box::pin(async move { server.serve(http).await }));
    }
    let listener = Rc::new(listener.listen()?);
    let per_shard = settings.max_connections.div_ceil(settings.shards);
    let (accepting, accepted_from) = (listener.clone(), node.clone());
    runtime.spawn(
        "accept",
        Box::pin(async move { accept(accepting, accepted_from, per_shard).await }),
    );
    let direct = direct.map(BoundListener::listen).transpose()?.map(Rc::new);
    if let Some(direct) = direct.clone() {
        let accepted_from = node.clone();
        runtime.spawn(
            "accept",
            Box::pin(async move { accept(direct, accepted_from, per_shard).await }),
        );
    }
    let failed = match &coordinator {
        Some(coordinator) => serve_until_the_end(&parts, &node, listener.local_addr(), coordinator).await,
        None => {
            parts.shutdown.requested().await;
            None
        }
    };
    parts.readiness.set(Phase::Draining);
    listener.close();
    if let Some(direct) = direct {
        direct.close();
    }
    if let Some(coordinator) = &coordinator {
        coordinator.stop();
    }
    let (reply, drained) = oneshot::channel();
    shard.handle(ShardRequest::Drain(reply));
    // An error would mean that the shard has stopped already.
    let _ = drained.await;
    if let (Some(coordinator), None) = (&coordinator, &failed) {
        // Who waits in a group has been answered then.
        coordinator.ended().await;
    }
    if let Some(membership) = membership {
        membership.stop();
    }
    runtime.sleep(LAST_ANSWERS).await;
    if let Some(http) = http {
        http.close();
    }
    shard.stop();
    match failed {
        Some(end) => Err(format!("group coordinator: {end}").into()),
        None => Ok(()),
    }
}

/// Serves until the end is asked for. If the coordinator ends before, it asks itself and says why: a broker whose groups
/// nobody serves would look healthy.
async fn serve_until_the_end(
    parts: &Parts,
    node: &Rc<Node>,
    address: SocketAddr,
    coordinator: &CoordinatorHost,
) -> Option<ServiceEnd> {
    let limit = Duration::from_secs(parts.settings.startup_timeout_sec);
    let serve = pin!(async {
        coordinator.loaded().await;
        announce(node, address, limit).await;
        parts.readiness.set(Phase::Serving);
        parts.shutdown.requested().await;
    });
    match select(serve, pin!(coordinator.ended())).await {
        Either::Left(_) => None,
        Either::Right((end, _)) => {
            parts.shutdown.request();
            Some(end)
        }
    }
}

fn shard_config(parts: &Parts, number: usize) -> ShardConfig {
    let settings = &parts.settings;
    ShardConfig {
        broker_id: settings.broker_id,
        incarnation: parts.broker.incarnation,
        shard: number as u32,
        shards: settings.shards as u32,
        namespace: settings.namespace.clone(),
        flush_bytes: settings.flush_bytes,
        flush_interval: Duration::from_millis(settings.flush_interval_ms),
        flush_pipeline: settings.flush_pipeline,
        tail_memory_bytes: settings.tail_memory_bytes / settings.shards,
        cache_bytes: settings.cache_bytes / settings.shards,
        producer_expiration_ms: settings.producer_id_expiration_ms,
        housekeeping_interval: HOUSEKEEPING_INTERVAL,
        live_slots_max: LIVE_SLOTS_MAX,
        delete_grace: DELETE_GRACE,
        put_give_up: PUT_GIVE_UP,
        topic_defaults: parts.topic_defaults.clone(),
    }
}

/// The offsets of the partitions that a shard owns, and what its cache did.
fn add_partitions(shard: &Shard, into: &mut Snapshot) {
    for partition in shard.stats().partitions {
        let labels = || {
            vec![
                ("topic", partition.topic.clone()),
                ("partition", partition.key.partition.to_string()),
            ]
        };
        into.gauge(&families::HIGH_WATERMARK, labels(), partition.high_watermark as f64);
        into.gauge(&families::LOG_START_OFFSET, labels(), partition.log_start_offset as f64);
    }
    let (hits, misses) = shard.cache.hits_and_misses();
    into.counter(&families::CACHE_HIT_BYTES, vec![], hits);
    into.counter(&families::CACHE_MISS_BYTES, vec![], misses);
}

/// Says that the broker serves, once every partition that it should lead is led.
async fn announce(node: &Rc<Node>, address: SocketAddr, limit: Duration) {
    let broker_id = node.config.broker_id;
    node.wait_for_image(limit, |image| {
        let led = |topic: &crate::cluster::image::TopicImage| {
            (0..topic.record.partitions as i32).all(|partition| image.live_leader(topic, partition).is_some())
        };
        image.complete && image.brokers.contains_key(&broker_id) && image.topics.values().all(|topic| led(topic))
    })
    .await;
    log::info!("broker listening on {address}");
}

/// Accepts connections until the listener is closed.
async fn accept(listener: Rc<ShardListener>, node: Rc<Node>, connections_max: usize) {
    let open = Rc::new(Cell::new(0));
    while let Some(stream) = listener.accept().await {
        if open.get() >= connections_max {
            node.shard.metrics.connections_refused.add(1);
            log::warn!("{connections_max} connections are open on this shard: another one is refused");
            continue;
        }
        open.set(open.get() + 1);
        let metrics = node.shard.metrics.clone();
        metrics.connections_accepted.add(1);
        metrics.connections.add(1);
        let (node, open) = (node.clone(), open.clone());
        // A client that is gone already has no address, and no request either.
        let host = stream
            .peer_addr()
            .map_or_else(|_| "".into(), |peer| format!("/{}", peer.ip()).into());
        node.runtime.clone().spawn(
            "connection",
            Box::pin(async move {
                if let Err(error) = connection::serve(node, host, stream).await {
                    log::debug!("connection ends: {error}");
                }
                open.set(open.get() - 1);
                metrics.connections.add(-1);
            }),
        );
    }
}
