//! What live runs, pid files of somebody else and people's marks call for: to end, to sweep, to judge, to clear; and why what
//! hangs on a run waits for it.
//!
//! Knows no queue's turn and no free slot, and not what a verdict says: [`Case::judge`] tells that.

use super::Deciding;
use crate::core::model::{Leftover, Millis, Moment, ProcessId, RunSubject, TaskKey};
use crate::core::policy::{SHIM_OVERDUE, START_OVERDUE};
use crate::core::verdict::{Case, Count, Meaning};
use crate::core::{Action, Hold, Mark, Run, StopCause, StrangerKind, Subject, Tinytask};

impl Deciding<'_> {
    // ── people's word ──────────────────────────────────────────────────────────────────────────────────────────────────

    pub(super) fn marks(&mut self) {
        let controls = &self.seen.controls;
        for subject in &controls.retry {
            // Up to which run it forgives is not known while the records cannot be read, and the wish must not be lost: it waits.
            if self.seen.unreadable.contains_key(subject) {
                continue;
            }
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

    pub(super) fn runs(&mut self) {
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
                Meaning::Starting => self.stuck_at_start(run),
                Meaning::Ending => self.stuck_at_end(run),
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
    pub(super) fn unknown(&self, run: &Run) -> Hold {
        let unreadable = self.unreadable(run.dir.id.subject);
        unreadable.unwrap_or(Hold::Unknown { run: run.dir.id })
    }

    pub(super) fn unreadable(&self, subject: RunSubject) -> Option<Hold> {
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
        // A live shim is at work on it for as long as the grace lasts.
        let grace = if patience == 0 {
            0
        } else {
            spec.limits.grace.0
        };
        let limit = spec.limits.time.0.saturating_add(patience);
        let limit = Millis(limit.saturating_add(grace));
        let left = began.limit_left(limit, self.now);
        if left.0 == 0 {
            self.out.actions.push(stop(StopCause::TimeLimit));
        } else {
            self.wake(self.now.wall.plus(left));
        }
    }

    /// A shim that is stopped before it opened the gate would start work that was decided long ago, once it is continued.
    fn stuck_at_start(&mut self, run: &Run) {
        let Some(state) = run.state.as_ref().filter(|_| !run.in_hand) else {
            // Before its first record it looks at the spec's age itself.
            return;
        };
        let left = state.started.limit_left(START_OVERDUE, self.now);
        if left.0 == 0 {
            self.out.actions.push(Action::Stop {
                run: run.dir.clone(),
                cause: StopCause::TimeLimit,
            });
        } else {
            self.wake(self.now.wall.plus(left));
        }
    }

    /// A shim that is stopped between its last word and the removal of the pid file: all is known and all is over.
    fn stuck_at_end(&mut self, run: &Run) {
        let Some(ended) = run.state.as_ref().and_then(|state| state.ended.as_ref()) else {
            return;
        };
        let left = ended.limit_left(SHIM_OVERDUE, self.now);
        if left.0 == 0 {
            self.out.actions.push(Action::ClearPidFile {
                run: run.dir.clone(),
            });
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
        // Of several that are judged at once the last answers for what none of them was named after: somebody has to.
        let is_judged = |other: &Run| {
            (self.out.actions.iter()).any(
                |action| matches!(action, Action::RecordVerdict { run, .. } if *run == other.dir),
            )
        };
        let has_company = self.live().any(|(other, _)| {
            other.dir.queue == run.dir.queue && other.dir.id != run.dir.id && !is_judged(other)
        });
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
        let subject = run.dir.id.subject;
        // The mark may be written by this very decision, before the verdict.
        let is_forgiven = (self.seen.histories.get(&subject))
            .is_some_and(|history| run.dir.id.number <= history.marks.retried_after)
            || (self.seen.controls.retry.contains(&subject)
                && !self.seen.unreadable.contains_key(&subject));
        let max_attempts = self.policy.max_attempts;
        let case = Case {
            seen: self.seen,
            run,
            spec,
            evidence,
            max_attempts,
            has_company,
            is_forgiven,
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

    // ── strangers ──────────────────────────────────────────────────────────────────────────────────────────────────────

    pub(super) fn strangers(&mut self) {
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
                    modified: stranger.modified,
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

    pub(super) fn stranger_hold(&self, subject: RunSubject) -> Option<Hold> {
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
}

/// Why a task, or a file, waits for its own run.
pub(super) fn run_hold(run: &Run, meaning: Meaning) -> Hold {
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
pub(super) fn began(run: &Run) -> Option<&Moment> {
    let state = run.state.as_ref()?;
    Some(state.running.as_ref().unwrap_or(&state.started))
}
