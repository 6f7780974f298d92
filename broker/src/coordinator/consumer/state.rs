//! What is stored of a group whose assignment the coordinator makes, and how it looks as bytes.
//!
//! ```text
//! version u8 = 1 | kind u8 = 1 (consumer) | epoch | target epoch | since ms | topics' hash | assignor
//! | member count | members: id | instance id? | rack id? | client id | client host | rebalance timeout ms
//!   | topic count | topics | regex? | assignor? | epoch | previous epoch | phase u8 | target | assigned same as target u8
//!   | assigned (if not the same) | gained | revoking | classic u8 | session timeout ms, protocol count, protocols: name | metadata
//! ```
//! An assignment is a count of topics, each with its id (16 bytes), a count, and partitions as differences. Numbers and
//! texts as in [`super::super::record`].

use super::super::record::{GroupDecodeError, Input, Output};
use bytes::Bytes;
use kafscale_codec::messages::OwnedPartitions;
use kafscale_codec::types::TopicId;
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

/// Tells such a group from a classic one.
pub const KIND_CONSUMER: u8 = 1;

/// Partitions by topic; no topic without partitions.
pub type Assignment = BTreeMap<TopicId, BTreeSet<i32>>;

/// How far a member is with what it shall have (KIP-848, "member states").
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum MemberPhase {
    /// It has what it can have in its epoch.
    #[default]
    Stable,
    /// It has to give up partitions before it gets to the next epoch.
    Unrevoked,
    /// It waits for partitions that others have not given up yet.
    Unreleased,
}

/// A member that speaks the classic protocol in a group of the new one, while a group moves from one to the other.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClassicMember {
    /// Without a word for this long, it is out.
    pub session_timeout_ms: i32,
    /// Its assignors with their metadata, best first.
    pub protocols: Vec<(String, Bytes)>,
}

/// A member.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ConsumerMember {
    /// Set by static members.
    pub instance_id: Option<String>,
    /// Where the client is.
    pub rack_id: Option<String>,
    /// What the client calls itself.
    pub client_id: String,
    /// Where it comes from.
    pub client_host: String,
    /// How long it may take to give up partitions.
    pub rebalance_timeout_ms: i32,
    /// The topics it subscribes to by name.
    pub topics: BTreeSet<String>,
    /// And those that match this.
    pub regex: Option<String>,
    /// The assignor it would like.
    pub assignor: Option<String>,
    /// The epoch it is at; [`LEFT_FOR_A_WHILE`] for a static member that is to come back.
    pub epoch: i32,
    /// The epoch before, which it may still name if an answer was lost.
    pub previous_epoch: i32,
    /// How far it is.
    pub phase: MemberPhase,
    /// What it shall have.
    pub target: Assignment,
    /// What it was given.
    pub assigned: Assignment,
    /// What of it came in this epoch.
    pub gained: Assignment,
    /// What it was told to give up and still may have.
    pub revoking: Assignment,
    /// Set if it speaks the classic protocol.
    pub classic: Option<ClassicMember>,
}

/// The epoch of a static member that left to come back (KIP-848).
pub const LEFT_FOR_A_WHILE: i32 = -2;

/// The durable part of a group. Only replaying a record changes it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ConsumerState {
    /// Grows when members, subscriptions or subscribed topics change.
    pub epoch: i32,
    /// The epoch that the targets were made for.
    pub target_epoch: i32,
    /// When it last changed, in milliseconds since the Unix epoch.
    pub since_ms: i64,
    /// Of the subscribed topics, as they were in this epoch.
    pub topics_hash: u64,
    /// The assignor that made the targets; empty before the first.
    pub assignor: String,
    /// Members by id.
    pub members: BTreeMap<String, Rc<ConsumerMember>>,
}

impl ConsumerMember {
    /// Whether a commit of this epoch for this partition may count: it is the member's epoch, or the one before and the
    /// member has had the partition ever since. A heartbeat may well overtake a commit (KIP-1251).
    pub fn may_commit(&self, epoch: i32, topic_id: TopicId, partition: i32) -> bool {
        let has = contains(&self.assigned, topic_id, partition) || contains(&self.revoking, topic_id, partition);
        epoch == self.epoch || (epoch == self.previous_epoch && has && !contains(&self.gained, topic_id, partition))
    }
}

impl ConsumerState {
    /// A copy of a member, to be changed and put back.
    pub fn member(&self, id: &str) -> Option<ConsumerMember> {
        self.members.get(id).map(|member| ConsumerMember::clone(member))
    }

