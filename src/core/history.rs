//! What past runs mean for a task, or an inbound file, now: its stay, its attempts, and whether it waits for that.
//!
//! Nothing here is remembered between looks: it follows from the verdicts on disk each time.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use crate::core::model::{
    FileKey, Moment, Now, Outcome, QueueName, RunId, RunSubject, Task, TaskKey,
};
use crate::core::policy::{MAX_FILE_ATTEMPTS, MAX_OURS, OURS_WINDOW, task_backoff};
use crate::core::record::{
    FailureClass, FileVerdict, Marks, TaskVerdict, Verdict, VerdictRecord, Write,
};
use crate::core::verdict::stay_goes_on;
use crate::core::{History, Hold, Policy};

mod past;

pub use past::{Gist, Past};

/// Where a task stands in its stay.
#[derive(Debug, Clone, PartialEq)]
pub struct Standing {
    pub stay: u32,
    /// Attempts that failed in this stay.
    pub failed: u32,
    /// Runs since the last `retry`, over all queues.
    pub runs: u32,
    /// How the last run of this stay failed.
    pub last_reason: Option<String>,
    /// A run left it working and, as others of its queue lived or tinytask did not show it, did not put it back; nobody changed it
    /// since.
    pub left_working: Option<RunId>,
    /// When the last run that calls for a wait ended, and after how many of its kind.
    wait: Option<(Moment, u32, RunId)>,
    parked: Option<String>,
    stopped: Option<RunId>,
    /// Runs that failed through no fault of the task, newest first.
    ours: Vec<Moment>,
}

impl Default for Standing {
    fn default() -> Self {
        Self {
            stay: 1,
            failed: 0,
            runs: 0,
            last_reason: None,
            left_working: None,
            wait: None,
            parked: None,
            stopped: None,
            ours: Vec::new(),
        }
    }
}

/// Does this verdict count no more, since a person said `retry`? Runs of the subject itself are told by their number, which no
/// clock can change; those that only touched it by the time.
fn is_forgiven(record: &VerdictRecord, subject: RunSubject, marks: &Marks) -> bool {
    if record.run.subject == subject {
        record.run.number <= marks.retried_after
    } else {
        marks
            .retried_at
            .as_ref()
            .is_some_and(|at| record.judged.wall <= at.wall)
    }
}

fn is_attempt(record: &VerdictRecord) -> bool {
    !record.late
        && record
            .failure
            .as_ref()
            .is_some_and(|f| f.class == FailureClass::Task)
}

/// Does it count towards the runs a person's word is needed for after so many? One that met an outage of its provider, or of its
/// recipe or machine, does not: the hold of those bounds how often they are probed, and the probe is always the same first task.
fn is_counted(record: &VerdictRecord) -> bool {
    let is_outage = record
        .failure
        .as_ref()
        .is_some_and(|f| matches!(f.class, FailureClass::Provider | FailureClass::Environment));
    !is_outage && !matches!(record.outcome, Outcome::NotLaunched(_))
}

/// Through no fault of the task, the agent, its recipe or its provider.
fn is_ours(record: &VerdictRecord) -> bool {
    record
        .failure
        .as_ref()
        .is_some_and(|f| f.class == FailureClass::Ours)
}

/// `ours`: when runs failed through no fault of the task, newest first.
fn lost_too_often(ours: &[Moment], now: &Now) -> Option<Hold> {
    let left = ours.iter().map(|at| at.left_of(OURS_WINDOW, now));
    let recent: Vec<_> = left.filter(|left| left.0 > 0).collect();
    // The oldest of the last MAX_OURS has to leave the window.
    let until = now.wall.plus(*recent.get(MAX_OURS as usize - 1)?);
    let runs = recent.len() as u32;
    Some(Hold::LostTooOften { runs, until })
}

fn reason(record: &VerdictRecord) -> &str {
    record.failure.as_ref().map_or("failed", |f| &f.reason)
}

