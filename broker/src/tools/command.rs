//! What the command line asks for instead of serving.

/// A command, with what belongs to it alone; the stores are named by the settings.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Tool {
    /// Show what is stored.
    Inspect(What),
    /// Check everything that is stored.
    Verify {
        /// By the objects alone.
        without_metastore: bool,
    },
    /// One round of the reconciler.
    Reconcile {
        /// Only say what it would do.
        dry_run: bool,
    },
    /// Make the metastore anew of the objects.
    Rebuild,
    /// Give up what a missing or damaged object held.
    AcceptLoss {
        /// What is given up.
        what: Loss,
        /// Do it; otherwise only say what would be lost.
        execute: bool,
    },
}

/// What an operator gives up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Loss {
    /// The object that holds this slot of this stream.
    Slot(u64, u64),
    /// What idempotent producers wrote to this partition of a topic.
    Producers(String, i32),
}

/// What is shown.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum What {
    /// Write-ahead objects, of one stream or of all.
    Wal(Option<u64>),
    /// A topic's segments, of one partition or of all.
    Segments {
        /// The topic, or its folder.
        topic: String,
        /// The partition.
        partition: Option<i32>,
    },
    /// An index, by its key.
    Index(String),
    /// Any object, by its key.
    Object(String),
    /// Values of the metastore whose keys begin so.
    Metastore(String),
}

/// The part of `--help` that tells of the commands.
pub const TOOLS_HELP: &str = "  inspect wal [STREAM]                  write-ahead objects, one JSON object a line
  inspect segments TOPIC [PARTITION]    a topic's segments
  inspect index KEY                     the entries of a segment's index
  inspect object KEY                    what an object is, by its key
  inspect metastore [PREFIX]            topics, partitions, streams, groups, offsets ...
  verify [--without-metastore]          check all objects; ends with 0: sound, 1: problems, 2: not checked
  reconcile [--dry-run]                 delete what nothing refers to, or say what would be deleted
  accept-loss STREAM SLOT [--execute]   say, or accept, what a missing or damaged write-ahead object loses
  accept-loss producers TOPIC PARTITION [--execute]   the same for the snapshot of a partition's producers
  rebuild                               write an empty metastore anew from the objects";

impl Tool {
    /// Takes a command and what belongs to it from the front of the arguments; the rest are settings. None if there is
    /// none. Mistakes are sentences for the user.
    pub fn split(args: &[String], mistakes: &mut Vec<String>) -> (Option<Tool>, Vec<String>) {
        let Some(command) = args.first().filter(|first| !first.starts_with('-')) else {
            return (None, args.to_vec());
        };
        let words = args[1..].iter().take_while(|word| !word.starts_with('-')).count();
        let (words, flags) = args[1..].split_at(words);
        let mut flags = flags.to_vec();
        let mut flag = |name: &str| {
            let before = flags.len();
            flags.retain(|flag| flag != name);
            flags.len() < before
        };
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        let tool = match (command.as_str(), &words[..]) {
            ("inspect", words) => inspect(words).map(Tool::Inspect),
            ("verify", []) => Ok(Tool::Verify {
                without_metastore: flag("--without-metastore"),
            }),
            ("reconcile", []) => Ok(Tool::Reconcile {
                dry_run: flag("--dry-run"),
            }),
            ("rebuild", []) => Ok(Tool::Rebuild),
            ("accept-loss", words) => accepted(words).map(|what| Tool::AcceptLoss {
                what,
                execute: flag("--execute"),
            }),
            ("verify" | "reconcile" | "rebuild", [word, ..]) => {
                Err(format!("{command} does not know what to do with {word:?}"))
            }
            // The settings say it of everything that they do not know.
            _ => return (None, args.to_vec()),
        };
        match tool {
            Ok(tool) => (Some(tool), flags),
            Err(mistake) => {
                mistakes.push(mistake);
                (None, flags)
            }
        }
    }
}

