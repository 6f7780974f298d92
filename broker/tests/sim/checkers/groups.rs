//! Groups: one generation at a time, one owner of a partition, committed offsets that are neither lost nor set back, and
//! in the end a group that has shared out everything.

use crate::checkers::ledger::Place;
use crate::executor::World;
use kafscale_broker::runtime::Instant;
use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// A member's part of a topic.
pub type Partitions = BTreeSet<i32>;

/// Names one commit of one partition; it is the commit's metadata.
pub type CommitId = u64;

/// How a commit ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CommitEnd {
    /// It is stored.
    Stored,
    /// It is not stored, and never will be.
    Refused,
    /// Nobody knows.
    InDoubt,
}

#[derive(Debug, Clone, Copy)]
struct Commit {
    offset: i64,
    sent: Instant,
    /// When it was surely stored: somebody was told so, or has seen it.
    stored_by: Option<Instant>,
    refused: bool,
}

/// What a member believes to have.
#[derive(Debug, Clone, Default)]
struct Holding {
    partitions: Partitions,
    /// The coordinator cannot have taken the member for dead before this.
    valid_until: Instant,
}

#[derive(Default)]
struct Group {
    /// Largest generation that a member was told to work in, and when.
    newest: Option<(i32, Instant)>,
    /// Who got which partition in which generation.
    assigned: BTreeMap<(i32, i32), String>,
    /// By member's name; none while it has no generation.
    members: BTreeMap<String, Option<Holding>>,
    commits: BTreeMap<Place, BTreeMap<CommitId, Commit>>,
    consumed: BTreeMap<Place, BTreeMap<i64, i64>>,
}

/// The book of all groups.
pub struct GroupBook {
    world: World,
    groups: RefCell<BTreeMap<String, Group>>,
    next_commit: RefCell<CommitId>,
}

impl GroupBook {
    /// An empty book.
    pub fn new(world: &World) -> Self {
        GroupBook {
            world: world.clone(),
            groups: RefCell::default(),
            next_commit: RefCell::new(1),
        }
    }

    fn with<T>(&self, group: &str, act: impl FnOnce(&mut Group) -> T) -> T {
        act(self.groups.borrow_mut().entry(group.to_string()).or_default())
    }

    /// A member exists, and has nothing yet or any more.
    pub fn has_nothing(&self, group: &str, member: &str) {
        self.with(group, |group| group.members.insert(member.to_string(), None));
    }

    /// A member was told to work in `generation` with these partitions: nobody else has them, in this generation or now.
    /// The question was sent at `sent`; from then on the member has a session of this length.
    pub fn was_given(
        &self,
        group: &str,
        member: &str,
        generation: i32,
        partitions: &Partitions,
        sent: Instant,
        session: Duration,
    ) {
        let now = self.world.now();
        self.with(group, |book| {
            for partition in partitions {
                let owner = book.assigned.entry((generation, *partition));
                let owner = owner.or_insert_with(|| member.to_string());
                if owner != member {
                    self.world.violate(format!(
                        "{group}: partition {partition} of generation {generation} belongs to {owner} and to {member}"
                    ));
                }
            }
            // An answer that took longer than a session gives nothing: the member may be out by then, and others may have
            // what it had, which it learns with its next question.
            let counts = sent + session > now;
            let others = book.members.iter().filter(|(other, _)| counts && *other != member);
            for (other, holding) in others {
                let Some(holding) = holding.as_ref().filter(|holding| holding.valid_until > now) else {
                    continue;
                };
                if let Some(both) = holding.partitions.intersection(partitions).next() {
                    self.world.violate(format!(
                        "{group}: {member} is given partition {both} in generation {generation} while {other} still has \
                         it, until {:?} at least",
                        holding.valid_until
                    ));
                }
            }
            if book.newest.is_none_or(|(newest, _)| newest < generation) {
                book.newest = Some((generation, now));
            }
            let holding = Holding {
                partitions: partitions.clone(),
                valid_until: sent + session,
            };
            book.members.insert(member.to_string(), Some(holding));
        });
    }

    /// A sign of life, sent at `sent`, was taken.
    pub fn lives(&self, group: &str, member: &str, sent: Instant, session: Duration) {
        self.with(group, |group| {
            if let Some(Some(holding)) = group.members.get_mut(member) {
                holding.valid_until = holding.valid_until.max(sent + session);
            }
        });
    }

    /// What a member of `generation` sent at `sent` was taken: then nobody had been told of a later generation before.
    pub fn generation_counts(&self, group: &str, member: &str, generation: i32, sent: Instant) {
        self.with(group, |book| {
            if let Some((newest, told)) = book
                .newest
                .filter(|(newest, told)| *newest > generation && *told < sent)
            {
                self.world.violate(format!(
                    "{group}: {member} is taken for a member of generation {generation} though {newest} was told at \
                     {told:?}"
                ));
            }
        });
    }

