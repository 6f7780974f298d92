//! The seam to the metastore: what every implementation promises.

use bytes::Bytes;
use std::collections::BTreeSet;
use std::future::Future;
use std::pin::Pin;

/// A boxed future that stays on its shard.
pub type LocalFuture<'a, T> = Pin<Box<dyn Future<Output = T> + 'a>>;

/// A point in the metastore's history; grows by at least one with every applied write.
pub type Revision = u64;

/// Names a lease.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LeaseId(pub i64);

/// Why the metastore did not do as asked. Each kind says what is known of the outcome.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum MetastoreError {
    /// Not applied; it may be tried again.
    #[error("metastore unavailable: {0}")]
    Unavailable(String),
    /// May have been applied; read back before deciding anything.
    #[error("outcome unknown: {0}")]
    OutcomeUnknown(String),
    /// The lease has expired or never was.
    #[error("lease {0:?} is gone")]
    LeaseGone(LeaseId),
    /// History from that revision is no longer kept: list again, then watch from the list's revision.
    #[error("revision {0} was compacted")]
    Compacted(Revision),
    /// The request itself can never work (too many operations, a value too large, denied).
    #[error("metastore refused: {0}")]
    Refused(String),
}

/// A key with its value and history.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyValue {
    /// The key.
    pub key: Bytes,
    /// The value.
    pub value: Bytes,
    /// Revision that created the key (again, if it was deleted before).
    pub create_revision: Revision,
    /// Revision of its latest change.
    pub mod_revision: Revision,
    /// The lease that keeps it, if any.
    pub lease: Option<LeaseId>,
}

/// Keys in order, as of one revision.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RangePage {
    /// In ascending key order.
    pub items: Vec<KeyValue>,
    /// Whether the range holds keys beyond the last one here.
    pub more: bool,
    /// The revision that this page shows.
    pub revision: Revision,
}

/// A condition of a transaction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Compare {
    /// The key does not exist.
    Absent(Bytes),
    /// The key exists.
    Present(Bytes),
    /// The key's latest change has this revision.
    ModRevision(Bytes, Revision),
    /// The key has this value.
    Value(Bytes, Bytes),
}

/// A write of a transaction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Op {
    /// Sets a key, bound to a lease if one is named.
    Put {
        /// The key.
        key: Bytes,
        /// The new value.
        value: Bytes,
        /// The key goes when this lease does.
        lease: Option<LeaseId>,
    },
    /// Removes a key; absent is fine.
    Delete(Bytes),
}

/// All of `ops`, if all of `compares` hold; nothing otherwise. At most [`TXN_OPS_MAX`] of each; no key is written twice.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Txn {
    /// Conditions.
    pub compares: Vec<Compare>,
    /// Writes.
    pub ops: Vec<Op>,
}

impl Txn {
    /// Checks the limits that every store keeps, so that what works on one works on all.
    ///
    /// # Errors
    /// [`MetastoreError::Refused`] for too many compares or operations, too many bytes, a key written twice, or an
    /// empty key.
    pub fn check(&self) -> Result<(), MetastoreError> {
        let refused = |why: String| Err(MetastoreError::Refused(why));
        if self.compares.len() > TXN_OPS_MAX || self.ops.len() > TXN_OPS_MAX {
            return refused(format!(
                "{} compares and {} operations, {TXN_OPS_MAX} are possible",
                self.compares.len(),
                self.ops.len()
            ));
        }
        let bytes = self.ops.iter().map(Op::byte_count).sum::<usize>();
        if bytes > TXN_BYTES_MAX {
            return refused(format!("{bytes} bytes to write, {TXN_BYTES_MAX} are possible"));
        }
        let mut written = BTreeSet::new();
        for op in &self.ops {
            if op.key().is_empty() {
                return refused("an empty key".to_string());
            }
            if !written.insert(op.key()) {
                return refused(format!("key {} is written twice", op.key().escape_ascii()));
            }
        }
        Ok(())
    }
}

impl Op {
    /// The key that it writes.
    pub fn key(&self) -> &Bytes {
        match self {
            Op::Put { key, .. } | Op::Delete(key) => key,
        }
    }

    fn byte_count(&self) -> usize {
        match self {
            Op::Put { key, value, .. } => key.len() + value.len(),
            Op::Delete(key) => key.len(),
        }
    }
}

/// etcd's default limit for one transaction (`--max-txn-ops`).
pub const TXN_OPS_MAX: usize = 128;

/// Keys and values of one transaction together, in bytes: below etcd's default request limit of 1.5 MiB.
pub const TXN_BYTES_MAX: usize = 1_500_000;

/// What a transaction did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TxnOutcome {
    /// Whether the conditions held and the writes were applied.
    pub succeeded: bool,
    /// The store's revision afterwards.
    pub revision: Revision,
}

/// A change seen by a watch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum WatchEvent {
    /// The key was set.
    Put(KeyValue),
    /// The key was removed, at this revision.
    Delete {
        /// The key.
        key: Bytes,
        /// When.
        revision: Revision,
    },
}

/// Changes of a prefix, in order, none twice and none left out.
pub trait Watch {
    /// Waits for the next changes (at least one). After an error the watch is dead: list again, watch again.
    fn next(&mut self) -> LocalFuture<'_, Result<Vec<WatchEvent>, MetastoreError>>;
}

/// Strictly serialisable, durable key-value storage with transactions, watches and leases.
pub trait Metastore {
    /// Reads one key.
    fn get<'a>(&'a self, key: &'a [u8]) -> LocalFuture<'a, Result<Option<KeyValue>, MetastoreError>>;

    /// Reads keys in `start..end`, at most `limit` (at least one). For a prefix use [`prefix_end`].
    fn range<'a>(
        &'a self,
        start: &'a [u8],
        end: &'a [u8],
        limit: usize,
    ) -> LocalFuture<'a, Result<RangePage, MetastoreError>>;

    /// Applies a transaction; durable once answered.
    fn txn(&self, txn: Txn) -> LocalFuture<'_, Result<TxnOutcome, MetastoreError>>;

    /// Watches a prefix for all changes with a revision of at least `from`.
    fn watch<'a>(&'a self, prefix: &'a [u8], from: Revision)
        -> LocalFuture<'a, Result<Box<dyn Watch>, MetastoreError>>;

    /// A new lease that expires `ttl_ms` after its last renewal.
    fn lease_grant(&self, ttl_ms: u64) -> LocalFuture<'_, Result<LeaseId, MetastoreError>>;

    /// Renews a lease.
    fn lease_keep_alive(&self, lease: LeaseId) -> LocalFuture<'_, Result<(), MetastoreError>>;

    /// Ends a lease now, and its keys with it.
    fn lease_revoke(&self, lease: LeaseId) -> LocalFuture<'_, Result<(), MetastoreError>>;
}

/// The end of the range that holds exactly the keys starting with `prefix`.
pub fn prefix_end(prefix: &[u8]) -> Vec<u8> {
    let mut end = prefix.to_vec();
    while let Some(last) = end.pop() {
        if last < 0xff {
            end.push(last + 1);
            return end;
        }
    }
    vec![0xff; 64]
}
