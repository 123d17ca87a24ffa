//! `tortie`: the command line of a Tortie cluster. Every command is in a module of its own; `cli` has the flags, `settings` finds the
//! agent and the datastore, `output` prints.

mod ask;
mod bgp;
mod checksystem;
mod clean;
mod cli;
mod columns;
mod edit;
mod explain;
mod get;
mod hits;
mod ipam;
mod lab;
mod node;
mod output;
mod passages;
mod plan;
mod policy;
mod routes;
mod selector;
mod settings;
mod trace;
mod version;

use std::process::ExitCode;

use anyhow::Result;
use clap::{CommandFactory, Parser};

use crate::cli::{Cli, Command, Node};
use crate::output::Output;
use crate::settings::Settings;

fn main() -> ExitCode {
    let cli = Cli::parse();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    let result = runtime.map_err(anyhow::Error::from).and_then(|runtime| {
        let result = runtime.block_on(run(cli));
        // What is still under way in the background (a connection to an agent) is not worth waiting for.
        runtime.shutdown_background();
        result
    });
    match result {
        Ok(status) => status,
        Err(error) => {
            output::note(&format!("tortie: {error:#}"));
            ExitCode::FAILURE
        }
    }
}

async fn run(cli: Cli) -> Result<ExitCode> {
    let output = Output::new(cli.global.output);
    let settings = Settings::read(&cli.global)?;
    match cli.command {
        Command::Get(args) => get::run(&settings, output, args).await?,
        Command::Apply(files) => edit::apply(&settings, output, &files).await?,
        Command::Delete(args) => edit::delete(&settings, output, &args).await?,
        Command::Validate(files) => edit::validate(output, &files)?,
        Command::Node(Node::Checksystem) => checksystem::run(output).await?,
        Command::Node(Node::Clean(args)) => clean::run(&settings, output, &args).await?,
        Command::Node(Node::Status) => node::run(&settings, output).await?,
        Command::Bgp(command) => bgp::run(&settings, output, command).await?,
        Command::Routes => routes::run(&settings, output).await?,
        Command::Ipam(command) => ipam::run(&settings, output, command).await?,
        Command::Policy(command) => policy::run(&settings, output, command).await?,
        Command::Lab(command) => return lab::run(&settings, output, command).await,
        Command::Version => version::run(&settings, output).await?,
        Command::Completion { shell } => {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut Cli::command(), "tortie", &mut script);
            output::write_out(&String::from_utf8_lossy(&script))?;
        }
    }
    Ok(ExitCode::SUCCESS)
}
