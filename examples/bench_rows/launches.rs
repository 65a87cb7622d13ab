//! Fifty tasks land in fifty queues at once: how many launches a second until the last agent's first instruction?

use std::time::Duration;

use crate::http::Client;
use crate::stats::{Row, Times};
use crate::world::{Queue, World};
use crate::{Failure, Measured, Setup, latency, sys};

const QUEUES: usize = 50;
/// Longer than fifty launches take, so that no agent's end is in between.
const NAP: &str = "1500";
/// From whom the tasks come; nobody starts anything for them.
const PEOPLE: &str = "people";

/// Ways to land at once.
#[derive(Clone, Copy)]
enum Way {
    /// The daemon stands still (SIGSTOP) while they are handed over, then goes on: all are there at its next look.
    Stopped,
    /// All wait for one task, which is completed: one commit.
    Unblocked,
    /// Eight clients hand them over, one call each, while the daemon works.
    Calls,
}

pub fn launches_per_s(setup: &Setup) -> Result<Measured, Failure> {
    let queues: Vec<Queue> = (0..QUEUES)
        .map(|n| Queue::new(format!("work-{n:02}"), "nap", NAP))
        .collect();
    let top = format!("max_runs = {QUEUES}\n");
    let mut world = World::new(setup, setup.folder("launches")?, &top, &queues)?;
    world.start()?;
    let mut rates = [Times::default(), Times::default(), Times::default()];
    let rounds = setup.times(10);
    // The first round pays for the daemon's own beginnings.
    for round in 0..=rounds {
        for (way, rates) in [Way::Stopped, Way::Unblocked, Way::Calls]
            .into_iter()
            .zip(&mut rates)
        {
            let seconds = land(&mut world, &queues, way)?;
            if round > 0 {
                rates.add(QUEUES as f64 / seconds);
            }
        }
    }
    let row = Row::default()
        .with("at_once", rates[0].at(50))
        .with("one_commit", rates[1].at(50))
        .with("eight_clients_calling", rates[2].at(50))
        .with("slowest_at_once", rates[0].at(0))
        .with("queues", QUEUES as f64)
        .with("max_runs", QUEUES as f64)
        .with("rounds", rounds as f64);
    Ok(Measured::Headline(rates[0].at(50), "launches", row))
}

/// Seconds from the landing to the last agent's first instruction.
fn land(world: &mut World, queues: &[Queue], way: Way) -> Result<f64, Failure> {
    let mut client = world.client()?;
    let blocker = match way {
        Way::Unblocked => Some(client.create(PEOPLE, None)?.id),
        _ => None,
    };
    let mut tasks = Vec::new();
    for queue in queues {
        let place = match way {
            Way::Unblocked => &queue.name,
            _ => PEOPLE,
        };
        let task = client.create(place, blocker)?.id;
        world.make_folder(task)?;
        tasks.push(task);
    }
    world.wait_quiet(0, latency::ECHO)?;
    let from = world.stamped()?;
    let daemon = world.daemon_pid();
    let began = match (way, blocker) {
        (Way::Stopped, _) => {
            sys::kill(daemon, sys::STOP)?;
            hand_over(&mut client, &tasks, queues)?;
            let began = sys::clock();
            sys::kill(daemon, sys::CONT)?;
            began
        }
        (Way::Unblocked, Some(blocker)) => {
            client.complete(blocker)?;
            sys::clock()
        }
        _ => {
            let began = sys::clock();
            let share = tasks.len().div_ceil(8);
            let (world, tasks) = (&*world, &tasks);
            std::thread::scope(|scope| {
                let calling: Vec<_> = (0..tasks.len())
                    .step_by(share)
                    .map(|at| {
                        let end = (at + share).min(tasks.len());
                        scope.spawn(move || {
                            hand_over(&mut world.client()?, &tasks[at..end], &queues[at..end])
                        })
                    })
                    .collect();
                for client in calling {
                    client.join().map_err(|_| "a client panicked")??;
                }
                Ok::<_, Failure>(())
            })?;
            began
        }
    };
    let mut last = began;
    for (task, queue) in tasks.iter().zip(queues) {
        last = last.max(world.started(from, &queue.name, Some(*task))?.at);
    }
    world.wait_quiet(0, Duration::from_millis(60))?;
    Ok((last - began) as f64 / 1e9)
}

fn hand_over(client: &mut Client, tasks: &[u64], queues: &[Queue]) -> Result<(), Failure> {
    for (task, queue) in tasks.iter().zip(queues) {
        client.hand_over(*task, PEOPLE, &queue.name)?;
    }
    Ok(())
}
