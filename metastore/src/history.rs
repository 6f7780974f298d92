//! Recent changes, kept for watches: a watch is a place in this history, so one that lags costs nothing and loses
//! nothing silently. When its place has been dropped it learns that, and lists again.

use crate::store::{LocalFuture, MetastoreError, Revision, Watch, WatchEvent};
use bytes::Bytes;
use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Changes kept: minutes of a busy cluster.
const EVENTS_MAX: usize = 65_536;
/// Bytes of keys and values kept.
const BYTES_MAX: usize = 32 << 20;
/// Changes handed out at once, beyond which only those of the same revision follow.
const BATCH_EVENTS: usize = 1_024;

/// The history, shared between a store and its watches.
#[derive(Debug, Clone)]
pub(crate) struct SharedHistory(Arc<Mutex<History>>);

#[derive(Debug)]
struct History {
    events: VecDeque<WatchEvent>,
    bytes: usize,
    events_max: usize,
    /// Changes up to this revision are not here.
    compacted: Revision,
    /// One for each watch, to be told that there is more.
    wakers: Vec<async_channel::Sender<()>>,
    /// Why there will be no more.
    closed: Option<MetastoreError>,
}

impl SharedHistory {
    /// A history that begins after `revision`.
    pub fn after(revision: Revision) -> Self {
        SharedHistory(Arc::new(Mutex::new(History {
            events: VecDeque::new(),
            bytes: 0,
            events_max: EVENTS_MAX,
            compacted: revision,
            wakers: Vec::new(),
            closed: None,
        })))
    }

    fn lock(&self) -> MutexGuard<'_, History> {
        // Each change of the history is complete before anything in it could panic.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Appends changes, in the order of their revisions, and wakes the watches.
    pub fn publish(&self, events: Vec<WatchEvent>) {
        if events.is_empty() {
            return;
        }
        let mut history = self.lock();
        history.bytes += events.iter().map(byte_count).sum::<usize>();
        history.events.extend(events);
        while history.events.len() > history.events_max || history.bytes > BYTES_MAX {
            history.drop_oldest();
        }
        history.wake_all();
    }

    /// Forgets changes up to `revision`.
    pub fn compact(&self, revision: Revision) {
        let mut history = self.lock();
        while history
            .events
            .front()
            .is_some_and(|event| revision_of(event) <= revision)
        {
            history.drop_oldest();
        }
        history.compacted = history.compacted.max(revision);
        history.wake_all();
    }

    /// Ends every watch with an error.
    pub fn close(&self, why: MetastoreError) {
        let mut history = self.lock();
        history.closed = Some(why);
        history.wake_all();
    }

    /// A watch of what happens to keys of `prefix` from revision `from` on.
    pub fn watch(&self, prefix: Bytes, from: Revision) -> Result<HistoryWatch, MetastoreError> {
        let (waker, woken) = async_channel::bounded(1);
        let mut history = self.lock();
        history.check(from)?;
        history.wakers.retain(|waker| !waker.is_closed());
        history.wakers.push(waker);
        Ok(HistoryWatch {
            history: self.clone(),
            prefix,
            next: from,
            woken,
        })
    }
}

impl History {
    fn drop_oldest(&mut self) {
        if let Some(event) = self.events.pop_front() {
            self.bytes -= byte_count(&event);
            self.compacted = revision_of(&event);
        }
    }

    fn wake_all(&mut self) {
        // Full means that the watch will look anyway.
        self.wakers
            .retain(|waker| !matches!(waker.try_send(()), Err(async_channel::TrySendError::Closed(()))));
    }

    fn check(&self, from: Revision) -> Result<(), MetastoreError> {
        match &self.closed {
            Some(why) => Err(why.clone()),
            None if from.max(1) <= self.compacted => Err(MetastoreError::Compacted(from)),
            None => Ok(()),
        }
    }

