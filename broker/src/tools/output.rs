//! One JSON object a line, and a count of the problems among them.

use serde_json::{json, Value};
use std::io::{self, BufWriter, Write};

/// Where a command tells what it found.
pub struct Output {
    into: BufWriter<Box<dyn Write>>,
    problems: u64,
}

impl Output {
    /// Into this.
    pub fn new(into: impl Write + 'static) -> Self {
        Output {
            into: BufWriter::new(Box::new(into)),
            problems: 0,
        }
    }

    /// A line.
    ///
    /// # Errors
    /// If nobody reads any more.
    pub fn line(&mut self, value: &Value) -> io::Result<()> {
        writeln!(self.into, "{value}")
    }

    /// Something is not as it should be. `kind` is for programs, `why` for people.
    ///
    /// # Errors
    /// If nobody reads any more.
    pub fn problem(&mut self, kind: &str, what: &str, why: &str) -> io::Result<()> {
        self.problems += 1;
        self.line(&json!({ "problem": kind, "at": what, "why": why }))
    }

    /// Something that a reader should know and that is all right.
    ///
    /// # Errors
    /// If nobody reads any more.
    pub fn note(&mut self, kind: &str, what: &str, why: &str) -> io::Result<()> {
        self.line(&json!({ "note": kind, "at": what, "why": why }))
    }

    /// Problems so far.
    pub fn problems(&self) -> u64 {
        self.problems
    }

    /// Out with it.
    ///
    /// # Errors
    /// If nobody reads any more.
    pub fn flush(&mut self) -> io::Result<()> {
        self.into.flush()
    }
}
