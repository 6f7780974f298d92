//! `verify`: reads everything below the namespace and says what does not fit together.
//!
//! What is in memory is one page of a listing, one piece of an object, and what the streams hold that is in no segment.
//! A broker may go on meanwhile: what it moves under the reader is looked up again before it counts as a problem.

mod tails;
mod wal_streams;
mod walk;

use super::output::Output;
use super::{ToolError, Workplace};
use kafscale_codec::types::TopicId;
use kafscale_metastore::keys::PartitionRecord;
use kafscale_metastore::{partitions, topics, Metastore};
use serde_json::json;
use std::collections::BTreeMap;

/// Where a partition's segments lie: folder and number.
pub(super) type Place = (String, i32);

/// The partitions that the metastore knows, by where their segments lie.
#[derive(Debug, Default, Clone)]
pub(super) struct Known {
    /// The topics that exist, and those that were deleted and whose objects may still be there.
    folders: BTreeMap<String, Folder>,
    records: BTreeMap<(TopicId, i32), PartitionRecord>,
}

#[derive(Debug, Clone)]
struct Folder {
    topic_id: TopicId,
    partitions: u32,
    deleted: bool,
}

impl Known {
    async fn load(metastore: &dyn Metastore) -> Result<Known, ToolError> {
        let mut known = Known::default();
        for (_, topic) in topics::load_topics(metastore).await?.whole()?.items {
            let folder = Folder {
                topic_id: topic.value.topic_id,
                partitions: topic.value.partitions,
                deleted: false,
            };
            known.folders.insert(topic.value.folder, folder);
        }
        for (topic_id, topic) in topics::load_deleted_topics(metastore).await?.whole()?.items {
            let folder = Folder {
                topic_id,
                partitions: topic.value.partitions,
                deleted: true,
            };
            known.folders.insert(topic.value.folder, folder);
        }
        for stored in partitions::load_partitions(metastore).await?.whole()?.items {
            let key = (stored.topic_id, stored.partition);
            known.records.insert(key, stored.record.value);
        }
        Ok(known)
    }

    /// The record of the partition whose segments lie there.
    fn at(&self, place: &Place) -> Option<&PartitionRecord> {
        let folder = self.folders.get(&place.0)?;
        self.records.get(&(folder.topic_id, place.1))
    }

    /// Every partition of a topic that exists, with its place.
    fn partitions(&self) -> impl Iterator<Item = (Place, &PartitionRecord)> {
        let live = self.folders.iter().filter(|(_, folder)| !folder.deleted);
        live.flat_map(|(name, folder)| {
            let of_topic = (folder.topic_id, 0)..(folder.topic_id, i32::MAX);
            self.records
                .range(of_topic)
                .map(|((_, partition), record)| ((name.clone(), *partition), record))
        })
    }
}

/// Checks everything. Problems are lines of the output.
pub async fn run(place: &Workplace, output: &mut Output) -> Result<(), ToolError> {
    let known = match &place.metastore {
        Some(metastore) => Some(Known::load(&**metastore).await?),
        None => None,
    };
    let (streams, tails) = wal_streams::check(place, output).await?;
    let walked = walk::check(place, known.as_ref(), output).await?;
    if let (Some(metastore), Some(known)) = (&place.metastore, &known) {
        walk::check_ends(place, known, &walked, output)?;
        // Read again: what was rolled since is found in segments, no longer in streams.
        let fresh = Known::load(&**metastore).await?;
        tails::check(place, &fresh, &tails, output)?;
    }
    output.line(&json!({
        "summary": "verify", "problems": output.problems(), "segments": walked.segments,
        "records_in_segments": walked.records, "streams": streams.streams, "write_ahead_objects": streams.objects,
        "partitions": walked.ends.len(), "orphans": walked.orphans + streams.orphans,
        "with_metastore": place.metastore.is_some(),
    }))?;
    Ok(())
}
