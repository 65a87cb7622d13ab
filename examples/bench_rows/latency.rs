//! From an event to the agent's first instruction: a file dropped, a task landed, a pid file gone.
//!
//! Every start is measured on a base path that has come to rest: see `World::wait_quiet`. What comes on top where everything happens
//! at once is in `launches_per_s`.

use std::fs::File;
use std::io::Write as _;
use std::path::Path;
use std::time::Duration;

use crate::peers::Peers;
use crate::stats::{Row, Times};
use crate::steps::Steps;
use crate::world::{Queue, Stamp, World};
use crate::{Failure, Setup, fill, sys};

/// After an event in tinytask's database the daemon looks again for this long, as the event comes before the commit is visible.
pub(crate) const ECHO: Duration = Duration::from_millis(320);
/// Nothing of tinytask's was touched.
pub(crate) const CALM: Duration = Duration::from_millis(60);

/// Writes a file into `inbound` and closes it there, or moves a closed one in; when, right before the close(2) or the rename(2).
pub(crate) fn drop_file(
    outside: &Path,
    inbound: &Path,
    name: &str,
    rename: bool,
) -> Result<u64, Failure> {
    let text = b"Add OAuth login. Users sign in with Google or GitHub.\n";
    let place = inbound.join(name);
    if rename {
        let hidden = outside.join(format!("on-its-way-{name}"));
        std::fs::write(&hidden, text)?;
        let at = sys::clock();
        std::fs::rename(&hidden, &place)?;
        return Ok(at);
    }
    let mut file = File::create(&place)?;
    file.write_all(text)?;
    let at = sys::clock();
    drop(file);
    Ok(at)
}

/// One start of an agent.
pub(crate) struct Start {
    /// Milliseconds from its cause to the agent's first instruction.
    pub(crate) took: f64,
    /// The clock at its cause, in nanoseconds.
    began: u64,
    agent: Stamp,
}

impl Start {
    fn new(began: u64, agent: Stamp) -> Self {
        let took = (agent.at as f64 - began as f64) / 1e6;
        Self { took, began, agent }
    }
}

/// The queues of these rows.
pub(crate) fn queues() -> Vec<Queue> {
    vec![
        Queue::new("dispatcher", "take", ""),
        Queue::new("land", "done", ""),
        Queue::new("hop", "linger", "last"),
        Queue::new("hop-at-once", "hop", "last"),
        Queue::new("last", "done", ""),
        Queue::new("same", "nap", "300"),
    ]
}

/// A world with nothing else in it, or with ten thousand open tasks and fifty thousand runs.
fn world(setup: &Setup, is_filled: bool) -> Result<World, Failure> {
    let mut world = match is_filled {
        true => fill::filled(setup)?,
        false => World::new(setup, setup.folder("world")?, "", &queues())?,
    };
    world.start()?;
    // The first run of each queue also pays for the daemon's own beginnings.
    for n in 0..setup.times(200).min(3) {
        drop_one(&mut world, n, n % 2 == 0)?;
        land_one(&mut world, "warm", n % 2 == 0)?;
    }
    Ok(world)
}

/// The world of a row, and, where that is the filled one, one with nothing else in it. They are measured in turn, as the machine is not as
/// fast in one minute as in the next.
fn worlds(setup: &Setup, is_filled: bool) -> Result<(World, Option<World>), Failure> {
    let measured = world(setup, is_filled)?;
    let empty = is_filled.then(|| world(setup, false)).transpose()?;
    Ok((measured, empty))
}

/// With what the empty world took, where there was one.
fn beside(row: Row, empty: &Times) -> Row {
    match empty.len() {
        0 => row,
        _ => row.with_row("empty", Row::of(empty)),
    }
}

// ── a file ─────────────────────────────────────────────────────────────────────────────────────────────────────────────

pub(crate) fn drop_one(world: &mut World, n: usize, rename: bool) -> Result<Start, Failure> {
    world.wait_quiet(0, CALM)?;
    let from = world.stamped()?;
    let inbound = world.base.join("inbound");
    let dropped = drop_file(&world.base, &inbound, &format!("request-{n}.md"), rename)?;
    let started = world.started(from, "dispatcher", None)?;
    Ok(Start::new(dropped, started))
}

pub(crate) fn drop_to_exec(setup: &Setup, is_filled: bool) -> Result<Row, Failure> {
    let (mut world, mut empty) = worlds(setup, is_filled)?;
    let mut peers = Peers::start(setup)?;
    let mut of_peers: Vec<Times> = peers.running.iter().map(|_| Times::default()).collect();
    let (mut closed, mut renamed) = (Times::default(), Times::default());
    let (mut of_empty, mut steps) = (Times::default(), Steps::default());
    for n in 0..setup.times(200) * 2 {
        let rename = n % 2 == 0;
        let start = drop_one(&mut world, 1000 + n, rename)?;
        if rename { &mut renamed } else { &mut closed }.add(start.took);
        // What the daemon still has to do for that one is over before the next is measured.
        world.wait_quiet(0, CALM)?;
        steps.add(&world, start.began, &start.agent)?;
        if let Some(empty) = &mut empty {
            of_empty.add(drop_one(empty, 1000 + n, rename)?.took);
            empty.wait_quiet(0, CALM)?;
        }
        for (at, times) in of_peers.iter_mut().enumerate() {
            times.add(peers.measure(at, &format!("request-{n}.md"), rename)?);
        }
    }
    let mut row = Row::of(&closed.join(&renamed))
        .with_row("closed", Row::of(&closed))
        .with_row("renamed", Row::of(&renamed));
    for (peer, times) in peers.running.iter().zip(&of_peers) {
        row = row.with_row(peer.name, Row::of(times));
    }
    Ok(beside(row, &of_empty).with_row("steps_ms", steps.row()))
}

