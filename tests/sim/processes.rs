//! Processes, their numbers, their deaths, and the shim: S2 to X4 of the protocol, a step at a time.

use std::collections::{BTreeMap, BTreeSet};

use calypso_watch::core::layout::RunDir;
use calypso_watch::core::model::{Leftover, Moment, Outcome, ProcessId, RunState, StoppedBy};
use calypso_watch::core::record::{FORMAT, StateRecord};

use crate::agent::Agent;
use crate::disk::{Holder, PidFile};
use crate::planted;
use crate::world::{Item, Wake, World};

/// Numbers are few, so that they come again soon.
const PIDS: std::ops::Range<i32> = 100..500;
/// As `shim::SPEC_AGE`.
const SPEC_AGE: u64 = 10_000;

#[derive(Debug, Clone)]
pub(crate) struct Process {
    pub(crate) id: ProcessId,
    pub(crate) kind: Kind,
    /// The run it is of, whatever the records say.
    pub(crate) of: Option<RunDir>,
    pub(crate) comm: String,
    pub(crate) session: i32,
    /// Carries the run's token in its environment.
    pub(crate) has_token: bool,
    pub(crate) holds_agent_lock: bool,
    /// Dies of KILL only.
    pub(crate) is_stubborn: bool,
    /// Does not even die of KILL: hangs in the kernel.
    pub(crate) is_stuck: bool,
}

#[derive(Debug, Clone)]
pub(crate) enum Kind {
    Shim(Shim),
    Agent(Box<Agent>),
    Child,
    Outsider,
}

#[derive(Debug, Clone)]
pub(crate) struct Shim {
    pub(crate) step: Step,
    pub(crate) frozen_until: u64,
    pub(crate) stop: bool,
    /// Why it is ending its agent.
    cause: Option<Outcome>,
    agent: Option<ProcessId>,
    /// How the agent ended.
    end: Option<Outcome>,
    leftovers: Vec<Leftover>,
    limit: u64,
    tries: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Step {
    S2,
    S3,
    S4,
    S5,
    S6,
    S7,
    Wait,
    X1,
    X2,
    X3,
    X4,
}

pub(crate) const STEPS: [Step; 11] = [
    Step::S2,
    Step::S3,
    Step::S4,
    Step::S5,
    Step::S6,
    Step::S7,
    Step::Wait,
    Step::X1,
    Step::X2,
    Step::X3,
    Step::X4,
];

pub(crate) const SHIM_DEATHS: [&str; 11] = [
    "shim died before S2",
    "shim died before S3",
    "shim died before S4",
    "shim died before S5",
    "shim died before S6",
    "shim died before S7",
    "shim died while its agent worked",
    "shim died before X1",
    "shim died before X2",
    "shim died before X3",
    "shim died before X4",
];

impl World {
    /// A number that nobody has, as process, session, or group.
    pub(crate) fn spawn(&mut self, kind: Kind, of: Option<RunDir>, comm: &str) -> ProcessId {
        let taken: BTreeSet<i32> = self
            .processes
            .values()
            .flat_map(|process| [process.id.pid, process.session])
            .collect();
        let mut tick = self.tick();
        for tries in 1.. {
            if tries % PIDS.len() == 0 {
                // All were given out in this very tick: fork takes its time.
                self.mono += 10;
                tick = self.tick();
            }
            let pid = self.next_pid;
            self.next_pid += 1;
            if self.next_pid >= PIDS.end {
                self.next_pid = PIDS.start;
                self.counts.hit("process numbers went round");
            }
            if taken.contains(&pid) || self.ticks.get(&pid) == Some(&tick) {
                continue;
            }
            if self.ticks.insert(pid, tick).is_some() {
                self.counts.hit("process number used again");
            }
            let id = ProcessId { pid, start: tick };
            let process = Process {
                id: id.clone(),
                kind,
                of,
                comm: comm.to_owned(),
                session: pid,
                has_token: false,
                holds_agent_lock: false,
                is_stubborn: false,
                is_stuck: false,
            };
            self.processes.insert(pid, process);
            return id;
        }
        unreachable!("a later tick has numbers")
    }

    fn found(&mut self, process: &ProcessId) -> Option<&mut Process> {
        self.processes
            .get_mut(&process.pid)
            .filter(|found| found.id == *process)
    }

