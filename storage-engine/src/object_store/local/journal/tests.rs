use super::super::disk::{Disk, RealDisk};
use super::*;
use fastrand::Rng;
use std::collections::BTreeMap;
use std::ops::Range;
use std::os::unix::fs::MetadataExt;
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
    assert_eq!(blocks::read(&file, stored.at, 30_000).unwrap(), [7; 30_000][..]);
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

/// A disk with room for packs of so many blocks.
#[derive(Debug)]
struct SmallDisk(Mutex<u64>);

impl Disk for SmallDisk {
    fn reserve(&self, file: &File, bytes: u64) -> io::Result<()> {
        match bytes / BLOCK as u64 > *self.0.lock().unwrap() {
            true => Err(rustix::io::Errno::NOSPC.into()),
            false => RealDisk.reserve(file, bytes),
        }
    }
}

#[test]
fn where_there_is_little_room_packs_are_smaller_and_where_there_is_none_nothing_is_left() {
    let directory = tempfile::tempdir().unwrap();
    let disk = Arc::new(SmallDisk(Mutex::new(7)));
    let journal = Journal::open(directory.path().join("packs"), disk.clone(), SMALL).unwrap();
    let keys: Vec<String> = (0..8).map(|at| format!("a/{at}")).collect();
    keys.iter().for_each(|key| create(&journal, key, &[1; 4000]).unwrap());
    // 24 blocks and 12 do not fit; of 6, two tell the state.
    assert_eq!(packs(&directory).len(), 2);
    // An entry of five blocks makes a pack of seven.
    create(&journal, "large", &[2; 20_000]).unwrap();
    *disk.0.lock().unwrap() = 2;
    let refused = create(&journal, "none", &[3; 4000]);
    assert!(matches!(refused, Err(StoreError::Full(_))), "{refused:?}");
    assert_eq!(packs(&directory).len(), 3);
    // What was emptied is used again once there is room for it.
    assert_eq!(journal.delete(&keys).unwrap(), [true; 8]);
    *disk.0.lock().unwrap() = 24;
    create(&journal, "again", &[4; 30_000]).unwrap();
    assert_eq!(content(&journal, "again").unwrap(), [4; 30_000][..]);
    drop(journal);
    let journal = open(&directory).unwrap();
    assert_eq!(content(&journal, "large").unwrap(), [2; 20_000][..]);
    assert_eq!(content(&journal, "again").unwrap(), [4; 30_000][..]);
}

/// The real disk, which knows what a power loss would leave of it, and whose writes can fail.
#[derive(Debug, Default)]
struct CrashDisk {
    state: Mutex<CrashState>,
}

#[derive(Debug, Default)]
struct CrashState {
    /// What is synced, by inode: a rename keeps it.
    durable: BTreeMap<u64, Vec<u8>>,
    /// Keeps the inodes of removed files from being used again.
    opened: Vec<File>,
    /// What is written and not synced.
    pending: Vec<(u64, u64, Vec<u8>)>,
    /// Names that are synced.
    names: BTreeMap<PathBuf, u64>,
    /// The write after so many fails, half done; so do all syncs and writes after it, if it says so.
    fail_after: Option<(u32, bool)>,
}

impl CrashState {
    fn fails(&mut self) -> bool {
        match &mut self.fail_after {
            Some((0, for_good)) => {
                if !*for_good {
                    self.fail_after = None;
                }
                true
            }
            Some((left, _)) => {
                *left -= 1;
                false
            }
            None => false,
        }
    }
}

fn put(content: &mut Vec<u8>, at: u64, bytes: &[u8]) {
    let end = at as usize + bytes.len();
    content.resize(content.len().max(end), 0);
    content[at as usize..end].copy_from_slice(bytes);
}

impl Disk for CrashDisk {
    fn write_at(&self, file: &File, blocks: &[u8], at: u64) -> io::Result<()> {
        let inode = file.metadata()?.ino();
        let mut state = self.state.lock().unwrap();
        let failed = state.fails();
        let done = if failed {
            &blocks[..blocks.len() / 2 / 512 * 512]
        } else {
            blocks
        };
        state.pending.push((inode, at, done.to_vec()));
        if failed {
            return Err(io::Error::from_raw_os_error(5));
        }
        RealDisk.write_at(file, blocks, at)
    }

