//! Is it always right? The real core in a seeded world with virtual time, where everything that can go wrong does, and laws that
//! are checked after each step.
//!
//! | file | what it is |
//! |---|---|
//! | `sim/people.rs` | what comes from outside: edits and faults; a history is a list of these |
//! | `sim/world.rs`, `disk.rs`, `processes.rs`, `tinytask.rs`, `agent.rs` | the world they meet |
//! | `sim/look.rs`, `perform.rs`, `daemon.rs` | the shells, as `look`, `daemon` and `shim` have them, with a point to die at between any two effects |
//! | `sim/laws.rs` | what must always be true, told from the world and not from what was decided |
//! | `sim/planted.rs` | bugs, one for each law |
//! | `sim/story.rs` | a seed's story; how a failing one is cut down, and told again |
//!
//! One story again: `CALYPSO_SIM_SEED=7 cargo test --test sim replay -- --nocapture`; a minimised one is a line of `sim/kept.txt`, and
//! all of them are told at each run. More: `CALYPSO_SIM_STEPS=50000000 CALYPSO_SIM_FROM=1000000 cargo test --test sim million`.

#![expect(
    clippy::print_stdout,
    clippy::disallowed_methods,
    reason = "a test tells its figures, takes its seed from the environment, and times itself"
)]

#[path = "sim/agent.rs"]
mod agent;
#[path = "sim/chance.rs"]
mod chance;
#[path = "sim/counts.rs"]
mod counts;
#[path = "sim/daemon.rs"]
mod daemon;
#[path = "sim/disk.rs"]
mod disk;
#[path = "sim/laws.rs"]
mod laws;
#[path = "sim/look.rs"]
mod look;
#[path = "sim/people.rs"]
mod people;
#[path = "sim/perform.rs"]
mod perform;
#[path = "sim/planted.rs"]
mod planted;
#[path = "sim/processes.rs"]
mod processes;
#[path = "sim/story.rs"]
mod story;
#[path = "sim/tinytask.rs"]
mod tinytask;
#[path = "sim/world.rs"]
mod world;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};

use counts::Counts;
use story::Story;

/// In each test run: so many that every kind of fault has come. A hunt asks for more with `CALYPSO_SIM_STEPS`.
const STEPS: u64 = 1_000_000;

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

/// What a person needs to see of a broken law: what, the shortest history that does it, and how to tell it again.
fn report(story: &Story) -> String {
    let short = story.minimised();
    let Some(broken) = short.tell().0 else {
        return format!("seed {}: broken once, and not again", story.seed);
    };
    format!(
        "seed {}: `{}` is broken: {}\n{} of {} events are enough; a line for tests/sim/kept.txt:\n{}\n\
         again: CALYPSO_SIM_SEED={} cargo test --test sim replay -- --nocapture",
        story.seed,
        broken.law,
        broken.how,
        short.history.len(),
        story.history.len(),
        short.line(),
        story.seed,
    )
}

#[test]
fn a_million_steps_break_no_law() {
    let (asked, from) = (number("CALYPSO_SIM_STEPS"), number("CALYPSO_SIM_FROM"));
    let steps = asked.unwrap_or(STEPS);
    let next = AtomicU64::new(from.unwrap_or(1));
    let done = AtomicU64::new(0);
    let began = std::time::Instant::now();
    let hunt = || {
        let (mut counts, mut failed) = (Counts::default(), BTreeMap::new());
        while done.load(Ordering::Relaxed) < steps {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            let story = Story::of(seed);
            let (broken, of_story) = story.tell();
            done.fetch_add(of_story.steps, Ordering::Relaxed);
            counts.merge(&of_story);
            counts.hit("story");
            if let Some(broken) = broken {
                counts.hit("story that broke a law");
                println!("seed {}: `{}`: {}", story.seed, broken.law, broken.how);
                failed.entry(broken.law).or_insert(story);
            }
        }
        (counts, failed)
    };
    let both = std::thread::scope(|threads| {
        let hunters = [threads.spawn(hunt), threads.spawn(hunt)];
        hunters.map(|hunter| hunter.join().expect("stories catch their panics"))
    });
    let mut counts = Counts::default();
    for (some, _) in &both {
        counts.merge(some);
    }
    let took = began.elapsed();
    println!("{}took {took:?}", counts.table());
    let failed: BTreeMap<_, _> = both.iter().flat_map(|(_, failed)| failed).collect();
    let failed: Vec<String> = failed.into_values().map(report).collect();
    assert!(failed.is_empty(), "{}", failed.join("\n\n"));
    assert!(counts.steps >= steps);
    if steps >= STEPS {
        let missing = missing(&counts);
        assert!(missing.is_empty(), "never happened: {missing:?}");
    }
}

/// Kinds of fault that never came, and lines of the daemon's work at which it never died.
fn missing(counts: &Counts) -> Vec<String> {
    let kinds = people::KINDS.iter().map(|(name, _)| *name);
    let wanted = kinds
        .chain(agent::all_habits())
        .chain(processes::SHIM_DEATHS)
        .chain(OTHERS);
    let never = wanted
        .filter(|name| counts.count(name) == 0)
        .map(str::to_owned);
    // At a point that is come to a few hundred times, chance may well kill nobody.
    let undied = counts
        .points()
        .filter(|(_, passed, died)| *passed >= OFTEN && *died == 0);
    never
        .chain(undied.map(|(name, ..)| format!("a death {name}")))
        .collect()
}

/// See [`missing`].
const OFTEN: u64 = 1000;

/// What follows from the faults, and has to have been met.
const OTHERS: [&str; 30] = [
    "event lost",
    "event late",
    "event doubled",
    "record lost or torn",
    "write on a full disk",
    "answer of tinytask lost",
    "answer of tinytask from before an event",
    "tinytask unreachable",
    "tinytask suspicious",
    "number found to be another task's",
    "witness gone before a launch",
    "task changed before its launch",
    "process number used again",
    "process numbers went round",
    "pid file was there",
    "spec too old",
    "shim frozen",
    "stuck shim ended",
    "time limit",
    "stopped by its shim",
    "power cut",
    "clean reboot",
    "action clear litter",
    "action clear stranger",
    "action stop",
    "action sweep",
    "action put back",
    "action finish verdict",
    "what follows, decided on the same look",
    "settled",
];

#[test]
fn stories_that_once_broke_a_law_break_none() {
    for line in include_str!("sim/kept.txt").lines() {
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let story = Story::parse(line).expect("as `report` prints it");
        let broken = story.tell().0;
        assert!(broken.is_none(), "{line}\n{broken:?}");
    }
}

/// One seed's story, or the one in `CALYPSO_SIM_STORY` as `report` prints it, told aloud.
#[test]
fn replay() {
    let line = std::env::var("CALYPSO_SIM_STORY").or_else(|_| std::env::var("CALYPSO_SIM_SEED"));
    let Ok(line) = line else { return };
    let story = Story::parse(&line).expect("a seed, or a line of kept.txt");
    let (broken, counts) = story.told(true);
    println!("{}{broken:?}", counts.table());
    assert!(broken.is_none(), "{}", report(&story));
}

#[test]
fn each_law_is_broken_by_a_bug_that_was_planted_for_it() {
    for (law, decide, plant) in planted::PLANTED {
        let found = (1..400).find(|seed| {
            let story = Story {
                decide,
                plant,
                ..Story::of(*seed)
            };
            story.tell().0.is_some_and(|broken| broken.law == law)
        });
        assert!(found.is_some(), "no seed broke `{law}`");
        println!("`{law}`: seed {found:?}");
    }
}
