//! Bytes that are no requests: the connection ends, or gets the one answer that the protocol has; nobody else notices.

use crate::client::{batch_of, encoded, fetch_request, produce_request, Client};
use crate::support::{broker, Random};
use kafscale_codec::api::SERVED;
use kafscale_codec::error_code::ErrorCode;
use kafscale_codec::messages::*;

/// What one connection's nonsense may cost, with room for the allocator's habits.
const GROWTH_MAX: u64 = 64 << 20;

/// A request's first bytes: key, version, correlation id, client id "x"; with the size in front.
fn frame(key: i16, version: i16, body: &[u8]) -> Vec<u8> {
    let mut frame = Vec::new();
    frame.extend(key.to_be_bytes());
    frame.extend(version.to_be_bytes());
    frame.extend(77i32.to_be_bytes());
    frame.extend([0, 1, b'x']);
    frame.extend(body);
    sized(&frame)
}

fn sized(frame: &[u8]) -> Vec<u8> {
    [&(frame.len() as i32).to_be_bytes(), frame].concat()
}

#[test]
fn a_frame_that_ends_early_is_dropped_with_its_connection() {
    let (_directory, mut broker) = broker("");
    let before = broker.resident_bytes();
    broker.connect().create_topic("cut", 1);
    let whole = encoded(12, 1, &produce_request("cut", 0, batch_of(&[b"never whole"])));
    for end in [1, 3, 4, 5, 20, whole.len() - 1] {
        let mut client = broker.connect();
        client.send_raw(&whole[..end]).unwrap();
        drop(client);
    }
    // The same request with a size that ends before the request does: it is no request.
    let mut client = broker.connect();
    client.send_raw(&sized(&whole[4..whole.len() - 10])).unwrap();
    assert!(client.is_closed_by_broker());
    assert_eq!(
        broker.connect().end_offset("cut", 0).unwrap(),
        Ok(0),
        "nothing was stored"
    );
    broker.assert_well(before, GROWTH_MAX);
}

#[test]
fn a_size_that_cannot_be_ends_the_connection_before_memory_is_spent() {
    let (_directory, mut broker) = broker("--socket-request-max-bytes 2000000");
    let before = broker.resident_bytes();
    for size in [2_000_001, 1 << 30, i32::MAX, -1, i32::MIN] {
        let mut client = broker.connect();
        client.send_raw(&size.to_be_bytes()).unwrap();
        assert!(client.is_closed_by_broker(), "size {size}");
    }
    broker.assert_well(before, GROWTH_MAX);
}

#[test]
fn an_announced_size_costs_nothing_until_the_bytes_arrive() {
    let (_directory, mut broker) = broker("");
    let before = broker.resident_bytes();
    let announced: Vec<Client> = (0..50)
        .map(|_| {
            let mut client = broker.connect();
            client.send_raw(&100_000_000i32.to_be_bytes()).unwrap();
            client.send_raw(&[0, 0, 0, 12]).unwrap();
            client
        })
        .collect();
    // Five gigabytes are announced now, and 400 bytes are here.
    broker.assert_well(before, 50 * (2 << 20) + GROWTH_MAX);
    drop(announced);
}

#[test]
fn an_empty_frame_ends_the_connection() {
    let (_directory, mut broker) = broker("");
    let before = broker.resident_bytes();
    for frame in [sized(b""), sized(&[0]), sized(&[0, 18, 0])] {
        let mut client = broker.connect();
        client.send_raw(&frame).unwrap();
        assert!(client.is_closed_by_broker());
    }
    broker.assert_well(before, GROWTH_MAX);
}

#[test]
fn lengths_that_lie_inside_a_frame_end_the_connection() {
    let (_directory, mut broker) = broker("");
    let before = broker.resident_bytes();
    let huge = i32::MAX.to_be_bytes();
    let compact_huge = [0xff, 0xff, 0xff, 0xff, 0x0f];
    let produce_start = [[0xff, 0xff].as_slice(), &[0xff, 0xff], &[0, 0, 0, 1]].concat();
    let produce_topic = [
        &produce_start[..],
        &[0, 0, 0, 1],
        &[0, 1, b't'],
        &[0, 0, 0, 1],
        &[0, 0, 0, 0],
    ]
    .concat();
    let lies: Vec<(&str, Vec<u8>)> = vec![
        ("array count", frame(3, 1, &huge)),
        ("negative array count", frame(3, 1, &(-2i32).to_be_bytes())),
        ("string length", frame(3, 1, &[0, 0, 0, 1, 0x7f, 0xff, b't'])),
        ("negative string length", frame(3, 1, &[0, 0, 0, 1, 0xff, 0xf0])),
        (
            "a string that is not UTF-8",
            frame(3, 1, &[0, 0, 0, 1, 0, 2, 0xc3, 0x28]),
        ),
        ("topic count", frame(0, 3, &[&produce_start[..], &huge].concat())),
        ("records length", frame(0, 3, &[&produce_topic[..], &huge].concat())),
        (
            "negative records length",
            frame(0, 3, &[&produce_topic[..], &(-5i32).to_be_bytes()].concat()),
        ),
        ("compact array count", frame(3, 9, &[&[0][..], &compact_huge].concat())),
        (
            "a varint without an end",
            frame(3, 9, &[0, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff]),
        ),
        ("tag count", frame(3, 9, &compact_huge)),
        ("tag length", frame(3, 9, &[1, 0, 0xff, 0xff, 0xff, 0xff, 0x0f])),
        ("client id length", sized(&[0, 3, 0, 1, 0, 0, 0, 1, 0x7f, 0xff])),
    ];
    for (what, frame) in lies {
        let mut client = broker.connect();
        client.send_raw(&frame).unwrap();
        assert!(client.is_closed_by_broker(), "{what}");
        broker.assert_well(before, GROWTH_MAX);
    }
}

