//! The daemon dies with agents at work; the next one knows each run, its state, and how it ended, also where nobody watched.

use calypso_watch::core::layout::RunDir;
use calypso_watch::core::model::{Outcome, RunSubject};
use calypso_watch::core::record::Verdict;
use calypso_watch::edge::{clock, config};
use calypso_watch::look::{Looker, Scope};
use nix::sys::signal::Signal;

use crate::{World, is_alive, send, state_of};

/// What becomes of each while there is no daemon is in its name.
const QUEUES: [(&str, &str); 8] = [
    ("goes-on", "claim; gate goes-on; finish"),
    ("ends", "claim; gate ends; exit 7"),
    ("killed", "claim; gate killed"),
    (
        "timed",
        "trap '' INT TERM; claim; note at-timed; while :; do sleep 0.1; done",
    ),
    ("stopped", "claim; gate stopped"),
    ("orphaned", "claim; gate orphaned; finish"),
    ("lost", "claim; gate lost; finish"),
    ("unnamed", "claim; gate unnamed; finish"),
];

/// Kills the daemon with eight agents at work, lets something else happen to each, and starts another daemon.
fn each_state_is_taken_up(signal: Signal) {
    let mut world = World::new()
        .set("max_attempts", "1")
        .section("[queues.timed]\ntime_limit = \"5s\"");
    for (queue, script) in QUEUES {
        world = world.queue(queue, script);
    }
    let mut world = world.start();
    let tasks: Vec<(&str, i64)> = QUEUES
        .map(|(queue, _)| (queue, world.task(queue, queue)))
        .to_vec();
    let task = |queue: &str| {
        let found = tasks.iter().find(|(name, _)| *name == queue);
        found.expect("one of the eight").1
    };
    let processes: Vec<_> = tasks.iter().map(|(_, id)| world.processes(*id)).collect();
    for (queue, _) in QUEUES {
        world.eventually("it works", |w| w.count(&format!("at-{queue} {queue}")) == 1);
    }
    world.end_daemon(signal);

    let of = |queue: &str| {
        processes[QUEUES
            .iter()
            .position(|(name, _)| *name == queue)
            .expect("there")]
    };
    world.open("ends");
    send(of("killed").1, Signal::SIGKILL);
    world.ok(&["stop", &task("stopped").to_string()]);
    send(of("orphaned").0, Signal::SIGKILL);
    send(of("lost").0, Signal::SIGKILL);
    send(of("lost").1, Signal::SIGKILL);
    std::fs::remove_file(world.path(&format!("running_tasks/task_{}.pid", task("unnamed"))))
        .expect("its pid file");
    for queue in ["ends", "killed", "stopped", "timed"] {
        let name = format!("task_{}.pid", task(queue));
        world.eventually("its shim is done with it", |w| {
            !w.names("running_tasks").contains(&name)
        });
    }
    world.eventually("dead", |_| !is_alive(of("lost").1));

    world.run();
    for (queue, outcome) in [
        ("ends", Outcome::Exited(7)),
        ("killed", Outcome::Signaled(9)),
        ("timed", Outcome::TimedOut),
        ("lost", Outcome::Lost),
    ] {
        world.eventually("judged", |w| !w.verdicts(task(queue)).is_empty());
        assert_eq!(world.outcomes(task(queue))[0], outcome, "{queue}");
    }
    world.eventually("judged", |w| !w.verdicts(task("stopped")).is_empty());
    assert!(matches!(
        world.outcomes(task("stopped"))[..],
        [Outcome::Stopped(_)]
    ));
    // The others live on, under the same processes, and each is known for what it is.
    assert_eq!(state_of(&world, "goes-on"), "running");
    assert_eq!(state_of(&world, "orphaned"), "orphan");
    assert_eq!(world.processes(task("goes-on")), of("goes-on"));
    assert!(is_alive(of("orphaned").1) && is_alive(of("unnamed").1));
    for queue in ["goes-on", "orphaned", "lost", "unnamed"] {
        assert!(!world.is_complete(task(queue)));
        world.open(queue);
    }
    for (queue, outcomes) in [
        ("goes-on", vec![Outcome::Exited(0)]),
        ("orphaned", vec![Outcome::Lost]),
        // Nothing of it was left, so it was started once more.
        ("lost", vec![Outcome::Lost, Outcome::Exited(0)]),
        ("unnamed", vec![Outcome::Exited(0)]),
    ] {
        world.eventually("complete", |w| w.is_complete(task(queue)));
        world.eventually("judged", |w| {
            w.verdicts(task(queue)).len() == outcomes.len()
        });
        assert_eq!(world.outcomes(task(queue)), outcomes, "{queue}");
        assert_eq!(world.count(&format!("start {queue}")), outcomes.len());
    }
    let last = world.verdicts(task("orphaned"));
    assert_eq!(last[0].tasks[0].verdict, Verdict::Done);
    assert_eq!(last[0].failure, None);
    world.is_clean();
}

