//! Every path under the base path is made here, and only here. Joins names; touches nothing.

use camino::{Utf8Path, Utf8PathBuf};

use crate::core::model::{QueueName, RunId, RunSubject, TaskId};

/// The tree under one base path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Layout {
    base: Utf8PathBuf,
}

/// A run directory's place in `live/` and below `runs/`: the run and its queue.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RunDir {
    pub id: RunId,
    pub queue: QueueName,
}

/// Beside a subject's run directories: what people said of it.
pub const MARKS: &str = "marks.json";
const VERDICT: &str = "verdict.json";

impl RunDir {
    /// `task_7-0003-architect`: its entry in live/.
    pub fn live_name(&self) -> String {
        format!("{}-{}", subject_dir(self.id.subject), self.dir_name())
    }
    /// `0003-architect`: its directory below the subject's.
    pub fn dir_name(&self) -> String {
        format!("{:04}-{}", self.id.number, self.queue)
    }
    /// As [`RunPaths::verdict`], from the subject's directory.
    pub fn verdict_below_subject(&self) -> Utf8PathBuf {
        Utf8PathBuf::from(self.dir_name()).join(VERDICT)
    }
    /// Reads [`Self::live_name`] back; `None` for anything else.
    pub fn parse_live(name: &str) -> Option<Self> {
        let (subject, rest) = name.split_once('-')?;
        Self::parse_dir(parse_subject_dir(subject)?, rest)
    }
    /// Reads [`Self::dir_name`] back.
    pub fn parse_dir(subject: RunSubject, name: &str) -> Option<Self> {
        let (number, queue) = name.split_once('-')?;
        if number.len() < 4 || !number.bytes().all(|b| b.is_ascii_digit()) {
            return None;
        }
        let dir = Self {
            id: RunId {
                subject,
                number: number.parse().ok()?,
            },
            queue: queue.parse().ok()?,
        };
        (dir.dir_name() == name).then_some(dir)
    }
}

/// `task_7` or `inbound`.
pub fn subject_dir(subject: RunSubject) -> String {
    match subject {
        RunSubject::Inbound => "inbound".into(),
        RunSubject::Task(id) => format!("task_{id}"),
    }
}

/// Reads [`subject_dir`] back; strict: `task_07`, `task_+7` and `task_0` are not ours.
pub fn parse_subject_dir(name: &str) -> Option<RunSubject> {
    if name == "inbound" {
        return Some(RunSubject::Inbound);
    }
    let digits = name.strip_prefix("task_")?;
    if digits.starts_with('#') {
        return None;
    }
    digits.parse().ok().map(RunSubject::Task)
}

