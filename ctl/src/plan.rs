//! `tortie policy plan`: what a change would do, before anything is applied. First in numbers, then by groups of pods, then the
//! commands that each node would write; lists are short unless `-o wide` asks for all.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use anyhow::{Result, bail};
use tortie_admin::client::Client;
use tortie_admin::types::NodeStatus;
use tortie_api::{Kind, Object, ObjectKey};
use tortie_nft::{Command, Family};
use tortie_policy::Generation;
use tortie_policy::offline::Offline;
use tortie_policy::plan::{self, Change, Differences, Effect, Group, Line, NodePlan, Query, Service};

use crate::cli::Plan;
use crate::output::{self, Output};
use crate::policy::{from_datastore, from_files, from_manifests};
use crate::settings::Settings;

/// So many lines of verdicts, nodes' transactions, and commands of each are shown unless all are asked for.
const SHOWN_LINES: usize = 20;
const SHOWN_NODES: usize = 3;
const SHOWN_COMMANDS: usize = 20;

/// So many groups are named in one cell, and so much is shown of a command.
const SHOWN_GROUPS: usize = 3;
const SHOWN_WIDTH: usize = 160;

pub(crate) async fn run(settings: &Settings, output: Output, args: Plan) -> Result<()> {
    let live = args.manifests.manifests.is_empty();
    let now = if live { from_datastore(settings).await? } else { from_manifests(&args.manifests)? };
    let change = Change { apply: from_files(&args.filename)?, delete: deletions(&args.delete, &now)? };
    let agents = if live { agents(settings).await } else { Vec::new() };
    let services = args.ports.map(|ports| ports.iter().map(|port| Service::Port(port.protocol, port.port)).collect());
    let generations = agents.iter().map(|agent| (agent.status.node.clone(), agent.status.generation)).collect();
    let mut plan = plan::plan(&now, &change, &Query { services, generations })?;
    if let Some(node) = settings.node() {
        if !plan.nodes.iter().any(|plan| plan.node == node) {
            bail!("there is no node {node:?}: see `tortie get nodes`");
        }
        plan.nodes.retain(|plan| plan.node == node);
    }
    if live {
        for warning in doubts(&now, &plan.nodes, &agents) {
            output::note(&format!("tortie: warning: {warning}"));
        }
    }
    output.print(&plan, |output| text(&plan, output.wide()))
}

/// The keys of what is to go: of the objects in files, or of one that is named.
fn deletions(arguments: &[String], now: &[Object]) -> Result<Vec<ObjectKey>> {
    let mut keys = Vec::new();
    for argument in arguments {
        if argument == "-" || Path::new(argument).exists() {
            keys.extend(from_files(&[PathBuf::from(argument)])?.iter().map(Object::key));
            continue;
        }
        let Some(key) = named(argument) else {
            bail!("--delete {argument:?} is no file, and no object: write KIND/NAME or KIND/NAMESPACE/NAME");
        };
        let place = key.namespace.clone().map(|namespace| format!(" in namespace {namespace}")).unwrap_or_default();
        if !now.iter().any(|object| object.key() == key) {
            bail!("{} {} not found{place}", key.kind, key.name);
        }
        keys.push(key);
    }
    Ok(keys)
}

/// `KIND/NAME` of a kind without namespaces or in the namespace `default`, or `KIND/NAMESPACE/NAME`.
fn named(text: &str) -> Option<ObjectKey> {
    let mut words = text.split('/');
    let kind: Kind = words.next()?.parse().ok()?;
    let (first, second) = (words.next()?, words.next());
    let (namespace, name) = match second {
        Some(name) => (Some(first.to_owned()), name.to_owned()),
        None => (kind.is_namespaced().then(|| "default".to_owned()), first.to_owned()),
    };
    let fits = namespace.is_some() == kind.is_namespaced() && words.next().is_none() && !name.is_empty();
    fits.then_some(ObjectKey { kind, namespace, name })
}

