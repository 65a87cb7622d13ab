//! What a look asks tinytask: which queues, which tasks one by one, and whether the answers can be believed.
//!
//! Does not know which server it is (`server.rs`), writes nothing to it, and draws no verdict from what it says.

use std::collections::{BTreeMap, BTreeSet};

use futures_util::future::join_all;

use super::{Looker, Scope, chain};
use crate::core::attention::Asked;
use crate::core::history::Past;
use crate::core::model::{
    Detail, FileKey, Millis, Now, QueueName, RunSubject, Task, TaskId, TaskKey, TaskStatus,
};
use crate::core::trust::Doubt;
use crate::core::verdict::{Meaning, questions};
use crate::core::{Coverage, Evidence, InboundState, Run, Snapshot, Tinytask};
use crate::edge::{clock, goose, inbound, tinytask};

impl Looker {
    pub(super) async fn ask(&mut self, seen: &mut Snapshot, scope: &Scope, now: &Now) {
        seen.tinytask = match self.try_ask(seen, scope).await {
            Ok(None) => Tinytask::NotAsked,
            Ok(Some(took)) => {
                self.memory.unreachable_since = None;
                self.suspicion(seen, now)
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
        scope: &Scope,
    ) -> Result<Option<Millis>, (String, Option<String>)> {
        let Some(tinytask) = &self.tinytask else {
            return Err((self.server.why_none(), None));
        };
        let began = clock::boot();
        let error = |error: tinytask::Error| (chain(&error), error.hint());
        let over = over(&seen.runs);
        let mut early = BTreeMap::new();
        let tasks = match scope {
            Scope::Everything => {
                seen.coverage = Coverage::Everything;
                match self.read_past_the_server(tinytask).await.map_err(error)? {
                    Some(tasks) => tasks,
                    None => open_by_id(tinytask.open_tasks().await.map_err(error)?),
                }
            }
            Scope::Queues(asked) => {
                let queues = self.queues_to_ask(seen, &over, asked);
                if queues.is_empty() {
                    return Ok(None);
                }
                let for_requests =
                    has_requests(seen) && queues.contains(&self.config.policy.inbound_queue);
                // Where the database says which task is the newest, asking costs no list of all tasks.
                let newest = match &mut self.hint {
                    Some(hint) if for_requests => hint.newest(),
                    _ => None,
                };
                let witness = self.memory.trust.witness(&BTreeSet::new());
                let vouching = async { vouch(tinytask, witness, true, newest?).await.ok() };
                let answers = join_all(queues.iter().map(|queue| tinytask.queue(queue.as_str())));
                // What a verdict is sure to ask for is asked beside the lists, not after them.
                let named: BTreeSet<TaskId> = over.iter().filter_map(named_task).collect();
                let details = tinytask.details(&named);
                let (answers, vouched, details) = tokio::join!(answers, vouching, details);
                early.extend(details);
                self.memory.vouched = vouched;
                seen.coverage = Coverage::Queues(queues);
                let mut tasks = Vec::new();
                for answer in answers {
                    tasks.extend(answer.map_err(error)?);
                }
                open_by_id(tasks)
            }
        };
        let is_whole = *scope == Scope::Everything;
        seen.tasks = tasks;
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
            // Working ones may be parents, whose parts are in queues that were not asked.
            .chain(over.iter().flat_map(|run| {
                let queue = run.dir.queue.as_str();
                let working = seen.tasks.values().filter(move |task| {
                    task.status == TaskStatus::Working && task.assigned_to.as_deref() == Some(queue)
                });
                working.map(|task| task.id)
            }))
            .chain(
                (self.memory.rechecked.iter().copied())
                    .filter(|id| !is_whole && seen.tasks.contains_key(id)),
            )
            .collect();
        // Interleaving survived: a task is moved between its own answer and its queue's. Answers that do not agree are of two moments, and
        // what a verdict goes by is the later one: it is asked for again.
        let agrees = |id: &TaskId, detail: &Result<Detail, _>| match (detail, seen.tasks.get(id)) {
            (Ok(Detail::Found(found)), Some(task)) => found.task == *task,
            (Ok(Detail::Found(found)), None) => {
                let queue = found.task.queue().filter(|_| found.task.is_open());
                queue.is_none_or(|queue| !seen.coverage.has(&queue))
            }
            (Ok(Detail::NotFound), None) => true,
            (Ok(Detail::NotFound), Some(_)) | (Err(_), _) => false,
        };
        early.retain(|id, detail| wanted.contains(id) && agrees(id, detail));
        let unasked = wanted.iter().filter(|id| !early.contains_key(id));
        let later = tinytask.details(unasked).await;
        for (id, detail) in early.into_iter().chain(later) {
            match detail {
                Ok(detail) => drop(seen.details.insert(id, detail)),
                // The server answers, so the rest goes on; what it says of this one task cannot be understood.
                Err(unread) if !unread.is_connection() => {
                    let why = format!(
                        "tinytask's word on #{id} cannot be used: {}",
                        chain(&unread)
                    );
                    seen.cannot_read(RunSubject::Task(id), why);
                }
                Err(unread) => return Err(error(unread)),
            }
        }
        self.memory
            .rechecked
            .retain(|id| match seen.details.get(id) {
                Some(Detail::Found(found)) => found.open_subtasks > 0,
                Some(Detail::NotFound) => false,
                // Its queue was not asked, or a look at everything shows its parts.
                None => !is_whole || seen.tasks.contains_key(id),
            });
        let highest = seen.tasks.keys().next_back().map_or(0, |id| id.number());
        self.memory.highest_task = self.memory.highest_task.max(highest);
        Ok(Some(Millis(clock::boot().0.saturating_sub(began.0))))
    }

    /// All open tasks by the database of the built-in, for whoever only looks
    /// ([design/07](../../docs/design/07-past-the-server.md)). `None`: the server is to be asked for them.
    ///
    /// Its server vouches for it: what it says of the newest task has to be what was read. So a file that the server does not use, or uses
    /// no longer, is none.
    ///
    /// Interleaving survived: the newest task changes between the reading and the server's word. They differ, and the server is asked for
    /// everything.
    async fn read_past_the_server(
        &self,
        tinytask: &tinytask::Tinytask,
    ) -> Result<Option<BTreeMap<TaskId, Task>>, tinytask::Error> {
        let db = self.server.db.clone();
        let Some(db) = db.filter(|_| self.server.is_builtin && !self.memory.is_writer) else {
            return Ok(None);
        };
        let Some(Some(newest)) = tinytask::Hint::new(&db).newest() else {
            return Ok(None);
        };
        let reading = tokio::task::spawn_blocking(move || tinytask::database::open_tasks(&db));
        let (said, read) = tokio::join!(tinytask.task(newest.id), reading);
        let said = match said {
            Ok(Some(said)) => said,
            Err(error) if error.is_connection() => return Err(error),
            Ok(None) | Err(_) => return Ok(None),
        };
        let read = read.ok().and_then(Result::ok);
        Ok(read.filter(|tasks| {
            let found = tasks.get(&newest.id);
            said.key() == newest && found == Some(&said).filter(|task| task.is_open())
        }))
    }

    /// Queues that could start something and that `asked` is about, and queues a run of which is over. Requests are started on tinytask's
    /// word, too: the dispatcher's queue is asked while some are complete.
    fn queues_to_ask(&self, seen: &Snapshot, over: &[&Run], asked: &Asked) -> BTreeSet<QueueName> {
        let mut used: BTreeMap<&QueueName, u32> = BTreeMap::new();
        let is_there = |run: &&Run| run.verdict.is_none() && run.meaning() != Meaning::Litter;
        for run in seen.runs.iter().filter(is_there) {
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
        let has_requests = has_requests(seen);
        let is_asked = |queue: &QueueName| match asked {
            Asked::All => true,
            Asked::Only(queues) => {
                queues.contains(queue) || (has_requests && *queue == policy.inbound_queue)
            }
        };
        let is_free = |queue: &&QueueName| {
            let recipe = seen
                .recipes
                .get(*queue)
                .and_then(|recipe| recipe.as_ref().ok());
            used.get(queue).copied().unwrap_or(0) < policy.slots(queue, recipe)
        };
        (known.chain(commanded))
            .filter(|queue| is_asked(queue))
            .filter(is_free)
            .chain(over.iter().map(|run| &run.dir.queue))
            .cloned()
            .collect()
    }

    /// Would a look that has to ask this, taken once what follows from `seen` is done, ask for queues only that `seen` shows already?
    pub fn has_asked(&self, seen: &Snapshot, asked: &Asked) -> bool {
        let queues = self.queues_to_ask(seen, &over(&seen.runs), asked);
        queues.iter().all(|queue| seen.coverage.has(queue))
    }

    /// Another server's answers, perhaps? `core::trust` tells; it may call for a few tasks to be asked for by number.
    async fn suspicion(&mut self, seen: &Snapshot, now: &Now) -> Option<Tinytask> {
        let asked = match self.memory.trust.doubt(seen, now) {
            Doubt::Nothing => return None,
            Doubt::Sure(suspicious) => return Some(suspicious),
            Doubt::Ask(asked) => asked,
        };
        let tinytask = self.tinytask.as_ref()?;
        let answers = join_all(asked.iter().map(|key| tinytask.detail(key.id))).await;
        let answers: Vec<_> = (asked.into_iter())
            .zip(answers.into_iter().map(Result::ok))
            .collect();
        self.memory.trust.answered(seen, &answers)
    }

    /// Parked tasks are lifted by a comment, which no list shows.
    pub(super) async fn watch_parked(&self, seen: &mut Snapshot) {
        let (Some(tinytask), Tinytask::Fresh { .. }) = (&self.tinytask, &seen.tinytask) else {
            return;
        };
        let parked = |subject: &RunSubject, past: &Past| {
            let id = subject.task().filter(|_| past.gist(*subject).is_parked)?;
            let is_asked_for = seen.tasks.contains_key(&id) && !seen.details.contains_key(&id);
            is_asked_for.then_some(id)
        };
        let wanted: Vec<TaskId> = seen
            .histories
            .iter()
            .filter_map(|(subject, past)| parked(subject, past))
            .collect();
        for (id, detail) in tinytask.details(&wanted).await {
            match detail {
                Ok(detail) => drop(seen.details.insert(id, detail)),
                // What was heard of it is used up, so it is to be asked about again.
                Err(error) => {
                    let why = format!(
                        "tinytask did not say what became of #{id}: {}",
                        chain(&error)
                    );
                    seen.cannot_read(RunSubject::Task(id), why);
                }
            }
        }
    }

    // ── evidence ───────────────────────────────────────────────────────────────────────────────────────────────────────

    pub(super) async fn evidence(&self, seen: &mut Snapshot) {
        if !matches!(seen.tinytask, Tinytask::Fresh { .. }) {
            return;
        }
        let present: BTreeMap<&str, &FileKey> = (seen.inbound.iter())
            .map(|entry| (entry.key.name.as_str(), &entry.key))
            .collect();
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
            let (mut left, mut changed) = (BTreeSet::new(), BTreeMap::new());
            for file in &spec.baseline.inbound {
                match present.get(file.name.as_str()) {
                    Some(now) if *now == file => drop(left.insert(file.clone())),
                    Some(now) => drop(changed.insert(file.clone(), (*now).clone())),
                    None => {}
                }
            }
            let mut created = Vec::new();
            // An inbound run's launch asked for the highest task: 0 says that there was none yet.
            if !(left.is_empty() && changed.is_empty())
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
            // One that lies in a folder of a task made meanwhile was taken: what has its name here is another's request.
            if changed.iter().any(|(was, now)| was.inode != now.inode) {
                let folders = created.iter().map(|id| self.layout.task_folder(*id));
                let moved: BTreeSet<u64> = folders
                    .flat_map(|folder| inbound::inodes(&folder))
                    .collect();
                changed.retain(|was, now| was.inode == now.inode || !moved.contains(&was.inode));
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
                changed,
                created,
            });
        }
    }
}

fn open_by_id(tasks: Vec<Task>) -> BTreeMap<TaskId, Task> {
    let open = tasks.into_iter().filter(Task::is_open);
    open.map(|task| (task.id, task)).collect()
}

/// The one task that a run is about; none for an inbound run.
fn named_task(run: &&Run) -> Option<TaskId> {
    Some(run.spec.as_ref()?.task?.id)
}

/// Runs that are over and not judged.
fn over(runs: &[Run]) -> Vec<&Run> {
    let is_over = |run: &&Run| run.verdict.is_none() && run.meaning() == Meaning::Complete;
    runs.iter().filter(is_over).collect()
}

/// What is asked of tinytask besides the tasks that are to be started.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Vouched {
    /// It is the tinytask of the last whole look, as far as one of its tasks can tell.
    pub is_known: bool,
    /// The highest number that a task has, 0 where there is none; asked for requests only.
    pub highest_task: Option<i64>,
}

