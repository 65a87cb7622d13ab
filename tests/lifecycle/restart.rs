//! Daemons come and go; agents go on, and nothing is forgotten.

use calypso_watch::core::model::Outcome;
use calypso_watch::core::record::Verdict;
use nix::sys::signal::Signal;

use crate::World;
use crate::world::EXE;

#[test]
fn a_request_crosses_its_queues_and_nothing_is_left() {
    let world = World::new()
        .queue("architect", "claim; gate go; move coder")
        .queue("coder", "claim; finish")
        .start();
    let task = world.task("architect", "fix it");
    world.eventually("the architect works", |w| w.count("at-go architect") == 1);
    let (status, code) = world.status();
    assert_eq!(code, Some(0), "{status}");
    assert_eq!(status["queues"][0]["runs"][0]["task"], task, "{status}");
    world.open("go");
    world.eventually("complete", |w| w.is_complete(task));
    world.is_clean();
    assert_eq!(world.starts(), ["architect 1", "coder 1"]);
    let verdicts: Vec<_> = world
        .verdicts(task)
        .into_iter()
        .map(|v| v.tasks[0].verdict.clone())
        .collect();
    assert_eq!(
        verdicts,
        [
            Verdict::HandedOff {
                to: Some("coder".into())
            },
            Verdict::Done
        ]
    );
}

#[test]
fn a_new_daemon_takes_up_the_agents_of_one_that_was_killed() {
    let mut world = World::new()
        .queue("architect", "claim; gate architect; move product")
        .queue("coder", "claim; gate coder; exit 7")
        .queue("product", "claim; gate product; finish")
        .start();
    let first = world.task("architect", "goes on");
    let second = world.task("coder", "ends in between");
    world.eventually("both work", |w| {
        w.count("at-architect architect") == 1 && w.count("at-coder coder") == 1
    });
    let (shim, agent) = world.processes(first);
    world.kill_daemon();
    let (status, code) = world.status();
    assert_eq!(code, Some(3), "the daemon is dead");
    assert_eq!(status["daemon"]["alive"], false);
    world.open("coder");
    world.eventually("the coder's run is over", |w| {
        !w.names("running_tasks")
            .contains(&format!("task_{second}.pid"))
    });

    world.run();
    world.eventually("the second is judged", |w| w.verdicts(second).len() == 1);
    // Its true exit status, although nobody watched it end.
    assert_eq!(world.outcomes(second), [Outcome::Exited(7)]);
    assert_eq!(world.processes(first), (shim, agent));
    world.open("architect");
    world.eventually("handed on", |w| w.count("at-product product") == 1);
    world.open("product");
    world.eventually("complete", |w| w.is_complete(first));
    world.is_clean();
    assert_eq!(
        world.outcomes(first),
        [Outcome::Exited(0), Outcome::Exited(0)]
    );
    assert_eq!(world.count("start architect"), 1);
}

#[test]
fn a_daemon_that_is_told_to_end_says_which_agents_go_on() {
    let mut world = World::new()
        .queue("architect", "claim; gate go; finish")
        .start();
    let task = world.task("architect", "a long one");
    for signal in [Signal::SIGTERM, Signal::SIGINT] {
        let (_, agent) = world.processes(task);
        assert_eq!(world.end_daemon(signal), Some(0));
        let said = world.read("daemon.out");
        assert!(said.contains("1 agent goes on"), "{said}");
        assert!(
            said.contains(&format!("#{task} architect (pid {agent})")),
            "{said}"
        );
        assert!(world.marked("CALYPSO_RUN=").contains(&agent));
        std::fs::remove_file(world.path("daemon.out")).expect("it was written");
        world.run();
    }
    // `quit` does the same.
    let said = world.ok(&["quit"]);
    assert!(said.contains("1 agent goes on"), "{said}");
    assert_eq!(world.daemon_ends(), Some(0));
    let again = world.cw(&["quit"]);
    assert_eq!(again.code, Some(3), "{again:?}");
    world.run();
    world.open("go");
    world.eventually("complete", |w| w.is_complete(task));
    world.is_clean();
    assert_eq!(world.outcomes(task), [Outcome::Exited(0)]);
}

/// An upgrade replaces the file under a running daemon: what it starts from then on comes from the program that runs.
#[test]
fn a_replaced_program_goes_on_starting_runs() {
    let mut world = World::new().queue("coder", "claim; finish").configure();
    let copy = world.path("copy-of-it");
    std::fs::copy(EXE, &copy).expect("a copy");
    world.launch(copy.to_str().expect("a UTF-8 name"));
    world.eventually("it watches", |w| w.cw(&["status"]).code == Some(0));
    std::fs::remove_file(&copy).expect("it is ours");
    std::fs::write(&copy, "#!/bin/sh\nexit 1\n").expect("a script");
    let task = world.task("coder", "after the upgrade");
    world.eventually("complete", |w| w.is_complete(task));
    world.is_clean();
}

/// A shim is the small program beside the daemon's, if it is there and of the same version; else that program itself.
#[test]
fn a_shim_of_another_version_is_not_started() {
    let mut world = World::new()
        .queue("coder", "claim; gate \"go-$ID\"; finish")
        .configure();
    let bin = world.path("bin");
    std::fs::create_dir(&bin).expect("a folder");
    let (program, small) = (bin.join("calypso-watch"), bin.join("calypso-watch-shim"));
    std::fs::copy(EXE, &program).expect("a copy");
    let same = env!("CARGO_BIN_EXE_calypso-watch-shim");
    for (what, expected) in [
        (None, &program),
        (Some("/bin/false"), &program),
        (Some(same), &small),
    ] {
        std::fs::remove_file(&small).ok();
        if let Some(what) = what {
            std::fs::copy(what, &small).expect("a copy");
        }
        world.launch(program.to_str().expect("a UTF-8 name"));
        let task = world.task("coder", "by its shim");
        world.eventually("it works", |w| w.count(&format!("at-go-{task} coder")) == 1);
        let (shim, _) = world.processes(task);
        let runs = std::fs::read_link(format!("/proc/{shim}/exe")).expect("it lives");
        assert_eq!(&runs, expected);
        world.open(&format!("go-{task}"));
        world.eventually("complete", |w| w.is_complete(task));
        world.is_clean();
        assert_eq!(world.end_daemon(Signal::SIGTERM), Some(0));
    }
}

/// At whatever line the daemon is killed, the next one goes on from there, and nothing runs twice.
#[test]
fn a_daemon_killed_anywhere_loses_nothing_and_doubles_nothing() {
    let mut world = World::new()
        .set("missing_folder", "\"hold\"")
        .queue("architect", "claim; move coder")
        .queue("coder", "claim; sleep 0.1; finish")
        .configure();
    let tasks: Vec<_> = (0..6)
        .map(|n| world.task("architect", &format!("task {n}")))
        .collect();
    // Delays that spread over the start, the first look and the launches, the same in each test run.
    for round in 0..30_u64 {
        world.launch(EXE);
        std::thread::sleep(std::time::Duration::from_millis((round * 37) % 211));
        world.kill_daemon();
    }
    world.run();
    world.eventually("all complete", |w| {
        tasks.iter().all(|id| w.is_complete(*id))
    });
    world.is_clean();
    for queue in ["architect", "coder"] {
        let worked = world.count(&format!("start {queue}")) - world.count(&format!("none {queue}"));
        assert_eq!(worked, tasks.len(), "{:?}", world.stamps());
    }
}