    /// Puts a member back.
    pub fn put(&mut self, id: &str, member: ConsumerMember) {
        match self.members.get_mut(id) {
            Some(known) if **known == member => {}
            Some(known) => *known = Rc::new(member),
            None => {
                self.members.insert(id.to_string(), Rc::new(member));
            }
        }
    }

    /// The static member with this instance id.
    pub fn instance(&self, instance_id: &str) -> Option<(&String, &Rc<ConsumerMember>)> {
        let mut members = self.members.iter();
        members.find(|(_, member)| member.instance_id.as_deref() == Some(instance_id))
    }

    /// About how many bytes it takes, and rather too many.
    pub fn bytes(&self) -> usize {
        const MEMBER: usize = 64;
        const TOPIC: usize = 20;
        const PARTITION: usize = 2;
        let partitions = |assignment: &Assignment| -> usize {
            let counts = assignment.values().map(BTreeSet::len);
            assignment.len() * TOPIC + counts.sum::<usize>() * PARTITION
        };
        let member = |(id, member): (&String, &Rc<ConsumerMember>)| {
            let texts = [&member.instance_id, &member.rack_id, &member.regex, &member.assignor];
            let texts: usize = texts.into_iter().flatten().map(String::len).sum();
            let topics: usize = member.topics.iter().map(|topic| topic.len() + 2).sum();
            let protocols = member.classic.iter().flat_map(|classic| &classic.protocols);
            let protocols: usize = protocols.map(|(name, metadata)| name.len() + metadata.len() + 8).sum();
            let assigned = [&member.target, &member.assigned, &member.gained, &member.revoking];
            let assigned: usize = assigned.into_iter().map(partitions).sum();
            MEMBER
                + id.len()
                + member.client_id.len()
                + member.client_host.len()
                + texts
                + topics
                + protocols
                + assigned
        };
        self.members.iter().map(member).sum()
    }

    /// Kafka's name of the state.
    pub fn name(&self) -> &'static str {
        let settled = |member: &ConsumerMember| {
            member.epoch == LEFT_FOR_A_WHILE
                || (member.phase == MemberPhase::Stable && member.epoch == self.target_epoch)
        };
        if self.members.is_empty() {
            "Empty"
        } else if self.epoch > self.target_epoch {
            "Assigning"
        } else if self.members.values().all(|member| settled(member)) {
            "Stable"
        } else {
            "Reconciling"
        }
    }

    /// The state as stored, after version and kind.
    pub(in super::super) fn encode(&self, out: &mut Output) {
        out.signed(self.epoch.into());
        out.signed(self.target_epoch.into());
        out.signed(self.since_ms);
        out.unsigned(self.topics_hash);
        out.text(&self.assignor);
        out.unsigned(self.members.len() as u64);
        for (id, member) in &self.members {
            out.text(id);
            encode_member(member, out);
        }
    }

    /// Reads a stored state, after version and kind.
    ///
    /// # Errors
    /// [`GroupDecodeError`] if the bytes are no such state.
    pub(in super::super) fn decode(input: &mut Input) -> Result<Self, GroupDecodeError> {
        let mut state = ConsumerState {
            epoch: input.number()?,
            target_epoch: input.number()?,
            since_ms: input.signed()?,
            topics_hash: input.unsigned()?,
            assignor: input.text()?,
            members: BTreeMap::new(),
        };
        for _ in 0..input.length()? {
            let id = input.text()?;
            let member = Rc::new(decode_member(input)?);
            if state.members.insert(id, member).is_some() {
                return Err(GroupDecodeError::Invalid("member twice"));
            }
        }
        Ok(state)
    }
}

fn encode_member(member: &ConsumerMember, out: &mut Output) {
    out.optional(member.instance_id.as_deref());
    out.optional(member.rack_id.as_deref());
    out.text(&member.client_id);
    out.text(&member.client_host);
    out.signed(member.rebalance_timeout_ms.into());
    out.unsigned(member.topics.len() as u64);
    member.topics.iter().for_each(|topic| out.text(topic));
    out.optional(member.regex.as_deref());
    out.optional(member.assignor.as_deref());
    out.signed(member.epoch.into());
    out.signed(member.previous_epoch.into());
    out.byte(match member.phase {
        MemberPhase::Stable => 0,
        MemberPhase::Unrevoked => 1,
        MemberPhase::Unreleased => 2,
    });
    encode_assignment(&member.target, out);
    let as_target = member.assigned == member.target;
    out.byte(u8::from(as_target));
    if !as_target {
        encode_assignment(&member.assigned, out);
    }
    encode_assignment(&member.gained, out);
    encode_assignment(&member.revoking, out);
    out.byte(u8::from(member.classic.is_some()));
    if let Some(classic) = &member.classic {
        out.signed(classic.session_timeout_ms.into());
        out.unsigned(classic.protocols.len() as u64);
        for (name, metadata) in &classic.protocols {
            out.text(name);
            out.bytes(metadata);
        }
    }
}

