//! Housekeeping of what is durable: roll the tail into segments, merge and trim write-ahead objects, apply retention.
//!
//! One task does all of it in turn, so no two changes of one record are under way at the same time.

use super::fetch::damaged;
use super::segments::{given_up, SegmentRef};
use super::takeover::ClaimError;
use super::{LiveObject, Shard, State};
use crate::planted::{self, Bug};
use bytes::Bytes;
use kafscale_codec::error_code::ErrorCode;
use kafscale_codec::record_batch;
use kafscale_metastore::keys::{partition_key, stream_key, MergedObject, PartitionRecord, StreamRecord, StreamState};
use kafscale_metastore::{Compare, MetastoreError, Op, Txn, TxnOutcome};
use kafscale_storage_engine::object_store::StoreError;
use kafscale_storage_engine::partition_log::{Location, ObjectRef, PartitionKey, RollPlan, TailRun};
use kafscale_storage_engine::segment::{self, Part, SegmentBuilder, FOOTER_LEN};
use kafscale_storage_engine::wal::merge::{self, LiveObject as MergeInput};
use kafscale_storage_engine::wal::{Kind, Run, StreamId, WalBuilder};
use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;

/// How often a partition's retention is looked at.
const RETENTION_INTERVAL: Duration = Duration::from_secs(60);

/// A partition with this many unrolled bytes is rolled rather than merged when the stream has too many slots.
const ROLL_RATHER_THAN_MERGE_BYTES: u64 = 16 << 20;

impl Shard {
    /// Looks after everything that is due, again and again, until the shard stops.
    pub(super) async fn housekeeping_loop(self: Rc<Self>) {
        while !self.stopped.get() {
            self.runtime.sleep(self.config.housekeeping_interval).await;
            if self.stopped.get() {
                break;
            }
            if let Err(error) = self.housekeeping().await {
                log::warn!("housekeeping of shard {}: {error}; trying again", self.config.shard);
            }
        }
    }

    /// One round: what was asked for, then roll, merge, trim, expire, delete.
    pub async fn housekeeping(&self) -> Result<(), ClaimError> {
        self.apply_deletions().await?;
        self.hand_over_all().await;
        for key in self.due_for_rolling() {
            // One partition that cannot be rolled must not keep the others from it.
            if let Err(error) = self.roll(key).await {
                log::warn!("roll {key:?}: {error}; trying again");
            }
        }
        while self.merge_slots().await? {}
        self.trim().await?;
        self.apply_retention().await?;
        self.delete_doomed().await?;
        Ok(())
    }

    fn due_for_rolling(&self) -> Vec<PartitionKey> {
        let now_ms = self.runtime.wall_clock_ms();
        let state = self.state.borrow();
        let slots = state.stream.as_ref().map_or(0, |stream| stream.live.len());
        let crowded = slots > self.config.live_slots_max;
        let mut due: Vec<(u64, PartitionKey)> = Vec::new();
        for (key, partition) in &state.partitions {
            let log = &partition.log;
            let old = log
                .unrolled_since_ms()
                .is_some_and(|since| now_ms - since >= partition.config.segment_ms);
            let large = log.tail_bytes() >= partition.config.segment_bytes;
            if old || large || (crowded && log.tail_bytes() >= ROLL_RATHER_THAN_MERGE_BYTES) {
                due.push((log.tail_bytes(), *key));
            }
        }
        // The largest first: their records are likely still in memory, and their slots are freed for many others.
        due.sort_unstable_by(|a, b| b.cmp(a));
        due.into_iter().map(|(_, key)| key).collect()
    }

