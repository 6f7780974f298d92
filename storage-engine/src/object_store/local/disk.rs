//! What a create asks of the disk, step by step: so that tests see the order of the steps and make each of them fail.

use bytes::Bytes;
use rustix::fs::{renameat_with, RenameFlags, CWD};
use std::fmt::Debug;
use std::fs::{self, File};
use std::io::{self, IoSlice, Write};
use std::path::Path;

/// Buffers handed to one `writev`.
const IOV_MAX: usize = 1024;

/// The steps of a create.
pub(super) trait Disk: Debug + Send + Sync {
    /// Makes a file that was not there, with this content.
    fn write(&self, path: &Path, body: &[Bytes]) -> io::Result<File> {
        let mut file = File::create_new(path)?;
        for parts in body.chunks(IOV_MAX) {
            write_parts(&mut file, parts)?;
        }
        Ok(file)
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
