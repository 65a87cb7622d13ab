//! A base path that a running `calypso-watch` watches, with the starter team on the real goose.

use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};

use calypso_watch::core::layout::{Layout, RunDir};
use calypso_watch::core::model::{QueueName, RunId};
use calypso_watch::core::record::{FailureClass, Spec, StateRecord, VerdictRecord};
use calypso_watch::edge::runs;
use camino::Utf8PathBuf;
use serde_json::Value;

use crate::model::Model;
use crate::team::{RECIPES, Ran, Team, eventually, eventually_some};
use crate::tinytask::Tinytask;

/// Everything a test of the whole needs; what it started ends with it.
pub(crate) struct Watched {
    pub(crate) team: Team,
    pub(crate) tinytask: Tinytask,
    pub(crate) model: Model,
    pub(crate) layout: Layout,
    daemon: Option<Child>,
    _folder: tempfile::TempDir,
}

impl Watched {
    /// A base path that nobody watches yet. `keys` are top-level settings, `tables` come after them.
    pub(crate) fn new(goose: PathBuf, keys: &str, tables: &str) -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let tinytask = Tinytask::serve(folder.path());
        let model = Model::start();
        let team = Team::new(goose, &model, &tinytask.url());
        let base = Utf8PathBuf::from_path_buf(team.base.clone()).expect("a UTF-8 name");
        // A rescan that never comes: whatever happens, happens because of an event.
        let settings = format!(
            "settle = \"50ms\"\nrescan = \"1h\"\nprovider = \"openai\"\nmodel = \"{}\"\n{keys}\n\
             [tinytask]\nurl = \"{}\"\ndb = \"{}\"\n{tables}\n",
            team.model,
            tinytask.url(),
            folder.path().join("tinytask.db").display(),
        );
        std::fs::write(base.join("calypso.toml"), settings).expect("a new file");
        Self {
            layout: Layout::new(base),
            team,
            tinytask,
            model,
            daemon: None,
            _folder: folder,
        }
    }

    /// A base path that is watched.
    pub(crate) fn start(goose: PathBuf, keys: &str, tables: &str) -> Self {
        let mut world = Self::new(goose, keys, tables);
        world.watch();
        world
    }

    /// Starts the daemon and waits until it looks.
    pub(crate) fn watch(&mut self) {
        let log = std::fs::File::create(self.log()).expect("a new file");
        let daemon = self
            .team
            .calypso(&["run"])
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .expect("our own binary starts");
        self.daemon = Some(daemon);
        eventually("the daemon's first look", || self.layout.daemon().exists());
    }

    fn log(&self) -> PathBuf {
        self._folder.path().join("daemon.log")
    }

    /// What the daemon said, for the text of a failure.
    pub(crate) fn said(&self) -> String {
        std::fs::read_to_string(self.log()).unwrap_or_default()
    }

    /// Types a command and waits for its end.
    pub(crate) fn types(&self, args: &[&str]) -> Ran {
        let output = self.team.calypso(args).output();
        Ran::from(output.expect("our own binary starts"))
    }

    /// `status --json`
    pub(crate) fn status(&self) -> Value {
        let ran = self.types(&["status", "--json"]);
        serde_json::from_str(&ran.out).unwrap_or_else(|_| panic!("{ran:#?}"))
    }

    /// A recipe as the architect's, for an agent of another name, whose duty is to write a file and complete the task.
    pub(crate) fn recipe(&self, queue: &str) {
        let (_, architect) = RECIPES[1];
        let recipe = architect
            .replace("architect", queue)
            .replace(crate::team::USUAL_ADDRESS, &self.tinytask.url());
        self.write_recipe(queue, &recipe);
    }

    /// Puts it there in one step.
    pub(crate) fn write_recipe(&self, queue: &str, recipe: &str) {
        let hidden = self.team.base.join("recipes").join(format!(".{queue}"));
        std::fs::write(&hidden, recipe).expect("a new file");
        let path = self.team.base.join(format!("recipes/{queue}.yaml"));
        std::fs::rename(hidden, path).expect("on the same disk");
    }

    /// A task with its folder. The folder comes first, in a queue of nobody's, so that the task is whole when it lands.
    pub(crate) fn task(&self, title: &str, queue: &str) -> i64 {
        let id = self.tinytask.create(title, "nobody");
        let folder = self.team.base.join(format!("workqueue/task_{id}"));
        std::fs::create_dir(&folder).expect("a new folder");
        std::fs::write(folder.join("request.md"), title).expect("a new file");
        self.tinytask.call(
            "update_task",
            &serde_json::json!({"id": id, "assigned_to": queue}),
        );
        id
    }

    /// Where a task is, and how far: `architect idle`.
    pub(crate) fn at(&self, id: i64) -> String {
        let task = self.tinytask.task(id);
        let word = |key: &str| task[key].as_str().unwrap_or("nobody").to_owned();
        format!("{} {}", word("assigned_to"), word("status"))
    }

    /// Everything ever written about a task, one comment a line.
    pub(crate) fn comments(&self, id: i64) -> String {
        let task = self.tinytask.task(id);
        let comments = task["comments"].as_array().cloned().unwrap_or_default();
        let lines = comments
            .iter()
            .map(|c| format!("{}: {}\n", c["created_by"], c["content"]));
        lines.collect()
    }

    /// All verdicts, oldest first.
    pub(crate) fn verdicts(&self) -> Vec<VerdictRecord> {
        runs::recent(&self.layout, 1000).expect("readable")
    }

    /// The `n`th verdict (from 1) on a run of this queue, once it is there.
    #[track_caller]
    pub(crate) fn verdict(&self, queue: &str, n: usize) -> VerdictRecord {
        eventually_some(&format!("verdict {n} of {queue}"), || {
            let of_queue = |v: &VerdictRecord| v.queue.as_str() == queue;
            self.verdicts().into_iter().filter(of_queue).nth(n - 1)
        })
    }

    /// What daemon and shim wrote of a run.
    pub(crate) fn records(&self, queue: &QueueName, id: RunId) -> (Spec, StateRecord) {
        let dir = RunDir {
            id,
            queue: queue.clone(),
        };
        let spec = runs::read_spec(&self.layout, &dir).expect("readable");
        let state = runs::read_state(&self.layout, &dir).expect("readable");
        (spec.expect("it is there"), state.expect("it is there"))
    }

    /// What a run printed.
    pub(crate) fn output(&self, verdict: &VerdictRecord) -> String {
        let dir = RunDir {
            id: verdict.run,
            queue: verdict.queue.clone(),
        };
        let path = self.layout.run(&dir).dir.join("output.log");
        std::fs::read_to_string(path).unwrap_or_default()
    }

    /// The agents that live: processes of goose below this base path that were launched as runs. Asked of the kernel.
    pub(crate) fn agents(&self) -> Vec<i32> {
        let goose = self.team.goose.canonicalize().expect("it is there");
        let processes = std::fs::read_dir("/proc").expect("Linux").flatten();
        processes
            .filter_map(|process| {
                let pid = process.file_name().to_str()?.parse().ok()?;
                let of = |name: &str| process.path().join(name);
                let is_ours = std::fs::read_link(of("exe")).ok()? == goose
                    && std::fs::read_link(of("cwd")).ok()? == self.team.base
                    && std::fs::read(of("environ"))
                        .ok()?
                        .windows(12)
                        .any(|text| text == b"CALYPSO_RUN=");
                is_ours.then_some(pid)
            })
            .collect()
    }

    /// The pid in this pid file, if there is one.
    pub(crate) fn pid_file(&self, name: &str) -> Option<i32> {
        let path = self.team.base.join(format!("running_tasks/{name}.pid"));
        std::fs::read_to_string(path).ok()?.trim().parse().ok()
    }

    /// Waits until nothing runs and every verdict is finished.
    #[track_caller]
    pub(crate) fn rests(&self) {
        eventually("everything is over", || {
            self.team.names(".calypso/live").is_empty()
        });
        assert!(self.agents().is_empty(), "{}", self.said());
        let none: [String; 0] = [];
        assert_eq!(self.team.names("running_tasks"), none);
    }
}

/// Class and reason of a failed run.
pub(crate) fn failure(verdict: &VerdictRecord) -> Option<(FailureClass, &str)> {
    let failure = verdict.failure.as_ref()?;
    Some((failure.class, failure.reason.as_str()))
}

impl Drop for Watched {
    fn drop(&mut self) {
        if let Some(mut daemon) = self.daemon.take() {
            daemon.kill().ok();
            daemon.wait().ok();
        }
        // The shims end with their agents. Again, as one may just have been starting.
        for _ in 0..3 {
            for pid in self.agents() {
                let pid = nix::unistd::Pid::from_raw(pid);
                nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL).ok();
            }
            if std::fs::read_dir(Path::new(self.layout.live().as_str()))
                .is_ok_and(|mut live| live.next().is_none())
            {
                break;
            }
            std::thread::sleep(std::time::Duration::from_millis(50));
        }
        if std::thread::panicking() {
            let mut said = String::new();
            if let Ok(mut log) = std::fs::File::open(self.log()) {
                log.read_to_string(&mut said).ok();
            }
            std::io::Write::write_all(&mut std::io::stderr(), said.as_bytes()).ok();
        }
    }
}
