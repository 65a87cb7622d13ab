//! From the spec to the agent's first instruction.

use super::*;

#[test]
fn an_exit_code_is_the_outcome() {
    let world = World::new();
    for (number, code) in [(1, 0), (2, 3), (3, 255)] {
        let run = world.sh(
            7,
            number,
            &format!("echo hello; echo oops >&2; exit {code}"),
        );
        assert_eq!(run.end(), Outcome::Exited(code));
        assert_eq!(run.output(), "hello\noops\n");
        let state = run.state().expect("a state");
        assert_eq!(state.token, run.spec.token);
        assert!(state.usage.expect("usage").max_rss_kb > 0);
        assert!(state.running.is_some() && state.ended.is_some());
    }
}

#[test]
fn a_deadly_signal_is_the_outcome() {
    let world = World::new();
    let run = world.sh(7, 1, "kill -SEGV $$");
    assert_eq!(run.end(), Outcome::Signaled(11));
}

#[test]
fn what_cannot_be_executed_was_never_launched() {
    let world = World::new();
    let run = world.run(7, 1, &["no-such-program-anywhere"]);
    assert_eq!(
        run.end(),
        Outcome::NotLaunched(
            "exec `no-such-program-anywhere`: No such file or directory (os error 2)".into()
        )
    );
    let file = world.path("plain");
    std::fs::write(&file, "not executable").expect("a file");
    let run = world.run(7, 2, &[file.as_str()]);
    assert!(matches!(run.end(), Outcome::NotLaunched(why) if why.contains("Permission denied")),);
    let mut run = world.sh(7, 3, "true");
    run.spec.cwd = world.path("nowhere").into_string();
    assert!(matches!(run.end(), Outcome::NotLaunched(why) if why.starts_with("cannot go to `")),);
    let mut run = world.sh(7, 4, "true");
    run.spec.argv.clear();
    assert!(matches!(run.end(), Outcome::NotLaunched(why) if why.contains("command is empty")));
}

#[test]
fn a_program_is_found_through_the_path_of_its_environment() {
    for world in [World::new(), World::without_spare()] {
        std::fs::create_dir(world.path("bin")).expect("a folder");
        world.script("bin/my-goose", "#!/bin/sh\necho \"$WHAT here\"; pwd\n");
        let run = world.run(7, 1, &["my-goose"]);
        let path = format!("{}:/usr/bin:/bin", world.path("bin"));
        run.start_with(run.prepare(), &[("PATH", &path), ("WHAT", "found")]);
        assert_eq!(run.outcome(), Outcome::Exited(0));
        assert_eq!(
            run.output(),
            format!("found here\n{}\n", world.layout.base())
        );
    }
}

#[test]
fn the_pid_file_is_there_before_the_first_instruction_and_names_the_agent() {
    let world = World::new();
    // No fork before the look: `read` and `echo` are built in.
    let run = world.sh(
        7,
        1,
        "read pid < running_tasks/task_7.pid; echo \"file $pid self $$\"; read go < fifo",
    );
    nix::unistd::mkfifo(
        world.path("fifo").as_std_path(),
        nix::sys::stat::Mode::S_IRWXU,
    )
    .expect("a fifo");
    run.start();
    let agent = run.agent();
    run.says("file ");
    assert_eq!(run.output(), format!("file {0} self {0}\n", agent.pid));
    let file = run.pid_file();
    assert_eq!(
        std::fs::read_to_string(&file).expect("a pid file"),
        format!("{}\n", agent.pid)
    );
    assert_eq!(inode(&file), inode(&run.paths().pid()));
    assert_eq!(
        std::fs::metadata(&file).expect("a file").mode() & 0o7777,
        0o644
    );
    assert_eq!(
        std::fs::metadata(run.paths().output())
            .expect("a file")
            .mode()
            & 0o7777,
        0o600
    );
    assert!(runs::is_own_pid_file(run.layout(), &run.dir).expect("a look"));
    std::fs::write(world.path("fifo"), "go\n").expect("go");
    assert_eq!(run.outcome(), Outcome::Exited(0));
}

