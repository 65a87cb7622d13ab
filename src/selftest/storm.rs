//! The storm: `kill -9` of whatever is at work, at random instants, while tasks flow; then calm, and the reckoning.
//!
//! Several base paths at once, each in rounds: a fresh base path, some hundred deaths, calm, judgement, removal. A round that is
//! found guilty keeps its folder.
//!
//! **A death** counts when a process was at its job and died by our hand: the daemon holds its lock; shim and agent stand in the
//! record of a run that is not over; tinytask holds its address. Each is opened by pidfd before its identity is compared, seen alive
//! through it, sent SIGKILL through it, and seen dead through it. An agent that had told its own end by then is taken off again.
//! What is only stopped for a while (SIGSTOP) is counted apart.
//!
//! **Lost**: a task that is not complete, or a request not taken, within a generous limit after the faults have stopped; a run that an agent
//! told of and no record shows. Two waits are meant by the program, and a storm lifts them by the means a person has, a `retry`:
//! the back-off after an attempt that failed, and the hold after a few runs lost within an hour.
//!
//! **Doubled**: two live agents on one task; the kernel tells (see `agent`). A task that a stranger works on by hand (its pid file names
//! a live process that is not ours) must not be started at all while that lives: a start then is a double too.
//!
//! **Wrong kill**: a bystander that died or was sent any signal; an agent that began, did not tell its end, and was not killed
//! by us, for nothing else in a storm may end an agent: no limit is reached, and nobody asks for a stop.
//!
//! **Leftovers**: processes that carry the base path's mark, entries in `live/`, pid files, half-written files, after everything is over.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use camino::Utf8PathBuf;

use super::dice::Dice;
use super::stamps::Stamps;
use super::world::{BUILD, Error, Nursery, POOL, STAMPS, Stranger, World};
use crate::core::model::ProcessId;
use crate::edge::clock;
use crate::edge::control::{self, Control};

mod judging;
mod killing;

/// Tasks that are open at once in a base path.
const OPEN: usize = 14;
/// Requests that lie in inbound/ at once.
const REQUESTS: usize = 2;
/// Longest step of an agent, of which it makes three, in milliseconds.
const PACE: u64 = 12;
/// Between two looks at the tasks.
const LOOK: u64 = 150_000;
/// A task that was not heard of for so long waits for something that `retry` lifts.
const WAITS: u64 = 400_000;

/// How hard, for how long.
#[derive(Debug, Clone)]
pub struct Options {
    /// This program, for the daemons.
    pub exe: Utf8PathBuf,
    /// Where base paths are made.
    pub folder: Utf8PathBuf,
    pub seed: u64,
    /// Base paths at once.
    pub bases: u64,
    /// Ends after so many deaths.
    pub deaths: Option<u64>,
    /// Ends at this time, in microseconds since boot.
    pub until: Option<u64>,
    /// Deaths in one round of one base path.
    pub round: u64,
    /// When it is stopped: are the rounds that play brought to an end and judged, which takes its time, or dropped?
    pub judge_when_stopped: bool,
}

/// What a storm found.
#[derive(Debug, Clone, Default)]
pub struct Tally {
    /// By victim.
    pub deaths: BTreeMap<&'static str, u64>,
    /// Processes that were stopped for a while and went on.
    pub pauses: u64,
    /// Tasks created, requests dropped.
    pub tasks: u64,
    /// Agents that began.
    pub runs: u64,
    pub lost: u64,
    pub doubled: u64,
    pub wrong_kills: u64,
    pub leftovers: u64,
    /// Daemons that ended though nobody killed them.
    pub exits: u64,
    /// What was found, in words.
    pub findings: Vec<String>,
    /// Base paths kept for whoever wants to know more.
    pub kept: Vec<Utf8PathBuf>,
}

