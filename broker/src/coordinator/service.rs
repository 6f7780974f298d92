//! The coordinator at work: requests in, records to the metastore, replies out.
//!
//! A service coordinates the groups of one slot. It has one transaction on its way at a time, made of all writes that
//! wait, so the records of a group arrive in order and commits of many members share a transaction. Every transaction
//! moves the slot's key from the value that the previous one left to a new one. That one comparison does three things:
//! it fences (a successor has put its own value there), it makes a retry safe (of all copies of a transaction, late ones
//! included, only one can find the old value), and it tells after an unknown outcome whether the transaction counts.

mod handle;
mod lane;

pub use handle::{inbox, CoordinatorHandle, CoordinatorInbox, GroupMessage, PendingReply};
pub use lane::Holder;

use super::{GroupConfig, GroupReply, GroupRequest, Groups, Now, Output, Record, ReplyToken};
use crate::cluster::image::ClusterImage;
use crate::cluster::shown;
use crate::runtime::Runtime;
use futures::channel::oneshot;
use futures::future::{select, Either};
use kafscale_codec::error_code::ErrorCode;
use kafscale_codec::types::TopicId;
use kafscale_metastore::keys::{groups_prefix, offsets_prefix, Key};
use kafscale_metastore::operation::read_all;
use kafscale_metastore::{Compare, Metastore, MetastoreError};
use lane::Lane;
use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

const RETRY_MIN: Duration = Duration::from_millis(10);
const RETRY_MAX: Duration = Duration::from_secs(1);

/// Pause between two looks at what cannot be decoded.
const RELOOK_INTERVAL: Duration = Duration::from_secs(5);

/// Bounds of the service.
#[derive(Debug, Clone)]
pub struct ServiceConfig {
    /// Bounds of the groups.
    pub groups: GroupConfig,
    /// Writes on their way above which requests that may write are sent back to try again.
    pub writes_in_flight_max: usize,
    /// How long a write is tried while the metastore is known to be unavailable, before who waits for it hears so.
    pub write_give_up: Duration,
    /// Pause between two looks for offsets that have expired (`offsets.retention.check.interval.ms`).
    pub expiry_interval: Duration,
}

impl Default for ServiceConfig {
    fn default() -> Self {
        ServiceConfig {
            groups: GroupConfig::default(),
            writes_in_flight_max: 10_000,
            write_give_up: Duration::from_secs(5),
            expiry_interval: Duration::from_secs(600),
        }
    }
}

/// What the coordinator needs from its broker.
pub struct ServiceParts {
    /// Time, tasks, random bits.
    pub runtime: Rc<dyn Runtime>,
    /// Where groups and offsets are.
    pub metastore: Rc<dyn Metastore>,
    /// Which groups it coordinates.
    pub slot: u32,
    /// The broker that it is part of.
    pub holder: Holder,
    /// Conditions of every transaction besides the lane's own, such as "this broker is registered".
    pub fences: Vec<Compare>,
    /// The cluster as it is now: groups of the consumer protocol are assigned by it.
    pub image: Box<dyn Fn() -> Arc<ClusterImage>>,
    /// Whether the registration under which the slot was taken surely lasts: until then nobody else takes it.
    pub registered: Box<dyn Fn() -> bool>,
}

/// Why a coordinator ended.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ServiceEnd {
    /// All handles are gone, or [`CoordinatorService::stop`] was called; what was accepted is stored.
    #[error("stopped")]
    Stopped,
    /// Another coordinator has taken over, or one of the fences no longer holds.
    #[error("fenced by another coordinator")]
    Fenced,
}

/// How far a service is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// It takes the slot, or reads what is stored.
    Loading,
    /// Another broker has the slot still.
    Waiting,
    /// It serves.
    Serving,
    /// That was it.
    Ended,
}

/// The coordinator of one slot of groups. All of it lives on one shard.
pub struct CoordinatorService {
    parts: ServiceParts,
    config: ServiceConfig,
    inbox: async_channel::Receiver<GroupMessage>,
    state: RefCell<State>,
    lane_wake: Wake,
    timer_wake: Wake,
    phase: Cell<Phase>,
    /// Nobody cares any more whether successors have to wait.
    hurried: Cell<bool>,
    fenced: Cell<bool>,
    /// What is stored and cannot be decoded, with the reason.
    unreadable: RefCell<BTreeMap<Key, String>>,
}

