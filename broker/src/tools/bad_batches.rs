//! The repair of a write-ahead object whose footer is sound and some of whose batches are not.
//!
//! Such an object quarantines nobody: its partitions are served but for the offsets of the bad batches, and cannot be rolled
//! past them. The repair puts an object into its place that has every sound batch as it is, and for the others batches that
//! cover their offsets and have no records. Between the deletion and the new object there is none, so a copy of the new one
//! is put aside first, and a repair that was interrupted goes on with that.

use super::objects::{read_wal, ReadError};
use super::{ToolError, Workplace};
use bytes::Bytes;
use kafscale_codec::record_batch::{gap_batches, BatchHeader};
use kafscale_metastore::brokers::load_brokers;
use kafscale_storage_engine::object_store::StoreError;
use kafscale_storage_engine::partition_log::PartitionKey;
use kafscale_storage_engine::wal::{batch_of_run, Run, WalBuilder, WalHeader};

/// Byte of a batch that has its magic, and that magic.
const MAGIC_AT: usize = 16;
const MAGIC: u8 = 2;

/// An object with bad batches, as it is to become.
pub(super) struct Repair {
    key: String,
    header: WalHeader,
    runs: Vec<(Run, Vec<Piece>)>,
}

/// A part of a run.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Piece {
    /// Sound batches.
    Sound(Bytes),
    /// Offsets whose batches are bad.
    Lost { from: i64, to: i64 },
}

/// Offsets of a partition that are lost.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct LostOffsets {
    /// The partition.
    pub key: PartitionKey,
    /// The first of them.
    pub from: i64,
    /// The offset after the last.
    pub to: i64,
}

/// Looks at every batch of an object whose footer can be read. `None` if all are sound.
pub(super) async fn look(place: &Workplace, key: &str) -> Result<Option<Repair>, ToolError> {
    let (header, runs) = match read_wal(&*place.store, key).await {
        Ok(found) => found,
        Err(ReadError::Store(error)) => return Err(error.into()),
        Err(ReadError::Damaged(why)) => return Err(ToolError::Refused(format!("{key} is damaged: {why}"))),
    };
    let mut pieces = Vec::with_capacity(runs.len());
    for run in runs {
        let bytes = place
            .store
            .get_range(key, run.position..run.position + run.length)
            .await?;
        let found = split(&run, &bytes);
        pieces.push((run, found));
    }
    let repair = Repair {
        key: key.to_string(),
        header,
        runs: pieces,
    };
    Ok((!repair.lost().is_empty()).then_some(repair))
}

/// Goes on with a repair that was interrupted when the object was gone, or only looks. `true` if there was one.
pub(super) async fn resume(place: &Workplace, key: &str, execute: bool) -> Result<bool, ToolError> {
    let aside = aside(place, key);
    let copy = match place.store.get_range(&aside, 0..u64::MAX).await {
        Ok(copy) => copy,
        Err(StoreError::NotFound(_)) => return Ok(false),
        Err(error) => return Err(error.into()),
    };
    if execute {
        place.store.create(key, vec![copy]).await?;
        place.store.delete(std::slice::from_ref(&aside)).await?;
    }
    Ok(true)
}

/// Where the copy of a repaired object is put aside.
fn aside(place: &Workplace, key: &str) -> String {
    let namespace = place.namespace();
    format!("{namespace}/_repair{}", key.strip_prefix(namespace).unwrap_or(key))
}

impl Repair {
    /// What is lost, whether its partition still needs it or not.
    pub fn lost(&self) -> Vec<LostOffsets> {
        let lost = self.runs.iter().flat_map(|(run, pieces)| {
            let key = PartitionKey {
                topic_id: run.topic_id,
                partition: run.partition,
            };
            pieces.iter().filter_map(move |piece| match piece {
                Piece::Lost { from, to } => Some(LostOffsets {
                    key,
                    from: *from,
                    to: *to,
                }),
                Piece::Sound(_) => None,
            })
        });
        lost.collect()
    }

    /// Puts the repaired object into the place of the other.
    pub async fn execute(&self, place: &Workplace) -> Result<(), ToolError> {
        if place.is_shared() && !load_brokers(place.metastore()?).await?.whole()?.items.is_empty() {
            return Err(ToolError::Refused(
                "brokers are running, and know where in the object their records lie: stop all of them first"
                    .to_string(),
            ));
        }
        let mut builder = WalBuilder::new(&WalHeader {
            nonce: u128::from(place.runtime.random_u64()),
            ..self.header
        });
        for (run, pieces) in &self.runs {
            let batches = pieces.iter().flat_map(|piece| match piece {
                Piece::Sound(bytes) => batches_of(bytes),
                Piece::Lost { from, to } => gap_batches(*from, *to, run.leader_epoch),
            });
            builder.push_run(run.clone(), batches.collect());
        }
        let object = builder.finish();
        let aside = aside(place, &self.key);
        place.store.delete(std::slice::from_ref(&aside)).await?;
        place
            .store
            .create_summed(&aside, object.parts.clone(), object.crc32c)
            .await?;
        place.store.delete(std::slice::from_ref(&self.key)).await?;
        place
            .store
            .create_summed(&self.key, object.parts, object.crc32c)
            .await?;
        place.store.delete(std::slice::from_ref(&aside)).await?;
        Ok(())
    }
}

