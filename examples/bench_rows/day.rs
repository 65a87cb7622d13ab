//! A day of a busy team within minutes: two thousand launches, most of them in working hours. For the plots.
//!
//! Each request is a file in inbound/ (a dispatcher's run) and a task that crosses four queues. The agents do nothing but hand over, so
//! CPU and memory are calypso-watch's alone; what a real day adds is waiting, of which `idle` tells the price.

use std::time::{Duration, Instant};

use crate::latency::drop_file;
use crate::stats::Row;
use crate::world::{Process, Queue, World};
use crate::{Failure, Setup};

/// A dispatcher's run and four of the task.
const LAUNCHES: usize = 5;

pub(crate) fn day(setup: &Setup) -> Result<Row, Failure> {
    let (requests, span) = match setup.is_quick {
        true => (8, Duration::from_secs(10)),
        false => (400, Duration::from_secs(300)),
    };
    let queues = [
        Queue::new("dispatcher", "take", ""),
        Queue::new("architect", "hop", "product"),
        Queue::new("product", "hop", "devops"),
        Queue::new("devops", "hop", "coder"),
        Queue::new("coder", "done", ""),
    ];
    let mut world = World::new(setup, setup.folder("day")?, "", &queues)?;
    world.start()?;
    world.wait_quiet(0, Duration::from_secs(1))?;
    let (daemon, tinytask) = (world.daemon_pid(), world.tinytask_pid()?);
    let start = (
        Process::whole(daemon)?.cpu_ms,
        Process::whole(tinytask)?.cpu_ms,
    );
    let arrivals = arrivals(requests);
    let inbound = world.base.join("inbound");
    let mut client = world.client()?;
    let begun = Instant::now();
    let (mut dropped, mut samples) = (0, Vec::new());
    let gap = span.as_secs_f64() / 240.0;
    loop {
        let hour = begun.elapsed().as_secs_f64() / span.as_secs_f64() * 24.0;
        while dropped < requests && arrivals[dropped] <= hour {
            drop_file(
                &world.base,
                &inbound,
                &format!("request-{dropped}.md"),
                true,
            )?;
            let task = client.create("architect", None)?.id;
            world.make_folder(task)?;
            dropped += 1;
        }
        if hour >= samples.len() as f64 * 0.1 {
            samples.push(sample(
                &mut world,
                hour.min(24.0),
                (daemon, tinytask),
                start,
            )?);
        }
        if hour >= 24.0 {
            break;
        }
        std::thread::sleep(Duration::from_secs_f64(gap / 10.0));
    }
    world.wait_quiet(0, Duration::from_secs(1))?;
    samples.push(sample(&mut world, 24.0, (daemon, tinytask), start)?);
    Ok(Row::default()
        .with("requests", requests as f64)
        .with("launches_at_least", (requests * LAUNCHES) as f64)
        .with("seconds", span.as_secs_f64())
        .with_rows("samples", samples))
}

fn sample(
    world: &mut World,
    hour: f64,
    (daemon, tinytask): (u32, u32),
    start: (u64, u64),
) -> Result<Row, Failure> {
    world.stamped()?;
    let started = world
        .stamps_from(0)
        .iter()
        .filter(|stamp| stamp.word == "start");
    let (launches, daemon, tinytask) = (
        started.count(),
        Process::whole(daemon)?,
        Process::whole(tinytask)?,
    );
    Ok(Row::default()
        .with("hour", hour)
        .with("launches", launches as f64)
        .with("live_runs", world.live() as f64)
        .with("daemon_cpu_ms", (daemon.cpu_ms - start.0) as f64)
        .with("daemon_rss_kb", daemon.rss_kb as f64)
        .with("tinytask_cpu_ms", (tinytask.cpu_ms - start.1) as f64)
        .with("tinytask_rss_kb", tinytask.rss_kb as f64))
}

/// When each request comes, in hours: few at night, most around two in the afternoon.
fn arrivals(requests: usize) -> Vec<f64> {
    let weight = |hour: f64| ((hour - 8.0) / 12.0 * std::f64::consts::PI).sin().max(0.0) + 0.05;
    let minutes: Vec<f64> = (0..24 * 60)
        .map(|minute| f64::from(minute) / 60.0)
        .collect();
    let whole: f64 = minutes.iter().map(|hour| weight(*hour)).sum();
    let (mut arrivals, mut sum) = (Vec::new(), 0.0);
    for hour in minutes {
        sum += weight(hour);
        while arrivals.len() < requests && arrivals.len() as f64 / requests as f64 <= sum / whole {
            arrivals.push(hour);
        }
    }
    arrivals
}
