//! How fast a quiet base path is: from a drop, and from the end of one agent, to the next agent's first instruction.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use camino::Utf8Path;

use super::dice::Dice;
use super::stamps::Stamps;
use super::world::{BUILD, DISPATCHER, Error, Nursery, REVIEW, STAMPS, World, within};
use crate::edge::clock;

/// Each measured so often, or for so long where that comes first.
const TIMES: u64 = 30;
const TIME: u64 = 10_000_000;
const LIMIT: Duration = Duration::from_secs(60);

/// Some measured times.
#[derive(Debug, Clone, Copy, Default)]
pub struct Spread {
    /// Microseconds: half took no longer.
    pub p50: u64,
    /// 99 of 100 took no longer.
    pub p99: u64,
    pub n: usize,
}

impl Spread {
    /// Of these, in microseconds.
    pub(super) fn of(mut took: Vec<u64>) -> Self {
        took.sort_unstable();
        let n = took.len();
        // Nearest rank.
        let at = |percent: usize| {
            took.get((n * percent).div_ceil(100).saturating_sub(1))
                .copied()
                .unwrap_or(0)
        };
        Self {
            p50: at(50),
            p99: at(99),
            n,
        }
    }
}

/// `6.1`
pub fn ms(us: u64) -> String {
    format!("{:.1}", us as f64 / 1000.0)
}

/// What was measured.
pub struct Latency {
    pub drop_to_agent: Spread,
    pub hand_off_to_agent: Spread,
}

/// Measures in a base path of its own, `base`, which is made.
pub fn measure(
    base: &Utf8Path,
    exe: &Utf8Path,
    dice: &mut Dice,
    stop: &AtomicBool,
) -> Result<Latency, Error> {
    let nursery = Nursery::default();
    let mut world = World::start(base, exe, &nursery, 0, dice)?;
    let late =
        |what: &str| Error::new(format!("measure {what}"))(std::io::ErrorKind::TimedOut.into());
    let mut stamps = Stamps::default();
    let path = base.join(STAMPS);
    let (mut drops, mut hand_offs) = (Vec::new(), Vec::new());
    let end = clock::boot_us() + TIME;
    for n in 0..TIMES {
        if stop.load(Ordering::Relaxed) || clock::boot_us() > end {
            break;
        }
        nursery.reap();
        let at = world
            .drop_request(&format!("request-{n}.md"))
            .map_err(Error::new("drop a request"))?;
        let mut began = None;
        let is_over = within(LIMIT, || {
            stamps.read(&path).ok();
            let mut lives = stamps
                .lives
                .values()
                .filter(|life| life.queue == DISPATCHER && life.began >= at);
            began = lives
                .find(|life| life.ended.is_some())
                .map(|life| life.began);
            began.is_some() && world.live().is_empty()
        });
        drops.push(began.filter(|_| is_over).ok_or_else(|| late("a drop"))? - at);

        let task = world
            .create_task(BUILD)
            .map_err(Error::new("create a task"))?
            .to_string();
        let is_over = within(LIMIT, || {
            stamps.read(&path).ok();
            let mut lives = stamps
                .lives
                .values()
                .filter(|life| life.subject == task && life.queue == REVIEW);
            lives.any(|life| life.ended.is_some()) && world.live().is_empty()
        });
        let of = |queue: &str| {
            let mut lives = stamps.lives.values();
            lives
                .find(|life| life.subject == task && life.queue == queue)
                .cloned()
        };
        let (first, second) = (of(BUILD), of(REVIEW));
        let ended = first.and_then(|life| life.ended);
        match (is_over, ended, second) {
            (true, Some(ended), Some(second)) => hand_offs.push(second.began.saturating_sub(ended)),
            _ => return Err(late("a hand-off")),
        }
    }
    world.quit();
    Ok(Latency {
        drop_to_agent: Spread::of(drops),
        hand_off_to_agent: Spread::of(hand_offs),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_measured_values() {
        let spread = Spread::of((1..=200).rev().collect());
        assert_eq!((spread.p50, spread.p99, spread.n), (100, 198, 200));
        let one = Spread::of(vec![7]);
        assert_eq!((one.p50, one.p99), (7, 7));
        assert_eq!(Spread::of(vec![]).n, 0);
    }
}
