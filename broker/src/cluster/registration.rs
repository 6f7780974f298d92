//! Until when this broker is surely registered: written by the membership, read by every shard.

use crate::runtime::Instant;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// The present registration of this broker. As long as it surely lasts nobody takes anything over from it.
#[derive(Debug, Default)]
pub struct Registration {
    term: AtomicU64,
    until_nanos: AtomicU64,
}

impl Registration {
    /// A new registration: between it and the one before, others may have taken over.
    pub fn begin(&self) {
        self.term.fetch_add(1, Ordering::AcqRel);
    }

    /// It lasts until then at least, in the time of [`crate::runtime::Runtime::boot_time`].
    pub fn lasts_until(&self, until: Instant) {
        let nanos = u64::try_from(until.as_nanos()).unwrap_or(u64::MAX);
        self.until_nanos.store(nanos, Ordering::Release);
    }

    /// The number of the registration.
    pub fn term(&self) -> u64 {
        self.term.load(Ordering::Acquire)
    }

    /// Until when it surely lasts; zero if it never did or was given up. To be read before [`Registration::term`].
    pub fn until(&self) -> Instant {
        Duration::from_nanos(self.until_nanos.load(Ordering::Acquire))
    }
}
