//! What every metastore must do, on one member and on three.

use crate::support::{config, connect};
use futures::executor::block_on;
use kafscale_metastore::contract::{check_all, Harness};
use kafscale_metastore::etcd::EtcdMetastore;
use kafscale_metastore::{LocalFuture, Metastore};
use kafscale_test_etcd::Cluster;
use std::rc::Rc;
use std::time::Duration;

struct EtcdHarness(EtcdMetastore);

impl Harness for EtcdHarness {
    fn store(&self) -> Rc<dyn Metastore> {
        Rc::new(self.0.clone())
    }

    fn pass_time(&self, ms: u64) -> LocalFuture<'_, ()> {
        Box::pin(async move { std::thread::sleep(Duration::from_millis(ms)) })
    }

    fn shortest_ttl_ms(&self) -> u64 {
        // etcd counts in seconds, and grants no less than its election timeout takes (two seconds here).
        2_000
    }
}

#[test]
fn one_member_keeps_the_contract() {
    let cluster = Cluster::start(1);
    block_on(check_all(&EtcdHarness(connect(&cluster))));
}

#[test]
fn three_members_keep_the_contract() {
    let cluster = Cluster::start(3);
    block_on(check_all(&EtcdHarness(connect(&cluster))));
}

#[test]
fn clusters_with_prefixes_of_their_own_share_an_etcd() {
    let cluster = Cluster::start(1);
    let with_prefix = |prefix: &str| {
        let mut config = config(&cluster);
        config.key_prefix = prefix.to_string();
        EtcdMetastore::connect(config).unwrap()
    };
    // Each finds nothing of the other, or the contract would not hold.
    block_on(check_all(&EtcdHarness(with_prefix("/one"))));
    block_on(check_all(&EtcdHarness(with_prefix("/two"))));
}
