//! The metastore of a cluster: etcd, 3.4 or later.
//!
//! One thread with a tokio runtime of its own owns every connection, and nothing else in the broker knows of tokio.
//! Endpoints are tried one after another: a call that surely reached nobody goes on to the next endpoint, a read
//! does so whatever became of it, and a transaction whose fate is unknown is reported as just that. A watch that etcd
//! does not keep alive, or that is not read for too long, ends with an error.

mod config;
mod convert;
mod endpoints;
mod failure;
mod queue;
mod watch;
mod worker;

pub use config::{ConnectError, EtcdConfig, EtcdTls};

use crate::request::{impl_metastore_by_thread, Request, StoreThread, REQUESTS_MAX};
use crate::store::{LocalFuture, MetastoreError};
use bytes::Bytes;
use queue::EtcdWatch;
use std::sync::{mpsc, Arc};

/// Handle to the store; clones share it, on any thread and under any executor.
///
/// Leases are in whole seconds here, rounded up, and etcd grants none that is shorter than its elections take (two
/// seconds by default). A watch whose history is compacted says so when it is first waited for.
///
/// Dropping the last one closes all connections: what was asked and not answered may or may not be applied.
#[derive(Clone)]
pub struct EtcdMetastore {
    thread: Arc<StoreThread<EtcdWatch>>,
}

impl EtcdMetastore {
    /// Connects, and reads once: so what is wrong with the endpoints, the credentials or the certificates shows here.
    /// Blocks for as long, at most `connect_timeout_ms` (and once more if everything hangs at the very end).
    ///
    /// # Errors
    /// [`ConnectError`] says what is in the way.
    pub fn connect(config: EtcdConfig) -> Result<Self, ConnectError> {
        let settings = config.resolve()?;
        let (requests, inbox) = async_channel::bounded(REQUESTS_MAX);
        let (started, start) = mpsc::channel();
        let thread = std::thread::Builder::new()
            .name("etcd".to_string())
            .spawn(move || worker::run(settings, &inbox, &started))
            .map_err(|error| ConnectError::Thread(error.to_string()))?;
        let thread = Arc::new(StoreThread::new(requests, thread));
        match start.recv() {
            Ok(Ok(())) => Ok(EtcdMetastore { thread }),
            Ok(Err(error)) => Err(error),
            Err(mpsc::RecvError) => Err(ConnectError::Thread("it has panicked".to_string())),
        }
    }
}

impl_metastore_by_thread!(EtcdMetastore);
