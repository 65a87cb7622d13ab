//! No descriptors, no processes, no time on the processor.

use std::collections::BTreeSet;
use std::path::Path;
use std::time::{Duration, Instant};

use calypso_watch::core::model::Outcome;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::World;
use crate::space::{beside, sh};
use crate::world::EXE;

fn limit(pid: i32, what: &str) {
    sh(&format!("prlimit --pid {pid} {what}"));
}

/// Leaves a process so many numbers for descriptors.
fn leave_descriptors(pid: i32, free: usize) {
    let used: BTreeSet<usize> = std::fs::read_dir(format!("/proc/{pid}/fd"))
        .expect("it lives")
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .collect();
    let limit_at = (0..)
        .filter(|number| !used.contains(number))
        .nth(free)
        .expect("there is no end of numbers");
    limit(pid, &format!("--nofile={limit_at}:"));
}

fn write_script(path: &Path, text: &str) {
    std::fs::write(path, format!("#!/bin/sh\n{text}\n")).expect("a script");
    sh(&format!("chmod 755 '{}'", path.display()));
}

/// With one descriptor left a folder can be listed, but what is in it not read: /proc too, and nobody lives in an empty /proc.
#[test]
fn a_daemon_without_descriptors_takes_no_live_agent_for_dead() {
    let mut world = World::new()
        .queue("work", "claim; gate one; finish")
        .queue("other", "claim; finish")
        .set("rescan", "\"1s\"")
        .start();
    let id = world.task("work", "its shim is dead");
    let (shim, agent) = world.processes(id);
    kill(Pid::from_raw(shim), Signal::SIGKILL).expect("ours");
    let daemon = world.daemon_pid();
    world.eventually("it is an orphan", |w| w.ok(&["status"]).contains("orphan"));
    for free in 0..6 {
        leave_descriptors(daemon, free);
        let other = world.task("other", "comes meanwhile");
        // Looked at for a while, on its own account and on ours; felt at the latest with none at all.
        let felt = || {
            world
                .read("daemon.log")
                .matches("Too many open files")
                .count()
        };
        let (before, end) = (felt(), Instant::now() + Duration::from_secs(3));
        while felt() == before && (free == 0 || Instant::now() < end) {
            let poke = world.path("running_tasks/.poke");
            std::fs::write(&poke, "").expect("a file");
            std::fs::remove_file(&poke).expect("ours");
            assert_eq!(
                world.read(&format!("running_tasks/task_{id}.pid")).trim(),
                agent.to_string(),
                "{free} free"
            );
            std::thread::sleep(Duration::from_millis(50));
        }
        assert!(world.daemon_lives(), "{free} free");
        limit(daemon, "--nofile=1024:");
        world.at_length("it goes on", |w| w.is_complete(other));
    }
    assert_eq!(world.count("start work"), 1);
    assert_eq!(world.state(id), "working", "and not put back");
    world.open("one");
    world.at_length("it ends", |w| {
        w.is_complete(id) && w.names(".calypso/live").is_empty()
    });
    assert_eq!(world.outcomes(id), [Outcome::Lost]);
    world.is_clean();
}

#[test]
fn a_daemon_that_starts_with_few_descriptors_works_or_says_why_not() {
    let mut world = World::new().queue("work", "claim; finish").configure();
    let id = world.task("work", "waits for a daemon");
    let script = beside(&world, "few");
    for descriptors in [8, 16, 63] {
        write_script(
            &script,
            &format!("exec prlimit --nofile={descriptors} '{EXE}' \"$@\""),
        );
        world.launch(&script.display().to_string());
        assert_eq!(world.daemon_ends(), Some(1));
        let said = format!(
            "error: this process may have {descriptors} files open, and needs 64\nhint: raise the limit first: `ulimit -n 1024`\n"
        );
        assert!(world.read("daemon.log").contains(&said));
        assert_eq!(world.starts(), [""; 0]);
    }
    write_script(&script, &format!("exec prlimit --nofile=64 '{EXE}' \"$@\""));
    world.launch(&script.display().to_string());
    world.eventually("64 are enough", |w| w.is_complete(id));
    world.is_clean();
}

/// A user of its own, whom the limit binds; root it does not.
#[test]
fn no_process_to_be_had_is_no_attempt_of_the_task() {
    let mut world = World::new()
        .queue("work", "claim; finish")
        .set("rescan", "\"1s\"")
        .configure();
    let uid = 61_234;
    let base = world.layout.base().to_owned();
    sh(&format!(
        "chmod 755 '{base}/..'; chown -R {uid}:{uid} '{base}'"
    ));
    let script = beside(&world, "other-user");
    let user = format!("setpriv --reuid={uid} --regid={uid} --clear-groups");
    let as_user = |words: &str| sh(&format!("{user} {words}"));
    write_script(
        &script,
        &format!("exec prlimit --nproc=500 {user} '{EXE}' \"$@\""),
    );
    world.launch(&script.display().to_string());
    world.eventually("it watches", |w| w.read("daemon.log").contains("watching"));
    world.eventually("it has looked", |w| {
        !w.read(".calypso/daemon.json").is_empty()
    });
    world.eventually_some("a shim waits", World::spare);
    let daemon = world.daemon_pid();
    as_user(&format!("prlimit --pid {daemon} --nproc=1:"));
    let task = |world: &World, title: &str| {
        let asked =
            serde_json::json!({"title": title, "assigned_to": "work", "created_by": "a test"});
        let id = world.call("create_task", &asked)["id"]
            .as_i64()
            .expect("a number");
        let folder = world.path(&format!("workqueue/task_{id}"));
        std::fs::create_dir(&folder).expect("a folder");
        sh(&format!("chown {uid}:{uid} '{}'", folder.display()));
        id
    };
    let first = task(&world, "takes the shim that waits already");
    world.eventually("complete", |w| w.is_complete(first));
    let id = task(&world, "waits for a process");
    // Oftener than runs may fail in an hour through no fault of the task's.
    world.at_length("it is tried again and again", |w| {
        w.read("daemon.log")
            .matches("cannot start the shim")
            .count()
            > 5
    });
    // Not only between a try and the next look.
    for _ in 0..20 {
        let said = world.ok(&["status"]);
        assert!(said.contains("cannot start the shim"), "{said}");
    }
    assert!(world.daemon_lives());
    as_user(&format!("prlimit --pid {daemon} --nproc=500:"));
    world.at_length("it goes on by itself", |w| w.is_complete(id));
    assert_eq!(world.count("start work"), 2);
    world.eventually("it is judged", |w| w.outcomes(id) == [Outcome::Exited(0)]);
    world.is_clean();
}

#[test]
fn an_agent_that_uses_up_its_time_on_the_processor_is_ended_by_the_kernel_and_judged() {
    let world = World::new()
        .queue(
            "work",
            "claim; trap - EXIT; rm -rf \"$B/busy/$T\"; note end; ulimit -t 1; while :; do :; done",
        )
        .set("max_attempts", "1")
        .start();
    let id = world.task("work", "spins");
    let cpu = Outcome::Signaled(Signal::SIGXCPU as i32);
    let killed = Outcome::Signaled(Signal::SIGKILL as i32);
    world.eventually("it is judged", |w| {
        w.outcomes(id)
            .first()
            .is_some_and(|outcome| [&cpu, &killed].contains(&outcome))
    });
    world.eventually("and parked", |w| w.hold(id) == "parked");
    world.is_clean();
}
