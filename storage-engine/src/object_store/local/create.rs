//! One create, from its bytes to `Ok`: written under a temporary name, synced, named, and the name synced.

use super::disk::{Disk, Kind};
use super::failed;
use crate::object_store::StoreError;
use bytes::Bytes;
use rustix::io::Errno;
use std::collections::HashSet;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Times that a create makes a directory which deletes remove again under it.
const MAKE_PARENTS_MAX: usize = 10;

/// What the creates and deletes of one root share.
#[derive(Debug, Clone)]
pub(super) struct Creator {
    root: PathBuf,
    disk: Arc<dyn Disk>,
    /// Directories whose own names are durable, up to the root. A create that did not make its directory must not answer
    /// before whoever made it has synced it.
    durable: Arc<Mutex<HashSet<PathBuf>>>,
}

impl Creator {
    pub fn new(root: PathBuf, disk: Arc<dyn Disk>) -> Self {
        Creator {
            root,
            disk,
            durable: Arc::default(),
        }
    }

    /// Creates the file `path`, by way of `temporary`.
    pub fn create(&self, key: &str, path: &Path, temporary: &Path, body: &[Bytes]) -> Result<(), StoreError> {
        let written = self
            .write_synced(temporary, body)
            .map_err(|error| failed("write", key, &error));
        let named = written.and_then(|()| self.name(key, path, temporary));
        // After a rename there is nothing to remove; otherwise the half-made file must not stay.
        match self.disk.remove_file(temporary) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                log::warn!("remove temporary file {}: {error}", temporary.display());
            }
            _ => {}
        }
        named
    }

    fn write_synced(&self, temporary: &Path, body: &[Bytes]) -> io::Result<()> {
        let file = self.disk.write(temporary, body)?;
        file.sync()
    }

    /// Gives the file its name, unless the name is taken. A parent directory that a delete removed meanwhile is made
    /// again.
    fn name(&self, key: &str, path: &Path, temporary: &Path) -> Result<(), StoreError> {
        for _ in 0..MAKE_PARENTS_MAX {
            let Err(error) = self.disk.rename(temporary, path) else {
                return self.settle(key, path);
            };
            match error.raw_os_error().map(Errno::from_raw_os_error) {
                Some(Errno::EXIST) if self.is_directory(path) => {
                    return Err(StoreError::Refused(format!("{key} is a folder")));
                }
                Some(Errno::EXIST) => {
                    // Who finds a name taken relies on it: it must be as durable as the winner will say.
                    self.settle(key, path)?;
                    return Err(StoreError::Conflict(key.to_string()));
                }
                Some(Errno::NOENT) => self.make_parents(key, path)?,
                _ => return Err(failed("name", key, &error)),
            }
        }
        Err(StoreError::Unavailable(format!(
            "the directory of {key} keeps vanishing"
        )))
    }

    fn make_parents(&self, key: &str, path: &Path) -> Result<(), StoreError> {
        let made = path
            .parent()
            .map_or(Ok(()), |parent| self.disk.make_directories(parent));
        match made {
            // A delete took the one above away before the next one was in it. The name is tried again, and so is this.
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            made => made.map_err(|error| failed("make directory for", key, &error)),
        }
    }

    /// Makes a name durable that is there already, and the directories that it lies in.
    fn settle(&self, key: &str, path: &Path) -> Result<(), StoreError> {
        let synced = path.parent().map_or(Ok(()), |parent| {
            self.disk.sync_directory(parent)?;
            self.settle_directory(parent)
        });
        synced.map_err(|error| StoreError::OutcomeUnknown(format!("sync directory of {key}: {error}")))
    }

    fn settle_directory(&self, directory: &Path) -> io::Result<()> {
        // Held while syncing: nobody removes the directory between the sync and the note of it.
        let mut durable = self.durable();
        if durable.contains(directory) || !self.is_directory(directory) {
            return Ok(());
        }
        let above = directory.ancestors().skip(1);
        for ancestor in above.take_while(|ancestor| ancestor.starts_with(&self.root)) {
            self.disk.sync_directory(ancestor)?;
        }
        durable.insert(directory.to_path_buf());
        Ok(())
    }

    /// Directories go when they are empty, so that a deleted topic leaves nothing; one that fills meanwhile stays.
    pub fn remove_empty_parents(&self, path: &Path) {
        for directory in path.ancestors().skip(1).take_while(|directory| *directory != self.root) {
            let mut durable = self.durable();
            if self.disk.remove_directory(directory).is_err() {
                break;
            }
            durable.remove(directory);
        }
    }

    fn is_directory(&self, path: &Path) -> bool {
        matches!(self.disk.kind(path), Ok(Kind::Directory))
    }

    fn durable(&self) -> MutexGuard<'_, HashSet<PathBuf>> {
        // What is in the set is durable, whoever panicked.
        self.durable.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
