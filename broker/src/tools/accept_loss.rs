//! `accept-loss`: an operator gives up what an object held that is missing or damaged.
//!
//! The broker refuses every partition that may have had records in such an object. This command says which offsets that
//! are, and with `--execute` puts an object into its place whose batches have those offsets and no records. Offsets stay
//! final: what is left of a partition keeps its offsets, and a lost offset is never given to another record. Where nobody
//! knows how many records were lost, the partition goes on far behind its last known offset. Of an object whose footer is
//! sound only the bad batches are given up ([`super::bad_batches`]).

use super::bad_batches;
use super::describe::hex;
use super::output::Output;
use super::{ToolError, Workplace};
use crate::shard::tail::{assemble, Damage, Lost, StreamTail};
use crate::shard::takeover::ClaimError;
use crate::shard::Shard;
use kafscale_codec::record_batch::gap_batches;
use kafscale_codec::types::TopicId;
use kafscale_metastore::keys::StreamState;
use kafscale_metastore::partitions::{load_partitions, StoredPartition};
use kafscale_metastore::streams::load_stream;
use kafscale_metastore::topics::load_topics;
use kafscale_storage_engine::object_store::StoreError;
use kafscale_storage_engine::partition_log::PartitionKey;
use kafscale_storage_engine::producer_state::ProducerState;
use kafscale_storage_engine::wal::{Kind, Run, StreamId, WalBuilder, WalHeader};
use serde_json::json;
use std::collections::{BTreeMap, HashMap};

/// Offsets that are passed over where nobody knows how many were lost: more than an object can hold of one partition.
const UNKNOWN_OFFSETS: i64 = 1 << 31;

/// A partition and the offsets of it that are given up.
struct Given {
    key: PartitionKey,
    leader_epoch: i32,
    from: i64,
    to: i64,
    is_known: bool,
}

/// Says what is lost with the object at `slot`, and accepts it if asked to.
pub async fn run(
    place: &Workplace,
    stream: u64,
    slot: u64,
    execute: bool,
    output: &mut Output,
) -> Result<(), ToolError> {
    let metastore = place.metastore()?;
    let id = StreamId(stream);
    let record = load_stream(metastore, stream).await?;
    let record = record.ok_or_else(|| ToolError::Refused(format!("there is no stream {id}")))?;
    if !matches!(record.value.state, StreamState::Sealed { .. }) {
        return Err(ToolError::Refused(format!(
            "stream {id} has not ended: its owner, broker {}, may still write it, or no broker has taken it over. Start a \
             broker and wait until its log says what is damaged",
            record.value.broker_id
        )));
    }
    let shard = place.idle_shard()?;
    let mut tails = HashMap::from([(stream, read_tail(&shard, stream).await?)]);
    let mut damaged = tails[&stream].damaged.iter();
    let covers = |damage: &&Damage| (damage.object.first_seq..=damage.object.last_seq).contains(&slot);
    let Some(damage) = damaged.find(covers).cloned() else {
        return batches(place, &shard, &tails[&stream], (id, slot), execute, output).await;
    };
    if bad_batches::resume(place, &damage.key, execute).await? {
        output.line(&json!({
            "summary": "accept-loss", "key": damage.key, "why": "a repair of its batches was interrupted, and goes on",
            "partitions": 0, "dry_run": !execute,
        }))?;
        return Ok(());
    }
    let given = given_up(place, &shard, stream, &damage, &mut tails).await?;
    let names = topic_names(place).await?;
    for partition in &given {
        let name = names.get(&partition.key.topic_id).cloned();
        output.line(&json!({
            "lose": if partition.is_known { "records" } else { "unknown" },
            "topic": name.unwrap_or_else(|| hex(partition.key.topic_id)), "partition": partition.key.partition,
            "from": partition.from, "to": partition.is_known.then_some(partition.to - 1), "goes_on_at": partition.to,
        }))?;
    }
    if execute {
        replace(place, &damage, &given).await?;
    }
    output.line(&json!({
        "summary": "accept-loss", "key": damage.key, "why": format!("it {}", damage.why), "partitions": given.len(),
        "dry_run": !execute,
    }))?;
    Ok(())
}

/// The same for bad batches of an object whose footer is sound.
async fn batches(
    place: &Workplace,
    shard: &Shard,
    tail: &StreamTail,
    (stream, slot): (StreamId, u64),
    execute: bool,
    output: &mut Output,
) -> Result<(), ToolError> {
    let mut objects = tail.runs.values().flatten().map(|(object, _)| *object);
    let object = objects.find(|object| (object.first_seq..=object.last_seq).contains(&slot));
    let key = object.map(|object| shard.object_key(object));
    let repair = match &key {
        Some(key) => bad_batches::look(place, key).await?,
        None => None,
    };
    let Some(repair) = repair else {
        return Err(ToolError::Refused(format!(
            "nothing is wrong with slot {slot} of stream {stream}: no loss to accept"
        )));
    };
    let names = topic_names(place).await?;
    let lost = repair.lost();
    for lost in &lost {
        let name = names.get(&lost.key.topic_id).cloned();
        output.line(&json!({
            "lose": "records", "topic": name.unwrap_or_else(|| hex(lost.key.topic_id)), "partition": lost.key.partition,
            "from": lost.from, "to": lost.to - 1, "goes_on_at": lost.to,
        }))?;
    }
    if execute {
        repair.execute(place).await?;
    }
    output.line(&json!({
        "summary": "accept-loss", "key": key, "why": "batches in it are damaged", "partitions": lost.len(),
        "dry_run": !execute,
    }))?;
    Ok(())
}

