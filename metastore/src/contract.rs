//! What every [`Metastore`] must do, as a suite that each implementation runs.
//!
//! Each check works below a prefix of its own, and assumes nothing about revisions but that they grow: so it runs
//! against a store that others use, too.

mod typed;

use crate::store::{
    prefix_end, Compare, LeaseId, LocalFuture, Metastore, MetastoreError, Op, Revision, Txn, TxnOutcome, Watch,
    WatchEvent, TXN_BYTES_MAX, TXN_OPS_MAX,
};
use bytes::Bytes;
use std::rc::Rc;

/// Gives the suite a store, and time.
pub trait Harness {
    /// The store under test: empty, or with nothing in it that the suite uses.
    fn store(&self) -> Rc<dyn Metastore>;

    /// Lets this much of the store's time pass, and what is then over expire.
    fn pass_time(&self, ms: u64) -> LocalFuture<'_, ()>;

    /// The shortest lease that the store grants exactly, in milliseconds.
    fn shortest_ttl_ms(&self) -> u64 {
        200
    }
}

/// Runs the whole suite.
///
/// # Panics
/// If the store breaks the contract.
pub async fn check_all(harness: &dyn Harness) {
    let store = harness.store();
    let store = &*store;
    a_transaction_applies_whole_or_not_at_all(store).await;
    every_compare_means_what_it_says(store).await;
    revisions_tell_creation_and_change(store).await;
    ranges_come_in_order_and_in_pages(store).await;
    impossible_transactions_are_refused(store).await;
    a_watch_sees_every_change_of_its_prefix_in_order(store).await;
    a_watch_that_is_not_waited_for_loses_nothing(store).await;
    leased_keys_go_with_their_lease(harness).await;
    a_key_leaves_its_lease_when_it_is_put_without(store).await;
    typed::check_all(store).await;
}

fn key(check: &str, name: &str) -> Bytes {
    Bytes::from(format!("/contract/{check}/{name}"))
}

fn put(key: &Bytes, value: &str) -> Op {
    Op::Put {
        key: key.clone(),
        value: Bytes::copy_from_slice(value.as_bytes()),
        lease: None,
    }
}

fn put_leased(key: &Bytes, lease: LeaseId) -> Op {
    Op::Put {
        key: key.clone(),
        value: Bytes::from_static(b"leased"),
        lease: Some(lease),
    }
}

async fn apply(store: &dyn Metastore, compares: Vec<Compare>, ops: Vec<Op>) -> TxnOutcome {
    store
        .txn(Txn { compares, ops })
        .await
        .expect("a possible transaction is answered")
}

async fn write(store: &dyn Metastore, ops: Vec<Op>) -> Revision {
    let outcome = apply(store, Vec::new(), ops).await;
    assert!(outcome.succeeded, "without conditions a transaction succeeds");
    outcome.revision
}

async fn value(store: &dyn Metastore, key: &Bytes) -> Option<String> {
    let found = store.get(key).await.expect("a key can be read")?;
    assert_eq!(&found.key, key);
    Some(String::from_utf8_lossy(&found.value).into_owned())
}

async fn a_transaction_applies_whole_or_not_at_all(store: &dyn Metastore) {
    let (a, b) = (key("whole", "a"), key("whole", "b"));
    let first = write(store, vec![put(&a, "1"), put(&b, "1")]).await;
    let refused = apply(
        store,
        vec![Compare::Absent(a.clone()), Compare::Present(b.clone())],
        vec![put(&b, "2")],
    )
    .await;
    assert!(!refused.succeeded);
    assert!(refused.revision >= first);
    assert_eq!(value(store, &b).await.as_deref(), Some("1"));
    let second = write(store, vec![Op::Delete(a.clone()), put(&b, "2")]).await;
    assert!(second > first);
    assert_eq!(value(store, &a).await, None);
    assert_eq!(value(store, &b).await.as_deref(), Some("2"));
    write(store, vec![Op::Delete(a)]).await;
    write(store, vec![put(&b, "")]).await;
    assert_eq!(value(store, &b).await.as_deref(), Some(""), "an empty value is a value");
}

async fn every_compare_means_what_it_says(store: &dyn Metastore) {
    let (there, missing) = (key("compare", "there"), key("compare", "missing"));
    write(store, vec![put(&there, "x")]).await;
    let revision = write(store, vec![put(&there, "y")]).await;
    let cases = [
        (Compare::Absent(missing.clone()), true),
        (Compare::Absent(there.clone()), false),
        (Compare::Present(there.clone()), true),
        (Compare::Present(missing.clone()), false),
        (Compare::ModRevision(there.clone(), revision), true),
        (Compare::ModRevision(there.clone(), revision - 1), false),
        (Compare::ModRevision(missing.clone(), revision), false),
        // A key that is missing has no revision, not even 0.
        (Compare::ModRevision(missing.clone(), 0), false),
        (Compare::Value(there.clone(), Bytes::from_static(b"y")), true),
        (Compare::Value(there.clone(), Bytes::from_static(b"x")), false),
        (Compare::Value(missing, Bytes::new()), false),
    ];
    for (compare, holds) in cases {
        let outcome = apply(store, vec![compare.clone()], Vec::new()).await;
        assert_eq!(outcome.succeeded, holds, "{compare:?}");
    }
}

