//! `tortie node status`: calicoctl's table of BGP peers, and before it what the agent says of itself.

use std::fmt::Write as _;

use anyhow::Result;
use serde::Serialize;
use tortie_admin::types::{BgpPeer, NodeStatus};

use crate::ask;
use crate::cli::Node;
use crate::output::{self, Output};
use crate::settings::Settings;

/// One agent's state and its peers.
#[derive(Serialize)]
struct Report {
    #[serde(flatten)]
    status: NodeStatus,
    peers: Vec<BgpPeer>,
}

pub(crate) async fn run(settings: &Settings, output: Output, command: &Node) -> Result<()> {
    let Node::Status = command;
    let statuses = ask::all::<NodeStatus>(settings, "/v1/status").await?;
    let peers = ask::all::<Vec<BgpPeer>>(settings, "/v1/bgp/peers").await?;
    let all: Vec<BgpPeer> = peers.rows.iter().flatten().cloned().collect();
    let reports: Vec<Report> = statuses
        .rows
        .iter()
        .map(|status| Report {
            status: status.clone(),
            peers: all.iter().filter(|peer| peer.node == status.node).cloned().collect(),
        })
        .collect();
    output.print(&reports, |_| reports.iter().map(text).collect::<Vec<_>>().join("\n"))?;
    statuses.check()?;
    peers.check()
}

fn text(report: &Report) -> String {
    let status = &report.status;
    let mut text = String::new();
    let ready = if status.ready { "ready" } else { "not ready" };
    let current = if status.programmed_revision == status.revision {
        "the kernel has the datastore's revision"
    } else {
        "the kernel does not have the datastore's revision yet"
    };
    let _ = writeln!(text, "{}: tortie-node {}, process {}, {ready}", status.node, status.version, status.pid);
    let _ = writeln!(text, "{} endpoints; components {}; {current}", status.endpoints, status.components.join(", "));
    for problem in &status.problems {
        let _ = writeln!(text, "problem: {problem}");
    }
    for warning in &status.warnings {
        let _ = writeln!(text, "warning: {warning}");
    }
    for (family, ipv4) in [("IPv4", true), ("IPv6", false)] {
        let peers: Vec<&BgpPeer> = report.peers.iter().filter(|peer| peer.peer.is_ipv4() == ipv4).collect();
        let _ = writeln!(text, "\n{family} BGP status");
        if peers.is_empty() {
            let _ = writeln!(text, "No {family} peers found.");
            continue;
        }
        let rows = peers.into_iter().map(row);
        text.push_str(&output::boxed(["PEER ADDRESS", "PEER TYPE", "STATE", "SINCE", "INFO"], rows));
    }
    text
}

/// A row in calicoctl's words.
fn row(peer: &BgpPeer) -> [String; 5] {
    let kind = match peer.kind.as_str() {
        "mesh" => "node-to-node mesh",
        "node" => "node specific",
        other => other,
    };
    let up = peer.state == "Established";
    let info = if up || peer.last_error.is_empty() {
        peer.state.clone()
    } else {
        format!("{}: {}", peer.state, peer.last_error)
    };
    let state = if up { "up" } else { "start" };
    [peer.peer.to_string(), kind.to_owned(), state.to_owned(), clock(&peer.since), info]
}

/// An RFC 3339 time as people read it: without the T, fractions and zone (it is UTC).
fn clock(since: &str) -> String {
    since.get(..19).unwrap_or(since).replace('T', " ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_use_calicoctls_words() {
        let peer = BgpPeer {
            node: "node1".into(),
            peer: "172.31.0.3".parse().unwrap(),
            peer_name: Some("node2".into()),
            as_number: 64512,
            kind: "mesh".into(),
            state: "Established".into(),
            since: "2026-01-02T03:04:05.678Z".into(),
            families: std::collections::BTreeMap::new(),
            last_error: "old news".into(),
        };
        let expected = ["172.31.0.3", "node-to-node mesh", "up", "2026-01-02 03:04:05", "Established"];
        assert_eq!(row(&peer), expected.map(str::to_owned));
    }
}
