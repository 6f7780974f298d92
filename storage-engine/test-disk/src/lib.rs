//! A disk in memory for tests: a file system over a block device that fails, fills up and loses its power.
//!
//! Bytes pass through three places. The page cache holds what was written and is not yet on the device; the device's own
//! cache holds what the device accepted and would lose with its power; the medium keeps its content. A sync moves bytes
//! down to the medium. A power cut keeps the medium, and any subset of the rest, sector by sector.
//!
//! The page cache behaves like Linux's. A page whose write to the device fails becomes clean, is read back as if it had
//! been written, and never reaches the device; each open descriptor of the file reports that failure once, from a sync.
//! Everything random is drawn from the seed, so a seed is one course of events.
#![allow(clippy::unwrap_used)] // A panic is how a test fails.

mod inode;

use inode::{Change, Inode, SECTOR};
use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Bytes of a block, the unit in which space is taken.
const BLOCK: u64 = 4096;

/// What goes wrong.
#[derive(Debug, Clone, Copy, Default)]
pub struct Faults {
    /// Of a thousand writes to the device, this many fail.
    pub write_permille: u32,
    /// After this many more writes to the device, every further one fails. `None`: never.
    pub writes_left: Option<u32>,
    /// Of a thousand flushes of the device's cache, this many fail.
    pub flush_permille: u32,
    /// Every flush of the device's cache fails.
    pub flushes_fail: bool,
}

/// The machine's disk. Clones share it.
#[derive(Debug, Clone)]
pub struct TestDisk(Arc<Mutex<State>>);

#[derive(Debug)]
struct State {
    random: fastrand::Rng,
    inodes: BTreeMap<u64, Inode>,
    /// As processes see them.
    names: BTreeMap<PathBuf, Node>,
    /// As a power cut leaves them at least.
    durable_names: BTreeMap<PathBuf, Node>,
    /// Changes of names since, in order.
    unsynced_names: Vec<(PathBuf, Option<Node>)>,
    next_inode: u64,
    /// Whether writes that ask for it bypass the page cache.
    direct: bool,
    /// Whether all descriptors of a file share the errors that they report.
    shared_errors: bool,
    /// Whether the page cache is kept though a process asks to drop it.
    sticky_cache: bool,
    /// Blocks that files may take.
    capacity: u64,
    faults: Faults,
    /// Writes to the device so far, those that failed included.
    writes: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Node {
    Directory,
    File(u64),
}

/// What is at a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A directory.
    Directory,
    /// A file of this many bytes.
    File(u64),
}

/// An open file: one descriptor, with its own view of the errors of the file.
#[derive(Debug)]
pub struct TestFile {
    disk: TestDisk,
    inode: u64,
    direct: bool,
    /// Failures of the file that this descriptor need not report any longer.
    reported: Mutex<u64>,
}

impl TestDisk {
    /// An empty disk with plenty of room, whose direct writes bypass the page cache.
    pub fn new(seed: u64) -> Self {
        let root = BTreeMap::from([(PathBuf::from("/"), Node::Directory)]);
        TestDisk(Arc::new(Mutex::new(State {
            random: fastrand::Rng::with_seed(seed),
            inodes: BTreeMap::new(),
            names: root.clone(),
            durable_names: root,
            unsynced_names: Vec::new(),
            next_inode: 1,
            direct: true,
            shared_errors: false,
            sticky_cache: false,
            capacity: u64::MAX,
            faults: Faults::default(),
            writes: 0,
        })))
    }

    /// The same disk under a file system that sends direct writes through the page cache.
    pub fn without_direct_writes(self) -> Self {
        self.lock().direct = false;
        self
    }

    /// A mistake planted for a test: all writers of a file share one descriptor, so one sync takes the error of all.
    pub fn with_one_descriptor_per_file(self) -> Self {
        self.lock().shared_errors = true;
        self
    }

    /// A mistake planted for a test: what a process asks to be read from the device comes from the page cache.
    pub fn with_sticky_cache(self) -> Self {
        self.lock().sticky_cache = true;
        self
    }

    /// Lets go wrong what `faults` says, from now on.
    pub fn set_faults(&self, faults: Faults) {
        self.lock().faults = faults;
    }

    /// Sets the room that files may take, in bytes.
    pub fn set_capacity(&self, bytes: u64) {
        self.lock().capacity = bytes / BLOCK;
    }

    /// Bytes that files may still take.
    pub fn free(&self) -> u64 {
        let state = self.lock();
        state.capacity.saturating_sub(state.taken()).saturating_mul(BLOCK)
    }

