//! The coordinator at work: requests in, records to the metastore, replies out.
//!
//! Groups are spread over a few *lanes*. A lane has one transaction on its way at a time, made of all writes that wait,
//! so the records of a group arrive in order and commits of many members share a transaction. Every transaction moves
//! the lane's key from the value that the previous one left to a new one. That one comparison does three things: it
//! fences (a successor has put its own value there), it makes a retry safe (of all copies of a transaction, late ones
//! included, only one can find the old value), and it tells after an unknown outcome whether the transaction counts.

use super::{GroupConfig, GroupReply, GroupRequest, GroupWrite, Groups, Now, Output, Record, ReplyToken, WriteId};
use crate::runtime::Runtime;
use bytes::Bytes;
use futures::channel::oneshot;
use futures::future::{select, Either};
use kafscale_codec::error_code::ErrorCode;
use kafscale_codec::types::TopicId;
use kafscale_metastore::keys::{GROUPS_PREFIX, OFFSETS_PREFIX};
use kafscale_metastore::operation::read_all;
use kafscale_metastore::{Compare, Metastore, MetastoreError, Op, Txn, TXN_OPS_MAX};
use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, HashMap, VecDeque};
use std::rc::Rc;
use std::time::Duration;

/// Transactions on their way at once. A fixed number: a coordinator fences its predecessor lane by lane.
pub const LANES: usize = 4;

/// Bytes of one transaction, unless a single write has more: etcd refuses requests above 1.5 MiB.
const TXN_BYTES_MAX: usize = 1 << 20;

const RETRY_MIN: Duration = Duration::from_millis(10);
const RETRY_MAX: Duration = Duration::from_secs(1);

/// Bounds of the service.
#[derive(Debug, Clone)]
pub struct ServiceConfig {
    /// Bounds of the groups.
    pub groups: GroupConfig,
    /// Requests in the inbox before their senders wait.
    pub inbox_capacity: usize,
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
            inbox_capacity: 1_024,
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
    /// Start of the lanes' keys. Whoever coordinates the same groups has the same one.
    pub lane_prefix: String,
    /// Conditions of every transaction besides the lane's own, such as "this broker is registered".
    pub fences: Vec<Compare>,
    /// Names of all topics, for the expiry of offsets that a live group no longer subscribes to.
    pub topic_names: Box<dyn Fn() -> BTreeMap<TopicId, String>>,
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
    /// What is stored cannot be read: an operator has to look at it.
    #[error("stored record {key}: {reason}")]
    Corrupt {
        /// The record's key.
        key: String,
        /// What is wrong.
        reason: String,
    },
}

/// A request with the way back.
#[derive(Debug)]
pub struct GroupMessage {
    request: GroupRequest,
    reply: oneshot::Sender<GroupReply>,
}

/// How other shards reach the coordinator.
#[derive(Debug, Clone)]
pub struct CoordinatorHandle {
    inbox: async_channel::Sender<GroupMessage>,
}

/// A request that is in the coordinator's inbox.
#[derive(Debug)]
pub struct PendingReply {
    reply: oneshot::Receiver<GroupReply>,
    refusal: GroupReply,
}

impl CoordinatorHandle {
    /// Asks, and waits for the answer.
    pub async fn call(&self, request: GroupRequest) -> GroupReply {
        self.submit(request).await.reply().await
    }

    /// Puts a request into the inbox, waiting for room. Requests of one sender are handled in the order in which this
    /// returned.
    pub async fn submit(&self, request: GroupRequest) -> PendingReply {
        let refusal = request.refuse(ErrorCode::NOT_COORDINATOR);
        let (sender, reply) = oneshot::channel();
        // A closed inbox drops the sender with the message, and the reply says so.
        let _ = self.inbox.send(GroupMessage { request, reply: sender }).await;
        PendingReply { reply, refusal }
    }
}

impl PendingReply {
    /// The answer. If the coordinator ended meanwhile: the error that makes clients look for its successor.
    pub async fn reply(self) -> GroupReply {
        self.reply.await.unwrap_or(self.refusal)
    }
}

/// The coordinator of one broker. All of it lives on one shard.
pub struct CoordinatorService {
    parts: ServiceParts,
    config: ServiceConfig,
    inbox: async_channel::Receiver<GroupMessage>,
    state: RefCell<State>,
    lane_wakes: Vec<Wake>,
    timer_wake: Wake,
    ended: Cell<bool>,
    fenced: Cell<bool>,
}

