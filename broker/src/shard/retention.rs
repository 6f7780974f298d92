//! Retention: what is too old or too much goes, segment by segment.

use super::segments::SegmentRef;
use super::takeover::ClaimError;
use super::Shard;
use kafscale_storage_engine::partition_log::PartitionKey;
use kafscale_storage_engine::segment::{self, Part};

/// Partitions looked at in one round of housekeeping: after a claim of thousands each takes a listing.
const PER_ROUND: usize = 50;

impl Shard {
    /// Moves log starts past segments that are too old or too many, and dooms those segments.
    pub(super) async fn apply_retention(&self) -> Result<(), ClaimError> {
        let now = self.runtime.now();
        let due: Vec<PartitionKey> = {
            let mut state = self.state.borrow_mut();
            let mut due = Vec::new();
            for (key, partition) in &mut state.partitions {
                let start = partition.log.log_start_offset();
                let limited = partition.config.retention_ms.is_some() || partition.config.retention_bytes.is_some();
                // Segments before the start are of deletions that somebody asked for.
                let something = (limited && partition.log.rolled_offset() > start) || start > 0;
                let waited = now - partition.retention_checked >= self.config.retention_interval;
                if something && waited && !partition.config.keep_everything {
                    partition.retention_checked = now;
                    due.push(*key);
                    if due.len() == PER_ROUND {
                        break;
                    }
                }
            }
            due
        };
        for key in due {
            // What is recorded as gone has to be deleted, and nobody else would do it.
            if !self.state.borrow().may_doom() {
                log::warn!("retention waits: the object store has not deleted anything for long");
                return Ok(());
            }
            // What is wrong with one partition's segments does not keep the others'.
            if let Err(error) = self.retain(key).await {
                log::warn!("retention of {key:?}: {error}; trying again");
            }
        }
        Ok(())
    }

    /// Applies one partition's retention now.
    pub async fn retain(&self, key: PartitionKey) -> Result<(), ClaimError> {
        self.list_segments(key).await?;
        let (segments, config, start, rolled, tail_bytes) = {
            let state = self.state.borrow();
            let Some(partition) = state.partitions.get(&key) else {
                return Ok(());
            };
            let segments: Vec<(i64, SegmentRef)> = partition
                .segments
                .listed()
                .map(|all| all.iter().map(|(base, s)| (*base, *s)).collect())
                .unwrap_or_default();
            (
                segments,
                partition.config.clone(),
                partition.log.log_start_offset(),
                partition.log.rolled_offset(),
                partition.log.tail_bytes(),
            )
        };
        let now_ms = self.runtime.wall_clock_ms();
        let mut bytes = tail_bytes + segments.iter().map(|(_, segment)| segment.bytes).sum::<u64>();
        let mut log_start = None;
        let mut gone = Vec::new();
        for (at, (base_offset, segment)) in segments.iter().enumerate() {
            let end = segments.get(at + 1).map_or(rolled, |(next, _)| *next);
            let too_many = config
                .retention_bytes
                .is_some_and(|limit| bytes - segment.bytes >= limit);
            let deleted = end <= start;
            let too_old = match config.retention_ms {
                Some(limit) if !deleted && !too_many => {
                    let time = self.segment_time(key, *base_offset).await?;
                    if time > now_ms {
                        // As Kafka: it stays until its time has come and passed.
                        log::warn!(
                            "segment {base_offset} of {key:?} has a timestamp in the future ({time}): \
                             retention.ms does not delete it, nor what comes after it"
                        );
                    }
                    time < now_ms.saturating_sub(limit)
                }
                _ => false,
            };
            if !deleted && !too_many && !too_old {
                break;
            }
            bytes -= segment.bytes;
            log_start = Some(end);
            gone.push(*base_offset);
        }
        let Some(log_start) = log_start else { return Ok(()) };
        if !self
            .update_partition(key, |_, record| {
                record.log_start_offset = record.log_start_offset.max(log_start)
            })
            .await?
        {
            return Ok(());
        }
        let mut state = self.state.borrow_mut();
        let Some(partition) = state.partitions.get_mut(&key) else {
            return Ok(());
        };
        partition.log.advance_log_start(log_start);
        let folder = partition.folder.clone();
        log::info!("retention of {key:?}: the log now starts at {log_start}");
        let due = self.runtime.now() + self.config.delete_grace;
        for base_offset in gone {
            if let Some(partition) = state.partitions.get_mut(&key) {
                partition.segments.removed(base_offset);
            }
            for part in [Part::Kfs, Part::Index, Part::Kfst] {
                let name = segment::key(&self.config.namespace, &folder, key.partition, base_offset, part);
                state.doom(due, name);
            }
        }
        Ok(())
    }
}
