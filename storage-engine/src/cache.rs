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

/// What a shard's cache did since it began, in bytes of blocks.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct CacheStats {
    /// Found here by a reader.
    pub hits: u64,
    /// Read from the store while a reader waited.
    pub misses: u64,
    /// Read from the store before anybody asked.
    pub read_ahead: u64,
}

/// Who began the read of a block.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum BegunBy {
    Reader,
    ReadAhead,
}

/// A cache of one shard.
pub struct BlockCache {
    store: Rc<dyn ObjectStore>,
    capacity_bytes: u64,
    block_bytes: u64,
    blocks: RefCell<Blocks>,
    stats: Cell<CacheStats>,
}

#[derive(Default)]
struct Blocks {
    cached: HashMap<BlockKey, Cached>,
    flights: HashMap<BlockKey, (Flight, BegunBy)>,
    /// Least recently used first.
    by_use: BTreeMap<u64, BlockKey>,
    next_use: u64,
    bytes: u64,
}

/// A block that is kept.
struct Cached {
    bytes: Bytes,
    used: u64,
    /// Positions in the object whose bytes were found sound since the block came in.
    checked: Range<u64>,
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
            stats: Cell::default(),
        }
    }

    /// What it did so far.
    pub fn stats(&self) -> CacheStats {
        self.stats.get()
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

    /// Whether all bytes of `range` are kept and were found sound since they came in: [`BlockCache::mark_checked`].
    pub fn is_checked(&self, key: &Rc<str>, range: Range<u64>) -> bool {
        let blocks = self.blocks.borrow();
        self.parts(&range).all(|(block, part)| {
            let cached = blocks.cached.get(&(key.clone(), block));
            cached.is_some_and(|cached| cached.checked.start <= part.start && part.end <= cached.checked.end)
        })
    }

    /// The bytes of `range` are sound. Each block remembers one range, so readers in sequence check each byte once.
    pub fn mark_checked(&self, key: &Rc<str>, range: Range<u64>) {
        let mut blocks = self.blocks.borrow_mut();
        for (block, part) in self.parts(&range) {
            let Some(cached) = blocks.cached.get_mut(&(key.clone(), block)) else {
                continue;
            };
            let known = &mut cached.checked;
            if part.start <= known.end && known.start <= part.end {
                *known = known.start.min(part.start)..known.end.max(part.end);
            } else if part.end - part.start > known.end - known.start {
                *known = part;
            }
        }
    }

    /// Forgets what is kept of an object, and reads `range` of it again from the store that objects are created in: what
    /// was read before is damaged.
    ///
    /// # Errors
    /// The store's.
    pub async fn read_again(&self, key: &str, range: Range<u64>) -> Result<Vec<Bytes>, StoreError> {
        let key: Rc<str> = key.into();
        let mut pieces = Vec::new();
        for (block, part) in self.parts(&range) {
            let start = block * self.block_bytes;
            let bytes = self.store.get_range(&key, start..start + self.block_bytes).await?;
            let (from, to) = (
                (part.start - start) as usize,
                ((part.end - start) as usize).min(bytes.len()),
            );
            if from < to {
                pieces.push(bytes.slice(from..to));
            }
            let is_last = (bytes.len() as u64) < self.block_bytes;
            self.blocks
                .borrow_mut()
                .replace((key.clone(), block), bytes, self.capacity_bytes);
            if is_last {
                break;
            }
        }
        Ok(pieces)
    }

    /// The parts of a range that lie in one block each.
    fn parts(&self, range: &Range<u64>) -> impl Iterator<Item = (u64, Range<u64>)> {
        let (size, start, end) = (self.block_bytes, range.start, range.end);
        let blocks = match start < end {
            true => start / size..(end - 1) / size + 1,
            false => 0..0,
        };
        blocks.map(move |block| (block, start.max(block * size)..end.min((block + 1) * size)))
    }

    /// Whether [`BlockCache::read_ahead`] would read this block of an object: it is neither here nor on its way.
    pub fn lacks(&self, key: &Rc<str>, block: u64) -> bool {
        let blocks = self.blocks.borrow();
        let block = (key.clone(), block);
        !blocks.cached.contains_key(&block) && !blocks.flights.contains_key(&block)
    }

    /// Reads one block, counted from 0, for those who will ask for it, unless it is here or on its way; a store refuses
    /// a block beyond the object's end.
    pub async fn read_ahead(&self, key: Rc<str>, block: u64) -> Result<(), StoreError> {
        if !self.lacks(&key, block) {
            return Ok(());
        }
        self.fly((key, block), BegunBy::ReadAhead).await.map(drop)
    }

    async fn block(&self, key: BlockKey) -> Result<Bytes, StoreError> {
        if let Some(block) = self.blocks.borrow_mut().touch(&key) {
            self.count(|stats| stats.hits += block.len() as u64);
            return Ok(block);
        }
        self.fly(key, BegunBy::Reader).await
    }

    async fn fly(&self, key: BlockKey, begun_by: BegunBy) -> Result<Bytes, StoreError> {
        let flight = self.flight(&key, begun_by);
        let result = flight.await;
        let mut blocks = self.blocks.borrow_mut();
        // Whoever comes back first ends the flight; the others find it gone.
        if let Some((_, begun_by)) = blocks.flights.remove(&key) {
            if let Ok(block) = &result {
                let len = block.len() as u64;
                self.count(|stats| match begun_by {
                    BegunBy::Reader => stats.misses += len,
                    BegunBy::ReadAhead => stats.read_ahead += len,
                });
                blocks.insert(key, block.clone(), self.capacity_bytes);
            }
        }
        result
    }

    fn count(&self, change: impl FnOnce(&mut CacheStats)) {
        let mut stats = self.stats.get();
        change(&mut stats);
        self.stats.set(stats);
    }

    fn flight(&self, key: &BlockKey, begun_by: BegunBy) -> Flight {
        let mut blocks = self.blocks.borrow_mut();
        if let Some((flight, _)) = blocks.flights.get(key) {
            return flight.clone();
        }
        let (store, name, from) = (self.store.clone(), key.0.clone(), key.1 * self.block_bytes);
        let to = from + self.block_bytes;
        let read: LocalFuture<'static, _> = Box::pin(async move { store.get_payload(&name, from..to).await });
        let flight = read.shared();
        blocks.flights.insert(key.clone(), (flight.clone(), begun_by));
        flight
    }
}

