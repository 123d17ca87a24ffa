//! The programs of the host that change its firewalls: iptables by either backend, and `firewall-cmd`.
//!
//! Which backend a program writes to says its name, or, where it is plain `iptables`, its version: `(nf_tables)`, or `(legacy)`, which
//! versions before 1.8 do not say. Nothing is remembered: packages come and go.

use std::process::{Command, Stdio};

use iptables::IPTables;

use crate::legacy::Family;

/// The exit status of who finds no program to become, as shells have it.
const MISSING: i32 = 127;

/// Where rules of iptables are held.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Backend {
    /// In nf_tables: `iptables-nft`.
    Nft,
    /// In tables of their own: `iptables-legacy`.
    Legacy,
}

impl Backend {
    /// The program that writes there, by the name that says so.
    pub const fn program(self, family: Family) -> &'static str {
        match (self, family) {
            (Self::Nft, Family::V4) => "iptables-nft",
            (Self::Nft, Family::V6) => "ip6tables-nft",
            (Self::Legacy, Family::V4) => "iptables-legacy",
            (Self::Legacy, Family::V6) => "ip6tables-legacy",
        }
    }

    /// The program that writes there, if the host has it.
    pub(crate) fn tool(self, family: Family) -> Option<IPTables> {
        let plain = if family == Family::V4 { "iptables" } else { "ip6tables" };
        let cmd = [self.program(family), plain].into_iter().find(|program| writes_to(program) == Some(self))?;
        // Not numeric: `-S`, by which it lists, is numeric anyway and refuses the flag.
        Some(IPTables { cmd, has_check: true, has_wait: true, is_numeric: false })
    }
}

/// Where a program writes; none if there is no such program.
fn writes_to(program: &str) -> Option<Backend> {
    let output = Command::new(program).arg("--version").stdin(Stdio::null()).output().ok()?;
    let version = String::from_utf8_lossy(&output.stdout).into_owned();
    if !output.status.success() || !version.contains('v') {
        return None;
    }
    Some(if version.contains("nf_tables") { Backend::Nft } else { Backend::Legacy })
}

/// Runs `firewall-cmd`; what it printed.
pub(crate) fn firewall_cmd(args: &[&str]) -> Result<String, FirewallCmdError> {
    let output = match Command::new("firewall-cmd").args(args).stdin(Stdio::null()).output() {
        Ok(output) => output,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Err(FirewallCmdError::Missing),
        Err(error) => return Err(FirewallCmdError::Failed(error.to_string())),
    };
    // What an agent in a container calls by this name says so of a host that lacks the program.
    if output.status.code() == Some(MISSING) {
        return Err(FirewallCmdError::Missing);
    }
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().to_owned();
    if output.status.success() {
        Ok(text(&output.stdout))
    } else {
        let said = [text(&output.stderr), text(&output.stdout)].into_iter().find(|text| !text.is_empty());
        Err(FirewallCmdError::Failed(format!(
            "firewall-cmd {}: {}",
            args.join(" "),
            said.unwrap_or_else(|| output.status.to_string())
        )))
    }
}

/// Why `firewall-cmd` did not do it.
#[derive(Debug, thiserror::Error)]
pub(crate) enum FirewallCmdError {
    #[error("there is no firewall-cmd here")]
    Missing,
    #[error("{0}")]
    Failed(String),
}
