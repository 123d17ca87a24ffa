//! The types of FelixConfiguration's fields, each read as Calico's API server and Felix read it.
//!
//! Most are text on the wire. An empty text is a field that is not set, as Calico's own types have it; enumerations are taken in any
//! case where Calico takes them so.

use std::fmt;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::time::Duration as StdDuration;

use ipnet::IpNet;
use serde::de::{Error, Unexpected, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::meta::parse_network;

/// Why a text is not of a type.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TextError {
    /// What it should be: a predicate, such as "must be an IPv4 address".
    Should(String),
    /// It should be one of these names.
    OneOf(&'static [&'static str]),
}

/// A type that manifests write as text.
pub trait FromText: Sized {
    /// Reads it; the text is not empty.
    ///
    /// # Errors
    /// What the text should be.
    fn from_text(text: &str) -> Result<Self, TextError>;
}

impl FromText for String {
    fn from_text(text: &str) -> Result<Self, TextError> {
        Ok(text.to_owned())
    }
}

fn should<T>(what: impl Into<String>) -> Result<T, TextError> {
    Err(TextError::Should(what.into()))
}

/// Reads a field that is text; an empty one is not set.
pub(in crate::calico) fn text<'de, D, T>(deserializer: D) -> Result<Option<T>, D::Error>
where
    D: Deserializer<'de>,
    T: FromText,
{
    match Option::<String>::deserialize(deserializer)? {
        Some(text) if !text.is_empty() => from_text(&text).map(Some),
        _ => Ok(None),
    }
}

fn from_text<T: FromText, E: Error>(text: &str) -> Result<T, E> {
    T::from_text(text).map_err(|error| match error {
        TextError::Should(what) => E::custom(what),
        TextError::OneOf(names) => E::unknown_variant(text, names),
    })
}

/// Reads a text that must be there.
fn needed<'de, D, T>(deserializer: D) -> Result<T, D::Error>
where
    D: Deserializer<'de>,
    T: FromText,
{
    from_text(&String::deserialize(deserializer)?)
}

/// Reads a field of any other type; an explicit null is not set.
pub(super) fn plain<'de, D, T>(deserializer: D) -> Result<Option<T>, D::Error>
where
    D: Deserializer<'de>,
    T: Deserialize<'de>,
{
    Option::<T>::deserialize(deserializer)
}

/// [`FromText`], reading and writing for enumerations of names.
macro_rules! names {
    ($($(#[doc = $doc:literal])+ $type:ident { $($(#[doc = $variant_doc:literal])+ $variant:ident = $name:literal),+ $(,)? })+) => {$(
        $(#[doc = $doc])+
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
        pub enum $type {
            $($(#[doc = $variant_doc])+ #[serde(rename = $name)] $variant),+
        }

        impl $type {
            /// The names, as manifests spell them.
            pub const NAMES: &'static [&'static str] = &[$($name),+];
        }

        #[cfg(feature = "schema")]
        impl schemars::JsonSchema for $type {
            fn schema_name() -> std::borrow::Cow<'static, str> {
                stringify!($type).into()
            }

            fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
                crate::schema::names(concat!($($doc),+), &[$(($name, concat!($($variant_doc),+))),+])
            }
        }

        impl FromText for $type {
            fn from_text(text: &str) -> Result<Self, TextError> {
                $(if text.eq_ignore_ascii_case($name) {
                    return Ok(Self::$variant);
                })+
                Err(TextError::OneOf(Self::NAMES))
            }
        }

        impl<'de> Deserialize<'de> for $type {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                needed(deserializer)
            }
        }
    )+};
}

