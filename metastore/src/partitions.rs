//! Who leads each partition and where its records are: claimed many in one transaction, then changed one by one, always
//! compared with what the writer knows.

use crate::keys::{
    broker_key, deleted_key, partition_key, partitions_prefix, stream_key, BrokerRecord, Key, PartitionRecord,
    PARTITIONS_PREFIX,
};
use crate::operation::{commit, decode_value, list, put, put_if_unchanged, read, read_all, unchanged};
use crate::operation::{Listing, OperationError, Versioned};
use crate::planted;
use crate::store::{Compare, Metastore, MetastoreError, Op, Revision, Txn, TXN_OPS_MAX};
use bytes::Bytes;
use kafscale_codec::types::TopicId;
use std::collections::BTreeSet;

/// Partitions removed by one transaction.
const PARTITIONS_PER_TXN_MAX: usize = 100;

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
    list(store, PARTITIONS_PREFIX, |item| match Key::parse(&item.key) {
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

/// A claim of partitions, all in one transaction, and what it relies on.
#[derive(Debug, Clone)]
pub struct Claim<'a> {
    /// The claimer's registration, and the one that each former owner's id has now, or that it has none. While an owner is
    /// registered nobody takes anything over from it, however old the claimer's picture of the cluster is.
    pub brokers: &'a [(i32, Option<BrokerRecord>)],
    /// The stream that the claimed partitions will append to, with the revision at which it was seen open. A successor may
    /// have ended it meanwhile, and it may even be forgotten.
    pub stream: (u64, Revision),
    /// The new records.
    pub writes: &'a [PartitionWrite],
}

/// Claims partitions if everything is as the claim says and no topic of them was deleted. Returns the revision of their
/// records.
///
/// # Errors
/// [`OperationError::Conflict`] if anything has changed: nothing is claimed. The metastore's otherwise.
pub async fn claim_partitions(store: &dyn Metastore, claim: &Claim<'_>) -> Result<Revision, OperationError> {
    let mut txn = Txn::default();
    let mut witness: Option<(Bytes, Bytes)> = None;
    for write in claim.writes {
        let key = partition_key(write.topic_id, write.partition);
        let value = write.record.encode();
        txn.compares.push(unchanged(&key, write.expected));
        txn.ops.push(put(&key, &value));
        witness = Some((key, value));
    }
    txn.compares
        .extend(claim.brokers.iter().map(|(id, pictured)| match pictured {
            Some(broker) => Compare::Value(broker_key(*id), broker.encode()),
            None => Compare::Absent(broker_key(*id)),
        }));
    let topics: BTreeSet<_> = claim.writes.iter().map(|write| write.topic_id).collect();
    txn.compares
        .extend(topics.into_iter().map(deleted_key).map(Compare::Absent));
    if !planted::stream_is_ignored() {
        let (stream, revision) = claim.stream;
        txn.compares.push(Compare::ModRevision(stream_key(stream), revision));
    }
    let (Some((key, value)), Some(last)) = (witness, claim.writes.last()) else {
        return Err(MetastoreError::Refused("no partitions given".to_string()).into());
    };
    // A record names the leader's life, shard and stream: nobody else writes the same.
    commit(store, txn, (&key, &value), last.expected).await
}

/// How many of these partitions, each with its topic and its former owner, one claim can take: it compares something for
/// each partition, each topic and each former owner, for the claimer and for its stream.
pub fn claim_length(partitions: impl Iterator<Item = (TopicId, Option<i32>)>) -> usize {
    let (mut topics, mut owners) = (BTreeSet::new(), BTreeSet::new());
    let fits = partitions.enumerate().take_while(|(before, (topic_id, owner))| {
        topics.insert(*topic_id);
        owners.extend(*owner);
        before + 1 + topics.len() + owners.len() + 2 <= TXN_OPS_MAX
    });
    fits.count()
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
