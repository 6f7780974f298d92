//! `reconcile`: one round of what the elected broker does all the time, or a look at it.

use super::objects::Pages;
use super::output::Output;
use super::{ToolError, Workplace};
use crate::assembly::Assembly;
use crate::assembly::Tuning;
use crate::cluster::deletion::Deletion;
use crate::cluster::reconciler::{Living, Reconciler};
use crate::metrics::Metrics;
use crate::shard::Shard;
use kafscale_metastore::keys::BrokerRecord;
use serde_json::{json, Value};
use std::rc::Rc;
use std::sync::Arc;

/// Does a round, or tells what it would do.
pub async fn run(place: &Workplace, dry_run: bool, output: &mut Output) -> Result<(), ToolError> {
    let tuning = Tuning::default();
    let reconciler = Reconciler::new(idle_shard(place, tuning)?, tuning.reconcile_interval);
    let mut due = reconciler.topics_to_delete().await?;
    due.extend(reconciler.streams_to_delete(Living::AsRegistered).await?);
    let count = due.len();
    for deletion in due {
        tell_objects(place, &deletion, output).await?;
        output.line(&describe(&deletion))?;
        if !dry_run {
            reconciler.delete(deletion).await?;
        }
    }
    output.line(&json!({ "summary": "reconcile", "dry_run": dry_run, "deletions": count }))?;
    Ok(())
}

/// A shard that owns nothing and serves nobody: what ends a dead broker's stream is a shard's.
fn idle_shard(place: &Workplace, tuning: Tuning) -> Result<Rc<Shard>, ToolError> {
    let metastore = place.metastore.clone();
    let metastore = metastore.ok_or_else(|| ToolError::Refused("this needs the metastore".to_string()))?;
    let settings = Arc::new(place.settings.clone());
    let nobody = BrokerRecord {
        broker_id: settings.broker_id,
        incarnation: 0,
        host: String::new(),
        port: 0,
        rack: None,
        shards: 1,
        shard_ports: Vec::new(),
    };
    let (assembly, _) = Assembly::new(settings, tuning, nobody, String::new());
    Ok(assembly.idle_shard(place.runtime.clone(), place.store.clone(), metastore, Metrics::new(0)))
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
        Deletion::Topic { topic_id, name, folder } => {
            json!({ "delete": "topic", "topic": name, "topic_id": super::describe::hex(*topic_id), "folder": folder })
        }
        Deletion::EndStream(stream) => json!({ "end": "stream", "stream": format!("{stream:016x}") }),
        Deletion::EmptyStream { stream, end_seq, .. } => {
            json!({ "trim": "stream", "stream": format!("{stream:016x}"), "first_live_slot": end_seq })
        }
        Deletion::ForgetStream { stream, .. } => json!({ "delete": "stream", "stream": format!("{stream:016x}") }),
    }
}
