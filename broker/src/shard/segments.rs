//! A partition's segments, found by a listing only when somebody reads that far back.

use super::fetch::{damaged, Source};
use super::{Partition, Shard};
use crate::planted::{self, Bug};
use kafscale_codec::record_batch::{BatchHeader, HEADER_LEN as BATCH_HEADER_LEN};
use kafscale_storage_engine::object_store::StoreError;
use kafscale_storage_engine::partition_log::PartitionKey;
use kafscale_storage_engine::segment::{self, Index, Part, FOOTER_LEN};
use std::collections::{BTreeMap, HashMap};
use std::rc::Rc;

/// Parsed indexes kept per partition.
const INDEXES_MAX: usize = 4;

/// Headers of batches that are read in one turn on the executor.
const BATCHES_PER_TURN: u32 = 256;

/// How far a look-up by time has come in the segments.
pub(super) enum Skip {
    /// Here may be a record of that time, or a segment is missing: whoever reads here finds the one or is told of the other.
    ReadFrom(i64),
    /// No segment that begins before this offset has one.
    PassedUntil(i64),
}

/// What is known of one segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct SegmentRef {
    /// Bytes of its `.kfs`.
    pub bytes: u64,
    /// Its largest timestamp, once somebody has asked; negative if no record has one.
    pub max_timestamp: Option<i64>,
    /// When it was created, ms since the Unix epoch, once somebody has asked.
    pub created_ms: Option<i64>,
    /// The offset after its last record, as its `.kfst` says, once somebody has asked.
    pub next_offset: Option<i64>,
}

impl SegmentRef {
    /// A segment of which only the size is known.
    pub fn of_bytes(bytes: u64) -> Self {
        SegmentRef {
            bytes,
            max_timestamp: None,
            created_ms: None,
            next_offset: None,
        }
    }
}

/// Where in a partition's segments an offset is to be looked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct SegmentPosition {
    /// The segment.
    pub base_offset: i64,
    /// A batch at or before the offset begins here.
    pub position: u64,
    /// Its batches end here.
    pub end: u64,
    /// Somebody read up to here, or it is where the segment begins.
    pub in_sequence: bool,
}

/// The segments of one partition.
#[derive(Debug, Default)]
pub(super) struct SegmentList {
    /// By base offset. Before the first listing these are only the ones that were rolled since.
    segments: BTreeMap<i64, SegmentRef>,
    listed: bool,
    /// Counts what was rolled unseen: a listing that began before may not show it.
    unseen: u64,
    indexes: Vec<(i64, Rc<Index>)>,
}

impl SegmentList {
    /// The list of a partition that has no segments.
    pub fn known_empty() -> Self {
        SegmentList {
            listed: true,
            ..Default::default()
        }
    }

    /// A segment was rolled; perhaps while a listing is on its way that does not show it.
    pub fn rolled(&mut self, base_offset: i64, segment: SegmentRef) {
        self.segments.insert(base_offset, segment);
    }

    /// A segment was rolled, and it is not known what came out: the next reader lists again.
    pub fn rolled_unseen(&mut self) {
        self.listed = false;
        self.unseen += 1;
    }

    /// A segment is gone.
    pub fn removed(&mut self, base_offset: i64) {
        self.segments.remove(&base_offset);
    }

    /// The segments, once listed.
    pub fn listed(&self) -> Option<&BTreeMap<i64, SegmentRef>> {
        self.listed.then_some(&self.segments)
    }

    /// Whether a segment's index need not be read any more.
    pub fn index_known(&self, base_offset: i64) -> bool {
        self.indexes.iter().any(|(base, _)| *base == base_offset)
    }

    /// A listing has come that began when `unseen` was this. Of two on their way at once the first counts: what was removed
    /// since must not come back.
    fn complete(&mut self, unseen: u64, found: impl Iterator<Item = (i64, SegmentRef)>) {
        if self.listed || unseen != self.unseen {
            return;
        }
        for (base_offset, segment) in found {
            self.segments.entry(base_offset).or_insert(segment);
        }
        self.listed = true;
    }
}

impl Shard {
    /// Key of a segment's records.
    pub(super) fn segment_key(&self, key: PartitionKey, base_offset: i64) -> Result<String, StoreError> {
        self.segment_part_key(key, base_offset, Part::Kfs)
    }

