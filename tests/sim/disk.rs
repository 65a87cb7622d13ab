//! The base path as the simulator keeps it: what stands on disk, and what of it a power cut may take away again.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use calypso_watch::core::layout::RunDir;
use calypso_watch::core::model::{
    FileKey, Outcome, ProcessId, QueueName, Recipe, RunSubject, TaskKey, Timestamp,
};
use calypso_watch::core::record::{Failure, Known, Marks, Spec, StateRecord, VerdictRecord};
use calypso_watch::core::{Controls, History};

use crate::chance::Chance;

/// What was not synced may be lost within this many milliseconds (the kernel writes back after about 30 s).
const WRITEBACK: u64 = 30_000;

/// A record that is replaced as a whole.
#[derive(Debug, Clone)]
pub(crate) struct Slot<T> {
    /// `None`: absent, empty or torn.
    pub(crate) now: Option<T>,
    /// The file is there, whatever is in it.
    pub(crate) is_there: bool,
    before: Option<T>,
    /// Not synced, and written then.
    loose: Option<u64>,
}

impl<T> Default for Slot<T> {
    fn default() -> Self {
        Self {
            now: None,
            is_there: false,
            before: None,
            loose: None,
        }
    }
}

impl<T> Slot<T> {
    pub(crate) fn write(&mut self, value: T, mono: u64, is_synced: bool) {
        let is_loose = self.loose.is_some_and(|at| mono - at < WRITEBACK);
        if !is_loose {
            self.before = self.now.take();
        }
        self.now = Some(value);
        self.is_there = true;
        self.loose = (!is_synced).then_some(mono);
    }

    fn power_cut(&mut self, chance: &mut Chance, mono: u64) -> bool {
        let is_loose = self.loose.take().is_some_and(|at| mono - at < WRITEBACK);
        if !is_loose {
            return false;
        }
        match chance.below(3) {
            0 => return false,
            1 => {
                self.now = self.before.take();
                self.is_there = self.now.is_some();
            }
            _ => self.now = None,
        }
        true
    }
}

/// Who holds shim.lock.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Holder {
    Daemon(u32),
    Shim(ProcessId),
}

/// One run directory.
#[derive(Debug, Clone, Default)]
pub(crate) struct OnDisk {
    pub(crate) made: u64,
    pub(crate) has_dir: bool,
    pub(crate) shim_lock: Option<Holder>,
    pub(crate) has_agent_lock: bool,
    pub(crate) spec: Slot<Spec>,
    pub(crate) state: Slot<StateRecord>,
    /// Inode of its own pid file.
    pub(crate) pid: Option<u64>,
    pub(crate) ended: Slot<Outcome>,
    pub(crate) verdict: Slot<VerdictRecord>,
    /// What its output says.
    pub(crate) sign: Option<Failure>,
    pub(crate) asked: bool,
}

#[derive(Debug, Clone)]
pub(crate) struct PidFile {
    pub(crate) inode: u64,
    /// The number in it; none: something odd.
    pub(crate) pid: Option<i32>,
    pub(crate) modified: Timestamp,
    pub(crate) linked: u64,
}

#[derive(Debug, Clone)]
pub(crate) struct Request {
    pub(crate) key: FileKey,
    /// Virtual time from which on it counts as complete.
    pub(crate) settled: u64,
    pub(crate) is_odd: bool,
}

#[derive(Debug, Clone)]
enum Undo {
    PidFile(RunSubject, PidFile),
    Live(RunDir),
    Retry(RunSubject),
}

#[derive(Debug, Clone, Default)]
pub(crate) struct Disk {
    pub(crate) live: BTreeSet<RunDir>,
    pub(crate) runs: BTreeMap<RunDir, OnDisk>,
    pub(crate) pid_files: BTreeMap<RunSubject, PidFile>,
    pub(crate) controls: Controls,
    pub(crate) recipes: BTreeMap<QueueName, Result<Recipe, String>>,
    /// When each changed last, and how often.
    pub(crate) folders: BTreeMap<i64, (Timestamp, u64)>,
    pub(crate) inbound: Vec<Request>,
    pub(crate) history: Vec<(u64, VerdictRecord)>,
    pub(crate) marks: BTreeMap<RunSubject, Marks>,
    pub(crate) known: Slot<Known>,
    /// `by-…` links below a subject to another run's verdict.
    pub(crate) links: BTreeMap<RunSubject, BTreeSet<RunDir>>,
    pub(crate) full_until: u64,
    last_inode: u64,
    undo: Vec<(u64, Undo)>,
}

impl Disk {
    pub(crate) fn with_recipes(recipes: BTreeMap<QueueName, Result<Recipe, String>>) -> Self {
        Self {
            recipes,
            ..Self::default()
        }
    }

    pub(crate) fn inode(&mut self) -> u64 {
        self.last_inode += 1;
        self.last_inode
    }

    pub(crate) fn run(&mut self, dir: &RunDir) -> &mut OnDisk {
        self.runs.entry(dir.clone()).or_default()
    }

    pub(crate) fn is_own_pid_file(&self, dir: &RunDir) -> bool {
        let own = self.runs.get(dir).and_then(|run| run.pid);
        let there = self.pid_files.get(&dir.id.subject).map(|file| file.inode);
        own.is_some() && own == there
    }

    pub(crate) fn clear_pid_file(&mut self, dir: &RunDir, mono: u64) -> bool {
        if !self.is_own_pid_file(dir) {
            return false;
        }
        if let Some(file) = self.pid_files.remove(&dir.id.subject) {
            self.undo.push((mono, Undo::PidFile(dir.id.subject, file)));
        }
        true
    }

