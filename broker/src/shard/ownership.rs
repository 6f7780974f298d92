//! Which partitions this shard owns: claims them when nobody live does, gives them up when somebody else has.

use super::fetch::wake_all;
use super::quarantine::Quarantined;
use super::segments::SegmentList;
use super::tail::{self, StreamTail};
use super::takeover::ClaimError;
use super::{OpenStream, Partition, PendingProduce, Shard, ShardConfig, State};
use crate::cluster::image::{preferred_shards, ClusterImage, TopicImage};
use crate::mailbox::ProduceResult;
use crate::metrics::Metrics;
use crate::planted::{self, Bug};
use crate::topic_config::TopicConfig;
use bytes::Bytes;
use futures::future::{select, try_join_all};
use futures::stream::{self, StreamExt};
use kafscale_codec::error_code::ErrorCode;
use kafscale_metastore::counters::{last_allocated, PRODUCER_IDS};
use kafscale_metastore::keys::{partition_key, BrokerRecord, Key, PartitionRecord, StreamState};
use kafscale_metastore::partitions::{self, claim_length, Claim, PartitionWrite};
use kafscale_metastore::{prefix_end, streams, OperationError, Revision};
use kafscale_storage_engine::object_store::StoreError;
use kafscale_storage_engine::partition_log::{Location, PartitionKey, PartitionLog, TailRun};
use kafscale_storage_engine::producer_state::ProducerState;
use kafscale_storage_engine::wal::StreamId;
use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

/// Claiming transactions under way at the same time.
const CLAIMS_AT_ONCE: usize = 4;

/// Records that are read at once.
const RECORDS_PER_READ: usize = 1000;

/// In a partition's record: nobody appends, so no stream has to be ended. Streams are counted from 1.
pub(super) const NO_STREAM: u64 = 0;

/// Pause after a claim failed.
const CLAIM_RETRY: Duration = Duration::from_millis(250);

/// What to own, of which topic.
struct Wanted {
    key: PartitionKey,
    topic: Arc<TopicImage>,
}

/// The same, and its record with its revision, if it has one.
struct Found {
    key: PartitionKey,
    topic: Arc<TopicImage>,
    record: Option<(PartitionRecord, Revision)>,
}

/// What the streams that were taken over hold, or why that cannot be known.
type Tails = HashMap<StreamId, Result<StreamTail, String>>;

impl Shard {
    /// Claims what should be claimed whenever the cluster changes, until the shard stops.
    pub(super) async fn ownership_loop(self: Rc<Self>) {
        while !self.stopped.get() {
            self.wait_for_ownership_work().await;
            if self.stopped.get() {
                return;
            }
            if !self.draining.get() {
                if let Err(error) = self.claim_all().await {
                    log::warn!("claim partitions: {error}; trying again");
                    self.runtime.sleep(CLAIM_RETRY).await;
                    self.ownership_wake.wake();
                }
            }
            self.state.borrow_mut().postpone_due_retries(self.runtime.now());
        }
    }

    /// Waits until the cluster changes or a quarantined partition is to be tried again.
    async fn wait_for_ownership_work(&self) {
        let next_retry = self.state.borrow().next_retry();
        match next_retry {
            None => self.ownership_wake.wait().await,
            Some(at) => {
                let pause = self.runtime.sleep(at.saturating_sub(self.runtime.now()));
                drop(select(Box::pin(self.ownership_wake.wait()), pause).await);
            }
        }
    }

