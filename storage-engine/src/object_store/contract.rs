//! What every [`ObjectStore`] must do, as a suite that each implementation runs.
//!
//! Each check works below a prefix of its own, so the suite runs against a store that others use, too; what it made it
//! deletes in the end.

use super::{ObjectMeta, ObjectStore, StoreError, KEY_BYTES_MAX};
use bytes::Bytes;
use futures::future::join_all;

/// Runs the whole suite on a store that has nothing below `contract`.
///
/// # Panics
/// If the store breaks the contract.
pub async fn check_all(store: &dyn ObjectStore) {
    folders_are_no_objects(store).await;
    check_all_but_folders(store).await;
}

/// The suite without what a store does with a key that is the folder of another: none of a broker's keys is.
///
/// # Panics
/// If the store breaks the contract.
pub async fn check_all_but_folders(store: &dyn ObjectStore) {
    an_object_is_created_once(store).await;
    of_creates_at_the_same_time_one_wins(store).await;
    ranges_end_with_the_object(store).await;
    an_empty_object_is_an_object(store).await;
    what_is_missing_is_not_found(store).await;
    many_parts_become_one_object(store).await;
    a_body_whose_sum_is_known_is_an_object_like_any(store).await;
    listings_come_in_order_and_in_pages(store).await;
    a_prefix_is_text_and_no_folder(store).await;
    deleting_leaves_the_others_and_frees_the_name(store).await;
    odd_keys_are_keys(store).await;
    illegal_keys_are_refused(store).await;
    prefixes_of_illegal_keys_find_nothing(store).await;
    let left = list_all(store, "contract", 1000).await;
    assert_eq!(keys(&left), [""; 0], "the suite cleans up");
}

fn key(check: &str, name: &str) -> String {
    format!("contract/{check}/{name}")
}

async fn create(store: &dyn ObjectStore, key: &str, body: &str) {
    let created = store.create(key, vec![Bytes::copy_from_slice(body.as_bytes())]).await;
    created.unwrap_or_else(|error| panic!("create {key}: {error}"));
}

async fn content(store: &dyn ObjectStore, key: &str) -> Bytes {
    let read = store.get_range(key, 0..u64::MAX).await;
    read.unwrap_or_else(|error| panic!("read {key}: {error}"))
}

async fn delete(store: &dyn ObjectStore, keys: &[String]) {
    let deleted = store.delete(keys).await;
    deleted.unwrap_or_else(|error| panic!("delete {keys:?}: {error}"));
}

fn keys(objects: &[ObjectMeta]) -> Vec<&str> {
    objects.iter().map(|object| object.key.as_str()).collect()
}

/// Lists in pages, and checks what every page must keep.
async fn list_all(store: &dyn ObjectStore, prefix: &str, limit: usize) -> Vec<ObjectMeta> {
    let mut all: Vec<ObjectMeta> = Vec::new();
    loop {
        let after = all.last().map(|object| object.key.clone());
        let page = store.list(prefix, after.as_deref(), limit).await;
        let page = page.unwrap_or_else(|error| panic!("list {prefix} after {after:?}: {error}"));
        assert!(page.objects.len() <= limit, "a page keeps its limit");
        assert!(
            !page.more || !page.objects.is_empty(),
            "who is told of more must be able to go on"
        );
        all.extend(page.objects);
        if !page.more {
            break;
        }
    }
    assert!(all.windows(2).all(|pair| pair[0].key < pair[1].key), "ascending, once");
    assert!(all.iter().all(|object| object.key.starts_with(prefix)));
    all
}

async fn an_object_is_created_once(store: &dyn ObjectStore) {
    let key = key("once", "a");
    create(store, &key, "first").await;
    for body in ["second, and longer", "", "first"] {
        let again = store.create(&key, vec![Bytes::from(body)]).await;
        assert!(matches!(again, Err(StoreError::Conflict(_))), "{again:?}");
    }
    assert_eq!(content(store, &key).await, "first");
    let listed = list_all(store, &key, 10).await;
    assert_eq!((listed.len(), listed[0].size), (1, 5));
    delete(store, &[key]).await;
}