    pub(crate) fn end_live(&mut self, dir: &RunDir, mono: u64) {
        if self.live.remove(dir) {
            self.undo.push((mono, Undo::Live(dir.clone())));
        }
    }

    pub(crate) fn end_retry(&mut self, subject: RunSubject, mono: u64) {
        if self.controls.retry.remove(&subject) {
            self.undo.push((mono, Undo::Retry(subject)));
        }
    }

    pub(crate) fn touch_folder(&mut self, task: i64, wall: Timestamp) {
        let folder = self.folders.entry(task).or_insert((wall, 0));
        *folder = (wall, folder.1 + 1);
    }

    pub(crate) fn digest(&self, task: i64) -> u64 {
        self.folders.get(&task).map_or(0, |(_, times)| times + 1)
    }

    // ── the past, as `edge::runs::past` reads it ───────────────────────────────────────────────────────────────────────

    pub(crate) fn subjects(&self) -> BTreeSet<RunSubject> {
        let own = self.runs.iter().filter(|(_, run)| run.has_dir);
        own.map(|(dir, _)| dir.id.subject)
            .chain(self.links.keys().copied())
            .chain(self.marks.keys().copied())
            .collect()
    }

    fn own_runs(&self, subject: RunSubject) -> impl Iterator<Item = (&RunDir, &OnDisk)> {
        let first = RunDir {
            id: calypso_watch::core::model::RunId { subject, number: 0 },
            queue: "0".parse().expect("a queue's name"),
        };
        self.runs
            .range(first..)
            .take_while(move |(dir, _)| dir.id.subject == subject)
            .filter(|(_, run)| run.has_dir)
    }

    pub(crate) fn past(&self, subject: RunSubject) -> History {
        let links = self.links.get(&subject).into_iter().flatten();
        let mut others: Vec<_> = links
            .filter_map(|dir| self.runs.get(dir)?.verdict.now.clone())
            .collect();
        others.sort_by_key(|verdict| (verdict.judged.wall, verdict.run));
        let mut others = others.into_iter().peekable();
        let mut verdicts = Vec::new();
        let mut last_run = 0;
        for (dir, run) in self.own_runs(subject) {
            last_run = dir.id.number;
            let Some(verdict) = run.verdict.now.clone() else {
                continue;
            };
            while let Some(other) = others.next_if(|o| o.judged.wall < verdict.judged.wall) {
                verdicts.push(other);
            }
            verdicts.push(verdict);
        }
        verdicts.extend(others);
        History {
            verdicts: verdicts.into_iter().map(Arc::new).collect(),
            marks: self.marks.get(&subject).cloned().unwrap_or_default(),
            last_run,
        }
    }

    /// The verdict's line in history.jsonl, once.
    pub(crate) fn add_line(&mut self, verdict: &VerdictRecord, mono: u64) {
        let is_it = |(_, line): &&(u64, VerdictRecord)| {
            line.run == verdict.run && line.judged == verdict.judged
        };
        if !self.history.iter().rev().take(100).any(|line| is_it(&line)) {
            self.history.push((mono, verdict.clone()));
        }
    }

    pub(crate) fn link(&mut self, key: TaskKey, dir: &RunDir) {
        let subject = RunSubject::Task(key.id);
        if subject != dir.id.subject {
            self.links.entry(subject).or_default().insert(dir.clone());
        }
    }

    // ── a power cut ────────────────────────────────────────────────────────────────────────────────────────────────────

    /// What was not synced is kept, lost, or torn. Returns how many records were lost or torn.
    pub(crate) fn power_cut(&mut self, chance: &mut Chance, mono: u64) -> u64 {
        let mut torn = u64::from(self.known.power_cut(chance, mono));
        for (dir, run) in &mut self.runs {
            torn += u64::from(run.spec.power_cut(chance, mono));
            torn += u64::from(run.state.power_cut(chance, mono));
            torn += u64::from(run.ended.power_cut(chance, mono));
            torn += u64::from(run.verdict.power_cut(chance, mono));
            if run.has_dir && mono - run.made < WRITEBACK && chance.one_in(3) {
                // Its name was never written back.
                *run = OnDisk::default();
                self.live.remove(dir);
                if let Some(file) = self.pid_files.get(&dir.id.subject)
                    && file.linked >= mono.saturating_sub(WRITEBACK)
                {
                    self.pid_files.remove(&dir.id.subject);
                }
                torn += 1;
            } else if mono - run.made < WRITEBACK && chance.one_in(6) {
                self.live.remove(dir);
                torn += 1;
            }
        }
        for (at, undo) in std::mem::take(&mut self.undo) {
            if mono - at >= WRITEBACK || chance.one_in(2) {
                continue;
            }
            match undo {
                Undo::PidFile(subject, file) => {
                    self.pid_files.entry(subject).or_insert(file);
                }
                Undo::Live(dir) if self.runs.get(&dir).is_some_and(|run| run.has_dir) => {
                    self.live.insert(dir);
                }
                Undo::Retry(subject) => {
                    self.controls.retry.insert(subject);
                }
                Undo::Live(_) => continue,
            }
            torn += 1;
        }
        let loose = |(at, _): &(u64, VerdictRecord)| mono - at < WRITEBACK;
        while self.history.last().is_some_and(loose) && chance.one_in(2) {
            self.history.pop();
            torn += 1;
        }
        torn
    }

    /// Everything a reboot ends besides processes.
    pub(crate) fn let_go_of_locks(&mut self) {
        for run in self.runs.values_mut() {
            run.shim_lock = None;
        }
    }
}
