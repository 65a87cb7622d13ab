//! A base path after a year of work: thousands of open tasks in fifty queues, tens of thousands of finished runs on disk.
//!
//! The tasks are real ones of the built-in tinytask. All wait for one that a person has not done yet, so every queue has a free slot
//! and nothing it may start: what a look has to go through is then as much as it can be. The runs are copies of two real ones that this
//! very daemon made (one that handed its task on, one that completed it), under other numbers, tokens and tasks.
//!
//! They ended one after the other, in the three weeks before the last reboot: some 2,400 a day.
//!
//! Known gap: none of them failed.

use std::fs::File;
use std::io::{BufWriter, Write as _};
use std::path::Path;
use std::process::Command;

use crate::http::{Client, Task, field};
use crate::latency;
use crate::world::{Queue, World};
use crate::{Failure, Setup};

/// How much.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Size {
    pub(crate) tasks: usize,
    pub(crate) runs: usize,
    pub(crate) queues: usize,
}

/// Runs of a task that is done; more than twenty are forgotten.
const RUNS_OF_CLOSED: usize = 16;
/// Milliseconds in which they all ended.
const PAST: u64 = 21 * 86_400_000;
/// Who has what nobody may start.
const PEOPLE: &str = "people";
const CLIENTS: usize = 8;

impl Setup {
    /// What the rows whose name ends in `_10k` measure.
    pub(crate) fn full_size(&self) -> Size {
        match self.is_quick {
            true => Size {
                tasks: 1_000,
                runs: 5_000,
                queues: 50,
            },
            false => Size {
                tasks: 10_000,
                runs: 50_000,
                queues: 50,
            },
        }
    }
}

/// A world of the full size. The first row that asks for it makes it, the rows after take it as that one left it.
pub(crate) fn filled(setup: &Setup) -> Result<World, Failure> {
    let size = setup.full_size();
    let base = setup.scratch.join("filled");
    let is_there = base.join("is-filled").exists();
    if !is_there {
        std::fs::create_dir_all(&base)?;
    }
    let mut world = World::new(setup, base, "", &queues(size))?;
    if !is_there {
        fill(&mut world, size)?;
        // A year's runs are on the disk, and nothing is left to be written while something else is measured.
        let synced = Command::new("sync").status()?;
        if !synced.success() {
            return Err(format!("sync ended, {synced}").into());
        }
        std::fs::write(world.base.join("is-filled"), "")?;
    }
    world.keep();
    Ok(world)
}

/// The measured queues and as many others as make up the number.
pub(crate) fn queues(size: Size) -> Vec<Queue> {
    let mut queues = latency::queues();
    let others = size.queues.saturating_sub(queues.len());
    queues.extend((0..others).map(|n| Queue::new(format!("work-{n:02}"), "done", "")));
    queues
}

/// Puts tasks and runs there. Ends with the daemon dead and tinytask alive.
pub(crate) fn fill(world: &mut World, size: Size) -> Result<(), Failure> {
    world.start()?;
    latency::hop(world, "hop")?;
    world.wait_quiet(0, latency::ECHO)?;
    world.kill_daemon()?;
    // The task of the real runs is the first that there is.
    let handed_on = Sample::read(world, 1, "0001-hop")?;
    let done = Sample::read(world, 1, "0002-last")?;

    let names: Vec<String> = queues(size).into_iter().map(|queue| queue.name).collect();
    let blocker = world.client()?.create(PEOPLE, None)?;
    world.make_folder(blocker.id)?;
    let open = in_parallel(world, size.tasks, |client, n| {
        client.create(&names[n % names.len()], Some(blocker.id))
    })?;
    let of_closed = size.runs.saturating_sub(size.tasks);
    let closed = in_parallel(world, of_closed.div_ceil(RUNS_OF_CLOSED), |client, _| {
        let task = client.create(PEOPLE, None)?;
        client.complete(task.id)?;
        Ok(task)
    })?;

    let history = File::options()
        .append(true)
        .open(world.base.join(".calypso/history.jsonl"))?;
    let mut history = BufWriter::new(history);
    let mut left = size.runs as u64;
    let mut ago = || {
        left = left.saturating_sub(1);
        PAST * left / size.runs as u64
    };
    for (n, task) in closed.iter().enumerate() {
        let runs = RUNS_OF_CLOSED.min(of_closed - n * RUNS_OF_CLOSED);
        for number in 1..runs {
            handed_on.copy(world, task, number, "hop", ago(), &mut history)?;
        }
        done.copy(world, task, runs, "", ago(), &mut history)?;
    }
    for (n, task) in open.iter().enumerate() {
        world.make_folder(task.id)?;
        if n < size.runs {
            let to = &names[n % names.len()];
            handed_on.copy(world, task, 1, to, ago(), &mut history)?;
        }
    }
    history.flush()?;
    Ok(())
}

