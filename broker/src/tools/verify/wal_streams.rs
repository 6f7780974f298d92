//! Write-ahead streams: every slot that counts is there, and its runs are what the footer says.

use super::super::objects::{read_batches, read_wal, Pages, ReadError};
use super::super::output::Output;
use super::super::{ToolError, Workplace};
use kafscale_codec::types::TopicId;
use kafscale_metastore::keys::{MergedObject, StreamRecord, StreamState};
use kafscale_metastore::streams::{load_stream, load_streams};
use kafscale_storage_engine::object_store::StoreError;
use kafscale_storage_engine::wal::{self, decide, Kind, Run, StreamId};
use std::collections::{BTreeMap, BTreeSet};

/// Slots at the end of a stream whose headers are read to learn which earlier slots were durable.
const VOUCHERS: usize = 4;

/// What the streams are.
#[derive(Debug, Default)]
pub struct Streams {
    /// Streams that have objects or a record.
    pub streams: u64,
    /// Objects that count.
    pub objects: u64,
    /// Streams that nothing refers to.
    pub orphans: u64,
}

/// Offsets that a stream holds of a partition: first, after the last.
pub type Tails = BTreeMap<(TopicId, i32), Vec<(i64, i64, u64)>>;

/// What a listing shows of a stream.
#[derive(Debug, Default)]
struct Listed {
    slots: BTreeSet<u64>,
    merged: BTreeSet<(u64, u64)>,
}

/// Reads all streams.
pub async fn check(place: &Workplace, output: &mut Output) -> Result<(Streams, Tails), ToolError> {
    let mut found = Streams::default();
    let mut tails = Tails::new();
    let mut ids = stream_ids(place).await?;
    let mut records = BTreeMap::new();
    if let Some(metastore) = &place.metastore {
        for (stream, record) in load_streams(&**metastore).await?.whole()?.items {
            records.insert(stream, record.value);
            ids.insert(stream);
        }
    }
    for id in ids {
        found.streams += 1;
        let stream = StreamId(id);
        match (records.get(&id), &place.metastore) {
            (None, Some(metastore)) if load_stream(&**metastore, id).await?.is_none() => {
                found.orphans += 1;
                output.note(
                    "orphan",
                    &wal::stream_prefix(place.namespace(), stream),
                    "the stream has no record",
                )?;
            }
            (record, _) => {
                let listed = list(place, stream, output).await?;
                let (merged, slots) = match record {
                    Some(record) => by_record(place, stream, record, &listed, output).await?,
                    None => by_listing(place, stream, &listed, output).await?,
                };
                found.objects += (merged.len() + slots.len()) as u64;
                objects(place, stream, &merged, &slots, &mut tails, output).await?;
            }
        }
    }
    Ok((found, tails))
}

/// The streams that have objects, found by leaps: one listing each.
async fn stream_ids(place: &Workplace) -> Result<BTreeSet<u64>, ToolError> {
    let prefix = format!("{}/_wal/", place.namespace());
    let mut ids = BTreeSet::new();
    let mut after: Option<String> = None;
    loop {
        let page = place.store.list(&prefix, after.as_deref(), 1).await?;
        let Some(object) = page.objects.first() else {
            return Ok(ids);
        };
        let name = object.key[prefix.len()..].split('/').next().unwrap_or_default();
        match u64::from_str_radix(name, 16) {
            Ok(id) => {
                ids.insert(id);
                // '~' sorts after all that our names begin with.
                after = Some(format!("{prefix}{name}/~"));
            }
            Err(_) => after = Some(object.key.clone()),
        }
    }
}

