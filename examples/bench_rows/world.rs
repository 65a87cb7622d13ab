//! A base path with a daemon, the built-in tinytask and tiny agents; all of it ends with the value, and with its folder.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs::File;
use std::net::TcpListener;
use std::os::unix::fs::MetadataExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::http::{Client, field};
use crate::{Failure, Setup, sys};

/// In the environment of all that is started here, and of all that is started by it: the folder it belongs to.
pub(crate) const MARK: &str = "CALYPSO_BENCH";
/// Far more than anything takes on a loaded machine; only a failure waits for it.
const LIMIT: Duration = Duration::from_secs(120);

/// What the agent of a queue does; see `agent.rs`.
#[derive(Debug, Clone)]
pub(crate) struct Queue {
    pub(crate) name: String,
    pub(crate) role: &'static str,
    pub(crate) more: String,
    pub(crate) concurrency: u32,
}

impl Queue {
    pub(crate) fn new(
        name: impl Into<String>,
        role: &'static str,
        more: impl Into<String>,
    ) -> Self {
        Self {
            name: name.into(),
            role,
            more: more.into(),
            concurrency: 1,
        }
    }
}

/// An agent's first or last instruction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Stamp {
    pub(crate) word: String,
    /// CLOCK_REALTIME, nanoseconds.
    pub(crate) at: u64,
    pub(crate) pid: u32,
    pub(crate) queue: String,
    /// `-` for the dispatcher's run over inbound/.
    pub(crate) task: String,
}

/// See the module.
pub(crate) struct World {
    pub(crate) base: PathBuf,
    pub(crate) port: u16,
    binary: PathBuf,
    daemon: Option<Child>,
    stamps: Stamps,
    /// A folder that others use too outlives this value.
    keep: bool,
}

/// The lines of a file that only grows.
pub(crate) struct Stamps {
    path: PathBuf,
    read: usize,
    pub(crate) all: Vec<Stamp>,
}

impl Stamps {
    pub(crate) fn new(path: PathBuf) -> Self {
        Self {
            path,
            read: 0,
            all: Vec::new(),
        }
    }
    fn read(&mut self) -> Result<(), Failure> {
        use std::io::{Read as _, Seek as _, SeekFrom};
        // Asked first, so that a look at a file that has not grown costs one system call.
        match std::fs::metadata(&self.path) {
            Ok(file) if file.len() > self.read as u64 => {}
            _ => return Ok(()),
        }
        let mut file = File::open(&self.path)?;
        file.seek(SeekFrom::Start(self.read as u64))?;
        let mut text = String::new();
        file.read_to_string(&mut text)?;
        let whole = text.rfind('\n').map_or(0, |at| at + 1);
        for line in text[..whole].lines() {
            let parts: Vec<&str> = line.split(' ').collect();
            let [word, at, pid, queue, task] = parts[..] else {
                return Err(format!("a stamp that cannot be read: {line}").into());
            };
            self.all.push(Stamp {
                word: word.to_owned(),
                at: at.parse()?,
                pid: pid.parse()?,
                queue: queue.to_owned(),
                task: task.to_owned(),
            });
        }
        self.read += whole;
        Ok(())
    }
    /// How many there are now.
    pub(crate) fn len(&mut self) -> Result<usize, Failure> {
        self.read()?;
        Ok(self.all.len())
    }
    /// The first stamp from number `from` on that is wanted.
    pub(crate) fn find(
        &mut self,
        from: usize,
        wanted: impl Fn(&Stamp) -> bool,
    ) -> Result<Option<Stamp>, Failure> {
        self.read()?;
        Ok(self
            .all
            .iter()
            .skip(from)
            .find(|stamp| wanted(stamp))
            .cloned())
    }
    /// The same; waits for it.
    pub(crate) fn wait(
        &mut self,
        from: usize,
        what: &str,
        wanted: impl Fn(&Stamp) -> bool,
    ) -> Result<Stamp, Failure> {
        let end = Instant::now() + LIMIT;
        loop {
            if let Some(found) = self.find(from, &wanted)? {
                return Ok(found);
            }
            if Instant::now() > end {
                return Err(format!("no agent within {LIMIT:?}: {what}").into());
            }
            // Short enough to cost little time, long enough to leave both cores to what is measured.
            std::thread::sleep(Duration::from_millis(3));
        }
    }
}

