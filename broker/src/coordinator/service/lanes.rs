//! Lanes: how records get into the metastore, in order, each transaction exactly once.

use super::super::{GroupWrite, Output, Record, WriteId};
use super::{CoordinatorService, ServiceEnd, RETRY_MIN};
use bytes::Bytes;
use kafscale_codec::error_code::ErrorCode;
use kafscale_metastore::keys::coordinator_key;
use kafscale_metastore::{Compare, MetastoreError, Op, Txn, TXN_OPS_MAX};
use std::collections::{BTreeMap, VecDeque};

/// Transactions on their way at once. A fixed number: a coordinator fences its predecessor lane by lane.
pub const LANES: usize = 4;

/// Bytes of one transaction, unless a single write has more: etcd refuses requests above 1.5 MiB.
const TXN_BYTES_MAX: usize = 1 << 20;

pub(super) struct Lane {
    key: Bytes,
    /// What the last transaction left in the key.
    value: LaneValue,
    pub queue: VecDeque<GroupWrite>,
}

impl Lane {
    pub fn new(coordinator: u128, lane: usize) -> Self {
        Lane {
            key: coordinator_key(lane as i32),
            value: LaneValue {
                coordinator,
                sequence: 0,
            },
            queue: VecDeque::new(),
        }
    }
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

/// How a transaction ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stored {
    Yes,
    /// Not applied, and never will be.
    No(ErrorCode),
    Fenced,
}

impl CoordinatorService {
    /// From now on, no transaction of an earlier coordinator can be applied in this lane.
    pub(super) async fn claim_lane(&self, lane: usize) -> Result<(), ServiceEnd> {
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

    pub(super) async fn lane_loop(&self, lane: usize) {
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

/// FNV-1a: the same group has the same lane in every life of the coordinator.
pub(super) fn lane_of(group: &str) -> usize {
    let hash = group.bytes().fold(0xcbf2_9ce4_8422_2325u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
    });
    (hash % LANES as u64) as usize
}

pub(super) fn put(key: Bytes, value: Bytes) -> Op {
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
