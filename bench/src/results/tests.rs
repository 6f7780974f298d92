use super::*;
use crate::consumer::Consumed;
use crate::options::{CommandLine, Options};
use crate::producer::Produced;
use clap::Parser;
use std::time::Duration;

/// A directory that goes away with it.
struct Directory(PathBuf);

impl Directory {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("kafscale-bench-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&path).unwrap();
        Directory(path)
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn options(words: &[&str]) -> Options {
    CommandLine::parse_from([&["kafscale-bench"], words].concat()).load
}

/// Two seconds in which so many records were acknowledged, each after so many milliseconds.
fn a_report(records: u64, ms: u64) -> Report {
    let mut produced = Produced::none();
    produced.records = records;
    produced.bytes = records * 1024;
    produced.by_second = vec![records / 2, records / 2];
    produced.latency.record_n(ms * 1_000_000, records).unwrap();
    Report {
        options: options(&[]),
        measured: Duration::from_secs(2),
        produced,
        consumed: Consumed::none(),
        broker: None,
        own: None,
        store: None,
        syscalls_per_s: None,
        idle: None,
    }
}

#[test]
fn what_is_written_can_be_read_again() {
    let directory = Directory::new("written");
    write(&directory.0, &[a_report(1_000, 4), a_report(3_000, 8)]).unwrap();
    let run = Run::read("both", &directory.0).unwrap();
    let Spread { median, least, most } = run.summary["records_per_s"];
    assert_eq!((median, least, most), (1_000.0, 500.0, 1_500.0));
    assert_eq!(run.rounds[1].records_by_second, [1_500, 1_500]);
    assert_eq!(run.about["version"], env!("CARGO_PKG_VERSION"));
    let (_, ms) = run.rounds[1].curves[0].last().unwrap();
    assert!((ms - 8.0).abs() < 0.01, "{ms}");
    // Nobody consumed.
    assert!(run.rounds[1].curves[2].is_empty());
    // The figures are in the order in which they are reported.
    let names: Vec<_> = run.rounds[0].figures.keys().collect();
    assert!(
        names.iter().copied().eq(a_report(1_000, 4).figures().keys()),
        "{names:?}"
    );
}

#[test]
fn a_page_has_all_runs_by_the_names_that_they_were_given() {
    let directory = Directory::new("page");
    write(&directory.0.join("first"), &[a_report(1_000, 4)]).unwrap();
    write(
        &directory.0.join("second"),
        &[a_report(4_000_000, 8), a_report(2_000_000, 9)],
    )
    .unwrap();
    let [first, second] = ["first", "second"].map(|name| directory.0.join(name).display().to_string());
    let page = |runs: Vec<String>| {
        let output = directory.0.join("page.html");
        report(&ReportOptions {
            runs,
            output: output.clone(),
        })?;
        Ok::<String, BenchError>(std::fs::read_to_string(output)?)
    };
    let text = page(vec![first.clone(), format!("a <b> & c={second}")]).unwrap();
    assert!(text.contains("<tr><td>first<td class=n>500<td"), "{text}");
    assert!(text.contains("<tr><td>a &lt;b> &amp; c<td class=n>1,500,000<small>1,000,000 – 2,000,000</small>"));
    // Three rounds with percentiles of two histograms (nobody consumed), and over time.
    assert_eq!(text.matches("<polyline").count(), 3 + 3);
    assert!(!text.contains("http"), "it needs something else");
    // Two runs by one name cannot be told apart.
    assert!(page(vec![first.clone(), format!("first={second}")]).is_err());
    assert!(page(vec![format!("{first}-gone")]).is_err());
}

#[test]
fn a_file_that_is_something_else_is_an_error() {
    let directory = Directory::new("other");
    write(&directory.0, &[a_report(1_000, 4)]).unwrap();
    std::fs::write(directory.0.join("round-1-publish.hgrm"), "something else\n1 2\n").unwrap();
    assert!(Run::read("", &directory.0).is_err());
    std::fs::write(directory.0.join(RUN_FILE), "{\"rounds\":3}").unwrap();
    assert!(Run::read("", &directory.0).is_err());
}

#[test]
fn a_histogram_of_an_earlier_run_does_not_stay() {
    let directory = Directory::new("earlier");
    let mut consumed = a_report(1_000, 4);
    consumed.consumed.end_to_end.record(5_000_000).unwrap();
    write(&directory.0, &[consumed]).unwrap();
    write(&directory.0, &[a_report(1_000, 4)]).unwrap();
    assert!(Run::read("", &directory.0).unwrap().rounds[0].curves[2].is_empty());
}
