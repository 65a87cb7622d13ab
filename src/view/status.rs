//! `status`: one screen of what runs, what waits and why. A quiet system prints little.
//!
//! The screen from top to bottom: `head.rs`, `table.rs`, `sections.rs`.

use crate::core::model::{Millis, Moment, Now, Timestamp};
use crate::core::{Decision, Policy, Snapshot, Subject};
use crate::view::board::Board;
use crate::view::hold::words;
use crate::view::text::{beside, clean, left};

mod head;
mod sections;
mod table;

use head::head;
use sections::{inbound, last, lists, section, stuck, today};
use table::table;

/// All that `status` tells.
pub struct StatusInput<'a> {
    /// The base path.
    pub base: &'a str,
    pub seen: &'a Snapshot,
    pub decision: &'a Decision,
    pub policy: &'a Policy,
    pub now: &'a Now,
    pub daemon: Daemon,
    pub tinytask: TinytaskLine,
    pub today: Today,
    /// Sentences a person should read: settings that were ignored, folders others may write to.
    pub warnings: Vec<String>,
    /// An absolute time in words: [`status_json`](super::status_json()) should be given one that writes UTC.
    pub time: &'a dyn Fn(Timestamp) -> String,
}

/// Does anybody watch?
#[derive(Debug, Clone, PartialEq)]
pub enum Daemon {
    Alive {
        pid: i32,
        since: Moment,
        /// How it hears of changes: `inotify`.
        watch: String,
        /// What it has to say of itself.
        note: Option<String>,
    },
    Dead {
        last_look: Option<Timestamp>,
    },
}

impl Daemon {
    /// Is it there?
    pub fn is_alive(&self) -> bool {
        matches!(self, Self::Alive { .. })
    }
}

/// Which tinytask it is; how it fares stands in the snapshot.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TinytaskLine {
    /// `v2`, `v1`, `built in`.
    pub name: String,
    /// URL or command.
    pub endpoint: String,
    /// Recipes and watcher would talk to different servers: a sentence.
    pub disagreement: Option<String>,
}

/// What the day brought.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Today {
    pub runs: u32,
    pub handed_on: u32,
    pub done: u32,
    pub failed: u32,
    /// US dollars; none where no run told.
    pub cost: Option<f64>,
    /// From event to the agent's start.
    pub start: Option<Percentiles>,
}

/// Half, and all but one of a hundred, are no slower.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Percentiles {
    pub p50: Millis,
    pub p99: Millis,
}

impl Percentiles {
    /// Nearest rank; none of nothing.
    pub fn of(mut spans: Vec<Millis>) -> Option<Self> {
        spans.sort();
        let rank = |percent: usize| {
            spans
                .get((spans.len() * percent).div_ceil(100).saturating_sub(1))
                .copied()
        };
        Some(Self {
            p50: rank(50)?,
            p99: rank(99)?,
        })
    }
}

/// Columns of the words that begin the lines below the table.
const LABEL: usize = 10;

/// The screen.
pub fn status(input: &StatusInput) -> String {
    let board = Board::of(input.seen, input.decision, input.policy);
    let mut out = head(input, &board);
    table(input, &board, &mut out);
    out.push('\n');
    for (queue, hold) in &board.providers {
        let said = words(
            input.seen,
            &Subject::Provider((*queue).clone()),
            hold,
            input.now,
        )
        .text();
        out += &beside(&label("provider"), &format!("{}: {said}", clean(queue)));
    }
    lists(&board, &mut out);
    stuck(input, &board, &mut out);
    inbound(input, &board, &mut out);
    last(input, &mut out);
    today(&input.today, &mut out);
    section("odd", board.odd.clone(), &mut out);
    let warnings = input.warnings.iter().map(|w| clean(w)).collect();
    section("warning", warnings, &mut out);
    out
}

fn label(word: &str) -> String {
    left(word, LABEL)
}

#[cfg(test)]
mod tests;
