//! Brokers made of the real parts above the seams, on simulated machines that share an object store and a metastore.

use crate::checkers::bounds;
use crate::checkers::ledger::Place;
use crate::content::Damages;
use crate::executor::{Lag, ProcessId, SimRuntime, World, ENVIRONMENT};
use crate::faults::{Link, Troubles};
use crate::net::Network;
use bytes::Bytes;
use kafscale_broker::assembly::{introduce, recognise, Assembly, RecogniseError, RunningShard, Seams, Tuning};
use kafscale_broker::connection;
use kafscale_broker::mailbox::ShardStats;
use kafscale_broker::metrics::Metrics;
use kafscale_broker::settings::Settings;
use kafscale_broker::tools::{find_problems, ToolError};
use kafscale_metastore::faulty::FaultyMetastore;
use kafscale_metastore::keys::StreamState;
use kafscale_metastore::memory::MemoryMetastore;
use kafscale_metastore::partitions::load_partitions;
use kafscale_metastore::streams::{forget_stream, load_streams};
use kafscale_metastore::{prefix_end, Compare, Metastore, Op, Txn};
use kafscale_storage_engine::object_store::faulty::FaultyStore;
use kafscale_storage_engine::object_store::memory::MemoryStore;
use kafscale_storage_engine::object_store::ObjectStore;
use kafscale_storage_engine::wal::{stream_prefix, StreamId};
use std::cell::{Cell, RefCell};
use std::collections::BTreeSet;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

/// How often the metastore looks for leases that are over.
const LEASE_CHECK: Duration = Duration::from_millis(20);

/// When a broker that has ended by itself is started again.
const RESTART_PAUSE: Duration = Duration::from_millis(200);

/// Port of broker `id`.
pub fn port(id: usize) -> u16 {
    9000 + id as u16
}

/// Port of a second process with the id of broker `id`.
fn twin_port(id: usize) -> u16 {
    port(id) + 500
}

/// What a cluster is made of in one run.
#[derive(Debug, Clone)]
pub struct Shape {
    /// Brokers.
    pub brokers: usize,
    /// Shards of each.
    pub shards: usize,
    /// What is set, but for the names.
    pub settings: Settings,
    /// What is not.
    pub tuning: Tuning,
}

/// In front of a value: a version that this program does not know.
const UNKNOWN_VERSION: u8 = 200;

/// A value of the metastore that nobody can read for a while.
#[derive(Debug, Clone)]
pub struct Spoiled {
    key: Bytes,
    value: Bytes,
    spoiled: Bytes,
}

/// The shards of a process, stalled ones included.
type Shards = Rc<RefCell<Vec<Rc<RunningShard>>>>;

/// One machine with the broker on it.
struct Machine {
    process: Option<ProcessId>,
    shards: Shards,
    /// A second process with the broker's id, started by mistake.
    twin: Option<(ProcessId, Shards)>,
    troubles: Rc<Troubles>,
    skew_ms: Rc<Cell<i64>>,
    lag: Lag,
}

/// The cluster.
pub struct Cluster {
    world: World,
    network: Network,
    shape: Shape,
    machines: RefCell<Vec<Machine>>,
    /// What all brokers share.
    pub store: MemoryStore,
    /// And this.
    pub metastore: MemoryMetastore,
    /// What was done to the store's objects.
    pub damages: Damages,
}

impl Cluster {
    /// A cluster with no broker running.
    pub fn new(world: &World, network: &Network, shape: Shape) -> Rc<Self> {
        let clock = world.clone();
        let metastore = MemoryMetastore::new(move || clock.now().as_millis() as u64);
        let machines = (0..shape.brokers)
            .map(|_| Machine {
                process: None,
                shards: Rc::default(),
                twin: None,
                troubles: Rc::default(),
                skew_ms: Rc::new(Cell::new(world.draw(|random| random.between(0, 4_000)) as i64 - 2_000)),
                lag: Rc::default(),
            })
            .collect();
        let cluster = Rc::new(Cluster {
            damages: Damages::new(world, &shape.settings.namespace),
            world: world.clone(),
            network: network.clone(),
            shape,
            machines: RefCell::new(machines),
            store: MemoryStore::new(),
            metastore: metastore.clone(),
        });
        let clock = world.clone();
        world.spawn(
            ENVIRONMENT,
            "leases",
            Box::pin(async move {
                loop {
                    clock.sleep(LEASE_CHECK).await;
                    metastore.expire(clock.now().as_millis() as u64);
                }
            }),
        );
        cluster
    }

