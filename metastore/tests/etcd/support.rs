//! What the tests share.

use bytes::Bytes;
use etcd_client::Client;
use futures::executor::block_on;
use kafscale_metastore::etcd::{EtcdConfig, EtcdMetastore};
use kafscale_metastore::{KeyValue, LeaseId, Metastore, MetastoreError, Op, Revision, Txn};
use kafscale_test_etcd::Cluster;
use std::time::{Duration, Instant};

/// How long a test waits for what must happen sooner or later.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// Settings for all members of a cluster, with deadlines that tests can wait for.
pub fn config(cluster: &Cluster) -> EtcdConfig {
    EtcdConfig {
        endpoints: cluster.endpoints(),
        request_deadline_ms: 3_000,
        connect_timeout_ms: 5_000,
        ..EtcdConfig::default()
    }
}

pub fn connect(cluster: &Cluster) -> EtcdMetastore {
    EtcdMetastore::connect(config(cluster)).unwrap()
}

/// A store whose first choice is a member that does not lead, and that member.
pub fn connect_to_follower(cluster: &Cluster) -> (EtcdMetastore, usize) {
    let mut config = config(cluster);
    let follower = (cluster.await_leader() + 1) % config.endpoints.len();
    config.endpoints.rotate_left(follower);
    (EtcdMetastore::connect(config).unwrap(), follower)
}

pub fn put(key: &str, value: &str, lease: Option<LeaseId>) -> Op {
    Op::Put {
        key: Bytes::copy_from_slice(key.as_bytes()),
        value: Bytes::copy_from_slice(value.as_bytes()),
        lease,
    }
}

pub fn try_write(store: &EtcdMetastore, ops: Vec<Op>) -> Result<Revision, MetastoreError> {
    block_on(store.txn(Txn {
        compares: Vec::new(),
        ops,
    }))
    .map(|outcome| outcome.revision)
}

pub fn write(store: &EtcdMetastore, key: &str, value: &str) -> Revision {
    try_write(store, vec![put(key, value, None)]).unwrap()
}

pub fn try_read(store: &EtcdMetastore, key: &str) -> Result<Option<KeyValue>, MetastoreError> {
    block_on(store.get(key.as_bytes()))
}

/// The value of a key, once etcd answers.
pub fn read(store: &EtcdMetastore, key: &str) -> Option<String> {
    let found = eventually(|| try_read(store, key).ok());
    found.map(|item| String::from_utf8(item.value.to_vec()).unwrap())
}

/// Tries until there is a result.
pub fn eventually<T>(mut attempt: impl FnMut() -> Option<T>) -> T {
    let start = Instant::now();
    loop {
        if let Some(result) = attempt() {
            return result;
        }
        assert!(start.elapsed() < PATIENCE, "it did not happen in {PATIENCE:?}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// Talks to etcd past the metastore.
pub fn directly<T>(cluster: &Cluster, talk: impl AsyncFnOnce(&mut Client) -> Result<T, etcd_client::Error>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        let mut client = Client::connect(cluster.endpoints(), None).await.unwrap();
        talk(&mut client).await.unwrap()
    })
}