async fn of_creates_at_the_same_time_one_wins(store: &dyn ObjectStore) {
    for round in 0..20 {
        let key = key("race", &format!("{round}/a"));
        // Long enough to be seen half written, by a store that shows such things.
        let bodies: Vec<Bytes> = (0..8u8).map(|writer| vec![writer; 100_000].into()).collect();
        let answers = join_all(bodies.iter().map(|body| store.create(&key, vec![body.clone()]))).await;
        let winners: Vec<usize> = (0..answers.len()).filter(|at| answers[*at].is_ok()).collect();
        assert_eq!(winners.len(), 1, "{answers:?}");
        for answer in &answers {
            assert!(matches!(answer, Ok(()) | Err(StoreError::Conflict(_))), "{answer:?}");
        }
        assert!(
            content(store, &key).await == bodies[winners[0]],
            "the winner's bytes, whole"
        );
        delete(store, &[key]).await;
    }
}

async fn ranges_end_with_the_object(store: &dyn ObjectStore) {
    let key = key("ranges", "a");
    create(store, &key, "0123456789").await;
    let ranges = [
        (0..10, "0123456789"),
        (3..7, "3456"),
        (3..3, ""),
        (8..1000, "89"),
        (0..u64::MAX, "0123456789"),
        (10..20, ""),
        (10..10, ""),
    ];
    for (range, expected) in ranges {
        let read = store.get_range(&key, range.clone()).await;
        assert_eq!(read, Ok(Bytes::from(expected)), "{range:?}");
    }
    for beyond in [11..12, 11..11, 1 << 40..u64::MAX] {
        let read = store.get_range(&key, beyond.clone()).await;
        assert!(matches!(read, Err(StoreError::Refused(_))), "{beyond:?}: {read:?}");
    }
    for (len, expected) in [
        (0, ""),
        (1, "9"),
        (10, "0123456789"),
        (11, "0123456789"),
        (u64::MAX, "0123456789"),
    ] {
        let suffix = store.get_suffix(&key, len).await.expect("the object is there");
        assert_eq!((suffix.bytes, suffix.object_len), (Bytes::from(expected), 10), "{len}");
    }
    delete(store, &[key]).await;
}

async fn an_empty_object_is_an_object(store: &dyn ObjectStore) {
    let bodies = [vec![], vec![Bytes::new()], vec![Bytes::new(); 3]];
    for (at, body) in bodies.into_iter().enumerate() {
        let key = key("empty", &at.to_string());
        store.create(&key, body).await.expect("nothing is in the way");
        assert_eq!(content(store, &key).await, "");
        let suffix = store.get_suffix(&key, 16).await.expect("the object is there");
        assert_eq!((suffix.bytes.len(), suffix.object_len), (0, 0));
        let again = store.create(&key, vec![Bytes::from_static(b"x")]).await;
        assert!(matches!(again, Err(StoreError::Conflict(_))), "{again:?}");
        assert_eq!(list_all(store, &key, 10).await[0].size, 0);
        delete(store, &[key]).await;
    }
}

async fn what_is_missing_is_not_found(store: &dyn ObjectStore) {
    create(store, &key("missing", "there/a"), "a").await;
    for name in ["a", "there/b", "there/a/below", "nowhere/a"] {
        let key = key("missing", name);
        let range = store.get_range(&key, 0..1).await;
        assert!(matches!(range, Err(StoreError::NotFound(_))), "{name}: {range:?}");
        let suffix = store.get_suffix(&key, 1).await;
        assert!(matches!(suffix, Err(StoreError::NotFound(_))), "{name}: {suffix:?}");
    }
    assert_eq!(list_all(store, &key("missing", "nowhere/"), 10).await, []);
    delete(store, &[key("missing", "there/a")]).await;
}

async fn a_body_whose_sum_is_known_is_an_object_like_any(store: &dyn ObjectStore) {
    let key = key("summed", "a");
    let parts = || vec![Bytes::from_static(b"123"), Bytes::from_static(b"456789")];
    // The check value of CRC-32C.
    let created = store.create_summed(&key, parts(), 0xe306_9283).await;
    assert_eq!(created, Ok(()), "create {key}");
    assert_eq!(content(store, &key).await, "123456789");
    let taken = store.create_summed(&key, parts(), 0xe306_9283).await;
    assert!(matches!(taken, Err(StoreError::Conflict(_))), "{taken:?}");
    delete(store, &[key]).await;
}

