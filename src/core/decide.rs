//! What to do now, and why the rest waits. The story is [`decide`]; each part of it has a file.
//!
//! | file | what it tells |
//! |---|---|
//! | `runs.rs` | what live runs, others' pid files and people's marks call for |
//! | `waiting.rs` | which files and tasks only need a slot, and why each of the others waits |
//! | `slots.rs` | who gets a slot, and which provider or queue is held |
//! | `outage.rs` | how often in a row something has failed |
//! | `carried_out.rs` | the same look, once that is done |
//!
//! Nothing is started on the file system's word alone, nor on tinytask's alone: a launch needs a task that tinytask shows
//! runnable in this very look, a folder, a recipe, and no trace of a run that may still be alive.

use crate::core::history::Standing;
use crate::core::model::{FileKey, Now, QueueName, RunSubject, Task, TaskKey, Timestamp};
use crate::core::verdict::Meaning;
use crate::core::{Decision, Hold, Policy, Run, Snapshot, Subject, Tinytask};

mod carried_out;
mod outage;
mod runs;
mod slots;
mod waiting;

pub use carried_out::carried_out;

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
    // Before the verdicts: a task is not put back beside a pid file, and nobody would come back to it once that is cleared.
    deciding.strangers();
    deciding.runs();
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

    // ── what the parts share ───────────────────────────────────────────────────────────────────────────────────────────

    fn hold(&mut self, subject: Subject, hold: Hold) {
        self.out.holds.push((subject, hold));
    }

    fn wake(&mut self, at: Timestamp) {
        self.out.wake_at = Some(self.out.wake_at.map_or(at, |earlier| earlier.min(at)));
    }

    fn wake_queue(&mut self, queue: &QueueName, at: Timestamp) {
        self.wake(at);
        let earliest = self.out.wake_queues.entry(queue.clone()).or_insert(at);
        *earliest = at.min(*earliest);
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
}

#[cfg(test)]
mod tests;
