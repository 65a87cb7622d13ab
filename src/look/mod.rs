//! The one look: files and processes first, tinytask second, one [`Snapshot`] out.
//!
//! Daemon, `run --once`, `status`, `plan` and `why` all take this look and hand it to the same `decide`, so they cannot
//! disagree. It changes nothing on disk.
//!
//! What a look alone cannot know (which files the watcher saw closed, what this daemon has in hand, since when tinytask is
//! away) is in [`Memory`], which is empty in a fresh process; nothing is ever started or judged on its word alone.

use std::collections::{BTreeMap, BTreeSet};

use camino::Utf8Path;
use futures_util::future::join_all;

use crate::core::layout::{Layout, RunDir};
use crate::core::model::{
    Detail, Millis, Moment, Now, ProcessId, QueueName, RunId, RunState, RunSubject, Task, TaskId,
    TaskKey, TaskStatus, Timestamp,
};
use crate::core::record::{Marks, VerdictRecord, Write};
use crate::core::verdict::{Meaning, questions};
use crate::core::{
    Alive, Coverage, Evidence, History, Observed, ObservedState, Run, Snapshot, Stranger, Tinytask,
    Vitals,
};
use crate::edge::{
    clock, config::Config, control, files, goose, inbound, process, recipe, runs, tinytask,
};

mod server;

pub use server::{Server, which_server};

/// Verdicts kept at hand for holds, fairness and `status`.
const RECENT: usize = 500;
/// Sweeps of one run; what is left then cannot be ended.
const SWEEPS: u32 = 3;
/// Of so many known open tasks, most have to vanish before the server is suspected.
const SUSPICIOUS_FROM: usize = 4;

/// How much of tinytask a look asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scope {
    /// All open tasks.
    Everything,
    /// Only what can change a decision: queues with a free slot, and what runs that ended have touched.
    Queues,
}

/// What a look needs from the looks before it.
#[derive(Debug, Default)]
pub struct Memory {
    /// Highest task id ever seen.
    pub highest_task: i64,
    /// First of the failures in a row.
    unreachable_since: Option<Moment>,
    pub last_unreachable: Option<Moment>,
    /// Open tasks of the last whole look.
    known_open: BTreeSet<TaskKey>,
    /// The last look that could tell found another server's tasks.
    is_suspicious: bool,
    /// The runs this daemon is stopping or sweeping.
    pub in_hand: BTreeSet<RunId>,
    /// How often this daemon has swept each run.
    pub swept: BTreeMap<RunId, u32>,
    /// Processes that certainly were a dead shim's, so that they stay so when their parents die.
    leftovers: BTreeMap<RunId, Vec<ProcessId>>,
    /// What the watcher saw of files in inbound/.
    pub closed: inbound::Closed,
    /// Answers that made a launch impossible at the last moment; they count in the next look.
    pub rechecked: BTreeMap<TaskId, Detail>,
    recipes: recipe::Known,
    histories: BTreeMap<RunSubject, History>,
    subjects: Option<BTreeSet<RunSubject>>,
    recent: Option<Vec<VerdictRecord>>,
    /// Whether the daemon's own writes keep the caches above true; else each look reads the disk.
    pub is_writer: bool,
}

impl Memory {
    /// A subject's records changed.
    pub fn forget(&mut self, subject: RunSubject) {
        self.histories.remove(&subject);
        if let Some(subjects) = &mut self.subjects {
            subjects.insert(subject);
        }
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
    pub memory: Memory,
}

impl Looker {
    /// For the base path of `config`. Connects to nothing yet.
    pub fn new(config: Config) -> Self {
        let layout = Layout::new(config.base.clone());
        let server = which_server(&config, &layout);
        let tinytask = server.client(&config);
        Self {
            layout,
            config,
            server,
            tinytask,
            memory: Memory::default(),
        }
    }

