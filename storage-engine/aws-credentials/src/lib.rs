//! Keeps AWS credentials fresh, on a thread of its own, and hands them to whoever signs.
//!
//! The sources are those of the AWS SDKs, in their order: environment, profile, web identity (IRSA), container (ECS, EKS
//! Pod Identity), instance metadata (IMDSv2). The crate reqsign-aws-v4 talks to each; what is ours is that a source which is
//! configured and fails is an error, and not a reason to become somebody else (`chain`), and when to ask again
//! (`schedule`). Tokio lives on that thread and nowhere else.

mod chain;
mod http_client;
mod schedule;

pub use chain::Source;

use chain::Chain;
use std::collections::HashMap;
use std::fmt;
use std::io;
use std::path::PathBuf;
use std::thread::JoinHandle;
use std::time::SystemTime;
use tokio::sync::oneshot;

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
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Secrets stay out of logs.
        formatter
            .debug_struct("Credentials")
            .field("access_key", &self.access_key)
            .field("expires", &self.expires)
            .finish_non_exhaustive()
    }
}

/// Where variables and the home directory are looked up.
#[derive(Clone, Default)]
pub enum Environment {
    /// Those of this process.
    #[default]
    Process,
    /// These, and no others.
    Given {
        /// Names and values.
        variables: HashMap<String, String>,
        /// What `~` stands for.
        home: Option<PathBuf>,
    },
}

impl fmt::Debug for Environment {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Values may be secrets.
        formatter.write_str(match self {
            Environment::Process => "Process",
            Environment::Given { .. } => "Given",
        })
    }
}

/// Where to look for credentials.
#[derive(Debug, Clone, Default)]
pub struct Settings {
    /// Use this profile and no other source; without one, the first source that is configured.
    pub profile: Option<String>,
    /// Where variables come from.
    pub environment: Environment,
}

/// Why there are no credentials.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No source is configured.
    #[error("no AWS credentials: neither environment, profile, web identity, container nor instance metadata has any")]
    None,
    /// A source is configured and gives none.
    #[error("no AWS credentials from {0}: {1}")]
    Failed(Source, String),
    /// The thread cannot be started.
    #[error("credentials thread: {0}")]
    Thread(io::Error),
}

/// The thread that keeps credentials fresh. It ends when this is dropped.
#[derive(Debug)]
pub struct Refresher {
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Refresher {
    /// Gets the first credentials, which takes as long as their source takes (some seconds at most), and starts the thread
    /// that passes later ones to `replace` well before these end.
    ///
    /// # Errors
    /// If there are none, with what the source said.
    pub fn start(
        settings: Settings,
        mut replace: impl FnMut(Credentials) + Send + 'static,
    ) -> Result<(Credentials, Source, Refresher), Error> {
        let (first_sender, first) = std::sync::mpsc::channel();
        let (stop, stopped) = oneshot::channel();
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(Error::Thread)?;
        let work = async move {
            let chain = Chain::new(&settings);
            let found = chain.fetch().await;
            let current = found.as_ref().ok().map(|(credentials, _)| credentials.clone());
            let _ = first_sender.send(found);
            if let Some(current) = current {
                schedule::keep_fresh(&chain, current, &mut replace).await;
            }
        };
        let thread = std::thread::Builder::new()
            .name("credentials".to_string())
            .spawn(move || {
                runtime.block_on(async {
                    tokio::select! {
                        () = work => {}
                        _ = stopped => {}
                    }
                });
                // A name may still be looked up; nobody waits for that.
                runtime.shutdown_background();
            })
            .map_err(Error::Thread)?;
        let refresher = Refresher {
            stop: Some(stop),
            thread: Some(thread),
        };
        let ended = |_| Error::Thread(io::Error::other("it ended"));
        let (credentials, source) = first.recv().map_err(ended)??;
        Ok((credentials, source, refresher))
    }
}

impl Drop for Refresher {
    fn drop(&mut self) {
        if let Some(stop) = self.stop.take() {
            let _ = stop.send(());
        }
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
