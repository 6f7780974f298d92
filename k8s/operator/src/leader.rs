//! Of several replicas of the operator one leads, and only the leader writes: whoever holds the Lease.
//!
//! Clocks of machines are not compared. A replica takes the Lease when it has seen it unchanged for as long as it is
//! valid, by its own clock; the leader stops well before that (`RENEWAL_SHARE`), counted from when it asked.

use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta};
use k8s_openapi::jiff::Timestamp;
use kube::api::PostParams;
use kube::{Api, Client};
use std::future::Future;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Name of the Lease.
pub const LEASE: &str = "kafscale-operator";
/// Which part of the Lease's duration a leader may go without renewing it, as a fraction.
const RENEWAL_SHARE: (u32, u32) = (2, 3);
/// How often a Lease is looked at within its duration.
const LOOKS: u32 = 6;

/// Until when this process leads. Shared with everything that writes.
#[derive(Debug, Default)]
pub struct Leadership(Mutex<Option<Instant>>);

impl Leadership {
    /// Until when this process may write; none if it does not lead.
    pub fn until(&self, now: Instant) -> Option<Instant> {
        self.get().filter(|until| now < *until)
    }

    fn get(&self) -> Option<Instant> {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn set(&self, until: Option<Instant>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = until;
    }
}

/// What to do about the Lease.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Decision {
    /// Nobody ever held it.
    Create,
    /// It is ours.
    Renew,
    /// It was given up, or its holder is silent.
    Take,
    /// Somebody else leads.
    Wait,
}

fn decide(found: Option<&LeaseSpec>, me: &str, unchanged_for: Duration) -> Decision {
    let Some(lease) = found else { return Decision::Create };
    let holder = lease.holder_identity.as_deref().unwrap_or_default();
    let seconds = lease.lease_duration_seconds.unwrap_or_default();
    let valid_for = Duration::from_secs(u64::try_from(seconds).unwrap_or_default());
    match holder {
        "" => Decision::Take,
        holder if holder == me => Decision::Renew,
        _ if unchanged_for >= valid_for => Decision::Take,
        _ => Decision::Wait,
    }
}

/// A candidate.
pub struct Election {
    leases: Api<Lease>,
    me: String,
    duration: Duration,
    leadership: Arc<Leadership>,
    /// The Lease as it was last seen to change, and when that was.
    seen: Option<(Option<String>, Instant)>,
}

impl Election {
    /// A candidate named `me`, which no other may be called.
    pub fn new(client: Client, namespace: &str, me: String, duration: Duration, leadership: Arc<Leadership>) -> Self {
        Election {
            leases: Api::namespaced(client, namespace),
            me,
            duration,
            leadership,
            seen: None,
        }
    }

    /// Does `work` whenever this process leads, until it comes to its end by itself or `stop` does. Work that was begun
    /// is dropped where the leadership ends.
    pub async fn lead<W: Future<Output = ()>>(&mut self, work: impl Fn() -> W, stop: impl Future<Output = ()>) {
        let stop = std::pin::pin!(stop);
        tokio::select! {
            () = self.lead_for_ever(work) => {}
            () = stop => {}
        }
        self.leadership.set(None);
        self.give_up().await;
    }

    async fn lead_for_ever<W: Future<Output = ()>>(&mut self, work: impl Fn() -> W) {
        loop {
            self.acquire().await;
            log::info!("{} leads", self.me);
            tokio::select! {
                () = self.keep() => log::warn!("{} does not lead any more", self.me),
                () = work() => return,
            }
        }
    }

    /// Returns once this process leads.
    async fn acquire(&mut self) {
        loop {
            let patience = self.duration;
            if tokio::time::timeout(patience, self.attempt()).await == Ok(true) {
                return;
            }
            tokio::time::sleep(self.duration / LOOKS).await;
        }
    }

    /// Returns once this process leads no more.
    async fn keep(&mut self) {
        while let Some(until) = self.leadership.until(Instant::now()) {
            tokio::time::sleep(self.duration / LOOKS).await;
            // A server that says nothing must not let the time pass unnoticed.
            let lasts = tokio::time::timeout_at(until.into(), self.attempt()).await;
            if !lasts.unwrap_or(false) && self.leadership.until(Instant::now()).is_none() {
                break;
            }
        }
        self.leadership.set(None);
    }

    /// Creates, renews or takes the Lease, if that may be; whether it is ours now.
    async fn attempt(&mut self) -> bool {
        match self.try_once().await {
            Ok(holds) => {
                if !holds {
                    self.leadership.set(None);
                }
                holds
            }
            // Somebody else was faster, or the server is away: what was won before lasts until its time is over.
            Err(error) => {
                log::warn!("look after the Lease: {error}");
                false
            }
        }
    }