struct State {
    groups: Groups,
    replies: BTreeMap<ReplyToken, oneshot::Sender<GroupReply>>,
    next_token: u64,
    lane: Lane,
    /// The deadline that the timer task sleeps for.
    armed: Option<u64>,
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

impl CoordinatorService {
    /// A coordinator that knows nothing yet. [`CoordinatorService::run`] gives it life.
    pub fn new(parts: ServiceParts, config: ServiceConfig, inbox: CoordinatorInbox) -> Rc<Self> {
        let coordinator = u128::from(parts.runtime.random_u64()) << 64 | u128::from(parts.runtime.random_u64());
        let state = State {
            groups: Groups::new(config.groups.clone()),
            replies: BTreeMap::new(),
            next_token: 0,
            lane: Lane::new(parts.slot, parts.holder, coordinator),
            armed: None,
        };
        let service = CoordinatorService {
            parts,
            config,
            inbox: inbox.0,
            state: RefCell::new(state),
            lane_wake: Wake::new(),
            timer_wake: Wake::new(),
            phase: Cell::new(Phase::Loading),
            hurried: Cell::new(false),
            fenced: Cell::new(false),
            unreadable: RefCell::default(),
        };
        Rc::new(service)
    }

    /// How far it is.
    pub fn phase(&self) -> Phase {
        self.phase.get()
    }

    /// What is stored of this slot and cannot be decoded, with the reason. Each is left alone, and everything else is
    /// served.
    pub fn unreadable(&self) -> BTreeMap<Key, String> {
        self.unreadable.borrow().clone()
    }

    fn has_ended(&self) -> bool {
        self.phase.get() == Phase::Ended
    }

    /// Drops the offsets of topics that are recorded as deleted. A topic that is merely missing keeps them.
    pub fn forget_deleted_topics(&self, deleted: &BTreeSet<TopicId>) {
        let mut topic_ids = self.state.borrow().groups.topics_with_offsets();
        topic_ids.retain(|id| deleted.contains(id));
        if topic_ids.is_empty() || self.has_ended() {
            return;
        }
        log::info!(
            "group slot {}: dropping the committed offsets of {} deleted topics",
            self.parts.slot,
            topic_ids.len()
        );
        let topic_ids = topic_ids.into_iter().collect();
        let (reply, _) = oneshot::channel();
        let request = GroupRequest::TopicsDeleted { topic_ids };
        self.handle(GroupMessage { request, reply });
    }

    /// Takes no more requests; [`CoordinatorService::run`] ends once what was accepted is stored and the slot is free
    /// for another broker.
    pub fn hand_over(&self) {
        self.inbox.close();
    }

    /// Takes no more requests; [`CoordinatorService::run`] ends once what was accepted is stored. The broker ends, too.
    pub fn stop(&self) {
        self.hurried.set(true);
        self.inbox.close();
    }

    /// Takes the slot, loads its groups, and serves until it is stopped or fenced. Who asks meanwhile hears that the
    /// coordinator is loading.
    pub async fn run(self: Rc<Self>) -> ServiceEnd {
        let end = match self.load_while_refusing().await {
            Ok(()) => {
                let service = self.clone();
                self.spawn("group-writes", async move { service.lane_loop().await });
                let service = self.clone();
                self.spawn("group-timers", async move { service.timer_loop().await });
                let service = self.clone();
                self.spawn("offset-expiry", async move { service.expiry_loop().await });
                if !self.unreadable.borrow().is_empty() {
                    let service = self.clone();
                    self.spawn("unreadable", async move { service.relook_loop().await });
                }
                self.phase.set(Phase::Serving);
                self.serve().await
            }
            Err(end) => end,
        };
        self.inbox.close();
        while let Ok(message) = self.inbox.try_recv() {
            drop(message); // Its sender hears that this is no coordinator.
        }
        self.phase.set(Phase::Ended);
        self.lane_wake.wake();
        self.timer_wake.wake();
        self.state.borrow_mut().replies.clear();
        if end == ServiceEnd::Stopped {
            self.hand_over_lane(|| self.hurried.get()).await;
        }
        end
    }

    fn spawn(self: &Rc<Self>, name: &'static str, task: impl std::future::Future<Output = ()> + 'static) {
        self.parts.runtime.spawn(name, Box::pin(task));
    }

