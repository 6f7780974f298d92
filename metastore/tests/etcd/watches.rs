//! Watches that etcd, the network or their reader leaves alone.

use crate::support::{config, connect, connect_to_follower, directly, eventually, try_read, write, PATIENCE};
use futures::executor::block_on;
use futures::FutureExt;
use kafscale_metastore::etcd::EtcdMetastore;
use kafscale_metastore::operation::read_all;
use kafscale_metastore::{Metastore, MetastoreError, Watch, WatchEvent};
use kafscale_test_etcd::Cluster;
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

fn values(events: &[WatchEvent]) -> Vec<String> {
    let value = |event: &WatchEvent| match event {
        WatchEvent::Put(item) => String::from_utf8(item.value.to_vec()).unwrap(),
        WatchEvent::Delete { .. } => "deleted".to_string(),
    };
    events.iter().map(value).collect()
}

/// What a watch says within a time; `None` for silence.
fn within(watch: &mut dyn Watch, limit: Duration) -> Option<Result<Vec<WatchEvent>, MetastoreError>> {
    let start = Instant::now();
    while start.elapsed() < limit {
        if let Some(said) = watch.next().now_or_never() {
            return Some(said);
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    None
}

/// What a watch says next, which must not take for ever.
fn next(watch: &mut dyn Watch) -> Result<Vec<WatchEvent>, MetastoreError> {
    within(watch, PATIENCE).expect("a watch that has something to say")
}

#[test]
fn a_watch_from_compacted_history_says_so() {
    let cluster = Cluster::start(1);
    let store = connect(&cluster);
    let first = write(&store, "w/a", "1");
    for number in 2..9 {
        write(&store, "w/a", &number.to_string());
    }
    let last = write(&store, "w/a", "9");
    directly(&cluster, async |client| client.compact(last as i64, None).await);
    let mut watch = block_on(store.watch(b"w/", first)).unwrap();
    assert_eq!(next(&mut *watch), Err(MetastoreError::Compacted(first)));
    let mut watch = block_on(store.watch(b"w/", last + 1)).unwrap();
    write(&store, "w/a", "10");
    assert_eq!(
        values(&next(&mut *watch).unwrap()),
        ["10"],
        "the present can be watched"
    );
}

#[test]
fn a_watch_that_keeps_up_does_not_mind_a_compaction() {
    let cluster = Cluster::start(1);
    let store = connect(&cluster);
    let first = write(&store, "w/a", "1");
    let mut watch = block_on(store.watch(b"w/", first)).unwrap();
    assert_eq!(values(&next(&mut *watch).unwrap()), ["1"]);
    let last = write(&store, "other", "x");
    directly(&cluster, async |client| client.compact(last as i64, None).await);
    write(&store, "w/a", "2");
    assert_eq!(values(&next(&mut *watch).unwrap()), ["2"]);
}

#[test]
fn silence_alone_ends_no_watch() {
    let cluster = Cluster::start(1);
    let store = connect(&cluster);
    let first = write(&store, "w/a", "1");
    let mut watch = block_on(store.watch(b"w/", first + 1)).unwrap();
    assert_eq!(within(&mut *watch, Duration::from_secs(7)), None);
    write(&store, "w/a", "2");
    assert_eq!(values(&next(&mut *watch).unwrap()), ["2"]);
}

#[test]
fn a_watch_of_a_member_that_hangs_ends() {
    let cluster = Cluster::start(3);
    let (store, follower) = connect_to_follower(&cluster);
    let first = write(&store, "w/a", "1");
    let mut watch = block_on(store.watch(b"w/", first + 1)).unwrap();
    cluster.stop(follower);
    // Two seconds of silence, three until the deadline, and something for a busy machine.
    let ended = within(&mut *watch, Duration::from_secs(9));
    assert!(matches!(ended, Some(Err(MetastoreError::Unavailable(_)))), "{ended:?}");
    let mut watch = block_on(store.watch(b"w/", first + 1)).unwrap();
    write(&store, "w/a", "2");
    assert_eq!(values(&next(&mut *watch).unwrap()), ["2"]);
    cluster.cont(follower);
}

#[test]
fn a_watch_of_a_member_that_has_lost_the_others_ends() {
    let cluster = Cluster::start(3);
    let mut lonely = config(&cluster);
    lonely.endpoints.truncate(1);
    let store = EtcdMetastore::connect(lonely).unwrap();
    let first = write(&store, "w/a", "1");
    let mut watch = block_on(store.watch(b"w/", first + 1)).unwrap();
    cluster.stop(1);
    cluster.stop(2);
    let ended = within(&mut *watch, Duration::from_secs(15));
    assert!(matches!(ended, Some(Err(MetastoreError::Unavailable(_)))), "{ended:?}");
    cluster.cont(1);
    cluster.cont(2);
}

#[test]
fn a_follower_that_lists_again_misses_nothing() {
    let mut cluster = Cluster::start(1);
    let store = connect(&cluster);
    let follower = {
        let store = store.clone();
        std::thread::spawn(move || follow_until_done(&store))
    };
    let mut written = BTreeMap::new();
    for round in 0..3 {
        for number in 0..20 {
            let (key, value) = (format!("f/{number:02}"), format!("{round}"));
            write(&store, &key, &value);
            written.insert(key, value);
        }
        cluster.kill(0);
        cluster.restart(0);
        eventually(|| try_read(&store, "f/00").ok());
    }
    write(&store, "f/done", "yes");
    written.insert("f/done".to_string(), "yes".to_string());
    assert_eq!(follower.join().unwrap(), written);
}

/// Follows the prefix as brokers do, and returns what it has seen last of each key.
fn follow_until_done(store: &EtcdMetastore) -> BTreeMap<String, String> {
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
    let start = Instant::now();
    let mut seen = BTreeMap::new();
    while !seen.contains_key("f/done") {
        assert!(start.elapsed() < Duration::from_secs(60), "{seen:?}");
        let Ok(listing) = block_on(read_all(store, b"f/")) else {
            continue;
        };
        seen.extend(listing.items.iter().map(|item| (text(&item.key), text(&item.value))));
        let Ok(mut watch) = block_on(store.watch(b"f/", listing.revision + 1)) else {
            continue;
        };
        while !seen.contains_key("f/done") {
            match next(&mut *watch) {
                Ok(events) => seen.extend(events.iter().filter_map(|event| match event {
                    WatchEvent::Put(item) => Some((text(&item.key), text(&item.value))),
                    WatchEvent::Delete { .. } => None,
                })),
                Err(_) => break,
            }
        }
    }
    seen
}

#[test]
fn a_reader_that_is_away_while_much_happens_still_gets_it_all() {
    let cluster = Cluster::start(1);
    let store = connect(&cluster);
    let first = write(&store, "w/start", "x");
    let mut watches: Vec<_> = (0..3)
        .map(|_| block_on(store.watch(b"w/", first + 1)).unwrap())
        .collect();
    // More than a connection buffers for streams that nobody reads.
    let large = "x".repeat(500_000);
    for number in 0..20 {
        write(&store, &format!("w/{number}"), &large);
    }
    for watch in &mut watches {
        let mut count = 0;
        while count < 20 {
            count += next(&mut **watch).unwrap().len();
        }
        assert_eq!(count, 20);
    }
}

#[test]
fn the_last_handle_takes_the_thread_and_its_watches_with_it() {
    let cluster = Cluster::start(1);
    let store = connect(&cluster);
    let first = write(&store, "w/a", "1");
    let mut watch = block_on(store.watch(b"w/", first + 1)).unwrap();
    let clone = store.clone();
    drop(store);
    write(&clone, "w/a", "2");
    assert_eq!(values(&next(&mut *watch).unwrap()), ["2"]);
    // Returns once the thread has ended.
    drop(clone);
    let ended = next(&mut *watch);
    assert!(matches!(ended, Err(MetastoreError::Unavailable(_))), "{ended:?}");
}