fn decode_member(input: &mut Input) -> Result<ConsumerMember, GroupDecodeError> {
    let mut member = ConsumerMember {
        instance_id: input.optional()?,
        rack_id: input.optional()?,
        client_id: input.text()?,
        client_host: input.text()?,
        rebalance_timeout_ms: input.number()?,
        ..ConsumerMember::default()
    };
    for _ in 0..input.length()? {
        member.topics.insert(input.text()?);
    }
    member.regex = input.optional()?;
    member.assignor = input.optional()?;
    member.epoch = input.number()?;
    member.previous_epoch = input.number()?;
    member.phase = match input.byte()? {
        0 => MemberPhase::Stable,
        1 => MemberPhase::Unrevoked,
        2 => MemberPhase::Unreleased,
        _ => return Err(GroupDecodeError::Invalid("phase")),
    };
    member.target = decode_assignment(input)?;
    member.assigned = if input.flag()? {
        member.target.clone()
    } else {
        decode_assignment(input)?
    };
    member.gained = decode_assignment(input)?;
    member.revoking = decode_assignment(input)?;
    if input.flag()? {
        let mut classic = ClassicMember {
            session_timeout_ms: input.number()?,
            protocols: Vec::new(),
        };
        for _ in 0..input.length()? {
            classic.protocols.push((input.text()?, input.bytes()?));
        }
        member.classic = Some(classic);
    }
    Ok(member)
}

fn encode_assignment(assignment: &Assignment, out: &mut Output) {
    out.unsigned(assignment.len() as u64);
    for (topic_id, partitions) in assignment {
        out.raw(&topic_id.0);
        out.unsigned(partitions.len() as u64);
        let mut last = 0;
        for partition in partitions {
            out.signed(i64::from(*partition) - last);
            last = i64::from(*partition);
        }
    }
}

fn decode_assignment(input: &mut Input) -> Result<Assignment, GroupDecodeError> {
    let mut assignment = Assignment::new();
    for _ in 0..input.length()? {
        let topic_id = TopicId(input.array()?);
        let mut partitions = BTreeSet::new();
        let mut last = 0i64;
        for _ in 0..input.length()? {
            let next = last.checked_add(input.signed()?);
            last = next.ok_or(GroupDecodeError::Invalid("partition"))?;
            partitions.insert(i32::try_from(last).map_err(|_| GroupDecodeError::Invalid("partition"))?);
        }
        assignment.insert(topic_id, partitions);
    }
    Ok(assignment)
}

/// Adds the partitions of `more`.
pub fn add(into: &mut Assignment, more: &Assignment) {
    for (topic_id, partitions) in more {
        into.entry(*topic_id).or_default().extend(partitions);
    }
}

/// Those of `from` that `keep` takes.
pub fn filtered(from: &Assignment, keep: impl Fn(TopicId, i32) -> bool) -> Assignment {
    let mut left = Assignment::new();
    for (topic_id, partitions) in from {
        let kept: BTreeSet<i32> = partitions
            .iter()
            .copied()
            .filter(|index| keep(*topic_id, *index))
            .collect();
        if !kept.is_empty() {
            left.insert(*topic_id, kept);
        }
    }
    left
}

/// Whether the partition is among them.
pub fn contains(assignment: &Assignment, topic_id: TopicId, partition: i32) -> bool {
    let partitions = assignment.get(&topic_id);
    partitions.is_some_and(|partitions| partitions.contains(&partition))
}

/// As it goes to the client.
pub fn to_wire(assignment: &Assignment) -> Vec<OwnedPartitions> {
    let topics = assignment.iter();
    topics
        .map(|(topic_id, partitions)| OwnedPartitions {
            topic_id: *topic_id,
            partitions: partitions.iter().copied().collect(),
        })
        .collect()
}

/// As it comes from the client.
pub fn from_wire(topics: &[OwnedPartitions]) -> Assignment {
    let mut assignment = Assignment::new();
    for topic in topics {
        assignment.entry(topic.topic_id).or_default().extend(&topic.partitions);
    }
    assignment.retain(|_, partitions| !partitions.is_empty());
    assignment
}