async fn list(place: &Workplace, stream: StreamId, output: &mut Output) -> Result<Listed, ToolError> {
    let prefix = wal::stream_prefix(place.namespace(), stream);
    let mut listed = Listed::default();
    let mut pages = Pages::below(&*place.store, prefix.clone());
    while let Some(page) = pages.next().await? {
        for object in page {
            let name = object.key[prefix.len()..].trim_end_matches(".wal");
            let range = name.strip_prefix("merged-").and_then(|range| range.split_once('-'));
            match (name.parse(), range.map(|(first, last)| (first.parse(), last.parse()))) {
                (Ok(slot), _) => drop(listed.slots.insert(slot)),
                (_, Some((Ok(first), Ok(last)))) => drop(listed.merged.insert((first, last))),
                _ => output.note("unknown", &object.key, "no object of a broker has such a name")?,
            }
        }
    }
    Ok(listed)
}

type Counting = (Vec<(u64, u64)>, Vec<u64>);

/// What counts by the stream's record.
async fn by_record(
    place: &Workplace,
    stream: StreamId,
    record: &StreamRecord,
    listed: &Listed,
    output: &mut Output,
) -> Result<Counting, ToolError> {
    if let Some((one, other)) = record.overlap() {
        let why = format!(
            "its record counts slots twice: {}..={} and {}..={}",
            one.0, one.1, other.0, other.1
        );
        output.problem("overlap", &wal::stream_prefix(place.namespace(), stream), &why)?;
    }
    let merged = record.merged.iter().map(|object| (object.first, object.last)).collect();
    let end = match record.state {
        StreamState::Sealed { end_seq, .. } => end_seq,
        StreamState::Open | StreamState::Sealing => {
            // A slot that no later one vouches for was on its way when the owner ended, and was never acknowledged.
            let vouched = vouched(place, stream, &listed.slots).await?;
            let from = decide::search_from(record.first_live_seq, vouched);
            contiguous_end(&listed.slots, from)
        }
    };
    Ok((merged, (record.first_live_seq..end).collect()))
}

/// Every slot below the returned one was durable, by what the last slots say.
async fn vouched(place: &Workplace, stream: StreamId, slots: &BTreeSet<u64>) -> Result<u64, ToolError> {
    let mut vouched = 0;
    for slot in slots.iter().rev().take(VOUCHERS) {
        let key = wal::slot_key(place.namespace(), stream, *slot);
        let header = match place.store.get_range(&key, 0..wal::HEADER_LEN as u64).await {
            Ok(bytes) => wal::parse_header(&bytes),
            Err(StoreError::NotFound(_)) => continue,
            Err(error) => return Err(error.into()),
        };
        // One that is damaged is reported when it is read as a whole.
        if let Ok(header) = header {
            vouched = vouched.max(decide::vouched_by(*slot, header.kind == Kind::Fence, header.vouched));
        }
    }
    Ok(vouched)
}

/// What counts as far as the objects tell: merged ones, and the slots up to the fence.
async fn by_listing(
    place: &Workplace,
    stream: StreamId,
    listed: &Listed,
    output: &mut Output,
) -> Result<Counting, ToolError> {
    let merged: Vec<(u64, u64)> = listed
        .merged
        .iter()
        .filter(|one| {
            !listed
                .merged
                .iter()
                .any(|other| other != *one && other.0 <= one.0 && one.1 <= other.1)
        })
        .copied()
        .collect();
    let mut slots = Vec::new();
    let mut before: Option<u64> = merged.iter().map(|(_, last)| *last).max();
    for slot in listed.slots.range(before.map_or(0, |last| last + 1)..) {
        let key = wal::slot_key(place.namespace(), stream, *slot);
        let is_fence = match place.store.get_range(&key, 0..wal::HEADER_LEN as u64).await {
            Ok(header) => wal::parse_header(&header).is_ok_and(|header| header.kind == Kind::Fence),
            Err(StoreError::NotFound(_)) => continue,
            Err(error) => return Err(error.into()),
        };
        if let Some(last) = before.filter(|last| last + 1 != *slot) {
            let why = format!(
                "slots {}..{slot} are missing; they were deleted, lost, or never written",
                last + 1
            );
            output.problem("missing", &wal::slot_key(place.namespace(), stream, last + 1), &why)?;
        }
        if is_fence {
            break;
        }
        slots.push(*slot);
        before = Some(*slot);
    }
    Ok((merged, slots))
}

