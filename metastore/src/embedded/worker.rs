//! The thread of the embedded metastore: applies, commits, answers.
//!
//! A commit that finds no room has changed nothing: the file is opened again, and the store goes on. After any other failed
//! commit nobody knows what the disk has, and the page cache must not be asked: the thread reports the failure, so that
//! the process ends, and until then refuses everything.

use super::disk::{describe, is_full, Disk, OpenError, OpenFile};
use crate::history::{HistoryWatch, SharedHistory};
use crate::request::Reply;
use crate::state::State;
use crate::store::{MetastoreError, WatchEvent};
use async_channel::Receiver;
use std::future::Future;
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};
use std::thread::Thread;
use std::time::{Duration, Instant};

/// Requests that share one commit at most: bounds how long the first of them waits.
const BATCH_MAX: usize = 256;
/// Pause between two attempts to open the file again after it failed.
const REOPEN_PAUSE: Duration = Duration::from_millis(500);

/// What the thread owns.
pub(super) struct Worker {
    directory: PathBuf,
    open_file: OpenFile,
    started: Instant,
    store: Store,
    on_failure: OnFailure,
}

/// Told once why the store has ended. What it does is expected to end the process.
pub(super) type OnFailure = Box<dyn Fn(&str) + Send>;

enum Store {
    Open(Open),
    /// The file found no room, and could not be opened again.
    Down {
        why: String,
        retry: Instant,
    },
    /// Nobody knows what the disk has.
    Failed {
        why: String,
    },
}

struct Open {
    disk: Disk,
    state: State,
    history: SharedHistory,
}

/// What is known of a batch after its commit.
#[derive(Clone)]
enum Committed {
    Yes,
    /// Nothing of it was applied.
    No(String),
    /// The file failed on the way.
    Unknown(String),
}

type Request = crate::request::Request<HistoryWatch>;
type Answer = Box<dyn FnOnce(&Committed)>;

enum Received {
    Request(Request),
    DeadlineReached,
    Closed,
}

impl Worker {
    pub fn open(directory: &Path, open_file: OpenFile, on_failure: OnFailure) -> Result<Self, OpenError> {
        let store = Store::Open(Open::new(directory, &open_file)?);
        Ok(Worker {
            directory: directory.to_path_buf(),
            open_file,
            started: Instant::now(),
            store,
            on_failure,
        })
    }

    /// Serves until every handle is gone and every request answered.
    pub fn run(mut self, inbox: &Receiver<Request>) {
        loop {
            let mut batch = match receive(inbox, self.deadline()) {
                Received::Request(request) => vec![request],
                Received::DeadlineReached => Vec::new(),
                Received::Closed => break,
            };
            while let Some(request) = (batch.len() < BATCH_MAX).then(|| inbox.try_recv().ok()).flatten() {
                batch.push(request);
            }
            self.serve(batch);
        }
        if let Store::Open(open) = &self.store {
            open.history
                .close(MetastoreError::Unavailable("the metastore was closed".to_string()));
        }
    }

    /// When to go on without a request.
    fn deadline(&self) -> Option<Instant> {
        match &self.store {
            Store::Open(open) => open
                .state
                .next_expiry_ms()
                .map(|at| self.started + Duration::from_millis(at)),
            Store::Down { .. } | Store::Failed { .. } => None,
        }
    }

    fn serve(&mut self, batch: Vec<Request>) {
        let now_ms = self.started.elapsed().as_millis() as u64;
        self.reopen_if_due();
        let open = match &mut self.store {
            Store::Open(open) => open,
            Store::Down { why, .. } | Store::Failed { why } => {
                batch.into_iter().for_each(|request| refuse(request, why));
                return;
            }
        };
        let mut events = Vec::new();
        let answers: Vec<_> = batch
            .into_iter()
            .map(|request| open.apply(request, now_ms, &mut events))
            .collect();
        // Renewals that waited behind a slow commit count: they are applied above, before anything expires.
        events.extend(open.state.expire(now_ms));
        let committed = self.commit(events);
        answers.into_iter().for_each(|answer| answer(&committed));
    }

    fn commit(&mut self, events: Vec<WatchEvent>) -> Committed {
        let Store::Open(open) = &mut self.store else {
            unreachable!("the caller has just applied the batch to the open store");
        };
        if events.is_empty() {
            return Committed::Yes;
        }
        let revision = open.state.revision();
        match open.disk.commit(&events, revision) {
            Ok(()) => {
                open.history.publish(events);
                Committed::Yes
            }
            Err(error) => {
                let why = describe(&error);
                log::error!("commit of metastore revision {revision}: {why}");
                match is_full(&error) && !open.disk.is_doubtful() {
                    true => self.recover(why, revision),
                    false => self.fail(why),
                }
            }
        }
    }

    /// Ends the store: neither memory nor the page cache knows what the disk has.
    fn fail(&mut self, why: String) -> Committed {
        // Watches end with the state.
        self.store = Store::Failed { why: why.clone() };
        (self.on_failure)(&why);
        Committed::Unknown(why)
    }

