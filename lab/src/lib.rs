//! A cluster on one machine: nodes and pods are network namespaces, the agents are real, and so are the packets.
//!
//! [`plan`] decides, from the documents alone, which nodes, addresses and pods there are. [`lifecycle`] makes the lab so: the
//! [`fabric`] between the nodes, a real `tortie-node` in each ([`process`]), a real CNI ADD for each pod ([`attach`]), and it waits
//! until all is in force ([`ready`]). The [`responder`] answers on the pods' ports, [`probe`] sends packets, [`verdict`] judges
//! them. [`state`] is the file from which `down` cleans up, whatever happened before. [`demo`] tells the whole story.

pub mod attach;
pub mod control;
pub mod demo;
pub mod fabric;
pub mod grid;
pub mod lifecycle;
pub mod name;
pub mod plan;
pub mod ports;
pub mod probe;
pub mod process;
pub mod query;
pub mod ready;
pub mod responder;
pub mod state;
pub mod store;
pub mod verdict;

use std::path::{Path, PathBuf};

pub use lifecycle::Lab;

/// Why a lab command failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// What was asked for makes no sense.
    #[error("{0}")]
    Usage(String),
    /// It did not work.
    #[error("{0}")]
    Failed(String),
    /// The lab is already there.
    #[error("the lab {0:?} exists: take it down with `tortie lab down --lab {0}`, or choose another name with --lab")]
    Exists(String),
    /// There is no such lab.
    #[error("there is no lab {0:?}: boot it with `tortie lab up --lab {0}`")]
    NotFound(String),
    /// Not everything is in force: something failed, an agent has ended, or time is up.
    #[error("this is missing:\n  {}", .0.join("\n  "))]
    Missing(Vec<String>),
    /// A file or a process failed.
    #[error("cannot {what} {path}: {reason}")]
    Io {
        /// What was tried.
        what: &'static str,
        /// With what.
        path: PathBuf,
        /// The reason.
        reason: std::io::Error,
    },
    /// The kernel refused something about namespaces, links, addresses or routes.
    #[error("{0}")]
    Net(Box<tortie_felix_netlink::Error>),
}

impl Error {
    pub(crate) fn io(what: &'static str, path: &Path, reason: std::io::Error) -> Self {
        Self::Io { what, path: path.to_owned(), reason }
    }

    /// [`Error::Missing`], if anything is.
    pub(crate) fn unless_none(missing: Vec<String>) -> Result<(), Self> {
        if missing.is_empty() { Ok(()) } else { Err(Self::Missing(missing)) }
    }

    pub(crate) fn net(error: tortie_felix_netlink::Error) -> Self {
        Self::Net(Box::new(error))
    }
}

/// The nodes of a lab that have an agent.
pub fn agents(lab: &str) -> Result<Vec<String>, Error> {
    name::check_lab(lab)?;
    let state = state::State::load(&name::Paths::new(lab))?.ok_or_else(|| Error::NotFound(lab.to_owned()))?;
    Ok(state.agents().map(|node| node.name.clone()).collect())
}
