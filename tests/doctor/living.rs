//! Faults of what lives: a daemon that was upgraded, runs that lost their shim, tasks that wait for a person.

use std::fs;
use std::process::Command;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

use crate::world::{PROGRAM, World};

/// A daemon with one task in `coder`.
fn busy(mut world: World) -> World {
    world.watch();
    let made = world.cw(&["task", "create", "a task", "--queue", "coder"]);
    assert!(made.status.success(), "{made:?}");
    world
}

#[test]
fn an_upgrade_that_waits_for_a_restart_is_found() {
    let mut world = World::served();
    let program = world.beside("bin/old-calypso");
    // By another process, as execve(2) refuses what somebody holds open for writing.
    let copied = Command::new("cp")
        .arg(PROGRAM)
        .arg(&program)
        .status()
        .expect("coreutils are there");
    assert!(copied.success());
    world.watch_as(&program);
    world.doctor().is_well();
    fs::remove_file(&program).expect("there");
    let report = world.doctor();
    let finding = report.finds(
        "service",
        "warn",
        "was replaced or removed since it started",
    );
    let mend = finding["mend"].as_str().unwrap_or_default();
    let base = world.base.display();
    let by_hand =
        format!("calypso-watch --base-path {base} quit; calypso-watch --base-path {base} run");
    // Where tests run in somebody's service, that is what would be restarted.
    assert!(mend == by_hand || mend.contains("systemctl"), "{mend}");
}

#[test]
fn a_daemon_of_another_version_is_found() {
    let mut world = World::served();
    world.watch();
    // In place, as the lock belongs to this file.
    let lock = world.read(".calypso/lock");
    fs::write(
        world.path(".calypso/lock"),
        lock.replace(env!("CARGO_PKG_VERSION"), "0.0.9"),
    )
    .expect("ours");
    world.doctor().finds("service", "warn", "is version 0.0.9");
}

#[test]
fn the_daemons_environment_is_judged_and_no_value_is_told() {
    let mut world = World::served();
    world.watch();
    // Ours would lack both; the daemon's has them.
    let other: Vec<(String, String)> = vec![
        ("PATH".into(), "/usr/bin:/bin".into()),
        ("OPENAI_API_KEY".into(), String::new()),
    ];
    let with = std::mem::replace(&mut world.env, other);
    world.doctor().is_well();
    let status = world.cw(&["status"]);
    let plan = world.cw(&["plan"]);
    for said in [&status, &plan] {
        let text = String::from_utf8_lossy(&said.stdout);
        assert!(!text.contains("not on PATH"), "{text}");
    }
    for words in [&["doctor"][..], &["doctor", "--json"]] {
        let said = world.cw(words);
        assert!(!String::from_utf8_lossy(&said.stdout).contains("not-a-key"));
    }
    // And the other way round.
    world.kill_daemon();
    world.watch();
    world.env = with;
    let report = world.doctor();
    let whats: Vec<&str> = report
        .counted()
        .iter()
        .filter_map(|finding| finding["what"].as_str())
        .collect();
    assert_eq!(whats, ["`goose` is not on the PATH that agents get"]);
    let mend = report.counted()[0]["mend"]
        .as_str()
        .unwrap_or_default()
        .to_owned();
    assert!(
        mend.contains("quit") || mend.contains("systemctl"),
        "this shell has it, so a restart does: {mend}"
    );
}

#[test]
fn a_parked_task_is_found_with_its_way_out() {
    let world = World::served();
    world.edit(
        "calypso.toml",
        "model = \"gpt-5.2\"",
        "model = \"gpt-5.2\"\nmax_attempts = 1\nsettle = \"50ms\"",
    );
    let world = busy(world);
    let parked = |world: &World| {
        let report = world.doctor();
        report.counted().iter().any(|finding| {
            finding["what"]
                .as_str()
                .is_some_and(|what| what.contains("parked"))
        })
    };
    world.eventually("it is parked", || parked(&world));
    let report = world.doctor();
    let finding = report.finds("runs", "warn", "#1: parked");
    world.goose("works", "");
    world.mend(finding);
    world.eventually("it has a fresh start", || {
        world.path("running_tasks/task_1.pid").exists()
    });
    world.doctor().is_well();
}

#[test]
fn an_orphan_is_found_with_its_way_out() {
    let world = World::served();
    world.edit(
        "calypso.toml",
        "model = \"gpt-5.2\"",
        "model = \"gpt-5.2\"\nstop_grace = \"200ms\"",
    );
    world.goose("works", "");
    let mut world = busy(world);
    let state = || -> Value {
        serde_json::from_str(&world.read(".calypso/runs/task_1/0001-coder/state.json"))
            .unwrap_or_default()
    };
    world.eventually("it runs", || state()["state"]["is"] == "running");
    world.doctor().is_well();
    let shim = state()["shim"]["pid"]
        .as_i64()
        .and_then(|pid| i32::try_from(pid).ok())
        .expect("a pid");
    kill(Pid::from_raw(shim), Signal::SIGKILL).expect("ours");
    let is_orphan = || {
        let report = world.doctor();
        report.counted().iter().any(|finding| {
            finding["what"]
                .as_str()
                .is_some_and(|what| what.contains("orphan"))
        })
    };
    world.eventually("its shim is dead", is_orphan);
    let report = world.doctor();
    let finding = report.finds("runs", "warn", "run 1/1 of coder is an orphan");
    // Without a daemon `stop` ends the agent itself; the next daemon knows whose word that was, and starts it no more.
    world.kill_daemon();
    world.mend(finding);
    world.watch();
    world.eventually("it is over", || {
        !world.path("running_tasks/task_1.pid").exists()
    });
    let waits = || {
        let report = world.doctor();
        let [finding] = report.counted()[..] else {
            return false;
        };
        finding["what"]
            .as_str()
            .is_some_and(|what| what.contains("run 1/1 was stopped by a person"))
    };
    world.eventually("it waits for a person", waits);
    assert!(
        !world.path(".calypso/runs/task_1/0002-coder").exists(),
        "it was started again"
    );
}
