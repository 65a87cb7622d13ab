//! One base path of a selftest, with a daemon that can be killed and started again, and a built-in tinytask.
//!
//! Everything in it is the real thing, each a process of its own; only the agents are tiny. Whatever is started from here carries the
//! mark of this base path (`marks`), by which it is found again.

use std::collections::HashSet;
use std::io::{self, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::os::unix::fs::DirBuilderExt as _;
use std::os::unix::process::CommandExt as _;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use camino::{Utf8Path, Utf8PathBuf};
use serde_json::{Value, json};

use super::dice::Dice;
use super::marks::MARK;
use super::{WORD, agent, http};
use crate::core::layout::Layout;
use crate::core::model::ProcessId;
use crate::edge::files::{self, Durability};
use crate::edge::process::{self, Pidfd, Signal};
use crate::edge::{clock, runs};

/// Takes what lies in inbound/.
pub(super) const DISPATCHER: &str = "dispatcher";
/// Works on the task it was started for, three at a time, and hands on to `REVIEW`.
pub(super) const BUILD: &str = "build";
/// Signs up for whatever tinytask hands out, one at a time, and hands on to `REVIEW`.
pub(super) const POOL: &str = "pool";
/// The last hop: completes.
pub(super) const REVIEW: &str = "review";

/// What the agents wrote.
pub(super) const STAMPS: &str = "stamps";
/// A file for each subject, locked by its agent.
pub(super) const BUSY: &str = "busy";
/// The address of tinytask, for the agents.
pub(super) const SERVER: &str = "server";

/// How long a daemon may take until it holds its lock, on a machine that is busy with other things.
const START_LIMIT: Duration = Duration::from_secs(60);
/// Between two looks at something that is about to come.
pub(super) const TRY: Duration = Duration::from_millis(2);
/// Ports tried for a tinytask.
const PORTS: u32 = 200;

/// What a selftest cannot go on without.
#[derive(Debug, thiserror::Error)]
#[error("cannot {what}")]
pub struct Error {
    what: String,
    source: io::Error,
}

impl Error {
    pub(super) fn new(what: impl Into<String>) -> impl FnOnce(io::Error) -> Self {
        let what = what.into();
        move |source| Self { what, source }
    }
}

/// Waits for a level, polled; false where it does not come within `limit`.
pub(super) fn within(limit: Duration, mut is_so: impl FnMut() -> bool) -> bool {
    let end = clock::boot_us() + limit.as_micros() as u64;
    while !is_so() {
        if clock::boot_us() > end {
            return false;
        }
        std::thread::sleep(TRY);
    }
    true
}

// ── who starts and collects processes ──────────────────────────────────────────────────────────────────────────────────

/// The children of this program: those it waits for by name, and the others, which it inherits when daemons die.
///
/// Starting and collecting exclude each other, or a child that died at once could be collected before its name is known.
#[derive(Default)]
pub(super) struct Nursery {
    named: Mutex<HashSet<u32>>,
}

impl Nursery {
    fn named(&self) -> MutexGuard<'_, HashSet<u32>> {
        self.named.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn spawn(&self, command: &mut Command) -> io::Result<Child> {
        let mut named = self.named();
        let child = command.spawn()?;
        named.insert(child.id());
        Ok(child)
    }

    fn wait(&self, mut child: Child) -> io::Result<std::process::ExitStatus> {
        let status = child.wait();
        self.named().remove(&child.id());
        status
    }

    /// Collects dead processes that fell to this one.
    pub(super) fn reap(&self) {
        let named = self.named();
        process::reap_strays(|stat| !named.contains(&stat.pid.cast_unsigned()));
    }
}

/// Cleans up when this program ends, however that happens: see `agent::keeper`.
pub(super) struct Keeper {
    child: Child,
    input: Option<ChildStdin>,
}

impl Keeper {
    pub(super) fn start(exe: &Utf8Path, folder: &Utf8Path) -> Result<Self, Error> {
        let mut child = Command::new(exe.as_str())
            .args([WORD, "keeper", folder.as_str()])
            .env_remove(MARK)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .map_err(Error::new("start this program again"))?;
        let input = child.stdin.take();
        Ok(Self { child, input })
    }

    /// Cleans up, and waits for that. True when nothing is left.
    pub(super) fn finish(mut self, keep_files: bool) -> bool {
        if let (Some(mut input), true) = (self.input.take(), keep_files) {
            input.write_all(b"k").ok();
        }
        self.child.wait().is_ok_and(|status| status.success())
    }
}

// ── one base path ──────────────────────────────────────────────────────────────────────────────────────────────────────

/// See the module.
pub(super) struct World<'a> {
    pub(super) layout: Layout,
    exe: &'a Utf8Path,
    nursery: &'a Nursery,
    server: SocketAddr,
    daemon: Option<Child>,
}

