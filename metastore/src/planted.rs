//! A bug planted on purpose: claims that do not compare the record of the claimer's stream.
//!
//! Without the feature `planted-bugs` nothing of this is in the program; with it, the bug is in force only on a thread that has
//! called [`ignore_stream`].

#[cfg(feature = "planted-bugs")]
thread_local! {
    static STREAM_IGNORED: std::cell::Cell<bool> = const { std::cell::Cell::new(false) };
}

/// Puts the bug in force on this thread, or ends it.
#[cfg(feature = "planted-bugs")]
pub fn ignore_stream(ignore: bool) {
    STREAM_IGNORED.set(ignore);
}

/// Whether it is in force.
#[cfg(feature = "planted-bugs")]
pub(crate) fn stream_is_ignored() -> bool {
    STREAM_IGNORED.get()
}

/// Whether it is in force: never.
#[cfg(not(feature = "planted-bugs"))]
pub(crate) const fn stream_is_ignored() -> bool {
    false
}
