//! `tortie node status`: calicoctl's table of BGP peers, and before it what the agent says of itself.

use std::fmt::Write as _;

use anyhow::Result;
use serde::Serialize;
use tortie_admin::types::{BgpPeer, Drift, NodeStatus};

use crate::ask;
use crate::output::{self, Output};
use crate::settings::Settings;

/// So many drifts are shown unless the table is to be wide.
const DRIFTS: usize = 5;

/// One agent's state and its peers.
#[derive(Serialize)]
struct Report {
    #[serde(flatten)]
    status: NodeStatus,
    peers: Vec<BgpPeer>,
}

pub(crate) async fn run(settings: &Settings, output: Output) -> Result<()> {
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
    output.print(&reports, |output| {
        reports.iter().map(|report| text(report, output.wide())).collect::<Vec<_>>().join("\n")
    })?;
    statuses.check()?;
    peers.check()
}

fn text(report: &Report, wide: bool) -> String {
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
    text.push_str(&drifts(&status.drifts, if wide { usize::MAX } else { DRIFTS }));
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

/// What others changed of ours in the kernel, the latest first; nothing if nobody did.
fn drifts(drifts: &[Drift], shown: usize) -> String {
    if drifts.is_empty() {
        return String::new();
    }
    let row = |drift: &Drift| {
        let times = if drift.times > 1 { format!(" ({} times)", drift.times) } else { String::new() };
        let state = if drift.repaired { "repaired" } else { "not repaired" };
        let by = drift.by.clone().unwrap_or_else(|| "unknown".to_owned());
        [
            format!("{} ago", age(drift.age_seconds)),
            drift.kind.clone(),
            drift.object.clone(),
            format!("{}{times}", drift.found),
            state.to_owned(),
            by,
        ]
    };
    let rows = drifts.iter().rev().take(shown).map(row);
    let table = output::columns(["WHEN", "WHAT", "OBJECT", "FOUND", "STATE", "BY"], rows);
    let more = match drifts.len().saturating_sub(shown) {
        0 => String::new(),
        more => format!("{more} older ones: -o wide\n"),
    };
    format!("\nDrift: changed by others\n{table}{more}")
}

/// A time span as kubectl prints it.
fn age(seconds: u64) -> String {
    match seconds {
        0..120 => format!("{seconds}s"),
        120..7200 => format!("{}m", seconds / 60),
        7200..172_800 => format!("{}h", seconds / 3600),
        _ => format!("{}d", seconds / 86_400),
    }
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
    fn drift_is_told_with_age_state_and_author_the_latest_first() {
        let drift = |object: &str, age_seconds, by: Option<&str>, times| Drift {
            at: String::new(),
            age_seconds,
            kind: "route".into(),
            object: object.into(),
            found: "no route".into(),
            repaired: times > 1,
            by: by.map(str::to_owned),
            times,
        };
        let all = [drift("10.0.0.0/26", 7300, None, 1), drift("10.0.0.64/26", 59, Some("ip (7)"), 3)];
        let text = drifts(&all, 5);
        let expected = "\nDrift: changed by others\n\
            WHEN      WHAT    OBJECT         FOUND                STATE          BY\n\
            59s ago   route   10.0.0.64/26   no route (3 times)   repaired       ip (7)\n\
            2h ago    route   10.0.0.0/26    no route             not repaired   unknown\n";
        assert_eq!(text, expected);
        assert!(drifts(&all, 1).ends_with("ip (7)\n1 older ones: -o wide\n"), "{}", drifts(&all, 1));
        assert_eq!(drifts(&[], 5), "");
        assert_eq!([age(119), age(120), age(7200), age(200_000)], ["119s", "2m", "2h", "2d"]);
    }

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
