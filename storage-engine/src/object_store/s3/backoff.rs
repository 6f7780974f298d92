//! How often and when to try again: full jitter, within the call's deadline.

use super::config::Limits;
use super::outcome::Again;
use std::time::{Duration, Instant};

/// One call's repetitions.
#[derive(Debug)]
pub(super) struct Backoff {
    deadline: Instant,
    attempts: u32,
    stale: bool,
}

impl Backoff {
    pub(super) fn new(limits: &Limits, now: Instant) -> Self {
        Backoff {
            deadline: now + limits.call_timeout,
            attempts: 0,
            stale: false,
        }
    }

    /// How long the call may still take.
    pub(super) fn left(&self, now: Instant) -> Duration {
        self.deadline.saturating_duration_since(now)
    }

    /// The pause before the next attempt, or none if there is to be none. `draw` is in 0..1.
    pub(super) fn next(&mut self, limits: &Limits, again: Again, now: Instant, draw: f64) -> Option<Duration> {
        // A pool may hold several connections that went stale together. One repetition for it is enough: that one is
        // told to connect anew.
        let at_once = again == Again::AtOnce && !std::mem::replace(&mut self.stale, true);
        if at_once {
            return Some(Duration::ZERO);
        }
        self.attempts += 1;
        if again == Again::Never || self.attempts >= limits.attempts_max {
            return None;
        }
        let doublings = (self.attempts - 1).min(16);
        let most = (limits.backoff_first * (1 << doublings)).min(limits.backoff_max);
        let pause = most.mul_f64(draw);
        (pause < self.left(now)).then_some(pause)
    }

    /// Whether connections that have served before are to be avoided.
    pub(super) fn fresh_only(&self) -> bool {
        self.stale
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_the_most_and_end() {
        let limits = Limits {
            attempts_max: 8,
            ..Limits::default()
        };
        let now = Instant::now();
        let mut backoff = Backoff::new(&limits, now);
        let pauses: Vec<Option<u128>> = (0..8)
            .map(|_| {
                backoff
                    .next(&limits, Again::AfterPause, now, 1.0)
                    .map(|pause| pause.as_millis())
            })
            .collect();
        let expected = [50, 100, 200, 400, 800, 1600, 2000].map(Some);
        assert_eq!(pauses[..7], expected);
        assert_eq!(pauses[7], None);
    }

    #[test]
    fn no_pause_passes_the_deadline() {
        let limits = Limits::default();
        let now = Instant::now();
        let mut backoff = Backoff::new(&limits, now);
        let late = now + limits.call_timeout - Duration::from_millis(10);
        assert_eq!(backoff.next(&limits, Again::AfterPause, late, 1.0), None);
    }

    #[test]
    fn a_stale_connection_is_forgiven_once() {
        let limits = Limits::default();
        let now = Instant::now();
        let mut backoff = Backoff::new(&limits, now);
        assert_eq!(backoff.next(&limits, Again::AtOnce, now, 1.0), Some(Duration::ZERO));
        assert!(backoff.fresh_only());
        assert_eq!(
            backoff.next(&limits, Again::AtOnce, now, 1.0),
            Some(limits.backoff_first)
        );
        assert_eq!(backoff.next(&limits, Again::Never, now, 1.0), None);
    }
}