    /// Rolls a partition's oldest committed records into one segment.
    pub async fn roll(&self, key: PartitionKey) -> Result<(), ClaimError> {
        let mut least = 0;
        loop {
            let Some((plan, runs, log_start)) = self.plan_roll(key, least) else {
                return Ok(());
            };
            if plan.next_offset <= log_start {
                // All of it was deleted before it was ever rolled: nothing to write.
                return self.record_roll(key, plan.next_offset, None).await;
            }
            match self.write_segment(key, &plan, &runs).await? {
                Written::Until(next_offset, bytes) => {
                    let segment = SegmentRef {
                        bytes,
                        max_timestamp: None,
                    };
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

    async fn write_segment(&self, key: PartitionKey, plan: &RollPlan, runs: &[TailRun]) -> Result<Written, ClaimError> {
        let mut builder = SegmentBuilder::new(plan.base_offset, self.runtime.wall_clock_ms());
        for run in runs {
            for batch in self.run_batches(run).await? {
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
        self.create_settled(&name(Part::Kfst), vec![segment.kfst.clone()])
            .await?;
        if self.create_settled(&name(Part::Kfs), segment.kfs).await? {
            return Ok(Written::Until(segment.next_offset, bytes));
        }
        // An attempt that died, or another owner's: the same records, perhaps fewer or more. It tells where it ends.
        let suffix = self.store.get_suffix(&name(Part::Kfs), FOOTER_LEN as u64).await?;
        let next_offset = segment::parse_footer(&suffix.bytes).map_err(damaged)?;
        Ok(Written::Until(next_offset, suffix.object_len))
    }

    /// Creates an object whose content is settled by its name. `false` if it was there already.
    async fn create_settled(&self, key: &str, body: Vec<Bytes>) -> Result<bool, StoreError> {
        match self.store.create(key, body).await {
            Ok(()) => Ok(true),
            Err(StoreError::Conflict(_)) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// A run's stored batches, from memory or from its object.
    async fn run_batches(&self, run: &TailRun) -> Result<Vec<Bytes>, StoreError> {
        if let Some(batches) = &run.batches {
            return Ok(batches.clone());
        }
        let Location {
            object,
            position,
            length,
        } = run.location;
        let bytes = self
            .store
            .get_range(&self.object_key(object), position..position + length)
            .await?;
        if bytes.len() as u64 != length {
            return Err(StoreError::Refused(format!(
                "{} is shorter than its footer says",
                self.object_key(object)
            )));
        }
        let mut batches = Vec::new();
        let mut at = 0;
        while at < bytes.len() {
            let header = record_batch::BatchHeader::parse(&bytes[at..]).map_err(damaged)?;
            let end = at + header.total_len();
            let batch = bytes.get(at..end).ok_or_else(|| damaged("it ends early"))?;
            record_batch::validate(batch).map_err(damaged)?;
            batches.push(bytes.slice(at..end));
            at = end;
        }
        Ok(batches)
    }

    /// Records that segments reach `offset`, and forgets what they hold of the tail.
    async fn record_roll(
        &self,
        key: PartitionKey,
        offset: i64,
        segment: Option<(i64, SegmentRef)>,
    ) -> Result<(), ClaimError> {
        let (producers, old_snapshot) = {
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
            (producers, partition.log.rolled_offset())
        };
        self.create_settled(&self.producers_key(key, offset), vec![producers.encode()])
            .await?;
        let updated = self
            .update_partition(key, |partition, record| {
                record.rolled_offset = offset;
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
        let State { partitions, stream, .. } = &mut *state;
        let Some(partition) = partitions.get_mut(&key) else {
            return Ok(());
        };
        if let Some((base_offset, segment)) = segment {
            partition.segments.rolled(base_offset, segment);
        }
        for run in partition.log.rolled(offset) {
            if let Some(open) = stream.as_mut() {
                open.release(run.location.object);
            }
        }
        if old_snapshot > 0 && old_snapshot < offset {
            let name = self.producers_key(key, old_snapshot);
            state.doom(self.runtime.now() + self.config.delete_grace, name);
        }
        Ok(())
    }

    /// Changes a partition's record if this shard still owns it. `false`, and the partition given up, if it does not.
    ///
    /// While nobody knows whether a change was applied, nothing else is done to the record; the partition is served all
    /// the same, since whoever takes it over fences this shard's stream.
    pub(super) async fn update_partition(
        &self,
        key: PartitionKey,
        change: impl FnOnce(&super::Partition, &mut PartitionRecord),
    ) -> Result<bool, ClaimError> {
        let in_doubt = |state: &State| state.partitions.get(&key).is_some_and(super::Partition::is_in_doubt);
        if in_doubt(&self.state.borrow()) && !self.settle_partition(key).await? {
            return Ok(false);
        }
        let (record, mut txn) = {
            let state = self.state.borrow();
            let Some(partition) = state.partitions.get(&key) else {
                return Ok(false);
            };
            let mut record = partition.record.clone();
            change(partition, &mut record);
            let name = partition_key(key.topic_id, key.partition);
            let txn = Txn {
                compares: vec![Compare::ModRevision(name.clone(), partition.mod_revision)],
                ops: vec![Op::Put {
                    key: name,
                    value: record.encode(),
                    lease: None,
                }],
            };
            (record, txn)
        };
        if planted::is(Bug::RollUnfenced) {
            txn.compares.clear();
        }
        let why = match self.metastore.txn(txn).await {
            Ok(outcome) if outcome.succeeded => {
                let mut state = self.state.borrow_mut();
                let Some(partition) = state.partitions.get_mut(&key) else {
                    return Ok(false);
                };
                partition.adopt_record(record, outcome.revision);
                return Ok(true);
            }
            Ok(_) => "it has changed".to_string(),
            Err(MetastoreError::OutcomeUnknown(why)) => {
                if let Some(partition) = self.state.borrow_mut().partitions.get_mut(&key) {
                    partition.doubtful.push(record.clone());
                }
                why
            }
            Err(error) => return Err(error.into()),
        };
        if !self.settle_partition(key).await? {
            return Ok(false);
        }
        let state = self.state.borrow();
        match state.partitions.get(&key) {
            Some(partition) if partition.record == record => Ok(true),
            Some(_) => Err(MetastoreError::OutcomeUnknown(why).into()),
            None => Ok(false),
        }
    }

    /// Looks how a partition's record stands: unchanged, as one of this shard's own attempts left it, or another's. Only
    /// then it is `false`, and everything is given up: a new claim reads how it stands.
    async fn settle_partition(&self, key: PartitionKey) -> Result<bool, ClaimError> {
        let found = self.read_partition(key).await?;
        let mut state = self.state.borrow_mut();
        let Some(partition) = state.partitions.get_mut(&key) else {
            return Ok(false);
        };
        match found {
            Some((_, revision)) if revision == partition.mod_revision => return Ok(true),
            Some((record, revision)) if partition.doubtful.contains(&record) => {
                partition.adopt_record(record, revision);
                return Ok(true);
            }
            _ => {}
        }
        log::warn!("the record of {key:?} is another's: this shard's stream is given up and claimed anew");
        state.forget_everything(ErrorCode::NOT_LEADER_OR_FOLLOWER);
        self.ownership_wake.wake();
        Ok(false)
    }

    /// Makes one object of many if the open stream has too many. `true` if it did.
    async fn merge_slots(&self) -> Result<bool, ClaimError> {
        let Some((stream, objects, level)) = self.plan_merge() else {
            return Ok(false);
        };
        let (first_seq, last_seq) = (objects[0].object.first_seq, objects[objects.len() - 1].object.last_seq);
        let runs = self.runs_in(stream, first_seq, last_seq);
        let nonce = u128::from(self.runtime.random_u64());
        let mut builder = WalBuilder::new(Kind::Merged, stream, first_seq, last_seq, nonce);
        for (key, tail) in &runs {
            let mut batches = Vec::new();
            for run in tail {
                batches.extend(self.run_batches(run).await?);
            }
            builder.push_run(merged_run(*key, tail), batches);
            self.runtime.yield_now().await;
        }
        let object = builder.finish();
        let merged = ObjectRef {
            stream,
            first_seq,
            last_seq,
            merged: true,
        };
        let name = self.object_key(merged);
        let placed = if self.create_settled(&name, object.parts).await? {
            object.runs
        } else {
            // An earlier attempt whose transaction did not come through: it holds at least what is left now.
            self.read_footer(merged).await?
        };
        self.install_merged(merged, level, placed, object.len).await?;
        Ok(true)
    }

    fn plan_merge(&self) -> Option<(StreamId, Vec<LiveObject>, u8)> {
        let state = self.state.borrow();
        let stream = state.stream.as_ref()?;
        let live: Vec<&LiveObject> = stream.live.values().collect();
        let inputs: Vec<MergeInput> = live
            .iter()
            .map(|live| MergeInput {
                first_seq: live.object.first_seq,
                last_seq: live.object.last_seq,
                level: live.level,
                bytes: live.bytes,
            })
            .collect();
        let (range, level) = merge::plan(&inputs, self.config.live_slots_max)?;
        Some((
            stream.id,
            live[range].iter().map(|live| (*live).clone()).collect(),
            level,
        ))
    }

    /// The committed runs of each partition that lie in these slots.
    fn runs_in(&self, stream: StreamId, first_seq: u64, last_seq: u64) -> BTreeMap<PartitionKey, Vec<TailRun>> {
        let state = self.state.borrow();
        let mut runs: BTreeMap<PartitionKey, Vec<TailRun>> = BTreeMap::new();
        for (key, partition) in &state.partitions {
            for run in partition.log.tail() {
                let object = run.location.object;
                if object.stream == stream && object.first_seq >= first_seq && object.last_seq <= last_seq {
                    runs.entry(*key).or_default().push(run.clone());
                }
            }
        }
        runs
    }

    async fn install_merged(&self, merged: ObjectRef, level: u8, runs: Vec<Run>, bytes: u64) -> Result<(), ClaimError> {
        let replaced = |object: &MergedObject| object.first >= merged.first_seq && object.last <= merged.last_seq;
        let updated = self
            .update_stream(merged.stream, |record| {
                record.merged.retain(|object| !replaced(object));
                record.merged.push(MergedObject {
                    first: merged.first_seq,
                    last: merged.last_seq,
                    level,
                });
                record.merged.sort_by_key(|object| object.first);
                record.first_live_seq = record.first_live_seq.max(merged.last_seq + 1);
            })
            .await?;
        if !updated {
            return Ok(());
        }
        let mut state = self.state.borrow_mut();
        let mut runs_left = 0;
        for run in runs {
            let key = PartitionKey {
                topic_id: run.topic_id,
                partition: run.partition,
            };
            let Some(partition) = state.partitions.get_mut(&key) else {
                continue;
            };
            if run.next_offset <= partition.log.rolled_offset() {
                continue;
            }
            let location = Location {
                object: merged,
                position: run.position,
                length: run.length,
            };
            partition.log.relocate(run.base_offset, run.next_offset, location);
            runs_left += 1;
        }
        let Some(stream) = state.stream.as_mut() else {
            return Ok(());
        };
        let gone: Vec<u64> = stream
            .live
            .range(merged.first_seq..=merged.last_seq)
            .map(|(first, _)| *first)
            .collect();
        let gone: Vec<ObjectRef> = gone
            .iter()
            .filter_map(|first| stream.live.remove(first))
            .map(|live| live.object)
            .collect();
        stream.live.insert(
            merged.first_seq,
            LiveObject {
                object: merged,
                level,
                bytes,
                runs_left,
            },
        );
        let due = self.runtime.now() + self.config.delete_grace;
        for object in gone {
            let name = self.object_key(object);
            state.doom(due, name);
        }
        Ok(())
    }

    /// Records a new first live slot, and dooms the objects that hold nothing unrolled any more.
    async fn trim(&self) -> Result<(), ClaimError> {
        let Some((stream, first_live, gone)) = self.plan_trim() else {
            return Ok(());
        };
        let updated = self
            .update_stream(stream, |record| {
                record
                    .merged
                    .retain(|object| !gone.iter().any(|gone| gone.merged && gone.first_seq == object.first));
                record.first_live_seq = record.first_live_seq.max(first_live);
            })
            .await?;
        if !updated {
            return Ok(());
        }
        let mut state = self.state.borrow_mut();
        let due = self.runtime.now() + self.config.delete_grace;
        for object in gone {
            if let Some(stream) = state.stream.as_mut() {
                stream.live.remove(&object.first_seq);
            }
            let name = self.object_key(object);
            state.doom(due, name);
        }
        Ok(())
    }

    fn plan_trim(&self) -> Option<(StreamId, u64, Vec<ObjectRef>)> {
        let state = self.state.borrow();
        let stream = state.stream.as_ref()?;
        let mut gone = Vec::new();
        let mut first_live = None;
        for live in stream.live.values() {
            let empty = live.runs_left == 0;
            if live.object.merged {
                if empty {
                    gone.push(live.object);
                }
                continue;
            }
            if !empty {
                first_live = Some(live.object.first_seq);
                break;
            }
            gone.push(live.object);
        }
        let first_live = first_live.unwrap_or(stream.next_commit_seq);
        (!gone.is_empty()).then_some((stream.id, first_live, gone))
    }

    /// Changes the open stream's record if it is unchanged and open: nothing is trimmed under a successor. While nobody
    /// knows whether a change was applied, nothing else is done to it.
    async fn update_stream(&self, id: StreamId, change: impl FnOnce(&mut StreamRecord)) -> Result<bool, ClaimError> {
        let in_doubt = |state: &State| state.open(id).is_some_and(|stream| !stream.doubtful.is_empty());
        if in_doubt(&self.state.borrow()) && !self.settle_stream(id).await? {
            return Ok(false);
        }
        let (revision, mut record) = {
            let state = self.state.borrow();
            let Some(stream) = state.open(id) else {
                return Ok(false);
            };
            (stream.mod_revision, stream.record.clone())
        };
        if record.state != StreamState::Open {
            return Ok(false);
        }
        change(&mut record);
        let key = stream_key(id.0);
        let txn = Txn {
            compares: vec![Compare::ModRevision(key.clone(), revision)],
            ops: vec![Op::Put {
                key,
                value: record.encode(),
                lease: None,
            }],
        };
        let outcome = match self.metastore.txn(txn).await {
            Ok(outcome) if !outcome.succeeded && planted::is(Bug::TrimUnderSuccessor) => Ok(TxnOutcome {
                succeeded: true,
                ..outcome
            }),
            outcome => outcome,
        };
        let why = match outcome {
            Ok(outcome) if outcome.succeeded => {
                let mut state = self.state.borrow_mut();
                let Some(stream) = state.open_mut(id) else {
                    return Ok(false);
                };
                stream.adopt_record(record, outcome.revision);
                return Ok(true);
            }
            Ok(_) => "it has changed".to_string(),
            Err(MetastoreError::OutcomeUnknown(why)) => {
                if let Some(stream) = self.state.borrow_mut().open_mut(id) {
                    stream.doubtful.push(record.clone());
                }
                why
            }
            Err(error) => return Err(error.into()),
        };
        if !self.settle_stream(id).await? {
            return Ok(false);
        }
        let state = self.state.borrow();
        match state.open(id) {
            Some(stream) if stream.record == record => Ok(true),
            Some(_) => Err(MetastoreError::OutcomeUnknown(why).into()),
            None => Ok(false),
        }
    }

    /// The same for the open stream's record as [`Shard::settle_partition`] for a partition's.
    async fn settle_stream(&self, id: StreamId) -> Result<bool, ClaimError> {
        let (record, revision) = self.read_stream(id).await?;
        let mut state = self.state.borrow_mut();
        let Some(stream) = state.open_mut(id) else {
            return Ok(false);
        };
        if revision == stream.mod_revision {
            return Ok(true);
        }
        if stream.doubtful.contains(&record) {
            stream.adopt_record(record, revision);
            return Ok(true);
        }
        log::warn!("the record of stream {id} is another's: the stream is given up and claimed anew");
        state.forget_everything(ErrorCode::NOT_LEADER_OR_FOLLOWER);
        self.ownership_wake.wake();
        Ok(false)
    }

    /// Moves log starts past segments that are too old or too many, and dooms those segments.
    async fn apply_retention(&self) -> Result<(), ClaimError> {
        let now = self.runtime.now();
        let due: Vec<PartitionKey> = {
            let mut state = self.state.borrow_mut();
            let mut due = Vec::new();
            for (key, partition) in &mut state.partitions {
                let start = partition.log.log_start_offset();
                let limited = partition.config.retention_ms.is_some() || partition.config.retention_bytes.is_some();
                // Segments before the start are of deletions that somebody asked for.
                let something = (limited && partition.log.rolled_offset() > start) || start > 0;
                let waited = now - partition.retention_checked >= RETENTION_INTERVAL;
                if something && waited && !partition.config.keep_everything {
                    partition.retention_checked = now;
                    due.push(*key);
                }
            }
            due
        };
        for key in due {
            self.retain(key).await?;
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
                    self.segment_max_timestamp(key, *base_offset).await? < now_ms - limit
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

    async fn delete_doomed(&self) -> Result<(), ClaimError> {
        let now = self.runtime.now();
        loop {
            let batch: Vec<String> = {
                let state = self.state.borrow();
                state
                    .doomed
                    .iter()
                    .take_while(|(due, _)| *due <= now)
                    .take(100)
                    .map(|(_, key)| key.clone())
                    .collect()
            };
            if batch.is_empty() {
                return Ok(());
            }
            self.store.delete(&batch).await?;
            self.state.borrow_mut().doomed.drain(..batch.len());
        }
    }
}

impl State {
    fn doom(&mut self, due: Duration, key: String) {
        self.doomed.push_back((due, key));
    }
}

/// How a segment came out.
enum Written {
    /// It ends here, and its records take so many bytes.
    Until(i64, u64),
    /// Its index is an older attempt's and names this offset.
    IndexReaches(i64),
}

/// The footer entry of several runs of one partition that become one.
fn merged_run(key: PartitionKey, tail: &[TailRun]) -> Run {
    let (first, last) = (&tail[0], &tail[tail.len() - 1]);
    Run {
        topic_id: key.topic_id,
        partition: key.partition,
        leader_epoch: last.leader_epoch,
        base_offset: first.base_offset,
        next_offset: last.next_offset,
        position: 0,
        length: 0,
        max_timestamp: tail.iter().map(|run| run.max_timestamp).max().unwrap_or(-1),
        crc32c: 0,
        producers: tail.iter().flat_map(|run| run.producers.iter().copied()).collect(),
    }
}
