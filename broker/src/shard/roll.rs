//! Rolling: a partition's oldest committed records leave the write-ahead objects and become a segment.

use super::fetch::damaged;
use super::gather::Gathered;
use super::roll_policy::{self, Facts, Limits};
use super::segments::{given_up, SegmentRef};
use super::takeover::ClaimError;
use super::{OpenStream, Shard};
use crate::planted::{self, Bug};
use bytes::Bytes;
use futures::stream::{self, StreamExt};
use kafscale_codec::record_batch;
use kafscale_storage_engine::object_store::StoreError;
use kafscale_storage_engine::partition_log::{PartitionKey, RollPlan, TailRun};
use kafscale_storage_engine::segment::{self, Part, SegmentBuilder, FOOTER_LEN};
use std::time::Duration;

/// Partitions rolled at the same time; each waits for a few requests to the object store.
const AT_ONCE: usize = 16;

/// Bytes of the partitions that are rolled at the same time, unless one alone has more: they are in memory meanwhile.
const BYTES_AT_ONCE: u64 = 64 << 20;

/// Partitions rolled in one round of housekeeping, so that merging and trimming have their turn.
const PER_ROUND: usize = 256;

/// How often a segment's time sidecar is put in the place of another.
const TIMES_ATTEMPTS: usize = 3;

/// How long a partition whose records are damaged is not rolled again.
const DAMAGED_PAUSE: Duration = Duration::from_secs(60);

/// Groups of neighbours rolled in one round because the stream has too many runs.
const GROUPS_OF_TOO_MANY_RUNS: usize = 4;

impl Shard {
    /// Rolls what is due, several partitions at a time. One that cannot be rolled does not keep the others from it.
    pub(super) async fn roll_due(&self) {
        let due = self.due_for_rolling();
        for group in groups(&due) {
            for (key, _) in group {
                // What its record says to be rolled may be gone already.
                if let Err(error) = self.settle_partition_in_doubt(*key).await {
                    log::warn!("look how {key:?} stands: {error}; trying again");
                }
            }
            let planned = group.iter().filter_map(|(key, _)| self.plan_roll(*key, 0));
            let runs: Vec<TailRun> = planned.flat_map(|(_, runs, _)| runs).collect();
            // In one read for all of them, since neighbours lie next to each other in merged objects.
            let gathered = self.gather(runs.iter()).await.unwrap_or_else(|error| {
                log::warn!(
                    "read what {} partitions are rolled from: {error}; each reads for itself",
                    group.len()
                );
                Gathered::default()
            });
            drop(runs);
            let gathered = &gathered;
            stream::iter(group)
                .for_each_concurrent(AT_ONCE, |(key, _)| async move {
                    if let Err(error) = self.roll_from(*key, gathered).await {
                        self.roll_failed(*key, &error);
                    }
                })
                .await;
        }
    }

    /// What to roll in this round, with its bytes: the largest first, since their records are likely still in memory and
    /// their slots are freed for many others; then the others by key, since neighbours are read together.
    fn due_for_rolling(&self) -> Vec<(PartitionKey, u64)> {
        let now_ms = self.runtime.wall_clock_ms();
        let state = self.state.borrow();
        let own = state.stream.as_ref().map(|stream| stream.id.0);
        let slots = state.stream.as_ref().map_or(0, |stream| stream.live.len());
        let runs = state.stream.as_ref().map_or(0, OpenStream::live_runs);
        let limits = Limits {
            crowded: slots > self.config.live_slots_max,
            small_ms: self.config.segment_small_ms,
        };
        let mut large = Vec::new();
        let mut old = Vec::new();
        let mut rest = Vec::new();
        let now = self.runtime.now();
        for (key, partition) in &state.partitions {
            if now < partition.roll_rests_until {
                continue;
            }
            let log = &partition.log;
            let Some(since_ms) = log.unrolled_since_ms() else {
                continue;
            };
            let facts = Facts {
                bytes: log.tail_bytes(),
                age_ms: now_ms - since_ms,
                // Another's stream stays until nothing of it is needed.
                inherited: partition.record.tail_streams.iter().any(|id| Some(*id) != own),
            };
            match roll_policy::why(facts, &partition.config, limits) {
                Some(roll_policy::Why::Large) => large.push((facts.bytes, *key)),
                Some(roll_policy::Why::Old) => old.push((facts.bytes, *key)),
                None if runs > self.config.live_runs_max => rest.push((facts.bytes, *key)),
                None => {}
            }
        }
        old.extend(heaviest(rest));
        large.sort_unstable_by(|a, b| b.cmp(a));
        old.sort_unstable_by_key(|(_, key)| *key);
        let due = large.into_iter().chain(old).take(PER_ROUND);
        due.map(|(bytes, key)| {
            let most = state.partitions.get(&key).map_or(bytes, |p| p.config.segment_bytes);
            (key, bytes.min(most))
        })
        .collect()
    }

