//! `tortie policy explain`: why a flow passes or does not. Each direction by itself: tier by tier what was asked, what it said, and why
//! what did not fit did not; on live nodes also where the deciding rule is in the kernel.

use std::fmt::Write as _;
use std::net::IpAddr;

use anyhow::Result;
use serde::Serialize;
use tortie_admin::client::Client;
use tortie_admin::types::{NodeStatus, PolicyRule, TraceReport};
use tortie_api::k8s::PolicyType;
use tortie_policy::explain::{Explanation, Route, Side, Step};
use tortie_policy::matrix::Verdict;
use tortie_policy::offline::Offline;
use tortie_policy::oracle::{Question, Traffic, Wanted};

use crate::cli::Explain;
use crate::output::{Output, note};
use crate::passages::{self, Passed};
use crate::policy::cluster;
use crate::settings::Settings;

/// An explanation, and where the deciding rules are.
#[derive(Serialize)]
struct Explained {
    #[serde(flatten)]
    explanation: Explanation,
    /// What host endpoints on its way make of it; empty where none has a say.
    #[serde(rename = "hostEndpoints", skip_serializing_if = "Vec::is_empty")]
    host_endpoints: Vec<Passed>,
    /// The rules of nodes' tables that decide; empty where no agent was asked.
    #[serde(rename = "nftRules", skip_serializing_if = "Vec::is_empty")]
    nft_rules: Vec<NftRule>,
    /// What really happened, on each node; empty unless it was traced.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    trace: Vec<TraceReport>,
}

/// A rule of a node's table that decides a direction.
#[derive(Serialize)]
struct NftRule {
    direction: &'static str,
    node: String,
    #[serde(flatten)]
    rule: PolicyRule,
}

/// What the flags ask about.
pub(crate) fn question(args: &Explain) -> Result<Question> {
    let wanted = Wanted {
        protocol: args.protocol.clone(),
        port: args.port,
        source_port: args.source_port,
        icmp_type: args.icmp_type,
        icmp_code: args.icmp_code,
    };
    let family = args.family.map(Into::into);
    Ok(Question { from: args.from.parse()?, to: args.to.parse()?, traffic: Traffic::try_from(&wanted)?, family })
}

pub(crate) async fn run(settings: &Settings, output: Output, args: &Explain) -> Result<()> {
    let question = question(args)?;
    let cluster = cluster(settings, &args.manifests).await?;
    let mut explanation = cluster.explain(&question)?;
    let host_endpoints = passages::of(&cluster, &question, &explanation.route);
    heed(&mut explanation, &host_endpoints);
    if let Some(translated) = translated(&cluster, &explanation.route) {
        note(&format!("tortie: warning: {translated}"));
    }
    let live = args.manifests.manifests.is_empty();
    let nft_rules = if live { rules(settings, &explanation).await } else { Vec::new() };
    let trace = match args.trace {
        Some(seconds) => crate::trace::collect(settings, args, question.traffic, &explanation.route, seconds).await?,
        None => Vec::new(),
    };
    let explained = Explained { explanation, host_endpoints, nft_rules, trace };
    output.print(&explained, |output| text(&explained, output.wide()))
}

/// What says that an address is not what policies judge by: a sentence, if it is a Service's.
fn translated(cluster: &Offline, route: &Route) -> Option<String> {
    let node = route.source_node.as_deref().unwrap_or_default();
    let cidrs = cluster.options(node).service_cidrs;
    let address = route.destination_address.filter(|address| cidrs.iter().any(|cidr| cidr.contains(address)))?;
    Some(format!(
        "{address} is a Service's address, and policies judge the pod that it is translated to: ask --to one of its pods; --trace \
         follows the translation"
    ))
}

/// Takes in what host endpoints on the way make of a flow that policies of pods allow.
fn heed(explanation: &mut Explanation, passed: &[Passed]) {
    let denies = passed.iter().find(|passed| passed.ends);
    if let (Verdict::Allow, Some(denies)) = (explanation.verdict, denies) {
        explanation.verdict = Verdict::Deny;
        explanation.summary = format!("denied: {}", denies.text());
    }
    if explanation.verdict == Verdict::Allow
        && let Some(denies) = passed.iter().find(|passed| passed.verdict == "deny")
    {
        note(&format!(
            "tortie: warning: it is denied all the same if it takes interface {} of {}: --trace shows what it takes",
            denies.interface, denies.node
        ));
    }
}

/// The rules that decide, from the agents of the nodes that they are on. An agent that cannot be asked is said, and is no error: the
/// explanation does not depend on it.
async fn rules(settings: &Settings, explanation: &Explanation) -> Vec<NftRule> {
    let route = &explanation.route;
    let directions = [
        (PolicyType::Egress, "egress", &explanation.egress, &route.source_node),
        (PolicyType::Ingress, "ingress", &explanation.ingress, &route.destination_node),
    ];
    let mut found = Vec::new();
    let asked: Vec<_> = directions
        .into_iter()
        .filter_map(|(kind, direction, side, node)| Some((direction, side.counter(kind)?, node.as_deref()?)))
        .collect();
    if asked.is_empty() {
        return found;
    }
    let agents = agents(settings).await;
    for (direction, counter, node) in asked {
        let Some((_, client)) = agents.iter().find(|(name, _)| name == node) else {
            note(&format!("tortie: warning: no agent of {node} was asked where its {direction} rule is"));
            continue;
        };
        match client.get::<Vec<PolicyRule>>(&format!("/v1/policy/rules?counters={counter}")).await {
            Ok(rules) => {
                let of_family = rules.into_iter().filter(|rule| meets(&rule.rule, route.destination_address));
                found.extend(of_family.map(|rule| NftRule { direction, node: node.to_owned(), rule }));
            }
            Err(error) => note(&format!("tortie: warning: {node}: where its {direction} rule is: {error}")),
        }
    }
    found
}

