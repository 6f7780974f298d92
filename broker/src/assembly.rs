//! A shard and what belongs to it, put together above the seams: production and simulation run the same parts.

use crate::broker_config::{broker_configs, topic_defaults, BrokerConfig};
use crate::budget::ByteBudget;
use crate::cluster::membership::{LeaseTerms, Membership, Replaced};
use crate::cluster::reconciler::Reconciler;
use crate::cluster::registration::Registration;
use crate::coordinator::host::{service_config, CoordinatorHost, HostParts, GROUP_REQUESTS_MAX};
use crate::coordinator::service::{inbox as coordinator_inbox, CoordinatorHandle, CoordinatorInbox, ServiceEnd};
use crate::handlers::SessionLimit;
use crate::mailbox::{Inbox, ShardRequest, INBOX_CAPACITY};
use crate::metrics::Metrics;
use crate::node::{Node, NodeConfig};
use crate::quarantine::QuarantineBoard;
use crate::runtime::Runtime;
use crate::settings::Settings;
use crate::shard::{Shard, ShardConfig};
use bytes::Bytes;
use futures::channel::oneshot;
use kafscale_metastore::keys::{BrokerRecord, ClusterRecord, PARTITIONS_PREFIX, STREAMS_PREFIX};
use kafscale_metastore::operation::OperationError;
use kafscale_metastore::{cluster, counters, prefix_end, Metastore, MetastoreError};
use kafscale_storage_engine::object_store::{ObjectStore, StoreError};
use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::Arc;
use std::time::Duration;

/// Bytes of produce requests under way per shard: beyond it the sockets that bring them are not read.
const PRODUCE_BUDGET_BYTES: usize = 64 << 20;

/// The same for all other requests. They are small, and a large one is granted when nothing else is under way.
const REQUEST_BUDGET_BYTES: usize = 16 << 20;

/// How long connections get to send their last answers after everything accepted is durable.
const LAST_ANSWERS: Duration = Duration::from_millis(100);

/// How long the first shard waits for the others before the broker's registration is taken back.
const OTHER_SHARDS_MAX: Duration = Duration::from_secs(10);

/// Times and sizes that nobody has to set. The simulator makes them small, so that what is rare comes often.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tuning {
    /// Partitions that a shard claims in one transaction; etcd takes 128 operations by default.
    pub claim_batch: usize,
    /// Live slots of a stream above which they are merged.
    pub live_slots_max: usize,
    /// Runs of a stream's live objects above which partitions are rolled: each is some 150 to 300 bytes in memory.
    pub live_runs_max: u64,
    /// Bytes that the merges of all shards hold in memory.
    pub merge_bytes_max: u64,
    /// How often a shard looks for something to roll, merge, trim or delete.
    pub housekeeping_interval: Duration,
    /// How often what nothing refers to any more is deleted.
    pub reconcile_interval: Duration,
    /// How long objects outlive the last reference, for readers that planned with them.
    pub delete_grace: Duration,
    /// A put that has not succeeded for this long gives its stream up.
    pub put_give_up: Duration,
    /// How long a fence outlives its stream: whoever could still write to a slot of it has given up long before.
    pub fence_life: Duration,
    /// A leader that was away from the metastore for longer than this neither reads nor writes: see [`away_max`].
    pub away_max: Duration,
    /// How often a partition's retention is looked at.
    pub retention_interval: Duration,
}

/// How long a fence stays in the object store.
const FENCE_LIFE: Duration = Duration::from_secs(24 * 60 * 60);

/// How long after its registration may have lapsed a broker still goes by the fences that it finds or does not find: half
/// of a fence's life. The other half is for clocks that disagree and for requests that take their time. After that the
/// stream's fence may be forgotten, and its free slots prove nothing.
pub const fn away_max(fence_life: Duration) -> Duration {
    Duration::from_millis(fence_life.as_millis() as u64 / 2)
}

