//! What is stored of a group, and how it looks as bytes.
//!
//! ```text
//! version u8 = 1 | kind u8 = 0 (classic) | generation | protocol type? | protocol name? | leader? | assigned u8
//! | since ms | member count | members: id | instance id? | order | client id | client host | session timeout ms
//! | rebalance timeout ms | metadata | assignment
//! ```
//! Numbers are variable-length (7 bits a byte, zigzag where they may be negative), texts and bytes carry their length,
//! `?` has a byte 0 or 1 in front.

use bytes::Bytes;
use kafscale_codec::types::TopicId;
use kafscale_metastore::keys::{self, OffsetRecord};
use kafscale_metastore::Op;
use std::collections::BTreeMap;

const VERSION: u8 = 1;
const KIND_CLASSIC: u8 = 0;

/// The durable part of a group. Only replaying a record changes it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct GroupState {
    /// Grows with every rebalance that ends.
    pub generation: i32,
    /// What kind of members it has, or last had.
    pub protocol_type: Option<String>,
    /// The assignor that this generation uses; none if the group is empty.
    pub protocol_name: Option<String>,
    /// The member that assigns.
    pub leader: Option<String>,
    /// Whether the leader has assigned: before it, members wait in SyncGroup.
    pub assigned: bool,
    /// When this state began, in milliseconds since the Unix epoch.
    pub since_ms: i64,
    /// Members by id.
    pub members: BTreeMap<String, MemberState>,
}

/// The durable part of a member.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct MemberState {
    /// Set by static members.
    pub instance_id: Option<String>,
    /// Members that came earlier have smaller numbers.
    pub order: u64,
    /// What the client calls itself.
    pub client_id: String,
    /// Where it comes from.
    pub client_host: String,
    /// Without a word for this long, the member is out.
    pub session_timeout_ms: i32,
    /// How long the member may take to rejoin.
    pub rebalance_timeout_ms: i32,
    /// What it said for the chosen protocol.
    pub metadata: Bytes,
    /// What the leader gave it, opaque.
    pub assignment: Bytes,
}

/// One change of what is stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Record {
    /// A group's state, or that it is gone.
    Group {
        /// The group.
        group: String,
        /// `None`: deleted.
        state: Option<GroupState>,
    },
    /// A committed offset, or that it is gone.
    Offset {
        /// The group.
        group: String,
        /// The topic.
        topic_id: TopicId,
        /// The partition.
        partition: i32,
        /// `None`: deleted.
        offset: Option<OffsetRecord>,
    },
}

impl Record {
    /// The group that it is about.
    pub fn group(&self) -> &str {
        match self {
            Record::Group { group, .. } | Record::Offset { group, .. } => group,
        }
    }

    /// The write that stores it.
    pub fn to_op(&self) -> Op {
        let (key, value) = match self {
            Record::Group { group, state } => (keys::group_key(group), state.as_ref().map(GroupState::encode)),
            Record::Offset {
                group,
                topic_id,
                partition,
                offset,
            } => (
                keys::offset_key(group, *topic_id, *partition),
                offset.as_ref().map(OffsetRecord::encode),
            ),
        };
        match value {
            Some(value) => Op::Put {
                key,
                value,
                lease: None,
            },
            None => Op::Delete(key),
        }
    }

    /// Reads what [`Record::to_op`] stored. `Ok(None)`: the key is none of ours.
    ///
    /// # Errors
    /// What is wrong with the value.
    pub fn from_stored(key: &[u8], value: &[u8]) -> Result<Option<Record>, String> {
        match keys::Key::parse(key) {
            Some(keys::Key::Group(group)) => {
                let state = Some(GroupState::decode(value).map_err(|error| error.to_string())?);
                Ok(Some(Record::Group { group, state }))
            }
            Some(keys::Key::Offset {
                group,
                topic_id,
                partition,
            }) => {
                let offset = Some(OffsetRecord::decode(value).map_err(|error| error.to_string())?);
                Ok(Some(Record::Offset {
                    group,
                    topic_id,
                    partition,
                    offset,
                }))
            }
            _ => Ok(None),
        }
    }
}

/// Stored bytes that are no group.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum GroupDecodeError {
    /// Written by a version of this program that knows more.
    #[error("group record version {0} kind {1} is not known")]
    Unknown(u8, u8),
    /// The bytes end within the record, or one of its lengths says so.
    #[error("group record is cut off")]
    Truncated,
    /// A field holds what it cannot hold.
    #[error("group record field is invalid: {0}")]
    Invalid(&'static str),
}

