//! The records of a run, as they stand on disk: `spec.json`, `state.json`, `verdict.json`, and a subject's `marks.json`.
//!
//! Each has one writer (see `docs/architecture.md`) and a `format`; a reader refuses a newer one. Shapes only: `edge::runs` reads and
//! writes them. Unknown keys are ignored, so that an older reader survives additions within a format. No key of a verdict or of marks
//! is left out when it is written: the index has them without their names.

use serde::{Deserialize, Serialize};

use crate::core::model::{
    FileKey, Millis, Moment, Outcome, ProcessId, ProviderName, QueueName, RunId, RunState, TaskId,
    TaskKey, TaskStatus, Text, Timestamp,
};

/// The newest format this program reads and the one it writes.
pub const FORMAT: u32 = 1;

/// `spec.json`: written once by the daemon before the shim starts.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Spec {
    pub format: u32,
    /// 128 random bits as 32 hex digits; the agent carries it as `CALYPSO_RUN`.
    pub token: String,
    pub run: RunId,
    /// The task it is named after; none for an inbound run.
    pub task: Option<TaskKey>,
    pub title: Option<String>,
    pub queue: QueueName,
    /// Ordinal within the stay, from 1.
    pub attempt: u32,
    /// Ordinal of the task's stay in a queue, from 1.
    pub stay: u32,
    pub argv: Vec<String>,
    pub cwd: String,
    /// Names of environment variables added from settings; their values never stand in a record.
    pub env: Vec<String>,
    pub provider: Option<ProviderName>,
    pub limits: Limits,
    /// Why it was started, in a few words.
    pub cause: String,
    pub times: SpecTimes,
    pub baseline: Baseline,
}

/// What of a `spec.json` its shim goes by; the rest, hundreds of tasks perhaps, is passed over.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct SpecHead {
    pub token: String,
    pub argv: Vec<String>,
    pub cwd: String,
    pub limits: Limits,
    pub times: SpecTimes,
}

/// What the shim enforces.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Limits {
    pub time: Millis,
    pub grace: Millis,
    /// Bytes of output.log.
    pub log: u64,
    /// End the processes the agent left behind; else leave them alone.
    pub sweep: bool,
}

/// When the launch came about.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SpecTimes {
    /// The event that led to it, where one did.
    pub event: Option<Moment>,
    pub look: Moment,
    pub decided: Moment,
    pub written: Moment,
}

/// What the world looked like at launch, for the verdict to compare with.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Baseline {
    /// The queue's open tasks.
    pub tasks: Vec<BaselineTask>,
    /// Highest task id tinytask had given out; 0 when there was none, and where it was not asked: for a run of a task.
    pub highest_task: i64,
    /// Digest of the task's folder: names, sizes, mtimes.
    pub folder: u64,
    /// What lay in inbound/, settled and to be handled.
    pub inbound: Vec<FileKey>,
}

/// See [`Baseline`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BaselineTask {
    pub key: TaskKey,
    pub status: TaskStatus,
    pub fields: u64,
    /// Highest comment id not ours, known for the named task only.
    pub last_comment: Option<i64>,
}

/// `state.json`: replaced atomically by the shim at each step.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StateRecord {
    pub format: u32,
    /// The spec's token.
    pub token: String,
    pub state: RunState,
    pub shim: ProcessId,
    pub boot_id: Text,
    /// When the shim took over.
    pub started: Moment,
    /// Just before the agent's gate opened.
    pub running: Option<Moment>,
    pub ended: Option<Moment>,
    /// CPU time and peak memory of the agent and the children it waited for, from wait4(2).
    pub usage: Option<Usage>,
}

/// See [`StateRecord`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Usage {
    pub cpu: Millis,
    pub max_rss_kb: u64,
}

/// `ended.json`: the daemon's word on how a run ended whose shim could not say: it timed the orphan out, or a person stopped it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EndedRecord {
    pub format: u32,
    pub outcome: Outcome,
    pub at: Moment,
}

