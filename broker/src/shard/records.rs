//! Changes of this shard's records in the metastore: each is one transaction that counts only if the record is unchanged,
//! and while nobody knows whether a change was applied, nothing else is done to the record.

use super::merge::StreamChange;
use super::takeover::{seal_state, ClaimError};
use super::{OpenStream, Partition, Shard, State};
use crate::planted::{self, Bug};
use kafscale_codec::error_code::ErrorCode;
use kafscale_metastore::keys::{PartitionRecord, StreamRecord};
use kafscale_metastore::{partitions, streams, MetastoreError, OperationError, Revision, Versioned};
use kafscale_storage_engine::partition_log::PartitionKey;
use kafscale_storage_engine::wal::{decide, StreamId};

impl Shard {
    /// Changes a partition's record if this shard still owns it. `false`, and the partition given up, if it does not.
    ///
    /// While nobody knows whether a change was applied, nothing else is done to the record; the partition is served all
    /// the same, since whoever takes it over fences this shard's stream.
    pub(super) async fn update_partition(
        &self,
        key: PartitionKey,
        change: impl FnOnce(&Partition, &mut PartitionRecord),
    ) -> Result<bool, ClaimError> {
        if !self.settle_partition_in_doubt(key).await? {
            return Ok(false);
        }
        let (record, mut revision) = {
            let state = self.state.borrow();
            let Some(partition) = state.partitions.get(&key) else {
                return Ok(false);
            };
            let mut record = partition.record.clone();
            change(partition, &mut record);
            (record, partition.mod_revision)
        };
        if planted::is(Bug::RollUnfenced) {
            revision = self.read_partition(key).await?.map_or(revision, |(_, now)| now);
        }
        let updated =
            partitions::update_partition(&*self.metastore, key.topic_id, key.partition, revision, &record).await;
        let why = match updated {
            Ok(revision) => {
                return Ok(self.adopt_record(&mut self.state.borrow_mut(), key, record, revision));
            }
            Err(OperationError::Conflict) => "it has changed".to_string(),
            Err(OperationError::Metastore(MetastoreError::OutcomeUnknown(why))) => {
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

    /// Finds out how the record stands if nobody knows that. `false` if the partition was given up over it.
    pub(super) async fn settle_partition_in_doubt(&self, key: PartitionKey) -> Result<bool, ClaimError> {
        let in_doubt = |state: &State| state.partitions.get(&key).is_some_and(Partition::is_in_doubt);
        Ok(!in_doubt(&self.state.borrow()) || self.settle_partition(key).await?)
    }

    /// The record is this from now on, and what it says to be in segments leaves the tail. Attempts that are still on their
    /// way compare an older revision: they have failed. `false` if the partition is not here any more.
    fn adopt_record(&self, state: &mut State, key: PartitionKey, record: PartitionRecord, revision: Revision) -> bool {
        let State { partitions, stream, .. } = state;
        let Some(partition) = partitions.get_mut(&key) else {
            return false;
        };
        let rolled_before = partition.log.rolled_offset();
        let rolled = record.rolled_offset;
        partition.record = record;
        partition.mod_revision = revision;
        partition.doubtful.clear();
        // A deletion that was applied late counts here, too: after a takeover the log would start there.
        partition.log.advance_log_start(partition.record.log_start_offset);
        if rolled <= rolled_before {
            return true;
        }
        for run in partition.log.rolled(rolled) {
            if let Some(open) = stream.as_mut() {
                open.release(run.location);
            }
        }
        if rolled_before > 0 {
            let old_snapshot = self.producers_key(key, rolled_before);
            state.doom(self.runtime.now() + self.config.delete_grace, old_snapshot);
        }
        true
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
            // Somebody has put the same value again, as after a repair.
            Some((record, revision)) if record == partition.record => {
                return Ok(self.adopt_record(&mut state, key, record, revision));
            }
            Some((record, revision)) if partition.doubtful.contains(&record) => {
                if record.rolled_offset > partition.log.rolled_offset() {
                    partition.segments.rolled_unseen();
                }
                return Ok(self.adopt_record(&mut state, key, record, revision));
            }
            _ => {}
        }
        log::warn!("the record of {key:?} is another's: this shard's stream is given up and claimed anew");
        state.forget_everything(ErrorCode::NOT_LEADER_OR_FOLLOWER);
        self.ownership_wake.wake();
        Ok(false)
    }

    /// Changes the open stream's record if it is unchanged and open: nothing is trimmed under a successor. `true` once the
    /// record is changed and memory agrees with it. `false`, and the stream given up, if the record is another's.
    pub(super) async fn update_stream(&self, id: StreamId, change: StreamChange) -> Result<bool, ClaimError> {
        if !self.settle_stream_in_doubt(id).await? {
            return Ok(false);
        }
        let Some(current) = self.known_stream(id) else {
            return Ok(false);
        };
        if !decide::may_trim(seal_state(&current.value)) {
            return Ok(false);
        }
        let mut record = current.value.clone();
        change.apply_to(&mut record);
        assert_eq!(record.overlap(), None, "no slot of stream {id} counts twice");
        let outcome = match self.trim_record(id, &current, &record).await {
            Err(OperationError::Conflict) if planted::is(Bug::TrimUnderSuccessor) => Ok(current),
            outcome => outcome,
        };
        let why = match outcome {
            Ok(written) => {
                let mut state = self.state.borrow_mut();
                let Some(stream) = state.open_mut(id) else {
                    return Ok(false);
                };
                stream.adopt_record(record, written.mod_revision);
                self.install(&mut state, change);
                return Ok(true);
            }
            Err(OperationError::Conflict) => "it has changed".to_string(),
            Err(OperationError::Metastore(MetastoreError::OutcomeUnknown(why))) => {
                if let Some(stream) = self.state.borrow_mut().open_mut(id) {
                    stream.doubtful.push((record.clone(), change));
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

    /// After a claim was refused: whether the open stream is still this shard's. One that somebody has ended or forgotten
    /// is given up.
    pub(super) async fn settle_own_stream(&self, id: StreamId) -> Result<(), ClaimError> {
        if streams::load_stream(&*self.metastore, id.0).await?.is_some() {
            return self.settle_stream(id).await.map(drop);
        }
        let mut state = self.state.borrow_mut();
        if state.open(id).is_some() {
            log::warn!("stream {id} was ended and forgotten while this broker was away: a new one is opened");
            state.forget_everything(ErrorCode::NOT_LEADER_OR_FOLLOWER);
            self.ownership_wake.wake();
        }
        Ok(())
    }

    /// Ends the doubt whether a change of the open stream's record was applied. To be called before anything is planned
    /// from what memory knows of the stream: a merge whose transaction is applied late makes objects of slots that memory
    /// still counts as single ones, and a second merge planned from those would overlap the first.
    ///
    /// A record that is found unchanged settles nothing, since the transaction may still be on its way. So the record is
    /// written again as it is: whatever compares the older revision has failed from then on.
    pub(super) async fn settle_stream_in_doubt(&self, id: StreamId) -> Result<bool, ClaimError> {
        let in_doubt = |state: &State| state.open(id).is_some_and(|stream| !stream.doubtful.is_empty());
        if !in_doubt(&self.state.borrow()) {
            return Ok(true);
        }
        if !self.settle_stream(id).await? {
            return Ok(false);
        }
        if planted::is(Bug::LateMergeForgotten) {
            return Ok(true);
        }
        let current = match self.state.borrow().open(id) {
            Some(stream) if stream.doubtful.is_empty() => return Ok(true),
            Some(stream) => stream.versioned(),
            None => return Ok(false),
        };
        match self.trim_record(id, &current, &current.value).await {
            Ok(written) => {
                let mut state = self.state.borrow_mut();
                let Some(stream) = state.open_mut(id) else {
                    return Ok(false);
                };
                stream.adopt_record(written.value, written.mod_revision);
                Ok(true)
            }
            // One of the attempts came first, or a successor; the record tells which.
            Err(OperationError::Conflict) => self.settle_stream(id).await,
            Err(error) => Err(error.into()),
        }
    }

    fn known_stream(&self, id: StreamId) -> Option<Versioned<StreamRecord>> {
        self.state.borrow().open(id).map(OpenStream::versioned)
    }

    async fn trim_record(
        &self,
        id: StreamId,
        current: &Versioned<StreamRecord>,
        record: &StreamRecord,
    ) -> Result<Versioned<StreamRecord>, OperationError> {
        let (first_live_seq, merged) = (record.first_live_seq, record.merged.clone());
        streams::advance_first_live(&*self.metastore, id.0, current, first_live_seq, merged).await
    }

    /// The same for the open stream's record as [`Shard::settle_partition`] for a partition's. What an attempt that was
    /// applied late has changed is changed in memory, too.
    async fn settle_stream(&self, id: StreamId) -> Result<bool, ClaimError> {
        let (record, revision) = self.read_stream(id).await?;
        let mut state = self.state.borrow_mut();
        let Some(stream) = state.open_mut(id) else {
            return Ok(false);
        };
        if revision == stream.mod_revision {
            return Ok(true);
        }
        if let Some(at) = stream.doubtful.iter().position(|(attempt, _)| *attempt == record) {
            let (_, change) = stream.doubtful.swap_remove(at);
            stream.adopt_record(record, revision);
            if !planted::is(Bug::LateMergeForgotten) {
                self.install(&mut state, change);
            }
            return Ok(true);
        }
        if stream.record == record {
            // Written again as it was: a successor changes the state.
            stream.adopt_record(record, revision);
            return Ok(true);
        }
        log::warn!("the record of stream {id} is another's: the stream is given up and claimed anew");
        state.forget_everything(ErrorCode::NOT_LEADER_OR_FOLLOWER);
        self.ownership_wake.wake();
        Ok(false)
    }
}
