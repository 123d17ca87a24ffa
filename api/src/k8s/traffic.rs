//! What else a pod's annotations say of its traffic: how many packets and connections it may have
//! (`qos.projectcalico.org/ingressPacketRate` and its like), and whose addresses it may send from
//! (`cni.projectcalico.org/allowedSourcePrefixes`).

use std::net::IpAddr;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use super::Pod;
use super::annotation::{path, quantity};
use crate::field::FieldError;
use crate::meta::StringMap;

/// The least and the most of a packet rate and of its burst, Calico's: those of iptables' limit match.
const PACKETS: (u64, u64) = (1, 10_000);

/// The least and the most connections that the kernel counts to.
const CONNECTIONS: (u64, u64) = (1, 4_294_967_295);

/// The burst where nobody says one: the kernel's own.
const DEFAULT_BURST: u32 = 5;

/// The annotation that names prefixes, as a JSON list, from which a pod may send beside its own addresses.
pub const ALLOWED_SOURCE_PREFIXES: &str = "cni.projectcalico.org/allowedSourcePrefixes";

/// The limits of one pod.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TrafficLimits {
    /// Of what it is sent.
    pub ingress: TrafficLimit,
    /// Of what it sends.
    pub egress: TrafficLimit,
}

/// The limits of one direction.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TrafficLimit {
    /// How many packets may pass.
    pub packets: Option<PacketRate>,
    /// How many TCP connections there may be at once.
    pub connections: Option<u32>,
}

/// A rate of packets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct PacketRate {
    /// In the long run, a second.
    pub rate: u32,
    /// At once after a silence.
    pub burst: u32,
}

impl TrafficLimits {
    /// Whether there is no limit at all.
    pub const fn is_none(&self) -> bool {
        self.ingress.is_none() && self.egress.is_none()
    }
}

impl TrafficLimit {
    /// Whether there is no limit at all.
    pub const fn is_none(&self) -> bool {
        self.packets.is_none() && self.connections.is_none()
    }
}

/// The annotations of one direction.
struct Names {
    rate: &'static str,
    burst: &'static str,
    connections: &'static str,
}

const INGRESS: Names = Names {
    rate: "qos.projectcalico.org/ingressPacketRate",
    burst: "qos.projectcalico.org/ingressPacketBurst",
    connections: "qos.projectcalico.org/ingressMaxConnections",
};

const EGRESS: Names = Names {
    rate: "qos.projectcalico.org/egressPacketRate",
    burst: "qos.projectcalico.org/egressPacketBurst",
    connections: "qos.projectcalico.org/egressMaxConnections",
};

impl Pod {
    /// The pod's limits of packets and connections, and what is wrong with its annotations. One that is no number sets no limit; one
    /// that is out of range is the nearest that is in it.
    pub fn traffic_limits(&self) -> (TrafficLimits, Vec<FieldError>) {
        let mut errors = Vec::new();
        let annotations = &self.metadata.annotations;
        let ingress = limit(annotations, &INGRESS, &mut errors);
        let egress = limit(annotations, &EGRESS, &mut errors);
        (TrafficLimits { ingress, egress }, errors)
    }

    /// The prefixes that the pod wants to send from beside its own addresses: addresses and prefixes, sorted.
    ///
    /// # Errors
    /// If the annotation is no JSON list of addresses and prefixes.
    pub fn allowed_source_prefixes(&self) -> Result<Vec<IpNet>, FieldError> {
        let Some(text) = self.metadata.annotations.get(ALLOWED_SOURCE_PREFIXES) else { return Ok(Vec::new()) };
        let remedy = "must be a JSON list of prefixes, such as [\"192.0.2.0/24\"]";
        let invalid = || FieldError::invalid(path(ALLOWED_SOURCE_PREFIXES), text, remedy);
        let prefixes: Vec<String> = serde_json::from_str(text).map_err(|_| invalid())?;
        let mut prefixes: Vec<IpNet> =
            prefixes.iter().map(|prefix| parse_prefix(prefix)).collect::<Option<_>>().ok_or_else(invalid)?;
        prefixes.sort_unstable();
        prefixes.dedup();
        Ok(prefixes)
    }
}

