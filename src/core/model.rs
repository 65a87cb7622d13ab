//! The nouns: ids, tasks, recipes, runs. Plain data with the few rules that make a value valid.
//!
//! A value that exists is a good one: `TaskId`, `QueueName` and `RunId` parse strictly, so nobody downstream checks again.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

pub use super::text::Text;
pub use super::time::{Millis, Moment, Now, Timestamp};

/// What a person typed, or a file is called, is not a valid id; the text says why.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{what} `{text}` is not valid: {why}")]
pub struct Invalid {
    pub what: &'static str,
    pub text: String,
    pub why: &'static str,
}

/// A task's number in tinytask: 1 or more, at most 2⁶³ − 1 (an SQLite rowid).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "i64", into = "i64")]
pub struct TaskId(i64);

impl TaskId {
    /// The number itself.
    pub fn number(self) -> i64 {
        self.0
    }
}

impl TryFrom<i64> for TaskId {
    type Error = Invalid;
    fn try_from(number: i64) -> Result<Self, Invalid> {
        if number >= 1 {
            Ok(Self(number))
        } else {
            Err(Invalid {
                what: "task",
                text: number.to_string(),
                why: "a task's number is 1 or more",
            })
        }
    }
}

impl From<TaskId> for i64 {
    fn from(id: TaskId) -> Self {
        id.0
    }
}

impl FromStr for TaskId {
    type Err = Invalid;
    /// Decimal digits only, no sign, no leading zero; a leading `#` is allowed, as `status` prints one.
    fn from_str(text: &str) -> Result<Self, Invalid> {
        let invalid = |why| Invalid {
            what: "task",
            text: text.to_owned(),
            why,
        };
        let digits = text.strip_prefix('#').unwrap_or(text);
        if digits.is_empty() || !digits.bytes().all(|b| b.is_ascii_digit()) {
            return Err(invalid("a task is named by its number, such as 42"));
        }
        if digits.starts_with('0') {
            return Err(invalid(
                "a task's number is 1 or more, without leading zeros",
            ));
        }
        digits
            .parse()
            .map(Self)
            .map_err(|_| invalid("a task's number is below 2^63"))
    }
}

impl fmt::Display for TaskId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// A queue's name: 1 to 100 of `[A-Za-z0-9_.-]`, not starting with a dot or a dash, as it becomes part of file names and of an argv.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "Text", into = "Text")]
pub struct QueueName(Text);

impl QueueName {
    /// The name itself.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Why the text names no queue, if it does not.
fn why_no_queue(text: &str) -> Option<&'static str> {
    let is_allowed = |b: u8| b.is_ascii_alphanumeric() || b"_.-".contains(&b);
    if text.is_empty() || text.len() > 100 {
        Some("a queue's name has 1 to 100 characters")
    } else if !text.bytes().all(is_allowed) {
        Some("a queue's name is made of letters, digits, `_`, `.` and `-`")
    } else if text.starts_with(['.', '-']) {
        Some("a queue's name does not start with `.` or `-`")
    } else {
        None
    }
}

impl FromStr for QueueName {
    type Err = Invalid;
    fn from_str(text: &str) -> Result<Self, Invalid> {
        Text::from(text).try_into()
    }
}

impl TryFrom<Text> for QueueName {
    type Error = Invalid;
    fn try_from(text: Text) -> Result<Self, Invalid> {
        match why_no_queue(&text) {
            None => Ok(Self(text)),
            Some(why) => Err(Invalid {
                what: "queue",
                text: text.into(),
                why,
            }),
        }
    }
}

impl From<QueueName> for Text {
    fn from(name: QueueName) -> Self {
        name.0
    }
}

impl fmt::Display for QueueName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

/// A provider's name as goose knows it; `None` in a policy means "goose's own default", which is one provider too.
pub type ProviderName = String;

/// What a run is about: one task, or whatever lies in inbound/.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub enum RunSubject {
    Inbound,
    Task(TaskId),
}

impl RunSubject {
    /// The task, where it is one.
    pub fn task(self) -> Option<TaskId> {
        match self {
            Self::Task(id) => Some(id),
            Self::Inbound => None,
        }
    }
}

