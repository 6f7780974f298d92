//! Objects in memory: for simulation, and for trying a broker out when nothing has to last.

use super::{check_key, ListPage, LocalFuture, ObjectMeta, ObjectStore, StoreError, Suffix};
use bytes::Bytes;
use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// A map from keys to bytes; clones share it.
#[derive(Debug, Clone, Default)]
pub struct MemoryStore {
    objects: Arc<Mutex<BTreeMap<String, Bytes>>>,
}

impl MemoryStore {
    /// An empty store.
    pub fn new() -> Self {
        Self::default()
    }

    /// Applies a create right away.
    pub fn create_now(&self, key: &str, body: &[Bytes]) -> Result<(), StoreError> {
        check_key(key)?;
        let mut objects = self.objects();
        if objects.contains_key(key) {
            return Err(StoreError::Conflict(key.to_string()));
        }
        objects.insert(key.to_string(), body.concat().into());
        Ok(())
    }

    /// An object's content, if it is there.
    pub fn read_now(&self, key: &str) -> Option<Bytes> {
        self.objects().get(key).cloned()
    }

    /// Puts an object in the place of whatever is there, as no broker can: damage for tests.
    pub fn replace_now(&self, key: &str, content: Bytes) {
        self.objects().insert(key.to_string(), content);
    }

    /// Removes an object.
    pub fn remove_now(&self, key: &str) {
        self.objects().remove(key);
    }

    /// All keys.
    pub fn keys(&self) -> Vec<String> {
        self.objects().keys().cloned().collect()
    }

    fn objects(&self) -> MutexGuard<'_, BTreeMap<String, Bytes>> {
        // No code panics while it holds the lock, and the map is whole between its operations.
        self.objects.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn object(&self, key: &str) -> Result<Bytes, StoreError> {
        check_key(key)?;
        self.objects()
            .get(key)
            .cloned()
            .ok_or_else(|| StoreError::NotFound(key.to_string()))
    }
}

impl ObjectStore for MemoryStore {
    fn create<'a>(&'a self, key: &'a str, body: Vec<Bytes>) -> LocalFuture<'a, Result<(), StoreError>> {
        Box::pin(async move { self.create_now(key, &body) })
    }

    fn create_summed<'a>(
        &'a self,
        key: &'a str,
        body: Vec<Bytes>,
        crc32c: u32,
    ) -> LocalFuture<'a, Result<(), StoreError>> {
        Box::pin(async move {
            // As a bucket would.
            let found = body.iter().fold(0, |crc, part| crc32c::crc32c_append(crc, part));
            if found != crc32c {
                return Err(StoreError::Refused(format!(
                    "CRC-32C of {key} is {found:#010x}, not {crc32c:#010x}"
                )));
            }
            self.create_now(key, &body)
        })
    }

    fn get_range<'a>(&'a self, key: &'a str, range: Range<u64>) -> LocalFuture<'a, Result<Bytes, StoreError>> {
        Box::pin(async move {
            let object = self.object(key)?;
            let len = object.len() as u64;
            if range.start > len {
                return Err(StoreError::Refused(format!(
                    "{key} ends at {len}, before {}",
                    range.start
                )));
            }
            let end = range.end.clamp(range.start, len);
            Ok(object.slice(range.start as usize..end as usize))
        })
    }

    fn get_suffix<'a>(&'a self, key: &'a str, len: u64) -> LocalFuture<'a, Result<Suffix, StoreError>> {
        Box::pin(async move {
            let object = self.object(key)?;
            let from = object.len().saturating_sub(usize::try_from(len).unwrap_or(usize::MAX));
            Ok(Suffix {
                bytes: object.slice(from..),
                object_len: object.len() as u64,
            })
        })
    }

    fn list<'a>(
        &'a self,
        prefix: &'a str,
        start_after: Option<&'a str>,
        limit: usize,
    ) -> LocalFuture<'a, Result<ListPage, StoreError>> {
        Box::pin(async move {
            let objects = self.objects();
            let after = start_after.filter(|after| *after >= prefix).unwrap_or("");
            let mut found = objects
                .range(prefix.max(after).to_string()..)
                .take_while(|(key, _)| key.starts_with(prefix))
                .filter(|(key, _)| after.is_empty() || key.as_str() > after);
            let page = found
                .by_ref()
                .take(limit)
                .map(|(key, bytes)| ObjectMeta {
                    key: key.clone(),
                    size: bytes.len() as u64,
                    modified_ms: 0,
                })
                .collect();
            let more = found.next().is_some();
            Ok(ListPage { objects: page, more })
        })
    }

    fn delete<'a>(&'a self, keys: &'a [String]) -> LocalFuture<'a, Result<(), StoreError>> {
        Box::pin(async move {
            keys.iter().try_for_each(|key| check_key(key))?;
            let mut objects = self.objects();
            keys.iter().for_each(|key| drop(objects.remove(key)));
            Ok(())
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::object_store::contract;
    use crate::object_store::faulty::{FaultyStore, PassAll};
    use futures::executor::block_on;
    use std::rc::Rc;

    #[test]
    fn the_store_in_memory_keeps_the_contract() {
        block_on(contract::check_all(&MemoryStore::new()));
    }

    #[test]
    fn a_faulty_store_without_faults_keeps_the_contract() {
        let store = FaultyStore::new(Rc::new(MemoryStore::new()), Rc::new(PassAll));
        block_on(contract::check_all(&store));
    }
}
