//! Random requests, answered alike by a store and by a model so simple that it is right at sight.

use crate::embedded::EmbeddedMetastore;
use crate::memory::MemoryMetastore;
use crate::store::{Compare, KeyValue, LeaseId, Metastore, MetastoreError, Op, Revision, Txn, Watch, WatchEvent};
use bytes::Bytes;
use futures::executor::block_on;
use proptest::prelude::*;
use std::cell::Cell;
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

const KEYS: [&str; 5] = ["a", "aa", "ab", "b", "c"];

/// Keys as a list, leases as a list: every question is a search.
#[derive(Default)]
struct Model {
    items: Vec<KeyValue>,
    revision: Revision,
    /// Number of the lease, ttl and deadline.
    leases: Vec<(usize, u64, u64)>,
    watched: Vec<WatchEvent>,
}

impl Model {
    fn find(&self, key: &Bytes) -> Option<&KeyValue> {
        self.items.iter().find(|item| item.key == key)
    }

    fn holds(&self, compare: &Compare) -> bool {
        match compare {
            Compare::Absent(key) => self.find(key).is_none(),
            Compare::Present(key) => self.find(key).is_some(),
            Compare::ModRevision(key, revision) => self.find(key).map(|item| item.mod_revision) == Some(*revision),
            Compare::Value(key, value) => self.find(key).map(|item| &item.value) == Some(value),
        }
    }

    fn remove(&mut self, key: &Bytes, revision: Revision) {
        if self.find(key).is_some() {
            self.items.retain(|item| item.key != key);
            self.revision = revision;
            self.watched.push(WatchEvent::Delete {
                key: key.clone(),
                revision,
            });
        }
    }

    fn apply(&mut self, txn: &Txn) -> bool {
        if !txn.compares.iter().all(|compare| self.holds(compare)) {
            return false;
        }
        let revision = self.revision + 1;
        for op in &txn.ops {
            match op {
                Op::Delete(key) => self.remove(key, revision),
                Op::Put { key, value, lease } => {
                    let create_revision = self.find(key).map_or(revision, |item| item.create_revision);
                    let (key, value, lease) = (key.clone(), value.clone(), *lease);
                    let item = KeyValue {
                        key,
                        value,
                        create_revision,
                        mod_revision: revision,
                        lease,
                    };
                    self.items.retain(|other| other.key != item.key);
                    self.watched.push(WatchEvent::Put(item.clone()));
                    self.items.push(item);
                    self.items.sort_by(|one, other| one.key.cmp(&other.key));
                    self.revision = revision;
                }
            }
        }
        true
    }

    fn end_lease(&mut self, number: usize, id: LeaseId) {
        self.leases.retain(|lease| lease.0 != number);
        let revision = self.revision + 1;
        let bound: Vec<_> = self
            .items
            .iter()
            .filter(|item| item.lease == Some(id))
            .cloned()
            .collect();
        bound.iter().for_each(|item| self.remove(&item.key, revision));
    }
}

#[derive(Debug, Clone)]
enum Step {
    Txn {
        compares: Vec<(u8, usize, u8)>,
        ops: BTreeMap<usize, (u8, Option<usize>)>,
    },
    Range {
        start: usize,
        end: usize,
        limit: usize,
    },
    Grant {
        ttl_ms: u64,
    },
    KeepAlive(usize),
    Revoke(usize),
    Pass {
        ms: u64,
    },
    Reopen,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let key = || 0..KEYS.len();
    let op = (0u8..6, proptest::option::weighted(0.3, 0usize..4));
    let step = prop_oneof![
        8 => (proptest::collection::vec((0u8..4, key(), 1u8..6), 0..3), proptest::collection::btree_map(key(), op, 0..4))
            .prop_map(|(compares, ops)| Step::Txn { compares, ops }),
        3 => (key(), key(), 1usize..4).prop_map(|(start, end, limit)| Step::Range { start, end, limit }),
        1 => (1u64..50).prop_map(|ttl_ms| Step::Grant { ttl_ms }),
        1 => (0usize..4).prop_map(Step::KeepAlive),
        1 => (0usize..4).prop_map(Step::Revoke),
        1 => (1u64..30).prop_map(|ms| Step::Pass { ms }),
        1 => Just(Step::Reopen),
    ];
    proptest::collection::vec(step, 1..60)
}

