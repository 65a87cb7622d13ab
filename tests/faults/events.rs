//! More events than the kernel keeps, and no more watches.

use calypso_watch::core::model::RunSubject;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::World;
use crate::space::inside;
use crate::stop::stop;

/// More than /proc/sys/fs/inotify/max_queued_events, which is 16,384 by default.
fn storm() -> usize {
    let limit = std::fs::read_to_string("/proc/sys/fs/inotify/max_queued_events").expect("Linux");
    limit.trim().parse::<usize>().expect("a number").max(16_384) + 4_000
}

const OVERFLOW: &str = "more happened than the kernel keeps events for";

#[test]
fn twenty_thousand_drops_while_the_daemon_stands_still_are_all_seen_once() {
    let mut world = World::new()
        .queue(
            "dispatcher",
            "ls \"$B/inbound\" >>\"$B/taken\"; find \"$B/inbound\" -type f -delete",
        )
        .start();
    let pid = Pid::from_raw(world.daemon_pid());
    stop(world.daemon_pid());
    let drops = storm();
    for n in 0..drops {
        std::fs::write(world.path(&format!("inbound/request-{n}.md")), "x").expect("a drop");
    }
    kill(pid, Signal::SIGCONT).expect("ours");
    world.at_length("all are dispatched", |w| w.names("inbound").is_empty());
    world.at_length("and judged", |w| {
        w.verdicts_of(RunSubject::Inbound).len() == 1 && w.names(".calypso/live").is_empty()
    });
    world.at_length("the overflow is said", |w| {
        w.read("daemon.log").contains(OVERFLOW)
    });
    let taken = world.read("taken");
    let mut names: Vec<_> = taken.lines().collect();
    assert_eq!(names.len(), drops, "each once");
    names.sort_unstable();
    names.dedup();
    assert_eq!(names.len(), drops, "and no other twice");
    assert_eq!(world.starts(), ["dispatcher inbound"], "one run for all");
    assert!(world.daemon_lives());
    world.is_clean();
}

/// Bursts in the other folders push out of the queue what matters: the pid file that went, the folder that came.
#[test]
fn a_burst_elsewhere_hides_neither_the_end_of_a_run_nor_the_folder_of_a_task() {
    let world = World::new()
        .queue("first", "claim; gate one; move second")
        .queue("second", "claim; finish")
        .queue("third", "claim; finish")
        .set("rescan", "\"10m\"")
        .start();
    let id = world.task("first", "handed on unseen");
    let waits = world.task("third", "x");
    world.eventually("third is idle again", |w| w.is_complete(waits));
    let held = world.call(
        "create_task",
        &serde_json::json!({"title": "its folder comes unseen", "assigned_to": "third", "created_by": "a test"}),
    )["id"]
        .as_i64()
        .expect("a number");
    world.processes(id);
    world.eventually("it waits for its folder", |w| w.hold(held) == "no_folder");
    let pid = Pid::from_raw(world.daemon_pid());
    stop(world.daemon_pid());
    let burst = |folder: &str| {
        // A file that is made, opened, closed and removed is four events.
        for n in 0..storm() / 4 {
            let name = world.path(&format!("{folder}/.burst-{n}"));
            std::fs::write(&name, "").expect("a file");
            std::fs::remove_file(&name).expect("a file");
        }
    };
    burst("running_tasks");
    burst(&format!("workqueue/task_{id}"));
    burst("workqueue");
    world.open("one");
    world.eventually("its pid file goes unseen", |w| {
        !w.path(&format!("running_tasks/task_{id}.pid")).exists()
    });
    std::fs::create_dir(world.path(&format!("workqueue/task_{held}"))).expect("a folder");
    kill(pid, Signal::SIGCONT).expect("ours");
    world.at_length("the next one took over", |w| w.is_complete(id));
    world.at_length("the folder was seen", |w| w.is_complete(held));
    world.at_length("the overflow is said", |w| {
        w.read("daemon.log").contains(OVERFLOW)
    });
    for (queue, task) in [("first", id), ("second", id), ("third", held)] {
        assert_eq!(world.count(&format!("start {queue} {task}")), 1);
    }
    world.is_clean();
}

/// The limit is reached while it runs: what got no watch is looked at by rescan, and `status` says so.
#[test]
fn no_watches_left_for_the_folders_of_tasks() {
    inside(
        "events::no_watches_left_for_the_folders_of_tasks",
        &[],
        || {
            let mut world = World::new()
                .queue("work", "claim; finish")
                .set("rescan", "\"1s\"")
                .configure();
            // Base, inbound, workqueue, running_tasks, recipes, control, the database: seven, and one task's folder.
            std::fs::write("/proc/sys/user/max_inotify_watches", "8").expect("ours, in here");
            world.run();
            world.ok(&["pause"]);
            let parked: Vec<_> = (0..3)
                .map(|n| world.task("human", &format!("of a person {n}")))
                .collect();
            drop(parked);
            world.ok(&["resume"]);
            let id = world.task("work", "goes on");
            world.eventually("it works", |w| w.is_complete(id));
            // Replaced, and no watch is to be had for the new one: another process of this user took what was free.
            std::fs::write("/proc/sys/user/max_inotify_watches", "1").expect("ours, in here");
            std::fs::rename(world.path("running_tasks"), world.path("old")).expect("a rename");
            std::fs::create_dir(world.path("running_tasks")).expect("a folder");
            world.eventually("status says so", |w| {
                w.ok(&["status"]).contains("running_tasks/ only by rescan")
            });
            let id = world.task("work", "goes on by rescan");
            world.at_length("it works all the same", |w| w.is_complete(id));
            std::fs::write("/proc/sys/user/max_inotify_watches", "1000").expect("ours, in here");
            world.at_length("it is watched again", |w| {
                !w.ok(&["status"]).contains("only by rescan")
            });
            assert!(world.daemon_lives());
            world.is_clean();
        },
    );
}
