//! The deeds, as `daemon::perform` does them: the same effects in the same order, with a point between any two.

use std::collections::{BTreeMap, BTreeSet};

use calypso_watch::core::attention::News;
use calypso_watch::core::layout::RunDir;
use calypso_watch::core::model::{
    Detail, FoundDetail, Millis, Moment, Now, Outcome, ProcessId, RunMark, RunState, RunSubject,
    StoppedBy, Task, TaskId, TaskKey, TaskStatus, Timestamp,
};
use calypso_watch::core::record::{
    Baseline, BaselineTask, FORMAT, Limits, Marks, Spec, SpecTimes, VerdictRecord, Write,
};
use calypso_watch::core::trust::is_gone;
use calypso_watch::core::{Action, Decision, Launch, Mark, Snapshot, StopCause};
use calypso_watch::look::is_still_runnable;

use crate::daemon::Acted;
use crate::disk::Holder;
use crate::look::Answer;
use crate::planted::SAYS_IT_AGAIN;
use crate::world::{Ending, Item, Killed, Stage, Wake, World};

const GRACE: u64 = 10_000;
const SWEEP_TIME: u64 = 5_000;
const SHIM_TIME: u64 = 15_000;
const TERM_TIME: u64 = 2_000;

/// As `daemon::launching::Again`.
struct Again {
    decided: Moment,
    details: BTreeMap<TaskId, Answer<Detail>>,
}

/// As `daemon::ending::Left`.
struct Left {
    key: TaskKey,
    queue: String,
    updated_at: Option<Timestamp>,
}

/// An action failed; the next look meets it again.
struct Failed;

/// What an action came to: done or not, failed; or the daemon died of it.
type Act = Result<Result<bool, Failed>, Killed>;

/// Leaves with the failure of a call.
macro_rules! answer {
    ($call:expr) => {
        match $call? {
            Ok(answer) => answer,
            Err(_) => return Ok(Err(Failed)),
        }
    };
}

impl World {
    pub(crate) fn perform(
        &mut self,
        seen: &Snapshot,
        decision: &Decision,
        looked: &Now,
    ) -> Result<Acted, Killed> {
        let mut acted = Acted::Nothing;
        let mut note = |came: Result<bool, Failed>| match came {
            Ok(true) if acted == Acted::Nothing => acted = Acted::Something,
            Ok(_) => {}
            Err(Failed) => acted = Acted::Failed,
        };
        let mut launches = Vec::new();
        for action in &decision.actions {
            self.counts.hit(name(action));
            self.tell(|_| format!("{action:?}"));
            if let Action::Launch(launch) = action {
                launches.push(launch);
                continue;
            }
            note(self.act(action, seen)?);
            self.point("between two actions")?;
        }
        if launches.is_empty() {
            return Ok(acted);
        }
        match self.read_again(&launches)? {
            Ok(Some(mut again)) => {
                for launch in launches {
                    note(self.launch(launch, seen, looked, &mut again)?);
                    self.point("between two launches")?;
                }
            }
            // Everything is looked at once more.
            Ok(None) => note(Ok(true)),
            Err(Failed) => note(Err(Failed)),
        }
        Ok(acted)
    }

