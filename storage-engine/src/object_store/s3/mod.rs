//! Objects in S3, or in what speaks its protocol.
//!
//! One store per shard, on the shard's thread: requests, signatures and XML are rusoto's, the transport is ours
//! (docs/decisions/0010). What may be tried again is, within the call's time; a create whose outcome is in doubt is not,
//! for it might be refused because of itself. Its caller has to read back.

mod backoff;
mod body;
mod config;
mod credentials;
mod dispatch;
mod endpoint;
mod net;
mod outcome;
mod pool;
mod probe;
mod requests;
mod tls;
mod xml;

pub use config::{Bucket, Limits, S3Config};
pub use credentials::{Credentials, CredentialsHandle};
pub use probe::probe;

use super::{can_begin_key, check_key, ListPage, LocalFuture, ObjectStore, StoreError, Suffix};
use backoff::Backoff;
use bytes::Bytes;
use dispatch::Remote;
use outcome::{judge, Failure, Operation};
use requests::{is_plain, Attempt, NotDeleted, Part, Span, KEYS_PER_REQUEST_MAX};
use std::cell::Cell;
use std::fmt;
use std::ops::Range;
use std::rc::Rc;
use std::time::{Duration, Instant};

/// How long a replica that failed is left alone.
const REPLICA_REST: Duration = Duration::from_secs(5);

/// Pages of a listing that are read for one that may hold none of our keys, at most.
const FOREIGN_PAGES_MAX: usize = 100;

/// A bucket as an object store. To be made and used on one glommio executor; clones share its connections.
#[derive(Clone)]
pub struct S3Store(Rc<Inner>);

struct Inner {
    config: S3Config,
    primary: Rc<Remote>,
    replica: Option<Rc<Remote>>,
    replica_rests_until: Cell<Option<Instant>>,
    /// Permits: one for each request that may be on its way.
    permits: (async_channel::Sender<()>, async_channel::Receiver<()>),
}

impl fmt::Debug for S3Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("S3Store")
            .field("bucket", &self.0.config.bucket)
            .finish_non_exhaustive()
    }
}

/// Gives its permit back.
struct Permit<'a>(&'a async_channel::Sender<()>);

impl Drop for Permit<'_> {
    fn drop(&mut self) {
        // There is room: it was taken out before. The other end lives as long as this one.
        let _ = self.0.try_send(());
    }
}

impl S3Store {
    /// A store that signs with what `credentials` holds at each request. Connects to nothing yet: see [`probe`].
    ///
    /// # Errors
    /// [`StoreError::Refused`] if the settings cannot work, or the CA file cannot be read.
    pub fn new(config: S3Config, credentials: CredentialsHandle) -> Result<Self, StoreError> {
        if config.limits.concurrency == 0 {
            return Err(StoreError::Refused("S3 concurrency must be at least 1".to_string()));
        }
        let https = |bucket: &Bucket| !bucket.endpoint.as_ref().is_some_and(|url| url.starts_with("http://"));
        let tls = match https(&config.bucket) || config.read_replica.as_ref().is_some_and(https) {
            true => Some(tls::connector(config.ca_file.as_deref())?),
            false => None,
        };
        let remote = |bucket: &Bucket| {
            let credentials = credentials.clone();
            Remote::new(bucket, config.path_style, tls.as_ref(), credentials, &config.limits).map(Rc::new)
        };
        let primary = remote(&config.bucket)?;
        let replica = config.read_replica.as_ref().map(remote).transpose()?;
        let permits = async_channel::bounded(config.limits.concurrency);
        for _ in 0..config.limits.concurrency {
            permits.0.try_send(()).expect("the channel has that much room");
        }
        Ok(S3Store(Rc::new(Inner {
            config,
            primary,
            replica,
            replica_rests_until: Cell::new(None),
            permits,
        })))
    }
}

