//! Comparisons that a test leaves out of a claim, to see that the simulator finds what then goes wrong.
//!
//! Without the feature `planted-bugs` nothing of this is in the program; with it, a comparison is left out only on a thread
//! that has called [`leave_out`].

/// A comparison of a claim.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[cfg_attr(not(feature = "planted-bugs"), allow(dead_code, reason = "named by tests only"))]
pub enum Comparison {
    /// That the stream is open.
    Stream,
}

#[cfg(feature = "planted-bugs")]
thread_local! {
    static LEFT_OUT: std::cell::Cell<Option<Comparison>> = const { std::cell::Cell::new(None) };
}

/// Leaves a comparison out on this thread, or none.
#[cfg(feature = "planted-bugs")]
pub fn leave_out(comparison: Option<Comparison>) {
    LEFT_OUT.set(comparison);
}

#[cfg(feature = "planted-bugs")]
pub(crate) fn is_left_out(comparison: Comparison) -> bool {
    LEFT_OUT.get() == Some(comparison)
}

#[cfg(not(feature = "planted-bugs"))]
pub(crate) const fn is_left_out(_: Comparison) -> bool {
    false
}
