//! Inbound files and tasks: which only need a slot, and why each of the others waits.
//!
//! Knows nothing of free slots, of providers and of turns, and starts nothing.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use super::runs::{began, run_hold};
use super::{Candidate, Deciding, Requests};
use crate::core::history::{FileStanding, PastFiles, Standing};
use crate::core::model::{
    Detail, FileKey, Moment, QueueName, Recipe, RunId, RunSubject, Task, TaskId, TaskKey,
    TaskStatus,
};
use crate::core::record::Verdict;
use crate::core::verdict::Meaning;
use crate::core::{Action, Hold, InboundEntry, InboundState, Run, Subject, Tinytask};

/// A run over inbound/ that is not over, or not done with.
struct InboundRun<'a> {
    hold: Hold,
    /// What it is to take away.
    files: BTreeSet<&'a FileKey>,
}

impl InboundRun<'_> {
    /// Why a file waits for it.
    fn hold(&self, key: &FileKey) -> Hold {
        match &self.hold {
            Hold::Running { run } if !self.files.contains(key) => Hold::NoSlot {
                by: vec![*run],
                limit: 1,
            },
            hold => hold.clone(),
        }
    }
}

impl<'a> Deciding<'a> {
    // ── inbound ────────────────────────────────────────────────────────────────────────────────────────────────────────

    pub(super) fn inbound(&mut self) -> Requests {
        let mut requests = Requests::default();
        let lying = self.seen.inbound.iter().map(|entry| &*entry.key.name);
        let past = (self.seen.histories.get(&RunSubject::Inbound))
            .map(|history| PastFiles::new(history, lying.collect()));
        let at_it = self.inbound_run();
        for entry in &self.seen.inbound {
            match self.file_hold(entry, past.as_ref(), at_it.as_ref()) {
                Err(hold) => {
                    match &hold {
                        Hold::Settling { until }
                        | Hold::FileBackingOff { until, .. }
                        | Hold::LostTooOften { until, .. } => self.wake(*until),
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
    fn file_hold(
        &self,
        entry: &InboundEntry,
        past: Option<&PastFiles<'_>>,
        at_it: Option<&InboundRun<'_>>,
    ) -> Result<u32, Hold> {
        match &entry.state {
            InboundState::Odd(what) => return Err(Hold::OddFile { what: what.clone() }),
            InboundState::Settling { until } => return Err(Hold::Settling { until: *until }),
            InboundState::Settled { .. } => {}
        }
        if let Some(run) = at_it {
            return Err(run.hold(&entry.key));
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
        let max_runs = self.policy.max_runs_per_task;
        let standing = past.map_or_else(FileStanding::default, |past| {
            FileStanding::of(past, &entry.key, max_runs, self.now)
        });
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
    fn inbound_run(&self) -> Option<InboundRun<'a>> {
        let is_inbound = |run: &Run| run.dir.id.subject == RunSubject::Inbound;
        if let Some((run, meaning)) = self.live().find(|(run, _)| is_inbound(run)) {
            let files = run.spec.iter().flat_map(|spec| &spec.baseline.inbound);
            return Some(InboundRun {
                hold: run_hold(run, meaning),
                files: files.collect(),
            });
        }
        let unfinished = |run: &&Run| is_inbound(run) && run.verdict.is_some();
        let run = self.seen.runs.iter().find(unfinished)?;
        Some(InboundRun {
            hold: Hold::VerdictWaits { run: run.dir.id },
            files: BTreeSet::new(),
        })
    }

    // ── tasks ──────────────────────────────────────────────────────────────────────────────────────────────────────────

    /// The tasks that only need a slot, in the order in which they are started.
    pub(super) fn tasks(&mut self) -> BTreeMap<QueueName, Vec<Candidate<'a>>> {
        let mut candidates: BTreeMap<QueueName, Vec<Candidate>> = BTreeMap::new();
        let parents = self.seen.open_parts();
        let busy = self.touching();
        for task in self.seen.tasks.values() {
            match self.task_hold(task, &parents, &busy) {
                Err(hold) => {
                    if let Hold::BackingOff { until, .. } | Hold::LostTooOften { until, .. } = &hold
                        && let Some(queue) = task.queue()
                    {
                        self.wake_queue(&queue, *until);
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
            let since_second = since.wall_at_most(self.now).seconds();
            let before: HashSet<TaskKey> = spec.baseline.tasks.iter().map(|b| b.key).collect();
            for task in self.seen.tasks.values() {
                let left = task.assigned_to.as_deref() != Some(spec.queue.as_str())
                    && before.contains(&task.key());
                // It may have come into the queue after the launch, and left it again since.
                let passed = task.previous_assigned_to.as_deref() == Some(spec.queue.as_str())
                    && task.updated_at.seconds() >= since_second
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
        // The number was another task's then, in a database that was exchanged or restored since.
        if (last.tasks.iter()).any(|entry| entry.key.id == task.id && entry.key != task.key()) {
            return false;
        }
        let became = (last.tasks.iter()).find(|entry| entry.key == task.key());
        match became.map(|entry| &entry.verdict) {
            // Where it was handed to somebody else, that one has handed it here since, without a run of its own.
            Some(Verdict::HandedOff { to }) => {
                to.as_deref() == Some(queue.as_str()) && last.judged.wall <= began.wall
            }
            // Moved away and back, it mostly comes from another queue than it did then.
            Some(_) => {
                let from = became.and_then(|entry| entry.previous_assigned_to.as_ref());
                last.queue == queue && from == task.previous_assigned_to.as_ref()
            }
            None => last.queue == queue,
        }
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
        // Asked for where nothing else keeps the task waiting: its past has to be unpacked for it.
        let last_comment = detail.map(|d| d.last_comment);
        let standing =
            |deciding: &Self| deciding.standing(task.key(), &queue, Some(task), last_comment);
        if task.status == TaskStatus::Working {
            let standing = standing(self);
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
        let standing = standing(self);
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
            let since = spec.times.written.wall_at_most(self.now);
            let filled_since = changed.is_none_or(|at| at.seconds() >= since.seconds());
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
}
