//! What lies in running_tasks/ and is none of ours.

use std::fs;
use std::os::unix::fs::{chown, symlink};
use std::process::{Child, Command};

use crate::world::{World, unwrapped};

/// Somebody's process, ended with the test.
struct Stranger(Child);

impl Stranger {
    fn start() -> Self {
        Self(
            Command::new("sleep")
                .arg("1000")
                .spawn()
                .expect("there is a sleep"),
        )
    }
    fn pid(&self) -> u32 {
        self.0.id()
    }
    fn end(&mut self) {
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

impl Drop for Stranger {
    fn drop(&mut self) {
        self.end();
    }
}

/// Each with a task of its own in `good`: that task waits and says why, the file stays as it is, and the rest of the queue goes on.
#[test]
fn an_odd_pid_file_blocks_its_own_task_only_and_is_never_touched() {
    let mut world = World::new();
    let folder = world.base.join("running_tasks");
    let mut cases: Vec<(i64, &str)> = Vec::new();
    let mut file = |content: &[u8], why: &'static str| {
        let id = world.task("good");
        fs::write(folder.join(format!("task_{id}.pid")), content).expect("ours");
        cases.push((id, why));
        id
    };
    file(b"", "empty");
    file(b"\n\n", "empty");
    file(b"abc\n", "not a pid: `abc`");
    file(b"-1\n", "not a pid: `-1`");
    file(b"0\n", "not a pid: `0`");
    file(b"1\n", "process 1 is no agent");
    file(b"+7", "not a pid: `+7`");
    file(b"12 13\n", "not a pid: `12 13`");
    file(
        b"99999999999999999999\n",
        "not a pid: `99999999999999999999`",
    );
    file(b"\x1b[31m\n", "not a pid: `\\u{1b}[31m`");
    file(&[b'1'; 10_000_000], "10000000 bytes long, so it is no pid");
    let other = file(b"2\n", "belongs to another user than the file");
    let pid_of_a_stranger = Stranger::start();
    fs::write(
        folder.join(format!("task_{other}.pid")),
        pid_of_a_stranger.pid().to_string(),
    )
    .expect("ours");
    chown(folder.join(format!("task_{other}.pid")), Some(65534), None).expect("root may");
    let id = world.task("good");
    fs::create_dir(folder.join(format!("task_{id}.pid"))).expect("ours");
    cases.push((id, "a directory"));
    let id = world.task("good");
    symlink("/etc/passwd", folder.join(format!("task_{id}.pid"))).expect("ours");
    cases.push((id, "a symlink"));
    let id = world.task("good");
    let fifo = folder.join(format!("task_{id}.pid"));
    nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRWXU).expect("ours");
    cases.push((id, "not a regular file"));
    for name in [
        "task_0.pid",
        "task_007.pid",
        "task_-1.pid",
        "task_9223372036854775808.pid",
        "notes.txt",
        "a\nb",
    ] {
        fs::write(folder.join(name), "1").expect("ours");
    }
    let before = names(&world);
    world.start();
    world.good_works();
    let plan = unwrapped(&world.cli(&["plan"]).out);
    for (id, why) in &cases {
        let said = world.why(*id);
        assert!(said.contains(why), "{why}: {said}");
        assert!(
            said.contains(&format!("rm running_tasks/task_{id}.pid")),
            "{said}"
        );
        assert!(plan.contains(&format!("#{id}")), "{id}: {plan}");
        assert_eq!(world.status_of(*id), "idle");
    }
    let status = world.status();
    for name in [
        "task_0.pid",
        "task_007.pid",
        "task_-1.pid",
        "task_9223372036854775808.pid",
        "notes.txt",
        "a b",
    ] {
        let line = format!("running_tasks/{name}: not the name of a pid file");
        assert!(status.contains(&line), "{line}\n{status}");
    }
    assert_eq!(names(&world), before);
    // The way out it names is one.
    let (id, _) = cases[0];
    fs::remove_file(folder.join(format!("task_{id}.pid"))).expect("there");
    world.eventually("the task runs once its file is gone", || {
        world.status_of(id) == "complete"
    });
}

