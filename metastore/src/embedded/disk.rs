//! The file of the embedded metastore: all keys without a lease, and the revision, as of the last commit.
//!
//! It is read once, at open; from then on the worker's memory answers and the file only follows. Leased keys are not
//! in it: leases end with the process.
//!
//! After a failed sync the page cache holds pages that the device never got, and says that they are clean. So the file is
//! not read again by the process that saw the failure, and each open first has the kernel drop what it holds of the file
//! (docs/decisions/0018).

use crate::state::{Entry, State};
use crate::store::{Revision, WatchEvent};
use bytes::Bytes;
use redb::backends::FileBackend;
use redb::{
    BackendError, Database, DatabaseError, Durability, ReadableDatabase, ReadableTable, StorageBackend, TableDefinition,
};
use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io;
use std::ops::Bound;
use std::panic::{catch_unwind, AssertUnwindSafe};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::Arc;

/// Key → create revision, mod revision, value.
const KEYS: TableDefinition<&[u8], (u64, u64, &[u8])> = TableDefinition::new("keys");
/// Name → number.
const NUMBERS: TableDefinition<&str, u64> = TableDefinition::new("numbers");
const FORMAT: &str = "format";
const REVISION: &str = "revision";
const OPENS: &str = "opens";

/// The layout of the tables above.
const FORMAT_VERSION: u64 = 1;
/// The file's name in the data directory.
const FILE_NAME: &str = "metastore.redb";
/// The worker reads nothing after opening; this serves the inner pages of the trees.
const CACHE_BYTES: usize = 8 << 20;

/// Why the embedded metastore could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Another process has it open.
    #[error("{} is in use by another process", .0.display())]
    Locked(PathBuf),
    /// Its content is damaged, or it is another kind of file.
    #[error(
        "{} is damaged or not a metastore: {reason}. Put a copy of it back, or move its directory away and have the \
         metastore rebuilt from the objects (kafscale-broker rebuild)",
        .path.display()
    )]
    Corrupt {
        /// The file.
        path: PathBuf,
        /// What was found.
        reason: String,
    },
    /// Another version of this program wrote it.
    #[error("{} has format {found}, this version reads and writes {FORMAT_VERSION}", .path.display())]
    WrongVersion {
        /// The file.
        path: PathBuf,
        /// Its format.
        found: String,
    },
    /// The directory or file cannot be created, read or written.
    #[error("{}: {source}", .path.display())]
    Io {
        /// The file or directory.
        path: PathBuf,
        /// The operating system's error.
        source: io::Error,
    },
}

/// Opens the file, and creates it if need be: tests put a failing disk under it here.
pub(super) type OpenFile = Box<dyn Fn(&Path) -> io::Result<Box<dyn StoreFile>> + Send>;

/// The file below redb.
pub(super) trait StoreFile: StorageBackend {
    /// Has the kernel forget what it holds of the file, so that reads come from the device.
    fn drop_cache(&self) -> io::Result<()>;
}

impl OpenError {
    /// Whether only room is missing.
    pub(super) fn is_full(&self) -> bool {
        matches!(self, OpenError::Io { source, .. } if source.kind() == io::ErrorKind::StorageFull)
    }
}

/// Whether only room is missing.
pub(super) fn is_full(error: &redb::Error) -> bool {
    matches!(error, redb::Error::Io(source) if source.kind() == io::ErrorKind::StorageFull)
}

/// The usual [`OpenFile`].
pub(super) fn open_file(path: &Path) -> io::Result<Box<dyn StoreFile>> {
    let mut options = OpenOptions::new();
    let file = options.read(true).write(true).create(true).truncate(false).open(path)?;
    let same = file.try_clone()?;
    let backend = FileBackend::new(file).map_err(|error| io::Error::other(error.to_string()))?;
    Ok(Box::new(RealFile { backend, same }))
}

#[derive(Debug)]
struct RealFile {
    backend: FileBackend,
    /// The same descriptor.
    same: File,
}

impl StoreFile for RealFile {
    fn drop_cache(&self) -> io::Result<()> {
        Ok(rustix::fs::fadvise(&self.same, 0, None, rustix::fs::Advice::DontNeed)?)
    }
}

/// Passes everything on to the file, and notes what makes the page cache doubtful.
#[derive(Debug)]
struct Watched {
    file: Box<dyn StoreFile>,
    doubtful: Arc<AtomicBool>,
}

