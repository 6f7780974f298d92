//! Which objects of a stream to merge: its live part has a budget, or recovery and memory would grow with time.

/// An object that holds unrolled runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LiveObject {
    /// First slot that it covers.
    pub first_seq: u64,
    /// Last slot that it covers.
    pub last_seq: u64,
    /// 0 for a slot, else the level of the merge that made it.
    pub level: u8,
    /// Bytes that are still needed.
    pub bytes: u64,
    /// Runs that are still needed.
    pub runs: u64,
}

/// What the live part of a stream may have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Budget {
    /// Slots; beyond them the oldest are merged.
    pub slots: usize,
    /// Runs, each an entry in memory and in a footer. Slots may hold half of them; beyond that they are merged, and
    /// beyond all of them partitions have to be rolled: merging cannot help any more.
    pub runs: u64,
    /// Bytes that one merge takes: it holds them in memory.
    pub merge_bytes: u64,
}

/// As many objects of one level become one of the next; as in an LSM tree, a byte is written again once per level.
pub const MERGED_OBJECTS_PER_LEVEL: usize = 8;

/// Consecutive objects to merge now: the oldest slots if there are too many of them or of their runs, else the oldest
/// group of merged objects of one level. `live` is in slot order. Returns the range of indexes and the level of the result.
/// Objects that no merge could take together with a neighbour stay as they are.
pub fn plan(live: &[LiveObject], budget: Budget) -> Option<(std::ops::Range<usize>, u8)> {
    let slots = live.iter().position(|object| object.level == 0).unwrap_or(live.len());
    let slot_runs: u64 = live[slots..].iter().map(|object| object.runs).sum();
    let count = live.len() - slots;
    if count > budget.slots || (slot_runs > budget.runs / 2 && count >= 2) {
        // Half of the slots stay: the newest are the likeliest to be rolled or read soon.
        let half = &live[slots..slots + (count / 2).max(2)];
        return Some((slots..slots + fitting(half, budget.merge_bytes).max(2), 1));
    }
    let mut from = 0;
    while from < slots {
        let level = live[from].level;
        let group = live[from..slots].iter().take_while(|object| object.level == level);
        let to = from + group.count();
        while to - from >= MERGED_OBJECTS_PER_LEVEL {
            let take = fitting(&live[from..to], budget.merge_bytes);
            if take >= 2 {
                return Some((from..from + take, level.saturating_add(1)));
            }
            from += 1;
        }
        from = to;
    }
    None
}

/// How many of these objects, from the first on, one merge may take.
fn fitting(objects: &[LiveObject], merge_bytes: u64) -> usize {
    let mut bytes = 0;
    let fits = |object: &&LiveObject| {
        bytes += object.bytes;
        bytes <= merge_bytes
    };
    objects.iter().take_while(fits).count()
}

#[cfg(test)]
mod tests {
    use super::*;

    const BUDGET: Budget = Budget {
        slots: 1000,
        runs: 700_000,
        merge_bytes: 128 << 20,
    };

    fn slot(seq: u64, bytes: u64, runs: u64) -> LiveObject {
        LiveObject {
            first_seq: seq,
            last_seq: seq,
            level: 0,
            bytes,
            runs,
        }
    }

    /// Merges what is planned, with at most `partitions` runs in what comes out.
    fn merge_all(live: &mut Vec<LiveObject>, partitions: u64) {
        while let Some((range, level)) = plan(live, BUDGET) {
            let taken = &live[range.clone()];
            assert!(taken.len() >= 2, "one object is no merge");
            let merged = LiveObject {
                first_seq: taken[0].first_seq,
                last_seq: taken[taken.len() - 1].last_seq,
                level,
                bytes: taken.iter().map(|object| object.bytes).sum(),
                runs: taken.iter().map(|object| object.runs).sum::<u64>().min(partitions),
            };
            assert!(merged.bytes <= BUDGET.merge_bytes, "{merged:?}");
            live.splice(range, [merged]);
        }
    }

    #[test]
    fn the_number_of_live_objects_stays_small_however_many_slots_there_were() {
        let mut live: Vec<LiveObject> = Vec::new();
        let mut most = 0;
        for seq in 0..200_000 {
            live.push(slot(seq, 1, 1));
            merge_all(&mut live, u64::MAX);
            most = most.max(live.len());
        }
        assert!(most < 1100, "{most}");
        // Nothing is lost or counted twice, and the order holds.
        assert_eq!(live.iter().map(|object| object.bytes).sum::<u64>(), 200_000);
        assert!(live.windows(2).all(|pair| pair[0].last_seq + 1 == pair[1].first_seq));
    }

    /// 1 MB/s into 5,000 partitions, flushed every 50 ms, each record a run of its own, none rolled for six hours.
    #[test]
    fn six_hours_of_many_slow_partitions_stay_near_the_budget_of_runs() {
        let mut live: Vec<LiveObject> = Vec::new();
        let mut most_slot_runs = 0;
        for seq in 0..6 * 3600 * 20 {
            live.push(slot(seq, 52_000, 50));
            merge_all(&mut live, 5000);
            let slots = live.iter().filter(|object| object.level == 0);
            most_slot_runs = most_slot_runs.max(slots.map(|object| object.runs).sum());
        }
        let runs: u64 = live.iter().map(|object| object.runs).sum();
        assert!(
            runs < 1_000_000 && most_slot_runs <= BUDGET.runs / 2,
            "{runs} {most_slot_runs}"
        );
        assert!(live.len() < 1200, "{}", live.len());
    }

    #[test]
    fn slots_of_many_runs_are_merged_before_they_are_many() {
        let mut live: Vec<LiveObject> = Vec::new();
        for seq in 0..1000 {
            live.push(slot(seq, 2_500_000, 2500));
            merge_all(&mut live, 5000);
            let slots = live.iter().filter(|object| object.level == 0);
            assert!(slots.map(|object| object.runs).sum::<u64>() <= BUDGET.runs / 2);
        }
    }

    #[test]
    fn what_would_be_too_large_together_stays_apart() {
        let large = LiveObject {
            level: 1,
            ..slot(0, 100 << 20, 10)
        };
        assert_eq!(plan(&[large; 20], BUDGET), None);
        let small = LiveObject { bytes: 1, ..large };
        let mut live = vec![large; 9];
        live.extend([small; 8]);
        assert_eq!(
            plan(&live, BUDGET),
            Some((8..17, 2)),
            "the small ones do not wait behind the large ones"
        );
    }
}
