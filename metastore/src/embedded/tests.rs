use super::*;
use crate::contract::{check_all, Harness};
use crate::keys::{counter_key, CountRecord};
use crate::store::{Compare, KeyValue, LeaseId, Metastore, Op, Revision, Txn, WatchEvent};
use crashes::NO_FLUSH;
use futures::executor::block_on;
use futures::future::join_all;
use kafscale_test_disk::{Faults, TestDisk};
use proptest::prelude::*;
use std::rc::Rc;
use std::time::{Duration, Instant};

mod crashes;

/// Opens the store on a simulated disk.
fn open_on(directory: &Path, disk: &TestDisk) -> Result<EmbeddedMetastore, OpenError> {
    let disk = disk.clone();
    let open_file = move |_: &Path| {
        let path = Path::new("/metastore");
        let file = disk.open(path, false).or_else(|_| disk.create(path, false))?;
        disk.sync_directory(Path::new("/"))?;
        Ok(Box::new(SimulatedFile(file)) as Box<dyn disk::StoreFile>)
    };
    EmbeddedMetastore::open_with(directory, Box::new(open_file), Box::new(|_| {}))
}

#[derive(Debug)]
struct SimulatedFile(kafscale_test_disk::TestFile);

impl disk::StoreFile for SimulatedFile {
    fn drop_cache(&self) -> std::io::Result<()> {
        self.0.drop_cache();
        Ok(())
    }
}

impl redb::StorageBackend for SimulatedFile {
    fn len(&self) -> std::io::Result<u64> {
        Ok(self.0.len())
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> std::io::Result<()> {
        match self.0.read_at(out, offset)? {
            read if read == out.len() => Ok(()),
            _ => Err(std::io::ErrorKind::UnexpectedEof.into()),
        }
    }

    fn set_len(&self, len: u64) -> std::io::Result<()> {
        match len > self.0.len() {
            true => self.0.reserve(len),
            false => self.0.set_len(len),
        }
    }

    fn sync_data(&self) -> std::io::Result<()> {
        self.0.sync()
    }

    fn write(&self, offset: u64, data: &[u8]) -> std::io::Result<()> {
        self.0.write_at(data, offset)
    }
}

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
        EmbeddedMetastore::open(directory.path(), |why| panic!("{why}")).unwrap(),
    )));
}

fn put(key: &str, value: &str, lease: Option<LeaseId>) -> Op {
    Op::Put {
        key: Bytes::copy_from_slice(key.as_bytes()),
        value: Bytes::copy_from_slice(value.as_bytes()),
        lease,
    }
}

fn write(store: &EmbeddedMetastore, ops: Vec<Op>) -> Result<Revision, MetastoreError> {
    block_on(store.txn(Txn {
        compares: Vec::new(),
        ops,
    }))
    .map(|outcome| outcome.revision)
}

fn read(store: &EmbeddedMetastore, key: &str) -> Option<KeyValue> {
    block_on(store.get(key.as_bytes())).unwrap()
}

#[test]
fn a_reopened_store_has_everything_but_leases() {
    let directory = tempfile::tempdir().unwrap();
    let store = EmbeddedMetastore::open(directory.path(), |why| panic!("{why}")).unwrap();
    let lease = block_on(store.lease_grant(60_000)).unwrap();
    write(
        &store,
        vec![put("a", "1", None), put("b", "1", None), put("c", "1", None)],
    )
    .unwrap();
    write(
        &store,
        vec![put("a", "2", None), put("b", "2", Some(lease)), Op::Delete("c".into())],
    )
    .unwrap();
    let revision = write(&store, vec![put("d", "1", Some(lease))]).unwrap();
    let before = read(&store, "a");
    drop(store);
    let store = EmbeddedMetastore::open(directory.path(), |why| panic!("{why}")).unwrap();
    assert_eq!(read(&store, "a"), before);
    assert_eq!(
        [read(&store, "b"), read(&store, "c"), read(&store, "d")],
        [None, None, None]
    );
    let watch = |from| block_on(store.watch(b"", from)).map(|_| ());
    assert_eq!(
        watch(revision),
        Err(MetastoreError::Compacted(revision)),
        "the past is not kept"
    );
    assert_eq!(watch(revision + 1), Ok(()));
    assert_eq!(
        write(&store, vec![put("e", "1", None)]),
        Ok(revision + 1),
        "revisions go on"
    );
    assert_eq!(
        block_on(store.lease_keep_alive(lease)),
        Err(MetastoreError::LeaseGone(lease))
    );
    assert!(
        block_on(store.lease_grant(1)).unwrap() > lease,
        "no lease id comes twice"
    );
}

