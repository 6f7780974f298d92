//! Workload files of the OpenMessaging Benchmark, so that published workloads run as they are.
//!
//! Such a file is a flat YAML mapping. What is named in it takes the place of our defaults; what the command line names
//! goes before both. A name that we do not know is an error: a workload that silently runs as another is worse than none.

use crate::client::BenchError;
use crate::options::Options;
use clap::parser::ValueSource;
use clap::ArgMatches;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::str::FromStr;

/// Keys of ten thousand different kinds, as that benchmark has them.
const KEYS: u64 = 10_000;

/// What a file asks for.
#[derive(Debug, Clone, PartialEq)]
pub struct Workload {
    /// What it is called.
    pub name: String,
    topics: u32,
    partitions_per_topic: i32,
    keys: u64,
    message_size: usize,
    random_ratio: f64,
    payload_file: Option<String>,
    subscriptions_per_topic: usize,
    producers_per_topic: usize,
    consumers_per_subscription: usize,
    producer_rate: u64,
    /// Size of a backlog that is written first, in bytes; 0 is none.
    pub backlog_bytes: u64,
    test_minutes: u64,
    warmup_minutes: u64,
}

impl Workload {
    /// Reads a file's text.
    ///
    /// # Errors
    /// If it is not a flat mapping, or has a name or a value that we do not know.
    pub fn parse(text: &str) -> Result<Self, BenchError> {
        let mut fields = mapping(text)?;
        let randomized = take(&mut fields, "useRandomizedPayloads", false)?;
        let ratio = take(&mut fields, "randomBytesRatio", 0.0)?;
        // How many different payloads there are; ours differ within a batch anyway.
        take(&mut fields, "randomizedPayloadPoolSize", 0)?;
        // It is about the end of a run that is as long as it takes; ours takes the time that it is given.
        take(&mut fields, "backlogDrainRatio", 1.0)?;
        take(&mut fields, "logIntervalMillis", 0)?;
        let distributor: String = take(&mut fields, "keyDistributor", "NO_KEY".to_string())?;
        let workload = Workload {
            name: take(&mut fields, "name", String::new())?,
            topics: take(&mut fields, "topics", 1)?,
            partitions_per_topic: take(&mut fields, "partitionsPerTopic", 1)?,
            keys: match distributor.as_str() {
                "NO_KEY" => 0,
                "KEY_ROUND_ROBIN" | "RANDOM_NANO" => KEYS,
                other => {
                    return Err(BenchError::Options(format!(
                        "workload: keyDistributor {other} is not known"
                    )))
                }
            },
            message_size: take(&mut fields, "messageSize", 1024)?,
            // Without random payloads and without a file, all bytes are zeros there.
            random_ratio: if randomized { ratio } else { 0.0 },
            payload_file: fields
                .remove("payloadFile")
                .filter(|file| !randomized && !file.is_empty()),
            subscriptions_per_topic: take(&mut fields, "subscriptionsPerTopic", 1)?,
            producers_per_topic: take(&mut fields, "producersPerTopic", 1)?,
            consumers_per_subscription: take(&mut fields, "consumerPerSubscription", 1)?,
            producer_rate: take(&mut fields, "producerRate", 0)?,
            backlog_bytes: take(&mut fields, "consumerBacklogSizeGB", 0u64)?.saturating_mul(1 << 30),
            test_minutes: take(&mut fields, "testDurationMinutes", 1)?,
            warmup_minutes: take(&mut fields, "warmupDurationMinutes", 1)?,
        };
        match fields.keys().next() {
            Some(name) => Err(BenchError::Options(format!("workload: {name} is not known"))),
            None => Ok(workload),
        }
    }

