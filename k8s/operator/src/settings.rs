//! What the operator is told when it starts, by variables of its environment.

use std::time::Duration;

/// How the operator is to work.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// Image of the brokers where a cluster names none.
    pub broker_image: String,
    /// Image of etcd where a cluster names none.
    pub etcd_image: String,
    /// This program's own image, for what it does to etcd in Jobs.
    pub operator_image: String,
    /// Where metrics and health are served, as `host:port`.
    pub metrics_address: String,
    /// The only namespace whose resources are looked at; none: all.
    pub watched_namespace: Option<String>,
    /// The namespace of the Lease that replicas of the operator share.
    pub lease_namespace: String,
    /// How long a leader may be silent before another takes over.
    pub lease_duration: Duration,
    /// Where a cluster's brokers are reached, as `host:port`; `{cluster}` and `{namespace}` are replaced.
    pub bootstrap: String,
    /// For tests of crashes: ends the process as SIGKILL would, right after so many writes.
    pub stop_after_writes: Option<u64>,
}

/// What is printed with the usage.
pub const USAGE: &str = "\
KAFSCALE_OPERATOR_BROKER_IMAGE      image of the brokers where a cluster names none (needed)
KAFSCALE_OPERATOR_IMAGE             this program's own image, for Jobs that look after etcd (needed)
KAFSCALE_OPERATOR_ETCD_IMAGE        image of etcd where a cluster names none (gcr.io/etcd-development/etcd:v3.6.16)
KAFSCALE_OPERATOR_NAMESPACE         namespace of the Lease that replicas of the operator share (needed)
KAFSCALE_OPERATOR_WATCH_NAMESPACE   the only namespace whose resources are looked at (all)
KAFSCALE_OPERATOR_LEASE_SECONDS     how long a leader may be silent before another takes over, 3 to 300 (15)
KAFSCALE_OPERATOR_BOOTSTRAP         where brokers are reached ({cluster}-broker.{namespace}.svc:9092)
KAFSCALE_OPERATOR_METRICS_ADDR      where /metrics, /healthz and /readyz are served (0.0.0.0:8080)
RUST_LOG                            which lines are logged (info)";

/// What the tests ran with.
const ETCD_IMAGE: &str = "gcr.io/etcd-development/etcd:v3.6.16";

/// A variable that is missing or cannot be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SettingsError {
    /// There is no default that would be right.
    #[error("set {0}")]
    Missing(&'static str),
    /// Not a number in its bounds.
    #[error("{0} is {1:?}: it has to be a whole number from {2} to {3}")]
    Number(&'static str, String, u64, u64),
}

/// Reads the settings; `variable` tells what a variable holds.
///
/// # Errors
/// If one is missing or cannot be.
pub fn read(variable: impl Fn(&str) -> Option<String>) -> Result<Settings, SettingsError> {
    // As for the brokers: empty is not set.
    let text = |name: &str| variable(name).filter(|text| !text.is_empty());
    let needed = |name: &'static str| text(name).ok_or(SettingsError::Missing(name));
    let number = |name: &'static str, least: u64, most: u64| match text(name) {
        None => Ok(None),
        Some(text) => match text.parse::<u64>() {
            Ok(number) if (least..=most).contains(&number) => Ok(Some(number)),
            _ => Err(SettingsError::Number(name, text, least, most)),
        },
    };
    Ok(Settings {
        broker_image: needed("KAFSCALE_OPERATOR_BROKER_IMAGE")?,
        etcd_image: text("KAFSCALE_OPERATOR_ETCD_IMAGE").unwrap_or_else(|| ETCD_IMAGE.to_string()),
        operator_image: needed("KAFSCALE_OPERATOR_IMAGE")?,
        metrics_address: text("KAFSCALE_OPERATOR_METRICS_ADDR").unwrap_or_else(|| "0.0.0.0:8080".to_string()),
        watched_namespace: text("KAFSCALE_OPERATOR_WATCH_NAMESPACE"),
        lease_namespace: needed("KAFSCALE_OPERATOR_NAMESPACE")?,
        lease_duration: Duration::from_secs(number("KAFSCALE_OPERATOR_LEASE_SECONDS", 3, 300)?.unwrap_or(15)),
        bootstrap: text("KAFSCALE_OPERATOR_BOOTSTRAP")
            .unwrap_or_else(|| "{cluster}-broker.{namespace}.svc:9092".to_string()),
        stop_after_writes: number("KAFSCALE_OPERATOR_STOP_AFTER_WRITES", 1, u64::MAX)?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(changes: &[(&str, &str)]) -> Result<Settings, SettingsError> {
        let mut variables = vec![
            ("KAFSCALE_OPERATOR_BROKER_IMAGE", "kafscale:1"),
            ("KAFSCALE_OPERATOR_IMAGE", "operator:1"),
            ("KAFSCALE_OPERATOR_NAMESPACE", "kafscale"),
        ];
        variables.extend(changes);
        read(|name| {
            let found = variables.iter().rev().find(|(known, _)| *known == name);
            found.map(|(_, text)| text.to_string())
        })
    }

    #[test]
    fn what_is_needed_is_asked_for_by_name() {
        for name in [
            "KAFSCALE_OPERATOR_BROKER_IMAGE",
            "KAFSCALE_OPERATOR_IMAGE",
            "KAFSCALE_OPERATOR_NAMESPACE",
        ] {
            assert_eq!(with(&[(name, "")]), Err(SettingsError::Missing(name)));
        }
    }

    #[test]
    fn the_rest_has_defaults() {
        let settings = with(&[]).unwrap();
        assert_eq!(settings.lease_duration, Duration::from_secs(15));
        assert_eq!((settings.watched_namespace, settings.stop_after_writes), (None, None));
    }

    #[test]
    fn numbers_out_of_bounds_are_refused() {
        for text in ["2", "301", "-1", "soon"] {
            assert!(with(&[("KAFSCALE_OPERATOR_LEASE_SECONDS", text)]).is_err(), "{text}");
        }
    }
}
