//! What must always be true, told from the world itself and not from what decided: each law by the name under which it is broken.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use calypso_watch::core::layout::RunDir;
use calypso_watch::core::model::{
    Now, Outcome, ProcessId, QueueName, RunId, RunMark, RunSubject, TaskKey, TaskStatus,
};
use calypso_watch::core::policy::MAX_OURS;
use calypso_watch::core::record::{FailureClass, Verdict, VerdictRecord};
use calypso_watch::core::verdict::Meaning;
use calypso_watch::core::{Action, Decision, Hold, Run, Snapshot, StopCause, Subject, Tinytask};

use crate::processes::Kind;
use crate::tinytask::id;
use crate::world::World;

const HOUR: u64 = 3_600_000;

/// What the laws have to remember.
#[derive(Debug, Clone, Default)]
pub(crate) struct Laws {
    /// When somebody other than a run's own agent last changed a task.
    people: BTreeMap<i64, u64>,
    attempts: BTreeMap<(TaskKey, QueueName), u32>,
    runs: BTreeMap<TaskKey, u32>,
    ours: BTreeMap<RunSubject, VecDeque<u64>>,
    judged: BTreeSet<(RunId, u64)>,
    pid_file_removed: u64,
}

impl Laws {
    /// A person, or a hand-off, made a new stay of it.
    pub(crate) fn moved(&mut self, task: i64, now: u64) {
        self.people.insert(task, now);
        self.attempts.retain(|(key, _), _| key.id != id(task));
    }
    pub(crate) fn changed(&mut self, task: i64) {
        self.attempts.retain(|(key, _), _| key.id != id(task));
    }
    pub(crate) fn retried(&mut self, subject: RunSubject) {
        self.ours.remove(&subject);
        self.attempts
            .retain(|(key, _), _| RunSubject::Task(key.id) != subject);
        self.runs
            .retain(|key, _| RunSubject::Task(key.id) != subject);
    }
    pub(crate) fn pid_file_removed(&mut self, now: u64) {
        self.pid_file_removed = now;
    }
    /// What was not synced may be forgotten.
    pub(crate) fn power_cut(&mut self) {
        *self = Self {
            pid_file_removed: self.pid_file_removed,
            people: std::mem::take(&mut self.people),
            ..Self::default()
        };
    }
    pub(crate) fn clock_stepped(&mut self) {
        self.ours.clear();
    }
    pub(crate) fn database_replaced(&mut self) {
        self.attempts.clear();
        self.runs.clear();
        self.people.clear();
    }
}

impl World {
    // ── at an agent's first instruction ────────────────────────────────────────────────────────────────────────────────

    pub(crate) fn check_start(&mut self, agent: &ProcessId, dir: &RunDir) {
        if self.agents_of(dir.id.subject) > 0 {
            let how = format!("{dir:?}: {:?}", self.census());
            return self.fail("one live run for a task", how);
        }
        let at_work = |p: &&crate::processes::Process| {
            matches!(&p.kind, Kind::Agent(a) if !a.is_gated) && p.id != *agent
        };
        let all = self.processes.values().filter(at_work);
        let of_queue = all
            .clone()
            .filter(|p| p.of.as_ref().is_some_and(|of| of.queue == dir.queue))
            .count() as u32;
        let total = all.count() as u32;
        let recipe = self
            .disk
            .recipes
            .get(&dir.queue)
            .and_then(|r| r.as_ref().ok());
        let slots = self.policy.slots(&dir.queue, recipe);
        if recipe.is_some() && of_queue >= slots {
            let how = format!("{dir:?} starts beside {of_queue} of its queue, limit {slots}");
            return self.fail("never above a queue's limit", how);
        }
        if total >= self.policy.max_runs {
            let how = format!(
                "{dir:?} starts beside {total}, limit {}",
                self.policy.max_runs
            );
            return self.fail("never above max_runs", how);
        }
        // A shim may have been frozen for so long between its link and the gate.
        let is_removed = self.laws.pid_file_removed + 125_000 > self.mono;
        if !self.disk.is_own_pid_file(dir) && !is_removed {
            return self.fail(
                "a pid file before the first instruction",
                format!("{dir:?}"),
            );
        }
        self.check_touched(agent, dir);
    }

