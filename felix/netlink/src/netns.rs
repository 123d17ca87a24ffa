//! Network namespaces: made, found, entered and deleted the way `ip netns` does it, so that both see the same ones.
//!
//! A named namespace is a file in `/run/netns` on which the namespace is bind-mounted; it lives as long as that mount. Entering
//! one concerns a thread, so whatever must happen inside runs on a thread of its own ([`Netns::run`]) and the caller's stays
//! where it is. A socket keeps the namespace it was created in: make it inside, use it anywhere.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::thread;

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, setns, unshare};

use crate::Error;

/// Where named namespaces are.
const FOLDER: &str = "/run/netns";

/// An open network namespace. It stays alive while this does, whatever happens to its name.
#[derive(Debug)]
pub struct Netns {
    file: File,
    path: PathBuf,
}

/// Makes a namespace of this name.
///
/// # Errors
/// When the name is taken or unusable, or without the right to make one.
pub fn create(name: &str) -> Result<Netns, Error> {
    let path = path_of(name)?;
    share_folder()?;
    OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o444)
        .open(&path)
        .map_err(|error| Error::socket(format!("create {}", path.display()), &error))?;
    let mounted = on_a_thread(|| {
        unshare(CloneFlags::CLONE_NEWNET)?;
        mount(Some("/proc/thread-self/ns/net"), &path, None::<&str>, MsFlags::MS_BIND, None::<&str>)
    })?;
    if let Err(errno) = mounted {
        let _ = fs::remove_file(&path);
        return Err(Error::kernel(format!("create network namespace {name}"), errno));
    }
    open(name)
}

/// Deletes the name of a namespace; the namespace itself goes when nobody is in it any more. Deleting what is not there succeeds.
///
/// # Errors
/// When the name is unusable, or the mount cannot be undone.
pub fn delete(name: &str) -> Result<(), Error> {
    let path = path_of(name)?;
    match umount2(&path, MntFlags::MNT_DETACH) {
        // EINVAL: the file is there, but its mount was never made or is gone already.
        Ok(()) | Err(Errno::EINVAL | Errno::ENOENT) => {}
        Err(errno) => return Err(Error::kernel(format!("unmount {}", path.display()), errno)),
    }
    match fs::remove_file(&path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(Error::socket(format!("remove {}", path.display()), &error))
        }
        _ => Ok(()),
    }
}

/// The names of all named namespaces, sorted.
///
/// # Errors
/// When the folder cannot be read.
pub fn list() -> Result<Vec<String>, Error> {
    let entries = match fs::read_dir(FOLDER) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(Error::socket(format!("read {FOLDER}"), &error)),
    };
    let mut names: Vec<String> = entries.flatten().filter_map(|entry| entry.file_name().into_string().ok()).collect();
    names.sort();
    Ok(names)
}

/// Opens a namespace by name, or by path if it has a slash in it (`/run/netns/x`, `/proc/123/ns/net`).
///
/// # Errors
/// When there is none, or what is there is not a network namespace.
pub fn open(name_or_path: &str) -> Result<Netns, Error> {
    let path = if name_or_path.contains('/') { PathBuf::from(name_or_path) } else { path_of(name_or_path)? };
    // Not blocking: what a stranger named may be a FIFO.
    let file = OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(&path);
    let file = file.map_err(|error| Error::socket(format!("open network namespace {}", path.display()), &error))?;
    let netns = Netns { file, path };
    // A namespace whose mount is gone leaves a plain file: entering it tells.
    netns.run(|| ())?;
    Ok(netns)
}

/// Makes a namespace without a name, which ends with its last user. Inside, everything is down, loopback too.
///
/// # Errors
/// Without the right to make one.
pub fn anonymous() -> Result<Netns, Error> {
    on_a_thread(|| {
        unshare(CloneFlags::CLONE_NEWNET).map_err(|errno| Error::kernel("make a network namespace", errno))?;
        Netns::current()
    })?
}

