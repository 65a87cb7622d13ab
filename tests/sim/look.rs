//! The look: what `look::Looker` would put into a `Snapshot` of this world, in its order, with time passing between its parts.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use calypso_watch::core::attention::Asked;
use calypso_watch::core::history::Past;
use calypso_watch::core::layout::RunDir;
use calypso_watch::core::model::{
    Detail, FileKey, Leftover, Millis, Now, QueueName, RunState, RunSubject, Task, TaskId,
    TaskStatus, Timestamp,
};
use calypso_watch::core::record::Write;
use calypso_watch::core::trust::Doubt;
use calypso_watch::core::verdict::{Meaning, questions};
use calypso_watch::core::{
    Alive, Coverage, Evidence, InboundEntry, InboundState, Observed, ObservedState, Run, Snapshot,
    Stranger, StrangerKind, Tinytask, Vitals,
};
use calypso_watch::look::Scope;

use crate::processes::{Kind, Process};
use crate::tinytask::Db;
use crate::world::{Killed, World};

/// As in `look`.
const SWEEPS: u32 = 3;
const RECENT: usize = 500;

/// What one call to tinytask came to.
pub(crate) type Answer<T> = Result<T, String>;

impl World {
    /// One call: the answer is of the moment at which the server made it, which may be long ago when it arrives.
    pub(crate) fn call<T>(
        &mut self,
        name: &'static str,
        ask: impl FnOnce(&mut Db) -> T,
    ) -> Result<Answer<T>, Killed> {
        if !self.tiny.is_up {
            self.point(name)?;
            return Ok(Err("connection refused".into()));
        }
        self.point(name)?;
        let answer = ask(&mut self.tiny.db);
        if !self.is_frozen {
            let slowness = self.chance.below(self.tiny.slowness + 1);
            self.pass(slowness);
            if self.tiny.loses > 0 && self.chance.below(self.tiny.loses) == 0 {
                self.counts.hit("answer of tinytask lost");
                self.point(name)?;
                return Ok(Err("timed out".into()));
            }
            if slowness > 1_000 {
                self.counts.hit("answer of tinytask from before an event");
            }
        }
        self.point(name)?;
        Ok(Ok(answer))
    }

    pub(crate) fn look(&mut self, scope: &Scope, now: &Now) -> Result<Snapshot, Killed> {
        let mut seen = Snapshot::default();
        self.see_processes(&mut seen);
        self.point("between processes and files")?;
        self.see_files(&mut seen);
        self.point("between files and tinytask")?;
        self.ask(&mut seen, scope, now)?;
        let may_start = |task: &&Task| task.status == TaskStatus::Idle && !task.is_blocked;
        for task in seen.tasks.values().filter(may_start) {
            if let Some((changed, _)) = self.disk.folders.get(&task.id.number()) {
                seen.folders.insert(task.id, *changed);
            }
        }
        self.see_past(&mut seen);
        self.watch_parked(&mut seen)?;
        self.see_evidence(&mut seen)?;
        let mono = self.mono;
        for (subject, (until, _)) in self.daemon.iter().flat_map(|daemon| &daemon.failing) {
            if mono < *until {
                seen.cannot_read(*subject, "it could not be started".into());
            }
        }
        let memory = self.memory();
        seen.last_unreachable = memory.last_unreachable.clone();
        seen.highest_task = memory.highest_task;
        Ok(seen)
    }

    // ── processes ──────────────────────────────────────────────────────────────────────────────────────────────────────

    fn see_processes(&mut self, seen: &mut Snapshot) {
        let live: Vec<RunDir> = self.disk.live.iter().cloned().collect();
        let ours: BTreeSet<u64> = live
            .iter()
            .filter_map(|dir| self.disk.runs.get(dir)?.pid)
            .collect();
        let foreign = self
            .disk
            .pid_files
            .iter()
            .filter(|(_, file)| !ours.contains(&file.inode));
        for (subject, file) in foreign {
            let what = match file.pid {
                None => StrangerKind::Odd("empty".into()),
                Some(pid) => self.stranger(pid, file.modified),
            };
            let stranger = Stranger {
                what,
                modified: file.modified,
                inode: file.inode,
            };
            seen.strangers.insert(*subject, stranger);
        }
        for dir in live {
            let run = self.see_run(&dir);
            seen.runs.push(run);
        }
    }

