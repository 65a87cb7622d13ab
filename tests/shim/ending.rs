//! From a reason to end to the end of everything the agent started.

use super::*;

#[test]
fn a_stop_is_told_with_who_asked() {
    let world = World::new();
    let run = world.sh(
        7,
        1,
        "trap 'echo bye; exit 1' INT; echo up; while :; do sleep 0.01; done",
    );
    run.start();
    run.says("up");
    signal(&run.state().expect("a state").shim, process::Signal::TERM);
    let Outcome::Stopped(by) = run.outcome() else {
        panic!("not stopped");
    };
    assert_eq!(by.pid, Some(std::process::id().cast_signed()));
    assert_eq!(by.uid, rustix::process::geteuid().as_raw());
    assert!(run.output().ends_with("bye\n"));
}

#[test]
fn an_agent_that_ignores_int_and_term_is_killed() {
    let world = World::new();
    let run = world
        .sh(
            7,
            1,
            "trap '' INT TERM; echo up; while :; do sleep 0.05; done",
        )
        .limits(|limits| limits.grace = Millis(100));
    run.start();
    let agent = run.agent();
    run.says("up");
    signal(&run.state().expect("a state").shim, process::Signal::TERM);
    assert!(matches!(run.outcome(), Outcome::Stopped(_)));
    assert!(!process::is_alive(&agent));
}

#[test]
fn term_reaches_the_whole_group() {
    let world = World::new();
    let run = world
        .sh(
            7,
            1,
            "trap '' INT; (trap 'echo child told; exit' TERM; echo up; while :; do sleep 0.01; done) & wait; wait",
        )
        .limits(|limits| limits.grace = Millis(50));
    run.start();
    run.says("up");
    signal(&run.state().expect("a state").shim, process::Signal::INT);
    assert!(matches!(run.outcome(), Outcome::Stopped(_)));
    assert!(run.output().contains("child told"));
}

#[test]
fn the_time_limit_ends_it() {
    let world = World::new();
    let run = world
        .sh(7, 1, "exec sleep 60")
        .limits(|limits| limits.time = Millis(200));
    assert_eq!(run.end(), Outcome::TimedOut);
}

#[test]
fn the_log_limit_ends_it() {
    let world = World::new();
    let run = world
        .sh(7, 1, "while :; do echo 0123456789; sleep 0.01; done")
        .limits(|limits| limits.log = 100);
    assert_eq!(run.end(), Outcome::LogLimit);
}

#[test]
fn nothing_the_agent_started_outlives_it() {
    let world = World::new();
    // In its group; in a session of its own and deaf to TERM; and daemonised: forked twice, with an environment of its own.
    let run = world.sh(
        7,
        1,
        "sleep 60 & echo $! > group
         setsid sh -c 'trap \"\" TERM; echo $$ > session; while :; do sleep 0.05; done' &
         (setsid env -i PATH=$PATH sh -c 'sleep 60 & echo $! > daemon' &)
         while ! [ -s group ] || ! [ -s session ] || ! [ -s daemon ]; do sleep 0.01; done
         read go < fifo",
    );
    nix::unistd::mkfifo(
        world.path("fifo").as_std_path(),
        nix::sys::stat::Mode::S_IRWXU,
    )
    .expect("a fifo");
    run.start();
    let left = ["group", "session", "daemon"].map(|name| process_in(&world.path(name)));
    let opened = left
        .each_ref()
        .map(|process| process::Pidfd::open_checked(process).expect("a pidfd"));
    assert!(opened.iter().all(Option::is_some));
    std::fs::write(world.path("fifo"), "go\n").expect("go");
    let state = run.over();
    for (process, name) in left.iter().zip(["group", "session", "daemon"]) {
        assert!(!process::is_alive(process), "{name} lives");
    }
    assert!(
        matches!(
            &state.state,
            RunState::Ended { outcome: Outcome::Exited(0), leftovers } if leftovers.is_empty()
        ),
        "{state:?}"
    );
}

#[test]
fn leftovers_are_left_where_that_is_wished() {
    let world = World::new();
    let run = world
        .sh(7, 1, "sleep 60 & echo $! > left; exit 0")
        .limits(|limits| limits.sweep = false);
    assert_eq!(run.end(), Outcome::Exited(0));
    let left = process_in(&world.path("left"));
    signal(&left, process::Signal::KILL);
}

#[test]
fn the_dead_of_a_long_run_are_collected_while_it_runs() {
    let world = World::new();
    // Orphans of the agent's that end at once: nobody but the shim can collect them.
    let run = world.sh(
        7,
        1,
        "for n in 1 2 3 4 5; do (sh -c 'exit 0' &); done; echo up; exec sleep 60",
    );
    run.start();
    run.says("up");
    let agent = run.agent();
    let shim = run.state().expect("a state").shim;
    eventually("only the agent is left below the shim", || {
        let below = process::descendants(&shim);
        (below.len() == 1 && below[0].id() == agent).then_some(())
    });
    signal(&shim, process::Signal::TERM);
    run.over();
}

#[test]
fn a_pid_file_replaced_meanwhile_is_left_alone() {
    let world = World::new();
    let run = world.sh(
        7,
        1,
        "rm running_tasks/task_7.pid; echo 1 > running_tasks/task_7.pid",
    );
    run.start();
    assert!(matches!(run.over().state, RunState::Ended { .. }));
    assert_eq!(
        std::fs::read_to_string(run.pid_file()).expect("a pid file"),
        "1\n"
    );
}

#[test]
fn an_end_that_cannot_be_written_yet_is_written_later_and_the_pid_file_waits_for_it() {
    let world = World::new();
    // While a folder stands in the record's place, rename(2) cannot put the file there.
    let run = world.sh(7, 1, "read go < fifo");
    nix::unistd::mkfifo(
        world.path("fifo").as_std_path(),
        nix::sys::stat::Mode::S_IRWXU,
    )
    .expect("a fifo");
    run.start();
    let agent = run.agent();
    let state = run.paths().state();
    std::fs::remove_file(&state).expect("remove");
    std::fs::create_dir_all(state.join("in-the-way")).expect("a folder");
    std::fs::write(world.path("fifo"), "go\n").expect("go");
    eventually("the agent is over", || {
        (!process::is_alive(&agent)).then_some(())
    });
    assert!(run.is_held() && run.pid_file().exists());
    std::fs::remove_dir_all(&state).expect("remove");
    assert_eq!(run.outcome(), Outcome::Exited(0));
}
