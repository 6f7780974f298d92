//! Faults of the store and the network, and what the caller is told.

use super::*;
use kafscale_test_s3::Gone;

fn answers(status: u16, code: &str) -> Faults {
    Faults {
        answer_before: 1.0,
        status,
        code: code.to_string(),
        ..Faults::default()
    }
}

fn always(change: impl FnOnce(&mut Faults)) -> Faults {
    let mut faults = Faults::default();
    change(&mut faults);
    faults
}

#[test]
fn slow_down_loses_nothing() {
    let fixture = server();
    fixture.fail(Kind::Put, 3, answers(503, "SlowDown"));
    with_store(fixture.config(), |store| async move {
        assert_eq!(store.create("a", body("x")).await, Ok(()));
        assert_eq!(store.get_range("a", 0..1).await.unwrap(), "x");
    });
    assert_eq!((fixture.requests(Kind::Put), fixture.done(Kind::Put)), (4, 1));
}

#[test]
fn a_store_that_stays_slow_is_unavailable() {
    let fixture = server();
    fixture.server.set_faults(answers(503, "SlowDown"));
    with_store(fixture.config(), |store| async move {
        let keys = ["a".to_string()];
        let answers = [
            store.create("a", body("x")).await.unwrap_err(),
            store.get_range("a", 0..1).await.unwrap_err(),
            store.get_suffix("a", 1).await.unwrap_err(),
            store.list("", None, 1).await.unwrap_err(),
            store.delete(&keys).await.unwrap_err(),
        ];
        for answer in answers {
            assert!(matches!(answer, StoreError::Unavailable(_)), "{answer:?}");
        }
    });
    assert_eq!(fixture.requests(Kind::Put), 5, "as often as the limits allow");
}

#[test]
fn a_create_that_failed_after_the_write_is_in_doubt_and_can_be_read_back() {
    let faults = [
        always(|faults| faults.error_after = 1.0),
        always(|faults| faults.cut_after = 1.0),
        Faults {
            delay_ms: [(Kind::Put, 3000)].into(),
            ..Faults::default()
        },
    ];
    for faults in faults {
        let fixture = server();
        fixture.fail(Kind::Put, 1, faults.clone());
        with_store(fixture.config(), move |store| async move {
            let created = store.create("a", body("mine")).await;
            assert!(
                matches!(created, Err(StoreError::OutcomeUnknown(_))),
                "{faults:?}: {created:?}"
            );
            if faults.delay_ms.is_empty() {
                assert_eq!(store.get_range("a", 0..9).await.unwrap(), "mine");
                let again = store.create("a", body("mine")).await;
                assert!(matches!(again, Err(StoreError::Conflict(_))), "{again:?}");
            }
        });
        let expected = if fixture.done(Kind::Put) == 2 { 2 } else { 1 };
        assert_eq!(
            fixture.requests(Kind::Put),
            expected,
            "no create in doubt is sent again"
        );
    }
}

#[test]
fn a_create_that_was_cut_before_the_write_is_in_doubt_too() {
    let fixture = server();
    fixture.fail(Kind::Put, 1, always(|faults| faults.cut_before = 1.0));
    with_store(fixture.config(), |store| async move {
        let created = store.create("a", body("x")).await;
        assert!(matches!(created, Err(StoreError::OutcomeUnknown(_))), "{created:?}");
        let read = store.get_range("a", 0..1).await;
        assert!(matches!(read, Err(StoreError::NotFound(_))), "{read:?}");
    });
}

#[test]
fn two_creates_at_once_that_the_store_dropped_are_tried_again() {
    let fixture = server();
    fixture.fail(Kind::Put, 1, answers(409, "ConditionalRequestConflict"));
    with_store(fixture.config(), |store| async move {
        assert_eq!(store.create("a", body("x")).await, Ok(()));
    });
}

#[test]
fn errors_keep_their_meaning() {
    let fixture = server();
    let table = [
        (answers(403, "AccessDenied"), "refused"),
        (answers(400, "InvalidRequest"), "refused"),
        (answers(404, "NoSuchBucket"), "refused"),
        (answers(301, "PermanentRedirect"), "refused"),
        (answers(507, "InsufficientStorage"), "full"),
        (answers(403, "QuotaExceeded"), "full"),
        (answers(429, "TooManyRequests"), "unavailable"),
        (answers(500, "InternalError"), "unknown"),
        (answers(502, "BadGateway"), "unknown"),
        (answers(504, "GatewayTimeout"), "unknown"),
    ];
    for (at, (faults, expected)) in table.into_iter().enumerate() {
        fixture.server.set_faults(faults.clone());
        with_store(fixture.config(), move |store| async move {
            let created = store.create(&format!("key/{at}"), body("x")).await;
            let told = match created {
                Err(StoreError::Refused(_)) => "refused",
                Err(StoreError::Full(_)) => "full",
                Err(StoreError::Unavailable(_)) => "unavailable",
                Err(StoreError::OutcomeUnknown(_)) => "unknown",
                other => panic!("{faults:?}: {other:?}"),
            };
            assert_eq!(told, expected, "{faults:?}");
        });
    }
}