struct State {
    groups: Groups,
    replies: HashMap<ReplyToken, oneshot::Sender<GroupReply>>,
    next_token: u64,
    lanes: Vec<Lane>,
    /// The deadline that the timer task sleeps for.
    armed: Option<u64>,
}

struct Lane {
    key: Bytes,
    /// What the last transaction left in the key.
    value: LaneValue,
    queue: VecDeque<GroupWrite>,
}

/// Value of a lane's key: never the same twice.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct LaneValue {
    coordinator: u128,
    sequence: u64,
}

impl LaneValue {
    fn encode(self) -> Bytes {
        Bytes::from([&self.coordinator.to_be_bytes()[..], &self.sequence.to_be_bytes()].concat())
    }

    fn next(self) -> Self {
        LaneValue {
            sequence: self.sequence + 1,
            ..self
        }
    }
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

/// How a transaction ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stored {
    Yes,
    /// Not applied, and never will be.
    No(ErrorCode),
    Fenced,
}

impl CoordinatorService {
    /// A coordinator that knows nothing yet, and the way to it. [`CoordinatorService::run`] gives it life.
    pub fn new(parts: ServiceParts, config: ServiceConfig) -> (Rc<Self>, CoordinatorHandle) {
        let (sender, inbox) = async_channel::bounded(config.inbox_capacity);
        let coordinator = u128::from(parts.runtime.random_u64()) << 64 | u128::from(parts.runtime.random_u64());
        let lane = |lane: usize| Lane {
            key: Bytes::from(format!("{}{lane:02}", parts.lane_prefix)),
            value: LaneValue {
                coordinator,
                sequence: 0,
            },
            queue: VecDeque::new(),
        };
        let state = State {
            groups: Groups::new(config.groups.clone()),
            replies: HashMap::new(),
            next_token: 0,
            lanes: (0..LANES).map(lane).collect(),
            armed: None,
        };
        let service = CoordinatorService {
            parts,
            config,
            inbox,
            state: RefCell::new(state),
            lane_wakes: (0..LANES).map(|_| Wake::new()).collect(),
            timer_wake: Wake::new(),
            ended: Cell::new(false),
            fenced: Cell::new(false),
        };
        (Rc::new(service), CoordinatorHandle { inbox: sender })
    }

    /// Takes no more requests; [`CoordinatorService::run`] ends once what was accepted is stored.
    pub fn stop(&self) {
        self.inbox.close();
    }

    /// Fences the predecessor, loads all groups, and serves until it is stopped or fenced. Who asks meanwhile hears
    /// that the coordinator is loading.
    pub async fn run(self: Rc<Self>) -> ServiceEnd {
        let end = match self.load_while_refusing().await {
            Ok(()) => {
                for lane in 0..LANES {
                    let service = self.clone();
                    self.spawn("group-writes", async move { service.lane_loop(lane).await });
                }
                let service = self.clone();
                self.spawn("group-timers", async move { service.timer_loop().await });
                let service = self.clone();
                self.spawn("offset-expiry", async move { service.expiry_loop().await });
                self.serve().await
            }
            Err(end) => end,
        };
        self.inbox.close();
        while let Ok(message) = self.inbox.try_recv() {
            drop(message); // Its sender hears that this is no coordinator.
        }
        self.ended.set(true);
        self.lane_wakes.iter().for_each(Wake::wake);
        self.timer_wake.wake();
        self.state.borrow_mut().replies.clear();
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
        for lane in 0..LANES {
            self.claim_lane(lane).await?;
        }
        for prefix in [GROUPS_PREFIX, OFFSETS_PREFIX] {
            let mut pause = RETRY_MIN;
            let listing = loop {
                match read_all(&*self.parts.metastore, prefix).await {
                    Ok(listing) => break listing,
                    Err(error) => self.back_off(&mut pause, "load groups", &error).await,
                }
            };
            let mut state = self.state.borrow_mut();
            for item in listing.items {
                match Record::from_stored(&item.key, &item.value) {
                    Ok(Some(record)) => state.groups.replay(&record),
                    Ok(None) => {}
                    Err(reason) => {
                        let key = String::from_utf8_lossy(&item.key).into_owned();
                        return Err(ServiceEnd::Corrupt { key, reason });
                    }
                }
            }
        }
        let now = self.now();
        self.state.borrow_mut().groups.recovered(now);
        Ok(())
    }

