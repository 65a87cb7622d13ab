//! What a look needs from the looks before it, and the past it reads from disk.
//!
//! Does not know what the past means for a task (`core::history` tells). A fresh process knows of the looks before it only what the
//! daemon wrote down: the tasks that were open.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use bytes::Bytes;

use super::asking::Vouched;
use super::still::Stamps;
use super::{Error, Looker, chain};
use crate::core::history::Past;
use crate::core::layout::{Layout, RunDir};
use crate::core::model::{Moment, ProcessId, RunId, RunSubject, TaskId};
use crate::core::record::VerdictRecord;
use crate::core::trust::Trust;
use crate::core::{Coverage, Snapshot};
use crate::edge::files::Names;
use crate::edge::runs::{Earlier, Index, Mark, Read};
use crate::edge::{goose, inbound, recipe, runs};

/// So many subjects are read from their records in a few milliseconds: they need no index.
const FEW: usize = 200;

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
    /// What the last look asked for the requests it saw complete.
    pub vouched: Option<Vouched>,
    /// The runs this daemon is stopping or sweeping.
    pub in_hand: BTreeSet<RunId>,
    /// How often this daemon has swept each run.
    pub swept: BTreeMap<RunId, u32>,
    pub(super) specs: runs::Specs,
    /// Processes that certainly were a dead shim's, so that they stay so when their parents die.
    pub(super) leftovers: BTreeMap<RunId, Vec<ProcessId>>,
    /// What the watcher saw of files in inbound/.
    pub closed: inbound::Closed,
    /// Tasks whose lists showed them runnable, and a word with tinytask right before their launch did not: parents, whose parts lie in
    /// queues that were not asked. They are asked about at each look, or one would be tried again as soon as it is another's turn.
    pub rechecked: BTreeSet<TaskId>,
    pub(super) recipes: recipe::Known,
    /// Names in control/, inbound/ and running_tasks/.
    pub(super) controls: Names,
    pub(super) inbound: Names,
    pub(super) pid_files: Names,
    pub(super) programs: goose::Programs,
    /// As the rescan before found the files; none where a look since then failed.
    pub(super) stamps: Option<Stamps>,
    /// Stamps tell of all that the last look saw, as long as the shims of these runs are watched.
    pub(super) told_by_stamps: Option<Vec<RunDir>>,
    histories: BTreeMap<RunSubject, Kept>,
    recent: Option<Vec<Arc<VerdictRecord>>>,
    /// How many of the histories the index does not have as they are.
    unindexed: usize,
    /// Whether the daemon's own writes keep `histories` and `recent` true; else each look reads the disk.
    pub is_writer: bool,
}

/// What is kept of a subject; an empty past, where nothing is on record.
#[derive(Debug)]
struct Kept {
    past: Past,
    /// For the index.
    mark: Option<Mark>,
    /// Something was written since it was read.
    is_stale: bool,
}

impl Kept {
    fn new(past: Past, mark: Option<Mark>) -> Self {
        Self {
            past,
            mark,
            is_stale: false,
        }
    }
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
        if let Some(kept) = self.histories.get_mut(&subject) {
            kept.is_stale = true;
        }
    }
    /// All records are gone.
    pub fn forget_records(&mut self) {
        self.histories.clear();
        self.recent = None;
        self.leftovers.clear();
        self.swept.clear();
    }
    /// Has so much happened that whoever starts now would read long?
    pub fn wants_indexing(&self) -> bool {
        self.is_writer && self.unindexed > FEW
    }
    /// Writes the index; what it cannot tell of is read from its records.
    pub fn write_index(&mut self, layout: &Layout) -> Result<(), runs::Error> {
        self.unindexed = 0;
        let entries = self.histories.iter().filter_map(|(subject, kept)| {
            let mark = kept.mark.filter(|_| !kept.is_stale)?;
            Some((*subject, mark, &kept.past))
        });
        runs::write_index(layout, entries)
    }
    /// Packs what looks have unpacked. The next look at a queue takes that much longer, so not while looks come.
    pub fn pack(&mut self) {
        // All of them before the first one is let go: small pieces would settle in the gaps, and keep each page of what was freed.
        let packed: Vec<_> = (self.histories.iter())
            .filter_map(|(subject, kept)| Some((*subject, kept.past.repacked(*subject)?)))
            .collect();
        for (subject, past) in packed {
            if let Some(kept) = self.histories.get_mut(&subject) {
                kept.past = past;
            }
        }
    }
    /// A verdict was finished.
    pub fn add_verdict(&mut self, verdict: &VerdictRecord) {
        self.forget(verdict.run.subject);
        for task in &verdict.tasks {
            self.forget(RunSubject::Task(task.key.id));
        }
        if let Some(recent) = &mut self.recent {
            recent.push(Arc::new(verdict.clone()));
            if recent.len() > RECENT {
                recent.remove(0);
            }
        }
    }
}

/// See [`Looker::read_ahead`].
#[derive(Default)]
pub(super) struct Ahead {
    pasts: Vec<(RunSubject, Result<Read, runs::Error>)>,
    recent: Option<Vec<Arc<VerdictRecord>>>,
}

