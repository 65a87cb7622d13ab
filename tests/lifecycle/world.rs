//! A base path with everything that lives in it; all of it ends with the test.

use std::fmt::Write as _;
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::ops::Deref;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use calypso_watch::core::layout::{Layout, RunDir};
use calypso_watch::core::model::{Outcome, RunState, RunSubject};
use calypso_watch::core::record::{StateRecord, VerdictRecord};
use calypso_watch::edge::runs;
use camino::Utf8Path;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};

use crate::client::Client;

pub(crate) const EXE: &str = env!("CARGO_BIN_EXE_calypso-watch");
/// Far more than anything takes on a loaded machine; only a failure waits for it.
const LIMIT: Duration = Duration::from_secs(30);
/// In the environment of everything started here, and so of everything that is started by it.
const MARK: &str = "LIFECYCLE_WORLD";

/// What every agent begins with. `busy/` tells of another agent of the same task.
const PRELUDE: &str = r#"
B='@BASE@'; EXE='@EXE@'; Q=$1; T=${2:-inbound}
cw() { "$EXE" --base-path "$B" "$@"; }
note() { echo "$1 $Q $T $$" >>"$B/stamps"; }
gate() { note "at-$1"; while [ ! -e "$B/gates/$1" ]; do sleep 0.02; done; }
claim() { ID=$(cw task signup "$Q") || { note none; exit 9; }; }
move() { cw task move "$ID" "$1" --comment next; }
finish() { cw task done "$ID"; }
if ! mkdir "$B/busy/$T" 2>/dev/null && kill -0 "$(cat "$B/busy/$T/pid" 2>/dev/null)" 2>/dev/null; then note DOUBLE; fi
echo $$ >"$B/busy/$T/pid"
trap 'rm -rf "$B/busy/$T"; note end' EXIT
trap 'exit 130' INT
trap 'exit 143' TERM
note start
. "$B/agents/$Q.sh"
"#;

