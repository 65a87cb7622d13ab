//! The world: one clock, one disk, processes, one tinytask, perhaps a daemon; and an agenda of what happens next.
//!
//! Everything that happens is an [`Item`] on the agenda, or a line of the daemon's own work, between any two of which the world
//! goes on (see [`World::point`]): that is where deaths and races come from.

use std::collections::BTreeMap;

use calypso_watch::core::layout::RunDir;
use calypso_watch::core::model::{
    Millis, Now, Outcome, Parameter, ProcessId, QueueName, Recipe, RunId, RunSubject, TaskId,
    Timestamp,
};
use calypso_watch::core::{Decision, Policy, QueuePolicy, Snapshot};

use crate::chance::{Chance, mix};
use crate::counts::Counts;
use crate::daemon::Daemon;
use crate::disk::{Disk, Holder};
use crate::laws::Laws;
use crate::people::Event;
use crate::processes::{Kind, Process};
use crate::tinytask::Db;

/// A law was broken: which, and how.
#[derive(Debug, Clone)]
pub(crate) struct Broken {
    pub(crate) law: &'static str,
    pub(crate) how: String,
}

/// What decides: the real core, or one with a planted bug.
pub(crate) type Decide = fn(&Snapshot, &Policy, &Now) -> Decision;

/// Something that happens at its time.
#[derive(Debug, Clone)]
pub(crate) enum Item {
    /// Of the history.
    Event(usize),
    /// A shim's next step.
    Shim(ProcessId),
    /// An agent's next deed.
    Agent(ProcessId),
    Dies(ProcessId, Outcome),
    Ring(Wake),
    DaemonStarts,
    /// A future of the daemon's incarnation that ends a run.
    Ending(u32, Box<Ending>),
    Swept(u32, RunId),
    TinytaskUp,
    Mended(QueueName),
    ProgramsBack,
    PersonEnds(i64),
    FolderComes(i64),
}

/// What the watcher tells; and a pidfd.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Wake {
    /// Recipes or settings changed, or nobody knows what.
    Everything,
    Control,
    Running,
    Inbound,
    Database,
    Task(TaskId),
    Process,
}

/// A stop under way in the daemon.
#[derive(Debug, Clone)]
pub(crate) struct Ending {
    pub(crate) dir: RunDir,
    pub(crate) agent: ProcessId,
    pub(crate) shim: Option<ProcessId>,
    pub(crate) stage: Stage,
    pub(crate) until: u64,
}

#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Stage {
    AskShim,
    Interrupt,
    Kill,
    EndShim,
}

pub(crate) struct Tinytask {
    pub(crate) db: Db,
    pub(crate) is_up: bool,
    /// Answers take this long at most.
    pub(crate) slowness: u64,
    /// One call in this many loses its answer; 0: none.
    pub(crate) loses: u64,
    pub(crate) backup: Option<Db>,
    /// The right one, while another is served.
    pub(crate) swapped: Option<Db>,
}

pub(crate) struct World {
    pub(crate) mono: u64,
    pub(crate) wall_offset: i64,
    pub(crate) booted: u64,
    pub(crate) boot_id: String,
    boots: u32,
    agenda: BTreeMap<(u64, u64), Item>,
    order: u64,
    /// How many items have.
    pub(crate) happened: u64,
    pub(crate) chance: Chance,
    pub(crate) disk: Disk,
    pub(crate) processes: BTreeMap<i32, Process>,
    pub(crate) next_pid: i32,
    /// The tick at which each number was last given out.
    pub(crate) ticks: BTreeMap<i32, u64>,
    pub(crate) tiny: Tinytask,
    pub(crate) policy: Policy,
    pub(crate) daemon: Option<Daemon>,
    pub(crate) incarnations: u32,
    /// The daemon dies at the point that brings this to zero.
    pub(crate) dies_in: Option<u32>,
    /// The next shim to come to this step dies before it, or freezes.
    pub(crate) trap: Option<(u8, bool)>,
    pub(crate) lost_until: u64,
    pub(crate) late_until: u64,
    /// Nothing happens, and nobody dies, while laws are checked.
    pub(crate) is_frozen: bool,
    /// All agents that start from now on do right.
    pub(crate) is_healed: bool,
    pub(crate) mood: u64,
    pub(crate) history: Vec<Event>,
    pub(crate) decide: Decide,
    pub(crate) plant: u8,
    pub(crate) laws: Laws,
    pub(crate) counts: Counts,
    pub(crate) broken: Option<Broken>,
    pub(crate) programs_gone_until: u64,
    /// tinytask's database is on this machine: it can be read, and its writes are heard of.
    pub(crate) is_told: bool,
    /// Tells what happens, for people.
    pub(crate) is_loud: bool,
}

