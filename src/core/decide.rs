//! What to do now, and why the rest waits. One function for each kind of waiting thing.
//!
//! Nothing is started on the file system's word alone, nor on tinytask's alone: a launch needs a task that tinytask shows
//! runnable in this very look, a folder, a recipe, and no trace of a run that may still be alive.

use std::collections::{BTreeMap, BTreeSet};

use crate::core::history::{FileStanding, Standing};
use crate::core::model::{
    Detail, FileKey, Leftover, Millis, Moment, Now, Outcome, ProcessId, ProviderName, QueueName,
    Recipe, RunId, RunSubject, Task, TaskId, TaskKey, TaskStatus, Timestamp,
};
use crate::core::policy::{SHIM_OVERDUE, probe_backoff};
use crate::core::record::{FailureClass, Verdict, VerdictRecord};
use crate::core::verdict::{Case, Count, Meaning};
use crate::core::{
    Action, Decision, Hold, InboundEntry, InboundState, Launch, Mark, Policy, Run, Snapshot,
    StopCause, StrangerKind, Subject, Tinytask,
};

mod outage;

use outage::in_a_row;

/// What to do now. Calling it twice with the same arguments gives the same answer.
pub fn decide(seen: &Snapshot, policy: &Policy, now: &Now) -> Decision {
    let mut deciding = Deciding {
        seen,
        policy,
        now,
        meanings: seen.runs.iter().map(Run::meaning).collect(),
        out: Decision::default(),
    };
    deciding.marks();
    deciding.runs();
    deciding.strangers();
    let open = deciding.tinytask();
    let files = deciding.inbound();
    let tasks = deciding.tasks();
    if open {
        deciding.launches(files, tasks);
    }
    deciding.out.meanings = deciding.meanings;
    deciding.out
}

struct Deciding<'a> {
    seen: &'a Snapshot,
    policy: &'a Policy,
    now: &'a Now,
    meanings: Vec<Meaning>,
    out: Decision,
}

/// A task that only needs a slot.
struct Candidate<'a> {
    task: &'a Task,
    queue: QueueName,
    standing: Standing,
}

/// Inbound files that only need a slot: their number, the most attempts any of them had.
#[derive(Default)]
struct Requests {
    files: Vec<FileKey>,
    attempts: u32,
}

impl<'a> Deciding<'a> {
    fn hold(&mut self, subject: Subject, hold: Hold) {
        self.out.holds.push((subject, hold));
    }

    fn wake(&mut self, at: Timestamp) {
        self.out.wake_at = Some(self.out.wake_at.map_or(at, |earlier| earlier.min(at)));
    }

