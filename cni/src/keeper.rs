//! Keeps pods' interfaces and the node's kernel settings as they should be, whoever changes them.
//!
//! What is looked after: forwarding of the node and of each pod's interface, that the host's end is up with the settings and the address
//! that [`crate::interface`] gives it, the MTU of both ends, and limits of bandwidth. The keeper holds no timer and no subscription: whoever owns it says what is
//! wanted, and when to look. It believes the kernel, so looking twice writes once.
//!
//! Two settings of the kernel's are the sum of a general and a particular one, and the general one is dealt with here. Redirects are
//! sent when `all` *or* the interface says so: `all` is set to 0, which leaves every other interface to its own setting. A reverse path
//! is checked as strictly as the stricter of the two says: where `all` is strict, a pod that may use others' addresses is told of.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use ipnet::IpNet;
use regex_lite::Regex;
use tortie_api::k8s::Bandwidth;
use tortie_felix_netlink::{Error, Link, Net, Netns, sysctl};

use crate::endpoints::{Record, Store};
use crate::shaping::{self, Present};
use crate::{interface, mtu};

/// A directory that did not change for so long is known by its time of change.
const SETTLED: Duration = Duration::from_secs(1);

/// How strictly the kernel checks the reverse path on all interfaces, at least.
const RP_FILTER_OF_ALL: &str = "net/ipv4/conf/all/rp_filter";

/// How the node should be.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Wanted {
    /// Whether the node must forward IPv4.
    pub forward_ipv4: bool,
    /// Whether the node must forward IPv6.
    pub forward_ipv6: bool,
    /// A regular expression of the interfaces whose smallest MTU is that of pods.
    pub mtu_interfaces: String,
    /// The limits of the pods that have any, by the host's end of their veth.
    pub bandwidth: BTreeMap<String, Bandwidth>,
    /// The pods that may send from others' addresses, likewise.
    pub foreign_sources: BTreeSet<String>,
    /// What pods' MTU is besides that of the network between nodes.
    pub overlay: mtu::Overlay,
}

/// What to look at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Scope {
    /// Everything.
    All,
    /// All MTUs, and besides:
    Some {
        /// Whether the node's own settings are to be looked at.
        node: bool,
        /// Interfaces, of pods or not.
        interfaces: BTreeSet<u32>,
        /// More of them, by name.
        names: BTreeSet<String>,
    },
}

/// Something that had been right before, and was made right again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Repair {
    /// An interface, or the path of a kernel setting below `/proc/sys`.
    pub object: String,
    /// Whether it is a kernel setting.
    pub sysctl: bool,
    /// What was found.
    pub found: String,
}

/// What a look revealed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Findings {
    /// What others had changed.
    pub repairs: Vec<Repair>,
    /// What cannot be made right, one sentence each.
    pub problems: Vec<String>,
    /// Why the node does not forward as it should, if so.
    pub forwarding: Option<String>,
}

/// What was right once: if it is not any more, somebody else changed it.
#[derive(Debug, Default)]
struct Right {
    settings: BTreeSet<String>,
    /// By pods' interfaces.
    limits: BTreeMap<String, Bandwidth>,
    mtus: BTreeMap<String, u32>,
    up: BTreeSet<String>,
}

impl Right {
    /// Forgets the interfaces that are gone.
    fn retain(&mut self, interfaces: &BTreeSet<&str>) {
        let is_there = |path: &String| {
            path.split('/').nth(3).is_none_or(|name| matches!(name, "all" | "default") || interfaces.contains(name))
        };
        self.settings.retain(is_there);
        self.limits.retain(|name, _| interfaces.contains(name.as_str()));
        self.mtus.retain(|name, _| interfaces.contains(name.as_str()));
        self.up.retain(|name| interfaces.contains(name.as_str()));
    }
}

/// See the [module](self).
#[derive(Debug)]
pub struct Keeper {
    netns: Arc<Netns>,
    net: Net,
    store: Store,
    records: Vec<Record>,
    /// The state of the directory that the records were read in.
    read_at: Option<SystemTime>,
    right: Right,
    /// The MTU of pods as it was found last.
    mtu: Option<u32>,
}

impl Keeper {
    /// A keeper of the calling thread's network namespace. Needs a tokio runtime.
    ///
    /// # Errors
    /// When the namespace cannot be used.
    pub fn new(run_dir: &Path) -> Result<Self, Error> {
        Self::in_netns(Netns::current()?, run_dir)
    }