    /// The options with what the workload says, where the command line does not say it.
    fn apply(&self, options: &mut Options, given: impl Fn(&str) -> bool, payload_file: Option<PathBuf>) {
        fn set<T>(field: &mut T, value: T, given: bool) {
            if !given {
                *field = value;
            }
        }
        set(&mut options.topics, self.topics, given("topics"));
        set(&mut options.partitions, self.partitions_per_topic, given("partitions"));
        set(&mut options.keys, self.keys, given("keys"));
        set(&mut options.record_bytes, self.message_size, given("record_bytes"));
        set(&mut options.random_ratio, self.random_ratio, given("random_ratio"));
        set(&mut options.payload_file, payload_file, given("payload_file"));
        set(&mut options.consumers, self.subscriptions_per_topic, given("consumers"));
        set(&mut options.producers, self.producers_per_topic, given("producers"));
        let connections = self.consumers_per_subscription;
        set(
            &mut options.consumer_connections,
            connections,
            given("consumer_connections"),
        );
        set(&mut options.rate, self.producer_rate, given("rate"));
        set(&mut options.seconds, self.test_minutes * 60, given("seconds"));
        set(&mut options.warmup_s, self.warmup_minutes * 60, given("warmup_s"));
    }
}

/// Reads the file that `--workload` names, if it does, and puts what it says into the options.
///
/// # Errors
/// If it, or the file of payloads that it names, cannot be read.
pub fn apply(options: &mut Options, arguments: &ArgMatches) -> Result<Option<Workload>, BenchError> {
    let Some(file) = options.workload.clone() else {
        return Ok(None);
    };
    let text = std::fs::read_to_string(&file)
        .map_err(|error| BenchError::Options(format!("workload {}: {error}", file.display())))?;
    let workload = Workload::parse(&text)?;
    let given = |name: &str| is_given(arguments, name);
    let own_values = given("payload_file") || given("random_ratio") || given("record_bytes");
    let payload_file = match &workload.payload_file {
        Some(wanted) if !own_values => Some(payload_file(&file, wanted, workload.message_size)?),
        _ => None,
    };
    workload.apply(options, given, payload_file);
    Ok(Some(workload))
}

/// Whether the command line says it.
pub fn is_given(arguments: &ArgMatches, name: &str) -> bool {
    arguments.value_source(name) == Some(ValueSource::CommandLine)
}

/// The file of payloads: beside the workload, or beside its directory, as that benchmark keeps them.
fn payload_file(workload: &Path, wanted: &str, message_size: usize) -> Result<PathBuf, BenchError> {
    let directory = workload.parent().unwrap_or(Path::new(""));
    let places = [
        PathBuf::from(wanted),
        directory.join(wanted),
        directory.join("..").join(wanted),
    ];
    let Some(found) = places.into_iter().find(|place| place.is_file()) else {
        return Err(BenchError::Options(format!(
            "workload: there is no {wanted}; --payload-file names another, --random-ratio does without"
        )));
    };
    let size = std::fs::metadata(&found)?.len();
    if size != message_size as u64 {
        return Err(BenchError::Options(format!(
            "workload: {} has {size} bytes, messageSize is {message_size}",
            found.display()
        )));
    }
    Ok(found)
}

/// The value of a name, or what it is without.
fn take<T: FromStr>(fields: &mut BTreeMap<String, String>, name: &str, without: T) -> Result<T, BenchError> {
    match fields.remove(name) {
        None => Ok(without),
        Some(value) => value
            .parse()
            .map_err(|_| BenchError::Options(format!("workload: {name} cannot be {value:?}"))),
    }
}

/// Names and values of a flat YAML mapping: plain or quoted scalars, comments, and no more.
fn mapping(text: &str) -> Result<BTreeMap<String, String>, BenchError> {
    let mut fields = BTreeMap::new();
    for (number, line) in text.lines().enumerate() {
        let wrong = |why: &str| BenchError::Options(format!("workload: line {}: {why}", number + 1));
        if line.trim().is_empty() || line.trim_start().starts_with('#') || line.trim_end() == "---" {
            continue;
        }
        if line.starts_with([' ', '\t', '-']) {
            return Err(wrong("only a flat mapping is understood"));
        }
        let (name, value) = line.split_once(':').ok_or_else(|| wrong("there is no colon"))?;
        if !value.is_empty() && !value.starts_with([' ', '\t']) {
            return Err(wrong("a space is missing after the colon"));
        }
        let value = scalar(value.trim()).ok_or_else(|| wrong("this value is not understood"))?;
        if fields.insert(name.trim().to_string(), value).is_some() {
            return Err(wrong("the name is there twice"));
        }
    }
    Ok(fields)
}

