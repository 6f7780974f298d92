//! The request to end, from a signal or from within, as something that every shard can wait for.

use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::Signals;
use std::time::Duration;

/// Tells any number of tasks on any thread that the broker is to end. Clones are one and the same.
#[derive(Debug, Clone)]
pub struct Shutdown {
    // Closing a channel wakes all who wait on it, on whatever executor, and can be asked for later.
    sender: async_channel::Sender<()>,
    receiver: async_channel::Receiver<()>,
}

impl Shutdown {
    /// Nobody has asked yet.
    pub fn new() -> Self {
        let (sender, receiver) = async_channel::bounded(1);
        Shutdown { sender, receiver }
    }

    /// Asks everybody to end. Asking again changes nothing.
    pub fn request(&self) {
        self.sender.close();
    }

    /// Whether it was asked for.
    pub fn is_requested(&self) -> bool {
        self.sender.is_closed()
    }

    /// Completes once it is asked for. Dropping it is safe.
    pub async fn requested(&self) {
        // Nothing is ever sent: the only way for this to end is that the channel closes.
        let _ = self.receiver.recv().await;
    }

    /// Requests the end on the first SIGTERM or SIGINT. A second one ends the process at once, and so does the deadline
    /// after the first: a broker that cannot flush must not hang, and what it has not acknowledged is not owed.
    ///
    /// # Errors
    /// If the handlers cannot be installed.
    pub fn on_signals(&self, deadline: Duration) -> std::io::Result<()> {
        let mut signals = Signals::new([SIGTERM, SIGINT])?;
        let shutdown = self.clone();
        std::thread::Builder::new().name("signals".to_owned()).spawn(move || {
            for signal in signals.forever() {
                let name = if signal == SIGTERM { "SIGTERM" } else { "SIGINT" };
                if shutdown.is_requested() {
                    log::warn!("{name} again: ending at once");
                    exit(128 + signal);
                }
                log::info!("{name}: draining, for {} ms at most", deadline.as_millis());
                shutdown.request();
                end_after(deadline);
            }
        })?;
        Ok(())
    }
}

impl Default for Shutdown {
    fn default() -> Self {
        Shutdown::new()
    }
}

fn end_after(deadline: Duration) {
    std::thread::spawn(move || {
        std::thread::sleep(deadline);
        log::error!(
            "the shutdown deadline of {} ms has passed: ending at once",
            deadline.as_millis()
        );
        exit(1);
    });
}

fn exit(status: i32) -> ! {
    log::logger().flush();
    std::process::exit(status);
}

/// Waits for the broker to serve, from a thread of its own: whatever hangs in the start must not hang for ever.
#[derive(Debug, Clone)]
pub struct Started {
    tell: std::sync::mpsc::Sender<()>,
}

impl Started {
    /// Ends the process with an error unless [`Started::tell`] is called, or the end is asked for, within `limit`.
    ///
    /// # Errors
    /// If there can be no thread.
    pub fn within(limit: Duration, shutdown: &Shutdown) -> std::io::Result<Self> {
        let (tell, told) = std::sync::mpsc::channel();
        let shutdown = shutdown.clone();
        std::thread::Builder::new().name("start".to_owned()).spawn(move || {
            let late = told.recv_timeout(limit) == Err(std::sync::mpsc::RecvTimeoutError::Timeout);
            if late && !shutdown.is_requested() {
                log::error!(
                    "the broker does not serve after {} s: see above for what it waits for; \
                     --startup-timeout-sec gives it longer",
                    limit.as_secs()
                );
                exit(1);
            }
        })?;
        Ok(Started { tell })
    }

    /// The broker serves.
    pub fn tell(&self) {
        // The watch may have ended with its deadline; then the process is about to.
        let _ = self.tell.send(());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::FutureExt;

    #[test]
    fn everybody_who_waits_is_told_and_late_comers_too() {
        let shutdown = Shutdown::new();
        assert!(!shutdown.is_requested());
        assert!(shutdown.requested().now_or_never().is_none());
        let waiting: Vec<_> = (0..3)
            .map(|_| {
                let shutdown = shutdown.clone();
                std::thread::spawn(move || futures::executor::block_on(shutdown.requested()))
            })
            .collect();
        shutdown.request();
        shutdown.request();
        waiting.into_iter().for_each(|thread| thread.join().unwrap());
        assert!(shutdown.is_requested());
        assert!(shutdown.requested().now_or_never().is_some());
    }

    #[test]
    fn a_signal_is_a_request_to_end() {
        let shutdown = Shutdown::new();
        shutdown.on_signals(Duration::from_secs(3600)).unwrap();
        signal_hook::low_level::raise(SIGTERM).unwrap();
        futures::executor::block_on(shutdown.requested());
    }
}
