//! Which agent and which datastore a command means: flags, environment, `/etc/tortie/ctl.yaml`, and this machine's agent, in this order.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, Result, bail};
use serde::Deserialize;
use tortie_admin::client::Client;
use tortie_admin::types::NodeStatus;
use tortie_api::{Kind, Object};
use tortie_datastore::directory::Directory;
use tortie_datastore::kubernetes::Kubernetes;
use tortie_datastore::{Datastore, Problem, edit, manifests};
use tortie_lab::name::Paths;

use crate::cli::Global;

/// The configuration file.
const FILE: &str = "/etc/tortie/ctl.yaml";

/// The run directory of this machine's agent.
const RUN_DIR: &str = "/run/tortie";

/// The lab that `lab` commands mean by default.
const LAB: &str = "lab";

/// What one source of settings says.
#[derive(Debug, Default, Clone, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
struct Level {
    socket: Option<PathBuf>,
    run_dir: Option<PathBuf>,
    lab: Option<String>,
    node: Option<String>,
    datastore: Option<String>,
}

/// All sources, the strongest first.
#[derive(Debug, Clone)]
pub(crate) struct Settings {
    levels: [Level; 3],
}

/// Whom to ask.
#[derive(Debug, PartialEq, Eq)]
enum Agent<'a> {
    Socket(PathBuf),
    Lab(&'a str),
}

impl Settings {
    /// Reads the environment and the file.
    pub(crate) fn read(global: &Global) -> Result<Self> {
        let flags = Level {
            socket: global.socket.clone(),
            run_dir: global.run_dir.clone(),
            lab: global.lab.clone(),
            node: global.node.clone(),
            datastore: global.datastore.clone(),
        };
        let variable = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
        let environment = Level {
            socket: variable("TORTIE_SOCKET").map(PathBuf::from),
            run_dir: variable("TORTIE_RUN_DIR").map(PathBuf::from),
            lab: variable("TORTIE_LAB"),
            node: variable("TORTIE_NODE"),
            datastore: variable("TORTIE_DATASTORE"),
        };
        let file = match std::fs::read_to_string(FILE) {
            Ok(text) => serde_saphyr::from_str(&text).with_context(|| FILE.to_owned())?,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Level::default(),
            Err(error) => return Err(error).context(FILE),
        };
        Ok(Self { levels: [flags, environment, file] })
    }

    /// The lab that a `lab` command means.
    pub(crate) fn lab(&self) -> &str {
        self.levels.iter().find_map(|level| level.lab.as_deref()).unwrap_or(LAB)
    }

    /// The node, if one was named.
    pub(crate) fn node(&self) -> Option<&str> {
        self.levels.iter().find_map(|level| level.node.as_deref())
    }

    fn agent(&self) -> Agent<'_> {
        for level in &self.levels {
            if let Some(socket) = &level.socket {
                return Agent::Socket(socket.clone());
            }
            if let Some(run_dir) = &level.run_dir {
                return Agent::Socket(run_dir.join("tortie.sock"));
            }
            if let Some(lab) = &level.lab {
                return Agent::Lab(lab);
            }
        }
        Agent::Socket(Path::new(RUN_DIR).join("tortie.sock"))
    }

    /// The run directory of this machine's agent. None where a lab was named, whose agents are elsewhere.
    pub(crate) fn run_dir(&self) -> Option<PathBuf> {
        match self.agent() {
            Agent::Socket(socket) => socket.parent().map(Path::to_owned),
            Agent::Lab(_) => None,
        }
    }

    /// Whether no agent was named in any way.
    pub(crate) fn asks_the_local_agent(&self) -> bool {
        self.levels.iter().all(|level| level.socket.is_none() && level.run_dir.is_none() && level.lab.is_none())
    }

    /// The agents to ask: one, or all of a lab.
    pub(crate) fn clients(&self) -> Result<Vec<Client>> {
        let lab = match self.agent() {
            Agent::Socket(socket) => return Ok(vec![Client::new(socket)]),
            Agent::Lab(lab) => lab,
        };
        let nodes = tortie_lab::agents(lab)?;
        let nodes = match self.node() {
            None => nodes,
            Some(name) if nodes.iter().any(|node| node == name) => vec![name.to_owned()],
            Some(name) => {
                bail!("the lab {lab:?} has no agent on a node {name:?}; its agents are on {}", nodes.join(", "))
            }
        };
        let paths = Paths::new(lab);
        Ok(nodes.iter().map(|node| Client::new(paths.socket(node))).collect())
    }

    /// Which datastore is meant.
    async fn datastore_name(&self) -> Result<Name> {
        for level in &self.levels {
            if let Some(text) = &level.datastore {
                return Name::read(text).with_context(|| format!("--datastore {text:?}"));
            }
            if let Some(lab) = &level.lab {
                tortie_lab::agents(lab)?;
                return Ok(Name::Directory(Paths::new(lab).datastore()));
            }
            if level.socket.is_some() || level.run_dir.is_some() {
                break;
            }
        }
        let Agent::Socket(socket) = self.agent() else {
            bail!("no datastore was named: use --datastore kubernetes, or --datastore dir:PATH")
        };
        let remedy = "no datastore was named, and the agent did not say which one it uses: use --datastore kubernetes, \
                      --datastore dir:PATH or --lab NAME";
        let status: NodeStatus = Client::new(socket).get("/v1/status").await.context(remedy)?;
        Name::read(&status.datastore).context(remedy)
    }

    /// The datastore, opened.
    pub(crate) async fn store(&self) -> Result<Store> {
        Ok(match self.datastore_name().await? {
            Name::Directory(path) => Store::Directory(Directory::open(&path)?),
            Name::Kubernetes => Store::Kubernetes(Kubernetes::new(None, "").await?),
        })
    }
}

