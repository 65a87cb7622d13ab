//! Processes: who they are, whether they live, signals that cannot hit a stranger, starting a shim.
//!
//! A process is named by pid **and** start time, and signalled only through a pidfd that was opened before the two were compared:
//! from then on the descriptor means that process for ever, whatever becomes of its number. What cannot be seen is unknown, and
//! unknown is never signalled. Knows nothing of records; decides nothing.
//!
//! Known gap: a program that overwrites its own environment, or starts its children with an empty one, cannot be found by the run's token.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

pub use rustix::process::Signal;

use crate::core::StrangerKind;
use crate::core::model::{Millis, ProcessId, Timestamp};
use crate::edge::{clock, kill_point};

mod environment;
mod leftovers;
mod spare;
mod start;
mod stat;
mod stop;

pub use environment::Environment;
pub use leftovers::{DeadShim, holds_ofd_lock, leftovers, tokens};
pub use spare::{Order, SPARE_WORD, receive};
pub use start::{IS_VERSION, SHIM_WORD, ShimProgram, VERSION, start_shim};
pub use stat::{Stat, descendants, parse_stat, stat};
pub use stop::{StopEnd, stop_orphan, sweep};

/// The variable that carries a run's token in its agent's environment.
pub const TOKEN_VARIABLE: &str = "CALYPSO_RUN";

/// This program, even after an upgrade replaced or removed its file.
pub const SELF_EXE: &str = "/proc/self/exe";

/// The process that has this number now; `None` when there is none, or only a dead one that nobody collected, or it cannot be
/// looked at.
pub fn identity(pid: i32) -> Option<ProcessId> {
    living(pid).ok()?
}

/// [`identity`], with why it cannot be looked at: out of descriptors, say, which must not pass for "it is dead".
fn living(pid: i32) -> io::Result<Option<ProcessId>> {
    Ok(stat(pid)?
        .filter(|stat| !stat.is_dead())
        .map(|stat| stat.id()))
}

/// This process.
pub fn own() -> ProcessId {
    static OWN: std::sync::OnceLock<ProcessId> = std::sync::OnceLock::new();
    // No process of ours goes on after a fork(2) without an exec(2), so what was read once stays.
    let own = OWN.get_or_init(|| {
        let pid = std::process::id().cast_signed();
        // Only where /proc is not mounted is there no start time; then nothing compares equal to it, which is the safe side.
        identity(pid).unwrap_or(ProcessId { pid, start: 0 })
    });
    own.clone()
}

/// Does it live? A zombie does not; one that cannot be looked at does, as nobody may be taken for dead unseen. Only within one
/// boot: the caller compares boot ids.
pub fn is_alive(process: &ProcessId) -> bool {
    match living(process.pid) {
        Ok(found) => {
            found.as_ref() == Some(process)
                || (found.is_some() && kill_point::is_planted("any-pid"))
        }
        Err(_) => exists(process.pid),
    }
}

/// Is it stopped (SIGSTOP, or by a debugger)? A stopped shim enforces no limit.
pub fn is_stopped(process: &ProcessId) -> bool {
    matches!(stat(process.pid), Ok(Some(stat)) if stat.id() == *process && matches!(stat.state, b'T' | b't'))
}

/// Its name as the kernel knows it, made printable.
pub fn comm(pid: i32) -> Option<String> {
    stat(pid).ok()?.map(|stat| stat.comm)
}

/// Its arguments, for people; empty for a kernel thread, or one that this user may not see.
pub fn cmdline(pid: i32) -> Vec<String> {
    std::fs::read(format!("/proc/{pid}/cmdline"))
        .unwrap_or_default()
        .split_inclusive(|&byte| byte == 0)
        .map(|arg| String::from_utf8_lossy(arg.strip_suffix(b"\0").unwrap_or(arg)).into_owned())
        .collect()
}

/// Was the file it was started from replaced or removed since (proc_pid_exe(5))? False where that cannot be seen.
pub fn is_program_replaced(process: &ProcessId) -> bool {
    let link = std::fs::read_link(format!("/proc/{}/exe", process.pid)).unwrap_or_default();
    link.as_os_str().as_encoded_bytes().ends_with(b" (deleted)") && is_alive(process)
}

/// CPU time of it and of the children it waited for, and its resident memory in kB.
pub fn vitals(process: &ProcessId) -> Option<(Millis, u64)> {
    let stat = stat(process.pid).ok()??;
    (stat.id() == *process).then(|| (stat.cpu(), stat.rss_kb()))
}

/// A descriptor that means one process for ever.
#[derive(Debug)]
pub struct Pidfd(OwnedFd);

