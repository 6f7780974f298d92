//! The seam to the object store: create-only puts, ranged reads, paged lists, deletes.

#[cfg(any(test, feature = "testing"))]
pub mod contract;
pub mod faulty;
pub mod local;
pub mod memory;
pub mod s3;

use bytes::Bytes;
use std::future::Future;
use std::ops::Range;
use std::pin::Pin;

/// Bytes of a key at most (S3's limit).
pub const KEY_BYTES_MAX: usize = 1024;

/// Bytes of a key's part between slashes at most (that of a file's name).
pub const KEY_PART_BYTES_MAX: usize = 255;

/// A boxed future that stays on its shard.
pub type LocalFuture<'a, T> = Pin<Box<dyn Future<Output = T> + 'a>>;

/// Why the store did not do as asked. Each kind says what is known of the outcome.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StoreError {
    /// No object has this key.
    #[error("no object named {0}")]
    NotFound(String),
    /// A create found the key taken; nothing was written.
    #[error("object {0} exists")]
    Conflict(String),
    /// The request was not applied; it may be tried again.
    #[error("object store unavailable: {0}")]
    Unavailable(String),
    /// The request may have been applied, now or later; read back before deciding anything.
    #[error("outcome unknown: {0}")]
    OutcomeUnknown(String),
    /// The store has no room (ENOSPC, quota); nothing was written.
    #[error("object store is full: {0}")]
    Full(String),
    /// What was stored is not what is there now, or a part of it is missing.
    #[error("damaged: {0}")]
    Damaged(String),
    /// The request itself can never work (illegal key, range beyond the object's end, denied).
    #[error("object store refused: {0}")]
    Refused(String),
}

/// One object in a listing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ObjectMeta {
    /// Full key.
    pub key: String,
    /// Size in bytes.
    pub size: u64,
    /// Last modification, milliseconds since the Unix epoch.
    pub modified_ms: i64,
}

/// One page of a listing, in ascending key order.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ListPage {
    /// The objects of this page.
    pub objects: Vec<ObjectMeta>,
    /// Whether keys beyond the last one here may exist.
    pub more: bool,
}

/// The end of an object, and how long the whole is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Suffix {
    /// The last bytes: as many as were asked for, or the whole object if it is shorter.
    pub bytes: Bytes,
    /// Size of the whole object in bytes.
    pub object_len: u64,
}

/// Whether a key can name an object: see [`ObjectStore`].
///
/// # Errors
/// [`StoreError::Refused`] if it cannot.
pub fn check_key(key: &str) -> Result<(), StoreError> {
    if key.len() <= KEY_BYTES_MAX && !key.starts_with('.') && key.split('/').all(is_legal_part) {
        Ok(())
    } else {
        Err(StoreError::Refused(format!("illegal key {key:?}")))
    }
}

/// Whether legal keys can begin like this. The part after the last slash need not be complete.
fn can_begin_key(prefix: &str) -> bool {
    let (complete, rest) = prefix.rsplit_once('/').unwrap_or(("", prefix));
    let folders_legal = match complete {
        "" => !prefix.starts_with('/'),
        _ => complete.split('/').all(is_legal_part),
    };
    folders_legal && !prefix.starts_with('.') && !rest.contains('\0')
}

fn is_legal_part(part: &str) -> bool {
    !matches!(part, "" | "." | "..") && part.len() <= KEY_PART_BYTES_MAX && !part.contains('\0')
}

/// An immutable object store.
///
/// Keys are UTF-8 of at most [`KEY_BYTES_MAX`] bytes, in parts separated by `/`; no part is empty, `.` or `..` or longer
/// than [`KEY_PART_BYTES_MAX`], no key begins with a dot or holds a zero byte. An illegal key is refused, and no listing
/// finds it. A store may refuse a key that is the folder of another (`a` where there is `a/b`), or the other way round.
///
/// An object is visible whole or not at all, and durable once `create` answers `Ok`.
pub trait ObjectStore {
    /// Creates `key` from the concatenation of `body`, if and only if nothing has that name.
    fn create<'a>(&'a self, key: &'a str, body: Vec<Bytes>) -> LocalFuture<'a, Result<(), StoreError>>;

    /// [`Self::create`] of a body whose CRC-32C is known, which may spare the store a look at every byte.
    fn create_summed<'a>(
        &'a self,
        key: &'a str,
        body: Vec<Bytes>,
        crc32c: u32,
    ) -> LocalFuture<'a, Result<(), StoreError>>;

    /// Reads `range` (end exclusive); a range that passes the object's end is cut there, one that begins beyond it is refused.
    fn get_range<'a>(&'a self, key: &'a str, range: Range<u64>) -> LocalFuture<'a, Result<Bytes, StoreError>>;

    /// [`Self::get_range`] from wherever a copy is nearest, a read replica perhaps. For records and what leads to them
    /// alone: a copy may lack objects, so whatever is decided is decided by [`Self::get_range`], [`Self::get_suffix`] and
    /// [`Self::list`], which ask the store that objects are created in.
    fn get_payload<'a>(&'a self, key: &'a str, range: Range<u64>) -> LocalFuture<'a, Result<Bytes, StoreError>> {
        self.get_range(key, range)
    }

    /// Reads the last `len` bytes and tells the object's size.
    fn get_suffix<'a>(&'a self, key: &'a str, len: u64) -> LocalFuture<'a, Result<Suffix, StoreError>>;

    /// Lists keys that start with `prefix` and sort after `start_after`, at most `limit` of them.
    fn list<'a>(
        &'a self,
        prefix: &'a str,
        start_after: Option<&'a str>,
        limit: usize,
    ) -> LocalFuture<'a, Result<ListPage, StoreError>>;

    /// Deletes `keys`; one that does not exist counts as deleted.
    fn delete<'a>(&'a self, keys: &'a [String]) -> LocalFuture<'a, Result<(), StoreError>>;

    /// Whether there is room for records: [`StoreError::Full`] if creates of more than fences are refused until there is.
    fn room(&self) -> LocalFuture<'_, Result<(), StoreError>> {
        Box::pin(async { Ok(()) })
    }
}
