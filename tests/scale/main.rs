//! Does a wake cost the same however much there is? Counted, not timed: what the daemon asks of the kernel and of tinytask between the
//! drop of a file and the verdict on its run, as past runs, open tasks and queues grow.
//!
//! strace(1) counts. A slip to O(all runs), or to all tasks, is thousands of calls or some hundred kilobytes; what differs between two
//! runs of the same test (an event more, another look) is some dozens.

#![expect(
    clippy::disallowed_methods,
    reason = "a test writes its scripts and waits by the clock"
)]

#[expect(dead_code, reason = "other tests use all of it, these a part")]
#[path = "../support/client.rs"]
mod client;
#[path = "../lifecycle/world.rs"]
#[expect(dead_code, reason = "shared with other tests, which use more of it")]
mod world;

use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, PoisonError};

use calypso_watch::core::model::RunSubject;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use world::World;

/// What the daemon did, as strace(1) saw it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Cost {
    /// System calls that name, list or read a file, for each look.
    calls: usize,
    /// Bytes listed and read, for each look.
    bytes: usize,
    /// Calls of tinytask's tools.
    asked: usize,
}

/// Counts what the daemon's one thread does: not its children, which are as many as there are runs, nor the watcher's thread.
struct Strace {
    child: Child,
    log: PathBuf,
}

