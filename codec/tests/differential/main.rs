//! Our messages against those of the crate kafka-protocol, whose code is generated from Kafka's schemas: what one encodes
//! the other decodes to the same fields and encodes to the same bytes, for every message and version that both know.

mod tree;

use bytes::{Bytes, BytesMut};
use kafka_protocol::messages as theirs;
use kafka_protocol::protocol::{Decodable, Encodable, HeaderVersion, Message as TheirMessage, Request as TheirRequest};
use kafscale_codec::api::ApiKey;
use kafscale_codec::messages as ours;
use kafscale_codec::messages::Message as OurMessage;
use kafscale_codec::testing::{Sample, Sampler};
use kafscale_codec::wire::{Form, Reader, Writer};
use proptest::prelude::*;
use std::collections::BTreeMap;
use std::fmt::Debug;
use tree::{tree, Tree};

/// Fields that one side alone declares: API, field, why. Their values must be the defaults wherever both are compared.
const FIELDS_OF_ONE_SIDE: &[(ApiKey, &str, &str)] = &[
    (ApiKey::Fetch, "high_watermark", "Fetch 18, for replicas (KIP-1166)"),
    (ApiKey::ListOffsets, "old_style_offsets", "ListOffsets 0"),
    (ApiKey::ListOffsets, "max_num_offsets", "ListOffsets 0"),
    (ApiKey::OffsetCommit, "commit_timestamp", "OffsetCommit 1"),
    (ApiKey::OffsetCommit, "topic_id", "OffsetCommit 10"),
    (ApiKey::OffsetFetch, "topic_id", "OffsetFetch 10"),
    (ApiKey::InitProducerId, "ongoing_txn_producer_id", TWO_PHASE),
    (ApiKey::InitProducerId, "ongoing_txn_producer_epoch", TWO_PHASE),
    (ApiKey::InitProducerId, "keep_prepared_txn", TWO_PHASE),
    (ApiKey::InitProducerId, "enable_2_pc", TWO_PHASE),
];

const TWO_PHASE: &str = "InitProducerId 6, for two-phase commit (KIP-939)";

/// Fields that are null here and empty there in versions that do not carry them: what stands in for an absent field is
/// each side's own affair.
const STAND_INS: &[(ApiKey, &str)] = &[
    (ApiKey::FindCoordinator, ".error_message"),
    (ApiKey::CreateTopics, ".topics.configs"),
    (ApiKey::DescribeConfigs, ".results.configs.documentation"),
    (ApiKey::OffsetFetch, ".topics"),
];

/// First and last version.
type Versions = (i16, i16);

/// Versions that one side alone declares: API, ours, theirs, why.
const VERSIONS_OF_ONE_SIDE: &[(ApiKey, Versions, Versions, &str)] = &[
    (ApiKey::Produce, (0, 13), (3, 13), BEFORE_KIP_896),
    (ApiKey::Fetch, (4, 17), (4, 18), "18 is for replicas (KIP-1166)"),
    (ApiKey::ListOffsets, (0, 10), (1, 10), BEFORE_KIP_896),
    (ApiKey::OffsetCommit, (0, 9), (2, 9), BEFORE_KIP_896),
    (ApiKey::OffsetFetch, (0, 9), (1, 9), BEFORE_KIP_896),
    (ApiKey::CreateTopics, (0, 7), (2, 7), BEFORE_KIP_896),
    (ApiKey::DeleteTopics, (0, 6), (1, 6), BEFORE_KIP_896),
];

/// Kafka 4.0 has dropped the oldest versions, and its schemas no longer describe them; old clients still speak them.
const BEFORE_KIP_896: &str = "dropped from the schemas by KIP-896";

/// APIs whose messages are not declared yet.
const UNDECLARED: &[ApiKey] = &[ApiKey::SaslHandshake, ApiKey::SaslAuthenticate];

/// Rounds per message and version, each with a value of its own.
const ROUNDS: u64 = 4;

fn encode_ours<O: OurMessage>(message: &O, version: i16) -> Bytes {
    let mut writer = Writer::new();
    message.encode(&mut writer, version).expect("a sample can be said");
    writer.finish().concat().into()
}

fn encode_theirs<T: Encodable>(message: &T, version: i16) -> Bytes {
    let mut bytes = BytesMut::new();
    message
        .encode(&mut bytes, version)
        .expect("they can say what they read");
    bytes.freeze()
}

fn common_versions<O: OurMessage, T: TheirMessage>() -> std::ops::RangeInclusive<i16> {
    *O::VERSIONS.start().max(&T::VERSIONS.min)..=*O::VERSIONS.end().min(&T::VERSIONS.max)
}

/// One message in every version that both know.
fn compare<O, T>(seed: u64)
where
    O: OurMessage + Sample + Debug + PartialEq,
    T: TheirMessage + Encodable + Decodable + Debug,
{
    let mut sampler = Sampler::new(seed);
    for version in common_versions::<O, T>() {
        for _ in 0..ROUNDS {
            compare_one::<O, T>(&mut sampler, version);
        }
    }
}

