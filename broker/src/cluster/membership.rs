//! Registers the broker, follows the metastore and hands every shard the picture of the cluster.

use super::image::{ClusterImage, Leader, TopicImage};
use super::registration::Registration;
use crate::mailbox::{Inbox, ShardRequest};
use crate::runtime::{Instant, Runtime};
use futures::future::select;
use kafscale_metastore::brokers::register_broker;
use kafscale_metastore::keys::{
    BrokerRecord, Key, PartitionRecord, RecordError, TopicRecord, BROKERS_PREFIX, PARTITIONS_PREFIX, TOPICS_PREFIX,
};
use kafscale_metastore::operation::{read_all, OperationError};
use kafscale_metastore::{KeyValue, LeaseId, Metastore, MetastoreError, WatchEvent};
use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

/// Pause before the metastore is asked again after an error.
const RETRY_PAUSE: Duration = Duration::from_millis(200);

/// How long an orderly end waits for the metastore to take the registration back.
const REVOKE_MAX: Duration = Duration::from_secs(2);

/// Why the cluster cannot be followed for the moment.
#[derive(Debug, thiserror::Error)]
enum FollowError {
    #[error(transparent)]
    Metastore(#[from] MetastoreError),
    #[error(transparent)]
    Operation(#[from] OperationError),
    #[error("{0}")]
    Record(#[from] RecordError),
}

/// What part of the metastore one task follows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Part {
    Brokers,
    Topics,
    Partitions,
}

impl Part {
    const ALL: [Part; 3] = [Part::Brokers, Part::Topics, Part::Partitions];

    fn prefix(self) -> &'static [u8] {
        match self {
            Part::Brokers => BROKERS_PREFIX,
            Part::Topics => TOPICS_PREFIX,
            Part::Partitions => PARTITIONS_PREFIX,
        }
    }
}

/// This broker's membership; one per broker, on its first shard.
pub struct Membership {
    runtime: Rc<dyn Runtime>,
    metastore: Rc<dyn Metastore>,
    broker: BrokerRecord,
    lease_ttl: Duration,
    inboxes: Vec<Inbox>,
    image: RefCell<ClusterImage>,
    /// Leaders by topic id, also of topics that are not (or no longer) known by name.
    leaders: RefCell<BTreeMap<kafscale_codec::types::TopicId, BTreeMap<i32, Leader>>>,
    loaded: RefCell<[bool; 3]>,
    changed: (async_channel::Sender<()>, async_channel::Receiver<()>),
    stopped: Cell<bool>,
    registration: Arc<Registration>,
    /// Closed when it is to end.
    ending: (async_channel::Sender<()>, async_channel::Receiver<()>),
    /// Closed once the broker is registered no more.
    ended: (async_channel::Sender<()>, async_channel::Receiver<()>),
}

impl Membership {
    /// Membership of `broker` in the cluster `cluster_id`.
    pub fn new(
        runtime: Rc<dyn Runtime>,
        metastore: Rc<dyn Metastore>,
        cluster_id: String,
        broker: BrokerRecord,
        lease_ttl: Duration,
        inboxes: Vec<Inbox>,
        registration: Arc<Registration>,
    ) -> Rc<Self> {
        Rc::new(Membership {
            runtime,
            metastore,
            broker,
            lease_ttl,
            inboxes,
            image: RefCell::new(ClusterImage {
                cluster_id,
                ..ClusterImage::default()
            }),
            leaders: RefCell::default(),
            loaded: RefCell::default(),
            changed: async_channel::bounded(1),
            stopped: Cell::new(false),
            registration,
            ending: async_channel::bounded(1),
            ended: async_channel::bounded(1),
        })
    }