    fn segment_part_key(&self, key: PartitionKey, base_offset: i64, part: Part) -> Result<String, StoreError> {
        let state = self.state.borrow();
        let partition = state.partitions.get(&key).ok_or_else(|| given_up(key))?;
        Ok(self.key_in(partition, key, base_offset, part))
    }

    /// Key of one object of a segment.
    pub(super) fn key_in(&self, partition: &Partition, key: PartitionKey, base_offset: i64, part: Part) -> String {
        segment::key(
            &self.config.namespace,
            &partition.folder,
            key.partition,
            base_offset,
            part,
        )
    }

    /// The segment that holds `offset`, where in it to begin, and whether somebody reads there in sequence. `None` if the
    /// offset is in no segment any more.
    pub(super) async fn find_segment(
        &self,
        key: PartitionKey,
        offset: i64,
    ) -> Result<Option<SegmentPosition>, StoreError> {
        self.list_segments(key).await?;
        let (base_offset, end) = {
            let state = self.state.borrow();
            let partition = state.partitions.get(&key).ok_or_else(|| given_up(key))?;
            let segments = partition.segments.listed();
            match segments.and_then(|segments| segments.range(..=offset).next_back()) {
                Some((base_offset, segment)) => (*base_offset, segment.bytes.saturating_sub(FOOTER_LEN as u64)),
                // Retention has removed it meanwhile.
                None if offset < partition.log.log_start_offset() => return Ok(None),
                None => {
                    let first = segments.and_then(|segments| segments.keys().next());
                    return Err(StoreError::Damaged(format!(
                        "offset {offset} of {key:?} is in no segment: the log starts at {}, its first segment {}. Restore \
                         the segment, or delete the records before it (`kafka-delete-records.sh`)",
                        partition.log.log_start_offset(),
                        first.map_or("is missing".to_string(), |first| format!("begins at {first}"))
                    )));
                }
            }
        };
        if let Some(position) = self
            .state
            .borrow()
            .partitions
            .get(&key)
            .and_then(|p| p.position_hint(Source::Segment(base_offset), offset))
        {
            return Ok(Some(SegmentPosition {
                base_offset,
                position,
                end,
                in_sequence: true,
            }));
        }
        let index = self.segment_index(key, base_offset, end).await?;
        Ok(Some(SegmentPosition {
            base_offset,
            position: index.position(offset),
            end,
            in_sequence: offset == base_offset,
        }))
    }

    /// The index of a segment whose batches end before byte `end`. A damaged one is not needed to read the segment: an
    /// index of nothing takes its place, and reads begin at the first batch.
    async fn segment_index(&self, key: PartitionKey, base_offset: i64, end: u64) -> Result<Rc<Index>, StoreError> {
        if let Some(partition) = self.state.borrow().partitions.get(&key) {
            if let Some((_, index)) = partition.segments.indexes.iter().find(|(base, _)| *base == base_offset) {
                return Ok(index.clone());
            }
        }
        self.segment_is_itself(key, base_offset).await?;
        let name = self.segment_part_key(key, base_offset, Part::Index)?;
        let parse = |bytes: &[u8]| Index::parse(bytes).and_then(|index| index.of_segment(base_offset, end));
        let bytes = self.cache.read(&name, 0..u64::MAX).await?.concat();
        let index = match parse(&bytes) {
            Ok(index) => index,
            Err(error) => {
                self.metrics.damaged_reads.add(1);
                log::error!("{name} is damaged: {error}; reading it again");
                let again = self.cache.read_again(&name, 0..bytes.len().max(1) as u64).await?;
                parse(&again.concat()).unwrap_or_else(|error| {
                    log::error!("{name} is damaged: {error}; its segment is read from its first batch on");
                    Index::empty()
                })
            }
        };
        let index = Rc::new(index);
        if let Some(partition) = self.state.borrow_mut().partitions.get_mut(&key) {
            let indexes = &mut partition.segments.indexes;
            if indexes.len() == INDEXES_MAX {
                indexes.remove(0);
            }
            indexes.push((base_offset, index.clone()));
        }
        Ok(index)
    }