/// `verdict.json`: written once by the daemon after the run was over and tinytask had been asked.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct VerdictRecord {
    pub format: u32,
    pub run: RunId,
    pub title: Option<String>,
    pub queue: QueueName,
    pub attempt: u32,
    pub stay: u32,
    pub provider: Option<ProviderName>,
    pub outcome: Outcome,
    /// One entry for each task the run touched; for one that touched none, its named task.
    pub tasks: Vec<TaskVerdict>,
    /// One entry for each file of an inbound run's baseline.
    pub files: Vec<FileVerdict>,
    /// Set when the run failed.
    pub failure: Option<Failure>,
    pub tokens: Option<u64>,
    /// US dollars, as goose reckons.
    pub cost: Option<f64>,
    /// When the agent's gate opened; none when it never did.
    pub started: Option<Moment>,
    pub ended: Option<Moment>,
    pub judged: Moment,
    /// tinytask was away during the run, or the verdict came long after its end: never an attempt.
    pub late: bool,
}

/// What became of one task.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TaskVerdict {
    pub key: TaskKey,
    /// The attempt and stay of this task that it counts for.
    pub attempt: u32,
    pub stay: u32,
    pub verdict: Verdict,
    /// As tinytask showed them when the verdict was made.
    pub fields: u64,
    pub last_comment: i64,
    /// Differs at a later look, where somebody moved the task away and back in between.
    pub previous_assigned_to: Option<Text>,
    /// tinytask's `updated_at` when the verdict was made (a comment does not change it): a later one says that somebody has been at
    /// the task since. None in older records.
    #[serde(default)]
    pub updated_at: Option<Timestamp>,
    /// What tinytask is to be told.
    pub write: Option<Write>,
}

/// The verdict on one task.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// It is another's now; none: nobody's.
    HandedOff { to: Option<Text> },
    /// Complete or archived.
    Done,
    /// Deleted.
    Gone,
    /// Idle in the same queue, but fields, comments or folder changed.
    Progress,
    /// Idle in the same queue and nothing changed.
    NoProgress,
    /// Still `working`, and nobody works on it any more.
    LeftWorking,
}

/// A write to tinytask that follows from a verdict. Made after the verdict is durable; repeated until it took, never doubled.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Write {
    /// working → idle, and a comment that says why.
    PutBack { comment: String },
    /// A comment that says why the task is started no more and what lifts that; also put back, where it was left working.
    Park { comment: String, put_back: bool },
}

/// What became of one file of inbound/.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileVerdict {
    pub file: FileKey,
    /// Still there, unchanged or not.
    pub left: bool,
    /// Left, but not as it was at the launch: as what it lay there at the verdict.
    #[serde(default)]
    pub changed: Option<FileKey>,
    /// Left, and these tasks were created during the run: perhaps dispatched but not moved. The first few of them.
    pub created: Vec<TaskId>,
}

impl FileVerdict {
    /// The file as the verdict found it.
    pub fn as_judged(&self) -> &FileKey {
        self.changed.as_ref().unwrap_or(&self.file)
    }
}

/// Whose fault a failed run was, which decides what follows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FailureClass {
    /// An attempt.
    Task,
    /// No attempt; all queues of the provider wait.
    Provider,
    /// No attempt; the queue waits for its recipe, or the machine, to be mended.
    Environment,
    /// No attempt; a few an hour.
    Ours,
}

/// A failed run's class and the reason in a few plain words ("made no progress", "quota exceeded").
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    pub class: FailureClass,
    pub reason: String,
}

/// `known.json`: what tinytask last showed open, so that a daemon that starts, and `status`, tell another server from the known one.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Known {
    pub format: u32,
    /// The newest of them.
    pub open: Vec<TaskKey>,
    /// `release tinytask`: a person said that the server is the right one; runs that began before that say nothing of it.
    pub trusted: Option<Moment>,
}

/// `marks.json` beside a subject's run directories: what people said of it, written by the daemon from control files.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Marks {
    pub format: u32,
    /// `retry`: runs up to this number count no more.
    pub retried_after: u32,
    pub retried_at: Option<Moment>,
    /// `release`: these processes hold the task no more.
    pub released: Vec<ProcessId>,
}