impl fmt::Display for RunSubject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Inbound => f.write_str("inbound"),
            Self::Task(id) => write!(f, "{id}"),
        }
    }
}

impl FromStr for RunSubject {
    type Err = Invalid;
    fn from_str(text: &str) -> Result<Self, Invalid> {
        if text == "inbound" {
            Ok(Self::Inbound)
        } else {
            text.parse().map(Self::Task)
        }
    }
}

impl From<RunSubject> for String {
    fn from(subject: RunSubject) -> Self {
        subject.to_string()
    }
}

impl TryFrom<String> for RunSubject {
    type Error = Invalid;
    fn try_from(text: String) -> Result<Self, Invalid> {
        text.parse()
    }
}

/// One run: its subject and its ordinal there. Printed `42/2` or `inbound/7`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct RunId {
    pub subject: RunSubject,
    pub number: u32,
}

impl fmt::Display for RunId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.subject, self.number)
    }
}

impl FromStr for RunId {
    type Err = Invalid;
    fn from_str(text: &str) -> Result<Self, Invalid> {
        let invalid = || Invalid {
            what: "run",
            text: text.to_owned(),
            why: "a run is named like 42/2 or inbound/7",
        };
        let (subject, number) = text.split_once('/').ok_or_else(invalid)?;
        Ok(Self {
            subject: subject.parse()?,
            number: number.parse().map_err(|_| invalid())?,
        })
    }
}

impl From<RunId> for String {
    fn from(id: RunId) -> Self {
        id.to_string()
    }
}

impl TryFrom<String> for RunId {
    type Error = Invalid;
    fn try_from(text: String) -> Result<Self, Invalid> {
        text.parse()
    }
}

/// How a comment names the run it speaks for: `42/2 3f9c`. Numbers begin anew where old runs were forgotten or `.calypso` was
/// removed, and then the first digits of the token tell the two apart; comments of older versions have none.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RunMark {
    pub run: RunId,
    pub token: Option<String>,
}

impl RunMark {
    /// Digits of the token: one run in 65,536 is taken for another of its number.
    const DIGITS: usize = 4;

    /// Of the run with this token; an empty one is not known.
    pub fn new(run: RunId, token: &str) -> Self {
        let digits: String = token.chars().take(Self::DIGITS).collect();
        Self {
            run,
            token: (!digits.is_empty()).then_some(digits),
        }
    }

    /// Each `(run 42/2 3f9c)` or `(run 42/2)` in a comment.
    pub fn all_in(text: &str) -> Vec<Self> {
        text.split("(run ")
            .skip(1)
            .filter_map(|rest| Self::parse(rest.split_once(')')?.0))
            .collect()
    }

    fn parse(text: &str) -> Option<Self> {
        let (run, token) = match text.split_once(' ') {
            Some((run, token)) => (run, Some(token.to_owned())),
            None => (text, None),
        };
        let is_hex = |token: &String| {
            token.len() == Self::DIGITS && token.bytes().all(|b| b.is_ascii_hexdigit())
        };
        let run = run.parse().ok()?;
        (token.as_ref().is_none_or(is_hex)).then_some(Self { run, token })
    }

    /// Do both name the same run, as far as they tell?
    pub fn is_same(&self, other: &Self) -> bool {
        let differ = |(a, b): (&String, &String)| a != b;
        self.run == other.run
            && !self
                .token
                .as_ref()
                .zip(other.token.as_ref())
                .is_some_and(differ)
    }
}

impl fmt::Display for RunMark {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.token {
            Some(token) => write!(f, "{} {token}", self.run),
            None => write!(f, "{}", self.run),
        }
    }
}

/// What tinytask says of a task's progress.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum TaskStatus {
    Idle,
    Working,
    Complete,
}

impl fmt::Display for TaskStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Idle => "idle",
            Self::Working => "working",
            Self::Complete => "complete",
        })
    }
}

