//! Produce 0–13. Versions 0–2 carry message sets; from 3 on exactly one v2 batch per partition; 13 names topics by id.
//!
//! `timeout_ms` has no effect: in Kafka it bounds the wait for followers, and there are none. A request that it cut off
//! would be stored all the same, and sent again by the client.

use super::topics::{check_name, is_internal};
use super::{Context, Reply};
use crate::connection::ConnectionError;
use crate::mailbox::{ProduceRequest as ShardProduce, ProduceResult, ShardRequest};
use crate::node::{find_topic, route, Node, Route, TopicRef};
use bytes::Bytes;
use futures::channel::oneshot;
use kafscale_codec::compression::{Compression, CompressionError};
use kafscale_codec::error_code::ErrorCode;
use kafscale_codec::legacy;
use kafscale_codec::messages::*;
use kafscale_codec::record_batch::{BatchError, BatchHeader};
use kafscale_storage_engine::partition_log::PartitionKey;
use std::collections::BTreeMap;

/// Where messages of every magic say theirs.
const MAGIC_AT: usize = 16;

/// One partition of the request: where its result goes.
type Slot = (usize, usize);

/// What one shard is asked, and which slots its answers fill.
#[derive(Default)]
struct ForShard {
    partitions: Vec<(PartitionKey, Bytes)>,
    slots: Vec<Slot>,
}

pub(super) async fn handle(context: Context, request: ProduceRequest) -> Reply {
    let version = context.version();
    let acks = request.acks;
    let (mut response, shards) = place(&context.node, request, version);
    let mut answers = Vec::with_capacity(shards.len());
    for (shard, wanted) in shards {
        let (reply, answer) = oneshot::channel();
        let request = ShardProduce {
            partitions: wanted.partitions,
            reply,
        };
        context.node.send(shard, ShardRequest::Produce(request)).await;
        answers.push((answer, wanted.slots));
    }
    let results = async move {
        for (answer, slots) in answers {
            // A shard that stopped before it answered leaves the outcome open, as a time-out does.
            let unknown = |_| vec![ProduceResult::error(ErrorCode::REQUEST_TIMED_OUT); slots.len()];
            for (slot, result) in slots.iter().zip(answer.await.unwrap_or_else(unknown)) {
                fill(&mut response.responses[slot.0].partition_responses[slot.1], result);
            }
        }
        response
    };
    if acks == 0 {
        // No answer is sent, but the request counts against the budget until it is done.
        let permit = context.permit;
        return Box::pin(async move {
            let failed = first_error(&results.await);
            drop(permit);
            // As in Kafka, the end of the connection is the only way to report an error: the client then refreshes its
            // metadata.
            failed.map_or(Ok(None), |error| Err(ConnectionError::Unanswered(error)))
        });
    }
    context.later(results)
}

/// The error of a partition whose batch was not stored.
fn first_error(response: &ProduceResponse) -> Option<ErrorCode> {
    let partitions = response.responses.iter().flat_map(|topic| &topic.partition_responses);
    let mut errors = partitions.map(|partition| partition.error_code);
    errors.find(|error| !matches!(*error, ErrorCode::NONE | ErrorCode::DUPLICATE_SEQUENCE_NUMBER))
}