impl World {
    /// Folders, settings and recipes in `base`; nothing is started yet.
    pub(crate) fn new(
        setup: &Setup,
        base: PathBuf,
        top: &str,
        queues: &[Queue],
    ) -> Result<Self, Failure> {
        for name in ["inbound", "workqueue", "running_tasks", "recipes"] {
            std::fs::create_dir_all(base.join(name))?;
        }
        // A port that is free now.
        let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
        let world = Self {
            stamps: Stamps::new(base.join("stamps")),
            binary: setup.binary.clone(),
            base,
            port,
            daemon: None,
            keep: false,
        };
        world.configure(setup, top, queues)?;
        Ok(world)
    }

    fn configure(&self, setup: &Setup, top: &str, queues: &[Queue]) -> Result<(), Failure> {
        let mut text = format!(
            "{top}\n[tinytask]\nbuiltin = true\nlisten = \"127.0.0.1:{}\"\n",
            self.port
        );
        for queue in queues {
            let more = match queue.role {
                "take" => self.base.join("inbound").display().to_string(),
                _ => queue.more.clone(),
            };
            write!(
                text,
                "\n[queues.{name}]\nconcurrency = {}\ncommand = [\"{}\", \"{}\", \"{}\", \"{name}\", \"{{task_id}}\", \"{}\", \"{}\"]\n",
                queue.concurrency,
                setup.agent.display(),
                queue.role,
                self.base.join("stamps").display(),
                self.port,
                more,
                name = queue.name,
            )?;
            let recipe = format!(
                "version: 1.0.0\ntitle: {}\ndescription: a benchmark's\nprompt: work\nparameters:\n  - key: task_id\n    \
                 input_type: string\n    requirement: optional\n    description: the task\n    default: \"\"\n",
                queue.name
            );
            std::fs::write(
                self.base.join(format!("recipes/{}.yaml", queue.name)),
                recipe,
            )?;
        }
        std::fs::write(self.base.join("calypso.toml"), text)?;
        Ok(())
    }

    // ── the daemon ─────────────────────────────────────────────────────────────────────────────────────────────────────

    /// This program with other words, without settings of the person's own.
    pub(crate) fn command(&self) -> Command {
        let mut command = Command::new(&self.binary);
        for (name, _) in std::env::vars_os() {
            if name.as_encoded_bytes().starts_with(b"CALYPSO_") {
                command.env_remove(name);
            }
        }
        command
            .env(MARK, &self.base)
            .arg("--base-path")
            .arg(&self.base);
        command
    }

    /// Starts the daemon and waits until it has looked once.
    pub(crate) fn start(&mut self) -> Result<(), Failure> {
        self.launch()?;
        let pid = self.daemon_pid();
        self.wait("the daemon to watch", |world| {
            if let Some(daemon) = &mut world.daemon
                && let Some(status) = daemon.try_wait()?
            {
                let log =
                    std::fs::read_to_string(world.base.join("daemon.log")).unwrap_or_default();
                return Err(format!("the daemon ended, {status}: {log}").into());
            }
            Ok(world.has_looked(pid))
        })
    }

    /// Starts the daemon and waits for nothing.
    pub(crate) fn launch(&mut self) -> Result<(), Failure> {
        let log = File::options()
            .create(true)
            .append(true)
            .open(self.base.join("daemon.log"))?;
        let daemon = self
            .command()
            .arg("run")
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .process_group(0)
            .spawn()?;
        self.daemon = Some(daemon);
        Ok(())
    }

    /// This daemon has written down what it saw.
    pub(crate) fn has_looked(&self, daemon: u32) -> bool {
        let record =
            std::fs::read_to_string(self.base.join(".calypso/daemon.json")).unwrap_or_default();
        field(&record, "pid").is_some_and(|pid| pid == daemon.to_string())
    }

    pub(crate) fn daemon_pid(&self) -> u32 {
        self.daemon.as_ref().map_or(0, Child::id)
    }

    pub(crate) fn tinytask_pid(&self) -> Result<u32, Failure> {
        let record = std::fs::read_to_string(self.base.join(".calypso/tinytask/server.json"))?;
        Ok(field(&record, "pid").ok_or("no server")?.parse()?)
    }

    /// kill -9.
    pub(crate) fn kill_daemon(&mut self) -> Result<(), Failure> {
        if let Some(mut daemon) = self.daemon.take() {
            daemon.kill()?;
            daemon.wait()?;
        }
        Ok(())
    }

    pub(crate) fn client(&self) -> Result<Client, Failure> {
        Client::connect(self.port)
    }

    // ── waiting ────────────────────────────────────────────────────────────────────────────────────────────────────────

