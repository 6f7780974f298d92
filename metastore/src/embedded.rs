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
use crate::request::{impl_metastore_by_thread, Request, StoreThread, REQUESTS_MAX};
use crate::store::{LocalFuture, MetastoreError};
use bytes::Bytes;
use disk::OpenFile;
use std::path::Path;
use std::sync::Arc;
use worker::OnFailure;

/// Handle to the store; clones share it, on any thread and under any executor.
///
/// Dropping the last one answers what was asked, closes the file and returns once that is done (about one sync).
#[derive(Clone)]
pub struct EmbeddedMetastore {
    thread: Arc<StoreThread<HistoryWatch>>,
}

impl EmbeddedMetastore {
    /// Opens the store in `directory`, which is created if need be. Blocks until the content is read.
    ///
    /// After a failed commit nobody knows what the disk has: `on_failure` is called with the reason, and is expected to end
    /// the process. If it returns, the store refuses everything.
    ///
    /// # Errors
    /// [`OpenError`] says what is in the way.
    pub fn open(directory: &Path, on_failure: impl Fn(&str) + Send + 'static) -> Result<Self, OpenError> {
        Self::open_with(directory, Box::new(disk::open_file), Box::new(on_failure))
    }

    fn open_with(directory: &Path, open_file: OpenFile, on_failure: OnFailure) -> Result<Self, OpenError> {
        let worker = worker::Worker::open(directory, open_file, on_failure)?;
        let (requests, inbox) = async_channel::bounded(REQUESTS_MAX);
        let thread = std::thread::Builder::new()
            .name("metastore".to_string())
            .spawn(move || worker.run(&inbox))
            .map_err(|source| OpenError::Io {
                path: directory.to_path_buf(),
                source,
            })?;
        Ok(EmbeddedMetastore {
            thread: Arc::new(StoreThread::new(requests, thread)),
        })
    }
}

impl_metastore_by_thread!(EmbeddedMetastore);

#[cfg(test)]
mod tests;
