//! Reading runs back from their objects in few large reads.

use super::fetch::damaged;
use super::takeover::check_header;
use super::Shard;
use bytes::Bytes;
use futures::stream::{self, StreamExt, TryStreamExt};
use kafscale_storage_engine::object_store::StoreError;
use kafscale_storage_engine::partition_log::{Location, ObjectRef, TailRun};
use kafscale_storage_engine::wal;
use std::collections::BTreeMap;
use std::ops::Range;

/// Bytes between two wanted ranges that are read rather than asked around: a request costs more.
const GAP_BYTES: u64 = 256 * 1024;

/// A range that begins at most so far behind an object's header is read together with it.
const HEADER_NEAR: u64 = 64 * 1024;

/// Reads under way at the same time.
const READS_AT_ONCE: usize = 16;

/// Bytes of objects, by object and position.
#[derive(Debug, Default)]
pub(super) struct Gathered(BTreeMap<ObjectRef, Vec<(u64, Bytes)>>);

impl Gathered {
    fn find(&self, location: Location) -> Option<Bytes> {
        let pieces = self.0.get(&location.object)?;
        let at = pieces.partition_point(|(position, _)| *position <= location.position);
        let (position, bytes) = pieces.get(at.checked_sub(1)?)?;
        let from = (location.position - position) as usize;
        let to = from + location.length as usize;
        (to <= bytes.len()).then(|| bytes.slice(from..to))
    }
}

impl Shard {
    /// Reads those of the runs that are not in memory.
    pub(super) async fn gather<'a>(&self, runs: impl Iterator<Item = &'a TailRun>) -> Result<Gathered, StoreError> {
        let mut wanted: BTreeMap<ObjectRef, Vec<Range<u64>>> = BTreeMap::new();
        for run in runs.filter(|run| run.batches.is_none()) {
            let Location {
                object,
                position,
                length,
            } = run.location;
            wanted.entry(object).or_default().push(position..position + length);
        }
        let reads = wanted
            .into_iter()
            .flat_map(|(object, ranges)| coalesce(ranges).into_iter().map(move |range| (object, range)));
        let pieces: Vec<(ObjectRef, u64, Bytes)> = stream::iter(reads)
            .map(|(object, range)| async move {
                // The header comes along where it is near: it tells whether the object is the one that its name says.
                let start = if range.start <= HEADER_NEAR { 0 } else { range.start };
                let name = self.object_key(object);
                let bytes = self.store.get_range(&name, start..range.end).await?;
                if start == 0 {
                    check_header(&bytes, object).map_err(|error| damaged(format!("{name}: {error}")))?;
                }
                Ok::<_, StoreError>((object, start, bytes))
            })
            .buffered(READS_AT_ONCE)
            .try_collect()
            .await?;
        let mut gathered = Gathered::default();
        for (object, position, bytes) in pieces {
            gathered.0.entry(object).or_default().push((position, bytes));
        }
        Ok(gathered)
    }

    /// A run's stored batches: from memory, from what was gathered, or else from its object.
    pub(super) async fn run_batches(&self, run: &TailRun, gathered: &Gathered) -> Result<Vec<Bytes>, StoreError> {
        if let Some(batches) = &run.batches {
            return Ok(batches.clone());
        }
        let Location {
            object,
            position,
            length,
        } = run.location;
        let bytes = match gathered.find(run.location) {
            Some(bytes) => bytes,
            // It left memory, or came into this object, since then.
            None => {
                let range = position..position + length;
                self.store.get_range(&self.object_key(object), range).await?
            }
        };
        if bytes.len() as u64 != length {
            return Err(StoreError::Damaged(format!(
                "{} is shorter than its footer says",
                self.object_key(object)
            )));
        }
        let mut batches = Vec::new();
        let (mut at, mut offset) = (0, run.base_offset);
        while offset < run.next_offset {
            // What is rolled or merged stays: an offset that has changed would stay wrong.
            let header = wal::batch_of_run(&bytes[at..], offset, run.next_offset, run.leader_epoch)
                .map_err(|error| damaged(format!("{}: {error}", self.object_key(object))))?;
            batches.push(bytes.slice(at..at + header.total_len()));
            at += header.total_len();
            offset = header.next_offset();
        }
        if at < bytes.len() {
            return Err(damaged(format!(
                "{}: a run goes on behind its last batch",
                self.object_key(object)
            )));
        }
        Ok(batches)
    }
}

/// Ranges in order, those close to each other made one.
fn coalesce(mut ranges: Vec<Range<u64>>) -> Vec<Range<u64>> {
    ranges.sort_unstable_by_key(|range| range.start);
    let mut out: Vec<Range<u64>> = Vec::new();
    for range in ranges {
        match out.last_mut() {
            Some(last) if range.start <= last.end + GAP_BYTES => last.end = last.end.max(range.end),
            _ => out.push(range),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use kafscale_storage_engine::wal::StreamId;

    #[test]
    fn near_ranges_become_one_read_and_far_ones_stay_apart() {
        let far = 10 + GAP_BYTES + 1;
        assert_eq!(coalesce(vec![far..far + 5, 0..4, 6..10]), [0..10, far..far + 5]);
        assert_eq!(coalesce(vec![0..9, 2..3, 5..12]).first(), Some(&(0..12)));
    }

    #[test]
    fn a_run_is_found_only_where_all_of_it_was_read() {
        let object = ObjectRef {
            stream: StreamId(1),
            first_seq: 0,
            last_seq: 7,
            merged: true,
        };
        let at = |position, length| Location {
            object,
            position,
            length,
        };
        let pieces = vec![
            (10, Bytes::from_static(b"0123456789")),
            (100, Bytes::from_static(b"abc")),
        ];
        let gathered = Gathered(BTreeMap::from([(object, pieces)]));
        assert_eq!(gathered.find(at(12, 3)).unwrap(), "234");
        assert_eq!(gathered.find(at(100, 3)).unwrap(), "abc");
        assert_eq!(gathered.find(at(100, 4)), None);
        assert_eq!(gathered.find(at(9, 1)), None);
        assert_eq!(gathered.find(at(25, 1)), None);
        let other = ObjectRef {
            merged: false,
            ..object
        };
        assert_eq!(
            gathered.find(Location {
                object: other,
                ..at(12, 3)
            }),
            None
        );
    }
}
