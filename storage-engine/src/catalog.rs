//! The catalog: what the metastore knows and the other objects do not tell, kept beside them for the day it is lost.
//!
//! A *set* is a copy of the metastore's pairs in one or more objects, its *chunks*. Sets are numbered; whoever creates
//! chunk 0 has the number. A set counts once all of its chunks are there.
//!
//! ```text
//! header   32  "KCAT", u16 version 1, u16 0, u64 set, i64 written ms, u32 chunk, u32 chunks
//! body      n  pairs: u32 length, key, u32 length, value
//! trailer   8  u32 CRC-32C of everything before, "KCTE"
//! ```
//!
//! All integers are big-endian.

use bytes::{Buf, BufMut, Bytes, BytesMut};

/// Bytes of a chunk above which another one begins.
const CHUNK_BYTES: usize = 4 << 20;

const HEADER_LEN: usize = 32;
const TRAILER_LEN: usize = 8;

/// Why bytes are not a chunk.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CatalogError {
    /// Too short, or another kind of object.
    #[error("not a chunk of a catalog of version 1")]
    Format,
    /// The checksum is wrong.
    #[error("the chunk is damaged: CRC-32C does not match")]
    Damaged,
    /// The checksum is right and the content still impossible.
    #[error("the chunk's pairs are cut off")]
    Pairs,
}

/// Which chunk of which set.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct ChunkName {
    /// The set.
    pub set: u64,
    /// The chunk, from 0.
    pub chunk: u32,
    /// How many the set has.
    pub chunks: u32,
}

/// A key with its value.
pub type Pair = (Bytes, Bytes);

/// Prefix of all chunks.
pub fn prefix(namespace: &str) -> String {
    format!("{namespace}/_catalog/")
}

impl ChunkName {
    /// Its key.
    pub fn key(&self, namespace: &str) -> String {
        let ChunkName { set, chunk, chunks } = self;
        format!("{namespace}/_catalog/{set:020}-{chunk:06}-{chunks:06}.cat")
    }

    /// Reads a key; `None` if it is no chunk's.
    pub fn parse(namespace: &str, key: &str) -> Option<ChunkName> {
        let name = key.strip_prefix(&prefix(namespace))?.strip_suffix(".cat")?;
        let mut fields = name.split('-');
        let name = ChunkName {
            set: fields.next()?.parse().ok()?,
            chunk: fields.next()?.parse().ok()?,
            chunks: fields.next()?.parse().ok()?,
        };
        (name.key(namespace) == key && name.chunk < name.chunks).then_some(name)
    }
}

/// A set's chunks, in order; at least one.
pub fn encode(set: u64, written_ms: i64, pairs: &[Pair]) -> Vec<Bytes> {
    let mut bodies = vec![BytesMut::new()];
    for (key, value) in pairs {
        if bodies.last().is_some_and(|body| body.len() >= CHUNK_BYTES) {
            bodies.push(BytesMut::new());
        }
        if let Some(body) = bodies.last_mut() {
            for part in [key, value] {
                body.put_u32(part.len() as u32);
                body.put_slice(part);
            }
        }
    }
    let chunks = bodies.len() as u32;
    let chunk = |(at, body): (usize, BytesMut)| {
        let mut object = BytesMut::with_capacity(HEADER_LEN + body.len() + TRAILER_LEN);
        object.put_slice(b"KCAT\0\x01\0\0");
        object.put_u64(set);
        object.put_i64(written_ms);
        object.put_u32(at as u32);
        object.put_u32(chunks);
        object.put_slice(&body);
        let crc = crc32c::crc32c(&object);
        object.put_u32(crc);
        object.put_slice(b"KCTE");
        object.freeze()
    };
    bodies.into_iter().enumerate().map(chunk).collect()
}

