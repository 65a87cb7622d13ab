//! The one look: files and processes first, tinytask second, one [`Snapshot`] out.
//!
//! | file | what it looks at |
//! |---|---|
//! | `processes.rs` | the runs on record and what is alive of them |
//! | `asking.rs` | tinytask: which queues and tasks, and whether to believe the answers |
//! | `memory.rs` | the looks before this one, and the past on disk |
//! | `server.rs` | which tinytask it is |
//! | `still.rs` | whether there is anything to look at |
//!
//! Daemon, `run --once`, `status`, `plan` and `why` all take this look and hand it to the same `decide`, so they cannot
//! disagree. It changes nothing on disk.
//!
//! What a look alone cannot know (which files the watcher saw closed, what this daemon has in hand, since when tinytask is
//! away) is in [`Memory`], which is empty in a fresh process; nothing is ever started or judged on its word alone.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::{OsStr, OsString};
use std::thread::JoinHandle;

use crate::core::attention::Asked;
use crate::core::layout::{Layout, subject_dir};
use crate::core::model::{
    Now, ProcessId, QueueName, RunSubject, Task, TaskId, TaskStatus, Timestamp,
};
use crate::core::{Controls, Snapshot};
use crate::edge::{config::Config, control, files, goose, inbound, process, runs, tinytask};

mod asking;
mod memory;
mod processes;
mod server;
mod still;

pub use asking::{is_still_runnable, vouch};
pub use memory::Memory;
pub use server::{Server, which_server};
pub use still::Rescan;

/// How much of tinytask a look asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Scope {
    /// All open tasks.
    Everything,
    /// Only what can change a decision: of these queues the ones with a free slot, and what runs that ended have touched.
    Queues(Asked),
}

/// The base path could not be looked at.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("cannot look at `{path}`")]
    Io {
        path: String,
        source: std::io::Error,
    },
    #[error(transparent)]
    Runs(#[from] runs::Error),
}

/// Takes looks at one base path.
pub struct Looker {
    pub layout: Layout,
    pub config: Config,
    pub server: Server,
    pub tinytask: Option<tinytask::Tinytask>,
    /// Where its database is on this machine.
    pub hint: Option<tinytask::Hint>,
    pub memory: Memory,
    /// The PATH on which runs' programs are looked for: the live daemon's, where somebody else looks.
    pub path: Option<OsString>,
    /// The index of past runs, for the one look that [`Self::once`] is for.
    index: Option<JoinHandle<runs::Index>>,
}

impl Looker {
    /// For the base path of `config`. Connects to nothing yet.
    pub fn new(config: Config) -> Self {
        let layout = Layout::new(config.base.clone());
        let mut memory = Memory::of(&layout);
        let server = which_server(&config, &layout, &mut memory.recipes);
        let tinytask = server.client(&config);
        let hint = server.db.as_deref().map(tinytask::Hint::new);
        Self {
            layout,
            config,
            server,
            tinytask,
            hint,
            memory,
            path: process::Environment::own().os("PATH").map(OsStr::to_owned),
            index: None,
        }
    }

    /// As [`Self::new`], for whoever takes one look and writes nothing: the index of past runs is read beside settings and recipes. It may
    /// be read at any time, as what it tells of a subject counts only while the subject's stamp is the one it names.
    pub fn once(config: Config) -> Self {
        let layout = Layout::new(config.base.clone());
        let reading = std::thread::Builder::new().spawn(move || runs::read_index(&layout));
        Self {
            // Where this user can have no more threads, it is read when it is needed.
            index: reading.ok(),
            ..Self::new(config)
        }
    }

    /// Looks with the eyes of this daemon: a program is where its PATH, not ours, leads. Where this user may not see that, ours
    /// stands for it.
    pub fn as_daemon(&mut self, daemon: &ProcessId) {
        if let Ok(Some(theirs)) = process::Environment::of(daemon) {
            self.path = theirs.os("PATH").map(OsStr::to_owned);
        }
    }

    /// Settings or recipes changed: which tinytask may have, too.
    pub fn reconfigure(&mut self, config: Config) {
        let server = which_server(&config, &self.layout, &mut self.memory.recipes);
        if server.endpoint != self.server.endpoint
            || config.tinytask.timeout != self.config.tinytask.timeout
        {
            self.tinytask = server.client(&config);
        }
        if server.db != self.server.db {
            self.hint = server.db.as_deref().map(tinytask::Hint::new);
        }
        self.server = server;
        self.config = config;
    }