    /// Looks whether a segment's object is the one that its name says, unless that is known. Its batches cannot tell:
    /// another segment may have batches of the same offsets.
    async fn segment_is_itself(&self, key: PartitionKey, base_offset: i64) -> Result<(), StoreError> {
        let known = self.segment_ref(key, base_offset);
        if known.is_some_and(|found| found.created_ms.is_some()) {
            return Ok(());
        }
        let name = self.segment_key(key, base_offset)?;
        let header = self.cache.read(&name, 0..segment::HEADER_LEN as u64).await?.concat();
        match segment::parse_created(&header, base_offset) {
            Ok(created_ms) => {
                self.note_segment(key, base_offset, |found| found.created_ms = Some(created_ms));
                Ok(())
            }
            Err(error) => {
                self.metrics.damaged_reads.add(1);
                log::error!("{name} is damaged: {error}; reading it again");
                self.segment_is_still_itself(key, base_offset).await
            }
        }
    }

    /// The same by what the store has now, whatever was known.
    pub(super) async fn segment_is_still_itself(&self, key: PartitionKey, base_offset: i64) -> Result<(), StoreError> {
        let name = self.segment_key(key, base_offset)?;
        let range = 0..segment::HEADER_LEN as u64;
        let header = self.cache.read_again(&name, range).await?.concat();
        let created_ms =
            segment::parse_created(&header, base_offset).map_err(|error| damaged(format!("{name}: {error}")))?;
        self.note_segment(key, base_offset, |found| found.created_ms = Some(created_ms));
        Ok(())
    }

    /// Lists a partition's segments, unless that was done before. One whose index or records are missing does not count,
    /// nor does one that lies beyond what the record says is rolled.
    pub(super) async fn list_segments(&self, key: PartitionKey) -> Result<(), StoreError> {
        let (prefix, epoch, unseen) = {
            let state = self.state.borrow();
            let partition = state.partitions.get(&key).ok_or_else(|| given_up(key))?;
            if partition.segments.listed {
                return Ok(());
            }
            let prefix = segment::prefix(&self.config.namespace, &partition.folder, key.partition);
            (prefix, partition.log.leader_epoch(), partition.segments.unseen)
        };
        let mut parts: HashMap<i64, (Option<u64>, bool)> = HashMap::new();
        let mut after: Option<String> = None;
        loop {
            let page = self.store.list(&prefix, after.as_deref(), 1000).await?;
            for object in &page.objects {
                match segment::parse_key(&object.key) {
                    Some((base, Part::Kfs)) => parts.entry(base).or_default().0 = Some(object.size),
                    Some((base, Part::Index)) => parts.entry(base).or_default().1 = true,
                    _ => {}
                }
            }
            after = page.objects.last().map(|object| object.key.clone());
            if !page.more || after.is_none() {
                break;
            }
        }
        let mut state = self.state.borrow_mut();
        // Claimed anew meanwhile: this listing may miss what the claim before has rolled last.
        let same = |partition: &&mut Partition| partition.log.leader_epoch() == epoch;
        let partition = state.partitions.get_mut(&key).filter(same);
        let partition = partition.ok_or_else(|| given_up(key))?;
        let rolled = partition.log.rolled_offset();
        let listed = parts.into_iter().filter_map(|(base, part)| match part {
            (Some(bytes), true) if base < rolled => Some((base, SegmentRef::of_bytes(bytes))),
            _ => None,
        });
        partition.segments.complete(unseen, listed);
        match partition.segments.listed {
            true => Ok(()),
            false => Err(StoreError::Unavailable(format!(
                "a segment of {key:?} came while all were listed"
            ))),
        }
    }

