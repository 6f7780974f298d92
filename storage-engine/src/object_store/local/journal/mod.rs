//! Small objects that come and go by the thousand, in a few large files: the packs.
//!
//! A file of its own costs an object a new inode, two syncs and a directory entry to remove again. In a pack it costs one
//! write and one sync of blocks that were there before. A pack whose objects are all deleted is used again.
//!
//! An object counts once its entry is synced, by a descriptor that nobody else uses at the time. Where writes go through the
//! page cache, a failed one is reported once per descriptor: if writers shared one, the sync of one would take the error of
//! all, and the others would acknowledge what the disk does not have (docs/decisions/0018). A pack of which a write or a
//! sync failed gets no further entry, and is removed once nothing in it is alive.
//!
//! Who opens the packs after a crash takes every entry that is whole; for most of
//! them an entry behind them vouches, only what may have been under way is read ([`recover`]). An entry that somebody vouches
//! for and that is not there is damage, and refused: what is missing had been acknowledged.

mod format;
mod recover;
#[cfg(test)]
mod tests;

use super::blocks::{self, BLOCK};
use super::disk::{is_absent, Access, Disk, DiskFile};
use super::failed;
use crate::object_store::{ObjectMeta, StoreError};
use bytes::Bytes;
use format::{EntryHeader, PackState, BLOCKS_MAX, ENTRY_TRAILER, STATE_BLOCKS};
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::ops::Bound;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

/// How large things may become.
#[derive(Debug, Clone, Copy)]
pub(super) struct Limits {
    /// Blocks of a pack, at most [`BLOCKS_MAX`]; fewer where the disk has no room for so many.
    pub pack_blocks: u32,
    /// Bytes of an object in a pack at most. Larger ones are files of their own.
    pub object_bytes: u64,
    /// Packs without an object that are kept to be used again.
    pub spare_packs: usize,
}

/// 64 MiB a pack.
pub(super) const LIMITS: Limits = Limits {
    pack_blocks: 1 << 14,
    object_bytes: 16 << 20,
    spare_packs: 8,
};

const _: () = assert!(LIMITS.pack_blocks <= BLOCKS_MAX);

/// The packs of one directory, for all shards of this process.
#[derive(Debug)]
pub(super) struct Journal {
    directory: PathBuf,
    disk: Arc<dyn Disk>,
    limits: Limits,
    state: Mutex<State>,
    /// Told whenever a name that was taken is settled.
    settled: Condvar,
}

#[derive(Debug, Default)]
struct State {
    names: BTreeMap<String, Name>,
    packs: BTreeMap<u64, Pack>,
    /// Where the next entry goes.
    current: Option<u64>,
    next_pack: u64,
    next_seq: u64,
}

#[derive(Debug)]
enum Name {
    /// Somebody is writing it.
    Taken,
    Stored(Stored),
}

#[derive(Debug, Clone, Copy)]
struct Stored {
    pack: u64,
    /// The entry's first block.
    block: u32,
    /// The object's first byte in the pack.
    at: u64,
    len: u64,
    modified_ms: i64,
}

#[derive(Debug)]
struct Pack {
    /// For reads and for the state. Each reader holds a share, and a pack with readers is not used again.
    file: Arc<dyn DiskFile>,
    /// Descriptors for entries that no writer uses at the moment. Only the current pack keeps them.
    writers: Vec<Box<dyn DiskFile>>,
    state: PackState,
    /// Blocks that are set aside for it.
    blocks: u32,
    /// First block that nothing was written to in this life.
    end: u32,
    /// Objects in it.
    live: usize,
    /// First blocks of entries that are being written.
    in_flight: BTreeSet<u32>,
    /// A write or a sync of it failed.
    failed: bool,
    /// A delete failed, and the disk may have it that its objects are gone.
    unsettled: bool,
}

impl Pack {
    fn is_empty(&self) -> bool {
        self.live == 0 && self.in_flight.is_empty()
    }

    fn fits(&self, blocks: u32) -> bool {
        !self.failed && self.blocks.saturating_sub(self.end) >= blocks
    }
}