impl Tally {
    /// Over all victims.
    pub fn all_deaths(&self) -> u64 {
        self.deaths.values().sum()
    }
    /// Nothing that must not be.
    pub fn is_clean(&self) -> bool {
        self.findings.is_empty()
            && [
                self.lost,
                self.doubled,
                self.wrong_kills,
                self.leftovers,
                self.exits,
            ] == [0; 5]
    }
    /// Adds another's.
    pub fn add(&mut self, other: Self) {
        for (victim, n) in other.deaths {
            *self.deaths.entry(victim).or_default() += n;
        }
        self.pauses += other.pauses;
        self.tasks += other.tasks;
        self.runs += other.runs;
        self.lost += other.lost;
        self.doubled += other.doubled;
        self.wrong_kills += other.wrong_kills;
        self.leftovers += other.leftovers;
        self.exits += other.exits;
        self.findings.extend(other.findings);
        self.kept.extend(other.kept);
    }
}

/// Runs the storm until its end, or until `stop`; `progress` hears the deaths so far.
pub fn storm(
    options: &Options,
    stop: &AtomicBool,
    progress: &(dyn Fn(u64) + Sync),
) -> Result<Tally, Error> {
    let nursery = Nursery::default();
    let shared = Shared {
        options,
        stop,
        nursery: &nursery,
        deaths: AtomicU64::new(0),
        progress,
        is_over: AtomicBool::new(false),
    };
    let total = Mutex::new(Tally::default());
    let failed = Mutex::new(None);
    std::thread::scope(|scope| {
        let bases: Vec<_> = (0..options.bases)
            .map(|base| {
                let (shared, total, failed) = (&shared, &total, &failed);
                scope.spawn(move || {
                    for number in 0.. {
                        if shared.is_enough() {
                            break;
                        }
                        match Round::play(shared, base, number) {
                            Ok(tally) => total
                                .lock()
                                .unwrap_or_else(PoisonError::into_inner)
                                .add(tally),
                            Err(error) => {
                                // The others need not go on: this is the machine's fault, or ours.
                                shared.is_over.store(true, Ordering::Relaxed);
                                *failed.lock().unwrap_or_else(PoisonError::into_inner) =
                                    Some(error);
                                break;
                            }
                        }
                    }
                })
            })
            .collect();
        // Orphans whose daemon was killed fall to this program.
        while !bases.iter().all(std::thread::ScopedJoinHandle::is_finished) {
            nursery.reap();
            std::thread::sleep(Duration::from_millis(20));
        }
    });
    nursery.reap();
    match failed.into_inner().unwrap_or_else(PoisonError::into_inner) {
        Some(error) => Err(error),
        None => Ok(total.into_inner().unwrap_or_else(PoisonError::into_inner)),
    }
}

/// What the base paths of one storm share.
struct Shared<'a> {
    options: &'a Options,
    stop: &'a AtomicBool,
    nursery: &'a Nursery,
    deaths: AtomicU64,
    progress: &'a (dyn Fn(u64) + Sync),
    is_over: AtomicBool,
}

impl Shared<'_> {
    fn is_enough(&self) -> bool {
        let deaths = self.deaths.load(Ordering::Relaxed);
        self.stop.load(Ordering::Relaxed)
            || self.is_over.load(Ordering::Relaxed)
            || self.options.deaths.is_some_and(|most| deaths >= most)
            || self
                .options
                .until
                .is_some_and(|until| clock::boot_us() >= until)
    }
}

/// One round of one base path.
struct Round<'a> {
    shared: &'a Shared<'a>,
    world: World<'a>,
    dice: Dice,
    tally: Tally,
    stamps: Stamps,
    /// Everything we sent SIGKILL.
    killed: HashSet<ProcessId>,
    /// Agents among them that were seen at their job.
    dead_agents: Vec<ProcessId>,
    /// Tasks not known to be complete, and since when.
    open: BTreeMap<i64, u64>,
    requests: u64,
    /// When `retry` was last said of a subject.
    retried: BTreeMap<String, u64>,
    looked: u64,
    strangers: Vec<Stranger>,
    /// The task that a stranger works on by hand.
    taken: i64,
}