async fn many_parts_become_one_object(store: &dyn ObjectStore) {
    // More parts than one system call takes, of many sizes, some empty; 12 MiB in all.
    let parts: Vec<Bytes> = (0..3000u32)
        .map(|at| vec![at as u8; (at as usize * 7919) % 8192].into())
        .collect();
    let whole = parts.concat();
    let key = key("parts", "a");
    store.create(&key, parts).await.expect("nothing is in the way");
    assert!(content(store, &key).await == whole, "the parts in order");
    let at = whole.len() / 3;
    let part = store.get_range(&key, at as u64..at as u64 + 100_000).await;
    assert!(part.expect("the object is there") == whole[at..at + 100_000]);
    let suffix = store.get_suffix(&key, 5000).await.expect("the object is there");
    assert!(suffix.bytes == whole[whole.len() - 5000..]);
    assert_eq!(suffix.object_len, whole.len() as u64);
    delete(store, &[key]).await;
}

async fn listings_come_in_order_and_in_pages(store: &dyn ObjectStore) {
    // In the order of their bytes, which is not that of a walk through folders: '!' and '-' sort before '/'.
    let names = [
        "a!", "a-/x", "a/1", "a/10", "a/2", "a/b/c", "a/b/d", "a0", "b/x/y/z", "c",
    ];
    let all: Vec<String> = names.iter().map(|name| key("pages", name)).collect();
    for key in all.iter().rev() {
        create(store, key, &key[8..]).await;
    }
    let prefix = key("pages", "");
    for limit in 1..=all.len() + 1 {
        let listed = list_all(store, &prefix, limit).await;
        assert_eq!(keys(&listed), all, "pages of {limit}");
        assert!(listed.iter().all(|object| object.size == object.key.len() as u64 - 8));
    }
    // One may begin after any text, be it a key or not.
    for after in ["", "a", "a!", "a-", "a-/", "a/1", "a/10", "a/b", "a/b/", "b/x", "zz"] {
        let start = key("pages", after);
        let page = store.list(&prefix, Some(&start), 100).await.expect("a listing");
        let expected: Vec<&String> = all.iter().filter(|key| **key > start).collect();
        assert_eq!(keys(&page.objects), expected, "after {after:?}");
        assert!(!page.more);
    }
    for (after, expected) in [("contract/o", &all[..]), ("contract/q", &[])] {
        let page = store.list(&prefix, Some(after), 100).await.expect("a listing");
        assert_eq!(keys(&page.objects), expected, "after {after:?}, outside the prefix");
    }
    delete(store, &all).await;
}

async fn a_prefix_is_text_and_no_folder(store: &dyn ObjectStore) {
    let all = ["ab", "ab/c", "abc/d", "abd", "b"].map(|name| key("prefix", name));
    let all: Vec<String> = all.into_iter().filter(|key| !key.ends_with("/ab")).collect();
    for key in &all {
        create(store, key, "x").await;
    }
    for prefix in [
        "", "a", "ab", "ab/", "ab/c", "ab/c/", "abc", "abc/", "abd", "b", "ba", "c",
    ] {
        let prefix = key("prefix", prefix);
        let expected: Vec<&String> = all.iter().filter(|key| key.starts_with(&prefix)).collect();
        assert_eq!(keys(&list_all(store, &prefix, 2).await), expected, "{prefix}");
    }
    delete(store, &all).await;
}

async fn deleting_leaves_the_others_and_frees_the_name(store: &dyn ObjectStore) {
    let all = ["a/1", "a/2", "b/c/d"].map(|name| key("delete", name));
    for key in &all {
        create(store, key, "old").await;
    }
    delete(store, &[]).await;
    for _ in 0..2 {
        delete(store, &[all[0].clone(), key("delete", "never/there"), all[2].clone()]).await;
        delete(store, &[key("delete", "a/2/below"), key("delete", "b")]).await;
        assert_eq!(keys(&list_all(store, &key("delete", ""), 10).await), [&all[1]]);
        let gone = store.get_range(&all[0], 0..1).await;
        assert!(matches!(gone, Err(StoreError::NotFound(_))), "{gone:?}");
    }
    create(store, &all[2], "new").await;
    assert_eq!(content(store, &all[2]).await, "new");
    delete(store, &[all[1].clone(), all[1].clone(), all[2].clone()]).await;
}

