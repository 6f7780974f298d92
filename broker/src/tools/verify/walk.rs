//! All objects that are no write-ahead objects, in the order of their keys: segments, and what belongs to nothing.

use super::super::objects::Pages;
use super::super::output::Output;
use super::super::segments::{check as check_segment, SegmentName};
use super::super::{ToolError, Workplace};
use super::{Known, Place};
use kafscale_storage_engine::catalog;
use kafscale_storage_engine::object_store::{ObjectMeta, StoreError};
use kafscale_storage_engine::producer_state::ProducerState;
use kafscale_storage_engine::segment::{self, Part};
use std::collections::BTreeMap;

/// What the walk saw.
#[derive(Debug, Default)]
pub struct Walked {
    /// Segments.
    pub segments: u64,
    /// Records in them.
    pub records: i64,
    /// Objects that nothing refers to.
    pub orphans: u64,
    /// Where each partition's segments begin and end.
    pub ends: BTreeMap<Place, (i64, i64)>,
}

/// Reads everything below the namespace but for write-ahead objects.
pub async fn check(place: &Workplace, known: Option<&Known>, output: &mut Output) -> Result<Walked, ToolError> {
    let mut walked = Walked::default();
    let wal = format!("{}/_wal/", place.namespace());
    let mut last_segment = None;
    let mut pages = Pages::below(&*place.store, format!("{}/", place.namespace()));
    while let Some(page) = pages.next().await? {
        for object in page.iter().filter(|object| !object.key.starts_with(&wal)) {
            match SegmentName::parse(place.namespace(), &object.key) {
                Some((name, _)) if last_segment.as_ref() == Some(&name) => {}
                Some((name, _)) => {
                    one_segment(place, known, &name, &mut walked, output).await?;
                    last_segment = Some(name);
                }
                None => other(place, known, object, &mut walked, output).await?,
            }
        }
    }
    Ok(walked)
}

async fn one_segment(
    place: &Workplace,
    known: Option<&Known>,
    name: &SegmentName,
    walked: &mut Walked,
    output: &mut Output,
) -> Result<(), ToolError> {
    let facts = check_segment(&*place.store, place.namespace(), name).await?;
    let at = (name.folder.clone(), name.partition);
    let kfs = name.key(place.namespace(), Part::Kfs);
    if let Some(known) = known {
        match known.folders.get(&name.folder) {
            None => {
                walked.orphans += 1;
                output.note("orphan", &kfs, "no topic has this folder")?;
                if facts.next_offset.is_none() {
                    // A part that arrived when its topic had been deleted.
                    return Ok(());
                }
            }
            Some(folder) if folder.deleted => return Ok(()),
            Some(folder) if name.partition >= folder.partitions as i32 => {
                walked.orphans += 1;
                output.note("orphan", &kfs, "the topic has fewer partitions")?;
            }
            Some(_) => {}
        }
    }
    let record = known.and_then(|known| known.at(&at));
    let is_unfinished = facts.next_offset.is_none();
    // An index comes before its segment: a broker that ended between the two leaves it, and the next one goes on.
    let begun = record.map_or(known.is_none(), |record| name.base_offset >= record.rolled_offset);
    let gone = record.is_some_and(|record| name.base_offset < record.log_start_offset);
    if is_unfinished && facts.bytes == 0 && (begun || gone) {
        walked.orphans += 1;
        let why = "only parts of a segment are there; nobody reads them";
        output.note("unfinished", &name.key(place.namespace(), Part::Index), why)?;
        return Ok(());
    }
    // A deletion that was interrupted leaves parts of it.
    if gone
        && facts
            .next_offset
            .is_none_or(|next| record.is_some_and(|record| next <= record.log_start_offset))
    {
        walked.orphans += 1;
        output.note("leftover", &kfs, "the log starts behind it; nobody reads it")?;
        return Ok(());
    }
    for (key, why) in &facts.problems {
        output.problem("segment", key, why)?;
    }
    let Some(next_offset) = facts.next_offset else {
        return Ok(());
    };
    walked.segments += 1;
    walked.records += i64::from(facts.records);
    let log_start = record.map_or(0, |record| record.log_start_offset);
    match walked.ends.get_mut(&at) {
        Some((_, end)) => {
            // Between segments that are being deleted there may be gaps.
            if name.base_offset > *end && name.base_offset > log_start {
                let why = format!("offsets {end}..{} are in no segment", name.base_offset);
                output.problem("gap", &kfs, &why)?;
            } else if name.base_offset < *end {
                let why = format!("offsets {}..{end} are in the segment before, too", name.base_offset);
                output.problem("overlap", &kfs, &why)?;
            }
            *end = next_offset.max(*end);
        }
        None => {
            walked.ends.insert(at, (name.base_offset, next_offset));
        }
    }
    Ok(())
}