impl Inner {
    /// Does something until it works, cannot work, may have worked, or takes too long. `bytes` travel each time.
    async fn retrying<T>(
        &self,
        operation: Operation,
        key: &str,
        bytes: u64,
        act: impl AsyncFn(Attempt<'_>) -> Result<T, Failure>,
    ) -> Result<T, StoreError> {
        let limits = &self.config.limits;
        let transfer = pool::transfer_time(limits, bytes);
        let mut backoff = Backoff::new(limits, Instant::now());
        // A later attempt that was not made does not take back that an earlier one may have worked.
        let mut doubt = None;
        loop {
            let left = backoff.left(Instant::now()) + transfer;
            let limit = left.min(limits.connect_timeout + limits.request_timeout + transfer);
            let attempt = |_permit: &Permit<'_>| Attempt {
                remote: &self.primary,
                fresh_only: backoff.fresh_only(),
                limit,
            };
            let done = match self.permit(left).await {
                Ok(permit) => act(attempt(&permit)).await,
                Err(failure) => Err(failure),
            };
            let failure = match done {
                Ok(result) => return Ok(result),
                Err(failure) => failure,
            };
            let verdict = judge(operation, key, &failure);
            match backoff.next(limits, verdict.again, Instant::now(), fastrand::f64()) {
                Some(pause) => {
                    log::debug!("{operation:?} is tried again in {pause:?}: {}", verdict.error);
                    if matches!(verdict.error, StoreError::OutcomeUnknown(_)) {
                        doubt = Some(verdict.error);
                    }
                    net::sleep(pause).await;
                }
                None => {
                    let unavailable = matches!(verdict.error, StoreError::Unavailable(_));
                    return Err(doubt.filter(|_| unavailable).unwrap_or(verdict.error));
                }
            }
        }
    }

    async fn permit(&self, limit: Duration) -> Result<Permit<'_>, Failure> {
        match net::within(limit, self.permits.1.recv()).await {
            Some(Ok(())) => Ok(Permit(&self.permits.0)),
            _ => Err(Failure::NotSent(format!("other requests took all of {limit:?}"))),
        }
    }

    /// Reads bytes from the bucket itself. If the object ends before, its size.
    async fn read(&self, key: &str, span: Span) -> Result<Result<Part, u64>, StoreError> {
        self.retrying(
            Operation::Read,
            key,
            span.bytes(),
            async |attempt: Attempt<'_>| match attempt.get(key, span).await {
                Ok(part) => Ok(Ok(part)),
                Err(Failure::Answered { status: 416, .. }) => attempt.size(key).await.map(Err),
                Err(failure) => Err(failure),
            },
        )
        .await
    }

    /// Objects never change, so what a copy has is right; what it has not may be there all the same.
    async fn read_replica(&self, key: &str, span: Span) -> Option<Part> {
        let replica = self.replica.as_ref()?;
        let now = Instant::now();
        if self.replica_rests_until.get().is_some_and(|until| now < until) {
            return None;
        }
        let limits = &self.config.limits;
        let permit = self.permit(limits.request_timeout).await.ok()?;
        let attempt = Attempt {
            remote: replica,
            fresh_only: false,
            limit: limits.request_timeout + pool::transfer_time(limits, span.bytes()),
        };
        let read = attempt.get(key, span).await;
        drop(permit);
        match read {
            Ok(part) => Some(part),
            Err(Failure::Answered { status: 404 | 416, .. } | Failure::Cut { stale: true, .. }) => None,
            Err(failure) => {
                log::warn!("the read replica failed, {REPLICA_REST:?} without it: {failure:?}");
                self.replica_rests_until.set(Some(now + REPLICA_REST));
                None
            }
        }
    }

    async fn delete_plain(&self, keys: &[&String]) -> Result<(), StoreError> {
        let name = keys.first().map_or("", |key| key.as_str());
        self.retrying(Operation::Delete, name, 0, async |attempt: Attempt<'_>| {
            not_deleted(attempt.delete_many(keys).await?)
        })
        .await
    }
}

/// A key that was not deleted says why as an answer of its own would.
fn not_deleted(left: NotDeleted) -> Result<(), Failure> {
    match left {
        None => Ok(()),
        Some((code, message)) => Err(Failure::Answered {
            status: match code.as_str() {
                "SlowDown" | "ServiceUnavailable" => 503,
                "InternalError" => 500,
                _ => 403,
            },
            code,
            message,
        }),
    }
}

impl S3Store {
    async fn range_from_bucket(&self, key: &str, range: Range<u64>) -> Result<Bytes, StoreError> {
        check_key(key)?;
        let len = range.end.saturating_sub(range.start);
        // No request asks for nothing, so one byte is asked for to learn what there is.
        match self.0.read(key, Span::From(range.start, len.max(1))).await? {
            Ok(_) if len == 0 => Ok(Bytes::new()),
            Ok(part) => Ok(part.bytes),
            Err(object_len) if object_len == range.start => Ok(Bytes::new()),
            Err(object_len) if object_len < range.start => Err(StoreError::Refused(format!(
                "{key} ends at {object_len}, before {}",
                range.start
            ))),
            Err(object_len) => Err(StoreError::Unavailable(format!(
                "{key} is {object_len} bytes long, and nothing is at {}",
                range.start
            ))),
        }
    }
}