    /// Settings or recipes changed: which tinytask may have, too.
    pub fn reconfigure(&mut self, config: Config) {
        let server = which_server(&config, &self.layout);
        if server.endpoint != self.server.endpoint
            || config.tinytask.timeout != self.config.tinytask.timeout
        {
            self.tinytask = server.client(&config);
        }
        self.server = server;
        self.config = config;
    }

    /// One look, at the moment `now`.
    pub async fn look(&mut self, scope: Scope, now: &Now) -> Result<Snapshot, Error> {
        let mut seen = Snapshot::default();
        self.processes(&mut seen)?;
        self.files(&mut seen, now)?;
        self.ask(&mut seen, scope, now).await;
        self.folders(&mut seen);
        self.histories(&mut seen)?;
        self.watch_parked(&mut seen).await;
        self.evidence(&mut seen).await;
        seen.last_unreachable = self.memory.last_unreachable.clone();
        seen.highest_task = self.memory.highest_task;
        Ok(seen)
    }

    // ── records and processes ──────────────────────────────────────────────────────────────────────────────────────────

    fn processes(&mut self, seen: &mut Snapshot) -> Result<(), Error> {
        let (live, odd) = runs::list_live(&self.layout)?;
        seen.troubles.extend(
            odd.into_iter()
                .map(|name| format!(".calypso/live/{name} is no run's entry")),
        );
        let (strangers, odd) = runs::foreign_pid_files(&self.layout, &live)?;
        seen.odd_pid_names = odd;
        for (subject, file) in strangers {
            let what = process::stranger(file.pid, file.modified, file.uid);
            seen.strangers.insert(
                subject,
                Stranger {
                    what,
                    modified: file.modified,
                    inode: file.inode,
                },
            );
        }
        for dir in live {
            match self.run(&dir) {
                Ok(run) => seen.runs.push(run),
                Err(error) => {
                    seen.cannot_read(dir.id.subject, chain(&error));
                    seen.runs.push(unreadable(dir));
                }
            }
        }
        self.alive(seen);
        Ok(())
    }

    fn run(&self, dir: &RunDir) -> Result<Run, runs::Error> {
        let runs::Seen {
            spec,
            state,
            observed,
        } = runs::observe(&self.layout, dir)?;
        Ok(Run {
            spec,
            state,
            observed,
            ended_by_daemon: runs::read_ended(&self.layout, dir)?.map(|ended| ended.outcome),
            verdict: runs::read_verdict(&self.layout, dir)?,
            evidence: None,
            in_hand: self.memory.in_hand.contains(&dir.id),
            // What a process starts while it is being ended is seen by the next look only, and is worth another sweep.
            swept: self.memory.swept.get(&dir.id).is_some_and(|n| *n >= SWEEPS),
            vitals: Vitals::default(),
            dir: dir.clone(),
        })
    }