impl<'a> Round<'a> {
    fn play(shared: &'a Shared<'a>, base: u64, number: u64) -> Result<Tally, Error> {
        let seed = shared.options.seed ^ (base << 48) ^ (number << 24);
        let mut dice = Dice::new(seed);
        let path = shared.options.folder.join(format!("base-{base}-{number}"));
        let world = World::start(&path, &shared.options.exe, shared.nursery, PACE, &mut dice)?;
        let mut round = Self {
            shared,
            world,
            dice,
            tally: Tally::default(),
            stamps: Stamps::default(),
            killed: HashSet::new(),
            dead_agents: Vec::new(),
            open: BTreeMap::new(),
            requests: 0,
            retried: BTreeMap::new(),
            looked: 0,
            strangers: Vec::new(),
            taken: 0,
        };
        round.set_strangers()?;
        while round.tally.all_deaths() < shared.options.round && !shared.is_enough() {
            round.keep_busy();
            round.strike()?;
            round.revive()?;
        }
        if shared.stop.load(Ordering::Relaxed) && !shared.options.judge_when_stopped {
            return Ok(Tally::default());
        }
        let is_calm = round.calm()?;
        round.judge(is_calm);
        let Self {
            world, mut tally, ..
        } = round;
        drop(world);
        if tally.is_clean() {
            std::fs::remove_dir_all(&path).ok();
        } else {
            tally.kept.push(path);
        }
        Ok(tally)
    }

    /// Two processes that must not be touched: one that merely looks like an agent, one that somebody started by hand for a task, with a
    /// pid file that names it.
    fn set_strangers(&mut self) -> Result<(), Error> {
        self.strangers.push(self.world.stranger(None)?);
        // Its pid file comes first, then the task, or ours could be faster, rightly.
        let number = 1;
        self.strangers.push(self.world.stranger(Some(number))?);
        let task = self
            .world
            .create_task(BUILD)
            .map_err(Error::new("create a task"))?;
        if task != number {
            return Err(Error::new("create the first task")(std::io::Error::other(
                "it is not number 1",
            )));
        }
        self.taken = task;
        self.open.insert(task, clock::boot_us());
        self.tally.tasks += 1;
        Ok(())
    }

    /// New tasks for those that are complete, new requests for those that were taken, and a `retry` for what waits.
    fn keep_busy(&mut self) {
        if clock::boot_us() < self.looked + LOOK {
            return;
        }
        self.look();
        // A dead tinytask is asked again at the next look.
        while self.open.len() < OPEN {
            let queue = if self.dice.one_in(4) { POOL } else { BUILD };
            let Ok(id) = self.world.create_task(queue) else {
                break;
            };
            self.open.insert(id, clock::boot_us());
            self.tally.tasks += 1;
        }
        if self.world.requests().len() < REQUESTS {
            let name = format!("request-{}.md", self.requests);
            if self.world.drop_request(&name).is_ok() {
                self.requests += 1;
                self.tally.tasks += 1;
            }
        }
    }

    /// Brings what is known of tasks up to date, and says `retry` for what waits.
    fn look(&mut self) {
        self.looked = clock::boot_us();
        self.stamps
            .read(&self.world.layout.base().join(STAMPS))
            .ok();
        let Ok(open) = self.world.open_tasks() else {
            return;
        };
        // A create whose answer was lost with the server has made a task all the same.
        for (id, _) in &open {
            if !self.open.contains_key(id) {
                self.open.insert(*id, self.looked);
                self.tally.tasks += 1;
            }
        }
        let still: BTreeSet<i64> = open.iter().map(|(id, _)| *id).collect();
        self.open.retain(|id, _| still.contains(id));
        for (id, since) in self.open.clone() {
            if id != self.taken || self.strangers.is_empty() {
                self.retry_if_waiting(&id.to_string(), since);
            }
        }
        if !self.world.requests().is_empty() {
            self.retry_if_waiting("inbound", 0);
        }
    }

    fn retry_if_waiting(&mut self, subject: &str, since: u64) {
        let heard = self.stamps.last.get(subject).copied().unwrap_or(since);
        let said = self.retried.get(subject).copied().unwrap_or(0);
        if self.looked < heard.max(said) + WAITS {
            return;
        }
        if let Ok(of) = subject.parse() {
            control::create(&self.world.layout, &Control::Retry(of)).ok();
        }
        self.retried.insert(subject.to_owned(), self.looked);
    }
}
