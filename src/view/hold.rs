//! Why something waits, in words, and the command that lifts it where there is one.

use crate::core::model::{Leftover, Now, QueueName, RunId, RunSubject, Task, TaskId, Timestamp};
use crate::core::verdict::Meaning;
use crate::core::{Hold, Snapshot, Subject};
use crate::view::text::{ago, clean, list, plural, unbroken, wait};

/// Stands for the number of any of several tasks.
const ANY_TASK: &str = "TASK";

/// A hold in words.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Words {
    /// What it waits for, as a phrase without a full stop.
    pub what: String,
    /// What a person may type, or do.
    pub command: Option<String>,
}

impl Words {
    /// Both on one line, for a script.
    pub fn line(&self) -> String {
        match &self.command {
            Some(command) => format!("{} ({command})", self.what),
            None => self.what.clone(),
        }
    }
    /// Both on one line, for a screen: it is not broken within the command.
    pub fn text(&self) -> String {
        match &self.command {
            Some(command) => format!("{} ({})", self.what, unbroken(command)),
            None => self.what.clone(),
        }
    }
}

/// One clear phrase: what `subject` waits for, and in brackets the command that lifts it, where there is one.
pub fn hold_words(seen: &Snapshot, subject: &Subject, hold: &Hold, now: &Now) -> String {
    words(seen, subject, hold, now).line()
}

/// As [`hold_words`], in two parts.
pub fn words(seen: &Snapshot, subject: &Subject, hold: &Hold, now: &Now) -> Words {
    let about = match subject {
        Subject::Task(id) => id.to_string(),
        Subject::Run(run) => run.subject.to_string(),
        Subject::Inbound(_) => "inbound".into(),
        Subject::Everything | Subject::Queue(_) | Subject::Provider(_) => String::new(),
    };
    words_about(seen, subject, &about, hold, now)
}

/// As [`words`], for any of several tasks that wait for the same: `TASK` stands for its number.
pub fn shared_words(seen: &Snapshot, subject: &Subject, hold: &Hold, now: &Now) -> Words {
    match subject {
        Subject::Task(_) => words_about(seen, subject, ANY_TASK, hold, now),
        _ => words(seen, subject, hold, now),
    }
}

/// The words of a hold where each task that has it is told the same; `None` where they name the task, or its queue.
pub(super) fn words_of_all(
    seen: &Snapshot,
    subject: &Subject,
    hold: &Hold,
    now: &Now,
) -> Option<String> {
    let is_of_task = matches!(subject, Subject::Task(_)) && *hold != Hold::NoRecipe;
    let words = is_of_task.then(|| words_about(seen, subject, ANY_TASK, hold, now).line());
    words.filter(|words| !words.contains(ANY_TASK))
}