    /// Number of brokers, running or not.
    pub fn len(&self) -> usize {
        self.shape.brokers
    }

    /// A broker's troubles.
    pub fn troubles(&self, id: usize) -> Rc<Troubles> {
        self.machines.borrow()[id].troubles.clone()
    }

    /// Moves the wall clock of a broker's machine; returns how far it is off now.
    pub fn jump_clock(&self, id: usize, by_ms: i64) -> i64 {
        let skew_ms = &self.machines.borrow()[id].skew_ms;
        skew_ms.set(skew_ms.get() + by_ms);
        skew_ms.get()
    }

    /// Suspends a broker's machine for a while, if the broker runs.
    pub fn suspend(&self, id: usize, pause: Duration) {
        let machines = self.machines.borrow();
        if let Some(process) = machines[id].process {
            self.world.suspend(process, pause, machines[id].lag.clone());
        }
    }

    /// The running process of a broker.
    pub fn process(&self, id: usize) -> Option<ProcessId> {
        self.machines.borrow()[id].process
    }

    /// Every shard that runs, stalled ones included.
    pub fn shards(&self) -> Vec<Rc<RunningShard>> {
        let machines = self.machines.borrow();
        let all = machines.iter().flat_map(|machine| {
            let twins = machine.twin.as_ref().map(|(_, shards)| shards);
            twins.into_iter().chain([&machine.shards])
        });
        all.flat_map(|shards| shards.borrow().clone()).collect()
    }

    /// Forgets the history of the metastore, as etcd's compaction does.
    pub fn compact_metastore(&self) {
        self.metastore.compact(self.metastore.revision());
    }

    /// Puts a value of a version that nobody knows into one of the keys below `prefix`. Gives what has to be put back.
    pub async fn spoil(&self, prefix: &[u8]) -> Option<Spoiled> {
        // The store itself never fails.
        let all = self
            .metastore
            .range(prefix, &prefix_end(prefix), 1_000)
            .await
            .ok()?
            .items;
        let readable: Vec<_> = all
            .into_iter()
            .filter(|item| item.value[0] != UNKNOWN_VERSION)
            .collect();
        let at = self.world.draw(|random| random.below(readable.len().max(1) as u64)) as usize;
        let item = readable.into_iter().nth(at)?;
        let mut spoiled = item.value.to_vec();
        spoiled[0] = UNKNOWN_VERSION;
        let spoiled = Spoiled {
            key: item.key,
            value: item.value,
            spoiled: spoiled.into(),
        };
        log::info!("nemesis: {} is unreadable", spoiled.key.escape_ascii());
        self.swap(&spoiled.key, &spoiled.value, &spoiled.spoiled).await;
        Some(spoiled)
    }

    /// Puts a value back, unless somebody has replaced or removed it.
    pub async fn mend(&self, spoiled: &Spoiled) {
        log::info!("nemesis: {} is readable again", spoiled.key.escape_ascii());
        self.swap(&spoiled.key, &spoiled.spoiled, &spoiled.value).await;
    }

    /// What has become of streams that no partition needs after a broker was away for more than a day: the reconciler has
    /// ended those of idle shards, and forgotten all that are ended, fence and all. It leaves alone the streams of shards
    /// that still lead something: no broker keeps partitions for a day without its registration.
    pub async fn forget_ended_streams(&self) {
        let shards = self.shards();
        let stats: Vec<_> = shards.iter().map(|running| running.shard.stats()).collect();
        let is_idle = |stats: &&ShardStats| stats.partitions.is_empty() && stats.puts_in_flight == 0;
        let idle: BTreeSet<u64> = stats.iter().filter(is_idle).filter_map(|stats| stats.stream).collect();
        let busy = stats.iter().filter(|stats| !is_idle(stats));
        let mut needed: BTreeSet<u64> = busy.filter_map(|stats| stats.stream).collect();
        let Ok(partitions) = load_partitions(&self.metastore).await else {
            return;
        };
        if !partitions.unreadable.is_empty() {
            return;
        }
        for stored in partitions.items {
            let record = stored.record.value;
            needed.extend(record.tail_streams.into_iter().chain([record.stream]));
        }
        let Ok(streams) = load_streams(&self.metastore).await else {
            return;
        };
        for (stream, record) in streams.items {
            let ended = idle.contains(&stream) || matches!(record.value.state, StreamState::Sealed { .. });
            if needed.contains(&stream) || !ended {
                continue;
            }
            if forget_stream(&self.metastore, stream, record.mod_revision)
                .await
                .is_err()
            {
                continue;
            }
            log::info!("nemesis: stream {stream} is forgotten");
            let prefix = stream_prefix(&self.shape.settings.namespace, StreamId(stream));
            if let Ok(page) = self.store.list(&prefix, None, 1_000).await {
                let keys: Vec<String> = page.objects.into_iter().map(|object| object.key).collect();
                // Memory never fails.
                let _ = self.store.delete(&keys).await;
            }
        }
    }