    /// Damage does not go away by itself: the partition waits, and leaves the round to the others.
    fn roll_failed(&self, key: PartitionKey, error: &ClaimError) {
        let is_damage = matches!(
            error,
            ClaimError::Store(StoreError::Damaged(_) | StoreError::NotFound(_)) | ClaimError::Inconsistent(_)
        );
        let pause = if is_damage { DAMAGED_PAUSE } else { Duration::ZERO };
        log::warn!("roll {key:?}: {error}; trying again in {pause:?}");
        if let Some(partition) = self.state.borrow_mut().partitions.get_mut(&key) {
            partition.roll_rests_until = self.runtime.now() + pause;
        }
    }

    /// Rolls a partition's oldest committed records into one segment.
    pub async fn roll(&self, key: PartitionKey) -> Result<(), ClaimError> {
        if !self.settle_partition_in_doubt(key).await? {
            return Ok(());
        }
        let Some((_, runs, _)) = self.plan_roll(key, 0) else {
            return Ok(());
        };
        let gathered = self.gather(runs.iter()).await?;
        drop(runs);
        self.roll_from(key, &gathered).await
    }

    /// Rolls a partition's oldest committed records into one segment; `gathered` holds what is not in memory any more.
    async fn roll_from(&self, key: PartitionKey, gathered: &Gathered) -> Result<(), ClaimError> {
        let mut least = 0;
        loop {
            let Some((plan, runs, log_start)) = self.plan_roll(key, least) else {
                return Ok(());
            };
            if plan.next_offset <= log_start {
                // All of it was deleted before it was ever rolled: nothing to write.
                return self.record_roll(key, plan.next_offset, None).await;
            }
            match self.write_segment(key, &plan, &runs, gathered).await? {
                Written::Until(next_offset, segment) => {
                    return self
                        .record_roll(key, next_offset, Some((plan.base_offset, segment)))
                        .await;
                }
                // An index from an attempt that died reaches further: this segment has to reach there too.
                Written::IndexReaches(offset) if least <= offset => least = offset + 1,
                Written::IndexReaches(offset) => {
                    return Err(ClaimError::Inconsistent(format!(
                        "an index of {key:?} names offset {offset}, which is not committed"
                    )));
                }
            }
        }
    }

    fn plan_roll(&self, key: PartitionKey, least: i64) -> Option<(RollPlan, Vec<TailRun>, i64)> {
        let state = self.state.borrow();
        let partition = state.partitions.get(&key)?;
        let mut plan = partition.log.plan_roll(partition.config.segment_bytes)?;
        let mut runs = Vec::new();
        for run in partition.log.tail() {
            if run.base_offset >= plan.next_offset && run.base_offset >= least {
                break;
            }
            plan.next_offset = plan.next_offset.max(run.next_offset);
            runs.push(run.clone());
        }
        Some((plan, runs, partition.log.log_start_offset()))
    }

