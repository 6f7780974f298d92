//! What an operator says about etcd, and what is wrong with it before anybody is asked.

use etcd_client::{Certificate, Identity, TlsOptions};
use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Bytes of a key prefix: 128 operations and as many compares with it stay below etcd's limit for a request.
const KEY_PREFIX_BYTES_MAX: usize = 128;

/// Where etcd is and how to talk to it.
#[derive(Clone, PartialEq, Eq)]
pub struct EtcdConfig {
    /// `host:port`, `http://host:port` or `https://host:port` of each member. The first that answers is used until it
    /// fails.
    pub endpoints: Vec<String>,
    /// Who we are, if etcd's authentication is on.
    pub username: Option<String>,
    /// The password of `username`.
    pub password: Option<String>,
    /// How to know etcd, and to be known by it; without it connections are plain.
    pub tls: Option<EtcdTls>,
    /// How long a request may take with all its attempts, in milliseconds. Well below the lease of a broker, so that
    /// one member that hangs costs no lease.
    pub request_deadline_ms: u64,
    /// How long a connection may take until it stands, in milliseconds, and how long the start waits for etcd.
    pub connect_timeout_ms: u64,
    /// Comes before every key, so that several clusters can share an etcd. Empty by default.
    pub key_prefix: String,
}

impl Default for EtcdConfig {
    fn default() -> Self {
        EtcdConfig {
            endpoints: Vec::new(),
            username: None,
            password: None,
            tls: None,
            request_deadline_ms: 3_000,
            connect_timeout_ms: 5_000,
            key_prefix: String::new(),
        }
    }
}

impl fmt::Debug for EtcdConfig {
    /// Everything but the password: settings are logged.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EtcdConfig")
            .field("endpoints", &self.endpoints)
            .field("username", &self.username)
            .field("password", &self.password.as_ref().map(|_| "(hidden)"))
            .field("tls", &self.tls)
            .field("request_deadline_ms", &self.request_deadline_ms)
            .field("connect_timeout_ms", &self.connect_timeout_ms)
            .field("key_prefix", &self.key_prefix)
            .finish()
    }
}

/// Files of a TLS connection, all PEM.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct EtcdTls {
    /// Who must have signed etcd's certificate.
    pub ca_file: PathBuf,
    /// Our certificate, if etcd asks for one; goes with `key_file`.
    pub cert_file: Option<PathBuf>,
    /// The key of our certificate.
    pub key_file: Option<PathBuf>,
    /// The name in etcd's certificate, if it is not the host of the endpoint.
    pub domain: Option<String>,
}

/// Why there is no connection to etcd.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ConnectError {
    /// The settings cannot be meant so.
    #[error("etcd settings: {0}")]
    Config(String),
    /// A file of the TLS settings cannot be read.
    #[error("read {path}: {why}")]
    File {
        /// The file.
        path: PathBuf,
        /// What the system says.
        why: String,
    },
    /// No endpoint answers.
    #[error("no etcd endpoint answers: {0}")]
    Unreachable(String),
    /// We and etcd do not trust each other's certificates.
    #[error("TLS with etcd: {0}")]
    Tls(String),
    /// etcd answers, and denies us: wrong user, wrong password, or no right to our keys.
    #[error("etcd refuses us: {0}")]
    Refused(String),
    /// The thread that would talk to etcd cannot run.
    #[error("the thread for etcd: {0}")]
    Thread(String),
}

/// The settings, checked, with the files read.
pub(super) struct Resolved {
    pub urls: Vec<String>,
    pub user: Option<(String, String)>,
    pub tls: Option<TlsOptions>,
    pub request_deadline: Duration,
    pub connect_timeout: Duration,
    pub key_prefix: Vec<u8>,
}

impl EtcdConfig {
    pub(super) fn resolve(&self) -> Result<Resolved, ConnectError> {
        let wrong = |why: &str| Err(ConnectError::Config(why.to_string()));
        if self.endpoints.is_empty() {
            return wrong("there are no endpoints");
        }
        if self.request_deadline_ms == 0 || self.connect_timeout_ms == 0 {
            return wrong("a deadline of 0 ms is always over");
        }
        if self.key_prefix.len() > KEY_PREFIX_BYTES_MAX {
            return wrong(&format!("a key prefix has {KEY_PREFIX_BYTES_MAX} bytes at most"));
        }
        let user = match (&self.username, &self.password) {
            (Some(username), Some(password)) => Some((username.clone(), password.clone())),
            (None, None) => None,
            _ => return wrong("a username goes with a password"),
        };
        let tls = self.tls.as_ref().map(EtcdTls::load).transpose()?;
        let urls = self
            .endpoints
            .iter()
            .map(|endpoint| endpoint_url(endpoint, tls.is_some()))
            .collect::<Result<_, _>>()?;
        Ok(Resolved {
            urls,
            user,
            tls,
            request_deadline: Duration::from_millis(self.request_deadline_ms),
            connect_timeout: Duration::from_millis(self.connect_timeout_ms),
            key_prefix: self.key_prefix.clone().into_bytes(),
        })
    }
}

