//! Shims that are started ahead of their runs.

use std::process::Child;

use super::*;

fn program() -> process::ShimProgram {
    let mut program: process::ShimProgram = Utf8Path::new(PROGRAMS[0]).into();
    program.have_spare();
    program
}

fn start(program: &mut process::ShimProgram, run: &Run<'_>, env: Vec<(String, String)>) -> Child {
    process::start_shim(program, run.layout(), &run.dir, run.prepare(), env).expect("a shim")
}

fn command_line(pid: u32) -> Vec<String> {
    let line = std::fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    let words = line.trim_end_matches('\0').split('\0');
    words.map(str::to_owned).collect()
}

#[test]
fn ps_tells_which_run_a_shim_is_of_however_it_was_started() {
    let world = World::new();
    // It waits until it is killed: nobody writes.
    let fifo = world.path("fifo");
    nix::unistd::mkfifo(fifo.as_std_path(), nix::sys::stat::Mode::S_IRWXU).expect("a fifo");
    for (number, has_spare) in [(1, true), (2, false)] {
        let run = world.sh(7, number, "read go < fifo");
        let mut program = program();
        let spare = program.spare();
        if !has_spare {
            program = Utf8Path::new(PROGRAMS[0]).into();
        }
        let mut shim = start(&mut program, &run, vec![]);
        assert_eq!(spare == Some(shim.id()), has_spare);
        let dir = run.paths().dir;
        run.agent();
        assert_eq!(
            command_line(shim.id()),
            ["calypso-watch", "__shim", dir.as_str()]
        );
        let comm = std::fs::read_to_string(format!("/proc/{}/comm", shim.id()));
        assert_eq!(comm.expect("it lives"), "calypso-shim\n");
        signal(&run.agent(), process::Signal::KILL);
        shim.wait().expect("ours");
    }
}

#[test]
fn a_spare_shim_ends_with_its_daemon() {
    let mut program = program();
    let pid = program.spare().expect("a spare shim");
    // Nothing but its socket tells it.
    drop(program);
    eventually("it is over", || {
        let stat = process::stat(pid.cast_signed()).expect("readable");
        stat.is_none_or(|stat| stat.is_dead()).then_some(())
    });
}

#[test]
fn a_spare_shim_that_was_killed_costs_no_launch() {
    let world = World::new();
    let mut program = program();
    let pid = program.spare().expect("a spare shim");
    let target = rustix::process::Pid::from_raw(pid.cast_signed()).expect("a number");
    rustix::process::kill_process(target, rustix::process::Signal::KILL).expect("ours");
    // Until it is, it could be told.
    eventually("it is dead", || {
        let stat = process::stat(pid.cast_signed()).expect("readable");
        stat.is_some_and(|stat| stat.is_dead()).then_some(())
    });
    let run = world.sh(7, 1, "true");
    let mut shim = start(&mut program, &run, vec![]);
    assert_ne!(shim.id(), pid);
    assert_eq!(run.outcome(), Outcome::Exited(0));
    shim.wait().expect("ours");
    assert_eq!(program.spare(), None);
}

#[test]
fn what_cannot_be_told_in_a_message_is_told_by_exec() {
    let world = World::new();
    let mut program = program();
    let spare = program.spare();
    let run = world.sh(7, 1, "echo ${#LONG}");
    let long = ("LONG".to_owned(), "x".repeat(100_000));
    let mut shim = start(&mut program, &run, vec![long]);
    assert_ne!(Some(shim.id()), spare);
    assert_eq!(run.outcome(), Outcome::Exited(0));
    assert_eq!(run.output(), "100000\n");
    shim.wait().expect("ours");
}

#[test]
fn a_spare_shim_that_is_told_another_runs_lock_starts_nothing() {
    let world = World::new();
    let (run, other) = (world.sh(7, 1, "touch ran"), world.sh(8, 1, "true"));
    drop(run.prepare());
    let mut program = program();
    let lock = other.prepare();
    let mut shim =
        process::start_shim(&mut program, run.layout(), &run.dir, lock, vec![]).expect("a shim");
    assert_eq!(shim.wait().expect("ours").code(), Some(2));
    assert!(run.state().is_none() && !world.path("ran").exists());
}