    fn act(&mut self, action: &Action, seen: &Snapshot) -> Act {
        match action {
            // All together, after the others.
            Action::Launch(_) => Ok(Ok(false)),
            Action::Stop { run, cause } => self.stop(run, *cause, seen),
            Action::Sweep { run, leftovers } => {
                self.memory().in_hand.insert(run.id);
                let incarnation = self.incarnations;
                for leftover in leftovers {
                    self.signal(&leftover.process, run, false);
                    self.signal(&leftover.process, run, true);
                }
                let took = self.chance.below(SWEEP_TIME);
                self.after(took, Item::Swept(incarnation, run.id));
                Ok(Ok(false))
            }
            Action::ClearPidFile { run } => {
                let mono = self.mono;
                Ok(Ok(self.disk.clear_pid_file(run, mono)))
            }
            Action::ClearStranger {
                subject,
                inode,
                modified,
            } => {
                let is_same = self
                    .disk
                    .pid_files
                    .get(subject)
                    .is_some_and(|file| file.inode == *inode && file.modified == *modified);
                if is_same {
                    self.check_cleared(*subject);
                    self.disk.pid_files.remove(subject);
                }
                Ok(Ok(is_same))
            }
            Action::ClearLitter { run } => {
                let (mono, on_disk) = (self.mono, self.disk.run(run));
                if on_disk.shim_lock.is_some() || on_disk.spec.now.is_some() {
                    return Ok(Ok(false));
                }
                if !on_disk.spec.is_there {
                    on_disk.has_dir = false;
                }
                self.point("litter: between directory and entry")?;
                self.disk.end_live(run, mono);
                if !self.disk.run(run).has_dir {
                    self.disk.runs.remove(run);
                }
                Ok(Ok(true))
            }
            Action::RecordVerdict { run, verdict } => {
                if self.mono < self.disk.full_until {
                    self.counts.hit("write on a full disk");
                    return Ok(Err(Failed));
                }
                let has_writes = verdict.tasks.iter().any(|task| task.write.is_some());
                let (mono, record) = (self.mono, (**verdict).clone());
                self.disk.run(run).verdict.write(record, mono, has_writes);
                self.check_verdict(verdict);
                self.point("verdict: before its writes")?;
                self.finish(run, verdict)
            }
            Action::FinishVerdict { run, verdict } => self.finish(run, verdict),
            Action::RecordMark { subject, mark } => self.mark(*subject, mark),
            Action::ClearStop { subject } => Ok(Ok(self.disk.controls.stop.remove(subject))),
            Action::PutBack { task, run } => {
                let Some(task) = seen.tasks.get(task) else {
                    return Ok(Ok(false));
                };
                let queue = task.queue();
                let token = queue.as_ref().and_then(|queue| {
                    let (id, queue) = (*run, queue.clone());
                    let on_disk = self.disk.runs.get(&RunDir { id, queue })?;
                    Some(on_disk.spec.now.as_ref()?.token.clone())
                });
                let mark = RunMark::new(*run, &token.unwrap_or_default());
                let left = Left {
                    key: task.key(),
                    queue: task.assigned_to.clone().unwrap_or_default().into(),
                    updated_at: Some(task.updated_at),
                };
                self.put_back(&left, &mark)
            }
            Action::CreateFolder { task } => {
                let wall = self.wall();
                self.disk.touch_folder(task.number(), wall);
                Ok(Ok(true))
            }
        }
    }

    // ── launching ──────────────────────────────────────────────────────────────────────────────────────────────────────

    /// One more word with tinytask on all that is to be started, and on one task that is not.
    fn read_again(
        &mut self,
        launches: &[&Launch],
    ) -> Result<Result<Option<Again>, Failed>, Killed> {
        let decided: Moment = (&self.now()).into();
        let tasks: BTreeSet<TaskId> = launches.iter().filter_map(|l| l.subject.task()).collect();
        let has_requests = launches.iter().any(|l| l.subject == RunSubject::Inbound);
        if let Some(witness) = self.memory().trust.witness(&tasks) {
            let id = witness.id.number();
            let answer = answer!(self.call("launch: asking for a witness", |db| db.detail(id)));
            if is_gone(Some(&answer), witness) {
                self.counts.hit("witness gone before a launch");
                if let Some(daemon) = &mut self.daemon {
                    daemon.wants_everything = true;
                }
                return Ok(Ok(None));
            }
        }
        let mut details = BTreeMap::new();
        for id in tasks {
            let detail = self.call("launch: reading a task again", |db| db.detail(id.number()))?;
            details.insert(id, detail);
        }
        if has_requests {
            let highest = answer!(self.call("launch: finding the highest task", |db| db.highest()));
            self.memory().highest_task = highest;
        }
        Ok(Ok(Some(Again { decided, details })))
    }

