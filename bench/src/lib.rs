//! What the benchmarks share: repeated, interleaved runs, and their medians as a table and as JSON.
//!
//! Absolute times say little on a shared machine. Each benchmark therefore runs its subjects in turn, round by round, in one
//! process, and what counts is the ratio to the lower bound of the same run.

use std::fmt::Write as _;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use serde::Serialize;

/// One subject's times on one piece of work.
#[derive(Debug, Clone, Serialize)]
pub struct Row {
    /// The piece of work.
    pub work: String,
    /// Who did it.
    pub subject: String,
    /// How many items it is about.
    pub items: usize,
    /// Median of the rounds, seconds.
    pub median: f64,
    /// Fastest round, seconds.
    pub min: f64,
    /// Slowest round, seconds.
    pub max: f64,
    /// Median items a second.
    pub rate: f64,
    /// Median of this subject's time over the lower bound's, round by round.
    pub ratio: f64,
}

/// Times of several subjects on one piece of work; the first subject is the lower bound.
#[derive(Debug)]
pub struct Work {
    name: String,
    items: usize,
    subjects: Vec<(String, Vec<Duration>)>,
}

impl Work {
    /// A piece of work over so many items.
    pub fn new(name: &str, items: usize) -> Self {
        Self { name: name.into(), items, subjects: Vec::new() }
    }

    /// Times one round of one subject.
    ///
    /// # Errors
    /// When the subject fails.
    pub fn time<E>(&mut self, subject: &str, run: impl FnOnce() -> Result<(), E>) -> Result<(), E> {
        let start = Instant::now();
        run()?;
        self.add(subject, start.elapsed());
        Ok(())
    }

    /// Adds a time that was taken elsewhere.
    pub fn add(&mut self, subject: &str, time: Duration) {
        match self.subjects.iter_mut().find(|(name, _)| name == subject) {
            Some((_, times)) => times.push(time),
            None => self.subjects.push((subject.into(), vec![time])),
        }
    }

    /// The result, a row a subject.
    pub fn rows(&self) -> Vec<Row> {
        let seconds = |times: &[Duration]| times.iter().map(Duration::as_secs_f64).collect::<Vec<_>>();
        let bound = self.subjects.first().map(|(_, times)| seconds(times)).unwrap_or_default();
        self.subjects
            .iter()
            .map(|(subject, times)| {
                let times = seconds(times);
                let ratios = times.iter().zip(&bound).map(|(time, bound)| time / bound).collect();
                let middle = median(times.clone());
                Row {
                    work: self.name.clone(),
                    subject: subject.clone(),
                    items: self.items,
                    median: middle,
                    min: times.iter().copied().fold(f64::INFINITY, f64::min),
                    max: times.iter().copied().fold(0.0, f64::max),
                    rate: precise(self.items) / middle,
                    ratio: median(ratios),
                }
            })
            .collect()
    }
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

fn precise(items: usize) -> f64 {
    u32::try_from(items).map_or(f64::NAN, f64::from)
}

/// Prints the rows, and writes them as JSON where `--json FILE` says.
///
/// # Errors
/// When the file cannot be written, or the arguments are wrong.
pub fn report(rows: &[Row]) -> Result<(), String> {
    let mut text = String::new();
    let _ = writeln!(text, "{:<34} {:<30} {:>12} {:>14} {:>7}", "work", "subject", "median ms", "items/s", "ratio");
    for row in rows {
        let _ = writeln!(
            text,
            "{:<34} {:<30} {:>12.3} {:>14.0} {:>7.2}",
            row.work,
            row.subject,
            row.median * 1e3,
            row.rate,
            row.ratio
        );
    }
    print!("{text}");
    let mut args = std::env::args().skip(1);
    match (args.next().as_deref(), args.next()) {
        (None, _) => Ok(()),
        (Some("--json"), Some(file)) => {
            let file = PathBuf::from(file);
            let json = serde_json::to_string_pretty(rows).map_err(|error| error.to_string())?;
            std::fs::write(&file, json + "\n").map_err(|error| format!("{}: {error}", file.display()))
        }
        _ => Err("usage: [--json FILE]".into()),
    }
}

/// A peer program, from `TORTIE_PEERS` or `target/peers/bin`.
///
/// # Errors
/// When it is missing.
pub fn peer(name: &str) -> Result<PathBuf, String> {
    let directory = std::env::var_os("TORTIE_PEERS")
        .map_or_else(|| PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../target/peers/bin")), PathBuf::from);
    let path = directory.join(name);
    if path.exists() { Ok(path) } else { Err(format!("{} is missing: run `make peers`", path.display())) }
}
