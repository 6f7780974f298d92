//! The seam to time and tasks: everything above it runs alike in production and in simulation.

pub mod glommio;
#[cfg(test)]
pub(crate) mod virtual_time;

use kafscale_storage_engine::object_store::LocalFuture;
use std::time::Duration;

/// Time since an arbitrary start that all shards of a broker share, never backwards.
pub type Instant = Duration;

/// Time, sleep and tasks of one shard.
pub trait Runtime {
    /// Monotonic time.
    fn now(&self) -> Instant;

    /// Monotonic time that also counts while the machine is suspended, since an arbitrary start of its own. It bounds how
    /// long a broker was away; it cannot be compared with [`Runtime::now`].
    fn boot_time(&self) -> Instant {
        self.now()
    }

    /// Milliseconds since the Unix epoch, for records and logs only: nothing safe may rest on it.
    fn wall_clock_ms(&self) -> i64;

    /// Completes `duration` from now. Dropping it is safe.
    fn sleep(&self, duration: Duration) -> LocalFuture<'static, ()>;

    /// Runs `task` on this shard until it ends. There is no cancelling: a task ends itself on a flag.
    fn spawn(&self, name: &'static str, task: LocalFuture<'static, ()>);

    /// Lets other ready tasks of the shard run. Loops over many items call it now and then.
    fn yield_now(&self) -> LocalFuture<'static, ()>;

    /// CPU time that this shard has taken so far, spinning included. Zero where nobody measures.
    fn busy(&self) -> Duration {
        Duration::ZERO
    }

    /// Random bits; in simulation they come from the seed.
    fn random_u64(&self) -> u64;
}
