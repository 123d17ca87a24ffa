//! Programs of the machine, for an agent in a container.
//!
//! Rules for the machine's firewalls must be written by the machine's own `iptables` and `firewall-cmd`: another release of them may not
//! understand what is there, and which backend is in use is the machine's choice. The image of the agent therefore has links by their
//! names to this program. Called by one of them it enters the machine's files and becomes the program of that name there
//! (docs/adr/0022-tools-of-the-host.md).

use std::ffi::OsString;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, ExitCode};

use tortie_felix_netlink::host;

/// The names, as links of the image have them.
const TOOLS: [&str; 7] =
    ["firewall-cmd", "ip6tables", "ip6tables-legacy", "ip6tables-nft", "iptables", "iptables-legacy", "iptables-nft"];

/// Where the machine may have them.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// The exit status of who finds no program to become, as shells have it.
const MISSING: u8 = 127;

/// Whether a program called like this stands for one of the machine's.
pub(crate) fn is_one(name: &str) -> bool {
    TOOLS.contains(&name)
}

/// Becomes the machine's program of that name. It only returns when it cannot.
pub(crate) fn become_it(name: &str, arguments: impl Iterator<Item = OsString>) -> ExitCode {
    if host::root() == Path::new("/") {
        // Without other files there is no other program: it would call itself.
        eprintln!("{name}: {} does not say where the machine's files are", host::ROOT_VARIABLE);
        return ExitCode::from(MISSING);
    }
    let entered = nix::unistd::chroot(host::root()).and_then(|()| nix::unistd::chdir("/"));
    if let Err(error) = entered {
        eprintln!("{name}: {} cannot be entered: {error}", host::root().display());
        return ExitCode::from(MISSING);
    }
    let error = Command::new(name).args(arguments).env("PATH", PATH).env_remove(host::ROOT_VARIABLE).exec();
    eprintln!("{name} of this machine: {error}");
    ExitCode::from(MISSING)
}
