use super::super::disk::RealDisk;
use super::*;
use fastrand::Rng;
use kafscale_test_disk::{Faults, TestDisk};
use std::collections::BTreeMap;
use std::fs;
use std::ops::Range;
use tempfile::TempDir;

/// Packs so small that a few objects fill one.
const SMALL: Limits = Limits {
    pack_blocks: 24,
    object_bytes: 40 << 10,
    spare_packs: 1,
};

fn all(len: u64) -> Result<Range<u64>, StoreError> {
    Ok(0..len)
}

fn create(journal: &Journal, key: &str, content: &[u8]) -> Result<(), StoreError> {
    journal.take(key)?.store(&[Bytes::copy_from_slice(content)], None)
}

fn content(journal: &Journal, key: &str) -> Option<Bytes> {
    journal.read(key, all).unwrap().map(|(bytes, _)| bytes)
}

fn delete(journal: &Journal, key: &str) -> bool {
    journal.delete(&[key.to_string()]).unwrap()[0]
}

fn open(directory: &TempDir) -> Result<Journal, StoreError> {
    Journal::open(directory.path().join("packs"), Arc::new(RealDisk), SMALL)
}

fn packs(directory: &TempDir) -> Vec<PathBuf> {
    let entries = fs::read_dir(directory.path().join("packs")).unwrap();
    let mut paths: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    paths
}

#[test]
fn a_pack_whose_objects_are_gone_is_used_again() {
    let directory = tempfile::tempdir().unwrap();
    let journal = open(&directory).unwrap();
    for round in 0..200u32 {
        let key = format!("a/{round}");
        create(&journal, &key, &[round as u8; 9000]).unwrap();
        assert_eq!(content(&journal, &key).unwrap(), [round as u8; 9000][..]);
        assert!(delete(&journal, &key));
        assert_eq!(content(&journal, &key), None);
    }
    assert_eq!(packs(&directory).len(), 2, "one that is written, and one that was");
}

#[test]
fn packs_that_nobody_needs_are_removed_but_for_some() {
    let directory = tempfile::tempdir().unwrap();
    let journal = open(&directory).unwrap();
    let keys: Vec<String> = (0..30).map(|at| format!("a/{at}")).collect();
    keys.iter().for_each(|key| create(&journal, key, &[1; 20_000]).unwrap());
    assert_eq!(packs(&directory).len(), 8);
    assert_eq!(journal.delete(&keys).unwrap(), [true; 30]);
    assert_eq!(packs(&directory).len(), 1 + SMALL.spare_packs);
}

#[test]
fn a_pack_is_not_used_again_while_somebody_reads_it() {
    let directory = tempfile::tempdir().unwrap();
    let journal = open(&directory).unwrap();
    create(&journal, "read", &[7; 30_000]).unwrap();
    let (file, stored) = journal.find("read").unwrap();
    assert!(delete(&journal, "read"));
    for at in 0..20 {
        create(&journal, &format!("a/{at}"), &[1; 30_000]).unwrap();
        assert!(delete(&journal, &format!("a/{at}")));
    }
    assert_eq!(blocks::read(&*file, stored.at, 30_000).unwrap(), [7; 30_000][..]);
}

#[test]
fn what_was_acknowledged_and_is_damaged_is_not_passed_over() {
    let directory = tempfile::tempdir().unwrap();
    let journal = open(&directory).unwrap();
    for key in ["a", "b", "c"] {
        create(&journal, key, b"content").unwrap();
    }
    let (_, stored) = journal.find("b").unwrap();
    drop(journal);
    let path = packs(&directory).remove(0);
    let mut bytes = fs::read(&path).unwrap();
    bytes[stored.block as usize * BLOCK + 20] ^= 1;
    fs::write(&path, &bytes).unwrap();
    let Err(StoreError::Refused(why)) = open(&directory) else {
        panic!("opened without what it had acknowledged");
    };
    assert!(why.contains(path.to_str().unwrap()) && why.contains("damaged"), "{why}");
    // One of the two states may be half written, not both.
    bytes[stored.block as usize * BLOCK + 20] ^= 1;
    bytes[100] ^= 1;
    fs::write(&path, &bytes).unwrap();
    assert_eq!(content(&open(&directory).unwrap(), "b").unwrap(), "content");
    let mut bytes = fs::read(&path).unwrap();
    bytes[100] ^= 1;
    bytes[BLOCK + 100] ^= 1;
    fs::write(&path, &bytes).unwrap();
    assert!(matches!(open(&directory), Err(StoreError::Refused(_))));
}

