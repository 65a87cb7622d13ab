//! One daemon for one base path, by whatever name it is called; and none that cannot see what runs.

use std::io::Read as _;
use std::process::{Command, Stdio};
use std::time::Duration;

use calypso_watch::core::model::Outcome;
use nix::sys::signal::Signal;

use crate::world::{EXE, within};
use crate::{Ends, World, is_alive, send};

/// Its base path as a symlink, as a bind mount in a mount namespace of its own, and as it is.
#[test]
fn of_daemons_started_at_one_instant_by_three_names_of_the_base_exactly_one_lives() {
    let mut world = World::new().queue("coder", "claim; finish").configure();
    let base = world.layout.base().to_string();
    let beside = world.layout.base().parent().expect("not the root");
    let (link, bound) = (beside.join("link"), beside.join("bound"));
    std::os::unix::fs::symlink(&base, &link).expect("a symlink");
    std::fs::create_dir(&bound).expect("a folder");
    for round in 0..3 {
        let mut daemons: Vec<Ends> = (0..6)
            .map(|n| {
                let mut command = match n % 3 {
                    0 => world.command(EXE),
                    1 => world.command(EXE),
                    _ => {
                        let mut command = world.command("unshare");
                        command.args(["--mount", "sh", "-c"]).arg(format!(
                            "mount --bind '{base}' '{bound}' && exec '{EXE}' --base-path '{bound}' run"
                        ));
                        command
                    }
                };
                match n % 3 {
                    0 => drop(command.args(["--base-path", &base, "run"])),
                    1 => drop(command.args(["--base-path", link.as_str(), "run"])),
                    _ => {}
                }
                Ends::new(&mut command)
            })
            .collect();
        // Each of those that end says the same: there is one already.
        within("five of six end", Duration::from_secs(60), || {
            daemons.retain_mut(|daemon| match daemon.code() {
                Some(code) => {
                    assert_eq!(code, Some(3));
                    false
                }
                None => true,
            });
            (daemons.len() == 1).then_some(())
        });
        let task = world.task("coder", &format!("round {round}"));
        world.eventually("the one that lives works", |w| w.is_complete(task));
        assert_eq!(daemons[0].code(), None);
        send(daemons[0].pid(), Signal::SIGKILL);
        daemons[0].end();
    }
    world.run();
    world.is_clean();
    assert_eq!(world.count("start coder"), 3);
}

#[test]
fn looks_for_cron_at_the_same_instant_start_nothing_twice() {
    let world = World::new()
        .set("max_runs", "8")
        .section("[queues.coder]\nconcurrency = 8")
        .queue("coder", "claim; gate go; finish")
        .configure();
    let tasks: Vec<i64> = (0..4)
        .map(|n| world.task("coder", &format!("{n}")))
        .collect();
    for round in 0..3 {
        let looks: Vec<Ends> = (0..6)
            .map(|_| Ends::new(world.command(EXE).args(["run", "--once"])))
            .collect();
        let mut codes: Vec<Option<i32>> = looks
            .into_iter()
            .map(|mut look| within("it ends", Duration::from_secs(60), || look.code()))
            .collect();
        codes.sort_unstable();
        codes.dedup();
        // One at least looked; whoever found another one looking said so.
        assert_eq!(codes[0], Some(0), "round {round}: {codes:?}");
        assert!(codes.iter().all(|code| [Some(0), Some(3)].contains(code)));
    }
    world.eventually("all work", |w| w.count("at-go coder") == tasks.len());
    world.open("go");
    world.eventually("all complete, by cron", |w| {
        w.ok(&["run", "--once"]);
        tasks.iter().all(|id| w.is_complete(*id)) && w.names(".calypso/live").is_empty()
    });
    world.is_clean();
    assert_eq!(world.count("start coder"), tasks.len());
}

/// A container with the base path mounted: the lock is seen there, the processes are not.
fn in_a_container(world: &World, args: &str) -> Command {
    let mut command = world.command("unshare");
    command
        .args([
            "--pid",
            "--fork",
            "--kill-child",
            "--mount-proc",
            "sh",
            "-c",
        ])
        .arg(format!("'{EXE}' {args}"));
    command
}

