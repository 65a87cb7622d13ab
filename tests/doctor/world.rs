//! A base path as `init` makes it, a goose that is a shell script, the built-in tinytask; all of it ends with the test.

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

pub(crate) const PROGRAM: &str = env!("CARGO_BIN_EXE_calypso-watch");
/// Only a broken program reaches it, also on a loaded machine.
const LIMIT: Duration = Duration::from_secs(30);

/// It says what lies beside it, so that a test changes what it says without writing a program.
const GOOSE: &str = r#"#!/bin/sh
D=${0%/*}/../goose
case "$*" in
--version) v=$(cat "$D/version"); [ "$v" = hangs ] && exec sleep 600; echo " $v" ;;
'run --help') cat "$D/help" ;;
'recipe validate '*) if grep -q REFUSED "$3"; then echo "Error: ✗ recipe file is invalid: Unnecessary parameter definitions: lane." >&2; exit 1; fi ;;
*) while [ -e "$D/works" ]; do sleep 0.02; done ;;
esac
"#;
const HELP: &str = "--recipe X --params K=V --no-session --provider P --model M --quiet --output-format stream-json --max-turns N\n";

/// See the module.
pub(crate) struct World {
    folder: tempfile::TempDir,
    pub(crate) base: PathBuf,
    /// Of the built-in tinytask.
    pub(crate) address: String,
    /// Words before `doctor`: another user, other namespaces.
    pub(crate) wrap: Vec<String>,
    pub(crate) env: Vec<(String, String)>,
    server: Option<Child>,
    daemon: Option<Child>,
}

/// What `doctor --json` said.
#[derive(Debug)]
pub(crate) struct Report {
    pub(crate) code: Option<i32>,
    pub(crate) json: Value,
}

impl Report {
    /// Findings of these levels.
    pub(crate) fn at(&self, levels: &[&str]) -> Vec<&Value> {
        let findings = self.json["findings"].as_array().expect("a list");
        let is_wanted =
            |finding: &&Value| levels.contains(&finding["level"].as_str().unwrap_or(""));
        findings.iter().filter(is_wanted).collect()
    }
    /// Warnings and failures.
    pub(crate) fn counted(&self) -> Vec<&Value> {
        self.at(&["warn", "fail"])
    }
    #[track_caller]
    pub(crate) fn is_well(&self) {
        assert_eq!(self.counted(), Vec::<&Value>::new());
        assert_eq!(self.at(&["unknown"]), Vec::<&Value>::new());
        assert_eq!(self.code, Some(0));
    }
    /// Exactly this one; gives it.
    #[track_caller]
    pub(crate) fn finds(&self, area: &str, level: &str, what: &str) -> &Value {
        let counted = self.counted();
        let [finding] = counted[..] else {
            panic!("one finding was wanted ({what}): {counted:#?}");
        };
        assert_eq!(
            (&finding["area"], &finding["level"]),
            (&area.into(), &level.into()),
            "{finding:#}"
        );
        let said = finding["what"].as_str().unwrap_or_default();
        assert!(said.contains(what), "{what:?} is not in {finding:#}");
        assert!(
            !finding["why"].as_str().unwrap_or_default().is_empty(),
            "{finding:#}"
        );
        assert_eq!(self.code, Some(1));
        finding
    }
}

impl World {
    /// A base path and a goose; nothing runs.
    pub(crate) fn new() -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).expect("ours");
        let root = folder.path().canonicalize().expect("it was just made");
        for name in ["bin", "goose", "home"] {
            fs::create_dir(root.join(name)).expect("a new folder");
        }
        let mut world = Self {
            base: root.join("base"),
            folder,
            address: String::new(),
            wrap: Vec::new(),
            env: vec![("OPENAI_API_KEY".into(), "not-a-key".into())],
            server: None,
            daemon: None,
        };
        world.program("goose", GOOSE);
        // Where tests run in somebody's service or session, that is not what is examined.
        world.program("systemctl", "#!/bin/sh\ncat \"${0%/*}/unit\"\n");
        world.program("loginctl", "#!/bin/sh\necho KillUserProcesses=no\n");
        world.unit("KillMode=process\nDelegate=yes\nOOMPolicy=continue\n");
        world.goose("version", "1.52.0\n");
        world.goose("help", HELP);
        let base = world.base.display().to_string();
        let made = world.type_in(&[
            "init",
            &base,
            "--builtin",
            "--provider",
            "openai",
            "--model",
            "gpt-5.2",
        ]);
        assert!(made.status.success(), "{made:?}");
        let toml = world.read("calypso.toml");
        let listen = toml
            .lines()
            .find_map(|line| line.strip_prefix("listen = \""));
        let listen = listen
            .and_then(|rest| rest.split('"').next())
            .expect("init fixes the port");
        world.address = listen.to_owned();
        world
    }

    /// With the built-in tinytask serving it.
    pub(crate) fn served() -> Self {
        let mut world = Self::new();
        world.serve();
        world
    }

    pub(crate) fn serve(&mut self) {
        let mut command = self.command(PROGRAM);
        command.arg("--base-path").arg(&self.base);
        let mut server = command
            .args(["tinytask", "serve", "--listen", &self.address])
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("our own binary starts");
        let mut line = String::new();
        BufReader::new(server.stdout.as_mut().expect("piped"))
            .read_line(&mut line)
            .expect("it says where it listens");
        assert!(line.starts_with("listening on"), "{line:?}");
        self.server = Some(server);
    }

    /// The daemon, once it watches.
    pub(crate) fn watch(&mut self) {
        self.watch_as(Path::new(PROGRAM));
    }

    pub(crate) fn watch_as(&mut self, program: &Path) {
        let mut command = self.command(&program.display().to_string());
        let log = fs::File::create(self.beside("daemon.log")).expect("a new file");
        let daemon = command
            .arg("--base-path")
            .arg(&self.base)
            .args(["run", "--log", "debug"])
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .expect("our own binary starts");
        let pid = daemon.id();
        self.daemon = Some(daemon);
        self.eventually("the daemon watches", || {
            let record: Value =
                serde_json::from_str(&self.read(".calypso/daemon.json")).unwrap_or_default();
            record["process"]["pid"] == pid
        });
    }

    pub(crate) fn daemon_pid(&self) -> u32 {
        self.daemon.as_ref().expect("it was started").id()
    }

    /// kill -9 of the daemon.
    pub(crate) fn kill_daemon(&mut self) {
        if let Some(mut daemon) = self.daemon.take() {
            daemon.kill().expect("ours");
            daemon.wait().expect("ours");
        }
    }

    /// SIGTERM, and its end: unlike [`Self::kill_daemon`], which may come between two records or in the middle of one, it leaves
    /// nothing half written.
    pub(crate) fn end_daemon(&mut self) {
        let mut daemon = self.daemon.take().expect("it was started");
        let pid = nix::unistd::Pid::from_raw(daemon.id().cast_signed());
        nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM).expect("ours");
        self.eventually("the daemon ends", || {
            daemon.try_wait().expect("ours").is_some()
        });
    }

    // ── files ───────────────────────────────────────────────────────────────────────────────────────────────────────

    pub(crate) fn beside(&self, name: &str) -> PathBuf {
        self.folder
            .path()
            .canonicalize()
            .expect("it is there")
            .join(name)
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.base.join(name)
    }

    pub(crate) fn read(&self, name: &str) -> String {
        fs::read_to_string(self.path(name)).unwrap_or_default()
    }

    /// Writes a file below the base path, and the folders on the way.
    pub(crate) fn write(&self, name: &str, text: &str) {
        let path = self.path(name);
        fs::create_dir_all(path.parent().expect("below the base path")).expect("writable");
        fs::write(path, text).expect("writable");
    }

    pub(crate) fn edit(&self, name: &str, from: &str, to: &str) {
        let text = self.read(name);
        assert!(text.contains(from), "{from:?} is not in {name}");
        self.write(name, &text.replace(from, to));
    }

    pub(crate) fn append(&self, name: &str, text: &str) {
        self.write(name, &(self.read(name) + text));
    }

    pub(crate) fn mode(&self, name: &str, mode: u32) {
        fs::set_permissions(self.path(name), fs::Permissions::from_mode(mode)).expect("ours");
    }

    /// What the script says.
    pub(crate) fn goose(&self, name: &str, text: &str) {
        fs::write(self.beside("goose").join(name), text).expect("writable");
    }

    /// What the world's systemctl says of any unit.
    pub(crate) fn unit(&self, text: &str) {
        fs::write(self.beside("bin/unit"), text).expect("writable");
    }

    /// A program on the world's PATH. Another process writes it: one forked from ours by another test meanwhile would hold it open
    /// for writing, and execve(2) refuses that.
    pub(crate) fn program(&self, name: &str, text: &str) {
        let source = self.beside(&format!("{name}.sh"));
        fs::write(&source, text).expect("writable");
        let copied = Command::new("install")
            .arg("-m755")
            .arg(&source)
            .arg(self.beside("bin").join(name))
            .status();
        assert!(copied.expect("coreutils are there").success());
    }

    // ── commands ────────────────────────────────────────────────────────────────────────────────────────────────────

    pub(crate) fn search_path(&self) -> String {
        let own = Path::new(PROGRAM)
            .parent()
            .expect("in a folder")
            .display()
            .to_string();
        format!(
            "{}:{own}:/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin",
            self.beside("bin").display()
        )
    }

    pub(crate) fn command(&self, program: &str) -> Command {
        let mut words = self.wrap.clone();
        words.push(program.to_owned());
        let mut command = Command::new(&words[0]);
        command
            .args(&words[1..])
            .env_clear()
            .env("PATH", self.search_path())
            .env("HOME", self.beside("home"))
            .envs(self.env.iter().map(|(name, value)| (name, value)))
            .current_dir(self.beside("home"))
            .stdin(Stdio::null());
        command
    }

    /// Our program, with these words and no base path but what they say.
    pub(crate) fn type_in(&self, words: &[&str]) -> Output {
        self.command(PROGRAM)
            .args(words)
            .output()
            .expect("our own binary starts")
    }

    /// With the base path.
    pub(crate) fn cw(&self, words: &[&str]) -> Output {
        let base = self.base.display().to_string();
        self.type_in(&[&["--base-path", &base], words].concat())
    }

    #[track_caller]
    pub(crate) fn doctor(&self) -> Report {
        report(&self.cw(&["doctor", "--json"]))
    }

    /// Types the command that mends a finding.
    #[track_caller]
    pub(crate) fn mend(&self, finding: &Value) {
        let mend = finding["mend"].as_str().expect("a command");
        let done = self
            .command("sh")
            .args(["-c", mend])
            .output()
            .expect("a shell");
        assert!(done.status.success(), "{mend}: {done:?}");
    }

    #[track_caller]
    pub(crate) fn eventually(&self, what: &str, mut is_so: impl FnMut() -> bool) {
        let begun = Instant::now();
        while !is_so() {
            let log = || fs::read_to_string(self.beside("daemon.log")).unwrap_or_default();
            assert!(begun.elapsed() < LIMIT, "never came: {what}\n{}", log());
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

#[track_caller]
pub(crate) fn report(said: &Output) -> Report {
    let json = serde_json::from_slice(&said.stdout);
    Report {
        code: said.status.code(),
        json: json.unwrap_or_else(|error| panic!("{error}: {said:?}")),
    }
}

impl Drop for World {
    fn drop(&mut self) {
        for child in [self.daemon.take(), self.server.take()]
            .into_iter()
            .flatten()
        {
            let mut child = child;
            child.kill().ok();
            child.wait().ok();
        }
        // What they started: shims, agents, a tinytask. All of it works in the folder, or names it.
        let begun = Instant::now();
        loop {
            let left = processes_of(self.folder.path());
            if left.is_empty() || begun.elapsed() > Duration::from_secs(5) {
                break;
            }
            for pid in left {
                nix::sys::signal::kill(
                    nix::unistd::Pid::from_raw(pid),
                    nix::sys::signal::Signal::SIGKILL,
                )
                .ok();
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
