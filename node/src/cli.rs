//! The command line.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};

/// A Calico-compatible network agent: pod interfaces and routes, NetworkPolicy in nftables, BGP.
#[derive(Debug, Parser)]
#[command(name = "tortie-node", version, propagate_version = true)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,
}

// There is one in a run of the program.
#[allow(clippy::large_enum_variant)]
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Run the agent until SIGTERM or SIGINT. Stopping cuts no traffic: rules and routes stay, peers keep our routes for the restart.
    Run(Options),
    /// Remove the CNI plugin and its configuration, as they were installed by `run --cni-install`. Pods that run keep their network
    CniUninstall(CniFolders),
}

/// Where the container runtime looks for CNI plugins.
#[derive(Debug, Clone, Args)]
pub(crate) struct CniFolders {
    /// The container runtime's folder of CNI plugins
    #[arg(long, env = "TORTIE_CNI_BIN_DIR", value_name = "DIR", default_value = "/opt/cni/bin")]
    pub(crate) cni_bin_dir: PathBuf,

    /// The container runtime's folder of CNI configurations
    #[arg(long, env = "TORTIE_CNI_CONF_DIR", value_name = "DIR", default_value = "/etc/cni/net.d")]
    pub(crate) cni_conf_dir: PathBuf,
}

#[derive(Debug, Clone, Args)]
pub(crate) struct Options {
    /// Where resources come from: `dir:PATH`, a folder of YAML files, or `kubernetes`
    #[arg(long, env = "TORTIE_DATASTORE", value_name = "dir:PATH|kubernetes", value_parser = parse_datastore)]
    pub(crate) datastore: DatastoreAddress,

    /// This node's name, as its Node object has it [default: the host name]
    #[arg(long, env = "TORTIE_NODE", value_name = "NAME")]
    pub(crate) node: Option<String>,

    /// Where the agent's socket, its lock and its endpoints are kept
    #[arg(long, value_name = "DIR", default_value = "/run/tortie")]
    pub(crate) run_dir: PathBuf,

    /// What to run
    #[arg(long, value_delimiter = ',', default_value = "felix,bgp,cni", value_name = "felix,bgp,cni,controller")]
    pub(crate) components: Vec<Component>,

    /// Install the CNI plugin and its configuration once the node is ready, and keep them so
    #[arg(long)]
    pub(crate) cni_install: bool,

    #[command(flatten)]
    pub(crate) cni: CniFolders,

    /// Which messages to log: `error`, `warn`, `info`, `debug`, `trace`, or a filter such as `info,tortie_node=debug`
    #[arg(long, value_name = "LEVEL", default_value = "info", value_parser = parse_filter)]
    pub(crate) log_level: String,

    /// How to write them
    #[arg(long, value_name = "FORMAT", default_value = "text")]
    pub(crate) log_format: LogFormat,

    /// Where `/liveness` and `/readiness` are served
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:9099")]
    pub(crate) health_address: std::net::SocketAddr,

    /// Where `/metrics` is served
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:9091")]
    pub(crate) metrics_address: std::net::SocketAddr,

    /// For how long an address, block or handle must look abandoned before the controller gives it back; 0 to give nothing back
    /// [default: `leakGracePeriod` of KubeControllersConfiguration, else 900]
    #[arg(long, env = "TORTIE_LEAK_GRACE_PERIOD", value_name = "SECONDS", value_parser = parse_seconds)]
    pub(crate) leak_grace_period: Option<Duration>,

    /// Leave the nftables table to whoever has the right to change it, as on kernels before Linux 6.9. Tests of such kernels' ways use it
    #[arg(long, hide = true)]
    pub(crate) plain_table: bool,

    /// Write every event that the agent acts on, and every action it takes, as lines of JSON
    #[arg(long, value_name = "FILE")]
    pub(crate) record: Option<PathBuf>,
}

/// Where resources come from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum DatastoreAddress {
    /// A folder of manifests.
    Directory(PathBuf),
    /// The cluster's API server.
    Kubernetes,
}

impl fmt::Display for DatastoreAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Directory(path) => write!(f, "dir:{}", path.display()),
            Self::Kubernetes => f.write_str("kubernetes"),
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
pub(crate) enum Component {
    /// Rules and routes in the kernel
    Felix,
    /// The BGP speaker
    Bgp,
    /// The server behind the CNI plugin
    Cni,
    /// What is nobody's node's duty
    Controller,
}

impl Component {
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Felix => "felix",
            Self::Bgp => "bgp",
            Self::Cni => "cni",
            Self::Controller => "controller",
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum LogFormat {
    /// A line for people
    Text,
    /// A JSON object a line
    Json,
}

fn parse_datastore(text: &str) -> Result<DatastoreAddress, String> {
    match text.strip_prefix("dir:") {
        Some("") => Err("dir: needs a path, such as dir:/etc/tortie/resources".into()),
        Some(path) => match std::path::absolute(path) {
            Ok(path) => Ok(DatastoreAddress::Directory(path)),
            Err(error) => Err(format!("{path}: {error}")),
        },
        None if text == "kubernetes" => Ok(DatastoreAddress::Kubernetes),
        None => Err("use kubernetes, or dir:PATH, a folder of YAML files".into()),
    }
}

fn parse_seconds(text: &str) -> Result<Duration, String> {
    let seconds = text.parse().ok().and_then(|seconds| Duration::try_from_secs_f64(seconds).ok());
    seconds.ok_or_else(|| "use a number of seconds".into())
}

fn parse_filter(text: &str) -> Result<String, String> {
    match tracing_subscriber::EnvFilter::builder().parse(text) {
        Ok(_) => Ok(text.to_owned()),
        Err(error) => Err(format!("{error}; use error, warn, info, debug or trace")),
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    fn run(args: &[&str]) -> Result<Options, String> {
        let args = ["tortie-node", "run"].iter().chain(args);
        match Cli::try_parse_from(args).map_err(|error| error.to_string())?.command {
            Command::Run(options) => Ok(options),
            other @ Command::CniUninstall(_) => Err(format!("{other:?}")),
        }
    }

    #[test]
    fn the_command_line_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn defaults_are_those_of_the_documentation() {
        let options = run(&["--datastore", "dir:/tmp/x"]).expect("options");
        assert_eq!(options.run_dir, PathBuf::from("/run/tortie"));
        assert_eq!(options.components, [Component::Felix, Component::Bgp, Component::Cni]);
        assert_eq!(options.health_address.to_string(), "127.0.0.1:9099");
        assert_eq!(options.metrics_address.to_string(), "127.0.0.1:9091");
    }

    #[test]
    fn errors_tell_what_to_write_instead() {
        for (args, expected) in
            [(["--datastore", "etcd:x"], "use kubernetes, or dir:PATH"), (["--datastore", "dir:"], "dir: needs a path")]
        {
            let error = run(&args).expect_err("bad");
            assert!(error.contains(expected), "{error}");
        }
        let error = run(&["--datastore", "dir:/x", "--components", "felix,bird"]).expect_err("bad");
        assert!(error.contains("possible values: felix, bgp, cni, controller"), "{error}");
        let error = run(&["--datastore", "dir:/x", "--log-level", "a=b=c"]).expect_err("bad");
        assert!(error.contains("use error, warn, info, debug or trace"), "{error}");
    }
}
