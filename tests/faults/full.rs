//! No room on the disk, at each write there is.

use std::fs::File;
use std::process::Stdio;
use std::time::{Duration, Instant};

use calypso_watch::core::model::{Outcome, RunState, RunSubject};
use calypso_watch::edge::runs;
use serde_json::json;

use crate::World;
use crate::space::{inside, small_disk};
use crate::world::EXE;

/// One page more each time: so the disk is full at the first write of a run, at the second, …, at the last, whoever makes it:
/// live/, the run's folder, locks, spec, state, pid, output, verdict, history, daemon.json, log.jsonl.
#[test]
fn a_disk_that_is_full_at_each_write_of_a_run() {
    inside(
        "full::a_disk_that_is_full_at_each_write_of_a_run",
        &[],
        || {
            let mut world = World::new()
                .queue("work", "claim; finish; exit 7")
                .set("rescan", "\"1s\"")
                .configure();
            let disk = small_disk(&world, 400);
            world.run();
            let mut ids = Vec::new();
            for room in 0..16 {
                // Made before, as a folder costs room too.
                let spare = world.path("workqueue/spare");
                std::fs::create_dir(&spare).expect("there is room");
                disk.fill(room);
                let task = world.call("create_task", &json!({"title": format!("with {room} pages"), "assigned_to": "work", "created_by": "a test"}));
                let id = task["id"].as_i64().expect("a number");
                ids.push(id);
                std::fs::rename(spare, world.path(&format!("workqueue/task_{id}")))
                    .expect("it needs no room");
                // Either it gets through, or it is stuck somewhere: both are what is wanted here.
                let end = Instant::now() + Duration::from_millis(1500);
                while Instant::now() < end
                    && !(world.is_complete(id) && world.names(".calypso/live").is_empty())
                {
                    std::thread::sleep(Duration::from_millis(20));
                }
                assert!(world.daemon_lives());
                disk.free();
                world.at_length("it goes on by itself", |w| {
                    w.is_complete(id) && w.names(".calypso/live").is_empty()
                });
                assert_eq!(
                    world.count(&format!("start work {id}")),
                    1,
                    "with {room} pages: {:?}",
                    world.stamps()
                );
            }
            world.is_clean();
            // Nothing that happened is lost: each run is judged, once, with the agent's true end, and stands in the history.
            let history = world.read(".calypso/history.jsonl");
            for id in ids {
                let outcomes = world.outcomes(id);
                assert_eq!(
                    outcomes.last(),
                    Some(&Outcome::Exited(7)),
                    "{id}: {outcomes:?}"
                );
                assert_eq!(outcomes.len(), world.runs(id).len(), "{id}");
                for run in world.runs(id) {
                    let run = run.id.to_string();
                    let lines = history
                        .lines()
                        .filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok());
                    assert_eq!(
                        lines.filter(|line| line["run"] == run.as_str()).count(),
                        1,
                        "{run}"
                    );
                }
            }
        },
    );
}

/// The shim waits for room as long as it takes: more than a minute here, which is where it once gave up.
#[test]
fn an_agent_that_ends_while_the_disk_is_full_keeps_its_exit_status() {
    inside(
        "full::an_agent_that_ends_while_the_disk_is_full_keeps_its_exit_status",
        &[],
        || {
            let mut world = World::new()
                .queue("work", "claim; gate one; finish; exit 7")
                .configure();
            let disk = small_disk(&world, 400);
            world.run();
            let id = world.task("work", "ends on a full disk");
            world.processes(id);
            disk.fill(0);
            world.open("one");
            world.eventually("the agent is over", |w| {
                w.count(&format!("end work {id}")) == 1 && w.is_complete(id)
            });
            let run = world.runs(id).pop().expect("it runs");
            let begun = Instant::now();
            while begun.elapsed() < Duration::from_secs(63) {
                std::thread::sleep(Duration::from_millis(500));
                // Not over: what happened is not written down yet.
                assert!(world.path(&format!("running_tasks/task_{id}.pid")).exists());
                assert!(matches!(
                    world.record(id).expect("a state").state,
                    RunState::Running { .. }
                ));
            }
            let said = world.ok(&["status"]);
            assert!(said.contains("is full"), "{said}");
            disk.free();
            world.eventually("it is judged", |w| w.outcomes(id) == [Outcome::Exited(7)]);
            assert!(runs::observe(&world.layout, &run).is_ok());
            assert_eq!(world.count("start work"), 1);
            world.is_clean();
            assert!(!world.ok(&["status"]).contains("is full"));
        },
    );
}

