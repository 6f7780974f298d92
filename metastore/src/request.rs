//! Requests to a store that lives on a thread of its own, and the handle that asks.
//!
//! Callers are on any thread and under any executor: a request goes over one bounded channel, its answer comes back over
//! one of its own.

use crate::store::{KeyValue, LeaseId, MetastoreError, RangePage, Revision, Txn, TxnOutcome};
use bytes::Bytes;
use futures::channel::oneshot;
use std::sync::{Mutex, PoisonError};
use std::thread::JoinHandle;

/// Requests that wait for the thread; more make their callers wait.
pub(crate) const REQUESTS_MAX: usize = 1_024;

pub(crate) type Reply<T> = oneshot::Sender<Result<T, MetastoreError>>;

/// What the thread is asked; `W` is the store's watch.
pub(crate) enum Request<W> {
    Get {
        key: Bytes,
        reply: Reply<Option<KeyValue>>,
    },
    Range {
        start: Bytes,
        end: Bytes,
        limit: usize,
        reply: Reply<RangePage>,
    },
    Txn {
        txn: Txn,
        reply: Reply<TxnOutcome>,
    },
    Watch {
        prefix: Bytes,
        from: Revision,
        reply: Reply<W>,
    },
    Grant {
        ttl_ms: u64,
        reply: Reply<LeaseId>,
    },
    KeepAlive {
        lease: LeaseId,
        reply: Reply<()>,
    },
    Revoke {
        lease: LeaseId,
        reply: Reply<()>,
    },
}

/// The thread of a store; dropping it ends the thread and returns once it has ended.
pub(crate) struct StoreThread<W> {
    requests: async_channel::Sender<Request<W>>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl<W> StoreThread<W> {
    pub fn new(requests: async_channel::Sender<Request<W>>, thread: JoinHandle<()>) -> Self {
        StoreThread {
            requests,
            thread: Mutex::new(Some(thread)),
        }
    }

    /// Asks the thread. Should it be gone before it answers, then what became of the request is unknown.
    pub async fn ask<T>(&self, request: impl FnOnce(Reply<T>) -> Request<W>) -> Result<T, MetastoreError> {
        let (reply, answer) = oneshot::channel();
        if self.requests.send(request(reply)).await.is_err() {
            return Err(MetastoreError::Unavailable(
                "the metastore's thread has ended".to_string(),
            ));
        }
        answer.await.unwrap_or_else(|_| {
            Err(MetastoreError::OutcomeUnknown(
                "the metastore's thread has ended".to_string(),
            ))
        })
    }
}

impl<W> Drop for StoreThread<W> {
    fn drop(&mut self) {
        self.requests.close();
        let thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner).take();
        if thread.is_some_and(|thread| thread.join().is_err()) {
            log::error!("the metastore's thread has panicked");
        }
    }
}

/// The seam, for a handle whose field `thread` is an `Arc<StoreThread<_>>`.
macro_rules! impl_metastore_by_thread {
    ($handle:ty) => {
        impl $crate::store::Metastore for $handle {
            fn get<'a>(
                &'a self,
                key: &'a [u8],
            ) -> LocalFuture<'a, Result<Option<$crate::store::KeyValue>, MetastoreError>> {
                let key = Bytes::copy_from_slice(key);
                Box::pin(self.thread.ask(move |reply| Request::Get { key, reply }))
            }

            fn range<'a>(
                &'a self,
                start: &'a [u8],
                end: &'a [u8],
                limit: usize,
            ) -> LocalFuture<'a, Result<$crate::store::RangePage, MetastoreError>> {
                let (start, end) = (Bytes::copy_from_slice(start), Bytes::copy_from_slice(end));
                Box::pin(self.thread.ask(move |reply| Request::Range {
                    start,
                    end,
                    limit,
                    reply,
                }))
            }

            fn txn(
                &self,
                txn: $crate::store::Txn,
            ) -> LocalFuture<'_, Result<$crate::store::TxnOutcome, MetastoreError>> {
                Box::pin(self.thread.ask(move |reply| Request::Txn { txn, reply }))
            }

            fn watch<'a>(
                &'a self,
                prefix: &'a [u8],
                from: $crate::store::Revision,
            ) -> LocalFuture<'a, Result<Box<dyn $crate::store::Watch>, MetastoreError>> {
                let prefix = Bytes::copy_from_slice(prefix);
                Box::pin(async move {
                    let asked = self
                        .thread
                        .ask(move |reply| Request::Watch { prefix, from, reply });
                    Ok(Box::new(asked.await?) as Box<dyn $crate::store::Watch>)
                })
            }

            fn lease_grant(&self, ttl_ms: u64) -> LocalFuture<'_, Result<$crate::store::LeaseId, MetastoreError>> {
                Box::pin(self.thread.ask(move |reply| Request::Grant { ttl_ms, reply }))
            }

            fn lease_keep_alive(&self, lease: $crate::store::LeaseId) -> LocalFuture<'_, Result<(), MetastoreError>> {
                Box::pin(self.thread.ask(move |reply| Request::KeepAlive { lease, reply }))
            }

            fn lease_revoke(&self, lease: $crate::store::LeaseId) -> LocalFuture<'_, Result<(), MetastoreError>> {
                Box::pin(self.thread.ask(move |reply| Request::Revoke { lease, reply }))
            }
        }
    };
}

pub(crate) use impl_metastore_by_thread;