/// What a datastore is called on the command line.
enum Name {
    Directory(PathBuf),
    Kubernetes,
}

impl Name {
    fn read(text: &str) -> Result<Self> {
        match text.strip_prefix("dir:") {
            Some(path) if !path.is_empty() => Ok(Self::Directory(PathBuf::from(path))),
            None if text == "kubernetes" => Ok(Self::Kubernetes),
            _ => bail!("use kubernetes, or dir:PATH, a directory of manifests"),
        }
    }
}

/// A datastore.
pub(crate) enum Store {
    Directory(Directory),
    Kubernetes(Kubernetes),
}

impl Store {
    pub(crate) fn datastore(&self) -> Arc<dyn Datastore> {
        match self {
            Self::Directory(directory) => Arc::new(directory.clone()),
            Self::Kubernetes(kubernetes) => Arc::new(kubernetes.clone()),
        }
    }

    /// What is wrong with the objects of a kind, or may be: of a directory also what nobody can tell the kind of.
    pub(crate) async fn problems_about(&self, kind: Kind) -> Result<Vec<Problem>> {
        // Manifests may call both kinds the same, so that one with a mistake in its version may be either.
        let is_it = |it: Kind| it == kind || it.manifest_kind() == kind.manifest_kind();
        Ok(match self {
            Self::Directory(directory) => {
                let mut problems = directory.problems().await?;
                problems.retain(|problem| problem.kind.is_none_or(is_it));
                problems
            }
            Self::Kubernetes(kubernetes) => kubernetes.object_problems(kind).await?,
        })
    }

    /// What is wrong with the objects of a kind; a list leaves out those that cannot be read.
    pub(crate) async fn problems(&self, kind: Kind) -> Result<Vec<Problem>> {
        Ok(match self {
            Self::Directory(directory) => directory.object_problems(kind).await?,
            Self::Kubernetes(kubernetes) => kubernetes.object_problems(kind).await?,
        })
    }

    /// Whether, without an IPPool, the default ones are implied. In a cluster the controller makes them.
    pub(crate) const fn has_implicit_pools(&self) -> bool {
        matches!(self, Self::Directory(_))
    }

    /// Writes an object as a person does: in a directory into the document where it stands.
    pub(crate) async fn apply(&self, mut object: Object) -> Result<()> {
        match self {
            Self::Directory(directory) => {
                object.metadata_mut().resource_version = None;
                object.metadata_mut().uid = None;
                let loaded = manifests::load_text(&object.key().to_string(), &serde_json::to_string(&object)?);
                edit::apply(directory.path(), &loaded.documents)?;
            }
            Self::Kubernetes(kubernetes) if object.metadata().resource_version.is_some() => {
                kubernetes.update(&object).await?;
            }
            Self::Kubernetes(kubernetes) => {
                kubernetes.create(&object).await?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(flags: Level, environment: Level, file: Level) -> Settings {
        Settings { levels: [flags, environment, file] }
    }

    #[test]
    fn the_local_agent_is_the_default() {
        let settings = settings(Level::default(), Level::default(), Level::default());
        assert_eq!(settings.agent(), Agent::Socket("/run/tortie/tortie.sock".into()));
        assert_eq!((settings.lab(), settings.node()), ("lab", None));
    }

    #[test]
    fn a_flag_wins_over_any_variable() {
        let lab = Level { lab: Some("x".into()), ..Level::default() };
        let socket = Level { socket: Some("/s".into()), node: Some("n".into()), ..Level::default() };
        assert_eq!(settings(lab.clone(), socket.clone(), Level::default()).agent(), Agent::Lab("x"));
        assert_eq!(settings(socket, lab, Level::default()).agent(), Agent::Socket("/s".into()));
    }

    #[test]
    fn a_variable_wins_over_the_file() {
        let variable = Level { run_dir: Some("/run/x".into()), ..Level::default() };
        let file = Level { lab: Some("y".into()), node: Some("n2".into()), ..Level::default() };
        let settings = settings(Level::default(), variable, file);
        assert_eq!(settings.agent(), Agent::Socket("/run/x/tortie.sock".into()));
        assert_eq!(settings.node(), Some("n2"));
    }
}
