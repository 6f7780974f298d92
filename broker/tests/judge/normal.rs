//! What cannot be equal on two brokers is made equal here, and nowhere else.

use super::side::Names;
use super::tree::{tree, Tree};
use bytes::Bytes;
use kafscale_codec::messages::FetchResponse;
use kafscale_codec::record_batch;
use std::any::Any;
use std::collections::BTreeMap;
use std::fmt::Debug;

/// Fields that say where or when something is: only whether they are set is compared.
const PLACES_AND_TIMES: &[&str] = &[
    "host",
    "port",
    "node_id",
    "broker_id",
    "leader_id",
    "leader",
    "controller_id",
    "cluster_id",
    "leader_epoch",
    "committed_leader_epoch",
    "producer_id",
    "log_append_time_ms",
    "session_id",
    "last_timestamp",
    "client_host",
    "log_dir",
    "total_bytes",
    "usable_bytes",
    "base_offset",
];

/// Fields that are not compared: texts for people, pacing, and the replica sets of a broker without replicas.
const NOT_COMPARED: &[&str] = &[
    "throttle_time_ms",
    "error_message",
    "documentation",
    "batch_index_error_message",
    "replica_nodes",
    "isr_nodes",
    "offline_replicas",
    "eligible_leader_replicas",
    "last_known_elr",
    "brokers",
    "rack",
    "heartbeat_interval_ms",
    "partition_size",
    "node_endpoints",
    "finalized_features_epoch",
];

/// Ids of members, made by the broker or by the client.
const MEMBER_IDS: &[&str] = &["member_id"];

/// A response in comparable form.
pub fn normal<M: Debug + Any>(mut response: M, names: &Names) -> Tree {
    let mut batches = Vec::new();
    if let Some(fetch) = (&mut response as &mut dyn Any).downcast_mut::<FetchResponse>() {
        batches = take_batches(fetch);
    }
    let mut found = tree(&response);
    let mut next = batches.into_iter();
    put_batches(&mut found, &mut next);
    normal_value("", found, names)
}

/// Takes the records out of a response, in the order of its partitions, as text.
fn take_batches(fetch: &mut FetchResponse) -> Vec<Vec<String>> {
    let partitions = fetch.responses.iter_mut().flat_map(|topic| &mut topic.partitions);
    partitions
        .map(|partition| {
            let records = partition.records.take().map(|records| records.0.concat());
            described(&records.map(Bytes::from).unwrap_or_default())
        })
        .collect()
}

fn put_batches(found: &mut Tree, batches: &mut impl Iterator<Item = Vec<String>>) {
    match found {
        Tree::Struct(fields) if fields.contains_key("high_watermark") => {
            let batches = batches.next().expect("one list for each partition");
            fields.insert(
                "records".into(),
                Tree::List(batches.into_iter().map(Tree::Atom).collect()),
            );
        }
        Tree::Struct(fields) => fields.values_mut().for_each(|field| put_batches(field, batches)),
        Tree::List(items) => items.iter_mut().for_each(|item| put_batches(item, batches)),
        Tree::Atom(_) => {}
    }
}

/// Batches as text: all of the header that producers decide, and the records. A batch cut short ends the list.
fn described(bytes: &[u8]) -> Vec<String> {
    let mut out = Vec::new();
    for batch in record_batch::iter_batches(bytes) {
        let Ok((header, batch)) = batch else {
            break;
        };
        let records = match record_batch::records(batch) {
            Ok(records) => format!("{records:?}"),
            Err(error) => format!("{error:?}"),
        };
        out.push(format!(
            "batch at {} of {} attributes {:#x} times {}..{} sequence {} producer {} records {records}",
            header.base_offset,
            header.record_count,
            header.attributes,
            header.base_timestamp,
            header.max_timestamp,
            header.base_sequence,
            header.producer_id >= 0,
        ));
    }
    out
}

fn normal_value(name: &str, value: Tree, names: &Names) -> Tree {
    match value {
        Tree::Struct(fields) => Tree::Struct(normal_fields(fields, names)),
        Tree::List(items) => {
            let mut items: Vec<Tree> = items.into_iter().map(|item| normal_value(name, item, names)).collect();
            // Kafka's order is that of its hash tables. Batches keep theirs.
            if name != "records" {
                items.sort_by_cached_key(identity);
            }
            if name == "responses" {
                items = merged(items);
            }
            Tree::List(items)
        }
        Tree::Atom(text) => Tree::Atom(normal_atom(name, text, names)),
    }
}

/// Entries of one topic as one: Kafka's Fetch answers partitions that failed before the others.
fn merged(items: Vec<Tree>) -> Vec<Tree> {
    let mut merged: Vec<Tree> = Vec::new();
    for item in items {
        if let (Some(Tree::Struct(last)), Tree::Struct(fields)) = (merged.last_mut(), &item) {
            let same = last.get("topic") == fields.get("topic") && last.get("topic_id") == fields.get("topic_id");
            if let (true, Some(Tree::List(known)), Some(Tree::List(more))) =
                (same, last.get_mut("partitions"), fields.get("partitions"))
            {
                known.extend(more.iter().cloned());
                known.sort_by_cached_key(identity);
                continue;
            }
        }
        merged.push(item);
    }
    merged
}