    /// One look, at the moment `now`.
    pub async fn look(&mut self, scope: &Scope, now: &Now) -> Result<Snapshot, Error> {
        let mut seen = Snapshot::default();
        // Without a whole look after them, stamps tell nothing.
        let stamps = self.memory.stamps.take();
        self.memory.vouched = None;
        self.processes(&mut seen, now)?;
        let past = self.read_ahead(&seen);
        self.files(&mut seen, scope, now);
        seen.controls = self.controls(now)?;
        self.ask(&mut seen, scope, now).await;
        self.pauses(&mut seen, now)?;
        self.folders(&mut seen);
        self.histories(&mut seen, past.await)?;
        self.watch_parked(&mut seen).await;
        self.evidence(&mut seen).await;
        seen.last_unreachable = self.memory.last_unreachable.clone();
        seen.highest_task = self.memory.highest_task;
        self.memory.told_by_stamps = still::told_by_stamps(&seen);
        self.memory.stamps = stamps;
        Ok(seen)
    }

    // ── files ──────────────────────────────────────────────────────────────────────────────────────────────────────────

    fn files(&mut self, seen: &mut Snapshot, scope: &Scope, now: &Now) {
        let layout = &self.layout;
        let memory = &mut self.memory;
        let (settle, ignore) = (self.config.settle, &self.config.inbound.ignore);
        let (folder, names) = (layout.inbound(), &mut memory.inbound);
        match inbound::look(&folder, names, settle, ignore, now.wall, &memory.closed) {
            Ok(entries) => seen.inbound = entries,
            Err(error) => {
                let error = format!("inbound/ cannot be read: {error}");
                seen.cannot_read(RunSubject::Inbound, error);
            }
        }
        let chosen = self.config.recipe_files();
        // Of the queues that this look may start something in; a change of another's is an event, or found by the rescan, and calls for a
        // look at everything.
        let is_wanted = |queue: &QueueName| match scope {
            Scope::Everything | Scope::Queues(Asked::All) => true,
            Scope::Queues(Asked::Only(asked)) => {
                asked.contains(queue)
                    || *queue == self.config.policy.inbound_queue
                    || seen.runs.iter().any(|run| run.dir.queue == *queue)
            }
        };
        let recipes = (memory.recipes).look(&layout.recipes(), &chosen, is_wanted, now.wall);
        if let Some(error) = recipes.trouble {
            let trouble = format!("recipes/ cannot be read, so no queue has one: {error}");
            seen.troubles.push(trouble);
        }
        seen.recipes = recipes.recipes.into_iter().collect();
        let odd = recipes.odd.into_iter();
        seen.troubles
            .extend(odd.map(|name| format!("recipes/{name} is no recipe's name")));
        let queues: BTreeSet<_> = seen
            .recipes
            .keys()
            .chain(self.config.queues.keys())
            .collect();
        let mut programs: BTreeMap<&str, Option<String>> = BTreeMap::new();
        for queue in queues {
            let program = goose::program(&self.config, queue);
            let why = programs.entry(program).or_insert_with(|| {
                let is_found = memory.programs.has(program, self.path.as_deref());
                (!is_found).then(|| goose::why_not_found(program))
            });
            if let Some(why) = why {
                seen.no_program.insert(queue.clone(), why.clone());
            }
        }
    }

    /// What people said in control/.
    fn controls(&mut self, now: &Now) -> Result<Controls, Error> {
        let found = control::look(&self.layout, &mut self.memory.controls, now.wall);
        found.map_err(|source| Error::Io {
            path: self.layout.control().to_string(),
            source,
        })
    }

    /// What was paused or held while tinytask was asked; what was so before stays so for this look.
    ///
    /// Interleaving survived: a look begins, a person pauses a queue, then puts a task into it, then tinytask is asked. Read after its
    /// answer, the pause is there for whatever the answer shows.
    fn pauses(&mut self, seen: &mut Snapshot, now: &Now) -> Result<(), Error> {
        let later = self.controls(now)?;
        let controls = &mut seen.controls;
        controls.pause_all |= later.pause_all;
        controls.paused.extend(later.paused);
        controls.held.extend(later.held);
        Ok(())
    }

    /// The folders of the tasks that tinytask showed and that may have to wait for theirs; whatever else lies in workqueue/ is nobody's
    /// question.
    fn folders(&self, seen: &mut Snapshot) {
        // One that cannot be opened shows no folder.
        let Ok(workqueue) = files::Folder::open(&self.layout.workqueue()) else {
            return;
        };
        let changed = |id: &TaskId| {
            let changed = workqueue.changed(&subject_dir(RunSubject::Task(*id)))?;
            Some((*id, changed))
        };
        let may_start = |task: &&Task| task.status == TaskStatus::Idle && !task.is_blocked;
        let tasks = seen.tasks.values().filter(may_start);
        seen.folders = tasks.filter_map(|task| changed(&task.id)).collect();
    }

    /// When a task's folder last changed; `None` where there is none.
    pub fn folder(&self, id: TaskId) -> Option<Timestamp> {
        let path = self.layout.task_folder(id);
        files::modified(&path).filter(|_| path.is_dir())
    }
}

/// An error and its causes on one line.
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}