/// An agent that answers, and the table that it wants.
struct Agent {
    status: NodeStatus,
    table: Option<String>,
}

/// The agents that answer. A plan can be made without them: then marks of generations count from the first.
async fn agents(settings: &Settings) -> Vec<Agent> {
    let mut agents = Vec::new();
    for client in settings.clients().unwrap_or_default() {
        let Ok(status) = client.get::<NodeStatus>("/v1/status").await else { continue };
        agents.push(Agent { status, table: table(&client).await });
    }
    agents
}

async fn table(client: &Client) -> Option<String> {
    client.get_text("/v1/policy/render").await.ok()
}

/// Why a transaction may not be to the letter what an agent would write.
fn doubts(now: &[Object], nodes: &[NodePlan], agents: &[Agent]) -> Vec<String> {
    let offline = Offline::new(now);
    let mut doubts = Vec::new();
    let unasked: Vec<&str> = nodes
        .iter()
        .map(|plan| plan.node.as_str())
        .filter(|node| !agents.iter().any(|agent| agent.status.node == *node))
        .collect();
    if !unasked.is_empty() {
        let who = shortened(unasked.iter().map(|node| (*node).to_owned()));
        doubts.push(format!("no agent of {who} was asked: the marks of generations in its transaction are examples"));
    }
    for agent in agents {
        let node = agent.status.node.as_str();
        let Some(generation) = Generation::numbered(agent.status.generation) else { continue };
        if !nodes.iter().any(|plan| plan.node == node) {
            continue;
        }
        let endpoints = offline.endpoints(node);
        let table = tortie_policy::compile(offline.cluster(), &endpoints, generation, &offline.options(node));
        let found = agent.table.as_deref().map(without_counters);
        if found != Some(without_counters(&table.to_string())) {
            doubts.push(format!(
                "the table of {node} is not, or not yet, what the datastore says: its transaction may be another one"
            ));
        }
    }
    doubts
}

/// The text of a table without its named counters: those of policies stay while these do, whether any rule counts in them at the moment
/// or not.
fn without_counters(table: &str) -> String {
    let mut within = false;
    let kept = table.lines().filter(|line| {
        within |= line.starts_with("\tcounter ");
        let keep = !within && !line.is_empty();
        within &= *line != "\t}";
        keep
    });
    kept.collect::<Vec<_>>().join("\n")
}

fn text(plan: &plan::Plan, wide: bool) -> String {
    let mut text = String::new();
    if plan.objects.is_empty() {
        text.push_str("Nothing is to be applied or deleted.\n");
    } else {
        let shown = if wide { usize::MAX } else { SHOWN_LINES };
        let action = |action: &plan::Action| format!("{action:?}").to_lowercase();
        let rows = plan.objects.iter().take(shown).map(|change| [change.object.clone(), action(&change.action)]);
        text.push_str(&output::columns(["OBJECT", "ACTION"], rows));
        text.push_str(&more(plan.objects.len(), shown, "objects"));
    }
    let _ = write!(text, "\n{}", effect(&plan.effect, wide));
    if let Some(staged) = &plan.staged {
        let policies =
            if wide { staged.policies.join(", ") } else { shortened(staged.policies.iter().map(String::clone)) };
        let _ = write!(text, "\nIf what is staged were enforced as well ({policies}):\n");
        text.push_str(&effect(&staged.effect, wide));
    }
    let _ = write!(text, "\n{}", nodes(&plan.nodes, wide));
    text
}

/// What is left out of a list.
fn more(all: usize, shown: usize, what: &str) -> String {
    match all.saturating_sub(shown) {
        0 => String::new(),
        more => format!("{more} more {what}: -o wide\n"),
    }
}