/// Waits for a level.
#[track_caller]
pub(crate) fn within<T>(what: &str, limit: Duration, mut look: impl FnMut() -> Option<T>) -> T {
    let end = Instant::now() + limit;
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(Instant::now() < end, "not within {limit:?}: {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// Which tinytask.
enum Tinytask {
    /// A process of the test's; calypso-watch is told its address and its database.
    Beside(Option<Child>),
    /// The daemon starts it.
    Builtin,
}

/// See the module.
pub(crate) struct World {
    folder: tempfile::TempDir,
    pub(crate) layout: Layout,
    tinytask: Tinytask,
    client: Client,
    daemon: Option<Child>,
    top: String,
    sections: String,
    env: Vec<(&'static str, String)>,
    /// What calypso.toml names instead of tinytask's own address; the test itself goes straight to that.
    pub(crate) through: Option<String>,
}

/// What a command printed, and how it ended.
#[derive(Debug)]
pub(crate) struct Said {
    pub(crate) code: Option<i32>,
    pub(crate) out: String,
    pub(crate) err: String,
}

impl Deref for World {
    type Target = Client;

    fn deref(&self) -> &Client {
        &self.client
    }
}

impl World {
    /// With a tinytask that somebody else started, on this machine.
    pub(crate) fn new() -> Self {
        Self::with(Tinytask::Beside(None))
    }

    /// With the built-in tinytask.
    pub(crate) fn builtin() -> Self {
        Self::with(Tinytask::Builtin)
    }

    fn with(tinytask: Tinytask) -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let root = folder.path().canonicalize().expect("it was just made");
        let layout = Layout::new(
            Utf8Path::from_path(&root)
                .expect("a UTF-8 name")
                .join("base"),
        );
        for name in [
            "inbound",
            "workqueue",
            "running_tasks",
            "recipes",
            "agents",
            "gates",
            "busy",
        ] {
            std::fs::create_dir_all(layout.base().join(name)).expect("a folder");
        }
        std::fs::create_dir_all(root.join("server")).expect("a folder");
        std::fs::write(layout.base().join("stamps"), "").expect("a file");
        let prelude = PRELUDE
            .replace("@BASE@", layout.base().as_str())
            .replace("@EXE@", EXE);
        std::fs::write(layout.base().join("agent.sh"), prelude).expect("a script");
        let mut world = Self {
            folder,
            layout,
            tinytask,
            client: Client {
                address: String::new(),
            },
            daemon: None,
            top: "settle = \"50ms\"\nstop_grace = \"500ms\"\n".into(),
            sections: String::new(),
            env: Vec::new(),
            through: None,
        };
        // A port that is free now; others choose theirs the same way, so that the server may have to try again.
        world.client.address = free_address();
        if matches!(world.tinytask, Tinytask::Beside(_)) {
            world.serve();
        }
        world
    }

    // ── before the start ───────────────────────────────────────────────────────────────────────────────────────────────

    /// A queue and what its agent does.
    pub(crate) fn queue(self, name: &str, script: &str) -> Self {
        self.recipe(name);
        self.script(name, script);
        self
    }

    pub(crate) fn recipe(&self, name: &str) {
        let recipe = format!(
            "version: 1.0.0\ntitle: {name}\ndescription: a test's\nprompt: work\nparameters:\n  - key: task_id\n    \
             input_type: string\n    requirement: optional\n    description: the task\n    default: \"\"\n"
        );
        self.write(&format!("recipes/{name}.yaml"), &recipe);
    }

    /// Replaces what the agent of a queue does.
    pub(crate) fn script(&self, queue: &str, script: &str) {
        self.write(&format!("agents/{queue}.sh"), &format!("{script}\n"));
    }

    /// A line at the top of calypso.toml; a later one of the same key goes before.
    pub(crate) fn set(mut self, key: &str, value: &str) -> Self {
        let kept: String = (self.top.lines())
            .filter(|line| !line.starts_with(&format!("{key} ")))
            .map(|line| format!("{line}\n"))
            .collect();
        self.top = format!("{kept}{key} = {value}\n");
        self
    }

    /// Lines at the end of calypso.toml.
    pub(crate) fn section(mut self, text: &str) -> Self {
        self.sections.push_str(text);
        self.sections.push('\n');
        self
    }

    /// Writes calypso.toml.
    pub(crate) fn configure(self) -> Self {
        let tinytask = match &self.tinytask {
            Tinytask::Builtin => format!("builtin = true\nlisten = \"{}\"", self.client.address),
            Tinytask::Beside(_) => format!(
                "url = \"http://{}/mcp\"\ndb = \"{}\"",
                self.through.as_ref().unwrap_or(&self.client.address),
                self.db().display()
            ),
        };
        let text = format!(
            "{}\n[agent]\ncommand = [\"sh\", \"{{base_path}}/agent.sh\", \"{{queue}}\", \"{{task_id}}\"]\n\n[tinytask]\n{tinytask}\n\n{}",
            self.top, self.sections
        );
        self.write("calypso.toml", &text);
        self
    }

    // ── the daemon ─────────────────────────────────────────────────────────────────────────────────────────────────────

    /// Starts the daemon and waits until it watches.
    pub(crate) fn start(self) -> Self {
        let mut world = self.configure();
        world.run();
        world
    }

    /// Starts the daemon again.
    #[track_caller]
    pub(crate) fn run(&mut self) {
        self.launch(EXE);
        self.eventually("the daemon watches", |w| w.watches());
    }

    /// Starts this program as the daemon, and waits for nothing.
    pub(crate) fn launch(&mut self, exe: &str) {
        assert!(self.daemon.is_none(), "there is a daemon already");
        let open = |name: &str| {
            std::fs::OpenOptions::new()
                .create(true)
                .append(true)
                .open(self.layout.base().join(name))
                .expect("a log")
        };
        let daemon = self
            .command(exe)
            .args(["run", "--log", "debug"])
            .stdout(open("daemon.out"))
            .stderr(open("daemon.log"))
            .spawn()
            .expect("our own binary starts");
        self.daemon = Some(daemon);
    }

    fn watches(&self) -> bool {
        let Some(daemon) = &self.daemon else {
            return false;
        };
        let record = self.read(".calypso/daemon.json");
        serde_json::from_str::<Value>(&record)
            .is_ok_and(|record| record["process"]["pid"] == daemon.id())
    }

    /// kill -9, which no program can do anything about.
    pub(crate) fn kill_daemon(&mut self) {
        let mut daemon = self.daemon.take().expect("a daemon runs");
        daemon.kill().expect("it is ours");
        daemon.wait().expect("it is ours");
    }

    /// The signal, and how the daemon then ended.
    #[track_caller]
    pub(crate) fn end_daemon(&mut self, signal: Signal) -> Option<i32> {
        let mut daemon = self.daemon.take().expect("a daemon runs");
        kill(Pid::from_raw(daemon.id().cast_signed()), signal).expect("it is ours");
        let mut status = None;
        self.eventually("the daemon ends", |_| {
            status = daemon.try_wait().expect("it is ours");
            status.is_some()
        });
        status.and_then(|status| status.code())
    }

    pub(crate) fn daemon_lives(&mut self) -> bool {
        let daemon = self.daemon.as_mut().expect("a daemon was started");
        daemon.try_wait().expect("it is ours").is_none()
    }

    /// Waits for a daemon that something else ended.
    #[track_caller]
    pub(crate) fn daemon_ends(&mut self) -> Option<i32> {
        let mut daemon = self.daemon.take().expect("a daemon runs");
        let mut status = None;
        self.eventually("the daemon ends", |_| {
            status = daemon.try_wait().expect("it is ours");
            status.is_some()
        });
        status.and_then(|status| status.code())
    }

    /// The shim that waits for the next run: the daemon's child with that command line.
    pub(crate) fn spare(&self) -> Option<i32> {
        let daemon = self.daemon_pid();
        let list = format!("/proc/{daemon}/task/{daemon}/children");
        let children = std::fs::read_to_string(list).ok()?;
        let mut pids = children
            .split_whitespace()
            .filter_map(|pid| pid.parse().ok());
        pids.find(|pid: &i32| {
            let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            line.split(|byte| *byte == 0).nth(1) == Some(b"__spare")
        })
    }

    pub(crate) fn daemon_pid(&self) -> i32 {
        self.daemon
            .as_ref()
            .expect("a daemon runs")
            .id()
            .cast_signed()
    }

    // ── tinytask ───────────────────────────────────────────────────────────────────────────────────────────────────────

    pub(crate) fn db(&self) -> PathBuf {
        self.folder
            .path()
            .canonicalize()
            .expect("it is there")
            .join("server/tinytask.db")
    }

    /// Starts the test's own tinytask, on the address it always had.
    pub(crate) fn serve(&mut self) {
        let db = self.db();
        let is_first = !db.exists();
        loop {
            let mut server = self
                .command(EXE)
                .args(["tinytask", "serve", "--listen", &self.client.address])
                .arg("--db")
                .arg(&db)
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .spawn()
                .expect("our own binary starts");
            let listens = within("tinytask listens, or gives up", LIMIT, || {
                if TcpStream::connect(&self.client.address).is_ok()
                    && server.try_wait().expect("it is ours").is_none()
                {
                    return Some(true);
                }
                server.try_wait().expect("it is ours").map(|_| false)
            });
            if listens {
                self.tinytask = Tinytask::Beside(Some(server));
                return;
            }
            assert!(is_first, "tinytask's port was taken by somebody else");
            self.client.address = free_address();
        }
    }

    /// kill -9 of the test's own tinytask.
    pub(crate) fn kill_server(&mut self) {
        let Tinytask::Beside(server) = &mut self.tinytask else {
            panic!("the daemon's own");
        };
        let mut server = server.take().expect("it runs");
        server.kill().expect("it is ours");
        server.wait().expect("it is ours");
    }

    /// The database gives way to an empty one.
    pub(crate) fn swap_database(&self) {
        for name in ["tinytask.db", "tinytask.db-wal", "tinytask.db-shm"] {
            let path = self.db().with_file_name(name);
            if path.exists() {
                std::fs::rename(&path, path.with_file_name(format!("old-{name}")))
                    .expect("a rename");
            }
        }
    }

    /// And comes back.
    pub(crate) fn restore_database(&self) {
        for name in ["tinytask.db", "tinytask.db-wal", "tinytask.db-shm"] {
            let path = self.db().with_file_name(name);
            drop(std::fs::remove_file(&path));
            let old = path.with_file_name(format!("old-{name}"));
            if old.exists() {
                std::fs::rename(&old, &path).expect("a rename");
            }
        }
    }

    /// A task with its folder.
    #[track_caller]
    pub(crate) fn task(&self, queue: &str, title: &str) -> i64 {
        self.task_with(json!({"title": title, "assigned_to": queue}))
    }

    /// A task with whatever else `create_task` takes, and its folder.
    #[track_caller]
    pub(crate) fn task_with(&self, mut args: Value) -> i64 {
        args["created_by"] = json!("a test");
        let task = self.call("create_task", &args);
        let id = task["id"].as_i64().expect("a task has a number");
        std::fs::create_dir_all(self.layout.base().join(format!("workqueue/task_{id}")))
            .expect("a folder");
        id
    }

    #[track_caller]
    pub(crate) fn update(&self, id: i64, mut args: Value) {
        args["id"] = json!(id);
        self.text("update_task", &args);
    }

    /// `idle`, `working`, `complete`, or `gone`.
    pub(crate) fn state(&self, id: i64) -> String {
        let text = self.try_text("get_task", &json!({"id": id}));
        text.ok()
            .and_then(|text| serde_json::from_str::<Value>(&text).ok())
            .and_then(|task| task["status"].as_str().map(str::to_owned))
            .unwrap_or_else(|| "gone".into())
    }

    pub(crate) fn is_complete(&self, id: i64) -> bool {
        self.state(id) == "complete"
    }

    pub(crate) fn assignee(&self, id: i64) -> String {
        self.client.task(id)["assigned_to"]
            .as_str()
            .unwrap_or_default()
            .to_owned()
    }

    /// What calypso-watch said on a task.
    pub(crate) fn our_comments(&self, id: i64) -> Vec<String> {
        let task = self.client.task(id);
        let comments = task["comments"].as_array().cloned().unwrap_or_default();
        comments
            .iter()
            .filter_map(|comment| comment["content"].as_str())
            .filter(|text| text.starts_with("calypso-watch "))
            .map(str::to_owned)
            .collect()
    }

    // ── files ──────────────────────────────────────────────────────────────────────────────────────────────────────────

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.layout.base().join(name).into_std_path_buf()
    }

    /// Replaces the file in one step, so that no watcher sees half of it.
    pub(crate) fn write(&self, name: &str, text: &str) {
        let path = self.path(name);
        let beside = self.folder.path().join("half");
        std::fs::write(&beside, text).expect("a file");
        std::fs::rename(beside, path).expect("a rename");
    }

    /// Empty where there is none.
    pub(crate) fn read(&self, name: &str) -> String {
        std::fs::read_to_string(self.path(name)).unwrap_or_default()
    }

    /// Lets the agents pass that wait there.
    pub(crate) fn open(&self, gate: &str) {
        self.write(&format!("gates/{gate}"), "");
    }

    pub(crate) fn close(&self, gate: &str) {
        std::fs::remove_file(self.path(&format!("gates/{gate}"))).expect("it was open");
    }

    /// What the agents noted, in order: `start architect 1 4711`.
    pub(crate) fn stamps(&self) -> Vec<String> {
        self.read("stamps").lines().map(str::to_owned).collect()
    }

    /// How often something was noted.
    pub(crate) fn count(&self, stamp: &str) -> usize {
        let is_it = |line: &&String| {
            line.strip_prefix(stamp)
                .is_some_and(|rest| rest.starts_with(' '))
        };
        self.stamps().iter().filter(is_it).count()
    }

    /// The tasks of the noted starts, in order.
    pub(crate) fn starts(&self) -> Vec<String> {
        let stamps = self.stamps();
        let started = stamps.iter().filter_map(|line| line.strip_prefix("start "));
        started
            .map(|rest| {
                let mut words = rest.split(' ');
                format!(
                    "{} {}",
                    words.next().unwrap_or_default(),
                    words.next().unwrap_or_default()
                )
            })
            .collect()
    }

    pub(crate) fn names(&self, folder: &str) -> Vec<String> {
        let entries = std::fs::read_dir(self.path(folder)).into_iter().flatten();
        let mut names: Vec<_> = entries
            .filter_map(|entry| Some(entry.ok()?.file_name().to_string_lossy().into_owned()))
            .collect();
        names.sort();
        names
    }

    // ── runs ───────────────────────────────────────────────────────────────────────────────────────────────────────────

    pub(crate) fn runs(&self, task: i64) -> Vec<RunDir> {
        self.runs_of(RunSubject::Task(task.try_into().expect("a task id")))
    }

    pub(crate) fn runs_of(&self, subject: RunSubject) -> Vec<RunDir> {
        let mut all = runs::list_runs(&self.layout, subject).unwrap_or_default();
        all.sort_by_key(|run| run.id.number);
        all
    }

    /// The last run's state.
    pub(crate) fn record(&self, task: i64) -> Option<StateRecord> {
        let run = self.runs(task).pop()?;
        runs::read_state(&self.layout, &run).ok()?
    }

    /// The last run's shim and agent, once the agent has passed its gate.
    #[track_caller]
    pub(crate) fn processes(&self, task: i64) -> (i32, i32) {
        self.eventually_some("the run is running", |w| {
            let record = w.record(task)?;
            let RunState::Running { agent } = record.state else {
                return None;
            };
            (w.count(&format!("start {}", w.runs(task).pop()?.queue)) > 0
                && w.read(&format!("running_tasks/task_{task}.pid")).trim()
                    == agent.pid.to_string())
            .then_some((record.shim.pid, agent.pid))
        })
    }

    /// Verdicts of a task's own runs, in order.
    pub(crate) fn verdicts(&self, task: i64) -> Vec<VerdictRecord> {
        self.verdicts_of(RunSubject::Task(task.try_into().expect("a task id")))
    }

    pub(crate) fn verdicts_of(&self, subject: RunSubject) -> Vec<VerdictRecord> {
        self.runs_of(subject)
            .iter()
            .filter_map(|run| runs::read_verdict(&self.layout, run).ok()?)
            .collect()
    }

    /// How the task's own runs ended, as far as they are judged.
    pub(crate) fn outcomes(&self, task: i64) -> Vec<Outcome> {
        self.verdicts(task).into_iter().map(|v| v.outcome).collect()
    }

    // ── commands ───────────────────────────────────────────────────────────────────────────────────────────────────────

    pub(crate) fn command(&self, exe: &str) -> Command {
        let mut command = Command::new(exe);
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("CALYPSO_") {
                command.env_remove(name);
            }
        }
        command
            .env("CALYPSO_BASE_PATH", self.layout.base())
            .env(MARK, self.layout.base())
            .envs(self.env.iter().map(|(name, value)| (name, value)))
            .current_dir(self.layout.base())
            .stdin(Stdio::null());
        command
    }

    /// Types a command.
    pub(crate) fn cw(&self, args: &[&str]) -> Said {
        let output = self
            .command(EXE)
            .args(args)
            .output()
            .expect("our own binary starts");
        Said {
            code: output.status.code(),
            out: String::from_utf8_lossy(&output.stdout).into_owned(),
            err: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }

    /// Types a command that must succeed, and returns what it printed.
    #[track_caller]
    pub(crate) fn ok(&self, args: &[&str]) -> String {
        let said = self.cw(args);
        assert_eq!(said.code, Some(0), "{args:?}: {said:?}");
        said.out
    }

    /// `status --json` and its exit code.
    #[track_caller]
    pub(crate) fn status(&self) -> (Value, Option<i32>) {
        let said = self.cw(&["status", "--json"]);
        let status =
            serde_json::from_str(&said.out).unwrap_or_else(|error| panic!("{error}: {said:?}"));
        (status, said.code)
    }

    /// The name of what holds a task, as `status` shows it; empty where nothing does.
    #[track_caller]
    pub(crate) fn hold(&self, task: i64) -> String {
        let (status, _) = self.status();
        let mut rows = status["queues"]
            .as_array()
            .into_iter()
            .flatten()
            .flat_map(|queue| queue["tasks"].as_array().into_iter().flatten())
            .chain(status["unassigned"].as_array().into_iter().flatten());
        rows.find(|row| row["task"] == task)
            .and_then(|row| row["hold"]["hold"].as_str())
            .unwrap_or_default()
            .to_owned()
    }

    // ── waiting ────────────────────────────────────────────────────────────────────────────────────────────────────────

    #[track_caller]
    pub(crate) fn eventually(&self, what: &str, mut is_so: impl FnMut(&Self) -> bool) {
        within(what, LIMIT, || is_so(self).then_some(()));
    }

    #[track_caller]
    pub(crate) fn eventually_some<T>(
        &self,
        what: &str,
        mut look: impl FnMut(&Self) -> Option<T>,
    ) -> T {
        within(what, LIMIT, || look(self))
    }

    /// Returns after a whole look that began after this was called: whatever the daemon is going to do about the present it has
    /// done. Its lock is touched after each look, so of the two looks waited for here the second one is whole.
    #[track_caller]
    pub(crate) fn looks(&self) {
        let last = || {
            std::fs::metadata(self.path(".calypso/lock"))
                .and_then(|meta| meta.modified())
                .expect("a daemon has run")
        };
        let wish = self.path(".calypso/control/pause-nobody");
        let before = last();
        std::fs::write(&wish, "").expect("a control file");
        self.eventually("a look", |_| last() > before);
        let before = last();
        std::fs::remove_file(&wish).expect("it is ours");
        self.eventually("another look", |_| last() > before);
    }

    /// Has the daemon ask tinytask for all open tasks, as it does at its start and every few minutes.
    #[track_caller]
    pub(crate) fn looks_at_everything(&self) {
        kill(Pid::from_raw(self.daemon_pid()), Signal::SIGHUP).expect("it lives");
        // The signal waits while events come; between two waits for looks none does.
        self.looks();
        self.looks();
    }

    /// For what takes its time by design: back-offs, limits.
    #[track_caller]
    pub(crate) fn at_length(&self, what: &str, mut is_so: impl FnMut(&Self) -> bool) {
        within(what, Duration::from_secs(75), || is_so(self).then_some(()));
    }

    /// Everything is over and judged, and nothing is left: the end of most tests.
    #[track_caller]
    pub(crate) fn is_clean(&self) {
        self.eventually("no run is live", |w| w.names(".calypso/live").is_empty());
        self.eventually("no pid file", |w| w.names("running_tasks").is_empty());
        self.eventually("no agent lives", |w| w.marked("CALYPSO_RUN=").is_empty());
        // The daemon goes on writing its own record.
        self.eventually("nothing half written", |w| {
            half_written(w.layout.base().as_std_path()).is_empty()
        });
        let doubles: Vec<_> = self
            .stamps()
            .into_iter()
            .filter(|line| line.starts_with("DOUBLE"))
            .collect();
        assert_eq!(doubles, [""; 0], "two live runs for one task");
    }

    /// Processes of this world with such a variable in their environment.
    pub(crate) fn marked(&self, variable: &str) -> Vec<i32> {
        let mark = format!("{MARK}={}", self.layout.base());
        let entries = std::fs::read_dir("/proc").expect("/proc");
        entries
            .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
            .filter(|pid: &i32| {
                let environ = std::fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
                let mut variables = environ.split(|byte| *byte == 0);
                variables.clone().any(|v| v == mark.as_bytes())
                    && variables.any(|v| v.starts_with(variable.as_bytes()))
            })
            .collect()
    }
}

/// Files that a writer replaces another with, and should be gone.
fn half_written(folder: &Path) -> Vec<String> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        if name == "blanks" {
            // Nobody has begun to write those.
        } else if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            found.extend(half_written(&entry.path()));
        } else if name.ends_with(".new") || name.ends_with(".tmp") {
            found.push(entry.path().display().to_string());
        }
    }
    found
}

