//! How long `status` takes with ten thousand open tasks and fifty thousand past runs, beside what tinytask itself takes to list them.

use std::process::Stdio;
use std::time::{Duration, Instant};

use crate::http::Client;
use crate::stats::{Row, Times};
use crate::world::World;
use crate::{Failure, Measured, Setup, fill};

pub fn status_ms(setup: &Setup) -> Result<Measured, Failure> {
    let size = setup.full_size();
    let mut world = fill::filled(setup)?;
    world.start()?;
    world.wait_quiet(0, Duration::from_secs(3))?;
    let mut client = world.client()?;
    let mut row = Row::default()
        .with("tasks", size.tasks as f64)
        .with("past_runs", size.runs as f64);
    let mut most = f64::MIN;
    let times = setup.times(24);
    for is_alive in [true, false] {
        if !is_alive {
            world.kill_daemon()?;
        }
        let mut took = [Times::default(), Times::default()];
        let mut list = Times::default();
        for _ in 0..times {
            for (more, took) in [&[][..], &["--json"]].into_iter().zip(&mut took) {
                list.add(listed(&mut client)?);
                took.add(status(&world, more)?);
            }
        }
        let state = if is_alive { "alive" } else { "dead" };
        for (name, took) in ["status", "status_json"].iter().zip(&took) {
            most = most.max(took.at(50) - list.at(50));
            row = row.with_row(&format!("{name}_{state}"), Row::of(took));
        }
        row = row.with_row(&format!("tinytask_{state}"), Row::of(&list));
    }
    Ok(Measured::Headline(most, "status", row))
}

/// The wall clock of one command, in milliseconds.
fn status(world: &World, more: &[&str]) -> Result<f64, Failure> {
    let begun = Instant::now();
    let status = world
        .command()
        .arg("status")
        .args(more)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()?;
    let took = begun.elapsed().as_secs_f64() * 1000.0;
    // 3: nobody watches.
    match status.code() {
        Some(0 | 3) => Ok(took),
        _ => Err(format!("status ended, {status}").into()),
    }
}

/// The calls that show all open tasks, as any client of tinytask makes them.
fn listed(client: &mut Client) -> Result<f64, Failure> {
    let begun = Instant::now();
    for status in ["idle", "working"] {
        client.tool("list_tasks", &format!(r#"{{"status":"{status}"}}"#))?;
    }
    Ok(begun.elapsed().as_secs_f64() * 1000.0)
}
