//! Empty: this package only pins the sources of a tool, see its Cargo.toml.
