//! Blocks read from the object store: bounded, and read once however many ask at the same time.

use crate::object_store::{LocalFuture, ObjectStore, StoreError};
use bytes::Bytes;
use futures::future::{FutureExt, Shared};
use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, HashMap};
use std::ops::Range;
use std::rc::Rc;

type Flight = Shared<LocalFuture<'static, Result<Bytes, StoreError>>>;
type BlockKey = (Rc<str>, u64);

/// A cache of one shard.
pub struct BlockCache {
    store: Rc<dyn ObjectStore>,
    capacity_bytes: u64,
    block_bytes: u64,
    blocks: RefCell<Blocks>,
    hit_bytes: Cell<u64>,
    miss_bytes: Cell<u64>,
}

#[derive(Default)]
struct Blocks {
    cached: HashMap<BlockKey, (Bytes, u64)>,
    flights: HashMap<BlockKey, Flight>,
    /// Least recently used first.
    by_use: BTreeMap<u64, BlockKey>,
    next_use: u64,
    bytes: u64,
}

impl BlockCache {
    /// Keeps at most `capacity_bytes` in blocks of `block_bytes`.
    pub fn new(store: Rc<dyn ObjectStore>, capacity_bytes: u64, block_bytes: u64) -> Self {
        assert!(block_bytes > 0, "blocks have a size");
        BlockCache {
            store,
            capacity_bytes,
            block_bytes,
            blocks: RefCell::default(),
            hit_bytes: Cell::new(0),
            miss_bytes: Cell::new(0),
        }
    }

    /// Bytes that were found here, and bytes that had to be read.
    pub fn hits_and_misses(&self) -> (u64, u64) {
        (self.hit_bytes.get(), self.miss_bytes.get())
    }

    /// Bytes kept now.
    pub fn bytes(&self) -> u64 {
        self.blocks.borrow().bytes
    }

    /// The bytes of `range` in consecutive pieces, fewer where the object ends earlier.
    pub async fn read(&self, key: &str, range: Range<u64>) -> Result<Vec<Bytes>, StoreError> {
        let key: Rc<str> = key.into();
        let mut pieces = Vec::new();
        let mut at = range.start;
        while at < range.end {
            let index = at / self.block_bytes;
            let block = self.block((key.clone(), index)).await?;
            let block_start = index * self.block_bytes;
            let from = (at - block_start) as usize;
            let to = (range.end - block_start).min(block.len() as u64) as usize;
            if from >= to {
                break;
            }
            pieces.push(block.slice(from..to));
            if (block.len() as u64) < self.block_bytes {
                break;
            }
            at = block_start + self.block_bytes;
        }
        Ok(pieces)
    }

    async fn block(&self, key: BlockKey) -> Result<Bytes, StoreError> {
        if let Some(block) = self.blocks.borrow_mut().touch(&key) {
            self.hit_bytes.set(self.hit_bytes.get() + block.len() as u64);
            return Ok(block);
        }
        let flight = self.flight(&key);
        let result = flight.await;
        let mut blocks = self.blocks.borrow_mut();
        // Whoever comes back first ends the flight; the others find it gone.
        if blocks.flights.remove(&key).is_some() {
            if let Ok(block) = &result {
                self.miss_bytes.set(self.miss_bytes.get() + block.len() as u64);
                blocks.insert(key, block.clone(), self.capacity_bytes);
            }
        }
        result
    }

    fn flight(&self, key: &BlockKey) -> Flight {
        let mut blocks = self.blocks.borrow_mut();
        if let Some(flight) = blocks.flights.get(key) {
            return flight.clone();
        }
        let (store, name, from) = (self.store.clone(), key.0.clone(), key.1 * self.block_bytes);
        let to = from + self.block_bytes;
        let read: LocalFuture<'static, _> = Box::pin(async move { store.get_range(&name, from..to).await });
        let flight = read.shared();
        blocks.flights.insert(key.clone(), flight.clone());
        flight
    }
}

impl Blocks {
    fn touch(&mut self, key: &BlockKey) -> Option<Bytes> {
        let (block, used) = self.cached.get_mut(key)?;
        let key = self.by_use.remove(used)?;
        *used = self.next_use;
        self.by_use.insert(self.next_use, key);
        self.next_use += 1;
        Some(block.clone())
    }

    fn insert(&mut self, key: BlockKey, block: Bytes, capacity_bytes: u64) {
        let len = block.len() as u64;
        if len > capacity_bytes || self.cached.contains_key(&key) {
            return;
        }
        while self.bytes + len > capacity_bytes {
            let Some((_, oldest)) = self.by_use.pop_first() else {
                break;
            };
            if let Some((gone, _)) = self.cached.remove(&oldest) {
                self.bytes -= gone.len() as u64;
            }
        }
        self.by_use.insert(self.next_use, key.clone());
        self.cached.insert(key, (block, self.next_use));
        self.next_use += 1;
        self.bytes += len;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::object_store::memory::MemoryStore;
    use futures::executor::block_on;
    use futures::future::join;

    fn cache(capacity: u64) -> (BlockCache, MemoryStore) {
        let store = MemoryStore::new();
        let body: Vec<u8> = (0..100).collect();
        store.create_now("a", &[body.into()]).unwrap();
        (BlockCache::new(Rc::new(store.clone()), capacity, 16), store)
    }

    #[test]
    fn any_range_reads_as_from_the_object_and_memory_stays_bounded() {
        let (cache, _) = cache(48);
        for from in 0..100u64 {
            for to in from..110 {
                let bytes = block_on(cache.read("a", from..to)).unwrap().concat();
                let expected: Vec<u8> = (from as u8..to.min(100) as u8).collect();
                assert_eq!(bytes, expected, "{from}..{to}");
                assert!(cache.bytes() <= 48);
            }
        }
    }

    #[test]
    fn readers_at_the_same_time_share_one_read() {
        let (cache, _) = cache(1000);
        let (a, b) = block_on(join(cache.read("a", 0..16), cache.read("a", 0..16)));
        assert_eq!(a.unwrap(), b.unwrap());
        assert_eq!(cache.hits_and_misses().1, 16);
    }

    #[test]
    fn an_error_reaches_its_readers_and_is_not_kept() {
        let (cache, store) = cache(1000);
        assert!(matches!(block_on(cache.read("b", 0..4)), Err(StoreError::NotFound(_))));
        store.create_now("b", &[Bytes::from_static(b"late")]).unwrap();
        assert_eq!(block_on(cache.read("b", 0..4)).unwrap().concat(), b"late");
    }
}
