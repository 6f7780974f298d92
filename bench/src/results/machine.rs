//! Where and how a run was made: without it, its figures say nothing later.

use indexmap::IndexMap;
use std::fs::read_to_string;

/// Names and values, all as text; what cannot be found out is "unknown".
pub fn about() -> IndexMap<String, String> {
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    let about = [
        ("version", env!("CARGO_PKG_VERSION").to_string()),
        ("arguments", std::env::args().skip(1).collect::<Vec<_>>().join(" ")),
        ("processor", labelled("/proc/cpuinfo", "model name")),
        ("cores", cores.to_string()),
        ("memory", labelled("/proc/meminfo", "MemTotal")),
        (
            "kernel",
            read_to_string("/proc/sys/kernel/osrelease").map_or_else(|_| unknown(), |text| text.trim().to_string()),
        ),
    ];
    about
        .map(|(name, value)| (name.to_string(), value))
        .into_iter()
        .collect()
}

fn labelled(file: &str, label: &str) -> String {
    let text = read_to_string(file).unwrap_or_default();
    let mut lines = text.lines().filter_map(|line| line.split_once(':'));
    lines
        .find(|(name, _)| name.trim() == label)
        .map_or_else(unknown, |(_, value)| value.trim().to_string())
}

fn unknown() -> String {
    "unknown".to_string()
}