fn compare_one<O, T>(sampler: &mut Sampler, version: i16)
where
    O: OurMessage + Sample + Debug + PartialEq,
    T: TheirMessage + Encodable + Decodable + Debug,
{
    let form = Form {
        version,
        flexible: version >= O::API.flexible_from(),
        nullable: false,
    };
    let value = O::sample(sampler, form);
    let what = || format!("{:?} version {version}: {value:?}", O::API);
    let bytes = encode_ours(&value, version);

    let mut rest = bytes.clone();
    let read = T::decode(&mut rest, version).unwrap_or_else(|error| panic!("{error} in {}", what()));
    assert!(rest.is_empty(), "{} bytes left by them of {}", rest.len(), what());
    let mut differences = Vec::new();
    differ(O::API, "", &tree(&value), &tree(&read), &mut differences);
    assert!(differences.is_empty(), "{differences:#?}\nin {}", what());

    let written = encode_theirs(&read, version);
    assert_eq!(written, bytes, "{}", what());
    let mut reader = Reader::new(written);
    assert_eq!(O::decode(&mut reader, version).as_ref(), Ok(&value), "{}", what());
    assert_eq!(reader.remaining(), 0, "{}", what());
}

/// Notes where two values are not the same, field by field.
fn differ(api: ApiKey, path: &str, ours: &Tree, theirs: &Tree, differences: &mut Vec<String>) {
    match (ours, theirs) {
        (Tree::Struct(ours), Tree::Struct(theirs)) => differ_in_fields(api, path, ours, theirs, differences),
        (Tree::List(our_items), Tree::List(their_items)) if our_items.len() == their_items.len() => {
            for (ours, theirs) in our_items.iter().zip(their_items) {
                differ(api, path, ours, theirs, differences);
            }
        }
        _ if ours == theirs => {}
        _ if STAND_INS.contains(&(api, path)) && is_null(ours) && is_empty(theirs) => {}
        _ => differences.push(format!("{path}: {ours:?} here, {theirs:?} there")),
    }
}

fn is_null(value: &Tree) -> bool {
    *value == Tree::Atom("None".to_string())
}

fn is_empty(value: &Tree) -> bool {
    *value == Tree::List(Vec::new()) || *value == Tree::Atom("\"\"".to_string())
}

fn differ_in_fields(
    api: ApiKey,
    path: &str,
    ours: &BTreeMap<String, Tree>,
    theirs: &BTreeMap<String, Tree>,
    differences: &mut Vec<String>,
) {
    for name in ours
        .keys()
        .chain(theirs.keys().filter(|name| !ours.contains_key(*name)))
    {
        let deliberate = || {
            FIELDS_OF_ONE_SIDE
                .iter()
                .any(|(of, field, _)| *of == api && field == name)
        };
        match (ours.get(name), theirs.get(name)) {
            (Some(ours), Some(theirs)) => differ(api, &format!("{path}.{name}"), ours, theirs, differences),
            // Filled with tags that they do not know: then a tag of ours is wrong.
            (None, Some(unknown)) if name == "unknown_tagged_fields" && *unknown == Tree::List(Vec::new()) => {}
            (None, Some(_)) | (Some(_), None) if deliberate() => {}
            (ours, _) => {
                let side = if ours.is_some() { "here" } else { "there" };
                differences.push(format!("{path}.{name} only {side}"));
            }
        }
    }
}

/// A smaller seed is no simpler value, so nothing is shrunk; the seed of a failure is in its message.
fn config() -> ProptestConfig {
    ProptestConfig {
        cases: 64,
        max_shrink_iters: 0,
        failure_persistence: None,
        ..ProptestConfig::default()
    }
}

macro_rules! every_message {
    ($($api:ident $request:ident $response:ident,)*) => {
        proptest! {
            #![proptest_config(config())]
            #[test]
            fn both_codecs_say_the_same_requests(seed in any::<u64>()) {
                $(compare::<ours::$request, theirs::$request>(seed);)*
            }

            #[test]
            fn both_codecs_say_the_same_responses(seed in any::<u64>()) {
                $(compare::<ours::$response, theirs::$response>(seed);)*
            }
        }

        #[test]
        fn headers_have_the_same_versions() {
            $(for version in common_versions::<ours::$request, theirs::$request>() {
                let headers = (
                    <theirs::$request as HeaderVersion>::header_version(version),
                    <theirs::$response as HeaderVersion>::header_version(version),
                );
                let key = ApiKey::$api;
                assert_eq!((key.request_header_version(version), key.response_header_version(version)), headers, "{key:?} {version}");
            })*
        }

        #[test]
        fn versions_of_one_side_alone_are_deliberate() {
            let mut found = Vec::new();
            $({
                let ours = <ours::$request as OurMessage>::VERSIONS;
                let theirs = <theirs::$request as TheirMessage>::VERSIONS;
                assert_eq!(ours, <ours::$response as OurMessage>::VERSIONS);
                assert_eq!(<theirs::$request as TheirRequest>::KEY, ApiKey::$api as i16);
                let (ours, theirs) = ((*ours.start(), *ours.end()), (theirs.min, theirs.max));
                if ours != theirs {
                    found.push((ApiKey::$api, ours, theirs));
                }
            })*
            let listed: Vec<_> = VERSIONS_OF_ONE_SIDE.iter().map(|(api, ours, theirs, _)| (*api, *ours, *theirs)).collect();
            assert_eq!(found, listed);
        }

        #[test]
        fn every_api_is_compared() {
            let compared = [$(ApiKey::$api,)*];
            for key in (0..i16::MAX).filter_map(ApiKey::from_key) {
                assert_ne!(compared.contains(&key), UNDECLARED.contains(&key), "{key:?}");
            }
        }
    };
}

kafscale_codec::for_each_api!(every_message);
