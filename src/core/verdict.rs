//! What a run's traces mean: first whether it is over, then what became of the tasks and files it was started for.
//!
//! The exit code does not enter: goose exits 0 on quota errors, at its turn limit and without its extensions. tinytask and
//! the folder are asked instead, and what they say afterwards is compared with the baseline of the launch.

use std::collections::{BTreeMap, HashSet};

use crate::core::model::{
    Detail, Moment, Now, Outcome, QueueName, RunMark, RunState, RunSubject, Task, TaskId, TaskKey,
    TaskStatus,
};
use crate::core::policy::LATE_AFTER;
use crate::core::record::{
    BaselineTask, FORMAT, Failure, FailureClass, FileVerdict, Spec, TaskVerdict, Verdict,
    VerdictRecord, Write,
};
use crate::core::{Alive, Evidence, Observed, ObservedState, Run, Snapshot, StrangerKind};

/// Tasks created during a run that are named for each file it left: enough for a person to find them, and no more, as a run may
/// leave very many files.
const MOST_CREATED: usize = 20;

/// What the combination of a run's traces means; the table is in `docs/design/01-one-run.md`.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, serde::Serialize, serde::Deserialize,
)]
#[serde(rename_all = "snake_case")]
pub enum Meaning {
    /// No spec: the daemon died before it wrote one.
    Litter,
    /// The shim is at work; the agent's first instruction has not run.
    Starting,
    Running,
    /// The agent is over; the shim is about to remove the pid file.
    Ending,
    /// The pid file was removed while the agent lives: signalled, but not over.
    SignalledAlive,
    /// The shim is dead, the agent lives.
    Orphan,
    /// The shim and the agent are dead, something the agent started lives.
    OrphanLeftovers,
    /// Over, but what could not be ended lives.
    StillAlive,
    /// This user cannot see whether it lives.
    Unknown,
    /// Over, but the pid file is still there: clear it.
    Clear,
    /// Over: to be judged.
    Complete,
}

/// What of a run lives, as one word.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Life {
    Nothing,
    Doubtful,
    Leftovers,
    Agent,
    Unknown,
}

fn life(alive: Option<&Alive>) -> Life {
    match alive {
        None => Life::Unknown,
        Some(Alive { agent: Some(_), .. }) => Life::Agent,
        Some(Alive { leftovers, .. }) if !leftovers.is_empty() => Life::Leftovers,
        Some(Alive { doubtful, .. }) if !doubtful.is_empty() => Life::Doubtful,
        Some(_) => Life::Nothing,
    }
}

/// One meaning for every combination. While the shim lives its word stands and nothing else is asked: with the state ended
/// and the pid file gone the run is over, though the lock is held a moment longer. Once it is dead, what lives decides.
pub fn meaning(seen: &Observed) -> Meaning {
    use ObservedState as S;
    match (
        seen.shim,
        seen.spec,
        seen.state,
        seen.pid_file,
        life(seen.alive.as_ref()),
    ) {
        (true, false, _, _, _) | (true, true, S::None | S::Starting, _, _) => Meaning::Starting,
        (true, true, S::Running, true, _) => Meaning::Running,
        (true, true, S::Running, false, _) => Meaning::SignalledAlive,
        (true, true, S::Ended, true, _) => Meaning::Ending,
        (true, true, S::Ended, false, Life::Nothing) => Meaning::Complete,
        (true, true, S::Ended, false, Life::Unknown) => Meaning::Unknown,
        (true, true, S::Ended, false, Life::Agent | Life::Leftovers | Life::Doubtful) => {
            Meaning::StillAlive
        }

        (false, _, _, _, Life::Unknown) => Meaning::Unknown,
        (false, _, S::Ended, _, Life::Agent | Life::Leftovers | Life::Doubtful) => {
            Meaning::StillAlive
        }
        (false, _, S::None | S::Starting | S::Running, true, Life::Agent) => Meaning::Orphan,
        (false, _, S::None | S::Starting | S::Running, false, Life::Agent) => {
            Meaning::SignalledAlive
        }
        (false, _, S::None | S::Starting | S::Running, _, Life::Leftovers) => {
            Meaning::OrphanLeftovers
        }
        (false, _, S::None | S::Starting | S::Running, _, Life::Doubtful) => Meaning::StillAlive,
        (false, _, _, true, Life::Nothing) => Meaning::Clear,
        (false, false, _, false, Life::Nothing) => Meaning::Litter,
        (false, true, _, false, Life::Nothing) => Meaning::Complete,
    }
}