    /// The next hop waits for the end of every run that touched the task.
    fn check_touched(&mut self, agent: &ProcessId, dir: &RunDir) {
        let RunSubject::Task(task) = dir.id.subject else {
            return;
        };
        let task = task.number();
        let spec = self
            .disk
            .runs
            .get(dir)
            .and_then(|run| run.spec.now.as_ref());
        let looked = spec
            .map(|spec| self.booted + spec.times.look.boot.0)
            .unwrap_or(0);
        if self.is_back_where_it_was(task, dir) {
            return;
        }
        let people = self.laws.people.get(&task).copied().unwrap_or(0);
        let created = self.tiny.db.rows.get(&task).map(|row| row.created);
        let other = self.processes.values().find(|p| {
            let Kind::Agent(other) = &p.kind else {
                return false;
            };
            let touched = created.and_then(|created| other.touched.get(&(task, created)));
            p.id != *agent && touched.is_some_and(|at| *at < looked && *at >= people)
        });
        if let Some(other) = other {
            let how = format!(
                "{dir:?} starts while {:?} of {:?} lives",
                other.id, other.of
            );
            self.fail("the next hop waits for the run that touched the task", how);
        }
    }

    /// Known gap: a task that was moved away and back, to the queue of its last run and from the queue that it came from then, looks as if it
    /// had never been away.
    fn is_back_where_it_was(&self, task: i64, dir: &RunDir) -> bool {
        let history = self.disk.past(dir.id.subject);
        let last = history
            .verdicts
            .last()
            .filter(|last| last.queue == dir.queue);
        let was = last.and_then(|last| last.tasks.iter().find(|t| t.key.id.number() == task));
        let row = self.tiny.db.rows.get(&task);
        was.zip(row)
            .is_some_and(|(was, row)| was.previous_assigned_to.as_deref() == row.previous)
    }

    // ── at a decision ──────────────────────────────────────────────────────────────────────────────────────────────────

    pub(crate) fn check_decision(&mut self, seen: &Snapshot, decision: &Decision, now: &Now) {
        for action in &decision.actions {
            if let Action::Launch(launch) = action {
                let wrong = self.why_not(seen, launch.subject, &launch.queue);
                if let Some(wrong) = wrong {
                    let how = format!("{:?} in {}: {wrong}", launch.subject, launch.queue);
                    self.fail("files and tinytask agree on a launch", how);
                }
            }
        }
        for (subject, hold) in &decision.holds {
            let until = match hold {
                Hold::BackingOff { until, .. }
                | Hold::LostTooOften { until, .. }
                | Hold::FileBackingOff { until, .. }
                | Hold::Settling { until }
                | Hold::Environment { until, .. }
                | Hold::Provider { until, .. } => *until,
                _ => continue,
            };
            let is_woken = decision.wake_at.is_some_and(|at| at <= until);
            if until > now.wall && !is_woken {
                let how = format!("{subject:?} {hold:?}, wake at {:?}", decision.wake_at);
                self.fail("a wait that only time ends has a wake", how);
            }
        }
    }

