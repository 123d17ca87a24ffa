//! The log: to stderr, as lines for people or as JSON. What is logged follows `logSeverityScreen` while the agent runs.

use std::io::IsTerminal;

use tokio::sync::watch;
use tortie_felix::Settings;
use tortie_felix::settings::LogSeverity;
use tracing::{info, warn};
use tracing_subscriber::layer::{Layered, SubscriberExt};
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Registry, fmt, reload};

use crate::cli::{LogFormat, Options};

/// The way to change what is logged.
#[derive(Debug, Clone)]
pub(crate) struct Log {
    filter: reload::Handle<EnvFilter, Registry>,
    /// What the command line says.
    default: String,
}

/// Starts the log. Once a process.
pub(crate) fn init(options: &Options) -> Log {
    let (filter, handle) = reload::Layer::new(filter(&options.log_level));
    let log: Layered<_, Registry> = tracing_subscriber::registry().with(filter);
    let lines = fmt::layer().with_writer(std::io::stderr);
    match options.log_format {
        LogFormat::Text => log.with(lines.with_ansi(std::io::stderr().is_terminal()).with_target(false)).init(),
        LogFormat::Json => log.with(lines.json().flatten_event(true)).init(),
    }
    Log { filter: handle, default: options.log_level.clone() }
}

fn filter(directives: &str) -> EnvFilter {
    EnvFilter::builder().parse_lossy(directives)
}

impl Log {
    /// Follows the settings for ever.
    pub(crate) async fn follow(self, mut settings: watch::Receiver<Settings>) {
        let mut now = None;
        loop {
            let wanted = settings.borrow_and_update().log_level;
            if wanted != now {
                now = wanted;
                let directives = match wanted {
                    Some(severity) => directive(severity),
                    None => self.default.as_str(),
                };
                match self.filter.reload(filter(directives)) {
                    Ok(()) => info!(level = directives, "the log level is changed"),
                    Err(error) => warn!("the log level cannot be changed: {error}"),
                }
            }
            if settings.changed().await.is_err() {
                return;
            }
        }
    }
}

const fn directive(severity: LogSeverity) -> &'static str {
    match severity {
        LogSeverity::Error => "error",
        LogSeverity::Warning => "warn",
        LogSeverity::Info => "info",
        LogSeverity::Debug => "debug",
        LogSeverity::Trace => "trace",
    }
}