    /// Fills in what is alive of each run: nothing needs to be asked while the shim lives, or once it has told that nothing is
    /// left; the others share one scan of /proc.
    fn alive(&mut self, seen: &mut Snapshot) {
        let mut orphaned = Vec::new();
        for (index, run) in seen.runs.iter_mut().enumerate() {
            let sweeps = run.spec.as_ref().is_none_or(|spec| spec.limits.sweep);
            match run.state.as_ref().map(|state| &state.state) {
                Some(RunState::Ended { leftovers, .. }) => {
                    let is_same_boot = run
                        .state
                        .as_ref()
                        .is_some_and(|state| state.boot_id == clock::boot_id());
                    let leftovers = leftovers
                        .iter()
                        .filter(|l| sweeps && is_same_boot && process::is_alive(&l.process));
                    run.observed.alive = Some(Alive {
                        leftovers: leftovers.cloned().collect(),
                        ..Alive::default()
                    });
                }
                _ if run.observed.shim => run.observed.alive = Some(Alive::default()),
                // Nothing ran yet, or a record cannot be read by this version, and then nothing of it can be told.
                _ if run.spec.is_none() && !self.has_agent_lock(&run.dir) => {
                    run.observed.alive = (!run.observed.spec).then(Alive::default);
                }
                _ if run.spec.is_none() && run.observed.spec => {}
                _ => orphaned.push(index),
            }
        }
        let known = &self.memory.leftovers;
        let dead: Vec<_> = (orphaned.iter())
            .map(|index| {
                let run = &seen.runs[*index];
                process::DeadShim {
                    dir: &run.dir,
                    token: run.spec.as_ref().map(|spec| spec.token.as_str()),
                    state: run.state.as_ref(),
                    known: known.get(&run.dir.id).map_or(&[][..], Vec::as_slice),
                }
            })
            .collect();
        let found = process::leftovers(&self.layout, &dead);
        for (index, alive) in orphaned.into_iter().zip(found) {
            let run = &mut seen.runs[index];
            if let Some(alive) = &alive {
                let sure = alive.leftovers.iter().map(|l| l.process.clone()).collect();
                self.memory.leftovers.insert(run.dir.id, sure);
            }
            run.observed.alive = alive.map(|mut alive| {
                if run.spec.as_ref().is_some_and(|spec| !spec.limits.sweep) {
                    alive.leftovers.clear();
                    alive.doubtful.clear();
                }
                alive
            });
        }
        for run in &mut seen.runs {
            let marks = || {
                runs::read_marks(&self.layout, run.dir.id.subject)
                    .ok()
                    .flatten()
                    .unwrap_or_default()
            };
            if let Some(alive) = run
                .observed
                .alive
                .as_mut()
                .filter(|alive| !alive.is_nothing())
            {
                let Marks { released, .. } = marks();
                alive.leftovers.retain(|l| !released.contains(&l.process));
                alive.doubtful.retain(|l| !released.contains(&l.process));
            }
        }
    }

    /// Where it is missing, no agent of that run ever was.
    fn has_agent_lock(&self, dir: &RunDir) -> bool {
        let lock = self.layout.run(dir).agent_lock();
        files::identity(&lock).map_or(true, |found| found.is_some())
    }

    // ── files ──────────────────────────────────────────────────────────────────────────────────────────────────────────

    fn files(&mut self, seen: &mut Snapshot, now: &Now) -> Result<(), Error> {
        let layout = &self.layout;
        let io = |path: &Utf8Path| {
            let path = path.to_string();
            move |source| Error::Io { path, source }
        };
        seen.controls = control::look(layout).map_err(io(&layout.control()))?;
        let (settle, ignore) = (self.config.settle, &self.config.inbound.ignore);
        let closed = &self.memory.closed;
        match inbound::look(&layout.inbound(), settle, ignore, now.wall, closed) {
            Ok(entries) => seen.inbound = entries,
            Err(error) => {
                let error = format!("inbound/ cannot be read: {error}");
                seen.cannot_read(RunSubject::Inbound, error);
            }
        }
        let chosen = self.config.recipe_files();
        if let Err(error) = std::fs::read_dir(layout.recipes())
            && !files::is_absent(&error)
        {
            let trouble = format!("recipes/ cannot be read, so no queue has one: {error}");
            seen.troubles.push(trouble);
        }
        seen.recipes = self
            .memory
            .recipes
            .list(&layout.recipes(), &chosen)
            .into_iter()
            .collect();
        seen.troubles.extend(
            recipe::odd_names(&layout.recipes())
                .into_iter()
                .map(|name| format!("recipes/{name} is no recipe's name")),
        );
        let queues: BTreeSet<_> = seen
            .recipes
            .keys()
            .chain(self.config.queues.keys())
            .collect();
        let mut programs: BTreeMap<&str, Option<String>> = BTreeMap::new();
        for queue in queues {
            let program = goose::program(&self.config, queue);
            let why = programs.entry(program).or_insert_with(|| {
                let is_found = goose::find_program(program).is_some();
                (!is_found).then(|| goose::why_not_found(program))
            });
            if let Some(why) = why {
                seen.no_program.insert(queue.clone(), why.clone());
            }
        }
        Ok(())
    }

