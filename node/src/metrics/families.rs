//! Every metric: its name, its kind, what it means, and where its values come from.

use std::collections::BTreeMap;

use tortie_felix::Numbers;
use tortie_felix::hits::is_hit_counter;

use super::exposition::{Family, Kind, Page, Samples};
use super::hits::Labels;
use super::process::Process;
use super::{Bgp, Counters, Noted};

const fn counter(name: &'static str, help: &'static str) -> Family {
    Family { name, kind: Kind::Counter, help }
}

const fn gauge(name: &'static str, help: &'static str) -> Family {
    Family { name, kind: Kind::Gauge, help }
}

const fn summary(name: &'static str, help: &'static str) -> Family {
    Family { name, kind: Kind::Summary, help }
}

const fn histogram(name: &'static str, help: &'static str) -> Family {
    Family { name, kind: Kind::Histogram, help }
}

/// What `felix_resync_state` says: Calico's numbers.
const RESYNCING: u64 = 2;
const IN_SYNC: u64 = 3;

/// Our table, as Calico's labels name one. It serves both IP versions.
const TABLE: &[(&str, &str)] = &[("ip_version", "inet"), ("table", "tortie")];

/// What the table has counted: by counter, and what policies decided by tier.
#[derive(Clone, Copy)]
pub(super) struct Counted<'a> {
    pub(super) counters: &'a Counters,
    pub(super) hits: &'a BTreeMap<Labels, u64>,
}

/// The page. What could not be asked in time is left out.
pub(super) fn text(
    noted: &mut Noted,
    numbers: Option<&Numbers>,
    bgp: Option<&Bgp>,
    counted: Counted<'_>,
    process: Option<&Process>,
) -> String {
    let mut page = Page::default();
    build(&mut page);
    if let Some(numbers) = numbers {
        cluster(&mut page, numbers);
        table(&mut page, numbers);
        routes(&mut page, numbers);
        ours(&mut page, numbers);
    }
    work(&mut page, noted);
    nft(&mut page, noted);
    latencies(&mut page, noted);
    if let Some(bgp) = bgp {
        sessions(&mut page, bgp);
    }
    denied(&mut page, counted.counters);
    decided(&mut page, counted.hits);
    if let Some(process) = process {
        of_process(&mut page, process);
    }
    page.into_text()
}

fn build(page: &mut Page) {
    page.family(&gauge("tortie_build_info", "Always 1; the label says which version runs."))
        .count(&[("version", env!("CARGO_PKG_VERSION"))], 1);
}

/// What there is, under the names that Calico has for it.
fn cluster(page: &mut Page, numbers: &Numbers) {
    let one = |page: &mut Page, family: Family, value: usize| {
        page.family(&family).count(&[], value as u64);
    };
    one(page, gauge("felix_active_local_endpoints", "Endpoints of this node."), numbers.endpoints);
    one(
        page,
        gauge("felix_active_local_policies", "Policies that select an endpoint of this node."),
        numbers.active_policies,
    );
    one(
        page,
        gauge("felix_active_local_selectors", "Selections of peers that rules of this node look up."),
        numbers.selections,
    );
    one(page, gauge("felix_cluster_num_hosts", "Nodes in the cluster."), numbers.nodes);
    one(page, gauge("felix_cluster_num_policies", "Policies in the cluster."), numbers.policies);
    one(
        page,
        gauge("felix_cluster_num_workload_endpoints", "Pods in the cluster that policies can select."),
        numbers.pods,
    );
    let state = if numbers.in_sync { IN_SYNC } else { RESYNCING };
    page.family(&gauge("felix_resync_state", "The datastore: 1 awaited, 2 being read, 3 in sync.")).count(&[], state);
}

fn table(page: &mut Page, numbers: &Numbers) {
    page.family(&gauge("felix_nft_chains", "Chains of our nftables table.")).count(TABLE, numbers.chains as u64);
    page.family(&gauge("felix_nft_rules", "Rules of our nftables table.")).count(TABLE, numbers.rules as u64);
    page.family(&gauge("felix_ipsets_calico", "Sets and maps of our nftables table."))
        .count(&[("ip_version", "inet")], numbers.sets as u64);
    page.family(&gauge("felix_ipsets_total", "Sets and maps of our nftables table.")).count(&[], numbers.sets as u64);
    page.family(&gauge("tortie_set_elements", "Elements of all sets and maps of our table."))
        .count(&[], numbers.elements as u64);
}

