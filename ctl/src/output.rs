//! Printing: tables as calicoctl and kubectl lay them out, JSON and YAML of the same data, and a pipe that may close early.

use std::io::{self, IsTerminal, Write};

use anyhow::{Context, Result};
use clap::ValueEnum;
use comfy_table::{Cell, ContentArrangement, Table, presets};
use serde::Serialize;

/// `-o`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    /// JSON
    Json,
    /// YAML
    Yaml,
    /// A table with more columns
    Wide,
}

/// Where and how a command prints.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Output {
    /// The format; a plain table without.
    pub(crate) format: Option<Format>,
    /// Whether colours are wanted: a terminal, and no NO_COLOR.
    pub(crate) colour: bool,
}

impl Output {
    /// For stdout.
    pub(crate) fn new(format: Option<Format>) -> Self {
        let refused = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty())
            || std::env::var_os("TERM").is_some_and(|value| value == "dumb");
        Self { format, colour: io::stdout().is_terminal() && !refused }
    }

    /// Whether the table has its further columns.
    pub(crate) fn wide(self) -> bool {
        self.format == Some(Format::Wide)
    }

    /// Prints the data, or what `table` makes of it.
    pub(crate) fn print<T: Serialize + ?Sized>(self, data: &T, table: impl FnOnce(Self) -> String) -> Result<()> {
        let text = match self.format {
            Some(Format::Json) => serde_json::to_string_pretty(data).context("JSON")?,
            Some(Format::Yaml) => serde_saphyr::to_string(&data).context("YAML")?,
            None | Some(Format::Wide) => table(self),
        };
        write_out(&text)
    }
}

/// Writes to stdout with a newline at the end. A reader that went away (`| head -1`) is no error.
pub(crate) fn write_out(text: &str) -> Result<()> {
    let mut out = io::stdout().lock();
    let written = out.write_all(text.as_bytes()).and_then(|()| {
        if !text.is_empty() && !text.ends_with('\n') {
            out.write_all(b"\n")?;
        }
        out.flush()
    });
    match written {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(error).context("stdout"),
        _ => Ok(()),
    }
}

/// Writes a line to stderr. Nobody may be reading there either, and that is no reason to end.
pub(crate) fn note(text: &str) {
    let _ = writeln!(io::stderr().lock(), "{text}");
}

/// A table without lines, as kubectl's: columns three spaces apart.
pub(crate) fn columns<const N: usize>(header: [&str; N], rows: impl IntoIterator<Item = [String; N]>) -> String {
    plain(&header.map(str::to_owned), rows.into_iter().map(Vec::from))
}

/// [`columns`] for a number of columns that is only known at run time.
pub(crate) fn plain(header: &[String], rows: impl IntoIterator<Item = Vec<String>>) -> String {
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_content_arrangement(ContentArrangement::Disabled);
    table.set_header(header.iter().map(Cell::new));
    for row in rows {
        table.add_row(row.iter().map(Cell::new));
    }
    for column in table.column_iter_mut() {
        column.set_padding((0, 3));
    }
    trimmed(&table)
}

/// A table with lines, as calicoctl's.
pub(crate) fn boxed<const N: usize>(header: [&str; N], rows: impl IntoIterator<Item = [String; N]>) -> String {
    let mut table = Table::new();
    table.load_style(presets::ASCII_FULL_CONDENSED).set_content_arrangement(ContentArrangement::Disabled);
    table.set_header(header.iter().map(Cell::new));
    for row in rows {
        table.add_row(row.iter().map(Cell::new));
    }
    trimmed(&table)
}

fn trimmed(table: &Table) -> String {
    table.lines().map(|line| line.trim_end().to_owned() + "\n").collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_are_aligned_and_end_without_spaces() {
        let text =
            columns(["NAME", "IP"], [["a".to_owned(), "10.0.0.1".to_owned()], ["longer".to_owned(), String::new()]]);
        assert_eq!(text, "NAME     IP\na        10.0.0.1\nlonger\n");
    }
}
