//! The file system itself: every operation goes to a directory, unless the test has it fail.
//!
//! Inodes are those of the directory's file system, each held by a descriptor while the kernel knows it, so that renamed and
//! removed files stay the same file.

use crate::{State, FULL, READS, SYNCS, WRITES};
use fuser::{
    Errno, FileAttr, FileHandle, FileType, Filesystem, FopenFlags, Generation, INodeNo, LockOwner, OpenFlags,
    RenameFlags, ReplyAttr, ReplyCreate, ReplyData, ReplyDirectory, ReplyEmpty, ReplyEntry, ReplyOpen, ReplyStatfs,
    ReplyWrite, Request, TimeOrNow, WriteFlags,
};
use rustix::fs::{self as sys, AtFlags, FallocateFlags, Mode, OFlags};
use std::collections::HashMap;
use std::ffi::{OsStr, OsString};
use std::fs::{File, Metadata};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::{FileExt, FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

/// How long the kernel may believe what it was told. Nobody else changes the files.
const TTL: Duration = Duration::from_secs(1);

/// Bytes of a block, as `statfs` counts them.
const BLOCK: u64 = 4096;

/// Blocks of a disk without a limit.
const MANY_BLOCKS: u64 = 1 << 30;

/// What `fallocate` may ask for beside more room: nothing.
const FALLOCATE_PLAIN: i32 = 0;

#[derive(Debug)]
pub(crate) struct Passthrough {
    state: Arc<State>,
    tables: Mutex<Tables>,
}

#[derive(Debug, Default)]
struct Tables {
    nodes: HashMap<u64, Node>,
    files: HashMap<u64, Arc<File>>,
    listings: HashMap<u64, Arc<Vec<Entry>>>,
    next_handle: u64,
}

/// An inode that the kernel knows.
#[derive(Debug)]
struct Node {
    place: Arc<OwnedFd>,
    lookups: u64,
}

#[derive(Debug)]
struct Entry {
    inode: u64,
    kind: FileType,
    name: OsString,
}

impl Passthrough {
    pub(crate) fn new(files: &Path, state: Arc<State>) -> io::Result<Self> {
        let root = Node {
            place: Arc::new(sys::open(files, OFlags::PATH | OFlags::CLOEXEC, Mode::empty())?),
            lookups: 1,
        };
        let tables = Tables {
            nodes: HashMap::from([(INodeNo::ROOT.0, root)]),
            next_handle: 1,
            ..Tables::default()
        };
        Ok(Passthrough {
            state,
            tables: Mutex::new(tables),
        })
    }

    fn tables(&self) -> MutexGuard<'_, Tables> {
        self.tables.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn place(&self, inode: INodeNo) -> io::Result<Arc<OwnedFd>> {
        let tables = self.tables();
        let node = tables.nodes.get(&inode.0).ok_or(io::ErrorKind::NotFound)?;
        Ok(node.place.clone())
    }

    /// A path of the inode itself, whatever its name is now.
    fn path(&self, inode: INodeNo) -> io::Result<PathBuf> {
        Ok(path_of(&*self.place(inode)?))
    }

    fn file(&self, handle: FileHandle) -> io::Result<Arc<File>> {
        let tables = self.tables();
        Ok(tables.files.get(&handle.0).ok_or(io::ErrorKind::NotFound)?.clone())
    }

    fn find(&self, parent: INodeNo, name: &OsStr) -> io::Result<FileAttr> {
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let place = sys::openat(&*self.place(parent)?, name, flags, Mode::empty())?;
        let attributes = attributes(&std::fs::metadata(path_of(&place))?);
        let mut tables = self.tables();
        let node = tables.nodes.entry(attributes.ino.0).or_insert_with(|| Node {
            place: Arc::new(place),
            lookups: 0,
        });
        node.lookups += 1;
        Ok(attributes)
    }

    fn keep(&self, file: File) -> FileHandle {
        let mut tables = self.tables();
        let handle = tables.next_handle;
        tables.next_handle += 1;
        tables.files.insert(handle, Arc::new(file));
        FileHandle(handle)
    }

    /// Fails if the test wants that.
    fn may(&self, fails: &AtomicBool, kind: usize) -> io::Result<()> {
        if fails.load(Ordering::SeqCst) {
            self.state.failed[kind].fetch_add(1, Ordering::SeqCst);
            return Err(Errno::EIO.code_error());
        }
        Ok(())
    }

    /// Takes room for so many bytes, or fails with ENOSPC.
    fn take_room(&self, bytes: u64) -> io::Result<()> {
        let capacity = self.state.capacity.load(Ordering::SeqCst);
        let take = |used: u64| (capacity == 0 || used + bytes <= capacity).then_some(used + bytes);
        let taken = self.state.used.fetch_update(Ordering::SeqCst, Ordering::SeqCst, take);
        if taken.is_err() {
            self.state.failed[FULL].fetch_add(1, Ordering::SeqCst);
            return Err(Errno::ENOSPC.code_error());
        }
        Ok(())
    }

    fn give_room(&self, bytes: u64) {
        let less = |used: u64| Some(used.saturating_sub(bytes));
        let _ = self.state.used.fetch_update(Ordering::SeqCst, Ordering::SeqCst, less);
    }

    /// Whether anything new fits at all: a name needs a block, too.
    fn has_room(&self) -> io::Result<()> {
        self.take_room(1)?;
        self.give_room(1);
        Ok(())
    }

    fn write_at(&self, file: &File, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.may(&self.state.writes, WRITES)?;
        let growth = (offset + bytes.len() as u64).saturating_sub(file.metadata()?.len());
        self.take_room(growth)?;
        file.write_all_at(bytes, offset).inspect_err(|_| self.give_room(growth))
    }

    fn resize(&self, file: &File, size: u64) -> io::Result<()> {
        self.may(&self.state.writes, WRITES)?;
        let now = file.metadata()?.len();
        self.take_room(size.saturating_sub(now))?;
        file.set_len(size)?;
        self.give_room(now.saturating_sub(size));
        Ok(())
    }

    /// The bytes that go with this name.
    fn bytes_of(&self, parent: INodeNo, name: &OsStr) -> u64 {
        let found = self.place(parent).and_then(|place| {
            let found = sys::statat(&*place, name, AtFlags::SYMLINK_NOFOLLOW)?;
            let is_file = sys::FileType::from_raw_mode(found.st_mode) == sys::FileType::RegularFile;
            Ok(if is_file { found.st_size as u64 } else { 0 })
        });
        found.unwrap_or(0)
    }

    fn create_file(&self, parent: INodeNo, name: &OsStr, mode: u32, flags: i32) -> io::Result<(FileAttr, File)> {
        self.may(&self.state.writes, WRITES)?;
        self.has_room()?;
        let asked = OFlags::from_bits_retain(flags as u32) & (OFlags::EXCL | OFlags::TRUNC);
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::CLOEXEC | asked;
        let file = sys::openat(&*self.place(parent)?, name, flags, Mode::from_bits_truncate(mode))?;
        Ok((self.find(parent, name)?, File::from(file)))
    }

    fn open_file(&self, inode: INodeNo, flags: OpenFlags) -> io::Result<File> {
        let truncate = OFlags::from_bits_retain(flags.0 as u32).contains(OFlags::TRUNC);
        let file = File::options().read(true).write(true).open(self.path(inode)?)?;
        if truncate {
            self.resize(&file, 0)?;
        }
        Ok(file)
    }

    fn set_attributes(&self, inode: INodeNo, mode: Option<u32>, size: Option<u64>) -> io::Result<FileAttr> {
        let path = self.path(inode)?;
        if let Some(mode) = mode {
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode))?;
        }
        if let Some(size) = size {
            self.resize(&File::options().write(true).open(&path)?, size)?;
        }
        Ok(self.known(inode, &std::fs::metadata(path)?))
    }

    /// The kernel knows the root by a number of its own.
    fn known(&self, inode: INodeNo, found: &Metadata) -> FileAttr {
        FileAttr {
            ino: inode,
            ..attributes(found)
        }
    }

    fn list(&self, inode: INodeNo) -> io::Result<Vec<Entry>> {
        let mut entries = Vec::new();
        for entry in std::fs::read_dir(self.path(inode)?)? {
            let entry = entry?;
            entries.push(Entry {
                inode: entry.metadata()?.ino(),
                kind: kind(entry.file_type()?),
                name: entry.file_name(),
            });
        }
        Ok(entries)
    }

    fn remove(&self, parent: INodeNo, name: &OsStr, flags: AtFlags) -> io::Result<()> {
        self.may(&self.state.writes, WRITES)?;
        let bytes = self.bytes_of(parent, name);
        sys::unlinkat(&*self.place(parent)?, name, flags)?;
        self.give_room(bytes);
        Ok(())
    }

    fn rename_to(&self, from: (INodeNo, &OsStr), to: (INodeNo, &OsStr), flags: RenameFlags) -> io::Result<()> {
        self.may(&self.state.writes, WRITES)?;
        let replaced = self.bytes_of(to.0, to.1);
        let flags = sys::RenameFlags::from_bits_retain(flags.bits());
        sys::renameat_with(&*self.place(from.0)?, from.1, &*self.place(to.0)?, to.1, flags)?;
        self.give_room(replaced);
        Ok(())
    }

    fn allocate(&self, handle: FileHandle, offset: u64, length: u64, mode: i32) -> io::Result<()> {
        if mode != FALLOCATE_PLAIN {
            return Err(Errno::EOPNOTSUPP.code_error());
        }
        self.may(&self.state.writes, WRITES)?;
        let file = self.file(handle)?;
        let growth = (offset + length).saturating_sub(file.metadata()?.len());
        self.take_room(growth)?;
        let done = sys::fallocate(&*file, FallocateFlags::empty(), offset, length);
        Ok(done.inspect_err(|_| self.give_room(growth))?)
    }
}