async fn revisions_tell_creation_and_change(store: &dyn Metastore) {
    let a = key("revisions", "a");
    let created = write(store, vec![put(&a, "1")]).await;
    let changed = write(store, vec![put(&a, "2")]).await;
    let found = store.get(&a).await.expect("readable").expect("written above");
    assert_eq!(
        (found.create_revision, found.mod_revision, found.lease),
        (created, changed, None)
    );
    write(store, vec![Op::Delete(a.clone())]).await;
    let again = write(store, vec![put(&a, "3")]).await;
    let found = store.get(&a).await.expect("readable").expect("written above");
    assert_eq!((found.create_revision, found.mod_revision), (again, again));
}

async fn ranges_come_in_order_and_in_pages(store: &dyn Metastore) {
    let prefix = key("range", "");
    let names = ["a", "a/b", "b", "ba", "\u{e4}"];
    let keys: Vec<_> = names.iter().map(|name| key("range", name)).collect();
    let revision = write(store, keys.iter().rev().map(|key| put(key, "v")).collect()).await;
    write(store, vec![put(&key("rangf", "beyond"), "v")]).await;
    let end = prefix_end(&prefix);
    let all = store.range(&prefix, &end, 100).await.expect("readable");
    assert_eq!(all.items.iter().map(|item| item.key.clone()).collect::<Vec<_>>(), keys);
    assert!(!all.more && all.revision >= revision);
    let page = store.range(&prefix, &end, 2).await.expect("readable");
    assert!(page.more && page.items[..] == all.items[..2]);
    let exact = store.range(&prefix, &end, keys.len()).await.expect("readable");
    assert!(!exact.more && exact.items == all.items);
    let middle = store.range(&keys[1], &keys[3], 100).await.expect("readable");
    assert_eq!(middle.items[..], all.items[1..3], "the end is exclusive");
    for (start, end) in [(&keys[2], &keys[2]), (&keys[3], &keys[1])] {
        let none = store.range(start, end, 100).await.expect("readable");
        assert!(none.items.is_empty() && !none.more);
    }
}

async fn impossible_transactions_are_refused(store: &dyn Metastore) {
    let a = key("refused", "a");
    let many = |count: usize| {
        (0..count)
            .map(|n| put(&key("refused", &format!("many-{n}")), ""))
            .collect()
    };
    let large = Op::Put {
        key: a.clone(),
        value: Bytes::from(vec![0; TXN_BYTES_MAX]),
        lease: None,
    };
    let impossible = [
        Txn {
            compares: Vec::new(),
            ops: vec![put(&a, "1"), Op::Delete(a.clone())],
        },
        Txn {
            compares: Vec::new(),
            ops: many(TXN_OPS_MAX + 1),
        },
        Txn {
            compares: vec![Compare::Absent(a.clone()); TXN_OPS_MAX + 1],
            ops: Vec::new(),
        },
        Txn {
            compares: Vec::new(),
            ops: vec![large],
        },
        Txn {
            compares: Vec::new(),
            ops: vec![put(&Bytes::new(), "")],
        },
    ];
    for txn in impossible {
        let error = store.txn(txn).await.expect_err("an impossible transaction");
        assert!(matches!(error, MetastoreError::Refused(_)), "{error:?}");
    }
    assert_eq!(value(store, &a).await, None);
    write(store, many(TXN_OPS_MAX)).await;
}

/// Reads changes until there are `count`.
async fn changes(watch: &mut dyn Watch, count: usize) -> Vec<WatchEvent> {
    let mut seen = Vec::new();
    while seen.len() < count {
        let events = watch.next().await.expect("the watch lives");
        assert!(!events.is_empty(), "a watch answers with changes");
        seen.extend(events);
    }
    assert_eq!(seen.len(), count, "nothing comes twice: {seen:?}");
    seen
}

fn describe(event: &WatchEvent) -> (String, Option<String>, Revision) {
    let text = |bytes: &Bytes| String::from_utf8_lossy(bytes).rsplit('/').next().map(str::to_string);
    let name = |key: &Bytes| text(key).unwrap_or_default();
    match event {
        WatchEvent::Put(item) => (name(&item.key), text(&item.value), item.mod_revision),
        WatchEvent::Delete { key, revision } => (name(key), None, *revision),
    }
}