impl<'a> World<'a> {
    /// Makes the folders and settings in `base`, which is made too, and starts the daemon. `pace`: see `agent::run`.
    pub(super) fn start(
        base: &Utf8Path,
        exe: &'a Utf8Path,
        nursery: &'a Nursery,
        pace: u64,
        dice: &mut Dice,
    ) -> Result<Self, Error> {
        let layout = Layout::new(base);
        let folders = [
            layout.base().to_owned(),
            layout.inbound(),
            layout.workqueue(),
            layout.running_tasks(),
            layout.recipes(),
            base.join(BUSY),
        ];
        for folder in folders {
            std::fs::DirBuilder::new()
                .mode(0o755)
                .create(&folder)
                .map_err(Error::new(format!("make `{folder}`")))?;
        }
        let server = free_address(dice).map_err(Error::new("find a free port"))?;
        // The agents are this program too, but the shim that starts them is another one: its own file would not do.
        let program = if *exe == process::SELF_EXE {
            format!("/proc/{}/exe", std::process::id())
        } else {
            exe.to_string()
        };
        let command = json!([
            program,
            WORD,
            "agent",
            "{base_path}",
            "{queue}",
            "{task_id}",
            pace.to_string()
        ]);
        // A storm kills a task's agent more often than any agent fails: what parks a task, or holds it for ever, is out of its way.
        // Records stay, as each agent that ran is looked for in them.
        let settings = format!(
            "settle = \"20ms\"\nstop_grace = \"500ms\"\nmax_attempts = 1000\nmax_runs_per_task = 1000\nkeep_per_task = 100000\n\n[agent]\ncommand = {command}\n\n\
             [tinytask]\nbuiltin = true\nlisten = \"{server}\"\n\n[queues.{BUILD}]\nconcurrency = 3\n\n[queues.{REVIEW}]\nconcurrency = 3\n"
        );
        let world = Self {
            layout,
            exe,
            nursery,
            server,
            daemon: None,
        };
        world.write(&world.layout.config(), &settings)?;
        world.write(&base.join(SERVER), &server.to_string())?;
        world.write(&base.join(STAMPS), "")?;
        for queue in [DISPATCHER, BUILD, POOL, REVIEW] {
            let recipe = format!(
                "version: 1.0.0\ntitle: {queue}\ndescription: a selftest's\nprompt: work\nparameters:\n  - key: task_id\n    \
                 input_type: string\n    requirement: optional\n    description: the task\n    default: \"\"\n"
            );
            world.write(
                &world.layout.recipes().join(format!("{queue}.yaml")),
                &recipe,
            )?;
        }
        let mut world = world;
        world.start_daemon()?;
        if !within(START_LIMIT, || world.is_watching() && world.is_served()) {
            let log = std::fs::read_to_string(world.daemon_log()).unwrap_or_default();
            let said = log.lines().last().unwrap_or("no reason given").to_owned();
            return Err(Error::new("start a daemon there")(io::Error::other(said)));
        }
        Ok(world)
    }

    fn write(&self, path: &Utf8Path, text: &str) -> Result<(), Error> {
        files::replace(path, text.as_bytes(), 0o644, Durability::Crash)
            .map_err(Error::new(format!("write `{path}`")))
    }

    /// This program under other arguments, marked as this base path's, without settings of the person's own.
    fn command(&self) -> Command {
        let mut command = Command::new(self.exe.as_str());
        for (name, _) in std::env::vars_os() {
            if name.as_encoded_bytes().starts_with(b"CALYPSO_") {
                command.env_remove(name);
            }
        }
        command
            .env(MARK, self.layout.base())
            .current_dir(self.layout.base())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        command
    }

    // ── the daemon ─────────────────────────────────────────────────────────────────────────────────────────────────────

    fn daemon_log(&self) -> Utf8PathBuf {
        self.layout.base().join("daemon.log")
    }

    pub(super) fn start_daemon(&mut self) -> Result<(), Error> {
        let cannot = || Error::new("start the daemon");
        let log = agent::log(&self.daemon_log()).map_err(cannot())?;
        let mut command = self.command();
        command
            .args(["--base-path", self.layout.base().as_str(), "run"])
            .stderr(log)
            // Ctrl-C in a terminal is for the selftest alone.
            .process_group(0);
        self.daemon = Some(self.nursery.spawn(&mut command).map_err(cannot())?);
        Ok(())
    }

    /// The daemon's pid, while it lives.
    pub(super) fn daemon(&mut self) -> Option<ProcessId> {
        let child = self.daemon.as_mut()?;
        match child.try_wait() {
            Ok(None) => process::identity(child.id().cast_signed()),
            _ => None,
        }
    }

