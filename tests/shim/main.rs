//! Does one run keep its promises? The real binary as shim, started as the daemon starts it; agents are small scripts.

#![expect(
    clippy::disallowed_methods,
    reason = "a test writes its scripts and waits by the clock"
)]

use std::os::fd::OwnedFd;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::time::{Duration, Instant};

use calypso_watch::core::layout::{Layout, RunDir};
use calypso_watch::core::model::{
    Millis, Moment, Outcome, ProcessId, RunId, RunState, RunSubject, TaskKey,
};
use calypso_watch::core::record::{Baseline, FORMAT, Limits, Spec, SpecTimes, StateRecord};
use calypso_watch::edge::{clock, files, process, runs};
use camino::{Utf8Path, Utf8PathBuf};

mod blanks;
mod ending;
mod launch;
mod orphans;
mod records;
mod spare;

/// Each can be a shim.
const PROGRAMS: [&str; 2] = [
    env!("CARGO_BIN_EXE_calypso-watch-shim"),
    env!("CARGO_BIN_EXE_calypso-watch"),
];
/// Far more than anything takes; only a failure waits for it.
const LIMIT: Duration = Duration::from_secs(20);

/// A base path of its own, gone at the end together with whatever a failed test left alive in it.
struct World {
    /// Shims are started ahead of their runs, as by a daemon that has waited.
    has_spare: bool,
    layout: Layout,
    folder: tempfile::TempDir,
}

/// A run on its way.
struct Run<'w> {
    world: &'w World,
    dir: RunDir,
    spec: Spec,
}

#[track_caller]
fn eventually<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let end = Instant::now() + LIMIT;
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(Instant::now() < end, "not within {LIMIT:?}: {what}");
        std::thread::sleep(Duration::from_millis(3));
    }
}

impl World {
    fn new() -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let base = Utf8Path::from_path(folder.path())
            .expect("a UTF-8 name")
            .to_owned();
        let layout = Layout::new(base);
        for dir in [
            layout.running_tasks(),
            layout.live(),
            layout.runs(),
            layout.workqueue(),
        ] {
            std::fs::create_dir_all(dir).expect("a folder");
        }
        Self {
            has_spare: true,
            layout,
            folder,
        }
    }

    fn without_spare() -> Self {
        let mut world = Self::new();
        world.has_spare = false;
        world
    }

    fn path(&self, name: &str) -> Utf8PathBuf {
        self.layout.base().join(name)
    }

    /// An agent: `text` as an executable file.
    fn script(&self, name: &str, text: &str) -> String {
        let path = self.path(name);
        std::fs::write(&path, text).expect("a script");
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).expect("chmod");
        path.into_string()
    }

    /// Run `number` of task `task`, with `sh -c script` as its agent.
    fn sh(&self, task: i64, number: u32, script: &str) -> Run<'_> {
        self.run(task, number, &["/bin/sh", "-c", script])
    }

    fn run(&self, task: i64, number: u32, argv: &[&str]) -> Run<'_> {
        let id = task.try_into().expect("a task id");
        let moment = Moment::from(&clock::now());
        let dir = RunDir {
            id: RunId {
                subject: RunSubject::Task(id),
                number,
            },
            queue: "coder".parse().expect("a queue"),
        };
        let spec = Spec {
            format: FORMAT,
            token: token(),
            run: dir.id,
            task: Some(TaskKey {
                id,
                created_at: 1_700_000_000,
            }),
            title: Some("a test".into()),
            queue: dir.queue.clone(),
            attempt: 1,
            stay: 1,
            argv: argv.iter().map(|&arg| arg.to_owned()).collect(),
            cwd: self.layout.base().to_string(),
            env: vec![],
            provider: None,
            limits: Limits {
                time: Millis::secs(60),
                grace: Millis::secs(1),
                log: 1 << 20,
                sweep: true,
            },
            cause: "a test".into(),
            times: SpecTimes {
                event: None,
                look: moment.clone(),
                decided: moment.clone(),
                written: moment,
            },
            baseline: Baseline::default(),
        };
        Run {
            world: self,
            dir,
            spec,
        }
    }
}

/// 32 hex digits that no other run has.
fn token() -> String {
    let mut bytes = [0; 16];
    rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty()).expect("random");
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