    /// The state in memory is ahead of the file: go back to what the file says. Watches and leases end.
    fn recover(&mut self, why: String, revision: u64) -> Committed {
        let down = Store::Down {
            why: why.clone(),
            retry: Instant::now(),
        };
        // The failed file is closed first; it locks out even ourselves.
        drop(std::mem::replace(&mut self.store, down));
        self.reopen_if_due();
        match &self.store {
            Store::Open(open) if open.state.revision() < revision => Committed::No(why),
            Store::Open(_) | Store::Down { .. } | Store::Failed { .. } => Committed::Unknown(why),
        }
    }

    fn reopen_if_due(&mut self) {
        let Store::Down { why, retry } = &mut self.store else {
            return;
        };
        if Instant::now() < *retry {
            return;
        }
        match Open::new(&self.directory, &self.open_file) {
            Ok(open) => {
                log::info!("the metastore is open again at revision {}", open.state.revision());
                self.store = Store::Open(open);
            }
            Err(error) if error.is_full() => {
                log::error!("open the metastore again: {error}");
                *why = error.to_string();
                *retry = Instant::now() + REOPEN_PAUSE;
            }
            Err(error) => {
                self.fail(format!("open the metastore again: {error}"));
            }
        }
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        // However it came to this, nobody must wait for changes that never come.
        self.history
            .close(MetastoreError::Unavailable("the metastore was closed".to_string()));
    }
}

impl Open {
    fn new(directory: &Path, open_file: &OpenFile) -> Result<Self, OpenError> {
        let (disk, state) = Disk::open(directory, open_file)?;
        let history = SharedHistory::after(state.revision());
        Ok(Open { disk, state, history })
    }

    /// Applies a request in memory; its answer waits for the commit.
    fn apply(&mut self, request: Request, now_ms: u64, events: &mut Vec<WatchEvent>) -> Answer {
        let mut changed = |(value, changes): (_, Vec<WatchEvent>)| {
            events.extend(changes);
            value
        };
        match request {
            Request::Get { key, reply } => answer_read(reply, Ok(self.state.get(&key))),
            Request::Range {
                start,
                end,
                limit,
                reply,
            } => answer_read(reply, Ok(self.state.range(&start, &end, limit))),
            Request::Txn { txn, reply } => answer_write(reply, self.state.apply(&txn).map(&mut changed)),
            Request::Watch { prefix, from, reply } => answer_read(reply, self.history.watch(prefix, from)),
            Request::Grant { ttl_ms, reply } => answer_read(reply, Ok(self.state.grant(ttl_ms, now_ms))),
            Request::KeepAlive { lease, reply } => answer_read(reply, self.state.keep_alive(lease, now_ms)),
            Request::Revoke { lease, reply } => {
                let revoked = self.state.revoke(lease).map(|changes| events.extend(changes));
                answer_write(reply, revoked)
            }
        }
    }
}

/// An answer that shows the state: void if the state was not committed.
fn answer_read<T: 'static>(reply: Reply<T>, result: Result<T, MetastoreError>) -> Answer {
    Box::new(move |committed| {
        let result = match committed {
            Committed::Yes => result,
            Committed::No(why) | Committed::Unknown(why) => Err(MetastoreError::Unavailable(why.clone())),
        };
        // A caller that has stopped waiting wants no answer.
        let _ = reply.send(result);
    })
}

fn answer_write<T: 'static>(reply: Reply<T>, result: Result<T, MetastoreError>) -> Answer {
    Box::new(move |committed| {
        let result = match committed {
            Committed::Yes => result,
            Committed::No(why) => Err(MetastoreError::Unavailable(why.clone())),
            Committed::Unknown(why) => Err(MetastoreError::OutcomeUnknown(why.clone())),
        };
        let _ = reply.send(result);
    })
}

fn refuse(request: Request, why: &str) {
    fn send<T>(reply: Reply<T>, why: &str) {
        let _ = reply.send(Err(MetastoreError::Unavailable(why.to_string())));
    }
    match request {
        Request::Get { reply, .. } => send(reply, why),
        Request::Range { reply, .. } => send(reply, why),
        Request::Txn { reply, .. } => send(reply, why),
        Request::Watch { reply, .. } => send(reply, why),
        Request::Grant { reply, .. } => send(reply, why),
        Request::KeepAlive { reply, .. } => send(reply, why),
        Request::Revoke { reply, .. } => send(reply, why),
    }
}

struct Unpark(Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

/// Waits for a request, at most until the deadline.
fn receive(inbox: &Receiver<Request>, deadline: Option<Instant>) -> Received {
    let waker = Waker::from(Arc::new(Unpark(std::thread::current())));
    let mut context = Context::from_waker(&waker);
    let mut next = pin!(inbox.recv());
    loop {
        match next.as_mut().poll(&mut context) {
            Poll::Ready(Ok(request)) => return Received::Request(request),
            Poll::Ready(Err(_)) => return Received::Closed,
            Poll::Pending => {}
        }
        match deadline.map(|deadline| deadline.saturating_duration_since(Instant::now())) {
            None => std::thread::park(),
            Some(Duration::ZERO) => return Received::DeadlineReached,
            Some(left) => std::thread::park_timeout(left),
        }
    }
}
