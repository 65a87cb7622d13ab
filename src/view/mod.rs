//! Snapshot in, text out: what a person sees on the screen, and what a script reads as JSON.
//!
//! Pure: no I/O, no clock, no colour. Times are relative to a [`Now`](crate::core::model::Now); absolute ones are written by a
//! function the caller passes, as only `edge` knows the zone. Everything foreign (titles, file names, names of processes, error
//! texts) goes through [`text::clean`] before it reaches a screen. Lines are 80 columns wide at most, measured as a terminal
//! does, but for a single word that is longer: a path or an argument cut in two could not be pasted.
//!
//! Knows nothing of edge, settings or terminals.

mod board;
pub mod doctor;
pub mod hold;
pub mod leaving;
pub mod plan;
pub mod status;
pub mod status_json;
pub mod text;
pub mod timeline;
pub mod why;

#[cfg(test)]
mod sample;

pub use board::verdict_words;
pub use doctor::{Area, Checkup, Finding, Level, doctor, doctor_json};
pub use hold::hold_words;
pub use leaving::{GoingOn, leaving};
pub use plan::{PlanInput, plan, plan_json};
pub use status::{Daemon, Percentiles, StatusInput, TinytaskLine, Today, status};
pub use status_json::status_json;
pub use text::{ago, duration, shell_words};
pub use timeline::{Hop, timeline};
pub use why::{Start, StoryLine, WhyInput, why, why_json};
