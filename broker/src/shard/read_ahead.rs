//! Reading segments before a consumer that reads in sequence asks for them.

use super::fetch::{Source, CACHE_BLOCK_BYTES};
use super::Shard;
use futures::future::join_all;
use kafscale_storage_engine::partition_log::PartitionKey;
use kafscale_storage_engine::segment::Part;
use std::rc::Rc;

/// One of so many bytes of the cache may be taken by what a consumer will want next.
const CACHE_SHARE: u64 = 4;

impl Shard {
    /// A consumer has read segment `base_offset` up to `next_offset`: reads the blocks that follow, in a task of its
    /// own, and into the next segment if this one ends before that many.
    pub(super) fn read_ahead(&self, key: PartitionKey, base_offset: i64, next_offset: i64) {
        let blocks = self
            .config
            .read_ahead_blocks
            .min(self.config.cache_bytes as u64 / CACHE_BLOCK_BYTES / CACHE_SHARE);
        let mut wanted = self.blocks_after(key, base_offset, next_offset, blocks);
        wanted.retain(|(name, block)| self.cache.lacks(name, *block));
        if wanted.is_empty() {
            return;
        }
        let cache = self.cache.clone();
        self.runtime.spawn(
            "read-ahead",
            Box::pin(async move {
                let reads = wanted.into_iter().map(|(name, block)| {
                    let cache = cache.clone();
                    async move {
                        if let Err(error) = cache.read_ahead(name.clone(), block).await {
                            // Whoever needs the block reads it again and says what is wrong with it.
                            log::debug!("read {name} ahead: {error}");
                        }
                    }
                });
                join_all(reads).await;
            }),
        );
    }

    /// The objects and blocks in them that a consumer wants next.
    fn blocks_after(
        &self,
        key: PartitionKey,
        base_offset: i64,
        next_offset: i64,
        mut blocks: u64,
    ) -> Vec<(Rc<str>, u64)> {
        let mut wanted = Vec::new();
        let state = self.state.borrow();
        let Some(partition) = state.partitions.get(&key) else {
            return wanted;
        };
        let position = partition.position_hint(Source::Segment(base_offset), next_offset);
        let segments = partition.segments.listed();
        let (Some(mut position), Some(segments)) = (position, segments) else {
            return wanted;
        };
        for (base, segment) in segments.range(base_offset..) {
            if *base != base_offset && !partition.segments.index_known(*base) {
                wanted.push((self.key_in(partition, key, *base, Part::Index).into(), 0));
            }
            let ahead = position / CACHE_BLOCK_BYTES..segment.bytes.div_ceil(CACHE_BLOCK_BYTES);
            let name: Rc<str> = self.key_in(partition, key, *base, Part::Kfs).into();
            for block in ahead.take(blocks as usize) {
                wanted.push((name.clone(), block));
                blocks -= 1;
            }
            if blocks == 0 {
                break;
            }
            position = 0;
        }
        wanted
    }
}
