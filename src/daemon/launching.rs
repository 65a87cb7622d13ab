//! Starting runs: one more word with tinytask, then D1 to D3 of the protocol in `shim`.

use std::collections::{BTreeMap, BTreeSet};

use tracing::debug;

use super::Daemon;
use super::lock::Place;
use super::perform::Error;
use crate::core::attention::News;
use crate::core::model::{Detail, FoundDetail, Moment, Now, RunSubject, Task, TaskId};
use crate::core::record::{Baseline, BaselineTask, FORMAT, Limits, Spec, SpecTimes};
use crate::core::{Launch, Snapshot};
use crate::edge::config::Leftovers;
use crate::edge::{clock, goose, inbound, kill_point, process, runs, tinytask};
use crate::look::{chain, is_still_runnable, vouch};

/// So many run directories are made ahead at most; each is ten inodes, and no block but its own.
const MOST_BLANKS: usize = 64;

/// What tinytask said of the tasks that are to be started, right before.
pub(super) struct Again {
    decided: Moment,
    details: BTreeMap<TaskId, Result<Detail, tinytask::Error>>,
}

/// What the shim is to run.
struct Command {
    argv: Vec<String>,
    /// Added to the daemon's own environment.
    env: Vec<(String, String)>,
}

impl Daemon {
    /// A launch that failed here holds its subject for a while, with the reason, so that whatever comes next in the queue is not kept
    /// from starting by, say, one task whose records cannot be written. A tinytask that does not answer is no fault of the task's.
    pub(super) fn note_launch(&mut self, launch: &Launch, error: Option<&Error>) {
        match error {
            None => {
                self.failing.remove(&launch.subject);
            }
            Some(Error::Tinytask(error)) if error.is_connection() => {}
            Some(error) => {
                // What it was decided on may be what is wrong.
                self.looker.memory.forget(launch.subject);
                let why = format!("{} could not be started: {}", launch.subject, chain(error));
                let failing = self.failing.entry(launch.subject).or_default();
                failing.failed(why);
            }
        }
    }

    /// One more word with tinytask on all that is to be started: it has no compare-and-set, so each task is read again right before. All
    /// in one breath, as answers take longer than starts. `None`: nothing is to be started.
    ///
    /// Looks between two whole ones see a queue or two, and could start another server's tasks before they know it by that. So one task
    /// that the last whole look saw is asked for, too: where it is gone, everything is looked at once more before anything is started.
    ///
    /// Requests are files: of tinytask they need no more than what the look itself asked, where it did.
    pub(super) async fn read_again(
        &mut self,
        launches: &[&Launch],
    ) -> Result<Option<Again>, Error> {
        let Some(tinytask) = &self.looker.tinytask else {
            return Ok(None);
        };
        let decided: Moment = (&clock::now()).into();
        let tasks: BTreeSet<TaskId> = launches.iter().filter_map(|l| l.subject.task()).collect();
        let has_requests = launches.iter().any(|l| l.subject == RunSubject::Inbound);
        let asked = self.looker.memory.vouched.take();
        let asked = asked.filter(|_| tasks.is_empty());
        let (vouched, details) = match asked {
            Some(vouched) => (vouched, Vec::new()),
            None => {
                let witness = self.looker.memory.trust.witness(&tasks);
                let newest = match &mut self.looker.hint {
                    Some(hint) if has_requests => hint.newest().flatten(),
                    _ => None,
                };
                let vouching = vouch(tinytask, witness, has_requests, newest);
                let (vouched, details) = tokio::join!(vouching, tinytask.details(&tasks));
                (vouched?, details)
            }
        };
        if !vouched.is_known {
            self.wants_everything = true;
            return Ok(None);
        }
        if let Some(highest) = vouched.highest_task {
            self.looker.memory.highest_task = highest;
        }
        let details = details.into_iter().collect();
        Ok(Some(Again { decided, details }))
    }

    /// D1 to D3. True: a record was made, or there is news.
    pub(super) fn launch(
        &mut self,
        launch: &Launch,
        seen: &Snapshot,
        looked: &Now,
        again: &mut Again,
    ) -> Result<bool, Error> {
        let detail = match launch.subject {
            RunSubject::Task(id) => {
                let Some(detail) = again.details.remove(&id) else {
                    return Ok(true);
                };
                let detail = detail?;
                let key = seen.tasks.get(&id).map(Task::key);
                if !is_still_runnable(&detail, key, &launch.queue) {
                    self.looker.memory.rechecked.insert(id);
                    self.attention.hear(News::Queue(launch.queue.clone()));
                    // The place that it would have taken is free for those that were held for it.
                    self.attention.hear(News::Runs);
                    return Ok(true);
                }
                Some(detail)
            }
            RunSubject::Inbound => None,
        };
        let Command { argv, env } = match self.command(launch, seen) {
            Ok(command) => command,
            Err(error) => {
                self.stuck.insert(launch.queue.clone(), chain(&error));
                return Err(error.into());
            }
        };
        kill_point::reach("launch:read-again");
        let layout = self.looker.layout.clone();
        let dir = launch.dir();
        // D1
        let lock = runs::create(&layout, &dir, &mut self.blanks)?;
        self.looker.memory.forget(launch.subject);
        let decided = again.decided.clone();
        let spec = self.spec(launch, seen, looked, decided, detail.as_ref(), argv, &env);
        // D2
        if let Err(error) = runs::write_spec(&layout, &dir, &spec) {
            if let runs::Error::TooLarge { .. } = error {
                self.stuck.insert(launch.queue.clone(), chain(&error));
            }
            return Err(error.into());
        }
        kill_point::reach("D3:before");
        // D3
        let started = process::start_shim(&mut self.options.shim, &layout, &dir, lock, env);
        if started.is_err() {
            // Nothing is to be told of a run that never was: it would count among those that failed through no fault of the
            // task's, of which an hour has only a few.
            runs::withdraw(&layout, &dir)?;
        }
        self.shims.insert(dir.id, started.map_err(no_shim)?);
        kill_point::reach("D3:started");
        self.journal.launched(&spec);
        kill_point::reach("D3:told");
        Ok(true)
    }

