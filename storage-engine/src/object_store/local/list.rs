//! Listings: a walk through the directories that the prefix leaves, in the order of keys.

use super::disk::{is_absent, Disk, Kind};
use super::failed;
use super::journal::Journal;
use crate::object_store::{can_begin_key, ListPage, ObjectMeta, StoreError};
use std::io;
use std::path::Path;

/// At most `limit` objects that begin with `prefix` and come after `start_after`, of files and of the journal.
pub(super) fn list(
    disk: &dyn Disk,
    root: &Path,
    journal: &Journal,
    prefix: &str,
    start_after: Option<&str>,
    limit: usize,
) -> Result<ListPage, StoreError> {
    let mut page = ListPage::default();
    if !can_begin_key(prefix) {
        return Ok(page);
    }
    let walk = Walk {
        disk,
        root,
        prefix,
        start_after: start_after.unwrap_or(""),
    };
    // The part of the prefix up to its last slash names a directory; the rest begins a name in it.
    let (directory, _) = prefix.rsplit_once('/').unwrap_or(("", prefix));
    let mut keys = Vec::new();
    walk.collect(directory, &mut keys)?;
    keys.sort_unstable();
    let mut files = keys.into_iter().peekable();
    let small = journal.list(prefix, walk.start_after, limit.saturating_add(1));
    let mut small = small.into_iter().peekable();
    loop {
        let is_small = match (small.peek(), files.peek()) {
            (None, None) => break,
            (Some(object), Some(key)) => object.key <= *key,
            (object, _) => object.is_some(),
        };
        if page.objects.len() == limit {
            page.more = true;
            break;
        }
        if is_small {
            page.objects.extend(small.next());
        } else if let Some(key) = files.next() {
            // One that was deleted since the directory was read is left out.
            if let Some(Kind::File { len, modified_ms }) = present(disk.kind(&root.join(&key)), &key)? {
                page.objects.push(ObjectMeta {
                    key,
                    size: len,
                    modified_ms,
                });
            }
        }
    }
    Ok(page)
}

struct Walk<'a> {
    disk: &'a dyn Disk,
    root: &'a Path,
    prefix: &'a str,
    start_after: &'a str,
}

impl Walk<'_> {
    fn collect(&self, directory: &str, keys: &mut Vec<String>) -> Result<(), StoreError> {
        let Some(entries) = present(self.disk.entries(&self.root.join(directory)), directory)? else {
            return Ok(());
        };
        for (name, is_directory) in entries {
            // A name that is no UTF-8 is not ours; in the root, one with a dot is no key's.
            let Some(name) = name
                .to_str()
                .filter(|name| !(directory.is_empty() && name.starts_with('.')))
            else {
                continue;
            };
            let key = match directory {
                "" => name.to_string(),
                _ => format!("{directory}/{name}"),
            };
            if is_directory {
                if self.may_hold(&format!("{key}/")) {
                    self.collect(&key, keys)?;
                }
            } else if key.starts_with(self.prefix) && key.as_str() > self.start_after {
                keys.push(key);
            }
        }
        Ok(())
    }

    /// Whether keys that begin with `below` can be among those that are looked for.
    fn may_hold(&self, below: &str) -> bool {
        let wanted = below.starts_with(self.prefix) || self.prefix.starts_with(below);
        wanted && (below > self.start_after || self.start_after.starts_with(below))
    }
}

fn present<T>(found: io::Result<T>, key: &str) -> Result<Option<T>, StoreError> {
    match found {
        Ok(found) => Ok(Some(found)),
        Err(error) if is_absent(&error) => Ok(None),
        Err(error) => Err(failed("list", key, &error)),
    }
}
