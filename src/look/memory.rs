//! What a look needs from the looks before it, and the past it reads from disk.
//!
//! Does not know what the past means for a task (`core::history` tells). A fresh process knows of the looks before it only what the
//! daemon wrote down: the tasks that were open.

use std::collections::{BTreeMap, BTreeSet};

use super::{Error, Looker, chain};
use crate::core::layout::Layout;
use crate::core::model::{Moment, ProcessId, RunId, RunSubject, TaskId};
use crate::core::record::VerdictRecord;
use crate::core::trust::Trust;
use crate::core::{History, Snapshot};
use crate::edge::{inbound, recipe, runs};

/// Verdicts kept at hand for holds, fairness and `status`.
const RECENT: usize = 500;

/// What a look needs from the looks before it.
#[derive(Debug, Default)]
pub struct Memory {
    /// Highest task id ever seen.
    pub highest_task: i64,
    /// First of the failures in a row.
    pub(super) unreachable_since: Option<Moment>,
    pub last_unreachable: Option<Moment>,
    /// Whether the server that answers is the known one.
    pub trust: Trust,
    /// The runs this daemon is stopping or sweeping.
    pub in_hand: BTreeSet<RunId>,
    /// How often this daemon has swept each run.
    pub swept: BTreeMap<RunId, u32>,
    /// Processes that certainly were a dead shim's, so that they stay so when their parents die.
    pub(super) leftovers: BTreeMap<RunId, Vec<ProcessId>>,
    /// What the watcher saw of files in inbound/.
    pub closed: inbound::Closed,
    /// Tasks whose lists showed them runnable, and a word with tinytask right before their launch did not: parents, whose parts lie in
    /// queues that were not asked. They are asked about at each look, or one would be tried again as soon as it is another's turn.
    pub rechecked: BTreeSet<TaskId>,
    pub(super) recipes: recipe::Known,
    histories: BTreeMap<RunSubject, History>,
    subjects: Option<BTreeSet<RunSubject>>,
    recent: Option<Vec<VerdictRecord>>,
    /// Whether the daemon's own writes keep the caches above true; else each look reads the disk.
    pub is_writer: bool,
}

impl Memory {
    /// What the daemon wrote down at its last whole look; nothing where that cannot be read, which costs the suspicion only.
    pub(super) fn of(layout: &Layout) -> Self {
        let known = runs::read_known(layout).ok().flatten().unwrap_or_default();
        Self {
            trust: Trust::of(known),
            ..Self::default()
        }
    }

    /// A subject's records changed.
    pub fn forget(&mut self, subject: RunSubject) {
        self.histories.remove(&subject);
        if let Some(subjects) = &mut self.subjects {
            subjects.insert(subject);
        }
    }
    /// All records are gone.
    pub fn forget_records(&mut self) {
        self.histories.clear();
        self.subjects = None;
        self.recent = None;
        self.leftovers.clear();
        self.swept.clear();
    }
    /// A verdict was finished.
    pub fn add_verdict(&mut self, verdict: &VerdictRecord) {
        self.forget(verdict.run.subject);
        for task in &verdict.tasks {
            self.forget(RunSubject::Task(task.key.id));
        }
        if let Some(recent) = &mut self.recent {
            recent.push(verdict.clone());
            if recent.len() > 2 * RECENT {
                recent.drain(..RECENT);
            }
        }
    }
}

impl Looker {
    pub(super) fn histories(&mut self, seen: &mut Snapshot) -> Result<(), Error> {
        let memory = &mut self.memory;
        if !memory.is_writer {
            memory.histories.clear();
            memory.subjects = None;
            memory.recent = None;
        }
        if memory.recent.is_none() {
            memory.recent = Some(runs::recent(&self.layout, RECENT)?);
        }
        if memory.subjects.is_none() {
            memory.subjects = Some(runs::subjects(&self.layout)?.into_iter().collect());
        }
        let (Some(recent), Some(subjects)) = (&memory.recent, &memory.subjects) else {
            return Ok(());
        };
        seen.recent.clone_from(recent);
        let tasks = seen
            .tasks
            .keys()
            .chain(seen.details.keys())
            .map(|id| RunSubject::Task(*id));
        let runs = seen.runs.iter().map(|run| run.dir.id.subject);
        let people = seen
            .controls
            .retry
            .iter()
            .chain(&seen.controls.release)
            .copied();
        let touched = seen.runs.iter().filter_map(|run| run.spec.as_ref());
        let touched = touched.flat_map(|spec| {
            spec.baseline
                .tasks
                .iter()
                .map(|task| RunSubject::Task(task.key.id))
        });
        let wanted: BTreeSet<RunSubject> = tasks
            .chain(runs)
            .chain(people)
            .chain(touched)
            .chain([RunSubject::Inbound])
            .collect();
        for subject in wanted.intersection(subjects) {
            let history = match memory.histories.get(subject) {
                Some(history) => history.clone(),
                None => match runs::history(&self.layout, *subject) {
                    Ok(history) => history,
                    Err(error) => {
                        seen.cannot_read(*subject, chain(&error));
                        continue;
                    }
                },
            };
            memory.histories.insert(*subject, history.clone());
            seen.histories.insert(*subject, history);
        }
        // Closed tasks leave the lists, and so the cache.
        memory
            .histories
            .retain(|subject, _| wanted.contains(subject));
        Ok(())
    }
}
