//! Records that a newer version, a power cut or a wrong clock left behind; and a second daemon.

use std::fs;

use crate::world::{PROGRAM, World, unwrapped};

const NEWER: &str = "was written by a newer calypso-watch (format 99, this one reads up to 1)";

/// With agents that sleep until they are told to go, and ones that do nothing.
fn world() -> World {
    World::with(
        "",
        "[queues.slow]\ncommand = [\"/bin/sh\", \"-c\", \"while [ ! -e go ]; do sleep 0.02; done; exec /bin/sh good.sh $1\", \"sh\", \"{task_id}\"]\n\
         [queues.lazy]\ncommand = [\"/bin/true\"]\n",
    )
}

fn edit(world: &World, path: &str, from: &str, to: &str) {
    let text = world.read(path);
    assert!(text.contains(from), "{path}: {text}");
    // In one step, as its readers may look at any moment.
    let beside = world.beside("edited");
    fs::write(&beside, text.replacen(from, to, 1)).expect("ours");
    fs::rename(beside, world.base.join(path)).expect("ours");
}

#[test]
fn a_second_daemon_is_refused_and_told_of_the_first() {
    let mut world = world();
    world.start();
    let (pid, base) = (world.daemon_pid(), world.base.display().to_string());
    for args in [&["run"][..], &["run", "--once"]] {
        let said = world.cli(args);
        assert_eq!(said.code, 3, "{said:?}");
        let first = format!("error: another calypso-watch (pid {pid}, up ");
        let rest = format!(
            " s) is watching `{base}`\nhint: `calypso-watch status` shows its runs; `calypso-watch quit` ends it\n"
        );
        assert!(
            said.err.starts_with(&first) && said.err.ends_with(&rest),
            "{said:?}"
        );
    }
    world.good_works();
    world
        .cli(&["quit"])
        .tells(0, &format!("stopped watching (pid {pid})"));
}

#[test]
fn a_newer_spec_or_state_holds_its_own_task_while_the_others_go_on() {
    for record in ["spec.json", "state.json"] {
        let mut world = world();
        let id = world.task("slow");
        world.start();
        let dir = format!(".calypso/runs/task_{id}/0001-slow");
        let pid_file = world.base.join(format!("running_tasks/task_{id}.pid"));
        world.eventually("its agent runs", || {
            pid_file.exists() && world.read(&format!("{dir}/state.json")).contains("running")
        });
        edit(
            &world,
            &format!("{dir}/{record}"),
            "\"format\": 1",
            "\"format\": 99",
        );
        let line = format!("record of run `{id}/1` {NEWER}");
        world.shows(&line);
        world.good_works();
        assert!(world.why(id).contains(&line), "{}", world.why(id));
        world.cli(&["stop", &id.to_string()]).fails(
            1,
            &format!("error: {line}\nhint: use the newer calypso-watch, or another base path\n"),
        );
        assert!(pid_file.exists(), "its agent is left alone");
        assert_eq!(world.runs_of(&format!("task_{id}")), 1);
        // A newer program mends it, and all is as before: the stop that was asked for is carried out.
        edit(
            &world,
            &format!("{dir}/{record}"),
            "\"format\": 99",
            "\"format\": 1",
        );
        world.shows("was stopped by a person");
        assert!(!pid_file.exists());
    }
}

/// What such a record says of attempts, parking or a stop is not known, so its task is not started again.
#[test]
fn a_newer_verdict_or_mark_holds_its_own_task_and_nothing_else() {
    for record in ["0001-lazy/verdict.json", "marks.json"] {
        let mut world = world();
        let id = world.task("lazy");
        world.start();
        world.shows("attempt 2 of 3");
        world.stop();
        let path = format!(".calypso/runs/task_{id}/{record}");
        if record == "marks.json" {
            world.write(&path, "{\"format\": 99}");
        } else {
            edit(&world, &path, "\"format\": 1", "\"format\": 99");
        }
        let plan = unwrapped(&world.cli(&["plan"]).out);
        assert!(
            plan.contains(NEWER) && !plan.contains("would start"),
            "{plan}"
        );
        world.start();
        world.good_works();
        world.shows(NEWER);
        assert!(world.why(id).contains(NEWER), "{}", world.why(id));
        assert_eq!(world.runs_of(&format!("task_{id}")), 1);
    }
}