/// The daemon is dead.
#[derive(Debug)]
pub(crate) struct Killed;

const WALL: i64 = 1_763_838_000_000;

impl World {
    pub(crate) fn new(seed: u64, history: Vec<Event>, decide: Decide, plant: u8) -> Self {
        let mut chance = Chance::new(mix(seed, 1));
        let recipes = recipes(&mut chance);
        let policy = policy(&mut chance);
        let mut world = Self {
            mono: 1_000_000,
            wall_offset: WALL,
            booted: 0,
            boot_id: "boot 1".into(),
            boots: 1,
            agenda: BTreeMap::new(),
            order: 0,
            happened: 0,
            disk: Disk::with_recipes(recipes),
            processes: BTreeMap::new(),
            next_pid: 100,
            ticks: BTreeMap::new(),
            tiny: Tinytask {
                db: Db::default(),
                is_up: true,
                slowness: 5,
                loses: 0,
                backup: None,
                swapped: None,
            },
            policy,
            daemon: None,
            incarnations: 0,
            dies_in: None,
            trap: None,
            lost_until: 0,
            late_until: 0,
            is_frozen: false,
            is_healed: false,
            mood: chance.below(4),
            chance,
            history: Vec::new(),
            decide,
            plant,
            laws: Laws::default(),
            counts: Counts::default(),
            broken: None,
            programs_gone_until: 0,
            is_told: mix(seed, 3) & 1 == 0,
            is_loud: false,
        };
        let mut at = world.mono;
        for (index, event) in history.iter().enumerate() {
            at += u64::from(event.after);
            world.at(at, Item::Event(index));
        }
        world.history = history;
        world.after(0, Item::DaemonStarts);
        world
    }

    // ── time ───────────────────────────────────────────────────────────────────────────────────────────────────────────

    pub(crate) fn now(&self) -> Now {
        Now {
            wall: self.wall(),
            boot_id: self.boot_id.as_str().into(),
            boot: Millis(self.mono - self.booted),
        }
    }

    pub(crate) fn wall(&self) -> Timestamp {
        Timestamp(self.mono as i64 + self.wall_offset)
    }

    /// tinytask's and the file system's clock.
    pub(crate) fn seconds(&self) -> i64 {
        self.wall().seconds()
    }

    pub(crate) fn tick(&self) -> u64 {
        (self.mono - self.booted) / 10 + 1
    }

    pub(crate) fn at(&mut self, at: u64, item: Item) {
        self.order += 1;
        self.agenda.insert((at, self.order), item);
    }

    pub(crate) fn after(&mut self, span: u64, item: Item) {
        self.at(self.mono + span, item);
    }

    pub(crate) fn fail(&mut self, law: &'static str, how: String) {
        if self.broken.is_none() {
            self.broken = Some(Broken { law, how });
        }
    }

    /// For `replay`.
    pub(crate) fn tell(&self, what: impl FnOnce(&Self) -> String) {
        if self.is_loud {
            println!("{:>12} {}", self.mono, what(self));
        }
    }

    /// Everything up to `until`, or to the first broken law.
    pub(crate) fn run_until(&mut self, until: u64) {
        while self.broken.is_none() {
            let item = self.agenda.first_key_value().map(|((at, _), _)| *at);
            let daemon = self.daemon.as_ref().map(|daemon| daemon.due(self));
            let is_daemon = daemon.is_some_and(|due| item.is_none_or(|at| due < at));
            let Some(at) = (if is_daemon { daemon } else { item }) else {
                break;
            };
            if at > until {
                break;
            }
            self.mono = self.mono.max(at);
            if is_daemon {
                self.wake_daemon();
            } else if let Some((_, item)) = self.agenda.pop_first() {
                self.happen(item);
            }
        }
        self.mono = self.mono.max(until);
    }

