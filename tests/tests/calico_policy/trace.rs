//! `tortie policy explain --trace` and `POST /v1/policy/trace`: what really happens to a flow, for a bounded time, and nothing of it
//! stays in the kernel, whoever is killed meanwhile.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpStream};
use std::os::unix::net::UnixStream;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tortie_tests::agent::{Agent, PATIENCE};
use tortie_tests::kernel::{nft_script, run};
use tortie_tests::lab::{Lab, array, tortie};
use tortie_tests::stream::inside;

use crate::cluster::Places;

/// An address that is translated to the server's, as kube-proxy would.
const SERVICE: Ipv4Addr = Ipv4Addr::new(10, 96, 0, 10);

/// What is denied: a pod, and the pod that it does not reach, both on one node.
pub(crate) struct Denied<'a> {
    pub(crate) lab: &'a Lab,
    pub(crate) from: &'a str,
    pub(crate) to: &'a str,
    /// What denies it, as a trace names it.
    pub(crate) by: &'a str,
}

impl Denied<'_> {
    /// Starts to explain and trace a flow to an address.
    fn start(&self, to: &str, port: u16, seconds: u16) -> Child {
        Command::new(tortie())
            .args(["policy", "explain", "--from", self.from, "--to", to, "--port", &port.to_string()])
            .args(["--trace", &seconds.to_string(), "--lab", &self.lab.name, "--node", "node1", "-o", "json"])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("tortie starts")
    }

    /// Has the pod try to connect, again and again, while `work` goes on.
    fn while_trying<T>(&self, places: &Places, to: (Ipv4Addr, u16), work: impl FnOnce() -> T) -> T {
        let done = AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                inside(places.netns(self.from), || {
                    while !done.load(Ordering::Relaxed) {
                        let tried = TcpStream::connect_timeout(&to.into(), Duration::from_millis(100));
                        assert!(tried.is_err(), "{to:?} is denied, and was reached");
                    }
                });
            });
            let result = work();
            done.store(true, Ordering::Relaxed);
            result
        })
    }

    /// The JSON of a trace that has come to its end.
    fn finish(command: Child) -> Value {
        let output = command.wait_with_output().expect("tortie ends");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        serde_json::from_slice(&output.stdout).expect("JSON")
    }

    /// The step that dropped a packet of the flow, and all steps before it.
    fn dropped(&self, report: &Value) -> (Value, Vec<Value>) {
        let packets = array(&report["packets"]);
        let packet = packets.iter().map(|packet| array(&packet["steps"]));
        let mut found = packet.filter(|steps| steps.last().is_some_and(|step| step["verdict"] == "drop"));
        let mut steps = found.next().unwrap_or_else(|| panic!("{} was not seen to be dropped: {report:#}", self.from));
        (steps.pop().expect("the last one"), steps)
    }
}

/// The tables of a node that trace.
fn tracing(netns: &str) -> Vec<String> {
    let tables = run(netns, "nft", &["list", "tables"]);
    tables.lines().filter(|table| table.contains("tortie-trace")).map(str::to_owned).collect()
}

