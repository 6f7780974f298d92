//! One executor thread per shard, each pinned to its own CPU while there are enough.

use glommio::{CpuSet, LocalExecutorPoolBuilder, PoolPlacement, PoolThreadHandles};
use nix::sys::pthread::pthread_kill;
use nix::sys::signal::Signal;
use std::error::Error;
use std::future::Future;
use std::os::unix::thread::JoinHandleExt;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::Arc;
use std::time::Duration;

/// How long an executor may sleep. glommio 0.9 sleeps with runnable tasks if its preemption timer fires between setting
/// the timer and looking at the tasks (`LocalExecutor::run_task_queues` then says that nothing is to be run), which
/// happens to a thread that loses its CPU in that moment: until something else woke it, which may be never (decision
/// 0005).
const SLEEP_MAX: Duration = Duration::from_millis(25);

/// Threads of each executor for calls that block: as many as there are writes under way by default, and a few for what takes
/// longer. They run on any CPU.
const BLOCKING_THREADS: usize = 6;

/// Nobody else uses it, and by itself it does nothing.
const WAKING_SIGNAL: Signal = Signal::SIGURG;

/// How a shard ends: well, or with the reason why not.
pub type ShardResult = Result<(), Box<dyn Error + Send + Sync>>;

/// How the executors run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ExecutorOptions {
    /// How many.
    pub shards: usize,
    /// Longest time a busy executor does not look at its ring. It bounds what others wait for an answer.
    pub preempt_timer: Duration,
    /// How long an idle executor spins before it sleeps; only pinned ones do.
    pub spin: Duration,
}

/// Why the executors did not start, or how one ended.
#[derive(Debug, thiserror::Error)]
pub enum ExecutorError {
    /// The threads or their rings could not be created.
    #[error("cannot start the shards: {0} (io_uring is needed: Linux 5.8 or later, and a container must allow io_uring_setup)")]
    Start(String),
    /// A shard gave up.
    #[error("shard {0}: {1}")]
    Shard(usize, Box<dyn Error + Send + Sync>),
    /// A shard's thread panicked; its message has been printed.
    #[error("a shard panicked")]
    Panic,
}

/// The running executors.
#[derive(Debug)]
pub struct Executors {
    threads: PoolThreadHandles<Result<(), ExecutorError>>,
    /// How many made their first step.
    begun: Arc<AtomicUsize>,
}

/// Starts the executors and runs `shard_main(shard)` on each.
///
/// # Errors
/// `Start` if a thread cannot be created, its CPU cannot be found, or a signal cannot be handled. A ring that cannot be created shows in `join`.
pub fn start<F, Fut>(options: ExecutorOptions, shard_main: F) -> Result<Executors, ExecutorError>
where
    F: FnOnce(usize) -> Fut + Clone + Send + 'static,
    Fut: Future<Output = ShardResult> + 'static,
{
    let placement = placement(options.shards)?;
    let pinned = !matches!(placement, PoolPlacement::Unbound(_));
    let mut builder = LocalExecutorPoolBuilder::new(placement)
        .name("shard")
        .io_memory(io_memory_bytes(options.shards))
        .blocking_thread_pool_placement(PoolPlacement::Unbound(BLOCKING_THREADS))
        .preempt_timer(options.preempt_timer);
    if pinned && !options.spin.is_zero() {
        builder = builder.spin_before_park(options.spin);
    }
    let has_handler = Arc::new(AtomicBool::new(false));
    signal_hook::flag::register(WAKING_SIGNAL as i32, has_handler)
        .map_err(|error| ExecutorError::Start(format!("handle {WAKING_SIGNAL}: {error}")))?;
    let next = Arc::new(AtomicUsize::new(0));
    let begun = next.clone();
    let threads = builder
        .on_all_shards(move || async move {
            let shard = next.fetch_add(1, Ordering::Relaxed);
            let ended = shard_main(shard).await;
            ended.map_err(|error| ExecutorError::Shard(shard, error))
        })
        .map_err(|error| ExecutorError::Start(error.to_string()))?;
    Ok(Executors { threads, begun })
}

impl Executors {
    /// Lets an interval pass, and ends the sleep of those that sleep. A timer of their own would not do: it is a task, too.
    fn pulse(&self) {
        std::thread::sleep(SLEEP_MAX);
        for thread in self.threads.handles() {
            // One that has ended in between needs no signal.
            let _ = pthread_kill(thread.as_pthread_t(), WAKING_SIGNAL);
        }
    }

