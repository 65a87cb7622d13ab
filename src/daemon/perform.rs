//! One arm for each action, with no choices left to make. What fails is logged, and met again by the next look.
//!
//! Starting runs is told in `launching.rs`, ending them and what follows from their verdicts in `ending.rs`.

use tracing::warn;

use super::ending::{Left, SWEEP_TIME};
use super::{Acted, Daemon, Done};
use crate::core::layout::RunDir;
use crate::core::model::{Now, Outcome, RunMark, RunSubject};
use crate::core::record::{FORMAT, Marks};
use crate::core::{Action, Decision, Mark, Snapshot};
use crate::edge::control::{self, Control};
use crate::edge::files::Durability;
use crate::edge::{clock, goose, kill_point, process, runs, tinytask};
use crate::look::chain;

/// Why an action failed.
#[derive(Debug, thiserror::Error)]
pub(super) enum Error {
    #[error("tinytask")]
    Tinytask(#[from] tinytask::Error),
    #[error("records")]
    Runs(#[from] runs::Error),
    #[error("command line")]
    Command(#[from] goose::Error),
    #[error("{what}")]
    Io {
        what: &'static str,
        source: std::io::Error,
    },
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
        let mut launches = Vec::new();
        for action in &decision.actions {
            if let Action::Launch(launch) = action {
                launches.push(launch);
                continue;
            }
            let result = self.act(action, seen).await;
            self.tell(&mut acted, name(action), result);
        }
        if launches.is_empty() {
            return acted;
        }
        match self.read_again(&launches).await {
            Ok(Some(mut again)) => {
                for launch in launches {
                    let result = self.launch(launch, seen, looked, &mut again);
                    self.note_launch(launch, result.as_ref().err());
                    self.tell(&mut acted, "launch", result);
                }
            }
            // Everything is looked at once more.
            Ok(None) => self.tell(&mut acted, "launch", Ok(true)),
            Err(error) => {
                self.note_launch(launches[0], Some(&error));
                self.tell(&mut acted, "launch", Err(error));
            }
        }
        acted
    }

    /// Takes down what came of an action.
    fn tell(&mut self, acted: &mut Acted, action: &str, result: Result<bool, Error>) {
        match result {
            Ok(true) if *acted == Acted::Nothing => *acted = Acted::Something,
            Ok(_) => {}
            Err(error) => {
                let error = chain(&error);
                warn!(
                    action,
                    error, "an action failed; the next look meets it again"
                );
                self.trouble = Some(format!("{action} failed and is tried again: {error}"));
                *acted = Acted::Failed;
            }
        }
    }

    /// Whether anything changed.
    async fn act(&mut self, action: &Action, seen: &Snapshot) -> Result<bool, Error> {
        let layout = self.looker.layout.clone();
        match action {
            // All of them at once, after the others.
            Action::Launch(_) => Ok(false),
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
                self.finish(run, verdict, runs::Finishing::First).await
            }
            Action::FinishVerdict { run, verdict } => {
                self.finish(run, verdict, runs::Finishing::Again).await
            }
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

fn remove(layout: &crate::core::layout::Layout, control: &Control) -> Result<bool, Error> {
    control::remove(layout, control).map_err(|source| Error::Io {
        what: "cannot remove a control file",
        source,
    })
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
