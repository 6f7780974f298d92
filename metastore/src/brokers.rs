//! Who is alive: brokers register under a lease, and their record goes with it.

use crate::keys::{broker_key, start_key, BrokerRecord, Key, StartRecord, BROKERS_PREFIX};
use crate::operation::{commit, decode_value, list, read, unchanged};
use crate::operation::{Listing, OperationError, Versioned};
use crate::store::{LeaseId, Metastore, Op, Revision, Txn};
use bytes::Bytes;

/// All live brokers.
///
/// # Errors
/// The metastore's. Records that cannot be decoded are named in [`Listing::unreadable`].
pub async fn load_brokers(store: &dyn Metastore) -> Result<Listing<Versioned<BrokerRecord>>, OperationError> {
    list(store, BROKERS_PREFIX, |item| match Key::parse(&item.key) {
        Some(Key::Broker(_)) => decode_value(item, BrokerRecord::decode).map(Some),
        _ => Ok(None),
    })
    .await
}

/// A registration under an id: who has it, and since when if that is known.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Registered {
    /// The registration.
    pub broker: Versioned<BrokerRecord>,
    /// When its process started, in milliseconds since the Unix epoch. Older brokers do not record it.
    pub started_ms: Option<i64>,
}

/// The registration of one broker.
///
/// # Errors
/// The metastore's, or a registration that cannot be read.
pub async fn load_broker(store: &dyn Metastore, broker_id: i32) -> Result<Option<Registered>, OperationError> {
    let Some(broker) = read(store, &broker_key(broker_id), BrokerRecord::decode).await? else {
        return Ok(None);
    };
    let start = store.get(&start_key(broker_id)).await?;
    let start = start.and_then(|found| StartRecord::decode(&found.value).ok());
    let started_ms = start
        .filter(|start| start.incarnation == broker.value.incarnation)
        .map(|start| start.started_ms);
    Ok(Some(Registered { broker, started_ms }))
}

/// Registers a broker under its lease, if the registration of this id is still the one of revision `expected`, or there is
/// none. Whom it may replace is for the caller to decide.
///
/// # Errors
/// [`OperationError::Conflict`] if somebody else has registered; the metastore's otherwise.
pub async fn register_broker(
    store: &dyn Metastore,
    lease: LeaseId,
    record: &BrokerRecord,
    started_ms: i64,
    expected: Option<Revision>,
) -> Result<Revision, OperationError> {
    let key = broker_key(record.broker_id);
    let value = record.encode();
    let start = StartRecord {
        incarnation: record.incarnation,
        started_ms,
    };
    let put = |key: Bytes, value: Bytes| Op::Put {
        key,
        value,
        lease: Some(lease),
    };
    let txn = Txn {
        compares: vec![unchanged(&key, expected)],
        ops: vec![
            put(key.clone(), value.clone()),
            put(start_key(record.broker_id), start.encode()),
        ],
    };
    commit(store, txn, (&key, &value), expected).await
}