/// A prefix without bits beyond its length, from a prefix or an address.
fn parse_prefix(text: &str) -> Option<IpNet> {
    let text = text.trim();
    text.parse::<IpNet>().ok().or_else(|| text.parse::<IpAddr>().ok().map(IpNet::from)).map(|net| net.trunc())
}

fn limit(annotations: &StringMap, names: &Names, errors: &mut Vec<FieldError>) -> TrafficLimit {
    let mut read = |name, range| {
        let value = quantity(annotations, name, range, errors);
        value.map(|value| u32::try_from(value).unwrap_or(u32::MAX))
    };
    let (rate, burst) = (read(names.rate, PACKETS), read(names.burst, PACKETS));
    let connections = read(names.connections, CONNECTIONS);
    if burst.is_some() && rate.is_none() {
        let remedy = format!("has no effect without {}", names.rate);
        errors.push(FieldError::forbidden(path(names.burst), &remedy));
    }
    let packets = rate.map(|rate| PacketRate { rate, burst: burst.unwrap_or(DEFAULT_BURST) });
    TrafficLimit { packets, connections }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::k8s::annotation::pod;

    #[test]
    fn limits_are_quantities_with_calicos_defaults() {
        let pod = pod(&[
            (INGRESS.rate, "1k"),
            (INGRESS.connections, "4294967295"),
            (EGRESS.rate, "7"),
            (EGRESS.burst, "10k"),
        ]);
        let (limits, errors) = pod.traffic_limits();
        assert!(errors.is_empty(), "{errors:?}");
        assert_eq!(
            limits.ingress,
            TrafficLimit { packets: Some(PacketRate { rate: 1000, burst: 5 }), connections: Some(u32::MAX) }
        );
        let packets = Some(PacketRate { rate: 7, burst: 10_000 });
        assert_eq!(limits.egress, TrafficLimit { packets, connections: None });
        assert!(Pod::default().traffic_limits().0.is_none());
    }

    #[test]
    fn what_is_wrong_is_named_and_nothing_else_is_lost() {
        let pod = pod(&[
            (INGRESS.rate, "20k"),
            (INGRESS.connections, "many"),
            (EGRESS.burst, "3"),
            (EGRESS.connections, "0"),
        ]);
        let (limits, errors) = pod.traffic_limits();
        let packets = Some(PacketRate { rate: 10_000, burst: 5 });
        assert_eq!(limits.ingress, TrafficLimit { packets, connections: None });
        assert_eq!(limits.egress, TrafficLimit { packets: None, connections: Some(1) });
        let errors: Vec<String> = errors.iter().map(ToString::to_string).collect();
        for name in [INGRESS.rate, INGRESS.connections, EGRESS.burst, EGRESS.connections] {
            assert_eq!(errors.iter().filter(|error| error.contains(name)).count(), 1, "{name}: {errors:?}");
        }
        assert_eq!(errors.len(), 4);
    }

    #[test]
    fn source_prefixes_are_a_list_of_prefixes_and_addresses() {
        let prefixes = |text: &str| pod(&[(ALLOWED_SOURCE_PREFIXES, text)]).allowed_source_prefixes();
        let texts = |text: &str| prefixes(text).map(|nets| nets.iter().map(ToString::to_string).collect::<Vec<_>>());
        assert_eq!(
            texts(r#"["192.0.2.7/24", "10.1.1.1", "fd00::/8", "192.0.2.0/24"]"#).expect("a list"),
            ["10.1.1.1/32", "192.0.2.0/24", "fd00::/8"]
        );
        assert!(Pod::default().allowed_source_prefixes().expect("nothing").is_empty());
        assert!(texts("[]").expect("an empty list").is_empty());
        for text in ["", "192.0.2.0/24", "[1]", r#"["192.0.2.0/33"]"#, r#"["any"]"#, "null", "{}"] {
            let error = prefixes(text).expect_err(text).to_string();
            assert!(error.contains(ALLOWED_SOURCE_PREFIXES), "{error}");
        }
    }
}
