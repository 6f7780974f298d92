//! All streams, ended: where each begins is found here, where it ends by the take-over that every successor does.
//!
//! What a listing shows of a stream may have a hole. Before a hole lie slots that hold nothing but rolled records and
//! whose deletion was not finished; behind one lie puts that were on their way when the owner ended, of which none was
//! acknowledged. Whether a slot holds an unrolled record tells the two apart.

use super::super::objects::{read_wal, Pages, ReadError};
use super::super::output::Output;
use super::super::{ToolError, Workplace};
use super::catalog::Catalog;
use super::partition::{Found, StreamRun};
use crate::shard::takeover::ClaimError;
use crate::shard::Shard;
use kafscale_metastore::keys::{stream_key, MergedObject, StreamRecord, StreamState};
use kafscale_storage_engine::partition_log::PartitionKey;
use kafscale_storage_engine::wal::{self, Kind, Run, StreamId};
use std::collections::{BTreeMap, BTreeSet};

/// The level of merged objects: how often their content was merged is not known.
const LEVEL: u8 = 1;

/// All streams, ended.
#[derive(Debug, Default)]
pub struct Sealed {
    /// How many.
    pub count: u64,
    /// The largest number.
    pub last_stream: u64,
    /// The largest incarnation of an owner.
    pub last_incarnation: u64,
    /// What they hold, by partition.
    pub tails: BTreeMap<PartitionKey, Vec<StreamRun>>,
    /// Streams of which something cannot be read.
    pub damaged: BTreeSet<u64>,
}

/// Writes each stream's record, ends it, and reads what it holds.
pub async fn seal_all(
    place: &Workplace,
    shard: &Shard,
    catalog: &Catalog,
    found: &BTreeMap<PartitionKey, Found>,
    output: &mut Output,
) -> Result<Sealed, ToolError> {
    let mut sealed = Sealed {
        last_stream: catalog.streams.keys().last().copied().unwrap_or(0),
        last_incarnation: catalog
            .streams
            .values()
            .map(|stream| stream.incarnation)
            .max()
            .unwrap_or(0),
        ..Sealed::default()
    };
    for (stream, listed) in list(place).await? {
        let known = catalog.streams.get(&stream);
        let merged = outermost(&listed.merged).map_err(|why| {
            let prefix = wal::stream_prefix(place.namespace(), StreamId(stream));
            ToolError::Refused(format!("{prefix}: {why}"))
        })?;
        let floor = merged.last().map_or(0, |(_, last)| last + 1);
        let floor = floor.max(known.map_or(0, |known| known.first_live_seq));
        let first_live_seq = first_live(place, stream, &listed.slots, floor, catalog, found).await?;
        let record = StreamRecord {
            broker_id: known.map_or(-1, |known| known.broker_id),
            incarnation: known.map_or(0, |known| known.incarnation),
            shard: known.map_or(0, |known| known.shard),
            // Nobody may trim it, and where it ends is still to be found.
            state: StreamState::Sealing,
            first_live_seq,
            merged: merged
                .iter()
                .map(|(first, last)| MergedObject {
                    first: *first,
                    last: *last,
                    level: LEVEL,
                })
                .collect(),
        };
        super::write(place, vec![(stream_key(stream), record.encode())]).await?;
        let failed = |error: ClaimError| ToolError::Refused(format!("stream {stream:016x}: {error}"));
        let (_, end_seq) = shard.seal(StreamId(stream)).await.map_err(failed)?;
        tell_of_lost(place, stream, &listed.slots, end_seq, output).await?;
        let tail = shard.take_over(StreamId(stream)).await.map_err(failed)?;
        for damage in &tail.damaged {
            let why = format!(
                "it {}; partitions that may have had records there are refused until `kafscale-broker accept-loss {} {}`",
                damage.why, damage.object.stream, damage.object.first_seq
            );
            output.problem("lost", &damage.key, &why)?;
            sealed.damaged.insert(stream);
        }
        for (key, runs) in tail.runs {
            let runs = runs.into_iter().map(|(_, run)| stream_run(stream, run));
            sealed.tails.entry(key).or_default().extend(runs);
        }
        sealed.count += 1;
        sealed.last_stream = sealed.last_stream.max(stream);
    }
    Ok(sealed)
}

/// Slots behind the end were never acknowledged, unless there are too many of them or the stream had been ended behind
/// them before: then a slot was lost.
async fn tell_of_lost(
    place: &Workplace,
    stream: u64,
    slots: &BTreeSet<u64>,
    end_seq: u64,
    output: &mut Output,
) -> Result<(), ToolError> {
    let beyond: Vec<u64> = slots.range(end_seq + 1..).copied().collect();
    let mut lost = beyond.len() >= place.settings.flush_pipeline;
    for slot in beyond.iter().take(place.settings.flush_pipeline) {
        let key = wal::slot_key(place.namespace(), StreamId(stream), *slot);
        let head = place.store.get_range(&key, 0..wal::HEADER_LEN as u64).await?;
        lost |= wal::parse_header(&head).is_ok_and(|header| header.kind == Kind::Fence);
    }
    if lost {
        let why = format!(
            "it is missing, and {} later slots are there: what they hold is lost",
            beyond.len()
        );
        output.problem(
            "lost",
            &wal::slot_key(place.namespace(), StreamId(stream), end_seq),
            &why,
        )?;
    }
    Ok(())
}

