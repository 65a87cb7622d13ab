//! Whom a strike hits, and how it is made sure that it did.

use std::sync::atomic::Ordering;
use std::time::Duration;

use super::Round;
use crate::core::model::ProcessId;
use crate::edge::process::{Pidfd, Signal};
use crate::selftest::world::{Error, within};

/// A daemon that does not get to its job within this has a reason to be looked at.
const JOB_LIMIT: Duration = Duration::from_secs(60);
/// A process that was sent SIGKILL and does not die within this never will.
const DEATH_LIMIT: Duration = Duration::from_secs(30);

/// Whom a strike is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Victim {
    Daemon,
    Shim,
    DaemonAndShim,
    Agent,
    ShimAndAgent,
    Tinytask,
    /// Stopped for a while, sometimes killed then.
    Pause,
}

/// As often as they stand here.
const VICTIMS: [Victim; 24] = {
    use Victim::{Agent, Daemon, DaemonAndShim, Pause, Shim, ShimAndAgent, Tinytask};
    [
        Daemon,
        Daemon,
        Daemon,
        Daemon,
        Daemon,
        Daemon,
        Daemon,
        Shim,
        Shim,
        Shim,
        Shim,
        Shim,
        Agent,
        Agent,
        Agent,
        Agent,
        Agent,
        DaemonAndShim,
        DaemonAndShim,
        DaemonAndShim,
        ShimAndAgent,
        ShimAndAgent,
        Tinytask,
        Pause,
    ]
};

impl Round<'_> {
    pub(super) fn strike(&mut self) -> Result<(), Error> {
        let victim = *self.dice.choose(&VICTIMS).unwrap_or(&Victim::Daemon);
        // Mostly at once, sometimes after a while: starts, recoveries and quiet work are all to be hit.
        let wait = match self.dice.below(4) {
            0 => 0,
            1 => self.dice.below(4_000),
            2 => self.dice.below(20_000),
            _ => self.dice.below(60_000),
        };
        std::thread::sleep(Duration::from_micros(wait));
        match victim {
            Victim::Daemon => self.kill_daemon(),
            Victim::Tinytask => {
                if let Some(server) = self.world.tinytask() {
                    self.kill("tinytask", &server);
                }
            }
            Victim::Pause => self.pause(),
            Victim::Shim | Victim::Agent | Victim::DaemonAndShim | Victim::ShimAndAgent => {
                let mut run = None;
                // Some patience: one may be about to start, on a slow machine late.
                within(Duration::from_secs(3), || {
                    let live = self.world.live();
                    run = self.dice.choose(&live).cloned();
                    run.is_some()
                });
                let Some((shim, agent)) = run else {
                    self.kill_daemon();
                    return Ok(());
                };
                let shim_first = self.dice.one_in(2);
                match victim {
                    Victim::Shim => {
                        self.kill("shim", &shim);
                    }
                    Victim::DaemonAndShim if shim_first => {
                        self.kill("shim", &shim);
                        self.kill_daemon();
                    }
                    Victim::DaemonAndShim => {
                        self.kill_daemon();
                        self.kill("shim", &shim);
                    }
                    Victim::ShimAndAgent if shim_first => {
                        self.kill("shim", &shim);
                        self.kill_agent(agent);
                    }
                    _ => {
                        self.kill_agent(agent);
                        if victim == Victim::ShimAndAgent {
                            self.kill("shim", &shim);
                        }
                    }
                }
            }
        }
        Ok(())
    }

    fn kill_daemon(&mut self) {
        // It may just be starting: a death before its lock is too cheap to count.
        if self.world.is_watching()
            && let Some(daemon) = self.world.daemon()
        {
            self.kill("daemon", &daemon);
        }
    }

    fn kill_agent(&mut self, agent: Option<ProcessId>) {
        if let Some(agent) = agent
            && self.kill("agent", &agent)
        {
            self.dead_agents.push(agent);
        }
    }

    /// True when it was alive, and is dead now, by this.
    fn kill(&mut self, what: &'static str, process: &ProcessId) -> bool {
        let Ok(Some(pidfd)) = Pidfd::open_checked(process) else {
            return false;
        };
        if pidfd.is_over() {
            return false;
        }
        // Before it is sent: an agent may be looked for by then.
        self.killed.insert(process.clone());
        if pidfd.signal(Signal::KILL).is_err() {
            return false;
        }
        if !within(DEATH_LIMIT, || pidfd.is_over()) {
            self.tally
                .findings
                .push(format!("{what} {} does not die", process.pid));
            return false;
        }
        *self.tally.deaths.entry(what).or_default() += 1;
        let deaths = self.shared.deaths.fetch_add(1, Ordering::Relaxed) + 1;
        (self.shared.progress)(deaths);
        true
    }

    /// Stops something for a while, as a debugger, a laptop's lid or a busy hypervisor does.
    fn pause(&mut self) {
        let live = self.world.live();
        let run = self.dice.choose(&live).cloned();
        let (what, process) = match (self.dice.below(4), run) {
            (0, Some((shim, _))) => ("shim", Some(shim)),
            (1, Some((_, Some(agent)))) => ("agent", Some(agent)),
            (2, _) => ("tinytask", self.world.tinytask()),
            _ => ("daemon", self.world.daemon()),
        };
        let Some(process) = process else { return };
        let Ok(Some(pidfd)) = Pidfd::open_checked(&process) else {
            return;
        };
        if pidfd.signal(Signal::STOP).is_err() {
            return;
        }
        std::thread::sleep(Duration::from_millis(self.dice.below(80)));
        if self.dice.one_in(2) {
            let is_dead = self.kill(what, &process);
            if is_dead && what == "agent" {
                self.dead_agents.push(process);
            }
        } else {
            pidfd.signal(Signal::CONT).ok();
            self.tally.pauses += 1;
        }
    }

    /// A dead daemon is started again, at once, as systemd would.
    pub(super) fn revive(&mut self) -> Result<(), Error> {
        if self.world.daemon().is_none() {
            let status = self.world.collect_daemon();
            use std::os::unix::process::ExitStatusExt as _;
            if let Some(status) = status
                && status.signal() != Some(9)
            {
                self.tally.exits += 1;
                self.tally
                    .findings
                    .push(format!("a daemon ended by itself: {status}"));
            }
            self.world.start_daemon()?;
        }
        // At its job before the next strike, and mostly with its first look behind it: else a storm on a slow machine would kill
        // nothing but beginners.
        let has_to_look = !self.dice.one_in(4);
        let mut has_ended = false;
        let is_there = within(JOB_LIMIT, || {
            let daemon = self.world.daemon();
            has_ended = daemon.is_none();
            has_ended
                || (self.world.is_watching()
                    && (!has_to_look || self.world.has_looked(daemon.as_ref())))
        });
        if !is_there && !has_ended {
            self.tally.exits += 1;
            self.tally
                .findings
                .push("a daemon did not get to its job".to_owned());
        }
        Ok(())
    }
}