    /// The runs that are not over, with what they mean.
    fn live(&self) -> impl Iterator<Item = (&'a Run, Meaning)> + '_ {
        let unjudged =
            |run: &Run, meaning: Meaning| meaning != Meaning::Litter && run.verdict.is_none();
        self.seen
            .runs
            .iter()
            .zip(self.meanings.iter().copied())
            .filter(move |(run, meaning)| unjudged(run, *meaning))
    }

    // ── people's word ──────────────────────────────────────────────────────────────────────────────────────────────────

    fn marks(&mut self) {
        let controls = &self.seen.controls;
        for subject in &controls.retry {
            let after = self.seen.histories.get(subject).map_or(0, |h| h.last_run);
            self.out.actions.push(Action::RecordMark {
                subject: *subject,
                mark: Mark::Retry { after },
            });
        }
        for subject in &controls.release {
            let mut processes: Vec<_> = (self.live())
                .filter(|(run, meaning)| {
                    run.dir.id.subject == *subject
                        && matches!(meaning, Meaning::StillAlive | Meaning::OrphanLeftovers)
                })
                .filter_map(|(run, _)| run.observed.alive.as_ref())
                .flat_map(|alive| {
                    alive
                        .leftovers
                        .iter()
                        .chain(&alive.doubtful)
                        .map(|l| l.process.clone())
                })
                .collect();
            if let Some(StrangerKind::Alive { process, .. }) =
                self.seen.strangers.get(subject).map(|s| &s.what)
            {
                processes.push(process.clone());
            }
            self.out.actions.push(Action::RecordMark {
                subject: *subject,
                mark: Mark::Release { processes },
            });
        }
        for subject in &controls.stop {
            if !self.live().any(|(run, _)| run.dir.id.subject == *subject) {
                self.out
                    .actions
                    .push(Action::ClearStop { subject: *subject });
            }
        }
    }

    // ── runs ───────────────────────────────────────────────────────────────────────────────────────────────────────────

    fn runs(&mut self) {
        for index in 0..self.seen.runs.len() {
            let run = &self.seen.runs[index];
            if let Some(verdict) = &run.verdict {
                // Nothing is written to a tinytask that is away, or perhaps another.
                let is_away = matches!(
                    self.seen.tinytask,
                    Tinytask::Unreachable { .. } | Tinytask::Suspicious { .. }
                );
                if is_away && verdict.tasks.iter().any(|t| t.write.is_some()) {
                    let waits = Hold::VerdictWaits { run: run.dir.id };
                    self.hold(Subject::Run(run.dir.id), waits);
                    continue;
                }
                self.out.actions.push(Action::FinishVerdict {
                    run: run.dir.clone(),
                    verdict: Box::new(verdict.clone()),
                });
                continue;
            }
            match self.meanings[index] {
                Meaning::Litter => self.out.actions.push(Action::ClearLitter {
                    run: run.dir.clone(),
                }),
                Meaning::Starting | Meaning::Ending => {}
                Meaning::Running => self.limits(run, SHIM_OVERDUE.0),
                Meaning::Orphan => self.limits(run, 0),
                Meaning::SignalledAlive => {
                    self.limits(run, if run.observed.shim { SHIM_OVERDUE.0 } else { 0 });
                    self.still_alive(run);
                }
                Meaning::OrphanLeftovers if run.in_hand => self.still_alive(run),
                Meaning::OrphanLeftovers if !run.swept => {
                    let leftovers = run
                        .observed
                        .alive
                        .as_ref()
                        .map(|a| a.leftovers.clone())
                        .unwrap_or_default();
                    self.out.actions.push(Action::Sweep {
                        run: run.dir.clone(),
                        leftovers,
                    });
                }
                Meaning::OrphanLeftovers | Meaning::StillAlive => self.still_alive(run),
                Meaning::Unknown => self.hold(Subject::Run(run.dir.id), self.unknown(run)),
                Meaning::Clear => self.out.actions.push(Action::ClearPidFile {
                    run: run.dir.clone(),
                }),
                Meaning::Complete => self.judge(run),
            }
        }
    }

    /// Why nothing can be told of a run.
    fn unknown(&self, run: &Run) -> Hold {
        let unreadable = self.unreadable(run.dir.id.subject);
        unreadable.unwrap_or(Hold::Unknown { run: run.dir.id })
    }

    fn unreadable(&self, subject: RunSubject) -> Option<Hold> {
        let error = self.seen.unreadable.get(&subject)?.clone();
        Some(Hold::UnreadableRecords { error })
    }

    /// The daemon acts where the shim cannot: it is dead, or did not act in time (stopped, say).
    fn limits(&mut self, run: &Run, patience: u64) {
        if run.in_hand {
            return;
        }
        let stop = |cause| Action::Stop {
            run: run.dir.clone(),
            cause,
        };
        if self.seen.controls.stop.contains(&run.dir.id.subject) {
            self.out.actions.push(stop(StopCause::Asked));
            return;
        }
        let (Some(spec), Some(began)) = (&run.spec, began(run)) else {
            return;
        };
        let limit = Millis(spec.limits.time.0.saturating_add(patience));
        let left = began.left_of(limit, self.now);
        if left.0 == 0 {
            self.out.actions.push(stop(StopCause::TimeLimit));
        } else {
            self.wake(self.now.wall.plus(left));
        }
    }

    fn still_alive(&mut self, run: &Run) {
        let leftovers = lives_of(run);
        self.hold(
            Subject::Run(run.dir.id),
            Hold::StillAlive {
                run: run.dir.id,
                leftovers,
            },
        );
    }

    fn judge(&mut self, run: &Run) {
        let waits = Hold::VerdictWaits { run: run.dir.id };
        let (Tinytask::Fresh { .. }, Some(evidence), Some(spec)) =
            (&self.seen.tinytask, &run.evidence, &run.spec)
        else {
            return self.hold(Subject::Run(run.dir.id), waits);
        };
        let has_company = self
            .live()
            .any(|(other, _)| other.dir.queue == run.dir.queue && other.dir.id != run.dir.id);
        let count = |key: TaskKey| {
            let task = self.seen.tasks.get(&key.id);
            let standing = self.standing(key, &run.dir.queue, task, None);
            Count {
                failed: standing.failed,
                stay: standing.stay,
            }
        };
        let count: &dyn Fn(TaskKey) -> Count = &|key| {
            // The run's own attempt and stay were settled at its launch, and a look at the task since must not shift them.
            if spec.task == Some(key) {
                Count {
                    failed: spec.attempt - 1,
                    stay: spec.stay,
                }
            } else {
                count(key)
            }
        };
        let max_attempts = self.policy.max_attempts;
        let case = Case {
            seen: self.seen,
            run,
            spec,
            evidence,
            max_attempts,
            has_company,
            count,
            now: self.now,
        };
        match case.judge() {
            Some(verdict) => {
                let verdict = Box::new(verdict);
                self.out.actions.push(Action::RecordVerdict {
                    run: run.dir.clone(),
                    verdict,
                });
            }
            None => self.hold(Subject::Run(run.dir.id), waits),
        }
    }

    fn strangers(&mut self) {
        for (subject, stranger) in &self.seen.strangers {
            let is_over = match &stranger.what {
                StrangerKind::Dead { .. } => true,
                StrangerKind::Alive { process, .. } => self.is_released(*subject, process),
                StrangerKind::Odd(_) => false,
            };
            if is_over {
                self.out.actions.push(Action::ClearStranger {
                    subject: *subject,
                    inode: stranger.inode,
                });
            }
        }
    }

    fn is_released(&self, subject: RunSubject, process: &ProcessId) -> bool {
        self.seen
            .histories
            .get(&subject)
            .is_some_and(|h| h.marks.released.contains(process))
    }

    fn stranger_hold(&self, subject: RunSubject) -> Option<Hold> {
        let stranger = self.seen.strangers.get(&subject)?;
        match &stranger.what {
            StrangerKind::Alive { process, .. } if self.is_released(subject, process) => None,
            StrangerKind::Alive {
                process,
                comm,
                younger,
            } => Some(Hold::RunningOutside {
                process: process.clone(),
                comm: comm.clone(),
                since: stranger.modified,
                younger: *younger,
            }),
            StrangerKind::Odd(what) => Some(Hold::OddPidFile { what: what.clone() }),
            StrangerKind::Dead { pid } => Some(Hold::OddPidFile {
                what: format!("process {pid} is gone"),
            }),
        }
    }

    // ── everything ─────────────────────────────────────────────────────────────────────────────────────────────────────

    /// May anything be started at all?
    fn tinytask(&mut self) -> bool {
        let open = match &self.seen.tinytask {
            Tinytask::Fresh { .. } => true,
            Tinytask::NotAsked => false,
            Tinytask::Unreachable { since, error, hint } => {
                let hold = Hold::TinytaskUnreachable {
                    since: since.clone(),
                    error: error.clone(),
                    hint: hint.clone(),
                };
                self.hold(Subject::Everything, hold);
                false
            }
            Tinytask::Suspicious { vanished, of } => {
                self.hold(
                    Subject::Everything,
                    Hold::TinytaskSuspicious {
                        vanished: *vanished,
                        of: *of,
                    },
                );
                false
            }
        };
        if self.seen.controls.pause_all {
            self.hold(Subject::Everything, Hold::Paused);
        }
        open && !self.seen.controls.pause_all
    }

    // ── inbound ────────────────────────────────────────────────────────────────────────────────────────────────────────

    fn inbound(&mut self) -> Requests {
        let mut requests = Requests::default();
        for entry in &self.seen.inbound {
            match self.file_hold(entry) {
                Err(hold) => {
                    match &hold {
                        Hold::Settling { until } | Hold::FileBackingOff { until, .. } => {
                            self.wake(*until)
                        }
                        _ => {}
                    }
                    self.hold(Subject::Inbound(entry.key.clone()), hold);
                }
                Ok(attempts) => {
                    requests.files.push(entry.key.clone());
                    requests.attempts = requests.attempts.max(attempts);
                }
            }
        }
        requests
    }

    /// The attempts the file had, where nothing stands in its way but a slot.
    fn file_hold(&self, entry: &InboundEntry) -> Result<u32, Hold> {
        match &entry.state {
            InboundState::Odd(what) => return Err(Hold::OddFile { what: what.clone() }),
            InboundState::Settling { until } => return Err(Hold::Settling { until: *until }),
            InboundState::Settled { .. } => {}
        }
        if let Some(hold) = self.inbound_run_hold(&entry.key) {
            return Err(hold);
        }
        if let Some(hold) = self.stranger_hold(RunSubject::Inbound) {
            return Err(hold);
        }
        if let Some(hold) = self.unreadable(RunSubject::Inbound) {
            return Err(hold);
        }
        if self.seen.controls.held.contains(&RunSubject::Inbound) {
            return Err(Hold::HeldByFile);
        }
        if self.seen.controls.stop.contains(&RunSubject::Inbound) {
            return Err(Hold::StopAsked);
        }
        let standing = match self.seen.histories.get(&RunSubject::Inbound) {
            Some(history) => FileStanding::of(history, &entry.key, self.now),
            None => FileStanding::default(),
        };
        if let Some(hold) = standing.hold {
            return Err(hold);
        }
        let queue = &self.policy.inbound_queue;
        match self.seen.recipes.get(queue) {
            _ if self.policy.queue(queue).has_command => {}
            None => {
                return Err(Hold::NoDispatcher {
                    queue: queue.clone(),
                });
            }
            Some(Err(error)) => {
                return Err(Hold::BrokenRecipe {
                    error: error.clone(),
                });
            }
            Some(Ok(recipe)) if recipe.requires("task_id") => {
                return Err(Hold::DispatcherNeedsTask {
                    queue: queue.clone(),
                });
            }
            Some(Ok(_)) => {}
        }
        if self.seen.controls.paused.contains(queue) {
            return Err(Hold::QueuePaused {
                queue: queue.clone(),
            });
        }
        Ok(standing.attempts)
    }

    /// One run over inbound/ at a time, whatever the queue's concurrency: there is one pid file for it, and what the run
    /// before left lying is known only once its verdict is finished.
    fn inbound_run_hold(&self, key: &FileKey) -> Option<Hold> {
        let is_inbound = |run: &Run| run.dir.id.subject == RunSubject::Inbound;
        if let Some((run, meaning)) = self.live().find(|(run, _)| is_inbound(run)) {
            let is_its_own =
                (run.spec.as_ref()).is_some_and(|spec| spec.baseline.inbound.contains(key));
            return Some(match run_hold(run, meaning) {
                Hold::Running { run } if !is_its_own => Hold::NoSlot {
                    by: vec![run],
                    limit: 1,
                },
                hold => hold,
            });
        }
        let unfinished = |run: &&Run| is_inbound(run) && run.verdict.is_some();
        let run = self.seen.runs.iter().find(unfinished)?;
        Some(Hold::VerdictWaits { run: run.dir.id })
    }

    // ── tasks ──────────────────────────────────────────────────────────────────────────────────────────────────────────

    /// The tasks that only need a slot, in the order in which they are started.
    fn tasks(&mut self) -> BTreeMap<QueueName, Vec<Candidate<'a>>> {
        let mut candidates: BTreeMap<QueueName, Vec<Candidate>> = BTreeMap::new();
        let parents: BTreeMap<TaskId, u32> =
            self.seen.tasks.values().filter_map(|t| t.parent).fold(
                BTreeMap::new(),
                |mut open, parent| {
                    *open.entry(parent).or_default() += 1;
                    open
                },
            );
        let busy = self.touching();
        for task in self.seen.tasks.values() {
            match self.task_hold(task, &parents, &busy) {
                Err(hold) => {
                    match &hold {
                        Hold::BackingOff { until, .. } | Hold::LostTooOften { until, .. } => {
                            self.wake(*until)
                        }
                        _ => {}
                    }
                    self.hold(Subject::Task(task.id), hold);
                }
                Ok(candidate) => candidates
                    .entry(candidate.queue.clone())
                    .or_default()
                    .push(candidate),
            }
        }
        for queue in candidates.values_mut() {
            // As `signup_for_task` hands out, so that the run is named after the task the agent will get.
            queue.sort_by(|a, b| {
                let by_priority = b.task.priority.total_cmp(&a.task.priority);
                by_priority
                    .then(a.task.created_at.cmp(&b.task.created_at))
                    .then(a.task.id.cmp(&b.task.id))
            });
        }
        candidates
    }

