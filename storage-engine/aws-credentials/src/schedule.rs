//! When to ask for new credentials: well before the old ones end, and again and again while there are none.

use crate::chain::Chain;
use crate::Credentials;
use std::time::{Duration, SystemTime};

/// How long before their end credentials are replaced. AWS has new ones at least five minutes before.
const BEFORE_END: Duration = Duration::from_secs(600);

/// How often a source is looked at whose credentials do not end: a profile may be edited.
const LOOK_AGAIN: Duration = Duration::from_secs(300);

/// Between two attempts, at least: a source that hands out what ends at once must not be hammered.
const PAUSE_MIN: Duration = Duration::from_secs(1);

/// Between two attempts that fail, at most.
const PAUSE_MAX: Duration = Duration::from_secs(60);

/// How long to wait before asking again, `failures` attempts having failed since the last success. `draw` is in 0..1.
fn pause(now: SystemTime, expires: Option<SystemTime>, failures: u32, draw: f64) -> Duration {
    if failures > 0 {
        let most = PAUSE_MIN * (1 << failures.min(6));
        return most.min(PAUSE_MAX).mul_f64(0.5 + draw / 2.0);
    }
    let Some(expires) = expires else {
        return LOOK_AGAIN;
    };
    let left = expires.duration_since(now).unwrap_or_default();
    // What ends sooner than that anyway is kept for half its time.
    left.saturating_sub(BEFORE_END).max(left / 2).max(PAUSE_MIN)
}

/// Asks at the right times, for ever, and passes on what is new.
pub(crate) async fn keep_fresh(chain: &Chain, mut current: Credentials, replace: &mut impl FnMut(Credentials)) {
    let mut failures = 0;
    loop {
        tokio::time::sleep(pause(SystemTime::now(), current.expires, failures, fastrand::f64())).await;
        match chain.fetch().await {
            Ok((fresh, source)) => {
                failures = 0;
                if fresh != current {
                    log::info!("new AWS credentials from {source}");
                    replace(fresh.clone());
                    current = fresh;
                }
            }
            Err(error) => {
                failures = failures.saturating_add(1);
                log::warn!("refresh AWS credentials: {error}");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seconds(left: Option<u64>, failures: u32, draw: f64) -> u64 {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000);
        let expires = left.map(|left| now + Duration::from_secs(left));
        pause(now, expires, failures, draw).as_secs()
    }

    #[test]
    fn credentials_are_replaced_ten_minutes_before_they_end() {
        assert_eq!(seconds(Some(3600), 0, 0.0), 3000);
        assert_eq!(seconds(Some(21600), 0, 0.0), 21000);
    }

    #[test]
    fn short_ones_are_kept_for_half_their_time_and_none_is_hammered() {
        assert_eq!(seconds(Some(900), 0, 0.0), 450);
        assert_eq!(seconds(Some(1), 0, 0.0), 1);
        assert_eq!(seconds(Some(0), 0, 0.0), 1);
    }

    #[test]
    fn those_without_end_are_looked_at_again() {
        assert_eq!(seconds(None, 0, 0.0), 300);
    }

    #[test]
    fn failures_are_tried_again_at_growing_distances() {
        let longest = [1, 2, 3, 6, 30].map(|failures| seconds(Some(9), failures, 1.0));
        assert_eq!(longest, [2, 4, 8, 60, 60]);
        assert_eq!(seconds(None, 3, 0.0), 4);
    }
}
