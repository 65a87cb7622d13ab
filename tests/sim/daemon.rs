//! The daemon's loop, as `daemon::run` has it: timers, rings, rounds; and what it remembers between looks, which dies with it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use calypso_watch::core::attention::{Attention, News};
use calypso_watch::core::decide::carried_out;
use calypso_watch::core::history::Past;
use calypso_watch::core::model::{Moment, Now, ProcessId, RunId, RunSubject, TaskId};
use calypso_watch::core::record::{Known, VerdictRecord};
use calypso_watch::core::trust::Trust;
use calypso_watch::core::{Decision, Snapshot, Tinytask};
use calypso_watch::look::Scope;

use crate::planted::DEAF_TO_QUEUES;
use crate::world::{Killed, Wake, World};

const RESCAN: u64 = 60_000;
const TINYTASK: u64 = 30_000;
const TINYTASK_WATCHED: u64 = 300_000;
/// Rounds in a row that lead to nothing but more rounds: the daemon allows 200; nothing here comes near.
const MOST_ROUNDS: u32 = 60;

/// As `look::Memory`.
#[derive(Debug, Clone, Default)]
pub(crate) struct Memory {
    pub(crate) highest_task: i64,
    pub(crate) unreachable_since: Option<Moment>,
    pub(crate) last_unreachable: Option<Moment>,
    pub(crate) trust: Trust,
    pub(crate) in_hand: BTreeSet<RunId>,
    pub(crate) swept: BTreeMap<RunId, u32>,
    pub(crate) leftovers: BTreeMap<RunId, Vec<ProcessId>>,
    pub(crate) rechecked: BTreeSet<TaskId>,
    pub(crate) histories: BTreeMap<RunSubject, Past>,
    pub(crate) subjects: Option<BTreeSet<RunSubject>>,
    pub(crate) recent: Option<Vec<Arc<VerdictRecord>>>,
}

impl Memory {
    pub(crate) fn forget(&mut self, subject: RunSubject) {
        self.histories.remove(&subject);
        if let Some(subjects) = &mut self.subjects {
            subjects.insert(subject);
        }
    }

    pub(crate) fn add_verdict(&mut self, verdict: &VerdictRecord) {
        self.forget(verdict.run.subject);
        for task in &verdict.tasks {
            self.forget(RunSubject::Task(task.key.id));
        }
        if let Some(recent) = &mut self.recent {
            recent.push(Arc::new(verdict.clone()));
        }
    }
}

/// As `daemon::Acted`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Acted {
    Nothing,
    Something,
    Failed,
}

#[derive(Debug)]
pub(crate) struct Daemon {
    pub(crate) incarnation: u32,
    pub(crate) memory: Memory,
    rescan: u64,
    tinytask: u64,
    database: Vec<u64>,
    retry: Option<u64>,
    failures: u32,
    silences: u32,
    /// A wake calls for a look.
    rung: bool,
    pub(crate) attention: Attention,
    /// What was last read in tinytask's database: a digest of each queue, and the newest comment.
    pub(crate) hint: Option<Hint>,
    /// Something changed since the last whole look that no event told of.
    pub(crate) has_missed: bool,
    /// Programs came back since the last rescan, of which no event tells.
    pub(crate) has_missed_program: bool,
    /// Something seen since the last whole look calls for another one before anything is started.
    pub(crate) wants_everything: bool,
    /// Subjects whose launches fail in its own hands: until when they are left alone, after how many failures.
    pub(crate) failing: BTreeMap<RunSubject, (u64, u32)>,
    /// As it was last written down.
    known: Option<Known>,
    /// `status` says that tinytask is perhaps another server.
    pub(crate) doubts: bool,
    /// Stopped by a signal until then.
    pub(crate) asleep_until: u64,
    is_looking: bool,
    /// What came while it looked, and whether its database told of everything then.
    unheard: Vec<(Wake, bool)>,
}

