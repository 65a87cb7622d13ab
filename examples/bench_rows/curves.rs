//! How the three latencies grow with open tasks, past runs and queues, one of them at a time. For the plots.

use crate::fill::{self, Size};
use crate::latency;
use crate::stats::{Row, Times};
use crate::world::World;
use crate::{Failure, Setup};

/// Tasks in each queue where queues are counted.
const IN_EACH: usize = 20;

pub(crate) fn curves(setup: &Setup) -> Result<Row, Failure> {
    // Six queues are what the measured hand-offs need.
    let few = latency::queues().len();
    let (tasks, runs, queues) = match setup.is_quick {
        true => (vec![0, 200], vec![0, 200], vec![few, 10]),
        false => (
            vec![0, 1_000, 2_500, 5_000, 10_000],
            vec![0, 10_000, 25_000, 50_000],
            vec![few, 12, 25, 50],
        ),
    };
    let all_queues = if setup.is_quick { 10 } else { 50 };
    let of_tasks = tasks.into_iter().map(|tasks| {
        let size = Size {
            tasks,
            runs: 0,
            queues: all_queues,
        };
        point(setup, tasks, size)
    });
    let of_runs = runs.into_iter().map(|runs| {
        let size = Size {
            tasks: 0,
            runs,
            queues: few,
        };
        point(setup, runs, size)
    });
    let of_queues = queues.into_iter().map(|queues| {
        let size = Size {
            tasks: queues * IN_EACH,
            runs: 0,
            queues,
        };
        point(setup, queues, size)
    });
    Ok(Row::default()
        .with_rows("open_tasks", of_tasks.collect::<Result<_, _>>()?)
        .with_rows("past_runs", of_runs.collect::<Result<_, _>>()?)
        .with_rows("queues", of_queues.collect::<Result<_, _>>()?)
        .with("tasks_in_each_queue", IN_EACH as f64)
        .with("queues_where_tasks_are_counted", all_queues as f64))
}

/// Medians in a world of this size.
fn point(setup: &Setup, at: usize, size: Size) -> Result<Row, Failure> {
    let mut world = World::new(setup, setup.folder("curve")?, "", &fill::queues(size))?;
    fill::fill(&mut world, size)?;
    world.start()?;
    let (mut drops, mut lands, mut hops) = (Times::default(), Times::default(), Times::default());
    let times = setup.times(16);
    // The first of each pays for beginnings.
    for n in 0..=times {
        let drop = latency::drop_one(&mut world, n, n % 2 == 0)?.took;
        let (land, _) = latency::land_one(&mut world, "people", n % 2 == 0)?;
        let hop = latency::hop(&mut world, "hop")?.start.took;
        if n > 0 {
            drops.add(drop);
            lands.add(land.took);
            hops.add(hop);
        }
    }
    eprintln!(
        "{size:?}: {:.1} ms, {:.1} ms, {:.1} ms",
        drops.at(50),
        lands.at(50),
        hops.at(50)
    );
    Ok(Row::default()
        .with("at", at as f64)
        .with("drop_ms", drops.at(50))
        .with("landed_ms", lands.at(50))
        .with("pid_ms", hops.at(50))
        .with("n", times as f64))
}