    /// For each task that a run which is not over may have touched, that run.
    fn touching(&self) -> BTreeMap<TaskId, RunId> {
        let mut touching = BTreeMap::new();
        for (run, _) in self.live() {
            let Some(spec) = &run.spec else { continue };
            let since = began(run).unwrap_or(&spec.times.written);
            for task in self.seen.tasks.values() {
                let before = spec.baseline.tasks.iter().find(|b| b.key == task.key());
                let left =
                    before.is_some() && task.assigned_to.as_deref() != Some(spec.queue.as_str());
                // It may have come into the queue after the launch, and left it again since.
                let passed = task.previous_assigned_to.as_deref() == Some(spec.queue.as_str())
                    && task.updated_at.seconds() >= since.wall.seconds()
                    && !self.was_there_before(task, run.dir.id, since);
                if left || passed {
                    touching.entry(task.id).or_insert(run.dir.id);
                }
            }
        }
        touching
    }

    /// Do the records show the task in its present queue already, by a run there or by a hand-off that is older than `run`?
    fn was_there_before(&self, task: &Task, run: RunId, began: &Moment) -> bool {
        let Some(queue) = task.queue() else {
            return false;
        };
        let history = self.seen.histories.get(&RunSubject::Task(task.id));
        let Some(last) = history
            .and_then(|history| history.verdicts.last())
            .filter(|last| last.run != run)
        else {
            return false;
        };
        let handed_here = last.tasks.iter().any(|entry| {
            let to = Some(queue.as_str().to_owned());
            entry.key == task.key() && entry.verdict == Verdict::HandedOff { to }
        });
        last.queue == queue || (handed_here && last.judged.wall <= began.wall)
    }

