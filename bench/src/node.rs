//! A node without its surroundings: felix's core and the socket to nf_tables, in a network namespace of their own, fed by hand.

use std::time::{Duration, Instant};

use nix::sched::{CloneFlags, unshare};
use serde_json::json;
use tortie_api::{Decoded, Object, ObjectKey, decode};
use tortie_felix::{Action, Change, Config, Event, Felix, LocalEndpoint, Millis, Snapshot, TunnelReport};
use tortie_nft_netlink::NftSocket;
use tortie_policy::host_interface;

/// The core, its socket, and what the kernel took.
#[derive(Debug)]
pub struct Node {
    felix: Felix,
    socket: NftSocket,
    now: Millis,
    revision: u64,
    /// How long each transaction took in the kernel, since this was emptied last.
    pub commits: Vec<Duration>,
}

impl Node {
    /// A node in a new network namespace of the calling thread, with these pods of its own and these objects in its cluster.
    ///
    /// # Errors
    /// Without the right to, or when the kernel refuses the rules.
    pub fn start(objects: Vec<Object>, endpoints: Vec<LocalEndpoint>) -> Result<Self, String> {
        unshare(CloneFlags::CLONE_NEWNET).map_err(|errno| format!("unshare: {errno}; root is needed"))?;
        let socket = NftSocket::open().map_err(|error| error.to_string())?;
        let config = Config { node: "n0".into(), dataplane: true, bgp: false, route_protocols: Vec::new(), seed: 7 };
        let mut node = Self { felix: Felix::new(config), socket, now: 1_000, revision: 0, commits: Vec::new() };
        node.run()?;
        node.event(Event::Restored { endpoints })?;
        node.change(objects.into_iter().map(Change::Upsert).collect())?;
        Ok(node)
    }

    /// The core.
    pub fn felix(&self) -> &Felix {
        &self.felix
    }

    /// Brings a change of the cluster into the kernel. Returns how long that took, from the core's hearing of it to the kernel's last
    /// answer.
    ///
    /// # Errors
    /// When the kernel refuses, or the core does not bring it there.
    pub fn change(&mut self, changes: Vec<Change>) -> Result<Duration, String> {
        // Generations may move only so often; here that must not count.
        self.now += 100;
        self.revision += 1;
        let revision = self.revision.to_string();
        let event = Event::Datastore { changes, in_sync: true, revision: revision.clone() };
        let start = Instant::now();
        self.event(event)?;
        let took = start.elapsed();
        if self.felix.programmed_revision() == revision {
            Ok(took)
        } else {
            Err(format!("revision {revision} did not arrive: {:?}", self.felix.status()))
        }
    }

    fn event(&mut self, event: Event) -> Result<(), String> {
        self.felix.handle(event, self.now);
        self.run()
    }

    fn run(&mut self) -> Result<(), String> {
        while let Some(action) = self.felix.poll() {
            let answer = match action {
                Action::ReadRules => Event::RulesRead(self.socket.read().map_err(|error| error.to_string())),
                Action::ApplyRules(transaction) => {
                    let start = Instant::now();
                    self.socket.apply(&transaction).map_err(|error| error.to_string())?;
                    self.commits.push(start.elapsed());
                    Event::RulesApplied(Ok(()))
                }
                // There are no flows here.
                Action::SweepStamps(_) => Event::StampsSwept(Ok(0)),
                Action::ReadRoutes => Event::RoutesRead(Ok(Snapshot::default())),
                Action::ApplyRoutes(_) => Event::RoutesApplied(Ok(Vec::new())),
                Action::ConfigureBgp(_) => Event::BgpConfigured(Ok(())),
                Action::ConfigureHost(_) => Event::HostConfigured(Ok(())),
                // Nor are there overlays.
                Action::ConfigureTunnels(_) => Event::TunnelsConfigured(TunnelReport::default()),
                Action::Done { .. } | Action::Settings(_) | Action::Report(_) => continue,
            };
            self.felix.handle(answer, self.now);
        }
        Ok(())
    }
}

/// An object from its document.
///
/// # Errors
/// When it is not valid.
pub fn object(document: &serde_json::Value) -> Result<Object, String> {
    match decode(document) {
        Ok(Decoded::Object(object)) => Ok(*object),
        other => Err(format!("{document}: {other:?}")),
    }
}

/// A pod with one label and one address.
///
/// # Errors
/// Never, unless a name is not fit to be one.
pub fn pod(namespace: &str, name: &str, node: &str, app: &str, address: u32) -> Result<Object, String> {
    let ip = std::net::Ipv4Addr::from(address);
    object(&json!({"apiVersion": "v1", "kind": "Pod",
        "metadata": {"namespace": namespace, "name": name, "labels": {"app": app, "pod-template-hash": format!("{app}-5d8f7")}},
        "spec": {"nodeName": node, "containers": [{"name": "c", "ports": [{"containerPort": 80, "name": "web"}]}]},
        "status": {"podIPs": [{"ip": ip}]}}))
}

/// That pod's interface on its node.
pub fn endpoint(namespace: &str, name: &str, address: u32) -> LocalEndpoint {
    LocalEndpoint {
        namespace: namespace.into(),
        pod: name.into(),
        container_id: format!("{namespace}-{name}"),
        ifname: "eth0".into(),
        interface: host_interface(namespace, name),
        ips: vec![std::net::Ipv4Addr::from(address).into()],
    }
}

/// A deletion of what `object` is.
pub fn deletion(object: &Object) -> Change {
    let key: ObjectKey = object.key();
    Change::Delete(key)
}