names! {
    /// `Enabled` or `Disabled`.
    Switch {
        /// On.
        Enabled = "Enabled",
        /// Off.
        Disabled = "Disabled",
    }
    /// What becomes of connections when policy is tightened.
    ExistingConnections {
        /// Each is judged again at its next packet.
        Reevaluate = "Reevaluate",
        /// They go on.
        Keep = "Keep",
    }
    /// What becomes of a packet that a policy denies.
    DenyAction {
        /// It is dropped in silence, the default.
        Drop = "Drop",
        /// Its sender is told.
        Reject = "Reject",
    }
    /// What becomes of a packet that an allow rule takes.
    AllowAction {
        /// It leaves the hook, the default.
        Accept = "Accept",
        /// The node's own rules are asked too.
        Return = "Return",
    }
    /// What becomes of a pod's packet to its own node, once the pod's egress policies allow it.
    EndpointToHostAction {
        /// It is dropped.
        Drop = "Drop",
        /// It is accepted.
        Accept = "Accept",
        /// The node's own rules decide.
        Return = "Return",
    }
    /// What becomes of a packet to a service address that nobody translates.
    ServiceLoopPrevention {
        /// It is dropped, the default.
        Drop = "Drop",
        /// Its sender is told.
        Reject = "Reject",
        /// It is forwarded.
        Disabled = "Disabled",
    }
    /// Whether pods may have source addresses of others by annotation.
    SourceSpoofing {
        /// They may not, the default.
        Disabled = "Disabled",
        /// They may, whichever they ask for.
        Any = "Any",
    }
    /// Which destinations keep a pod's own address although its pool has `natOutgoing`.
    NatOutgoingExclusions {
        /// Addresses of pools, the default.
        IpPoolsOnly = "IPPoolsOnly",
        /// Those, and the addresses of nodes.
        IpPoolsAndHostIps = "IPPoolsAndHostIPs",
    }
    /// A log level, in Calico's names.
    LogLevel {
        /// Everything.
        Trace = "Trace",
        /// What helps to find an error.
        Debug = "Debug",
        /// What an operator wants to know.
        Info = "Info",
        /// What an operator should look at.
        Warning = "Warning",
        /// What failed.
        Error = "Error",
        /// What ends the agent.
        Fatal = "Fatal",
    }
    /// Where the routes to pods come from.
    RouteSource {
        /// From the blocks of IPAM, the default.
        CalicoIpam = "CalicoIPAM",
        /// From the pods' own addresses.
        WorkloadIps = "WorkloadIPs",
    }
    /// The AWS source/destination check.
    AwsSrcDstCheck {
        /// Leave it as it is, the default.
        DoNothing = "DoNothing",
        /// Switch it on.
        Enable = "Enable",
        /// Switch it off.
        Disable = "Disable",
    }
    /// The program that iptables rules are written with.
    IptablesBackend {
        /// `iptables-legacy`.
        Legacy = "Legacy",
        /// `iptables-nft`.
        Nft = "NFT",
        /// Whichever the node uses, the default.
        Auto = "Auto",
    }
    /// Whether rules are nftables.
    NftablesMode {
        /// They are not.
        Disabled = "Disabled",
        /// They are.
        Enabled = "Enabled",
        /// Where kube-proxy's are.
        Auto = "Auto",
    }
    /// Where Calico's iptables rules go in a shared chain.
    ChainInsertMode {
        /// To its top.
        Insert = "Insert",
        /// To its end.
        Append = "Append",
    }
    /// How flow logs judge policies that are not in force yet.
    FlowLogsPolicyEvaluationMode {
        /// Not at all.
        None = "None",
        /// Again and again.
        Continuous = "Continuous",
    }
    /// For whom a node answers ARP and neighbour solicitations.
    L2Reachability {
        /// For nobody, the default.
        Disabled = "Disabled",
        /// For its pods and for load balancer addresses in its own subnet.
        PodsAndLoadBalancers = "PodsAndLoadBalancers",
    }
    /// How eBPF programs are attached.
    BpfAttachType {
        /// By a queueing discipline.
        Tc = "TC",
        /// By the newer interface.
        Tcx = "TCX",
    }
    /// For which protocols eBPF balances at connect time.
    BpfConnectTimeLoadBalancing {
        /// TCP.
        Tcp = "TCP",
        /// All.
        Enabled = "Enabled",
        /// None.
        Disabled = "Disabled",
    }
    /// The log level of eBPF programs.
    BpfLogLevel {
        /// Nothing.
        Off = "Off",
        /// Something.
        Info = "Info",
        /// Everything.
        Debug = "Debug",
    }
    /// The log level of the eBPF conntrack cleaner.
    BpfConntrackLogLevel {
        /// Nothing.
        Off = "Off",
        /// Everything.
        Debug = "Debug",
    }
    /// Who removes eBPF's old conntrack entries.
    BpfConntrackMode {
        /// A program where the kernel can.
        Auto = "Auto",
        /// Felix.
        Userspace = "Userspace",
        /// A program.
        BpfProgram = "BPFProgram",
    }
    /// eBPF's check of reverse paths.
    BpfEnforceRpf {
        /// None.
        Disabled = "Disabled",
        /// By the same interface.
        Strict = "Strict",
        /// By any.
        Loose = "Loose",
    }
    /// How eBPF forwards connections to services from outside.
    BpfExternalServiceMode {
        /// There and back by tunnel.
        Tunnel = "Tunnel",
        /// Back directly.
        Dsr = "DSR",
    }
    /// Whether the kernel's hardening of eBPF is touched.
    BpfJitHardening {
        /// It is lowered where it costs much.
        Auto = "Auto",
        /// It is not.
        Strict = "Strict",
    }
    /// Whether eBPF's conntrack map grows.
    BpfMapScaling {
        /// It does not.
        Disabled = "Disabled",
        /// It doubles when it is full.
        DoubleIfFull = "DoubleIfFull",
    }
    /// The source of what a node sends by a tunnel under eBPF.
    BpfOverlayHostSourceIp {
        /// The tunnel's own address.
        TunnelAddress = "TunnelAddress",
        /// The node's address.
        HostAddress = "HostAddress",
    }
    /// Whether eBPF hands packets to the pod's end of a veth at once.
    BpfRedirectToPeer {
        /// It does.
        Enabled = "Enabled",
        /// It does not.
        Disabled = "Disabled",
        /// The older name of `Enabled`.
        L2Only = "L2Only",
    }
}

