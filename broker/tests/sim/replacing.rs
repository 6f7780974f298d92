//! A store that stopped to honour conditional creation: nothing is taken over from it.

use crate::executor::{SimRuntime, World, ENVIRONMENT};
use bytes::Bytes;
use kafscale_broker::assembly::{introduce, Assembly, Tuning};
use kafscale_broker::cluster::deletion::Deletion;
use kafscale_broker::cluster::reconciler::Reconciler;
use kafscale_broker::metrics::Metrics;
use kafscale_broker::settings::Settings;
use kafscale_metastore::memory::MemoryMetastore;
use kafscale_metastore::streams::open_stream;
use kafscale_metastore::Metastore;
use kafscale_storage_engine::object_store::memory::MemoryStore;
use kafscale_storage_engine::object_store::{ListPage, LocalFuture, ObjectStore, StoreError, Suffix};
use std::cell::{Cell, RefCell};
use std::ops::Range;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

/// Replaces objects, if it is told to, as a proxy that drops `If-None-Match` would.
struct ReplacingStore {
    inner: MemoryStore,
    replaces: bool,
}

impl ObjectStore for ReplacingStore {
    fn create<'a>(&'a self, key: &'a str, body: Vec<Bytes>) -> LocalFuture<'a, Result<(), StoreError>> {
        if self.replaces {
            self.inner.remove_now(key);
        }
        self.inner.create(key, body)
    }

    fn create_summed<'a>(&'a self, key: &'a str, body: Vec<Bytes>, _: u32) -> LocalFuture<'a, Result<(), StoreError>> {
        self.create(key, body)
    }

    fn get_range<'a>(&'a self, key: &'a str, range: Range<u64>) -> LocalFuture<'a, Result<Bytes, StoreError>> {
        self.inner.get_range(key, range)
    }

    fn get_suffix<'a>(&'a self, key: &'a str, len: u64) -> LocalFuture<'a, Result<Suffix, StoreError>> {
        self.inner.get_suffix(key, len)
    }

    fn list<'a>(
        &'a self,
        prefix: &'a str,
        start_after: Option<&'a str>,
        limit: usize,
    ) -> LocalFuture<'a, Result<ListPage, StoreError>> {
        self.inner.list(prefix, start_after, limit)
    }

    fn delete<'a>(&'a self, keys: &'a [String]) -> LocalFuture<'a, Result<(), StoreError>> {
        self.inner.delete(keys)
    }
}

/// Ends a stream on such a store; the error, if there is one.
fn end_stream(replaces: bool) -> Option<String> {
    let world = World::new(1);
    let answer = Rc::new(RefCell::new(None));
    let done = Rc::new(Cell::new(false));
    let (inner, result, end) = (world.clone(), answer.clone(), done.clone());
    world.spawn(
        ENVIRONMENT,
        "end a stream",
        Box::pin(async move {
            let metastore: Rc<dyn Metastore> = Rc::new(MemoryMetastore::new(|| 0));
            let settings = Settings {
                advertised_host: "sim".to_string(),
                ..Settings::default()
            };
            let introduced = introduce(&*metastore, &settings, 9000, Vec::new(), "sim".to_string()).await;
            let (broker, cluster_id) = introduced.expect("the metastore works");
            let (stream, _) = open_stream(&*metastore, 7, 1, 0).await.expect("the metastore works");
            let (assembly, _) = Assembly::new(Arc::new(settings), Tuning::default(), broker, cluster_id);
            let runtime = SimRuntime::new(&inner, ENVIRONMENT, Rc::default(), Rc::default());
            let store = Rc::new(ReplacingStore {
                inner: MemoryStore::new(),
                replaces,
            });
            let shard = assembly.idle_shard(runtime, store, metastore, Metrics::new(0));
            let reconciler = Reconciler::new(shard, Duration::from_secs(1));
            let ended = reconciler.delete(Deletion::EndStream(stream)).await;
            *result.borrow_mut() = ended.err().map(|error| error.to_string());
            end.set(true);
        }),
    );
    world.run(Duration::from_secs(60), || done.get());
    assert!(done.get(), "it does not end");
    world.end();
    answer.take()
}

#[test]
fn a_store_that_replaces_the_fence_gets_no_claim() {
    assert_eq!(end_stream(false), None);
    let error = end_stream(true).expect("it is refused");
    assert!(error.contains("If-None-Match"), "{error}");
}