impl Default for Tuning {
    fn default() -> Self {
        Tuning {
            claim_batch: 60,
            live_slots_max: 1000,
            live_runs_max: 700_000,
            merge_bytes_max: 256 << 20,
            housekeeping_interval: Duration::from_millis(250),
            reconcile_interval: Duration::from_secs(10),
            delete_grace: Duration::from_secs(60),
            put_give_up: Duration::from_secs(15 * 60),
            fence_life: FENCE_LIFE,
            away_max: away_max(FENCE_LIFE),
            retention_interval: Duration::from_secs(60),
        }
    }
}

/// What the shards of one broker have in common.
#[derive(Clone)]
pub struct Assembly {
    /// What is set.
    pub settings: Arc<Settings>,
    /// What is not.
    pub tuning: Tuning,
    /// How the broker is registered.
    pub broker: BrokerRecord,
    /// The cluster that it belongs to.
    pub cluster_id: String,
    /// All shards, by number.
    pub inboxes: Vec<Inbox>,
    /// How long this broker's registration lasts.
    pub lease: LeaseTerms,
    registration: Arc<Registration>,
    /// Shards that have nothing left to do for anybody.
    drained: Arc<AtomicUsize>,
    coordinator: CoordinatorHandle,
    topic_defaults: Arc<BTreeMap<String, String>>,
    broker_configs: Arc<[BrokerConfig]>,
    /// The partitions that the broker refuses.
    pub quarantine: QuarantineBoard,
}

/// Where a broker's shards and its coordinator get their requests from; each is for one of them.
pub struct Inboxes {
    /// Of the shards, by number.
    pub shards: Vec<async_channel::Receiver<ShardRequest>>,
    /// Of the group coordinator.
    pub coordinator: CoordinatorInbox,
}

/// The seams below one shard.
pub struct Seams {
    /// Time and tasks.
    pub runtime: Rc<dyn Runtime>,
    /// The object store.
    pub store: Rc<dyn ObjectStore>,
    /// The metastore.
    pub metastore: Rc<dyn Metastore>,
    /// Where it counts.
    pub metrics: Rc<Metrics>,
}

/// A shard that runs.
pub struct RunningShard {
    /// The shard.
    pub shard: Rc<Shard>,
    /// What its connections need.
    pub node: Rc<Node>,
    membership: Option<Rc<Membership>>,
    coordinator: Option<Rc<CoordinatorHost>>,
    drained: Arc<AtomicUsize>,
}

/// Takes a new incarnation, and finds the cluster, or founds it by the name `proposed_cluster_id`.
///
/// # Errors
/// If the metastore does not do its work.
pub async fn introduce(
    metastore: &dyn Metastore,
    settings: &Settings,
    port: u16,
    shard_ports: Vec<u16>,
    proposed_cluster_id: String,
) -> Result<(BrokerRecord, String), OperationError> {
    let incarnation = counters::allocate(metastore, "incarnations", 1).await?;
    let proposed = ClusterRecord {
        cluster_id: proposed_cluster_id,
    };
    let cluster = cluster::load_or_create_cluster(metastore, &proposed).await?;
    let broker = BrokerRecord {
        broker_id: settings.broker_id,
        incarnation,
        host: settings.advertised_host.clone(),
        port: match settings.advertised_port {
            0 => port,
            advertised => advertised,
        },
        rack: settings.rack.clone(),
        shards: settings.shards as u32,
        shard_ports,
    };
    Ok((broker, cluster.cluster_id))
}