/// What an item is about, whatever is said of it: items of both sides are paired by that.
fn identity(item: &Tree) -> String {
    const IDENTITY: &[&str] = &[
        "api_key",
        "name",
        "topic",
        "topic_name",
        "topic_id",
        "group_id",
        "key",
        "resource_type",
        "resource_name",
        "partition_index",
        "partition",
        "index",
        "member_id",
        "source",
    ];
    match item {
        Tree::Struct(fields) => {
            let values = IDENTITY.iter().map(|name| fields.get(*name));
            values.map(|value| format!("{value:?}")).collect()
        }
        other => format!("{other:?}"),
    }
}

fn normal_fields(fields: BTreeMap<String, Tree>, names: &Names) -> BTreeMap<String, Tree> {
    let kept = fields
        .into_iter()
        .filter(|(name, _)| !NOT_COMPARED.contains(&name.as_str()));
    kept.map(|(name, value)| {
        let value = normal_value(&name, value, names);
        (name, value)
    })
    .collect()
}

fn normal_atom(name: &str, text: String, names: &Names) -> String {
    if PLACES_AND_TIMES.contains(&name) {
        return if ["-1", "0", "None", "\"\""].contains(&text.as_str())
            && !["leader_epoch", "node_id", "leader_id"].contains(&name)
            || text == "-1"
        {
            text
        } else {
            format!("<{name}>")
        };
    }
    if name == "topic_id" {
        return match names.topics.iter().find(|(_, id)| id.to_string() == text) {
            Some((topic, _)) => format!("<id of {topic}>"),
            None if text.chars().all(|letter| letter == 'A') => "none".into(),
            None => "<another id>".into(),
        };
    }
    if MEMBER_IDS.contains(&name) || name == "members" || name == "leader" {
        return match names.texts.iter().find(|(_, id)| format!("{id:?}") == text) {
            Some((alias, _)) => format!("<{alias}>"),
            None if text == "\"\"" || text == "None" => text,
            None => "<another member>".into(),
        };
    }
    text
}

/// Where two values are not the same: field, Kafka's value, ours.
pub fn differ(path: &str, kafka: &Tree, ours: &Tree, found: &mut Vec<(String, String, String)>) {
    let below = |name: &str| {
        if path.is_empty() {
            name.to_string()
        } else {
            format!("{path}.{name}")
        }
    };
    match (kafka, ours) {
        (Tree::Struct(theirs), Tree::Struct(own)) => {
            for (name, value) in theirs {
                match own.get(name) {
                    Some(own) => differ(&below(name), value, own, found),
                    None => found.push((below(name), text(value), "absent".into())),
                }
            }
        }
        (Tree::List(theirs), Tree::List(own)) if theirs.len() != own.len() && lists_internal(theirs, own) => {
            let both = |item: &&Tree| !is_internal(item) || own.contains(item);
            let theirs = theirs.iter().filter(both).cloned().collect();
            differ(path, &Tree::List(theirs), ours, found);
        }
        (Tree::List(theirs), Tree::List(own)) if theirs.len() == own.len() => {
            for (theirs, own) in theirs.iter().zip(own) {
                differ(&of_item(path, theirs), theirs, own, found);
            }
        }
        _ if kafka == ours => {}
        _ => found.push((path.to_string(), text(kafka), text(ours))),
    }
}

/// The path of an item: settings are told apart by their names.
fn of_item(path: &str, item: &Tree) -> String {
    match item {
        Tree::Struct(fields) if path.ends_with("configs") => match fields.get("name") {
            Some(Tree::Atom(name)) => format!("{path}[{}]", name.trim_matches('"')),
            _ => path.to_string(),
        },
        _ => path.to_string(),
    }
}

/// Topics that Kafka keeps for itself, and lists where it lists all.
const INTERNAL: &[&str] = &["__consumer_offsets", "__transaction_state", "__share_group_state"];

/// Whether this is a topic of Kafka's own. The same holds for a group that nobody has joined yet: Kafka lists it once
/// something else was written where its offsets would be.
fn is_internal(item: &Tree) -> bool {
    let Tree::Struct(fields) = item else { return false };
    let text = |field| match fields.get(field) {
        Some(Tree::Atom(text)) => text.trim_matches('"'),
        _ => "absent",
    };
    INTERNAL.contains(&text("name")) || INTERNAL.contains(&text("topic")) || text("protocol_type").is_empty()
}

/// Whether Kafka lists something of its own that this broker does not have.
fn lists_internal(theirs: &[Tree], own: &[Tree]) -> bool {
    theirs.iter().any(|item| is_internal(item) && !own.contains(item))
}

/// A value in one line.
fn text(value: &Tree) -> String {
    match value {
        Tree::Atom(text) => text.clone(),
        Tree::List(items) => format!(
            "{} items [{}]",
            items.len(),
            items.iter().map(text).collect::<Vec<_>>().join("; ")
        ),
        Tree::Struct(fields) => {
            let fields: Vec<String> = fields
                .iter()
                .map(|(name, value)| format!("{name}={}", text(value)))
                .collect();
            fields.join(" ")
        }
    }
}
