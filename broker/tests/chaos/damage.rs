//! Objects of segments that are removed or changed in the bucket, with a budget: their partitions may be refused, and
//! nothing of any other.

use crate::cluster::Cluster;
use crate::support::Random;
use crate::workload::{Shared, PLAIN};

/// Harms a segment of the plain topic, and has the checkers know. `None` if there is none yet.
pub fn strike(cluster: &Cluster, shared: &Shared, random: &mut Random) -> Option<String> {
    let folder = format!("default/{PLAIN}/");
    let is_needed = |key: &&String| key.starts_with(&folder) && (key.ends_with(".kfs") || key.ends_with(".index"));
    let keys = cluster.bucket.keys("bucket");
    let segments: Vec<&String> = keys.iter().filter(is_needed).collect();
    if segments.is_empty() {
        return None;
    }
    let key = segments[random.below(segments.len() as u64) as usize];
    let partition = key[folder.len()..].split('/').next()?.parse().ok()?;
    // Known before it happens: a reader may meet it at once.
    shared.may_be_refused((PLAIN, partition));
    let (how, place) = (random.below(3), random.next());
    if how == 0 {
        cluster.bucket.lose("bucket", key);
        return Some(format!("{key} is removed"));
    }
    let change = |content: &mut Vec<u8>| {
        let bit = (place % (content.len().max(1) as u64 * 8)) as usize;
        match how {
            1 => content.truncate(bit / 8),
            _ => content
                .iter_mut()
                .skip(bit / 8)
                .take(1)
                .for_each(|byte| *byte ^= 1 << (bit % 8)),
        }
    };
    let changed = cluster.bucket.change("bucket", key, change).unwrap();
    changed.then(|| format!("{key} is {}", if how == 1 { "cut" } else { "changed" }))
}
