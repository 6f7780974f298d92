//! What calls cost: `cargo test --release -p kafscale-metastore --test etcd rates -- --ignored --nocapture`.

use crate::support::{connect, put, try_read, write};
use futures::executor::block_on;
use futures::future::join_all;
use kafscale_metastore::{Metastore, Txn};
use kafscale_test_etcd::Cluster;
use std::time::{Duration, Instant};

const CALLS: u32 = 1_000;

fn mean(call: impl Fn(u32)) -> Duration {
    let start = Instant::now();
    (0..CALLS).for_each(call);
    start.elapsed() / CALLS
}

#[test]
#[ignore = "a measurement"]
fn calls_one_after_another_and_many_at_once() {
    for members in [1, 3] {
        let cluster = Cluster::start(members);
        let store = connect(&cluster);
        write(&store, "a", "1");
        let lease = block_on(store.lease_grant(60_000)).unwrap();
        let read = mean(|_| drop(try_read(&store, "a").unwrap()));
        let renewal = mean(|_| block_on(store.lease_keep_alive(lease)).unwrap());
        let txn = mean(|number| assert!(write(&store, "a", &number.to_string()) > 0));
        let start = Instant::now();
        let many = (0..10_000).map(|number| {
            store.txn(Txn {
                compares: Vec::new(),
                ops: vec![put(&format!("many/{number}"), "x", None)],
            })
        });
        assert!(block_on(join_all(many)).iter().all(Result::is_ok));
        let rate = 10_000.0 / start.elapsed().as_secs_f64();
        println!("{members} members: read {read:?}, renewal {renewal:?}, transaction {txn:?}, {rate:.0}/s at once");
    }
}
