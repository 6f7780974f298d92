//! Registers the broker, follows the metastore and hands every shard the picture of the cluster.

use super::registration::Registration;
use super::view::{ClusterView, Part};
use crate::mailbox::{Inbox, ShardRequest};
use crate::runtime::{Instant, Runtime};
use futures::future::{join, select};
use kafscale_metastore::brokers::{load_broker, register_broker, Registered};
use kafscale_metastore::keys::{broker_key, BrokerRecord};
use kafscale_metastore::operation::{read_all, OperationError};
use kafscale_metastore::{LeaseId, Metastore, MetastoreError};
use std::cell::{Cell, RefCell};
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

/// Pause before the metastore is asked again after an error.
const RETRY_PAUSE: Duration = Duration::from_millis(200);

/// The lease of a broker that has its metastore for itself: ten years.
const LEASE_ALONE: Duration = Duration::from_secs(10 * 365 * 24 * 60 * 60);

/// How long an orderly end waits for the metastore to take the registration back.
const REVOKE_MAX: Duration = Duration::from_secs(2);

/// How long beyond two leases a registration elsewhere is waited for: the metastore may notice late that a lease is over,
/// and a new leader of etcd gives every lease its whole time again.
const RIVAL_MARGIN: Duration = Duration::from_secs(2);

/// Another process has this broker's id, and this one has to end.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "broker id {broker_id} is used by another process: {rival}. This process is {own}. One of two processes with one id \
     has to end, and it is this one: the other {why} (DUPLICATE_BROKER_REGISTRATION). Give each broker an id of its \
     own (broker_id)"
)]
pub struct Replaced {
    broker_id: i32,
    rival: Life,
    own: Life,
    why: &'static str,
}

/// A life of a broker, as an operator finds it.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Life {
    address: String,
    incarnation: u64,
    started_ms: Option<i64>,
}

impl Life {
    fn of(broker: &BrokerRecord, started_ms: Option<i64>) -> Life {
        Life {
            address: format!("{}:{}", broker.host, broker.port),
            incarnation: broker.incarnation,
            started_ms,
        }
    }
}

impl std::fmt::Display for Life {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} (incarnation {}, ", self.address, self.incarnation)?;
        match self.started_ms {
            Some(started_ms) => write!(f, "started {})", utc(started_ms)),
            None => write!(f, "its start is not recorded)"),
        }
    }
}

/// A time as people write it, to the second.
fn utc(ms: i64) -> String {
    let (days, second) = (ms.div_euclid(86_400_000), ms.rem_euclid(86_400_000) / 1_000);
    // Years begin in March here, so that the day that some of them have more is their last one. An era has 400 years.
    let since_march = days + 719_468;
    let (era, day) = (since_march.div_euclid(146_097), since_march.rem_euclid(146_097));
    let year = (day - day / 1_460 + day / 36_524 - day / 146_096) / 365;
    let day_of_year = day - (365 * year + year / 4 - year / 100);
    let month = (5 * day_of_year + 2) / 153;
    let day_of_month = day_of_year - (153 * month + 2) / 5 + 1;
    let calendar_month = if month < 10 { month + 3 } else { month - 9 };
    let calendar_year = era * 400 + year + i64::from(calendar_month <= 2);
    format!(
        "{calendar_year:04}-{calendar_month:02}-{day_of_month:02}T{:02}:{:02}:{:02}Z",
        second / 3_600,
        second / 60 % 60,
        second % 60
    )
}