fn names(world: &World) -> Vec<std::ffi::OsString> {
    let entries = fs::read_dir(world.base.join("running_tasks")).expect("there");
    let mut names: Vec<_> = entries.map(|e| e.expect("readable").file_name()).collect();
    names.sort();
    names
}

#[test]
fn a_dead_pid_is_cleared_and_a_hand_started_agent_is_waited_for() {
    let mut world = World::new();
    let dead = world.task("good");
    let by_hand = world.task("good");
    let pid_file = |id: i64| world.base.join(format!("running_tasks/task_{id}.pid"));
    let mut gone = Stranger::start();
    gone.end();
    fs::write(pid_file(dead), format!("{}\n", gone.pid())).expect("ours");
    let mut agent = Stranger::start();
    fs::write(pid_file(by_hand), format!("{}\n", agent.pid())).expect("ours");
    let (dead_file, by_hand_file) = (pid_file(dead), pid_file(by_hand));
    world.start();
    world.eventually("the dead one's file is cleared", || !dead_file.exists());
    let why = world.why(by_hand);
    assert!(
        why.contains(&format!("sleep (pid {}) has it for", agent.pid()))
            && why.contains("started by somebody else"),
        "{why}"
    );
    // It has the queue's one slot, as any agent of it would.
    assert_eq!(world.status_of(dead), "idle");
    assert!(by_hand_file.exists());
    world
        .cli(&["stop", &by_hand.to_string()])
        .tells(0, "has no run");
    assert!(
        agent.0.try_wait().expect("ours").is_none(),
        "nobody signalled it"
    );
    agent.end();
    world.eventually("both are done", || {
        world.status_of(dead) == "complete" && world.status_of(by_hand) == "complete"
    });
    world.eventually("nothing is left", || !by_hand_file.exists());
}

#[test]
fn a_process_younger_than_its_pid_file_is_held_until_released() {
    let mut world = World::new();
    let id = world.task("good");
    let path = world.base.join(format!("running_tasks/task_{id}.pid"));
    let other = Stranger::start();
    fs::write(&path, other.pid().to_string()).expect("ours");
    let long_ago = std::time::SystemTime::now() - std::time::Duration::from_secs(86_400);
    let file = fs::File::options().write(true).open(&path).expect("ours");
    file.set_modified(long_ago).expect("ours");
    world.start();
    world.eventually("it is held", || {
        let why = world.why(id);
        why.contains("which is younger: perhaps another process with the same number")
            && why.contains(&format!("calypso-watch release {id}"))
    });
    world
        .cli(&["release", &id.to_string()])
        .tells(0, "is released");
    world.eventually("it runs", || {
        world.status_of(id) == "complete" && !path.exists()
    });
}

#[test]
fn the_dispatchers_pid_file_is_read_the_same_way() {
    let mut world = World::with(
        "",
        "[queues.dispatcher]\ncommand = [\"/bin/sh\", \"-c\", \"rm {base_path}/inbound/*\"]\n",
    );
    let path = world.base.join("running_tasks/inbound.pid");
    fs::write(&path, "abc").expect("ours");
    world.write("inbound/request.md", "x");
    world.start();
    world.shows("odd pid file: not a pid: `abc` (rm running_tasks/inbound.pid)");
    world.good_works();
    assert!(path.exists() && world.base.join("inbound/request.md").exists());
    let mut agent = Stranger::start();
    fs::write(&path, agent.pid().to_string()).expect("ours");
    world.shows(&format!("sleep (pid {}) has it for", agent.pid()));
    assert!(world.base.join("inbound/request.md").exists());
    agent.end();
    world.eventually("the request is taken", || {
        !world.base.join("inbound/request.md").exists()
    });
    assert!(!path.exists() || fs::read_to_string(&path).is_ok_and(|text| !text.contains("abc")));
}

#[test]
fn a_pid_file_that_cannot_be_read_is_odd() {
    use std::os::unix::fs::PermissionsExt as _;
    let mut world = World::new();
    let id = world.task("good");
    let path = world.base.join(format!("running_tasks/task_{id}.pid"));
    fs::write(&path, "7").expect("ours");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o000)).expect("ours");
    world.wrap = crate::world::NOBODY.map(str::to_owned).to_vec();
    let why = world.why(id);
    assert!(why.contains("unreadable: Permission denied"), "{why}");
}
