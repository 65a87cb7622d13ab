//! Where the time of a start goes, by the proof that each run carries: event, look, decision, spec, shim, gate, first instruction.
//!
//! The records tell milliseconds, so one run says little; a mean over many says tenths of one.

use std::path::PathBuf;

use crate::Failure;
use crate::http::field;
use crate::stats::{Row, Times};
use crate::world::{Stamp, World};

/// Each step is counted from the one before.
const NAMES: [&str; 7] = [
    "until_the_event_is_read",
    "until_the_look_begins",
    "until_it_is_decided",
    "until_the_spec_is_written",
    "until_the_shim_has_it",
    "until_the_gate_opens",
    "until_the_first_instruction",
];

/// See the module.
#[derive(Default)]
pub(crate) struct Steps([Times; NAMES.len()]);

impl Steps {
    /// The run of this agent, which is over; `began`: the clock when its cause came about.
    pub(crate) fn add(&mut self, world: &World, began: u64, agent: &Stamp) -> Result<(), Failure> {
        let subject = match agent.task.as_str() {
            "-" => "inbound".to_owned(),
            id => format!("task_{id}"),
        };
        let run = newest(world, &subject, &agent.queue)?;
        let read = |name: &str| std::fs::read_to_string(run.join(name));
        let (spec, state) = (read("spec.json")?, read("state.json")?);
        let times = spec
            .split_once("\"times\"")
            .ok_or("a spec without times")?
            .1;
        let moments = [
            wall(times, "event"),
            wall(times, "look"),
            wall(times, "decided"),
            wall(times, "written"),
            wall(&state, "started"),
            wall(&state, "running"),
            Some(agent.at as f64 / 1e6),
        ];
        let mut last = began as f64 / 1e6;
        for (moment, times) in moments.into_iter().zip(&mut self.0) {
            // A launch without an event of its own: the time is in the step after.
            if let Some(moment) = moment {
                times.add(moment - last);
                last = moment;
            }
        }
        Ok(())
    }

    /// Means, in milliseconds.
    pub(crate) fn row(&self) -> Row {
        let steps = NAMES.iter().zip(&self.0);
        steps.fold(Row::default(), |row, (name, times)| {
            row.with(name, times.mean())
        })
    }
}

/// Milliseconds since 1970 of the moment of this name.
fn wall(record: &str, name: &str) -> Option<f64> {
    let (_, moment) = record.split_once(&format!("\"{name}\":"))?;
    let moment = moment.trim_start();
    if !moment.starts_with('{') {
        return None;
    }
    field(moment, "wall")?.parse().ok()
}

/// The last run of this queue on the subject.
fn newest(world: &World, subject: &str, queue: &str) -> Result<PathBuf, Failure> {
    let folder = world.base.join(format!(".calypso/runs/{subject}"));
    let end = format!("-{queue}");
    let runs = std::fs::read_dir(&folder)?.filter_map(|entry| Some(entry.ok()?.path()));
    let newest = runs
        .filter(|run| run.to_string_lossy().ends_with(&end))
        .max();
    newest.ok_or_else(|| format!("no run of {queue} in {}", folder.display()).into())
}