impl Netns {
    /// The namespace that the calling thread is in.
    ///
    /// # Errors
    /// When `/proc` cannot be read.
    pub fn current() -> Result<Self, Error> {
        let path = PathBuf::from("/proc/thread-self/ns/net");
        let file = File::open(&path).map_err(|error| Error::socket(format!("open {}", path.display()), &error))?;
        Ok(Self { file, path })
    }

    /// The path it was opened by.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Device and inode, which identify the namespace whatever its path.
    ///
    /// # Errors
    /// When the kernel does not say.
    pub fn id(&self) -> Result<(u64, u64), Error> {
        let metadata = self.file.metadata();
        let metadata = metadata.map_err(|error| Error::socket(format!("look at {}", self.path.display()), &error))?;
        Ok((metadata.dev(), metadata.ino()))
    }

    /// Runs `work` on a fresh thread inside this namespace. A panic of `work` is passed on.
    ///
    /// # Errors
    /// When the namespace cannot be entered.
    pub fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> Result<T, Error> {
        on_a_thread(|| {
            setns(&self.file, CloneFlags::CLONE_NEWNET)
                .map_err(|errno| Error::kernel(format!("enter network namespace {}", self.path.display()), errno))?;
            Ok(work())
        })?
    }

    /// Starts a program inside this namespace. (Its `PR_SET_PDEATHSIG` would fire at once: the thread that forks does not stay.)
    ///
    /// # Errors
    /// When the namespace cannot be entered or the program does not start.
    pub fn spawn(&self, command: &mut Command) -> io::Result<Child> {
        self.run(|| command.spawn()).map_err(io::Error::other)?
    }
}

impl AsFd for Netns {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

/// Runs `work` on a thread of its own, so that what it does to its namespaces ends with it.
fn on_a_thread<T: Send>(work: impl FnOnce() -> T + Send) -> Result<T, Error> {
    thread::scope(|scope| {
        let thread = thread::Builder::new()
            .name("netns".into())
            .spawn_scoped(scope, work)
            .map_err(|error| Error::socket("start a thread", &error))?;
        match thread.join() {
            Ok(value) => Ok(value),
            Err(panic) => std::panic::resume_unwind(panic),
        }
    })
}

fn path_of(name: &str) -> Result<PathBuf, Error> {
    let reason = if name.is_empty() || name == "." || name == ".." {
        "empty or a folder"
    } else if name.len() > 255 {
        "longer than 255 bytes"
    } else if name.contains(['/', '\0']) {
        "it has a slash or a NUL in it"
    } else {
        return Ok(Path::new(FOLDER).join(name));
    };
    Err(Error::Invalid(format!("{name:?} cannot name a network namespace: {reason}")))
}

/// Makes the folder a shared mount point, so that a namespace mounted here is seen, and can be deleted, in other mount namespaces.
fn share_folder() -> Result<(), Error> {
    fs::create_dir_all(FOLDER).map_err(|error| Error::socket(format!("create {FOLDER}"), &error))?;
    let folder = File::open(FOLDER).map_err(|error| Error::socket(format!("open {FOLDER}"), &error))?;
    // Held until the end: two processes that both find no mount would put one above the other, and hide each other's namespaces.
    let _lock = Flock::lock(folder, FlockArg::LockExclusive)
        .map_err(|(_, errno)| Error::kernel(format!("lock {FOLDER}"), errno))?;
    let share = || mount(None::<&str>, FOLDER, None::<&str>, MsFlags::MS_SHARED | MsFlags::MS_REC, None::<&str>);
    match share() {
        Ok(()) => Ok(()),
        // Not a mount point yet: make it one on itself.
        Err(Errno::EINVAL) => {
            mount(Some(FOLDER), FOLDER, None::<&str>, MsFlags::MS_BIND | MsFlags::MS_REC, None::<&str>)
                .and_then(|()| share())
                .map_err(|errno| Error::kernel(format!("make {FOLDER} a shared mount"), errno))
        }
        Err(errno) => Err(Error::kernel(format!("share {FOLDER}"), errno)),
    }
}