/// Why the cluster cannot be followed for the moment.
#[derive(Debug, thiserror::Error)]
enum FollowError {
    #[error(transparent)]
    Metastore(#[from] MetastoreError),
    #[error(transparent)]
    Operation(#[from] OperationError),
    #[error("the registration of this broker is gone")]
    RegistrationGone,
    #[error("this id is registered at another address; its lease has to end first")]
    HeldElsewhere,
    #[error(transparent)]
    Replaced(#[from] Replaced),
}

/// How long a registration lasts, and how often it is renewed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LeaseTerms {
    /// How long it lasts after it was renewed.
    pub ttl: Duration,
    /// From one renewal to the next.
    pub renewal: Duration,
}

impl LeaseTerms {
    /// Where other brokers take over once the lease is over.
    pub fn among_brokers(ttl: Duration) -> LeaseTerms {
        LeaseTerms { ttl, renewal: ttl / 3 }
    }

    /// Where the metastore is this process's own: nobody could take over, so a lease that is over would only stop the
    /// broker itself. The registration lasts as long as the process.
    pub fn alone(ttl: Duration) -> LeaseTerms {
        LeaseTerms {
            ttl: ttl.max(LEASE_ALONE),
            ..LeaseTerms::among_brokers(ttl)
        }
    }
}

/// This broker's membership; one per broker, on its first shard.
pub struct Membership {
    runtime: Rc<dyn Runtime>,
    metastore: Rc<dyn Metastore>,
    broker: BrokerRecord,
    lease: LeaseTerms,
    inboxes: Vec<Inbox>,
    view: RefCell<ClusterView>,
    changed: (async_channel::Sender<()>, async_channel::Receiver<()>),
    stopped: Cell<bool>,
    registration: Arc<Registration>,
    /// Closed when it is to end.
    ending: (async_channel::Sender<()>, async_channel::Receiver<()>),
    started_ms: i64,
    /// The revision of a registration elsewhere, and until when to wait for it to end.
    rival: Cell<Option<(u64, Instant)>>,
    /// The registration has to be looked at now.
    hurry: (async_channel::Sender<()>, async_channel::Receiver<()>),
    /// Why this process has to end, once it has to.
    replaced: (async_channel::Sender<Replaced>, async_channel::Receiver<Replaced>),
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
        lease: LeaseTerms,
        inboxes: Vec<Inbox>,
        registration: Arc<Registration>,
    ) -> Rc<Self> {
        Rc::new(Membership {
            started_ms: runtime.wall_clock_ms(),
            rival: Cell::new(None),
            hurry: async_channel::bounded(1),
            replaced: async_channel::bounded(1),
            runtime,
            metastore,
            broker,
            lease,
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

    /// Completes once another process has this broker's id, and this one has to end.
    pub async fn replaced(&self) -> Replaced {
        match self.replaced.1.recv().await {
            Ok(replaced) => replaced,
            // The sender lives in the same struct.
            Err(_) => std::future::pending().await,
        }
    }

    /// The number of the registration, if it surely lasts; another one means that the broker was not registered for a
    /// while, and others may have taken what it had. Ends before the metastore lets the lease lapse, as far as the clocks
    /// run at the same speed within a tenth.
    pub fn term(&self) -> Option<u64> {
        (self.runtime.boot_time() < self.registration.until()).then(|| self.registration.term())
    }

    fn renewed(&self, asked: Instant, anew: bool) {
        if anew {
            self.registration.begin();
        }
        self.registration
            .lasts_until(asked.saturating_add(self.lease.ttl - self.lease.ttl / 10));
    }

    async fn stay_registered(self: Rc<Self>) {
        let mut lease: Option<LeaseId> = None;
        while !self.stopped.get() {
            // Leases go on while this machine is suspended.
            let asked = self.runtime.boot_time();
            let renewed = match lease {
                Some(lease) => self.keep_registered(lease).await,
                None => self.register().await,
            };
            let pause = match renewed {
                Ok(kept) => {
                    self.renewed(asked, lease.is_none());
                    lease = Some(kept);
                    // Counted from when it was asked: an answer that took long has used up a part of the lease.
                    self.lease
                        .renewal
                        .saturating_sub(self.runtime.boot_time().saturating_sub(asked))
                }
                Err(FollowError::Replaced(replaced)) => {
                    self.registration.lasts_until(Instant::ZERO);
                    log::error!("{replaced}");
                    // The first reason counts.
                    let _ = self.replaced.0.try_send(replaced);
                    break;
                }
                Err(FollowError::RegistrationGone) => {
                    log::warn!(
                        "the registration of broker {} is gone, though its lease is not: registering again",
                        self.broker.broker_id
                    );
                    self.registration.lasts_until(Instant::ZERO);
                    lease = None;
                    Duration::ZERO
                }
                Err(FollowError::Metastore(MetastoreError::LeaseGone(gone))) => {
                    log::warn!(
                        "lease {gone:?} of broker {} is gone: registering again",
                        self.broker.broker_id
                    );
                    lease = None;
                    Duration::ZERO
                }
                Err(FollowError::HeldElsewhere) => RETRY_PAUSE,
                Err(error) => {
                    log::warn!("keep broker {} registered: {error}", self.broker.broker_id);
                    RETRY_PAUSE
                }
            };
            let (ending, hurry) = (pin!(self.ending.1.recv()), pin!(self.hurry.1.recv()));
            select(select(ending, hurry), self.runtime.sleep(pause)).await;
        }
        self.registration.lasts_until(Instant::ZERO);
        if let Some(lease) = lease {
            if let Err(error) = self.metastore.lease_revoke(lease).await {
                log::warn!("revoke the lease: {error}; it lapses by itself");
            }
        }
        self.ended.0.close();
    }

    /// Renews the lease, and makes sure that the registration under it is still this process's.
    async fn keep_registered(&self, lease: LeaseId) -> Result<LeaseId, FollowError> {
        let key = broker_key(self.broker.broker_id);
        // At the same time: one after the other, a slow metastore would use up twice as much of the lease.
        let (renewed, found) = join(self.metastore.lease_keep_alive(lease), self.metastore.get(&key)).await;
        renewed?;
        match found? {
            Some(found) if found.value == self.broker.encode() => Ok(lease),
            // A newer version's, so it began later.
            Some(found) if BrokerRecord::decode(&found.value).is_err() => Err(Replaced {
                broker_id: self.broker.broker_id,
                rival: Life {
                    address: "at an address that this version cannot read".to_string(),
                    incarnation: 0,
                    started_ms: None,
                },
                own: Life::of(&self.broker, Some(self.started_ms)),
                why: "has replaced its registration",
            }
            .into()),
            Some(_) => {
                self.look_for_rival().await?;
                Err(FollowError::RegistrationGone)
            }
            None => Err(FollowError::RegistrationGone),
        }
    }

    /// The registration of this id, if it is another process's that this one may replace or wait for.
    ///
    /// # Errors
    /// [`FollowError::Replaced`] if a later process is registered.
    async fn look_for_rival(&self) -> Result<Option<Registered>, FollowError> {
        let found = load_broker(&*self.metastore, self.broker.broker_id).await?;
        match found {
            Some(found) if found.broker.value.incarnation > self.broker.incarnation => {
                Err(self.replaced_by(&found, "started later").into())
            }
            found => Ok(found),
        }
    }

    fn replaced_by(&self, rival: &Registered, why: &'static str) -> Replaced {
        Replaced {
            broker_id: self.broker.broker_id,
            rival: Life::of(&rival.broker.value, rival.started_ms),
            own: Life::of(&self.broker, Some(self.started_ms)),
            why,
        }
    }

    /// Registers the broker. An earlier registration with the same address is this broker's own from before a restart, and
    /// is replaced at once. One with another address may be a living process's: its lease has to end first.
    async fn register(&self) -> Result<LeaseId, FollowError> {
        let earlier = self.look_for_rival().await?;
        if let Some(earlier) = &earlier {
            self.wait_for(earlier)?;
        }
        let lease = self.metastore.lease_grant(self.lease.ttl.as_millis() as u64).await?;
        let expected = earlier.map(|earlier| earlier.broker.mod_revision);
        register_broker(&*self.metastore, lease, &self.broker, self.started_ms, expected).await?;
        log::info!(
            "broker {} incarnation {} is registered",
            self.broker.broker_id,
            self.broker.incarnation
        );
        Ok(lease)
    }

    fn wait_for(&self, earlier: &Registered) -> Result<(), FollowError> {
        let address = |broker: &BrokerRecord| (broker.host.clone(), broker.port);
        let (value, mod_revision) = (&earlier.broker.value, earlier.broker.mod_revision);
        if address(value) == address(&self.broker) {
            return Ok(());
        }
        let now = self.runtime.now();
        let known = self.rival.get().filter(|(revision, _)| *revision == mod_revision);
        let until = known.map_or(now + self.lease.ttl * 2 + RIVAL_MARGIN, |(_, until)| until);
        if known.is_none() {
            let rival = Life::of(value, earlier.started_ms);
            log::warn!(
                "broker id {} is registered by {rival}: this process waits until that registration lapses, and ends if it \
                 does not",
                self.broker.broker_id
            );
        }
        self.rival.set(Some((mod_revision, until)));
        match now < until {
            true => Err(FollowError::HeldElsewhere),
            false => Err(self.replaced_by(earlier, "is alive: its lease goes on").into()),
        }
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
            if part == Part::Brokers && !self.seems_registered() {
                // The next renewal finds out what has happened, and comes at once.
                let _ = self.hurry.0.try_send(());
            }
            self.tell_publisher();
        }
        Ok(())
    }

    /// Whether this process is what is registered under the broker's id, by what was last seen.
    fn seems_registered(&self) -> bool {
        self.view.borrow().incarnation(self.broker.broker_id) == Some(self.broker.incarnation)
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

#[cfg(test)]
mod tests;