impl EtcdTls {
    fn load(&self) -> Result<TlsOptions, ConnectError> {
        let mut options = TlsOptions::new().ca_certificate(Certificate::from_pem(read_file(&self.ca_file)?));
        match (&self.cert_file, &self.key_file) {
            (Some(cert), Some(key)) => {
                options = options.identity(Identity::from_pem(read_file(cert)?, read_file(key)?));
            }
            (None, None) => {}
            _ => return Err(ConnectError::Config("a certificate goes with its key".to_string())),
        }
        Ok(match &self.domain {
            Some(domain) => options.domain_name(domain),
            None => options,
        })
    }
}

fn read_file(path: &Path) -> Result<Vec<u8>, ConnectError> {
    std::fs::read(path).map_err(|error| ConnectError::File {
        path: path.to_path_buf(),
        why: error.to_string(),
    })
}

/// The endpoint with its scheme, which must not contradict the TLS settings: a password must not go out in the clear.
fn endpoint_url(endpoint: &str, tls: bool) -> Result<String, ConnectError> {
    let wrong = |why: &str| Err(ConnectError::Config(format!("endpoint {endpoint}: {why}")));
    let (scheme, address) = match endpoint.split_once("://") {
        Some((scheme, address)) => (scheme, address),
        None if tls => ("https", endpoint),
        None => ("http", endpoint),
    };
    match (scheme, tls) {
        ("https", false) => return wrong("https needs the TLS settings"),
        ("http", true) => return wrong("http does not go with TLS settings"),
        ("http" | "https", _) => {}
        _ => return wrong("only http and https are possible"),
    }
    let address = address.strip_suffix('/').unwrap_or(address);
    match address.rsplit_once(':') {
        Some((host, port)) if !host.is_empty() && port.parse::<u16>().is_ok_and(|port| port > 0) => {
            Ok(format!("{scheme}://{address}"))
        }
        _ => wrong("it is no host:port"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(change: impl FnOnce(&mut EtcdConfig)) -> Result<Vec<String>, ConnectError> {
        let mut config = EtcdConfig {
            endpoints: vec!["one:2379".to_string()],
            ..EtcdConfig::default()
        };
        change(&mut config);
        config.resolve().map(|resolved| resolved.urls)
    }

    fn is_config_error(result: Result<Vec<String>, ConnectError>) -> bool {
        matches!(result, Err(ConnectError::Config(_)))
    }

    #[test]
    fn endpoints_get_the_scheme_that_they_leave_out() {
        let names = ["one:2379", "http://[::1]:2379/"].map(str::to_string);
        let urls = with(|config| config.endpoints = names.to_vec()).unwrap();
        assert_eq!(urls, ["http://one:2379", "http://[::1]:2379"]);
        assert_eq!(endpoint_url("one:1", true), Ok("https://one:1".to_string()));
    }

    #[test]
    fn settings_that_contradict_each_other_are_refused() {
        for endpoint in [
            "",
            "one",
            "one:0",
            ":2379",
            "one:70000",
            "https://one:2379",
            "ftp://one:2379",
        ] {
            assert!(
                is_config_error(with(|config| config.endpoints = vec![endpoint.to_string()])),
                "{endpoint}"
            );
        }
        assert!(is_config_error(endpoint_url("http://one:1", true).map(|url| vec![url])));
        assert!(is_config_error(with(|config| config.endpoints.clear())));
        assert!(is_config_error(with(|config| config.username = Some("me".to_string()))));
        assert!(is_config_error(with(|config| config.request_deadline_ms = 0)));
        assert!(is_config_error(with(|config| config.key_prefix = "x".repeat(129))));
    }

    #[test]
    fn a_file_that_is_missing_is_named() {
        let path = PathBuf::from("/nowhere/ca.pem");
        let tls = EtcdTls {
            ca_file: path.clone(),
            ..EtcdTls::default()
        };
        let error = with(|config| config.tls = Some(tls)).err();
        assert!(matches!(error, Some(ConnectError::File { path: named, .. }) if named == path));
    }

    #[test]
    fn a_password_is_not_shown() {
        let config = EtcdConfig {
            password: Some("secret".to_string()),
            ..EtcdConfig::default()
        };
        assert!(!format!("{config:?}").contains("secret"));
    }
}
