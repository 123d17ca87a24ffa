//! What of nf_tables a kernel has: everything that tables of ours are made of, tried out one by one.
//!
//! A kernel may lack a module, or a container may not load it; only trying tells. [`try_all`] makes a table and tries each
//! [`Feature`] in it by itself, so it is for a network namespace in which nobody is disturbed.

use std::net::{IpAddr, Ipv4Addr};

use tortie_nft::{
    Command, CtStates, Direction, Family, Field, Hook, HookPoint, Key, KeyType, Match, Op, Reason, RejectWith, Rule,
    Statement, Value, Verdict,
};

use crate::error::Error;
use crate::socket::{NftSocket, Ownership};
use crate::trace::{Flow, TraceMonitor};

/// Something that the kernel must have for tables of a kind.
#[derive(Debug, Clone, Copy)]
pub struct Feature {
    /// What it is, in nft's words.
    pub name: &'static str,
    /// What it takes in the kernel's configuration, or since when Linux has it.
    pub kernel: &'static str,
    /// What it is for.
    pub purpose: &'static str,
    /// Whether no table can do without.
    pub required: bool,
    trial: Trial,
}

/// How a feature is tried.
#[derive(Debug, Clone, Copy)]
enum Trial {
    /// The table itself, with chains at every hook.
    Table,
    /// Commands in the table, which has a chain [`CHAIN`] at each hook's name.
    Commands(fn() -> Vec<Command>),
    /// The table that nobody else may change.
    Ownership,
    /// A trace.
    Trace,
    /// Reading conntrack, to clear marks.
    Marks,
}

/// A rule for forwarded packets.
fn rule(matches: Vec<Match>, statement: Statement) -> Vec<Command> {
    vec![Command::AddRule { chain: "forward".to_owned(), rule: Rule::new(matches, [statement]) }]
}

/// A rule that only asks.
fn asks(matches: Vec<Match>) -> Vec<Command> {
    rule(matches, Statement::Verdict(Verdict::Accept))
}

fn translates(chain: &str, statement: Statement) -> Vec<Command> {
    let hook = Some(Hook::nat(HookPoint::Postrouting, 100));
    vec![
        Command::AddChain { chain: chain.to_owned(), hook },
        Command::AddRule { chain: chain.to_owned(), rule: Rule::new([Match::NfProto(Family::V4)], [statement]) },
    ]
}

fn sets() -> Vec<Command> {
    let key = vec![KeyType::IfName, KeyType::Ipv4Addr];
    let element: Key = vec![Value::IfName("cali1".to_owned()), Value::Addr(IpAddr::V4(Ipv4Addr::LOCALHOST))];
    let own = Match::InSet { key: vec![Field::IifName, Field::Ip4Saddr], op: Op::Eq, set: "pairs".to_owned() };
    let mut commands = vec![
        Command::AddSet { set: "pairs".to_owned(), key, interval: false, comment: None },
        Command::AddElements { set: "pairs".to_owned(), elements: vec![element] },
    ];
    commands.extend(asks(vec![Match::NfProto(Family::V4), own]));
    commands
}

fn intervals() -> Vec<Command> {
    let net = Value::AddrRange(IpAddr::V4(Ipv4Addr::new(10, 0, 0, 1)), IpAddr::V4(Ipv4Addr::new(10, 0, 0, 9)));
    let within = Match::InSet { key: vec![Field::Ip4Saddr], op: Op::Eq, set: "nets".to_owned() };
    let mut commands = vec![
        Command::AddSet { set: "nets".to_owned(), key: vec![KeyType::Ipv4Addr], interval: true, comment: None },
        Command::AddElements { set: "nets".to_owned(), elements: vec![vec![net]] },
    ];
    commands.extend(asks(vec![Match::NfProto(Family::V4), within]));
    commands
}