    /// Waits for a level.
    pub(crate) fn wait(
        &mut self,
        what: &str,
        mut is_so: impl FnMut(&mut Self) -> Result<bool, Failure>,
    ) -> Result<(), Failure> {
        let end = Instant::now() + LIMIT;
        while !is_so(self)? {
            if Instant::now() > end {
                return Err(format!("not within {LIMIT:?}: {what}").into());
            }
            std::thread::sleep(Duration::from_millis(3));
        }
        Ok(())
    }

    /// Runs that have no verdict yet.
    pub(crate) fn live(&self) -> usize {
        std::fs::read_dir(self.base.join(".calypso/live")).map_or(0, Iterator::count)
    }

    /// Waits until at most `live` runs are left and the daemon has not run for `span`.
    pub(crate) fn wait_quiet(&mut self, live: usize, span: Duration) -> Result<(), Failure> {
        self.wait("every verdict", |world| Ok(world.live() <= live))?;
        let pid = self.daemon_pid();
        let (mut last, mut since) = (Process::of(pid)?, Instant::now());
        self.wait("a quiet daemon", |_| {
            let now = Process::of(pid)?;
            if !now.is_still(&last) {
                (last, since) = (now, Instant::now());
            }
            Ok(since.elapsed() >= span)
        })
    }

    /// How many stamps there are now.
    pub(crate) fn stamped(&mut self) -> Result<usize, Failure> {
        self.stamps.len()
    }

    /// The start of an agent, among the stamps from number `from` on.
    pub(crate) fn started(
        &mut self,
        from: usize,
        queue: &str,
        task: Option<u64>,
    ) -> Result<Stamp, Failure> {
        let task = task.map_or_else(|| "-".to_owned(), |id| id.to_string());
        let what = format!("{queue}, task {task}");
        self.stamps.wait(from, &what, |stamp| {
            stamp.word == "start" && stamp.queue == queue && stamp.task == task
        })
    }

    pub(crate) fn stamps_from(&self, from: usize) -> &[Stamp] {
        self.stamps.all.get(from..).unwrap_or_default()
    }

    // ── files ──────────────────────────────────────────────────────────────────────────────────────────────────────────

    /// The folder of a task, as whoever created it makes it.
    pub(crate) fn make_folder(&self, task: u64) -> Result<(), Failure> {
        Ok(std::fs::create_dir_all(
            self.base.join(format!("workqueue/task_{task}")),
        )?)
    }

    /// When the pid file of a run lost its public name: the change time of the inode, whose other name the run keeps. Exact since
    /// Linux 6.13; before, earlier than the truth by up to one tick of the kernel's clock.
    pub(crate) fn unlinked(&self, task: u64, run: &str) -> Result<u64, Failure> {
        let path = self
            .base
            .join(format!(".calypso/runs/task_{task}/{run}/pid"));
        let file = std::fs::metadata(path)?;
        Ok(file.ctime() as u64 * 1_000_000_000 + file.ctime_nsec() as u64)
    }

    /// The folder stays when this value goes.
    pub(crate) fn keep(&mut self) {
        self.keep = true;
    }
}

impl Drop for World {
    fn drop(&mut self) {
        self.kill_daemon().ok();
        end_all(&self.base);
        if !self.keep {
            std::fs::remove_dir_all(&self.base).ok();
        }
    }
}

