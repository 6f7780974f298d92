//! Memory that the allocator keeps although it is free goes back to the system.
//!
//! Buffers of large batches leave holes between what lives longer, and glibc keeps the pages of these holes: a broker that
//! uses 290 MiB had 670 MiB resident. A thread of its own looks every few seconds whether the process has grown, and has the
//! allocator return its free pages. Once a minute it does so in any case: what is freed later, such as idempotent producers
//! that expire, makes no process grow. Figures and alternatives are in docs/decisions/0024.

use std::io;
use std::time::Duration;

/// How often the process's size is looked at.
const LOOK_PAUSE: Duration = Duration::from_secs(5);

/// Growth since the last return of pages that makes another one worth its cost.
const GROWTH_BYTES: u64 = 32 << 20;

/// Looks after which pages are returned without growth.
const LOOKS_MAX: u32 = 12;

/// Free bytes that the allocator keeps at the end of its main heap, for what comes next.
const KEPT_BYTES: usize = 1 << 20;

/// Decides when to give memory back.
#[derive(Debug, Default)]
struct Growth {
    /// Resident bytes after the last time, or fewer since.
    least: u64,
    /// Looks since then.
    looks: u32,
}

impl Growth {
    /// A look at the process. `true` if pages are to be returned now.
    fn is_due(&mut self, resident: u64) -> bool {
        self.looks += 1;
        // The allocator returned some by itself: growth counts from there.
        self.least = self.least.min(resident);
        self.looks >= LOOKS_MAX || resident > self.least + GROWTH_BYTES
    }

    fn given_back(&mut self, resident: u64) {
        *self = Growth {
            least: resident,
            looks: 0,
        };
    }
}

/// Starts the thread. It ends with the process.
///
/// # Errors
/// If the thread cannot be started.
pub fn give_back_regularly() -> io::Result<()> {
    let run = || {
        let mut growth = Growth::default();
        loop {
            std::thread::sleep(LOOK_PAUSE);
            let Some(resident) = resident_bytes() else {
                log::warn!("/proc/self/statm cannot be read: freed memory stays with the process");
                return;
            };
            if growth.is_due(resident) {
                give_back();
                growth.given_back(resident_bytes().unwrap_or(resident));
            }
        }
    };
    std::thread::Builder::new().name("memory".to_string()).spawn(run)?;
    Ok(())
}

/// Has the allocator return its free pages.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
fn give_back() {
    // SAFETY: malloc_trim takes no pointer, may be called by any thread at any time (it locks one arena after another), and
    // touches only memory that is free: nothing that was allocated moves or changes.
    unsafe { libc::malloc_trim(KEPT_BYTES) };
}

/// Other allocators give back what they choose to.
#[cfg(not(all(target_os = "linux", target_env = "gnu")))]
fn give_back() {
    let _ = KEPT_BYTES;
}

/// The process's resident memory.
fn resident_bytes() -> Option<u64> {
    let statm = std::fs::read_to_string("/proc/self/statm").ok()?;
    let pages: u64 = statm.split(' ').nth(1)?.parse().ok()?;
    Some(pages * rustix::param::page_size() as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_given_back_when_the_process_has_grown_and_once_in_a_while() {
        let mut growth = Growth::default();
        assert!(growth.is_due(33 << 20), "the first time");
        growth.given_back(100 << 20);
        assert!(!growth.is_due(132 << 20));
        assert!(growth.is_due(133 << 20));
        assert!(!growth.is_due(90 << 20));
        assert!(growth.is_due(123 << 20), "it has shrunk meanwhile");
        growth.given_back(123 << 20);
        let due = (0..LOOKS_MAX).filter(|_| growth.is_due(123 << 20)).count();
        assert_eq!(due, 1, "the last of them");
    }

    #[test]
    fn the_size_of_this_process_is_known() {
        let resident = resident_bytes().unwrap();
        assert!((1 << 20..1 << 40).contains(&resident), "{resident}");
    }
}
