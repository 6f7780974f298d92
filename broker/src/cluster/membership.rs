//! Registers the broker, follows the metastore and hands every shard the picture of the cluster.

use super::registration::Registration;
use super::view::{ClusterView, Part};
use crate::mailbox::{Inbox, ShardRequest};
use crate::runtime::{Instant, Runtime};
use futures::future::select;
use kafscale_metastore::brokers::register_broker;
use kafscale_metastore::keys::BrokerRecord;
use kafscale_metastore::operation::{read_all, OperationError};
use kafscale_metastore::{LeaseId, Metastore, MetastoreError};
use std::cell::{Cell, RefCell};
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
}

/// This broker's membership; one per broker, on its first shard.
pub struct Membership {
    runtime: Rc<dyn Runtime>,
    metastore: Rc<dyn Metastore>,
    broker: BrokerRecord,
    lease_ttl: Duration,
    inboxes: Vec<Inbox>,
    view: RefCell<ClusterView>,
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
            view: RefCell::new(ClusterView::new(cluster_id)),
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
        self.view.borrow_mut().replace(part, &listing.items);
        self.tell_publisher();
        let mut watch = self.metastore.watch(part.prefix(), listing.revision + 1).await?;
        while !self.stopped.get() {
            let events = watch.next().await?;
            events.iter().for_each(|event| self.view.borrow_mut().apply(event));
            self.tell_publisher();
        }
        Ok(())
    }

    fn tell_publisher(&self) {
        // Full means that it was told already.
        let _ = self.changed.0.try_send(());
    }

    /// Hands out a new picture after changes; many changes make one picture.
    async fn publish(self: Rc<Self>) {
        while !self.stopped.get() {
            if self.changed.1.recv().await.is_err() {
                return;
            }
            self.runtime.yield_now().await;
            let image = Arc::new(self.view.borrow().image());
            for inbox in &self.inboxes {
                // A closed inbox belongs to a shard that has stopped.
                let _ = inbox.send(ShardRequest::Image(image.clone())).await;
            }
        }
    }
}