fn words_about(seen: &Snapshot, subject: &Subject, about: &str, hold: &Hold, now: &Now) -> Words {
    let in_time = |until: &Timestamp| wait(until.since(now.wall));
    let says = |verb: &str| Some(format!("calypso-watch {verb} {about}"));

    let (what, command) = match hold {
        Hold::TinytaskUnreachable { since, error, hint } => (
            format!(
                "tinytask is unreachable since {}: {}; nothing is started until it is back",
                ago(since.age(now)),
                clean(error)
            ),
            hint.clone(),
        ),
        Hold::TinytaskSuspicious { vanished, of } => (
            format!(
                "{vanished} of {of} known tasks vanished from tinytask at once: is it another server, or an old backup? Nothing is \
                 started, judged or written until they are back, or a person says that it is the right one"
            ),
            Some("calypso-watch release tinytask".into()),
        ),
        Hold::Paused => (
            "paused: nothing is started".into(),
            Some("calypso-watch resume".into()),
        ),
        Hold::QueuePaused { queue } => (
            "its queue is paused".into(),
            Some(format!("calypso-watch resume {queue}")),
        ),
        Hold::NoRecipe => {
            let queue = match subject {
                Subject::Queue(queue) => Some(queue.clone()),
                Subject::Task(id) => seen.tasks.get(id).and_then(Task::queue),
                _ => None,
            };
            let name = queue.as_ref().map_or("QUEUE", QueueName::as_str);
            (
                format!("it is a person's queue (no recipes/{name}.yaml)"),
                None,
            )
        }
        Hold::NoProgram { why } => (
            format!("{}; looked for again each minute", clean(why)),
            None,
        ),
        Hold::BrokenRecipe { error } => (
            format!(
                "its recipe cannot be used: {}; read again as soon as it changes",
                clean(error)
            ),
            None,
        ),
        Hold::Environment { reason, until } => (
            format!(
                "the last run could not work: {}; next try in {}, or when the recipe changes",
                clean(reason),
                in_time(until)
            ),
            None,
        ),
        Hold::NoTaskId { asked } => (
            format!("one run at a time, not {asked}: its recipe declares no parameter `task_id`"),
            None,
        ),
        Hold::Provider {
            reason,
            until,
            probing,
        } => {
            let next = match probing {
                Some(run) => format!("run {run} finds out whether that is over"),
                None if until.since(now.wall).0 == 0 => {
                    "one run at a time finds out whether that is over".into()
                }
                None => format!("next try in {}", in_time(until)),
            };
            (
                format!("its provider fails: {}; {next}", clean(reason)),
                None,
            )
        }
        Hold::Running { run } => (format!("run {run} is at it"), None),
        Hold::NoSlot { by, limit: 1 } => (format!("one run at a time, {}", has_slot(by)), None),
        Hold::NoSlot { by, limit } => (format!("{limit} runs at a time, {}", has_slot(by)), None),
        Hold::MaxRuns { limit } => (
            format!(
                "{} at most over all queues (max_runs)",
                plural(*limit as usize, "run")
            ),
            None,
        ),
        Hold::BlockedBy { task: Some(task) } => (format!("blocked by #{task}"), None),
        Hold::BlockedBy { task: None } => ("blocked, says tinytask".into(), None),
        Hold::OpenSubtasks { open } => (
            format!(
                "{} open; it completes with them",
                plural(*open as usize, "subtask")
            ),
            None,
        ),
        Hold::NotAssigned { queue_name: None } => (
            "assigned to nobody".into(),
            Some(format!("calypso-watch task move {about} QUEUE")),
        ),
        Hold::NotAssigned {
            queue_name: Some(name),
        } => (
            format!("in `{}`, but assigned to no agent", clean(name)),
            Some(format!("calypso-watch task move {about} QUEUE")),
        ),
        Hold::AwaitingFiles { run } => (
            format!("run {run} may still be filling workqueue/task_{about}"),
            None,
        ),
        Hold::NoFolder => (
            "its folder is not there".into(),
            Some(format!("mkdir workqueue/task_{about}")),
        ),
        Hold::BackingOff {
            until,
            attempt,
            of,
            reason,
        } => (
            format!(
                "attempt {attempt} of {of} in {}: {}",
                in_time(until),
                clean(reason)
            ),
            None,
        ),
        Hold::Parked { attempts, reason } => (
            format!(
                "parked after {}: {}",
                plural(*attempts as usize, "attempt"),
                clean(reason)
            ),
            says("retry"),
        ),
        Hold::TooManyRuns { runs } => (
            format!(
                "{} without a person's word: is it going in circles?",
                plural(*runs as usize, "run")
            ),
            says("retry"),
        ),
        Hold::LostTooOften { runs, until } => (
            format!(
                "{} within the hour failed through no fault of the task; next in {}",
                plural(*runs as usize, "run"),
                in_time(until)
            ),
            says("retry"),
        ),
        Hold::StoppedByPerson { run } => {
            (format!("run {run} was stopped by a person"), says("retry"))
        }
        Hold::HeldByFile => ("held by a person".into(), says("retry")),
        Hold::StopAsked => ("a stop was asked for and is being carried out".into(), None),
        Hold::RunNotOver { run } => (format!("run {run} touched it and is not over"), None),
        Hold::StillAlive { run, .. } if is_signalled(seen, *run) => (
            format!("the pid file of run {run} was removed, but its agent lives"),
            Some(format!("calypso-watch stop {}", run.subject)),
        ),
        Hold::StillAlive { run, leftovers } => (
            format!("run {run} is over, but {}", still_alive(leftovers)),
            Some(format!("calypso-watch release {}", run.subject)),
        ),
        Hold::Unknown { run } => (
            format!(
                "whether run {run} lives cannot be seen by this user; ask as the one who runs it"
            ),
            None,
        ),
        Hold::UnreadableRecords { error } => {
            (format!("nothing is started: {}", clean(error)), None)
        }
        Hold::VerdictWaits { run } => (
            format!("run {run} is over; what became of it is asked of tinytask first"),
            None,
        ),
        Hold::RunningOutside {
            process,
            comm,
            since,
            younger: false,
        } => (
            format!(
                "{} (pid {}) has it for {}, started by somebody else",
                clean(comm),
                process.pid,
                ago(now.wall.since(*since))
            ),
            None,
        ),
        Hold::RunningOutside {
            process,
            comm,
            since,
            younger: true,
        } => (
            format!(
                "its pid file of {} ago names {} (pid {}), which is younger: perhaps another process with the same number",
                ago(now.wall.since(*since)),
                clean(comm),
                process.pid
            ),
            says("release"),
        ),
        Hold::OddPidFile { what } => (
            format!("odd pid file: {}", clean(what)),
            Some(format!("rm running_tasks/{}", pid_file(subject, about))),
        ),
        Hold::WorkingElsewhere => (
            "`working` in tinytask, but by no run from here".into(),
            says("putback"),
        ),
        Hold::Settling { until } => (
            format!(
                "may still be written to; taken in {} if it stays quiet",
                in_time(until)
            ),
            None,
        ),
        Hold::OddFile { what } => (format!("no request: {}", clean(what)), None),
        Hold::DispatchedNotMoved { tasks } => (
            format!(
                "dispatched but not moved: {}? Move it away, or have it dispatched again",
                tasks_list(tasks)
            ),
            says("retry"),
        ),
        Hold::FileBackingOff { until, attempt, of } => (
            format!("attempt {attempt} of {of} in {}", in_time(until)),
            None,
        ),
        Hold::FileParked { attempts, reason } => (
            format!(
                "left lying by {}: {}",
                plural(*attempts as usize, "run"),
                clean(reason)
            ),
            says("retry"),
        ),
        Hold::NoDispatcher { queue } => (
            format!("no recipes/{queue}.yaml: nobody takes requests"),
            None,
        ),
        Hold::DispatcherNeedsTask { queue } => (
            format!("recipes/{queue}.yaml requires `task_id`, and a request has no task yet"),
            None,
        ),
    };
    Words { what, command }
}