    /// The largest timestamp of one segment; negative if no record has one, or if the producers did not say.
    async fn segment_max_timestamp(&self, key: PartitionKey, base_offset: i64) -> Result<i64, StoreError> {
        if let Some(known) = self.segment_ref(key, base_offset).and_then(|found| found.max_timestamp) {
            return Ok(known);
        }
        let name = self.segment_part_key(key, base_offset, Part::Kfst)?;
        let times = match self.store.get_range(&name, 0..64).await {
            Ok(bytes) => match segment::parse_times(&bytes) {
                Ok(times) if times.base_offset == base_offset => Some(times),
                Ok(times) => {
                    let other = times.base_offset;
                    log::warn!("{name} is that of the segment from {other} on; the segment itself is read");
                    None
                }
                Err(error) => {
                    log::warn!("{name} is damaged: {error}; the segment itself is read");
                    None
                }
            },
            Err(StoreError::NotFound(_)) => None,
            Err(error) => return Err(error),
        };
        let max_timestamp = match &times {
            Some(times) => times.max_timestamp,
            // The sidecar is optional. When the segment was made would not do: clocks differ, the producers' too.
            None => self.read_max_timestamp(key, base_offset).await?,
        };
        self.note_segment(key, base_offset, |found| {
            found.max_timestamp = Some(max_timestamp);
            found.next_offset = times.map(|times| times.next_offset);
        });
        Ok(max_timestamp)
    }

    /// The largest timestamp that the headers of a segment's batches tell; negative if none tells one.
    async fn read_max_timestamp(&self, key: PartitionKey, base_offset: i64) -> Result<i64, StoreError> {
        self.segment_is_itself(key, base_offset).await?;
        let name = self.segment_key(key, base_offset)?;
        let bytes = self.segment_ref(key, base_offset).map_or(0, |found| found.bytes);
        let end = bytes.saturating_sub(FOOTER_LEN as u64);
        let (mut at, mut largest) = (segment::HEADER_LEN as u64, -1);
        let mut batches = 0u32;
        while at < end {
            let header = self
                .cache
                .read(&name, at..end.min(at + BATCH_HEADER_LEN as u64))
                .await?;
            let header = BatchHeader::parse(&header.concat()).map_err(|error| damaged(format!("{name}: {error}")))?;
            largest = largest.max(header.max_timestamp);
            at += header.total_len() as u64;
            batches = batches.wrapping_add(1);
            if batches.is_multiple_of(BATCHES_PER_TURN) {
                self.runtime.yield_now().await;
            }
        }
        Ok(largest)
    }

    /// By when all records of a segment were written, for retention and look-ups by time: its largest timestamp, or as
    /// in Kafka the time of the segment itself if that is negative.
    pub(super) async fn segment_time(&self, key: PartitionKey, base_offset: i64) -> Result<i64, StoreError> {
        match self.segment_max_timestamp(key, base_offset).await? {
            negative if negative < 0 && !planted::is(Bug::RetentionTrustsNegativeTime) => {
                self.segment_created(key, base_offset).await
            }
            max_timestamp => Ok(max_timestamp),
        }
    }

    async fn segment_created(&self, key: PartitionKey, base_offset: i64) -> Result<i64, StoreError> {
        if let Some(known) = self.segment_ref(key, base_offset).and_then(|found| found.created_ms) {
            return Ok(known);
        }
        let name = self.segment_key(key, base_offset)?;
        let header = self.store.get_range(&name, 0..segment::HEADER_LEN as u64).await?;
        let created_ms = segment::parse_created(&header, base_offset).map_err(damaged)?;
        self.note_segment(key, base_offset, |found| found.created_ms = Some(created_ms));
        Ok(created_ms)
    }

    fn segment_ref(&self, key: PartitionKey, base_offset: i64) -> Option<SegmentRef> {
        let state = self.state.borrow();
        state
            .partitions
            .get(&key)?
            .segments
            .listed()?
            .get(&base_offset)
            .copied()
    }

    fn note_segment(&self, key: PartitionKey, base_offset: i64, note: impl FnOnce(&mut SegmentRef)) {
        let mut state = self.state.borrow_mut();
        let partition = state.partitions.get_mut(&key);
        if let Some(found) = partition.and_then(|partition| partition.segments.segments.get_mut(&base_offset)) {
            note(found);
        }
    }

    /// Passes the segments from `offset` on that have no record of time `at` or later.
    pub(super) async fn skip_older_segments(
        &self,
        key: PartitionKey,
        offset: i64,
        at: i64,
    ) -> Result<Skip, StoreError> {
        let (segments, end) = self.segments_from(key, offset).await?;
        if offset < segments.first().map_or(end, |(base_offset, _)| *base_offset) {
            return Ok(Skip::ReadFrom(offset));
        }
        for (base_offset, end) in segments {
            if self.segment_time(key, base_offset).await? >= at {
                return Ok(Skip::ReadFrom(base_offset.max(offset)));
            }
            if let Some(gap) = self.ends_before(key, base_offset, end) {
                return Ok(Skip::ReadFrom(gap.max(offset)));
            }
        }
        Ok(Skip::PassedUntil(end))
    }

