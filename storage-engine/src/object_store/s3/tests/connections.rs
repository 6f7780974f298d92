//! Connections, credentials, TLS and the replica.

use super::*;
use futures::future::join_all;
use std::time::SystemTime;

#[test]
fn connections_are_used_again() {
    let fixture = server();
    with_store(fixture.config(), |store| async move {
        for at in 0..20 {
            store.create(&format!("key/{at}"), body("x")).await.unwrap();
            store.get_range(&format!("key/{at}"), 0..1).await.unwrap();
            let missing = store.get_range("missing", 0..1).await;
            assert!(matches!(missing, Err(StoreError::NotFound(_))));
        }
        store.list("key/", None, 5).await.unwrap();
    });
    assert_eq!(fixture.server.counters().connections, 1);
}

#[test]
fn many_creates_at_once_all_arrive_over_few_connections() {
    let fixture = server();
    let mut config = fixture.config();
    config.limits.concurrency = 7;
    fixture.server.set_faults(Faults {
        delay_ms: [(Kind::Put, 5)].into(),
        ..Faults::default()
    });
    with_store(config, |store| async move {
        let keys: Vec<String> = (0..300).map(|at| format!("key/{at:03}")).collect();
        let created = join_all(keys.iter().map(|key| {
            let parts = vec![Bytes::copy_from_slice(key.as_bytes()), Bytes::from(vec![7; 20_000])];
            store.create(key, parts)
        }));
        assert!(created.await.iter().all(Result::is_ok));
        let read = join_all(keys.iter().map(|key| store.get_range(key, 0..7))).await;
        for (key, read) in keys.iter().zip(read) {
            assert_eq!(read.unwrap(), key);
        }
    });
    let counters = fixture.server.counters();
    assert!(counters.connections <= 7, "{counters:?}");
    assert_eq!(counters.concurrent_max, 7);
}

#[test]
fn idle_connections_are_few() {
    let fixture = server();
    let mut config = fixture.config();
    config.limits.idle_connections_max = 2;
    let server = std::sync::Arc::new(fixture);
    let looks = server.clone();
    with_store(config, move |store| async move {
        let keys: Vec<String> = (0..20).map(|at| format!("key/{at}")).collect();
        join_all(keys.iter().map(|key| store.create(key, body("x")))).await;
        net::sleep(Duration::from_millis(200)).await;
        assert!(looks.server.counters().open <= 2, "{:?}", looks.server.counters());
    });
}

#[test]
fn connections_that_the_server_closed_are_replaced() {
    let fixture = std::sync::Arc::new(server());
    let config = fixture.config();
    let server = fixture.clone();
    with_store(config, move |store| async move {
        for round in 0..20 {
            store.create(&format!("key/{round}"), body("x")).await.unwrap();
            server.server.close_idle_connections();
            // Sometimes it is noticed before the next request, sometimes not.
            net::sleep(Duration::from_millis(round % 4)).await;
            assert_eq!(store.get_range(&format!("key/{round}"), 0..1).await.unwrap(), "x");
            net::sleep(Duration::from_millis(5)).await;
        }
    });
}

#[test]
fn old_connections_are_not_used() {
    let fixture = server();
    let mut config = fixture.config();
    config.limits.idle_timeout = Duration::from_millis(20);
    with_store(config, |store| async move {
        for _ in 0..3 {
            store.list("", None, 1).await.unwrap();
            net::sleep(Duration::from_millis(50)).await;
        }
    });
    assert_eq!(fixture.server.counters().connections, 3);
}

#[test]
fn a_request_that_finds_no_permit_in_time_was_not_applied() {
    let fixture = server();
    let mut config = fixture.config();
    config.limits.concurrency = 1;
    config.limits.call_timeout = Duration::from_millis(300);
    with_store(config, |store| async move {
        let permit = store.0.permit(Duration::from_secs(1)).await.unwrap();
        let created = store.create("a", body("x")).await;
        assert!(matches!(created, Err(StoreError::Unavailable(_))), "{created:?}");
        drop(permit);
        assert_eq!(store.list("", None, 1).await, Ok(ListPage::default()));
    });
    assert_eq!(fixture.requests(Kind::Put), 0);
}

