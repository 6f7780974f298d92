//! What the packs hold after a start, however the process before ended.

use super::super::blocks::{self, BLOCK};
use super::super::disk::{Access, Disk, DiskFile};
use super::format::{EntryHeader, PackState, ENTRY_HEADER, ENTRY_TRAILER, STATE_BLOCKS};
use super::{make_durable, pack_number, write_state, Journal, Limits, Name, Pack, State, Stored};
use crate::object_store::{StoreError, KEY_BYTES_MAX};
use bytes::Bytes;
use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex};

/// Bytes that are read at once while entries are looked for.
const WINDOW: usize = 256 << 10;

const _: () = assert!(ENTRY_HEADER + KEY_BYTES_MAX <= BLOCK);

impl Journal {
    /// Opens the packs of a directory, which is made if need be.
    ///
    /// # Errors
    /// [`StoreError::Refused`] with the path, if the directory cannot be used or a pack is damaged.
    pub fn open(directory: PathBuf, disk: Arc<dyn Disk>, limits: Limits) -> Result<Self, StoreError> {
        let refused = |path: &Path, error: io::Error| StoreError::Refused(format!("{}: {error}", path.display()));
        disk.make_directories(&directory)
            .map_err(|error| refused(&directory, error))?;
        let mut state = State::default();
        let mut seqs = BTreeMap::new();
        let entries = disk.entries(&directory).map_err(|error| refused(&directory, error))?;
        for (name, _) in entries {
            let path = directory.join(name);
            let Some(number) = pack_number(&path) else {
                // A pack that a crash kept from getting its name; whatever else it is makes an error.
                match path.extension().is_some_and(|extension| extension == "new") {
                    true => disk.remove_file(&path).map_err(|error| refused(&path, error))?,
                    false => return Err(refused(&path, io::Error::other("this is no pack"))),
                }
                continue;
            };
            let file = disk
                .open(&path, Access::Blocks)
                .map_err(|error| refused(&path, error))?;
            let (pack, found) = scan(file).map_err(|error| refused(&path, error))?;
            state.packs.insert(number, pack);
            state.next_pack = state.next_pack.max(number + 1);
            for (block, header) in found {
                state.next_seq = state.next_seq.max(header.seq + 1);
                state.adopt(&mut seqs, number, block, header);
            }
        }
        let journal = Journal {
            directory,
            disk,
            limits,
            state: Mutex::new(state),
            settled: Condvar::new(),
        };
        journal.settle()?;
        Ok(journal)
    }

    /// Makes durable what is visible from now on, and writes down what is not.
    fn settle(&self) -> Result<(), StoreError> {
        let mut state = self.lock();
        for (number, pack) in &mut state.packs {
            // What is behind the last entry goes; the pack is not written to again before it is used anew.
            let cut = pack.file.set_len(u64::from(pack.end) * BLOCK as u64);
            let settled = cut.and_then(|()| write_state(pack));
            settled.map_err(|error| StoreError::Refused(format!("{}: {error}", self.pack_path(*number).display())))?;
        }
        self.remove_superfluous(&mut state)?;
        let synced = self.disk.sync_directory(&self.directory);
        synced.map_err(|error| StoreError::Refused(format!("{}: {error}", self.directory.display())))
    }
}

impl State {
    /// Takes an entry as an object. Of two with one name the later counts: the earlier had failed.
    fn adopt(&mut self, seqs: &mut BTreeMap<String, u64>, number: u64, block: u32, header: EntryHeader) {
        let stored = Stored {
            pack: number,
            block,
            at: u64::from(block) * BLOCK as u64 + header.body_at(),
            len: header.len,
            modified_ms: header.modified_ms,
        };
        if let Some(pack) = self.packs.get_mut(&number) {
            pack.live += 1;
        }
        let outdated = match seqs.get(&header.key) {
            Some(seq) if *seq > header.seq => Some(Name::Stored(stored)),
            _ => {
                seqs.insert(header.key.clone(), header.seq);
                self.names.insert(header.key, Name::Stored(stored))
            }
        };
        if let Some(Name::Stored(outdated)) = outdated {
            if let Some(pack) = self.packs.get_mut(&outdated.pack) {
                pack.live -= 1;
                pack.state.kill(outdated.block);
            }
        }
    }
}

