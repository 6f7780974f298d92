//! The coordinators in their broker: one for each slot of groups that this broker should have (docs/decisions/0006),
//! started and ended as brokers come and go, and the way from a request to the right one.

use super::service::{
    inbox as slot_inbox, CoordinatorHandle, CoordinatorInbox, CoordinatorService, GroupMessage, Holder, Phase,
    ServiceConfig, ServiceEnd, ServiceParts,
};
use super::{GroupConfig, GroupReply};
use crate::cluster::image::{coordinating_broker, ClusterImage};
use crate::cluster::membership::Membership;
use crate::planted::{self, Bug};
use crate::runtime::Runtime;
use crate::settings::Settings;
use crate::shard::Shard;
use futures::future::join_all;
use kafscale_codec::error_code::ErrorCode;
use kafscale_metastore::keys::{group_slot, Key, GROUP_SLOTS};
use kafscale_metastore::Metastore;
use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

/// Requests to the coordinators before their connections wait.
pub const GROUP_REQUESTS_MAX: usize = 1_024;

/// How often the host looks which slots it should have.
const PLACEMENT_INTERVAL: Duration = Duration::from_millis(50);

/// How often it looks whether the cluster has changed, and with it the topics.
const TOPICS_INTERVAL: Duration = Duration::from_secs(1);

/// After how many such intervals it looks for deleted topics whatever has changed: a commit may come after its topic went.
const TOPICS_ANYWAY: u32 = 600;

/// The running coordinators of a broker, on the broker's first shard.
pub struct CoordinatorHost {
    parts: HostParts,
    config: ServiceConfig,
    inbox: async_channel::Receiver<GroupMessage>,
    slots: RefCell<BTreeMap<u32, Slot>>,
    /// Services that have not ended, those that hand their slot over included.
    running: Cell<usize>,
    end: (async_channel::Sender<ServiceEnd>, async_channel::Receiver<ServiceEnd>),
}

/// What the host needs of its broker.
pub struct HostParts {
    /// The shard that it runs on.
    pub shard: Rc<Shard>,
    /// Time and tasks.
    pub runtime: Rc<dyn Runtime>,
    /// Where groups are stored.
    pub metastore: Rc<dyn Metastore>,
    /// Whether the broker is registered.
    pub membership: Rc<Membership>,
}

#[derive(Clone)]
struct Slot {
    service: Rc<CoordinatorService>,
    handle: CoordinatorHandle,
    /// The registration under which it took the slot.
    term: u64,
}

impl CoordinatorHost {
    /// Starts to look after the slots of this broker.
    pub fn start(parts: HostParts, config: ServiceConfig, inbox: CoordinatorInbox) -> Rc<Self> {
        let runtime = parts.runtime.clone();
        let host = Rc::new(CoordinatorHost {
            parts,
            config,
            inbox: inbox.0,
            slots: RefCell::default(),
            running: Cell::new(0),
            end: async_channel::bounded(1),
        });
        let routing = host.clone();
        runtime.spawn("group-requests", Box::pin(async move { routing.route_all().await }));
        let placing = host.clone();
        runtime.spawn("group-slots", Box::pin(async move { placing.place_all().await }));
        let watching = host.clone();
        runtime.spawn("deleted-topics", Box::pin(async move { watching.watch_topics().await }));
        host
    }

    /// Takes no more requests: what was accepted is stored, who waits for other members hears that this is no
    /// coordinator any more, and that is the end.
    pub fn stop(&self) {
        self.inbox.close();
        for slot in std::mem::take(&mut *self.slots.borrow_mut()).into_values() {
            slot.service.stop();
        }
        if self.running.get() == 0 {
            self.tell(ServiceEnd::Stopped);
        }
    }

    /// Completes once the groups that this broker coordinates are loaded, but for those that others still have.
    pub async fn loaded(&self) {
        while !self.inbox.is_closed() && !self.is_loaded() {
            self.parts.runtime.sleep(Duration::from_millis(5)).await;
        }
    }

