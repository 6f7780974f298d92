//! Objects as files of one directory: create-only, whole, and synced before they count.
//!
//! A create writes a temporary file, syncs it, renames it with `RENAME_NOREPLACE` and syncs the directory; so a name
//! appears at most once, never half written, and survives a crash once `Ok` is answered. The system calls run on the
//! executor's blocking pool: one hop for the whole chain (docs/decisions/0001).

use super::{ListPage, LocalFuture, ObjectMeta, ObjectStore, StoreError, Suffix};
use bytes::Bytes;
use rustix::fs::{renameat_with, RenameFlags, CWD};
use rustix::io::Errno;
use std::fs::{self, File};
use std::io::{self, IoSlice, Write};
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::panic::{catch_unwind, AssertUnwindSafe};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::UNIX_EPOCH;

/// Where objects are written before they get their name. No key can begin with it: keys have no parts that start with a dot.
const TEMPORARY: &str = ".tmp";

/// Buffers handed to one `writev`.
const IOV_MAX: usize = 1024;

/// Distinguishes temporary files of this process.
static NEXT_TEMPORARY: AtomicU64 = AtomicU64::new(0);

/// A directory as an object store. To be used from a glommio executor.
#[derive(Debug, Clone)]
pub struct LocalStore {
    root: PathBuf,
}

impl LocalStore {
    /// Opens a directory and makes it if need be; removes what a crash left half written. The caller holds the data
    /// directory's lock, so nobody else is writing.
    pub fn open(root: impl Into<PathBuf>) -> Result<Self, StoreError> {
        let root = root.into();
        let temporary = root.join(TEMPORARY);
        let describe = |error: io::Error| StoreError::Refused(format!("{}: {error}", root.display()));
        fs::create_dir_all(&temporary).map_err(describe)?;
        for entry in fs::read_dir(&temporary).map_err(describe)? {
            fs::remove_file(entry.map_err(describe)?.path()).map_err(describe)?;
        }
        sync_directory(&root).map_err(describe)?;
        Ok(LocalStore { root })
    }

    /// The same directory for another shard of this process.
    pub fn handle(&self) -> Self {
        self.clone()
    }

