//! What the tests share.

use kafscale_metastore::etcd::{EtcdConfig, EtcdMetastore};
use kafscale_test_etcd::Cluster;

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