    fn stranger(&self, pid: i32, modified: Timestamp) -> StrangerKind {
        let Some(found) = self.processes.get(&pid) else {
            return StrangerKind::Dead { pid };
        };
        let running = (self.tick().saturating_sub(found.id.start) * 10) as i64;
        let began = Timestamp(self.wall().0 - running);
        StrangerKind::Alive {
            process: found.id.clone(),
            comm: found.comm.clone(),
            younger: began.since(modified) > Millis::secs(1),
        }
    }

    fn see_run(&mut self, dir: &RunDir) -> Run {
        let pid_file = self.disk.is_own_pid_file(dir);
        let on_disk = self.disk.runs.get(dir).cloned().unwrap_or_default();
        let shim = on_disk.shim_lock.is_some();
        let spec = on_disk.spec.now.clone();
        let state = on_disk
            .state
            .now
            .clone()
            .filter(|state| spec.as_ref().is_some_and(|spec| spec.token == state.token));
        let kind = match state.as_ref().map(|state| &state.state) {
            None => ObservedState::None,
            Some(RunState::Starting) => ObservedState::Starting,
            Some(RunState::Running { .. }) => ObservedState::Running,
            Some(RunState::Ended { .. }) => ObservedState::Ended,
        };
        let memory = self.memory();
        let (in_hand, swept) = (
            memory.in_hand.contains(&dir.id),
            memory.swept.get(&dir.id).is_some_and(|n| *n >= SWEEPS),
        );
        let mut run = Run {
            dir: dir.clone(),
            observed: Observed {
                spec: spec.is_some(),
                pid_file,
                shim,
                state: kind,
                alive: None,
            },
            spec: spec.map(Arc::new),
            state,
            ended_by_daemon: on_disk.ended.now.clone(),
            verdict: on_disk.verdict.now.clone(),
            evidence: None,
            in_hand,
            swept,
            vitals: Vitals::default(),
        };
        run.observed.alive = Some(self.alive(&run, on_disk.has_agent_lock));
        run
    }

    fn alive(&mut self, run: &Run, has_agent_lock: bool) -> Alive {
        let sweeps = run.spec.as_ref().is_none_or(|spec| spec.limits.sweep);
        let mut alive = match run.state.as_ref() {
            Some(state) if let RunState::Ended { leftovers, .. } = &state.state => Alive {
                leftovers: leftovers
                    .iter()
                    .filter(|l| {
                        sweeps && *state.boot_id == *self.boot_id && self.is_alive(&l.process)
                    })
                    .cloned()
                    .collect(),
                ..Alive::default()
            },
            _ if run.observed.shim => Alive::default(),
            _ if run.spec.is_none() && !has_agent_lock => Alive::default(),
            _ => self.scan(run),
        };
        let released = self.disk.marks.get(&run.dir.id.subject);
        if let Some(released) = released.map(|marks| &marks.released) {
            alive.leftovers.retain(|l| !released.contains(&l.process));
            alive.doubtful.retain(|l| !released.contains(&l.process));
        }
        if !sweeps {
            alive.leftovers.clear();
            alive.doubtful.clear();
        }
        alive
    }

    /// As `edge::process::leftovers`, for a run whose shim is dead.
    fn scan(&mut self, run: &Run) -> Alive {
        if run
            .state
            .as_ref()
            .is_some_and(|state| *state.boot_id != *self.boot_id)
        {
            return Alive::default();
        }
        let agent = run.state.as_ref().and_then(|state| match &state.state {
            RunState::Running { agent } => Some(agent.clone()),
            _ => None,
        });
        let shim = run.state.as_ref().map(|state| state.shim.clone());
        let known = self
            .memory()
            .leftovers
            .get(&run.dir.id)
            .cloned()
            .unwrap_or_default();
        let has_token = run.spec.is_some();
        let is_its =
            |p: &Process| p.of.as_ref() == Some(&run.dir) && !matches!(p.kind, Kind::Shim(_));
        let is_certain = |p: &Process| {
            (is_its(p) && (p.holds_agent_lock || (p.has_token && has_token)))
                || agent.as_ref() == Some(&p.id)
                || known.contains(&p.id)
        };
        let in_session = |p: &Process| {
            shim.as_ref()
                .is_some_and(|shim| p.session == shim.pid && p.id.start >= shim.start)
        };
        let is_proven = self
            .processes
            .values()
            .any(|p| in_session(p) && is_certain(p));
        let is_refuted = shim
            .as_ref()
            .is_some_and(|shim| self.processes.get(&shim.pid).is_some_and(|p| p.id != *shim));
        let mut alive = Alive::default();
        for process in self.processes.values() {
            if shim.as_ref() == Some(&process.id) {
                continue;
            }
            let leftover = || Leftover {
                process: process.id.clone(),
                comm: process.comm.clone(),
            };
            let is_member = in_session(process) && !is_refuted;
            if agent.as_ref() == Some(&process.id) {
                alive.agent = Some(process.id.clone());
            } else if is_certain(process) || (is_member && is_proven) {
                alive.leftovers.push(leftover());
            } else if is_member {
                alive.doubtful.push(leftover());
            }
        }
        let sure = alive.leftovers.iter().map(|l| l.process.clone()).collect();
        self.memory().leftovers.insert(run.dir.id, sure);
        alive
    }

