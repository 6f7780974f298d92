//! Who leads each partition and where its records are: claimed and moved on by compare-and-swap, many in one transaction.

use crate::keys::{deleted_key, partition_key, partitions_prefix, Key, PartitionRecord, PARTITIONS_PREFIX};
use crate::operation::{commit, decode_value, list, put, put_if_unchanged, read, read_all, unchanged};
use crate::operation::{Listing, OperationError, Versioned};
use crate::store::{Compare, Metastore, MetastoreError, Op, Revision, Txn, TXN_OPS_MAX};
use bytes::Bytes;
use kafscale_codec::types::TopicId;
use std::collections::BTreeSet;

/// Partitions written by one transaction at most; its compares hold one for each, and one for each of their topics.
pub const PARTITIONS_PER_TXN_MAX: usize = 100;

/// A partition with its record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredPartition {
    /// The topic.
    pub topic_id: TopicId,
    /// The partition.
    pub partition: i32,
    /// The record.
    pub record: Versioned<PartitionRecord>,
}

/// A partition's record to be written, if it is unchanged.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PartitionWrite {
    /// The topic.
    pub topic_id: TopicId,
    /// The partition.
    pub partition: i32,
    /// The revision of the record that this one replaces; `None` if there must be none.
    pub expected: Option<Revision>,
    /// The new record.
    pub record: PartitionRecord,
}

/// All partitions that were ever claimed.
///
/// # Errors
/// The metastore's. Records that cannot be decoded are named in [`Listing::unreadable`].
pub async fn load_partitions(store: &dyn Metastore) -> Result<Listing<StoredPartition>, OperationError> {
    load_prefix(store, PARTITIONS_PREFIX).await
}

/// Those of one topic.
///
/// # Errors
/// The metastore's. Records that cannot be decoded are named in [`Listing::unreadable`].
pub async fn load_topic_partitions(
    store: &dyn Metastore,
    topic_id: TopicId,
) -> Result<Listing<StoredPartition>, OperationError> {
    load_prefix(store, &partitions_prefix(topic_id)).await
}

async fn load_prefix(store: &dyn Metastore, prefix: &[u8]) -> Result<Listing<StoredPartition>, OperationError> {
    list(store, prefix, |item| match Key::parse(&item.key) {
        Some(Key::Partition(topic_id, partition)) => {
            let record = decode_value(item, PartitionRecord::decode)?;
            Ok(Some(StoredPartition {
                topic_id,
                partition,
                record,
            }))
        }
        _ => Ok(None),
    })
    .await
}

/// One partition.
///
/// # Errors
/// The metastore's, or a record that cannot be read.
pub async fn load_partition(
    store: &dyn Metastore,
    topic_id: TopicId,
    partition: i32,
) -> Result<Option<Versioned<PartitionRecord>>, OperationError> {
    read(store, &partition_key(topic_id, partition), PartitionRecord::decode).await
}

/// Replaces one partition's record, if it is still the one of this revision. Returns the new revision.
///
/// # Errors
/// [`OperationError::Conflict`] if it changed: somebody else leads now. The metastore's otherwise.
pub async fn update_partition(
    store: &dyn Metastore,
    topic_id: TopicId,
    partition: i32,
    mod_revision: Revision,
    record: &PartitionRecord,
) -> Result<Revision, OperationError> {
    put_if_unchanged(
        store,
        &partition_key(topic_id, partition),
        Some(mod_revision),
        record.encode(),
    )
    .await
}

/// Claims partitions, unless their topic was deleted. Results are in the order of `claims`: the new revision, or why
/// not ([`OperationError::Conflict`] if the record changed or the topic is gone). Any number may be given; they go in
/// few transactions, and a conflict of one fails only that one.
pub async fn claim_partitions(
    store: &dyn Metastore,
    claims: &[PartitionWrite],
) -> Vec<Result<Revision, OperationError>> {
    write_in_batches(store, claims, true).await
}

/// As [`claim_partitions`], without a look at the topic: for partitions that the caller leads.
pub async fn update_partitions(
    store: &dyn Metastore,
    updates: &[PartitionWrite],
) -> Vec<Result<Revision, OperationError>> {
    write_in_batches(store, updates, false).await
}

async fn write_in_batches(
    store: &dyn Metastore,
    writes: &[PartitionWrite],
    of_live_topics: bool,
) -> Vec<Result<Revision, OperationError>> {
    let mut results = vec![Err(OperationError::Conflict); writes.len()];
    // Ranges still to be tried, the next one last. A batch that conflicts is halved until the culprits stand alone.
    let mut pending: Vec<_> = std::iter::once(0..writes.len()).collect();
    while let Some(range) = pending.pop() {
        let batch = batch_length(&writes[range.clone()], of_live_topics);
        if batch == 0 {
            continue;
        }
        let (now, later) = (range.start..range.start + batch, range.start + batch..range.end);
        pending.push(later);
        match write_batch(store, &writes[now.clone()], of_live_topics).await {
            Err(OperationError::Conflict) if batch > 1 => {
                let middle = now.start + batch / 2;
                pending.push(middle..now.end);
                pending.push(now.start..middle);
            }
            result => results[now].fill(result),
        }
    }
    results
}

/// How many of the writes fit into one transaction.
fn batch_length(writes: &[PartitionWrite], of_live_topics: bool) -> usize {
    let mut topics = BTreeSet::new();
    let fits = writes.iter().enumerate().take_while(|(before, write)| {
        topics.insert(write.topic_id);
        let compares = before + 1 + if of_live_topics { topics.len() } else { 0 };
        *before < PARTITIONS_PER_TXN_MAX && compares <= TXN_OPS_MAX
    });
    fits.count()
}

async fn write_batch(
    store: &dyn Metastore,
    writes: &[PartitionWrite],
    of_live_topics: bool,
) -> Result<Revision, OperationError> {
    let mut txn = Txn::default();
    let mut witness: Option<(Bytes, Bytes)> = None;
    for write in writes {
        let key = partition_key(write.topic_id, write.partition);
        let value = write.record.encode();
        txn.compares.push(unchanged(&key, write.expected));
        txn.ops.push(put(&key, &value));
        witness = Some((key, value));
    }
    if of_live_topics {
        let topics: BTreeSet<_> = writes.iter().map(|write| write.topic_id).collect();
        txn.compares.extend(
            topics
                .into_iter()
                .map(|topic_id| Compare::Absent(deleted_key(topic_id))),
        );
    }
    let (Some((key, value)), Some(last)) = (witness, writes.last()) else {
        return Err(MetastoreError::Refused("no partitions given".to_string()).into());
    };
    // A record names the leader's life, shard and stream: nobody else writes the same.
    commit(store, txn, (&key, &value), last.expected).await
}

/// Removes the records of a deleted topic's partitions.
///
/// # Errors
/// The metastore's. It is safe to call again.
pub async fn remove_partitions(store: &dyn Metastore, topic_id: TopicId) -> Result<(), OperationError> {
    let all = read_all(store, &partitions_prefix(topic_id)).await?;
    for batch in all.items.chunks(PARTITIONS_PER_TXN_MAX) {
        let ops = batch.iter().map(|item| Op::Delete(item.key.clone())).collect();
        store
            .txn(Txn {
                compares: Vec::new(),
                ops,
            })
            .await?;
    }
    Ok(())
}
