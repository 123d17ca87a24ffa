//! The CNI plugin on the node: this very binary under another name, and the configuration that makes the container runtime call it.
//!
//! In a cluster the agent runs in a container and finds the runtime's folders mounted. It installs itself there once its rules are in the
//! kernel, not before: a kubelet takes the configuration for the word that pods may start. Files appear whole or not at all, and are
//! looked after while the agent runs. An agent that stops leaves them: pods that start meanwhile wait for the next one.

use std::io::{self, Write};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};
use serde_json::{Value, json};
use tokio::sync::watch;
use tracing::{info, warn};

use crate::cli::CniFolders;

/// The plugin's name in its folder.
const PLUGIN: &str = "tortie-cni";

/// The configuration's name in its folder. Runtimes take the first in the order of names.
const CONFIGURATION: &str = "10-tortie.conflist";

/// The plugin that runtimes call for every pod besides, whatever the configuration says. Ours stands in where none is installed.
const LOOPBACK: &str = "loopback";

/// How often the files are looked at.
const LOOK: Duration = Duration::from_secs(60);

/// Plugins that are called after ours where they are installed.
const CHAINED: [(&str, &str, &str); 1] = [("portmap", "portMappings", "hostPort")];

/// Where the runtime looks, as this process sees it.
#[derive(Debug, Clone)]
pub(crate) struct Folders {
    /// Of plugins; `/opt/cni/bin` by default.
    pub(crate) plugins: PathBuf,
    /// Of configurations; `/etc/cni/net.d` by default.
    pub(crate) configurations: PathBuf,
}

impl From<CniFolders> for Folders {
    fn from(folders: CniFolders) -> Self {
        Self { plugins: folders.cni_bin_dir, configurations: folders.cni_conf_dir }
    }
}

/// Installs the plugin when the node is ready, and keeps it so.
pub(crate) async fn run(folders: Folders, socket: PathBuf, mut ready: watch::Receiver<bool>) {
    if ready.wait_for(|ready| *ready).await.is_err() {
        return;
    }
    loop {
        let (folders, socket) = (folders.clone(), socket.clone());
        match tokio::task::spawn_blocking(move || install(&folders, &socket)).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => warn!("the CNI plugin is not installed, and no pod can start: {error:#}"),
            Err(error) => warn!(%error, "the CNI plugin is not installed"),
        }
        tokio::time::sleep(LOOK).await;
    }
}

/// Puts the plugin and its configuration in place, where they differ from what should be there.
fn install(folders: &Folders, socket: &Path) -> Result<()> {
    let own = Path::new("/proc/self/exe");
    let plugin = folders.plugins.join(PLUGIN);
    if !is_same(own, &plugin)? {
        let binary = std::fs::read(own).context("this program cannot be read")?;
        replace(&plugin, &binary, 0o755).with_context(|| format!("cannot write {}", plugin.display()))?;
        info!(file = %plugin.display(), "the CNI plugin is installed");
    }
    let loopback = folders.plugins.join(LOOPBACK);
    if std::fs::symlink_metadata(&loopback).is_err() {
        symlink(PLUGIN, &loopback).with_context(|| format!("cannot make {}", loopback.display()))?;
        info!(file = %loopback.display(), "the node had no loopback plugin: ours is installed");
    }
    let path = folders.configurations.join(CONFIGURATION);
    let wanted = format!("{:#}\n", configuration(folders, socket));
    if std::fs::read(&path).ok().as_deref() != Some(wanted.as_bytes()) {
        replace(&path, wanted.as_bytes(), 0o644).with_context(|| format!("cannot write {}", path.display()))?;
        info!(file = %path.display(), "the CNI configuration is installed");
        for (plugin, _, what) in CHAINED.into_iter().filter(|(plugin, ..)| !folders.plugins.join(plugin).exists()) {
            warn!(folder = %folders.plugins.display(), "there is no plugin {plugin}: {what} of pods has no effect");
        }
    }
    for other in earlier(&folders.configurations) {
        warn!(file = %other.display(), "the container runtime takes this configuration before ours: remove it, or pods are not ours");
    }
    Ok(())
}