fn effect(effect: &Effect, wide: bool) -> String {
    let summary = &effect.summary;
    if effect.differences.lines.is_empty() {
        return format!("No verdict changes, of {} pairs.\n", summary.of_pairs);
    }
    let is = |count, one: &'static str, many: &'static str| if count == 1 { one } else { many };
    let mut text = format!(
        "{} of {} pods {} affected. Of {} pairs {} {}: {} {} deny, {} {} allow.\n\n",
        summary.pods,
        summary.of_pods,
        is(summary.pods, "is", "are"),
        summary.of_pairs,
        summary.pairs,
        is(summary.pairs, "changes", "change"),
        summary.denied,
        is(summary.denied, "verdict becomes", "verdicts become"),
        summary.allowed,
        is(summary.allowed, "becomes", "become")
    );
    if wide {
        let rows = effect.differences.rows().map(|row| {
            let change = format!("{} -> {}", row.before, row.after);
            [change, row.from.to_owned(), row.to.to_owned(), services(&[row.service], row.family)]
        });
        text.push_str(&output::columns(["CHANGE", "FROM", "TO", "PORT"], rows));
        return text;
    }
    let rows = merged(&effect.differences);
    let count = rows.len();
    text.push_str(&output::columns(["CHANGE", "FROM", "TO", "PORTS", "PAIRS"], rows.into_iter().take(SHOWN_LINES)));
    text.push_str(&more(count, SHOWN_LINES, "lines"));
    text
}

/// What a row of the table has besides those that send and those that are sent to.
type Same = (Line, Vec<Service>);

/// The lines of several services, senders and destinations put together where the rest is the same.
fn merged(differences: &Differences) -> Vec<[String; 5]> {
    let bare = |line: &Line| Line { from: 0, to: 0, service: Service::Other(0), ..line.clone() };
    let mut by_pair: BTreeMap<(usize, usize, Line), Vec<Service>> = BTreeMap::new();
    for line in &differences.lines {
        by_pair.entry((line.from, line.to, bare(line))).or_default().push(line.service);
    }
    let mut by_destination: BTreeMap<(usize, Same), BTreeSet<usize>> = BTreeMap::new();
    for ((from, to, line), services) in by_pair {
        by_destination.entry((to, (line, services))).or_default().insert(from);
    }
    let mut rows: BTreeMap<(Same, Who), BTreeSet<usize>> = BTreeMap::new();
    for ((to, same), from) in by_destination {
        let own = BTreeSet::from([to]);
        rows.entry((same, Who::of(from, &own, differences))).or_default().insert(to);
    }
    let mut cells: Vec<(usize, [String; 5])> = Vec::new();
    for (((line, over), from), to) in rows {
        let senders = from.groups(&to, differences);
        let pairs = to.iter().flat_map(|to| senders.iter().map(|from| differences.pairs(*from, *to))).sum();
        let change = format!("{} -> {}", line.before, line.after());
        let own = if let Who::These(from) = &from { from.clone() } else { BTreeSet::new() };
        let to = Who::of(to, &own, differences);
        let services = services(&over, line.family);
        cells.push((pairs, [change, from.name(differences), to.name(differences), services, pairs.to_string()]));
    }
    // What takes most away comes first.
    cells.sort_by(|(a, [x, ..]), (b, [y, ..])| x.cmp(y).then(b.cmp(a)));
    cells.into_iter().map(|(_, cells)| cells).collect()
}

/// One end of a row.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Who {
    /// All pods, and all that was asked about outside.
    Everybody,
    /// All pods.
    EveryPod,
    /// These groups.
    These(BTreeSet<usize>),
}

impl Who {
    /// `groups`, where the other end is `own`: one that is alone in its group makes no pair with itself.
    fn of(groups: BTreeSet<usize>, own: &BTreeSet<usize>, differences: &Differences) -> Self {
        let alone = |group: usize| own.len() == 1 && own.contains(&group) && differences.pairs(group, group) == 0;
        let has = |group: usize| groups.contains(&group) || alone(group);
        let all = differences.groups.iter().enumerate();
        let missing: Vec<&Group> = all.filter(|(group, _)| !has(*group)).map(|(_, group)| group).collect();
        let outside = groups.iter().any(|group| !differences.groups[*group].pods);
        match (missing.is_empty(), missing.iter().all(|group| !group.pods), outside) {
            (true, ..) => Self::Everybody,
            (false, true, false) => Self::EveryPod,
            _ => Self::These(groups),
        }
    }