    fn launch(&mut self, launch: &Launch, seen: &Snapshot, looked: &Now, again: &mut Again) -> Act {
        let found = match launch.subject {
            RunSubject::Task(id) => {
                let Some(Ok(detail)) = again.details.remove(&id) else {
                    return Ok(Err(Failed));
                };
                let key = seen.tasks.get(&id).map(Task::key);
                if !is_still_runnable(&detail, key, &launch.queue) {
                    self.counts.hit("task changed before its launch");
                    self.memory().rechecked.insert(id);
                    if let Some(daemon) = &mut self.daemon {
                        daemon.attention.hear(News::Queue(launch.queue.clone()));
                        daemon.attention.hear(News::Runs);
                    }
                    return Ok(Ok(true));
                }
                match detail {
                    Detail::Found(found) => Some(found),
                    Detail::NotFound => None,
                }
            }
            RunSubject::Inbound => None,
        };
        let dir = launch.dir();
        if self.mono < self.disk.full_until {
            self.counts.hit("write on a full disk");
            self.launch_failed(launch.subject);
            return Ok(Err(Failed));
        }
        // D1
        let is_new_entry = self.disk.live.insert(dir.clone());
        self.point("D1: between entry and directory")?;
        let (mono, incarnation) = (self.mono, self.incarnations);
        let on_disk = self.disk.run(&dir);
        if on_disk.has_dir {
            if is_new_entry {
                self.disk.live.remove(&dir);
            }
            self.launch_failed(launch.subject);
            return Ok(Err(Failed));
        }
        on_disk.has_dir = true;
        on_disk.made = mono;
        self.point("D1: between directory and lock")?;
        self.disk.run(&dir).shim_lock = Some(Holder::Daemon(incarnation));
        self.memory().forget(launch.subject);
        self.point("between D1 and D2")?;
        let spec = self.spec(launch, seen, looked, again.decided.clone(), found.as_ref());
        // D2
        let mono = self.mono;
        self.disk.run(&dir).spec.write(spec, mono, false);
        self.point("between D2 and D3")?;
        // D3
        self.start_shim(&dir);
        if let Some(daemon) = &mut self.daemon {
            daemon.failing.remove(&launch.subject);
        }
        self.point("after D3")?;
        Ok(Ok(true))
    }

    /// As `daemon::perform::note_launch`: the subject is left alone for a while, and what it was decided on is read anew.
    fn launch_failed(&mut self, subject: RunSubject) {
        let mono = self.mono;
        let Some(daemon) = &mut self.daemon else {
            return;
        };
        daemon.memory.forget(subject);
        let (until, failures) = daemon.failing.entry(subject).or_default();
        *until = mono + (500u64 << (*failures).min(6)).min(30_000);
        *failures += 1;
    }

    fn spec(
        &mut self,
        launch: &Launch,
        seen: &Snapshot,
        looked: &Now,
        decided: Moment,
        found: Option<&FoundDetail>,
    ) -> Spec {
        let entry = |task: &Task, last_comment| BaselineTask {
            key: task.key(),
            status: task.status,
            fields: task.fields,
            last_comment,
        };
        let others = seen.tasks.values().filter(|task| {
            task.assigned_to.as_deref() == Some(launch.queue.as_str())
                && Some(task.id) != launch.subject.task()
        });
        let named = found.map(|found| entry(&found.task, Some(found.last_comment)));
        let sweep = launch.queue.as_str() != "coder" || !self.policy.create_folders;
        let digest = |task: TaskId| self.disk.digest(task.number());
        let folder = launch.subject.task().map_or(0, digest);
        Spec {
            format: FORMAT,
            token: format!("{:016x}", self.chance.next()),
            run: launch.dir().id,
            task: found.map(|found| found.task.key()),
            title: None,
            queue: launch.queue.clone(),
            attempt: launch.attempt,
            stay: launch.stay,
            argv: Vec::new(),
            cwd: String::new(),
            env: Vec::new(),
            provider: launch.provider.clone(),
            limits: Limits {
                time: launch.time_limit,
                grace: Millis(GRACE),
                log: u64::MAX,
                sweep,
            },
            cause: launch.cause.clone(),
            times: SpecTimes {
                event: None,
                look: looked.into(),
                decided,
                written: (&self.now()).into(),
            },
            baseline: Baseline {
                tasks: named
                    .into_iter()
                    .chain(others.map(|task| entry(task, None)))
                    .collect(),
                highest_task: self.memory().highest_task,
                folder,
                inbound: launch.files.clone(),
            },
        }
    }

    // ── verdicts ───────────────────────────────────────────────────────────────────────────────────────────────────────

    fn finish(&mut self, dir: &RunDir, verdict: &VerdictRecord) -> Act {
        for task in &verdict.tasks {
            let left = Left {
                key: task.key,
                queue: verdict.queue.to_string(),
                updated_at: task.updated_at,
            };
            match &task.write {
                Some(Write::PutBack { comment }) => {
                    let done = self.put_back(&left, &mark_in(comment))?;
                    if done.is_err() {
                        return Ok(Err(Failed));
                    }
                }
                Some(Write::Park { comment, put_back }) => {
                    let mark = mark_in(comment);
                    if self.say_once(&left, &mark)?.is_err() {
                        return Ok(Err(Failed));
                    }
                    if *put_back && self.put_back(&left, &mark)?.is_err() {
                        return Ok(Err(Failed));
                    }
                }
                None => {}
            }
            self.point("verdict: between two tasks")?;
        }
        if self.mono < self.disk.full_until {
            self.counts.hit("write on a full disk");
            return Ok(Err(Failed));
        }
        for task in &verdict.tasks {
            self.disk.link(task.key, dir);
            self.point("verdict: after a link")?;
        }
        let mono = self.mono;
        self.disk.add_line(verdict, mono);
        self.point("verdict: before its entry ends")?;
        let mono = self.mono;
        self.disk.end_live(dir, mono);
        let memory = self.memory();
        memory.add_verdict(verdict);
        memory.in_hand.remove(&dir.id);
        memory.swept.remove(&dir.id);
        self.counts.hit("verdict finished");
        Ok(Ok(true))
    }

