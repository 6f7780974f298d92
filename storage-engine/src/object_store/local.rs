//! Objects as files of one directory: create-only, whole, and synced before they count.
//!
//! A create writes a temporary file, syncs it, renames it with `RENAME_NOREPLACE` and syncs the directory; so a name
//! appears at most once, never half written, and survives a crash once `Ok` is answered. Slots of write-ahead streams, which
//! come and go by the thousand, share a few files instead: the [`journal`] (docs/decisions/0014). The system calls run on the
//! executor's blocking pool: one hop for the whole chain (docs/decisions/0001).

mod blocks;
mod create;
mod direct;
mod disk;
mod journal;
mod list;
#[cfg(test)]
mod simulated;
#[cfg(test)]
mod tests;

use super::{check_key, ListPage, LocalFuture, ObjectStore, StoreError, Suffix};
use crate::wal;
use bytes::Bytes;
use create::Creator;
use disk::{is_absent, Access, Disk, DiskFile, Kind, RealDisk, DIRECT_MIN};
use journal::Journal;
use rustix::io::Errno;
use std::fmt;
use std::io;
use std::ops::Range;
use std::panic::{catch_unwind, AssertUnwindSafe};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::Arc;

/// Where objects are written before they get their name. No key begins with a dot.
const TEMPORARY: &str = ".tmp";

/// Where the objects are that have no file of their own.
const JOURNAL: &str = ".journal";

/// Distinguishes temporary files of this process.
static NEXT_TEMPORARY: AtomicU64 = AtomicU64::new(0);

/// A directory as an object store. To be used from a glommio executor.
#[derive(Debug, Clone)]
pub struct LocalStore {
    root: PathBuf,
    disk: Arc<dyn Disk>,
    creator: Creator,
    journal: Arc<Journal>,
    /// Which keys are the journal's, unless the object is large.
    in_journal: fn(&str) -> bool,
    room: Option<Room>,
}

/// Says why nothing but fences may be stored at the moment.
#[derive(Clone)]
struct Room(Arc<dyn Fn() -> Result<(), String> + Send + Sync>);

impl fmt::Debug for Room {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Room")
    }
}

impl LocalStore {
    /// Opens a directory and makes it if need be; removes what a crash left half written. The caller holds the data
    /// directory's lock, so nobody else is writing. Other files in the directory are left alone; where their names are
    /// legal keys they are objects, as in any store.
    ///
    /// # Errors
    /// [`StoreError::Refused`] with the path, if the directory cannot be used.
    pub fn open(root: impl Into<PathBuf>) -> Result<Self, StoreError> {
        let store = Self::open_on(Arc::new(RealDisk), root.into(), wal::is_slot_key, journal::LIMITS)?;
        match direct::look(&store.root.join(TEMPORARY)) {
            Ok(writes) => log::info!("object store {}: {writes}", store.root.display()),
            // A full disk, for one: the store is as safe without the answer.
            Err(error) => log::warn!(
                "object store {}: look how it is written to: {error}",
                store.root.display()
            ),
        }
        Ok(store)
    }

    fn open_on(
        disk: Arc<dyn Disk>,
        root: PathBuf,
        in_journal: fn(&str) -> bool,
        limits: journal::Limits,
    ) -> Result<Self, StoreError> {
        let temporary = root.join(TEMPORARY);
        let describe = |path: &Path, error: io::Error| StoreError::Refused(format!("{}: {error}", path.display()));
        disk.make_directories(&temporary)
            .map_err(|error| describe(&temporary, error))?;
        let left = disk.entries(&temporary).map_err(|error| describe(&temporary, error))?;
        for (name, _) in left {
            let path = temporary.join(name);
            disk.remove_file(&path).map_err(|error| describe(&path, error))?;
        }
        // What a killed process had named and not yet synced is visible from now on, so it has to stay; so has the root.
        disk.sync_everything(&root).map_err(|error| describe(&root, error))?;
        let journal = Arc::new(Journal::open(root.join(JOURNAL), disk.clone(), limits)?);
        let creator = Creator::new(root.clone(), disk.clone());
        Ok(LocalStore {
            root,
            disk,
            creator,
            journal,
            in_journal,
            room: None,
        })
    }

    /// This store, which stores nothing but fences while `room` refuses: a start fences the streams of the process before, on
    /// a full disk too.
    pub fn while_there_is_room(self, room: impl Fn() -> Result<(), String> + Send + Sync + 'static) -> Self {
        LocalStore {
            room: Some(Room(Arc::new(room))),
            ..self
        }
    }

