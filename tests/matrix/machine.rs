//! The machine says no: read-only, full, out of inotify, another user's folders.

use std::fs::{self, Permissions};
use std::io::{BufRead as _, BufReader};
use std::os::unix::fs::{PermissionsExt as _, chown};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use crate::world::{NOBODY, World, said};

/// A process in namespaces of its own, in which `setup` was done; it holds them open until it is dropped.
struct Namespaces(Child);

impl Namespaces {
    fn new(setup: &str) -> Self {
        let mut holder = Command::new("unshare")
            .args(["--user", "--map-root-user", "--mount", "sh", "-c"])
            .arg(format!("set -e; {setup}; echo ready; exec cat"))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("util-linux is there");
        let mut line = String::new();
        BufReader::new(holder.stdout.as_mut().expect("it is piped"))
            .read_line(&mut line)
            .expect("it says when it is ready");
        assert_eq!(
            line, "ready\n",
            "the kernel gives no such namespace: {setup}"
        );
        Self(holder)
    }
    /// Words before a command that is to run in them.
    fn wrap(&self) -> Vec<String> {
        let words = [
            "nsenter",
            "--preserve-credentials",
            "--user",
            "--mount",
            "--target",
        ];
        let mut words: Vec<String> = words.map(str::to_owned).to_vec();
        words.push(self.0.id().to_string());
        words
    }
    /// A path as it is seen in there.
    fn inside(&self, path: &Path) -> PathBuf {
        let path = path.strip_prefix("/").expect("absolute");
        PathBuf::from(format!("/proc/{}/root", self.0.id())).join(path)
    }
}

