//! What is set on groups. A group need not exist for it, and an empty record is as none.

use crate::keys::{group_config_key, GroupConfigRecord};
use crate::operation::{put_if_unchanged, read, OperationError, Versioned};
use crate::store::{Metastore, Revision};

/// What is set on one group.
///
/// # Errors
/// The metastore's, or a record that cannot be read.
pub async fn load_group_config(
    store: &dyn Metastore,
    group: &str,
) -> Result<Option<Versioned<GroupConfigRecord>>, OperationError> {
    read(store, &group_config_key(group), GroupConfigRecord::decode).await
}

/// Replaces what is set on a group, if that is still what has this revision; `None`: nothing.
///
/// # Errors
/// [`OperationError::Conflict`] if it changed; the metastore's otherwise.
pub async fn update_group_config(
    store: &dyn Metastore,
    group: &str,
    mod_revision: Option<Revision>,
    record: &GroupConfigRecord,
) -> Result<Revision, OperationError> {
    put_if_unchanged(store, &group_config_key(group), mod_revision, record.encode()).await
}
