//! Transactions that etcd applies and whose answers never arrive.
//!
//! Killing members seldom meets the moment between the two, so a relay makes it: requests go through, answers do not.

use crate::support::{config, connect, directly, put, read, try_write, write};
use kafscale_metastore::etcd::EtcdMetastore;
use kafscale_metastore::MetastoreError;
use kafscale_test_etcd::Cluster;
use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// What stands between a client and a member. Its threads end with the connections, the last one with the tests.
struct Relay {
    address: String,
    swallows: Arc<AtomicBool>,
    open: Arc<Mutex<Vec<TcpStream>>>,
}

impl Relay {
    fn to(endpoint: &str) -> Self {
        let member = endpoint.trim_start_matches("http://").to_string();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let relay = Relay {
            address: listener.local_addr().unwrap().to_string(),
            swallows: Arc::default(),
            open: Arc::default(),
        };
        let (swallows, open) = (relay.swallows.clone(), relay.open.clone());
        std::thread::spawn(move || {
            for client in listener.incoming().map_while(Result::ok) {
                let Ok(server) = TcpStream::connect(&member) else {
                    continue;
                };
                let twin = |stream: &TcpStream| stream.try_clone().unwrap();
                open.lock().unwrap().extend([twin(&client), twin(&server)]);
                let (up, down) = ((twin(&client), twin(&server)), (server, client));
                let swallows = swallows.clone();
                std::thread::spawn(move || pass(up, &AtomicBool::new(false)));
                std::thread::spawn(move || pass(down, &swallows));
            }
        });
        relay
    }

    /// Ends all connections.
    fn cut(&self) {
        for stream in self.open.lock().unwrap().drain(..) {
            // It may have ended by itself.
            let _ = stream.shutdown(Shutdown::Both);
        }
    }
}

/// Passes on what comes, as long as it is not swallowed.
fn pass((mut from, mut to): (TcpStream, TcpStream), swallows: &AtomicBool) {
    let mut buffer = [0; 16_384];
    while let Ok(count @ 1..) = from.read(&mut buffer) {
        if !swallows.load(Ordering::SeqCst) && to.write_all(&buffer[..count]).is_err() {
            break;
        }
    }
    let _ = to.shutdown(Shutdown::Both);
}

#[test]
fn a_transaction_whose_answer_is_lost_is_in_doubt_and_applied_once() {
    let cluster = Cluster::start(1);
    let relay = Relay::to(&cluster.endpoints()[0]);
    let mut config = config(&cluster);
    // The member itself is there as well, so nothing but our care keeps the transaction from being sent again.
    config.endpoints.insert(0, relay.address.clone());
    let store = EtcdMetastore::connect(config).unwrap();
    write(&store, "a", "1");
    relay.swallows.store(true, Ordering::SeqCst);
    let start = Instant::now();
    let writer = {
        let store = store.clone();
        std::thread::spawn(move || try_write(&store, vec![put("a", "2", None)]))
    };
    let witness = connect(&cluster);
    while read(&witness, "a").as_deref() != Some("2") {
        assert!(start.elapsed() < Duration::from_secs(2), "it did not arrive");
    }
    relay.cut();
    let error = writer.join().unwrap().unwrap_err();
    assert!(matches!(error, MetastoreError::OutcomeUnknown(_)), "{error}");
    assert!(
        start.elapsed() < Duration::from_millis(2_500),
        "a cut needs no deadline"
    );
    let found = directly(&cluster, async |client| client.get("a", None).await);
    assert_eq!(found.kvs()[0].version(), 2, "each of the two writes was applied once");
    write(&store, "a", "3");
    assert_eq!(
        read(&store, "a").as_deref(),
        Some("3"),
        "it goes on at the member itself"
    );
}
