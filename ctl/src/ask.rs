//! Asking agents: one, or all of a lab at once, their answers joined.

use anyhow::{Result, bail};
use serde::de::DeserializeOwned;
use tokio::task::JoinSet;
use tortie_admin::client::Client;

use crate::settings::Settings;

/// What the agents said.
pub(crate) struct Answers<T> {
    /// One from each agent, in their order.
    pub(crate) rows: Vec<T>,
    /// What went wrong with the others.
    errors: Vec<String>,
    /// Whether more than one agent was asked, so that rows must say whose they are.
    pub(crate) many: bool,
}

impl<T> Answers<T> {
    /// Fails if an agent did not answer. Call it after printing: what the others said is still worth reading.
    pub(crate) fn check(&self) -> Result<()> {
        if self.errors.is_empty() { Ok(()) } else { bail!("{}", self.errors.join("\ntortie: ")) }
    }
}

/// Asks every agent that the settings mean for `path`. Fails when none answers.
pub(crate) async fn all<T: DeserializeOwned + Send + 'static>(
    settings: &Settings,
    path: &'static str,
) -> Result<Answers<T>> {
    let clients = settings.clients()?;
    let many = clients.len() > 1;
    let mut tasks = JoinSet::new();
    for (index, client) in clients.into_iter().enumerate() {
        tasks.spawn(async move { (index, get(&client, path).await) });
    }
    let mut results = tasks.join_all().await;
    results.sort_by_key(|(index, _)| *index);
    let mut answers = Answers { rows: Vec::new(), errors: Vec::new(), many };
    for (_, result) in results {
        match result {
            Ok(answer) => answers.rows.push(answer),
            Err(error) => answers.errors.push(format!("{error:#}")),
        }
    }
    if answers.rows.is_empty() {
        answers.errors.extend(hint(settings));
        answers.check()?;
    }
    Ok(answers)
}

/// What somebody who asked the local agent, and has labs but no agent, most likely meant.
fn hint(settings: &Settings) -> Option<String> {
    let labs = if settings.asks_the_local_agent() { tortie_lab::lifecycle::all_labs() } else { Vec::new() };
    let example = labs.first()?;
    Some(format!("labs are up on this machine ({}): to ask their agents, add --lab {example}", labs.join(", ")))
}

async fn get<T: DeserializeOwned>(client: &Client, path: &str) -> Result<T> {
    Ok(client.get(path).await?)
}

/// A header and rows, with the node in front when several agents were asked.
pub(crate) fn with_node<const N: usize>(
    many: bool,
    header: [&str; N],
    rows: impl IntoIterator<Item = (String, [String; N])>,
) -> String {
    let front = |node: String| if many { vec![node] } else { Vec::new() };
    let mut head = front("NODE".to_owned());
    head.extend(header.map(str::to_owned));
    let rows = rows.into_iter().map(|(node, cells)| {
        let mut row = front(node);
        row.extend(cells);
        row
    });
    crate::output::plain(&head, rows)
}