#[test]
fn a_start_finds_the_objects_and_gives_back_what_was_set_aside() {
    let directory = tempfile::tempdir().unwrap();
    let journal = open(&directory).unwrap();
    for key in ["n/1", "n/2", "o/3"] {
        create(&journal, key, key.as_bytes()).unwrap();
    }
    assert!(delete(&journal, "n/1"));
    fs::write(directory.path().join("packs/0000000000000009.new"), "half made").unwrap();
    drop(journal);
    let journal = open(&directory).unwrap();
    let listed = journal.list("n/", "", 10);
    let listed: Vec<(&str, u64)> = listed.iter().map(|object| (&*object.key, object.size)).collect();
    assert_eq!(listed, [("n/2", 3)]);
    assert_eq!(content(&journal, "o/3").unwrap(), "o/3");
    let left: Vec<u64> = packs(&directory)
        .iter()
        .map(|path| fs::metadata(path).unwrap().len())
        .collect();
    assert_eq!(left, [5 * BLOCK as u64], "two blocks of state and three entries");
    assert!(matches!(create(&journal, "n/2", b"x"), Err(StoreError::Conflict(_))));
    create(&journal, "n/1", b"again").unwrap();
    assert_eq!(content(&journal, "n/1").unwrap(), "again");
}

#[test]
fn alien_files_among_the_packs_are_refused() {
    let directory = tempfile::tempdir().unwrap();
    drop(open(&directory).unwrap());
    let alien = directory.path().join("packs/notes.txt");
    fs::write(&alien, "").unwrap();
    let Err(StoreError::Refused(why)) = open(&directory) else {
        panic!("opened");
    };
    assert!(why.contains(alien.to_str().unwrap()), "{why}");
}

#[test]
fn an_object_that_nobody_vouches_for_counts_if_its_sum_is_right() {
    let directory = tempfile::tempdir().unwrap();
    let journal = open(&directory).unwrap();
    let body = [Bytes::from_static(b"123456789")];
    journal.take("right").unwrap().store(&body, Some(0xe306_9283)).unwrap();
    drop(journal);
    let journal = open(&directory).unwrap();
    assert_eq!(content(&journal, "right").unwrap(), "123456789");
    journal.take("wrong").unwrap().store(&body, Some(0xe306_9282)).unwrap();
    drop(journal);
    assert_eq!(content(&open(&directory).unwrap(), "wrong"), None);
}

/// Where the packs are on a simulated disk.
const PACKS: &str = "/packs";

fn open_on(disk: &TestDisk) -> Result<Journal, StoreError> {
    Journal::open(PathBuf::from(PACKS), Arc::new(disk.clone()), SMALL)
}

fn packs_on(disk: &TestDisk) -> usize {
    disk.entries(Path::new(PACKS)).unwrap().len()
}

