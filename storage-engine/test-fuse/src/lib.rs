//! A file system whose disk fills up or fails on command, for tests of real processes.
//!
//! [`FailingDisk::mount`] mounts a FUSE file system that stores everything in a directory beside it. A test then fills the
//! disk ([`FailingDisk::fill`]) or makes reads, writes or syncs fail with EIO ([`FailingDisk::set`]), while a broker works on
//! it as on any disk. Writes reach the directory at once: a process that dies loses nothing. Page caches, lost writes and
//! power cuts are the business of `kafscale-test-disk`.
//!
//! Mounting needs /dev/fuse and the right to mount. Where either is missing, `mount` says so and the test leaves itself out.

mod passthrough;
#[cfg(test)]
mod tests;

use fuser::{BackgroundSession, Config, MountOption};
use passthrough::Passthrough;
use rustix::process::{getrlimit, setrlimit, Resource, Rlimit};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::Arc;

/// Threads that answer the kernel: a request that is slow holds up no other.
const THREADS: usize = 4;

/// Which operations fail with EIO.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Faults {
    /// Reads of files.
    pub reads: bool,
    /// Writes to files, and changes of their size.
    pub writes: bool,
    /// `fsync` and `fdatasync` of files and directories.
    pub syncs: bool,
}

/// How often the disk has failed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    /// ENOSPC.
    pub full: u64,
    /// Reads that failed with EIO.
    pub reads: u64,
    /// Writes that failed with EIO.
    pub writes: u64,
    /// Syncs that failed with EIO.
    pub syncs: u64,
}

/// What the test commands and the file system obeys.
#[derive(Debug, Default)]
struct State {
    reads: AtomicBool,
    writes: AtomicBool,
    syncs: AtomicBool,
    /// Bytes that the disk has; 0: no limit.
    capacity: AtomicU64,
    /// Bytes of all files.
    used: AtomicU64,
    failed: [AtomicU64; 4],
}

/// Indices of [`State::failed`].
const FULL: usize = 0;
const READS: usize = 1;
const WRITES: usize = 2;
const SYNCS: usize = 3;

/// A mounted file system. It is unmounted when this is dropped.
#[derive(Debug)]
pub struct FailingDisk {
    mount_point: PathBuf,
    state: Arc<State>,
    session: Option<BackgroundSession>,
}

impl FailingDisk {
    /// Mounts a sound and empty disk at `parent/disk`, which stores its files below `parent/disk-files`.
    ///
    /// # Errors
    /// If this process may not mount a FUSE file system.
    pub fn mount(parent: &Path) -> io::Result<FailingDisk> {
        let (mount_point, files) = (parent.join("disk"), parent.join("disk-files"));
        fs::create_dir_all(&mount_point)?;
        fs::create_dir_all(&files)?;
        raise_open_files_limit()?;
        let state = Arc::new(State::default());
        let mut config = Config::default();
        config.mount_options = vec![MountOption::FSName("kafscale-test".to_string()), MountOption::NoAtime];
        config.n_threads = Some(THREADS);
        config.clone_fd = true;
        let session = fuser::spawn_mount(Passthrough::new(&files, state.clone())?, &mount_point, &config)?;
        Ok(FailingDisk {
            mount_point,
            state,
            session: Some(session),
        })
    }

    /// Where it is mounted.
    pub fn path(&self) -> &Path {
        &self.mount_point
    }

    /// From now on these operations fail, and no others.
    pub fn set(&self, faults: Faults) {
        self.state.reads.store(faults.reads, Ordering::SeqCst);
        self.state.writes.store(faults.writes, Ordering::SeqCst);
        self.state.syncs.store(faults.syncs, Ordering::SeqCst);
    }

    /// From now on the disk has room for this many more bytes: what goes beyond fails with ENOSPC. Writes inside a file are
    /// possible at all times, as its blocks are there.
    pub fn fill(&self, left: u64) {
        let used = self.state.used.load(Ordering::SeqCst);
        self.state.capacity.store((used + left).max(1), Ordering::SeqCst);
    }

    /// From now on there is room, and nothing fails.
    pub fn mend(&self) {
        self.set(Faults::default());
        self.state.capacity.store(0, Ordering::SeqCst);
    }

    /// How often the disk has failed.
    pub fn counts(&self) -> Counts {
        let [full, reads, writes, syncs] =
            [FULL, READS, WRITES, SYNCS].map(|at| self.state.failed[at].load(Ordering::SeqCst));
        Counts {
            full,
            reads,
            writes,
            syncs,
        }
    }
}

impl Drop for FailingDisk {
    fn drop(&mut self) {
        // A process that still has files open keeps the mount busy: it is detached then, and goes with the last of them.
        let session = self.session.take();
        let unmounted = session.map_or(Ok(()), BackgroundSession::umount_and_join);
        if let Err(error) = unmounted {
            eprintln!("unmount {}: {error}", self.mount_point.display());
        }
    }
}

/// The file system holds a descriptor of every inode that the kernel knows.
fn raise_open_files_limit() -> io::Result<()> {
    let limit = getrlimit(Resource::Nofile);
    setrlimit(
        Resource::Nofile,
        Rlimit {
            current: limit.maximum,
            ..limit
        },
    )?;
    Ok(())
}
