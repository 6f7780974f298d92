//! Who we are to the store. Shards read it at each signature; whoever refreshes it replaces it as a whole.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

/// Keys to sign with.
#[derive(Clone, PartialEq, Eq)]
pub struct Credentials {
    /// Access key id.
    pub access_key: String,
    /// Secret access key.
    pub secret_key: String,
    /// Of temporary credentials.
    pub session_token: Option<String>,
    /// When they end; never if there is none.
    pub expires: Option<SystemTime>,
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Secrets stay out of logs.
        f.debug_struct("Credentials")
            .field("access_key", &self.access_key)
            .field("expires", &self.expires)
            .finish_non_exhaustive()
    }
}

/// The credentials of a process; clones share them.
#[derive(Debug, Clone)]
pub struct CredentialsHandle(Arc<Mutex<Arc<Credentials>>>);

impl CredentialsHandle {
    /// Begins with these.
    pub fn new(credentials: Credentials) -> Self {
        CredentialsHandle(Arc::new(Mutex::new(Arc::new(credentials))))
    }

    /// Those that do not change and do not end.
    pub fn fixed(access_key: &str, secret_key: &str) -> Self {
        Self::new(Credentials {
            access_key: access_key.to_string(),
            secret_key: secret_key.to_string(),
            session_token: None,
            expires: None,
        })
    }

    /// The current ones.
    pub fn get(&self) -> Arc<Credentials> {
        // The lock is held to copy a pointer, so no shard waits for another.
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Replaces them for all.
    pub fn set(&self, credentials: Credentials) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Arc::new(credentials);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_stay_out_of_logs() {
        let handle = CredentialsHandle::new(Credentials {
            access_key: "id".to_string(),
            secret_key: "hidden".to_string(),
            session_token: Some("hidden".to_string()),
            expires: None,
        });
        let text = format!("{handle:?}");
        assert!(text.contains("id") && !text.contains("hidden"), "{text}");
    }

    #[test]
    fn a_replacement_is_seen_by_all() {
        let handle = CredentialsHandle::fixed("old", "x");
        let other = handle.clone();
        let before = other.get();
        handle.set(Credentials {
            access_key: "new".to_string(),
            ..(*before).clone()
        });
        assert_eq!(
            (before.access_key.as_str(), other.get().access_key.as_str()),
            ("old", "new")
        );
    }
}
