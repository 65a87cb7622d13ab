//! Folders that are watched go, come back, are exchanged, become symlinks.

use std::fs;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::Path;

use serde_json::json;

use crate::World;
use crate::space::beside;

/// What may be done to a folder; `outside` does not exist, nor is it in the base path.
type Deed = fn(folder: &Path, aside: &Path, outside: &Path);

const DEEDS: [(&str, Deed); 5] = [
    ("deleted", |folder, _, _| {
        fs::remove_dir_all(folder).expect("it is there");
    }),
    ("exchanged", |folder, aside, _| {
        copy(folder, aside);
        let old = aside.with_extension("old");
        fs::rename(folder, &old).expect("a rename");
        fs::rename(aside, folder).expect("a rename");
        fs::remove_dir_all(old).expect("it is there");
    }),
    ("moved away and back", |folder, aside, _| {
        fs::rename(folder, aside).expect("a rename");
        std::thread::sleep(std::time::Duration::from_millis(20));
        fs::rename(aside, folder).expect("a rename");
    }),
    ("made a symlink to inside", |folder, aside, _| {
        fs::rename(folder, aside).expect("a rename");
        symlink(aside, folder).expect("a link");
    }),
    ("made a symlink to outside", |folder, aside, outside| {
        // It is a symlink already: what it leads to moves.
        fs::rename(aside, outside).expect("a rename");
        fs::remove_file(folder).expect("a link");
        symlink(outside, folder).expect("a link");
    }),
];

fn copy(from: &Path, to: &Path) {
    crate::space::sh(&format!("cp -a '{}' '{}'", from.display(), to.display()));
}

fn all_deeds(folder: &str) {
    deeds(folder, &DEEDS);
}

/// The rescan is far away: only what is heard counts.
fn deeds(folder: &str, deeds: &[(&str, Deed)]) {
    let mut world = World::new()
        .queue("work", "claim; finish")
        .queue("long", "claim; gate one; finish")
        .queue("dispatcher", "rm \"$B\"/inbound/*")
        .set("rescan", "\"10m\"")
        .start();
    // Lives through all of it.
    let long = world.task("long", "an agent is at work");
    world.processes(long);
    let path = world.path(folder);
    let aside = world.path("aside");
    let outside = beside(&world, "outside");
    for (number, (deed, act)) in deeds.iter().enumerate() {
        let said = world.read("daemon.log").matches("watched again").count();
        act(&path, &aside, &outside);
        world.eventually(deed, |w| {
            w.read("daemon.log").matches("it is watched").count()
                + w.read("daemon.log").matches("watched again").count()
                > said
        });
        if folder == "recipes" && *deed == "deleted" {
            world.eventually("it is made again", |_| path.is_dir());
            world.recipe("work");
            world.recipe("long");
            world.recipe("dispatcher");
        }
        let id = world.task("work", deed);
        world.eventually(deed, |w| w.is_complete(id));
        assert_eq!(world.count(&format!("start work {id}")), 1, "{deed}");
        world.ok(&["pause", "work"]);
        let paused = world.task("work", "of a paused queue");
        world.eventually("its word is heard", |w| {
            w.hold(paused) == "queue_paused" || w.hold(paused) == "paused"
        });
        world.ok(&["resume", "work"]);
        world.eventually("and its other one", |w| w.is_complete(paused));
        world.write(&format!("inbound/request-{number}.md"), "please");
        world.eventually("requests are seen", |w| {
            w.names("inbound").is_empty() && w.count("end dispatcher inbound") == number + 1
        });
        assert!(world.daemon_lives());
    }
    world.open("one");
    world.eventually("the long one too", |w| {
        w.is_complete(long) && w.names(".calypso/live").is_empty()
    });
    assert_eq!(world.count(&format!("start long {long}")), 1);
    world.is_clean();
}

#[test]
fn inbound_is_deleted_exchanged_moved_and_linked() {
    all_deeds("inbound");
}

#[test]
fn workqueue_is_deleted_exchanged_moved_and_linked() {
    all_deeds("workqueue");
}

#[test]
fn running_tasks_is_deleted_exchanged_moved_and_linked_while_an_agent_works() {
    all_deeds("running_tasks");
}

#[test]
fn recipes_is_deleted_exchanged_moved_and_linked() {
    all_deeds("recipes");
}

