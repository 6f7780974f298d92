//! `rebuild`: writes an empty metastore anew from the objects alone, for the day that etcd and its copies are lost.
//!
//! Records and their offsets come from segments and streams and are exact. Every stream is ended as by a successor, so a
//! broker that still lives somewhere gets nothing acknowledged any more. Names, settings, groups and committed offsets
//! come from the newest catalog and are as old as it is. The cluster's own record is written last: before it is there,
//! no broker starts.

mod catalog;
mod partition;
mod streams;

use super::output::Output;
use super::{ToolError, Workplace};
use bytes::Bytes;
use catalog::Catalog;
use kafscale_codec::types::TopicId;
use kafscale_metastore::keys::{
    cluster_key, counter_key, name_key, partition_key, topic_key, ClusterRecord, CountRecord, TopicRecord,
    INCARNATION_COUNTER, PRODUCER_ID_COUNTER, ROOT_PREFIX, STREAM_COUNTER,
};
use kafscale_metastore::{prefix_end, Compare, KeyValue, Metastore, Op, Txn};
use kafscale_storage_engine::partition_log::PartitionKey;
use partition::{Ended, Found};
use serde_json::json;
use std::collections::BTreeMap;

/// How far counters are moved on beyond what is known to be used: what was handed out after the last catalog was written
/// must not be handed out again.
const COUNTER_MARGIN: u64 = 1_000_000;

/// Pairs and bytes of one transaction.
const PAIRS_PER_TXN: usize = 100;
const BYTES_PER_TXN: usize = 1_000_000;

const SOMEBODY_ELSE: &str = "somebody else writes to the metastore: stop all brokers, empty it and begin again";

/// Rebuilds it, or says why not.
pub async fn run(place: &Workplace, output: &mut Output) -> Result<(), ToolError> {
    let metastore = place.metastore()?;
    let left = leftovers(metastore).await?;
    let cluster_id = cluster_id(place).await?;
    let mut catalog = catalog::load(place).await?;
    clear(metastore, left).await?;
    let shard = place.idle_shard()?;

    // What the segments tell comes first: it says which slots of the streams still count.
    let mut found: BTreeMap<PartitionKey, Found> = BTreeMap::new();
    for topic in catalog.topics.values() {
        for partition in 0..topic.partitions as i32 {
            let key = PartitionKey {
                topic_id: topic.topic_id,
                partition,
            };
            let known = catalog.partitions.get(&(topic.topic_id, partition));
            found.insert(
                key,
                partition::read_segments(place, key, &topic.folder, known, output).await?,
            );
        }
    }
    let sealed = streams::seal_all(place, &shard, &catalog, &found, output).await?;
    name_the_unknown(&mut catalog, sealed.tails.keys(), output)?;

    let mut pairs = std::mem::take(&mut catalog.others);
    for (name, topic) in &catalog.topics {
        pairs.push((topic_key(name), topic.encode()));
    }
    let mut producer_id = 0;
    let (mut partitions, mut records) = (0u64, 0);
    for topic in catalog.topics.values() {
        for partition in 0..topic.partitions as i32 {
            let key = PartitionKey {
                topic_id: topic.topic_id,
                partition,
            };
            let runs = sealed.tails.get(&key).map_or(&[][..], Vec::as_slice);
            let segments = found.get(&key).cloned().unwrap_or_default();
            let known = catalog.partitions.get(&(topic.topic_id, partition));
            producer_id = producer_id.max(segments.producer_id);
            let all = runs.iter().flat_map(|run| &run.producers);
            producer_id = all.fold(producer_id, |max, change| max.max(change.producer_id));
            let Some(Ended { record, next_offset }) = partition::record(key, &segments, runs, known, &sealed.damaged)?
            else {
                continue;
            };
            output.line(&json!({
                "partition": partition, "folder": topic.folder, "log_start_offset": record.log_start_offset,
                "rolled_offset": record.rolled_offset, "next_offset": next_offset,
                "leader_epoch": record.leader_epoch,
            }))?;
            partitions += 1;
            records += next_offset - record.log_start_offset;
            pairs.push((partition_key(key.topic_id, key.partition), record.encode()));
        }
    }
    let counted = |name: &str, used: u64| {
        let known = catalog.counters.get(name).copied().unwrap_or(0);
        let count = known.max(used) + COUNTER_MARGIN;
        (counter_key(name), CountRecord { count }.encode())
    };
    pairs.push(counted(STREAM_COUNTER, sealed.last_stream));
    pairs.push(counted(INCARNATION_COUNTER, sealed.last_incarnation));
    pairs.push(counted(PRODUCER_ID_COUNTER, producer_id.max(0) as u64));
    write(place, pairs).await?;
    write(
        place,
        vec![(
            cluster_key(),
            ClusterRecord {
                cluster_id: cluster_id.clone(),
            }
            .encode(),
        )],
    )
    .await?;
    output.line(&json!({
        "summary": "rebuild", "cluster_id": cluster_id, "catalog_ms": catalog.written_ms, "topics": catalog.topics.len(),
        "partitions": partitions, "records": records, "streams": sealed.count, "problems": output.problems(),
    }))?;
    Ok(())
}

