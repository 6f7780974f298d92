//! What the store asks of the file system, call by call: so that tests see the order of the calls, make each of them
//! fail, and cut the power.

use super::blocks;
use bytes::Bytes;
use rustix::fs::{fallocate, renameat_with, FallocateFlags, OFlags, RenameFlags, CWD};
use rustix::io::Errno;
use std::ffi::OsString;
use std::fmt::Debug;
use std::fs::{self, File, FileType, OpenOptions};
use std::io::{self, IoSlice, Write};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;
use std::time::UNIX_EPOCH;

/// Buffers handed to one `writev`.
const IOV_MAX: usize = 1024;

/// From so many bytes on files are written and read past the page cache: the kernel would take longer to find pages for them,
/// to copy them, and to write them back, than the device takes to transfer them.
pub(super) const DIRECT_MIN: u64 = 128 << 10;

/// How a file is opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Access {
    /// To be read and written in whole blocks, past the page cache where the file system can do that.
    Blocks,
    /// To be read in whole blocks, in the same way.
    ReadBlocks,
    /// To be read.
    Read,
}

/// What a name leads to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// A directory.
    Directory,
    /// A file, with its length and when it was written, in ms since the Unix epoch.
    File { len: u64, modified_ms: i64 },
    /// Something else: a pipe, a device.
    Other,
}

/// An open file: one descriptor.
pub(super) trait DiskFile: Debug + Send + Sync {
    /// Bytes of the file.
    fn len(&self) -> io::Result<u64>;

    /// Reads at most all of `into`; less where the file ends.
    fn read_at(&self, into: &mut [u8], at: u64) -> io::Result<usize>;

    /// Writes all of `bytes`.
    fn write_at(&self, bytes: &[u8], at: u64) -> io::Result<()>;

    /// Cuts or extends the file.
    fn set_len(&self, len: u64) -> io::Result<()>;

    /// Has the file system set so many bytes aside for the file, which is that long then.
    fn reserve(&self, bytes: u64) -> io::Result<()>;

    /// Makes the file's content durable.
    fn sync(&self) -> io::Result<()>;
}

/// The file system.
pub(super) trait Disk: Debug + Send + Sync {
    /// Makes a file that was not there, to be read and written in whole blocks.
    fn create(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        Ok(Box::new(create_blocks(path)?))
    }

    /// Makes a file that was not there, with this content.
    fn write(&self, path: &Path, body: &[Bytes]) -> io::Result<Box<dyn DiskFile>> {
        let bytes = body.iter().map(|part| part.len() as u64).sum();
        if bytes >= DIRECT_MIN {
            return write_direct(path, body, bytes);
        }
        let mut file = File::create_new(path)?;
        for parts in body.chunks(IOV_MAX) {
            write_parts(&mut file, parts)?;
        }
        Ok(Box::new(file))
    }

    /// Opens a file.
    fn open(&self, path: &Path, access: Access) -> io::Result<Box<dyn DiskFile>> {
        let mut options = OpenOptions::new();
        options.read(true).write(access == Access::Blocks);
        let opened = match access {
            Access::Read => options.open(path),
            Access::Blocks | Access::ReadBlocks => match options.clone().custom_flags(direct()).open(path) {
                Err(error) if error.kind() == io::ErrorKind::InvalidInput => options.open(path),
                opened => opened,
            },
        };
        Ok(Box::new(opened?))
    }

    /// What a name leads to.
    fn kind(&self, path: &Path) -> io::Result<Kind> {
        let metadata = fs::metadata(path)?;
        let modified = metadata
            .modified()
            .ok()
            .and_then(|time| time.duration_since(UNIX_EPOCH).ok());
        Ok(match metadata.file_type() {
            kind if kind.is_dir() => Kind::Directory,
            kind if kind.is_file() => Kind::File {
                len: metadata.len(),
                modified_ms: modified.map_or(0, |since| since.as_millis() as i64),
            },
            _ => Kind::Other,
        })
    }