pub(crate) type Hint = (BTreeMap<&'static str, u64>, i64);

impl Daemon {
    fn new(incarnation: u32, now: u64, known: Known) -> Self {
        let memory = Memory {
            trust: Trust::of(known),
            ..Memory::default()
        };
        Self {
            incarnation,
            memory,
            rescan: now + RESCAN,
            tinytask: now,
            database: Vec::new(),
            retry: None,
            failures: 0,
            silences: 0,
            rung: false,
            attention: Attention::default(),
            hint: None,
            has_missed: false,
            has_missed_program: false,
            wants_everything: true,
            failing: BTreeMap::new(),
            known: None,
            doubts: false,
            asleep_until: 0,
            is_looking: false,
            unheard: Vec::new(),
        }
    }

    /// As `daemon::Daemon::woken`: what comes during a look is heard after it.
    pub(crate) fn woken(&mut self, wake: Wake, is_told: bool, now: u64) {
        if self.is_looking {
            self.unheard.push((wake, is_told));
            return;
        }
        match wake {
            Wake::Everything => self.wants_everything = true,
            Wake::Process => self.attention.hear(News::Runs),
            Wake::Database if is_told => {
                // It is read more often than that; here what was written is visible at once.
                self.database = vec![now + 1, now + 250];
                self.rung |= self.attention.is_called_for();
                return;
            }
            Wake::Database => {
                self.database = vec![now + 30, now + 250];
                self.attention.hear(News::Anything);
            }
            _ if !is_told || wake == Wake::Control => self.attention.hear(News::Anything),
            Wake::Running => self.attention.hear(News::Runs),
            Wake::Task(task) => {
                self.attention.hear(News::Task(task));
                self.rung |= self.attention.is_called_for();
                return;
            }
            Wake::Inbound | Wake::Control => {}
        }
        self.rung = true;
    }

    pub(crate) fn is_done(&mut self, run: RunId, is_swept: bool) {
        self.memory.in_hand.remove(&run);
        if is_swept {
            *self.memory.swept.entry(run).or_default() += 1;
        }
        self.woken(Wake::Process, true, 0);
    }

    /// The look is over.
    fn listen(&mut self, now: u64) {
        self.is_looking = false;
        for (wake, is_told) in std::mem::take(&mut self.unheard) {
            self.woken(wake, is_told, now);
        }
    }

    /// When it looks next, if nothing happens.
    pub(crate) fn due(&self, world: &World) -> u64 {
        let due = if self.rung {
            world.mono
        } else {
            // tokio sleeps a span, reckoned when the look was over.
            let wake = self
                .attention
                .wake_at()
                .map(|at| (at.0 - world.wall_offset).max(0) as u64 + 1);
            [self.rescan, self.tinytask]
                .into_iter()
                .chain(self.database.iter().copied())
                .chain(self.retry)
                .chain(wake)
                .min()
                .unwrap_or(u64::MAX)
        };
        due.max(self.asleep_until).max(world.mono)
    }
}

impl World {
    pub(crate) fn start_daemon(&mut self) {
        if self.daemon.is_some() {
            return;
        }
        self.counts.hit("daemon started");
        self.incarnations += 1;
        let known = self.disk.known.now.clone().unwrap_or_default();
        let daemon = Daemon::new(self.incarnations, self.mono, known);
        self.daemon = Some(daemon);
    }

    /// A wake, and rounds until there is nothing left to do now.
    pub(crate) fn wake_daemon(&mut self) {
        if !self.is_called_for() {
            return;
        }
        if let Some(daemon) = &mut self.daemon {
            daemon.is_looking = true;
        }
        // The watcher may tell at any moment what the looker has to know; here it never does, and times tell.
        for rounds in 0.. {
            if self.broken.is_some() {
                return;
            }
            if rounds == MOST_ROUNDS {
                return self.fail(
                    "acting comes to an end",
                    format!("{rounds} rounds in a row"),
                );
            }
            let (before, looked) = (self.happened, self.mono);
            let daemon = self.daemon.as_mut().expect("it lives: it has just acted");
            let asked = daemon.attention.take();
            let scope = if std::mem::take(&mut daemon.wants_everything) {
                daemon.has_missed = false;
                Scope::Everything
            } else {
                Scope::Queues(asked)
            };
            let Ok((seen, decision, acted)) = self.round(&scope) else {
                return;
            };
            if acted != Acted::Something && self.record_known(&seen).is_err() {
                return;
            }
            self.set_timers(&scope, &seen, acted);
            if acted != Acted::Something {
                let mono = self.mono;
                if let Some(daemon) = &mut self.daemon {
                    daemon.listen(mono);
                }
                let is_due = decision.wake_at.is_some_and(|at| at <= self.wall());
                let is_still = acted == Acted::Nothing
                    && self.happened == before
                    && !self.is_left_alone_since(looked)
                    && self.tiny.loses == 0
                    && !is_due;
                if is_still || self.chance.one_in(8) {
                    self.check_quiet(is_still.then_some(&scope));
                }
                break;
            }
        }
        let rest = self.chance.below(3);
        self.pass(rest);
    }

    /// Was a subject left alone then that may be tried again by now?
    fn is_left_alone_since(&self, then: u64) -> bool {
        let failing = self
            .daemon
            .iter()
            .flat_map(|daemon| daemon.failing.values());
        failing.into_iter().any(|(until, _)| *until > then)
    }

    /// Whether the wake, or the timer that came, calls for a look; as `daemon::Daemon::timed`.
    fn is_called_for(&mut self) -> bool {
        let (mono, now, is_told) = (self.mono, self.wall(), self.is_told);
        let Some(daemon) = &mut self.daemon else {
            return false;
        };
        if std::mem::take(&mut daemon.rung) {
            return true;
        }
        if daemon.rescan <= mono {
            daemon.rescan = mono + RESCAN;
            daemon.has_missed_program = false;
            daemon.attention.hear(News::Machine);
            let folder = |task: TaskId| self.disk.folders.get(&task.number()).map(|(at, _)| *at);
            let changed = daemon.attention.folders();
            let changed: Vec<TaskId> = changed
                .filter(|(task, known)| folder(*task) != *known)
                .map(|(task, _)| task)
                .collect();
            for task in changed {
                daemon.attention.hear(News::Task(task));
            }
            return true;
        }
        if daemon.tinytask <= mono {
            daemon.wants_everything = true;
            return true;
        }
        let timers = daemon.database.len();
        daemon.database.retain(|at| *at > mono);
        if daemon.database.len() < timers {
            if is_told {
                return self.read_hint();
            }
            daemon.attention.hear(News::Anything);
            return true;
        }
        if daemon.retry.is_some_and(|at| at <= mono) {
            daemon.attention.hear(News::Anything);
        }
        daemon.attention.hear(News::Time(now));
        true
    }

    /// As `edge::tinytask::Hint::changes`.
    fn read_hint(&mut self) -> bool {
        let (queues, last_comment) = (self.tiny.db.digests(), self.tiny.db.last_comment());
        let is_deaf = self.plant == DEAF_TO_QUEUES;
        let Some(daemon) = &mut self.daemon else {
            return false;
        };
        match daemon.hint.take() {
            Some(_) if is_deaf => {}
            None => daemon.attention.hear(News::Anything),
            Some((before, last)) => {
                let names: BTreeSet<&str> = before.keys().chain(queues.keys()).copied().collect();
                for name in names.into_iter().filter(|n| before.get(n) != queues.get(n)) {
                    let queue = name.parse().expect("a queue's name");
                    daemon.attention.hear(News::Queue(queue));
                }
                for task in self.tiny.db.commented_after(last) {
                    daemon.attention.hear(News::Task(task));
                }
            }
        }
        daemon.hint = Some((queues, last_comment));
        daemon.attention.is_called_for()
    }

    /// What tinytask shows open, for the next daemon; then a person's word on it is taken down.
    fn record_known(&mut self, seen: &Snapshot) -> Result<(), Killed> {
        let (mono, is_full) = (self.mono, self.mono < self.disk.full_until);
        let Some(daemon) = &mut self.daemon else {
            return Err(Killed);
        };
        match &seen.tinytask {
            Tinytask::NotAsked => {}
            Tinytask::Suspicious { .. } => daemon.doubts = true,
            Tinytask::Fresh { .. } | Tinytask::Unreachable { .. } => daemon.doubts = false,
        }
        let known = daemon.memory.trust.known();
        if daemon.known.as_ref() != Some(&known) {
            if is_full {
                self.counts.hit("write on a full disk");
                return Ok(());
            }
            daemon.known = Some(known.clone());
            self.disk.known.write(known, mono, false);
            self.point("known tasks: written")?;
        }
        if seen.controls.trust_tinytask && matches!(seen.tinytask, Tinytask::Fresh { .. }) {
            self.disk.controls.trust_tinytask = false;
            self.point("known tasks: a person's word taken down")?;
        }
        Ok(())
    }

    fn set_timers(&mut self, scope: &Scope, seen: &Snapshot, acted: Acted) {
        let (now, is_told) = (self.mono, self.is_told);
        let Some(daemon) = &mut self.daemon else {
            return;
        };
        if *scope == Scope::Everything {
            daemon.tinytask = now + if is_told { TINYTASK_WATCHED } else { TINYTASK };
        }
        match &seen.tinytask {
            Tinytask::NotAsked => {}
            Tinytask::Fresh { .. } => daemon.silences = 0,
            Tinytask::Unreachable { .. } | Tinytask::Suspicious { .. } => {
                let wait = (1_000u64 << daemon.silences.min(10)).min(30_000);
                daemon.silences += 1;
                daemon.tinytask = daemon.tinytask.min(now + wait);
            }
        }
        match acted {
            Acted::Failed => {
                let wait = (500u64 << daemon.failures.min(10)).min(30_000);
                daemon.failures += 1;
                daemon.retry = Some(now + wait);
            }
            Acted::Nothing => {
                daemon.failures = 0;
                let untils = daemon.failing.values().map(|(until, _)| *until);
                daemon.retry = untils.filter(|until| *until > now).min();
            }
            Acted::Something => {}
        }
    }

    /// Look, decide, perform, once.
    fn round(&mut self, scope: &Scope) -> Result<(Snapshot, Decision, Acted), Killed> {
        self.counts.steps += 1;
        self.counts.hit(match scope {
            Scope::Everything => "look at everything",
            Scope::Queues(_) => "look",
        });
        let looked = self.now();
        let mut seen = self.look(scope, &looked)?;
        self.point("after the look")?;
        let (mut decision, mut acted) = self.settle(scope, &seen, &looked)?;
        let now = self.now();
        if acted == Acted::Something
            && self.has_asked(&seen)
            && carried_out(&mut seen, &decision, &now)
        {
            self.counts.hit("what follows, decided on the same look");
            if let Some(daemon) = &mut self.daemon {
                daemon.attention.take();
            }
            (decision, acted) = match self.settle(scope, &seen, &looked)? {
                (then, Acted::Nothing) => (then, Acted::Something),
                settled => settled,
            };
        }
        Ok((seen, decision, acted))
    }

    /// Decides and performs.
    fn settle(
        &mut self,
        scope: &Scope,
        seen: &Snapshot,
        looked: &Now,
    ) -> Result<(Decision, Acted), Killed> {
        let now = self.now();
        let decision = (self.decide)(seen, &self.policy, &now);
        self.tell(|world| {
            let meanings = &decision.meanings;
            let tasks = world.tiny.db.rows.values().filter(|row| row.is_open());
            let tasks = tasks
                .map(|row| format!("\n      {row:?}"))
                .collect::<String>();
            format!(
                "{scope:?} {:?} {meanings:?} {:?} wake {:?}{tasks}",
                seen.tinytask, decision.holds, decision.wake_at
            )
        });
        self.check_decision(seen, &decision, &now);
        if let Some(daemon) = &mut self.daemon {
            daemon.attention.looked(seen, &decision);
        }
        let acted = self.perform(seen, &decision, looked)?;
        if let Some(daemon) = &mut self.daemon {
            daemon.attention.acted(seen, &decision);
            if acted == Acted::Failed {
                daemon.attention.hear(News::Anything);
            }
        }
        Ok((decision, acted))
    }

    /// With nothing happening in between: looking and deciding again adds nothing, and every wait has a hold.
    fn check_quiet(&mut self, quiet: Option<&Scope>) {
        self.is_frozen = true;
        let now = self.now();
        let Some(kept) = self.daemon.as_mut() else {
            return;
        };
        let is_told_all = !kept.has_missed
            && !kept.has_missed_program
            && kept.database.is_empty()
            && !kept.rung
            && !kept.wants_everything
            && !kept.attention.is_called_for()
            && kept.attention.wake_at().is_none_or(|at| at > now.wall)
            && !kept.doubts;
        let is_told_all = is_told_all && quiet.is_some() && self.tiny.is_up && !self.has_news();
        let kept = self.memory().clone();
        // With the scope of the look that found nothing to do: one at some queues may try a parent whose parts lie in others, and is
        // told so by tinytask right before the launch.
        if let Some(scope) = quiet
            && let Ok(seen) = self.look(scope, &now)
        {
            let decision = (self.decide)(&seen, &self.policy, &now);
            self.check_nothing_left(&decision);
        }
        if let Ok(seen) = self.look(&Scope::Everything, &now) {
            let decision = (self.decide)(&seen, &self.policy, &now);
            self.check_holds(&seen, &decision, &now);
            if is_told_all {
                self.counts.hit("quiet, and everything told");
                self.check_no_wake_lost(&decision);
            }
        }
        *self.memory() = kept;
        self.is_frozen = false;
    }
}
