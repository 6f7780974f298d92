//! The file system of [`kafscale_test_disk`] as the store asks for it.

use super::disk::{Access, Disk, DiskFile, Kind};
use bytes::Bytes;
use kafscale_test_disk::{Kind as Found, TestDisk, TestFile};
use std::ffi::OsString;
use std::io;
use std::path::Path;

impl DiskFile for TestFile {
    fn len(&self) -> io::Result<u64> {
        Ok(TestFile::len(self))
    }

    fn read_at(&self, into: &mut [u8], at: u64) -> io::Result<usize> {
        TestFile::read_at(self, into, at)
    }

    fn write_at(&self, bytes: &[u8], at: u64) -> io::Result<()> {
        TestFile::write_at(self, bytes, at)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        TestFile::set_len(self, len)
    }

    fn reserve(&self, bytes: u64) -> io::Result<()> {
        TestFile::reserve(self, bytes)
    }

    fn sync(&self) -> io::Result<()> {
        TestFile::sync(self)
    }
}

impl Disk for TestDisk {
    fn create(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        Ok(Box::new(TestDisk::create(self, path, true)?))
    }

    fn write(&self, path: &Path, body: &[Bytes]) -> io::Result<Box<dyn DiskFile>> {
        let file = TestDisk::create(self, path, false)?;
        file.write_at(&body.concat(), 0)?;
        Ok(Box::new(file))
    }

    fn open(&self, path: &Path, access: Access) -> io::Result<Box<dyn DiskFile>> {
        Ok(Box::new(TestDisk::open(self, path, access != Access::Read)?))
    }

    fn kind(&self, path: &Path) -> io::Result<Kind> {
        Ok(match TestDisk::kind(self, path)? {
            Found::Directory => Kind::Directory,
            Found::File(len) => Kind::File { len, modified_ms: 0 },
        })
    }

    fn entries(&self, path: &Path) -> io::Result<Vec<(OsString, bool)>> {
        let mut entries = Vec::new();
        for entry in TestDisk::entries(self, path)? {
            let is_directory = TestDisk::kind(self, &entry)? == Found::Directory;
            entries.extend(entry.file_name().map(|name| (name.to_os_string(), is_directory)));
        }
        Ok(entries)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        TestDisk::rename(self, from, to)
    }

    fn remove_file(&self, path: &Path) -> io::Result<()> {
        TestDisk::remove_file(self, path)
    }

    fn remove_directory(&self, path: &Path) -> io::Result<()> {
        TestDisk::remove_directory(self, path)
    }

    fn make_directories(&self, path: &Path) -> io::Result<()> {
        TestDisk::make_directories(self, path)
    }

    fn sync_directory(&self, path: &Path) -> io::Result<()> {
        TestDisk::sync_directory(self, path)
    }

    fn sync_everything(&self, _: &Path) -> io::Result<()> {
        TestDisk::sync_everything(self)
    }
}
