//! One change on a node that has much already: from felix's core hearing of it to the kernel's answer, beside the same change by raw
//! netlink and by `nft -f`. What costs in proportion to what there is, and not to what changed, shows as a line that rises.

use std::time::Instant;

use nix::sched::{CloneFlags, unshare};
use serde_json::json;
use tortie_api::Object;
use tortie_bench::node::{Node, deletion, endpoint, object, pod};
use tortie_bench::raw::{self, Raw};
use tortie_bench::{Row, Work, nft_load, report};
use tortie_felix::Change;
use tortie_nft::{Ruleset, TABLE};
use tortie_nft_netlink::NftSocket;

/// Sets in the table; as many chains.
const SIZES: [usize; 4] = [100, 500, 2_000, 10_000];
/// How often a pod comes and goes.
const ROUNDS: usize = 2_000;
/// How often a policy does.
const POLICY_ROUNDS: usize = 100;
/// How often `nft -f` is asked.
const NFT_ROUNDS: usize = 10;
/// Pods of the node itself.
const LOCAL: usize = 250;
/// Pods in the cluster that a policy speaks of.
const PEERS: usize = 4;
const NAMESPACES: usize = 20;

const LOCAL_FIRST: u32 = 0x0a01_0000;
const PEER_FIRST: u32 = 0x0a10_0000;
const NEW: u32 = 0x0aff_0001;

fn namespace(index: usize) -> String {
    format!("ns{}", index % NAMESPACES)
}

fn number(index: usize) -> u32 {
    u32::try_from(index).unwrap_or(u32::MAX)
}

/// Policy number `index`: a local pod takes traffic from the pods of one app on a port of its own. That is two sets (one a family) and
/// two chains (one a direction of packets).
fn policy(index: usize, local: usize) -> Result<Object, String> {
    let peers = json!({"matchLabels": {"app": format!("client{index}")}});
    let selected = json!({"matchLabels": {"app": format!("local{}", index % local)}});
    object(&json!({"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy",
        "metadata": {"namespace": namespace(index % local), "name": format!("p{index}")},
        "spec": {"podSelector": selected, "policyTypes": ["Ingress"], "ingress": [
            {"from": [{"namespaceSelector": {}, "podSelector": peers}], "ports": [{"port": 1_000 + index}]}]}}))
}

/// A node with so many sets.
fn start(sets: usize) -> Result<Node, String> {
    let policies = sets / 2;
    let local = LOCAL.min(policies);
    let mut objects = Vec::new();
    let mut endpoints = Vec::new();
    for index in 0..local {
        let (namespace, name, address) = (namespace(index), format!("local{index}"), LOCAL_FIRST + number(index));
        objects.push(pod(&namespace, &name, "n0", &name, address)?);
        endpoints.push(endpoint(&namespace, &name, address));
    }
    for index in 0..policies {
        objects.push(policy(index, local)?);
        for peer in 0..PEERS {
            let which = index * PEERS + peer;
            let (namespace, app) = (namespace(which), format!("client{index}"));
            objects.push(pod(&namespace, &format!("{app}-{peer}"), "n1", &app, PEER_FIRST + number(which))?);
        }
    }
    Node::start(objects, endpoints)
}

/// The set of IPv4 addresses that `now` has and `before` has with one element less.
fn changed(before: &Ruleset, now: &Ruleset) -> Result<String, String> {
    let mut names = now.sets.iter().filter(|(name, set)| before.sets.get(*name) != Some(*set)).map(|(name, _)| name);
    match (names.next(), names.next()) {
        (Some(name), None) => Ok(name.clone()),
        _ => Err("a pod that comes should change one set".into()),
    }
}

fn wanted(node: &Node) -> Result<&Ruleset, String> {
    node.felix().wanted_rules().ok_or_else(|| "no rules".into())
}

