//! What waiting costs: ten queues and a hundred waiting tasks, and nothing happens.

use std::time::Duration;

use crate::stats::Row;
use crate::world::{Process, Queue, World, shims};
use crate::{Failure, Setup};

const QUEUES: usize = 10;
const WAITING: usize = 10;

pub fn idle(setup: &Setup) -> Result<Row, Failure> {
    let minutes = if setup.is_quick { 1 } else { 10 };
    // In every other queue an agent works and the rest waits behind it; in the others all wait for a person.
    let queues: Vec<Queue> = (0..QUEUES)
        .map(|n| Queue::new(format!("work-{n}"), "wait", ""))
        .collect();
    let mut world = World::new(setup, setup.folder("idle")?, "max_runs = 10\n", &queues)?;
    world.start()?;
    let mut client = world.client()?;
    let blocker = client.create("people", None)?.id;
    world.make_folder(blocker)?;
    let mut agents = 0;
    for (n, queue) in queues.iter().enumerate() {
        let is_free = n % 2 == 1;
        if !is_free {
            let task = client.create(&queue.name, None)?.id;
            world.started(0, &queue.name, Some(task))?;
            agents += 1;
        }
        for _ in 0..WAITING {
            let task = client.create(&queue.name, is_free.then_some(blocker))?.id;
            world.make_folder(task)?;
        }
    }
    drop(client);
    world.wait_quiet(agents, Duration::from_secs(3))?;

    let (daemon, tinytask, shims) = (
        world.daemon_pid(),
        world.tinytask_pid()?,
        shims(&world.base),
    );
    let before = (Process::whole(daemon)?, Process::whole(tinytask)?);
    let shims_before = sum(shims.values())?;
    std::thread::sleep(Duration::from_secs(60 * minutes));
    let after = (Process::whole(daemon)?, Process::whole(tinytask)?);
    let shims_after = sum(shims.values())?;

    let count = shims.len().max(1) as f64;
    let per_min = |before: u64, after: u64| (after - before) as f64 / minutes as f64;
    let ms = |before: u64, after: u64| (after - before) as f64 / 1e6;
    // A child that was collected left page faults, one that lives is among the children.
    let forked = after.0.children != before.0.children;
    Ok(Row::default()
        .with(
            "wakeups_per_min",
            per_min(before.0.switches, after.0.switches),
        )
        .with("cpu_ms", ms(before.0.cpu, after.0.cpu))
        .with("forks", f64::from(u8::from(forked)))
        .with("daemon_rss_kb", after.0.rss_kb as f64)
        .with("shim_private_kb", shims_after.private_kb as f64 / count)
        .with("shim_rss_kb", shims_after.rss_kb as f64 / count)
        .with("tinytask_rss_kb", after.1.rss_kb as f64)
        .with("minutes", minutes as f64)
        .with(
            "tinytask_wakeups_per_min",
            per_min(before.1.switches, after.1.switches),
        )
        .with("tinytask_cpu_ms", ms(before.1.cpu, after.1.cpu))
        .with(
            "shim_wakeups_per_min",
            per_min(shims_before.switches, shims_after.switches) / count,
        )
        .with("shim_cpu_ms", ms(shims_before.cpu, shims_after.cpu) / count)
        .with("daemon_peak_kb", after.0.peak_kb as f64)
        .with("queues", QUEUES as f64)
        .with("live_runs", shims.len() as f64)
        .with("waiting_tasks", (QUEUES * WAITING) as f64))
}

fn sum<'a>(pids: impl Iterator<Item = &'a u32>) -> Result<Process, Failure> {
    let mut sum = Process::default();
    for pid in pids {
        let process = Process::whole(*pid)?;
        sum.switches += process.switches;
        sum.cpu += process.cpu;
        sum.rss_kb += process.rss_kb;
        sum.private_kb += process.private_kb;
    }
    Ok(sum)
}