async fn a_watch_sees_every_change_of_its_prefix_in_order(store: &dyn Metastore) {
    let (a, b, other) = (key("watch", "a"), key("watch", "b"), key("watcher", "c"));
    let before = write(store, vec![put(&a, "old")]).await;
    let mut live = store
        .watch(&key("watch", ""), before + 1)
        .await
        .expect("the present can be watched");
    let first = write(store, vec![put(&a, "1"), put(&b, "1")]).await;
    write(store, vec![put(&other, "1")]).await;
    write(store, vec![Op::Delete(key("watch", "never-there"))]).await;
    let second = write(store, vec![Op::Delete(b.clone())]).await;
    let third = write(store, vec![put(&b, "2")]).await;
    let some = |text: &str| Some(text.to_string());
    let expected = vec![
        ("a".to_string(), some("1"), first),
        ("b".to_string(), some("1"), first),
        ("b".to_string(), None, second),
        ("b".to_string(), some("2"), third),
    ];
    let mut seen: Vec<_> = changes(&mut *live, 4).await.iter().map(describe).collect();
    // Within one revision any order will do.
    seen[..2].sort();
    assert_eq!(seen, expected);
    let mut late = store
        .watch(&key("watch", ""), second)
        .await
        .expect("the recent past can be watched");
    let seen: Vec<_> = changes(&mut *late, 2).await.iter().map(describe).collect();
    assert_eq!(seen, expected[2..]);
}

async fn a_watch_that_is_not_waited_for_loses_nothing(store: &dyn Metastore) {
    use futures::FutureExt;
    let a = key("patient", "a");
    let before = write(store, vec![put(&a, "0")]).await;
    let mut watch = store.watch(&key("patient", ""), before + 1).await.expect("watchable");
    let mut seen = Vec::new();
    for number in 1..=20 {
        write(store, vec![put(&a, &number.to_string())]).await;
        // Polled once and dropped.
        seen.extend(
            watch
                .next()
                .now_or_never()
                .transpose()
                .expect("the watch lives")
                .unwrap_or_default(),
        );
    }
    if seen.len() < 20 {
        let missing = 20 - seen.len();
        seen.extend(changes(&mut *watch, missing).await);
    }
    let values: Vec<_> = seen.iter().filter_map(|event| describe(event).1).collect();
    assert_eq!(values, (1..=20).map(|number| number.to_string()).collect::<Vec<_>>());
}

async fn leased_keys_go_with_their_lease(harness: &dyn Harness) {
    let store = &*harness.store();
    let ttl_ms = harness.shortest_ttl_ms();
    let (a, b, c) = (key("lease", "a"), key("lease", "b"), key("lease", "c"));
    let kept = store.lease_grant(ttl_ms * 50).await.expect("a lease is granted");
    let short = store.lease_grant(ttl_ms).await.expect("a lease is granted");
    assert_ne!(kept, short);
    let revision = write(
        store,
        vec![put_leased(&a, kept), put_leased(&b, short), put_leased(&c, short)],
    )
    .await;
    assert_eq!(
        store.get(&b).await.expect("readable").expect("written").lease,
        Some(short)
    );
    let mut watch = store.watch(&key("lease", ""), revision + 1).await.expect("watchable");
    for _ in 0..4 {
        harness.pass_time(ttl_ms / 2).await;
        store.lease_keep_alive(short).await.expect("renewed in time");
    }
    assert!(value(store, &b).await.is_some(), "renewals keep a lease");
    harness.pass_time(ttl_ms * 3).await;
    let mut gone: Vec<_> = changes(&mut *watch, 2).await.iter().map(describe).collect();
    gone.sort();
    assert!(
        gone[0].0 == "b" && gone[1].0 == "c" && gone.iter().all(|event| event.1.is_none()),
        "{gone:?}"
    );
    assert_eq!((value(store, &b).await, value(store, &c).await), (None, None));
    assert_eq!(
        store.lease_keep_alive(short).await,
        Err(MetastoreError::LeaseGone(short))
    );
    let late = store
        .txn(Txn {
            compares: Vec::new(),
            ops: vec![put(&c, "x"), put_leased(&b, short)],
        })
        .await;
    assert_eq!(late, Err(MetastoreError::LeaseGone(short)));
    assert_eq!(value(store, &c).await, None, "nothing of it was applied");
    assert!(value(store, &a).await.is_some());
    store.lease_revoke(kept).await.expect("it runs");
    assert_eq!(value(store, &a).await, None);
    assert_eq!(store.lease_revoke(kept).await, Err(MetastoreError::LeaseGone(kept)));
}

async fn a_key_leaves_its_lease_when_it_is_put_without(store: &dyn Metastore) {
    let (a, b) = (key("unlease", "a"), key("unlease", "b"));
    let one = store.lease_grant(60_000).await.expect("a lease is granted");
    let other = store.lease_grant(60_000).await.expect("a lease is granted");
    write(store, vec![put_leased(&a, one), put_leased(&b, one)]).await;
    write(store, vec![put(&a, "free"), put_leased(&b, other)]).await;
    store.lease_revoke(one).await.expect("it runs");
    assert_eq!(value(store, &a).await.as_deref(), Some("free"));
    assert!(value(store, &b).await.is_some());
    store.lease_revoke(other).await.expect("it runs");
    assert_eq!(value(store, &b).await, None);
}