impl Blocks {
    fn touch(&mut self, key: &BlockKey) -> Option<Bytes> {
        let cached = self.cached.get_mut(key)?;
        let key = self.by_use.remove(&cached.used)?;
        cached.used = self.next_use;
        self.by_use.insert(self.next_use, key);
        self.next_use += 1;
        Some(cached.bytes.clone())
    }

    fn replace(&mut self, key: BlockKey, block: Bytes, capacity_bytes: u64) {
        if let Some(gone) = self.cached.remove(&key) {
            self.by_use.remove(&gone.used);
            self.bytes -= gone.bytes.len() as u64;
        }
        self.insert(key, block, capacity_bytes);
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
            if let Some(gone) = self.cached.remove(&oldest) {
                self.bytes -= gone.bytes.len() as u64;
            }
        }
        self.by_use.insert(self.next_use, key.clone());
        let cached = Cached {
            bytes: block,
            used: self.next_use,
            checked: 0..0,
        };
        self.cached.insert(key, cached);
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
        assert_eq!(cache.stats().misses, 16);
    }

    #[test]
    fn a_block_read_ahead_is_read_once_and_its_reader_finds_it() {
        let (cache, _) = cache(1000);
        let name: Rc<str> = "a".into();
        let (ahead, read) = block_on(join(cache.read_ahead(name.clone(), 1), cache.read("a", 16..32)));
        ahead.unwrap();
        assert_eq!(read.unwrap().concat(), (16..32).collect::<Vec<u8>>());
        block_on(cache.read_ahead(name.clone(), 1)).unwrap();
        block_on(cache.read("a", 20..30)).unwrap();
        let expected = CacheStats {
            hits: 32,
            misses: 0,
            read_ahead: 16,
        };
        assert_eq!(cache.stats(), expected);
        assert!(!cache.lacks(&name, 1) && cache.lacks(&name, 2));
    }

    #[test]
    fn reading_ahead_past_the_end_or_of_a_missing_object_harms_nobody() {
        let (cache, store) = cache(1000);
        let beyond = block_on(cache.read_ahead("a".into(), 99));
        assert!(matches!(beyond, Err(StoreError::Refused(_))), "{beyond:?}");
        assert_eq!(block_on(cache.read("a", 90..200)).unwrap().concat().len(), 10);
        assert!(matches!(
            block_on(cache.read_ahead("b".into(), 0)),
            Err(StoreError::NotFound(_))
        ));
        store.create_now("b", &[Bytes::from_static(b"late")]).unwrap();
        assert_eq!(block_on(cache.read("b", 0..4)).unwrap().concat(), b"late");
    }

    #[test]
    fn an_error_reaches_its_readers_and_is_not_kept() {
        let (cache, store) = cache(1000);
        assert!(matches!(block_on(cache.read("b", 0..4)), Err(StoreError::NotFound(_))));
        store.create_now("b", &[Bytes::from_static(b"late")]).unwrap();
        assert_eq!(block_on(cache.read("b", 0..4)).unwrap().concat(), b"late");
    }

    #[test]
    fn what_was_checked_is_known_until_it_leaves_or_is_read_again() {
        let (cache, _) = cache(64);
        let name: Rc<str> = "a".into();
        block_on(cache.read("a", 0..40)).unwrap();
        assert!(!cache.is_checked(&name, 4..40));
        cache.mark_checked(&name, 4..20);
        cache.mark_checked(&name, 20..40);
        assert!(cache.is_checked(&name, 4..40) && cache.is_checked(&name, 17..33));
        assert!(!cache.is_checked(&name, 3..40) && !cache.is_checked(&name, 4..41));
        assert_eq!(
            block_on(cache.read_again("a", 10..20)).unwrap().concat(),
            (10..20).collect::<Vec<u8>>()
        );
        assert!(!cache.is_checked(&name, 10..12) && cache.is_checked(&name, 32..40));
        assert!(cache.bytes() <= 64);
        // Where nothing is kept, nothing is known.
        cache.mark_checked(&name, 80..90);
        assert!(!cache.is_checked(&name, 80..90));
    }
}
