//! One thread that plays all machines: tasks run in an order drawn from the seed, and time passes when nothing is ready.

use crate::random::Random;
use kafscale_broker::runtime::{Instant, Runtime};
use kafscale_storage_engine::object_store::LocalFuture;
use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

/// Milliseconds since the Unix epoch when every run begins.
pub const EPOCH_MS: i64 = 1_700_000_000_000;

/// A machine's process: its tasks die together.
pub type ProcessId = usize;

/// What happens outside of all processes: requests on their way, clocks of the stores.
pub const ENVIRONMENT: ProcessId = 0;

type TaskId = u64;

/// Tasks that want to run.
#[derive(Default)]
struct Ready(Mutex<Vec<TaskId>>);

impl Ready {
    fn push(&self, task: TaskId) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(task);
    }
}

struct TaskWaker {
    task: TaskId,
    queued: AtomicBool,
    ready: Arc<Ready>,
}

impl Wake for TaskWaker {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        if !self.queued.swap(true, Ordering::Relaxed) {
            self.ready.push(self.task);
        }
    }
}

struct Task {
    process: ProcessId,
    name: &'static str,
    /// Absent while it is polled.
    future: Option<LocalFuture<'static, ()>>,
    waker: Arc<TaskWaker>,
}

#[derive(Default)]
struct Process {
    dead: bool,
    /// Stands still until this time; what is ready meanwhile waits in `parked`.
    stalled_until: Option<Instant>,
    parked: Vec<TaskId>,
    /// Since when its machine is suspended, and by how much its monotonic clock is behind because of that.
    suspended: Option<(Instant, Lag)>,
}

/// By how much a machine's monotonic clock is behind: for so long it was suspended.
pub type Lag = Rc<Cell<Duration>>;

enum Timer {
    Wake(Waker),
    Resume(ProcessId),
}

struct Inner {
    now: Instant,
    random: Random,
    tasks: BTreeMap<TaskId, Task>,
    next_task: TaskId,
    timers: BTreeMap<(Instant, u64), Timer>,
    next_timer: u64,
    processes: Vec<Process>,
    /// A hash like FNV-1a, of words, over what ran when.
    trace: u64,
    steps: u64,
    violation: Option<String>,
}

/// The simulated world. Clones share it.
#[derive(Clone)]
pub struct World {
    inner: Rc<RefCell<Inner>>,
    ready: Arc<Ready>,
}

impl World {
    /// A world in which nothing runs yet.
    pub fn new(seed: u64) -> Self {
        let inner = Inner {
            now: Duration::ZERO,
            random: Random::new(seed),
            tasks: BTreeMap::new(),
            next_task: 0,
            timers: BTreeMap::new(),
            next_timer: 0,
            processes: vec![Process::default()],
            trace: 0xcbf2_9ce4_8422_2325,
            steps: 0,
            violation: None,
        };
        World {
            inner: Rc::new(RefCell::new(inner)),
            ready: Arc::default(),
        }
    }

    /// Time since the run began.
    pub fn now(&self) -> Instant {
        self.inner.borrow().now
    }

    /// Draws from the seed.
    pub fn draw<T>(&self, draw: impl FnOnce(&mut Random) -> T) -> T {
        draw(&mut self.inner.borrow_mut().random)
    }

    /// A hash of all that ran, in order and with its time.
    pub fn trace(&self) -> u64 {
        self.inner.borrow().trace
    }

    /// How many steps tasks have made.
    pub fn steps(&self) -> u64 {
        self.inner.borrow().steps
    }

    /// Says that a promise was broken; the first one counts, and ends the run.
    pub fn violate(&self, what: String) {
        let mut inner = self.inner.borrow_mut();
        let at = inner.now;
        inner.violation.get_or_insert_with(|| format!("at {at:?}: {what}"));
    }

    /// The promise that was broken.
    pub fn violation(&self) -> Option<String> {
        self.inner.borrow().violation.clone()
    }

    /// A new process.
    pub fn new_process(&self) -> ProcessId {
        let mut inner = self.inner.borrow_mut();
        inner.processes.push(Process::default());
        inner.processes.len() - 1
    }