    /// The groups that are meant, where the other end is `other`.
    fn groups(&self, other: &BTreeSet<usize>, differences: &Differences) -> Vec<usize> {
        let pods_only = other.iter().any(|group| !differences.groups[*group].pods);
        let all = differences.groups.iter().enumerate();
        match self {
            Self::Everybody => all.filter(|(_, it)| it.pods || !pods_only).map(|(group, _)| group).collect(),
            Self::EveryPod => all.filter(|(_, it)| it.pods).map(|(group, _)| group).collect(),
            Self::These(groups) => groups.iter().copied().collect(),
        }
    }

    fn name(&self, differences: &Differences) -> String {
        match self {
            Self::Everybody => "everybody".to_owned(),
            Self::EveryPod => "every pod".to_owned(),
            Self::These(groups) => shortened(groups.iter().map(|group| name(&differences.groups[*group]))),
        }
    }
}

/// The first few, and how many more.
fn shortened(names: impl ExactSizeIterator<Item = String>) -> String {
    let more = names.len().saturating_sub(SHOWN_GROUPS);
    let mut text = names.take(SHOWN_GROUPS).collect::<Vec<_>>().join(", ");
    if more > 0 {
        let _ = write!(text, " and {more} more");
    }
    text
}

/// A group in one word: what the names of its pods have in common.
fn name(group: &Group) -> String {
    let [first, .., last] = group.members.as_slice() else { return group.members.concat() };
    // In a sorted list the first and the last have the least in common.
    let common = first.bytes().zip(last.bytes()).take_while(|(a, b)| a == b).count();
    let common = first.get(..common).unwrap_or_default();
    let end = common.rfind(['-', '/']).map_or(common.len(), |end| end + 1);
    format!("{}* ({} pods)", &common[..end], group.members.len())
}

/// `TCP/80,443, UDP/53`, with the family where it is not all.
fn services(services: &[Service], family: Option<Family>) -> String {
    let mut words: Vec<String> = Vec::new();
    let mut last = None;
    for service in services {
        match (service, words.last_mut()) {
            (Service::Port(protocol, port), Some(word)) if last == Some(*protocol) => {
                let _ = write!(word, ",{port}");
            }
            _ => words.push(service.to_string()),
        }
        last = if let Service::Port(protocol, _) = service { Some(*protocol) } else { None };
    }
    let of = match family {
        Some(Family::V4) => " (IPv4)",
        Some(Family::V6) => " (IPv6)",
        None => "",
    };
    format!("{}{of}", words.join(" "))
}

fn nodes(nodes: &[NodePlan], wide: bool) -> String {
    let busy: Vec<&NodePlan> = nodes.iter().filter(|plan| !plan.transaction.commands.is_empty()).collect();
    if busy.is_empty() {
        return "No node has anything to write.\n".to_owned();
    }
    let rows = busy.iter().map(|plan| {
        let [chains, rules, elements] = counted(&plan.transaction.commands);
        let flows = if plan.generation_moves { "judged again" } else { "untouched" };
        [plan.node.clone(), plan.transaction.commands.len().to_string(), chains, rules, elements, flows.to_owned()]
    });
    let mut text = output::columns(["NODE", "COMMANDS", "CHAINS", "RULES", "ELEMENTS", "RUNNING-FLOWS"], rows);
    let idle = nodes.len() - busy.len();
    if idle > 0 {
        let nodes = if idle == 1 { "node has" } else { "nodes have" };
        let _ = writeln!(text, "{idle} other {nodes} nothing to write.");
    }
    let shown = if wide { usize::MAX } else { SHOWN_NODES };
    for plan in busy.iter().take(shown) {
        let commands = &plan.transaction.commands;
        let _ = writeln!(text, "\n{}, in one transaction:", plan.node);
        let shown = if wide { usize::MAX } else { SHOWN_COMMANDS };
        for command in commands.iter().take(shown) {
            let _ = writeln!(text, "  {}", cut(&command.to_string(), wide));
        }
        let rest = more(commands.len(), shown, "commands");
        if !rest.is_empty() {
            let _ = write!(text, "  {rest}");
        }
    }
    let rest = more(busy.len(), shown, "nodes' transactions");
    if !rest.is_empty() {
        let _ = write!(text, "\n{rest}");
    }
    text
}

