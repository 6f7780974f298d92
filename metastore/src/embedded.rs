//! The metastore of a broker that stands alone: a file in the data directory, written by a thread of its own.
//!
//! The thread takes every request that waits, applies them in order to the state in memory, commits all their changes
//! to the file in one durable transaction, and only then answers. So callers share the cost of a sync, and none sees
//! what could still be lost. Leases live in memory and run by monotonic time; after a restart they and their keys are
//! gone.

mod disk;
mod worker;

pub use disk::OpenError;

use crate::history::HistoryWatch;
use crate::store::{
    KeyValue, LeaseId, LocalFuture, Metastore, MetastoreError, RangePage, Revision, Txn, TxnOutcome, Watch,
};
use bytes::Bytes;
use disk::OpenFile;
use futures::channel::oneshot;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

/// Requests that wait for the thread; more make their callers wait.
const REQUESTS_MAX: usize = 1_024;

type Reply<T> = oneshot::Sender<Result<T, MetastoreError>>;

enum Request {
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
        reply: Reply<HistoryWatch>,
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

/// Handle to the store; clones share it, on any thread and under any executor.
///
/// Dropping the last one answers what was asked, closes the file and returns once that is done (about one sync).
#[derive(Clone)]
pub struct EmbeddedMetastore {
    shared: Arc<Shared>,
}

struct Shared {
    requests: async_channel::Sender<Request>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl Drop for Shared {
    fn drop(&mut self) {
        self.requests.close();
        let thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner).take();
        if thread.is_some_and(|thread| thread.join().is_err()) {
            log::error!("the metastore's thread has panicked");
        }
    }
}

impl EmbeddedMetastore {
    /// Opens the store in `directory`, which is created if need be. Blocks until the content is read.
    ///
    /// # Errors
    /// [`OpenError`] says what is in the way.
    pub fn open(directory: &Path) -> Result<Self, OpenError> {
        Self::open_with(directory, Box::new(disk::open_file))
    }

    fn open_with(directory: &Path, open_file: OpenFile) -> Result<Self, OpenError> {
        let worker = worker::Worker::open(directory, open_file)?;
        let (requests, inbox) = async_channel::bounded(REQUESTS_MAX);
        let thread = std::thread::Builder::new()
            .name("metastore".to_string())
            .spawn(move || worker.run(&inbox))
            .map_err(|source| OpenError::Io {
                path: directory.to_path_buf(),
                source,
            })?;
        let shared = Shared {
            requests,
            thread: Mutex::new(Some(thread)),
        };
        Ok(EmbeddedMetastore {
            shared: Arc::new(shared),
        })
    }

    /// Asks the thread. Should it be gone before it answers, then what became of the request is unknown.
    async fn ask<T>(&self, request: impl FnOnce(Reply<T>) -> Request) -> Result<T, MetastoreError> {
        let (reply, answer) = oneshot::channel();
        if self.shared.requests.send(request(reply)).await.is_err() {
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

impl Metastore for EmbeddedMetastore {
    fn get<'a>(&'a self, key: &'a [u8]) -> LocalFuture<'a, Result<Option<KeyValue>, MetastoreError>> {
        Box::pin(self.ask(move |reply| Request::Get {
            key: Bytes::copy_from_slice(key),
            reply,
        }))
    }

    fn range<'a>(
        &'a self,
        start: &'a [u8],
        end: &'a [u8],
        limit: usize,
    ) -> LocalFuture<'a, Result<RangePage, MetastoreError>> {
        let (start, end) = (Bytes::copy_from_slice(start), Bytes::copy_from_slice(end));
        Box::pin(self.ask(move |reply| Request::Range {
            start,
            end,
            limit,
            reply,
        }))
    }

    fn txn(&self, txn: Txn) -> LocalFuture<'_, Result<TxnOutcome, MetastoreError>> {
        Box::pin(self.ask(move |reply| Request::Txn { txn, reply }))
    }

    fn watch<'a>(
        &'a self,
        prefix: &'a [u8],
        from: Revision,
    ) -> LocalFuture<'a, Result<Box<dyn Watch>, MetastoreError>> {
        Box::pin(async move {
            let prefix = Bytes::copy_from_slice(prefix);
            let watch = self.ask(move |reply| Request::Watch { prefix, from, reply }).await?;
            Ok(Box::new(watch) as Box<dyn Watch>)
        })
    }

    fn lease_grant(&self, ttl_ms: u64) -> LocalFuture<'_, Result<LeaseId, MetastoreError>> {
        Box::pin(self.ask(move |reply| Request::Grant { ttl_ms, reply }))
    }

    fn lease_keep_alive(&self, lease: LeaseId) -> LocalFuture<'_, Result<(), MetastoreError>> {
        Box::pin(self.ask(move |reply| Request::KeepAlive { lease, reply }))
    }

    fn lease_revoke(&self, lease: LeaseId) -> LocalFuture<'_, Result<(), MetastoreError>> {
        Box::pin(self.ask(move |reply| Request::Revoke { lease, reply }))
    }
}

#[cfg(test)]
mod tests;