    /// Gives up what `image` says is another's or deleted. A topic that is merely missing from the image keeps its
    /// partitions here: what they have unrolled may be nowhere else.
    pub(super) fn drop_what_others_own(&self, image: &ClusterImage) {
        if !image.complete {
            return;
        }
        let mut state = self.state.borrow_mut();
        let mut deleted = Vec::new();
        let mut taken = Vec::new();
        for (key, partition) in &mut state.partitions {
            let known = image.topic_by_id(key.topic_id);
            let absence = known.is_none() && planted::is(Bug::AbsenceIsDeletion);
            if absence || image.deleted.contains(&key.topic_id) {
                deleted.push(*key);
            }
            let Some(topic) = known else {
                continue;
            };
            let leader = topic.leaders.get(key.partition as usize).copied().flatten();
            if leader.is_some_and(|leader| leader.leader_epoch > partition.log.leader_epoch()) {
                taken.push(*key);
            } else if partition.topic.mod_revision != topic.mod_revision {
                partition.adopt_topic(topic, &self.config.topic_defaults);
            }
        }
        for key in deleted {
            state.drop_partition(key, ErrorCode::UNKNOWN_TOPIC_OR_PARTITION);
        }
        let others = |key: &PartitionKey, refused: &Quarantined| match image.topic_by_id(key.topic_id) {
            _ if image.deleted.contains(&key.topic_id) => true,
            None => false,
            Some(topic) => {
                let leader = topic.leaders.get(key.partition as usize).copied().flatten();
                leader.is_some_and(|leader| Some(leader.leader_epoch) > refused.leader_epoch)
                    && image.live_leader(topic, key.partition).is_some_and(|leader| {
                        (leader.broker_id, leader.shard) != (self.config.broker_id, self.config.shard)
                    })
            }
        };
        let gone: Vec<PartitionKey> = state
            .quarantined
            .iter()
            .filter(|(key, refused)| others(key, refused))
            .map(|(key, _)| *key)
            .collect();
        for key in gone {
            self.forget_quarantine(&mut state, key);
        }
        if !taken.is_empty() {
            // Whoever claimed them fenced this stream first: nothing of it can be acknowledged any more.
            log::warn!(
                "{} partitions were claimed by another owner: this shard's stream is given up",
                taken.len()
            );
            state.forget_everything(ErrorCode::NOT_LEADER_OR_FOLLOWER);
        }
    }

    async fn claim_all(&self) -> Result<(), ClaimError> {
        let image = self.image();
        if !image.complete || !image.is_live(self.config.broker_id, self.config.incarnation) {
            return Ok(());
        }
        let wanted = self.wanted(&image);
        if wanted.is_empty() {
            return Ok(());
        }
        let started = self.runtime.now();
        let stream = self.ensure_stream().await?;
        let mut free = self.read_partitions(&wanted).await?;
        free.retain(|found| self.is_free(&image, found.record.as_ref().map(|(record, _)| record)));
        let streams: BTreeSet<StreamId> = free
            .iter()
            .filter_map(|found| found.record.as_ref())
            .flat_map(|(record, _)| streams_of(record))
            .filter(|id| *id != stream)
            .collect();
        let mut tails = Tails::new();
        let mut failed = None;
        for id in streams {
            let tail = self.take_over(id).await;
            match tail {
                Err(error) if !error.is_damage() => {
                    // The others would wait as long for the same store. What needs none of them is claimed now.
                    failed = Some(error);
                    break;
                }
                tail => drop(tails.insert(id, tail.map_err(|error| error.to_string()))),
            }
        }
        free.retain(|found| {
            let mut streams = found.record.iter().flat_map(|(record, _)| streams_of(record));
            streams.all(|id| id == stream || tails.contains_key(&id))
        });
        let (image, tails) = (&image, &tails);
        let results: Vec<Result<usize, ClaimError>> = stream::iter(batches(&free, self.config.claim_batch))
            .map(|batch| self.claim(image, batch, stream, tails))
            .buffer_unordered(CLAIMS_AT_ONCE)
            .collect()
            .await;
        let mut claimed = 0;
        for result in results {
            match result {
                Ok(count) => claimed += count,
                Err(error) => failed = Some(error),
            }
        }
        let took = self.runtime.now() - started;
        log::info!(
            "shard {} claimed {claimed} of {} partitions in {took:?}",
            self.config.shard,
            wanted.len()
        );
        failed.map_or(Ok(()), Err)
    }