#[test]
fn a_request_that_comes_while_the_disk_is_full_is_dispatched_once_there_is_room() {
    inside(
        "full::a_request_that_comes_while_the_disk_is_full_is_dispatched_once_there_is_room",
        &[],
        || {
            let mut world = World::new()
                .queue("dispatcher", "rm \"$B\"/inbound/*")
                .configure();
            let disk = small_disk(&world, 400);
            world.run();
            disk.fill(0);
            // A name needs no room of a tmpfs.
            world.write("../base.aside/request.md", "please");
            std::os::unix::fs::symlink("x", world.path("inbound/ignored")).ok();
            File::create(world.path("inbound/request.md")).expect("an empty file");
            world.eventually("it says so", |w| {
                w.read("daemon.log").contains("No space left on device")
            });
            assert!(world.ok(&["status"]).contains("is full"));
            assert_eq!(world.starts(), [""; 0]);
            disk.free();
            world.at_length("it is dispatched", |w| {
                w.count("end dispatcher inbound") == 1
            });
            world.eventually("and judged", |w| {
                w.verdicts_of(RunSubject::Inbound).len() == 1
            });
            world.is_clean();
        },
    );
}

/// The built-in tinytask keeps its database in the base path: what it cannot write it refuses, and it goes on as the daemon does.
#[test]
fn the_built_in_tinytask_on_a_full_disk() {
    inside("full::the_built_in_tinytask_on_a_full_disk", &[], || {
        let mut world = World::builtin()
            .queue("work", "claim; gate one; until finish; do sleep 0.2; done")
            .set("rescan", "\"1s\"")
            .configure();
        let disk = small_disk(&world, 1000);
        world.run();
        let id = world.task("work", "cannot be completed for a while");
        world.processes(id);
        world.eventually("it is at work", |w| w.count("at-one") == 1);
        disk.fill(0);
        let refused = world.try_text(
            "create_task",
            &json!({"title": "x".repeat(20_000), "assigned_to": "work", "created_by": "a test"}),
        );
        assert!(refused.is_err_and(|error| error.contains("full")));
        world.open("one");
        // A person's word needs no more than a name.
        world.ok(&["pause"]);
        assert!(world.daemon_lives());
        disk.free();
        world.ok(&["resume"]);
        world.at_length("it is completed", |w| {
            w.is_complete(id) && w.names(".calypso/live").is_empty()
        });
        let next = world.task("work", "the next");
        world.at_length("so does the rest", |w| w.is_complete(next));
        assert_eq!(world.count(&format!("start work {id}")), 1);
        world.is_clean();
    });
}

/// /dev/full refuses each write (full(4)). A pipe that nobody reads any more breaks (pipe(7)): whoever read has seen enough.
#[test]
fn what_cannot_be_printed_is_an_error_unless_nobody_wants_it() {
    let world = World::new().queue("work", "claim; finish").start();
    for args in [&["status"][..], &["status", "--json"], &["plan", "--json"]] {
        let said = |out: Stdio| {
            let mut command = world.command(EXE);
            let said = command.args(args).stdout(out).output();
            let said = said.expect("our own binary starts");
            let err = String::from_utf8_lossy(&said.stderr).into_owned();
            (said.status.code(), err)
        };
        let full = File::options().write(true).open("/dev/full");
        let (code, err) = said(full.expect("Linux has it").into());
        assert_eq!(code, Some(1), "{args:?}");
        assert!(err.starts_with("error: No space left on device"), "{err}");
        let (reader, writer) = std::io::pipe().expect("a pipe");
        drop(reader);
        assert_eq!(said(writer.into()), (Some(0), String::new()), "{args:?}");
    }
    world.is_clean();
}