#[test]
fn the_agent_inherits_its_lock_and_nothing_else() {
    let world = World::new();
    // Left open, and not closed on exec, by whoever starts the shim.
    let leak = std::fs::File::open("/proc/version").expect("a file");
    nix::fcntl::fcntl(
        &leak,
        nix::fcntl::FcntlArg::F_SETFD(nix::fcntl::FdFlag::empty()),
    )
    .expect("fcntl");
    // The agent is `ls` itself, so that no shell adds descriptors; its own listing is one more.
    let run = world.run(7, 1, &["ls", "-l", "/proc/self/fd"]);
    assert_eq!(run.end(), Outcome::Exited(0));
    let output = run.output();
    let targets: Vec<&str> = output
        .lines()
        .filter_map(|line| Some(line.split_once(" -> ")?.1))
        .filter(|target| !target.starts_with("/proc/"))
        .collect();
    let paths = run.paths();
    let log = paths.output();
    let lock = paths.agent_lock();
    assert_eq!(
        targets,
        ["/dev/null", log.as_str(), log.as_str(), lock.as_str()],
        "{output}"
    );
    drop(leak);
}

#[test]
fn the_agent_starts_with_default_signals_and_a_group_and_session_of_its_runs() {
    let world = World::new();
    let run = world.run(7, 1, &["cat", "/proc/self/status", "/proc/self/stat"]);
    assert_eq!(run.end(), Outcome::Exited(0));
    let output = run.output();
    let field = |name: &str| {
        let line = output.lines().find(|line| line.starts_with(name));
        line.and_then(|line| line.split_ascii_whitespace().nth(1))
            .unwrap_or_else(|| panic!("no {name} in {output}"))
            .to_owned()
    };
    assert_eq!(field("SigBlk:"), "0000000000000000");
    assert_eq!(field("SigIgn:"), "0000000000000000");
    let own = std::fs::read_to_string("/proc/self/status").expect("status");
    let umask = own.lines().find(|line| line.starts_with("Umask:"));
    assert_eq!(output.lines().find(|l| l.starts_with("Umask:")), umask);
    let stat = process::parse_stat(output.lines().last().expect("a line").as_bytes())
        .expect("a stat line");
    assert_eq!(stat.pgrp, stat.pid);
    assert_eq!(stat.session, run.state().expect("a state").shim.pid);
}

#[test]
fn the_token_stands_in_the_agents_environment_and_not_in_the_shims() {
    let world = World::new();
    // Not its last command, which the shell would become: an exec hides the environment for a moment.
    let run = world.sh(7, 1, "echo token $CALYPSO_RUN; sleep 60; true");
    run.start_with(run.prepare(), &[("CALYPSO_RUN", "an-outer-one")]);
    let agent = run.agent();
    run.says(&format!("token {}", run.spec.token));
    let environ = |pid: i32| std::fs::read(format!("/proc/{pid}/environ")).expect("environ");
    let has = |bytes: &[u8]| bytes.windows(12).any(|part| part == b"CALYPSO_RUN=");
    assert!(has(&environ(agent.pid)));
    let shim = run.state().expect("a state").shim;
    assert!(!has(&environ(shim.pid)));
    signal(&shim, process::Signal::TERM);
    run.over();
}

#[test]
fn the_shim_is_in_a_session_of_its_own() {
    for world in [World::new(), World::without_spare()] {
        let run = world.sh(7, 1, "exec sleep 60");
        run.start();
        run.agent();
        let shim = run.state().expect("a state").shim;
        let stat = process::stat(shim.pid).expect("a look").expect("alive");
        assert_eq!(stat.session, shim.pid);
        signal(&shim, process::Signal::TERM);
        assert!(matches!(run.outcome(), Outcome::Stopped(_)));
    }
}

#[test]
fn a_pid_file_of_somebody_else_stands_and_nothing_runs() {
    let world = World::new();
    let run = world.sh(7, 1, "touch ran");
    std::fs::write(run.pid_file(), "1\n").expect("a pid file");
    run.start();
    let RunState::Ended { outcome, .. } = run.over().state else {
        panic!("not ended");
    };
    assert_eq!(
        outcome,
        Outcome::NotLaunched("task_7.pid exists: somebody has the task".into())
    );
    assert_eq!(
        std::fs::read_to_string(run.pid_file()).expect("a pid file"),
        "1\n"
    );
    assert!(!world.path("ran").exists());
}

