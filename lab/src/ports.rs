//! Ports as the command line writes them (`TCP/80,UDP/53`, or `80` for TCP), and the ports that a pod declares.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use tortie_api::k8s::{Pod, Protocol};

/// A transport protocol and a port.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Port {
    /// The protocol.
    pub protocol: Protocol,
    /// The number.
    pub port: u16,
}

impl fmt::Display for Port {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.protocol, self.port)
    }
}

impl FromStr for Port {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let wrong =
            || format!("{text:?} is not PROTOCOL/PORT, such as TCP/80 or UDP/53, nor a port of TCP, such as 80");
        let text = text.trim();
        let (protocol, port) = text.split_once('/').unwrap_or(("TCP", text));
        let port = port.parse().ok().filter(|port| *port != 0).ok_or_else(wrong)?;
        Ok(Self { protocol: protocol.parse()?, port })
    }
}

/// Several ports, in the order they were given.
pub type List = Vec<Port>;

/// Reads a comma-separated list of ports.
pub fn parse_list(text: &str) -> Result<List, String> {
    text.split(',').map(str::parse).collect()
}

/// The ports that a pod declares, each once and in order; TCP/80 if it declares none.
pub fn declared(pod: &Pod) -> Vec<Port> {
    let mut ports: Vec<Port> = pod
        .ports()
        .filter(|port| port.container_port != 0)
        .map(|port| Port { protocol: port.protocol, port: port.container_port })
        .collect();
    ports.sort_unstable();
    ports.dedup();
    if ports.is_empty() {
        ports.push(Port { protocol: Protocol::Tcp, port: 80 });
    }
    ports
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists() {
        let ports = parse_list("TCP/80,udp/53, SCTP/5000,443").unwrap();
        let text: Vec<String> = ports.iter().map(ToString::to_string).collect();
        assert_eq!(text, ["TCP/80", "UDP/53", "SCTP/5000", "TCP/443"]);
        for bad in ["", "0", "http", "65536", "/80", "TCP/", "TCP/0", "TCP/65536", "ICMP/1", "TCP/80,", "TCP/-1"] {
            assert!(parse_list(bad).is_err(), "{bad:?} passed");
        }
    }

    #[test]
    fn nothing_declared_is_port_80() {
        let text: Vec<String> = declared(&Pod::default()).iter().map(ToString::to_string).collect();
        assert_eq!(text, ["TCP/80"]);
    }
}
