//! `kill -9` of an agent under traffic, and its return: nothing may be lost, nothing denied may pass, nothing may flap.

use std::collections::BTreeMap;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::task::JoinHandle;
use tortie_api::k8s::Protocol;
use tortie_felix_netlink::{Event, Monitor, Net, netns};
use tortie_nft::Ruleset;
use tortie_nft_netlink::NftSocket;

use super::PATIENCE;
use super::stage::Stage;
use super::traffic::{Flow, Tally, Traffic};
use crate::control::{Listening, Request};
use crate::ports::Port;
use crate::state::{Node, Pod, State};
use crate::{Error, Lab};

/// The protocol number of the agents' routes.
const TORTIE: u8 = 80;

/// The port of the UDP stream.
pub(super) const STREAM: Port = Port { protocol: Protocol::Udp, port: 5000 };

/// How long the agent stays dead.
const DEAD: Duration = Duration::from_secs(2);

/// What a node's kernel holds of ours.
#[derive(PartialEq, Eq)]
struct Kernel {
    routes: Vec<String>,
    table: Option<Ruleset>,
}

pub(super) async fn run(lab: &Lab, stage: &mut Stage) -> Result<(), Error> {
    let state = lab.state()?;
    let pod = |namespace: &str, name: &str| {
        let found = state.pod(namespace, name).cloned();
        found.ok_or_else(|| Error::Failed(format!("pod {namespace}/{name} is missing")))
    };
    let (nginx, demo, client, worker) =
        (pod("web", "nginx")?, pod("web", "demo")?, pod("web", "client")?, pod("prod", "worker")?);
    let Some(victim) = state.node(&nginx.node).cloned() else {
        return Err(Error::Failed(format!("node {} is missing", nginx.node)));
    };
    stage.begin(&format!("kill -9 of the agent of {}, under traffic", victim.name));
    let listening =
        [&nginx, &worker].map(|pod| Listening { pod: pod.full_name(), netns: pod.netns.clone(), ports: vec![STREAM] });
    lab.responders(&state, &Request::Ensure(listening.to_vec())).await?;
    let before = kernels(&state).await?;
    let watch = watch(&state)?;
    let flows = vec![flow(&demo, &nginx, true)?, flow(&nginx, &worker, true)?, flow(&client, &nginx, false)?];
    lab.say("sending traffic");
    let traffic = Traffic::start(flows);
    tokio::time::sleep(Duration::from_millis(500)).await;
    let Some(pid) = victim.pid.and_then(|pid| i32::try_from(pid).ok()) else {
        return Err(Error::Failed(format!("{}: its agent does not run", victim.name)));
    };
    kill(Pid::from_raw(pid), Signal::SIGKILL).map_err(|errno| Error::Failed(format!("kill {pid}: {errno}")))?;
    tokio::time::sleep(DEAD).await;
    if kernels(&state).await? != before {
        stage.fail("routes or rules changed while the agent was dead");
    }
    stage.end(&format!("process {pid} is dead for {} s; routes and rules stay in the kernel", DEAD.as_secs()));

    stage.begin("Its restart");
    lab.restart_agent(&victim.name)?;
    let began = std::time::Instant::now();
    lab.say("waiting for the agent to be ready, and for its sessions");
    lab.wait(PATIENCE).await?;
    stage.line(&format!("ready, and every session Established again, after {:.2} s", began.elapsed().as_secs_f64()));
    tokio::time::sleep(Duration::from_millis(500)).await;
    let tallies = traffic.stop().await?;
    report(stage, &tallies);
    let flaps = watch.stop().await?;
    if flaps.is_empty() {
        stage.line("no route was touched, on any node");
    } else {
        stage.fail(&format!("{} route changes: {}", flaps.len(), flaps.join("; ")));
    }
    let after = kernels(&state).await?;
    match difference(&before, &after) {
        None => stage.line("the nftables table of every node is the one from before"),
        Some(text) => stage.fail(&text),
    }
    stage.end("nothing was lost, nothing flapped");
    Ok(())
}

pub(super) fn flow(from: &Pod, to: &Pod, stream: bool) -> Result<Flow, Error> {
    let address = to.ip(false).ok_or_else(|| Error::Failed(format!("pod {} has no IPv4 address", to.full_name())))?;
    Ok(Flow { netns: from.netns.clone(), to: address, tcp: 80, udp: stream.then_some(STREAM.port) })
}