/// Takes the plugin and its configuration away.
///
/// # Errors
/// When a file is there and cannot be removed.
pub(crate) fn uninstall(folders: &Folders) -> Result<()> {
    // The configuration first: a runtime without one starts no pods, one without its plugin fails them.
    let loopback = folders.plugins.join(LOOPBACK);
    let ours = std::fs::read_link(&loopback).is_ok_and(|target| target == Path::new(PLUGIN));
    let files = [folders.configurations.join(CONFIGURATION), folders.plugins.join(PLUGIN)];
    for path in files.into_iter().chain(ours.then_some(loopback)) {
        match std::fs::remove_file(&path) {
            Ok(()) => println!("removed {}", path.display()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => println!("{} is not there", path.display()),
            Err(error) => return Err(error).with_context(|| format!("cannot remove {}", path.display())),
        }
    }
    Ok(())
}

/// The configuration: our plugin, and what is installed of those that come after it.
fn configuration(folders: &Folders, socket: &Path) -> Value {
    let mut plugins = vec![json!({"type": PLUGIN, "socket": socket})];
    for (plugin, capability, _) in CHAINED {
        if folders.plugins.join(plugin).exists() {
            plugins.push(json!({"type": plugin, "capabilities": {capability: true}, "snat": true}));
        }
    }
    json!({"cniVersion": "1.0.0", "name": "tortie", "plugins": plugins})
}

/// Configurations that a runtime would take in place of ours.
fn earlier(folder: &Path) -> Vec<PathBuf> {
    let Ok(entries) = std::fs::read_dir(folder) else { return Vec::new() };
    let is_configuration = |path: &PathBuf| {
        path.extension().is_some_and(|extension| ["conf", "conflist", "json"].iter().any(|it| extension == *it))
    };
    let ours = folder.join(CONFIGURATION);
    let mut found: Vec<PathBuf> = entries.filter_map(|entry| entry.ok().map(|entry| entry.path())).collect();
    found.retain(|path| is_configuration(path) && *path < ours);
    found.sort();
    found
}

/// Whether two files have the same content.
fn is_same(one: &Path, other: &Path) -> Result<bool> {
    let length = |path: &Path| std::fs::metadata(path).map(|metadata| metadata.len());
    match length(other) {
        Ok(there) if there == length(one).context("this program cannot be read")? => {}
        _ => return Ok(false),
    }
    Ok(std::fs::read(one).context("this program cannot be read")? == std::fs::read(other).unwrap_or_default())
}

/// Writes a file beside its place and moves it there: whoever looks finds the old one or the new one. What runs from the old one goes on.
fn replace(path: &Path, content: &[u8], mode: u32) -> io::Result<()> {
    let folder = path.parent().unwrap_or(path);
    std::fs::create_dir_all(folder)?;
    let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    // Runtimes read no names that begin with a dot.
    let beside = folder.join(format!(".{name}.new"));
    let written = std::fs::File::create(&beside).and_then(|mut file| {
        file.write_all(content)?;
        file.set_permissions(std::fs::Permissions::from_mode(mode))?;
        file.sync_all()
    });
    written.and_then(|()| std::fs::rename(&beside, path)).inspect_err(|_| {
        let _ = std::fs::remove_file(&beside);
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_installed_repaired_and_taken_away() {
        let folder = tempfile::tempdir().expect("a folder");
        let folders = Folders { plugins: folder.path().join("bin"), configurations: folder.path().join("net.d") };
        let socket = Path::new("/run/tortie/tortie.sock");
        install(&folders, socket).expect("it is installed");
        let plugin = folders.plugins.join(PLUGIN);
        assert!(is_same(Path::new("/proc/self/exe"), &plugin).expect("a comparison"));
        assert_eq!(plugin.metadata().expect("a file").permissions().mode() & 0o777, 0o755);
        let read = || -> Value {
            let text = std::fs::read(folders.configurations.join(CONFIGURATION)).expect("a configuration");
            serde_json::from_slice(&text).expect("JSON")
        };
        assert_eq!(read()["plugins"], json!([{"type": "tortie-cni", "socket": "/run/tortie/tortie.sock"}]));

        std::fs::write(folders.plugins.join("portmap"), "").expect("a plugin");
        std::fs::write(&plugin, "another version").expect("a file");
        install(&folders, socket).expect("it is repaired");
        assert_eq!(read()["plugins"][1]["type"], "portmap");
        assert!(is_same(Path::new("/proc/self/exe"), &plugin).expect("a comparison"));
        let names = |path: &Path| std::fs::read_dir(path).expect("a folder").count();
        assert_eq!((names(&folders.plugins), names(&folders.configurations)), (3, 1), "nothing else is left");
        let loopback = folders.plugins.join(LOOPBACK);
        assert_eq!(std::fs::read_link(&loopback).expect("a link"), Path::new(PLUGIN));

        std::fs::write(folders.configurations.join("05-other.conflist"), "{}").expect("a file");
        std::fs::write(folders.configurations.join("99-other.conflist"), "{}").expect("a file");
        assert_eq!(earlier(&folders.configurations), [folders.configurations.join("05-other.conflist")]);

        uninstall(&folders).expect("it is taken away");
        uninstall(&folders).expect("there is nothing to take away");
        assert!(!plugin.exists() && !folders.configurations.join(CONFIGURATION).exists());
        assert!(folders.plugins.join("portmap").exists(), "others' files are others'");
        assert!(std::fs::symlink_metadata(&loopback).is_err());

        std::fs::write(&loopback, "another's").expect("a plugin");
        install(&folders, socket).expect("it is installed");
        uninstall(&folders).expect("it is taken away");
        assert_eq!(std::fs::read(&loopback).expect("it is still there"), b"another's");
    }
}
