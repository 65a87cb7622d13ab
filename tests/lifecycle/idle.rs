//! A daemon with nothing to do does nothing.

use std::time::{Duration, Instant};

use crate::World;

/// Sum over the threads of a process.
fn switches(pid: i32) -> u64 {
    let tasks = std::fs::read_dir(format!("/proc/{pid}/task")).expect("it lives");
    tasks
        .filter_map(|task| std::fs::read_to_string(task.ok()?.path().join("status")).ok())
        .filter_map(|status| {
            let line = status
                .lines()
                .find_map(|line| line.strip_prefix("voluntary_ctxt_switches:"))?;
            line.trim().parse::<u64>().ok()
        })
        .sum()
}

/// Page faults of children that were collected: a child that did anything has some.
fn child_faults(pid: i32) -> String {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).expect("it lives");
    let rest = stat.rsplit(") ").next().unwrap_or_default();
    rest.split(' ').nth(8).unwrap_or_default().to_owned()
}

#[test]
fn ten_queues_with_waiting_tasks_cost_nothing() {
    let mut world = World::new();
    let queues: Vec<_> = (0..10).map(|n| format!("queue-{n}")).collect();
    for queue in &queues {
        world = world.queue(queue, "claim; finish");
    }
    let world = world.start();
    for queue in &queues {
        world.ok(&["pause", queue]);
    }
    for queue in &queues {
        world.task(queue, "waits");
        world.task("human", "waits for people");
    }
    world.write("inbound/nobody-takes-it.md", "x");
    world.eventually("all held", |w| {
        let (status, _) = w.status();
        let queues = status["queues"].as_array().cloned().unwrap_or_default();
        queues.iter().filter(|q| q["waiting"] == 1).count() >= 10
    });
    let pid = world.daemon_pid();
    // What settles after the last event is over when two seconds pass with hardly a wakeup.
    let window = Duration::from_secs(2);
    let count = |window| {
        let (before, faults, begun) = (switches(pid), child_faults(pid), Instant::now());
        while Instant::now() - begun < window {
            std::thread::sleep(Duration::from_millis(50));
        }
        (switches(pid) - before, faults == child_faults(pid))
    };
    world.eventually("it settles", |_| count(window).0 < 10);
    let (wakeups, no_forks) = count(Duration::from_secs(6));
    // A loop that polls ten times a second would wake sixty times.
    assert!(wakeups <= 20, "{wakeups} wakeups in six seconds");
    assert!(no_forks, "it started processes");
    assert_eq!(world.starts(), [""; 0]);
}