async fn read_tail(shard: &Shard, stream: u64) -> Result<StreamTail, ToolError> {
    let failed = |error: ClaimError| ToolError::Refused(format!("stream {stream:016x}: {error}"));
    shard.take_over(StreamId(stream)).await.map_err(failed)
}

/// Which partitions cannot be served because of this object, with the offsets that they lose.
async fn given_up(
    place: &Workplace,
    shard: &Shard,
    stream: u64,
    damage: &Damage,
    tails: &mut HashMap<u64, StreamTail>,
) -> Result<Vec<Given>, ToolError> {
    let metastore = place.metastore()?;
    let mut given = Vec::new();
    for stored in load_partitions(metastore).await?.items {
        let StoredPartition {
            topic_id,
            partition,
            record,
        } = stored;
        let record = record.value;
        let streams: Vec<u64> = record.tail_streams.iter().copied().chain([record.stream]).collect();
        if !streams.contains(&stream) {
            continue;
        }
        let mut ended = Vec::new();
        for id in streams {
            let of_stream = load_stream(metastore, id).await?;
            // The open stream of the shard that refuses the partition holds nothing of it.
            if of_stream.is_some_and(|of_stream| matches!(of_stream.value.state, StreamState::Sealed { .. })) {
                ended.push(id);
                if let std::collections::hash_map::Entry::Vacant(tail) = tails.entry(id) {
                    tail.insert(read_tail(shard, id).await?);
                }
            }
        }
        let key = PartitionKey { topic_id, partition };
        let known_end = record.epoch_starts.last().map_or(0, |(_, start)| *start);
        let tails = ended.iter().filter_map(|id| tails.get(id));
        if let Err(Lost {
            from,
            to,
            damage: Some(of),
        }) = assemble(key, record.rolled_offset, known_end, tails)
        {
            if of == *damage {
                given.push(Given {
                    key,
                    leader_epoch: record.leader_epoch,
                    from,
                    to: to.unwrap_or(from + UNKNOWN_OFFSETS),
                    is_known: to.is_some(),
                });
            }
        }
    }
    Ok(given)
}

/// Puts an object without records into the place of the one that is lost. Conditional creation decides if the lost one
/// comes back at the same moment.
async fn replace(place: &Workplace, damage: &Damage, given: &[Given]) -> Result<(), ToolError> {
    let object = damage.object;
    let mut builder = WalBuilder::new(&WalHeader {
        kind: if object.merged { Kind::Merged } else { Kind::Data },
        stream: object.stream,
        first_seq: object.first_seq,
        last_seq: object.last_seq,
        nonce: u128::from(place.runtime.random_u64()),
        vouched: object.first_seq,
    });
    for partition in given {
        let run = Run {
            topic_id: partition.key.topic_id,
            partition: partition.key.partition,
            leader_epoch: partition.leader_epoch,
            base_offset: partition.from,
            next_offset: partition.to,
            position: 0,
            length: 0,
            max_timestamp: place.runtime.wall_clock_ms(),
            crc32c: 0,
            producers: Vec::new(),
        };
        builder.push_run(run, gap_batches(partition.from, partition.to, partition.leader_epoch));
    }
    let object = builder.finish();
    place.store.delete(std::slice::from_ref(&damage.key)).await?;
    match place
        .store
        .create_summed(&damage.key, object.parts, object.crc32c)
        .await
    {
        Ok(()) => Ok(()),
        Err(StoreError::Conflict(_)) => Err(ToolError::Refused(format!(
            "{} has come back meanwhile: nothing was accepted, run the command again",
            damage.key
        ))),
        Err(error) => Err(error.into()),
    }
}

async fn topic_names(place: &Workplace) -> Result<BTreeMap<TopicId, String>, ToolError> {
    let topics = load_topics(place.metastore()?).await?.items;
    Ok(topics
        .into_iter()
        .map(|(name, topic)| (topic.value.topic_id, name))
        .collect())
}

/// Gives up what idempotent producers wrote to a partition whose snapshot is missing or damaged. Its records stay.
pub async fn producers(
    place: &Workplace,
    topic: &str,
    partition: i32,
    execute: bool,
    output: &mut Output,
) -> Result<(), ToolError> {
    let metastore = place.metastore()?;
    let topics = load_topics(metastore).await?.items;
    let found = topics.into_iter().find(|(name, _)| name == topic);
    let (_, found) = found.ok_or_else(|| ToolError::Refused(format!("there is no topic {topic}")))?;
    let topic_id = found.value.topic_id;
    let record = kafscale_metastore::partitions::load_partition(metastore, topic_id, partition).await?;
    let rolled_offset = record.map_or(0, |record| record.value.rolled_offset);
    let shard = place.idle_shard()?;
    let key = shard.producers_key(PartitionKey { topic_id, partition }, rolled_offset);
    let why = match place.store.get_range(&key, 0..u64::MAX).await {
        _ if rolled_offset == 0 => None,
        Ok(bytes) => ProducerState::decode(&bytes).err().map(|error| error.to_string()),
        Err(StoreError::NotFound(_)) => Some("it is missing".to_string()),
        Err(error) => return Err(error.into()),
    };
    let Some(why) = why else {
        return Err(ToolError::Refused(format!(
            "nothing is wrong with the producers of {topic}-{partition}: no loss to accept"
        )));
    };
    if execute {
        place.store.delete(std::slice::from_ref(&key)).await?;
        let forgotten = ProducerState::all_forgotten().encode();
        place.store.create(&key, vec![forgotten]).await?;
    }
    output.line(&json!({
        "summary": "accept-loss", "key": key, "why": why, "lose": "what idempotent producers wrote last: a batch that is \
         sent again now may be stored twice", "dry_run": !execute,
    }))?;
    Ok(())
}
