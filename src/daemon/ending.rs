//! Ending runs, and what follows from their verdicts in tinytask.

use tracing::warn;

use super::perform::Error;
use super::{Daemon, Done};
use crate::core::layout::RunDir;
use crate::core::model::{
    Detail, FoundDetail, Millis, Outcome, ProcessId, RunId, RunMark, RunState, RunSubject,
    StoppedBy, TaskId, TaskKey, TaskStatus, Timestamp,
};
use crate::core::record::{EndedRecord, FORMAT, VerdictRecord, Write};
use crate::core::{Run, Snapshot, StopCause};
use crate::edge::control::{self, Control};
use crate::edge::kill_point::{self, is_planted};
use crate::edge::{clock, process, runs, tinytask};
use crate::look::chain;

/// How long a sweep may take; what outlives it is held against the run.
pub(super) const SWEEP_TIME: Millis = Millis::secs(5);
/// What a shim needs beyond the grace to end a run that it was told to stop.
const SHIM_TIME: Millis = Millis::secs(15);

/// A task that a run left in its queue, as it stood when that was seen.
#[derive(Clone, Copy)]
pub(super) struct Left<'a> {
    pub(super) key: TaskKey,
    pub(super) queue: &'a str,
    /// Unknown in records of older versions.
    pub(super) updated_at: Option<Timestamp>,
    pub(super) run: RunId,
}

impl Daemon {
    /// Ends a run whose shim is dead, or asks a live shim to end it. The daemon's word on the outcome is on disk first, so that
    /// it is not called lost if the daemon dies in between; a live shim's own word goes before it.
    pub(super) fn stop(
        &mut self,
        dir: &RunDir,
        cause: StopCause,
        seen: &Snapshot,
    ) -> Result<bool, Error> {
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
    pub(super) async fn finish(
        &mut self,
        dir: &RunDir,
        verdict: &VerdictRecord,
        finishing: runs::Finishing,
    ) -> Result<bool, Error> {
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
        runs::finish(&self.looker.layout, dir, verdict, finishing)?;
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
    pub(super) async fn put_back(&self, left: Left<'_>, comment: &str) -> Result<bool, Error> {
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
}

/// Has `run` said this on the task already? By the mark in the comment, as numbers of runs come again.
fn is_said(found: &FoundDetail, run: RunId, comment: &str) -> bool {
    let marks = RunMark::all_in(comment);
    let ours = marks.iter().find(|mark| mark.run == run);
    ours.is_some_and(|ours| found.our_comments.iter().any(|known| known.is_same(ours)))
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