    fn wanted(&self, image: &ClusterImage) -> Vec<Wanted> {
        let state = self.state.borrow();
        let (me, shards) = (self.config.broker_id, self.config.shards);
        let now = self.runtime.now();
        let mut wanted = Vec::new();
        for topic in image.topics.values() {
            let topic_id = topic.record.topic_id;
            let mut want = |partition| {
                let key = PartitionKey { topic_id, partition };
                // A record that is there and cannot be read, or was there: nobody knows what a claim would have to keep.
                let unreadable = image.unreadable.contains_key(&Key::Partition(topic_id, partition));
                if !unreadable && !state.partitions.contains_key(&key) && !state.is_resting(key, now) {
                    wanted.push(Wanted {
                        key,
                        topic: topic.clone(),
                    });
                }
            };
            // Ours by the record: its stream was lost.
            for (leader, partition) in topic.leaders.iter().zip(0..) {
                let ours = leader.filter(|leader| leader.broker_id == me && leader.shard == self.config.shard);
                if ours.is_some_and(|leader| image.is_live(me, leader.incarnation)) {
                    want(partition);
                }
            }
            // Nobody's, and nearer to us than to any other.
            for (partition, shard) in preferred_shards(image, topic, me, shards) {
                if shard == self.config.shard && image.live_leader(topic, partition).is_none() {
                    want(partition);
                }
            }
        }
        wanted
    }

    /// Claims a batch, free by this picture, in one transaction; returns how many partitions that were. One that cannot be
    /// opened because of damage is claimed as quarantined.
    async fn claim(
        &self,
        image: &ClusterImage,
        batch: &[Found],
        stream: StreamId,
        tails: &Tails,
    ) -> Result<usize, ClaimError> {
        let any_new = batch.iter().any(|found| found.record.is_none());
        let last_producer = match any_new {
            true => self.last_producer_id().await?,
            false => None,
        };
        let opened = try_join_all(batch.iter().map(|found| async move {
            let record = found.record.as_ref().map(|(record, _)| record.clone());
            let opened = match self.open_log(found.key, record.clone(), stream, tails).await {
                Ok((mut log, record)) => {
                    if let (None, Some(last)) = (&found.record, last_producer) {
                        log.producers.may_have_forgotten(last);
                    }
                    (Ok(log), record)
                }
                Err(error) if error.is_damage() => (Err(error.to_string()), self.refused_record(record, stream)),
                Err(error) => return Err(error),
            };
            Ok::<_, ClaimError>((found, opened.0, opened.1))
        }))
        .await?;
        let writes: Vec<PartitionWrite> = opened
            .iter()
            .map(|(found, _, record)| PartitionWrite {
                topic_id: found.key.topic_id,
                partition: found.key.partition,
                expected: found.record.as_ref().map(|(_, revision)| *revision),
                record: record.clone(),
            })
            .collect();
        let owners = batch.iter().filter_map(|found| found.record.as_ref());
        let brokers = self.pictured(image, owners.map(|(record, _)| record));
        let claim = Claim {
            brokers: &brokers,
            // As late as possible: a trim changes the record, too.
            stream: (stream.0, self.open_stream_revision(stream)?),
            writes: &writes,
        };
        let revision = match partitions::claim_partitions(&*self.metastore, &claim).await {
            Ok(revision) => revision,
            Err(OperationError::Conflict) => {
                self.settle_own_stream(stream).await?;
                return Err(ClaimError::Contended("the partitions to claim".to_string()));
            }
            Err(error) => return Err(error.into()),
        };
        if self.state.borrow().stream.as_ref().map(|open| open.id) != Some(stream) {
            return Err(ClaimError::Contended(format!("stream {stream}")));
        }
        let mut count = 0;
        for (found, log, record) in opened {
            let leader_epoch = record.leader_epoch;
            let log = match log {
                Ok(log) => log,
                Err(why) => {
                    self.set_quarantined(&found.topic, found.key, Some(leader_epoch), &why);
                    continue;
                }
            };
            let partition = Partition::new(
                log,
                record,
                revision,
                &found.topic,
                &self.config.topic_defaults,
                &self.metrics,
            );
            let mut state = self.state.borrow_mut();
            self.forget_quarantine(&mut state, found.key);
            state.partitions.insert(found.key, partition);
            count += 1;
        }
        // The picture may have told of this claim before the claim's own answer came, and have been looked at already.
        self.placed.take();
        Ok(count)
    }