    fn path(&self, key: &str) -> Result<PathBuf, StoreError> {
        let legal =
            |part: &str| !part.is_empty() && !part.starts_with('.') && !part.contains('\0') && part.len() <= 255;
        if key.split('/').all(legal) {
            Ok(self.root.join(key))
        } else {
            Err(StoreError::Refused(format!("illegal key {key:?}")))
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
    fn create<'a>(&'a self, key: &'a str, body: Vec<Bytes>) -> LocalFuture<'a, Result<(), StoreError>> {
        Box::pin(async move {
            let path = self.path(key)?;
            let number = NEXT_TEMPORARY.fetch_add(1, Ordering::Relaxed);
            let temporary = self
                .root
                .join(TEMPORARY)
                .join(format!("{}-{number}", std::process::id()));
            let (root, key) = (self.root.clone(), key.to_string());
            self.blocking(move || create(&root, &key, &path, &temporary, &body))
                .await
        })
    }

    fn get_range<'a>(&'a self, key: &'a str, range: Range<u64>) -> LocalFuture<'a, Result<Bytes, StoreError>> {
        Box::pin(async move {
            let (path, key) = (self.path(key)?, key.to_string());
            self.blocking(move || {
                let (file, len) = open(&path, &key)?;
                if range.start > len {
                    return Err(StoreError::Refused(format!(
                        "{key} ends at {len}, before {}",
                        range.start
                    )));
                }
                read(&file, range.start, range.end.min(len).saturating_sub(range.start), &key)
            })
            .await
        })
    }

    fn get_suffix<'a>(&'a self, key: &'a str, len: u64) -> LocalFuture<'a, Result<Suffix, StoreError>> {
        Box::pin(async move {
            let (path, key) = (self.path(key)?, key.to_string());
            self.blocking(move || {
                let (file, object_len) = open(&path, &key)?;
                let take = len.min(object_len);
                let bytes = read(&file, object_len - take, take, &key)?;
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
            self.blocking(move || list(&root, &prefix, start_after.as_deref(), limit))
                .await
        })
    }

    fn delete<'a>(&'a self, keys: &'a [String]) -> LocalFuture<'a, Result<(), StoreError>> {
        Box::pin(async move {
            let paths = keys.iter().map(|key| self.path(key)).collect::<Result<Vec<_>, _>>()?;
            let root = self.root.clone();
            self.blocking(move || {
                for path in &paths {
                    match fs::remove_file(path) {
                        Ok(()) => remove_empty_parents(&root, path),
                        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                        Err(error) => return Err(failed("delete", &path.display().to_string(), &error)),
                    }
                }
                Ok(())
            })
            .await
        })
    }
}

fn create(root: &Path, key: &str, path: &Path, temporary: &Path, body: &[Bytes]) -> Result<(), StoreError> {
    let written = write_synced(temporary, body).map_err(|error| failed("write", key, &error));
    let named = written.and_then(|()| name(root, key, path, temporary));
    // After a rename there is nothing to remove; otherwise the half-made file must not stay.
    match fs::remove_file(temporary) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            log::warn!("remove temporary file {}: {error}", temporary.display());
        }
        _ => {}
    }
    named
}

fn write_synced(temporary: &Path, body: &[Bytes]) -> io::Result<()> {
    let mut file = File::create_new(temporary)?;
    for parts in body.chunks(IOV_MAX) {
        let mut slices: Vec<IoSlice> = parts.iter().map(|part| IoSlice::new(part)).collect();
        let mut rest = &mut slices[..];
        while !rest.is_empty() {
            match file.write_vectored(rest) {
                Ok(0) if rest.iter().any(|slice| !slice.is_empty()) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(0) => break,
                Ok(written) => IoSlice::advance_slices(&mut rest, written),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }
    file.sync_data()
}

/// Gives the file its name, unless the name is taken. A parent directory that a delete removed meanwhile is made again.
fn name(root: &Path, key: &str, path: &Path, temporary: &Path) -> Result<(), StoreError> {
    for _ in 0..10 {
        match renameat_with(CWD, temporary, CWD, path, RenameFlags::NOREPLACE) {
            Ok(()) => {
                let synced = path.parent().map_or(Ok(()), sync_directory);
                return synced.map_err(|error| StoreError::OutcomeUnknown(format!("sync directory of {key}: {error}")));
            }
            Err(Errno::EXIST) => {
                // Who finds a name taken relies on it: it must be as durable as the winner will say.
                let synced = path.parent().map_or(Ok(()), sync_directory);
                return match synced {
                    Ok(()) => Err(StoreError::Conflict(key.to_string())),
                    Err(error) => Err(StoreError::OutcomeUnknown(format!("sync directory of {key}: {error}"))),
                };
            }
            Err(Errno::NOENT) => make_parents(root, path).map_err(|error| failed("make directory for", key, &error))?,
            Err(error) => return Err(failed("name", key, &error.into())),
        }
    }
    Err(StoreError::Unavailable(format!(
        "the directory of {key} keeps vanishing"
    )))
}

fn make_parents(root: &Path, path: &Path) -> io::Result<()> {
    let Some(parent) = path.parent() else { return Ok(()) };
    fs::create_dir_all(parent)?;
    for directory in parent.ancestors().take_while(|directory| directory.starts_with(root)) {
        sync_directory(directory)?;
    }
    Ok(())
}

fn sync_directory(directory: &Path) -> io::Result<()> {
    File::open(directory)?.sync_all()
}

fn open(path: &Path, key: &str) -> Result<(File, u64), StoreError> {
    let file = File::open(path).map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => StoreError::NotFound(key.to_string()),
        _ => failed("open", key, &error),
    })?;
    let len = file.metadata().map_err(|error| failed("read", key, &error))?.len();
    Ok((file, len))
}

fn read(file: &File, from: u64, len: u64, key: &str) -> Result<Bytes, StoreError> {
    let mut buffer = vec![0; len as usize];
    file.read_exact_at(&mut buffer, from)
        .map_err(|error| failed("read", key, &error))?;
    Ok(buffer.into())
}

fn failed(verb: &str, key: &str, error: &io::Error) -> StoreError {
    let text = format!("{verb} {key}: {error}");
    match error.raw_os_error().map(Errno::from_raw_os_error) {
        Some(Errno::NOSPC | Errno::DQUOT) => StoreError::Full(text),
        _ => StoreError::Unavailable(text),
    }
}

/// Directories go when they are empty, so that a deleted topic leaves nothing; one that fills meanwhile stays.
fn remove_empty_parents(root: &Path, path: &Path) {
    for directory in path.ancestors().skip(1).take_while(|directory| *directory != root) {
        if fs::remove_dir(directory).is_err() {
            break;
        }
    }
}

fn list(root: &Path, prefix: &str, start_after: Option<&str>, limit: usize) -> Result<ListPage, StoreError> {
    // The part of the prefix up to its last slash names a directory; the rest begins a name in it.
    let (directory, _) = prefix.rsplit_once('/').unwrap_or(("", prefix));
    let mut found = Vec::new();
    walk(root, directory, prefix, start_after.unwrap_or(""), &mut found)?;
    found.sort_unstable_by(|a: &ObjectMeta, b| a.key.cmp(&b.key));
    let more = found.len() > limit;
    found.truncate(limit);
    Ok(ListPage { objects: found, more })
}

fn walk(
    root: &Path,
    directory: &str,
    prefix: &str,
    start_after: &str,
    found: &mut Vec<ObjectMeta>,
) -> Result<(), StoreError> {
    let entries = match fs::read_dir(root.join(directory)) {
        Ok(entries) => entries,
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => return Ok(()),
        Err(error) => return Err(failed("list", directory, &error)),
    };
    for entry in entries {
        let entry = entry.map_err(|error| failed("list", directory, &error))?;
        let name = entry.file_name();
        let Some(name) = name.to_str().filter(|name| !name.starts_with('.')) else {
            continue;
        };
        let key = if directory.is_empty() {
            name.to_string()
        } else {
            format!("{directory}/{name}")
        };
        let metadata = match entry.metadata() {
            Ok(metadata) => metadata,
            // Deleted since the directory was read.
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(error) => return Err(failed("list", &key, &error)),
        };
        if metadata.is_dir() {
            let below = format!("{key}/");
            if below.starts_with(prefix) || prefix.starts_with(&below) {
                walk(root, &key, prefix, start_after, found)?;
            }
        } else if key.starts_with(prefix) && key.as_str() > start_after {
            let modified = metadata
                .modified()
                .ok()
                .and_then(|time| time.duration_since(UNIX_EPOCH).ok());
            let modified_ms = modified.map_or(0, |since| since.as_millis() as i64);
            found.push(ObjectMeta {
                key,
                size: metadata.len(),
                modified_ms,
            });
        }
    }
    Ok(())
}
