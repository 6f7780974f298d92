//! One file: what processes see, what the device accepted, what the medium keeps.

use std::collections::BTreeSet;
use std::ops::Range;

/// Bytes that a device writes whole or not at all.
pub const SECTOR: u64 = 512;

/// Something that the device accepted.
#[derive(Debug, Clone)]
pub enum Change {
    /// The file became this long.
    Length(u64),
    /// A sector got this content.
    Sector(u64, Vec<u8>),
}

/// A file.
#[derive(Debug, Default)]
pub struct Inode {
    /// As processes read it: the page cache's view.
    seen: Vec<u8>,
    /// Sectors that the page cache has to write to the device.
    dirty: BTreeSet<u64>,
    /// As the device would answer.
    device: Vec<u8>,
    /// As the medium has it.
    medium: Vec<u8>,
    /// What the device accepted since the last flush, in order.
    unflushed: Vec<Change>,
    /// Writes to the device that failed behind the page cache's back.
    pub errors: u64,
    /// As many of them as some descriptor has reported.
    pub seen_errors: u64,
    /// Blocks that are set aside.
    pub blocks: u64,
}

impl Inode {
    pub fn len(&self) -> u64 {
        self.seen.len() as u64
    }

    pub fn is_dirty(&self) -> bool {
        !self.dirty.is_empty()
    }

    pub fn read(&self, into: &mut [u8], at: u64) -> usize {
        let from = self.seen.get(at as usize..).unwrap_or_default();
        let len = from.len().min(into.len());
        into[..len].copy_from_slice(&from[..len]);
        len
    }

    /// Writes into the page cache.
    pub fn write(&mut self, bytes: &[u8], at: u64) {
        if bytes.is_empty() {
            return;
        }
        let end = at + bytes.len() as u64;
        if self.len() < end {
            self.change(Change::Length(end));
        }
        self.seen[at as usize..end as usize].copy_from_slice(bytes);
        self.dirty.extend(at / SECTOR..end.div_ceil(SECTOR));
    }

    /// Takes a change of length, which does not pass through the page cache.
    pub fn change(&mut self, change: Change) {
        if let Change::Length(len) = change {
            self.seen.resize(len as usize, 0);
            self.dirty.retain(|sector| sector * SECTOR < len);
        }
        apply(&mut self.device, &change);
        self.unflushed.push(change);
    }

    /// Neighbouring dirty sectors.
    pub fn dirty_extents(&self) -> Vec<Range<u64>> {
        let mut extents: Vec<Range<u64>> = Vec::new();
        for sector in &self.dirty {
            match extents.last_mut() {
                Some(last) if last.end == *sector => last.end += 1,
                _ => extents.push(*sector..sector + 1),
            }
        }
        extents
    }

    /// Makes dirty sectors clean; the device has got them, or not.
    pub fn clean(&mut self, extent: Range<u64>, written: bool) {
        for sector in extent {
            self.dirty.remove(&sector);
            if written {
                self.change(Change::Sector(sector, self.sector(sector)));
            }
        }
    }

    fn sector(&self, sector: u64) -> Vec<u8> {
        let from = (sector * SECTOR) as usize;
        let to = (from + SECTOR as usize).min(self.seen.len());
        self.seen[from.min(to)..to].to_vec()
    }

    /// What the device accepted is on the medium.
    pub fn flush(&mut self) {
        for change in std::mem::take(&mut self.unflushed) {
            apply(&mut self.medium, &change);
        }
    }

    /// Clean pages go; whoever reads them gets what the device has.
    pub fn drop_cache(&mut self) {
        let mut seen = self.device.clone();
        for sector in &self.dirty {
            apply(&mut seen, &Change::Sector(*sector, self.sector(*sector)));
        }
        self.seen = seen;
    }

    /// What a power cut now may leave.
    pub fn after_power_cut(&self, random: &mut fastrand::Rng) -> Inode {
        let mut left = self.medium.clone();
        // Whole runs of changes share their fate as often as single ones differ.
        let kind = random.u8(..3);
        let keep = |random: &mut fastrand::Rng| kind == 0 || (kind == 1 && random.bool());
        for change in &self.unflushed {
            if keep(random) {
                apply(&mut left, change);
            }
        }
        for sector in &self.dirty {
            if keep(random) {
                apply(&mut left, &Change::Sector(*sector, self.sector(*sector)));
            }
        }
        Inode {
            seen: left.clone(),
            device: left.clone(),
            blocks: self.blocks,
            medium: left,
            ..Inode::default()
        }
    }
}

fn apply(content: &mut Vec<u8>, change: &Change) {
    match change {
        Change::Length(len) => content.resize(*len as usize, 0),
        Change::Sector(sector, bytes) => {
            let from = (sector * SECTOR) as usize;
            let to = from + bytes.len();
            content.resize(content.len().max(to), 0);
            content[from..to].copy_from_slice(bytes);
        }
    }
}
