//! Collects raw values from flags, environment and file, and checks each against its kind.

use super::table::{find, Kind, Spec, ENV_ALIASES, TABLE};
use super::ReadFile;
use std::collections::BTreeMap;
use std::net::{SocketAddr, ToSocketAddrs};
use std::path::PathBuf;

/// Checked values by setting name. A setting that is absent has no default and was not set.
pub(super) struct Values(BTreeMap<&'static str, Given>);

struct Given {
    text: String,
    /// Where it was set; none for a default.
    origin: Option<String>,
}

impl Values {
    /// Flags win over the environment, that over the file, that over the defaults.
    pub fn collect(
        args: &[String],
        env: &BTreeMap<String, String>,
        read_file: ReadFile<'_>,
        mistakes: &mut Vec<String>,
    ) -> Values {
        let (flags, config) = read_flags(args, mistakes);
        let environment = read_environment(env, mistakes);
        let config = config.or_else(|| env.get("KAFSCALE_CONFIG").filter(|path| !path.is_empty()).cloned());
        let file = config.map_or_else(BTreeMap::new, |path| read_settings_file(&path, read_file, mistakes));

        let mut values = BTreeMap::new();
        for spec in TABLE {
            let default = spec.default.map(|text| Given {
                text: text.to_owned(),
                origin: None,
            });
            values.extend(default.map(|given| (spec.name, given)));
        }
        for source in [file, environment, flags] {
            for (name, given) in source {
                let spec = find(name).expect("sources hold names of the table only");
                match normalise(spec.kind, &given.text) {
                    Ok(text) => drop(values.insert(name, Given { text, ..given })),
                    Err(why) => mistakes.push(format!(
                        "{} is {:?}, but {why}",
                        given.origin.as_deref().unwrap_or(name),
                        shown(spec.kind, &given.text)
                    )),
                }
            }
        }
        Values(values)
    }

    /// One line for each value that somebody set.
    pub fn changed(&self) -> Vec<String> {
        let line = |(name, given): (&&str, &Given)| {
            let kind = find(name).map_or(Kind::Text, |spec| spec.kind);
            given
                .origin
                .as_ref()
                .map(|origin| format!("{name} = {} (from {origin})", shown(kind, &given.text)))
        };
        self.0.iter().filter_map(line).collect()
    }

    /// A text, none if empty or not set.
    pub fn text(&self, name: &str) -> Option<&str> {
        assert!(find(name).is_some(), "{name} is not in the table of settings");
        self.0
            .get(name)
            .map(|given| given.text.as_str())
            .filter(|text| !text.is_empty())
    }

    /// A number or size that may be unset.
    pub fn optional_number<T: TryFrom<i64>>(&self, name: &str) -> Option<T> {
        let number: i64 = self.text(name)?.parse().expect("normalised: a number");
        Some(T::try_from(number).unwrap_or_else(|_| panic!("the bounds of {name} keep it within its type")))
    }

    /// A number or size that has a default.
    pub fn number<T: TryFrom<i64>>(&self, name: &str) -> T {
        self.optional_number(name).expect("a number of the table has a default")
    }

    /// A switch.
    pub fn bool(&self, name: &str) -> bool {
        self.text(name) == Some("true")
    }

    /// A text that may be unset.
    pub fn optional_text(&self, name: &str) -> Option<String> {
        self.text(name).map(str::to_owned)
    }

    /// A path that may be unset.
    pub fn optional_path(&self, name: &str) -> Option<PathBuf> {
        self.text(name).map(PathBuf::from)
    }

    /// An address.
    pub fn address(&self, name: &str) -> SocketAddr {
        self.text(name)
            .and_then(|text| text.parse().ok())
            .expect("normalised: an address with a default")
    }
}

/// A value as it may be logged.
fn shown(kind: Kind, text: &str) -> &str {
    match kind {
        Kind::Secret => "(hidden)",
        _ => text,
    }
}

type Source = BTreeMap<&'static str, Given>;

/// Flags as `--name value` or `--name=value`; a switch alone means true. Also the file named by `--config`.
fn read_flags(args: &[String], mistakes: &mut Vec<String>) -> (Source, Option<String>) {
    let mut source = Source::new();
    let mut config = None;
    let mut args = args.iter().peekable();
    while let Some(arg) = args.next() {
        let (flag, inline) = match arg.split_once('=') {
            Some((flag, value)) => (flag, Some(value.to_owned())),
            None => (arg.as_str(), None),
        };
        let spec = TABLE.iter().find(|spec| spec.flag() == flag);
        if spec.is_none() && flag != "--config" {
            let known = TABLE.iter().map(Spec::flag).chain(["--config".to_owned()]);
            mistakes.push(format!(
                "unknown argument {flag}{}; --help lists all",
                did_you_mean(flag, known)
            ));
            // Its value is no mistake of its own.
            if inline.is_none() && flag.starts_with("--") {
                args.next_if(|next| !next.starts_with("--"));
            }
            continue;
        }
        let is_switch = spec.is_some_and(|spec| spec.kind == Kind::Bool);
        let next = inline.or_else(|| args.next_if(|next| !next.starts_with("--")).cloned());
        let value = match next {
            Some(value) => value,
            None if is_switch => "true".to_owned(),
            None => {
                mistakes.push(format!("{flag} needs a value: {flag} <value>"));
                continue;
            }
        };
        let twice = match spec {
            Some(spec) => source
                .insert(
                    spec.name,
                    Given {
                        text: value,
                        origin: Some(flag.to_owned()),
                    },
                )
                .is_some(),
            None => config.replace(value).is_some(),
        };
        if twice {
            mistakes.push(format!("{flag} is given twice: remove one"));
        }
    }
    (source, config)
}

/// `KAFSCALE_*` variables; one that is empty counts as not set.
fn read_environment(env: &BTreeMap<String, String>, mistakes: &mut Vec<String>) -> Source {
    let mut source = Source::new();
    for (variable, value) in env.iter().filter(|(variable, _)| variable.starts_with("KAFSCALE_")) {
        if value.is_empty() || variable == "KAFSCALE_CONFIG" || is_service_link(variable, value) {
            continue;
        }
        let alias = ENV_ALIASES
            .iter()
            .find(|(alias, _)| alias == variable)
            .map(|(_, name)| *name);
        let spec = TABLE
            .iter()
            .find(|spec| spec.env == variable || alias == Some(spec.name));
        if let Some(spec) = spec {
            let given = Given {
                text: value.clone(),
                origin: Some(variable.clone()),
            };
            if let Some(other) = source.insert(spec.name, given).filter(|other| other.text != *value) {
                let other = other.origin.unwrap_or_default();
                mistakes.push(format!(
                    "{other} and {variable} name the same setting with different values: unset one"
                ));
            }
        } else {
            let known = TABLE.iter().map(|spec| spec.env.to_owned());
            mistakes.push(format!(
                "unknown environment variable {variable}{}; unset it, --help lists all",
                did_you_mean(variable, known)
            ));
        }
    }
    source
}

/// Kubernetes describes each service of the namespace in variables; a service named kafscale-… collides with ours.
fn is_service_link(variable: &str, value: &str) -> bool {
    variable.ends_with("_SERVICE_HOST")
        || variable.contains("_SERVICE_PORT")
        || variable.contains("_TCP_") // KAFSCALE_BROKER_PORT_9092_TCP_ADDR
        || variable.contains("_UDP_")
        || value.starts_with("tcp://")
        || value.starts_with("udp://")
}

fn read_settings_file(path: &str, read_file: ReadFile<'_>, mistakes: &mut Vec<String>) -> Source {
    let mut source = Source::new();
    let text = match read_file(path) {
        Ok(text) => text,
        Err(error) => {
            mistakes.push(format!("cannot read the settings file {path}: {error}"));
            return source;
        }
    };
    let table: toml::Table = match text.parse() {
        Ok(table) => table,
        Err(error) => {
            mistakes.push(format!("the settings file {path} is not valid TOML: {error}"));
            return source;
        }
    };
    for (key, value) in table {
        let Some(spec) = find(&key) else {
            let known = TABLE.iter().map(|spec| spec.name.to_owned());
            mistakes.push(format!(
                "unknown key {key} in {path}{}; remove it",
                did_you_mean(&key, known)
            ));
            continue;
        };
        let text = match value {
            toml::Value::String(text) => text,
            toml::Value::Integer(number) => number.to_string(),
            toml::Value::Boolean(on) => on.to_string(),
            other => {
                let kind = other.type_str();
                mistakes.push(format!(
                    "{key} in {path} is a {kind}; write a string, a number, true or false"
                ));
                continue;
            }
        };
        source.insert(
            spec.name,
            Given {
                text,
                origin: Some(format!("{key} in {path}")),
            },
        );
    }
    source
}

/// Checks a value and gives it the form that `Values` reads; else says what was expected.
fn normalise(kind: Kind, text: &str) -> Result<String, String> {
    let text = text.trim();
    match kind {
        Kind::Number { min, max, unit } => {
            let unit = if unit.is_empty() {
                String::new()
            } else {
                format!(" of {unit}")
            };
            let number: i64 = text.parse().map_err(|_| format!("a whole number{unit} is needed"))?;
            within(number, min, max).map(|number| number.to_string())
        }
        Kind::Bytes { min, max } => within(parse_bytes(text)?, min, max).map(|number| number.to_string()),
        Kind::Bool => match text.to_ascii_lowercase().as_str() {
            "1" | "true" | "yes" | "on" => Ok("true".to_owned()),
            "0" | "false" | "no" | "off" => Ok("false".to_owned()),
            _ => Err("true or false is needed".to_owned()),
        },
        Kind::Address => parse_address(text).map(|address| address.to_string()),
        Kind::Word(words) => {
            let word = text.to_ascii_lowercase();
            let known = words.contains(&word.as_str());
            known
                .then_some(word)
                .ok_or_else(|| format!("one of these is needed: {}", words.join(", ")))
        }
        Kind::Path | Kind::Text | Kind::Secret if text.chars().any(char::is_control) => {
            Err("it has control characters".to_owned())
        }
        Kind::Path | Kind::Text | Kind::Secret => Ok(text.to_owned()),
    }
}

fn within(number: i64, min: i64, max: i64) -> Result<i64, String> {
    if number < min {
        return Err(format!("the smallest value is {min}"));
    }
    if number > max {
        return Err(format!("the largest value is {max}"));
    }
    Ok(number)
}

fn parse_bytes(text: &str) -> Result<i64, String> {
    let units = [("KiB", 1i64 << 10), ("MiB", 1 << 20), ("GiB", 1 << 30)];
    let (digits, unit) = units
        .iter()
        .find_map(|(suffix, unit)| text.strip_suffix(suffix).map(|digits| (digits.trim_end(), *unit)))
        .unwrap_or((text, 1));
    let number: i64 = digits
        .parse()
        .map_err(|_| "a number of bytes is needed, 1048576 or 1MiB for example")?;
    number
        .checked_mul(unit)
        .ok_or_else(|| "that is more than can be counted".to_owned())
}

fn parse_address(text: &str) -> Result<SocketAddr, String> {
    let text = match text.strip_prefix(':') {
        Some(port) => format!("0.0.0.0:{port}"),
        None => text.to_owned(),
    };
    if let Ok(address) = text.parse() {
        return Ok(address);
    }
    let needed = "host:port is needed, 0.0.0.0:9092 for example";
    let (host, port) = text.rsplit_once(':').ok_or(needed)?;
    let port: u16 = port.parse().map_err(|_| needed.to_owned())?;
    // The first IPv4 address if there is one: most clients of a mixed name try that.
    let found: Vec<SocketAddr> = (host, port)
        .to_socket_addrs()
        .map_err(|error| format!("{host} does not resolve: {error}"))?
        .collect();
    let first = found.iter().find(|address| address.is_ipv4()).or(found.first());
    first.copied().ok_or_else(|| format!("{host} resolves to nothing"))
}

/// ` (did you mean X?)` if a known name is close.
fn did_you_mean(name: &str, known: impl Iterator<Item = String>) -> String {
    known
        .map(|candidate| (edit_distance(name, &candidate), candidate))
        .min()
        .filter(|(distance, candidate)| *distance <= candidate.len() / 4)
        .map_or_else(String::new, |(_, candidate)| format!(" (did you mean {candidate}?)"))
}

fn edit_distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, from) in a.chars().enumerate() {
        let mut diagonal = std::mem::replace(&mut row[0], i + 1);
        for (j, to) in b.iter().enumerate() {
            let substituted = diagonal + usize::from(from != *to);
            diagonal = row[j + 1];
            row[j + 1] = substituted.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}
