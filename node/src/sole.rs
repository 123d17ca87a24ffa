//! One agent writes the rules and routes of a network namespace.
//!
//! The run directory's lock does not keep a second agent out that was given another directory, and two that both know what the kernel
//! should hold undo each other's work for ever. So an agent that writes the kernel listens on an abstract Unix socket: such names
//! belong to a network namespace, and the kernel gives them back when their holder dies, however it dies.

use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener, UnixStream};

use anyhow::{Context, Result, bail};
use nix::sys::socket::{getsockopt, sockopt};

/// The socket's name.
const NAME: &str = "tortie-node.dataplane";

/// Held by the agent that writes this namespace's rules and routes, until this is dropped.
#[derive(Debug)]
pub(crate) struct Sole {
    _listener: UnixListener,
}

impl Sole {
    /// Claims the calling thread's network namespace.
    ///
    /// # Errors
    /// When another agent has it.
    pub(crate) fn claim() -> Result<Self> {
        let address = SocketAddr::from_abstract_name(NAME).context("the namespace's lock has no address")?;
        match UnixListener::bind_addr(&address) {
            Ok(listener) => Ok(Self { _listener: listener }),
            Err(error) if error.kind() == std::io::ErrorKind::AddrInUse => {
                let who = holder(&address).map_or_else(String::new, |pid| format!(" (process {pid})"));
                bail!(
                    "another tortie-node{who} writes the rules and routes of this network namespace already: stop it first, \
                     or run this one without the components felix and cni"
                )
            }
            Err(error) => Err(error).context("the network namespace cannot be locked against a second agent"),
        }
    }
}

/// The process that listens there, as the kernel tells whoever connects.
fn holder(address: &SocketAddr) -> Option<i32> {
    let stream = UnixStream::connect_addr(address).ok()?;
    getsockopt(&stream, sockopt::PeerCredentials).ok().map(|credentials| credentials.pid()).filter(|pid| *pid > 0)
}

#[cfg(test)]
mod tests {
    use nix::sched::{CloneFlags, unshare};

    use super::*;

    #[test]
    fn a_namespace_has_one_agent_and_the_second_hears_who_it_is() {
        let in_a_new_namespace = |work: fn()| {
            let thread = std::thread::spawn(move || {
                unshare(CloneFlags::CLONE_NEWNET).expect("a namespace: tests run as root");
                work();
            });
            thread.join().expect("all holds there");
        };
        in_a_new_namespace(|| {
            let first = Sole::claim().expect("nobody is there");
            let error = Sole::claim().expect_err("the second").to_string();
            assert!(error.contains(&format!("process {}", std::process::id())), "{error}");
            assert!(error.contains("stop it first"), "{error}");
            // Another namespace is another node.
            std::thread::scope(|scope| {
                let other = scope.spawn(|| {
                    unshare(CloneFlags::CLONE_NEWNET).expect("a namespace");
                    Sole::claim().map(drop).map_err(|error| error.to_string())
                });
                assert_eq!(other.join().expect("no panic"), Ok(()));
            });
            drop(first);
            Sole::claim().expect("the name is free again");
        });
    }
}