/// Where an entry is to be written.
struct Place {
    pack: u64,
    /// A descriptor that is this writer's alone.
    file: Box<dyn DiskFile>,
    block: u32,
    header: EntryHeader,
}

impl Journal {
    /// An object's file and where in it the object is, if it is here.
    fn find(&self, key: &str) -> Option<(Arc<dyn DiskFile>, Stored)> {
        let state = self.lock();
        match state.names.get(key) {
            Some(Name::Stored(stored)) => {
                let pack = state.packs.get(&stored.pack)?;
                Some((pack.file.clone(), *stored))
            }
            _ => None,
        }
    }

    /// Bytes of an object that `range` picks, given its length. `None` if it is not here.
    pub fn read(
        &self,
        key: &str,
        range: impl FnOnce(u64) -> Result<std::ops::Range<u64>, StoreError>,
    ) -> Result<Option<(Bytes, u64)>, StoreError> {
        let Some((file, stored)) = self.find(key) else {
            return Ok(None);
        };
        let range = range(stored.len)?;
        let len = range.end.saturating_sub(range.start) as usize;
        let bytes = blocks::read(&*file, stored.at + range.start, len).map_err(|error| failed("read", key, &error))?;
        Ok(Some((bytes, stored.len)))
    }

    /// At most `limit` objects that begin with `prefix` and come after `start_after`.
    pub fn list(&self, prefix: &str, start_after: &str, limit: usize) -> Vec<ObjectMeta> {
        let from = match prefix > start_after {
            true => Bound::Included(prefix),
            false => Bound::Excluded(start_after),
        };
        let state = self.lock();
        let names = state.names.range::<str, _>((from, Bound::Unbounded));
        let stored = names
            .take_while(|(key, _)| key.starts_with(prefix))
            .filter_map(|(key, name)| match name {
                Name::Stored(stored) => Some(ObjectMeta {
                    key: key.clone(),
                    size: stored.len,
                    modified_ms: stored.modified_ms,
                }),
                Name::Taken => None,
            });
        stored.take(limit).collect()
    }