/// Verdicts of a subject's own runs and of others' that touched it, as [`History`] has them: own ones in the order of their numbers,
/// whatever the wall clock did meanwhile, and others' fitted in by time.
pub fn in_order(
    subject: RunSubject,
    verdicts: impl IntoIterator<Item = Arc<VerdictRecord>>,
) -> Vec<Arc<VerdictRecord>> {
    let (mut own, mut others): (Vec<_>, Vec<_>) = verdicts
        .into_iter()
        .partition(|verdict| verdict.run.subject == subject);
    own.sort_by(|a, b| (a.run.number, &a.queue).cmp(&(b.run.number, &b.queue)));
    others.sort_by_key(|verdict| (verdict.judged.wall, verdict.run));
    let mut others = others.into_iter().peekable();
    let mut verdicts = Vec::new();
    for verdict in own {
        while let Some(other) = others.next_if(|other| other.judged.wall < verdict.judged.wall) {
            verdicts.push(other);
        }
        verdicts.push(verdict);
    }
    verdicts.extend(others);
    verdicts
}

impl Standing {
    /// Of the task `key` in `queue`, as `task` and `last_comment` show it now, where they do.
    pub fn of(
        history: &History,
        key: TaskKey,
        queue: &QueueName,
        task: Option<&Task>,
        last_comment: Option<i64>,
    ) -> Self {
        let mut standing = Self::default();
        let subject = RunSubject::Task(key.id);
        let mut last: Option<(&VerdictRecord, &TaskVerdict)> = None;
        let mut is_known = false;
        let mut passed_over: Vec<&VerdictRecord> = Vec::new();
        // The last run left it working to the others of its queue: a debt that no `retry` and no parking settles.
        let mut left: Option<&VerdictRecord> = None;
        for record in &history.verdicts {
            let Some(entry) = record.tasks.iter().find(|t| t.key == key) else {
                if (is_attempt(record) || is_ours(record) || record.late)
                    && record.run.subject == subject
                    && record.queue == *queue
                    && record.judged.wall.seconds() >= key.created_at
                    && !record.tasks.iter().any(|t| t.key.id == key.id)
                    && !is_forgiven(record, subject, &history.marks)
                {
                    passed_over.push(record);
                }
                continue;
            };
            passed_over.clear();
            is_known = true;
            let is_not_put_back = matches!(
                entry.write,
                None | Some(Write::Park {
                    put_back: false,
                    ..
                })
            );
            // What was gone and is there again: tinytask was another one meanwhile.
            let is_left = record.queue == *queue
                && matches!(entry.verdict, Verdict::LeftWorking | Verdict::Gone)
                && is_not_put_back;
            left = is_left.then_some(record);
            standing.stay = standing.stay.max(entry.stay);
            if is_forgiven(record, subject, &history.marks) {
                last = None;
                standing.begin_stay();
                continue;
            }
            standing.runs += u32::from(is_counted(record));
            if last.is_some_and(|(_, before)| before.stay != entry.stay) {
                standing.begin_stay();
            }
            standing.add(record, entry);
            last = Some((record, entry));
        }
        // Runs that were named after the task, worked on others instead and failed there are no attempts of it. They cost all the
        // same: without a wait the next would follow at once, and the agent be handed the same other task.
        let waits = passed_over.last().map(|record| {
            standing.runs += passed_over.iter().filter(|r| is_counted(r)).count() as u32;
            (
                record.judged.clone(),
                passed_over.len() as u32,
                record.run,
                format!("worked on another task: {}", reason(record)),
            )
        });
        let mut standing = standing.concluded(is_known, queue, task, last_comment, last);
        let is_untouched = |since: &&VerdictRecord| {
            task.is_some_and(|t| t.updated_at.seconds() <= since.judged.wall.seconds())
        };
        standing.left_working = left.filter(is_untouched).map(|record| record.run);
        match waits {
            Some((since, n, run, why)) => Self {
                wait: Some((since, n, run)),
                last_reason: Some(why),
                ..standing
            },
            None => standing,
        }
    }

