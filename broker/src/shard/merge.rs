//! Merging write-ahead objects, so that the stream's live part stays within its budget, and trimming what nobody needs.

use super::flush::Lost;
use super::takeover::ClaimError;
use super::{LiveObject, Shard, State};
use kafscale_metastore::keys::{MergedObject, StreamRecord};
use kafscale_storage_engine::object_store::StoreError;
use kafscale_storage_engine::partition_log::{Location, ObjectRef, PartitionKey, TailRun};
use kafscale_storage_engine::producer_state;
use kafscale_storage_engine::wal::merge::{self, Budget, LiveObject as MergeInput};
use kafscale_storage_engine::wal::{Kind, Run, StreamId, WalBuilder, WalHeader};

/// Partitions looked at before others on this core have their turn.
const YIELD_AFTER: usize = 256;

/// A change of the open stream's record, and what memory has to change with it.
#[derive(Debug)]
pub(super) enum StreamChange {
    /// One object took the place of several.
    Merge {
        /// The object.
        merged: ObjectRef,
        /// Its level.
        level: u8,
        /// What it holds.
        runs: Vec<Run>,
        /// Its bytes.
        bytes: u64,
    },
    /// Objects are no longer needed.
    Trim {
        /// The slots before it may go.
        first_live: u64,
        /// The objects.
        gone: Vec<ObjectRef>,
    },
}

impl StreamChange {
    /// The record after the change.
    pub(super) fn apply_to(&self, record: &mut StreamRecord) {
        match self {
            StreamChange::Merge { merged, level, .. } => {
                let (first, last) = (merged.first_seq, merged.last_seq);
                record
                    .merged
                    .retain(|object| object.first < first || object.last > last);
                record.merged.push(MergedObject {
                    first,
                    last,
                    level: *level,
                });
                record.merged.sort_by_key(|object| object.first);
                record.first_live_seq = record.first_live_seq.max(last + 1);
            }
            StreamChange::Trim { first_live, gone } => {
                record
                    .merged
                    .retain(|object| !gone.iter().any(|gone| gone.merged && gone.first_seq == object.first));
                record.first_live_seq = record.first_live_seq.max(*first_live);
            }
        }
    }
}

impl Shard {
    /// Makes one object of many if the open stream has too many. `true` if it did.
    pub(super) async fn merge_slots(&self) -> Result<bool, ClaimError> {
        if !self.settle_open_stream().await? {
            return Ok(false);
        }
        let Some((stream, objects, level)) = self.plan_merge() else {
            return Ok(false);
        };
        let (first_seq, last_seq) = (objects[0].object.first_seq, objects[objects.len() - 1].object.last_seq);
        let runs = self.runs_in(stream, first_seq, last_seq).await;
        let nonce = u128::from(self.runtime.random_u64());
        let mut builder = WalBuilder::new(&WalHeader {
            kind: Kind::Merged,
            stream,
            first_seq,
            last_seq,
            nonce,
            // What is merged is committed.
            vouched: last_seq + 1,
        });
        match self.push_runs(&mut builder, &runs).await {
            Err(error @ (StoreError::Damaged(_) | StoreError::NotFound(_))) => {
                // Nothing behind it could ever be merged or trimmed. Claimed anew, every partition that did not lose
                // anything goes on in a new stream, and the damaged object holds up nobody else.
                log::error!("slots {first_seq} to {last_seq} of stream {stream} cannot be merged: {error}");
                self.stream_lost(stream, Lost::Damaged);
                return Ok(false);
            }
            pushed => pushed?,
        }
        let object = builder.finish();
        let merged = ObjectRef {
            stream,
            first_seq,
            last_seq,
            merged: true,
        };
        let name = self.object_key(merged);
        let placed = if self.create_settled_summed(&name, object.parts, object.crc32c).await? {
            object.runs
        } else {
            // An earlier attempt whose transaction did not come through: it holds at least what is left now.
            self.read_footer(merged).await?
        };
        let change = StreamChange::Merge {
            merged,
            level,
            runs: placed,
            bytes: object.len,
        };
        self.update_stream(stream, change).await
    }

