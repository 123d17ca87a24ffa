//! The matrix as a grid: sources down, destinations across, one character a pair.
//!
//! With one port a cell says whether the pair may talk. With several, a cell says "all", "none", or a letter for the ports that pass,
//! and a legend below the grid says which those are.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use crate::ports::Port;
use crate::verdict::{Row, Verdict};

/// How to draw.
#[derive(Debug, Clone, Copy, Default)]
pub struct Style {
    /// ANSI colours.
    pub colour: bool,
    /// Check marks and dots instead of letters of ASCII.
    pub unicode: bool,
    /// Spaces before each line.
    pub indent: usize,
}

impl Style {
    /// The style for stdout as the environment describes it: colours on a terminal without NO_COLOR, marks where the locale has them.
    pub fn of_stdout() -> Self {
        use std::io::IsTerminal;
        let set = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty());
        let dumb = set("TERM").is_some_and(|value| value == "dumb");
        let locale = ["LC_ALL", "LC_CTYPE", "LANG"].into_iter().find_map(set);
        let unicode = locale.is_some_and(|value| {
            let value = value.to_string_lossy().to_ascii_lowercase();
            value.contains("utf-8") || value.contains("utf8")
        });
        Self { colour: std::io::stdout().is_terminal() && set("NO_COLOR").is_none() && !dumb, unicode, indent: 0 }
    }

    /// Text in an ANSI colour, if colours are wanted.
    pub fn paint(self, code: &str, text: &str) -> String {
        if self.colour { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_owned() }
    }

    fn marks(self) -> [&'static str; 3] {
        if self.unicode { ["✓", "·", "!"] } else { ["Y", ".", "!"] }
    }
}

/// What a pair's rows come to.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Cell {
    All,
    None,
    Error,
    Some(Vec<Port>),
}

fn cell(rows: &[&Row]) -> Cell {
    if rows.iter().any(|row| row.verdict == Verdict::Error) {
        return Cell::Error;
    }
    let open: Vec<Port> = rows
        .iter()
        .filter(|row| row.verdict == Verdict::Allow)
        .map(|row| Port { protocol: row.protocol, port: row.port })
        .collect();
    match open.len() {
        0 => Cell::None,
        all if all == rows.len() => Cell::All,
        _ => Cell::Some(open),
    }
}

/// The letter of the `number`th pattern: a to z, then A to Z, then a question mark for the rest.
fn letter(number: usize) -> char {
    ('a'..='z').chain('A'..='Z').nth(number).unwrap_or('?')
}

/// A matrix, arranged for drawing.
struct Grid<'a> {
    pairs: BTreeMap<(&'a str, &'a str), Vec<&'a Row>>,
    sources: Vec<&'a str>,
    destinations: Vec<&'a str>,
}

impl<'a> Grid<'a> {
    fn new(rows: &'a [Row]) -> Self {
        let mut grid = Self { pairs: BTreeMap::new(), sources: Vec::new(), destinations: Vec::new() };
        for row in rows {
            grid.pairs.entry((&row.from, &row.to)).or_default().push(row);
        }
        let sources: BTreeSet<&str> = grid.pairs.keys().map(|(from, _)| *from).collect();
        let destinations: BTreeSet<&str> = grid.pairs.keys().map(|(_, to)| *to).collect();
        // Who is only a source (the outside, a node) comes first and has no number.
        grid.sources = sources.difference(&destinations).chain(sources.intersection(&destinations)).copied().collect();
        grid.destinations = destinations.into_iter().collect();
        grid
    }

    /// A destination's number, as its column is headed.
    fn number(&self, name: &str) -> String {
        let index = self.destinations.iter().position(|other| *other == name);
        index.map(|index| (index + 1).to_string()).unwrap_or_default()
    }

    /// The width of a column.
    fn width(&self) -> usize {
        self.destinations.len().to_string().len() + 1
    }

    fn heading(&self) -> String {
        let width = self.width();
        let columns: Vec<String> = (1..=self.destinations.len()).map(|column| format!("{column:>width$}")).collect();
        columns.concat()
    }

    fn line(&self, source: &str, legend: &mut Legend, style: Style) -> String {
        let width = self.width();
        let cell = |destination: &&str| match self.pairs.get(&(source, destination)) {
            Some(rows) => " ".repeat(width - 1) + &legend.mark(rows, style),
            None => " ".repeat(width),
        };
        self.destinations.iter().map(cell).collect()
    }
}

/// What the marks that were drawn mean.
#[derive(Default)]
struct Legend {
    patterns: Vec<Vec<Port>>,
    errors: bool,
}

impl Legend {
    fn mark(&mut self, rows: &[&Row], style: Style) -> String {
        let [all, none, error] = style.marks();
        match cell(rows) {
            Cell::All => style.paint("32", all),
            Cell::None => style.paint("31", none),
            Cell::Error => {
                self.errors = true;
                style.paint("1;33", error)
            }
            Cell::Some(open) => {
                let index = self.patterns.iter().position(|known| *known == open).unwrap_or_else(|| {
                    self.patterns.push(open);
                    self.patterns.len() - 1
                });
                style.paint("36", &letter(index).to_string())
            }
        }
    }
}