/// A span of time as Go's `time.ParseDuration` reads it: `90s`, `1m30s`, `1.5h`, `0`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Duration(StdDuration);

impl Duration {
    /// A whole number of seconds.
    pub const fn from_secs(seconds: u64) -> Self {
        Self(StdDuration::from_secs(seconds))
    }

    /// The span; zero switches many things off.
    pub const fn get(self) -> StdDuration {
        self.0
    }

    /// The span in milliseconds, rounded up so that only zero is zero.
    pub fn millis(self) -> u64 {
        u64::try_from(self.0.as_nanos().div_ceil(1_000_000)).unwrap_or(u64::MAX)
    }
}

const DURATION: &str = "must be a duration, such as 90s, 1m30s or 500ms";

/// The units that durations are written in, with their length in nanoseconds.
const UNITS: [(&str, u64); 8] = [
    ("ns", 1),
    ("us", 1_000),
    ("µs", 1_000),
    ("μs", 1_000),
    ("ms", 1_000_000),
    ("s", 1_000_000_000),
    ("m", 60_000_000_000),
    ("h", 3_600_000_000_000),
];

/// The most that is taken, in nanoseconds: Go's own limit, some 292 years.
const LONGEST: u128 = i64::MAX as u128;

impl FromText for Duration {
    fn from_text(text: &str) -> Result<Self, TextError> {
        if text == "0" {
            return Ok(Self::default());
        }
        let mut rest = text;
        let mut nanoseconds = 0_u128;
        while !rest.is_empty() {
            let end = rest.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(rest.len());
            let (number, tail) = rest.split_at(end);
            let end = tail.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(tail.len());
            let (unit, tail) = tail.split_at(end);
            let unit = UNITS.iter().find(|(name, _)| *name == unit).map(|(_, length)| u128::from(*length));
            let (Some(unit), Some(number)) = (unit, decimal(number)) else { return should(DURATION) };
            nanoseconds = nanoseconds.saturating_add(number.saturating_mul(unit) / DECIMAL);
            rest = tail;
        }
        if nanoseconds > LONGEST {
            return should("must be a duration of less than 292 years");
        }
        Ok(Self(StdDuration::from_nanos(u64::try_from(nanoseconds).unwrap_or(u64::MAX))))
    }
}

/// What [`decimal`] counts in.
const DECIMAL: u128 = 1_000_000_000;

/// Reads `1`, `1.5`, `.5` or `1.`, in units of a billionth.
fn decimal(text: &str) -> Option<u128> {
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    if whole.is_empty() && fraction.is_empty()
        || whole.len() > 20
        || !fraction.bytes().all(|byte| byte.is_ascii_digit())
    {
        return None;
    }
    let whole: u128 = if whole.is_empty() { 0 } else { whole.parse().ok()? };
    let fraction: String = fraction.chars().chain(std::iter::repeat('0')).take(9).collect();
    Some(whole * DECIMAL + fraction.parse::<u128>().ok()?)
}

