//! A metastore that fails as real ones do: late, not at all, or with nobody knowing whether it did.
//!
//! What happens to a call is drawn by a [`FaultPolicy`], which in simulation draws from the seed.

use crate::store::{
    KeyValue, LeaseId, LocalFuture, Metastore, MetastoreError, RangePage, Revision, Txn, TxnOutcome, Watch, WatchEvent,
};
use std::future::{ready, Future};
use std::rc::Rc;

/// A call, as far as a policy may care.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Call {
    /// A get or a range.
    Read,
    /// A transaction.
    Txn,
    /// The start of a watch.
    Watch,
    /// A lease is granted or revoked.
    Lease,
    /// A lease is renewed.
    KeepAlive,
}

/// What becomes of a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum CallFate {
    /// It is done.
    #[default]
    Done,
    /// It is not done, and the caller knows.
    Unavailable,
    /// It is done, and the caller does not know.
    DoneUnknown,
    /// It is not done, and the caller does not know.
    LostUnknown,
    /// The caller does not know, and it is done only later, by [`FaultPolicy::detach`].
    LateUnknown,
}

/// What becomes of a watch before its next changes are delivered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum WatchFate {
    /// They are delivered.
    #[default]
    Delivered,
    /// The watch breaks.
    Broken,
    /// The watch has fallen behind the history that is kept.
    Compacted,
}

/// Draws faults. What is not overridden is faultless.
pub trait FaultPolicy {
    /// Waits as long as the request takes to get there, and says what becomes of it.
    fn before(&self, _call: Call) -> LocalFuture<'static, CallFate> {
        Box::pin(ready(CallFate::Done))
    }

    /// Waits as long as the answer takes.
    fn after(&self, _call: Call) -> LocalFuture<'static, ()> {
        Box::pin(ready(()))
    }

    /// Waits as long as a watch lags with the changes that it has got, and says what becomes of it.
    fn deliver(&self) -> LocalFuture<'static, WatchFate> {
        Box::pin(ready(WatchFate::Delivered))
    }

    /// Runs the work of a call whose caller has been told that nobody knows. By default it is lost.
    fn detach(&self, _work: LocalFuture<'static, ()>) {}
}

/// Passes every call.
#[derive(Debug, Clone, Copy, Default)]
pub struct PassAll;

impl FaultPolicy for PassAll {}

/// A metastore with faults.
#[derive(Clone)]
pub struct FaultyMetastore {
    inner: Rc<dyn Metastore>,
    policy: Rc<dyn FaultPolicy>,
}

impl FaultyMetastore {
    /// `inner`, with the faults that `policy` draws.
    pub fn new(inner: Rc<dyn Metastore>, policy: Rc<dyn FaultPolicy>) -> Self {
        FaultyMetastore { inner, policy }
    }

    /// Runs a call that changes nothing: unknown is the same as not done.
    async fn read<T>(
        &self,
        call: Call,
        work: impl Future<Output = Result<T, MetastoreError>>,
    ) -> Result<T, MetastoreError> {
        if self.policy.before(call).await != CallFate::Done {
            return Err(unavailable());
        }
        let result = work.await;
        self.policy.after(call).await;
        result
    }

    /// Runs a call that changes something.
    async fn write<T: 'static>(
        &self,
        call: Call,
        work: impl Future<Output = Result<T, MetastoreError>> + 'static,
    ) -> Result<T, MetastoreError> {
        let unknown = Err(MetastoreError::OutcomeUnknown("simulated".to_string()));
        let result = match self.policy.before(call).await {
            CallFate::Done => work.await,
            CallFate::Unavailable => Err(unavailable()),
            CallFate::DoneUnknown => work.await.and(unknown),
            CallFate::LostUnknown => unknown,
            CallFate::LateUnknown => {
                self.policy.detach(Box::pin(async move { drop(work.await) }));
                unknown
            }
        };
        self.policy.after(call).await;
        result
    }
}

fn unavailable() -> MetastoreError {
    MetastoreError::Unavailable("simulated".to_string())
}

impl Metastore for FaultyMetastore {
    fn get<'a>(&'a self, key: &'a [u8]) -> LocalFuture<'a, Result<Option<KeyValue>, MetastoreError>> {
        Box::pin(self.read(Call::Read, self.inner.get(key)))
    }

    fn range<'a>(
        &'a self,
        start: &'a [u8],
        end: &'a [u8],
        limit: usize,
    ) -> LocalFuture<'a, Result<RangePage, MetastoreError>> {
        Box::pin(self.read(Call::Read, self.inner.range(start, end, limit)))
    }

    fn txn(&self, txn: Txn) -> LocalFuture<'_, Result<TxnOutcome, MetastoreError>> {
        let inner = self.inner.clone();
        Box::pin(self.write(Call::Txn, async move { inner.txn(txn).await }))
    }

    fn watch<'a>(
        &'a self,
        prefix: &'a [u8],
        from: Revision,
    ) -> LocalFuture<'a, Result<Box<dyn Watch>, MetastoreError>> {
        Box::pin(self.read(Call::Watch, async move {
            let inner = self.inner.watch(prefix, from).await?;
            Ok(Box::new(FaultyWatch {
                inner,
                policy: self.policy.clone(),
                from,
                pending: Vec::new(),
                dead: None,
            }) as _)
        }))
    }

    fn lease_grant(&self, ttl_ms: u64) -> LocalFuture<'_, Result<LeaseId, MetastoreError>> {
        let inner = self.inner.clone();
        Box::pin(self.write(Call::Lease, async move { inner.lease_grant(ttl_ms).await }))
    }

    fn lease_keep_alive(&self, lease: LeaseId) -> LocalFuture<'_, Result<(), MetastoreError>> {
        let inner = self.inner.clone();
        Box::pin(self.write(Call::KeepAlive, async move { inner.lease_keep_alive(lease).await }))
    }

    fn lease_revoke(&self, lease: LeaseId) -> LocalFuture<'_, Result<(), MetastoreError>> {
        let inner = self.inner.clone();
        Box::pin(self.write(Call::Lease, async move { inner.lease_revoke(lease).await }))
    }
}

struct FaultyWatch {
    inner: Box<dyn Watch>,
    policy: Rc<dyn FaultPolicy>,
    from: Revision,
    /// Got and not yet delivered: a caller that stops waiting meanwhile must not lose them.
    pending: Vec<WatchEvent>,
    dead: Option<MetastoreError>,
}

impl Watch for FaultyWatch {
    fn next(&mut self) -> LocalFuture<'_, Result<Vec<WatchEvent>, MetastoreError>> {
        Box::pin(async move {
            if let Some(why) = &self.dead {
                return Err(why.clone());
            }
            if self.pending.is_empty() {
                self.pending = self.inner.next().await?;
            }
            let why = match self.policy.deliver().await {
                WatchFate::Delivered => return Ok(std::mem::take(&mut self.pending)),
                WatchFate::Broken => unavailable(),
                WatchFate::Compacted => MetastoreError::Compacted(self.from),
            };
            self.dead = Some(why.clone());
            Err(why)
        })
    }
}
