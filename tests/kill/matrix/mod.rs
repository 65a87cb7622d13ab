//! The kill matrix: every kill point, every victim, in small worlds that are checked after each case.
//!
//! For other test programs too: [`run`] takes a [`Plan`] and gives back a [`Table`].

use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::sync::Mutex;

use calypso_watch::edge::kill_point;

mod driver;
mod plan;
mod scenario;
mod seed;
mod world;

use plan::Case;
use seed::Dice;
use world::World;

/// A case whose point was not come to is tried this often.
const TRIES: u32 = 3;
/// Cases of one world, before it makes room for a fresh one.
const MOST_CASES: u32 = 40;

/// What is to be gone through.
#[derive(Debug, Clone)]
pub(crate) struct Plan {
    /// Chooses the order, and victims and modes of what is beyond the points themselves.
    pub(crate) seed: u64,
    /// Every point once, and the interleavings known to be hard.
    pub(crate) every_point: bool,
    /// Cases at random, until so many deaths in all were died.
    pub(crate) deaths: u64,
    /// Worlds side by side.
    pub(crate) jobs: usize,
    /// Planted bugs, with commas between them.
    pub(crate) bugs: String,
    /// Only cases whose name contains this; an exact name of a case makes just that one.
    pub(crate) only: Option<String>,
}

/// What came of it.
#[derive(Debug, Default, Clone)]
pub(crate) struct Table {
    pub(crate) cases: u64,
    pub(crate) deaths: u64,
    pub(crate) stops: u64,
    pub(crate) tasks: u64,
    /// Tasks or requests that never came to their end.
    pub(crate) lost: u64,
    /// Two agents on one task at a time, an agent without its record, a write made twice or to what had moved on.
    pub(crate) doubled: u64,
    /// Signals to a process that is nobody's business.
    pub(crate) wrong_kills: u64,
    /// Processes and half-written files that nobody clears away.
    pub(crate) leftovers: u64,
    /// How often each point was come to, and how often somebody died or stood still there.
    pub(crate) hits: BTreeMap<String, (u64, u64)>,
    /// What was wrong, with the command that repeats it.
    pub(crate) wrongs: Vec<String>,
}

impl Table {
    /// Points that were never come to, or where never anything happened.
    pub(crate) fn never_hit(&self) -> Vec<&'static str> {
        let is_hit = |point: &str| {
            self.hits
                .get(point)
                .is_some_and(|(hits, fired)| *hits > 0 && *fired > 0)
        };
        kill_point::ALL
            .iter()
            .copied()
            .filter(|point| !is_hit(point))
            .collect()
    }

    /// Nothing was lost, doubled, wrongly signalled or left.
    pub(crate) fn is_clean(&self) -> bool {
        self.lost + self.doubled + self.wrong_kills + self.leftovers == 0
    }

    fn add(&mut self, case: &Case, result: &driver::Result) {
        self.cases += 1;
        self.deaths += u64::from(result.deaths);
        self.stops += u64::from(result.stops);
        self.tasks += u64::from(result.tasks);
        self.lost += result.lost.len() as u64;
        self.doubled += result.doubled.len() as u64;
        self.wrong_kills += result.wrong_kills.len() as u64;
        self.leftovers += result.leftovers.len() as u64;
        for point in &result.fired {
            self.hits.entry(point.clone()).or_default().1 += 1;
        }
        for wrong in result.wrongs() {
            self.wrongs.push(format!(
                "{wrong}\n    again: KILL_ONLY='{}' cargo test --features kill-points --test kill every_point",
                case.name()
            ));
        }
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{:<28} {:>7} {:>7}", "point", "hits", "deaths")?;
        for point in kill_point::ALL {
            let (hits, fired) = self.hits.get(*point).copied().unwrap_or_default();
            writeln!(f, "{point:<28} {hits:>7} {fired:>7}")?;
        }
        writeln!(
            f,
            "{} cases, {} deaths, {} stops, {} tasks: {} lost, {} doubled, {} wrong kills, {} leftovers",
            self.cases,
            self.deaths,
            self.stops,
            self.tasks,
            self.lost,
            self.doubled,
            self.wrong_kills,
            self.leftovers
        )?;
        for wrong in &self.wrongs {
            writeln!(f, "  {wrong}")?;
        }
        Ok(())
    }
}

/// Goes through the plan. Stories of cases that went wrong are told on standard error as they happen.
pub(crate) fn run(plan: &Plan) -> Table {
    let mut dice = Dice::new(plan.seed);
    let mut cases = Vec::new();
    if let Some(case) = plan.only.as_deref().and_then(Case::parse) {
        cases.push(case);
    } else if plan.every_point {
        cases = plan::once();
        if let Some(only) = &plan.only {
            cases.retain(|case| case.name().contains(only));
        }
    }
    dice.shuffle(&mut cases);
    // Those that stand still for long come first, so that nobody waits for one alone at the end.
    cases.sort_by_key(|case| match case.arm.victim {
        plan::Victim::Nobody(span) => std::cmp::Reverse(span),
        _ => std::cmp::Reverse(0),
    });
    let shared = Mutex::new(Shared {
        cases: cases.into(),
        dice,
        table: Table::default(),
    });
    std::thread::scope(|scope| {
        for _ in 0..plan.jobs.max(1) {
            scope.spawn(|| work(plan, &shared));
        }
    });
    shared.into_inner().expect("no worker panicked").table
}

struct Shared {
    cases: VecDeque<Case>,
    dice: Dice,
    table: Table,
}

impl Shared {
    fn next(&mut self, plan: &Plan) -> Option<Case> {
        if let Some(case) = self.cases.pop_front() {
            return Some(case);
        }
        (self.table.deaths < plan.deaths).then(|| plan::random(&mut self.dice))
    }
}

/// One worker: a world for each number of attempts, used again while nothing went wrong in it.
#[expect(
    clippy::print_stderr,
    reason = "the harness shows it where the test failed"
)]
fn work(plan: &Plan, shared: &Mutex<Shared>) {
    let mut worlds: BTreeMap<u32, (World, u32)> = BTreeMap::new();
    loop {
        let next = shared.lock().expect("no worker panicked").next(plan);
        let Some(case) = next else { return };
        for left in (0..TRIES).rev() {
            let attempts = case.scenario.attempts();
            let (world, used) = worlds
                .entry(attempts)
                .or_insert_with(|| (World::new(attempts, &plan.bugs), 0));
            *used += 1;
            let is_worn = *used >= MOST_CASES;
            let result = driver::go(world, &case);
            let hits = world.take_hits();
            let is_again = result.missed && result.is_clean() && plan.every_point && left > 0;
            if !result.is_clean() {
                let wrongs: Vec<_> = result.wrongs().cloned().collect();
                eprintln!(
                    "{}\n  {}\n{}",
                    case.name(),
                    wrongs.join("\n  "),
                    world.story()
                );
            }
            let is_world_good = result.is_clean() && !is_worn;
            {
                let mut shared = shared.lock().expect("no worker panicked");
                for point in hits {
                    shared.table.hits.entry(point).or_default().0 += 1;
                }
                shared.table.add(&case, &result);
            }
            if !is_world_good {
                worlds.remove(&attempts);
            }
            if !is_again {
                break;
            }
        }
    }
}