impl Strace {
    fn attach(world: &World) -> Self {
        let log = world.path("strace.log");
        let pid = world.daemon_pid();
        let child = Command::new("strace")
            .args(["-qq", "-s", "4096", "-e"])
            .arg("trace=%file,getdents64,read,pread64,write,writev,sendto,sendmsg")
            .args(["-e", "signal=none", "-o"])
            .arg(&log)
            .args(["-p", &pid.to_string()])
            .stdin(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("strace is there: scripts/test.sh installs it");
        let is_traced = || {
            let status = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/status"));
            !status.expect("it lives").contains("TracerPid:\t0\n")
        };
        world.eventually("strace has it", |_| is_traced());
        Self { child, log }
    }

    /// All that was traced.
    fn log(mut self) -> String {
        kill(Pid::from_raw(self.child.id().cast_signed()), Signal::SIGINT).expect("it is ours");
        self.child.wait().expect("it is ours");
        let log = std::fs::read(&self.log).expect("its log");
        String::from_utf8_lossy(&log).into_owned()
    }

    fn end(self) -> Cost {
        let log = self.log();
        let mut cost = Cost {
            calls: 0,
            bytes: 0,
            asked: 0,
        };
        let mut looks = 0;
        for line in log.lines() {
            // Each look lists live/ once; how many there are depends on how loaded the machine is.
            looks += usize::from(line.contains("/.calypso/live\", O_"));
            let name = line.split('(').next().unwrap_or_default();
            if ["write", "writev", "sendto", "sendmsg"].contains(&name) {
                cost.asked += usize::from(line.contains("tools/call"));
                continue;
            }
            cost.calls += 1;
            if ["read", "pread64", "getdents64"].contains(&name) {
                let result = line.rsplit(" = ").next().unwrap_or_default();
                cost.bytes += result.trim().parse::<usize>().unwrap_or(0);
            }
        }
        assert!(looks > 0, "it looked");
        cost.calls /= looks;
        cost.bytes /= looks;
        cost
    }
}

impl Drop for Strace {
    fn drop(&mut self) {
        // Ours until it is waited for; a traced daemon goes on without it.
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

/// A base path with a dispatcher that takes the one file away.
fn world() -> World {
    World::new().queue("dispatcher", r#"rm "$B"/inbound/*"#)
}

/// What the cheapest of three drops costs, from the drop to the verdict.
fn drop_to_verdict(world: &World) -> Cost {
    let judged = |w: &World| w.verdicts_of(RunSubject::Inbound).len();
    let is_over = |w: &World, n| judged(w) == n && w.names(".calypso/live").is_empty();
    let one = |nth: usize| {
        world.looks();
        let before = judged(world);
        let strace = Strace::attach(world);
        world.write(&format!("inbound/request-{nth}.md"), "x");
        world.eventually("the run is judged", |w| is_over(w, before + 1));
        strace.end()
    };
    let costs = [one(1), one(2), one(3)];
    Cost {
        calls: costs.iter().map(|cost| cost.calls).min().unwrap_or(0),
        bytes: costs.iter().map(|cost| cost.bytes).min().unwrap_or(0),
        asked: costs.iter().map(|cost| cost.asked).min().unwrap_or(0),
    }
}

#[track_caller]
fn is_flat(what: &str, small: Cost, large: Cost) {
    assert!(small.calls > 20, "{what}: something was counted: {small:?}");
    assert!(
        large.calls <= small.calls * 3 / 2 + 150,
        "{what}: more system calls: {small:?} → {large:?}"
    );
    assert!(
        large.bytes <= small.bytes * 3 / 2 + (48 << 10),
        "{what}: more is read: {small:?} → {large:?}"
    );
    assert!(
        large.asked <= small.asked + 4,
        "{what}: tinytask is asked more often: {small:?} → {large:?}"
    );
}

/// One after the other: strace slows a daemon down enough without another one beside it.
static ALONE: Mutex<()> = Mutex::new(());

/// What a run at work does is heard of by its folder and by the end of its shim, so a rescan beside it opens nothing.
#[test]
fn a_rescan_beside_live_runs_opens_none_of_their_records() {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let mut world = World::new().set("max_runs", "4").set("rescan", "\"1s\"");
    for n in 0..3 {
        world = world.queue(&format!("work-{n}"), "claim; gate go");
    }
    let world = world.start();
    for n in 0..3 {
        world.task(&format!("work-{n}"), "works");
    }
    let works = |w: &World, n: usize| w.count(&format!("at-go work-{n}")) == 1;
    world.eventually("all work", |w| (0..3).all(|n| works(w, n)));
    world.eventually("nothing is opened", |w| {
        let strace = Strace::attach(w);
        // Nothing else happens, so that a rescan is what says by the lock that the daemon lives.
        for _ in 0..2 {
            let said = || std::fs::metadata(w.path(".calypso/lock")).and_then(|it| it.modified());
            let before = said().expect("a lock");
            w.eventually("a rescan", |_| said().expect("a lock") > before);
        }
        let log = strace.log();
        assert!(log.contains("/recipes/work-0"), "it looked about: {log}");
        !log.contains("state.json") && !log.contains("/.calypso/live\", O_")
    });
    world.open("go");
    world.eventually("all are over", |w| w.names(".calypso/live").is_empty());
}

/// Finished runs of closed tasks, as the one real run of `task` left them.
fn past_runs(world: &World, task: i64, many: i64) {
    let run = world.runs(task).pop().expect("it ran");
    let from = world.layout.run(&run).dir;
    let line = world.read(".calypso/history.jsonl");
    let line = line.lines().last().expect("it is told").to_owned();
    let mut history = String::new();
    for n in 100_000..100_000 + many {
        let folder = world.path(&format!(".calypso/runs/task_{n}"));
        let dir = folder.join(run.dir_name());
        std::fs::create_dir_all(&dir).expect("a folder");
        for file in ["spec.json", "state.json", "verdict.json", "output.log"] {
            std::fs::copy(from.join(file), dir.join(file)).expect("a copy");
        }
        history += &line.replace(&format!("\"{task}/1\""), &format!("\"{n}/1\""));
        history.push('\n');
    }
    let path = world.path(".calypso/history.jsonl");
    let before = std::fs::read_to_string(&path).expect("a history");
    std::fs::write(path, before + &history).expect("written");
}

#[test]
fn a_wake_costs_the_same_with_two_thousand_past_runs() {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let with = |many| {
        let mut world = world().queue("coder", "claim; finish").start();
        let task = world.task("coder", "the first");
        world.eventually("it ran", |w| {
            w.verdicts(task).len() == 1 && w.names(".calypso/live").is_empty()
        });
        world.end_daemon(Signal::SIGTERM);
        past_runs(&world, task, many);
        world.run();
        drop_to_verdict(&world)
    };
    is_flat("past runs, 10 to 2,000", with(10), with(2_000));
}

#[test]
fn a_wake_costs_the_same_with_a_thousand_open_tasks() {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let with = |many: usize| {
        let world = world().queue("coder", "claim; finish").start();
        world.ok(&["pause", "coder"]);
        for n in 0..many / 2 {
            world.task("coder", &format!("waits {n}"));
            world.task("people", &format!("waits for people {n}"));
        }
        drop_to_verdict(&world)
    };
    is_flat("open tasks, 10 to 1,000", with(10), with(1_000));
}

#[test]
fn a_wake_costs_the_same_with_twenty_queues() {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let with = |many: usize| {
        let mut world = world();
        for n in 0..many {
            world = world.queue(&format!("queue-{n}"), "claim; finish");
        }
        let world = world.start();
        for n in 0..many {
            world.ok(&["pause", &format!("queue-{n}")]);
            world.task(&format!("queue-{n}"), "waits");
        }
        drop_to_verdict(&world)
    };
    is_flat("queues, 1 to 20", with(1), with(20));
}