    /// What follows from the last verdict on the task.
    fn concluded(
        mut self,
        is_known: bool,
        queue: &QueueName,
        task: Option<&Task>,
        last_comment: Option<i64>,
        last: Option<(&VerdictRecord, &TaskVerdict)>,
    ) -> Self {
        let standing = &mut self;
        let Some((record, entry)) = last else {
            if is_known {
                standing.stay = standing.stay.saturating_add(1);
            }
            return self;
        };
        let moved = task.is_some_and(|t| t.previous_assigned_to != entry.previous_assigned_to);
        let lifted = standing.parked.is_some()
            && (task.is_some_and(|t| t.fields != entry.fields)
                || last_comment.is_some_and(|c| c > entry.last_comment));
        if !stay_goes_on(record, entry, queue) || moved || lifted {
            let progressed = entry.verdict == Verdict::Progress && record.queue == *queue && !moved;
            let (wait, stopped) = (standing.wait.take(), standing.stopped.take());
            standing.stay = entry.stay.saturating_add(1);
            standing.begin_stay();
            // It may go on where it got on, but not in a spin.
            standing.wait = wait.filter(|_| progressed);
            standing.stopped = stopped.filter(|_| progressed);
        }
        self
    }

    fn begin_stay(&mut self) {
        self.failed = 0;
        self.last_reason = None;
        self.wait = None;
        self.parked = None;
        self.stopped = None;
    }

    fn add(&mut self, record: &VerdictRecord, entry: &TaskVerdict) {
        let failed = matches!(entry.verdict, Verdict::NoProgress | Verdict::LeftWorking);
        self.stopped = matches!(record.outcome, Outcome::Stopped(by) if !by.is_system())
            .then_some(record.run)
            .filter(|_| failed || entry.verdict == Verdict::Progress);
        if entry.verdict == Verdict::Progress {
            let n = self.wait.as_ref().map_or(0, |(_, n, _)| *n) + 1;
            self.wait = Some((record.judged.clone(), n, record.run));
        }
        if !failed {
            return;
        }
        self.last_reason = record.failure.as_ref().map(|f| f.reason.clone());
        if is_attempt(record) {
            self.failed += 1;
            self.wait = Some((record.judged.clone(), self.failed, record.run));
        } else if record.late {
            // No attempt, but no reason to hurry either: tinytask may be away for long, and each run costs money.
            let n = self.wait.as_ref().map_or(0, |(_, n, _)| *n) + 1;
            self.wait = Some((record.judged.clone(), n, record.run));
        }
        if is_ours(record) {
            self.ours.insert(0, record.judged.clone());
        }
        if let Some(Write::Park { .. }) = entry.write {
            self.parked = Some(self.last_reason.clone().unwrap_or_default());
        }
    }

    /// What the task waits for because of its past, if anything.
    pub fn hold(&self, policy: &Policy, now: &Now) -> Option<Hold> {
        if let Some(run) = self.stopped {
            return Some(Hold::StoppedByPerson { run });
        }
        if let Some(reason) = &self.parked {
            return Some(Hold::Parked {
                attempts: self.failed,
                reason: reason.clone(),
            });
        }
        if self.runs >= policy.max_runs_per_task {
            return Some(Hold::TooManyRuns { runs: self.runs });
        }
        if let Some(hold) = lost_too_often(&self.ours, now) {
            return Some(hold);
        }
        let (since, n, run) = self.wait.as_ref()?;
        let left = since.left_of(task_backoff(*n, *run), now);
        (left.0 > 0).then(|| Hold::BackingOff {
            until: now.wall.plus(left),
            attempt: self.failed + 1,
            of: policy.max_attempts,
            reason: self
                .last_reason
                .clone()
                .unwrap_or_else(|| "went on, but did not hand on".into()),
        })
    }
}

/// What past runs say of inbound files, by name: looked up for each file, of which there may be very many.
pub struct PastFiles<'a>(HashMap<&'a str, Vec<(&'a VerdictRecord, &'a FileVerdict)>>);

