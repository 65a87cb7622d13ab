//! calypso.toml, the environment, flags, and the base path itself.

use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt as _, chown, symlink};

use crate::world::{NOBODY, World, unwrapped};

/// Refused the same way by everything that reads settings, before anything is started.
#[test]
fn settings_that_cannot_be_used_are_refused_in_one_line() {
    let world = World::new();
    let id = world.task("good");
    let cases: &[(&str, &str)] = &[
        (
            "max_runs = ",
            "`calypso.toml` line 1, column 12: string values must be quoted, expected literal string",
        ),
        (
            "max_runs = \"8",
            "`calypso.toml` line 1, column 14: invalid basic string, expected `\"`",
        ),
        (
            "colour = 3",
            "`calypso.toml` line 1, column 1: `colour` is no setting here",
        ),
        (
            "max_run = 3",
            "`calypso.toml` line 1, column 1: `max_run` is no setting here\nhint: did you mean `max_runs`?",
        ),
        (
            "[queue.coder]",
            "`calypso.toml` line 1, column 2: `queue` is no setting here\nhint: did you mean `queues`?",
        ),
        (
            "[tinytask]\nport = 3",
            "`calypso.toml` line 2, column 1: `port` is no setting here",
        ),
        (
            "max_runs = 0",
            "`max_runs` must be at least 1, got 0 (from `calypso.toml`, line 1)",
        ),
        (
            "max_runs = -1",
            "`max_runs` must be at least 1, got -1 (from `calypso.toml`, line 1)",
        ),
        (
            "max_runs = 99999999999",
            "`max_runs` is too large, got 99999999999 (from `calypso.toml`, line 1)",
        ),
        (
            "max_runs = \"many\"",
            "`max_runs` must be a number, got `many` (from `calypso.toml`, line 1)",
        ),
        (
            "time_limit = \"soon\"",
            "`time_limit` must be a time such as 10s, 45m or 1h30m, got `soon` (from `calypso.toml`, line 1)",
        ),
        (
            "\nlog_limit = 1",
            "`log_limit` must be at least 64KiB, got 1 (from `calypso.toml`, line 2)",
        ),
        (
            "missing_folder = \"create\"",
            "`missing_folder` = \"create\" needs the built-in tinytask: two base paths on one tinytask would each make the folder and run the task (from `calypso.toml`, line 1)",
        ),
        (
            "[queues.\"a b\"]",
            "`queues.a b` is no queue: queue `a b` is not valid: a queue's name is made of letters, digits, `_`, `.` and `-` (from `calypso.toml`, line 1)",
        ),
        (
            "[queues.x]\nconcurrency = 0",
            "`queues.x.concurrency` must be at least 1, got 0 (from `calypso.toml`, line 2)",
        ),
        (
            "[queues.x]\nrecipe = \"../x.yaml\"",
            "`queues.x.recipe` names a file in recipes/, without a folder, got `../x.yaml` (from `calypso.toml`, line 2)",
        ),
        (
            "[queues.x]\ncommand = []",
            "`queues.x.command` must name a program (from `calypso.toml`, line 2)",
        ),
        (
            "[queues.x]\nleftovers = \"eat\"",
            "`queues.x.leftovers` must be \"stop\" or \"leave\", got `eat` (from `calypso.toml`, line 2)",
        ),
        (
            "[inbound]\nqueue = \"a/b\"",
            "`inbound.queue` is no queue: queue `a/b` is not valid: a queue's name is made of letters, digits, `_`, `.` and `-` (from `calypso.toml`, line 2)",
        ),
        (
            "[inbound]\nignore = [\"[z\"]",
            "`inbound.ignore` has a bad pattern `[z`: invalid range pattern (from `calypso.toml`, line 2)",
        ),
        (
            "[tinytask]\nurl = \"ftp://x\"",
            "`tinytask.url` must be like `http://127.0.0.1:3000/mcp`, got `ftp://x` (from `calypso.toml`, line 2)",
        ),
        (
            "[tinytask]\nurl = \"http://x/mcp\"\nbuiltin = true",
            "`tinytask` takes one of `url`, `command` and `builtin = true`, got more (from `calypso.toml`, line 3)",
        ),
        (
            "[tinytask]\nbuiltin = true\nlisten = \"0.0.0.0:3000\"",
            "`tinytask.listen` must be a loopback address such as 127.0.0.1:3000, got 0.0.0.0:3000 (from `calypso.toml`, line 3)",
        ),
    ];
    for (text, error) in cases {
        world.write("calypso.toml", text);
        world
            .cli(&["status"])
            .fails(2, &format!("error: {error}\n"));
    }
    for args in [&["run"][..], &["run", "--once"], &["plan"]] {
        world.write("calypso.toml", "max_runs = 0");
        world.cli(args).fails(
            2,
            "error: `max_runs` must be at least 1, got 0 (from `calypso.toml`, line 1)\n",
        );
    }
    assert_eq!(world.status_of(id), "idle");
    assert_eq!(world.runs_of(&format!("task_{id}")), 0);
}

