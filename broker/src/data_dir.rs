//! The data directory belongs to one broker at a time, which the kernel guarantees by a lock on a file in it.

mod reserve;

pub use reserve::Reserve;

use rustix::fs::{flock, FlockOperation};
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

const LOCK_FILE: &str = "broker.lock";

/// The directory, held until this is dropped. The lock goes with the process, however that ends.
#[derive(Debug)]
pub struct DataDir {
    path: PathBuf,
    reserve: Arc<Reserve>,
    _lock: File,
}

/// Why the directory cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum DataDirError {
    /// Another process has it.
    #[error("data directory {path} is in use by {holder}: stop it, or choose another directory with --data-dir")]
    InUse {
        /// The directory.
        path: PathBuf,
        /// Who has it, as far as known.
        holder: String,
    },
    /// It cannot be created or locked.
    #[error("data directory {path}: {error}; it must be writable, --data-dir names another")]
    Io {
        /// The directory.
        path: PathBuf,
        /// What the system says.
        error: io::Error,
    },
}

impl DataDir {
    /// Creates the directory if it is missing, and takes it.
    ///
    /// # Errors
    /// `InUse` if another process holds it, `Io` if it cannot be created or written.
    pub fn lock(path: &Path) -> Result<DataDir, DataDirError> {
        let io_error = |error| DataDirError::Io {
            path: path.to_owned(),
            error,
        };
        std::fs::create_dir_all(path).map_err(io_error)?;
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false) // Whoever has it wrote its pid there.
            .open(path.join(LOCK_FILE))
            .map_err(io_error)?;
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(error) if error == rustix::io::Errno::WOULDBLOCK => {
                let mut pid = String::new();
                let _ = file.read_to_string(&mut pid);
                let holder = match pid.trim() {
                    "" => "another process".to_owned(),
                    pid => format!("process {pid}"),
                };
                return Err(DataDirError::InUse {
                    path: path.to_owned(),
                    holder,
                });
            }
            Err(error) => return Err(io_error(error.into())),
        }
        let reserve = Reserve::open(path);
        if let Err(error) = write_pid(&mut file) {
            // It is for the message above alone, and the lock is held.
            log::warn!("write the process id into {LOCK_FILE}: {error}");
        }
        Ok(DataDir {
            path: path.to_owned(),
            reserve,
            _lock: file,
        })
    }

    /// Its room for a start on a full disk.
    pub fn reserve(&self) -> Arc<Reserve> {
        self.reserve.clone()
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

fn write_pid(file: &mut File) -> io::Result<()> {
    let line = format!("{}\n", std::process::id());
    file.seek(SeekFrom::Start(0))?;
    // In place: a disk that is full would give a block that is freed here to somebody else.
    file.write_all(line.as_bytes())?;
    file.set_len(line.len() as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_that_is_in_use_is_refused_with_the_pid() {
        let parent = tempfile::tempdir().unwrap();
        let path = parent.path().join("a/b");
        let held = DataDir::lock(&path).unwrap();
        assert_eq!(held.path(), path);
        let error = DataDir::lock(&path).unwrap_err().to_string();
        assert!(
            error.contains(&format!("in use by process {}", std::process::id())),
            "{error}"
        );
        drop(held);
        DataDir::lock(&path).unwrap();
    }

    #[test]
    fn a_path_that_is_no_directory_is_refused() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let error = DataDir::lock(file.path()).unwrap_err();
        assert!(matches!(error, DataDirError::Io { .. }), "{error}");
    }
}