    // ── files ──────────────────────────────────────────────────────────────────────────────────────────────────────────

    fn see_files(&mut self, seen: &mut Snapshot) {
        seen.controls = self.disk.controls.clone();
        let (mono, offset) = (self.mono, self.wall_offset);
        seen.inbound = self
            .disk
            .inbound
            .iter()
            .map(|request| InboundEntry {
                key: request.key.clone(),
                is_dir: false,
                state: if request.is_odd {
                    InboundState::Odd("a socket".into())
                } else if request.settled <= mono {
                    InboundState::Settled { endless: false }
                } else {
                    InboundState::Settling {
                        until: Timestamp(request.settled as i64 + offset),
                    }
                },
            })
            .collect();
        seen.recipes = self.disk.recipes.clone();
        if self.mono < self.programs_gone_until {
            for queue in seen.recipes.keys() {
                seen.no_program
                    .insert(queue.clone(), "goose is not found".into());
            }
        }
    }

    // ── tinytask ───────────────────────────────────────────────────────────────────────────────────────────────────────

    fn ask(&mut self, seen: &mut Snapshot, scope: &Scope, now: &Now) -> Result<(), Killed> {
        seen.tinytask = match self.try_ask(seen, scope)? {
            Ok(false) => Tinytask::NotAsked,
            Ok(true) => {
                self.memory().unreachable_since = None;
                self.suspicion(seen, now)?
                    .unwrap_or(Tinytask::Fresh { took: Millis(1) })
            }
            Err(error) => {
                self.counts.hit("tinytask unreachable");
                seen.tasks.clear();
                seen.details.clear();
                seen.coverage = Coverage::Nothing;
                let memory = self.memory();
                let since = memory
                    .unreachable_since
                    .get_or_insert_with(|| now.into())
                    .clone();
                memory.last_unreachable = Some(now.into());
                Tinytask::Unreachable {
                    since,
                    error,
                    hint: None,
                }
            }
        };
        Ok(())
    }

    fn try_ask(&mut self, seen: &mut Snapshot, scope: &Scope) -> Result<Answer<bool>, Killed> {
        let over = over(&seen.runs);
        let mut tasks = Vec::new();
        match scope {
            Scope::Everything => {
                seen.coverage = Coverage::Everything;
                match self.call("asking for all tasks", |db| db.open(None))? {
                    Ok(all) => tasks = all,
                    Err(error) => return Ok(Err(error)),
                }
            }
            Scope::Queues(asked) => {
                let queues = self.queues_to_ask(seen, &over, asked);
                if queues.is_empty() {
                    return Ok(Ok(false));
                }
                for queue in &queues {
                    match self.call("asking for a queue", |db| db.open(Some(queue.as_str())))? {
                        Ok(some) => tasks.extend(some),
                        Err(error) => return Ok(Err(error)),
                    }
                }
                seen.coverage = Coverage::Queues(queues);
            }
        }
        seen.tasks = tasks.into_iter().map(|task| (task.id, task)).collect();
        let is_whole = *scope == Scope::Everything;
        let in_queue = |queue: &QueueName, id: TaskId| {
            let task = seen.tasks.get(&id);
            task.is_some_and(|task| task.assigned_to.as_deref() == Some(queue.as_str()))
        };
        let rechecked = self.memory().rechecked.clone();
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
            .chain(over.iter().flat_map(|run| {
                let queue = run.dir.queue.as_str();
                let working = seen.tasks.values().filter(move |task| {
                    task.status == TaskStatus::Working && task.assigned_to.as_deref() == Some(queue)
                });
                working.map(|task| task.id)
            }))
            .chain(
                rechecked
                    .into_iter()
                    .filter(|id| !is_whole && seen.tasks.contains_key(id)),
            )
            .collect();
        for id in wanted {
            match self.call("asking for a task", |db| db.detail(id.number()))? {
                Ok(detail) => seen.details.insert(id, detail),
                Err(error) => return Ok(Err(error)),
            };
        }
        let details = &seen.details;
        let memory = self.memory();
        memory.rechecked.retain(|id| match details.get(id) {
            Some(Detail::Found(found)) => found.open_subtasks > 0,
            Some(Detail::NotFound) => false,
            None => !is_whole || seen.tasks.contains_key(id),
        });
        let highest = seen.tasks.keys().next_back().map_or(0, |id| id.number());
        memory.highest_task = memory.highest_task.max(highest);
        Ok(Ok(true))
    }