    fn check_room(&self) -> Result<(), StoreError> {
        match &self.room {
            Some(Room(room)) => room().map_err(StoreError::Full),
            None => Ok(()),
        }
    }

    /// The same directory for another shard of this process.
    pub fn handle(&self) -> Self {
        self.clone()
    }

    fn path(&self, key: &str) -> Result<PathBuf, StoreError> {
        check_key(key)?;
        Ok(self.root.join(key))
    }

    async fn create_known(&self, key: &str, body: Vec<Bytes>, crc32c: Option<u32>) -> Result<(), StoreError> {
        let path = self.path(key)?;
        let number = NEXT_TEMPORARY.fetch_add(1, Ordering::Relaxed);
        let temporary = self
            .root
            .join(TEMPORARY)
            .join(format!("{}-{number}", std::process::id()));
        let (store, key) = (self.clone(), key.to_string());
        self.blocking(move || store.create_blocking(&key, &path, &temporary, &body, crc32c))
            .await
    }

    fn create_blocking(
        &self,
        key: &str,
        path: &Path,
        temporary: &Path,
        body: &[Bytes],
        crc32c: Option<u32>,
    ) -> Result<(), StoreError> {
        if !is_fence(body) {
            self.check_room()?;
        }
        if !(self.in_journal)(key) {
            return self.creator.create(key, path, temporary, body);
        }
        let name = self.journal.take(key)?;
        let bytes = body.iter().map(|part| part.len() as u64).sum();
        match self.disk.kind(path) {
            Err(error) if is_absent(&error) && name.fits(bytes) => name.store(body, crc32c),
            Err(error) if !is_absent(&error) => Err(failed("look for", key, &error)),
            // A large one is there, which answers as any file does.
            _ => self.creator.create(key, path, temporary, body),
        }
    }

    fn delete_file(&self, path: &Path) -> Result<(), StoreError> {
        match self.disk.remove_file(path) {
            Ok(()) => {
                self.creator.remove_empty_parents(path);
                Ok(())
            }
            // No object has this name: nothing has, it lies below an object, or it is a folder.
            Err(error) if is_absent(&error) => Ok(()),
            Err(_) if matches!(self.disk.kind(path), Ok(Kind::Directory)) => Ok(()),
            Err(error) => Err(failed("delete", &path.display().to_string(), &error)),
        }
    }

    /// Runs `work` on the blocking pool. A panic there would hang this caller, so it becomes an error.
    async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        let guarded = move || catch_unwind(AssertUnwindSafe(work));
        match glommio::executor().spawn_blocking(guarded).await {
            Ok(result) => result,
            Err(_) => Err(StoreError::OutcomeUnknown("a file operation panicked".to_string())),
        }
    }
}

