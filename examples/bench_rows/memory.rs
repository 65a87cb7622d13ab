//! How large daemon and tinytask get with ten thousand tasks, and whether they grow with events and runs.

use std::fs::File;
use std::time::Duration;

use crate::stats::Row;
use crate::world::{Process, Queue, World};
use crate::{Failure, Setup, fill};

const QUEUES: usize = 8;
/// Tasks that wait at any time: as many as keep all queues busy.
const AHEAD: usize = 4 * QUEUES;
/// Seconds from rescan to rescan, where growth is measured: what many looks have left behind is given back by the first that finds
/// nothing new. The two after it use again what a daemon at rest uses.
const RESCAN: u64 = 5;

pub(crate) fn memory(setup: &Setup) -> Result<Row, Failure> {
    let row = large(setup)?;
    growth(setup, row)
}

/// A daemon that starts on ten thousand tasks and fifty thousand runs, and then comes to rest.
fn large(setup: &Setup) -> Result<Row, Failure> {
    let size = setup.full_size();
    let mut world = fill::filled(setup)?;
    world.start()?;
    world.wait_quiet(0, Duration::from_secs(5))?;
    let daemon = Process::whole(world.daemon_pid())?;
    let tinytask = Process::whole(world.tinytask_pid()?)?;
    Ok(Row::default()
        .with("tasks", size.tasks as f64)
        .with("past_runs", size.runs as f64)
        .with("daemon_peak_kb", daemon.peak_kb as f64)
        .with("daemon_after_kb", daemon.rss_kb as f64)
        .with("tinytask_peak_kb", tinytask.peak_kb as f64)
        .with("tinytask_after_kb", tinytask.rss_kb as f64))
}

fn growth(setup: &Setup, row: Row) -> Result<Row, Failure> {
    let (events, runs) = match setup.is_quick {
        true => (10_000, 400),
        false => (100_000, 10_000),
    };
    let queues: Vec<Queue> = (0..QUEUES)
        .map(|n| Queue::new(format!("work-{n}"), "done", ""))
        .collect();
    let top = format!("rescan = \"{RESCAN}s\"\n");
    let mut world = World::new(setup, setup.folder("growth")?, &top, &queues)?;
    world.start()?;
    let weigh = |world: &mut World| {
        world.wait_quiet(0, Duration::from_secs(2))?;
        std::thread::sleep(Duration::from_secs(4 * RESCAN + 1));
        let daemon = Process::whole(world.daemon_pid())?;
        Ok::<_, Failure>((daemon, Process::whole(world.tinytask_pid()?)?))
    };
    // What the start has left behind is given back before the first run.
    world.wait_quiet(0, Duration::from_secs(1))?;
    work(&mut world, &queues, runs / 10)?;
    let begun = weigh(&mut world)?;
    storm(&world, events)?;
    let after_events = weigh(&mut world)?;
    work(&mut world, &queues, runs / 2)?;
    let half = weigh(&mut world)?;
    work(&mut world, &queues, runs - runs / 2)?;
    let end = weigh(&mut world)?;
    let mut row = row.with("events", events as f64).with("runs", runs as f64);
    for (when, (daemon, _)) in [
        ("before", &begun),
        ("after_events", &after_events),
        ("after_half_the_runs", &half),
        ("after_all", &end),
    ] {
        row = row
            .with(&format!("daemon_{when}_kb"), daemon.rss_kb as f64)
            .with(&format!("daemon_anon_{when}_kb"), daemon.anon_kb as f64);
    }
    for (when, (_, tinytask)) in [("before", &begun), ("after_all", &end)] {
        row = row
            .with(&format!("tinytask_{when}_kb"), tinytask.rss_kb as f64)
            .with(&format!("tinytask_anon_{when}_kb"), tinytask.anon_kb as f64);
    }
    let more = |from: u64, to: u64| to as f64 - from as f64;
    Ok(row
        .with("daemon_growth_kb", more(begun.0.rss_kb, end.0.rss_kb))
        .with(
            "daemon_anon_growth_kb",
            more(begun.0.anon_kb, end.0.anon_kb),
        )
        .with("tinytask_growth_kb", more(begun.1.rss_kb, end.1.rss_kb))
        .with(
            "tinytask_anon_growth_kb",
            more(begun.1.anon_kb, end.1.anon_kb),
        ))
}

/// Files written in inbound/ that are no requests: each is heard of, and starts nothing.
fn storm(world: &World, events: usize) -> Result<(), Failure> {
    let path = world.base.join("inbound/.being-written");
    for _ in 0..events {
        // IN_CREATE, IN_CLOSE_WRITE and IN_DELETE, of which at least one is listened to.
        File::create(&path)?;
        std::fs::remove_file(&path)?;
    }
    Ok(())
}

/// So many runs, as fast as they go.
fn work(world: &mut World, queues: &[Queue], runs: usize) -> Result<(), Failure> {
    let mut client = world.client()?;
    let from = world.stamped()?;
    for n in 0..runs {
        let task = client.create(&queues[n % queues.len()].name, None)?.id;
        world.make_folder(task)?;
        let enough = (n + 1).saturating_sub(AHEAD);
        world.wait("agents that are done", |world| {
            world.stamped()?;
            let stamps = world.stamps_from(from).iter();
            Ok(stamps.filter(|stamp| stamp.word == "end").count() >= enough)
        })?;
    }
    world.wait("all agents", |world| {
        world.stamped()?;
        let stamps = world.stamps_from(from).iter();
        Ok(stamps.filter(|stamp| stamp.word == "end").count() >= runs)
    })
}