/// Whether segments hold all from the log's start to where the metastore says that they end.
pub fn check_ends(place: &Workplace, known: &Known, walked: &Walked, output: &mut Output) -> Result<(), ToolError> {
    for (at, record) in known.partitions() {
        let (start, rolled) = (record.log_start_offset, record.rolled_offset);
        if start >= rolled {
            continue;
        }
        let prefix = segment::prefix(place.namespace(), &at.0, at.1);
        let Some((first, end)) = walked.ends.get(&at) else {
            output.problem(
                "gap",
                &prefix,
                &format!("offsets {start}..{rolled} should be in segments; there is none"),
            )?;
            continue;
        };
        if *first > start {
            output.problem(
                "gap",
                &prefix,
                &format!("the log starts at {start}, and the first segment at {first}"),
            )?;
        }
        if *end < rolled {
            output.problem(
                "gap",
                &prefix,
                &format!("segments should reach to {rolled}, and end at {end}"),
            )?;
        }
    }
    Ok(())
}

async fn other(
    place: &Workplace,
    known: Option<&Known>,
    object: &ObjectMeta,
    walked: &mut Walked,
    output: &mut Output,
) -> Result<(), ToolError> {
    let rest = &object.key[place.namespace().len() + 1..];
    match rest.split_once('/') {
        Some(("_producers", name)) => producers(place, known, object, name, walked, output).await,
        Some(("_cluster" | "_probe", _)) => Ok(()),
        Some(("_catalog", _)) => catalog_chunk(place, object, output).await,
        _ => {
            walked.orphans += 1;
            output.note("unknown", &object.key, "no object of a broker has such a name")?;
            Ok(())
        }
    }
}

async fn catalog_chunk(place: &Workplace, object: &ObjectMeta, output: &mut Output) -> Result<(), ToolError> {
    match place.store.get_range(&object.key, 0..u64::MAX).await {
        Ok(bytes) => match catalog::decode(&bytes) {
            Ok((name, ..)) if name.key(place.namespace()) == object.key => {}
            Ok((name, ..)) => output.problem("catalog", &object.key, &format!("it says that it is {name:?}"))?,
            Err(error) => output.problem("catalog", &object.key, &error.to_string())?,
        },
        // A later set has replaced it.
        Err(StoreError::NotFound(_)) => {}
        Err(error) => return Err(error.into()),
    }
    Ok(())
}

async fn producers(
    place: &Workplace,
    known: Option<&Known>,
    object: &ObjectMeta,
    name: &str,
    walked: &mut Walked,
    output: &mut Output,
) -> Result<(), ToolError> {
    match place.store.get_range(&object.key, 0..u64::MAX).await {
        Ok(bytes) => {
            if let Err(error) = ProducerState::decode(&bytes) {
                output.problem("producers", &object.key, &error.to_string())?;
            }
        }
        // The owner has replaced it by a later one.
        Err(StoreError::NotFound(_)) => return Ok(()),
        Err(error) => return Err(error.into()),
    }
    let topic = name.split('/').next().unwrap_or_default();
    let is_known = |known: &Known| {
        let mut ids = known
            .folders
            .values()
            .map(|folder| super::super::describe::hex(folder.topic_id));
        ids.any(|id| id == topic)
    };
    if known.is_some_and(|known| !is_known(known)) {
        walked.orphans += 1;
        output.note("orphan", &object.key, "there is no such topic")?;
    }
    Ok(())
}
