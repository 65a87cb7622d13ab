//! File systems and mounts that a base path may stand on, or get under it.

use calypso_watch::core::model::Outcome;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::json;

use crate::World;
use crate::space::{inside, sh, stand_on};

/// All that a run is: launched, adopted by the next daemon, its true end told; another one lost with its shim, swept and started anew.
fn all_works(world: &mut World) {
    let kept = world.task("work", "kept");
    let lost = world.task("other", "lost");
    world.processes(kept);
    let (shim, _) = world.processes(lost);
    world.kill_daemon();
    kill(Pid::from_raw(shim), Signal::SIGKILL).expect("ours");
    world.run();
    for gate in ["one", "two"] {
        world.open(gate);
    }
    world.at_length("all is done", |w| {
        w.is_complete(kept) && w.is_complete(lost) && w.names(".calypso/live").is_empty()
    });
    assert_eq!(world.outcomes(kept), [Outcome::Exited(7)]);
    assert_eq!(world.outcomes(lost), [Outcome::Lost]);
    assert_eq!(world.count("start work") + world.count("start other"), 2);
    world.is_clean();
}

fn world() -> World {
    World::new()
        .queue("work", "claim; gate one; finish; exit 7")
        .queue("other", "claim; gate two; finish")
        .configure()
}

#[test]
fn a_base_path_on_a_tmpfs() {
    inside("mounts::a_base_path_on_a_tmpfs", &[], || {
        let mut world = world();
        stand_on(&world, "mount -t tmpfs -o mode=755 tmpfs \"$NEW\"");
        world.run();
        all_works(&mut world);
    });
}

/// Files of the lower layer change their inode when they are first written to.
#[test]
fn a_base_path_on_an_overlay_with_an_older_daemons_records_in_its_lower_layer() {
    let test = "mounts::a_base_path_on_an_overlay_with_an_older_daemons_records_in_its_lower_layer";
    inside(test, &[], || {
        let mut world = world();
        world.run();
        world.open("one");
        let before = world.task("work", "before");
        world.eventually("it is done", |w| {
            w.is_complete(before) && w.names(".calypso/live").is_empty()
        });
        world.close("one");
        assert_eq!(world.end_daemon(Signal::SIGTERM), Some(0));
        // What the agents noted is about to move.
        assert_eq!(world.count("start work"), 1);
        world.write("stamps", "");
        stand_on(
            &world,
            "LAYERS=\"$BASE.layers\"; mkdir \"$LAYERS\"; mount -t tmpfs tmpfs \"$LAYERS\"; mkdir \"$LAYERS/upper\" \"$LAYERS/work\"
             cp -a \"$BASE\" \"$LAYERS/lower\"
             mount -t overlay -o \"lowerdir=$LAYERS/lower,upperdir=$LAYERS/upper,workdir=$LAYERS/work,userxattr\" overlay \"$NEW\"",
        );
        sh(&format!(
            "grep -q '{} .* - overlay' /proc/self/mountinfo",
            world.layout.base()
        ));
        world.run();
        all_works(&mut world);
        assert_eq!(world.verdicts(before).len(), 1, "the past is still known");
    });
}

/// link(2) does not reach across mounts, even of one file system: then no task could be reserved.
#[test]
fn running_tasks_on_a_mount_of_its_own_is_refused_at_the_start() {
    inside(
        "mounts::running_tasks_on_a_mount_of_its_own_is_refused_at_the_start",
        &[],
        || {
            let mut world = world();
            let folder = world.path("running_tasks");
            let folder = folder.display();
            let base = world.layout.base().to_owned();
            sh(&format!("mount --bind '{folder}' '{folder}'"));
            let id = world.task("work", "waits");
            let said = world.cw(&["run"]);
            assert_eq!(said.code, Some(1), "{said:?}");
            assert_eq!(
                said.err,
                format!(
                    "error: files in `{base}/.calypso` cannot have a second name in `{folder}`\n  \
                 caused by: Invalid cross-device link (os error 18)\n\
                 hint: a pid file is a hard link: keep both folders on one file system and one mount that has these\n"
                )
            );
            assert_eq!(world.starts(), [""; 0]);
            sh(&format!("umount '{folder}'"));
            world.open("one");
            world.run();
            world.eventually("it works", |w| w.is_complete(id));
            world.is_clean();
        },
    );
}

