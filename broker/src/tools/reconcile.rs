//! `reconcile`: one round of what the elected broker does all the time, or a look at it.

use super::objects::Pages;
use super::output::Output;
use super::{ToolError, Workplace};
use crate::assembly::Tuning;
use crate::cluster::deletion::Deletion;
use crate::cluster::reconciler::{Living, Reconciler};
use serde_json::{json, Value};

/// Does a round, or tells what it would do.
pub async fn run(place: &Workplace, dry_run: bool, output: &mut Output) -> Result<(), ToolError> {
    let reconciler = Reconciler::new(place.idle_shard()?, Tuning::default().reconcile_interval);
    let mut due = reconciler.topics_to_delete().await?;
    due.extend(reconciler.streams_to_delete(Living::AsRegistered).await?);
    due.extend(reconciler.orphaned_streams().await?);
    let mut count = due.len();
    for deletion in due {
        tell_objects(place, &deletion, output).await?;
        output.line(&describe(&deletion))?;
        if !dry_run {
            reconciler.delete(deletion).await?;
        }
    }
    let found = reconciler.leftovers().await?;
    for key in &found {
        output.line(&json!({ "delete": "leftover", "key": key }))?;
    }
    count += found.len();
    if !dry_run && !found.is_empty() {
        // Brokers that share the stores may be reading what they planned with an older record.
        if place.is_shared() {
            place.runtime.sleep(Tuning::default().delete_grace).await;
        }
        reconciler.delete_leftovers(&found).await?;
    }
    output.line(&json!({ "summary": "reconcile", "dry_run": dry_run, "deletions": count }))?;
    Ok(())
}

async fn tell_objects(place: &Workplace, deletion: &Deletion, output: &mut Output) -> Result<(), ToolError> {
    let keep = deletion.keeps(place.namespace());
    for prefix in deletion.prefixes(place.namespace()) {
        let mut pages = Pages::below(&*place.store, prefix);
        while let Some(page) = pages.next().await? {
            for object in page.iter().filter(|object| Some(&object.key) != keep.as_ref()) {
                output.line(&json!({ "delete": "object", "key": object.key, "size": object.size }))?;
            }
        }
    }
    Ok(())
}

fn describe(deletion: &Deletion) -> Value {
    match deletion {
        Deletion::EmptyTopic { topic_id, deleted } => {
            let (name, folder) = (&deleted.value.name, &deleted.value.folder);
            json!({ "delete": "topic", "topic": name, "topic_id": super::describe::hex(*topic_id), "folder": folder })
        }
        Deletion::ForgetTopic { topic_id, name, folder } => {
            json!({ "forget": "topic", "topic": name, "topic_id": super::describe::hex(*topic_id), "folder": folder })
        }
        Deletion::EndStream(stream) => json!({ "end": "stream", "stream": format!("{stream:016x}") }),
        Deletion::EmptyStream { stream, end_seq, .. } => {
            json!({ "trim": "stream", "stream": format!("{stream:016x}"), "first_live_slot": end_seq })
        }
        Deletion::OrphanedStream(stream) => json!({ "delete": "orphaned", "stream": format!("{stream:016x}") }),
        Deletion::ForgetStream { stream, .. } => json!({ "delete": "stream", "stream": format!("{stream:016x}") }),
    }
}
