//! Numbers that are never used twice: streams, producer ids, broker incarnations.

use crate::keys::{counter_key, CountRecord};
use crate::operation::{put, read, unchanged, OperationError};
use crate::store::{Metastore, MetastoreError, Txn};

/// The counter of producer ids.
pub const PRODUCER_IDS: &str = "producer_ids";

/// Attempts before giving up. Each failed one means that another caller got its numbers.
const ATTEMPTS_MAX: usize = 256;

/// Reserves `count` numbers of a counter and returns the first of them. Counting begins with 1.
///
/// # Errors
/// [`OperationError::Conflict`] if others were faster time and again; the metastore's otherwise. Numbers whose
/// reservation has an unknown outcome are left unused.
pub async fn allocate(store: &dyn Metastore, counter: &str, count: u64) -> Result<u64, OperationError> {
    let key = counter_key(counter);
    for _ in 0..ATTEMPTS_MAX {
        let current = read(store, &key, CountRecord::decode).await?;
        let first = current.as_ref().map_or(1, |record| record.value.count);
        let next = first.checked_add(count).ok_or_else(|| exhausted(counter))?;
        let value = CountRecord { count: next }.encode();
        let compares = vec![unchanged(&key, current.map(|record| record.mod_revision))];
        match store
            .txn(Txn {
                compares,
                ops: vec![put(&key, &value)],
            })
            .await
        {
            Ok(outcome) if outcome.succeeded => return Ok(first),
            // Another caller may write the same value, so reading it back would prove nothing: take the next numbers.
            Ok(_) | Err(MetastoreError::OutcomeUnknown(_)) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Err(OperationError::Conflict)
}

/// The largest number that a counter has given out; `None` if it has given out none.
///
/// # Errors
/// The metastore's, or a counter that cannot be read.
pub async fn last_allocated(store: &dyn Metastore, counter: &str) -> Result<Option<u64>, OperationError> {
    let current = read(store, &counter_key(counter), CountRecord::decode).await?;
    Ok(current.and_then(|record| record.value.count.checked_sub(1)))
}

fn exhausted(counter: &str) -> MetastoreError {
    MetastoreError::Refused(format!("counter {counter} has no numbers left"))
}
