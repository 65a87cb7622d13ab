//! X1: the end of the agent's descendants, and of the agent's zombie.
//!
//! The shim is a subreaper, so its tree is complete: whoever loses its parent becomes its child, whatever session or group it is in.

use nix::sys::signal::{Signal, killpg};
use nix::sys::signalfd::SignalFd;
use nix::unistd::Pid;

use super::agent::Gated;
use super::watch::{TERM_TIME, pause};
use crate::core::model::{Leftover, Millis, Outcome};
use crate::core::record::Usage;
use crate::edge::process::{self, Pidfd, Stat};
use crate::edge::{clock, kill_point};

/// All of it: what still lives then is written down.
const SWEEP_TIME: Millis = Millis::secs(5);
/// How often the tree is looked at: a grandchild's death tells its parent, not us.
const LOOK: Millis = Millis(20);

/// How the agent ended, and what could not be ended.
pub(super) struct End {
    pub(super) outcome: Outcome,
    pub(super) usage: Usage,
    pub(super) leftovers: Vec<Leftover>,
}

/// Called when the agent is over and not collected: its zombie pins the number of its group.
pub(super) fn end(gated: &Gated, is_sweep: bool, signals: &SignalFd) -> End {
    let begun = clock::boot();
    let by = |span: Millis| Millis(begun.0 + span.0);
    if is_sweep {
        // Reaches also who is forked while the tree is read.
        killpg(gated.pid, Signal::SIGTERM).ok();
        kill_point::reach("X1:group-told");
        if !is_empty_by(by(TERM_TIME), gated.pid, process::Signal::TERM, signals) {
            killpg(gated.pid, Signal::SIGKILL).ok();
        }
    }
    let (outcome, usage) = collect(gated.pid);
    kill_point::reach("X1:collected");
    let leftovers = if is_sweep {
        end_rest(by(SWEEP_TIME), gated.pid, signals)
    } else {
        vec![]
    };
    kill_point::reach("X1:swept");
    End {
        outcome,
        usage,
        leftovers,
    }
}

/// KILL for whoever is left; what it cannot end by then.
fn end_rest(until: Millis, agent: Pid, signals: &SignalFd) -> Vec<Leftover> {
    loop {
        if !is_empty_by(until, agent, process::Signal::KILL, signals) {
            return living(agent).iter().map(Stat::leftover).collect();
        }
        // A list of children that changes while it is read may lack one (proc_pid_children(5)); the kernel itself cannot be wrong.
        if !has_children() || clock::boot() >= until {
            return vec![];
        }
        pause(signals, LOOK);
    }
}

/// Signals whoever lives below us, each process once, until nobody does (`true`) or the time has come.
fn is_empty_by(until: Millis, agent: Pid, signal: process::Signal, signals: &SignalFd) -> bool {
    let mut told = Vec::new();
    loop {
        collect_strays(agent);
        let living = living(agent);
        if living.is_empty() {
            return true;
        }
        if clock::boot() >= until {
            return false;
        }
        for process in living.iter().map(Stat::id) {
            if !told.contains(&process) {
                if let Ok(Some(pidfd)) = Pidfd::open_checked(&process) {
                    pidfd.signal(signal).ok();
                }
                told.push(process);
            }
        }
        // A stop that comes now changes nothing: it is being ended.
        pause(signals, LOOK);
    }
}

fn living(agent: Pid) -> Vec<Stat> {
    process::descendants(&process::own())
        .into_iter()
        .filter(|stat| !stat.is_dead() && stat.pid != agent.as_raw())
        .collect()
}

fn has_children() -> bool {
    use nix::sys::wait::{Id, WaitPidFlag, waitid};
    let flags = WaitPidFlag::WEXITED | WaitPidFlag::WNOHANG | WaitPidFlag::WNOWAIT;
    waitid(Id::All, flags) != Err(nix::Error::ECHILD)
}

/// Collects dead children other than the agent.
pub(super) fn collect_strays(agent: Pid) {
    process::reap_strays(|stat| stat.pid != agent.as_raw());
}

/// The agent's outcome; its number is anybody's from here on.
fn collect(agent: Pid) -> (Outcome, Usage) {
    let mut status = 0;
    // SAFETY: all zeroes is a valid rusage, as it is numbers only.
    let mut usage: nix::libc::rusage = unsafe { std::mem::zeroed() };
    loop {
        // SAFETY: both point to locals that outlive the call.
        let pid = unsafe { nix::libc::wait4(agent.as_raw(), &mut status, 0, &mut usage) };
        if pid == agent.as_raw() {
            break;
        }
        if nix::Error::last() != nix::Error::EINTR {
            return (
                Outcome::Lost,
                Usage {
                    cpu: Millis(0),
                    max_rss_kb: 0,
                },
            );
        }
    }
    let outcome = if nix::libc::WIFSIGNALED(status) {
        Outcome::Signaled(nix::libc::WTERMSIG(status))
    } else {
        Outcome::Exited(u8::try_from(nix::libc::WEXITSTATUS(status)).unwrap_or(u8::MAX))
    };
    let ms = |time: nix::libc::timeval| {
        (time.tv_sec * 1000 + time.tv_usec / 1000)
            .max(0)
            .cast_unsigned()
    };
    let usage = Usage {
        cpu: Millis(ms(usage.ru_utime) + ms(usage.ru_stime)),
        max_rss_kb: usage.ru_maxrss.max(0).cast_unsigned(),
    };
    (outcome, usage)
}
