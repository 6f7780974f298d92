//! Passwords, tokens and certificates.

use crate::certificates::Certificates;
use crate::support::{config, directly, put, read, try_write, write};
use etcd_client::{Permission, PermissionType};
use futures::executor::block_on;
use kafscale_metastore::etcd::{ConnectError, EtcdConfig, EtcdMetastore, EtcdTls};
use kafscale_metastore::{Metastore, MetastoreError};
use kafscale_test_etcd::{Cluster, Options, ServerTls};
use std::path::Path;
use std::time::Duration;

/// An etcd with a root user, and a user `broker` who may use keys below `/kafscale/`.
fn with_passwords(args: &[&str]) -> Cluster {
    let cluster = Cluster::start_with(&Options {
        members: 1,
        args: args.iter().map(|arg| (*arg).to_string()).collect(),
        ..Options::default()
    });
    directly(&cluster, async |client| {
        client.role_add("keys").await?;
        let keys = Permission::with_prefix(Permission::new(PermissionType::Readwrite, "/kafscale/"));
        client.role_grant_permission("keys", keys).await?;
        client.user_add("broker", "secret", None).await?;
        client.user_grant_role("broker", "keys").await?;
        client.user_add("root", "root", None).await?;
        client.user_grant_role("root", "root").await?;
        client.auth_enable().await
    });
    cluster
}

fn as_user(cluster: &Cluster, username: &str, password: &str) -> Result<EtcdMetastore, ConnectError> {
    EtcdMetastore::connect(EtcdConfig {
        username: Some(username.to_string()),
        password: Some(password.to_string()),
        ..config(cluster)
    })
}