/// What a start left that was refused because of the objects: older versions took a number and founded a cluster first.
async fn leftovers(metastore: &dyn Metastore) -> Result<Vec<KeyValue>, ToolError> {
    let known = [cluster_key(), counter_key(INCARNATION_COUNTER)];
    let limit = known.len() + 1;
    let present = metastore
        .range(ROOT_PREFIX, &prefix_end(ROOT_PREFIX), limit)
        .await?
        .items;
    match present.iter().find(|item| !known.contains(&item.key)) {
        Some(item) => {
            let key = String::from_utf8_lossy(&item.key);
            Err(ToolError::Refused(format!(
                "the metastore is not empty (there is {key}): rebuild writes only into an empty one; with etcd empty its \
                 prefix, otherwise move the directory metastore in the data directory away"
            )))
        }
        None => Ok(present),
    }
}

async fn clear(metastore: &dyn Metastore, left: Vec<KeyValue>) -> Result<(), ToolError> {
    let compares = left
        .iter()
        .map(|item| Compare::ModRevision(item.key.clone(), item.mod_revision))
        .collect();
    let ops = left.into_iter().map(|item| Op::Delete(item.key)).collect();
    match metastore.txn(Txn { compares, ops }).await?.succeeded {
        true => Ok(()),
        false => Err(ToolError::Refused(SOMEBODY_ELSE.to_string())),
    }
}

async fn cluster_id(place: &Workplace) -> Result<String, ToolError> {
    let prefix = format!("{}/_cluster/", place.namespace());
    let marks = place.store.list(&prefix, None, 2).await?.objects;
    match &marks[..] {
        [mark] => Ok(mark.key[prefix.len()..].to_string()),
        [] => Err(ToolError::Refused(format!(
            "there is no cluster here: nothing is below {prefix}"
        ))),
        _ => Err(ToolError::Refused(format!(
            "below {prefix} there are the marks of two clusters"
        ))),
    }
}

/// Topics that were created after the catalog was written: their records are there, their names are not.
fn name_the_unknown<'a>(
    catalog: &mut Catalog,
    seen: impl Iterator<Item = &'a PartitionKey>,
    output: &mut Output,
) -> Result<(), ToolError> {
    let mut unknown: BTreeMap<TopicId, u32> = BTreeMap::new();
    for key in seen {
        let known = catalog.topics.values().any(|topic| topic.topic_id == key.topic_id);
        if !known && !catalog.deleted.contains(&key.topic_id) {
            let partitions = unknown.entry(key.topic_id).or_default();
            *partitions = (*partitions).max(key.partition as u32 + 1);
        }
    }
    for (topic_id, partitions) in unknown {
        let name = format!("recovered-{}", super::describe::hex(topic_id));
        let why = "the catalog is older than this topic: its name is not known";
        output.problem("unnamed", &name, why)?;
        let topic = TopicRecord {
            topic_id,
            folder: name.clone(),
            partitions,
            configs: BTreeMap::new(),
            created_ms: catalog.written_ms,
        };
        catalog
            .others
            .push((name_key(&name), CountRecord { count: 1 }.encode()));
        catalog.topics.insert(name, topic);
    }
    Ok(())
}

/// Writes pairs whose keys must not exist.
async fn write(place: &Workplace, pairs: Vec<(Bytes, Bytes)>) -> Result<(), ToolError> {
    let mut pairs = pairs.into_iter().peekable();
    while pairs.peek().is_some() {
        let (mut txn, mut bytes) = (Txn::default(), 0);
        while let Some((key, value)) = pairs.next_if(|(key, value)| {
            txn.ops.is_empty() || (txn.ops.len() < PAIRS_PER_TXN && bytes + key.len() + value.len() <= BYTES_PER_TXN)
        }) {
            bytes += key.len() + value.len();
            txn.compares.push(Compare::Absent(key.clone()));
            txn.ops.push(Op::Put {
                key,
                value,
                lease: None,
            });
        }
        if !place.metastore()?.txn(txn).await?.succeeded {
            return Err(ToolError::Refused(SOMEBODY_ELSE.to_string()));
        }
    }
    Ok(())
}