fn verdict_maps() -> Vec<Command> {
    let element = (vec![Value::IfName("cali1".to_owned())], Verdict::Goto("class".to_owned()));
    let mut commands = vec![
        Command::AddChain { chain: "class".to_owned(), hook: None },
        Command::AddMap { map: "classes".to_owned(), key: vec![KeyType::IfName], interval: false, comment: None },
        Command::AddMapElements { map: "classes".to_owned(), elements: vec![element] },
    ];
    commands.extend(rule(Vec::new(), Statement::Vmap { key: vec![Field::IifName], map: "classes".to_owned() }));
    commands
}

fn counters() -> Vec<Command> {
    let element = (vec![Value::Addr(IpAddr::V4(Ipv4Addr::LOCALHOST))], "hits".to_owned());
    let mut commands = vec![
        Command::AddCounter { counter: "hits".to_owned(), comment: None },
        Command::AddCounterMap { map: "by".to_owned(), key: vec![KeyType::Ipv4Addr], interval: false, comment: None },
        Command::AddCounterElements { map: "by".to_owned(), elements: vec![element] },
    ];
    commands.extend(rule(Vec::new(), Statement::NamedCounter("hits".to_owned())));
    let counted = Statement::CountIn { key: vec![Field::Ip4Saddr], map: "by".to_owned() };
    commands.extend(rule(vec![Match::NfProto(Family::V4)], counted));
    commands
}

fn conntrack() -> Vec<Command> {
    let mut commands = asks(vec![
        Match::CtState(CtStates::ESTABLISHED.or(CtStates::RELATED)),
        Match::CtDirection(Direction::Reply),
        Match::CtStatusDnat(true),
    ]);
    commands.extend(rule(Vec::new(), Statement::SetCtMark { keep: 0xffff, bits: 1 << 16 }));
    commands
}

/// All of them, required ones first.
pub const FEATURES: [Feature; 15] = [
    Feature {
        name: "nf_tables, family inet",
        kernel: "CONFIG_NF_TABLES and CONFIG_NF_TABLES_INET",
        purpose: "every rule",
        required: true,
        trial: Trial::Table,
    },
    Feature {
        name: "sets of several fields",
        kernel: "CONFIG_NF_TABLES",
        purpose: "pods' addresses, and whom policies select",
        required: true,
        trial: Trial::Commands(sets),
    },
    Feature {
        name: "sets of intervals",
        kernel: "CONFIG_NF_TABLES",
        purpose: "networks that policies name",
        required: true,
        trial: Trial::Commands(intervals),
    },
    Feature {
        name: "verdict maps",
        kernel: "CONFIG_NF_TABLES",
        purpose: "the way from a pod's interface to its policies",
        required: true,
        trial: Trial::Commands(verdict_maps),
    },
    Feature {
        name: "named counters and maps of them",
        kernel: "CONFIG_NF_TABLES, before Linux 6.2 CONFIG_NFT_COUNTER and CONFIG_NFT_OBJREF",
        purpose: "what policies have decided",
        required: true,
        trial: Trial::Commands(counters),
    },
    Feature {
        name: "conntrack: states, directions and marks",
        kernel: "CONFIG_NFT_CT, CONFIG_NF_CONNTRACK and CONFIG_NF_CONNTRACK_MARK",
        purpose: "running flows, which are judged again when policies change",
        required: true,
        trial: Trial::Commands(conntrack),
    },
    Feature {
        name: "conntrack by netlink",
        kernel: "CONFIG_NF_CT_NETLINK",
        purpose: "clearing old marks, and flows of addresses that change hands",
        required: true,
        trial: Trial::Marks,
    },
    Feature {
        name: "masquerade",
        kernel: "CONFIG_NFT_NAT and CONFIG_NFT_MASQ",
        purpose: "IPPools with natOutgoing",
        required: false,
        trial: Trial::Commands(|| translates("masquerade", Statement::Masquerade { ports: None, fully_random: true })),
    },
    Feature {
        name: "snat",
        kernel: "CONFIG_NFT_NAT",
        purpose: "natOutgoingAddress",
        required: false,
        trial: Trial::Commands(|| {
            translates("snat", Statement::Snat { address: IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1)), ports: None })
        }),
    },
    Feature {
        name: "reject",
        kernel: "CONFIG_NFT_REJECT and CONFIG_NFT_REJECT_INET",
        purpose: "nftablesFilterDenyAction: Reject",
        required: false,
        trial: Trial::Commands(|| rule(Vec::new(), Statement::Reject(RejectWith::AdminProhibited))),
    },
    Feature {
        name: "log",
        kernel: "CONFIG_NFT_LOG and CONFIG_NF_LOG_SYSLOG",
        purpose: "rules with the action Log",
        required: false,
        trial: Trial::Commands(|| rule(Vec::new(), Statement::Log { prefix: "calico-packet: ".to_owned() })),
    },
    Feature {
        name: "limit",
        kernel: "CONFIG_NFT_LIMIT",
        purpose: "pods' limits of packet rates, logActionRateLimit",
        required: false,
        trial: Trial::Commands(|| asks(vec![Match::LimitOver { packets_per_second: 100, burst: 5 }])),
    },
    Feature {
        name: "ct count",
        kernel: "CONFIG_NFT_CONNLIMIT",
        purpose: "pods' limits of connections",
        required: false,
        trial: Trial::Commands(|| asks(vec![Match::CtCountOver(20)])),
    },
    Feature {
        name: "a table with an owner that outlives it",
        kernel: "Linux 6.9",
        purpose: "a table that others cannot change; without it what they change is found and repaired",
        required: false,
        trial: Trial::Ownership,
    },
    Feature {
        name: "traces in a table that goes with its owner",
        kernel: "Linux 5.12",
        purpose: "tortie policy explain --trace",
        required: false,
        trial: Trial::Trace,
    },
];