/// Mounted under a running daemon: each launch ends at S5, with the gate shut; a few are tried, then the task is held, and why is said.
#[test]
fn running_tasks_gets_a_mount_of_its_own_under_a_running_daemon() {
    inside(
        "mounts::running_tasks_gets_a_mount_of_its_own_under_a_running_daemon",
        &[],
        || {
            let mut world = world();
            world.run();
            world.open("one");
            let folder = world.path("running_tasks");
            sh(&format!("mount --bind '{0}' '{0}'", folder.display()));
            let id = world.task("work", "cannot be reserved");
            let why = "cannot link";
            world.at_length("it is said", |w| {
                w.outcomes(id).iter().any(
                    |outcome| matches!(outcome, Outcome::NotLaunched(text) if text.contains(why)),
                )
            });
            world.at_length("it is held", |w| {
                w.outcomes(id).len() == 5 && !w.hold(id).is_empty()
            });
            world.looks();
            assert_eq!(world.outcomes(id).len(), 5, "and not tried for ever");
            assert_eq!(world.starts(), [""; 0], "no agent ever passed its gate");
            assert!(world.ok(&["why", &id.to_string()]).contains(why));
            sh(&format!("umount '{}'", folder.display()));
            world.ok(&["retry", &id.to_string()]);
            world.at_length("it works", |w| w.is_complete(id));
            world.is_clean();
        },
    );
}

/// As a file system becomes after an I/O error: what is open stays so, no name can be made or removed.
#[test]
fn a_base_path_that_can_only_be_read_for_a_while() {
    inside(
        "mounts::a_base_path_that_can_only_be_read_for_a_while",
        &[],
        || {
            let mut world = World::new()
                .queue("work", "claim; gate one; finish; exit 7")
                .queue("other", "claim; finish")
                .set("rescan", "\"1s\"")
                .configure();
            stand_on(&world, "mount -t tmpfs -o mode=755 tmpfs \"$NEW\"");
            world.run();
            let id = world.task("work", "ends meanwhile");
            world.processes(id);
            std::fs::create_dir(world.path("workqueue/spare")).expect("a folder");
            let base = world.layout.base().to_owned();
            // A second mount over the first: open files keep theirs, as remount would refuse to go on with writers.
            sh(&format!(
                "mount --bind '{base}' '{base}'; mount -o remount,bind,ro '{base}'"
            ));
            let other = world.call(
            "create_task",
            &json!({"title": "comes meanwhile", "assigned_to": "other", "created_by": "a test"}),
        )["id"]
            .as_i64()
            .expect("a number");
            // The test's own way in: the mount below.
            world.open("one");
            world.eventually("the agent is over", |w| {
                w.count(&format!("end work {id}")) == 1
            });
            world.eventually("it is said", |w| {
                w.ok(&["status"]).contains("can only be read")
            });
            let end = std::time::Instant::now() + std::time::Duration::from_secs(4);
            while std::time::Instant::now() < end {
                assert!(world.path(&format!("running_tasks/task_{id}.pid")).exists());
                assert!(world.outcomes(id).is_empty());
                std::thread::sleep(std::time::Duration::from_millis(100));
            }
            assert!(world.daemon_lives());
            sh(&format!("umount '{base}'"));
            std::fs::rename(
                world.path("workqueue/spare"),
                world.path(&format!("workqueue/task_{other}")),
            )
            .expect("a rename");
            world.at_length("it goes on", |w| {
                w.is_complete(other) && w.outcomes(id) == [Outcome::Exited(7)]
            });
            assert_eq!(world.count("start work"), 1);
            assert_eq!(world.count("start other"), 1);
            world.is_clean();
        },
    );
}