    fn now(&self) -> Now {
        Now {
            monotonic_ms: u64::try_from(self.parts.runtime.now().as_millis()).unwrap_or(u64::MAX),
            wall_ms: self.parts.runtime.wall_clock_ms(),
        }
    }

    async fn load_while_refusing(&self) -> Result<(), ServiceEnd> {
        let load = std::pin::pin!(self.load());
        let refuse = std::pin::pin!(async {
            while let Ok(message) = self.inbox.recv().await {
                let refusal = message.request.refuse(ErrorCode::COORDINATOR_LOAD_IN_PROGRESS);
                let _ = message.reply.send(refusal);
            }
        });
        match select(load, refuse).await {
            Either::Left((loaded, _)) => loaded,
            Either::Right(((), _)) => Err(ServiceEnd::Stopped),
        }
    }

    async fn load(&self) -> Result<(), ServiceEnd> {
        self.claim_lane().await?;
        self.phase.set(Phase::Loading);
        for prefix in [groups_prefix(self.parts.slot), offsets_prefix(self.parts.slot)] {
            let mut pause = RETRY_MIN;
            let listing = loop {
                match read_all(&*self.parts.metastore, &prefix).await {
                    Ok(listing) => break listing,
                    Err(error) => self.back_off(&mut pause, "load groups", &error).await,
                }
            };
            let mut state = self.state.borrow_mut();
            for item in listing.items {
                let Some(key) = Key::parse(&item.key) else { continue };
                match Record::from_stored(&key, &item.value) {
                    Ok(Some(record)) => state.groups.replay(&record),
                    Ok(None) => {}
                    Err(reason) => {
                        state.groups.replay_unreadable(&key);
                        self.note_unreadable(key, reason);
                    }
                }
            }
        }
        // Without all topics, members would be told to give up what they have.
        while !(self.parts.image)().complete {
            self.parts.runtime.sleep(RETRY_MIN).await;
        }
        let now = self.now();
        self.state.borrow_mut().groups.recovered(now);
        Ok(())
    }

    fn note_unreadable(&self, key: Key, reason: String) {
        let mut unreadable = self.unreadable.borrow_mut();
        if unreadable.get(&key) != Some(&reason) {
            log::error!(
                "metastore value {} cannot be read: {reason}; it is neither served nor overwritten, everything else of \
                 group slot {} is. Upgrade this broker to the version that wrote it, restore the value, or delete the \
                 committed offset",
                shown(&key),
                self.parts.slot
            );
            unreadable.insert(key, reason);
        }
    }

    /// Looks now and then whether what could not be decoded has changed. Then the slot is loaded anew: by this broker, or
    /// by whoever should have it.
    async fn relook_loop(&self) {
        while self.nap(RELOOK_INTERVAL).await {
            let keys: Vec<Key> = self.unreadable.borrow().keys().cloned().collect();
            for key in keys {
                let Ok(found) = self.parts.metastore.get(&key.to_bytes()).await else {
                    break; // There is another time.
                };
                let still = found.is_some_and(|found| Record::from_stored(&key, &found.value).is_err());
                if !still {
                    log::info!(
                        "metastore value {} has changed: group slot {} is loaded anew",
                        shown(&key),
                        self.parts.slot
                    );
                    return self.hand_over();
                }
            }
        }
    }

    /// Waits. `false` if the service ends meanwhile.
    async fn nap(&self, length: Duration) -> bool {
        let mut slept = Duration::ZERO;
        while slept < length && !self.has_ended() {
            let nap = (length - slept).min(Duration::from_secs(1));
            self.parts.runtime.sleep(nap).await;
            slept += nap;
        }
        !self.has_ended()
    }

    async fn back_off(&self, pause: &mut Duration, doing: &str, error: &MetastoreError) {
        log::warn!("{doing}: {error}; trying again");
        self.parts.runtime.sleep(*pause).await;
        *pause = (*pause * 2).min(RETRY_MAX);
    }