    /// The revision at which this shard knows the stream to be open that claimed partitions will append to. Its owner may
    /// have been away for so long that somebody has ended the stream, and even forgotten it, fence and all: the claim
    /// compares that.
    fn open_stream_revision(&self, stream: StreamId) -> Result<Revision, ClaimError> {
        let state = self.state.borrow();
        let open = state.open(stream).filter(|open| open.record.state == StreamState::Open);
        open.map(|open| open.mod_revision)
            .ok_or_else(|| ClaimError::Contended(format!("stream {stream}")))
    }

    /// The record of a partition that this shard owns and refuses. It names all streams that it named before.
    fn refused_record(&self, found: Option<PartitionRecord>, stream: StreamId) -> PartitionRecord {
        let old = found.unwrap_or_else(never_claimed);
        let ShardConfig {
            broker_id,
            incarnation,
            shard,
            ..
        } = self.config;
        if (old.leader, old.leader_incarnation, old.shard, old.stream) == (broker_id, incarnation, shard, stream.0) {
            return old;
        }
        let tail_streams = streams_of(&old).filter(|id| *id != stream).map(|id| id.0).collect();
        PartitionRecord {
            leader: self.config.broker_id,
            leader_incarnation: self.config.incarnation,
            shard: self.config.shard,
            leader_epoch: old.leader_epoch + 1,
            stream: stream.0,
            tail_streams,
            ..old
        }
    }

    /// Refuses a partition, and says so when that is news.
    fn set_quarantined(&self, topic: &Arc<TopicImage>, key: PartitionKey, leader_epoch: Option<i32>, why: &str) {
        let now = self.runtime.now();
        self.state
            .borrow_mut()
            .quarantine(key, topic.clone(), leader_epoch, now);
        if self.config.board.add(&topic.name, key.partition, why) {
            log::error!(
                "partition {}-{} is quarantined, its requests are refused with KAFKA_STORAGE_ERROR: {why}",
                topic.name,
                key.partition
            );
        }
    }

    /// A partition is not refused here any longer: it is served, or another's, or gone.
    fn forget_quarantine(&self, state: &mut State, key: PartitionKey) {
        if let Some(refused) = state.quarantined.remove(&key) {
            let (topic, partition) = (&refused.topic.name, key.partition);
            self.config.board.remove(topic, partition);
            log::info!("partition {topic}-{partition} is no longer quarantined here");
        }
    }

    /// Whether nobody else leads a partition, by its record: the picture by which it was wanted may be older.
    fn is_free(&self, image: &ClusterImage, record: Option<&PartitionRecord>) -> bool {
        record.is_none_or(|record| {
            let ShardConfig {
                broker_id,
                incarnation,
                shard,
                ..
            } = self.config;
            let ours = (record.leader, record.leader_incarnation, record.shard) == (broker_id, incarnation, shard);
            ours || !image.is_live(record.leader, record.leader_incarnation)
        })
    }