/// Reads a chunk: what it is, when it was written (ms since the Unix epoch), and its pairs.
pub fn decode(object: &Bytes) -> Result<(ChunkName, i64, Vec<Pair>), CatalogError> {
    let ends = object.len().checked_sub(TRAILER_LEN).filter(|end| *end >= HEADER_LEN);
    let end = ends.ok_or(CatalogError::Format)?;
    if &object[..8] != b"KCAT\0\x01\0\0" || &object[end + 4..] != b"KCTE" {
        return Err(CatalogError::Format);
    }
    if object[end..end + 4] != crc32c::crc32c(&object[..end]).to_be_bytes() {
        return Err(CatalogError::Damaged);
    }
    let mut header = &object[8..HEADER_LEN];
    let (set, written_ms) = (header.get_u64(), header.get_i64());
    let (chunk, chunks) = (header.get_u32(), header.get_u32());
    let mut rest = object.slice(HEADER_LEN..end);
    let mut pairs = Vec::new();
    while !rest.is_empty() {
        pairs.push((take(&mut rest)?, take(&mut rest)?));
    }
    Ok((ChunkName { set, chunk, chunks }, written_ms, pairs))
}

fn take(rest: &mut Bytes) -> Result<Bytes, CatalogError> {
    if rest.len() < 4 {
        return Err(CatalogError::Pairs);
    }
    let len = rest.get_u32() as usize;
    match len <= rest.len() {
        true => Ok(rest.split_to(len)),
        false => Err(CatalogError::Pairs),
    }
}

/// The sets of which all chunks are there, oldest first.
pub fn complete_sets(names: &[ChunkName]) -> Vec<u64> {
    let mut names = names.to_vec();
    names.sort_unstable();
    names.dedup();
    let of_set = names.chunk_by(|a, b| a.set == b.set);
    let complete = of_set.filter(|set| set.iter().all(|name| name.chunks as usize == set.len()));
    complete.map(|set| set[0].set).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pairs(count: usize, value_len: usize) -> Vec<Pair> {
        let pair = |n: usize| (Bytes::from(format!("key-{n}")), Bytes::from(vec![n as u8; value_len]));
        (0..count).map(pair).collect()
    }

    #[test]
    fn a_set_of_any_size_is_read_as_it_was_written() {
        for (count, value_len, chunks) in [(0, 0, 1), (10, 100, 1), (12, 1 << 20, 3)] {
            let pairs = pairs(count, value_len);
            let objects = encode(7, 99, &pairs);
            assert_eq!(objects.len(), chunks);
            let mut read = Vec::new();
            for (at, object) in objects.iter().enumerate() {
                let (name, written_ms, pairs) = decode(object).unwrap();
                assert_eq!(
                    (name.set, name.chunk as usize, name.chunks as usize, written_ms),
                    (7, at, chunks, 99)
                );
                read.extend(pairs);
            }
            assert_eq!(read, pairs);
        }
    }

    #[test]
    fn a_damaged_chunk_is_refused_wherever_the_damage_is() {
        let object = encode(1, 2, &pairs(3, 5)).remove(0);
        for at in 0..object.len() {
            let mut damaged = object.to_vec();
            damaged[at] ^= 1;
            assert!(decode(&damaged.into()).is_err(), "byte {at}");
            assert!(decode(&object.slice(..at)).is_err(), "{at} bytes");
        }
    }

    #[test]
    fn a_set_counts_when_all_its_chunks_are_there() {
        let name = |set, chunk, chunks| ChunkName { set, chunk, chunks };
        let names = [name(1, 0, 1), name(2, 0, 2), name(3, 1, 2), name(3, 0, 2)];
        assert_eq!(complete_sets(&names), [1, 3]);
        let key = name(3, 1, 2).key("ns");
        assert_eq!(key, "ns/_catalog/00000000000000000003-000001-000002.cat");
        assert_eq!(ChunkName::parse("ns", &key), Some(name(3, 1, 2)));
        assert_eq!(ChunkName::parse("ns", "ns/_catalog/3-1-2.cat"), None);
    }
}