    /// The folders of the tasks that tinytask showed; whatever else lies in workqueue/ is nobody's question.
    fn folders(&self, seen: &mut Snapshot) {
        for id in seen.tasks.keys() {
            let path = self.layout.task_folder(*id);
            if let Some(changed) = files::modified(&path).filter(|_| path.is_dir()) {
                seen.folders.insert(*id, changed);
            }
        }
    }

    // ── tinytask ───────────────────────────────────────────────────────────────────────────────────────────────────────

    async fn ask(&mut self, seen: &mut Snapshot, scope: Scope, now: &Now) {
        seen.tinytask = match self.try_ask(seen, scope).await {
            Ok(None) => Tinytask::NotAsked,
            Ok(Some(took)) => {
                self.memory.unreachable_since = None;
                self.suspicion(seen)
                    .await
                    .unwrap_or(Tinytask::Fresh { took })
            }
            Err((error, hint)) => {
                seen.tasks.clear();
                seen.details.clear();
                seen.coverage = Coverage::Nothing;
                let since = self
                    .memory
                    .unreachable_since
                    .get_or_insert_with(|| now.into())
                    .clone();
                self.memory.last_unreachable = Some(now.into());
                Tinytask::Unreachable { since, error, hint }
            }
        };
    }

    /// How long the answers took; none where nothing had to be asked.
    async fn try_ask(
        &mut self,
        seen: &mut Snapshot,
        scope: Scope,
    ) -> Result<Option<Millis>, (String, Option<String>)> {
        let Some(tinytask) = &self.tinytask else {
            return Err((self.server.why_none(), None));
        };
        let began = clock::boot();
        let error = |error: tinytask::Error| (chain(&error), error.hint());
        let over: Vec<&Run> = seen
            .runs
            .iter()
            .filter(|run| run.verdict.is_none() && run.meaning() == Meaning::Complete)
            .collect();
        let tasks = match scope {
            Scope::Everything => {
                seen.coverage = Coverage::Everything;
                tinytask.open_tasks().await.map_err(error)?
            }
            Scope::Queues => {
                let queues = self.queues_to_ask(seen, &over);
                if queues.is_empty() {
                    return Ok(None);
                }
                let answers =
                    join_all(queues.iter().map(|queue| tinytask.queue(queue.as_str()))).await;
                seen.coverage = Coverage::Queues(queues);
                let mut tasks = Vec::new();
                for answer in answers {
                    tasks.extend(answer.map_err(error)?);
                }
                tasks
            }
        };
        let is_whole = scope == Scope::Everything;
        seen.tasks = tasks
            .into_iter()
            .filter(Task::is_open)
            .map(|task| (task.id, task))
            .collect();
        let in_queue = |queue: &QueueName, id: TaskId| {
            seen.tasks
                .get(&id)
                .is_some_and(|task| task.assigned_to.as_deref() == Some(queue.as_str()))
        };
        let wanted: BTreeSet<TaskId> = over
            .iter()
            .flat_map(|run| {
                questions(run, |id| {
                    if is_whole {
                        seen.tasks.contains_key(&id)
                    } else {
                        in_queue(&run.dir.queue, id)
                    }
                })
            })
            .collect();
        let details = join_all(wanted.iter().map(|id| tinytask.detail(*id))).await;
        for (id, detail) in wanted.iter().zip(details) {
            seen.details.insert(*id, detail.map_err(error)?);
        }
        for (id, detail) in std::mem::take(&mut self.memory.rechecked) {
            seen.details.entry(id).or_insert(detail);
        }
        let highest = seen.tasks.keys().next_back().map_or(0, |id| id.number());
        self.memory.highest_task = self.memory.highest_task.max(highest);
        Ok(Some(Millis(clock::boot().0.saturating_sub(began.0))))
    }

