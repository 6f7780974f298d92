//! System calls of a process, counted by `perf stat`: without ptrace, at some tenths of a microsecond a call.

use std::io::Read;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

const EVENT: &str = "raw_syscalls:sys_enter";

/// A `perf stat` at work. It ends by itself; if this is dropped before, it is killed.
#[derive(Debug)]
pub struct Counting {
    perf: Child,
    time: Duration,
}

impl Counting {
    /// Counts for so long. None if perf is not there; why is said on stderr.
    pub fn start(pid: u32, time: Duration) -> Option<Counting> {
        let seconds = format!("{:.3}", time.as_secs_f64());
        let started = Command::new("perf")
            .args([
                "stat",
                "-x",
                ",",
                "-e",
                EVENT,
                "-p",
                &pid.to_string(),
                "--",
                "sleep",
                &seconds,
            ])
            .env("LC_ALL", "C")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn();
        started
            .map_err(|error| eprintln!("system calls are not counted: perf: {error}"))
            .ok()
            .map(|perf| Counting { perf, time })
    }

    /// Calls per second, once the time is over. None if perf may not count here; what it says goes to stderr.
    pub fn per_second(mut self) -> Option<f64> {
        let mut said = String::new();
        let read = self
            .perf
            .stderr
            .take()
            .map(|mut stderr| stderr.read_to_string(&mut said));
        let counted = counted(&said);
        if counted.is_none() || !matches!(read, Some(Ok(_))) {
            eprintln!("system calls were not counted: perf says: {}", said.trim());
        }
        counted.map(|calls| calls as f64 / self.time.as_secs_f64())
    }
}

impl Drop for Counting {
    fn drop(&mut self) {
        // One that has ended cannot be killed, which is no fault.
        let _ = self.perf.kill();
        let _ = self.perf.wait();
    }
}

/// The count in what perf says; none if it says that it did not count.
fn counted(said: &str) -> Option<u64> {
    let line = said.lines().find(|line| line.contains(EVENT))?;
    line.split(',').next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_count_is_told_from_a_refusal() {
        assert_eq!(counted("12345,,raw_syscalls:sys_enter,2000,100.00,,\n"), Some(12_345));
        assert_eq!(counted("<not counted>,,raw_syscalls:sys_enter,0,100.00,,\n"), None);
        assert_eq!(counted("event syntax error: 'raw_syscalls:sys_enter'\n"), None);
        assert_eq!(counted(""), None);
    }
}
