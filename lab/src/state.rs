//! What a lab consists of: the state file from which `down` cleans up, also after a crash.
//!
//! A thing is written down before it is made and struck out after it is gone, so the file never knows less than the kernel does.
//! Every command that changes a lab holds the lock beside it.

use std::fs::File;
use std::io::Write;
use std::net::IpAddr;
use std::path::Path;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use crate::Error;
use crate::name::Paths;
use crate::ports::Port;

/// One lab.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct State {
    /// The lab's name.
    pub lab: String,
    /// The process that is making the lab or runs the demo on it; the lab outlives it unless it is a demo.
    pub owner: Option<u32>,
    /// Layer 2 segments, each a bridge in the fabric.
    pub segments: Vec<Segment>,
    /// Nodes, in the order of their names.
    pub nodes: Vec<Node>,
    /// Pods that have, or should get, a network namespace.
    pub pods: Vec<Pod>,
    /// How many pods were placed by round robin so far.
    pub placed: usize,
}

/// A bridge in the fabric, and the fabric's addresses on it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Segment {
    /// The bridge's name.
    pub bridge: String,
    /// The first address of every subnet on it, with the subnet's prefix length.
    pub gateways: Vec<IpNet>,
}

/// A node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Node {
    /// The node's name.
    pub name: String,
    /// Its network namespace.
    pub netns: String,
    /// Whether it has no agent (`tortie.io/lab: external`).
    pub external: bool,
    /// Whether its agent runs without BGP (`tortie.io/lab: no-bgp`).
    #[serde(default)]
    pub no_bgp: bool,
    /// The bridge it is on.
    pub bridge: String,
    /// The fabric's end of its cable.
    pub link: String,
    /// Its address and subnet, IPv4.
    pub ipv4: IpNet,
    /// Its address and subnet, IPv6.
    pub ipv6: IpNet,
    /// The agent's process id.
    pub pid: Option<u32>,
}

/// A pod.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Pod {
    /// The pod's namespace.
    pub namespace: String,
    /// The pod's name.
    pub name: String,
    /// The node it is on.
    pub node: String,
    /// Its network namespace.
    pub netns: String,
    /// The container id that its CNI ADD used.
    pub container_id: String,
    /// Its addresses; none until the CNI ADD has succeeded.
    pub ips: Vec<IpAddr>,
    /// Addresses that its annotation pins.
    pub pinned: Vec<IpAddr>,
    /// Its declared ports, TCP/80 if it declares none.
    pub ports: Vec<Port>,
}

impl Pod {
    /// `NAMESPACE/NAME`.
    pub fn full_name(&self) -> String {
        format!("{}/{}", self.namespace, self.name)
    }

    /// The pod's address of a family.
    pub fn ip(&self, ipv6: bool) -> Option<IpAddr> {
        self.ips.iter().copied().find(|ip| ip.is_ipv6() == ipv6)
    }
}

impl State {
    /// The node of this name.
    pub fn node(&self, name: &str) -> Option<&Node> {
        self.nodes.iter().find(|node| node.name == name)
    }

    /// The pod of this namespace and name.
    pub fn pod(&self, namespace: &str, name: &str) -> Option<&Pod> {
        self.pods.iter().find(|pod| pod.namespace == namespace && pod.name == name)
    }

    /// Nodes with an agent.
    pub fn agents(&self) -> impl Iterator<Item = &Node> {
        self.nodes.iter().filter(|node| !node.external)
    }

    /// Every network namespace of the lab, pods first, the fabric last.
    pub fn namespaces(&self) -> Vec<String> {
        let pods = self.pods.iter().map(|pod| pod.netns.clone());
        let nodes = self.nodes.iter().map(|node| node.netns.clone());
        pods.chain(nodes).chain([crate::name::fabric_netns(&self.lab)]).collect()
    }

    /// The fabric's addresses, in the order of the segments.
    pub fn outside(&self) -> Vec<IpAddr> {
        self.segments.iter().flat_map(|segment| &segment.gateways).map(IpNet::addr).collect()
    }

    /// Reads a lab's state; `None` when there is no such lab.
    pub fn load(paths: &Paths) -> Result<Option<Self>, Error> {
        let file = paths.state();
        let text = match std::fs::read(&file) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(Error::io("read", &file, error)),
        };
        serde_json::from_slice(&text)
            .map(Some)
            .map_err(|error| Error::Failed(format!("{}: {error}; take the lab down and up again", file.display())))
    }

    /// Writes the state, by atomic rename.
    pub fn save(&self, paths: &Paths) -> Result<(), Error> {
        let file = paths.state();
        let new = file.with_extension("new");
        let text = serde_json::to_vec_pretty(self).map_err(|error| Error::Failed(error.to_string()))?;
        let write = || {
            let mut out = File::create(&new)?;
            out.write_all(&text)?;
            std::fs::rename(&new, &file)
        };
        write().map_err(|error| Error::io("write", &file, error))
    }
}

/// The lock that commands which change a lab hold. It is gone with the process.
#[derive(Debug)]
pub struct Lock(#[expect(dead_code, reason = "holds the lock until it is dropped")] File);

impl Lock {
    /// Takes the lock of the lab, or says who may be holding it.
    pub fn take(root: &Path, lab: &str) -> Result<Self, Error> {
        let path = root.join("lock");
        let file = File::create(&path).map_err(|error| Error::io("create", &path, error))?;
        match file.try_lock() {
            Ok(()) => Ok(Self(file)),
            Err(std::fs::TryLockError::WouldBlock) => {
                Err(Error::Failed(format!("another command is changing the lab {lab:?}; wait for it to end")))
            }
            Err(std::fs::TryLockError::Error(error)) => Err(Error::io("lock", &path, error)),
        }
    }
}
