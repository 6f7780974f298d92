//! What a create asks of the disk, step by step: so that tests see the order of the steps and make each of them fail.

use super::blocks;
use bytes::Bytes;
use rustix::fs::{fallocate, renameat_with, FallocateFlags, RenameFlags, CWD};
use rustix::io::Errno;
use std::fmt::Debug;
use std::fs::{self, File};
use std::io::{self, IoSlice, Write};
use std::os::unix::fs::FileExt;
use std::path::Path;

/// Buffers handed to one `writev`.
const IOV_MAX: usize = 1024;

/// From so many bytes on files are written and read past the page cache: the kernel would take longer to find pages for them,
/// to copy them, and to write them back, than the device takes to transfer them.
pub(super) const DIRECT_MIN: u64 = 128 << 10;

/// The steps of a create.
pub(super) trait Disk: Debug + Send + Sync {
    /// Makes a file that was not there, with this content.
    fn write(&self, path: &Path, body: &[Bytes]) -> io::Result<File> {
        let bytes = body.iter().map(|part| part.len() as u64).sum();
        if bytes >= DIRECT_MIN {
            return write_direct(path, body, bytes);
        }
        let mut file = File::create_new(path)?;
        for parts in body.chunks(IOV_MAX) {
            write_parts(&mut file, parts)?;
        }
        Ok(file)
    }

    /// Writes whole blocks into a file.
    fn write_at(&self, file: &File, blocks: &[u8], at: u64) -> io::Result<()> {
        file.write_all_at(blocks, at)
    }

    /// Has the file system set so many bytes aside for a file, which is that long then.
    fn reserve(&self, file: &File, bytes: u64) -> io::Result<()> {
        match fallocate(file, FallocateFlags::empty(), 0, bytes) {
            // Then it finds the room while it is written.
            Err(Errno::OPNOTSUPP) => file.set_len(bytes),
            reserved => Ok(reserved?),
        }
    }

    /// Makes a file's content durable.
    fn sync_file(&self, file: &File) -> io::Result<()> {
        file.sync_data()
    }

    /// Gives a file another name, unless that is taken.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        Ok(renameat_with(CWD, from, CWD, to, RenameFlags::NOREPLACE)?)
    }

    /// Makes a directory and those above it, where they are missing.
    fn make_directories(&self, path: &Path) -> io::Result<()> {
        fs::create_dir_all(path)
    }

    /// Makes the names in a directory durable.
    fn sync_directory(&self, path: &Path) -> io::Result<()> {
        File::open(path)?.sync_all()
    }
}

/// The disk as it is.
#[derive(Debug)]
pub(super) struct RealDisk;

impl Disk for RealDisk {}

fn write_direct(path: &Path, body: &[Bytes], bytes: u64) -> io::Result<File> {
    let file = blocks::create(path)?;
    blocks::write(&RealDisk, &file, 0, |writer| {
        body.iter().try_for_each(|part| writer.push(part))
    })?;
    file.set_len(bytes)?;
    Ok(file)
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
