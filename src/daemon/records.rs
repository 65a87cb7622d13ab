//! What the daemon writes of itself besides its journal, and what of old it lets go.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use tracing::{info, warn};

use super::lock::Place;
use super::{Daemon, DaemonRecord};
use crate::core::model::{Millis, QueueName, RunSubject, Task, TaskId};
use crate::core::record::FileVerdict;
use crate::core::{Coverage, Decision, Hold, Snapshot, Subject, Tinytask};
use crate::edge::{clock, control, kill_point, runs};
use crate::look::chain;

/// Looks between two whole ones see a queue or two; this is what all of them together have seen. A look goes through what it saw, and
/// not through all that is known.
#[derive(Default)]
pub(super) struct Holds {
    tasks: BTreeMap<TaskId, (Option<QueueName>, Arc<Hold>)>,
    /// The same, by the queue in which each was seen.
    by_queue: BTreeMap<QueueName, BTreeSet<TaskId>>,
    /// Those that wait for something in their folder.
    folders: BTreeSet<TaskId>,
    others: BTreeMap<Subject, Hold>,
}

impl Holds {
    pub(super) fn looked(&mut self, seen: &Snapshot, decision: &Decision) {
        match &seen.coverage {
            Coverage::Nothing => {}
            Coverage::Queues(queues) => {
                for id in queues
                    .iter()
                    .filter_map(|queue| self.by_queue.remove(queue))
                    .flatten()
                {
                    self.tasks.remove(&id);
                    self.folders.remove(&id);
                }
            }
            Coverage::Everything => {
                self.tasks.clear();
                self.by_queue.clear();
                self.folders.clear();
            }
        }
        for id in seen.tasks.keys().chain(seen.details.keys()) {
            self.folders.remove(id);
            if let Some((Some(queue), _)) = self.tasks.remove(id)
                && let Some(ids) = self.by_queue.get_mut(&queue)
            {
                ids.remove(id);
            }
        }
        self.others.retain(|subject, _| match subject {
            Subject::Queue(queue) => !seen.coverage.has(queue),
            Subject::Provider(_) => seen.coverage != Coverage::Everything,
            _ => false,
        });
        // A queue's tasks mostly wait for the same: ten thousand have a few dozen holds.
        let mut last = Arc::new(Hold::Paused);
        for (subject, hold) in &decision.holds {
            let Subject::Task(id) = subject else {
                self.others.insert(subject.clone(), hold.clone());
                continue;
            };
            let queue = seen.task_now(*id).and_then(Task::queue);
            if let Some(queue) = &queue {
                self.by_queue.entry(queue.clone()).or_default().insert(*id);
            }
            if let Hold::AwaitingFiles { .. } | Hold::NoFolder | Hold::Parked { .. } = hold {
                self.folders.insert(*id);
            }
            if *last != *hold {
                last = Arc::new(hold.clone());
            }
            self.tasks.insert(*id, (queue, Arc::clone(&last)));
        }
    }

    /// Tasks that wait for something in their folder.
    pub(super) fn waiting_folders(&self) -> &BTreeSet<TaskId> {
        &self.folders
    }

    pub(super) fn len(&self) -> usize {
        self.others.len() + self.tasks.len()
    }

    /// Tasks last, as they are many.
    pub(super) fn iter(&self) -> impl Iterator<Item = (Subject, &Hold)> {
        let tasks = self.tasks.iter();
        let tasks = tasks.map(|(id, (_, hold))| (Subject::Task(*id), &**hold));
        let others = self.others.iter();
        others
            .map(|(subject, hold)| (subject.clone(), hold))
            .chain(tasks)
    }
}

impl Daemon {
    pub(super) fn record(&mut self, seen: &Snapshot) {
        let trouble = self.trouble_now();
        let record = DaemonRecord::new(&self.since, &self.heard_by, trouble, seen, &self.holds);
        if let Err(error) = self.lock.record(&record) {
            warn!(error = %error, "cannot write daemon.json");
        }
        if let Err(error) = self.record_known(seen) {
            warn!(error = chain(&error), "cannot write known.json");
        }
    }

    /// What failed in the last round, or failed before and is left alone for a while: no other process knows of that.
    fn trouble_now(&self) -> Option<String> {
        let stuck = self.stuck.iter();
        let stuck = stuck.map(|(queue, why)| format!("`{queue}` could not be started: {why}"));
        let failing = self.failing.values().map(|failing| failing.why.clone());
        self.trouble.clone().or_else(|| stuck.chain(failing).next())
    }

