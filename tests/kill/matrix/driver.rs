//! Goes through one case: arms, sets going, kills, starts again what was killed, waits until all work is done, and counts what went wrong.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use calypso_watch::core::layout::subject_dir;
use calypso_watch::core::model::{Outcome, RunId, RunSubject};
use calypso_watch::core::record::{FailureClass, VerdictRecord, Write};
use calypso_watch::edge::runs;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};

use super::plan::{Arm, Case, Mode, Prank, Victim};
use super::scenario::{Scenario, Work, assign, is_complete, write_pid_file};
use super::world::{Role, World, is_alive, is_stopped};

/// Far more than anything takes on a loaded machine; only a failure waits for it.
const LIMIT: Duration = Duration::from_secs(90);
/// Between two looks at a world: each costs something, and that on the machine whose time the case needs.
const LOOK: Duration = Duration::from_millis(15);
/// In which what is left of a case has to be gone: processes, and files.
const LEFTOVERS: Duration = Duration::from_secs(30);
const HALF_WRITTEN: Duration = Duration::from_secs(5);
/// How long somebody works on a task by hand: a daemon has looked several times by then.
const OUTSIDE: Duration = Duration::from_millis(1500);
/// A daemon that cannot begin (its tinytask was killed at its start, say) is started again this often.
const MOST_REFUSALS: u32 = 20;

/// What one case came to.
#[derive(Debug, Default)]
pub(super) struct Result {
    pub(super) deaths: u32,
    pub(super) stops: u32,
    pub(super) tasks: u32,
    pub(super) lost: Vec<String>,
    pub(super) doubled: Vec<String>,
    pub(super) wrong_kills: Vec<String>,
    pub(super) leftovers: Vec<String>,
    /// Points at which somebody died, or was stopped.
    pub(super) fired: Vec<String>,
    /// The case's own point was not come to.
    pub(super) missed: bool,
}

impl Result {
    pub(super) fn is_clean(&self) -> bool {
        self.wrongs().next().is_none()
    }

    pub(super) fn wrongs(&self) -> impl Iterator<Item = &String> {
        let lists = [
            &self.lost,
            &self.doubled,
            &self.wrong_kills,
            &self.leftovers,
        ];
        lists.into_iter().flatten()
    }
}

/// Waits for a level.
#[track_caller]
pub(super) fn until<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let end = Instant::now() + LIMIT;
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(Instant::now() < end, "not within {LIMIT:?}: {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// Another number each time.
pub(super) fn serial() -> u32 {
    static NEXT: AtomicU32 = AtomicU32::new(1);
    NEXT.fetch_add(1, Ordering::Relaxed)
}

/// Goes through the case in a world that is at rest.
pub(super) fn go(world: &mut World, case: &Case) -> Result {
    let mut run = Run {
        world,
        case,
        work: Work::default(),
        result: Result::default(),
        pending: Vec::new(),
        frozen: Vec::new(),
        others: Vec::new(),
        refusals: 0,
        outside: None,
        taken: None,
        persons_looked: Instant::now(),
        is_stop_wished: false,
    };
    run.all();
    run.result
}

struct Run<'a> {
    world: &'a mut World,
    case: &'a Case,
    work: Work,
    result: Result,
    /// Armed and not fired.
    pending: Vec<Arm>,
    /// Stopped, to go on then.
    frozen: Vec<(i32, Instant)>,
    /// Daemons that should not be.
    others: Vec<std::process::Child>,
    refusals: u32,
    /// Since when somebody works on the first task by hand.
    outside: Option<Instant>,
    /// Since when it is in other hands.
    taken: Option<Instant>,
    persons_looked: Instant,
    is_stop_wished: bool,
}

