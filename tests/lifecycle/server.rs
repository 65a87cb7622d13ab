//! tinytask goes, comes back, or is another one: agents go on, and nothing is judged by what is not known.

use calypso_watch::core::model::Outcome;
use calypso_watch::core::record::Verdict;

use crate::World;

#[test]
fn a_tinytask_that_is_away_costs_nothing_but_time() {
    let mut world = World::new()
        .queue(
            "coder",
            "claim; gate go; cw task done \"$ID\" || true; note tried",
        )
        .queue("devops", "claim; gate end; exit 0")
        .start();
    let first = world.task("coder", "cannot say that it is done");
    let second = world.task("devops", "ends meanwhile");
    world.eventually("both work", |w| {
        w.count("at-go coder") == 1 && w.count("at-end devops") == 1
    });
    world.kill_server();
    world.open("end");
    world.eventually("over", |w| {
        !w.names("running_tasks")
            .contains(&format!("task_{second}.pid"))
    });
    world.looks();
    assert!(
        world.verdicts(second).is_empty(),
        "nothing is judged meanwhile"
    );
    let (status, code) = world.status();
    assert_eq!(code, Some(4), "{status}");
    assert_eq!(world.count("start coder"), 1);
    world.serve();
    // tinytask's return is nothing that a file tells; the look that it delays is at most half a minute away.
    world.at_length("judged late", |w| w.verdicts(second).len() == 1);
    let verdict = &world.verdicts(second)[0];
    assert!(verdict.late, "{verdict:?}");
    assert_eq!(verdict.tasks[0].verdict, Verdict::LeftWorking);
    world.eventually("put back and started again", |w| {
        w.count("start devops") == 2
    });
    assert_eq!(
        world.record(second).map(|_| world.runs(second).len()),
        Some(2)
    );
    world.open("go");
    world.eventually("complete", |w| w.is_complete(first));
    world.eventually("judged", |w| w.verdicts(first).len() == 1);
    assert_eq!(world.outcomes(first), [Outcome::Exited(0)]);
    world.ok(&["hold", &second.to_string()]);
    world.is_clean();
}

#[test]
fn the_built_in_tinytask_is_started_again() {
    let mut world = World::builtin()
        .queue("coder", "claim; gate go; finish")
        .start();
    let task = world.task("coder", "its tinytask dies");
    world.eventually("it works", |w| w.count("at-go coder") == 1);
    let server: serde_json::Value =
        serde_json::from_str(&world.read(".calypso/tinytask/server.json")).expect("a record");
    let pid = server["pid"].as_i64().expect("a pid");
    let pid = nix::unistd::Pid::from_raw(i32::try_from(pid).expect("a pid"));
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL).expect("it lives");
    world.at_length("it is back", |w| w.cw(&["task", "list"]).code == Some(0));
    world.open("go");
    world.eventually("complete", |w| w.is_complete(task));
    // It outlives the daemon.
    world.kill_daemon();
    assert!(world.is_complete(task));
    world.run();
    world.is_clean();
    assert_eq!(world.count("start coder"), 1);
    world.kill_daemon();
    world.ok(&["tinytask", "stop"]);
    assert_eq!(world.cw(&["task", "list"]).code, Some(4));
}

/// Another database under the same address: nothing is judged by it, and the right one finds everything as it was.
#[test]
fn another_database_is_not_believed() {
    let mut world = World::new()
        .queue("coder", "claim; gate go; cw task done \"$ID\" || true")
        .start();
    let running = world.task("coder", "runs meanwhile");
    world.eventually("it works", |w| w.count("at-go coder") == 1);
    let others: Vec<_> = (0..5).map(|_| world.task("human", "open")).collect();
    world.looks_at_everything();
    world.kill_server();
    world.swap_database();
    world.serve();
    world.looks_at_everything();
    world.open("go");
    world.eventually("over", |w| w.names("running_tasks").is_empty());
    world.recipe("and-another");
    world.looks();
    assert!(
        world.verdicts(running).is_empty(),
        "{:?}",
        world.verdicts(running)
    );
    world.kill_server();
    world.restore_database();
    world.serve();
    world.at_length("judged by the right one", |w| {
        w.verdicts(running).len() == 1
    });
    assert_eq!(
        world.verdicts(running)[0].tasks[0].verdict,
        Verdict::LeftWorking
    );
    assert!(others.iter().all(|id| world.state(*id) == "idle"));
    world.ok(&["hold", &running.to_string()]);
    world.eventually("over", |w| w.names(".calypso/live").is_empty());
}

/// The same number with another birth is another task: what is known of the old one does not count.
#[test]
fn the_records_of_another_task_with_the_same_number_do_not_count() {
    let mut world = World::new()
        .set("max_attempts", "1")
        .queue("coder", "exit 0")
        .start();
    let task = world.task("coder", "parked");
    world.eventually("parked", |w| w.hold(task) == "parked");
    world.kill_daemon();
    world.kill_server();
    world.swap_database();
    // Births are told apart by the second.
    let born = std::time::Instant::now();
    while born.elapsed() < std::time::Duration::from_millis(1100) {
        std::thread::sleep(std::time::Duration::from_millis(50));
    }
    world.serve();
    world.script("coder", "claim; finish");
    world.run();
    let again = world.task("coder", "another one");
    assert_eq!(again, task);
    world.eventually("complete", |w| w.is_complete(again));
    world.is_clean();
    assert_eq!(world.verdicts(task).len(), 2);
}
