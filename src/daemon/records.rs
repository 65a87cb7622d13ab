//! What the daemon writes of itself besides its journal, and what of old it lets go.

use std::collections::{BTreeMap, BTreeSet};

use tracing::{info, warn};

use super::{Daemon, DaemonRecord};
use crate::core::model::{Millis, QueueName, RunSubject, Task, TaskId};
use crate::core::record::FileVerdict;
use crate::core::{Coverage, Decision, Hold, Snapshot, Subject, Tinytask};
use crate::edge::{clock, control, kill_point, runs};
use crate::look::chain;

/// Looks between two whole ones see a queue or two; this is what all of them together have seen.
#[derive(Default)]
pub(super) struct Holds(BTreeMap<Subject, (Option<QueueName>, Hold)>);

impl Holds {
    pub(super) fn looked(&mut self, seen: &Snapshot, decision: &Decision) {
        let is_covered = |queue: Option<&QueueName>| match &seen.coverage {
            Coverage::Nothing => false,
            Coverage::Queues(queues) => queue.is_some_and(|queue| queues.contains(queue)),
            Coverage::Everything => true,
        };
        self.0.retain(|subject, (queue, _)| match subject {
            Subject::Task(id) => !is_covered(queue.as_ref()) && seen.task_now(*id).is_none(),
            Subject::Queue(queue) => !is_covered(Some(queue)),
            Subject::Provider(_) => !is_covered(None),
            Subject::Everything | Subject::Inbound(_) | Subject::Run(_) => false,
        });
        for (subject, hold) in &decision.holds {
            let queue = match subject {
                Subject::Task(id) => seen.task_now(*id).and_then(Task::queue),
                _ => None,
            };
            self.0.insert(subject.clone(), (queue, hold.clone()));
        }
    }

    /// Tasks that wait for something in their folder.
    pub(super) fn waiting_folders(&self) -> BTreeSet<TaskId> {
        let waits = |hold: &Hold| {
            matches!(
                hold,
                Hold::AwaitingFiles { .. } | Hold::NoFolder | Hold::Parked { .. }
            )
        };
        let of_task = self.iter().filter(|(_, hold)| waits(hold));
        let tasks = of_task.filter_map(|(subject, _)| match subject {
            Subject::Task(id) => Some(*id),
            _ => None,
        });
        tasks.collect()
    }

    pub(super) fn iter(&self) -> impl ExactSizeIterator<Item = (&Subject, &Hold)> {
        self.0.iter().map(|(subject, (_, hold))| (subject, hold))
    }
}

impl Daemon {
    pub(super) fn record(&mut self, seen: &Snapshot) {
        let trouble = self.trouble.clone();
        let record = DaemonRecord::new(&self.since, &self.heard_by, trouble, seen, &self.holds);
        if let Err(error) = self.lock.record(&record) {
            warn!(error = %error, "cannot write daemon.json");
        }
        if let Err(error) = self.record_known(seen) {
            warn!(error = chain(&error), "cannot write known.json");
        }
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
