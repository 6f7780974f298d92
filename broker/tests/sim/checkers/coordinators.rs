//! At most one broker answers for a group at any moment.

use crate::executor::World;
use std::collections::BTreeMap;

/// Looks at all brokers at one moment.
pub struct Coordinators<'a> {
    world: &'a World,
    answering: BTreeMap<u32, i32>,
}

impl<'a> Coordinators<'a> {
    /// Nobody has been looked at.
    pub fn new(world: &'a World) -> Self {
        Coordinators {
            world,
            answering: BTreeMap::new(),
        }
    }

    /// Broker `id` answers for the groups of these slots.
    pub fn look(&mut self, id: i32, slots: Vec<u32>) {
        for slot in slots {
            if let Some(other) = self.answering.insert(slot, id) {
                self.world.violate(format!(
                    "brokers {other} and {id} both coordinate slot {slot} of groups"
                ));
            }
        }
    }
}