    fn why_not(
        &self,
        seen: &Snapshot,
        subject: RunSubject,
        queue: &QueueName,
    ) -> Option<&'static str> {
        let is_live = |run: &Run| {
            run.dir.id.subject == subject
                && run.verdict.is_none()
                && run.meaning() != Meaning::Litter
        };
        if seen.runs.iter().any(is_live) {
            return Some("a run of it is not over");
        }
        if !matches!(seen.tinytask, Tinytask::Fresh { .. }) {
            return Some("tinytask does not say so");
        }
        if let Some(stranger) = seen.strangers.get(&subject) {
            let marks = self.disk.marks.get(&subject);
            let is_released = matches!(&stranger.what, calypso_watch::core::StrangerKind::Alive { process, .. }
                if marks.is_some_and(|marks| marks.released.contains(process)));
            if !is_released {
                return Some("somebody else's pid file is there");
            }
        }
        if !matches!(seen.recipes.get(queue), Some(Ok(_))) {
            return Some("it has no recipe");
        }
        let RunSubject::Task(task) = subject else {
            return None;
        };
        let Some(task) = seen.tasks.get(&task) else {
            return Some("tinytask did not show it");
        };
        if task.status != TaskStatus::Idle || task.is_blocked || task.is_archived {
            return Some("it is not to be run");
        }
        if task.assigned_to.as_deref() != Some(queue.as_str()) {
            return Some("it is not in that queue");
        }
        (!seen.folders.contains_key(&task.id)).then_some("it has no folder")
    }

    // ── when nothing is left to do ─────────────────────────────────────────────────────────────────────────────────────

    pub(crate) fn check_nothing_left(&mut self, again: &Decision) {
        if let Some(action) = again.actions.first() {
            self.fail(
                "deciding again after acting adds nothing",
                format!("{action:?}"),
            );
        }
    }

    /// A daemon that asks only the queues that something happened to overlooks nothing that it was told of.
    pub(crate) fn check_no_wake_lost(&mut self, whole: &Decision) {
        let is_launch = |action: &&Action| matches!(action, Action::Launch(_));
        if let Some(launch) = whole.actions.iter().find(is_launch) {
            self.fail("no wake is lost by asking less", format!("{launch:?}"));
        }
    }

    /// Everything that waits says why.
    pub(crate) fn check_holds(&mut self, seen: &Snapshot, decision: &Decision, _now: &Now) {
        let has = |subject: Subject| decision.holds.iter().any(|(who, _)| *who == subject);
        if has(Subject::Everything) {
            return;
        }
        let launched = |subject: RunSubject| {
            let is_it =
                |action: &Action| matches!(action, Action::Launch(l) if l.subject == subject);
            decision.actions.iter().any(is_it)
        };
        let task = seen
            .tasks
            .keys()
            .find(|task| !has(Subject::Task(**task)) && !launched(RunSubject::Task(**task)));
        if let Some(task) = task {
            let how = format!("task {task}: {:?}", seen.tasks.get(task));
            return self.fail("every wait has a hold", how);
        }
        let file = seen.inbound.iter().find(|entry| {
            !has(Subject::Inbound(entry.key.clone())) && !launched(RunSubject::Inbound)
        });
        if let Some(file) = file {
            self.fail("every wait has a hold", format!("{file:?}"));
        }
    }

    // ── at a deed ──────────────────────────────────────────────────────────────────────────────────────────────────────

    pub(crate) fn check_cleared(&mut self, subject: RunSubject) {
        let Some(file) = self.disk.pid_files.get(&subject) else {
            return;
        };
        let Some(process) = file.pid.and_then(|pid| self.processes.get(&pid)) else {
            return;
        };
        let released = self.disk.marks.get(&subject);
        let is_released = released.is_some_and(|marks| marks.released.contains(&process.id));
        let age = self.tick().saturating_sub(process.id.start) * 10;
        if !is_released && age > 60_000 {
            let how = format!("{subject:?}: {:?} {}", process.id, process.comm);
            self.fail("a live stranger's pid file stays", how);
        }
    }

    pub(crate) fn check_stop(&mut self, dir: &RunDir, agent: &ProcessId, cause: StopCause) {
        let spec = self
            .disk
            .runs
            .get(dir)
            .and_then(|run| run.spec.now.as_ref());
        let limit = spec.map_or(0, |spec| spec.limits.time.0);
        let process = self.processes.get(&agent.pid).filter(|p| p.id == *agent);
        let began = process.map_or(0, |p| self.booted + p.id.start * 10);
        if cause == StopCause::TimeLimit && self.mono + 20 < began + limit {
            let how = format!("{dir:?} after {} ms of {limit}", self.mono - began);
            self.fail("no run is ended before its time", how);
        }
    }

    pub(crate) fn check_comments(&mut self, task: i64, mark: &RunMark) {
        let row = self.tiny.db.rows.get(&task);
        let said = row.map_or(0, |row| {
            let is_it = |(_, by): &&(i64, Option<RunMark>)| by.as_ref() == Some(mark);
            row.comments.iter().filter(is_it).count()
        });
        if said > 1 {
            let how = format!("task {task}, run {mark}: {said} times");
            self.fail("nothing is said twice", how);
        }
    }

    pub(crate) fn check_verdict(&mut self, verdict: &VerdictRecord) {
        let subject = verdict.run.subject;
        let is_alive = self.processes.values().any(|p| {
            matches!(&p.kind, Kind::Agent(_))
                && p.of.as_ref().is_some_and(|of| of.id == verdict.run)
        });
        if is_alive {
            return self.fail("no verdict before the end", format!("{}", verdict.run));
        }
        if !self.laws.judged.insert((verdict.run, self.booted)) {
            return;
        }
        self.leave_to_strangers(&verdict.queue);
        let class = verdict.failure.as_ref().map(|failure| failure.class);
        if class == Some(FailureClass::Ours) {
            let now = self.mono;
            let ours = self.laws.ours.entry(subject).or_default();
            ours.retain(|at| now - at < HOUR - 60_000);
            ours.push_back(now);
            if ours.len() > MAX_OURS as usize {
                let how = format!("{} times within an hour", ours.len());
                return self.fail(
                    "few runs an hour fail through our fault",
                    format!("{subject:?}: {how}"),
                );
            }
        }
        for task in &verdict.tasks {
            // An outage's probes are bounded by their hold.
            let is_outage = matches!(
                class,
                Some(FailureClass::Provider | FailureClass::Environment)
            );
            // Agents that were started for other tasks take what sign-up hands out, which nobody can keep from them: each of those is
            // counted where it was started.
            let is_its_own = subject == RunSubject::Task(task.key.id);
            if is_its_own && !is_outage && !matches!(verdict.outcome, Outcome::NotLaunched(_)) {
                let runs = self.laws.runs.entry(task.key).or_default();
                *runs += 1;
                let (runs, limit) = (*runs, self.policy.max_runs_per_task + self.policy.max_runs);
                if runs > limit {
                    let how = format!("task {}: {runs} runs", task.key.id);
                    return self.fail("runs of a task are bounded", how);
                }
            }
            let stuck = matches!(task.verdict, Verdict::NoProgress | Verdict::LeftWorking);
            let place = (task.key, verdict.queue.clone());
            if !stuck {
                self.laws.attempts.remove(&place);
            } else if class == Some(FailureClass::Task) && !verdict.late {
                let attempts = self.laws.attempts.entry(place).or_default();
                *attempts += 1;
                let (attempts, limit) =
                    (*attempts, self.policy.max_attempts + self.policy.max_runs);
                if attempts > limit {
                    let how = format!("task {}: {attempts} attempts", task.key.id);
                    return self.fail("attempts of a stay are bounded", how);
                }
            }
        }
    }

    /// What an agent of ours took beside somebody else's pid file is left to whoever wrote that: nobody can tell whose work it is.
    fn leave_to_strangers(&mut self, queue: &QueueName) {
        let live = self.disk.live.iter();
        let ours: BTreeSet<u64> = live
            .filter_map(|dir| self.disk.runs.get(dir)?.pid)
            .collect();
        for (subject, file) in &self.disk.pid_files {
            let is_dead = file
                .pid
                .is_some_and(|pid| !self.processes.contains_key(&pid));
            let row = subject
                .task()
                .and_then(|task| self.tiny.db.rows.get_mut(&task.number()));
            if let Some(row) = row
                && !is_dead
                && !ours.contains(&file.inode)
                && row.assigned == Some(queue.as_str())
            {
                row.worked_by_ours = false;
            }
        }
    }

    // ── when the faults are over ───────────────────────────────────────────────────────────────────────────────────────

    /// What is neither done nor held for a reason that a person has to mend; `None`: nothing.
    pub(crate) fn unsettled(&mut self) -> Option<String> {
        if self.daemon.is_none() {
            return Some("no daemon yet".into());
        }
        self.is_frozen = true;
        let kept = self.memory().clone();
        let now = self.now();
        let seen = self.look(&calypso_watch::look::Scope::Everything, &now);
        *self.memory() = kept;
        self.is_frozen = false;
        let Ok(seen) = seen else {
            return Some("no look".into());
        };
        let decision = (self.decide)(&seen, &self.policy, &now);
        for (subject, hold) in &decision.holds {
            let is_lasting = match hold {
                Hold::Parked { .. }
                | Hold::TooManyRuns { .. }
                | Hold::StoppedByPerson { .. }
                | Hold::NotAssigned { .. }
                | Hold::NoRecipe
                | Hold::NoFolder
                | Hold::BlockedBy { .. }
                | Hold::OpenSubtasks { .. }
                | Hold::NoTaskId { .. }
                | Hold::FileParked { .. }
                | Hold::DispatchedNotMoved { .. }
                | Hold::OddFile { .. } => true,
                Hold::WorkingElsewhere => self.is_theirs(subject),
                _ => false,
            };
            if !is_lasting {
                return Some(format!("{subject:?}: {hold:?}"));
            }
        }
        decision.actions.first().map(|action| format!("{action:?}"))
    }

    /// Is it a person, and not an agent of ours, that left it working?
    fn is_theirs(&self, subject: &Subject) -> bool {
        let Subject::Task(task) = subject else {
            return false;
        };
        let row = self.tiny.db.rows.get(&task.number());
        row.is_some_and(|row| {
            !row.worked_by_ours
                || self.tiny.db.open_children(row.id) > 0
                || !Self::has_recipe(row.assigned)
        })
    }
}
