//! Does the simulator find bugs? Each of these was planted on purpose, and must be found within some hundred seeds, rarely more.

use crate::run_safely;
use crate::switches::Switches;
use kafscale_broker::planted::{plant, Bug};

/// Seeds in which a planted bug must show.
const SEEDS: u64 = 2000;

fn seed_that_finds(bug: Bug, switches: Switches) -> Option<(u64, String)> {
    plant(Some(bug));
    let found = (0..SEEDS).find_map(|seed| run_safely(seed, switches).violation.map(|what| (seed, what)));
    plant(None);
    found
}

/// Among the faults that every run draws from.
fn must_be_found(bug: Bug) {
    must_be_found_among(bug, Switches::STANDARD);
}

/// Among these faults.
fn must_be_found_among(bug: Bug, switches: Switches) {
    crate::start_logging();
    match seed_that_finds(bug, switches) {
        Some((seed, what)) => {
            println!("{bug:?} is found by seed {seed}: {what}");
            assert_eq!(
                run_safely(seed, switches).violation,
                None,
                "seed {seed} fails without the bug too"
            );
        }
        None => panic!("{bug:?} is not found in {SEEDS} seeds"),
    }
}

#[test]
fn an_acknowledgement_before_the_put_is_found() {
    must_be_found(Bug::AckBeforeDurable);
}

#[test]
fn a_missing_topic_that_is_taken_for_deleted_is_found() {
    must_be_found(Bug::AbsenceIsDeletion);
}

#[test]
fn a_claim_on_a_forgotten_stream_is_found() {
    must_be_found(Bug::ClaimIgnoresStream);
}

#[test]
fn a_fence_that_is_ignored_is_found() {
    must_be_found(Bug::FenceIgnored);
}

#[test]
fn a_high_watermark_ahead_of_the_put_is_found() {
    must_be_found(Bug::WatermarkAhead);
}

#[test]
fn a_waiter_that_is_forgotten_is_found() {
    must_be_found(Bug::LostWaiter);
}

#[test]
fn a_duplicate_that_is_appended_is_found() {
    must_be_found(Bug::DuplicateAccepted);
}

#[test]
fn a_commit_that_is_answered_before_it_is_stored_is_found() {
    must_be_found(Bug::CommitBeforeDurable);
}

#[test]
fn a_commit_of_an_old_generation_is_found() {
    must_be_found(Bug::StaleCommitAccepted);
}

#[test]
fn a_partition_that_two_members_have_is_found() {
    must_be_found(Bug::AssignedTwice);
}

#[test]
fn two_coordinators_of_a_group_are_found() {
    must_be_found(Bug::PredecessorIgnored);
}

#[test]
fn a_coordinator_that_is_not_registered_is_found() {
    must_be_found(Bug::LapsedCoordinator);
}

#[test]
fn a_member_that_stays_for_ever_is_found() {
    must_be_found(Bug::DeadlinesPassUnnoticed);
}

#[test]
fn records_that_a_session_is_not_told_of_are_found() {
    must_be_found(Bug::RecordsAreNoNews);
}

#[test]
fn a_partition_that_is_handed_over_too_early_is_found() {
    must_be_found(Bug::HandOverTooEarly);
}

#[test]
fn a_zombie_that_goes_on_to_answer_reads_is_found() {
    // Among all kinds of faults it takes more seeds than a test has.
    let switches = Switches {
        metastore_only: true,
        ..Switches::NONE
    };
    must_be_found_among(Bug::ZombieReads, switches);
}

#[test]
fn a_successor_that_skips_the_sealing_is_found() {
    must_be_found(Bug::SealingSkipped);
}

#[test]
fn a_trim_under_a_successor_is_found() {
    must_be_found(Bug::TrimUnderSuccessor);
}

#[test]
fn a_roll_that_nobody_fences_is_found() {
    must_be_found(Bug::RollUnfenced);
}

#[test]
fn times_that_are_written_before_their_segment_are_found() {
    must_be_found(Bug::TimesFirst);
}

#[test]
fn a_damaged_partition_that_is_served_shortened_is_found() {
    must_be_found(Bug::QuarantineForgotten);
}

#[test]
fn a_hole_that_is_taken_for_the_end_is_found() {
    must_be_found(Bug::HoleIsEnd);
}

#[test]
fn a_retention_that_takes_no_time_for_a_time_long_ago_is_found() {
    must_be_found(Bug::RetentionTrustsNegativeTime);
}

/// The same for a story of its own.
fn must_be_found_by(bug: Bug, run: fn(u64) -> Option<String>) {
    crate::start_logging();
    plant(Some(bug));
    let found = (0..SEEDS).find_map(|seed| run(seed).map(|what| (seed, what)));
    plant(None);
    let Some((seed, what)) = found else {
        panic!("{bug:?} is not found in {SEEDS} seeds");
    };
    println!("{bug:?} is found by seed {seed}: {what}");
    assert_eq!(run(seed), None, "seed {seed} fails without the bug too");
}

#[test]
fn a_merge_that_is_applied_late_and_forgotten_is_found() {
    must_be_found_by(Bug::LateMergeForgotten, crate::late::run);
}

#[test]
fn a_broker_that_writes_although_its_fence_is_forgotten_is_found() {
    must_be_found_by(Bug::PutsOutliveFence, crate::away::run);
}
