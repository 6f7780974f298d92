//! The store against an S3 server that is not ours: `make second-s3` starts one and runs these.
//!
//! Where it is, they are told by `TEST_S3_ENDPOINT`, `TEST_S3_BUCKET`, `TEST_S3_ACCESS_KEY` and `TEST_S3_SECRET_KEY`. Each
//! works below a prefix of its own, so they run at the same time.

use super::*;

fn told(name: &str) -> String {
    std::env::var(name).unwrap_or_else(|_| panic!("{name} is not set: see `make second-s3`"))
}

fn config() -> S3Config {
    S3Config {
        path_style: true,
        ..S3Config::new(Bucket {
            name: told("TEST_S3_BUCKET"),
            region: "us-east-1".to_string(),
            endpoint: Some(told("TEST_S3_ENDPOINT")),
            connect_to: Vec::new(),
        })
    }
}

fn with_bucket<F: Future<Output = ()> + 'static>(work: impl FnOnce(S3Store) -> F + Send + 'static) {
    on_shard(move || {
        let keys = CredentialsHandle::fixed(&told("TEST_S3_ACCESS_KEY"), &told("TEST_S3_SECRET_KEY"));
        work(S3Store::new(config(), keys).unwrap())
    });
}

/// SeaweedFS makes a folder of `a` for `a/b`, and from then on answers a create of `a` as if there were such an object
/// (412), though a read of it is answered by 404.
#[test]
#[ignore = "needs another S3 server: make second-s3"]
fn another_server_keeps_the_contract() {
    with_bucket(|store| async move { contract::check_all_but_folders(&store).await });
}

#[test]
#[ignore = "needs another S3 server: make second-s3"]
fn another_server_passes_the_probe() {
    with_bucket(|store| async move {
        assert_eq!(probe(&store, "probed").await, Ok(()));
        assert_eq!(store.list("probed/", None, 10).await, Ok(ListPage::default()));
    });
}

#[test]
#[ignore = "needs another S3 server: make second-s3"]
fn another_server_lists_and_deletes_more_keys_than_one_request_takes() {
    with_bucket(|store| async move { list_and_delete_many(&store).await });
}

/// Otherwise the others would say nothing of our signatures.
#[test]
#[ignore = "needs another S3 server: make second-s3"]
fn another_server_refuses_who_has_another_secret() {
    on_shard(|| async {
        let keys = CredentialsHandle::fixed(&told("TEST_S3_ACCESS_KEY"), "another secret");
        let store = S3Store::new(config(), keys).unwrap();
        let answer = store.create("stranger/a", body("x")).await;
        assert!(
            matches!(&answer, Err(StoreError::Refused(why)) if why.contains("403")),
            "{answer:?}"
        );
        let answer = store.get_range("stranger/a", 0..1).await;
        assert!(
            matches!(&answer, Err(StoreError::Refused(why)) if why.contains("403")),
            "{answer:?}"
        );
    });
}
