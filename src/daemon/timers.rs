//! When to look although nothing was heard.

use std::time::Duration;

use tokio::time::Instant;

use crate::core::Tinytask;
use crate::core::model::{Millis, Timestamp};
use crate::edge::alarm::Alarm;
use crate::edge::clock;
use crate::look::Scope;

/// tinytask is asked for everything this often, where its database is not watched.
const TINYTASK: Duration = Duration::from_secs(30);
/// And this often, where it is.
const TINYTASK_WATCHED: Duration = Duration::from_secs(300);
/// A rescan and a look at everything are taken at once, in one wake, where they are no further apart than this part of the time between
/// two rescans: 10 s by default.
const NEARLY: u32 = 6;
/// After the last write to tinytask's database: the event comes before the commit is visible (measured: 200 of 200 immediate
/// looks were stale, 2 of 200 after 1 ms), so it is looked at again after these.
const DATABASE_AGAIN: [Duration; 2] = [Duration::from_millis(30), Duration::from_millis(250)];
/// Where the database itself can be read, it is after these, which costs microseconds while nothing is new.
const DATABASE_READ: [Duration; 8] = [
    Duration::from_millis(1),
    Duration::from_millis(2),
    Duration::from_millis(4),
    Duration::from_millis(8),
    Duration::from_millis(16),
    Duration::from_millis(30),
    Duration::from_millis(90),
    Duration::from_millis(250),
];
/// So many of these are kept where it then cannot.
const LOOKS_INSTEAD: usize = 3;
/// Looks may take half of the time in the long run; in a burst, this much more.
const BURST: Duration = Duration::from_millis(250);
/// Longest rest between two looks.
const REST: Duration = Duration::from_secs(2);
/// First and longest wait after an action failed.
const RETRY: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(30));
/// First and longest wait until a tinytask that did not answer, or not as the one that is known, is asked again.
const ASK_AGAIN: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(30));
/// Retention is looked after this often.
const PRUNE: Duration = Duration::from_secs(3600);

/// The timers of one daemon.
pub(super) struct Timers {
    alarm: Alarm,
    rescan: Instant,
    /// See [`NEARLY`].
    nearly: Duration,
    tinytask: Instant,
    prune: Instant,
    database: Vec<Instant>,
    retry: Option<Instant>,
    failures: u32,
    silences: u32,
    /// Twice what looks took, less the time that has passed since.
    debt: Duration,
    last_look: Instant,
}

impl Timers {
    /// # Errors
    /// Where no descriptor is to be had.
    pub(super) fn new(rescan: Millis) -> std::io::Result<Self> {
        let now = Instant::now();
        Ok(Self {
            alarm: Alarm::new()?,
            rescan: now + every(rescan),
            nearly: every(rescan) / NEARLY,
            tinytask: now,
            prune: now,
            database: Vec::new(),
            retry: None,
            failures: 0,
            silences: 0,
            debt: Duration::ZERO,
            last_look: now,
        })
    }

    /// A look was taken: the slow one at everything counts from here. The rescan does not: looks that come without end would put it
    /// off for ever, and what no event tells of with it.
    pub(super) fn looked(&mut self, scope: &Scope, is_database_watched: bool) {
        let now = Instant::now();
        if *scope == Scope::Everything {
            self.tinytask = now
                + if is_database_watched {
                    TINYTASK_WATCHED
                } else {
                    TINYTASK
                };
        }
    }

    /// A rescan was made: the next one counts from here.
    pub(super) fn rescanned(&mut self, rescan: Millis) {
        self.rescan = Instant::now() + every(rescan);
        self.nearly = every(rescan) / NEARLY;
    }

    /// How long to rest after a look that took this long: looks keep a gap that grows with their cost once they come without end, so
    /// that a storm of events cannot keep tinytask busy.
    pub(super) fn rest_after(&mut self, took: Duration) -> Duration {
        let now = Instant::now();
        let passed = now.duration_since(self.last_look);
        self.last_look = now;
        self.debt = self.debt.saturating_sub(passed) + 2 * took;
        self.debt.saturating_sub(BURST).min(REST)
    }

    /// tinytask answered, or did not: then it is asked again, as nothing may tell that it is back.
    pub(super) fn answered(&mut self, tinytask: &Tinytask) {
        match tinytask {
            Tinytask::NotAsked => {}
            Tinytask::Fresh { .. } => self.silences = 0,
            Tinytask::Unreachable { .. } | Tinytask::Suspicious { .. } => {
                let wait = ASK_AGAIN
                    .0
                    .saturating_mul(1 << self.silences.min(10))
                    .min(ASK_AGAIN.1);
                self.silences += 1;
                self.tinytask = self.tinytask.min(Instant::now() + wait);
            }
        }
    }