/// Chains, rules and elements that come and go: `+3 -1`.
fn counted(commands: &[Command]) -> [String; 3] {
    let mut counts = [(0, 0); 3];
    for command in commands {
        match command {
            Command::AddChain { .. } => counts[0].0 += 1,
            Command::DeleteChain { .. } => counts[0].1 += 1,
            Command::AddRule { .. } => counts[1].0 += 1,
            Command::AddElements { elements, .. } => counts[2].0 += elements.len(),
            Command::AddMapElements { elements, .. } => counts[2].0 += elements.len(),
            Command::DeleteElements { elements, .. } => counts[2].1 += elements.len(),
            Command::DeleteMapElements { elements, .. } => counts[2].1 += elements.len(),
            _ => {}
        }
    }
    counts.map(|(came, went)| match (came, went) {
        (0, 0) => "-".to_owned(),
        (came, 0) => format!("+{came}"),
        (0, went) => format!("-{went}"),
        (came, went) => format!("+{came} -{went}"),
    })
}

/// The beginning of a long command.
fn cut(command: &str, wide: bool) -> String {
    match command.char_indices().nth(SHOWN_WIDTH) {
        Some((end, _)) if !wide => format!("{} ...", &command[..end]),
        _ => command.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn group(members: &[&str]) -> Group {
        Group { members: members.iter().map(|name| (*name).to_owned()).collect(), pods: true }
    }

    #[test]
    fn groups_are_called_by_what_their_names_have_in_common() {
        assert_eq!(name(&group(&["shop/web-7d9-a", "shop/web-7d9-b", "shop/web-7d9-c"])), "shop/web-7d9-* (3 pods)");
        assert_eq!(name(&group(&["shop/api", "shop/web"])), "shop/* (2 pods)");
        assert_eq!(name(&group(&["shop/api"])), "shop/api");
    }

    #[test]
    fn ports_of_one_protocol_are_one_word() {
        use tortie_api::k8s::Protocol::{Tcp, Udp};
        let of = [Service::Port(Tcp, 80), Service::Port(Tcp, 443), Service::Port(Udp, 53), Service::ping(Family::V4)];
        assert_eq!(services(&of, None), "TCP/80,443 UDP/53 ICMP/8");
        assert_eq!(services(&of[..1], Some(Family::V6)), "TCP/80 (IPv6)");
    }

    #[test]
    fn counters_of_policies_make_no_other_table() {
        let table = "table inet tortie {\n\tcounter h_1 {\n\t\tpackets 0 bytes 0\n\t}\n\n\tset live {\n\t}\n}\n";
        assert_eq!(without_counters(table), "table inet tortie {\n\tset live {\n\t}\n}");
    }

    #[test]
    fn objects_by_name() {
        let key = named("gnp/deny").expect("a key");
        assert_eq!(key.to_string(), "GlobalNetworkPolicy deny");
        assert_eq!(named("cnp/shop/web").expect("a key").to_string(), "CalicoNetworkPolicy shop/web");
        assert_eq!(named("cnp/web").expect("a key").to_string(), "CalicoNetworkPolicy default/web");
        for bad in ["gnp", "gnp/", "gnp/a/b", "cnp/a/b/c", "planet/x"] {
            assert_eq!(named(bad), None, "{bad}");
        }
    }
}
