//! What is seen, and can be ended, after the shim's death.

use calypso_watch::core::{Alive, ObservedState};
use calypso_watch::edge::process::DeadShim;

use super::*;

#[track_caller]
fn alive(run: &Run<'_>, known: &[ProcessId]) -> Option<Alive> {
    let state = run.state();
    let asked = DeadShim {
        dir: &run.dir,
        token: Some(&run.spec.token),
        state: state.as_ref(),
        known,
    };
    let mut answers = process::leftovers(run.layout(), &[asked]);
    assert_eq!(answers.len(), 1);
    answers.remove(0)
}

fn pids(found: &[calypso_watch::core::model::Leftover]) -> Vec<i32> {
    let mut pids: Vec<i32> = found.iter().map(|left| left.process.pid).collect();
    pids.sort_unstable();
    pids
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime")
}

#[test]
fn an_orphan_is_recognised_and_ended_politely() {
    let world = World::new();
    let run = world.sh(
        7,
        1,
        "trap 'echo bye; exit 1' INT; echo up; while :; do sleep 0.01; done",
    );
    run.start();
    let agent = run.agent();
    run.says("up");
    run.kill_shim();
    let seen = runs::observe(run.layout(), &run.dir).expect("a look");
    assert!(seen.observed.spec && seen.observed.pid_file && !seen.observed.shim);
    assert_eq!(seen.observed.state, ObservedState::Running);
    assert!(files::is_held_at(&run.paths().agent_lock()).expect("a look"));
    assert_eq!(alive(&run, &[]).expect("seen").agent, Some(agent.clone()));
    let end = runtime().block_on(process::stop_orphan(&agent, Millis::secs(10)));
    assert_eq!(end.expect("a stop"), process::StopEnd::Over);
    assert!(run.output().ends_with("bye\n"));
    // Its `sleep` may live a moment longer.
    eventually("nothing is alive", || {
        alive(&run, &[])?.is_nothing().then_some(())
    });
    assert!(runs::clear_pid_file(run.layout(), &run.dir).expect("a removal"));
    assert!(!run.pid_file().exists());
    let again = runtime().block_on(process::stop_orphan(&agent, Millis::secs(1)));
    assert_eq!(again.expect("no stop"), process::StopEnd::WasOver);
}

#[test]
fn a_deaf_orphan_is_killed_with_its_group() {
    let world = World::new();
    let run = world.sh(
        7,
        1,
        "trap '' INT TERM; sh -c 'echo $$ > child; while :; do sleep 0.05; done' & while :; do sleep 0.05; done",
    );
    run.start();
    let agent = run.agent();
    let child = process_in(&world.path("child"));
    run.kill_shim();
    let end = runtime().block_on(process::stop_orphan(&agent, Millis(50)));
    assert_eq!(end.expect("a stop"), process::StopEnd::Over);
    eventually("its group is dead", || {
        (!process::is_alive(&child)).then_some(())
    });
}

#[test]
fn children_are_found_by_lock_or_token_wherever_they_went() {
    let world = World::new();
    let python = world.script(
        "agent.py",
        "import subprocess, time, os
kept = subprocess.Popen(['sleep', '60'], start_new_session=True)
open('token', 'w').write(str(kept.pid))
",
    );
    // The one by python has lost the lock; the one with an empty environment has lost the token.
    let run = world.sh(
        7,
        1,
        &format!(
            "python3 {python}
             setsid env -i sleep 60 & echo $! > lock
             while ! [ -s token ]; do sleep 0.01; done
             echo up; exec sleep 60"
        ),
    );
    run.start();
    let agent = run.agent();
    run.says("up");
    let by_token = process_in(&world.path("token"));
    let by_lock = process_in(&world.path("lock"));
    run.kill_shim();
    // Open, but not locked: a stranger who merely reads the file.
    let stranger = std::fs::File::open(run.paths().agent_lock()).expect("a file");
    let found = alive(&run, &[]).expect("seen");
    assert_eq!(found.agent, Some(agent.clone()));
    let mut both = vec![by_token.pid, by_lock.pid];
    both.sort_unstable();
    assert_eq!(pids(&found.leftovers), both);
    assert!(found.doubtful.is_empty());
    drop(stranger);
    signal(&agent, process::Signal::KILL);
    eventually("the agent is dead", || {
        (!process::is_alive(&agent)).then_some(())
    });
    let found = alive(&run, &[]).expect("seen");
    assert_eq!(found.agent, None);
    assert_eq!(pids(&found.leftovers), both);
    let survivors = runtime().block_on(process::sweep(&found.leftovers, Millis::secs(5)));
    assert!(survivors.is_empty(), "{survivors:?}");
    assert!(alive(&run, &[]).expect("seen").is_nothing());
}