/// Ends every process that carries the mark of this folder or of one below it.
pub(crate) fn end_all(folder: &Path) {
    let mark = [MARK.as_bytes(), b"=", folder.as_os_str().as_encoded_bytes()].concat();
    // What was about to start another is met by the next pass.
    for _ in 0..50 {
        let mut found = false;
        for entry in std::fs::read_dir("/proc").into_iter().flatten().flatten() {
            let Ok(pid) = entry.file_name().to_string_lossy().parse::<u32>() else {
                continue;
            };
            let environment = std::fs::read(entry.path().join("environ")).unwrap_or_default();
            if pid != std::process::id()
                && environment
                    .split(|byte| *byte == 0)
                    .any(|line| line.starts_with(&mark))
            {
                found |= sys::kill(pid, sys::KILL).is_ok();
            }
        }
        if !found {
            return;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// What the kernel keeps account of, of one process; see proc(5).
#[derive(Debug, Clone, Default)]
pub(crate) struct Process {
    /// Of each thread: voluntary_ctxt_switches, and nanoseconds on a CPU by schedstat.
    threads: BTreeMap<String, (u64, u64)>,
    pub(crate) rss_kb: u64,
    /// Of these, what is no file's: RssAnon.
    pub(crate) anon_kb: u64,
    pub(crate) peak_kb: u64,
    /// Private_Clean + Private_Dirty of smaps_rollup.
    pub(crate) private_kb: u64,
    /// utime + stime of proc_pid_stat(5), milliseconds in steps of ten; of threads that ended, too.
    pub(crate) cpu_ms: u64,
    /// Page faults of children that were collected, and children there are: both stand still where nothing was forked.
    pub(crate) children: (u64, usize),
}

impl Process {
    pub(crate) fn of(pid: u32) -> Result<Self, Failure> {
        let mut process = Self::default();
        for task in std::fs::read_dir(format!("/proc/{pid}/task"))? {
            let task = task?;
            let read = |name: &str| std::fs::read_to_string(task.path().join(name));
            // A thread may end at any time.
            let (Ok(status), Ok(stat)) = (read("status"), read("schedstat")) else {
                continue;
            };
            let cpu = stat.split(' ').next().and_then(|ns| ns.parse().ok());
            let name = task.file_name().to_string_lossy().into_owned();
            let switches = number(&status, "voluntary_ctxt_switches:");
            process.threads.insert(name, (switches, cpu.unwrap_or(0)));
            let children = read("children").unwrap_or_default();
            process.children.1 += children.split_whitespace().count();
        }
        Ok(process)
    }
    /// Wakeups and nanoseconds of CPU since an earlier look. A thread that ended in between is left out.
    pub(crate) fn since(&self, before: &Self) -> (u64, u64) {
        self.threads
            .iter()
            .map(|(thread, now)| {
                let then = before.threads.get(thread).copied().unwrap_or_default();
                (now.0 - then.0, now.1 - then.1)
            })
            .fold((0, 0), |sum, thread| (sum.0 + thread.0, sum.1 + thread.1))
    }
    /// Threads that were there then and are not now.
    pub(crate) fn ended_since(&self, before: &Self) -> usize {
        let ended = |thread: &&String| !self.threads.contains_key(*thread);
        before.threads.keys().filter(ended).count()
    }
    /// It has not run in between, as far as can be seen.
    pub(crate) fn is_still(&self, before: &Self) -> bool {
        self.threads == before.threads
    }
    /// Also what costs the kernel more to tell.
    pub(crate) fn whole(pid: u32) -> Result<Self, Failure> {
        let mut sum = Self::of(pid)?;
        let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
        sum.rss_kb = number(&status, "VmRSS:");
        sum.anon_kb = number(&status, "RssAnon:");
        sum.peak_kb = number(&status, "VmHWM:");
        let maps = std::fs::read_to_string(format!("/proc/{pid}/smaps_rollup"))?;
        sum.private_kb = number(&maps, "Private_Clean:") + number(&maps, "Private_Dirty:");
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
        let rest = stat.rsplit(") ").next().unwrap_or_default();
        // cminflt, cmajflt, utime and stime, fields 11, 13, 14 and 15, where this begins with field 3.
        let field = |n: usize| {
            rest.split(' ')
                .nth(n)
                .and_then(|n| n.parse::<u64>().ok())
                .unwrap_or(0)
        };
        sum.children.0 = field(8) + field(10);
        // USER_HZ is 100 wherever Linux runs on a machine that the agent knows.
        sum.cpu_ms = (field(11) + field(12)) * 10;
        Ok(sum)
    }
}

fn number(text: &str, name: &str) -> u64 {
    let found = text.lines().find_map(|line| line.strip_prefix(name));
    found
        .and_then(|rest| rest.split_whitespace().next()?.parse().ok())
        .unwrap_or(0)
}

/// Live processes of a base path by what they are: the shims and the agents, from the records of what is live.
pub(crate) fn shims(base: &Path) -> BTreeMap<String, u32> {
    let mut shims = BTreeMap::new();
    for entry in std::fs::read_dir(base.join(".calypso/live"))
        .into_iter()
        .flatten()
        .flatten()
    {
        let name = entry.file_name().to_string_lossy().into_owned();
        let Some((subject, run)) = name.split_once('-') else {
            continue;
        };
        let state = base.join(format!(".calypso/runs/{subject}/{run}/state.json"));
        let record = std::fs::read_to_string(state).unwrap_or_default();
        if let Some((_, shim)) = record.split_once("\"shim\"")
            && let Some(pid) = field(shim, "pid").and_then(|pid| pid.parse().ok())
        {
            shims.insert(name, pid);
        }
    }
    shims
}
