//! The members of etcd, one client each, and calls that go from one to the next.
//!
//! The client library can balance over several endpoints, but then a dead one fails its share of the calls for good. So
//! each endpoint has a client of its own, the one in use stays in use until it fails, and a client that failed is thrown
//! away with its connection: a connection that hangs would go on hanging.

use super::config::Resolved;
use super::failure::Failure;
use etcd_client::{Client, ConnectOptions};
use std::cell::{Cell, RefCell};
use std::future::Future;
use std::time::Duration;
use tokio::time::Instant;

/// Pause after all endpoints have failed in turn.
const RETRY_PAUSE: Duration = Duration::from_millis(100);
/// Pause between two lines about failing endpoints.
const TELL_PAUSE: Duration = Duration::from_secs(5);
/// An attempt of a read leaves time for so many others, as far as there are endpoints for them.
const READ_ATTEMPTS: u32 = 3;

pub(super) struct Endpoints {
    all: Vec<Endpoint>,
    current: Cell<usize>,
    /// When a change of the endpoint was last logged.
    told: Cell<Option<Instant>>,
    options: ConnectOptions,
    pub deadline: Duration,
}

struct Endpoint {
    url: String,
    client: RefCell<Option<Live>>,
    /// Held while a client is made, so that many calls make one.
    making: tokio::sync::Mutex<()>,
    made: Cell<u64>,
}

/// A client, and which one of its endpoint it is.
#[derive(Clone)]
struct Live {
    client: Client,
    number: u64,
}

impl Endpoints {
    pub fn new(settings: &Resolved) -> Self {
        // An endpoint that cannot be reached leaves time for the others, for writes too.
        let connect_timeout = settings
            .connect_timeout
            .min(settings.request_deadline / rounds(settings.urls.len()));
        // A member that has lost the others answers nothing and ends watches, instead of serving what it remembers.
        let mut options = ConnectOptions::new()
            .with_require_leader(true)
            .with_connect_timeout(connect_timeout);
        if let Some((name, password)) = &settings.user {
            options = options.with_user(name, password);
        }
        if let Some(tls) = &settings.tls {
            options = options.with_tls(tls.clone());
        }
        let endpoint = |url: &String| Endpoint {
            url: url.clone(),
            client: RefCell::new(None),
            making: tokio::sync::Mutex::new(()),
            made: Cell::new(0),
        };
        Endpoints {
            all: settings.urls.iter().map(endpoint).collect(),
            current: Cell::new(0),
            told: Cell::new(None),
            options,
            deadline: settings.request_deadline,
        }
    }

    pub fn len(&self) -> usize {
        self.all.len()
    }

    /// Reads: tried at one endpoint after another until the deadline, whatever became of the attempts before.
    pub async fn read<T>(&self, call: impl AsyncFn(Client) -> Result<T, etcd_client::Error>) -> Result<T, Failure> {
        self.read_at(call).await.map(|(_, answer)| answer)
    }

    /// Reads, and tells which endpoint answered.
    pub async fn read_at<T>(
        &self,
        call: impl AsyncFn(Client) -> Result<T, etcd_client::Error>,
    ) -> Result<(usize, T), Failure> {
        let attempt = self.deadline / rounds(self.len());
        self.attempts(attempt, &call, Failure::lets_reads_go_on).await
    }

    /// Writes: tried at another endpoint only if the attempt before surely did nothing.
    pub async fn write<T>(&self, call: impl AsyncFn(Client) -> Result<T, etcd_client::Error>) -> Result<T, Failure> {
        self.attempts(self.deadline, &call, Failure::lets_writes_go_on)
            .await
            .map(|(_, answer)| answer)
    }

    async fn attempts<T>(
        &self,
        attempt_limit: Duration,
        call: &impl AsyncFn(Client) -> Result<T, etcd_client::Error>,
        goes_on: impl Fn(&Failure) -> bool,
    ) -> Result<(usize, T), Failure> {
        let deadline = Instant::now() + self.deadline;
        let mut failed = 0;
        loop {
            let at = self.current.get();
            let until = deadline.min(Instant::now() + attempt_limit);
            let failure = match self.attempt(at, until, call).await {
                Ok(answer) => return Ok((at, answer)),
                Err(failure) => failure,
            };
            if !goes_on(&failure) || Instant::now() >= deadline {
                return Err(failure);
            }
            failed += 1;
            if failed % self.len() == 0 {
                if Instant::now() + RETRY_PAUSE >= deadline {
                    return Err(failure);
                }
                tokio::time::sleep(RETRY_PAUSE).await;
            }
        }
    }

