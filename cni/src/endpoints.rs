//! The node's endpoints on disk: `RUN_DIR/endpoints/CONTAINER@IFNAME.json`, one file each, never half-written.
//!
//! A file appears before the endpoint's link does, and goes after it. So whatever exists in the kernel is known here.

use std::fs;
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use nix::fcntl::OFlag;
use serde::{Deserialize, Serialize};
use tortie_admin::types::Endpoint;

/// The directory below the run directory.
const DIRECTORY: &str = "endpoints";

/// The largest file that is read, in bytes.
const LARGEST: u64 = 64 << 10;

/// An endpoint, and the CNI network that it was attached to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Record {
    /// The name of the CNI network.
    pub network: String,
    /// The interface's MTU, in bytes.
    pub mtu: u32,
    /// Whether that MTU is the network configuration's, and not that of the network between nodes, which pods follow.
    #[serde(default)]
    pub fixed_mtu: bool,
    /// The endpoint.
    #[serde(flatten)]
    pub endpoint: Endpoint,
}

/// The endpoints that an earlier run left. What cannot be read is reported in the log and left out.
pub fn load_endpoints(run_dir: &Path) -> Vec<Endpoint> {
    Store::new(run_dir).load().into_iter().map(|record| record.endpoint).collect()
}

/// The directory of records.
#[derive(Debug, Clone)]
pub(crate) struct Store {
    directory: PathBuf,
}

impl Store {
    pub(crate) fn new(run_dir: &Path) -> Self {
        Self { directory: run_dir.join(DIRECTORY) }
    }

    /// All records, in the order of their files' names.
    pub(crate) fn load(&self) -> Vec<Record> {
        let mut paths: Vec<PathBuf> = match fs::read_dir(&self.directory) {
            Ok(entries) => entries.flatten().map(|entry| entry.path()).collect(),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
            Err(error) => {
                tracing::error!(path = %self.directory.display(), %error, "the endpoints cannot be read");
                Vec::new()
            }
        };
        paths.sort();
        let is_record = |path: &PathBuf| path.extension().is_some_and(|extension| extension == "json");
        let read = |path: PathBuf| match read(&path) {
            Ok(record) => Some(record),
            Err(reason) => {
                tracing::error!(path = %path.display(), reason, "an endpoint cannot be read; its pod must be made anew");
                None
            }
        };
        paths.into_iter().filter(is_record).filter_map(read).collect()
    }

    /// When a record came or went last; none if that is unknown.
    pub(crate) fn changed(&self) -> Option<SystemTime> {
        fs::metadata(&self.directory).and_then(|metadata| metadata.modified()).ok()
    }

    /// The record of one attachment.
    pub(crate) fn find(&self, container_id: &str, ifname: &str) -> Option<Record> {
        read(&self.path(container_id, ifname)).ok()
    }

    /// Writes a record, whole or not at all.
    pub(crate) fn save(&self, record: &Record) -> io::Result<()> {
        let path = self.path(&record.endpoint.container_id, &record.endpoint.ifname);
        let temporary = path.with_extension("new");
        fs::create_dir_all(&self.directory)?;
        let write = || {
            let mut file = fs::File::create(&temporary)?;
            file.write_all(&serde_json::to_vec(record)?)?;
            // The run directory is usually a tmpfs, where this costs nothing; elsewhere a crash must not leave an empty file.
            file.sync_data()?;
            fs::rename(&temporary, &path)
        };
        write().inspect_err(|_| {
            // On a full disk every attempt would leave one, and each has an id of its own.
            let _ = fs::remove_file(&temporary);
        })
    }

    /// Removes what [`Store::save`] left when its process was killed before the rename. Nobody may be saving.
    pub(crate) fn sweep(&self) {
        for path in fs::read_dir(&self.directory).into_iter().flatten().flatten().map(|entry| entry.path()) {
            if path.extension().is_some_and(|extension| extension == "new")
                && let Err(error) = fs::remove_file(&path)
            {
                tracing::warn!(path = %path.display(), %error, "half a record of an earlier run stays");
            }
        }
    }

    /// Removes a record; one that is gone is no error.
    pub(crate) fn remove(&self, container_id: &str, ifname: &str) -> io::Result<()> {
        match fs::remove_file(self.path(container_id, ifname)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }

    /// `@` is in no container id, so no two attachments share a name.
    fn path(&self, container_id: &str, ifname: &str) -> PathBuf {
        self.directory.join(format!("{container_id}@{ifname}.json"))
    }
}

/// Reads a record. No symbolic link is followed, no device or pipe is read from, and nothing is read without a limit: whatever lies in
/// the directory, the agent must come up.
fn read(path: &Path) -> Result<Record, String> {
    let flags = OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK | OFlag::O_NOCTTY;
    let opened = fs::OpenOptions::new().read(true).custom_flags(flags.bits()).open(path);
    let file = opened.map_err(|error| error.to_string())?;
    if !file.metadata().map_err(|error| error.to_string())?.is_file() {
        return Err("it is not a regular file".to_owned());
    }
    let mut bytes = Vec::new();
    file.take(LARGEST + 1).read_to_end(&mut bytes).map_err(|error| error.to_string())?;
    if bytes.len() as u64 > LARGEST {
        return Err(format!("it has more than {LARGEST} bytes, which no record has"));
    }
    serde_json::from_slice(&bytes).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use nix::sys::stat::Mode;
    use nix::unistd::mkfifo;

    use super::*;

    #[test]
    fn what_is_written_is_read_and_rubbish_is_left_out() {
        let folder = tempfile::tempdir().expect("a folder");
        let store = Store::new(folder.path());
        assert!(store.load().is_empty());
        let endpoint = Endpoint {
            namespace: "web".into(),
            pod: "a".into(),
            container_id: "c".into(),
            netns: "/run/netns/a".into(),
            ifname: "eth0".into(),
            host_interface: "cali1".into(),
            host_mac: "ee:ee:ee:ee:ee:ee".into(),
            mac: "02:00:00:00:00:01".into(),
            ips: vec!["10.244.0.1".parse().expect("ip")],
        };
        let record = Record { network: "tortie".into(), mtu: 1500, fixed_mtu: false, endpoint };
        store.save(&record).expect("saved");
        fs::write(folder.path().join("endpoints/x@eth0.json"), "{").expect("rubbish");
        fs::write(folder.path().join("endpoints/y@eth0.new"), "{").expect("half a record");
        // Nothing here is waited for, and none is a record, not even what a link leads to.
        let link = |from: &Path, name: &str| symlink(from, folder.path().join("endpoints").join(name)).expect("a link");
        link(Path::new("/dev/zero"), "z@eth0.json");
        link(&store.path("c", "eth0"), "copy@eth0.json");
        mkfifo(&folder.path().join("endpoints/pipe@eth0.json"), Mode::S_IRWXU).expect("a pipe");
        fs::create_dir(folder.path().join("endpoints/folder@eth0.json")).expect("a folder");
        fs::write(folder.path().join("endpoints/long@eth0.json"), " ".repeat(1 << 17)).expect("a long file");
        assert_eq!(store.load(), std::slice::from_ref(&record));
        assert_eq!(load_endpoints(folder.path()), std::slice::from_ref(&record.endpoint));
        store.sweep();
        assert!(!folder.path().join("endpoints/y@eth0.new").exists(), "half a record stays for ever");
        assert_eq!(store.find("c", "eth0"), Some(record));
        store.remove("c", "eth0").expect("removed");
        store.remove("c", "eth0").expect("removed again");
        assert_eq!(store.find("c", "eth0"), None);
    }
}