#[test]
fn control_is_deleted_exchanged_and_moved() {
    let unlinked = DEEDS.len() - 2;
    deeds(".calypso/control", &DEEDS[..unlinked]);
}

#[test]
fn control_as_a_symlink_is_refused_until_it_is_none() {
    let world = World::new().queue("work", "claim; finish").start();
    let (path, aside) = (world.path(".calypso/control"), world.path("aside"));
    fs::rename(&path, &aside).expect("a rename");
    symlink(&aside, &path).expect("a link");
    world.eventually("it is refused", |w| {
        w.read("daemon.log").contains("control` is a symlink")
    });
    let id = world.task("work", "waits");
    assert_eq!(world.starts(), [""; 0]);
    fs::remove_file(&path).expect("a link");
    fs::rename(&aside, &path).expect("a rename");
    world.at_length("it goes on by itself", |w| w.is_complete(id));
    world.is_clean();
}

#[test]
fn recipes_in_a_folder_that_anyone_may_write_are_not_run() {
    let world = World::new().queue("work", "claim; finish").start();
    let outside = beside(&world, "anyones");
    copy(&world.path("recipes"), &outside);
    fs::set_permissions(&outside, fs::Permissions::from_mode(0o777)).expect("ours");
    fs::rename(world.path("recipes"), world.path("aside")).expect("a rename");
    symlink(&outside, world.path("recipes")).expect("a link");
    world.eventually("it is refused", |w| {
        w.read("daemon.log").contains("can be written by everyone")
            || w.read("daemon.log").contains("world-writable")
            || w.read("daemon.log").contains("cannot look")
    });
    let id = world.task("work", "must not be run from there");
    world.eventually("status says so", |w| w.cw(&["status"]).code != Some(0));
    assert_eq!(world.starts(), [""; 0]);
    fs::set_permissions(&outside, fs::Permissions::from_mode(0o755)).expect("ours");
    world.at_length("it goes on by itself", |w| w.is_complete(id));
    world.is_clean();
}

#[test]
fn a_task_folder_that_goes_while_its_agent_works() {
    let world = World::new()
        .queue("work", "claim; gate one; move next")
        .queue("next", "claim; finish")
        .start();
    let id = world.task("work", "loses its folder");
    world.processes(id);
    world.eventually("it is at work", |w| w.count("at-one") == 1);
    let folder = world.path(&format!("workqueue/task_{id}"));
    fs::remove_dir(&folder).expect("empty");
    world.open("one");
    world.eventually("it waits for its folder", |w| w.hold(id) == "no_folder");
    fs::create_dir(&folder).expect("a folder");
    world.eventually("it goes on", |w| w.is_complete(id));
    assert_eq!(world.starts(), [format!("work {id}"), format!("next {id}")]);
    world.is_clean();
}

#[test]
fn the_folder_of_tinytasks_database_is_moved_away_and_back() {
    let world = World::new()
        .queue("work", "claim; finish")
        .set("rescan", "\"1s\"")
        .start();
    let (server, away) = (beside(&world, "server"), beside(&world, "away"));
    fs::rename(&server, &away).expect("a rename");
    world.eventually("it is said", |w| {
        w.ok(&["status"]).contains("only by rescan")
    });
    fs::rename(&away, &server).expect("a rename");
    world.eventually("it is watched again", |w| {
        !w.ok(&["status"]).contains("only by rescan")
    });
    let id = world.task("work", "seen");
    world.eventually("it works", |w| w.is_complete(id));
    world.is_clean();
}

// ── the base path itself, and .calypso ─────────────────────────────────────────────────────────────────────────────────

#[test]
fn a_base_path_that_is_moved_away_and_back_while_an_agent_works() {
    let mut world = World::new()
        .queue("work", "claim; gate one; finish")
        .set("rescan", "\"1s\"")
        .start();
    let id = world.task("work", "stays one");
    world.processes(id);
    world.eventually("it is at work", |w| w.count("at-one") == 1);
    let base = world.layout.base().as_std_path().to_owned();
    let away = beside(&world, "away");
    fs::rename(&base, &away).expect("a rename");
    let log = || fs::read_to_string(away.join("daemon.log")).unwrap_or_default();
    world.eventually("it is said", |_| {
        log().contains("is not the folder that this daemon watches any more")
    });
    assert!(world.daemon_lives());
    fs::rename(&away, &base).expect("a rename");
    world.open("one");
    world.at_length("it goes on", |w| {
        w.is_complete(id) && w.names(".calypso/live").is_empty()
    });
    let next = world.task("work", "the next");
    world.at_length("so does the rest", |w| w.is_complete(next));
    assert_eq!(world.count("start work"), 2);
    world.is_clean();
}