    fn put_back(&mut self, left: &Left, mark: &RunMark) -> Act {
        let Some(found) = answer!(self.present(left.key)) else {
            return Ok(Ok(false));
        };
        let key = left.key;
        let is_left = found.task.status == TaskStatus::Working
            && found.open_subtasks == 0
            && !found.task.is_archived
            && found.task.assigned_to.as_deref() == Some(left.queue.as_str())
            && left.updated_at.is_none_or(|at| found.task.updated_at == at)
            && !(self.disk.pid_files).contains_key(&RunSubject::Task(key.id));
        if !is_left {
            return Ok(Ok(false));
        }
        let (id, now) = (key.id.number(), self.seconds());
        if !has_said(&found, mark) || self.plant == SAYS_IT_AGAIN {
            answer!(self.call("put back: the comment", |db| {
                db.comment(id, Some(mark.clone()))
            }));
            self.check_comments(id, mark);
        }
        answer!(self.call("put back: the status", |db| {
            db.update(id, now, |row| row.status = TaskStatus::Idle)
        }));
        self.ring_database();
        Ok(Ok(true))
    }

    fn say_once(&mut self, left: &Left, mark: &RunMark) -> Act {
        if let Some(found) = answer!(self.present(left.key))
            && found.task.is_open()
            && found.task.assigned_to.as_deref() == Some(left.queue.as_str())
            && !has_said(&found, mark)
        {
            let id = left.key.id.number();
            answer!(self.call("park: the comment", |db| db.comment(id, Some(mark.clone()))));
            self.check_comments(id, mark);
        }
        Ok(Ok(true))
    }

    fn present(&mut self, key: TaskKey) -> Result<Result<Option<FoundDetail>, String>, Killed> {
        let detail = self.call("write: reading the task again", |db| {
            db.detail(key.id.number())
        })?;
        Ok(detail.map(|detail| match detail {
            Detail::Found(found) if found.task.key() == key => Some(found),
            _ => None,
        }))
    }

    fn mark(&mut self, subject: RunSubject, mark: &Mark) -> Act {
        if self.mono < self.disk.full_until {
            self.counts.hit("write on a full disk");
            return Ok(Err(Failed));
        }
        let now = Moment::from(&self.now());
        let marks = self.disk.marks.entry(subject).or_insert_with(|| Marks {
            format: FORMAT,
            ..Marks::default()
        });
        match mark {
            Mark::Retry { after } => {
                marks.retried_after = *after;
                marks.retried_at = Some(now);
                self.laws.retried(subject);
            }
            Mark::Release { processes } => marks.released.extend(processes.iter().cloned()),
        }
        self.memory().forget(subject);
        self.point("mark: before its control file goes")?;
        let mono = self.mono;
        match mark {
            Mark::Retry { .. } => self.disk.end_retry(subject, mono),
            Mark::Release { .. } => {
                self.disk.controls.release.remove(&subject);
            }
        }
        Ok(Ok(true))
    }

    // ── ending ─────────────────────────────────────────────────────────────────────────────────────────────────────────