    async fn try_once(&mut self) -> kube::Result<bool> {
        let asked = Instant::now();
        let found = self.leases.get_opt(LEASE).await?;
        let version = found.as_ref().and_then(|lease| lease.metadata.resource_version.clone());
        if self.seen.as_ref().is_none_or(|(seen, _)| *seen != version) {
            self.seen = Some((version, asked));
        }
        let unchanged_for = self.seen.as_ref().map_or(Duration::ZERO, |(_, since)| asked - *since);
        let spec = found.as_ref().and_then(|lease| lease.spec.as_ref());
        let none = LeaseSpec::default();
        let decision = decide(found.is_some().then(|| spec.unwrap_or(&none)), &self.me, unchanged_for);
        let held = match (decision, found) {
            (Decision::Wait, _) => return Ok(false),
            (Decision::Create, _) | (_, None) => self.leases.create(&PostParams::default(), &self.held(None)).await?,
            // With the version that was seen: if anything else happened meanwhile, this fails.
            (Decision::Renew | Decision::Take, Some(lease)) => {
                self.leases
                    .replace(LEASE, &PostParams::default(), &self.held(Some(lease)))
                    .await?
            }
        };
        self.seen = Some((held.metadata.resource_version, asked));
        self.leadership
            .set(Some(asked + self.duration * RENEWAL_SHARE.0 / RENEWAL_SHARE.1));
        Ok(true)
    }

    /// The Lease as it is when this process holds it from now on.
    fn held(&self, before: Option<Lease>) -> Lease {
        let metadata = before.as_ref().map_or_else(
            || ObjectMeta {
                name: Some(LEASE.to_string()),
                ..ObjectMeta::default()
            },
            |lease| lease.metadata.clone(),
        );
        let now = MicroTime(Timestamp::now());
        let old = before.and_then(|lease| lease.spec).unwrap_or_default();
        let ours = old.holder_identity.as_deref() == Some(&self.me);
        Lease {
            metadata,
            spec: Some(LeaseSpec {
                holder_identity: Some(self.me.clone()),
                lease_duration_seconds: i32::try_from(self.duration.as_secs()).ok(),
                acquire_time: old.acquire_time.filter(|_| ours).or_else(|| Some(now.clone())),
                renew_time: Some(now),
                lease_transitions: Some(old.lease_transitions.unwrap_or(0) + i32::from(!ours)),
                ..LeaseSpec::default()
            }),
        }
    }

    /// Lets another take over at once. Not needed for that, so errors are only told.
    async fn give_up(&self) {
        let outcome = async {
            let Some(mut lease) = self.leases.get_opt(LEASE).await? else {
                return Ok(());
            };
            let Some(spec) = lease.spec.as_mut() else { return Ok(()) };
            if spec.holder_identity.as_deref() != Some(&self.me) {
                return Ok(());
            }
            spec.holder_identity = None;
            self.leases.replace(LEASE, &PostParams::default(), &lease).await?;
            Ok::<(), kube::Error>(())
        };
        match tokio::time::timeout(self.duration, outcome).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => log::warn!("give up the Lease: {error}"),
            Err(_) => log::warn!("give up the Lease: the API server does not answer"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lease(holder: Option<&str>) -> LeaseSpec {
        LeaseSpec {
            holder_identity: holder.map(str::to_string),
            lease_duration_seconds: Some(15),
            ..LeaseSpec::default()
        }
    }

    #[test]
    fn a_lease_is_taken_only_from_nobody_or_from_the_silent() {
        let seconds = Duration::from_secs;
        for (holder, unchanged_for, expected) in [
            (None, 0, Decision::Take),
            (Some(""), 0, Decision::Take),
            (Some("me"), 0, Decision::Renew),
            (Some("me"), 99, Decision::Renew),
            (Some("other"), 0, Decision::Wait),
            (Some("other"), 14, Decision::Wait),
            (Some("other"), 15, Decision::Take),
        ] {
            let decision = decide(Some(&lease(holder)), "me", seconds(unchanged_for));
            assert_eq!(decision, expected, "{holder:?} {unchanged_for}");
        }
        assert_eq!(decide(None, "me", seconds(0)), Decision::Create);
    }

    #[test]
    fn a_leader_stops_before_another_may_take_over() {
        let duration = Duration::from_secs(15);
        assert!(duration * RENEWAL_SHARE.0 / RENEWAL_SHARE.1 + duration / LOOKS < duration);
    }

    #[test]
    fn leadership_ends_with_its_time() {
        let leadership = Leadership::default();
        let now = Instant::now();
        assert_eq!(leadership.until(now), None);
        leadership.set(Some(now + Duration::from_secs(1)));
        assert!(leadership.until(now).is_some());
        assert_eq!(leadership.until(now + Duration::from_secs(1)), None);
    }
}