    pub(crate) fn has_asked(&self, seen: &Snapshot) -> bool {
        let Some(daemon) = &self.daemon else {
            return false;
        };
        let queues = self.queues_to_ask(seen, &over(&seen.runs), &daemon.attention.asked());
        queues.iter().all(|queue| seen.coverage.has(queue))
    }

    fn queues_to_ask(&self, seen: &Snapshot, over: &[Run], asked: &Asked) -> BTreeSet<QueueName> {
        let used = |queue: &QueueName| {
            let is_there = |run: &&Run| run.verdict.is_none() && run.meaning() != Meaning::Litter;
            let unjudged = seen.runs.iter().filter(is_there);
            unjudged.filter(|run| run.dir.queue == *queue).count() as u32
        };
        let free = seen.recipes.iter().filter(|(queue, recipe)| {
            recipe
                .as_ref()
                .is_ok_and(|recipe| used(queue) < self.policy.slots(queue, Some(recipe)))
        });
        let has_requests =
            (seen.inbound.iter()).any(|entry| matches!(entry.state, InboundState::Settled { .. }));
        let is_asked = |queue: &QueueName| match asked {
            Asked::All => true,
            Asked::Only(queues) => {
                queues.contains(queue) || (has_requests && *queue == self.policy.inbound_queue)
            }
        };
        free.filter(|(queue, _)| is_asked(queue))
            .map(|(queue, _)| queue.clone())
            .chain(over.iter().map(|run| run.dir.queue.clone()))
            .collect()
    }

    fn suspicion(&mut self, seen: &Snapshot, now: &Now) -> Result<Option<Tinytask>, Killed> {
        let asked = match self.memory().trust.doubt(seen, now) {
            Doubt::Nothing => return Ok(None),
            Doubt::Sure(suspicious) => {
                self.counts.hit("number found to be another task's");
                return Ok(Some(suspicious));
            }
            Doubt::Ask(asked) => asked,
        };
        let mut answers = Vec::new();
        for key in asked {
            let answer = self.call("doubting tinytask", |db| db.detail(key.id.number()))?;
            answers.push((key, answer.ok()));
        }
        let doubted = self.memory().trust.answered(seen, &answers);
        if doubted.is_some() {
            self.counts.hit("tinytask suspicious");
        }
        Ok(doubted)
    }

    fn watch_parked(&mut self, seen: &mut Snapshot) -> Result<(), Killed> {
        if !matches!(seen.tinytask, Tinytask::Fresh { .. }) {
            return Ok(());
        }
        let parked = seen.histories.iter().filter_map(|(subject, history)| {
            let id = subject
                .task()
                .filter(|id| seen.tasks.contains_key(id) && !seen.details.contains_key(id))?;
            let last = history.verdicts.last()?;
            let entry = last.tasks.iter().find(|task| task.key.id == id)?;
            matches!(entry.write, Some(Write::Park { .. })).then_some(id)
        });
        let parked: Vec<TaskId> = parked.collect();
        for id in parked {
            match self.call("asking for a parked task", |db| db.detail(id.number()))? {
                Ok(detail) => drop(seen.details.insert(id, detail)),
                Err(_) => seen.cannot_read(RunSubject::Task(id), "no word of it".into()),
            }
        }
        Ok(())
    }