impl Watched {
    /// A write that finds no room has changed nothing. After any other failure nobody knows what the disk has.
    fn note<T>(&self, result: io::Result<T>) -> io::Result<T> {
        if let Err(error) = &result {
            if error.kind() != io::ErrorKind::StorageFull {
                self.doubtful.store(true, Ordering::Release);
            }
        }
        result
    }
}

/// The lock methods, passed on to `self.file()`.
macro_rules! pass_on {
    ($($name:ident -> $result:ty),+) => {
        $(fn $name(&self, start: Bound<u64>, end: Bound<u64>) -> Result<$result, BackendError> {
            self.file().$name(start, end)
        })+
    };
    () => {
        pass_on!(
            try_lock_range -> bool, try_lock_shared_range -> bool, lock_range -> (), lock_shared_range -> (),
            unlock_range -> (), query_lock_range -> bool
        );
    };
}

impl Watched {
    fn file(&self) -> &dyn StoreFile {
        &*self.file
    }
}

impl StorageBackend for Watched {
    fn len(&self) -> io::Result<u64> {
        self.note(self.file.len())
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.note(self.file.read(offset, out))
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.note(self.file.set_len(len))
    }

    fn sync_data(&self) -> io::Result<()> {
        self.file.sync_data().inspect_err(|_| {
            // Full or not: what was written is not on the disk, and the page cache may say that it is.
            self.doubtful.store(true, Ordering::Release);
        })
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.note(self.file.write(offset, data))
    }

    fn close(&self) -> io::Result<()> {
        self.file.close()
    }

    pass_on!();
}

impl RealFile {
    fn file(&self) -> &FileBackend {
        &self.backend
    }
}

impl StorageBackend for RealFile {
    fn len(&self) -> io::Result<u64> {
        self.backend.len()
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.backend.read(offset, out)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        let now = self.same.metadata()?.len();
        if len > now {
            // Room that is missing is missed here, where nothing is written yet, rather than when a page is written back.
            match rustix::fs::fallocate(&self.same, rustix::fs::FallocateFlags::empty(), now, len - now) {
                Ok(()) | Err(rustix::io::Errno::OPNOTSUPP) => {}
                Err(error) => return Err(error.into()),
            }
        }
        self.backend.set_len(len)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.backend.sync_data()
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.backend.write(offset, data)
    }

    fn close(&self) -> io::Result<()> {
        self.backend.close()
    }

    pass_on!();
}

/// The open file.
pub(super) struct Disk {
    database: Database,
    /// Something failed after which nobody knows what the disk has.
    doubtful: Arc<AtomicBool>,
}

impl Disk {
    /// Opens or creates the file in `directory` and reads it.
    pub fn open(directory: &Path, open_file: &OpenFile) -> Result<(Disk, State), OpenError> {
        let path = directory.join(FILE_NAME);
        let at = |path: &Path| {
            let path = path.to_path_buf();
            move |source| OpenError::Io { path, source }
        };
        std::fs::create_dir_all(directory).map_err(at(directory))?;
        let is_new = !path.exists();
        // On some kinds of damage redb asserts where it could answer.
        let opened = catch_unwind(AssertUnwindSafe(|| Self::open_and_load(&path, open_file)));
        let (disk, state) = opened.unwrap_or_else(|_| {
            Err(OpenError::Corrupt {
                path: path.clone(),
                reason: "its structure is inconsistent".to_string(),
            })
        })?;
        if is_new {
            // The file's name must outlive a power loss, too.
            std::fs::File::open(directory)
                .and_then(|directory| directory.sync_all())
                .map_err(at(directory))?;
        }
        Ok((disk, state))
    }

    fn open_and_load(path: &Path, open_file: &OpenFile) -> Result<(Disk, State), OpenError> {
        let io_error = |source| OpenError::Io {
            path: path.to_path_buf(),
            source,
        };
        let file = open_file(path).map_err(io_error)?;
        let doubtful = Arc::new(AtomicBool::new(false));
        // What the kernel has still to write goes to the device first; what it could not write goes.
        file.sync_data().map_err(io_error)?;
        file.drop_cache().map_err(io_error)?;
        let watched = Watched {
            file,
            doubtful: doubtful.clone(),
        };
        // All of it is read anyway: a damaged page must not become wrong metadata.
        let database = Database::builder()
            .set_cache_size(CACHE_BYTES)
            .set_check_integrity_on_open(true)
            .create_with_backend(watched);
        let disk = Disk {
            database: database.map_err(|error| open_error(path, error))?,
            doubtful,
        };
        let opens = disk.begin(path)?;
        let state = disk.load(opens).map_err(|error| storage_error(path, error))?;
        Ok((disk, state))
    }