/// Why the object store is not this cluster's.
#[derive(Debug, thiserror::Error)]
pub enum RecogniseError {
    /// The metastore knows of records, and the store does not know the cluster.
    #[error(
        "the object store does not hold the records of cluster {cluster_id}: there is no {marker}. It is another \
         directory or bucket than before, or another namespace, or was emptied; set it back, or begin anew with an empty \
         metastore"
    )]
    Foreign {
        /// The cluster that the metastore tells of.
        cluster_id: String,
        /// The object that should be there.
        marker: String,
    },
    /// The metastore is empty, and the store holds a cluster's records.
    #[error(
        "the object store holds the records of a cluster: there is {marker}, and the metastore is empty. Put the metastore \
         back, choose another namespace, or have the metastore rebuilt from the store (kafscale-broker rebuild)"
    )]
    MetastoreLost {
        /// The object that says so.
        marker: String,
    },
    /// The metastore is new, and the store holds another cluster's records.
    #[error(
        "the object store holds the records of another cluster: there is {marker}, and the metastore is of cluster \
         {cluster_id}. Set the metastore back, choose another namespace, or have the metastore rebuilt from the store \
         (kafscale-broker rebuild)"
    )]
    Occupied {
        /// The cluster that the metastore tells of.
        cluster_id: String,
        /// The object that says so.
        marker: String,
    },
    /// The metastore did not answer.
    #[error("metastore: {0}")]
    Metastore(#[from] MetastoreError),
    /// The cluster's record cannot be read.
    #[error("metastore: {0}")]
    Record(#[from] OperationError),
    /// The object store did not answer.
    #[error("object store: {0}")]
    Store(#[from] StoreError),
}

/// Makes sure that a metastore without a cluster may found one here. To be asked before anything is written: a start that
/// is refused must leave the metastore as empty as it was, or `rebuild` would refuse it too.
///
/// # Errors
/// If the object store holds a cluster's records already, or either store does not answer.
pub async fn may_found(
    store: &dyn ObjectStore,
    metastore: &dyn Metastore,
    namespace: &str,
) -> Result<(), RecogniseError> {
    if cluster::load_cluster(metastore).await?.is_some() {
        return Ok(());
    }
    let markers = store.list(&format!("{namespace}/_cluster/"), None, 1).await?;
    match markers.objects.into_iter().next() {
        Some(marker) => Err(RecogniseError::MetastoreLost { marker: marker.key }),
        None => Ok(()),
    }
}

/// Makes sure that the object store is the one that holds this cluster's records: it has a marker with the cluster's id,
/// which is made before anything else is written. Without this a broker in front of an empty store would take every
/// stream for one that was never written to, and the records for gone.
///
/// # Errors
/// If it is another store, or either store does not answer.
pub async fn recognise(
    store: &dyn ObjectStore,
    metastore: &dyn Metastore,
    namespace: &str,
    cluster_id: &str,
) -> Result<(), RecogniseError> {
    let marker = format!("{namespace}/_cluster/{cluster_id}");
    match store.get_suffix(&marker, 1).await {
        Ok(_) => return Ok(()),
        Err(StoreError::NotFound(_)) => {}
        Err(error) => return Err(error.into()),
    }
    for prefix in [STREAMS_PREFIX, PARTITIONS_PREFIX] {
        if !metastore.range(prefix, &prefix_end(prefix), 1).await?.items.is_empty() {
            return Err(RecogniseError::Foreign {
                cluster_id: cluster_id.to_string(),
                marker,
            });
        }
    }
    let others = store.list(&format!("{namespace}/_cluster/"), None, 2).await?;
    if let Some(other) = others.objects.into_iter().find(|other| other.key != marker) {
        return Err(RecogniseError::Occupied {
            cluster_id: cluster_id.to_string(),
            marker: other.key,
        });
    }
    match store.create(&marker, vec![Bytes::from_static(b"kafscale\n")]).await {
        Ok(()) | Err(StoreError::Conflict(_)) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

impl Assembly {
    /// A broker's common part, and what its shards and its coordinator are reached by.
    pub fn new(settings: Arc<Settings>, tuning: Tuning, broker: BrokerRecord, cluster_id: String) -> (Self, Inboxes) {
        let (inboxes, shards) = (0..settings.shards)
            .map(|_| async_channel::bounded(INBOX_CAPACITY))
            .unzip();
        let (coordinator, coordinator_inbox) = coordinator_inbox(GROUP_REQUESTS_MAX);
        let assembly = Assembly {
            lease: LeaseTerms::among_brokers(Duration::from_millis(settings.broker_lease_ttl_ms)),
            topic_defaults: Arc::new(topic_defaults(&settings)),
            broker_configs: broker_configs(&settings).into(),
            settings,
            tuning,
            broker,
            cluster_id,
            inboxes,
            registration: Arc::default(),
            drained: Arc::default(),
            coordinator,
            quarantine: QuarantineBoard::default(),
        };
        let inboxes = Inboxes {
            shards,
            coordinator: coordinator_inbox,
        };
        (assembly, inboxes)
    }

    /// Gives a shard life; the first one also registers the broker and looks after the cluster, and with the
    /// coordinator's inbox it coordinates groups.
    pub fn start_shard(
        &self,
        number: usize,
        inbox: async_channel::Receiver<ShardRequest>,
        coordinator: Option<CoordinatorInbox>,
        seams: Seams,
    ) -> RunningShard {
        let Seams {
            runtime,
            store,
            metastore,
            metrics,
        } = seams;
        let shard = Shard::new(
            self.shard_config(number),
            runtime.clone(),
            store,
            metastore.clone(),
            metrics,
            self.registration.clone(),
        );
        let running = shard.clone();
        runtime.spawn("shard", Box::pin(async move { running.run(inbox).await }));
        let membership = (number == 0).then(|| {
            let membership = Membership::new(
                runtime.clone(),
                metastore.clone(),
                self.cluster_id.clone(),
                self.broker.clone(),
                self.lease,
                self.inboxes.clone(),
                self.registration.clone(),
            );
            membership.start();
            let reconciler = Reconciler::new(shard.clone(), self.tuning.reconcile_interval);
            runtime.spawn("reconcile", Box::pin(reconciler.run()));
            membership
        });
        let coordinator = coordinator.zip(membership.clone()).map(|(inbox, membership)| {
            let parts = HostParts {
                shard: shard.clone(),
                runtime: runtime.clone(),
                metastore: metastore.clone(),
                membership,
            };
            CoordinatorHost::start(parts, service_config(&self.settings), inbox)
        });
        let node = Rc::new(Node {
            config: self.node_config(),
            shard: shard.clone(),
            inboxes: self.inboxes.clone(),
            coordinator: self.coordinator.clone(),
            coordinators: coordinator.clone(),
            runtime,
            metastore,
            produce_budget: ByteBudget::new(PRODUCE_BUDGET_BYTES),
            budget: ByteBudget::new(REQUEST_BUDGET_BYTES),
            fetch_sessions: SessionLimit::new(shard.metrics.clone()),
        });
        RunningShard {
            shard,
            node,
            membership,
            coordinator,
            drained: self.drained.clone(),
        }
    }

    /// A shard for a tool: it owns nothing, has no tasks and is sent nothing.
    pub fn idle_shard(
        &self,
        runtime: Rc<dyn Runtime>,
        store: Rc<dyn ObjectStore>,
        metastore: Rc<dyn Metastore>,
        metrics: Rc<Metrics>,
    ) -> Rc<Shard> {
        let config = self.shard_config(0);
        Shard::new(config, runtime, store, metastore, metrics, self.registration.clone())
    }

    fn node_config(&self) -> NodeConfig {
        let settings = &self.settings;
        NodeConfig {
            broker_id: settings.broker_id,
            request_bytes_max: settings.socket_request_max_bytes,
            requests_in_flight_max: settings.max_requests_in_flight,
            connections_max_idle: Duration::from_millis(settings.connections_max_idle_ms),
            auto_create_topics: settings.auto_create_topics,
            auto_create_partitions: settings.auto_create_partitions,
            allow_admin_apis: settings.allow_admin_apis,
            trace_requests: settings.trace_kafka,
            topic_defaults: self.topic_defaults.clone(),
            broker_configs: self.broker_configs.clone(),
        }
    }

    fn shard_config(&self, number: usize) -> ShardConfig {
        let (settings, tuning) = (&self.settings, &self.tuning);
        ShardConfig {
            broker_id: settings.broker_id,
            incarnation: self.broker.incarnation,
            shard: number as u32,
            shards: settings.shards as u32,
            namespace: settings.namespace.clone(),
            flush_bytes: settings.flush_bytes,
            flush_interval: Duration::from_millis(settings.flush_interval_ms),
            flush_pipeline: settings.flush_pipeline,
            undurable_bytes_max: PRODUCE_BUDGET_BYTES * settings.shards.max(2),
            tail_memory_bytes: settings.tail_memory_bytes / settings.shards,
            cache_bytes: settings.cache_bytes / settings.shards,
            read_ahead_blocks: settings.readahead_segments as u64,
            producer_expiration_ms: settings.producer_id_expiration_ms,
            housekeeping_interval: tuning.housekeeping_interval,
            claim_batch: tuning.claim_batch,
            live_slots_max: tuning.live_slots_max,
            live_runs_max: tuning.live_runs_max,
            merge_bytes_max: tuning.merge_bytes_max / settings.shards as u64,
            segment_small_ms: settings.segment_small_ms as i64,
            delete_grace: tuning.delete_grace,
            put_give_up: tuning.put_give_up,
            fence_life: tuning.fence_life,
            away_max: tuning.away_max,
            retention_interval: tuning.retention_interval,
            topic_defaults: self.topic_defaults.clone(),
            board: self.quarantine.clone(),
        }
    }
}

impl RunningShard {
    /// Completes once the groups are loaded, if this shard coordinates them.
    pub async fn coordinator_loaded(&self) {
        if let Some(coordinator) = &self.coordinator {
            coordinator.loaded().await;
        }
    }

    /// The slots whose groups are coordinated here at this moment.
    pub fn coordinated_slots(&self) -> Vec<u32> {
        self.coordinator
            .as_ref()
            .map_or_else(Vec::new, |coordinator| coordinator.answers_for())
    }

    /// Completes with the reason if the coordinator of this shard ends; never if there is none.
    pub async fn coordinator_ended(&self) -> ServiceEnd {
        match &self.coordinator {
            Some(coordinator) => coordinator.ended().await,
            None => std::future::pending().await,
        }
    }

    /// Completes if another process has this broker's id and this one has to end; on the first shard only.
    pub async fn replaced(&self) -> Replaced {
        match &self.membership {
            Some(membership) => membership.replaced().await,
            None => std::future::pending().await,
        }
    }

    /// Refuses new records, and completes when everything accepted is durable and answered; on the first shard, when all
    /// shards are so far and the broker is registered no more.
    pub async fn drain(&self) {
        if let Some(coordinator) = &self.coordinator {
            coordinator.stop();
        }
        let (reply, drained) = oneshot::channel();
        self.shard.handle(ShardRequest::Drain(reply));
        // An error would mean that the shard has stopped already.
        let _ = drained.await;
        if let Some(coordinator) = &self.coordinator {
            // Who waits in a group has been answered then.
            coordinator.ended().await;
        }
        self.drained.fetch_add(1, Ordering::AcqRel);
        if let Some(membership) = &self.membership {
            self.wait_for_other_shards().await;
            membership.stop().await;
        }
        self.node.runtime.sleep(LAST_ANSWERS).await;
    }

    /// While one of them has records on their way nobody shall take over. One that has failed counts for nothing.
    async fn wait_for_other_shards(&self) {
        let runtime = &self.node.runtime;
        let until = runtime.now() + OTHER_SHARDS_MAX;
        while self.drained.load(Ordering::Acquire) < self.node.inboxes.len() && runtime.now() < until {
            runtime.sleep(Duration::from_millis(2)).await;
        }
    }

    /// Ends every task at its next step.
    pub fn stop(&self) {
        self.shard.stop();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_broker_stops_writing_long_before_the_fence_against_it_is_forgotten() {
        let tuning = Tuning::default();
        let away_max = away_max(tuning.fence_life);
        assert_eq!(tuning.away_max, away_max);
        // What is left is for clocks that disagree and for requests that take their time.
        let left = tuning.fence_life - away_max;
        assert!(left >= Duration::from_secs(6 * 60 * 60), "{left:?}");
        assert!(tuning.put_give_up + tuning.delete_grace < left);
        assert!(away_max > tuning.put_give_up, "a short outage costs no stream");
    }
}