    /// It has its lock: from here on it is at its job.
    pub(super) fn is_watching(&self) -> bool {
        files::is_held_at(&self.layout.lock()).unwrap_or(false)
    }

    /// This daemon has written down what it saw.
    pub(super) fn has_looked(&self, daemon: Option<&ProcessId>) -> bool {
        let record = files::read_bounded(&self.layout.daemon(), 1 << 22).unwrap_or_default();
        let record: Value = serde_json::from_slice(&record).unwrap_or_default();
        daemon.is_some_and(|daemon| {
            record["process"]["pid"] == daemon.pid && record["process"]["start"] == daemon.start
        })
    }

    /// Collects the daemon, which is dead or about to be; how it ended.
    pub(super) fn collect_daemon(&mut self) -> Option<std::process::ExitStatus> {
        self.nursery.wait(self.daemon.take()?).ok()
    }

    // ── tinytask ───────────────────────────────────────────────────────────────────────────────────────────────────────

    /// Who serves tinytask now; none while nobody does.
    pub(super) fn tinytask(&self) -> Option<ProcessId> {
        let record = files::read_bounded(&self.layout.tinytask_server(), 4096).ok()?;
        let process: ProcessId = serde_json::from_slice(&record).ok()?;
        process::is_alive(&process).then_some(process)
    }

    fn is_served(&self) -> bool {
        self.call("GET", "queues", None).is_ok()
    }

    pub(super) fn call(&self, method: &str, path: &str, body: Option<&Value>) -> io::Result<Value> {
        match http::call(self.server, method, path, body)? {
            (200..=299, answer) => Ok(answer),
            (status, answer) => Err(io::Error::other(format!("{status}: {answer}"))),
        }
    }

    /// A new task, with its folder.
    pub(super) fn create_task(&self, queue: &str) -> io::Result<i64> {
        let body = json!({"title": "a selftest's", "assigned_to": queue, "created_by": "selftest"});
        let task = self.call("POST", "tasks", Some(&body))?;
        let id = task["id"].as_i64().unwrap_or_default();
        // The daemon may be faster: with the built-in tinytask it makes what is missing.
        std::fs::create_dir_all(self.layout.workqueue().join(format!("task_{id}")))?;
        Ok(id)
    }

    /// Open tasks: number and status.
    pub(super) fn open_tasks(&self) -> io::Result<Vec<(i64, String)>> {
        let tasks = self.call("GET", "tasks?exclude_status=complete", None)?;
        let tasks = tasks.as_array().cloned().unwrap_or_default();
        Ok(tasks
            .iter()
            .filter_map(|task| Some((task["id"].as_i64()?, task["status"].as_str()?.to_owned())))
            .collect())
    }

    // ── requests ───────────────────────────────────────────────────────────────────────────────────────────────────────

    /// Drops a request, in one step; when, in microseconds since boot.
    pub(super) fn drop_request(&self, name: &str) -> io::Result<u64> {
        let hidden = self.layout.inbound().join(format!(".{name}"));
        files::replace(&hidden, b"a selftest's\n", 0o644, Durability::Crash)?;
        let at = clock::boot_us();
        std::fs::rename(hidden, self.layout.inbound().join(name))?;
        Ok(at)
    }

    /// Requests that nobody has taken away.
    pub(super) fn requests(&self) -> Vec<String> {
        names(&self.layout.inbound())
            .into_iter()
            .filter(|name| !name.starts_with('.'))
            .collect()
    }

    // ── what lives ─────────────────────────────────────────────────────────────────────────────────────────────────────

    /// Shim and agent of each live run, as far as they have said who they are.
    pub(super) fn live(&self) -> Vec<(ProcessId, Option<ProcessId>)> {
        let (live, _) = runs::list_live(&self.layout).unwrap_or_default();
        live.iter()
            .filter_map(|dir| {
                let record = runs::read_state(&self.layout, dir).ok()??;
                let agent = match record.state {
                    crate::core::model::RunState::Starting => None,
                    crate::core::model::RunState::Running { agent } => Some(agent),
                    crate::core::model::RunState::Ended { .. } => return None,
                };
                Some((record.shim, agent))
            })
            .collect()
    }