    /// From now on, no transaction of an earlier coordinator can be applied in this lane.
    async fn claim_lane(&self, lane: usize) -> Result<(), ServiceEnd> {
        let (key, ours) = {
            let state = self.state.borrow();
            (state.lanes[lane].key.clone(), state.lanes[lane].value.encode())
        };
        let mut pause = RETRY_MIN;
        loop {
            let claimed = async {
                let found = self.parts.metastore.get(&key).await?;
                let unchanged = match found {
                    Some(found) if found.value == ours => return Ok(true), // An attempt whose outcome was unknown.
                    Some(found) => Compare::Value(key.clone(), found.value),
                    None => Compare::Absent(key.clone()),
                };
                let mut compares = self.parts.fences.clone();
                compares.push(unchanged);
                let ops = vec![put(key.clone(), ours.clone())];
                let outcome = self.parts.metastore.txn(Txn { compares, ops }).await?;
                Ok::<bool, MetastoreError>(outcome.succeeded)
            };
            match claimed.await {
                Ok(true) => return Ok(()),
                // The predecessor wrote meanwhile, or a fence no longer holds.
                Ok(false) if !self.fences_hold().await => return Err(ServiceEnd::Fenced),
                Ok(false) => {}
                Err(error) => self.back_off(&mut pause, "claim a lane of groups", &error).await,
            }
        }
    }