impl Layout {
    /// The tree under `base`, which should be absolute.
    pub fn new(base: impl Into<Utf8PathBuf>) -> Self {
        Self { base: base.into() }
    }
    /// The base path itself.
    pub fn base(&self) -> &Utf8Path {
        &self.base
    }
    /// Where people and programs drop requests.
    pub fn inbound(&self) -> Utf8PathBuf {
        self.base.join("inbound")
    }
    /// Holds a folder for each task.
    pub fn workqueue(&self) -> Utf8PathBuf {
        self.base.join("workqueue")
    }
    /// All files of one task.
    pub fn task_folder(&self, id: TaskId) -> Utf8PathBuf {
        self.workqueue().join(format!("task_{id}"))
    }
    /// Holds the pid files.
    pub fn running_tasks(&self) -> Utf8PathBuf {
        self.base.join("running_tasks")
    }
    /// The pid file of a subject.
    pub fn pid_file(&self, subject: RunSubject) -> Utf8PathBuf {
        self.running_tasks()
            .join(format!("{}.pid", subject_dir(subject)))
    }
    /// Holds goose recipes.
    pub fn recipes(&self) -> Utf8PathBuf {
        self.base.join("recipes")
    }
    /// The settings.
    pub fn config(&self) -> Utf8PathBuf {
        self.base.join("calypso.toml")
    }
    /// Ours.
    pub fn state(&self) -> Utf8PathBuf {
        self.base.join(".calypso")
    }
    /// One daemon for one base path.
    pub fn lock(&self) -> Utf8PathBuf {
        self.state().join("lock")
    }
    /// What the daemon says of itself.
    pub fn daemon(&self) -> Utf8PathBuf {
        self.state().join("daemon.json")
    }
    /// The tasks that tinytask last showed open.
    pub fn known(&self) -> Utf8PathBuf {
        self.state().join("known.json")
    }
    /// What the daemon saw and did.
    pub fn log(&self) -> Utf8PathBuf {
        self.state().join("log.jsonl")
    }
    /// A line for each verdict.
    pub fn history(&self) -> Utf8PathBuf {
        self.state().join("history.jsonl")
    }
    /// Histories of open tasks, for whoever starts.
    pub fn index(&self) -> Utf8PathBuf {
        self.state().join("index")
    }
    /// Folder of the built-in tinytask; it is watched, so nothing else may stand in it.
    pub fn tinytask(&self) -> Utf8PathBuf {
        self.state().join("tinytask")
    }
    /// The built-in tinytask's database.
    pub fn tinytask_db(&self) -> Utf8PathBuf {
        self.tinytask().join("tinytask.db")
    }
    /// Held by the built-in tinytask while it lives.
    pub fn tinytask_lock(&self) -> Utf8PathBuf {
        self.tinytask().join("lock")
    }
    /// Its pid, address and version.
    pub fn tinytask_server(&self) -> Utf8PathBuf {
        self.tinytask().join("server.json")
    }
    /// Control files.
    pub fn control(&self) -> Utf8PathBuf {
        self.state().join("control")
    }
    /// The index of what may be alive.
    pub fn live(&self) -> Utf8PathBuf {
        self.state().join("live")
    }
    /// A run's entry there.
    pub fn live_entry(&self, run: &RunDir) -> Utf8PathBuf {
        self.live().join(run.live_name())
    }
    /// Holds what becomes run directories, by number.
    pub fn blanks(&self) -> Utf8PathBuf {
        self.state().join("blanks")
    }
    /// A run directory that is no run's yet.
    pub fn blank(&self, number: u32) -> RunPaths {
        RunPaths {
            dir: self.blanks().join(number.to_string()),
        }
    }
    /// What entries of live/ are links of.
    pub fn blank_entry(&self) -> Utf8PathBuf {
        self.blanks().join("entry")
    }
    /// Holds a folder for each subject.
    pub fn runs(&self) -> Utf8PathBuf {
        self.state().join("runs")
    }
    /// All runs of a subject.
    pub fn subject_runs(&self, subject: RunSubject) -> Utf8PathBuf {
        self.runs().join(subject_dir(subject))
    }
    /// What people said of a subject.
    pub fn marks(&self, subject: RunSubject) -> Utf8PathBuf {
        self.subject_runs(subject).join(MARKS)
    }
    /// One run.
    pub fn run(&self, run: &RunDir) -> RunPaths {
        RunPaths {
            dir: self.subject_runs(run.id.subject).join(run.dir_name()),
        }
    }
    /// A link to the verdict of a run that was named after another subject but touched `task`.
    pub fn touched_by(&self, task: TaskId, run: &RunDir) -> Utf8PathBuf {
        self.subject_runs(RunSubject::Task(task))
            .join(format!("by-{}.json", run.live_name()))
    }
}

/// The files of one run directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RunPaths {
    /// The directory itself.
    pub dir: Utf8PathBuf,
}

impl RunPaths {
    /// Held by the shim while it lives.
    pub fn shim_lock(&self) -> Utf8PathBuf {
        self.dir.join("shim.lock")
    }
    /// Held by the agent and those of its children that inherit it.
    pub fn agent_lock(&self) -> Utf8PathBuf {
        self.dir.join("agent.lock")
    }
    /// What to run.
    pub fn spec(&self) -> Utf8PathBuf {
        self.dir.join("spec.json")
    }
    /// The pid file's other name.
    pub fn pid(&self) -> Utf8PathBuf {
        self.dir.join("pid")
    }
    /// How far the shim has got.
    pub fn state(&self) -> Utf8PathBuf {
        self.dir.join("state.json")
    }
    /// The agent's standard output and error.
    pub fn output(&self) -> Utf8PathBuf {
        self.dir.join("output.log")
    }
    /// The daemon's word on an end the shim could not record.
    pub fn ended(&self) -> Utf8PathBuf {
        self.dir.join("ended.json")
    }
    /// What tinytask said afterwards.
    pub fn verdict(&self) -> Utf8PathBuf {
        self.dir.join(VERDICT)
    }
}