#[test]
fn where_there_is_little_room_packs_are_smaller_and_where_there_is_none_nothing_is_left() {
    let disk = TestDisk::new(1);
    let block = BLOCK as u64;
    disk.set_capacity(13 * block);
    let journal = open_on(&disk).unwrap();
    let keys: Vec<String> = (0..8).map(|at| format!("a/{at}")).collect();
    // 24 blocks do not fit; of 12, two tell the state.
    keys.iter().for_each(|key| create(&journal, key, &[1; 4000]).unwrap());
    assert_eq!(packs_on(&disk), 1);
    // An entry of five blocks makes a pack of seven.
    disk.set_capacity(20 * block);
    create(&journal, "large", &[2; 20_000]).unwrap();
    let refused = create(&journal, "none", &[3; 20_000]);
    assert!(matches!(refused, Err(StoreError::Full(_))), "{refused:?}");
    assert_eq!(packs_on(&disk), 2);
    // What was emptied is used again once there is room for it.
    assert_eq!(journal.delete(&keys).unwrap(), [true; 8]);
    disk.set_capacity(40 * block);
    create(&journal, "again", &[4; 30_000]).unwrap();
    assert_eq!(content(&journal, "again").unwrap(), [4; 30_000][..]);
    drop(journal);
    let journal = open_on(&disk).unwrap();
    assert_eq!(content(&journal, "large").unwrap(), [2; 20_000][..]);
    assert_eq!(content(&journal, "again").unwrap(), [4; 30_000][..]);
}

/// Every write to the device fails.
const BROKEN: Faults = Faults {
    write_permille: 1000,
    writes_left: None,
    flush_permille: 0,
    flushes_fail: false,
};

#[test]
fn a_failed_write_does_not_keep_its_pack_for_ever() {
    for direct in [true, false] {
        let disk = match direct {
            true => TestDisk::new(1),
            false => TestDisk::new(1).without_direct_writes(),
        };
        let journal = open_on(&disk).unwrap();
        for round in 0..20 {
            let (kept, failing) = (format!("kept/{round}"), format!("failing/{round}"));
            create(&journal, &kept, b"content").unwrap();
            disk.set_faults(BROKEN);
            assert!(create(&journal, &failing, b"content").is_err());
            disk.set_faults(Faults::default());
            create(&journal, &failing, b"content").unwrap();
            assert_eq!(journal.delete(&[kept, failing]).unwrap(), [true, true]);
        }
        assert!(
            packs_on(&disk) <= 2 + SMALL.spare_packs,
            "{} packs hold nothing",
            packs_on(&disk)
        );
    }
}

#[test]
fn a_delete_that_failed_is_not_answered_with_ok_when_it_is_asked_for_again() {
    let disk = TestDisk::new(1);
    let journal = open_on(&disk).unwrap();
    create(&journal, "a", b"content").unwrap();
    disk.set_faults(BROKEN);
    for _ in 0..2 {
        assert!(journal.delete(&["a".to_string()]).is_err());
    }
    disk.set_faults(Faults::default());
    assert_eq!(journal.delete(&["a".to_string()]).unwrap(), [true]);
    let journal = open_on(&disk.after_power_cut()).unwrap();
    assert_eq!(content(&journal, "a"), None);
}

#[test]
fn a_pack_that_cannot_be_named_leaves_no_file() {
    let disk = TestDisk::new(1);
    let journal = open_on(&disk).unwrap();
    disk.set_faults(Faults {
        flushes_fail: true,
        ..Faults::default()
    });
    for _ in 0..5 {
        assert!(create(&journal, "a", b"content").is_err());
    }
    disk.set_faults(Faults::default());
    create(&journal, "a", b"content").unwrap();
    assert_eq!(packs_on(&disk), 1);
}

/// What a key may be after a crash.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Expected {
    /// With this content; once it is deleted, perhaps with one of those that nobody knew the outcome of.
    There(Vec<u8>, Vec<Vec<u8>>),
    /// With one of these, or not at all.
    Perhaps(Vec<Vec<u8>>),
}

/// An object on its way into a pack.
struct UnderWay {
    place: Place,
    content: Vec<u8>,
    stage: Stage,
}

enum Stage {
    Placed,
    Written,
    Ended(io::Result<()>),
}

/// The seeds that a test runs.
fn seeds(count: u64) -> Range<u64> {
    let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse().ok());
    match number("SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..number("SEEDS").unwrap_or(count),
    }
}

