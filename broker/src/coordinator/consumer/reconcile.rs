//! One member on its way to what it shall have: gives up first, then gets, and never what another still has.

use super::state::{add, contains, filtered, Assignment, ConsumerMember, ConsumerState, MemberPhase};
use crate::planted::{self, Bug};
use kafscale_codec::types::TopicId;
use std::collections::{BTreeMap, BTreeSet};

/// Partitions that somebody has or still may have.
pub fn taken_by_others(state: &ConsumerState, id: &str) -> BTreeMap<TopicId, BTreeSet<i32>> {
    let mut taken = Assignment::new();
    for (other, member) in &state.members {
        if other != id {
            add(&mut taken, &member.assigned);
            add(&mut taken, &member.revoking);
        }
    }
    taken
}

/// The member after one step towards its target. `owned`: what the client says it has, if it says so.
pub fn reconcile(
    state: &ConsumerState,
    id: &str,
    member: ConsumerMember,
    owned: Option<&Assignment>,
) -> ConsumerMember {
    if member.phase == MemberPhase::Unrevoked && still_owns(owned, &member.revoking) {
        return member;
    }
    let settled = member.phase == MemberPhase::Stable && member.epoch == state.target_epoch;
    if settled && member.assigned == member.target {
        return member;
    }
    let assigned = filtered(&member.assigned, |topic, index| contains(&member.target, topic, index));
    let revoking = filtered(&member.assigned, |topic, index| !contains(&member.target, topic, index));
    if !revoking.is_empty() && still_owns(owned, &revoking) {
        return ConsumerMember {
            phase: MemberPhase::Unrevoked,
            assigned,
            revoking,
            ..member
        };
    }
    let taken = match planted::is(Bug::AssignedTwice) {
        true => Assignment::new(),
        false => taken_by_others(state, id),
    };
    let free = filtered(&member.target, |topic, index| !contains(&taken, topic, index));
    let phase = if free == member.target {
        MemberPhase::Stable
    } else {
        MemberPhase::Unreleased
    };
    let new = filtered(&free, |topic, index| !contains(&assigned, topic, index));
    let mut assigned = assigned;
    add(&mut assigned, &free);
    let (previous_epoch, mut gained) = if member.epoch == state.target_epoch {
        (member.previous_epoch, member.gained)
    } else {
        (member.epoch, Assignment::new())
    };
    add(&mut gained, &new);
    let gained = filtered(&gained, |topic, index| contains(&assigned, topic, index));
    ConsumerMember {
        phase,
        assigned,
        gained,
        revoking: Assignment::new(),
        epoch: state.target_epoch,
        previous_epoch,
        ..member
    }
}

/// Whether the client may still have one of these: it has, or it does not say.
fn still_owns(owned: Option<&Assignment>, partitions: &Assignment) -> bool {
    let Some(owned) = owned else { return true };
    let has =
        |(topic, indexes): (&TopicId, &BTreeSet<i32>)| indexes.iter().any(|index| contains(owned, *topic, *index));
    partitions.iter().any(has)
}
