//! Whether a store does what everything depends on: asked once, at the start, so that the answer is a sentence and not a
//! mystery later.

use crate::object_store::{ObjectStore, StoreError};
use bytes::Bytes;

/// Creates, reads, lists and deletes an object below `{namespace}/_probe/`, and sees that a second create of its name is
/// refused.
///
/// # Errors
/// [`StoreError::Refused`] with what is missing (bucket, permission, conditional writes); what the store said otherwise
/// ([`StoreError::Unavailable`], [`StoreError::OutcomeUnknown`], [`StoreError::Full`]), after which it may be asked again.
pub async fn probe(store: &dyn ObjectStore, namespace: &str) -> Result<(), StoreError> {
    let key = format!("{namespace}/_probe/{:032x}", fastrand::u128(..));
    let checked = check(store, &key).await;
    let deleted = store.delete(std::slice::from_ref(&key)).await;
    // The first thing that went wrong explains the others.
    checked.and(deleted.map_err(|error| say("delete objects", error)))
}

async fn check(store: &dyn ObjectStore, key: &str) -> Result<(), StoreError> {
    let create = |content: &'static str| store.create(key, vec![Bytes::from_static(content.as_bytes())]);
    create("first").await.map_err(|error| say("create objects", error))?;
    match create("second").await {
        Err(StoreError::Conflict(_)) => {}
        Err(error) => return Err(say("refuse to replace objects", error)),
        Ok(()) => return Err(StoreError::Refused(
            "the store replaces objects although it is told not to (If-None-Match: *): two brokers could overwrite \
                 each other's records there"
                .to_string(),
        )),
    }
    let read = store.get_range(key, 0..u64::MAX).await;
    if read.map_err(|error| say("read objects", error))? != "first" {
        return Err(StoreError::Refused(
            "the store does not return what was written".to_string(),
        ));
    }
    let page = store
        .list(key, None, 10)
        .await
        .map_err(|error| say("list objects", error))?;
    if page.objects.len() == 1 {
        Ok(())
    } else {
        Err(StoreError::Refused(
            "the store does not list what was just written".to_string(),
        ))
    }
}

fn say(what: &str, error: StoreError) -> StoreError {
    let text = |error: String| format!("the store does not {what}: {error}");
    match error {
        StoreError::Unavailable(error) => StoreError::Unavailable(text(error)),
        StoreError::OutcomeUnknown(error) => StoreError::OutcomeUnknown(text(error)),
        StoreError::Full(error) => StoreError::Full(text(error)),
        StoreError::Refused(error) => StoreError::Refused(text(error)),
        StoreError::Damaged(error) => StoreError::Damaged(text(error)),
        StoreError::NotFound(_) | StoreError::Conflict(_) => StoreError::Refused(text(error.to_string())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::object_store::memory::MemoryStore;
    use futures::executor::block_on;

    #[test]
    fn a_sound_store_passes_and_is_left_as_it_was() {
        let store = MemoryStore::new();
        block_on(probe(&store, "default")).expect("it passes");
        assert!(store.keys().is_empty());
    }
}