    fn is_loaded(&self) -> bool {
        let slots = self.slots.borrow();
        let image = self.parts.shard.image();
        let known = image.complete && image.brokers.contains_key(&self.holder().broker_id);
        let here = |slot: &u32| coordinating_broker(&image, *slot) == Some(self.holder().broker_id);
        known
            && (0..GROUP_SLOTS).filter(here).all(|slot| {
                let slot = slots.get(&slot);
                slot.is_some_and(|slot| slot.service.phase() != Phase::Loading)
            })
    }

    /// Completes with the reason once all coordinators have ended because they were stopped, or one because it cannot go
    /// on; once.
    pub async fn ended(&self) -> ServiceEnd {
        self.end.1.recv().await.unwrap_or(ServiceEnd::Stopped)
    }

    fn tell(&self, end: ServiceEnd) {
        let _ = self.end.0.try_send(end); // The first reason counts.
    }

    fn holder(&self) -> Holder {
        let config = &self.parts.shard.config;
        Holder {
            broker_id: config.broker_id,
            incarnation: config.incarnation,
        }
    }

    async fn route_all(self: Rc<Self>) {
        let mut routed = 0u32;
        while let Ok(message) = self.inbox.recv().await {
            self.route(message);
            routed = routed.wrapping_add(1);
            if routed.is_multiple_of(64) {
                self.parts.runtime.yield_now().await;
            }
        }
        self.stop();
    }

    /// Passes a request to the coordinator of its group, if that may answer: a broker whose registration may have lapsed
    /// does not know whether another one coordinates. The coordinator looks again once it has the answer.
    fn route(self: &Rc<Self>, message: GroupMessage) {
        let Some(group) = message.request.group_id() else {
            return self.ask_all(message);
        };
        match self.slot(group_slot(group)) {
            Some(slot) => slot.handle.forward(message),
            None => message.refuse(ErrorCode::NOT_COORDINATOR),
        }
    }

    fn slot(&self, number: u32) -> Option<Slot> {
        let term = self.parts.membership.term();
        let slots = self.slots.borrow();
        let slot = slots.get(&number);
        slot.filter(|slot| Some(slot.term) == term || planted::is(Bug::LapsedCoordinator))
            .cloned()
    }

    /// The slots whose groups this broker answers for at this moment.
    pub fn answers_for(&self) -> Vec<u32> {
        let serves = |slot: &Slot| slot.service.phase() == Phase::Serving;
        (0..GROUP_SLOTS)
            .filter(|number| self.slot(*number).as_ref().is_some_and(serves))
            .collect()
    }

    /// What is stored of the groups here and cannot be decoded, with the reason.
    pub fn unreadable(&self) -> BTreeMap<Key, String> {
        let slots = self.slots.borrow();
        slots.values().flat_map(|slot| slot.service.unreadable()).collect()
    }

    /// Lists the groups of all slots here.
    fn ask_all(&self, GroupMessage { request, reply }: GroupMessage) {
        let slots: Vec<Slot> = (0..GROUP_SLOTS).filter_map(|number| self.slot(number)).collect();
        let ask = async move {
            let replies = join_all(slots.iter().map(|slot| slot.handle.call(request.clone()))).await;
            let (mut error, mut groups) = (ErrorCode::NONE, Vec::new());
            for reply in replies {
                match reply {
                    GroupReply::Listed {
                        error: ErrorCode::NONE,
                        groups: more,
                    } => groups.extend(more),
                    // It has just gone to another broker, which lists it.
                    GroupReply::Listed {
                        error: ErrorCode::NOT_COORDINATOR,
                        ..
                    } => {}
                    GroupReply::Listed { error: refused, .. } => error = refused,
                    other => log::error!("a list of groups is answered with {other:?}"),
                }
            }
            if error != ErrorCode::NONE {
                groups.clear();
            }
            let _ = reply.send(GroupReply::Listed { error, groups }); // Whoever asked may have gone.
        };
        self.parts.runtime.spawn("list-groups", Box::pin(ask));
    }

    async fn place_all(self: Rc<Self>) {
        while !self.inbox.is_closed() {
            self.place();
            self.parts.runtime.sleep(PLACEMENT_INTERVAL).await;
        }
    }