    /// A keeper of another network namespace. Needs a tokio runtime.
    ///
    /// # Errors
    /// When the namespace cannot be used.
    pub fn in_netns(netns: Netns, run_dir: &Path) -> Result<Self, Error> {
        let net = Net::in_netns(&netns)?;
        Ok(Self {
            netns: Arc::new(netns),
            net,
            store: Store::new(run_dir),
            records: Vec::new(),
            read_at: None,
            right: Right::default(),
            mtu: None,
        })
    }

    /// The MTU of pods as it was found last, in bytes.
    pub const fn mtu(&self) -> Option<u32> {
        self.mtu
    }

    /// Looks, and makes right what is not.
    pub async fn keep(&mut self, wanted: &Wanted, scope: &Scope) -> Findings {
        let mut findings = Findings::default();
        self.read_records();
        if matches!(scope, Scope::All | Scope::Some { node: true, .. }) {
            self.keep_node(wanted, &mut findings).await;
        }
        let present = match Present::read(&self.net).await {
            Ok(present) => present,
            Err(error) => {
                findings.problems.push(format!("pods' interfaces cannot be looked at: {error}"));
                return findings;
            }
        };
        if let Some(pattern) = mtu::pattern(&wanted.mtu_interfaces) {
            self.keep_mtu(&present, &pattern, wanted.overlay, &mut findings).await;
        }
        let in_scope = |link: &Link| match scope {
            Scope::All => true,
            Scope::Some { interfaces, names, .. } => interfaces.contains(&link.index) || names.contains(&link.name),
        };
        let addresses = match self.net.all_addresses().await {
            Ok(addresses) => addresses,
            Err(error) => {
                findings.problems.push(format!("pods' interfaces cannot be looked at: {error}"));
                return findings;
            }
        };
        let records = std::mem::take(&mut self.records);
        let pods = records.iter().filter_map(|record| {
            let link = present.link(&record.endpoint.host_interface).filter(|link| in_scope(link))?;
            Some((record, link))
        });
        let pods: Vec<(&Record, &Link)> = pods.collect();
        self.keep_settings(wanted, &pods, &mut findings).await;
        for (record, link) in pods {
            self.keep_limits(wanted, &present, record, link, &mut findings).await;
            self.keep_up(record, link, &addresses, &mut findings).await;
        }
        self.records = records;
        if *scope == Scope::All {
            self.sweep(wanted, &present, &mut findings).await;
        }
        findings
    }

    /// The directory's time of change tells whether any record came or went.
    fn read_records(&mut self) {
        let changed = self.store.changed();
        if self.read_at.is_none() || changed != self.read_at {
            self.records = self.store.load();
            let names: BTreeSet<&str> =
                self.records.iter().map(|record| record.endpoint.host_interface.as_str()).collect();
            self.right.retain(&names);
            // The clock of a file system is coarse: what changed just now may change again at the same time.
            self.read_at = changed.filter(|at| at.elapsed().is_ok_and(|age| age > SETTLED));
        }
    }

    // ---- settings ------------------------------------------------------------------------------------------------------------

    async fn keep_node(&mut self, wanted: &Wanted, findings: &mut Findings) {
        let mut settings = vec![("net/ipv4/conf/all/send_redirects".to_owned(), "0")];
        if wanted.forward_ipv4 {
            settings.push(("net/ipv4/ip_forward".to_owned(), "1"));
        }
        if wanted.forward_ipv6 {
            const FORWARDING: &str = "net/ipv6/conf/all/forwarding";
            let netns = Arc::clone(&self.netns);
            blocking(move || netns.run(|| keep_router_advertisements(FORWARDING))).await;
            settings.push((FORWARDING.to_owned(), "1"));
        }
        for (path, result) in set(&self.netns, settings).await {
            if let Err(error) = &result {
                findings.forwarding = Some(format!("{error}: pods cannot be reached without it"));
            }
            self.note(path, result, findings);
        }
    }

    /// Takes note of a setting that was looked at: the value that it had, if that was not the one it should have.
    fn note(&mut self, path: String, result: Result<Option<String>, Error>, findings: &mut Findings) {
        match result {
            Ok(None) => {
                self.right.settings.insert(path);
            }
            Ok(Some(found)) => {
                if !self.right.settings.insert(path.clone()) {
                    findings.repairs.push(Repair { object: path, sysctl: true, found });
                }
            }
            Err(error) => findings.problems.push(error.to_string()),
        }
    }