    /// The next changes of `prefix` from `next` on, and where to go on.
    fn read(&self, prefix: &[u8], mut next: Revision) -> Result<(Vec<WatchEvent>, Revision), MetastoreError> {
        self.check(next)?;
        let mut found = Vec::new();
        let start = self.events.partition_point(|event| revision_of(event) < next);
        for event in self.events.range(start..) {
            // A revision is handed out whole.
            if found.len() >= BATCH_EVENTS && revision_of(event) >= next {
                break;
            }
            next = revision_of(event) + 1;
            if key_of(event).starts_with(prefix) {
                found.push(event.clone());
            }
        }
        Ok((found, next))
    }
}

/// A place in the history.
pub(crate) struct HistoryWatch {
    history: SharedHistory,
    prefix: Bytes,
    next: Revision,
    woken: async_channel::Receiver<()>,
}

impl Watch for HistoryWatch {
    fn next(&mut self) -> LocalFuture<'_, Result<Vec<WatchEvent>, MetastoreError>> {
        Box::pin(async move {
            loop {
                let (events, next) = self.history.lock().read(&self.prefix, self.next)?;
                self.next = next;
                if !events.is_empty() {
                    return Ok(events);
                }
                if self.woken.recv().await.is_err() {
                    return Err(MetastoreError::Unavailable("the store is gone".to_string()));
                }
            }
        })
    }
}

pub(crate) fn revision_of(event: &WatchEvent) -> Revision {
    match event {
        WatchEvent::Put(item) => item.mod_revision,
        WatchEvent::Delete { revision, .. } => *revision,
    }
}

fn key_of(event: &WatchEvent) -> &Bytes {
    match event {
        WatchEvent::Put(item) => &item.key,
        WatchEvent::Delete { key, .. } => key,
    }
}

fn byte_count(event: &WatchEvent) -> usize {
    match event {
        WatchEvent::Put(item) => item.key.len() + item.value.len(),
        WatchEvent::Delete { key, .. } => key.len(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::executor::block_on;
    use futures::FutureExt;

    fn deletion(revision: Revision) -> WatchEvent {
        WatchEvent::Delete {
            key: Bytes::from_static(b"k"),
            revision,
        }
    }

    #[test]
    fn a_watch_that_lags_too_far_learns_it() {
        let history = SharedHistory::after(0);
        history.lock().events_max = 3;
        let mut watch = history.watch(Bytes::new(), 1).unwrap();
        history.publish(vec![deletion(1), deletion(2)]);
        assert_eq!(block_on(watch.next()), Ok(vec![deletion(1), deletion(2)]));
        history.publish((3..=5).map(deletion).collect());
        history.publish(vec![deletion(6)]);
        assert_eq!(block_on(watch.next()), Err(MetastoreError::Compacted(3)));
        assert_eq!(history.watch(Bytes::new(), 3).err(), Some(MetastoreError::Compacted(3)));
        assert!(history.watch(Bytes::new(), 4).is_ok());
    }

    #[test]
    fn a_revision_is_never_split_between_two_batches() {
        let history = SharedHistory::after(0);
        history.publish((0..BATCH_EVENTS - 1).map(|_| deletion(1)).collect());
        history.publish(vec![deletion(2); 10]);
        history.publish(vec![deletion(3)]);
        let mut watch = history.watch(Bytes::new(), 1).unwrap();
        assert_eq!(block_on(watch.next()).unwrap().len(), BATCH_EVENTS + 9);
        assert_eq!(block_on(watch.next()), Ok(vec![deletion(3)]));
        assert!(watch.next().now_or_never().is_none());
    }

    #[test]
    fn a_closed_history_ends_its_watches() {
        let history = SharedHistory::after(7);
        let mut watch = history.watch(Bytes::new(), 8).unwrap();
        assert!(watch.next().now_or_never().is_none());
        history.close(MetastoreError::Unavailable("gone".into()));
        assert_eq!(block_on(watch.next()), Err(MetastoreError::Unavailable("gone".into())));
    }
}