/// Was its pid file removed while its agent lives?
fn is_signalled(seen: &Snapshot, run: RunId) -> bool {
    seen.runs
        .iter()
        .any(|other| other.dir.id == run && other.meaning() == Meaning::SignalledAlive)
}

fn pid_file(subject: &Subject, about: &str) -> String {
    match subject {
        Subject::Task(_) => format!("task_{about}.pid"),
        _ => "inbound.pid".into(),
    }
}

fn has_slot(by: &[RunId]) -> String {
    let names: Vec<String> = by
        .iter()
        .map(|run| match (run.subject, run.number) {
            (RunSubject::Inbound, _) => "inbound".into(),
            (RunSubject::Task(id), 0) => format!("#{id} (not started from here)"),
            (RunSubject::Task(id), _) => format!("#{id}"),
        })
        .collect();
    let verb = if by.len() == 1 {
        "has the slot"
    } else {
        "have them"
    };
    format!("{} {verb}", list(&names, 4))
}

fn tasks_list(tasks: &[TaskId]) -> String {
    list(
        &tasks.iter().map(|id| format!("#{id}")).collect::<Vec<_>>(),
        4,
    )
}

/// `node (pid 77) lives`.
pub fn still_alive(leftovers: &[Leftover]) -> String {
    let names: Vec<String> = leftovers
        .iter()
        .map(|l| format!("{} (pid {})", clean(&l.comm), l.process.pid))
        .collect();
    match names.len() {
        0 => "something of it lives".into(),
        1 => format!("{} of it lives", names[0]),
        _ => format!("{} of it live", list(&names, 3)),
    }
}

#[cfg(test)]
mod tests;
