//! A node on which Debian's firewalls are installed, as far as that node can see.
//!
//! A process in the node's network namespace, with a mount namespace of its own, lays the unpacked packages over `/usr` and `/etc`.
//! What is run through it finds `iptables`, `ufw` and `firewalld` where the packages put them, writes their configuration, and leaves
//! nothing on this machine: all of it is in memory and goes with that process.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, ChildStdin, Command, Stdio};

use crate::stream::inside;

/// What the process does before it waits for its standard input to end. `$1` is where the packages are unpacked, `$2` the backend that
/// plain `iptables` writes to.
const INSTALL: &str = r#"
set -e
layer=/mnt
mount -t tmpfs none $layer
mkdir -p $layer/usr/sbin $layer/usr/lib $layer/usr-upper $layer/usr-work $layer/etc-upper $layer/etc-work $layer/lab $layer/netns
for program in iptables ip6tables; do
    for end in "" -save -restore; do ln -s $program-$2$end $layer/usr/sbin/$program$end; done
done
for folder in lib sbin bin; do
    if [ -d "$1/$folder" ] && [ ! -L "$1/$folder" ]; then mkdir -p $layer/usr/$folder && cp -a "$1/$folder/." $layer/usr/$folder/; fi
done
# What belongs to the lab stays where it is.
mkdir -p /run/tortie-lab /run/netns
mount --rbind /run/tortie-lab $layer/lab
mount --rbind /run/netns $layer/netns
mount -t tmpfs none /run
mkdir -p /run/tortie-lab /run/netns /run/lock /run/dbus /run/firewalld
mount --rbind $layer/lab /run/tortie-lab
mount --rbind $layer/netns /run/netns
mount -t tmpfs none /var/log
mount -t overlay overlay -o lowerdir=$layer/usr:$1/usr:/usr,upperdir=$layer/usr-upper,workdir=$layer/usr-work /usr
mount -t overlay overlay -o lowerdir=$1/etc:/etc,upperdir=$layer/etc-upper,workdir=$layer/etc-work /etc
# What the packages' installation scripts would do.
mkdir -p /etc/ufw/applications.d
cp -n /usr/share/ufw/iptables/*.rules /usr/share/ufw/ufw.conf /etc/ufw/
cat > /etc/test-bus.conf <<BUS
<!DOCTYPE busconfig PUBLIC "-//freedesktop//DTD D-Bus Bus Configuration 1.0//EN" "http://www.freedesktop.org/standards/dbus/1.0/busconfig.dtd">
<busconfig>
  <type>system</type>
  <listen>unix:path=/run/dbus/system_bus_socket</listen>
  <auth>EXTERNAL</auth>
  <policy context="default">
    <allow user="*"/><allow own="*"/><allow send_destination="*" eavesdrop="true"/><allow eavesdrop="true"/>
  </policy>
</busconfig>
BUS
ip link set lo up
echo installed
exec cat
"#;

/// A node with firewalls installed. Dropping it takes them away; what they wrote to the kernel stays in the node's namespace.
pub struct Host {
    holder: Child,
    services: Vec<Child>,
    /// Its end ends the holder, also when this process is killed.
    _life: ChildStdin,
}

impl Host {
    /// Installs them on the node with this network namespace; `backend` (`nft` or `legacy`) is what plain `iptables` writes to.
    ///
    /// # Panics
    /// When it cannot be done.
    pub fn new(netns: &str, backend: &str) -> Self {
        let root = crate::peer("nft").parent().and_then(Path::parent).expect("peers have a folder").join("files");
        let mut holder = inside(netns, || {
            Command::new("unshare")
                .args(["--mount", "--propagation", "slave", "bash", "-c", INSTALL, "host"])
                .arg(root)
                .arg(backend)
                .stdin(Stdio::piped())
                .stdout(Stdio::piped())
                .spawn()
                .expect("unshare runs")
        });
        let life = holder.stdin.take().expect("a pipe");
        let mut line = String::new();
        let mut output = BufReader::new(holder.stdout.take().expect("a pipe"));
        output.read_line(&mut line).expect("the holder speaks");
        assert_eq!(line.trim(), "installed", "the packages could not be laid over /usr");
        Self { holder, services: Vec::new(), _life: life }
    }

    /// The words before a command that is to run on the node.
    pub fn prefix(&self) -> Vec<String> {
        let words = ["nsenter", "--mount", "--net", "--target", &self.holder.id().to_string(), "--"];
        words.map(str::to_owned).to_vec()
    }

    fn command(&self, words: &[&str]) -> Command {
        let prefix = self.prefix();
        let mut command = Command::new(&prefix[0]);
        command.args(&prefix[1..]).args(words).stdin(Stdio::null());
        command
    }

    /// Runs a command on the node: what it printed if it succeeded, else what it complained of.
    ///
    /// # Errors
    /// When the command fails.
    ///
    /// # Panics
    /// When it cannot be started.
    pub fn try_run(&self, words: &[&str]) -> Result<String, String> {
        let output = self.command(words).output().expect("nsenter runs");
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        if output.status.success() {
            Ok(text(&output.stdout))
        } else {
            Err(format!("{}{}", text(&output.stdout), text(&output.stderr)))
        }
    }

    /// The same where it must succeed.
    ///
    /// # Panics
    /// When it does not.
    pub fn run(&self, words: &[&str]) -> String {
        self.try_run(words).unwrap_or_else(|error| panic!("{words:?}: {error}"))
    }

    /// Runs a shell script on the node.
    pub fn script(&self, script: &str) -> String {
        self.run(&["bash", "-ec", script])
    }

    /// Starts a service, which runs until this is dropped or [`Host::stop`] is called.
    ///
    /// # Panics
    /// When it does not start.
    pub fn start(&mut self, words: &[&str]) {
        let child = self.command(words).stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("nsenter runs");
        self.services.push(child);
    }

    /// Ends all services.
    pub fn stop(&mut self) {
        for mut service in self.services.drain(..).rev() {
            let _ = service.kill();
            let _ = service.wait();
        }
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        self.stop();
        let _ = self.holder.kill();
        let _ = self.holder.wait();
    }
}
