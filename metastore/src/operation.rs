//! What the typed operations share: their errors, paged listing, and writes whose unknown outcome is looked up.

use crate::keys::RecordError;
use crate::store::{prefix_end, Compare, KeyValue, Metastore, MetastoreError, Op, Revision, Txn};
use bytes::Bytes;

/// Keys read at once by a listing: about 100 KiB of small records.
const PAGE_KEYS: usize = 1_000;

/// Why an operation did not do as asked.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum OperationError {
    /// Somebody else changed a record that the operation depends on; nothing was applied. Read again and decide anew.
    #[error("the record changed meanwhile")]
    Conflict,
    /// The metastore failed; its error says what is known of the outcome.
    #[error(transparent)]
    Metastore(#[from] MetastoreError),
    /// What is stored cannot be read.
    #[error("record {key}: {source}")]
    Record {
        /// Its key.
        key: String,
        /// What is wrong.
        source: RecordError,
    },
}

/// A record with the revision of its latest change, which the next change compares.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Versioned<T> {
    /// The record.
    pub value: T,
    /// Its revision.
    pub mod_revision: Revision,
}

/// All records of a kind.
///
/// The pages of a long listing are read one after another, so later items may be newer than `revision`. Watch from
/// `revision + 1` and skip events that are not newer than the record at hand: then nothing is missed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listing<T> {
    /// In key order.
    pub items: Vec<T>,
    /// What was stored at this revision is in the list or was changed since.
    pub revision: Revision,
    /// Records of the kind that exist and cannot be decoded: another version wrote them, or they are damaged. Whoever
    /// concludes anything from what a listing lacks has to look here first.
    pub unreadable: Vec<Unreadable>,
}

/// A stored record that cannot be decoded.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("record {key}: {source}")]
pub struct Unreadable {
    /// Its key.
    pub key: String,
    /// What is wrong with its value.
    pub source: RecordError,
}

impl<T> Listing<T> {
    /// The listing, if every record in it could be decoded.
    ///
    /// # Errors
    /// [`OperationError::Record`] names the first one that could not.
    pub fn whole(self) -> Result<Self, OperationError> {
        match self.unreadable.into_iter().next() {
            Some(Unreadable { key, source }) => Err(OperationError::Record { key, source }),
            None => Ok(Listing {
                unreadable: Vec::new(),
                ..self
            }),
        }
    }
}

/// Reads every key of a prefix, page by page.
///
/// # Errors
/// The metastore's, from the first page that fails.
pub async fn read_all(store: &dyn Metastore, prefix: &[u8]) -> Result<Listing<KeyValue>, MetastoreError> {
    let end = prefix_end(prefix);
    let mut start = prefix.to_vec();
    let mut listing: Option<Listing<KeyValue>> = None;
    loop {
        let page = store.range(&start, &end, PAGE_KEYS).await?;
        let all = listing.get_or_insert(Listing {
            items: Vec::new(),
            revision: page.revision,
            unreadable: Vec::new(),
        });
        all.items.extend(page.items);
        match all.items.last() {
            Some(last) if page.more => {
                // The smallest key after `last`.
                start = [&last.key[..], &[0]].concat();
            }
            _ => return Ok(listing.expect("set above")),
        }
    }
}

/// Reads every record of a prefix, with `decode` for key and value. One that cannot be decoded hides no other.
pub(crate) async fn list<T>(
    store: &dyn Metastore,
    prefix: &[u8],
    decode: impl Fn(&KeyValue) -> Result<Option<T>, OperationError>,
) -> Result<Listing<T>, OperationError> {
    let all = read_all(store, prefix).await?;
    let (mut items, mut unreadable) = (Vec::with_capacity(all.items.len()), Vec::new());
    for item in &all.items {
        match decode(item) {
            Ok(found) => items.extend(found),
            Err(OperationError::Record { key, source }) => unreadable.push(Unreadable { key, source }),
            Err(error) => return Err(error),
        }
    }
    Ok(Listing {
        items,
        revision: all.revision,
        unreadable,
    })
}

/// Decodes a stored value; the error names the key.
pub(crate) fn decode_value<T>(
    item: &KeyValue,
    decode: impl Fn(&[u8]) -> Result<T, RecordError>,
) -> Result<Versioned<T>, OperationError> {
    let value = decode(&item.value).map_err(|source| OperationError::Record {
        key: String::from_utf8_lossy(&item.key).into_owned(),
        source,
    })?;
    Ok(Versioned {
        value,
        mod_revision: item.mod_revision,
    })
}

/// Reads one record.
pub(crate) async fn read<T>(
    store: &dyn Metastore,
    key: &[u8],
    decode: impl Fn(&[u8]) -> Result<T, RecordError>,
) -> Result<Option<Versioned<T>>, OperationError> {
    store
        .get(key)
        .await?
        .map(|item| decode_value(&item, decode))
        .transpose()
}

/// The condition that a key is as it was: absent, or of that revision.
pub(crate) fn unchanged(key: &Bytes, expected: Option<Revision>) -> Compare {
    match expected {
        None => Compare::Absent(key.clone()),
        Some(revision) => Compare::ModRevision(key.clone(), revision),
    }
}

pub(crate) fn put(key: &Bytes, value: &Bytes) -> Op {
    Op::Put {
        key: key.clone(),
        value: value.clone(),
        lease: None,
    }
}

/// Applies a transaction whose outcome, if unknown, shows in `witness`: a key that it changes, with the value that it
/// gives it, unlike any that another writer would. `expected` is the witness's revision before.
pub(crate) async fn commit(
    store: &dyn Metastore,
    txn: Txn,
    witness: (&Bytes, &Bytes),
    expected: Option<Revision>,
) -> Result<Revision, OperationError> {
    let why = match store.txn(txn).await {
        Ok(outcome) if outcome.succeeded => return Ok(outcome.revision),
        Ok(_) => return Err(OperationError::Conflict),
        Err(MetastoreError::OutcomeUnknown(why)) => why,
        Err(error) => return Err(error.into()),
    };
    let (key, value) = witness;
    match store.get(key).await {
        Ok(Some(now)) if now.value == value && Some(now.mod_revision) > expected => Ok(now.mod_revision),
        Ok(now) if now.as_ref().map(|now| now.mod_revision) != expected => Err(OperationError::Conflict),
        // Still as before: the transaction may yet arrive.
        Ok(_) | Err(_) => Err(MetastoreError::OutcomeUnknown(why).into()),
    }
}

/// Puts one record if its key is unchanged since `expected`.
pub(crate) async fn put_if_unchanged(
    store: &dyn Metastore,
    key: &Bytes,
    expected: Option<Revision>,
    value: Bytes,
) -> Result<Revision, OperationError> {
    let txn = Txn {
        compares: vec![unchanged(key, expected)],
        ops: vec![put(key, &value)],
    };
    commit(store, txn, (key, &value), expected).await
}

/// Deletes a key if it is unchanged since `expected`.
pub(crate) async fn delete_if_unchanged(
    store: &dyn Metastore,
    key: &Bytes,
    expected: Revision,
) -> Result<Revision, OperationError> {
    let txn = Txn {
        compares: vec![unchanged(key, Some(expected))],
        ops: vec![Op::Delete(key.clone())],
    };
    let outcome = store.txn(txn).await?;
    outcome
        .succeeded
        .then_some(outcome.revision)
        .ok_or(OperationError::Conflict)
}

#[cfg(test)]
mod tests;
