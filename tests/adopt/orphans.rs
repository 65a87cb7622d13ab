//! Agents whose shim is dead, and agents that people started themselves, over the deaths of daemons.

use std::process::Command;

use calypso_watch::core::model::Outcome;
use nix::sys::signal::Signal;

use crate::stop::stop;
use crate::{Ends, World, is_alive, send, state_of};

/// Its children left its session and its process group, and hold no lock: the token in their environment names them.
#[test]
fn what_an_orphan_leaves_is_found_wherever_it_went_and_ended_by_the_next_daemon() {
    let mut world = World::new()
        .queue(
            "coder",
            "claim; setsid python3 -c 'import time; time.sleep(1000)' & setsid sh -c 'trap \"\" TERM HUP; while :; do sleep 1; done' & \
             (sleep 1000 &); gate go; finish",
        )
        .start();
    let task = world.task("coder", "its shim and its daemon die");
    world.eventually("it works", |w| w.count("at-go coder") == 1);
    let (shim, agent) = world.processes(task);
    world.eventually("its children are there", |w| {
        w.marked("CALYPSO_RUN=").len() >= 4
    });
    world.kill_daemon();
    send(shim, Signal::SIGKILL);
    world.run();
    world.eventually("an orphan", |w| state_of(w, "coder") == "orphan");
    world.kill_daemon();
    world.open("go");
    world.eventually("the agent is over", |_| !is_alive(agent));
    assert!(
        !world.marked("CALYPSO_RUN=").is_empty(),
        "its children are not"
    );
    world.run();
    world.eventually("judged", |w| w.verdicts(task).len() == 1);
    assert_eq!(world.outcomes(task), [Outcome::Lost]);
    assert!(world.is_complete(task));
    // Before the verdict, not some time after it.
    assert_eq!(world.marked("CALYPSO_RUN="), [0; 0]);
    world.is_clean();
    assert_eq!(world.count("start coder"), 1);
}

/// The limit counts from the start of the run, not from that of whichever daemon enforces it.
#[test]
fn the_time_limit_of_an_orphan_outlasts_its_daemons() {
    let mut world = World::new()
        .set("time_limit", "\"6s\"")
        .set("max_attempts", "1")
        .queue(
            "coder",
            "trap '' INT TERM; claim; while :; do sleep 0.1; done",
        )
        .queue(
            "devops",
            "trap '' INT TERM; claim; while :; do sleep 0.1; done",
        )
        .start();
    let watched = world.task("coder", "ended at its limit");
    let unwatched = world.task("devops", "long past its limit");
    let (first, second) = (world.processes(watched), world.processes(unwatched));
    for _ in 0..2 {
        world.kill_daemon();
        send(first.0, Signal::SIGKILL);
        world.eventually("dead", |_| !is_alive(first.0));
        if is_alive(second.0) {
            send(second.0, Signal::SIGKILL);
        }
        world.run();
        if is_alive(first.1) {
            break;
        }
    }
    world.eventually("ended", |w| {
        !is_alive(first.1) && w.verdicts(watched).len() == 1
    });
    world.eventually("ended", |w| {
        !is_alive(second.1) && w.verdicts(unwatched).len() == 1
    });
    assert_eq!(world.outcomes(watched), [Outcome::TimedOut]);
    assert_eq!(world.outcomes(unwatched), [Outcome::TimedOut]);
    world.is_clean();
}

/// Nobody was there when its time came: the first look of the next daemon ends it.
#[test]
fn an_orphan_past_its_limit_is_ended_by_the_first_look() {
    let mut world = World::new()
        .set("time_limit", "\"2s\"")
        .set("max_attempts", "1")
        .queue(
            "coder",
            "trap '' INT TERM; claim; while :; do sleep 0.1; done",
        )
        .start();
    let task = world.task("coder", "nobody looks");
    let (shim, agent) = world.processes(task);
    world.kill_daemon();
    send(shim, Signal::SIGKILL);
    std::thread::sleep(std::time::Duration::from_secs(3));
    assert!(is_alive(agent), "there is nobody to end it");
    world.run();
    world.eventually("ended", |w| !is_alive(agent) && w.verdicts(task).len() == 1);
    assert_eq!(world.outcomes(task), [Outcome::TimedOut]);
    world.is_clean();
}

/// Somebody starts an agent by hand, beside a daemon or while there is none, and writes its pid where ours stand.
#[test]
fn a_run_started_by_hand_is_respected_by_every_daemon_until_it_is_dead() {
    let mut world = World::new()
        .set("rescan", "\"1s\"")
        .queue("coder", "claim; finish")
        .configure();
    let task = world.task("coder", "somebody is at it");
    let mut by_hand = Ends::new(Command::new("sleep").arg("1000"));
    let name = format!("running_tasks/task_{task}.pid");
    world.write(&name, &format!("{}\n", by_hand.pid()));
    for signal in [Signal::SIGKILL, Signal::SIGTERM] {
        world.run();
        world.looks();
        assert_eq!(world.hold(task), "running_outside");
        world.end_daemon(signal);
    }
    // A new one takes its place while nobody looks.
    let mut second = Ends::new(Command::new("sleep").arg("1000"));
    world.write(&name, &format!("{}\n", second.pid()));
    by_hand.end();
    world.run();
    world.looks();
    assert_eq!(world.hold(task), "running_outside");
    assert_eq!(world.count("start coder"), 0);
    assert!(is_alive(second.pid()), "it was never signalled");
    second.end();
    world.eventually("complete", |w| w.is_complete(task));
    world.is_clean();
    assert_eq!(world.count("start coder"), 1);
}

/// A suspended machine: everything stands still together, for longer than any grace. Nothing is taken for dead or started twice.
#[test]
fn everything_standing_still_for_a_while_loses_nothing() {
    let mut world = World::new()
        .queue("architect", "claim; gate go; move coder")
        .queue("coder", "claim; finish")
        .start();
    let tasks: Vec<i64> = (0..3)
        .map(|n| world.task("architect", &format!("{n}")))
        .collect();
    world.eventually("one works", |w| w.count("at-go architect") == 1);
    for still in [1_u64, 12] {
        // The daemon first: it must not see the others stopped.
        let daemon = world.daemon_pid();
        stop(daemon);
        let others: Vec<i32> = (world.marked("").into_iter())
            .filter(|pid| *pid != daemon)
            .collect();
        for pid in &others {
            nix::sys::signal::kill(nix::unistd::Pid::from_raw(*pid), Signal::SIGSTOP).ok();
        }
        if still > 1 {
            world.open("go");
        }
        std::thread::sleep(std::time::Duration::from_secs(still));
        for pid in others.into_iter().chain([daemon]) {
            nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), Signal::SIGCONT).ok();
        }
    }
    world.at_length("all complete", |w| {
        tasks.iter().all(|id| w.is_complete(*id))
    });
    assert!(world.daemon_lives());
    world.is_clean();
    assert_eq!(world.count("start architect"), 3);
    assert_eq!(world.count("start coder"), 3);
    for id in tasks {
        assert_eq!(world.outcomes(id), [Outcome::Exited(0), Outcome::Exited(0)]);
    }
}
