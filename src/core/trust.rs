//! Is it the tinytask we know? A server that was swapped for another, or restored from a backup, answers like any other.
//!
//! Knows what earlier looks showed open and what a person said of it; asks nobody: [`Trust::doubt`] says which tasks are to be asked
//! for by number, [`Trust::answered`] what follows from the answers.
//!
//! Known gap: a database of fewer than [`SUSPICIOUS_FROM`] open tasks can be exchanged unseen, as long as no run is out on one of them.

use std::collections::BTreeSet;

use crate::core::model::{Detail, Moment, Now, Task, TaskId, TaskKey};
use crate::core::record::{FORMAT, Known};
use crate::core::{Coverage, Run, Snapshot, Tinytask};

/// Of so many known open tasks, most have to vanish before the server is suspected.
pub const SUSPICIOUS_FROM: usize = 4;
/// Tasks that are asked for by number before the server is suspected.
const MOST_ASKED: usize = 8;
/// Open tasks that are written down: enough to tell another server by.
const MOST_KNOWN: usize = 1000;

/// What the looks so far say of tinytask's identity.
#[derive(Debug, Clone, Default)]
pub struct Trust {
    /// Open tasks of the last whole look.
    open: BTreeSet<TaskKey>,
    /// When a person said that tinytask is the right one, and so is what it shows.
    trusted: Option<Moment>,
    /// The last look that could tell found another server's tasks.
    is_suspicious: bool,
}

/// What a look's answers leave to doubt.
#[derive(Debug, PartialEq)]
pub enum Doubt {
    Nothing,
    /// It is another server's, for sure.
    Sure(Tinytask),
    /// These have to be asked for by number.
    Ask(Vec<TaskKey>),
}

impl Trust {
    /// As the daemon before wrote it down.
    pub fn of(known: Known) -> Self {
        Self {
            open: known.open.into_iter().collect(),
            trusted: known.trusted,
            is_suspicious: false,
        }
    }

    /// To be written down.
    pub fn known(&self) -> Known {
        let newest = self.open.iter().rev().take(MOST_KNOWN);
        Known {
            format: FORMAT,
            open: newest.rev().copied().collect(),
            trusted: self.trusted.clone(),
        }
    }

    /// The newest task known to be open besides `but`: where that is gone, tinytask may be another one since the last whole look.
    pub fn witness(&self, but: &BTreeSet<TaskId>) -> Option<TaskKey> {
        let mut newest = self.open.iter().rev();
        newest.find(|key| !but.contains(&key.id)).copied()
    }

    /// A look in which most of the tasks known to be open are gone without a trace is another server's, or a restored
    /// database's: better to wait for a person than to judge by it. The server is asked for a few of them by number, since
    /// people may well complete or archive everything at once. A look at some queues is doubted only if a task that a run was
    /// started for is gone, or the last look was doubted.
    ///
    /// One task is enough where its number is another's now, as numbers are never given out twice, and a run is out on it.
    pub fn doubt(&mut self, seen: &Snapshot, now: &Now) -> Doubt {
        let is_whole = seen.coverage == Coverage::Everything;
        if seen.controls.trust_tinytask {
            self.open = if is_whole {
                open_in(seen)
            } else {
                BTreeSet::new()
            };
            self.trusted = Some(now.into());
            self.is_suspicious = false;
            return Doubt::Nothing;
        }
        let out = self.runs_out(seen, now);
        let vanished = out.iter().filter(|key| is_anothers(seen, **key)).count();
        if vanished > 0 {
            let of = out.len();
            return Doubt::Sure(Tinytask::Suspicious { vanished, of });
        }
        // A look at a queue or two, which comes with each start, goes through what it saw and not through all that is known.
        if is_whole || self.is_suspicious || self.knows_of_a_gone_one(seen) {
            let gone = self.gone(seen);
            let is_doubtful = !is_whole || gone.len() * 4 > self.open.len() * 3;
            if is_doubtful && gone.len() >= SUSPICIOUS_FROM {
                return Doubt::Ask(gone.into_iter().take(MOST_ASKED).collect());
            }
        }
        self.believe(seen);
        Doubt::Nothing
    }