/// Asks for one task that the last whole look saw, and, for requests, for the highest number. `newest` is the task that has it by
/// tinytask's database, where that tells: it saves a list of all tasks.
///
/// # Errors
/// As a call.
pub async fn vouch(
    tinytask: &tinytask::Tinytask,
    witness: Option<TaskKey>,
    for_requests: bool,
    newest: Option<TaskKey>,
) -> Result<Vouched, tinytask::Error> {
    let other = witness.filter(|witness| newest != Some(*witness));
    let (newest_is, other_is) =
        tokio::try_join!(is_there(tinytask, newest), is_there(tinytask, other))?;
    let highest_task = match newest {
        _ if !for_requests => None,
        Some(newest) if newest_is => Some(newest.id.number()),
        _ => {
            let all = tinytask.all_tasks().await?;
            let highest = all.iter().map(|task| task.id.number()).max();
            Some(highest.unwrap_or(0))
        }
    };
    Ok(Vouched {
        is_known: witness.is_none() || if other.is_some() { other_is } else { newest_is },
        highest_task,
    })
}

/// Is this task still there? A number alone does not tell.
async fn is_there(
    tinytask: &tinytask::Tinytask,
    key: Option<TaskKey>,
) -> Result<bool, tinytask::Error> {
    let Some(key) = key else { return Ok(false) };
    let found = tinytask.task(key.id).await?;
    Ok(found.is_some_and(|task| task.key() == key))
}

fn has_requests(seen: &Snapshot) -> bool {
    let mut entries = seen.inbound.iter();
    entries.any(|entry| matches!(entry.state, InboundState::Settled { .. }))
}

/// Is the task still what its launch was decided on?
pub fn is_still_runnable(detail: &Detail, key: Option<TaskKey>, queue: &QueueName) -> bool {
    let Detail::Found(found) = detail else {
        return false;
    };
    Some(found.task.key()) == key
        && found.task.status == TaskStatus::Idle
        && !found.task.is_archived
        && !found.task.is_blocked
        && found.open_subtasks == 0
        && found.task.assigned_to.as_deref() == Some(queue.as_str())
}
