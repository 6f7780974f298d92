//! What a metastore holds and how transactions and leases change it. No IO, no clock: the stores that keep it in memory
//! and on disk share it.

use crate::store::{Compare, KeyValue, LeaseId, MetastoreError, Op, RangePage, Revision, Txn, TxnOutcome, WatchEvent};
use bytes::Bytes;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;

/// Keys, leases and the revision.
#[derive(Debug, Default)]
pub(crate) struct State {
    keys: BTreeMap<Bytes, Entry>,
    revision: Revision,
    leases: BTreeMap<LeaseId, Lease>,
    last_lease: i64,
}

/// A key's value and history.
#[derive(Debug, Clone)]
pub(crate) struct Entry {
    pub value: Bytes,
    pub create_revision: Revision,
    pub mod_revision: Revision,
    pub lease: Option<LeaseId>,
}

#[derive(Debug)]
struct Lease {
    ttl_ms: u64,
    deadline_ms: u64,
    keys: BTreeSet<Bytes>,
}

impl State {
    /// What was stored at `revision`, by ascending key, without leases. Leases granted here get ids above `last_lease`.
    pub fn load(revision: Revision, last_lease: i64, keys: BTreeMap<Bytes, Entry>) -> Self {
        State {
            keys,
            revision,
            leases: BTreeMap::new(),
            last_lease,
        }
    }

    pub fn revision(&self) -> Revision {
        self.revision
    }

    pub fn get(&self, key: &[u8]) -> Option<KeyValue> {
        self.keys.get_key_value(key).map(|(key, entry)| entry.with_key(key))
    }

    pub fn range(&self, start: &[u8], end: &[u8], limit: usize) -> RangePage {
        let mut page = RangePage {
            items: Vec::new(),
            more: false,
            revision: self.revision,
        };
        if start >= end {
            return page;
        }
        for (key, entry) in self
            .keys
            .range::<[u8], _>((Bound::Included(start), Bound::Excluded(end)))
        {
            if page.items.len() == limit.max(1) {
                page.more = true;
                break;
            }
            page.items.push(entry.with_key(key));
        }
        page
    }

    /// Applies a transaction, or nothing of it, and tells the changes in the order of its operations.
    pub fn apply(&mut self, txn: &Txn) -> Result<(TxnOutcome, Vec<WatchEvent>), MetastoreError> {
        txn.check()?;
        if !txn.compares.iter().all(|compare| self.holds(compare)) {
            return Ok((
                TxnOutcome {
                    succeeded: false,
                    revision: self.revision,
                },
                Vec::new(),
            ));
        }
        if let Some(gone) = txn.ops.iter().find_map(|op| self.gone_lease(op)) {
            return Err(MetastoreError::LeaseGone(gone));
        }
        let revision = self.revision + 1;
        let events: Vec<_> = txn.ops.iter().filter_map(|op| self.write(op, revision)).collect();
        self.advance(&events, revision);
        Ok((
            TxnOutcome {
                succeeded: true,
                revision: self.revision,
            },
            events,
        ))
    }

    fn holds(&self, compare: &Compare) -> bool {
        match compare {
            Compare::Absent(key) => !self.keys.contains_key(key),
            Compare::Present(key) => self.keys.contains_key(key),
            Compare::ModRevision(key, revision) => {
                self.keys.get(key).is_some_and(|entry| entry.mod_revision == *revision)
            }
            Compare::Value(key, value) => self.keys.get(key).is_some_and(|entry| entry.value == value),
        }
    }

    fn gone_lease(&self, op: &Op) -> Option<LeaseId> {
        match op {
            Op::Put { lease: Some(lease), .. } if !self.leases.contains_key(lease) => Some(*lease),
            _ => None,
        }
    }

    fn write(&mut self, op: &Op, revision: Revision) -> Option<WatchEvent> {
        let before = self.unbind(op.key());
        match op {
            Op::Put { key, value, lease } => {
                let create_revision = before.map_or(revision, |before| before.create_revision);
                let entry = Entry {
                    value: value.clone(),
                    create_revision,
                    mod_revision: revision,
                    lease: *lease,
                };
                if let Some(lease) = lease.and_then(|lease| self.leases.get_mut(&lease)) {
                    lease.keys.insert(key.clone());
                }
                let event = WatchEvent::Put(entry.with_key(key));
                self.keys.insert(key.clone(), entry);
                Some(event)
            }
            Op::Delete(key) => before.map(|_| WatchEvent::Delete {
                key: key.clone(),
                revision,
            }),
        }
    }

    /// Takes a key out, and out of its lease.
    fn unbind(&mut self, key: &Bytes) -> Option<Entry> {
        let entry = self.keys.remove(key)?;
        if let Some(lease) = entry.lease.and_then(|lease| self.leases.get_mut(&lease)) {
            lease.keys.remove(key);
        }
        Some(entry)
    }

    /// Only what changes something takes a revision.
    fn advance(&mut self, events: &[WatchEvent], revision: Revision) {
        if !events.is_empty() {
            self.revision = revision;
        }
    }

    pub fn grant(&mut self, ttl_ms: u64, now_ms: u64) -> LeaseId {
        self.last_lease += 1;
        let lease = LeaseId(self.last_lease);
        let deadline_ms = now_ms.saturating_add(ttl_ms);
        self.leases.insert(
            lease,
            Lease {
                ttl_ms,
                deadline_ms,
                keys: BTreeSet::new(),
            },
        );
        lease
    }

    pub fn keep_alive(&mut self, lease: LeaseId, now_ms: u64) -> Result<(), MetastoreError> {
        let found = self.leases.get_mut(&lease).ok_or(MetastoreError::LeaseGone(lease))?;
        found.deadline_ms = now_ms.saturating_add(found.ttl_ms);
        Ok(())
    }

    /// Ends a lease; its keys go in one revision.
    pub fn revoke(&mut self, lease: LeaseId) -> Result<Vec<WatchEvent>, MetastoreError> {
        let found = self.leases.remove(&lease).ok_or(MetastoreError::LeaseGone(lease))?;
        let revision = self.revision + 1;
        let events: Vec<_> = found
            .keys
            .into_iter()
            .filter_map(|key| self.write(&Op::Delete(key), revision))
            .collect();
        self.advance(&events, revision);
        Ok(events)
    }

    /// Ends every lease whose time is over.
    pub fn expire(&mut self, now_ms: u64) -> Vec<WatchEvent> {
        let over: Vec<_> = self
            .leases
            .iter()
            .filter(|(_, lease)| lease.deadline_ms <= now_ms)
            .map(|(id, _)| *id)
            .collect();
        over.into_iter()
            .flat_map(|lease| self.revoke(lease).expect("found above"))
            .collect()
    }

    /// When the next lease expires unless it is renewed.
    pub fn next_expiry_ms(&self) -> Option<u64> {
        self.leases.values().map(|lease| lease.deadline_ms).min()
    }
}

impl Entry {
    fn with_key(&self, key: &Bytes) -> KeyValue {
        KeyValue {
            key: key.clone(),
            value: self.value.clone(),
            create_revision: self.create_revision,
            mod_revision: self.mod_revision,
            lease: self.lease,
        }
    }
}
