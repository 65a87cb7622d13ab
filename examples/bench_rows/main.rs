//! How fast, how idle and how large is calypso-watch? One row of `scripts/bench.sh` at a time, on a base path of its own with the
//! real daemon, the built-in tinytask and tiny agents (`agent.rs`).
//!
//! `bench_rows ROW BINARY AGENT SCRATCH [--json] [--quick] [--times N]`. The standard library only, so that rustc alone builds it.
//!
//! Known gap: this program, the daemon, tinytask and the agents share the machine's cores, so that two cores measure more than four
//! would; it sleeps while it waits, and never between an event and what follows it.
#![expect(
    clippy::disallowed_methods,
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "measures with the clock, writes plain files, and prints"
)]

use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};

use stats::Row;

mod adopt;
mod burst;
mod curves;
mod day;
mod disk;
mod fill;
mod http;
mod idle;
mod latency;
mod launches;
mod memory;
mod peers;
mod stats;
mod status;
mod sys;
mod world;

type Failure = Box<dyn std::error::Error + Send + Sync>;

/// What a row found.
pub enum Measured {
    Row(Row),
    /// One number, and how it came about, under a key of its own.
    Headline(f64, &'static str, Row),
}

/// What was asked for.
pub struct Setup {
    binary: PathBuf,
    agent: PathBuf,
    scratch: PathBuf,
    is_quick: bool,
    times: Option<usize>,
}

impl Setup {
    /// How often a thing is measured that would be `full` times.
    fn times(&self, full: usize) -> usize {
        match self.times {
            Some(times) => times,
            None if self.is_quick => (full / 8).max(3),
            None => full,
        }
    }
    /// A folder of this name that nobody has used.
    fn folder(&self, name: &str) -> Result<PathBuf, Failure> {
        static USED: AtomicUsize = AtomicUsize::new(0);
        let n = USED.fetch_add(1, Ordering::Relaxed);
        let path = self
            .scratch
            .join(format!("{name}-{}-{n}", std::process::id()));
        std::fs::create_dir_all(&path)?;
        Ok(path)
    }
}

fn main() -> Result<(), Failure> {
    let mut words = Vec::new();
    let (mut as_json, mut is_quick, mut times) = (false, false, None);
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        match argument.as_str() {
            "--json" => as_json = true,
            "--quick" => is_quick = true,
            "--times" => times = Some(arguments.next().ok_or("how many times?")?.parse()?),
            _ => words.push(argument),
        }
    }
    match words.first().map(String::as_str) {
        Some("floor") => return peers::floor(&words[1..]),
        Some("end") => {
            world::end_all(std::path::Path::new(words.get(1).ok_or("end FOLDER")?));
            return Ok(());
        }
        _ => {}
    }
    let [row, binary, agent, scratch] = &words[..] else {
        return Err("bench_rows ROW BINARY AGENT SCRATCH [--json] [--quick] [--times N]".into());
    };
    let setup = Setup {
        binary: std::fs::canonicalize(binary)?,
        agent: std::fs::canonicalize(agent)?,
        scratch: std::fs::canonicalize(scratch)?,
        is_quick,
        times,
    };
    let printed = match (measure(row, &setup)?, as_json) {
        (Measured::Row(row), true) => row.json(),
        (Measured::Row(row), false) => row.table(),
        // The script puts the row's own key before it.
        (Measured::Headline(number, key, more), true) => {
            format!("{number:.3},\n\"{key}\": {}", more.json())
        }
        (Measured::Headline(number, _, more), false) => {
            Row::default().with(row, number).join(more).table()
        }
    };
    println!("{printed}");
    Ok(())
}

fn measure(row: &str, setup: &Setup) -> Result<Measured, Failure> {
    let (name, is_filled) = match row.strip_suffix("_10k") {
        Some(name) => (name, true),
        None => (row, false),
    };
    match name {
        "drop_to_exec" => latency::drop_to_exec(setup, is_filled).map(Measured::Row),
        "landed_to_exec" => latency::landed_to_exec(setup, is_filled).map(Measured::Row),
        "pid_to_exec" => latency::pid_to_exec(setup, is_filled).map(Measured::Row),
        "launches_per_s" => launches::launches_per_s(setup),
        "idle" => idle::idle(setup).map(Measured::Row),
        "memory" => memory::memory(setup).map(Measured::Row),
        "fsync_ms" => disk::fsync_ms(setup),
        "burst_100k" => burst::burst_100k(setup).map(Measured::Row),
        "adopt_500_ms" => adopt::adopt_500_ms(setup),
        "status_ms" => status::status_ms(setup),
        "curves" => curves::curves(setup).map(Measured::Row),
        "day" => day::day(setup).map(Measured::Row),
        _ => Err(format!("there is no row `{row}`").into()),
    }
}