    /// This broker and those who led before, each as the picture has it: another life of the owner may be registered, or
    /// the claimer itself.
    fn pictured<'a>(
        &self,
        image: &ClusterImage,
        records: impl Iterator<Item = &'a PartitionRecord>,
    ) -> Vec<(i32, Option<BrokerRecord>)> {
        let mut brokers: BTreeSet<i32> = records.map(|record| record.leader).filter(|id| *id >= 0).collect();
        brokers.insert(self.config.broker_id);
        let pictured = |id: i32| (id, image.brokers.get(&id).cloned());
        brokers.into_iter().map(pictured).collect()
    }

    pub(super) async fn read_partition(
        &self,
        key: PartitionKey,
    ) -> Result<Option<(PartitionRecord, Revision)>, ClaimError> {
        let found = partitions::load_partition(&*self.metastore, key.topic_id, key.partition).await?;
        Ok(found.map(|found| (found.value, found.mod_revision)))
    }

    /// The records of what is wanted, read in ranges: neighbours, of which others may own some, come together.
    async fn read_partitions(&self, wanted: &[Wanted]) -> Result<Vec<Found>, ClaimError> {
        let mut keys: Vec<(Bytes, &Wanted)> = wanted
            .iter()
            .map(|wanted| (partition_key(wanted.key.topic_id, wanted.key.partition), wanted))
            .collect();
        keys.sort_unstable_by(|a, b| a.0.cmp(&b.0));
        let mut found = Vec::with_capacity(keys.len());
        let mut rest = &keys[..];
        while let Some((first, wanted)) = rest.first() {
            let topic_id = wanted.key.topic_id;
            // Within one topic: nobody wants to read those in between.
            let count = rest.partition_point(|(_, wanted)| wanted.key.topic_id == topic_id);
            let end = prefix_end(&rest[count - 1].0);
            let page = self.metastore.range(first, &end, RECORDS_PER_READ).await?;
            // Whatever lies up to the last key of a page that is not the last one is in it or does not exist.
            let known = match page.items.last().filter(|_| page.more) {
                Some(item) => rest.partition_point(|(key, _)| *key <= item.key),
                None => count,
            };
            let mut items = page.items.iter().peekable();
            for (key, wanted) in &rest[..known] {
                while items.next_if(|item| item.key < *key).is_some() {}
                let record = match items.next_if(|item| item.key == *key) {
                    None => None,
                    Some(item) => match PartitionRecord::decode(&item.value) {
                        Ok(record) => Some((record, item.mod_revision)),
                        // The image names it as soon as it knows of it, and wakes this loop once it can be read.
                        Err(error) => {
                            log::warn!("{:?} is not claimed: its record cannot be read: {error}", wanted.key);
                            continue;
                        }
                    },
                };
                found.push(Found {
                    key: wanted.key,
                    topic: wanted.topic.clone(),
                    record,
                });
            }
            rest = &rest[known..];
            self.runtime.yield_now().await;
        }
        Ok(found)
    }

    /// The largest producer id that was handed out. Producers up to it may be older than a partition that is new, and
    /// have begun in a former topic of the same name: they go on there where they were.
    async fn last_producer_id(&self) -> Result<Option<i64>, ClaimError> {
        let last = last_allocated(&*self.metastore, PRODUCER_IDS).await?;
        Ok(last.map(|last| last as i64))
    }

    /// The partition's log as its record and the streams tell, and the record of this claim.
    async fn open_log(
        &self,
        key: PartitionKey,
        found: Option<PartitionRecord>,
        stream: StreamId,
        tails: &Tails,
    ) -> Result<(PartitionLog, PartitionRecord), ClaimError> {
        let old = found.unwrap_or_else(never_claimed);
        let since_ms = self.runtime.wall_clock_ms();
        let mut streams = Vec::new();
        for id in streams_of(&old) {
            match tails.get(&id) {
                Some(Ok(tail)) => streams.push(tail),
                Some(Err(why)) => {
                    return Err(ClaimError::Inconsistent(format!(
                        "its stream {id} cannot be used: {why}"
                    )))
                }
                // Nothing of this shard's open stream is left where it claims: it was rolled before it was given up.
                None if id == stream => {}
                None => {
                    return Err(ClaimError::Inconsistent(format!(
                        "stream {id} of {key:?} is not sealed"
                    )))
                }
            }
        }
        // Where an epoch began, the one before had ended.
        let known_end = old.epoch_starts.last().map_or(0, |(_, start)| *start);
        let runs = match tail::assemble(key, old.rolled_offset, known_end, streams.into_iter()) {
            Err(lost) if planted::is(Bug::QuarantineForgotten) => {
                log::info!("{lost}");
                Vec::new()
            }
            runs => runs?,
        };
        let mut tail_streams: Vec<u64> = runs.iter().map(|(object, _)| object.stream.0).collect();
        tail_streams.dedup();
        let tail = runs
            .into_iter()
            .map(|(object, run)| TailRun {
                base_offset: run.base_offset,
                next_offset: run.next_offset,
                leader_epoch: run.leader_epoch,
                max_timestamp: run.max_timestamp,
                since_ms,
                location: Location {
                    object,
                    position: run.position,
                    length: run.length,
                },
                batches: None,
                producers: run.producers.clone(),
            })
            .collect();
        let producers = self.read_producers(key, old.rolled_offset).await?;
        let leader_epoch = old.leader_epoch + 1;
        let log = PartitionLog::open(
            key,
            leader_epoch,
            old.log_start_offset,
            old.rolled_offset,
            tail,
            producers,
        );
        let mut epoch_starts = old.epoch_starts;
        // An epoch in which nothing was written needs no entry of its own.
        epoch_starts.retain(|(_, start)| *start < log.next_offset());
        epoch_starts.push((leader_epoch, log.next_offset()));
        let record = PartitionRecord {
            leader: self.config.broker_id,
            leader_incarnation: self.config.incarnation,
            shard: self.config.shard,
            leader_epoch,
            stream: stream.0,
            log_start_offset: old.log_start_offset,
            rolled_offset: old.rolled_offset,
            tail_streams,
            epoch_starts,
        };
        Ok((log, record))
    }

    async fn read_producers(&self, key: PartitionKey, rolled_offset: i64) -> Result<ProducerState, ClaimError> {
        if rolled_offset == 0 {
            return Ok(ProducerState::default());
        }
        let name = self.producers_key(key, rolled_offset);
        let mut damage = String::new();
        // What looks damaged is read again: the bytes may have been damaged on their way.
        for _ in 0..2 {
            damage = match self.store.get_range(&name, 0..u64::MAX).await {
                Ok(bytes) => match ProducerState::decode(&bytes) {
                    Ok(state) => return Ok(state),
                    Err(error) => format!("is damaged: {error}"),
                },
                Err(StoreError::NotFound(_)) => "is missing".to_string(),
                Err(error) => return Err(error.into()),
            };
        }
        Err(ClaimError::Inconsistent(format!(
            "the snapshot of its producers {name} {damage}. Restore that object, or run `kafscale-broker accept-loss \
             producers TOPIC PARTITION` to go on without what idempotent producers wrote last"
        )))
    }

    /// Key of the producer state as of `offset`.
    pub(crate) fn producers_key(&self, key: PartitionKey, offset: i64) -> String {
        let id: String = key.topic_id.0.iter().map(|byte| format!("{byte:02x}")).collect();
        format!(
            "{}/_producers/{id}/{}/{offset:020}.snap",
            self.config.namespace, key.partition
        )
    }

    /// The open stream of this shard; a new one if there is none.
    async fn ensure_stream(&self) -> Result<StreamId, ClaimError> {
        if let Some(stream) = &self.state.borrow().stream {
            return Ok(stream.id);
        }
        self.led_since.set(self.registration.term());
        let ShardConfig {
            broker_id,
            incarnation,
            shard,
            ..
        } = self.config;
        let (id, opened) = streams::open_stream(&*self.metastore, broker_id, incarnation, shard).await?;
        self.state.borrow_mut().stream = Some(OpenStream {
            id: StreamId(id),
            mod_revision: opened.mod_revision,
            record: opened.value,
            doubtful: Vec::new(),
            next_seq: 0,
            next_commit_seq: 0,
            in_flight_bytes: 0,
            finished: BTreeMap::new(),
            live: BTreeMap::new(),
        });
        Ok(StreamId(id))
    }
}

