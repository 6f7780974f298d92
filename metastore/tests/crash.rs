//! Kills a process that writes the embedded metastore and looks for everything that it had acknowledged.

// The lint exempts test functions, not the helpers beside them.
#![allow(clippy::unwrap_used)]

use bytes::Bytes;
use futures::executor::block_on;
use futures::future::join_all;
use kafscale_metastore::embedded::EmbeddedMetastore;
use kafscale_metastore::{Compare, Metastore, Op, Txn};
use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::time::Duration;

const CHILD: &str = "KAFSCALE_CRASH_TEST_DIRECTORY";
const WRITERS: usize = 4;
const KILLS: u64 = 12;

fn key(writer: usize, part: &str) -> Bytes {
    Bytes::from(format!("/crash/{writer}/{part}"))
}

async fn number(store: &EmbeddedMetastore, writer: usize, part: &str) -> u64 {
    let item = store.get(&key(writer, part)).await.unwrap();
    item.map_or(0, |item| {
        String::from_utf8(item.value.to_vec()).unwrap().parse().unwrap()
    })
}

/// What the killed process does: each writer counts up in two keys at once and prints what is acknowledged.
#[test]
#[ignore = "the child of the test below"]
fn child() {
    let Ok(directory) = std::env::var(CHILD) else { return };
    let store = EmbeddedMetastore::open(Path::new(&directory), |why| panic!("{why}")).unwrap();
    let count_up = |writer: usize| {
        let store = store.clone();
        async move {
            let mut last = number(&store, writer, "a").await;
            loop {
                let before = (last > 0).then(|| Bytes::from(last.to_string()));
                let next = Bytes::from((last + 1).to_string());
                let put = |part| Op::Put {
                    key: key(writer, part),
                    value: next.clone(),
                    lease: None,
                };
                let compare = match before {
                    Some(value) => Compare::Value(key(writer, "a"), value),
                    None => Compare::Absent(key(writer, "a")),
                };
                let txn = Txn {
                    compares: vec![compare],
                    ops: vec![put("a"), put("b")],
                };
                assert!(store.txn(txn).await.unwrap().succeeded);
                last += 1;
                let mut out = std::io::stdout().lock();
                writeln!(out, "acknowledged {writer} {last}").unwrap();
                out.flush().unwrap();
            }
        }
    };
    block_on(join_all((0..WRITERS).map(count_up)));
}

/// Kills the child `lifetime` after its first acknowledgement, and returns the last number acknowledged to each writer.
fn run_and_kill(directory: &Path, lifetime: Duration) -> BTreeMap<usize, u64> {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--ignored", "--exact", "child", "--nocapture"])
        .env(CHILD, directory)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let (first, began) = mpsc::channel();
    let reader = std::thread::spawn(move || {
        let mut acknowledged = BTreeMap::new();
        for line in lines.map_while(Result::ok) {
            // The harness may print on the same line.
            let words: Vec<_> = line.split(' ').collect();
            if let [.., "acknowledged", writer, number] = words[..] {
                acknowledged.insert(writer.parse().unwrap(), number.parse().unwrap());
                let _ = first.send(());
            }
        }
        acknowledged
    });
    began.recv_timeout(Duration::from_secs(60)).expect("the child writes");
    std::thread::sleep(lifetime);
    child.kill().unwrap();
    child.wait().unwrap();
    reader.join().unwrap()
}

#[test]
fn what_was_acknowledged_survives_kill_9_and_is_whole() {
    let directory = tempfile::tempdir().unwrap();
    let mut found = [0; WRITERS];
    for kill in 0..KILLS {
        let acknowledged = run_and_kill(directory.path(), Duration::from_millis(kill * 37 % 150));
        let store = EmbeddedMetastore::open(directory.path(), |why| panic!("{why}")).unwrap();
        for (writer, before) in found.iter_mut().enumerate() {
            let (a, b) = block_on(async { (number(&store, writer, "a").await, number(&store, writer, "b").await) });
            assert_eq!(a, b, "a transaction is whole");
            let last = acknowledged.get(&writer).copied().unwrap_or(*before);
            // One more may have been on its way.
            assert!(
                a == last || a == last + 1,
                "writer {writer}: {last} acknowledged, {a} found"
            );
            *before = a;
        }
    }
    println!("{} transactions over {KILLS} kills", found.iter().sum::<u64>());
}
