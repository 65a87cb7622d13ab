//! One base path with everything that lives in it, built so that anything in it may be killed at any moment and the next case goes on
//! in the same place. What agents, the bystander and the program itself tell lies beside the base path, not in it.

use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use calypso_watch::core::layout::Layout;
use calypso_watch::edge::kill_point;
use camino::Utf8Path;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};

const EXE: &str = env!("CARGO_BIN_EXE_calypso-watch");
/// In the environment of everything started here, and so of everything that is started by it.
const MARK: &str = "KILL_WORLD";
/// What the agents do, by the names of their queues.
const QUEUES: [&str; 6] = ["plain", "leave", "brood", "steal", "linger", "dispatcher"];

/// What a process of a world is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Role {
    Daemon,
    Server,
    /// A shim that waits for a run.
    Spare,
    Shim,
    /// Past its gate, or at it.
    Agent,
    /// What an agent started.
    Child,
}

/// See the module.
pub(super) struct World {
    folder: tempfile::TempDir,
    root: PathBuf,
    pub(super) layout: Layout,
    address: SocketAddr,
    bugs: String,
    daemon: Option<Child>,
    bystander: Child,
    /// How much of `fired` is read.
    fired: usize,
}

impl World {
    /// With a daemon that watches. `attempts`: how many a task has before it is parked.
    pub(super) fn new(attempts: u32, bugs: &str) -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let root = folder.path().canonicalize().expect("it was just made");
        let layout = Layout::new(Utf8Path::from_path(&root).expect("UTF-8").join("base"));
        let base = layout.base().as_std_path().to_owned();
        for name in ["stamps", "acts", "gates", "taken"] {
            std::fs::create_dir_all(root.join(name)).expect("a folder");
        }
        for name in ["armed", "counts"] {
            std::fs::create_dir_all(root.join("points").join(name)).expect("a folder");
        }
        for name in ["inbound", "workqueue", "running_tasks", "recipes"] {
            std::fs::create_dir_all(base.join(name)).expect("a folder");
        }
        let address = free_address();
        for queue in QUEUES {
            let recipe = format!(
                "version: 1.0.0\ntitle: {queue}\ndescription: a test's\nprompt: work\nparameters:\n  - key: task_id\n    \
                 input_type: string\n    requirement: optional\n    description: the task\n    default: \"\"\n"
            );
            std::fs::write(base.join(format!("recipes/{queue}.yaml")), recipe).expect("a file");
        }
        let agent = include_str!("agent.sh")
            .replace("@BASE@", layout.base().as_str())
            .replace("@ROOT@", &root.display().to_string())
            .replace("@PORT@", &address.port().to_string());
        std::fs::write(base.join("agent.sh"), agent).expect("a file");
        let settings = format!(
            "settle = \"50ms\"\nrescan = \"1s\"\nstop_grace = \"1s\"\nmax_attempts = {attempts}\nkeep_days = 1\n\
             missing_folder = \"create\"\n\n[agent]\ncommand = [\"bash\", \"{{base_path}}/agent.sh\", \"{{queue}}\", \"{{task_id}}\"]\n\n\
             [tinytask]\nbuiltin = true\nlisten = \"{address}\"\n\n[queues.leave]\nconcurrency = 2\n"
        );
        std::fs::write(base.join("calypso.toml"), settings).expect("a file");
        let bystander = bystander(&root, &base);
        let mut world = Self {
            folder,
            root,
            layout,
            address,
            bugs: bugs.to_owned(),
            daemon: None,
            bystander,
            fired: 0,
        };
        world.start_daemon();
        world
    }

    fn command(&self) -> Command {
        let mut command = Command::new(EXE);
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("CALYPSO_") {
                command.env_remove(name);
            }
        }
        command
            .env("CALYPSO_BASE_PATH", self.layout.base())
            .env(MARK, self.layout.base())
            .env(kill_point::VARIABLE, self.points())
            .env(kill_point::BUGS_VARIABLE, &self.bugs)
            .current_dir(self.layout.base())
            .stdin(Stdio::null());
        command
    }

    pub(super) fn start_daemon(&mut self) {
        assert!(self.daemon.is_none(), "there is a daemon already");
        let daemon = self.run_daemon();
        self.daemon = Some(daemon);
    }

    /// One that was started beside another that is over now.
    pub(super) fn adopt_daemon(&mut self, daemon: Child) {
        assert!(self.daemon.is_none(), "there is a daemon already");
        self.daemon = Some(daemon);
    }

    /// One more, whatever is there.
    pub(super) fn run_daemon(&self) -> Child {
        let open = |name: &str| {
            std::fs::OpenOptions::new()
                .create(true)
                .append(true)
                .open(self.root.join(name))
                .expect("a log")
        };
        self.command()
            .args(["run", "--log", "debug"])
            .stdout(open("daemon.out"))
            .stderr(open("daemon.log"))
            .process_group(0)
            .spawn()
            .expect("our own binary starts")
    }

    /// `Some` once it is over: whether it was killed.
    pub(super) fn daemon_over(&mut self) -> Option<bool> {
        use std::os::unix::process::ExitStatusExt as _;
        let status = self.daemon.as_mut()?.try_wait().expect("it is ours")?;
        self.daemon = None;
        Some(status.signal() == Some(Signal::SIGKILL as i32))
    }

    pub(super) fn has_daemon(&self) -> bool {
        self.daemon.is_some()
    }

    /// Has this daemon looked?
    pub(super) fn watches(&self) -> bool {
        let Some(daemon) = &self.daemon else {
            return false;
        };
        let text = std::fs::read_to_string(self.layout.daemon()).unwrap_or_default();
        serde_json::from_str::<Value>(&text)
            .is_ok_and(|record| record["process"]["pid"] == daemon.id())
    }

    // ── kill points ────────────────────────────────────────────────────────────────────────────────────────────────────

    fn points(&self) -> PathBuf {
        self.root.join("points")
    }

    /// At the `nth` time somebody comes to the point from now on, it does `deed` to itself: `kill` or `stop`.
    pub(super) fn arm(&self, point: &str, nth: u32, deed: &str) {
        std::fs::remove_file(self.points().join("counts").join(point)).ok();
        let half = self.points().join("half");
        std::fs::write(&half, format!("{nth} {deed}\n")).expect("a file");
        std::fs::rename(half, self.points().join("armed").join(point)).expect("a rename");
    }

    pub(super) fn disarm(&self) {
        for name in names(&self.points().join("armed")) {
            std::fs::remove_file(self.points().join("armed").join(name)).ok();
        }
    }

    /// What has fired since the last call: point, process, deed.
    pub(super) fn fired(&mut self) -> Vec<(String, i32, String)> {
        let text = std::fs::read_to_string(self.points().join("fired")).unwrap_or_default();
        let whole = text.rfind('\n').map_or(0, |at| at + 1);
        let news = text.get(self.fired..whole).unwrap_or_default();
        let fired = news.lines().filter_map(|line| {
            let mut words = line.split(' ');
            Some((
                words.next()?.to_owned(),
                words.next()?.parse().ok()?,
                words.next()?.to_owned(),
            ))
        });
        let fired = fired.collect();
        self.fired = whole;
        fired
    }

    /// How often each point was come to since the last call.
    pub(super) fn take_hits(&self) -> Vec<String> {
        let path = self.points().join("hits");
        let taken = self.points().join("hits.taken");
        // Who has the old file open still writes to it: a line or two may be lost, which only a count of hits suffers from.
        if std::fs::rename(&path, &taken).is_err() {
            return Vec::new();
        }
        let text = std::fs::read_to_string(taken).unwrap_or_default();
        let points = text.lines().filter_map(|line| line.split(' ').next());
        points.map(str::to_owned).collect()
    }

    // ── processes ──────────────────────────────────────────────────────────────────────────────────────────────────────

    /// Everything that lives of this world, but for the bystander.
    pub(super) fn processes(&self) -> Vec<(i32, Role)> {
        let mark = format!("{MARK}={}", self.layout.base());
        let mut found = Vec::new();
        for pid in names(Path::new("/proc"))
            .iter()
            .filter_map(|n| n.parse::<i32>().ok())
        {
            if pid == self.bystander.id().cast_signed() {
                continue;
            }
            let read =
                |name: &str| std::fs::read(format!("/proc/{pid}/{name}")).unwrap_or_default();
            let environ = read("environ");
            let mut variables = environ.split(|byte| *byte == 0);
            if !variables.clone().any(|v| v == mark.as_bytes()) {
                continue;
            }
            let words = read("cmdline");
            let words: Vec<_> = words.split(|byte| *byte == 0).collect();
            let is = |at: usize, text: &str| words.get(at).is_some_and(|w| *w == text.as_bytes());
            let role = if is(1, "__spare") {
                Role::Spare
            } else if is(1, "__shim") {
                // The child at its gate is a copy of its shim.
                if parent(pid).is_some_and(is_shim) {
                    Role::Agent
                } else {
                    Role::Shim
                }
            } else if words.iter().any(|word| *word == b"serve") {
                Role::Server
            } else if variables.any(|v| v.starts_with(b"CALYPSO_RUN=")) {
                if words.get(1).is_some_and(|w| w.ends_with(b"/agent.sh")) {
                    Role::Agent
                } else {
                    Role::Child
                }
            } else {
                Role::Daemon
            };
            if is_alive(pid) {
                found.push((pid, role));
            }
        }
        found
    }

    /// SIGKILL for all of these roles; how many there were.
    pub(super) fn kill_all(&self, roles: &[Role]) -> u32 {
        let mut count = 0;
        for (pid, role) in self.processes() {
            if roles.contains(&role) && kill(Pid::from_raw(pid), Signal::SIGKILL).is_ok() {
                count += 1;
            }
        }
        count
    }

    // ── the bystander ──────────────────────────────────────────────────────────────────────────────────────────────────

    pub(super) fn bystander(&self) -> i32 {
        self.bystander.id().cast_signed()
    }

    /// What was done to the one that nobody may touch.
    pub(super) fn wrongs(&mut self) -> Vec<String> {
        let mut wrongs: Vec<_> = std::fs::read_to_string(self.root.join("bystander"))
            .unwrap_or_default()
            .lines()
            .filter(|line| *line != "ready")
            .map(|line| format!("the bystander got a {line}"))
            .collect();
        if self.bystander.try_wait().expect("it is ours").is_some() {
            wrongs.push("the bystander was killed".into());
        } else if state(self.bystander()).is_some_and(|state| state == 'T') {
            wrongs.push("the bystander was stopped".into());
        }
        wrongs
    }

    // ── tinytask ───────────────────────────────────────────────────────────────────────────────────────────────────────

    /// `None`: it did not answer; it may have done what was asked.
    pub(super) fn ask(&self, tool: &str, args: &Value) -> Option<Value> {
        let body = json!({"jsonrpc": "2.0", "id": 1, "method": "tools/call",
                          "params": {"name": tool, "arguments": args}})
        .to_string();
        let mut stream = TcpStream::connect_timeout(&self.address, Duration::from_secs(2)).ok()?;
        stream.set_read_timeout(Some(Duration::from_secs(5))).ok()?;
        write!(
            stream,
            "POST /mcp HTTP/1.1\r\nhost: {}\r\naccept: application/json, text/event-stream\r\n\
             content-type: application/json\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{body}",
            self.address,
            body.len()
        )
        .ok()?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).ok()?;
        let message: Value = answer
            .lines()
            .map(|line| line.trim_start_matches("data:").trim())
            .find_map(|line| serde_json::from_str(line).ok().filter(Value::is_object))?;
        let result = &message["result"];
        if result["isError"] == true {
            return None;
        }
        serde_json::from_str(result["content"][0]["text"].as_str()?).ok()
    }

    pub(super) fn task(&self, id: i64) -> Option<Value> {
        self.ask("get_task", &json!({"id": id}))
    }

    pub(super) fn update(&self, id: i64, mut args: Value) -> bool {
        args["id"] = json!(id);
        self.ask("update_task", &args).is_some()
    }

    // ── files ──────────────────────────────────────────────────────────────────────────────────────────────────────────

    pub(super) fn root(&self) -> &Path {
        &self.root
    }

    pub(super) fn stamps(&self, subject: &str) -> Vec<String> {
        let text = std::fs::read_to_string(self.root.join("stamps").join(subject));
        text.unwrap_or_default()
            .lines()
            .map(str::to_owned)
            .collect()
    }

    pub(super) fn stamp(&self, subject: &str, line: &str) {
        let file = std::fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(self.root.join("stamps").join(subject));
        writeln!(file.expect("a file"), "{line}").expect("writable");
    }

    pub(super) fn names(&self, below_base: &str) -> Vec<String> {
        names(self.layout.base().join(below_base).as_std_path())
    }

    pub(super) fn path(&self, below_base: &str) -> PathBuf {
        self.layout.base().join(below_base).into_std_path_buf()
    }

    /// A person's wish, as the commands leave it.
    pub(super) fn wish(&self, name: &str) {
        std::fs::write(self.path(".calypso/control").join(name), "").expect("a control file");
    }

    /// Files that a writer replaces another with, and should be gone.
    pub(super) fn half_written(&self) -> Vec<String> {
        half_written(self.layout.base().as_std_path())
    }

    /// For a case that failed: the world stays for whoever looks, and its end of the story is told.
    pub(super) fn story(&self) -> String {
        let mut text = String::new();
        for name in ["daemon.log", "daemon.out", "points/fired"] {
            let all = std::fs::read_to_string(self.root.join(name)).unwrap_or_default();
            let lines: Vec<_> = all.lines().collect();
            let last = lines[lines.len().saturating_sub(40)..].join("\n");
            text += &format!("── {name}\n{last}\n");
        }
        let status = self
            .command()
            .env_remove(kill_point::VARIABLE)
            .arg("status")
            .output();
        if let Ok(status) = status {
            text += &format!("── status\n{}", String::from_utf8_lossy(&status.stdout));
        }
        text
    }
}

