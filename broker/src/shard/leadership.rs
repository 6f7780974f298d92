//! Whether this shard still leads what it thinks it leads, asked before anything is read.
//!
//! While the broker is registered, nobody takes over: a claim compares that. Once the registration may have lapsed (the
//! metastore cannot be reached, or the process was stopped for a while) somebody may have, and a read from here could
//! miss what was acknowledged there. Then the object store tells: a successor fences this shard's stream before it does
//! anything else, so as long as there is no fence there is no successor. Reads go on without the metastore, at the cost
//! of a few small requests; after a new registration one look is enough. Fences are forgotten after a while
//! ([`super::ShardConfig::fence_life`]), so reads and writes end once the broker was without registration for half of that.

use super::flush::Lost;
use super::takeover::ClaimError;
use super::Shard;
use crate::planted::{self, Bug};
use futures::channel::oneshot;
use futures::future::try_join_all;
use kafscale_storage_engine::wal::decide::SlotContent;
use kafscale_storage_engine::wal::{self, StreamId};
use std::cell::{Cell, RefCell};
use std::rc::Rc;

/// Reads that wait for the next look into the store; each look answers those that came before it.
#[derive(Default)]
pub(super) struct Questions {
    waiting: RefCell<Vec<oneshot::Sender<bool>>>,
    looking: Cell<bool>,
}

impl Shard {
    /// Whether nobody can have taken over, by what is known without asking.
    pub(super) fn surely_leads(&self) -> bool {
        let lasts = self.runtime.boot_time() < self.registration.until();
        (lasts && self.registration.term() == self.led_since.get()) || planted::is(Bug::ZombieReads)
    }

    /// Whether nobody had taken over when this was called.
    pub(super) async fn leads(self: &Rc<Self>) -> bool {
        if self.surely_leads() {
            return true;
        }
        let (answer, answered) = oneshot::channel();
        self.questions.waiting.borrow_mut().push(answer);
        if !self.questions.looking.replace(true) {
            let shard = self.clone();
            self.runtime
                .spawn("leadership", Box::pin(async move { shard.answer_questions().await }));
        }
        answered.await.unwrap_or(false)
    }

    /// Whether this broker may have been without registration for so long that a successor's fence may be forgotten
    /// already: a slot that is free, and a put that wins it, prove nothing then. The clock counts the time that the machine
    /// was suspended.
    pub(super) fn away_for_too_long(&self) -> bool {
        let away = self.runtime.boot_time().saturating_sub(self.registration.until());
        away > self.config.away_max
    }

    async fn answer_questions(self: Rc<Self>) {
        loop {
            let waiting = self.questions.waiting.take();
            if waiting.is_empty() {
                self.questions.looking.set(false);
                return;
            }
            let term = self.registration.term();
            let leads = match self.look_for_fence().await {
                Ok(None) => {
                    self.led_since.set(term);
                    true
                }
                Ok(Some(stream)) => {
                    self.stream_lost(stream, Lost::Fenced);
                    false
                }
                Err(error) => {
                    log::warn!("look for a successor's fence: {error}; reads are refused");
                    false
                }
            };
            for answer in waiting {
                let _ = answer.send(leads); // Whoever asked may have gone.
            }
        }
    }

    /// This shard's stream, if it has a fence. A fence is in the first slot that was free: one that this shard has tried
    /// and does not know to be its own, or the next one.
    async fn look_for_fence(&self) -> Result<Option<StreamId>, ClaimError> {
        let Some((stream, slots)) = self
            .state
            .borrow()
            .stream
            .as_ref()
            .map(|open| (open.id, open.next_commit_seq..=open.next_seq))
        else {
            return Ok(None);
        };
        if self.away_for_too_long() {
            return Ok(Some(stream));
        }
        let namespace = &self.config.namespace;
        let found = try_join_all(slots.map(|seq| {
            let key = wal::slot_key(namespace, stream, seq);
            async move { self.who_has(&key).await }
        }))
        .await?;
        Ok(found.contains(&SlotContent::Fence).then_some(stream))
    }
}