impl ObjectStore for LocalStore {
    fn room(&self) -> LocalFuture<'_, Result<(), StoreError>> {
        let store = self.clone();
        Box::pin(async move {
            match store.room {
                Some(_) => self.blocking(move || store.check_room()).await,
                None => Ok(()),
            }
        })
    }

    fn create<'a>(&'a self, key: &'a str, body: Vec<Bytes>) -> LocalFuture<'a, Result<(), StoreError>> {
        Box::pin(self.create_known(key, body, None))
    }

    fn create_summed<'a>(
        &'a self,
        key: &'a str,
        body: Vec<Bytes>,
        crc32c: u32,
    ) -> LocalFuture<'a, Result<(), StoreError>> {
        Box::pin(self.create_known(key, body, Some(crc32c)))
    }

    fn get_range<'a>(&'a self, key: &'a str, range: Range<u64>) -> LocalFuture<'a, Result<Bytes, StoreError>> {
        Box::pin(async move {
            let (path, key) = (self.path(key)?, key.to_string());
            let (journal, disk) = (self.journal.clone(), self.disk.clone());
            self.blocking(move || {
                let inside = |len: u64| match range.start > len {
                    true => Err(StoreError::Refused(format!(
                        "{key} ends at {len}, before {}",
                        range.start
                    ))),
                    false => Ok(range.start..range.end.min(len)),
                };
                if let Some((bytes, _)) = journal.read(&key, inside)? {
                    return Ok(bytes);
                }
                if range.end.saturating_sub(range.start) >= DIRECT_MIN {
                    let (file, len) = opened(&*disk, &path, Access::ReadBlocks, &key)?;
                    let range = inside(len)?;
                    let len = range.end.saturating_sub(range.start) as usize;
                    return blocks::read(&*file, range.start, len).map_err(|error| failed("read", &key, &error));
                }
                let (file, len) = opened(&*disk, &path, Access::Read, &key)?;
                let range = inside(len)?;
                read(&*file, range.start, range.end.saturating_sub(range.start), &key)
            })
            .await
        })
    }

    fn get_suffix<'a>(&'a self, key: &'a str, len: u64) -> LocalFuture<'a, Result<Suffix, StoreError>> {
        Box::pin(async move {
            let (path, key) = (self.path(key)?, key.to_string());
            let (journal, disk) = (self.journal.clone(), self.disk.clone());
            self.blocking(move || {
                if let Some((bytes, object_len)) =
                    journal.read(&key, |object_len| Ok(object_len - len.min(object_len)..object_len))?
                {
                    return Ok(Suffix { bytes, object_len });
                }
                let (file, object_len) = opened(&*disk, &path, Access::Read, &key)?;
                let take = len.min(object_len);
                let bytes = read(&*file, object_len - take, take, &key)?;
                Ok(Suffix { bytes, object_len })
            })
            .await
        })
    }

    fn list<'a>(
        &'a self,
        prefix: &'a str,
        start_after: Option<&'a str>,
        limit: usize,
    ) -> LocalFuture<'a, Result<ListPage, StoreError>> {
        Box::pin(async move {
            let (root, prefix) = (self.root.clone(), prefix.to_string());
            let start_after = start_after.map(str::to_string);
            let (journal, disk) = (self.journal.clone(), self.disk.clone());
            self.blocking(move || list::list(&*disk, &root, &journal, &prefix, start_after.as_deref(), limit))
                .await
        })
    }

    fn delete<'a>(&'a self, keys: &'a [String]) -> LocalFuture<'a, Result<(), StoreError>> {
        Box::pin(async move {
            let paths = keys.iter().map(|key| self.path(key)).collect::<Result<Vec<_>, _>>()?;
            let (store, keys) = (self.clone(), keys.to_vec());
            self.blocking(move || {
                let found = store.journal.delete(&keys)?;
                let files = paths.iter().zip(found).filter(|(_, found)| !found);
                files.map(|(path, _)| path).try_for_each(|path| store.delete_file(path))
            })
            .await
        })
    }
}

fn is_fence(body: &[Bytes]) -> bool {
    let header = body.first().map(|first| wal::parse_header(first));
    header.is_some_and(|header| header.is_ok_and(|header| header.kind == wal::Kind::Fence))
}

fn opened(disk: &dyn Disk, path: &Path, access: Access, key: &str) -> Result<(Box<dyn DiskFile>, u64), StoreError> {
    let describe = |error: io::Error| match is_absent(&error) {
        true => StoreError::NotFound(key.to_string()),
        false => failed("open", key, &error),
    };
    let file = match disk.open(path, access) {
        Err(_) if matches!(disk.kind(path), Ok(Kind::Directory)) => return Err(StoreError::NotFound(key.to_string())),
        opened => opened.map_err(describe)?,
    };
    let len = match disk.kind(path).map_err(describe)? {
        Kind::Directory => return Err(StoreError::NotFound(key.to_string())),
        _ => file.len().map_err(|error| failed("read", key, &error))?,
    };
    Ok((file, len))
}

fn read(file: &dyn DiskFile, from: u64, len: u64, key: &str) -> Result<Bytes, StoreError> {
    let mut buffer = vec![0; len as usize];
    let mut filled = 0;
    while filled < buffer.len() {
        match file.read_at(&mut buffer[filled..], from + filled as u64) {
            Ok(0) => return Err(failed("read", key, &io::ErrorKind::UnexpectedEof.into())),
            Ok(more) => filled += more,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(failed("read", key, &error)),
        }
    }
    Ok(buffer.into())
}

/// A failure after which nothing has changed.
fn failed(verb: &str, key: &str, error: &io::Error) -> StoreError {
    let text = format!("{verb} {key}: {error}");
    match error.raw_os_error().map(Errno::from_raw_os_error) {
        Some(Errno::NOSPC | Errno::DQUOT) => StoreError::Full(text),
        // A folder of the key is an object, the object is larger than any may be here, or this is denied.
        Some(Errno::NOTDIR | Errno::NAMETOOLONG | Errno::FBIG | Errno::ACCESS | Errno::PERM | Errno::ROFS) => {
            StoreError::Refused(text)
        }
        _ => StoreError::Unavailable(text),
    }
}