    /// Takes a name for whoever creates an object of it; waits while somebody else has it.
    ///
    /// # Errors
    /// [`StoreError::Conflict`] if there is such an object.
    pub fn take(&self, key: &str) -> Result<TakenName<'_>, StoreError> {
        let mut state = self.lock();
        loop {
            match state.names.get(key) {
                None => break,
                Some(Name::Stored(stored)) => {
                    let number = stored.pack;
                    if let Some(pack) = state.packs.get_mut(&number).filter(|pack| pack.unsettled) {
                        write_state(pack).map_err(|error| failed("settle a failed delete of", key, &error))?;
                    }
                    return Err(StoreError::Conflict(key.to_string()));
                }
                // It is not there before it is durable, nor free before it is known not to be.
                Some(Name::Taken) => state = self.settled.wait(state).unwrap_or_else(PoisonError::into_inner),
            }
        }
        state.names.insert(key.to_string(), Name::Taken);
        Ok(TakenName {
            journal: self,
            key: key.to_string(),
            stored: None,
        })
    }

    /// Removes objects; says of each key whether one was here. After an error some or all of them are still here.
    pub fn delete(&self, keys: &[String]) -> Result<Vec<bool>, StoreError> {
        let mut state = self.lock();
        let State {
            names, packs, current, ..
        } = &mut *state;
        let mut found = Vec::with_capacity(keys.len());
        let mut doomed: BTreeMap<u64, Vec<(&String, u32)>> = BTreeMap::new();
        for key in keys {
            let stored = match names.get(key) {
                Some(Name::Stored(stored)) => Some(*stored),
                _ => None,
            };
            found.push(stored.is_some());
            if let Some(stored) = stored {
                doomed.entry(stored.pack).or_default().push((key, stored.block));
            }
        }
        for (number, doomed) in doomed {
            let Some(pack) = packs.get_mut(&number) else {
                continue;
            };
            doomed.iter().for_each(|(_, block)| pack.state.kill(*block));
            if let Err(error) = write_state(pack) {
                // Nobody knows which state the disk has. Whoever finds the names taken relies on the objects.
                doomed.iter().for_each(|(_, block)| pack.state.revive(*block));
                pack.unsettled = write_state(pack).is_err();
                fail(number, pack, current);
                return Err(failed(
                    "delete from",
                    &self.pack_path(number).display().to_string(),
                    &error,
                ));
            }
            for (key, _) in doomed {
                if names.remove(key).is_some() {
                    pack.live -= 1;
                }
            }
        }
        self.remove_superfluous(&mut state)?;
        Ok(found)
    }

    fn append(&self, key: &str, body: &[Bytes], crc32c: Option<u32>) -> Result<Stored, StoreError> {
        let len = body.iter().map(|part| part.len() as u64).sum();
        let place = self.place(key, len).map_err(|error| failed("write", key, &error))?;
        let written = write_entry(&place, body, crc32c).and_then(|()| place.file.sync());
        self.finish(place, written)
    }

    /// An entry is durable, or will not be.
    fn finish(&self, place: Place, written: io::Result<()>) -> Result<Stored, StoreError> {
        let key = &place.header.key;
        let mut state = self.lock();
        let State { packs, current, .. } = &mut *state;
        // A pack stays while something in it is in flight.
        let Some(pack) = packs.get_mut(&place.pack) else {
            return Err(StoreError::OutcomeUnknown(format!("the pack of {key} is gone")));
        };
        pack.in_flight.remove(&place.block);
        let error = match written {
            Ok(()) if !pack.failed => {
                pack.live += 1;
                if *current == Some(place.pack) {
                    pack.writers.push(place.file);
                }
                return Ok(Stored {
                    pack: place.pack,
                    block: place.block,
                    at: u64::from(place.block) * BLOCK as u64 + place.header.body_at(),
                    len: place.header.len,
                    modified_ms: place.header.modified_ms,
                });
            }
            // A file system that reports the failure of one write to another's sync must not be believed either.
            Ok(()) => io::Error::other("another write to the pack failed at the same time"),
            Err(error) => error,
        };
        // No later entry vouches for this one: the pack gets none.
        fail(place.pack, pack, current);
        pack.state.kill(place.block);
        let undone = write_state(pack);
        let removed = self.remove_superfluous(&mut state);
        if let Err(error) = removed {
            log::warn!("{error}; the next delete tries again");
        }
        Err(match undone {
            Ok(()) => failed("write", key, &error),
            Err(undo) => StoreError::OutcomeUnknown(format!("write {key}: {error}; take it back: {undo}")),
        })
    }

    /// Finds room for an entry.
    fn place(&self, key: &str, len: u64) -> io::Result<Place> {
        let blocks = u32::try_from(EntryHeader::blocks(key, len)).map_err(|_| io::ErrorKind::FileTooLarge)?;
        let mut state = self.lock();
        let State {
            packs,
            current,
            next_pack,
            next_seq,
            ..
        } = &mut *state;
        let number = match *current {
            Some(number) if packs.get(&number).is_some_and(|pack| pack.fits(blocks)) => number,
            _ => self.next_pack(packs, *current, next_pack, blocks)?,
        };
        let former = current.replace(number).filter(|former| *former != number);
        if let Some(former) = former.and_then(|former| packs.get_mut(&former)) {
            former.writers.clear();
        }
        let pack = packs.get_mut(&number).ok_or(io::ErrorKind::NotFound)?;
        if !pack.fits(blocks) {
            return Err(io::ErrorKind::FileTooLarge.into());
        }
        let file = match pack.writers.pop() {
            Some(file) => file,
            None => self.disk.open(&self.pack_path(number), Access::Blocks)?,
        };
        let block = pack.end;
        pack.end += blocks;
        pack.in_flight.insert(block);
        let seq = *next_seq;
        *next_seq += 1;
        let header = EntryHeader {
            life: pack.state.life,
            seq,
            len,
            modified_ms: now_ms(),
            settled: pack.in_flight.first().copied().unwrap_or(block),
            key: key.to_string(),
        };
        Ok(Place {
            pack: number,
            file,
            block,
            header,
        })
    }

    /// A pack with nothing in it: one that was used before, or a new one.
    fn next_pack(
        &self,
        packs: &mut BTreeMap<u64, Pack>,
        current: Option<u64>,
        next: &mut u64,
        needed: u32,
    ) -> io::Result<u64> {
        let spare = packs.iter_mut().find(|(number, pack)| {
            Some(**number) != current && !pack.failed && pack.is_empty() && Arc::strong_count(&pack.file) == 1
        });
        if let Some((number, pack)) = spare {
            match self.use_again(pack, needed) {
                Ok(()) => return Ok(*number),
                Err(error) if error.kind() == io::ErrorKind::StorageFull => return Err(error),
                Err(error) => {
                    pack.failed = true;
                    let path = self.pack_path(*number);
                    log::warn!("use {} again: {error}; a new pack takes its place", path.display());
                }
            }
        }
        let number = *next;
        *next += 1;
        let path = self.pack_path(number);
        let temporary = path.with_extension("new");
        let made = self.make_pack(&temporary, needed);
        let named = made.and_then(|pack| {
            self.disk.rename(&temporary, &path)?;
            self.disk.sync_directory(&self.directory)?;
            Ok(pack)
        });
        let pack = named.inspect_err(|_| {
            for half_made in [&temporary, &path] {
                match self.disk.remove_file(half_made) {
                    Err(error) if !is_absent(&error) => {
                        log::warn!("remove half-made {}: {error}", half_made.display());
                    }
                    _ => {}
                }
            }
        })?;
        packs.insert(number, pack);
        Ok(number)
    }

    /// Begins a new life of a pack with nothing in it.
    fn use_again(&self, pack: &mut Pack, needed: u32) -> io::Result<()> {
        pack.blocks = self.set_aside(&*pack.file, needed)?;
        pack.state = PackState::new(draw_life()?, pack.state.revision);
        pack.end = STATE_BLOCKS;
        write_state(pack)
    }

    /// Sets as many blocks aside as there is room for, up to the size of a pack, and at least those for an entry.
    fn set_aside(&self, file: &dyn DiskFile, needed: u32) -> io::Result<u32> {
        let least = STATE_BLOCKS + needed;
        let mut blocks = self.limits.pack_blocks;
        loop {
            match file.reserve(u64::from(blocks) * BLOCK as u64) {
                Err(error) if error.kind() == io::ErrorKind::StorageFull && blocks > least => {
                    // It may have got some of it.
                    file.set_len(u64::from(STATE_BLOCKS) * BLOCK as u64)?;
                    blocks = (blocks / 2).max(least);
                }
                reserved => return reserved.map(|()| blocks),
            }
        }
    }

    fn make_pack(&self, path: &Path, needed: u32) -> io::Result<Pack> {
        let file = self.disk.create(path)?;
        let blocks = self.set_aside(&*file, needed)?;
        let mut pack = Pack::new(file, PackState::new(draw_life()?, 0), blocks, STATE_BLOCKS);
        write_state(&mut pack)?;
        Ok(pack)
    }

    /// Removes packs that nobody needs, but for some that are soon used again.
    fn remove_superfluous(&self, state: &mut State) -> Result<(), StoreError> {
        let empty = state
            .packs
            .iter()
            .filter(|(number, pack)| Some(**number) != state.current && pack.is_empty());
        let (failed_ones, spare): (Vec<_>, Vec<_>) = empty.partition(|(_, pack)| pack.failed);
        let superfluous = failed_ones
            .into_iter()
            .chain(spare.into_iter().skip(self.limits.spare_packs));
        let superfluous: Vec<u64> = superfluous.map(|(number, _)| *number).collect();
        for number in superfluous {
            let path = self.pack_path(number);
            self.disk
                .remove_file(&path)
                .map_err(|error| failed("remove", &path.display().to_string(), &error))?;
            state.packs.remove(&number);
        }
        Ok(())
    }

    fn pack_path(&self, number: u64) -> PathBuf {
        self.directory.join(format!("{number:016x}.pack"))
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Each change is made whole, or is one that the next start finds out about.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A name that is about to become an object's. Free again when this goes without one.
pub(super) struct TakenName<'a> {
    journal: &'a Journal,
    key: String,
    stored: Option<Stored>,
}