    /// The settings of all these interfaces, in one go.
    async fn keep_settings(&mut self, wanted: &Wanted, pods: &[(&Record, &Link)], findings: &mut Findings) {
        let mut settings = Vec::new();
        for (record, link) in pods {
            settings.extend(interface::host_settings(&link.name, record.endpoint.ips.iter().any(IpAddr::is_ipv6)));
        }
        let foreign: Vec<_> = pods.iter().filter(|(_, link)| wanted.foreign_sources.contains(&link.name)).collect();
        settings.extend(foreign.iter().map(|(_, link)| (format!("net/ipv4/conf/{}/rp_filter", link.name), "0")));
        if settings.is_empty() {
            return;
        }
        for (path, result) in set(&self.netns, settings).await {
            // A pod that goes takes its settings along.
            if !result.as_ref().is_err_and(Error::is_missing) {
                self.note(path, result, findings);
            }
        }
        if foreign.is_empty() {
            return;
        }
        let netns = Arc::clone(&self.netns);
        let strict = blocking(move || netns.run(|| sysctl::get(RP_FILTER_OF_ALL).is_ok_and(|now| now == "1"))).await;
        if matches!(strict, Some(Ok(true))) {
            findings.problems.extend(foreign.iter().map(|(record, _)| {
                format!(
                    "pod {}: net.ipv4.conf.all.rp_filter is 1, by which the kernel drops what it sends from other addresses \
                     than its own (allowedSourcePrefixes): set it to 0 or 2",
                    pod_of(record)
                )
            }));
        }
    }

    async fn keep_limits(
        &mut self,
        wanted: &Wanted,
        present: &Present,
        record: &Record,
        link: &Link,
        findings: &mut Findings,
    ) {
        let limits = wanted.bandwidth.get(&link.name).copied().unwrap_or_default();
        match shaping::shape(&self.net, present, link, &limits).await {
            Ok(found) => {
                let was_right = self.right.limits.get(&link.name) == Some(&limits);
                if let Some(found) = found {
                    tracing::info!(pod = pod_of(record), ?limits, "bandwidth is set");
                    if was_right {
                        let found = found.to_owned();
                        findings.repairs.push(Repair { object: link.name.clone(), sysctl: false, found });
                    }
                }
                if !was_right {
                    self.right.limits.insert(link.name.clone(), limits);
                }
            }
            Err(error) if self.gone(link).await => {
                tracing::debug!(pod = pod_of(record), %error, "the pod went while its bandwidth was set");
            }
            Err(error) => findings.problems.push(shaping::problem(&pod_of(record), &error)),
        }
    }

    /// Sets the host's end up, which must have its settings by then, and gives it its address, which goes when it is set down.
    async fn keep_up(&mut self, record: &Record, link: &Link, addresses: &[(u32, IpNet)], findings: &mut Findings) {
        let own = interface::own_address();
        let has_v6 = record.endpoint.ips.iter().any(IpAddr::is_ipv6);
        let found = if !link.up {
            "is down".to_owned()
        } else if has_v6 && !addresses.contains(&(link.index, own)) {
            format!("has no address {own}")
        } else {
            self.right.up.insert(link.name.clone());
            return;
        };
        let repair = async {
            self.net.set_up(link.index).await?;
            if has_v6 { self.net.add_address(link.index, own).await } else { Ok(()) }
        };
        match repair.await {
            Ok(()) if !self.right.up.insert(link.name.clone()) => {
                findings.repairs.push(Repair { object: link.name.clone(), sysctl: false, found });
            }
            Ok(()) => {}
            Err(error) if self.gone(link).await => tracing::debug!(pod = pod_of(record), %error, "the pod went"),
            Err(error) => findings.problems.push(format!("pod {}: {error}", pod_of(record))),
        }
    }

    async fn gone(&self, link: &Link) -> bool {
        !matches!(self.net.link_by_index(link.index).await, Ok(Some(_)))
    }

    // ---- MTU -----------------------------------------------------------------------------------------------------------------

