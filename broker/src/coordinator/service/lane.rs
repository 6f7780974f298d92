//! The lane of a slot: how records get into the metastore, in order, each transaction exactly once.

use super::super::{GroupWrite, Output, Record, WriteId};
use super::{CoordinatorService, Phase, ServiceEnd, RETRY_MIN};
use crate::planted::{self, Bug};
use bytes::Bytes;
use kafscale_codec::error_code::ErrorCode;
use kafscale_metastore::keys::{broker_key, coordinator_key, BrokerRecord, Key};
use kafscale_metastore::{Compare, MetastoreError, Op, Txn, TXN_OPS_MAX};
use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

/// Bytes of one transaction, unless a single write has more: etcd refuses requests above 1.5 MiB.
const TXN_BYTES_MAX: usize = 1 << 20;

/// How often a successor looks whether its predecessor has gone.
const PREDECESSOR_LOOK: Duration = Duration::from_millis(50);

/// How often it looks whether a slot's key that cannot be decoded has changed.
const UNREADABLE_LOOK: Duration = Duration::from_secs(1);

/// The life of a broker that coordinates.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Holder {
    /// The broker.
    pub broker_id: i32,
    /// Its incarnation.
    pub incarnation: u64,
}

pub(super) struct Lane {
    key: Bytes,
    /// What the last transaction left in the key.
    value: LaneValue,
    pub queue: VecDeque<GroupWrite>,
}