impl TakenName<'_> {
    /// Whether an object of so many bytes belongs into a pack.
    pub fn fits(&self, bytes: u64) -> bool {
        bytes <= self.journal.limits.object_bytes
    }

    /// Makes the object, whose CRC-32C may be known; it is durable then.
    pub fn store(mut self, body: &[Bytes], crc32c: Option<u32>) -> Result<(), StoreError> {
        self.stored = Some(self.journal.append(&self.key, body, crc32c)?);
        Ok(())
    }
}

impl Drop for TakenName<'_> {
    fn drop(&mut self) {
        let mut state = self.journal.lock();
        match self.stored {
            Some(stored) => state.names.insert(std::mem::take(&mut self.key), Name::Stored(stored)),
            None => state.names.remove(&self.key),
        };
        drop(state);
        self.journal.settled.notify_all();
    }
}

impl Pack {
    fn new(file: Box<dyn DiskFile>, state: PackState, blocks: u32, end: u32) -> Self {
        Pack {
            file: Arc::from(file),
            writers: Vec::new(),
            state,
            blocks,
            end,
            live: 0,
            in_flight: BTreeSet::new(),
            failed: false,
            unsettled: false,
        }
    }
}

/// A write or a sync of a pack failed: it gets no further entry.
fn fail(number: u64, pack: &mut Pack, current: &mut Option<u64>) {
    pack.failed = true;
    pack.writers.clear();
    *current = current.filter(|current| *current != number);
}

