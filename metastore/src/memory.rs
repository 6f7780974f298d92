//! A metastore in memory, for simulation and tests: nothing waits, and time is what its clock says.

use crate::history::SharedHistory;
use crate::state::State;
use crate::store::{
    KeyValue, LeaseId, LocalFuture, Metastore, MetastoreError, RangePage, Revision, Txn, TxnOutcome, Watch, WatchEvent,
};
use bytes::Bytes;
use std::cell::RefCell;
use std::rc::Rc;

/// Handle to a store that lives as long as one of its handles.
#[derive(Clone)]
pub struct MemoryMetastore {
    inner: Rc<Inner>,
}

struct Inner {
    state: RefCell<State>,
    history: SharedHistory,
    now_ms: Box<dyn Fn() -> u64>,
}

impl MemoryMetastore {
    /// An empty store. `now_ms` is its clock, in milliseconds from anywhere, never backwards.
    pub fn new(now_ms: impl Fn() -> u64 + 'static) -> Self {
        let inner = Inner {
            state: RefCell::default(),
            history: SharedHistory::after(0),
            now_ms: Box::new(now_ms),
        };
        MemoryMetastore { inner: Rc::new(inner) }
    }

    /// Ends the leases that are over at `now_ms`. Nothing expires by itself.
    pub fn expire(&self, now_ms: u64) {
        let events = self.inner.state.borrow_mut().expire(now_ms);
        self.inner.history.publish(events);
    }

    /// When [`MemoryMetastore::expire`] will next find something, in milliseconds of the store's clock.
    pub fn next_expiry_ms(&self) -> Option<u64> {
        self.inner.state.borrow().next_expiry_ms()
    }

    /// Forgets the history up to `revision`, as etcd does now and then.
    pub fn compact(&self, revision: Revision) {
        self.inner.history.compact(revision);
    }

    /// The latest revision.
    pub fn revision(&self) -> Revision {
        self.inner.state.borrow().revision()
    }

    /// Changes the state and tells the watches.
    fn change<T>(
        &self,
        act: impl FnOnce(&mut State) -> Result<(T, Vec<WatchEvent>), MetastoreError>,
    ) -> Result<T, MetastoreError> {
        let (value, events) = act(&mut self.inner.state.borrow_mut())?;
        self.inner.history.publish(events);
        Ok(value)
    }
}

// The work is done in the first poll, so it is never half done.
impl Metastore for MemoryMetastore {
    fn get<'a>(&'a self, key: &'a [u8]) -> LocalFuture<'a, Result<Option<KeyValue>, MetastoreError>> {
        Box::pin(async move { Ok(self.inner.state.borrow().get(key)) })
    }

    fn range<'a>(
        &'a self,
        start: &'a [u8],
        end: &'a [u8],
        limit: usize,
    ) -> LocalFuture<'a, Result<RangePage, MetastoreError>> {
        Box::pin(async move { Ok(self.inner.state.borrow().range(start, end, limit)) })
    }

    fn txn(&self, txn: Txn) -> LocalFuture<'_, Result<TxnOutcome, MetastoreError>> {
        Box::pin(async move { self.change(|state| state.apply(&txn)) })
    }

    fn watch<'a>(
        &'a self,
        prefix: &'a [u8],
        from: Revision,
    ) -> LocalFuture<'a, Result<Box<dyn Watch>, MetastoreError>> {
        Box::pin(async move {
            let watch = self.inner.history.watch(Bytes::copy_from_slice(prefix), from)?;
            Ok(Box::new(watch) as Box<dyn Watch>)
        })
    }

    fn lease_grant(&self, ttl_ms: u64) -> LocalFuture<'_, Result<LeaseId, MetastoreError>> {
        Box::pin(async move {
            let now_ms = (self.inner.now_ms)();
            self.change(|state| Ok((state.grant(ttl_ms, now_ms), Vec::new())))
        })
    }

    fn lease_keep_alive(&self, lease: LeaseId) -> LocalFuture<'_, Result<(), MetastoreError>> {
        Box::pin(async move {
            let now_ms = (self.inner.now_ms)();
            self.change(|state| Ok((state.keep_alive(lease, now_ms)?, Vec::new())))
        })
    }

    fn lease_revoke(&self, lease: LeaseId) -> LocalFuture<'_, Result<(), MetastoreError>> {
        Box::pin(async move { self.change(|state| Ok(((), state.revoke(lease)?))) })
    }
}

#[cfg(test)]
mod tests;