fn report(stage: &mut Stage, tallies: &[Tally]) {
    let [inwards, outwards, denied] = tallies else { return stage.fail("traffic is missing") };
    for (title, tally) in [("web/demo to web/nginx", inwards), ("web/nginx to prod/worker", outwards)] {
        let text = format!(
            "{title}: {} of {} datagrams answered, {} of {} new connections made",
            tally.answered, tally.sent, tally.made, tally.tried
        );
        // A stream that hardly ran would prove nothing.
        let ran = tally.sent >= 50 && tally.tried >= 50;
        if ran && tally.answered == tally.sent && tally.made == tally.tried {
            stage.line(&text);
        } else {
            stage.fail(&text);
        }
    }
    let text = format!(
        "web/client to web/nginx, which policy (b) denies: {} of {} connections made",
        denied.made, denied.tried
    );
    if denied.made == 0 && denied.tried >= 50 { stage.line(&text) } else { stage.fail(&text) }
}

async fn kernels(state: &State) -> Result<BTreeMap<String, Kernel>, Error> {
    let mut kernels = BTreeMap::new();
    for node in state.agents() {
        kernels.insert(node.name.clone(), kernel(node).await?);
    }
    Ok(kernels)
}

async fn kernel(node: &Node) -> Result<Kernel, Error> {
    let netns = netns::open(&node.netns).map_err(Error::net)?;
    let net = Net::in_netns(&netns).map_err(Error::net)?;
    let routes = net.routes(Some(TORTIE)).await.map_err(Error::net)?;
    let mut routes: Vec<String> = routes.iter().map(ToString::to_string).collect();
    routes.sort();
    let table = netns
        .run(|| NftSocket::open().and_then(|mut socket| socket.read()))
        .map_err(Error::net)?
        .map_err(|error| Error::Failed(format!("{}: nftables: {error}", node.name)))?;
    Ok(Kernel { routes, table })
}

/// What differs. A restart may move its own table to the next generation, and do no more.
fn difference(before: &BTreeMap<String, Kernel>, after: &BTreeMap<String, Kernel>) -> Option<String> {
    before.iter().find_map(|(node, before)| {
        let after = after.get(node)?;
        if before.routes != after.routes {
            return Some(format!("{node}: the routes are not those from before"));
        }
        let text = |kernel: &Kernel| kernel.table.as_ref().map(|table| without_marks(&table.to_string()));
        (text(before) != text(after)).then(|| format!("{node}: the nftables table is not the one from before"))
    })
}

/// A ruleset's text without the generation's marks, which are its only numbers of eight hex digits.
fn without_marks(text: &str) -> String {
    let mut result = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(start) = rest.find("0x") {
        let digits = rest[start + 2..].chars().take_while(char::is_ascii_hexdigit).count();
        result.push_str(&rest[..start]);
        result.push_str(if digits == 8 { "MARK" } else { &rest[start..start + 2 + digits] });
        rest = &rest[start + 2 + digits..];
    }
    result + rest
}

/// Listeners on the routes of every node.
struct Watch(Vec<JoinHandle<Error>>, std::sync::Arc<std::sync::Mutex<Vec<String>>>);

fn watch(state: &State) -> Result<Watch, Error> {
    let seen = std::sync::Arc::new(std::sync::Mutex::new(Vec::new()));
    let mut tasks = Vec::new();
    for node in state.agents() {
        let mut monitor = Monitor::in_netns(&netns::open(&node.netns).map_err(Error::net)?).map_err(Error::net)?;
        let (seen, name) = (std::sync::Arc::clone(&seen), node.name.clone());
        tasks.push(tokio::spawn(async move {
            loop {
                let change = match monitor.next().await {
                    Ok(Event::RouteChanged(route)) if route.protocol == TORTIE => format!("{name}: {route}"),
                    Ok(Event::RouteRemoved(route)) if route.protocol == TORTIE => format!("{name}: no {route}"),
                    Ok(Event::Overrun) => format!("{name}: events were lost"),
                    Ok(_) => continue,
                    Err(error) => return Error::net(error),
                };
                seen.lock().unwrap_or_else(std::sync::PoisonError::into_inner).push(change);
            }
        }));
    }
    Ok(Watch(tasks, seen))
}

impl Watch {
    /// Ends listening; what was heard.
    async fn stop(self) -> Result<Vec<String>, Error> {
        for task in self.0 {
            if task.is_finished() {
                return Err(task.await.unwrap_or_else(|error| Error::Failed(error.to_string())));
            }
            task.abort();
        }
        Ok(std::mem::take(&mut *self.1.lock().unwrap_or_else(std::sync::PoisonError::into_inner)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn marks_are_masked_and_nothing_else() {
        assert_eq!(without_marks("ct mark 0x00020000 tcp dport 0x50 accept"), "ct mark MARK tcp dport 0x50 accept");
        assert_eq!(without_marks("0x"), "0x");
        assert_eq!(without_marks(""), "");
    }
}