// ── a task ─────────────────────────────────────────────────────────────────────────────────────────────────────────────

/// From the answer; and, in milliseconds, from the sending of the call.
pub(crate) fn land_one(
    world: &mut World,
    giver: &str,
    is_created: bool,
) -> Result<(Start, f64), Failure> {
    let mut client = world.client()?;
    let waiting = match is_created {
        true => None,
        // A person's queue, which no agent looks at; its folder is there, as whoever works on a task has one.
        false => {
            let task = client.create(giver, None)?;
            world.make_folder(task.id)?;
            Some(task.id)
        }
    };
    world.wait_quiet(0, ECHO)?;
    let from = world.stamped()?;
    let called = sys::clock();
    let task = match waiting {
        Some(task) => {
            client.hand_over(task, giver, "land")?;
            task
        }
        None => client.create("land", None)?.id,
    };
    let answered = sys::clock();
    let started = world.started(from, "land", Some(task))?;
    let from_call = (started.at as f64 - called as f64) / 1e6;
    Ok((Start::new(answered, started), from_call))
}

pub(crate) fn landed_to_exec(setup: &Setup, is_filled: bool) -> Result<Row, Failure> {
    let (mut world, mut empty) = worlds(setup, is_filled)?;
    let mut answers = [Times::default(), Times::default()];
    let (mut calls, mut steps) = (Times::default(), Steps::default());
    let mut of_empty = Times::default();
    for n in 0..setup.times(200).max(2) {
        let (start, call) = land_one(&mut world, "people", n % 2 == 0)?;
        answers[n % 2].add(start.took);
        calls.add(call);
        world.wait_quiet(0, CALM)?;
        steps.add(&world, start.began, &start.agent)?;
        if let Some(empty) = &mut empty {
            of_empty.add(land_one(empty, "people", n % 2 == 0)?.0.took);
        }
    }
    let row = Row::of(&answers[0].join(&answers[1]))
        .with_row("created", Row::of(&answers[0]))
        .with_row("handed_over", Row::of(&answers[1]))
        .with_row("from_call", Row::of(&calls));
    Ok(beside(row, &of_empty).with_row("steps_ms", steps.row()))
}

// ── the end of a run ───────────────────────────────────────────────────────────────────────────────────────────────────

/// What one hand-off took, from two beginnings.
pub(crate) struct HandOff {
    /// From the pid file's removal.
    pub(crate) start: Start,
    /// From the last act of the agent before: what the shim does at its end is in it too.
    from_last_act: f64,
}

/// The agent of `queue` hands its task to `last` and ends.
pub(crate) fn hop(world: &mut World, queue: &str) -> Result<HandOff, Failure> {
    world.wait_quiet(0, ECHO)?;
    let from = world.stamped()?;
    let task = world.client()?.create(queue, None)?.id;
    let second = world.started(from, "last", Some(task))?;
    between(world, from, (task, queue), second)
}

fn between(
    world: &World,
    from: usize,
    (task, queue): (u64, &str),
    second: Stamp,
) -> Result<HandOff, Failure> {
    let name = task.to_string();
    let ended = world
        .stamps_from(from)
        .iter()
        .find(|stamp| stamp.word == "end" && stamp.queue == queue && stamp.task == name)
        .ok_or("an agent that did not end")?
        .at;
    let unlinked = world.unlinked(task, &format!("0001-{queue}"))?;
    Ok(HandOff {
        from_last_act: (second.at as f64 - ended as f64) / 1e6,
        start: Start::new(unlinked, second),
    })
}

/// One task is worked on, another waits behind it in the same queue.
fn same_queue(world: &mut World) -> Result<HandOff, Failure> {
    world.wait_quiet(0, ECHO)?;
    let from = world.stamped()?;
    let mut client = world.client()?;
    let first = client.create("same", None)?.id;
    world.started(from, "same", Some(first))?;
    let second = client.create("same", None)?.id;
    let started = world.started(from, "same", Some(second))?;
    between(world, from, (first, "same"), started)
}

pub(crate) fn pid_to_exec(setup: &Setup, is_filled: bool) -> Result<Row, Failure> {
    let (mut world, mut empty) = worlds(setup, is_filled)?;
    let mut unlinked = [Times::default(), Times::default(), Times::default()];
    let (mut ended, mut steps) = (Times::default(), Steps::default());
    let mut of_empty = Times::default();
    for n in 0..setup.times(200) {
        let first = hop(&mut world, "hop")?;
        world.wait_quiet(0, CALM)?;
        steps.add(&world, first.start.began, &first.start.agent)?;
        unlinked[0].add(first.start.took);
        ended.add(first.from_last_act);
        if let Some(empty) = &mut empty {
            of_empty.add(hop(empty, "hop")?.start.took);
        }
        // What is told beside it needs less: its tail is nobody's promise.
        if n % 4 == 0 {
            unlinked[1].add(same_queue(&mut world)?.start.took);
            unlinked[2].add(hop(&mut world, "hop-at-once")?.start.took);
        }
    }
    let row = Row::of(&unlinked[0])
        .with_row("same_queue", Row::of(&unlinked[1]))
        .with_row("handed_over_and_gone_at_once", Row::of(&unlinked[2]))
        .with_row("from_last_act_of_agent", Row::of(&ended));
    Ok(beside(row, &of_empty).with_row("steps_ms", steps.row()))
}