impl Run {
    /// What its traces mean.
    pub fn meaning(&self) -> Meaning {
        meaning(&self.observed)
    }

    /// How it ended, once it has: the shim's word, else the daemon's, else what the traces say.
    pub fn outcome(&self) -> Outcome {
        match (
            &self.state.as_ref().map(|s| &s.state),
            &self.ended_by_daemon,
        ) {
            (Some(RunState::Ended { outcome, .. }), _) | (_, Some(outcome)) => outcome.clone(),
            (Some(RunState::Running { .. }), None) => Outcome::Lost,
            (Some(RunState::Starting) | None, None) => {
                Outcome::NotLaunched("the shim died before the agent started".into())
            }
        }
    }
}

/// The tasks whose present state a verdict on `run` needs from `get_task`: its named task, and those of its queue's
/// baseline that are no longer seen there.
pub fn questions(run: &Run, seen_tasks: impl Fn(TaskId) -> bool) -> Vec<TaskId> {
    let Some(spec) = &run.spec else {
        return Vec::new();
    };
    let named = spec.task.map(|key| key.id);
    let gone = spec
        .baseline
        .tasks
        .iter()
        .map(|t| t.key.id)
        .filter(|id| Some(*id) != named && !seen_tasks(*id));
    named.into_iter().chain(gone).collect()
}

/// What the attempts before this run amount to, for one task; see `decide::Standing`.
#[derive(Debug, Clone, Copy)]
pub struct Count {
    /// Attempts that failed in this stay.
    pub failed: u32,
    pub stay: u32,
}

/// Everything a verdict is made from.
pub struct Case<'a> {
    pub seen: &'a Snapshot,
    pub run: &'a Run,
    pub spec: &'a Spec,
    pub evidence: &'a Evidence,
    pub max_attempts: u32,
    /// Another run of the queue lives: only the named task can be told to be this run's.
    pub has_company: bool,
    /// A person said `retry` of the run's subject while the run lived: it counts no more, so it parks nothing either.
    pub is_forgiven: bool,
    /// Attempts so far of a task.
    pub count: &'a dyn Fn(TaskKey) -> Count,
    pub now: &'a Now,
}

/// What tinytask says of a task now.
enum Word<'a> {
    Found {
        task: &'a Task,
        last_comment: i64,
        open_subtasks: u32,
    },
    NotFound,
}

