//! `tortie-node`: the agent of one node, one process for interfaces, routes, policy and BGP.
//!
//! Called as `tortie-cni` (by its name in the CNI plugin folder) the same binary is the CNI plugin, a thin client of the agent.
//! [`agent`] says which tasks there are and who owns what.

mod admin;
mod agent;
mod bgp;
mod cli;
mod controller;
mod convert;
mod counts;
mod health;
mod host_firewall;
mod instruments;
mod keeper;
mod logging;
mod memory;
mod metrics;
mod owner;
mod record;
mod rundir;
mod serve;
mod sole;
mod trace;
mod watch;
mod writers;

use std::ffi::OsStr;
use std::path::Path;
use std::process::ExitCode;

use clap::Parser;

fn main() -> ExitCode {
    let called = std::env::args_os().next().unwrap_or_default();
    if Path::new(&called).file_name() == Some(OsStr::new("tortie-cni")) {
        return tortie_cni::plugin::main();
    }
    let cli::Command::Run(options) = cli::Cli::parse().command;
    memory::share_one_arena();
    let log = logging::init(&options);
    match agent::run(&options, log) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!("{error:#}");
            ExitCode::FAILURE
        }
    }
}
