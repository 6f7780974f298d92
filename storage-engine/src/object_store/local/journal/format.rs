//! The bytes of a pack: two blocks that tell its state, then entries of whole blocks each. Numbers are big-endian.

use super::super::blocks::BLOCK;
use bytes::{Buf, BufMut};

/// Blocks at the start of a pack. They take turns, so that one that is half written spoils nothing.
pub(super) const STATE_BLOCKS: u32 = 2;

const STATE_MAGIC: &[u8; 4] = b"KPAK";
const ENTRY_MAGIC: &[u8; 4] = b"KPEN";
const VERSION: u16 = 1;

/// Bytes of an entry before its key.
pub(super) const ENTRY_HEADER: usize = 60;

/// Bytes after an entry's content, at the end of its last block: the content's CRC-32C.
pub(super) const ENTRY_TRAILER: usize = 4;

/// Where in its block the CRC of a state is.
const STATE_CRC_AT: usize = BLOCK - 4;

/// Blocks that a pack can have at most, because a state must fit into one of them.
pub(super) const BLOCKS_MAX: u32 = ((STATE_CRC_AT - 32) * 8) as u32;

/// What a pack's first blocks tell.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct PackState {
    /// Grows with each write; the larger one of the two counts.
    pub revision: u64,
    /// Drawn anew whenever the pack is used again: entries of another life are none.
    pub life: u128,
    /// Bit by block: the entry that begins there was deleted.
    pub dead: Vec<u8>,
}

impl PackState {
    /// Nothing is in the pack yet.
    pub fn new(life: u128, revision: u64) -> Self {
        PackState {
            revision,
            life,
            dead: vec![0; BLOCKS_MAX as usize / 8],
        }
    }

    pub fn kill(&mut self, block: u32) {
        self.dead[block as usize / 8] |= 1 << (block % 8);
    }

    pub fn revive(&mut self, block: u32) {
        self.dead[block as usize / 8] &= !(1 << (block % 8));
    }

    pub fn is_dead(&self, block: u32) -> bool {
        self.dead[block as usize / 8] & 1 << (block % 8) != 0
    }

    /// The block to be written with this revision, and its number.
    pub fn encode(&self, revision: u64) -> (Vec<u8>, u32) {
        let mut block = Vec::with_capacity(BLOCK);
        block.put_slice(STATE_MAGIC);
        block.put_u16(VERSION);
        block.put_u16(0);
        block.put_u64(revision);
        block.put_u128(self.life);
        block.put_slice(&self.dead);
        block.resize(STATE_CRC_AT, 0);
        block.put_u32(crc32c::crc32c(&block));
        (block, (revision % u64::from(STATE_BLOCKS)) as u32)
    }

    /// `None` if this is no such block, or half of one.
    pub fn parse(block: &[u8]) -> Option<Self> {
        let (before, mut crc) = block.split_at_checked(STATE_CRC_AT)?;
        if !before.starts_with(STATE_MAGIC) || crc.try_get_u32().ok()? != crc32c::crc32c(before) {
            return None;
        }
        let mut fields = &before[4..];
        let version = fields.get_u16();
        fields.advance(2);
        (version == VERSION).then(|| PackState {
            revision: fields.get_u64(),
            life: fields.get_u128(),
            dead: fields[..BLOCKS_MAX as usize / 8].to_vec(),
        })
    }
}

/// What stands before an object in a pack.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct EntryHeader {
    pub life: u128,
    /// Counts entries of all packs: of two with one key the later one counts.
    pub seq: u64,
    /// Bytes of the object.
    pub len: u64,
    /// When it was written, ms since the Unix epoch.
    pub modified_ms: i64,
    /// Every entry of this pack that begins before this block was complete when this one began.
    pub settled: u32,
    pub key: String,
}

impl EntryHeader {
    /// Blocks of an entry.
    pub fn blocks(key: &str, len: u64) -> u64 {
        (ENTRY_HEADER as u64 + key.len() as u64 + len + ENTRY_TRAILER as u64).div_ceil(BLOCK as u64)
    }

    /// Where the object begins, in bytes from the entry's first.
    pub fn body_at(&self) -> u64 {
        (ENTRY_HEADER + self.key.len()) as u64
    }

    pub fn encode(&self) -> Vec<u8> {
        let mut header = Vec::with_capacity(ENTRY_HEADER + self.key.len());
        header.put_slice(ENTRY_MAGIC);
        header.put_u16(self.key.len() as u16);
        header.put_u16(0);
        header.put_u128(self.life);
        header.put_u64(self.seq);
        header.put_u64(self.len);
        header.put_i64(self.modified_ms);
        header.put_u32(self.settled);
        header.put_u32(0);
        header.put_u32(crc32c::crc32c_append(crc32c::crc32c(&header), self.key.as_bytes()));
        header.put_slice(self.key.as_bytes());
        header
    }

    /// `None` if no entry of this life begins with these bytes.
    pub fn parse(block: &[u8], life: u128) -> Option<Self> {
        let (header, rest) = block.split_at_checked(ENTRY_HEADER)?;
        if !header.starts_with(ENTRY_MAGIC) {
            return None;
        }
        let (covered, mut crc) = header.split_at(ENTRY_HEADER - 4);
        let mut fields = &covered[4..];
        let key_len = usize::from(fields.get_u16());
        fields.advance(2);
        let key = rest.get(..key_len)?;
        if crc.get_u32() != crc32c::crc32c_append(crc32c::crc32c(covered), key) {
            return None;
        }
        let found = EntryHeader {
            life: fields.get_u128(),
            seq: fields.get_u64(),
            len: fields.get_u64(),
            modified_ms: fields.get_i64(),
            settled: fields.get_u32(),
            key: String::from_utf8(key.to_vec()).ok()?,
        };
        (found.life == life).then_some(found)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_state_survives_its_block_and_no_damage_to_it() {
        let mut state = PackState::new(7, 3);
        state.kill(BLOCKS_MAX - 1);
        state.kill(2);
        let (block, at) = state.encode(3);
        assert_eq!((block.len(), at), (BLOCK, 1));
        assert_eq!(PackState::parse(&block), Some(state.clone()));
        assert!(state.is_dead(2) && !state.is_dead(3) && state.is_dead(BLOCKS_MAX - 1));
        for at in 0..BLOCK {
            let mut damaged = block.clone();
            damaged[at] ^= 1;
            assert_eq!(PackState::parse(&damaged), None, "byte {at}");
        }
        assert_eq!(PackState::parse(&block[..BLOCK - 1]), None);
    }

    #[test]
    fn an_entry_belongs_to_one_life_and_survives_no_damage() {
        let header = EntryHeader {
            life: 9,
            seq: 1,
            len: 5000,
            modified_ms: -1,
            settled: 2,
            key: "a/b".to_string(),
        };
        let bytes = header.encode();
        assert_eq!(bytes.len() as u64, header.body_at());
        assert_eq!(EntryHeader::parse(&bytes, 9), Some(header));
        assert_eq!(EntryHeader::parse(&bytes, 8), None);
        for at in 0..bytes.len() {
            let mut damaged = bytes.clone();
            damaged[at] ^= 1;
            assert_eq!(EntryHeader::parse(&damaged, 9), None, "byte {at}");
            assert_eq!(EntryHeader::parse(&bytes[..at], 9), None, "cut at {at}");
        }
        assert_eq!(EntryHeader::blocks("a/b", 4029), 1);
        assert_eq!(EntryHeader::blocks("a/b", 4030), 2);
    }
}
