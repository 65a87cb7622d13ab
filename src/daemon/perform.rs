//! One arm for each action, with no choices left to make. What fails is logged, and met again by the next look.

use tracing::warn;

use super::{Acted, Daemon, Done};
use crate::core::layout::RunDir;
use crate::core::model::{
    Detail, FoundDetail, Millis, Moment, Now, Outcome, ProcessId, RunId, RunMark, RunState,
    RunSubject, StoppedBy, TaskId, TaskKey, TaskStatus, Timestamp,
};
use crate::core::record::{
    Baseline, BaselineTask, EndedRecord, FORMAT, Limits, Marks, Spec, SpecTimes, VerdictRecord,
    Write,
};
use crate::core::trust::is_gone;
use crate::core::{Action, Decision, Launch, Mark, Run, Snapshot, StopCause};
use crate::edge::config::Leftovers;
use crate::edge::control::{self, Control};
use crate::edge::files::Durability;
use crate::edge::kill_point::{self, is_planted};
use crate::edge::{clock, goose, inbound, process, runs, tinytask};
use crate::look::{chain, is_still_runnable};

/// How long a sweep may take; what outlives it is held against the run.
const SWEEP_TIME: Millis = Millis::secs(5);
/// What a shim needs beyond the grace to end a run that it was told to stop.
const SHIM_TIME: Millis = Millis::secs(15);

