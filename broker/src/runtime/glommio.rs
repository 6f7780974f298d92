//! Time and tasks in production: the shard's own glommio executor.

use super::{Instant, Runtime};
use futures::FutureExt;
use kafscale_storage_engine::object_store::LocalFuture;
use std::panic::AssertUnwindSafe;
use std::rc::Rc;
use std::sync::OnceLock;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// The runtime of the executor it is used on.
#[derive(Debug)]
pub struct GlommioRuntime {
    start: std::time::Instant,
}

/// When the process first asked for the time.
static START: OnceLock<std::time::Instant> = OnceLock::new();

impl GlommioRuntime {
    /// A runtime; all of a process have the same time.
    pub fn new() -> Rc<Self> {
        Rc::new(GlommioRuntime {
            start: *START.get_or_init(std::time::Instant::now),
        })
    }
}

impl Runtime for GlommioRuntime {
    fn now(&self) -> Instant {
        self.start.elapsed()
    }

    fn boot_time(&self) -> Instant {
        let now = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
        Duration::new(now.tv_sec.unsigned_abs(), now.tv_nsec.unsigned_abs() as u32)
    }

    fn wall_clock_ms(&self) -> i64 {
        let since = SystemTime::now().duration_since(UNIX_EPOCH);
        since.map_or(0, |since| since.as_millis() as i64)
    }

    fn sleep(&self, duration: Duration) -> LocalFuture<'static, ()> {
        Box::pin(glommio::timer::sleep(duration))
    }

    /// A panic in `task` ends the process: the state that it shares with the shard's other tasks can no longer be
    /// trusted, and another broker can go on from what is durable. Work that may fail alone, a connection for example,
    /// catches its panics itself.
    fn spawn(&self, name: &'static str, task: LocalFuture<'static, ()>) {
        let guarded = async move {
            if AssertUnwindSafe(task).catch_unwind().await.is_err() {
                log::error!("task {name} panicked: ending this broker");
                log::logger().flush();
                std::process::abort();
            }
        };
        // Detached, never cancelled: cancelling a task leaks its memory in this executor.
        glommio::spawn_local(guarded).detach();
    }

    fn yield_now(&self) -> LocalFuture<'static, ()> {
        // Not `yield_if_needed`: that one goes on at once until the preemption timer fires.
        Box::pin(async { glommio::executor().yield_task_queue_now().await })
    }

    fn busy(&self) -> Duration {
        // glommio's own count leaves out what the ring's system calls cost.
        let spent = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
        Duration::new(spent.tv_sec as u64, spent.tv_nsec as u32)
    }

    fn random_u64(&self) -> u64 {
        let mut bytes = [0u8; 8];
        rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty())
            .expect("the kernel's generator is seeded long before a broker starts, and 8 bytes come whole");
        u64::from_ne_bytes(bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::future::{select, Either};
    use std::cell::Cell;

    fn run<T>(test: impl std::future::Future<Output = T>) -> T {
        glommio::LocalExecutorBuilder::default()
            .io_memory(1 << 20)
            .make()
            .unwrap()
            .run(test)
    }

    #[test]
    fn sleep_lasts_at_least_its_duration() {
        run(async {
            let runtime = GlommioRuntime::new();
            let before = runtime.now();
            runtime.sleep(Duration::from_millis(20)).await;
            assert!(runtime.now() - before >= Duration::from_millis(20));
        });
    }

    #[test]
    fn a_dropped_sleep_wakes_nobody() {
        run(async {
            let runtime = GlommioRuntime::new();
            for _ in 0..100 {
                match select(
                    runtime.sleep(Duration::from_secs(3600)),
                    runtime.sleep(Duration::from_millis(1)),
                )
                .await
                {
                    Either::Left(_) => panic!("an hour passed"),
                    Either::Right(_) => {}
                }
            }
        });
    }

    #[test]
    fn a_task_that_yields_lets_the_others_run() {
        run(async {
            let runtime = GlommioRuntime::new();
            let done = Rc::new(Cell::new(0));
            for _ in 0..3 {
                let done = done.clone();
                runtime.spawn("count", Box::pin(async move { done.set(done.get() + 1) }));
            }
            for _ in 0..10 {
                runtime.yield_now().await;
            }
            assert_eq!(done.get(), 3);
        });
    }

    #[test]
    fn random_numbers_differ_and_the_clock_is_of_this_century() {
        run(async {
            let runtime = GlommioRuntime::new();
            assert_ne!(runtime.random_u64(), runtime.random_u64());
            assert!(runtime.wall_clock_ms() > 1_600_000_000_000);
        });
    }
}