    fn stop(&mut self, dir: &RunDir, cause: StopCause, seen: &Snapshot) -> Act {
        let Some(run) = seen.runs.iter().find(|run| run.dir == *dir) else {
            return Ok(Ok(false));
        };
        let Some(state) = &run.state else {
            return Ok(Ok(false));
        };
        let RunState::Running { agent } = &state.state else {
            return Ok(Ok(false));
        };
        if self.mono < self.disk.full_until {
            self.counts.hit("write on a full disk");
            return Ok(Err(Failed));
        }
        let outcome = match cause {
            StopCause::TimeLimit => Outcome::TimedOut,
            StopCause::Asked => Outcome::Stopped(StoppedBy { uid: 0, pid: None }),
        };
        self.check_stop(dir, agent, cause);
        let mono = self.mono;
        self.disk.run(dir).ended.write(outcome, mono, false);
        self.point("stop: before the first signal")?;
        self.memory().in_hand.insert(dir.id);
        let shim = run.observed.shim.then(|| state.shim.clone());
        let is_asked = cause == StopCause::Asked && shim.is_some();
        if let Some(shim) = shim.as_ref().filter(|_| is_asked) {
            self.signal(shim, dir, false);
        } else {
            self.signal(agent, dir, false);
        }
        let stage = if is_asked {
            Stage::AskShim
        } else {
            Stage::Interrupt
        };
        let ending = Ending {
            dir: dir.clone(),
            agent: agent.clone(),
            shim,
            stage,
            until: self.mono + GRACE + if is_asked { SHIM_TIME } else { 0 },
        };
        let incarnation = self.incarnations;
        self.after(500, Item::Ending(incarnation, Box::new(ending)));
        Ok(Ok(false))
    }

    /// A spawned future of the daemon looks whether what it waits for is over.
    pub(crate) fn ending_step(&mut self, incarnation: u32, mut ending: Ending) {
        let is_its = |daemon: &crate::daemon::Daemon| daemon.incarnation == incarnation;
        if !self.daemon.as_ref().is_some_and(is_its) {
            return;
        }
        let waited: Option<ProcessId> = match ending.stage {
            Stage::AskShim | Stage::EndShim => ending.shim.clone(),
            Stage::Interrupt | Stage::Kill => Some(ending.agent.clone()),
        };
        let is_over = waited.is_none_or(|process| !self.is_alive(&process));
        let is_late = self.mono >= ending.until;
        let (dir, agent) = (ending.dir.clone(), ending.agent.clone());
        ending.stage = match ending.stage {
            Stage::AskShim if is_over => return self.ended(incarnation, &dir),
            Stage::AskShim if is_late => {
                self.signal(&agent, &dir, false);
                ending.until = self.mono + GRACE;
                Stage::Interrupt
            }
            Stage::Interrupt if is_late && !is_over => {
                self.signal(&agent, &dir, true);
                ending.until = self.mono + TERM_TIME;
                Stage::Kill
            }
            Stage::Interrupt | Stage::Kill if is_over || is_late && ending.stage == Stage::Kill => {
                ending.until = self.mono + SWEEP_TIME + 2_000;
                Stage::EndShim
            }
            Stage::EndShim if is_over => return self.ended(incarnation, &dir),
            Stage::EndShim if is_late => {
                if let Some(shim) = &ending.shim {
                    self.counts.hit("stuck shim ended");
                    self.signal(shim, &dir, true);
                }
                return self.ended(incarnation, &dir);
            }
            stage => stage,
        };
        self.after(500, Item::Ending(incarnation, Box::new(ending)));
    }

    fn ended(&mut self, incarnation: u32, dir: &RunDir) {
        if let Some(daemon) = self
            .daemon
            .as_mut()
            .filter(|d| d.incarnation == incarnation)
        {
            daemon.is_done(dir.id, false);
        }
    }

    /// The control file that a person leaves.
    pub(crate) fn control(&mut self, leave: impl FnOnce(&mut calypso_watch::core::Controls)) {
        leave(&mut self.disk.controls);
        self.ring(Wake::Control);
    }
}

fn name(action: &Action) -> &'static str {
    match action {
        Action::Launch(_) => "action launch",
        Action::Stop { .. } => "action stop",
        Action::Sweep { .. } => "action sweep",
        Action::ClearPidFile { .. } => "action clear pid file",
        Action::ClearStranger { .. } => "action clear stranger",
        Action::ClearLitter { .. } => "action clear litter",
        Action::RecordVerdict { .. } => "action record verdict",
        Action::FinishVerdict { .. } => "action finish verdict",
        Action::RecordMark { .. } => "action record mark",
        Action::ClearStop { .. } => "action clear stop",
        Action::PutBack { .. } => "action put back",
        Action::CreateFolder { .. } => "action create folder",
    }
}

/// Has the run said its word on the task?
fn has_said(found: &FoundDetail, ours: &RunMark) -> bool {
    found.our_comments.iter().any(|known| known.is_same(ours))
}

fn mark_in(comment: &str) -> RunMark {
    let first = RunMark::all_in(comment).into_iter().next();
    first.expect("each comment names its run")
}