/// Whether packets to this address can match a rule with this text: a policy's rule is often two of the table's, one for each family.
fn meets(rule: &str, address: Option<IpAddr>) -> bool {
    let rule = rule.split(" comment \"").next().unwrap_or_default();
    let speaks_of =
        |words: [&str; 2]| words.iter().any(|word| rule.starts_with(word) || rule.contains(&format!(" {word}")));
    match address {
        Some(IpAddr::V4(_)) => !speaks_of(["ip6 ", "meta nfproto ipv6"]),
        Some(IpAddr::V6(_)) => !speaks_of(["ip ", "meta nfproto ipv4"]),
        None => true,
    }
}

/// The agents that answer, each with the name of its node.
async fn agents(settings: &Settings) -> Vec<(String, Client)> {
    let mut agents = Vec::new();
    for client in settings.clients().unwrap_or_default() {
        if let Ok(status) = client.get::<NodeStatus>("/v1/status").await {
            agents.push((status.node, client));
        }
    }
    agents
}

fn text(explained: &Explained, wide: bool) -> String {
    let explanation = &explained.explanation;
    let mut text = format!("{}\n", explanation.summary);
    for (direction, side) in [("egress", &explanation.egress), ("ingress", &explanation.ingress)] {
        text.push_str(&of_side(direction, side, wide));
        for rule in explained.nft_rules.iter().filter(|rule| rule.direction == direction) {
            let PolicyRule { chain, handle, rule: words, .. } = &rule.rule;
            let _ = writeln!(text, "  nftables of {}: chain {chain}, handle {handle}: {words}", rule.node);
        }
    }
    if !explained.host_endpoints.is_empty() {
        text.push_str("\nhost endpoints:\n");
    }
    for passed in &explained.host_endpoints {
        let _ = writeln!(text, "  {}", passed.text());
    }
    text.push_str(&route(&explanation.route));
    text.push_str(&crate::trace::text(&explained.trace));
    text
}

fn of_side(direction: &str, side: &Side, wide: bool) -> String {
    let mut text = format!("\n{direction}: {}", side.verdict);
    if let Some(policy) = &side.policy {
        let kind = side.kind.as_ref().map(|kind| format!("{kind} ")).unwrap_or_default();
        let _ = write!(text, " by {kind}{policy}");
    }
    match (&side.rule, &side.tier, &side.policy) {
        (Some(rule), Some(tier), _) => drop(write!(text, ", {rule}, in tier {tier}")),
        (None, Some(tier), Some(_)) => drop(write!(text, ": the default action of tier {tier}")),
        _ => {}
    }
    if let Some(source) = &side.source {
        let _ = write!(text, " ({source})");
    }
    text.push('\n');
    for step in &side.steps {
        text.push_str(&of_step(step, wide));
    }
    if let Some(staged) = &side.staged {
        let _ = writeln!(text, "  with what is staged enforced: {}: {}", staged.verdict, staged.why);
    }
    text
}

/// A step in words, which say of each rule why it does not fit; with `wide` rule by rule, and where the policy comes from.
fn of_step(step: &Step, wide: bool) -> String {
    if !wide {
        return format!("  {}\n", step.why);
    }
    let source = step.source.as_ref().map(|source| format!(" ({source})")).unwrap_or_default();
    let mut text = format!("  {}{source}\n", step.why);
    for rule in &step.rules {
        let said = if rule.fits { "fits".to_owned() } else { rule.why.join("; ") };
        let members = if rule.members.is_empty() { String::new() } else { format!(": {}", rule.members.join(", ")) };
        let _ = writeln!(text, "      {} {:?}: {said}{members}", rule.rule, rule.action);
    }
    text
}

fn route(route: &Route) -> String {
    let end = |node: &Option<String>, address: &Option<IpAddr>| {
        let address = address.map_or_else(|| "an address not known yet".to_owned(), |address| address.to_string());
        node.as_ref().map_or(address.clone(), |node| format!("{address} on {node}"))
    };
    let from = end(&route.source_node, &route.source_address);
    let to = end(&route.destination_node, &route.destination_address);
    format!("\nroute: from {from} to {to}\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_of_the_other_family_are_left_out() {
        let address = |text: &str| text.parse().ok();
        for (rule, v4, v6) in [
            ("ip saddr @xs4_1 counter name \"h_1\" drop", true, false),
            ("ip6 saddr @xs6_1 counter name \"h_1\" drop", false, true),
            ("meta nfproto ipv6 tcp dport 80 ip6 saddr @s6_1 goto ok_ingress", false, true),
            ("tcp dport 80 ip saddr @s4_1 goto ok_ingress comment \"from ip6 nets\"", true, false),
            ("counter name \"d_1\" drop", true, true),
        ] {
            assert_eq!(meets(rule, address("10.0.0.1")), v4, "{rule}");
            assert_eq!(meets(rule, address("fd00::1")), v6, "{rule}");
            assert!(meets(rule, None));
        }
    }
}
