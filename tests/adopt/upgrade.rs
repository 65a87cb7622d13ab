//! The program's file is replaced while daemon and shims run from it.

use std::io::Write as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use calypso_watch::core::model::Outcome;
use nix::sys::signal::Signal;

use crate::World;
use crate::world::EXE;

/// A copy of the program that is another file with other bytes, as the next version's would be.
fn build(path: &Path, version: &str) {
    std::fs::copy(EXE, path).expect("a copy");
    let mut file = std::fs::OpenOptions::new()
        .append(true)
        .open(path)
        .expect("ours");
    // What follows an ELF file's last section is nobody's.
    file.write_all(version.as_bytes()).expect("room");
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o755)).expect("ours");
}

#[test]
fn a_daemon_of_the_new_program_takes_up_the_agents_of_the_old_one() {
    let mut world = World::new()
        .queue("architect", "claim; gate architect; finish")
        .queue("coder", "claim; gate coder; exit 5")
        .queue("devops", "claim; gate devops; finish")
        .set("max_attempts", "1")
        .configure();
    let exe = world.path("calypso-watch");
    build(&exe, "old");
    let name = exe.to_str().expect("UTF-8").to_owned();
    world.launch(&name);
    let first = world.task("architect", "goes on");
    let second = world.task("coder", "ends in between");
    world.eventually("both work", |w| {
        w.count("at-architect architect") == 1 && w.count("at-coder coder") == 1
    });
    let before = world.processes(first);
    let (said, _) = world.status();
    assert!(!said.to_string().contains("was replaced"), "{said}");

    // As a package manager, `install` or `cargo install` does it: another file gets the name.
    let new = world.path("calypso-watch.next");
    build(&new, "new");
    std::fs::rename(&new, &exe).expect("a rename");
    for pid in [world.daemon_pid(), before.0] {
        let runs = std::fs::read_link(format!("/proc/{pid}/exe")).expect("it lives");
        assert!(runs.to_string_lossy().ends_with(" (deleted)"), "{runs:?}");
    }
    // The old daemon goes on starting runs, from the program that it is itself …
    let third = world.task("devops", "started after the upgrade");
    world.eventually("it works", |w| w.count("at-devops devops") == 1);
    let (shim, _) = world.processes(third);
    let runs = std::fs::read_link(format!("/proc/{shim}/exe")).expect("it lives");
    assert!(runs.to_string_lossy().ends_with(" (deleted)"), "{runs:?}");
    // … and `status` says how to get the new one.
    let said = world.ok(&["status"]);
    assert!(
        said.contains("its program was replaced since it started: `calypso-watch quit`, then"),
        "{said}"
    );

    world.end_daemon(Signal::SIGTERM);
    world.open("coder");
    world.eventually("the second is over", |w| {
        !w.names("running_tasks")
            .contains(&format!("task_{second}.pid"))
    });
    world.launch(&name);
    world.eventually("judged by the new one", |w| w.verdicts(second).len() == 1);
    assert_eq!(world.outcomes(second), [Outcome::Exited(5)]);
    assert_eq!(world.processes(first), before);
    world.open("architect");
    world.open("devops");
    for id in [first, third] {
        world.eventually("complete", |w| w.is_complete(id));
        world.eventually("judged", |w| w.verdicts(id).len() == 1);
        assert_eq!(world.outcomes(id), [Outcome::Exited(0)]);
    }
    let said = world.ok(&["status"]);
    assert!(!said.contains("was replaced"), "{said}");
    world.is_clean();
    assert_eq!(
        world
            .stamps()
            .iter()
            .filter(|s| s.starts_with("start "))
            .count(),
        3
    );
}

/// The kernel does not let anybody write into a program that runs (execve(2), ETXTBSY), so half a program never runs.
#[test]
fn the_file_of_a_running_program_cannot_be_overwritten() {
    let mut world = World::new().queue("coder", "claim; finish").configure();
    let exe = world.path("calypso-watch");
    build(&exe, "old");
    let name = exe.to_str().expect("UTF-8").to_owned();
    world.launch(&name);
    world.eventually("it watches", |w| w.cw(&["status"]).code == Some(0));
    let refused = std::fs::OpenOptions::new()
        .write(true)
        .open(&exe)
        .expect_err("it runs");
    assert_eq!(refused.kind(), std::io::ErrorKind::ExecutableFileBusy);
    let cp = std::process::Command::new("cp")
        .args([EXE, &name])
        .output()
        .expect("cp is there");
    assert!(!cp.status.success());
    // The program is taken away altogether, and no other put in its place.
    std::fs::remove_file(&exe).expect("ours");
    let task = world.task("coder", "meanwhile");
    world.eventually("complete", |w| w.is_complete(task));
    world.is_clean();
}
