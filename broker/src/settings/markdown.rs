//! `--help` and `docs/settings.md`, both from the table.

use super::table::{Spec, TABLE};
use crate::tools::TOOLS_HELP;

fn default_text(spec: &Spec) -> &'static str {
    match spec.default {
        Some("") | None => "–",
        Some(text) => text,
    }
}

/// What `--help` prints.
pub(super) fn help() -> String {
    let mut text = String::from(
        "A Kafka-compatible broker that keeps its records in an object store.\n\n\
         Usage: kafscale-broker [COMMAND] [--config FILE] [--NAME VALUE]...\n\n\
         Each setting is a flag, an environment variable, or a key in the settings file (TOML), in this order of\n\
         precedence. Without any, a single broker serves on port 9092 with its records in ./kafscale-data.\n\n\
         \x20 --config FILE  (KAFSCALE_CONFIG)\n\
         \x20 --help, --version, --print-settings-markdown\n\n",
    );
    text += &format!("Instead of serving, a command works on the stores that the settings name:\n\n{TOOLS_HELP}\n\n");
    for spec in TABLE {
        text += &format!(
            "  {}  ({}; {}; default {})\n",
            spec.flag(),
            spec.env,
            spec.values(),
            default_text(spec)
        );
        for line in wrap(spec.doc, 104) {
            text += &format!("      {line}\n");
        }
    }
    text.trim_end().to_owned()
}

/// `docs/settings.md`.
pub(super) fn page() -> String {
    let mut text = String::from(
        "# Settings\n\n\
         <!-- Generated from the broker's table of settings by `make docs`. -->\n\n\
         Each setting can be given as a flag (`--flush-interval-ms 5`), as an environment variable, or as a key in a TOML file\n\
         named by `--config` or `KAFSCALE_CONFIG` (`flush_interval_ms = 5`). Flags win over the environment, the environment wins\n\
         over the file. An environment variable that is empty counts as not set. Sizes may be written as `8MiB`.\n\n\
         The broker does not start on an unknown flag, key or `KAFSCALE_*` variable, nor on values that contradict each other: it\n\
         lists all mistakes and what to do. (Variables that Kubernetes sets for a service named `kafscale-…` are ignored.)\n\n\
         | setting | flag and variable | values | default | what it does |\n|---|---|---|---|---|\n",
    );
    for spec in TABLE {
        text += &format!(
            "| `{}` | `{}` `{}` | {} | {} | {} |\n",
            spec.name,
            spec.flag(),
            spec.env,
            spec.values(),
            default_text(spec),
            spec.doc
        );
    }
    text
}

fn wrap(text: &str, width: usize) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    for word in text.split_whitespace() {
        match lines.last_mut() {
            Some(line) if line.chars().count() + 1 + word.chars().count() <= width => {
                line.push(' ');
                line.push_str(word);
            }
            _ => lines.push(word.to_owned()),
        }
    }
    lines
}
