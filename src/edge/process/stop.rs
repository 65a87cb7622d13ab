//! Ending processes from the daemon: an orphan by the shim's own ladder, leftovers by TERM and KILL. Always bounded.

use std::io;
use std::time::Duration;

use tokio::time::Instant;

use super::{Pidfd, Signal, WatchedPidfd, stat};
use crate::core::model::{Leftover, Millis, ProcessId};

/// How long TERM has before KILL.
const TERM_TIME: Duration = Duration::from_secs(2);

/// How an orphan's end was brought about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StopEnd {
    /// It was over before the first signal.
    WasOver,
    /// It is over.
    Over,
    /// It outlived KILL: the kernel cannot end it now.
    Alive,
}

/// Ends an agent whose shim is dead or stopped, as the shim would: INT to it, `grace`, TERM to its group, two seconds, KILL.
/// What else the run left is for [`sweep`].
pub async fn stop_orphan(agent: &ProcessId, grace: Millis) -> io::Result<StopEnd> {
    let Some(pidfd) = Pidfd::open_checked(agent)? else {
        return Ok(StopEnd::WasOver);
    };
    let watch = pidfd.watch()?;
    watch.pidfd().signal(Signal::INT)?;
    if is_over_within(&watch, Duration::from_millis(grace.0)).await {
        return Ok(StopEnd::Over);
    }
    signal_group(agent, watch.pidfd(), Signal::TERM)?;
    if is_over_within(&watch, TERM_TIME).await {
        return Ok(StopEnd::Over);
    }
    signal_group(agent, watch.pidfd(), Signal::KILL)?;
    if is_over_within(&watch, TERM_TIME).await {
        return Ok(StopEnd::Over);
    }
    Ok(StopEnd::Alive)
}

/// Signals the agent, and its process group where it provably leads one: each member through a pidfd of its own, whose process
/// was seen in that group after the pidfd was opened, while the agent lived and thereby pinned the group's number.
fn signal_group(agent: &ProcessId, pidfd: &Pidfd, signal: Signal) -> io::Result<()> {
    let leads = matches!(stat(agent.pid), Ok(Some(found)) if found.id() == *agent && found.pgrp == agent.pid);
    if leads {
        for member in stat::all()? {
            if member.pgrp != agent.pid || member.pid == agent.pid || member.is_dead() {
                continue;
            }
            let Ok(Some(opened)) = Pidfd::open_checked(&member.id()) else {
                continue;
            };
            let is_member = matches!(stat(member.pid), Ok(Some(again)) if again.id() == member.id() && again.pgrp == agent.pid);
            if is_member && !pidfd.is_over() {
                opened.signal(signal).ok();
            }
        }
    }
    // Last, as its death would unpin the number.
    pidfd.signal(signal)
}

async fn is_over_within(watch: &WatchedPidfd, span: Duration) -> bool {
    tokio::time::timeout(span, watch.over()).await.is_ok() || watch.pidfd().is_over()
}

/// Ends leftovers: TERM, two seconds, KILL, until `limit` has passed. Returns those that live on, or could not be signalled.
/// Only these processes are touched; children they start meanwhile are for the next look.
pub async fn sweep(leftovers: &[Leftover], limit: Millis) -> Vec<Leftover> {
    let end = Instant::now() + Duration::from_millis(limit.0);
    let mut open = Vec::new();
    let mut alive = Vec::new();
    for leftover in leftovers {
        let watched = Pidfd::open_checked(&leftover.process)
            .and_then(|found| found.map(Pidfd::watch).transpose());
        match watched {
            Ok(Some(watch)) => open.push((leftover, watch)),
            Ok(None) => {}
            Err(_) => alive.push(leftover.clone()),
        }
    }
    for (signal, until) in [
        (Signal::TERM, (Instant::now() + TERM_TIME).min(end)),
        (Signal::KILL, end),
    ] {
        for (_, watch) in &open {
            watch.pidfd().signal(signal).ok();
        }
        let mut rest = Vec::new();
        for (leftover, watch) in open {
            if !is_over_within(&watch, until.saturating_duration_since(Instant::now())).await {
                rest.push((leftover, watch));
            }
        }
        open = rest;
    }
    alive.extend(open.into_iter().map(|(leftover, _)| leftover.clone()));
    alive
}
