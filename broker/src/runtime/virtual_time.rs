//! A runtime for tests: time is virtual, and moves when nothing else can.

use super::{Instant, Runtime};
use futures::channel::oneshot;
use futures::executor::{LocalPool, LocalSpawner};
use futures::task::LocalSpawnExt;
use kafscale_storage_engine::object_store::LocalFuture;
use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::future::Future;
use std::rc::Rc;
use std::time::Duration;

/// The runtime. Its tasks run on the pool that came with it.
pub(crate) struct TestRuntime {
    now: Cell<Duration>,
    timers: RefCell<BTreeMap<(Duration, u64), oneshot::Sender<()>>>,
    spawner: LocalSpawner,
    random: Cell<u64>,
}

impl TestRuntime {
    pub fn new(seed: u64) -> (LocalPool, Rc<TestRuntime>) {
        let pool = LocalPool::new();
        let runtime = TestRuntime {
            now: Cell::default(),
            timers: RefCell::default(),
            spawner: pool.spawner(),
            random: Cell::new(seed),
        };
        (pool, Rc::new(runtime))
    }

    /// Runs until `task` is done; time passes as needed.
    pub fn run<T: 'static>(&self, pool: &mut LocalPool, task: impl Future<Output = T> + 'static) -> T {
        let result = Rc::new(RefCell::new(None));
        let noted = result.clone();
        self.spawn("test", Box::pin(async move { *noted.borrow_mut() = Some(task.await) }));
        loop {
            pool.run_until_stalled();
            if let Some(result) = result.borrow_mut().take() {
                return result;
            }
            let first = self.timers.borrow_mut().pop_first();
            let ((at, _), timer) = first.expect("somebody waits for nothing");
            self.now.set(at.max(self.now.get()));
            let _ = timer.send(());
        }
    }
}

impl Runtime for TestRuntime {
    fn now(&self) -> Instant {
        self.now.get()
    }

    fn wall_clock_ms(&self) -> i64 {
        1_700_000_000_000 + self.now.get().as_millis() as i64
    }

    fn sleep(&self, duration: Duration) -> LocalFuture<'static, ()> {
        let (sender, receiver) = oneshot::channel();
        self.timers
            .borrow_mut()
            .insert((self.now.get() + duration, self.random_u64()), sender);
        Box::pin(async move {
            let _ = receiver.await;
        })
    }

    fn spawn(&self, _name: &'static str, task: LocalFuture<'static, ()>) {
        self.spawner.spawn_local(task).unwrap();
    }

    fn yield_now(&self) -> LocalFuture<'static, ()> {
        Box::pin(std::future::ready(()))
    }

    fn random_u64(&self) -> u64 {
        // SplitMix64.
        let mut z = self.random.get().wrapping_add(0x9e37_79b9_7f4a_7c15);
        self.random.set(z);
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
}