    /// The largest timestamp in any segment from `start` on.
    ///
    /// # Errors
    /// [`StoreError::Damaged`] if a segment is missing: it may have had the largest.
    pub(super) async fn largest_segment_timestamp(
        &self,
        key: PartitionKey,
        start: i64,
    ) -> Result<Option<i64>, StoreError> {
        let (segments, end) = self.segments_from(key, start).await?;
        let missing = |offset: i64| damaged(format!("offset {offset} of {key:?} is in no segment"));
        if start < segments.first().map_or(end, |(base_offset, _)| *base_offset) {
            return Err(missing(start));
        }
        let mut largest = None;
        for (base_offset, end) in segments {
            largest = largest.max(Some(self.segment_max_timestamp(key, base_offset).await?));
            if let Some(gap) = self.ends_before(key, base_offset, end) {
                return Err(missing(gap));
            }
        }
        Ok(largest)
    }

    /// Where a segment ends, if that is known to be before `end`, where the next one begins.
    fn ends_before(&self, key: PartitionKey, base_offset: i64, end: i64) -> Option<i64> {
        let next_offset = self.segment_ref(key, base_offset)?.next_offset?;
        (next_offset < end).then_some(next_offset)
    }

    /// The segments that reach beyond `offset`, each with the offset at which the next one or the tail begins; none if
    /// `offset` lies in the tail. And where the tail begins, or `offset` if it lies there.
    async fn segments_from(&self, key: PartitionKey, offset: i64) -> Result<(Vec<(i64, i64)>, i64), StoreError> {
        let in_tail = |partition: &Partition| offset >= partition.log.rolled_offset();
        if self.state.borrow().partitions.get(&key).is_none_or(in_tail) {
            return Ok((Vec::new(), offset));
        }
        self.list_segments(key).await?;
        let state = self.state.borrow();
        let partition = state.partitions.get(&key).ok_or_else(|| given_up(key))?;
        let end = partition.log.rolled_offset();
        let segments = partition.segments.listed();
        let bases: Vec<i64> = segments.map(|all| all.keys().copied().collect()).unwrap_or_default();
        let from = bases.partition_point(|base| *base <= offset).saturating_sub(1);
        let ends = bases.iter().skip(from + 1).copied().chain([end]);
        Ok((bases[from..].iter().copied().zip(ends).collect(), end))
    }
}

pub(super) fn given_up(key: PartitionKey) -> StoreError {
    StoreError::Unavailable(format!("{key:?} is no longer owned here"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn segment(bytes: u64) -> SegmentRef {
        SegmentRef::of_bytes(bytes)
    }

    #[test]
    fn a_segment_rolled_while_a_listing_is_on_its_way_is_kept() {
        let mut list = SegmentList::default();
        list.rolled(40, segment(4));
        assert_eq!(list.listed(), None, "what came before is not known yet");
        list.complete(0, [(0, segment(1)), (20, segment(2))].into_iter());
        let bases: Vec<i64> = list.listed().unwrap().keys().copied().collect();
        assert_eq!(bases, [0, 20, 40]);
    }

    #[test]
    fn a_second_listing_does_not_bring_back_what_was_removed_since_the_first() {
        let mut list = SegmentList::default();
        list.complete(0, [(0, segment(1)), (20, segment(2))].into_iter());
        list.removed(0);
        list.complete(0, [(0, segment(1)), (20, segment(2))].into_iter());
        assert_eq!(list.listed().unwrap().len(), 1);
    }

    #[test]
    fn a_listing_that_began_before_a_segment_was_rolled_unseen_does_not_count() {
        let mut list = SegmentList::known_empty();
        list.rolled_unseen();
        list.complete(0, [(0, segment(1))].into_iter());
        assert_eq!(list.listed(), None);
        list.complete(1, [(0, segment(1)), (20, segment(2))].into_iter());
        assert_eq!(list.listed().unwrap().len(), 2);
    }
}