    /// Queues that could start something, and queues a run of which is over.
    fn queues_to_ask(&self, seen: &Snapshot, over: &[&Run]) -> BTreeSet<QueueName> {
        let mut used: BTreeMap<&QueueName, u32> = BTreeMap::new();
        for run in seen.runs.iter().filter(|run| run.verdict.is_none()) {
            *used.entry(&run.dir.queue).or_default() += 1;
        }
        let policy = &self.config.policy;
        let commanded = policy
            .queues
            .iter()
            .filter(|(_, queue)| queue.has_command)
            .map(|(name, _)| name);
        let known = seen
            .recipes
            .iter()
            .filter(|(_, recipe)| recipe.is_ok())
            .map(|(name, _)| name);
        let free = known.chain(commanded).filter(|queue| {
            let recipe = seen
                .recipes
                .get(*queue)
                .and_then(|recipe| recipe.as_ref().ok());
            used.get(queue).copied().unwrap_or(0) < policy.slots(queue, recipe)
        });
        free.chain(over.iter().map(|run| &run.dir.queue))
            .cloned()
            .collect()
    }

    /// A look in which most of the tasks known to be open are gone without a trace is another server's, or a restored
    /// database's: better to wait for a person than to judge by it. The server is asked for a few of them by number, since
    /// people may well complete or archive everything at once. A look at some queues is doubted only if a task that a run was
    /// started for is gone, or the last look was doubted.
    async fn suspicion(&mut self, seen: &Snapshot) -> Option<Tinytask> {
        let now_open: BTreeSet<TaskKey> = seen.tasks.values().map(Task::key).collect();
        let known = &self.memory.known_open;
        let gone: Vec<TaskKey> = known.difference(&now_open).copied().collect();
        let is_whole = seen.coverage == Coverage::Everything;
        let is_doubtful = if is_whole {
            gone.len() * 4 > known.len() * 3
        } else {
            self.memory.is_suspicious
                || known
                    .iter()
                    .any(|key| is_gone(seen.details.get(&key.id), *key))
        };
        if is_doubtful && known.len() >= SUSPICIOUS_FROM && gone.len() >= SUSPICIOUS_FROM {
            let tinytask = self.tinytask.as_ref()?;
            let asked = &gone[..gone.len().min(8)];
            let answers = join_all(asked.iter().map(|key| tinytask.detail(key.id))).await;
            let are_gone = (answers.iter().zip(asked))
                .all(|(answer, key)| answer.as_ref().is_ok_and(|a| is_gone(Some(a), *key)));
            self.memory.is_suspicious = are_gone;
            if are_gone {
                let (vanished, of) = (gone.len(), known.len());
                return Some(Tinytask::Suspicious { vanished, of });
            }
        }
        if is_whole {
            self.memory.is_suspicious = false;
            self.memory.known_open = now_open;
        }
        None
    }

    /// Parked tasks are lifted by a comment, which no list shows.
    async fn watch_parked(&self, seen: &mut Snapshot) {
        let (Some(tinytask), Tinytask::Fresh { .. }) = (&self.tinytask, &seen.tinytask) else {
            return;
        };
        let parked = |subject: &RunSubject, history: &History| {
            let id = subject
                .task()
                .filter(|id| seen.tasks.contains_key(id) && !seen.details.contains_key(id))?;
            let entry = history
                .verdicts
                .last()?
                .tasks
                .iter()
                .find(|task| task.key.id == id)?;
            matches!(entry.write, Some(Write::Park { .. })).then_some(id)
        };
        let wanted: Vec<TaskId> = seen
            .histories
            .iter()
            .filter_map(|(subject, history)| parked(subject, history))
            .collect();
        let details = join_all(wanted.iter().map(|id| tinytask.detail(*id))).await;
        seen.details.extend(
            wanted
                .into_iter()
                .zip(details)
                .filter_map(|(id, detail)| Some((id, detail.ok()?))),
        );
    }

    // ── the past ───────────────────────────────────────────────────────────────────────────────────────────────────────