fn accepted(words: &[&str]) -> Result<Loss, String> {
    let loss = match words {
        ["producers", topic, partition] => partition.parse().ok().map(|at| Loss::Producers(topic.to_string(), at)),
        [stream, slot] => u64::from_str_radix(stream, 16)
            .ok()
            .zip(slot.parse().ok())
            .map(|(stream, slot)| Loss::Slot(stream, slot)),
        _ => None,
    };
    let usage =
        "accept-loss needs STREAM SLOT (hexadecimal and decimal, as in the object's key) or producers TOPIC PARTITION";
    loss.ok_or_else(|| format!("{usage}, not {:?}", words.join(" ")))
}

fn inspect(words: &[&str]) -> Result<What, String> {
    let number = |text: &str| text.parse().map_err(|_| format!("{text:?} is no partition"));
    match words {
        ["wal"] => Ok(What::Wal(None)),
        ["wal", stream] => u64::from_str_radix(stream, 16)
            .map(|stream| What::Wal(Some(stream)))
            .map_err(|_| format!("{stream:?} is no stream: they are hexadecimal, as in the keys of the objects")),
        ["segments", topic] => Ok(What::Segments {
            topic: topic.to_string(),
            partition: None,
        }),
        ["segments", topic, partition] => Ok(What::Segments {
            topic: topic.to_string(),
            partition: Some(number(partition)?),
        }),
        ["index", key] => Ok(What::Index(key.to_string())),
        ["object", key] => Ok(What::Object(key.to_string())),
        ["metastore"] => Ok(What::Metastore(String::new())),
        ["metastore", prefix] => Ok(What::Metastore(prefix.to_string())),
        _ => Err(format!(
            "inspect what? wal [STREAM], segments TOPIC [PARTITION], index KEY, object KEY or metastore [PREFIX], not {:?}",
            words.join(" ")
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn split(line: &str) -> (Option<Tool>, Vec<String>, Vec<String>) {
        let args: Vec<String> = line.split_whitespace().map(str::to_string).collect();
        let mut mistakes = Vec::new();
        let (tool, rest) = Tool::split(&args, &mut mistakes);
        (tool, rest, mistakes)
    }

    #[test]
    fn a_command_leaves_the_settings_to_the_settings() {
        let (tool, rest, mistakes) = split("reconcile --data-dir x --dry-run --broker-id 3");
        assert_eq!(tool, Some(Tool::Reconcile { dry_run: true }));
        assert_eq!(rest, ["--data-dir", "x", "--broker-id", "3"]);
        assert_eq!(mistakes, [""; 0]);
        assert_eq!(split("--data-dir verify").0, None);
    }

    #[test]
    fn what_to_inspect_comes_before_the_settings() {
        let (tool, rest, _) = split("inspect wal 1f --data-dir x");
        assert_eq!(tool, Some(Tool::Inspect(What::Wal(Some(0x1f)))));
        assert_eq!(rest, ["--data-dir", "x"]);
        let (tool, ..) = split("inspect segments orders 3");
        let topic = "orders".to_string();
        let partition = Some(3);
        assert_eq!(tool, Some(Tool::Inspect(What::Segments { topic, partition })));
    }

    #[test]
    fn a_loss_is_only_shown_unless_execute_is_said() {
        let what = Loss::Slot(0x1f, 12);
        let (tool, ..) = split("accept-loss 1f 12 --data-dir x");
        let execute = false;
        assert_eq!(tool, Some(Tool::AcceptLoss { what, execute }));
        let (tool, rest, _) = split("accept-loss producers orders 3 --execute --data-dir x");
        let what = Loss::Producers("orders".to_string(), 3);
        assert_eq!(tool, Some(Tool::AcceptLoss { what, execute: true }));
        assert_eq!(rest, ["--data-dir", "x"]);
    }

    #[test]
    fn a_mistake_is_told_and_does_not_become_a_broker() {
        for line in [
            "accept-loss 1f",
            "accept-loss orders 0",
            "inspect",
            "inspect wal xyz",
            "inspect segments a b",
            "verify everything",
        ] {
            let (tool, _, mistakes) = split(line);
            assert_eq!((tool, mistakes.len()), (None, 1), "{line}");
        }
        // Not ours: the settings refuse it.
        assert_eq!(split("inspekt wal").1, ["inspekt", "wal"]);
    }
}