/// What one transaction claims: at most `claim_batch` partitions, and as many as its compares allow.
fn batches(free: &[Found], claim_batch: usize) -> impl Iterator<Item = &[Found]> {
    let mut rest = free;
    std::iter::from_fn(move || {
        let owner = |found: &Found| found.record.as_ref().map(|(record, _)| record.leader);
        let first = rest.iter().take(claim_batch);
        let count = claim_length(first.map(|found| (found.key.topic_id, owner(found))));
        let (batch, later) = rest.split_at(count);
        rest = later;
        (count > 0).then_some(batch)
    })
}

/// The record of a partition that nobody has claimed yet.
fn never_claimed() -> PartitionRecord {
    PartitionRecord {
        leader: -1,
        leader_incarnation: 0,
        shard: 0,
        leader_epoch: -1,
        stream: NO_STREAM,
        log_start_offset: 0,
        rolled_offset: 0,
        tail_streams: Vec::new(),
        epoch_starts: Vec::new(),
    }
}

/// The streams that may hold records of a partition that are not in segments, oldest first.
fn streams_of(record: &PartitionRecord) -> impl Iterator<Item = StreamId> + '_ {
    let all = record.tail_streams.iter().copied().chain([record.stream]);
    all.filter(|id| *id != NO_STREAM).map(StreamId)
}