    async fn push_runs(&self, builder: &mut WalBuilder, runs: &[(PartitionKey, TailRun)]) -> Result<(), StoreError> {
        let gathered = self.gather(runs.iter().map(|(_, run)| run)).await?;
        for tail in runs.chunk_by(|a, b| a.0 == b.0) {
            let mut batches = Vec::new();
            for (_, run) in tail {
                batches.extend(self.run_batches(run, &gathered).await?);
            }
            builder.push_run(merged_run(tail), batches);
            self.runtime.yield_now().await;
        }
        Ok(())
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
                runs: u64::from(live.runs_left),
            })
            .collect();
        let budget = Budget {
            slots: self.config.live_slots_max,
            runs: self.config.live_runs_max,
            merge_bytes: self.config.merge_bytes_max,
        };
        let (range, level) = merge::plan(&inputs, budget)?;
        Some((
            stream.id,
            live[range].iter().map(|live| (*live).clone()).collect(),
            level,
        ))
    }

    /// The committed runs that lie in these slots, by partition.
    ///
    /// Others run in between: a partition that they claim has nothing in slots that old, and one that they give up needs
    /// nothing there, or the stream is lost and what is merged counts for nobody.
    async fn runs_in(&self, stream: StreamId, first_seq: u64, last_seq: u64) -> Vec<(PartitionKey, TailRun)> {
        let mut keys: Vec<PartitionKey> = self.state.borrow().partitions.keys().copied().collect();
        keys.sort_unstable();
        let mut runs = Vec::new();
        for some in keys.chunks(YIELD_AFTER) {
            {
                let state = self.state.borrow();
                for key in some {
                    let tail = state
                        .partitions
                        .get(key)
                        .into_iter()
                        .flat_map(|partition| partition.log.tail());
                    // What earlier owners left lies in front, and this stream's runs are in the order of its slots.
                    let inside = tail
                        .map(|run| (run, run.location.object))
                        .skip_while(|(_, object)| object.stream != stream || object.first_seq < first_seq)
                        .take_while(|(_, object)| object.last_seq <= last_seq);
                    runs.extend(inside.map(|(run, _)| (*key, run.clone())));
                }
            }
            self.runtime.yield_now().await;
        }
        runs
    }

    /// Memory follows the stream's record, which has this change.
    pub(super) fn install(&self, state: &mut State, change: StreamChange) {
        match change {
            StreamChange::Merge {
                merged,
                level,
                runs,
                bytes,
            } => self.install_merged(state, merged, level, &runs, bytes),
            StreamChange::Trim { gone, .. } => self.install_trimmed(state, gone),
        }
    }

    fn install_merged(&self, state: &mut State, merged: ObjectRef, level: u8, runs: &[Run], bytes: u64) {
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
            if partition.log.relocate(run.base_offset, run.next_offset, location) {
                runs_left += 1;
            }
        }
        let Some(stream) = state.stream.as_mut() else {
            return;
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
        self.doom_objects(state, gone);
    }

    /// Records a new first live slot, and dooms the objects that hold nothing unrolled any more.
    pub(super) async fn trim(&self) -> Result<(), ClaimError> {
        if !self.settle_open_stream().await? {
            return Ok(());
        }
        if let Some((stream, first_live, gone)) = self.plan_trim() {
            let change = StreamChange::Trim { first_live, gone };
            self.update_stream(stream, change).await?;
        }
        Ok(())
    }

    fn install_trimmed(&self, state: &mut State, gone: Vec<ObjectRef>) {
        if let Some(stream) = state.stream.as_mut() {
            for object in &gone {
                stream.live.remove(&object.first_seq);
            }
        }
        self.doom_objects(state, gone);
    }

    fn doom_objects(&self, state: &mut State, gone: Vec<ObjectRef>) {
        let due = self.runtime.now() + self.config.delete_grace;
        for object in gone {
            let name = self.object_key(object);
            state.doom(due, name);
        }
    }

    /// `false` if there is no open stream, or no longer.
    async fn settle_open_stream(&self) -> Result<bool, ClaimError> {
        let open = self.state.borrow().stream.as_ref().map(|stream| stream.id);
        match open {
            Some(stream) => self.settle_stream_in_doubt(stream).await,
            None => Ok(false),
        }
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
}

/// The footer entry of several runs of one partition that become one.
fn merged_run(tail: &[(PartitionKey, TailRun)]) -> Run {
    let (key, first) = &tail[0];
    let (_, last) = &tail[tail.len() - 1];
    let changes = tail.iter().flat_map(|(_, run)| run.producers.iter().copied());
    Run {
        topic_id: key.topic_id,
        partition: key.partition,
        leader_epoch: last.leader_epoch,
        base_offset: first.base_offset,
        next_offset: last.next_offset,
        position: 0,
        length: 0,
        max_timestamp: tail.iter().map(|(_, run)| run.max_timestamp).max().unwrap_or(-1),
        crc32c: 0,
        producers: producer_state::compact(changes.collect()),
    }
}