    /// Ends a process as SIGKILL does: in the middle of whatever it does.
    pub fn kill(&self, process: ProcessId) {
        let mut inner = self.inner.borrow_mut();
        inner.processes[process].dead = true;
        // Its machine goes on, and the next process there must not see its clock go back later.
        let now = inner.now;
        if let Some((since, lag)) = inner.processes[process].suspended.take() {
            lag.set(lag.get() + (now - since));
        }
        let tasks = std::mem::take(&mut inner.tasks);
        let (dead, alive) = tasks.into_iter().partition(|(_, task)| task.process == process);
        inner.tasks = alive;
        drop(inner);
        // What they hold may look at the world as it goes.
        let dead: BTreeMap<TaskId, Task> = dead;
        drop(dead);
    }

    /// Ends all processes: tasks hold the world, and the world holds them.
    pub fn end(&self) {
        let processes = self.inner.borrow().processes.len();
        (0..processes).for_each(|process| self.kill(process));
        self.inner.borrow_mut().timers.clear();
    }

    /// Stops a process for a while, as SIGSTOP does: it wakes without knowing that time has passed.
    pub fn stall(&self, process: ProcessId, pause: Duration) {
        let mut inner = self.inner.borrow_mut();
        let until = inner.now + pause;
        inner.processes[process].stalled_until = Some(until);
        inner.add_timer(until, Timer::Resume(process));
    }

    /// Stops a process with its whole machine: its monotonic clock stands still too.
    pub fn suspend(&self, process: ProcessId, pause: Duration, lag: Lag) {
        self.stall(process, pause);
        let mut inner = self.inner.borrow_mut();
        let now = inner.now;
        inner.processes[process].suspended.get_or_insert((now, lag));
    }

    /// Lets a stalled process go on.
    pub fn resume(&self, process: ProcessId) {
        let mut inner = self.inner.borrow_mut();
        let now = inner.now;
        inner.processes[process].stalled_until = None;
        if let Some((since, lag)) = inner.processes[process].suspended.take() {
            lag.set(lag.get() + (now - since));
        }
        let parked = std::mem::take(&mut inner.processes[process].parked);
        parked.into_iter().for_each(|task| self.ready.push(task));
    }

    /// Runs a task of a process.
    pub fn spawn(&self, process: ProcessId, name: &'static str, future: LocalFuture<'static, ()>) {
        let mut inner = self.inner.borrow_mut();
        if inner.processes[process].dead {
            drop(inner);
            drop(future);
            return;
        }
        let task = inner.next_task;
        inner.next_task += 1;
        let waker = Arc::new(TaskWaker {
            task,
            queued: AtomicBool::new(true),
            ready: self.ready.clone(),
        });
        let entry = Task {
            process,
            name,
            future: Some(future),
            waker,
        };
        inner.tasks.insert(task, entry);
        self.ready.push(task);
    }

    /// Completes `duration` from now.
    pub fn sleep(&self, duration: Duration) -> Sleep {
        Sleep {
            world: self.clone(),
            until: self.now() + duration,
            timer: None,
        }
    }

    /// Runs until `until`, or until a promise is broken, or until `done` says so, which is asked now and then.
    pub fn run(&self, until: Instant, done: impl Fn() -> bool) {
        let mut steps = 0u32;
        while self.now() < until && self.inner.borrow().violation.is_none() {
            steps = steps.wrapping_add(1);
            if steps.is_multiple_of(64) && done() {
                return;
            }
            if !self.step() && !self.pass_time() {
                return;
            }
        }
    }

    /// Lets one ready task make a step. False if none is ready.
    fn step(&self) -> bool {
        let mut inner = self.inner.borrow_mut();
        let task = {
            let mut ready = self.ready.0.lock().unwrap_or_else(PoisonError::into_inner);
            if ready.is_empty() {
                return false;
            }
            let at = inner.random.below(ready.len() as u64) as usize;
            ready.swap_remove(at)
        };
        let Some(entry) = inner.tasks.get_mut(&task) else {
            return true;
        };
        let (process, name, waker) = (entry.process, entry.name, entry.waker.clone());
        let now = inner.now;
        let state = &mut inner.processes[process];
        if state.stalled_until.is_some_and(|until| until > now) {
            state.parked.push(task);
            return true;
        }
        let future = inner.tasks.get_mut(&task).and_then(|entry| entry.future.take());
        inner.note(task, name);
        drop(inner);
        let Some(mut future) = future else {
            return true;
        };
        waker.queued.store(false, Ordering::Relaxed);
        let poll = future.as_mut().poll(&mut Context::from_waker(&Waker::from(waker)));
        let mut inner = self.inner.borrow_mut();
        match (poll, inner.tasks.get_mut(&task)) {
            (Poll::Pending, Some(entry)) => entry.future = Some(future),
            (_, entry) => {
                let ended = entry.is_some().then(|| inner.tasks.remove(&task));
                drop(inner);
                drop((ended, future));
            }
        }
        true
    }