    /// Bytes that files have taken.
    pub fn used(&self) -> u64 {
        self.lock().taken() * BLOCK
    }

    /// Writes to the device so far.
    pub fn writes(&self) -> u64 {
        self.lock().writes
    }

    /// Writes some of what the page cache holds to the device, as the kernel does at any time.
    pub fn write_back_some(&self) {
        let mut state = self.lock();
        let dirty: Vec<u64> = state
            .inodes
            .iter()
            .filter(|(_, inode)| inode.is_dirty())
            .map(|(number, _)| *number)
            .collect();
        if let Some(number) = state.pick(&dirty) {
            state.write_back(number, true);
        }
    }

    /// The disk after a power cut: the medium, and of everything else any subset, sector by sector.
    pub fn after_power_cut(&self) -> TestDisk {
        let mut state = self.lock();
        let State { random, inodes, .. } = &mut *state;
        let inodes = inodes
            .iter()
            .map(|(number, inode)| (*number, inode.after_power_cut(random)))
            .collect();
        let mut names = state.durable_names.clone();
        // The file system's journal keeps the order of changes to names: some of the first survive.
        let kept = state.unsynced_names.len();
        let kept = state.random.usize(..=kept);
        for (path, node) in state.unsynced_names.iter().take(kept) {
            apply_name(&mut names, path, *node);
        }
        let seed = state.random.u64(..);
        TestDisk(Arc::new(Mutex::new(State {
            random: fastrand::Rng::with_seed(seed),
            inodes,
            durable_names: names.clone(),
            names,
            unsynced_names: Vec::new(),
            next_inode: state.next_inode,
            faults: Faults::default(),
            writes: 0,
            ..*state
        })))
    }

    /// Makes a file that was not there.
    ///
    /// # Errors
    /// If the name is taken, or its directory is missing.
    pub fn create(&self, path: &Path, direct: bool) -> io::Result<TestFile> {
        let mut state = self.lock();
        if state.names.contains_key(path) {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        state.parent_of(path)?;
        let inode = state.next_inode;
        state.next_inode += 1;
        state.inodes.insert(inode, Inode::default());
        state.rename_node(path, Some(Node::File(inode)));
        drop(state);
        Ok(self.descriptor(inode, direct))
    }

    /// Opens a file.
    ///
    /// # Errors
    /// If there is no such file.
    pub fn open(&self, path: &Path, direct: bool) -> io::Result<TestFile> {
        let found = self.lock().names.get(path).copied();
        match found {
            Some(Node::File(inode)) => Ok(self.descriptor(inode, direct)),
            Some(Node::Directory) => Err(io::ErrorKind::IsADirectory.into()),
            None => Err(io::ErrorKind::NotFound.into()),
        }
    }

    fn descriptor(&self, inode: u64, direct: bool) -> TestFile {
        let state = self.lock();
        // A descriptor reports what happened before it was opened only if nobody else has reported that yet.
        let errors = state.inodes[&inode].errors;
        let reported = if state.inodes[&inode].seen_errors == errors {
            errors
        } else {
            0
        };
        let direct = direct && state.direct;
        drop(state);
        TestFile {
            disk: self.clone(),
            inode,
            direct,
            reported: Mutex::new(reported),
        }
    }

    /// What is at a path.
    ///
    /// # Errors
    /// If nothing is.
    pub fn kind(&self, path: &Path) -> io::Result<Kind> {
        let state = self.lock();
        match state.names.get(path) {
            Some(Node::Directory) => Ok(Kind::Directory),
            Some(Node::File(inode)) => Ok(Kind::File(state.inodes[inode].len())),
            None => Err(io::ErrorKind::NotFound.into()),
        }
    }

    /// The paths in a directory.
    ///
    /// # Errors
    /// If it is not there, or no directory.
    pub fn entries(&self, path: &Path) -> io::Result<Vec<PathBuf>> {
        let state = self.lock();
        match state.names.get(path) {
            Some(Node::Directory) => {}
            Some(Node::File(_)) => return Err(io::ErrorKind::NotADirectory.into()),
            None => return Err(io::ErrorKind::NotFound.into()),
        }
        let inside = state.names.keys().filter(|name| name.parent() == Some(path));
        Ok(inside.cloned().collect())
    }

    /// Gives a file another name, unless that is taken.
    ///
    /// # Errors
    /// If it is taken, or there is no such file, or no directory for it.
    pub fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut state = self.lock();
        let node = state.names.get(from).copied().ok_or(io::ErrorKind::NotFound)?;
        if state.names.contains_key(to) {
            // As the system call has it, so that callers find the number.
            return Err(io::Error::from_raw_os_error(17));
        }
        if state.parent_of(to).is_err() {
            return Err(io::Error::from_raw_os_error(2));
        }
        state.rename_node(from, None);
        state.rename_node(to, Some(node));
        Ok(())
    }

