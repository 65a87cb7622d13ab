//! The contract between looking and acting: a [`Snapshot`] goes in, a [`Decision`] comes out.
//!
//! Bottom of the house: no I/O, clock, environment, randomness, async or tracing. Time and ids are arguments.
//!
//! ```text
//!   dropped in inbound/                                  a task's life, as decided here
//!        │ settled
//!        ▼
//!   inbound run ──creates──▶ idle in a queue ──runnable, slot free──▶ Launch ─▶ running
//!                               ▲   │ not runnable                              │ pid file gone, nothing left alive
//!                               │   └─▶ Hold (says why)                         ▼
//!                               │                                            verdict
//!                               ├── no progress, left working: back off ◀───────┤
//!                               │        (put back)         └─▶ Park            │
//!                               └── handed off: next queue ◀────────────────────┴─▶ done, gone
//! ```

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use serde::{Deserialize, Serialize};

pub mod attention;
pub mod decide;
pub mod history;
pub mod layout;
pub mod model;
pub mod policy;
pub mod record;
pub mod text;
mod time;
pub mod trust;
pub mod verdict;

#[cfg(test)]
pub(crate) mod given;

use history::Past;
use layout::RunDir;
use model::{
    Detail, FileKey, Leftover, Millis, Moment, Outcome, ProcessId, ProviderName, QueueName, Recipe,
    RunId, RunSubject, Task, TaskId, Text, Timestamp,
};
use record::{Marks, Spec, StateRecord, VerdictRecord};

/// Everything one look saw. Records and processes were looked at first, tinytask second.
#[derive(Debug, Clone, Default)]
pub struct Snapshot {
    pub tinytask: Tinytask,
    /// When tinytask was last seen away, as far as the looker remembers.
    pub last_unreachable: Option<Moment>,
    /// Which queues `tasks` is complete for.
    pub coverage: Coverage,
    /// Open tasks (idle or working, not archived).
    pub tasks: BTreeMap<TaskId, Task>,
    /// Answers of `get_task`, asked after the runs were looked at.
    pub details: BTreeMap<TaskId, Detail>,
    /// Highest task id known to have been given out; 0 when unknown.
    pub highest_task: i64,
    /// A recipe file each; broken ones say why.
    pub recipes: BTreeMap<QueueName, Result<Recipe, String>>,
    /// Queues whose program cannot be found, with the reason.
    pub no_program: BTreeMap<QueueName, String>,
    /// Runs with an entry in live/.
    pub runs: Vec<Run>,
    /// Pid files that belong to none of `runs`.
    pub strangers: BTreeMap<RunSubject, Stranger>,
    /// Entries of running_tasks/ that are no pid file's name, for `status` to show.
    pub odd_pid_names: Vec<String>,
    /// What could not be read, or means nothing, for `status` to show.
    pub troubles: Vec<String>,
    /// Whose records, or folder, this program cannot read: nothing is known of their past, so nothing is started for them.
    pub unreadable: BTreeMap<RunSubject, String>,
    /// Folders in workqueue/ of idle tasks that nothing blocks, with the time each last changed.
    pub folders: BTreeMap<TaskId, Timestamp>,
    pub inbound: Vec<InboundEntry>,
    pub controls: Controls,
    /// Past runs of subjects that have any, for every subject in `tasks` and for inbound/.
    /// Shared with whoever took the look, as the next one mostly finds the same.
    pub histories: BTreeMap<RunSubject, Past>,
    /// The last verdicts, oldest first: for provider and environment holds, fairness and `status`.
    pub recent: Vec<Arc<VerdictRecord>>,
}

impl Snapshot {
    /// Notes that nothing can be told of this subject's past, and why.
    pub fn cannot_read(&mut self, subject: RunSubject, error: String) {
        if !self.troubles.contains(&error) {
            self.troubles.push(error.clone());
        }
        self.unreadable.insert(subject, error);
    }

    /// The task by the newest answer about it.
    pub fn task_now(&self, id: TaskId) -> Option<&Task> {
        match self.details.get(&id) {
            Some(Detail::Found(found)) => Some(&found.task),
            Some(Detail::NotFound) => None,
            None => self.tasks.get(&id),
        }
    }

    /// How many open parts each whole has, as far as `tasks` shows them.
    pub fn open_parts(&self) -> BTreeMap<TaskId, u32> {
        let mut parts = BTreeMap::new();
        for whole in self.tasks.values().filter_map(|task| task.parent) {
            *parts.entry(whole).or_default() += 1;
        }
        parts
    }
}