#[test]
fn a_member_of_the_session_is_certain_only_beside_another_that_is() {
    let world = World::new();
    // Neither lock nor token, but still in the shim's session.
    let python = world.script(
        "agent.py",
        "import subprocess, time
bare = subprocess.Popen(['sleep', '60'], env={})
open('bare', 'w').write(str(bare.pid))
time.sleep(60)
",
    );
    let run = world.run(7, 1, &["python3", &python]);
    run.start();
    let agent = run.agent();
    let bare = process_in(&world.path("bare"));
    run.kill_shim();
    let found = alive(&run, &[]).expect("seen");
    assert_eq!(found.agent, Some(agent.clone()));
    assert_eq!(pids(&found.leftovers), [bare.pid]);
    signal(&agent, process::Signal::KILL);
    eventually("the agent is dead", || {
        (!process::is_alive(&agent)).then_some(())
    });
    let found = alive(&run, &[]).expect("seen");
    assert!(found.leftovers.is_empty());
    assert_eq!(pids(&found.doubtful), [bare.pid]);
    // Seen as certain before: it stays so.
    let found = alive(&run, std::slice::from_ref(&bare)).expect("seen");
    assert_eq!(pids(&found.leftovers), [bare.pid]);
    signal(&bare, process::Signal::KILL);
}

#[test]
fn leftovers_deaf_to_term_are_killed_within_the_limit() {
    let world = World::new();
    let run = world.sh(
        7,
        1,
        "setsid sh -c 'trap \"\" TERM; echo $$ > deaf; while :; do sleep 0.05; done' & exec sleep 60",
    );
    run.start();
    let agent = run.agent();
    let deaf = process_in(&world.path("deaf"));
    run.kill_shim();
    signal(&agent, process::Signal::KILL);
    let found = alive(&run, &[]).expect("seen");
    let survivors = runtime().block_on(process::sweep(&found.leftovers, Millis::secs(5)));
    assert!(survivors.is_empty(), "{survivors:?}");
    assert!(!process::is_alive(&deaf));
}

#[test]
fn another_boots_numbers_mean_nothing() {
    let world = World::new();
    let run = world.sh(7, 1, "true");
    drop(run.prepare());
    let state = StateRecord {
        format: FORMAT,
        token: run.spec.token.clone(),
        state: RunState::Running {
            agent: process::own(),
        },
        shim: process::own(),
        boot_id: "another boot".into(),
        started: run.spec.times.written.clone(),
        running: None,
        ended: None,
        usage: None,
    };
    runs::write_state(run.layout(), &run.dir, &state, files::Durability::Crash).expect("a state");
    assert!(alive(&run, &[]).expect("seen").is_nothing());
}

#[test]
fn a_reused_number_is_not_the_process() {
    let own = process::own();
    let other = ProcessId {
        start: own.start + 1,
        ..own.clone()
    };
    assert!(process::is_alive(&own) && !process::is_alive(&other));
    assert!(
        process::Pidfd::open_checked(&other)
            .expect("a look")
            .is_none()
    );
    for pid in [0, -1, i32::MIN, i32::MAX] {
        let nobody = ProcessId { pid, start: 0 };
        assert!(!process::is_alive(&nobody));
        assert!(matches!(process::Pidfd::open_checked(&nobody), Ok(None)));
    }
}

#[test]
fn a_shim_killed_at_any_moment_leaves_what_the_table_says() {
    let world = World::new();
    // The moment of death moves through the shim's life; whatever is left has to be one of the table's rows.
    for number in 1..=60 {
        let run = world.sh(7, number, "echo ran; sleep 0.01");
        run.start();
        let wait = Duration::from_micros(u64::from(number) * 700);
        let end = Instant::now() + wait;
        while Instant::now() < end {
            std::thread::yield_now();
        }
        let shim = run.state().map(|state| state.shim);
        if let Some(shim) = &shim {
            signal(shim, process::Signal::KILL);
        }
        eventually("the shim is gone", || (!run.is_held()).then_some(()));
        let seen = runs::observe(run.layout(), &run.dir).expect("a look");
        let ran = run.output().contains("ran");
        match seen.observed.state {
            ObservedState::None | ObservedState::Starting => {
                eventually("the gated child is gone", || {
                    alive(&run, &[])?.is_nothing().then_some(())
                });
                assert_eq!(run.output(), "", "the gate never opened");
            }
            ObservedState::Running => assert!(
                seen.observed.pid_file,
                "who runs has its pid file: {seen:?}"
            ),
            ObservedState::Ended => assert!(ran, "{seen:?}"),
        }
        eventually("nothing is alive", || {
            alive(&run, &[])?.is_nothing().then_some(())
        });
        runs::clear_pid_file(run.layout(), &run.dir).expect("a removal");
        assert!(!run.pid_file().exists());
    }
}
