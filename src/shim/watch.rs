//! The wait between "go" and the agent's end: one poll(2) on its pidfd, signals and a timer; and the ladder that stops it.

use std::fs::File;
use std::os::fd::AsFd as _;

use nix::sys::signal::{Signal, kill, killpg};
use nix::sys::signalfd::SignalFd;
use rustix::event::{PollFd, PollFlags, poll};
use rustix::time::Timespec;

use super::agent::Gated;
use super::sweep;
use crate::core::model::{Millis, Outcome, StoppedBy};
use crate::core::record::Limits;
use crate::edge::{clock, kill_point};

/// How often output.log's size is looked at.
const LOG_LOOK: Millis = Millis::secs(5);
/// From TERM to KILL.
pub(super) const TERM_TIME: Millis = Millis::secs(2);

/// A stop under way: why, and what comes next when.
struct Ladder {
    cause: Outcome,
    next: Option<(Millis, Rung)>,
}

/// What follows SIGINT, which goes to the agent alone: goose writes its last lines on it.
#[derive(Clone, Copy)]
enum Rung {
    Term,
    Kill,
}

/// Returns once the agent is over, not yet collected; `Some` when it was this shim that brought that about.
pub(super) fn wait(
    limits: &Limits,
    gated: &Gated,
    signals: &SignalFd,
    log: &File,
) -> Option<Outcome> {
    let limit = Millis(clock::boot().0.saturating_add(limits.time.0));
    let mut log_look = Millis(clock::boot().0 + LOG_LOOK.0);
    let mut ladder: Option<Ladder> = None;
    loop {
        let now = clock::boot();
        // First, so that an end that came just before a limit is an end.
        if is_over(gated) {
            // A machine that goes down tells agent and shim at once; then the agent's end is no failure of its work.
            let system = || {
                let by = read_stop(signals).filter(StoppedBy::is_system);
                by.map(Outcome::Stopped)
            };
            return ladder.map(|ladder| ladder.cause).or_else(system);
        }
        let by = read_stop(signals);
        sweep::collect_strays(gated.pid);
        match &mut ladder {
            None => {
                let cause = if let Some(by) = by {
                    Some(Outcome::Stopped(by))
                } else if now >= limit {
                    Some(Outcome::TimedOut)
                } else if now >= log_look {
                    log_look = Millis(now.0 + LOG_LOOK.0);
                    let size = log.metadata().map_or(0, |meta| meta.len());
                    (size > limits.log).then_some(Outcome::LogLimit)
                } else {
                    None
                };
                if let Some(cause) = cause {
                    // Its child is not collected, so the number is its own; and so below.
                    kill(gated.pid, Signal::SIGINT).ok();
                    kill_point::reach("stop:told-agent");
                    let term = Millis(now.0.saturating_add(limits.grace.0));
                    ladder = Some(Ladder {
                        cause,
                        next: Some((term, Rung::Term)),
                    });
                }
            }
            Some(Ladder { next, .. }) => {
                if let Some((at, rung)) = *next
                    && now >= at
                {
                    let (signal, then) = match rung {
                        Rung::Term => {
                            let kill_at = Millis(now.0 + TERM_TIME.0);
                            (Signal::SIGTERM, Some((kill_at, Rung::Kill)))
                        }
                        Rung::Kill => (Signal::SIGKILL, None),
                    };
                    killpg(gated.pid, signal).ok();
                    // It may have left its group.
                    kill(gated.pid, signal).ok();
                    *next = then;
                }
            }
        }
        let wake = match &ladder {
            None => Some(limit.min(log_look)),
            Some(Ladder { next, .. }) => next.map(|(at, _)| at),
        };
        sleep_until(wake, gated, signals);
    }
}

/// As long as this, or until the agent is over or a signal comes.
pub(super) fn linger(time: Millis, gated: &Gated, signals: &SignalFd) {
    let wake = Millis(clock::boot().0 + time.0);
    sleep_until(Some(wake), gated, signals);
}

/// Sleeps until the agent is over, a signal comes, or CLOCK_BOOTTIME says so, which goes on while the machine is suspended.
fn sleep_until(wake: Option<Millis>, gated: &Gated, signals: &SignalFd) {
    use rustix::time::{
        Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, timerfd_create,
        timerfd_settime,
    };
    let timer = wake.and_then(|at| {
        let timer = timerfd_create(TimerfdClockId::Boottime, TimerfdFlags::CLOEXEC).ok()?;
        let at = Itimerspec {
            it_interval: Timespec::default(),
            it_value: timespec(Millis(at.0.max(1))),
        };
        timerfd_settime(&timer, TimerfdTimerFlags::ABSTIME, &at).ok()?;
        Some(timer)
    });
    let mut fds = vec![
        PollFd::new(&gated.pidfd, PollFlags::IN),
        PollFd::from_borrowed_fd(signals.as_fd(), PollFlags::IN),
    ];
    if let Some(timer) = &timer {
        fds.push(PollFd::new(timer, PollFlags::IN));
    }
    // Without a timer (no memory for one, say) a look each second is the next best.
    let second = timespec(Millis::secs(1));
    let limit = (wake.is_some() && timer.is_none()).then_some(&second);
    // EINTR or whatever else: the caller looks again.
    poll(&mut fds, limit).ok();
}

fn timespec(span: Millis) -> Timespec {
    Timespec {
        tv_sec: (span.0 / 1000).min(i64::MAX as u64).cast_signed(),
        tv_nsec: i64::try_from(span.0 % 1000).unwrap_or(0) * 1_000_000,
    }
}

/// Is the agent over? It stays a zombie, and so pins its number.
fn is_over(gated: &Gated) -> bool {
    let mut fds = [PollFd::new(&gated.pidfd, PollFlags::IN)];
    matches!(poll(&mut fds, Some(&Timespec::default())), Ok(1))
}

/// Who asked for a stop since the last call, if anybody did. SIGCHLD is only there to wake.
pub(super) fn read_stop(signals: &SignalFd) -> Option<StoppedBy> {
    let mut by = None;
    while let Ok(Some(signal)) = signals.read_signal() {
        let is_child = signal.ssi_signo.cast_signed() == Signal::SIGCHLD as i32;
        if !is_child && by.is_none() {
            by = Some(StoppedBy {
                uid: signal.ssi_uid,
                pid: Some(signal.ssi_pid.cast_signed()),
            });
        }
    }
    by
}

/// Waits for a signal, a child's end included, at most for `span`; then as [`read_stop`].
pub(super) fn pause(signals: &SignalFd, span: Millis) -> Option<StoppedBy> {
    let mut fds = [PollFd::from_borrowed_fd(signals.as_fd(), PollFlags::IN)];
    poll(&mut fds, Some(&timespec(span))).ok();
    read_stop(signals)
}