    fn task_hold(
        &mut self,
        task: &'a Task,
        parents: &BTreeMap<TaskId, u32>,
        touching: &BTreeMap<TaskId, RunId>,
    ) -> Result<Candidate<'a>, Hold> {
        let subject = RunSubject::Task(task.id);
        if let Some((run, meaning)) = self.live().find(|(run, _)| run.dir.id.subject == subject) {
            return Err(match meaning {
                Meaning::Unknown => self.unknown(run),
                meaning => match run_hold(run, meaning) {
                    // Handed on already: the next hop waits for the end of this one.
                    Hold::Running { run: id }
                        if task.queue().is_some_and(|queue| queue != run.dir.queue) =>
                    {
                        Hold::RunNotOver { run: id }
                    }
                    hold => hold,
                },
            });
        }
        let unfinished = |run: &&Run| {
            run.verdict
                .as_ref()
                .is_some_and(|v| v.tasks.iter().any(|t| t.key == task.key()))
        };
        if let Some(run) = self.seen.runs.iter().find(unfinished) {
            return Err(Hold::VerdictWaits { run: run.dir.id });
        }
        if let Some(hold) = self.stranger_hold(subject) {
            return Err(hold);
        }
        if let Some(hold) = self.unreadable(subject) {
            return Err(hold);
        }
        if let Some(run) = touching.get(&task.id) {
            return Err(Hold::RunNotOver { run: *run });
        }
        let Some(queue) = task.queue() else {
            let queue_name = task.assigned_to.clone().or_else(|| task.queue_name.clone());
            return Err(Hold::NotAssigned { queue_name });
        };
        let detail = match self.seen.details.get(&task.id) {
            Some(Detail::Found(found)) => Some(found),
            _ => None,
        };
        let standing = self.standing(
            task.key(),
            &queue,
            Some(task),
            detail.map(|d| d.last_comment),
        );
        if task.status == TaskStatus::Working {
            let is_parent = parents.contains_key(&task.id);
            return Err(self.working_hold(task, &queue, &standing, is_parent));
        }
        if self.seen.controls.held.contains(&subject) {
            return Err(Hold::HeldByFile);
        }
        if self.seen.controls.stop.contains(&subject) {
            return Err(Hold::StopAsked);
        }
        let recipe = self.recipe(&queue)?;
        let open = parents
            .get(&task.id)
            .copied()
            .unwrap_or(0)
            .max(detail.map_or(0, |d| d.open_subtasks));
        if open > 0 {
            return Err(Hold::OpenSubtasks { open });
        }
        if task.is_blocked {
            return Err(Hold::BlockedBy {
                task: task.blocked_by,
            });
        }
        if let Some(hold) = standing.hold(self.policy, self.now) {
            return Err(hold);
        }
        self.folder_hold(task)?;
        if self.seen.controls.paused.contains(&queue) {
            return Err(Hold::QueuePaused { queue });
        }
        if let Some(asked) = self.policy.queue(&queue).concurrency
            && asked > self.policy.slots(&queue, recipe)
            && !self
                .out
                .holds
                .iter()
                .any(|(s, _)| *s == Subject::Queue(queue.clone()))
        {
            self.hold(Subject::Queue(queue.clone()), Hold::NoTaskId { asked });
        }
        Ok(Candidate {
            task,
            queue,
            standing,
        })
    }

    fn standing(
        &self,
        key: TaskKey,
        queue: &QueueName,
        task: Option<&Task>,
        comment: Option<i64>,
    ) -> Standing {
        match self.seen.histories.get(&RunSubject::Task(key.id)) {
            Some(history) => Standing::of(history, key, queue, task, comment),
            None => Standing::default(),
        }
    }

    /// A working task without a run of its own: an agent took it beside the task its run is named after, a run left it to
    /// the queue's other runs, or somebody works on it by other means.
    fn working_hold(
        &mut self,
        task: &Task,
        queue: &QueueName,
        standing: &Standing,
        is_parent: bool,
    ) -> Hold {
        let in_queue = self
            .live()
            .find(|(run, _)| run.dir.queue == *queue)
            .map(|(run, _)| run.dir.id);
        if let Some(run) = in_queue {
            return Hold::RunNotOver { run };
        }
        if let Some(run) = standing.left_working
            && !is_parent
            && self
                .out
                .actions
                .iter()
                .all(|a| !matches!(a, Action::RecordVerdict { .. }))
            && matches!(self.seen.tinytask, Tinytask::Fresh { .. })
        {
            self.out
                .actions
                .push(Action::PutBack { task: task.id, run });
        }
        Hold::WorkingElsewhere
    }

    fn recipe(&self, queue: &QueueName) -> Result<Option<&'a Recipe>, Hold> {
        match self.seen.recipes.get(queue) {
            Some(Ok(recipe)) => Ok(Some(recipe)),
            _ if self.policy.queue(queue).has_command => Ok(None),
            Some(Err(error)) => Err(Hold::BrokenRecipe {
                error: error.clone(),
            }),
            None => Err(Hold::NoRecipe),
        }
    }

    /// The folder is there, and nobody is still filling it.
    fn folder_hold(&mut self, task: &Task) -> Result<(), Hold> {
        let changed = self.seen.folders.get(&task.id);
        for (run, _) in self
            .live()
            .filter(|(run, _)| run.dir.queue == self.policy.inbound_queue)
        {
            let Some(spec) = &run.spec else { continue };
            let made_since = run.dir.id.subject == RunSubject::Inbound
                && task.id.number() > spec.baseline.highest_task;
            let filled_since =
                changed.is_none_or(|at| at.seconds() >= spec.times.written.wall.seconds());
            if changed.is_none() || (made_since && filled_since) {
                return Err(Hold::AwaitingFiles { run: run.dir.id });
            }
        }
        if changed.is_none() {
            if self.policy.create_folders {
                self.out
                    .actions
                    .push(Action::CreateFolder { task: task.id });
            }
            return Err(Hold::NoFolder);
        }
        Ok(())
    }

    // ── slots ──────────────────────────────────────────────────────────────────────────────────────────────────────────

    fn launches(
        &mut self,
        requests: Requests,
        mut candidates: BTreeMap<QueueName, Vec<Candidate<'a>>>,
    ) {
        let mut used: BTreeMap<QueueName, Vec<RunId>> = BTreeMap::new();
        for (run, _) in self.live() {
            used.entry(run.dir.queue.clone())
                .or_default()
                .push(run.dir.id);
        }
        for subject in self.seen.strangers.keys() {
            // Somebody's own run takes the place of ours.
            let queue = match subject {
                RunSubject::Inbound => Some(self.policy.inbound_queue.clone()),
                RunSubject::Task(id) => self.seen.tasks.get(id).and_then(Task::queue),
            };
            if let Some(queue) = queue.filter(|_| {
                matches!(
                    self.stranger_hold(*subject),
                    Some(Hold::RunningOutside { .. })
                )
            }) {
                used.entry(queue).or_default().push(RunId {
                    subject: *subject,
                    number: 0,
                });
            }
        }
        let mut total = used.values().map(Vec::len).sum::<usize>() as u32;
        let mut probing: BTreeSet<ProviderName> = BTreeSet::new();

        for queue in self.turns(&requests, &candidates) {
            let mut waiting = candidates.remove(&queue).unwrap_or_default().into_iter();
            let mut files = (queue == self.policy.inbound_queue)
                .then_some(&requests)
                .filter(|r| !r.files.is_empty());
            let recipe = self.seen.recipes.get(&queue).and_then(|r| r.as_ref().ok());
            let no_program = self
                .seen
                .no_program
                .get(&queue)
                .map(|why| Hold::NoProgram { why: why.clone() });
            if let Some(hold) = no_program.or_else(|| self.environment_hold(&queue, recipe)) {
                self.hold_rest(waiting, files, &hold);
                self.hold(Subject::Queue(queue), hold);
                continue;
            }
            let slots = self.policy.slots(&queue, recipe);
            let provider = self.policy.provider_of(&queue, recipe);
            let taken = used.entry(queue.clone()).or_default();
            // The dispatcher's two kinds of work take turns.
            let inbound_first = !self.last_was_inbound(&queue) || waiting.len() == 0;
            loop {
                if files.is_none() && waiting.len() == 0 {
                    break;
                }
                let hold = if taken.len() as u32 >= slots {
                    Some(Hold::NoSlot {
                        by: taken.clone(),
                        limit: slots,
                    })
                } else if total >= self.policy.max_runs {
                    Some(Hold::MaxRuns {
                        limit: self.policy.max_runs,
                    })
                } else {
                    self.provider_hold(&provider, &mut probing)
                };
                if let Some(hold) = hold {
                    self.hold_rest(waiting, files, &hold);
                    break;
                }
                let launch = if let Some(requests) =
                    files.take_if(|_| inbound_first || waiting.len() == 0)
                {
                    self.inbound_launch(&queue, requests, &provider)
                } else {
                    let Some(candidate) = waiting.next() else {
                        break;
                    };
                    self.task_launch(candidate, &provider)
                };
                taken.push(launch.dir().id);
                total += 1;
                self.out.actions.push(Action::Launch(launch));
            }
        }
    }

    /// Queues with work, the one whose last launch is longest ago first: when `max_runs` binds, all get their turn.
    fn turns(
        &self,
        requests: &Requests,
        candidates: &BTreeMap<QueueName, Vec<Candidate>>,
    ) -> Vec<QueueName> {
        let mut queues: BTreeSet<QueueName> = candidates.keys().cloned().collect();
        if !requests.files.is_empty() {
            queues.insert(self.policy.inbound_queue.clone());
        }
        let last = |queue: &QueueName| {
            let judged = self
                .seen
                .recent
                .iter()
                .filter(|v| v.queue == *queue)
                .filter_map(|v| v.started.as_ref())
                .map(|m| m.wall);
            let live = self
                .live()
                .filter(|(run, _)| run.dir.queue == *queue)
                .filter_map(|(run, _)| run.spec.as_ref());
            judged.chain(live.map(|spec| spec.times.written.wall)).max()
        };
        let mut queues: Vec<_> = queues
            .into_iter()
            .map(|queue| (last(&queue), queue))
            .collect();
        queues.sort();
        queues.into_iter().map(|(_, queue)| queue).collect()
    }

    fn last_was_inbound(&self, queue: &QueueName) -> bool {
        self.seen
            .recent
            .iter()
            .rev()
            .find(|v| v.queue == *queue)
            .is_some_and(|v| v.run.subject == RunSubject::Inbound)
    }

    fn hold_rest(
        &mut self,
        waiting: impl Iterator<Item = Candidate<'a>>,
        files: Option<&Requests>,
        hold: &Hold,
    ) {
        for candidate in waiting {
            self.hold(Subject::Task(candidate.task.id), hold.clone());
        }
        for file in files.iter().flat_map(|requests| &requests.files) {
            self.hold(Subject::Inbound(file.clone()), hold.clone());
        }
    }

    fn task_launch(&self, candidate: Candidate, provider: &ProviderName) -> Launch {
        let Candidate {
            task,
            queue,
            standing,
        } = candidate;
        let subject = RunSubject::Task(task.id);
        let attempt = standing.failed + 1;
        let cause = match (&standing.last_reason, &task.previous_assigned_to) {
            (Some(reason), _) => format!("attempt {attempt}: the last run {reason}"),
            (None, Some(from)) => format!("handed on by {from}"),
            (None, None) => "waiting in its queue".to_owned(),
        };
        Launch {
            subject,
            number: self.seen.histories.get(&subject).map_or(0, |h| h.last_run) + 1,
            attempt,
            stay: standing.stay,
            cause,
            title: Some(task.title.clone()),
            files: Vec::new(),
            provider: Some(provider.clone()),
            time_limit: self.policy.time_limit_of(&queue),
            queue,
        }
    }

    fn inbound_launch(
        &self,
        queue: &QueueName,
        requests: &Requests,
        provider: &ProviderName,
    ) -> Launch {
        let subject = RunSubject::Inbound;
        let first = requests.files.first().map_or("", |f| f.name.as_str());
        let cause = match requests.files.len() {
            1 => format!("{first} in inbound"),
            n => format!("{first} and {} more in inbound", n - 1),
        };
        Launch {
            subject,
            queue: queue.clone(),
            number: self.seen.histories.get(&subject).map_or(0, |h| h.last_run) + 1,
            attempt: requests.attempts + 1,
            stay: 1,
            cause,
            title: None,
            files: requests.files.clone(),
            provider: Some(provider.clone()),
            time_limit: self.policy.time_limit_of(queue),
        }
    }

    /// The queue's last run failed for a reason that lies in the recipe or the machine, and neither a change of the recipe
    /// nor enough time has come since.
    fn environment_hold(&mut self, queue: &QueueName, recipe: Option<&Recipe>) -> Option<Hold> {
        let failures = in_a_row(
            self.seen.recent.iter().rev().filter(|v| v.queue == *queue),
            FailureClass::Environment,
            |_| false,
        );
        let (last, n) = failures?;
        if recipe.is_some_and(|r| r.modified > last.judged.wall) {
            return None;
        }
        let left = last.judged.left_of(probe_backoff(n), self.now);
        if left.0 == 0 {
            return None;
        }
        let until = self.now.wall.plus(left);
        self.wake(until);
        Some(Hold::Environment {
            reason: reason(last),
            until,
        })
    }

    /// One failure of a provider holds all its queues; after the wait one run at a time probes it.
    fn provider_hold(
        &mut self,
        provider: &ProviderName,
        probing: &mut BTreeSet<ProviderName>,
    ) -> Option<Hold> {
        let of_provider = self
            .seen
            .recent
            .iter()
            .rev()
            .filter(|v| v.provider.as_ref() == Some(provider));
        // A run that failed for other reasons than its agent's work says nothing of the provider.
        let silent = |v: &VerdictRecord| {
            v.failure
                .as_ref()
                .is_some_and(|f| matches!(f.class, FailureClass::Environment | FailureClass::Ours))
                || matches!(v.outcome, Outcome::Stopped(_))
        };
        let (last, n) = in_a_row(of_provider, FailureClass::Provider, silent)?;
        let left = last.judged.left_of(probe_backoff(n), self.now);
        let until = self.now.wall.plus(left);
        // By the spec, which is there before the shim: the look right after a launch finds no state yet, and must not take
        // that for no probe.
        let is_probe = |run: &Run| {
            run.spec.as_ref().is_some_and(|spec| {
                let written = spec.times.written.age(self.now);
                spec.provider.as_ref() == Some(provider) && written < last.judged.age(self.now)
            })
        };
        let probe = (self.live())
            .find(|(run, _)| is_probe(run))
            .map(|(run, _)| run.dir.id);
        if left.0 == 0 && probe.is_none() && probing.insert(provider.clone()) {
            return None;
        }
        if left.0 > 0 {
            self.wake(until);
        }
        let hold = Hold::Provider {
            reason: reason(last),
            until,
            probing: probe,
        };
        if !self
            .out
            .holds
            .iter()
            .any(|(subject, _)| *subject == Subject::Provider(provider.clone()))
        {
            self.hold(Subject::Provider(provider.clone()), hold.clone());
        }
        Some(hold)
    }
}

