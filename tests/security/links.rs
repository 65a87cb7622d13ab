//! Symlinks and hard links in every folder that is read or written: nothing outside the base path is written, truncated or removed.

use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};

use crate::world::World;

/// Files beside the base path that must stay as they are.
struct Outside {
    folder: PathBuf,
    before: Vec<(PathBuf, Seen)>,
}

/// All of a file that a careless writer changes; not its number of links.
#[derive(Debug, PartialEq)]
struct Seen {
    content: Vec<u8>,
    mode: u32,
    modified: (i64, i64),
    inode: u64,
}

impl Outside {
    fn new(world: &World) -> Self {
        let folder = world.beside("outside");
        fs::create_dir_all(folder.join("folder")).expect("ours");
        for name in [
            "a",
            "b",
            "c",
            "d",
            "folder/.x.new",
            "folder/shim.lock",
            "folder/task_1.pid",
            "folder/spec.json",
        ] {
            fs::write(folder.join(name), "precious\n").expect("ours");
            fs::set_permissions(folder.join(name), fs::Permissions::from_mode(0o640))
                .expect("ours");
        }
        let before = tree(&folder);
        Self { folder, before }
    }
    fn path(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }
    #[track_caller]
    fn is_untouched(&self) {
        assert_eq!(tree(&self.folder), self.before);
    }
}

fn tree(folder: &Path) -> Vec<(PathBuf, Seen)> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).expect("there").flatten() {
        let path = entry.path();
        if path.is_dir() {
            found.extend(tree(&path));
        }
        let meta = fs::symlink_metadata(&path).expect("there");
        let seen = Seen {
            content: fs::read(&path).unwrap_or_default(),
            mode: meta.mode(),
            modified: (meta.mtime(), meta.mtime_nsec()),
            inode: meta.ino(),
        };
        found.push((path, seen));
    }
    found.sort_by(|a, b| a.0.cmp(&b.0));
    found
}

#[test]
fn a_lock_file_that_is_a_link_is_refused_and_its_target_is_not_truncated() {
    let world = World::new();
    let outside = Outside::new(&world);
    let lock = world.base.join(".calypso/lock");
    fs::create_dir_all(world.base.join(".calypso")).expect("ours");
    fs::hard_link(outside.path("a"), &lock).expect("ours");
    for args in [&["run"][..], &["run", "--once"]] {
        let said = world.cli(args);
        said.tells(1, "a hard link of another file: remove it");
    }
    outside.is_untouched();
    fs::remove_file(&lock).expect("ours");
    symlink(outside.path("b"), &lock).expect("ours");
    world.cli(&["run"]).tells(1, "cannot write in");
    outside.is_untouched();
}

#[test]
fn a_folder_of_ours_that_is_a_symlink_is_refused() {
    for name in [
        ".calypso",
        ".calypso/runs",
        ".calypso/live",
        ".calypso/control",
        ".calypso/tinytask",
    ] {
        let world = World::new();
        let outside = Outside::new(&world);
        let path = world.base.join(name);
        fs::create_dir_all(path.parent().expect("it has one")).expect("ours");
        symlink(outside.path("folder"), &path).expect("ours");
        let (base, line) = (
            world.base.display(),
            "is a symlink, and records are kept only where they are seen",
        );
        world.cli(&["run"]).fails(
            2,
            &format!("error: `{base}/{name}` {line}\nhint: `rm {base}/{name}`, or link the whole base path\n"),
        );
        outside.is_untouched();
    }
}

#[test]
fn records_that_are_links_are_replaced_and_never_written_through() {
    let mut world = World::new();
    let outside = Outside::new(&world);
    let state = world.base.join(".calypso");
    fs::create_dir_all(&state).expect("ours");
    symlink(outside.path("a"), state.join("log.jsonl")).expect("ours");
    fs::hard_link(outside.path("b"), state.join("history.jsonl")).expect("ours");
    symlink(outside.path("c"), state.join("daemon.json")).expect("ours");
    world.start();
    // Its name on the way is known once its pid is.
    let temporary = state.join(format!(".daemon.json.{}.new", world.daemon_pid()));
    fs::hard_link(outside.path("d"), &temporary).expect("ours");
    let id = world.task("good");
    world.eventually("the task is done all the same", || {
        world.status_of(id) == "complete"
    });
    world.eventually("its own record is made anew", || {
        world.read(".calypso/daemon.json").contains("\"process\"")
    });
    world.cli(&["pause"]).tells(0, "");
    world.eventually("that is replaced, too", || !temporary.exists());
    world
        .cli(&["why", &id.to_string()])
        .tells(0, &format!("#{id}"));
    world.stop();
    outside.is_untouched();
}