    async fn write_segment(
        &self,
        key: PartitionKey,
        plan: &RollPlan,
        runs: &[TailRun],
        gathered: &Gathered,
    ) -> Result<Written, ClaimError> {
        let created_ms = self.runtime.wall_clock_ms();
        let mut builder = SegmentBuilder::new(plan.base_offset, created_ms);
        for run in runs {
            for batch in self.run_batches(run, gathered).await? {
                let header = record_batch::BatchHeader::parse(&batch).map_err(damaged)?;
                if header.base_offset >= plan.base_offset {
                    builder.push(&header, batch);
                }
            }
            self.runtime.yield_now().await;
        }
        let segment = builder.finish();
        let folder = {
            let state = self.state.borrow();
            state.partitions.get(&key).ok_or_else(|| given_up(key))?.folder.clone()
        };
        let name = |part| segment::key(&self.config.namespace, &folder, key.partition, plan.base_offset, part);
        let bytes = segment.kfs.iter().map(|piece| piece.len() as u64).sum();
        // The index first: a segment counts when both are there.
        if !self
            .create_settled(&name(Part::Index), vec![segment.index.clone()])
            .await?
        {
            let existing = self.store.get_range(&name(Part::Index), 0..u64::MAX).await?;
            let last = segment::Index::parse(&existing)
                .map_err(damaged)?
                .last_offset()
                .unwrap_or(0);
            if last >= segment.next_offset {
                return Ok(Written::IndexReaches(last));
            }
        }
        if planted::is(Bug::TimesFirst) {
            self.create_settled(&name(Part::Kfst), vec![segment.kfst.clone()])
                .await?;
        }
        let created = self
            .create_settled_summed(&name(Part::Kfs), segment.kfs, segment.kfs_crc32c)
            .await?;
        if created {
            self.write_times(&name(Part::Kfst), &segment.kfst).await?;
            let max_timestamp = segment::parse_max_timestamp(&segment.kfst).map_err(damaged)?;
            let segment_ref = SegmentRef {
                bytes,
                max_timestamp: Some(max_timestamp),
                created_ms: Some(created_ms),
                next_offset: Some(segment.next_offset),
            };
            return Ok(Written::Until(segment.next_offset, segment_ref));
        }
        // An attempt that died, or another owner's: the same records, perhaps fewer or more. It tells where it ends.
        let suffix = self.store.get_suffix(&name(Part::Kfs), FOOTER_LEN as u64).await?;
        let next_offset = segment::parse_footer(&suffix.bytes).map_err(damaged)?;
        if next_offset == segment.next_offset {
            self.write_times(&name(Part::Kfst), &segment.kfst).await?;
        }
        Ok(Written::Until(next_offset, SegmentRef::of_bytes(suffix.object_len)))
    }

    /// Puts the time sidecar beside a segment that is there. Only then: an attempt that died may have meant to write
    /// fewer records or more, and its times would let retention take the segment for older than it is. Brokers that
    /// put the sidecar first may have left one; it gives way.
    async fn write_times(&self, name: &str, times: &Bytes) -> Result<(), StoreError> {
        for _ in 0..TIMES_ATTEMPTS {
            if self.create_settled(name, vec![times.clone()]).await? || planted::is(Bug::TimesFirst) {
                return Ok(());
            }
            match self.store.get_range(name, 0..u64::MAX).await {
                Ok(found) if found == *times => return Ok(()),
                Ok(_) => self.store.delete(&[name.to_string()]).await?,
                Err(StoreError::NotFound(_)) => {}
                Err(error) => return Err(error),
            }
        }
        log::warn!("{name} is written by somebody else again and again; it is left to them");
        Ok(())
    }

    /// Creates an object whose content is settled by its name. `false` if it was there already.
    pub(super) async fn create_settled(&self, key: &str, body: Vec<Bytes>) -> Result<bool, StoreError> {
        created(self.store.create(key, body).await)
    }

    /// [`Self::create_settled`] of a body whose CRC-32C is known.
    pub(super) async fn create_settled_summed(
        &self,
        key: &str,
        body: Vec<Bytes>,
        crc32c: u32,
    ) -> Result<bool, StoreError> {
        created(self.store.create_summed(key, body, crc32c).await)
    }