    // ── the past, and what a run left ──────────────────────────────────────────────────────────────────────────────────

    fn see_past(&mut self, seen: &mut Snapshot) {
        let mut memory = std::mem::take(self.memory());
        let disk = &self.disk;
        let recent = memory.recent.get_or_insert_with(|| {
            let from = disk.history.len().saturating_sub(RECENT);
            disk.history[from..]
                .iter()
                .map(|(_, verdict)| Arc::new(verdict.clone()))
                .collect()
        });
        seen.recent.clone_from(recent);
        let subjects = memory.subjects.get_or_insert_with(|| disk.subjects());
        let tasks = seen.tasks.keys().chain(seen.details.keys());
        let runs = seen.runs.iter().map(|run| run.dir.id.subject);
        let people = seen
            .controls
            .retry
            .iter()
            .chain(&seen.controls.release)
            .copied();
        let touched = seen.runs.iter().filter_map(|run| run.spec.as_ref());
        let touched = touched.flat_map(|spec| spec.baseline.tasks.iter().map(|task| task.key.id));
        let wanted: BTreeSet<RunSubject> = tasks
            .copied()
            .chain(touched)
            .map(RunSubject::Task)
            .chain(runs)
            .chain(seen.strangers.keys().copied())
            .chain(people)
            .chain([RunSubject::Inbound])
            .collect();
        for subject in wanted.intersection(subjects) {
            let past = memory.histories.entry(*subject).or_insert_with(|| {
                let past = Past::from(disk.past(*subject));
                // As what is taken from the index, or was not wanted for a minute.
                past.repacked(*subject).unwrap_or(past)
            });
            seen.histories.insert(*subject, past.clone());
        }
        memory
            .histories
            .retain(|subject, _| wanted.contains(subject));
        *self.memory() = memory;
    }

    fn see_evidence(&mut self, seen: &mut Snapshot) -> Result<(), Killed> {
        if !matches!(seen.tinytask, Tinytask::Fresh { .. }) {
            return Ok(());
        }
        let present: BTreeMap<String, FileKey> = (seen.inbound.iter())
            .map(|entry| (entry.key.name.clone(), entry.key.clone()))
            .collect();
        for run in &mut seen.runs {
            if run.verdict.is_some() || run.meaning() != Meaning::Complete {
                continue;
            }
            let Some(spec) = &run.spec else { continue };
            let (mut left, mut changed) = (BTreeSet::new(), BTreeMap::new());
            for file in &spec.baseline.inbound {
                match present.get(&file.name) {
                    Some(now) if now == file => drop(left.insert(file.clone())),
                    Some(now) => drop(changed.insert(file.clone(), now.clone())),
                    None => {}
                }
            }
            let mut created = Vec::new();
            if !(left.is_empty() && changed.is_empty()) {
                let highest = spec.baseline.highest_task;
                let all = self.call("asking what was created", |db| {
                    let above = db.rows.keys().filter(|id| **id > highest);
                    above.map(|id| crate::tinytask::id(*id)).collect::<Vec<_>>()
                })?;
                match all {
                    Ok(above) => created = above,
                    Err(_) => continue,
                }
            }
            let on_disk = self.disk.runs.get(&run.dir);
            run.evidence = Some(Evidence {
                tokens: None,
                cost: None,
                sign: on_disk.and_then(|run| run.sign.clone()),
                asked: on_disk.is_some_and(|run| run.asked),
                folder: spec
                    .task
                    .map_or(0, |task| self.disk.digest(task.id.number())),
                left,
                changed,
                created,
            });
        }
        Ok(())
    }

    /// The memory of the daemon that looks.
    pub(crate) fn memory(&mut self) -> &mut crate::daemon::Memory {
        &mut self
            .daemon
            .as_mut()
            .expect("only a daemon that lives looks")
            .memory
    }
}

/// As `look::asking` has it.
fn over(runs: &[Run]) -> Vec<Run> {
    let is_over = |run: &&Run| run.verdict.is_none() && run.meaning() == Meaning::Complete;
    runs.iter().filter(is_over).cloned().collect()
}
