//! Damage to what the object store holds, and what may be refused because of it: refuse or be right.
//!
//! Only damage that can be told from a sound store is done. The last slots of a stream are not lost, since nothing tells
//! that they ever were, and neither is a fence: a writer that could still come back would write in its place.

use crate::checkers::ledger::Place;
use crate::executor::World;
use bytes::Bytes;
use kafscale_metastore::memory::MemoryMetastore;
use kafscale_metastore::{partitions, topics};
use kafscale_storage_engine::object_store::memory::MemoryStore;
use kafscale_storage_engine::wal::{self, Kind, HEADER_LEN};
use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};

/// What is done to an object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Harm {
    /// It is gone.
    Lost,
    /// It ends too early.
    Cut,
    /// One bit is another.
    Flipped,
    /// It has another object's content, and that one its.
    Swapped,
}

/// What was done, by key.
pub struct Damages {
    world: World,
    namespace: String,
    harmed: RefCell<BTreeSet<String>>,
}

impl Damages {
    /// None yet.
    pub fn new(world: &World, namespace: &str) -> Self {
        Damages {
            world: world.clone(),
            namespace: namespace.to_string(),
            harmed: RefCell::default(),
        }
    }

    /// Whether anything was harmed.
    pub fn any(&self) -> bool {
        !self.harmed.borrow().is_empty()
    }

    /// Harms an object of the store, if there is one that may be harmed.
    pub fn strike(&self, store: &MemoryStore) {
        let harm = self
            .world
            .draw(|random| *random.pick(&[Harm::Lost, Harm::Cut, Harm::Flipped, Harm::Swapped]));
        let keys = self.candidates(store, harm);
        if keys.len() < 2 {
            return;
        }
        let (at, other) = self.world.draw(|random| {
            let at = random.below(keys.len() as u64) as usize;
            (at, (at + 1 + random.below(keys.len() as u64 - 1) as usize) % keys.len())
        });
        let (key, other) = (&keys[at], &keys[other]);
        let (Some(content), Some(others)) = (store.read_now(key), store.read_now(other)) else {
            return;
        };
        if harm == Harm::Swapped && !can_be_told_apart(key, other) {
            return;
        }
        log::info!("nemesis: {key} is {harm:?}");
        match harm {
            Harm::Lost => store.remove_now(key),
            Harm::Cut => {
                let len = self.world.draw(|random| random.below(content.len() as u64)) as usize;
                store.replace_now(key, content.slice(..len));
            }
            Harm::Flipped => {
                let bit = self.world.draw(|random| random.below(content.len() as u64 * 8)) as usize;
                let mut changed = content.to_vec();
                changed[bit / 8] ^= 1 << (bit % 8);
                store.replace_now(key, Bytes::from(changed));
            }
            Harm::Swapped => {
                log::info!("nemesis: with {other}");
                store.replace_now(key, others);
                store.replace_now(other, content);
                self.harmed.borrow_mut().insert(other.clone());
            }
        }
        self.harmed.borrow_mut().insert(key.clone());
    }

    /// What can be harmed in this way so that it can be told.
    fn candidates(&self, store: &MemoryStore, harm: Harm) -> Vec<String> {
        let keys = store.keys();
        // Up to where each stream was durable, by what its slots say.
        let mut vouched: BTreeMap<u64, u64> = BTreeMap::new();
        for key in &keys {
            let header = store
                .read_now(key)
                .and_then(|content| wal::parse_header(content.get(..HEADER_LEN)?).ok());
            if let (Some((stream, _)), Some(header)) = (self.slot(key), header) {
                let known = vouched.entry(stream).or_default();
                *known = (*known).max(header.vouched);
            }
        }
        let can_be = |key: &&String| {
            let content = store.read_now(key).unwrap_or_default();
            if content.is_empty() || key.starts_with(&format!("{}/_cluster/", self.namespace)) {
                return false;
            }
            let Some((stream, seq)) = self.slot(key) else {
                return true;
            };
            let header = content.get(..HEADER_LEN).map(wal::parse_header);
            let is_data = matches!(header, Some(Ok(header)) if header.kind == Kind::Data);
            is_data && (harm == Harm::Cut || harm == Harm::Flipped || seq < vouched[&stream])
        };
        keys.iter().filter(can_be).cloned().collect()
    }

    /// The stream and the number of a slot.
    fn slot(&self, key: &str) -> Option<(u64, u64)> {
        let (stream, name) = self.in_stream(key)?;
        Some((stream, name.strip_suffix(".wal")?.parse().ok()?))
    }

    /// The stream of a write-ahead object, and its name there.
    fn in_stream<'a>(&self, key: &'a str) -> Option<(u64, &'a str)> {
        let rest = key.strip_prefix(&self.namespace)?.strip_prefix("/_wal/")?;
        let (stream, name) = rest.split_once('/')?;
        Some((u64::from_str_radix(stream, 16).ok()?, name))
    }

    /// The partitions of which something may be refused: a harmed object is theirs, or a stream that has one may hold
    /// records of theirs.
    pub async fn refusable(&self, metastore: &MemoryMetastore) -> BTreeSet<Place> {
        let mut places = BTreeSet::new();
        if !self.any() {
            return places;
        }
        let (Ok(topics), Ok(partitions)) = (
            topics::load_topics(metastore).await,
            partitions::load_partitions(metastore).await,
        ) else {
            self.world
                .violate("the records of the metastore cannot be read".to_string());
            return places;
        };
        let harmed = self.harmed.borrow();
        let streams: BTreeSet<u64> = harmed
            .iter()
            .filter_map(|key| self.in_stream(key))
            .map(|(id, _)| id)
            .collect();
        for (name, topic) in topics.items {
            let id: String = topic
                .value
                .topic_id
                .0
                .iter()
                .map(|byte| format!("{byte:02x}"))
                .collect();
            for partition in 0..topic.value.partitions as i32 {
                let own = [
                    format!("{}/{}/{partition}/", self.namespace, topic.value.folder),
                    format!("{}/_producers/{id}/{partition}/", self.namespace),
                ];
                if harmed
                    .iter()
                    .any(|key| own.iter().any(|prefix| key.starts_with(prefix)))
                {
                    places.insert((name.clone(), partition));
                }
            }
            for stored in &partitions.items {
                let record = &stored.record.value;
                let mut needed = record.tail_streams.iter().chain([&record.stream]);
                if stored.topic_id == topic.value.topic_id && needed.any(|stream| streams.contains(stream)) {
                    places.insert((name.clone(), stored.partition));
                }
            }
        }
        places
    }
}

/// Whether a broker can notice that these two have each other's content. Segments say at which offset they begin and not of
/// which partition they are, and snapshots of producers say neither.
fn can_be_told_apart(key: &str, other: &str) -> bool {
    let name = |key: &str| key.rsplit('/').next().map(str::to_string);
    let both_are = |ending| key.ends_with(ending) && other.ends_with(ending);
    key.contains("/_wal/") || (name(key) != name(other) && !both_are(".snap"))
}