impl ObjectStore for S3Store {
    fn create<'a>(&'a self, key: &'a str, body: Vec<Bytes>) -> LocalFuture<'a, Result<(), StoreError>> {
        let crc = body.iter().fold(0, |crc, part| crc32c::crc32c_append(crc, part));
        self.create_summed(key, body, crc)
    }

    fn create_summed<'a>(
        &'a self,
        key: &'a str,
        body: Vec<Bytes>,
        crc32c: u32,
    ) -> LocalFuture<'a, Result<(), StoreError>> {
        Box::pin(async move {
            check_key(key)?;
            let bytes = body.iter().map(|part| part.len() as u64).sum();
            let config = &self.0.config;
            self.0
                .retrying(Operation::Create, key, bytes, async |attempt: Attempt<'_>| {
                    attempt.create(config, key, &body, crc32c).await
                })
                .await
        })
    }

    fn get_range<'a>(&'a self, key: &'a str, range: Range<u64>) -> LocalFuture<'a, Result<Bytes, StoreError>> {
        Box::pin(async move { self.range_from_bucket(key, range).await })
    }

    fn get_payload<'a>(&'a self, key: &'a str, range: Range<u64>) -> LocalFuture<'a, Result<Bytes, StoreError>> {
        Box::pin(async move {
            check_key(key)?;
            let len = range.end.saturating_sub(range.start);
            if len > 0 {
                if let Some(part) = self.0.read_replica(key, Span::From(range.start, len)).await {
                    return Ok(part.bytes);
                }
            }
            self.range_from_bucket(key, range).await
        })
    }

    fn get_suffix<'a>(&'a self, key: &'a str, len: u64) -> LocalFuture<'a, Result<Suffix, StoreError>> {
        Box::pin(async move {
            check_key(key)?;
            let (bytes, object_len) = match self.0.read(key, Span::Last(len.max(1))).await? {
                Ok(part) if len == 0 => (Bytes::new(), part.object_len),
                Ok(part) => (part.bytes, part.object_len),
                Err(0) => (Bytes::new(), 0),
                Err(object_len) => {
                    let text = format!("{key} is {object_len} bytes long, and has no end");
                    return Err(StoreError::Unavailable(text));
                }
            };
            Ok(Suffix { bytes, object_len })
        })
    }

    fn list<'a>(
        &'a self,
        prefix: &'a str,
        start_after: Option<&'a str>,
        limit: usize,
    ) -> LocalFuture<'a, Result<ListPage, StoreError>> {
        Box::pin(async move {
            if !can_begin_key(prefix) || limit == 0 {
                return Ok(ListPage::default());
            }
            let mut after = start_after.map(str::to_string);
            for _ in 0..FOREIGN_PAGES_MAX {
                let listed = self
                    .0
                    .retrying(Operation::List, prefix, 0, async |attempt: Attempt<'_>| {
                        attempt.list(prefix, after.as_deref(), limit).await
                    });
                let (page, last) = listed.await?;
                if !page.more || !page.objects.is_empty() {
                    return Ok(page);
                }
                after = last;
            }
            Err(StoreError::Refused(format!(
                "below {prefix:?} are {FOREIGN_PAGES_MAX} pages of objects that are none of ours"
            )))
        })
    }

    fn delete<'a>(&'a self, keys: &'a [String]) -> LocalFuture<'a, Result<(), StoreError>> {
        Box::pin(async move {
            keys.iter().try_for_each(|key| check_key(key))?;
            let (plain, odd): (Vec<&String>, Vec<&String>) = keys.iter().partition(|key| is_plain(key));
            for some in plain.chunks(KEYS_PER_REQUEST_MAX) {
                self.0.delete_plain(some).await?;
            }
            for key in odd {
                let act = async |attempt: Attempt<'_>| not_deleted(attempt.delete_one(key).await?);
                self.0.retrying(Operation::Delete, key, 0, act).await?;
            }
            Ok(())
        })
    }
}

#[cfg(test)]
mod tests;