/// A scalar without quotes and without the comment behind it.
fn scalar(text: &str) -> Option<String> {
    let Some(quote) = text.chars().next().filter(|char| matches!(char, '"' | '\'')) else {
        let value = text.split(" #").next()?.trim_end();
        // Anchors, lists, blocks and the like.
        return (!value.starts_with(['[', '{', '|', '>', '&', '*', '!'])).then(|| value.to_string());
    };
    let (value, after) = text[1..].split_once(quote)?;
    let after = after.trim_start();
    // An escape could hide a quote.
    (!value.contains('\\') && (after.is_empty() || after.starts_with('#'))).then(|| value.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::options::CommandLine;
    use clap::{CommandFactory, FromArgMatches};

    const SAMPLE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/workloads/two-topics.yaml");

    /// The options of a command line that runs the sample.
    fn options(arguments: &[&str]) -> Result<(Options, Option<Workload>), BenchError> {
        let line = [&["kafscale-bench", "--workload", SAMPLE], arguments].concat();
        let matches = CommandLine::command().get_matches_from(line);
        let mut options = CommandLine::from_arg_matches(&matches).unwrap().load;
        let workload = apply(&mut options, &matches)?;
        Ok((options, workload))
    }

    #[test]
    fn a_file_in_the_published_form_says_what_is_run() {
        let (options, workload) = options(&[]).unwrap();
        assert_eq!(workload.unwrap().name, "two topics: 200 byte records, half random");
        assert_eq!((options.topics, options.partitions, options.record_bytes), (2, 8, 200));
        assert_eq!(
            (options.producers, options.consumers, options.consumer_connections),
            (3, 2, 4)
        );
        assert_eq!((options.rate, options.seconds, options.warmup_s), (20_000, 120, 60));
        assert_eq!((options.random_ratio, options.keys), (0.5, 10_000));
    }

    #[test]
    fn the_command_line_goes_before_the_file() {
        let (options, _) = options(&["--seconds", "5", "--rate", "7", "--consumers", "0"]).unwrap();
        assert_eq!((options.seconds, options.rate, options.consumers), (5, 7, 0));
        assert_eq!((options.topics, options.warmup_s), (2, 60));
    }

    #[test]
    fn quotes_and_comments_are_not_part_of_values() {
        let fields = mapping("---\n# c: d\nname: a: b # c\nfile: \"p/#1\" # c\nother: 'x'\nempty:\n").unwrap();
        let wanted = [("empty", ""), ("file", "p/#1"), ("name", "a: b"), ("other", "x")];
        assert!(fields
            .iter()
            .map(|(name, value)| (name.as_str(), value.as_str()))
            .eq(wanted));
    }

    #[test]
    fn what_is_not_understood_is_refused() {
        for text in [
            "surprise: 1",
            "topics: many",
            "topics: -1",
            "topics: 1\ntopics: 2",
            "topics:\n  - 1",
            "topics: [1]",
            "name: \"no end",
            "name: \"a\" b",
            "topics",
            "topics:1",
            "keyDistributor: SOMETHING",
        ] {
            assert!(Workload::parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_file_of_payloads_must_be_there_and_have_the_size() {
        let directory = std::env::temp_dir().join(format!("kafscale-bench-workload-{}", std::process::id()));
        std::fs::create_dir_all(directory.join("workloads")).unwrap();
        let workload = directory.join("workloads/w.yaml");
        assert!(payload_file(&workload, "payload.data", 3).is_err());
        std::fs::write(directory.join("payload.data"), b"abc").unwrap();
        assert!(payload_file(&workload, "payload.data", 3).unwrap().is_file());
        assert!(payload_file(&workload, "payload.data", 4).is_err());
        std::fs::remove_dir_all(directory).unwrap();
    }
}
