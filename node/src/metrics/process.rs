//! The process itself, under the names that every Prometheus client uses.

use std::fs;
use std::io;

/// What `/proc` says of this process.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct Process {
    pub(crate) cpu_seconds: f64,
    /// Since 1970.
    pub(crate) start_seconds: f64,
    pub(crate) resident_bytes: u64,
    pub(crate) virtual_bytes: u64,
    pub(crate) threads: u64,
    pub(crate) open_fds: u64,
    pub(crate) max_fds: Option<u64>,
}

/// `USER_HZ`, which is 100 on every architecture that Linux runs containers on.
const TICKS: f64 = 100.0;

/// Linux has pages of 4 KiB where the agent runs unless the kernel says otherwise.
fn page_size() -> u64 {
    nix::unistd::sysconf(nix::unistd::SysconfVar::PAGE_SIZE).ok().flatten().map_or(4096, |size| size as u64)
}

impl Process {
    /// Reads it.
    pub(crate) fn read() -> io::Result<Self> {
        let stat = fs::read_to_string("/proc/self/stat")?;
        let boot = fs::read_to_string("/proc/stat")?;
        let mut process = Self::parse(&stat, &boot, page_size()).ok_or(io::ErrorKind::InvalidData)?;
        process.open_fds = fs::read_dir("/proc/self/fd")?.count() as u64;
        process.max_fds = fs::read_to_string("/proc/self/limits").ok().and_then(|limits| {
            limits.lines().find_map(|line| line.strip_prefix("Max open files")?.split_whitespace().next()?.parse().ok())
        });
        Ok(process)
    }

    /// Reads the two files; fields are numbered as proc(5) has them.
    fn parse(stat: &str, boot: &str, page: u64) -> Option<Self> {
        // The second field, the name, may hold anything, blanks and parentheses too.
        let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
        let field = |number: usize| fields.get(number - 3)?.parse::<u64>().ok();
        let booted: u64 = boot.lines().find_map(|line| line.strip_prefix("btime ")?.trim().parse().ok())?;
        Some(Self {
            cpu_seconds: (field(14)? + field(15)?) as f64 / TICKS,
            start_seconds: booted as f64 + field(22)? as f64 / TICKS,
            resident_bytes: field(24)? * page,
            virtual_bytes: field(23)?,
            threads: field(20)?,
            ..Self::default()
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_proc_says() {
        let stat = "7 (a) b (c) S 1 7 7 0 -1 4194560 9 0 0 0 150 25 0 0 20 0 12 0 1000 8192 3 18446744073709551615";
        let process = Process::parse(stat, "cpu 1 2\nbtime 1700000000\n", 4096).expect("a process");
        let expected = Process {
            cpu_seconds: 1.75,
            start_seconds: 1_700_000_010.0,
            resident_bytes: 3 * 4096,
            virtual_bytes: 8192,
            threads: 12,
            ..Process::default()
        };
        assert_eq!(process, expected);
        for broken in ["", "7 (a", "7 (a) S 1", "7 (a) S x x x x x x x x x x x x x x x x x x x x x x"] {
            assert_eq!(Process::parse(broken, "btime 1\n", 4096), None, "{broken:?}");
        }
    }

    #[test]
    fn this_process_exists() {
        let process = Process::read().expect("a process");
        assert!(process.resident_bytes > 100_000 && process.open_fds > 2 && process.threads > 0, "{process:?}");
        assert!(process.start_seconds > 1e9, "{process:?}");
    }
}
