//! An object store that counts what is asked of it.

use super::cell::{Counter, Histogram};
use super::{families, Metrics, Snapshot};
use crate::runtime::Runtime;
use bytes::Bytes;
use kafscale_storage_engine::object_store::{ListPage, LocalFuture, ObjectStore, StoreError, Suffix};
use std::future::Future;
use std::ops::Range;
use std::rc::Rc;

/// Names of operations, in the order of `StoreMetrics`.
const OPERATIONS: [&str; 4] = ["put", "get", "list", "delete"];
const PUT: usize = 0;
const GET: usize = 1;
const LIST: usize = 2;
const DELETE: usize = 3;

/// Names of errors, in the order of `error_index`.
const ERRORS: [&str; 6] = [
    "not_found",
    "conflict",
    "unavailable",
    "outcome_unknown",
    "full",
    "refused",
];

/// Numbers of the object store's operations.
#[derive(Debug)]
pub struct StoreMetrics {
    operations: [OperationMetrics; OPERATIONS.len()],
    put_size: Histogram,
}

#[derive(Debug)]
struct OperationMetrics {
    duration: Histogram,
    bytes: Counter,
    errors: [Counter; ERRORS.len()],
}

impl StoreMetrics {
    pub(super) fn new() -> Self {
        let operation = || OperationMetrics {
            duration: Histogram::latency(),
            bytes: Counter::default(),
            errors: Default::default(),
        };
        StoreMetrics {
            operations: std::array::from_fn(|_| operation()),
            put_size: Histogram::size(),
        }
    }

    pub(super) fn add_to(&self, into: &mut Snapshot) {
        for (name, operation) in OPERATIONS.iter().zip(&self.operations) {
            let labels = || vec![("operation", name.to_string())];
            into.counter(&families::STORE_REQUESTS, labels(), operation.duration.count());
            into.counter(&families::STORE_BYTES, labels(), operation.bytes.get());
            into.histogram(&families::STORE_DURATION, labels(), &operation.duration);
            for (error, counter) in ERRORS.iter().zip(&operation.errors) {
                let labels = vec![("operation", name.to_string()), ("error", error.to_string())];
                into.counter(&families::STORE_ERRORS, labels, counter.get());
            }
        }
        into.histogram(&families::STORE_OBJECT_SIZE, vec![], &self.put_size);
    }
}

fn error_index(error: &StoreError) -> usize {
    match error {
        StoreError::NotFound(_) => 0,
        StoreError::Conflict(_) => 1,
        StoreError::Unavailable(_) => 2,
        StoreError::OutcomeUnknown(_) => 3,
        StoreError::Full(_) => 4,
        StoreError::Refused(_) | StoreError::Damaged(_) => 5,
    }
}

/// Counts and times every operation of the store inside.
pub struct MeteredStore {
    inner: Rc<dyn ObjectStore>,
    metrics: Rc<Metrics>,
    runtime: Rc<dyn Runtime>,
}

impl MeteredStore {
    /// Counts into `metrics.store`.
    pub fn new(inner: Rc<dyn ObjectStore>, metrics: Rc<Metrics>, runtime: Rc<dyn Runtime>) -> Rc<Self> {
        Rc::new(MeteredStore {
            inner,
            metrics,
            runtime,
        })
    }

    async fn timed<T>(
        &self,
        operation: usize,
        request: impl Future<Output = Result<T, StoreError>>,
        bytes: impl FnOnce(&T) -> usize,
    ) -> Result<T, StoreError> {
        let start = self.runtime.now();
        let result = request.await;
        let metrics = &self.metrics.store.operations[operation];
        metrics.duration.record(self.runtime.now() - start);
        match &result {
            Ok(done) => metrics.bytes.add(bytes(done) as u64),
            Err(error) => metrics.errors[error_index(error)].add(1),
        }
        result
    }
}

impl MeteredStore {
    async fn put(&self, size: usize, request: LocalFuture<'_, Result<(), StoreError>>) -> Result<(), StoreError> {
        self.timed(PUT, request, |()| size).await?;
        self.metrics.store.put_size.record_value(size as u64);
        self.metrics.last_upload_at.set(Some(self.runtime.now()));
        Ok(())
    }
}

impl ObjectStore for MeteredStore {
    fn room(&self) -> LocalFuture<'_, Result<(), StoreError>> {
        self.inner.room()
    }

    fn create<'a>(&'a self, key: &'a str, body: Vec<Bytes>) -> LocalFuture<'a, Result<(), StoreError>> {
        Box::pin(async move {
            let size = body.iter().map(Bytes::len).sum();
            self.put(size, self.inner.create(key, body)).await
        })
    }

    fn create_summed<'a>(
        &'a self,
        key: &'a str,
        body: Vec<Bytes>,
        crc32c: u32,
    ) -> LocalFuture<'a, Result<(), StoreError>> {
        Box::pin(async move {
            let size = body.iter().map(Bytes::len).sum();
            self.put(size, self.inner.create_summed(key, body, crc32c)).await
        })
    }

    fn get_range<'a>(&'a self, key: &'a str, range: Range<u64>) -> LocalFuture<'a, Result<Bytes, StoreError>> {
        Box::pin(self.timed(GET, self.inner.get_range(key, range), Bytes::len))
    }

    fn get_payload<'a>(&'a self, key: &'a str, range: Range<u64>) -> LocalFuture<'a, Result<Bytes, StoreError>> {
        Box::pin(self.timed(GET, self.inner.get_payload(key, range), Bytes::len))
    }

    fn get_suffix<'a>(&'a self, key: &'a str, len: u64) -> LocalFuture<'a, Result<Suffix, StoreError>> {
        Box::pin(self.timed(GET, self.inner.get_suffix(key, len), |suffix| suffix.bytes.len()))
    }

    fn list<'a>(
        &'a self,
        prefix: &'a str,
        start_after: Option<&'a str>,
        limit: usize,
    ) -> LocalFuture<'a, Result<ListPage, StoreError>> {
        Box::pin(self.timed(LIST, self.inner.list(prefix, start_after, limit), |_| 0))
    }

    fn delete<'a>(&'a self, keys: &'a [String]) -> LocalFuture<'a, Result<(), StoreError>> {
        Box::pin(self.timed(DELETE, self.inner.delete(keys), |()| 0))
    }
}
