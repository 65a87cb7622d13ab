//! Who may read and write what we make, whatever the umask; and what another local user gets to see.

use std::fs;
use std::os::unix::fs::{PermissionsExt as _, chown};
use std::path::Path;
use std::process::{Command, Stdio};

use crate::world::{NOBODY, PROGRAM, World};

fn mode(path: &Path) -> u32 {
    let meta =
        fs::symlink_metadata(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    meta.permissions().mode() & 0o777
}

/// Every entry below a folder, with its mode.
fn modes(folder: &Path, found: &mut Vec<(String, u32)>) {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let path = entry.path();
        found.push((path.display().to_string(), mode(&path)));
        if path.is_dir() {
            modes(&path, found);
        }
    }
}

/// A whole task with the built-in tinytask under this umask.
fn world_under(umask: &str) -> (World, i64) {
    let mut world = World::new();
    let free = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = free.local_addr().expect("it listens");
    drop(free);
    world.settings(
        "",
        &format!("[tinytask]\nbuiltin = true\nlisten = \"{address}\"\n"),
    );
    let agent = format!(
        "#!/bin/sh\necho private words\nexec {PROGRAM} --base-path {} task done \"$1\"\n",
        world.base.display()
    );
    world.write("good.sh", agent);
    world.wrap = vec![
        "sh".into(),
        "-c".into(),
        format!("umask {umask}; exec \"$0\" \"$@\""),
    ];
    world.start();
    let said = world.cli(&["task", "create", "a task", "--queue", "good"]);
    assert_eq!(said.code, 0, "{said:?}");
    let id = 1;
    fs::create_dir_all(world.base.join("workqueue/task_1")).expect("ours");
    world.eventually("it is done", || {
        world.read(".calypso/history.jsonl").contains("\"1/1\"")
    });
    world.cli(&["hold", "99"]).tells(0, "");
    (world, id)
}

#[test]
fn modes_are_right_under_any_umask() {
    for umask in ["000", "077"] {
        let (world, id) = world_under(umask);
        let state = world.base.join(".calypso");
        let mut found = Vec::new();
        modes(&state, &mut found);
        assert!(found.len() > 15, "{found:?}");
        for (path, mode) in &found {
            // A control file is nobody else's to make, a log and a task nobody else's to read.
            let is_private = [
                "/output.log",
                "/tinytask.log",
                "tinytask.db",
                "tinytask.db-wal",
                "tinytask.db-shm",
            ]
            .iter()
            .any(|end| path.ends_with(end))
                || path.contains("/control");
            assert_eq!(
                mode & 0o022,
                0,
                "{path} {mode:o} under umask {umask}: others may write"
            );
            assert!(
                !is_private || mode & 0o077 == 0,
                "{path} {mode:o} under umask {umask}: others may read"
            );
        }
        assert_eq!(mode(&state.join("control")), 0o700);
        assert_eq!(
            mode(&state.join(format!("runs/task_{id}/0001-good/output.log"))),
            0o600
        );
        world.cli(&["tinytask", "stop"]).tells(0, "ended");
    }
}

/// Another user of this machine sees that and what runs, but neither what agents say nor the database, and changes nothing.
#[test]
fn another_user_reads_states_but_no_words_and_writes_nothing() {
    let (world, id) = world_under("022");
    let nobody = |script: &str| {
        let mut command = Command::new(NOBODY[0]);
        command
            .args(&NOBODY[1..])
            .args(["sh", "-c", script])
            .current_dir(&world.base)
            .stdin(Stdio::null());
        command.output().expect("it starts").status.success()
    };
    let run = format!(".calypso/runs/task_{id}/0001-good");
    for path in [
        format!("{run}/output.log"),
        ".calypso/tinytask/tinytask.db".into(),
        ".calypso/tinytask.log".into(),
    ] {
        assert!(world.base.join(&path).exists(), "{path}");
        assert!(!nobody(&format!("cat {path}")), "{path} can be read");
    }
    for path in [
        format!("{run}/spec.json"),
        format!("{run}/state.json"),
        ".calypso/daemon.json".into(),
        ".calypso/history.jsonl".into(),
    ] {
        assert!(
            nobody(&format!("cat {path}")),
            "{path} is for everybody's status"
        );
    }
    for deed in [
        "touch .calypso/control/pause",
        "ls .calypso/control",
        "echo 1 > running_tasks/task_1.pid",
        "echo x > inbound/x",
        "mkdir workqueue/task_2",
        "echo x > recipes/x.yaml",
        "echo >> calypso.toml",
        "rm .calypso/lock",
        "touch .calypso/x",
        "touch .calypso/tinytask/x",
    ] {
        assert!(!nobody(deed), "another user may: {deed}");
    }
    let (base, program) = (world.base.display(), PROGRAM);
    for wish in ["pause", "hold 1", "quit", "run --once"] {
        assert!(
            !nobody(&format!("{program} --base-path {base} {wish}")),
            "another user may: {wish}"
        );
    }
    world.cli(&["tinytask", "stop"]).tells(0, "ended");
}

/// In a folder such as /tmp anyone may put settings, and settings name commands: what nobody named is not obeyed.
#[test]
fn a_base_path_of_another_user_is_not_taken_because_it_lies_above() {
    let world = World::new();
    world.settings("", "[tinytask]\ncommand = [\"/bin/touch\", \"pwned\"]\n");
    let here = world.base.join("somebody/works/here");
    fs::create_dir_all(&here).expect("ours");
    let status = || {
        let mut command = Command::new(PROGRAM);
        command
            .arg("status")
            .current_dir(&here)
            .env_remove("CALYPSO_BASE_PATH")
            .stdin(Stdio::null());
        let out = command.output().expect("it starts");
        (
            out.status.code(),
            String::from_utf8_lossy(&out.stderr).into_owned(),
        )
    };
    chown(world.base.join("calypso.toml"), Some(65534), None).expect("root may");
    let (code, error) = status();
    assert_eq!(code, Some(2), "{error}");
    assert!(
        error.contains("belongs to another user (uid 65534), whose commands would be run"),
        "{error}"
    );
    assert!(!world.base.join("pwned").exists() && !here.join("pwned").exists());
    chown(world.base.join("calypso.toml"), Some(0), None).expect("root may");
    assert_ne!(status().0, Some(2), "one's own is found as before");
}

#[test]
fn a_recipe_of_another_user_is_not_run() {
    let world = World::new();
    world.write("recipes/coder.yaml", "title: t\nprompt: p\n");
    fs::set_permissions(
        world.base.join("recipes"),
        fs::Permissions::from_mode(0o1777),
    )
    .expect("ours");
    chown(world.base.join("recipes/coder.yaml"), Some(65534), None).expect("root may");
    world.task("coder");
    world.shows("recipes/coder.yaml cannot be used: belongs to another user (uid 65534), whose commands are not run");
}
