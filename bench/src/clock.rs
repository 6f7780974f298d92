//! The run's time: what counts, and what is before and after.

use std::time::{Duration, Instant};

/// Warm-up, then what counts, then the end.
#[derive(Debug, Clone, Copy)]
pub struct Clock {
    start: Instant,
    measured_from: Duration,
    measured_to: Duration,
}

impl Clock {
    /// Begins now.
    pub fn start(warmup: Duration, measured: Duration) -> Self {
        Clock {
            start: Instant::now(),
            measured_from: warmup,
            measured_to: warmup + measured,
        }
    }

    /// Nanoseconds since the start.
    pub fn now_ns(&self) -> u64 {
        self.start.elapsed().as_nanos() as u64
    }

    /// Whether something that happened then, in nanoseconds since the start, counts.
    pub fn counts(&self, at_ns: u64) -> bool {
        (self.measured_from.as_nanos() as u64..self.measured_to.as_nanos() as u64).contains(&at_ns)
    }

    /// In which second of what counts something happened; none before and after.
    pub fn second_of(&self, at_ns: u64) -> Option<usize> {
        self.counts(at_ns)
            .then(|| ((at_ns - self.measured_from.as_nanos() as u64) / 1_000_000_000) as usize)
    }

    /// Whether the run is over.
    pub fn is_over(&self) -> bool {
        self.start.elapsed() >= self.measured_to
    }

    /// Sleeps until what counts begins.
    pub fn sleep_to_measured(&self) {
        std::thread::sleep(self.measured_from.saturating_sub(self.start.elapsed()));
    }

    /// Sleeps a moment if what counts has not begun; says whether that was so.
    pub fn sleep_towards_measured(&self) -> bool {
        let left = self.measured_from.saturating_sub(self.start.elapsed());
        std::thread::sleep(left.min(Duration::from_millis(20)));
        !left.is_zero()
    }

    /// How long it goes on.
    pub fn until_end(&self) -> Duration {
        self.measured_to.saturating_sub(self.start.elapsed())
    }

    /// Length of what counts.
    pub fn measured(&self) -> Duration {
        self.measured_to - self.measured_from
    }
}
