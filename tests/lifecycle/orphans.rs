//! Shims and agents killed or frozen from outside: what lives is watched, what is left is ended, and the task starts again.

use std::time::Duration;

use calypso_watch::core::model::Outcome;
use calypso_watch::core::record::FailureClass;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::World;
use crate::stop::stop;

fn send(pid: i32, signal: Signal) {
    kill(Pid::from_raw(pid), signal).expect("it lives");
}

fn is_alive(pid: i32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit(") ")
        .next()
        .is_some_and(|rest| !rest.is_empty() && !rest.starts_with(['Z', 'X']))
}

fn state_of(world: &World) -> String {
    let (status, _) = world.status();
    status["queues"][0]["runs"][0]["state"]
        .as_str()
        .unwrap_or_default()
        .to_owned()
}

#[test]
fn an_orphan_is_watched_its_leftovers_are_swept_and_the_task_starts_again() {
    let world = World::new()
        .queue(
            "coder",
            "claim; (trap '' TERM; while :; do sleep 0.05; done) & note child; gate \"go-$(cat \"$B/round\")\"; finish",
        )
        .configure();
    world.write("round", "1");
    let mut world = world;
    world.run();
    let task = world.task("coder", "its shim dies");
    world.eventually("it works", |w| w.count("at-go-1 coder") == 1);
    let (shim, agent) = world.processes(task);
    send(shim, Signal::SIGKILL);
    world.eventually("an orphan", |w| state_of(w) == "orphan");
    assert!(is_alive(agent));
    assert_eq!(world.count("start coder"), 1);
    // Its end is noticed at once, although no file tells and the slow rescan is a minute away; it dies without cleaning up.
    world.write("round", "2");
    send(agent, Signal::SIGKILL);
    world.eventually("started again", |w| w.count("at-go-2 coder") == 1);
    let verdicts = world.verdicts(task);
    assert_eq!(verdicts[0].outcome, Outcome::Lost);
    assert_eq!(
        verdicts[0].failure.as_ref().map(|f| f.class),
        Some(FailureClass::Ours)
    );
    // What it left does not live beside the second run: only that run's own child does.
    let run = world.record(task).expect("the second run").token;
    world.eventually("swept", |w| {
        w.marked("CALYPSO_RUN=").len() == w.marked(&format!("CALYPSO_RUN={run}")).len()
    });
    world.open("go-2");
    world.eventually("complete", |w| w.is_complete(task));
    world.is_clean();
    assert_eq!(world.outcomes(task), [Outcome::Lost, Outcome::Exited(0)]);
    assert_eq!(world.verdicts(task)[1].attempt, 1, "no attempt of the task");
}

#[test]
fn an_orphan_that_does_its_work_is_judged_by_that() {
    let mut world = World::new()
        .queue("coder", "claim; gate go; finish")
        .start();
    let task = world.task("coder", "its shim and its daemon die");
    world.eventually("it works", |w| w.count("at-go coder") == 1);
    let (shim, agent) = world.processes(task);
    world.kill_daemon();
    send(shim, Signal::SIGKILL);
    world.run();
    world.eventually("an orphan", |w| state_of(w) == "orphan");
    assert!(is_alive(agent));
    world.open("go");
    world.eventually("complete", |w| w.is_complete(task));
    world.is_clean();
    assert_eq!(world.outcomes(task), [Outcome::Lost]);
    assert!(world.verdicts(task)[0].failure.is_none());
    assert_eq!(world.count("start coder"), 1);
}

#[test]
fn the_time_limit_of_an_orphan_is_the_daemons_to_enforce() {
    let world = World::new()
        .set("time_limit", "\"3s\"")
        .set("max_attempts", "1")
        .queue(
            "coder",
            "trap '' INT TERM; claim; while :; do sleep 0.05; done",
        )
        .start();
    let task = world.task("coder", "never ends");
    let (shim, agent) = world.processes(task);
    send(shim, Signal::SIGKILL);
    world.eventually("ended", |w| !is_alive(agent) && w.verdicts(task).len() == 1);
    assert_eq!(world.outcomes(task), [Outcome::TimedOut]);
    world.eventually("parked, with word", |w| w.our_comments(task).len() == 1);
    world.eventually("idle again", |w| w.state(task) == "idle");
    world.is_clean();
}

