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
    let mut stranger = std::process::Command::new("sleep")
        .arg("60")
        .stdin(std::fs::File::open(run.paths().agent_lock()).expect("a file"))
        .spawn()
        .expect("a process");
    let found = alive(&run, &[]).expect("seen");
    assert_eq!(found.agent, Some(agent.clone()));
    let mut both = vec![by_token.pid, by_lock.pid];
    both.sort_unstable();
    assert_eq!(pids(&found.leftovers), both);
    assert!(found.doubtful.is_empty());
    stranger.kill().expect("killed");
    stranger.wait().expect("collected");
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

/// The temporary name under which the shim writes its state: a FIFO there blocks it in open(2), at a moment of our choice.
fn block_state(run: &Run<'_>, state: &str) -> Utf8PathBuf {
    let path = run.paths().dir.join(format!(".state.json.{state}.new"));
    fifo(&path);
    path
}

fn fifo(path: &Utf8Path) {
    nix::unistd::mkfifo(path.as_std_path(), nix::sys::stat::Mode::S_IRWXU).expect("a fifo");
}

/// Waits until the process sleeps in open(2) of a FIFO, and nowhere else.
#[track_caller]
fn waits_to_open(process: &ProcessId, what: &str) {
    eventually(what, || {
        let wchan = std::fs::read_to_string(format!("/proc/{}/syscall", process.pid)).ok()?;
        let number: i64 = wchan.split_ascii_whitespace().next()?.parse().ok()?;
        (number == nix::libc::SYS_openat).then_some(())
    });
}

#[test]
fn a_shim_killed_before_the_link_leaves_no_trace_of_an_agent() {
    let world = World::new();
    let run = world.sh(7, 1, "touch ran");
    let lock = run.prepare();
    // It stops where it opens the log, between S3 and S4.
    fifo(&run.paths().output());
    run.start_with(lock, &[]);
    let shim = eventually("starting", || Some(run.state()?.shim));
    waits_to_open(&shim, "it opens the log");
    assert!(run.is_held());
    run.kill_shim();
    eventually("the lock is free", || (!run.is_held()).then_some(()));
    let seen = runs::observe(run.layout(), &run.dir)
        .expect("a look")
        .observed;
    assert_eq!(seen.state, ObservedState::Starting);
    assert!(seen.spec && !seen.pid_file && !seen.shim);
    assert!(alive(&run, &[]).expect("seen").is_nothing());
    assert!(!world.path("ran").exists());
}

#[test]
fn a_shim_killed_between_the_link_and_go_takes_the_gated_agent_with_it() {
    let world = World::new();
    let run = world.sh(7, 1, "touch ran");
    let lock = run.prepare();
    fifo(&run.paths().output());
    run.start_with(lock, &[]);
    let shim = eventually("starting", || Some(run.state()?.shim));
    waits_to_open(&shim, "it opens the log");
    // The next state stops it, between S5 and S6; then the log lets it go on.
    block_state(&run, "running");
    let log = std::fs::OpenOptions::new()
        .read(true)
        .write(true)
        .open(run.paths().output())
        .expect("the log");
    eventually("the pid file is linked", || {
        run.pid_file().exists().then_some(())
    });
    waits_to_open(&shim, "it writes `running`");
    let gated = process_in(&run.pid_file());
    // Its copy of agent.lock makes it certain; the shim itself is nothing left over.
    assert_eq!(
        pids(&alive(&run, &[]).expect("seen").leftovers),
        [gated.pid]
    );
    assert!(!world.path("ran").exists());
    run.kill_shim();
    eventually("the gated child is dead", || {
        (!process::is_alive(&gated)).then_some(())
    });
    eventually("the lock is free", || (!run.is_held()).then_some(()));
    let seen = runs::observe(run.layout(), &run.dir)
        .expect("a look")
        .observed;
    assert_eq!(seen.state, ObservedState::Starting);
    assert!(seen.pid_file && !seen.shim);
    assert!(alive(&run, &[]).expect("seen").is_nothing());
    assert!(!world.path("ran").exists(), "the gate never opened");
    drop(log);
}

#[test]
fn a_stop_before_go_is_obeyed_before_the_first_instruction() {
    let world = World::new();
    let run = world.sh(7, 1, "touch ran");
    let lock = run.prepare();
    fifo(&run.paths().output());
    run.start_with(lock, &[]);
    let shim = eventually("starting", || Some(run.state()?.shim));
    waits_to_open(&shim, "it opens the log");
    // Blocked there and read later: the signal does not interrupt the wait.
    signal(&shim, process::Signal::TERM);
    let log = std::fs::OpenOptions::new()
        .read(true)
        .write(true)
        .open(run.paths().output())
        .expect("the log");
    assert!(matches!(run.outcome(), Outcome::Stopped(_)));
    assert!(!world.path("ran").exists());
    drop(log);
}

#[test]
fn a_shim_killed_before_it_could_write_the_end_leaves_a_lost_run() {
    let world = World::new();
    let run = world.sh(7, 1, "echo ran; read go < fifo");
    fifo(&world.path("fifo"));
    run.start();
    let agent = run.agent();
    let shim = run.state().expect("a state").shim;
    run.says("ran");
    block_state(&run, "ended");
    std::fs::write(world.path("fifo"), "go\n").expect("go");
    eventually("the agent is over", || {
        (!process::is_alive(&agent)).then_some(())
    });
    waits_to_open(&shim, "it writes `ended`");
    run.kill_shim();
    eventually("the lock is free", || (!run.is_held()).then_some(()));
    let seen = runs::observe(run.layout(), &run.dir)
        .expect("a look")
        .observed;
    assert_eq!(seen.state, ObservedState::Running);
    assert!(seen.pid_file && !seen.shim);
    assert!(alive(&run, &[]).expect("seen").is_nothing());
}