    /// Removes a file.
    ///
    /// # Errors
    /// If there is no such file.
    pub fn remove_file(&self, path: &Path) -> io::Result<()> {
        let mut state = self.lock();
        match state.names.get(path) {
            Some(Node::File(_)) => state.rename_node(path, None),
            Some(Node::Directory) => return Err(io::ErrorKind::IsADirectory.into()),
            None => return Err(io::ErrorKind::NotFound.into()),
        }
        Ok(())
    }

    /// Removes an empty directory.
    ///
    /// # Errors
    /// If it is not empty or not there.
    pub fn remove_directory(&self, path: &Path) -> io::Result<()> {
        let mut state = self.lock();
        match state.names.get(path) {
            Some(Node::Directory) => {}
            _ => return Err(io::ErrorKind::NotFound.into()),
        }
        if state.names.keys().any(|name| name.parent() == Some(path)) {
            return Err(io::ErrorKind::DirectoryNotEmpty.into());
        }
        state.rename_node(path, None);
        Ok(())
    }

    /// Makes a directory and those above it.
    ///
    /// # Errors
    /// If a file is in the way.
    pub fn make_directories(&self, path: &Path) -> io::Result<()> {
        let mut state = self.lock();
        let mut above: Vec<&Path> = path.ancestors().collect();
        above.reverse();
        for directory in above {
            match state.names.get(directory) {
                Some(Node::Directory) => {}
                Some(Node::File(_)) => return Err(io::ErrorKind::NotADirectory.into()),
                None => state.rename_node(directory, Some(Node::Directory)),
            }
        }
        Ok(())
    }

    /// Makes the names in a directory durable.
    ///
    /// # Errors
    /// If it is not there, or a flush fails.
    pub fn sync_directory(&self, path: &Path) -> io::Result<()> {
        let mut state = self.lock();
        if state.names.get(path) != Some(&Node::Directory) {
            return Err(io::ErrorKind::NotFound.into());
        }
        if state.flush_fails() {
            return Err(io::Error::from_raw_os_error(5));
        }
        let State {
            durable_names,
            unsynced_names,
            ..
        } = &mut *state;
        unsynced_names.retain(|(name, node)| {
            let inside = name.parent() == Some(path);
            if inside {
                apply_name(durable_names, name, *node);
            }
            !inside
        });
        Ok(())
    }

