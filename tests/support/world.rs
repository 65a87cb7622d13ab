//! A base path of its own, with a tinytask, a daemon that can be started and stopped, and commands to type: the real binary throughout.
//!
//! The queue `good` is everybody's control: its agent completes its task at once, so [`World::good_works`] shows that whatever else
//! is wrong in this world, the rest goes on. Everything that was started here ends with the world, also when a test fails.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use crate::tinytask::Tinytask;

/// The program.
pub(crate) const PROGRAM: &str = env!("CARGO_BIN_EXE_calypso-watch");

/// Only a broken program reaches it, also on a loaded machine.
const LIMIT: Duration = Duration::from_secs(30);

/// A user without rights, whom file modes bind; root they do not.
pub(crate) const NOBODY: [&str; 4] = [
    "setpriv",
    "--reuid=65534",
    "--regid=65534",
    "--clear-groups",
];

/// A base path and what belongs to it.
pub(crate) struct World {
    /// Removed with everything in it at the end.
    folder: tempfile::TempDir,
    /// The base path, as the program is told it.
    pub(crate) base: PathBuf,
    pub(crate) tinytask: Tinytask,
    /// Words before each command line of the program: another user, other namespaces.
    pub(crate) wrap: Vec<String>,
    /// Where the base path's files are seen from here, should it be mounted for the program only.
    pub(crate) seen_at: PathBuf,
    /// Variables of each command.
    pub(crate) env: Vec<(String, String)>,
    daemon: Option<Child>,
}

/// What a command printed, and how it ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Said {
    pub(crate) code: i32,
    pub(crate) out: String,
    pub(crate) err: String,
}

impl Said {
    /// It failed with this code, and said this in so many words.
    #[track_caller]
    pub(crate) fn fails(&self, code: i32, err: &str) {
        assert_eq!((self.code, self.err.as_str()), (code, err), "{self:?}");
    }
    /// It ended with this code and this stands in what it printed.
    #[track_caller]
    pub(crate) fn tells(&self, code: i32, text: &str) {
        assert_eq!(self.code, code, "{self:?}");
        assert!(
            unwrapped(&self.out).contains(text) || self.err.contains(text),
            "{text:?} is not in\n{}\n{}",
            self.out,
            self.err
        );
    }
}

