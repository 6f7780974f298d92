//! Writes on their way, and what happens when they are decided.

use super::api::{GroupReply, Join, ReplyToken};
use super::record::Record;
use kafscale_codec::error_code::ErrorCode;
use kafscale_codec::messages::LeaveGroupResponse;
use std::collections::BTreeMap;
use std::rc::Rc;

/// Records of one write: some room below the operations that one transaction may have.
pub const RECORDS_PER_WRITE_MAX: usize = 100;

/// Names a write.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct WriteId(pub u64);

/// Records to be stored together, after all earlier writes of the same group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GroupWrite {
    /// Comes back with the outcome.
    pub id: WriteId,
    /// The group.
    pub group: String,
    /// At most [`RECORDS_PER_WRITE_MAX`]; no key twice.
    pub records: Rc<[Record]>,
}

/// What a step of the coordinator asks for.
#[derive(Debug, Default, PartialEq)]
pub struct Output {
    /// To be stored, in this order as far as they are of the same group.
    pub writes: Vec<GroupWrite>,
    /// To be answered now.
    pub replies: Vec<(ReplyToken, GroupReply)>,
}

/// What follows a write, once it is decided.
#[derive(Debug)]
pub(super) enum After {
    /// Joins are answered.
    Generation,
    /// Syncs are answered.
    Assignment,
    /// The group is empty.
    Emptied,
    /// A static member came back under a new id and keeps its assignment.
    Replaced {
        token: ReplyToken,
        old_id: String,
        new_id: String,
        join: Box<Join>,
    },
    /// A commit is answered.
    Committed { token: ReplyToken, results: Vec<ErrorCode> },
    /// OffsetDelete is answered.
    OffsetsDeleted { token: ReplyToken, results: Vec<ErrorCode> },
    /// DeleteGroups is answered.
    Deleted { token: ReplyToken },
    /// Heartbeats of the consumer protocol are answered: token, member id, answer.
    Heartbeats {
        replies: Vec<(ReplyToken, String, GroupReply)>,
    },
    /// LeaveGroup in a group of the consumer protocol is answered.
    Left {
        token: ReplyToken,
        reply: LeaveGroupResponse,
    },
    /// Nobody waits.
    Cleaned,
}

impl After {
    /// Commits may be on their way in any number; all else is one at a time.
    pub fn decides_state(&self) -> bool {
        !matches!(self, After::Committed { .. })
    }
}

/// A decided step: what follows, and how the writes ended.
pub(super) struct Decided {
    pub after: After,
    pub error: Option<ErrorCode>,
}

/// All writes on their way.
#[derive(Debug, Default)]
pub(super) struct Ledger {
    next_write: u64,
    next_step: u64,
    writes: BTreeMap<WriteId, (Rc<[Record]>, u64)>,
    steps: BTreeMap<u64, Step>,
}

#[derive(Debug)]
struct Step {
    writes_left: usize,
    error: Option<ErrorCode>,
    after: After,
}

impl Ledger {
    /// Notes the writes of one step and says how many there are. No record is split; nothing may be empty.
    pub fn write(&mut self, group: &str, records: Vec<Record>, after: After, out: &mut Output) -> usize {
        assert!(!records.is_empty(), "a step without records is answered at once");
        let step = self.next_step;
        self.next_step += 1;
        let mut writes_left = 0;
        for records in records.chunks(RECORDS_PER_WRITE_MAX) {
            let id = WriteId(self.next_write);
            self.next_write += 1;
            writes_left += 1;
            let (group, records) = (group.to_string(), Rc::<[Record]>::from(records));
            self.writes.insert(id, (records.clone(), step));
            out.writes.push(GroupWrite { id, group, records });
        }
        let error = None;
        self.steps.insert(
            step,
            Step {
                writes_left,
                error,
                after,
            },
        );
        writes_left
    }

    /// Takes a decided write out: its records, and what follows if it was the last of its step.
    pub fn decide(&mut self, id: WriteId, error: Option<ErrorCode>) -> Option<(Rc<[Record]>, Option<Decided>)> {
        let (records, step_id) = self.writes.remove(&id)?;
        let step = self
            .steps
            .get_mut(&step_id)
            .expect("a step lives as long as its writes");
        step.writes_left -= 1;
        step.error = step.error.or(error);
        if step.writes_left > 0 {
            return Some((records, None));
        }
        let Step { error, after, .. } = self.steps.remove(&step_id).expect("found above");
        Some((records, Some(Decided { after, error })))
    }

    /// Writes that are not decided.
    pub fn len(&self) -> usize {
        self.writes.len()
    }
}
