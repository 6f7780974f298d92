//! Whole blocks, past the page cache: what a device reads and writes without the kernel copying it.

use super::disk::DiskFile;
use bytes::Bytes;
use std::cell::RefCell;
use std::io;

/// Devices take direct reads and writes of whole blocks at whole blocks, to and from memory that begins at one. No device
/// that is common today has larger ones.
pub(super) const BLOCK: usize = 4096;

/// Bytes of one write at most.
const CHUNK: usize = 1 << 20;

/// Memory that begins at a whole block.
struct Aligned {
    memory: Vec<u8>,
    from: usize,
}

impl Aligned {
    fn new(len: usize) -> Self {
        let memory = vec![0; len + BLOCK];
        let address = memory.as_ptr().addr();
        Aligned {
            from: address.next_multiple_of(BLOCK) - address,
            memory,
        }
    }
}

/// Reads `len` bytes from `at` on; neither needs to be a whole block.
///
/// # Errors
/// [`io::ErrorKind::UnexpectedEof`] if the file ends before.
pub(super) fn read(file: &dyn DiskFile, at: u64, len: usize) -> io::Result<Bytes> {
    let skip = at as usize % BLOCK;
    let want = skip + len;
    let mut into = Aligned::new(want.next_multiple_of(BLOCK));
    let from = into.from;
    let mut filled = 0;
    while filled < want {
        let rest = &mut into.memory[from + filled..from + want.next_multiple_of(BLOCK)];
        match file.read_at(rest, at - skip as u64 + filled as u64) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(more) => filled += more,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(Bytes::from(into.memory).slice(from + skip..from + want))
}

thread_local! {
    /// Where bytes are lined up before they are written.
    static LINED_UP: RefCell<Option<Aligned>> = const { RefCell::new(None) };
}

/// Writes what `fill` pushes, in whole blocks from the block at `at` on; the last one is filled up with zeros.
pub(super) fn write<T>(
    file: &dyn DiskFile,
    at: u64,
    fill: impl FnOnce(&mut Writer<'_>) -> io::Result<T>,
) -> io::Result<T> {
    LINED_UP.with_borrow_mut(|lined_up| {
        let Aligned { memory, from } = lined_up.get_or_insert_with(|| Aligned::new(CHUNK));
        let mut writer = Writer {
            file,
            at,
            chunk: &mut memory[*from..*from + CHUNK],
            filled: 0,
        };
        let result = fill(&mut writer)?;
        let padding = writer.filled.next_multiple_of(BLOCK) - writer.filled;
        writer.skip(padding)?;
        writer.flush()?;
        Ok(result)
    })
}

/// Bytes on their way to a file.
pub(super) struct Writer<'a> {
    file: &'a dyn DiskFile,
    at: u64,
    chunk: &'a mut [u8],
    filled: usize,
}

impl Writer<'_> {
    /// Appends bytes.
    pub fn push(&mut self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            let (now, later) = bytes.split_at(bytes.len().min(CHUNK - self.filled));
            self.chunk[self.filled..self.filled + now.len()].copy_from_slice(now);
            self.advance(now.len())?;
            bytes = later;
        }
        Ok(())
    }

    /// Appends so many zeros.
    pub fn skip(&mut self, mut count: usize) -> io::Result<()> {
        while count > 0 {
            let now = count.min(CHUNK - self.filled);
            self.chunk[self.filled..self.filled + now].fill(0);
            self.advance(now)?;
            count -= now;
        }
        Ok(())
    }

    fn advance(&mut self, bytes: usize) -> io::Result<()> {
        self.filled += bytes;
        match self.filled {
            CHUNK => self.flush(),
            _ => Ok(()),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.write_at(&self.chunk[..self.filled], self.at)?;
        self.at += self.filled as u64;
        self.filled = 0;
        Ok(())
    }
}