/// The hooks, each with the name of a chain.
const HOOKS: [(&str, HookPoint); 5] = [
    ("prerouting", HookPoint::Prerouting),
    ("input", HookPoint::Input),
    ("forward", HookPoint::Forward),
    ("output", HookPoint::Output),
    ("postrouting", HookPoint::Postrouting),
];

/// A feature, and how trying it went.
pub type Tried = (Feature, Result<(), Error>);

/// Tries every feature in the network namespace of the calling thread, which should be one of its own: the table is left there.
///
/// # Errors
/// Where nf_tables cannot be reached at all.
pub fn try_all() -> Result<Vec<Tried>, Error> {
    let mut socket = NftSocket::open()?;
    let mut results = Vec::new();
    for feature in FEATURES {
        let result = feature.try_out(&mut socket);
        results.push((feature, result));
    }
    Ok(results)
}

impl Feature {
    fn try_out(&self, socket: &mut NftSocket) -> Result<(), Error> {
        let commands = match self.trial {
            Trial::Table => {
                let chain = |(name, point): (&str, _)| Command::AddChain {
                    chain: name.to_owned(),
                    hook: Some(Hook::filter(point, 0)),
                };
                std::iter::once(Command::AddTable).chain(HOOKS.map(chain)).collect()
            }
            Trial::Commands(commands) => commands(),
            Trial::Ownership => {
                return match socket.ownership() {
                    Ownership::Owned => Ok(()),
                    Ownership::Plain => Err(Error::Request { what: "to own a table", reason: Reason::NotSupported }),
                };
            }
            Trial::Trace => {
                let address = IpAddr::V4(Ipv4Addr::LOCALHOST);
                let flow = Flow {
                    source: address,
                    destination: address,
                    protocol: 6,
                    source_port: None,
                    destination_port: None,
                };
                return TraceMonitor::arm(&flow).map(drop);
            }
            Trial::Marks => return crate::sweep_marks(1, &[]).map(drop),
        };
        socket.apply(&tortie_nft::Transaction { commands })
    }
}
