//! Frames that real clients and Apache Kafka have sent to each other: each is read, and said again byte by byte. README.md
//! tells how they were captured.

use bytes::Bytes;
use kafscale_codec::api::ApiKey;
use kafscale_codec::compression::Compression;
use kafscale_codec::legacy::{convert_message_set, Limits};
use kafscale_codec::messages::*;
use kafscale_codec::record_batch::{self, Record};
use kafscale_codec::wire::{Field, Form, Reader};
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Side {
    Request,
    Response,
}

/// One line of a fixture.
#[derive(Debug, Clone)]
struct Capture {
    api: ApiKey,
    version: i16,
    side: Side,
    /// The client, and what it was doing.
    speaker: String,
    /// Without its size.
    frame: Bytes,
}

impl Capture {
    fn parse(api: ApiKey, line: &str) -> Capture {
        let [version, side, speaker, hex] = line.split(' ').collect::<Vec<_>>()[..] else {
            panic!(
                "{} has a line that is not 'version side speaker hex': {line}",
                api.name()
            );
        };
        Capture {
            api,
            version: version.parse().expect("a version is a number"),
            side: match side {
                "request" => Side::Request,
                "response" => Side::Response,
                other => panic!("{other} is no side"),
            },
            speaker: speaker.to_string(),
            frame: from_hex(hex),
        }
    }

    fn what(&self) -> String {
        format!("{:?} {} {:?} of {}", self.api, self.version, self.side, self.speaker)
    }

    fn with_size(&self) -> Vec<u8> {
        let mut bytes = (self.frame.len() as i32).to_be_bytes().to_vec();
        bytes.extend_from_slice(&self.frame);
        bytes
    }
}

fn from_hex(text: &str) -> Bytes {
    (0..text.len())
        .step_by(2)
        .map(|at| u8::from_str_radix(&text[at..at + 2], 16).expect("pairs of hexadecimal digits"))
        .collect()
}

fn directory() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden")
}

fn captures_of(api: ApiKey) -> Vec<Capture> {
    let path = directory().join(format!("{}.txt", api.name()));
    match std::fs::read_to_string(&path) {
        Ok(text) => text.lines().map(|line| Capture::parse(api, line)).collect(),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Vec::new(),
        Err(error) => panic!("{}: {error}", path.display()),
    }
}

/// Reads a whole request.
fn request<M: Request>(capture: &Capture) -> (RequestHeader, M) {
    let what = capture.what();
    let fixed = Form {
        version: 1,
        flexible: false,
        nullable: true,
    };
    let mut reader = Reader::new(capture.frame.clone());
    // Not `decode_request_header`: of APIs that are not served it reads no further than what all headers share.
    let header = RequestHeader {
        api_key: i16::read(&mut reader, fixed).expect(&what),
        api_version: i16::read(&mut reader, fixed).expect(&what),
        correlation_id: i32::read(&mut reader, fixed).expect(&what),
        client_id: Field::read(&mut reader, fixed).expect(&what),
    };
    if M::API.request_header_version(capture.version) >= 2 {
        reader.skip_tags().expect(&what);
    }
    assert_eq!(
        (header.api_key, header.api_version),
        (M::API as i16, capture.version),
        "{what}"
    );
    let message = M::decode(&mut reader, capture.version).expect(&what);
    assert_eq!(reader.remaining(), 0, "{what}");
    (header, message)
}

fn request_again<M: Request>(capture: &Capture) -> Vec<u8> {
    let (header, message) = request::<M>(capture);
    encode_request(
        capture.version,
        header.correlation_id,
        header.client_id.as_deref(),
        &message,
    )
    .expect("what was read can be said")
    .concat()
}

fn response_again<M: Message>(capture: &Capture) -> Vec<u8> {
    let (correlation_id, message) = decode_response::<M>(capture.frame.clone(), capture.version)
        .unwrap_or_else(|error| panic!("{error} in {}", capture.what()));
    encode_response(capture.version, correlation_id, &message)
        .expect("what was read can be said")
        .concat()
}

macro_rules! every_message {
    ($($api:ident $request:ident $response:ident,)*) => {
        const DECLARED: &[ApiKey] = &[$(ApiKey::$api,)*];

        fn said_again(capture: &Capture) -> Vec<u8> {
            match (capture.api, capture.side) {
                $(
                    (ApiKey::$api, Side::Request) => request_again::<$request>(capture),
                    (ApiKey::$api, Side::Response) => response_again::<$response>(capture),
                )*
                _ => panic!("{:?} is not declared", capture.api),
            }
        }
    };
}

kafscale_codec::for_each_api!(every_message);

