//! The daemon is killed while five hundred agents work: how soon has the next one taken them all up?

use std::time::Duration;

use crate::stats::{Row, Times};
use crate::world::{Queue, World};
use crate::{Failure, Measured, Setup, sys};

const QUEUES: usize = 50;
/// So many are ended at the end, to see that the daemon that took them up notices.
const ENDED: usize = 5;

pub fn adopt_500_ms(setup: &Setup) -> Result<Measured, Failure> {
    let agents = if setup.is_quick { 100 } else { 500 };
    let queues: Vec<Queue> = (0..QUEUES)
        .map(|n| {
            let mut queue = Queue::new(format!("work-{n:02}"), "wait", "");
            queue.concurrency = (agents / QUEUES) as u32;
            queue
        })
        .collect();
    let top = format!("max_runs = {agents}\n");
    let mut world = World::new(setup, setup.folder("adopt")?, &top, &queues)?;
    world.start()?;
    let mut client = world.client()?;
    let mut tasks = Vec::new();
    for n in 0..agents {
        let queue = &queues[n % QUEUES].name;
        let task = client.create(queue, None)?.id;
        world.make_folder(task)?;
        tasks.push((queue, task));
    }
    let mut pids = Vec::new();
    for (queue, task) in &tasks {
        pids.push(world.started(0, queue, Some(*task))?.pid);
    }
    world.wait_quiet(agents, Duration::from_millis(500))?;

    let (mut looked, mut adopted) = (Times::default(), Times::default());
    for _ in 0..setup.times(10) {
        world.kill_daemon()?;
        let began = sys::clock();
        world.launch()?;
        let daemon = world.daemon_pid();
        world.wait("its first look", |world| Ok(world.has_looked(daemon)))?;
        looked.add_span(began, sys::clock());
        // Each run it has taken up is watched through a pidfd of its own.
        world.wait("a pidfd for each run", |_| Ok(pidfds(daemon)? >= agents))?;
        adopted.add_span(began, sys::clock());
        world.wait_quiet(agents, Duration::from_millis(300))?;
    }
    for pid in &pids[..ENDED] {
        sys::kill(*pid, sys::KILL)?;
    }
    world.wait("the ends of those that were killed", |world| {
        Ok(judged(world, &tasks[..ENDED]) == ENDED)
    })?;
    let row = Row::default()
        .with("agents", agents as f64)
        .with("first_look_p50_ms", looked.at(50))
        .with("adopted_p50_ms", adopted.at(50))
        .with("adopted_most_ms", adopted.at(100))
        .with("rounds", adopted.len() as f64)
        .with("ends_noticed_after", ENDED as f64);
    Ok(Measured::Headline(adopted.at(50), "adopt", row))
}

/// Runs of these tasks whose verdict says how their agent died.
fn judged(world: &World, tasks: &[(&String, u64)]) -> usize {
    let is_killed = |(queue, task): &&(&String, u64)| {
        let path = world.base.join(format!(
            ".calypso/runs/task_{task}/0001-{queue}/verdict.json"
        ));
        std::fs::read_to_string(path).is_ok_and(|text| text.contains("signaled"))
    };
    tasks.iter().filter(is_killed).count()
}

fn pidfds(pid: u32) -> Result<usize, Failure> {
    let entries = std::fs::read_dir(format!("/proc/{pid}/fd"))?;
    let targets = entries.filter_map(|entry| std::fs::read_link(entry.ok()?.path()).ok());
    Ok(targets
        .filter(|target| target.to_string_lossy().contains("[pidfd"))
        .count())
}
