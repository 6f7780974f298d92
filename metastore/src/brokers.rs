//! Who is alive: brokers register under a lease, and their record goes with it.

use crate::keys::{broker_key, BrokerRecord, Key, BROKERS_PREFIX};
use crate::operation::{commit, decode_value, delete_if_unchanged, list, read, unchanged};
use crate::operation::{Listing, OperationError, Versioned};
use crate::store::{LeaseId, Metastore, Op, Revision, Txn};

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

/// Registers a broker under its lease. It replaces an earlier life of the same broker whose lease still runs.
///
/// # Errors
/// [`OperationError::Conflict`] if a later life is registered: then this broker has to end. The metastore's otherwise.
pub async fn register_broker(
    store: &dyn Metastore,
    lease: LeaseId,
    record: &BrokerRecord,
) -> Result<Revision, OperationError> {
    let key = broker_key(record.broker_id);
    let current = read(store, &key, BrokerRecord::decode).await?;
    if current
        .as_ref()
        .is_some_and(|other| other.value.incarnation > record.incarnation)
    {
        return Err(OperationError::Conflict);
    }
    let expected = current.map(|other| other.mod_revision);
    let value = record.encode();
    let put = Op::Put {
        key: key.clone(),
        value: value.clone(),
        lease: Some(lease),
    };
    let txn = Txn {
        compares: vec![unchanged(&key, expected)],
        ops: vec![put],
    };
    commit(store, txn, (&key, &value), expected).await
}

/// Removes a broker's registration, if it is still the one of this revision.
///
/// # Errors
/// [`OperationError::Conflict`] if another life has registered or the lease has expired; the metastore's otherwise.
pub async fn deregister_broker(
    store: &dyn Metastore,
    broker_id: i32,
    registered: Revision,
) -> Result<Revision, OperationError> {
    delete_if_unchanged(store, &broker_key(broker_id), registered).await
}
