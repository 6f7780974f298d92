//! Members that are dead, hang or come back.

use crate::support::{config, connect, connect_to_follower, eventually, put, read, try_read, try_write, write};
use futures::executor::block_on;
use kafscale_metastore::etcd::{ConnectError, EtcdMetastore};
use kafscale_metastore::{Metastore, MetastoreError};
use kafscale_test_etcd::{free_port, Cluster, Options};
use std::time::{Duration, Instant};

fn dead_endpoint() -> String {
    format!("http://127.0.0.1:{}", free_port("127.0.0.1"))
}

#[test]
fn a_member_that_comes_back_is_used_again() {
    let mut cluster = Cluster::start(1);
    let store = connect(&cluster);
    write(&store, "a", "1");
    cluster.kill(0);
    // A connection that was cut a moment ago leaves the first in doubt.
    let error = eventually(|| match try_write(&store, vec![put("a", "2", None)]) {
        Err(MetastoreError::OutcomeUnknown(_)) => None,
        other => Some(other.unwrap_err()),
    });
    assert!(
        matches!(error, MetastoreError::Unavailable(_)),
        "nobody was there: {error}"
    );
    let error = try_read(&store, "a").unwrap_err();
    assert!(matches!(error, MetastoreError::Unavailable(_)), "{error}");
    cluster.restart(0);
    assert_eq!(read(&store, "a").as_deref(), Some("1"), "nothing is sent late");
    write(&store, "a", "3");
    assert_eq!(read(&store, "a").as_deref(), Some("3"));
}

#[test]
fn a_transaction_that_a_hanging_member_has_is_in_doubt() {
    let cluster = Cluster::start(1);
    let store = connect(&cluster);
    write(&store, "a", "1");
    cluster.stop(0);
    let start = Instant::now();
    let error = try_write(&store, vec![put("a", "2", None)]).unwrap_err();
    assert!(matches!(error, MetastoreError::OutcomeUnknown(_)), "{error}");
    let error = try_read(&store, "a").unwrap_err();
    assert!(matches!(error, MetastoreError::Unavailable(_)), "{error}");
    assert!(
        start.elapsed() < Duration::from_secs(8),
        "two deadlines of three seconds"
    );
    cluster.cont(0);
    // Whichever way it went, it is settled and visible.
    let value = read(&store, "a");
    assert!(matches!(value.as_deref(), Some("1" | "2")), "{value:?}");
}

#[test]
fn a_dead_endpoint_among_others_does_no_harm() {
    let cluster = Cluster::start(1);
    let mut config = config(&cluster);
    config.endpoints.insert(0, dead_endpoint());
    config.endpoints.push(dead_endpoint());
    let store = EtcdMetastore::connect(config).unwrap();
    for number in 0..50 {
        write(&store, "a", &number.to_string());
        assert_eq!(read(&store, "a"), Some(number.to_string()));
    }
}

#[test]
fn a_member_that_hangs_costs_a_read_a_third_of_its_deadline() {
    let cluster = Cluster::start(3);
    let (store, follower) = connect_to_follower(&cluster);
    write(&store, "a", "1");
    let lease = block_on(store.lease_grant(20_000)).unwrap();
    cluster.stop(follower);
    let start = Instant::now();
    assert_eq!(try_read(&store, "a").unwrap().unwrap().value, "1");
    assert!(start.elapsed() < Duration::from_millis(2_500), "{:?}", start.elapsed());
    block_on(store.lease_keep_alive(lease)).unwrap();
    write(&store, "a", "2");
    assert!(
        start.elapsed() < Duration::from_secs(8),
        "the next calls begin elsewhere"
    );
    cluster.cont(follower);
    assert_eq!(read(&store, "a").as_deref(), Some("2"));
}

#[test]
fn a_transaction_in_doubt_is_not_sent_to_another_member() {
    let mut cluster = Cluster::start(3);
    let (store, follower) = connect_to_follower(&cluster);
    write(&store, "a", "1");
    cluster.stop(follower);
    let start = Instant::now();
    let writer = {
        let store = store.clone();
        std::thread::spawn(move || try_write(&store, vec![put("a", "2", None)]))
    };
    // The connection is cut long before the deadline: there would be time to try elsewhere.
    std::thread::sleep(Duration::from_millis(500));
    cluster.kill(follower);
    let error = writer.join().unwrap().unwrap_err();
    assert!(matches!(error, MetastoreError::OutcomeUnknown(_)), "{error}");
    assert!(start.elapsed() < Duration::from_secs(2), "it is known at once");
    write(&store, "b", "1");
    assert_eq!(read(&store, "a").as_deref(), Some("1"));
}