/// tinytask's health in this look.
#[derive(Debug, Clone, PartialEq, Default)]
pub enum Tinytask {
    /// Not asked: nothing needed it.
    #[default]
    NotAsked,
    /// Answers of this look.
    Fresh {
        /// The slowest call of this look.
        took: Millis,
    },
    Unreachable {
        since: Moment,
        error: String,
        /// The way out.
        hint: Option<String>,
    },
    /// Most known open tasks vanished at once: perhaps another server. Nothing is written or judged.
    Suspicious { vanished: usize, of: usize },
}

/// Which queues the look asked tinytask about.
#[derive(Debug, Clone, PartialEq, Default)]
pub enum Coverage {
    #[default]
    Nothing,
    Queues(BTreeSet<QueueName>),
    Everything,
}

impl Coverage {
    /// Was this queue asked about?
    pub fn has(&self, queue: &QueueName) -> bool {
        match self {
            Self::Nothing => false,
            Self::Queues(asked) => asked.contains(queue),
            Self::Everything => true,
        }
    }
}

/// A run that may be alive, or whose verdict is not finished.
#[derive(Debug, Clone)]
pub struct Run {
    pub dir: RunDir,
    /// None: not written yet, torn, or of another format.
    pub spec: Option<Arc<Spec>>,
    pub state: Option<StateRecord>,
    pub observed: Observed,
    /// The daemon's word, where the shim could not give it.
    pub ended_by_daemon: Option<Outcome>,
    /// Written, but its writes, its line of history and its live entry are not finished.
    pub verdict: Option<VerdictRecord>,
    /// Gathered once the run is over.
    pub evidence: Option<Evidence>,
    /// This daemon is stopping or sweeping it at the moment.
    pub in_hand: bool,
    /// This daemon swept it; what is left cannot be ended.
    pub swept: bool,
    pub vitals: Vitals,
}

/// The four things that tell what a run is up to. [`verdict::meaning`] says what each combination means.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Observed {
    pub spec: bool,
    /// Its pid file, by inode.
    pub pid_file: bool,
    /// shim.lock is held.
    pub shim: bool,
    pub state: ObservedState,
    /// Is anything of it alive? Only asked for runs whose shim is dead; `None` where this user cannot see.
    pub alive: Option<Alive>,
}

/// state.json without its data.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ObservedState {
    /// Absent, empty, torn, or with another token.
    None,
    Starting,
    Running,
    Ended,
}

/// What of a run is alive.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Alive {
    /// The agent itself.
    pub agent: Option<ProcessId>,
    /// Others that are certainly its.
    pub leftovers: Vec<Leftover>,
    /// Perhaps its: reported, never signalled.
    pub doubtful: Vec<Leftover>,
}

impl Alive {
    /// Nothing certain, nothing doubtful.
    pub fn is_nothing(&self) -> bool {
        self.agent.is_none() && self.leftovers.is_empty() && self.doubtful.is_empty()
    }
}

/// What the run's output and folders say, read after its end.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Evidence {
    pub tokens: Option<u64>,
    pub cost: Option<f64>,
    /// A known failure text of goose, as class and reason.
    pub sign: Option<record::Failure>,
    /// The agent's last words hold a question.
    pub asked: bool,
    /// Digest of the task's folder now.
    pub folder: u64,
    /// Inbound runs: what of the baseline is still there unchanged.
    pub left: BTreeSet<FileKey>,
    /// Inbound runs: what of the baseline is still there by its name, but changed, and as what it is there now.
    pub changed: BTreeMap<FileKey, FileKey>,
    /// Inbound runs that left files: tasks created since the launch.
    pub created: Vec<TaskId>,
}

/// For `status`: what the agent is up to.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Vitals {
    pub agent_pid: Option<i32>,
    /// Percent of one core since the start.
    pub cpu_percent: Option<f64>,
    pub rss_kb: Option<u64>,
    /// output.log or the task's folder last changed.
    pub last_sign: Option<Timestamp>,
}

/// A pid file that is not a link of a run's own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stranger {
    pub what: StrangerKind,
    /// When the file was last written.
    pub modified: Timestamp,
    /// Identity of the file, so that only this one is cleared.
    pub inode: u64,
}