/// An error as the system has it.
trait CodeError {
    fn code_error(self) -> io::Error;
}

impl CodeError for Errno {
    fn code_error(self) -> io::Error {
        io::Error::from_raw_os_error(self.into())
    }
}

fn path_of(place: &OwnedFd) -> PathBuf {
    PathBuf::from(format!("/proc/self/fd/{}", place.as_raw_fd()))
}

fn kind(found: std::fs::FileType) -> FileType {
    match found {
        found if found.is_dir() => FileType::Directory,
        found if found.is_symlink() => FileType::Symlink,
        found if found.is_socket() => FileType::Socket,
        _ => FileType::RegularFile,
    }
}

fn attributes(found: &Metadata) -> FileAttr {
    FileAttr {
        ino: INodeNo(found.ino()),
        size: found.len(),
        blocks: found.blocks(),
        atime: found.accessed().unwrap_or(SystemTime::UNIX_EPOCH),
        mtime: found.modified().unwrap_or(SystemTime::UNIX_EPOCH),
        ctime: SystemTime::UNIX_EPOCH,
        crtime: SystemTime::UNIX_EPOCH,
        kind: kind(found.file_type()),
        perm: (found.mode() & 0o7777) as u16,
        nlink: found.nlink() as u32,
        uid: found.uid(),
        gid: found.gid(),
        rdev: 0,
        blksize: BLOCK as u32,
        flags: 0,
    }
}

