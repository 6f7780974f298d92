//! The thread that talks to etcd: takes requests, has many on their way at once, answers each when it is known.

use super::config::{ConnectError, Resolved};
use super::convert::{revision, ttl_seconds, Keys};
use super::endpoints::Endpoints;
use super::failure::Failure;
use super::queue::EtcdWatch;
use super::watch;
use crate::keys::ROOT_PREFIX;
use crate::request::{Reply, Request};
use crate::store::{KeyValue, LeaseId, MetastoreError, Op, RangePage, Txn, TxnOutcome};
use async_channel::Receiver;
use etcd_client::{Client, GetOptions, GetResponse, ResponseHeader};
use std::cell::Cell;
use std::rc::Rc;
use std::sync::{mpsc, Arc};
use tokio::sync::Semaphore;
use tokio::task::{spawn_local, LocalSet};

/// Requests on their way to etcd; more wait in the channel.
const IN_FLIGHT_MAX: usize = 256;
/// Bytes of one answer; a page that is larger is read in parts.
const ANSWER_BYTES_MAX: usize = 16 << 20;

/// Runs until every handle is gone.
pub(super) fn run(
    settings: Resolved,
    inbox: &Receiver<Request<EtcdWatch>>,
    started: &mpsc::Sender<Result<(), ConnectError>>,
) {
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            let _ = started.send(Err(ConnectError::Thread(error.to_string())));
            return;
        }
    };
    let local = LocalSet::new();
    local.block_on(&runtime, async {
        let worker = Rc::new(Worker {
            endpoints: Rc::new(Endpoints::new(&settings)),
            keys: Keys::new(settings.key_prefix.clone()),
        });
        let start = worker.start(&settings).await;
        let serves = start.is_ok();
        // A caller that has stopped waiting has dropped the handle, too.
        let _ = started.send(start);
        if serves {
            worker.serve(inbox).await;
        }
    });
    drop(local);
    // A name that is being looked up would hold up the end.
    runtime.shutdown_background();
}

struct Worker {
    endpoints: Rc<Endpoints>,
    keys: Keys,
}

impl Worker {
    /// Reads once, since clients connect only when they are used.
    async fn start(&self, settings: &Resolved) -> Result<(), ConnectError> {
        let (start, end) = self.keys.all_of(ROOT_PREFIX);
        let read = async |client: Client| {
            let options = GetOptions::new().with_range(end.clone()).with_limit(1).with_keys_only();
            client.kv_client().get(start.clone(), Some(options)).await.map(drop)
        };
        self.endpoints
            .first_answer(settings.connect_timeout, read)
            .await
            .map_err(|failures| why_not_connected(&failures))
    }

    async fn serve(self: Rc<Self>, inbox: &Receiver<Request<EtcdWatch>>) {
        let places = Arc::new(Semaphore::new(IN_FLIGHT_MAX));
        loop {
            let Ok(place) = places.clone().acquire_owned().await else {
                return;
            };
            let Ok(request) = inbox.recv().await else {
                return;
            };
            let worker = self.clone();
            spawn_local(async move {
                worker.answer(request).await;
                drop(place);
            });
        }
    }

    async fn answer(&self, request: Request<EtcdWatch>) {
        match request {
            Request::Get { key, reply } => send(reply, self.get(&key).await),
            Request::Range {
                start,
                end,
                limit,
                reply,
            } => send(reply, self.range(&start, &end, limit).await),
            Request::Txn { txn, reply } => send(reply, self.txn(&txn).await),
            Request::Watch { prefix, from, reply } => {
                send(reply, watch::open(&self.endpoints, &self.keys, &prefix, from).await);
            }
            Request::Grant { ttl_ms, reply } => send(reply, self.grant(ttl_ms).await),
            Request::KeepAlive { lease, reply } => send(reply, self.keep_alive(lease).await),
            Request::Revoke { lease, reply } => send(reply, self.revoke(lease).await),
        }
    }

    async fn get(&self, key: &[u8]) -> Result<Option<KeyValue>, MetastoreError> {
        let Some(key) = self.keys.stored(key) else {
            return Ok(None);
        };
        let found = self.read(&key, GetOptions::new()).await.map_err(Failure::of_read)?;
        found.kvs().first().map(|item| self.keys.key_value(item)).transpose()
    }

    async fn range(&self, start: &[u8], end: &[u8], limit: usize) -> Result<RangePage, MetastoreError> {
        let Some((start, end)) = self.keys.range(start, end) else {
            return self.empty_page().await;
        };
        let mut limit = i64::try_from(limit.max(1)).unwrap_or(i64::MAX);
        let page = loop {
            let options = GetOptions::new().with_range(end.clone()).with_limit(limit);
            match self.read(&start, options).await {
                // A shorter page says that there is more.
                Err(Failure::TooLarge(_)) if limit > 1 => limit = (limit / 2).min(1_024),
                other => break other.map_err(Failure::of_read)?,
            }
        };
        Ok(RangePage {
            items: page
                .kvs()
                .iter()
                .map(|item| self.keys.key_value(item))
                .collect::<Result<_, _>>()?,
            more: page.more(),
            revision: self.revision(page.header())?,
        })
    }

