//! Firewalls of the host that would drop what it forwards for pods.

use nix::sys::signal::Signal;
use tortie_tests::agent::Agent;
use tortie_tests::kernel;

use super::{closed, lab, open, problems, restart_by, start_by, status, until, ways, with_firewalls};

/// What dockerd writes when it starts, with one bridge and one published port.
const DOCKER: &str = "\
*filter
:INPUT ACCEPT [0:0]
:FORWARD DROP [0:0]
:OUTPUT ACCEPT [0:0]
:DOCKER - [0:0]
:DOCKER-ISOLATION-STAGE-1 - [0:0]
:DOCKER-ISOLATION-STAGE-2 - [0:0]
:DOCKER-USER - [0:0]
-A FORWARD -j DOCKER-USER
-A FORWARD -j DOCKER-ISOLATION-STAGE-1
-A FORWARD -o docker0 -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
-A FORWARD -o docker0 -j DOCKER
-A FORWARD -i docker0 ! -o docker0 -j ACCEPT
-A FORWARD -i docker0 -o docker0 -j ACCEPT
-A DOCKER -d 172.17.0.2/32 ! -i docker0 -o docker0 -p tcp -m tcp --dport 8080 -j ACCEPT
-A DOCKER-ISOLATION-STAGE-1 -i docker0 ! -o docker0 -j DOCKER-ISOLATION-STAGE-2
-A DOCKER-ISOLATION-STAGE-1 -j RETURN
-A DOCKER-ISOLATION-STAGE-2 -o docker0 -j DROP
-A DOCKER-ISOLATION-STAGE-2 -j RETURN
-A DOCKER-USER -j RETURN
COMMIT
";

/// Our rules in the listing of a chain.
fn ours(listing: &str) -> Vec<&str> {
    listing.lines().filter(|line| line.contains("Tortie")).collect()
}

/// Docker on a host whose iptables writes to one backend, then to the other, then to both.
#[test]
fn dockers_policy_by_either_backend_and_by_both() {
    let lab = lab("docker");
    let (host, mut agents) = with_firewalls(&lab, "nft");
    assert!(open(&lab), "{:?}", ways(&lab));
    assert!(
        host.run(&["nft", "list", "tables"]).lines().all(|line| line == "table inet tortie"),
        "rules where nothing drops"
    );
    assert_eq!(problems(&lab), Vec::<String>::new());

    for backend in ["nft", "legacy"] {
        // What it does to pods, while nobody looks after them.
        agents[0].signal(Signal::SIGSTOP);
        for program in ["iptables", "ip6tables"] {
            let rules =
                DOCKER.replace("172.17.0.2/32", if program == "iptables" { "172.17.0.2/32" } else { "fd00::2/128" });
            host.script(&format!("{program}-{backend}-restore <<'RULES'\n{rules}RULES\n"));
        }
        assert!(closed(&lab), "Docker's policy drops: {:?}", ways(&lab));
        agents[0].signal(Signal::SIGCONT);
        until("pods are reachable beside Docker", || open(&lab));
        for program in ["iptables", "ip6tables"] {
            let listing = host.run(&[&format!("{program}-{backend}"), "-S", "FORWARD"]);
            let comment = "--comment \"Tortie: pods are judged in table inet tortie\"";
            let expected = ["-i", "-o"].map(|way| format!("-A FORWARD {way} cali+ -m comment {comment} -j ACCEPT"));
            let lines: Vec<&str> = listing.lines().collect();
            assert_eq!(lines[lines.len() - 2..], expected, "once each, behind Docker's: {listing}");
            assert_eq!(ours(&listing).len(), 2, "{listing}");
        }
    }
    assert_eq!(problems(&lab), Vec::<String>::new());

    // Somebody takes them away, from both backends: `iptables -F` leaves the policy.
    host.script("for p in iptables ip6tables; do for b in nft legacy; do $p-$b -F FORWARD; done; done");
    until("pods are reachable again", || open(&lab));
    let told = || status(&lab).expect("an agent").to_string().contains("FORWARD");
    until("the repair is told", told);

    // Neither the end of the agent nor a restart cuts traffic, and a restart adds no second rule.
    agents[0].kill();
    assert!(open(&lab), "{:?}", ways(&lab));
    start_by(&lab, &mut agents, &host.prefix());
    until("the restarted agent has looked", || problems(&lab).is_empty());
    for backend in ["nft", "legacy"] {
        assert_eq!(ours(&host.run(&[&format!("iptables-{backend}"), "-S", "FORWARD"])).len(), 2);
    }
    // What somebody accepted, and then rejects at the chain's end, is noticed too; the rule in front keeps its say.
    host.script("iptables -P FORWARD ACCEPT; iptables -F FORWARD; iptables -A FORWARD -s 192.0.2.0/24 -j DROP; iptables -A FORWARD -j REJECT");
    until("our rules stand before the one that rejects", || {
        let listing = host.run(&["iptables-nft", "-S", "FORWARD"]);
        let lines: Vec<&str> = listing.lines().collect();
        lines.len() == 5 && lines[1].contains("192.0.2.0") && ours(&listing).len() == 2 && lines[4].contains("REJECT")
    });
    until("pods are reachable before the one that rejects", || open(&lab));
}

