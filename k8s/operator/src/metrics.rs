//! Health and metrics of the operator itself, over HTTP.

use crate::leader::Leadership;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

/// A request must be here within this.
const PATIENCE: Duration = Duration::from_secs(5);

/// Counters since the start.
#[derive(Debug, Default)]
pub struct Metrics {
    rounds: AtomicU64,
    failures: AtomicU64,
    writes: AtomicU64,
    leadership: Arc<Leadership>,
}

impl Metrics {
    /// Nothing has happened yet.
    pub fn new(leadership: Arc<Leadership>) -> Self {
        Metrics {
            leadership,
            ..Metrics::default()
        }
    }

    /// A round of reconciliation began.
    pub fn count_round(&self) {
        self.rounds.fetch_add(1, Ordering::Relaxed);
    }

    /// A round ended early.
    pub fn count_failure(&self) {
        self.failures.fetch_add(1, Ordering::Relaxed);
    }

    /// Something was changed.
    pub fn count_write(&self) {
        self.writes.fetch_add(1, Ordering::Relaxed);
    }

    fn page(&self) -> String {
        let counter = |name: &str, help: &str, value: &AtomicU64| {
            format!(
                "# HELP {name} {help}\n# TYPE {name} counter\n{name} {}\n",
                value.load(Ordering::Relaxed)
            )
        };
        counter(
            "kafscale_operator_reconciles_total",
            "Rounds of reconciliation.",
            &self.rounds,
        ) + &counter(
            "kafscale_operator_reconcile_errors_total",
            "Rounds that ended early.",
            &self.failures,
        ) + &counter(
            "kafscale_operator_writes_total",
            "Changes that this operator made, whether or not anything was different before.",
            &self.writes,
        ) + &format!(
            "# HELP kafscale_operator_leader Whether this replica of the operator leads.\n\
             # TYPE kafscale_operator_leader gauge\n\
             kafscale_operator_leader {}\n",
            u8::from(self.leadership.until(Instant::now()).is_some())
        )
    }

    fn answer(&self, request: &[u8]) -> String {
        let (status, body) = match request {
            request if request.starts_with(b"GET /metrics ") => ("200 OK", self.page()),
            request if request.starts_with(b"GET /healthz ") || request.starts_with(b"GET /readyz ") => {
                ("200 OK", "ok\n".to_string())
            }
            _ => ("404 Not Found", "/metrics, /healthz, /readyz\n".to_string()),
        };
        let length = body.len();
        format!("HTTP/1.1 {status}\r\nContent-Type: text/plain; version=0.0.4\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{body}")
    }
}

/// Answers on `listener` for ever; nobody waits for a peer that says nothing.
pub async fn serve(listener: TcpListener, metrics: Arc<Metrics>) {
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                let metrics = metrics.clone();
                // Somebody who went away needs no answer.
                tokio::spawn(async move {
                    let _ = tokio::time::timeout(PATIENCE, respond(stream, &metrics)).await;
                });
            }
            // Out of descriptors, perhaps: not at full speed.
            Err(error) => {
                log::warn!("accept: {error}");
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
        }
    }
}

async fn respond(mut stream: TcpStream, metrics: &Metrics) -> std::io::Result<()> {
    let mut request = [0; 1024];
    let length = stream.read(&mut request).await?;
    stream.write_all(metrics.answer(&request[..length]).as_bytes()).await?;
    stream.shutdown().await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_counts_rounds_and_failures() {
        let metrics = Metrics::default();
        metrics.count_round();
        metrics.count_round();
        metrics.count_failure();
        let answer = metrics.answer(b"GET /metrics HTTP/1.1\r\n\r\n");
        assert!(answer.contains("\nkafscale_operator_reconciles_total 2\n"), "{answer}");
        assert!(
            answer.contains("\nkafscale_operator_reconcile_errors_total 1\n"),
            "{answer}"
        );
    }

    #[test]
    fn health_is_told_and_other_paths_are_not() {
        assert!(Metrics::default()
            .answer(b"GET /healthz HTTP/1.1\r\n\r\n")
            .starts_with("HTTP/1.1 200"));
        assert!(Metrics::default()
            .answer(b"GET / HTTP/1.1\r\n\r\n")
            .starts_with("HTTP/1.1 404"));
    }
}
