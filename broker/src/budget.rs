//! Bytes of requests under way: when they are used up, sockets are not read until some come back.

use futures::channel::oneshot;
use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::rc::Rc;

/// A bounded number of bytes, handed out in the order of asking.
#[derive(Debug)]
pub struct ByteBudget {
    limit: usize,
    used: Cell<usize>,
    waiting: RefCell<VecDeque<(usize, oneshot::Sender<Permit>)>>,
}

/// Bytes taken from a budget; they return when this is dropped.
#[derive(Debug)]
pub struct Permit {
    budget: Rc<ByteBudget>,
    bytes: usize,
}

impl ByteBudget {
    /// `limit` bytes in all.
    pub fn new(limit: usize) -> Rc<Self> {
        Rc::new(ByteBudget {
            limit,
            used: Cell::new(0),
            waiting: RefCell::default(),
        })
    }

    /// Bytes handed out.
    pub fn used(&self) -> usize {
        self.used.get()
    }

    /// Takes `bytes`, when they are there. More than the whole budget is granted when nothing else is out.
    pub async fn take(self: &Rc<Self>, bytes: usize) -> Permit {
        if self.waiting.borrow().is_empty() && self.fits(bytes) {
            return self.grant(bytes);
        }
        let (granted, waiting) = oneshot::channel();
        self.waiting.borrow_mut().push_back((bytes, granted));
        waiting
            .await
            .expect("a waiter is dropped only when its permit is sent, or with the budget that it keeps alive")
    }

    fn fits(&self, bytes: usize) -> bool {
        let used = self.used.get();
        used == 0 || used + bytes <= self.limit
    }

    fn grant(self: &Rc<Self>, bytes: usize) -> Permit {
        self.used.set(self.used.get() + bytes);
        Permit {
            budget: self.clone(),
            bytes,
        }
    }

    fn next_that_fits(&self) -> Option<(usize, oneshot::Sender<Permit>)> {
        let mut waiting = self.waiting.borrow_mut();
        let (bytes, _) = waiting.front()?;
        if self.fits(*bytes) {
            waiting.pop_front()
        } else {
            None
        }
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        let budget = &self.budget;
        budget.used.set(budget.used.get() - self.bytes);
        while let Some((bytes, granted)) = budget.next_that_fits() {
            // Whoever went away while waiting sends its permit back, dropped.
            drop(granted.send(budget.grant(bytes)));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::executor::block_on;
    use futures::future::{poll_immediate, FutureExt};

    #[test]
    fn bytes_are_granted_in_order_and_never_beyond_the_limit() {
        let budget = ByteBudget::new(10);
        let first = block_on(budget.take(8));
        let mut second = Box::pin(budget.take(5));
        let mut third = Box::pin(budget.take(1));
        assert!(block_on(poll_immediate(&mut second)).is_none());
        assert!(
            block_on(poll_immediate(&mut third)).is_none(),
            "a small one does not overtake"
        );
        drop(first);
        let second = second.now_or_never().unwrap();
        let third = third.now_or_never().unwrap();
        assert_eq!(budget.used(), 6);
        drop((second, third));
        assert_eq!(budget.used(), 0);
    }

    #[test]
    fn a_request_larger_than_the_budget_goes_alone() {
        let budget = ByteBudget::new(10);
        let huge = block_on(budget.take(100));
        let mut next = Box::pin(budget.take(1));
        assert!(block_on(poll_immediate(&mut next)).is_none());
        drop(huge);
        assert!(next.now_or_never().is_some());
    }

    #[test]
    fn who_stops_waiting_takes_nothing() {
        let budget = ByteBudget::new(10);
        let first = block_on(budget.take(10));
        let mut gone = Box::pin(budget.take(10));
        assert!(block_on(poll_immediate(&mut gone)).is_none());
        drop(gone);
        drop(first);
        assert_eq!(budget.used(), 0);
    }
}