    /// Goes to the next timer. False if there is none: then nothing will ever happen again.
    fn pass_time(&self) -> bool {
        let mut inner = self.inner.borrow_mut();
        let Some(((at, _), timer)) = inner.timers.pop_first() else {
            return false;
        };
        inner.now = at;
        match timer {
            Timer::Wake(waker) => waker.wake(),
            Timer::Resume(process) => {
                let state = &inner.processes[process];
                if state.stalled_until.is_some_and(|until| until <= at) {
                    drop(inner);
                    self.resume(process);
                }
            }
        }
        true
    }
}

impl Inner {
    fn add_timer(&mut self, at: Instant, timer: Timer) -> (Instant, u64) {
        let key = (at, self.next_timer);
        self.next_timer += 1;
        self.timers.insert(key, timer);
        key
    }

    fn note(&mut self, task: TaskId, name: &str) {
        self.steps += 1;
        let name = name.len() as u64 ^ name.bytes().fold(0, |name, byte| (name << 5) ^ u64::from(byte));
        for word in [self.now.as_nanos() as u64, task, name] {
            // The multiplication carries upwards only: what is at the top has to come down again.
            self.trace = (self.trace ^ word).wrapping_mul(0x0100_0000_01b3).rotate_left(29);
        }
    }
}

/// A pause.
pub struct Sleep {
    world: World,
    until: Instant,
    timer: Option<(Instant, u64)>,
}

impl Future for Sleep {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        let world = self.world.clone();
        let mut inner = world.inner.borrow_mut();
        if inner.now >= self.until {
            return Poll::Ready(());
        }
        let timer = Timer::Wake(context.waker().clone());
        match self.timer {
            Some(key) => drop(inner.timers.insert(key, timer)),
            None => self.timer = Some(inner.add_timer(self.until, timer)),
        }
        Poll::Pending
    }
}

impl Drop for Sleep {
    fn drop(&mut self) {
        if let Some(key) = self.timer {
            self.world.inner.borrow_mut().timers.remove(&key);
        }
    }
}

/// Ready at the second look.
struct YieldOnce(bool);

impl Future for YieldOnce {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        if self.0 {
            return Poll::Ready(());
        }
        self.0 = true;
        context.waker().wake_by_ref();
        Poll::Pending
    }
}

/// A process's time and tasks.
pub struct SimRuntime {
    world: World,
    process: ProcessId,
    /// How far its machine's wall clock is off.
    skew_ms: Rc<Cell<i64>>,
    lag: Lag,
}

impl SimRuntime {
    /// The runtime of `process`, on a machine whose wall clock is `skew_ms` ahead and whose monotonic one is behind.
    pub fn new(world: &World, process: ProcessId, skew_ms: Rc<Cell<i64>>, lag: Lag) -> Rc<Self> {
        Rc::new(SimRuntime {
            world: world.clone(),
            process,
            skew_ms,
            lag,
        })
    }
}

impl Runtime for SimRuntime {
    fn now(&self) -> Instant {
        self.world.now().saturating_sub(self.lag.get())
    }

    fn boot_time(&self) -> Instant {
        self.world.now()
    }

    fn wall_clock_ms(&self) -> i64 {
        EPOCH_MS + self.skew_ms.get() + self.world.now().as_millis() as i64
    }

    fn sleep(&self, duration: Duration) -> LocalFuture<'static, ()> {
        let (world, lag, until) = (self.world.clone(), self.lag.clone(), self.now() + duration);
        Box::pin(async move {
            let left = || until.saturating_sub(world.now().saturating_sub(lag.get()));
            while !left().is_zero() {
                world.sleep(left()).await;
            }
        })
    }

    fn spawn(&self, name: &'static str, task: LocalFuture<'static, ()>) {
        self.world.spawn(self.process, name, task);
    }

    fn yield_now(&self) -> LocalFuture<'static, ()> {
        Box::pin(YieldOnce(false))
    }

    fn random_u64(&self) -> u64 {
        self.world.draw(Random::bits)
    }
}