    fn happen(&mut self, item: Item) {
        self.counts.steps += 1;
        self.happened += 1;
        if !matches!(item, Item::Ring(_)) {
            self.tell(|_| format!("{item:?}"));
        }
        match item {
            Item::Event(index) => {
                let event = self.history[index];
                self.tell(|_| format!("event: {}", crate::people::KINDS[event.what].0));
                self.event(event);
            }
            Item::Shim(shim) => self.shim_step(&shim),
            Item::Agent(agent) => self.agent_step(&agent),
            Item::Dies(process, outcome) => self.die(&process, outcome),
            Item::Ring(wake) => {
                let (is_told, now) = (self.is_told, self.mono);
                if let Some(daemon) = &mut self.daemon {
                    daemon.woken(wake, is_told, now);
                }
            }
            Item::DaemonStarts => self.start_daemon(),
            Item::Ending(incarnation, ending) => self.ending_step(incarnation, *ending),
            Item::Swept(incarnation, run) => {
                if let Some(daemon) = self
                    .daemon
                    .as_mut()
                    .filter(|d| d.incarnation == incarnation)
                {
                    daemon.is_done(run, true);
                }
            }
            Item::TinytaskUp => {
                self.tiny.is_up = true;
                self.tiny.slowness = 5;
                self.tiny.loses = 0;
            }
            Item::Mended(queue) => self.mend_recipe(&queue),
            Item::ProgramsBack => {
                if let Some(daemon) = &mut self.daemon {
                    daemon.has_missed_program = true;
                }
            }
            Item::PersonEnds(task) => self.person_ends(task),
            Item::FolderComes(task) => {
                let wall = self.wall();
                self.disk.touch_folder(task, wall);
                self.ring(Wake::Task(crate::tinytask::id(task)));
            }
        }
    }

    /// Between two lines of the daemon: a moment passes, in which the world goes on, and the daemon may be killed.
    pub(crate) fn point(&mut self, name: &'static str) -> Result<(), Killed> {
        if self.is_frozen {
            return Ok(());
        }
        let incarnation = self.daemon.as_ref().map(|daemon| daemon.incarnation);
        let span = self.chance.seldom(60, 3000, 2);
        self.pass(span);
        self.counts.point(name);
        match self.dies_in {
            Some(0) => {
                self.dies_in = None;
                self.counts.died_at(name);
                self.kill_daemon();
            }
            Some(n) => self.dies_in = Some(n - 1),
            None => {}
        }
        let is_same = self.daemon.is_some()
            && self.daemon.as_ref().map(|daemon| daemon.incarnation) == incarnation;
        if is_same && self.broken.is_none() {
            Ok(())
        } else {
            Err(Killed)
        }
    }

    /// The world goes on for so long while the daemon is busy.
    pub(crate) fn pass(&mut self, span: u64) {
        let until = self.mono + span;
        while let Some(((at, _), _)) = self.agenda.first_key_value()
            && *at <= until
            && self.broken.is_none()
        {
            self.mono = self.mono.max(*at);
            if let Some((_, item)) = self.agenda.pop_first() {
                self.happen(item);
            }
        }
        self.mono = self.mono.max(until);
    }

    /// Something changed that a watcher sees: the event may come at once, late, twice, or not at all.
    pub(crate) fn ring(&mut self, wake: Wake) {
        let is_lost = self.mono < self.lost_until;
        let Some(daemon) = &mut self.daemon else {
            return;
        };
        if is_lost {
            daemon.has_missed = true;
            self.counts.hit("event lost");
            return;
        }
        let mut delay = self.chance.below(3);
        if self.mono < self.late_until {
            delay += 500 + self.chance.below(20_000);
            self.counts.hit("event late");
        }
        self.after(delay, Item::Ring(wake));
        if self.chance.one_in(10) {
            self.counts.hit("event doubled");
            self.after(delay + 1, Item::Ring(wake));
        }
    }

    /// tinytask's database was written to. The event may come before the commit can be seen.
    pub(crate) fn ring_database(&mut self) {
        self.ring(Wake::Database);
    }

    // ── the machine ────────────────────────────────────────────────────────────────────────────────────────────────────