fn run(sets: usize, rows: &mut Vec<Row>) -> Result<(), String> {
    let mut node = start(sets)?;
    let before = wanted(&node)?.clone();
    let [chains, there] = [before.chains.len(), before.sets.len()];
    println!("{sets} sets: {chains} chains, {there} sets");
    let policies = sets / 2;
    let local = LOCAL.min(policies);
    let peer = pod("ns0", "new", "n1", &format!("client{}", policies / 2), NEW)?;
    let policy = policy(policies + local / 2, local)?;

    let name = |what: &str| format!("{sets} sets: {what}");
    let [mut comes, mut goes] = [name("a pod comes"), name("a pod goes")].map(|name| Work::new(&name, 1));
    let [mut policy_comes, mut policy_goes] =
        [name("a policy comes"), name("a policy goes")].map(|name| Work::new(&name, 1));

    // The kernel's answer alone, so that it comes first in each work: raw netlink, then ours, in turn.
    node.change(vec![Change::Upsert(peer.clone())])?;
    let set = changed(&before, wanted(&node)?)?;
    node.change(vec![deletion(&peer)])?;
    let now = wanted(&node)?.clone();

    let elsewhere = std::thread::scope(|scope| {
        scope
            .spawn(|| -> Result<_, String> {
                let fd = orphan(&now)?;
                let mut times = [Vec::new(), Vec::new()];
                let edit = |add| {
                    let mut raw = Raw::new(TABLE);
                    raw.elements(add, &set, &[NEW]);
                    raw.finish()
                };
                let bytes = [edit(true), edit(false)];
                for _ in 0..ROUNDS {
                    for (bytes, times) in bytes.iter().zip(&mut times) {
                        let start = Instant::now();
                        raw::exchange(&fd, bytes)?;
                        times.push(start.elapsed());
                    }
                }
                let mut nft = [Vec::new(), Vec::new()];
                let address = std::net::Ipv4Addr::from(NEW);
                for _ in 0..NFT_ROUNDS {
                    for (verb, times) in ["add", "delete"].into_iter().zip(&mut nft) {
                        let text = format!("{verb} element inet {TABLE} {set} {{ {address} }}\n");
                        let start = Instant::now();
                        nft_load(&text)?;
                        times.push(start.elapsed());
                    }
                }
                Ok((times, nft))
            })
            .join()
            .map_err(|_| "the thread of raw netlink ended".to_owned())?
    })?;
    let ([raw_comes, raw_goes], [nft_comes, nft_goes]) = elsewhere;
    for (work, times) in [(&mut comes, raw_comes), (&mut goes, raw_goes)] {
        for time in times {
            work.add("raw netlink, prepared bytes", time);
        }
    }
    for _ in 0..ROUNDS {
        comes.add("tortie (felix core and executor)", node.change(vec![Change::Upsert(peer.clone())])?);
        goes.add("tortie (felix core and executor)", node.change(vec![deletion(&peer)])?);
    }
    for (work, times) in [(&mut comes, nft_comes), (&mut goes, nft_goes)] {
        for time in times {
            work.add("nft -f", time);
        }
    }

    for _ in 0..POLICY_ROUNDS {
        for (work, change) in
            [(&mut policy_comes, Change::Upsert(policy.clone())), (&mut policy_goes, deletion(&policy))]
        {
            node.commits.clear();
            let took = node.change(vec![change])?;
            let commit = node.commits.iter().sum();
            work.add("the kernel's part of it", commit);
            work.add("tortie (felix core and executor)", took);
        }
    }
    rows.extend([comes, goes, policy_comes, policy_goes].iter().flat_map(Work::rows));
    Ok(())
}

/// A table like this one, in a network namespace of the calling thread's own, which nobody owns.
fn orphan(table: &Ruleset) -> Result<std::os::fd::OwnedFd, String> {
    unshare(CloneFlags::CLONE_NEWNET).map_err(|errno| format!("unshare: {errno}; root is needed"))?;
    let mut socket = NftSocket::open().map_err(|error| error.to_string())?;
    socket.apply(&Ruleset::default().diff(table)).map_err(|error| error.to_string())?;
    drop(socket);
    raw::open()
}

fn main() -> Result<(), String> {
    let mut rows = Vec::new();
    // `TORTIE_BENCH_SETS=500` measures one size alone, for a profiler to look at.
    let one = std::env::var("TORTIE_BENCH_SETS").ok().and_then(|sets| sets.parse().ok());
    for sets in one.map_or(SIZES.to_vec(), |sets| vec![sets]) {
        run(sets, &mut rows)?;
    }
    report(&rows)
}