impl<'a> PastFiles<'a> {
    /// Of the runs over inbound/ that no `retry` has forgiven, oldest first; of the files that lie there, as one past run may have taken
    /// a hundred thousand others away.
    pub fn new(history: &'a History, lying: HashSet<&str>) -> Self {
        let mut by_name: HashMap<&str, Vec<_>> = HashMap::new();
        if lying.is_empty() {
            return Self(by_name);
        }
        let counts = |r: &&VerdictRecord| !is_forgiven(r, RunSubject::Inbound, &history.marks);
        for record in history.verdicts.iter().map(AsRef::as_ref).filter(counts) {
            for file in record
                .files
                .iter()
                .filter(|f| lying.contains(&*f.file.name))
            {
                by_name
                    .entry(&file.file.name)
                    .or_default()
                    .push((record, file));
            }
        }
        Self(by_name)
    }

    fn of(&self, name: &str) -> &[(&'a VerdictRecord, &'a FileVerdict)] {
        self.0.get(name).map_or(&[], Vec::as_slice)
    }
}

/// Where an inbound file stands.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct FileStanding {
    /// Attempts that left it where it lay.
    pub attempts: u32,
    pub hold: Option<Hold>,
    /// Runs in a row that did not take a file of its name.
    runs: u32,
}

impl FileStanding {
    /// Of the file `key`: its name, inode and mtime, so that an edited file is a new one, for which what was held of the old one
    /// holds no more. One that changes while its run lives is another file at each verdict, though: what such runs left counts by
    /// name, or it would be dispatched for ever. Nor has any name more than `max_runs` in a row that did not take it.
    pub fn of(past: &PastFiles<'_>, key: &FileKey, max_runs: u32, now: &Now) -> Self {
        let mut standing = Self::default();
        let mut wait = None;
        let mut excused = 0;
        let mut ours = Vec::new();
        let mut reason = String::new();
        for (record, file) in past.of(&key.name) {
            if !file.left {
                // What lies here now is another request, unless it is that very one: something that puts back what is taken away
                // (a folder kept in step with another machine's, say) keeps its time.
                let is_restored = file.file.modified == key.modified;
                let runs = if is_restored { standing.runs + 1 } else { 0 };
                standing = Self {
                    runs,
                    ..Self::default()
                };
                (wait, excused) = (None, 0);
                ours.clear();
                continue;
            }
            let is_dispatched = !file.created.is_empty();
            standing.runs += u32::from(is_counted(record) || is_dispatched);
            let is_this = file.as_judged() == key;
            if !is_this && file.changed.is_none() {
                // Edited since.
                continue;
            }
            if is_this
                && let Outcome::Stopped(by) = record.outcome
                && !by.is_system()
            {
                standing.hold = Some(Hold::StoppedByPerson { run: record.run });
                continue;
            }
            if is_this && is_dispatched {
                standing.hold = Some(Hold::DispatchedNotMoved {
                    tasks: file.created.clone(),
                });
            }
            let is_ours = is_ours(record);
            if is_attempt(record) || is_dispatched {
                standing.attempts += 1;
                reason = record
                    .failure
                    .as_ref()
                    .map(|f| f.reason.clone())
                    .unwrap_or_default();
            } else if is_ours || record.late {
                // No attempt of the file, but the next one costs as much.
                excused += 1;
            } else {
                continue;
            }
            if is_ours {
                ours.insert(0, record.judged.clone());
            }
            let n = standing.attempts + excused;
            wait = Some((record.judged.clone(), record.run, n));
        }
        if standing.hold.is_some() {
            return standing;
        }
        let (attempts, runs) = (standing.attempts, standing.runs);
        standing.hold = if attempts >= MAX_FILE_ATTEMPTS {
            Some(Hold::FileParked { attempts, reason })
        } else if runs >= max_runs {
            Some(Hold::TooManyRuns { runs })
        } else {
            lost_too_often(&ours, now).or_else(|| {
                let (since, run, n) = wait?;
                let left = since.left_of(task_backoff(n, run), now);
                (left.0 > 0).then(|| Hold::FileBackingOff {
                    until: now.wall.plus(left),
                    attempt: attempts + 1,
                    of: MAX_FILE_ATTEMPTS,
                })
            })
        };
        standing
    }
}

#[cfg(test)]
mod tests;