/// A screen's lines are wrapped at 80 columns; here they are one.
pub(crate) fn unwrapped(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

impl World {
    /// With the queue `good` and nothing else.
    pub(crate) fn new() -> Self {
        Self::with("", "")
    }

    /// With more lines for calypso.toml: settings, and tables.
    pub(crate) fn with(settings: &str, tables: &str) -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        // For users without rights too.
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).expect("ours");
        let root = folder.path().canonicalize().expect("it was just made");
        fs::create_dir(root.join("tinytask")).expect("a new folder");
        let tinytask = Tinytask::serve(&root.join("tinytask"));
        let base = root.join("base");
        for name in ["", "inbound", "workqueue", "running_tasks", "recipes"] {
            fs::create_dir(base.join(name)).expect("a new folder");
        }
        let url = tinytask.url();
        let agent = format!("#!/bin/sh\nexec {PROGRAM} task done \"$1\" --tinytask-url {url}\n");
        fs::write(base.join("good.sh"), agent).expect("a new file");
        let world = Self {
            folder,
            seen_at: base.clone(),
            base,
            tinytask,
            wrap: Vec::new(),
            env: Vec::new(),
            daemon: None,
        };
        world.settings(settings, tables);
        world
    }

    /// Writes calypso.toml anew.
    pub(crate) fn settings(&self, settings: &str, tables: &str) {
        let server = format!("[tinytask]\nurl = \"{}\"\n", self.tinytask.url());
        let server = if tables.contains("[tinytask]") {
            ""
        } else {
            &server
        };
        let text = format!(
            "settle = \"50ms\"\nrescan = \"1s\"\nstop_grace = \"200ms\"\n{settings}\n{server}{tables}\n\
             [queues.good]\ncommand = [\"/bin/sh\", \"{{base_path}}/good.sh\", \"{{task_id}}\"]\n"
        );
        self.write("calypso.toml", text);
    }

    /// A place beside the base path, for whatever must not lie in it.
    pub(crate) fn beside(&self, name: &str) -> PathBuf {
        let parent = self.folder.path().canonicalize().expect("it is there");
        parent.join(name)
    }

    /// Writes a file below the base path.
    #[track_caller]
    pub(crate) fn write(&self, path: &str, bytes: impl AsRef<[u8]>) {
        fs::write(self.seen_at.join(path), bytes).expect("writable");
    }

    /// Reads one; empty where it is not there.
    pub(crate) fn read(&self, path: &str) -> String {
        let bytes = fs::read(self.seen_at.join(path)).unwrap_or_default();
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// A shell script that a queue's `command` may name, with its base path as working directory.
    pub(crate) fn script(&self, name: &str, text: &str) -> PathBuf {
        let path = self.base.join(name);
        fs::write(&path, format!("#!/bin/sh\n{text}\n")).expect("writable");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).expect("ours");
        path
    }

    // ── tasks ───────────────────────────────────────────────────────────────────────────────────────────────────────

    /// A new task in a queue, with its folder.
    #[track_caller]
    pub(crate) fn task(&self, queue: &str) -> i64 {
        let id = self.tinytask.create("a task", queue);
        fs::create_dir_all(self.seen_at.join(format!("workqueue/task_{id}"))).expect("writable");
        id
    }

    /// `idle`, `working` or `complete`.
    #[track_caller]
    pub(crate) fn status_of(&self, id: i64) -> String {
        let status = &self.tinytask.task(id)["status"];
        status.as_str().expect("a task has a status").to_owned()
    }

    /// Its runs until now.
    pub(crate) fn runs_of(&self, subject: &str) -> usize {
        let dir = self.seen_at.join(".calypso/runs").join(subject);
        let entries = fs::read_dir(dir).into_iter().flatten().flatten();
        entries.filter(|e| e.path().is_dir()).count()
    }

    /// The control: a new task in `good` is completed, whatever else is wrong.
    #[track_caller]
    pub(crate) fn good_works(&self) {
        let id = self.task("good");
        self.eventually("a task of the queue `good` completes", || {
            self.status_of(id) == "complete"
        });
    }

    /// tinytask dies without a word.
    pub(crate) fn kill_tinytask(&self) {
        for pid in processes_of(&self.beside("tinytask")) {
            let pid = nix::unistd::Pid::from_raw(pid);
            nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL).expect("ours");
        }
        self.eventually("tinytask is gone", || {
            processes_of(&self.beside("tinytask")).is_empty()
        });
    }

    /// It is back where it was.
    pub(crate) fn restart_tinytask(&mut self) {
        let url = self.tinytask.url();
        let address = url.trim_start_matches("http://").trim_end_matches("/mcp");
        self.tinytask = Tinytask::serve_at(&self.beside("tinytask"), address);
    }

    // ── the program ─────────────────────────────────────────────────────────────────────────────────────────────────

    fn program(&self) -> Command {
        let mut words: Vec<&str> = self.wrap.iter().map(String::as_str).collect();
        words.push(PROGRAM);
        let mut command = Command::new(words[0]);
        command
            .args(&words[1..])
            .env_clear()
            .env("PATH", "/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin")
            .env("HOME", self.folder.path())
            .envs(self.env.iter().map(|(name, value)| (name, value)))
            .current_dir(self.folder.path())
            .stdin(Stdio::null());
        command
    }

    /// Types a command for this base path and waits for its end.
    #[track_caller]
    pub(crate) fn cli(&self, args: &[&str]) -> Said {
        self.cli_with(args, &[])
    }

    /// [`World::cli`], with more variables.
    #[track_caller]
    pub(crate) fn cli_with(&self, args: &[&str], env: &[(&str, &str)]) -> Said {
        let mut command = self.program();
        command
            .arg("--base-path")
            .arg(&self.base)
            .args(args)
            .envs(env.iter().copied());
        said(&command.output().expect("the program starts"))
    }

    /// `status`, unwrapped.
    #[track_caller]
    pub(crate) fn status(&self) -> String {
        unwrapped(&self.cli(&["status"]).out)
    }

    /// What `why` says of a task.
    #[track_caller]
    pub(crate) fn why(&self, id: i64) -> String {
        unwrapped(&self.cli(&["why", &id.to_string()]).out)
    }

    /// Starts the daemon and waits until it has looked.
    #[track_caller]
    pub(crate) fn start(&mut self) {
        self.spawn();
        let begun = Instant::now();
        while !self.log().contains("watching") || self.daemon_record().is_null() {
            let ended = self.daemon.as_mut().and_then(|d| d.try_wait().ok()?);
            assert!(ended.is_none(), "it ended: {ended:?}\n{}", self.log());
            assert!(begun.elapsed() < LIMIT, "it never watched:\n{}", self.log());
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    fn spawn(&mut self) {
        assert!(self.daemon.is_none(), "one daemon at a time");
        let log = fs::File::create(self.log_path()).expect("a new file");
        let mut command = self.program();
        command
            .arg("--base-path")
            .arg(&self.base)
            .args(["run", "--log", "debug"])
            .stdout(log.try_clone().expect("one more descriptor"))
            .stderr(log);
        self.daemon = Some(command.spawn().expect("the program starts"));
    }

    /// The daemon's pid; of what wraps it, where something that does not exec does.
    pub(crate) fn daemon_pid(&self) -> u32 {
        self.daemon.as_ref().expect("it was started").id()
    }

    /// Is it still there?
    pub(crate) fn is_running(&mut self) -> bool {
        let daemon = self.daemon.as_mut().expect("it was started");
        daemon.try_wait().expect("ours").is_none()
    }

    /// Asks the daemon to end, and waits until it did.
    #[track_caller]
    pub(crate) fn stop(&mut self) {
        let mut daemon = self.daemon.take().expect("it was started");
        let pid = nix::unistd::Pid::from_raw(daemon.id().cast_signed());
        nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM).expect("ours");
        let status = daemon.wait().expect("ours");
        assert!(status.success(), "{status}\n{}", self.log());
    }

    fn log_path(&self) -> PathBuf {
        self.folder.path().join("daemon.log")
    }

    /// What the daemon printed.
    pub(crate) fn log(&self) -> String {
        fs::read_to_string(self.log_path()).unwrap_or_default()
    }

    fn daemon_record(&self) -> serde_json::Value {
        serde_json::from_str(&self.read(".calypso/daemon.json")).unwrap_or_default()
    }

    /// Waits for a level.
    #[track_caller]
    pub(crate) fn eventually(&self, what: &str, mut is_so: impl FnMut() -> bool) {
        let begun = Instant::now();
        while !is_so() {
            if begun.elapsed() > LIMIT {
                let status = self.cli(&["status"]);
                panic!(
                    "never came: {what}\n{}{}\n{}",
                    status.out,
                    status.err,
                    self.log()
                );
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// Waits until `status` says so.
    #[track_caller]
    pub(crate) fn shows(&self, text: &str) {
        self.eventually(&format!("`{text}` in status"), || {
            self.status().contains(text)
        });
    }
}

/// A command's result.
pub(crate) fn said(output: &Output) -> Said {
    Said {
        code: output.status.code().unwrap_or(-1),
        out: String::from_utf8_lossy(&output.stdout).into_owned(),
        err: String::from_utf8_lossy(&output.stderr).into_owned(),
    }
}

impl Drop for World {
    fn drop(&mut self) {
        if let Some(mut daemon) = self.daemon.take() {
            daemon.kill().ok();
            daemon.wait().ok();
        }
        // Shims, agents and what agents started: all of them work in the base path, or name it.
        let begun = Instant::now();
        loop {
            let left = processes_of(&self.base);
            if left.is_empty() || begun.elapsed() > Duration::from_secs(5) {
                break;
            }
            for pid in left {
                let pid = nix::unistd::Pid::from_raw(pid);
                nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL).ok();
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

/// Live processes whose working directory is in this folder, or whose command line names it.
fn processes_of(folder: &Path) -> Vec<i32> {
    let name = folder.to_string_lossy().into_owned();
    let is_there = |pid: i32| {
        let dir = PathBuf::from(format!("/proc/{pid}"));
        let stat = fs::read_to_string(dir.join("stat")).unwrap_or_default();
        let is_dead = stat
            .rsplit_once(") ")
            .is_none_or(|(_, rest)| rest.starts_with('Z'));
        let works = fs::read_link(dir.join("cwd")).is_ok_and(|cwd| cwd.starts_with(folder));
        let words = fs::read(dir.join("cmdline")).unwrap_or_default();
        !is_dead && (works || String::from_utf8_lossy(&words).contains(&name))
    };
    let own = std::process::id().cast_signed();
    let all = fs::read_dir("/proc").into_iter().flatten().flatten();
    all.filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .filter(|pid| *pid != own && is_there(*pid))
        .collect()
}
