//! `tortie-node`: the agent of one node, one process for interfaces, routes, policy and BGP.
//!
//! Called as `tortie-cni` (by its name in the CNI plugin folder) the same binary is the CNI plugin, a thin client of the agent; as
//! `loopback` it is the plugin that brings a pod's loopback interface up. Called as a program for firewalls, as links in the agent's image
//! do, it becomes that of the machine ([`host_tool`]).
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
mod host_tool;
mod install;
mod instruments;
mod keeper;
mod life;
mod logging;
mod memory;
mod metrics;
mod owner;
mod progress;
mod record;
mod rundir;
mod serve;
mod sole;
mod trace;
mod tunnels;
mod watch;
mod writers;

use std::ffi::OsStr;
use std::path::Path;
use std::process::ExitCode;

use clap::Parser;

fn main() -> ExitCode {
    let mut arguments = std::env::args_os();
    let called = arguments.next().unwrap_or_default();
    match Path::new(&called).file_name().and_then(OsStr::to_str) {
        Some("tortie-cni") => return tortie_cni::plugin::main(),
        Some("loopback") => return tortie_cni::loopback::main(),
        Some(name) if host_tool::is_one(name) => return host_tool::become_it(name, arguments),
        _ => {}
    }
    let options = match cli::Cli::parse().command {
        cli::Command::Run(options) => options,
        cli::Command::CniUninstall(folders) => return report(install::uninstall(&folders.into())),
    };
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

/// How a command ended that is not the agent.
fn report(result: anyhow::Result<()>) -> ExitCode {
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("tortie-node: {error:#}");
            ExitCode::FAILURE
        }
    }
}