    /// Are there less run directories made ahead than could be started at once?
    pub(super) fn wants_blank(&self) -> bool {
        let most = self.looker.config.policy.max_runs as usize;
        self.blanks.are_short_of(most.min(MOST_BLANKS))
    }

    /// Makes one more, where nobody waits. Says whether yet another is wanted, and can be made.
    pub(super) fn make_blank(&mut self) -> bool {
        if !self.wants_blank() || self.lock.place() != Place::Ours {
            return false;
        }
        if let Err(error) = self.blanks.make_one(&self.looker.layout) {
            debug!(error = chain(&error), "no run directory is made ahead");
        }
        self.wants_blank()
    }

    fn command(&self, launch: &Launch, seen: &Snapshot) -> Result<Command, goose::Error> {
        let config = &self.looker.config;
        let recipe = seen
            .recipes
            .get(&launch.queue)
            .and_then(|recipe| recipe.as_ref().ok());
        let capabilities = goose::capabilities_for(config, &launch.queue)?;
        let argv = goose::command(
            config,
            recipe,
            launch.subject,
            &launch.queue,
            &self.looker.layout,
            &capabilities,
        )?;
        Ok(Command {
            argv,
            env: goose::environment(config, &launch.queue)?,
        })
    }

    #[expect(
        clippy::too_many_arguments,
        reason = "a record is made of what its writer knows; a struct for it would be the record again"
    )]
    fn spec(
        &self,
        launch: &Launch,
        seen: &Snapshot,
        looked: &Now,
        decided: Moment,
        detail: Option<&Detail>,
        argv: Vec<String>,
        env: &[(String, String)],
    ) -> Spec {
        let found = match detail {
            Some(Detail::Found(found)) => Some(found),
            _ => None,
        };
        let config = &self.looker.config;
        let leaves = config
            .queues
            .get(&launch.queue)
            .is_some_and(|queue| queue.leftovers == Leftovers::Leave);
        Spec {
            format: FORMAT,
            token: token(),
            run: launch.dir().id,
            task: found.map(|found| found.task.key()),
            title: launch.title.clone(),
            queue: launch.queue.clone(),
            attempt: launch.attempt,
            stay: launch.stay,
            argv,
            cwd: self.looker.layout.base().to_string(),
            env: env.iter().map(|(name, _)| name.clone()).collect(),
            provider: launch.provider.clone(),
            limits: Limits {
                time: launch.time_limit,
                grace: config.stop_grace,
                log: config.log_limit,
                sweep: !leaves,
            },
            cause: launch.cause.clone(),
            times: SpecTimes {
                event: self.event.clone(),
                look: looked.into(),
                decided,
                written: (&clock::now()).into(),
            },
            baseline: self.baseline(launch, seen, found),
        }
    }

    fn baseline(&self, launch: &Launch, seen: &Snapshot, found: Option<&FoundDetail>) -> Baseline {
        let in_queue = seen
            .tasks
            .values()
            .filter(|task| task.assigned_to.as_deref() == Some(launch.queue.as_str()));
        let others = in_queue.filter(|task| Some(task.id) != launch.subject.task());
        let entry = |task: &Task, last_comment| BaselineTask {
            key: task.key(),
            status: task.status,
            fields: task.fields,
            last_comment,
        };
        let named = found.map(|found| entry(&found.task, Some(found.last_comment)));
        Baseline {
            tasks: named
                .into_iter()
                .chain(others.map(|task| entry(task, None)))
                .collect(),
            highest_task: self.looker.memory.highest_task,
            folder: launch
                .subject
                .task()
                .map_or(0, |id| inbound::digest(&self.looker.layout.task_folder(id))),
            inbound: launch.files.clone(),
        }
    }
}

fn no_shim(source: std::io::Error) -> Error {
    Error::Io {
        what: "cannot start the shim",
        source,
    }
}

/// 128 random bits as 32 hex digits.
fn token() -> String {
    let mut bytes = [0u8; 16];
    // getrandom(2) gives up to 256 bytes in one piece once the pool is seeded, which it is long before anybody logs in.
    rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty()).ok();
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