fn key(index: usize) -> Bytes {
    Bytes::from_static(KEYS[index].as_bytes())
}

/// A store under test beside the model.
struct Pair {
    store: Box<dyn Metastore>,
    model: Model,
    /// Ids that the store gave, by number.
    leases: Vec<LeaseId>,
    now_ms: u64,
}

impl Pair {
    fn lease_runs(&self, number: usize) -> bool {
        self.model.leases.iter().any(|lease| lease.0 == number)
    }

    fn txn(&self, compares: &[(u8, usize, u8)], ops: &BTreeMap<usize, (u8, Option<usize>)>) -> Txn {
        let compare = |&(kind, index, number): &(u8, usize, u8)| match kind {
            0 => Compare::Absent(key(index)),
            1 => Compare::Present(key(index)),
            2 => Compare::ModRevision(key(index), self.model.revision.saturating_sub(u64::from(number) - 1)),
            _ => Compare::Value(key(index), Bytes::from(vec![number])),
        };
        let op = |(&index, &(value, lease)): (&usize, &(u8, Option<usize>))| match value {
            0 => Op::Delete(key(index)),
            _ => Op::Put {
                key: key(index),
                value: Bytes::from(vec![value]),
                lease: lease.and_then(|number| self.leases.get(number).copied()),
            },
        };
        Txn {
            compares: compares.iter().map(compare).collect(),
            ops: ops.iter().map(op).collect(),
        }
    }

    fn dead_lease(&self, txn: &Txn) -> bool {
        txn.ops.iter().any(|op| match op {
            Op::Put { lease: Some(id), .. } => {
                let number = self
                    .leases
                    .iter()
                    .position(|lease| lease == id)
                    .expect("granted by this store");
                !self.lease_runs(number)
            }
            _ => false,
        })
    }

    /// One step that needs neither time nor a restart.
    async fn step(&mut self, step: &Step) {
        match step {
            Step::Txn { compares, ops } => {
                let txn = self.txn(compares, ops);
                let dead = self.dead_lease(&txn) && txn.compares.iter().all(|compare| self.model.holds(compare));
                let answer = self.store.txn(txn.clone()).await;
                if dead {
                    assert!(matches!(answer, Err(MetastoreError::LeaseGone(_))), "{answer:?}");
                } else {
                    let succeeded = self.model.apply(&txn);
                    let answer = answer.unwrap();
                    assert_eq!((answer.succeeded, answer.revision), (succeeded, self.model.revision));
                }
            }
            Step::Range { start, end, limit } => {
                let page = self.store.range(&key(*start), &key(*end), *limit).await.unwrap();
                let within = |item: &&KeyValue| item.key >= key(*start) && item.key < key(*end);
                let all: Vec<_> = self.model.items.iter().filter(within).cloned().collect();
                assert_eq!(page.items[..], all[..all.len().min(*limit)]);
                assert_eq!((page.more, page.revision), (all.len() > *limit, self.model.revision));
            }
            Step::Grant { ttl_ms } => {
                let id = self.store.lease_grant(*ttl_ms).await.unwrap();
                assert!(!self.leases.contains(&id));
                self.model
                    .leases
                    .push((self.leases.len(), *ttl_ms, self.now_ms + ttl_ms));
                self.leases.push(id);
            }
            Step::KeepAlive(number) => {
                let Some(id) = self.leases.get(*number) else { return };
                let expected = self
                    .lease_runs(*number)
                    .then_some(())
                    .ok_or(MetastoreError::LeaseGone(*id));
                assert_eq!(self.store.lease_keep_alive(*id).await, expected);
                for lease in self.model.leases.iter_mut().filter(|lease| lease.0 == *number) {
                    lease.2 = self.now_ms + lease.1;
                }
            }
            Step::Revoke(number) => {
                let Some(id) = self.leases.get(*number).copied() else {
                    return;
                };
                let expected = self
                    .lease_runs(*number)
                    .then_some(())
                    .ok_or(MetastoreError::LeaseGone(id));
                assert_eq!(self.store.lease_revoke(id).await, expected);
                if expected.is_ok() {
                    self.model.end_lease(*number, id);
                }
            }
            Step::Pass { .. } | Step::Reopen => {}
        }
    }