#[test]
fn credentials_may_change_at_any_time() {
    let fixture = server();
    let config = fixture.config();
    let server = std::sync::Arc::new(fixture);
    let changes = server.clone();
    on_shard(move || async move {
        let handle = keys();
        let store = S3Store::new(config, handle.clone()).unwrap();
        store.create("a", body("x")).await.unwrap();
        changes.server.set_key("next", "secret-2");
        let refused = store.create("b", body("x")).await;
        assert!(matches!(refused, Err(StoreError::Refused(_))), "{refused:?}");
        handle.set((*CredentialsHandle::fixed("next", "secret-2").get()).clone());
        assert_eq!(store.create("b", body("x")).await, Ok(()));
    });
}

#[test]
fn expired_credentials_are_not_even_sent() {
    let fixture = server();
    let config = fixture.config();
    on_shard(move || async move {
        let handle = CredentialsHandle::new(Credentials {
            expires: Some(SystemTime::now() - Duration::from_secs(1)),
            ..(*keys().get()).clone()
        });
        let store = S3Store::new(config, handle).unwrap();
        let created = store.create("a", body("x")).await;
        assert!(
            matches!(&created, Err(StoreError::Unavailable(why)) if why.contains("expired")),
            "{created:?}"
        );
    });
    assert_eq!(fixture.server.counters().connections, 0);
}

/// A server with a certificate of a CA of its own, and the CA's file.
fn https(names: &[&str]) -> (Fixture, tempfile::NamedTempFile) {
    use std::io::Write;
    let ca_key = rcgen::KeyPair::generate().unwrap();
    let mut ca = rcgen::CertificateParams::new(Vec::new()).unwrap();
    ca.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let ca_pem = ca.self_signed(&ca_key).unwrap().pem();
    let issuer = rcgen::Issuer::new(ca, ca_key);
    let key = rcgen::KeyPair::generate().unwrap();
    let names: Vec<String> = names.iter().map(|name| name.to_string()).collect();
    let certificate = rcgen::CertificateParams::new(names)
        .unwrap()
        .signed_by(&key, &issuer)
        .unwrap();
    let fixture = server_with(|config| config.tls = Some((certificate.pem(), key.serialize_pem())));
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(ca_pem.as_bytes()).unwrap();
    (fixture, file)
}

fn over_tls(fixture: &Fixture) -> S3Config {
    let mut config = fixture.config();
    config.bucket.endpoint = Some(format!("https://{}", fixture.server.addr()));
    config
}

#[test]
fn s3_keeps_the_contract_over_tls_with_an_own_ca() {
    let (fixture, ca) = https(&["127.0.0.1"]);
    let config = S3Config {
        ca_file: Some(ca.path().to_path_buf()),
        ..over_tls(&fixture)
    };
    with_store(config, |store| async move { contract::check_all(&store).await });
}

#[test]
fn certificates_of_strangers_and_for_others_are_not_trusted() {
    let (stranger, _) = https(&["127.0.0.1"]);
    let (other_name, ca) = https(&["other.example"]);
    let trusting = S3Config {
        ca_file: Some(ca.path().to_path_buf()),
        ..over_tls(&other_name)
    };
    for config in [over_tls(&stranger), trusting] {
        with_store(config, |store| async move {
            let created = store.create("a", body("x")).await;
            assert!(
                matches!(&created, Err(StoreError::Unavailable(why)) if why.contains("certificate")),
                "{created:?}"
            );
        });
    }
    assert_eq!(stranger.requests(Kind::Put) + other_name.requests(Kind::Put), 0);
}

#[test]
fn a_ca_file_without_certificates_is_refused() {
    let fixture = server();
    let empty = tempfile::NamedTempFile::new().unwrap();
    for path in [empty.path().to_path_buf(), "/no/such/file".into()] {
        let config = S3Config {
            ca_file: Some(path),
            ..over_tls(&fixture)
        };
        let store = S3Store::new(config, keys());
        assert!(matches!(store, Err(StoreError::Refused(_))), "{store:?}");
    }
}

#[test]
fn reads_try_the_replica_first_and_then_the_bucket() {
    let primary = server();
    let replica = server();
    let mut config = primary.config();
    config.read_replica = Some(replica.bucket("bucket"));
    with_store(replica.config(), |copy| async move {
        copy.create("both", body("copied")).await.unwrap();
    });
    with_store(config.clone(), |store| async move {
        // Which of them answered can be seen, as here they differ.
        store.create("both", body("origin")).await.unwrap();
        store.create("late", body("not yet copied")).await.unwrap();
        assert_eq!(store.get_payload("both", 0..6).await.unwrap(), "copied");
        assert_eq!(store.get_suffix("both", 2).await.unwrap().bytes, "in");
        assert_eq!(store.get_payload("late", 4..7).await.unwrap(), "yet");
        assert_eq!(store.get_suffix("late", 6).await.unwrap().bytes, "copied");
        let missing = store.get_payload("missing", 0..1).await;
        assert!(matches!(missing, Err(StoreError::NotFound(_))), "{missing:?}");
        assert_eq!(store.list("", None, 9).await.unwrap().objects.len(), 2);
    });
    assert_eq!(replica.requests(Kind::Get), 3);
    assert_eq!(primary.requests(Kind::Get), 4);
    assert_eq!(replica.requests(Kind::List), 0);
}

