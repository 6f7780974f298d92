//! One broker process: stores, shards, listeners, from start to orderly end.

use crate::assembly::{introduce, may_found, recognise, Assembly, RunningShard, Seams, Tuning};
use crate::cluster::catalog::CatalogKeeper;
use crate::cluster::membership::LeaseTerms;
use crate::connection;
use crate::coordinator::service::CoordinatorInbox;
use crate::executors::{self, ExecutorError, ExecutorOptions, ShardResult};
use crate::http::{HttpServer, Phase, Readiness};
use crate::listener::{bind_for_shards, BoundListener, ShardListener};
use crate::mailbox::ShardRequest;
use crate::metrics::{
    families, serve_snapshots, snapshot_channels, Gatherer, MeteredStore, Metrics, Snapshot, SnapshotRequest,
};
use crate::node::Node;
use crate::runtime::glommio::GlommioRuntime;
use crate::runtime::Runtime;
use crate::settings::Settings;
use crate::shard::Shard;
use crate::shutdown::{Shutdown, Started};
use crate::status::Status;
use crate::stores::{MetastoreHandle, Objects, Stores, StoresError};
use futures::future::{select, Either};
use kafscale_codec::types::TopicId;
use kafscale_metastore::cluster;
use kafscale_metastore::keys::Key;
use kafscale_metastore::operation::OperationError;
use kafscale_storage_engine::object_store::s3::probe;
use std::cell::Cell;
use std::error::Error;
use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::rc::Rc;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// Why the broker did not start, or ended otherwise than asked to.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// A store cannot be opened.
    #[error(transparent)]
    Stores(#[from] StoresError),
    /// The metastore does not do its work.
    #[error("metastore: {0}")]
    Metastore(#[from] OperationError),
    /// The listener cannot be opened.
    #[error("{0}")]
    Listen(io::Error),
    /// The thread that watches the start cannot be had.
    #[error("watch the start: {0}")]
    Watch(io::Error),
    /// The shards did not start, or one failed.
    #[error(transparent)]
    Executors(#[from] ExecutorError),
}

/// What every shard's thread starts from.
#[derive(Clone)]
struct Parts {
    assembly: Assembly,
    metastore: MetastoreHandle,
    objects: Objects,
    snapshots: Vec<async_channel::Sender<SnapshotRequest>>,
    readiness: Readiness,
    started: Started,
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
    let started =
        Started::within(Duration::from_secs(settings.startup_timeout_sec), shutdown).map_err(ServeError::Watch)?;
    let stores = Stores::open(&settings)?;
    look_before_founding(&stores, &settings)?;
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
    let settings = Arc::new(settings);
    let proposed_cluster_id = TopicId(random_bytes()).to_string();
    let metastore = stores.metastore.for_shard();
    let introduced = introduce(&*metastore, &settings, address.port(), shard_ports, proposed_cluster_id);
    let (broker, cluster_id) = futures::executor::block_on(introduced)?;
    let (mut assembly, inboxes) = Assembly::new(settings.clone(), Tuning::default(), broker, cluster_id);
    if !stores.metastore.is_shared() {
        assembly.lease = LeaseTerms::alone(assembly.lease.ttl);
    }
    let mut http = bind_for_shards(settings.metrics_addr, 1)
        .map_err(ServeError::Listen)?
        .pop();
    let (snapshots, snapshot_receivers) = snapshot_channels(settings.shards);
    let mut coordinator = Some(inboxes.coordinator);
    let seats = inboxes
        .shards
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
                coordinator: coordinator.take(),
            })
        })
        .collect();
    let options = ExecutorOptions {
        shards: settings.shards,
        preempt_timer: Duration::from_micros(settings.preempt_timer_us),
        spin: Duration::from_micros(settings.spin_us),
    };
    let readiness = Readiness::new(assembly.quarantine.clone());
    let parts = Parts {
        assembly,
        metastore: stores.metastore.clone(),
        objects: stores.objects.clone(),
        snapshots,
        readiness,
        started,
        shutdown: shutdown.clone(),
        seats: Arc::new(Mutex::new(seats)),
    };
    let executors = executors::start(options, move |shard| serve_shard(parts, shard))?;
    executors.join(|| shutdown.request())?;
    Ok(())
}