/// How it ended, and what it said. It must end by itself.
fn said(command: &mut Command) -> (Option<i32>, String) {
    let output = command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped());
    let mut child = Ends(output.spawn().expect("it starts"));
    let code = within("it ends", Duration::from_secs(60), || child.code());
    let mut text = String::new();
    let stderr = child.0.stderr.as_mut().expect("it is piped");
    stderr.read_to_string(&mut text).expect("UTF-8");
    (code, text)
}

/// A disk, or a folder shared by two hosts, whose last daemon was another machine's.
#[test]
fn a_base_path_that_another_machine_looked_at_a_moment_ago_is_refused() {
    let mut world = World::new().queue("coder", "claim; finish").start();
    world.end_daemon(Signal::SIGTERM);
    let lock = world.path(".calypso/lock");
    let mut record: serde_json::Value =
        serde_json::from_str(&world.read(".calypso/lock")).expect("a record");
    record["machine"] = "another".into();
    record["host"] = "elsewhere".into();
    record["since"]["boot_id"] = "another".into();
    // Where a machine has no id there is nothing to compare.
    let has_id = std::fs::read_to_string("/etc/machine-id").is_ok_and(|id| !id.trim().is_empty());
    std::fs::write(&lock, record.to_string()).expect("ours");
    if has_id {
        let (code, text) = said(world.command(EXE).arg("run"));
        assert_eq!(code, Some(3), "{text}");
        assert!(
            text.contains("calypso-watch on `elsewhere` looked at"),
            "{text}"
        );
        assert!(text.contains("this is another machine"), "{text}");
    }
    // Long silent, it is gone.
    let old = std::time::SystemTime::now() - Duration::from_secs(600);
    let file = std::fs::File::options()
        .write(true)
        .open(&lock)
        .expect("ours");
    file.set_modified(old).expect("ours");
    drop(file);
    world.run();
    let task = world.task("coder", "here now");
    world.eventually("complete", |w| w.is_complete(task));
    world.is_clean();
}

#[test]
fn a_daemon_that_cannot_see_what_runs_is_refused_until_that_is_over() {
    let mut world = World::new()
        .queue("coder", "claim; gate coder; exit 4")
        .queue("devops", "claim; gate devops; finish")
        .set("max_attempts", "1")
        .start();
    let (coder, devops) = (
        world.task("coder", "its shim lives"),
        world.task("devops", "an orphan"),
    );
    world.eventually("both work", |w| {
        w.count("at-coder coder") == 1 && w.count("at-devops devops") == 1
    });
    let (first, second) = (world.processes(coder), world.processes(devops));
    let (code, text) = said(&mut in_a_container(&world, "run"));
    assert_eq!(code, Some(3), "{text}");
    assert!(text.contains("is watching"), "{text}");

    world.kill_daemon();
    send(second.0, Signal::SIGKILL);
    for args in ["run", "run --once"] {
        let (code, text) = said(&mut in_a_container(&world, args));
        assert_eq!(code, Some(1), "{text}");
        assert!(text.contains("cannot be seen from here"), "{text}");
        assert!(text.contains("hint: "), "{text}");
    }
    // The shim's lock is free now, the orphan's is not.
    send(first.0, Signal::SIGKILL);
    send(first.1, Signal::SIGKILL);
    let (code, text) = said(&mut in_a_container(&world, "run --once"));
    assert_eq!(code, Some(1), "{text}");
    assert!(is_alive(second.1), "nobody was signalled");
    // Whoever only looks from there is told that it cannot be known, not that nothing lives.
    let seen = in_a_container(&world, "status --json").output();
    let seen = String::from_utf8_lossy(&seen.expect("it starts").stdout).into_owned();
    assert!(seen.contains(r#""state": "unknown""#), "{seen}");
    world.open("devops");
    world.eventually("the orphan is over", |_| !is_alive(second.1));
    let (code, text) = said(&mut in_a_container(&world, "run --once"));
    assert_eq!(code, Some(0), "{text}");
    assert_eq!(world.outcomes(devops), [Outcome::Lost]);
    assert!(world.is_complete(devops));
    assert_eq!(world.count("start devops"), 1);
    world.ok(&["hold", &coder.to_string()]);
}
