//! Bounds: once all is well, what a shard keeps in memory is again within what the settings allow.

use kafscale_broker::assembly::{RunningShard, Tuning};
use kafscale_broker::mailbox::ShardStats;
use kafscale_broker::settings::Settings;
use std::rc::Rc;

/// Shards that keep more than they may, and what.
pub fn look(shards: &[Rc<RunningShard>], settings: &Settings, tuning: &Tuning) -> Vec<String> {
    let excess = |running: &Rc<RunningShard>| {
        let stats = running.shard.stats();
        let too_much = too_much(&stats, settings, tuning);
        let here = running.shard.config.broker_id;
        (!too_much.is_empty()).then(|| format!("shard {} of broker {here}: {}", stats.shard, too_much.join(", ")))
    };
    shards.iter().filter_map(excess).collect()
}

/// Merged objects that a stream may keep besides its slots: fewer than eight on each of some levels.
const MERGED_MAX: usize = 32;

/// Merges of fewer bytes than this leave more objects than that: not all fit into one.
const MERGE_BYTES_MIN: u64 = 1 << 20;

fn too_much(stats: &ShardStats, settings: &Settings, tuning: &Tuning) -> Vec<String> {
    let live_max = match tuning.merge_bytes_max < MERGE_BYTES_MIN {
        true => usize::MAX,
        false => tuning.live_slots_max + MERGED_MAX,
    };
    let bounds = [
        ("bytes of records", stats.memory_bytes, settings.tail_memory_bytes),
        ("live objects", stats.live_objects, live_max),
        ("live runs", stats.live_runs as usize, tuning.live_runs_max as usize),
        ("puts in flight", stats.puts_in_flight, 0),
        ("objects to delete", stats.doomed, 0),
        ("deletions to apply", stats.deletions, 0),
    ];
    let over = bounds.into_iter().filter(|(_, found, most)| found > most);
    over.map(|(what, found, most)| format!("{found} {what} of {most}"))
        .collect()
}