#[test]
fn a_lease_expires_without_any_request() {
    let directory = tempfile::tempdir().unwrap();
    let store = EmbeddedMetastore::open(directory.path(), |why| panic!("{why}")).unwrap();
    let lease = block_on(store.lease_grant(50)).unwrap();
    let revision = write(&store, vec![put("a", "1", Some(lease))]).unwrap();
    let mut watch = block_on(store.watch(b"", revision + 1)).unwrap();
    let start = Instant::now();
    let gone = block_on(watch.next()).unwrap();
    assert_eq!(
        gone,
        [WatchEvent::Delete {
            key: "a".into(),
            revision: revision + 1
        }]
    );
    assert!(start.elapsed() < Duration::from_secs(5));
}

#[test]
fn a_second_open_is_refused_until_the_first_is_closed() {
    let directory = tempfile::tempdir().unwrap();
    let store = EmbeddedMetastore::open(directory.path(), |why| panic!("{why}")).unwrap();
    let second = EmbeddedMetastore::open(directory.path(), |why| panic!("{why}"))
        .err()
        .unwrap();
    assert!(matches!(second, OpenError::Locked(_)), "{second}");
    let clone = store.clone();
    drop(store);
    write(&clone, vec![put("a", "1", None)]).unwrap();
    drop(clone);
    EmbeddedMetastore::open(directory.path(), |why| panic!("{why}")).unwrap();
}

#[test]
fn what_cannot_be_opened_says_why() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("metastore.redb");
    std::fs::write(
        &path,
        b"not a metastore, but long enough to be mistaken for one".repeat(200),
    )
    .unwrap();
    let error = EmbeddedMetastore::open(directory.path(), |why| panic!("{why}"))
        .err()
        .unwrap();
    assert!(matches!(error, OpenError::Corrupt { .. }), "{error:?}");
    // The data directory is a file.
    let error = EmbeddedMetastore::open(&path, |why| panic!("{why}")).err().unwrap();
    assert!(
        matches!(error, OpenError::Io { .. }) && error.to_string().contains("metastore.redb"),
        "{error:?}"
    );
}

#[test]
fn a_damaged_file_is_refused_unless_the_damage_is_where_nothing_is() {
    let directory = tempfile::tempdir().unwrap();
    let store = EmbeddedMetastore::open(directory.path(), |why| panic!("{why}")).unwrap();
    for number in 0..200 {
        write(&store, vec![put(&format!("key-{number}"), &"v".repeat(300), None)]).unwrap();
    }
    drop(store);
    let path = directory.path().join("metastore.redb");
    let whole = std::fs::read(&path).unwrap();
    let damages = (0..whole.len()).step_by(1_021).take(600).map(|at| {
        let mut damaged = whole.clone();
        damaged[at..(at + 8).min(whole.len())].fill(0xa5);
        damaged
    });
    let cuts = [0, 1, 100, 4_096, 50_000, whole.len() - 1].map(|length| whole[..length].to_vec());
    let headers = (0..320).map(|at| {
        let mut damaged = whole.clone();
        damaged[at] ^= 0x55;
        damaged
    });
    let (mut refused, mut opened) = (0, 0);
    for damaged in damages.chain(cuts).chain(headers) {
        std::fs::write(&path, &damaged).unwrap();
        match EmbeddedMetastore::open(directory.path(), |why| panic!("{why}")) {
            Ok(store) => {
                opened += 1;
                // An empty file is a new one; any other has everything.
                let found = (0..200)
                    .filter(|number| read(&store, &format!("key-{number}")).is_some())
                    .count();
                assert!(found == 200 || damaged.is_empty(), "{found} keys");
            }
            Err(OpenError::Corrupt { .. } | OpenError::Io { .. } | OpenError::WrongVersion { .. }) => refused += 1,
            Err(error) => panic!("{error}"),
        }
    }
    println!("{refused} refused, {opened} opened");
}

#[test]
fn a_file_of_another_version_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    drop(EmbeddedMetastore::open(directory.path(), |why| panic!("{why}")).unwrap());
    let database = redb::Database::create(directory.path().join("metastore.redb")).unwrap();
    let txn = database.begin_write().unwrap();
    let numbers = redb::TableDefinition::<&str, u64>::new("numbers");
    txn.open_table(numbers).unwrap().insert("format", 9).unwrap();
    txn.commit().unwrap();
    drop(database);
    let error = EmbeddedMetastore::open(directory.path(), |why| panic!("{why}"))
        .err()
        .unwrap();
    assert!(matches!(error, OpenError::WrongVersion { .. }), "{error:?}");
    assert!(error.to_string().contains("format 9"), "{error}");
}