    async fn serve(&self) -> ServiceEnd {
        let mut handled = 0u32;
        while let Ok(message) = self.inbox.recv().await {
            if self.fenced.get() {
                return ServiceEnd::Fenced;
            }
            self.handle(message);
            handled += 1;
            if handled.is_multiple_of(64) {
                self.parts.runtime.yield_now().await;
            }
        }
        while !self.fenced.get() && self.state.borrow().groups.writes_in_flight() > 0 {
            self.parts.runtime.sleep(Duration::from_millis(1)).await;
        }
        if self.fenced.get() {
            ServiceEnd::Fenced
        } else {
            ServiceEnd::Stopped
        }
    }

    fn handle(&self, GroupMessage { mut request, reply }: GroupMessage) {
        let mut state = self.state.borrow_mut();
        if may_write(&request) && state.groups.writes_in_flight() >= self.config.writes_in_flight_max {
            // Retriable, and clients stay with this coordinator.
            let _ = reply.send(request.refuse(ErrorCode::COORDINATOR_LOAD_IN_PROGRESS));
            return;
        }
        let random = || u128::from(self.parts.runtime.random_u64()) << 64 | u128::from(self.parts.runtime.random_u64());
        match &mut request {
            GroupRequest::Join(join) => join.random = random(),
            GroupRequest::ConsumerHeartbeat(heartbeat) => heartbeat.random = random(),
            _ => {}
        }
        state.groups.set_image((self.parts.image)());
        let token = ReplyToken(state.next_token);
        state.next_token += 1;
        state.replies.insert(token, reply);
        let refusal = request.refuse(ErrorCode::NOT_COORDINATOR);
        let mut out = state.groups.handle(self.now(), token, request);
        // After memory was read, not before: the process may have been stopped in between, and another coordinator may
        // have taken the slot and stored something since. What a write's reply rests on is compared by its transaction.
        if !(self.parts.registered)() {
            let stale = out.replies.iter_mut().filter(|(answered, _)| *answered == token);
            stale.for_each(|(_, reply)| *reply = refusal.clone());
        }
        self.deliver(&mut state, out);
    }

    /// Sends replies, queues writes, and sets the timer if it is due earlier.
    fn deliver(&self, state: &mut State, out: Output) {
        for (token, reply) in out.replies {
            if let Some(sender) = state.replies.remove(&token) {
                let _ = sender.send(reply); // The client may have gone.
            }
        }
        for write in out.writes {
            state.lane.queue.push_back(write);
            self.lane_wake.wake();
        }
        let next = state.groups.next_deadline();
        if next.is_some_and(|next| state.armed.is_none_or(|armed| next < armed)) {
            self.timer_wake.wake();
        }
    }

    async fn timer_loop(&self) {
        while !self.has_ended() {
            let now = self.now();
            let next = self.state.borrow().groups.next_deadline();
            if next.is_some_and(|next| next <= now.monotonic_ms) {
                let mut state = self.state.borrow_mut();
                let out = state.groups.on_deadline(now);
                self.deliver(&mut state, out);
                continue;
            }
            self.state.borrow_mut().armed = next;
            let woken = std::pin::pin!(self.timer_wake.wait());
            match next {
                // A millisecond more: the clock was cut to whole ones.
                Some(next) => {
                    let sleep = Duration::from_millis(next - now.monotonic_ms + 1);
                    select(self.parts.runtime.sleep(sleep), woken).await;
                }
                None => woken.await,
            }
        }
    }

    async fn expiry_loop(&self) {
        while self.nap(self.config.expiry_interval).await {
            let (reply, _) = oneshot::channel();
            let request = GroupRequest::ExpireOffsets;
            self.handle(GroupMessage { request, reply });
        }
    }
}

fn may_write(request: &GroupRequest) -> bool {
    match request {
        GroupRequest::Join(_)
        | GroupRequest::Sync(_)
        | GroupRequest::Commit(_)
        | GroupRequest::DeleteOffsets(_)
        | GroupRequest::DeleteGroup { .. }
        | GroupRequest::ConsumerHeartbeat(_)
        | GroupRequest::ExpireOffsets => true,
        // A deleted topic is announced once.
        GroupRequest::Heartbeat(_)
        | GroupRequest::Leave(_)
        | GroupRequest::FetchOffsets(_)
        | GroupRequest::Describe { .. }
        | GroupRequest::DescribeConsumers { .. }
        | GroupRequest::List { .. }
        | GroupRequest::TopicsDeleted { .. } => false,
    }
}

#[cfg(test)]
mod tests;