    async fn swap(&self, key: &Bytes, before: &Bytes, after: &Bytes) {
        let put = Op::Put {
            key: key.clone(),
            value: after.clone(),
            lease: None,
        };
        let txn = Txn {
            compares: vec![Compare::Value(key.clone(), before.clone())],
            ops: vec![put],
        };
        if let Err(error) = self.metastore.txn(txn).await {
            self.world.violate(format!("swap a value: {error}"));
        }
    }

    /// Starts a broker that is not running.
    pub fn start(self: &Rc<Self>, id: usize) {
        let shards = Shards::default();
        let mut machines = self.machines.borrow_mut();
        let machine = &mut machines[id];
        if machine.process.is_none() {
            let process = self.world.new_process();
            (machine.process, machine.shards) = (Some(process), shards.clone());
            drop(machines);
            self.run(id, process, port(id), shards);
        }
    }

    /// Starts a second process with a broker's id, as somebody does who copies a command line to another machine.
    pub fn start_twin(self: &Rc<Self>, id: usize) {
        let shards = Shards::default();
        let mut machines = self.machines.borrow_mut();
        let machine = &mut machines[id];
        if machine.twin.is_none() {
            let process = self.world.new_process();
            machine.twin = Some((process, shards.clone()));
            drop(machines);
            self.run(id, process, twin_port(id), shards);
        }
    }

    fn run(self: &Rc<Self>, id: usize, process: ProcessId, port: u16, shards: Shards) {
        let cluster = self.clone();
        let main = async move { cluster.serve(id, process, port, shards).await };
        self.world.spawn(process, "main", Box::pin(main));
    }

    /// A broker's life, until its process ends.
    async fn serve(self: Rc<Self>, id: usize, process: ProcessId, port: u16, running: Shards) {
        let (skew_ms, lag, link) = {
            let machine = &self.machines.borrow()[id];
            let link = Link::new(&self.world, machine.troubles.clone());
            let lag = match machine.process == Some(process) {
                true => machine.lag.clone(),
                false => Lag::default(),
            };
            (machine.skew_ms.clone(), lag, link)
        };
        let settings = Settings {
            broker_id: id as i32,
            advertised_host: "sim".to_string(),
            advertised_port: port,
            shards: self.shape.shards,
            ..self.shape.settings.clone()
        };
        let metastore: Rc<dyn Metastore> = Rc::new(FaultyMetastore::new(Rc::new(self.metastore.clone()), link.clone()));
        let (broker, cluster_id) = loop {
            match introduce(&*metastore, &settings, port, Vec::new(), "sim".to_string()).await {
                Ok(introduced) => break introduced,
                Err(error) => log::info!("broker {id} cannot start: {error}"),
            }
            self.world.sleep(Duration::from_millis(50)).await;
        };
        let store = FaultyStore::new(Rc::new(self.store.clone()), link.clone());
        while let Err(error) = recognise(&store, &*metastore, &settings.namespace, &cluster_id).await {
            if matches!(error, RecogniseError::Foreign { .. }) {
                return self.world.violate(format!("broker {id}: {error}"));
            }
            self.world.sleep(Duration::from_millis(50)).await;
        }
        let settings = Arc::new(settings);
        let (assembly, inboxes) = Assembly::new(settings, self.shape.tuning, broker, cluster_id);
        let mut coordinator = Some(inboxes.coordinator);
        for (number, inbox) in inboxes.shards.into_iter().enumerate() {
            let seams = Seams {
                runtime: SimRuntime::new(&self.world, process, skew_ms.clone(), lag.clone()),
                store: Rc::new(FaultyStore::new(Rc::new(self.store.clone()), link.clone())),
                metastore: metastore.clone(),
                metrics: Metrics::new(number),
            };
            let shard = assembly.start_shard(number, inbox, coordinator.take(), seams);
            running.borrow_mut().push(Rc::new(shard));
        }
        let first = running.borrow()[0].clone();
        let cluster = self.clone();
        let replaced = async move {
            let why = first.replaced().await;
            log::info!("broker {id}: {why}");
            let world = cluster.world.clone();
            world.spawn(
                ENVIRONMENT,
                "exit",
                Box::pin(async move { cluster.exit(id, process).await }),
            );
        };
        self.world.spawn(process, "replaced", Box::pin(replaced));
        let accepted = self.network.listen(port);
        while let Ok(stream) = accepted.recv().await {
            let at = self.world.draw(|random| random.below(self.shape.shards as u64)) as usize;
            let node = running.borrow()[at].node.clone();
            let serve = async move {
                if let Err(error) = connection::serve(node, "/sim".into(), stream).await {
                    log::debug!("connection ends: {error}");
                }
            };
            self.world.spawn(process, "connection", Box::pin(serve));
        }
    }