fn routes(page: &mut Page, numbers: &Numbers) {
    page.family(&gauge("felix_route_table_num_routes", "Our routes in the kernel's main table."))
        .count(&[("table", "IPv4:254")], numbers.routes_ipv4 as u64)
        .count(&[("table", "IPv6:254")], numbers.routes_ipv6 as u64);
    page.family(&gauge("felix_route_table_num_ifaces", "Network interfaces of the node."))
        .count(&[("table", "IPv4:254")], numbers.links as u64)
        .count(&[("table", "IPv6:254")], numbers.links as u64);
    page.family(&gauge("tortie_routes_failed", "Routes that the kernel refused; they are tried again."))
        .count(&[], numbers.routes_failed as u64);
}

fn ours(page: &mut Page, numbers: &Numbers) {
    page.family(&gauge("tortie_programmed", "1 if kernel and BGP speaker are as the datastore wants them, else 0."))
        .count(&[], u64::from(numbers.programmed));
    page.family(&gauge("tortie_problems", "Problems that `tortie node status` names."))
        .count(&[], numbers.problems as u64);
    page.family(&gauge(
        "tortie_endpoints_waiting",
        "Endpoints that get no traffic because their Pod object is unknown.",
    ))
    .count(&[], numbers.unadmitted as u64);
    page.family(&counter(
        "tortie_generation_moves_total",
        "How often the live generation moved, so that every flow was judged again.",
    ))
    .count(&[], numbers.generation_moves);
    let drift = counter("tortie_drift_total", "What others changed of ours in the kernel, by kind.");
    let mut drift = page.family(&drift);
    for (kind, count) in &numbers.drifts {
        drift.count(&[("kind", kind.as_str())], *count);
    }
}

/// The core and the writers at work.
fn work(page: &mut Page, noted: &mut Noted) {
    let now = std::time::Instant::now();
    for (family, values) in [
        (
            summary(
                "felix_calc_graph_update_time_seconds",
                "Time for the core to make what the datastore told its own.",
            ),
            &mut noted.calculation,
        ),
        (
            summary(
                "felix_int_dataplane_apply_time_seconds",
                "Time for the kernel to take a transaction or a batch of routes.",
            ),
            &mut noted.apply,
        ),
        (summary("felix_int_dataplane_msg_batch_size", "Messages that the core took in at once."), &mut noted.batch),
        (
            summary("felix_int_dataplane_iface_msg_batch_size", "Interface events that the core took in at once."),
            &mut noted.link_batch,
        ),
        (
            summary("felix_int_dataplane_addr_msg_batch_size", "Address events that the core took in at once."),
            &mut noted.address_batch,
        ),
        (summary("felix_route_table_resync_seconds", "Time to read back all routes."), &mut noted.route_resync),
    ] {
        values.forget_old(now);
        page.family(&family).summary(values);
    }
    let updates = counter("felix_calc_graph_updates_processed", "Objects that the datastore told of, by kind.");
    by_type(&mut page.family(&updates), &noted.updates);
    let outputs = noted.messages.values().sum();
    page.family(&counter("felix_calc_graph_output_events", "What the core asked others to do.")).count(&[], outputs);
    let messages = counter("felix_int_dataplane_messages", "What the core asked others to do, by what it was.");
    by_type(&mut page.family(&messages), &noted.messages);
    page.family(&counter("felix_int_dataplane_failures", "Changes that the kernel refused; they are tried again."))
        .count(&[], noted.failures);
    page.family(&counter("felix_resyncs_started", "How often the datastore was read from its beginning."))
        .count(&[], noted.resyncs);
}

fn by_type(samples: &mut Samples<'_>, counts: &BTreeMap<&'static str, u64>) {
    for (kind, count) in counts {
        samples.count(&[("type", kind)], *count);
    }
}

fn nft(page: &mut Page, noted: &Noted) {
    for (family, value) in [
        (counter("felix_nft_calls", "Transactions given to nftables."), noted.nft_calls),
        (counter("felix_nft_errors", "Transactions that nftables refused."), noted.nft_errors),
        (counter("felix_nft_list_calls", "Read-backs of our table."), noted.nft_reads),
        (counter("felix_nft_list_errors", "Read-backs that failed."), noted.nft_read_errors),
    ] {
        page.family(&family).count(&[], value);
    }
    page.family(&counter("felix_nft_lines_executed", "Commands in the transactions that nftables took."))
        .count(TABLE, noted.nft_commands);
    for (family, value) in [
        (counter("tortie_nft_foreign_commits_total", "Changes of nftables by others."), noted.foreign_commits),
        (
            counter("tortie_nft_foreign_touches_total", "Changes of nftables by others that named our table."),
            noted.foreign_touches,
        ),
        (
            counter(
                "tortie_kernel_events_lost_total",
                "How often the kernel had more to tell than there was room for.",
            ),
            noted.overruns,
        ),
    ] {
        page.family(&family).count(&[], value);
    }
}

