//! The command line: every command, flag and their help.

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};
use tortie_api::Kind;
use tortie_lab::ports;

use crate::output::Format;

/// Shows and tests a Tortie cluster: routes, BGP sessions, addresses, network policy.
#[derive(Debug, Parser)]
#[command(name = "tortie", version, disable_help_subcommand = true, after_help = AFTER_HELP)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) global: Global,
    #[command(subcommand)]
    pub(crate) command: Command,
}

const AFTER_HELP: &str = "\
A flag wins over its environment variable (TORTIE_SOCKET, TORTIE_RUN_DIR, TORTIE_LAB, TORTIE_NODE,
TORTIE_DATASTORE), that over /etc/tortie/ctl.yaml, that over the agent of this machine.
Exit status: 0 done, 1 an error, 2 bad usage.";

/// Flags that every command takes.
#[derive(Debug, Args)]
pub(crate) struct Global {
    /// How to print: json, yaml or wide, besides the table
    #[arg(short, long, global = true, value_enum, value_name = "FORMAT")]
    pub(crate) output: Option<Format>,
    /// The admin socket of the agent to ask
    #[arg(long, global = true, value_name = "PATH")]
    pub(crate) socket: Option<PathBuf>,
    /// The run directory of the agent to ask [default: /run/tortie]
    #[arg(long, global = true, value_name = "DIR")]
    pub(crate) run_dir: Option<PathBuf>,
    /// The lab whose agents to ask, all of them without --node [default of `lab` commands: lab]
    #[arg(long, global = true, value_name = "NAME")]
    pub(crate) lab: Option<String>,
    /// The node
    #[arg(long, global = true, value_name = "NAME")]
    pub(crate) node: Option<String>,
    /// Where resources are: kubernetes, or dir:PATH
    #[arg(long, global = true, value_name = "STORE")]
    pub(crate) datastore: Option<String>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// List resources
    Get(Get),
    /// Create or change resources of the datastore
    Apply(Files),
    /// Delete resources of the datastore
    Delete(Delete),
    /// Say whether resources would be taken
    Validate(Files),
    /// The agent and its BGP sessions
    #[command(subcommand)]
    Node(Node),
    /// BGP sessions and routes
    #[command(subcommand)]
    Bgp(Bgp),
    /// The routes that a node wants, and whether the kernel has them
    Routes,
    /// Addresses
    #[command(subcommand)]
    Ipam(Ipam),
    /// Network policy: what it compiles to, who may reach whom, and why
    #[command(subcommand)]
    Policy(Policy),
    /// A cluster on this machine, of network namespaces
    #[command(subcommand)]
    Lab(Lab),
    /// Versions of this command and of the agent
    Version,
    /// The completion script of a shell
    Completion {
        /// The shell
        shell: clap_complete::Shell,
    },
}

#[derive(Debug, Args)]
pub(crate) struct Get {
    /// The kind, its plural or a short name: node, pod, networkpolicy, globalnetworkpolicy (gnp), tier, ippool, ...; Calico's own
    /// NetworkPolicy is cnp
    pub(crate) kind: Kind,
    /// Only the objects of these names
    pub(crate) names: Vec<String>,
    /// The namespace [default: default]
    #[arg(short, long, conflicts_with = "all_namespaces")]
    pub(crate) namespace: Option<String>,
    /// Every namespace
    #[arg(short = 'A', long)]
    pub(crate) all_namespaces: bool,
    /// Only objects with these labels: key=value, key!=value, key in (a,b), key notin (a,b), key, !key; commas mean "and"
    #[arg(short = 'l', long, value_name = "SELECTOR")]
    pub(crate) selector: Option<String>,
}

#[derive(Debug, Args)]
pub(crate) struct Files {
    /// Manifests: a file, a directory, or - for stdin (repeatable)
    #[arg(short, long, value_name = "FILE|DIR", required = true)]
    pub(crate) filename: Vec<PathBuf>,
}