/// See [`Stranger`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StrangerKind {
    /// A live process: somebody's own run. `younger`: it began after the file was written, so the number may have been reused.
    Alive {
        process: ProcessId,
        comm: String,
        younger: bool,
    },
    /// A number whose process is gone.
    Dead { pid: i32 },
    /// Empty, not a number, a directory, a symlink, another user's process: the text says which.
    Odd(String),
}

/// One entry of inbound/.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InboundEntry {
    pub key: FileKey,
    pub is_dir: bool,
    pub state: InboundState,
}

/// See [`InboundEntry`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum InboundState {
    /// Complete. `endless`: still written to, but taken all the same after ten seconds.
    Settled { endless: bool },
    /// Being written; looks complete at this moment if nothing more happens.
    Settling { until: Timestamp },
    /// Not a request: a FIFO, a socket, a symlink, unreadable; the text says which.
    Odd(String),
}

/// What lies in `.calypso/control`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Controls {
    pub pause_all: bool,
    pub paused: BTreeSet<QueueName>,
    pub held: BTreeSet<RunSubject>,
    pub retry: BTreeSet<RunSubject>,
    pub release: BTreeSet<RunSubject>,
    pub stop: BTreeSet<RunSubject>,
    /// tinytask is the right one, whatever is missing there.
    pub trust_tinytask: bool,
    /// Names that mean nothing, for `status` to show.
    pub odd: Vec<String>,
}

/// Past runs of one subject: verdicts of its own runs, and of others' runs that touched it, oldest first.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct History {
    pub verdicts: Vec<Arc<VerdictRecord>>,
    pub marks: Marks,
    /// Highest run number ever used.
    pub last_run: u32,
}

/// Settings as the core needs them.
#[derive(Debug, Clone)]
pub struct Policy {
    pub max_runs: u32,
    pub max_attempts: u32,
    pub max_runs_per_task: u32,
    pub time_limit: Millis,
    pub quiet_after: Millis,
    pub provider: Option<ProviderName>,
    pub inbound_queue: QueueName,
    /// `missing_folder = "create"`.
    pub create_folders: bool,
    pub queues: BTreeMap<QueueName, QueuePolicy>,
}

/// Settings of one queue.
#[derive(Debug, Clone, Default)]
pub struct QueuePolicy {
    pub concurrency: Option<u32>,
    pub provider: Option<ProviderName>,
    pub time_limit: Option<Millis>,
    /// `command` replaces goose for this queue: it needs no recipe.
    pub has_command: bool,
}

/// What to do, why the rest waits, and when to look again if nothing happens.
#[must_use]
#[derive(Debug, Clone, Default)]
pub struct Decision {
    pub actions: Vec<Action>,
    pub holds: Vec<(Subject, Hold)>,
    /// The earliest of all waits that only time ends.
    pub wake_at: Option<Timestamp>,
    /// And of those of each queue's tasks: only a look that asks for the queue tells them.
    pub wake_queues: BTreeMap<QueueName, Timestamp>,
    /// What each live run means, in the order of `Snapshot::runs`.
    pub meanings: Vec<verdict::Meaning>,
}

/// Who waits.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Subject {
    Everything,
    Queue(QueueName),
    Provider(ProviderName),
    Task(TaskId),
    Inbound(FileKey),
    Run(RunId),
}

/// One deed. Performed in order; what fails is met again by the next look.
#[derive(Debug, Clone, PartialEq)]
pub enum Action {
    Launch(Launch),
    /// End an orphan, or a run whose shim does not answer.
    Stop {
        run: RunDir,
        cause: StopCause,
    },
    /// End what a dead shim's agent left behind.
    Sweep {
        run: RunDir,
        leftovers: Vec<Leftover>,
    },
    /// Ours, and its run is over.
    ClearPidFile {
        run: RunDir,
    },
    /// Somebody's, and the process it names is dead.
    ClearStranger {
        subject: RunSubject,
        inode: u64,
        modified: Timestamp,
    },
    /// A run directory that never got a spec.
    ClearLitter {
        run: RunDir,
    },
    /// Make the verdict durable, then finish it.
    RecordVerdict {
        run: RunDir,
        verdict: Box<VerdictRecord>,
    },
    /// The writes of a durable verdict, its line of history, the end of its live entry.
    FinishVerdict {
        run: RunDir,
        verdict: Box<VerdictRecord>,
    },
    /// `retry` or `release` into marks.json; then the control file goes.
    RecordMark {
        subject: RunSubject,
        mark: Mark,
    },
    /// A `stop` whose run is over.
    ClearStop {
        subject: RunSubject,
    },
    /// working → idle, now that no run of its queue lives: what `run`'s verdict left to the others.
    PutBack {
        task: TaskId,
        run: RunId,
    },
    /// `workqueue/task_{id}/`, with the built-in tinytask only.
    CreateFolder {
        task: TaskId,
    },
}