/// If the metastore knows no cluster, looks whether the object store does, before anything is written.
fn look_before_founding(stores: &Stores, settings: &Settings) -> Result<(), ServeError> {
    let known = futures::executor::block_on(cluster::load_cluster(&*stores.metastore.for_shard()))?;
    if known.is_some() || settings.use_memory_s3 {
        return Ok(());
    }
    let (objects, metastore) = (stores.objects.clone(), stores.metastore.clone());
    let namespace = settings.namespace.clone();
    let options = ExecutorOptions {
        shards: 1,
        preempt_timer: Duration::from_micros(settings.preempt_timer_us),
        spin: Duration::ZERO,
    };
    let look = move |_| async move {
        let store = objects.for_shard()?;
        Ok(may_found(&*store, &*metastore.for_shard(), &namespace).await?)
    };
    executors::start(options, look)?.join(|| {})?;
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

/// Sixteen random bytes from the standard library's own seeding.
fn random_bytes() -> [u8; 16] {
    use std::hash::{BuildHasher, Hasher, RandomState};
    let word = || RandomState::new().build_hasher().finish();
    (u128::from(word()) << 64 | u128::from(word())).to_be_bytes()
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
    let settings = &parts.assembly.settings;
    let runtime: Rc<dyn Runtime> = GlommioRuntime::new();
    let metrics = Metrics::new(number);
    let seams = Seams {
        runtime: runtime.clone(),
        store: MeteredStore::new(parts.objects.for_shard()?, metrics.clone(), runtime.clone()),
        metastore: parts.metastore.for_shard(),
        metrics: metrics.clone(),
    };
    if number == 0 && parts.objects.is_shared() {
        probe(&*seams.store, &settings.namespace)
            .await
            .map_err(|error| format!("object store: {error}"))?;
    }
    if !settings.use_memory_s3 {
        // Memory forgets with the process, as was warned of.
        let cluster_id = &parts.assembly.cluster_id;
        recognise(&*seams.store, &*seams.metastore, &settings.namespace, cluster_id).await?;
    }
    let running = parts.assembly.start_shard(number, inbox, coordinator, seams);
    let node = running.node.clone();
    if number == 0 && !settings.use_memory_s3 {
        let keeper = CatalogKeeper::new(running.shard.clone());
        runtime.spawn("catalog", Box::pin(keeper.run()));
    }
    let counted = node.clone();
    let add = Box::new(move |into: &mut Snapshot| {
        add_partitions(&counted.shard, into);
        if number == 0 {
            into.gauge(&families::UNREADABLE_VALUES, vec![], counted.unreadable().len() as f64);
        }
    });
    runtime.spawn(
        "snapshots",
        Box::pin(serve_snapshots(snapshots, metrics, runtime.clone(), add)),
    );
    let http = http.map(BoundListener::listen).transpose()?.map(Rc::new);
    if let Some(http) = http.clone() {
        let gatherer = Gatherer::new(parts.snapshots.clone(), runtime.clone());
        let server = HttpServer::new(
            gatherer,
            Some(Status::new(node.clone())),
            parts.readiness.clone(),
            runtime.clone(),
        );
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
    let failed = serve_until_the_end(&parts, number, &running, listener.local_addr()).await;
    parts.readiness.set(Phase::Draining);
    listener.close();
    if let Some(direct) = direct {
        direct.close();
    }
    running.drain().await;
    if let Some(http) = http {
        http.close();
    }
    running.stop();
    failed.map_or(Ok(()), Err)
}

/// Serves until the end is asked for. If the coordinator ends before, or another process has this broker's id, this asks
/// itself and says why: a broker whose groups nobody serves, or that nobody counts as a broker, would look healthy.
async fn serve_until_the_end(
    parts: &Parts,
    number: usize,
    running: &RunningShard,
    address: SocketAddr,
) -> Option<Box<dyn Error + Send + Sync>> {
    let serve = pin!(async {
        if number == 0 {
            running.coordinator_loaded().await;
            let ready = pin!(announce(&running.node, address));
            if let Either::Left(_) = select(ready, pin!(parts.shutdown.requested())).await {
                parts.readiness.set(Phase::Serving);
                parts.started.tell();
            }
        }
        parts.shutdown.requested().await;
    });
    let ended = pin!(async {
        match select(pin!(running.coordinator_ended()), pin!(running.replaced())).await {
            Either::Left((end, _)) => format!("group coordinator: {end}").into(),
            Either::Right((replaced, _)) => replaced.into(),
        }
    });
    match select(serve, ended).await {
        Either::Left(_) => None,
        Either::Right((why, _)) => {
            parts.shutdown.request();
            Some(why)
        }
    }
}

/// What a shard and its partitions are at now, and what its cache did.
fn add_partitions(shard: &Shard, into: &mut Snapshot) {
    let stats = shard.stats();
    let of_shard = || vec![("shard", stats.shard.to_string())];
    into.gauge(&families::TAIL_MEMORY_BYTES, of_shard(), stats.memory_bytes as f64);
    into.gauge(&families::LIVE_OBJECTS, of_shard(), stats.live_objects as f64);
    into.gauge(&families::LIVE_RUNS, of_shard(), stats.live_runs as f64);
    into.gauge(&families::PUTS_IN_FLIGHT, of_shard(), stats.puts_in_flight as f64);
    into.gauge(
        &families::PARTITIONS_QUARANTINED,
        of_shard(),
        stats.quarantined.len() as f64,
    );
    for partition in &stats.partitions {
        let labels = || {
            vec![
                ("topic", partition.topic.clone()),
                ("partition", partition.key.partition.to_string()),
            ]
        };
        into.gauge(&families::HIGH_WATERMARK, labels(), partition.high_watermark as f64);
        into.gauge(&families::LOG_START_OFFSET, labels(), partition.log_start_offset as f64);
        into.gauge(&families::UNROLLED_BYTES, labels(), partition.tail_bytes as f64);
    }
    let cache = shard.cache.stats();
    into.counter(&families::CACHE_HIT_BYTES, vec![], cache.hits);
    into.counter(&families::CACHE_MISS_BYTES, vec![], cache.misses);
    into.counter(&families::CACHE_READ_AHEAD_BYTES, vec![], cache.read_ahead);
}

/// Says that the broker serves, once every partition that it should lead is led.
async fn announce(node: &Rc<Node>, address: SocketAddr) {
    let broker_id = node.config.broker_id;
    // The deadline is kept by whoever waits for the start.
    node.wait_for_image(Duration::MAX, |image| {
        // A quarantined partition is settled: only a person can change what is wrong with it.
        let board = &node.shard.config.board;
        let led = |topic: &crate::cluster::image::TopicImage| {
            (0..topic.record.partitions as i32).all(|partition| {
                let key = Key::Partition(topic.record.topic_id, partition);
                image.live_leader(topic, partition).is_some()
                    || image.unreadable.contains_key(&key)
                    || board.contains(&topic.name, partition)
            })
        };
        image.complete && image.brokers.contains_key(&broker_id) && image.topics.values().all(|topic| led(topic))
    })
    .await;
    log::info!("broker listening on {address}");
}

/// Accepts connections until the listener is closed. Before this shard's image of the cluster is complete none is: an
/// answer would show topics and groups as missing, and clients act on that. Connections wait in the kernel meanwhile.
async fn accept(listener: Rc<ShardListener>, node: Rc<Node>, connections_max: usize) {
    node.wait_for_image(Duration::MAX, |image| image.complete).await;
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