    fn sync_file(&self, file: &File) -> io::Result<()> {
        let inode = file.metadata()?.ino();
        let mut state = self.state.lock().unwrap();
        if let Some((0, true)) = state.fail_after {
            return Err(io::Error::from_raw_os_error(5));
        }
        let CrashState {
            durable,
            opened,
            pending,
            ..
        } = &mut *state;
        if !durable.contains_key(&inode) {
            opened.push(file.try_clone()?);
        }
        let content = durable.entry(inode).or_default();
        pending.retain(|(of, at, bytes)| {
            if *of == inode {
                put(content, *at, bytes);
            }
            *of != inode
        });
        content.resize(file.metadata()?.len() as usize, 0);
        Ok(())
    }

    fn sync_directory(&self, path: &Path) -> io::Result<()> {
        let mut names = BTreeMap::new();
        for entry in fs::read_dir(path)? {
            let entry = entry?;
            names.insert(entry.path(), entry.metadata()?.ino());
        }
        self.state.lock().unwrap().names = names;
        Ok(())
    }
}

impl CrashDisk {
    /// Leaves in `into` what a power loss now could: what was not synced is there or not, sector by sector.
    fn crash(&self, random: &mut Rng, into: &Path) {
        fs::create_dir_all(into).unwrap();
        let mut state = self.state.lock().unwrap();
        for (inode, at, bytes) in std::mem::take(&mut state.pending) {
            let content = state.durable.entry(inode).or_default();
            let kind = random.u8(..3);
            for (sector, bytes) in bytes.chunks(512).enumerate() {
                if kind == 0 || (kind == 1 && random.bool()) {
                    put(content, at + sector as u64 * 512, bytes);
                }
            }
        }
        for (path, inode) in &state.names {
            fs::write(into.join(path.file_name().unwrap()), &state.durable[inode]).unwrap();
        }
    }
}

/// What a key may be after a crash.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Expected {
    /// With this content; once it is deleted, perhaps with one of those that nobody knew the outcome of.
    There(Vec<u8>, Vec<Vec<u8>>),
    /// With one of these, or not at all.
    Perhaps(Vec<Vec<u8>>),
}

/// An object whose entry is being written.
type UnderWay = (Place, Vec<u8>);

/// Random objects that come and go, several on their way at once, on a disk that fails and loses its power; after each loss,
/// what was acknowledged must be there, what was deleted must not, and what is there must be whole.
#[test]
fn no_power_loss_takes_what_was_acknowledged() {
    let seeds = std::env::var("SEEDS").map_or(200, |seeds| seeds.parse().unwrap());
    let first = std::env::var("SEED").map_or(0, |seed| seed.parse().unwrap());
    for seed in first..first + seeds {
        lose_power_again_and_again(seed);
    }
}

fn lose_power_again_and_again(seed: u64) {
    let mut random = Rng::with_seed(seed);
    let root = tempfile::tempdir().unwrap();
    let mut expected: BTreeMap<String, Expected> = BTreeMap::new();
    let mut next_key = 0;
    for life in 0..5 {
        let directory = root.path().join(life.to_string());
        fs::create_dir_all(&directory).unwrap();
        let disk = Arc::new(CrashDisk::default());
        {
            // What the loss left is durable.
            let mut state = disk.state.lock().unwrap();
            for entry in fs::read_dir(&directory).unwrap() {
                let (path, inode) = (entry.as_ref().unwrap().path(), entry.unwrap().metadata().unwrap().ino());
                state.durable.insert(inode, fs::read(&path).unwrap());
                state.opened.push(File::open(&path).unwrap());
                state.names.insert(path, inode);
            }
        }
        let journal = Journal::open(directory, disk.clone(), SMALL)
            .unwrap_or_else(|error| panic!("seed {seed}, life {life}: {error}"));
        check(&journal, &mut expected, &format!("seed {seed}, life {life}"));
        let mut under_way: Vec<UnderWay> = Vec::new();
        for _ in 0..random.u32(1..60) {
            step(
                &journal,
                &disk,
                &mut random,
                &mut expected,
                &mut under_way,
                &mut next_key,
            );
        }
        // Some are half on the disk when the power goes.
        for (place, content) in under_way {
            if random.bool() {
                disk.state.lock().unwrap().fail_after = Some((0, true));
                assert!(journal
                    .write_entry(&place, &[Bytes::from(content.clone())], None)
                    .is_err());
                disk.state.lock().unwrap().fail_after = None;
            }
            perhaps(&mut expected, place.header.key, content);
        }
        disk.crash(&mut random, &root.path().join((life + 1).to_string()));
    }
}