    /// Is one of the tasks that were asked for by number known to be open, and gone?
    fn knows_of_a_gone_one(&self, seen: &Snapshot) -> bool {
        seen.details.iter().any(|(id, detail)| {
            let created_at = i64::MIN;
            let mut known = self.open.range(
                TaskKey {
                    id: *id,
                    created_at,
                }..,
            );
            known
                .next()
                .is_some_and(|key| key.id == *id && is_gone(Some(detail), *key))
        })
    }

    /// What became of the tasks that were to be asked for: each with its answer, where one came. What was not answered lifts no
    /// suspicion: the server may be about to be exchanged for the right one.
    pub fn answered(
        &mut self,
        seen: &Snapshot,
        answers: &[(TaskKey, Option<Detail>)],
    ) -> Option<Tinytask> {
        let is_gone = |(key, answer): &&(TaskKey, Option<Detail>)| is_gone(answer.as_ref(), *key);
        let are_gone = answers.iter().filter(is_gone).count();
        let of = answers
            .iter()
            .filter(|(_, answer)| answer.is_some())
            .count();
        // What a look at some queues does not show may lie in the others: one task that is still there lifts no suspicion.
        self.is_suspicious = if seen.coverage == Coverage::Everything {
            are_gone == of
        } else {
            of == 0 || are_gone * 4 > of * 3
        };
        if self.is_suspicious {
            let (vanished, of) = (self.gone(seen).len(), self.open.len());
            return Some(Tinytask::Suspicious { vanished, of });
        }
        self.believe(seen);
        None
    }

    fn believe(&mut self, seen: &Snapshot) {
        if seen.coverage == Coverage::Everything {
            self.is_suspicious = false;
            self.open = open_in(seen);
        }
    }

    /// Known to be open, and not seen so.
    fn gone(&self, seen: &Snapshot) -> Vec<TaskKey> {
        let is_open = |key: &TaskKey| seen.tasks.get(&key.id).map(Task::key) == Some(*key);
        let known = self.open.iter();
        known.filter(|key| !is_open(key)).copied().collect()
    }

    /// The tasks of runs that are not judged, or whose verdict is not written to tinytask yet.
    fn runs_out(&self, seen: &Snapshot, now: &Now) -> Vec<TaskKey> {
        // By their ages, as the clock may have been set between the two.
        let is_old = |run: &Run| {
            let began = run.spec.as_ref().map(|spec| &spec.times.written);
            let trusted = self.trusted.as_ref();
            trusted.is_some_and(|trusted| began.is_some_and(|b| b.age(now) >= trusted.age(now)))
        };
        let runs = seen.runs.iter().filter(|run| !is_old(run));
        runs.flat_map(|run| match &run.verdict {
            None => run
                .spec
                .as_ref()
                .and_then(|spec| spec.task)
                .into_iter()
                .collect(),
            Some(verdict) => (verdict.tasks.iter())
                .filter(|task| task.write.is_some())
                .map(|task| task.key)
                .collect::<Vec<_>>(),
        })
        .collect()
    }
}

fn open_in(seen: &Snapshot) -> BTreeSet<TaskKey> {
    seen.tasks.values().map(Task::key).collect()
}

/// Is its number another task's, by this look's answers?
fn is_anothers(seen: &Snapshot, key: TaskKey) -> bool {
    let listed = seen.tasks.get(&key.id).map(Task::key);
    let asked = match seen.details.get(&key.id) {
        Some(Detail::Found(found)) => Some(found.task.key()),
        _ => None,
    };
    listed.or(asked).is_some_and(|found| found != key)
}