    /// A process that is none of ours, and what it has to say about signals. With `task` it looks like somebody's own run of that task.
    pub(super) fn stranger(&self, task: Option<i64>) -> Result<Stranger, Error> {
        let cannot = || Error::new("start a bystander");
        let said = self.layout.base().join(match task {
            Some(task) => format!("stranger-{task}"),
            None => "stranger".to_owned(),
        });
        let mut command = self.command();
        // Not of its base path's mark but of the folder's: it is nobody's leftover.
        command
            .args([
                WORD,
                "bystander",
                said.as_str(),
                "task_7",
                self.layout.base().as_str(),
            ])
            .env(
                MARK,
                self.layout.base().parent().unwrap_or(self.layout.base()),
            );
        let child = self.nursery.spawn(&mut command).map_err(cannot())?;
        let pid = child.id().cast_signed();
        let mut stranger = Stranger {
            child: Some(child),
            process: ProcessId { pid, start: 0 },
            said,
            pid_file: None,
        };
        // Started in a session of its own only once it says so.
        let is_here = within(START_LIMIT, || {
            stranger.words().first().is_some_and(|word| word == "here")
        });
        match process::identity(pid).filter(|_| is_here) {
            Some(process) => stranger.process = process,
            None => return Err(cannot()(io::Error::other("it does not start"))),
        }
        if let Some(task) = task {
            let path = self.layout.running_tasks().join(format!("task_{task}.pid"));
            self.write(&path, &format!("{pid}\n"))?;
            stranger.pid_file = Some(path);
        }
        Ok(stranger)
    }

    // ── the end ────────────────────────────────────────────────────────────────────────────────────────────────────────

    /// Ends the daemon and tinytask as a person would; false where one of them does not end.
    pub(super) fn quit(&mut self) -> bool {
        let ends = |process: Option<ProcessId>| {
            let Some(pidfd) = process.and_then(|p| Pidfd::open_checked(&p).ok().flatten()) else {
                return true;
            };
            pidfd.signal(Signal::TERM).ok();
            within(START_LIMIT, || pidfd.is_over())
        };
        let daemon = self.daemon();
        let ended = ends(daemon);
        if ended {
            self.collect_daemon();
        }
        ended & ends(self.tinytask())
    }

    /// What is left of this base path's processes.
    pub(super) fn marked(&self) -> Vec<ProcessId> {
        super::marks::marked(self.layout.base())
    }

    /// Files that say that something is not over, or that somebody did not finish writing.
    pub(super) fn left_files(&self) -> Vec<String> {
        let mut left = Vec::new();
        for folder in [self.layout.live(), self.layout.running_tasks()] {
            left.extend(
                names(&folder)
                    .into_iter()
                    .map(|name| format!("{}/{name}", folder.file_name().unwrap_or_default())),
            );
        }
        half_written(&self.layout, self.layout.base(), &mut left);
        left
    }
}

impl Drop for World<'_> {
    /// Where a round ends early. The rest is the keeper's.
    fn drop(&mut self) {
        if let Some(mut daemon) = self.daemon.take() {
            daemon.kill().ok();
            self.nursery.wait(daemon).ok();
        }
    }
}

fn names(folder: &Utf8Path) -> Vec<String> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    entries
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .collect()
}

fn half_written(layout: &Layout, folder: &Utf8Path, left: &mut Vec<String>) {
    // Nobody has begun to write those.
    if folder == layout.blanks() {
        return;
    }
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            half_written(layout, &folder.join(name), left);
        } else if files::is_temporary(&name) {
            left.push(name);
        }
    }
}

/// A port that nobody has now, and that the kernel gives to no outgoing connection while our server is dead
/// (ip(7): ip_local_port_range).
fn free_address(dice: &mut Dice) -> io::Result<SocketAddr> {
    let range =
        std::fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range").unwrap_or_default();
    let low = range
        .split_whitespace()
        .next()
        .and_then(|low| low.parse().ok());
    let low = u64::from(low.unwrap_or(32_768u16).max(12_000));
    for _ in 0..PORTS {
        let port = (10_000 + dice.below(low - 10_000)) as u16;
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        if TcpListener::bind(address).is_ok() {
            return Ok(address);
        }
    }
    Err(io::ErrorKind::AddrInUse.into())
}

// ── bystanders ─────────────────────────────────────────────────────────────────────────────────────────────────────────

/// A process that must live and be sent no signal.
pub(super) struct Stranger {
    child: Option<Child>,
    process: ProcessId,
    said: Utf8PathBuf,
    pid_file: Option<Utf8PathBuf>,
}

impl Stranger {
    fn words(&self) -> Vec<String> {
        let text = std::fs::read_to_string(&self.said).unwrap_or_default();
        text.lines().map(str::to_owned).collect()
    }

    /// What was done to it, in words; nothing where nothing was.
    pub(super) fn harm(&self) -> Option<String> {
        let pid = self.process.pid;
        if !process::is_alive(&self.process) {
            return Some(format!("bystander {pid} is dead"));
        }
        let signals: Vec<String> = self.words().into_iter().skip(1).collect();
        (!signals.is_empty()).then(|| format!("bystander {pid} was sent {}", signals.join(", ")))
    }

    /// Ends it, as its owner may. Its pid file stays, and names a dead process.
    pub(super) fn end(&mut self, nursery: &Nursery) {
        if let Some(mut child) = self.child.take() {
            child.kill().ok();
            nursery.wait(child).ok();
        }
    }
}
