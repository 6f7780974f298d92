//! Syncs and sequential writes in a directory.

use super::{cpu_time, Limits};
use crate::client::BenchError;
use rustix::fs::OFlags;
use std::fs::{File, OpenOptions};
use std::io::{self, ErrorKind, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::Instant;

const MIB: usize = 1 << 20;
/// What O_DIRECT wants of addresses and lengths, on every disk that we know.
const ALIGNMENT: usize = 4096;
/// Sizes that are synced, and how they are called.
const SIZES: [(usize, &str); 2] = [(4 << 10, "4_kib"), (MIB, "1_mib")];

/// A directory below the one that is measured; it goes away with it.
struct Below(PathBuf);

impl Below {
    fn new(directory: &Path) -> io::Result<Self> {
        let path = directory.join(format!("kafscale-bench-limits-{}", std::process::id()));
        std::fs::create_dir(&path)?;
        Ok(Below(path))
    }
}

impl Drop for Below {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_dir_all(&self.0) {
            eprintln!("{} is left: {error}", self.0.display());
        }
    }
}

/// p50 and p99 of appending and syncing, also as a file of its own that is renamed; MB/s (10⁶ bytes) and core-seconds per GB of
/// sequential writes through the page cache and around it, with the sync at the end.
///
/// # Errors
/// If the directory cannot be written.
pub fn measure(directory: &Path, syncs: u64, write_mib: u64, limits: &mut Limits) -> Result<(), BenchError> {
    let below = Below::new(directory)
        .map_err(|error| BenchError::Options(format!("directory {}: {error}", directory.display())))?;
    for (size, name) in SIZES {
        let block = vec![7; size];
        let mut file = File::create(below.0.join("appended"))?;
        percentiles(limits, &format!("sync_{name}"), syncs, || {
            file.write_all(&block)?;
            file.sync_data()
        })?;
        let parent = File::open(&below.0)?;
        let mut number = 0;
        percentiles(limits, &format!("sync_rename_sync_dir_{name}"), syncs, || {
            number += 1;
            let path = below.0.join("new");
            let mut file = File::create(&path)?;
            file.write_all(&block)?;
            file.sync_data()?;
            std::fs::rename(&path, below.0.join(format!("object-{number}")))?;
            parent.sync_all()
        })?;
    }
    for (name, flags) in [("buffered", OFlags::empty()), ("direct", OFlags::DIRECT)] {
        match sequential(&below.0.join(name), flags, write_mib) {
            Ok((mb_per_s, core_s_per_gb)) => {
                limits.insert(format!("write_{name}_mb_per_s"), mb_per_s);
                limits.insert(format!("write_{name}_core_s_per_gb"), core_s_per_gb);
            }
            // tmpfs, for one.
            Err(error) if name == "direct" && error.kind() == ErrorKind::InvalidInput => {
                eprintln!("{} cannot be written with O_DIRECT: {error}", directory.display());
            }
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

/// Milliseconds of so many, one after the other.
fn percentiles(
    limits: &mut Limits,
    name: &str,
    times: u64,
    mut work: impl FnMut() -> io::Result<()>,
) -> io::Result<()> {
    let mut took = Vec::new();
    for _ in 0..times {
        let began = Instant::now();
        work()?;
        took.push(began.elapsed().as_secs_f64() * 1e3);
    }
    took.sort_by(f64::total_cmp);
    for (percentile, part) in [("p50", 0.5), ("p99", 0.99)] {
        let at = ((took.len() as f64 * part) as usize).min(took.len() - 1);
        limits.insert(format!("{name}_{percentile}_ms"), took[at]);
    }
    Ok(())
}

/// MB/s and core-seconds of this process per GB; what the kernel's own threads take is not in it.
fn sequential(path: &Path, flags: OFlags, mib: u64) -> io::Result<(f64, f64)> {
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .custom_flags(flags.bits() as i32)
        .open(path)?;
    let memory = vec![7u8; MIB + ALIGNMENT];
    let skip = memory.as_ptr().align_offset(ALIGNMENT);
    let block = &memory[skip..skip + MIB];
    let (began, cpu) = (Instant::now(), cpu_time());
    for _ in 0..mib {
        file.write_all(block)?;
    }
    file.sync_data()?;
    let (took, used) = (began.elapsed(), cpu_time().saturating_sub(cpu));
    let bytes = (mib * MIB as u64) as f64;
    Ok((bytes / 1e6 / took.as_secs_f64(), used.as_secs_f64() / (bytes / 1e9)))
}