    /// Gives pods the MTU of the network between nodes. The host's end is set last: where it is right, the pod's is.
    async fn keep_mtu(&mut self, present: &Present, pattern: &Regex, overlay: mtu::Overlay, findings: &mut Findings) {
        let detected = match mtu::underlay(&self.net, &present.links(), pattern).await {
            Ok(mtu) => overlay.inside(mtu),
            Err(error) => {
                findings.problems.push(format!("the MTU of pods cannot be found: {error}"));
                return;
            }
        };
        if self.mtu.replace(detected) != Some(detected) {
            tracing::info!(mtu = detected, "the MTU of pods");
        }
        let records = std::mem::take(&mut self.records);
        for record in &records {
            let wanted = if record.fixed_mtu { record.mtu } else { detected };
            let Some(link) = present.link(&record.endpoint.host_interface) else { continue };
            let was_right = self.right.mtus.get(&link.name) == Some(&wanted);
            if link.mtu == wanted {
                if !was_right {
                    self.right.mtus.insert(link.name.clone(), wanted);
                }
                continue;
            }
            match self.set_mtu(record, link, wanted).await {
                Ok(()) if was_right => {
                    let found = format!("MTU {}", link.mtu);
                    findings.repairs.push(Repair { object: link.name.clone(), sysctl: false, found });
                }
                Ok(()) => {
                    self.right.mtus.insert(link.name.clone(), wanted);
                    tracing::info!(
                        pod = pod_of(record),
                        before = link.mtu,
                        mtu = wanted,
                        "the MTU of a pod is changed"
                    );
                }
                Err(error) if self.gone(link).await => tracing::debug!(pod = pod_of(record), %error, "the pod went"),
                Err(error) => findings.problems.push(format!("pod {}: {error}", pod_of(record))),
            }
        }
        self.records = records;
    }

    async fn set_mtu(&self, record: &Record, link: &Link, mtu: u32) -> Result<(), Error> {
        let pod = interface::open(Path::new(&record.endpoint.netns))?;
        let net = Net::in_netns(&pod)?;
        if let Some(end) = net.link(&record.endpoint.ifname).await? {
            net.set_mtu(end.index, mtu).await?;
        }
        self.net.set_mtu(link.index, mtu).await
    }

    // ---- leftovers -----------------------------------------------------------------------------------------------------------

    /// Removes the intermediate devices of pods that are gone, and limits of pods that have none any more are gone already.
    async fn sweep(&mut self, wanted: &Wanted, present: &Present, findings: &mut Findings) {
        for (device, pod) in present.idle_devices(&wanted.bandwidth) {
            let is_known = |pod: &Link| self.records.iter().any(|record| record.endpoint.host_interface == pod.name);
            if pod.as_ref().is_some_and(is_known) {
                continue;
            }
            match shaping::remove_device(&self.net, pod.as_ref(), &device).await {
                Ok(()) => tracing::info!(device = device.name, "an intermediate device without its pod is removed"),
                Err(error) => findings.problems.push(error.to_string()),
            }
        }
    }
}

fn pod_of(record: &Record) -> String {
    format!("{}/{}", record.endpoint.namespace, record.endpoint.pod)
}

/// What came of each setting: the value that it had, if it had to be changed.
type Outcomes = Vec<(String, Result<Option<String>, Error>)>;

/// Sets what is not as it should be, all of it although some of it fails.
async fn set(netns: &Arc<Netns>, settings: Vec<(String, &'static str)>) -> Outcomes {
    let netns = Arc::clone(netns);
    let work = move || {
        netns.run(|| {
            let each = settings.iter().map(|(path, value)| (path.clone(), sysctl::ensure(path, value)));
            each.collect::<Outcomes>()
        })
    };
    match blocking(work).await {
        Some(Ok(outcomes)) => outcomes,
        Some(Err(error)) => vec![("net".to_owned(), Err(error))],
        None => Vec::new(),
    }
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Option<T> {
    tokio::task::spawn_blocking(work).await.ok()
}

/// A node that forwards IPv6 no longer listens to routers where `accept_ra` is 1, and would lose the default route that it has from
/// them when that expires. 2 means: listen although forwarding.
fn keep_router_advertisements(forwarding: &str) {
    if !sysctl::get(forwarding).is_ok_and(|now| now == "0") {
        return;
    }
    let Ok(interfaces) = std::fs::read_dir("/proc/sys/net/ipv6/conf") else { return };
    let names = interfaces.flatten().filter_map(|entry| entry.file_name().into_string().ok());
    for name in names.filter(|name| name != "all" && name != "default" && !name.starts_with("cali")) {
        let setting = format!("net/ipv6/conf/{name}/accept_ra");
        if sysctl::get(&setting).is_ok_and(|now| now == "1")
            && let Err(error) = sysctl::set(&setting, "2")
        {
            tracing::warn!("{error}: {name} no longer learns routes from IPv6 routers");
        }
    }
}
