//! One partition: where its segments end, and which streams go on from there.

use super::super::objects::{read_batches, Pages};
use super::super::output::Output;
use super::super::segments::SegmentName;
use super::super::{describe, ToolError, Workplace};
use kafscale_metastore::keys::PartitionRecord;
use kafscale_storage_engine::partition_log::PartitionKey;
use kafscale_storage_engine::producer_state::{ProducerChange, ProducerState};
use kafscale_storage_engine::segment::{self, Part, FOOTER_LEN, HEADER_LEN};
use std::collections::BTreeSet;

/// How far leader epochs are moved on beyond the largest that was seen: claims that were never written under left no
/// trace, and clients take no answer of an older epoch than they know.
const EPOCH_MARGIN: i32 = 1_000;

/// No stream: nobody leads.
const NO_STREAM: u64 = 0;

/// What is found of a partition outside of streams.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Found {
    /// Offset of the first record in segments; where the log starts, if there is none.
    pub start_offset: i64,
    /// Records before it are in segments.
    pub rolled_offset: i64,
    /// Leader epochs with the offset at which each begins, of segments that the catalog does not know.
    pub epochs: Vec<(i32, i64)>,
    /// The largest producer id.
    pub producer_id: i64,
}

/// What a stream holds of a partition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StreamRun {
    /// The stream.
    pub stream: u64,
    /// Offset of the first record.
    pub base_offset: i64,
    /// Offset after the last record.
    pub next_offset: i64,
    /// Leader epoch of the last batch.
    pub leader_epoch: i32,
    /// What idempotent producers wrote.
    pub producers: Vec<ProducerChange>,
}

/// A partition's new record, and the offset after its last record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ended {
    /// The record.
    pub record: PartitionRecord,
    /// Where it ends.
    pub next_offset: i64,
}

/// Reads the segments' ends and the newest producer snapshot that fits.
pub async fn read_segments(
    place: &Workplace,
    key: PartitionKey,
    folder: &str,
    known: Option<&PartitionRecord>,
    output: &mut Output,
) -> Result<Found, ToolError> {
    let store = &*place.store;
    let prefix = segment::prefix(place.namespace(), folder, key.partition);
    let log_start = known.map_or(0, |known| known.log_start_offset);
    let mut segments: Vec<(i64, i64)> = Vec::new();
    let mut epochs = Vec::new();
    let mut pages = Pages::below(store, prefix.clone());
    while let Some(page) = pages.next().await? {
        for object in page {
            let Some((name, Part::Kfs)) = SegmentName::parse(place.namespace(), &object.key) else {
                continue;
            };
            let suffix = store.get_suffix(&object.key, FOOTER_LEN as u64).await?;
            let next = segment::parse_footer(&suffix.bytes)
                .map_err(|error| ToolError::Refused(format!("{}: {error}", object.key)))?;
            let before = segments.last().map(|(_, next)| *next);
            if before.is_some_and(|end| end < name.base_offset) {
                // Below the log's start segments are deleted one by one.
                if name.base_offset > log_start {
                    let why = format!("offsets {:?}..{} are in no segment", before, name.base_offset);
                    output.problem("gap", &prefix, &why)?;
                }
                segments.clear();
            }
            if known.is_none_or(|known| next > known.rolled_offset) {
                let body = HEADER_LEN as u64..suffix.object_len - FOOTER_LEN as u64;
                read_batches(store, &object.key, body, |_, header| {
                    note_epoch(&mut epochs, header.partition_leader_epoch, header.base_offset);
                })
                .await?;
            }
            segments.push((name.base_offset, next));
        }
    }
    if let Some((base, _)) = segments.first().filter(|(base, _)| *base > log_start) {
        let why = format!("the log started at {log_start} and starts at {base} now: deleted by retention, or lost");
        output.note("start", &prefix, &why)?;
    }
    let (rolled, producer_id) = newest_snapshot(place, key, &segments).await?;
    Ok(Found {
        start_offset: segments.first().map_or(rolled, |(base, _)| *base),
        rolled_offset: rolled,
        epochs,
        producer_id,
    })
}

/// The offset and the largest producer id of the newest producer snapshot that is as of a segment's end: a roll leaves
/// it before it is recorded, so what was recorded last is found.
async fn newest_snapshot(
    place: &Workplace,
    key: PartitionKey,
    segments: &[(i64, i64)],
) -> Result<(i64, i64), ToolError> {
    let id = describe::hex(key.topic_id);
    let prefix = format!("{}/_producers/{id}/{}/", place.namespace(), key.partition);
    let mut offsets = BTreeSet::new();
    let mut pages = Pages::below(&*place.store, prefix.clone());
    while let Some(page) = pages.next().await? {
        let names = page
            .iter()
            .map(|object| object.key[prefix.len()..].trim_end_matches(".snap"));
        offsets.extend(names.filter_map(|name| name.parse::<i64>().ok()));
    }
    let ends: BTreeSet<i64> = segments.iter().map(|(_, next)| *next).collect();
    // Without segments all were deleted by retention, up to the newest snapshot.
    let fits = |offset: &&i64| ends.is_empty() || ends.contains(offset);
    let Some(offset) = offsets.iter().rev().find(fits).copied() else {
        return match segments.first() {
            None | Some((0, _)) => Ok((0, 0)),
            Some((base, _)) => Err(ToolError::Refused(format!(
                "segments begin at {base}, and below {prefix} is no snapshot of producers as of one of their ends"
            ))),
        };
    };
    let name = format!("{prefix}{offset:020}.snap");
    let bytes = place.store.get_range(&name, 0..u64::MAX).await?;
    let state = ProducerState::decode(&bytes).map_err(|error| ToolError::Refused(format!("{name}: {error}")))?;
    let producer_id = state.latest().map(|change| change.producer_id).max().unwrap_or(0);
    Ok((offset, producer_id))
}