#[test]
fn a_bad_value_says_where_it_was_given() {
    let world = World::new();
    let cases: &[(&[&str], (&str, &str), &str)] = &[
        (
            &["plan"],
            ("CALYPSO_MAX_RUNS", "0"),
            "error: `max_runs` must be at least 1, got 0 (from `CALYPSO_MAX_RUNS`)\n",
        ),
        (
            &["plan"],
            ("CALYPSO_TINYTASK_URL", "here"),
            "error: `tinytask_url` must be like `http://127.0.0.1:3000/mcp`, got `here` (from `CALYPSO_TINYTASK_URL`)\n",
        ),
        (
            &["plan", "--max-runs", "0"],
            ("CALYPSO_MAX_RUNS", "3"),
            "error: `max_runs` must be at least 1, got 0 (from `--max-runs`)\n",
        ),
        (
            &["run", "--settle", "soon"],
            ("A", "b"),
            "error: `settle` must be a time such as 10s, 45m or 1h30m, got `soon` (from `--settle`)\n",
        ),
        (
            &["run", "--log", "loud"],
            ("A", "b"),
            "error: `--log loud` is no level\nhint: one of error, warn, info, debug, trace\n",
        ),
    ];
    for (args, variable, error) in cases {
        world.cli_with(args, &[*variable]).fails(2, error);
    }
    // Another program's variable may look like ours, so it is only warned of.
    let said = world.cli_with(&["status"], &[("CALYPSO_MAX_RUNZ", "3")]);
    said.tells(
        3,
        "warning `CALYPSO_MAX_RUNZ` means nothing; did you mean `CALYPSO_MAX_RUNS`?",
    );
}

#[test]
fn a_calypso_toml_that_is_no_file_is_refused_and_a_link_is_followed() {
    let world = World::new();
    let path = world.base.join("calypso.toml");
    let good = fs::read(&path).expect("there");
    let cannot = format!("error: cannot read `{}`\n", path.display());
    let hint = "hint: it is to be a regular file of at most 1 MiB\n";
    fs::write(&path, vec![b'#'; 2_000_000]).expect("ours");
    let too_large = format!("{cannot}  caused by: larger than 1048576 bytes\n{hint}");
    world.cli(&["status"]).fails(2, &too_large);
    fs::write(&path, b"a = \"\xff\"").expect("ours");
    world
        .cli(&["status"])
        .fails(2, "error: `calypso.toml` line 1, column 6: is not UTF-8\n");
    fs::remove_file(&path).expect("ours");
    fs::create_dir(&path).expect("ours");
    let no_file = format!("{cannot}  caused by: not a regular file\n{hint}");
    world.cli(&["status"]).fails(2, &no_file);
    fs::remove_dir(&path).expect("ours");
    fs::write(world.beside("settings.toml"), &good).expect("ours");
    symlink(world.beside("settings.toml"), &path).expect("ours");
    world.cli(&["run", "--once"]).tells(0, "");
}

#[test]
fn a_bad_edit_while_running_leaves_the_last_good_settings_in_force() {
    let mut world = World::new();
    world.start();
    world.write("calypso.toml", "max_runs = 0");
    world.eventually("the bad edit is told", || {
        world.log().contains("the last good ones stay in force")
    });
    assert!(
        world
            .log()
            .contains("must be at least 1, got 0 (from `calypso.toml`, line 1)"),
        "{}",
        world.log()
    );
    world.good_works();
}