fn latencies(page: &mut Page, noted: &Noted) {
    page.family(&histogram(
        "tortie_commit_latency_seconds",
        "From an event that changes rules to the commit of these rules.",
    ))
    .histogram(&noted.commit);
    page.family(&histogram(
        "tortie_cni_add_latency_seconds",
        "From the interface of a new pod to its rules and routes in the kernel.",
    ))
    .histogram(&noted.cni_add);
}

fn sessions(page: &mut Page, bgp: &Bgp) {
    let family = gauge("tortie_bgp_sessions", "BGP sessions by state and type of peer.");
    let mut samples = page.family(&family);
    for ((state, kind), count) in &bgp.sessions {
        samples.count(&[("state", state), ("type", kind)], *count);
    }
    let family = gauge("tortie_bgp_routes", "Routes of all BGP sessions together, by family and direction.");
    let mut samples = page.family(&family);
    for (family, [received, accepted, advertised]) in &bgp.routes {
        for (what, count) in [("received", received), ("accepted", accepted), ("advertised", advertised)] {
            samples.count(&[("family", family), ("direction", what)], *count);
        }
    }
}

fn denied(page: &mut Page, counters: &Counters) {
    if counters.is_empty() {
        return;
    }
    let family = counter("tortie_denied_packets_total", "Packets that our table denied, by what denied them.");
    let mut samples = page.family(&family);
    // Those of policies' rules are as many as these.
    for (name, (packets, _)) in counters.iter().filter(|(name, _)| !is_hit_counter(name)) {
        samples.count(&[("reason", name)], *packets);
    }
}

fn decided(page: &mut Page, hits: &BTreeMap<Labels, u64>) {
    if hits.is_empty() {
        return;
    }
    let family = counter(
        "tortie_policy_hits_total",
        "Packets that policies decided about, by tier: first ones of flows, and those of flows that were judged again.",
    );
    let mut samples = page.family(&family);
    for (Labels { tier, direction, action, staged, again }, packets) in hits {
        let flows = if *again { "rejudged" } else { "new" };
        let staged = if *staged { "true" } else { "false" };
        let labels = [
            ("tier", tier.as_str()),
            ("direction", direction),
            ("action", action),
            ("flows", flows),
            ("staged", staged),
        ];
        samples.count(&labels, *packets);
    }
}

