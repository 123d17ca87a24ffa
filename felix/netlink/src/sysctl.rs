//! Kernel settings under `net.`. `/proc/sys/net` shows the namespace of the thread that opens it, so these act on the calling
//! thread's; [`set_in`] enters another.
//!
//! A container's own `/proc/sys` is read-only, so these are the machine's ([`host`]): which namespace a file of `net` stands for depends
//! on who opens it, not on whose `/proc` it is in.

use std::fs;
use std::path::PathBuf;

use crate::netns::Netns;
use crate::{Error, host};

/// Sets `net.ipv4.ip_forward` and the like in the calling thread's namespace. A setting that has the value already is not written.
///
/// Interface names may hold dots, so a path with slashes (`net/ipv4/conf/eth0.5/rp_filter`) is taken as well, as `sysctl` does.
///
/// # Errors
/// When there is no such setting, or the kernel refuses the value.
pub fn set(path: &str, value: &str) -> Result<(), Error> {
    ensure(path, value).map(|_| ())
}

/// As [`set`]; returns the value that the setting had, if it had another.
///
/// # Errors
/// As [`set`].
pub fn ensure(path: &str, value: &str) -> Result<Option<String>, Error> {
    let file = file(path)?;
    let before = fs::read_to_string(&file).map(|text| text.trim_end().to_owned());
    if before.as_ref().is_ok_and(|now| now == value) {
        return Ok(None);
    }
    fs::write(&file, value).map_err(|error| Error::socket(format!("set {path}={value}"), &error))?;
    Ok(Some(before.unwrap_or_default()))
}

/// Reads a setting of the calling thread's namespace.
///
/// # Errors
/// When there is no such setting.
pub fn get(path: &str) -> Result<String, Error> {
    let text = fs::read_to_string(file(path)?).map_err(|error| Error::socket(format!("read {path}"), &error))?;
    Ok(text.trim_end().to_owned())
}

/// Sets several settings inside a namespace, in order; stops at the first that fails.
///
/// # Errors
/// As [`set`], or when the namespace cannot be entered.
pub fn set_in(netns: &Netns, settings: &[(&str, &str)]) -> Result<(), Error> {
    netns.run(|| settings.iter().try_for_each(|(path, value)| set(path, value)))?
}

fn file(path: &str) -> Result<PathBuf, Error> {
    let bad = |reason| Error::Invalid(format!("{path:?} is not a setting: {reason}"));
    let path = if path.contains('/') { path.to_owned() } else { path.replace('.', "/") };
    if !path.starts_with("net/") {
        return Err(bad("only settings under net are set here"));
    }
    if path.split('/').any(|part| part.is_empty() || part == "." || part == "..") {
        return Err(bad("an empty part or a parent folder in it"));
    }
    Ok(host::proc().join("sys").join(path))
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    #[test]
    fn paths_stay_below_net() {
        let plain = file("net.ipv4.ip_forward").expect("a path");
        assert_eq!(plain, Path::new("/proc/sys/net/ipv4/ip_forward"));
        let dotted = file("net/ipv4/conf/eth0.5/forwarding").expect("a path");
        assert_eq!(dotted, Path::new("/proc/sys/net/ipv4/conf/eth0.5/forwarding"));
        for path in ["", "net", "kernel.hostname", "net/../kernel/hostname", "/net/ipv4", "net..ipv4"] {
            assert!(file(path).is_err(), "{path:?}");
        }
    }
}