    /// Whether the broker's own conditions hold, as far as can be told.
    async fn fences_hold(&self) -> bool {
        let compares = self.parts.fences.clone();
        let nothing = Txn { compares, ops: vec![] };
        self.parts
            .metastore
            .txn(nothing)
            .await
            .map_or(true, |outcome| outcome.succeeded)
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
        if let GroupRequest::Join(join) = &mut request {
            let runtime = &self.parts.runtime;
            join.random = u128::from(runtime.random_u64()) << 64 | u128::from(runtime.random_u64());
        }
        let token = ReplyToken(state.next_token);
        state.next_token += 1;
        state.replies.insert(token, reply);
        let out = state.groups.handle(self.now(), token, request);
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
            let lane = lane_of(&write.group);
            state.lanes[lane].queue.push_back(write);
            self.lane_wakes[lane].wake();
        }
        let next = state.groups.next_deadline();
        if next.is_some_and(|next| state.armed.is_none_or(|armed| next < armed)) {
            self.timer_wake.wake();
        }
    }

    async fn timer_loop(&self) {
        while !self.ended.get() {
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
        loop {
            let mut slept = Duration::ZERO;
            while slept < self.config.expiry_interval {
                let nap = (self.config.expiry_interval - slept).min(Duration::from_secs(1));
                self.parts.runtime.sleep(nap).await;
                slept += nap;
                if self.ended.get() {
                    return;
                }
            }
            let topic_names = (self.parts.topic_names)();
            let (reply, _) = oneshot::channel();
            let request = GroupRequest::ExpireOffsets { topic_names };
            self.handle(GroupMessage { request, reply });
        }
    }

    async fn lane_loop(&self, lane: usize) {
        while !self.ended.get() {
            let (ids, ops) = self.take_batch(lane);
            if ids.is_empty() {
                self.lane_wakes[lane].wait().await;
                continue;
            }
            let stored = self.store(lane, ops).await;
            let now = self.now();
            let mut state = self.state.borrow_mut();
            for id in ids {
                let out = match stored {
                    Stored::Yes => state.groups.on_durable(now, id),
                    Stored::No(error) => state.groups.on_write_failed(now, id, error),
                    Stored::Fenced => Output::default(),
                };
                self.deliver(&mut state, out);
            }
            if stored == Stored::Fenced {
                log::warn!("store groups: another coordinator has taken over");
                self.fenced.set(true);
                self.inbox.close();
                return;
            }
        }
    }

    /// As many waiting writes as fit into one transaction. Of two writes to one key the later one counts.
    fn take_batch(&self, lane: usize) -> (Vec<WriteId>, BTreeMap<Bytes, Op>) {
        let mut state = self.state.borrow_mut();
        let (mut ids, mut ops, mut bytes) = (Vec::new(), BTreeMap::new(), 0);
        while let Some(write) = state.lanes[lane].queue.front() {
            let write_ops: Vec<Op> = write.records.iter().map(Record::to_op).collect();
            bytes += write_ops.iter().map(op_bytes).sum::<usize>();
            let full = ops.len() + write_ops.len() >= TXN_OPS_MAX || bytes > TXN_BYTES_MAX;
            if full && !ids.is_empty() {
                break;
            }
            ops.extend(write_ops.into_iter().map(|op| (op_key(&op), op)));
            ids.extend(state.lanes[lane].queue.pop_front().map(|write| write.id));
        }
        (ids, ops)
    }

    /// Applies one transaction exactly once.
    async fn store(&self, lane: usize, ops: BTreeMap<Bytes, Op>) -> Stored {
        let (key, before) = {
            let lane = &self.state.borrow().lanes[lane];
            (lane.key.clone(), lane.value)
        };
        let after = before.next();
        let mut compares = self.parts.fences.clone();
        compares.push(Compare::Value(key.clone(), before.encode()));
        let mut ops: Vec<Op> = ops.into_values().collect();
        ops.push(put(key.clone(), after.encode()));
        let txn = Txn { compares, ops };
        let stored = self.apply(&key, after, txn).await;
        if stored == Stored::Yes {
            self.state.borrow_mut().lanes[lane].value = after;
        }
        stored
    }

    async fn apply(&self, key: &Bytes, after: LaneValue, txn: Txn) -> Stored {
        let started = self.parts.runtime.now();
        let mut pause = RETRY_MIN;
        // Once an attempt may be on its way, "unavailable" no longer means that nothing will be applied.
        let mut may_be_applied = false;
        loop {
            let error = match self.parts.metastore.txn(txn.clone()).await {
                Ok(outcome) if outcome.succeeded => return Stored::Yes,
                Ok(_) => match self.parts.metastore.get(key).await {
                    // An earlier attempt was applied after all.
                    Ok(Some(found)) if found.value == after.encode() => return Stored::Yes,
                    Ok(_) => return Stored::Fenced,
                    Err(error) => error,
                },
                Err(MetastoreError::OutcomeUnknown(reason)) => {
                    may_be_applied = true;
                    MetastoreError::OutcomeUnknown(reason)
                }
                Err(error @ MetastoreError::Refused(_)) if !may_be_applied => {
                    log::error!("store groups: {error}");
                    return Stored::No(ErrorCode::UNKNOWN_SERVER_ERROR);
                }
                Err(error) => error,
            };
            if self.ended.get() {
                return Stored::Fenced; // Nobody waits for the answer any more.
            }
            if !may_be_applied && self.parts.runtime.now() - started >= self.config.write_give_up {
                log::warn!("store groups: {error}; giving up");
                return Stored::No(ErrorCode::COORDINATOR_NOT_AVAILABLE);
            }
            self.back_off(&mut pause, "store groups", &error).await;
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
        | GroupRequest::ExpireOffsets { .. } => true,
        // A deleted topic is announced once.
        GroupRequest::Heartbeat(_)
        | GroupRequest::Leave(_)
        | GroupRequest::FetchOffsets(_)
        | GroupRequest::Describe { .. }
        | GroupRequest::List { .. }
        | GroupRequest::TopicsDeleted { .. } => false,
    }
}

/// FNV-1a: the same group has the same lane in every life of the coordinator.
fn lane_of(group: &str) -> usize {
    let hash = group.bytes().fold(0xcbf2_9ce4_8422_2325u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
    });
    (hash % LANES as u64) as usize
}

fn put(key: Bytes, value: Bytes) -> Op {
    let lease = None;
    Op::Put { key, value, lease }
}

fn op_key(op: &Op) -> Bytes {
    match op {
        Op::Put { key, .. } | Op::Delete(key) => key.clone(),
    }
}

fn op_bytes(op: &Op) -> usize {
    match op {
        Op::Put { key, value, .. } => key.len() + value.len(),
        Op::Delete(key) => key.len(),
    }
}

#[cfg(test)]
mod tests;