    /// A commit is about to be sent. Its metadata must be the id.
    pub fn commit_sent(&self, group: &str, place: &Place, offset: i64) -> CommitId {
        let mut next = self.next_commit.borrow_mut();
        let id = *next;
        *next += 1;
        let commit = Commit {
            offset,
            sent: self.world.now(),
            stored_by: None,
            refused: false,
        };
        self.with(group, |group| {
            group.commits.entry(place.clone()).or_default().insert(id, commit)
        });
        id
    }

    /// A commit has ended.
    pub fn commit_ended(&self, group: &str, place: &Place, id: CommitId, end: CommitEnd) {
        let now = self.world.now();
        self.with(group, |group| {
            let commit = group.commits.get_mut(place).and_then(|commits| commits.get_mut(&id));
            let commit = commit.expect("what ends was sent");
            match end {
                CommitEnd::Stored => commit.stored_by = Some(commit.stored_by.map_or(now, |by| by.min(now))),
                CommitEnd::Refused if commit.stored_by.is_some() => self
                    .world
                    .violate(format!("commit {id} of {place:?} is refused and was seen")),
                CommitEnd::Refused => commit.refused = true,
                CommitEnd::InDoubt => {}
            }
        });
    }

    /// Somebody asked at `asked` what is committed, and was told this.
    pub fn committed(&self, group: &str, place: &Place, asked: Instant, found: Option<(CommitId, i64)>) {
        let now = self.world.now();
        let broken = self.with(group, |group| {
            let commits = group.commits.entry(place.clone()).or_default();
            let before = |commit: &Commit| commit.stored_by.is_some_and(|by| by < asked);
            let Some((id, offset)) = found else {
                let lost = commits.iter().find(|(_, commit)| before(commit));
                return lost.map(|(lost, _)| format!("nothing is committed, but {lost} was"));
            };
            let Some(commit) = commits.get_mut(&id) else {
                return Some(format!("commit {id} was never made"));
            };
            if commit.refused || commit.offset != offset {
                return Some(format!("{offset} of commit {id} is found: {commit:?}"));
            }
            let stored_by = *commit.stored_by.get_or_insert(now);
            // Of two commits one of which was stored before the other was made, the later one counts.
            let later = |other: &Commit| before(other) && other.sent > stored_by;
            let lost = commits.iter().find(|(_, other)| later(other));
            lost.map(|(lost, other)| format!("commit {id} is found, but {lost} came later: {other:?}"))
        });
        if let Some(broken) = broken {
            self.world.violate(format!("{group}: {place:?}: {broken}"));
        }
    }

    /// The group has consumed these offsets.
    pub fn consumed(&self, group: &str, place: &Place, from: i64, to: i64) {
        self.with(group, |group| {
            let end = group
                .consumed
                .entry(place.clone())
                .or_default()
                .entry(from)
                .or_default();
            *end = to.max(*end);
        });
    }

    /// Whether the group has come to rest: every member has its part in one generation, all of `partitions` are
    /// shared out, and the last that was committed is where they end. Says what is missing.
    pub fn at_rest(&self, group: &str, ends: &BTreeMap<Place, i64>) -> Result<(), String> {
        self.with(group, |group| {
            let mut all: Vec<i32> = Vec::new();
            for (member, holding) in &group.members {
                let holding = holding.as_ref().ok_or_else(|| format!("{member} has no part"))?;
                all.extend(&holding.partitions);
            }
            all.sort_unstable();
            let wanted: Vec<i32> = ends.keys().map(|(_, partition)| *partition).collect();
            if all != wanted {
                return Err(format!("{wanted:?} are shared out as {all:?}"));
            }
            for (place, end) in ends {
                let commits = group.commits.get(place);
                let last = commits.and_then(|commits| commits.values().rfind(|c| c.stored_by.is_some()));
                if last.map(|commit| commit.offset) != Some(*end) && *end > 0 {
                    return Err(format!("{place:?}: {last:?} is committed, not {end}"));
                }
            }
            Ok(())
        })
    }

    /// How often members were given a part in a new generation, and how many commits were stored.
    pub fn totals(&self) -> (usize, usize) {
        let groups = self.groups.borrow();
        let stored = |commits: &BTreeMap<CommitId, Commit>| commits.values().filter(|c| c.stored_by.is_some()).count();
        let assigned = groups.values().map(|group| group.assigned.len()).sum();
        let commits = groups.values().flat_map(|group| group.commits.values());
        (assigned, commits.map(stored).sum())
    }

    /// Every record up to the end was consumed by somebody.
    pub fn all_consumed(&self, group: &str, place: &Place, end: i64) {
        let reached = self.with(group, |group| {
            let mut reached = 0;
            for (from, to) in group.consumed.entry(place.clone()).or_default() {
                if *from > reached {
                    break;
                }
                reached = reached.max(*to);
            }
            reached
        });
        if reached < end {
            self.world.violate(format!(
                "{group}: {place:?}: nobody consumed {reached}, the end is {end}"
            ));
        }
    }
}
