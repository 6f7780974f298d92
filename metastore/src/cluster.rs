//! The cluster's identity: whoever comes first gives it.

use crate::keys::{cluster_key, ClusterRecord};
use crate::operation::{put_if_unchanged, read, OperationError};
use crate::store::Metastore;

/// The stored cluster record, if there is one.
///
/// # Errors
/// The metastore's.
pub async fn load_cluster(store: &dyn Metastore) -> Result<Option<ClusterRecord>, OperationError> {
    let found = read(store, &cluster_key(), ClusterRecord::decode).await?;
    Ok(found.map(|found| found.value))
}

/// The stored cluster record, or `proposed` if there was none: then it is stored now.
///
/// # Errors
/// The metastore's. It is safe to call again.
pub async fn load_or_create_cluster(
    store: &dyn Metastore,
    proposed: &ClusterRecord,
) -> Result<ClusterRecord, OperationError> {
    let key = cluster_key();
    if let Some(found) = read(store, &key, ClusterRecord::decode).await? {
        return Ok(found.value);
    }
    match put_if_unchanged(store, &key, None, proposed.encode()).await {
        Ok(_) => Ok(proposed.clone()),
        Err(OperationError::Conflict) => {
            let found = read(store, &key, ClusterRecord::decode).await?;
            found.map(|found| found.value).ok_or(OperationError::Conflict)
        }
        Err(error) => Err(error),
    }
}