/// A bucket that is set by mistake, with the right one as its replica: whatever decides must not find there what the
/// bucket itself does not have.
#[test]
fn what_decides_is_read_from_the_bucket_alone() {
    let primary = server();
    let replica = server();
    let mut config = primary.config();
    config.read_replica = Some(replica.bucket("bucket"));
    with_store(replica.config(), |copy| async move {
        copy.create("ns/_cluster/id", body("kafscale")).await.unwrap();
    });
    with_store(config, |store| async move {
        let marker = store.get_range("ns/_cluster/id", 0..8).await;
        assert!(matches!(marker, Err(StoreError::NotFound(_))), "{marker:?}");
        let marker = store.get_suffix("ns/_cluster/id", 8).await;
        assert!(matches!(marker, Err(StoreError::NotFound(_))), "{marker:?}");
        assert_eq!(store.get_payload("ns/_cluster/id", 0..8).await.unwrap(), "kafscale");
    });
    assert_eq!(replica.requests(Kind::Get), 1);
}

#[test]
fn a_replica_that_fails_is_left_alone_for_a_while() {
    let primary = server();
    let replica = server();
    replica.server.set_faults(Faults {
        answer_before: 1.0,
        ..Faults::default()
    });
    let mut config = primary.config();
    config.read_replica = Some(replica.bucket("bucket"));
    with_store(config, |store| async move {
        store.create("a", body("x")).await.unwrap();
        for _ in 0..10 {
            assert_eq!(store.get_payload("a", 0..1).await.unwrap(), "x");
        }
    });
    assert_eq!(replica.requests(Kind::Get), 1);
}

#[test]
fn a_replica_that_is_wrong_is_not_believed() {
    let primary = server();
    let mut config = primary.config();
    config.read_replica = Some(primary.bucket("no-such-bucket"));
    with_store(config, |store| async move {
        store.create("a", body("0123")).await.unwrap();
        assert_eq!(store.get_payload("a", 0..9).await.unwrap(), "0123");
    });
}

#[test]
fn puts_carry_what_was_configured_and_sign_it() {
    let fixture = server();
    let config = S3Config {
        kms_key_arn: Some("arn:aws:kms:eu-west-1:1:key/2".to_string()),
        storage_class: Some("STANDARD_IA".to_string()),
        ..fixture.config()
    };
    on_shard(move || async move {
        let handle = CredentialsHandle::new(Credentials {
            session_token: Some("token-1".to_string()),
            ..(*keys().get()).clone()
        });
        let store = S3Store::new(config, handle).unwrap();
        let parts = vec![Bytes::from_static(b"12345"), Bytes::new(), Bytes::from_static(b"6789")];
        store.create("a", parts).await.unwrap();
    });
    let put = fixture.server.counters().last_put;
    let signed = put["authorization"].clone();
    for (name, value) in [
        ("if-none-match", "*"),
        // CRC-32C's check value e3069283, of "123456789".
        ("x-amz-checksum-crc32c", "4waSgw=="),
        ("x-amz-content-sha256", "UNSIGNED-PAYLOAD"),
        ("x-amz-server-side-encryption", "aws:kms"),
        (
            "x-amz-server-side-encryption-aws-kms-key-id",
            "arn:aws:kms:eu-west-1:1:key/2",
        ),
        ("x-amz-storage-class", "STANDARD_IA"),
        ("x-amz-security-token", "token-1"),
    ] {
        assert_eq!(put.get(name).map(String::as_str), Some(value), "{name}");
        assert!(signed.contains(name), "{name} is not signed: {signed}");
    }
    assert_eq!(put["content-length"], "9");
}

#[test]
fn puts_carry_nothing_that_was_not_configured() {
    let fixture = server();
    with_store(fixture.config(), |store| async move {
        store.create("a", body("x")).await.unwrap();
    });
    let put = fixture.server.counters().last_put;
    let optional = |name: &&String| name.contains("encryption") || name.contains("class") || name.contains("token");
    assert_eq!(put.keys().find(optional), None);
}