impl State {
    /// Drops one partition; batches of it that wait are answered with `error`, and what is in flight of it counts for
    /// nobody.
    pub(super) fn drop_partition(&mut self, key: PartitionKey, error: ErrorCode) {
        let Some(mut partition) = self.partitions.remove(&key) else {
            return;
        };
        self.dirty.retain(|dirty| *dirty != key);
        if let Some(stream) = &mut self.stream {
            partition.log.tail().for_each(|run| stream.release(run.location));
        }
        for pending in self.acks.iter_mut() {
            for (at, result) in &mut pending.results {
                if *at == key && result.says_stored() {
                    *result = ProduceResult::error(error);
                }
            }
        }
        wake_all(&mut partition.waiters);
        if self.dirty.is_empty() {
            // Nothing is left to flush, so the next slot may be long in coming, and who waits for it has its answer.
            self.buffered_bytes = 0;
            self.buffered_since = None;
            let next_seq = self.stream.as_ref().map_or(0, |stream| stream.next_seq);
            self.acks.take_from(next_seq).for_each(PendingProduce::answer);
        }
    }
}

impl Partition {
    fn new(
        log: PartitionLog,
        record: PartitionRecord,
        mod_revision: Revision,
        topic: &Arc<TopicImage>,
        defaults: &BTreeMap<String, String>,
        metrics: &Metrics,
    ) -> Self {
        // Where nothing was ever rolled there is nothing to list.
        let segments = match log.rolled_offset() {
            0 => SegmentList::known_empty(),
            _ => SegmentList::default(),
        };
        let mut partition = Partition {
            log,
            record,
            mod_revision,
            doubtful: Vec::new(),
            folder: topic.record.folder.clone(),
            topic: topic.clone(),
            config: Rc::new(fallback_config()),
            metrics: metrics.topic(&topic.name),
            waiters: Vec::new(),
            segments,
            hints: VecDeque::new(),
            retention_checked: Duration::ZERO,
            roll_rests_until: Duration::ZERO,
            moving: false,
            releasing: false,
        };
        partition.adopt_topic(topic, defaults);
        partition
    }

    fn adopt_topic(&mut self, topic: &Arc<TopicImage>, defaults: &BTreeMap<String, String>) {
        self.topic = topic.clone();
        match TopicConfig::parse(&topic.record.configs, defaults) {
            Ok(config) => self.config = Rc::new(config),
            // Settings are checked before they are stored, so this is another version's work: what was in force stays.
            Err(error) => log::error!("settings of topic {}: {error}; they are left as they were", topic.name),
        }
    }
}

fn fallback_config() -> TopicConfig {
    TopicConfig::parse(&BTreeMap::new(), &BTreeMap::new())
        .expect("the table's own defaults are valid: a test reads them")
}