#[test]
fn a_stopped_shim_is_seen_and_its_agent_can_be_ended() {
    let world = World::new();
    let run = world
        .sh(7, 1, "exec sleep 60")
        .limits(|limits| limits.time = Millis(100));
    run.start();
    let shim = eventually("starting", || Some(run.state()?.shim));
    signal(&shim, process::Signal::STOP);
    eventually("it is stopped", || process::is_stopped(&shim).then_some(()));
    // Where the signal came before "go" there is no agent to look at; then the run simply goes on below.
    if let Some(RunState::Running { agent }) = run.state().map(|state| state.state) {
        assert!(run.is_held());
        let end = runtime().block_on(process::stop_orphan(&agent, Millis::secs(5)));
        assert_ne!(end.expect("a stop"), process::StopEnd::Alive);
        assert!(!process::is_alive(&agent));
    }
    signal(&shim, process::Signal::CONT);
    run.outcome();
}

#[test]
fn what_a_finished_shim_could_not_end_is_looked_for_by_name_and_start() {
    let world = World::new();
    let run = world.sh(7, 1, "true");
    drop(run.prepare());
    let mut sleeper = std::process::Command::new("sleep")
        .arg("60")
        .spawn()
        .expect("a process");
    let pid = sleeper.id().cast_signed();
    let process = process::identity(pid).expect("alive");
    let left = calypso_watch::core::model::Leftover {
        process: process.clone(),
        comm: "sleep".into(),
    };
    let reused = calypso_watch::core::model::Leftover {
        process: ProcessId {
            start: process.start + 1,
            ..process
        },
        comm: "sleep".into(),
    };
    let now = clock::now();
    let state = StateRecord {
        format: FORMAT,
        token: run.spec.token.clone(),
        state: RunState::Ended {
            outcome: Outcome::Exited(0),
            leftovers: vec![left.clone(), reused],
        },
        shim: ProcessId { pid, start: 0 },
        boot_id: now.boot_id.clone(),
        started: Moment::from(&now),
        running: None,
        ended: None,
        usage: None,
    };
    runs::write_state(run.layout(), &run.dir, &state, files::Durability::Crash).expect("a state");
    assert_eq!(alive(&run, &[]).expect("seen").leftovers, [left]);
    sleeper.kill().expect("killed");
    sleeper.wait().expect("collected");
    assert!(alive(&run, &[]).expect("seen").is_nothing());
}

#[test]
fn another_user_is_told_unknown_and_nothing_else() {
    if !rustix::process::geteuid().is_root() {
        return;
    }
    let world = World::new();
    for dir in [".", ".calypso", ".calypso/runs"] {
        std::fs::set_permissions(world.path(dir), std::fs::Permissions::from_mode(0o755))
            .expect("chmod");
    }
    let run = world.sh(7, 1, "echo up; exec sleep 60");
    run.start();
    // Not just `running`: killed between S6 and S7, the shim would take the agent with it.
    let agent = run.agent();
    run.says("up");
    run.kill_shim();
    assert!(alive(&run, &[]).expect("root sees").agent.is_some());
    std::thread::scope(|scope| {
        let looked = scope.spawn(|| {
            // SAFETY: the system call itself changes the user of this thread alone, which ends right after.
            let changed =
                unsafe { nix::libc::syscall(nix::libc::SYS_setresuid, 65534, 65534, 65534) };
            assert_eq!(changed, 0);
            let denied = std::fs::read(format!("/proc/{}/environ", agent.pid));
            let kind = denied.expect_err("denied").kind();
            assert_eq!(kind, std::io::ErrorKind::PermissionDenied);
            assert!(alive(&run, &[]).is_none());
        });
        looked.join().expect("no panic");
    });
    signal(&agent, process::Signal::KILL);
}

#[test]
fn a_hand_started_process_is_told_from_one_that_took_its_number() {
    use calypso_watch::core::StrangerKind;
    let own = process::own();
    let uid = rustix::process::geteuid().as_raw();
    let now = clock::wall();
    let StrangerKind::Alive {
        process, younger, ..
    } = process::stranger(Ok(own.pid), now, uid)
    else {
        panic!("not alive");
    };
    assert_eq!((process, younger), (own.clone(), false));
    let long_ago = calypso_watch::core::model::Timestamp(now.0 - 86_400_000);
    assert!(matches!(
        process::stranger(Ok(own.pid), long_ago, uid),
        StrangerKind::Alive { younger: true, .. }
    ));
    assert!(matches!(
        process::stranger(Ok(own.pid), now, uid + 1),
        StrangerKind::Odd(what) if what.contains("another user")
    ));
    let mut gone = std::process::Command::new("true")
        .spawn()
        .expect("a process");
    let pid = gone.id().cast_signed();
    eventually("it is a zombie", || {
        process::identity(pid).is_none().then_some(())
    });
    assert_eq!(
        process::stranger(Ok(pid), now, uid),
        StrangerKind::Dead { pid }
    );
    gone.wait().expect("collected");
    assert!(matches!(
        process::stranger(Err("empty".into()), now, uid),
        StrangerKind::Odd(what) if what == "empty"
    ));
}