fn step(
    journal: &Journal,
    disk: &CrashDisk,
    random: &mut Rng,
    expected: &mut BTreeMap<String, Expected>,
    under_way: &mut Vec<UnderWay>,
    next_key: &mut u32,
) {
    match random.u8(..10) {
        // Begins to write one.
        0..4 => {
            let len = *random.choice(&[0, 1, 100, 4000, 4096, 9000, 40_000]).unwrap();
            let content: Vec<u8> = std::iter::repeat_with(|| random.u8(..)).take(len).collect();
            // At times a name again of which it is not known whether it was written.
            let doubtful = expected
                .iter()
                .find(|(key, state)| matches!(state, Expected::Perhaps(_)) && content_of(journal, key).is_none());
            let key = match doubtful {
                Some((key, _)) if random.bool() => key.clone(),
                _ => {
                    *next_key += 1;
                    format!("k/{next_key:05}")
                }
            };
            if under_way.iter().all(|(place, _)| place.header.key != key) {
                under_way.push((journal.place(&key, content.len() as u64).unwrap(), content));
            }
        }
        // Ends with one, well or not.
        4..8 if !under_way.is_empty() => {
            let (place, content) = under_way.swap_remove(random.usize(..under_way.len()));
            if random.u8(..5) == 0 {
                disk.state.lock().unwrap().fail_after = Some((random.u32(..2), random.bool()));
            }
            let written = journal.write_entry(&place, &[Bytes::from(content.clone())], None);
            let key = place.header.key.clone();
            match journal.finish(&place, written) {
                Ok(stored) => {
                    journal.lock().names.insert(key.clone(), Name::Stored(stored));
                    let doubtful = match expected.remove(&key) {
                        Some(Expected::Perhaps(contents)) => contents,
                        _ => Vec::new(),
                    };
                    expected.insert(key, Expected::There(content, doubtful));
                }
                Err(StoreError::OutcomeUnknown(_)) => perhaps(expected, key, content),
                Err(_) => {}
            }
            disk.state.lock().unwrap().fail_after = None;
        }
        // Deletes one.
        _ => {
            let there = expected
                .iter()
                .filter(|(_, state)| matches!(state, Expected::There(..)));
            let keys: Vec<String> = there.map(|(key, _)| key.clone()).collect();
            if let Some(key) = random.choice(&keys) {
                assert!(delete(journal, key));
                if let Some(Expected::There(_, doubtful)) = expected.remove(key) {
                    expected.insert(key.clone(), Expected::Perhaps(doubtful));
                }
            }
        }
    }
}

fn content_of(journal: &Journal, key: &str) -> Option<Bytes> {
    journal.read(key, all).unwrap().map(|(bytes, _)| bytes)
}

fn perhaps(expected: &mut BTreeMap<String, Expected>, key: String, content: Vec<u8>) {
    match expected.entry(key).or_insert(Expected::Perhaps(Vec::new())) {
        Expected::Perhaps(contents) => contents.push(content),
        Expected::There(..) => panic!("it is there already"),
    }
}

fn check(journal: &Journal, expected: &mut BTreeMap<String, Expected>, when: &str) {
    for object in journal.list("", "", usize::MAX) {
        assert!(
            expected.contains_key(&object.key),
            "{when}: {} should not be there",
            object.key
        );
    }
    expected.retain(|key, state| {
        let found = content_of(journal, key).map(|bytes| bytes.to_vec());
        match (&*state, found) {
            (Expected::There(content, _), found) => {
                assert!(found.as_ref() == Some(content), "{when}: {key} is lost or changed");
                *state = Expected::There(content.clone(), Vec::new());
                true
            }
            (Expected::Perhaps(contents), Some(found)) => {
                assert!(
                    contents.contains(&found),
                    "{when}: {key} is half there, or should not be"
                );
                *state = Expected::There(found, Vec::new());
                true
            }
            // It can come no more: whatever there was of it has been passed over once and for all.
            (Expected::Perhaps(_), None) => false,
        }
    });
}
