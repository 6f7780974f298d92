//! Replies wait here until the write-ahead slots that they depend on are durable.

use std::collections::VecDeque;

/// Replies in slot order. `T` is whatever the caller sends its answer with.
#[derive(Debug)]
pub struct PendingAcks<T> {
    waiting: VecDeque<(u64, T)>,
}

impl<T> Default for PendingAcks<T> {
    fn default() -> Self {
        PendingAcks {
            waiting: VecDeque::new(),
        }
    }
}

impl<T> PendingAcks<T> {
    /// Holds `reply` until slot `seq` and all before it are durable.
    pub fn push(&mut self, seq: u64, reply: T) {
        // Almost always the newest slot; a duplicate of a batch in flight may depend on an older one.
        let at = self.waiting.partition_point(|(slot, _)| *slot <= seq);
        self.waiting.insert(at, (seq, reply));
    }

    /// Takes out every reply that depends on slots below `next_uncommitted_seq` alone, oldest first.
    pub fn release(&mut self, next_uncommitted_seq: u64) -> impl Iterator<Item = T> + '_ {
        let ready = self.waiting.partition_point(|(slot, _)| *slot < next_uncommitted_seq);
        self.waiting.drain(..ready).map(|(_, reply)| reply)
    }

    /// Takes out every reply that depends on slot `seq` or a later one.
    pub fn take_from(&mut self, seq: u64) -> impl Iterator<Item = T> + '_ {
        let first = self.waiting.partition_point(|(slot, _)| *slot < seq);
        self.waiting.drain(first..).map(|(_, reply)| reply)
    }

    /// Takes out everything: the stream is lost, so nothing that waits will become durable through it.
    pub fn fail_all(&mut self) -> impl Iterator<Item = T> + '_ {
        self.waiting.drain(..).map(|(_, reply)| reply)
    }

    /// Every waiting reply, oldest first.
    pub fn iter_mut(&mut self) -> impl Iterator<Item = &mut T> {
        self.waiting.iter_mut().map(|(_, reply)| reply)
    }

    /// How many replies wait.
    pub fn len(&self) -> usize {
        self.waiting.len()
    }

    /// Whether none waits.
    pub fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn replies_leave_in_slot_order_and_only_when_every_slot_below_is_durable() {
        let mut acks = PendingAcks::default();
        acks.push(1, "b");
        acks.push(2, "c");
        acks.push(0, "a");
        assert_eq!(acks.release(0).count(), 0);
        assert_eq!(acks.release(2).collect::<Vec<_>>(), ["a", "b"]);
        assert_eq!(acks.fail_all().collect::<Vec<_>>(), ["c"]);
        assert!(acks.is_empty());
    }
}