/// Why a run is ended by the daemon.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StopCause {
    /// A person left a `stop` in control/.
    Asked,
    /// Its time is over.
    TimeLimit,
}

/// See [`Action::RecordMark`].
#[derive(Debug, Clone, PartialEq)]
pub enum Mark {
    Retry { after: u32 },
    Release { processes: Vec<ProcessId> },
}

/// A run to start.
#[derive(Debug, Clone, PartialEq)]
pub struct Launch {
    pub subject: RunSubject,
    pub queue: QueueName,
    pub number: u32,
    pub attempt: u32,
    pub stay: u32,
    pub cause: String,
    pub title: Option<String>,
    /// Inbound runs: what they are to take away.
    pub files: Vec<FileKey>,
    pub provider: Option<ProviderName>,
    pub time_limit: Millis,
}

impl Launch {
    /// Its run directory.
    pub fn dir(&self) -> RunDir {
        RunDir {
            id: RunId {
                subject: self.subject,
                number: self.number,
            },
            queue: self.queue.clone(),
        }
    }
}

/// A reason for nothing to happen, with what a person needs to know. `view` puts it into words.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "hold")]
pub enum Hold {
    // Everything
    TinytaskUnreachable {
        since: Moment,
        error: String,
        hint: Option<String>,
    },
    TinytaskSuspicious {
        vanished: usize,
        of: usize,
    },
    Paused,
    // a queue
    QueuePaused {
        queue: QueueName,
    },
    /// Neutral: a person's queue.
    NoRecipe,
    BrokenRecipe {
        error: String,
    },
    /// The program that is to run cannot be found.
    NoProgram {
        why: String,
    },
    /// Last run failed for a reason that lies in the recipe or the machine.
    Environment {
        reason: String,
        until: Timestamp,
    },
    /// `concurrency` asks for more than a recipe without `task_id` can have.
    NoTaskId {
        asked: u32,
    },
    // a provider
    Provider {
        reason: String,
        until: Timestamp,
        probing: Option<RunId>,
    },
    // a task
    Running {
        run: RunId,
    },
    NoSlot {
        by: Vec<RunId>,
        limit: u32,
    },
    MaxRuns {
        limit: u32,
    },
    BlockedBy {
        task: Option<TaskId>,
    },
    OpenSubtasks {
        open: u32,
    },
    NotAssigned {
        queue_name: Option<Text>,
    },
    AwaitingFiles {
        run: RunId,
    },
    NoFolder,
    BackingOff {
        until: Timestamp,
        attempt: u32,
        of: u32,
        reason: String,
    },
    Parked {
        attempts: u32,
        reason: String,
    },
    TooManyRuns {
        runs: u32,
    },
    LostTooOften {
        runs: u32,
        until: Timestamp,
    },
    StoppedByPerson {
        run: RunId,
    },
    HeldByFile,
    StopAsked,
    /// Its next hop waits for the end of a run that touched it.
    RunNotOver {
        run: RunId,
    },
    /// A run is over, but something of it is alive.
    StillAlive {
        run: RunId,
        leftovers: Vec<Leftover>,
    },
    /// A run's processes cannot be seen by this user.
    Unknown {
        run: RunId,
    },
    /// Written by a newer version, say: what happened so far is not known.
    UnreadableRecords {
        error: String,
    },
    VerdictWaits {
        run: RunId,
    },
    RunningOutside {
        process: ProcessId,
        comm: String,
        since: Timestamp,
        younger: bool,
    },
    OddPidFile {
        what: String,
    },
    WorkingElsewhere,
    // an inbound file
    Settling {
        until: Timestamp,
    },
    OddFile {
        what: String,
    },
    DispatchedNotMoved {
        tasks: Vec<TaskId>,
    },
    FileBackingOff {
        until: Timestamp,
        attempt: u32,
        of: u32,
    },
    FileParked {
        attempts: u32,
        reason: String,
    },
    NoDispatcher {
        queue: QueueName,
    },
    DispatcherNeedsTask {
        queue: QueueName,
    },
}
