//! Which run a shim is of, where it was started ahead of it.

use std::fs::{File, OpenOptions};
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt as _;

use camino::{Utf8Path, Utf8PathBuf};

use crate::edge::process::{self, Order, SHIM_WORD};
use crate::edge::{clock, files, kill_point};

/// What came of the waiting.
pub(super) enum Given {
    /// The daemon is gone, or has no use for this shim.
    Nothing,
    /// A run directory, and its lock.
    Run(Utf8PathBuf, OwnedFd),
}

/// Waits for a run, with the socket to the daemon as standard input.
pub(super) fn wait() -> Given {
    let Some(socket) = take_stdin() else {
        return Given::Nothing;
    };
    let line = CommandLine::find();
    // Read while nobody waits: what its first record tells.
    process::own();
    clock::boot_id();
    kill_point::reach("S1:spare");
    let Some((Order { dir, env }, lock)) = process::receive(&socket) else {
        return Given::Nothing;
    };
    for (name, value) in env {
        // SAFETY: the process has one thread. What would panic (an `=` in a name, a NUL) is not sent.
        unsafe { std::env::set_var(name, value) };
    }
    if let Some(line) = line {
        line.tell(&dir);
    }
    Given::Run(dir, lock)
}

/// Moves what came as standard input, where the agent gets /dev/null, to a descriptor that is closed on exec.
pub(super) fn take_stdin() -> Option<OwnedFd> {
    let moved =
        nix::fcntl::fcntl(std::io::stdin(), nix::fcntl::FcntlArg::F_DUPFD_CLOEXEC(3)).ok()?;
    // SAFETY: fcntl(2) has just made this descriptor, and nobody else knows of it.
    let moved = unsafe { <OwnedFd as std::os::fd::FromRawFd>::from_raw_fd(moved) };
    let null = File::open("/dev/null").ok()?;
    nix::unistd::dup2_stdin(&null).ok()?;
    Some(moved)
}

/// Where this process's command line lies in its memory: what ps(1) shows is read from there (proc(5), /proc/PID/cmdline), and room for a
/// run directory was left in it.
struct CommandLine {
    memory: File,
    start: u64,
    length: usize,
}

impl CommandLine {
    fn find() -> Option<Self> {
        let stat = files::read_proc("/proc/self/stat").ok()?;
        let stat = String::from_utf8_lossy(&stat).into_owned();
        // Fields 48 and 49, proc(5); the third is the first after the name, which may hold anything.
        let mut fields = stat.rsplit_once(')')?.1.split_whitespace().skip(45);
        let start: u64 = fields.next()?.parse().ok()?;
        let end: u64 = fields.next()?.parse().ok()?;
        let length = end.checked_sub(start)?.try_into().ok()?;
        let memory = OpenOptions::new().write(true).open("/proc/self/mem").ok()?;
        Some(Self {
            memory,
            start,
            length,
        })
    }

    /// Makes it that of a shim that was started for this run. Left alone where that does not fit.
    fn tell(&self, dir: &Utf8Path) {
        let mut words = format!("calypso-watch\0{SHIM_WORD}\0{dir}\0").into_bytes();
        if words.len() <= self.length {
            words.resize(self.length, 0);
            self.memory.write_all_at(&words, self.start).ok();
        }
    }
}