impl Pidfd {
    /// Opens first and compares afterwards: a number that was reused before the open fails the comparison, and one that is
    /// reused after it does not matter. `None` when that process is gone.
    ///
    /// # Errors
    /// What pidfd_open(2) says besides ESRCH, or why /proc cannot be read; the process is then unknown.
    pub fn open_checked(process: &ProcessId) -> io::Result<Option<Self>> {
        if process.pid <= 0 {
            return Ok(None);
        }
        let Some(pid) = rustix::process::Pid::from_raw(process.pid) else {
            return Ok(None);
        };
        match rustix::process::pidfd_open(pid, rustix::process::PidfdFlags::NONBLOCK) {
            Ok(fd) => Ok((living(process.pid)?.as_ref() == Some(process)).then_some(Self(fd))),
            Err(rustix::io::Errno::SRCH) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// Signals it. That it is over already is no error.
    pub fn signal(&self, signal: Signal) -> io::Result<()> {
        match rustix::process::pidfd_send_signal(&self.0, signal) {
            Ok(()) | Err(rustix::io::Errno::SRCH) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// Has it ended? Readable means so (pidfd_open(2)).
    pub fn is_over(&self) -> bool {
        let mut fds = [rustix::event::PollFd::new(
            &self.0,
            rustix::event::PollFlags::IN,
        )];
        matches!(
            rustix::event::poll(&mut fds, Some(&rustix::time::Timespec::default())),
            Ok(1)
        )
    }
}

impl Pidfd {
    /// For waiting within tokio.
    pub fn watch(self) -> io::Result<WatchedPidfd> {
        // SAFETY: a `Pidfd` owns its descriptor, always gives the same one, and does not close it before it is dropped.
        let watched = unsafe { AsyncFd::register_with_interest(self, Interest::READABLE) };
        Ok(WatchedPidfd(watched?))
    }
}

/// A [`Pidfd`] that a spawned future can wait for; it need not be a child's.
#[derive(Debug)]
pub struct WatchedPidfd(AsyncFd<Pidfd>);

impl WatchedPidfd {
    /// The descriptor.
    pub fn pidfd(&self) -> &Pidfd {
        self.0.get_ref()
    }
    /// Returns when the process is over.
    pub async fn over(&self) {
        while !self.pidfd().is_over() {
            match self.0.readable().await {
                Ok(mut ready) => ready.clear_ready(),
                // The runtime is shutting down, and this future with it.
                Err(_) => std::future::pending().await,
            }
        }
    }
}

impl AsFd for Pidfd {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl AsRawFd for Pidfd {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }
}

/// Makes this process the one that inherits shims and what they leave, since PID 1 of a container may not collect them.
pub fn become_subreaper() -> io::Result<()> {
    Ok(rustix::process::set_child_subreaper(Some(
        rustix::process::getpid(),
    ))?)
}

/// The session this process is in.
pub fn own_session() -> i32 {
    stat(std::process::id().cast_signed())
        .ok()
        .flatten()
        .map_or(0, |own| own.session)
}

/// Collects dead children that nobody waits for by name: those that `is_stray` says are.
pub fn reap_strays(is_stray: impl Fn(&Stat) -> bool) {
    for pid in stat::children(std::process::id().cast_signed()) {
        if !matches!(stat(pid), Ok(Some(stat)) if stat.is_dead() && is_stray(&stat)) {
            continue;
        }
        // By number, which is pinned: only this process can collect its children, and it has one thread that does.
        let pid = rustix::process::Pid::from_raw(pid);
        rustix::process::waitpid(pid, rustix::process::WaitOptions::NOHANG).ok();
    }
}

/// What a pid file that is not ours says: `pid` is the number in it, or what is odd about it; `uid` its writer.
pub fn stranger(pid: Result<i32, String>, modified: Timestamp, uid: u32) -> StrangerKind {
    let pid = match pid {
        Ok(pid) => pid,
        Err(what) => return StrangerKind::Odd(what),
    };
    // It lives for ever, so a task would wait for ever; and nobody's agent is init.
    if pid == 1 {
        return StrangerKind::Odd("process 1 is no agent".into());
    }
    let found = match stat(pid) {
        Ok(Some(found)) if !found.is_dead() => found,
        Ok(_) if !exists(pid) => return StrangerKind::Dead { pid },
        Ok(Some(_)) => return StrangerKind::Dead { pid },
        Ok(None) | Err(_) => {
            return StrangerKind::Odd(format!("process {pid} cannot be seen by this user"));
        }
    };
    if found.uid.is_some_and(|owner| owner != uid) {
        return StrangerKind::Odd(format!(
            "process {pid} (`{}`) belongs to another user than the file",
            found.comm
        ));
    }
    // Start times count in ticks of the boot clock; a second covers that, and a file system's coarse times.
    let running = Millis(clock::boot().0.saturating_sub(found.started().0));
    let began = Timestamp(clock::wall().0 - running.0.min(i64::MAX as u64) as i64);
    StrangerKind::Alive {
        younger: began.since(modified) > Millis::secs(1),
        process: found.id(),
        comm: found.comm,
    }
}

/// kill(pid, 0): EPERM means that it is there and another user's.
fn exists(pid: i32) -> bool {
    pid > 0
        && nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), None) != Err(nix::Error::ESRCH)
}