/// Of three runs without a shim one cannot be read: each of the others is still told apart.
#[test]
fn an_unreadable_run_does_not_lend_its_place_to_another() {
    let mut world = world();
    world.settings(
        "",
        "[queues.a]\ncommand = [\"/bin/sleep\", \"1000\"]\n[queues.b]\ncommand = [\"/bin/sleep\", \"1000\"]\n[queues.c]\ncommand = [\"/bin/sleep\", \"1000\"]\n",
    );
    let ids = ["a", "b", "c"].map(|queue| world.task(queue));
    world.start();
    let state = |id: i64, queue: &str| -> serde_json::Value {
        let path = format!(".calypso/runs/task_{id}/0001-{queue}/state.json");
        serde_json::from_str(&world.read(&path)).unwrap_or_default()
    };
    let runs = [(ids[0], "a"), (ids[1], "b"), (ids[2], "c")];
    world.eventually("three agents run", || {
        runs.iter()
            .all(|(id, queue)| state(*id, queue).to_string().contains("running"))
    });
    let pids: Vec<i64> = runs
        .iter()
        .map(|(id, queue)| state(*id, queue)["shim"]["pid"].as_i64().expect("a pid"))
        .collect();
    world.stop();
    for pid in pids {
        let pid = nix::unistd::Pid::from_raw(i32::try_from(pid).expect("a pid"));
        nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL).expect("ours");
    }
    let spec = format!(".calypso/runs/task_{}/0001-a/spec.json", ids[0]);
    edit(&world, &spec, "\"format\": 1", "\"format\": 99");
    world.start();
    world.good_works();
    let json: serde_json::Value =
        serde_json::from_str(&world.cli(&["status", "--json"]).out).expect("JSON");
    let text = json.to_string();
    assert_eq!(text.matches("\"orphan\"").count(), 2, "{text}");
    for id in ids {
        assert_eq!(world.runs_of(&format!("task_{id}")), 1);
    }
}

#[test]
fn torn_and_empty_records_are_what_a_power_cut_leaves_and_the_locks_decide() {
    // The shim lives: its lock says that the run is alive, whatever its records look like.
    for (record, text) in [
        ("state.json", ""),
        ("state.json", "{\"form"),
        ("spec.json", ""),
    ] {
        let mut world = world();
        let id = world.task("slow");
        world.start();
        let dir = format!(".calypso/runs/task_{id}/0001-slow");
        world.eventually("its agent runs", || {
            world.read(&format!("{dir}/state.json")).contains("running")
        });
        world.write(&format!("{dir}/{record}"), text);
        world.good_works();
        assert_eq!(world.runs_of(&format!("task_{id}")), 1);
        assert!(
            world
                .base
                .join(format!("running_tasks/task_{id}.pid"))
                .exists()
        );
        world.write("go", "");
        world.eventually("the task is done", || world.status_of(id) == "complete");
        world.eventually("the run is over", || {
            !world
                .base
                .join(format!(".calypso/live/task_{id}-0001-slow"))
                .exists()
        });
        assert_eq!(world.runs_of(&format!("task_{id}")), 1);
    }
}

