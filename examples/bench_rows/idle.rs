//! What waiting costs: ten queues and a hundred waiting tasks, and nothing happens.

use std::time::Duration;

use crate::stats::Row;
use crate::world::{Process, Queue, World, shims};
use crate::{Failure, Setup, sys};

const QUEUES: usize = 10;
const WAITING: usize = 10;

pub(crate) fn idle(setup: &Setup) -> Result<Row, Failure> {
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
    // A queue without a free slot is asked about by the next look at everything only, which is minutes away: with it, the daemon has seen
    // all there is, as one that rests has.
    sys::kill(world.daemon_pid(), sys::HUP)?;
    world.wait_quiet(agents, Duration::from_secs(3))?;

    let (daemon, tinytask, shims) = (
        world.daemon_pid(),
        world.tinytask_pid()?,
        shims(&world.base),
    );
    let look = || {
        let all = [daemon, tinytask]
            .into_iter()
            .chain(shims.values().copied());
        all.map(Process::whole).collect::<Result<Vec<_>, _>>()
    };
    let before = look()?;
    std::thread::sleep(Duration::from_secs(60 * minutes));
    let after = look()?;

    let spent: Vec<(u64, u64)> = after
        .iter()
        .zip(&before)
        .map(|(after, before)| after.since(before))
        .collect();
    let count = shims.len().max(1) as f64;
    let of_shims = spent[2..]
        .iter()
        .fold((0, 0), |sum, shim| (sum.0 + shim.0, sum.1 + shim.1));
    let per_min = |switches: u64| switches as f64 / minutes as f64;
    let ms = |cpu: u64| cpu as f64 / 1e6;
    let mean = |kb: fn(&Process) -> u64| after[2..].iter().map(kb).sum::<u64>() as f64 / count;
    // A child that was collected left page faults, one that lives is among the children.
    let forked = after[0].children != before[0].children;
    Ok(Row::default()
        .with("wakeups_per_min", per_min(spent[0].0))
        .with("cpu_ms", ms(spent[0].1))
        .with("forks", f64::from(u8::from(forked)))
        .with("daemon_rss_kb", after[0].rss_kb as f64)
        .with("shim_private_kb", mean(|shim| shim.private_kb))
        .with("shim_rss_kb", mean(|shim| shim.rss_kb))
        .with("tinytask_rss_kb", after[1].rss_kb as f64)
        .with("minutes", minutes as f64)
        .with("tinytask_wakeups_per_min", per_min(spent[1].0))
        .with("tinytask_cpu_ms", ms(spent[1].1))
        .with("shim_wakeups_per_min", per_min(of_shims.0) / count)
        .with("shim_cpu_ms", ms(of_shims.1) / count)
        .with(
            "daemon_threads_ended",
            after[0].ended_since(&before[0]) as f64,
        )
        .with("daemon_peak_kb", after[0].peak_kb as f64)
        .with("queues", QUEUES as f64)
        .with("live_runs", shims.len() as f64)
        .with("waiting_tasks", (QUEUES * WAITING) as f64))
}
