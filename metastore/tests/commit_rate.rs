//! How fast the embedded metastore commits and opens: `cargo test -p kafscale-metastore --test commit_rate -- --ignored --nocapture`.

// The lint exempts test functions, not the helpers beside them.
#![allow(clippy::unwrap_used)]

use bytes::Bytes;
use futures::executor::block_on;
use futures::future::join_all;
use kafscale_metastore::embedded::EmbeddedMetastore;
use kafscale_metastore::{Metastore, Op, Txn};
use std::time::{Duration, Instant};

async fn write_until(store: &EmbeddedMetastore, caller: usize, end: Instant, latencies: &mut Vec<Duration>) {
    let mut number = 0;
    while Instant::now() < end {
        let key = Bytes::from(format!("/rate/{caller}/{}", number % 100));
        let value = Bytes::from(vec![b'v'; 100]);
        let start = Instant::now();
        let txn = Txn {
            compares: Vec::new(),
            ops: vec![Op::Put {
                key,
                value,
                lease: None,
            }],
        };
        store.txn(txn).await.unwrap();
        latencies.push(start.elapsed());
        number += 1;
    }
}

#[test]
#[ignore = "a measurement"]
fn commits_per_second() {
    const SECONDS: u64 = 5;
    for callers in [1, 8, 64, 256] {
        let directory = tempfile::tempdir_in(".").unwrap();
        let store = EmbeddedMetastore::open(directory.path(), |why| panic!("{why}")).unwrap();
        let end = Instant::now() + Duration::from_secs(SECONDS);
        let mut latencies = vec![Vec::new(); callers];
        let work = latencies
            .iter_mut()
            .enumerate()
            .map(|(caller, seen)| write_until(&store, caller, end, seen));
        block_on(join_all(work));
        let mut all = latencies.concat();
        all.sort_unstable();
        let at = |permille: usize| all[(all.len() - 1) * permille / 1000];
        let rate = all.len() as u64 / SECONDS;
        println!(
            "{callers:>4} callers: {rate:>6} transactions/s, p50 {:?}, p99 {:?}",
            at(500),
            at(990)
        );
    }
}

#[test]
#[ignore = "a measurement"]
fn opening_time() {
    for keys in [10_000, 100_000] {
        let directory = tempfile::tempdir_in(".").unwrap();
        let store = EmbeddedMetastore::open(directory.path(), |why| panic!("{why}")).unwrap();
        let put = |number: usize| Op::Put {
            key: Bytes::from(format!(
                "/kafscale/v1/partitions/00112233445566778899aabbccddeeff/{number:010}"
            )),
            value: Bytes::from(vec![b'v'; 60]),
            lease: None,
        };
        for batch in (0..keys).collect::<Vec<_>>().chunks(100) {
            let ops = batch.iter().copied().map(put).collect();
            block_on(store.txn(Txn {
                compares: Vec::new(),
                ops,
            }))
            .unwrap();
        }
        drop(store);
        let start = Instant::now();
        let store = EmbeddedMetastore::open(directory.path(), |why| panic!("{why}")).unwrap();
        let bytes = std::fs::metadata(directory.path().join("metastore.redb"))
            .unwrap()
            .len();
        println!(
            "{keys} keys: opened in {:?}, file of {} KiB",
            start.elapsed(),
            bytes >> 10
        );
        drop(store);
    }
}
