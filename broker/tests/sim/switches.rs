//! Kinds of faults that can be left out of a run, to see what a failing seed needs.
//!
//! All of them are drawn from by default. `SIM_SWITCHES=damage,days make sim SEED=n` leaves only those two in; with an empty
//! `SIM_SWITCHES` none is left. Each choice is another run of the seed.

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
    /// Nothing breaks but the way to the metastore: brokers are replaced and do not know it.
    pub metastore_only: bool,
}

impl Switches {
    /// What every seed draws from.
    pub const STANDARD: Switches = Switches {
        damage: true,
        foreign: true,
        days: true,
        undated: true,
        suspension: true,
        metastore_only: false,
    };

    /// None of them.
    pub const NONE: Switches = Switches {
        damage: false,
        foreign: false,
        days: false,
        undated: false,
        suspension: false,
        metastore_only: false,
    };

    /// The standard, or what `SIM_SWITCHES` names.
    pub fn from_environment() -> Switches {
        let Ok(named) = std::env::var("SIM_SWITCHES") else {
            return Switches::STANDARD;
        };
        let mut switches = Switches::NONE;
        for name in named.split(',').map(str::trim).filter(|name| !name.is_empty()) {
            match name {
                "damage" => switches.damage = true,
                "foreign" => switches.foreign = true,
                "days" => switches.days = true,
                "undated" => switches.undated = true,
                "suspension" => switches.suspension = true,
                "metastore_only" => switches.metastore_only = true,
                unknown => panic!(
                    "SIM_SWITCHES: {unknown:?} is none of damage, foreign, days, undated, suspension, metastore_only"
                ),
            }
        }
        switches
    }
}
