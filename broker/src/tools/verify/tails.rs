//! What streams hold of a partition goes on where its segments end, without gap and overlap.

use super::super::output::Output;
use super::super::{ToolError, Workplace};
use super::wal_streams::Tails;
use super::Known;
use kafscale_storage_engine::segment;

/// Compares the runs of each partition with its record.
pub fn check(place: &Workplace, known: &Known, tails: &Tails, output: &mut Output) -> Result<(), ToolError> {
    for (at, record) in known.partitions() {
        let Some(topic_id) = known.folders.get(&at.0).map(|folder| folder.topic_id) else {
            continue;
        };
        let named = |stream: u64| stream == record.stream || record.tail_streams.contains(&stream);
        let mut runs: Vec<(i64, i64)> = tails
            .get(&(topic_id, at.1))
            .into_iter()
            .flatten()
            .filter(|(_, next, stream)| *next > record.rolled_offset && named(*stream))
            .map(|(base, next, _)| (*base, *next))
            .collect();
        runs.sort_unstable();
        for why in gaps_and_overlaps(record.rolled_offset, &runs) {
            let prefix = segment::prefix(place.namespace(), &at.0, at.1);
            output.problem("tail", &prefix, &why)?;
        }
    }
    Ok(())
}

/// What is wrong with runs, sorted, that should go on at `end`. The first may have been rolled in part.
fn gaps_and_overlaps(mut end: i64, runs: &[(i64, i64)]) -> Vec<String> {
    let mut wrong = Vec::new();
    for (at, (base, next)) in runs.iter().enumerate() {
        if *base > end {
            wrong.push(format!("offsets {end}..{base} are in no write-ahead object"));
        } else if *base < end && at > 0 {
            wrong.push(format!("offsets {base}..{end} are in two write-ahead objects"));
        }
        end = end.max(*next);
    }
    wrong
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_go_on_where_the_segments_end() {
        assert_eq!(gaps_and_overlaps(10, &[(10, 12), (12, 20)]), [""; 0]);
        assert_eq!(gaps_and_overlaps(10, &[(5, 12), (12, 20)]), [""; 0]);
        assert_eq!(gaps_and_overlaps(10, &[(11, 12)]).len(), 1);
        assert_eq!(gaps_and_overlaps(10, &[(10, 12), (13, 20)]).len(), 1);
        assert_eq!(gaps_and_overlaps(10, &[(10, 12), (11, 20)]).len(), 1);
    }
}
