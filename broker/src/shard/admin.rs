//! What administrators ask of a partition: to delete its oldest records, where an epoch ended, how large it is, who writes.

use super::takeover::ClaimError;
use super::Shard;
use crate::mailbox::{
    DeleteRecordsRequest, DeleteRecordsResult, EpochEnd, EpochEndRequest, InspectRequest, Inspection,
};
use kafscale_codec::error_code::ErrorCode;
use kafscale_storage_engine::partition_log::PartitionKey;
use std::rc::Rc;

/// In DeleteRecords: everything that is durable now.
const TO_HIGH_WATERMARK: i64 = -1;

/// Deletions in line; what comes beyond is refused, and the client tries again.
pub(super) const DELETIONS_MAX: usize = 1_000;

impl Shard {
    /// Puts a deletion in line: the housekeeping is alone in changing partitions' records, so nothing comes in between.
    pub(super) fn accept_delete_records(&self, request: DeleteRecordsRequest) {
        let mut state = self.state.borrow_mut();
        if state.deletions.len() < DELETIONS_MAX {
            state.deletions.push_back(request);
            return;
        }
        let refused = DeleteRecordsResult {
            error: ErrorCode::REQUEST_TIMED_OUT,
            low_watermark: -1,
        };
        let _ = request.reply.send(refused); // The client may have gone.
    }

    /// Carries out what [`Shard::accept_delete_records`] has put in line.
    pub(super) async fn apply_deletions(&self) -> Result<(), ClaimError> {
        loop {
            // Its borrow must end before the deletion begins.
            let next = self.state.borrow_mut().deletions.pop_front();
            let Some(DeleteRecordsRequest { key, offset, reply }) = next else {
                return Ok(());
            };
            let result = self.delete_records(key, offset).await;
            let answer = match &result {
                Ok(low_watermark) => DeleteRecordsResult {
                    error: ErrorCode::NONE,
                    low_watermark: *low_watermark,
                },
                Err(DeleteError::Refused(error)) => DeleteRecordsResult {
                    error: *error,
                    low_watermark: -1,
                },
                Err(DeleteError::Failed(_)) => DeleteRecordsResult {
                    error: ErrorCode::REQUEST_TIMED_OUT,
                    low_watermark: -1,
                },
            };
            let _ = reply.send(answer); // The client may have gone.
            if let Err(DeleteError::Failed(error)) = result {
                return Err(error);
            }
        }
    }

    /// Moves the log's start; answers with where it is then.
    async fn delete_records(&self, key: PartitionKey, offset: i64) -> Result<i64, DeleteError> {
        let target = {
            let state = self.state.borrow();
            let partition = state.led(key, -1).map_err(DeleteError::Refused)?;
            if partition.config.keep_everything {
                return Err(DeleteError::Refused(ErrorCode::POLICY_VIOLATION));
            }
            let log = &partition.log;
            let target = match offset {
                TO_HIGH_WATERMARK => log.high_watermark(),
                offset => offset,
            };
            if target < 0 || target > log.high_watermark() {
                return Err(DeleteError::Refused(ErrorCode::OFFSET_OUT_OF_RANGE));
            }
            if target <= log.log_start_offset() {
                return Ok(log.log_start_offset());
            }
            target
        };
        let moved = self
            .update_partition(key, |_, record| {
                record.log_start_offset = record.log_start_offset.max(target)
            })
            .await
            .map_err(DeleteError::Failed)?;
        let mut state = self.state.borrow_mut();
        let partition = state.partitions.get_mut(&key).filter(|_| moved);
        let partition = partition.ok_or(DeleteError::Refused(ErrorCode::NOT_LEADER_OR_FOLLOWER))?;
        partition.log.advance_log_start(target);
        log::info!("records of {key:?} before {target} are deleted as asked");
        Ok(partition.log.log_start_offset())
    }

    /// Where the records of an epoch end (KIP-101): at the start of the next epoch, or at the end of the log.
    pub(super) fn epoch_end(&self, request: EpochEndRequest) {
        let state = self.state.borrow();
        let error = |error| EpochEnd {
            error,
            leader_epoch: -1,
            end_offset: -1,
        };
        let end = match state.led(request.key, request.current_leader_epoch) {
            Err(code) => error(code),
            Ok(partition) => {
                let starts = &partition.record.epoch_starts;
                let wanted = request.leader_epoch;
                let after = starts.partition_point(|(epoch, _)| *epoch <= wanted);
                let (leader_epoch, end_offset) = match (after.checked_sub(1), starts.get(after)) {
                    // An epoch that is yet to come, or no epoch at all.
                    _ if wanted < 0 || wanted > partition.log.leader_epoch() => (-1, -1),
                    (Some(at), Some((_, next))) => (starts[at].0, *next),
                    (Some(at), None) => (starts[at].0, partition.log.high_watermark()),
                    (None, first) => (
                        wanted,
                        first.map_or(partition.log.log_start_offset(), |(_, start)| *start),
                    ),
                };
                EpochEnd {
                    error: ErrorCode::NONE,
                    leader_epoch,
                    end_offset,
                }
            }
        };
        let _ = request.reply.send(end); // The client may have gone.
    }

    /// Looks at partitions, in a task of its own: their segments may have to be listed first.
    pub(super) fn inspect(self: &Rc<Self>, request: InspectRequest) {
        let shard = self.clone();
        self.runtime.spawn(
            "inspect",
            Box::pin(async move {
                let mut found = Vec::with_capacity(request.partitions.len());
                for key in request.partitions {
                    found.push(shard.inspect_one(key).await);
                }
                let _ = request.reply.send(found); // The client may have gone.
            }),
        );
    }

    async fn inspect_one(&self, key: PartitionKey) -> Inspection {
        let error = |error| Inspection {
            error,
            ..Inspection::default()
        };
        if let Err(code) = self.state.borrow().led(key, -1) {
            return error(code);
        }
        if let Err(failed) = self.list_segments(key).await {
            log::warn!("list the segments of {key:?}: {failed}");
            return error(ErrorCode::KAFKA_STORAGE_ERROR);
        }
        let state = self.state.borrow();
        match state.led(key, -1) {
            Err(code) => error(code),
            Ok(partition) => Inspection {
                error: ErrorCode::NONE,
                size_bytes: partition.size_bytes().unwrap_or_default(),
                producers: partition.log.producers.latest().collect(),
            },
        }
    }
}

/// Why nothing was deleted.
enum DeleteError {
    Refused(ErrorCode),
    Failed(ClaimError),
}
