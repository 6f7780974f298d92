//! Which partitions this shard owns: claims them when nobody live does, gives them up when somebody else has.

use super::fetch::wake_all;
use super::segments::SegmentList;
use super::takeover::{ClaimError, StreamTail};
use super::{OpenStream, Partition, PendingProduce, Shard, ShardConfig, State};
use crate::cluster::image::{preferred_shards, ClusterImage, TopicImage};
use crate::mailbox::ProduceResult;
use crate::metrics::Metrics;
use crate::planted::{self, Bug};
use crate::topic_config::TopicConfig;
use bytes::Bytes;
use futures::future::try_join_all;
use futures::stream::{self, StreamExt};
use kafscale_codec::error_code::ErrorCode;
use kafscale_codec::types::TopicId;
use kafscale_metastore::counters::PRODUCER_IDS;
use kafscale_metastore::keys::{
    broker_key, counter_key, deleted_key, partition_key, stream_key, CountRecord, Key, PartitionRecord, StreamRecord,
    StreamState,
};
use kafscale_metastore::{prefix_end, Compare, Op, Revision, Txn, TXN_OPS_MAX};
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

impl Shard {
    /// Claims what should be claimed whenever the cluster changes, until the shard stops.
    pub(super) async fn ownership_loop(self: Rc<Self>) {
        while !self.stopped.get() {
            self.ownership_wake.wait().await;
            if self.stopped.get() || self.draining.get() {
                continue;
            }
            if let Err(error) = self.claim_all().await {
                log::warn!("claim partitions: {error}; trying again");
                self.runtime.sleep(CLAIM_RETRY).await;
                self.ownership_wake.wake();
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
        let mut tails = HashMap::new();
        for id in streams {
            tails.insert(id, self.take_over(id).await?);
        }
        let (image, tails) = (&image, &tails);
        let results: Vec<Result<usize, ClaimError>> = stream::iter(batches(&free, self.config.claim_batch))
            .map(|batch| self.claim(image, batch, stream, tails))
            .buffer_unordered(CLAIMS_AT_ONCE)
            .collect()
            .await;
        let mut claimed = 0;
        for result in results {
            claimed += result?;
        }
        let took = self.runtime.now() - started;
        log::info!(
            "shard {} claimed {claimed} of {} partitions in {took:?}",
            self.config.shard,
            wanted.len()
        );
        Ok(())
    }

    fn wanted(&self, image: &ClusterImage) -> Vec<Wanted> {
        let state = self.state.borrow();
        let (me, shards) = (self.config.broker_id, self.config.shards);
        let mut wanted = Vec::new();
        for topic in image.topics.values() {
            let topic_id = topic.record.topic_id;
            let mut want = |partition| {
                let key = PartitionKey { topic_id, partition };
                // A record that is there and cannot be read, or was there: nobody knows what a claim would have to keep.
                let unreadable = image.unreadable.contains_key(&Key::Partition(topic_id, partition));
                if !unreadable && !state.partitions.contains_key(&key) {
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

    /// Claims a batch, free by this picture, in one transaction; returns how many partitions that were.
    async fn claim(
        &self,
        image: &ClusterImage,
        batch: &[Found],
        stream: StreamId,
        tails: &HashMap<StreamId, StreamTail>,
    ) -> Result<usize, ClaimError> {
        let owners = batch.iter().filter_map(|found| found.record.as_ref());
        let mut txn = Txn {
            compares: self.owners_are_gone(image, owners.map(|(record, _)| record)),
            ops: Vec::with_capacity(batch.len()),
        };
        let topics: BTreeSet<TopicId> = batch.iter().map(|found| found.key.topic_id).collect();
        let deleted = topics.into_iter().map(deleted_key);
        txn.compares.extend(deleted.map(Compare::Absent));
        for Found { key, record, .. } in batch {
            let name = partition_key(key.topic_id, key.partition);
            txn.compares.push(match record {
                Some((_, revision)) => Compare::ModRevision(name, *revision),
                None => Compare::Absent(name),
            });
        }
        let any_new = batch.iter().any(|found| found.record.is_none());
        let last_producer = match any_new {
            true => self.last_producer_id().await?,
            false => None,
        };
        let opened = try_join_all(batch.iter().map(|found| async move {
            let record = found.record.as_ref().map(|(record, _)| record.clone());
            let (mut log, record) = self.open_log(found.key, record, stream, tails).await?;
            if let (None, Some(last)) = (&found.record, last_producer) {
                log.producers.may_have_forgotten(last);
            }
            Ok::<_, ClaimError>((found, log, record))
        }))
        .await?;
        txn.ops.extend(opened.iter().map(|(found, _, record)| Op::Put {
            key: partition_key(found.key.topic_id, found.key.partition),
            value: record.encode(),
            lease: None,
        }));
        // As late as possible: a trim changes the record, too.
        if !planted::is(Bug::ClaimIgnoresStream) {
            txn.compares.push(self.stream_is_open(stream)?);
        }
        let outcome = self.metastore.txn(txn).await?;
        if !outcome.succeeded {
            self.settle_own_stream(stream).await?;
            return Err(ClaimError::Contended("the partitions to claim".to_string()));
        }
        let mut state = self.state.borrow_mut();
        if state.stream.as_ref().map(|open| open.id) != Some(stream) {
            return Err(ClaimError::Contended(format!("stream {stream}")));
        }
        let count = opened.len();
        for (found, log, record) in opened {
            let partition = Partition::new(
                log,
                record,
                outcome.revision,
                &found.topic,
                &self.config.topic_defaults,
                &self.metrics,
            );
            state.partitions.insert(found.key, partition);
        }
        Ok(count)
    }

    /// That the stream which the claimed partitions will append to is there, open, and as this shard knows it. Its owner
    /// may have been away for so long that somebody has ended the stream, and even forgotten it, fence and all.
    fn stream_is_open(&self, stream: StreamId) -> Result<Compare, ClaimError> {
        let state = self.state.borrow();
        let open = state.open(stream).filter(|open| open.record.state == StreamState::Open);
        let open = open.ok_or_else(|| ClaimError::Contended(format!("stream {stream}")))?;
        Ok(Compare::ModRevision(stream_key(stream.0), open.mod_revision))
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

    /// That this broker is registered when it claims, and that those who led before are not: while an owner is registered
    /// nobody takes anything over from it, however old the claimer's picture is.
    fn owners_are_gone<'a>(
        &self,
        image: &ClusterImage,
        records: impl Iterator<Item = &'a PartitionRecord>,
    ) -> Vec<Compare> {
        let mut brokers: BTreeSet<i32> = records.map(|record| record.leader).filter(|id| *id >= 0).collect();
        brokers.insert(self.config.broker_id);
        let as_pictured = |id: i32| match image.brokers.get(&id) {
            // Another life of the owner, or the claimer itself.
            Some(broker) => Compare::Value(broker_key(id), broker.encode()),
            None => Compare::Absent(broker_key(id)),
        };
        brokers.into_iter().map(as_pictured).collect()
    }

    pub(super) async fn read_partition(
        &self,
        key: PartitionKey,
    ) -> Result<Option<(PartitionRecord, Revision)>, ClaimError> {
        let found = self.metastore.get(&partition_key(key.topic_id, key.partition)).await?;
        found
            .map(|found| Ok((PartitionRecord::decode(&found.value)?, found.mod_revision)))
            .transpose()
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
        let Some(found) = self.metastore.get(&counter_key(PRODUCER_IDS)).await? else {
            return Ok(None);
        };
        Ok(Some(CountRecord::decode(&found.value)?.count as i64 - 1))
    }

    /// The partition's log as its record and the streams tell, and the record of this claim.
    async fn open_log(
        &self,
        key: PartitionKey,
        found: Option<PartitionRecord>,
        stream: StreamId,
        tails: &HashMap<StreamId, StreamTail>,
    ) -> Result<(PartitionLog, PartitionRecord), ClaimError> {
        let old = found.unwrap_or(PartitionRecord {
            leader: -1,
            leader_incarnation: 0,
            shard: 0,
            leader_epoch: -1,
            stream: NO_STREAM,
            log_start_offset: 0,
            rolled_offset: 0,
            tail_streams: Vec::new(),
            epoch_starts: Vec::new(),
        });
        let mut tail: Vec<TailRun> = Vec::new();
        let mut tail_streams = Vec::new();
        let since_ms = self.runtime.wall_clock_ms();
        let mut end = old.rolled_offset;
        for id in streams_of(&old) {
            let tail_of = match tails.get(&id) {
                Some(tail_of) => tail_of.get(&key),
                // Nothing of this shard's open stream is left where it claims: it was rolled before it was given up.
                None if id == stream => None,
                None => {
                    return Err(ClaimError::Inconsistent(format!(
                        "stream {id} of {key:?} is not sealed"
                    )))
                }
            };
            for (object, run) in tail_of
                .into_iter()
                .flatten()
                .filter(|(_, run)| run.next_offset > old.rolled_offset)
            {
                // Only the first run may begin below: when segments end in the middle of it.
                let fits = run.base_offset == end || (tail.is_empty() && run.base_offset < end);
                if !fits || run.next_offset <= end {
                    return Err(ClaimError::Inconsistent(format!(
                        "{key:?} ends at {end}, and {object:?} goes on with {}..{}",
                        run.base_offset, run.next_offset
                    )));
                }
                end = run.next_offset;
                tail.push(TailRun {
                    base_offset: run.base_offset,
                    next_offset: run.next_offset,
                    leader_epoch: run.leader_epoch,
                    max_timestamp: run.max_timestamp,
                    since_ms,
                    location: Location {
                        object: *object,
                        position: run.position,
                        length: run.length,
                    },
                    batches: None,
                    producers: run.producers.clone(),
                });
                if tail_streams.last() != Some(&id.0) {
                    tail_streams.push(id.0);
                }
            }
        }
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
        match self.store.get_range(&name, 0..u64::MAX).await {
            Ok(bytes) => {
                ProducerState::decode(&bytes).map_err(|error| ClaimError::Inconsistent(format!("{name}: {error}")))
            }
            Err(StoreError::NotFound(_)) => Err(ClaimError::Inconsistent(format!("{name} is missing"))),
            Err(error) => Err(error.into()),
        }
    }

    /// Key of the producer state as of `offset`.
    pub(super) fn producers_key(&self, key: PartitionKey, offset: i64) -> String {
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
        let counter = counter_key("streams");
        self.led_since.set(self.registration.term());
        loop {
            let found = self.metastore.get(&counter).await?;
            let next = match &found {
                Some(found) => CountRecord::decode(&found.value)?.count,
                None => 1,
            };
            let record = StreamRecord {
                broker_id: self.config.broker_id,
                incarnation: self.config.incarnation,
                shard: self.config.shard,
                state: StreamState::Open,
                first_live_seq: 0,
                merged: Vec::new(),
            };
            let txn = Txn {
                compares: vec![
                    found.map_or(Compare::Absent(counter.clone()), |found| {
                        Compare::ModRevision(counter.clone(), found.mod_revision)
                    }),
                    Compare::Absent(stream_key(next)),
                ],
                ops: vec![
                    Op::Put {
                        key: counter.clone(),
                        value: CountRecord { count: next + 1 }.encode(),
                        lease: None,
                    },
                    Op::Put {
                        key: stream_key(next),
                        value: record.encode(),
                        lease: None,
                    },
                ],
            };
            // An unknown outcome is an error here: the number may be taken, so the next attempt takes another.
            let outcome = self.metastore.txn(txn).await?;
            if outcome.succeeded {
                let id = StreamId(next);
                self.state.borrow_mut().stream = Some(OpenStream {
                    id,
                    mod_revision: outcome.revision,
                    record,
                    doubtful: Vec::new(),
                    next_seq: 0,
                    next_commit_seq: 0,
                    in_flight_bytes: 0,
                    finished: BTreeMap::new(),
                    live: BTreeMap::new(),
                });
                return Ok(id);
            }
        }
    }
}

/// What one transaction claims: at most `claim_batch` partitions, and as many as its compares allow: one for each
/// partition, each topic and each former owner, for the claimer and for its stream.
fn batches(free: &[Found], claim_batch: usize) -> impl Iterator<Item = &[Found]> {
    let mut rest = free;
    std::iter::from_fn(move || {
        let (mut topics, mut owners) = (BTreeSet::new(), BTreeSet::new());
        let fits = rest.iter().enumerate().take_while(|(before, found)| {
            topics.insert(found.key.topic_id);
            owners.extend(found.record.as_ref().map(|(record, _)| record.leader));
            *before < claim_batch && before + 1 + topics.len() + owners.len() + 2 <= TXN_OPS_MAX
        });
        let count = fits.count();
        let (batch, later) = rest.split_at(count);
        rest = later;
        (count > 0).then_some(batch)
    })
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
