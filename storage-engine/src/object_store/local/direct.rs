//! Whether writes that ask to bypass the page cache do so here.
//!
//! The store is safe either way (docs/decisions/0018); whoever looks for the cause of a loss or of slow writes wants to know.

use super::disk::{Access, Disk};
use rustix::fs::{statfs, statx, AtFlags, StatxFlags, CWD};
use std::fmt;
use std::io;
use std::path::Path;

/// File systems whose direct writes go to the device, by the number that `statfs` has for them.
const DIRECT: [(u32, &str); 3] = [(0xef53, "ext4"), (0x5846_5342, "xfs"), (0xf2f5_2010, "f2fs")];

/// Others that one meets.
const CACHED: [(u32, &str); 6] = [
    (0x9123_683e, "btrfs"),
    (0x0102_1994, "tmpfs"),
    (0x794c_7630, "overlayfs"),
    (0x2fc1_2fc1, "zfs"),
    (0x6573_5546, "fuse"),
    (0x6969, "nfs"),
];

/// Where writes of whole blocks go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Writes {
    /// To the device.
    Direct(&'static str),
    /// Through the page cache, or nobody knows.
    Cached(String),
}

impl fmt::Display for Writes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Writes::Direct(name) => write!(f, "writes go to the device past the page cache ({name})"),
            Writes::Cached(why) => write!(
                f,
                "writes go through the page cache ({why}): a failed one shows only when its file is synced, so every writer \
                 has a descriptor of its own"
            ),
        }
    }
}

/// Looks at the file system of a directory.
pub(super) fn look(directory: &Path) -> io::Result<Writes> {
    let found = statfs(directory)?.f_type as u32;
    let name_in = |table: &[(u32, &'static str)]| {
        let row = table.iter().find(|(magic, _)| *magic == found);
        row.map(|(_, name)| *name)
    };
    let Some(name) = name_in(&DIRECT) else {
        let unknown = || format!("file system {found:#x}");
        return Ok(Writes::Cached(name_in(&CACHED).map_or_else(unknown, str::to_string)));
    };
    let probe = directory.join("probe");
    let looked = probe_file(&probe);
    std::fs::remove_file(&probe)?;
    Ok(match looked? {
        true => Writes::Direct(name),
        false => Writes::Cached(format!("{name} does not write this file directly")),
    })
}

/// Whether the kernel says that a new file can be written directly. Kernels before 6.1 do not know.
fn probe_file(path: &Path) -> io::Result<bool> {
    std::fs::File::create(path)?;
    super::disk::RealDisk.open(path, Access::Blocks)?;
    let found = statx(CWD, path, AtFlags::empty(), StatxFlags::DIOALIGN)?;
    Ok(found.stx_mask & StatxFlags::DIOALIGN.bits() == 0 || found.stx_dio_offset_align > 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_system_in_memory_is_no_device() {
        // Where there is none, there is nothing to look at.
        let memory = Path::new("/dev/shm");
        if statfs(memory).is_ok_and(|found| found.f_type as u32 == 0x0102_1994) {
            let directory = tempfile::tempdir_in(memory).unwrap();
            assert_eq!(look(directory.path()).unwrap(), Writes::Cached("tmpfs".to_string()));
        }
        let directory = tempfile::tempdir().unwrap();
        look(directory.path()).unwrap();
        assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 0);
    }
}