/// Why an action failed.
#[derive(Debug, thiserror::Error)]
enum Error {
    #[error("tinytask")]
    Tinytask(#[from] tinytask::Error),
    #[error("records")]
    Runs(#[from] runs::Error),
    #[error("command line")]
    Command(#[from] goose::Error),
    #[error("launch")]
    Shim(#[from] process::StartError),
    #[error("{what}")]
    Io {
        what: &'static str,
        source: std::io::Error,
    },
}

/// What the shim is to run.
struct Command {
    argv: Vec<String>,
    /// Added to the daemon's own environment.
    env: Vec<(String, String)>,
}

/// A task that a run left in its queue, as it stood when that was seen.
#[derive(Clone, Copy)]
struct Left<'a> {
    key: TaskKey,
    queue: &'a str,
    /// Unknown in records of older versions.
    updated_at: Option<Timestamp>,
    run: RunId,
}

impl Daemon {
    /// All actions of a decision, in order.
    pub(super) async fn perform(
        &mut self,
        seen: &Snapshot,
        decision: &Decision,
        looked: &Now,
    ) -> Acted {
        let mut acted = Acted::Nothing;
        self.trouble = None;
        for action in &decision.actions {
            let result = self.act(action, seen, looked).await;
            self.note_launch(action, result.as_ref().err());
            match result {
                Ok(true) if acted == Acted::Nothing => acted = Acted::Something,
                Ok(_) => {}
                Err(error) => {
                    let (action, error) = (name(action), chain(&error));
                    warn!(
                        action,
                        error, "an action failed; the next look meets it again"
                    );
                    self.trouble = Some(format!("{action} failed and is tried again: {error}"));
                    acted = Acted::Failed;
                }
            }
        }
        acted
    }

    /// Whether anything changed.
    async fn act(&mut self, action: &Action, seen: &Snapshot, looked: &Now) -> Result<bool, Error> {
        let layout = self.looker.layout.clone();
        match action {
            Action::Launch(launch) => self.launch(launch, seen, looked).await,
            Action::Stop { run, cause } => self.stop(run, *cause, seen),
            Action::Sweep { run, leftovers } => {
                let (run, leftovers) = (run.id, leftovers.clone());
                let done = self.done.0.clone();
                self.looker.memory.in_hand.insert(run);
                self.journal.did(
                    "sweep",
                    run.subject.task(),
                    Some(run),
                    format!("{} processes", leftovers.len()),
                );
                kill_point::reach("sweep:before");
                tokio::task::spawn_local(async move {
                    process::sweep(&leftovers, SWEEP_TIME).await;
                    kill_point::reach("sweep:done");
                    done.send(Done { run, swept: true }).ok();
                });
                Ok(false)
            }
            Action::ClearPidFile { run } => {
                kill_point::reach("clear:before");
                let cleared = runs::clear_pid_file(&layout, run)?;
                kill_point::reach("clear:done");
                Ok(cleared)
            }
            Action::ClearStranger {
                subject,
                inode,
                modified,
            } => {
                kill_point::reach("stranger:before");
                let cleared = runs::clear_stranger(&layout, *subject, *inode, *modified)?;
                kill_point::reach("stranger:removed");
                self.journal.did(
                    "cleared",
                    subject.task(),
                    None,
                    "a pid file whose process is gone".into(),
                );
                Ok(cleared)
            }
            Action::ClearLitter { run } => {
                kill_point::reach("litter:before");
                Ok(runs::clear_litter(&layout, run)?)
            }
            Action::RecordVerdict { run, verdict } => {
                // Its writes must not be made twice, nor forgotten, after a power cut; without any, the same verdict follows again.
                // Nor does it where a request was dispatched and not moved, or a person ended the run: those are known from it alone.
                let has_writes = verdict.tasks.iter().any(|task| task.write.is_some());
                let is_held_by_it = verdict.files.iter().any(|file| file.left)
                    || matches!(verdict.outcome, Outcome::Stopped(_));
                let durability = if has_writes || is_held_by_it {
                    Durability::PowerCut
                } else {
                    Durability::Crash
                };
                kill_point::reach("verdict:before");
                runs::write_verdict(&layout, run, verdict, durability)?;
                kill_point::reach("verdict:durable");
                self.finish(run, verdict).await
            }
            Action::FinishVerdict { run, verdict } => self.finish(run, verdict).await,
            Action::RecordMark { subject, mark } => self.mark(*subject, mark),
            Action::ClearStop { subject } => {
                kill_point::reach("stop:before-wish-removed");
                let removed = remove(&layout, &Control::Stop(*subject))?;
                kill_point::reach("stop:wish-removed");
                Ok(removed)
            }
            Action::PutBack { task, run } => {
                let Some(task) = seen.tasks.get(task) else {
                    return Ok(false);
                };
                let token = task.queue().and_then(|queue| {
                    let dir = RunDir { id: *run, queue };
                    Some(runs::read_spec(&layout, &dir).ok()??.token)
                });
                let mark = RunMark::new(*run, &token.unwrap_or_default());
                let left = Left {
                    key: task.key(),
                    queue: task.assigned_to.as_deref().unwrap_or_default(),
                    updated_at: Some(task.updated_at),
                    run: *run,
                };
                let text = "its agent is gone";
                let comment =
                    format!("calypso-watch put this task back to idle: {text} (run {mark}).");
                self.put_back(left, &comment).await
            }
            Action::CreateFolder { task } => {
                kill_point::reach("folder:before");
                let path = layout.task_folder(*task);
                std::fs::create_dir(&path).map_err(|source| Error::Io {
                    what: "cannot make a task's folder",
                    source,
                })?;
                kill_point::reach("folder:made");
                Ok(true)
            }
        }
    }

    // ── launching ──────────────────────────────────────────────────────────────────────────────────────────────────────

    /// A launch that failed here holds its subject for a while, with the reason, so that whatever comes next in the queue is not kept
    /// from starting by, say, one task whose records cannot be written. A tinytask that does not answer is no fault of the task's.
    fn note_launch(&mut self, action: &Action, error: Option<&Error>) {
        let Action::Launch(launch) = action else {
            return;
        };
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

    /// D1 to D3 of the protocol in `shim`, after one more word with tinytask: it has no compare-and-set, so the task is read
    /// again right before.
    async fn launch(
        &mut self,
        launch: &Launch,
        seen: &Snapshot,
        looked: &Now,
    ) -> Result<bool, Error> {
        if self.is_witness_gone(launch.subject.task()).await? {
            self.wants_everything = true;
            return Ok(true);
        }
        let Some(tinytask) = &self.looker.tinytask else {
            return Ok(false);
        };
        let decided: Moment = (&clock::now()).into();
        let detail = match launch.subject {
            RunSubject::Task(id) => {
                let detail = tinytask.detail(id).await?;
                if !is_still_runnable(&detail, &launch.queue) {
                    self.looker.memory.rechecked.insert(id);
                    return Ok(true);
                }
                Some(detail)
            }
            RunSubject::Inbound => {
                self.find_highest().await?;
                None
            }
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
        let lock = runs::create(&layout, &dir)?;
        self.looker.memory.forget(launch.subject);
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
        let started = process::start_shim(&self.options.exe, &layout, &dir, lock, env);
        if matches!(started, Err(process::StartError::NoProcess(_))) {
            // Nothing is to be told of a run that never was: it would count among those that failed through no fault of the
            // task's, of which an hour has only a few.
            runs::withdraw(&layout, &dir)?;
        }
        started?;
        kill_point::reach("D3:started");
        self.journal.launched(&spec);
        kill_point::reach("D3:told");
        Ok(true)
    }

    /// Looks between two whole ones see a queue or two, and could start another server's tasks before they know it by that. So one
    /// task that the last whole look saw is asked for first; where it is gone, everything is looked at once more.
    async fn is_witness_gone(&self, launched: Option<TaskId>) -> Result<bool, Error> {
        let witness = self.looker.memory.trust.witness(launched);
        let (Some(tinytask), Some(witness)) = (&self.looker.tinytask, witness) else {
            return Ok(false);
        };
        Ok(is_gone(Some(&tinytask.detail(witness.id).await?), witness))
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
        let entry = |task: &crate::core::model::Task, last_comment| BaselineTask {
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

    /// The highest task id there is: what lies above it after a dispatcher's run was created during that run. Looks see open tasks
    /// of some queues only, and numbers above theirs have gaps where tasks were deleted, so that nothing less than the whole list
    /// tells: a task overlooked here would pass for one that the run created, and its request be held for it.
    async fn find_highest(&mut self) -> Result<(), Error> {
        let Some(tinytask) = &self.looker.tinytask else {
            return Ok(());
        };
        let all = tinytask.all_tasks().await?;
        let highest = all.iter().map(|task| task.id.number()).max().unwrap_or(0);
        self.looker.memory.highest_task = highest;
        Ok(())
    }

    // ── ending ─────────────────────────────────────────────────────────────────────────────────────────────────────────

    /// Ends a run whose shim is dead, or asks a live shim to end it. The daemon's word on the outcome is on disk first, so that
    /// it is not called lost if the daemon dies in between; a live shim's own word goes before it.
    fn stop(&mut self, dir: &RunDir, cause: StopCause, seen: &Snapshot) -> Result<bool, Error> {
        let Some(run) = seen.runs.iter().find(|run| run.dir == *dir) else {
            return Ok(false);
        };
        let Some((agent, shim)) = stoppable(run) else {
            return self.stop_start(run);
        };
        let grace = run
            .spec
            .as_ref()
            .map_or(Millis::secs(10), |spec| spec.limits.grace);
        let outcome = match cause {
            StopCause::TimeLimit => Outcome::TimedOut,
            StopCause::Asked => {
                let wish = Control::Stop(dir.id.subject);
                let uid = control::owner(&self.looker.layout, &wish).unwrap_or(0);
                Outcome::Stopped(StoppedBy { uid, pid: None })
            }
        };
        let ended = EndedRecord {
            format: FORMAT,
            outcome: outcome.clone(),
            at: (&clock::now()).into(),
        };
        kill_point::reach("stop:before");
        // On a full disk it is better ended and called lost than left to run.
        if let Err(error) = runs::write_ended(&self.looker.layout, dir, &ended) {
            warn!(run = %dir.id, error = chain(&error), "cannot write down why this run is ended");
        }
        kill_point::reach("stop:recorded");
        let id = dir.id;
        self.looker.memory.in_hand.insert(id);
        self.journal
            .did("stop", id.subject.task(), Some(id), outcome.to_string());
        let done = self.done.0.clone();
        // A shim that let its limit pass is stopped or stuck, and need not be asked.
        let asked = shim.clone().filter(|_| cause == StopCause::Asked);
        tokio::task::spawn_local(async move {
            let is_done = match asked {
                Some(shim) => ask_shim(&shim, grace).await,
                None => false,
            };
            if !is_done {
                process::stop_orphan(&agent, grace).await.ok();
                if let Some(shim) = shim {
                    end_shim(&shim).await;
                }
            }
            kill_point::reach("stop:done");
            done.send(Done {
                run: id,
                swept: false,
            })
            .ok();
        });
        Ok(false)
    }

    /// Kills a shim that got stuck before it opened the gate: its agent dies there, and the run was not launched. Should it have got on
    /// just now, its agent is an orphan, which the next look finds.
    fn stop_start(&self, run: &Run) -> Result<bool, Error> {
        let Some(state) = run.state.as_ref().filter(|_| run.observed.shim) else {
            return Ok(false);
        };
        let failed = |source| Error::Io {
            what: "cannot end a shim that is stuck",
            source,
        };
        if let Some(shim) = process::Pidfd::open_checked(&state.shim).map_err(failed)? {
            shim.signal(process::Signal::KILL).map_err(failed)?;
            warn!(run = %run.dir.id, "its shim was stuck before the agent's start, and was ended");
        }
        // Its lock is free once it is gone; the pidfd of its watch rings then.
        Ok(false)
    }

    /// Everything after a verdict is durable. Each step bears being repeated, so a daemon killed in here goes on where it was.
    async fn finish(&mut self, dir: &RunDir, verdict: &VerdictRecord) -> Result<bool, Error> {
        for task in &verdict.tasks {
            let left = Left {
                key: task.key,
                queue: verdict.queue.as_str(),
                updated_at: task.updated_at,
                run: verdict.run,
            };
            match &task.write {
                Some(Write::PutBack { comment }) => {
                    self.put_back(left, comment).await?;
                }
                Some(Write::Park { comment, put_back }) => {
                    self.say_once(left, comment).await?;
                    if *put_back {
                        self.put_back(left, comment).await?;
                    }
                }
                None => {}
            }
        }
        kill_point::reach("finish:before");
        runs::finish(&self.looker.layout, dir, verdict)?;
        self.looker.memory.add_verdict(verdict);
        self.looker.memory.in_hand.remove(&dir.id);
        self.looker.memory.swept.remove(&dir.id);
        self.journal.judged(verdict);
        kill_point::reach("verdict:done");
        Ok(true)
    }

    /// Working → idle, and `comment` once; whether it was done. The comment names the run and comes first, so that a repeat after
    /// a crash between the two finds it there. Nothing is said of a task that is not to be put back any more.
    ///
    /// Between the verdict and this, the daemon may have been dead or tinytask away for hours, and the task may have been handed
    /// on, put back by a person, and claimed again: then it is another's. A claim or a move changes `updated_at`, a comment does
    /// not (measured). Times there are in seconds: a claim in the verdict's own second is not told apart.
    async fn put_back(&self, left: Left<'_>, comment: &str) -> Result<bool, Error> {
        kill_point::reach("put-back:before");
        let Some((tinytask, found)) = self.present(left.key).await? else {
            return Ok(false);
        };
        kill_point::reach("put-back:read-again");
        let is_left = found.task.status == TaskStatus::Working
            && found.open_subtasks == 0
            && !found.task.is_archived
            && found.task.assigned_to.as_deref() == Some(left.queue)
            && left.updated_at.is_none_or(|at| found.task.updated_at == at)
            && !self.has_pid_file(left.key.id);
        if !is_left && !is_planted("blind-put-back") {
            return Ok(false);
        }
        if !is_said(&found, left.run, comment) || is_planted("comment-twice") {
            tinytask.comment(left.key.id, comment).await?;
        }
        kill_point::reach("put-back:commented");
        tinytask.put_back(left.key.id).await?;
        kill_point::reach("put-back:done");
        Ok(true)
    }

    /// Somebody is at it, whoever that is.
    fn has_pid_file(&self, id: TaskId) -> bool {
        let path = self.looker.layout.pid_file(RunSubject::Task(id));
        std::fs::symlink_metadata(path).is_ok()
    }

    /// Says `comment` once, while the task is open and where it was parked.
    async fn say_once(&self, left: Left<'_>, comment: &str) -> Result<(), Error> {
        kill_point::reach("park:before");
        if let Some((tinytask, found)) = self.present(left.key).await?
            && found.task.is_open()
            && found.task.assigned_to.as_deref() == Some(left.queue)
            && !is_said(&found, left.run, comment)
        {
            tinytask.comment(left.key.id, comment).await?;
            kill_point::reach("park:commented");
        }
        Ok(())
    }

    /// The task as it is now; `None` when it is gone, or its number is another task's, in another database.
    async fn present(
        &self,
        key: TaskKey,
    ) -> Result<Option<(&tinytask::Tinytask, FoundDetail)>, Error> {
        let Some(tinytask) = &self.looker.tinytask else {
            return Ok(None);
        };
        Ok(match tinytask.detail(key.id).await? {
            Detail::Found(found) if found.task.key() == key => Some((tinytask, found)),
            _ => None,
        })
    }

    fn mark(&mut self, subject: RunSubject, mark: &Mark) -> Result<bool, Error> {
        kill_point::reach("mark:before");
        let layout = self.looker.layout.clone();
        let mut marks = runs::read_marks(&layout, subject)?.unwrap_or_default();
        marks.format = FORMAT;
        let control = match mark {
            Mark::Retry { after } => {
                marks = Marks {
                    retried_after: *after,
                    retried_at: Some((&clock::now()).into()),
                    ..marks
                };
                Control::Retry(subject)
            }
            Mark::Release { processes } => {
                marks.released.extend(processes.iter().cloned());
                Control::Release(subject)
            }
        };
        runs::write_marks(&layout, subject, &marks)?;
        kill_point::reach("mark:recorded");
        self.looker.memory.forget(subject);
        self.journal
            .did("mark", subject.task(), None, control.file_name());
        let removed = remove(&layout, &control)?;
        kill_point::reach("mark:wish-removed");
        Ok(removed)
    }
}

/// Has `run` said this on the task already? By the mark in the comment, as numbers of runs come again.
fn is_said(found: &FoundDetail, run: RunId, comment: &str) -> bool {
    let marks = RunMark::all_in(comment);
    let ours = marks.iter().find(|mark| mark.run == run);
    ours.is_some_and(|ours| found.our_comments.iter().any(|known| known.is_same(ours)))
}

fn remove(layout: &crate::core::layout::Layout, control: &Control) -> Result<bool, Error> {
    control::remove(layout, control).map_err(|source| Error::Io {
        what: "cannot remove a control file",
        source,
    })
}

/// TERM is a shim's word for "stop this run": it knows how, sweeps, writes down what came of it, and ends. False when it did not
/// in the time that takes.
async fn ask_shim(shim: &ProcessId, grace: Millis) -> bool {
    let Ok(Some(pidfd)) = process::Pidfd::open_checked(shim) else {
        return true;
    };
    pidfd.signal(process::Signal::TERM).ok();
    kill_point::reach("stop:asked-shim");
    let Ok(watched) = pidfd.watch() else {
        return false;
    };
    let limit = std::time::Duration::from_millis(grace.0 + SHIM_TIME.0);
    tokio::time::timeout(limit, watched.over()).await.is_ok()
}

/// A shim whose agent is gone sweeps and writes down how it ended; one that does neither in the time that takes is stopped or
/// stuck, and goes: what it would have swept is swept by the daemon.
async fn end_shim(shim: &ProcessId) {
    let Ok(Some(pidfd)) = process::Pidfd::open_checked(shim) else {
        return;
    };
    let Ok(watched) = pidfd.watch() else {
        return;
    };
    let limit = std::time::Duration::from_millis(SWEEP_TIME.0 + 2000);
    if tokio::time::timeout(limit, watched.over()).await.is_err() {
        watched.pidfd().signal(process::Signal::KILL).ok();
    }
}

/// The agent, and the shim while it lives.
fn stoppable(run: &Run) -> Option<(ProcessId, Option<ProcessId>)> {
    let state = run.state.as_ref()?;
    let RunState::Running { agent } = &state.state else {
        return None;
    };
    Some((agent.clone(), run.observed.shim.then(|| state.shim.clone())))
}

/// 128 random bits as 32 hex digits.
fn token() -> String {
    let mut bytes = [0u8; 16];
    // getrandom(2) gives up to 256 bytes in one piece once the pool is seeded, which it is long before anybody logs in.
    rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty()).ok();
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn name(action: &Action) -> &'static str {
    match action {
        Action::Launch(_) => "launch",
        Action::Stop { .. } => "stop",
        Action::Sweep { .. } => "sweep",
        Action::ClearPidFile { .. } => "clear pid file",
        Action::ClearStranger { .. } => "clear a stranger's pid file",
        Action::ClearLitter { .. } => "clear litter",
        Action::RecordVerdict { .. } => "record verdict",
        Action::FinishVerdict { .. } => "finish verdict",
        Action::RecordMark { .. } => "record mark",
        Action::ClearStop { .. } => "clear stop",
        Action::PutBack { .. } => "put back",
        Action::CreateFolder { .. } => "create folder",
    }
}