    /// The names in a directory, and whether each leads to a directory; those that lead to neither a file nor a directory
    /// are left out.
    fn entries(&self, path: &Path) -> io::Result<Vec<(OsString, bool)>> {
        let mut entries = Vec::new();
        for entry in fs::read_dir(path)? {
            let entry = entry?;
            let followed = |kind: FileType| match kind.is_symlink() {
                true => fs::metadata(entry.path()).map(|metadata| metadata.file_type()),
                false => Ok(kind),
            };
            match entry.file_type().and_then(followed) {
                Ok(kind) if kind.is_dir() || kind.is_file() => entries.push((entry.file_name(), kind.is_dir())),
                Ok(_) => {}
                // It was deleted meanwhile, or is a link to nothing.
                Err(error) if is_absent(&error) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(entries)
    }

    /// Gives a file another name, unless that is taken.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        Ok(renameat_with(CWD, from, CWD, to, RenameFlags::NOREPLACE)?)
    }

    /// Removes a file.
    fn remove_file(&self, path: &Path) -> io::Result<()> {
        fs::remove_file(path)
    }

    /// Removes an empty directory.
    fn remove_directory(&self, path: &Path) -> io::Result<()> {
        fs::remove_dir(path)
    }

    /// Makes a directory and those above it, where they are missing.
    fn make_directories(&self, path: &Path) -> io::Result<()> {
        fs::create_dir_all(path)
    }

    /// Makes the names in a directory durable.
    fn sync_directory(&self, path: &Path) -> io::Result<()> {
        File::open(path)?.sync_all()
    }

    /// Makes everything on the file system durable.
    fn sync_everything(&self, root: &Path) -> io::Result<()> {
        Ok(rustix::fs::syncfs(File::open(root)?)?)
    }
}

/// Whether an error says that nothing has this name.
pub(super) fn is_absent(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory)
}

/// The disk as it is.
#[derive(Debug)]
pub(super) struct RealDisk;

impl Disk for RealDisk {}

impl DiskFile for File {
    fn len(&self) -> io::Result<u64> {
        Ok(self.metadata()?.len())
    }

    fn read_at(&self, into: &mut [u8], at: u64) -> io::Result<usize> {
        FileExt::read_at(self, into, at)
    }

    fn write_at(&self, bytes: &[u8], at: u64) -> io::Result<()> {
        self.write_all_at(bytes, at)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        File::set_len(self, len)
    }

    fn reserve(&self, bytes: u64) -> io::Result<()> {
        match fallocate(self, FallocateFlags::empty(), 0, bytes) {
            // Then it finds the room while it is written.
            Err(Errno::OPNOTSUPP) => File::set_len(self, bytes),
            reserved => Ok(reserved?),
        }
    }

    fn sync(&self) -> io::Result<()> {
        self.sync_data()
    }
}

fn direct() -> i32 {
    OFlags::DIRECT.bits() as i32
}

fn create_blocks(path: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.read(true).write(true).create_new(true);
    match options.clone().custom_flags(direct()).open(path) {
        Err(error) if error.kind() == io::ErrorKind::InvalidInput => {
            // A file system without direct writes. Some of them make the file before they say so.
            match fs::remove_file(path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
                _ => options.open(path),
            }
        }
        made => made,
    }
}

fn write_direct(path: &Path, body: &[Bytes], bytes: u64) -> io::Result<Box<dyn DiskFile>> {
    let file = create_blocks(path)?;
    blocks::write(&file, 0, |writer| body.iter().try_for_each(|part| writer.push(part)))?;
    file.set_len(bytes)?;
    Ok(Box::new(file))
}
fn write_parts(file: &mut File, parts: &[Bytes]) -> io::Result<()> {
    let mut slices: Vec<IoSlice> = parts
        .iter()
        .filter(|part| !part.is_empty())
        .map(|part| IoSlice::new(part))
        .collect();
    let mut rest = &mut slices[..];
    while !rest.is_empty() {
        match file.write_vectored(rest) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(written) => IoSlice::advance_slices(&mut rest, written),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}