    /// One call at one endpoint. If that is at fault, its client goes, and the next call begins elsewhere.
    async fn attempt<T>(
        &self,
        at: usize,
        until: Instant,
        call: &impl AsyncFn(Client) -> Result<T, etcd_client::Error>,
    ) -> Result<T, Failure> {
        let endpoint = &self.all[at];
        let late = |phase: &str| format!("{}: {phase} in time", endpoint.url);
        let made = tokio::time::timeout_at(until, endpoint.client(&self.options)).await;
        let live = match made.unwrap_or_else(|_| Err(Failure::NotApplied(late("no connection")))) {
            Ok(live) => live,
            Err(failure) => {
                let failure = endpoint.named(failure);
                self.leave(at, &failure);
                return Err(failure);
            }
        };
        let called = tokio::time::timeout_at(until, call(live.client.clone())).await;
        match called.map(|result| result.map_err(Failure::from)) {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(failure)) => {
                let failure = endpoint.named(failure);
                self.blame(at, &live, &failure);
                Err(failure)
            }
            Err(_) => {
                let failure = Failure::Unknown(late("no answer"));
                self.blame(at, &live, &failure);
                Err(failure)
            }
        }
    }

    fn blame(&self, at: usize, live: &Live, failure: &Failure) {
        if failure.blames_endpoint() || matches!(failure, Failure::TokenRefused(_)) {
            self.all[at].discard(live.number);
        }
        self.leave(at, failure);
    }

    /// Lets the next call begin elsewhere, if a failure is the endpoint's fault.
    pub fn leave(&self, at: usize, failure: &Failure) {
        if failure.blames_endpoint() && self.current.get() == at {
            let next = (at + 1) % self.len();
            if next != at && self.may_tell() {
                log::warn!("etcd: {failure}; {} is next", self.all[next].url);
            }
            self.current.set(next);
        }
    }

    /// With all members away every call would tell of it several times.
    fn may_tell(&self) -> bool {
        let now = Instant::now();
        let due = self.told.get().is_none_or(|told| now - told >= TELL_PAUSE);
        if due {
            self.told.set(Some(now));
        }
        due
    }

    /// Tries every endpoint until one answers or the time is over; the failure of each.
    pub async fn first_answer(
        &self,
        limit: Duration,
        call: impl AsyncFn(Client) -> Result<(), etcd_client::Error>,
    ) -> Result<(), Vec<Failure>> {
        let deadline = Instant::now() + limit;
        loop {
            let mut failures = Vec::new();
            for at in 0..self.len() {
                // Each gets its share, however long those before it hang.
                let left = deadline.saturating_duration_since(Instant::now());
                let share = (left / (self.len() - at) as u32).max(RETRY_PAUSE);
                match self.attempt(at, Instant::now() + share, &call).await {
                    Ok(()) => {
                        self.current.set(at);
                        return Ok(());
                    }
                    Err(failure) => failures.push(failure),
                }
            }
            let heals = failures.iter().all(Failure::may_heal);
            if !heals || Instant::now() + RETRY_PAUSE >= deadline {
                return Err(failures);
            }
            tokio::time::sleep(RETRY_PAUSE).await;
        }
    }
}

/// Attempts that fit into a deadline, one for each endpoint.
fn rounds(endpoints: usize) -> u32 {
    u32::try_from(endpoints)
        .unwrap_or(READ_ATTEMPTS)
        .clamp(1, READ_ATTEMPTS)
}

impl Endpoint {
    /// The client, made if there is none: that authenticates, and otherwise only prepares.
    async fn client(&self, options: &ConnectOptions) -> Result<Live, Failure> {
        if let Some(live) = self.client.borrow().clone() {
            return Ok(live);
        }
        let _making = self.making.lock().await;
        if let Some(live) = self.client.borrow().clone() {
            return Ok(live);
        }
        let client = connect(&self.url, options)
            .await
            .map_err(|error| match Failure::from(error) {
                // It was but an attempt to authenticate.
                Failure::Unknown(why) => Failure::NotApplied(why),
                Failure::TlsBroken(why) => Failure::Tls(why),
                other => other,
            })?;
        let number = self.made.get() + 1;
        self.made.set(number);
        let live = Live { client, number };
        *self.client.borrow_mut() = Some(live.clone());
        Ok(live)
    }

    /// Throws a client away, unless another has taken its place already.
    fn discard(&self, number: u64) {
        let mut client = self.client.borrow_mut();
        if client.as_ref().is_some_and(|live| live.number == number) {
            *client = None;
        }
    }

    fn named(&self, failure: Failure) -> Failure {
        let named = |why: String| format!("{}: {why}", self.url);
        match failure {
            Failure::NotApplied(why) => Failure::NotApplied(named(why)),
            Failure::Unknown(why) => Failure::Unknown(named(why)),
            Failure::Full(why) => Failure::Full(named(why)),
            Failure::TokenRefused(why) => Failure::TokenRefused(named(why)),
            Failure::Tls(why) => Failure::Tls(named(why)),
            Failure::TlsBroken(why) => Failure::TlsBroken(named(why)),
            Failure::Refused(why) => Failure::Refused(named(why)),
            Failure::TooLarge(why) => Failure::TooLarge(named(why)),
            Failure::LeaseNotFound => failure,
        }
    }
}

/// Boxed, since the future is large and rarely needed.
fn connect<'a>(
    url: &'a str,
    options: &'a ConnectOptions,
) -> std::pin::Pin<Box<dyn Future<Output = Result<Client, etcd_client::Error>> + 'a>> {
    Box::pin(Client::connect([url], Some(options.clone())))
}