#[test]
fn a_base_path_that_is_none_is_refused_with_the_way_to_make_one() {
    let world = World::new();
    let run = |args: &[&str]| {
        let mut command = std::process::Command::new(crate::world::PROGRAM);
        command.env_clear().current_dir(world.beside("tinytask"));
        crate::world::said(&command.args(args).output().expect("it starts"))
    };
    let here = world.beside("tinytask");
    let none = format!(
        "error: no base path: neither `{}` nor a folder above it has calypso.toml or .calypso/\n\
         hint: `calypso-watch init` makes one here; `--base-path DIR` or `CALYPSO_BASE_PATH` names one\n",
        here.display()
    );
    for args in [
        &["run"][..],
        &["status"],
        &["plan"],
        &["quit"],
        &["hold", "1"],
        &["logs", "1"],
    ] {
        run(args).fails(2, &none);
    }
    run(&["--base-path", "/no/such", "status"]).fails(
        2,
        "error: cannot use `/no/such` as base path (from `--base-path`)\n  caused by: No such file or directory (os error 2)\n\
         hint: `calypso-watch init /no/such` makes it\n",
    );
    let file = world.base.join("good.sh");
    let said = run(&["--base-path", &file.to_string_lossy(), "run"]);
    said.fails(
        2,
        &format!(
            "error: cannot use `{}` as base path (from `--base-path`)\n  caused by: not a directory\n",
            file.display()
        ),
    );
}

#[test]
fn what_everyone_may_write_is_not_run_from() {
    let world = World::new();
    let id = world.task("good");
    for name in ["", "recipes", "calypso.toml", ".calypso"] {
        let path = world.base.join(name);
        if name == ".calypso" {
            fs::create_dir(&path).expect("ours");
        }
        let was = fs::metadata(&path).expect("there").permissions();
        fs::set_permissions(&path, Permissions::from_mode(0o777)).expect("ours");
        let shown = path.display().to_string();
        let shown = shown.trim_end_matches('/');
        let error = format!(
            "error: `{shown}` can be written by everyone, so anyone could run commands as this user\nhint: `chmod o-w {shown}`\n"
        );
        world.cli(&["run"]).fails(2, &error);
        world.cli(&["run", "--once"]).fails(2, &error);
        // By its group only: said, and run all the same.
        fs::set_permissions(&path, Permissions::from_mode(0o775)).expect("ours");
        let warned = format!("warning `{shown}` can be written by its group");
        assert!(world.status().contains(&warned), "{}", world.status());
        fs::set_permissions(&path, was).expect("ours");
    }
    assert_eq!(world.status_of(id), "idle");
}

#[test]
fn settings_of_another_user_that_cannot_be_read_are_refused() {
    let mut world = World::new();
    let path = world.base.join("calypso.toml");
    fs::set_permissions(&path, Permissions::from_mode(0o600)).expect("ours");
    world.wrap = NOBODY.map(str::to_owned).to_vec();
    let said = world.cli(&["status"]);
    assert!(said.err.contains("Permission denied"), "{said:?}");
    said.fails(
        2,
        &format!(
            "error: cannot read `{0}`\n  caused by: Permission denied (os error 13)\n\
             hint: `ls -ld {0}` shows whose it is; run as that user, or let this one read it\n",
            path.display()
        ),
    );
    // Another user's eyes are enough for the rest.
    chown(&path, Some(65534), Some(65534)).expect("root may");
    world.cli(&["status"]).tells(3, "NOT RUNNING");
}

#[test]
fn a_wish_comes_before_the_first_daemon() {
    let mut world = World::new();
    let id = world.task("good");
    let said = world.cli(&["hold", &id.to_string()]);
    said.tells(
        0,
        &format!("#{id} is held; `calypso-watch retry {id}` lifts it; no daemon is running, so it counts from the next `calypso-watch run`"),
    );
    world.start();
    world.good_works();
    assert_eq!(world.status_of(id), "idle");
    assert!(unwrapped(&world.why(id)).contains("held by a person"));
    world
        .cli(&["retry", &id.to_string()])
        .tells(0, "gets a fresh start");
    world.eventually("it is started", || world.status_of(id) == "complete");
}

/// An agent that names its tinytask goes on while somebody edits the settings.
#[test]
fn a_task_command_with_an_address_needs_no_settings() {
    let world = World::new();
    let id = world.task("people");
    world.write("calypso.toml", "max_runs = 0");
    let url = world.tinytask.url();
    world
        .cli(&["task", "list"])
        .tells(2, "`max_runs` must be at least 1");
    let id = id.to_string();
    world
        .cli(&["task", "done", &id, "--tinytask-url", &url])
        .tells(0, "");
    world.cli(&["task", "list", "--tinytask-url", "here"]).fails(
        2,
        "error: `tinytask_url` must be like `http://127.0.0.1:3000/mcp`, got `here` (from `--tinytask-url`)\n",
    );
}

#[test]
fn the_demo_takes_no_base_path() {
    World::new().cli(&["demo"]).fails(
        2,
        "error: `demo` makes a base path of its own, in a temporary folder\nhint: leave `--base-path` out; `--keep` keeps it\n",
    );
}
