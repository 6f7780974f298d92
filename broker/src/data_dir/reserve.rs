//! Room in the data directory for starts on a full disk: a file that becomes smaller when it is needed.
//!
//! A start commits to the metastore and fences the streams of the process before. On a disk that is full to the last byte it
//! could do neither, and nothing could be read. So the first start sets a file aside, and a start that finds too little room
//! cuts a piece off. From then on records are refused, or they would take that room too, until there is enough for the whole
//! file again. Whatever else fills the disk may take what is left of a piece: then the next start cuts off another one.

use rustix::fs::{fallocate, statvfs, FallocateFlags};
use rustix::io::Errno;
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Bytes that are set aside.
const RESERVE_BYTES: u64 = 16 << 20;

/// Bytes that one start gets: for fences, one for each stream of each shard, and for the metastore to grow.
const PIECE_BYTES: u64 = 4 << 20;

const FILE: &str = "reserve";

/// Pause between two looks whether there is room again.
const LOOK_PAUSE: Duration = Duration::from_secs(1);

/// The file, or what is known since it went.
#[derive(Debug)]
pub struct Reserve {
    directory: PathBuf,
    held: AtomicBool,
    looked: Mutex<Option<Instant>>,
}

impl Reserve {
    /// Sets the room aside, or gives it to this start if the disk has none.
    pub(super) fn open(directory: &Path) -> Arc<Self> {
        let reserve = Reserve {
            directory: directory.to_owned(),
            held: AtomicBool::new(false),
            looked: Mutex::new(None),
        };
        let path = reserve.path();
        let free = reserve.free();
        let left = fs::metadata(&path).map_or(0, |file| file.len());
        let held = match (left, free < PIECE_BYTES) {
            (0, true) => {
                log::warn!(
                    "{} has {free} bytes free and no reserve: this start may fail",
                    directory.display()
                );
                false
            }
            (left, true) => {
                let cut = File::options().write(true).open(&path);
                match cut.and_then(|file| file.set_len(left.saturating_sub(PIECE_BYTES))) {
                    Ok(()) => log::warn!(
                        "{} has {free} bytes free: this start gets {PIECE_BYTES} of the {left} bytes in reserve, and records \
                         are refused until {} bytes are free",
                        directory.display(),
                        2 * RESERVE_BYTES
                    ),
                    Err(error) => log::error!("cut {}: {error}", path.display()),
                }
                false
            }
            (RESERVE_BYTES, false) => true,
            (_, false) => reserve.set_aside(free),
        };
        reserve.held.store(held, Ordering::Release);
        Arc::new(reserve)
    }

    /// Whether records may be stored; if not, a sentence for the log. To be called where it may block.
    ///
    /// # Errors
    /// The sentence.
    pub fn check(&self) -> Result<(), String> {
        if self.held.load(Ordering::Acquire) {
            return Ok(());
        }
        let mut looked = self.looked.lock().unwrap_or_else(PoisonError::into_inner);
        if looked.is_none_or(|looked| looked.elapsed() >= LOOK_PAUSE) {
            *looked = Some(Instant::now());
            if self.set_aside(self.free()) {
                self.held.store(true, Ordering::Release);
                log::info!("{} has room again: records are accepted", self.directory.display());
                return Ok(());
            }
        }
        Err(format!(
            "the disk of {} is full and its reserve is used: free {} bytes of it, then records are accepted again",
            self.directory.display(),
            2 * RESERVE_BYTES
        ))
    }

    fn path(&self) -> PathBuf {
        self.directory.join(FILE)
    }

    /// Bytes that the disk has left for this process; very many if it does not say.
    fn free(&self) -> u64 {
        match statvfs(&self.directory) {
            Ok(found) => found.f_bavail.saturating_mul(found.f_frsize),
            Err(error) => {
                log::warn!("ask how full the disk of {} is: {error}", self.directory.display());
                u64::MAX
            }
        }
    }

    /// Makes the file if that leaves as much again.
    fn set_aside(&self, free: u64) -> bool {
        if free < 2 * RESERVE_BYTES {
            return false;
        }
        let path = self.path();
        let made = File::create(&path).and_then(|file| {
            fill(&file)?;
            file.sync_all()
        });
        let made =
            made.inspect_err(|error| log::warn!("set {RESERVE_BYTES} bytes aside at {}: {error}", path.display()));
        made.is_ok()
    }
}

fn fill(mut file: &File) -> io::Result<()> {
    match fallocate(file, FallocateFlags::empty(), 0, RESERVE_BYTES) {
        Err(Errno::OPNOTSUPP) => {
            let zeros = vec![0; 1 << 20];
            (0..RESERVE_BYTES >> 20).try_for_each(|_| file.write_all(&zeros))
        }
        reserved => Ok(reserved?),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_disk_with_room_has_a_reserve_and_a_missing_one_is_made_again() {
        let directory = tempfile::tempdir().unwrap();
        let reserve = Reserve::open(directory.path());
        assert_eq!(fs::metadata(reserve.path()).unwrap().len(), RESERVE_BYTES);
        assert_eq!(reserve.check(), Ok(()));
        let spent = Reserve {
            directory: directory.path().to_owned(),
            held: AtomicBool::new(false),
            looked: Mutex::new(Some(Instant::now())),
        };
        let said = spent.check().unwrap_err();
        assert!(said.contains("free 33554432 bytes"), "{said}");
        *spent.looked.lock().unwrap() = None;
        assert_eq!(spent.check(), Ok(()), "there is room");
        assert!(!spent.set_aside(RESERVE_BYTES), "too little would be left");
    }
}
