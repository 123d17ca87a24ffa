//! `tortie lab`: a cluster on this machine.

use std::fmt::Write as _;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, anyhow};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use tokio::signal::unix::{SignalKind, signal};
use tortie_lab::lifecycle::{self, Report};
use tortie_lab::name::Paths;
use tortie_lab::probe::Pace;
use tortie_lab::process::Tools;
use tortie_lab::query::{self, Wanted};
use tortie_lab::{Lab, demo, responder};

use crate::cli::{Family, Lab as Command};
use crate::output::{self, Output};
use crate::policy::print_rows;
use crate::settings::Settings;

/// What a shell reports of a command that Ctrl-C ended.
const INTERRUPTED: u8 = 130;

pub(crate) async fn run(settings: &Settings, output: Output, command: Command) -> Result<ExitCode> {
    let name = settings.lab();
    let progress = Progress::new();
    let open = || -> Result<Lab> {
        let executable = std::env::current_exe().context("the path of this program")?;
        Ok(Lab::new(name, Tools::beside(&executable)?, progress.report())?)
    };
    match command {
        Command::Up { nodes, filename, wait, keep } => {
            let lab = open()?;
            let up = lab.up(&filename, nodes.into(), wait.timeout, &warn);
            let result = interruptible(up).await;
            progress.clear();
            match result {
                Some(Ok(())) => output::write_out(&summary(&lab)?)?,
                Some(Err(error @ tortie_lab::Error::Exists(_))) => return Err(error.into()),
                Some(Err(error)) => {
                    if keep {
                        return Err(anyhow!(error).context(format!(
                            "the lab {name:?} is not up; what there is stays for a look until `tortie lab down --lab {name}`"
                        )));
                    }
                    lab.down()?;
                    return Err(error.into());
                }
                None => {
                    lab.down()?;
                    return Ok(ExitCode::from(INTERRUPTED));
                }
            }
        }
        Command::Apply { filename, wait } => {
            let result = open()?.apply(&filename, wait.timeout, &warn).await;
            progress.clear();
            result?;
        }
        Command::Delete { filename, wait } => {
            let result = open()?.delete(&filename, wait.timeout, &warn).await;
            progress.clear();
            result?;
        }
        Command::Down { all } => {
            let labs = if all { lifecycle::all_labs() } else { vec![name.to_owned()] };
            let executable = std::env::current_exe().context("the path of this program")?;
            for name in labs {
                // Taking down needs no agent binary: it may be gone, or of another version.
                let tools = Tools { node: executable.with_file_name("tortie-node"), tortie: executable.clone() };
                let was_there = Lab::new(&name, tools, progress.report())?.down();
                progress.clear();
                if !was_there? {
                    output::note(&format!("tortie: warning: there is no lab {name:?}"));
                }
            }
        }
        Command::Ps => {
            let ps = query::ps(name).await?;
            output.print(&ps, |_| processes(&ps))?;
        }
        Command::Probe { from, to, ports, family, jobs, timeout } => {
            let lab = open()?;
            let wanted = Wanted { from, to, ports, ipv6: family == Family::Ipv6 };
            let pace = Pace { jobs: jobs.into(), timeout };
            let rows = query::probe(&lab, &wanted, pace).await;
            progress.clear();
            print_rows(output, &rows?)?;
        }
        Command::Exec { place, command } => {
            let error = query::exec(name, &place, &command);
            return Err(error.into());
        }
        Command::Demo => {
            let lab = open()?;
            return demo(&lab, &progress).await;
        }
        Command::Serve => responder::serve(&Paths::new(name).responder_socket()).await?,
    }
    Ok(ExitCode::SUCCESS)
}