    /// A signal of ours, through a pidfd whose process was compared: hits only that process, or nobody.
    pub(crate) fn signal(&mut self, target: &ProcessId, run: &RunDir, is_kill: bool) {
        self.counts.hit("signal");
        let Some(found) = self.found(target) else {
            return;
        };
        if found.of.as_ref() != Some(run) {
            let how = format!(
                "{run:?} ends {target:?} ({}), of {:?}",
                found.comm, found.of
            );
            return self.fail("no signal to a stranger", how);
        }
        if let Kind::Shim(shim) = &mut found.kind {
            if is_kill {
                return self.die(target, Outcome::Signaled(9));
            }
            shim.stop = true;
            self.after(1, Item::Shim(target.clone()));
            return;
        }
        if found.is_stuck || (found.is_stubborn && !is_kill) {
            return;
        }
        let delay = self.chance.seldom(8, 3_000, 50);
        let signal = if is_kill { 9 } else { 15 };
        self.after(delay, Item::Dies(target.clone(), Outcome::Signaled(signal)));
    }

    /// The process is over. A pidfd tells the daemon, and a shim of its agent.
    pub(crate) fn die(&mut self, process: &ProcessId, outcome: Outcome) {
        if self.found(process).is_none() {
            return;
        }
        let Some(gone) = self.processes.remove(&process.pid) else {
            return;
        };
        match gone.kind {
            Kind::Shim(shim) => {
                if let Some(dir) = &gone.of {
                    self.disk.run(dir).shim_lock = None;
                }
                // The gated child reads end-of-file.
                if shim.step <= Step::S7
                    && let Some(agent) = &shim.agent
                {
                    self.die(agent, Outcome::Exited(1));
                }
            }
            Kind::Agent(_) => {
                if let Some(shim) = self.shim_of(gone.of.as_ref()) {
                    if let Some(Kind::Shim(of)) = self.found(&shim).map(|p| &mut p.kind) {
                        of.end = Some(outcome);
                    }
                    self.after(1, Item::Shim(shim));
                }
            }
            Kind::Child | Kind::Outsider => {}
        }
        // pidfds are not lost, whatever happens to inotify.
        if self.daemon.is_some() {
            self.after(1, Item::Ring(Wake::Process));
        }
    }

    pub(crate) fn shim_of(&self, dir: Option<&RunDir>) -> Option<ProcessId> {
        let dir = dir?;
        let is_its = |process: &&Process| {
            matches!(process.kind, Kind::Shim(_)) && process.of.as_ref() == Some(dir)
        };
        self.processes.values().find(is_its).map(|p| p.id.clone())
    }

    // ── the shim ───────────────────────────────────────────────────────────────────────────────────────────────────────

    /// S1 is over.
    pub(crate) fn start_shim(&mut self, dir: &RunDir) {
        let shim = Shim {
            step: Step::S2,
            frozen_until: 0,
            stop: false,
            cause: None,
            agent: None,
            end: None,
            leftovers: Vec::new(),
            limit: u64::MAX,
            tries: 0,
        };
        let id = self.spawn(Kind::Shim(shim), Some(dir.clone()), "calypso-watch");
        self.disk.run(dir).shim_lock = Some(Holder::Shim(id.clone()));
        let delay = self.chance.seldom(40, 15_000, 3);
        self.after(delay, Item::Shim(id));
    }

    /// One step; what comes next is put on the agenda.
    pub(crate) fn shim_step(&mut self, id: &ProcessId) {
        let Some(Process {
            kind: Kind::Shim(shim),
            of: Some(dir),
            ..
        }) = self.processes.get(&id.pid).filter(|p| p.id == *id)
        else {
            return;
        };
        let (mut shim, dir) = (shim.clone(), dir.clone());
        if let Some((step, is_death)) = self.trap
            && STEPS[usize::from(step)] == shim.step
        {
            self.trap = None;
            if is_death {
                self.counts.hit(SHIM_DEATHS[usize::from(step)]);
                return self.die(id, Outcome::Signaled(9));
            }
            self.counts.hit("shim frozen");
            shim.frozen_until = self.mono + 1_000 + self.chance.below(120_000);
        }
        if shim.frozen_until > self.mono {
            self.at(shim.frozen_until, Item::Shim(id.clone()));
            return self.keep(id, shim);
        }
        let next = self.take_step(id, &mut shim, &dir);
        match next {
            Some(delay) => {
                self.keep(id, shim);
                self.after(delay, Item::Shim(id.clone()));
            }
            None if shim.step == Step::Wait => self.keep(id, shim),
            None => {
                self.keep(id, shim);
                self.die(id, Outcome::Exited(0));
            }
        }
    }