#[test]
fn concurrent_callers_never_lose_an_increment() {
    let directory = tempfile::tempdir().unwrap();
    let store = EmbeddedMetastore::open(directory.path(), |why| panic!("{why}")).unwrap();
    let threads: Vec<_> = (0..4)
        .map(|_| {
            let store = store.clone();
            std::thread::spawn(move || {
                let one = || crate::counters::allocate(&store, "n", 1);
                let numbers = block_on(join_all((0..25).map(|_| one())));
                numbers.into_iter().map(Result::unwrap).collect::<Vec<_>>()
            })
        })
        .collect();
    let mut numbers: Vec<_> = threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect();
    numbers.sort_unstable();
    assert!(numbers.into_iter().eq(1..=100));
    assert_eq!(
        read(&store, "/kafscale/v1/counters/n").unwrap().value,
        CountRecord { count: 101 }.encode()
    );
    assert_eq!(counter_key("n"), "/kafscale/v1/counters/n");
}

#[test]
fn a_full_disk_is_never_answered_with_ok() {
    for blocks in 0..12 {
        let directory = tempfile::tempdir().unwrap();
        let disk = TestDisk::new(blocks);
        let store = open_on(directory.path(), &disk).unwrap();
        let revision = write(&store, vec![put("a", "before", None)]).unwrap();
        let mut watch = block_on(store.watch(b"", revision + 1)).unwrap();
        disk.set_capacity(disk.used() + blocks * 4096);
        let mut acknowledged = "before".to_string();
        let failure = (0..50).find_map(|number| {
            let value = format!("{number}-{}", "x".repeat(5_000 * (number + 1)));
            match write(&store, vec![put("a", &value, None), put("b", &value, None)]) {
                Ok(_) => {
                    acknowledged = value;
                    None
                }
                Err(error) => Some((value, error)),
            }
        });
        let (attempted, error) = failure.expect("the disk is full at some point");
        let text = error.to_string();
        assert!(text.contains("space"), "{text}");
        disk.set_capacity(u64::MAX);
        std::thread::sleep(Duration::from_millis(550));
        let found = read(&store, "a").unwrap().value;
        match error {
            MetastoreError::Unavailable(_) => assert!(found == acknowledged, "not applied"),
            MetastoreError::OutcomeUnknown(_) => assert!(found == acknowledged || found == attempted),
            error => panic!("{error}"),
        }
        assert!(
            read(&store, "b").is_none_or(|item| item.value == found),
            "both keys or none"
        );
        write(&store, vec![put("a", "after", None)]).expect("there is space again");
        // The watch was told all that happened, or that it does not know: it never just goes on.
        let end = (0..60).find_map(|_| block_on(watch.next()).err());
        assert!(matches!(end, Some(MetastoreError::Unavailable(_))));
    }
}

#[test]
fn after_a_failed_sync_nothing_is_served_until_another_process_opens_the_store() {
    let directory = tempfile::tempdir().unwrap();
    let disk = TestDisk::new(1);
    let store = open_on(directory.path(), &disk).unwrap();
    write(&store, vec![put("a", "1", None)]).unwrap();
    disk.set_faults(NO_FLUSH);
    assert!(write(&store, vec![put("a", "2", None)]).is_err());
    disk.set_faults(Faults::default());
    std::thread::sleep(Duration::from_millis(550));
    assert!(block_on(store.get(b"a")).is_err(), "nothing is read that could be lost");
    assert!(block_on(store.lease_grant(1)).is_err());
    assert!(write(&store, vec![put("b", "1", None)]).is_err());
    drop(store);
    let store = open_on(directory.path(), &disk).unwrap();
    assert!(read(&store, "a").is_some());
    write(&store, vec![put("b", "1", None)]).unwrap();
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn what_was_acknowledged_survives_a_power_loss(writes in 1u64..40, stop in 0u32..8, seed: u64) {
        let directory = tempfile::tempdir().unwrap();
        let disk = TestDisk::new(seed);
        let store = open_on(directory.path(), &disk).unwrap();
        for number in 1..=writes {
            let text = number.to_string();
            write(&store, vec![put("a", &text, None), put("b", &text, None), put(&text, &text, None)]).unwrap();
        }
        // One more dies on the way, after some of its writes.
        disk.set_faults(Faults { writes_left: Some(stop), ..Faults::default() });
        let text = (writes + 1).to_string();
        let last = write(&store, vec![put("a", &text, None), put("b", &text, None)]);
        let disk = disk.after_power_cut();
        drop(store);
        let store = open_on(directory.path(), &disk).unwrap();
        let found = read(&store, "a").unwrap().value;
        prop_assert_eq!(&read(&store, "b").unwrap().value, &found);
        let acknowledged = if last.is_ok() { text.clone() } else { writes.to_string() };
        prop_assert!(found == acknowledged || found == text);
        for number in 1..=writes {
            prop_assert!(read(&store, &number.to_string()).is_some());
        }
        let compares = vec![Compare::Value("a".into(), found)];
        let outcome = block_on(store.txn(Txn { compares, ops: Vec::new() })).unwrap();
        prop_assert!(outcome.succeeded);
    }
}
