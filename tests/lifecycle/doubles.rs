//! Never two live runs for one task, and never two daemons.

use std::time::Duration;

use crate::World;
use crate::world::EXE;

#[test]
fn of_two_daemons_started_at_once_one_is_refused() {
    let mut world = World::new()
        .queue("coder", "claim; gate go; finish")
        .configure();
    let task = world.task("coder", "only once");
    let mut other = world
        .command(EXE)
        .arg("run")
        .stdout(std::process::Stdio::null())
        .stderr(std::process::Stdio::piped())
        .spawn()
        .expect("our own binary starts");
    world.launch(EXE);
    world.eventually("the agent starts", |w| w.count("at-go coder") == 1);
    // Whichever lost the race has ended by itself.
    let its = crate::world::within("one of them ends", Duration::from_secs(30), || match other
        .try_wait()
        .expect("it is ours")
    {
        Some(status) => Some(Some(status)),
        None => (!world.daemon_lives()).then_some(None),
    });
    if let Some(status) = its {
        assert_eq!(status.code(), Some(3));
        assert!(world.daemon_lives());
    } else {
        assert_eq!(world.daemon_ends(), Some(3));
        other.kill().expect("it is ours");
        other.wait().expect("it is ours");
        world.run();
    }
    let again = world.cw(&["run"]);
    assert_eq!(again.code, Some(3), "{again:?}");
    assert!(again.err.contains("is watching"), "{again:?}");
    let once = world.cw(&["run", "--once"]);
    assert_eq!(once.code, Some(3), "{once:?}");
    world.open("go");
    world.eventually("complete", |w| w.is_complete(task));
    world.is_clean();
    assert_eq!(world.count("start coder"), 1);
}

#[test]
fn a_look_for_cron_starts_what_can_start_and_waits_for_nothing() {
    let world = World::new()
        .queue("coder", "claim; gate go; finish")
        .configure();
    let once = world.cw(&["run", "--once"]);
    assert_eq!(once.code, Some(0), "{once:?}");
    let task = world.task("coder", "by cron");
    let held = world.task("coder", "waits for the slot");
    for _ in 0..3 {
        let once = world.cw(&["run", "--once"]);
        assert_eq!(once.code, Some(0), "{once:?}");
    }
    world.eventually("it works", |w| w.count("at-go coder") == 1);
    world.open("go");
    world.eventually("complete", |w| w.is_complete(task));
    world.eventually("the next one too, by cron", |w| {
        w.ok(&["run", "--once"]);
        w.is_complete(held)
    });
    world.eventually("judged", |w| {
        w.ok(&["run", "--once"]);
        w.names(".calypso/live").is_empty()
    });
    world.is_clean();
    assert_eq!(world.count("start coder"), 2);
}

#[test]
fn a_hand_off_waits_for_the_agent_that_lingers() {
    let world = World::new()
        .queue("architect", "claim; move coder; note moved; gate linger")
        .queue("coder", "claim; finish")
        .start();
    let task = world.task("architect", "handed on early");
    world.eventually("moved", |w| w.count("moved architect") == 1);
    // Something else wakes the daemon meanwhile, more than once.
    for n in 0..5 {
        world.write(&format!("workqueue/task_{task}/note-{n}"), "");
        world.ok(&["task", "comment", &task.to_string(), "still there?"]);
        world.looks();
    }
    assert_eq!(world.count("start coder"), 0);
    world.open("linger");
    world.eventually("complete", |w| w.is_complete(task));
    world.is_clean();
    let order: Vec<_> = world
        .stamps()
        .iter()
        .filter(|s| s.starts_with("start ") || s.starts_with("end "))
        .map(|s| s.split(' ').take(2).collect::<Vec<_>>().join(" "))
        .collect();
    assert_eq!(
        order,
        [
            "start architect",
            "end architect",
            "start coder",
            "end coder"
        ]
    );
}

#[test]
fn a_pid_file_removed_by_hand_frees_nothing_while_the_agent_lives() {
    let mut world = World::new()
        .queue("coder", "claim; gate go; finish")
        .start();
    let task = world.task("coder", "its pid file goes");
    let (_, agent) = world.processes(task);
    std::fs::remove_file(world.path(&format!("running_tasks/task_{task}.pid"))).expect("there");
    let is_held = |w: &World| {
        let (status, _) = w.status();
        status["queues"][0]["runs"][0]["holds"][0]["hold"] == "still_alive"
    };
    world.eventually("held against the run", is_held);
    // Even if the task looks free again.
    world.update(task, crate::json!({"status": "idle"}));
    world.kill_daemon();
    world.run();
    world.eventually("held again", is_held);
    assert!(
        world.marked("CALYPSO_RUN=").contains(&agent),
        "nobody was killed"
    );
    assert_eq!(world.count("start coder"), 1);
    world.open("go");
    world.eventually("complete", |w| w.is_complete(task));
    world.is_clean();
    assert_eq!(world.verdicts(task).len(), 1);
    assert_eq!(world.count("start coder"), 1);
}

/// A task that looks idle again while its agent works: put back by a person, say. Its own run is what holds it.
#[test]
fn a_task_set_to_idle_by_hand_is_not_started_beside_its_run() {
    let world = World::new()
        .set("max_runs", "8")
        .section("[queues.coder]\nconcurrency = 4")
        .queue("coder", "claim; gate go; finish")
        .start();
    let task = world.task("coder", "put back too early");
    world.eventually("it works", |w| w.count("at-go coder") == 1);
    for _ in 0..3 {
        world.ok(&["putback", &task.to_string()]);
        world.ok(&["retry", &task.to_string()]);
        world.ok(&["release", &task.to_string()]);
        world.looks();
    }
    assert_eq!(world.count("start coder"), 1);
    world.open("go");
    world.eventually("complete", |w| w.is_complete(task));
    world.is_clean();
    assert_eq!(world.count("start coder"), 1);
}