    /// Nothing is in it, but it has a revision.
    async fn empty_page(&self) -> Result<RangePage, MetastoreError> {
        let (start, _) = self.keys.all_of(ROOT_PREFIX);
        let options = GetOptions::new().with_count_only();
        let page = self.read(&start, options).await.map_err(Failure::of_read)?;
        Ok(RangePage {
            revision: self.revision(page.header())?,
            ..RangePage::default()
        })
    }

    async fn read(&self, start: &[u8], options: GetOptions) -> Result<GetResponse, Failure> {
        self.endpoints
            .read(async |client: Client| {
                let mut client = client.kv_client().max_decoding_message_size(ANSWER_BYTES_MAX);
                client.get(start, Some(options.clone())).await
            })
            .await
    }

    async fn txn(&self, txn: &Txn) -> Result<TxnOutcome, MetastoreError> {
        txn.check()?;
        let request = self.keys.txn(txn);
        let answer = self
            .endpoints
            .write(async |client: Client| client.kv_client().txn(request.clone()).await)
            .await;
        match answer {
            Ok(answer) => Ok(TxnOutcome {
                succeeded: answer.succeeded(),
                revision: self.revision(answer.header())?,
            }),
            Err(Failure::LeaseNotFound) => Err(self.lost_lease(txn).await),
            Err(failure) => Err(failure.of_write(None)),
        }
    }

    /// Which of a transaction's leases is the one that etcd misses.
    async fn lost_lease(&self, txn: &Txn) -> MetastoreError {
        let mut leases: Vec<_> = txn
            .ops
            .iter()
            .filter_map(|op| match op {
                Op::Put { lease, .. } => *lease,
                Op::Delete(_) => None,
            })
            .collect();
        leases.dedup();
        for lease in &leases[..leases.len().saturating_sub(1)] {
            let asked = self
                .endpoints
                .read(async |client: Client| client.lease_client().time_to_live(lease.0, None).await)
                .await;
            if asked.is_ok_and(|lives| lives.ttl() <= 0) {
                return MetastoreError::LeaseGone(*lease);
            }
        }
        Failure::LeaseNotFound.of_write(leases.last().copied())
    }

    /// Granted twice by a retry, one of the two lapses unused: so it may be tried like a read.
    async fn grant(&self, ttl_ms: u64) -> Result<LeaseId, MetastoreError> {
        let seconds = ttl_seconds(ttl_ms);
        let granted = self
            .endpoints
            .read(async |client: Client| client.lease_client().grant(seconds, None).await)
            .await;
        granted.map(|lease| LeaseId(lease.id())).map_err(Failure::of_read)
    }

    /// One short stream for each renewal: that is one round trip, and nothing that has to be kept alive itself.
    async fn keep_alive(&self, lease: LeaseId) -> Result<(), MetastoreError> {
        let renewed = self
            .endpoints
            .read(async |client: Client| client.lease_client().keep_alive(lease.0).await.map(drop))
            .await;
        renewed.map_err(|failure| match failure {
            Failure::LeaseNotFound => MetastoreError::LeaseGone(lease),
            other => other.of_read(),
        })
    }

    /// A lease that an attempt in doubt has perhaps revoked, and that is gone afterwards, was revoked.
    async fn revoke(&self, lease: LeaseId) -> Result<(), MetastoreError> {
        let attempts = Cell::new(0);
        let revoked = self
            .endpoints
            .read(async |client: Client| {
                attempts.set(attempts.get() + 1);
                client.lease_client().revoke(lease.0).await.map(drop)
            })
            .await;
        match revoked {
            Err(Failure::LeaseNotFound) if attempts.get() > 1 => Ok(()),
            // What the last attempt knows for sure says nothing about those before.
            Err(Failure::NotApplied(why) | Failure::TokenRefused(why) | Failure::Tls(why)) if attempts.get() > 1 => {
                Err(MetastoreError::OutcomeUnknown(why))
            }
            other => other.map_err(|failure| failure.of_write(Some(lease))),
        }
    }

    fn revision(&self, header: Option<&ResponseHeader>) -> Result<u64, MetastoreError> {
        // etcd always sends one; without it nothing is known of the outcome.
        let header = header.ok_or_else(|| MetastoreError::OutcomeUnknown("an answer without a header".to_string()))?;
        revision(header.revision())
    }
}

fn send<T>(reply: Reply<T>, result: Result<T, MetastoreError>) {
    // A caller that has stopped waiting wants no answer.
    let _ = reply.send(result);
}

/// The failures of all endpoints as one error: what cannot heal by itself comes first.
fn why_not_connected(failures: &[Failure]) -> ConnectError {
    for failure in failures {
        match failure {
            Failure::Refused(why) => return ConnectError::Refused(why.clone()),
            Failure::Tls(why) | Failure::TlsBroken(why) => return ConnectError::Tls(why.clone()),
            _ => {}
        }
    }
    let all: Vec<_> = failures.iter().map(Failure::to_string).collect();
    ConnectError::Unreachable(all.join("; "))
}