/// A system error, for the kernel.
fn code(error: io::Error) -> Errno {
    match error.raw_os_error() {
        Some(code) => Errno::from_i32(code),
        None => Errno::ENOENT,
    }
}

/// Answers a request that brings nothing back.
fn answer(reply: ReplyEmpty, done: io::Result<()>) {
    match done {
        Ok(()) => reply.ok(),
        Err(error) => reply.error(code(error)),
    }
}

impl Filesystem for Passthrough {
    fn lookup(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        match self.find(parent, name) {
            Ok(found) => reply.entry(&TTL, &found, Generation(0)),
            Err(error) => reply.error(code(error)),
        }
    }

    fn forget(&self, _: &Request, inode: INodeNo, lookups: u64) {
        let mut tables = self.tables();
        let Some(node) = tables.nodes.get_mut(&inode.0) else {
            return;
        };
        node.lookups = node.lookups.saturating_sub(lookups);
        if node.lookups == 0 && inode != INodeNo::ROOT {
            tables.nodes.remove(&inode.0);
        }
    }

    fn getattr(&self, _: &Request, inode: INodeNo, _: Option<FileHandle>, reply: ReplyAttr) {
        match self.path(inode).and_then(std::fs::metadata) {
            Ok(found) => reply.attr(&TTL, &self.known(inode, &found)),
            Err(error) => reply.error(code(error)),
        }
    }

    fn setattr(
        &self,
        _: &Request,
        inode: INodeNo,
        mode: Option<u32>,
        _: Option<u32>,
        _: Option<u32>,
        size: Option<u64>,
        _: Option<TimeOrNow>,
        _: Option<TimeOrNow>,
        _: Option<SystemTime>,
        _: Option<FileHandle>,
        _: Option<SystemTime>,
        _: Option<SystemTime>,
        _: Option<SystemTime>,
        _: Option<fuser::BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        match self.set_attributes(inode, mode, size) {
            Ok(found) => reply.attr(&TTL, &found),
            Err(error) => reply.error(code(error)),
        }
    }

    fn mkdir(&self, _: &Request, parent: INodeNo, name: &OsStr, mode: u32, _: u32, reply: ReplyEntry) {
        let made = || {
            self.may(&self.state.writes, WRITES)?;
            self.has_room()?;
            sys::mkdirat(&*self.place(parent)?, name, Mode::from_bits_truncate(mode))?;
            self.find(parent, name)
        };
        match made() {
            Ok(found) => reply.entry(&TTL, &found, Generation(0)),
            Err(error) => reply.error(code(error)),
        }
    }

    fn unlink(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        answer(reply, self.remove(parent, name, AtFlags::empty()));
    }

    fn rmdir(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        answer(reply, self.remove(parent, name, AtFlags::REMOVEDIR));
    }

    fn rename(
        &self,
        _: &Request,
        parent: INodeNo,
        name: &OsStr,
        new_parent: INodeNo,
        new_name: &OsStr,
        flags: RenameFlags,
        reply: ReplyEmpty,
    ) {
        answer(reply, self.rename_to((parent, name), (new_parent, new_name), flags));
    }