/// A sound batch at the front, of this offset.
fn sound_batch(run: &Run, bytes: &[u8], offset: i64) -> Option<BatchHeader> {
    batch_of_run(bytes, offset, run.next_offset, run.leader_epoch).ok()
}

/// Splits a run into what is sound and what is not.
fn split(run: &Run, bytes: &Bytes) -> Vec<Piece> {
    let mut pieces = Vec::new();
    let (mut at, mut offset) = (0, run.base_offset);
    while offset < run.next_offset {
        let begin = at;
        while let Some(header) = bytes.get(at..).and_then(|rest| sound_batch(run, rest, offset)) {
            at += header.total_len();
            offset = header.next_offset();
        }
        if at > begin {
            pieces.push(Piece::Sound(bytes.slice(begin..at)));
        }
        if offset < run.next_offset {
            let (next_at, to) = next_sound(run, bytes, at, offset).unwrap_or((bytes.len(), run.next_offset));
            pieces.push(Piece::Lost { from: offset, to });
            (at, offset) = (next_at, to);
        }
    }
    pieces
}

/// The next sound batch behind a bad one whose length and offsets may be wrong: its position and offset.
fn next_sound(run: &Run, bytes: &Bytes, after: usize, offset: i64) -> Option<(usize, i64)> {
    (after + 1..bytes.len()).find_map(|at| {
        let rest = &bytes[at..];
        let base_offset = i64::from_be_bytes(*rest.first_chunk()?);
        let may_be = rest.get(MAGIC_AT) == Some(&MAGIC) && (offset + 1..run.next_offset).contains(&base_offset);
        let sound = may_be.then(|| sound_batch(run, rest, base_offset))??;
        Some((at, sound.base_offset))
    })
}

/// Each of these sound batches on its own.
fn batches_of(bytes: &Bytes) -> Vec<Bytes> {
    let mut batches = Vec::new();
    let mut rest = bytes.clone();
    while let Ok(header) = BatchHeader::parse(&rest) {
        batches.push(rest.split_to(header.total_len().min(rest.len())));
    }
    batches
}

#[cfg(test)]
mod tests {
    use super::*;
    use kafscale_codec::record_batch::{stamp, BatchBuilder};
    use kafscale_codec::types::TopicId;

    /// Batches of one, two, three and four records from offset 10 on, and the run of them.
    fn run() -> (Run, Vec<Vec<u8>>) {
        let mut offset = 10;
        let mut batches = Vec::new();
        for count in 1..=4 {
            let mut batch = BatchBuilder::new();
            for number in 0..count {
                batch.push(1, None, Some(format!("{count}-{number}").as_bytes()), &[]);
            }
            let mut batch = batch.build().unwrap().to_vec();
            stamp(&mut batch, offset, 5);
            offset += count;
            batches.push(batch);
        }
        let run = Run {
            topic_id: TopicId([1; 16]),
            partition: 0,
            leader_epoch: 5,
            base_offset: 10,
            next_offset: 20,
            position: 64,
            length: 0,
            max_timestamp: 1,
            crc32c: 0,
            producers: Vec::new(),
        };
        (run, batches)
    }

    #[test]
    fn whatever_bit_is_wrong_only_its_batch_is_lost() {
        let (run, batches) = run();
        let whole = Bytes::from(batches.concat());
        assert_eq!(split(&run, &whole), [Piece::Sound(whole.clone())]);
        let starts = [10, 11, 13, 16, 20];
        let mut begin = 0;
        for (number, batch) in batches.iter().enumerate() {
            let (from, to) = (starts[number], starts[number + 1]);
            // The epoch is below the CRC, and a smaller one may be right.
            for bit in (0..batch.len() * 8).filter(|bit| !(12..16).contains(&(bit / 8))) {
                let mut bytes = whole.to_vec();
                bytes[begin + bit / 8] ^= 1 << (bit % 8);
                let pieces = split(&run, &Bytes::from(bytes));
                let lost: Vec<&Piece> = pieces
                    .iter()
                    .filter(|piece| matches!(piece, Piece::Lost { .. }))
                    .collect();
                assert_eq!(lost, [&Piece::Lost { from, to }], "bit {bit} of batch {number}");
            }
            begin += batch.len();
        }
    }

    #[test]
    fn neighbours_that_are_bad_are_lost_together_and_sound_ones_are_kept_apart() {
        let (run, batches) = run();
        let mut bad = batches.clone();
        bad[1][30] ^= 1;
        bad[2][30] ^= 1;
        let pieces = split(&run, &Bytes::from(bad.concat()));
        let sound = |at: usize| Piece::Sound(Bytes::from(batches[at].clone()));
        assert_eq!(pieces, [sound(0), Piece::Lost { from: 11, to: 16 }, sound(3)]);
        let all = Bytes::from(batches.concat());
        assert_eq!(batches_of(&all).len(), 4);
        let cut = split(&run, &all.slice(..all.len() - 1));
        assert_eq!(cut[1], Piece::Lost { from: 16, to: 20 });
    }
}