/// Draws the rows.
pub fn draw(rows: &[Row], style: Style) -> String {
    draw_side_by_side(&[("", rows)], style)
}

/// Draws several matrices of the same pairs, each under its title, with one column of names.
pub fn draw_side_by_side(matrices: &[(&str, &[Row])], style: Style) -> String {
    let grids: Vec<Grid> = matrices.iter().map(|(_, rows)| Grid::new(rows)).collect();
    let Some(first) = grids.first() else { return String::new() };
    let name_width =
        first.sources.iter().chain(&first.destinations).map(|name| name.chars().count()).max().unwrap_or(0).max(9);
    let margin = " ".repeat(style.indent);
    let mut legend = Legend::default();
    let mut text = String::new();
    let mut line = |number: &str, name: &str, cells: &[String]| {
        let line = format!("{margin}{number:>3}  {name:<name_width$} {}", cells.join("    "));
        text.push_str(line.trim_end());
        text.push('\n');
    };
    if matrices.iter().any(|(title, _)| !title.is_empty()) {
        let title = |(grid, (title, _)): (&Grid, &(&str, &[Row]))| {
            format!(" {title:<width$}", width = (grid.width() * grid.destinations.len()).saturating_sub(1))
        };
        line("", "", &grids.iter().zip(matrices).map(title).collect::<Vec<_>>());
    }
    line("", "from \\ to", &grids.iter().map(Grid::heading).collect::<Vec<_>>());
    for source in &first.sources {
        let cells: Vec<String> = grids.iter().map(|grid| grid.line(source, &mut legend, style)).collect();
        line(&first.number(source), source, &cells);
    }
    for name in first.destinations.iter().filter(|name| !first.sources.contains(name)) {
        line(&first.number(name), name, &[]);
    }
    let rows: Vec<&Row> = matrices.iter().flat_map(|(_, rows)| *rows).collect();
    explain(&mut text, &rows, &legend, style);
    text
}

fn explain(text: &mut String, rows: &[&Row], legend: &Legend, style: Style) {
    let margin = " ".repeat(style.indent + 5);
    let [all, none, error] = style.marks();
    let ports: BTreeSet<Port> = rows.iter().map(|row| Port { protocol: row.protocol, port: row.port }).collect();
    let list = |ports: &mut dyn Iterator<Item = &Port>| ports.map(ToString::to_string).collect::<Vec<_>>().join(" ");
    let mut parts =
        vec![format!("{} reaches", style.paint("32", all)), format!("{} does not", style.paint("31", none))];
    if legend.errors {
        parts.push(format!("{} error", style.paint("1;33", error)));
    }
    let shown = if ports.len() <= 6 { list(&mut ports.iter()) } else { format!("{} ports", ports.len()) };
    let _ = writeln!(text, "{margin}{}   ({shown})", parts.join("   "));
    for (index, open) in legend.patterns.iter().enumerate() {
        let letter = style.paint("36", &letter(index).to_string());
        let _ = writeln!(text, "{margin}{letter} only {}", list(&mut open.iter()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tortie_api::k8s::Protocol;

    fn row(from: &str, to: &str, port: u16, verdict: Verdict) -> Row {
        Row { from: from.into(), to: to.into(), protocol: Protocol::Tcp, port, verdict, reason: None }
    }

    #[test]
    fn one_port() {
        let rows = [
            row("x/a", "x/a", 80, Verdict::Allow),
            row("x/a", "x/b", 80, Verdict::Deny),
            row("x/b", "x/a", 80, Verdict::Error),
            row("outside", "x/a", 80, Verdict::Allow),
        ];
        let expected = [
            "     from \\ to  1 2",
            "     outside    Y",
            "  1  x/a        Y .",
            "  2  x/b        !",
            "     Y reaches   . does not   ! error   (TCP/80)",
            "",
        ];
        let drawn = draw(&rows, Style::default());
        assert_eq!(drawn, expected.join("\n"));
    }

    #[test]
    fn several_ports_share_letters() {
        let rows = [
            row("x/a", "x/b", 80, Verdict::Allow),
            row("x/a", "x/b", 81, Verdict::Deny),
            row("x/b", "x/a", 80, Verdict::Allow),
            row("x/b", "x/a", 81, Verdict::Deny),
            row("x/a", "x/a", 80, Verdict::Allow),
            row("x/a", "x/a", 81, Verdict::Allow),
        ];
        let drawn = draw(&rows, Style::default());
        assert!(drawn.contains("a only TCP/80"), "{drawn}");
        assert!(!drawn.contains("b only"), "{drawn}");
    }

    #[test]
    fn colour_only_when_asked() {
        let rows = [row("x/a", "x/a", 80, Verdict::Allow)];
        assert!(!draw(&rows, Style::default()).contains('\x1b'));
        assert!(draw(&rows, Style { colour: true, ..Style::default() }).contains("\x1b[32m"));
    }
}