#[derive(Debug, Args)]
pub(crate) struct Delete {
    /// The kind
    #[arg(conflicts_with = "filename", requires = "names")]
    pub(crate) kind: Option<Kind>,
    /// The objects' names
    pub(crate) names: Vec<String>,
    /// The objects of manifests: a file, a directory, or - for stdin (repeatable)
    #[arg(short, long, value_name = "FILE|DIR", required_unless_present = "kind")]
    pub(crate) filename: Vec<PathBuf>,
    /// The namespace [default: default]
    #[arg(short, long)]
    pub(crate) namespace: Option<String>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Node {
    /// The agent's state, and its BGP peers
    Status,
    /// Try whether the kernel of this machine has what agents need, and say what to do where it does not
    Checksystem,
    /// Remove from this machine what Calico or flannel left on it, and with --all everything of Tortie
    Clean(Clean),
}

#[derive(Debug, Args)]
pub(crate) struct Clean {
    /// Everything of Tortie too: its nftables table, its routes, its pods' interfaces, its rules in the host's firewalls, the agent's
    /// run directory. Pods of this machine lose their connections
    #[arg(long)]
    pub(crate) all: bool,
    /// Only list what would be removed
    #[arg(long)]
    pub(crate) dry_run: bool,
    /// Remove although an agent runs that may write it again
    #[arg(long)]
    pub(crate) force: bool,
    /// Where the machine's files are, when this runs in a container
    #[arg(long, env = "TORTIE_HOST_ROOT", value_name = "DIR", default_value = "/")]
    pub(crate) host_root: PathBuf,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Bgp {
    /// Every session
    Peers,
    /// Every path, and which is best
    Routes {
        /// Only the paths that cover this prefix or address, with the reason of the choice
        #[arg(long, value_name = "PREFIX")]
        why: Option<String>,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum Ipam {
    /// Pools and blocks, and how many of their addresses are in use
    Show {
        /// Who holds this address
        #[arg(long, value_name = "IP")]
        ip: Option<std::net::IpAddr>,
        /// Blocks too
        #[arg(long)]
        show_blocks: bool,
        /// The addresses that nodes took from blocks of others
        #[arg(long, conflicts_with_all = ["ip", "show_blocks"])]
        show_borrowed: bool,
        /// How blocks are given out (IPAMConfiguration)
        #[arg(long, conflicts_with_all = ["ip", "show_blocks", "show_borrowed"])]
        show_configuration: bool,
    },
    /// Hold IPAM's books against the pods and nodes that there are. What -o json prints is a report for `release --from-report`
    Check {
        /// Name every address that is looked at
        #[arg(long)]
        show_all_ips: bool,
        /// Name everything that is wrong, and why
        #[arg(long)]
        show_problem_ips: bool,
    },
    /// Return addresses that nobody uses to their blocks
    Release(Release),
    /// Change how blocks are given out (IPAMConfiguration)
    Configure {
        /// Whether nodes take addresses from their own blocks only
        #[arg(long, value_name = "true|false")]
        strictaffinity: Option<bool>,
        /// How many blocks of a family a node has at most; 0 for the default of 20
        #[arg(long, value_name = "NUMBER")]
        max_blocks_per_host: Option<u32>,
        /// For how many seconds an address that was released is not given out again
        #[arg(long, value_name = "SECONDS", value_parser = clap::value_parser!(u32).range(..=1200))]
        ip_cooldown_seconds: Option<u32>,
    },
}

#[derive(Debug, Args)]
pub(crate) struct Release {
    /// An address
    #[arg(long, value_name = "IP", conflicts_with = "from_report")]
    pub(crate) ip: Option<std::net::IpAddr>,
    /// The leaked addresses and handles of a report of `ipam check -o json`; of several, only what is in all of them (repeatable)
    #[arg(long, value_name = "FILE")]
    pub(crate) from_report: Vec<PathBuf>,
    /// With --ip: although it may be in use. With --from-report: although another version wrote the report
    #[arg(long)]
    pub(crate) force: bool,
}

/// Where policies come from.
#[derive(Debug, Args)]
pub(crate) struct Manifests {
    /// Read the cluster from these files instead of the datastore (repeatable; a file or a directory)
    #[arg(long, value_name = "DIR")]
    pub(crate) manifests: Vec<PathBuf>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Family {
    /// IPv4
    Ipv4,
    /// IPv6
    Ipv6,
}

impl From<Family> for tortie_nft::Family {
    fn from(family: Family) -> Self {
        match family {
            Family::Ipv4 => Self::V4,
            Family::Ipv6 => Self::V6,
        }
    }
}

#[derive(Debug, Subcommand)]
pub(crate) enum Policy {
    /// The nftables ruleset that a node wants, as text that `nft -f` takes
    Render {
        #[command(flatten)]
        manifests: Manifests,
    },
    /// Why a pair may, or may not, talk
    Explain(Explain),
    /// Who may reach whom
    Matrix {
        #[command(flatten)]
        manifests: Manifests,
        /// Ports to ask about, TCP/80,UDP/53; a bare number is TCP [default: each pod's declared ports, TCP/80 if none]
        #[arg(long, value_parser = ports::parse_list, value_name = "PORTS")]
        ports: Option<ports::List>,
        /// The family of the addresses
        #[arg(long, value_enum, default_value = "ipv4")]
        family: Family,
        /// Ask the direct evaluator of the API's semantics instead of the compiled ruleset
        #[arg(long)]
        oracle: bool,
    },
    /// How often each rule of each policy decided, from the counters of the agents' tables
    Hits(Hits),
    /// What a change would do, before anything is applied: whose verdicts change, and what each node would write
    Plan(Plan),
}

#[derive(Debug, Args)]
pub(crate) struct Explain {
    #[command(flatten)]
    pub(crate) manifests: Manifests,
    /// The source: NAMESPACE/POD or an address
    #[arg(long, value_name = "NS/POD|IP")]
    pub(crate) from: String,
    /// The destination: NAMESPACE/POD or an address
    #[arg(long, value_name = "NS/POD|IP")]
    pub(crate) to: String,
    /// tcp, udp, sctp, icmp, icmpv6, udplite or a number
    #[arg(long, default_value = "tcp")]
    pub(crate) protocol: String,
    /// The destination's port, of a protocol with ports
    #[arg(long, value_parser = clap::value_parser!(u16).range(1..))]
    pub(crate) port: Option<u16>,
    /// The source's port [default: one that clients are given]
    #[arg(long, value_parser = clap::value_parser!(u16).range(1..))]
    pub(crate) source_port: Option<u16>,
    /// The type of ICMP [default: an echo request's]
    #[arg(long)]
    pub(crate) icmp_type: Option<u8>,
    /// The code of ICMP [default: 0]
    #[arg(long)]
    pub(crate) icmp_code: Option<u8>,
    /// The family of the addresses [default: that of a given address, else IPv4 where both have it]
    #[arg(long, value_enum)]
    pub(crate) family: Option<Family>,
    /// Have the kernels of the nodes trace this flow for so many seconds, and print what really happened
    #[arg(
        long,
        value_name = "SECONDS",
        num_args = 0..=1,
        default_missing_value = "10",
        value_parser = clap::value_parser!(u16).range(1..=60),
        conflicts_with = "manifests"
    )]
    pub(crate) trace: Option<u16>,
}

#[derive(Debug, Args)]
pub(crate) struct Hits {
    /// Only the policies of this name
    #[arg(value_name = "NAME")]
    pub(crate) name: Option<String>,
    /// Only policies of this namespace
    #[arg(short = 'n', long, value_name = "NS")]
    pub(crate) namespace: Option<String>,
    /// Only rules that decided something
    #[arg(long)]
    pub(crate) hit: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Plan {
    #[command(flatten)]
    pub(crate) manifests: Manifests,
    /// What would be applied: a file, a directory, or - for stdin (repeatable)
    #[arg(short, long, value_name = "FILE|DIR")]
    pub(crate) filename: Vec<PathBuf>,
    /// What would be deleted: the objects of a file or directory, or one as KIND/NAME or KIND/NAMESPACE/NAME (repeatable)
    #[arg(long, value_name = "FILE|DIR|OBJECT")]
    pub(crate) delete: Vec<String>,
    /// Ports to ask about, TCP/80,UDP/53; a bare number is TCP [default: each pod's declared ports, and those that the change names]
    #[arg(long, value_parser = ports::parse_list, value_name = "PORTS")]
    pub(crate) ports: Option<ports::List>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Lab {
    /// Boot a lab
    Up {
        /// How many nodes there are when no manifest names one
        #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u16).range(1..=200))]
        nodes: u16,
        /// Manifests: a file, a directory, or - for stdin (repeatable)
        #[arg(short, long, value_name = "MANIFESTS")]
        filename: Vec<PathBuf>,
        #[command(flatten)]
        wait: Wait,
        /// When it fails, leave what there is for a look
        #[arg(long)]
        keep: bool,
    },
    /// Take a lab down, and everything of it
    Down {
        /// Every lab of this machine
        #[arg(long)]
        all: bool,
    },
    /// Create or change resources of a lab
    Apply {
        /// Manifests: a file, a directory, or - for stdin (repeatable)
        #[arg(short, long, value_name = "MANIFESTS", required = true)]
        filename: Vec<PathBuf>,
        #[command(flatten)]
        wait: Wait,
    },
    /// Delete resources of a lab
    Delete {
        /// Manifests: a file, a directory, or - for stdin (repeatable)
        #[arg(short, long, value_name = "MANIFESTS", required = true)]
        filename: Vec<PathBuf>,
        #[command(flatten)]
        wait: Wait,
    },
    /// What a lab consists of
    Ps,
    /// Send real packets: who reaches whom
    Probe {
        /// The source: NAMESPACE/POD, a node, or outside [default: every pod]
        #[arg(long, value_name = "WHO")]
        from: Option<String>,
        /// The destination: NAMESPACE/POD [default: every pod]
        #[arg(long, value_name = "NS/POD")]
        to: Option<String>,
        /// Ports to probe, TCP/80,UDP/53; a bare number is TCP [default: each pod's declared ports, TCP/80 if none]
        #[arg(long, value_parser = ports::parse_list, value_name = "PORTS")]
        ports: Option<ports::List>,
        /// The family of the addresses
        #[arg(long, value_enum, default_value = "ipv4")]
        family: Family,
        /// How many probes may be under way at once
        #[arg(long, default_value_t = 256, value_parser = clap::value_parser!(u16).range(1..))]
        jobs: u16,
        /// How long one try waits; a denial takes two
        #[arg(long, default_value = "1s", value_parser = duration, value_name = "TIME")]
        timeout: Duration,
    },
    /// Run a command inside a node or a pod
    Exec {
        /// A node, NAMESPACE/POD, or outside
        #[arg(value_name = "NODE|NS/POD")]
        place: String,
        /// The command and its arguments
        #[arg(last = true, required = true, value_name = "CMD")]
        command: Vec<OsString>,
    },
    /// The main job in one command: three nodes, routes, six policies, a crash, and a clean end
    Demo,
    /// Answer on the pods' ports; started by `up`
    #[command(hide = true)]
    Serve,
}

#[derive(Debug, Clone, Copy, Args)]
pub(crate) struct Wait {
    /// How long everything may take to be in force
    #[arg(long, default_value = "60s", value_parser = duration, value_name = "TIME")]
    pub(crate) timeout: Duration,
}

/// Reads `500ms`, `1.5s`, `2m`, or plain seconds.
fn duration(text: &str) -> Result<Duration, String> {
    let (number, unit) = match text {
        _ if text.ends_with("ms") => (text.trim_end_matches("ms"), 0.001),
        _ if text.ends_with('s') => (text.trim_end_matches('s'), 1.0),
        _ if text.ends_with('m') => (text.trim_end_matches('m'), 60.0),
        _ => (text, 1.0),
    };
    let seconds = number.parse::<f64>().ok().map(|number| number * unit).filter(|seconds| *seconds > 0.0);
    seconds
        .and_then(|seconds| Duration::try_from_secs_f64(seconds).ok())
        .ok_or_else(|| format!("{text:?} is no time: write 500ms, 1s or 2m"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn times() {
        assert_eq!(duration("500ms"), Ok(Duration::from_millis(500)));
        assert_eq!(duration("1.5s"), Ok(Duration::from_millis(1500)));
        assert_eq!(duration("2m"), Ok(Duration::from_secs(120)));
        assert_eq!(duration("3"), Ok(Duration::from_secs(3)));
        for bad in ["", "s", "-1s", "0s", "1h", "nan", "inf", "1e400s"] {
            assert!(duration(bad).is_err(), "{bad:?} passed");
        }
    }

    #[test]
    fn exec_takes_the_flags_of_the_command_it_runs() {
        let cli = Cli::parse_from(["tortie", "lab", "exec", "node1", "--lab", "x", "--", "ip", "-o", "route"]);
        assert_eq!(cli.global.lab.as_deref(), Some("x"));
        let Command::Lab(Lab::Exec { place, command }) = cli.command else { panic!("not exec") };
        assert_eq!((place.as_str(), command.len()), ("node1", 3));
    }
}