fn stream_run(stream: u64, run: Run) -> StreamRun {
    StreamRun {
        stream,
        base_offset: run.base_offset,
        next_offset: run.next_offset,
        leader_epoch: run.leader_epoch,
        producers: run.producers,
    }
}

#[derive(Debug, Default)]
struct Listed {
    slots: BTreeSet<u64>,
    merged: BTreeSet<(u64, u64)>,
}

async fn list(place: &Workplace) -> Result<BTreeMap<u64, Listed>, ToolError> {
    let prefix = format!("{}/_wal/", place.namespace());
    let mut streams: BTreeMap<u64, Listed> = BTreeMap::new();
    let mut pages = Pages::below(&*place.store, prefix.clone());
    while let Some(page) = pages.next().await? {
        for object in page {
            let Some((stream, name)) = object.key[prefix.len()..].split_once('/') else {
                continue;
            };
            let Ok(stream) = u64::from_str_radix(stream, 16) else {
                continue;
            };
            let listed = streams.entry(stream).or_default();
            let name = name.trim_end_matches(".wal");
            let range = name.strip_prefix("merged-").and_then(|range| range.split_once('-'));
            match (name.parse(), range.map(|(first, last)| (first.parse(), last.parse()))) {
                (Ok(slot), _) => drop(listed.slots.insert(slot)),
                (_, Some((Ok(first), Ok(last)))) => drop(listed.merged.insert((first, last))),
                _ => log::warn!("{} is no object of a stream: it is left alone", object.key),
            }
        }
    }
    Ok(streams)
}

/// The merged objects that no other contains: those within were merged again, and wait for their deletion.
fn outermost(merged: &BTreeSet<(u64, u64)>) -> Result<Vec<(u64, u64)>, String> {
    let contains = |outer: &(u64, u64), inner: &(u64, u64)| outer.0 <= inner.0 && inner.1 <= outer.1;
    let is_inner = |one: &(u64, u64)| merged.iter().any(|other| other != one && contains(other, one));
    let outer: Vec<(u64, u64)> = merged.iter().filter(|one| !is_inner(one)).copied().collect();
    match outer.windows(2).find(|pair| pair[0].1 >= pair[1].0) {
        Some(pair) => Err(format!("merged objects {:?} and {:?} overlap", pair[0], pair[1])),
        None => Ok(outer),
    }
}

/// The slot where what counts begins: the first stretch of slots, from `floor` on, that holds a record which is in no
/// segment; the last stretch, if none does.
async fn first_live(
    place: &Workplace,
    stream: u64,
    slots: &BTreeSet<u64>,
    floor: u64,
    catalog: &Catalog,
    found: &BTreeMap<PartitionKey, Found>,
) -> Result<u64, ToolError> {
    let stretches = stretches(slots, floor);
    for (at, stretch) in stretches.iter().enumerate() {
        if at + 1 == stretches.len() {
            return Ok(stretch.start);
        }
        for slot in stretch.clone() {
            let key = wal::slot_key(place.namespace(), StreamId(stream), slot);
            let (header, runs) = match read_wal(&*place.store, &key).await {
                Ok(object) => object,
                Err(ReadError::Store(error)) => return Err(error.into()),
                Err(ReadError::Damaged(why)) => return Err(ToolError::Refused(format!("{key}: {why}"))),
            };
            if header.kind == Kind::Fence || runs.iter().any(|run| is_unrolled(run, catalog, found)) {
                return Ok(stretch.start);
            }
        }
    }
    Ok(floor)
}

/// Of a topic that the catalog does not know nothing is rolled.
fn is_unrolled(run: &Run, catalog: &Catalog, found: &BTreeMap<PartitionKey, Found>) -> bool {
    let key = PartitionKey {
        topic_id: run.topic_id,
        partition: run.partition,
    };
    let rolled_offset = found.get(&key).map_or(0, |found| found.rolled_offset);
    run.next_offset > rolled_offset && !catalog.deleted.contains(&run.topic_id)
}

/// Slots without a hole between them, from `floor` on.
fn stretches(slots: &BTreeSet<u64>, floor: u64) -> Vec<std::ops::Range<u64>> {
    let mut stretches: Vec<std::ops::Range<u64>> = Vec::new();
    for slot in slots.range(floor..) {
        match stretches.last_mut() {
            Some(last) if last.end == *slot => last.end += 1,
            _ => stretches.push(*slot..slot + 1),
        }
    }
    stretches
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_merged_again_does_not_count_and_halves_are_refused() {
        let all = |merged: &[(u64, u64)]| outermost(&merged.iter().copied().collect());
        assert_eq!(
            all(&[(0, 9), (0, 99), (10, 19), (100, 109)]).unwrap(),
            [(0, 99), (100, 109)]
        );
        assert!(all(&[(0, 9), (5, 14)]).is_err());
    }

    #[test]
    fn holes_separate_stretches() {
        let slots = [1, 3, 5, 6, 7, 9].into_iter().collect();
        assert_eq!(stretches(&slots, 2), [3..4, 5..8, 9..10]);
        assert_eq!(stretches(&slots, 10), []);
    }
}