/// Why a task, or a file, waits for its own run.
fn run_hold(run: &Run, meaning: Meaning) -> Hold {
    let id = run.dir.id;
    match meaning {
        Meaning::Complete | Meaning::Clear | Meaning::Litter => Hold::VerdictWaits { run: id },
        Meaning::Unknown => Hold::Unknown { run: id },
        Meaning::StillAlive | Meaning::OrphanLeftovers => Hold::StillAlive {
            run: id,
            leftovers: lives_of(run),
        },
        Meaning::Starting
        | Meaning::Running
        | Meaning::Ending
        | Meaning::SignalledAlive
        | Meaning::Orphan => Hold::Running { run: id },
    }
}

/// Everything of a run that lives, or may.
fn lives_of(run: &Run) -> Vec<Leftover> {
    let Some(alive) = &run.observed.alive else {
        return Vec::new();
    };
    let agent = alive.agent.clone().map(|process| Leftover {
        process,
        comm: "agent".into(),
    });
    let others = alive.leftovers.iter().chain(&alive.doubtful).cloned();
    agent.into_iter().chain(others).collect()
}

/// When the run's time began to count.
fn began(run: &Run) -> Option<&Moment> {
    let state = run.state.as_ref()?;
    Some(state.running.as_ref().unwrap_or(&state.started))
}

fn reason(verdict: &VerdictRecord) -> String {
    verdict
        .failure
        .as_ref()
        .map_or_else(|| verdict.outcome.to_string(), |f| f.reason.clone())
}

#[cfg(test)]
mod tests;