    fn histories(&mut self, seen: &mut Snapshot) -> Result<(), Error> {
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

    // ── evidence ───────────────────────────────────────────────────────────────────────────────────────────────────────

    async fn evidence(&self, seen: &mut Snapshot) {
        if !matches!(seen.tinytask, Tinytask::Fresh { .. }) {
            return;
        }
        let present: BTreeSet<_> = seen.inbound.iter().map(|entry| entry.key.clone()).collect();
        for run in &mut seen.runs {
            if run.verdict.is_some() || run.meaning() != Meaning::Complete {
                continue;
            }
            let Some(spec) = &run.spec else { continue };
            // Without the folder nobody knows what was taken from it.
            if run.dir.id.subject == RunSubject::Inbound
                && seen.unreadable.contains_key(&RunSubject::Inbound)
            {
                continue;
            }
            let output = goose::read_output(&self.layout.run(&run.dir).output());
            let left: Vec<_> = spec
                .baseline
                .inbound
                .iter()
                .filter(|file| present.contains(file))
                .cloned()
                .collect();
            let mut created = Vec::new();
            // An inbound run's launch asked for the highest task: 0 says that there was none yet.
            if !left.is_empty()
                && let Some(tinytask) = &self.tinytask
            {
                match tinytask.all_tasks().await {
                    Ok(tasks) => created.extend(
                        tasks
                            .iter()
                            .map(|t| t.id)
                            .filter(|id| id.number() > spec.baseline.highest_task),
                    ),
                    // Without the answer there is no verdict; the next look asks again.
                    Err(_) => continue,
                }
            }
            run.evidence = Some(Evidence {
                tokens: output.tokens,
                cost: output.cost,
                sign: output.sign,
                asked: output.asked,
                folder: spec
                    .task
                    .map_or(0, |task| inbound::digest(&self.layout.task_folder(task.id))),
                left,
                created,
            });
        }
    }

    /// What the agents of live runs are up to, for `status`.
    pub fn vitals(&self, seen: &mut Snapshot, now: &Now) {
        for run in &mut seen.runs {
            let Some(state) = &run.state else { continue };
            let RunState::Running { agent } = &state.state else {
                continue;
            };
            if state.boot_id != now.boot_id {
                continue;
            }
            let since = state.running.as_ref().map_or(Millis(0), |m| m.age(now));
            let vitals = process::vitals(agent);
            run.vitals = Vitals {
                agent_pid: Some(agent.pid),
                cpu_percent: vitals
                    .filter(|_| since.0 > 0)
                    .map(|(cpu, _)| cpu.0 as f64 * 100.0 / since.0 as f64),
                rss_kb: vitals.map(|(_, rss)| rss),
                last_sign: self.last_sign(run),
            };
        }
    }

    fn last_sign(&self, run: &Run) -> Option<Timestamp> {
        let output = files::modified(&self.layout.run(&run.dir).output());
        let folder = run
            .dir
            .id
            .subject
            .task()
            .and_then(|id| files::modified(&self.layout.task_folder(id)));
        output.max(folder)
    }
}

/// Does the answer say that there is no such task, or that its number is another one's?
fn is_gone(answer: Option<&Detail>, key: TaskKey) -> bool {
    match answer {
        Some(Detail::NotFound) => true,
        Some(Detail::Found(found)) => found.task.key() != key,
        None => false,
    }
}

/// Is the task still what its launch was decided on?
pub fn is_still_runnable(detail: &Detail, queue: &QueueName) -> bool {
    let Detail::Found(found) = detail else {
        return false;
    };
    found.task.status == TaskStatus::Idle
        && !found.task.is_archived
        && !found.task.is_blocked
        && found.open_subtasks == 0
        && found.task.assigned_to.as_deref() == Some(queue.as_str())
}

/// A run whose records this program cannot read: nothing is known, so nothing is done.
fn unreadable(dir: RunDir) -> Run {
    Run {
        dir,
        spec: None,
        state: None,
        observed: Observed {
            spec: true,
            pid_file: false,
            shim: false,
            state: ObservedState::None,
            alive: None,
        },
        ended_by_daemon: None,
        verdict: None,
        evidence: None,
        in_hand: false,
        swept: false,
        vitals: Vitals::default(),
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
