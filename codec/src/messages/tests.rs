use super::*;
use crate::error_code::ErrorCode;
use crate::types::TopicId;
use crate::wire::Records;

fn joined(buffers: BufferList) -> Bytes {
    buffers.concat().into()
}

fn round_trip<M: Message + std::fmt::Debug + PartialEq>(message: &M, version: i16) -> M {
    let mut writer = Writer::new();
    message.encode(&mut writer, version).unwrap();
    let bytes = joined(writer.finish());
    for end in 0..bytes.len() {
        // Every truncation is an error, never a panic.
        assert!(
            M::decode(&mut Reader::new(bytes.slice(..end)), version).is_err(),
            "{end} of {}",
            bytes.len()
        );
    }
    let mut reader = Reader::new(bytes);
    let decoded = M::decode(&mut reader, version).unwrap();
    assert_eq!(reader.remaining(), 0);
    decoded
}

#[test]
fn a_produce_request_says_the_same_in_every_version() {
    for version in ProduceRequest::VERSIONS {
        let by_id = version >= 13;
        let request = ProduceRequest {
            transactional_id: None,
            acks: -1,
            timeout_ms: 30_000,
            topic_data: vec![TopicProduceData {
                name: if by_id { String::new() } else { "orders".into() },
                topic_id: if by_id { TopicId([9; 16]) } else { TopicId::ZERO },
                partition_data: vec![
                    PartitionProduceData {
                        index: 3,
                        records: Some(Bytes::from_static(b"batch")),
                    },
                    PartitionProduceData {
                        index: 4,
                        records: None,
                    },
                ],
            }],
        };
        assert_eq!(round_trip(&request, version), request);
    }
}

#[test]
fn a_fetch_response_carries_its_buffers_as_one_field() {
    for version in FetchResponse::VERSIONS {
        let response = FetchResponse {
            responses: vec![FetchableTopicResponse {
                topic: if version < 13 { "t".into() } else { String::new() },
                topic_id: if version < 13 { TopicId::ZERO } else { TopicId([1; 16]) },
                partitions: vec![PartitionData {
                    partition_index: 1,
                    error_code: ErrorCode::NONE,
                    high_watermark: 10,
                    last_stable_offset: 10,
                    log_start_offset: if version >= 5 { 2 } else { -1 },
                    current_leader: match version {
                        12.. => LeaderIdAndEpoch {
                            leader_id: 4,
                            leader_epoch: 5,
                        },
                        _ => LeaderIdAndEpoch::default(),
                    },
                    records: Some(Records(vec![vec![1; 700].into(), vec![2; 3].into()])),
                    ..Default::default()
                }],
            }],
            ..Default::default()
        };
        let decoded = round_trip(&response, version);
        let records = decoded.responses[0].partitions[0].records.clone().unwrap();
        assert_eq!(records.len(), 703);
        assert_eq!(
            decoded.responses[0].partitions[0].current_leader,
            response.responses[0].partitions[0].current_leader
        );
    }
}

#[test]
fn a_topic_id_cannot_be_said_in_a_version_that_has_none() {
    let request = ProduceRequest {
        topic_data: vec![TopicProduceData {
            topic_id: TopicId([1; 16]),
            ..Default::default()
        }],
        ..Default::default()
    };
    let error = request.encode(&mut Writer::new(), 12).unwrap_err();
    assert_eq!(error, EncodeError::FieldNotInVersion("topic_id", 12));
}

#[test]
fn a_count_that_lies_is_refused_before_anything_is_allocated() {
    // acks, timeout, then two billion topics.
    let body = [0, 1, 0, 0, 0, 1, 0x7f, 0xff, 0xff, 0xff];
    let error = ProduceRequest::decode(&mut Reader::new(Bytes::copy_from_slice(&body)), 2).unwrap_err();
    assert_eq!(
        error,
        DecodeError::Truncated {
            needed: 0x7fff_ffff,
            remaining: 0
        }
    );
}

#[test]
fn the_header_of_api_versions_is_answered_in_version_0_whatever_was_asked() {
    let buffers = encode_response(4, 77, &ApiVersionsResponse::default()).unwrap();
    let frame = joined(buffers);
    // Size, correlation id, error code: no tag section between.
    assert_eq!(frame[4..8], 77i32.to_be_bytes());
    assert_eq!(frame[8..10], [0, 0]);
}

#[test]
fn a_request_and_its_header_come_back_as_sent() {
    let request = MetadataRequest {
        topics: None,
        ..Default::default()
    };
    let frame = joined(encode_request(13, 5, Some("me"), &request).unwrap()).slice(4..);
    let mut reader = Reader::new(frame);
    let header = decode_request_header(&mut reader).unwrap();
    assert_eq!((header.api_key, header.api_version, header.correlation_id), (3, 13, 5));
    assert_eq!(header.client_id.as_deref(), Some("me"));
    assert_eq!(MetadataRequest::decode(&mut reader, 13).unwrap(), request);
}