impl Lane {
    pub fn new(slot: u32, holder: Holder, coordinator: u128) -> Self {
        Lane {
            key: coordinator_key(slot),
            value: LaneValue {
                coordinator,
                sequence: 0,
                holder: Some(holder),
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
    /// Who has the slot; nobody once it was handed over.
    holder: Option<Holder>,
}

impl LaneValue {
    /// `coordinator u128 | sequence u64 | held u8 | broker id i32 | incarnation u64`, big-endian.
    fn encode(self) -> Bytes {
        let holder = self.holder.unwrap_or(Holder {
            broker_id: 0,
            incarnation: 0,
        });
        let parts: [&[u8]; 5] = [
            &self.coordinator.to_be_bytes(),
            &self.sequence.to_be_bytes(),
            &[u8::from(self.holder.is_some())],
            &holder.broker_id.to_be_bytes(),
            &holder.incarnation.to_be_bytes(),
        ];
        Bytes::from(parts.concat())
    }

    /// Who holds a lane with this value.
    ///
    /// # Errors
    /// If it is no value of a lane.
    fn holder_in(value: &[u8]) -> Result<Option<Holder>, String> {
        let (Some((_, holder)), 37) = (value.split_at_checked(24), value.len()) else {
            return Err(format!("{} bytes instead of 37", value.len()));
        };
        let (held, holder) = holder.split_at(1);
        let (broker_id, incarnation) = holder.split_at(4);
        let number = |bytes: &[u8]| bytes.iter().fold(0, |number, byte| number << 8 | u64::from(*byte));
        match held[0] {
            0 => Ok(None),
            1 => Ok(Some(Holder {
                broker_id: number(broker_id) as i32,
                incarnation: number(incarnation),
            })),
            other => Err(format!("held is {other}")),
        }
    }

    fn next(self) -> Self {
        LaneValue {
            sequence: self.sequence + 1,
            ..self
        }
    }
}

/// What became of an attempt to claim.
enum Claim {
    Done,
    /// The predecessor wrote meanwhile, or a fence no longer holds.
    Overtaken,
    /// Another broker has the lane, and is alive.
    HeldElsewhere,
    /// The lane's value is not one of ours.
    Unreadable(String),
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
    /// From now on, no transaction of an earlier coordinator can be applied in this lane, and none of them answers
    /// anybody: another broker has handed the lane over, or is not registered any more.
    pub(super) async fn claim_lane(&self) -> Result<(), ServiceEnd> {
        let (key, ours) = {
            let lane = &self.state.borrow().lane;
            (lane.key.clone(), lane.value.encode())
        };
        let mut pause = RETRY_MIN;
        loop {
            match self.try_to_claim(&key, &ours).await {
                Ok(Claim::Done) => {
                    self.unreadable.borrow_mut().clear();
                    return Ok(());
                }
                Ok(Claim::Overtaken) if !self.fences_hold().await => return Err(ServiceEnd::Fenced),
                Ok(Claim::Overtaken) => {}
                Ok(Claim::HeldElsewhere) => {
                    self.phase.set(Phase::Waiting);
                    self.parts.runtime.sleep(PREDECESSOR_LOOK).await;
                }
                Ok(Claim::Unreadable(reason)) => {
                    // Another version's coordinator may have the slot. This one waits; the other slots are served.
                    self.phase.set(Phase::Waiting);
                    self.note_unreadable(Key::Coordinator(self.parts.slot), reason);
                    self.parts.runtime.sleep(UNREADABLE_LOOK).await;
                    continue;
                }
                Err(error) => self.back_off(&mut pause, "claim a slot of groups", &error).await,
            }
        }
    }

    async fn try_to_claim(&self, key: &Bytes, ours: &Bytes) -> Result<Claim, MetastoreError> {
        let unchanged = match self.parts.metastore.get(key).await? {
            // An attempt whose outcome was unknown.
            Some(found) if found.value == *ours => return Ok(Claim::Done),
            Some(found) => {
                match LaneValue::holder_in(&found.value) {
                    Err(reason) => return Ok(Claim::Unreadable(reason)),
                    Ok(Some(holder)) if self.is_alive_elsewhere(holder).await? => return Ok(Claim::HeldElsewhere),
                    Ok(_) => {}
                }
                Compare::Value(key.clone(), found.value)
            }
            None => Compare::Absent(key.clone()),
        };
        let mut compares = self.parts.fences.clone();
        compares.push(unchanged);
        let ops = vec![put(key.clone(), ours.clone())];
        let outcome = self.parts.metastore.txn(Txn { compares, ops }).await?;
        Ok(match outcome.succeeded {
            true => Claim::Done,
            false => Claim::Overtaken,
        })
    }

    /// Whether this is the life of another broker that may still answer. One whose registration has gone stops
    /// answering before that, and does not begin again with what it knew.
    async fn is_alive_elsewhere(&self, holder: Holder) -> Result<bool, MetastoreError> {
        if holder.broker_id == self.parts.holder.broker_id || planted::is(Bug::PredecessorIgnored) {
            return Ok(false);
        }
        let registered = self.parts.metastore.get(&broker_key(holder.broker_id)).await?;
        // Who cannot be read is spared.
        Ok(registered.is_some_and(|found| {
            BrokerRecord::decode(&found.value).map_or(true, |broker| broker.incarnation == holder.incarnation)
        }))
    }

    /// Tells successors that this coordinator has ended, so that they need not wait until its broker has. Tries until
    /// that is known, or `give_up` says that it does not matter.
    pub(super) async fn hand_over_lane(&self, give_up: impl Fn() -> bool) {
        let (key, before) = {
            let lane = &self.state.borrow().lane;
            (lane.key.clone(), lane.value)
        };
        let after = LaneValue {
            holder: None,
            ..before.next()
        };
        let txn = Txn {
            compares: vec![Compare::Value(key.clone(), before.encode())],
            ops: vec![put(key, after.encode())],
        };
        let mut pause = RETRY_MIN;
        // Refused means that an earlier attempt was applied, or that somebody else has the slot already.
        while let Err(error) = self.parts.metastore.txn(txn.clone()).await {
            if give_up() {
                return;
            }
            self.back_off(&mut pause, "hand a slot of groups over", &error).await;
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

    pub(super) async fn lane_loop(&self) {
        while !self.has_ended() {
            let (ids, ops) = self.take_batch();
            if ids.is_empty() {
                self.lane_wake.wait().await;
                continue;
            }
            let stored = self.store(ops).await;
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
    fn take_batch(&self) -> (Vec<WriteId>, BTreeMap<Bytes, Op>) {
        let mut state = self.state.borrow_mut();
        let (mut ids, mut ops, mut bytes) = (Vec::new(), BTreeMap::new(), 0);
        while let Some(write) = state.lane.queue.front() {
            let write_ops: Vec<Op> = write.records.iter().map(Record::to_op).collect();
            bytes += write_ops.iter().map(op_bytes).sum::<usize>();
            let full = ops.len() + write_ops.len() >= TXN_OPS_MAX || bytes > TXN_BYTES_MAX;
            if full && !ids.is_empty() {
                break;
            }
            ops.extend(write_ops.into_iter().map(|op| (op_key(&op), op)));
            ids.extend(state.lane.queue.pop_front().map(|write| write.id));
        }
        (ids, ops)
    }

    /// Applies one transaction exactly once.
    async fn store(&self, ops: BTreeMap<Bytes, Op>) -> Stored {
        let (key, before) = {
            let lane = &self.state.borrow().lane;
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
            self.state.borrow_mut().lane.value = after;
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
            if self.has_ended() {
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