    /// What tinytask shows open, for the next daemon; then a person's word on it is taken down.
    fn record_known(&mut self, seen: &Snapshot) -> Result<(), runs::Error> {
        let known = self.looker.memory.trust.known();
        if self.known.as_ref() != Some(&known) {
            runs::write_known(&self.looker.layout, &known)?;
            self.known = Some(known);
        }
        if seen.controls.trust_tinytask && matches!(seen.tinytask, Tinytask::Fresh { .. }) {
            let wish = control::Control::ReleaseTinytask;
            let what = "tinytask is the right one, a person says";
            self.journal.did("mark", None, None, what.into());
            if let Err(error) = control::remove(&self.looker.layout, &wish) {
                warn!(%error, "cannot remove a control file");
            }
        }
        Ok(())
    }

    /// For whoever starts next: another daemon, or somebody who asks for the status.
    pub(super) fn index(&mut self) {
        let memory = &mut self.looker.memory;
        if !memory.wants_indexing() || self.lock.place() != Place::Ours {
            return;
        }
        if let Err(error) = memory.write_index(&self.looker.layout) {
            warn!(error = chain(&error), "cannot write the index of past runs");
        }
    }

    pub(super) fn prune(&self, seen: &Snapshot) {
        let is_whole = seen.coverage == Coverage::Everything;
        // Of another server's tasks it would follow that all of ours are closed.
        if !is_whole || !matches!(seen.tinytask, Tinytask::Fresh { .. }) {
            return;
        }
        let keep = Millis::secs(u64::from(self.looker.config.keep_days) * 86_400);
        let per_task = self.looker.config.keep_per_task as usize;
        let is_open = |id| seen.tasks.contains_key(&id);
        let is_inbound_read = !seen.unreadable.contains_key(&RunSubject::Inbound);
        let lying: BTreeMap<&str, i64> = (seen.inbound.iter())
            .map(|entry| (entry.key.name.as_str(), entry.key.modified))
            .collect();
        // By name: a file that changes while its runs live is told by nothing else. See `FileStanding::of`.
        let still_tells = |file: &FileVerdict| {
            let lies = lying.get(file.file.name.as_str());
            let counts = lies.is_some_and(|time| file.left || *time == file.file.modified);
            !is_inbound_read || counts
        };
        let layout = &self.looker.layout;
        kill_point::reach("prune:before");
        let pruned = runs::prune(layout, clock::wall(), keep, per_task, is_open, still_tells);
        kill_point::reach("prune:done");
        match pruned {
            Ok(0) => {}
            Ok(runs) => info!(runs, "forgot old runs of closed tasks"),
            Err(error) => warn!(error = chain(&error), "cannot forget old runs"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::given::{id, queue, task};

    /// A look at these queues finds these tasks there, held for want of a folder; everything else is paused.
    fn look(holds: &mut Holds, coverage: Coverage, tasks: &[(i64, &str)]) {
        let mut seen = Snapshot {
            coverage,
            ..Snapshot::default()
        };
        let mut decision = Decision::default();
        decision.holds.push((Subject::Everything, Hold::Paused));
        for (number, queue) in tasks {
            seen.tasks.insert(id(*number), task(*number, queue));
            decision
                .holds
                .push((Subject::Task(id(*number)), Hold::NoFolder));
        }
        holds.looked(&seen, &decision);
    }

    fn queues(names: &[&str]) -> Coverage {
        Coverage::Queues(names.iter().map(|name| queue(name)).collect())
    }

    /// The tasks that are held, which all wait for a folder.
    fn held(holds: &Holds) -> Vec<i64> {
        let folders = holds.waiting_folders();
        assert_eq!(folders.len() + 1, holds.len());
        let first = holds.iter().next().map(|(subject, _)| subject);
        assert_eq!(first, Some(Subject::Everything));
        folders.iter().map(|id| id.number()).collect()
    }

    #[test]
    fn a_look_at_a_queue_tells_of_its_tasks_and_leaves_the_others() {
        let mut holds = Holds::default();
        let all = [(1, "coder"), (2, "coder"), (3, "devops")];
        look(&mut holds, Coverage::Everything, &all);
        assert_eq!(held(&holds), [1, 2, 3]);
        // One is gone, one came.
        look(
            &mut holds,
            queues(&["coder"]),
            &[(2, "coder"), (4, "coder")],
        );
        assert_eq!(held(&holds), [2, 3, 4]);
        // One went to a queue that is asked; the one it came from is not, and when it is, it is not its any more.
        look(
            &mut holds,
            queues(&["devops"]),
            &[(2, "devops"), (3, "devops")],
        );
        assert_eq!(held(&holds), [2, 3, 4]);
        look(&mut holds, queues(&["coder"]), &[]);
        assert_eq!(held(&holds), [2, 3]);
        look(&mut holds, Coverage::Nothing, &[]);
        assert_eq!(held(&holds), [2, 3]);
        look(&mut holds, Coverage::Everything, &[(5, "coder")]);
        assert_eq!(held(&holds), [5]);
    }
}
