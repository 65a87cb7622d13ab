//! Agents: what they do to tinytask, to the folders and to inbound/ between their first instruction and their end. Some do right.

use std::collections::{BTreeMap, VecDeque};

use calypso_watch::core::layout::RunDir;
use calypso_watch::core::model::{Outcome, ProcessId, RunSubject, TaskStatus};
use calypso_watch::core::record::{Failure, FailureClass};

use crate::chance::Chance;
use crate::planted::{AGENTS_DO_NOTHING, AGENTS_SEND_BACK};
use crate::processes::Kind;
use crate::tinytask::QUEUES;
use crate::world::{Item, Wake, World};

#[derive(Debug, Clone)]
pub(crate) struct Agent {
    pub(crate) run: RunDir,
    pub(crate) queue: &'static str,
    /// Its first instruction has not run.
    pub(crate) is_gated: bool,
    script: VecDeque<(u64, Deed)>,
    /// What it works on.
    task: Option<i64>,
    /// What it took or moved, and when: by number and creation, as another tinytask has other tasks by these numbers.
    pub(crate) touched: BTreeMap<(i64, i64), u64>,
    tries: u32,
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Deed {
    /// The task it was told; else whatever sign-up hands out.
    Claim,
    SignUp,
    Work,
    Comment,
    HandOn,
    HandBack,
    Subtask,
    Dispatch,
    CreateOnly,
    TakeAway,
    Fork,
    Sign(u8),
    Hang,
    Exit(u8),
    Crash,
}

/// What each kind of agent does; the first is the one that does right.
const HABITS: [(&str, &[Deed]); 15] = {
    use Deed as D;
    [
        (
            "agent did right",
            &[D::Claim, D::Work, D::HandOn, D::Exit(0)],
        ),
        (
            "agent claimed another task",
            &[D::SignUp, D::Work, D::HandOn, D::Exit(0)],
        ),
        (
            "agent handed off early",
            &[D::Claim, D::HandOn, D::Work, D::Work, D::Work, D::Exit(0)],
        ),
        (
            "agent did several tasks",
            &[
                D::Claim,
                D::Work,
                D::HandOn,
                D::SignUp,
                D::Work,
                D::HandOn,
                D::SignUp,
                D::HandOn,
                D::Exit(0),
            ],
        ),
        ("agent hung", &[D::Claim, D::Work, D::Hang]),
        ("agent did nothing", &[D::Exit(0)]),
        ("agent met a quota", &[D::Sign(0), D::Exit(0)]),
        (
            "agent met a quota at work",
            &[D::Claim, D::Sign(0), D::Exit(0)],
        ),
        ("agent lacked an extension", &[D::Sign(1), D::Exit(0)]),
        (
            "agent sent it back",
            &[D::Claim, D::Work, D::HandBack, D::Exit(0)],
        ),
        ("agent left it working", &[D::Claim, D::Work, D::Exit(1)]),
        ("agent crashed", &[D::Claim, D::Work, D::Crash]),
        (
            "agent left children",
            &[D::Claim, D::Fork, D::Work, D::Fork, D::HandOn, D::Exit(0)],
        ),
        (
            "agent got on, but not out",
            &[D::Claim, D::Comment, D::Work, D::Crash],
        ),
        (
            "agent made subtasks",
            &[
                D::Claim,
                D::Subtask,
                D::Subtask,
                D::Work,
                D::HandOn,
                D::Exit(0),
            ],
        ),
    ]
};

/// And over inbound/.
const DISPATCHERS: [(&str, &[Deed]); 6] = {
    use Deed as D;
    [
        (
            "requests dispatched",
            &[D::Dispatch, D::TakeAway, D::Exit(0)],
        ),
        (
            "requests dispatched but not moved",
            &[D::CreateOnly, D::Exit(0)],
        ),
        ("requests left lying", &[D::Work, D::Exit(0)]),
        (
            "requests taken before dispatched",
            &[D::TakeAway, D::Dispatch, D::Exit(0)],
        ),
        ("dispatcher met a quota", &[D::Sign(0), D::Exit(0)]),
        ("dispatcher crashed", &[D::Dispatch, D::Crash]),
    ]
};

pub(crate) fn all_habits() -> impl Iterator<Item = &'static str> {
    HABITS.iter().chain(&DISPATCHERS).map(|(name, _)| *name)
}

impl World {
    /// S4: behind its gate. `None`: there is nothing to run.
    pub(crate) fn spawn_agent(&mut self, dir: &RunDir, shim: &ProcessId) -> Option<ProcessId> {
        let queue = *QUEUES.iter().find(|name| **name == dir.queue.as_str())?;
        let agent = Agent {
            run: dir.clone(),
            queue,
            is_gated: true,
            script: VecDeque::new(),
            task: None,
            touched: BTreeMap::new(),
            tries: 0,
        };
        let is_stubborn = !self.is_healed && self.chance.one_in(12);
        let is_stuck = !self.is_healed && self.chance.one_in(80);
        let id = self.spawn(Kind::Agent(Box::new(agent)), Some(dir.clone()), "goose");
        if let Some(process) = self.processes.get_mut(&id.pid) {
            process.session = shim.pid;
            process.has_token = true;
            process.holds_agent_lock = true;
            process.is_stubborn = is_stubborn;
            process.is_stuck = is_stuck;
        }
        Some(id)
    }