impl Run<'_> {
    fn all(&mut self) {
        let scenario = self.case.scenario;
        self.work = scenario.prepare(self.world);
        self.result.tasks = self.work.tasks.len() as u32;
        let first = self.case.before.unwrap_or(self.case.arm);
        self.arm(first);
        if self.case.before.is_some() {
            self.arm(self.case.arm);
        }
        self.result.deaths += scenario.begin(self.world, &mut self.work);
        let end = Instant::now() + LIMIT;
        let mut done_since: Option<Instant> = None;
        loop {
            self.tend();
            if self.is_done() {
                let since = *done_since.get_or_insert_with(Instant::now);
                // What a case is about may come a moment after its tasks are done: a log's line, the end of a shim.
                if self.pending.is_empty() || since.elapsed() > Duration::from_millis(700) {
                    break;
                }
            } else {
                done_since = None;
            }
            if Instant::now() > end {
                self.give_up();
                break;
            }
            std::thread::sleep(LOOK);
        }
        self.result.missed = self.pending.contains(&self.case.arm);
        self.world.disarm();
        self.rest();
        self.check();
    }

    fn arm(&mut self, arm: Arm) {
        let deed = match arm.victim {
            Victim::Itself if arm.prank == Prank::None => "kill",
            _ => "stop",
        };
        self.world.arm(arm.point, arm.nth, deed);
        self.pending.push(arm);
    }

    // ── while it goes on ───────────────────────────────────────────────────────────────────────────────────────────────

    /// What whoever looks after a machine does: starts the daemon again. And what the case is about.
    fn tend(&mut self) {
        for (point, pid, deed) in self.world.fired() {
            self.has_fired(&point, pid, &deed);
        }
        let now = Instant::now();
        self.frozen.retain(|(pid, until)| {
            if now >= *until {
                kill(Pid::from_raw(*pid), Signal::SIGCONT).ok();
            }
            now < *until
        });
        if let Some(was_killed) = self.world.daemon_over()
            && !was_killed
        {
            self.refusals += 1;
            if self.refusals > MOST_REFUSALS {
                return;
            }
        }
        self.others
            .retain_mut(|daemon| daemon.try_wait().expect("it is ours").is_none());
        if !self.world.has_daemon()
            && let Some(other) = self.others.pop()
        {
            self.world.adopt_daemon(other);
        }
        if !self.world.has_daemon() && self.refusals <= MOST_REFUSALS {
            self.world.start_daemon();
        }
        self.outsider();
        self.taker();
        self.persons();
    }

    fn has_fired(&mut self, point: &str, pid: i32, deed: &str) {
        let Some(at) = self.pending.iter().position(|arm| arm.point == point) else {
            if deed == "stop" {
                kill(Pid::from_raw(pid), Signal::SIGCONT).ok();
            }
            return;
        };
        let arm = self.pending.remove(at);
        self.result.fired.push(point.to_owned());
        if deed == "kill" {
            self.result.deaths += 1;
        } else {
            self.result.stops += 1;
            // Its line comes before its stop.
            until("it is stopped, or dead", || {
                (is_stopped(pid) || !is_alive(pid)).then_some(())
            });
            if arm.prank != Prank::Reuse {
                self.prank(arm.prank);
            }
            self.result.deaths += match arm.victim {
                Victim::Itself => kill(Pid::from_raw(pid), Signal::SIGKILL).is_ok().into(),
                Victim::Daemon => self.world.kill_all(&[Role::Daemon]),
                Victim::Shim => self.world.kill_all(&[Role::Shim]),
                Victim::Both => self.world.kill_all(&[Role::Daemon, Role::Shim]),
                Victim::Agent => self.world.kill_all(&[Role::Agent]),
                Victim::Server => self.world.kill_all(&[Role::Server]),
                Victim::All => {
                    let all = [Role::Daemon, Role::Shim, Role::Agent, Role::Server];
                    self.world.kill_all(&all)
                }
                Victim::Nobody(_) => 0,
            };
            // Only of the dead: what a living shim wrote would be written over.
            if arm.prank == Prank::Reuse {
                self.prank(arm.prank);
            }
            let span = match arm.victim {
                Victim::Nobody(span) => Duration::from_millis(span),
                _ => Duration::ZERO,
            };
            if span.is_zero() {
                kill(Pid::from_raw(pid), Signal::SIGCONT).ok();
            } else {
                self.frozen.push((pid, Instant::now() + span));
            }
        }
        if arm != self.case.arm {
            return;
        }
        match self.case.mode {
            Mode::Once => {}
            Mode::Twice if self.result.fired.iter().filter(|p| *p == point).count() < 2 => {
                self.arm(Arm { nth: 1, ..arm });
            }
            Mode::Twice => {}
            Mode::Again(again) if again != point => self.arm(Arm {
                point: again,
                nth: 1,
                victim: Victim::Itself,
                prank: Prank::None,
            }),
            Mode::Again(_) => {}
        }
    }

    fn prank(&mut self, prank: Prank) {
        match prank {
            Prank::None => {}
            Prank::Outside => {
                write_pid_file(self.world, self.work.tasks[0], self.world.bystander());
                self.outside = Some(Instant::now());
            }
            Prank::Complete => {
                let task = self.work.tasks[0];
                until("it is completed", || {
                    self.world
                        .update(task, json!({"status": "complete"}))
                        .then_some(())
                });
                self.world.stamp(&format!("task_{task}"), "complete");
            }
            Prank::Take => {
                let taken = json!({"assigned_to": "somebody", "status": "working"});
                let task = self.work.tasks[0];
                until("it is taken", || {
                    self.world.update(task, taken.clone()).then_some(())
                });
                self.taken = Some(Instant::now());
            }
            Prank::Reuse => self.reuse(),
            Prank::SecondDaemon => {
                let daemon = self.world.run_daemon();
                self.others.push(daemon);
            }
        }
    }

    /// The bystander's number, with the start of an agent that is dead; and a person who wants the run stopped.
    fn reuse(&mut self) {
        let pid = self.world.bystander();
        for name in self.world.names(".calypso/live") {
            let Some((subject, run)) = name.split_once('-') else {
                continue;
            };
            let path = self
                .world
                .path(&format!(".calypso/runs/{subject}/{run}/state.json"));
            let text = std::fs::read_to_string(&path).unwrap_or_default();
            let Ok(mut state) = serde_json::from_str::<Value>(&text) else {
                continue;
            };
            if state["state"]["is"] != "running" {
                continue;
            }
            state["state"]["agent"] = json!({"pid": pid, "start": 1});
            std::fs::write(path, state.to_string()).expect("ours");
            self.world.wish(&format!("stop-{subject}"));
        }
    }

    /// Whoever works on a task by hand is let alone, and in the end takes their pid file away.
    fn outsider(&mut self) {
        let Some(since) = self.outside else { return };
        let name = format!("task_{}", self.work.tasks[0]);
        let path = self.world.path(&format!("running_tasks/{name}.pid"));
        let pid = std::fs::read_to_string(&path).unwrap_or_default();
        if pid.trim() != self.world.bystander().to_string() {
            let what = format!("{name}.pid was another's, and is gone");
            self.result.doubled.push(what);
            self.outside = None;
        } else if since.elapsed() > OUTSIDE {
            std::fs::remove_file(path).expect("it is there");
            self.outside = None;
        }
        if self.outside.is_some()
            && (self.world.stamps(&name).iter()).any(|line| line.starts_with("start"))
        {
            let what = format!("{name}: an agent beside one that was started by hand");
            self.result.doubled.push(what);
            self.outside = None;
        }
    }

    /// Whoever took a task to another queue finds it as they left it, and completes it.
    fn taker(&mut self) {
        let is_due = self.taken.is_some_and(|since| since.elapsed() > OUTSIDE);
        if !is_due || !self.world.names(".calypso/live").is_empty() {
            return;
        }
        let id = self.work.tasks[0];
        let Some(task) = self.world.task(id) else {
            return;
        };
        let comments = task["comments"].as_array().map_or(0, Vec::len);
        if (&task["status"], comments) != (&json!("working"), 0) {
            let what = format!("task {id} was in other hands: {task}");
            self.result.doubled.push(what);
        }
        if self.world.update(id, json!({"status": "complete"})) {
            self.taken = None;
        }
    }

    /// What people do: stop a run, let an agent go on, say `retry` where a run failed and was judged, which they are asked to.
    fn persons(&mut self) {
        let queue = self.case.scenario.queue();
        let is_next = |task: &i64| assign(self.world, *task, queue);
        while self.work.unassigned.first().is_some_and(is_next) {
            self.work.unassigned.remove(0);
        }
        if self.persons_looked.elapsed() < Duration::from_millis(40) {
            return;
        }
        self.persons_looked = Instant::now();
        for task in &self.work.tasks {
            if let Ok(id) = (*task).try_into() {
                self.say_retry(RunSubject::Task(id));
            }
        }
        if !self.work.files.is_empty() {
            self.say_retry(RunSubject::Inbound);
        }
        if self.case.scenario == Scenario::Stop {
            self.stop_first();
        }
    }

    /// Where the last run failed and is judged: a person sees it in `status` then, and does what that says.
    fn say_retry(&self, subject: RunSubject) {
        let name = subject_dir(subject);
        let is_live = (self.world.names(".calypso/live").iter())
            .any(|entry| entry.starts_with(&format!("{name}-")));
        let Some(history) = runs::history(&self.world.layout, subject)
            .ok()
            .filter(|_| !is_live)
        else {
            return;
        };
        let forgiven = history.marks.retried_after;
        let is_asked = history.verdicts.last().is_some_and(|last| {
            let is_parked =
                (last.tasks.iter()).any(|t| matches!(t.write, Some(Write::Park { .. })));
            let has_failed = last
                .failure
                .as_ref()
                .is_some_and(|f| f.class == FailureClass::Task);
            let is_stopped = matches!(last.outcome, Outcome::Stopped(_));
            let is_left = last.files.iter().any(|file| file.left);
            last.run.subject == subject
                && last.run.number > forgiven
                && (is_parked || has_failed || is_stopped || is_left)
        });
        if is_asked {
            self.world.wish(&format!("retry-{name}"));
        }
    }

    /// A person stops the first task's run once it runs, and lets it go on afterwards.
    fn stop_first(&mut self) {
        let name = format!("task_{}", self.work.tasks[0]);
        let gate = self.world.root().join("gates").join(&name);
        let has_begun = (self.world.stamps(&name).iter()).any(|line| line.starts_with("start"));
        if has_begun && !self.is_stop_wished {
            self.is_stop_wished = true;
            self.world.wish(&format!("stop-{name}"));
        }
        let is_over = self.is_stop_wished
            && !(self.world.names(".calypso/control").iter()).any(|n| n.starts_with("stop"));
        if is_over && !gate.exists() {
            std::fs::write(gate, "").expect("a file");
        }
    }

    // ── when it is over ────────────────────────────────────────────────────────────────────────────────────────────────

    fn is_done(&self) -> bool {
        self.frozen.is_empty()
            && self.others.is_empty()
            && self.world.names(".calypso/live").is_empty()
            && self.world.names("running_tasks").is_empty()
            && self.world.names("inbound").is_empty()
            && self.world.names(".calypso/control").is_empty()
            && self
                .work
                .tasks
                .iter()
                .all(|task| is_complete(self.world, *task))
            && self.world.watches()
    }

    /// Which of the conditions of an end are not met.
    fn give_up(&mut self) {
        for task in &self.work.tasks {
            let status = self.world.task(*task);
            if status
                .as_ref()
                .is_none_or(|task| task["status"] != "complete")
            {
                let status = status.map(|task| task["status"].clone());
                self.result.lost.push(format!("task {task} is {status:?}"));
            }
        }
        for folder in [
            ".calypso/live",
            "running_tasks",
            "inbound",
            ".calypso/control",
        ] {
            for name in self.world.names(folder) {
                self.result
                    .lost
                    .push(format!("{folder}/{name} is there for ever"));
            }
        }
        if self.result.lost.is_empty() {
            self.result.lost.push("no daemon watches".into());
        }
    }

    /// Nothing but the daemon and its tinytask lives on, and nothing half-written lies about.
    fn rest(&mut self) {
        let begun = Instant::now();
        loop {
            self.tend();
            let all = self.world.processes();
            let (daemons, others): (Vec<_>, Vec<_>) = (all.into_iter())
                .filter(|(_, role)| !matches!(role, Role::Server | Role::Spare))
                .partition(|(_, role)| *role == Role::Daemon);
            let halves = self.world.half_written();
            if others.is_empty() && halves.is_empty() && daemons.len() == 1 && self.world.watches()
            {
                return;
            }
            let limit = if others.is_empty() && daemons.len() == 1 {
                // Nobody is there any more who could clear a file away.
                HALF_WRITTEN
            } else {
                LEFTOVERS
            };
            if begun.elapsed() > limit {
                for (pid, role) in others {
                    let what = format!("process {pid} ({role:?}) lives on");
                    self.result.leftovers.push(what);
                }
                self.result.leftovers.extend(halves);
                if daemons.len() != 1 {
                    let what = format!("{} daemons", daemons.len());
                    self.result.leftovers.push(what);
                }
                return;
            }
            std::thread::sleep(LOOK);
        }
    }

    /// Every run has its verdict, and history tells each once.
    fn check_records(&mut self) {
        let layout = &self.world.layout;
        let history = std::fs::read_to_string(layout.history()).unwrap_or_default();
        let told: Vec<RunId> = (history.lines())
            .filter_map(|line| serde_json::from_str::<VerdictRecord>(line).ok())
            .map(|verdict| verdict.run)
            .collect();
        for task in &self.work.tasks {
            let Ok(id) = (*task).try_into() else { continue };
            for dir in runs::list_runs(layout, RunSubject::Task(id)).unwrap_or_default() {
                if !matches!(runs::read_verdict(layout, &dir), Ok(Some(_))) {
                    let what = format!("run {} has no verdict", dir.id);
                    self.result.lost.push(what);
                }
                let times = told.iter().filter(|run| **run == dir.id).count();
                match times {
                    1 => {}
                    0 => self
                        .result
                        .lost
                        .push(format!("history lacks run {}", dir.id)),
                    _ => (self.result.doubled)
                        .push(format!("history tells run {} {times} times", dir.id)),
                }
            }
        }
    }

    fn check(&mut self) {
        let mut subjects: Vec<String> = self
            .work
            .tasks
            .iter()
            .map(|task| format!("task_{task}"))
            .collect();
        if !self.work.files.is_empty() {
            subjects.push("inbound".into());
        }
        for subject in subjects {
            for line in self.world.stamps(&subject) {
                match line.split(' ').next() {
                    Some("start" | "end" | "complete") => {}
                    Some("UNANSWERED") => self.result.lost.push(format!("{subject}: {line}")),
                    _ => self.result.doubled.push(format!("{subject}: {line}")),
                }
            }
        }
        for file in &self.work.files {
            if !self.world.root().join("taken").join(file).exists() {
                self.result
                    .lost
                    .push(format!("inbound/{file} was taken by nobody"));
            }
        }
        if self.result.lost.is_empty() {
            self.check_records();
        }
        for task in &self.work.tasks {
            let Some(found) = self.world.task(*task) else {
                continue;
            };
            let comments = found["comments"].as_array().cloned().unwrap_or_default();
            let mut seen = BTreeSet::new();
            for comment in comments.iter().filter_map(|c| c["content"].as_str()) {
                if comment.starts_with("calypso-watch ") && !seen.insert(comment.to_owned()) {
                    self.result
                        .doubled
                        .push(format!("task {task}: said twice: {comment}"));
                }
            }
            let was_done_by_another = self.case.arm.prank == Prank::Complete
                && self.result.fired.iter().any(|p| p == self.case.arm.point);
            if was_done_by_another && !seen.is_empty() {
                let what = format!("task {task} was complete, and is told: {seen:?}");
                self.result.doubled.push(what);
            }
            if was_done_by_another && found["status"] != "complete" {
                self.result.doubled.push(format!(
                    "task {task} was complete, and is {}",
                    found["status"]
                ));
            }
        }
        self.result.wrong_kills = self.world.wrongs();
        if self.refusals > MOST_REFUSALS {
            self.result
                .lost
                .push("the daemon does not start any more".into());
        }
    }
}
