//! Writes the catalog: a copy of the metastore beside the records, so that losing the metastore is not losing them.
//!
//! The controller alone does it; two at once would write two sets, and each is whole. A new topic is in a set within
//! seconds, everything else that changes (committed offsets, most of all) within a minute.

use crate::shard::Shard;
use kafscale_metastore::keys::{Key, ROOT_PREFIX};
use kafscale_metastore::operation::read_all;
use kafscale_metastore::{KeyValue, MetastoreError, Revision};
use kafscale_storage_engine::catalog::{self, complete_sets, ChunkName};
use kafscale_storage_engine::object_store::{ObjectStore, StoreError};
use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

/// How often topics are looked at; that costs nothing.
const LOOK: Duration = Duration::from_secs(2);

/// How often everything is read, and written if it changed.
const COPY_INTERVAL: Duration = Duration::from_secs(60);

/// Complete sets that are kept.
const SETS_KEPT: usize = 2;

/// Keys per listing and per deletion.
const PAGE: usize = 1000;

/// Why no set was written; the next attempt begins anew.
#[derive(Debug, thiserror::Error)]
pub enum CatalogError {
    /// The metastore did not answer.
    #[error(transparent)]
    Metastore(#[from] MetastoreError),
    /// The object store did not do as asked.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Keeps the catalog, on a broker's first shard.
pub struct CatalogKeeper {
    shard: Rc<Shard>,
    /// The latest revision among the pairs that were written last, and how many they were.
    written: Cell<Option<(Revision, usize)>>,
}

impl CatalogKeeper {
    /// For the cluster of this shard.
    pub fn new(shard: Rc<Shard>) -> Self {
        CatalogKeeper {
            shard,
            written: Cell::new(None),
        }
    }

    /// Until the shard stops.
    pub async fn run(self) {
        let mut topics = None;
        let mut due = Duration::ZERO;
        while !self.shard.is_stopped() {
            self.shard.runtime.sleep(LOOK).await;
            let image = self.shard.image();
            if self.shard.is_stopped() || !image.complete || image.controller() != self.shard.config.broker_id {
                continue;
            }
            let now_topics: Vec<_> = image.topics.values().map(|topic| topic.mod_revision).collect();
            let now = self.shard.runtime.now();
            if topics.as_ref() == Some(&now_topics) && now < due {
                continue;
            }
            match self.copy().await {
                Ok(()) => {
                    topics = Some(now_topics);
                    due = now + COPY_INTERVAL;
                }
                Err(error) => log::warn!("write the catalog: {error}; trying again"),
            }
        }
    }

    /// Writes a set, if something has changed since the last one.
    async fn copy(&self) -> Result<(), CatalogError> {
        let items = read_all(&*self.shard.metastore, ROOT_PREFIX).await?.items;
        let items: Vec<KeyValue> = items.into_iter().filter(|item| is_kept(&item.key)).collect();
        let latest = items.iter().map(|item| item.mod_revision).max();
        let state = latest.map(|latest| (latest, items.len()));
        if state == self.written.get() {
            return Ok(());
        }
        let (store, namespace) = (&*self.shard.store, &self.shard.config.namespace);
        let before = list(store, namespace).await?;
        let set = before.last().map_or(1, |name| name.set + 1);
        let pairs: Vec<catalog::Pair> = items.into_iter().map(|item| (item.key, item.value)).collect();
        let objects = catalog::encode(set, self.shard.runtime.wall_clock_ms(), &pairs);
        let chunks = objects.len() as u32;
        for (chunk, object) in (0..).zip(objects) {
            let name = ChunkName { set, chunk, chunks };
            // A name that is taken, or may be: the next attempt takes another number.
            store.create(&name.key(namespace), vec![object]).await?;
        }
        self.written.set(state);
        forget_old(store, namespace).await
    }
}

/// Everything but what is true of living brokers only.
fn is_kept(key: &[u8]) -> bool {
    !matches!(
        Key::parse(key),
        None | Some(Key::Broker(_) | Key::Start(_) | Key::Coordinator(_))
    )
}

/// All chunks, in order.
///
/// # Errors
/// The store's.
pub async fn list(store: &dyn ObjectStore, namespace: &str) -> Result<Vec<ChunkName>, StoreError> {
    let prefix = catalog::prefix(namespace);
    let mut names = Vec::new();
    let mut after: Option<String> = None;
    loop {
        let page = store.list(&prefix, after.as_deref(), PAGE).await?;
        names.extend(
            page.objects
                .iter()
                .filter_map(|object| ChunkName::parse(namespace, &object.key)),
        );
        after = page.objects.last().map(|object| object.key.clone());
        if !page.more || after.is_none() {
            return Ok(names);
        }
    }
}

/// Deletes what is older than the sets that are kept.
async fn forget_old(store: &dyn ObjectStore, namespace: &str) -> Result<(), CatalogError> {
    let names = list(store, namespace).await?;
    let complete = complete_sets(&names);
    let Some(oldest_kept) = complete.iter().rev().nth(SETS_KEPT - 1) else {
        return Ok(());
    };
    let old: Vec<String> = names
        .iter()
        .filter(|name| name.set < *oldest_kept)
        .map(|name| name.key(namespace))
        .collect();
    for keys in old.chunks(PAGE) {
        store.delete(keys).await?;
    }
    Ok(())
}
