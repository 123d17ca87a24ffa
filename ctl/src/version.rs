//! `tortie version`.

use std::fmt::Write as _;

use anyhow::Result;
use serde_json::json;
use tortie_admin::types::NodeStatus;

use crate::ask;
use crate::output::Output;
use crate::settings::Settings;

/// This command's version.
const VERSION: &str = env!("CARGO_PKG_VERSION");

pub(crate) async fn run(settings: &Settings, output: Output) -> Result<()> {
    // Without an agent, the client's own version is still an answer.
    let agents: Vec<NodeStatus> = match ask::all::<NodeStatus>(settings, "/v1/status").await {
        Ok(answers) => answers.rows,
        Err(_) => Vec::new(),
    };
    let agents: Vec<(String, String)> = agents.into_iter().map(|status| (status.node, status.version)).collect();
    let list: Vec<_> = agents.iter().map(|(node, version)| json!({"node": node, "version": version})).collect();
    output.print(&json!({"client": VERSION, "agents": list}), |_| {
        let mut text = format!("Client Version:    {VERSION}\n");
        for (node, version) in &agents {
            let _ = writeln!(text, "Agent Version:     {version} ({node})");
        }
        text
    })
}