fn note_epoch(epochs: &mut Vec<(i32, i64)>, epoch: i32, base_offset: i64) {
    if epochs.last().is_none_or(|(last, _)| *last < epoch) {
        epochs.push((epoch, base_offset));
    }
}

/// The record from all that is known; `None` if nothing was ever written and nobody ever led. The record names every
/// stream of which something cannot be read: the broker then refuses the partition until somebody decides, unless what
/// can be read proves that it lost nothing there.
///
/// # Errors
/// If what the streams hold does not go on where the segments end.
pub fn record(
    key: PartitionKey,
    found: &Found,
    runs: &[StreamRun],
    known: Option<&PartitionRecord>,
    damaged: &BTreeSet<u64>,
) -> Result<Option<Ended>, ToolError> {
    let mut runs: Vec<&StreamRun> = runs
        .iter()
        .filter(|run| run.next_offset > found.rolled_offset)
        .collect();
    runs.sort_by_key(|run| run.base_offset);
    if known.is_none() && runs.is_empty() && found.rolled_offset == 0 {
        return Ok(None);
    }
    let mut epochs = known.map_or_else(Vec::new, |known| known.epoch_starts.clone());
    for (epoch, base_offset) in &found.epochs {
        note_epoch(&mut epochs, *epoch, *base_offset);
    }
    let mut end = found.rolled_offset;
    let mut tail_streams: Vec<u64> = Vec::new();
    for run in runs {
        if (run.base_offset > end && damaged.is_empty()) || run.next_offset <= end {
            return Err(ToolError::Refused(format!(
                "{key:?} ends at {end}, and stream {:016x} goes on with {}..{}",
                run.stream, run.base_offset, run.next_offset
            )));
        }
        note_epoch(&mut epochs, run.leader_epoch, run.base_offset);
        end = run.next_offset;
        if tail_streams.last() != Some(&run.stream) {
            tail_streams.push(run.stream);
        }
    }
    let missing = damaged.iter().filter(|stream| !tail_streams.contains(stream));
    tail_streams.extend(missing.copied().collect::<Vec<_>>());
    let last_epoch = epochs.last().map_or(-1, |(epoch, _)| *epoch);
    let leader_epoch = last_epoch.max(known.map_or(-1, |known| known.leader_epoch)) + EPOCH_MARGIN;
    // An epoch that began after the last record that is left began nothing.
    epochs.retain(|(_, start)| *start < end);
    let log_start_offset = known.map_or(0, |known| known.log_start_offset);
    let record = PartitionRecord {
        leader: -1,
        leader_incarnation: 0,
        shard: 0,
        leader_epoch,
        stream: NO_STREAM,
        log_start_offset: log_start_offset.max(found.start_offset).min(end),
        rolled_offset: found.rolled_offset,
        tail_streams,
        epoch_starts: epochs,
    };
    Ok(Some(Ended {
        record,
        next_offset: end,
    }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use kafscale_codec::types::TopicId;

    const KEY: PartitionKey = PartitionKey {
        topic_id: TopicId([1; 16]),
        partition: 0,
    };

    fn run(stream: u64, base_offset: i64, next_offset: i64, leader_epoch: i32) -> StreamRun {
        StreamRun {
            stream,
            base_offset,
            next_offset,
            leader_epoch,
            producers: Vec::new(),
        }
    }

    fn found(start_offset: i64, rolled_offset: i64) -> Found {
        Found {
            start_offset,
            rolled_offset,
            ..Found::default()
        }
    }

    #[test]
    fn streams_stand_in_the_order_of_their_offsets_and_what_is_rolled_counts_no_more() {
        let runs = [
            run(9, 30, 40, 4),
            run(2, 0, 10, 1),
            run(5, 20, 30, 3),
            run(7, 10, 20, 2),
        ];
        let ended = record(KEY, &found(0, 15), &runs, None, &BTreeSet::new())
            .unwrap()
            .unwrap();
        assert_eq!(ended.record.tail_streams, [7, 5, 9]);
        assert_eq!((ended.record.rolled_offset, ended.next_offset), (15, 40));
        assert_eq!(ended.record.epoch_starts, [(2, 10), (3, 20), (4, 30)]);
        assert_eq!(ended.record.leader_epoch, 4 + EPOCH_MARGIN);
    }

    #[test]
    fn a_gap_is_not_papered_over() {
        assert!(record(KEY, &found(0, 10), &[run(1, 11, 12, 0)], None, &BTreeSet::new()).is_err());
        assert!(record(
            KEY,
            &found(0, 10),
            &[run(1, 10, 12, 0), run(2, 11, 12, 0)],
            None,
            &BTreeSet::new()
        )
        .is_err());
    }

    #[test]
    fn a_damaged_stream_is_named_so_that_the_broker_refuses_what_may_be_lost() {
        let damaged = BTreeSet::from([1, 4]);
        let ended = record(KEY, &found(0, 10), &[run(1, 11, 12, 0)], None, &damaged)
            .unwrap()
            .unwrap();
        assert_eq!((ended.record.tail_streams, ended.next_offset), (vec![1, 4], 12));
    }

    #[test]
    fn a_partition_that_nobody_ever_wrote_to_needs_no_record() {
        assert_eq!(record(KEY, &found(0, 0), &[], None, &BTreeSet::new()).unwrap(), None);
    }

    #[test]
    fn the_log_starts_at_the_first_segment_that_is_left() {
        let ended = record(KEY, &found(100, 200), &[], None, &BTreeSet::new())
            .unwrap()
            .unwrap();
        assert_eq!((ended.record.log_start_offset, ended.next_offset), (100, 200));
    }
}
