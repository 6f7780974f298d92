//! Stored things as JSON.

use super::segments::{SegmentFacts, SegmentName};
use kafscale_codec::types::TopicId;
use kafscale_metastore::keys::*;
use kafscale_metastore::KeyValue;
use kafscale_storage_engine::segment::Times;
use kafscale_storage_engine::wal::{Kind, Run, WalHeader};
use serde_json::{json, Value};

/// A topic id as it stands in keys.
pub fn hex(topic_id: TopicId) -> String {
    topic_id.0.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// A write-ahead object.
pub fn wal(key: &str, size: u64, header: &WalHeader, runs: &[Run]) -> Value {
    let kind = match header.kind {
        Kind::Data => "data",
        Kind::Fence => "fence",
        Kind::Merged => "merged",
    };
    json!({
        "key": key, "size": size, "kind": kind, "stream": header.stream.to_string(),
        "first_slot": header.first_seq, "last_slot": header.last_seq, "nonce": format!("{:032x}", header.nonce),
        "runs": runs.iter().map(run).collect::<Vec<_>>(),
    })
}

fn run(run: &Run) -> Value {
    json!({
        "topic_id": hex(run.topic_id), "partition": run.partition, "leader_epoch": run.leader_epoch,
        "base_offset": run.base_offset, "next_offset": run.next_offset, "position": run.position,
        "length": run.length, "max_timestamp": run.max_timestamp, "crc32c": format!("{:08x}", run.crc32c),
        "producer_changes": run.producers.len(),
    })
}

/// A segment.
pub fn segment(name: &SegmentName, facts: &SegmentFacts) -> Value {
    json!({
        "folder": name.folder, "partition": name.partition, "base_offset": name.base_offset,
        "last_offset": facts.next_offset.map(|next| next - 1), "records": facts.records, "bytes": facts.bytes,
        "created_ms": facts.created_ms, "crc_ok": facts.crc_ok, "index_entries": facts.index_entries,
        "times": facts.times.as_ref().map(times),
        "problems": facts.problems.iter().map(|(key, why)| json!({ "at": key, "why": why })).collect::<Vec<_>>(),
    })
}

/// A segment's time sidecar.
pub fn times(times: &Times) -> Value {
    json!({
        "min_timestamp": times.min_timestamp, "max_timestamp": times.max_timestamp,
        "base_offset": times.base_offset, "last_offset": times.next_offset - 1,
    })
}

/// A key of the metastore with its value.
pub fn key_value(item: &KeyValue) -> Value {
    let key = String::from_utf8_lossy(&item.key);
    let (kind, value) = match Key::parse(&item.key) {
        Some(parsed) => record(&parsed, &item.value),
        None => ("unknown", Err("no key of this version".to_string())),
    };
    let mut described = json!({ "key": key, "kind": kind, "mod_revision": item.mod_revision });
    match value {
        Ok(value) => described["value"] = value,
        Err(error) => {
            described["error"] = json!(error);
            described["bytes"] = json!(item.value.escape_ascii().to_string());
        }
    }
    described
}

fn record(key: &Key, bytes: &[u8]) -> (&'static str, Result<Value, String>) {
    let (kind, value) = match key {
        Key::Cluster => (
            "cluster",
            ClusterRecord::decode(bytes).map(|r| json!({ "cluster_id": r.cluster_id })),
        ),
        Key::Broker(_) => ("broker", BrokerRecord::decode(bytes).map(broker)),
        Key::Start(_) => (
            "start",
            StartRecord::decode(bytes).map(|r| json!({ "incarnation": r.incarnation, "started_ms": r.started_ms })),
        ),
        Key::Counter(_) => (
            "counter",
            CountRecord::decode(bytes).map(|r| json!({ "count": r.count })),
        ),
        Key::Name(_) => ("name", CountRecord::decode(bytes).map(|r| json!({ "count": r.count }))),
        Key::Topic(_) => ("topic", TopicRecord::decode(bytes).map(topic)),
        Key::GroupConfig(_) => (
            "group config",
            GroupConfigRecord::decode(bytes).map(|r| json!({ "configs": r.configs })),
        ),
        Key::Partition(..) => ("partition", PartitionRecord::decode(bytes).map(partition)),
        Key::Stream(_) => ("stream", StreamRecord::decode(bytes).map(stream)),
        Key::Deleted(_) => ("deleted", DeletedTopicRecord::decode(bytes).map(deleted)),
        Key::Offset { .. } => ("offset", OffsetRecord::decode(bytes).map(offset)),
        // The group coordinator's own; their bytes are shown.
        Key::Group(_) => return ("group", Ok(json!(bytes.escape_ascii().to_string()))),
        Key::Coordinator(_) => return ("coordinator", Ok(json!(bytes.escape_ascii().to_string()))),
    };
    (kind, value.map_err(|error| error.to_string()))
}

fn broker(record: BrokerRecord) -> Value {
    json!({
        "broker_id": record.broker_id, "incarnation": record.incarnation, "host": record.host, "port": record.port,
        "rack": record.rack, "shards": record.shards, "shard_ports": record.shard_ports,
    })
}

fn topic(record: TopicRecord) -> Value {
    json!({
        "topic_id": hex(record.topic_id), "folder": record.folder, "partitions": record.partitions,
        "configs": record.configs, "created_ms": record.created_ms,
    })
}

fn partition(record: PartitionRecord) -> Value {
    json!({
        "leader": record.leader, "leader_incarnation": record.leader_incarnation, "shard": record.shard,
        "leader_epoch": record.leader_epoch, "stream": format!("{:016x}", record.stream),
        "log_start_offset": record.log_start_offset, "rolled_offset": record.rolled_offset,
        "tail_streams": record.tail_streams.iter().map(|id| format!("{id:016x}")).collect::<Vec<_>>(),
        "epoch_starts": record.epoch_starts,
    })
}

fn stream(record: StreamRecord) -> Value {
    let (state, end_seq, sealed_ms) = match record.state {
        StreamState::Open => ("open", None, None),
        StreamState::Sealing => ("sealing", None, None),
        StreamState::Sealed { end_seq, sealed_ms } => ("sealed", Some(end_seq), Some(sealed_ms)),
    };
    let merged = |object: &MergedObject| json!({ "first": object.first, "last": object.last, "level": object.level });
    json!({
        "broker_id": record.broker_id, "incarnation": record.incarnation, "shard": record.shard, "state": state,
        "end_slot": end_seq, "sealed_ms": sealed_ms, "first_live_slot": record.first_live_seq,
        "merged": record.merged.iter().map(merged).collect::<Vec<_>>(),
    })
}

fn deleted(record: DeletedTopicRecord) -> Value {
    json!({
        "name": record.name, "folder": record.folder, "partitions": record.partitions, "deleted_ms": record.deleted_ms,
    })
}

fn offset(record: OffsetRecord) -> Value {
    json!({
        "offset": record.offset, "leader_epoch": record.leader_epoch, "metadata": record.metadata,
        "commit_ms": record.commit_ms, "expire_ms": record.expire_ms,
    })
}
