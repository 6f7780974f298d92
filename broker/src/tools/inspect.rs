//! `inspect`: shows what is stored, and changes nothing.

use super::describe;
use super::objects::{read_wal, Pages, ReadError};
use super::output::Output;
use super::segments::{check, SegmentName};
use super::{ToolError, What, Workplace};
use kafscale_metastore::keys::ROOT_PREFIX;
use kafscale_metastore::{prefix_end, topics};
use kafscale_storage_engine::producer_state::ProducerState;
use kafscale_storage_engine::segment::{self, Index, Part};
use kafscale_storage_engine::wal::{self, StreamId};
use serde_json::{json, Value};

/// Keys of the metastore per read.
const PAGE_KEYS: usize = 1000;

/// Shows it.
pub async fn run(place: &Workplace, what: What, output: &mut Output) -> Result<(), ToolError> {
    match what {
        What::Wal(stream) => show_wal(place, stream, output).await,
        What::Segments { topic, partition } => show_segments(place, &topic, partition, output).await,
        What::Index(key) => show_index(place, &key, output).await,
        What::Object(key) => show_object(place, &key, output).await,
        What::Metastore(prefix) => show_metastore(place, &prefix, output).await,
    }
}

async fn show_wal(place: &Workplace, stream: Option<u64>, output: &mut Output) -> Result<(), ToolError> {
    let prefix = match stream {
        Some(stream) => wal::stream_prefix(place.namespace(), StreamId(stream)),
        None => format!("{}/_wal/", place.namespace()),
    };
    let mut pages = Pages::below(&*place.store, prefix);
    while let Some(page) = pages.next().await? {
        for object in page {
            output.line(&describe_wal(place, &object.key, object.size).await?)?;
        }
    }
    Ok(())
}

async fn describe_wal(place: &Workplace, key: &str, size: u64) -> Result<Value, ToolError> {
    match read_wal(&*place.store, key).await {
        Ok((header, runs)) => Ok(describe::wal(key, size, &header, &runs)),
        Err(ReadError::Store(error)) => Err(error.into()),
        Err(ReadError::Damaged(why)) => Ok(json!({ "key": key, "size": size, "error": why })),
    }
}

async fn show_segments(
    place: &Workplace,
    topic: &str,
    partition: Option<i32>,
    output: &mut Output,
) -> Result<(), ToolError> {
    let known = topics::load_topic(place.metastore()?, topic).await?;
    let folder = known.map_or_else(|| topic.to_string(), |topic| topic.value.folder);
    let prefix = match partition {
        Some(partition) => segment::prefix(place.namespace(), &folder, partition),
        None => format!("{}/{folder}/", place.namespace()),
    };
    let mut pages = Pages::below(&*place.store, prefix);
    while let Some(page) = pages.next().await? {
        for object in page {
            if let Some((name, Part::Kfs)) = SegmentName::parse(place.namespace(), &object.key) {
                let facts = check(&*place.store, place.namespace(), &name).await?;
                output.line(&describe::segment(&name, &facts))?;
            }
        }
    }
    Ok(())
}

async fn show_index(place: &Workplace, key: &str, output: &mut Output) -> Result<(), ToolError> {
    let bytes = place.store.get_range(key, 0..u64::MAX).await?;
    let index = Index::parse(&bytes).map_err(|error| ToolError::Refused(format!("{key}: {error}")))?;
    for (offset, position) in index.entries() {
        output.line(&json!({ "offset": offset, "position": position }))?;
    }
    Ok(())
}

async fn show_object(place: &Workplace, key: &str, output: &mut Output) -> Result<(), ToolError> {
    let size = place.store.get_suffix(key, 1).await?.object_len;
    let damaged = |why: String| json!({ "key": key, "size": size, "error": why });
    let value = if key.ends_with(".wal") {
        describe_wal(place, key, size).await?
    } else if key.ends_with(".snap") {
        let bytes = place.store.get_range(key, 0..u64::MAX).await?;
        match ProducerState::decode(&bytes) {
            Ok(state) => json!({ "key": key, "size": size, "kind": "producers", "producers": state.len() }),
            Err(error) => damaged(error.to_string()),
        }
    } else {
        match SegmentName::parse(place.namespace(), key) {
            Some((name, part)) => {
                let facts = check(&*place.store, place.namespace(), &name).await?;
                let mut value = describe::segment(&name, &facts);
                let part = match part {
                    Part::Kfs => "records",
                    Part::Index => "index",
                    Part::Kfst => "times",
                };
                value["key"] = json!(key);
                value["size"] = json!(size);
                value["kind"] = json!(part);
                value
            }
            None => json!({ "key": key, "size": size, "kind": "unknown" }),
        }
    };
    output.line(&value)?;
    Ok(())
}

async fn show_metastore(place: &Workplace, prefix: &str, output: &mut Output) -> Result<(), ToolError> {
    let metastore = place.metastore()?;
    // As it stands in the keys, or what follows the part that all keys have.
    let prefix = match prefix.as_bytes() {
        whole if whole.starts_with(b"/") => whole.to_vec(),
        rest => [ROOT_PREFIX, rest].concat(),
    };
    let end = prefix_end(&prefix);
    let mut start = prefix;
    loop {
        let page = metastore.range(&start, &end, PAGE_KEYS).await?;
        for item in &page.items {
            output.line(&describe::key_value(item))?;
        }
        match page.items.last() {
            Some(last) if page.more => start = [&last.key[..], &[0]].concat(),
            _ => return Ok(()),
        }
    }
}