    /// Starts what should be here and is not, and ends what should not.
    fn place(self: &Rc<Self>) {
        let image = self.parts.shard.image();
        let holder = self.holder();
        let term = self.parts.membership.term();
        for number in 0..GROUP_SLOTS {
            let wanted = term.filter(|_| {
                image.complete
                    && image.is_live(holder.broker_id, holder.incarnation)
                    && coordinating_broker(&image, number) == Some(holder.broker_id)
            });
            let slot = self.slots.borrow().get(&number).cloned();
            let (running, ended) = match &slot {
                Some(slot) => (Some(slot.term), slot.service.phase() == Phase::Ended),
                None => (None, true),
            };
            if running == wanted && ended == wanted.is_none() {
                continue;
            }
            // A lapse of the registration that nobody has used ends nothing: then there is no new one.
            if term.is_none() && !ended {
                continue;
            }
            if let Some(slot) = slot {
                slot.service.hand_over();
                self.slots.borrow_mut().remove(&number);
            }
            if let Some(term) = wanted {
                self.start_slot(number, term);
            }
        }
    }

    fn start_slot(self: &Rc<Self>, number: u32, term: u64) {
        let pictured = self.parts.shard.clone();
        let membership = self.parts.membership.clone();
        let parts = ServiceParts {
            slot: number,
            holder: self.holder(),
            runtime: self.parts.runtime.clone(),
            metastore: self.parts.metastore.clone(),
            fences: Vec::new(), // The slot's key fences.
            image: Box::new(move || pictured.image()),
            registered: Box::new(move || membership.term() == Some(term) || planted::is(Bug::LapsedCoordinator)),
        };
        let (handle, inbox) = slot_inbox(GROUP_REQUESTS_MAX);
        let service = CoordinatorService::new(parts, self.config.clone(), inbox);
        let (host, running) = (self.clone(), service.clone());
        self.running.set(self.running.get() + 1);
        self.parts.runtime.spawn(
            "groups",
            Box::pin(async move {
                let end = running.run().await;
                host.running.set(host.running.get() - 1);
                match end {
                    ServiceEnd::Stopped if host.inbox.is_closed() && host.running.get() == 0 => host.tell(end),
                    ServiceEnd::Fenced if host.inbox.is_closed() && host.running.get() == 0 => {
                        host.tell(ServiceEnd::Stopped);
                    }
                    // Whoever has the slot now, the next look at the cluster tells.
                    ServiceEnd::Stopped | ServiceEnd::Fenced => log::info!("slot {number} of groups: {end}"),
                }
            }),
        );
        let slot = Slot { service, handle, term };
        self.slots.borrow_mut().insert(number, slot);
    }

    async fn watch_topics(self: Rc<Self>) {
        let mut seen: BTreeMap<u32, Arc<ClusterImage>> = BTreeMap::new();
        let mut looks = 0u32;
        while !self.inbox.is_closed() {
            self.parts.runtime.sleep(TOPICS_INTERVAL).await;
            let image = self.parts.shard.image();
            looks = looks.wrapping_add(1);
            let slots = self.slots.borrow().clone();
            seen.retain(|number, _| slots.contains_key(number));
            for (number, slot) in slots {
                let changed = seen.get(&number).is_none_or(|seen| !Arc::ptr_eq(seen, &image));
                if slot.service.phase() != Phase::Serving || !changed && !looks.is_multiple_of(TOPICS_ANYWAY) {
                    continue;
                }
                slot.service.forget_deleted_topics(&image.deleted);
                seen.insert(number, image.clone());
            }
        }
    }
}

/// The coordinators' part of the settings.
pub fn service_config(settings: &Settings) -> ServiceConfig {
    ServiceConfig {
        groups: GroupConfig {
            session_timeout_min_ms: settings.group_min_session_timeout_ms,
            session_timeout_max_ms: settings.group_max_session_timeout_ms,
            initial_rebalance_delay_ms: settings.group_initial_rebalance_delay_ms,
            offsets_retention_ms: (settings.offsets_retention_minutes as i64).saturating_mul(60_000),
            consumer_session_timeout_ms: settings.group_consumer_session_timeout_ms,
            consumer_heartbeat_interval_ms: settings.group_consumer_heartbeat_interval_ms,
            ..GroupConfig::default()
        },
        ..ServiceConfig::default()
    }
}