/// Finds each partition's shard; what cannot be sent anywhere is answered in the response right away.
fn place(node: &Node, request: ProduceRequest, version: i16) -> (ProduceResponse, BTreeMap<u32, ForShard>) {
    let image = node.image();
    let refused = match request.acks {
        _ if request.transactional_id.is_some() => Some(ErrorCode::TRANSACTIONAL_ID_AUTHORIZATION_FAILED),
        -1..=1 => None,
        _ => Some(ErrorCode::INVALID_REQUIRED_ACKS),
    };
    let mut shards: BTreeMap<u32, ForShard> = BTreeMap::new();
    let mut response = ProduceResponse::default();
    for (topic_at, data) in request.topic_data.into_iter().enumerate() {
        let named = if version >= 13 {
            TopicRef::Id(data.topic_id)
        } else {
            TopicRef::Name(&data.name)
        };
        // A name that no topic can have will not come to exist: the client is told not to try again.
        let topic = match (find_topic(&image, named), named) {
            (Err(_), TopicRef::Name(name)) if check_name(name).is_err() => Err(ErrorCode::INVALID_TOPIC_EXCEPTION),
            (_, TopicRef::Name(name)) if is_internal(name) => Err(ErrorCode::INVALID_TOPIC_EXCEPTION),
            (Ok(topic), _) if is_internal(&topic.name) => Err(ErrorCode::INVALID_TOPIC_EXCEPTION),
            (found, _) => found,
        };
        let mut partition_responses = Vec::with_capacity(data.partition_data.len());
        for (at, partition) in data.partition_data.into_iter().enumerate() {
            let mut answer = PartitionProduceResponse {
                index: partition.index,
                base_offset: -1,
                ..Default::default()
            };
            let placed = match (refused, &topic) {
                (Some(error), _) => Err(error),
                (None, Err(error)) => Err(*error),
                (None, Ok(topic)) => {
                    route(&image, node.config.broker_id, topic, partition.index).and_then(|route| match route {
                        Route::Here(shard) => Ok((shard, topic.record.topic_id)),
                        Route::Elsewhere(leader) => {
                            if let (Some(leader), 10..) = (leader, version) {
                                answer.current_leader = LeaderIdAndEpoch {
                                    leader_id: image.node_id(leader.broker_id, leader.shard),
                                    leader_epoch: leader.leader_epoch,
                                };
                            }
                            Err(ErrorCode::NOT_LEADER_OR_FOLLOWER)
                        }
                    })
                }
            };
            let records = placed.and_then(|place| Ok((place, batch(partition.records, version)?)));
            match records {
                Ok(((shard, topic_id), records)) => {
                    let wanted = shards.entry(shard).or_default();
                    wanted.partitions.push((
                        PartitionKey {
                            topic_id,
                            partition: partition.index,
                        },
                        records,
                    ));
                    wanted.slots.push((topic_at, at));
                }
                Err(error) => answer.error_code = error,
            }
            partition_responses.push(answer);
        }
        let (name, topic_id) = (data.name, data.topic_id);
        response.responses.push(TopicProduceResponse {
            name,
            topic_id,
            partition_responses,
        });
    }
    add_endpoints(&mut response, &image);
    (response, shards)
}

/// The one v2 batch of a partition; message sets of old clients become one.
fn batch(records: Option<Bytes>, version: i16) -> Result<Bytes, ErrorCode> {
    let records = records
        .filter(|records| !records.is_empty())
        .ok_or(ErrorCode::INVALID_RECORD)?;
    // Message sets and batches have their magic in the same place.
    match (version, records.get(MAGIC_AT).map(|magic| *magic as i8)) {
        (0..=2, Some(0 | 1)) => legacy::convert_message_set(&records, legacy::Limits::default()).map_err(legacy_error),
        // Too short to say what it is.
        (_, None) => Err(ErrorCode::CORRUPT_MESSAGE),
        (..=6, Some(2)) if is_zstd(&records) => Err(ErrorCode::UNSUPPORTED_COMPRESSION_TYPE),
        (_, Some(2)) => Ok(records),
        (_, _) => Err(ErrorCode::INVALID_RECORD),
    }
}

/// KIP-110: zstd is for clients that know Produce 7, since others could not read it back.
fn is_zstd(batch: &[u8]) -> bool {
    BatchHeader::parse(batch).is_ok_and(|header| header.compression() == Some(Compression::Zstd))
}

