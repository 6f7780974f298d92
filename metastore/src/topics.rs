//! Topics: created where no topic of the name exists, and remembered as deleted until their objects are gone.

use crate::keys::{deleted_key, name_key, topic_key, CountRecord, DeletedTopicRecord, Key, TopicRecord};
use crate::keys::{DELETED_PREFIX, TOPICS_PREFIX};
use crate::operation::{commit, decode_value, list, put, put_if_unchanged, read, unchanged};
use crate::operation::{Listing, OperationError, Versioned};
use crate::store::{Metastore, Op, Revision, Txn};
use kafscale_codec::types::TopicId;
use std::collections::BTreeMap;

/// Attempts to create a topic whose name others create and delete at the same time.
const ATTEMPTS_MAX: usize = 16;

/// Folders of the object store that hold the write-ahead objects and the producer snapshots of all topics, the
/// cluster's marker and its catalog. All are legal names of topics.
const RESERVED_FOLDERS: [&str; 4] = ["_wal", "_producers", "_cluster", "_catalog"];

/// A topic to be created.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewTopic {
    /// Its name, which must be legal.
    pub name: String,
    /// Its identity: random, so that it is like no other's.
    pub topic_id: TopicId,
    /// How many partitions it has.
    pub partitions: u32,
    /// What is set on it, by Kafka's names.
    pub configs: BTreeMap<String, String>,
    /// Now, in milliseconds since the Unix epoch.
    pub created_ms: i64,
}

/// All topics with their names.
///
/// # Errors
/// The metastore's. Records that cannot be decoded are named in [`Listing::unreadable`].
pub async fn load_topics(store: &dyn Metastore) -> Result<Listing<(String, Versioned<TopicRecord>)>, OperationError> {
    list(store, TOPICS_PREFIX, |item| match Key::parse(&item.key) {
        Some(Key::Topic(name)) => Ok(Some((name, decode_value(item, TopicRecord::decode)?))),
        _ => Ok(None),
    })
    .await
}

/// One topic.
///
/// # Errors
/// The metastore's, or a record that cannot be read.
pub async fn load_topic(store: &dyn Metastore, name: &str) -> Result<Option<Versioned<TopicRecord>>, OperationError> {
    read(store, &topic_key(name), TopicRecord::decode).await
}

/// Topics that were deleted and not yet forgotten.
///
/// # Errors
/// The metastore's. Records that cannot be decoded are named in [`Listing::unreadable`].
pub async fn load_deleted_topics(
    store: &dyn Metastore,
) -> Result<Listing<(TopicId, Versioned<DeletedTopicRecord>)>, OperationError> {
    list(store, DELETED_PREFIX, |item| match Key::parse(&item.key) {
        Some(Key::Deleted(topic_id)) => Ok(Some((topic_id, decode_value(item, DeletedTopicRecord::decode)?))),
        _ => Ok(None),
    })
    .await
}

/// Creates a topic, in a folder that no topic of its name had before.
///
/// # Errors
/// [`OperationError::Conflict`] if a topic of this name exists; the metastore's otherwise. It is safe to call again
/// with the same topic id: a topic that has it is the result.
pub async fn create_topic(store: &dyn Metastore, topic: &NewTopic) -> Result<Versioned<TopicRecord>, OperationError> {
    let (topic_key, name_key) = (topic_key(&topic.name), name_key(&topic.name));
    for _ in 0..ATTEMPTS_MAX {
        if let Some(found) = load_topic(store, &topic.name).await? {
            let is_ours = found.value.topic_id == topic.topic_id;
            return is_ours.then_some(found).ok_or(OperationError::Conflict);
        }
        let earlier = read(store, &name_key, CountRecord::decode).await?;
        let count = earlier.as_ref().map_or(0, |earlier| earlier.value.count) + 1;
        let record = TopicRecord {
            topic_id: topic.topic_id,
            folder: folder(&topic.name, count),
            partitions: topic.partitions,
            configs: topic.configs.clone(),
            created_ms: topic.created_ms,
        };
        let value = record.encode();
        let names_unchanged = unchanged(&name_key, earlier.map(|earlier| earlier.mod_revision));
        let txn = Txn {
            compares: vec![unchanged(&topic_key, None), names_unchanged],
            ops: vec![put(&topic_key, &value), put(&name_key, &CountRecord { count }.encode())],
        };
        match commit(store, txn, (&topic_key, &value), None).await {
            Ok(mod_revision) => {
                return Ok(Versioned {
                    value: record,
                    mod_revision,
                })
            }
            Err(OperationError::Conflict) => {}
            Err(error) => return Err(error),
        }
    }
    Err(OperationError::Conflict)
}

/// The `count`th topic of a name must not meet late objects of the ones before it; `~` is in no topic's name. Nor may
/// any topic have a folder of the broker's own: what is below a deleted topic's folder is deleted.
fn folder(name: &str, count: u64) -> String {
    match count {
        0 | 1 if !RESERVED_FOLDERS.contains(&name) => name.to_string(),
        _ => format!("{name}~{count}"),
    }
}

/// Changes a topic (more partitions, other configs), if it is still the one of this revision.
///
/// # Errors
/// [`OperationError::Conflict`] if it changed or was deleted; the metastore's otherwise.
pub async fn update_topic(
    store: &dyn Metastore,
    name: &str,
    mod_revision: Revision,
    record: &TopicRecord,
) -> Result<Revision, OperationError> {
    put_if_unchanged(store, &topic_key(name), Some(mod_revision), record.encode()).await
}

/// Deletes a topic, if it is still the one given. Its partitions' records stay until
/// [`crate::partitions::remove_partitions`].
///
/// # Errors
/// [`OperationError::Conflict`] if it changed or was deleted; the metastore's otherwise.
pub async fn delete_topic(
    store: &dyn Metastore,
    name: &str,
    topic: &Versioned<TopicRecord>,
    deleted_ms: i64,
) -> Result<Revision, OperationError> {
    let (topic_key, deleted_key) = (topic_key(name), deleted_key(topic.value.topic_id));
    let value = DeletedTopicRecord {
        name: name.to_string(),
        folder: topic.value.folder.clone(),
        partitions: topic.value.partitions,
        deleted_ms,
    }
    .encode();
    let txn = Txn {
        compares: vec![unchanged(&topic_key, Some(topic.mod_revision))],
        ops: vec![Op::Delete(topic_key), put(&deleted_key, &value)],
    };
    commit(store, txn, (&deleted_key, &value), None).await
}

/// Records that a deleted topic's objects and its partitions' records are gone. The record stays, so that brokers which
/// were away learn of the deletion from it.
///
/// # Errors
/// [`OperationError::Conflict`] if the record changed; the metastore's otherwise.
pub async fn empty_deleted_topic(
    store: &dyn Metastore,
    topic_id: TopicId,
    deleted: &Versioned<DeletedTopicRecord>,
) -> Result<Revision, OperationError> {
    let value = DeletedTopicRecord {
        partitions: 0,
        ..deleted.value.clone()
    };
    put_if_unchanged(
        store,
        &deleted_key(topic_id),
        Some(deleted.mod_revision),
        value.encode(),
    )
    .await
}

/// Forgets a deleted topic: nobody can still hold anything of it. Absent is fine.
///
/// # Errors
/// The metastore's.
pub async fn forget_deleted_topic(store: &dyn Metastore, topic_id: TopicId) -> Result<Revision, OperationError> {
    let txn = Txn {
        compares: Vec::new(),
        ops: vec![Op::Delete(deleted_key(topic_id))],
    };
    Ok(store.txn(txn).await?.revision)
}