fn wait_for(why: &str, mut done: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !done() {
        assert!(Instant::now() < deadline, "{why}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// `POST` to the agent's admin API.
fn post(lab: &Lab, body: &Value) -> (String, Value) {
    let body = body.to_string();
    let mut stream = UnixStream::connect(lab.path("nodes/node1/tortie.sock")).expect("the agent listens");
    let head = format!("POST /v1/policy/trace HTTP/1.0\r\nHost: agent\r\nContent-Length: {}\r\n\r\n", body.len());
    stream.write_all((head + &body).as_bytes()).expect("the agent reads");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("the agent answers");
    let (head, body) = answer.split_once("\r\n\r\n").expect("HTTP");
    (head.lines().next().unwrap_or_default().to_owned(), serde_json::from_str(body).expect("JSON"))
}

pub(crate) fn tells_what_happens_and_leaves_nothing(denied: &Denied<'_>) {
    let mut agent = Agent::all(denied.lab).remove(0);
    assert_eq!(agent.node, "node1");
    let places = Places::of(denied.lab);
    let server = places.ip(denied.to);
    nft_script(
        &agent.netns,
        &format!(
            "table ip service {{\n chain to_pods {{\n type nat hook prerouting priority -100;\n \
             ip daddr {SERVICE} tcp dport 8000 dnat to {server}:80\n}}\n}}\n"
        ),
    );
    let rules = run(&agent.netns, "nft", &["-a", "list", "table", "inet", "tortie"]);

    // To the pod, and by the address of a Service: the same rule denies both.
    for (to, address, port) in [(denied.to.to_owned(), server, 80), (SERVICE.to_string(), SERVICE, 8000)] {
        let began = Instant::now();
        let command = denied.start(&to, port, 2);
        let said = denied.while_trying(&places, (address, port), || Denied::finish(command));
        assert!(began.elapsed() < PATIENCE, "a trace of 2 s takes {:?}", began.elapsed());
        let report = array(&said["trace"]).into_iter().find(|report| report["node"] == "node1").expect("node1 traced");
        let (last, before) = denied.dropped(&report);
        assert_eq!(last["policy"], denied.by, "{report:#}");
        let (chain, handle) = (last["chain"].as_str().expect("a chain"), &last["handle"]);
        let end = format!(" # handle {handle}");
        let mut of_chain = rules.lines().skip_while(|line| !line.contains(&format!("chain {chain} {{")));
        assert!(of_chain.any(|line| line.ends_with(&end) && line.contains("drop")), "{chain} {handle}: {rules}");
        let translated = before.iter().any(|step| step["table"] == "service" && step["met"] == "rule");
        assert_eq!(translated, address == SERVICE, "{before:#?}");
        if address == server {
            let explained = array(&said["nftRules"]);
            let same = |rule: &Value| rule["chain"] == chain && rule["handle"] == *handle;
            assert!(explained.iter().any(same), "the rule that decides is not the one that is explained: {said:#}");
        }
        wait_for("a trace that is over stays in the kernel", || tracing(&agent.netns).is_empty());
    }

    // What cannot be traced is refused with a reason, and no time is long.
    let flow = |destination: &str, seconds: u32| json!({"source": places.ip(denied.from), "destination": destination, "protocol": 6, "seconds": seconds});
    let (status, answer) = post(denied.lab, &flow("fd00::1", 1));
    assert!(status.contains(" 503 ") && answer["error"].as_str().is_some_and(|it| it.contains("families")), "{answer}");
    let (status, answer) = post(denied.lab, &json!({"source": "nowhere"}));
    assert!(status.contains(" 400 ") && answer["error"].as_str().is_some_and(|it| it.contains("flow")), "{answer}");
    let (status, answer) = post(denied.lab, &flow("192.0.2.1", 1));
    assert!(status.contains(" 200 ") && answer == json!({"node": "node1", "packets": []}), "{status}: {answer}");

    // The command is killed: the agent ends the trace when it was to end.
    let mut command = denied.start(denied.to, 80, 3);
    wait_for("no trace begins", || !tracing(&agent.netns).is_empty());
    command.kill().expect("the command runs");
    command.wait().expect("the command is ours");
    wait_for("a trace whose command was killed stays in the kernel", || tracing(&agent.netns).is_empty());

    // The agent is killed: the kernel ends it.
    let mut command = denied.start(denied.to, 80, 60);
    wait_for("no trace begins", || !tracing(&agent.netns).is_empty());
    agent.kill();
    wait_for("a trace outlives the agent", || tracing(&agent.netns).is_empty());
    let ended = command.wait().expect("the command is ours");
    assert!(ended.code().is_some(), "the command hears that the agent is gone: {ended}");
    agent.start(denied.lab);
    run(&agent.netns, "nft", &["delete", "table", "ip", "service"]);
}