    /// Waits for all shards, and keeps them from sleeping for longer than [`SLEEP_MAX`] meanwhile. As soon as the first one
    /// ends, for whatever reason, `stop` is called once: a broker does not go on with a part of its shards.
    ///
    /// # Errors
    /// The first error of a shard, after all have ended; further ones are logged.
    pub fn join(self, stop: impl FnOnce()) -> Result<(), ExecutorError> {
        // glommio's handles can only be joined together, and one that failed must not wait for the others.
        let handles = self.threads.handles();
        while !handles.iter().any(|thread| thread.is_finished()) {
            self.pulse();
        }
        stop();
        while !handles.iter().all(|thread| thread.is_finished()) {
            self.pulse();
        }
        // Where io_uring is forbidden, glommio panics as it makes the ring: nothing of ours has run then.
        let nothing_ran = self.begun.load(Ordering::Relaxed) == 0;
        let mut first = Ok(());
        for ended in self.threads.join_all() {
            let ended = match ended {
                Ok(result) => result,
                Err(glommio::GlommioError::BuilderError(glommio::BuilderErrorKind::ThreadPanic(_))) if nothing_ran => {
                    Err(ExecutorError::Start("no ring can be made".to_string()))
                }
                Err(glommio::GlommioError::BuilderError(glommio::BuilderErrorKind::ThreadPanic(_))) => {
                    Err(ExecutorError::Panic)
                }
                Err(error) => Err(ExecutorError::Start(error.to_string())),
            };
            match (&first, ended) {
                (_, Ok(())) => {}
                (Ok(()), error) => first = error,
                (Err(_), Err(error)) => log::error!("{error}"),
            }
        }
        first
    }
}

/// One CPU per shard, as far from each other as they can be; unpinned if there are more shards than CPUs.
fn placement(shards: usize) -> Result<PoolPlacement, ExecutorError> {
    let online = CpuSet::online().map_err(|error| ExecutorError::Start(error.to_string()))?;
    // A container may be kept to some CPUs; pinning to another one fails.
    let allowed = rustix::thread::sched_getaffinity(None).map_err(|error| ExecutorError::Start(error.to_string()))?;
    let usable = online.filter(|cpu| allowed.is_set(cpu.cpu));
    if shards > usable.len() {
        log::warn!(
            "{shards} shards share {} CPUs: they are not pinned, and latencies will be uneven",
            usable.len()
        );
        return Ok(PoolPlacement::Unbound(shards));
    }
    Ok(PoolPlacement::MaxSpread(shards, Some(usable)))
}

/// Memory that each executor registers with its ring, within what an unprivileged process may lock.
fn io_memory_bytes(shards: usize) -> usize {
    const WANTED: u64 = 1 << 20;
    let limit = rustix::process::getrlimit(rustix::process::Resource::Memlock).current;
    let share = limit.map_or(WANTED, |limit| limit / 2 / shards.max(1) as u64);
    (share.clamp(64 << 10, WANTED) & !4095) as usize
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shutdown::Shutdown;
    use std::sync::Mutex;

    const OPTIONS: ExecutorOptions = ExecutorOptions {
        shards: 2,
        preempt_timer: Duration::from_micros(500),
        spin: Duration::ZERO,
    };

    #[test]
    fn every_shard_runs_once_with_its_own_number() {
        let seen = Arc::new(Mutex::new(Vec::new()));
        // More than this machine has CPUs, perhaps: then they are not pinned.
        for shards in [1, 5] {
            let by_shards = seen.clone();
            let shard_main = move |shard| async move {
                by_shards.lock().unwrap().push(shard);
                Ok(())
            };
            start(ExecutorOptions { shards, ..OPTIONS }, shard_main)
                .unwrap()
                .join(|| ())
                .unwrap();
            let mut numbers = std::mem::take(&mut *seen.lock().unwrap());
            numbers.sort();
            assert_eq!(numbers, (0..shards).collect::<Vec<_>>());
        }
    }

    /// With so short a timer tasks are often left runnable by an executor that goes to sleep, those that wait for a timer
    /// among them.
    #[test]
    fn tasks_that_are_left_runnable_go_on() {
        const STEPS: usize = 500;
        let options = ExecutorOptions {
            shards: 1,
            preempt_timer: Duration::from_micros(20),
            ..OPTIONS
        };
        let shard_main = move |_| async move {
            for _ in 0..STEPS {
                glommio::timer::sleep(Duration::from_micros(10)).await;
            }
            Ok(())
        };
        let (tell, ended) = std::sync::mpsc::channel();
        let executors = start(options, shard_main).unwrap();
        std::thread::spawn(move || tell.send(executors.join(|| ()).is_ok()));
        assert_eq!(
            ended.recv_timeout(Duration::from_secs(120)),
            Ok(true),
            "the shard sleeps"
        );
    }

    #[test]
    fn the_failure_of_one_shard_stops_the_others_and_is_reported() {
        let shutdown = Shutdown::new();
        let seen_by_shards = shutdown.clone();
        let shard_main = move |shard| async move {
            if shard == 1 {
                return Err("the disk is gone".into());
            }
            seen_by_shards.requested().await;
            Ok(())
        };
        let ended = start(OPTIONS, shard_main).unwrap().join(|| shutdown.request());
        assert_eq!(ended.unwrap_err().to_string(), "shard 1: the disk is gone");
    }

    #[test]
    fn a_panic_of_one_shard_is_an_error_of_all() {
        let shutdown = Shutdown::new();
        let seen_by_shards = shutdown.clone();
        let shard_main = move |shard| async move {
            assert_ne!(shard, 0, "a shard that fails on purpose");
            seen_by_shards.requested().await;
            Ok(())
        };
        let ended = start(OPTIONS, shard_main).unwrap().join(|| shutdown.request());
        assert!(matches!(ended, Err(ExecutorError::Panic)));
    }
}