#[test]
fn a_killed_agent_costs_an_attempt_and_its_children() {
    let world = World::new()
        .set("max_attempts", "1")
        .queue("coder", "claim; sleep 1000 & gate go")
        .start();
    let task = world.task("coder", "killed");
    world.eventually("it works", |w| w.count("at-go coder") == 1);
    let (_, agent) = world.processes(task);
    send(agent, Signal::SIGKILL);
    world.eventually("judged", |w| w.verdicts(task).len() == 1);
    assert_eq!(world.outcomes(task), [Outcome::Signaled(9)]);
    world.is_clean();
}

/// A person stops an orphan: the daemon does what the shim would have done.
#[test]
fn an_orphan_is_stopped_by_name() {
    let world = World::new()
        .queue("coder", "trap '' INT; claim; while :; do sleep 0.05; done")
        .start();
    let task = world.task("coder", "stopped");
    let (shim, agent) = world.processes(task);
    send(shim, Signal::SIGKILL);
    world.eventually("an orphan", |w| state_of(w) == "orphan");
    world.ok(&["stop", &task.to_string()]);
    world.eventually("ended", |w| !is_alive(agent) && w.verdicts(task).len() == 1);
    assert!(matches!(world.outcomes(task)[..], [Outcome::Stopped(_)]));
    world.eventually("held", |w| w.hold(task) == "stopped_by_person");
    world.is_clean();
}

/// A shim that is stopped neither ends its agent at the limit nor collects it. The daemon does, half a minute later.
#[test]
fn a_frozen_shim_does_not_hold_a_task_for_ever() {
    let world = World::new()
        .set("time_limit", "\"1s\"")
        .set("max_attempts", "1")
        .queue("coder", "claim; sleep 1000 & gate never")
        .start();
    let task = world.task("coder", "its shim freezes");
    let (shim, agent) = world.processes(task);
    stop(shim);
    world.at_length("taken over", |w| {
        !is_alive(agent) && w.verdicts(task).len() == 1
    });
    assert_eq!(world.outcomes(task), [Outcome::TimedOut]);
    assert!(!is_alive(shim));
    world.is_clean();
}

/// The shim is killed as early as a test can: whatever it had done by then, the task runs to its end, and only once at a time.
#[test]
fn a_shim_killed_at_any_moment_costs_a_start_at_most() {
    let world = World::new()
        .queue("coder", "claim 2>/dev/null; gate go; finish")
        .start();
    let mut tasks = Vec::new();
    for round in 0..4_u64 {
        let task = world.task("coder", "a moving target");
        tasks.push(task);
        let shim = world.eventually_some("a shim", |w| Some(w.record(task)?.shim.pid));
        std::thread::sleep(Duration::from_millis(round * 4));
        kill(Pid::from_raw(shim), Signal::SIGKILL).ok();
        world.open("go");
        world.eventually("complete", |w| w.is_complete(task));
        world.eventually("judged", |w| w.names(".calypso/live").is_empty());
        world.close("go");
    }
    world.is_clean();
}

/// Its lock would be held, and its queue wait, for as long as it stands.
#[test]
fn a_shim_that_stands_still_before_its_first_record_is_ended() {
    let world = World::new().queue("coder", "claim; finish").start();
    let spare = world.eventually_some("a shim waits", World::spare);
    stop(spare);
    let task = world.task("coder", "by another shim");
    world.eventually("complete", |w| w.is_complete(task));
    assert!(!is_alive(spare));
    world.is_clean();
    let outcomes = world.outcomes(task);
    assert_eq!(outcomes.len(), 2, "{outcomes:?}");
    assert!(matches!(outcomes[0], Outcome::NotLaunched(_)));
    assert_eq!(outcomes[1], Outcome::Exited(0));
}

#[test]
fn no_spare_shim_outlives_its_daemon() {
    let mut world = World::new().queue("coder", "claim; finish").start();
    for ending in [Signal::SIGKILL, Signal::SIGTERM] {
        let spare = world.eventually_some("a shim waits", World::spare);
        world.end_daemon(ending);
        world.eventually("it is over", |_| !is_alive(spare));
        world.run();
    }
}