/// The agent at work is on record in the base path that was moved away: whoever took the new one for the old would start a second.
#[test]
fn another_folder_in_the_place_of_the_base_path_is_not_taken_for_it() {
    let mut world = World::new()
        .queue("work", "claim; gate one; finish")
        .set("rescan", "\"1s\"")
        .start();
    let id = world.task("work", "stays one");
    world.processes(id);
    world.eventually("it is at work", |w| w.count("at-one") == 1);
    let (base, away) = (
        world.layout.base().as_std_path().to_owned(),
        beside(&world, "away"),
    );
    copy(&base, &beside(&world, "other"));
    for gone in [".calypso", "running_tasks"] {
        fs::remove_dir_all(beside(&world, "other").join(gone)).expect("copied");
    }
    let other = away.with_file_name("other");
    fs::rename(&base, &away).expect("a rename");
    fs::rename(&other, &base).expect("a rename");
    world.update(id, json!({"status": "idle"}));
    let log = || fs::read_to_string(away.join("daemon.log")).unwrap_or_default();
    let refusals = || {
        log()
            .matches("is not the folder that this daemon watches any more")
            .count()
    };
    world.eventually("it is said, again and again", |_| refusals() > 2);
    assert_eq!(world.count("start work"), 1, "{:?}", world.stamps());
    assert!(world.daemon_lives());
    fs::rename(&base, &other).expect("a rename");
    fs::rename(&away, &base).expect("a rename");
    world.open("one");
    world.at_length("it goes on", |w| {
        w.is_complete(id) && w.names(".calypso/live").is_empty()
    });
    world.is_clean();
}

#[test]
fn a_state_folder_that_is_deleted_is_made_anew_and_nothing_runs_twice() {
    let mut world = World::new()
        .queue("work", "claim; gate one; finish")
        .set("rescan", "\"1s\"")
        .start();
    let id = world.task("work", "at work");
    let (_, agent) = world.processes(id);
    world.eventually("it is at work", |w| w.count("at-one") == 1);
    fs::remove_dir_all(world.path(".calypso")).expect("it is there");
    world.eventually("it is said", |w| {
        w.read("daemon.log")
            .contains("what was recorded there is forgotten")
    });
    world.eventually("the lock is a lock again", |w| {
        w.cw(&["run"]).err.contains("another calypso-watch")
    });
    // Also when tinytask says that it is free.
    world.update(id, json!({"status": "idle"}));
    world.looks();
    world.eventually("its agent is seen", |w| w.hold(id) == "running_outside");
    let pid_file = world.read(&format!("running_tasks/task_{id}.pid"));
    assert_eq!(pid_file.trim(), agent.to_string());
    assert_eq!(world.count("start work"), 1);
    world.open("one");
    world.at_length("it ends", |w| w.is_complete(id));
    let next = world.task("work", "the next");
    world.at_length("so does the rest", |w| w.is_complete(next));
    assert_eq!(world.count("start work"), 2);
    assert!(world.daemon_lives());
    world.is_clean();
}

#[test]
fn a_state_folder_that_becomes_a_symlink_is_not_followed() {
    let mut world = World::new()
        .queue("work", "claim; finish")
        .set("rescan", "\"1s\"")
        .start();
    let outside = beside(&world, "elsewhere");
    fs::create_dir(&outside).expect("a folder");
    fs::rename(world.path(".calypso"), world.path("aside")).expect("a rename");
    symlink(&outside, world.path(".calypso")).expect("a link");
    let id = world.task("work", "waits");
    world.eventually("it is said", |w| {
        w.read("daemon.log")
            .contains("is not the folder that this daemon watches any more")
    });
    world.eventually("more than once", |w| {
        w.read("daemon.log").matches("any more").count() > 2
    });
    assert_eq!(world.starts(), [""; 0]);
    assert!(!outside.join("runs").exists(), "nothing is written there");
    fs::remove_file(world.path(".calypso")).expect("a link");
    fs::rename(world.path("aside"), world.path(".calypso")).expect("a rename");
    world.at_length("it goes on", |w| w.is_complete(id));
    assert!(world.daemon_lives());
    world.is_clean();
}