    /// Shards that keep more in memory than they may once all is well, and what.
    pub fn excess(&self) -> Vec<String> {
        bounds::look(&self.shards(), &self.shape.settings, &self.shape.tuning)
    }

    /// The partitions that may be refused as things are.
    pub async fn refusable(&self) -> BTreeSet<Place> {
        self.damages.refusable(&self.metastore).await
    }

    /// What the command `verify` finds wrong in the stores.
    pub async fn verify(&self) -> Result<Vec<String>, ToolError> {
        let runtime = SimRuntime::new(&self.world, self.world.new_process(), Rc::default(), Rc::default());
        let (store, metastore) = (Rc::new(self.store.clone()), Rc::new(self.metastore.clone()));
        find_problems(self.shape.settings.clone(), runtime, store, metastore).await
    }

    /// Ends a broker in the middle of whatever it does.
    pub fn crash(&self, id: usize) {
        let (process, shards) = {
            let mut machines = self.machines.borrow_mut();
            let machine = &mut machines[id];
            (machine.process.take(), machine.shards.take())
        };
        if let Some(process) = process {
            self.world.kill(process);
        }
        drop(shards);
        self.network.reset(port(id));
        // Nobody listens at a dead machine's port.
        drop(self.network.listen(port(id)));
    }

    /// Ends a broker's second process.
    pub fn crash_twin(&self, id: usize) {
        let twin = self.machines.borrow_mut()[id].twin.take();
        if let Some((process, shards)) = twin {
            self.world.kill(process);
            drop(shards.take());
            self.network.reset(twin_port(id));
            drop(self.network.listen(twin_port(id)));
        }
    }

    /// A process ends by itself. The one on the broker's own machine is started again, as systemd does.
    async fn exit(self: &Rc<Self>, id: usize, process: ProcessId) {
        if self.process(id) == Some(process) {
            self.crash(id);
            self.world.sleep(RESTART_PAUSE).await;
            self.start(id);
        } else if self.machines.borrow()[id].twin.as_ref().map(|(twin, _)| *twin) == Some(process) {
            self.crash_twin(id);
        }
    }

    /// Stops a broker as SIGTERM does, for as long as `deadline` allows.
    pub async fn stop(&self, id: usize, deadline: Duration) {
        let Some(process) = self.process(id) else {
            return;
        };
        self.network.cut(port(id), true);
        let (ended, end) = async_channel::bounded::<()>(1);
        let shards = self.machines.borrow()[id].shards.borrow().clone();
        let drain = async move {
            futures::future::join_all(shards.iter().map(|shard| shard.drain())).await;
            shards.iter().for_each(|shard| shard.stop());
            drop(ended);
        };
        self.world.spawn(process, "drain", Box::pin(drain));
        futures::future::select(Box::pin(end.recv()), Box::pin(self.world.sleep(deadline))).await;
        if self.process(id) == Some(process) {
            self.crash(id);
        }
    }
}
