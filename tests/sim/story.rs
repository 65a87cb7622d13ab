//! A seed's story from its first event to the day after its last fault; how a failing one is cut down, written and read.

use std::panic::{AssertUnwindSafe, catch_unwind};

use crate::counts::Counts;
use crate::people::{Event, KINDS};
use crate::world::{Broken, Decide, World};

/// After the last fault, in virtual time: what is not settled by then never will be.
const PATIENCE: u64 = 3 * 3_600_000;

/// What is to be told: everything that makes one world.
#[derive(Clone)]
pub(crate) struct Story {
    pub(crate) seed: u64,
    pub(crate) history: Vec<Event>,
    pub(crate) decide: Decide,
    pub(crate) plant: u8,
}

impl Story {
    pub(crate) fn of(seed: u64) -> Self {
        Self {
            seed,
            history: crate::people::history(seed),
            decide: calypso_watch::core::decide::decide,
            plant: 0,
        }
    }

    pub(crate) fn tell(&self) -> (Option<Broken>, Counts) {
        self.told(false)
    }

    /// And prints what happens, where that is wanted.
    pub(crate) fn told(&self, is_loud: bool) -> (Option<Broken>, Counts) {
        let mut world = World::new(self.seed, self.history.clone(), self.decide, self.plant);
        world.is_loud = is_loud;
        let told = catch_unwind(AssertUnwindSafe(|| tell(&mut world)));
        if let Err(panic) = told {
            let how = panic.downcast_ref::<String>().cloned().unwrap_or_else(|| {
                panic
                    .downcast_ref::<&str>()
                    .map_or_else(String::new, |text| (*text).to_owned())
            });
            world.broken = Some(Broken {
                law: "nothing panics",
                how,
            });
        }
        (world.broken.take(), world.counts)
    }

    /// Takes lines out as long as the same law is broken without them (delta debugging, Zeller 2002).
    pub(crate) fn minimised(&self) -> Self {
        let Some(law) = self.tell().0.map(|broken| broken.law) else {
            return self.clone();
        };
        let mut best = self.clone();
        // Long stories that never settle are slow to tell; a person can go on from here.
        let mut tellings = 150;
        let mut size = best.history.len().div_ceil(2).max(1);
        loop {
            let mut at = 0;
            while at < best.history.len() {
                tellings -= 1;
                if tellings == 0 {
                    return best;
                }
                let candidate = best.without(at, size);
                if candidate.tell().0.is_some_and(|broken| broken.law == law) {
                    best = candidate;
                } else {
                    at += size;
                }
            }
            if size == 1 {
                return best;
            }
            size = size.div_ceil(2);
        }
    }

    /// The others keep their times.
    fn without(&self, at: usize, n: usize) -> Self {
        let mut rest = self.clone();
        let end = (at + n).min(rest.history.len());
        let gone: u32 = rest.history.drain(at..end).map(|event| event.after).sum();
        if let Some(next) = rest.history.get_mut(at) {
            next.after += gone;
        }
        rest
    }

    /// One line: the seed, then `after which what` for each event.
    pub(crate) fn line(&self) -> String {
        let events = self
            .history
            .iter()
            .map(|event| format!("; {} {} {}", event.after, event.which, KINDS[event.what].0));
        format!("{}{}", self.seed, events.collect::<String>())
    }

    /// Reads [`Self::line`] back; a seed alone stands for its whole history.
    pub(crate) fn parse(line: &str) -> Option<Self> {
        let mut parts = line.split("; ");
        let mut story = Self::of(parts.next()?.trim().parse().ok()?);
        let events: Vec<&str> = parts.collect();
        if events.is_empty() {
            return Some(story);
        }
        story.history = events
            .into_iter()
            .map(|event| {
                let mut words = event.splitn(3, ' ');
                let (after, which) = (words.next()?.parse().ok()?, words.next()?.parse().ok()?);
                let name = words.next()?.trim();
                let what = KINDS.iter().position(|(kind, _)| *kind == name)?;
                Some(Event { after, what, which })
            })
            .collect::<Option<_>>()?;
        Some(story)
    }
}

fn tell(world: &mut World) {
    let last: u64 = world
        .history
        .iter()
        .map(|event| u64::from(event.after))
        .sum();
    world.run_until(world.mono + last + 60_000);
    if world.broken.is_some() {
        return;
    }
    world.heal();
    let end = world.mono + PATIENCE;
    let mut why = String::new();
    while world.mono < end {
        world.run_until(world.mono + 120_000);
        if world.broken.is_some() {
            return;
        }
        if world.is_doubting() {
            // A person reads why everything waits, and says what the hold tells to say.
            world.control(|controls| controls.trust_tinytask = true);
        }
        match world.unsettled() {
            Some(reason) => why = reason,
            None => {
                world.counts.hit("settled");
                return;
            }
        }
    }
    world.fail("work converges once faults stop", why);
}
