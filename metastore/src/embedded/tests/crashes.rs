//! A disk that fills up, and that forgets what was not synced when the power goes.

use super::super::disk::OpenFile;
use redb::{Database, StorageBackend};
use std::io;
use std::sync::{Arc, Mutex};

#[derive(Debug, Default, Clone)]
pub(super) struct TestDisk(Arc<Mutex<Image>>);

#[derive(Debug, Default)]
struct Image {
    /// As the process sees it.
    seen: Vec<u8>,
    /// As of the last sync.
    durable: Vec<u8>,
    /// What came since, in order.
    unsynced: Vec<Change>,
    /// Writes that still succeed; `None` for all.
    writes_left: Option<u32>,
    syncs_fail: bool,
}

#[derive(Debug, Clone)]
enum Change {
    Length(usize),
    Write(usize, Vec<u8>),
}

impl TestDisk {
    pub fn open_file(&self) -> OpenFile {
        let disk = self.clone();
        Box::new(move |_| Database::builder().create_with_backend(disk.clone()))
    }

    pub fn fail_after_writes(&self, writes: u32) {
        self.0.lock().unwrap().writes_left = Some(writes);
    }

    pub fn fail_syncs(&self) {
        self.0.lock().unwrap().syncs_fail = true;
    }

    pub fn heal(&self) {
        let mut image = self.0.lock().unwrap();
        image.writes_left = None;
        image.syncs_fail = false;
    }

    /// The disk after a power loss: of what was not synced, each change is there or not, as the bits of `kept` say.
    pub fn after_power_loss(&self, kept: u64) -> TestDisk {
        let image = self.0.lock().unwrap();
        let mut seen = image.durable.clone();
        for (index, change) in image.unsynced.iter().enumerate() {
            if kept.rotate_right(index as u32) & 1 == 1 {
                apply(&mut seen, change);
            }
        }
        let image = Image {
            durable: seen.clone(),
            seen,
            ..Image::default()
        };
        TestDisk(Arc::new(Mutex::new(image)))
    }

    fn change(&self, change: Change) -> io::Result<()> {
        let mut image = self.0.lock().unwrap();
        match &mut image.writes_left {
            Some(0) => return Err(io::ErrorKind::StorageFull.into()),
            Some(left) => *left -= 1,
            None => {}
        }
        apply(&mut image.seen, &change);
        image.unsynced.push(change);
        Ok(())
    }
}

fn apply(to: &mut Vec<u8>, change: &Change) {
    match change {
        Change::Length(length) => to.resize(*length, 0),
        Change::Write(offset, data) => {
            let end = offset + data.len();
            if to.len() < end {
                to.resize(end, 0);
            }
            to[*offset..end].copy_from_slice(data);
        }
    }
}

impl StorageBackend for TestDisk {
    fn len(&self) -> io::Result<u64> {
        Ok(self.0.lock().unwrap().seen.len() as u64)
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let image = self.0.lock().unwrap();
        let offset = offset as usize;
        let found = image
            .seen
            .get(offset..offset + out.len())
            .ok_or(io::ErrorKind::UnexpectedEof)?;
        out.copy_from_slice(found);
        Ok(())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.change(Change::Length(len as usize))
    }

    fn sync_data(&self) -> io::Result<()> {
        let mut image = self.0.lock().unwrap();
        if image.syncs_fail {
            return Err(io::Error::other("sync failed"));
        }
        image.durable = image.seen.clone();
        image.unsynced.clear();
        Ok(())
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.change(Change::Write(offset as usize, data.to_vec()))
    }
}