impl fmt::Display for Duration {
    /// As Go prints it: `1m30s`, `0s`, `50ms`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let nanoseconds = self.0.subsec_nanos();
        let seconds = self.0.as_secs();
        if seconds == 0 && nanoseconds > 0 {
            let (unit, length) = match nanoseconds {
                1_000_000.. => ("ms", 1_000_000),
                1_000.. => ("µs", 1_000),
                _ => ("ns", 1),
            };
            return write!(f, "{}{unit}", fixed(nanoseconds / length, nanoseconds % length, length));
        }
        let (hours, minutes) = (seconds / 3600, seconds / 60 % 60);
        if hours > 0 {
            write!(f, "{hours}h")?;
        }
        if hours > 0 || minutes > 0 {
            write!(f, "{minutes}m")?;
        }
        write!(f, "{}s", fixed((seconds % 60) as u32, nanoseconds, 1_000_000_000))
    }
}

/// A whole number and a fraction of `of`, without zeros at the end.
fn fixed(whole: u32, fraction: u32, of: u32) -> String {
    if fraction == 0 {
        return whole.to_string();
    }
    let width = of.ilog10() as usize;
    format!("{whole}.{fraction:0width$}").trim_end_matches('0').to_owned()
}

impl Serialize for Duration {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Duration {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        needed(deserializer)
    }
}

/// A port, or a range of ports with both ends in it: `8080`, `"30000:32767"`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PortRange {
    /// The first.
    pub min: u16,
    /// The last.
    pub max: u16,
}

const PORT_RANGE: &str = "must be a port or a range of ports, such as 8080 or \"32768:60999\"";

impl FromText for PortRange {
    fn from_text(text: &str) -> Result<Self, TextError> {
        let (min, max) = text.split_once(':').unwrap_or((text, text));
        let digits = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
        match (min.parse(), max.parse()) {
            (Ok(min), Ok(max)) if digits(text.split(':').next().unwrap_or_default()) && min <= max => {
                Ok(Self { min, max })
            }
            (Ok(min), Ok(max)) if min > max => should("must be a range whose first port is not above its last"),
            _ => should(PORT_RANGE),
        }
    }
}

impl Serialize for PortRange {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if self.min == self.max { serializer.serialize_u16(self.min) } else { serializer.collect_str(self) }
    }
}

impl fmt::Display for PortRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.min, self.max)
    }
}

impl<'de> Deserialize<'de> for PortRange {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Ports;

        impl Visitor<'_> for Ports {
            type Value = PortRange;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a port or a range of ports, such as 8080 or \"32768:60999\"")
            }

            fn visit_u64<E: Error>(self, value: u64) -> Result<PortRange, E> {
                let port = u16::try_from(value).map_err(|_| E::invalid_value(Unexpected::Unsigned(value), &self))?;
                Ok(PortRange { min: port, max: port })
            }

            fn visit_str<E: Error>(self, text: &str) -> Result<PortRange, E> {
                from_text(text)
            }
        }

        deserializer.deserialize_any(Ports)
    }
}

/// A text that only has to follow a grammar: kept as it is written.
macro_rules! grammars {
    ($($(#[doc = $doc:literal])+ $type:ident by $check:expr;)+) => {$(
        $(#[doc = $doc])+
        #[derive(Debug, Clone, PartialEq, Eq, Serialize)]
        pub struct $type(pub String);

        impl FromText for $type {
            fn from_text(text: &str) -> Result<Self, TextError> {
                let check: fn(&str) -> Result<(), String> = $check;
                check(text).map(|()| Self(text.to_owned())).map_err(TextError::Should)
            }
        }

        impl<'de> Deserialize<'de> for $type {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                needed(deserializer)
            }
        }
    )+};
}

grammars! {
    /// A regular expression.
    Pattern by pattern;
    /// Names with values, such as `A=true,B=`, separated by commas.
    KeyValues by key_values;
    /// The name of a network interface; `+` at its end stands for whatever follows.
    InterfaceFilter by interface_filter;
    /// Prefixes of interface names, separated by commas.
    InterfacePrefixes by interface_prefixes;
    /// A Calico selector of nodes.
    NodeSelector by |text| crate::selector::Selector::parse(text).map(drop).map_err(|error| error.to_string());
    /// A rate such as `10/second`.
    LogRate by log_rate;
    /// What log lines of rules begin with.
    LogPrefix by log_prefix;
    /// A duration, or `Auto`.
    TimeoutOrAuto by |text| if text == "Auto" || Duration::from_text(text).is_ok() {
        Ok(())
    } else {
        Err(format!("{DURATION}, or Auto"))
    };
}

fn pattern(text: &str) -> Result<(), String> {
    regex_lite::Regex::new(text).map(drop).map_err(|error| format!("must be a regular expression: {error}"))
}

fn key_values(text: &str) -> Result<(), String> {
    let is_name = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
    let is_pair = |pair: &str| {
        pair.split_once('=')
            .is_some_and(|(name, value)| !name.is_empty() && name.bytes().all(is_name) && !value.contains('='))
    };
    if text.split(',').all(is_pair) { Ok(()) } else { Err("must be a list such as A=true,B=false".to_owned()) }
}

fn is_interface_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-' | b'.')
}