fn legacy_error(error: BatchError) -> ErrorCode {
    match error {
        BatchError::Crc { .. } | BatchError::Truncated { .. } | BatchError::Length(_) => ErrorCode::CORRUPT_MESSAGE,
        BatchError::UnsupportedCompression(_) => ErrorCode::UNSUPPORTED_COMPRESSION_TYPE,
        BatchError::Compression(CompressionError::TooLarge { .. }) => ErrorCode::MESSAGE_TOO_LARGE,
        BatchError::Compression(CompressionError::Damaged(_))
        | BatchError::Magic(_)
        | BatchError::Count { .. }
        | BatchError::TooManyRecords { .. }
        | BatchError::Record(_)
        | BatchError::Empty
        | BatchError::MixedMagic { .. }
        | BatchError::WrapperNotAlone => ErrorCode::INVALID_RECORD,
    }
}

/// Tells a client that asked the wrong broker where the named leaders are (KIP-951).
fn add_endpoints(response: &mut ProduceResponse, image: &crate::cluster::image::ClusterImage) {
    let answers = response.responses.iter().flat_map(|topic| &topic.partition_responses);
    let mut leaders: Vec<i32> = answers
        .map(|answer| answer.current_leader.leader_id)
        .filter(|id| *id >= 0)
        .collect();
    leaders.sort_unstable();
    leaders.dedup();
    response.node_endpoints = leaders
        .into_iter()
        .filter_map(|id| super::fetch::endpoint(image, id))
        .collect();
}

fn fill(answer: &mut PartitionProduceResponse, result: ProduceResult) {
    answer.error_code = result.error;
    answer.base_offset = result.base_offset;
    answer.log_append_time_ms = result.log_append_time_ms;
    answer.log_start_offset = result.log_start_offset;
}

#[cfg(test)]
mod tests {
    use super::*;
    use kafscale_codec::record_batch::{records, BatchBuilder};

    /// Offset 0, 15 bytes, CRC-32, magic 0, no attributes, no key, value "a".
    const MESSAGE_SET: [u8; 27] = [
        0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 15, 0x51, 0xdf, 0x3a, 0x32, 0, 0, 0xff, 0xff, 0xff, 0xff, 0, 0, 0, 1, b'a',
    ];

    fn v2(compression: Compression) -> Bytes {
        let mut builder = BatchBuilder::new().compression(compression);
        builder.push(1, None, Some(b"a"), &[]);
        builder.build().unwrap()
    }

    #[test]
    fn a_message_set_becomes_a_batch_up_to_version_2_and_is_refused_from_3_on() {
        for version in ProduceRequest::VERSIONS {
            let found = batch(Some(Bytes::from_static(&MESSAGE_SET)), version);
            if version <= 2 {
                let records = records(&found.unwrap()).unwrap();
                assert_eq!(
                    (records[0].timestamp, records[0].value.as_deref()),
                    (-1, Some(&b"a"[..]))
                );
            } else {
                assert_eq!(found, Err(ErrorCode::INVALID_RECORD));
            }
        }
    }

    #[test]
    fn a_v2_batch_passes_in_every_version_but_zstd_only_from_7_on() {
        for version in ProduceRequest::VERSIONS {
            assert_eq!(batch(Some(v2(Compression::None)), version), Ok(v2(Compression::None)));
            let zstd = batch(Some(v2(Compression::Zstd)), version);
            assert_eq!(
                zstd == Err(ErrorCode::UNSUPPORTED_COMPRESSION_TYPE),
                version < 7,
                "{version}"
            );
        }
    }

    #[test]
    fn a_damaged_or_cut_message_set_is_corrupt() {
        let mut flipped = MESSAGE_SET;
        flipped[26] ^= 1;
        for set in [&flipped[..], &MESSAGE_SET[..26], &MESSAGE_SET[..5]] {
            let found = batch(Some(Bytes::copy_from_slice(set)), 1);
            assert_eq!(found, Err(ErrorCode::CORRUPT_MESSAGE));
        }
    }

    #[test]
    fn no_records_are_invalid() {
        for records in [None, Some(Bytes::new())] {
            assert_eq!(batch(records, 9), Err(ErrorCode::INVALID_RECORD));
        }
    }
}
