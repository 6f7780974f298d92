//! Answers to APIs that the broker does not serve: UNSUPPORTED_VERSION in the shape of the API's own response, so that a
//! client which asks without having looked at ApiVersions can read it.

use super::Reply;
use bytes::{BufMut, Bytes, BytesMut};
use kafscale_codec::error_code::ErrorCode;
use kafscale_codec::messages::RequestHeader;

/// What a response consists of, as far as it says that nothing was done.
#[derive(Debug, Clone, Copy)]
enum Part {
    Throttle,
    Error,
    NullText,
    EmptyList,
}
use Part::{EmptyList, Error, NullText, Throttle};

/// Kafka's key, the first flexible version, and the response. Not in the table are APIs between brokers, and those whose
/// responses have their errors only inside of lists.
const SHAPES: &[(i16, i16, &[Part])] = &[
    (25, 3, &[Throttle, Error]),                      // AddOffsetsToTxn
    (26, 3, &[Throttle, Error]),                      // EndTxn
    (29, 2, &[Throttle, Error, NullText, EmptyList]), // DescribeAcls
    (39, 2, &[Error]),                                // RenewDelegationToken
    (40, 2, &[Error]),                                // ExpireDelegationToken
    (41, 2, &[Error, EmptyList, Throttle]),           // DescribeDelegationToken
    (43, 2, &[Throttle, Error, EmptyList]),           // ElectLeaders
    (45, 0, &[Throttle, Error, NullText, EmptyList]), // AlterPartitionReassignments
    (46, 0, &[Throttle, Error, NullText, EmptyList]), // ListPartitionReassignments
    (50, 0, &[Throttle, Error, NullText, EmptyList]), // DescribeUserScramCredentials
    (57, 0, &[Throttle, Error, NullText, EmptyList]), // UpdateFeatures
    (64, 0, &[Throttle, Error, NullText]),            // UnregisterBroker
    (72, 0, &[Throttle, Error]),                      // PushTelemetry
    (74, 0, &[Throttle, Error, EmptyList]),           // ListConfigResources
];

/// The answer to a request for an API or a version that is not served.
pub(super) fn refuse(header: &RequestHeader) -> Reply {
    log::debug!("API {} version {} is not served", header.api_key, header.api_version);
    let answer = answer(header);
    Box::pin(async move { Ok(Some(vec![answer])) })
}

fn answer(header: &RequestHeader) -> Bytes {
    let mut body = BytesMut::new();
    body.put_i32(header.correlation_id);
    match SHAPES.iter().find(|(key, ..)| *key == header.api_key) {
        Some((_, flexible_from, parts)) => {
            let flexible = header.api_version >= *flexible_from;
            // No tags in the header, and none at the end.
            if flexible {
                body.put_u8(0);
            }
            parts.iter().for_each(|part| put(&mut body, *part, flexible));
            if flexible {
                body.put_u8(0);
            }
        }
        // The error code comes first in the oldest responses.
        None => body.put_i16(ErrorCode::UNSUPPORTED_VERSION.0),
    }
    let mut answer = BytesMut::with_capacity(4 + body.len());
    answer.put_i32(body.len() as i32);
    answer.put_slice(&body);
    answer.freeze()
}

fn put(body: &mut BytesMut, part: Part, flexible: bool) {
    match (part, flexible) {
        (Throttle, _) => body.put_i32(0),
        (Error, _) => body.put_i16(ErrorCode::UNSUPPORTED_VERSION.0),
        // Compact lengths are one more than what they count; 0 is null.
        (NullText, true) => body.put_u8(0),
        (NullText, false) => body.put_i16(-1),
        (EmptyList, true) => body.put_u8(1),
        (EmptyList, false) => body.put_i32(0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_api_that_is_not_served_is_refused_in_its_own_shape() {
        let of = |api_key, api_version| {
            let header = RequestHeader {
                api_key,
                api_version,
                correlation_id: 7,
                client_id: None,
            };
            answer(&header).to_vec()
        };
        // ListPartitionReassignments: tags, throttle, error, null message, no topics, tags.
        let flexible = [0, 0, 0, 14, 0, 0, 0, 7, 0, 0, 0, 0, 0, 0, 35, 0, 1, 0];
        assert_eq!(of(46, 0), flexible);
        // DescribeAcls 1: the same without tags and compact lengths.
        let fixed = [0, 0, 0, 16, 0, 0, 0, 7, 0, 0, 0, 0, 0, 35, 255, 255, 0, 0, 0, 0];
        assert_eq!(of(29, 1), fixed);
        assert_eq!(of(999, 0), [0, 0, 0, 6, 0, 0, 0, 7, 0, 35]);
    }
}
