//! Everything that changes the world passes here: only a leader writes.

use crate::leader::Leadership;
use crate::metrics::Metrics;
use std::future::Future;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::Arc;
use std::time::Instant;

/// Why a write did not happen, or may not have.
#[derive(Debug, thiserror::Error)]
pub enum WriteError<E: std::error::Error> {
    /// It was not begun, or not waited for.
    #[error("this operator does not lead any more")]
    NotLeading,
    /// It was refused, or failed.
    #[error(transparent)]
    Failed(E),
}

/// The gate.
#[derive(Debug)]
pub struct Writes {
    leadership: Arc<Leadership>,
    metrics: Arc<Metrics>,
    stop_after: Option<u64>,
    count: AtomicU64,
}

impl Writes {
    /// Lets writes through while `leadership` lasts; ends the process after `stop_after` of them.
    pub fn new(leadership: Arc<Leadership>, metrics: Arc<Metrics>, stop_after: Option<u64>) -> Self {
        Writes {
            leadership,
            metrics,
            stop_after,
            count: AtomicU64::new(0),
        }
    }

    /// Carries out one write.
    ///
    /// # Errors
    /// If this process does not lead, or the write fails.
    pub async fn carry_out<T, E: std::error::Error>(
        &self,
        write: impl Future<Output = Result<T, E>>,
    ) -> Result<T, WriteError<E>> {
        let until = self.leadership.until(Instant::now()).ok_or(WriteError::NotLeading)?;
        let outcome = tokio::time::timeout_at(until.into(), write)
            .await
            .map_err(|_| WriteError::NotLeading)?
            .map_err(WriteError::Failed)?;
        self.metrics.count_write();
        if Some(self.count.fetch_add(1, Ordering::Relaxed) + 1) == self.stop_after {
            log::warn!("stopping after {} writes, as told", self.stop_after.unwrap_or_default());
            std::process::abort();
        }
        Ok(outcome)
    }
}