fn contiguous_end(slots: &BTreeSet<u64>, first: u64) -> u64 {
    let with_next = slots.range(first..).zip(first..);
    first + with_next.take_while(|(slot, expected)| *slot == expected).count() as u64
}

async fn objects(
    place: &Workplace,
    stream: StreamId,
    merged: &[(u64, u64)],
    slots: &[u64],
    tails: &mut Tails,
    output: &mut Output,
) -> Result<(), ToolError> {
    let merged = merged.iter().map(|(first, last)| (*first, *last, true));
    for (first, last, is_merged) in merged.chain(slots.iter().map(|slot| (*slot, *slot, false))) {
        let key = match is_merged {
            true => wal::merged_key(place.namespace(), stream, first, last),
            false => wal::slot_key(place.namespace(), stream, first),
        };
        let (header, runs) = match read_wal(&*place.store, &key).await {
            Ok(found) => found,
            Err(ReadError::Store(StoreError::NotFound(_))) => {
                if !was_trimmed(place, stream, first, is_merged).await? {
                    output.problem("missing", &key, "the stream's record counts on it")?;
                }
                continue;
            }
            Err(ReadError::Store(error)) => return Err(error.into()),
            Err(ReadError::Damaged(why)) => {
                output.problem("write-ahead", &key, &why)?;
                continue;
            }
        };
        let kind = if is_merged { Kind::Merged } else { Kind::Data };
        if header.kind == Kind::Fence && !is_merged {
            // An open stream's record does not tell of it yet.
            break;
        }
        if (header.stream, header.first_seq, header.last_seq, header.kind) != (stream, first, last, kind) {
            output.problem("write-ahead", &key, &format!("its header is another's: {header:?}"))?;
        }
        for run in runs {
            check_run(place, &key, &run, output).await?;
            let of_partition = tails.entry((run.topic_id, run.partition)).or_default();
            of_partition.push((run.base_offset, run.next_offset, stream.0));
        }
    }
    Ok(())
}

async fn check_run(place: &Workplace, key: &str, run: &Run, output: &mut Output) -> Result<(), ToolError> {
    let range = run.position..run.position + run.length;
    let batches = match read_batches(&*place.store, key, range, |_, _| ()).await {
        Ok(batches) => batches,
        // Trimmed between two reads.
        Err(StoreError::NotFound(_)) => return Ok(()),
        Err(error) => return Err(error.into()),
    };
    let at = format!("{key} (partition {} from offset {})", run.partition, run.base_offset);
    if batches.crc32c != run.crc32c {
        output.problem("write-ahead", &at, "the run is damaged: CRC-32C does not match")?;
    }
    if (batches.base_offset, batches.next_offset) != (Some(run.base_offset), Some(run.next_offset)) {
        let found = (batches.base_offset, batches.next_offset);
        let why = format!(
            "the footer says {}..{}, found {found:?}",
            run.base_offset, run.next_offset
        );
        output.problem("write-ahead", &at, &why)?;
    }
    for why in batches.problems {
        output.problem("write-ahead", &at, &why)?;
    }
    Ok(())
}

/// Whether the stream's owner let go of the object meanwhile.
async fn was_trimmed(place: &Workplace, stream: StreamId, first: u64, merged: bool) -> Result<bool, ToolError> {
    let Some(metastore) = &place.metastore else {
        return Ok(true);
    };
    let Some(record) = load_stream(&**metastore, stream.0).await? else {
        return Ok(true);
    };
    Ok(match merged {
        true => !record
            .value
            .merged
            .iter()
            .any(|object: &MergedObject| object.first == first),
        false => first < record.value.first_live_seq,
    })
}