/// No iptables where the agent runs: what nf_tables holds is mended all the same, and legacy's is named with the remedy.
#[test]
fn without_iptables() {
    let lab = lab("bare");
    let mut agents = Agent::all(&lab);
    let host = tortie_tests::host::Host::new(&agents[0].netns, "nft");
    let by = ["/usr/bin/env", "PATH=/nonexistent"].map(str::to_owned);
    restart_by(&lab, &mut agents, &by);
    host.script(&format!("iptables-nft-restore <<'RULES'\n{DOCKER}RULES\nip6tables-nft -P FORWARD DROP"));
    until("pods are reachable without iptables", || open(&lab));
    let listing = host.run(&["iptables-nft", "-S", "FORWARD"]);
    assert_eq!(ours(&listing).len(), 2, "iptables does not know our rules: {listing}");
    for rule in ours(&listing) {
        let words = rule.replacen("-A", "iptables-nft -D", 1);
        agents[0].signal(Signal::SIGSTOP);
        host.script(&words);
        agents[0].signal(Signal::SIGCONT);
    }
    until("what was deleted is there again", || ours(&host.run(&["iptables-nft", "-S", "FORWARD"])).len() == 2);

    host.run(&["iptables-legacy", "-P", "FORWARD", "DROP"]);
    let named = || problems(&lab).iter().any(|problem| problem.contains("no iptables-legacy is found"));
    until("the missing program is named", named);
    let problem = problems(&lab).into_iter().find(|problem| problem.contains("iptables-legacy")).expect("a problem");
    assert!(problem.contains("install the package iptables"), "{problem}");
    // What it says works.
    let commands = problem.split("run: ").nth(1).expect("the commands");
    host.script(commands);
    until("the advice helps", || problems(&lab).is_empty() && open(&lab));
}

/// ufw as Debian has it, with its default policies.
#[test]
fn ufw() {
    for backend in ["nft", "legacy"] {
        let lab = lab("ufw");
        let (host, mut agents) = with_firewalls(&lab, backend);
        // The agents' own sessions are the host's to let in.
        host.run(&["ufw", "allow", "179/tcp"]);
        host.run(&["ufw", "--force", "enable"]);
        until("pods are reachable beside ufw", || open(&lab));
        assert!(host.run(&["ufw", "status", "verbose"]).contains("deny (routed)"));
        host.run(&["ufw", "reload"]);
        until("pods are reachable after a reload", || open(&lab));
        // With a policy that rejects, what rejects is a rule and no policy.
        host.run(&["ufw", "default", "reject", "routed"]);
        host.run(&["ufw", "reload"]);
        until("pods are reachable where ufw rejects", || open(&lab));
        assert_eq!(problems(&lab), Vec::<String>::new());
        // Without us nothing was open: ours are what lets through.
        agents[0].kill();
        for program in ["iptables", "ip6tables"] {
            let listing = host.run(&[program, "-S", "FORWARD"]);
            for rule in ours(&listing) {
                host.script(&rule.replacen("-A", &format!("{program} -D"), 1));
            }
        }
        assert!(closed(&lab), "{:?}", ways(&lab));
    }
}