    /// S7: its first instruction. Here laws are broken, or not.
    pub(crate) fn open_gate(&mut self, id: &ProcessId, dir: &RunDir) {
        self.counts.hit("launch");
        self.check_start(id, dir);
        let is_inbound = dir.id.subject == RunSubject::Inbound;
        let mut chance = Chance::new(self.chance.next());
        let is_right = self.is_healed || chance.below(10) < 3 + 2 * self.mood;
        let planted = match self.plant {
            AGENTS_DO_NOTHING => Some("agent did nothing"),
            AGENTS_SEND_BACK => Some("agent sent it back"),
            _ => None,
        };
        let planted = HABITS.iter().find(|(name, _)| Some(*name) == planted);
        let (name, deeds) = if let (Some(habit), false) = (planted, is_inbound) {
            *habit
        } else if is_inbound {
            let at = chance.below(DISPATCHERS.len() as u64) as usize;
            DISPATCHERS[if is_right { 0 } else { at }]
        } else {
            let at = chance.below(HABITS.len() as u64) as usize;
            HABITS[if is_right { 0 } else { at }]
        };
        self.counts.hit(name);
        if !is_right && chance.one_in(40) {
            self.counts.hit("agent could not be executed");
            if let Some(process) = self.processes.get_mut(&id.pid) {
                process.holds_agent_lock = false;
            }
            let why = Outcome::NotLaunched("exec `goose`: no such file".into());
            return self.after(1, Item::Dies(id.clone(), why));
        }
        let script = deeds
            .iter()
            .map(|deed| (chance.seldom(8, 30_000, 3_000), *deed))
            .collect();
        if let Some(Kind::Agent(agent)) = self.processes.get_mut(&id.pid).map(|p| &mut p.kind) {
            agent.is_gated = false;
            agent.script = script;
        }
        self.after(1, Item::Agent(id.clone()));
    }

    pub(crate) fn agent_step(&mut self, id: &ProcessId) {
        let Some(process) = self.processes.get_mut(&id.pid).filter(|p| p.id == *id) else {
            return;
        };
        let Kind::Agent(agent) = &process.kind else {
            return;
        };
        let mut agent = agent.clone();
        let Some((_, deed)) = agent.script.front().copied() else {
            return;
        };
        let done = self.deed(id, &mut agent, deed);
        if done {
            agent.script.pop_front();
            agent.tries = 0;
        } else {
            agent.tries += 1;
            if agent.tries > 3 {
                // tinytask does not answer: goose gives up, and says so.
                agent.script = [(0, Deed::Sign(2)), (0, Deed::Exit(0))].into();
            }
        }
        let next = agent.script.front().map(|(delay, _)| *delay);
        let retry = (!done).then_some(2_000);
        if let Some(process) = self.processes.get_mut(&id.pid).filter(|p| p.id == *id) {
            process.kind = Kind::Agent(agent);
            if let Some(delay) = retry.or(next) {
                self.after(delay, Item::Agent(id.clone()));
            }
        }
    }

