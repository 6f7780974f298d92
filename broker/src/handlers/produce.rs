//! Produce 0–13. Versions 0–2 carry message sets; from 3 on exactly one v2 batch per partition; 13 names topics by id.
//!
//! `timeout_ms` has no effect: in Kafka it bounds the wait for followers, and there are none. A request that it cut off
//! would be stored all the same, and sent again by the client.

use super::topics::is_internal;
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
use kafscale_codec::types::TopicId;
use kafscale_storage_engine::partition_log::PartitionKey;
use std::collections::BTreeMap;

/// Where messages of every magic say how long they are.
const LENGTH_AT: usize = 8;

/// The shortest that a message of any magic can say it is.
const LENGTH_MIN: i32 = 14;

/// Where messages of every magic say theirs.
const MAGIC_AT: usize = 16;

/// Where a v2 batch has its attributes.
const ATTRIBUTES_AT: usize = 21;

/// The bit of a batch that belongs to a transaction.
const TRANSACTIONAL: u8 = 1 << 4;

/// The first version in which a partition has exactly one batch.
const ONE_BATCH_SINCE: i16 = 3;

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
    let whole = whole_refusal(&request, version);
    let bad_acks = !matches!(request.acks, -1..=1);
    let mut shards: BTreeMap<u32, ForShard> = BTreeMap::new();
    let mut response = ProduceResponse::default();
    for (topic_at, data) in without_repetitions(request.topic_data).into_iter().enumerate() {
        let named = if version >= 13 {
            TopicRef::Id(data.topic_id)
        } else {
            TopicRef::Name(&data.name)
        };
        let topic = match (find_topic(&image, named), named) {
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
            let placed = match (whole, &topic) {
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
            // Kafka's order: the topic, the batch, `acks`.
            let records = placed.and_then(|place| Ok((place, batch(partition.records, version)?)));
            let records = records.and_then(|placed| match bad_acks {
                true => Err(ErrorCode::INVALID_REQUIRED_ACKS),
                false => Ok(placed),
            });
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

/// Why nothing of a request is looked at. As Kafka, which reads all batches' headers first, to find transactional ones.
fn whole_refusal(request: &ProduceRequest, version: i16) -> Option<ErrorCode> {
    let partitions = request.topic_data.iter().flat_map(|topic| &topic.partition_data);
    let mut records = partitions.filter_map(|partition| partition.records.as_deref());
    if version >= ONE_BATCH_SINCE && records.any(|records| first_batch(records) == Err(ErrorCode::CORRUPT_MESSAGE)) {
        return Some(ErrorCode::CORRUPT_MESSAGE);
    }
    let transactional = request.transactional_id.is_some() || carries_transaction(&request.topic_data);
    transactional.then_some(ErrorCode::TRANSACTIONAL_ID_AUTHORIZATION_FAILED)
}

/// Whether any batch claims to be part of a transaction: then the request would need a transactional id.
fn carries_transaction(topics: &[TopicProduceData]) -> bool {
    let partitions = topics.iter().flat_map(|topic| &topic.partition_data);
    let mut records = partitions.filter_map(|partition| partition.records.as_deref());
    records.any(|records| {
        // The bits are in the second byte of the attributes.
        records.get(MAGIC_AT) == Some(&2)
            && records
                .get(ATTRIBUTES_AT + 1)
                .is_some_and(|bits| bits & TRANSACTIONAL > 0)
    })
}

/// The request as Kafka reads it: each partition once, with what is said of it last, and no topics without partitions.
fn without_repetitions(mut topics: Vec<TopicProduceData>) -> Vec<TopicProduceData> {
    topics.retain(|topic| !topic.partition_data.is_empty());
    if !has_repetitions(&topics) {
        return topics;
    }
    let mut places: BTreeMap<(String, TopicId), usize> = BTreeMap::new();
    let mut merged: Vec<TopicProduceData> = Vec::with_capacity(topics.len());
    for topic in topics {
        let place = *places.entry((topic.name.clone(), topic.topic_id)).or_insert_with(|| {
            merged.push(TopicProduceData {
                name: topic.name,
                topic_id: topic.topic_id,
                partition_data: Vec::new(),
            });
            merged.len() - 1
        });
        let known = &mut merged[place].partition_data;
        for partition in topic.partition_data {
            match known.iter_mut().find(|known| known.index == partition.index) {
                Some(known) => *known = partition,
                None => known.push(partition),
            }
        }
    }
    merged
}

/// Whether a topic, or a partition of one, is named twice. Clients name them in order, or few of them.
fn has_repetitions(topics: &[TopicProduceData]) -> bool {
    fn repeats<T: Ord>(mut all: Vec<T>) -> bool {
        all.sort_unstable();
        all.windows(2).any(|pair| pair[0] == pair[1])
    }
    let rises = |topic: &TopicProduceData| {
        topic
            .partition_data
            .windows(2)
            .all(|pair| pair[0].index < pair[1].index)
    };
    let indexes = |topic: &TopicProduceData| topic.partition_data.iter().map(|partition| partition.index).collect();
    topics.len() > 1
        && repeats(
            topics
                .iter()
                .map(|topic| (topic.name.as_str(), topic.topic_id.0))
                .collect(),
        )
        || topics
            .iter()
            .any(|topic| !rises(topic) && repeats::<i32>(indexes(topic)))
}

/// The one v2 batch of a partition; message sets of old clients become one.
fn batch(records: Option<Bytes>, version: i16) -> Result<Bytes, ErrorCode> {
    let records = records
        .filter(|records| !records.is_empty())
        .ok_or(ErrorCode::INVALID_RECORD)?;
    if version >= ONE_BATCH_SINCE {
        check_framing(&records)?;
    }
    // Message sets and batches have their magic in the same place.
    match (version, records.get(MAGIC_AT).map(|magic| *magic as i8)) {
        (0..=2, Some(0 | 1)) => legacy::convert_message_set(&records, legacy::Limits::default()).map_err(legacy_error),
        // Too short to say what it is.
        (_, None) => Err(ErrorCode::CORRUPT_MESSAGE),
        (..=6, Some(2)) if !is_known_before_zstd(&records) => Err(ErrorCode::UNSUPPORTED_COMPRESSION_TYPE),
        (_, Some(2)) => Ok(records),
        (_, _) => Err(ErrorCode::INVALID_RECORD),
    }
}

/// Whether there is exactly one whole batch.
fn check_framing(records: &[u8]) -> Result<(), ErrorCode> {
    let rest = first_batch(records)?;
    match first_batch(rest) {
        Ok(_) => Err(ErrorCode::INVALID_RECORD),
        Err(ErrorCode::CORRUPT_MESSAGE) => Err(ErrorCode::CORRUPT_MESSAGE),
        Err(_) => Ok(()),
    }
}

/// What is behind the first batch. As Kafka: what is cut off is no batch, and a frame that no version of the format has is a
/// corrupt one.
fn first_batch(records: &[u8]) -> Result<&[u8], ErrorCode> {
    let Some(length) = records.get(LENGTH_AT..=MAGIC_AT).and_then(|bytes| bytes.first_chunk()) else {
        return Err(ErrorCode::INVALID_RECORD);
    };
    let length = i32::from_be_bytes(*length);
    if length < LENGTH_MIN || !(0..=2).contains(&(records[MAGIC_AT] as i8)) {
        return Err(ErrorCode::CORRUPT_MESSAGE);
    }
    let rest = records.get(LENGTH_AT + 4 + length as usize..);
    rest.ok_or(ErrorCode::INVALID_RECORD)
}

/// KIP-110: zstd is for clients that know Produce 7, since others could not read it back.
fn is_known_before_zstd(batch: &[u8]) -> bool {
    let known = |header: BatchHeader| header.compression().is_some_and(|known| known != Compression::Zstd);
    // What is no header is refused where the batch is.
    BatchHeader::parse(batch).map_or(true, known)
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
    let rejected = result.rejected.into_iter();
    answer.record_errors = rejected
        .map(|batch_index| BatchIndexAndErrorMessage {
            batch_index,
            batch_index_error_message: Some("The record's timestamp is out of range.".to_string()),
        })
        .collect();
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
    fn a_cut_batch_is_none_and_an_unknown_magic_is_corrupt() {
        let whole = v2(Compression::None);
        for len in [5, 16, 17, 60, whole.len() - 1] {
            assert_eq!(
                batch(Some(whole.slice(..len)), 9),
                Err(ErrorCode::INVALID_RECORD),
                "{len}"
            );
        }
        for (at, byte) in [(MAGIC_AT, 3), (MAGIC_AT, 0xff), (LENGTH_AT, 0xff)] {
            let mut changed = whole.to_vec();
            changed[at] = byte;
            assert_eq!(batch(Some(changed.into()), 9), Err(ErrorCode::CORRUPT_MESSAGE), "{at}");
        }
    }

    #[test]
    fn a_partition_counts_once_with_what_is_said_of_it_last() {
        let topic = |name: &str, partitions: &[(i32, &'static [u8])]| TopicProduceData {
            name: name.to_string(),
            partition_data: partitions
                .iter()
                .map(|(index, records)| PartitionProduceData {
                    index: *index,
                    records: Some(Bytes::from_static(records)),
                })
                .collect(),
            ..Default::default()
        };
        let asked = vec![
            topic("a", &[(1, b"x"), (0, b"y"), (1, b"z")]),
            topic("b", &[]),
            topic("a", &[(2, b"u"), (0, b"v")]),
        ];
        let expected = vec![topic("a", &[(1, b"z"), (0, b"v"), (2, b"u")])];
        assert_eq!(without_repetitions(asked), expected);
        let sound = vec![topic("a", &[(1, b"x"), (0, b"y")]), topic("b", &[(0, b"z")])];
        assert_eq!(without_repetitions(sound.clone()), sound);
    }

    #[test]
    fn no_records_are_invalid() {
        for records in [None, Some(Bytes::new())] {
            assert_eq!(batch(records, 9), Err(ErrorCode::INVALID_RECORD));
        }
    }
}
