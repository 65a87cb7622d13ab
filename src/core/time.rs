//! Moments and spans: two clocks, as the wall clock may be set and the other one ends with the machine.

use serde::{Deserialize, Serialize};

use super::text::Text;

/// A moment: milliseconds since 1970-01-01 UTC, from the wall clock. May jump, when somebody sets the clock.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize,
)]
#[serde(transparent)]
pub struct Timestamp(pub i64);

impl Timestamp {
    /// `self - earlier`, never negative.
    pub fn since(self, earlier: Self) -> Millis {
        Millis(self.0.saturating_sub(earlier.0).max(0) as u64)
    }
    /// `self + span`.
    pub fn plus(self, span: Millis) -> Self {
        Self(self.0.saturating_add(span.0.min(i64::MAX as u64) as i64))
    }
    /// Whole seconds, as tinytask keeps its times.
    pub fn seconds(self) -> i64 {
        self.0.div_euclid(1000)
    }
}

/// A span of time, or a reading of CLOCK_BOOTTIME, in milliseconds.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize,
)]
#[serde(transparent)]
pub struct Millis(pub u64);

impl Millis {
    /// `n` seconds.
    pub const fn secs(n: u64) -> Self {
        Self(n * 1000)
    }
}

/// The three clocks at the moment of a look. `boot` counts milliseconds since boot, suspended time included
/// (CLOCK_BOOTTIME, clock_gettime(2)); it compares only between equal `boot_id`s.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Now {
    pub wall: Timestamp,
    pub boot_id: Text,
    pub boot: Millis,
}

/// A moment remembered with both clocks, so that a wait neither ends early nor lasts for ever when the wall clock is set.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Moment {
    pub wall: Timestamp,
    pub boot_id: Text,
    pub boot: Millis,
}

impl Moment {
    /// How long ago `self` was: by the boot clock where it is of this boot, else by the wall clock, but never less than the
    /// machine has been up since: a moment of an earlier boot whose wall clock was ahead lies in the future now.
    pub fn age(&self, now: &Now) -> Millis {
        if self.boot_id == now.boot_id {
            Millis(now.boot.0.saturating_sub(self.boot.0))
        } else {
            now.wall.since(self.wall).max(now.boot)
        }
    }

    /// What is left of a limit of `span` that began at `self`, by the clock that [`age`](Self::age) goes by: a wall clock that is
    /// set forward must not end what has just begun.
    pub fn limit_left(&self, span: Millis, now: &Now) -> Millis {
        Millis(span.0.saturating_sub(self.age(now).0))
    }

    /// The wall clock's time of `self`, or an earlier one where that clock has been set back since: so that what happened after
    /// `self`, and was dated by the clock as it goes now, is never taken for older.
    pub fn wall_at_most(&self, now: &Now) -> Timestamp {
        if self.boot_id != now.boot_id {
            return self.wall;
        }
        let by_boot = now.wall.0.saturating_sub_unsigned(self.age(now).0);
        self.wall.min(Timestamp(by_boot))
    }

    /// What is left of a wait of `span` that began at `self`: the smaller of what the two clocks say, so that a clock set
    /// back cannot make it last longer, neither within a boot nor over one. Zero when it is over.
    pub fn left_of(&self, span: Millis, now: &Now) -> Millis {
        let by_wall = self.wall.plus(span).since(now.wall);
        let by_boot = if self.boot_id == now.boot_id {
            Millis(
                self.boot
                    .0
                    .saturating_add(span.0)
                    .saturating_sub(now.boot.0),
            )
        } else {
            // At least the time since this boot has passed.
            Millis(span.0.saturating_sub(now.boot.0))
        };
        by_wall.min(by_boot)
    }
}

impl From<&Now> for Moment {
    fn from(now: &Now) -> Self {
        Self {
            wall: now.wall,
            boot_id: now.boot_id.clone(),
            boot: now.boot,
        }
    }
}
