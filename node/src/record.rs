//! A run as lines of JSON: first how the core was set up, then each event with its time, and what the core then wanted done.
//!
//! The core has no clock and no IO, so the events alone make it take the same actions again: a recording is a bug report that runs.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::Path;

use anyhow::{Context, Result};
use serde::Serialize;
use tortie_felix::{Action, Config, Event, Millis};

/// One line.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
enum Line<'a> {
    Config(&'a Config),
    Event { at: Millis, event: &'a Event },
    Timeout { at: Millis },
    Poll,
    Action(&'a Action),
}

/// Writes a recording; does nothing without a file.
#[derive(Debug, Default)]
pub(crate) struct Recorder(Option<BufWriter<File>>);

impl Recorder {
    /// Starts a recording, if there is a path.
    pub(crate) fn open(path: Option<&Path>, config: &Config) -> Result<Self> {
        let Some(path) = path else { return Ok(Self(None)) };
        let file = File::create(path).with_context(|| format!("cannot record to {}", path.display()))?;
        let mut recorder = Self(Some(BufWriter::new(file)));
        recorder.write(&Line::Config(config));
        Ok(recorder)
    }

    pub(crate) fn event(&mut self, at: Millis, event: &Event) {
        self.write(&Line::Event { at, event });
    }

    pub(crate) fn timeout(&mut self, at: Millis) {
        self.write(&Line::Timeout { at });
    }

    /// The core is now asked for actions until it has none.
    pub(crate) fn poll(&mut self) {
        self.write(&Line::Poll);
    }

    pub(crate) fn action(&mut self, action: &Action) {
        self.write(&Line::Action(action));
    }

    /// Hands what was written to the kernel, so that a killed agent leaves whole lines.
    pub(crate) fn flush(&mut self) {
        if self.0.as_mut().is_some_and(|file| file.flush().is_err()) {
            self.give_up();
        }
    }

    fn write(&mut self, line: &Line<'_>) {
        let Some(file) = &mut self.0 else { return };
        let written = serde_json::to_writer(&mut *file, line).map_err(std::io::Error::from);
        if written.and_then(|()| file.write_all(b"\n")).is_err() {
            self.give_up();
        }
    }

    fn give_up(&mut self) {
        self.0 = None;
        tracing::warn!("the recording ends here: its file cannot be written");
    }
}