    /// Records that segments reach `offset`, and forgets what they hold of the tail.
    async fn record_roll(
        &self,
        key: PartitionKey,
        offset: i64,
        segment: Option<(i64, SegmentRef)>,
    ) -> Result<(), ClaimError> {
        let producers = {
            let now_ms = self.runtime.wall_clock_ms();
            let state = self.state.borrow();
            let Some(partition) = state.partitions.get(&key) else {
                return Ok(());
            };
            if offset > partition.log.high_watermark() {
                return Err(ClaimError::Inconsistent(format!(
                    "a segment of {key:?} reaches {offset}, beyond what is committed"
                )));
            }
            let mut producers = partition.log.producers_at(offset);
            producers.expire(now_ms - self.config.producer_expiration_ms);
            producers
        };
        self.create_settled(&self.producers_key(key, offset), vec![producers.encode()])
            .await?;
        let updated = self
            .update_partition(key, |partition, record| {
                record.rolled_offset = record.rolled_offset.max(offset);
                let left: Vec<u64> = partition
                    .log
                    .tail()
                    .filter(|run| run.next_offset > offset)
                    .map(|run| run.location.object.stream.0)
                    .collect();
                record.tail_streams.retain(|stream| left.contains(stream));
            })
            .await?;
        if !updated {
            return Ok(());
        }
        let mut state = self.state.borrow_mut();
        if let (Some(partition), Some((base_offset, segment))) = (state.partitions.get_mut(&key), segment) {
            partition.segments.rolled(base_offset, segment);
        }
        Ok(())
    }
}

fn created(answer: Result<(), StoreError>) -> Result<bool, StoreError> {
    match answer {
        Ok(()) => Ok(true),
        Err(StoreError::Conflict(_)) => Ok(false),
        Err(error) => Err(error),
    }
}

/// How a segment came out.
enum Written {
    /// It ends here.
    Until(i64, SegmentRef),
    /// Its index is an older attempt's and names this offset.
    IndexReaches(i64),
}

/// Of all these partitions the neighbours that have the most bytes.
fn heaviest(mut all: Vec<(u64, PartitionKey)>) -> impl Iterator<Item = (u64, PartitionKey)> {
    all.sort_unstable_by_key(|(_, key)| *key);
    let bytes = |group: &[(u64, PartitionKey)]| group.iter().map(|(bytes, _)| *bytes).sum::<u64>();
    let mut groups: Vec<Vec<(u64, PartitionKey)>> = all.chunks(AT_ONCE).map(<[_]>::to_vec).collect();
    groups.sort_by_key(|group| std::cmp::Reverse(bytes(group)));
    groups.into_iter().take(GROUPS_OF_TOO_MANY_RUNS).flatten()
}

/// Splits what is due into what is rolled at the same time.
fn groups(due: &[(PartitionKey, u64)]) -> impl Iterator<Item = &[(PartitionKey, u64)]> {
    let mut rest = due;
    std::iter::from_fn(move || {
        let mut bytes = 0;
        let fits = |(_, more): &&(PartitionKey, u64)| {
            bytes += more;
            bytes <= BYTES_AT_ONCE
        };
        let count = rest
            .iter()
            .take(AT_ONCE)
            .take_while(fits)
            .count()
            .max(1)
            .min(rest.len());
        let (group, left) = rest.split_at(count);
        rest = left;
        (!group.is_empty()).then_some(group)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use kafscale_codec::types::TopicId;

    #[test]
    fn too_many_runs_take_the_neighbours_that_have_most() {
        let key = |partition| PartitionKey {
            topic_id: TopicId([0; 16]),
            partition,
        };
        let all = (0..AT_ONCE as i32 * 10).rev();
        let all = all.map(|at| (u64::from(at % 16 == 0) * at as u64, key(at))).collect();
        let taken: Vec<i32> = heaviest(all).map(|(_, key)| key.partition).collect();
        assert_eq!(taken.len(), AT_ONCE * GROUPS_OF_TOO_MANY_RUNS);
        assert_eq!((taken[0], taken[AT_ONCE]), (144, 128));
    }

    #[test]
    fn groups_are_bounded_in_number_and_bytes_and_lose_nobody() {
        let key = |partition| PartitionKey {
            topic_id: TopicId([0; 16]),
            partition,
        };
        let sizes = [BYTES_AT_ONCE * 3, 1, BYTES_AT_ONCE, 5].into_iter().chain([1; 40]);
        let due: Vec<(PartitionKey, u64)> = sizes.zip(0..).map(|(bytes, at)| (key(at), bytes)).collect();
        let lengths: Vec<usize> = groups(&due).map(<[_]>::len).collect();
        assert_eq!(lengths, [1, 1, 1, 16, 16, 9]);
        assert_eq!(groups(&due).flatten().count(), due.len());
        assert_eq!(groups(&[]).count(), 0);
    }
}