/// A task as tinytask showed it in this look.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Task {
    pub id: TaskId,
    pub title: String,
    pub status: TaskStatus,
    /// The agent whose queue it is in; free text, so it need not be a valid queue name.
    pub assigned_to: Option<Text>,
    pub previous_assigned_to: Option<Text>,
    pub created_by: Option<Text>,
    /// May be fractional or negative.
    pub priority: f64,
    pub parent: Option<TaskId>,
    /// v2's label; nobody claims by it.
    pub queue_name: Option<Text>,
    pub blocked_by: Option<TaskId>,
    pub is_blocked: bool,
    /// To the second.
    pub created_at: Timestamp,
    /// To the second; not bumped by comments.
    pub updated_at: Timestamp,
    pub is_archived: bool,
    /// Hash of what a person may change to make a parked task worth another try: title, description, priority, assignee,
    /// tags, blocker. The same for ever and on every machine, as it stands in records.
    pub fields: u64,
}

impl Task {
    /// A task is (id, created_at): the same number with another birth is another task (a restored or deleted database).
    pub fn key(&self) -> TaskKey {
        TaskKey {
            id: self.id,
            created_at: self.created_at.seconds(),
        }
    }
    /// Its queue: the assignee, where that is a valid queue name.
    pub fn queue(&self) -> Option<QueueName> {
        let name = self.assigned_to.as_ref()?;
        why_no_queue(name)
            .is_none()
            .then(|| QueueName(name.clone()))
    }
    /// Not complete and not archived.
    pub fn is_open(&self) -> bool {
        self.status != TaskStatus::Complete && !self.is_archived
    }
}

/// Identity of a task across records.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct TaskKey {
    pub id: TaskId,
    /// Seconds since 1970.
    pub created_at: i64,
}

/// A `get_task` answer, with what only it shows.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[expect(
    clippy::large_enum_variant,
    reason = "few are held at a time, and nearly all are `Found`"
)]
pub enum Detail {
    /// "Task not found": deleted, or never there.
    NotFound,
    Found(FoundDetail),
}

impl Detail {
    /// Is there a task that may still be worked on?
    pub fn is_open(&self) -> bool {
        matches!(self, Self::Found(found) if found.task.is_open())
    }
}

/// See [`Detail`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct FoundDetail {
    pub task: Task,
    /// Highest comment id by anybody but calypso-watch; 0 when there is none.
    pub last_comment: i64,
    /// Of the comments calypso-watch wrote: the run each names, so that none is written twice.
    pub our_comments: Vec<RunMark>,
    /// Subtasks that are not complete and not archived.
    pub open_subtasks: u32,
}

/// A recipe that parsed.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Recipe {
    pub queue: QueueName,
    /// File name below recipes/.
    pub file: String,
    pub title: String,
    /// Parameters it declares, in its order.
    pub parameters: Vec<Parameter>,
    /// `settings.goose_provider`, which goose uses where no `--provider` is given.
    pub provider: Option<ProviderName>,
    /// When the file last changed: an environment failure is forgotten when it does.
    pub modified: Timestamp,
}

impl Recipe {
    /// Does it declare the parameter?
    pub fn declares(&self, key: &str) -> bool {
        self.parameters.iter().any(|p| p.key == key)
    }
    /// Does it demand the parameter?
    pub fn requires(&self, key: &str) -> bool {
        self.parameters
            .iter()
            .any(|p| p.key == key && p.is_required)
    }
}

/// One recipe parameter.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Parameter {
    pub key: String,
    pub is_required: bool,
    pub default: Option<String>,
}

/// A process told apart from any other that ever had its number: `start` is field 22 of /proc/PID/stat, in clock ticks
/// since boot (proc_pid_stat(5)); it compares only within one boot.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct ProcessId {
    pub pid: i32,
    pub start: u64,
}

/// A process that outlived its run, and its name as the kernel knows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Leftover {
    pub process: ProcessId,
    pub comm: String,
}

/// How far the shim says the run has got.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase", tag = "is")]
pub enum RunState {
    Starting,
    Running {
        agent: ProcessId,
    },
    Ended {
        outcome: Outcome,
        leftovers: Vec<Leftover>,
    },
}

