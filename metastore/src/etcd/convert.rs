//! Between the seam's words and etcd's. Keys get the cluster's prefix here, and lose it here.

use crate::store::{prefix_end, Compare, KeyValue, LeaseId, MetastoreError, Op, Revision, Txn, WatchEvent};
use bytes::Bytes;
use etcd_client::{Compare as EtcdCompare, CompareOp, Event, EventType, PutOptions, Txn as EtcdTxn, TxnOp};

/// The smallest key, and as an end "everything": etcd takes no empty key.
const SMALLEST_KEY: &[u8] = &[0];

/// Puts the prefix before keys, and takes it off.
#[derive(Debug, Clone)]
pub(super) struct Keys {
    prefix: Vec<u8>,
}

impl Keys {
    pub fn new(prefix: Vec<u8>) -> Self {
        Keys { prefix }
    }

    /// The key as etcd has it; `None` for the empty key, which etcd does not know.
    pub fn stored(&self, key: &[u8]) -> Option<Vec<u8>> {
        Some([&self.prefix, key].concat()).filter(|key| !key.is_empty())
    }

    /// Start and end of a range as etcd wants them; `None` if nothing can be in it.
    pub fn range(&self, start: &[u8], end: &[u8]) -> Option<(Vec<u8>, Vec<u8>)> {
        if start >= end {
            return None;
        }
        let start = self.stored(start).unwrap_or_else(|| SMALLEST_KEY.to_vec());
        let end = self.stored(end).expect("the end is greater than the start");
        // A key of one zero byte as the end is etcd's word for "everything"; below it lies the empty key alone.
        (start < end).then_some((start, end))
    }

    /// Start and end of all keys with a prefix.
    pub fn all_of(&self, prefix: &[u8]) -> (Vec<u8>, Vec<u8>) {
        match self.stored(prefix) {
            Some(start) => {
                let end = prefix_end(&start);
                (start, end)
            }
            None => (SMALLEST_KEY.to_vec(), SMALLEST_KEY.to_vec()),
        }
    }

    fn bare(&self, key: &[u8]) -> Result<Bytes, MetastoreError> {
        key.strip_prefix(&self.prefix[..])
            .map(Bytes::copy_from_slice)
            .ok_or_else(|| MetastoreError::Unavailable(format!("etcd tells of key {}", key.escape_ascii())))
    }

    pub fn key_value(&self, item: &etcd_client::KeyValue) -> Result<KeyValue, MetastoreError> {
        Ok(KeyValue {
            key: self.bare(item.key())?,
            value: Bytes::copy_from_slice(item.value()),
            create_revision: revision(item.create_revision())?,
            mod_revision: revision(item.mod_revision())?,
            lease: Some(LeaseId(item.lease())).filter(|lease| lease.0 != 0),
        })
    }

    pub fn event(&self, event: &Event) -> Result<WatchEvent, MetastoreError> {
        let item = event
            .kv()
            .ok_or_else(|| MetastoreError::Unavailable("etcd tells of a change of nothing".to_string()))?;
        Ok(match event.event_type() {
            EventType::Put => WatchEvent::Put(self.key_value(item)?),
            EventType::Delete => WatchEvent::Delete {
                key: self.bare(item.key())?,
                revision: revision(item.mod_revision())?,
            },
        })
    }

    pub fn txn(&self, txn: &Txn) -> EtcdTxn {
        let compares: Vec<_> = txn.compares.iter().map(|compare| self.compare(compare)).collect();
        let ops: Vec<_> = txn.ops.iter().map(|op| self.op(op)).collect();
        EtcdTxn::new().when(compares).and_then(ops)
    }

    fn compare(&self, compare: &Compare) -> EtcdCompare {
        let stored = |key: &Bytes| [&self.prefix, &key[..]].concat();
        match compare {
            Compare::Absent(key) => EtcdCompare::create_revision(stored(key), CompareOp::Equal, 0),
            Compare::Present(key) => EtcdCompare::create_revision(stored(key), CompareOp::Greater, 0),
            // To etcd an absent key has revision 0, to us it has none: so this must never hold.
            Compare::ModRevision(key, 0) => EtcdCompare::mod_revision(stored(key), CompareOp::Less, 0),
            Compare::ModRevision(key, revision) => {
                EtcdCompare::mod_revision(stored(key), CompareOp::Equal, etcd_revision(*revision))
            }
            Compare::Value(key, value) => EtcdCompare::value(stored(key), CompareOp::Equal, value.to_vec()),
        }
    }

    fn op(&self, op: &Op) -> TxnOp {
        let stored = |key: &Bytes| [&self.prefix, &key[..]].concat();
        match op {
            Op::Put { key, value, lease } => {
                let options = lease.map(|lease| PutOptions::new().with_lease(lease.0));
                TxnOp::put(stored(key), value.to_vec(), options)
            }
            Op::Delete(key) => TxnOp::delete(stored(key), None),
        }
    }
}

/// Our revisions as etcd's; what is beyond its range is never reached.
pub(super) fn etcd_revision(revision: Revision) -> i64 {
    i64::try_from(revision).unwrap_or(i64::MAX)
}

/// etcd's revisions as ours.
pub(super) fn revision(revision: i64) -> Result<Revision, MetastoreError> {
    Revision::try_from(revision).map_err(|_| MetastoreError::Unavailable(format!("etcd tells of revision {revision}")))
}

/// Lease times as etcd counts them: whole seconds, at least one, never less than asked for.
pub(super) fn ttl_seconds(ttl_ms: u64) -> i64 {
    i64::try_from(ttl_ms.div_ceil(1_000).max(1)).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn leases_are_never_shorter_than_asked_for() {
        let asked = [0, 1, 999, 1_000, 1_001, 10_000];
        assert_eq!(asked.map(ttl_seconds), [1, 1, 1, 1, 2, 10]);
    }

    #[test]
    fn a_prefix_comes_before_every_key_and_goes_again() {
        let keys = Keys::new(b"one/".to_vec());
        assert_eq!(keys.stored(b"").unwrap(), b"one/");
        assert_eq!(keys.range(b"a", b"b"), Some((b"one/a".to_vec(), b"one/b".to_vec())));
        assert_eq!(keys.all_of(b""), (b"one/".to_vec(), b"one0".to_vec()));
        assert_eq!(keys.bare(b"one/a"), Ok(Bytes::from_static(b"a")));
        assert!(keys.bare(b"two/a").is_err());
    }

    #[test]
    fn etcd_gets_no_empty_key() {
        let keys = Keys::new(Vec::new());
        assert_eq!(keys.stored(b""), None);
        assert_eq!(keys.range(b"", b"b"), Some((vec![0], b"b".to_vec())));
        assert_eq!(keys.range(b"", &[0]), None, "it would mean everything");
        assert_eq!(keys.range(b"b", b"a"), None);
        assert_eq!(keys.all_of(b""), (vec![0], vec![0]));
    }
}