#[test]
fn of_two_shims_for_one_task_exactly_one_runs_its_agent() {
    let world = World::new();
    for round in 0..50 {
        // Each agent says that it ran, and stays until both shims have decided.
        let script = "echo $CALYPSO_RUN >> ran; read go < running_tasks/hold";
        let hold = world.path("running_tasks/hold");
        nix::unistd::mkfifo(hold.as_std_path(), nix::sys::stat::Mode::S_IRWXU).expect("a fifo");
        let runs = [
            world.sh(7, 2 * round + 1, script),
            world.sh(7, 2 * round + 2, script),
        ];
        let locks = runs.each_ref().map(Run::prepare);
        std::thread::scope(|scope| {
            for (run, lock) in runs.iter().zip(locks) {
                scope.spawn(move || run.start_with(lock, &[]));
            }
        });
        let loser = eventually("one of them gives way", || {
            runs.iter()
                .position(|run| !run.is_held() && run.state().is_some())
        });
        let winner = &runs[1 - loser];
        winner.agent();
        let ran = eventually("the winner runs", || {
            let text = std::fs::read_to_string(world.path("ran")).ok()?;
            (!text.is_empty()).then_some(text)
        });
        assert_eq!(ran, format!("{}\n", winner.spec.token), "round {round}");
        assert!(runs::is_own_pid_file(&world.layout, &winner.dir).expect("a look"));
        assert!(matches!(
            runs[loser].state().expect("a state").state,
            RunState::Ended { outcome: Outcome::NotLaunched(why), .. } if why.contains("exists")
        ));
        std::fs::write(&hold, "go\n").expect("go");
        assert_eq!(winner.outcome(), Outcome::Exited(0));
        std::fs::remove_file(world.path("ran")).expect("remove");
        std::fs::remove_file(hold).expect("remove");
    }
}

#[test]
fn an_old_spec_is_not_started() {
    let world = World::new();
    let mut run = world.sh(7, 1, "touch ran");
    run.spec.times.written.boot.0 -= 11_000;
    assert_eq!(
        run.end(),
        Outcome::NotLaunched("its spec is too old".into())
    );
    let mut run = world.sh(7, 2, "touch ran");
    run.spec.times.written.boot_id = "another boot".into();
    assert_eq!(
        run.end(),
        Outcome::NotLaunched("its spec is too old".into())
    );
    assert!(!world.path("ran").exists());
}

#[test]
fn a_torn_or_missing_spec_starts_nothing_and_leaves_no_record() {
    let world = World::new();
    for (number, text) in [(1, "{\"format\":1,\"tok"), (2, ""), (3, "{\"format\":99}")] {
        let run = world.sh(7, number, "touch ran");
        let lock = runs::create(run.layout(), &run.dir, &mut runs::Blanks::default())
            .expect("a run directory");
        std::fs::write(run.paths().spec(), text).expect("a spec");
        run.start_with(lock, &[]);
        eventually("the shim is gone", || (!run.is_held()).then_some(()));
        assert!(run.state().is_none());
        assert!(!run.paths().pid().exists() && !run.pid_file().exists());
    }
    assert!(!world.path("ran").exists());
}

#[test]
fn a_shim_needs_the_lock_of_its_run_on_standard_input() {
    let world = World::new();
    let run = world.sh(7, 1, "touch ran");
    let other = world.sh(8, 1, "true");
    drop(run.prepare());
    let other_lock = other.prepare();
    // The right file without its lock; another run's lock; no run directory at all.
    let unlocked = std::fs::File::open(run.paths().shim_lock()).expect("a file");
    for (dir, fd) in [
        (run.paths().dir, OwnedFd::from(unlocked)),
        (run.paths().dir, other_lock),
        (
            "relative/.calypso/runs/task_7/0001-coder".into(),
            std::fs::File::open("/dev/null").expect("a file").into(),
        ),
    ] {
        for program in PROGRAMS {
            let status = std::process::Command::new(program)
                .args(["__shim", dir.as_str()])
                .stdin(fd.try_clone().expect("a descriptor"))
                .status()
                .expect("a process");
            assert_eq!(status.code(), Some(2));
        }
    }
    assert!(run.state().is_none() && !world.path("ran").exists());
}

#[test]
fn a_run_directory_is_used_once() {
    let world = World::new();
    let run = world.sh(7, 1, "echo ran >> ran");
    assert_eq!(run.end(), Outcome::Exited(0));
    let before = std::fs::read(run.paths().state()).expect("a state");
    let lock = std::fs::OpenOptions::new()
        .write(true)
        .open(run.paths().shim_lock())
        .expect("a lock file");
    assert!(files::try_lock(&lock).expect("a lock"));
    run.start_with(lock.into(), &[]);
    eventually("the second shim is gone", || (!run.is_held()).then_some(()));
    assert_eq!(std::fs::read(run.paths().state()).expect("a state"), before);
    assert_eq!(
        std::fs::read_to_string(world.path("ran")).expect("a file"),
        "ran\n"
    );
    assert!(matches!(
        runs::create(run.layout(), &run.dir, &mut runs::Blanks::default()),
        Err(runs::Error::AlreadyThere { .. })
    ));
}
