//! The store on a real executor, against a real server over real HTTP.

mod answers;
mod connections;
mod elsewhere;
mod faults;

use super::*;
use crate::object_store::contract;
use futures::future::join_all;
use glommio::{LocalExecutorBuilder, Placement};
use kafscale_test_s3::{Config, Faults, Kind, Server};
use std::future::Future;
use tempfile::TempDir;

/// A server and its directory, which goes with it.
struct Fixture {
    server: Server,
    _root: TempDir,
}

fn server() -> Fixture {
    server_with(|_| {})
}

fn server_with(change: impl FnOnce(&mut Config)) -> Fixture {
    let root = tempfile::tempdir().unwrap();
    let mut config = Config::new(root.path());
    change(&mut config);
    let server = Server::start(&config).unwrap();
    Fixture { server, _root: root }
}

impl Fixture {
    /// How to use the bucket, with little patience.
    fn config(&self) -> S3Config {
        S3Config {
            path_style: true,
            limits: impatient(),
            ..S3Config::new(self.bucket("bucket"))
        }
    }

    fn bucket(&self, name: &str) -> Bucket {
        Bucket {
            name: name.to_string(),
            region: "us-east-1".to_string(),
            endpoint: Some(self.server.endpoint()),
            connect_to: Vec::new(),
        }
    }

    /// Faults that the next `times` requests of `kind` meet.
    fn fail(&self, kind: Kind, times: u64, faults: Faults) {
        self.server.set_faults(Faults {
            kinds: vec![kind],
            times: Some(times),
            ..faults
        });
    }

    fn requests(&self, kind: Kind) -> u64 {
        self.server.counters().of(kind).requests
    }

    fn done(&self, kind: Kind) -> u64 {
        self.server.counters().of(kind).done
    }
}

fn impatient() -> Limits {
    Limits {
        connect_timeout: Duration::from_millis(500),
        request_timeout: Duration::from_millis(1000),
        call_timeout: Duration::from_secs(4),
        backoff_first: Duration::from_millis(5),
        backoff_max: Duration::from_millis(50),
        ..Limits::default()
    }
}

fn keys() -> CredentialsHandle {
    CredentialsHandle::fixed("test", "secret")
}

/// Runs on an executor of its own.
fn on_shard<F: Future<Output = ()> + 'static>(work: impl FnOnce() -> F + Send + 'static) {
    let executor = LocalExecutorBuilder::new(Placement::Unbound).io_memory(1 << 20);
    executor
        .spawn(move || async move { work().await })
        .unwrap()
        .join()
        .unwrap();
}

/// Runs with a store on an executor of its own.
fn with_store<F: Future<Output = ()> + 'static>(config: S3Config, work: impl FnOnce(S3Store) -> F + Send + 'static) {
    on_shard(move || {
        let store = S3Store::new(config, keys()).unwrap();
        work(store)
    });
}

fn body(text: &'static str) -> Vec<Bytes> {
    vec![Bytes::from_static(text.as_bytes())]
}

#[test]
fn s3_keeps_the_contract() {
    let fixture = server();
    with_store(
        fixture.config(),
        |store| async move { contract::check_all(&store).await },
    );
}

#[test]
fn s3_keeps_the_contract_with_the_bucket_in_the_host() {
    let fixture = server();
    let mut config = fixture.config();
    config.path_style = false;
    config.bucket.endpoint = Some(format!("http://localhost:{}", fixture.server.addr().port()));
    config.bucket.connect_to = vec![fixture.server.addr()];
    with_store(config, |store| async move { contract::check_all(&store).await });
}

#[test]
fn a_sound_bucket_passes_the_probe() {
    let fixture = server();
    with_store(fixture.config(), |store| async move {
        assert_eq!(probe(&store, "default").await, Ok(()));
        let left = store.list("", None, 10).await;
        assert_eq!(left, Ok(ListPage::default()));
    });
}

#[test]
fn sixteen_mebibytes_in_parts_come_back_byte_for_byte() {
    let fixture = server();
    with_store(fixture.config(), |store| async move {
        let parts: Vec<Bytes> = (0..64u32)
            .map(|part| {
                (0..256u32 << 10)
                    .map(|at| (at.wrapping_mul(2654435761) >> 24) as u8 ^ part as u8)
                    .collect()
            })
            .collect();
        let whole = parts.concat();
        assert_eq!(whole.len(), 16 << 20);
        store.create("large/a", parts).await.unwrap();
        assert!(store.get_range("large/a", 0..u64::MAX).await.unwrap() == whole);
        assert!(store.get_range("large/a", 5..(16 << 20) - 5).await.unwrap() == whole[5..whole.len() - 5]);
    });
}

/// More keys than one request takes, below `many/`.
async fn list_and_delete_many(store: &S3Store) {
    let keys: Vec<String> = (0..1100).map(|at| format!("many/{at:05}")).collect();
    for some in keys.chunks(50) {
        let created = join_all(some.iter().map(|key| store.create(key, body("x")))).await;
        assert!(created.iter().all(Result::is_ok), "{created:?}");
    }
    let first = store.list("many/", None, 5000).await.unwrap();
    assert_eq!((first.objects.len(), first.more), (1000, true));
    let rest = store.list("many/", Some(&first.objects[999].key), 5000).await.unwrap();
    assert_eq!((rest.objects.len(), rest.more), (100, false));
    store.delete(&keys).await.unwrap();
    assert_eq!(store.list("many/", None, 10).await, Ok(ListPage::default()));
}

#[test]
fn more_keys_than_one_request_takes_are_listed_and_deleted() {
    let fixture = server();
    with_store(
        fixture.config(),
        |store| async move { list_and_delete_many(&store).await },
    );
    assert_eq!(fixture.requests(Kind::Delete), 2);
}

#[test]
fn listings_know_when_objects_were_made() {
    let fixture = server();
    with_store(fixture.config(), |store| async move {
        store.create("a", body("x")).await.unwrap();
        let page = store.list("", None, 1).await.unwrap();
        let now = std::time::SystemTime::now()
            .duration_since(std::time::UNIX_EPOCH)
            .unwrap();
        let age = now.as_millis() as i64 - page.objects[0].modified_ms;
        assert!((-1000..60_000).contains(&age), "{age} ms");
    });
}
