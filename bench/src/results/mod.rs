//! What is kept of a run: figures for programs, histograms for other tools, a page for people.

mod hgrm;
mod html;
mod machine;
mod svg;

use crate::client::BenchError;
use crate::report::Report;
use crate::rounds::{summary, Spread};
use hgrm::Curve;
use indexmap::IndexMap;
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};

/// Figures and their names, in the order in which they are shown.
pub type Figures = IndexMap<String, f64>;

const RUN_FILE: &str = "run.json";
const PAGE_FILE: &str = "report.html";
/// The histograms of a round, and what each of them is.
const HISTOGRAMS: [(&str, &str); 3] = [
    ("publish", "Publish: from when a record was due to its acknowledgement"),
    (
        "schedule_delay",
        "Schedule delay: from when a record was due to when it was sent",
    ),
    (
        "end_to_end",
        "End to end: from when the oldest record of a batch was due to its receipt",
    ),
];

/// What of runs that were kept is shown together.
#[derive(Debug, Clone, clap::Args)]
pub struct ReportOptions {
    /// Directories that `--results` has made, each as DIR or NAME=DIR; without a name, that of the directory is taken.
    #[arg(required = true)]
    pub runs: Vec<String>,
    /// The page to write.
    #[arg(long, default_value = PAGE_FILE)]
    pub output: PathBuf,
}

/// One round of a run, as the file has it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Round {
    figures: Figures,
    records_by_second: Vec<u64>,
    /// Of each of [`HISTOGRAMS`], from files of their own.
    #[serde(skip)]
    curves: Vec<Curve>,
}

/// A run, as the file has it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Run {
    /// What it is called on a page.
    #[serde(skip)]
    name: String,
    /// Where and how it was made.
    #[serde(flatten)]
    about: IndexMap<String, String>,
    rounds: Vec<Round>,
    summary: IndexMap<String, Spread>,
}

impl Run {
    /// Reads what [`write`] has written.
    ///
    /// # Errors
    /// If the files are not there, or are not as they should be; without a histogram that a round has no file for.
    fn read(name: &str, directory: &Path) -> Result<Run, BenchError> {
        let file = directory.join(RUN_FILE);
        let wrong = |why: String| BenchError::Options(format!("{}: {why}", file.display()));
        let text = std::fs::read_to_string(&file).map_err(|error| wrong(error.to_string()))?;
        let mut run: Run = serde_json::from_str(&text).map_err(|error| wrong(error.to_string()))?;
        run.name = name.to_string();
        for (number, round) in run.rounds.iter_mut().enumerate() {
            let curves = HISTOGRAMS.map(|(histogram, _)| hgrm::read(&directory.join(file_name(number, histogram))));
            round.curves = curves.into_iter().collect::<Result<_, _>>()?;
        }
        Ok(run)
    }
}

fn file_name(round: usize, histogram: &str) -> String {
    format!("round-{}-{histogram}.hgrm", round + 1)
}

/// Writes run.json, report.html and, for each round and histogram that has entries, a .hgrm file.
///
/// # Errors
/// If the directory cannot be made or written.
pub fn write(directory: &Path, reports: &[Report]) -> Result<(), BenchError> {
    std::fs::create_dir_all(directory)?;
    for (number, report) in reports.iter().enumerate() {
        for (name, histogram) in report.histograms() {
            let file = directory.join(file_name(number, name));
            match histogram.is_empty() {
                false => std::fs::write(file, hgrm::text(histogram))?,
                // One of an earlier run would be taken for one of this.
                true if file.exists() => std::fs::remove_file(file)?,
                true => {}
            }
        }
    }
    let figures: Vec<Figures> = reports.iter().map(Report::figures).collect();
    let run = Run {
        name: String::new(),
        about: machine::about(),
        summary: summary(&figures),
        rounds: figures
            .into_iter()
            .zip(reports)
            .map(|(figures, report)| Round {
                figures,
                records_by_second: report.produced.by_second.clone(),
                curves: Vec::new(),
            })
            .collect(),
    };
    std::fs::write(directory.join(RUN_FILE), serde_json::to_string_pretty(&run)? + "\n")?;
    // The page is made from what was written, as that of several runs is.
    let run = Run::read("this run", directory)?;
    std::fs::write(directory.join(PAGE_FILE), html::page(&[run]))?;
    Ok(())
}

/// Writes one page of several runs.
///
/// # Errors
/// If a run cannot be read, two have the same name, or the page cannot be written.
pub fn report(options: &ReportOptions) -> Result<String, BenchError> {
    let mut runs: Vec<Run> = Vec::new();
    for word in &options.runs {
        let (name, directory) = match word.split_once('=') {
            Some((name, directory)) => (name.to_string(), Path::new(directory)),
            None => (last_part(Path::new(word)), Path::new(word)),
        };
        if runs.iter().any(|run| run.name == name) {
            let what = format!("two runs are called {name}: call one of them otherwise, by NAME={word}");
            return Err(BenchError::Options(what));
        }
        runs.push(Run::read(&name, directory)?);
    }
    std::fs::write(&options.output, html::page(&runs))?;
    Ok(format!("{} runs in {}\n", runs.len(), options.output.display()))
}

/// The last part of a path; all of it if it ends in dots.
fn last_part(path: &Path) -> String {
    path.file_name()
        .unwrap_or(path.as_os_str())
        .to_string_lossy()
        .to_string()
}

#[cfg(test)]
mod tests;