impl GroupState {
    /// The state as stored.
    pub fn encode(&self) -> Bytes {
        let mut out = vec![VERSION, KIND_CLASSIC];
        put_signed(&mut out, self.generation.into());
        put_optional(&mut out, self.protocol_type.as_deref());
        put_optional(&mut out, self.protocol_name.as_deref());
        put_optional(&mut out, self.leader.as_deref());
        out.push(u8::from(self.assigned));
        put_signed(&mut out, self.since_ms);
        put_unsigned(&mut out, self.members.len() as u64);
        for (id, member) in &self.members {
            put_bytes(&mut out, id.as_bytes());
            put_optional(&mut out, member.instance_id.as_deref());
            put_unsigned(&mut out, member.order);
            put_bytes(&mut out, member.client_id.as_bytes());
            put_bytes(&mut out, member.client_host.as_bytes());
            put_signed(&mut out, member.session_timeout_ms.into());
            put_signed(&mut out, member.rebalance_timeout_ms.into());
            put_bytes(&mut out, &member.metadata);
            put_bytes(&mut out, &member.assignment);
        }
        Bytes::from(out)
    }

    /// Reads a stored state.
    ///
    /// # Errors
    /// [`GroupDecodeError`] if the bytes are not exactly one state of a known version.
    pub fn decode(bytes: &[u8]) -> Result<GroupState, GroupDecodeError> {
        let mut input = Input(bytes);
        let (version, kind) = (input.byte()?, input.byte()?);
        if (version, kind) != (VERSION, KIND_CLASSIC) {
            return Err(GroupDecodeError::Unknown(version, kind));
        }
        let mut state = GroupState {
            generation: input.number()?,
            protocol_type: input.optional()?,
            protocol_name: input.optional()?,
            leader: input.optional()?,
            assigned: input.flag()?,
            since_ms: input.signed()?,
            members: BTreeMap::new(),
        };
        for _ in 0..input.length()? {
            let id = input.text()?;
            let member = MemberState {
                instance_id: input.optional()?,
                order: input.unsigned()?,
                client_id: input.text()?,
                client_host: input.text()?,
                session_timeout_ms: input.number()?,
                rebalance_timeout_ms: input.number()?,
                metadata: input.bytes()?,
                assignment: input.bytes()?,
            };
            if state.members.insert(id, member).is_some() {
                return Err(GroupDecodeError::Invalid("member twice"));
            }
        }
        if !input.0.is_empty() {
            return Err(GroupDecodeError::Invalid("bytes after the end"));
        }
        Ok(state)
    }
}

fn put_unsigned(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

fn put_signed(out: &mut Vec<u8>, value: i64) {
    put_unsigned(out, ((value << 1) ^ (value >> 63)) as u64);
}

fn put_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    put_unsigned(out, bytes.len() as u64);
    out.extend_from_slice(bytes);
}

fn put_optional(out: &mut Vec<u8>, text: Option<&str>) {
    out.push(u8::from(text.is_some()));
    if let Some(text) = text {
        put_bytes(out, text.as_bytes());
    }
}

struct Input<'a>(&'a [u8]);

impl<'a> Input<'a> {
    fn take(&mut self, length: usize) -> Result<&'a [u8], GroupDecodeError> {
        let (taken, rest) = self.0.split_at_checked(length).ok_or(GroupDecodeError::Truncated)?;
        self.0 = rest;
        Ok(taken)
    }

    fn byte(&mut self) -> Result<u8, GroupDecodeError> {
        Ok(self.take(1)?[0])
    }

    fn flag(&mut self) -> Result<bool, GroupDecodeError> {
        match self.byte()? {
            0 => Ok(false),
            1 => Ok(true),
            _ => Err(GroupDecodeError::Invalid("flag")),
        }
    }

    fn unsigned(&mut self) -> Result<u64, GroupDecodeError> {
        let mut value = 0u64;
        for shift in (0..64).step_by(7) {
            let byte = self.byte()?;
            let bits = u64::from(byte & 0x7f);
            if bits << shift >> shift != bits {
                break;
            }
            value |= bits << shift;
            if byte & 0x80 == 0 {
                return Ok(value);
            }
        }
        Err(GroupDecodeError::Invalid("number"))
    }

    fn signed(&mut self) -> Result<i64, GroupDecodeError> {
        let zigzag = self.unsigned()?;
        Ok((zigzag >> 1) as i64 ^ -((zigzag & 1) as i64))
    }

    fn number(&mut self) -> Result<i32, GroupDecodeError> {
        i32::try_from(self.signed()?).map_err(|_| GroupDecodeError::Invalid("number"))
    }

    /// A length or count: each unit of it takes at least one of the bytes that remain.
    fn length(&mut self) -> Result<usize, GroupDecodeError> {
        let length = usize::try_from(self.unsigned()?).map_err(|_| GroupDecodeError::Truncated)?;
        if length > self.0.len() {
            return Err(GroupDecodeError::Truncated);
        }
        Ok(length)
    }

    fn bytes(&mut self) -> Result<Bytes, GroupDecodeError> {
        let length = self.length()?;
        Ok(Bytes::copy_from_slice(self.take(length)?))
    }

    fn text(&mut self) -> Result<String, GroupDecodeError> {
        let length = self.length()?;
        let text = std::str::from_utf8(self.take(length)?);
        Ok(text.map_err(|_| GroupDecodeError::Invalid("text"))?.to_string())
    }

    fn optional(&mut self) -> Result<Option<String>, GroupDecodeError> {
        Ok(if self.flag()? { Some(self.text()?) } else { None })
    }
}