#[test]
fn counts_that_are_large_and_honest_are_served_within_bounds() {
    let (_directory, mut broker) = broker("");
    let before = broker.resident_bytes();
    // A hundred thousand topics that do not exist, none to be created.
    let topics = (0..100_000)
        .map(|number| MetadataRequestTopic {
            name: Some(format!("t{number}")),
            ..MetadataRequestTopic::default()
        })
        .collect();
    let request = MetadataRequest {
        topics: Some(topics),
        allow_auto_topic_creation: false,
        ..MetadataRequest::default()
    };
    let answer = broker.connect().call(9, &request);
    assert_eq!(answer.topics.len(), 100_000);
    broker.assert_well(before, 256 << 20);
}

#[test]
fn an_unknown_api_is_answered_with_unsupported_version() {
    let (_directory, mut broker) = broker("");
    let before = broker.resident_bytes();
    let end_txn: &[u8] = &[0, 0, 0, 77, 0, 0, 0, 0, 0, 35];
    let unknown: &[u8] = &[0, 0, 0, 77, 0, 35];
    // EndTxn begins with a throttle time; of the others the shape is not known, or has no error of its own.
    let apis = [999i16, -1, i16::MAX, i16::MIN, 24, 65].map(|key| (key, unknown));
    for (key, expected) in apis.into_iter().chain([(26, end_txn)]) {
        let mut client = broker.connect();
        client.send_raw(&frame(key, 0, &[0; 40])).unwrap();
        match client.read_frame().unwrap() {
            // Correlation id and error code, or the connection ends: never silence.
            Some(answer) => assert_eq!(&answer[..], expected, "API {key}"),
            None => panic!("API {key}: closed without an answer"),
        }
    }
    broker.assert_well(before, GROWTH_MAX);
}

#[test]
fn an_unknown_version_of_api_versions_gets_version_0_and_the_table() {
    let (_directory, mut broker) = broker("");
    let before = broker.resident_bytes();
    for version in [5i16, 99, i16::MAX, -1] {
        let mut client = broker.connect();
        client.send_raw(&frame(18, version, &[0, 1, 2, 3])).unwrap();
        let answer = client.read_frame().unwrap().unwrap();
        let (id, answer) = decode_response::<ApiVersionsResponse>(answer, 0).unwrap();
        assert_eq!(
            (id, answer.error_code),
            (77, ErrorCode::UNSUPPORTED_VERSION),
            "version {version}"
        );
        assert_eq!(answer.api_keys.len(), SERVED.len());
        // The connection goes on with a version that is served.
        assert_eq!(
            client.call(0, &ApiVersionsRequest::default()).error_code,
            ErrorCode::NONE
        );
    }
    broker.assert_well(before, GROWTH_MAX);
}

#[test]
fn an_unknown_version_of_any_other_api_is_answered_or_closed_and_never_executed() {
    let (_directory, mut broker) = broker("");
    let before = broker.resident_bytes();
    for api in SERVED.iter().filter(|api| api.key as i16 != 18) {
        for version in [api.max + 1, i16::MAX, -1] {
            let mut client = broker.connect();
            client.send_raw(&frame(api.key as i16, version, &[0; 40])).unwrap();
            if let Some(answer) = client.read_frame().unwrap() {
                assert_eq!(&answer[..], &[0, 0, 0, 77, 0, 35], "{:?} version {version}", api.key);
            }
        }
    }
    broker.assert_well(before, GROWTH_MAX);
}

#[test]
fn other_protocols_on_the_port_are_turned_away() {
    let (_directory, mut broker) = broker("");
    let before = broker.resident_bytes();
    let http = b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n".to_vec();
    // A TLS 1.2 record with the start of a ClientHello.
    let tls = [&[0x16, 3, 1, 2, 0, 1, 0, 1, 0xfc, 3, 3][..], &Random::new(7).bytes(500)].concat();
    let ssh = b"SSH-2.0-OpenSSH_9.9\r\n".to_vec();
    for (what, bytes) in [("HTTP", http), ("TLS", tls), ("SSH", ssh)] {
        let mut client = broker.connect();
        client.send_raw(&bytes).unwrap();
        assert!(client.is_closed_by_broker(), "{what}");
    }
    broker.assert_well(before, GROWTH_MAX);
}

#[test]
fn random_bytes_harm_nobody() {
    let (_directory, mut broker) = broker("--auto-create-topics false");
    let before = broker.resident_bytes();
    let seed = 20_261;
    let mut random = Random::new(seed);
    println!("seed {seed}");
    let samples = [
        encoded(12, 1, &produce_request("t", 0, batch_of(&[b"value"]))),
        encoded(12, 1, &fetch_request("t", 0, 0, 0, 1000)),
        encoded(9, 1, &MetadataRequest::default()),
        encoded(4, 1, &ApiVersionsRequest::default()),
    ];
    for round in 0..400 {
        let mut client = broker.connect();
        let bytes = if round % 2 == 0 {
            let length = random.below(300) as usize;
            sized(&random.bytes(length))
        } else {
            // A good request with a few bytes replaced, behind its size.
            let mut bytes = samples[random.below(samples.len() as u64) as usize].clone();
            for _ in 0..1 + random.below(4) {
                let at = 4 + random.below(bytes.len() as u64 - 4) as usize;
                bytes[at] = random.next() as u8;
            }
            bytes
        };
        // The broker may close while this is still being written.
        let _ = client.send_raw(&bytes);
    }
    broker.assert_well(before, GROWTH_MAX);
}
