//! What must hold whatever happens; each file is one promise of docs/architecture.md.

pub mod bounds;
pub mod coordinators;
pub mod groups;
pub mod ledger;
pub mod ownership;
pub mod placement;
pub mod watermark;