impl Drop for World {
    fn drop(&mut self) {
        // The daemon first, or it would start more.
        if let Some(mut daemon) = self.daemon.take() {
            daemon.kill().ok();
            daemon.wait().ok();
        }
        self.bystander.kill().ok();
        self.bystander.wait().ok();
        for _ in 0..400 {
            let left = self.processes();
            if left.is_empty() {
                break;
            }
            for (pid, _) in left {
                kill(Pid::from_raw(pid), Signal::SIGKILL).ok();
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        drop(std::fs::read_dir(self.folder.path()));
    }
}

fn bystander(root: &Path, base: &Path) -> Child {
    let path = root.join("bystander");
    let fifo = root.join("never");
    nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRWXU).expect("a fifo");
    std::fs::write(root.join("bystander.sh"), include_str!("bystander.sh")).expect("a script");
    let child = Command::new("bash")
        .arg(root.join("bystander.sh"))
        .args([&path, &fifo])
        .env("CALYPSO_RUN", "00000000000000000000000000000000")
        .env(MARK, base)
        .current_dir(base)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .process_group(0)
        .spawn()
        .expect("bash");
    while !std::fs::read_to_string(&path).is_ok_and(|text| text.contains("ready")) {
        std::thread::sleep(Duration::from_millis(2));
    }
    child
}

pub(super) fn names(folder: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let mut names: Vec<_> = entries
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .collect();
    names.sort();
    names
}

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

/// The fields of /proc/PID/stat after the name.
fn stat(pid: i32) -> Option<Vec<String>> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (_, rest) = text.rsplit_once(") ")?;
    Some(rest.split(' ').map(str::to_owned).collect())
}

fn state(pid: i32) -> Option<char> {
    stat(pid)?.first()?.chars().next()
}

fn parent(pid: i32) -> Option<i32> {
    stat(pid)?.get(1)?.parse().ok()
}

fn is_shim(pid: i32) -> bool {
    let words = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    words.split(|byte| *byte == 0).nth(1) == Some(b"__shim")
}

pub(super) fn is_alive(pid: i32) -> bool {
    state(pid).is_some_and(|state| state != 'Z' && state != 'X')
}

pub(super) fn is_stopped(pid: i32) -> bool {
    state(pid) == Some('T')
}

fn free_address() -> SocketAddr {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
    listener.local_addr().expect("it is bound")
}