#[test]
fn a_member_that_hangs_is_left_by_the_next_transaction() {
    let cluster = Cluster::start(3);
    let (store, follower) = connect_to_follower(&cluster);
    write(&store, "a", "1");
    cluster.stop(follower);
    let error = try_write(&store, vec![put("a", "2", None)]).unwrap_err();
    assert!(matches!(error, MetastoreError::OutcomeUnknown(_)), "{error}");
    let start = Instant::now();
    write(&store, "b", "1");
    assert!(start.elapsed() < Duration::from_secs(2), "{:?}", start.elapsed());
    cluster.cont(follower);
}

#[test]
fn a_full_etcd_says_so_and_leaves_writes_in_doubt() {
    let cluster = Cluster::start_with(&Options {
        args: ["--quota-backend-bytes", "4000000"].map(str::to_string).to_vec(),
        ..Options::default()
    });
    let store = connect(&cluster);
    let large = "x".repeat(500_000);
    let error = (0..100)
        .find_map(|number| {
            // etcd counts what it has committed, every 100 ms.
            std::thread::sleep(Duration::from_millis(50));
            try_write(&store, vec![put(&format!("full/{number}"), &large, None)]).err()
        })
        .expect("a hundred times half a megabyte are more than four");
    match &error {
        MetastoreError::OutcomeUnknown(why) => assert!(why.contains("database space exceeded"), "{why}"),
        other => panic!("{other}"),
    }
    assert!(try_read(&store, "full/0").unwrap().is_some(), "it can still be read");
}

#[test]
fn a_member_that_has_lost_the_others_is_left() {
    let cluster = Cluster::start(3);
    let mut lonely = config(&cluster);
    lonely.endpoints.truncate(1);
    let store = EtcdMetastore::connect(lonely).unwrap();
    write(&store, "a", "1");
    cluster.stop(1);
    cluster.stop(2);
    // At first it still hopes, then it knows that there is no leader.
    let in_the_end = eventually(|| match try_write(&store, vec![put("a", "2", None)]) {
        Err(MetastoreError::OutcomeUnknown(_)) => None,
        other => Some(other),
    });
    assert!(
        matches!(in_the_end, Err(MetastoreError::Unavailable(_))),
        "{in_the_end:?}"
    );
    cluster.cont(1);
    cluster.cont(2);
    let settled = eventually(|| try_write(&store, vec![put("b", "1", None)]).ok());
    assert!(settled > 0);
}

#[test]
fn a_start_without_etcd_says_so_in_time() {
    let config = kafscale_metastore::etcd::EtcdConfig {
        endpoints: vec![dead_endpoint(), dead_endpoint()],
        connect_timeout_ms: 1_000,
        ..Default::default()
    };
    let start = Instant::now();
    let error = EtcdMetastore::connect(config.clone()).err().unwrap();
    match &error {
        ConnectError::Unreachable(why) => {
            assert!(config.endpoints.iter().all(|endpoint| why.contains(endpoint)), "{why}");
        }
        other => panic!("{other}"),
    }
    assert!(start.elapsed() < Duration::from_secs(3));
}

#[test]
fn a_start_that_meets_a_hanging_etcd_says_so_in_time() {
    let cluster = Cluster::start(1);
    cluster.stop(0);
    let mut config = config(&cluster);
    config.connect_timeout_ms = 1_000;
    let start = Instant::now();
    let error = EtcdMetastore::connect(config).err().unwrap();
    assert!(matches!(error, ConnectError::Unreachable(_)), "{error}");
    assert!(start.elapsed() < Duration::from_secs(3));
    cluster.cont(0);
}

#[test]
fn many_callers_on_many_threads_share_a_handle() {
    let cluster = Cluster::start(1);
    let store = connect(&cluster);
    let threads: Vec<_> = (0..4)
        .map(|thread| {
            let store = store.clone();
            std::thread::spawn(move || {
                let writes = (0..500).map(|number| {
                    store.txn(kafscale_metastore::Txn {
                        compares: Vec::new(),
                        ops: vec![put(&format!("many/{thread}/{number}"), "x", None)],
                    })
                });
                let written = block_on(futures::future::join_all(writes));
                assert!(written.iter().all(Result::is_ok));
            })
        })
        .collect();
    threads.into_iter().for_each(|thread| thread.join().unwrap());
    let page = block_on(store.range(b"many/", b"many0", 5_000)).unwrap();
    assert_eq!((page.items.len(), page.more), (2_000, false));
}

#[test]
fn pages_that_are_too_large_for_one_answer_come_in_parts() {
    let cluster = Cluster::start(1);
    let store = connect(&cluster);
    let large = "x".repeat(1_200_000);
    for number in 0..20 {
        write(&store, &format!("large/{number:02}"), &large);
    }
    let all = block_on(kafscale_metastore::operation::read_all(&store, b"large/")).unwrap();
    assert_eq!(all.items.len(), 20);
    assert!(all.items.iter().all(|item| item.value.len() == large.len()));
}