    pub(crate) fn reboot(&mut self, is_power_cut: bool) {
        self.kill_daemon();
        self.processes.clear();
        self.disk.let_go_of_locks();
        if is_power_cut {
            let mut chance = Chance::new(self.chance.next());
            let torn = self.disk.power_cut(&mut chance, self.mono);
            self.counts.add("record lost or torn", torn);
            self.laws.power_cut();
        }
        self.agenda.retain(|_, item| {
            !matches!(
                item,
                Item::Shim(_)
                    | Item::Agent(_)
                    | Item::Dies(..)
                    | Item::Ending(..)
                    | Item::Swept(..)
                    | Item::Ring(_)
            )
        });
        self.mono += 20_000;
        self.booted = self.mono - 5_000;
        self.boots += 1;
        self.boot_id = format!("boot {}", self.boots);
        self.ticks.clear();
    }

    pub(crate) fn kill_daemon(&mut self) {
        let Some(daemon) = self.daemon.take() else {
            return;
        };
        self.dies_in = None;
        let held = Holder::Daemon(daemon.incarnation);
        for run in self.disk.runs.values_mut() {
            if run.shim_lock.as_ref() == Some(&held) {
                run.shim_lock = None;
            }
        }
        let delay = self.chance.seldom(4, 200_000, 3_000);
        self.after(delay, Item::DaemonStarts);
    }

    /// Somebody else's process, which no run started.
    pub(crate) fn spawn_outsider(&mut self, comm: &str) -> ProcessId {
        self.spawn(Kind::Outsider, None, comm)
    }

    pub(crate) fn is_alive(&self, process: &ProcessId) -> bool {
        self.processes
            .get(&process.pid)
            .is_some_and(|found| found.id == *process)
    }

    /// Is something under way to the daemon?
    pub(crate) fn has_news(&self) -> bool {
        self.agenda
            .values()
            .any(|item| matches!(item, Item::Ring(_)))
    }

    pub(crate) fn agents_of(&self, subject: RunSubject) -> usize {
        let is_agent = |process: &&Process| {
            matches!(&process.kind, Kind::Agent(agent) if !agent.is_gated)
                && process
                    .of
                    .as_ref()
                    .is_some_and(|dir| dir.id.subject == subject)
        };
        self.processes.values().filter(is_agent).count()
    }
}

fn recipes(chance: &mut Chance) -> BTreeMap<QueueName, Result<Recipe, String>> {
    ["dispatcher", "architect", "coder", "tester"]
        .into_iter()
        .map(|name| {
            let queue: QueueName = name.parse().expect("a queue's name");
            // The dispatcher's runs over inbound/ have no task to be told.
            let knows_task = match name {
                "dispatcher" => false,
                "tester" => true,
                _ => chance.one_in(2),
            };
            (queue, Ok(recipe(name, knows_task, Timestamp(0))))
        })
        .collect()
}

pub(crate) fn recipe(name: &str, knows_task: bool, modified: Timestamp) -> Recipe {
    let task_id = Parameter {
        key: "task_id".into(),
        is_required: true,
        default: None,
    };
    Recipe {
        queue: name.parse().expect("a queue's name"),
        file: String::new(),
        title: String::new(),
        parameters: knows_task.then_some(task_id).into_iter().collect(),
        provider: (name == "tester").then(|| "other".into()),
        modified,
    }
}

fn policy(chance: &mut Chance) -> Policy {
    let queue = |name: &str, concurrency: u64| {
        let policy = QueuePolicy {
            concurrency: Some(concurrency as u32),
            ..QueuePolicy::default()
        };
        (name.parse().expect("a queue's name"), policy)
    };
    Policy {
        max_runs: 2 + chance.below(4) as u32,
        max_attempts: 2 + chance.below(2) as u32,
        max_runs_per_task: 5 + chance.below(10) as u32,
        time_limit: Millis::secs(60 + chance.below(300)),
        quiet_after: Millis::secs(600),
        provider: None,
        inbound_queue: "dispatcher".parse().expect("a queue's name"),
        create_folders: chance.one_in(3),
        queues: [
            queue("tester", 1 + chance.below(3)),
            queue("coder", 1 + chance.below(2)),
        ]
        .into(),
    }
}