    /// Whether it is done; else it is tried again.
    fn deed(&mut self, id: &ProcessId, agent: &mut Agent, deed: Deed) -> bool {
        let needs_tinytask = !matches!(
            deed,
            Deed::Work
                | Deed::TakeAway
                | Deed::Fork
                | Deed::Sign(_)
                | Deed::Hang
                | Deed::Exit(_)
                | Deed::Crash
        );
        if needs_tinytask && !self.tiny.is_up {
            return false;
        }
        let (now, wall) = (self.seconds(), self.wall());
        match deed {
            Deed::Claim => {
                let named = agent.run.id.subject.task().map(|id| id.number());
                let knows = self.knows_task(agent);
                let db = &mut self.tiny.db;
                let free = |row: &crate::tinytask::Row| {
                    row.status == TaskStatus::Idle
                        && row.assigned == Some(agent.queue)
                        && !row.archived
                };
                agent.task = if knows {
                    named.filter(|id| db.rows.get(id).is_some_and(free))
                } else {
                    db.sign_up(agent.queue, now)
                };
                if let Some(task) = agent.task {
                    db.update(task, now, |row| {
                        row.status = TaskStatus::Working;
                        row.worked_by_ours = true;
                    });
                    let created = self.tiny.db.rows[&task].created;
                    agent.touched.insert((task, created), self.mono);
                }
                self.ring_database();
            }
            Deed::SignUp => {
                agent.task = self.tiny.db.sign_up(agent.queue, now);
                if let Some(task) = agent.task {
                    self.tiny
                        .db
                        .update(task, now, |row| row.worked_by_ours = true);
                    let created = self.tiny.db.rows[&task].created;
                    agent.touched.insert((task, created), self.mono);
                }
                self.ring_database();
            }
            Deed::Work => {
                if let Some(task) = agent
                    .task
                    .filter(|task| self.disk.folders.contains_key(task))
                {
                    self.disk.touch_folder(task, wall);
                }
            }
            Deed::Comment => {
                if let Some(task) = agent.task {
                    self.tiny.db.comment(task, None);
                    self.laws.changed(task);
                    self.ring_database();
                }
            }
            Deed::HandOn => match (agent.task.take(), agent.queue) {
                (Some(task), "dispatcher") => self.hand(task, "dispatcher", "architect"),
                (Some(task), "architect") => self.hand(task, "architect", "coder"),
                (Some(task), "coder") => self.hand(task, "coder", "tester"),
                (Some(task), _) => self.complete(task),
                (None, _) => {}
            },
            Deed::HandBack => {
                if let Some(task) = agent.task.take() {
                    let to = if agent.queue == "architect" {
                        "coder"
                    } else {
                        "architect"
                    };
                    self.hand(task, agent.queue, to);
                }
            }
            Deed::Subtask => {
                if let Some(task) = agent.task {
                    let child = self.tiny.db.create(Some("coder"), 0, Some(task), None, now);
                    self.after(50, Item::FolderComes(child));
                    self.laws.changed(task);
                    self.ring_database();
                }
            }
            Deed::Dispatch | Deed::CreateOnly => {
                for _ in self.requests_of(agent) {
                    let task = self.tiny.db.create(Some("architect"), 0, None, None, now);
                    let delay = self.chance.seldom(5, 2_000, 20);
                    self.after(delay, Item::FolderComes(task));
                }
                self.ring_database();
            }
            Deed::TakeAway => {
                let taken = self.requests_of(agent);
                self.disk
                    .inbound
                    .retain(|request| !taken.contains(&request.key));
                self.ring(Wake::Inbound);
            }
            Deed::Fork => self.fork(agent),
            Deed::Sign(which) => {
                let (class, reason) = match which {
                    0 => (FailureClass::Provider, "quota exceeded"),
                    1 => (FailureClass::Environment, "an extension failed to start"),
                    _ => (FailureClass::Environment, "tinytask did not answer"),
                };
                self.disk.run(&agent.run).sign = Some(Failure {
                    class,
                    reason: reason.into(),
                });
            }
            Deed::Hang => {}
            Deed::Exit(code) => self.after(0, Item::Dies(id.clone(), Outcome::Exited(code))),
            Deed::Crash => self.after(0, Item::Dies(id.clone(), Outcome::Signaled(11))),
        }
        true
    }

    fn knows_task(&self, agent: &Agent) -> bool {
        matches!(self.disk.recipes.get(&agent.run.queue), Some(Ok(recipe)) if recipe.declares("task_id"))
    }

    fn requests_of(&self, agent: &Agent) -> Vec<calypso_watch::core::model::FileKey> {
        let run = self.disk.runs.get(&agent.run);
        let spec = run.and_then(|run| run.spec.now.as_ref());
        let there = |key: &&calypso_watch::core::model::FileKey| {
            self.disk.inbound.iter().any(|request| request.key == **key)
        };
        spec.map(|spec| {
            spec.baseline
                .inbound
                .iter()
                .filter(there)
                .cloned()
                .collect()
        })
        .unwrap_or_default()
    }

    fn hand(&mut self, task: i64, from: &str, to: &'static str) {
        let now = self.seconds();
        self.tiny.db.hand_over(task, from, to, now);
        self.laws.changed(task);
        self.ring_database();
    }

    fn complete(&mut self, task: i64) {
        let now = self.seconds();
        self.tiny
            .db
            .update(task, now, |row| row.status = TaskStatus::Complete);
        self.laws.changed(task);
        self.ring_database();
    }

    /// A child that outlives the agent: bash inherits the lock, node does not, a program may clean its environment.
    fn fork(&mut self, agent: &Agent) {
        let Some(shim) = self.shim_session(&agent.run) else {
            return;
        };
        let kind = self.chance.below(3);
        let (is_stubborn, is_stuck) = (self.chance.one_in(4), self.chance.one_in(12));
        let lives = self.chance.seldom(3, 3_600_000, 5_000);
        let id = self.spawn(Kind::Child, Some(agent.run.clone()), "node");
        if let Some(child) = self.processes.get_mut(&id.pid) {
            child.session = shim;
            child.has_token = kind < 2;
            child.holds_agent_lock = kind == 0;
            child.is_stubborn = is_stubborn;
            child.is_stuck = is_stuck;
        }
        self.after(lives, Item::Dies(id, Outcome::Exited(0)));
    }

    fn shim_session(&self, dir: &RunDir) -> Option<i32> {
        let is_agent = |p: &&crate::processes::Process| {
            matches!(p.kind, Kind::Agent(_)) && p.of.as_ref() == Some(dir)
        };
        self.processes.values().find(is_agent).map(|p| p.session)
    }
}