impl Run<'_> {
    fn limits(mut self, change: impl FnOnce(&mut Limits)) -> Self {
        change(&mut self.spec.limits);
        self
    }
    fn layout(&self) -> &Layout {
        &self.world.layout
    }
    fn paths(&self) -> calypso_watch::core::layout::RunPaths {
        self.layout().run(&self.dir)
    }
    fn pid_file(&self) -> Utf8PathBuf {
        self.layout().pid_file(self.dir.id.subject)
    }
    /// D1 and D2.
    fn prepare(&self) -> OwnedFd {
        self.prepare_of(&mut runs::Blanks::default())
    }
    fn prepare_of(&self, blanks: &mut runs::Blanks) -> OwnedFd {
        let lock = runs::create(self.layout(), &self.dir, blanks).expect("a run directory");
        runs::write_spec(self.layout(), &self.dir, &self.spec).expect("a spec");
        lock
    }
    /// D3.
    fn start_with(&self, lock: OwnedFd, env: &[(&str, &str)]) {
        let mut program: process::ShimProgram = Utf8Path::new(PROGRAMS[0]).into();
        if self.world.has_spare {
            program.have_spare();
        }
        let mut shim = process::start_shim(
            &mut program,
            self.layout(),
            &self.dir,
            lock,
            env.iter()
                .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
                .collect(),
        )
        .expect("a shim");
        std::thread::spawn(move || shim.wait());
    }
    fn start(&self) {
        self.start_with(self.prepare(), &[]);
    }
    fn state(&self) -> Option<StateRecord> {
        runs::read_state(self.layout(), &self.dir).expect("a readable state")
    }
    fn is_held(&self) -> bool {
        files::is_held_at(&self.paths().shim_lock()).expect("a lock to look at")
    }
    fn output(&self) -> String {
        String::from_utf8_lossy(&std::fs::read(self.paths().output()).unwrap_or_default())
            .into_owned()
    }
    #[track_caller]
    fn agent(&self) -> ProcessId {
        eventually("the agent runs", || match self.state()?.state {
            RunState::Running { agent } => Some(agent),
            RunState::Starting => None,
            RunState::Ended { outcome, .. } => panic!("ended: {outcome}\n{}", self.output()),
        })
    }
    /// Waits until the output holds `text`.
    #[track_caller]
    fn says(&self, text: &str) {
        eventually(&format!("it says `{text}`"), || {
            self.output().contains(text).then_some(())
        });
    }
    /// Waits until the shim is gone and gives the last state.
    #[track_caller]
    fn over(&self) -> StateRecord {
        eventually("the shim is gone", || (!self.is_held()).then_some(()));
        self.state().expect("a state")
    }
    #[track_caller]
    fn outcome(&self) -> Outcome {
        match self.over().state {
            RunState::Ended { outcome, .. } => {
                assert!(!self.pid_file().exists(), "the pid file is gone");
                outcome
            }
            other => panic!("not ended: {other:?}"),
        }
    }
    /// Starts it and waits for its outcome.
    #[track_caller]
    fn end(&self) -> Outcome {
        self.start();
        self.outcome()
    }
    /// kill -9 of the shim, and waits until that has happened.
    #[track_caller]
    fn kill_shim(&self) -> ProcessId {
        let shim = self.state().expect("a state").shim;
        signal(&shim, process::Signal::KILL);
        eventually("the shim is dead", || {
            (!process::is_alive(&shim)).then_some(())
        });
        shim
    }
}

/// Whatever a failed assertion left behind, found by the tokens of this world's runs.
impl Drop for World {
    fn drop(&mut self) {
        let (live, _) = runs::list_live(&self.layout).unwrap_or_default();
        for dir in live {
            if let Ok(Some(state)) = runs::read_state(&self.layout, &dir)
                && state.boot_id == clock::boot_id()
                && process::is_alive(&state.shim)
            {
                signal(&state.shim, process::Signal::KILL);
            }
            let token = match runs::read_spec(&self.layout, &dir) {
                Ok(Some(spec)) => format!("CALYPSO_RUN={}", spec.token),
                _ => continue,
            };
            for entry in std::fs::read_dir("/proc").into_iter().flatten().flatten() {
                let environ = std::fs::read(entry.path().join("environ")).unwrap_or_default();
                let is_ours = environ.split(|&b| b == 0).any(|v| v == token.as_bytes());
                let pid = entry
                    .file_name()
                    .to_str()
                    .and_then(|name| name.parse().ok());
                if let (true, Some(process)) = (is_ours, pid.and_then(process::identity)) {
                    signal(&process, process::Signal::KILL);
                }
            }
        }
        let _ = &self.folder;
    }
}

fn signal(to: &ProcessId, signal: process::Signal) {
    if let Ok(Some(pidfd)) = process::Pidfd::open_checked(to) {
        pidfd.signal(signal).expect("a signal");
    }
}

/// The process whose number a script wrote into a file of the world.
#[track_caller]
fn process_in(path: &Utf8Path) -> ProcessId {
    eventually(&format!("a live pid in {path}"), || {
        let pid = std::fs::read_to_string(path).ok()?.trim().parse().ok()?;
        process::identity(pid)
    })
}

fn inode(path: &Utf8Path) -> u64 {
    std::fs::metadata(path).expect("a file").ino()
}