/// Random objects that come and go, several on their way at once, on a disk that fails, fills up and loses its power;
/// after each start, what was acknowledged must be there, what was deleted must not, and what is there must be whole.
#[test]
fn no_power_cut_takes_what_was_acknowledged() {
    let failed: Vec<String> = seeds(1000)
        .filter_map(|seed| lose_power_again_and_again(seed, TestDisk::new(seed)).err())
        .collect();
    assert!(failed.is_empty(), "{} seeds fail: {}", failed.len(), failed[0]);
}

/// The same where direct writes go through the page cache, which forgets what it could not write.
#[test]
fn no_power_cut_takes_what_was_acknowledged_through_the_page_cache() {
    let failed: Vec<String> = seeds(1000)
        .filter_map(|seed| lose_power_again_and_again(seed, TestDisk::new(seed).without_direct_writes()).err())
        .collect();
    assert!(failed.is_empty(), "{} seeds fail: {}", failed.len(), failed[0]);
}

/// The mistake that was there once: all writers of a pack share a descriptor, and one of them takes the error of all.
#[test]
fn writers_that_believe_a_sync_of_a_shared_descriptor_are_found() {
    let found = (0..2000).find(|seed| {
        let disk = TestDisk::new(*seed)
            .without_direct_writes()
            .with_one_descriptor_per_file();
        lose_power_again_and_again(*seed, disk).is_err()
    });
    println!("found by seed {found:?}");
    assert!(found.is_some());
}

/// One course of events; the error says what was broken.
fn lose_power_again_and_again(seed: u64, mut disk: TestDisk) -> Result<(), String> {
    let mut random = Rng::with_seed(seed);
    let mut expected: BTreeMap<String, Expected> = BTreeMap::new();
    let mut next_key = 0;
    for life in 0..5 {
        let when = format!("seed {seed}, life {life}");
        // An error that nobody has reported yet is reported by the first sync: a second start gets past it.
        let journal = open_on(&disk)
            .or_else(|_| open_on(&disk))
            .map_err(|error| format!("{when}: {error}"))?;
        check(&journal, &mut expected, &when)?;
        let mut under_way: Vec<UnderWay> = Vec::new();
        for _ in 0..random.u32(1..80) {
            make_trouble(&disk, &mut random);
            step(&journal, &mut random, &mut expected, &mut under_way, &mut next_key);
        }
        for one in under_way {
            perhaps(&mut expected, one.place.header.key, one.content);
        }
        // A killed process leaves the page cache as it is.
        if random.u8(..4) > 0 {
            disk = disk.after_power_cut();
        }
        disk.set_faults(Faults::default());
    }
    Ok(())
}

fn make_trouble(disk: &TestDisk, random: &mut Rng) {
    match random.u8(..30) {
        0 => disk.set_faults(Faults {
            write_permille: random.u32(100..1000),
            flush_permille: random.u32(..300),
            ..Faults::default()
        }),
        1 => disk.set_faults(Faults {
            writes_left: Some(random.u32(..3)),
            ..Faults::default()
        }),
        2..8 => disk.set_faults(Faults::default()),
        8..12 => disk.write_back_some(),
        12 => disk.set_capacity(random.u64(20..100) * BLOCK as u64),
        13..16 => disk.set_capacity(u64::MAX),
        _ => {}
    }
}

