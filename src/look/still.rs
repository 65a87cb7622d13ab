//! Whether a rescan has anything to look at: told by stat(2) alone, which opens nothing and so makes no inotify event.
//!
//! Stands beside the look and not in it: it is asked once a rescan, while nothing happens, and costs the hot path nothing.
//!
//! Known gap: what a symlinked task folder leads to is not asked about; the next look at tinytask sees it.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::path::PathBuf;

use camino::Utf8PathBuf;

use super::Looker;
use crate::core::layout::RunDir;
use crate::core::model::{Now, RunId};
use crate::core::verdict::Meaning;
use crate::core::{InboundEntry, Run, Snapshot};
use crate::edge::files::Stamp;
use crate::edge::goose;

/// What has changed since the rescan before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rescan {
    /// Nothing that a look at files would read.
    Still,
    Files,
    /// Among them what people say in control/.
    Control,
    /// Among them those in running_tasks/, and nothing in control/.
    PidFiles,
    /// calypso.toml, or something in recipes/, which also say which tinytask it is.
    Settings,
}

/// As the files stood when it was last asked.
#[derive(Debug, PartialEq)]
pub(super) struct Stamps {
    settings: BTreeMap<PathBuf, Option<Stamp>>,
    files: BTreeMap<PathBuf, Option<Stamp>>,
    /// Is the program found that is to run?
    programs: BTreeMap<String, bool>,
}

impl Stamps {
    /// Without those that the next change could leave as they are.
    fn kept(mut self, now: &Now) -> Self {
        for stamps in [&mut self.settings, &mut self.files] {
            stamps.retain(|_, stamp| !stamp.is_some_and(|stamp| stamp.is_fresh(now.wall)));
        }
        self
    }
}

/// May a look that saw this be the last one until a stamp differs? Not while what it saw may change without one: processes; folders in
/// inbound/, the insides of which have stamps of their own; what could not be read. A run at work changes with its folder, or with the
/// end of its shim: those whose shims are to be watched for that are what this gives.
pub(super) fn told_by_stamps(seen: &Snapshot) -> Option<Vec<RunDir>> {
    let is_still = seen.strangers.is_empty()
        && seen.unreadable.is_empty()
        && !seen.inbound.iter().any(|entry: &InboundEntry| entry.is_dir);
    let is_at_work = |run: &Run| run.observed.shim && run.meaning() == Meaning::Running;
    let runs = seen.runs.iter();
    let dirs = runs.map(|run| is_at_work(run).then(|| run.dir.clone()));
    if is_still { dirs.collect() } else { None }
}

impl Looker {
    /// Has anything changed since this was last asked? Whoever is told so takes a look, which sees at least what is stamped here: the
    /// stamps are older. So an event that was lost costs one rescan, as if a look were taken at each.
    ///
    /// Interleaving survived: a file is changed, stamped, looked at, and changed again within one tick of its file system's clock, so
    /// that its stamp stays the same. Stamps as young as that are not kept, and the rescan after it looks again.
    ///
    /// `is_watched`: will the end of this run's shim be heard of? A pidfd is ready for as long as its process is over, so that none is
    /// missed by who holds one (pidfd_open(2)).
    pub fn rescan(&mut self, now: &Now, is_watched: impl Fn(RunId) -> bool) -> Rescan {
        let told = self.memory.told_by_stamps.as_ref();
        let is_told = told.is_some_and(|runs| runs.iter().all(|run| is_watched(run.id)));
        let stamps = self.stamps();
        let found = match self.memory.stamps.take() {
            None => Rescan::Files,
            Some(before) => {
                let differs = |folder: Utf8PathBuf| {
                    let folder = folder.as_std_path();
                    before.files.get(folder) != stamps.files.get(folder)
                };
                if before.settings != stamps.settings {
                    Rescan::Settings
                } else if differs(self.layout.control()) {
                    Rescan::Control
                } else if differs(self.layout.running_tasks()) {
                    Rescan::PidFiles
                } else if before == stamps && is_told {
                    Rescan::Still
                } else {
                    Rescan::Files
                }
            }
        };
        self.memory.stamps = Some(stamps.kept(now));
        found
    }

    fn stamps(&mut self) -> Stamps {
        let layout = &self.layout;
        let stamp = |path: PathBuf| {
            let stamp = Stamp::of(&path);
            (path, stamp)
        };
        let within = |folder: PathBuf, names: &[OsString]| {
            let entries: Vec<_> = names.iter().map(|name| stamp(folder.join(name))).collect();
            entries.into_iter().chain([stamp(folder)])
        };
        let settings = within(layout.recipes().into(), self.memory.recipes.names())
            .chain([stamp(layout.config().into())])
            .collect();
        let folders = [
            layout.base().to_owned(),
            layout.workqueue(),
            layout.running_tasks(),
            layout.state(),
            layout.control(),
            layout.live(),
        ];
        let runs = self.memory.told_by_stamps.iter().flatten();
        let files = within(layout.inbound().into(), self.memory.inbound.last())
            .chain(folders.map(|folder| stamp(folder.into())))
            .chain(runs.map(|run| stamp(layout.run(run).dir.into())))
            .collect();
        let queues = (self.memory.recipes.queues()).chain(self.config.queues.keys());
        let programs: BTreeSet<&str> = queues
            .map(|queue| goose::program(&self.config, queue))
            .collect();
        let programs = programs.into_iter().map(|program| {
            let is_found = self.memory.programs.has(program, self.path.as_deref());
            (program.to_owned(), is_found)
        });
        Stamps {
            settings,
            files,
            programs: programs.collect(),
        }
    }
}
