//! What is stored of a group, and how it looks as bytes.
//!
//! ```text
//! version u8 = 1 | kind u8 = 0 (classic; 1: see [`super::consumer`]) | generation | protocol type? | protocol name? | leader? | assigned u8
//! | since ms | member count | members: id | instance id? | order | client id | client host | session timeout ms
//! | rebalance timeout ms | metadata | assignment
//! ```
//! Numbers are variable-length (7 bits a byte, zigzag where they may be negative), texts and bytes carry their length,
//! `?` has a byte 0 or 1 in front.

use super::consumer::{ConsumerState, KIND_CONSUMER};
use bytes::Bytes;
use kafscale_codec::types::TopicId;
use kafscale_metastore::keys::{self, OffsetRecord};
use kafscale_metastore::Op;
use std::collections::BTreeMap;
use std::rc::Rc;

const VERSION: u8 = 1;
const KIND_CLASSIC: u8 = 0;

/// The durable part of a group of either protocol.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StoredState {
    /// One of its members assigns.
    Classic(GroupState),
    /// The coordinator assigns (KIP-848).
    Consumer(Rc<ConsumerState>),
}

/// The durable part of a classic group. Only replaying a record changes it.
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
        state: Option<StoredState>,
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
            Record::Group { group, state } => (keys::group_key(group), state.as_ref().map(StoredState::encode)),
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
    pub fn from_stored(key: &keys::Key, value: &[u8]) -> Result<Option<Record>, String> {
        match key.clone() {
            keys::Key::Group(group) => {
                let state = Some(StoredState::decode(value).map_err(|error| error.to_string())?);
                Ok(Some(Record::Group { group, state }))
            }
            keys::Key::Offset {
                group,
                topic_id,
                partition,
            } => {
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

impl StoredState {
    /// The state as stored.
    pub fn encode(&self) -> Bytes {
        let mut out = Output(vec![VERSION]);
        match self {
            StoredState::Classic(state) => {
                out.byte(KIND_CLASSIC);
                state.encode(&mut out);
            }
            StoredState::Consumer(state) => {
                out.byte(KIND_CONSUMER);
                state.encode(&mut out);
            }
        }
        Bytes::from(out.0)
    }

    /// Reads a stored state.
    ///
    /// # Errors
    /// [`GroupDecodeError`] if the bytes are not exactly one state of a known version.
    pub fn decode(bytes: &[u8]) -> Result<StoredState, GroupDecodeError> {
        let mut input = Input(bytes);
        let state = match (input.byte()?, input.byte()?) {
            (VERSION, KIND_CLASSIC) => StoredState::Classic(GroupState::decode(&mut input)?),
            (VERSION, KIND_CONSUMER) => StoredState::Consumer(Rc::new(ConsumerState::decode(&mut input)?)),
            (version, kind) => return Err(GroupDecodeError::Unknown(version, kind)),
        };
        if !input.0.is_empty() {
            return Err(GroupDecodeError::Invalid("bytes after the end"));
        }
        Ok(state)
    }
}

impl GroupState {
    fn encode(&self, out: &mut Output) {
        out.signed(self.generation.into());
        out.optional(self.protocol_type.as_deref());
        out.optional(self.protocol_name.as_deref());
        out.optional(self.leader.as_deref());
        out.byte(u8::from(self.assigned));
        out.signed(self.since_ms);
        out.unsigned(self.members.len() as u64);
        for (id, member) in &self.members {
            out.text(id);
            out.optional(member.instance_id.as_deref());
            out.unsigned(member.order);
            out.text(&member.client_id);
            out.text(&member.client_host);
            out.signed(member.session_timeout_ms.into());
            out.signed(member.rebalance_timeout_ms.into());
            out.bytes(&member.metadata);
            out.bytes(&member.assignment);
        }
    }

    fn decode(input: &mut Input) -> Result<GroupState, GroupDecodeError> {
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
        Ok(state)
    }
}

/// Bytes of a state while they are being written.
pub(super) struct Output(Vec<u8>);

impl Output {
    pub fn byte(&mut self, byte: u8) {
        self.0.push(byte);
    }

    pub fn raw(&mut self, bytes: &[u8]) {
        self.0.extend_from_slice(bytes);
    }

    pub fn unsigned(&mut self, mut value: u64) {
        while value >= 0x80 {
            self.byte(value as u8 | 0x80);
            value >>= 7;
        }
        self.byte(value as u8);
    }

    pub fn signed(&mut self, value: i64) {
        self.unsigned(((value << 1) ^ (value >> 63)) as u64);
    }

    pub fn bytes(&mut self, bytes: &[u8]) {
        self.unsigned(bytes.len() as u64);
        self.raw(bytes);
    }

    pub fn text(&mut self, text: &str) {
        self.bytes(text.as_bytes());
    }

    pub fn optional(&mut self, text: Option<&str>) {
        self.byte(u8::from(text.is_some()));
        if let Some(text) = text {
            self.text(text);
        }
    }
}

/// What is left of a state while it is being read.
pub(super) struct Input<'a>(&'a [u8]);

impl<'a> Input<'a> {
    fn take(&mut self, length: usize) -> Result<&'a [u8], GroupDecodeError> {
        let (taken, rest) = self.0.split_at_checked(length).ok_or(GroupDecodeError::Truncated)?;
        self.0 = rest;
        Ok(taken)
    }

    pub fn array<const N: usize>(&mut self) -> Result<[u8; N], GroupDecodeError> {
        let taken = self.take(N)?;
        taken.try_into().map_err(|_| GroupDecodeError::Truncated)
    }

    pub fn byte(&mut self) -> Result<u8, GroupDecodeError> {
        Ok(self.take(1)?[0])
    }

    pub fn flag(&mut self) -> Result<bool, GroupDecodeError> {
        match self.byte()? {
            0 => Ok(false),
            1 => Ok(true),
            _ => Err(GroupDecodeError::Invalid("flag")),
        }
    }

    pub fn unsigned(&mut self) -> Result<u64, GroupDecodeError> {
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

    pub fn signed(&mut self) -> Result<i64, GroupDecodeError> {
        let zigzag = self.unsigned()?;
        Ok((zigzag >> 1) as i64 ^ -((zigzag & 1) as i64))
    }

    pub fn number(&mut self) -> Result<i32, GroupDecodeError> {
        i32::try_from(self.signed()?).map_err(|_| GroupDecodeError::Invalid("number"))
    }

    /// A length or count: each unit of it takes at least one of the bytes that remain.
    pub fn length(&mut self) -> Result<usize, GroupDecodeError> {
        let length = usize::try_from(self.unsigned()?).map_err(|_| GroupDecodeError::Truncated)?;
        if length > self.0.len() {
            return Err(GroupDecodeError::Truncated);
        }
        Ok(length)
    }

    pub fn bytes(&mut self) -> Result<Bytes, GroupDecodeError> {
        let length = self.length()?;
        Ok(Bytes::copy_from_slice(self.take(length)?))
    }

    pub fn text(&mut self) -> Result<String, GroupDecodeError> {
        let length = self.length()?;
        let text = std::str::from_utf8(self.take(length)?);
        Ok(text.map_err(|_| GroupDecodeError::Invalid("text"))?.to_string())
    }

    pub fn optional(&mut self) -> Result<Option<String>, GroupDecodeError> {
        Ok(if self.flag()? { Some(self.text()?) } else { None })
    }
}
