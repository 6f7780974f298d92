//! What consumers say when they join, and what they are given: the parts of the bytes between members and their leader that
//! the coordinator has to understand (`ConsumerProtocolSubscription` and `ConsumerProtocolAssignment` in Kafka's sources).
//!
//! ```text
//! subscription: version i16 | topics | user data? | from 1: owned | from 2: generation i32 | from 3: rack?
//! assignment:   version i16 | assigned | user data?
//! ```
//! Owned and assigned are arrays of topics, each with an array of partitions.

use bytes::{Buf, BufMut, Bytes};
use std::collections::{BTreeMap, BTreeSet};

/// Kafka's name for groups of consumers.
pub const CONSUMER_PROTOCOL_TYPE: &str = "consumer";

/// What a consumer says.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Subscription {
    /// The topics it wants.
    pub topics: BTreeSet<String>,
    /// What it has, if it says so.
    pub owned: BTreeMap<String, Vec<i32>>,
    /// Where it is, if it says so.
    pub rack: Option<String>,
}

/// The topics, or `None` if the bytes are not a consumer's metadata.
pub fn topics(mut metadata: &[u8]) -> Option<BTreeSet<String>> {
    version(&mut metadata)?;
    read_topics(&mut metadata)
}

/// All of it, or `None` if the bytes are not a consumer's metadata. What newer versions add is not looked at.
pub fn parse(mut metadata: &[u8]) -> Option<Subscription> {
    let input = &mut metadata;
    let version = version(input)?;
    let mut subscription = Subscription {
        topics: read_topics(input)?,
        ..Subscription::default()
    };
    skip_user_data(input)?;
    if version >= 1 {
        subscription.owned = read_partitions(input)?;
    }
    if version >= 2 {
        input.try_get_i32().ok()?;
    }
    if version >= 3 {
        subscription.rack = read_text(input)?;
    }
    Some(subscription)
}

/// The partitions of an assignment, or `None` if the bytes are none. A member that was given nothing may have no bytes.
pub fn parse_assignment(mut bytes: &[u8]) -> Option<BTreeMap<String, Vec<i32>>> {
    if bytes.is_empty() {
        return Some(BTreeMap::new());
    }
    version(&mut bytes)?;
    read_partitions(&mut bytes)
}

/// An assignment as consumers read it.
pub fn encode_assignment(topics: &BTreeMap<&str, Vec<i32>>) -> Bytes {
    let mut out = Vec::new();
    out.put_i16(0);
    out.put_i32(topics.len() as i32);
    for (name, partitions) in topics {
        out.put_i16(name.len() as i16); // Topic names have 249 characters at most.
        out.put_slice(name.as_bytes());
        out.put_i32(partitions.len() as i32);
        partitions.iter().for_each(|partition| out.put_i32(*partition));
    }
    out.put_i32(-1);
    Bytes::from(out)
}

fn version(input: &mut &[u8]) -> Option<i16> {
    input.try_get_i16().ok().filter(|version| *version >= 0)
}

/// A count whose items take at least so many bytes each: more cannot follow.
fn count(input: &mut &[u8], item_bytes: usize) -> Option<usize> {
    let count = usize::try_from(input.try_get_i32().ok()?).ok()?;
    (count <= input.len() / item_bytes).then_some(count)
}

fn read_topics(input: &mut &[u8]) -> Option<BTreeSet<String>> {
    let mut topics = BTreeSet::new();
    for _ in 0..count(input, 2)? {
        topics.insert(read_text(input)??);
    }
    Some(topics)
}

fn read_partitions(input: &mut &[u8]) -> Option<BTreeMap<String, Vec<i32>>> {
    let mut topics: BTreeMap<String, Vec<i32>> = BTreeMap::new();
    for _ in 0..count(input, 6)? {
        let name = read_text(input)??;
        let partitions = topics.entry(name).or_default();
        for _ in 0..count(input, 4)? {
            partitions.push(input.try_get_i32().ok()?);
        }
    }
    Some(topics)
}

/// The outer `None`: no text can be read. The inner one: null.
fn read_text(input: &mut &[u8]) -> Option<Option<String>> {
    let length = input.try_get_i16().ok()?;
    if length == -1 {
        return Some(None);
    }
    let (text, rest) = input.split_at_checked(usize::try_from(length).ok()?)?;
    *input = rest;
    Some(Some(std::str::from_utf8(text).ok()?.to_string()))
}

fn skip_user_data(input: &mut &[u8]) -> Option<()> {
    let length = input.try_get_i32().ok()?;
    if length >= 0 {
        *input = input.split_at_checked(usize::try_from(length).ok()?)?.1;
    }
    Some(())
}