#[test]
fn what_was_captured_is_read_and_said_again_byte_by_byte() {
    let mut different = Vec::new();
    for capture in DECLARED.iter().flat_map(|api| captures_of(*api)) {
        let again = said_again(&capture);
        if again != capture.with_size() {
            different.push(format!(
                "{}\n  {}\n  {}",
                capture.what(),
                hex(&capture.with_size()),
                hex(&again)
            ));
        }
    }
    assert!(different.is_empty(), "{}", different.join("\n"));
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[test]
fn every_declared_api_was_captured_and_every_fixture_is_of_one() {
    for api in DECLARED {
        let captures = captures_of(*api);
        for side in [Side::Request, Side::Response] {
            assert!(
                captures.iter().any(|capture| capture.side == side),
                "no {side:?} of {api:?}"
            );
        }
    }
    let names: BTreeSet<_> = DECLARED.iter().map(|api| format!("{}.txt", api.name())).collect();
    for entry in std::fs::read_dir(directory()).expect("the fixtures are there") {
        let name = entry
            .expect("a directory can be listed")
            .file_name()
            .into_string()
            .expect("names are UTF-8");
        assert!(
            names.contains(&name) || !name.ends_with(".txt"),
            "{name} is of no declared API"
        );
    }
}

/// The clients write these; capture.py says so too.
fn expected_value(record: &Record, values: &mut usize) {
    let value = record.value.as_deref().expect("no value is null");
    let text = std::str::from_utf8(value).expect("values are text");
    assert!(text.starts_with("value "), "{text}");
    *values += 1;
}

fn produced(capture: &Capture) -> Vec<Bytes> {
    let (_, message) = request::<ProduceRequest>(capture);
    let partitions = message.topic_data.into_iter().flat_map(|topic| topic.partition_data);
    partitions.filter_map(|partition| partition.records).collect()
}

#[test]
fn batches_of_every_client_and_compression_pass_every_check_and_can_be_read() {
    let mut seen = BTreeSet::new();
    let mut values = 0;
    for capture in captures_of(ApiKey::Produce) {
        if capture.side == Side::Response || capture.version < 3 {
            continue;
        }
        for batch in produced(&capture) {
            let header = record_batch::validate(&batch).unwrap_or_else(|error| panic!("{error} in {}", capture.what()));
            let records = record_batch::records(&batch).unwrap_or_else(|error| panic!("{error} in {}", capture.what()));
            assert_eq!(records.len(), header.record_count as usize);
            records.iter().for_each(|record| expected_value(record, &mut values));
            let client = capture.speaker.split('/').next().expect("a split has a first part");
            let compression = header.compression().expect("a valid batch has a known one");
            seen.insert((compression as i16, client.to_string()));
        }
    }
    assert!(values > 0);
    for compression in [
        Compression::None,
        Compression::Gzip,
        Compression::Snappy,
        Compression::Lz4,
        Compression::Zstd,
    ] {
        let clients = seen.iter().filter(|(of, _)| *of == compression as i16).count();
        assert!(clients >= 7, "{compression:?} of {clients} clients: {seen:?}");
    }
}

#[test]
fn message_sets_of_old_clients_become_batches_that_pass_every_check() {
    let mut seen = BTreeSet::new();
    let mut values = 0;
    for capture in captures_of(ApiKey::Produce) {
        if capture.side == Side::Response || capture.version >= 3 {
            continue;
        }
        for set in produced(&capture) {
            let batch = convert_message_set(&set, Limits::default())
                .unwrap_or_else(|error| panic!("{error} in {}", capture.what()));
            record_batch::validate(&batch).expect("what is converted is sound");
            let records = record_batch::records(&batch).expect("and can be read");
            records.iter().for_each(|record| expected_value(record, &mut values));
            // The magic of the first message, and its compression.
            seen.insert((set[16], set[17] & 0x07));
        }
    }
    assert!(values > 0);
    assert!(
        seen.is_superset(&BTreeSet::from([
            (0, 0),
            (0, 1),
            (0, 2),
            (1, 0),
            (1, 1),
            (1, 2),
            (1, 3)
        ])),
        "{seen:?}"
    );
}

#[test]
fn batches_that_apache_kafka_hands_out_pass_every_check_and_can_be_read() {
    let mut values = 0;
    for capture in captures_of(ApiKey::Fetch) {
        if capture.side == Side::Request {
            continue;
        }
        let (_, message) =
            decode_response::<FetchResponse>(capture.frame.clone(), capture.version).expect("tested above");
        let partitions = message.responses.into_iter().flat_map(|topic| topic.partitions);
        for buffer in partitions
            .filter_map(|partition| partition.records)
            .flat_map(|records| records.0)
        {
            for found in record_batch::iter_batches(&buffer) {
                let (_, batch) = found.expect("small fetches are not cut short");
                record_batch::validate(batch).unwrap_or_else(|error| panic!("{error} in {}", capture.what()));
                let records = record_batch::records(batch).expect("and can be read");
                records.iter().for_each(|record| expected_value(record, &mut values));
            }
        }
    }
    assert!(values > 0);
}