    async fn check_all_keys(&self) {
        for name in KEYS {
            let key = Bytes::from_static(name.as_bytes());
            assert_eq!(self.store.get(&key).await.unwrap().as_ref(), self.model.find(&key));
        }
    }

    /// A watch from `from` on sees what the model noted from there.
    async fn check_watch(&self, mut watch: Box<dyn Watch>, prefix: &str, from: Revision) {
        let revision_of = crate::history::revision_of;
        let wanted = |event: &&WatchEvent| {
            let key = match event {
                WatchEvent::Put(item) => &item.key,
                WatchEvent::Delete { key, .. } => key,
            };
            revision_of(event) >= from && key.starts_with(prefix.as_bytes())
        };
        let expected: Vec<_> = self.model.watched.iter().filter(wanted).cloned().collect();
        let mut seen = Vec::new();
        while seen.len() < expected.len() {
            seen.extend(watch.next().await.unwrap());
        }
        // Keys of one lease go in any order.
        let by_revision = |events: &[WatchEvent]| {
            let mut events: Vec<_> = events
                .iter()
                .map(|event| (revision_of(event), format!("{event:?}")))
                .collect();
            events.sort();
            events
        };
        assert!(seen
            .windows(2)
            .all(|pair| revision_of(&pair[0]) <= revision_of(&pair[1])));
        assert_eq!(by_revision(&seen), by_revision(&expected));
        let revisions: BTreeSet<_> = seen.iter().map(revision_of).collect();
        assert!(revisions.iter().all(|revision| *revision <= self.model.revision));
    }
}

proptest! {
    #[test]
    fn the_store_in_memory_is_like_the_model(steps in steps(), from in 0u64..10) {
        let now_ms = Rc::new(Cell::new(0));
        let clock = now_ms.clone();
        let store = MemoryMetastore::new(move || clock.get());
        let pair_store = Box::new(store.clone());
        let mut pair = Pair { store: pair_store, model: Model::default(), leases: Vec::new(), now_ms: 0 };
        block_on(async {
            let early = store.watch(b"a", 0).await.unwrap();
            for step in &steps {
                if let Step::Pass { ms } = step {
                    pair.now_ms += ms;
                    now_ms.set(pair.now_ms);
                    store.expire(pair.now_ms);
                    let mut over = pair.model.leases.clone();
                    over.retain(|lease| lease.2 <= pair.now_ms);
                    over.iter().for_each(|lease| pair.model.end_lease(lease.0, pair.leases[lease.0]));
                }
                pair.step(step).await;
                assert_eq!(store.revision(), pair.model.revision);
            }
            pair.check_all_keys().await;
            pair.check_watch(early, "a", 0).await;
            pair.check_watch(store.watch(b"", from).await.unwrap(), "", from).await;
        });
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]

    #[test]
    fn the_embedded_store_is_like_the_model_over_restarts(steps in steps()) {
        let directory = tempfile::tempdir().unwrap();
        let open = || Box::new(EmbeddedMetastore::open(directory.path(), |why| panic!("{why}")).unwrap());
        let mut pair = Pair { store: open(), model: Model::default(), leases: Vec::new(), now_ms: 0 };
        block_on(async {
            for step in &steps {
                match step {
                    // Its leases run by real time: here they are long.
                    Step::Grant { ttl_ms } => pair.step(&Step::Grant { ttl_ms: ttl_ms * 100_000 }).await,
                    Step::Reopen => {
                        pair.store = Box::new(MemoryMetastore::new(|| 0));
                        pair.store = open();
                        pair.model.leases.clear();
                        // Leased keys just are not there any more.
                        pair.model.items.retain(|item| item.lease.is_none());
                    }
                    step => pair.step(step).await,
                }
            }
            pair.check_all_keys().await;
        });
    }
}
