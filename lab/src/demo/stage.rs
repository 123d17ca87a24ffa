//! What the demo prints: numbered steps, each with the time it took, calm and within 100 columns.

use std::fmt::Write as _;
use std::sync::Arc;
use std::time::Instant;

use crate::grid::Style;

/// The width of everything.
const WIDTH: usize = 100;

/// Prints one piece of text.
pub type Print = Arc<dyn Fn(&str) + Send + Sync>;

/// Where the story is told.
pub(super) struct Stage {
    print: Print,
    pub(super) style: Style,
    step: usize,
    began: Instant,
    since: Instant,
    failures: Vec<String>,
}

impl Stage {
    pub(super) fn new(print: Print) -> Self {
        let now = Instant::now();
        let style = Style { indent: 4, ..Style::of_stdout() };
        Self { print, style, step: 0, began: now, since: now, failures: Vec::new() }
    }

    /// Begins a step.
    pub(super) fn begin(&mut self, title: &str) {
        self.step += 1;
        self.since = Instant::now();
        let heading = self.style.paint("1", &format!("{:>2}  {title}", self.step));
        (self.print)(&format!("\n{heading}\n"));
    }

    /// Ends a step: what came of it unless something differed, and how long it took.
    pub(super) fn end(&self, result: &str) {
        let prefix = format!("step {}:", self.step);
        let differs = self.failures.iter().any(|failure| failure.starts_with(&prefix));
        let result = if differs { "this step differs from what was expected" } else { result };
        let took = format!("{:.2} s", self.since.elapsed().as_secs_f64());
        let dots = WIDTH.saturating_sub(4 + result.chars().count() + took.len() + 2).max(3);
        let dots = self.style.paint("2", &".".repeat(dots));
        (self.print)(&format!("    {result} {dots} {took}\n"));
    }

    /// A line of the story.
    pub(super) fn line(&self, text: &str) {
        (self.print)(&format!("    {text}\n"));
    }

    /// Text that is laid out already.
    pub(super) fn block(&self, text: &str) {
        (self.print)(text);
    }

    /// Text as is, each line indented and dim.
    pub(super) fn quote(&self, text: &str) {
        for line in text.lines() {
            (self.print)(&format!("      {}\n", self.style.paint("2", line)));
        }
    }

    /// A table: columns as wide as they must be, two spaces apart.
    pub(super) fn table(&self, rows: &[Vec<String>]) {
        let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
        let cell = |row: &Vec<String>, column: usize| row.get(column).cloned().unwrap_or_default();
        let width = |column| rows.iter().map(|row| cell(row, column).chars().count()).max().unwrap_or(0);
        let widths: Vec<usize> = (0..columns).map(width).collect();
        let mut text = String::new();
        for row in rows {
            let mut line = String::from("    ");
            for (column, width) in widths.iter().enumerate() {
                let _ = write!(line, "{:<width$}  ", cell(row, column));
            }
            let _ = writeln!(text, "{}", line.trim_end());
        }
        (self.print)(&text);
    }

    /// Something is not as it should be: the demo goes on, and ends with exit status 1.
    pub(super) fn fail(&mut self, text: &str) {
        self.failures.push(format!("step {}: {text}", self.step));
        let mark = self.style.paint("1;31", "DIFFERS");
        (self.print)(&format!("    {mark} {text}\n"));
    }

    /// The last words; whether all went well.
    pub(super) fn close(&self) -> bool {
        let total = self.began.elapsed().as_secs_f64();
        if self.failures.is_empty() {
            let well = self.style.paint("1;32", "All as expected.");
            (self.print)(&format!("\n{well} {} steps in {total:.1} s; nothing is left behind.\n", self.step));
            return true;
        }
        let badly = self.style.paint("1;31", &format!("{} things differ:", self.failures.len()));
        (self.print)(&format!("\n{badly}\n"));
        for failure in &self.failures {
            (self.print)(&format!("  {failure}\n"));
        }
        false
    }
}
