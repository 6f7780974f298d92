//! The cluster: who is in it, what topics there are, who leads what.

pub mod catalog;
pub mod deletion;
pub mod image;
pub(crate) mod leftovers;
pub mod membership;
pub mod reconciler;
pub mod registration;
mod view;

pub(crate) use view::shown;