    /// tinytask's database was written to; can it be read?
    pub(super) fn database(&mut self, can_be_read: bool) {
        let now = Instant::now();
        let after: &[Duration] = if can_be_read {
            &DATABASE_READ
        } else {
            &DATABASE_AGAIN
        };
        self.database = after.iter().map(|after| now + *after).collect();
    }

    /// It could not be read after all: what is left are looks, a few and not one after each of these short whiles.
    pub(super) fn cannot_read_database(&mut self) {
        let left = self.database.len().min(LOOKS_INSTEAD);
        self.database.drain(..self.database.len() - left);
    }

    /// Is it time to see what was written to tinytask's database? And is that for the last time?
    pub(super) fn take_database(&mut self) -> Option<bool> {
        let now = Instant::now();
        let due = self.database.partition_point(|at| *at <= now);
        if due == 0 {
            return None;
        }
        self.database.drain(..due);
        Some(self.database.is_empty())
    }

    /// An action failed: it is tried again by the next look, at the latest after a wait that doubles.
    pub(super) fn failed(&mut self) {
        let wait = RETRY
            .0
            .saturating_mul(1 << self.failures.min(10))
            .min(RETRY.1);
        self.failures += 1;
        self.retry = Some(Instant::now() + wait);
    }

    /// Nothing failed. Until `left_alone`, what failed before is only left alone for a while: then it is time for it.
    pub(super) fn succeeded(&mut self, left_alone: Option<Instant>) {
        self.failures = 0;
        self.retry = left_alone;
    }

    pub(super) fn is_time_to_retry(&self) -> bool {
        self.retry.is_some_and(|at| at <= Instant::now())
    }

    /// Returns at the earliest of all timers, or at `wake_at`.
    pub(super) async fn due(&self, wake_at: Option<Timestamp>) {
        let now = Instant::now();
        // Not before the millisecond is over, or the look would find the wait not quite ended and be taken twice.
        let decided = wake_at.map(|at| now + Duration::from_millis(at.since(clock::wall()).0 + 1));
        let timers = [self.rescan, self.tinytask].into_iter();
        let first = timers
            .chain(self.database.iter().copied())
            .chain(self.retry)
            .chain(decided)
            .min();
        let Some(at) = first else {
            return std::future::pending().await;
        };
        if self
            .alarm
            .after(at.saturating_duration_since(now))
            .await
            .is_err()
        {
            tokio::time::sleep_until(at).await;
        }
    }

    /// Is it time for a rescan, and for a look at everything?
    pub(super) fn slow_ones(&self, now: Instant) -> (bool, bool) {
        let is_time = self.rescan.min(self.tinytask) <= now;
        let is_due = |at: Instant| is_time && at <= now + self.nearly;
        (is_due(self.rescan), is_due(self.tinytask))
    }

    pub(super) fn take_prune(&mut self) -> bool {
        let now = Instant::now();
        let is_due = self.prune <= now;
        if is_due {
            self.prune = now + PRUNE;
        }
        is_due
    }
}

/// Between two rescans.
fn every(rescan: Millis) -> Duration {
    Duration::from_millis(rescan.0.max(1000))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_rescan_and_a_look_at_everything_are_taken_at_once_where_they_are_nearly_due() {
        let mut timers = Timers::new(Millis::secs(60)).expect("a descriptor");
        let begun = Instant::now();
        let mut due = |rescan, tinytask, now| {
            let at = |seconds| begun + Duration::from_secs(seconds);
            (timers.rescan, timers.tinytask) = (at(rescan), at(tinytask));
            timers.slow_ones(at(now))
        };
        assert_eq!(due(60, 65, 59), (false, false));
        assert_eq!(due(60, 300, 60), (true, false));
        assert_eq!(due(60, 65, 60), (true, true));
        assert_eq!(due(65, 60, 60), (true, true));
        assert_eq!(due(80, 60, 60), (false, true));
    }

    #[tokio::test]
    async fn a_database_that_cannot_be_read_leads_to_a_few_looks_and_not_to_one_after_another() {
        let mut timers = Timers::new(Millis::secs(60)).expect("a descriptor");
        timers.looked(&Scope::Everything, true);
        timers.database(true);
        let mut looks = 0;
        loop {
            timers.due(None).await;
            let is_last = timers.take_database().expect("nothing else is due");
            timers.cannot_read_database();
            looks += 1;
            if is_last {
                break;
            }
        }
        assert!((2..=LOOKS_INSTEAD + 1).contains(&looks), "{looks}");
        assert_eq!(timers.take_database(), None);
    }
}