/// Does the answer say that there is no such task, or that its number is another one's?
pub fn is_gone(answer: Option<&Detail>, key: TaskKey) -> bool {
    match answer {
        Some(Detail::NotFound) => true,
        Some(Detail::Found(found)) => found.task.key() != key,
        None => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::given::{key, moment, now, run, spec_of, task};

    /// A look at everything that shows these tasks.
    fn shows(tasks: &[i64]) -> Snapshot {
        let tasks = tasks.iter().map(|number| task(*number, "coder"));
        Snapshot {
            coverage: Coverage::Everything,
            tasks: tasks.map(|task| (task.id, task)).collect(),
            ..Snapshot::default()
        }
    }

    fn knows(tasks: &[i64]) -> Trust {
        Trust::of(Known {
            open: tasks.iter().map(|number| key(*number)).collect(),
            ..Known::default()
        })
    }

    #[test]
    fn most_tasks_gone_at_once_are_asked_for_and_then_doubted() {
        let mut trust = knows(&[1, 2, 3, 4, 5]);
        let seen = shows(&[5]);
        let Doubt::Ask(asked) = trust.doubt(&seen, &now(0)) else {
            panic!("nothing is asked");
        };
        assert_eq!(asked, [key(1), key(2), key(3), key(4)]);
        let gone: Vec<_> = asked
            .iter()
            .map(|key| (*key, Some(Detail::NotFound)))
            .collect();
        let (vanished, of) = (4, 5);
        let suspicious = Some(Tinytask::Suspicious { vanished, of });
        assert_eq!(trust.answered(&seen, &gone), suspicious);
        assert_eq!(trust.known().open.len(), 5, "what was known is kept");
        // The server ended in between.
        let silent: Vec<_> = asked.iter().map(|key| (*key, None)).collect();
        assert_eq!(trust.answered(&seen, &silent), suspicious);
        assert_eq!(trust.known().open.len(), 5);
    }

    #[test]
    fn three_known_tasks_are_too_few_to_tell_a_server_by() {
        let mut trust = knows(&[1, 2, 3]);
        assert_eq!(trust.doubt(&shows(&[]), &now(0)), Doubt::Nothing);
        assert_eq!(trust.known().open, []);
    }

    #[test]
    fn a_number_that_is_anothers_is_enough_while_a_run_is_out_on_it() {
        let mut other = shows(&[1]);
        other.runs.push(run("1/1", "coder"));
        assert_eq!(Trust::default().doubt(&other, &now(0)), Doubt::Nothing);
        if let Some(task) = other.tasks.values_mut().next() {
            task.created_at = task.created_at.plus(crate::core::model::Millis::secs(60));
        }
        let (vanished, of) = (1, 1);
        let suspicious = Doubt::Sure(Tinytask::Suspicious { vanished, of });
        assert_eq!(Trust::default().doubt(&other, &now(0)), suspicious);
    }

    #[test]
    fn a_persons_word_holds_for_the_runs_before_it_by_whatever_clock() {
        let mut other = shows(&[1]);
        let mut before = run("1/1", "coder");
        // The clock was set back by a day between the run's start and the person's word.
        let written = &mut spec_of(&mut before).times.written;
        written.wall = moment(86_400).wall;
        written.boot = moment(-60).boot;
        other.runs.push(before);
        if let Some(task) = other.tasks.values_mut().next() {
            task.created_at = task.created_at.plus(crate::core::model::Millis::secs(60));
        }
        let mut trust = Trust::default();
        other.controls.trust_tinytask = true;
        assert_eq!(trust.doubt(&other, &now(0)), Doubt::Nothing);
        other.controls.trust_tinytask = false;
        assert_eq!(trust.doubt(&other, &now(10)), Doubt::Nothing);
        let mut read_back = Trust::of(trust.known());
        assert_eq!(read_back.doubt(&other, &now(20)), Doubt::Nothing);
    }
}