#[test]
fn reads_listings_and_deletes_get_over_a_fault() {
    let faults = [
        answers(500, "InternalError"),
        answers(503, "SlowDown"),
        always(|faults| faults.cut_before = 1.0),
        always(|faults| faults.cut_after = 1.0),
        always(|faults| faults.cut_body = 1.0),
        always(|faults| faults.error_after = 1.0),
    ];
    for faults in faults {
        let fixture = server();
        with_store(fixture.config(), |store| async move {
            store.create("a", body("0123456789")).await.unwrap();
        });
        for kind in [Kind::Get, Kind::List, Kind::Delete] {
            fixture.fail(kind, 2, faults.clone());
            with_store(fixture.config(), move |store| async move {
                match kind {
                    Kind::Get => assert_eq!(store.get_range("a", 2..5).await.unwrap(), "234"),
                    Kind::List => assert_eq!(store.list("", None, 9).await.unwrap().objects.len(), 1),
                    _ => assert_eq!(store.delete(&["a".to_string()]).await, Ok(())),
                }
            });
        }
    }
}

#[test]
fn a_delete_in_doubt_says_so() {
    let fixture = server();
    fixture.fail(Kind::Delete, 100, always(|faults| faults.error_after = 1.0));
    with_store(fixture.config(), |store| async move {
        for key in ["plain", "line\nbreak"] {
            let deleted = store.delete(&[key.to_string()]).await;
            assert!(matches!(deleted, Err(StoreError::OutcomeUnknown(_))), "{deleted:?}");
        }
    });
}

#[test]
fn a_store_that_hangs_is_given_up_on_in_time() {
    let fixture = server();
    let config = fixture.config();
    fixture
        .server
        .set_faults(always(|faults| faults.gone = Some(Gone::Hang)));
    with_store(config, |store| async move {
        let started = Instant::now();
        let created = store.create("a", body("x")).await;
        assert!(matches!(created, Err(StoreError::OutcomeUnknown(_))), "{created:?}");
        assert!(started.elapsed() < Duration::from_secs(3), "{:?}", started.elapsed());
        let read = store.get_range("a", 0..1).await;
        assert!(matches!(read, Err(StoreError::Unavailable(_))), "{read:?}");
        assert!(started.elapsed() < Duration::from_secs(9), "{:?}", started.elapsed());
    });
}

#[test]
fn a_store_that_comes_back_is_used_again() {
    let fixture = server();
    fixture.server.set_faults(always(|faults| {
        faults.gone = Some(Gone::Hang);
        faults.gone_ms = Some(500);
    }));
    with_store(fixture.config(), |store| async move {
        let read = store.get_range("a", 0..1).await;
        assert!(matches!(read, Err(StoreError::NotFound(_))), "{read:?}");
    });
}

#[test]
fn a_port_that_nobody_listens_on_means_not_applied() {
    let fixture = server();
    let config = fixture.config();
    drop(fixture);
    with_store(config, |store| async move {
        let created = store.create("a", body("x")).await;
        assert!(matches!(created, Err(StoreError::Unavailable(_))), "{created:?}");
    });
}

#[test]
fn a_name_that_does_not_resolve_means_not_applied() {
    let mut config = server().config();
    config.bucket.endpoint = Some("http://no-such-host.invalid:9000".to_string());
    with_store(config, |store| async move {
        let created = store.create("a", body("x")).await;
        assert!(matches!(created, Err(StoreError::Unavailable(_))), "{created:?}");
    });
}

#[test]
fn a_store_without_conditional_writes_fails_the_probe() {
    let fixture = server();
    fixture
        .server
        .set_faults(always(|faults| faults.ignore_conditions = true));
    with_store(fixture.config(), |store| async move {
        let probed = probe(&store, "default").await;
        assert!(
            matches!(&probed, Err(StoreError::Refused(why)) if why.contains("If-None-Match")),
            "{probed:?}"
        );
        assert_eq!(
            store.list("", None, 1).await,
            Ok(ListPage::default()),
            "the probe cleans up"
        );
    });
}