fn recent(layout: &Layout) -> Result<Vec<Arc<VerdictRecord>>, runs::Error> {
    let mut recent = runs::recent(layout, RECENT)?;
    for verdict in &mut recent {
        // The parser made room for four where one was told.
        verdict.tasks.shrink_to_fit();
    }
    Ok(recent.into_iter().map(Arc::new).collect())
}

impl Looker {
    /// The last verdicts, and the past of the tasks that the index ([`Looker::once`]) tells of, read while tinytask is asked which of them are open: for
    /// whoever only looks, and so has none in memory.
    ///
    /// Interleaving survived: a verdict is written between this reading and tinytask's answer. The next look shows it.
    pub(super) fn read_ahead(&mut self, seen: &Snapshot) -> impl Future<Output = Ahead> + use<> {
        let layout = self.layout.clone();
        let index = self.index.take();
        let live: BTreeSet<RunSubject> = seen.runs.iter().map(|run| run.dir.id.subject).collect();
        let read = move || {
            // First, as the index may still be on its way.
            let recent = recent(&layout).ok();
            let index = index.and_then(|reading| reading.join().ok());
            let told = index
                .unwrap_or_else(|| runs::read_index(&layout))
                .into_iter();
            let told: Vec<_> = told
                .map(|(id, mark, packed)| (RunSubject::Task(id), Earlier::Indexed(mark, packed)))
                .filter(|(subject, _)| !live.contains(subject))
                .collect();
            let pasts = runs::Recorded::open(&layout).map(|on_record| on_record.histories(&told));
            Ahead {
                pasts: pasts.unwrap_or_default(),
                recent,
            }
        };
        let reading = (!self.memory.is_writer).then(|| tokio::task::spawn_blocking(read));
        async {
            match reading {
                Some(reading) => reading.await.unwrap_or_default(),
                None => Ahead::default(),
            }
        }
    }

    pub(super) fn histories(&mut self, seen: &mut Snapshot, ahead: Ahead) -> Result<(), Error> {
        let memory = &mut self.memory;
        if !memory.is_writer {
            // What could not be read then is read once more, and told.
            let pasts = ahead.pasts.into_iter().filter_map(|(subject, read)| {
                let Read { past, mark } = read.ok()?;
                Some((subject, Kept::new(past, mark)))
            });
            memory.histories = pasts.collect();
            memory.recent = ahead.recent;
        }
        if memory.recent.is_none() {
            memory.recent = Some(recent(&self.layout)?);
        }
        seen.recent = memory.recent.clone().unwrap_or_default();
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
        // Whether somebody's own run is released is on record, also where its task's queue was not asked.
        let strangers = seen.strangers.keys().copied();
        // Nearly in their order already.
        let wanted: BTreeSet<RunSubject> = ([RunSubject::Inbound].into_iter())
            .chain(tasks)
            .chain(runs)
            .chain(strangers)
            .chain(people)
            .chain(touched)
            .collect();
        let on_record = runs::Recorded::open(&self.layout)?;
        let (mut found, mut unread) = (Vec::new(), Vec::new());
        for subject in &wanted {
            match memory.histories.get(subject) {
                Some(kept) if !kept.is_stale => found.push((*subject, kept.past.clone())),
                _ => unread.push(*subject),
            }
        }
        let index = if unread.len() > FEW {
            runs::read_index(&self.layout)
        } else {
            Index::default()
        };
        // A power cut may have taken a verdict that the index has; then its run is still live.
        let live: BTreeSet<_> = seen.runs.iter().map(|run| run.dir.id.subject).collect();
        let indexed = |subject: RunSubject| {
            let told = index.of(subject.task()?)?;
            (!live.contains(&subject)).then_some(told)
        };
        let unread: Vec<(RunSubject, Earlier)> = (unread.into_iter())
            .map(|subject| {
                let kept = memory.histories.get(&subject);
                let earlier = match (kept, indexed(subject)) {
                    (Some(kept), _) => Earlier::Known(kept.past.clone()),
                    // Else the last one that is left would keep the whole file in memory.
                    (None, Some((mark, packed))) if memory.is_writer => {
                        Earlier::Indexed(mark, Bytes::copy_from_slice(packed))
                    }
                    (None, Some((mark, packed))) => Earlier::Indexed(mark, packed.clone()),
                    (None, None) => Earlier::Nothing,
                };
                (subject, earlier)
            })
            .collect();
        for (subject, read) in on_record.histories(&unread) {
            match read {
                Ok(Read { past, mark }) => {
                    let is_indexed = mark == indexed(subject).map(|(mark, _)| mark);
                    memory.unindexed += usize::from(mark.is_some() && !is_indexed);
                    found.push((subject, past.clone()));
                    memory.histories.insert(subject, Kept::new(past, mark));
                }
                Err(error) => seen.cannot_read(subject, chain(&error)),
            }
        }
        found.retain(|(_, past)| !past.is_empty());
        seen.histories = found.into_iter().collect();
        // Closed tasks leave the lists, and so the cache; at a narrower look, those that were asked about one by one. Those of queues that were
        // not asked are still open, as far as is known.
        if memory.is_writer && seen.coverage == Coverage::Everything {
            memory
                .histories
                .retain(|subject, _| wanted.contains(subject));
        }
        for (id, _) in seen.details.iter().filter(|(_, detail)| !detail.is_open()) {
            memory.histories.remove(&RunSubject::Task(*id));
        }
        Ok(())
    }
}
