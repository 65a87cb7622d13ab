//! Files that name processes of others: none of them is ever signalled.

use std::fs;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use crate::world::World;

/// A process that notes each signal it can catch; ended with the test.
struct Witness {
    child: Child,
    notes: PathBuf,
}

impl Witness {
    fn start(world: &World, name: &str) -> Self {
        let notes = world.beside(name);
        let script = format!(
            "for s in HUP INT TERM USR1 USR2 QUIT CONT; do trap \"echo $s >> '{0}'\" $s; done; echo ready >> '{0}'; while :; do sleep 0.05; done",
            notes.display()
        );
        let child = Command::new("bash")
            .args(["-c", &script])
            .stdin(Stdio::null())
            .spawn()
            .expect("bash is there");
        let witness = Self { child, notes };
        world.eventually("it listens", || witness.notes() == "ready\n");
        witness
    }
    fn pid(&self) -> u32 {
        self.child.id()
    }
    fn notes(&self) -> String {
        fs::read_to_string(&self.notes).unwrap_or_default()
    }
    #[track_caller]
    fn was_left_alone(&mut self) {
        assert_eq!(self.child.try_wait().expect("ours"), None, "it was ended");
        assert_eq!(self.notes(), "ready\n");
    }
}

impl Drop for Witness {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

/// Whatever people ask for, and whatever limits there are: `stop`, `retry`, `release`, a time limit of a second.
#[test]
fn a_pid_file_that_names_others_gets_nobody_signalled() {
    let mut world = World::with(
        "time_limit = \"1s\"",
        "[queues.slow]\ntime_limit = \"1h\"\ncommand = [\"/bin/sh\", \"-c\", \"while [ ! -e go ]; do sleep 0.02; done; exec /bin/sh good.sh $1\", \"sh\", \"{task_id}\"]\n",
    );
    let mut witness = Witness::start(&world, "witness");
    let slow = world.task("slow");
    world.start();
    let state = format!(".calypso/runs/task_{slow}/0001-slow/state.json");
    world.eventually("a real run", || world.read(&state).contains("\"agent\""));
    let record: serde_json::Value = serde_json::from_str(&world.read(&state)).expect("a state");
    let shim = record["shim"]["pid"].as_i64().expect("a pid");
    let pids = [
        1,
        2,
        i64::from(std::process::id()),
        i64::from(witness.pid()),
        i64::from(world.daemon_pid()),
        shim,
    ];
    let ids = pids.map(|pid| {
        let id = world.tinytask.create("a task", "good");
        world.write(&format!("running_tasks/task_{id}.pid"), format!("{pid}\n"));
        fs::create_dir(world.base.join(format!("workqueue/task_{id}"))).expect("ours");
        id
    });
    for id in ids {
        let id = id.to_string();
        for verb in ["stop", "retry", "release"] {
            world.cli(&[verb, &id]);
        }
    }
    world.eventually("the wishes were taken", || {
        let left = fs::read_dir(world.base.join(".calypso/control")).expect("there");
        left.flatten()
            .all(|wish| !wish.file_name().to_string_lossy().starts_with("re"))
    });
    // Longer than the time limit of their queue.
    let begun = std::time::Instant::now();
    world.eventually("the limit is over", || begun.elapsed().as_millis() > 1500);
    witness.was_left_alone();
    assert!(world.is_running(), "{}", world.log());
    assert!(
        PathBuf::from(format!("/proc/{shim}")).exists(),
        "a run's shim was ended"
    );
    world.write("go", "");
    world.eventually("the real run ends by itself", || {
        world.status_of(slow) == "complete"
    });
    world.stop();
    witness.was_left_alone();
}

/// lock and server.json tell whom `quit` and `tinytask stop` end; both only where their lock is held, and only the very process.
#[test]
fn records_of_dead_servers_get_nobody_signalled() {
    let world = World::new();
    let mut witness = Witness::start(&world, "witness");
    let stat = fs::read_to_string(format!("/proc/{}/stat", witness.pid())).expect("it lives");
    let start = stat
        .rsplit(") ")
        .next()
        .and_then(|rest| rest.split(' ').nth(19))
        .expect("field 22");
    let process = format!("{{\"pid\":{},\"start\":{start}}}", witness.pid());
    fs::create_dir_all(world.base.join(".calypso/tinytask")).expect("ours");
    let moment = "{\"wall\":1,\"boot_id\":\"x\",\"boot\":1}";
    world.write(
        ".calypso/lock",
        format!("{{\"process\":{process},\"since\":{moment},\"host\":\"h\",\"machine\":\"m\",\"version\":\"0\"}}"),
    );
    world.write(
        ".calypso/tinytask/server.json",
        format!(
            "{{\"pid\":{},\"start\":{start},\"address\":\"127.0.0.1:1\",\"version\":\"0\"}}",
            witness.pid()
        ),
    );
    world.write(".calypso/tinytask/lock", "");
    world
        .cli(&["quit"])
        .tells(3, "no calypso-watch is watching");
    world
        .cli(&["tinytask", "stop"])
        .tells(3, "no built-in tinytask serves");
    witness.was_left_alone();
}
