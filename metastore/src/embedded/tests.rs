use super::*;
use crate::contract::{check_all, Harness};
use futures::executor::block_on;
use std::rc::Rc;
use std::time::Duration;

struct EmbeddedHarness(EmbeddedMetastore);

impl Harness for EmbeddedHarness {
    fn store(&self) -> Rc<dyn Metastore> {
        Rc::new(self.0.clone())
    }

    fn pass_time(&self, ms: u64) -> LocalFuture<'_, ()> {
        Box::pin(async move { std::thread::sleep(Duration::from_millis(ms)) })
    }

    fn shortest_ttl_ms(&self) -> u64 {
        // Real time, on a machine that may be busy.
        600
    }
}

#[test]
fn the_embedded_store_keeps_the_contract() {
    let directory = tempfile::tempdir().unwrap();
    block_on(check_all(&EmbeddedHarness(
        EmbeddedMetastore::open(directory.path()).unwrap(),
    )));
}