#[test]
fn a_missing_bucket_and_wrong_keys_are_refused_with_the_reason() {
    let fixture = server();
    let mut missing = fixture.config();
    missing.bucket.name = "missing".to_string();
    let good = fixture.config();
    on_shard(move || async move {
        let cases = [
            (missing, keys(), "NoSuchBucket"),
            (
                good.clone(),
                CredentialsHandle::fixed("test", "wrong"),
                "SignatureDoesNotMatch",
            ),
            (good, CredentialsHandle::fixed("nobody", "secret"), "InvalidAccessKeyId"),
        ];
        for (config, keys, code) in cases {
            let store = S3Store::new(config, keys).unwrap();
            let probed = probe(&store, "default").await;
            assert!(
                matches!(&probed, Err(StoreError::Refused(why)) if why.contains(code)),
                "{code}: {probed:?}"
            );
            let read = store.get_range("a", 0..1).await;
            assert!(
                matches!(&read, Err(StoreError::Refused(why)) if why.contains(code)),
                "{code}: {read:?}"
            );
        }
    });
}

#[test]
fn a_bit_that_flipped_on_the_way_is_noticed() {
    let fixture = server();
    let corrupt = || always(|faults| faults.corrupt_body = 1.0);
    with_store(fixture.config(), |store| async move {
        store.create("a", body("0123456789")).await.unwrap();
    });
    fixture.fail(Kind::Get, 2, corrupt());
    with_store(fixture.config(), |store| async move {
        assert_eq!(store.get_range("a", 0..u64::MAX).await.unwrap(), "0123456789");
    });
    fixture.fail(Kind::Get, 100, corrupt());
    with_store(fixture.config(), |store| async move {
        let read = store.get_suffix("a", 100).await;
        assert!(
            matches!(&read, Err(StoreError::Unavailable(why)) if why.contains("checksum")),
            "{read:?}"
        );
    });
}

#[test]
fn a_server_that_closes_after_each_answer_fails_no_read() {
    let fixture = server();
    with_store(fixture.config(), |store| async move {
        store.create("a", body("x")).await.unwrap();
    });
    fixture
        .server
        .set_faults(always(|faults| faults.close_after_answer = true));
    with_store(fixture.config(), |store| async move {
        for at in 0..40 {
            assert_eq!(store.get_range("a", 0..1).await.unwrap(), "x");
            // The server closes after 20 ms: before, at, and after that.
            net::sleep(Duration::from_millis(15 + at % 10)).await;
        }
    });
}

#[test]
fn a_handshake_that_never_ends_means_not_applied() {
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let mut config = server().config();
    config.bucket.endpoint = Some(format!("https://{}", silent.local_addr().unwrap()));
    config.limits.attempts_max = 2;
    with_store(config, |store| async move {
        let started = Instant::now();
        let created = store.create("a", body("x")).await;
        assert!(matches!(created, Err(StoreError::Unavailable(_))), "{created:?}");
        assert!(started.elapsed() < Duration::from_secs(2), "{:?}", started.elapsed());
    });
}

/// What the broker does with a write-ahead object: again until it is known who has the name.
async fn win(store: &S3Store, key: &str, content: &Bytes) {
    for _ in 0..100 {
        match store.create(key, vec![content.clone()]).await {
            Ok(()) => return,
            Err(StoreError::Conflict(_)) => {
                // Nobody else writes here, so it can only be an earlier attempt of this one.
                if let Ok(read) = store.get_range(key, 0..u64::MAX).await {
                    assert!(read == *content, "{key} holds what nobody wrote");
                    return;
                }
            }
            Err(StoreError::Unavailable(_) | StoreError::OutcomeUnknown(_)) => {}
            Err(other) => panic!("{key}: {other:?}"),
        }
    }
    panic!("{key} was never won");
}

#[test]
fn amid_all_faults_every_create_ends_as_its_own() {
    let fixture = server();
    fixture.server.set_faults(Faults {
        answer_before: 0.1,
        error_after: 0.1,
        cut_after: 0.1,
        cut_before: 0.1,
        cut_body: 0.1,
        corrupt_body: 0.05,
        conflict_after: 0.05,
        ..Faults::default()
    });
    with_store(fixture.config(), |store| async move {
        let content = |at: usize| Bytes::from(format!("{at}/").repeat(1 + at * 37));
        let keys: Vec<String> = (0..200).map(|at| format!("key/{at:03}")).collect();
        let contents: Vec<Bytes> = (0..keys.len()).map(content).collect();
        let all = keys.iter().zip(&contents);
        futures::future::join_all(all.map(|(key, content)| win(&store, key, content))).await;
    });
    fixture.server.set_faults(Faults::default());
    with_store(fixture.config(), |store| async move {
        let page = store.list("key/", None, 1000).await.unwrap();
        assert_eq!(page.objects.len(), 200);
        for (at, object) in page.objects.iter().enumerate() {
            let expected = format!("{at}/").repeat(1 + at * 37);
            assert!(
                store.get_range(&object.key, 0..u64::MAX).await.unwrap() == expected,
                "{}",
                object.key
            );
        }
    });
}