#[test]
fn a_daemon_told_to_end_leaves_eight_runs_that_the_next_one_knows() {
    each_state_is_taken_up(Signal::SIGTERM);
}

#[test]
fn a_killed_daemon_leaves_eight_runs_that_the_next_one_knows() {
    each_state_is_taken_up(Signal::SIGKILL);
}

#[test]
fn fifty_agents_are_taken_up_at_once_with_each_its_own_exit_status() {
    let mut world = World::new()
        .set("max_runs", "60")
        .set("max_attempts", "1")
        .section("[queues.crowd]\nconcurrency = 60")
        // They claim nothing: which agent would get which task is no question here.
        .queue(
            "crowd",
            "note at; while [ ! -e \"$B/gates/$((T % 2))\" ]; do sleep 0.3; done; exit $((T + 10))",
        )
        .start();
    let tasks: Vec<i64> = (0..50)
        .map(|n| world.task("crowd", &format!("{n}")))
        .collect();
    world.at_length("all at work", |w| w.count("at crowd") == 50);
    world.kill_daemon();
    // Half of them end unwatched.
    world.open("0");
    world.at_length("half are over", |w| w.names("running_tasks").len() == 25);
    world.run();
    world.at_length("half are judged", |w| w.names(".calypso/live").len() == 25);
    // And once more, with a daemon that dies among the verdicts.
    world.kill_daemon();
    world.open("1");
    world.launch(crate::world::EXE);
    world.at_length("some are over", |w| w.names("running_tasks").len() < 20);
    world.kill_daemon();
    world.run();
    world.at_length("all are judged", |w| w.names(".calypso/live").is_empty());
    for id in tasks {
        let code = u8::try_from(id + 10).expect("fifty tasks");
        assert_eq!(world.outcomes(id), [Outcome::Exited(code)]);
        assert_eq!(world.our_comments(id).len(), 1, "parked, and said once");
    }
    assert_eq!(world.count("start crowd"), 50);
    world.is_clean();
}

/// A daemon that dies again and again, by turns politely and not, while agents come and go: each run has one record, one
/// start, one end and one verdict.
#[test]
fn daemons_that_die_by_turns_lose_no_run_and_judge_each_once() {
    let mut world = World::new()
        .queue("architect", "claim; sleep 0.2; move coder")
        .queue("coder", "claim; sleep 0.2; finish")
        .configure();
    let tasks: Vec<i64> = (0..6)
        .map(|n| world.task("architect", &format!("{n}")))
        .collect();
    for round in 0..12_u64 {
        world.launch(crate::world::EXE);
        std::thread::sleep(std::time::Duration::from_millis(150 + (round * 83) % 400));
        let signal = if round % 2 == 0 {
            Signal::SIGTERM
        } else {
            Signal::SIGKILL
        };
        world.end_daemon(signal);
    }
    world.run();
    world.at_length("all complete", |w| {
        tasks.iter().all(|id| w.is_complete(*id))
    });
    world.is_clean();
    for queue in ["architect", "coder"] {
        let worked = world.count(&format!("start {queue}")) - world.count(&format!("none {queue}"));
        assert_eq!(worked, tasks.len(), "{:?}", world.stamps());
    }
    for id in tasks {
        assert_eq!(world.verdicts(id).len(), world.runs(id).len());
    }
}

/// A power cut takes a verdict that the index has already; the entry in live/, which goes after the verdict is durable, tells.
#[test]
fn the_past_of_a_live_run_is_not_taken_from_the_index() {
    let mut world = World::new().queue("coder", "claim; move human").start();
    let task = world.task("coder", "handed on");
    world.at_length("judged", |w| {
        w.verdicts(task).len() == 1 && w.names(".calypso/live").is_empty()
    });
    world.kill_daemon();
    let layout = world.layout.clone();
    let subject = RunSubject::try_from(task.to_string()).expect("a task's number");
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime");
    let config = || config::load(layout.base(), &[]).expect("settings");
    let told = |looker: &mut Looker| {
        let now = clock::now();
        let seen = runtime.block_on(looker.look(&Scope::Everything, &now));
        let seen = seen.expect("a look");
        let history = seen.histories.get(&subject);
        history.map_or(0, |history| history.verdicts.len())
    };
    let mut writer = Looker::new(config());
    writer.memory.is_writer = true;
    world.eventually("its folder is at rest, so the index tells of it", |_| {
        writer.memory.forget_records();
        assert_eq!(told(&mut writer), 1);
        writer.memory.write_index(&layout).expect("an index");
        !calypso_watch::edge::runs::read_index(&layout).is_empty()
    });

    let names = world.names(&format!(".calypso/runs/task_{task}"));
    let run = names
        .iter()
        .find_map(|name| RunDir::parse_dir(subject, name));
    let run = run.expect("it ran");
    std::fs::remove_file(layout.run(&run).verdict()).expect("it was judged");
    assert_eq!(told(&mut Looker::new(config())), 1, "the index is read");
    std::fs::write(layout.live_entry(&run), "").expect("an entry");
    assert_eq!(told(&mut Looker::new(config())), 0);
}
