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
}

/// As many objects of one level become one of the next; as in an LSM tree, a byte is written again once per level.
pub const MERGED_OBJECTS_PER_LEVEL: usize = 8;

/// Consecutive objects to merge now: the oldest slots if there are more than `slots_max`, else the oldest group of merged
/// objects of one level. `live` is in slot order. Returns the range of indexes and the level of the result.
pub fn plan(live: &[LiveObject], slots_max: usize) -> Option<(std::ops::Range<usize>, u8)> {
    let slots = live.iter().position(|object| object.level == 0).unwrap_or(live.len());
    if live.len() - slots > slots_max {
        // Half of the slots stay: the newest are the likeliest to be rolled or read soon.
        let take = (slots_max / 2).max(2);
        return Some((slots..slots + take, 1));
    }
    let mut from = 0;
    while from < slots {
        let level = live[from].level;
        let to = from
            + live[from..slots]
                .iter()
                .take_while(|object| object.level == level)
                .count();
        if to - from >= MERGED_OBJECTS_PER_LEVEL {
            return Some((from..to, level.saturating_add(1)));
        }
        from = to;
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_number_of_live_objects_stays_small_however_many_slots_there_were() {
        let mut live: Vec<LiveObject> = Vec::new();
        let mut most = 0;
        for seq in 0..200_000 {
            live.push(LiveObject {
                first_seq: seq,
                last_seq: seq,
                level: 0,
                bytes: 1,
            });
            while let Some((range, level)) = plan(&live, 1000) {
                let (first, last) = (live[range.start], live[range.end - 1]);
                let bytes = live[range.clone()].iter().map(|object| object.bytes).sum();
                let merged = LiveObject {
                    first_seq: first.first_seq,
                    last_seq: last.last_seq,
                    level,
                    bytes,
                };
                live.splice(range, [merged]);
            }
            most = most.max(live.len());
        }
        assert!(most < 1100, "{most}");
        // Nothing is lost or counted twice, and the order holds.
        assert_eq!(live.iter().map(|object| object.bytes).sum::<u64>(), 200_000);
        assert!(live.windows(2).all(|pair| pair[0].last_seq + 1 == pair[1].first_seq));
    }
}
