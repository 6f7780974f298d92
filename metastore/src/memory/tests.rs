use super::*;
use crate::contract::{check_all, Harness};
use crate::faulty::{FaultyMetastore, PassAll};
use futures::executor::block_on;
use std::cell::Cell;

pub(crate) struct MemoryHarness {
    store: MemoryMetastore,
    now_ms: Rc<Cell<u64>>,
    faulty: bool,
}

impl MemoryHarness {
    fn new(faulty: bool) -> Self {
        let now_ms = Rc::new(Cell::new(0));
        let clock = now_ms.clone();
        MemoryHarness {
            store: MemoryMetastore::new(move || clock.get()),
            now_ms,
            faulty,
        }
    }
}

impl Harness for MemoryHarness {
    fn store(&self) -> Rc<dyn Metastore> {
        let store = Rc::new(self.store.clone());
        match self.faulty {
            true => Rc::new(FaultyMetastore::new(store, Rc::new(PassAll))),
            false => store,
        }
    }

    fn pass_time(&self, ms: u64) -> LocalFuture<'_, ()> {
        self.now_ms.set(self.now_ms.get() + ms);
        self.store.expire(self.now_ms.get());
        Box::pin(std::future::ready(()))
    }
}

#[test]
fn the_store_in_memory_keeps_the_contract() {
    block_on(check_all(&MemoryHarness::new(false)));
}

#[test]
fn a_faulty_store_without_faults_keeps_the_contract() {
    block_on(check_all(&MemoryHarness::new(true)));
}