fn refusal(result: Result<EtcdMetastore, ConnectError>) -> String {
    match result.err() {
        Some(ConnectError::Refused(why)) => why,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_user_gets_what_it_has_a_right_to() {
    let cluster = with_passwords(&[]);
    let store = as_user(&cluster, "broker", "secret").unwrap();
    write(&store, "/kafscale/v1/a", "1");
    assert_eq!(read(&store, "/kafscale/v1/a").as_deref(), Some("1"));
    let denied = try_write(&store, vec![put("/other", "1", None)]);
    assert!(matches!(denied, Err(MetastoreError::Refused(_))), "{denied:?}");
    let denied = block_on(store.watch(b"/other", 1)).err();
    assert!(matches!(denied, Some(MetastoreError::Refused(_))), "{denied:?}");
}

#[test]
fn a_start_with_wrong_credentials_says_so() {
    let cluster = with_passwords(&[]);
    assert!(refusal(as_user(&cluster, "broker", "wrong")).contains("invalid user ID or password"));
    assert!(refusal(as_user(&cluster, "nobody", "secret")).contains("invalid user ID or password"));
    let nameless = EtcdMetastore::connect(config(&cluster));
    assert!(refusal(nameless).contains("user name is empty"));
    let elsewhere = EtcdMetastore::connect(EtcdConfig {
        username: Some("broker".to_string()),
        password: Some("secret".to_string()),
        key_prefix: "/elsewhere".to_string(),
        ..config(&cluster)
    });
    assert!(refusal(elsewhere).contains("permission denied"));
}

#[test]
fn a_password_for_an_etcd_that_asks_for_none_is_refused() {
    let cluster = Cluster::start(1);
    assert!(refusal(as_user(&cluster, "broker", "secret")).contains("authentication is not enabled"));
}

#[test]
fn a_token_that_has_expired_is_replaced() {
    let mut cluster = with_passwords(&["--auth-token-ttl", "2"]);
    let store = as_user(&cluster, "broker", "secret").unwrap();
    let lease = block_on(store.lease_grant(60_000)).unwrap();
    let revision = write(&store, "/kafscale/v1/a", "0");
    for round in 0..2 {
        std::thread::sleep(Duration::from_millis(3_500));
        // Each kind of call is the first to meet the old token once.
        match round {
            0 => {
                write(&store, "/kafscale/v1/a", "1");
            }
            _ => {
                let mut watch = block_on(store.watch(b"/kafscale/", revision + 1)).unwrap();
                assert_eq!(block_on(watch.next()).unwrap().len(), 1);
            }
        }
    }
    std::thread::sleep(Duration::from_millis(3_500));
    block_on(store.lease_keep_alive(lease)).unwrap();
    // etcd forgets all tokens when it restarts.
    cluster.kill(0);
    cluster.restart(0);
    assert_eq!(read(&store, "/kafscale/v1/a").as_deref(), Some("1"));
}

fn with_tls(directory: &Path, clients_need_certificates: bool) -> (Cluster, Certificates) {
    let certificates = Certificates::new(directory);
    let cluster = Cluster::start_with(&Options {
        members: 1,
        tls: Some(ServerTls {
            cert_file: certificates.file("server.pem"),
            key_file: certificates.file("server-key.pem"),
            client_ca_file: clients_need_certificates.then(|| certificates.file("ca.pem")),
        }),
        ..Options::default()
    });
    (cluster, certificates)
}

fn by_tls(cluster: &Cluster, tls: EtcdTls) -> Result<EtcdMetastore, ConnectError> {
    EtcdMetastore::connect(EtcdConfig {
        tls: Some(tls),
        ..config(cluster)
    })
}

#[test]
fn both_ends_show_certificates() {
    let directory = tempfile::tempdir().unwrap();
    let (cluster, certificates) = with_tls(directory.path(), true);
    let ours = EtcdTls {
        ca_file: certificates.file("ca.pem"),
        cert_file: Some(certificates.file("client.pem")),
        key_file: Some(certificates.file("client-key.pem")),
        domain: None,
    };
    let store = by_tls(&cluster, ours.clone()).unwrap();
    write(&store, "a", "1");
    assert_eq!(read(&store, "a").as_deref(), Some("1"));
    let anonymous = EtcdTls {
        cert_file: None,
        key_file: None,
        ..ours
    };
    let error = by_tls(&cluster, anonymous).err().unwrap();
    assert!(matches!(error, ConnectError::Tls(_)), "{error}");
}

#[test]
fn etcd_alone_shows_a_certificate() {
    let directory = tempfile::tempdir().unwrap();
    let (cluster, certificates) = with_tls(directory.path(), false);
    let trusting = EtcdTls {
        ca_file: certificates.file("ca.pem"),
        ..EtcdTls::default()
    };
    let store = by_tls(&cluster, trusting.clone()).unwrap();
    write(&store, "a", "1");
    let by_name = |name: &str| {
        let tls = EtcdTls {
            domain: Some(name.to_string()),
            ..trusting.clone()
        };
        by_tls(&cluster, tls)
    };
    assert!(by_name("etcd.test").is_ok());
    let error = by_name("other.test").err().unwrap();
    assert!(matches!(error, ConnectError::Tls(_)), "{error}");
}

#[test]
fn a_stranger_is_no_etcd() {
    let (ours, theirs) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (cluster, _) = with_tls(ours.path(), false);
    let strangers = Certificates::new(theirs.path());
    let tls = EtcdTls {
        ca_file: strangers.file("ca.pem"),
        ..EtcdTls::default()
    };
    let error = by_tls(&cluster, tls.clone()).err().unwrap();
    assert!(matches!(error, ConnectError::Tls(_)), "{error}");
    let plain = Cluster::start(1);
    let mut config = config(&plain);
    config.endpoints = vec![config.endpoints[0].replace("http://", "https://")];
    config.tls = Some(tls);
    config.connect_timeout_ms = 1_000;
    // It speaks no TLS at all: it answers with nonsense, or hangs up before that arrives.
    let error = EtcdMetastore::connect(config).err().unwrap();
    assert!(
        matches!(error, ConnectError::Tls(_) | ConnectError::Unreachable(_)),
        "{error}"
    );
}

#[test]
fn a_plain_connection_to_an_etcd_with_tls_does_not_work() {
    let directory = tempfile::tempdir().unwrap();
    let (cluster, _) = with_tls(directory.path(), false);
    let mut config = config(&cluster);
    config.endpoints = vec![config.endpoints[0].replace("https://", "http://")];
    config.connect_timeout_ms = 1_000;
    let error = EtcdMetastore::connect(config).err().unwrap();
    assert!(matches!(error, ConnectError::Unreachable(_)), "{error}");
}