    fn keep(&mut self, id: &ProcessId, shim: Shim) {
        if let Some(found) = self.found(id) {
            found.kind = Kind::Shim(shim);
        }
    }

    fn write_state(&mut self, dir: &RunDir, id: &ProcessId, shim: &Shim, state: RunState) -> bool {
        if self.mono < self.disk.full_until {
            self.counts.hit("write on a full disk");
            return false;
        }
        let now = Moment::from(&self.now());
        let is_ended = matches!(state, RunState::Ended { .. });
        let is_running = matches!(state, RunState::Running { .. });
        let mono = self.mono;
        let run = self.disk.run(dir);
        let Some(spec) = &run.spec.now else {
            return false;
        };
        let before = run.state.now.clone().unwrap_or(StateRecord {
            format: FORMAT,
            token: spec.token.clone(),
            state: RunState::Starting,
            shim: id.clone(),
            boot_id: now.boot_id.clone(),
            started: now.clone(),
            running: None,
            ended: None,
            usage: None,
        });
        let record = StateRecord {
            state,
            running: before.running.clone().or(is_running.then(|| now.clone())),
            ended: is_ended.then_some(now),
            ..before
        };
        run.state.write(record, mono, is_ended);
        debug_assert!(shim.tries <= 60);
        true
    }

    /// The delay to the next step; `None`: the shim waits for something, or is over.
    fn take_step(&mut self, id: &ProcessId, shim: &mut Shim, dir: &RunDir) -> Option<u64> {
        let short = self.chance.seldom(100, 2_000, 1);
        match shim.step {
            Step::S2 => {
                let now = self.now();
                let run = self.disk.run(dir);
                let spec = run.spec.now.clone()?;
                if std::mem::replace(&mut run.has_agent_lock, true) {
                    return None;
                }
                let written = &spec.times.written;
                if written.boot_id != now.boot_id || written.age(&now).0 > SPEC_AGE {
                    self.counts.hit("spec too old");
                    return Some(self.end_with(shim, "its spec is too old"));
                }
                shim.step = Step::S3;
            }
            Step::S3 => {
                if !self.write_state(dir, id, shim, RunState::Starting) {
                    return None;
                }
                shim.step = Step::S4;
            }
            Step::S4 => {
                let agent = self.spawn_agent(dir, id)?;
                if self.plant == planted::GATE_LEFT_OPEN {
                    self.open_gate(&agent, dir);
                }
                shim.agent = Some(agent);
                shim.step = Step::S5;
            }
            Step::S5 => {
                let agent = shim.agent.clone()?;
                if self.plant == planted::SHIM_FAILS {
                    self.die(&agent, Outcome::Signaled(9));
                    return Some(self.end_with(shim, "a planted bug"));
                }
                let subject = dir.id.subject;
                let is_taken = self.disk.pid_files.contains_key(&subject);
                if is_taken && self.plant != planted::SHIM_TAKES_ANY_TASK {
                    self.counts.hit("pid file was there");
                    self.die(&agent, Outcome::Signaled(9));
                    return Some(self.end_with(shim, "the pid file exists: somebody has the task"));
                }
                let (inode, modified, linked) = (self.disk.inode(), self.wall(), self.mono);
                self.disk.run(dir).pid = Some(inode);
                let file = PidFile {
                    inode,
                    pid: Some(agent.pid),
                    modified,
                    linked,
                };
                self.disk.pid_files.insert(subject, file);
                self.ring(Wake::Running);
                shim.step = Step::S6;
            }
            Step::S6 => {
                let agent = shim.agent.clone()?;
                let running = RunState::Running {
                    agent: agent.clone(),
                };
                if !self.is_alive(&agent) {
                    return Some(self.end_with(shim, "the agent died at its gate"));
                }
                if !self.write_state(dir, id, shim, running) {
                    self.die(&agent, Outcome::Signaled(9));
                    return Some(self.end_with(shim, "cannot record that it runs"));
                }
                if shim.stop {
                    self.die(&agent, Outcome::Signaled(9));
                    shim.end = Some(stopped());
                    shim.step = Step::X2;
                } else {
                    shim.step = Step::S7;
                }
            }
            Step::S7 => {
                let agent = shim.agent.clone()?;
                let limit = self.disk.run(dir).spec.now.as_ref()?.limits.time.0;
                shim.limit = self.mono + limit;
                shim.step = Step::Wait;
                self.at(shim.limit, Item::Shim(id.clone()));
                self.open_gate(&agent, dir);
                return None;
            }
            Step::Wait => return self.wait_step(id, shim, dir),
            Step::X1 => {
                let spec = self.disk.run(dir).spec.now.clone()?;
                let children = self.children_of(dir);
                if spec.limits.sweep && !children.is_empty() && shim.tries < 6 {
                    shim.tries += 1;
                    for child in children {
                        self.signal(&child, dir, shim.tries > 2);
                    }
                    return Some(1_000);
                }
                if spec.limits.sweep {
                    shim.leftovers = children
                        .iter()
                        .map(|child| Leftover {
                            process: child.clone(),
                            comm: String::new(),
                        })
                        .collect();
                }
                shim.tries = 0;
                shim.step = Step::X2;
            }
            Step::X2 => {
                let outcome = shim.cause.clone().or(shim.end.clone());
                let ended = RunState::Ended {
                    outcome: outcome.unwrap_or(Outcome::Lost),
                    leftovers: shim.leftovers.clone(),
                };
                if !self.write_state(dir, id, shim, ended) && shim.tries < 60 {
                    shim.tries += 1;
                    return Some(1_000);
                }
                shim.step = Step::X3;
            }
            Step::X3 => {
                let mono = self.mono;
                if self.disk.clear_pid_file(dir, mono) {
                    self.ring(Wake::Running);
                }
                shim.step = Step::X4;
            }
            Step::X4 => return None,
        }
        Some(short)
    }

