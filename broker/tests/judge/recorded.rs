//! What real clients have sent (the codec's golden frames), sent again: ids and topics in them are of another cluster, so
//! most ask for what is not there, as a client does after a change of clusters.

use super::Judge;
use bytes::Bytes;
use kafscale_codec::api::ApiKey;
use kafscale_codec::messages::*;
use kafscale_codec::wire::Reader;
use std::any::Any;
use std::fmt::Debug;
use std::path::Path;

/// Topics that the recorded sessions speak of.
const RECORDED_TOPICS: &[&str] = &["by-administer", "java-3", "kcat"];

/// APIs whose requests wait for other members.
const WAITING: &[ApiKey] = &[ApiKey::JoinGroup, ApiKey::SyncGroup];

/// How long Kafka's brokers may take to follow its controller.
const SETTLING: std::time::Duration = std::time::Duration::from_millis(200);

/// Sends every request of every fixture.
pub fn run(judge: &mut Judge) {
    super::cases::until_coordinated(judge);
    for topic in RECORDED_TOPICS {
        judge.topic(topic, 1, &[]);
    }
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("../codec/tests/golden");
    let apis: Vec<ApiKey> = judge
        .versions
        .keys()
        .copied()
        .filter(|api| !WAITING.contains(api))
        .collect();
    for api in apis {
        let text = std::fs::read_to_string(directory.join(format!("{}.txt", api.name()))).unwrap_or_default();
        for line in text.lines() {
            if let [version, "request", speaker, hex] = line.split(' ').collect::<Vec<_>>()[..] {
                let version = version.parse().expect("a version is a number");
                send(judge, api, version, speaker, unhex(hex));
                if matches!(api, ApiKey::CreateTopics | ApiKey::DeleteTopics) {
                    std::thread::sleep(SETTLING);
                }
            }
        }
    }
}

fn unhex(text: &str) -> Bytes {
    let digits = |at: usize| u8::from_str_radix(&text[at..at + 2], 16);
    let bytes = (0..text.len()).step_by(2).map(digits);
    bytes.collect::<Result<_, _>>().expect("pairs of hexadecimal digits")
}

fn one<M>(judge: &mut Judge, version: i16, speaker: &str, frame: Bytes)
where
    M: Request + Debug + Clone + 'static,
    M::Response: Debug + Clone + 'static,
{
    if !judge.versions::<M>().contains(&version) {
        return;
    }
    let mut reader = Reader::new(frame);
    let _ = decode_request_header(&mut reader).expect("a header of a real client");
    let mut request = M::decode(&mut reader, version).expect("a request of a real client");
    if let Some(metadata) = (&mut request as &mut dyn Any).downcast_mut::<MetadataRequest>() {
        // Kafka creates a topic that it is asked for a moment after its answer. Before version 4 it cannot be forbidden.
        if version < 4 {
            return;
        }
        metadata.allow_auto_topic_creation = false;
    }
    judge.ask(speaker, version, |_| request.clone());
}

macro_rules! every_api {
    ($($api:ident $request:ident $response:ident,)*) => {
        fn send(judge: &mut Judge, api: ApiKey, version: i16, speaker: &str, frame: Bytes) {
            match api {
                $(ApiKey::$api => one::<$request>(judge, version, speaker, frame),)*
                _ => {}
            }
        }
    };
}

kafscale_codec::for_each_api!(every_api);