/// Tasks made by several clients at once; in the order of their numbers.
fn in_parallel(
    world: &World,
    count: usize,
    make: impl Fn(&mut Client, usize) -> Result<Task, Failure> + Sync,
) -> Result<Vec<Task>, Failure> {
    let mut tasks = std::thread::scope(|scope| {
        let making: Vec<_> = (0..CLIENTS)
            .map(|first| {
                let make = &make;
                scope.spawn(move || {
                    let mut client = world.client()?;
                    let mine = (first..count).step_by(CLIENTS);
                    mine.map(|n| Ok((n, make(&mut client, n)?)))
                        .collect::<Result<Vec<_>, Failure>>()
                })
            })
            .collect();
        let mut tasks = Vec::new();
        for made in making {
            tasks.extend(made.join().map_err(|_| "a client panicked")??);
        }
        Ok::<_, Failure>(tasks)
    })?;
    tasks.sort_by_key(|(n, _)| *n);
    Ok(tasks.into_iter().map(|(_, task)| task).collect())
}

/// The records of a real run.
struct Sample {
    queue: String,
    files: Vec<(String, String)>,
    token: String,
    run: String,
    created_at: String,
    boot_id: String,
}

impl Sample {
    fn read(world: &World, task: u64, run: &str) -> Result<Self, Failure> {
        let folder = world.base.join(format!(".calypso/runs/task_{task}/{run}"));
        let mut files = Vec::new();
        for entry in std::fs::read_dir(&folder)? {
            let entry = entry?;
            let name = entry.file_name().to_string_lossy().into_owned();
            files.push((name, std::fs::read_to_string(entry.path())?));
        }
        let spec = std::fs::read_to_string(folder.join("spec.json"))?;
        let of = |name: &str| field(&spec, name).ok_or_else(|| format!("a spec without `{name}`"));
        let (number, queue) = run
            .split_once('-')
            .ok_or("a run directory has a number and a queue")?;
        Ok(Self {
            queue: queue.to_owned(),
            token: of("token")?,
            run: format!("\"{task}/{}\"", number.trim_start_matches('0')),
            created_at: of("created_at")?,
            boot_id: of("boot_id")?,
            files,
        })
    }

    /// The same run of another task, which went `to` the queue, so many milliseconds `ago`.
    fn copy(
        &self,
        world: &World,
        task: &Task,
        number: usize,
        to: &str,
        ago: u64,
        history: &mut impl std::io::Write,
    ) -> Result<(), Failure> {
        let (id, created_at) = (task.id, seconds(&task.created_at)?);
        let folder = world.base.join(format!(
            ".calypso/runs/task_{id}/{number:04}-{}",
            self.queue
        ));
        std::fs::create_dir_all(&folder)?;
        // 128 bits as 32 digits, different for each.
        let token = format!("{id:016x}{number:016x}");
        for (name, text) in &self.files {
            let text = text
                .replace(&self.token, &token)
                .replace(&self.run, &format!("\"{id}/{number}\""))
                .replace("\"id\": 1,", &format!("\"id\": {id},"))
                .replace(&self.created_at, &created_at.to_string())
                .replace("\"stay\": 1,", &format!("\"stay\": {number},"))
                .replace("\"to\": \"last\"", &format!("\"to\": \"{to}\""))
                .replace(&self.boot_id, "00000000-0000-4000-8000-000000000000");
            let text = earlier(&text, ago)?;
            write(&folder.join(name), &text)?;
            if name == "verdict.json" {
                let line: String = text
                    .lines()
                    .map(|line| line.trim_start().replacen("\": ", "\":", 1))
                    .collect();
                writeln!(history, "{line}")?;
            }
        }
        Ok(())
    }
}

/// The record, with all wall clocks back by so many milliseconds.
fn earlier(text: &str, by: u64) -> Result<String, Failure> {
    const KEY: &str = "\"wall\": ";
    let mut parts = text.split(KEY);
    let mut moved = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let end = part.find(|c: char| !c.is_ascii_digit());
        let (wall, rest) = part.split_at(end.unwrap_or(part.len()));
        let wall = wall.parse::<u64>()? - by;
        moved += &format!("{KEY}{wall}{rest}");
    }
    Ok(moved)
}

fn write(path: &Path, text: &str) -> Result<(), Failure> {
    let mut file = File::create(path)?;
    if !text.is_empty() {
        file.write_all(text.as_bytes())?;
    }
    Ok(())
}

/// `2026-11-23T02:31:34Z` in seconds since 1970.
fn seconds(text: &str) -> Result<u64, Failure> {
    let numbers: Vec<u64> = text
        .split(|c: char| !c.is_ascii_digit())
        .filter(|part| !part.is_empty())
        .map(str::parse)
        .collect::<Result<_, _>>()?;
    let [year, month, day, hour, minute, second, ..] = numbers[..] else {
        return Err(format!("not a time: {text}").into());
    };
    // Days since 1970, counted from a March: the leap day is then the last of its year.
    let (year, month) = if month > 2 {
        (year, month - 3)
    } else {
        (year - 1, month + 9)
    };
    let days =
        365 * year + year / 4 - year / 100 + year / 400 + (153 * month + 2) / 5 + day - 1 - 719_468;
    Ok(days * 86_400 + hour * 3600 + minute * 60 + second)
}