    /// Makes everything durable.
    ///
    /// # Errors
    /// If a write or a flush fails.
    pub fn sync_everything(&self) -> io::Result<()> {
        let mut state = self.lock();
        let numbers: Vec<u64> = state.inodes.keys().copied().collect();
        let mut failed = state.flush_fails();
        for number in numbers {
            let before = state.inodes[&number].errors;
            state.write_back(number, false);
            failed |= state.inodes[&number].errors > before;
            if !failed {
                state.inode(number).flush();
            }
        }
        if failed {
            return Err(io::Error::from_raw_os_error(5));
        }
        state.durable_names = state.names.clone();
        state.unsynced_names.clear();
        Ok(())
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn apply_name(names: &mut BTreeMap<PathBuf, Node>, path: &Path, node: Option<Node>) {
    match node {
        Some(node) => names.insert(path.to_path_buf(), node),
        None => names.remove(path),
    };
}

impl State {
    fn inode(&mut self, number: u64) -> &mut Inode {
        self.inodes.get_mut(&number).unwrap()
    }

    fn pick(&mut self, from: &[u64]) -> Option<u64> {
        self.random.choice(from.iter().copied())
    }

    fn parent_of(&self, path: &Path) -> io::Result<()> {
        match path.parent().and_then(|parent| self.names.get(parent)) {
            Some(Node::Directory) => Ok(()),
            _ => Err(io::ErrorKind::NotFound.into()),
        }
    }

    fn rename_node(&mut self, path: &Path, node: Option<Node>) {
        apply_name(&mut self.names, path, node);
        self.unsynced_names.push((path.to_path_buf(), node));
    }

    /// Blocks that files have taken. A file that has no name counts no longer.
    fn taken(&self) -> u64 {
        let files = self.names.values().filter_map(|node| match node {
            Node::File(inode) => Some(inode),
            Node::Directory => None,
        });
        files.map(|inode| self.inodes[inode].blocks).sum()
    }

    fn take_room(&mut self, number: u64, blocks: u64) -> io::Result<()> {
        let more = blocks.saturating_sub(self.inodes[&number].blocks);
        if more > 0 && more > self.capacity.saturating_sub(self.taken()) {
            return Err(io::Error::from_raw_os_error(28));
        }
        let inode = self.inode(number);
        inode.blocks = inode.blocks.max(blocks);
        Ok(())
    }

    fn write_fails(&mut self) -> bool {
        self.writes += 1;
        match &mut self.faults.writes_left {
            Some(0) => return true,
            Some(left) => *left -= 1,
            None => {}
        }
        self.random.u32(..1000) < self.faults.write_permille
    }

    fn flush_fails(&mut self) -> bool {
        self.faults.flushes_fail || self.random.u32(..1000) < self.faults.flush_permille
    }

    /// Sends dirty sectors of a file to the device, all or some. Where that fails, the sectors are clean all the same.
    fn write_back(&mut self, number: u64, some: bool) {
        for extent in self.inodes[&number].dirty_extents() {
            if some && self.random.bool() {
                continue;
            }
            let failed = self.write_fails();
            let inode = self.inode(number);
            if failed {
                inode.errors += 1;
            }
            inode.clean(extent, !failed);
        }
    }
}

impl TestFile {
    /// Bytes of the file.
    pub fn len(&self) -> u64 {
        self.disk.lock().inodes[&self.inode].len()
    }

    /// Whether it has none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Which file this is: the same for all its descriptors and names.
    pub fn inode(&self) -> u64 {
        self.inode
    }

    /// Reads what is there, at most all of `into`.
    ///
    /// # Errors
    /// None.
    pub fn read_at(&self, into: &mut [u8], at: u64) -> io::Result<usize> {
        Ok(self.disk.lock().inodes[&self.inode].read(into, at))
    }

    /// Writes all of `bytes`.
    ///
    /// # Errors
    /// If there is no room; past the page cache also if the device fails, with some sectors written.
    pub fn write_at(&self, bytes: &[u8], at: u64) -> io::Result<()> {
        let mut state = self.disk.lock();
        let end = at + bytes.len() as u64;
        state.take_room(self.inode, end.div_ceil(BLOCK))?;
        if !self.direct {
            state.inode(self.inode).write(bytes, at);
            return Ok(());
        }
        let failed = state.write_fails();
        let done = match failed {
            true => bytes.len() / 2 / SECTOR as usize * SECTOR as usize,
            false => bytes.len(),
        };
        let inode = state.inode(self.inode);
        inode.write(&bytes[..done], at);
        for extent in inode.dirty_extents() {
            inode.clean(extent, true);
        }
        match failed {
            true => Err(io::Error::from_raw_os_error(5)),
            false => Ok(()),
        }
    }

    /// Makes the file this long.
    ///
    /// # Errors
    /// None.
    pub fn set_len(&self, len: u64) -> io::Result<()> {
        let mut state = self.disk.lock();
        let inode = state.inode(self.inode);
        inode.change(Change::Length(len));
        inode.blocks = inode.blocks.min(len.div_ceil(BLOCK));
        Ok(())
    }

    /// Sets room aside for the file, which is at least that long then.
    ///
    /// # Errors
    /// If there is no room.
    pub fn reserve(&self, len: u64) -> io::Result<()> {
        let mut state = self.disk.lock();
        state.take_room(self.inode, len.div_ceil(BLOCK))?;
        let inode = state.inode(self.inode);
        if inode.len() < len {
            inode.change(Change::Length(len));
        }
        Ok(())
    }

    /// Makes the file's content durable.
    ///
    /// # Errors
    /// If a write to the device failed since this descriptor last reported one, or a flush fails now.
    pub fn sync(&self) -> io::Result<()> {
        let mut state = self.disk.lock();
        state.write_back(self.inode, false);
        let flushed = !state.flush_fails();
        let shared = state.shared_errors;
        let inode = state.inode(self.inode);
        if flushed {
            inode.flush();
        }
        let errors = inode.errors;
        let seen = std::mem::replace(&mut inode.seen_errors, errors);
        let reported = std::mem::replace(
            &mut *self.reported.lock().unwrap_or_else(PoisonError::into_inner),
            errors,
        );
        let unreported = errors > if shared { seen } else { reported };
        match flushed && !unreported {
            true => Ok(()),
            false => Err(io::Error::from_raw_os_error(5)),
        }
    }

    /// Has the page cache forget what it need not write any more, so that reads come from the device.
    pub fn drop_cache(&self) {
        let mut state = self.disk.lock();
        if !state.sticky_cache {
            state.inode(self.inode).drop_cache();
        }
    }
}

#[cfg(test)]
mod tests;