/// A pack and the entries in it that count.
fn scan(file: Box<dyn DiskFile>) -> io::Result<(Pack, Vec<(u32, EntryHeader)>)> {
    let blocks_in_file = (file.len()? / BLOCK as u64) as u32;
    let mut state = read_state(&*file, blocks_in_file)?;
    let (headers, hole) = walk(&*file, blocks_in_file, state.life)?;
    let settled = headers
        .iter()
        .map(|(_, header)| header.settled)
        .max()
        .unwrap_or(STATE_BLOCKS);
    if let Some(hole) = hole.filter(|hole| *hole < settled) {
        return Err(io::Error::new(
            io::ErrorKind::InvalidData,
            format!("damaged: no entry at block {hole}, though all before block {settled} were complete"),
        ));
    }
    let mut found = Vec::new();
    let mut end = STATE_BLOCKS;
    for (block, header) in headers {
        if state.is_dead(block) {
            end = end.max(block_after(block, &header));
        } else if block < settled || keep_if_whole(&*file, block, &header)? {
            end = end.max(block_after(block, &header));
            found.push((block, header));
        } else {
            state.kill(block);
        }
    }
    Ok((Pack::new(file, state, end, end), found))
}

fn read_state(file: &dyn DiskFile, blocks_in_file: u32) -> io::Result<PackState> {
    let damaged = || {
        io::Error::new(
            io::ErrorKind::InvalidData,
            "damaged: neither of its first two blocks is whole",
        )
    };
    if blocks_in_file < STATE_BLOCKS {
        return Err(damaged());
    }
    let both = blocks::read(file, 0, STATE_BLOCKS as usize * BLOCK)?;
    let states = both.chunks(BLOCK).filter_map(PackState::parse);
    states.max_by_key(|state| state.revision).ok_or_else(damaged)
}

/// All entries of a life whose headers are whole, and the first block where none begins though one should.
type Walked = (Vec<(u32, EntryHeader)>, Option<u32>);

fn walk(file: &dyn DiskFile, blocks_in_file: u32, life: u128) -> io::Result<Walked> {
    let mut headers = Vec::new();
    let mut hole = None;
    let mut window = Window {
        file,
        blocks_in_file,
        from: 0,
        bytes: Bytes::new(),
    };
    let mut block = STATE_BLOCKS;
    while block < blocks_in_file {
        match EntryHeader::parse(window.block(block)?, life) {
            Some(header) => {
                let after = block_after(block, &header);
                headers.push((block, header));
                block = after;
            }
            None => {
                hole.get_or_insert(block);
                block += 1;
            }
        }
    }
    Ok((headers, hole))
}

fn block_after(block: u32, header: &EntryHeader) -> u32 {
    let blocks = EntryHeader::blocks(&header.key, header.len);
    block.saturating_add(u32::try_from(blocks).unwrap_or(u32::MAX))
}

/// Whether all of an entry was written. Then it is durable from now on: what was read may come from a page cache that could
/// not write it, and would be gone after a power cut although somebody had seen it.
fn keep_if_whole(file: &dyn DiskFile, block: u32, header: &EntryHeader) -> io::Result<bool> {
    let at = u64::from(block) * BLOCK as u64;
    let end = u64::from(block_after(block, header)) * BLOCK as u64;
    if end > file.len()? {
        return Ok(false);
    }
    let entry = blocks::read(file, at, (end - at) as usize)?;
    let body = header.body_at() as usize..header.body_at() as usize + header.len as usize;
    let crc = crc32c::crc32c(&entry[body]);
    if entry[entry.len() - ENTRY_TRAILER..] != crc.to_be_bytes() {
        return Ok(false);
    }
    make_durable(file, || blocks::write(file, at, |writer| writer.push(&entry)))?;
    Ok(true)
}

/// A piece of a file in memory.
struct Window<'a> {
    file: &'a dyn DiskFile,
    blocks_in_file: u32,
    from: u32,
    bytes: Bytes,
}

impl Window<'_> {
    fn block(&mut self, block: u32) -> io::Result<&[u8]> {
        let inside = |window: &Self| {
            let at = block.checked_sub(window.from)? as usize * BLOCK;
            (at + BLOCK <= window.bytes.len()).then_some(at)
        };
        let at = match inside(self) {
            Some(at) => at,
            None => {
                let rest = (self.blocks_in_file - block) as usize * BLOCK;
                self.bytes = blocks::read(self.file, u64::from(block) * BLOCK as u64, rest.min(WINDOW))?;
                self.from = block;
                0
            }
        };
        Ok(&self.bytes[at..at + BLOCK])
    }
}
