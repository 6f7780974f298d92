//! An etcd that the operator runs, for clusters that name none.

pub mod certificates;
pub mod findings;
pub mod objects;
pub mod secrets;
pub mod tools;