    /// Starts the tasks that keep the broker registered and the shards informed.
    pub fn start(self: &Rc<Self>) {
        let member = self.clone();
        self.runtime
            .spawn("membership", Box::pin(async move { member.stay_registered().await }));
        for part in Part::ALL {
            let member = self.clone();
            self.runtime
                .spawn("follow", Box::pin(async move { member.follow(part).await }));
        }
        let member = self.clone();
        self.runtime
            .spawn("publish", Box::pin(async move { member.publish().await }));
    }

    /// Ends the tasks, and completes once the broker is not registered any more: others take over at once. If the
    /// metastore does not answer, the registration lapses with its lease.
    pub async fn stop(&self) {
        self.stopped.set(true);
        let _ = self.changed.0.try_send(());
        self.ending.0.close();
        // Nothing is ever sent: it ends when the channel is closed.
        let ended = self.ended.1.recv();
        select(pin!(ended), self.runtime.sleep(REVOKE_MAX)).await;
    }

    /// The number of the registration, if it surely lasts; another one means that the broker was not registered for a
    /// while, and others may have taken what it had. Ends before the metastore lets the lease lapse, as far as the clocks
    /// run at the same speed within a tenth.
    pub fn term(&self) -> Option<u64> {
        (self.runtime.now() < self.registration.until()).then(|| self.registration.term())
    }

    fn renewed(&self, asked: Instant, anew: bool) {
        if anew {
            self.registration.begin();
        }
        self.registration
            .lasts_until(asked.saturating_add(self.lease_ttl - self.lease_ttl / 10));
    }

    async fn stay_registered(self: Rc<Self>) {
        let mut lease: Option<LeaseId> = None;
        while !self.stopped.get() {
            let asked = self.runtime.now();
            let renewed = match lease {
                Some(lease) => self
                    .metastore
                    .lease_keep_alive(lease)
                    .await
                    .map_err(FollowError::from)
                    .map(|()| lease),
                None => self.register().await,
            };
            let pause = match renewed {
                Ok(kept) => {
                    self.renewed(asked, lease.is_none());
                    lease = Some(kept);
                    self.lease_ttl / 3
                }
                Err(FollowError::Metastore(MetastoreError::LeaseGone(gone))) => {
                    log::warn!(
                        "lease {gone:?} of broker {} is gone: registering again",
                        self.broker.broker_id
                    );
                    lease = None;
                    Duration::ZERO
                }
                Err(error) => {
                    log::warn!("keep broker {} registered: {error}", self.broker.broker_id);
                    RETRY_PAUSE
                }
            };
            select(pin!(self.ending.1.recv()), self.runtime.sleep(pause)).await;
        }
        self.registration.lasts_until(Instant::ZERO);
        if let Some(lease) = lease {
            if let Err(error) = self.metastore.lease_revoke(lease).await {
                log::warn!("revoke the lease: {error}; it lapses by itself");
            }
        }
        self.ended.0.close();
    }

    async fn register(&self) -> Result<LeaseId, FollowError> {
        let lease = self.metastore.lease_grant(self.lease_ttl.as_millis() as u64).await?;
        register_broker(&*self.metastore, lease, &self.broker).await?;
        log::info!(
            "broker {} incarnation {} is registered",
            self.broker.broker_id,
            self.broker.incarnation
        );
        Ok(lease)
    }

    async fn follow(self: Rc<Self>, part: Part) {
        while !self.stopped.get() {
            if let Err(error) = self.follow_until_broken(part).await {
                log::warn!("follow {part:?} in the metastore: {error}; listing again");
                self.runtime.sleep(RETRY_PAUSE).await;
            }
        }
    }

    async fn follow_until_broken(&self, part: Part) -> Result<(), FollowError> {
        let listing = read_all(&*self.metastore, part.prefix()).await?;
        self.forget(part);
        for item in &listing.items {
            self.put(item)?;
        }
        self.loaded.borrow_mut()[part as usize] = true;
        self.tell_publisher();
        let mut watch = self.metastore.watch(part.prefix(), listing.revision + 1).await?;
        while !self.stopped.get() {
            for event in watch.next().await? {
                match event {
                    WatchEvent::Put(item) => self.put(&item)?,
                    WatchEvent::Delete { key, .. } => self.remove(&key),
                }
            }
            self.tell_publisher();
        }
        Ok(())
    }

