//! A hundred thousand files dropped while the daemon stands still, which is far more than the kernel's queue of events holds.

use crate::latency::{self, drop_file};
use crate::stats::Row;
use crate::world::World;
use crate::{Failure, Setup, sys};

pub fn burst_100k(setup: &Setup) -> Result<Row, Failure> {
    let files = if setup.is_quick { 20_000 } else { 100_000 };
    let mut world = World::new(setup, setup.folder("burst")?, "", &latency::queues())?;
    world.start()?;
    latency::drop_one(&mut world, 0, false)?;
    world.wait_quiet(0, latency::CALM)?;
    let from = world.stamped()?;
    let (daemon, inbound) = (world.daemon_pid(), world.base.join("inbound"));
    sys::kill(daemon, sys::STOP)?;
    let begun = sys::clock();
    for n in 0..files {
        drop_file(&world.base, &inbound, &format!("request-{n:06}.md"), false)?;
    }
    let continued = sys::clock();
    sys::kill(daemon, sys::CONT)?;
    let first = world.started(from, "dispatcher", None)?;
    world.wait_quiet(0, latency::ECHO)?;

    let starts = world
        .stamps_from(from)
        .iter()
        .filter(|stamp| stamp.word == "start" && stamp.queue == "dispatcher");
    let runs = starts.count();
    // What the run was told lies there: a name for each file in its baseline.
    let spec = world
        .base
        .join(".calypso/runs/inbound/0002-dispatcher/spec.json");
    let seen = std::fs::read_to_string(spec)?.matches("request-").count();
    // Nobody took them, and the daemon has come to rest.
    let left = std::fs::read_dir(&inbound)?.count();
    Ok(Row::default()
        .with("lost", left as f64)
        .with("seconds", (first.at - continued) as f64 / 1e9)
        .with("files", files as f64)
        .with("seen_by_the_first_run", seen as f64)
        .with("dispatcher_runs", runs as f64)
        .with("seconds_to_drop_them", (continued - begun) as f64 / 1e9))
}