/// The folder of a task's runs leads elsewhere: that task is held and says so; the others go on.
#[test]
fn runs_behind_a_symlink_are_neither_started_nor_removed() {
    let mut world = World::new();
    let outside = Outside::new(&world);
    let id = world.task("good");
    let state = world.base.join(".calypso");
    fs::create_dir_all(state.join("runs")).expect("ours");
    fs::create_dir_all(state.join("live")).expect("ours");
    symlink(
        outside.path("folder"),
        state.join(format!("runs/task_{id}")),
    )
    .expect("ours");
    // A run on record whose directory leads elsewhere: what looks like litter there is not ours to remove.
    fs::create_dir_all(state.join("runs/task_900")).expect("ours");
    symlink(
        outside.path("folder"),
        state.join("runs/task_900/0001-other"),
    )
    .expect("ours");
    fs::write(state.join("live/task_900-0001-other"), "").expect("ours");
    world.start();
    world.good_works();
    world.shows("a symlink: remove it");
    assert_eq!(world.status_of(id), "idle");
    outside.is_untouched();
    fs::remove_file(state.join(format!("runs/task_{id}"))).expect("ours");
    world.good_works();
    world.eventually("the task goes on without it", || {
        world.status_of(id) == "complete"
    });
    outside.is_untouched();
}

/// Where people may link: what is read through a link does no harm, and what is removed is the link.
#[test]
fn links_in_the_folders_of_people_lead_nowhere() {
    let mut world = World::with(
        "",
        "[queues.dispatcher]\ncommand = [\"/bin/sh\", \"-c\", \"mv -- inbound/hard taken\"]\n",
    );
    let outside = Outside::new(&world);
    let (linked, held) = (world.task("good"), world.task("good"));
    let folder = world.base.join(format!("workqueue/task_{linked}"));
    fs::remove_dir(&folder).expect("ours");
    symlink(outside.path("folder"), &folder).expect("ours");
    fs::create_dir_all(world.base.join(".calypso/control")).expect("ours");
    symlink(
        outside.path("a"),
        world
            .base
            .join(format!(".calypso/control/retry-task_{held}")),
    )
    .expect("ours");
    symlink(outside.path("folder"), world.base.join("inbound/linked")).expect("ours");
    symlink("/dev/zero", world.base.join("inbound/zero")).expect("ours");
    symlink("/dev/zero", world.base.join("recipes/zero.yaml")).expect("ours");
    symlink(&world.base, world.base.join("inbound/ring")).expect("ours");
    fs::hard_link(outside.path("b"), world.base.join("inbound/hard")).expect("ours");
    // A dead process's number in a file that has another name outside: the name here goes, the file there stays.
    let mut gone = std::process::Command::new("true")
        .spawn()
        .expect("there is a true");
    gone.wait().expect("ours");
    let pid_file = world.base.join(format!("running_tasks/task_{held}.pid"));
    fs::write(outside.path("pid"), format!("{}\n", gone.id())).expect("ours");
    fs::hard_link(outside.path("pid"), &pid_file).expect("ours");
    let outside = Outside {
        before: tree(&outside.folder),
        ..outside
    };
    world.start();
    world.eventually("both tasks are done", || {
        world.status_of(linked) == "complete" && world.status_of(held) == "complete"
    });
    world.eventually("the request is taken", || world.base.join("taken").exists());
    world.eventually("the wish is done", || {
        !world
            .base
            .join(format!(".calypso/control/retry-task_{held}"))
            .is_symlink()
    });
    let status = world.status();
    for name in ["linked", "zero", "ring"] {
        assert!(status.contains(name), "{name}: {status}");
    }
    assert!(status.contains("no request: a symlink"), "{status}");
    world.eventually("no run's pid file is left", || !pid_file.exists());
    outside.is_untouched();
}

/// A reader that waited for a FIFO's other end would stand still for ever.
#[test]
fn fifos_in_the_place_of_our_files_stop_nothing() {
    let mut world = World::new();
    let state = world.base.join(".calypso");
    fs::create_dir_all(state.join("control")).expect("ours");
    let fifo = |path: PathBuf| {
        nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRWXU).expect("ours");
    };
    fifo(state.join("history.jsonl"));
    world.cli(&["run", "--once"]).tells(1, "not a regular file");
    fs::remove_file(state.join("history.jsonl")).expect("ours");
    for name in ["log.jsonl", "control/pause-other"] {
        fifo(state.join(name));
    }
    let id = world.task("good");
    fifo(
        world
            .base
            .join(format!("running_tasks/task_{}.pid", id + 100)),
    );
    world.start();
    world.eventually("the task is done", || world.status_of(id) == "complete");
    world.cli(&["status"]).tells(0, "watching");
    world
        .cli(&["why", &id.to_string()])
        .tells(0, &format!("#{id}"));
    fs::remove_file(state.join(format!("runs/task_{id}/0001-good/output.log"))).expect("ours");
    fifo(state.join(format!("runs/task_{id}/0001-good/output.log")));
    world
        .cli(&["logs", &id.to_string()])
        .tells(1, "not a regular file");
    world.good_works();
    world.stop();
    fs::remove_file(state.join("lock")).expect("ours");
    fifo(state.join("lock"));
    world.cli(&["run", "--once"]).tells(1, "not a regular file");
}