    fn tell_publisher(&self) {
        // Full means that it was told already.
        let _ = self.changed.0.try_send(());
    }

    fn forget(&self, part: Part) {
        let mut image = self.image.borrow_mut();
        match part {
            Part::Brokers => image.brokers.clear(),
            Part::Topics => {
                image.topics.clear();
                image.names.clear();
            }
            Part::Partitions => {
                self.leaders.borrow_mut().clear();
                for topic in image.topics.values_mut() {
                    Arc::make_mut(topic).leaders.fill(None);
                }
            }
        }
    }

    fn put(&self, item: &KeyValue) -> Result<(), FollowError> {
        let mut image = self.image.borrow_mut();
        match Key::parse(&item.key) {
            Some(Key::Broker(id)) => {
                image.brokers.insert(id, BrokerRecord::decode(&item.value)?);
            }
            Some(Key::Topic(name)) => {
                let record = TopicRecord::decode(&item.value)?;
                let known = self.leaders.borrow();
                let known = known.get(&record.topic_id);
                let leader = |partition| known.and_then(|leaders| leaders.get(&(partition as i32))).copied();
                let leaders = (0..record.partitions).map(leader).collect();
                image.names.insert(record.topic_id, name.clone());
                let topic = TopicImage {
                    name: name.clone(),
                    record,
                    mod_revision: item.mod_revision,
                    leaders,
                };
                let replaced = image.topics.insert(name, Arc::new(topic));
                let current = &image.topics;
                let stale =
                    replaced.filter(|old| !current.values().any(|new| new.record.topic_id == old.record.topic_id));
                if let Some(old) = stale {
                    image.names.remove(&old.record.topic_id);
                }
            }
            Some(Key::Partition(topic_id, partition)) => {
                let leader = Leader::of(&PartitionRecord::decode(&item.value)?);
                self.leaders
                    .borrow_mut()
                    .entry(topic_id)
                    .or_default()
                    .insert(partition, leader);
                let Some(name) = image.names.get(&topic_id).cloned() else {
                    return Ok(());
                };
                if let Some(topic) = image.topics.get_mut(&name) {
                    let at = partition as usize;
                    if topic.leaders.get(at).is_some_and(|known| *known != Some(leader)) {
                        Arc::make_mut(topic).leaders[at] = Some(leader);
                    }
                }
            }
            _ => {}
        }
        Ok(())
    }

    fn remove(&self, key: &[u8]) {
        let mut image = self.image.borrow_mut();
        match Key::parse(key) {
            Some(Key::Broker(id)) => drop(image.brokers.remove(&id)),
            Some(Key::Topic(name)) => {
                if let Some(topic) = image.topics.remove(&name) {
                    image.names.remove(&topic.record.topic_id);
                    self.leaders.borrow_mut().remove(&topic.record.topic_id);
                }
            }
            Some(Key::Partition(topic_id, partition)) => {
                if let Some(leaders) = self.leaders.borrow_mut().get_mut(&topic_id) {
                    leaders.remove(&partition);
                }
            }
            _ => {}
        }
    }

    /// Hands out a new picture after changes; many changes make one picture.
    async fn publish(self: Rc<Self>) {
        while !self.stopped.get() {
            if self.changed.1.recv().await.is_err() {
                return;
            }
            self.runtime.yield_now().await;
            let complete = self.loaded.borrow().iter().all(|loaded| *loaded);
            self.image.borrow_mut().complete = complete;
            let image = Arc::new(self.image.borrow().clone());
            for inbox in &self.inboxes {
                // A closed inbox belongs to a shard that has stopped.
                let _ = inbox.send(ShardRequest::Image(image.clone())).await;
            }
        }
    }
}
