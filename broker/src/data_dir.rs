//! The data directory belongs to one broker at a time, which the kernel guarantees by a lock on a file in it.

use rustix::fs::{flock, FlockOperation};
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

const LOCK_FILE: &str = "broker.lock";

/// The directory, held until this is dropped. The lock goes with the process, however that ends.
#[derive(Debug)]
pub struct DataDir {
    path: PathBuf,
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
        write_pid(&mut file).map_err(io_error)?;
        Ok(DataDir {
            path: path.to_owned(),
            _lock: file,
        })
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

fn write_pid(file: &mut File) -> io::Result<()> {
    file.set_len(0)?;
    file.seek(SeekFrom::Start(0))?;
    writeln!(file, "{}", std::process::id())
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