async fn demo(lab: &Lab, progress: &Progress) -> Result<ExitCode> {
    demo::clean_up_after_a_killed_one(lab)?;
    if lab.paths().root.exists() {
        return Err(tortie_lab::Error::Exists(lab.name().to_owned()).into());
    }
    let result = interruptible(demo::run(lab, progress.printer())).await;
    progress.clear();
    // Whatever became of the story, nothing of it may stay.
    let down = lab.down();
    match result {
        Some(Ok(true)) => {
            down?;
            Ok(ExitCode::SUCCESS)
        }
        Some(Ok(false)) => {
            down?;
            Ok(ExitCode::FAILURE)
        }
        Some(Err(error)) => Err(error.into()),
        None => {
            down?;
            output::note("\ntortie: interrupted; everything is cleaned up");
            Ok(ExitCode::from(INTERRUPTED))
        }
    }
}

/// Runs the future until it ends, or to `None` when Ctrl-C, SIGTERM or SIGHUP comes first.
async fn interruptible<T>(work: impl Future<Output = T>) -> Option<T> {
    let signals = async {
        let (Ok(mut interrupt), Ok(mut terminate), Ok(mut hangup)) =
            (signal(SignalKind::interrupt()), signal(SignalKind::terminate()), signal(SignalKind::hangup()))
        else {
            return std::future::pending().await;
        };
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
            _ = hangup.recv() => {}
        }
    };
    tokio::select! {
        result = work => Some(result),
        () = signals => None,
    }
}

fn warn(text: &str) {
    output::note(&format!("tortie: warning: {text}"));
}

fn summary(lab: &Lab) -> Result<String> {
    let state = lab.state()?;
    let flag = if lab.name() == "lab" { String::new() } else { format!(" --lab {}", lab.name()) };
    Ok(format!(
        "The lab {:?} is up: {} nodes, {} pods. Look around with `tortie lab ps{flag}`, `tortie lab probe{flag}`.\n",
        lab.name(),
        state.nodes.len(),
        state.pods.len()
    ))
}

fn processes(ps: &query::Ps) -> String {
    let nodes = ps.nodes.iter().map(|node| {
        let pid = node.pid.map_or_else(|| "-".to_owned(), |pid| pid.to_string());
        [node.name.clone(), node.netns.clone(), node.ip.to_string(), pid]
    });
    let mut text = output::columns(["NODE", "NETNS", "IP", "AGENT"], nodes);
    let list = |ips: &[std::net::IpAddr]| ips.iter().map(ToString::to_string).collect::<Vec<_>>().join(",");
    if !ps.pods.is_empty() {
        let pods = ps.pods.iter().map(|pod| {
            let ready = if pod.ready { "yes" } else { "no" };
            [
                format!("{}/{}", pod.namespace, pod.name),
                pod.node.clone(),
                pod.netns.clone(),
                list(&pod.ips),
                ready.to_owned(),
            ]
        });
        text.push('\n');
        text.push_str(&output::columns(["POD", "NODE", "NETNS", "IPS", "READY"], pods));
    }
    let _ = writeln!(text, "\nOutside is the namespace {} ({}).", ps.outside.netns, list(&ps.outside.ips));
    text
}

/// A spinner with what is going on, on a terminal only.
struct Progress(ProgressBar);

impl Progress {
    fn new() -> Self {
        let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr());
        if let Ok(style) = ProgressStyle::with_template("{spinner} {msg} ({elapsed})") {
            bar.set_style(style);
        }
        Self(bar)
    }

    fn report(&self) -> Report {
        let bar = self.0.clone();
        Arc::new(move |text| {
            bar.set_message(text.to_owned());
            bar.enable_steady_tick(Duration::from_millis(100));
        })
    }

    /// Prints to stdout without tearing the spinner. A reader that went away stops nothing: the lab must still be taken down.
    fn printer(&self) -> demo::Print {
        let bar = self.0.clone();
        Arc::new(move |text| {
            let _ = bar.suspend(|| output::write_out(text));
        })
    }

    fn clear(&self) {
        self.0.finish_and_clear();
    }
}