fn step(
    journal: &Journal,
    random: &mut Rng,
    expected: &mut BTreeMap<String, Expected>,
    under_way: &mut Vec<UnderWay>,
    next_key: &mut u32,
) {
    match random.u8(..16) {
        // Begins to write one.
        0..4 => {
            let len = *random.choice(&[0, 1, 100, 4000, 4096, 9000, 40_000]).unwrap();
            let content: Vec<u8> = std::iter::repeat_with(|| random.u8(..)).take(len).collect();
            // At times a name again of which it is not known whether it was written.
            let doubtful = expected
                .iter()
                .find(|(key, state)| matches!(state, Expected::Perhaps(_)) && self::content(journal, key).is_none());
            let key = match doubtful {
                Some((key, _)) if random.bool() => key.clone(),
                _ => {
                    *next_key += 1;
                    format!("k/{next_key:05}")
                }
            };
            if under_way.iter().all(|one| one.place.header.key != key) {
                if let Ok(place) = journal.place(&key, content.len() as u64) {
                    let stage = Stage::Placed;
                    under_way.push(UnderWay { place, content, stage });
                }
            }
        }
        // Goes on with one: threads do this at the same time.
        4..14 if !under_way.is_empty() => {
            let at = random.usize(..under_way.len());
            let one = &mut under_way[at];
            match one.stage {
                Stage::Placed => {
                    one.stage = match write_entry(&one.place, &[Bytes::from(one.content.clone())], None) {
                        Ok(()) => Stage::Written,
                        failed => Stage::Ended(failed),
                    };
                }
                Stage::Written => one.stage = Stage::Ended(one.place.file.sync()),
                Stage::Ended(_) => end(journal, under_way.swap_remove(at), expected),
            }
        }
        // Deletes one.
        _ => {
            let there = expected
                .iter()
                .filter(|(_, state)| matches!(state, Expected::There(..)));
            let keys: Vec<String> = there.map(|(key, _)| key.clone()).collect();
            let Some(key) = random.choice(&keys) else {
                return;
            };
            let deleted = journal.delete(std::slice::from_ref(key));
            if let Some(Expected::There(content, mut doubtful)) = expected.remove(key) {
                if deleted.is_err() {
                    doubtful.push(content);
                }
                expected.insert(key.clone(), Expected::Perhaps(doubtful));
            }
        }
    }
}

fn end(journal: &Journal, one: UnderWay, expected: &mut BTreeMap<String, Expected>) {
    let Stage::Ended(written) = one.stage else {
        unreachable!("the caller has looked");
    };
    let key = one.place.header.key.clone();
    match journal.finish(one.place, written) {
        Ok(stored) => {
            journal.lock().names.insert(key.clone(), Name::Stored(stored));
            let doubtful = match expected.remove(&key) {
                Some(Expected::Perhaps(contents)) => contents,
                _ => Vec::new(),
            };
            expected.insert(key, Expected::There(one.content, doubtful));
        }
        Err(StoreError::OutcomeUnknown(_)) => perhaps(expected, key, one.content),
        Err(_) => {}
    }
}

fn perhaps(expected: &mut BTreeMap<String, Expected>, key: String, content: Vec<u8>) {
    match expected.entry(key).or_insert(Expected::Perhaps(Vec::new())) {
        Expected::Perhaps(contents) => contents.push(content),
        Expected::There(..) => panic!("it is there already"),
    }
}

fn check(journal: &Journal, expected: &mut BTreeMap<String, Expected>, when: &str) -> Result<(), String> {
    for object in journal.list("", "", usize::MAX) {
        if !expected.contains_key(&object.key) {
            return Err(format!("{when}: {} should not be there", object.key));
        }
    }
    let mut wrong = None;
    expected.retain(|key, state| {
        let found = content(journal, key).map(|bytes| bytes.to_vec());
        match (&*state, found) {
            (Expected::There(content, _), found) => {
                if found.as_ref() != Some(content) {
                    wrong.get_or_insert(format!("{when}: {key} is lost or changed"));
                }
                *state = Expected::There(content.clone(), Vec::new());
                true
            }
            (Expected::Perhaps(contents), Some(found)) => {
                if !contents.contains(&found) {
                    wrong.get_or_insert(format!("{when}: {key} is half there, or should not be"));
                }
                *state = Expected::There(found, Vec::new());
                true
            }
            // It can come no more: whatever there was of it has been passed over once and for all.
            (Expected::Perhaps(_), None) => false,
        }
    });
    wrong.map_or(Ok(()), Err)
}