/// A store need not hold both `a` and `a/b`. If it does not, it says so, and what is there stays.
async fn folders_are_no_objects(store: &dyn ObjectStore) {
    let (folder, below) = (key("folders", "a"), key("folders", "a/b"));
    for (first, second) in [(&folder, &below), (&below, &folder)] {
        create(store, first, "first").await;
        let read = store.get_range(second, 0..1).await;
        assert!(matches!(read, Err(StoreError::NotFound(_))), "{read:?}");
        delete(store, std::slice::from_ref(second)).await;
        let answer = store.create(second, vec![Bytes::from_static(b"second")]).await;
        assert!(matches!(answer, Ok(()) | Err(StoreError::Refused(_))), "{answer:?}");
        assert_eq!(content(store, first).await, "first");
        delete(store, &[folder.clone(), below.clone()]).await;
        assert_eq!(list_all(store, &key("folders", ""), 10).await, []);
    }
}

async fn odd_keys_are_keys(store: &dyn ObjectStore) {
    let long = "x".repeat(255);
    let names = [
        "with space",
        "t~2/0/segment-00000000000000000000.kfs",
        "%2e%2e",
        "Großbuchstabe-Ü-漢字",
        "a\\b",
        "quote'\"$(x)`;&|<>*?[]{}",
        "-rf",
        "line\nbreak",
        "a..b",
        "dot.",
        ".hidden",
        "...",
        ".tmp/a",
        long.as_str(),
    ];
    for name in names {
        let key = key("odd", name);
        create(store, &key, name).await;
        assert_eq!(content(store, &key).await, name);
        assert_eq!(keys(&list_all(store, &key, 10).await), [&key]);
    }
    let all: Vec<String> = names.iter().map(|name| key("odd", name)).collect();
    assert_eq!(list_all(store, &key("odd", ""), 3).await.len(), all.len());
    // Upper and lower case are different letters.
    let other = store.get_range(&key("odd", "WITH SPACE"), 0..1).await;
    assert!(matches!(other, Err(StoreError::NotFound(_))), "{other:?}");
    delete(store, &all).await;
}

fn illegal_keys() -> Vec<String> {
    let mut illegal: Vec<String> = [
        "",
        "/",
        "/contract",
        "contract/",
        "contract//a",
        ".",
        "..",
        "./a",
        "contract/../a",
        "contract/..",
        ".hidden",
        ".tmp/a",
        "contract/nul\0byte",
    ]
    .map(str::to_string)
    .to_vec();
    illegal.push(key("illegal", &"x".repeat(256)));
    let deep = key("illegal", &"x/".repeat(KEY_BYTES_MAX / 2));
    illegal.push(format!("{deep}x"));
    illegal
}

async fn illegal_keys_are_refused(store: &dyn ObjectStore) {
    let refused = |answer: Result<(), StoreError>, key: &str| {
        assert!(matches!(answer, Err(StoreError::Refused(_))), "{key:?}: {answer:?}");
    };
    for key in illegal_keys() {
        refused(store.create(&key, vec![Bytes::from_static(b"x")]).await, &key);
        refused(store.get_range(&key, 0..1).await.map(drop), &key);
        refused(store.get_suffix(&key, 1).await.map(drop), &key);
        refused(store.delete(std::slice::from_ref(&key)).await, &key);
    }
}

async fn prefixes_of_illegal_keys_find_nothing(store: &dyn ObjectStore) {
    create(store, &key("outside", "a"), "a").await;
    for prefix in [
        "/",
        "//",
        "/etc/",
        "../",
        "..",
        ".",
        "./contract/",
        ".tmp/",
        "contract//",
        "contract/../contract/",
        "contract/\0",
    ] {
        assert_eq!(list_all(store, prefix, 10).await, [], "{prefix:?}");
    }
    delete(store, &[key("outside", "a")]).await;
}
