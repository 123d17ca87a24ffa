//! What the benchmarks share: repeated, interleaved runs, and their medians as a table and as JSON.
//!
//! Absolute times say little on a shared machine. Each benchmark therefore runs its subjects in turn, round by round, in one
//! process, and what counts is the ratio to the lower bound of the same run.

pub mod node;
pub mod raw;

use std::fmt::Write as _;
use std::io::Write as _;
use std::path::PathBuf;
use std::process::{Command, Stdio};
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
    /// What nine rounds of ten stay within, seconds.
    pub p90: f64,
    /// What 99 rounds of 100 stay within, seconds.
    pub p99: f64,
    /// Slowest round, seconds.
    pub max: f64,
    /// Median items a second.
    pub rate: f64,
    /// Median of this subject's time over the lower bound's, round by round; where they had different numbers of rounds, of their
    /// medians.
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
                let mut times = seconds(times);
                let ratios = times.iter().zip(&bound).map(|(time, bound)| time / bound).collect();
                times.sort_by(f64::total_cmp);
                let middle = quantile(&times, 50);
                let ratio = if times.len() == bound.len() { median(ratios) } else { middle / median(bound.clone()) };
                Row {
                    work: self.name.clone(),
                    subject: subject.clone(),
                    items: self.items,
                    median: middle,
                    min: quantile(&times, 0),
                    p90: quantile(&times, 90),
                    p99: quantile(&times, 99),
                    max: quantile(&times, 100),
                    rate: precise(self.items) / middle,
                    ratio,
                }
            })
            .collect()
    }
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    quantile(&values, 50)
}

/// The value below which so many hundredths of the sorted values are.
fn quantile(sorted: &[f64], percent: usize) -> f64 {
    let index = (sorted.len() * percent / 100).min(sorted.len().saturating_sub(1));
    sorted.get(index).copied().unwrap_or(f64::NAN)
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
    let _ = writeln!(
        text,
        "{:<38} {:<30} {:>10} {:>10} {:>10} {:>10} {:>12} {:>7}",
        "work", "subject", "median ms", "p90", "p99", "max", "items/s", "ratio"
    );
    for row in rows {
        let [median, p90, p99, max] = [row.median, row.p90, row.p99, row.max].map(|seconds| seconds * 1e3);
        let (work, subject, rate, ratio) = (&row.work, &row.subject, row.rate, row.ratio);
        let _ = writeln!(
            text,
            "{work:<38} {subject:<30} {median:>10.3} {p90:>10.3} {p99:>10.3} {max:>10.3} {rate:>12.0} {ratio:>7.2}",
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

/// Has `nft -f` take a text.
///
/// # Errors
/// When it is missing, or refuses.
pub fn nft_load(text: &str) -> Result<(), String> {
    let mut child = Command::new(peer("nft")?)
        .args(["-f", "-"])
        .stdin(Stdio::piped())
        .spawn()
        .map_err(|error| format!("nft does not start: {error}"))?;
    let mut input = child.stdin.take().ok_or("nft has no input")?;
    input.write_all(text.as_bytes()).map_err(|error| format!("nft does not listen: {error}"))?;
    drop(input);
    let status = child.wait().map_err(|error| error.to_string())?;
    if status.success() { Ok(()) } else { Err("nft -f refused the text".into()) }
}

/// What this process has in memory, MiB, and the most that it had.
///
/// # Errors
/// When the kernel does not say.
pub fn memory() -> Result<(usize, usize), String> {
    let status = std::fs::read_to_string("/proc/self/status").map_err(|error| format!("/proc/self/status: {error}"))?;
    let field = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name)).ok_or("a line is missing")?;
        let kib = line.trim().trim_end_matches(" kB").parse::<usize>().map_err(|error| error.to_string())?;
        Ok::<_, String>(kib / 1024)
    };
    let read = || Ok((field("VmRSS:")?, field("VmHWM:")?));
    read().map_err(|error: String| format!("/proc/self/status: {error}"))
}