fn interface_filter(text: &str) -> Result<(), String> {
    let name = text.strip_suffix('+').unwrap_or(text);
    if text.len() <= 15 && name.bytes().all(is_interface_byte) {
        Ok(())
    } else {
        Err("must be the name of an interface, of at most 15 letters, digits, '-', '_' and '.', with '+' at its end for \
             whatever follows, such as eth+"
            .to_owned())
    }
}

fn interface_prefixes(text: &str) -> Result<(), String> {
    let is_prefix = |prefix: &str| (1..15).contains(&prefix.len()) && prefix.bytes().all(is_interface_byte);
    if text.split(',').all(is_prefix) {
        Ok(())
    } else {
        Err("must be prefixes of interface names, separated by commas, such as cali or cali,tap".to_owned())
    }
}

fn log_rate(text: &str) -> Result<(), String> {
    let valid = text.split_once('/').is_some_and(|(number, unit)| {
        number.len() <= 4
            && number.bytes().all(|byte| byte.is_ascii_digit())
            && !number.starts_with('0')
            && !number.is_empty()
            && matches!(unit, "second" | "minute" | "hour" | "day")
    });
    if valid {
        Ok(())
    } else {
        Err("must be N/UNIT with N up to 9999 and a unit of second, minute, hour or day".to_owned())
    }
}

fn log_prefix(text: &str) -> Result<(), String> {
    if text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"%: /_-".contains(&byte)) {
        Ok(())
    } else {
        Err("must consist of letters, digits, spaces and %:/_-".to_owned())
    }
}

impl FromText for Ipv4Addr {
    fn from_text(text: &str) -> Result<Self, TextError> {
        text.parse().or_else(|_| should("must be an IPv4 address"))
    }
}

impl FromText for Ipv6Addr {
    fn from_text(text: &str) -> Result<Self, TextError> {
        text.parse().or_else(|_| should("must be an IPv6 address"))
    }
}

/// A network in CIDR notation, or one address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub struct Network(pub IpNet);

impl<'de> Deserialize<'de> for Network {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let address = || text.parse::<std::net::IpAddr>().ok().map(IpNet::from);
        parse_network(&text)
            .or_else(address)
            .map(Self)
            .ok_or_else(|| D::Error::custom("must be a network in CIDR notation, such as 10.0.0.0/8, or an address"))
    }
}

/// A port of the node that host endpoints' policies do not close.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ProtoPort {
    /// The protocol; TCP by default.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "text")]
    pub protocol: Option<TransportProtocol>,
    /// The port.
    pub port: u16,
    /// The other side; everybody by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub net: Option<Network>,
}

names! {
    /// A transport protocol, in lower case as Felix writes it.
    TransportProtocol {
        /// TCP.
        Tcp = "tcp",
        /// UDP.
        Udp = "udp",
        /// SCTP.
        Sctp = "sctp",
    }
}

/// How long one part of the agent may be silent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct HealthTimeoutOverride {
    /// The part.
    pub name: String,
    /// How long.
    pub timeout: Duration,
}

/// A range of routing tables.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct RouteTableRange {
    /// The first.
    pub min: u32,
    /// The last.
    pub max: u32,
}

/// After how long eBPF forgets connections.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct BpfConntrackTimeouts {
    /// New ones, at the earliest.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub creation_grace_period: Option<TimeoutOrAuto>,
    /// Those of other protocols.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub generic_timeout: Option<TimeoutOrAuto>,
    /// ICMP.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub icmp_timeout: Option<TimeoutOrAuto>,
    /// Established ones of TCP.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tcp_established: Option<TimeoutOrAuto>,
    /// TCP's after both ends closed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tcp_fins_seen: Option<TimeoutOrAuto>,
    /// TCP's after a reset.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tcp_reset_seen: Option<TimeoutOrAuto>,
    /// TCP's without an answer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tcp_syn_sent: Option<TimeoutOrAuto>,
    /// UDP.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub udp_timeout: Option<TimeoutOrAuto>,
}