impl Drop for Namespaces {
    fn drop(&mut self) {
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

#[test]
fn a_read_only_base_path() {
    let mut world = World::new();
    let id = world.task("good");
    let base = world.base.display().to_string();
    let namespaces = Namespaces::new(&format!(
        "mount --bind '{base}' '{base}'; mount -o remount,bind,ro '{base}'"
    ));
    let denied = fs::write(namespaces.inside(&world.base).join("probe"), "");
    assert_eq!(
        denied.expect_err("it is read-only").kind(),
        std::io::ErrorKind::ReadOnlyFilesystem
    );
    world.wrap = namespaces.wrap();
    let hint = "hint: is the disk full, or the folder another user's?\n";
    for args in [&["run"][..], &["run", "--once"]] {
        world.cli(args).fails(
            1,
            &format!("error: cannot write in `{base}/.calypso`\n  caused by: Read-only file system (os error 30)\n{hint}"),
        );
    }
    // Looking needs nothing.
    world
        .cli(&["status"])
        .tells(3, "NOT RUNNING (never looked)");
    world
        .cli(&["plan"])
        .tells(0, &format!("would start #{id} a task · good"));
    world
        .cli(&["why", &id.to_string()])
        .tells(0, &format!("#{id}"));
    let submitted = world.base.join("good.sh").display().to_string();
    world.cli(&["submit", &submitted]).fails(
        1,
        &format!(
            "error: cannot submit `{submitted}`\n  caused by: Read-only file system (os error 30)\n"
        ),
    );
    world.cli(&["hold", "1"]).fails(
        1,
        &format!("error: cannot write `{base}/.calypso/control`\n  caused by: Read-only file system (os error 30)\n"),
    );
    // The same base path, written to again.
    world.wrap.clear();
    world.start();
    world.good_works();
    assert_eq!(world.status_of(id), "complete");
}

#[test]
fn a_full_disk_starts_nothing_and_goes_on_once_there_is_room() {
    let mut world = World::new();
    let base = world.base.display().to_string();
    let namespaces = Namespaces::new(&format!(
        "cp -a '{base}' '{base}.copy'; mount -t tmpfs -o size=1m,mode=755 tmpfs '{base}'; cp -a '{base}.copy/.' '{base}'; rm -r '{base}.copy'"
    ));
    world.wrap = namespaces.wrap();
    let inside = namespaces.inside(&world.base);
    world.seen_at = inside.clone();
    world.start();
    let filler = inside.join("filler");
    fill(&filler);
    let id = world.tinytask.create("a task", "good");
    // A folder costs a page of memory there, which is gone too: it was made before.
    fs::remove_file(&filler).expect("ours");
    fs::create_dir(inside.join(format!("workqueue/task_{id}.new"))).expect("ours");
    fill(&filler);
    fs::rename(
        inside.join(format!("workqueue/task_{id}.new")),
        inside.join(format!("workqueue/task_{id}")),
    )
    .expect("a rename needs no room");
    world.eventually("it says so", || {
        world.log().contains("No space left on device")
    });
    assert!(world.is_running());
    assert_ne!(world.status_of(id), "complete");
    assert!(!inside.join(format!("running_tasks/task_{id}.pid")).exists());
    world.cli(&["status"]).tells(0, "watching");
    let said = world.cli(&["submit", &world.base.join("good.sh").display().to_string()]);
    assert_eq!(said.code, 1, "{said:?}");
    assert!(said.err.contains("No space left on device"), "{said:?}");
    assert_eq!(
        fs::read_dir(inside.join("inbound")).expect("there").count(),
        0,
        "nothing half is left"
    );
    fs::remove_file(&filler).expect("ours");
    world.eventually("there is room", || world.status_of(id) == "complete");
}

/// Until not one byte more goes in.
fn fill(path: &Path) {
    use std::io::Write as _;
    let mut file = fs::File::create(path).expect("ours");
    for size in [65536, 4096, 1] {
        let block = vec![0; size];
        while file.write_all(&block).is_ok() {}
    }
    let error = file.write_all(b"x").expect_err("it is full");
    assert_eq!(error.kind(), std::io::ErrorKind::StorageFull);
}

#[test]
fn no_inotify_instances_or_watches_left() {
    let mut world = World::new();
    let id = world.task("good");
    let base = world.base.display().to_string();
    let none = Namespaces::new("echo 0 > /proc/sys/user/max_inotify_instances");
    world.wrap = none.wrap();
    world.cli(&["run"]).tells(
        1,
        &format!(
            "error: cannot watch `{base}`: the kernel's limit of inotify instances is reached\n\
             hint: raise it with `sudo sysctl fs.inotify.max_user_instances=512`\n"
        ),
    );
    assert_eq!(world.status_of(id), "idle", "arm first, then look");
    let few = Namespaces::new("echo 3 > /proc/sys/user/max_inotify_watches");
    world.wrap = few.wrap();
    let said = world.cli(&["run"]);
    said.tells(
        1,
        "the kernel's inotify limit is reached\nhint: raise it with `sudo sysctl fs.inotify.max_user_watches=524288`\n",
    );
    // One look needs none of them.
    world.wrap = none.wrap();
    world.cli(&["run", "--once"]).tells(0, "");
    world.eventually("the one look started it", || {
        world.status_of(id) == "complete"
    });
}

/// Everything below belongs to the user without rights, but for what each test takes away.
fn nobodys() -> World {
    let mut world = World::new();
    give(&world.base);
    world.wrap = NOBODY.map(str::to_owned).to_vec();
    world
}

fn give(path: &Path) {
    chown(path, Some(65534), Some(65534)).expect("root may");
    for entry in fs::read_dir(path).expect("there").flatten() {
        if entry.path().is_dir() {
            give(&entry.path());
        } else {
            chown(entry.path(), Some(65534), Some(65534)).expect("root may");
        }
    }
}

fn is_denied(path: &Path) -> bool {
    let mut ls = Command::new(NOBODY[0]);
    ls.args(&NOBODY[1..]).arg("ls").arg(path);
    let said = said(&ls.output().expect("it starts"));
    said.err.contains("Permission denied")
}

fn mode(path: &Path, mode: u32) {
    fs::set_permissions(path, Permissions::from_mode(mode)).expect("root may");
}

#[test]
fn a_base_path_of_another_user() {
    let mut world = World::new();
    world.wrap = NOBODY.map(str::to_owned).to_vec();
    let base = world.base.display().to_string();
    world.cli(&["run"]).fails(
        1,
        &format!(
            "error: cannot write in `{base}/.calypso`\n  caused by: Permission denied (os error 13)\n\
             hint: is the disk full, or the folder another user's?\n"
        ),
    );
    world.cli(&["status"]).tells(3, "NOT RUNNING");
}

/// A folder that cannot be read for a while: the daemon says so and goes on when it can be read again.
#[test]
fn a_folder_that_cannot_be_read_for_a_while() {
    let mut world = nobodys();
    world.start();
    for (name, error) in [
        ("running_tasks", "cannot list `{}`"),
        (".calypso/live", "cannot list `{}`"),
        (".calypso/control", "cannot look at `{}`"),
    ] {
        let path = world.base.join(name);
        let was = fs::metadata(&path).expect("there").permissions().mode();
        mode(&path, 0o000);
        assert!(is_denied(&path));
        let id = world.task("good");
        let error = error.replace("{}", &path.display().to_string());
        world.eventually("the daemon says so", || {
            world
                .log()
                .contains(&format!("{error}: Permission denied (os error 13)"))
        });
        assert!(world.is_running());
        // Whoever cannot see what runs must not start anything.
        assert_eq!(world.status_of(id), "idle");
        world.cli(&["status"]).fails(
            1,
            &format!("error: {error}\n  caused by: Permission denied (os error 13)\n"),
        );
        mode(&path, was);
        world.eventually("it goes on", || world.status_of(id) == "complete");
    }
}

#[test]
fn an_inbound_or_recipes_folder_that_cannot_be_read_stops_nothing_else() {
    let mut world = nobodys();
    world.start();
    for (name, line) in [
        (
            "inbound",
            "inbound/ cannot be read: Permission denied (os error 13)",
        ),
        (
            "recipes",
            "recipes/ cannot be read, so no queue has one: Permission denied (os error 13)",
        ),
    ] {
        let path = world.base.join(name);
        mode(&path, 0o000);
        assert!(is_denied(&path));
        world.shows(line);
        world.good_works();
        mode(&path, 0o755);
    }
    world.eventually("all is well again", || {
        !world.status().contains("cannot be read")
    });
}

#[test]
fn an_inbound_file_that_cannot_be_read_is_said() {
    let world = nobodys();
    let path = world.base.join("inbound/secret.md");
    fs::write(&path, "x").expect("ours");
    mode(&path, 0o600);
    world.shows("secret.md · no request: cannot be read: Permission denied (os error 13)");
}
