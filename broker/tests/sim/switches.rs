//! Kinds of faults that are drawn only where they are switched on: what not every part of the broker withstands yet.
//!
//! `SIM_SWITCHES=damage,days make sim SEED=n` switches some on by hand. Once a kind is withstood, it belongs into
//! [`Switches::STANDARD`].

/// What a run may draw besides the faults that are always there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Switches {
    /// Objects are lost, cut, changed or swapped.
    pub damage: bool,
    /// Records of an unknown version stand in the metastore for a while.
    pub foreign: bool,
    /// Faults that last longer than fences live.
    pub days: bool,
    /// Records do not say when they were made.
    pub undated: bool,
    /// Machines are suspended, and their monotonic clocks with them.
    pub suspension: bool,
}

impl Switches {
    /// What every seed draws from.
    pub const STANDARD: Switches = Switches {
        damage: true,
        foreign: true,
        days: true,
        undated: true,
        suspension: true,
    };

    /// The standard, and what `SIM_SWITCHES` names.
    pub fn from_environment() -> Switches {
        let mut switches = Switches::STANDARD;
        for name in std::env::var("SIM_SWITCHES").unwrap_or_default().split(',') {
            match name.trim() {
                "" => {}
                "damage" => switches.damage = true,
                "foreign" => switches.foreign = true,
                "days" => switches.days = true,
                "undated" => switches.undated = true,
                "suspension" => switches.suspension = true,
                unknown => panic!("SIM_SWITCHES: {unknown:?} is none of damage, foreign, days, undated, suspension"),
            }
        }
        switches
    }
}