    fn open(&self, _: &Request, inode: INodeNo, flags: OpenFlags, reply: ReplyOpen) {
        match self.open_file(inode, flags) {
            Ok(file) => reply.opened(self.keep(file), FopenFlags::empty()),
            Err(error) => reply.error(code(error)),
        }
    }

    fn create(&self, _: &Request, parent: INodeNo, name: &OsStr, mode: u32, _: u32, flags: i32, reply: ReplyCreate) {
        match self.create_file(parent, name, mode, flags) {
            Ok((found, file)) => reply.created(&TTL, &found, Generation(0), self.keep(file), FopenFlags::empty()),
            Err(error) => reply.error(code(error)),
        }
    }

    fn read(
        &self,
        _: &Request,
        _: INodeNo,
        handle: FileHandle,
        offset: u64,
        size: u32,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyData,
    ) {
        let read = || {
            self.may(&self.state.reads, READS)?;
            let file = self.file(handle)?;
            let mut bytes = vec![0; size as usize];
            let mut length = 0;
            while length < bytes.len() {
                match file.read_at(&mut bytes[length..], offset + length as u64)? {
                    0 => break,
                    more => length += more,
                }
            }
            bytes.truncate(length);
            Ok(bytes)
        };
        match read() {
            Ok(bytes) => reply.data(&bytes),
            Err(error) => reply.error(code(error)),
        }
    }

    fn write(
        &self,
        _: &Request,
        _: INodeNo,
        handle: FileHandle,
        offset: u64,
        bytes: &[u8],
        _: WriteFlags,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        let done = self.file(handle).and_then(|file| self.write_at(&file, bytes, offset));
        match done {
            Ok(()) => reply.written(bytes.len() as u32),
            Err(error) => reply.error(code(error)),
        }
    }

    fn flush(&self, _: &Request, _: INodeNo, _: FileHandle, _: LockOwner, reply: ReplyEmpty) {
        reply.ok();
    }

    fn release(
        &self,
        _: &Request,
        _: INodeNo,
        handle: FileHandle,
        _: OpenFlags,
        _: Option<LockOwner>,
        _: bool,
        reply: ReplyEmpty,
    ) {
        self.tables().files.remove(&handle.0);
        reply.ok();
    }

    fn fsync(&self, _: &Request, _: INodeNo, _: FileHandle, _: bool, reply: ReplyEmpty) {
        answer(reply, self.may(&self.state.syncs, SYNCS));
    }

    fn opendir(&self, _: &Request, inode: INodeNo, _: OpenFlags, reply: ReplyOpen) {
        match self.list(inode) {
            Ok(entries) => {
                let mut tables = self.tables();
                let handle = tables.next_handle;
                tables.next_handle += 1;
                tables.listings.insert(handle, Arc::new(entries));
                reply.opened(FileHandle(handle), FopenFlags::empty());
            }
            Err(error) => reply.error(code(error)),
        }
    }

    fn readdir(&self, _: &Request, _: INodeNo, handle: FileHandle, offset: u64, mut reply: ReplyDirectory) {
        let entries = self.tables().listings.get(&handle.0).cloned();
        let Some(entries) = entries else {
            reply.error(Errno::EBADF);
            return;
        };
        for (at, entry) in entries.iter().enumerate().skip(offset as usize) {
            if reply.add(INodeNo(entry.inode), at as u64 + 1, entry.kind, &entry.name) {
                break;
            }
        }
        reply.ok();
    }

    fn releasedir(&self, _: &Request, _: INodeNo, handle: FileHandle, _: OpenFlags, reply: ReplyEmpty) {
        self.tables().listings.remove(&handle.0);
        reply.ok();
    }

    fn fsyncdir(&self, _: &Request, _: INodeNo, _: FileHandle, _: bool, reply: ReplyEmpty) {
        answer(reply, self.may(&self.state.syncs, SYNCS));
    }

    fn fallocate(
        &self,
        _: &Request,
        _: INodeNo,
        handle: FileHandle,
        offset: u64,
        length: u64,
        mode: i32,
        reply: ReplyEmpty,
    ) {
        answer(reply, self.allocate(handle, offset, length, mode));
    }

    fn statfs(&self, _: &Request, _: INodeNo, reply: ReplyStatfs) {
        let capacity = self.state.capacity.load(Ordering::SeqCst);
        let used = self.state.used.load(Ordering::SeqCst);
        let (all, free) = match capacity {
            0 => (MANY_BLOCKS, MANY_BLOCKS),
            _ => (capacity / BLOCK, capacity.saturating_sub(used) / BLOCK),
        };
        reply.statfs(all, free, free, 1 << 20, 1 << 20, BLOCK as u32, 255, BLOCK as u32);
    }
}