#[test]
fn a_run_directory_of_which_only_names_survived_is_let_go() {
    let mut world = world();
    let id = world.task("good");
    for folder in [".calypso/live", ".calypso/runs"] {
        fs::create_dir_all(world.base.join(folder)).expect("ours");
    }
    // A power cut: the spec is empty, or was never written; nobody holds a lock.
    for number in ["0001", "0002"] {
        let dir = format!(".calypso/runs/task_{id}/{number}-good");
        fs::create_dir_all(world.base.join(&dir)).expect("ours");
        world.write(&format!("{dir}/shim.lock"), "");
        world.write(&format!(".calypso/live/task_{id}-{number}-good"), "");
    }
    world.write(&format!(".calypso/runs/task_{id}/0001-good/spec.json"), "");
    // And names that mean nothing.
    world.write(".calypso/live/zzz", "");
    fs::create_dir(world.base.join(".calypso/live/task_77-0001-good")).expect("ours");
    fs::create_dir(world.base.join(".calypso/runs/task_x")).expect("ours");
    world.start();
    world.eventually("the task runs all the same", || {
        world.status_of(id) == "complete"
    });
    world.eventually("nothing is taken for alive", || {
        let live = fs::read_dir(world.base.join(".calypso/live")).expect("there");
        live.count() == 2
    });
    world.good_works();
    let status = world.status();
    assert!(
        status.contains(".calypso/live/zzz is no run's entry"),
        "{status}"
    );
    assert!(
        status.contains(".calypso/live/task_77-0001-good is no run's entry"),
        "{status}"
    );
    assert!(!world.log().contains("an action failed"), "{}", world.log());
}

#[test]
fn a_history_with_torn_and_newer_lines_is_read_past_them() {
    let mut world = world();
    world.start();
    world.good_works();
    world.eventually("its verdict is in", || {
        !world.read(".calypso/history.jsonl").is_empty()
    });
    world.stop();
    let mut text = world.read(".calypso/history.jsonl");
    text.push_str("{\"format\": 99, \"run\": 7}\n\n{\"form");
    world.write(".calypso/history.jsonl", &text);
    world.write(".calypso/log.jsonl", "{\"torn");
    world.write(".calypso/daemon.json", "{\"torn");
    world.cli(&["status"]).tells(3, "good done");
    world.start();
    world.good_works();
    world.eventually("today counts both", || {
        world
            .status()
            .contains("today 2 runs, 0 handed on, 2 done, 0 failed")
    });
}

/// The clock was set back by a day: what was written meanwhile lies in the future. A back-off ends by the boot clock, and nothing waits a day.
#[test]
fn a_clock_that_was_set_back_delays_nothing() {
    let mut world = world();
    let id = world.task("lazy");
    world.start();
    world.shows("attempt 2 of 3");
    world.stop();
    let path = format!(".calypso/runs/task_{id}/0001-lazy/verdict.json");
    let mut verdict: serde_json::Value =
        serde_json::from_str(&world.read(&path)).expect("a verdict");
    let day = 86_400_000;
    let later = |moment: &mut serde_json::Value| {
        if let Some(wall) = moment["wall"].as_i64() {
            moment["wall"] = (wall + day).into();
        }
    };
    assert!(verdict["judged"]["wall"].is_i64(), "{verdict}");
    for key in ["started", "ended", "judged"] {
        later(&mut verdict[key]);
    }
    world.write(&path, verdict.to_string());
    // An inbound file of tomorrow, too.
    let request = world.base.join("inbound/request.md");
    fs::write(&request, "x").expect("ours");
    let tomorrow = std::time::SystemTime::now() + std::time::Duration::from_secs(86_400);
    let file = fs::File::options()
        .write(true)
        .open(&request)
        .expect("ours");
    file.set_modified(tomorrow).expect("ours");
    world.settings(
        "",
        "[queues.lazy]\ncommand = [\"/bin/true\"]\n[queues.dispatcher]\ncommand = [\"/bin/sh\", \"-c\", \"rm inbound/*\"]\n",
    );
    world.start();
    world.good_works();
    world.eventually("the request is taken", || !request.exists());
    world.eventually("its second attempt comes within seconds", || {
        world.runs_of(&format!("task_{id}")) == 2
    });
}

#[test]
fn a_killed_daemon_leaves_no_lock_behind() {
    let mut world = world();
    world.start();
    let pid = nix::unistd::Pid::from_raw(world.daemon_pid().cast_signed());
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL).expect("ours");
    world.eventually("it is seen dead", || world.cli(&["status"]).code == 3);
    let said = std::process::Command::new(PROGRAM)
        .arg("--base-path")
        .arg(&world.base)
        .args(["run", "--once"])
        .output()
        .expect("it starts");
    assert!(said.status.success(), "{said:?}");
}