fn of_process(page: &mut Page, process: &Process) {
    let value = |page: &mut Page, family: Family, value: f64| {
        page.family(&family).value(&[], value);
    };
    value(page, counter("process_cpu_seconds_total", "CPU time of the agent, user and system."), process.cpu_seconds);
    value(page, gauge("process_start_time_seconds", "When the agent started, since 1970."), process.start_seconds);
    for (family, count) in [
        (gauge("process_resident_memory_bytes", "Resident memory of the agent."), Some(process.resident_bytes)),
        (gauge("process_virtual_memory_bytes", "Virtual memory of the agent."), Some(process.virtual_bytes)),
        (gauge("process_open_fds", "Open file descriptors of the agent."), Some(process.open_fds)),
        (gauge("process_max_fds", "The most file descriptors that it may open."), process.max_fds),
        (gauge("process_threads", "Threads of the agent."), Some(process.threads)),
    ] {
        if let Some(count) = count {
            page.family(&family).count(&[], count);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::time::{Duration, Instant};

    use super::super::{Batch, Metrics};
    use super::*;

    /// A page with everything on it.
    fn whole() -> String {
        let now = Instant::now();
        let metrics = Metrics::new(now);
        let updates = BTreeMap::from([("Pod", 3), ("NetworkPolicy", 1)]);
        metrics.took_in(Batch { messages: 4, links: 1, addresses: 2, updates }, Duration::from_millis(3), now);
        metrics.wants("apply-rules");
        metrics.rules_applied(7, true, now);
        metrics.rules_applied(7, false, now);
        metrics.rules_read(true);
        metrics.routes_applied(true, now);
        metrics.routes_read(now);
        metrics.committed(Duration::from_micros(700));
        metrics.cni_added(Duration::from_millis(4));
        metrics.foreign_commits(10, 1);
        metrics.overrun();
        let drifts = vec![(tortie_felix::DriftKind::Rules, 2), (tortie_felix::DriftKind::Route, 0)];
        let numbers = Numbers { in_sync: true, endpoints: 5, drifts, ..Numbers::default() };
        let bgp = Bgp {
            sessions: BTreeMap::from([(("Established".into(), "mesh".into()), 2)]),
            routes: BTreeMap::from([("ipv4".into(), [4, 3, 2])]),
        };
        let counters = BTreeMap::from([("spoofed".to_owned(), (9, 900)), ("h_0123456789ab".to_owned(), (8, 800))]);
        let labels = Labels {
            tier: "default".to_owned(),
            direction: "ingress",
            action: "Allow".to_owned(),
            staged: false,
            again: false,
        };
        let hits = BTreeMap::from([(labels, 8)]);
        let counted = Counted { counters: &counters, hits: &hits };
        let process = Process::read().expect("a process");
        text(&mut metrics.note(), Some(&numbers), Some(&bgp), counted, Some(&process))
    }

    #[test]
    fn a_page_is_what_prometheus_takes() {
        let text = whole();
        let mut kinds = BTreeMap::new();
        let (mut help, mut seen) = (BTreeSet::new(), BTreeSet::new());
        for line in text.lines() {
            if let Some(rest) = line.strip_prefix("# HELP ") {
                let (name, words) = rest.split_once(' ').expect("a name and words");
                assert!(help.insert(name) && words.ends_with('.'), "{line}");
            } else if let Some(rest) = line.strip_prefix("# TYPE ") {
                let (name, kind) = rest.split_once(' ').expect("a name and a kind");
                assert!(help.contains(name) && kinds.insert(name, kind).is_none(), "{line}");
            } else {
                let (sample, value) = line.rsplit_once(' ').expect("a sample and its value");
                assert!(value.parse::<f64>().is_ok(), "{line}");
                assert!(seen.insert(sample), "twice: {line}");
                let name = sample.split('{').next().expect("a name");
                let base = ["_sum", "_count", "_bucket"].iter().find_map(|suffix| {
                    name.strip_suffix(suffix).filter(|base| matches!(kinds.get(base), Some(&"summary" | &"histogram")))
                });
                assert!(kinds.contains_key(base.unwrap_or(name)), "a sample without a type: {line}");
            }
        }
        assert!(text.contains("felix_int_dataplane_failures 1\n"), "{text}");
        assert!(text.contains("tortie_bgp_sessions{state=\"Established\",type=\"mesh\"} 2\n"), "{text}");
        assert!(text.contains("felix_active_local_endpoints 5\n"), "{text}");
        assert!(text.contains("tortie_denied_packets_total{reason=\"spoofed\"} 9\n"), "{text}");
        assert!(!text.contains("h_0123456789ab"), "labels grow with the cluster: {text}");
        let sum = "{tier=\"default\",direction=\"ingress\",action=\"Allow\",flows=\"new\",staged=\"false\"} 8\n";
        assert!(text.contains(&format!("tortie_policy_hits_total{sum}")), "{text}");
        assert!(text.contains("felix_calc_graph_updates_processed{type=\"Pod\"} 3\n"), "{text}");
        assert!(text.contains("tortie_commit_latency_seconds_bucket{le=\"0.001\"} 1\n"), "{text}");
    }

    #[test]
    fn the_documentation_lists_exactly_what_there_is() {
        let text = whole();
        let there: BTreeSet<(String, String)> = text
            .lines()
            .filter_map(|line| line.strip_prefix("# TYPE ")?.split_once(' '))
            .map(|(name, kind)| (name.to_owned(), kind.to_owned()))
            .collect();
        let documentation = include_str!("../../../docs/metrics.md");
        let listed: BTreeSet<(String, String)> = documentation
            .lines()
            .filter_map(|line| {
                let mut cells =
                    line.strip_prefix("| `")?.split('|').map(|cell| cell.trim().trim_matches('`').to_owned());
                Some((cells.next()?, cells.next()?))
            })
            .collect();
        let differing: Vec<_> = there.symmetric_difference(&listed).collect();
        assert!(differing.is_empty(), "in one of page and docs/metrics.md only: {differing:?}");
    }

    #[test]
    fn a_part_that_does_not_answer_costs_only_what_it_would_have_said() {
        let metrics = Metrics::new(Instant::now());
        let counted = Counted { counters: &BTreeMap::new(), hits: &BTreeMap::new() };
        let text = text(&mut metrics.note(), None, None, counted, None);
        assert!(text.contains("felix_int_dataplane_failures 0\n") && !text.contains("felix_active"), "{text}");
    }
}