    fn end_with(&mut self, shim: &mut Shim, why: &str) -> u64 {
        shim.end = Some(Outcome::NotLaunched(why.to_owned()));
        shim.step = Step::X2;
        1
    }

    /// The agent's end, a stop, or the time limit; whichever came first is why.
    fn wait_step(&mut self, id: &ProcessId, shim: &mut Shim, dir: &RunDir) -> Option<u64> {
        let agent = shim.agent.clone()?;
        if !self.is_alive(&agent) {
            shim.step = Step::X1;
            shim.tries = 0;
            return Some(0);
        }
        let cause = if shim.stop {
            Some(stopped())
        } else {
            (self.mono >= shim.limit).then_some(Outcome::TimedOut)
        };
        match (&shim.cause, cause) {
            (None, Some(cause)) => {
                self.counts.hit(if cause == Outcome::TimedOut {
                    "time limit"
                } else {
                    "stopped by its shim"
                });
                shim.cause = Some(cause);
                self.signal(&agent, dir, false);
                let grace = self.disk.run(dir).spec.now.as_ref()?.limits.grace.0;
                self.after(grace + 2_000, Item::Shim(id.clone()));
                shim.tries = 1;
            }
            (Some(_), _) if shim.tries == 1 && self.mono >= shim.limit.min(self.mono) => {
                self.signal(&agent, dir, true);
            }
            _ => {}
        }
        None
    }

    fn children_of(&self, dir: &RunDir) -> Vec<ProcessId> {
        let is_child = |process: &&Process| {
            matches!(process.kind, Kind::Child) && process.of.as_ref() == Some(dir)
        };
        self.processes
            .values()
            .filter(is_child)
            .map(|process| process.id.clone())
            .collect()
    }

    /// Which processes are whose, for messages.
    pub(crate) fn census(&self) -> BTreeMap<i32, String> {
        self.processes
            .values()
            .map(|p| (p.id.pid, format!("{} {:?} of {:?}", p.comm, p.id, p.of)))
            .collect()
    }
}

fn stopped() -> Outcome {
    Outcome::Stopped(StoppedBy { uid: 0, pid: None })
}
