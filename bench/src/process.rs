//! A process looked at from outside, through /proc.

use crate::clock::Clock;
use std::time::Duration;

/// How often memory is looked at for its peak.
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// How long an end may go unnoticed.
const SLEEP_MAX: Duration = Duration::from_millis(5);

/// CPU time, memory and context switches at one moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sample {
    /// User and system time since the process began.
    pub cpu: Duration,
    /// Resident memory in bytes.
    pub resident_bytes: u64,
    /// Threads.
    pub threads: u64,
    /// How often its threads have gone to sleep by themselves; of threads that still live.
    pub voluntary_switches: u64,
    /// How often they were put aside for others; of threads that still live.
    pub involuntary_switches: u64,
    /// Bytes that it has caused to be written to storage, as the kernel's /proc/PID/io has it: when they are put into the page
    /// cache, or written around it. None if the kernel or its rights do not tell.
    pub written_bytes: Option<u64>,
}

/// What a process did from one moment to another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Watched {
    /// At the start.
    pub before: Sample,
    /// At the end.
    pub after: Sample,
    /// The most resident memory seen in between, in bytes.
    pub resident_bytes_max: u64,
}

impl Watched {
    /// CPU seconds used.
    pub fn cpu_s(&self) -> f64 {
        self.after.cpu.saturating_sub(self.before.cpu).as_secs_f64()
    }

    /// Bytes caused to be written to storage; none if that is not known.
    pub fn written_bytes(&self) -> Option<u64> {
        Some(self.after.written_bytes?.saturating_sub(self.before.written_bytes?))
    }

    /// CPUs kept busy, if it took this time.
    pub fn cores_busy(&self, time: Duration) -> f64 {
        self.cpu_s() / time.as_secs_f64()
    }

    /// Context switches: voluntary, and involuntary. A thread that ended meanwhile takes its own along.
    pub fn switches(&self) -> (u64, u64) {
        let (before, after) = (&self.before, &self.after);
        (
            after.voluntary_switches.saturating_sub(before.voluntary_switches),
            after.involuntary_switches.saturating_sub(before.involuntary_switches),
        )
    }
}

/// Looks at the processes until the clock is over, or `go_on` says no more; it is asked before each look, and may wait.
/// None for those that do not exist, or end meanwhile.
pub fn watch<const N: usize>(
    pids: [Option<u32>; N],
    clock: Clock,
    mut go_on: impl FnMut() -> bool,
) -> [Option<Watched>; N] {
    let before = pids.map(|pid| pid.and_then(sample));
    let mut peaks = before.map(|sample| sample.map_or(0, |sample| sample.resident_bytes));
    let mut next_look = clock.now_ns();
    while !clock.is_over() && go_on() {
        if clock.now_ns() < next_look {
            std::thread::sleep(SLEEP_MAX.min(clock.until_end()));
            continue;
        }
        next_look = clock.now_ns() + LOOK_EVERY.as_nanos() as u64;
        for (peak, pid) in peaks.iter_mut().zip(pids) {
            *peak = (*peak).max(pid.and_then(resident_bytes).unwrap_or(0));
        }
    }
    std::array::from_fn(|at| {
        let (before, after) = before[at].zip(pids[at].and_then(sample))?;
        Some(Watched {
            before,
            after,
            resident_bytes_max: peaks[at].max(after.resident_bytes),
        })
    })
}

/// What the process has used so far; none if there is no such process.
pub fn sample(pid: u32) -> Option<Sample> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name in parentheses may hold anything; fields 14 and 15 are user and system time in ticks (proc(5)).
    let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
    let ticks = fields.get(11)?.parse::<u64>().ok()? + fields.get(12)?.parse::<u64>().ok()?;
    let mut sample = Sample {
        // USER_HZ is 100 on every Linux that we know.
        cpu: Duration::from_millis(ticks * 10),
        resident_bytes: resident_bytes(pid)?,
        threads: 0,
        voluntary_switches: 0,
        involuntary_switches: 0,
        written_bytes: std::fs::read_to_string(format!("/proc/{pid}/io"))
            .ok()
            .and_then(|io| number(&io, "write_bytes:")),
    };
    for task in std::fs::read_dir(format!("/proc/{pid}/task")).ok()? {
        // A thread may end while we look.
        let Ok(status) = std::fs::read_to_string(task.ok()?.path().join("status")) else {
            continue;
        };
        sample.threads += 1;
        sample.voluntary_switches += number(&status, "voluntary_ctxt_switches:").unwrap_or(0);
        sample.involuntary_switches += number(&status, "nonvoluntary_ctxt_switches:").unwrap_or(0);
    }
    Some(sample)
}

fn resident_bytes(pid: u32) -> Option<u64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    Some(number(&status, "VmRSS:")? * 1024)
}

/// The number in the line that begins so.
fn number(status: &str, label: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix(label))?;
    line.split_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_thread_of_ours_does_is_seen_from_outside() {
        let own = Some(std::process::id());
        let mut rounds = 0;
        let mut block = Vec::new();
        let clock = Clock::start(Duration::ZERO, Duration::from_secs(60));
        let [seen, nobody] = watch([own, None], clock, || {
            rounds += 1;
            if rounds == 1 {
                // Written to, or it would not be resident.
                block = vec![1u8; 64 << 20];
            }
            std::thread::sleep(Duration::from_millis(1));
            rounds < 200
        });
        let seen = seen.unwrap();
        assert!(nobody.is_none());
        assert!(seen.switches().0 >= 100, "{seen:?}");
        assert!(seen.cpu_s() > 0.0, "{seen:?}");
        assert!(
            seen.resident_bytes_max >= seen.before.resident_bytes + (50 << 20),
            "{seen:?}"
        );
        assert!(seen.after.threads >= 1 && !block.is_empty());
    }

    #[test]
    fn what_is_written_to_a_disk_is_seen_from_outside() {
        let own = std::process::id();
        // Not in a temporary directory: that may be in memory.
        let file = std::path::PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(format!("written-{own}"));
        let before = sample(own).unwrap().written_bytes.unwrap();
        std::fs::write(&file, vec![1u8; 1 << 20]).unwrap();
        let after = sample(own).unwrap().written_bytes.unwrap();
        std::fs::remove_file(file).unwrap();
        assert!(after >= before + (1 << 20), "{before} {after}");
    }

    #[test]
    fn a_process_that_is_not_there_has_no_sample() {
        assert_eq!(sample(u32::MAX), None);
    }

    #[test]
    fn a_line_is_found_by_its_whole_label() {
        let status = "VmRSS:\t  12 kB\nnonvoluntary_ctxt_switches:\t4\nvoluntary_ctxt_switches:\t3\n";
        assert_eq!(number(status, "voluntary_ctxt_switches:"), Some(3));
        assert_eq!(number(status, "nonvoluntary_ctxt_switches:"), Some(4));
        assert_eq!(number(status, "VmHWM:"), None);
    }
}