    /// Whether something failed after which nobody knows what the disk has.
    pub fn is_doubtful(&self) -> bool {
        self.doubtful.load(Ordering::Acquire)
    }

    /// Checks the format and counts how often the file was opened, so that no lease id comes twice.
    fn begin(&self, path: &Path) -> Result<u64, OpenError> {
        let begin = || -> Result<Result<u64, u64>, redb::Error> {
            let mut txn = self.database.begin_write()?;
            txn.set_durability(Durability::Immediate)?;
            let opens = {
                let mut numbers = txn.open_table(NUMBERS)?;
                let format = numbers.get(FORMAT)?.map(|format| format.value());
                if format.is_some_and(|format| format != FORMAT_VERSION) {
                    return Ok(Err(format.unwrap_or_default()));
                }
                let opens = numbers.get(OPENS)?.map_or(0, |opens| opens.value()) + 1;
                numbers.insert(FORMAT, FORMAT_VERSION)?;
                numbers.insert(OPENS, opens)?;
                txn.open_table(KEYS)?;
                opens
            };
            txn.commit()?;
            Ok(Ok(opens))
        };
        let format = begin().map_err(|error| storage_error(path, error))?;
        format.map_err(|found| OpenError::WrongVersion {
            path: path.to_path_buf(),
            found: found.to_string(),
        })
    }

    fn load(&self, opens: u64) -> Result<State, redb::Error> {
        let txn = self.database.begin_read()?;
        let revision = txn
            .open_table(NUMBERS)?
            .get(REVISION)?
            .map_or(0, |revision| revision.value());
        let mut keys = BTreeMap::new();
        for row in txn.open_table(KEYS)?.iter()? {
            let (key, value) = row?;
            let (create_revision, mod_revision, value) = value.value();
            let entry = Entry {
                value: Bytes::copy_from_slice(value),
                create_revision,
                mod_revision,
                lease: None,
            };
            keys.insert(Bytes::copy_from_slice(key.value()), entry);
        }
        Ok(State::load(revision, (opens << 32) as i64, keys))
    }

    /// Makes changes durable, all or none. After an error nobody knows which: unless the disk is doubtful now, the file can
    /// be opened again.
    pub fn commit(&self, events: &[WatchEvent], revision: Revision) -> Result<(), redb::Error> {
        let mut txn = self.database.begin_write()?;
        txn.set_durability(Durability::Immediate)?;
        {
            let mut keys = txn.open_table(KEYS)?;
            for event in events {
                match event {
                    WatchEvent::Put(item) if item.lease.is_none() => {
                        let row = (item.create_revision, item.mod_revision, &item.value[..]);
                        keys.insert(&item.key[..], row)?;
                    }
                    WatchEvent::Put(item) => drop(keys.remove(&item.key[..])?),
                    WatchEvent::Delete { key, .. } => drop(keys.remove(&key[..])?),
                }
            }
            txn.open_table(NUMBERS)?.insert(REVISION, revision)?;
        }
        txn.commit()?;
        Ok(())
    }
}

fn open_error(path: &Path, error: DatabaseError) -> OpenError {
    match error {
        DatabaseError::DatabaseAlreadyOpen => OpenError::Locked(path.to_path_buf()),
        DatabaseError::UpgradeRequired(found) => OpenError::WrongVersion {
            path: path.to_path_buf(),
            found: format!("redb {found}"),
        },
        error => storage_error(path, error.into()),
    }
}

fn storage_error(path: &Path, error: redb::Error) -> OpenError {
    let path = path.to_path_buf();
    match error {
        // Not a file of this kind at all.
        redb::Error::Io(source) if source.kind() == io::ErrorKind::InvalidData => OpenError::Corrupt {
            path,
            reason: source.to_string(),
        },
        redb::Error::Io(source) => OpenError::Io { path, source },
        error => OpenError::Corrupt {
            path,
            reason: error.to_string(),
        },
    }
}

/// What an operator can do something about comes first: a full disk looks like any other I/O error otherwise.
pub(super) fn describe(error: &redb::Error) -> String {
    match error {
        redb::Error::Io(source) if source.kind() == io::ErrorKind::StorageFull => {
            format!("no space left for the metastore: {source}")
        }
        error => format!("cannot write the metastore: {error}"),
    }
}