impl Case<'_> {
    /// The verdict, or `None` while an answer of tinytask is missing.
    pub fn judge(&self) -> Option<VerdictRecord> {
        let (spec, run) = (self.spec, self.run);
        let state = run.state.as_ref();
        let outcome = run.outcome();
        let started = state.and_then(|s| s.running.clone());
        let ended = state.and_then(|s| s.ended.clone());

        let never_ran = matches!(outcome, Outcome::NotLaunched(_));
        let parts = self.seen.open_parts();
        let mut tasks = Vec::new();
        for before in &spec.baseline.tasks {
            let is_named = spec.task == Some(before.key);
            // What was taken or moved beside a run that never ran, or by its company, was taken or moved by others.
            if (self.has_company || never_ran) && !is_named {
                continue;
            }
            let after = self.after(before.key.id, &parts)?;
            tasks.extend(self.task(before, after, is_named, never_ran));
        }
        tasks.extend(self.claimed_later(&parts));
        let named_only_idle =
            |t: &TaskVerdict| t.verdict == Verdict::NoProgress && spec.task == Some(t.key);
        if tasks.iter().any(|t| !named_only_idle(t)) {
            // The agent worked on another task than the one the run is named after: that is no attempt of the named one.
            tasks.retain(|t| !named_only_idle(t));
        }
        let files: Vec<FileVerdict> = (spec.baseline.inbound.iter())
            .map(|file| {
                let changed = self.evidence.changed.get(file).cloned();
                let left = changed.is_some() || self.evidence.left.contains(file);
                let created = self.evidence.created.iter().take(MOST_CREATED).copied();
                FileVerdict {
                    file: file.clone(),
                    left,
                    changed,
                    created: created.filter(|_| left).collect(),
                }
            })
            .collect();

        let late = self.is_late(started.as_ref().or(ended.as_ref()), ended.as_ref());
        let failure = self.failure(&outcome, &tasks, &files);
        let counts = !late
            && failure
                .as_ref()
                .is_some_and(|f| f.class == FailureClass::Task);
        let reason = failure
            .as_ref()
            .map_or_else(|| outcome.to_string(), |f| f.reason.clone());
        for task in &mut tasks {
            let is_forgiven = self.is_forgiven && spec.task == Some(task.key);
            self.settle_write(task, counts && !is_forgiven, &reason);
        }
        Some(VerdictRecord {
            format: FORMAT,
            run: run.dir.id,
            title: spec.title.clone(),
            queue: run.dir.queue.clone(),
            attempt: spec.attempt,
            stay: spec.stay,
            provider: spec.provider.clone(),
            outcome,
            tasks,
            files,
            failure,
            tokens: self.evidence.tokens,
            cost: self.evidence.cost,
            started,
            ended,
            judged: self.now.into(),
            late,
        })
    }

    /// tinytask's present word on a task: its `get_task` answer, else what the queue's list shows. `None`: not known yet.
    fn after(&self, id: TaskId, parts: &BTreeMap<TaskId, u32>) -> Option<Word<'_>> {
        match self.seen.details.get(&id) {
            Some(Detail::Found(found)) => Some(Word::Found {
                task: &found.task,
                last_comment: found.last_comment,
                open_subtasks: found.open_subtasks,
            }),
            Some(Detail::NotFound) => Some(Word::NotFound),
            None => self.seen.tasks.get(&id).map(|task| Word::Found {
                task,
                last_comment: 0,
                open_subtasks: parts.get(&id).copied().unwrap_or(0),
            }),
        }
    }

    /// `None`: untouched.
    fn task(
        &self,
        before: &BaselineTask,
        after: Word<'_>,
        is_named: bool,
        never_ran: bool,
    ) -> Option<TaskVerdict> {
        let (task, last_comment, open_subtasks) = match after {
            Word::Found {
                task,
                last_comment,
                open_subtasks,
            } if task.key() == before.key => (task, last_comment, open_subtasks),
            Word::Found { .. } | Word::NotFound => {
                return Some(TaskVerdict {
                    fields: before.fields,
                    ..self.entry(before.key, Verdict::Gone)
                });
            }
        };
        let here = task.assigned_to.as_deref() == Some(self.run.dir.queue.as_str());
        let verdict = match (task.status, here) {
            (TaskStatus::Complete, _) => Verdict::Done,
            _ if task.is_archived => Verdict::Done,
            (_, false) => Verdict::HandedOff {
                to: task.assigned_to.clone(),
            },
            // A parent's status is its subtasks', not its own.
            (_, true) if open_subtasks > 0 && !is_named => return None,
            (_, true) if open_subtasks > 0 => Verdict::Progress,
            // Somebody else is at it: with a pid file of his own, or whoever had it when this run was refused.
            (TaskStatus::Working, true) if self.has_stranger(task.id) => return None,
            (TaskStatus::Working, true) if never_ran => Verdict::NoProgress,
            (TaskStatus::Working, true) if is_named || before.status == TaskStatus::Idle => {
                Verdict::LeftWorking
            }
            (TaskStatus::Idle, true) if is_named => {
                let commented = before.last_comment.is_some_and(|last| last_comment > last);
                let folder =
                    self.spec.task.is_some() && self.evidence.folder != self.spec.baseline.folder;
                if task.fields != before.fields || commented || folder {
                    Verdict::Progress
                } else {
                    Verdict::NoProgress
                }
            }
            (TaskStatus::Idle | TaskStatus::Working, true) => return None,
        };
        Some(TaskVerdict {
            last_comment,
            ..self.entry_of(task, verdict)
        })
    }

    /// Tasks that came into the queue after the launch, were claimed since, and that nobody else can have claimed.
    fn claimed_later(&self, parts: &BTreeMap<TaskId, u32>) -> Vec<TaskVerdict> {
        let Some(started) = self.run.state.as_ref().and_then(|s| s.running.as_ref()) else {
            return Vec::new();
        };
        if self.has_company {
            return Vec::new();
        }
        let since = started.wall_at_most(self.now).seconds();
        let is_claimed = |task: &&Task| {
            task.status == TaskStatus::Working
                && task.assigned_to.as_deref() == Some(self.run.dir.queue.as_str())
                && task.updated_at.seconds() >= since
                && !parts.contains_key(&task.id)
                && !self.has_stranger(task.id)
                && match self.seen.details.get(&task.id) {
                    Some(Detail::Found(found)) => {
                        found.open_subtasks == 0 && found.task.status == TaskStatus::Working
                    }
                    Some(Detail::NotFound) => false,
                    None => true,
                }
        };
        let claimed: Vec<&Task> = self.seen.tasks.values().filter(is_claimed).collect();
        if claimed.is_empty() {
            return Vec::new();
        }
        let before: HashSet<TaskKey> = self.spec.baseline.tasks.iter().map(|b| b.key).collect();
        (claimed.into_iter())
            .filter(|task| !before.contains(&task.key()))
            .map(|task| self.entry_of(task, Verdict::LeftWorking))
            .collect()
    }

    fn has_stranger(&self, id: TaskId) -> bool {
        let stranger = self.seen.strangers.get(&RunSubject::Task(id));
        stranger.is_some_and(|stranger| !matches!(stranger.what, StrangerKind::Dead { .. }))
    }

    fn entry_of(&self, task: &Task, verdict: Verdict) -> TaskVerdict {
        TaskVerdict {
            fields: task.fields,
            previous_assigned_to: task.previous_assigned_to.clone(),
            updated_at: Some(task.updated_at),
            ..self.entry(task.key(), verdict)
        }
    }

    fn entry(&self, key: TaskKey, verdict: Verdict) -> TaskVerdict {
        let count = (self.count)(key);
        TaskVerdict {
            key,
            attempt: count.failed + 1,
            stay: count.stay,
            verdict,
            fields: 0,
            last_comment: 0,
            previous_assigned_to: None,
            updated_at: None,
            write: None,
        }
    }

    fn settle_write(&self, task: &mut TaskVerdict, counts: bool, reason: &str) {
        let left_working = task.verdict == Verdict::LeftWorking;
        if !left_working && task.verdict != Verdict::NoProgress {
            return;
        }
        let run = self.run.dir.id;
        let mark = RunMark::new(run, &self.spec.token);
        if counts && task.attempt >= self.max_attempts {
            let attempts = task.attempt;
            let comment = format!(
                "calypso-watch parked this task: {attempts} attempts in {queue} failed, the last one: {reason} (run {mark}). \
                 Log: .calypso/runs/{subject}/{dir}/output.log. It is started again after `calypso-watch retry {id}`, or when its \
                 title, description, priority, assignee, tags or blocker change, or somebody comments on it.",
                queue = self.run.dir.queue,
                subject = crate::core::layout::subject_dir(run.subject),
                dir = self.run.dir.dir_name(),
                id = task.key.id,
            );
            task.write = Some(Write::Park {
                comment,
                put_back: left_working && !self.has_company,
            });
        } else if left_working && !self.has_company {
            let comment = format!(
                "calypso-watch put this task back to idle: its agent is gone, {reason} (run {mark})."
            );
            task.write = Some(Write::PutBack { comment });
        }
    }

    /// Whose fault it was, if it failed: when a task stands where it stood, or a file lies where it lay.
    fn failure(
        &self,
        outcome: &Outcome,
        tasks: &[TaskVerdict],
        files: &[FileVerdict],
    ) -> Option<Failure> {
        let stuck =
            |t: &&TaskVerdict| matches!(t.verdict, Verdict::NoProgress | Verdict::LeftWorking);
        let left = files.iter().filter(|f| f.left).count();
        let worst = tasks.iter().find(stuck);
        let nothing_happened = tasks.is_empty() && files.is_empty();
        if worst.is_none() && left == 0 && !nothing_happened {
            // It got on, but not out of the queue: the next run would fail as this one did.
            let got_on = tasks.iter().any(|t| t.verdict == Verdict::Progress);
            let is_others = |f: &&Failure| f.class != FailureClass::Task;
            let sign = self.evidence.sign.as_ref().filter(is_others);
            let by_itself = matches!(outcome, Outcome::Exited(_) | Outcome::Signaled(_));
            return sign.filter(|_| got_on && by_itself).cloned();
        }
        let failure = |class, reason: String| Some(Failure { class, reason });
        match outcome {
            // The shim writes an exec error so; see `shim`.
            Outcome::NotLaunched(why) if why.starts_with("exec ") => {
                failure(FailureClass::Environment, why.clone())
            }
            Outcome::NotLaunched(_) | Outcome::Lost => {
                failure(FailureClass::Ours, outcome.to_string())
            }
            Outcome::Stopped(by) if by.is_system() => {
                failure(FailureClass::Ours, outcome.to_string())
            }
            Outcome::Stopped(_) => None,
            Outcome::TimedOut | Outcome::LogLimit => {
                failure(FailureClass::Task, outcome.to_string())
            }
            Outcome::Exited(_) | Outcome::Signaled(_) => {
                if let Some(sign) = &self.evidence.sign {
                    return Some(sign.clone());
                }
                let what = if self.evidence.asked {
                    "asked a question and stopped".to_owned()
                } else if let Outcome::Signaled(signal) = outcome {
                    format!("was ended by signal {signal}")
                } else if worst.is_some_and(|t| t.verdict == Verdict::LeftWorking) {
                    "left it working".to_owned()
                } else if left > 0 {
                    let changed = files.iter().filter(|f| f.changed.is_some()).count();
                    let edited = match changed {
                        0 => "",
                        n if n == left => ", and changed by then",
                        _ => ", some of them changed by then",
                    };
                    format!("left {left} of {} requests in inbound{edited}", files.len())
                } else {
                    "made no progress".to_owned()
                };
                failure(FailureClass::Task, what)
            }
        }
    }

    fn is_late(&self, began: Option<&Moment>, ended: Option<&Moment>) -> bool {
        let away = match (&self.seen.last_unreachable, began) {
            (Some(away), Some(began)) => away.age(self.now) <= began.age(self.now),
            _ => false,
        };
        away || ended.is_some_and(|ended| ended.age(self.now) > LATE_AFTER)
    }
}

/// Does a verdict on a task of `queue` leave it where it was, so that its stay goes on?
pub fn stay_goes_on(record: &VerdictRecord, entry: &TaskVerdict, queue: &QueueName) -> bool {
    record.queue == *queue && matches!(entry.verdict, Verdict::NoProgress | Verdict::LeftWorking)
}

#[cfg(test)]
mod tests;