/// How a run ended. Never a sentinel number.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    Exited(u8),
    /// By this signal number.
    Signaled(i32),
    TimedOut,
    Stopped(StoppedBy),
    LogLimit,
    /// The agent's first instruction never ran; the text says why.
    NotLaunched(String),
    /// The process is gone and nobody wrote how it ended.
    Lost,
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exited(code) => write!(f, "exit {code}"),
            Self::Signaled(signal) => write!(f, "signal {signal}"),
            Self::TimedOut => f.write_str("timed out"),
            Self::Stopped(by) => write!(f, "stopped by {by}"),
            Self::LogLimit => f.write_str("log limit"),
            Self::NotLaunched(why) => write!(f, "not launched: {why}"),
            Self::Lost => f.write_str("lost"),
        }
    }
}

/// Who stopped a run: the sender of the signal, from signalfd(2), or the owner of the control file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoppedBy {
    pub uid: u32,
    /// Unknown where the wish was a control file.
    pub pid: Option<i32>,
}

impl StoppedBy {
    /// The machine or its container is going down: process 1, or somebody outside this pid namespace (whose number reads 0 in
    /// here, signalfd(2)), ends whatever runs. No person asked for this run's end.
    pub fn is_system(&self) -> bool {
        matches!(self.pid, Some(0 | 1))
    }
}

impl fmt::Display for StoppedBy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_system() {
            return f.write_str("the system, which was going down");
        }
        write!(f, "uid {}", self.uid)
    }
}

/// A file or folder in inbound/, told apart from a later one with the same name.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct FileKey {
    /// The name; bytes that are not UTF-8, and control characters, are shown as `\xNN`, and a backslash as `\\`, so that it is unique and printable.
    pub name: String,
    pub inode: u64,
    /// Milliseconds since 1970.
    pub modified: i64,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn moment(wall: i64, boot_id: &str, boot: u64) -> Moment {
        Moment {
            wall: Timestamp(wall),
            boot_id: boot_id.into(),
            boot: Millis(boot),
        }
    }

    fn now(wall: i64, boot: u64) -> Now {
        Now {
            wall: Timestamp(wall),
            boot_id: "this".into(),
            boot: Millis(boot),
        }
    }

    #[test]
    fn a_wait_that_began_before_a_reboot_with_the_clock_ahead_ends_all_the_same() {
        // The clock was a day ahead, NTP set it right, the machine was started again.
        let began = moment(86_400_000, "the one before", 5_000);
        let span = Millis(30_000);
        assert_eq!(began.left_of(span, &now(1_000, 10_000)), Millis(20_000));
        assert_eq!(began.left_of(span, &now(21_000, 30_000)), Millis(0));
        assert_eq!(began.age(&now(21_000, 30_000)), Millis(30_000));
    }

    #[test]
    fn a_wait_ends_at_the_earlier_of_the_two_clocks() {
        let span = Millis(30_000);
        let same_boot = moment(100_000, "this", 50_000);
        assert_eq!(
            same_boot.left_of(span, &now(110_000, 55_000)),
            Millis(20_000)
        );
        assert_eq!(
            same_boot.left_of(span, &now(-9_000_000, 55_000)),
            Millis(25_000)
        );
        let earlier = moment(100_000, "the one before", 50_000);
        assert_eq!(earlier.left_of(span, &now(110_000, 5_000)), Millis(20_000));
        assert_eq!(earlier.age(&now(110_000, 5_000)), Millis(10_000));
    }

    #[test]
    fn a_run_whose_number_comes_again_is_told_by_its_token() {
        let run: RunId = "42/1".parse().expect("a run");
        let ours = RunMark::new(run, "3f9c0000000000000000000000000000");
        let said =
            format!("calypso-watch parked this task: 3 attempts (run {ours}). Log: x (run x)");
        assert!(said.contains("(run 42/1 3f9c)"), "{said}");
        let [found] = &RunMark::all_in(&said)[..] else {
            panic!("{said}");
        };
        assert!(found.is_same(&ours));
        // The same number, after `.calypso` was removed.
        assert!(!found.is_same(&RunMark::new(run, "77aa0000")));
        // An older version's comment names no token: it is taken for this run's.
        assert!(RunMark::all_in("put back (run 42/1).")[0].is_same(&ours));
        assert!(!RunMark::all_in("put back (run 42/2).")[0].is_same(&ours));
        assert_eq!(RunMark::all_in("(run 42/1 nohex) (run 42/1 3f9c7)"), []);
    }
}