fn free_address() -> String {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
    listener.local_addr().expect("it is bound").to_string()
}

impl Drop for World {
    #[expect(
        clippy::print_stderr,
        reason = "the harness shows it where the test failed"
    )]
    fn drop(&mut self) {
        if std::thread::panicking() {
            let mut text = String::new();
            for name in ["daemon.log", "daemon.out", "stamps"] {
                let all = self.read(name);
                let lines: Vec<_> = all.lines().collect();
                let last = &lines[lines.len().saturating_sub(60)..];
                writeln!(text, "── {name}\n{}", last.join("\n")).expect("memory");
            }
            let status = self.cw(&["status"]);
            eprintln!("{text}── status\n{}{}", status.out, status.err);
        }
        // The daemon first, or it would start more.
        if let Some(mut daemon) = self.daemon.take() {
            daemon.kill().ok();
            daemon.wait().ok();
        }
        for _ in 0..200 {
            let left = self.marked("");
            if left.is_empty() {
                break;
            }
            for pid in left {
                kill(Pid::from_raw(pid), Signal::SIGKILL).ok();
            }
            std::thread::sleep(Duration::from_millis(5));
            if let Tinytask::Beside(Some(server)) = &mut self.tinytask {
                server.try_wait().ok();
            }
        }
        if let Tinytask::Beside(Some(server)) = &mut self.tinytask {
            server.wait().ok();
        }
    }
}