/// firewalld as Debian has it, with its default zone.
#[test]
fn firewalld() {
    let lab = lab("firewalld");
    let (mut host, mut agents) = with_firewalls(&lab, "nft");
    agents[0].signal(Signal::SIGSTOP);
    host.start(&["dbus-daemon", "--config-file=/etc/test-bus.conf", "--nofork", "--nopidfile"]);
    until("there is a bus", || host.try_run(&["test", "-S", "/run/dbus/system_bus_socket"]).is_ok());
    host.start(&["firewalld", "--nofork", "--nopid"]);
    until("firewalld runs", || host.try_run(&["firewall-cmd", "--state"]).is_ok());
    let table =
        || kernel::try_run(&agents[0].netns, "nft", &["list", "table", "inet", "firewalld"]).unwrap_or_default();
    until("firewalld has its table", || table().contains("filter_FORWARD"));
    host.run(&["firewall-cmd", "--permanent", "--add-port=179/tcp"]);
    host.run(&["firewall-cmd", "--reload"]);
    assert!(closed(&lab), "firewalld rejects: {:?}", ways(&lab));

    // An administrator's change that was never saved would be lost by a reload: then it is left to him.
    host.run(&["firewall-cmd", "--add-port=8443/tcp"]);
    agents[0].signal(Signal::SIGCONT);
    until("firewalld is named", || problems(&lab).iter().any(|problem| problem.contains("firewall-cmd --reload")));
    assert!(host.run(&["firewall-cmd", "--list-ports"]).contains("8443"), "the administrator's change was thrown away");
    assert!(closed(&lab), "{:?}", ways(&lab));
    host.run(&["firewall-cmd", "--reload"]);
    until("pods are reachable beside firewalld", || open(&lab));
    until("there is no problem any more", || problems(&lab).is_empty());

    // Reloaded by its administrator, it still knows; told to forget, it is told again.
    host.run(&["firewall-cmd", "--reload"]);
    until("pods are reachable after a reload", || open(&lab));
    host.run(&["firewall-cmd", "--permanent", "--delete-policy=tortie-forwarding"]);
    host.run(&["firewall-cmd", "--permanent", "--delete-zone=tortie"]);
    host.run(&["firewall-cmd", "--reload"]);
    until("firewalld was told again", || open(&lab));
    agents[0].kill();
    assert!(open(&lab), "the end of the agent cuts traffic: {:?}", ways(&lab));
}

/// A firewall that somebody wrote for nftables: named, with commands that work, and never touched.
#[test]
fn a_firewall_of_the_hosts_own() {
    let lab = lab("own");
    let (host, agents) = with_firewalls(&lab, "nft");
    let netns = agents[0].netns.clone();
    let script = "table inet filter {\n chain forward {\n  type filter hook forward priority 0; policy drop;\n  ct state established,related accept\n }\n}\n";
    kernel::nft_script(&netns, script);
    let before = kernel::run(&netns, "nft", &["list", "table", "inet", "filter"]);
    until("the table is named", || {
        problems(&lab).iter().any(|problem| problem.contains("table inet filter, chain forward"))
    });
    assert!(closed(&lab), "{:?}", ways(&lab));
    assert_eq!(kernel::run(&netns, "nft", &["list", "table", "inet", "filter"]), before, "it is not ours");
    let problem = problems(&lab).into_iter().find(|problem| problem.contains("inet filter")).expect("a problem");
    host.script(problem.split("run: ").nth(1).expect("the commands").replace("; ", "\n").as_str());
    until("the advice helps", || problems(&lab).is_empty() && open(&lab));
}
