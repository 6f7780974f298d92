//! The topics that a consumer subscribes to: the start of the metadata that consumers send when they join.
//!
//! Everything else in there is between members and their leader. Text: version i16, topics as an array of strings.

use bytes::Buf;
use std::collections::BTreeSet;

/// Kafka's name for groups of consumers.
pub const CONSUMER_PROTOCOL_TYPE: &str = "consumer";

/// The topics, or `None` if the bytes are not a consumer's metadata.
pub fn topics(mut metadata: &[u8]) -> Option<BTreeSet<String>> {
    let version = metadata.try_get_i16().ok()?;
    let count = usize::try_from(metadata.try_get_i32().ok()?).ok()?;
    if version < 0 || count > metadata.len() / 2 {
        return None;
    }
    let mut topics = BTreeSet::new();
    for _ in 0..count {
        let length = usize::try_from(metadata.try_get_i16().ok()?).ok()?;
        let (name, rest) = metadata.split_at_checked(length)?;
        topics.insert(std::str::from_utf8(name).ok()?.to_string());
        metadata = rest;
    }
    Some(topics)
}
