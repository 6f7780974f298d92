//! What the system says about this process. A number that it does not tell is left out.

use super::families;
use super::snapshot::Snapshot;

/// Adds memory, CPU time, descriptors and start time.
pub(super) fn add_to(snapshot: &mut Snapshot) {
    let numbers = [
        (&families::PROCESS_RSS, resident_bytes()),
        (&families::PROCESS_CPU, stat().map(|stat| stat.cpu_seconds)),
        (&families::PROCESS_FDS, open_descriptors()),
        (&families::PROCESS_START, start_seconds()),
    ];
    for (family, number) in numbers {
        if let Some(number) = number {
            snapshot.gauge(family, vec![], number);
        }
    }
}

fn resident_bytes() -> Option<f64> {
    let statm = std::fs::read_to_string("/proc/self/statm").ok()?;
    let pages: f64 = statm.split(' ').nth(1)?.parse().ok()?;
    Some(pages * rustix::param::page_size() as f64)
}

fn open_descriptors() -> Option<f64> {
    // The directory that is being read is one of them.
    Some(std::fs::read_dir("/proc/self/fd").ok()?.count() as f64 - 1.0)
}

struct Stat {
    cpu_seconds: f64,
    start_seconds_after_boot: f64,
}

fn stat() -> Option<Stat> {
    let stat = std::fs::read_to_string("/proc/self/stat").ok()?;
    // The second field is the name in parentheses, and may contain anything.
    let fields: Vec<&str> = stat.rsplit_once(") ")?.1.split(' ').collect();
    let ticks = rustix::param::clock_ticks_per_second() as f64;
    // By proc(5), counted from 1: 14 user time, 15 system time, 22 start; the third field is the first one here.
    let field = |number: usize| fields.get(number - 3)?.parse::<f64>().ok();
    Some(Stat {
        cpu_seconds: (field(14)? + field(15)?) / ticks,
        start_seconds_after_boot: field(22)? / ticks,
    })
}

fn start_seconds() -> Option<f64> {
    let system = std::fs::read_to_string("/proc/stat").ok()?;
    let boot: f64 = system
        .lines()
        .find_map(|line| line.strip_prefix("btime "))?
        .trim()
        .parse()
        .ok()?;
    Some(boot + stat()?.start_seconds_after_boot)
}