/// Makes a pack's state durable. The next one goes to the other block, so one of the two is always whole.
fn write_state(pack: &mut Pack) -> io::Result<()> {
    let revision = pack.state.revision + 1;
    let (block, at) = pack.state.encode(revision);
    let at = u64::from(at) * BLOCK as u64;
    make_durable(&*pack.file, || {
        blocks::write(&*pack.file, at, |writer| writer.push(&block))
    })?;
    // Not before: another attempt goes to the same block, since this one is not known to be whole.
    pack.state.revision = revision;
    pack.unsettled = false;
    Ok(())
}

/// Writes and syncs. The first sync of a descriptor may report the failure of another writer, and then a second attempt
/// tells whether this write is durable: it is written again, and what was reported is not reported again.
fn make_durable(file: &dyn DiskFile, write: impl Fn() -> io::Result<()>) -> io::Result<()> {
    let once = || write().and_then(|()| file.sync());
    once().or_else(|_| once())
}

/// Writes an entry, which is not durable yet.
fn write_entry(place: &Place, body: &[Bytes], crc32c: Option<u32>) -> io::Result<()> {
    let at = u64::from(place.block) * BLOCK as u64;
    let content = place.header.body_at() + place.header.len + ENTRY_TRAILER as u64;
    let padding = content.next_multiple_of(BLOCK as u64) - content;
    blocks::write(&*place.file, at, |writer| {
        writer.push(&place.header.encode())?;
        body.iter().try_for_each(|part| writer.push(part))?;
        writer.skip(padding as usize)?;
        let crc32c = crc32c.unwrap_or_else(|| body.iter().fold(0, |crc, part| crc32c::crc32c_append(crc, part)));
        writer.push(&crc32c.to_be_bytes())
    })
}

/// Whether a file of the packs' directory is a pack, and which.
fn pack_number(path: &Path) -> Option<u64> {
    let name = path.file_name()?.to_str()?.strip_suffix(".pack")?;
    u64::from_str_radix(name, 16).ok()
}

/// Nobody can guess it, so nobody can send records that look like an entry.
fn draw_life() -> io::Result<u128> {
    let mut life = [0; 16];
    let drawn = rustix::rand::getrandom(&mut life, rustix::rand::GetRandomFlags::empty())?;
    match drawn {
        16 => Ok(u128::from_be_bytes(life)),
        _ => Err(io::ErrorKind::UnexpectedEof.into()),
    }
}

fn now_ms() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0, |since| since.as_millis() as i64)
}
