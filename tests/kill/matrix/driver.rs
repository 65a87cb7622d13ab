//! Goes through one case: arms, sets going, kills, starts again what was killed, waits until all work is done, and counts what went wrong.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use calypso_watch::core::model::{Outcome, RunSubject};
use calypso_watch::core::record::{FailureClass, Write};
use calypso_watch::edge::runs;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};

use super::plan::{Arm, Case, Mode, Prank, Victim};
use super::scenario::{Work, dead_pid, is_complete, write_pid_file};
use super::world::{Role, World, is_alive, is_stopped};

/// Far more than anything takes on a loaded machine; only a failure waits for it.
const LIMIT: Duration = Duration::from_secs(45);
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
        is_stop_wished: false,
        gates: BTreeSet::new(),
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
    is_stop_wished: bool,
    gates: BTreeSet<i64>,
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
            std::thread::sleep(Duration::from_millis(5));
        }
        self.result.missed = self.pending.iter().any(|arm| *arm == self.case.arm);
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
        if !self.world.has_daemon() && self.refusals <= MOST_REFUSALS {
            self.world.start_daemon();
        }
        let mut others = std::mem::take(&mut self.others);
        others.retain_mut(|daemon| daemon.try_wait().expect("it is ours").is_none());
        self.others = others;
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
            self.prank(arm.prank);
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
            Prank::Intrude => write_pid_file(self.world, self.work.tasks[0], dead_pid()),
            Prank::Complete => {
                let task = self.work.tasks[0];
                until("it is completed", || {
                    self.world
                        .update(task, json!({"status": "complete"}))
                        .then_some(())
                });
                self.world.stamp(&format!("task_{task}"), "complete");
            }
            Prank::Reuse => self.reuse(),
            Prank::SecondDaemon => {
                let daemon = self.world.run_daemon();
                self.others.push(daemon);
            }
        }
    }

    /// The bystander's number, with the start of somebody who is dead.
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
            if let Some(ended) = state["state"]["ended"].as_object_mut() {
                let stranger = json!({"process": {"pid": pid, "start": 1}, "comm": "bash"});
                ended.insert("leftovers".into(), json!([stranger]));
                std::fs::write(path, state.to_string()).expect("ours");
            }
        }
    }

    /// What people do: stop a run, let an agent go on, say `retry` where a run failed and was judged, which they are asked to.
    fn persons(&mut self) {
        for at in 0..self.work.tasks.len() {
            let task = self.work.tasks[at];
            let Ok(id) = task.try_into() else { continue };
            let subject = RunSubject::Task(id);
            let last = runs::history(&self.world.layout, subject).ok();
            let marks = last.as_ref().map_or(0, |h| h.marks.retried_after);
            let verdict = last.and_then(|history| history.verdicts.last().cloned());
            let asked = verdict.filter(|verdict| {
                let parked = verdict
                    .tasks
                    .iter()
                    .any(|t| matches!(t.write, Some(Write::Park { .. })));
                let failed = verdict
                    .failure
                    .as_ref()
                    .is_some_and(|f| f.class == FailureClass::Task);
                let stopped = matches!(verdict.outcome, Outcome::Stopped(_));
                verdict.run.subject == subject
                    && verdict.run.number > marks
                    && (parked || failed || stopped)
            });
            // Only of runs whose verdict is finished: a person sees it in `status` then.
            let is_live = (self.world.names(".calypso/live").iter())
                .any(|name| name.starts_with(&format!("task_{task}-")));
            if asked.is_some() && !is_live {
                self.gates.insert(task);
                self.world.wish(&format!("retry-task_{task}"));
            }
            if self.case.scenario == super::scenario::Scenario::Stop {
                let gate = self.world.root().join(format!("gates/task_{task}"));
                let has_begun = (self.world.stamps(&format!("task_{task}")).iter())
                    .any(|line| line.starts_with("start"));
                if has_begun && !self.is_stop_wished {
                    self.is_stop_wished = true;
                    self.world.wish(&format!("stop-task_{task}"));
                }
                let is_over = self.is_stop_wished
                    && !(self.world.names(".calypso/control").iter())
                        .any(|n| n.starts_with("stop"));
                if is_over && !gate.exists() {
                    std::fs::write(gate, "").expect("a file");
                }
            }
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

    /// Nothing but the daemon and its tinytask lives on.
    fn rest(&mut self) {
        let end = Instant::now() + Duration::from_secs(15);
        loop {
            self.tend();
            let left: Vec<_> = (self.world.processes().into_iter())
                .filter(|(_, role)| !matches!(role, Role::Daemon | Role::Server))
                .collect();
            let daemons = self
                .world
                .processes()
                .iter()
                .filter(|(_, r)| *r == Role::Daemon)
                .count();
            let halves = self.world.half_written();
            if left.is_empty() && halves.is_empty() && daemons == 1 && self.world.watches() {
                return;
            }
            if Instant::now() > end
                || (left.is_empty()
                    && daemons == 1
                    && Instant::now() + Duration::from_secs(12) > end)
            {
                let lives = left
                    .iter()
                    .map(|(pid, role)| format!("process {pid} ({role:?}) lives on"));
                self.result.leftovers.extend(lives);
                self.result.leftovers.extend(halves);
                if daemons != 1 {
                    self.result.leftovers.push(format!("{daemons} daemons"));
                }
                return;
            }
            std::thread::sleep(Duration::from_millis(5));
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
